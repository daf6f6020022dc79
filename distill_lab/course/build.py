"""Make both notebooks of a lesson from its one source, ``solutions/NN_name.py``.

The source is a notebook in jupytext's percent format. A cell marked ``exercise="ID"`` holds a
function with its worked answer between ``### BEGIN SOLUTION`` and ``### END SOLUTION``. Heading,
table of points and check cell come from the registry. The solved notebook keeps the markers, so
that it serves as nbgrader's source too; the student notebook is made from it by nbgrader's own
steps, in memory. Neither has outputs, and the same source always makes the same files.
"""

from __future__ import annotations

import ast
import base64
import copy
import difflib
import hashlib
import itertools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from distill_lab.course.notebooks import (
    ANSWER_PREFIX,
    NOTEBOOKS,
    SOLUTIONS,
    as_text,
    keep_attempt,
    notebook_path,
    source_path,
    stars,
)
from distill_lab.errors import UserError
from distill_lab.files import write_text, written_whole

try:
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat import NotebookNode
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
    from nbgrader.preprocessors import SaveCells
    from nbgrader.utils import compute_checksum

    from distill_lab.course.stub import release_steps
except ModuleNotFoundError as error:
    raise UserError(
        f"{error.name} is not installed; the notebooks need: pip install 'distill-lab[notebooks]'"
    ) from error

if TYPE_CHECKING:
    from distill_lab.exercises.registry import Exercise, Lesson

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
EXERCISE_KEY = "exercise"
FIGURE_KEY = "figure"
KEPT_METADATA = ("tags", FIGURE_KEY)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_TIMEOUT = 600  # seconds; a lesson that has to fine-tune its teacher first stays well below


class SourceError(UserError):
    """A lesson's source and the registry do not agree.

    Attributes:
        diff: The disagreement as a unified diff, where it can be shown as one.
    """

    def __init__(self, message: str, diff: str = "") -> None:
        super().__init__(message)
        self.diff = diff


@dataclass(frozen=True)
class Stale:
    """A built notebook that is not what its source makes.

    Attributes:
        path: The notebook.
        diff: From the file to what the source makes.
        reason: What is wrong, in a sentence that says what to do.
    """

    path: Path
    diff: str
    reason: str


# --- from a source to two notebooks -------------------------------------------------------------


def solved_notebook(lesson: Lesson, source: str, figures: Path | None = None) -> NotebookNode:
    """Make the solved notebook, which is nbgrader's source too.

    Args:
        lesson: Its exercises give headings, table of points and check cells.
        source: The text of ``solutions/NN_name.py``.
        figures: Where the pictures lie that say what a cell marked ``figure="NAME"`` should show;
            a cell whose picture is not there goes without.

    Raises:
        SourceError: Source and registry do not agree; the message says where.
    """
    cells = jupytext.reads(source, fmt="py:percent").cells
    _check_source(lesson, cells)
    exercises = {exercise.id: exercise for exercise in lesson.exercises}
    made = []
    for position, cell in enumerate(cells):
        exercise = exercises.get(cell.metadata.get(EXERCISE_KEY, ""))
        cell.metadata = {k: cell.metadata[k] for k in KEPT_METADATA if k in cell.metadata}
        if exercise is None:
            made.append(cell)
        else:
            made += [_heading_cell(lesson, exercise), _answer_cell(cell, exercise)]
            made.append(_check_cell(exercise))
        if figures is not None and FIGURE_KEY in cell.metadata:
            picture = figure_path(figures, lesson, cell.metadata[FIGURE_KEY])
            made += [_picture_cell(picture)] if picture.is_file() else []
        if position == 0 and exercises:
            made.append(_points_cell(lesson))
    for cell in made:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook = new_notebook(cells=_with_ids(lesson, made), metadata=copy.deepcopy(METADATA))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    # Through text once: what is plain dict or str subclass here is then as a reader will have it.
    made_anew: NotebookNode = nbformat.reads(nbformat.writes(notebook), as_version=4)
    nbformat.validate(made_anew)
    return made_anew


