"""Carry the points of ``grades.csv`` to other systems: ``distill-lab course gradebook``.

- ``csv``: one table. A row a student: ``student``, the points of each lesson, their ``total``, and
  what is ``possible`` in all of the table's lessons. Empty where nothing was handed in.
- ``canvas``: what Canvas' gradebook imports. A student is found by SIS login, else by name; an
  assignment by its name, the lesson's, and made where there is none. Empty: no grade.
- ``moodle``: what Moodle's grade import reads: a user's identifier, and for each lesson a grade and
  a feedback, to be mapped to its grade items. ``-`` is no grade, as in Moodle's own exports.
- ``gradescope``: ``LESSON/STUDENT/results.json``, as a Gradescope autograder leaves it for one
  submission: a test for each exercise.
- ``nbgrader``: nbgrader's database; what other students and lessons are in it stays.
"""

from __future__ import annotations

import csv
import io
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from distill_lab.course.results import (
    COLUMNS,
    GRADES,
    ExerciseResult,
    Format,
    Status,
    SubmissionResult,
    as_csv,
    harmless,
    plain,
)
from distill_lab.errors import UserError
from distill_lab.files import told_as_user_error, write_json, write_text, written_whole

if TYPE_CHECKING:
    from nbgrader.api import Gradebook

    from distill_lab.exercises.registry import Lesson

COURSE_ID = "distill-lab"  # as the configuration for nbgrader has it
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
MOODLE = ("Username",)


TARGETS = {
    Format.nbgrader: "gradebook.db",
    Format.canvas: "canvas.csv",
    Format.moodle: "moodle.csv",
    Format.gradescope: "gradescope",
    Format.csv: "gradebook.csv",
}


def export(folder: Path, format: Format, to: Path | None = None) -> str:
    """Write what another system takes, made from ``grades.csv`` in a folder; give a line about it.

    Args:
        folder: What ``distill-lab course grade`` left.
        format: Which system.
        to: The file, for Gradescope the folder; else it goes into ``folder``, by the name that
            ``TARGETS`` has. What an export before wrote there is replaced; nbgrader's database is
            updated.

    Raises:
        UserError: There is no such table or it is damaged, something else is at ``to``, or it
            cannot be written.
    """
    results = read_grades(folder / GRADES)
    target = to or folder / TARGETS[format]
    if format == Format.gradescope:
        _write_gradescope(target, results)
    elif format == Format.nbgrader:
        _write_nbgrader(target, results)
    else:
        table = {Format.canvas: canvas, Format.moodle: moodle, Format.csv: wide}[format]
        _write_table(target, table(results))
    students, lessons = {r.student for r in results}, {r.lesson for r in results}
    return f"{target} written: {_counted(students, 'student')}, {_counted(lessons, 'lesson')}"


def _counted(things: set[str], what: str) -> str:
    return f"{len(things)} {what}" + "s" * (len(things) != 1)


# --- reading ------------------------------------------------------------------------------------


def read_grades(path: Path) -> tuple[SubmissionResult, ...]:
    """Read ``grades.csv``: what ``results.grades_csv`` wrote, names as they were.

    Raises:
        UserError: It is missing, something else, or damaged; the line says where.
    """
    rows = _read_rows(path)
    if not rows or tuple(rows[0][1]) != COLUMNS:
        raise UserError(
            f"{path} is no table of grades: its first line must be {','.join(COLUMNS)}; give the "
            "folder that distill-lab course grade wrote"
        )
    found: dict[tuple[str, str], dict[str, ExerciseResult]] = defaultdict(dict)
    worth: dict[str, float] = {}
    for line, row in rows[1:]:
        try:
            student, lesson, exercise = _read_row(row)
            if exercise.exercise in found[student, lesson]:
                raise ValueError(f"a second row for {student!r} and {exercise.exercise}")
            if exercise.possible != worth.setdefault(exercise.exercise, exercise.possible):
                raise ValueError(
                    f"{exercise.exercise} was worth {worth[exercise.exercise]:g} before"
                )
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}; {_AGAIN}") from None
        found[student, lesson][exercise.exercise] = exercise
    if not found:
        raise UserError(f"{path} has no grades in it; {_AGAIN}")
    return tuple(
        SubmissionResult(student, lesson, "", _complete(path, student, lesson, exercises))
        for (student, lesson), exercises in found.items()
    )


