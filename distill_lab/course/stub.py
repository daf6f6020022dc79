"""What stands in a student notebook where the answer goes, and nbgrader's steps that put it there.

A course's ``nbgrader_config.py`` names ``release_steps``, so that plain nbgrader makes the same
student notebooks as ``distill-lab course build``.
"""

from __future__ import annotations

from typing import Any

from nbgrader.converters import GenerateAssignment
from nbgrader.preprocessors import ClearSolutions
from nbgrader.utils import is_solution

from distill_lab.course.notebooks import ANSWER_PREFIX


def stub(exercise_id: str) -> str:
    """Give the line that stands for the answer; ``check`` knows by the name that none was given."""
    return (
        f'raise NotImplementedError("{exercise_id}: '
        'replace this line with your code, then run the check below")'
    )


class NamedStubs(ClearSolutions):  # type: ignore[misc]
    """nbgrader's ClearSolutions, which knows one stub a language, with a stub for each exercise."""

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        if is_solution(cell):
            name = cell.metadata.nbgrader.grade_id.removeprefix(ANSWER_PREFIX)
            self.code_stub = {**self.code_stub, "python": stub(name)}  # type: ignore[has-type]
        return super().preprocess_cell(cell, resources, cell_index)  # type: ignore[no-any-return]


def release_steps() -> list[type]:
    """Give the preprocessors of nbgrader's generate_assignment, with ``NamedStubs`` among them."""
    steps: list[type] = GenerateAssignment.preprocessors.default()
    return [NamedStubs if step is ClearSolutions else step for step in steps]
