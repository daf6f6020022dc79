"""Wrong answers are rejected by the contract meant for them; right ones pass in any style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from distill_lab.exercises.checking import judge
from distill_lab.exercises.registry import LESSON_MODULES, exercises, find_exercise
from tests.mutants.mutant import Mutant

MODULES = [import_module(f"tests.mutants.{name}") for name in LESSON_MODULES]
MUTANTS: list[Mutant] = [mutant for module in MODULES for mutant in module.MUTANTS]
OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    other for module in MODULES for other in module.OTHER_STYLES
]


def _name(mutant: Mutant) -> str:
    return f"{mutant.exercise}-{mutant.function.__name__}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_wrong_answer_is_rejected_by_its_contract_with_its_message(mutant: Mutant) -> None:
    failure = judge(find_exercise(mutant.exercise), mutant.function).first_failure
    assert failure is not None and failure.broken is not None, "it passes"
    assert failure.contract.id == mutant.contract, failure.broken.reason
    assert mutant.says in failure.broken.reason


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_wrong_answer_is_rejected_whatever_the_draw(mutant: Mutant, seed: int) -> None:
    assert not judge(find_exercise(mutant.exercise), mutant.function, seed=seed).passed


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("exercise", "function"), OTHER_STYLES, ids=[f"{e}-{f.__name__}" for e, f in OTHER_STYLES]
)
def test_a_right_answer_in_another_style_passes(
    exercise: str, function: Callable[..., Any], seed: int
) -> None:
    verdict = judge(find_exercise(exercise), function, seed=seed)
    failure = verdict.first_failure
    assert verdict.passed, failure and (failure.contract.id, failure.broken)


@pytest.mark.parametrize("id", exercises())
@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_the_reference_keeps_every_contract(id: str, seed: int) -> None:
    exercise = find_exercise(id)
    failure = judge(exercise, exercise.reference, seed=seed).first_failure
    assert failure is None, (failure.contract.id, failure.broken)


@pytest.mark.parametrize("id", exercises())
def test_every_exercise_has_four_mutants_and_two_other_styles(id: str) -> None:
    assert Counter(m.exercise for m in MUTANTS)[id] >= 4
    assert Counter(e for e, _ in OTHER_STYLES)[id] >= 2


@pytest.mark.parametrize("id", exercises())
def test_mutants_of_an_exercise_have_messages_of_their_own(id: str) -> None:
    said = [(m.contract, m.says) for m in MUTANTS if m.exercise == id]
    assert len(set(said)) >= min(4, len(said))


@pytest.mark.parametrize("id", exercises())
def test_a_constant_earns_nothing(id: str) -> None:
    exercise = find_exercise(id)
    assert judge(exercise, lambda **inputs: 0.0).points == 0
