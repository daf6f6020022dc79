"""The exercises of lesson 08: calibration, agreement, latency and the Pareto front.

The expected values are computed here in float64 by loops, another way than in
``distill_lab.evaluation`` and ``distill_lab.exercises.deployment``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill_lab.evaluation import expected_calibration_error
from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Broken,
    Contract,
    Inputs,
    compare,
    draw,
    expect,
    require,
    same_number,
)
from distill_lab.exercises.deployment import agreement, measure_latency, pareto_front
from distill_lab.exercises.lesson_03 import inputs_unchanged
from distill_lab.exercises.objects import ScriptedCall, ScriptedClock
from distill_lab.exercises.registry import Exercise, Lesson

_unchanged = partial(
    inputs_unchanged,
    hints=(
        "Look for an operator that writes into a tensor it was given: /=, -=, x[...] = …, or a "
        "method whose name ends in an underscore, such as sort_ or clamp_.",
        "x = x / 2 makes a new tensor, the old one stays.",
    ),
)


# --- expected_calibration_error ------------------------------------------------------------------


def _predictions(
    generator: torch.Generator, confidence: Sequence[float], right: Sequence[bool], classes: int = 2
) -> Inputs:
    """Give probabilities with the given largest one a row, and labels that it hits or misses."""
    top = torch.randint(classes, (len(confidence),), generator=generator)
    sure = torch.tensor(confidence)[:, None]
    rest = ((1 - sure) / (classes - 1)).expand(-1, classes)
    return {
        "probabilities": rest.scatter(1, top[:, None], sure),
        "labels": torch.where(torch.tensor(right), top, (top + 1) % classes),
    }


def _drawn(generator: torch.Generator, examples: int, classes: int, bins: int) -> Inputs:
    """Draw predictions whose confidences have two decimals and lie on no edge of a bin."""
    inside = [
        c / 100
        for c in range(100 // classes + 5, 100)
        if abs(c / 100 * bins - round(c / 100 * bins)) > 0.02
    ]
    picked = torch.randint(len(inside), (examples,), generator=generator).tolist()
    right = (torch.rand(examples, generator=generator) < 0.6).tolist()
    return _predictions(generator, [inside[i] for i in picked], right, classes)


def _bins(
    confidence: Tensor,
    right: Tensor,
    bins: int,
    *,
    by: Tensor | None = None,
    lower_edge: bool = False,
) -> list[tuple[int, float]]:
    """Examples, and |accuracy − confidence|, of each bin (a, b], or [a, b) with ``lower_edge``.

    Binned by the confidence, or by another number of each example.
    """
    by = confidence if by is None else by
    found = []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (by >= low) & (by < high) if lower_edge else (by > low) & (by <= high)
        gap = (right[inside].mean() - confidence[inside].mean()).abs().item()
        found.append((int(inside.sum()), gap if inside.any() else 0.0))
    return found


def _ece(confidence: Tensor, right: Tensor, bins: int, **how: Any) -> float:
    return sum(n * gap for n, gap in _bins(confidence, right, bins, **how)) / len(confidence)


def _top(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Largest probability of each row, and 1 where its class is the label, in float64."""
    confidence, predicted = inputs["probabilities"].double().max(-1)
    return confidence, (predicted == inputs["labels"]).double()


def _ece_one_bin(answer: Answer, generator: torch.Generator) -> None:
    cases = [
        _predictions(generator, (0.9, 0.7), (True, False)),
        _predictions(generator, (0.55, 0.6, 0.65), (True, True, False)),
        _drawn(generator, 7, 3, 1),
    ]
    for inputs in cases:
        confidence, right = _top(inputs)
        gap = (right.mean() - confidence.mean()).item()
        given = inputs["probabilities"].double().gather(1, inputs["labels"][:, None])
        expect(
            answer,
            abs(gap),
            "with one bin it is not |accuracy − mean confidence|, the confidence being the largest "
            "probability of a row.",
            unlike={
                "each example's own gap is averaged: |right − confidence|. Take the means of a bin "
                "first, then the gap between them: 0.75 is well calibrated if three of four are "
                "right.": (right - confidence).abs().mean(),
                "the gap has a sign: take its absolute value, or bins that are too sure and bins "
                "that are not sure enough cancel.": min(gap, -gap),
                "the gap is squared: take its absolute value.": gap**2,
                "this is a percentage; expected a fraction.": 100 * abs(gap),
                "this is the accuracy alone.": right.mean(),
                "this is the mean confidence alone.": confidence.mean(),
                "the confidence is taken to be the probability of the label. It is that of the "
                "predicted class, the largest of the row: the model does not know the label.": (
                    right.mean() - given.mean()
                ).abs(),
                "the confidence is averaged over all classes: it is the largest probability of a "
                "row.": abs(right.mean().item() - inputs["probabilities"].double().mean().item()),
            },
            **inputs,
            bins=1,
        )


