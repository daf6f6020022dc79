"""Laws of evaluation: quality against other implementations, intervals over groups, cost."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_lab import evaluation
from distill_lab.evaluation import (
    Cost,
    Evaluation,
    accuracy_and_macro_f1,
    agreement,
    bootstrap_weights,
    class_similarity,
    compare,
    confusion_metrics,
    evaluate,
    expected_calibration_error,
    fit_temperature,
    gain,
    group_confusions,
    measure_cost,
    measure_speeds,
    metric_intervals,
    predict_logits,
    reliability,
    seeds_interval,
)
from distill_lab.tasks import Task


def made(
    seed: int = 0,
    examples: int = 60,
    classes: int = 4,
    groups: int = 12,
    right: float = 1.0,
    labels_seed: int = 0,
) -> Evaluation:
    """Draw an evaluation; the more ``right``, the more often the true class is predicted."""
    labels = np.random.default_rng(labels_seed).integers(0, classes, examples)
    random = np.random.default_rng(seed + 1)
    logits = random.normal(size=(examples, classes))
    logits[np.arange(examples), labels] += right
    probabilities = np.exp(logits)
    return Evaluation(
        ids=[f"example-{k}" for k in range(examples)],
        groups=[f"group-{k % groups}" for k in range(examples)],
        labels=labels,
        probabilities=probabilities / probabilities.sum(1, keepdims=True),
    )


def take(evaluation: Evaluation, rows: Any) -> Evaluation:
    """Give the evaluation of some of the examples."""
    return Evaluation(
        ids=[f"{evaluation.ids[k]}/{n}" for n, k in enumerate(rows)],
        groups=[evaluation.groups[k] for k in rows],
        labels=evaluation.labels[rows],
        probabilities=evaluation.probabilities[rows],
    )


EVALUATIONS = st.builds(
    made,
    seed=st.integers(0, 1000),
    examples=st.integers(1, 80),
    classes=st.integers(2, 6),
    groups=st.integers(1, 20),
    right=st.floats(0, 4),
    labels_seed=st.integers(0, 1000),
)


# --- quality -----------------------------------------------------------------------------------


@given(EVALUATIONS)
def test_accuracy_and_macro_f1_equal_scikit_learn(e: Evaluation) -> None:
    predicted = e.probabilities.argmax(1)
    classes = list(range(e.probabilities.shape[1]))
    assert e.accuracy == pytest.approx(accuracy_score(e.labels, predicted))
    expected = f1_score(e.labels, predicted, labels=classes, average="macro", zero_division=0)
    assert e.macro_f1 == pytest.approx(expected)


@settings(max_examples=30)
@given(EVALUATIONS)
def test_confusion_metrics_agree_with_accuracy_and_macro_f1(e: Evaluation) -> None:
    classes = list(range(e.probabilities.shape[1]))
    counts = confusion_matrix(e.labels, e.predictions, labels=classes)
    found = confusion_metrics(counts)
    assert found["accuracy"] == pytest.approx(e.accuracy)
    assert found["macro_f1"] == pytest.approx(e.macro_f1)
    several = group_confusions(e)  # a group has its own matrix, and together they are the whole
    assert (several.sum(0) == counts).all()
    alone = confusion_metrics(several)
    for k, group in enumerate(sorted(set(e.groups))):
        rows = [n for n, own in enumerate(e.groups) if own == group]
        assert alone["accuracy"][k] == pytest.approx(take(e, rows).accuracy)
        assert alone["macro_f1"][k] == pytest.approx(take(e, rows).macro_f1)


def test_a_class_that_is_neither_there_nor_predicted_counts_0() -> None:
    scores = [[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = accuracy_and_macro_f1(scores, [0, 1])
    assert found == {"accuracy": 1.0, "macro_f1": pytest.approx(2 / 3)}


def ece_in_a_loop(e: Evaluation, bins: int) -> float:
    """Guo et al. 2017, equation 3, an example and a bin at a time."""
    total = 0.0
    for k in range(bins):
        inside = [
            (max(row), int(np.argmax(row)) == label)
            for row, label in zip(e.probabilities.tolist(), e.labels.tolist(), strict=True)
            if k / bins < max(row) <= (k + 1) / bins
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(e.labels) * abs(accuracy - confidence)
    return total


@given(EVALUATIONS, st.integers(1, 20))
def test_ece_equals_a_loop_over_examples_and_bins(e: Evaluation, bins: int) -> None:
    found = expected_calibration_error(e.probabilities, e.labels, bins)
    assert found == pytest.approx(ece_in_a_loop(e, bins), abs=1e-12)
    assert 0 <= found <= 1
    assert e.ece == pytest.approx(ece_in_a_loop(e, 15), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.6, 0.8, 0.9, 1.0])
def test_a_calibrated_classifier_has_ece_0(confidence: float) -> None:
    labels = np.array([0] * round(100 * confidence) + [1] * round(100 - 100 * confidence))
    probabilities = np.tile([confidence, 1 - confidence], (100, 1))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.0, abs=1e-12)


def test_a_classifier_that_is_sure_and_wrong_has_ece_1() -> None:
    assert expected_calibration_error([[1.0, 0.0]] * 3, [1, 1, 1]) == 1.0


@given(EVALUATIONS)
def test_reliability_counts_each_example_once(e: Evaluation) -> None:
    found = reliability(e.probabilities, e.labels)
    assert found["lower"] == pytest.approx([k / 15 for k in range(15)])
    assert found["upper"] == pytest.approx([(k + 1) / 15 for k in range(15)])
    assert sum(found["count"]) == len(e.labels)
    for k, count in enumerate(found["count"]):
        if count:
            assert found["lower"][k] < found["confidence"][k] <= found["upper"][k] + 1e-12
        else:
            assert found["confidence"][k] == found["accuracy"][k] == 0


def test_a_confidence_on_an_edge_falls_in_the_lower_bin() -> None:
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24], [1.0, 0.0]])
    assert reliability(probabilities, [0] * 4, bins=4)["count"] == [0, 1, 1, 2]


def logits_and_labels(seed: int, examples: int = 200, classes: int = 4) -> tuple[Any, Any]:
    """Draw logits that point to the label more often than not."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, examples)
    logits = random.normal(size=(examples, classes))
    logits[np.arange(examples), labels] += 1
    return logits, labels