_AGAIN = "write it again with distill-lab course grade"


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Give each row with the number of its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a spreadsheet may have put a mark in front
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the folder that "
            "distill-lab course grade wrote"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); {_AGAIN}") from error


def _read_row(row: Sequence[str]) -> tuple[str, str, ExerciseResult]:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns where {len(COLUMNS)} belong")
    student, lesson, exercise, *numbers, status, reason = row
    if not student:
        raise ValueError("no student")
    if exercise not in (known := _exercises(lesson)):
        raise ValueError(f"{lesson} has no exercise {exercise!r}; it has {', '.join(known)}")
    points, possible = map(_number, numbers)
    if points > possible:
        raise ValueError(f"{points:g} points of {possible:g}")
    if status not in get_args(Status):
        raise ValueError(f"no status is called {status!r}")
    result = ExerciseResult(exercise, points, possible, status, plain(reason))  # type: ignore[arg-type]
    return plain(student), lesson, result


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"points must be a number from 0 upwards, not {text!r}")
    return number


def _exercises(lesson: str) -> tuple[str, ...]:
    return tuple(exercise.id for exercise in _lesson(lesson).exercises)


def _lesson(name: str) -> Lesson:
    """Find a lesson by its whole name; a part of it or a number is nothing a program writes."""
    from distill_lab.exercises.registry import lessons

    for lesson in lessons():
        if lesson.name == name:
            return lesson
    raise ValueError(f"no lesson is called {name!r}; choose {', '.join(x.name for x in lessons())}")


def _complete(
    path: Path, student: str, lesson: str, found: dict[str, ExerciseResult]
) -> tuple[ExerciseResult, ...]:
    if missing := [id for id in _exercises(lesson) if id not in found]:
        raise UserError(
            f"{path} is damaged: {student!r} has no row for {', '.join(missing)} of {lesson}; "
            f"{_AGAIN}"
        )
    return tuple(found[id] for id in _exercises(lesson))


# --- tables -------------------------------------------------------------------------------------


def wide(results: Sequence[SubmissionResult]) -> str:
    """Lay results out as one table, a row a student, for people and spreadsheets."""
    possible = _possible(results)
    everything = f"{sum(possible.values()):g}"
    rows = []
    for student, points in _by_student(results).items():
        total = f"{sum(points.values()):g}"
        rows.append([harmless(student), *_cells(points, possible), total, everything])
    return as_csv(("student", *possible, "total", "possible"), rows)


def canvas(results: Sequence[SubmissionResult]) -> str:
    """Lay results out for the import of Canvas' gradebook."""
    possible = _possible(results)
    blank = [""] * (len(CANVAS) - 1)
    rows = [["    Points Possible", *blank, *(f"{points:g}" for points in possible.values())]]
    for student, points in _by_student(results).items():
        name = harmless(student)
        rows.append([name, "", "", name, "", *_cells(points, possible)])
    return as_csv((*CANVAS, *possible), rows)


def moodle(results: Sequence[SubmissionResult]) -> str:
    """Lay results out for Moodle's grade import from CSV."""
    lessons = list(_possible(results))
    found = {(result.student, result.lesson): result for result in results}
    rows = []
    for student in _by_student(results):
        row = [harmless(student)]
        for lesson in lessons:
            result = found.get((student, lesson))
            row += ["-", ""] if result is None else [f"{result.points:g}", harmless(_words(result))]
        rows.append(row)
    columns = [name for lesson in lessons for name in (lesson, f"{lesson} feedback")]
    return as_csv((*MOODLE, *columns), rows)