def _ece_bins(answer: Answer, generator: torch.Generator) -> None:
    cases = [
        (2, _predictions(generator, (0.4, 0.9, 0.8, 0.7), (True, False, True, True), 3)),
        (5, _drawn(generator, 6, 3, 5)),
        (10, _drawn(generator, 40, 4, 10)),
    ]
    for bins, inputs in cases:
        confidence, right = _top(inputs)
        found = _bins(confidence, right, bins)
        gaps = [gap for _, gap in found]
        used = sum(n > 0 for n, _ in found)
        label = inputs["probabilities"].double().gather(1, inputs["labels"][:, None])[:, 0]
        by_rank = torch.tensor_split(confidence.argsort(), bins)
        equal_counts = sum(
            len(part) * (right[part].mean() - confidence[part].mean()).abs().item()
            for part in by_rank
            if len(part)
        ) / len(confidence)
        squares = sum(n * gap**2 for n, gap in found) / len(confidence)
        expected, value = _ece(confidence, right, bins), answer(**inputs, bins=bins)
        require(
            not (isinstance(value, float | Tensor) and torch.as_tensor(value).isnan().any())
            or used == bins,
            f"the value is NaN: of these {bins} bins {bins - used} hold no example, and the mean "
            "of nothing is 0/0. Leave empty bins out.",
            inputs={**inputs, "bins": bins},
            expected=expected,
            actual=value,
        )
        compare(
            value,
            expected,
            f"with {bins} bins it is not Σ (examples in the bin / all examples) · |accuracy − "
            "mean confidence| of the bin.",
            unlike={
                "this is |accuracy − mean confidence| of all examples together: either the "
                "number of bins has no effect, or gaps of either sign cancel. Take the absolute "
                "value in each bin, before you add up.": _ece(confidence, right, 1),
                "the number of bins has no effect: there are always 15.": _ece(
                    confidence, right, 15
                ),
                "every bin weighs the same: a bin weighs as much as it has examples, n_m / n.": (
                    sum(gaps) / used
                ),
                "every bin weighs the same, also one without examples: a bin weighs as much as it "
                "has examples, n_m / n.": sum(gaps) / bins,
                "this is the largest gap of a bin (the maximum calibration error): expected their "
                "mean, weighted by examples.": max(gaps),
                "the bins' gaps are added up: weigh each by its share of the examples, n_m / n.": (
                    sum(gaps)
                ),
                "the gaps are squared, averaged and rooted: expected the mean of the gaps "
                "themselves.": math.sqrt(squares),
                "the bins hold equally many examples; expected bins of equal width, 1 / bins "
                "each.": equal_counts,
                "the examples are binned by the probability of their label: bin them by the "
                "largest probability, which is all that the model knows.": _ece(
                    confidence, right, bins, by=label
                ),
            },
            inputs={**inputs, "bins": bins},
        )


def _ece_edges(answer: Answer, generator: torch.Generator) -> None:
    # Quarters and eighths are exact in float32.
    cases = [
        _predictions(generator, (0.75, 0.875), (True, False)),
        _predictions(generator, (0.5, 0.75, 0.625), (False, True, True), 3),
        _predictions(generator, (1.0, 0.875), (False, True)),
    ]
    for inputs in cases:
        confidence, right = _top(inputs)
        below_one = confidence < 1
        certain_apart = _ece(confidence[below_one], right[below_one], 4)
        try:
            expect(
                answer,
                _ece(confidence, right, 4),
                "bins are (a, b]: a confidence on an edge, here one of 0.25, 0.5, 0.75 and 1, "
                "belongs to the bin below.",
                unlike={
                    "a confidence on an edge is counted in the bin above: bins are (a, b], so 0.75 "
                    "lies in (0.5, 0.75].": _ece(confidence, right, 4, lower_edge=True)
                    if bool(below_one.all())
                    else math.nan,
                    "the example with confidence 1 lies in no bin: the last one is (0.75, 1], with "
                    "1 in it.": certain_apart * below_one.double().mean().item(),
                    "the example with confidence 1 was left out altogether: the last bin is "
                    "(0.75, 1], with 1 in it.": certain_apart,
                    "the example with confidence 1 has a bin of its own: the last one is "
                    "(0.75, 1], with 1 in it.": (
                        certain_apart * int(below_one.sum()) + (1 - right[~below_one]).sum().item()
                    )
                    / len(confidence),
                },
                **inputs,
                bins=4,
            )
        except AnswerRaised as error:
            raise Broken(
                "a confidence of exactly 1 is in the last bin, (0.75, 1], and int(confidence · "
                f"bins) is one beyond it; it raises {error.kind} ({error.detail}).",
                inputs={**inputs, "bins": 4},
            ) from None


