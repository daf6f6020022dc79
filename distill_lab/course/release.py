"""Lay out what students get: notebooks without answers, a README, what to install."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill_lab import __version__
from distill_lab.course.build import BEGIN, answer_line_in, read_lesson, student_notebook
from distill_lab.course.notebooks import NOTEBOOKS, SOLUTIONS, as_text, find_root, pristine
from distill_lab.course.stub import stub
from distill_lab.errors import UserError
from distill_lab.files import read_json, told_as_user_error, write_json, write_text

if TYPE_CHECKING:
    from distill_lab.exercises.registry import Lesson

MANIFEST = "release.json"  # what was released, by hash: a file that differs is somebody's work

REQUIREMENTS = f"""\
# Where the course's wheel lies beside this file, it is taken from here.
--find-links .
distill-lab[notebooks]=={__version__}
"""

README = """\
# Knowledge distillation: the lessons

| Notebook | | Minutes | Points |
|:---|:---|---:|---:|
{rows}

## Install

With Python 3.11 or newer, in this folder:

    python3 -m venv .venv
    . .venv/bin/activate
    pip install -r requirements.txt

On Windows: `python -m venv .venv`, then `.venv\\Scripts\\activate`, then pip as above.

## Work

    distill-lab lab

opens JupyterLab on `notebooks/`. Run the cells of a lesson from top to bottom. An exercise is a
function whose first line is given: replace the line that raises `NotImplementedError`, run the
cell, then the check below it. The check tries the laws that your function must keep (✓ holds,
✗ fails, ○ was not tried) and shows why the first fails, with a hint. Nothing is sent anywhere.

To begin again, with your attempt kept beside the notebook:

    distill-lab course reset {first}

## Hand in

Save the notebook and hand in that one file, its name unchanged: `{first}.ipynb`. What counts is in
the cells of the exercises; you may add cells, but keep these, and do not rename the functions.
Grading runs the same checks, with other inputs.
"""


def lay_out(folder: Path, lessons: Sequence[Lesson], root: Path | None) -> Iterator[str]:
    """Lay out a release in a new folder, or bring one up to date; give a line about each file.

    A release made before keeps its other lessons, and README and requirements that somebody edited.

    Args:
        folder: Where the release is, or will be.
        lessons: What is released, or released anew.
        root: The course's folder; else the nearest one above that has the sources, else the
            notebooks come from the installed package.

    Raises:
        UserError: The folder holds something else, a notebook in it is not as it was released, a
            lesson cannot be made, or would be released with a line of an answer. Nothing is
            written then.
    """
    released = _released(folder)
    sources = root.resolve() if root else _nearest_sources()
    notebooks = {f"{NOTEBOOKS}/{x.name}.ipynb": _notebook(x, sources) for x in lessons}
    for name, text in notebooks.items():
        if _is_edited(folder, name, text, released):
            raise UserError(
                f"{folder / name} is not as it was released: somebody's answers may be in it; "
                "move it away, then repeat"
            )
    texts = {"README.md": _readme(lessons, released), "requirements.txt": REQUIREMENTS} | notebooks
    if not released:  # so that what a full disk cuts short is still known for a release
        write_json(folder / MANIFEST, {"files": {}})
    for name, text in texts.items():
        path = folder / name
        if _is_edited(folder, name, text, released):
            yield f"{path} was edited and is left as it is"
            continue
        written = not path.is_file() or _file_hash(path) != _hash(text)
        if written:
            write_text(path, text)
        released[name] = _hash(text)
        yield f"{path} {'written' if written else 'is up to date'}"
    write_json(folder / MANIFEST, {"files": dict(sorted(released.items()))})
    if not any(folder.glob("distill_lab-*.whl")):
        yield f"students install the course's wheel: pip wheel --no-deps --wheel-dir {folder} ."


def _released(folder: Path) -> dict[str, str]:
    """Give the hash of each file of a release made before; refuse a folder that is none."""
    with told_as_user_error(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give a folder for the release")
        if not folder.is_dir() or not any(folder.iterdir()):
            return {}
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{folder} is not empty and no release; give a new folder")
    return dict(files)


def _nearest_sources() -> Path | None:
    try:
        return find_root(SOLUTIONS)
    except UserError:
        return None


def _notebook(lesson: Lesson, sources: Path | None) -> str:
    """Give the text of a student notebook, and be sure that it has no answers."""
    solved = read_lesson(sources, lesson) if sources else None
    text = as_text(student_notebook(solved) if solved else pristine(lesson))
    line = answer_line_in(text, solved) if solved else ""
    if not line and BEGIN in text:
        line = BEGIN
    unanswered = all(stub(x.id).replace('"', '\\"') in text for x in lesson.exercises)
    if line or not unanswered:
        raise UserError(
            f"{lesson.name}.ipynb would be released with an answer in it"
            f"{f' ({line!r})' if line else ''}; mend its source, then repeat"
        )
    return text


def _readme(lessons: Sequence[Lesson], released: dict[str, str]) -> str:
    from distill_lab.exercises import registry

    names = {x.name for x in lessons}
    shown = [
        x
        for x in registry.lessons()
        if x.name in names or f"{NOTEBOOKS}/{x.name}.ipynb" in released
    ]
    rows = [f"| `{x.name}.ipynb` | {x.title} | {x.minutes} | {x.points:g} |" for x in shown]
    return README.format(rows="\n".join(rows), first=shown[0].name)


def _is_edited(folder: Path, name: str, text: str, released: dict[str, str]) -> bool:
    path = folder / name
    known = (released.get(name), _hash(text))
    return path.exists() and (not path.is_file() or _file_hash(path) not in known)


def _file_hash(path: Path) -> str:
    """Give the hash of a file's text, whatever its ends of lines are."""
    return _hash(path.read_text(encoding="utf-8", errors="surrogateescape"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
