"""Laws of what a submission may have of the library while it is graded."""

from __future__ import annotations

import pytest
import torch

from distill_lab import losses
from distill_lab.course.judging import beginning
from distill_lab.course.library import cut_out, defined, home
from distill_lab.course.repair import Script
from distill_lab.exercises.registry import Exercise, exercises, find_exercise, lesson_of


def run(sources: dict[str, str], module: str) -> dict[str, object]:
    """Run one module's text by itself."""
    scope: dict[str, object] = {}
    exec(sources[module], scope)  # the library's own text
    return scope


def test_a_function_cut_out_computes_what_it_does_in_the_library() -> None:
    cut = run(cut_out([("distill_lab.losses", "kl_divergence")]), "distill_lab.losses")
    student, teacher = torch.randn(2, 5, 3)
    ours = cut["kl_divergence"](student, teacher, 2.0)  # type: ignore[operator]
    assert torch.equal(ours, losses.kl_divergence(student, teacher, 2.0))


def test_nothing_comes_with_a_function_that_it_does_not_need() -> None:
    names = {name for _, name in defined(cut_out([("distill_lab.losses", "kl_divergence")]))}
    assert "kl_divergence" in names
    assert not names & {"distillation_loss", "soften", "soft_cross_entropy", "attention_loss"}


def test_what_a_function_imports_comes_with_it_and_no_more() -> None:
    sources = cut_out([("distill_lab.exercises.student", "distillation_step")])
    assert {("distill_lab.exercises.student", "distillation_step")} < defined(sources)
    assert ("distill_lab.losses", "distillation_loss") in defined(sources)
    assert ("distill_lab.exercises.student", "train_epoch") not in defined(sources)


@pytest.mark.parametrize("exercise", exercises().values(), ids=lambda x: x.id)
def test_no_exercise_is_given_an_answer_of_its_lesson(exercise: Exercise) -> None:
    lesson = lesson_of(exercise)
    given = defined(beginning(exercise, Script((), {}, ()), [])["library"])
    assert not given & {home(other.reference) for other in lesson.exercises}


@pytest.mark.parametrize("exercise", exercises().values(), ids=lambda x: x.id)
def test_earlier_answers_that_failed_bring_neither_this_one_nor_a_later(exercise: Exercise) -> None:
    lesson = lesson_of(exercise)
    position = lesson.exercises.index(exercise)
    begin = beginning(exercise, Script((), {}, ()), lesson.exercises[:position])
    assert set(begin["replaced"]) == {x.id for x in lesson.exercises[:position]}
    kept_back = {home(other.reference) for other in lesson.exercises[position:]}
    assert not defined(begin["library"]) & kept_back


def test_an_answer_may_call_what_its_exercise_names() -> None:
    given = defined(beginning(find_exercise("train_epoch"), Script((), {}, ()), [])["library"])
    assert ("distill_lab.losses", "distillation_loss") in given
