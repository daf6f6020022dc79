"""What grading finds out, as plain data: of a contract, an exercise, a submission.

``grade`` makes these, ``feedback`` shows them to the student, ``gradebook`` carries the points to
other systems.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

ContractStatus = Literal["passed", "failed", "untried"]
Status = Literal[
    "passed",  # every contract that carries points holds
    "partly",  # some points
    "failed",  # attempted, no points
    "not attempted",  # the stub still stands, or something of the library in its place
    "missing",  # no cell with the answer
    "stopped",  # too long, too much memory, or the process ended
    "unreadable",  # the file is no notebook
]
GRADES = "grades.csv"
COLUMNS = ("student", "lesson", "exercise", "points", "possible", "status", "reason")
JOINERS = "\u200c\u200d"  # without width, but part of how some scripts are written

# Where a cell begins, and what then makes it a formula. It also begins after a semicolon or an end
# of line: many a spreadsheet splits there, whatever is quoted, and not at commas. Blanks, quotes
# and marks without width are looked through; signs may be full-width, small, or a minus of print.
_CELL = r"(?<![^;\r\n])"
_FORMULA = (
    r"(?=(?:[^\S\t\r\n]|['\"`´‘’‚‛“”„‟«»＇＂\x00-\x08\x0e-\x1f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff])*"
    r"[=+\-@\t\r\n\u2212＝＋－＠﹦﹢﹣﹫])"
)


class Format(StrEnum):
    """Where ``gradebook`` carries the points."""

    nbgrader = "nbgrader"
    canvas = "canvas"
    moodle = "moodle"
    gradescope = "gradescope"
    csv = "csv"


@dataclass(frozen=True)
class ContractResult:
    """What became of one contract.

    Attributes:
        id, law, points: As the registry has them.
        status: ``untried`` where the first contract fails, or the answer was stopped before.
        reason: Why it failed, one line, in words that hold no secret input and no expected value.
        hints: The registry's, for a contract that failed.
    """

    id: str
    law: str
    points: float
    status: ContractStatus
    reason: str = ""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExerciseResult:
    """What became of one exercise; ``points`` of ``possible``."""

    exercise: str
    points: float
    possible: float
    status: Status
    reason: str = ""
    contracts: tuple[ContractResult, ...] = ()


@dataclass(frozen=True)
class SubmissionResult:
    """What became of one submission.

    Attributes:
        student, lesson: Whose, and the lesson's name.
        sha256: Of the notebook as it was handed in.
        exercises: All of the lesson's, in its order.
        repairs: What was mended in the notebook before it was graded, a sentence each.
    """

    student: str
    lesson: str
    sha256: str
    exercises: tuple[ExerciseResult, ...]
    repairs: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """Points of all exercises together."""
        return sum(exercise.points for exercise in self.exercises)

    @property
    def possible(self) -> float:
        """What all exercises together are worth."""
        return sum(exercise.possible for exercise in self.exercises)

    def as_json(self) -> dict[str, Any]:
        """Give what ``from_json`` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SubmissionResult:
        """Read what ``as_json`` gave.

        Raises:
            KeyError, TypeError: It is something else.
        """
        exercises = []
        for one in value["exercises"]:
            contracts = tuple(
                ContractResult(**{**c, "hints": tuple(c["hints"])}) for c in one["contracts"]
            )
            exercises.append(ExerciseResult(**{**one, "contracts": contracts}))
        return cls(
            value["student"],
            value["lesson"],
            value["sha256"],
            tuple(exercises),
            tuple(value["repairs"]),
        )


def printable(text: str) -> str:
    """Give a stranger's text as one line.

    What cannot be printed is replaced: controls, marks that turn the direction of writing, and
    halves of characters, which no file can hold.
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() or c in JOINERS else "\ufffd" for c in line)


def harmless(text: str) -> str:
    """Give a text in which no spreadsheet finds a formula: such a cell gets a ``'`` in front.

    ``plain`` takes it away again.
    """
    return re.sub(_CELL + _FORMULA, "'", text)


def plain(text: str) -> str:
    """Give the text that ``harmless`` was given, whatever quotes of its own it had."""
    return re.sub(f"{_CELL}'{_FORMULA}", "", text)


def grades_csv(results: Iterable[SubmissionResult]) -> str:
    """Lay results out as ``grades.csv``: a row for each student, lesson and exercise, sorted."""
    rows = [
        (
            harmless(result.student),
            result.lesson,
            one.exercise,
            f"{one.points:g}",
            f"{one.possible:g}",
            one.status,
            harmless(one.reason),
        )
        for result in sorted(results, key=lambda r: (r.student, r.lesson))
        for one in result.exercises
    ]
    return as_csv(COLUMNS, rows)


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give rows under their columns as CSV text."""
    return "".join(f"{_line(row)}\n" for row in (columns, *rows))


def _line(row: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # quotes what holds one of the two
    return text.getvalue().removesuffix("\r\n")