@given(st.integers(0, 1000))
def test_at_the_fitted_temperature_the_mean_logit_of_the_label_is_the_expected_one(
    seed: int,
) -> None:
    logits, labels = logits_and_labels(seed)
    # The derivative of the cross-entropy in 1/T is E_p[z] - z_label; at its least point it is 0.
    p = torch.tensor(logits / fit_temperature(logits, labels)).softmax(1).numpy()
    expected = (p * logits).sum(1).mean()
    assert expected == pytest.approx(logits[np.arange(len(labels)), labels].mean(), abs=1e-5)


@given(st.integers(0, 1000), st.floats(0.2, 5), st.floats(-100, 100))
def test_a_temperature_scales_with_the_logits_and_ignores_a_constant(
    seed: int, factor: float, constant: float
) -> None:
    logits, labels = logits_and_labels(seed)
    plain = fit_temperature(logits, labels)
    assert fit_temperature(factor * logits + constant, labels) == pytest.approx(
        factor * plain, rel=1e-4
    )


def test_fitting_finds_the_temperature_that_drew_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40_000, 5, generator=generator)
    for truth in (0.5, 1.0, 2.5):
        labels = torch.multinomial((logits / truth).softmax(1), 1, generator=generator)[:, 0]
        assert fit_temperature(logits, labels) == pytest.approx(truth, rel=0.03)


def test_a_temperature_stays_between_its_bounds() -> None:
    logits = np.array([[1.0, 0.0], [2.0, 0.0]])
    assert 0.01 <= fit_temperature(logits, [0, 0]) < 0.05  # all right: the smaller the better
    assert 50 < fit_temperature(logits, [1, 1]) <= 100  # all wrong: the larger the better


@pytest.mark.parametrize("labels", [[], [0]])
def test_a_temperature_needs_a_label_for_each_example(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="one each is needed"):
        fit_temperature(np.zeros((2 * len(labels), 3)), labels)


def test_agreement_counts_equal_predictions_right_or_wrong() -> None:
    one = made(1)
    other = replace(one, probabilities=one.probabilities.copy())
    assert agreement(one, other) == 1.0
    turned = np.roll(one.probabilities[:15], 1, axis=1)
    other.probabilities[:15] = turned
    assert agreement(one, other) == agreement(other, one) == 0.75
    assert agreement(one, replace(one, labels=1 - one.labels)) == 1.0
    with pytest.raises(ValueError, match="same examples"):
        agreement(one, take(one, range(30)))


