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
from distill_lab.workers import check_at_once, how_many, progress_bar, side_by_side

CPU = torch.device("cpu")
LONG = [1000] * 3
GIB = 2**30
SMALL, BERT_BASE = 4_400_000, 110_000_000
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


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let this machine have so many bytes of memory."""
    return lambda size: monkeypatch.setattr(workers, "_memory", lambda: size)


@posix
@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_each_training_has_a_thread_or_more(
    count: int, wanted: int, memory: Callable[[int], None]
) -> None:
    memory(64 * GIB)
    with threads(count):
        assert how_many(LONG, SMALL, CPU) == wanted


@posix
@pytest.mark.parametrize(
    ("gib", "parameters", "wanted"),
    [(2, SMALL, 1), (4, SMALL, 1), (9, SMALL, 3), (17, SMALL, 7), (17, BERT_BASE, 3)],
)
def test_trainings_side_by_side_have_room_in_memory(
    gib: int, parameters: int, wanted: int, memory: Callable[[int], None]
) -> None:
    memory(gib * GIB)
    with threads(64):
        assert how_many(LONG * 10, parameters, CPU) == wanted


@posix
def test_the_memory_is_what_the_machine_or_the_container_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text(f"{GIB}\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(workers, "LIMITS", (str(unlimited), str(tmp_path / "nowhere")))
    assert workers._memory() == psutil.virtual_memory().total
    monkeypatch.setattr(workers, "LIMITS", (str(unlimited), str(limit)))
    assert workers._memory() == GIB


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("steps", [[9000], [9000, 20], [100, 100]])
def test_no_process_is_started_for_what_is_done_before_it_is_ready(steps: list[int]) -> None:
    assert how_many(steps, SMALL, CPU) == 1


@pytest.mark.usefixtures("two_threads")
def test_an_accelerator_trains_one_at_a_time() -> None:
    cuda = torch.device("cuda")
    assert how_many(LONG, SMALL, cuda) == 1
    check_at_once(None, cuda)
    check_at_once(1, cuda)
    with pytest.raises(UserError, match=r"at once is 2; students are .* on CPUs only: give 1"):
        check_at_once(2, cuda)


@posix
def test_fewer_than_one_at_a_time_are_refused() -> None:
    check_at_once(3, CPU)
    with pytest.raises(UserError, match="at once is 0; expected 1 or more"):
        check_at_once(0, CPU)


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
    with pytest.raises(UserError, match=r"memory runs out.*--at-once 1") as caught:
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
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert soon(lambda: len(list(tmp_path.iterdir())) == 2)
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert all(is_alive(process) for process in started)
    if number == "SIGINT":  # as a terminal does, which tells all of them
        os.killpg(parent.pid, signal.SIGINT)
    else:
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
