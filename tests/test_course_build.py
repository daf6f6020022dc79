"""Laws of the build: one source makes two notebooks, the same every time, and none holds answers.

The lesson here is a small one of its own: its first cell defines ``check`` and ``use``, so that
its notebooks run without the package.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from typer.testing import CliRunner, Result

from distill_lab.course import build, cli
from distill_lab.exercises import registry
from distill_lab.exercises.contracts import Contract
from distill_lab.exercises.registry import Exercise, Lesson

SOURCE = '''\
# ---
# jupyter:
#   kernelspec:
#     display_name: Some other Python
#     language: python
#     name: other
# ---

# %% [markdown]
# # 9 · Numbers
#
# What you will be able to do: double and add.

# %%
def use(function):
    try:
        function(*(1,) * function.__code__.co_argcount)
    except NotImplementedError:
        return lambda *args, **kwargs: 2
    return function


def check(id, function):
    return use(function) is function


# %% [markdown]
# Twice two is $2 \\cdot 2 = 4$.

# %% exercise="double"
def double(number: float) -> float:
    """Give twice a number."""
    ### BEGIN SOLUTION
    # Adding is exact in binary.
    twice = number + number
    return twice
    ### END SOLUTION


# %% tags=["look"]
double = use(double)
double(3)

# %% exercise="add"
def add(a: int, b: int = 1, *, more: int = 0) -> int:
    """Give a sum."""
    ### BEGIN SOLUTION
    return a + b + more
    ### END SOLUTION


# %%
add = use(add)
add(1, 2)

# %%
add = use(add)
add(1, 2)
'''


def exercise(id: str, parameters: str, *points: float) -> Exercise:
    contracts = tuple(
        Contract(f"law_{k}", f"law {k} | of {id}", p, lambda answer, generator: None, ("think",))
        for k, p in enumerate(points)
    )
    return Exercise(
        id=id,
        title=f"To {id}",
        minutes=5,
        difficulty=2,
        reference=abs,
        parameters=parameters,
        may_call="anything",
        contracts=contracts,
        not_allowed=("math.fsum",),
    )


LESSON = Lesson(
    name="09_numbers",
    title="Numbers",
    minutes=30,
    difficulty=1,
    exercises=(
        exercise("double", "number", 1.0, 0.5),
        exercise("add", "a, b=1, *, more=0", 2.0),
    ),
)
NOTEBOOK, SOLVED = Path("notebooks/09_numbers.ipynb"), Path("solutions/09_numbers.ipynb")


@pytest.fixture
def root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The course of one lesson; the working directory is a folder in it."""
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    return root


def course(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "80"})


def change(root: Path, old: str, new: str) -> None:
    path = root / "solutions" / "09_numbers.py"
    assert old in SOURCE
    path.write_text(SOURCE.replace(old, new), encoding="utf-8")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture
def solved() -> NotebookNode:
    return build.solved_notebook(LESSON, SOURCE)


@pytest.fixture
def student(solved: NotebookNode) -> NotebookNode:
    return build.student_notebook(solved)


def by_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    cells = {cell.id: cell for cell in notebook.cells}
    assert len(cells) == len(notebook.cells)
    return cells


# --- what is made -------------------------------------------------------------------------------


def test_both_notebooks_are_valid_and_hold_no_outputs(
    solved: NotebookNode, student: NotebookNode
) -> None:
    for notebook in (solved, student):
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
        assert notebook.metadata == build.METADATA
        for cell in notebook.cells:
            assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_generated_cells_stand_where_they_belong(student: NotebookNode) -> None:
    ids = [cell.id for cell in student.cells]
    assert ids[1] == "exercises"
    for id in ("double", "add"):
        at = ids.index(f"exercise-{id}")
        assert ids[at : at + 3] == [f"exercise-{id}", f"answer-{id}", id]
    cells = by_id(student)
    assert cells["double"].source == 'check("double", double)'
    assert "| 9.1 | To double | `double` | 1.5 | 5 | ★★☆ |" in cells["exercises"].source
    heading = cells["exercise-add"].source
    assert heading.startswith("### Exercise 9.2 · To add\n\n2 points · about 5 minutes")
    assert r"| law 0 \| of add | 2 |" in heading and "`math.fsum`" in heading