def _ece_default(answer: Answer, generator: torch.Generator) -> None:
    cases = [
        _predictions(generator, (0.82, 0.88), (False, True)),
        _drawn(generator, 60, 5, 15),
    ]
    for inputs in cases:
        confidence, right = _top(inputs)
        expected = _ece(confidence, right, 15)
        value = answer(**inputs)
        require(
            isinstance(value, int | float | Tensor) and math.isfinite(value),
            "the value is NaN: most of the 15 bins are empty here, and the mean of nothing is "
            "0/0. Leave empty bins out.",
            inputs=inputs,
            expected=expected,
            actual=value,
        )
        compare(
            value,
            expected,
            "without `bins` there are 15 of them; empty ones add nothing.",
            unlike={
                "without `bins` there are 15 of them; this is for 10.": _ece(confidence, right, 10),
                "an empty bin counts as a gap: leave it out.": sum(
                    gap if n else (k + 0.5) / 15
                    for k, (n, gap) in enumerate(_bins(confidence, right, 15))
                )
                / 15,
            },
            inputs=inputs,
        )


EXPECTED_CALIBRATION_ERROR = Exercise(
    id="expected_calibration_error",
    title="Expected calibration error",
    minutes=15,
    difficulty=2,
    reference=expected_calibration_error,
    parameters="probabilities, labels, bins=15",
    may_call="anything in torch and numpy",
    not_allowed=("distill_lab.evaluation.expected_calibration_error",),
    contracts=(
        Contract(
            id="one_bin",
            law="With one bin it is |accuracy − mean confidence|",
            points=0.75,
            holds=_ece_one_bin,
            hints=(
                "The confidence is the largest probability of a row; right is whether its class is "
                "the label.",
                "confidence, predicted = probabilities.max(-1)",
                "With one bin: abs(right.mean() − confidence.mean()), right = (predicted == "
                "labels).double()",
            ),
        ),
        Contract(
            id="bins",
            law="Bins of equal width, each weighing as much as it has examples",
            points=1,
            holds=_ece_bins,
            hints=(
                "A loop over the bins: which examples lie in it, their gap, their share.",
                "Bin k is confidence > k / bins and confidence <= (k + 1) / bins.",
                "total += inside.double().mean() * (right[inside].mean() − "
                "confidence[inside].mean()).abs()",
            ),
        ),
        Contract(
            id="edges",
            law="Bins are (a, b]: an edge belongs to the bin below, so 1 is in the last",
            points=0.5,
            holds=_ece_edges,
            hints=(
                "A confidence of exactly 1 does occur. In which bin does it lie?",
                "low < confidence <= high, not low <= confidence < high. For an index: "
                "ceil(confidence · bins) − 1.",
            ),
        ),
        Contract(
            id="empty_bins",
            law="Without `bins` there are 15; empty ones add nothing",
            points=0.75,
            holds=_ece_default,
            hints=(
                "A model of two classes is never less sure than 0.5: half of the bins are empty.",
                "if inside.any(): before the means are taken",
            ),
        ),
        _unchanged(lambda g: {**_drawn(g, 4, 3, 5), "bins": 5}),
    ),
)


# --- agreement -----------------------------------------------------------------------------------


def _logits(generator: torch.Generator, same: Sequence[bool], classes: int) -> Inputs:
    """Draw logits of two classifiers that give the same class where ``same`` says so."""
    shape = (len(same), classes)
    theirs = torch.randint(classes, (len(same),), generator=generator)
    shift = torch.randint(1, classes, (len(same),), generator=generator)
    ours = torch.where(torch.tensor(same), theirs, (theirs + shift) % classes)

    def with_top(top: Tensor) -> Tensor:
        values = draw(generator, *shape, scale=10).round() / 10
        largest = values.amax(-1, keepdim=True).clamp(min=0) + 0.5
        return values.scatter(1, top[:, None], largest)

    return {"student_logits": with_top(ours), "teacher_logits": with_top(theirs)}


