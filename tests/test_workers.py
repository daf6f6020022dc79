"""Laws of calls side by side: as if one after another, and all end together."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import threads
from tqdm.auto import tqdm

from distill_lab import workers
from distill_lab.errors import UserError
from distill_lab.workers import how_many, progress_bar, side_by_side

CPU = torch.device("cpu")
LONG = [1000] * 3
GIB = 2**30
posix = pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no workers")


def answer(number: int) -> tuple[int, int, int]:
    return number, os.getpid(), torch.get_num_threads()


def fail() -> None:
    raise UserError("the loss became nan at step 3; use a smaller learning rate")


def as_it_is(call: Callable[[], None]) -> Callable[[], None]:
    return call


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


# --- how many ----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_each_training_has_a_thread_or_more(
    count: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_memory", lambda: 64 * GIB)
    with threads(count):
        assert how_many(LONG, CPU) == wanted


@posix
@pytest.mark.parametrize(("gib", "wanted"), [(2, 1), (4, 1), (8, 3), (16, 7)])
def test_trainings_side_by_side_have_room_in_memory(
    gib: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_memory", lambda: gib * GIB)
    with threads(64):
        assert how_many(LONG * 10, CPU) == wanted


@posix
def test_the_memory_is_this_machines() -> None:
    assert workers._memory() == psutil.virtual_memory().total


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("steps", [[9000], [9000, 20], [100, 100]])
def test_no_process_is_started_for_what_is_done_before_it_is_ready(steps: list[int]) -> None:
    assert how_many(steps, CPU) == 1


@pytest.mark.usefixtures("two_threads")
def test_an_accelerator_trains_one_at_a_time() -> None:
    assert how_many(LONG, torch.device("cuda")) == 1


# --- calls -------------------------------------------------------------------------------------


def test_one_at_a_time_stays_in_this_process_and_makes_a_job_when_it_is_due() -> None:
    order = []

    def work(number: int) -> tuple[int, int, int]:
        order.append(f"work {number}")
        return answer(number)

    def job(number: int) -> Callable[[], tuple[int, int, int]]:
        order.append(f"job {number}")
        return partial(work, number)

    done = side_by_side(job, range(3), 1)
    assert [number for number, _, _ in done] == [0, 1, 2]
    assert {process for _, process, _ in done} == {os.getpid()}
    assert order == [f"{what} {number}" for number in range(3) for what in ("job", "work")]


def test_without_items_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    assert side_by_side(partial(partial, answer), [], 2) == []


@posix
@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_side_by_side_they_share_the_threads_and_keep_their_order() -> None:
    done = side_by_side(partial(partial, answer), range(5), 2)
    assert [number for number, _, _ in done] == list(range(5))
    assert os.getpid() not in {process for _, process, _ in done}
    assert {count for _, _, count in done} == {1}


@posix
@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_an_error_in_one_ends_all_and_is_told_as_it_was_raised() -> None:
    start = time.perf_counter()
    with pytest.raises(UserError, match="the loss became nan at step 3; use a smaller"):
        side_by_side(as_it_is, [partial(time.sleep, 300), fail], 2)
    assert time.perf_counter() - start < 120


@posix
@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_a_killed_process_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"memory ran out.*OMP_NUM_THREADS=1") as caught:
        side_by_side(as_it_is, [partial(time.sleep, 300), kill_itself], 2)
    assert "\n" not in str(caught.value)


PARENT = """
import sys, time
from functools import partial
from pathlib import Path
import torch
from distill_lab.workers import side_by_side

def note(folder):
    import os, time
    from pathlib import Path
    Path(folder, str(os.getpid())).touch()
    time.sleep(300)

torch.set_num_threads(2)
side_by_side(lambda folder: partial(note, folder), [sys.argv[1]] * 2, 2)
"""


def is_alive(process: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def soon(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_worker_outlives_its_parent(number: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    assert soon(lambda: len(list(tmp_path.iterdir())) == 2)
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert all(is_alive(process) for process in started)
    parent.send_signal(getattr(signal, number))
    assert soon(lambda: not any(is_alive(process) for process in started))
    _, said = parent.communicate(timeout=120)
    assert parent.returncode != 0
    if number == "SIGINT":
        assert said.count("Traceback") == 1 and "leaked" not in said


# --- progress bars -----------------------------------------------------------------------------


def test_without_a_parent_a_bar_is_drawn_here() -> None:
    bar = progress_bar(total=3, disable=True)
    assert isinstance(bar, tqdm)
    bar.close()


def test_a_workers_bar_is_drawn_by_its_parent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    messages: Any = queue.SimpleQueue()
    monkeypatch.setattr(workers, "_messages", messages)
    first = progress_bar(total=3, desc="distilled, seed 0", unit="step")
    second = progress_bar(total=2, desc="hard labels, seed 0", unit="step")
    assert capsys.readouterr().err == ""
    for _ in range(3):
        first.update(1)
    first.set_postfix({"loss": "0.1234"})
    first.close()

    bars: dict[Any, tqdm] = {}
    workers._draw(messages, bars)
    drawn = capsys.readouterr().err
    assert "distilled, seed 0: 100%" in drawn and "3/3" in drawn and "loss=0.1234" in drawn
    assert "hard labels, seed 0:   0%" in drawn
    [left] = bars.values()
    assert left.n == 0
    second.close()
    workers._draw(messages, bars)
    assert not bars
