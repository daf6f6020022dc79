"""Where the notebooks are, and how an exercise or a whole lesson is put back."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill_lab.errors import UserError
from distill_lab.files import write_text, written_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from distill_lab.exercises.registry import Lesson

SOLUTIONS, NOTEBOOKS = "solutions", "notebooks"
ANSWER_PREFIX = "answer-"  # of an answer cell's id, before the exercise's
NO_UPDATES = "jupyterlab.handlers.announcements.NeverCheckForUpdate"


# --- folders ------------------------------------------------------------------------------------


def find_root(*kinds: str) -> Path:
    """Find the nearest folder, from the working directory upwards, that has lessons.

    Args:
        kinds: ``"solutions"``, ``"notebooks"`` or both: the folders in which lessons may lie.

    Raises:
        UserError: There is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if any(has_lessons(folder / kind) for kind in kinds):
            return folder
    raise UserError(
        f"no {' or '.join(kinds)} folder with lessons in {here} or above; "
        "go to the course's folder, or give it with --root FOLDER"
    )


def has_lessons(folder: Path) -> bool:
    """Whether a folder has lessons, sources or notebooks."""
    return any(folder.glob("[0-9][0-9]_*"))


def source_path(root: Path, lesson: Lesson) -> Path:
    """Where the source of a lesson is: ``solutions/NN_name.py``."""
    return root / SOLUTIONS / f"{lesson.name}.py"


def notebook_path(root: Path, kind: str, lesson: Lesson) -> Path:
    """Where a notebook of a lesson is; ``kind`` is ``"notebooks"`` or ``"solutions"``."""
    return root / kind / f"{lesson.name}.ipynb"


def as_text(notebook: NotebookNode) -> str:
    """Give a notebook as its file has it."""
    import nbformat

    text: str = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return text + "\n"


def stars(difficulty: int) -> str:
    """Show a difficulty of 1 to 3: ``★★☆``."""
    return "★" * difficulty + "☆" * (3 - difficulty)


# --- a lesson as it was released ----------------------------------------------------------------


def pristine(lesson: Lesson, root: Path | None = None) -> NotebookNode:
    """Give the student notebook of a lesson as nobody has touched it yet.

    It is made from ``solutions/`` under ``root`` where that has the lesson, else it is the copy
    that the installed package carries, else it is made from the checkout the package runs in.

    Raises:
        UserError: None of the three is there.
    """
    _needs("nbformat")
    import nbformat

    package = Path(str(importlib.resources.files("distill_lab")))
    carried = notebook_path(package, NOTEBOOKS, lesson)
    if root is not None and source_path(root, lesson).is_file():
        return _made(root, lesson)
    if carried.is_file() and (root is None or not _is_in(carried, root / NOTEBOOKS)):
        notebook: NotebookNode = nbformat.read(carried, as_version=4)
        return notebook
    if source_path(package.parent, lesson).is_file():
        return _made(package.parent, lesson)
    raise UserError(
        f"no pristine copy of {lesson.name} is installed; reinstall distill-lab, or give a "
        "checkout with --root FOLDER"
    )


def _made(root: Path, lesson: Lesson) -> NotebookNode:
    from distill_lab.course.build import read_lesson, student_notebook

    return student_notebook(read_lesson(root, lesson))


