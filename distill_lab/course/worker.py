"""The untrusted side of grading: runs a submission's cells and answers the judge's questions.

Started once by ``sandbox``, it imports what submissions need and then waits. For each exercise of
each submission it forks; the child shuts itself off, runs the cells, answers, and is killed with
everything it started. Nothing here knows an expected value, and of the library there is only what
the answers may call: see ``Shelf``.

Whatever this module promises itself a submission can undo, since it runs in the same process. What
the judge relies on is that answers are data, and that the process is alone.
"""

from __future__ import annotations
import __future__

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import json
import linecache
import os
import random
import resource
import select
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from distill_lab.course import isolation
from distill_lab.course.protocol import AskedCall, Closed, ProtocolError, receive, send
from distill_lab.exercises.contracts import AnswerRaised, Broken
from distill_lab.exercises.local import LocalAnswer, one_line, quiet, refusal, resolve
from distill_lab.exercises.registry import Exercise

FORK, KILL = b"F", b"K"
GRACE = 0.1  # seconds in which a process whose judge hangs up may end by itself
TICK = 0.05  # seconds between two looks at a submission's memory
FLAGS = __future__.annotations.compiler_flag  # the lessons' first cell asks for it, for all cells

# --- the warm process ---------------------------------------------------------------------------


def main() -> None:
    """Serve forks until the judge is gone. ``argv``: a descriptor, and settings as JSON."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    torch.set_num_threads(1)  # a process that has used more hangs when it forks
    for name in settings["imports"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    import transformers.models.bert.modeling_bert  # noqa: F401  lazily imported otherwise
    from IPython.core.inputtransformer2 import TransformerManager  # noqa: F401

    where = places(settings["ruled_out"])
    gc.collect()
    gc.freeze()  # else each child's first collection copies every page of what is imported here
    isolation.adopt_orphans()
    serve(control, settings, where)


def serve(control: socket.socket, settings: Mapping[str, Any], where: Mapping[str, Any]) -> None:
    """Fork where the judge asks for it, one child at a time."""
    send(control, "ready")
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not order:
            return
        if order != FORK or not descriptors:
            continue
        try:
            pid = _forked(control, descriptors[0], settings, where)
        except OSError as error:
            send(control, {"failed": one_line(error)})
            continue
        finally:
            os.close(descriptors[0])
        send(control, {"forked": True})
        send(control, _watched(pid, control, settings["memory"]))


def _forked(
    control: socket.socket, channel: int, settings: Mapping[str, Any], where: Mapping[str, Any]
) -> int:
    """Fork twice: the second child is process 1 of its own namespace, and this one's to wait for.

    Raises:
        OSError: It cannot be shut off.
    """
    told, tell = os.pipe()
    between = os.fork()
    if between == 0:
        os.close(told)
        control.close()
        try:
            if settings["namespaces"]:
                isolation.enter_namespaces()
            pid = os.fork()
            if pid == 0:
                _child(channel, settings, where)
            os.write(tell, str(pid).encode())
        except OSError as error:
            os.write(tell, one_line(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as pipe:
        said = pipe.read()
    os.waitpid(between, 0)
    if not said.isdecimal():
        raise OSError(said)
    return int(said)


def _child(channel: int, settings: Mapping[str, Any], where: Mapping[str, Any]) -> NoReturn:
    """Become what a submission runs in; never returns."""
    try:
        os.setsid()
        # Nothing is inherited but the one socket: it becomes 3, all that is above goes.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.dup2(channel, 3)
        os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        isolation.limit(settings["memory"], settings["seconds"])
        if settings["namespaces"]:
            isolation.shut_off()
            os.chdir("/tmp")
        answer_questions(socket.socket(fileno=3), where)
    except BaseException:  # the judge sees the end of the channel
        os._exit(1)
    os._exit(0)


def _watched(pid: int, control: socket.socket, memory: int) -> dict[str, Any]:
    """Wait for a child's end or the judge's order, kill what is left, and say how it ended."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    process = os.pidfd_open(pid)
    poll.register(process, select.POLLIN)
    own = _memory(os.getpid())
    too_much = False
    try:
        while not poll.poll(1000 * TICK) and not too_much:
            pids = _descendants()
            too_much = sum(max(0, _memory(one) - own) for one in pids) > memory
        poll.unregister(control)
        ended = bool(poll.poll(0 if too_much else 1000 * GRACE))
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(process)
    _kill_the_rest()
    return {
        "exit": os.waitstatus_to_exitcode(status) if ended else None,
        "memory": too_much,
    }