@given(EVALUATIONS, st.sampled_from([0.5, 1.0, 4.0]))
def test_rows_of_class_similarity_sum_to_1(e: Evaluation, temperature: float) -> None:
    found = class_similarity(e, temperature)
    for label, row in enumerate(found):
        there = e.labels == label
        assert row.sum() == pytest.approx(float(there.any()))
        if there.any() and temperature == 1.0:
            np.testing.assert_allclose(row, e.probabilities[there].mean(0))


def test_class_similarity_softens_and_bears_probabilities_of_0() -> None:
    sure = replace(made(), probabilities=np.eye(4)[made().labels])
    assert np.isfinite(class_similarity(sure, 4.0)).all()
    np.testing.assert_allclose(class_similarity(sure), np.eye(4), atol=1e-12)
    hot = class_similarity(made(right=3.0), 100.0)
    np.testing.assert_allclose(hot, 0.25, atol=0.02)


# --- predicting --------------------------------------------------------------------------------


def test_predictions_do_not_depend_on_batch_size_and_order(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_teacher: PreTrainedModel
) -> None:
    data = small_task.encode("test", small_tokenizer)
    collate = small_task.collator(small_tokenizer)
    small_teacher.train()
    alone = torch.cat([predict_logits(small_teacher, data.select([k]), collate) for k in range(9)])
    assert not small_teacher.training
    for batch_size in (1, 4, 64):
        together = predict_logits(small_teacher, data, collate, batch_size=batch_size)
        assert together.dtype == torch.float32
        assert together.shape == (len(data), 3)
        torch.testing.assert_close(together[:9], alone, atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = predict_logits(small_teacher, data.select(order), collate, batch_size=4)
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-5)
    unsorted = predict_logits(small_teacher, data.remove_columns("length"), collate, batch_size=4)
    torch.testing.assert_close(unsorted, together, atol=1e-5, rtol=1e-5)


def test_an_evaluation_holds_the_split_in_its_order(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_teacher: PreTrainedModel
) -> None:
    found = evaluate(small_teacher, small_task, small_tokenizer, device="cpu", batch_size=7)
    assert found.ids == small_task.test["id"][:]
    assert found.groups == small_task.test["group"][:]
    assert found.labels.tolist() == small_task.test["label"][:]
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, atol=1e-12)
    row = small_tokenizer(small_task.test["text"][5], return_tensors="pt")
    with torch.no_grad():
        expected = small_teacher(**row).logits.double().softmax(-1)[0].numpy()
    np.testing.assert_allclose(found.probabilities[5], expected, atol=1e-6)
    other = evaluate(small_teacher, small_task, small_tokenizer, split="validation", device="cpu")
    assert other.ids == small_task.validation["id"][:]


# --- intervals ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10).filter(lambda v: np.std(v) > 1e-6))
def test_the_interval_over_seeds_is_student_s(values: list[float]) -> None:
    found = seeds_interval(values)
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.kind == "seeds"


@pytest.mark.parametrize(("runs", "kind"), [(1, "articles"), (2, "articles"), (3, "seeds")])
def test_three_seeds_make_an_interval_over_seeds(runs: int, kind: str) -> None:
    found = metric_intervals([made(seed) for seed in range(runs)])
    assert {interval.kind for interval in found.values()} == {kind}
    for name, interval in found.items():
        values = [getattr(made(seed), name) for seed in range(runs)]
        assert interval.mean == pytest.approx(np.mean(values))
        assert interval.low < interval.mean < interval.high
        assert interval.as_dict() == {
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
        }


def test_resamples_draw_as_many_groups_as_there_are() -> None:
    weights = bootstrap_weights(7, seed=3, resamples=4000)
    assert weights.shape == (4000, 7)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=0.06)
    assert (weights == bootstrap_weights(7, seed=3, resamples=4000)).all()
    assert (weights != bootstrap_weights(7, seed=4, resamples=4000)).any()


