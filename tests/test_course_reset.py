"""Laws of putting a lesson back, and of opening JupyterLab: nobody's work is ever lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from test_course_build import LESSON, SOURCE, by_id, read
from typer import Typer
from typer.testing import CliRunner, Result

from distill_lab.course import build, cli, notebooks
from distill_lab.errors import UserError
from distill_lab.exercises import registry

MINE = "def add(a, b=1, *, more=0):\n    return 3  # mine"


@pytest.fixture
def root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The course of one lesson, built; the working directory is its ``notebooks/``."""
    list(build.build(root, LESSON))
    monkeypatch.chdir(root / "notebooks")
    return root


@pytest.fixture
def notebook(root: Path) -> Path:
    """The student notebook, worked on: an answer, an output, a cell of the student's own."""
    path = root / "notebooks" / "09_numbers.ipynb"
    content = read(path)
    answer = by_id(content)["answer-add"]
    answer.source, answer.execution_count = MINE, 3
    answer.outputs = [nbformat.v4.new_output("stream", text="run")]
    by_id(content)["answer-double"].source = "def double(number): return 2 * number"
    content.cells.append(nbformat.v4.new_code_cell("my_own = 1"))
    path.write_text(build.as_text(content), encoding="utf-8")
    return path


@pytest.fixture
def released() -> NotebookNode:
    return build.student_notebook(build.solved_notebook(LESSON, SOURCE))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: NotebookNode) -> Path:
    """An installed package that carries the lessons' notebooks and no sources."""
    folder = tmp_path / "site" / "distill_lab"
    (folder / "notebooks").mkdir(parents=True)
    carried = folder / "notebooks" / "09_numbers.ipynb"
    carried.write_text(build.as_text(released), encoding="utf-8")
    monkeypatch.setattr("importlib.resources.files", lambda name: folder)
    return folder


def reset(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["reset", *arguments])


def refused(*arguments: str) -> str:
    error = reset(*arguments).exception
    assert isinstance(error, UserError) and "\n" not in str(error)
    return str(error)


def attempts(notebook: Path) -> list[str]:
    return sorted(p.name for p in notebook.parent.glob("*.attempt-*"))


# --- a whole lesson -----------------------------------------------------------------------------


def test_a_lesson_is_as_released_and_the_old_one_is_kept(
    notebook: Path, released: NotebookNode
) -> None:
    mine = notebook.read_bytes()
    done = reset("9")
    assert done.exit_code == 0 and "09_numbers.attempt-1.ipynb" in done.output
    assert read(notebook) == released
    assert notebook.with_name("09_numbers.attempt-1.ipynb").read_bytes() == mine


def test_every_attempt_is_kept(notebook: Path) -> None:
    (notebook.parent / "09_numbers.attempt-7.ipynb").write_text("older")
    reset("9"), reset("9")
    assert attempts(notebook) == [f"09_numbers.attempt-{k}.ipynb" for k in (7, 8, 9)]
    assert (notebook.parent / "09_numbers.attempt-7.ipynb").read_text() == "older"


def test_a_broken_or_a_missing_notebook_is_made_again(
    notebook: Path, released: NotebookNode
) -> None:
    notebook.write_text("{ broken")
    assert reset("numbers").exit_code == 0 and read(notebook) == released
    assert notebook.with_name("09_numbers.attempt-1.ipynb").read_text() == "{ broken"
    notebook.unlink()
    assert reset("numbers").exit_code == 0 and read(notebook) == released
    assert len(attempts(notebook)) == 1


def test_the_installed_copy_serves_where_there_are_no_sources(
    notebook: Path, package: Path, released: NotebookNode
) -> None:
    (notebook.parent.parent / "solutions" / "09_numbers.py").unlink()
    assert reset("9").exit_code == 0 and read(notebook) == released


def test_a_notebook_is_never_its_own_pristine_copy(
    notebook: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package)
    before = (package / "notebooks" / "09_numbers.ipynb").read_bytes()
    assert "no pristine copy of 09_numbers" in refused("9", "--root", str(package))
    assert (package / "notebooks" / "09_numbers.ipynb").read_bytes() == before


# --- one exercise -------------------------------------------------------------------------------


