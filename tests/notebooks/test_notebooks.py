"""Every notebook runs from its first cell to its last: unsolved, half solved, and solved.

nbval runs a notebook's cells one by one in a kernel; a cell that raises is a failed test. Outputs
are not compared: the notebooks hold none. Most cells keep one core busy, so the notebooks as they
are go through two at a time, in the order of their tests, each with half of the cores.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from test_course_nbgrader import submissions

from distill_lab.course import build
from distill_lab.course.notebooks import as_text
from distill_lab.exercises.registry import find_lesson, lessons
from tests.answers import answered, answers_of, answers_only

ROOT = Path(__file__).parent.parent.parent
CELL_TIMEOUT = 300  # seconds
AT_A_TIME = 2

LESSONS = [lesson.name for lesson in lessons()]
MODES = {"notebooks": "unsolved", "solutions": "strict"}


class Nbval:
    """Runs nbval on notebooks, in a process of its own.

    Args:
        data: Where the lessons keep progress.
        threads: Of each notebook's computations; None: as many as torch takes.
    """

    def __init__(self, data: Path, threads: int | None = None) -> None:
        self.data = data
        self.threads = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}

    def __call__(self, *notebooks: Path, strict: bool) -> tuple[set[str], str]:
        """Give the names of the notebooks in which a cell failed, and what nbval said."""
        environment = {
            **os.environ,
            **self.threads,
            "DISTILL_LAB_DATA": str(self.data),  # nobody's progress is touched
            "DISTILL_LAB_STRICT": "1" if strict else "",
            "NO_COLOR": "1",
            "PYTEST_ADDOPTS": "",
        }
        options = ["--nbval-lax", f"--nbval-cell-timeout={CELL_TIMEOUT}", "--color=no", "-q", "-rf"]
        folder = notebooks[0].parent
        alone = ["-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *alone, *map(str, notebooks)],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        failed = set(re.findall(r"^FAILED (\S+)\.ipynb::", said, re.MULTILINE))
        assert done.returncode == (1 if failed else 0), said
        return failed, said


@pytest.fixture
def nbval(tmp_path: Path) -> Nbval:
    return Nbval(tmp_path / "data")


# --- the lessons as they are --------------------------------------------------------------------


class Run(NamedTuple):
    """What came of a notebook: the seconds it took, and what nbval said if a cell failed."""

    seconds: float
    said: str


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[Run]]]:
    """Run the notebooks that the selected tests ask for; those not waited for are not begun."""
    threads = max(1, (os.cpu_count() or 1) // AT_A_TIME)

    def run(path: Path) -> Run:
        nbval = Nbval(tmp_path_factory.mktemp("data"), threads)
        start = time.perf_counter()
        failed, said = nbval(path, strict=path.parent.name == "solutions")
        return Run(time.perf_counter() - start, said if failed else "")

    asked = [
        notebook(item.callspec.params["folder"], item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == test_every_notebook_runs_to_its_end.__name__
    ]
    pool = ThreadPoolExecutor(AT_A_TIME)
    try:
        yield {path: pool.submit(run, path) for path in asked}
    finally:
        pool.shutdown(cancel_futures=True)


def notebook(folder: str, name: str) -> Path:
    return ROOT / folder / f"{name}.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize("folder", MODES)
@pytest.mark.parametrize("name", LESSONS)
def test_every_notebook_runs_to_its_end(
    name: str,
    folder: str,
    runs: dict[Path, Future[Run]],
    record_property: Callable[[str, object], None],
) -> None:
    path = notebook(folder, name)
    assert path.is_file(), f"{folder}/{name}.ipynb is missing; run: distill-lab course build"
    seconds, said = runs[path].result()
    for key, value in {
        "notebook": f"{folder}/{name}.ipynb",
        "mode": MODES[folder],
        "seconds": seconds,
    }.items():
        record_property(key, value)
    assert not said, f"{folder}/{name}.ipynb does not run to its end:\n{said}"


# --- what is wrong is red, what is not finished is green ------------------------------------------
# Here without the lessons' demonstrations, which take a minute and are run above.


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_solution_broken_in_any_exercise_is_red(name: str, nbval: Nbval, tmp_path: Path) -> None:
    lesson = find_lesson(name)
    solved = answers_only(build.read_lesson(ROOT, lesson))
    right = answers_of(solved)
    (tmp_path / "right.ipynb").write_text(as_text(solved), encoding="utf-8")
    for exercise in lesson.exercises:
        wrong = f"{right[exercise.id]}\n\ndef {exercise.signature}:\n    return 0.0"
        broken = as_text(answered(solved, {exercise.id: wrong}))
        (tmp_path / f"{exercise.id}.ipynb").write_text(broken, encoding="utf-8")
    failed, said = nbval(*tmp_path.glob("*.ipynb"), strict=True)
    assert failed == {exercise.id for exercise in lesson.exercises}, said
    assert all(f'check("{exercise.id}", {exercise.id})' in said for exercise in lesson.exercises)


@pytest.mark.slow
def test_unsolved_is_red_in_strict_mode_and_half_solved_is_green_else(
    nbval: Nbval, tmp_path: Path
) -> None:
    for name in LESSONS:
        lesson = find_lesson(name)
        solved = answers_only(build.read_lesson(ROOT, lesson))
        for submission in submissions(solved, build.student_notebook(solved)):
            path = tmp_path / f"{submission.student}_{name}.ipynb"
            path.write_text(as_text(submission.notebook), encoding="utf-8")
    failed, said = nbval(*tmp_path.glob("half_*.ipynb"), strict=False)
    assert not failed, said
    failed, said = nbval(*tmp_path.glob("*.ipynb"), strict=True)
    assert failed == {f"{kind}_{name}" for kind in ("half", "unsolved") for name in LESSONS}, said
