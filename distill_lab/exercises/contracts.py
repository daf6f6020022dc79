"""What a contract is, and how it asks an answer: only through ``Answer``, never directly.

A contract is a law that a right answer keeps, tried on drawn inputs. It knows the expected values
itself and learns the answer's by asking (its value, its gradients, what it raises or changes),
with named plain data going in (tensors, numbers, texts, lists and dictionaries of them, and the
``objects``) and plain data coming out. So the same contract can judge a function in this process
or one that runs elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Inputs = dict[str, Any]
Drawn = Callable[[torch.Generator], Inputs]
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-6


class Answer(Protocol):
    """A student's function, here or elsewhere.

    Where it runs elsewhere, any question may raise ``AnswerStopped``.

    Attributes:
        is_stub: Whether a call has shown that the stub still stands.
    """

    is_stub: bool

    def __call__(self, **inputs: Any) -> Any:
        """Give the function's value for the named inputs, detached from any graph.

        Raises:
            AnswerRaised: The function raised.
        """

    def gradients(self, *wrt: str, **inputs: Any) -> dict[str, Tensor | None]:
        """Give the gradients of the function's value, summed, in the named inputs.

        Every floating tensor among the inputs asks for its gradient. None where none arrived.

        Raises:
            AnswerRaised: The function or its backward pass raised.
            Broken: The value carries no gradient at all.
        """

    def raised(self, **inputs: Any) -> str | None:
        """Give the name of the exception the function raises, such as ``"ValueError"``, or None."""

    def changed(self, **inputs: Any) -> list[str]:
        """Give the names of the inputs that the function changes in place."""

    def after(self, name: str, **inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Give the function's value, and the state of the input ``name`` after the call.

        That input is one of ``objects``: a classifier's state is its weights, say.

        Raises:
            AnswerRaised: The function raised.
            Broken: Two models share parameters after the call.
        """

    def attached(self, **inputs: Any) -> bool:
        """Whether the function's value, or a part of it, still carries a gradient."""


