"""Lesson 06, training the student: its first weights, its steps, and how sure a mean is.

The expected weights come from gradient steps in float64 on the formulas of lesson 03, the expected
intervals from a larger bootstrap of another make, not from the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from distill_lab import models
from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Broken,
    Contract,
    Inputs,
    compare,
    draw,
    require,
)
from distill_lab.exercises.lesson_03 import kl_rows, log_probabilities
from distill_lab.exercises.lesson_05 import unchanged
from distill_lab.exercises.objects import Classifier, Sgd, draw_batch, draw_classifier
from distill_lab.exercises.registry import Exercise, Lesson
from distill_lab.exercises.student import (
    bootstrap_interval,
    distillation_step,
    init_from_teacher_layers,
    train_epoch,
)

Batch = dict[str, Tensor]
Weights = Mapping[str, Tensor]

# --- init_from_teacher_layers --------------------------------------------------------------------

BLOCKS = "bert.encoder.layer."


def _drawn_classifier(generator: torch.Generator, **config: int) -> Classifier:
    """Draw a classifier that has LayerNorm weights of its own too."""
    classifier = draw_classifier(generator, **config)  # type: ignore[arg-type]
    weights = {
        name: value + 0.3 * draw(generator, *value.shape) if "LayerNorm" in name else value
        for name, value in classifier.weights.items()
    }
    return replace(classifier, weights=weights)


def _pair(
    generator: torch.Generator, student_layers: int, teacher_layers: int, layer_map: dict[str, str]
) -> Inputs:
    return {
        "student": _drawn_classifier(generator, layers=student_layers),
        "teacher": _drawn_classifier(generator, layers=teacher_layers),
        "layer_map": layer_map,
    }


def _block(weights: Weights, layer: str) -> dict[str, Tensor]:
    """Give the weights of ``"layer.k"`` by their names within the block."""
    start = f"{BLOCKS.removesuffix('layer.')}{layer}."
    return {n.removeprefix(start): value for n, value in weights.items() if n.startswith(start)}


def _differing(one: Weights, other: Weights) -> list[str]:
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def _require_copied(have: Weights, want: Weights, where: str, reason: str, inputs: Inputs) -> None:
    """Require equal weights, and show the first that differs.

    Raises:
        Broken: One differs.
    """
    differing = _differing(want, have)
    if not differing:
        return
    name = min(differing, key=lambda name: want[name].numel())
    if len(differing) < len(want):
        reason += f" In {where} this is so for {len(differing)} of {len(want)} weights."
    reason += f" Shown is {name}."
    raise Broken(reason, inputs=inputs, expected=want[name], actual=have[name])


def _init_mapped(answer: Answer, generator: torch.Generator) -> None:
    for ours, theirs, layer_map in (
        (1, 2, {"layer.0": "layer.1"}),
        (2, 3, {"layer.0": "layer.2", "layer.1": "layer.0"}),
        (2, 4, {"layer.1": "layer.3", "layer.0": "layer.1"}),
    ):
        inputs = _pair(generator, ours, theirs, layer_map)
        _, state = answer.after("student", **inputs)
        student, teacher = (inputs[name].weights for name in ("student", "teacher"))
        for layer, source in layer_map.items():
            have = _block(state, layer)
            reason = f"the student's {layer} is not the teacher's {source}, as the map asks."
            others = [f"layer.{k}" for k in range(theirs)]
            found = [x for x in others if not _differing(_block(teacher, x), have)]
            if not _differing(_block(student, layer), have):
                reason = f"the student's {layer} has not changed; the map gives it {source}."
            elif found and found[0] == layer:
                reason = f"the student's {layer} holds the teacher's block of the same number; "
                reason += f"the map gives it {source}."
            elif found and found[0] != source:
                reason = f"the student's {layer} holds the teacher's {found[0]}; the map gives it "
                reason += f"{source}. Both count from 0, and the map's keys are the student's."
            _require_copied(have, _block(teacher, source), layer, reason, inputs)


def _init_unmapped(answer: Answer, generator: torch.Generator) -> None:
    for ours, theirs, layer_map in (
        (2, 2, {"layer.1": "layer.0"}),
        (3, 3, {"layer.0": "layer.0"}),
        (2, 4, {}),
    ):
        inputs = _pair(generator, ours, theirs, layer_map)
        _, state = answer.after("student", **inputs)
        for layer in (f"layer.{k}" for k in range(ours)):
            if layer in layer_map:
                continue
            _require_copied(
                _block(state, layer),
                _block(inputs["student"].weights, layer),
                layer,
                f"the student's {layer} has changed, and the map does not name it: blocks are "
                "copied by the map alone, never by equal names.",
                inputs,
            )


def _outside(weights: Weights) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith(BLOCKS)}


OUTSIDE = {
    "word_embeddings": "the word embeddings are not the teacher's",
    "position_embeddings": "the position embeddings are not the teacher's",
    "token_type": "the token type embeddings are not the teacher's",
    "embeddings.LayerNorm": "the LayerNorm of the embeddings is not the teacher's",
    "pooler": "the pooler, between encoder and head, is not the teacher's",
    "classifier": "the head, student.classifier, is not the teacher's",
}


def _init_outside(answer: Answer, generator: torch.Generator) -> None:
    inputs = _pair(generator, 1, 2, {"layer.0": "layer.1"})
    _, state = answer.after("student", **inputs)
    want = _outside(inputs["teacher"].weights)
    for part, reason in OUTSIDE.items():
        chosen = {name: value for name, value in want.items() if part in name}
        _require_copied(
            state,
            chosen,
            part,
            f"{reason}: outside of the blocks every weight is copied that both models have under "
            "the same name and in the same shape.",
            inputs,
        )


def _init_shapes(answer: Answer, generator: torch.Generator) -> None:
    layer_map = {"layer.0": "layer.0"}
    for part, ours, theirs in (
        ("classifier", {"classes": 3}, {"classes": 4}),
        ("word_embeddings", {"vocabulary": 9}, {"vocabulary": 12}),
    ):
        student = _drawn_classifier(generator, layers=1, **ours)
        teacher = _drawn_classifier(generator, layers=1, **theirs)
        inputs: Inputs = {"student": student, "teacher": teacher, "layer_map": layer_map}
        unlike = f"student and teacher differ in {next(iter(ours))} ({next(iter(ours.values()))} "
        unlike += f"and {next(iter(theirs.values()))}), so {part} has another shape"
        try:
            _, state = answer.after("student", **inputs)
        except AnswerRaised as error:
            raise Broken(
                f"{unlike}: such weights stay the student's own; it raises {error.kind} "
                f"({error.detail}).",
                inputs=inputs,
            ) from None
        for name, value in _outside(student.weights).items():
            fits = value.shape == teacher.weights[name].shape
            what = f"{name} fits and is copied all the same" if fits else "it stays as it was"
            want = {name: teacher.weights[name] if fits else value}
            _require_copied(state, want, name, f"{unlike}: {what}.", inputs)


INIT_FROM_TEACHER_LAYERS = Exercise(
    id="init_from_teacher_layers",
    title="A student that begins with its teacher's layers",
    minutes=15,
    difficulty=2,
    reference=init_from_teacher_layers,
    parameters="student, teacher, layer_map",
    may_call="anything in torch; the models' state_dict, load_state_dict and named_parameters",
    library=("distill_lab.models.encoder_blocks", "distill_lab.models.word_embeddings"),
    not_allowed=(
        "distill_lab.models.init_from_teacher_layers",
        "distill_lab.exercises.student.init_from_teacher_layers",
    ),
    contracts=(
        Contract(
            id="mapped_blocks",
            law="Each student block of the map becomes a copy of its teacher block",
            points=1.25,
            holds=_init_mapped,
            hints=(
                'The map has the student\'s block first: {"layer.0": "layer.2"} copies the '
                "teacher's third block into the student's first.",
                'model.get_submodule("bert.encoder." + "layer.2") is a block; '
                "block.state_dict() has its weights by name.",
                "For each pair: ours.load_state_dict(theirs.state_dict()). It copies values, so "
                "the two models share no memory.",
            ),
        ),
        Contract(
            id="unmapped_blocks",
            law="A student block that the map does not name stays as it is",
            points=0.5,
            holds=_init_unmapped,
            hints=(
                "student.load_state_dict(teacher.state_dict(), strict=False) copies blocks of the "
                "same number too.",
                'Leave out names that hold ".encoder.layer." where you copy by equal names.',
            ),
        ),
        Contract(
            id="outside_blocks",
            law="Embeddings, pooler and head are copied as well",
            points=0.75,
            holds=_init_outside,
            hints=(
                "Print the names in student.state_dict() that do not hold encoder.layer: all of "
                "them are meant.",
                "In torch.no_grad(): for name, value in student.state_dict().items(): "
                "value.copy_(teacher.state_dict()[name]), for the names outside of the blocks.",
            ),
        ),
        Contract(
            id="other_shapes",
            law="What has another shape stays the student's own",
            points=0.5,
            holds=_init_shapes,
            hints=(
                "A teacher of another task has a head with another number of classes.",
                "Copy where the name is in both and the shapes agree: "
                "theirs[name].shape == value.shape.",
            ),
        ),
        unchanged(
            lambda g: _pair(g, 1, 2, {"layer.0": "layer.1"}),
            "The teacher is the same after the call as before",
            "It is copied from, never written to.",
            ("value.copy_(source) writes into value: on the left stands the student.",),
            names=("teacher", "layer_map"),
        ),
    ),
)

# --- svd_embeddings ------------------------------------------------------------------------------


def _directions(table: Tensor) -> Tensor:
    """Give V, a direction a column, that of the largest singular value first; float64."""
    directions: Tensor = torch.linalg.svd(table.double(), full_matrices=False)[2].T
    return directions


def _cut(table: Tensor, width: int, power: float = 1) -> Tensor:
    """Give U S of the ``width`` largest singular values, float64; ``power`` is that of S."""
    u, s, _ = torch.linalg.svd(table.double(), full_matrices=False)
    leading: Tensor = (u * s**power)[:, :width]
    return leading


def _centred(embeddings: Tensor) -> Tensor:
    return embeddings.double() - embeddings.double().mean(0)


def _gram(table: Tensor) -> Tensor:
    """Give the inner products of all rows, which no rotation or sign of the columns changes."""
    return table.double() @ table.double().T


def _table(answer: Answer, inputs: Inputs) -> Tensor:
    """Ask for the narrower table.

    Raises:
        Broken: It is none, or of another shape.
    """
    value = answer(**inputs)
    (rows, columns), width = inputs["embeddings"].shape, inputs["width"]
    shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    reason = f"it gives a table of shape {shape}; expected [vocabulary, width], {[rows, width]}."
    if shape == [columns, width]:
        reason += " These are the directions V: multiply the centred embeddings by them."
    if shape == [rows, columns] and columns != width:
        reason += " This has the teacher's width still: leave out the last factor, Vᵀ."
    require(shape == [rows, width], reason, inputs=inputs)
    require(
        bool(value.isfinite().all()),
        "it has NaN or infinite entries: is something divided by a singular value, which may be 0?",
        inputs=inputs,
    )
    return value  # type: ignore[no-any-return]


def _compare_grams(
    table: Tensor, right: Tensor, reason: str, unlike: Mapping[str, Tensor], inputs: Inputs
) -> None:
    """Compare two tables by the inner products of their rows.

    Raises:
        Broken: They differ.
    """
    compare(
        _gram(table).float(),
        _gram(right).float(),
        f"{reason} Shown are R Rᵀ, the inner products of the rows.",
        unlike={
            f"{sentence} Shown are R Rᵀ, the inner products of the rows.": _gram(wrong)
            for sentence, wrong in unlike.items()
        },
        rtol=1e-4,
        atol=1e-4,
        inputs=inputs,
    )


def _svd_sizes(generator: torch.Generator) -> list[tuple[Tensor, int]]:
    return [(draw(generator, rows, columns), k) for rows, columns, k in ((3, 2, 1), (6, 4, 2))]


def _svd_best(answer: Answer, generator: torch.Generator) -> None:
    for drawn, width in _svd_sizes(generator):
        embeddings = drawn - drawn.mean(0)
        exact, v = embeddings.double(), _directions(embeddings)
        inputs: Inputs = {"embeddings": embeddings, "width": width}
        right = _cut(embeddings, width)
        _compare_grams(
            _table(answer, inputs),
            right,
            "it is not U S of the largest singular values, up to signs and a rotation.",
            {
                "this is U without S: each column times its singular value, (U * S)[:, :width].": (
                    _cut(embeddings, width, 0)
                ),
                "this is U √S: expected U S.": _cut(embeddings, width, 0.5),
                "this is U S²: expected U S.": _cut(embeddings, width, 2),
                "these are the directions of smallest variance: expected the largest. "
                "torch.linalg.svd gives the largest first, torch.linalg.eigh the smallest.": (
                    exact @ v[:, -width:]
                ),
                "these are the first columns of the embeddings: expected the directions of largest "
                "variance.": embeddings[:, :width],
                "V is turned round: torch.linalg.svd gives Vᵀ, whose rows are the directions.": (
                    exact @ v.T[:, :width]
                ),
                "each column has been scaled to a standard deviation of 1: expected U S as it "
                "is.": right / right.std(0),
                "the mean of each row is subtracted: expected that of each column, mean(0).": _cut(
                    exact - exact.mean(1, keepdim=True), width
                ),
                "the columns of the embeddings have been scaled to a standard deviation of 1 "
                "before the SVD: subtract their means, and divide by nothing.": _cut(
                    exact / exact.std(0), width
                ),
            },
            inputs,
        )


def _svd_centred(answer: Answer, generator: torch.Generator) -> None:
    for drawn, width in _svd_sizes(generator):
        embeddings = drawn + torch.tensor([3.0, -2.0, 1.0, 4.0])[: drawn.shape[1]]
        raw, centred = embeddings.double(), _centred(embeddings)
        inputs: Inputs = {"embeddings": embeddings, "width": width}
        _compare_grams(
            _table(answer, inputs),
            _cut(centred, width),
            "it is not the truncated SVD of the centred embeddings.",
            {
                "the embeddings are not centred: subtract the mean of each column first, or the "
                "mean takes up the first direction.": _cut(raw, width),
                "the directions are those of the centred embeddings, but the embeddings multiplied "
                "by them are not centred.": raw @ _directions(centred)[:, :width],
                "the directions are those of the bare embeddings: centre before the SVD.": (
                    centred @ _directions(raw)[:, :width]
                ),
                "the mean of each row is subtracted: expected that of each column, mean(0).": _cut(
                    raw - raw.mean(1, keepdim=True), width
                ),
                "one mean of all entries is subtracted: expected that of each column, mean(0).": (
                    _cut(raw - raw.mean(), width)
                ),
            },
            inputs,
        )


def _svd_ordered(answer: Answer, generator: torch.Generator) -> None:
    for rows, columns, width in ((4, 2, 2), (6, 4, 2), (8, 4, 4)):
        inputs: Inputs = {"embeddings": draw(generator, rows, columns), "width": width}
        table = _table(answer, inputs).double()
        variances = _cut(_centred(inputs["embeddings"]), width).square().sum(0)
        compare(
            (table.T @ table).float(),
            variances.diag().float(),
            "the columns are correlated, or not ordered by variance. Shown is Rᵀ R, which is "
            "diagonal with the squared singular values, largest first: U S, not turned back by V.",
            unlike={
                "the columns are in the wrong order: largest variance first (torch.linalg.eigh "
                "gives the smallest first). Shown is Rᵀ R.": variances.flip(0).diag()
            },
            rtol=1e-4,
            atol=1e-4,
            inputs=inputs,
        )


def _svd_low_rank(answer: Answer, generator: torch.Generator) -> None:
    line = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    for embeddings in (line, torch.tensor([[1.0, 2.0]] * 3)):
        inputs: Inputs = {"embeddings": embeddings, "width": 2}
        _compare_grams(
            _table(answer, inputs),
            _cut(_centred(embeddings), 2),
            "these embeddings lie on a line or in a point: a direction without variance has "
            "singular value 0, and its column is 0. Nothing may be divided by it.",
            {},
            inputs,
        )


SVD_EMBEDDINGS = Exercise(
    id="svd_embeddings",
    title="The teacher's word embeddings, cut to the student's width",
    minutes=15,
    difficulty=2,
    reference=models.svd_embeddings,
    parameters="embeddings, width",
    may_call="anything in torch (torch.linalg.svd is the useful one)",
    not_allowed=(
        "distill_lab.models.svd_embeddings",
        "distill_lab.models.init_embeddings_from_teacher",
    ),
    contracts=(
        Contract(
            id="best_approximation",
            law="[vocabulary, width]: U S of the largest singular values",
            points=1,
            holds=_svd_best,
            hints=(
                "torch.linalg.svd(x, full_matrices=False) gives U, S and Vᵀ with x = U diag(S) Vᵀ, "
                "the largest singular value first.",
                "Keep the first `width` columns of U and the first `width` of S; (U * S) "
                "multiplies each column by its singular value.",
                "return (u * s)[:, :width]",
            ),
        ),
        Contract(
            id="centred",
            law="The mean embedding is subtracted first",
            points=0.75,
            holds=_svd_centred,
            hints=(
                "Without that the first direction points at the mean, which is the same for all "
                "words and tells none from another.",
                "centred = embeddings - embeddings.mean(0), and use centred from there on.",
            ),
        ),
        Contract(
            id="ordered",
            law="Columns are uncorrelated, the one of largest variance first",
            points=0.75,
            holds=_svd_ordered,
            hints=(
                "The columns of U are at right angles to each other, so those of U S are too.",
                "Multiply by S, not by Vᵀ, and leave the order as torch.linalg.svd gives it.",
            ),
        ),
        Contract(
            id="low_rank",
            law="Directions without variance give columns of 0, not NaN",
            points=0.5,
            holds=_svd_low_rank,
            hints=(
                "A singular value may be 0. Which step of yours divides?",
                "U S needs no division; neither does centred @ V.",
            ),
        ),
        unchanged(
            lambda g: {"embeddings": draw(g, 4, 3) + 1, "width": 2},
            "The embeddings are the same after the call as before",
            "embeddings -= embeddings.mean(0) writes into the teacher's own table: make a new "
            "tensor, centred = embeddings - embeddings.mean(0).",
            ("Look for -=, *=, sub_ and the like on the tensor you were given.",),
        ),
    ),
)

# --- distillation_step ---------------------------------------------------------------------------

RATE = 0.5
WEIGHT_TOLERANCE = 2e-5
"""Of weights of size 1 after a step in float32; a mistake moves them by more than 1e-3."""

Loss = Callable[[Tensor, Batch], Tensor]


def _soft(logits: Tensor, batch: Batch, temperature: float) -> Tensor:
    return temperature**2 * kl_rows(logits, batch["teacher_logits"], temperature).mean()


def _hard(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Give the cross-entropy of the labelled rows, 0 where there is none."""
    known = labels != -100
    if not bool(known.any()):
        return logits.double().sum() * 0
    rows = log_probabilities(logits, temperature)[known]
    return -rows.gather(-1, labels[known][:, None]).mean()


