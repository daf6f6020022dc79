"""The exercises of lesson 07: losses inside the network, and which layer learns from which.

The expected values are computed here in float64, another way than in ``distill_lab.losses``, which
the reference answers of ``distill_lab.exercises.features`` call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Broken,
    Contract,
    Drawn,
    Inputs,
    compare,
    draw,
    require,
)
from distill_lab.exercises.features import (
    attention_loss,
    hidden_state_loss,
    layer_map,
    relation_loss,
)
from distill_lab.exercises.lesson_03 import inputs_unchanged
from distill_lab.exercises.registry import Exercise, Lesson

# --- what the contracts share --------------------------------------------------------------------


def _readable(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Draw float32 values with one decimal, so that a failing example can be followed by hand."""
    return draw(generator, *shape, scale=10 * scale).round() / 10


def _mask(lengths: tuple[int, ...], padding: int = 0) -> Tensor:
    """True where a token counts, bool `[batch, tokens]`; ``padding`` columns beyond the longest."""
    return torch.arange(max(lengths) + padding)[None, :] < torch.tensor(lengths)[:, None]


def _means_of_texts(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean of the texts' means, in which a token of a short text weighs more than another."""
    return torch.stack([row[..., kept].mean() for row, kept in zip(rows, mask, strict=True)]).mean()


def _expect_scalar(
    answer: Answer,
    expected: Tensor,
    reason: str,
    *,
    unlike: Mapping[str, Any] | None = None,
    not_finite: str | None = None,
    **inputs: Any,
) -> None:
    """Expect one number in a tensor; ``not_finite`` is said where it is NaN or infinite.

    Raises:
        Broken: It differs.
    """
    value = answer(**inputs)
    shown = {"inputs": inputs, "expected": expected.float(), "actual": value}
    require(
        not isinstance(value, int | float),
        "it gives a plain number; expected a tensor that holds one: training needs the graph "
        "behind it, which .item() and float() cut off.",
        **shown,
    )
    if isinstance(value, Tensor):
        require(
            value.ndim == 0,
            f"it gives a tensor of shape {list(value.shape)}; expected one number, the mean over "
            "all that counts.",
            **shown,
        )
        require(
            bool(value.isfinite()) or not_finite is None,
            f"the value is {'NaN' if value.isnan() else 'infinite'}: {not_finite}",
            **shown,
        )
    compare(value, expected.float(), reason, unlike=unlike, inputs=inputs)


def _gradients(answer: Answer, names: tuple[str, ...], inputs: Inputs) -> list[Tensor]:
    """Give the gradients in the named inputs.

    Raises:
        Broken: One of them gets none.
    """
    found = answer.gradients(*names, **inputs)
    for name in names:
        require(
            found[name] is not None,
            f"no gradient reaches {name}, so nothing could be learnt there: detach the teacher's "
            "side, never this one.",
            inputs=inputs,
        )
    return [found[name] for name in names]  # type: ignore[misc]


def _by_autograd(formula: Callable[..., Tensor], names: tuple[str, ...], inputs: Inputs) -> Any:
    leaves = {name: inputs[name].double().requires_grad_() for name in names}
    return torch.autograd.grad(formula(**{**inputs, **leaves}), list(leaves.values()))


def _gradient(
    points: float, formula: Callable[..., Tensor], drawn: tuple[Drawn, ...], law: str
) -> Contract:
    """Make the contract that every input but the teacher's and the mask has the right gradient."""

    def holds(answer: Answer, generator: torch.Generator) -> None:
        for case in drawn:
            inputs = case(generator)
            names = tuple(
                name
                for name, value in inputs.items()
                if isinstance(value, Tensor) and value.is_floating_point() and "teacher" not in name
            )
            wanted = _by_autograd(formula, names, inputs)
            for name, have, want in zip(
                names, _gradients(answer, names, inputs), wanted, strict=True
            ):
                compare(
                    have,
                    want.float(),
                    f"the gradient in {name} is wrong: some part of the way from it to the value "
                    "is cut off (.detach(), .data, torch.no_grad), or padding is in it.",
                    unlike={f"the gradient in {name} is 0 everywhere.": torch.zeros_like(want)},
                    atol=2e-6,
                    inputs=inputs,
                )

    return Contract(
        id="gradient",
        law=law,
        points=points,
        holds=holds,
        hints=(
            "Training needs an unbroken way from the value back to everything that learns.",
            "No .item(), .detach(), .data, torch.no_grad() or torch.tensor(…) on the student's "
            "side.",
        ),
    )


def _no_gradient_to_the_teacher(drawn: Drawn) -> Contract:
    """Make the contract that the second input, the teacher's, gets no gradient.

    Worth nothing: that there is none, a judge elsewhere would have to believe.
    """

    def holds(answer: Answer, generator: torch.Generator) -> None:
        inputs = drawn(generator)
        student, teacher = list(inputs)[:2]
        _gradients(answer, (student,), inputs)
        reached = answer.gradients(teacher, **inputs)[teacher]
        require(
            reached is None or not bool(reached.any()),
            f"a gradient reaches {teacher}: training would move the target too. Cut it off with "
            f"{teacher}.detach().",
            inputs=inputs,
            expected=None if reached is None else torch.zeros_like(reached),
            actual=reached,
        )

    return Contract(
        id="no_gradient_to_the_teacher",
        law="No gradient reaches the teacher",
        points=0,
        holds=holds,
        hints=(
            "The teacher is a fixed target: a loss that can move it is lowered by making the "
            "teacher worse.",
            "Use .detach() on the teacher's tensor, in the first line.",
        ),
    )


def _out_of_reach(
    points: float, drawn: Drawn, formula: Callable[..., Tensor], spoil: Callable[..., Tensor]
) -> Contract:
    """Make the contract that what stands under padding, NaN even, reaches nothing."""

    def holds(answer: Answer, generator: torch.Generator) -> None:
        clean = drawn(generator)
        student, teacher = list(clean)[:2]
        inputs = clean | {name: spoil(clean[name], clean["mask"]) for name in (student, teacher)}
        _expect_scalar(
            answer,
            formula(**clean),
            "what stands under padding changes the value.",
            not_finite="NaN under padding got through. NaN · 0 is NaN, so multiplying by the mask "
            "does not remove it: replace the values with torch.where, or take the unmasked ones "
            "alone.",
            **inputs,
        )
        (gradient,) = _gradients(answer, (student,), inputs)
        require(
            bool(gradient.isfinite().all()),
            "the value is right, but NaN under padding reaches the gradient: backward, a 0 from "
            "the mask is multiplied by NaN. Blank the inputs before you compute with them, not "
            "the result.",
            inputs=inputs,
            expected=gradient.nan_to_num(0, 0, 0),
            actual=gradient,
        )

    return Contract(
        id="out_of_reach",
        law="Padding, NaN even, reaches neither the value nor the gradient",
        points=points,
        holds=holds,
        hints=(
            "0 · NaN is NaN, forward and backward. What must not count has to be replaced before "
            "it enters any computation.",
            "x = torch.where(keep, x, 0), for student and teacher, as the first step; keep is the "
            "mask with axes of length 1 added until it fits. Or x[mask], where that is possible.",
        ),
    )


_unchanged = partial(
    inputs_unchanged,
    hints=(
        "Look for an operator that writes into a tensor it was given: *=, -=, x[~mask] = 0, or "
        "a method whose name ends in an underscore, such as masked_fill_.",
        "torch.where(keep, x, 0) and x.masked_fill(~keep, 0) make a new tensor.",
    ),
)


# --- hidden_state_loss ---------------------------------------------------------------------------


def _squares(student: Tensor, teacher: Tensor, projection: Tensor | None = None) -> Tensor:
    """The mean squared difference of each token, `[batch, tokens]`."""
    student = student.double()
    if projection is not None:
        student = torch.einsum("bts,ws->btw", student, projection.double())
    return (student - teacher.double()).square().mean(-1)


def _hidden(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor,
    projection: Tensor | None = None,
) -> Tensor:
    return _squares(student_hidden, teacher_hidden, projection)[mask].mean()


def _states(
    generator: torch.Generator,
    lengths: tuple[int, ...],
    width: int,
    teacher_width: int | None = None,
    padding: int = 0,
) -> Inputs:
    mask = _mask(lengths, padding)
    return {
        "student_hidden": _readable(generator, *mask.shape, width),
        "teacher_hidden": _readable(generator, *mask.shape, teacher_width or width),
        "mask": mask,
    }


def _projected(generator: torch.Generator, lengths: tuple[int, ...], padding: int = 0) -> Inputs:
    return {
        **_states(generator, lengths, 2, 3, padding),
        "projection": _readable(generator, 3, 2),
    }


def _hidden_definition(answer: Answer, generator: torch.Generator) -> None:
    for lengths, width in (((1,), 2), ((2,), 3), ((3, 3), 4)):
        inputs = _states(generator, lengths, width)
        student, teacher = (inputs[name].double() for name in list(inputs)[:2])
        rows = _squares(student, teacher)
        right, squares = rows.mean(), (student - teacher).square()
        cosine = torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
        _expect_scalar(
            answer,
            right,
            "it is not the mean over the width and the tokens of the squared difference of the "
            "two states.",
            unlike={
                "the squares are summed over the width; expected their mean, so that wide states "
                "do not make a larger loss than narrow ones.": width * right,
                "the tokens are summed; expected their mean, so that the loss does not grow with "
                "the length of a text or the size of a batch.": rows.sum(),
                "everything is summed; expected the mean over width and tokens.": squares.sum(),
                "it is summed over each text and averaged over the texts alone: the mean runs over "
                "tokens and width too.": squares.sum() / len(lengths),
                "this is half of it: no factor 1/2 here.": right / 2,
                "a root is taken: leave the square.": right.sqrt(),
                "this is the length of the difference, ‖s − t‖: leave the square, and take the "
                "mean over the width.": squares.sum(-1).sqrt().mean(),
                "these are absolute differences: square them.": squares.sqrt().mean(),
                "this is 1 − cos, which does not see the states' lengths: expected the squared "
                "difference.": (1 - cosine).mean(),
            },
            **inputs,
        )


def _hidden_padding(answer: Answer, generator: torch.Generator) -> None:
    for lengths, padding, width in (((1,), 1, 2), ((2,), 1, 2), ((3, 1), 0, 2), ((4, 1, 2), 1, 3)):
        inputs = _states(generator, lengths, width, padding=padding)
        student, teacher, mask = inputs.values()
        rows, keep = _squares(student, teacher), mask[..., None]
        kept = rows[mask]
        student_side = _squares(student * keep, teacher)
        teacher_side = _squares(student, teacher * keep)
        _expect_scalar(
            answer,
            kept.mean(),
            "it is not the mean over the tokens that count: padding must change neither the sum "
            "nor the number it is divided by.",
            unlike={
                "the mask has no effect: padding is compared like a word. The student is then "
                "trained to copy what its teacher makes of nothing.": rows.mean(),
                "padding is taken out of the sum, but the sum is still divided by all positions: "
                "the same texts padded further would have a smaller loss. Divide by mask.sum().": (
                    kept.sum() / rows.numel()
                ),
                "the mask is upside down: true is where a token counts.": rows[~mask].mean(),
                "each text is averaged first, so a token of a short text weighs more than one of a "
                "long text: sum over all unmasked tokens, divide once.": _means_of_texts(
                    rows, mask
                ),
                "only the student's side is blanked under padding: the teacher's padding is left "
                "in the sum.": student_side.mean(),
                "only the student's side is blanked under padding, so the teacher's padding is "
                "left in the sum.": student_side.sum() / mask.sum(),
                "only the teacher's side is blanked under padding: the student's padding is left "
                "in the sum.": teacher_side.mean(),
                "only the teacher's side is blanked under padding, so the student's padding is "
                "left in the sum.": teacher_side.sum() / mask.sum(),
                "padding's squares are in the sum, which is divided by the tokens that count.": (
                    rows.sum() / mask.sum()
                ),
            },
            **inputs,
        )


def _hidden_projection(answer: Answer, generator: torch.Generator) -> None:
    for ours, theirs in ((2, 2), (3, 3), (2, 3), (4, 2)):
        inputs = _states(generator, (2,), ours, theirs)
        projection = _readable(generator, theirs, ours)
        student, teacher = (inputs[name] for name in list(inputs)[:2])
        unlike = {}
        if ours == theirs:
            unlike = {
                "the projection has no effect.": _squares(student, teacher).mean(),
                "this is x W: expected x Wᵀ, as F.linear(x, W) and nn.Linear compute it (W is "
                "[teacher width, student width]).": (
                    _squares(student, teacher, projection.T).mean()
                ),
                "the teacher's states are projected: it is the student's that are brought to the "
                "teacher's width.": _squares(teacher, student, projection).mean(),
                "both sides are projected: the teacher's states stay as they are.": _squares(
                    student, teacher.double() @ projection.double().T, projection
                ).mean(),
            }
        inputs = {**inputs, "projection": projection}
        try:
            _expect_scalar(
                answer,
                _squares(student, teacher, projection).mean(),
                "the student's states are not compared as x Wᵀ: F.linear(student_hidden, "
                "projection).",
                unlike=unlike,
                **inputs,
            )
        except AnswerRaised as error:
            raise Broken(
                f"a student {ours} wide and a teacher {theirs} wide come with a projection "
                f"[{theirs}, {ours}], and x Wᵀ is as wide as the teacher; it raises {error.kind} "
                f"({error.detail}).",
                inputs=inputs,
            ) from None


def _spoil_states(states: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], states, math.nan)