def test_the_bootstrap_runs_over_groups_and_not_examples() -> None:
    e = made(examples=60, groups=6)
    once = metric_intervals([e])
    # Ten copies of every example are no new knowledge: the interval must not become narrower.
    tenfold = metric_intervals([take(e, list(range(60)) * 10)])
    # With each copy a group of its own, they count as independent.
    copies = take(e, list(range(60)) * 10)
    alone = metric_intervals([replace(copies, groups=[str(k) for k in range(600)])])
    for name in once:
        assert tenfold[name] == once[name]
        assert alone[name].high - alone[name].low < 0.6 * (once[name].high - once[name].low)


def test_the_bootstrap_equals_one_that_draws_whole_groups() -> None:
    e = made(examples=50, groups=8)
    members = [
        [k for k, own in enumerate(e.groups) if own == group] for group in sorted(set(e.groups))
    ]
    drawn: dict[str, list[float]] = {"accuracy": [], "macro_f1": []}
    for weights in bootstrap_weights(8)[:200]:
        rows = [k for n, group in enumerate(members) for k in group * int(weights[n])]
        again = take(e, rows)
        drawn["accuracy"].append(again.accuracy)
        drawn["macro_f1"].append(again.macro_f1)
    found = evaluation._resampled(e)
    for name, values in drawn.items():
        np.testing.assert_allclose(found[name][:200], values)


def test_the_interval_does_not_depend_on_the_order_of_examples() -> None:
    e = made()
    shuffled = take(e, np.random.default_rng(5).permutation(60))
    assert metric_intervals([shuffled]) == metric_intervals([e])


@pytest.mark.parametrize("runs", [1, 2, 4])
def test_a_gain_is_paired(runs: int) -> None:
    # Seeds differ greatly, but each time the other model has five examples more right.
    ours, baseline = [], []
    for seed in range(runs):
        base = made(seed, right=0.5 * seed)
        better = base.probabilities.copy()
        wrong = np.flatnonzero(base.predictions != base.labels)[:5]
        better[wrong] = np.eye(4)[base.labels[wrong]]
        baseline.append(base)
        ours.append(replace(base, probabilities=better))
    found = gain(ours, baseline)
    assert found.mean == pytest.approx(100 * 5 / 60)
    if runs >= 3:  # to pair removes all that the seeds differ in
        assert found.kind == "seeds"
        assert found.high - found.low == pytest.approx(0.0, abs=1e-9)
    else:
        assert found.kind == "articles"
        alone = metric_intervals(ours)["accuracy"]
        assert 0 <= found.low < found.mean < found.high
        assert found.high - found.low < 100 * (alone.high - alone.low)


def test_a_gain_over_itself_is_0_and_changes_sign_with_the_order() -> None:
    ours, baseline = [made(1, right=2.0)], [made(2, right=1.0)]
    same = gain(ours, ours)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    one, other = gain(ours, baseline), gain(baseline, ours)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


def test_a_gain_needs_the_same_runs_on_the_same_examples() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gain([made(1), made(2)], [made(1)])
    with pytest.raises(ValueError, match="same examples"):
        gain([made(1)], [take(made(1), np.arange(60)[::-1])])


# --- cost --------------------------------------------------------------------------------------

STUDENT = {"layers": 2, "width": 16, "heads": 2}


def test_a_cost_is_positive_and_counts_what_is_shared_once(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_student: PreTrainedModel
) -> None:
    data = small_task.encode("test", small_tokenizer)
    collate = small_task.collator(small_tokenizer)
    one, other = small_student.bert.encoder.layer
    apart = measure_cost(small_student, data, collate, examples=20, repeats=1)
    other.output.dense.weight = one.output.dense.weight
    shared = measure_cost(small_student, data, collate, examples=20, repeats=1)
    assert apart.parameters == sum(p.numel() for p in small_bert(**STUDENT).parameters())
    assert apart.parameters - shared.parameters == one.output.dense.weight.numel()
    assert apart.bytes == 4 * apart.parameters
    assert apart.throughput > 0
    assert 0 < apart.latency_ms["p50"] <= apart.latency_ms["p95"]
    assert set(apart.as_dict()) == {"parameters", "bytes", "throughput", "latency_ms"}
    assert not small_student.training


