"""Lesson 05, knowledge extraction: asking the teacher once, storing little, knowing whose it is.

The expected values are computed here in float64, not by the library. Lesson 06 uses the contract
``unchanged`` too.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_lab import knowledge
from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Contract,
    Drawn,
    Inputs,
    compare,
    draw,
    nothing_changes,
    require,
)
from distill_lab.exercises.extraction import extract_logits, fingerprint
from distill_lab.exercises.lesson_03 import log_probabilities, over_the_batch
from distill_lab.exercises.objects import Classifier, draw_batch, draw_classifier
from distill_lab.exercises.registry import Exercise, Lesson

Batch = dict[str, Any]

# --- what contracts share ------------------------------------------------------------------------


def unchanged(
    drawn: Drawn, law: str, mend: str, hints: tuple[str, ...], names: tuple[str, ...] = ()
) -> Contract:
    """Make the contract that the named inputs (all, if none is named) stay as they were."""
    reason = "it changes {changed}: the caller holds something else after the call than before. "
    return nothing_changes(drawn, reason=reason + mend, hints=hints, law=law, names=names)


# --- extract_logits ------------------------------------------------------------------------------


def teacher_logits(teacher: Classifier, batch: Mapping[str, Any]) -> Tensor:
    """Give the logits of a sleeping teacher in float64, `[batch, classes]`."""
    model = replace(teacher, training=()).build().double()
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
    return logits


def _batch(
    generator: torch.Generator, ids: tuple[str, ...], lengths: tuple[int, ...], padding: int = 0
) -> Batch:
    return {"id": list(ids), **draw_batch(generator, lengths, padding=padding)}


def _by_id(teacher: Classifier, batches: list[Batch]) -> dict[str, Tensor]:
    """The right answer, in float64."""
    return {
        id: row
        for batch in batches
        for id, row in zip(batch["id"], teacher_logits(teacher, batch), strict=True)
    }


def _expect_logits(
    answer: Answer,
    teacher: Classifier,
    batches: list[Batch],
    reason: str,
    unlike: Mapping[str, dict[str, Tensor]] | None = None,
) -> None:
    """Expect the right logits under every id; ``unlike`` holds those of mistakes, by id too.

    Raises:
        Broken: Something differs.
    """
    inputs: Inputs = {"teacher": teacher, "batches": batches}
    expected = _by_id(teacher, batches)
    value = answer(**inputs)
    require(
        isinstance(value, Mapping),
        f"it gives {type(value).__name__}; expected a dict with a text's logits under its id.",
        inputs=inputs,
    )
    missing = [id for id in expected if id not in value]
    require(
        not missing,
        f"no logits under {' and '.join(map(repr, missing))}: "
        + _why_missing(set(value), missing, batches[-1]["id"]),
        inputs=inputs,
        expected=sorted(expected),
        actual=sorted(map(str, value)),
    )
    strange = [key for key in value if key not in expected]
    require(not strange, f"no text has the id {strange[:1]}: drop it.", inputs=inputs)
    for id, row in expected.items():
        have = value[id]
        shown = {"inputs": inputs, "expected": row.float(), "actual": have}
        is_row = isinstance(have, Tensor) and have.shape == row.shape
        what = f"no tensor but a value of type {type(have).__name__}"
        if isinstance(have, Tensor):
            what = f"a tensor of shape {list(have.shape)}"
        require(
            is_row,
            f"under {id!r} stands {what}; expected the row of this one text, a tensor of shape "
            f"[{len(row)}].",
            **shown,
        )
        dtype = str(have.dtype).removeprefix("torch.")
        require(
            have.dtype == torch.float32,
            f"the logits are {dtype}; expected float32, as the teacher computes them: "
            "float16 and bfloat16 round them, float64 takes twice the room.",
            **shown,
        )
        mistakes = {sentence: rows[id] for sentence, rows in (unlike or {}).items()}
        others = {
            f"under {id!r} stand the logits of {other!r}: take ids and rows in pairs, batch by "
            "batch, as zip does.": expected[other]
            for other in expected
            if other != id
        }
        # float32 against float64 through a whole network.
        compare(have, row.float(), reason, unlike=mistakes | others, atol=1e-5, inputs=inputs)


def _why_missing(keys: set[Any], missing: list[str], last: list[str]) -> str:
    if keys and all(isinstance(key, int) for key in keys):
        return "the keys are numbers. A row's number changes with order and batch size, its id not."
    if keys and keys <= set(last):
        return "only the last batch is there: make the dict once, before the loop."
    if missing == last:
        return "the last batch is left out: it is smaller than the others, and counts all the same."
    return "every text of every batch has a place of its own."


def _extract_values(answer: Answer, generator: torch.Generator) -> None:
    teacher = draw_classifier(generator)
    for batch in (
        _batch(generator, ("b3",), (3,)),
        _batch(generator, ("b3", "a1"), (2, 2)),
    ):
        right = _by_id(teacher, [batch])
        _expect_logits(
            answer,
            teacher,
            [batch],
            "these are not the teacher's logits, teacher(input_ids=…, attention_mask=…).logits.",
            unlike={
                "these are probabilities: keep the logits, from which any temperature can be "
                "computed later.": {id: row.softmax(-1) for id, row in right.items()},
                "these are log-probabilities: keep the logits as the teacher gives them.": {
                    id: row.log_softmax(-1) for id, row in right.items()
                },
                "the mask is turned round: 1 is where a token counts.": _by_id(
                    teacher, [batch | {"attention_mask": 1 - batch["attention_mask"]}]
                ),
                "this is 1 at the most probable class: that is a hard label, and what the teacher "
                "knows beyond it is lost.": {
                    id: (row == row.max()).double() for id, row in right.items()
                },
            },
        )


def _extract_every_id(answer: Answer, generator: torch.Generator) -> None:
    teacher = draw_classifier(generator)
    for grouped in (
        (("b2",), ("a1",)),
        (("c3", "a1"), ("b2",)),
        (("e5", "b2"), ("d4", "a1"), ("c3",)),
    ):
        batches = [
            _batch(generator, ids, (2 + k,) * len(ids)) for k, ids in enumerate(grouped, start=1)
        ]
        _expect_logits(answer, teacher, batches, "these are not the logits of this text.")


def _extract_mask(answer: Answer, generator: torch.Generator) -> None:
    teacher = draw_classifier(generator)
    for ids, lengths, padding in ((("a1",), (2,), 1), (("a1", "b2"), (3, 1), 0)):
        batch = _batch(generator, ids, lengths, padding)
        mask = batch["attention_mask"]
        unmasked = batch | {"attention_mask": torch.ones_like(mask)}
        _expect_logits(
            answer,
            teacher,
            [batch],
            "padding changes the logits.",
            unlike={
                "the attention mask is not passed on: the teacher reads the padding as words, so a "
                "text's logits depend on how long the others in its batch are.": _by_id(
                    teacher, [unmasked]
                ),
            },
        )
        # Another id where nothing counts: a mask of the answer's own would take it for a word.
        strange = batch | {"input_ids": batch["input_ids"].masked_fill(mask == 0, 5)}
        _expect_logits(
            answer,
            teacher,
            [strange],
            "padding changes the logits: where the batch's own attention_mask is 0, the token's id "
            "must not matter, be it 0 or 5.",
        )


def _extract_asleep(answer: Answer, generator: torch.Generator) -> None:
    awake = {
        ("",): "the teacher came in training mode, and dropout has changed its logits. Put it to "
        "sleep with teacher.eval(); torch.no_grad() stops gradients only, not dropout.",
        ("bert.encoder",): "a part of the teacher is in training mode (bert.encoder), although "
        "teacher.training is False, and dropout has changed the logits. Call teacher.eval() "
        "whatever teacher.training says: it reaches every part.",
    }
    for training, reason in awake.items():
        teacher = draw_classifier(generator, dropout=0.5, training=training)
        for ids in (("a1",), ("a1", "b2")):
            batch = _batch(generator, ids, (3,) * len(ids))
            _expect_logits(answer, teacher, [batch], reason)


def _drawn_extraction(generator: torch.Generator) -> Inputs:
    return {
        "teacher": draw_classifier(generator),
        "batches": [_batch(generator, ("a1", "b2"), (2, 1))],
    }


def _extract_no_graph(answer: Answer, generator: torch.Generator) -> None:
    inputs = _drawn_extraction(generator)
    require(
        not answer.attached(**inputs),
        "the logits still carry the graph they were computed with: everything the teacher computed "
        "stays in memory for as long as they do. Run the teacher under torch.no_grad().",
        inputs=inputs,
    )


def _extract_left_asleep(answer: Answer, generator: torch.Generator) -> None:
    for training in (("",), ("bert.encoder",)):
        teacher = draw_classifier(generator, dropout=0.5, training=training)
        inputs = _drawn_extraction(generator) | {"teacher": teacher}
        _, state = answer.after("teacher", **inputs)
        require(
            not bool(state["training"]),
            "the teacher is in training mode after the call: leave it asleep, a frozen teacher is "
            "never trained, and who asks it next forgets to look.",
            inputs=inputs,
        )


EXTRACT_LOGITS = Exercise(
    id="extract_logits",
    title="Ask the teacher once",
    minutes=15,
    difficulty=2,
    reference=extract_logits,
    parameters="teacher, batches",
    may_call="the teacher, and anything in torch",
    not_allowed=(
        "distill_lab.knowledge.extract",
        "distill_lab.evaluation.predict_logits",
        "distill_lab.exercises.extraction.extract_logits",
    ),
    contracts=(
        Contract(
            id="values",
            law="Under a text's id stand its logits, float32 [classes]",
            points=1.25,
            holds=_extract_values,
            hints=(
                "Three things for each batch: run the teacher, take .logits, put each row under "
                "its id.",
                "The teacher is fed input_ids and attention_mask, by these names, and not the ids. "
                "zip(batch['id'], logits) gives pairs of an id and a row.",
                "found = {} before the loop; in it logits = teacher(input_ids=batch['input_ids'], "
                "attention_mask=batch['attention_mask']).logits, then "
                "found.update(zip(batch['id'], logits.float().cpu())).",
            ),
        ),
        Contract(
            id="every_id",
            law="Every id of every batch, whatever the order and the batch sizes",
            points=1,
            holds=_extract_every_id,
            hints=(
                "The last batch is often smaller. Nothing may depend on how many rows a batch has.",
                "One dict for all batches, made before the loop, filled inside it.",
            ),
        ),
        Contract(
            id="mask",
            law="Padding changes nothing: the attention mask is passed on",
            points=0.75,
            holds=_extract_mask,
            hints=(
                "A batch is a rectangle; short texts are filled up with padding, which the teacher "
                "must not read.",
                "Give it the batch's own mask: attention_mask=batch['attention_mask'].",
            ),
        ),
        Contract(
            id="asleep",
            law="The teacher is asked in evaluation mode, even where only a part was awake",
            points=1,
            holds=_extract_asleep,
            hints=(
                "In training mode dropout sets random activations to 0: the same text gets other "
                "logits each time.",
                "model.training is the flag of the outermost module only; modules inside have "
                "flags of their own.",
                "First line: teacher.eval(), without asking any flag.",
            ),
        ),
        Contract(
            id="no_graph",
            law="The logits carry no gradient",
            points=0,
            holds=_extract_no_graph,
            hints=(
                "Evaluation mode and gradients are two things: eval() leaves gradients on.",
                "with torch.no_grad(): around the loop, or @torch.no_grad() above the function.",
            ),
        ),
        Contract(
            id="left_asleep",
            law="The teacher is asleep after the call",
            points=0,
            holds=_extract_left_asleep,
            hints=("Call teacher.eval() and do not call teacher.train() afterwards.",),
        ),
        unchanged(
            _drawn_extraction,
            "Batches and weights are the same after the call as before",
            "Read batch['id'] rather than batch.pop('id'), and step no optimizer.",
            (
                "The caller may go over the batches again, to train on them: what you take out of "
                "them is missing then.",
                "batch['id'] reads; batch.pop('id') takes out.",
            ),
        ),
    ),
)

# --- top_k_compress ------------------------------------------------------------------------------

PARTS = ("top_log_probs", "top_classes", "log_tail")


def _parts(answer: Answer, **inputs: Any) -> dict[str, Tensor]:
    """Ask for the three parts.

    Raises:
        Broken: It is no dict, or one of them is missing.
    """
    value = answer(**inputs)
    have = list(value) if isinstance(value, Mapping) else []
    missing = [part for part in PARTS if part not in have]
    require(
        not missing,
        f"it gives {f'a dict with {have}' if have else type(value).__name__}; expected a dict with "
        "top_log_probs, top_classes and log_tail.",
        inputs=inputs,
    )
    return dict(value)


def _others(logits: Tensor, k: int, values: Tensor | None = None) -> Tensor:
    """Give the values of all but the k most probable classes, `[batch, classes − k]`."""
    values = logits.double() if values is None else values
    return values.gather(-1, logits.argsort(-1, descending=True)[:, k:])


def _top_k_sizes(generator: torch.Generator) -> list[Inputs]:
    return [
        {"logits": draw(generator, rows, classes, scale=1.5), "k": k}
        for rows, classes, k in ((2, 3, 1), (1, 4, 2), (3, 6, 4))
    ]


def _top_k_kept(answer: Answer, generator: torch.Generator) -> None:
    for inputs in _top_k_sizes(generator):
        logits, k = inputs["logits"], inputs["k"]
        log_p, z = log_probabilities(logits), logits.double()
        values, classes = log_p.topk(k)
        parts = _parts(answer, **inputs)
        compare(
            parts["top_log_probs"],
            values.float(),
            "top_log_probs are not the k largest of log softmax(logits), largest first.",
            unlike={
                "top_log_probs holds the bare logits: without the sum over all classes they are no "
                "probabilities. Take log_softmax first, topk afterwards.": z.topk(k).values,
                "top_log_probs holds probabilities: expected their logs.": values.exp(),
                "top_log_probs is normalised over the k kept classes alone, as if the others had "
                "no probability: log_softmax over all classes first, topk afterwards.": (
                    z.topk(k).values.log_softmax(-1)
                ),
                "these are the least probable classes: expected the most probable.": log_p.topk(
                    k, largest=False
                ).values,
                "the order is the wrong way round: most probable first.": values.flip(-1),
                "the logs are to the base 2: expected nats.": values / math.log(2),
                "this is what a softmax over the batch gives (dim=0): take it over the classes, "
                "dim=-1.": over_the_batch(logits).topk(k).values,
            },
            inputs=inputs,
        )
        kept = parts["top_classes"]
        require(
            isinstance(kept, Tensor) and not kept.is_floating_point() and kept.dtype != torch.bool,
            "top_classes are not integers: they are the classes' numbers, topk(…).indices.",
            inputs=inputs,
            expected=classes,
            actual=kept,
        )
        compare(
            kept,
            classes,
            "top_classes does not say which classes the kept probabilities belong to.",
            unlike={
                "top_classes counts 0, 1, 2, …: expected the classes' numbers, "
                "topk(…).indices.": torch.arange(k).expand_as(classes),
                "top_classes is in the other order than top_log_probs.": classes.flip(-1),
                "top_classes counts the classes from 1: expected from 0.": classes + 1,
                "top_classes gives the number in the flattened tensor: count in each row by "
                "itself.": classes + logits.shape[-1] * torch.arange(len(logits))[:, None],
            },
            inputs=inputs,
        )


def _top_k_tail(answer: Answer, generator: torch.Generator) -> None:
    for inputs in _top_k_sizes(generator):
        logits, k = inputs["logits"], inputs["k"]
        log_p = log_probabilities(logits)
        rest, kept = _others(logits, k, log_p), log_p.topk(k).values
        right = rest.logsumexp(-1)
        compare(
            _parts(answer, **inputs)["log_tail"],
            right.float(),
            "log_tail is not the log of the probability of all other classes together, log Σ p "
            "over the classes that are not kept.",
            unlike={
                "log_tail holds the probability itself: expected its log.": right.exp(),
                "log_tail is the logsumexp of the bare logits: take log_softmax first.": _others(
                    logits, k
                ).logsumexp(-1),
                "the kept classes are in the tail too, each with probability 1: to leave a class "
                "out put −∞ in its place, the log of 0, and not 0, the log of 1.": torch.cat(
                    [rest, torch.zeros_like(kept)], dim=-1
                ).logsumexp(-1),
                "log_tail is the log of the mean of the other probabilities: expected the log of "
                "their sum.": right - math.log(rest.shape[-1]),
                "log_tail is the mean of the other logs: add the probabilities, then take the "
                "log.": rest.mean(-1),
                "log_tail is the sum of the other logs, which is the log of a product: add the "
                "probabilities, then take the log.": rest.sum(-1),
                "log_tail is that of the largest of the other classes only: add all of them.": (
                    rest.amax(-1)
                ),
                "log_tail is the log of the kept probability: expected that of the rest.": (
                    kept.logsumexp(-1)
                ),
                "log_tail is 0, the log of 1: the log-probabilities of all classes were added, or "
                "the kept ones were not taken out.": torch.zeros_like(right),
            },
            inputs=inputs,
        )


def _top_k_all(answer: Answer, generator: torch.Generator) -> None:
    for rows, classes in ((1, 2), (8, 5)):
        inputs = {"logits": draw(generator, rows, classes, scale=1.5), "k": classes}
        compare(
            _parts(answer, **inputs)["log_tail"],
            torch.full((rows,), -math.inf),
            "no class is left over, so the tail has probability 0 and log_tail is −inf exactly. "
            "1 − Σ p misses 0 by a rounding error (and may fall below it, whose log is NaN); an "
            "epsilon or a clamp makes up a tail that is not there.",
            unlike={"log_tail is 0, which says that the tail is certain.": torch.zeros(rows)},
            inputs=inputs,
        )


def _top_k_small_tail(answer: Answer, generator: torch.Generator) -> None:
    for rows, k in (([[30.0, 0.0, 0.0]], 1), ([[1e4, 0.0, -1e4]], 1), ([[40.0, 39.0, 0.0]], 2)):
        logits = torch.tensor(rows)
        right = _others(logits, k, log_probabilities(logits)).logsumexp(-1)
        inputs = {"logits": logits, "k": k}
        compare(
            _parts(answer, **inputs)["log_tail"],
            right.float(),
            "the tail is small, not absent. In float32 the kept probabilities already add up to 1, "
            "so 1 − Σ p has lost it: take logsumexp of the other classes' log-probabilities.",
            inputs=inputs,
        )


def _top_k_ties(answer: Answer, generator: torch.Generator) -> None:
    for rows, k in (([[1.0, 1.0]], 1), ([[2.0, 2.0, 2.0, 0.0]], 2), ([[0.0, 1.0, 0.0, 1.0]], 3)):
        logits = torch.tensor(rows)
        log_p = log_probabilities(logits)
        inputs = {"logits": logits, "k": k}
        parts = _parts(answer, **inputs)
        compare(
            parts["top_log_probs"],
            log_p.topk(k).values.float(),
            "equally probable classes count each by itself: k of them are kept, as topk does.",
            inputs=inputs,
        )
        kept = parts["top_classes"].long()
        require(
            len(set(kept[0].tolist())) == k,
            "top_classes names a class twice: of equally probable classes take any, each once, as "
            "topk(…).indices does.",
            inputs=inputs,
            actual=kept,
        )
        compare(
            log_p.gather(-1, kept),
            log_p.topk(k).values,
            "top_classes names classes with other probabilities than top_log_probs holds.",
            inputs=inputs,
        )
        rest = log_p.scatter(-1, kept, -math.inf)
        compare(
            parts["log_tail"],
            rest.logsumexp(-1).float(),
            "a class as probable as the last one kept is left out of the tail: choose the others "
            "by number (top_classes), not by comparing probabilities.",
            inputs=inputs,
        )


TOP_K_COMPRESS = Exercise(
    id="top_k_compress",
    title="The k largest, and all the rest in one number",
    minutes=20,
    difficulty=3,
    reference=knowledge.top_k_compress,
    parameters="logits, k",
    may_call="anything in torch (topk, scatter and logsumexp are the useful ones)",
    not_allowed=("distill_lab.knowledge.top_k_compress",),
    contracts=(
        Contract(
            id="kept",
            law="The k largest log-probabilities, largest first, and their classes",
            points=1.5,
            holds=_top_k_kept,
            hints=(
                "Two steps: from logits to log-probabilities over all classes, then the k largest "
                "of each row.",
                "x.topk(k) gives both the values and their places, the indices, largest first.",
                "log_probs = logits.log_softmax(-1); values, classes = log_probs.topk(k)",
            ),
        ),
        Contract(
            id="log_tail",
            law="log_tail [batch] is the log of the other classes' probability together",
            points=1,
            holds=_top_k_tail,
            hints=(
                "Add the probabilities of the classes that are not kept; then the log.",
                "log Σ exp(x) is x.logsumexp(-1). A class that must not count gets the log of 0: "
                "−inf.",
                "others = log_probs.scatter(-1, classes, -torch.inf); others.logsumexp(-1)",
            ),
        ),
        Contract(
            id="no_tail",
            law="Where all classes are kept, log_tail is −inf",
            points=0.5,
            holds=_top_k_all,
            hints=(
                "The sum of no probabilities is 0, and log 0 is −inf.",
                "logsumexp of a row of −inf is −inf, without a case of its own. Do not compute "
                "the tail as 1 − Σ p.",
            ),
        ),
        Contract(
            id="small_tail",
            law="A tail of 10⁻¹³ is kept as exactly as a large one",
            points=0.5,
            holds=_top_k_small_tail,
            hints=(
                "float32 has about 7 digits: 1 − 10⁻¹³ is 1 there.",
                "Add up the small probabilities themselves, in logs: logsumexp over the others.",
            ),
        ),
        Contract(
            id="ties",
            law="Equally probable classes are kept or in the tail, each once",
            points=0.5,
            holds=_top_k_ties,
            hints=(
                "With logits [1, 1] and k = 1 the tail holds 1/2.",
                "Which classes are kept is said by their numbers. A comparison such as "
                "log_probs < values[:, -1:] cannot tell equal ones apart.",
            ),
        ),
        unchanged(
            lambda g: {"logits": draw(g, 2, 3), "k": 1},
            "The logits are the same after the call as before",
            "A method whose name ends in an underscore, such as scatter_, writes into its tensor; "
            "scatter makes a new one.",
            (
                "Look for scatter_, masked_fill_, or x[…] = … on a tensor you were given.",
                "log_softmax makes a new tensor; what you write into that is your own affair.",
            ),
        ),
    ),
)

# --- fingerprint ---------------------------------------------------------------------------------


def _digest(answer: Answer, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Ask for a fingerprint.

    Raises:
        Broken: It is not 64 hex digits.
    """
    inputs = {"weights": weights, "settings": settings}
    value = answer(**inputs)
    good = isinstance(value, str) and len(value) == 64 and set(value) <= set(string.hexdigits)
    what = f"a text of {len(value)} characters" if isinstance(value, str) else type(value).__name__
    require(
        good,
        f"it gives {what}; expected the SHA-256 as 64 hex digits, hashlib.sha256(…).hexdigest().",
        inputs=inputs,
        expected="64 hex digits",
        actual=value,
    )
    return str(value).lower()


