"""One batch of submissions that attack the grader, and honest ones beside them.

It is graded as an instructor would: with the command's own function, two judges, short limits.
Nobody gets points for what he has not done, nobody else loses any, and nothing stays behind.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from distill_lab.course.grade import FEEDBACK, GRADES, LOG, grade
from distill_lab.course.notebooks import pristine
from distill_lab.course.results import COLUMNS, ExerciseResult, SubmissionResult
from distill_lab.exercises.registry import Lesson, find_lesson
from tests.answers import answered, hand_in, worked_answers
from tests.attacks.attack import Attack
from tests.attacks.harming import MARK, PORT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODULES = ("forging", "harming", "reading", "collecting")
SEED = 987_654_321_012
SECONDS, MEGABYTES = 3, 512
WATCHED = ("/tmp", "/var/tmp", "/dev/shm", "/run", str(ROOT), str(Path.home()))
GIGABYTE = 1 << 30


def _collected() -> list[Attack]:
    names = [f"tests.attacks.{name}" for name in MODULES]
    found = [import_module(name) for name in names if find_spec(name)]
    return [attack for module in found for attack in getattr(module, "ATTACKS", [])]


ATTACKS = _collected()
LESSONS = sorted({attack.lesson for attack in ATTACKS})


# --- notebooks ----------------------------------------------------------------------------------


@cache
def _released(number: int) -> NotebookNode:
    return pristine(find_lesson(str(number)), ROOT)


def hostile(attack: Attack) -> NotebookNode:
    """Make the notebook that an attacker hands in."""
    notebook = answered(_released(attack.lesson), attack.answers)
    first, last = (
        [new_code_cell(source, id=f"{where}-{k}") for k, source in enumerate(sources)]
        for where, sources in (("first", attack.first), ("last", attack.last))
    )
    notebook.cells = [*first, *notebook.cells, *last]
    return notebook


def honest(lesson: Lesson) -> NotebookNode:
    """Make the notebook of a student who has solved everything."""
    return answered(_released(lesson.number), worked_answers(lesson))


# --- the batch ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What can be seen of the machine from outside."""

    processes: dict[int, str]
    files: frozenset[str]
    sockets: frozenset[str]


def _world() -> World:
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name = (entry / "comm").read_text().strip()
                if "resource_tracker" in (entry / "cmdline").read_text():  # multiprocessing's own
                    continue
                parents = _ancestors(int(entry.name))
            except OSError:
                continue
            if os.getpid() in parents or name == MARK[:15]:
                processes[int(entry.name)] = name
    files = {
        f"{folder}/{name}"
        for folder in WATCHED
        if os.path.isdir(folder)
        for name in os.listdir(folder)
    }
    listening = {
        line.split()[-1] if path.endswith("unix") else line.split()[1]
        for path in ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/unix")
        if os.path.exists(path)
        for line in Path(path).read_text().splitlines()[1:]
        if path.endswith("unix") or " 0A " in line
    }
    return World(
        processes, frozenset(files), frozenset(s for s in listening if MARK in s or ":" in s)
    )