def _words(result: SubmissionResult) -> str:
    """Say in a line what each exercise got."""
    return " / ".join(
        f"{x.exercise}: {x.points:g} of {x.possible:g}" + (f" ({x.reason})" if x.reason else "")
        for x in result.exercises
    )


def _possible(results: Sequence[SubmissionResult]) -> dict[str, float]:
    """Give what each lesson is worth, in the order of the course, which their names give."""
    return {r.lesson: r.possible for r in sorted(results, key=lambda r: r.lesson)}


def _cells(points: dict[str, float], lessons: Iterable[str]) -> list[str]:
    """Give a student's points of each lesson; empty where nothing was handed in."""
    return [f"{points[lesson]:g}" if lesson in points else "" for lesson in lessons]


def _by_student(results: Sequence[SubmissionResult]) -> dict[str, dict[str, float]]:
    points: dict[str, dict[str, float]] = defaultdict(dict)
    for result in results:
        points[result.student][result.lesson] = result.points
    return points


def _write_table(target: Path, text: str) -> None:
    """Write a table, over one of its kind only."""
    with told_as_user_error(target):
        if target.is_dir():
            raise UserError(f"--to {target} is a folder; give the name of a file")
        if target.exists():
            have = target.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0]
            if _kind(have) != _kind(text.partition("\n")[0]):
                raise UserError(f"--to {target} is there and something else; give a new name")
    write_text(target, text)


def _kind(header: str) -> list[str]:
    """Give the columns that tell one kind of table from another: those that are no lessons."""
    return [name for name in header.strip().split(",") if not name[:2].isdecimal()]


# --- Gradescope ---------------------------------------------------------------------------------


def gradescope(result: SubmissionResult) -> dict[str, Any]:
    """Lay a submission's result out as the ``results.json`` of a Gradescope autograder.

    A test is passed where an exercise has all its points.
    """
    number = int(result.lesson.partition("_")[0])
    tests = [
        {
            "name": x.exercise,
            "number": f"{number}.{position}",
            "score": x.points,
            "max_score": x.possible,
            "status": "passed" if x.points == x.possible else "failed",
            "output": x.reason or x.status,
        }
        for position, x in enumerate(result.exercises, 1)
    ]
    about = {"student": result.student, "lesson": result.lesson}
    return {"score": result.points, "tests": tests, "extra_data": about}


def _write_gradescope(target: Path, results: Sequence[SubmissionResult]) -> None:
    with told_as_user_error(target):
        if target.exists() and not target.is_dir():
            raise UserError(f"--to {target} is a file; give a folder for Gradescope's files")
        if other := next(_foreign(target), None):
            raise UserError(f"--to {target} holds other things ({other.name}); give a new folder")
    for student in {result.student for result in results}:
        if student in ("", ".", "..") or "\0" in student or Path(student).name != student:
            raise UserError(f"{student!r} is no name for a folder; rename the student's submission")
    target = target.resolve()  # "." has no name to write beside
    with written_whole(target) as temporary:
        for result in results:
            path = temporary / result.lesson / result.student / "results.json"
            write_json(path, gradescope(result))