def _agreement_share(answer: Answer, generator: torch.Generator) -> None:
    # Chosen so that every mistake below has a value of its own.
    student = [[-0.6, -0.7, 0.1], [1.8, -0.4, 1.7], [2.0, 1.5, 0.6], [1.4, 0.0, -0.1]]
    teacher = [[-0.7, -0.8, 0.9], [0.3, 0.5, -1.2], [1.9, -1.0, 0.2], [1.0, 0.9, -0.7]]
    chosen = {"student_logits": torch.tensor(student), "teacher_logits": torch.tensor(teacher)}
    for inputs in (
        chosen,
        _logits(generator, (True, False, False, False, True), 3),
        _logits(generator, (True,) * 7 + (False,) * 2, 4),
    ):
        ours, theirs = inputs.values()
        same = [
            a.index(max(a)) == b.index(max(b))
            for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)
        ]
        share = sum(same) / len(same)
        expect(
            answer,
            share,
            "it is not the share of rows whose largest logit is in the same place.",
            unlike={
                "this is the share on which they differ.": 1 - share,
                "this is how many rows agree: divide by the number of rows.": float(sum(same)),
                "this is a percentage; expected a fraction.": 100 * share,
                "the largest logit is sought over the rows (dim=0): it is the class, the last "
                "axis, that is to be found.": (
                    (ours.argmax(0) == theirs.argmax(0)).double().mean()
                ),
                "the place of the largest logit of the whole tensor is compared: each row has a "
                "class of its own (dim=-1).": float(ours.argmax() == theirs.argmax()),
                "the smallest logits are compared: the class is that of the largest.": (
                    (ours.argmin(-1) == theirs.argmin(-1)).double().mean()
                ),
                "logits or probabilities themselves are compared: classifiers agree when they give "
                "the same class, however sure.": (ours == theirs).double().mean(),
            },
            **inputs,
        )


def _agreement_however_sure(answer: Answer, generator: torch.Generator) -> None:
    same = (True,) * 4 + (False,) * 2
    for scale, shift in ((0.01, 0.0), (1.0, -50.0), (30.0, 7.0)):
        inputs = _logits(generator, same, 4)
        inputs["student_logits"] = inputs["student_logits"] * scale + shift
        unsure = {
            "only rows of which the student is sure count: the class of a hesitant model counts "
            "too.": 0.0
        }
        expect(
            answer,
            2 / 3,
            f"the student's logits are multiplied by {scale:g} and shifted by {shift:g}, which "
            "moves no largest one: only the class counts, not how sure a model is of it.",
            unlike=unsure if scale < 1 else None,
            **inputs,
        )


def _agreement_ends(answer: Answer, generator: torch.Generator) -> None:
    for same in ((True,), (False,), (True,) * 4, (False,) * 4):
        expect(
            answer,
            float(same[0]),
            "it is 1 where every class is the same and 0 where none is.",
            **_logits(generator, same, 3),
        )


AGREEMENT = Exercise(
    id="agreement",
    title="How often student and teacher say the same",
    minutes=5,
    difficulty=1,
    reference=agreement,
    parameters="student_logits, teacher_logits",
    may_call="anything in torch and numpy",
    not_allowed=(
        "distill_lab.evaluation.agreement",
        "distill_lab.exercises.deployment.agreement",
    ),
    contracts=(
        Contract(
            id="share",
            law="The share of rows to which both give the same class",
            points=1,
            holds=_agreement_share,
            hints=(
                "The class that a model gives is the place of the largest logit of a row.",
                "student_logits.argmax(-1) is [examples]; compare it with the teacher's.",
                "return (student_logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean()",
            ),
        ),
        Contract(
            id="however_sure",
            law="Only the class counts, not how sure a model is of it",
            points=0.5,
            holds=_agreement_however_sure,
            hints=(
                "Logits times 30 have the same largest entry.",
                "No softmax is needed, no threshold and no comparison of values.",
            ),
        ),
        Contract(
            id="ends",
            law="1 where all agree, 0 where none does, one row or many",
            points=0.5,
            holds=_agreement_ends,
            hints=(
                "A mean over rows works for one row too.",
                "Leave out squeeze and fixed numbers; dim=-1 is the classes.",
            ),
        ),
        _unchanged(lambda g: _logits(g, (True, False), 3)),
    ),
)


# --- measure_latency -----------------------------------------------------------------------------

Pair = tuple[float, float]


def _percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of sorted values, linear between neighbours."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _percentiles(values: Sequence[float]) -> Pair:
    return _percentile(values, 50), _percentile(values, 95)


def _expect_latency(
    answer: Answer,
    milliseconds: Sequence[float],
    timed: slice,
    reason: str,
    *,
    unlike: Mapping[str, Pair] = {},
    **settings: int,
) -> None:
    """Expect the percentiles of the calls in ``timed`` of calls that take ``milliseconds``.

    Raises:
        Broken: They differ.
    """
    seconds = torch.tensor(milliseconds, dtype=torch.float32) / 1000
    inputs = {"call": ScriptedCall(seconds), "clock": ScriptedClock(), **settings}
    right = _percentiles((1000 * seconds.double()).tolist()[timed])
    value = answer(**inputs)
    shown = {
        "inputs": inputs,
        "expected": dict(zip(("p50", "p95"), right, strict=True)),
        "actual": value,
    }
    require(
        isinstance(value, Mapping)
        and {"p50", "p95"} <= value.keys()
        and all(isinstance(value[k], int | float | Tensor) for k in ("p50", "p95")),
        'it gives no dictionary with a number under "p50" and under "p95".',
        **shown,
    )
    have = (float(value["p50"]), float(value["p95"]))

    def is_like(pair: Pair) -> bool:
        return all(same_number(a, b) for a, b in zip(have, pair, strict=True))

    if is_like(right):
        return
    for sentence, pair in {**unlike, **_common_mistakes(right)}.items():
        require(not is_like(pair), sentence, **shown)
    require(
        max(have) > min(right) / 10 or is_like((0.0, 0.0)),
        "next to no time has passed: the given clock is not the one that is asked. Call clock(), "
        "not time.perf_counter(); with a clock of its own a function can be tested.",
        **shown,
    )
    raise Broken(reason, **shown)