def _ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@dataclass(frozen=True)
class Batch:
    """What became of the batch.

    Attributes:
        results: By student and lesson.
        out: What ``grade`` has written.
        before, after: The machine around it.
        seconds: It took.
        peak: Bytes of the largest process that it had.
        connected: Where somebody connected to the tests' own sockets.
        temporary: What is left in the folder for temporary files that it was given.
    """

    results: dict[tuple[str, int], SubmissionResult]
    out: Path
    before: World
    after: World
    seconds: float
    peak: int
    connected: list[str]
    temporary: list[str]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    """All attacks and, in front, between and behind them, honest submissions; graded."""
    folder = tmp_path_factory.mktemp("batch")
    submitted = folder / "submitted"
    submitted.mkdir()
    for attack in ATTACKS:
        hand_in(submitted / attack.name, find_lesson(str(attack.lesson)), hostile(attack))
    for lesson in map(find_lesson, map(str, LESSONS)):
        for student in ("000-ada", "m-emmy", "zzz-zeno"):
            hand_in(submitted / student, lesson, honest(lesson))
    temporary = folder / "temporary"
    temporary.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.create_server(("127.0.0.1", PORT)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", None)
        unix.bind(f"\0{MARK}")
        unix.listen()
        before, start = _world(), time.monotonic()
        results = grade(
            submitted,
            folder / "out",
            jobs=2,
            seed=SEED,
            time_limit=SECONDS,
            memory=MEGABYTES,
            require_sandbox=True,
            root=ROOT,
            say=lambda line: None,
        )
        seconds = time.monotonic() - start
        ready, _, _ = select.select([tcp, unix], [], [], 0)
        connected = [str(one.getsockname()) for one in ready]
        _wait_for(before)
        after = _world()
    yield Batch(
        {(r.student, int(r.lesson[:2])): r for r in results},
        folder / "out",
        before,
        after,
        seconds,
        1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        connected,
        os.listdir(temporary),
    )


def _wait_for(before: World, seconds: float = 10) -> None:
    """Let the pool's processes end."""
    deadline = time.monotonic() + seconds
    while set(_world().processes) - set(before.processes) and time.monotonic() < deadline:
        time.sleep(0.1)


# --- what it is due -----------------------------------------------------------------------------


def _exercises(batch: Batch, student: str, lesson: int) -> dict[str, ExerciseResult]:
    return {one.exercise: one for one in batch.results[student, lesson].exercises}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_what_it_has_worked_for(batch: Batch, attack: Attack) -> None:
    graded = _exercises(batch, attack.name, attack.lesson)
    due = {exercise: attack.points.get(exercise, 0.0) for exercise in graded}
    assert {exercise: one.points for exercise, one in graded.items()} == due
    first = next(iter(attack.answers), next(iter(graded)))
    assert attack.says in graded[first].reason


@pytest.mark.parametrize("number", LESSONS)
@pytest.mark.parametrize("student", ["000-ada", "m-emmy", "zzz-zeno"])
def test_the_honest_beside_them_get_all(batch: Batch, student: str, number: int) -> None:
    for one in batch.results[student, number].exercises:
        assert (one.points, one.status, one.reason) == (one.possible, "passed", "")


# --- the batch as a whole -----------------------------------------------------------------------


def test_every_submission_has_a_result(batch: Batch) -> None:
    handed_in = {(attack.name, attack.lesson) for attack in ATTACKS}
    handed_in |= {(name, n) for name in ("000-ada", "m-emmy", "zzz-zeno") for n in LESSONS}
    assert set(batch.results) == handed_in
    assert all(r.exercises for r in batch.results.values())
    assert len((batch.out / LOG).read_text().splitlines()) == 1 + len(handed_in)
    rows = (batch.out / GRADES).read_text().splitlines()
    assert rows[0] == ",".join(COLUMNS)
    assert len(rows) == 1 + sum(len(r.exercises) for r in batch.results.values())


def test_nobody_has_connected(batch: Batch) -> None:
    assert batch.connected == []


def test_no_process_is_left(batch: Batch) -> None:
    left = {p: n for p, n in batch.after.processes.items() if p not in batch.before.processes}
    assert left == {}


def test_no_file_is_left(batch: Batch) -> None:
    assert [path for path in batch.after.files - batch.before.files if MARK in path] == []
    assert batch.temporary == []


def test_no_socket_is_left(batch: Batch) -> None:
    assert [s for s in batch.after.sockets - batch.before.sockets if MARK in s] == []


def test_no_process_has_grown_beyond_its_limit(batch: Batch) -> None:
    assert batch.peak < 1.5 * GIGABYTE


def test_the_time_limit_holds(batch: Batch) -> None:
    """Twice a limit for each exercise, shared by two judges, would be the worst."""
    worst = sum(2 * SECONDS * len(r.exercises) for r in batch.results.values()) / 2
    assert batch.seconds < 60 + worst / 2


def test_no_reason_has_what_is_secret_or_does_harm(batch: Batch) -> None:
    for result in batch.results.values():
        for one in result.exercises:
            for text in (one.reason, *(contract.reason for contract in one.contracts)):
                assert str(SEED) not in text
                assert text.isprintable()
                assert len(text) < 600


def test_no_feedback_has_what_a_browser_would_run(batch: Batch) -> None:
    pages = list((batch.out / FEEDBACK).rglob("*.html"))
    assert len(pages) == len(batch.results)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert "<img src=x" not in text
