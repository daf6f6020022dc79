"""Laws of the course for nbgrader: plain nbgrader makes our notebooks, and gives check's points.

Grading runs the answers and checks of the repository's own lessons, without the lessons' other
cells: those take minutes and give no points.
"""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.plugins import CsvExportPlugin
from test_course_build import LESSON, SOURCE, by_id, read
from traitlets.config import Config, PyFileConfigLoader
from typer.testing import CliRunner, Result

from distill_lab.course import build, cli
from distill_lab.course.notebooks import as_text
from distill_lab.errors import UserError
from distill_lab.exercises import registry
from distill_lab.exercises.checking import judge
from distill_lab.exercises.registry import Lesson, find_exercise, lessons
from tests.answers import answered, answers_of, answers_only

ROOT = Path(__file__).parent.parent

# For each lesson an answer that keeps some of its exercise's laws and breaks others.
PARTLY_RIGHT = {
    "retention": """\
def retention(student_score, teacher_score):
    return student_score / teacher_score
""",
    "scaled_dot_product_attention": """\
def scaled_dot_product_attention(query, key, value, mask=None):
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    return torch.softmax(scores, dim=-1) @ value
""",
    "entropy": """\
def entropy(logits, temperature=1.0):
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()
""",
    "soften": """\
def soften(logits, temperature=1.0):
    return torch.softmax(logits / temperature, dim=-1)
""",
    "extract_logits": """\
def extract_logits(teacher, batches):
    found = {}
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found.update(zip(batch["id"], teacher(**inputs).logits.detach().cpu()))
    return found
""",
    "init_from_teacher_layers": """\
def init_from_teacher_layers(student, teacher, layer_map):
    for ours, theirs in layer_map.items():
        block = teacher.get_submodule(f"bert.encoder.{theirs}")
        student.get_submodule(f"bert.encoder.{ours}").load_state_dict(block.state_dict())
""",
    "hidden_state_loss": """\
def hidden_state_loss(student_hidden, teacher_hidden, mask, projection=None):
    ours = student_hidden if projection is None else student_hidden @ projection.T
    weights = mask[..., None].to(ours.dtype)
    return ((ours - teacher_hidden.detach()) ** 2 * weights).mean()
""",
    "expected_calibration_error": """\
def expected_calibration_error(probabilities, labels, bins=15):
    confidence, predicted = probabilities.max(-1)
    right = (predicted == labels).double().mean()
    return (right - confidence.double().mean()).abs().item()
""",
}


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbgrader finds alembic, and touches neither the user's settings nor their progress."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISTILL_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("DISTILL_LAB_STRICT", raising=False)
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / "jupyter" / name.lower()))


def api(course: Path) -> NbGraderAPI:
    """Start nbgrader with the course's own configuration."""
    (course / "exchange").mkdir(exist_ok=True)
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.merge(
        Config(
            CourseDirectory={"root": str(course)},
            Exchange={"root": str(course / "exchange")},
            NbGraderAPI={"log_level": "ERROR"},
        )
    )
    return NbGraderAPI(config=config)


def succeeded(done: dict[str, Any]) -> None:
    assert done["success"], f"{done['error']}\n{done['log']}"


# --- laying out ---------------------------------------------------------------------------------


def course(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["nbgrader", *arguments])


@pytest.mark.slow
def test_plain_nbgrader_releases_the_student_notebook_cell_for_cell(root: Path) -> None:
    assert course("grading").exit_code == 0
    succeeded(api(root / "grading").generate_assignment("09_numbers"))
    released = read(root / "grading" / "release" / "09_numbers" / "09_numbers.ipynb")
    ours = build.student_notebook(build.solved_notebook(LESSON, SOURCE))
    assert released.cells == ours.cells
    assert "double: replace this line" in by_id(released)["answer-double"].source
    with Gradebook(f"sqlite:///{root / 'grading' / 'gradebook.db'}") as gradebook:
        cells = gradebook.find_notebook("09_numbers", "09_numbers").grade_cells
        assert {cell.name: cell.max_score for cell in cells} == {"double": 1.5, "add": 2.0}


