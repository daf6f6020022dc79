"""How an answer is tried: copies, gradients, what is withheld, and the order of contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lab.exercises.checking import judge
from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Broken,
    Contract,
    compare,
    draw,
    expect,
)
from distill_lab.exercises.local import LocalAnswer
from distill_lab.exercises.registry import Exercise


def reference(x: Tensor) -> Tensor:
    return (x**2).sum()


def first(answer: Answer, generator: torch.Generator) -> None:
    x = draw(generator, 3)
    expect(answer, (x.double() ** 2).sum(), "a sum", unlike={"a mean": (x**2).mean()}, x=x)


def second(answer: Answer, generator: torch.Generator) -> None:
    x = draw(generator, 3)
    compare(answer.gradients("x", x=x)["x"], 2 * x.double(), "a slope")


EXERCISE = Exercise(
    id="squares",
    title="Sum of squares",
    minutes=5,
    difficulty=1,
    reference=reference,
    parameters="x",
    may_call="torch",
    not_allowed=("torch.nn.functional.mse_loss", "torch.Tensor.square"),
    contracts=(
        Contract("first", "the sum", 1, first, ("a", "b")),
        Contract("second", "the slope", 2, second, ("c",)),
        Contract("same", "inputs kept", 0, lambda answer, generator: None, ("d",)),
    ),
)


def statuses(function: Any) -> list[str]:
    return [outcome.status for outcome in judge(EXERCISE, function).outcomes]


def test_a_right_answer_passes() -> None:
    verdict = judge(EXERCISE, reference)
    assert verdict.passed and verdict.points == 3


def test_nothing_is_tried_after_the_first_contract_fails() -> None:
    assert statuses(lambda x: x.sum()) == ["failed", "untried", "untried"]


def test_later_contracts_are_judged_one_by_one() -> None:
    verdict = judge(EXERCISE, lambda x: (x.detach() ** 2).sum())
    assert [o.status for o in verdict.outcomes] == ["passed", "failed", "passed"]
    assert verdict.points == 1
    failure = verdict.first_failure
    assert failure and failure.broken and "no gradient flows" in failure.broken.reason


def test_a_known_mistake_is_named() -> None:
    failure = judge(EXERCISE, lambda x: (x**2).mean()).first_failure
    assert failure and failure.broken and failure.broken.reason == "a mean"


def test_the_stub_counts_as_not_attempted() -> None:
    def squares(x: Tensor) -> Tensor:
        raise NotImplementedError("squares: replace this line")

    verdict = judge(EXERCISE, squares)
    assert not verdict.attempted and {o.status for o in verdict.outcomes} == {"untried"}


def test_another_exercises_stub_is_a_failure_that_names_it() -> None:
    def squares(x: Tensor) -> Tensor:
        raise NotImplementedError("cubes: replace this line")

    failure = judge(EXERCISE, squares).first_failure
    assert failure and failure.broken and "cubes" in failure.broken.reason


def test_what_would_be_the_answer_is_withheld_only_while_it_runs() -> None:
    failure = judge(EXERCISE, lambda x: x.square().sum()).first_failure
    assert failure and failure.broken and "torch.Tensor.square" in failure.broken.reason
    assert torch.ones(1).square() == 1


def test_an_error_names_its_line() -> None:
    def squares(x: Tensor) -> Tensor:
        return x @ torch.ones(7)

    failure = judge(EXERCISE, squares).first_failure
    assert failure and failure.broken
    assert "x @ torch.ones(7)" in failure.broken.reason and "x" in failure.broken.inputs


def test_renamed_parameters_are_told() -> None:
    failure = judge(EXERCISE, lambda y: y).first_failure
    assert failure and failure.broken and "def squares(x)" in failure.broken.reason


@pytest.mark.parametrize("value", [None, "text", [1], {}, object()])
def test_any_kind_of_value_is_a_failure_and_no_crash(value: Any) -> None:
    assert statuses(lambda x: value)[0] == "failed"


def test_leaving_the_interpreter_is_a_failure() -> None:
    assert statuses(lambda x: exit())[0] == "failed"


def test_the_answer_gets_copies() -> None:
    def squares(x: Tensor) -> Tensor:
        x.zero_()
        return x.sum()

    x = torch.ones(2)
    answer = LocalAnswer(EXERCISE, squares)
    answer(x=x)
    assert x.tolist() == [1, 1]
    assert answer.changed(x=x) == ["x"] and answer.changed(x=torch.zeros(2)) == []


def test_raised_names_the_exception() -> None:
    answer = LocalAnswer(EXERCISE, lambda x: 1 / x)
    assert answer.raised(x=0) == "ZeroDivisionError" and answer.raised(x=1) is None
    with pytest.raises(AnswerRaised, match="ZeroDivisionError"):
        answer(x=0)


def test_an_input_without_influence_has_no_gradient() -> None:
    answer = LocalAnswer(EXERCISE, lambda x, y: x.sum())
    gradients = answer.gradients("x", "y", x=torch.ones(2), y=torch.ones(2))
    assert gradients["y"] is None and torch.equal(gradients["x"], torch.ones(2))  # type: ignore[arg-type]


def test_cutting_the_callers_tensor_off_is_told() -> None:
    def squares(x: Tensor, y: Tensor) -> Tensor:
        y.requires_grad = False
        return (x * y).sum()

    with pytest.raises(Broken, match="y no longer asks for a gradient"):
        LocalAnswer(EXERCISE, squares).gradients("x", x=torch.ones(2), y=torch.ones(2))


def test_no_other_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    assert judge(EXERCISE, reference).passed
    assert seeded == []


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    judge(EXERCISE, lambda x: torch.randn(3).sum())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        (torch.tensor([1.0, 2.0]), "shape"),
        (torch.tensor(float("nan")), "NaN"),
        (torch.tensor(float("inf")), "infinite"),
        (None, "return"),
        (torch.tensor(1.001), "why"),
    ],
)
def test_compare_says_what_differs(actual: Any, says: str) -> None:
    with pytest.raises(Broken, match=says):
        compare(actual, torch.tensor(1.0, dtype=torch.float64), "why")


def test_compare_takes_other_dtypes_and_plain_numbers() -> None:
    for actual in (1.0, 1, torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64)):
        compare(actual, torch.tensor(1.0, dtype=torch.float64), "why")