def _common_mistakes(right: Pair) -> dict[str, Pair]:
    p50, p95 = right
    return {
        "these are seconds, as the clock gives them; expected milliseconds: times 1000.": (
            p50 / 1000,
            p95 / 1000,
        ),
        "these are microseconds; expected milliseconds: times 1000, once.": (
            1000 * p50,
            1000 * p95,
        ),
        "no time has passed between the two readings: read the clock before the call and after "
        "it.": (0.0, 0.0),
    }


def _latency_milliseconds(answer: Answer, generator: torch.Generator) -> None:
    drawn = round(1 + 8 * torch.rand((), generator=generator).item(), 3)
    for takes, repeats in ((2.0, 1), (2.0, 3), (0.25, 4), (drawn, 2)):
        elapsed = [takes * (k + 1) for k in range(repeats)]
        total = takes * repeats
        _expect_latency(
            answer,
            [takes] * repeats,
            slice(None),
            f"every call takes {takes:g} ms, and so do the median and the 95th percentile.",
            unlike={
                "this is the time of all calls together: time each by itself.": (total, total),
                "the clock is started once, before the first call, so each time holds those "
                "before it: read it anew before every call.": _percentiles(elapsed),
                "each time is divided by the number of repeats, though each is of one call.": (
                    takes / repeats,
                    takes / repeats,
                ),
                "these are readings of the clock; a duration is the difference of two.": (
                    _percentiles([100_000 + t for t in elapsed])
                ),
                "these are readings of the clock; a duration is the difference of two readings.": (
                    _percentiles([100_000 + t - takes for t in elapsed])
                ),
                "the sign is turned: the reading after the call less the one before it.": (
                    -takes,
                    -takes,
                ),
            },
            warmup=0,
            repeats=repeats,
        )


def _latency_warmup(answer: Answer, generator: torch.Generator) -> None:
    for slow, fast in (([90.0], [2.0, 2.0]), ([90.0, 50.0], [2.0, 2.0, 2.0, 2.0])):
        calls, warmup, repeats = slow + fast, len(slow), len(fast)
        whole = sum(slow) + fast[0]
        _expect_latency(
            answer,
            calls,
            slice(warmup, None),
            f"the first {warmup} calls are slow ones, to warm up, and not counted; then "
            f"{repeats} are timed.",
            unlike={
                "the warm-up calls are counted too: make them before you begin to time.": (
                    _percentiles(calls)
                ),
                "there is no warm-up: the first calls are made and timed at once.": _percentiles(
                    calls[:repeats]
                ),
                "the first time holds the whole warm-up: read the clock after it, right before the "
                "call that is timed.": _percentiles([whole, *fast[1:]]),
                "the warm-up is one call short.": _percentiles(calls[warmup - 1 : -1]),
                "the warm-up is one call, whatever `warmup` says.": _percentiles(
                    calls[1 : 1 + repeats]
                ),
            },
            warmup=warmup,
            repeats=repeats,
        )


