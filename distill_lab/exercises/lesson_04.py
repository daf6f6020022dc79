"""Lesson 04, temperature: softened probabilities, the distillation loss, and its high-T limit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_lab import losses
from distill_lab.exercises.contracts import (
    Answer,
    Contract,
    Inputs,
    compare,
    draw,
    expect,
    require,
)
from distill_lab.exercises.lesson_03 import (
    FAR_APART,
    LOG_SPACE_HINTS,
    SHIFT_TOLERANCE,
    SIZES,
    cross_entropy_rows,
    eighths,
    expect_mean,
    inputs_unchanged,
    kl_rows,
    log_probabilities,
    no_gradient_to_the_teacher,
    over_the_batch,
    pair,
    probabilities,
    require_sleeping_teacher,
    require_student,
    shifts,
    split_holds,
)
from distill_lab.exercises.registry import Exercise, Lesson

# --- soften --------------------------------------------------------------------------------------


def _soften_definition(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        logits = draw(generator, rows, classes, scale=1.5)
        z = logits.double()
        expect(
            answer,
            probabilities(logits).float(),
            "it is not exp(z) / Σ exp(z) in each row: every row must sum to 1.",
            unlike={
                "these are log-probabilities: soften gives probabilities (softmax, not "
                "log_softmax).": log_probabilities(logits),
                "these are exp(z), not yet divided by their sum over the classes.": z.exp(),
                "this is the sigmoid of each logit by itself: in a softmax the classes share one "
                "sum.": z.sigmoid(),
                "the logits are divided by their sum: take exp of them first.": z
                / z.sum(-1, keepdim=True),
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": over_the_batch(logits).exp(),
                "the sum runs over the whole tensor: each row sums to 1 by itself.": z.exp()
                / z.exp().sum(),
            },
            logits=logits,
        )


def _soften_temperature(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), temperature in zip(SIZES, (3.0, 0.5, 1.7), strict=True):
        logits = draw(generator, rows, classes, scale=1.5)
        plain = probabilities(logits)
        expect(
            answer,
            probabilities(logits, temperature).float(),
            f"at T = {temperature:g} it is not softmax(logits / T).",
            unlike={
                "the temperature has no effect: divide the logits by it.": plain,
                "the logits are multiplied by T; divide them: a high T makes p flatter.": (
                    probabilities(logits, 1 / temperature)
                ),
                "the probabilities are divided by T, so they no longer sum to 1: divide the "
                "logits, before the softmax.": plain / temperature,
                "this is softmax(p / T): the softmax has been taken twice.": probabilities(
                    plain, temperature
                ),
                "this is p^(1/T), which no longer sums to 1: divide by the row's sum, or soften "
                "the logits themselves.": plain ** (1 / temperature),
                "the logits are divided by T²: divide once.": probabilities(logits, temperature**2),
            },
            logits=logits,
            temperature=temperature,
        )


def _soften_shapes(answer: Answer, generator: torch.Generator) -> None:
    for shape in ((2, 2, 3), (3,)):
        logits = draw(generator, *shape, scale=1.5)
        z = logits.double()
        axes = {
            f"the softmax runs over axis {axis}; the classes are the last axis, dim=-1, whatever "
            "the number of axes.": (z / 2).softmax(axis)
            for axis in range(logits.ndim - 1)
        }
        expect(
            answer,
            probabilities(logits, 2.0).float(),
            "the softmax runs over the last axis, and the shape stays as it was.",
            unlike=axes,
            logits=logits,
            temperature=2.0,
        )


def _soften_limits(answer: Answer, generator: torch.Generator) -> None:
    logits = torch.tensor([[1.0, 3.0, -2.0]])
    expect(
        answer,
        torch.full((1, 3), 1 / 3),
        "as T grows, logits / T go to 0 and all classes become equally probable.",
        logits=logits,
        temperature=1e8,
    )
    expect(
        answer,
        torch.tensor([[0.0, 1.0, 0.0]]),
        "as T goes to 0, the largest logit takes all of the probability. exp(3 / 0.001) is "
        "infinite in float32: torch.softmax subtracts the largest logit first.",
        logits=logits,
        temperature=1e-3,
    )


def _soften_finite(answer: Answer, generator: torch.Generator) -> None:
    for rows in ([[1e4, -1e4]], [[1e4, 1e4, -1e4]], [[-1e4, -1e4, -1e4]]):
        logits = torch.tensor(rows)
        expect(
            answer,
            probabilities(logits, 2.0).float(),
            "exp(z) overflows above about 88 in float32, and where all of a row's exp(z) are 0 "
            "their sum is too: torch.softmax subtracts the row's largest logit first.",
            logits=logits,
            temperature=2.0,
        )


def _soften_refuses(answer: Answer, generator: torch.Generator) -> None:
    for temperature in (0.0, -1.0):
        inputs = {"logits": torch.tensor([[1.0, 2.0]]), "temperature": temperature}
        raised = answer.raised(**inputs)
        require(
            raised is not None,
            f"T = {temperature:g} is accepted. Division by 0 gives NaN, and a negative T turns "
            "the order of the classes round: raise a ValueError.",
            inputs=inputs,
            expected="ValueError",
            actual="no exception",
        )
        require(
            raised == "ValueError",
            f"T = {temperature:g} raises {raised}; expected a ValueError, the exception for an "
            "argument of the right type with a wrong value.",
            inputs=inputs,
            expected="ValueError",
            actual=raised,
        )


SOFTEN = Exercise(
    id="soften",
    title="Softened probabilities",
    minutes=5,
    difficulty=1,
    reference=losses.soften,
    parameters="logits, temperature=1.0",
    may_call="anything in torch and torch.nn.functional (F.softmax too)",
    contracts=(
        Contract(
            id="definition",
            law="At T = 1 it is the softmax: exp(z) / Σ exp(z) in each row",
            points=0.5,
            holds=_soften_definition,
            hints=(
                "One call of torch does it; the last axis holds the classes.",
                "return torch.softmax(logits / temperature, dim=-1)",
            ),
        ),
        Contract(
            id="temperature",
            law="T divides the logits before the softmax",
            points=0.5,
            holds=_soften_temperature,
            hints=(
                "A high T must bring the logits closer together before exp is taken.",
                "Write logits / temperature where logits stood, and nothing after the softmax.",
            ),
        ),
        Contract(
            id="any_shape",
            law="The softmax runs over the last axis, for any number of axes; the shape stays",
            points=0.25,
            holds=_soften_shapes,
            hints=(
                "Logits may be [classes], [batch, classes] or [batch, tokens, classes].",
                "dim=-1 is the last axis, however many there are. dim=1 is the second.",
            ),
        ),
        Contract(
            id="limits",
            law="T → ∞ makes all classes equal, T → 0 gives all to the largest logit",
            points=0.25,
            holds=_soften_limits,
            hints=(
                "Small T makes logits / T huge. What does exp do with 3,000 in float32?",
                "softmax(z) = softmax(z − max z): torch.softmax does that for you.",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_soften_finite,
            hints=(
                "exp(10,000) is infinite, exp(−10,000) is 0, and ∞/∞ and 0/0 are NaN.",
                "Subtract logits.max(dim=-1, keepdim=True).values before exp (each row its own), "
                "or call torch.softmax, which does.",
            ),
        ),
        Contract(
            id="refuses_bad_temperature",
            law="T ≤ 0 raises ValueError",
            points=0.25,
            holds=_soften_refuses,
            hints=(
                "Look at T first; 0 is not allowed either.",
                'if temperature <= 0: raise ValueError(f"temperature is {temperature}: expected '
                'a number above 0.")',
            ),
        ),
        inputs_unchanged(lambda g: {"logits": draw(g, 2, 3), "temperature": 2.0}),
    ),
)

# --- distillation_loss ---------------------------------------------------------------------------


def _batch(generator: torch.Generator, rows: int, classes: int) -> Inputs:
    labels = torch.randint(classes, (rows,), generator=generator)
    return {**pair(generator, rows, classes), "labels": labels}


def _hard_rows(student: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Give −log softmax(logits / T)[label] of each row; all rows must be labelled."""
    return -log_probabilities(student, temperature).gather(-1, labels[:, None]).squeeze(-1)


