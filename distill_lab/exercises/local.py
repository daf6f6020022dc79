"""A function of this process, asked as ``contracts.Answer`` says.

A notebook's check uses it where the student works; the grader's worker uses it where a submission
runs. So nothing in here, and nothing it imports, knows an exercise's answer.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import linecache
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from distill_lab.exercises.contracts import AnswerRaised, Broken
from distill_lab.exercises.objects import Buildable, build_inputs, copied, shared_parameters
from distill_lab.exercises.registry import Exercise


class LocalAnswer:
    """A function of this process, asked as ``contracts.Answer`` says.

    It gets copies of the inputs, what it prints goes nowhere, and what would be the exercise's
    answer ready-made raises while it runs.
    """

    def __init__(self, exercise: Exercise, function: Any) -> None:
        self.exercise = exercise
        self.function = function
        self.is_stub = False

    def __call__(self, **inputs: Any) -> Any:
        return copied(self._call(build_inputs(inputs), inputs))

    def after(self, name: str, **inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        given = build_inputs(inputs)
        value = copied(self._call(given, inputs))
        if shared := shared_parameters(given):
            raise Broken(
                f"two models share memory after the call ({shared[0]}): training one would change "
                "the other. Copy the values (`.copy_()`, `load_state_dict`), not the parameter.",
                inputs=inputs,
            )
        return value, inputs[name].state(given[name])

    def attached(self, **inputs: Any) -> bool:
        return _any_requires_grad(self._call(build_inputs(inputs), inputs))

    def gradients(self, *wrt: str, **inputs: Any) -> dict[str, Tensor | None]:
        given = build_inputs(inputs)
        leaves = {
            name: value.requires_grad_()
            for name, value in given.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        value = self._call(given, inputs)
        if cut := [name for name, leaf in leaves.items() if not leaf.requires_grad]:
            raise Broken(
                f"it changes the caller's tensor: {cut[0]} no longer asks for a gradient after the "
                "call. `.detach()` gives a copy that is cut off, and leaves the tensor as it is.",
                inputs=inputs,
            )
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise Broken(
                "no gradient flows through its value: somewhere the tensor leaves the graph "
                "(.item(), .detach(), .data, numpy, torch.no_grad or a new tensor made of it).",
                inputs=inputs,
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.autograd.grad(
                    value.sum(), [leaves[name] for name in wrt], allow_unused=True
                )
        except RuntimeError as error:
            raise AnswerRaised("RuntimeError", one_line(error), "backward", inputs) from None
        return dict(zip(wrt, found, strict=True))

    def raised(self, **inputs: Any) -> str | None:
        try:
            self._call(build_inputs(inputs), inputs)
        except AnswerRaised as error:
            return error.kind
        return None

    def changed(self, **inputs: Any) -> list[str]:
        given = build_inputs(inputs)
        self._call(given, inputs)
        return [name for name in inputs if not _unchanged(given[name], inputs[name])]

    def _call(self, given: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        if not callable(self.function):
            raise Broken(
                f"check was given {type(self.function).__name__}; expected the function "
                f"{self.exercise.signature}, without calling it."
            )
        try:
            with quiet(), withheld(self.exercise):
                return self.function(**given)
        except (KeyboardInterrupt, Broken):
            raise
        except BaseException as error:  # SystemExit too: a check never ends the kernel
            if isinstance(error, NotImplementedError) and self.exercise.id in str(error):
                self.is_stub = True
            detail = one_line(error)
            own = f"{getattr(self.function, '__qualname__', '')}() "  # not a call inside it
            if detail.startswith(own) and ("keyword argument" in detail or "required" in detail):
                detail += f"; keep the stub's first line: def {self.exercise.signature}"
            kind = type(error).__name__
            raise AnswerRaised(kind, detail, _students_line(error), inputs) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be printed, draw the same random numbers each time, and follow gradients."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        # So that dropout, say, falls alike at every call; torch.manual_seed would seed devices too,
        # whose states are not put back, and where there are none note the stack for each of them.
        torch.default_generator.manual_seed(0)
        yield


@contextlib.contextmanager
def withheld(exercise: Exercise) -> Iterator[None]:
    """Make what would be the answer itself raise, for as long as the answer runs."""
    with contextlib.ExitStack() as stack:
        for dotted in exercise.not_allowed:
            owner, name = resolve(dotted)
            stack.enter_context(patch.object(owner, name, refusal(dotted, exercise)))
        yield


def refusal(dotted: str, exercise: Exercise) -> Callable[..., Any]:
    """Make what stands in for a function that would be the answer itself."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Broken(f"`{dotted}` is the answer itself; may be called: {exercise.may_call}")

    return refuse


def resolve(dotted: str) -> tuple[Any, str]:
    """Give the module or class that holds a dotted name, and the name's last part."""
    path, _, name = dotted.rpartition(".")
    try:
        return importlib.import_module(path), name
    except ImportError:
        module, _, cls = path.rpartition(".")
        return getattr(importlib.import_module(module), cls), name


def _any_requires_grad(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_any_requires_grad, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_any_requires_grad, value))
    return isinstance(value, Tensor) and value.requires_grad


def _unchanged(made: Any, given: Any) -> bool:
    if not isinstance(given, Buildable):
        return _same(made, given)
    fresh = given.state(given.build({})) if isinstance(made, nn.Module) else {}
    return all(_same(given.state(made)[name], value) for name, value in fresh.items())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.detach().nan_to_num(), b.nan_to_num())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def one_line(error: BaseException, longest: int = 300) -> str:
    """The error's message on one line, cut where it grows long."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _students_line(error: BaseException) -> str | None:
    """The innermost line of the student's own code that led to the error."""
    here = __file__
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != here and "site-packages" not in frame.filename
    ]
    if not own:
        return None
    frame = own[-1]
    return (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip() or None
