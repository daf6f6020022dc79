"""The judge: asks a submission's answers through a worker, and decides.

It draws the inputs from a secret seed, holds the expected values, and takes what comes back as
data. What an exercise's feedback says comes from a second process that is asked with the seed that
every notebook's check has: a process that has seen secret inputs says nothing to the student.
"""

from __future__ import annotations

import ast
import hashlib
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from distill_lab.course.library import Sources, cut_out, defined, home, split
from distill_lab.course.protocol import AskedCall, Closed, ProtocolError, receive, send, waiting
from distill_lab.course.repair import Cell, Script, Unreadable, read_script
from distill_lab.course.results import (
    ContractResult,
    ExerciseResult,
    Status,
    SubmissionResult,
    printable,
)
from distill_lab.course.sandbox import Confinement, Session, Worker
from distill_lab.course.submissions import Submission
from distill_lab.exercises.checking import Outcome, Verdict, judge_answer
from distill_lab.exercises.contracts import AnswerRaised, AnswerStopped, Broken
from distill_lab.exercises.objects import ScriptedCall
from distill_lab.exercises.registry import Exercise, Lesson, lesson_of

if TYPE_CHECKING:
    from nbformat import NotebookNode

ENDED = "its process has ended"
PUBLIC_SEED = 0  # of every notebook's check
LONGEST_REASON = 400  # characters
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
MOST_CALLS = 10_000  # of a scripted call by one question


# --- an answer elsewhere ------------------------------------------------------------------------


