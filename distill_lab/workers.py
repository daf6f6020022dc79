"""Trainings side by side, each in a process of its own, on the cores of one machine.

A student of the course is so small that a second core hardly speeds it up, while two students on a
core each do (benchmarks/README.md, "What bounds the main job").
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
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
STEPS_OF_A_START = 500  # of the course's student, in about the time a process takes to be ready
POLL_SECONDS = 0.2


def how_many(steps: Sequence[int], device: torch.device) -> int:
    """Give how many trainings to run side by side; 1 where that would gain nothing.

    Each has a thread, or more, and room in memory. What is trained already does not count: so an
    interrupted run goes on with as many threads as it began with, and comes to the same weights.

    Args:
        steps: Optimizer steps of each.
        device: Where they compute.
    """
    alone = device.type != "cpu" or PartialState().num_processes > 1
    # os.getppid, by which a worker sees that it is left alone, says so on POSIX systems only.
    if alone or os.name != "posix" or sum(steps) - max(steps) < STEPS_OF_A_START:
        return 1
    room = _memory() // BYTES_OF_A_PROCESS - 1  # beside this process
    return max(1, min(len(steps), torch.get_num_threads(), room))


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
    context = get_context("loky")
    messages = context.SimpleQueue()
    executor = ProcessPoolExecutor(
        max_workers=min(at_once, len(items)),
        context=context,
        initializer=_begin,
        initargs=(messages, os.getpid()),
        env={
            "OMP_NUM_THREADS": str(torch.get_num_threads() // at_once),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # which no parent would draw
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
    except TerminatedWorkerError:
        raise UserError(
            "a training's process was killed, most likely because memory ran out; what is done is "
            "kept: go on with OMP_NUM_THREADS=1 set, which trains one student at a time"
        ) from None
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
