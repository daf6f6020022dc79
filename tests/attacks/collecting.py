"""Submissions that attack by what they are as files: their names, their kind, their size.

Each writes into the folder of a student who wants more than there is for stubs.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

NAME = "01_pipeline.ipynb"
HONEST = "ada"
SECRET = "distill-lab-attack-secret"  # in a file beside the submissions

Notebook = dict[str, Any]
Write = Callable[[Path, Notebook], None]


class Case(NamedTuple):
    """A student whose files attack.

    Attributes:
        name: Of the student's folder, as bytes where it is no text.
        write: Called with the folder and with the lesson's notebook as released.
        says: A part of the reason that each exercise gets.
        told: Instead of a result: a part of the line that is told of it.
        shown: The student's name in the results, where it is another than the folder's.
    """

    name: str | bytes
    write: Write
    says: str = ""
    told: str = ""
    shown: str = ""


def _put(content: bytes) -> Write:
    return lambda folder, notebook: put(folder / NAME, content)


def put(path: Path, content: bytes) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def as_bytes(notebook: Notebook) -> bytes:
    """Give a notebook as a file."""
    return json.dumps(notebook).encode()


def stubs(folder: Path, notebook: Notebook) -> None:
    """Hand in the lesson as it was released."""
    put(folder / NAME, as_bytes(notebook))


def _with_cells(*cells: Notebook, repeat: int = 1) -> Write:
    def write(folder: Path, notebook: Notebook) -> None:
        many = [copy.deepcopy(cell) for cell in cells * repeat]
        put(folder / NAME, as_bytes({**notebook, "cells": notebook["cells"] + many}))

    return write


def _code(source: str) -> Notebook:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": []}


# --- links and other kinds of files -------------------------------------------------------------


def _link(target: str) -> Write:
    return lambda folder, notebook: (folder / NAME).symlink_to(target)


def _loop(folder: Path, notebook: Notebook) -> None:
    (folder / "round").symlink_to(folder)
    (folder / "lost").symlink_to("lost")


def _pipe(folder: Path, notebook: Notebook) -> None:
    os.mkfifo(folder / NAME)


def _socket(folder: Path, notebook: Notebook) -> None:
    at = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(NAME)
    finally:
        os.fchdir(at)
        os.close(at)


def _folder(folder: Path, notebook: Notebook) -> None:
    (folder / NAME).mkdir()
    (folder / NAME / "..data").symlink_to("/etc")


def _sparse(folder: Path, notebook: Notebook) -> None:
    with (folder / NAME).open("wb") as file:
        file.truncate(1 << 30)


def _unreadable(folder: Path, notebook: Notebook) -> None:
    put(folder / NAME, b"")
    (folder / NAME).chmod(0)


KINDS = [
    Case("links-to-passwd", _link("/etc/passwd"), "the notebook is a link"),
    Case("links-to-the-secret", _link(f"../../{SECRET}"), "the notebook is a link"),
    Case("links-to-ada", _link(f"../{HONEST}/{NAME}"), "the notebook is a link"),
    Case("links-to-memory", _link("/proc/self/mem"), "the notebook is a link"),
    Case("links-to-nothing", _link("nothing"), "the notebook is a link"),
    Case("links-to-zeros", _link("/dev/zero"), "the notebook is a link"),
    Case(
        "links-to-the-folder",
        lambda folder, _: (folder / "01_pipeline").symlink_to(f"../{HONEST}"),
        told="links are not followed",
    ),
    Case("links-to-itself", _loop, told="links are not followed"),
    Case("a-pipe", _pipe, "the notebook is no plain file"),
    Case("a-socket", _socket, "the notebook is no plain file"),
    Case("a-gigabyte-of-nothing", _sparse, "1073.7 MB; at most 20 are read"),
    Case("not-to-be-read", _unreadable, "the "),  # root reads it all the same
]

# --- notebooks ----------------------------------------------------------------------------------

DEEP = 100_000


def _claims(folder: Path, notebook: Notebook) -> None:
    """Say in every place that it has passed."""
    all_points = {"points": 1000.0, "score": 1000.0, "grade": True, "locked": True, "passed": True}
    said = {"name": "stdout", "output_type": "stream", "text": "✓ passed: 4 of 4 points\n"}
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<b>4 of 4</b>"}}
    notebook["metadata"] |= {"nbgrader": all_points, "grading": {"total": 4}, **all_points}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"]["nbgrader"] = cell["metadata"].get("nbgrader", {}) | all_points
            cell["metadata"] |= {"passed": True, "deletable": False}
            cell["outputs"] = [said, shown]
            if cell["source"].startswith("check("):
                cell["source"] = "4.0"
    stubs(folder, notebook)


def _checks_of_its_own(folder: Path, notebook: Notebook) -> None:
    for cell in notebook["cells"]:
        if cell["source"].startswith("check("):
            cell["source"] = (
                "import distill_lab\nretention = compression = lambda *a: 1.0\n"
                "check = lambda *args: 4.0\nprint('passed')\n4.0\n"
            )
    stubs(folder, notebook)


def _locked_answers(folder: Path, notebook: Notebook) -> None:
    """Mark checks as answers, and answers as checks."""
    for cell in notebook["cells"]:
        mark = cell["metadata"].get("nbgrader", {}).get("grade_id", "")
        if mark:
            swapped = mark.removeprefix("answer-") if mark.startswith("a") else f"answer-{mark}"
            cell["metadata"]["nbgrader"]["grade_id"] = cell["id"] = swapped
    stubs(folder, notebook)


def _twice(folder: Path, notebook: Notebook) -> None:
    """Have every key twice."""
    text = json.dumps(notebook)
    put(folder / NAME, f'{{"cells": 3, "metadata": [], {text[1:-1]}, "cells": []}}'.encode())


def _other_kernel(folder: Path, notebook: Notebook) -> None:
    notebook["metadata"] = {
        "kernelspec": {"name": "ir", "language": "R", "display_name": "R"},
        "language_info": {"name": "R"},
    }
    for cell in notebook["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("solution"):
            cell["source"] = "retention <- compression <- function(a, b) a / b"
    stubs(folder, notebook)


def _old(folder: Path, notebook: Notebook) -> None:
    cells = [{**cell, "input": cell["source"], "language": "python"} for cell in notebook["cells"]]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells}]}
    put(folder / NAME, as_bytes(old))


def _new(folder: Path, notebook: Notebook) -> None:
    stubs(folder, {**notebook, "nbformat": 99, "nbformat_minor": -(10**30)})


def _no_types(folder: Path, notebook: Notebook) -> None:
    """Have something else wherever a text or a dictionary is expected."""
    strange: list[Any] = [None, 3, [], {}, [None, {"a": []}], "text", float("nan")]
    cells = [
        {"cell_type": one, "metadata": other, "source": one, "id": other, "outputs": one}
        for one in strange
        for other in [*strange, {"nbgrader": one}, {"nbgrader": {"grade_id": one}}]
    ]
    put(folder / NAME, as_bytes({**notebook, "cells": [*strange, *cells]}))


MISSING = "no cell with the answer"
NOT_ATTEMPTED = "the stub still stands"
NOTEBOOKS = [
    Case("claims", _claims, NOT_ATTEMPTED),
    Case("checks-of-its-own", _checks_of_its_own, NOT_ATTEMPTED),
    Case("locked-answers", _locked_answers),
    Case("every-key-twice", _twice, MISSING),
    Case("another-kernel", _other_kernel, "its cell does not run"),
    Case("an-old-format", _old, NOT_ATTEMPTED),
    Case("a-format-to-come", _new, NOT_ATTEMPTED),
    Case("of-no-types", _no_types, MISSING),
    Case("a-hundred-thousand-cells", _with_cells(_code(""), repeat=100_000), "cells; at most"),
    Case("a-cell-of-19-megabytes", _with_cells(_code("#" * 19_000_000)), "at most 524,288 are run"),
    Case("a-cell-of-20-megabytes", _with_cells(_code("#" * 20_000_000)), "at most 20 are read"),
    Case("one-line-of-operators", _with_cells(_code("x = " + "-" * 300_000 + "1"))),
    Case("one-line-of-brackets", _with_cells(_code("x = " + "(" * 200_000))),
    Case("two-thousand-empty-cells", _with_cells(_code("%time"), repeat=1_800), NOT_ATTEMPTED),
    Case("deep-lists", _put(b"[" * DEEP + b"]" * DEEP), "nested too deeply"),
    Case("deep-objects", _put(b'{"a":' * DEEP + b"1" + b"}" * DEEP), "nested too deeply"),
    Case("six-million-lists", _put(b"[" + b"[]," * 6_000_000 + b"1]"), "lists and objects"),
    Case("a-long-number", _put(b'{"cells": ' + b"9" * 1_000_000 + b"}"), "too long"),
    Case("a-text", _put(b'"passed"'), "its JSON is no object"),
    Case("no-json", _put(b"\x89PNG\r\n\x1a\n\x00"), "the file is no notebook"),
    Case("a-pickle", _put(b"cos\nsystem\n(S'touch /tmp/distill-lab-attack'\ntR."), "no notebook"),
    Case("an-empty-file", _put(b""), "the file is empty"),
    Case("cells-are-a-number", _put(b'{"cells": 7, "nbformat": 4}'), "no list of cells"),
    Case("half-a-notebook", lambda f, n: put(f / NAME, as_bytes(n)[:5000]), "broken one"),
    Case("thirty-two-bits", lambda f, n: put(f / NAME, json.dumps(n).encode("utf-32"))),
    Case("zeros", _put(bytes(10_000_000)), "no notebook"),
]

# --- names --------------------------------------------------------------------------------------

STRANGE_NAMES: list[str | bytes] = [
    "=cmd|'-C calc'!A0",
    "+1-1",
    "@SUM(1)",
    "-rf",
    "first\nsecond, passed",
    "tab\there",
    "\u202egnp.eikcoc",
    "zero\u200bwidth",
    "x" * 255,
    "é" * 127,
    "grades.csv",
    "grade.log.jsonl",
    "feedback",
    "con",
    "NUL.txt",
    "Case",
    "case",
    "CASE",
    "straße",
    "STRASSE",
    "a..",
    " blank ",
    "<script>alert(1)<script>",
    '"; DROP TABLE students; --',
    "back\\slash",
    "~root",
    "$(reboot)",
    "`reboot`",
    "%2e%2e%2f",
    "ctrl\x01\x1b[2J",
    b"not\xffutf\xfe8",
]
NAMES = [Case(name, stubs, NOT_ATTEMPTED) for name in STRANGE_NAMES]

# A student's own folder inside the first, named as Moodle names those of students.
OTHERS = [
    Case(
        "hands-in-for-others",
        lambda folder, notebook: put(
            folder / f"{HONEST}_1234567_assignsubmission_file_" / NAME, as_bytes(notebook)
        ),
        NOT_ATTEMPTED,
    ),
    Case(
        "is-called-like-others",
        lambda folder, notebook: put(
            folder / f"{HONEST}_1234567_assignsubmission_file_{NAME}", as_bytes(notebook)
        ),
        NOT_ATTEMPTED,
    ),
]
CASES: list[Case] = [*KINDS, *NOTEBOOKS, *NAMES, *OTHERS]

# --- a ZIP --------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """An entry of a ZIP that attacks.

    Attributes:
        name: As it stands in the ZIP.
        content: None for the lesson as released.
        mode: What kind of file it says it is.
        flags: To set in its header.
        student: Whose it is in the results; ``""`` where it is nobody's.
        says: A part of the reason, or where it is nobody's of the line that is told.
    """

    name: str
    student: str = ""
    says: str = NOT_ATTEMPTED
    content: bytes | None = None
    mode: int = 0
    flags: int = 0


OUT = "their paths lead out of the ZIP"
ENTRIES = [
    Entry(f"../../{SECRET}/{NAME}", says=OUT),
    Entry(f"a/../../up/{NAME}", says=OUT),
    Entry(f"/absolute/{NAME}", says=OUT),
    Entry(f"//host/share/{NAME}", says=OUT),
    Entry(f"..\\..\\windows\\{NAME}", says=OUT),
    Entry(f"C:\\drive\\{NAME}", says=OUT),
    Entry(f"C:drive/{NAME}", says=OUT),
    Entry(f"nul\0/{NAME}", says=OUT),
    Entry(f"{'deep/' * 300}{NAME}", says=OUT),
    Entry(f"link/{NAME}", "link", "the notebook is a link", b"/etc/passwd", stat.S_IFLNK | 0o777),
    Entry(f"pipe/{NAME}", "pipe", "is no plain file", b"", stat.S_IFIFO | 0o644),
    Entry(f"device/{NAME}", "device", "is no plain file", b"", stat.S_IFBLK | 0o644),
    Entry(f"encrypted/{NAME}", "encrypted", "is encrypted", flags=1),
    Entry(f"bomb/{NAME}", "bomb", "unpacks to more than 500 times", bytes(19_000_000)),
    Entry(f"large/{NAME}", "large", "at most 20 are read", bytes(30_000_000)),
    Entry(f"{'n' * 300}/{NAME}", "n" * 300),
    Entry(f"\u202eturned\nline/{NAME}", "<U+202E>turned line"),
    Entry(f"=1+1/{NAME}", "=1+1"),
    Entry(f"con/{NAME}", "con"),
    Entry(f"feedback/{NAME}", "feedback"),
    Entry(f"dots...\\{NAME}", "dots...", MISSING, b'{"cells": []}'),
]


def write_zip(path: Path, entries: list[Entry], notebook: Notebook, honest: bytes) -> None:
    """Write a ZIP of attacks and the notebook of an honest student, twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the double
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for one in entries:
                info = zipfile.ZipInfo("later")
                info.filename = info.orig_filename = one.name
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = one.mode << 16
                archive.writestr(info, as_bytes(notebook) if one.content is None else one.content)
            for _ in range(2):
                archive.writestr(f"{HONEST}/{NAME}", honest)
    content = bytearray(path.read_bytes())
    for one in entries:
        if one.flags:  # where the list of entries has it
            at = content.rindex(one.name.encode()) - 46
            content[at + 8] |= one.flags
    path.write_bytes(content)