def student_notebook(solved: NotebookNode) -> NotebookNode:
    """Make the student notebook: stubs for answers, cells locked, checksums, no outputs."""
    notebook: NotebookNode = copy.deepcopy(solved)
    resources: dict[str, object] = {}
    for step in release_steps():
        if step is not SaveCells:  # the one that asks for a database
            notebook, resources = step()(notebook, resources)
    nbformat.validate(notebook)
    return notebook


def read_lesson(root: Path, lesson: Lesson) -> NotebookNode:
    """Make the solved notebook of a lesson from its source under ``root``.

    Raises:
        UserError: There is no source, or source and registry do not agree.
    """
    path = source_path(root, lesson)
    if not path.is_file():
        raise SourceError(f"{path} is missing; it is the source of lesson {lesson.name}")
    figures = root / NOTEBOOKS / "figures"
    return solved_notebook(lesson, path.read_text(encoding="utf-8"), figures)


# --- the source and the registry ----------------------------------------------------------------


def _check_source(lesson: Lesson, cells: Sequence[NotebookNode]) -> None:
    where = f"solutions/{lesson.name}.py"
    if not cells or cells[0].cell_type != "markdown":
        raise SourceError(f"{where} must begin with a markdown cell, the title")
    found = [c.metadata[EXERCISE_KEY] for c in cells if EXERCISE_KEY in c.metadata]
    wanted = [exercise.id for exercise in lesson.exercises]
    if found != wanted:
        diff = _diff(found, wanted, f"{where}: exercise cells", "the registry's exercises")
        raise SourceError(f"{where}: {_disagreement(found, wanted)}", diff)
    before = itertools.takewhile(lambda cell: EXERCISE_KEY not in cell.metadata, cells)
    if wanted and "check" not in set().union(*map(_names_defined, before)):
        raise SourceError(
            f"{where}: no cell before the first exercise has the name check, which the check cells "
            "call; add: from distill_lab.exercises import check, use"
        )
    exercises = {exercise.id: exercise for exercise in lesson.exercises}
    for position, cell in enumerate(cells):
        if EXERCISE_KEY in cell.metadata:
            id = cell.metadata[EXERCISE_KEY]
            _check_answer(f'{where}, cell exercise="{id}"', cell, exercises[id])
            used = re.compile(rf"^{id} = use\({id}\)$", re.MULTILINE)
            if not any(used.search(later.source) for later in cells[position + 1 :]):
                raise SourceError(
                    f"{where}: no cell after the exercise {id} says {id} = use({id}); without it "
                    "the unsolved notebook stops there"
                )
        elif BEGIN in cell.source or END in cell.source:
            line = cell.source.splitlines()[0]
            raise SourceError(
                f"{where} has a solution in a cell that is no exercise ({line!r}); "
                'mark the cell as # %% exercise="ID", or take the markers out'
            )


def _disagreement(found: list[str], wanted: list[str]) -> str:
    if missing := [id for id in wanted if id not in found]:
        return f'no cell for {", ".join(missing)}; add a cell # %% exercise="{missing[0]}"'
    if unknown := [id for id in found if id not in wanted]:
        return f"the registry's lesson has no exercise {', '.join(map(repr, unknown))}"
    if repeated := [id for id, times in Counter(found).items() if times > 1]:
        return f"more than one cell for {', '.join(repeated)}; keep one"
    return f"the cells come in another order than the registry's exercises: {', '.join(wanted)}"