def _soft_term(answer: Answer, generator: torch.Generator) -> None:
    # No 2 or 4 classes: a mean over those would look like a missing T or T² at T = 2.
    for rows, classes in ((1, 3), (2, 5)):
        inputs = _batch(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        kl = kl_rows(student, teacher, 2.0)
        hard = _hard_rows(student, inputs["labels"])
        expect_mean(
            answer,
            4 * kl,
            "at alpha = 1 it is not T² · KL(teacher ‖ student) with both sides at T = 2 (the "
            "default).",
            classes=classes,
            unlike={
                "T² is missing: the soft gradient shrinks like 1/T² as T grows, and T² makes up "
                "for it.": kl.mean(),
                "T² is there twice (T⁴): multiply by temperature ** 2 once. Does your "
                "kl_divergence have the factor in it already?": 16 * kl.mean(),
                "KL is multiplied by T; expected T²: one factor for the chain rule, one for the "
                "flatter probabilities.": 2 * kl.mean(),
                "KL is divided by T²: multiply, because its gradient shrinks as T grows.": kl.mean()
                / 4,
                "this is KL(student ‖ teacher): the teacher's probabilities weigh the sum. (In "
                "F.kl_div the student's log-probabilities come first.)": 4
                * kl_rows(teacher, student, 2.0).mean(),
                "this is T² times the cross-entropy: it has the right gradient, but not the value "
                "0 for a student equal to its teacher. Subtract the teacher's entropy.": 4
                * cross_entropy_rows(student, teacher, 2.0).mean(),
                "T² is there, but the logits are not divided by T: soften both sides.": 4
                * kl_rows(student, teacher).mean(),
                "the temperature has no effect: soften both sides, and multiply KL by T².": kl_rows(
                    student, teacher
                ).mean(),
                "T divides the student's logits only: the teacher's are divided by the same T.": 4
                * kl_rows(student, teacher, 2.0, 1.0).mean(),
                "T divides the teacher's logits only: the student's are divided by the same T.": 4
                * kl_rows(student, teacher, 1.0, 2.0).mean(),
                "alpha and 1 − alpha are swapped: alpha weighs the soft term.": hard.mean(),
                "the hard term is still there at alpha = 1: its weight is 1 − alpha.": 4 * kl.mean()
                + hard.mean(),
            },
            **inputs,
            alpha=1.0,
        )


def _hard_term(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = _batch(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        hard = _hard_rows(student, inputs["labels"])
        softened = _hard_rows(student, inputs["labels"], 3.0)
        soft = 9 * kl_rows(student, teacher, 3.0).mean()
        expect_mean(
            answer,
            hard,
            "at alpha = 0 it is not the plain cross-entropy with the labels, "
            "−log softmax(student_logits)[label].",
            classes=classes,
            unlike={
                "the hard term is softened too: labels are learnt at T = 1, from the student's "
                "bare logits, as they are used after training.": softened.mean(),
                "T² multiplies the hard term too: it belongs to the soft term alone.": 9
                * hard.mean(),
                "the hard term is softened and multiplied by T²: only the soft term is.": 9
                * softened.mean(),
                "the soft term is still there at alpha = 0: its weight is alpha.": soft
                + hard.mean(),
                "the hard term is taken of the teacher's logits: it is the student who "
                "learns.": _hard_rows(teacher, inputs["labels"]).mean(),
            },
            **inputs,
            temperature=3.0,
            alpha=0.0,
        )


def _mix(answer: Answer, generator: torch.Generator) -> None:
    cases: tuple[tuple[int, int, Inputs], ...] = (
        (1, 3, {}),
        (2, 3, {"alpha": 0.2, "temperature": 3.0}),
        (4, 5, {"alpha": 0.9, "temperature": 1.5}),
    )
    for rows, classes, settings in cases:
        inputs = _batch(generator, rows, classes)
        alpha, temperature = settings.get("alpha", 0.5), settings.get("temperature", 2.0)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        kl = kl_rows(student, teacher, temperature).mean()
        soft, hard = temperature**2 * kl, _hard_rows(student, inputs["labels"]).mean()
        softened = _hard_rows(student, inputs["labels"], temperature).mean()
        expect(
            answer,
            (alpha * soft + (1 - alpha) * hard).float(),
            f"it is not alpha · T² · KL + (1 − alpha) · cross-entropy at alpha = {alpha:g}, "
            f"T = {temperature:g}"
            f"{'' if settings else ' (the defaults, which the first line of the stub has)'}.",
            unlike={
                "alpha and 1 − alpha are swapped: alpha weighs the soft term.": (
                    (1 - alpha) * soft + alpha * hard
                ),
                "the hard term is not weighed: multiply it by 1 − alpha.": alpha * soft + hard,
                "the soft term is not weighed: multiply it by alpha.": soft + (1 - alpha) * hard,
                "neither term is weighed: alpha · soft + (1 − alpha) · hard.": soft + hard,
                "both terms are weighed by alpha: the hard term's weight is 1 − alpha.": alpha
                * (soft + hard),
                "T² multiplies both terms: it belongs to the soft term alone.": temperature**2
                * (alpha * kl + (1 - alpha) * hard),
                "T² is missing from the soft term.": alpha * kl + (1 - alpha) * hard,
                "the factor is 4 whatever T is: it is temperature ** 2.": alpha * 4 * kl
                + (1 - alpha) * hard,
                "the hard term is softened too: labels are learnt at T = 1.": alpha * soft
                + (1 - alpha) * softened,
                "alpha has no effect: this is the loss at alpha = 0.5.": (soft + hard) / 2,
            },
            **inputs,
            **settings,
        )


def _scale(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), c in zip(SIZES, (2.0, 0.5, 3.0), strict=True):
        inputs = _batch(generator, rows, classes)
        base = answer(**inputs, temperature=2.0, alpha=1.0)
        times = (
            f"with all logits and T multiplied by {c:g} the softened probabilities are the same, "
            f"and T² is {c * c:g} times as large. The loss should be too; "
        )
        scaled: Inputs = {n: x if n == "labels" else c * x for n, x in inputs.items()}
        expect(
            answer,
            c**2 * base,
            f"{times}it is not: T belongs in the two softmaxes and in the factor T², nowhere else.",
            unlike={
                f"{times}it stays as it was: the factor does not depend on T. Write "
                "temperature ** 2, not a number.": base,
                f"{times}it is {c:g} times as large: the factor grows like T only.": c * base,
                f"{times}it is {c**4:g} times as large: the factor grows like T⁴.": c**4 * base,
                f"{times}it is {c**3:g} times as large: the factor grows like T³.": c**3 * base,
            },
            **scaled,
            temperature=2.0 * c,
            alpha=1.0,
        )


def _unlabelled_rows(answer: Answer, generator: torch.Generator) -> None:
    for rows, alpha in ((2, 0.0), (3, 0.5)):
        inputs = _batch(generator, rows, 3)
        inputs["labels"][1] = losses.IGNORE_INDEX
        student, teacher, labels = inputs.values()
        labelled = labels != losses.IGNORE_INDEX
        hard = _hard_rows(student[labelled], labels[labelled])
        soft = 4 * kl_rows(student, teacher, 2.0)

        def mixed(hard: Tensor, soft: Tensor, alpha: float = alpha) -> Tensor:
            return alpha * soft + (1 - alpha) * hard

        as_class = {
            f"the label −100 is taken for class {k}: such a row has no hard term.": mixed(
                _hard_rows(student, torch.where(labelled, labels, k)).mean(), soft.mean()
            )
            for k in range(3)
        }
        expect(
            answer,
            mixed(hard.mean(), soft.mean()).float(),
            "a row labelled −100 has no hard term: the hard mean runs over the labelled rows, the "
            "soft mean over all rows.",
            unlike={
                "the hard terms are divided by all rows: divide by the number of labelled rows "
                "only.": mixed(hard.sum() / rows, soft.mean()),
                "the unlabelled rows are left out of the soft term too: the teacher speaks about "
                "every row.": mixed(hard.mean(), soft[labelled].mean()),
                "the hard terms are summed: take their mean over the labelled rows.": mixed(
                    hard.sum(), soft.mean()
                ),
                **as_class,
            },
            **inputs,
            temperature=2.0,
            alpha=alpha,
        )


def _no_labels(answer: Answer, generator: torch.Generator) -> None:
    logits = pair(generator, 2, 3)
    soft = 4 * kl_rows(logits["student_logits"], logits["teacher_logits"], 2.0).mean()
    for alpha in (0.5, 0.0, 1.0):
        expect(
            answer,
            (alpha * soft).float(),
            "in a batch without any label the hard term is 0 (a mean of no rows is 0 / 0 = NaN: "
            "F.cross_entropy gives that). What is left is alpha · T² · KL.",
            unlike={
                "without labels the soft term loses its weight alpha: the hard term is 0, the "
                "rest stays.": soft,
                "without labels the whole loss is 0: the hard term alone is.": 0.0,
            },
            **logits,
            labels=torch.full((2,), losses.IGNORE_INDEX),
            temperature=2.0,
            alpha=alpha,
        )
    inputs: Inputs = {**logits, "labels": None, "temperature": 2.0, "alpha": 1.0}
    raised = answer.raised(**inputs)
    require(
        raised is None,
        f"labels=None raises {raised} at alpha = 1, where there is no hard term to need them: "
        "look at labels only if there are any.",
        inputs=inputs,
    )
    expect(answer, soft.float(), "at alpha = 1 without labels it is not T² · KL.", **inputs)


def _distillation_gradient(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in ((2, 3), (4, 5)):
        inputs = {**_batch(generator, rows, classes), "temperature": 3.0, "alpha": 0.4}
        student, teacher, labels = (
            inputs[name] for name in ("student_logits", "teacher_logits", "labels")
        )
        labels[-1] = losses.IGNORE_INDEX
        labelled = (labels != losses.IGNORE_INDEX)[:, None]
        one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), classes)
        soft = 3.0 * (probabilities(student, 3.0) - probabilities(teacher, 3.0)) / rows
        hard = torch.where(labelled, probabilities(student) - one_hot, 0) / labelled.sum()
        gradients = answer.gradients("student_logits", **inputs)
        compare(
            require_student(gradients, inputs),
            (0.4 * soft + 0.6 * hard).float(),
            "the gradient in the student's logits is not "
            "alpha · T · (p_student − p_teacher at T) / rows + "
            "(1 − alpha) · (p_student − one-hot label) / labelled rows: some part of the "
            "computation does not let the gradient through.",
            unlike={
                "the gradient of the hard term alone arrives: the soft term has left the graph "
                "(detach the teacher's side only).": 0.6 * hard,
                "the gradient of the soft term alone arrives: the hard term has left the "
                "graph.": 0.4 * soft,
            },
            inputs=inputs,
        )
        require_sleeping_teacher(answer, inputs)


def _distillation_finite(answer: Answer, generator: torch.Generator) -> None:
    student, teacher = FAR_APART
    for alpha in (1.0, 0.5, 0.0):
        kl = kl_rows(student, teacher, 2.0).mean()
        hard = _hard_rows(student, torch.tensor([0])).mean()
        caps = {
            f"this is what an epsilon of {epsilon:g} under the log gives: it caps the loss, and "
            "where it caps there is no gradient. Work with log_softmax instead.": -math.log(epsilon)
            * (4 * alpha + 1 - alpha)
            for epsilon in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-20, 1e-30)
        }
        expect(
            answer,
            (alpha * 4 * kl + (1 - alpha) * hard).float(),
            "where a probability underflows to 0 its log is −inf, and 0 · (−inf) is NaN. "
            "log_softmax stays finite.",
            unlike=caps,
            student_logits=student,
            teacher_logits=teacher,
            labels=torch.tensor([0]),
            temperature=2.0,
            alpha=alpha,
        )


DISTILLATION_LOSS = Exercise(
    id="distillation_loss",
    title="The distillation loss",
    minutes=20,
    difficulty=3,
    reference=losses.distillation_loss,
    parameters="student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5",
    may_call=(
        "anything in torch and torch.nn.functional (F.kl_div and F.cross_entropy too), and the "
        "library's kl_divergence"
    ),
    library=(
        "distill_lab.losses.cross_entropy",
        "distill_lab.losses.entropy",
        "distill_lab.losses.kl_divergence",
    ),
    contracts=(
        Contract(
            id="soft_term",
            law="At alpha = 1 it is T² · KL(teacher ‖ student), both sides at T",
            points=1,
            holds=_soft_term,
            hints=(
                "Start with the soft term alone: KL of lesson 03 at the temperature, times "
                "temperature ** 2.",
                "log_q = F.log_softmax(student_logits / temperature, dim=-1), the same for log_p "
                "of the teacher, then F.kl_div(log_q, log_p, reduction='batchmean', "
                "log_target=True).",
                "soft = temperature**2 * kl_divergence(student_logits, teacher_logits, "
                "temperature)",
            ),
        ),
        Contract(
            id="hard_term",
            law="At alpha = 0 it is the cross-entropy with the labels at T = 1",
            points=1,
            holds=_hard_term,
            hints=(
                "The hard term knows nothing of T or of the teacher.",
                "hard = F.cross_entropy(student_logits, labels), of the bare logits",
                "return alpha * soft + (1 - alpha) * hard",
            ),
        ),
        Contract(
            id="mix",
            law="alpha weighs the soft term and 1 − alpha the hard one",
            points=0.75,
            holds=_mix,
            hints=(
                "Two terms, two weights that sum to 1; T² stands inside the soft term.",
                "return alpha * temperature**2 * kl + (1 - alpha) * hard",
            ),
        ),
        Contract(
            id="scale",
            law="L(c·z_s, c·z_t; c·T) = c² · L(z_s, z_t; T) at alpha = 1",
            points=0.5,
            holds=_scale,
            hints=(
                "c·z / (c·T) = z / T, so KL stays as it was. What is left of T outside the "
                "softmax?",
                "Only temperature ** 2 multiplies KL: no fixed number, no other power.",
            ),
        ),
        Contract(
            id="unlabelled_rows",
            law="Rows with label −100 have no hard term; the hard mean is over labelled rows",
            points=0.75,
            holds=_unlabelled_rows,
            hints=(
                "Two means over different rows: all of them in the soft term, those with a label "
                "in the hard one.",
                "labelled = labels != -100 gives the rows; F.cross_entropy leaves out −100 by "
                "itself (ignore_index).",
                "hard = F.cross_entropy(student_logits[labelled], labels[labelled])",
            ),
        ),
        Contract(
            id="no_labels",
            law="Without any label the hard term is 0; labels may be None at alpha = 1",
            points=0.5,
            holds=_no_labels,
            hints=(
                "Ask whether there is a label at all before taking a mean over the labelled rows.",
                "F.cross_entropy(…, reduction='sum') over labelled.sum().clamp(min=1) is 0 for no "
                "labels.",
                "if labels is None: return alpha * soft, before labels is used for anything",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and right for float32 logits of ±10,000",
            points=0.25,
            holds=_distillation_finite,
            hints=LOG_SPACE_HINTS,
        ),
        inputs_unchanged(lambda g: {**_batch(g, 2, 3), "temperature": 2.0, "alpha": 0.5}),
        Contract(
            id="gradient",
            law="Both terms reach the student's logits, and none the teacher's",
            points=0.25,
            holds=_distillation_gradient,
            hints=(
                "The value must stay a tensor of the graph from the student's logits on; the "
                "teacher's side leaves it.",
                "Detach the teacher alone: teacher_logits = teacher_logits.detach(). No .item(), "
                "no torch.no_grad().",
            ),
        ),
    ),
)

# --- logit_matching_loss -------------------------------------------------------------------------


def _centred(student: Tensor, teacher: Tensor, axis: int = -1) -> Tensor:
    difference = student.double() - teacher.double()
    return difference - difference.mean(axis, keepdim=True)


def _matching_rows(student: Tensor, teacher: Tensor) -> Tensor:
    return _centred(student, teacher).square().mean(-1) / 2


def _matching_definition(answer: Answer, generator: torch.Generator) -> None:
    # No 2 rows and no 2 classes: a sum over either would look like the missing 1/2.
    for rows, classes in ((1, 3), (3, 4), (4, 5)):
        inputs = pair(generator, rows, classes)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        right = _matching_rows(student, teacher)
        bare = (student.double() - teacher.double()).square()
        expect_mean(
            answer,
            right,
            "it is not the mean over the rows of Σ d² / (2N), d the difference of the logits after "
            "each row's mean is taken off.",
            classes=classes,
            unlike={
                "the logits are not centred: take off each row's mean before the square. High-T "
                "distillation cannot see a constant in a row.": bare.mean() / 2,
                "the logits are not centred, and 1/2 is missing (this is F.mse_loss of the bare "
                "logits).": bare.mean(),
                "the logits are not centred, and the sum over the classes is not divided by "
                "N.": bare.sum(-1).mean() / 2,
                "1/2 is missing: T² · KL goes to Σ d² / (2N), half of the mean square.": 2
                * right.mean(),
                "the sum over the classes is not divided by N, the number of classes.": classes
                * right.mean(),
                "both 1/2 and 1/N are missing: Σ d² / (2N).": 2 * classes * right.mean(),
                "the sum is divided by N − 1 (an unbiased variance): divide by N.": right.mean()
                * classes
                / (classes - 1),
                "this is what centring over the batch gives (dim=0): each row's own mean, over the "
                "classes, is to be taken off.": _centred(student, teacher, 0).square().mean() / 2,
                "the student's logits only are centred: take off the teacher's row means too.": (
                    (student - student.mean(-1, keepdim=True) - teacher).square().mean() / 2
                ),
                "the teacher's logits only are centred: take off the student's row means too.": (
                    (student - teacher + teacher.mean(-1, keepdim=True)).square().mean() / 2
                ),
                "the mean of all logits is taken off: each row has a mean of its own (dim=-1, "
                "keepdim=True).": (
                    (student - teacher).double() - (student - teacher).double().mean()
                )
                .square()
                .mean()
                / 2,
                "this is the mean of |d| / 2: the differences are squared.": _centred(
                    student, teacher
                )
                .abs()
                .mean()
                / 2,
                "the root of the mean square is taken: leave the square.": right.sqrt().mean(),
                "these are probabilities rather than logits: no softmax here.": (
                    probabilities(student) - probabilities(teacher)
                )
                .square()
                .mean()
                / 2,
            },
            **inputs,
        )


def _matching_shift(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        student, teacher = eighths(generator, rows, classes), eighths(generator, rows, classes)
        moves: tuple[Inputs, ...] = (
            {"student_logits": student + shifts(rows), "teacher_logits": teacher},
            {"student_logits": student, "teacher_logits": teacher - shifts(rows)},
            {"student_logits": student + shifts(rows), "teacher_logits": student},
        )
        for moved in moves:
            expect(
                answer,
                _matching_rows(**{k.removesuffix("_logits"): v for k, v in moved.items()})
                .mean()
                .float(),
                "a constant added to all logits of a row does not change its probabilities at any "
                "T, so it must not change the loss: take off each row's mean on both sides.",
                atol=2 * SHIFT_TOLERANCE,  # the square doubles the rounding
                **moved,
            )


def _matching_limit(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in ((1, 2), (2, 3), (4, 5)):
        inputs = pair(generator, rows, classes)
        inputs["teacher_logits"] = inputs["teacher_logits"] + 3.0
        logits = (inputs["student_logits"], inputs["teacher_logits"])
        # The mean of T and −T has no error of order 1/T; that of order 1/T² is 1e-6 here.
        limit = 1e6 * (kl_rows(*logits, 1e3) + kl_rows(*logits, -1e3)).mean() / 2
        expect(
            answer,
            limit.float(),
            "it is not what T² · KL(teacher ‖ student) comes to at T = 1000: Σ d² / (2N) of the "
            "centred logits.",
            unlike={
                "it is twice what T² · KL comes to at T = 1000: 1/2 is missing.": 2 * limit,
                f"it is {classes} times what T² · KL comes to at T = 1000: divide by N = {classes} "
                "classes.": classes * limit,
            },
            rtol=1e-4,
            **inputs,
        )


def _matching_quadratic(answer: Answer, generator: torch.Generator) -> None:
    for (rows, classes), c in zip(SIZES, (2.0, 0.5, 3.0), strict=True):
        inputs = pair(generator, rows, classes)
        base = answer(**inputs)
        scaled: Inputs = {name: c * x for name, x in inputs.items()}
        expect(
            answer,
            c**2 * base,
            f"with all logits multiplied by {c:g} it should be {c * c:g} times as large: a sum of "
            "squares and nothing else.",
            unlike={
                f"with all logits multiplied by {c:g} it stays as it was: do not divide by the "
                "logits' own size.": base,
                f"with all logits multiplied by {c:g} it is {c:g} times as large: square the "
                "differences.": c * base,
            },
            **scaled,
        )


def _matching_gradient(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in SIZES:
        inputs = pair(generator, rows, classes)
        expected = _centred(inputs["student_logits"], inputs["teacher_logits"]) / (rows * classes)
        compare(
            require_student(answer.gradients("student_logits", **inputs), inputs),
            expected.float(),
            "the gradient in the student's logits is not d / (N · rows): some part of the "
            "computation does not let the gradient through.",
            inputs=inputs,
        )


LOGIT_MATCHING_LOSS = Exercise(
    id="logit_matching_loss",
    title="Matching of centred logits",
    minutes=10,
    difficulty=2,
    reference=losses.logit_matching_loss,
    parameters="student_logits, teacher_logits",
    may_call="anything in torch and torch.nn.functional (F.mse_loss too)",
    contracts=(
        Contract(
            id="definition",
            law="Σ d² / (2N), d the difference of centred logits, N classes; mean over the rows",
            points=1,
            holds=_matching_definition,
            hints=(
                "Three steps: the difference of the logits, each row's mean taken off, half of the "
                "mean square.",
                "difference = student_logits - teacher_logits; centred = difference - "
                "difference.mean(dim=-1, keepdim=True)",
                "return centred.square().mean() / 2 (each row has N entries, so the mean over all "
                "entries is the mean over rows of Σ d² / N)",
            ),
        ),
        Contract(
            id="constant_added",
            law="Adding a constant to a row's logits, of either side, changes nothing",
            points=0.5,
            holds=_matching_shift,
            hints=(
                "The softmax cannot see such a constant, and this loss is a limit of softmaxes.",
                "Take off the mean of each row: x - x.mean(dim=-1, keepdim=True).",
            ),
        ),
        Contract(
            id="limit_of_distillation",
            law="It is what T² · KL(teacher ‖ student) comes to as T → ∞",
            points=0.5,
            holds=_matching_limit,
            hints=(
                "For large T, exp(z / T) is nearly 1 + z / T. The lesson derives from it that "
                "p_s − p_t is nearly d / (N T).",
                "The gradient T · (p_s − p_t) goes to d / N, which is the gradient of Σ d² / (2N).",
            ),
        ),
        Contract(
            id="quadratic",
            law="With all logits times c it is c² times as large",
            points=0.25,
            holds=_matching_quadratic,
            hints=(
                "No softmax, no root and no division by a norm: a sum of squares.",
                "centred.square(), not centred.abs() and not centred.norm()",
            ),
        ),
        Contract(
            id="split_batch",
            law="Splitting a batch changes nothing, once weighted by rows",
            points=0.25,
            holds=split_holds,
            hints=(
                "A row's value must not depend on the other rows of the batch.",
                "The mean that is taken off runs over dim=-1 with keepdim=True.",
            ),
        ),
        inputs_unchanged(lambda g: pair(g, 2, 3)),
        Contract(
            id="gradient",
            law="The student's gradient is d / (N · rows)",
            points=0.5,
            holds=_matching_gradient,
            hints=(
                "Training needs the graph from the value back to the student's logits.",
                "Do not use .item(), .detach(), .data or torch.no_grad() on the student's side; "
                "centre the student's logits in the graph too.",
            ),
        ),
        no_gradient_to_the_teacher(lambda g: pair(g, 2, 3)),
    ),
)

LESSON = Lesson(
    name="04_temperature",
    title="Temperature, soft targets and dark knowledge",
    minutes=75,
    difficulty=2,
    exercises=(SOFTEN, DISTILLATION_LOSS, LOGIT_MATCHING_LOSS),
)
