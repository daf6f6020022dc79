"""What an attack of the collection is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Attack(NamedTuple):
    """A submission that tries to get what it has not worked for.

    Attributes:
        name: Of the student in the batch, and of the test.
        lesson: The lesson's number.
        answers: What stands in the answer cells, by exercise; all others keep their stubs.
        first: Cells put before all others.
        last: Cells put after all others.
        points: What it is due, by exercise: only what it did do.
        says: A part of the reason that its first listed exercise gets.
    """

    name: str
    lesson: int
    answers: Mapping[str, str] = {}
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    points: Mapping[str, float] = {}
    says: str = ""