def _check_answer(where: str, cell: NotebookNode, exercise: Exercise) -> None:
    lines = [line.strip() for line in cell.source.splitlines()]
    marks = [line for line in lines if line in (BEGIN, END)]
    if marks != [BEGIN, END]:
        raise SourceError(f"{where}: it must hold one {BEGIN} and, after it, one {END}")
    try:
        body = ast.parse(cell.source).body
    except SyntaxError as error:
        raise SourceError(f"{where}: line {error.lineno}: {error.msg}") from None
    function = body[0] if len(body) == 1 else None
    if not isinstance(function, ast.FunctionDef) or function.name != exercise.id:
        raise SourceError(
            f"{where}: it must hold the function {exercise.id} alone; imports go into the first "
            "code cell, helpers into the function"
        )
    has, wanted = _signature(function), _signature_of(exercise.parameters)
    if has != wanted:
        raise SourceError(
            f"{where}: its signature is {exercise.id}({has}); the registry's is "
            f"{exercise.id}({wanted})",
            _diff([f"{exercise.id}({has})"], [f"{exercise.id}({wanted})"], where, "the registry"),
        )
    first = function.body[0]  # the docstring, where there is one
    inside = [line for line in cell.source.splitlines() if line.strip() in (BEGIN, END)]
    deep = all(len(line) - len(line.lstrip()) == first.col_offset > 0 for line in inside)
    if not deep or lines.index(BEGIN) < first.lineno:
        raise SourceError(
            f"{where}: {BEGIN} and {END} must lie inside the function, after its docstring and as "
            "deep as it"
        )