class RemoteAnswer:
    """A submission's function in a worker's process, asked as ``contracts.Answer`` says.

    Args:
        channel: To the process.
        seconds: After which it is stopped, counted while the judge waits for it.
    """

    def __init__(self, channel: socket.socket, seconds: float) -> None:
        self.channel = channel
        self.left = seconds
        self.seconds = seconds
        self.is_stub = False

    def __call__(self, **inputs: Any) -> Any:
        return self._ask("value", inputs)

    def gradients(self, *wrt: str, **inputs: Any) -> dict[str, Tensor | None]:
        given = _fields(self._ask("gradients", inputs, wrt))
        found = {name: given.get(name) for name in wrt}
        if not all(value is None or isinstance(value, Tensor) for value in found.values()):
            raise ValueError("a gradient is no tensor")
        return found

    def raised(self, **inputs: Any) -> str | None:
        # Asked as any value is, so that nothing on the other side knows when to raise but by
        # looking at the inputs.
        try:
            self._ask("value", inputs)
        except AnswerRaised as error:
            return error.kind
        return None

    def changed(self, **inputs: Any) -> list[str]:
        changed = self._ask("changed", inputs)
        return [name for name in inputs if name in changed]

    def after(self, name: str, **inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        timers: dict[str, Any] = {}
        value, state = self._ask("after", inputs, (name,), timers)
        if name in timers:
            return value, inputs[name].state(timers[name])
        given = _fields(state)
        if not all(isinstance(part, Tensor) for part in given.values()):
            raise ValueError("the state after the call is no dictionary of tensors")
        return value, given

    def attached(self, **inputs: Any) -> bool:
        return bool(self._ask("attached", inputs))

    def begin(self, first: Mapping[str, Any]) -> dict[str, Any]:
        """Send what the process needs to begin, and give what its cells have left.

        Raises:
            AnswerStopped: They take too long, or end the process.
        """
        with _stopping(self):
            self._sent(first)
            return _fields(self._received())

    def _ask(
        self,
        op: str,
        inputs: Mapping[str, Any],
        names: Sequence[str] = (),
        timers: dict[str, Any] | None = None,
    ) -> Any:
        timers = {} if timers is None else timers
        timers |= {name: x.build({}) for name, x in inputs.items() if isinstance(x, ScriptedCall)}
        sent = {name: AskedCall() if name in timers else x for name, x in inputs.items()}
        token = secrets.token_hex(8)
        with _stopping(self):
            if waiting(self.channel):
                raise ProtocolError("it answers before it is asked")
            question = {"token": token, "op": op, "inputs": sent, "names": list(names)}
            self._sent(question)
            for _ in range(MOST_CALLS):
                reply = _fields(self._received())
                if reply.get("token") != token:
                    raise ProtocolError("its answer belongs to no question")
                if "asks" not in reply:
                    break
                self._sent(_clock(reply, timers))
            else:
                raise ProtocolError(f"it asks for a clock more than {MOST_CALLS} times")
        if "value" in reply:
            return reply["value"]
        if "broken" in reply:
            raise Broken(_told(reply["broken"]), inputs=inputs)
        kind, detail, line = (*map(_told, reply.get("raised", ())), "", "", "")[:3]
        self.is_stub = self.is_stub or bool(reply.get("stub"))
        raise AnswerRaised(kind, detail, line or None, inputs)

    def _sent(self, value: Any) -> None:
        self._timed(send, self.channel, value)

    def _received(self) -> Any:
        return self._timed(receive, self.channel)

    def _timed(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Send or receive, in the time that is left; whoever reads slowly uses it up too."""
        start = time.monotonic()
        try:
            return action(*arguments, start + self.left)
        finally:
            self.left -= time.monotonic() - start


@contextmanager
def _stopping(answer: RemoteAnswer) -> Iterator[None]:
    """Tell what the other side does wrong as ``AnswerStopped``."""
    try:
        yield
    except TimeoutError:
        why = f"it takes longer than the {answer.seconds:g} seconds it may take"
    except Closed:
        why = ENDED
    except ProtocolError as error:
        why = f"it meddles with the grader's messages: {error}"
    else:
        return
    raise AnswerStopped(why)


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError("its answer has no fields")
    return value


def _clock(reply: Mapping[str, Any], timers: Mapping[str, Any]) -> float | None:
    """Let the scripted call run, or read its clock."""
    timer = timers.get(str(reply.get("of")))
    if timer is None:
        raise ProtocolError("it asks for a clock that there is not")
    if reply["asks"] == "call":
        timer()
        return None
    return float(timer.now)


def _told(text: Any) -> str:
    """Make of a stranger's text a printable line."""
    # An address is another one in each process.
    line = ADDRESS.sub("0x…", printable(text)) if isinstance(text, str) else ""
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


# --- one submission -----------------------------------------------------------------------------


class Judge:
    """Grades submissions of some lessons, one after the other, with one warm worker.

    Args:
        confinement: How submissions are kept.
        seed: Of the secret inputs.
        released: The lessons' notebooks as students got them, by the lesson's name.
    """

    def __init__(
        self, confinement: Confinement, seed: int, released: Mapping[str, NotebookNode]
    ) -> None:
        self.confinement = confinement
        self.seed = seed
        self.released = released
        self._worker: Worker | None = None

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def grade(self, submission: Submission, lesson: Lesson) -> SubmissionResult:
        """Grade a submission; whatever it does, there is a result.

        Raises:
            WorkerFailed: No worker can be started.
        """
        try:
            if submission.problem:
                raise Unreadable(submission.problem)
            script = read_script(submission.content, lesson, self.released[lesson.name])
        except Unreadable as error:
            return unjudged(submission, lesson, str(error), "unreadable")
        graded = tuple(self._exercises(lesson, script))
        return SubmissionResult(
            submission.student, lesson.name, submission.sha256, graded, script.repairs
        )

    def _exercises(self, lesson: Lesson, script: Script) -> Iterator[ExerciseResult]:
        """Grade exercise by exercise, each in a process of its own.

        As in a notebook, where ``use`` sees to it, a later exercise builds on the library's
        function where the student's earlier one does not hold.
        """
        failed: list[Exercise] = []
        for exercise in lesson.exercises:
            if exercise.id in script.missing:
                result = _without(exercise, "missing", script.missing[exercise.id])
            else:
                result = self.exercise(exercise, script, failed)
            if result.status != "passed":
                failed.append(exercise)
            yield result

    def exercise(
        self, exercise: Exercise, script: Script, failed: Sequence[Exercise] = ()
    ) -> ExerciseResult:
        """Grade one exercise of a submission, in a process of its own.

        Args:
            failed: The lesson's earlier exercises whose place the library's functions take.

        Raises:
            WorkerFailed: No worker can be started.
        """
        begin = beginning(exercise, script, failed)
        judged = self._judged(exercise, begin, self.seed)
        if judged.verdict is None:
            return _without(exercise, judged.status, judged.reason)
        explained = judged
        if judged.verdict.first_failure and not judged.verdict.stopped:
            explained = self._judged(exercise, begin, PUBLIC_SEED)
        return _result(exercise, judged.verdict, explained.verdict)

    def _judged(self, exercise: Exercise, begin: Mapping[str, Any], seed: int) -> _Judged:
        """Ask the answer in a fresh process, with one seed."""
        ended = None
        try:
            with self._warm().session() as session:
                ended = session
                answer = RemoteAnswer(session.channel, self.confinement.seconds)
                left = answer.begin({**begin, "seed": _worker_seed(exercise)})
                if lacking := _lacking(left):
                    return lacking
                verdict = judge_answer(exercise, answer, seed=seed)
        except AnswerStopped as stopped:
            return _Judged(None, "stopped", _ended(ended, str(stopped)))
        if verdict.stopped:
            why = _ended(ended, verdict.stopped)
            verdict = Verdict(exercise, verdict.outcomes, verdict.attempted, why)
        return _Judged(verdict)

    def _warm(self) -> Worker:
        if self._worker is not None and not self._worker.alive:
            self.close()
        if self._worker is None:
            self._worker = Worker(self.confinement)
        return self._worker


@dataclass(frozen=True)
class _Judged:
    """What asking an answer gave: a verdict, or why there is none."""

    verdict: Verdict | None
    status: Status = "stopped"
    reason: str = ""


def _ended(session: Session | None, stopped: str) -> str:
    """Say why an answer was stopped: how its process ended tells more than that it did."""
    ended = session.ended if session else ""
    return ended if ended and stopped == ENDED else stopped


def _worker_seed(exercise: Exercise) -> int:
    """Give the seed of a submission's own random numbers: no secret, so nothing can tell one."""
    return int.from_bytes(hashlib.sha256(exercise.id.encode()).digest()[:6], "big")


def _lacking(left: Mapping[str, Any]) -> _Judged | None:
    """Say what is wrong with what the cells have left under the exercise's name, if anything is."""
    if left.get("answer") == "withheld":
        why = "it is a function of the library, not an answer of your own: write the function"
        return _Judged(None, "not attempted", why)
    if left.get("answer") == "nothing":
        note = _told(left.get("note"))
        why = f"its cell does not run: {note}" if note else "its cell defines no such function"
        return _Judged(None, "failed", why)
    return None


def beginning(exercise: Exercise, script: Script, failed: Sequence[Exercise]) -> dict[str, Any]:
    """Give what a process needs to know before it is asked, the seed aside.

    Args:
        failed: The lesson's earlier exercises whose place the library's functions take.
    """
    library, replaced = _of_the_library(exercise, tuple(failed))
    return {
        "exercise": exercise.id,
        "parameters": exercise.parameters,
        "may_call": exercise.may_call,
        "not_allowed": list(exercise.not_allowed),
        "library": library,
        "replaced": replaced,
        "cells": [cell for one in script.cells for cell in _runnable(one)],
    }


@cache
def _of_the_library(
    exercise: Exercise, failed: tuple[Exercise, ...]
) -> tuple[Sources, dict[str, list[str]]]:
    """Give what of the library an answer may have, and what of it replaces earlier answers."""
    replaced = {x.id: home(x.reference) for x in failed}
    wanted = [split(name) for name in exercise.library]
    library = cut_out([*wanted, *replaced.values()])
    kept_back = {home(x.reference) for x in lesson_of(exercise).exercises} - set(replaced.values())
    if kept_back & defined(library):  # an earlier answer contains a later one
        replaced, library = {}, cut_out(wanted)
    return library, {id: list(where) for id, where in replaced.items()}


def _runnable(cell: Cell) -> list[dict[str, Any]]:
    """Give what of a cell runs: of the lesson's own, what an answer may build on."""
    if not cell.released or cell.answers:
        return [{"source": cell.source, "plain": False, "answers": cell.answers}]
    return [
        {"source": source, "plain": True, "answers": None} for source in _definitions(cell.source)
    ]


@cache
def _definitions(source: str) -> tuple[str, ...]:
    """Give the imports, functions, classes and plain constants of a cell of the lesson."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # IPython's own commands
        return ()
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return tuple(
        ast.unparse(one)
        for one in body
        if isinstance(one, kinds) or (isinstance(one, ast.Assign) and _is_constant(one.value))
    )


def _is_constant(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


# --- results ------------------------------------------------------------------------------------


def unjudged(
    submission: Submission, lesson: Lesson, reason: str, status: Status = "stopped"
) -> SubmissionResult:
    """Give the result of a submission whose exercises could not be judged."""
    lost = tuple(_without(exercise, status, reason) for exercise in lesson.exercises)
    return SubmissionResult(submission.student, lesson.name, submission.sha256, lost)


def _without(exercise: Exercise, status: Status, reason: str) -> ExerciseResult:
    """Give the result of an exercise whose contracts could not be tried."""
    contracts = tuple(ContractResult(c.id, c.law, c.points, "untried") for c in exercise.contracts)
    return ExerciseResult(exercise.id, 0.0, exercise.points, status, reason, contracts)


def _result(exercise: Exercise, verdict: Verdict, public: Verdict | None) -> ExerciseResult:
    """Put a verdict into the words of the public one.

    Args:
        verdict: Of the secret inputs: it gives the points.
        public: Of the inputs that the notebook's check draws: it gives the reasons.
    """
    said = {o.contract.id: o for o in public.outcomes} if public is not None else {}
    contracts = tuple(_contract(o, said.get(o.contract.id), verdict) for o in verdict.outcomes)
    if verdict.stopped:
        status: Status = "stopped"
    elif not verdict.attempted:
        status = "not attempted"
    elif verdict.points == exercise.points:
        status = "passed"
    else:
        status = "partly" if verdict.points else "failed"
    reason = next((c.reason for c in contracts if c.status == "failed" and c.points), "")
    reason = verdict.stopped or reason
    if status == "not attempted":
        reason = "the stub still stands, or use() in its place"
    return ExerciseResult(exercise.id, verdict.points, exercise.points, status, reason, contracts)


def _contract(outcome: Outcome, public: Outcome | None, verdict: Verdict) -> ContractResult:
    contract = outcome.contract
    reason = ""
    hints: tuple[str, ...] = ()
    if outcome.status == "failed":
        hints = contract.hints
        if verdict.stopped:
            reason = verdict.stopped
        elif public is not None and public.status == "failed" and public.broken is not None:
            reason = _told(public.broken.reason)
        else:
            reason = (
                f"{contract.law}: this does not hold for other inputs than those that the check in "
                "the notebook draws"
            )
    return ContractResult(contract.id, contract.law, contract.points, outcome.status, reason, hints)


def imports_of(released: Mapping[str, NotebookNode]) -> tuple[str, ...]:
    """Give the modules that the lessons' notebooks import, the library's aside."""
    found: set[str] = set()
    for notebook in released.values():
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            for source in _definitions(cell.source):
                (node,) = ast.parse(source).body
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module)
    library = {name for name in found if name.partition(".")[0] == "distill_lab"}
    return tuple(sorted(found - library - {"__future__"}))


def ruled_out(lessons: Iterable[Lesson]) -> tuple[str, ...]:
    """Give the names outside of the library that some exercise's answer may not call."""
    names = {name for x in lessons for exercise in x.exercises for name in exercise.not_allowed}
    return tuple(sorted(name for name in names if not name.startswith("distill_lab.")))