def _latency_percentiles(answer: Answer, generator: torch.Generator) -> None:
    drawn = (torch.rand(20, generator=generator) * 9 + 1).mul(10).round().div(10).tolist()
    for calls in ([4.0, 1.0, 2.0], [8.0, 1.0, 2.0, 3.0], [*drawn, 100.0]):
        n, ordered = len(calls), sorted(calls)
        p50, p95 = _percentiles(calls)
        mean = sum(calls) / n
        _expect_latency(
            answer,
            calls,
            slice(None),
            "p50 and p95 are the 50th and the 95th percentile of the times, linear between "
            "neighbours (np.percentile, or torch.quantile of float64).",
            unlike={
                "this is the mean of all times (total / repeats): one slow call moves it, and it "
                "says nothing of how slow calls get.": (mean, mean),
                "the mean of the times stands under p50: expected the median, which a slow call "
                "does not move.": (mean, p95),
                "the slowest call stands under p95. Of many calls one is always held up by "
                "something else; the 95th percentile lies before it, linear between neighbours.": (
                    p50,
                    ordered[-1],
                ),
                "the slowest call stands under p95 and the mean under p50; expected percentiles.": (
                    mean,
                    ordered[-1],
                ),
                "under p95 stands the nearest time, not linear between its two neighbours.": (
                    p50,
                    ordered[min(n - 1, int(0.95 * n))],
                ),
                "under p95 stands the nearest time below, not linear between its two neighbours.": (
                    p50,
                    ordered[int(0.95 * (n - 1))],
                ),
                "both are the nearest times above; of an even number of times the median is "
                "halfway between the middle two.": (
                    ordered[n // 2],
                    ordered[min(n - 1, int(0.95 * n))],
                ),
                "both are the nearest times below; of an even number of times the median is "
                "halfway between the middle two.": (
                    ordered[(n - 1) // 2],
                    ordered[int(0.95 * (n - 1))],
                ),
                "of an even number of times the median is halfway between the middle two "
                "(torch.median takes the lower one).": (ordered[(n - 1) // 2], p95),
                "of an even number of times the median is halfway between the middle two.": (
                    ordered[n // 2],
                    p95,
                ),
                "the times are not sorted before one is picked.": (
                    calls[n // 2],
                    calls[min(n - 1, int(0.95 * n))],
                ),
                "p50 and p95 are exchanged.": (p95, p50),
                "under p95 stands 0.95 times the slowest: 0.95 is a place in the sorted times.": (
                    p50,
                    0.95 * ordered[-1],
                ),
            },
            warmup=0,
            repeats=n,
        )


def _latency_defaults(answer: Answer, generator: torch.Generator) -> None:
    calls = [500.0] * 10 + [float(k) for k in range(1, 101)] + [500.0] * 200
    _expect_latency(
        answer,
        calls,
        slice(10, 110),
        "without `warmup` and `repeats` there are 10 calls to warm up and 100 that are timed. Here "
        "the 11th takes 1 ms, the 12th 2 ms, and so on to the 110th, and all others 500 ms.",
        unlike={
            "the warm-up is left out.": _percentiles(calls[:100]),
            "the warm-up is taken from the 100 calls: it comes before them.": _percentiles(
                calls[10:100]
            ),
        },
    )


def _latency_calls(answer: Answer, generator: torch.Generator) -> None:
    for warmup, repeats in ((0, 1), (2, 3)):
        inputs = {
            "call": ScriptedCall(torch.full((1,), 0.002)),
            "clock": ScriptedClock(),
            "warmup": warmup,
            "repeats": repeats,
        }
        _, state = answer.after("call", **inputs)
        calls = int(state["calls"])
        require(
            calls == warmup + repeats,
            f"the call is made {calls} times: expected {warmup} to warm up and {repeats} timed. A "
            "call that is made without need costs time on a slow machine.",
            inputs=inputs,
        )


MEASURE_LATENCY = Exercise(
    id="measure_latency",
    title="Latency, measured properly",
    minutes=10,
    difficulty=2,
    reference=measure_latency,
    parameters="call, clock=time.perf_counter, *, warmup=10, repeats=100",
    may_call="plain Python, numpy and torch (np.percentile too)",
    not_allowed=("distill_lab.exercises.deployment.measure_latency",),
    contracts=(
        Contract(
            id="milliseconds",
            law="Each call is timed by itself with the given clock, in milliseconds",
            points=0.75,
            holds=_latency_milliseconds,
            hints=(
                "The clock is read twice for every call: right before it and right after it.",
                "start = clock(); call(); seconds.append(clock() - start)",
                'return {"p50": …, "p95": …}, both times 1000',
            ),
        ),
        Contract(
            id="warmup",
            law="The warm-up calls come first and are not counted",
            points=0.75,
            holds=_latency_warmup,
            hints=(
                "The first calls allocate memory and fill caches: they are slow, and no user waits "
                "for them again.",
                "for _ in range(warmup): call(), before the loop that times",
            ),
        ),
        Contract(
            id="percentiles",
            law="p50 and p95 are percentiles, linear between neighbours",
            points=1,
            holds=_latency_percentiles,
            hints=(
                "Of 21 sorted times the 11th is p50 and the 20th is p95; for other numbers the "
                "place lies between two of them.",
                "np.percentile(seconds, [50, 95])",
            ),
        ),
        Contract(
            id="defaults",
            law="10 calls to warm up and 100 timed, unless said otherwise",
            points=0.5,
            holds=_latency_defaults,
            hints=(
                "Does your function use its parameters `warmup` and `repeats`?",
                "range(warmup) and range(repeats), with the defaults of the first line of the stub",
            ),
        ),
        Contract(
            id="calls",
            law="The call is made warmup + repeats times",
            points=0,
            holds=_latency_calls,
            hints=(
                "Count the places where call() stands, and how often each runs.",
                "One loop of `warmup` calls, one of `repeats`.",
            ),
        ),
    ),
)


# --- pareto_front --------------------------------------------------------------------------------


def _front(
    cost: Sequence[float], quality: Sequence[float], *, strictly: bool = False
) -> list[bool]:
    """By the definition, pair by pair; ``strictly``: better in both is asked."""

    def dominates(a: int, b: int) -> bool:
        if strictly:
            return cost[a] < cost[b] and quality[a] > quality[b]
        as_good = cost[a] <= cost[b] and quality[a] >= quality[b]
        return as_good and (cost[a] < cost[b] or quality[a] > quality[b])

    models = range(len(cost))
    return [not any(dominates(a, b) for a in models) for b in models]


def _dominate_none(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """The models that dominate no other: the front, were worse better in both."""
    return _front([-c for c in cost], [-q for q in quality])


def _hull(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """The corners of the front's upper convex hull only."""
    front = _front(cost, quality)
    kept: list[int] = []
    for k in sorted((k for k in range(len(cost)) if front[k]), key=lambda k: cost[k]):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (quality[b] - quality[a]) * (cost[k] - cost[a]) >= (quality[k] - quality[a]) * (
                cost[b] - cost[a]
            ):
                break
            kept.pop()
        kept.append(k)
    return [k in kept for k in range(len(cost))]


def _running_best(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    return [all(q > before for before in quality[:k]) for k, q in enumerate(quality)]


def _expect_front(
    answer: Answer,
    cost: Sequence[float],
    quality: Sequence[float],
    reason: str,
    unlike: Mapping[str, Sequence[bool]],
) -> None:
    inputs: Inputs = {"cost": torch.tensor(cost), "quality": torch.tensor(quality)}
    expect(
        answer,
        torch.tensor(_front(cost, quality)),
        reason,
        unlike={sentence: torch.tensor(wrong) for sentence, wrong in unlike.items()},
        **inputs,
    )


def _pareto_definition(answer: Answer, generator: torch.Generator) -> None:
    costs, qualities = [10.0, 12.0, 20.0, 25.0, 30.0, 40.0], [0.5, 0.72, 0.4, 0.86, 0.9, 0.87]
    times, less = 1 + 9 * torch.rand(2, generator=generator)
    for cost, quality in (
        (costs, qualities),
        ([5.0, 7.0], [0.9, 0.8]),
        ([5.0, 7.0], [0.8, 0.9]),
        # The same picture in other numbers.
        (
            [round(c * times.item(), 2) for c in costs],
            [round(q - less.item() / 30, 4) for q in qualities],
        ),
    ):
        front = _front(cost, quality)
        best, cheapest = quality.index(max(quality)), cost.index(min(cost))
        value = [q / c for q, c in zip(quality, cost, strict=True)]
        models = range(len(cost))
        _expect_front(
            answer,
            cost,
            quality,
            "a model stays unless another costs no more, is no worse, and is better in one of the "
            "two.",
            {
                "this marks the models that are dominated: true is for those that stay.": [
                    not x for x in front
                ],
                "the two sides are exchanged: these are the models that dominate no other; "
                "expected those that no other dominates.": _dominate_none(cost, quality),
                "a high cost is taken to be good: for cost, lower is better.": _front(
                    [-c for c in cost], quality
                ),
                "a low quality is taken to be good: for quality, higher is better.": _front(
                    cost, [-q for q in quality]
                ),
                "only the best model stays: a cheaper one that is a little worse is on the front "
                "too.": [k == best for k in models],
                "only the cheapest model stays: a dearer one that is better is on the front too.": [
                    k == cheapest for k in models
                ],
                "only the model with the most quality for its cost stays: the front has no single "
                "price for quality.": [k == value.index(max(value)) for k in models],
                "nothing is left: a model is not struck out because another is better in one "
                "respect, nor by itself.": [False] * len(cost),
                "everything stays: a model that costs more and is worse than another is "
                "dominated.": [True] * len(cost),
            },
        )


def _pareto_ties(answer: Answer, generator: torch.Generator) -> None:
    for cost, quality, what in (
        ([10.0, 10.0], [0.8, 0.9], "two models cost the same and one is better"),
        ([10.0, 20.0], [0.9, 0.9], "two models are equally good and one is cheaper"),
        (
            [20.0, 10.0, 20.0, 30.0],
            [0.9, 0.8, 0.8, 0.9],
            "the models share costs and qualities",
        ),
    ):
        _expect_front(
            answer,
            cost,
            quality,
            f"{what}: equal in one respect and better in the other is enough to dominate.",
            {
                f"{what}: < or > is asked where <= or >= would do. Equal in one respect and better "
                "in the other is enough to dominate.": _front(cost, quality, strictly=True),
                f"{what}, and neither stays: the one that is better in a respect is not dominated "
                "by the other.": [False] * len(cost),
            },
        )


def _pareto_twins(answer: Answer, generator: torch.Generator) -> None:
    for cost, quality in (
        ([10.0, 10.0], [0.8, 0.8]),
        ([30.0, 10.0, 10.0, 40.0], [0.7, 0.8, 0.8, 0.9]),
    ):
        front = _front(cost, quality)
        rows = list(zip(cost, quality, strict=True))
        first = [
            x and row not in rows[:k] for k, (x, row) in enumerate(zip(front, rows, strict=True))
        ]
        last = [
            x and row not in rows[k + 1 :]
            for k, (x, row) in enumerate(zip(front, rows, strict=True))
        ]
        none = [x and rows.count(row) == 1 for x, row in zip(front, rows, strict=True)]
        _expect_front(
            answer,
            cost,
            quality,
            "two models with equal cost and quality do not dominate each other: both stay.",
            {
                "twins strike each other out: to dominate, a model must be better in one respect, "
                "not only no worse in both.": none,
                "of two twins only the first stays: neither is better, so both do.": first,
                "of two twins only the last stays: neither is better, so both do.": last,
            },
        )


def _pareto_whole(answer: Answer, generator: torch.Generator) -> None:
    costs, qualities = (torch.randperm(8, generator=generator) + 1 for _ in range(2))
    for cost, quality in (
        ([7.0], [0.5]),
        ([10.0, 20.0, 30.0], [0.5, 0.55, 0.9]),
        ([20.0, 10.0, 30.0], [0.8, 0.9, 0.95]),
        ([30.0, 10.0, 20.0], [0.9, 0.8, 0.7]),
        (costs.double().tolist(), (qualities / 10).tolist()),
    ):
        _expect_front(
            answer,
            cost,
            quality,
            "it is not the whole front, whatever the order and the number of the models.",
            {
                "a model that lies below the straight line between two others is left out: no "
                "model is on that line, so none dominates it.": _hull(cost, quality),
                "the models are taken to come in the order of their cost: compare every model with "
                "every other, or sort them first and put the result back in order.": (
                    _running_best(cost, quality)
                ),
                "the result is in the order of cost: it must be in the order in which the models "
                "were given.": [
                    _front(cost, quality)[k] for k in sorted(range(len(cost)), key=cost.__getitem__)
                ],
            },
        )


PARETO_FRONT = Exercise(
    id="pareto_front",
    title="Which models are worth a look",
    minutes=15,
    difficulty=2,
    reference=pareto_front,
    parameters="cost, quality",
    may_call="anything in torch and numpy",
    not_allowed=("distill_lab.exercises.deployment.pareto_front",),
    contracts=(
        Contract(
            id="dominated",
            law="A model that costs more and is worse than another is out; the rest stay",
            points=1,
            holds=_pareto_definition,
            hints=(
                "Plot cost against quality: another model dominates when it lies to the left and "
                "above.",
                "For every model ask all others: costs no more, is no worse, and is better in one?",
                "cost[None, :] <= cost[:, None] is [models, models]: row the judged model, column "
                "the other. Combine four such tables with & and |, then ~(…).any(1).",
            ),
        ),
        Contract(
            id="whole_front",
            law="Any order, any number, dents in the front too",
            points=0.75,
            holds=_pareto_whole,
            hints=(
                "Nothing says that the models come sorted.",
                "Entry k of the result is about model k as it was given.",
            ),
        ),
        Contract(
            id="ties",
            law="Equal in one respect and better in the other dominates",
            points=0.75,
            holds=_pareto_ties,
            hints=(
                "Would you take a model that costs the same and is worse?",
                "At least as good in both (<= and >=), and better in one (< or >).",
            ),
        ),
        Contract(
            id="twins",
            law="Models equal in both respects all stay",
            points=0.5,
            holds=_pareto_twins,
            hints=(
                "Every model is at least as good as itself in both. Does it strike itself out?",
                "Without `and better in one`, twins dominate each other.",
            ),
        ),
        _unchanged(
            lambda g: {
                "cost": torch.tensor([30.0, 10.0, 20.0]),
                "quality": torch.tensor([0.7, 0.9, 0.8]),
            }
        ),
    ),
)

LESSON = Lesson(
    name="08_evaluation_deployment",
    title="Evaluation and deployment: sure, fast and small enough?",
    minutes=85,
    difficulty=2,
    exercises=(EXPECTED_CALIBRATION_ERROR, AGREEMENT, MEASURE_LATENCY, PARETO_FRONT),
)
