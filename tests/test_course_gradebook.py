"""Laws of carrying points elsewhere: none is lost or changed, no name becomes a formula.

``tests/golden/gradebook`` has what each format is; other systems read it, so it changes on purpose
or not at all.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbgrader.api import Gradebook
from typer.testing import CliRunner, Result

from distill_lab.course import cli, gradebook, nbgrader
from distill_lab.course.gradebook import Format, read_grades
from distill_lab.course.results import (
    COLUMNS,
    ExerciseResult,
    Status,
    SubmissionResult,
    grades_csv,
    harmless,
    plain,
)
from distill_lab.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "gradebook"


def result(student: str, lesson: str, *exercises: ExerciseResult) -> SubmissionResult:
    return SubmissionResult(student, lesson, "", exercises)


def first_lesson(
    student: str, points: float, status: Status = "partly", reason: str = ""
) -> SubmissionResult:
    return result(
        student,
        "01_pipeline",
        ExerciseResult("retention", points, 2, status, reason),
        ExerciseResult("compression", 1, 1, "passed"),
    )


RESULTS = (
    result(
        "=1+2",
        "01_pipeline",
        ExerciseResult("retention", 0, 2, "failed", "@SUM(A1) is no number"),
        ExerciseResult("compression", 0, 1, "not attempted"),
    ),
    first_lesson("ann", 2, "passed"),
    result(
        "ann",
        "04_temperature",
        ExerciseResult("soften", 2, 2, "passed"),
        ExerciseResult("distillation_loss", 2.5, 5, "partly", 'T² is missing, "twice"'),
        ExerciseResult("logit_matching_loss", 0, 3, "stopped", "longer than 10 s;=A1"),
    ),
    first_lesson("o'neil; -x", 0.5, "partly", "ends at ≥ 1"),
)
TABLES: dict[Format, Callable[..., str]] = {
    Format.csv: gradebook.wide,
    Format.canvas: gradebook.canvas,
    Format.moodle: gradebook.moodle,
}


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What grading left."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "grades.csv").write_text(grades_csv(RESULTS), encoding="utf-8")
    return tmp_path / "out"


def run(out: Path, format: str, *arguments: object) -> Result:
    words = [str(out), "--format", format, *map(str, arguments)]
    return CliRunner().invoke(cli.app, ["gradebook", *words])


def refused(out: Path, format: str, *arguments: object) -> str:
    error = run(out, format, *arguments).exception
    assert isinstance(error, UserError) and "\n" not in str(error), error
    return str(error)


# --- no formula, and every name as it was -------------------------------------------------------

# Texts made of what matters, beside any text at all.
TEXTS = st.text() | st.text(alphabet=" \t\r\n'\"“’;,=+-@＝＋－＠−\u200b\ufeffaé", max_size=12)


def could_be_formula(cell: str) -> bool:
    seen = unicodedata.normalize("NFKC", cell).lstrip(' \u200b\ufeff"“’')
    return seen.startswith(("=", "+", "-", "@", "−", "\t", "\r"))


@given(TEXTS)
def test_the_escape_is_undone_exactly_once(text: str) -> None:
    assert plain(harmless(text)) == text
    assert plain(harmless(harmless(text))) == harmless(text)


@given(TEXTS)
def test_no_cell_is_a_formula_wherever_a_spreadsheet_splits(text: str) -> None:
    (row,) = cells(gradebook.as_csv([harmless(text)], [])) or [[""]]
    assert not any(map(could_be_formula, (*row, *harmless(text).split(";"))))


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@A", "\t1", "\r1", "＝1", "＋1", "－1", "＠A", " =1", "'=1", '"=1']
)
def test_what_could_be_a_formula_gets_a_quote_in_front(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["", "ann", "Ann-Marie", "o'neil", "'s-Gravenhage", "a@b.org", "李"]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert harmless(text) == plain(text) == text


@given(st.lists(st.tuples(TEXTS.filter(bool), TEXTS), min_size=1, unique_by=lambda pair: pair[0]))
def test_names_and_reasons_come_back_from_grades_csv(pairs: list[tuple[str, str]]) -> None:
    results = [first_lesson(student, 0.5, reason=reason) for student, reason in pairs]
    rows = [(k, row) for k, row in enumerate(cells(grades_csv(results)), 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradebook, "_read_rows", lambda path: rows)
        assert sorted(read_grades(Path()), key=repr) == sorted(results, key=repr)


@pytest.mark.parametrize("format", TABLES)
def test_every_table_escapes_every_cell(format: Format) -> None:
    evil = ["=cmd|' /C calc'!A0", "\t@x", "＝1", "' +1", "a;-1", "－"]
    results = [first_lesson(name, 1, reason=name) for name in evil]
    rows = cells(TABLES[format](results))
    found = {plain(cell) for row in rows for cell in row}
    assert found >= set(evil)
    assert not any(could_be_formula(c) for row in rows for cell in row for c in cell.split(";"))


# --- the shapes that other systems read ---------------------------------------------------------


def test_grades_csv_is_as_stored_and_is_read_back(tmp_path: Path) -> None:
    stored = (GOLDEN / "grades.csv").read_text(encoding="utf-8")
    assert grades_csv(reversed(RESULTS)) == stored
    assert read_grades(GOLDEN / "grades.csv") == RESULTS
    (tmp_path / "grades.csv").write_bytes(b"\xef\xbb\xbf" + stored.replace("\n", "\r\n").encode())
    assert read_grades(tmp_path / "grades.csv") == RESULTS  # as a spreadsheet saves it


@pytest.mark.parametrize("format", TABLES)
def test_each_table_is_as_stored(format: Format, out: Path) -> None:
    done = run(out, format)
    name = gradebook.TARGETS[format]
    assert done.exit_code == 0 and f"{name} written: 3 students, 2 lessons" in done.output
    assert (out / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_gradescopes_files_are_as_stored(out: Path) -> None:
    assert run(out, "gradescope").exit_code == 0
    found, stored = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.json")}
        for folder in (out / "gradescope", GOLDEN / "gradescope")
    )
    assert found == stored


def test_canvas_and_the_table_say_what_is_possible_and_leave_empty_what_was_not_handed_in() -> None:
    header, possible, *rows = cells(gradebook.canvas(RESULTS))
    assert header[:2] == ["Student", "ID"] and header[4] == "Section"  # what Canvas looks for
    assert possible[0].strip() == "Points Possible" and possible[5:] == ["3", "10"]
    assert {row[0]: row[5:] for row in rows}["ann"] == ["3", "4.5"]
    assert {row[3]: row[5:] for row in rows}["'=1+2"] == ["0", ""]
    wide = {row[0]: row[1:] for row in cells(gradebook.wide(RESULTS))}
    assert wide["ann"] == ["3", "4.5", "7.5", "13"]
    assert wide["'=1+2"] == ["0", "", "0", "13"]


def test_moodle_gets_a_dash_where_there_is_no_grade() -> None:
    table = {row[0]: row[1:] for row in cells(gradebook.moodle(RESULTS))}
    assert table["'=1+2"][2:] == ["-", ""]


def test_gradescopes_score_is_the_sum_of_its_tests() -> None:
    for one in RESULTS:
        whole = gradebook.gradescope(one)
        assert whole["score"] == sum(test["score"] for test in whole["tests"]) == one.points
        for test in whole["tests"]:
            assert (test["status"] == "passed") == (test["score"] == test["max_score"])


# --- what is refused ----------------------------------------------------------------------------


def damage(text: str, old: str = "", new: str = "") -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("student,", "name,", "is no table of grades"),
        (",", ";", "is no table of grades"),
        ("ann,01_pipeline,retention,2,", "ann,01_pipeline,retention,two,", "not 'two'"),
        (
            "ann,01_pipeline,retention,2,",
            "ann,01_pipeline,retention,nan,",
            "line 4: points must be",
        ),
        ("ann,01_pipeline,retention,2,", "ann,01_pipeline,retention,-1,", "not '-1'"),
        ("ann,01_pipeline,retention,2,2", "ann,01_pipeline,retention,3,2", "3 points of 2"),
        ("ann,01_pipeline,retention,2,2", "ann,01_pipeline,retention,2,9", "was worth 2 before"),
        ("ann,01_pipeline,retention", "ann,09_magic,retention", "no lesson is called '09_magic'"),
        ("ann,01_pipeline,retention", "ann,pipeline,retention", "no lesson is called 'pipeline'"),
        ("ann,01_pipeline,retention", "ann,01_pipeline,entropy", "has no exercise 'entropy'"),
        (
            "ann,01_pipeline,compression,1,1,passed,\n",
            2 * "ann,01_pipeline,compression,1,1,passed,\n",
            "line 6: a second row",
        ),
        ("ann,01_pipeline,retention,2,2,passed,\n", "", "'ann' has no row for retention"),
        ("2,2,passed", "2,2,perfect", "no status is called 'perfect'"),
        ("ann,01_pipeline", ",01_pipeline", "no student"),
        ("2,2,passed,\n", "2,2,passed\n", "6 columns where 7 belong"),
        ("2,2,passed,\n", '2,2,passed,"open\n', "is damaged"),
    ],
)
def test_a_damaged_table_is_refused_with_the_line(out: Path, old: str, new: str, said: str) -> None:
    path = out / "grades.csv"
    path.write_text(damage(path.read_text(encoding="utf-8"), old, new), encoding="utf-8")
    for format in Format:
        assert said in refused(out, format)
    assert [p.name for p in out.iterdir()] == ["grades.csv"]


def test_a_missing_an_empty_and_a_binary_table_are_refused(out: Path) -> None:
    path = out / "grades.csv"
    for content, said in (
        (b"", "is no table of grades"),
        (",".join(COLUMNS).encode(), "has no grades in it"),
        (b"\xff\xfe\x00", "is damaged"),
    ):
        path.write_bytes(content)
        assert said in refused(out, "csv")
    path.unlink()
    assert "grades.csv cannot be read" in refused(out, "csv")
    assert "grades.csv cannot be read" in refused(out / "nowhere", "csv")
    assert run(out, "excel").exit_code == 2


@pytest.mark.parametrize("format", TABLES)
def test_a_table_takes_no_place_but_its_own(format: Format, out: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.csv"
    assert run(out, format, "--to", target).exit_code == 0
    again = target.read_bytes()
    assert run(out, format, "--to", target).exit_code == 0 and target.read_bytes() == again
    target.write_text("name,mark\nann,1\n")
    for other in (target, out / "grades.csv", out):
        before = other.read_bytes() if other.is_file() else None
        assert "give" in refused(out, format, "--to", other)
        assert before is None or other.read_bytes() == before


@pytest.mark.parametrize("format", Format)
def test_a_place_that_cannot_be_written_is_refused(format: Format, out: Path) -> None:
    assert "cannot be written" in refused(out, format, "--to", out / "grades.csv" / "below" / "x")
    assert [p.name for p in out.iterdir()] == ["grades.csv"]


def test_gradescopes_folder_is_made_anew_and_no_other_is_touched(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "scope"
    assert run(out, "gradescope", "--to", target).exit_code == 0
    (out / "grades.csv").write_text(grades_csv(RESULTS[1:2]), encoding="utf-8")
    assert run(out, "gradescope", "--to", target).exit_code == 0
    assert [p.parent.name for p in target.rglob("*.json")] == ["ann"]
    (target / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refused(out, "gradescope", "--to", target)
    assert "is a file" in refused(out, "gradescope", "--to", target / "thesis.txt")
    assert (target / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", "a/b", "nul\0"])
def test_a_name_that_is_no_folders_leaves_the_folder(name: str, out: Path, tmp_path: Path) -> None:
    (out / "grades.csv").write_text(grades_csv([first_lesson(name, 1)]), encoding="utf-8")
    assert "no name for a folder" in refused(out, "gradescope", "--to", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


# --- nbgrader -----------------------------------------------------------------------------------


def scores(path: Path) -> dict[tuple[str, str, str], tuple[float, float, bool]]:
    with Gradebook(f"sqlite:///{path}") as book:
        return {
            (submission.student.id, submission.assignment.name, grade.name): (
                grade.score,
                grade.max_score,
                grade.needs_manual_grade,
            )
            for assignment in book.assignments
            for submission in assignment.submissions
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def as_scores(results: tuple[SubmissionResult, ...]) -> dict[tuple[str, str, str], Any]:
    return {
        (one.student, one.lesson, x.exercise): (x.points, x.possible, False)
        for one in results
        for x in one.exercises
    }


def test_nbgraders_gradebook_has_the_same_points_and_is_updated(out: Path) -> None:
    path = out / "gradebook.db"
    for _ in range(2):
        assert run(out, "nbgrader").exit_code == 0
        assert scores(path) == as_scores(RESULTS)
    with Gradebook(f"sqlite:///{path}") as book:
        notebook = book.find_notebook("01_pipeline", "01_pipeline")
        names = {cell.name for cell in notebook.source_cells}
        assert names >= {"retention", "answer-retention"}  # as nbgrader's own release has them
        assert {x.course_id for x in book.assignments} == {gradebook.COURSE_ID}
        book.find_grade("retention", "01_pipeline", "01_pipeline", "ann").manual_score = 1.5
        book.db.commit()

    better = (first_lesson("ann", 2, "passed"), first_lesson("ben", 1))
    (out / "grades.csv").write_text(grades_csv(better), encoding="utf-8")
    assert run(out, "nbgrader").exit_code == 0
    manual = {("ann", "01_pipeline", "retention"): (1.5, 2, False)}
    assert scores(path) == as_scores(RESULTS) | as_scores(better) | manual
    assert sorted(p.name for p in out.iterdir()) == ["gradebook.db", "grades.csv"]


def test_nbgraders_course_and_gradebook_have_the_same_name() -> None:
    assert f'course_id = "{gradebook.COURSE_ID}"' in nbgrader.CONFIG


def test_what_is_no_gradebook_is_left_alone(out: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("mine")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE student (name TEXT)")
    database.close()
    for name in ("text.db", "other.db"):
        before = (tmp_path / name).read_bytes()
        assert "no gradebook of nbgrader" in refused(out, "nbgrader", "--to", tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    assert "is a folder" in refused(out, "nbgrader", "--to", tmp_path)


def test_a_gradebook_of_another_nbgrader_is_left_alone(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    assert run(out, "nbgrader", "--to", path).exit_code == 0
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'old'")
    database.close()
    assert "nbgrader db upgrade" in refused(out, "nbgrader", "--to", path)


def test_points_that_cannot_all_be_written_are_not_written_at_all(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(out, "nbgrader").exit_code == 0
    before = (out / "gradebook.db").read_bytes()

    def locked(*arguments: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    more = [replace(one, student=f"{one.student} too") for one in RESULTS]
    (out / "grades.csv").write_text(grades_csv(more), encoding="utf-8")
    monkeypatch.setattr(gradebook, "_record", locked)
    assert "was not written (database is locked)" in refused(out, "nbgrader")
    assert (out / "gradebook.db").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["gradebook.db", "grades.csv"]
