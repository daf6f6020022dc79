"""Grade a folder of submissions: in a pool of processes or on a Dask cluster, resumable.

What is graded goes into ``grade.log.jsonl`` line by line, the first of which holds the settings and
the seed. ``grades.csv`` is made of it at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

import distill_lab
from distill_lab.course.feedback import feedback_html
from distill_lab.course.isolation import die_with_parent
from distill_lab.course.judging import (
    Judge,
    imports_of,
    ruled_out,
    unjudged,
)
from distill_lab.course.notebooks import pristine
from distill_lab.course.results import GRADES, SubmissionResult, grades_csv
from distill_lab.course.sandbox import WARNING, Confinement, WorkerFailed, why_no_sandbox
from distill_lab.course.submissions import Submission, find_submissions, folder_names
from distill_lab.errors import UserError
from distill_lab.exercises.local import one_line
from distill_lab.exercises.registry import Lesson, find_lesson
from distill_lab.files import make_folder, told_as_user_error, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

LOG, FEEDBACK, LOCK = "grade.log.jsonl", "feedback", ".grading"
LOG_VERSION = 1
SEED_BITS = 48
DASK_SECONDS = 10  # to reach the scheduler
MEGABYTE = 1 << 20
JUDGES_MEMORY = 4 << 30  # bytes of data

Judged = Callable[[Sequence[Submission]], Iterator[SubmissionResult]]


@dataclass(frozen=True)
class Settings:
    """All that a verdict depends on beside the submission.

    Attributes:
        seed: Of the secret inputs.
        confinement: How submissions are kept.
        released: The code of the lessons' notebooks as students got them, by name.
    """

    seed: int
    confinement: Confinement
    released: Mapping[str, NotebookNode]

    def as_json(self) -> dict[str, Any]:
        """Give what the log's first line says."""
        return {
            "grading": LOG_VERSION,
            "seed": self.seed,
            "versions": {
                "distill_lab": distill_lab.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "time_limit": self.confinement.seconds,
            "memory": self.confinement.memory // MEGABYTE,
            "sandbox": self.confinement.sandboxed,
            "lessons": {
                name: hashlib.sha256(json.dumps(notebook, sort_keys=True).encode()).hexdigest()
                for name, notebook in sorted(self.released.items())
            },
        }


def grade(
    submitted: Path,
    out: Path,
    *,
    lesson: Lesson | None = None,
    jobs: int = 1,
    seed: int | None = None,
    time_limit: int = 20,
    memory: int = 1024,
    require_sandbox: bool = False,
    resume: bool = False,
    dask: str | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
    watch: Callable[[Iterable[SubmissionResult], int], Iterable[SubmissionResult]] | None = None,
) -> list[SubmissionResult]:
    """Grade submissions; write ``grades.csv``, ``feedback/`` and ``grade.log.jsonl`` into ``out``.

    Args:
        submitted: What students handed in, as ``find_submissions`` takes it.
        out: A new folder, or with ``resume`` one where a grading has begun.
        lesson: Only this one's submissions.
        jobs: How many processes judge.
        seed: Of the secret inputs; else drawn.
        time_limit: Seconds an exercise may take.
        memory: Megabytes it may take, beyond what Python and torch do.
        require_sandbox: Refuse where bubblewrap does not work.
        resume: Go on where an earlier grading was broken off.
        dask: Address of a Dask scheduler to send submissions to.
        root: The course's folder; else the lessons that are installed.
        say: Told what the instructor should know.
        watch: Given the results as they come, and how many there will be, to show progress.

    Returns:
        A result for each submission, by student and lesson.

    Raises:
        UserError: Something about the arguments; nothing has been graded then.
    """
    with _only_one(out):
        log = Log(out, resume)
        found = find_submissions(submitted, lesson, say)
        settings = _settings(found, log.seed if seed is None else seed, time_limit, memory, root)
        if why := why_no_sandbox():
            if require_sandbox:
                raise UserError(f"no working sandbox ({why}); --require-sandbox refuses to grade")
            say(WARNING.format(why=why))
            confinement = replace(settings.confinement, sandboxed=False)
            settings = replace(settings, confinement=confinement)
        judged = _dask(dask, settings) if dask else _pool(jobs, settings)
        done = log.begin(settings, found)
        left = [submission for submission in found if _key(submission) not in done]
        if done:
            say(f"{len(done)} of {len(found)} were graded before")
        results = list(done.values())
        new = judged(left)
        for result in watch(new, len(left)) if watch else new:
            log.add(result)
            results.append(result)
        results.sort(key=lambda r: (r.student, r.lesson))
        folders = folder_names(result.student for result in results)
        for result in results:
            page = feedback_html(result, find_lesson(result.lesson))
            write_text(out / FEEDBACK / folders[result.student] / f"{result.lesson}.html", page)
        write_text(out / GRADES, grades_csv(results))
    return results


def _settings(
    found: Sequence[Submission], seed: int | None, time_limit: int, memory: int, root: Path | None
) -> Settings:
    """Put together what all submissions share; the seed is drawn where none is given."""
    lessons = [find_lesson(name) for name in sorted({submission.lesson for submission in found})]
    released = {x.name: _code(pristine(x, root)) for x in lessons}
    confinement = Confinement(
        True, memory * MEGABYTE, time_limit, imports_of(released), ruled_out(lessons)
    )
    return Settings(secrets.randbits(SEED_BITS) if seed is None else seed, confinement, released)


def _code(notebook: NotebookNode) -> NotebookNode:
    """Leave out of a notebook what is not code: pictures travel to every process otherwise."""
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return notebook


def _key(submission: Submission) -> tuple[str, str, str]:
    return submission.student, submission.lesson, submission.sha256


# --- the log ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Let one grading at a time write into a folder, which is made where it is missing.

    Raises:
        UserError: Another is at it, or the folder cannot be written.
    """
    with told_as_user_error(out):
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; give a folder")
        make_folder(out)
        lock = FileLock(out / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another grading is writing into {out}; wait for it") from None
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            (out / LOCK).unlink()
            out.rmdir()  # where nothing has been written


class Log:
    """``grade.log.jsonl``: the settings, then a line for each graded submission.

    Raises:
        UserError: The folder holds something else, or a grading that is not to be resumed.
    """

    def __init__(self, out: Path, resume: bool) -> None:
        self.path = out / LOG
        self._head: dict[str, Any] = {}
        self._results: list[SubmissionResult] = []
        if self.path.is_file():
            if not resume:
                raise UserError(
                    f"{out} holds a grading already; go on with it with --resume, or give a new "
                    "folder"
                )
            self._read()
        elif any(path.name != LOCK for path in out.iterdir()):
            raise UserError(f"--out {out} is not empty and no grading; give a new folder")

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")[:-1]  # a broken last line has no end
        try:
            head, *results = [json.loads(line) for line in lines]
            self._results = [SubmissionResult.from_json(result) for result in results]
            if head["grading"] != LOG_VERSION:
                raise ValueError
            self._head = head
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is no log of a grading of this version; give a new folder"
            ) from error

    @property
    def seed(self) -> int | None:
        """The seed of the grading that is resumed."""
        return self._head.get("seed")

    def begin(
        self, settings: Settings, found: Sequence[Submission]
    ) -> dict[tuple[str, str, str], SubmissionResult]:
        """Write the first line, or compare it; give what is graded already of what was found.

        Raises:
            UserError: The grading that is resumed had other settings.
        """
        head = settings.as_json()
        differing = [name for name in head if self._head and head[name] != self._head.get(name)]
        if differing:
            raise UserError(
                f"the grading in {self.path.parent} was begun with another "
                f"{' and '.join(differing)}; repeat its options, or give a new folder"
            )
        wanted = set(map(_key, found))
        kept = [r for r in self._results if (r.student, r.lesson, r.sha256) in wanted]
        lines = [head, *(result.as_json() for result in kept)]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        return {(r.student, r.lesson, r.sha256): r for r in kept}

    def add(self, result: SubmissionResult) -> None:
        """Append a result; it is on the disk when this returns."""
        with told_as_user_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.as_json()) + "\n")
            file.flush()
            os.fsync(file.fileno())


# --- who judges ---------------------------------------------------------------------------------

_judge: tuple[Settings, Judge] | None = None
_judging = threading.Lock()


def grade_one(settings: Settings, submission: Submission) -> SubmissionResult:
    """Grade a submission in this process, with a judge that is kept for the next.

    Raises:
        WorkerFailed: No worker can be started.
    """
    lesson = find_lesson(submission.lesson)
    with _judging:  # a Dask worker has several threads
        try:
            return _judge_for(settings).grade(submission, lesson)
        except WorkerFailed:
            raise
        except Exception as error:  # one submission never stops the rest
            return unjudged(submission, lesson, f"{type(error).__name__}: {one_line(error)}")


def _judge_for(settings: Settings) -> Judge:
    """Give this process's judge, a new one where the last had other settings."""
    global _judge
    if _judge is None or _judge[0] != settings:
        if _judge is not None:
            _judge[1].close()
        torch.set_num_threads(1)  # there is a judge for each core
        _judge = settings, Judge(settings.confinement, settings.seed, settings.released)
    return _judge[1]


def _pool(jobs: int, settings: Settings) -> Judged:
    """Judge in processes of this machine."""

    def graded(submissions: Sequence[Submission]) -> Iterator[SubmissionResult]:
        left = {_key(submission): submission for submission in submissions}
        while left:
            try:
                with _processes(min(jobs, len(left)), settings) as pool:
                    for result in _through(pool, left.values()):
                        del left[result.student, result.lesson, result.sha256]
                        yield result
            except BrokenProcessPool:  # a judge has died, over which submission nobody knows
                yield from _one_by_one(settings, left)

    return graded


def _processes(jobs: int, settings: Settings) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(os.getpid(), settings),
    )


