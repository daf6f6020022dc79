"""Lay out a course for those who run nbgrader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill_lab.course.build import read_lesson
from distill_lab.course.notebooks import as_text
from distill_lab.errors import UserError
from distill_lab.files import write_text

if TYPE_CHECKING:
    from distill_lab.exercises.registry import Lesson

CONFIG = """\
from distill_lab.course.stub import release_steps

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "distill-lab"

# nbgrader's own steps; only the stub names its exercise, so that a check can tell an exercise that
# was not attempted from one that fails.
c.GenerateAssignment.preprocessors = release_steps()

# Seconds a cell may take: a lesson that has to fine-tune its teacher first needs a minute or two.
c.Execute.timeout = 600
"""

README = """\
# distill-lab in nbgrader

Each lesson is an assignment of the same name; `source/` has its solved notebook. Here, in this
folder, with the course installed (`pip install 'distill-lab[notebooks]'`):

    nbgrader generate_assignment {first}

makes `release/{first}`, the notebook for students. Put what they hand in to
`submitted/STUDENT/{first}/{first}.ipynb`, then

    nbgrader autograde {first}
    nbgrader generate_feedback {first}
    nbgrader export

Points found without nbgrader go into the same gradebook (`OUT` is the folder with `grades.csv`):

    distill-lab course gradebook OUT --format nbgrader --to gradebook.db

Each exercise has a cell of its own in the gradebook. Its check gives points for every law that
holds, so an answer that is partly right has part of the points. nbgrader starts `alembic` and the
kernel by name: activate the environment first, so that its programs are found.

Submissions run with the rights of whoever grades, and share a process with their checks. Grade
what strangers hand in inside a container or on a machine of its own.

When the lessons change, lay the course out again, into the same folder: notebooks in `source/` are
written anew, `nbgrader_config.py`, once there, is left as it is.
"""


def lay_out(folder: Path, lessons: Sequence[Lesson], root: Path) -> Iterator[str]:
    """Lay out an nbgrader course from the sources under ``root``; give a line about each file.

    Raises:
        UserError: The folder holds something else, or a lesson cannot be made.
    """
    config = folder / "nbgrader_config.py"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the course")
    if folder.is_dir() and any(folder.iterdir()) and not config.is_file():
        raise UserError(f"{folder} is not empty and no nbgrader course; give a new folder")
    notebooks = {
        folder / "source" / x.name / f"{x.name}.ipynb": as_text(read_lesson(root, x))
        for x in lessons
    }
    texts = {folder / "README.md": README.format(first=lessons[0].name)} | notebooks
    if config.is_file():
        yield f"{config} is there already and left as it is"
    else:
        texts = {config: CONFIG} | texts
    for path, text in texts.items():
        write_text(path, text)
        yield f"{path} written"