HIDDEN_STATE_LOSS = Exercise(
    id="hidden_state_loss",
    title="Hidden states, projected and masked",
    minutes=10,
    difficulty=2,
    reference=hidden_state_loss,
    parameters="student_hidden, teacher_hidden, mask, projection=None",
    may_call="anything in torch and torch.nn.functional (F.linear and F.mse_loss too)",
    not_allowed=(
        "distill_lab.losses.hidden_state_loss",
        "distill_lab.exercises.features.hidden_state_loss",
    ),
    contracts=(
        Contract(
            id="definition",
            law="The squared difference, mean over the width and the tokens",
            points=1.25,
            holds=_hidden_definition,
            hints=(
                "Three steps: the difference, its square, the mean.",
                "(student_hidden - teacher_hidden).square() is [batch, tokens, width]; "
                ".mean(-1) of it has one value a token.",
                "Without padding: return (student_hidden - teacher_hidden).square().mean()",
            ),
        ),
        Contract(
            id="padding",
            law="The mean runs over the unmasked tokens of the whole batch",
            points=0.75,
            holds=_hidden_padding,
            hints=(
                "A mean has two parts, a sum and a number to divide by. Padding must leave both.",
                "rows = (student_hidden - teacher_hidden).square().mean(-1) is [batch, tokens], "
                "as the mask is.",
                "return rows[mask].mean(), or torch.where(mask, rows, 0).sum() / mask.sum()",
            ),
        ),
        Contract(
            id="projection",
            law="A projection W turns the student's state x into x Wᵀ first",
            points=0.5,
            holds=_hidden_projection,
            hints=(
                "States of different widths cannot be subtracted. W has a row for each direction "
                "of the teacher's.",
                "if projection is not None: student_hidden = F.linear(student_hidden, projection)",
            ),
        ),
        _out_of_reach(0.25, lambda g: _projected(g, (2, 1)), _hidden, _spoil_states),
        _gradient(
            0.25,
            _hidden,
            (lambda g: _states(g, (1,), 2, padding=1), lambda g: _projected(g, (2, 1))),
            "Student and projection get the right gradient, padding none",
        ),
        _no_gradient_to_the_teacher(lambda g: _states(g, (2,), 2)),
        _unchanged(lambda g: _projected(g, (2, 1))),
    ),
)