def _begin_process(parent: int, settings: Settings) -> None:
    """Leave an interrupt to the process that started this one, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    # What a submission answers may make a sum of the judge's large: better an error than the
    # machine's memory.
    resource.setrlimit(resource.RLIMIT_DATA, (JUDGES_MEMORY, JUDGES_MEMORY))
    _judge_for(settings)


def _grade_here(submission: Submission) -> SubmissionResult:
    """Grade a submission in a process of the pool, which has its judge."""
    assert _judge is not None
    return grade_one(_judge[0], submission)


def _through(pool: Executor, submissions: Iterable[Submission]) -> Iterator[SubmissionResult]:
    futures = [pool.submit(_grade_here, submission) for submission in submissions]
    try:
        for future in as_completed(futures):
            try:
                yield future.result()
            except WorkerFailed as error:
                raise UserError(f"submissions cannot be run: {error}") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _one_by_one(
    settings: Settings, left: dict[tuple[str, str, str], Submission]
) -> Iterator[SubmissionResult]:
    """Judge each in a process of its own, until one is found over which the judge dies."""
    for key, submission in list(left.items()):
        del left[key]
        try:
            with _processes(1, settings) as pool:
                yield from _through(pool, [submission])
        except BrokenProcessPool:
            lesson = find_lesson(submission.lesson)
            yield unjudged(submission, lesson, "the judge's own process has died over it")
            return


def _dask(address: str, settings: Settings) -> Judged:
    """Judge on the workers of a Dask cluster.

    Raises:
        UserError: distributed is not installed, or the cluster cannot be reached.
    """
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ModuleNotFoundError as error:
        raise UserError(
            "distributed is not installed; install it with: pip install 'distill-lab[dask]'"
        ) from error
    try:
        client = Client(address, timeout=DASK_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address}; give one's address, such as tcp://host:8786"
        ) from error

    def graded(submissions: Sequence[Submission]) -> Iterator[SubmissionResult]:
        with client, client.as_current():
            shared = client.scatter(settings, broadcast=True)
            futures = [client.submit(grade_one, shared, s, pure=False) for s in submissions]
            try:
                for future in completed(futures):
                    yield future.result()
            except WorkerFailed as error:
                raise UserError(f"submissions cannot be run: {error}") from error

    return graded
