"""The reference answers of lesson 08 agree with the library, with numpy and with the definition."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lab.evaluation import Evaluation, expected_calibration_error
from distill_lab.evaluation import agreement as agreement_of_evaluations
from distill_lab.exercises.deployment import agreement, measure_latency, pareto_front
from distill_lab.exercises.objects import ScriptedCall, ScriptedClock
from distill_lab.exercises.registry import Exercise

few = st.integers(0, 4)
models = st.lists(st.tuples(few, few), min_size=1, max_size=12)


def scripted(milliseconds: list[float], **settings: int) -> dict[str, float]:
    call = ScriptedCall(torch.tensor(milliseconds, dtype=torch.float64) / 1000)
    made = call.build({})
    clock = ScriptedClock().build({"call": made})
    return measure_latency(made, clock, **settings)


def front(rows: list[tuple[int, int]]) -> list[bool]:
    cost, quality = torch.tensor(rows).double().T
    return pareto_front(cost, quality).tolist()  # type: ignore[no-any-return]


def test_calibration_error_takes_tensors_and_knows_a_calibrated_model() -> None:
    probabilities = torch.tensor([[0.75, 0.25]] * 4)
    assert expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1])) == 0
    assert expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 0])) == 0.25


def test_calibration_errors_of_opposite_sign_cancel_in_one_bin_alone() -> None:
    probabilities, labels = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([1, 0])
    assert expected_calibration_error(probabilities, labels, 1) == pytest.approx(0.25)
    assert expected_calibration_error(probabilities, labels, 15) == pytest.approx(0.65)


def test_agreement_is_the_reports() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 40, 5)

    def evaluation(z: Tensor) -> Evaluation:
        ids = [str(k) for k in range(len(z))]
        labels = np.zeros(len(z), dtype=np.int64)
        return Evaluation(ids, ids, labels, z.double().softmax(-1).numpy())

    expected = agreement_of_evaluations(*map(evaluation, logits))
    assert agreement(*logits) == pytest.approx(expected)
    assert 0 < expected < 1


def test_agreement_is_one_with_itself_and_symmetric() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 30, 3)
    assert agreement(one, 3 * one - 7) == 1
    assert agreement(one, other) == agreement(other, one)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.integers(0, 5))
def test_latency_is_numpys_percentiles_of_the_calls_after_the_warmup(
    milliseconds: list[float], warmup: int
) -> None:
    found = scripted([500.0] * warmup + milliseconds, warmup=warmup, repeats=len(milliseconds))
    assert found == pytest.approx(
        {"p50": np.percentile(milliseconds, 50), "p95": np.percentile(milliseconds, 95)},
        rel=1e-6,
        abs=1e-9,
    )


def test_one_slow_call_of_a_hundred_moves_neither_percentile_much() -> None:
    assert scripted([5000.0] * 10 + [2.0] * 99 + [1000.0]) == pytest.approx({"p50": 2, "p95": 2})


def test_latency_of_a_real_call_with_the_real_clock() -> None:
    found = measure_latency(lambda: time.sleep(0.002), warmup=1, repeats=5)
    assert 2 <= found["p50"] <= found["p95"] < 500


@given(models)
def test_the_front_is_what_no_model_dominates(rows: list[tuple[int, int]]) -> None:
    def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    assert front(rows) == [not any(dominates(a, b) for a in rows) for b in rows]


@given(models)
def test_the_front_is_never_empty_and_is_its_own_front(rows: list[tuple[int, int]]) -> None:
    kept = [row for row, stays in zip(rows, front(rows), strict=True) if stays]
    assert kept and all(front(kept))


@given(models, st.randoms(use_true_random=False))
def test_the_order_of_the_models_does_not_matter(
    rows: list[tuple[int, int]], random: object
) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = front(rows)
    assert front([rows[k] for k in order]) == [found[k] for k in order]


def test_the_stub_of_measure_latency_has_the_references_parameters() -> None:
    import inspect

    from distill_lab.exercises.lesson_08 import MEASURE_LATENCY

    assert isinstance(MEASURE_LATENCY, Exercise)
    parameters = inspect.signature(measure_latency).parameters
    stub: dict[str, object] = {"time": time}
    exec(f"def stub({MEASURE_LATENCY.parameters}): ...", stub)
    assert list(inspect.signature(stub["stub"]).parameters) == list(parameters)  # type: ignore[arg-type]
    assert parameters["clock"].default is time.perf_counter