def test_a_model_that_does_more_costs_more(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = small_task.encode("test", small_tokenizer)
    collate = small_task.collator(small_tokenizer)
    small, large = (
        measure_cost(small_bert(layers=n, width=64), data, collate, examples=32, repeats=3)
        for n in (1, 16)
    )
    assert large.throughput < small.throughput
    assert large.latency_ms["p50"] > small.latency_ms["p50"]


def test_models_are_timed_in_turn_on_the_same_batches(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = small_task.encode("test", small_tokenizer)
    calls: list[tuple[str, int, int]] = []

    def model(name: str, seconds: float) -> Any:
        def forward(inputs: dict[str, Any]) -> None:
            calls.append((name, *inputs["input_ids"].shape))
            time.sleep(seconds)

        return forward

    slow, fast = measure_speeds(
        [model("slow", 0.004), model("fast", 0.001)],
        data,
        small_task.collator(small_tokenizer),
        batch_size=8,
        examples=20,
        repeats=2,
    )
    passes = [[calls[3 * k + b] for b in range(3)] for k in range(6)]  # 3 batches in each
    assert [{call[0] for call in one} for one in passes] == [{"slow"}, {"fast"}] * 3
    shapes = [[call[1:] for call in one] for one in passes]
    assert all(one == shapes[0] for one in shapes) and [n for n, _ in shapes[0]] == [8, 8, 4]
    assert all(call[1] == 1 for call in calls[18:])
    assert 20 / 0.1 < slow.throughput < 20 / 0.012
    assert fast.throughput > slow.throughput
    assert 4 <= slow.latency_ms["p50"] <= slow.latency_ms["p95"]


# --- the comparison ----------------------------------------------------------------------------

STUDENTS = ("hard_labels", "label_smoothing", "distilled_same_data", "distilled")


def compared(runs: int) -> dict[str, Any]:
    students = {
        name: [made(10 * k + seed, right=1.0 + k) for seed in range(runs)]
        for k, name in enumerate(STUDENTS)
    }
    small = Cost(1000, 4000, 500.0, {"p50": 2.0, "p95": 4.0})
    return compare(
        made(99, right=4.0),
        students,
        Cost(20000, 80000, 100.0, {"p50": 12.0, "p95": 20.0}),
        dict.fromkeys(STUDENTS, small),
    )


@pytest.mark.parametrize("runs", [1, 3])
def test_a_comparison_fills_every_key_of_the_report(runs: int) -> None:
    found = compared(runs)
    cost = {"parameters", "bytes", "throughput", "latency_ms"}
    interval = {"mean", "low", "high"}
    assert set(found) == {
        *("teacher", "students", "retention", "compression", "speedup"),
        *("gain_over_hard_labels", "gain_with_transfer"),
    }
    assert set(found["teacher"]) == {"accuracy", "macro_f1", "ece"} | cost
    assert set(found["students"]) == set(STUDENTS)
    for student in found["students"].values():
        assert set(student) == cost | {
            *("seeds", "interval", "accuracy", "macro_f1", "ece", "agreement")
        }
        assert student["interval"] == ("seeds" if runs >= 3 else "articles")
        assert len(student["seeds"]) == runs
        assert set(student["latency_ms"]) == {"p50", "p95"}
        for name in ("accuracy", "macro_f1"):
            assert set(student[name]) == interval | {"values"}
            assert len(student[name]["values"]) == runs
            assert student[name]["low"] <= student[name]["mean"] <= student[name]["high"]
    assert set(found["retention"]) == {"accuracy", "macro_f1"}
    assert set(found["compression"]) == {"parameters", "bytes"}
    assert set(found["speedup"]) == {"throughput", "latency"}
    assert set(found["gain_over_hard_labels"]) == set(found["gain_with_transfer"]) == interval


def test_the_ratios_are_of_the_distilled_student_to_the_teacher() -> None:
    found = compared(3)
    students, teacher = found["students"], found["teacher"]
    for name in ("accuracy", "macro_f1"):
        expected = students["distilled"][name]["mean"] / teacher[name]
        assert found["retention"][name] == pytest.approx(expected)
    assert found["compression"] == {"parameters": 20.0, "bytes": 20.0}
    assert found["speedup"] == {"throughput": 5.0, "latency": 6.0}
    for gained, name in (
        ("gain_over_hard_labels", "distilled_same_data"),
        ("gain_with_transfer", "distilled"),
    ):
        ours, hard = (students[key]["accuracy"]["mean"] for key in (name, "hard_labels"))
        assert found[gained]["mean"] == pytest.approx(100 * (ours - hard))


def test_a_comparison_is_plain_data() -> None:
    found = compared(3)
    assert json.loads(json.dumps(found)) == found
