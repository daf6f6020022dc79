"""Turn a notebook that a stranger handed in into the cells to run; mend what can be mended.

This runs in the judge. It looks at code as text only: nothing of it is run, compiled or parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill_lab.course.notebooks import ANSWER_PREFIX
from distill_lab.exercises.registry import Lesson, exercises

if TYPE_CHECKING:
    from nbformat import NotebookNode

LARGEST_NOTEBOOK = 20_000_000  # bytes
MOST_BRACKETS = 1_000_000  # lists and objects in its JSON, each of which takes 60 to 230 bytes
MOST_CELLS = 2_000
LONGEST_CODE = 1 << 19  # characters of all its code, as JSON; a message to a worker holds twice it

_IMPORT = re.compile(r"^(?:import|from) ", re.MULTILINE)
_CHECK = re.compile(r"check\(\s*[\"'](\w{1,100})[\"']\s*,\s*\w{1,100}\s*\)")
_CONTINUES = re.compile(r"(?:[^\S\n]*\n)*+(?:[^\S\n]|[)\]}])")  # begins indented, or closes
_ENDS_OPEN = (":", ",", "(", "[", "{", "\\", '"""', "'''")  # the last two: a docstring and no more
_SURROGATES = re.compile("[\ud800-\udfff]")


class Unreadable(Exception):
    """A file is no notebook that can be graded; the message says why, in one line."""


@dataclass(frozen=True)
class Cell:
    """A code cell to run.

    Attributes:
        source: Its code, as in IPython. Empty in a cell that stands for a further answer of the
            cell before it.
        answers: The exercise whose answer it holds.
        released: Whether it is exactly a cell of the lesson as released: the instructor's text.
    """

    source: str
    answers: str | None = None
    released: bool = False


@dataclass(frozen=True)
class Script:
    """What a notebook comes down to.

    Attributes:
        cells: To run, in order.
        missing: By exercise id, why no answer was found, in one line.
        repairs: What was mended, a plain sentence each.
    """

    cells: tuple[Cell, ...]
    missing: Mapping[str, str]
    repairs: tuple[str, ...]


def read_script(content: bytes, lesson: Lesson, released: NotebookNode) -> Script:
    """Find the answers in a notebook, and the cells they may build on.

    An answer is the cell so marked by its nbgrader ``grade_id`` or its id; where that holds no
    function of the exercise's name, any cell that defines one. The check cells are left out.

    Args:
        content: The file.
        lesson: Whose notebook it should be.
        released: The lesson's notebook as students got it.

    Raises:
        Unreadable: It is no notebook, or too large.
    """
    repairs: list[str] = []
    handed_in = list(_parts(content, repairs))
    known = _Released(lesson, released)
    parts = [part for part in handed_in if known.is_students(part)]
    _check_length([part for part in parts if part.text not in known.shown])
    parts = _joined(parts, repairs)
    answers = {x.id: part for x in lesson.exercises if (part := _answer(parts, x.id, known))}
    for id, part in answers.items():
        repairs += _told(id, part, parts, known)
    cells = [cell for part in parts for cell in _cells(part, answers, known)]
    cells = _imports_first(cells, known, repairs)
    missing = {
        x.id: _why_missing(x.id, handed_in, bool(answers))
        for x in lesson.exercises
        if x.id not in answers
    }
    return Script(tuple(cells), missing, tuple(repairs))


# --- from bytes to the parts of a notebook ------------------------------------------------------


@dataclass
class _Part:
    """A cell as it was handed in.

    Attributes:
        kind: ``"code"``, ``"markdown"``, ``"raw"``, or whatever the file says.
        source: With plain ends of line.
        mark: What tells which cell of the lesson it is: its grade_id, else its id.
        pieces: How many cells it was in the file.
    """

    kind: str
    source: str
    mark: str
    pieces: int = 1

    @property
    def answer(self) -> str:
        """The exercise whose answer it is marked as."""
        return self.mark.removeprefix(ANSWER_PREFIX) if self.mark.startswith(ANSWER_PREFIX) else ""

    @property
    def text(self) -> str:
        """What it is compared by."""
        return self.source.strip()

    def defines(self, id: str) -> bool:
        """Whether it has a function of that name, outside of everything else."""
        return re.search(rf"^def[ \t]+{id}[ \t]*[(\[]", self.source, re.MULTILINE) is not None

    def assigns(self, id: str) -> bool:
        """Whether it gives that name to something; that ``use`` gave it back does not count."""
        found = re.search(rf"^{id}[ \t]*=(?![ \t]*use\(|=)", self.source, re.MULTILINE)
        return found is not None