def _foreign(folder: Path) -> Iterator[Path]:
    """Find what an export for Gradescope does not write."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            *others, name = path.relative_to(folder).parts
            if name != "results.json" or len(others) != 2 or not others[0][:2].isdecimal():
                yield path


# --- nbgrader -----------------------------------------------------------------------------------


def _write_nbgrader(target: Path, results: Sequence[SubmissionResult]) -> None:
    try:
        from nbgrader.api import Gradebook, InvalidEntry
        from sqlalchemy import URL, text
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; it comes with: pip install 'distill-lab[notebooks]'"
        ) from error

    broken = sqlite3.Error, SQLAlchemyError, InvalidEntry
    with told_as_user_error(target):
        _check_database(target)
    with written_whole(target) as temporary, _told_as_damage(target, *broken):
        with closing(sqlite3.connect(temporary)) as database:
            _begin(database, target)
        url = URL.create("sqlite", database=str(temporary))
        with Gradebook(url, COURSE_ID) as book:
            book.db.execute(text("PRAGMA synchronous = OFF"))  # what is cut short is not kept
            cells = {r.lesson: _add_lesson(book, url, r) for r in _one_a_lesson(results)}
            for student in {result.student for result in results}:
                book.update_or_create_student(student)
            for result in results:
                _record(book, result, cells[result.lesson])


def _one_a_lesson(results: Sequence[SubmissionResult]) -> Iterable[SubmissionResult]:
    return {result.lesson: result for result in results}.values()


def _begin(database: sqlite3.Connection, path: Path) -> None:
    """Copy the gradebook that is there, or say whose version an empty one is of.

    nbgrader would say it too, but starts ``alembic`` for it, by name, which takes a second where
    the environment is activated and fails where it is not.
    """
    if path.is_file():
        with closing(_opened(path)) as there:
            there.backup(database)
        return
    with database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES (?)", (_version(),))


def _version() -> str:
    """Give the version of nbgrader's tables."""
    import nbgrader
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory(Path(nbgrader.__file__).parent / "alembic").get_current_head())


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _check_database(path: Path) -> None:
    """Refuse what is there and not a gradebook of this nbgrader."""
    if path.is_dir():
        raise UserError(f"--to {path} is a folder; give the name of nbgrader's database")
    if not path.exists():
        return
    try:
        with closing(_opened(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not {"alembic_version", "student", "submitted_assignment", "grade"} <= tables:
                raise sqlite3.DatabaseError
            ((version,),) = database.execute("SELECT version_num FROM alembic_version")
    except (sqlite3.Error, ValueError) as error:
        raise UserError(f"--to {path} is no gradebook of nbgrader; give a new name") from error
    if version != _version():
        raise UserError(f"{path} was made by another nbgrader; run: nbgrader db upgrade")


@contextmanager
def _told_as_damage(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        what = str(error).partition("\n")[0]
        raise UserError(
            f"{path} was not written ({what}); close what uses it, or give a new name"
        ) from error


def _add_lesson(book: Gradebook, url: Any, result: SubmissionResult) -> dict[str, str]:
    """Put a lesson where nbgrader's own release would; give the ids of its exercises' cells.

    A lesson that is new comes with all its cells: nbgrader adds none once there are submissions,
    and would refuse to release the lesson from the same database.
    """
    from nbgrader.api import MissingEntry
    from nbgrader.preprocessors import SaveCells

    from distill_lab.course.notebooks import pristine

    lesson = result.lesson
    book.update_or_create_assignment(lesson)
    try:
        book.find_notebook(lesson, lesson)
    except MissingEntry:
        about = {"notebook": lesson, "assignment": lesson, "db_url": url}
        SaveCells().preprocess(pristine(_lesson(lesson)), {"nbgrader": about})
    cells = [
        book.update_or_create_grade_cell(
            x.exercise, lesson, lesson, max_score=x.possible, cell_type="code"
        )
        for x in result.exercises
    ]
    return {cell.name: cell.id for cell in cells}


def _record(book: Gradebook, result: SubmissionResult, cells: dict[str, str]) -> None:
    """Write a submission's points where nbgrader's autograde would have written them."""
    from nbgrader.api import Grade

    with book.db.no_autoflush:  # nbgrader adds a submission only when all of it is made
        submission = book.update_or_create_submission(result.lesson, result.student)
    (notebook,) = [x for x in submission.notebooks if x.name == result.lesson]
    grades = {grade.cell_id: grade for grade in notebook.grades}
    for x in result.exercises:
        id = cells[x.exercise]
        grade = grades.get(id) or Grade(cell_id=id, notebook=notebook)
        grade.auto_score = x.points
        if grade.manual_score is None:  # else it is for whoever gave it to look again
            grade.needs_manual_grade = False
    book.db.commit()