def test_one_answer_goes_and_all_else_stays(notebook: Path, released: NotebookNode) -> None:
    old, mine = read(notebook), notebook.read_bytes()
    done = reset("9", "--exercise", "add")
    assert done.exit_code == 0 and "attempt-1" in done.output
    new = read(notebook)
    changed = [a.id for a, b in zip(new.cells, old.cells, strict=True) if a != b]
    assert changed == ["answer-add"]
    assert by_id(new)["answer-add"] == by_id(released)["answer-add"]
    assert notebook.with_name("09_numbers.attempt-1.ipynb").read_bytes() == mine


def test_the_cell_is_found_by_its_id_when_its_metadata_is_gone(
    notebook: Path, released: NotebookNode
) -> None:
    content = read(notebook)
    by_id(content)["answer-add"].metadata = {}
    notebook.write_text(build.as_text(content), encoding="utf-8")
    assert reset("9", "--exercise", "add").exit_code == 0
    assert by_id(read(notebook))["answer-add"] == by_id(released)["answer-add"]


def test_the_cell_is_found_by_its_grade_id_when_its_id_is_another(
    notebook: Path, released: NotebookNode
) -> None:
    content = read(notebook)
    by_id(content)["answer-add"].id = "another"
    notebook.write_text(build.as_text(content), encoding="utf-8")
    assert reset("9", "--exercise", "add").exit_code == 0
    assert by_id(read(notebook))["another"].source == by_id(released)["answer-add"].source


def test_what_cannot_be_put_back_is_refused_and_left_alone(notebook: Path) -> None:
    content = read(notebook)
    double = by_id(content)["answer-double"]
    content.cells.remove(by_id(content)["answer-add"])
    content.cells.append(NotebookNode(dict(double) | {"id": "copy"}))
    notebook.write_text(build.as_text(content), encoding="utf-8")
    before = notebook.read_bytes()
    assert "no cell is marked as the answer to add" in refused("9", "--exercise", "add")
    assert "2 cells are marked" in refused("9", "--exercise", "double")
    assert "no exercise 'triple'; choose double, add" in refused("9", "--exercise", "triple")
    assert "no lesson is called '8'" in refused("8")
    assert notebook.read_bytes() == before and not attempts(notebook)
    notebook.write_text("{ broken")
    assert "not a readable notebook" in refused("9", "--exercise", "add")
    notebook.unlink()
    assert "run: distill-lab course reset 09_numbers" in refused("9", "--exercise", "add")


# --- JupyterLab ---------------------------------------------------------------------------------


class Replaced(Exception):
    """This process would now be JupyterLab."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def execve(path: str, command: list[str], environment: Any) -> None:
        calls.append((command, dict(environment)))
        raise Replaced

    monkeypatch.setattr(os, "execve", execve)
    return calls


def lab(*arguments: str) -> Result:
    app = Typer()
    app.command()(cli.lab)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere JupyterLab is a child process")
def test_lab_opens_the_notebooks_with_this_interpreter_and_its_programs(
    root: Path, started: list[tuple[list[str], dict[str, str]]]
) -> None:
    lab("--", "--no-browser", "--port", "9999")
    ((command, environment),) = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={root / 'notebooks'}" in command
    assert command[-3:] == ["--no-browser", "--port", "9999"]
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere JupyterLab is a child process")
def test_lab_puts_the_lessons_where_there_are_none(
    tmp_path: Path,
    package: Path,
    released: NotebookNode,
    started: list[tuple[list[str], dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "lessons", lambda: (LESSON,))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    done = lab()
    assert f"now in {tmp_path / 'mine' / 'notebooks'}: 09_numbers.ipynb" in done.output
    assert read(tmp_path / "mine" / "notebooks" / "09_numbers.ipynb") == released
    assert len(started) == 1


def test_lab_without_jupyterlab_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = lab().exception
    assert isinstance(error, UserError) and "pip install 'distill-lab[notebooks]'" in str(error)


def test_a_checkout_serves_where_the_package_carries_no_copy(
    root: Path, monkeypatch: pytest.MonkeyPatch, released: NotebookNode
) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda name: root / "distill_lab")
    assert notebooks.pristine(LESSON) == released