def _parts(content: bytes, repairs: list[str]) -> Iterator[_Part]:
    """Give the cells of a notebook, of whatever format.

    Raises:
        Unreadable: It is no notebook, or too large.
    """
    notebook = _json(content, repairs)
    if not isinstance(notebook, dict):
        raise Unreadable("the file is no notebook: its JSON is no object")
    cells = notebook.get("cells")
    if not isinstance(cells, list) and isinstance(notebook.get("worksheets"), list):
        repairs.append("The notebook is in an old format, with worksheets; it was converted.")
        sheets = [_get(sheet, "cells") for sheet in notebook["worksheets"]]
        cells = [cell for sheet in sheets if isinstance(sheet, list) for cell in sheet]
    if not isinstance(cells, list):
        raise Unreadable("the file is no notebook: it has no list of cells")
    if len(cells) > MOST_CELLS:
        raise Unreadable(f"the notebook has {len(cells):,} cells; at most {MOST_CELLS:,} are read")
    if broken := sum(not isinstance(cell, dict) for cell in cells):
        repairs.append(f"{_counted(broken, 'entry', 'entries')} among the cells were no cells.")
    yield from (_part(cell) for cell in cells if isinstance(cell, dict))


def _json(content: bytes, repairs: list[str]) -> Any:
    if len(content) > LARGEST_NOTEBOOK:
        raise Unreadable(too_large(len(content)))
    if not content.strip():
        raise Unreadable("the file is empty")
    if content.count(b"[") + content.count(b"{") > MOST_BRACKETS:
        raise Unreadable(f"the notebook's JSON has more than {MOST_BRACKETS:,} lists and objects")
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        repairs.append(f"The file is in {encoding.upper()}; it was converted.")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode(encoding, "replace")
        repairs.append(f"The file has bytes that are no {encoding.upper()}; they were replaced.")
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("the notebook's JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno}, column {error.colno}"
        raise Unreadable(f"the file is no notebook, or a broken one: no JSON ({where})") from None
    except ValueError:  # a number of thousands of digits
        raise Unreadable("the notebook's JSON has a number that is too long") from None


def too_large(size: int) -> str:
    """Say that a notebook is too large to be read."""
    return (
        f"the notebook has {size / 1e6:.1f} MB; at most {LARGEST_NOTEBOOK / 1e6:g} are read: "
        "clear its outputs"
    )


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _part(cell: dict[str, Any]) -> _Part:
    kind = cell.get("cell_type")
    if not isinstance(kind, str):
        kind = "code" if "outputs" in cell else "raw"
    source = _source(cell.get("source")) or _source(cell.get("input"))
    grade_id, id = _get(_get(cell.get("metadata"), "nbgrader"), "grade_id"), cell.get("id")
    mark = next((m for m in (grade_id, id) if isinstance(m, str) and m), "")
    return _Part(kind, source, mark)


def _source(source: Any) -> str:
    """Give a cell's source, which may be a list of lines, as one text."""
    if isinstance(source, list):
        lines = [line for line in source if isinstance(line, str)]
        source = "".join(lines)
        if len(source.splitlines()) < 2:  # lines without their ends
            source = "\n".join(lines)
    if not isinstance(source, str):
        return ""
    return _SURROGATES.sub("\ufffd", re.sub("\r\n?", "\n", source))


# --- what is the lesson's -----------------------------------------------------------------------


class _Released:
    """The code of the lesson as released, to tell it from what students wrote.

    Attributes:
        stubs: The source of the answer cells, by their text.
        shown: The source of all other code cells, checks aside, by their text.
        imports: The first that imports; None if there is none.
    """

    def __init__(self, lesson: Lesson, notebook: NotebookNode) -> None:
        self.ids = [exercise.id for exercise in lesson.exercises]
        parts = [_part(cell) for cell in notebook.cells if cell.cell_type == "code"]
        self.stubs = {part.text: part.source for part in parts if part.answer in self.ids}
        shown = [p for p in parts if p.answer not in self.ids and self.is_students(p)]
        self.shown = {part.text: part.source for part in shown}
        self.imports = next((p.source for p in shown if _IMPORT.search(p.source)), None)

    def is_students(self, part: _Part) -> bool:
        """Whether a cell is a student's to write: all but text, blank cells and checks are."""
        if not part.text:
            return False
        if part.kind != "code":
            return part.answer in self.ids and part.defines(part.answer)
        check = _CHECK.fullmatch(part.text)
        checks = check[1] if check else part.mark
        return checks not in self.ids or part.defines(checks)

    def is_stub(self, part: _Part) -> bool:
        """Whether it is an answer cell as it was released."""
        return part.text in self.stubs


def _check_length(parts: Sequence[_Part]) -> None:
    length = sum(len(json.dumps(part.source)) for part in parts)
    if length > LONGEST_CODE:
        raise Unreadable(
            f"the notebook's code has {length:,} characters; at most {LONGEST_CODE:,} are run"
        )


# --- answers ------------------------------------------------------------------------------------


def _joined(parts: Sequence[_Part], repairs: list[str]) -> list[_Part]:
    """Put functions together again that were cut in two where a cell was split."""
    kept: list[_Part] = []
    for part in parts:
        first = _first_piece(kept, part)
        if first is None:
            kept.append(part)
        else:
            first.source += "\n" + part.source
            first.pieces += 1
    for part in kept:
        if part.pieces > 1:
            cells = _counted(part.pieces, "cell", "cells")
            repairs.append(f"The answer to {part.answer} was split over {cells}; they were joined.")
    return kept


def _first_piece(before: Sequence[_Part], part: _Part) -> _Part | None:
    """Give the cell that a cell goes on from, if it goes on from one.

    JupyterLab marks both pieces of a cell as the same answer, other editors only the first.
    """
    same = [p for p in before if p.answer and p.answer == part.answer]
    if same:
        goes_on = _CONTINUES.match(part.source) or _is_open(same[-1])
        return same[-1] if goes_on and not part.defines(part.answer) else None
    if before and before[-1].answer and not part.mark.startswith(ANSWER_PREFIX):
        return before[-1] if _CONTINUES.match(part.source) and _is_open(before[-1]) else None
    return None


def _is_open(part: _Part) -> bool:
    """Whether the function in a cell has no end there."""
    quotes = part.source.count('"""') % 2 or part.source.count("'''") % 2
    return bool(quotes) or part.text.endswith(_ENDS_OPEN)


def _answer(parts: Sequence[_Part], id: str, known: _Released) -> _Part | None:
    """Give the cell with the answer to an exercise: of the best, the last."""
    ranked = [(_rank(part, id, known), number) for number, part in enumerate(parts)]
    rank, number = max(ranked, default=(0, 0))
    return parts[number] if rank else None


def _rank(part: _Part, id: str, known: _Released) -> int:
    own = part.answer == id
    if part.text in known.shown:
        return 0
    if part.defines(id):
        return 3 if known.is_stub(part) else 6 if own else 5
    if part.assigns(id):
        return 4 if own else 2
    return 1 if own else 0


def _told(id: str, part: _Part, parts: Sequence[_Part], known: _Released) -> Iterator[str]:
    """Say what had to be decided to find an answer."""
    others = [p for p in parts if p.answer == id and p is not part and not known.is_stub(p)]
    if part.answer != id:
        yield f"The answer to {id} was found in a cell that is not marked as its answer."
    if part.kind != "code":
        yield f"The cell with the answer to {id} was no code cell; it was taken as one."
    if any(other.defines(id) for other in others):
        yield f"There are several answers to {id}; the last one counts."
    elif others:
        yield f"The answer to {id} was split over several cells; all of them were run."


def _why_missing(id: str, handed_in: Sequence[_Part], others: bool) -> str:
    expected = f"(expected a cell that defines {id})"
    own = [part for part in handed_in if part.answer == id]
    strange = sorted({part.answer for part in handed_in} & set(exercises()))
    if own:
        what = "is empty" if not any(part.text for part in own) else "is no code cell"
        return f"no cell with the answer: its cell {what} {expected}"
    if strange and not others:
        return f"the notebook is another lesson's: it has the cell for {strange[0]} {expected}"
    return f"no cell with the answer: its cell was deleted {expected}"


# --- the cells to run ---------------------------------------------------------------------------


def _cells(part: _Part, answers: Mapping[str, _Part], known: _Released) -> Iterator[Cell]:
    if part.text in known.shown:
        yield Cell(known.shown[part.text], released=True)
        return
    stub = known.stubs.get(part.text)
    held = [id for id, answer in answers.items() if answer is part]
    if held or stub is None:  # a stub beside the answer would take its place
        yield Cell(stub or part.source, held[0] if held else None, stub is not None)
    yield from (Cell("", id) for id in held[1:])


def _imports_first(cells: list[Cell], known: _Released, repairs: list[str]) -> list[Cell]:
    """See to it that the lesson's imports come before every answer."""
    if known.imports is None:
        return cells
    imports = Cell(known.imports, released=True)
    first_answer = next((k for k, cell in enumerate(cells) if cell.answers), len(cells))
    if imports in cells[:first_answer]:
        return cells
    what = "stood below an answer" if imports in cells else "was changed or deleted"
    repairs.append(f"The lesson's first cell, with its imports, {what}; it was run first.")
    return [imports, *(cell for cell in cells if cell != imports)]


def _counted(number: int, one: str, many: str) -> str:
    words = ("no", "one", "two", "three", "four")
    return f"{words[number] if number < len(words) else number} {one if number == 1 else many}"
