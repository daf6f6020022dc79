"""Laws of the class that the grading benchmark makes up; the benchmark itself is not run."""

from __future__ import annotations

import ast
import json
from collections import Counter

import nbformat
import pytest

from benchmarks.grading import KINDS, SAMPLED, SUBMISSIONS, Submission, stripped, submissions
from distill_lab.exercises.registry import find_lesson

LESSON = find_lesson("3")


@pytest.fixture(scope="module")
def made() -> list[Submission]:
    return submissions(LESSON)


def test_there_are_200_of_the_four_kinds_of_as_many_students(made: list[Submission]) -> None:
    assert len(made) == SUBMISSIONS == 200
    assert Counter(submission.kind for submission in made) == dict.fromkeys(KINDS, 50)
    assert len({submission.student for submission in made}) == 200


def test_the_same_ones_are_made_each_time(made: list[Submission]) -> None:
    assert submissions(LESSON) == made


def test_answers_differ_from_student_to_student(made: list[Submission]) -> None:
    assert len({submission.text for submission in made}) > 100


def test_what_both_grade_is_a_whole_notebook_and_answers_as_its_kind_says(
    made: list[Submission],
) -> None:
    for submission in made:
        if submission.kind in SAMPLED:
            notebook = nbformat.reads(submission.text, as_version=4)
            nbformat.validate(notebook)
            answers = [cell.source for cell in notebook.cells if cell.id.startswith("answer-")]
            stubs = sum("NotImplementedError" in answer for answer in answers)
            assert 0 < stubs < len(answers) if submission.kind == "half" else not stubs


def test_broken_ones_are_broken_in_four_ways(made: list[Submission]) -> None:
    split, unmarked, misspelt, cut_off = [s.text for s in made if s.kind == "broken"][:4]
    answers = [id for id in (c.id for c in cells(split)) if id.startswith("answer-")]
    assert len(answers) == 2 * len(LESSON.exercises)
    assert "grade_id" not in unmarked and '"id"' not in unmarked
    with pytest.raises(SyntaxError):
        ast.parse(next(c.source for c in cells(misspelt) if c.id.startswith("answer-")))
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut_off)


def test_stripping_leaves_imports_answers_checks_and_use(made: list[Submission]) -> None:
    whole, bare = cells(made[0].text), cells(stripped(made[0].text))
    code = [cell for cell in bare if cell.cell_type == "code"]
    assert code[0].source == next(cell.source for cell in whole if cell.cell_type == "code")
    graded = [cell.source for cell in whole if "nbgrader" in cell.metadata]
    used = [f"{exercise.id} = use({exercise.id})" for exercise in LESSON.exercises]
    assert sorted(cell.source for cell in code[1:]) == sorted(graded + used)


def cells(text: str) -> list[nbformat.NotebookNode]:
    return list(nbformat.reads(text, as_version=4).cells)
