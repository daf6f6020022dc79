"""Lesson 03, losses: entropy, soft cross-entropy, KL divergence and the gradient they share.

The expected values come from the float64 formulas below, not from ``distill_lab.losses``, so that
a check stands on its own. Lesson 04 uses the same formulas and the same shared contracts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill_lab import losses
from distill_lab.exercises.contracts import (
    ABSOLUTE_TOLERANCE,
    Answer,
    Broken,
    Contract,
    Drawn,
    Inputs,
    compare,
    draw,
    expect,
    nothing_changes,
    require,
)
from distill_lab.exercises.registry import Exercise, Lesson

SIZES = ((1, 2), (2, 3), (4, 5))
"""Rows and classes, from the smallest that can be read at a glance."""

# --- The float64 formulas ------------------------------------------------------------------------


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Give log softmax(logits / T) over the last axis, in float64."""
    scaled = logits.double() / temperature
    return scaled - scaled.logsumexp(-1, keepdim=True)


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Give softmax(logits / T) over the last axis, in float64."""
    return log_probabilities(logits, temperature).exp()


def cross_entropy_rows(
    student: Tensor,
    teacher: Tensor,
    student_temperature: float = 1.0,
    teacher_temperature: float | None = None,
) -> Tensor:
    """Give −Σ p_teacher log p_student of each row; the teacher's T is the student's unless given.

    A T of its own is what an answer has that divides one side only.
    """
    if teacher_temperature is None:
        teacher_temperature = student_temperature
    log_q = log_probabilities(student, student_temperature)
    return -(probabilities(teacher, teacher_temperature) * log_q).sum(-1)


def entropy_rows(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Give −Σ p log p of each row."""
    return cross_entropy_rows(logits, logits, temperature)


def kl_rows(
    student: Tensor,
    teacher: Tensor,
    student_temperature: float = 1.0,
    teacher_temperature: float | None = None,
) -> Tensor:
    """Give KL(teacher ‖ student) of each row, as cross-entropy less the teacher's entropy."""
    if teacher_temperature is None:
        teacher_temperature = student_temperature
    cross = cross_entropy_rows(student, teacher, student_temperature, teacher_temperature)
    return cross - entropy_rows(teacher, teacher_temperature)


def over_the_batch(logits: Tensor) -> Tensor:
    """Give log-probabilities of a softmax that runs over the batch, the wrong axis."""
    return log_probabilities(logits.transpose(0, -1)).transpose(0, -1)


# --- What contracts share ------------------------------------------------------------------------


SHIFT_TOLERANCE = 5e-5
"""float32 steps by 1.5e-5 near 160, the largest of ``shifts``; a mistake there is NaN or whole."""

LARGE_TOLERANCE = 1e-3
"""float32 steps by 1e-3 near 10,000, so z − logsumexp(z) is no closer; a mistake there is NaN."""


def pair(generator: torch.Generator, *shape: int, scale: float = 1.5) -> Inputs:
    """Draw logits of a student and of a teacher."""
    return {
        "student_logits": draw(generator, *shape, scale=scale),
        "teacher_logits": draw(generator, *shape, scale=scale),
    }