def _expect_other(
    answer: Answer,
    reason: str,
    weights: Mapping[str, Tensor],
    other_weights: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    other_settings: Mapping[str, Any] | None = None,
) -> None:
    """Expect another fingerprint of the others.

    Raises:
        Broken: It is the same.
    """
    settings = settings or {"max_length": 128}
    one = _digest(answer, weights, settings)
    shown: Inputs = {"weights": _plain(weights), "settings": settings}
    if other_weights is not None:
        shown["other_weights"] = _plain(other_weights)
    if other_settings is not None:
        shown["other_settings"] = other_settings
    two = _digest(answer, other_weights or weights, other_settings or settings)
    require(one != two, f"the fingerprint stays the same although {reason}", inputs=shown)


def _expect_same(
    answer: Answer,
    reason: str,
    weights: Mapping[str, Tensor],
    other_weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    other_settings: Mapping[str, Any],
) -> None:
    """Expect the same fingerprint of the others.

    Raises:
        Broken: It is another.
    """
    one, two = _digest(answer, weights, settings), _digest(answer, other_weights, other_settings)
    shown = {"weights": _plain(weights), "settings": settings}
    require(one == two, f"the fingerprint changes although {reason}", inputs=shown)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Small weights as lists, whose values a reader sees; larger ones as they are."""
    return {
        name: value.tolist() if value.numel() <= 6 and value.dtype == torch.float32 else value
        for name, value in weights.items()
    }


def _fingerprint_values(answer: Answer, generator: torch.Generator) -> None:
    weights = {"bias": torch.tensor([0.5, -1.0])}
    settings = {"max_length": 128}
    _expect_same(
        answer,
        "nothing has changed: the same call gives another one each time. Hash contents, not a time "
        "or an object's place in memory (id, hash, repr of an object).",
        weights,
        weights,
        settings,
        settings,
    )
    _expect_other(
        answer,
        "a weight is another: −1 has become −2. The tensors' values belong into the hash.",
        weights,
        {"bias": torch.tensor([0.5, -2.0])},
    )
    _expect_other(
        answer,
        "two values have changed places: a sum or a mean of the weights does not see that. Hash "
        "the bytes of all values.",
        weights,
        {"bias": torch.tensor([-1.0, 0.5])},
    )
    next_to = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    _expect_other(
        answer,
        "a weight has moved, by the smallest step that float32 has (0.5 to 0.50000006): printed or "
        "rounded values do not show it. Hash the bytes of the tensors.",
        weights,
        {"bias": torch.tensor([next_to, -1.0])},
    )
    two = weights | {"weight": torch.tensor([[0.25, -0.5], [1.0, 2.0]])}
    for name, value in two.items():
        changed = value.clone()
        changed.view(-1)[-1] += 1
        _expect_other(
            answer,
            f"a value of {name!r}, one of two tensors, is another: every tensor belongs into the "
            "hash.",
            two,
            two | {name: changed},
        )
    large = draw(generator, 50, 40)
    moved = large.clone()
    moved[25, 20] += 1
    _expect_other(
        answer,
        "a value in the middle of a large tensor is another: str() and repr() of a tensor leave "
        "out the middle (…). Hash the bytes.",
        {"weight": large},
        {"weight": moved},
    )


def _fingerprint_shapes(answer: Answer, generator: torch.Generator) -> None:
    value = torch.tensor([0.5, -1.0])
    _expect_other(
        answer,
        "a tensor has another name: 'bias' has become 'weight'. Names belong into the hash.",
        {"bias": value},
        {"weight": value},
    )
    one, two = torch.tensor([0.5]), torch.tensor([-1.0])
    _expect_other(
        answer,
        "two tensors have changed names: each name is hashed together with its own values.",
        {"a": one, "b": two},
        {"a": two, "b": one},
    )
    weight = torch.arange(6.0)
    for ours, theirs in (((2, 3), (3, 2)), ((2, 3), (6,))):
        _expect_other(
            answer,
            f"a tensor has another shape, {list(theirs)} for {list(ours)}: the bytes are the same, "
            "the model is not. The shape belongs into the hash.",
            {"weight": weight.view(ours)},
            {"weight": weight.view(theirs)},
        )
    _expect_other(
        answer,
        "a tensor has another dtype, int32 for float32: the bytes are the same, the numbers they "
        "stand for are not. The dtype belongs into the hash.",
        {"weight": weight},
        {"weight": weight.view(torch.int32)},
    )


def _fingerprint_settings(answer: Answer, generator: torch.Generator) -> None:
    weights = {"bias": torch.tensor([0.5, -1.0])}
    for reason, settings, others in (
        (
            "a setting is another: max_length 64 for 128, and longer texts are cut elsewhere. "
            "Settings belong into the hash.",
            {"max_length": 128},
            {"max_length": 64},
        ),
        (
            "a setting's text is another.",
            {"dtype": "float32"},
            {"dtype": "bfloat16"},
        ),
        (
            "a setting has another name: names belong into the hash, as values do.",
            {"max_length": 128},
            {"batch_size": 128},
        ),
        (
            "one of two settings is another: all of them belong into the hash.",
            {"max_length": 128, "top_k": 2},
            {"max_length": 128, "top_k": 3},
        ),
        (
            "two settings have changed values: each name is hashed together with its own value.",
            {"heads": 2, "layers": 4},
            {"heads": 4, "layers": 2},
        ),
        (
            "the settings differ: written one behind the other without anything between, both are "
            "'layer12'. json.dumps(settings, sort_keys=True) keeps names and values apart.",
            {"layer1": 2},
            {"layer": 12},
        ),
    ):
        _expect_other(answer, reason, weights, settings=settings, other_settings=others)


def _fingerprint_order(answer: Answer, generator: torch.Generator) -> None:
    weights = {"b": torch.tensor([0.5]), "a": torch.tensor([-1.0])}
    settings: Inputs = {"top_k": 2, "max_length": 128}
    turned, turned_settings = (dict(reversed(x.items())) for x in (weights, settings))
    _expect_same(
        answer,
        "only the order of the weights in their dict has: go through sorted(weights).",
        weights,
        turned,
        settings,
        settings,
    )
    _expect_same(
        answer,
        "only the order of the settings in their dict has: sort them by name.",
        weights,
        weights,
        settings,
        turned_settings,
    )


def _fingerprint_layout(answer: Answer, generator: torch.Generator) -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    transposed = weight.T.contiguous().T  # equal values, columns side by side in memory
    settings = {"max_length": 128}
    try:
        _expect_same(
            answer,
            "the values are equal: one of the tensors is a transposed view, whose values lie in "
            "another order in memory. .contiguous() lays them in the order of the shape.",
            {"weight": weight},
            {"weight": transposed},
            settings,
            settings,
        )
    except AnswerRaised as error:
        require(
            False,
            f"a transposed view, whose values lie in another order in memory, makes it raise "
            f"{error.kind} ({error.detail}). .contiguous() lays them in the order of the shape.",
            inputs=error.inputs,
        )


def _fingerprint_any_tensor(answer: Answer, generator: torch.Generator) -> None:
    big = 2**24
    for what, one, other in (
        ("bfloat16", torch.tensor([0.5]).bfloat16(), torch.tensor([1.5]).bfloat16()),
        ("int64", torch.tensor([big]), torch.tensor([big + 1])),
        ("float64", torch.tensor([1.0]).double(), torch.tensor([1.0]).double() + 1e-12),
        ("bool", torch.tensor([True]), torch.tensor([False])),
        ("zero-dimensional", torch.tensor(0.5), torch.tensor(1.5)),
        ("empty", torch.zeros(0), None),
    ):
        try:
            _digest(answer, {"weight": one}, {"max_length": 128})
            if other is None:
                continue
            _expect_other(
                answer,
                f"a value of a tensor that is {what} is another (in int64 16777216 and 16777217 "
                "differ, in float32 they do not): hash the bytes as they are, without turning them "
                "into another dtype.",
                {"weight": one},
                {"weight": other},
            )
        except AnswerRaised as error:
            require(
                False,
                f"a tensor that is {what} makes it raise {error.kind} ({error.detail}). numpy "
                "knows no bfloat16, and a scalar has no bytes to view: x.flatten()"
                ".view(torch.uint8) gives any tensor's bytes.",
                inputs={"weights": {"weight": one}},
            )


FINGERPRINT = Exercise(
    id="fingerprint",
    title="Whose knowledge is this?",
    minutes=15,
    difficulty=2,
    reference=fingerprint,
    parameters="weights, settings",
    may_call="hashlib, json and anything in torch",
    not_allowed=(
        "distill_lab.models.weights_fingerprint",
        "distill_lab.exercises.extraction.fingerprint",
    ),
    contracts=(
        Contract(
            id="values",
            law="64 hex digits, the same each time, others for any other value",
            points=1,
            holds=_fingerprint_values,
            hints=(
                "hashlib.sha256() makes a digest, .update(bytes) feeds it again and again, "
                ".hexdigest() ends it.",
                "What goes in are the bytes of every tensor: .numpy().tobytes(), or "
                ".view(torch.uint8) first.",
                "for name, value in sorted(weights.items()): digest.update(name.encode()); "
                "digest.update(value.contiguous().numpy().tobytes())",
            ),
        ),
        Contract(
            id="names_shapes_dtypes",
            law="Another for another name, shape or dtype of the same bytes",
            points=0.75,
            holds=_fingerprint_shapes,
            hints=(
                "Bytes alone do not say what they are. Which three things about a tensor are not "
                "in its bytes?",
                "Before each tensor's bytes feed a line with its name, tuple(value.shape) and "
                "value.dtype.",
            ),
        ),
        Contract(
            id="settings",
            law="Another for another setting, in name or in value",
            points=0.5,
            holds=_fingerprint_settings,
            hints=(
                "The same teacher answers otherwise if texts are cut at another length.",
                "digest.update(json.dumps(settings, sort_keys=True).encode())",
            ),
        ),
        Contract(
            id="order",
            law="The same whatever the order of the two dicts",
            points=0.25,
            holds=_fingerprint_order,
            hints=(
                "Python's dicts keep the order in which they were filled, which says nothing "
                "about the teacher.",
                "sorted(weights.items()); json.dumps(settings, sort_keys=True).",
            ),
        ),
        Contract(
            id="layout",
            law="The same for equal values that lie otherwise in memory",
            points=0.25,
            holds=_fingerprint_layout,
            hints=(
                "x.T moves nothing in memory: it only reads the same numbers in another order.",
                "value.contiguous() before you take the bytes.",
            ),
        ),
        Contract(
            id="any_tensor",
            law="Tensors of any dtype and size: bfloat16, int64, a scalar, an empty one",
            points=0.25,
            holds=_fingerprint_any_tensor,
            hints=(
                "numpy has no bfloat16. Bytes have: torch.uint8.",
                "value.contiguous().flatten().view(torch.uint8).numpy().tobytes()",
            ),
        ),
        unchanged(
            lambda g: {
                "weights": {"b": draw(g, 2), "a": draw(g, 1)},
                "settings": {"top_k": 2, "max_length": 128},
            },
            "Weights and settings are the same after the call as before",
            "Make a new dict or list of what you need.",
            (
                "Look for settings[…] = …, .update(…) or .pop(…) on a dict you were given.",
                "dict(settings) is a copy that you may change.",
            ),
        ),
    ),
)

LESSON = Lesson(
    name="05_knowledge_extraction",
    title="Knowledge extraction: ask the teacher once",
    minutes=80,
    difficulty=2,
    exercises=(EXTRACT_LOGITS, TOP_K_COMPRESS, FINGERPRINT),
)