def _mixed(temperature: float, alpha: float) -> Loss:
    """Make α T² KL(teacher ‖ student) + (1 − α) cross-entropy, in float64."""
    return lambda logits, batch: (
        alpha * _soft(logits, batch, temperature) + (1 - alpha) * _hard(logits, batch["labels"])
    )


def _trained(
    student: Classifier,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    rate: float = RATE,
    stale: bool = False,
    masked: bool = True,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train in float64, asleep: weights afterwards, and the loss of each batch before its step.

    ``stale`` gradients are those that nobody sets to 0; ``masked`` false reads padding as words.
    """
    model = replace(student, training=()).build().double()
    losses = []
    with torch.enable_grad():
        for batch in batches:
            mask = batch["attention_mask"] if masked else None
            value = loss(model(input_ids=batch["input_ids"], attention_mask=mask).logits, batch)
            if not stale:
                model.zero_grad()
            value.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(rate * cast(Tensor, parameter.grad))
            losses.append(value.item())
    return model.state_dict(), losses


def _batch(
    generator: torch.Generator, lengths: tuple[int, ...], labels: tuple[int, ...] | None = None
) -> Batch:
    rows = len(lengths)
    drawn = torch.randint(3, (rows,), generator=generator)
    return {
        **draw_batch(generator, lengths),
        "labels": drawn if labels is None else torch.tensor(labels),
        "teacher_logits": draw(generator, rows, 3, scale=2.0),
    }


def _flat(weights: Weights, names: Iterable[str]) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in names])


Mistakes = dict[str, Callable[[], Weights]]


def _expect_weights(
    answer: Answer,
    inputs: Inputs,
    expected: Weights,
    reason: str,
    unlike: Mistakes,
) -> None:
    """Expect the student's weights after the call; mistakes are computed only if they differ.

    Raises:
        Broken: They differ.
    """
    try:
        _, state = answer.after("student", **inputs)
    except AnswerRaised as error:
        if "does not require grad" not in error.detail:
            raise
        raise Broken(
            "backward() finds nothing to learn: no weight of the student is behind this loss. The "
            "student's logits come first in distillation_loss, which takes the second as a "
            "constant; and the student must not be run under no_grad or be detached.",
            inputs=inputs,
        ) from None
    have, want = _flat(state, expected), _flat(expected, expected)
    bias = "classifier.bias"
    shown: Inputs = {
        "inputs": inputs,
        "expected": expected[bias].float(),
        "actual": state[bias],
    }
    note = f" Shown is {bias} after the call."

    def same(other: Tensor) -> bool:
        return torch.allclose(have, other, rtol=0, atol=WEIGHT_TOLERANCE)

    if same(want):
        return
    if not bool(have.isfinite().all()):
        raise Broken(
            "the weights are NaN or infinite after the step: so was the loss, or its gradient."
            + note,
            **shown,
        )
    if same(_flat(inputs["student"].weights, expected)):
        raise Broken(
            "no weight has changed: loss.backward() finds the gradients, optimizer.step() moves "
            "the weights against them." + note,
            **shown,
        )
    for sentence, wrong in unlike.items():
        mistaken = _flat(wrong(), expected)
        right = torch.allclose(mistaken, want, rtol=0, atol=WEIGHT_TOLERANCE)
        if not right and same(mistaken):
            raise Broken(sentence + note, **shown)
    raise Broken(reason + note, **shown)


def _step_inputs(student: Classifier, batch: Batch, **settings: float) -> Inputs:
    return {"student": student, "batch": batch, "optimizer": Sgd(RATE), **settings}


def _soft_mistakes(student: Classifier, batch: Batch, temperature: float) -> Mistakes:
    """Give the weights after wrong steps at alpha = 1."""
    right, square, rows = _mixed(temperature, 1.0), temperature**2, len(batch["labels"])

    def after(loss: Loss, batches: int = 1, **how: Any) -> Callable[[], Weights]:
        return lambda: _trained(student, [batch] * batches, loss, **how)[0]

    def scaled(factor: float) -> Loss:
        return lambda logits, batch: factor * right(logits, batch)

    def turned(logits: Tensor, batch: Batch) -> Tensor:
        return square * kl_rows(batch["teacher_logits"], logits, temperature).mean()

    return {
        "the step goes up the loss, not down: optimizer.step() subtracts the gradient of the loss "
        "by itself.": after(right, rate=-RATE),
        "T² is missing: distillation_loss has it, and the gradient is T² times too small without "
        "it.": after(scaled(1 / square)),
        "T² is there twice: distillation_loss has it already.": after(scaled(square)),
        "this is KL(student ‖ teacher): the student's logits come first in "
        "distillation_loss.": after(turned),
        "the logits are not divided by T.": after(lambda z, b: square * _soft(z, b, 1.0)),
        "alpha is not handed on, and distillation_loss takes 0.5 if it is given none: "
        "temperature=temperature, alpha=alpha.": after(_mixed(temperature, 0.5)),
        "the temperature is not handed on, and distillation_loss takes 2 if it is given none: "
        "temperature=temperature.": after(_mixed(2.0, 1.0)),
        "this is a step on the labels: at alpha = 1 the teacher alone is asked. (A model that is "
        "fed labels gives its own loss, output.loss, which knows no teacher.)": after(
            lambda z, b: _hard(z, b["labels"])
        ),
        "the attention mask is not passed on: the student reads the padding as words.": after(
            right, masked=False
        ),
        "the loss is summed over the batch: expected the mean.": after(scaled(rows)),
        "the step is taken twice.": after(right, batches=2),
        "the gradient is there twice: one backward() a step.": after(right, rate=2 * RATE),
    }


def _step_soft(answer: Answer, generator: torch.Generator) -> None:
    for lengths, temperature in (((2,), 2.0), ((2, 2), 3.0), ((3, 1, 2), 1.5)):
        student, batch = draw_classifier(generator), _batch(generator, lengths)
        _expect_weights(
            answer,
            _step_inputs(student, batch, temperature=temperature, alpha=1.0),
            _trained(student, [batch], _mixed(temperature, 1.0))[0],
            f"at alpha = 1 and T = {temperature:g} the weights are not those after one step "
            "against the gradient of T² · KL(teacher ‖ student).",
            _soft_mistakes(student, batch, temperature),
        )


def _mixed_mistakes(
    student: Classifier, batch: Batch, temperature: float, alpha: float
) -> Mistakes:
    """Give the weights after steps with wrong weights or wrong hard terms."""
    known = float((batch["labels"] != -100).double().mean())

    def after(
        soft: float,
        hard: float,
        hard_loss: Callable[[Tensor, Tensor], Tensor] = _hard,
        at: float = temperature,
    ) -> Callable[[], Weights]:
        def loss(logits: Tensor, batch: Batch) -> Tensor:
            return soft * _soft(logits, batch, at) + hard * hard_loss(logits, batch["labels"])

        return lambda: _trained(student, [batch], loss)[0]

    rest = 1 - alpha
    return {
        "alpha and 1 − alpha are swapped: alpha weighs the teacher.": after(rest, alpha),
        "alpha has no effect: hand it on, alpha=alpha.": after(0.5, 0.5),
        "the temperature has no effect: hand it on, temperature=temperature.": after(
            alpha, rest, at=2.0
        ),
        "neither temperature nor alpha has an effect: hand them on.": after(0.5, 0.5, at=2.0),
        "this is the soft term alone: the labels are left out.": after(alpha, 0.0),
        "this is the soft term with all the weight: the labels are left out.": after(1.0, 0.0),
        "this is the hard term alone: the teacher is left out.": after(0.0, rest),
        "this is the hard term with all the weight: the teacher is left out.": after(0.0, 1.0),
        "−100 marks a row without a label; here it is taken for class 0.": after(
            alpha, rest, lambda z, labels: _hard(z, labels.clamp(min=0))
        ),
        "the hard term is divided by all rows: its mean runs over the labelled ones.": after(
            alpha, rest * known
        ),
        "the hard term is softened too: labels are compared at T = 1.": after(
            alpha, rest, lambda z, labels: _hard(z, labels, temperature)
        ),
    }


def _step_both(answer: Answer, generator: torch.Generator) -> None:
    temperature, alpha = 3.0, 0.2
    for labels in ((1,), (0, 2), (2, -100, 0), (-100, -100)):
        student = draw_classifier(generator)
        batch = _batch(generator, (2, 3, 2)[: len(labels)], labels)
        _expect_weights(
            answer,
            _step_inputs(student, batch, temperature=temperature, alpha=alpha),
            _trained(student, [batch], _mixed(temperature, alpha))[0],
            f"at alpha = {alpha:g} and T = {temperature:g} the weights are not those after a step "
            "against the gradient of α T² KL(teacher ‖ student) + (1 − α) cross-entropy.",
            _mixed_mistakes(student, batch, temperature, alpha),
        )


def _require_float(value: Any, inputs: Inputs, what: str) -> None:
    reason = f"it gives {type(value).__name__}; expected a float, {what}."
    if isinstance(value, Tensor):
        reason = "it gives a tensor, which keeps the graph of its batch in memory for as long as "
        reason += f"it is kept itself; expected a float, {what}: loss.item()."
    if value is None:
        reason = f"it gives None: return {what}."
    require(isinstance(value, float), reason, inputs=inputs, actual=value)


def _step_loss(answer: Answer, generator: torch.Generator) -> None:
    for labels in ((1,), (2, -100, 0), (-100, -100)):
        student = draw_classifier(generator)
        batch = _batch(generator, (2,) * len(labels), labels)
        loss = _mixed(2.0, 0.25)
        inputs = _step_inputs(student, batch, temperature=2.0, alpha=0.25)
        value = answer(**inputs)
        _require_float(value, inputs, "the loss before the step")
        require(
            math.isfinite(value),
            f"the loss is {value}: without any labelled row a mean over those is 0 / 0. The hard "
            "term is 0 then, as in distillation_loss.",
            inputs=inputs,
        )
        _, (before, after) = _trained(student, [batch, batch], loss)
        _, (soft, _) = _trained(student, [batch, batch], lambda z, b: _soft(z, b, 2.0), rate=0)
        _, (hard, _) = _trained(student, [batch, batch], lambda z, b: _hard(z, b["labels"]), rate=0)
        compare(
            value,
            torch.tensor(before),
            "it is not the loss that the step was taken against.",
            unlike={
                "this is the loss after the step: keep the one that backward() was called on; "
                "the student need not run twice.": after,
                "this is the soft term alone.": soft,
                "this is the hard term alone.": hard,
                "this is the sum over the batch: expected the mean.": before * len(labels),
            },
            atol=2e-5,
            inputs=inputs,
        )


def _step_defaults(answer: Answer, generator: torch.Generator) -> None:
    student, batch = draw_classifier(generator), _batch(generator, (2, 3))
    _expect_weights(
        answer,
        _step_inputs(student, batch),
        _trained(student, [batch], _mixed(2.0, 0.5))[0],
        "called without temperature and alpha it must take T = 2 and alpha = 0.5, as the stub's "
        "first line says.",
        {},
    )


DISTILLATION_STEP = Exercise(
    id="distillation_step",
    title="One step towards the teacher",
    minutes=15,
    difficulty=2,
    reference=distillation_step,
    parameters="student, batch, optimizer, *, temperature=2.0, alpha=0.5",
    may_call="the student, the optimizer, distillation_loss (yours of lesson 04 or the library's)",
    library=(
        "distill_lab.losses.cross_entropy",
        "distill_lab.losses.distillation_loss",
        "distill_lab.losses.kl_divergence",
    ),
    not_allowed=("distill_lab.exercises.student.distillation_step",),
    contracts=(
        Contract(
            id="soft_step",
            law="At alpha = 1 the weights move against the gradient of T² · KL(teacher ‖ student)",
            points=1.25,
            holds=_step_soft,
            hints=(
                "Five lines: run the student, compute the loss, zero_grad, backward, step.",
                "The student is fed batch['input_ids'] and batch['attention_mask']; "
                "batch['teacher_logits'] goes into the loss.",
                "loss = distillation_loss(logits, batch['teacher_logits'], batch['labels'], "
                "temperature=temperature, alpha=alpha); optimizer.zero_grad(); loss.backward(); "
                "optimizer.step()",
            ),
        ),
        Contract(
            id="both_terms",
            law="Temperature and alpha are used; rows with label −100 have no hard term",
            points=1.25,
            holds=_step_both,
            hints=(
                "Hand temperature and alpha on to the loss by name.",
                "distillation_loss leaves out rows with label −100 by itself; give it the labels "
                "as they are.",
            ),
        ),
        Contract(
            id="loss_before",
            law="It gives the loss before the step, a float",
            points=1,
            holds=_step_loss,
            hints=(
                "The loss that backward() was called on is the one.",
                "return loss.item()",
            ),
        ),
        Contract(
            id="defaults",
            law="Temperature is 2 and alpha 0.5 if not given",
            points=0.5,
            holds=_step_defaults,
            hints=("Keep the stub's first line, with temperature=2.0 and alpha=0.5.",),
        ),
        unchanged(
            lambda g: _step_inputs(draw_classifier(g), _batch(g, (2, 1), (1, -100))),
            "The batch is the same after the call as before",
            "The next epoch needs it again: read batch['labels'] rather than batch.pop('labels').",
            ("Look for pop, del and operators that write in place, such as labels[…] = 0.",),
            names=("batch",),
        ),
    ),
)

# --- train_epoch ---------------------------------------------------------------------------------


def _epoch_inputs(student: Classifier, batches: list[Batch], **settings: float) -> Inputs:
    return {"student": student, "batches": batches, "optimizer": Sgd(RATE), **settings}


def _epoch_batches(generator: torch.Generator, sizes: tuple[int, ...]) -> list[Batch]:
    return [_batch(generator, (2,) * size) for size in sizes]


def _epoch_mistakes(student: Classifier, batches: list[Batch], loss: Loss) -> Mistakes:
    """Give the weights after wrong passes."""

    def after(chosen: list[Batch], **how: Any) -> Callable[[], Weights]:
        return lambda: _trained(student, chosen, loss, **how)[0]

    def together(share: float) -> Callable[[], Weights]:
        """One step, on a share of the sum of all batches' losses."""

        def weights() -> Weights:
            start = student.weights
            moved = [_trained(student, [batch], loss)[0] for batch in batches]
            return {
                name: value + share * sum(m[name] - value for m in moved)
                for name, value in start.items()
            }

        return weights

    return {
        "the gradients of the batch before are still in there: PyTorch adds new gradients to old "
        "ones. optimizer.zero_grad() belongs before each backward().": after(batches, stale=True),
        "only the first batch was trained on: does the return stand inside the loop?": after(
            batches[:1]
        ),
        "only the last batch was trained on: does the step stand after the loop?": after(
            batches[-1:]
        ),
        "the last batch was left out: it is smaller than the others, and counts all the "
        "same.": after(batches[:-1]),
        "the batches were gone through twice: an epoch is one pass.": after(batches * 2),
        "the batches were taken from the last to the first.": after(batches[::-1]),
        "one step was taken on the sum of all batches' losses: expected a step for each "
        "batch.": together(1.0),
        "one step was taken on the mean of all batches' losses: expected a step for each "
        "batch.": together(1 / len(batches)),
    }


def _epoch_weights(answer: Answer, generator: torch.Generator) -> None:
    loss = _mixed(2.0, 0.5)
    for sizes in ((1,), (1, 1), (2, 2, 1)):
        student, batches = draw_classifier(generator), _epoch_batches(generator, sizes)
        _expect_weights(
            answer,
            _epoch_inputs(student, batches),
            _trained(student, batches, loss)[0],
            f"the weights are not those after {len(sizes)} steps, one for each batch, in order.",
            _epoch_mistakes(student, batches, loss),
        )


def _epoch_loss(answer: Answer, generator: torch.Generator) -> None:
    loss = _mixed(2.0, 0.5)
    for sizes in ((1,), (2, 1), (3, 3, 1)):
        student, batches = draw_classifier(generator), _epoch_batches(generator, sizes)
        inputs = _epoch_inputs(student, batches)
        value = answer(**inputs)
        _require_float(value, inputs, "the mean loss over all examples")
        weights, losses = _trained(student, batches, loss)
        trained = replace(student, weights={n: w.float() for n, w in weights.items()})
        _, afterwards = _trained(trained, batches, loss, rate=0)
        each, count = torch.tensor(losses).double(), torch.tensor(sizes)
        total = (each * count).sum()
        compare(
            value,
            (total / count.sum()).float(),
            "it is not the mean over all examples of the losses that the steps were taken against.",
            unlike={
                "this is the mean over the batches: an example of the smaller last batch then "
                "weighs more than others. Weigh each batch's loss by its number of rows (not by "
                "len(batch): a batch is a dict, and that counts its keys).": (each.mean()),
                "this is the sum of the batches' losses: expected the mean over the examples.": (
                    each.sum()
                ),
                "this is the sum over all examples: divide by their number.": total,
                "this is the sum over all examples, divided by the number of batches.": total
                / len(sizes),
                "this is the last batch's loss.": each[-1],
                "this is the first batch's loss.": each[0],
                "these are the losses after the epoch: the student has learnt in between. Keep "
                "those that distillation_step gives.": (torch.tensor(afterwards) * count).sum()
                / count.sum(),
            },
            rtol=3e-5,
            atol=2e-5,
            inputs=inputs,
        )


def _epoch_awake(answer: Answer, generator: torch.Generator) -> None:
    student = draw_classifier(generator, dropout=0.5)
    batches = _epoch_batches(generator, (2, 2))
    inputs = _epoch_inputs(student, batches)
    _, state = answer.after("student", **inputs)
    asleep, _ = _trained(student, batches, _mixed(2.0, 0.5))
    have, without = _flat(state, asleep), _flat(asleep, asleep)
    require(
        not torch.allclose(have, without, rtol=0, atol=WEIGHT_TOLERANCE),
        "the student came in evaluation mode and was trained in it, so no dropout fell. Begin with "
        "student.train(): a model that was evaluated before is asleep.",
        inputs=inputs,
    )


def _epoch_settings(answer: Answer, generator: torch.Generator) -> None:
    student, batches = draw_classifier(generator), _epoch_batches(generator, (1, 2))

    def after(temperature: float, alpha: float) -> Callable[[], Weights]:
        return lambda: _trained(student, batches, _mixed(temperature, alpha))[0]

    _expect_weights(
        answer,
        _epoch_inputs(student, batches, temperature=3.0, alpha=0.2),
        after(3.0, 0.2)(),
        "with temperature and alpha given, the weights are not those after steps with them.",
        {
            "neither temperature nor alpha reaches the step: hand both on by name.": after(
                2.0, 0.5
            ),
            "the temperature does not reach the step: temperature=temperature.": after(2.0, 0.2),
            "alpha does not reach the step: alpha=alpha.": after(3.0, 0.5),
        },
    )


TRAIN_EPOCH = Exercise(
    id="train_epoch",
    title="Once through all batches",
    minutes=15,
    difficulty=2,
    reference=train_epoch,
    parameters="student, batches, optimizer, *, temperature=2.0, alpha=0.5",
    may_call="distillation_step (yours or the library's), the student, the optimizer",
    library=("distill_lab.losses.distillation_loss",),
    not_allowed=("distill_lab.exercises.student.train_epoch",),
    contracts=(
        Contract(
            id="every_batch",
            law="One step for each batch, in order, on its own gradient alone",
            points=1,
            holds=_epoch_weights,
            hints=(
                "A loop over the batches, with a distillation_step in it.",
                "If you write the step here: zero_grad, backward, step, in each round. Gradients "
                "that are not set to 0 add up.",
                "for batch in batches: loss = distillation_step(student, batch, optimizer, "
                "temperature=temperature, alpha=alpha)",
            ),
        ),
        Contract(
            id="mean_loss",
            law="It gives the mean loss over the examples: a smaller batch weighs less",
            points=1,
            holds=_epoch_loss,
            hints=(
                "Each step's loss is a mean over the rows of its batch. To average over examples, "
                "undo that first.",
                "total += loss * rows and examples += rows in the loop; total / examples after it.",
                "rows = len(batch['input_ids'])",
            ),
        ),
        Contract(
            id="awake",
            law="The student is trained in training mode, however it came",
            points=0.75,
            holds=_epoch_awake,
            hints=(
                "A student whose validation score has just been measured is in evaluation mode.",
                "First line: student.train()",
            ),
        ),
        Contract(
            id="settings",
            law="Temperature and alpha reach the steps",
            points=0.25,
            holds=_epoch_settings,
            hints=(
                "Parameters that are never used have no effect.",
                "distillation_step(…, temperature=temperature, alpha=alpha)",
            ),
        ),
        unchanged(
            lambda g: _epoch_inputs(draw_classifier(g), _epoch_batches(g, (2, 1))),
            "The batches are the same after the call as before",
            "The next epoch needs them again: read them, take nothing out.",
            ("Look for pop and del on batches or on a batch.",),
            names=("batches",),
        ),
    ),
)

# --- bootstrap_interval --------------------------------------------------------------------------

LEVELS = (0.025, 0.975)


def _resampled(
    values: Tensor, groups: Tensor, *, of_means: bool = False, once: bool = False
) -> Tensor:
    """Give the means of 20,000 resamples of groups, ``of_means`` of the groups' own means.

    With ``once`` a group that is drawn several times counts once.
    """
    _, group = groups.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(20_000)
    sums = torch.zeros(int(group.max()) + 1).double().index_add(0, group, values.double())
    sizes = group.bincount().double()
    drawn = torch.randint(len(sizes), (20_000, len(sizes)), generator=generator)
    if once:
        present = torch.zeros(drawn.shape).double().scatter(1, drawn, 1.0)
        kept: Tensor = (present @ sums) / (present @ sizes)
        return kept
    means: Tensor = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return (sums / sizes)[drawn].mean(1) if of_means else means


def _interval(answer: Answer, **inputs: Any) -> Tensor:
    """Ask for the two ends, float64 [2].

    Raises:
        Broken: It gives no two numbers.
    """
    value = answer(**inputs)
    two = isinstance(value, list | tuple | Tensor) and len(value) == 2
    require(
        two,
        f"it gives {type(value).__name__}; expected two numbers, (low, high).",
        inputs=inputs,
        actual=value,
    )
    ends = torch.tensor([float(end) for end in value]).double()
    require(
        not bool(ends.isnan().any()),
        "an end of the interval is NaN: a mean over no example. Every group that is drawn must "
        "have examples, whatever numbers the groups have.",
        inputs=inputs,
        actual=ends,
    )
    require(
        bool(ends[0] <= ends[1]),
        "the lower end comes first: (low, high).",
        inputs=inputs,
        actual=ends,
    )
    return ends


def _compare_ends(
    ends: Tensor,
    means: Tensor,
    reason: str,
    unlike: Mapping[str, Tensor],
    inputs: Inputs,
    share: float,
) -> None:
    """Compare an interval with that of resampled means, to a share of their standard deviation.

    Of several mistakes within that share the nearest is named.

    Raises:
        Broken: It differs.
    """
    nearest = sorted(unlike.items(), key=lambda mistake: float((ends - mistake[1]).abs().max()))
    compare(
        ends,
        means.quantile(torch.tensor(LEVELS).double()),
        reason,
        unlike=dict(nearest),
        rtol=0,
        atol=share * float(means.std()),
        inputs=inputs,
    )


def _articles(generator: torch.Generator) -> Inputs:
    """Draw 20 groups of 10 examples that are alike within a group."""
    level = draw(generator, 20, 1)
    values = level + 0.1 * draw(generator, 20, 10)
    groups = torch.arange(20)[:, None].expand(20, 10)
    return {"values": values.flatten(), "groups": groups.flatten()}


def _bootstrap_groups(answer: Answer, generator: torch.Generator) -> None:
    for values, groups, expected, reason in (
        (
            [0.0, 1.0, 1.0],
            [1, 1, 1],
            [2 / 3, 2 / 3],
            "there is one group, so every resample is that group whole and has the mean 2/3. Draw "
            "groups, each with all of its examples, not examples.",
        ),
        (
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
            [1, 1, 1, 2, 2, 2],
            [0.0, 1.0],
            "of two groups a resample draws two, with replacement: a quarter of the resamples is "
            "group 1 twice (mean 0), a quarter group 2 twice (mean 1), so the interval is from 0 "
            "to 1. Drawing examples instead gives a narrower one.",
        ),
    ):
        inputs: Inputs = {"values": torch.tensor(values), "groups": torch.tensor(groups)}
        ends = _interval(answer, **inputs)
        require(
            bool(ends[0] > min(values) - 0.01 and ends[1] < max(values) + 0.01),
            "no resample has a mean below the smallest value or above the largest, and this "
            "interval goes beyond them, as mean ± 1.96 standard errors may: expected percentiles "
            "of the resampled means.",
            inputs=inputs,
            expected=torch.tensor(expected),
            actual=ends,
        )
        compare(
            ends,
            torch.tensor(expected),
            reason,
            unlike={
                "this is the mean twice: no resample differs from it. Draw with replacement, so "
                "that some groups come twice and others not at all.": torch.tensor(values)
                .mean()
                .repeat(2),
                "both ends are the smallest mean: np.percentile counts from 0 to 100, so the ends "
                "are at 2.5 and 97.5 (at 0.025 and 0.975 for np.quantile and torch.quantile).": (
                    torch.tensor(values).min().repeat(2)
                ),
            },
            inputs=inputs,
        )
    inputs = _articles(generator) | {"resamples": 4000}
    values, groups = inputs["values"], inputs["groups"]
    means = _resampled(values, groups)
    middle, spread = means.mean(), means.std()
    _compare_ends(
        _interval(answer, **inputs),
        means,
        "it is not the interval from the 2.5th to the 97.5th percentile of the resampled means.",
        {
            "examples were drawn one by one: examples of one group are alike, and the interval is "
            "too narrow for that.": _resampled(values, torch.arange(len(values))).quantile(
                torch.tensor(LEVELS).double()
            ),
            "a group that is drawn twice counts only once here (isin and sets do that): it brings "
            "its examples as often as it is drawn.": _resampled(values, groups, once=True).quantile(
                torch.tensor(LEVELS).double()
            ),
            "a resample holds one group here: of G groups it draws G.": (
                torch.stack([values[groups == g].mean() for g in groups.unique()])
                .double()
                .repeat(200)
                .quantile(torch.tensor(LEVELS).double())
            ),
            "this is a 90 % interval: 95 % leaves out 2.5 % at each end.": means.quantile(
                torch.tensor([0.05, 0.95]).double()
            ),
            "this is a 99 % interval: 95 % leaves out 2.5 % at each end.": means.quantile(
                torch.tensor([0.005, 0.995]).double()
            ),
            "this is the mean ± one standard error: a 95 % interval is about twice as wide.": (
                torch.stack([middle - spread, middle + spread])
            ),
            "these are percentiles of the values themselves: expected those of the resampled "
            "means.": values.double().quantile(torch.tensor(LEVELS).double()),
        },
        inputs,
        share=0.2,
    )


def _bootstrap_unequal(answer: Answer, generator: torch.Generator) -> None:
    sizes = torch.arange(12) + 1
    groups = torch.arange(12).repeat_interleave(sizes)
    # Long articles are the easier ones: the mean over examples lies above that over articles.
    values = (groups / 12 + 0.1 * draw(generator, len(groups))).float()
    inputs: Inputs = {"values": values, "groups": groups, "resamples": 4000}
    means = _resampled(values, groups)
    _compare_ends(
        _interval(answer, **inputs),
        means,
        "with groups of unequal sizes it is not the interval of the mean over all drawn examples: "
        "the sum of all drawn values over the number of all drawn examples.",
        {
            "this is the interval of the mean of group means, in which a group of 1 counts as much "
            "as one of 12: add up the drawn groups' values and sizes first, divide once.": (
                _resampled(values, groups, of_means=True).quantile(torch.tensor(LEVELS).double())
            ),
        },
        inputs,
        share=0.25,
    )


def _bootstrap_numbering(answer: Answer, generator: torch.Generator) -> None:
    for ids in ((1, 0), (7, 900)):
        inputs: Inputs = {
            "values": torch.tensor([0.0, 1.0] * 3),
            "groups": torch.tensor(ids * 3),
        }
        compare(
            _interval(answer, **inputs),
            torch.tensor([0.0, 1.0]),
            f"there are two groups, {ids[0]} and {ids[1]}, the one all 0 and the other all 1, so "
            "the interval is from 0 to 1. A group's number says only who belongs together: it is "
            "no index, and its examples need not stand side by side.",
            inputs=inputs,
        )


def _bootstrap_seed(answer: Answer, generator: torch.Generator) -> None:
    inputs = _articles(generator) | {"resamples": 200}
    first, again, other = (_interval(answer, **inputs, seed=seed) for seed in (3, 3, 4))
    require(
        torch.equal(first, again),
        "the same seed gives another interval at the second call: draw from a generator made from "
        "the seed, np.random.default_rng(seed) or torch.Generator().manual_seed(seed).",
        inputs=inputs | {"seed": 3},
        expected=first,
        actual=again,
    )
    require(
        not torch.equal(first, other),
        "seeds 3 and 4 give the same interval: the seed has no effect.",
        inputs=inputs | {"seed": 4},
        actual=other,
    )


def _bootstrap_resamples(answer: Answer, generator: torch.Generator) -> None:
    values = torch.tensor([0.0, 1.0, 3.0])
    inputs: Inputs = {"values": values, "groups": torch.tensor([1, 2, 3]), "resamples": 1}
    for seed in range(4):
        ends = _interval(answer, **inputs, seed=seed)
        require(
            bool(ends[0] == ends[1]),
            "one resample has one mean, and all its percentiles are that mean: low and high must "
            "be equal. Is the number of resamples used?",
            inputs=inputs | {"seed": seed},
            actual=ends,
        )


BOOTSTRAP_INTERVAL = Exercise(
    id="bootstrap_interval",
    title="How sure is a mean over sentences of the same articles?",
    minutes=15,
    difficulty=2,
    reference=bootstrap_interval,
    parameters="values, groups, resamples=2000, seed=0",
    may_call="anything in torch and numpy (np.percentile or torch.quantile)",
    not_allowed=(
        "scipy.stats.bootstrap",
        "distill_lab.exercises.student.bootstrap_interval",
    ),
    contracts=(
        Contract(
            id="whole_groups",
            law="The 2.5th and 97.5th percentile of means of resampled groups",
            points=1.25,
            holds=_bootstrap_groups,
            hints=(
                "A resample: of G groups draw G with replacement, put their examples together, "
                "take the mean. Do that `resamples` times.",
                "Of each group only two numbers are needed: the sum of its values and its size. A "
                "resample's mean is the sum of the drawn sums over the sum of the drawn sizes.",
                "drawn = rng.integers(G, size=(resamples, G)); means = sums[drawn].sum(1) / "
                "sizes[drawn].sum(1); np.percentile(means, [2.5, 97.5])",
            ),
        ),
        Contract(
            id="unequal_groups",
            law="Each drawn example counts once, in large and in small groups",
            points=0.75,
            holds=_bootstrap_unequal,
            hints=(
                "The mean of group means is another number than the mean of all examples.",
                "Divide once, at the end of each resample: all drawn values over all drawn sizes.",
            ),
        ),
        Contract(
            id="any_numbering",
            law="Groups may have any numbers and lie scattered",
            points=0.25,
            holds=_bootstrap_numbering,
            hints=(
                "Articles 7 and 900 are two groups, not 901.",
                "np.unique(groups, return_inverse=True) and torch.unique(groups, "
                "return_inverse=True) number the groups 0, 1, 2, …",
            ),
        ),
        Contract(
            id="seed",
            law="The same seed gives the same interval, another seed another",
            points=0.5,
            holds=_bootstrap_seed,
            hints=(
                "A number in a report must come out again.",
                "rng = np.random.default_rng(seed), and every draw from rng.",
            ),
        ),
        Contract(
            id="resamples",
            law="One resample gives an interval of one point",
            points=0.25,
            holds=_bootstrap_resamples,
            hints=(
                "The parameter resamples says how many means there are.",
                "size=(resamples, G)",
            ),
        ),
        unchanged(
            lambda g: {"values": draw(g, 4), "groups": torch.tensor([3, 1, 3, 1])},
            "The inputs are the same after the call as before",
            "Make new tensors of what you need.",
            ("Look for sort_, -= and the like on values or groups.",),
        ),
    ),
)

LESSON = Lesson(
    name="06_student_training",
    title="Training the student: first weights, steps, and honest intervals",
    minutes=90,
    difficulty=2,
    exercises=(
        INIT_FROM_TEACHER_LAYERS,
        SVD_EMBEDDINGS,
        DISTILLATION_STEP,
        TRAIN_EPOCH,
        BOOTSTRAP_INTERVAL,
    ),
)
