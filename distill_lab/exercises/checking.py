"""Try an answer against the contracts of its exercise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from distill_lab.exercises.contracts import Answer, AnswerRaised, AnswerStopped, Broken, Contract
from distill_lab.exercises.local import LocalAnswer, one_line
from distill_lab.exercises.registry import Exercise

Status = Literal["passed", "failed", "untried"]


@dataclass(frozen=True)
class Outcome:
    """What became of one contract; ``broken`` says why where it failed."""

    contract: Contract
    status: Status
    broken: Broken | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of all contracts of an exercise.

    Attributes:
        attempted: False where the stub still stands.
        stopped: Why the answer had to be stopped, if it had to.
    """

    exercise: Exercise
    outcomes: tuple[Outcome, ...]
    attempted: bool
    stopped: str = ""

    @property
    def points(self) -> float:
        """Points of the contracts that hold."""
        return float(sum(o.contract.points for o in self.outcomes if o.status == "passed"))

    @property
    def passed(self) -> bool:
        """Whether all contracts hold."""
        return all(outcome.status == "passed" for outcome in self.outcomes)

    @property
    def first_failure(self) -> Outcome | None:
        """The first contract that does not hold, in the exercise's order."""
        return next((o for o in self.outcomes if o.status == "failed"), None)


def judge(exercise: Exercise, function: Any, *, seed: int = 0) -> Verdict:
    """Try a function of this process against every contract of an exercise.

    Args:
        exercise: Gives the contracts.
        function: The student's; anything else than a function fails the first contract.
        seed: Of the drawn inputs. The same seed draws the same inputs.
    """
    return judge_answer(exercise, LocalAnswer(exercise, function), seed=seed)


def judge_answer(exercise: Exercise, answer: Answer, *, seed: int = 0) -> Verdict:
    """Try an answer, wherever it runs, against every contract of an exercise.

    The first contract is what the others build on: where it fails they are not tried, so that an
    answer such as a constant 0 earns nothing from the laws it happens to keep. Nor are they where
    the answer has to be stopped.
    """
    outcomes: list[Outcome] = []
    stopped = ""
    is_stub = False
    for position, contract in enumerate(exercise.contracts):
        if stopped or (outcomes and outcomes[0].status != "passed"):
            outcomes.append(Outcome(contract, "untried"))
            continue
        # A generator for each contract: adding one changes no other's inputs.
        generator = torch.Generator().manual_seed(1000 * seed + position)
        try:
            broken = _try(contract, answer, generator)
        except AnswerStopped as error:
            stopped = str(error)
            broken = Broken(stopped)
        if position == 0 and answer.is_stub:  # later, it is a branch that says it is not written
            is_stub = True
            outcomes.append(Outcome(contract, "untried"))
        else:
            outcomes.append(Outcome(contract, "failed" if broken else "passed", broken))
    return Verdict(exercise, tuple(outcomes), not is_stub, stopped)


def _try(contract: Contract, answer: Answer, generator: torch.Generator) -> Broken | None:
    try:
        contract.holds(answer, generator)
    except Broken as broken:
        return broken
    except AnswerRaised as error:
        where = f" in the line: {error.line}" if error.line else ""
        return Broken(f"it raises {error.kind}{where} ({error.detail})", inputs=error.inputs)
    except Exception as error:
        # The contract could not work with what it was given: a wrong kind of value.
        return Broken(
            f"what it gives cannot be used as expected ({type(error).__name__}: "
            f"{one_line(error)}). Compare it with what the docstring says it returns."
        )
    return None