def eighths(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw multiples of 1/8: float32 adds whole numbers to them without rounding."""
    return (draw(generator, *shape, scale=1.5) * 8).round() / 8


def shifts(rows: int) -> Tensor:
    """Give one constant a row, `[rows, 1]`, large enough for exp to overflow in float32."""
    return torch.tensor([100.0, -120.0, 7.0, 160.0])[torch.arange(rows) % 4, None]


def expect_mean(
    answer: Answer,
    rows: Tensor,
    reason: str,
    *,
    classes: int,
    unlike: Mapping[str, Any] | None = None,
    atol: float = ABSOLUTE_TOLERANCE,
    **inputs: Any,
) -> None:
    """Expect the mean of the rows' values as one number, and name a wrong reduction.

    Raises:
        Broken: It differs.
    """
    value, expected = answer(**inputs), rows.mean().float()
    if isinstance(value, int | float):
        raise Broken(
            "it gives a plain number; expected a tensor that holds one: training needs the graph "
            "behind it, which .item() and float() cut off.",
            inputs=inputs,
            expected=expected,
            actual=value,
        )
    if isinstance(value, Tensor) and value.ndim:
        raise Broken(
            f"it gives a tensor of shape {list(value.shape)}; expected one number: "
            "sum over the classes of each row, then take the mean over the rows.",
            inputs=inputs,
            expected=expected,
            actual=value,
        )
    reductions = {
        "this is the sum over the rows: divide by the number of rows, so that the loss does not "
        "grow with the batch.": rows.sum(),
        f"this is {classes} times too small, and there are {classes} classes: the mean runs over "
        "the classes too. Sum over the classes, then take the mean over the rows (in F.kl_div that "
        "is reduction='batchmean', not 'mean').": rows.mean() / classes,
        "the sign is the wrong way round.": -rows.mean(),
        "this is in bits (log to the base 2); expected nats (torch.log).": rows.mean()
        / math.log(2),
    }
    unlike = {**(unlike or {}), **reductions}
    compare(value, expected, reason, unlike=unlike, atol=atol, inputs=inputs)


inputs_unchanged = partial(
    nothing_changes,
    reason="it changes {changed} in place: the caller's tensor has other values after the call. "
    "Make a new tensor: x = x / T rather than x /= T or x.div_(T).",
    hints=(
        "Look for an operator that writes into a tensor it was given: /=, -=, x[...] = …, or a "
        "method whose name ends in an underscore.",
        "Write logits = logits / temperature: it makes a new tensor, the old one stays.",
    ),
)


def no_gradient_to_the_teacher(drawn: Drawn) -> Contract:
    """Make the contract that the student's logits get a gradient and the teacher's none.

    Worth nothing: that there is none, a judge elsewhere would have to believe.
    """

    def holds(answer: Answer, generator: torch.Generator) -> None:
        inputs = drawn(generator)
        require_sleeping_teacher(answer, inputs)

    return Contract(
        id="no_gradient_to_the_teacher",
        law="No gradient reaches the teacher's logits",
        points=0,
        holds=holds,
        hints=(
            "The teacher is a fixed target. If a gradient flows into it, training can lower the "
            "loss by making the teacher worse.",
            "A tensor leaves the graph with .detach(). Use it on the teacher's logits only.",
            "First line: teacher_logits = teacher_logits.detach()",
        ),
    )


def require_sleeping_teacher(answer: Answer, inputs: Mapping[str, Any]) -> None:
    """Require a gradient in the student's logits and none in the teacher's.

    Raises:
        Broken: It is otherwise.
    """
    gradients = answer.gradients("student_logits", "teacher_logits", **inputs)
    require_student(gradients, inputs)
    reached = gradients["teacher_logits"]
    require(
        reached is None or not bool(reached.any()),
        "a gradient reaches the teacher's logits: training would move the target too. Cut them "
        "off with teacher_logits.detach().",
        inputs=inputs,
        expected=None if reached is None else torch.zeros_like(reached),
        actual=reached,
    )


def require_student(gradients: Mapping[str, Tensor | None], inputs: Mapping[str, Any]) -> Tensor:
    """Give the gradient in the student's logits.

    Raises:
        Broken: There is none.
    """
    gradient = gradients["student_logits"]
    if gradient is None:
        raise Broken(
            "no gradient reaches the student's logits, so the student cannot learn: detach the "
            "teacher's logits, never the student's.",
            inputs=inputs,
        )
    return gradient


def _split(answer: Answer, drawn: Callable[[int], Inputs]) -> None:
    for first, second in ((1, 2), (4, 1)):
        rows = first + second
        inputs = drawn(rows)
        head = answer(**{name: x[:first] for name, x in inputs.items()})
        tail = answer(**{name: x[first:] for name, x in inputs.items()})
        # Before they are added: two shapes can make a third that fills the memory.
        require(
            all(isinstance(x, Tensor) and x.ndim == 0 for x in (head, tail)),
            "for a part of the rows it does not give one number in a tensor.",
            inputs=inputs,
        )
        expect(
            answer,
            (first * head + second * tail) / rows,
            f"the value of {rows} rows is not the mean of that of the first {first} and that of "
            f"the last {second}, weighted by their numbers of rows: each row counts once, whatever "
            "the other rows are.",
            **inputs,
        )


LOG_SPACE_HINTS = (
    "Far from 0 a softmax gives exact zeros in float32, and log(0) is −inf. A log that never goes "
    "through the probability has no such trouble.",
    "log softmax(z) = z − logsumexp(z), which stays exact for large z.",
    "Use torch.nn.functional.log_softmax(logits / temperature, dim=-1), and .exp() of it where "
    "you need probabilities. No epsilon, no clamp.",
)

FAR_APART = (
    torch.tensor([[-1e4, 1e4]]),
    torch.tensor([[1e4, -1e4]]),
)
"""A student and a teacher who are both certain, of different classes."""


def capped(factor: float = 1.0) -> dict[str, float]:
    """Give what FAR_APART comes to where an epsilon is added to (or clamps) the probability."""
    return {
        f"this is −log({epsilon:g}){'' if factor == 1 else f' times {factor:g}'}: an epsilon or a "
        "clamp under the log caps the loss, and where it caps there is no gradient. Work with "
        "log_softmax instead.": -factor * math.log(epsilon)
        for epsilon in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-20, 1e-30)
    }


# --- entropy -------------------------------------------------------------------------------------


def _entropy_definition(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        logits = draw(generator, rows, classes, scale=1.5)
        log_p, wrong_axis = log_probabilities(logits), over_the_batch(logits)
        expect_mean(
            answer,
            entropy_rows(logits),
            "it is not the mean over the rows of −Σ p log p with p = softmax(logits).",
            classes=classes,
            unlike={
                "this is −Σ log p: weigh each log p by its p before the sum.": -log_p.sum(
                    -1
                ).mean(),
                "this is −Σ z p with the bare logits z: the log of the softmax is needed, "
                "log p = z − logsumexp(z).": -(log_p.exp() * logits).sum(-1).mean(),
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": -(wrong_axis.exp() * wrong_axis).sum(-1).mean(),
            },
            logits=logits,
        )


def _entropy_uniform(answer: Answer, generator: torch.Generator) -> None:
    for classes in (2, 3, 7):
        expect_mean(
            answer,
            torch.full((2,), math.log(classes), dtype=torch.float64),
            f"equal logits make {classes} equal probabilities, and their entropy is "
            f"log {classes} nats, the largest that {classes} classes can have.",
            classes=classes,
            logits=draw(generator, 2, 1).expand(2, classes).clone(),
        )


def _entropy_temperature(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (3.0, 0.5, 1.7), strict=True):
        logits, plain = draw(generator, rows, classes, scale=1.5), entropy_rows
        expect_mean(
            answer,
            plain(logits, temperature),
            f"at T = {temperature:g} it is not the entropy of softmax(logits / T): divide the "
            "logits by T before the softmax, and change nothing else.",
            classes=classes,
            unlike={
                "the temperature has no effect: p = softmax(logits / T).": plain(logits).mean(),
                "the logits are multiplied by T; divide them: a high T makes p flatter.": plain(
                    logits, 1 / temperature
                ).mean(),
                "the entropy itself is divided by T: divide the logits instead, before the "
                "softmax.": plain(logits).mean() / temperature,
                "the entropy is multiplied by T: T only divides the logits.": temperature
                * plain(logits, temperature).mean(),
                "the entropy is multiplied by T²: that factor belongs to the distillation loss, "
                "not to the entropy.": temperature**2 * plain(logits, temperature).mean(),
            },
            logits=logits,
            temperature=temperature,
        )


def _entropy_shift(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        logits = eighths(generator, rows, classes)
        expect_mean(
            answer,
            entropy_rows(logits),
            "a constant added to all logits of a row cancels in the softmax, so the entropy must "
            "stay. exp(100) is already infinite in float32: use log_softmax, which subtracts the "
            "largest logit first.",
            classes=classes,
            atol=SHIFT_TOLERANCE,
            logits=logits + shifts(rows),
        )


def _entropy_finite(answer: Answer, generator: torch.Generator) -> None:
    for rows in ([[1e4, -1e4]], [[1e4, 1e4, -1e4]], [[-1e4, 0.0, 1e4], [1e4, 1e4, 1e4]]):
        logits = torch.tensor(rows)
        expect_mean(
            answer,
            entropy_rows(logits),
            "a probability of 0 adds nothing to the entropy, but softmax(z).log() is −inf there "
            "and 0 · (−inf) is NaN. log_softmax stays finite.",
            classes=logits.shape[-1],
            atol=LARGE_TOLERANCE,
            logits=logits,
        )


def _entropy_split(answer: Answer, generator: torch.Generator) -> None:
    _split(answer, lambda rows: {"logits": draw(generator, rows, 3)})


ENTROPY = Exercise(
    id="entropy",
    title="Entropy of a softmax",
    minutes=10,
    difficulty=1,
    reference=losses.entropy,
    parameters="logits, temperature=1.0",
    may_call="anything in torch and torch.nn.functional (F.log_softmax is the useful one)",
    contracts=(
        Contract(
            id="definition",
            law="−Σ p log p over the classes in nats, then the mean over the rows",
            points=0.5,
            holds=_entropy_definition,
            hints=(
                "Three steps: log p from the logits, the sum over the classes (the last axis), "
                "the mean over the rows.",
                "log_p = torch.nn.functional.log_softmax(logits, dim=-1) and p = log_p.exp()",
                "return -(log_p.exp() * log_p).sum(-1).mean()",
            ),
        ),
        Contract(
            id="uniform_is_log_classes",
            law="Equal logits have the entropy log N for N classes",
            points=0.25,
            holds=_entropy_uniform,
            hints=(
                "With N equal probabilities each is 1/N, and the sum of N terms (1/N) log N is "
                "log N.",
                "The natural log gives nats: torch.log, not torch.log2. Do not divide by log N.",
            ),
        ),
        Contract(
            id="temperature",
            law="T divides the logits before the softmax, and nothing else",
            points=0.5,
            holds=_entropy_temperature,
            hints=(
                "p = softmax(z / T). T stands in one place only.",
                "log_p = torch.nn.functional.log_softmax(logits / temperature, dim=-1)",
            ),
        ),
        Contract(
            id="constant_added",
            law="Adding a constant to a row's logits changes nothing",
            points=0.25,
            holds=_entropy_shift,
            hints=(
                "exp(z + c) / Σ exp(z + c) = exp(z) / Σ exp(z) on paper. In float32, exp(z + c) "
                "overflows above about 88.",
                "log_softmax(z) subtracts the row's largest logit before exp: use it.",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_entropy_finite,
            hints=LOG_SPACE_HINTS,
        ),
        Contract(
            id="split_batch",
            law="Splitting a batch changes nothing, once weighted by rows",
            points=0.25,
            holds=_entropy_split,
            hints=(
                "A mean over rows has the number of rows below, and no other number.",
                "Sum over dim=-1 first, then .mean() over what is left.",
            ),
        ),
        inputs_unchanged(lambda g: {"logits": draw(g, 2, 3), "temperature": 2.0}),
    ),
)

# --- soft_cross_entropy --------------------------------------------------------------------------


def _temperature_mistakes(
    rows: Callable[..., Tensor], student: Tensor, teacher: Tensor, temperature: float
) -> dict[str, Tensor]:
    right = rows(student, teacher, temperature).mean()
    return {
        "the temperature has no effect: divide both logits by T before the softmax.": rows(
            student, teacher
        ).mean(),
        "T divides the student's logits only: the teacher's are divided by the same T.": rows(
            student, teacher, temperature, 1.0
        ).mean(),
        "T divides the teacher's logits only: the student's are divided by the same T.": rows(
            student, teacher, 1.0, temperature
        ).mean(),
        "the logits are multiplied by T; divide them: a high T makes p flatter.": rows(
            student, teacher, 1 / temperature
        ).mean(),
        "T² is there, where it must not be: this loss goes without it. The distillation loss of "
        "lesson 04 multiplies by T² itself, and twice would be T⁴.": temperature**2 * right,
        "the value is multiplied by T: T only divides the logits.": temperature * right,
    }


def _soft_cross_entropy_definition(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = pair(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        p, log_q = probabilities(teacher), log_probabilities(student)
        wrong_axis = -(over_the_batch(teacher).exp() * over_the_batch(student)).sum(-1)
        expect_mean(
            answer,
            cross_entropy_rows(student, teacher),
            "it is not the mean over the rows of −Σ p_teacher log p_student.",
            classes=classes,
            unlike={
                "the roles are swapped, this is −Σ p_student log p_teacher: the teacher's "
                "probabilities weigh the sum, the log is the student's.": cross_entropy_rows(
                    teacher, student
                ).mean(),
                "this is KL(teacher ‖ student): the teacher's entropy has been subtracted. "
                "Cross-entropy keeps it.": kl_rows(student, teacher).mean(),
                "this is the student's own entropy: weigh log p_student by the teacher's "
                "probabilities.": entropy_rows(student).mean(),
                "this is the teacher's own entropy: the log is of the student's "
                "probabilities.": entropy_rows(teacher).mean(),
                "the teacher's largest class alone is the target (argmax): a soft target uses "
                "all of the teacher's probabilities.": -log_q.gather(
                    -1, p.argmax(-1, keepdim=True)
                ).mean(),
                "the teacher's bare logits weigh the sum: turn them into probabilities with a "
                "softmax.": -(teacher.double() * log_q).sum(-1).mean(),
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": wrong_axis.mean(),
            },
            **inputs,
        )


def _soft_cross_entropy_temperature(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (3.0, 0.5, 1.7), strict=True):
        inputs = pair(generator, rows, classes)
        logits = (inputs["student_logits"], inputs["teacher_logits"])
        expect_mean(
            answer,
            cross_entropy_rows(*logits, temperature),
            f"at T = {temperature:g} both sides are softmax(logits / T), and nothing else changes.",
            classes=classes,
            unlike=_temperature_mistakes(cross_entropy_rows, *logits, temperature),
            **inputs,
            temperature=temperature,
        )


def _soft_cross_entropy_equal(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        teacher = draw(generator, rows, classes, scale=1.5)
        expect_mean(
            answer,
            entropy_rows(teacher, 1.5),
            "for a student equal to its teacher the cross-entropy is the teacher's entropy.",
            classes=classes,
            unlike={
                "it gives 0 for a student equal to its teacher: that is KL's law. The least "
                "value of cross-entropy is the teacher's entropy, which is not 0.": 0.0,
            },
            student_logits=teacher,
            teacher_logits=teacher,
            temperature=1.5,
        )


def _soft_cross_entropy_shift(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        student, teacher = eighths(generator, rows, classes), eighths(generator, rows, classes)
        expect_mean(
            answer,
            cross_entropy_rows(student, teacher),
            "a constant added to all logits of a row cancels in the softmax, so nothing must "
            "change. exp(100) is already infinite in float32: use log_softmax, which subtracts "
            "the largest logit first.",
            classes=classes,
            atol=SHIFT_TOLERANCE,
            student_logits=student + shifts(rows),
            teacher_logits=teacher - shifts(rows),
        )


def _far_apart_finite(answer: Answer, generator: torch.Generator) -> None:
    student, teacher = FAR_APART
    reason = (
        "where a probability underflows to 0 its log is −inf, and 0 · (−inf) is NaN. "
        "log_softmax stays finite: a student certain of the wrong class costs the gap of its "
        "logits."
    )
    pairs = ((student, teacher), (torch.cat([student, teacher]), torch.cat([teacher, teacher])))
    for ours, theirs in pairs:
        expect_mean(
            answer,
            # The entropy of a certain teacher is 0, so cross-entropy and KL are the same here.
            cross_entropy_rows(ours, theirs),
            reason,
            classes=2,
            unlike=capped(),
            student_logits=ours,
            teacher_logits=theirs,
        )


def _row_gradient(
    student: Tensor, teacher: Tensor, temperature: float, rows: int | Tensor
) -> Tensor:
    difference = probabilities(student, temperature) - probabilities(teacher, temperature)
    return difference / (temperature * rows)


def _gradient_of_the_mean(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (1.0, 2.0, 0.7), strict=True):
        inputs = {**pair(generator, rows, classes), "temperature": temperature}
        gradients = answer.gradients("student_logits", **inputs)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        compare(
            require_student(gradients, inputs),
            _row_gradient(student, teacher, temperature, rows).float(),
            "autograd's gradient in the student's logits should be (p_student − p_teacher) / "
            "(T · rows): some part of the computation does not let the gradient through.",
            inputs=inputs,
        )


SOFT_CROSS_ENTROPY = Exercise(
    id="soft_cross_entropy",
    title="Cross-entropy with soft targets",
    minutes=10,
    difficulty=2,
    reference=losses.soft_cross_entropy,
    parameters="student_logits, teacher_logits, temperature=1.0",
    may_call="anything in torch and torch.nn.functional",
    contracts=(
        Contract(
            id="definition",
            law="−Σ p_teacher log p_student in nats, then the mean over the rows",
            points=0.75,
            holds=_soft_cross_entropy_definition,
            hints=(
                "The teacher says how often each class comes, the student's log says what each "
                "costs: the teacher's p weighs, the student's p is under the log.",
                "log_q = F.log_softmax(student_logits, dim=-1) and p = F.softmax(teacher_logits, "
                "dim=-1)",
                "return -(p * log_q).sum(-1).mean()",
            ),
        ),
        Contract(
            id="temperature",
            law="The same T divides both logits; no factor T²",
            points=0.5,
            holds=_soft_cross_entropy_temperature,
            hints=(
                "T softens both distributions, so it divides the logits on both sides.",
                "F.log_softmax(student_logits / temperature, dim=-1), and the same for the "
                "teacher. Do not multiply the result by anything.",
            ),
        ),
        Contract(
            id="entropy_for_equal",
            law="For a student equal to its teacher it is the teacher's entropy, not 0",
            points=0.25,
            holds=_soft_cross_entropy_equal,
            hints=(
                "CE = H(teacher) + KL. For equal distributions KL is 0 and the entropy is left.",
                "Nothing is subtracted: only −(p * log_q).",
            ),
        ),
        Contract(
            id="constant_added",
            law="Adding a constant to a row's logits changes nothing",
            points=0.25,
            holds=_soft_cross_entropy_shift,
            hints=(
                "exp(z + c) / Σ exp(z + c) = exp(z) / Σ exp(z) on paper. In float32, exp(z + c) "
                "overflows above about 88.",
                "F.softmax and F.log_softmax subtract the row's largest logit before exp: use "
                "them rather than exp of your own.",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_far_apart_finite,
            hints=LOG_SPACE_HINTS,
        ),
        inputs_unchanged(lambda g: {**pair(g, 2, 3), "temperature": 2.0}),
        Contract(
            id="gradient",
            law="The student's gradient is (p_student − p_teacher) / (T · rows)",
            points=1,
            holds=_gradient_of_the_mean,
            hints=(
                "Training needs the graph from the value back to the student's logits.",
                "Do not use .item(), .detach(), .data or torch.no_grad() on the student's side, "
                "and return the tensor itself.",
            ),
        ),
        no_gradient_to_the_teacher(lambda g: {**pair(g, 2, 3), "temperature": 2.0}),
    ),
)

# --- kl_divergence -------------------------------------------------------------------------------


def _kl_definition(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = pair(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        p, q = probabilities(teacher), probabilities(student)
        log_p, log_q = p.log(), q.log()
        axis_p, axis_q = over_the_batch(teacher), over_the_batch(student)
        forward, backward = kl_rows(student, teacher).mean(), kl_rows(teacher, student).mean()
        value = answer(**inputs)
        require(
            not (isinstance(value, Tensor) and bool(value.isnan().any())),
            "the value is NaN for harmless logits. F.kl_div takes its target as probabilities and "
            "its log itself; the log of a log-probability, which is negative, is NaN. Give it "
            "probabilities, or log-probabilities with log_target=True.",
            inputs=inputs,
            expected=kl_rows(student, teacher).mean().float(),
            actual=value,
        )
        expect_mean(
            answer,
            kl_rows(student, teacher),
            "it is not the mean over the rows of Σ p_teacher (log p_teacher − log p_student).",
            classes=classes,
            unlike={
                "this is KL(student ‖ teacher): the teacher's probabilities weigh the sum, not the "
                "student's. (F.kl_div takes the student's log-probabilities first.)": kl_rows(
                    teacher, student
                ).mean(),
                "this is the cross-entropy: subtract the teacher's entropy, "
                "KL = CE − H(teacher).": cross_entropy_rows(student, teacher).mean(),
                "this is the mean of KL both ways: only KL(teacher ‖ student) is asked for.": (
                    (forward + backward) / 2
                ),
                "this is the sum of KL both ways: only KL(teacher ‖ student) is asked for.": (
                    forward + backward
                ),
                "F.kl_div was given the student's probabilities: its first argument is "
                "log-probabilities (log_softmax).": (p * (log_p - q)).sum(-1).mean(),
                "F.kl_div was given the student's bare logits: its first argument is "
                "log-probabilities (log_softmax).": (p * (log_p - student)).sum(-1).mean(),
                "the difference of logs is not weighed: multiply it by p_teacher before the sum.": (
                    log_p - log_q
                )
                .sum(-1)
                .mean(),
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": (axis_p.exp() * (axis_p - axis_q)).sum(-1).mean(),
            },
            **inputs,
        )


def _kl_zero(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (1.0, 2.5, 0.7), strict=True):
        teacher = eighths(generator, rows, classes)
        for student in (teacher, teacher + shifts(rows)):
            expect(
                answer,
                torch.tensor(0.0),
                "KL of a distribution with itself is 0; logits that differ by a constant in a row "
                "are the same distribution.",
                unlike={
                    "T divides one side only, so equal logits are no longer equal probabilities: "
                    "divide both by the same T.": kl_rows(
                        student, teacher, temperature, 1.0
                    ).mean(),
                    "T divides one side only: divide the logits of both by the same T.": kl_rows(
                        student, teacher, 1.0, temperature
                    ).mean(),
                    "it gives the teacher's entropy: that is the cross-entropy's least value, "
                    "KL's is 0.": entropy_rows(teacher, temperature).mean(),
                },
                atol=SHIFT_TOLERANCE,
                student_logits=student,
                teacher_logits=teacher,
                temperature=temperature,
            )


def _kl_temperature(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (3.0, 0.5, 1.7), strict=True):
        inputs = pair(generator, rows, classes)
        logits = (inputs["student_logits"], inputs["teacher_logits"])
        expect_mean(
            answer,
            kl_rows(*logits, temperature),
            f"at T = {temperature:g} both sides are softmax(logits / T), and nothing else changes.",
            classes=classes,
            unlike=_temperature_mistakes(kl_rows, *logits, temperature),
            **inputs,
            temperature=temperature,
        )


# Each with a row that does not count; texts of different length, so that a mean of the texts'
# means is seen.
MASKS = (
    torch.tensor([True, False, True]),
    torch.tensor([[True, True, True, False], [True, False, False, False]]),
)


def _kl_masked(answer: Answer, generator: torch.Generator) -> None:
    for mask in MASKS:
        inputs = pair(generator, *mask.shape, 3)
        rows = kl_rows(inputs["student_logits"], inputs["teacher_logits"])
        kept = torch.where(mask, rows, 0)
        unlike = {
            "the mask has no effect: masked rows still count.": rows.mean(),
            "the mask is read upside down: true means that a row counts.": rows[~mask].mean(),
            "the masked rows are blank but still counted: divide by the number of unmasked rows, "
            "mask.sum().": kept.mean(),
            "the sum is not divided by the number of unmasked rows.": kept.sum(),
        }
        if mask.ndim == 2:
            unlike |= {
                "this divides by the number of texts, not of tokens: F.kl_div's 'batchmean' "
                "divides by the first axis only. Divide by mask.sum().": kept.sum() / mask.shape[0],
                "each text's mean is taken first, so a token of a short text weighs more: take "
                "one mean over all unmasked tokens.": (kept.sum(-1) / mask.sum(-1)).mean(),
            }
        # The values of a broken reduction are told apart here; NaN would hide them.
        expect_mean(
            answer,
            rows[mask],
            "it is not the mean over the unmasked rows (true = the row counts).",
            classes=3,
            unlike=unlike,
            **inputs,
            mask=mask,
        )
        for padding in (1e30, math.inf, math.nan):
            expect_mean(
                answer,
                rows[mask],
                f"{padding:g} stands under the mask and reaches the value: 0 · NaN is NaN, so a "
                "product with the mask does not drop a row. Select the rows with logits[mask].",
                classes=3,
                **_padded(inputs, mask, padding),
                mask=mask,
            )


def _padded(inputs: Inputs, mask: Tensor, padding: float) -> Inputs:
    return {name: torch.where(mask[..., None], x, padding) for name, x in inputs.items()}


def _kl_gradient(answer: Answer, generator: torch.Generator) -> None:
    _gradient_of_the_mean(answer, generator)
    for mask in MASKS:
        clean = pair(generator, *mask.shape, 3)
        student, teacher = clean["student_logits"], clean["teacher_logits"]
        expected = torch.where(
            mask[..., None], _row_gradient(student, teacher, 2.0, mask.sum()), 0
        ).float()
        for padding in (0.0, math.nan):
            inputs = {**_padded(clean, mask, padding), "temperature": 2.0, "mask": mask}
            gradient = require_student(answer.gradients("student_logits", **inputs), inputs)
            compare(
                gradient,
                expected,
                "masked rows must get a gradient of 0, whatever stands there. If the mask comes "
                "after the softmax, the backward pass multiplies 0 by NaN: drop the masked rows "
                "before the softmax, with logits[mask].",
                inputs=inputs,
            )


def split_holds(answer: Answer, generator: torch.Generator) -> None:
    """Require that a batch split in two gives the same, weighted by rows, for pairs of logits."""
    _split(answer, lambda rows: pair(generator, rows, 3))


KL_DIVERGENCE = Exercise(
    id="kl_divergence",
    title="KL divergence from teacher to student",
    minutes=15,
    difficulty=3,
    reference=losses.kl_divergence,
    parameters="student_logits, teacher_logits, temperature=1.0, *, mask=None",
    may_call="anything in torch and torch.nn.functional, F.kl_div too",
    contracts=(
        Contract(
            id="definition",
            law="CE = H + KL, so KL is Σ p_teacher (log p_teacher − log p_student), mean over rows",
            points=1,
            holds=_kl_definition,
            hints=(
                "The teacher's probabilities weigh the difference of the logs, log p_teacher less "
                "log p_student. Sum over classes, mean over rows.",
                "log_p = F.log_softmax(teacher_logits, dim=-1), log_q = F.log_softmax("
                "student_logits, dim=-1); the rows are (log_p.exp() * (log_p - log_q)).sum(-1).",
                "The same by F.kl_div: F.kl_div(log_q, log_p, reduction='batchmean', "
                "log_target=True). The student comes first there.",
            ),
        ),
        Contract(
            id="zero_for_equal",
            law="KL(p ‖ p) = 0, at every T",
            points=0.5,
            holds=_kl_zero,
            hints=(
                "When both sides are equal every difference of logs is 0.",
                "Treat both sides alike: the same T, the same log_softmax, the same axis.",
            ),
        ),
        Contract(
            id="temperature",
            law="The same T divides both logits; no factor T²",
            points=0.5,
            holds=_kl_temperature,
            hints=(
                "T softens both distributions, so it divides the logits on both sides. The factor "
                "T² belongs to the distillation loss of lesson 04.",
                "F.log_softmax(student_logits / temperature, dim=-1), and the same for the "
                "teacher. Do not multiply the result by anything.",
            ),
        ),
        Contract(
            id="masked_rows",
            law="Masked rows change nothing, be they NaN; the mean runs over unmasked rows",
            points=0.75,
            holds=_kl_masked,
            hints=(
                "A row that does not count must leave both the sum and the number below it.",
                "x[mask] with a bool mask of shape [batch] or [batch, tokens] keeps the unmasked "
                "rows, as [rows, classes].",
                "First lines: if mask is not None: student_logits, teacher_logits = "
                "student_logits[mask], teacher_logits[mask]",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_far_apart_finite,
            hints=(
                *LOG_SPACE_HINTS[:2],
                "Use F.log_softmax on both sides; p_teacher is .exp() of the teacher's. With "
                "F.kl_div: log_target=True.",
            ),
        ),
        Contract(
            id="split_batch",
            law="Splitting a batch changes nothing, once weighted by rows",
            points=0.25,
            holds=split_holds,
            hints=(
                "A mean over rows has the number of rows below, and no other number.",
                "Sum over dim=-1 first, then .mean() over what is left; or 'batchmean' on "
                "[rows, classes].",
            ),
        ),
        inputs_unchanged(
            lambda g: {
                **pair(g, 3, 2),
                "temperature": 2.0,
                "mask": torch.tensor([True, False, True]),
            }
        ),
        Contract(
            id="gradient",
            law="The student's gradient is (p_student − p_teacher) / (T · rows), 0 if masked",
            points=0.75,
            holds=_kl_gradient,
            hints=(
                "A value can be right and its gradient NaN: what stands under the mask must not "
                "enter the softmax.",
                "Select with logits[mask] before log_softmax, not rows[mask] after it.",
                "if mask is not None: student_logits, teacher_logits = student_logits[mask], "
                "teacher_logits[mask]; then go on as without a mask.",
            ),
        ),
        no_gradient_to_the_teacher(lambda g: {**pair(g, 2, 3), "temperature": 2.0}),
    ),
)

# --- soft_cross_entropy_gradient -----------------------------------------------------------------


def soft_cross_entropy_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Give the gradient of the batch-mean ``soft_cross_entropy`` in the student's logits.

    (p_student − p_teacher) / (T · batch) with p = softmax(logits / T), `[batch, classes]`
    (Hinton, Vinyals, Dean 2015, section 2.1, equation 2, there for one row).

    Raises:
        ValueError: The temperature is not above 0.
    """
    difference = losses.soften(student_logits, temperature) - losses.soften(
        teacher_logits, temperature
    )
    return difference / (temperature * student_logits.shape[0])


def _formula(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = pair(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        p, q = probabilities(teacher), probabilities(student)
        expected = (q - p) / rows
        wrong_axis = over_the_batch(student).exp() - over_the_batch(teacher).exp()
        expect(
            answer,
            expected.float(),
            "at T = 1 it is not (p_student − p_teacher) / batch.",
            unlike={
                "the sign is the wrong way round: p_student − p_teacher, so that a step against "
                "the gradient moves the student towards the teacher.": -expected,
                "the loss is a mean over the batch, so each row's gradient is divided by the "
                "number of rows.": q - p,
                "this divides by the number of classes: the loss sums over those, so only the "
                "number of rows, logits.shape[0], stands below.": (q - p) / (rows * classes),
                "this is the difference of log-probabilities; expected that of probabilities.": (
                    log_probabilities(student) - log_probabilities(teacher)
                )
                / rows,
                "this is the difference of the bare logits: take the softmax first.": (
                    student - teacher
                ).double()
                / rows,
                "this is p_student alone: subtract the teacher's probabilities.": q / rows,
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": wrong_axis / rows,
            },
            **inputs,
        )


def _formula_temperature(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (3.0, 0.5, 1.7), strict=True):
        inputs = pair(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        p, q = probabilities(teacher, temperature), probabilities(student, temperature)
        expected = (q - p) / (temperature * rows)
        at_one = (probabilities(student) - probabilities(teacher)) / rows
        expect(
            answer,
            expected.float(),
            f"at T = {temperature:g} it is not (p_student − p_teacher) / (T · batch) with "
            "p = softmax(logits / T) on both sides.",
            unlike={
                "the factor 1/T is missing: by the chain rule, the derivative of z / T in z is "
                "1/T.": temperature * expected,
                "there is 1/T²: only one factor 1/T comes from the chain rule. The other one of "
                "Hinton's 1/T² holds in the high-T limit, and is inside p_student − "
                "p_teacher.": expected / temperature,
                "the difference is multiplied by T: the chain rule divides by it.": temperature**2
                * expected,
                "the temperature has no effect.": at_one,
                "the probabilities are those at T = 1: divide the logits by T before the softmax "
                "too.": at_one / temperature,
                "T divides the student's logits only: the teacher's are divided by the same T.": (
                    q - probabilities(teacher)
                )
                / (temperature * rows),
                "T divides the teacher's logits only: the student's are divided by the same T.": (
                    probabilities(student) - p
                )
                / (temperature * rows),
            },
            **inputs,
            temperature=temperature,
        )


def _formula_autograd(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (1.0, 4.0, 0.8), strict=True):
        inputs = pair(generator, rows, classes)
        with torch.enable_grad():
            student = inputs["student_logits"].double().requires_grad_()
            loss = cross_entropy_rows(student, inputs["teacher_logits"], temperature).mean()
            found = torch.autograd.grad(loss, student)[0]
        expect(
            answer,
            found.float(),
            "it differs from what autograd finds for the mean over rows of "
            "−Σ p_teacher log p_student.",
            **inputs,
            temperature=temperature,
        )


def _formula_rows_sum(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (1.0, 2.0, 0.5), strict=True):
        inputs = {**pair(generator, rows, classes), "temperature": temperature}
        value = answer(**inputs)
        compare(
            value.double().sum(-1),
            torch.zeros(rows),
            "the entries of each row should sum to 0: adding the same number to all of a row's "
            "logits does not change the loss. Both sides must be probabilities over the classes.",
            inputs=inputs,
        )


def _formula_zero(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (1.0, 2.0, 0.5), strict=True):
        teacher = eighths(generator, rows, classes)
        expect(
            answer,
            torch.zeros(rows, classes),
            "a student equal to its teacher (a constant in a row makes no difference) is at the "
            "least value of the loss, where the gradient is 0.",
            student_logits=teacher + shifts(rows),
            teacher_logits=teacher,
            temperature=temperature,
        )


def _formula_batch(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = pair(generator, rows, classes)
        once = answer(**inputs, temperature=2.0)
        doubled: Inputs = {name: torch.cat([x, x]) for name, x in inputs.items()}
        expect(
            answer,
            torch.cat([once, once]) / 2,
            "with every row there twice, each row has half the share in the mean, so its gradient "
            "is half as large. Divide by the number of rows given, logits.shape[0].",
            **doubled,
            temperature=2.0,
        )


def _formula_finite(answer: Answer, generator: torch.Generator) -> None:
    student, teacher = FAR_APART
    for ours in (student, teacher):
        expect(
            answer,
            _row_gradient(ours, teacher, 1.0, 1).float(),
            "exp(10,000) overflows: let torch.softmax do it, which subtracts the largest logit "
            "first.",
            student_logits=ours,
            teacher_logits=teacher,
        )


SOFT_CROSS_ENTROPY_GRADIENT = Exercise(
    id="soft_cross_entropy_gradient",
    title="The gradient by formula",
    minutes=10,
    difficulty=2,
    reference=soft_cross_entropy_gradient,
    parameters="student_logits, teacher_logits, temperature=1.0",
    may_call="anything in torch and torch.nn.functional but autograd",
    not_allowed=(
        "torch.autograd.grad",
        "torch.autograd.backward",
        "torch.Tensor.backward",
        "torch.autograd.functional.hessian",
        "torch.autograd.functional.hvp",
        "torch.autograd.functional.jacobian",
        "torch.autograd.functional.jvp",
        "torch.autograd.functional.vhp",
        "torch.autograd.functional.vjp",
        "torch.func.grad",
        "torch.func.grad_and_value",
        "torch.func.jacfwd",
        "torch.func.jacrev",
        "torch.func.jvp",
        "torch.func.linearize",
        "torch.func.vjp",
    ),
    contracts=(
        Contract(
            id="formula",
            law="At T = 1 it is (p_student − p_teacher) / batch, of the logits' shape",
            points=0.75,
            holds=_formula,
            hints=(
                "Derive it for one row first: −Σ p_t log p_s with log p_s = z − logsumexp(z). The "
                "derivative of logsumexp(z) is softmax(z).",
                "For one row it is p_student − p_teacher. The loss is a mean over the batch: what "
                "does that do to a row's share?",
                "return (F.softmax(student_logits, dim=-1) - F.softmax(teacher_logits, dim=-1)) / "
                "student_logits.shape[0]",
            ),
        ),
        Contract(
            id="temperature",
            law="At T it is (p_student − p_teacher) / (T · batch), p = softmax(logits / T)",
            points=0.75,
            holds=_formula_temperature,
            hints=(
                "T enters twice: inside both softmaxes, and once more by the chain rule.",
                "Write u = z / T. The derivative in u is p_s − p_t; the derivative of u in z is "
                "1 / T.",
                "Divide the difference by (temperature * student_logits.shape[0]).",
            ),
        ),
        Contract(
            id="equals_autograd",
            law="It equals autograd's gradient of the loss",
            points=0.5,
            holds=_formula_autograd,
            hints=(
                "Compare by eye in a cell of your own: loss = soft_cross_entropy(z, teacher, T) "
                "with z.requires_grad_(), then torch.autograd.grad(loss, z).",
                "The ratio of the two tells the missing factor: T, 1/T, or the batch.",
            ),
        ),
        Contract(
            id="rows_sum_to_zero",
            law="The entries of each row sum to 0",
            points=0.25,
            holds=_formula_rows_sum,
            hints=(
                "Probabilities of a row sum to 1 on both sides, so their difference sums to 0.",
                "Both softmaxes run over dim=-1.",
            ),
        ),
        Contract(
            id="zero_for_equal",
            law="For a student equal to its teacher it is 0",
            points=0.25,
            holds=_formula_zero,
            hints=(
                "Treat both sides alike: the same T, the same softmax, the same axis.",
                "Use F.softmax rather than exp of your own, which overflows above about 88.",
            ),
        ),
        Contract(
            id="batch_share",
            law="With each row there twice, each row's gradient is half as large",
            points=0.25,
            holds=_formula_batch,
            hints=(
                "The loss is a mean: a row of a larger batch has a smaller share.",
                "The number to divide by is student_logits.shape[0], not a constant.",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_formula_finite,
            hints=(
                "exp(z) overflows in float32 above about 88.",
                "F.softmax(student_logits / temperature, dim=-1) subtracts the largest logit "
                "first and never overflows.",
            ),
        ),
        inputs_unchanged(lambda g: {**pair(g, 2, 3), "temperature": 2.0}),
    ),
)

LESSON = Lesson(
    name="03_losses",
    title="Losses: entropy, cross-entropy and KL divergence",
    minutes=75,
    difficulty=2,
    exercises=(ENTROPY, SOFT_CROSS_ENTROPY, KL_DIVERGENCE, SOFT_CROSS_ENTROPY_GRADIENT),
)
