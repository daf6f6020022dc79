"""``check`` and ``use``: what they do for a student, in strict mode, and under nbgrader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_lab.errors import UserError
from distill_lab.exercises import CheckFailed, check, progress, use
from distill_lab.exercises.display import CheckResult
from distill_lab.exercises.registry import find_exercise


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DISTILL_LAB_STRICT", "NBGRADER_EXECUTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISTILL_LAB_DATA", str(tmp_path))
    return tmp_path


def right(student_score: float, teacher_score: float) -> float:
    if teacher_score <= 0:
        raise ValueError("no")
    return student_score / teacher_score


def wrong(student_score: float, teacher_score: float) -> float:
    return teacher_score / student_score


def stub(student_score: float, teacher_score: float) -> float:
    raise NotImplementedError("retention: replace this line with your code")


def loud(student_score: float, teacher_score: float) -> float:
    import sys
    import warnings

    print("loud", file=sys.stderr)
    print("loud")
    warnings.warn("loud", stacklevel=1)
    return right(student_score, teacher_score)


def named(function: Any) -> Any:
    function.__name__ = "retention"
    return function


@pytest.mark.parametrize("answer", [right, wrong, stub, loud, None, 3, lambda: 1 / 0])
def test_check_never_raises_and_is_silent_on_stderr(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    repr(check("retention", answer))
    assert capsys.readouterr().err == ""


def test_a_right_answer_reaches_all_points() -> None:
    result = check("retention", right)
    assert isinstance(result, CheckResult) and result.passed
    assert result.points == find_exercise("retention").points
    assert "✗" not in repr(result) and "Hint" not in repr(result)


def test_the_stub_is_not_attempted_and_has_no_hint() -> None:
    result = check("retention", stub)
    assert "not attempted" in repr(result) and "✗" not in repr(result)
    assert "Hint" not in repr(result) and isinstance(result, CheckResult) and result.points == 0


def test_html_says_the_same_words_as_the_text() -> None:
    import html
    import re

    result = check("retention", wrong)
    assert isinstance(result, CheckResult)
    page = html.unescape(re.sub(r"<[^>]+>", " ", result._repr_html_()))
    words = [w for w in re.split(r"\s+", repr(result)) if w]
    assert set(words) <= set(re.split(r"\s+", page))


def test_each_further_failure_shows_a_further_hint() -> None:
    hints = find_exercise("retention").contracts[0].hints
    for failures in range(1, len(hints) + 2):
        text = repr(check("retention", wrong))
        assert text.count("Hint ") == min(failures, len(hints))
    assert "These were all hints" in text


def test_solving_it_starts_the_hints_anew() -> None:
    check("retention", wrong)
    check("retention", wrong)
    check("retention", right)
    assert repr(check("retention", wrong)).count("Hint ") == 1


def test_an_unknown_exercise_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("retension", right) is None
    assert "retension" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [wrong, stub])
def test_strict_mode_raises(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_LAB_STRICT", "1")
    with pytest.raises(CheckFailed, match="retention"):
        check("retention", answer)
    with pytest.raises(CheckFailed, match="retention"):
        use(named(answer))
    with pytest.raises(CheckFailed, match="retension"):
        check("retension", right)


def test_strict_mode_lets_right_answers_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_LAB_STRICT", "1")
    assert check("retention", right)
    assert use(named(right)) is right


@pytest.mark.parametrize("mode", ["autograde", "validate"])
def test_nbgrader_gets_the_points_as_a_float(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", mode)
    values = [check("retention", answer) for answer in (right, wrong, stub)]
    assert values == [2.0, 0.0, 0.0] and all(type(v) is float for v in values)
    assert capsys.readouterr().err == ""


def test_nbgrader_leaves_no_progress(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    check("retention", right)
    assert not list(data_folder.iterdir())


def test_use_gives_the_students_function_if_it_is_right() -> None:
    assert use(named(right)) is right


@pytest.mark.parametrize("answer", [wrong, stub])
def test_use_falls_back_on_the_library_and_says_so(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = find_exercise("retention").reference
    assert use(named(answer)) is reference
    assert capsys.readouterr().out.count("\n") == 1
    assert use(reference) is reference and not capsys.readouterr().out


def test_use_refuses_what_is_no_exercise() -> None:
    with pytest.raises(UserError, match="no exercise"):
        use(lambda: 1)


def test_progress_keeps_the_best_points() -> None:
    check("retention", right)
    check("retention", wrong)
    panel = progress("01_pipeline")
    assert "retention" in panel.done(panel.lessons[0])
    assert panel.points(panel.lessons[0]) == 2
    assert "compression" in repr(panel) and "Next: compression" in repr(panel)
    assert "Next: compression" in panel._repr_html_()


def test_checks_work_where_progress_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILL_LAB_DATA", str(tmp_path / "file" / "below"))
    result = check("retention", wrong)
    assert isinstance(result, CheckResult) and "Hint 1" in repr(result)
