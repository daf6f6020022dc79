"""What a wrong answer of the collection is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """A plausible wrong answer.

    Attributes:
        exercise: The exercise's id.
        function: The wrong answer.
        contract: Id of the contract meant for it: the first that fails.
        says: A part of that failure's reason that is about this very mistake.
    """

    exercise: str
    function: Callable[..., Any]
    contract: str
    says: str