def test_the_student_notebook_has_the_stub_for_the_answer_and_all_else_alike(
    solved: NotebookNode, student: NotebookNode
) -> None:
    assert [c.id for c in solved.cells] == [c.id for c in student.cells]
    for theirs, ours in zip(student.cells, solved.cells, strict=True):
        if theirs.id.startswith("answer-"):
            assert ours.source.count(build.BEGIN) == ours.source.count(build.END) == 1
        else:
            assert theirs.source == ours.source
    assert by_id(student)["answer-double"].source.splitlines() == [
        "def double(number: float) -> float:",
        '    """Give twice a number."""',
        '    raise NotImplementedError("double: replace this line with your code, '
        'then run the check below")',
    ]
    text = build.as_text(student)
    assert not re.search("SOLUTION|twice = number|Adding is exact|a [+] b", text)


def test_nbgrader_knows_answers_checks_and_points(student: NotebookNode) -> None:
    cells = by_id(student)
    marked = {
        cell.id: cell.metadata.nbgrader for cell in student.cells if "nbgrader" in cell.metadata
    }
    assert set(marked) == {"answer-double", "double", "answer-add", "add"}
    for id, points in (("double", 1.5), ("add", 2.0)):
        answer, check = marked[f"answer-{id}"], marked[id]
        assert answer.solution and not answer.grade and not answer.locked
        assert check.grade and check.locked and not check.solution and check.points == points
        assert check.grade_id == id and answer.grade_id == f"answer-{id}"
        assert check.schema_version == answer.schema_version == 3
        assert check.checksum and answer.checksum
        assert cells[id].metadata.editable is False and cells[id].metadata.deletable is False
        assert cells[f"answer-{id}"].metadata.deletable is False


def test_only_tags_of_a_sources_metadata_stay(student: NotebookNode) -> None:
    assert [c.metadata.tags for c in student.cells if "tags" in c.metadata] == [["look"]]
    assert not any({"exercise", "lines_to_next_cell"} & set(c.metadata) for c in student.cells)


def test_a_cell_keeps_its_id_while_its_text_stays() -> None:
    before = by_id(build.solved_notebook(LESSON, SOURCE))
    after = by_id(build.solved_notebook(LESSON, SOURCE.replace("Twice two", "Two times two")))
    assert len(set(before) ^ set(after)) == 2
    assert {i: before[i].source for i in set(before) & set(after)} == {
        i: after[i].source for i in set(before) & set(after)
    }


def test_annotations_are_free() -> None:
    plain = SOURCE.replace("a: int, b: int = 1, *, more: int = 0", "a, b=1, *, more=0")
    build.solved_notebook(LESSON, plain)


# --- what is refused ----------------------------------------------------------------------------

BAD_SOURCES = {
    "no cell of an exercise": ('# %% exercise="add"', "# %%", "no cell for add"),
    "an unknown exercise": ('exercise="add"', 'exercise="subtract"', "no cell for add"),
    "another parameter": ("number: float)", "value: float)", "the registry's is double(number)"),
    "another default": ("b: int = 1", "b: int = 2", "the registry's is add(a, b=1, *, more=0)"),
    "another order": ("a: int, b: int = 1", "b: int, a: int = 1", "the registry's is add("),
    "positional for keyword-only": ("*, more", "more", "the registry's is add(a, b=1, *, more=0)"),
    "another function": ("def add(", "def plus(", "the function add alone"),
    "more than the function": (
        "def double",
        "import math\ndef double",
        "the function double alone",
    ),
    "no region": ("    ### BEGIN SOLUTION\n    return a", "    return a", "one ### BEGIN SOLUTION"),
    "a region left open": ("more\n    ### END SOLUTION\n", "more\n", "one ### BEGIN SOLUTION"),
    "an indented marker gone wrong": ("def add(", "def add(:", "line 1"),
    "a region outside": (
        "    ### BEGIN SOLUTION\n    return a + b + more\n    ### END SOLUTION\n",
        "    return 1\n\n### BEGIN SOLUTION\n### END SOLUTION\n",
        "inside the function",
    ),
    "a solution elsewhere": (
        "double(3)",
        "### BEGIN SOLUTION\ndouble(3)\n### END SOLUTION",
        "in a cell that is no exercise",
    ),
    "no check": ("def check", "def tried", "add: from distill_lab.exercises import check, use"),
    "not used": ("double = use(double)", "", "says double = use(double)"),
    "no title": ("# %% [markdown]\n# # 9", "# %%\n# # 9", "must begin with a markdown cell"),
}