def _names_defined(cell: NotebookNode) -> set[str]:
    """Give the names that a code cell imports or defines."""
    try:
        nodes = list(ast.walk(ast.parse(cell.source))) if cell.cell_type == "code" else []
    except SyntaxError:  # a cell with IPython's commands
        return set()
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    return imported | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def _signature_of(parameters: str) -> str:
    function = ast.parse(f"def stub({parameters}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return _signature(function)


def _signature(function: ast.FunctionDef) -> str:
    """Give the parameters as text: names, order, defaults, kinds; annotations are left out."""
    arguments = copy.deepcopy(function.args)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(arguments)


# --- generated cells ----------------------------------------------------------------------------


def _heading_cell(lesson: Lesson, exercise: Exercise) -> NotebookNode:
    contracts = "\n".join(
        f"| {_in_table(contract.law)} | {contract.points:g} |" for contract in exercise.contracts
    )
    not_allowed = ", ".join(f"`{name}`" for name in exercise.not_allowed)
    allowed = exercise.may_call.strip().rstrip(".")
    limits = [f"You may call: {allowed}."] if allowed else []
    limits += (
        [f"Not allowed, because it is the answer itself: {not_allowed}."] if not_allowed else []
    )
    parts = [
        f"### Exercise {_number(lesson, exercise)} · {exercise.title}",
        f"{_counted(exercise.points, 'point')} · about {_counted(exercise.minutes, 'minute')} · "
        f"difficulty {stars(exercise.difficulty)} ({exercise.difficulty} of 3)",
        f"Replace the last line of `{exercise.id}` with your code, run the cell, then run the "
        "check below it.",
        *([" ".join(limits)] if limits else []),
        f"| What the check tries | Points |\n|:---|---:|\n{contracts}",
    ]
    cell: NotebookNode = new_markdown_cell("\n\n".join(parts))
    cell.id = f"exercise-{exercise.id}"
    return cell


def _answer_cell(cell: NotebookNode, exercise: Exercise) -> NotebookNode:
    cell.id = ANSWER_PREFIX + exercise.id
    cell.metadata["nbgrader"] = _nbgrader(cell.id, solution=True)
    return cell


def _check_cell(exercise: Exercise) -> NotebookNode:
    cell: NotebookNode = new_code_cell(f'check("{exercise.id}", {exercise.id})')
    cell.id = exercise.id
    meta = _nbgrader(exercise.id, grade=True, locked=True)
    cell.metadata = {"nbgrader": meta | {"points": float(exercise.points)}}
    return cell


def _nbgrader(
    grade_id: str, *, grade: bool = False, solution: bool = False, locked: bool = False
) -> dict[str, object]:
    return {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }


def _points_cell(lesson: Lesson) -> NotebookNode:
    rows = [
        f"| {_number(lesson, x)} | {_in_table(x.title)} | `{x.id}` | {x.points:g} | {x.minutes} "
        f"| {stars(x.difficulty)} |"
        for x in lesson.exercises
    ]
    minutes = sum(exercise.minutes for exercise in lesson.exercises)
    table = [
        "| | Exercise | Function | Points | Minutes | Difficulty |",
        "|:---|:---|:---|---:|---:|:---|",
        *rows,
        f"| | **All exercises** | | **{lesson.points:g}** | **{minutes}** | |",
    ]
    whole = f"The whole lesson takes about {lesson.minutes} minutes, the exercises included."
    cell: NotebookNode = new_markdown_cell("\n".join([*table, "", whole]))
    cell.id = "exercises"
    return cell


def figure_path(figures: Path, lesson: Lesson, name: str) -> Path:
    """Give the path of the picture of a cell marked ``figure="NAME"``."""
    return figures / f"{lesson.name}-{name}.png"


def _picture_cell(picture: Path) -> NotebookNode:
    """Show a picture folded away. It lies in the cell, and so goes wherever the notebook goes."""
    with Image.open(picture) as image:
        alt = re.sub(r"[\[\]\s]+", " ", str(image.info.get("Description", "")))
    cell: NotebookNode = new_markdown_cell(
        "<details>\n<summary>What you should see (from a run of the solved notebook)</summary>\n\n"
        f"![{alt}](attachment:{picture.name})\n\n</details>"
    )
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    cell.attachments = {picture.name: {"image/png": data}}
    return cell


def _number(lesson: Lesson, exercise: Exercise) -> str:
    return f"{lesson.number}.{lesson.exercises.index(exercise) + 1}"


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"


def _in_table(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _with_ids(lesson: Lesson, cells: list[NotebookNode]) -> list[NotebookNode]:
    """Give every cell that has no id from the registry one from its own text.

    A cell then keeps its id for as long as its text stays, wherever it moves.
    """
    named = {"exercises"} | {
        id for x in lesson.exercises for id in (x.id, f"exercise-{x.id}", ANSWER_PREFIX + x.id)
    }
    seen: Counter[str] = Counter()
    for cell in cells:
        if cell.id in named:
            continue
        text = "\0".join((lesson.name, cell.cell_type, cell.source))
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
        cell.id = f"{digest}-{seen[digest]}" if seen[digest] else digest
        seen[digest] += 1
    return cells


# --- files --------------------------------------------------------------------------------------


def built_texts(root: Path, lesson: Lesson) -> dict[Path, str]:
    """Give the text of both notebooks of a lesson by their path; writes nothing.

    Raises:
        UserError: There is no source, or source and registry do not agree.
    """
    solved = read_lesson(root, lesson)
    return {
        notebook_path(root, SOLUTIONS, lesson): as_text(solved),
        notebook_path(root, NOTEBOOKS, lesson): as_text(student_notebook(solved)),
    }


def build(root: Path, lesson: Lesson) -> Iterator[str]:
    """Write both notebooks of a lesson where they differ; give a line about each.

    A student notebook whose answers somebody has written is kept beside the new one.

    Raises:
        UserError: There is no source, or source and registry do not agree.
    """
    for path, text in built_texts(root, lesson).items():
        shown = path.relative_to(root)
        if _read(path) == text:
            yield f"{shown} is up to date"
            continue
        kept = ""
        if path.parent.name == NOTEBOOKS and _has_answers(path):
            kept = f"; the answers that were in it: {keep_attempt(path).name}"
        write_text(path, text)
        yield f"{shown} written{kept}"


def check_built(root: Path, lesson: Lesson) -> list[Stale]:
    """Find the notebooks of a lesson that are missing, stale or edited.

    Raises:
        UserError: There is no source, or source and registry do not agree.
    """
    found = []
    texts = built_texts(root, lesson)
    answers = _answer_lines(texts[notebook_path(root, SOLUTIONS, lesson)])
    for path, text in texts.items():
        have = _read(path)
        if have == text:
            continue
        shown = path.relative_to(root).as_posix()
        diff = _diff(have.splitlines(), text.splitlines(), shown, f"{shown} as its source makes it")
        reason = f"{shown} is {'not what its source makes' if have else 'missing'}"
        if path.parent.name == NOTEBOOKS and (leaked := _leaked(answers, have, text)):
            reason = f"{shown} holds a line of an answer ({leaked!r})"
        found.append(Stale(path, diff, f"{reason}; run: distill-lab course build {lesson.name}"))
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _has_answers(path: Path) -> bool:
    """Whether an answer cell of a student notebook is no longer as it was released."""
    try:
        cells = nbformat.read(path, as_version=4).cells
        marked = [(c, c.metadata.get("nbgrader", {})) for c in cells]
        return any(
            m.get("solution") and m.get("checksum") != compute_checksum(c) for c, m in marked
        )
    except Exception:  # whatever it is, it is not ours to throw away
        return path.is_file()


def answer_line_in(text: str, solved: NotebookNode) -> str:
    """Give a line of an answer that stands in a student's notebook, or nothing.

    A line that the solved notebook also has outside its answers tells nothing and does not count.
    """
    shown = copy.deepcopy(solved)
    for cell in shown.cells:
        before, _, rest = cell.source.partition(BEGIN)
        cell.source = before + rest.partition(END)[2]
    return _leaked(_answer_lines(as_text(solved)), text, as_text(shown))


def _answer_lines(solved: str) -> set[str]:
    """Give the lines of code between the markers of a solved notebook."""
    lines: set[str] = set()
    for cell in nbformat.reads(solved, as_version=4).cells:
        if BEGIN in cell.source:
            answer = cell.source.partition(BEGIN)[2].partition(END)[0]
            lines |= {line.strip() for line in answer.splitlines()}
    return {line for line in lines if line and not line.startswith("#")}


def _leaked(answers: set[str], have: str, expected: str) -> str:
    """Give a line of an answer that stands in a notebook and should not, or nothing."""
    extra = _source_lines(have) - _source_lines(expected)
    return next(iter(sorted(extra & answers, key=len, reverse=True)), "")


def _source_lines(text: str) -> set[str]:
    try:
        cells = nbformat.reads(text, as_version=4).cells
    except Exception:  # not a notebook; the diff says so
        return set()
    return {line.strip() for cell in cells for line in cell.source.splitlines()}


def _diff(old: Sequence[str], new: Sequence[str], old_name: str, new_name: str) -> str:
    return "\n".join(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))


# --- running ------------------------------------------------------------------------------------


class CellFailed(Exception):
    """A cell of an executed notebook raised; the message shows the cell and the error."""


def execute(root: Path, lesson: Lesson, kind: str) -> Path:
    """Run a built notebook and write the executed copy to ``build/`` under ``root``.

    A solved one runs in strict mode. No progress is noted in the user's data folder.

    Args:
        kind: ``"notebooks"`` or ``"solutions"``.

    Returns:
        The executed copy.

    Raises:
        CellFailed: A cell raised, took too long or ended the kernel; the copy shows how far it
            came.
    """
    source = notebook_path(root, kind, lesson)
    target = root / "build" / kind / source.name
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
    )
    with tempfile.TemporaryDirectory() as data:
        strict = {"DISTILL_LAB_STRICT": "1" if kind == SOLUTIONS else ""}
        try:
            client.execute(env=os.environ | strict | {"DISTILL_LAB_DATA": data})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise CellFailed(re.sub(r"\x1b\[[0-9;]*m", "", str(error))) from error
        finally:
            write_text(target, as_text(notebook))
    return target


def draw_figures(root: Path, lesson: Lesson) -> Iterator[Path]:
    """Run the solved notebook and store the pictures of the cells marked ``figure="NAME"``.

    Yields:
        The path of each picture, as it is written.

    Raises:
        CellFailed: A cell raised.
        SourceError: A marked cell shows no figure.
    """
    executed = nbformat.read(execute(root, lesson, SOLUTIONS), as_version=4)
    for cell in executed.cells:
        if cell.cell_type != "code" or FIGURE_KEY not in cell.metadata:
            continue
        name = cell.metadata[FIGURE_KEY]
        shown = "".join(o.get("data", {}).get("text/html", "") for o in cell.outputs)
        found = re.search(r'src="data:image/png;base64,([^"]+)"', shown)
        if found is None:
            where = f"solutions/{lesson.name}.py"
            raise SourceError(f"{where}: the cell marked figure={name!r} shows no figure")
        path = figure_path(root / NOTEBOOKS / "figures", lesson, name)
        with written_whole(path) as temporary:
            temporary.write_bytes(base64.b64decode(found[1]))
        yield path
