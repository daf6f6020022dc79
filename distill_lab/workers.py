"""Trainings side by side, each in a process of its own, on the cores of one machine.

A student of the course is so small that a second core hardly speeds it up, while two students on a
core each do (benchmarks/README.md, "What bounds the main job").
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import PartialState
from loky import ProcessPoolExecutor
from loky.backend import get_context
from loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from distill_lab.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
BYTES_OF_A_PROCESS = 2 * 2**30  # with its libraries and a small student it holds 1.2 GB
BYTES_OF_A_PARAMETER = 20  # its weight, gradient, AdamW's two moments, and a copy
STEPS_OF_A_START = 500  # of the course's student, in about the time a process takes to be ready
POLL_SECONDS = 0.2
LIMITS = (  # of a container's memory, by cgroups of version 2 and 1
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def how_many(steps: Sequence[int], parameters: int, device: torch.device) -> int:
    """Give how many trainings to run side by side; 1 where that would gain nothing.

    Each has a thread, or more, and room in memory. What is trained already does not count: so an
    interrupted run goes on with as many threads as it began with, and comes to the same weights.

    Args:
        steps: Optimizer steps of each.
        parameters: Of the largest student.
        device: Where they compute.
    """
    few = sum(steps) - max(steps) < STEPS_OF_A_START
    if few or _refusal(device) is not None:
        return 1
    room = _memory() // (BYTES_OF_A_PROCESS + BYTES_OF_A_PARAMETER * parameters) - 1
    return max(1, min(len(steps), torch.get_num_threads(), room))  # room beside this process


def check_at_once(asked: int | None, device: torch.device) -> None:
    """Refuse a number of trainings at a time that cannot be; None is left to ``how_many``.

    Raises:
        UserError: It is below 1, or above it where there is only one at a time.
    """
    if asked is None or asked == 1:
        return
    if asked < 1:
        raise UserError(f"at once is {asked}; expected 1 or more")
    if (why := _refusal(device)) is not None:
        raise UserError(f"at once is {asked}; students are trained side by side {why}: give 1")


def _refusal(device: torch.device) -> str | None:
    """Say where alone trainings can be side by side, if not here."""
    if device.type != "cpu":
        return "on CPUs only"
    if PartialState().num_processes > 1:
        return "without torchrun only"
    if os.name != "posix":  # os.getppid tells a worker that it is left alone on POSIX systems only
        return "on POSIX systems only"
    if multiprocessing.current_process().daemon:  # Python allows it no children
        return "outside of daemonic processes only"
    return None


def _memory() -> int:
    """Bytes of memory that this machine has, or lets this container have."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # there is no such file, or it says "max"
            found.append(int(Path(path).read_text()))
    return min(found)


def side_by_side(
    job: Callable[[Item], Callable[[], Result]], items: Sequence[Item], at_once: int
) -> list[Result]:
    """Call ``job(item)()`` for each item, ``at_once`` of them at a time; give the results in order.

    With 1, one after another in this process. Else each job is called in one of as many processes,
    which share this one's threads; their progress bars are drawn here. An interruption or an error
    in one ends all; so does the end of this process, however it comes.

    Args:
        job: Makes, here, what can be pickled and called. It may print; it must not take long, as no
            bar moves meanwhile.
        items: What it takes.

    Raises:
        UserError: A process was killed; and what the jobs raise.
    """
    if at_once == 1 or not items:
        return [job(item)() for item in items]
    threads = str(max(1, torch.get_num_threads() // at_once))
    context = get_context("loky")
    messages = context.SimpleQueue()
    executor = ProcessPoolExecutor(
        max_workers=min(at_once, len(items)),
        context=context,
        initializer=_begin,
        initargs=(messages, os.getpid()),
        env={
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,  # which torch would rather listen to
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # which nobody would draw
            "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",  # a job may hold more than the one before
        },
    )
    rest, free = iter(items), at_once
    made: list[Future[Result]] = []
    waiting: set[Future[Result]] = set()
    bars: dict[Any, tqdm] = {}
    try:
        while len(made) < len(items) or waiting:
            with tqdm.external_write_mode() if free else nullcontext():
                for item in itertools.islice(rest, free):
                    made.append(executor.submit(job(item)))
                    waiting.add(made[-1])
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            free = len(done)
            _draw(messages, bars)
            for future in done:
                future.result()  # raises what the job has raised
    except TerminatedWorkerError as error:
        raise UserError(
            "a training's process ended before its time, as when memory runs out; what is done is "
            "kept: go on with --at-once 1 (in Python, at_once=1), which takes less"
        ) from error
    finally:
        for bar in bars.values():
            _close(bar)
        executor.shutdown(kill_workers=bool(waiting))
    return [future.result() for future in made]


# --- in a worker -------------------------------------------------------------------------------

_messages: Any = None  # to the process that started this one; None where none did


def _begin(messages: Any, parent: int) -> None:
    """Make a process a worker."""
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    tqdm.set_lock(threading.RLock())  # its own would outlast a worker that is ended
    threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()


def _leave_after(parent: int) -> None:
    """End this process when its parent has: a new run may write where this one does."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


# --- progress bars -----------------------------------------------------------------------------


class ProgressBar(Protocol):
    """What is used of a ``tqdm``."""

    def update(self, n: float, /) -> object:
        """Count n steps more."""

    def set_postfix(self, values: dict[str, str], /) -> object:
        """Show values behind the bar."""

    def close(self) -> None:
        """Leave the bar as it stands."""


def progress_bar(**options: Any) -> ProgressBar:
    """Open a ``tqdm`` with these options; that of a worker is drawn by its parent."""
    return tqdm(**options) if _messages is None else _RemoteBar(options)


class _RemoteBar:
    """A bar that another process draws."""

    _numbers = itertools.count()

    def __init__(self, options: dict[str, Any]) -> None:
        self.key = (os.getpid(), next(self._numbers))
        self._send("open", options)

    def _send(self, call: str, *given: Any) -> None:
        _messages.put((self.key, call, given))

    def update(self, n: float) -> None:
        self._send("update", n)

    def set_postfix(self, values: dict[str, str]) -> None:
        self._send("set_postfix", values)

    def close(self) -> None:
        self._send("close")


def _draw(messages: Any, bars: dict[Any, tqdm]) -> None:
    """Do what the workers asked of their bars since the last time."""
    while not messages.empty():
        key, call, given = messages.get()
        if call == "open":
            bars[key] = tqdm(**given[0])
        elif call == "close":
            _close(bars.pop(key))
        else:
            getattr(bars[key], call)(*given)


def _close(bar: tqdm) -> None:
    """Leave a bar above the others, which move: tqdm does not clear where they were."""
    with tqdm.external_write_mode():
        bar.close()