def test_laying_out_again_keeps_the_instructors_configuration(root: Path) -> None:
    course("grading", "9")
    config = root / "grading" / "nbgrader_config.py"
    config.write_text(config.read_text() + "# mine\n")
    source = root / "grading" / "source" / "09_numbers" / "09_numbers.ipynb"
    source.write_text("old")
    done = course("grading", "9")
    assert done.exit_code == 0 and "left as it is" in done.output
    assert config.read_text().endswith("# mine\n")
    assert read(source) == build.solved_notebook(LESSON, SOURCE)


def test_a_folder_that_holds_something_else_is_refused(root: Path) -> None:
    (root / "full").mkdir()
    (root / "full" / "thesis.txt").write_text("mine")
    for name, said in (("full", "is not empty"), ("full/thesis.txt", "is a file")):
        error = course(name).exception
        assert isinstance(error, UserError) and said in str(error)
    assert [p.name for p in (root / "full").rglob("*")] == ["thesis.txt"]


# --- grading the repository's lessons -----------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    student: str
    notebook: NotebookNode

    def points(self) -> dict[str, float]:
        """What ``check`` gives: the cells run here, in order, each answer judged at its check."""
        scope: dict[str, Any] = {}
        reached: dict[str, float] = {}
        for cell in self.notebook.cells:
            if cell.cell_type != "code":
                continue
            if cell.metadata.get("nbgrader", {}).get("grade"):
                reached[cell.id] = judge(find_exercise(cell.id), scope[cell.id]).points
            else:
                exec(compile(cell.source, cell.id, "exec"), scope)  # the repository's own code
        return reached


def submissions(solved: NotebookNode, unsolved: NotebookNode) -> list[Submission]:
    """Give three: solved, unsolved, and half solved with one answer partly right."""
    right = answers_of(solved)
    half = dict(list(right.items())[1::2]) | PARTLY_RIGHT
    return [
        Submission("solved", answered(unsolved, right)),
        Submission("unsolved", unsolved),
        Submission("half", answered(unsolved, half)),
    ]


@pytest.fixture(params=[lesson.name for lesson in lessons()])
def lesson(request: pytest.FixtureRequest) -> Lesson:
    return registry.find_lesson(request.param)


@pytest.mark.slow
def test_the_repositorys_lessons_are_released_cell_for_cell(lesson: Lesson, tmp_path: Path) -> None:
    folder = tmp_path / "grading"
    done = course(str(folder), lesson.name, "--root", str(ROOT))
    assert done.exit_code == 0, done.output
    succeeded(api(folder).generate_assignment(lesson.name))
    released = read(folder / "release" / lesson.name / f"{lesson.name}.ipynb")
    assert released.cells == build.student_notebook(build.read_lesson(ROOT, lesson)).cells


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
def test_nbgrader_gives_the_points_that_check_gives(lesson: Lesson, tmp_path: Path) -> None:
    folder = tmp_path / "grading"
    assert course(str(folder), lesson.name, "--root", str(ROOT)).exit_code == 0
    source = folder / "source" / lesson.name / f"{lesson.name}.ipynb"
    solved = answers_only(read(source))
    source.write_text(as_text(solved), encoding="utf-8")
    grader = api(folder)
    succeeded(grader.generate_assignment(lesson.name))
    unsolved = read(folder / "release" / lesson.name / source.name)

    expected = {}
    for submission in submissions(solved, unsolved):
        path = folder / "submitted" / submission.student / lesson.name / source.name
        path.parent.mkdir(parents=True)
        path.write_text(as_text(submission.notebook), encoding="utf-8")
        expected[submission.student] = submission.points()
        succeeded(grader.autograde(lesson.name, submission.student))

    full = {exercise.id: exercise.points for exercise in lesson.exercises}
    assert expected["solved"] == full
    assert expected["unsolved"] == dict.fromkeys(full, 0.0)
    (partly,) = set(full) & set(PARTLY_RIGHT)
    assert 0 < expected["half"][partly] < full[partly]

    given: dict[str, dict[str, float]] = {}
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as gradebook:
        for student in expected:
            notebook = gradebook.find_submission_notebook(lesson.name, lesson.name, student)
            given[student] = {grade.name: grade.score for grade in notebook.grades}
            assert not any(grade.needs_manual_grade for grade in notebook.grades)
        export = CsvExportPlugin(to=str(tmp_path / "grades.csv"))
        export.export(gradebook)
    assert given == expected
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        exported = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert exported == {student: sum(points.values()) for student, points in expected.items()}
