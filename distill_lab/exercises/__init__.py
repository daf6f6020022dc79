"""Exercises that check themselves: ``check``, ``use`` and ``progress`` are for notebooks.

How they answer depends on who runs the notebook:

- a student: a table, never an exception;
- ``DISTILL_LAB_STRICT=1`` (the tests of the solved notebooks): what fails, or is not attempted,
  raises ``CheckFailed``;
- nbgrader (it sets ``NBGRADER_EXECUTION``): the table goes to stdout and the value is the points
  reached, a float. nbgrader takes a number as points, and anything else as full marks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from distill_lab.errors import UserError
from distill_lab.exercises.checking import judge
from distill_lab.exercises.display import CheckResult
from distill_lab.exercises.progress import progress, record
from distill_lab.exercises.registry import find_exercise

__all__ = ["CheckFailed", "check", "progress", "use"]

STRICT_VARIABLE = "DISTILL_LAB_STRICT"
NBGRADER_VARIABLE = "NBGRADER_EXECUTION"
Function = TypeVar("Function", bound=Callable[..., Any])


class CheckFailed(AssertionError):
    """In strict mode: an exercise that does not hold, or is not attempted."""


def check(id: str, function: Any) -> CheckResult | float | None:
    """Try a function against the contracts of an exercise; make it the last line of a cell.

    Args:
        id: The exercise's id, which is the function's name.
        function: The function itself, not its value.

    Returns:
        What shows itself as a table; under nbgrader the points.

    Raises:
        CheckFailed: In strict mode only.
    """
    try:
        exercise = find_exercise(id)
    except UserError as error:
        if _strict():
            raise CheckFailed(str(error)) from None
        print(error)
        return 0.0 if _graded() else None
    verdict = judge(exercise, function)
    if _graded():
        print(CheckResult(verdict))
        return verdict.points
    if _strict():
        if not verdict.passed:
            raise CheckFailed(f"\n{CheckResult(verdict)}")
        return CheckResult(verdict)
    failure = verdict.first_failure
    failures = 0
    if verdict.attempted:
        failures = record(id, verdict.points, failure.contract.id if failure else None)
    return CheckResult(verdict, failures)


def use(function: Function) -> Function:
    """Give the student's function if all its contracts hold, else the library's.

    So every notebook runs to its end, and gets better as it is solved.

    Raises:
        UserError: The function has no exercise's name.
        CheckFailed: In strict mode, if a contract does not hold.
    """
    exercise = find_exercise(getattr(function, "__name__", repr(function)))
    if function is exercise.reference:
        return function
    verdict = judge(exercise, function)
    if verdict.passed:
        return function
    if _strict():
        raise CheckFailed(f"\n{CheckResult(verdict)}")
    why = "is not there yet" if not verdict.attempted else "does not pass its check yet"
    print(f"Your {exercise.id} {why}: from here on the library's stands in for it.")
    return cast(Function, exercise.reference)


def _strict() -> bool:
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def _graded() -> bool:
    return NBGRADER_VARIABLE in os.environ
