"""Laws of a release: students get no answer, and nobody's work in it is lost."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from test_course_build import LESSON, SOURCE, by_id, read
from typer.testing import CliRunner, Result

from distill_lab.course import build, cli, notebooks
from distill_lab.course.notebooks import as_text
from distill_lab.errors import UserError
from distill_lab.exercises import registry

ANSWERS = ("twice = number + number", "return twice", "return a + b + more", build.BEGIN)
ROOT = Path(__file__).parent.parent
NOTEBOOK = "notebooks/09_numbers.ipynb"


def release(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["release", *map(str, arguments)])


def released(*arguments: object) -> str:
    done = release(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def refused(*arguments: object) -> str:
    error = release(*arguments).exception
    assert isinstance(error, UserError) and "\n" not in str(error), error
    return str(error)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_students_get_the_notebook_what_to_install_and_what_to_do(root: Path) -> None:
    released("out")
    assert set(files(root / "out")) == {NOTEBOOK, "README.md", "requirements.txt", "release.json"}
    ours = build.student_notebook(build.solved_notebook(LESSON, SOURCE))
    assert read(root / "out" / NOTEBOOK) == ours
    readme = (root / "out" / "README.md").read_text(encoding="utf-8")
    for needed in ("pip install -r requirements.txt", "distill-lab lab", "`09_numbers.ipynb`"):
        assert needed in readme
    assert LESSON.title in readme and "{" not in readme
    assert "distill-lab[notebooks]==" in (root / "out" / "requirements.txt").read_text()


def test_no_line_of_an_answer_is_in_any_file(root: Path) -> None:
    released("out")
    for name, content in files(root / "out").items():
        assert not [line for line in ANSWERS if line.encode() in content], name


@pytest.mark.parametrize("lesson", registry.lessons(), ids=lambda lesson: lesson.name)
def test_the_repositorys_own_release_has_no_answer(lesson: registry.Lesson, tmp_path: Path) -> None:
    solved = build.read_lesson(ROOT, lesson)
    text = as_text(build.student_notebook(solved))
    assert build.answer_line_in(text, solved) == ""
    assert build.answer_line_in(as_text(solved), solved)


def test_a_lesson_that_would_leak_an_answer_is_not_released(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released("out")
    before = files(root / "out")
    monkeypatch.setattr("distill_lab.course.release.student_notebook", lambda solved: solved)
    assert "with an answer in it" in refused("out")
    assert "with an answer in it" in refused("new")
    assert files(root / "out") == before and not (root / "new").exists()


def test_an_installed_copy_with_an_answer_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no sources here or above
    monkeypatch.setattr(registry, "lessons", lambda: (LESSON,))
    package = tmp_path / "distill_lab"
    (package / "notebooks").mkdir(parents=True)
    carried = notebooks.notebook_path(package, "notebooks", LESSON)
    monkeypatch.setattr("importlib.resources.files", lambda name: package)
    notebook = build.student_notebook(build.solved_notebook(LESSON, SOURCE))
    carried.write_text(as_text(notebook), encoding="utf-8")
    released("out")
    assert read(tmp_path / "out" / NOTEBOOK) == notebook
    by_id(notebook)["answer-add"].source = "def add(a, b=1, *, more=0):\n    return a + b + more"
    carried.write_text(as_text(notebook), encoding="utf-8")
    assert "with an answer in it" in refused("new")


def test_a_release_is_brought_up_to_date(root: Path) -> None:
    released("out")
    before = files(root / "out")
    assert "up to date" in released("out", "9") and files(root / "out") == before
    source = root / "solutions" / "09_numbers.py"
    source.write_text(SOURCE.replace("Twice two", "Two times two"), encoding="utf-8")
    assert f"{NOTEBOOK} written" in released("out")
    assert "Two times two" in (root / "out" / NOTEBOOK).read_text(encoding="utf-8")


def test_other_lessons_stay_and_stay_in_the_readme(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released("out")
    other = replace(LESSON, name="10_letters", title="Letters")
    source = SOURCE.replace("# # 9 · Numbers", "# # 10 · Letters")
    (root / "solutions" / "10_letters.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(registry, "lessons", lambda: (LESSON, other))
    released("out", "10")
    assert {NOTEBOOK, "notebooks/10_letters.ipynb"} < set(files(root / "out"))
    readme = (root / "out" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)\.ipynb`", readme, re.MULTILINE) == ["09_numbers", "10_letters"]


def test_a_notebook_with_somebodys_answers_is_not_overwritten(root: Path) -> None:
    released("out")
    path = root / "out" / NOTEBOOK
    notebook = read(path)
    by_id(notebook)["answer-add"].source = "def add(a, b=1, *, more=0):\n    return 3"
    nbformat.write(notebook, path)
    before = files(root / "out")
    assert "not as it was released" in refused("out")
    assert files(root / "out") == before
    path.rename(root / "mine.ipynb")
    released("out")
    assert read(path) == build.student_notebook(build.solved_notebook(LESSON, SOURCE))


def test_a_readme_that_somebody_edited_stays(root: Path) -> None:
    released("out")
    readme = root / "out" / "README.md"
    readme.write_text("Due on Friday.", encoding="utf-8")
    for _ in range(2):
        assert "README.md was edited and is left as it is" in released("out")
        assert readme.read_text(encoding="utf-8") == "Due on Friday."


def test_a_release_that_was_cut_short_goes_on(root: Path) -> None:
    released("out")
    (root / "out" / "release.json").write_text(json.dumps({"files": {}}))
    (root / "out" / "README.md").unlink()
    released("out")
    assert set(files(root / "out")) == {NOTEBOOK, "README.md", "requirements.txt", "release.json"}


def test_other_folders_are_refused_and_left_alone(root: Path) -> None:
    (root / "full").mkdir()
    (root / "full" / "thesis.txt").write_text("mine")
    for name, said in (
        ("full", "not empty and no release"),
        ("full/thesis.txt", "is a file"),
        ("full/thesis.txt/below", "cannot be written"),
        ("solutions", "not empty and no release"),
    ):
        assert said in refused(name)
    (root / "full" / "release.json").write_text("{ broken")
    assert "no release" in refused("full")
    assert set(files(root / "full")) == {"thesis.txt", "release.json"}
    assert "no lesson is called '7'" in refused("new", "7")
    assert "is missing" in refused("new", "--root", root / "full")
    assert not (root / "new").exists()


def test_students_are_told_of_the_wheel_until_it_is_there(root: Path) -> None:
    assert "pip wheel" in released("out")
    (root / "out" / "distill_lab-0.1.0-py3-none-any.whl").touch()
    assert "pip wheel" not in released("out")
