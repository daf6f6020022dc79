"""The exercises of all lessons: one ``LESSON`` in each ``lesson_NN`` module.

Stub, check cell, hints, table of points and gradebook column all come from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from distill_lab.errors import UserError
from distill_lab.exercises.contracts import Contract

LESSON_MODULES = (
    "lesson_01",
    "lesson_02",
    "lesson_03",
    "lesson_04",
    "lesson_05",
    "lesson_06",
    "lesson_07",
    "lesson_08",
)


@dataclass(frozen=True)
class Exercise:
    """A function that a student writes.

    Attributes:
        id: The function's name; also the name in gradebooks.
        title: What it computes, in a few words.
        minutes: How long a student who has read the lesson needs.
        difficulty: 1 (a line or two), 2, or 3 (the hard one of its lesson).
        reference: The library's function, which ``use`` falls back on.
        parameters: The signature between its parentheses, as the stub has it.
        may_call: What the answer may build on, as a sentence or a list of names.
        library: Dotted names of the library that the answer may call; while grading, it can have no
            others.
        not_allowed: Dotted names that would be the answer itself; they raise inside a check.
        contracts: The laws. The first is the one the others build on: where it fails, the others
            are not tried.
    """

    id: str
    title: str
    minutes: int
    difficulty: int
    reference: Callable[..., Any]
    parameters: str
    may_call: str
    contracts: tuple[Contract, ...]
    not_allowed: tuple[str, ...] = ()
    library: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """Points of all contracts together."""
        return sum(contract.points for contract in self.contracts)

    @property
    def signature(self) -> str:
        """The stub's signature, such as ``"retention(student_score, teacher_score)"``."""
        return f"{self.id}({self.parameters})"


@dataclass(frozen=True)
class Lesson:
    """A notebook.

    Attributes:
        name: The file's name without ending, ``"03_losses"``.
        title: The heading.
        minutes: What a student needs for all of it, exercises included.
        difficulty: 1 to 3.
        exercises: In the order of the notebook.
    """

    name: str
    title: str
    minutes: int
    difficulty: int
    exercises: tuple[Exercise, ...]

    @property
    def number(self) -> int:
        """The lesson's number, 3 for ``"03_losses"``."""
        return int(self.name.partition("_")[0])

    @property
    def points(self) -> float:
        """Points of all exercises together."""
        return sum(exercise.points for exercise in self.exercises)


@cache
def lessons() -> tuple[Lesson, ...]:
    """Give all lessons in order."""
    package = __name__.rpartition(".")[0]
    return tuple(import_module(f"{package}.{name}").LESSON for name in LESSON_MODULES)


def find_lesson(name: str) -> Lesson:
    """Find a lesson: ``03_losses``, its number ``3``, or a part of its name, ``losses``.

    Raises:
        UserError: There is none, or more than one.
    """
    number = int(name) if name.isdecimal() else None
    found = [x for x in lessons() if x.name == name or x.number == number]
    found = found or [x for x in lessons() if name and name in x.name]
    if len(found) != 1:
        raise UserError(
            f"no lesson is called {name!r}; choose {', '.join(x.name for x in lessons())}, "
            "or its number"
        )
    return found[0]


@cache
def exercises() -> dict[str, Exercise]:
    """Give all exercises by id, in the order of the course."""
    return {exercise.id: exercise for lesson in lessons() for exercise in lesson.exercises}


def find_exercise(id: str) -> Exercise:
    """Find an exercise by id.

    Raises:
        UserError: There is none.
    """
    if id not in exercises():
        raise UserError(f"no exercise is called {id!r}; choose {', '.join(exercises())}")
    return exercises()[id]


def lesson_of(exercise: Exercise) -> Lesson:
    """Give the lesson an exercise belongs to."""
    return next(lesson for lesson in lessons() if exercise in lesson.exercises)
