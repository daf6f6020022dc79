"""What tests and benchmarks of grading share: notebooks with answers in them, handed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from distill_lab.course.library import cut_out
from distill_lab.course.notebooks import ANSWER_PREFIX, as_text, notebook_path
from distill_lab.exercises.registry import Lesson

ROOT = Path(__file__).parent.parent


def answer_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """Give the answer cells by exercise."""
    marked = [cell for cell in notebook.cells if cell.get("id", "").startswith(ANSWER_PREFIX)]
    return {cell.id.removeprefix(ANSWER_PREFIX): cell for cell in marked}


def answers_of(notebook: NotebookNode) -> dict[str, str]:
    """Give the answer cells' text by exercise."""
    return {id: cell.source for id, cell in answer_cells(notebook).items()}


def worked_answers(lesson: Lesson) -> dict[str, str]:
    """Give the answers of the repository's solved notebook by exercise."""
    return answers_of(nbformat.read(notebook_path(ROOT, "solutions", lesson), as_version=4))


def answered(notebook: NotebookNode, answers: Mapping[str, str]) -> NotebookNode:
    """Give a notebook with these answers in it, by exercise; the others stay."""
    result: NotebookNode = nbformat.from_dict(notebook)
    for id, cell in answer_cells(result).items():
        cell.source = answers.get(id, cell.source)
    return result


def answers_only(notebook: NotebookNode) -> NotebookNode:
    """Leave out what gives no points: of the lesson's code, imports and ``use`` lines stay."""
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell is not first and "nbgrader" not in cell.metadata:
            cell.source = "\n".join(re.findall(r"^\w+ = use\(\w+\)", cell.source, re.MULTILINE))
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    return notebook


def answer_text(id: str, function: Callable[..., Any]) -> str:
    """Give the text of a cell that answers an exercise with a function of the tests."""
    source = cut_out([(function.__module__, function.__name__)])[function.__module__]
    return f"{source}\n{id} = {function.__name__}\n"


def hand_in(folder: Path, lesson: Lesson, notebook: NotebookNode | str) -> None:
    """Put a notebook of a lesson, or the text of one, into a student's folder."""
    text = notebook if isinstance(notebook, str) else as_text(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{lesson.name}.ipynb").write_text(text, encoding="utf-8")
