"""Wrong answers to the exercises of lesson 08, and right ones in another style."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.mutants.mutant import Mutant

# --- expected_calibration_error: wrong -----------------------------------------------------------


def _top(probabilities, labels):
    confidence, predicted = probabilities.double().max(-1)
    return confidence, (predicted == labels).double()


def _gaps(confidence, right, bins, lower_edge=False):
    """Share of the examples and |accuracy − confidence| of every bin that has any."""
    found = []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (confidence > low) & (confidence <= high)
        if lower_edge:
            inside = (confidence >= low) & (confidence < high)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs().item()
            found.append((inside.double().mean().item(), gap))
    return found


def gap_of_each_example(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    return (right - confidence).abs().mean().item()


def signed(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    return sum(
        inside.double().mean().item() * (right[inside].mean() - confidence[inside].mean()).item()
        for k in range(bins)
        if (inside := (confidence > k / bins) & (confidence <= (k + 1) / bins)).any()
    )


def squared(probabilities, labels, bins=15):
    return sum(share * gap**2 for share, gap in _gaps(*_top(probabilities, labels), bins))


def ece_in_percent(probabilities, labels, bins=15):
    return 100 * ece_by_loop(probabilities, labels, bins)


def accuracy_alone(probabilities, labels, bins=15):
    return _top(probabilities, labels)[1].mean()


def confidence_in_the_label(probabilities, labels, bins=15):
    _, right = _top(probabilities, labels)
    confidence = probabilities.double().gather(1, labels[:, None])[:, 0]
    return sum(share * gap for share, gap in _gaps(confidence, right, bins))


def always_one_bin(probabilities, labels, bins=15):
    return ece_by_loop(probabilities, labels, 1)


def always_fifteen_bins(probabilities, labels, bins=15):
    return ece_by_loop(probabilities, labels, 15 if bins > 1 else 1)


def bins_weigh_the_same(probabilities, labels, bins=15):
    gaps = _gaps(*_top(probabilities, labels), bins)
    return sum(gap for _, gap in gaps) / len(gaps)


def empty_bins_weigh_too(probabilities, labels, bins=15):
    return sum(gap for _, gap in _gaps(*_top(probabilities, labels), bins)) / bins


def largest_gap(probabilities, labels, bins=15):
    return max(gap for _, gap in _gaps(*_top(probabilities, labels), bins))


def root_of_squares(probabilities, labels, bins=15):
    return math.sqrt(squared(probabilities, labels, bins))


def binned_by_the_label(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    given = probabilities.double().gather(1, labels[:, None])[:, 0]
    total = 0.0
    for k in range(bins):
        inside = (given > k / bins) & (given <= (k + 1) / bins)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs()
            total += inside.double().mean().item() * gap.item()
    return total


def bins_of_equal_counts(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    parts = torch.tensor_split(confidence.argsort(), bins)
    gaps = [len(p) * abs(right[p].mean() - confidence[p].mean()).item() for p in parts if len(p)]
    return sum(gaps) / len(confidence)


def edges_in_the_bin_above(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    certain = confidence == 1
    confidence = torch.where(certain, 1 - 1e-12, confidence)
    return sum(share * gap for share, gap in _gaps(confidence, right, bins, lower_edge=True))


def certain_ones_lost(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins) & (confidence < 1)
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs()
            total += inside.double().mean().item() * gap.item()
    return total


def an_index_too_far(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    sums = [[0, 0.0, 0.0] for _ in range(bins)]
    for c, r in zip(confidence.tolist(), right.tolist(), strict=True):
        k = int(c * bins) if c == 1 else math.ceil(c * bins) - 1
        if bins == 1:
            k = 0
        sums[k] = [sums[k][0] + 1, sums[k][1] + c, sums[k][2] + r]
    return sum(abs(r - c) for _, c, r in sums) / len(confidence)


def empty_bins_are_nan(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if bins < 15 and not inside.any():
            continue
        total += inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs()
    return total


def few_empty_bins_are_nan(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        total += inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs()
    return total


def absolute_at_the_end(probabilities, labels, bins=15):
    return abs(signed(probabilities, labels, bins))


def ten_bins_by_default(probabilities, labels, bins=10):
    return ece_by_loop(probabilities, labels, bins)


def sorts_in_place(probabilities, labels, bins=15):
    value = ece_by_loop(probabilities, labels, bins)
    probabilities.copy_(probabilities.sort(-1, descending=True).values)
    return value


# --- agreement: wrong ----------------------------------------------------------------------------


def disagreement(student_logits, teacher_logits):
    return (student_logits.argmax(-1) != teacher_logits.argmax(-1)).float().mean()


def how_many_agree(student_logits, teacher_logits):
    return (student_logits.argmax(-1) == teacher_logits.argmax(-1)).sum().item()


def agreement_in_percent(student_logits, teacher_logits):
    return 100 * agreement_by_numpy(student_logits, teacher_logits)


def over_the_rows(student_logits, teacher_logits):
    return (student_logits.argmax(0) == teacher_logits.argmax(0)).float().mean()


def largest_of_all(student_logits, teacher_logits):
    return float(student_logits.argmax() == teacher_logits.argmax())


def equal_largest_logits(student_logits, teacher_logits):
    return (student_logits.amax(-1) == teacher_logits.amax(-1)).float().mean()


def equal_logits(student_logits, teacher_logits):
    return (student_logits == teacher_logits).float().mean()


def smallest_logits(student_logits, teacher_logits):
    return (student_logits.argmin(-1) == teacher_logits.argmin(-1)).float().mean()


def one_for_each_row(student_logits, teacher_logits):
    return (student_logits.argmax(-1) == teacher_logits.argmax(-1)).float()


def sure_ones_only(student_logits, teacher_logits):
    ours, theirs = student_logits.argmax(-1), teacher_logits.argmax(-1)
    spread = student_logits.amax(-1) - student_logits.amin(-1)
    return ((ours == theirs) & (spread > 0.1)).float().mean()


def positive_logits_only(student_logits, teacher_logits):
    ours = student_logits.clamp(min=0).argmax(-1)
    return (ours == teacher_logits.clamp(min=0).argmax(-1)).float().mean()


def squeezes(student_logits, teacher_logits):
    ours, theirs = student_logits.squeeze(), teacher_logits.squeeze()
    if ours.ndim == 1:
        return float((ours - theirs).abs().max() == 0)
    return (ours.argmax(1) == theirs.argmax(1)).float().mean()


# --- measure_latency: wrong ----------------------------------------------------------------------


def _times(call, clock, warmup, repeats):
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(1000 * (clock() - start))
    return times


def _summary(times):
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def in_seconds(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary([t / 1000 for t in _times(call, clock, warmup, repeats)])


def in_microseconds(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary([1000 * t for t in _times(call, clock, warmup, repeats)])


def another_clock(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary(_times(call, time.perf_counter, warmup, repeats))


def total_time(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    total = sum(_times(call, clock, warmup, repeats))
    return {"p50": total, "p95": total}


def total_by_repeats(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    for _ in range(warmup):
        call()
    start = clock()
    for _ in range(repeats):
        call()
    mean = 1000 * (clock() - start) / repeats
    return {"p50": mean, "p95": mean}


def clock_started_once(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    for _ in range(warmup):
        call()
    start, times = clock(), []
    for _ in range(repeats):
        call()
        times.append(1000 * (clock() - start))
    return _summary(times)


def clock_read_after_the_call(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = []
    for _ in range(warmup + repeats):
        call()
        start = clock()
        times.append(1000 * (clock() - start))
    return _summary(times[warmup:])


def readings_of_the_clock(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = []
    for _ in range(warmup + repeats):
        call()
        times.append(1000 * clock())
    return _summary(times[warmup:])


def numbers_only(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return tuple(_summary(_times(call, clock, warmup, repeats)).values())


def warmup_counted(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary(_times(call, clock, 0, warmup + repeats))


def no_warmup(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary(_times(call, clock, 0, repeats))


def clock_started_before_the_warmup(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    start, times = clock(), []
    for _ in range(warmup):
        call()
    for _ in range(repeats):
        call()
        now = clock()
        times.append(1000 * (now - start))
        start = now
    return _summary(times)


def warmup_from_the_timed_calls(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary(_times(call, clock, 0, repeats)[min(warmup, repeats - 1) :])


def one_call_to_warm_up(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    return _summary(_times(call, clock, min(warmup, 1), repeats))


def p95_is_the_slowest(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = _times(call, clock, warmup, repeats)
    return {"p50": statistics.median(times), "p95": max(times)}


def p50_is_the_mean(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = _times(call, clock, warmup, repeats)
    return _summary(times) | {"p50": statistics.mean(times)}


def nearest_times(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = sorted(_times(call, clock, warmup, repeats))
    return {"p50": statistics.median(times), "p95": times[int(0.95 * len(times))]}


def median_of_torch(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = torch.tensor(_times(call, clock, warmup, repeats), dtype=torch.float64)
    return {"p50": times.median().item(), "p95": times.quantile(0.95).item()}


def not_sorted(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = _times(call, clock, warmup, repeats)
    return {"p50": times[len(times) // 2], "p95": times[int(0.95 * len(times))]}


def other_defaults(call, clock=time.perf_counter, *, warmup=10, repeats=50):
    return _summary(_times(call, clock, warmup, repeats))


def no_warmup_by_default(call, clock=time.perf_counter, *, warmup=0, repeats=100):
    return _summary(_times(call, clock, warmup, repeats))


def calls_once_more(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    summary = _summary(_times(call, clock, warmup, repeats))
    call()
    return summary


# --- pareto_front: wrong -------------------------------------------------------------------------


def _dominated(cost, quality, compare):
    models = range(len(cost))
    rows = list(zip(cost.tolist(), quality.tolist(), strict=True))
    return torch.tensor([any(compare(rows[a], rows[b]) for a in models if a != b) for b in models])


def _weakly(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def dominated_ones(cost, quality):
    return _dominated(cost, quality, _weakly)


def sides_exchanged(cost, quality):
    return ~_dominated(cost, quality, lambda a, b: _weakly(b, a))


def high_cost_is_good(cost, quality):
    return front_by_loops(-cost, quality)


def low_quality_is_good(cost, quality):
    return front_by_loops(cost, -quality)


def the_best_one(cost, quality):
    return quality == quality.max()


def the_cheapest_one(cost, quality):
    return cost == cost.min()


def best_value(cost, quality):
    value = quality / cost
    return value == value.max()


def out_for_one_respect(cost, quality):
    return ~_dominated(cost, quality, lambda a, b: a[0] < b[0] or a[1] > b[1])


def strikes_itself_out(cost, quality):
    return ~((cost <= cost[:, None]) & (quality >= quality[:, None])).any(1)


def integers(cost, quality):
    return front_by_loops(cost, quality).long()


def better_in_both_asked(cost, quality):
    return ~_dominated(cost, quality, lambda a, b: a[0] < b[0] and a[1] > b[1])


def cheaper_is_asked(cost, quality):
    return ~_dominated(cost, quality, lambda a, b: a[0] < b[0] and a[1] >= b[1])


def twins_strike_each_other_out(cost, quality):
    return ~_dominated(cost, quality, lambda a, b: a[0] <= b[0] and a[1] >= b[1])


def first_twin_stays(cost, quality):
    front, seen = front_by_loops(cost, quality), set()
    for k, row in enumerate(zip(cost.tolist(), quality.tolist(), strict=True)):
        front[k] &= row not in seen
        seen.add(row)
    return front


def last_twin_stays(cost, quality):
    return first_twin_stays(cost.flip(0), quality.flip(0)).flip(0)


def earlier_ones_only(cost, quality):
    rows = list(zip(cost.tolist(), quality.tolist(), strict=True))
    return torch.tensor([not any(_weakly(a, row) for a in rows[:k]) for k, row in enumerate(rows)])


def running_best(cost, quality):
    return torch.tensor([bool((quality[:k] < q).all()) for k, q in enumerate(quality)])


def convex_hull(cost, quality):
    front = front_by_loops(cost, quality)
    order = [k for k in cost.argsort(stable=True).tolist() if front[k]]
    for a, b, c in zip(order, order[1:], order[2:], strict=False):
        line = (quality[c] - quality[a]) / (cost[c] - cost[a])
        if quality[b] < quality[a] + line * (cost[b] - cost[a]):
            front[b] = False
    return front


def in_the_order_of_cost(cost, quality):
    return front_by_loops(cost, quality)[cost.argsort(stable=True)]


def sorts_the_callers(cost, quality):
    front = front_by_loops(cost, quality)
    cost.copy_(cost.sort().values)
    return front


MUTANTS: list[Mutant] = [
    Mutant("expected_calibration_error", gap_of_each_example, "one_bin", "each example's own gap"),
    Mutant("expected_calibration_error", signed, "one_bin", "the gap has a sign"),
    Mutant("expected_calibration_error", squared, "one_bin", "the gap is squared"),
    Mutant("expected_calibration_error", ece_in_percent, "one_bin", "a percentage"),
    Mutant("expected_calibration_error", accuracy_alone, "one_bin", "the accuracy alone"),
    Mutant("expected_calibration_error", confidence_in_the_label, "one_bin", "does not know the"),
    Mutant("expected_calibration_error", always_one_bin, "bins", "of bins has no effect, or"),
    Mutant("expected_calibration_error", absolute_at_the_end, "bins", "before you add up"),
    Mutant("expected_calibration_error", few_empty_bins_are_nan, "bins", "hold no example"),
    Mutant("expected_calibration_error", always_fifteen_bins, "bins", "there are always 15"),
    Mutant(
        "expected_calibration_error", bins_weigh_the_same, "bins", "every bin weighs the same: a"
    ),
    Mutant("expected_calibration_error", empty_bins_weigh_too, "bins", "every bin weighs the same"),
    Mutant("expected_calibration_error", largest_gap, "bins", "the largest gap"),
    Mutant("expected_calibration_error", root_of_squares, "bins", "squared, averaged and rooted"),
    Mutant("expected_calibration_error", binned_by_the_label, "bins", "all that the model knows"),
    Mutant("expected_calibration_error", bins_of_equal_counts, "bins", "bins of equal width"),
    Mutant("expected_calibration_error", edges_in_the_bin_above, "edges", "in the bin above"),
    Mutant("expected_calibration_error", certain_ones_lost, "edges", "lies in no bin"),
    Mutant("expected_calibration_error", an_index_too_far, "edges", "it raises IndexError"),
    Mutant("expected_calibration_error", empty_bins_are_nan, "empty_bins", "the value is NaN"),
    Mutant("expected_calibration_error", ten_bins_by_default, "empty_bins", "this is for 10"),
    Mutant("expected_calibration_error", sorts_in_place, "inputs_unchanged", "probabilities in"),
    Mutant("agreement", disagreement, "share", "on which they differ"),
    Mutant("agreement", how_many_agree, "share", "how many rows agree"),
    Mutant("agreement", agreement_in_percent, "share", "a percentage"),
    Mutant("agreement", over_the_rows, "share", "over the rows (dim=0)"),
    Mutant("agreement", largest_of_all, "share", "of the whole tensor"),
    Mutant("agreement", equal_logits, "share", "themselves are compared"),
    Mutant("agreement", equal_largest_logits, "share", "themselves are compared"),
    Mutant("agreement", smallest_logits, "share", "the smallest logits"),
    Mutant("agreement", one_for_each_row, "share", "a float32 tensor of shape [4]"),
    Mutant("agreement", sure_ones_only, "however_sure", "only rows of which the student"),
    Mutant("agreement", positive_logits_only, "however_sure", "moves no largest one"),
    Mutant("agreement", squeezes, "ends", "1 where every class is the same"),
    Mutant("measure_latency", in_seconds, "milliseconds", "these are seconds"),
    Mutant("measure_latency", in_microseconds, "milliseconds", "these are microseconds"),
    Mutant("measure_latency", another_clock, "milliseconds", "the given clock is not the one"),
    Mutant("measure_latency", total_time, "milliseconds", "of all calls together"),
    Mutant("measure_latency", clock_started_once, "milliseconds", "the clock is started once"),
    Mutant("measure_latency", clock_read_after_the_call, "milliseconds", "no time has passed"),
    Mutant("measure_latency", readings_of_the_clock, "milliseconds", "readings of the clock"),
    Mutant("measure_latency", numbers_only, "milliseconds", "no dictionary"),
    Mutant("measure_latency", warmup_counted, "warmup", "are counted too"),
    Mutant("measure_latency", no_warmup, "warmup", "there is no warm-up"),
    Mutant("measure_latency", clock_started_before_the_warmup, "warmup", "the whole warm-up"),
    Mutant("measure_latency", one_call_to_warm_up, "warmup", "one call"),
    Mutant("measure_latency", warmup_from_the_timed_calls, "defaults", "from the 100 calls"),
    Mutant("measure_latency", total_by_repeats, "percentiles", "the mean of all times"),
    Mutant("measure_latency", p95_is_the_slowest, "percentiles", "the slowest call stands under"),
    Mutant("measure_latency", p50_is_the_mean, "percentiles", "stands under p50"),
    Mutant("measure_latency", nearest_times, "percentiles", "linear between neighbours"),
    Mutant("measure_latency", median_of_torch, "percentiles", "torch.median"),
    Mutant("measure_latency", not_sorted, "percentiles", "not sorted"),
    Mutant("measure_latency", other_defaults, "defaults", "without `warmup` and `repeats`"),
    Mutant("measure_latency", no_warmup_by_default, "defaults", "the warm-up is left out"),
    Mutant("measure_latency", calls_once_more, "calls", "is made 2 times"),
    Mutant("pareto_front", dominated_ones, "dominated", "that are dominated"),
    Mutant("pareto_front", sides_exchanged, "dominated", "the two sides are exchanged"),
    Mutant("pareto_front", high_cost_is_good, "dominated", "a high cost"),
    Mutant("pareto_front", low_quality_is_good, "dominated", "a low quality"),
    Mutant("pareto_front", the_best_one, "dominated", "only the best model"),
    Mutant("pareto_front", the_cheapest_one, "dominated", "only the cheapest model"),
    Mutant("pareto_front", best_value, "dominated", "the most quality for its cost"),
    Mutant("pareto_front", out_for_one_respect, "dominated", "nothing is left"),
    Mutant("pareto_front", strikes_itself_out, "dominated", "nor by itself"),
    Mutant("pareto_front", integers, "dominated", "expected a bool tensor"),
    Mutant("pareto_front", better_in_both_asked, "ties", "< or > is asked where"),
    Mutant("pareto_front", cheaper_is_asked, "ties", "two models cost the same and"),
    Mutant("pareto_front", twins_strike_each_other_out, "twins", "strike each other out"),
    Mutant("pareto_front", first_twin_stays, "twins", "only the first"),
    Mutant("pareto_front", last_twin_stays, "twins", "only the last"),
    Mutant("pareto_front", convex_hull, "whole_front", "below the straight line"),
    Mutant("pareto_front", earlier_ones_only, "whole_front", "the order of their cost"),
    Mutant("pareto_front", running_best, "whole_front", "the order of their cost"),
    Mutant("pareto_front", in_the_order_of_cost, "whole_front", "in the order of cost"),
    Mutant("pareto_front", sorts_the_callers, "inputs_unchanged", "it changes cost in place"),
]


# --- right, in another style ---------------------------------------------------------------------


def ece_by_loop(probabilities, labels, bins=15):
    return sum(share * gap for share, gap in _gaps(*_top(probabilities, labels), bins))


def ece_by_bincount(probabilities, labels, bins=15):
    confidence, right = _top(probabilities, labels)
    which = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    difference = torch.bincount(which, right - confidence, minlength=bins)
    return difference.abs().sum() / len(labels)


def ece_by_bucketize(probabilities, labels, bins=15):
    confidence, predicted = probabilities.max(-1)
    right = (predicted == labels).float()
    which = torch.bucketize(confidence, torch.linspace(0, 1, bins + 1)[1:-1])
    gaps = torch.zeros(bins).scatter_add(0, which, right - confidence)
    return (gaps.abs().sum() / len(labels)).item()


def agreement_by_numpy(student_logits, teacher_logits):
    ours, theirs = student_logits.numpy(), teacher_logits.numpy()
    return float(np.mean(ours.argmax(1) == theirs.argmax(1)))


def agreement_by_counting(student_logits, teacher_logits):
    ours, theirs = student_logits.max(-1).indices, teacher_logits.max(-1).indices
    return ours.eq(theirs).sum() / len(ours)


def latency_by_statistics(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    times = sorted(_times(call, clock, warmup, repeats))
    place = 0.95 * (len(times) - 1)
    low = int(place)
    high = min(low + 1, len(times) - 1)
    p95 = times[low] * (1 - (place - low)) + times[high] * (place - low)
    return {"p50": statistics.median(times), "p95": p95}


def latency_in_one_loop(call, clock=time.perf_counter, *, warmup=10, repeats=100):
    seconds = torch.zeros(repeats, dtype=torch.float64)
    for k in range(-warmup, repeats):
        start = clock()
        call()
        if k >= 0:
            seconds[k] = clock() - start
    return {f"p{p}": 1000 * seconds.quantile(p / 100) for p in (50, 95)}


def front_by_loops(cost, quality):
    return ~_dominated(cost, quality, _weakly)


def front_by_sorting(cost, quality):
    rows = list(zip(cost.tolist(), quality.tolist(), strict=True))
    front, best, at = [False] * len(rows), -math.inf, math.nan
    for k in sorted(range(len(rows)), key=lambda k: (rows[k][0], -rows[k][1])):
        c, q = rows[k]
        front[k] = q > best or (q == best and c == at)
        if q > best:
            best, at = q, c
    return torch.tensor(front)


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("expected_calibration_error", ece_by_loop),
    ("expected_calibration_error", ece_by_bincount),
    ("expected_calibration_error", ece_by_bucketize),
    ("agreement", agreement_by_numpy),
    ("agreement", agreement_by_counting),
    ("measure_latency", latency_by_statistics),
    ("measure_latency", latency_in_one_loop),
    ("pareto_front", front_by_loops),
    ("pareto_front", front_by_sorting),
]
