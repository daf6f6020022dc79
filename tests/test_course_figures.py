"""What a student should see: each marked cell has its picture, with words, in both notebooks."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from distill_lab.course import build
from distill_lab.exercises.registry import Lesson, lessons

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "notebooks" / "figures"


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_every_marked_cell_is_followed_by_its_picture(lesson: Lesson) -> None:
    solved = build.read_lesson(ROOT, lesson)
    for notebook in (solved, build.student_notebook(solved)):
        marked = [k for k, cell in enumerate(notebook.cells) if "figure" in cell.metadata]
        assert marked
        for k in marked:
            path = build.figure_path(FIGURES, lesson, notebook.cells[k].metadata["figure"])
            shown = notebook.cells[k + 1]
            data = shown.attachments[path.name]["image/png"]
            assert base64.b64decode(data) == path.read_bytes()
            alt = re.search(r"!\[([^\]]+)\]", shown.source)
            assert alt and len(alt[1]) > 60 and "<details>" in shown.source


def test_no_picture_is_left_over() -> None:
    wanted = {
        build.figure_path(FIGURES, lesson, cell.metadata["figure"])
        for lesson in lessons()
        for cell in build.read_lesson(ROOT, lesson).cells
        if "figure" in cell.metadata
    }
    assert set(FIGURES.iterdir()) == wanted


def test_a_cell_without_its_picture_goes_without(tmp_path: Path) -> None:
    lesson = lessons()[0]
    source = (ROOT / "solutions" / f"{lesson.name}.py").read_text(encoding="utf-8")
    bare = build.solved_notebook(lesson, source, tmp_path)
    assert not any("attachments" in cell for cell in bare.cells)
