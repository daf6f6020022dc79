"""Every notebook runs from its first cell to its last: unsolved, half solved, and solved.

nbval runs a notebook's cells one by one in a kernel; a cell that raises is a failed test. Outputs
are not compared: the notebooks hold none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_course_nbgrader import submissions

from distill_lab.course import build
from distill_lab.course.notebooks import as_text
from distill_lab.exercises.registry import find_lesson, lessons
from tests.answers import answered, answers_of, answers_only

ROOT = Path(__file__).parent.parent.parent
CELL_TIMEOUT = 300  # seconds

LESSONS = [lesson.name for lesson in lessons()]
MODES = {"notebooks": "unsolved", "solutions": "strict"}


class Nbval:
    """Runs nbval on notebooks, in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self, *notebooks: Path, strict: bool) -> tuple[set[str], str]:
        """Give the names of the notebooks in which a cell failed, and what nbval said."""
        environment = os.environ | {
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


@pytest.mark.slow
@pytest.mark.parametrize("folder", MODES)
@pytest.mark.parametrize("name", LESSONS)
def test_every_notebook_runs_to_its_end(
    name: str, folder: str, nbval: Nbval, record_property: Callable[[str, object], None]
) -> None:
    record_property("notebook", f"{folder}/{name}.ipynb")
    record_property("mode", MODES[folder])
    path = ROOT / folder / f"{name}.ipynb"
    assert path.is_file(), f"{folder}/{name}.ipynb is missing; run: distill-lab course build"
    failed, said = nbval(path, strict=folder == "solutions")
    assert not failed, f"{folder}/{name}.ipynb does not run to its end:\n{said}"


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