def _is_in(path: Path, folder: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def keep_attempt(path: Path) -> Path:
    """Copy a notebook to the next free ``NAME.attempt-N.ipynb`` beside it, and give that path."""
    pattern = re.compile(re.escape(path.stem) + r"\.attempt-(\d+)\.ipynb")
    kept = [int(m[1]) for other in path.parent.iterdir() if (m := pattern.fullmatch(other.name))]
    attempt = path.with_name(f"{path.stem}.attempt-{max(kept, default=0) + 1}.ipynb")
    with written_whole(attempt) as temporary:
        shutil.copyfile(path, temporary)
    return attempt


def reset(lesson: Lesson, root: Path, exercise_id: str | None = None) -> Path | None:
    """Put a lesson's notebook, or the answer to one exercise in it, back to the stub.

    Args:
        root: The folder that has ``notebooks/``.
        exercise_id: Only this answer goes; everything else in the notebook stays as it is.

    Returns:
        Where the notebook was kept as it stood before; None if there was none.

    Raises:
        UserError: The lesson has no such exercise, the notebook no cell for it, or there is no
            pristine copy.
    """
    path = notebook_path(root, NOTEBOOKS, lesson)
    if exercise_id is None:
        text = as_text(pristine(lesson, root))
    else:
        text = _with_stub(lesson, root, path, exercise_id)
    attempt = keep_attempt(path) if path.is_file() else None
    write_text(path, text)
    return attempt


def _with_stub(lesson: Lesson, root: Path, path: Path, exercise_id: str) -> str:
    """Give the text of a notebook with one answer cell as it was released."""
    ids = [exercise.id for exercise in lesson.exercises]
    if exercise_id not in ids:
        raise UserError(f"{lesson.name} has no exercise {exercise_id!r}; choose {', '.join(ids)}")
    fresh = pristine(lesson, root)
    notebook = _read_attempt(path, lesson)
    cell, stub = (_answer_cell(nb, exercise_id, lesson) for nb in (notebook, fresh))
    cell.source = stub.source
    cell.metadata = stub.metadata
    cell.outputs, cell.execution_count = [], None
    return as_text(notebook)


def _read_attempt(path: Path, lesson: Lesson) -> NotebookNode:
    import nbformat

    if not path.is_file():
        raise UserError(f"no notebook {path}; run: distill-lab course reset {lesson.name}")
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        raise UserError(
            f"{path} is not a readable notebook ({type(error).__name__}); "
            f"run: distill-lab course reset {lesson.name} (the file is kept beside the new one)"
        ) from error
    return notebook


def _answer_cell(notebook: NotebookNode, exercise_id: str, lesson: Lesson) -> NotebookNode:
    """Find the answer cell by its grade_id, or else by its cell id."""
    name = ANSWER_PREFIX + exercise_id
    code: list[NotebookNode] = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [c for c in code if c.metadata.get("nbgrader", {}).get("grade_id") == name]
    found = found or [cell for cell in code if cell.get("id") == name]
    if len(found) == 1:
        return found[0]
    what = "no cell is" if not found else f"{len(found)} cells are"
    raise UserError(
        f"{what} marked as the answer to {exercise_id}; expected one: "
        f"{'delete the copies, or ' if found else ''}run: distill-lab course reset {lesson.name}"
    )


# --- JupyterLab ---------------------------------------------------------------------------------


def provide_notebooks(root: Path, lessons: Sequence[Lesson]) -> list[Path]:
    """Write the student notebooks that are not there yet, and give their paths."""
    written = []
    for lesson in lessons:
        path = notebook_path(root, NOTEBOOKS, lesson)
        if not path.exists():
            write_text(path, as_text(pristine(lesson)))
            written.append(path)
    return written


def open_lab(folder: Path, options: Sequence[str]) -> int:
    """Open JupyterLab on a folder, with this interpreter and its programs; give its exit status.

    Raises:
        UserError: JupyterLab is not installed.
    """
    _needs("jupyterlab")
    programs = str(Path(sys.executable).parent)  # nbgrader and Jupyter start others by name
    environment = os.environ | {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel before one of the user's
    }
    # No calls out for news or updates: a class may have no network.
    quiet = ["--LabApp.news_url=None", f"--LabApp.check_for_updates_class={NO_UPDATES}"]
    place = f"--ServerApp.root_dir={folder}"
    command = [sys.executable, "-m", "jupyterlab", place, *quiet, *options]
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(sys.executable, command, environment)  # Ctrl-C and signals go to JupyterLab
    return subprocess.call(command, env=environment)


def _needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{module} is not installed; the notebooks need: pip install 'distill-lab[notebooks]'"
        )