class AnswerRaised(Exception):
    """The student's function raised where it should have answered.

    Attributes:
        kind: The exception's class name.
        detail: Its message, on one line.
        line: The student's line of code that raised, if known.
        inputs: What the function was called with.
    """

    def __init__(
        self, kind: str, detail: str, line: str | None = None, inputs: Mapping[str, Any] = {}
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.line, self.inputs = kind, detail, line, dict(inputs)


class AnswerStopped(BaseException):
    """The student's function had to be stopped: it takes too long, say. The message says why.

    No ``Exception``, so that no contract takes it for what the function itself raised.
    """


class Broken(Exception):
    """A contract does not hold.

    Attributes:
        reason: What is wrong, in a sentence that teaches; it names the likely cause where the
            values tell it.
        inputs: The smallest inputs found for which it is wrong, by name.
        expected, actual: The two values, if there are values.
    """

    def __init__(
        self,
        reason: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        expected: Any = None,
        actual: Any = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.inputs = dict(inputs or {})
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True)
class Contract:
    """One law of an exercise.

    Attributes:
        id: Unique within the exercise, such as ``"zero_for_equal"``.
        law: The law in one line, as the table of a check shows it.
        points: What it is worth; 0 for what cannot be judged from outside (an input changed).
        holds: Called with the answer and a seeded generator; raises ``Broken`` where the law fails.
        hints: Shown one by one, at the first, second, … failure.
    """

    id: str
    law: str
    points: float
    holds: Callable[[Answer, torch.Generator], None]
    hints: tuple[str, ...]


# --- what contracts are written with -----------------------------------------------------------


def draw(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Draw float32 normal values of a shape."""
    return scale * torch.randn(*shape, generator=generator)


def expect(
    answer: Answer,
    expected: Any,
    reason: str,
    *,
    unlike: Mapping[str, Any] | None = None,
    rtol: float = RELATIVE_TOLERANCE,
    atol: float = ABSOLUTE_TOLERANCE,
    **inputs: Any,
) -> None:
    """Call the answer and compare: kind and shape first, then finite, then the values.

    Args:
        expected: A number, or a tensor best computed in float64.
        reason: Said if the value is wrong and none of ``unlike`` explains it.
        unlike: Values of plausible mistakes by the sentence that names each; the first that the
            answer's value equals (and the expected one does not) is said instead of ``reason``.
        inputs: The call's named inputs.

    Raises:
        Broken: It differs.
    """
    compare(answer(**inputs), expected, reason, unlike=unlike, rtol=rtol, atol=atol, inputs=inputs)


def compare(
    actual: Any,
    expected: Any,
    reason: str,
    *,
    unlike: Mapping[str, Any] | None = None,
    rtol: float = RELATIVE_TOLERANCE,
    atol: float = ABSOLUTE_TOLERANCE,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Compare a value with the expected one, as ``expect`` does.

    Raises:
        Broken: It differs.
    """
    shown: dict[str, Any] = {"inputs": inputs, "expected": expected, "actual": actual}
    if not isinstance(actual, Tensor | int | float):
        raise Broken(f"it gives {_kind(actual)}; expected {_kind(expected)}.", **shown)
    want = torch.as_tensor(expected)
    have = torch.as_tensor(actual)
    if have.shape != want.shape:
        raise Broken(f"it gives {_kind(actual)}; expected {_kind(expected)}.", **shown)
    if want.dtype == torch.bool:
        if have.dtype != torch.bool:
            raise Broken(f"it gives {_kind(actual)}; expected {_kind(expected)}.", **shown)
        if not bool((have == want).all()):
            raise Broken(_explain(have, want, reason, unlike, rtol, atol), **shown)
        return
    want, have = want.double(), have.double()
    if not bool(torch.isfinite(have).all()) and bool(torch.isfinite(want).all()):
        what = "NaN" if bool(torch.isnan(have).any()) else "infinite"
        raise Broken(f"the value is {what} where it should be finite: {reason}", **shown)
    if not torch.allclose(have, want, rtol=rtol, atol=atol):
        raise Broken(_explain(have, want, reason, unlike, rtol, atol), **shown)


def _explain(
    have: Tensor,
    want: Tensor,
    reason: str,
    unlike: Mapping[str, Any] | None,
    rtol: float,
    atol: float,
) -> str:
    for sentence, mistake in (unlike or {}).items():
        wrong = torch.as_tensor(mistake).to(want.dtype)
        same_as_right = wrong.shape == want.shape and torch.allclose(
            wrong.double(), want.double(), rtol=rtol, atol=atol
        )
        if same_as_right or wrong.shape != have.shape:
            continue
        if torch.allclose(have.double(), wrong.double(), rtol=rtol, atol=atol):
            return sentence
    return reason


def require(condition: bool, reason: str, **shown: Any) -> None:
    """Raise ``Broken`` unless the condition holds; ``shown`` as ``Broken`` takes it."""
    if not condition:
        raise Broken(reason, **shown)


def same_number(a: float, b: float, rtol: float = RELATIVE_TOLERANCE) -> bool:
    """Whether two numbers agree to the contracts' tolerance."""
    return math.isclose(a, b, rel_tol=rtol, abs_tol=ABSOLUTE_TOLERANCE)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a {kind} tensor of shape {list(value.shape)}"
    if value is None:
        return "None (is the return statement missing?)"
    return f"a {type(value).__name__}"


# --- contracts that many exercises have --------------------------------------------------------


def nothing_changes(
    drawn: Drawn,
    *,
    reason: str,
    hints: tuple[str, ...],
    law: str = "The inputs are the same after the call as before",
    names: tuple[str, ...] = (),
) -> Contract:
    """Make the contract that no input changes in place.

    Worth nothing: only the process where the answer runs can see it.

    Args:
        drawn: Gives the call's inputs.
        reason: Said where one changes; ``{changed}`` stands for its name.
        hints, law: As ``Contract`` takes them.
        names: The inputs to watch; all if none is named.
    """

    def holds(answer: Answer, generator: torch.Generator) -> None:
        inputs = drawn(generator)
        changed = [name for name in answer.changed(**inputs) if not names or name in names]
        require(not changed, reason.format(changed=" and ".join(changed)), inputs=inputs)

    return Contract("inputs_unchanged", law, 0, holds, hints)