def _kill_the_rest() -> None:
    """Kill what a child has started. In a namespace it is gone with it; else it is adopted here."""
    while True:
        for pid in _descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    """Give every process below this one, as /proc tells."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {os.getpid()})


def _memory(pid: int) -> int:
    """Give the bytes of memory that no file stands behind."""
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * sum(
            int(line.split()[1])
            for line in status.splitlines()
            if line.startswith(("RssAnon:", "RssShmem:"))
        )
    return 0


# --- the library, as a submission sees it -------------------------------------------------------


class Withheld:
    """Stands for a name of the library that answers may not call: it imports, and then refuses."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Withheld:
        if name.startswith("__"):
            raise AttributeError(name)
        return Withheld(f"{self._name}.{name}")

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Broken(
            f"`{self._name}` cannot be had while grading: the answer is to be your own. "
            f"{Shelf.allowed}"
        )

    __call__ = __iter__ = __getitem__ = __enter__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = _refuse


class Shelf(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports ``distill_lab`` for a submission: what answers may call, and else ``Withheld``.

    Attributes:
        sources: By module, the source text of the functions that answers may call; the judge
            sends it.
        allowed: The sentence that says what may be called.
    """

    allowed = ""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] != "distill_lab":
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        run_text(self.sources.get(name, ""), f"<{name}>", module.__dict__)

        def missing(attribute: str) -> Withheld:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return Withheld(f"{name}.{attribute}")

        module.__dict__["__getattr__"] = missing


# --- one exercise of one submission -------------------------------------------------------------


def run_text(source: str, file: str, scope: dict[str, Any]) -> None:
    """Run a text; ``file`` is the name under which a traceback finds its lines."""
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec", FLAGS, dont_inherit=True), scope)


def answer_questions(channel: socket.socket, where: Mapping[str, Any]) -> None:
    """Run the cells that the judge sends, then answer its calls until it hangs up.

    Args:
        where: As ``places`` gives it.
    """
    begin = receive(channel)
    _seed(begin["seed"])
    rules = Exercise(
        id=begin["exercise"],
        title="",
        minutes=0,
        difficulty=0,
        reference=_no_reference,
        parameters=begin["parameters"],
        may_call=begin["may_call"],
        not_allowed=tuple(begin["not_allowed"]),
        contracts=(),
    )
    Shelf.allowed = f"May be called: {rules.may_call}."
    sys.meta_path.append(Shelf(begin["library"]))
    run = Run(rules, begin["replaced"])
    take_away(rules, where)
    with quiet():
        function, note = run.cells(begin["cells"])
    send(channel, {"note": note, "answer": _what(function)})
    answer = LocalAnswer(rules, function)
    run.judged = True
    with contextlib.suppress(Closed):
        while True:
            question = receive(channel)
            reply = answered(answer, question, channel)
            try:
                send(channel, {"token": question["token"], **reply})
            except Closed:
                raise
            except Exception as error:  # a value that cannot travel
                kind = "ValueError" if isinstance(error, ProtocolError) else type(error).__name__
                send(channel, {"token": question["token"], **_refused(kind, error)})


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _no_reference(*args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError


def _what(function: Any) -> str:
    """Say what the cells have left under the exercise's name."""
    if function is _NOTHING:
        return "nothing"
    if isinstance(function, Withheld):
        return "withheld"
    return "something"


_NOTHING = object()


def places(names: Iterable[str]) -> dict[str, list[tuple[Any, str]]]:
    """Find under which names in which modules each of some functions can be had."""
    originals = {}
    found: dict[str, list[tuple[Any, str]]] = {}
    for dotted in names:
        owner, name = resolve(dotted)
        originals[id(getattr(owner, name))] = dotted
        found[dotted] = [(owner, name)]
        if hasattr(torch.ops.aten, name):
            found[dotted].append((torch.ops.aten, name))
    for module in list(sys.modules.values()):
        for alias, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in originals:
                found[originals[id(value)]].append((module, alias))
    return found


def take_away(rules: Exercise, where: Mapping[str, Sequence[tuple[Any, str]]]) -> None:
    """Put a refusal wherever what an exercise rules out can be had by name, for good."""
    for dotted in set(rules.not_allowed) & set(where):
        refuse = refusal(dotted, rules)
        for owner, name in where[dotted]:
            setattr(owner, name, refuse)


class Run:
    """The cells of a submission, run one after the other.

    Attributes:
        judged: Whether the judge's questions have begun.
    """

    def __init__(self, rules: Exercise, replaced: Mapping[str, Sequence[str]]) -> None:
        self.rules = rules
        self.replaced = replaced
        self.judged = False
        self.scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        self.scope |= {"display": lambda *args, **kwargs: None, "get_ipython": lambda: _Shell(self)}
        package = importlib.import_module("distill_lab.exercises")
        shown = {"check": lambda *args, **kwargs: None, "use": self._use}
        for name, shim in (shown | {"progress": shown["check"]}).items():
            setattr(package, name, shim)
        package.__dict__["__getattr__"] = lambda name: Withheld(f"distill_lab.exercises.{name}")

    def _use(self, function: Any) -> Any:
        """Give the function back: the library's is not here to take its place."""
        if self.judged:  # called by the answer itself
            raise NotImplementedError(f"{self.rules.id}: use() is no answer")
        return function

    def cells(self, cells: Sequence[Mapping[str, Any]]) -> tuple[Any, str]:
        """Run cells; give the answer, and what went wrong in its cell.

        The answer is what stands under the exercise's name after its own cell, or, where there is
        nothing then, at the end. That other cells fail is no matter.
        """
        function: Any = _NOTHING
        note = ""
        for number, cell in enumerate(cells):
            wrong = self.cell(cell["source"], f"<cell {number + 1}>", cell["plain"])
            answers = cell["answers"]
            if answers == self.rules.id:
                function = self.scope.get(answers, _NOTHING)
                note = wrong
            elif answers in self.replaced:
                module, name = self.replaced[answers]
                self.scope[answers] = getattr(importlib.import_module(module), name)
        if function is _NOTHING:
            function = self.scope.get(self.rules.id, _NOTHING)
        return function, note

    def cell(self, source: str, file: str, plain: bool) -> str:
        """Run a cell; give what went wrong, or nothing.

        Args:
            plain: Whether it is Python alone, without IPython's ``%`` and ``!``.
        """
        try:
            if not plain:
                from IPython.core.inputtransformer2 import TransformerManager

                source = TransformerManager().transform_cell(source)
            run_text(source, file, self.scope)
        except BaseException as error:  # SystemExit too
            return f"{type(error).__name__}: {one_line(error)}"
        return ""


class _Shell:
    """What ``get_ipython()`` gives: magics that wrap a cell run it, all others do nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        if name in ("time", "timeit", "capture", "prun"):
            self._run.cell(cell, f"<%%{name}>", plain=True)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def answered(
    answer: LocalAnswer, question: Mapping[str, Any], channel: socket.socket
) -> dict[str, Any]:
    """Answer one question of the judge, in the words of ``judging.RemoteAnswer``."""
    inputs = {
        name: _RemoteCall(name, question["token"], channel) if isinstance(x, AskedCall) else x
        for name, x in question["inputs"].items()
    }
    ask = {
        "value": lambda: answer(**inputs),
        "gradients": lambda: answer.gradients(*question["names"], **inputs),
        "changed": lambda: answer.changed(**inputs),
        "after": lambda: answer.after(question["names"][0], **inputs),
        "attached": lambda: answer.attached(**inputs),
    }[question["op"]]
    try:
        return {"value": ask()}
    except AnswerRaised as error:
        said = [error.kind, error.detail, error.line or ""]
        return {"raised": said, "stub": answer.is_stub}
    except Broken as broken:
        return {"broken": broken.reason}
    except Exception as error:  # a value that cannot be copied
        return _refused(type(error).__name__, error)


def _refused(kind: str, error: Exception) -> dict[str, Any]:
    return {"raised": [kind, one_line(error), ""], "stub": False}


class _RemoteCall:
    """A ``ScriptedCall`` whose clock runs at the judge's: how long it takes is not known here."""

    def __init__(self, name: str, token: str, channel: socket.socket) -> None:
        self.name, self.token, self.channel = name, token, channel

    def build(self, built: Mapping[str, Any]) -> _RemoteCall:
        return self

    def state(self, made: Any) -> dict[str, Any]:
        return {}  # the judge has counted the calls itself

    def __call__(self) -> None:
        self._ask("call")

    @property
    def now(self) -> Any:
        return self._ask("now")

    def _ask(self, what: str) -> Any:
        send(self.channel, {"token": self.token, "asks": what, "of": self.name})
        return receive(self.channel)