# --- attention_loss ------------------------------------------------------------------------------


def _map_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each query, `[batch, heads, queries]`; 0 · log 0 is 0."""
    p, q = teacher.double(), student.double()
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def _kept(rows: Tensor, mask: Tensor) -> Tensor:
    """The values of unmasked queries, from `[batch, heads, queries]`."""
    return rows.transpose(1, 2)[mask]


def _map(generator: torch.Generator, mask: Tensor, heads: int) -> Tensor:
    """Draw a map `[batch, heads, tokens, tokens]` of multiples of 1/20; a masked key has 0."""
    keys = mask[:, None, None, :]
    scores = draw(generator, len(mask), heads, mask.shape[1], mask.shape[1], scale=1.5)
    share = torch.where(keys, scores, -math.inf).softmax(-1)
    parts = ((20 - keys.sum(-1, keepdim=True)) * share).floor() + keys
    parts[..., 0] += 20 - parts.sum(-1)
    return parts / 20


def _maps(
    generator: torch.Generator,
    lengths: tuple[int, ...],
    heads: int,
    teacher_heads: int | None = None,
    padding: int = 0,
) -> Inputs:
    mask = _mask(lengths, padding)
    return {
        "student_attention": _map(generator, mask, heads),
        "teacher_attention": _map(generator, mask, teacher_heads or heads),
        "mask": mask,
    }


def _attention_definition(answer: Answer, generator: torch.Generator) -> None:
    for lengths, heads in (((2,), 1), ((3,), 2), ((3,) * 4, 2)):
        inputs = _maps(generator, lengths, heads)
        student, teacher = (inputs[name].double() for name in list(inputs)[:2])
        rows, tokens = _map_rows(student, teacher), lengths[0]
        right = rows.mean()
        means = [side.mean(1, keepdim=True) for side in (student, teacher)]
        _expect_scalar(
            answer,
            right,
            "it is not the mean over texts, heads and queries of Σ p_teacher (log p_teacher − "
            "log p_student), the sum running over the keys, the last axis.",
            unlike={
                "this is KL(student ‖ teacher): the teacher's probabilities weigh the sum.": (
                    _map_rows(teacher, student).mean()
                ),
                "the queries are summed; expected their mean (F.kl_div's 'batchmean' divides by "
                "the first axis, the batch, alone).": tokens * right,
                f"this is {tokens} times too small, and there are {tokens} keys: the mean runs "
                "over the keys too (F.kl_div's 'mean'). Sum over them.": right / tokens,
                "the heads are summed; expected their mean.": heads * right,
                "heads and queries are summed; expected their mean (F.kl_div's 'batchmean' divides "
                "by the first axis, the batch, alone).": rows.sum() / len(lengths),
                "everything is summed; expected the mean over texts, heads and queries.": (
                    rows.sum()
                ),
                "this is the cross-entropy: take off the teacher's entropy, so that equal maps "
                "have the loss 0.": -torch.xlogy(teacher, student).sum(-1).mean(),
                "the maps went through a softmax once more: they are probabilities already.": (
                    _map_rows(student.softmax(-1), teacher.softmax(-1)).mean()
                ),
                "the student's map went through a softmax once more: it holds probabilities, so "
                "take their log alone.": _map_rows(student.softmax(-1), teacher).mean(),
                "this is the squared difference of the maps; expected KL.": (
                    (student - teacher).square().mean()
                ),
                "this is the squared difference of the maps, summed over the keys; expected KL.": (
                    student - teacher
                )
                .square()
                .sum(-1)
                .mean(),
                "the heads are averaged before KL, though both sides have as many: what one head "
                "does is then lost. Compare head with head.": _map_rows(*means).mean(),
                "the sign is the wrong way round.": -right,
                "this is in bits (log to the base 2); expected nats (torch.log).": (
                    right / math.log(2)
                ),
            },
            **inputs,
        )


def _attention_padding(answer: Answer, generator: torch.Generator) -> None:
    for lengths, heads, padding in (((2,), 1, 1), ((3, 2), 1, 0), ((4, 2, 3), 2, 1)):
        inputs = _maps(generator, lengths, heads, padding=padding)
        student, teacher, mask = inputs.values()
        rows = _map_rows(student, teacher)
        kept = _kept(rows, mask)
        _expect_scalar(
            answer,
            kept.mean(),
            "it is not the mean over the queries that count: padding must change neither the sum "
            "nor the number it is divided by.",
            unlike={
                "the maps of padding queries count too. A padding position also looks at the "
                "words, and its row sums to 1: leave its row out.": rows.mean(),
                "padding's rows are taken out of the sum, but the sum is still divided by all "
                "positions: divide by the number of unmasked queries, times the heads.": (
                    kept.sum() / rows.numel()
                ),
                "the sum is divided by the unmasked queries but not by the heads.": (
                    kept.sum() / mask.sum()
                ),
                "the mask is upside down: true is where a token counts.": _kept(rows, ~mask).mean(),
                "it gives 0 for different maps: is the mask upside down? True is where a token "
                "counts.": 0.0,
                "each text is averaged first, so a token of a short text weighs more than one of a "
                "long text: sum over all unmasked queries, divide once.": _means_of_texts(
                    rows, mask
                ),
            },
            not_finite="a masked key has probability 0 in both maps, and 0 · (log 0 − log 0) is "
            "NaN. Give the log something above 0 there: torch.clamp before it, or torch.where.",
            **inputs,
        )


def _attention_heads(answer: Answer, generator: torch.Generator) -> None:
    for lengths, ours, theirs in (((2,), 1, 2), ((2,), 4, 2), ((3, 2), 2, 3)):
        inputs = _maps(generator, lengths, ours, theirs)
        student, teacher, mask = inputs.values()
        both = min(ours, theirs)
        means = [side.double().mean(1, keepdim=True) for side in (student, teacher)]
        pairs = torch.stack(
            [
                _map_rows(student[:, i : i + 1], teacher[:, j : j + 1])
                for i in range(ours)
                for j in range(theirs)
            ]
        ).mean(0)
        try:
            _expect_scalar(
                answer,
                _kept(_map_rows(*means), mask).mean(),
                f"with {ours} and {theirs} heads it is not KL of the two maps averaged over their "
                "heads.",
                unlike={
                    "every head is compared with every head: average the maps over the heads "
                    "first, then take KL once.": _kept(pairs, mask).mean(),
                    "head is compared with head in order, and what is left over is left out. "
                    "Head 0 of the student has nothing to do with head 0 of the teacher: average "
                    "both maps over their heads.": _kept(
                        _map_rows(student[:, :both], teacher[:, :both]), mask
                    ).mean(),
                    "the teacher's map alone is averaged over its heads: average the student's "
                    "too.": _kept(_map_rows(student, means[1].expand(student.shape)), mask).mean(),
                    "the student's map alone is averaged over its heads: average the teacher's "
                    "too.": _kept(_map_rows(means[0].expand(teacher.shape), teacher), mask).mean(),
                },
                **inputs,
            )
        except AnswerRaised as error:
            raise Broken(
                f"the numbers of heads differ ({ours} and {theirs}), so heads cannot be paired: "
                f"average each map over its heads first; it raises {error.kind} "
                f"({error.detail}).",
                inputs=inputs,
            ) from None


def _attention_zero(answer: Answer, generator: torch.Generator) -> None:
    mask = _mask((2,))
    one, half = [1.0, 0.0], [0.5, 0.5]
    for student, teacher in (([half, half], [one, half]), ([one, half], [one, half])):
        inputs: Inputs = {
            "student_attention": torch.tensor([[student]]),
            "teacher_attention": torch.tensor([[teacher]]),
            "mask": mask,
        }
        _expect_scalar(
            answer,
            _map_rows(*list(inputs.values())[:2]).mean(),
            "a key at which the teacher does not look at all adds nothing to KL.",
            not_finite="where the teacher's probability is 0, p log p is 0, but in floats "
            "0 · log 0 is NaN. Give the log something above 0: torch.clamp before it.",
            **inputs,
        )
    inputs["student_attention"] = torch.tensor([[[half, one]]])
    inputs["teacher_attention"] = torch.tensor([[[half, half]]])
    nearly = torch.tensor([[[half, [0.99, 0.01]]]])
    least = _map_rows(nearly, inputs["teacher_attention"]).mean().item()
    value = answer(**inputs)
    require(
        bool(torch.as_tensor(value).isfinite()),
        "the value is infinite or NaN: the student's probability is exactly 0 where the teacher's "
        "is not, as happens in float32 when a score is far below the others. Clamp it to "
        "something tiny, 1e-12 say, before the log.",
        inputs=inputs,
    )
    require(
        float(value) > least,
        f"a student that never looks where its teacher looks is charged {float(value):.3g}, less "
        f"than one that looks there a little ({least:.3g} for a probability of 0.01): the key was "
        "left out of the sum. Clamp its probability instead.",
        inputs=inputs,
    )
    (gradient,) = _gradients(answer, ("student_attention",), inputs)
    require(
        bool(gradient.isfinite().all()),
        "the value is finite, but the gradient in student_attention is not: the log is still taken "
        "of 0. Clamp the probability before the log.",
        inputs=inputs,
        expected=gradient.nan_to_num(0, 0, 0),
        actual=gradient,
    )


def _attention_gradient(answer: Answer, generator: torch.Generator) -> None:
    for lengths, heads, padding in (((2,), 1, 0), ((2, 1), 2, 1)):
        inputs = _maps(generator, lengths, heads, padding=padding)
        student, teacher, mask = inputs.values()
        pairs = (mask[:, :, None] & mask[:, None, :])[:, None].expand(student.shape)
        (found,) = _gradients(answer, ("student_attention",), inputs)
        want = -teacher.double() / student.double() / (heads * mask.sum())
        want = torch.where(pairs, want, 0)
        # Along a row a constant has no effect on probabilities, which sum to 1.
        level = (found.double() - want).sum(-1, keepdim=True) / pairs.sum(-1, keepdim=True).clamp(1)
        compare(
            found,
            torch.where(pairs, want + level, 0).float(),
            "the gradient in student_attention is not −p_teacher / p_student over the number of "
            "queries and heads (and 0 under padding): some part of the way from it to the value "
            "is cut off.",
            atol=2e-6,
            rtol=1e-4,
            inputs=inputs,
        )


def _attention(student_attention: Tensor, teacher_attention: Tensor, mask: Tensor) -> Tensor:
    return _kept(_map_rows(student_attention, teacher_attention), mask).mean()


def _spoil_maps(maps: Tensor, mask: Tensor) -> Tensor:
    pairs = (mask[:, :, None] & mask[:, None, :])[:, None]
    return torch.where(pairs, maps, math.nan)


ATTENTION_LOSS = Exercise(
    id="attention_loss",
    title="Attention maps",
    minutes=20,
    difficulty=3,
    reference=attention_loss,
    parameters="student_attention, teacher_attention, mask",
    may_call="anything in torch and torch.nn.functional (F.kl_div too)",
    not_allowed=(
        "distill_lab.losses.attention_loss",
        "distill_lab.exercises.features.attention_loss",
    ),
    contracts=(
        Contract(
            id="definition",
            law="KL(teacher ‖ student) over the keys, mean over heads and queries",
            points=1.25,
            holds=_attention_definition,
            hints=(
                "Each query of each head has a distribution over the keys: KL of lesson 03, but "
                "from probabilities, not logits.",
                "terms = teacher * (teacher.log() - student.log()) is [batch, heads, queries, "
                "keys]; which axis is summed, which are averaged?",
                "rows = terms.sum(-1), then the mean over all rows.",
            ),
        ),
        Contract(
            id="padding",
            law="Padding counts neither as query nor as key",
            points=0.5,
            holds=_attention_padding,
            hints=(
                "A masked key has probability 0, and log 0 is −∞. A masked query has a row of its "
                "own that means nothing.",
                "rows is [batch, heads, queries]; the mask is [batch, tokens]. mask[:, None] has "
                "an axis of length 1 for the heads.",
                "torch.where(mask[:, None], rows, 0).sum() / (mask.sum() * heads)",
            ),
        ),
        Contract(
            id="numbers_of_heads",
            law="Where the numbers of heads differ, both maps are averaged over heads first",
            points=0.5,
            holds=_attention_heads,
            hints=(
                "The heads are axis 1. keepdim=True keeps a head axis of length 1, so the rest of "
                "your function need not know.",
                "if student_attention.shape[1] != teacher_attention.shape[1]: both become "
                "x.mean(1, keepdim=True)",
            ),
        ),
        Contract(
            id="zero_probability",
            law="Probabilities of 0 leave value and gradient finite",
            points=0.25,
            holds=_attention_zero,
            hints=(
                "Two zeros to think of: the teacher's (adds nothing) and the student's (costs "
                "much, not infinitely much).",
                "student.clamp(min=1e-12).log(), and the same for the teacher.",
            ),
        ),
        _out_of_reach(0.25, lambda g: _maps(g, (2, 1), 1), _attention, _spoil_maps),
        Contract(
            id="gradient",
            law="The student's gradient is −p_teacher / p_student, averaged; padding's is 0",
            points=0.25,
            holds=_attention_gradient,
            hints=(
                "Training needs an unbroken way from the value back to the student's map.",
                "No .item(), .detach(), .data or torch.no_grad() on the student's side.",
            ),
        ),
        _no_gradient_to_the_teacher(lambda g: _maps(g, (2,), 1)),
        _unchanged(lambda g: _maps(g, (2, 1), 1)),
    ),
)


# --- relation_loss -------------------------------------------------------------------------------

Split = Callable[[Tensor, int], Tensor]


def _side_by_side(states: Tensor, heads: int) -> Tensor:
    """Head h is columns h·d to (h + 1)·d: `[batch, heads, tokens, d]`."""
    return torch.stack(states.chunk(heads, -1), 1)


def _reshaped(states: Tensor, heads: int) -> Tensor:
    batch, tokens, width = states.shape
    return states.reshape(batch, heads, tokens, width // heads)


def _interleaved(states: Tensor, heads: int) -> Tensor:
    return torch.stack([states[..., head::heads] for head in range(heads)], 1)


def _log_relation(
    states: Tensor,
    mask: Tensor,
    heads: int,
    *,
    split: Split = _side_by_side,
    divisor: float | None = None,
    hidden_score: float = -1e30,
) -> Tensor:
    """log softmax(A Aᵀ / √d) over the keys, `[batch, heads, queries, keys]`."""
    parts = split(states.double(), heads)
    scores = torch.einsum("bhqd,bhkd->bhqk", parts, parts)
    scores = scores / (math.sqrt(parts.shape[-1]) if divisor is None else divisor)
    scores = torch.where(mask[:, None, None, :], scores, hidden_score)
    return scores - scores.logsumexp(-1, keepdim=True)


def _kl_of_logs(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _relation_rows(
    student: Tensor, teacher: Tensor, mask: Tensor, heads: int, **how: Any
) -> Tensor:
    log_q, log_p = (_log_relation(states, mask, heads, **how) for states in (student, teacher))
    return _kl_of_logs(log_q, log_p)


def _relation(student_states: Tensor, teacher_states: Tensor, mask: Tensor, heads: int) -> Tensor:
    return _kept(_relation_rows(student_states, teacher_states, mask, heads), mask).mean()


def _related(
    generator: torch.Generator,
    lengths: tuple[int, ...],
    widths: tuple[int, int],
    heads: int,
    padding: int = 0,
) -> Inputs:
    mask = _mask(lengths, padding)
    return {
        "student_states": _readable(generator, *mask.shape, widths[0]),
        "teacher_states": _readable(generator, *mask.shape, widths[1]),
        "mask": mask,
        "heads": heads,
    }


def _relation_definition(answer: Answer, generator: torch.Generator) -> None:
    for lengths, ours, theirs in (((2,), 2, 3), ((3,), 4, 2), ((3, 3), 3, 4)):
        inputs = _related(generator, lengths, (ours, theirs), 1)
        student, teacher, mask, _ = inputs.values()
        sides = (student, teacher, mask, 1)
        rows, tokens = _relation_rows(*sides), lengths[0]
        right = rows.mean()
        log_q, log_p = (_log_relation(states, mask, 1) for states in (student, teacher))
        unit = [x.double() / x.double().norm(dim=-1, keepdim=True) for x in (student, teacher)]
        _expect_scalar(
            answer,
            right,
            "it is not the mean over the tokens of KL(teacher ‖ student) of the relations "
            "softmax(A Aᵀ / √(d / r)), each token's row running over the other tokens and itself.",
            unlike={
                "the scores are not divided by √(d / r), the root of a head's width: wide states "
                "then have relations that are nearly 0 or 1.": _relation_rows(
                    *sides, divisor=1.0
                ).mean(),
                "the scores are divided by the width itself; it is its square root.": _kl_of_logs(
                    _log_relation(student, mask, 1, divisor=ours),
                    _log_relation(teacher, mask, 1, divisor=theirs),
                ).mean(),
                "both sides are divided by the root of the student's width: each side has a width "
                "of its own.": _relation_rows(*sides, divisor=math.sqrt(ours)).mean(),
                "both sides are divided by the root of the teacher's width: each side has a width "
                "of its own.": _relation_rows(*sides, divisor=math.sqrt(theirs)).mean(),
                "this is KL(student ‖ teacher): the teacher's relation weighs the sum.": (
                    _kl_of_logs(log_p, log_q).mean()
                ),
                "the tokens' rows are summed; expected their mean (F.kl_div's 'batchmean' divides "
                "by the first axis, the batch, alone).": tokens * right,
                "the tokens of all texts are summed; expected their mean.": rows.sum(),
                f"this is {tokens} times too small, and there are {tokens} tokens: the mean runs "
                "over a row's entries too (F.kl_div's 'mean'). Sum over them.": right / tokens,
                "this is the squared difference of the relations; expected KL.": (
                    (log_q.exp() - log_p.exp()).square().mean()
                ),
                "this is the cross-entropy: take off the teacher's entropy, so that equal "
                "relations have the loss 0.": -(log_p.exp() * log_q).sum(-1).mean(),
                "these are cosines: the states go in as they are, not divided by their "
                "lengths.": _kl_of_logs(
                    _log_relation(unit[0], mask, 1, divisor=1.0),
                    _log_relation(unit[1], mask, 1, divisor=1.0),
                ).mean(),
                "it gives 0 for states that differ: does the softmax run over the tokens, the last "
                "axis of A Aᵀ?": 0.0,
            },
            **inputs,
        )


def _relation_heads(answer: Answer, generator: torch.Generator) -> None:
    for lengths, ours, theirs, heads in (((2,), 4, 4, 2), ((3,), 4, 8, 2), ((2, 2), 6, 9, 3)):
        inputs = _related(generator, lengths, (ours, theirs), heads)
        student, teacher, mask, _ = inputs.values()
        sides = (student, teacher, mask, heads)
        right = _relation_rows(*sides).mean()
        whole = _kl_of_logs(
            _log_relation(student, mask, heads, divisor=math.sqrt(ours)),
            _log_relation(teacher, mask, heads, divisor=math.sqrt(theirs)),
        )
        relations = [
            _log_relation(states, mask, heads).exp().mean(1, keepdim=True)
            for states in (student, teacher)
        ]
        _expect_scalar(
            answer,
            right,
            f"with {heads} heads it is not the mean over the heads: head h is the columns h·w to "
            "(h + 1)·w of every token's state, w = width / heads.",
            unlike={
                "the heads have no effect: this is one relation of the whole width.": (
                    _relation_rows(student, teacher, mask, 1).mean()
                ),
                "the states are cut the wrong way: reshape(batch, heads, tokens, -1) mixes tokens "
                "into heads. Cut the width first, reshape(batch, tokens, heads, -1), then "
                "transpose(1, 2).": _relation_rows(*sides, split=_reshaped).mean(),
                "a head is every so-many-th column: heads lie side by side, the first "
                "d / r columns are head 0. reshape(batch, tokens, heads, -1), not (batch, tokens, "
                "-1, heads).": (_relation_rows(*sides, split=_interleaved).mean()),
                "the scores are divided by √d, the root of the whole width: expected √(d / r), the "
                "root of a head's width.": whole.mean(),
                "the heads are summed; expected their mean.": heads * right,
                "the scores are not divided by √(d / r), the root of a head's width.": (
                    _relation_rows(*sides, divisor=1.0).mean()
                ),
                "the relations are averaged over the heads before KL: compare head with head, "
                "then average.": _map_rows(*relations).mean(),
            },
            **inputs,
        )


def _relation_padding(answer: Answer, generator: torch.Generator) -> None:
    for lengths, heads, padding in (((2,), 1, 1), ((3, 2), 1, 0), ((4, 2, 3), 2, 1)):
        inputs = _related(generator, lengths, (2 * heads, 3 * heads), heads, padding)
        student, teacher, mask, _ = inputs.values()
        everywhere = torch.ones_like(mask)
        rows = _relation_rows(student, teacher, mask, heads)
        unmasked = _relation_rows(student, teacher, everywhere, heads)
        zeros = _relation_rows(student, teacher, mask, heads, hidden_score=0.0)
        logs = [
            torch.where(mask[:, None, None, :], _log_relation(states, everywhere, heads), -1e30)
            for states in (student, teacher)
        ]
        kept = _kept(rows, mask)
        _expect_scalar(
            answer,
            kept.mean(),
            "it is not the mean over the unmasked tokens, each related to the unmasked tokens "
            "alone: padding must change nothing.",
            unlike={
                "the mask has no effect: padding is related like a word.": unmasked.mean(),
                "padding's own rows are left out, but a word is still related to padding: its "
                "scores must be masked before the softmax.": _kept(unmasked, mask).mean(),
                "no word is related to padding, but padding's own rows count: leave them out of "
                "the mean.": rows.mean(),
                "masked scores become 0, and exp(0) = 1 is a weight like another: they must be far "
                "below the rest.": _kept(zeros, mask).mean(),
                "padding is left out after the softmax, so what is left of a row does not sum to "
                "1: mask the scores before it.": _kept(_kl_of_logs(*logs), mask).mean(),
                "padding's rows are taken out of the sum, but the sum is still divided by all "
                "positions: divide by the number of unmasked tokens, times the heads.": (
                    kept.sum() / rows.numel()
                ),
                "the sum is divided by the unmasked tokens but not by the heads.": (
                    kept.sum() / mask.sum()
                ),
                "the mask is upside down: true is where a token counts.": _kept(
                    _relation_rows(student, teacher, ~mask, heads), ~mask
                ).mean(),
                "each text is averaged first, so a token of a short text weighs more than one of a "
                "long text: sum over all unmasked tokens, divide once.": _means_of_texts(
                    rows, mask
                ),
            },
            not_finite="a masked key's log-probability is −∞ on both sides, and −∞ − (−∞) is NaN: "
            "that is what a score of −∞ gives, and also the log of a softmax that is 0 there. Fill "
            "with torch.finfo(dtype).min and take log_softmax, which stays finite. Mask keys (the "
            "last axis) alone: a row that is masked wholly is 0/0.",
            **inputs,
        )


def _relation_finite(answer: Answer, generator: torch.Generator) -> None:
    turned = torch.tensor([[[100.0, 0.0], [0.0, 100.0]]])
    along = torch.tensor([[[10.0, 0.0], [100.0, 0.0]]])
    for student, teacher in ((along, turned), (turned, along), (turned, turned)):
        inputs: Inputs = {
            "student_states": student,
            "teacher_states": teacher,
            "mask": _mask((2,)),
            "heads": 1,
        }
        _expect_scalar(
            answer,
            _relation(**inputs),
            "large states give scores in the thousands, and relations of 0 and 1; the value is "
            "not exact there.",
            not_finite="scores in the thousands make probabilities of exactly 0, whose log is −∞. "
            "Stay with log-probabilities: log_softmax on both sides.",
            **inputs,
        )


RELATION_LOSS = Exercise(
    id="relation_loss",
    title="Relations between tokens (MiniLMv2)",
    minutes=25,
    difficulty=3,
    reference=relation_loss,
    parameters="student_states, teacher_states, mask, heads",
    may_call=(
        "anything in torch and torch.nn.functional (F.log_softmax and F.kl_div are the useful ones)"
    ),
    not_allowed=(
        "distill_lab.losses.relation_loss",
        "distill_lab.exercises.features.relation_loss",
    ),
    contracts=(
        Contract(
            id="definition",
            law="KL(teacher ‖ student) of softmax(A Aᵀ / √(d / r)), mean over the tokens",
            points=1.25,
            holds=_relation_definition,
            hints=(
                "Begin with one head. Each side on its own: all dot products of its tokens, "
                "divided by the root of its width, log-softmax over the last axis. Both are "
                "[batch, tokens, tokens], whatever the widths.",
                "scores = states @ states.transpose(-1, -2) / math.sqrt(states.shape[-1])",
                "rows = (log_p.exp() * (log_p - log_q)).sum(-1), p the teacher's; then the mean.",
            ),
        ),
        Contract(
            id="heads",
            law="Each relation head is d / r neighbouring columns; mean over the heads",
            points=1,
            holds=_relation_heads,
            hints=(
                "Cut the last axis, which is the width, and no other.",
                "A head is width // heads wide, for each side its own; take the root of that.",
                "states.reshape(batch, tokens, heads, -1).transpose(1, 2) is [batch, heads, "
                "tokens, width // heads]; the rest works as for one head.",
            ),
        ),
        Contract(
            id="padding",
            law="Padding counts neither as a token that relates nor as one related to",
            points=1,
            holds=_relation_padding,
            hints=(
                "Two places: the columns before the softmax, the rows after it.",
                "scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min), then "
                "log_softmax.",
                "rows is [batch, heads, tokens]: torch.where(mask[:, None], rows, 0).sum() / "
                "(mask.sum() * heads)",
            ),
        ),
        Contract(
            id="finite",
            law="Finite and exact for large states",
            points=0.25,
            holds=_relation_finite,
            hints=(
                "softmax(x).log() is −∞ where the softmax underflows; log_softmax(x) is not.",
                "F.log_softmax(scores, dim=-1) on both sides; p = log_p.exp() only as a weight.",
            ),
        ),
        _out_of_reach(0.25, lambda g: _related(g, (2, 1), (2, 3), 1), _relation, _spoil_states),
        _gradient(
            0.25,
            _relation,
            (
                lambda g: _related(g, (2,), (2, 3), 1),
                lambda g: _related(g, (3, 2), (4, 6), 2, padding=1),
            ),
            "The student's states get the right gradient, padding none",
        ),
        _no_gradient_to_the_teacher(lambda g: _related(g, (2,), (2, 3), 1)),
        _unchanged(lambda g: _related(g, (2, 1), (2, 4), 2)),
    ),
)


# --- layer_map -----------------------------------------------------------------------------------


def _named(blocks: list[int], first: int = 0) -> dict[str, str]:
    return {f"layer.{i}": f"layer.{k}" for i, k in enumerate(blocks, first)}


def _even_blocks(n: int, m: int) -> list[int]:
    """The smallest k with (k + 1) · n ≥ (i + 1) · m, for each i: ⌈(i + 1) · m / n⌉ − 1."""
    return [next(k for k in range(m) if (k + 1) * n >= (i + 1) * m) for i in range(n)]


def _expect_map(
    answer: Answer,
    blocks: list[int],
    reason: str,
    *,
    unlike: Mapping[str, list[int]],
    student_layers: int,
    teacher_layers: int,
    **strategy: str,
) -> None:
    """Expect the map of student block i to ``blocks[i]``, and name a wrong one.

    Raises:
        Broken: It differs.
    """
    inputs = {
        "student_layers": student_layers,
        "teacher_layers": teacher_layers,
        **strategy,
    }
    value, expected = answer(**inputs), _named(blocks)
    if value == expected:
        return
    shown = {"inputs": inputs, "expected": expected, "actual": value}
    require(
        isinstance(value, Mapping),
        f"it gives a {type(value).__name__}; expected a dictionary: {expected}.",
        **shown,
    )
    kinds = {type(x) for pair in value.items() for x in pair}
    require(
        kinds <= {str},
        "keys and values are not all text: layers have names, 'layer.0' for block 0. Bare numbers "
        "leave open whether 0 is a block or the embeddings.",
        **shown,
    )
    turned = {theirs: ours for ours, theirs in expected.items()}
    require(
        value != turned or turned == expected,
        "the map is the wrong way round: the student's block is the key, the teacher's the value.",
        **shown,
    )
    require(
        value != _named([k + 1 for k in blocks], first=1),
        "the blocks are counted from 1: 'layer.0' is the first block, on both sides.",
        **shown,
    )
    for sentence, mistake in unlike.items():
        require(value != _named(mistake) or mistake == blocks, sentence, **shown)
    unknown = [k for k in value.values() if k not in _named(list(range(teacher_layers)))]
    require(
        not unknown,
        f"the teacher has no {unknown[:1]}: its {teacher_layers} blocks are 'layer.0' to "
        f"'layer.{teacher_layers - 1}'.",
        **shown,
    )
    raise Broken(reason, **shown)


def _even_mistakes(n: int, m: int) -> dict[str, list[int]]:
    right = _even_blocks(n, m)
    return {
        "the teacher's blocks are one too high: that is the index into hidden_states, where 0 are "
        "the embeddings. 'layer.k' is block k, which is hidden_states[k + 1].": [
            k + 1 for k in right
        ],
        "the blocks are a fixed stride L_t // L_s apart, which leaves the top of the teacher out "
        "where L_s does not divide L_t.": [(i + 1) * (m // n) - 1 for i in range(n)],
        "the quotient is rounded down; expected up: ⌈(i + 1) · L_t / L_s⌉ − 1. math.ceil does "
        "it.": [(i + 1) * m // n - 1 for i in range(n)],
        "the quotient is rounded to the nearest; expected up: ⌈(i + 1) · L_t / L_s⌉ − 1.": [
            round((i + 1) * m / n) - 1 for i in range(n)
        ],
        "each student block has the first teacher block of its share; expected the last one, so "
        "that the last block learns from the last: ⌈(i + 1) · L_t / L_s⌉ − 1, with i + 1.": [
            i * m // n for i in range(n)
        ],
        "this is spread from the first block to the last one; expected equal shares of the "
        "teacher's blocks, with the last of each share.": [
            round(i * (m - 1) / max(n - 1, 1)) for i in range(n)
        ],
        "these are the top blocks: that is 'last'. 'even' spreads over all of the teacher.": list(
            range(m - n, m)
        ),
        "these are the teacher's first blocks: spread over all of them, the last to the "
        "last.": list(range(n)),
        "the teacher's blocks are one too low: 'layer.0' is already the first block, so the last "
        "is layer.k with k = L_t − 1.": [k - 1 for k in right],
    }


def _even(answer: Answer, generator: torch.Generator) -> None:
    drawn = int(torch.randint(5, 20, (), generator=generator))
    share = int(torch.randint(2, 9, (), generator=generator))
    for n, m in ((2, 6), (3, 6), (4, 12), (1, 4), (3, 3), (drawn, share * drawn)):
        _expect_map(
            answer,
            _even_blocks(n, m),
            "it is not ⌈(i + 1) · L_t / L_s⌉ − 1: each student block learns from the last block of "
            "its share of the teacher, the last from the last.",
            unlike=_even_mistakes(n, m),
            student_layers=n,
            teacher_layers=m,
        )


def _even_remainder(answer: Answer, generator: torch.Generator) -> None:
    drawn = int(torch.randint(2, 8, (), generator=generator))
    for n, m in ((2, 3), (4, 6), (5, 12), (drawn, 2 * drawn + 1), (19, 21)):
        exact = [math.ceil((i + 1) * (m / n)) - 1 for i in range(n)]
        _expect_map(
            answer,
            _even_blocks(n, m),
            f"{n} does not divide {m}: ⌈(i + 1) · L_t / L_s⌉ − 1 rounds the quotient up.",
            unlike={
                **_even_mistakes(n, m),
                "the quotient L_t / L_s is rounded as a float before it is multiplied, and so a "
                "whole number came out a little above itself. Multiply first, then divide: "
                "(i + 1) * L_t / L_s.": exact,
            },
            student_layers=n,
            teacher_layers=m,
            strategy="even",
        )


def _last(answer: Answer, generator: torch.Generator) -> None:
    drawn = int(torch.randint(2, 6, (), generator=generator))
    for n, m in ((2, 6), (3, 6), (1, 4), (3, 3), (drawn, drawn + 3)):
        _expect_map(
            answer,
            list(range(m - n, m)),
            f"it is not the top {n} blocks of the teacher, in order.",
            unlike={
                "this is the even map: the strategy has no effect.": _even_blocks(n, m),
                "the top blocks are there, in reverse order: block 0 learns from the lowest of "
                "them.": list(range(m - 1, m - n - 1, -1)),
                "the very last block is left out (as in the paper, where the classifier teaches "
                "it). Here it is mapped too: the last learns from the last.": list(
                    range(m - n - 1, m - 1)
                ),
                "the blocks are one too high: the last is layer.k with k = L_t − 1.": list(
                    range(m - n + 1, m + 1)
                ),
                "these are the first blocks of the teacher.": list(range(n)),
                "every student block learns from the very last block.": [m - 1] * n,
            },
            student_layers=n,
            teacher_layers=m,
            strategy="last",
        )


def _refused(answer: Answer, generator: torch.Generator) -> None:
    for inputs, what in (
        ({"student_layers": 4, "teacher_layers": 3}, "a student with more layers than its teacher"),
        (
            {"student_layers": 4, "teacher_layers": 3, "strategy": "last"},
            "a student with more layers than its teacher",
        ),
        (
            {"student_layers": 2, "teacher_layers": 6, "strategy": "evne"},
            "the unknown strategy 'evne'",
        ),
    ):
        kind = answer.raised(**inputs)
        require(
            kind == "ValueError",
            f"{what} is accepted: a slip in a setting would train on some map that nobody asked "
            "for. Raise ValueError with a sentence that says what was expected."
            if kind is None
            else f"for {what} it raises {kind}; for a value that makes no sense, Python has "
            "ValueError.",
            inputs=inputs,
        )


LAYER_MAP = Exercise(
    id="layer_map",
    title="Which layer learns from which",
    minutes=10,
    difficulty=1,
    reference=layer_map,
    parameters='student_layers, teacher_layers, strategy="even"',
    may_call="plain Python and math",
    not_allowed=(
        "distill_lab.models.even_layer_map",
        "distill_lab.exercises.features.layer_map",
    ),
    contracts=(
        Contract(
            id="even",
            law="Spread evenly: the last block of each share, so the last learns from the last",
            points=1,
            holds=_even,
            hints=(
                "Of 6 teacher blocks, 2 student blocks get 3 each: 0, 1, 2 and 3, 4, 5. Which is "
                "the last of each share?",
                "Block i, counted from 0, ends its share after (i + 1) · L_t / L_s teacher blocks; "
                "the last of k blocks has the number k − 1.",
                'return {f"layer.{i}": f"layer.{math.ceil((i + 1) * m / n) - 1}" for i in range(n)}'
                " with n = student_layers and m = teacher_layers",
            ),
        ),
        Contract(
            id="remainder",
            law="Where L_s does not divide L_t, (i + 1) · L_t / L_s is rounded up",
            points=0.5,
            holds=_even_remainder,
            hints=(
                "For 4 and 6 the quotients are 1.5, 3, 4.5, 6: rounded up 2, 3, 5, 6, and the "
                "blocks 1, 2, 4, 5.",
                "math.ceil rounds up; // rounds down; round goes to the nearest even number at "
                "a half.",
            ),
        ),
        Contract(
            id="last",
            law='"last" takes the top L_s blocks, in order',
            points=0.75,
            holds=_last,
            hints=(
                "Of 6 blocks the top 2 are 4 and 5.",
                "Block i learns from block L_t − L_s + i.",
            ),
        ),
        Contract(
            id="refused",
            law="More student than teacher blocks, or an unknown strategy, raise ValueError",
            points=0.75,
            holds=_refused,
            hints=(
                "Ask before you compute, for both strategies.",
                'if strategy == "even": … elif strategy == "last": … else: raise ValueError(…)',
            ),
        ),
    ),
)

LESSON = Lesson(
    name="07_intermediate_features",
    title="Inside the network: hidden states, attention and relations",
    minutes=85,
    difficulty=3,
    exercises=(HIDDEN_STATE_LOSS, ATTENTION_LOSS, RELATION_LOSS, LAYER_MAP),
)