@pytest.mark.parametrize(("old", "new", "said"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_the_registry_does_not_know_is_refused(
    old: str, new: str, said: str, root: Path
) -> None:
    change(root, old, new)
    done = course("build")
    assert isinstance(done.exception, build.SourceError) and said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (root / NOTEBOOK).exists() and not (root / SOLVED).exists()
    done = course("build", "--check")
    assert done.exit_code == 1 and said in done.output


def test_two_cells_of_one_exercise_and_a_foreign_one_are_refused() -> None:
    two = SOURCE + SOURCE[SOURCE.index('# %% exercise="add"') : SOURCE.index("# %%\nadd = use")]
    with pytest.raises(build.SourceError, match="more than one cell for add"):
        build.solved_notebook(LESSON, two)
    with pytest.raises(build.SourceError, match="no exercise 'add'"):
        build.solved_notebook(replace(LESSON, exercises=LESSON.exercises[:1]), SOURCE)
    with pytest.raises(build.SourceError, match="another order"):
        build.solved_notebook(replace(LESSON, exercises=LESSON.exercises[::-1]), SOURCE)


def test_a_lesson_without_source_is_refused(root: Path) -> None:
    (root / "solutions" / "09_numbers.py").rename(root / "solutions" / "08_other.py")
    assert "09_numbers.py is missing" in str(course("build").exception)


def test_without_a_course_nearby_the_folder_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "lessons", lambda: (LESSON,))
    assert "--root FOLDER" in str(course("build").exception)


# --- files --------------------------------------------------------------------------------------


def test_building_twice_changes_nothing(root: Path) -> None:
    assert course("build").exit_code == 0
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.ipynb")}
    assert {p.relative_to(root) for p in before} == {NOTEBOOK, SOLVED}
    assert all(content.endswith(b"}\n") for content, _ in before.values())
    done = course("build", "9")
    assert done.output.count("is up to date") == 2
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.ipynb")}
    assert course("build", "--check").exit_code == 0


def edit(path: Path, id: str, edited: Callable[[NotebookNode], None]) -> None:
    notebook = read(path)
    edited(by_id(notebook)[id])
    path.write_text(build.as_text(notebook), encoding="utf-8")


def set_source(source: str) -> Callable[[NotebookNode], None]:
    return lambda cell: cell.update(source=source)


@pytest.mark.parametrize("path", [NOTEBOOK, SOLVED])
def test_check_shows_an_edit_as_a_diff(path: Path, root: Path) -> None:
    course("build")
    edit(root / path, "exercises", set_source("Something else"))
    before = (root / path).read_bytes()
    done = course("build", "--check")
    assert done.exit_code == 1
    assert f"--- {path.as_posix()}" in done.output and '-    "Something else"' in done.output
    last = done.output.splitlines()[-1]
    assert last == (
        f"{path.as_posix()} is not what its source makes; run: distill-lab course build 09_numbers"
    )
    assert (root / path).read_bytes() == before


def test_check_finds_what_is_stale_or_missing(root: Path) -> None:
    done = course("build", "--check")
    assert done.exit_code == 1 and done.output.count("is missing") == 2
    course("build")
    change(root, "Twice two", "Two times two")
    done = course("build", "--check")
    assert done.exit_code == 1 and '+    "Two times two is' in done.output
    assert course("build").exit_code == course("build", "--check").exit_code == 0


@pytest.mark.parametrize("change_output", [True, False])
def test_check_finds_outputs_and_metadata(change_output: bool, root: Path) -> None:
    course("build")

    def edited(cell: NotebookNode) -> None:
        if change_output:
            cell.execution_count = 3
        else:
            cell.metadata.nbgrader.points = 9.0

    edit(root / NOTEBOOK, "double", edited)
    assert course("build", "--check").exit_code == 1


def test_check_names_a_line_of_an_answer_in_a_student_notebook(root: Path) -> None:
    course("build")
    edit(
        root / NOTEBOOK,
        "answer-double",
        set_source("def double(number):\n  twice = number + number"),
    )
    done = course("build", "--check")
    assert done.exit_code == 1
    assert "holds a line of an answer ('twice = number + number')" in done.output


def test_check_shows_an_exercise_without_cell_as_a_diff(root: Path) -> None:
    course("build")
    change(root, '# %% exercise="add"', "# %%")
    done = course("build", "--check")
    assert done.exit_code == 1 and "\n+add\n" in done.output


def test_check_and_build_take_a_file_that_is_no_notebook(root: Path) -> None:
    course("build")
    (root / NOTEBOOK).write_bytes(b"\xff not JSON")
    assert course("build", "--check").exit_code == 1
    course("build")
    assert course("build", "--check").exit_code == 0
    assert (root / "notebooks" / "09_numbers.attempt-1.ipynb").read_bytes() == b"\xff not JSON"


def test_build_keeps_answers_that_somebody_wrote(root: Path) -> None:
    course("build")
    edit(root / NOTEBOOK, "answer-add", set_source("def add(a, b=1, *, more=0):\n    return 3"))
    mine = (root / NOTEBOOK).read_bytes()
    assert "09_numbers.attempt-1.ipynb" in course("build").output
    assert (root / "notebooks" / "09_numbers.attempt-1.ipynb").read_bytes() == mine
    change(root, "Twice two", "Two times two")  # stale, but nobody's work is in it
    course("build")
    assert len(list((root / "notebooks").iterdir())) == 2


# --- running ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_execute_writes_executed_copies_and_leaves_the_notebooks(root: Path) -> None:
    change(root, "double(3)", "import os\nprint(os.environ['DISTILL_LAB_STRICT'], double(3))")
    done = course("build", "--execute")
    assert done.exit_code == 0, done.output
    assert course("build", "--check").exit_code == 0
    said = {}
    for kind in ("notebooks", "solutions"):
        cells = read(root / "build" / kind / "09_numbers.ipynb").cells
        (said[kind],) = [o.text for c in cells for o in c.get("outputs", []) if "text" in o]
        assert f"{kind}/09_numbers.ipynb ran in" in done.output
    assert said == {"notebooks": " 2\n", "solutions": "1 6\n"}


@pytest.mark.slow
def test_execute_shows_the_cell_that_fails_and_its_error(root: Path) -> None:
    change(root, "double(3)", "double(3)\n1 / 0")
    done = course("build", "--execute")
    assert done.exit_code == 1
    assert "1 / 0" in done.output and "ZeroDivisionError" in done.output
    assert (
        "\x1b" not in done.output and "Traceback (most recent" not in done.output.split("1 / 0")[0]
    )


# --- the list, and the command line -------------------------------------------------------------


def test_list_fits_80_columns_and_has_everything(root: Path) -> None:
    done = course("list")
    lines = done.output.splitlines()
    assert done.exit_code == 0 and max(map(len, lines)) <= 80 and "\x1b" not in done.output
    rows = [line.split() for line in lines]
    assert ["double", "To", "double", "1.5", "5", "★★☆"] in rows
    assert ["09_numbers", "Numbers", "3.5", "30", "★☆☆"] in rows
    assert ["all", "3.5", "30"] in rows


def test_the_command_line_starts_without_the_notebooks_packages() -> None:
    heavy = ("torch", "jupytext", "nbformat", "nbgrader", "nbclient")
    program = f"import sys, distill_lab.course.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_missing_packages_are_named_in_one_line() -> None:
    program = (
        "import sys; sys.modules['nbgrader'] = None\n"
        "from distill_lab.errors import UserError\n"
        "try:\n    import distill_lab.course.build\n"
        "except UserError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install 'distill-lab[notebooks]'" in done.stdout


def test_the_text_is_what_nbformat_writes(solved: NotebookNode) -> None:
    text = build.as_text(solved)
    assert nbformat.reads(text, as_version=4) == solved
    assert json.loads(text)["cells"][0]["source"][0] == "# 9 · Numbers\n"
