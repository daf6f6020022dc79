"""Laws of submissions: every student's notebook is found and read, and no file does any harm."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import socket
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode

from distill_lab.course import submissions
from distill_lab.course.submissions import (
    Cell,
    Script,
    Submission,
    Unreadable,
    find_submissions,
    folder_names,
    read_script,
)
from distill_lab.errors import UserError
from distill_lab.exercises.registry import Lesson, find_lesson, lessons

ROOT = Path(__file__).parent.parent
LOSSES, TEMPERATURE = find_lesson("03_losses"), find_lesson("04_temperature")
MINE = "def kl_divergence(student_logits, teacher_logits, temperature=1.0):\n    return 3  # mine"
posix = pytest.mark.skipif(os.name != "posix", reason="has no such files")


@cache
def released(lesson: Lesson = LOSSES) -> NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{lesson.name}.ipynb", as_version=4)


def notebook(lesson: Lesson = LOSSES) -> dict[str, Any]:
    """The lesson's notebook as its file has it."""
    return json.loads((ROOT / "notebooks" / f"{lesson.name}.ipynb").read_text(encoding="utf-8"))


def place(cells: list[Any], id: str) -> int:
    return next(k for k, cell in enumerate(cells) if cell.get("id") == id)


def answer_cell(content: dict[str, Any], id: str = "kl_divergence") -> dict[str, Any]:
    return content["cells"][place(content["cells"], f"answer-{id}")]


def code(source: str, **more: Any) -> dict[str, Any]:
    plain = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    return plain | {"source": source} | more


def marked(source: str, id: str = "kl_divergence", **more: Any) -> dict[str, Any]:
    return code(source, metadata={"nbgrader": {"grade_id": f"answer-{id}"}}, **more)


def read(content: Any, lesson: Lesson = LOSSES) -> Script:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_script(data, lesson, released(lesson))


def only(*cells: dict[str, Any]) -> Script:
    """What a notebook of the lesson's imports and these cells comes down to."""
    imports = next(c for c in notebook()["cells"] if c["cell_type"] == "code")
    return read({"cells": [imports, *cells], "nbformat": 4})


def answers(script: Script) -> dict[str, str]:
    return {cell.answers: cell.source for cell in script.cells if cell.answers}


# --- reading: a good notebook -------------------------------------------------------------------


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_a_lesson_as_released_is_read_whole(lesson: Lesson) -> None:
    script = read(notebook(lesson), lesson)
    assert list(answers(script)) == [exercise.id for exercise in lesson.exercises]
    assert all(cell.released for cell in script.cells)
    assert not script.missing and not script.repairs
    assert not any(re.match(r"check\(", cell.source) for cell in script.cells)


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)
def test_a_solved_lesson_differs_in_its_answers_alone(lesson: Lesson) -> None:
    script = read((ROOT / "solutions" / f"{lesson.name}.ipynb").read_bytes(), lesson)
    assert [c.answers for c in script.cells if not c.released] == [x.id for x in lesson.exercises]
    assert not script.missing and not script.repairs


def test_a_students_cells_run_in_their_order_and_are_no_released_ones() -> None:
    content = notebook()
    at = place(content["cells"], "answer-kl_divergence")
    content["cells"][at]["source"] = MINE
    content["cells"].insert(at, code("helper = 1"))
    content["cells"].insert(at + 3, code("after = 2"))
    script = read(content)
    mine = [cell for cell in script.cells if not cell.released]
    assert mine == [Cell("helper = 1"), Cell(MINE, "kl_divergence"), Cell("after = 2")]
    assert not script.repairs


def test_a_released_cell_is_known_whatever_its_ends_of_line_and_metadata() -> None:
    content = notebook()
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"]).replace("\n", "\r\n") + "\r\n"
        cell.pop("id")
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "nbgrader"}
    script = read(content)
    assert [c.source for c in script.cells] == [c.source for c in read(notebook()).cells]
    assert all(cell.released for cell in script.cells)


def test_an_edited_demonstration_is_the_students_own() -> None:
    content = notebook()
    cell = next(c for c in content["cells"] if "".join(c["source"]).startswith("def naive"))
    cell["source"] = [*cell["source"], "\nnaive = None"]
    (edited,) = [cell for cell in read(content).cells if not cell.released]
    assert edited.source.endswith("naive = None")


def test_checks_are_left_out_even_where_they_were_edited() -> None:
    content = notebook()
    check = content["cells"][place(content["cells"], "kl_divergence")]
    check["source"] = "print('full marks')"
    content["cells"].append(code('check( "kl_divergence",  kl_divergence )'))
    assert read(content).cells == read(notebook()).cells


# --- reading: answers that have to be looked for ------------------------------------------------


def test_an_answer_is_found_by_its_id_or_its_name_where_its_mark_is_lost() -> None:
    content = notebook()
    answer_cell(content)["source"], answer_cell(content)["metadata"] = MINE, {}
    assert answers(read(content))["kl_divergence"] == MINE and not read(content).repairs
    del answer_cell(content)["id"]
    script = read(content)
    assert answers(script)["kl_divergence"] == MINE
    assert script.repairs == (
        "The answer to kl_divergence was found in a cell that is not marked as its answer.",
    )


@pytest.mark.parametrize(
    "source",
    [
        f"import math\n\n@torch.no_grad()\n{MINE}",
        "def kl_divergence [T] (x: T) -> T: return x",
        "%%time\ndef  kl_divergence(x):\n    return x",
    ],
)
def test_a_function_is_found_however_it_is_written(source: str) -> None:
    assert answers(only(marked("# nothing"), code(source))) == {"kl_divergence": source}


@pytest.mark.parametrize(
    "source",
    [
        "async def kl_divergence(x):\n    return x",
        "class A:\n    def kl_divergence(self): ...",
        "def kl_divergence_2(x): ...",
        "kl_divergence == 3",
        "kl_divergence = use(kl_divergence)  # mine",
        "print(kl_divergence(1, 2))",
    ],
)
def test_what_defines_something_else_is_no_answer(source: str) -> None:
    script = only(code(source))
    assert not answers(script) and Cell(source) in script.cells
    assert script.missing["kl_divergence"] == (
        "no cell with the answer: its cell was deleted (expected a cell that defines kl_divergence)"
    )


def test_an_assignment_is_an_answer_only_where_there_is_nothing_better() -> None:
    assigned = "kl_divergence = lambda s, t, temperature=1.0: 3"
    assert answers(only(code(assigned))) == {"kl_divergence": assigned}
    assert answers(only(code(assigned), code(MINE))) == {"kl_divergence": MINE}
    assert answers(only(marked(MINE), code(assigned))) == {"kl_divergence": MINE}
    assert answers(only(marked(assigned), code("kl_divergence = 1"))) == {"kl_divergence": assigned}


def test_an_answer_beside_its_stub_takes_the_stubs_place() -> None:
    content = notebook()
    content["cells"].append(code(MINE))
    script = read(content)
    assert answers(script)["kl_divergence"] == MINE
    assert not any('raise NotImplementedError("kl_div' in cell.source for cell in script.cells)
    assert len(script.repairs) == 1


def test_the_last_copy_that_is_not_the_stub_counts() -> None:
    stub = "".join(answer_cell(notebook())["source"])
    first, last = MINE.replace("mine", "first"), MINE.replace("mine", "last")
    script = only(marked(first), marked(last), marked(stub))
    assert script.cells[1:] == (Cell(first), Cell(last, "kl_divergence"))
    assert script.repairs == ("There are several answers to kl_divergence; the last one counts.",)


def test_code_above_the_stub_line_is_left_as_it_is() -> None:
    content = notebook()
    cell = answer_cell(content)
    cell["source"] = "".join(cell["source"]).replace("    raise", "    return 3\n    raise")
    assert answers(read(content))["kl_divergence"] == cell["source"]
    assert not read(content).repairs


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def kl_divergence(s, t):\n    x = 1", "\n    return x"),
        ("def kl_divergence(\n    s, t,", ") -> float:\n    return s"),
        ('def kl_divergence(s, t):\n    """A', 'docstring."""\n    return s'),
        ("def kl_divergence(s, t):", "    # a comment\n    return s"),
    ],
)
def test_a_function_cut_in_two_is_joined(first: str, second: str) -> None:
    script = only(marked(first), marked(second))
    assert answers(script) == {"kl_divergence": f"{first}\n{second}"}
    assert script.repairs == (
        "The answer to kl_divergence was split over two cells; they were joined.",
    )


def test_a_piece_without_a_mark_is_joined_where_the_first_has_no_end() -> None:
    body = "    return s"
    script = only(marked('def kl_divergence(s, t):\n    """Doc."""'), code(body))
    assert answers(script)["kl_divergence"].endswith(body) and len(script.cells) == 2
    script = only(marked(MINE), code("    print('pasted from above')"))
    assert answers(script)["kl_divergence"] == MINE and not script.repairs


def test_of_a_split_cell_the_piece_with_the_function_counts_and_the_other_runs() -> None:
    script = only(marked("import math\n\nhelper = 1"), marked(MINE), marked("  \n"))
    assert script.cells[1:] == (Cell("import math\n\nhelper = 1"), Cell(MINE, "kl_divergence"))
    assert script.repairs == (
        "The answer to kl_divergence was split over several cells; all of them were run.",
    )


def test_two_answers_in_one_cell_are_both_found() -> None:
    both = MINE + "\n\n\ndef entropy(logits):\n    return 1"
    script = only(marked(both))
    assert [(c.source, c.answers) for c in script.cells[1:]] == [
        (both, "entropy"),
        ("", "kl_divergence"),
    ]


@pytest.mark.parametrize("kind", ["markdown", "raw", "heading"])
def test_an_answer_in_a_cell_of_another_type_is_taken_as_code(kind: str) -> None:
    script = only(marked(MINE, cell_type=kind))
    assert answers(script) == {"kl_divergence": MINE}
    assert "was no code cell" in script.repairs[0]
    assert not answers(only(code(MINE, cell_type=kind)))  # only text that shows code
    assert (
        "its cell is no code cell" in only(marked("text", cell_type=kind)).missing["kl_divergence"]
    )


def test_an_answer_without_its_function_is_still_run() -> None:
    assert answers(only(marked("return 3"))) == {"kl_divergence": "return 3"}
    assert "its cell is empty" in only(marked(" \n")).missing["kl_divergence"]


def test_anothers_lessons_notebook_is_told() -> None:
    script = read(notebook(TEMPERATURE))
    assert set(script.missing) == {x.id for x in LOSSES.exercises}
    assert all(
        why.startswith("the notebook is another lesson's") for why in script.missing.values()
    )


def test_the_lessons_imports_come_before_every_answer() -> None:
    content = notebook()
    cells = content["cells"]
    first = next(c for c in cells if c["cell_type"] == "code")
    whole = read(content)
    cells.append(cells.pop(cells.index(first)))
    moved = read(content)
    assert moved.cells[0].source == "".join(first["source"]) and moved.cells[0].released
    assert sorted(c.source for c in moved.cells) == sorted(c.source for c in whole.cells)
    assert "stood below an answer; it was run first" in moved.repairs[0]
    cells[-1] = code("import mine")
    edited = read(content)
    assert edited.cells[0] == moved.cells[0] and edited.cells[-1] == Cell("import mine")
    assert "was changed or deleted" in edited.repairs[0]


def test_reordered_cells_run_as_they_stand() -> None:
    content = notebook()
    imports = next(k for k, c in enumerate(content["cells"]) if c["cell_type"] == "code")
    content["cells"][imports + 1 :] = reversed(content["cells"][imports + 1 :])
    script = read(content)
    assert list(answers(script)) == [exercise.id for exercise in reversed(LOSSES.exercises)]
    assert not script.repairs and not script.missing


# --- reading: files of every kind ---------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_notebook_in_another_encoding_is_read(encoding: str) -> None:
    script = read(json.dumps(notebook(), ensure_ascii=False).encode(encoding))
    assert script.cells == read(notebook()).cells
    assert len(script.repairs) == (encoding != "utf-8-sig")


def test_bytes_that_are_no_text_are_replaced() -> None:
    data = json.dumps({"cells": [marked(f"{MINE}  # caf@")]}).encode().replace(b"@", b"\xe9")
    script = read(data)
    assert answers(script)["kl_divergence"] == f"{MINE}  # caf\ufffd"
    assert any("bytes that are no UTF-8" in line for line in script.repairs)
    lone = read(json.dumps({"cells": [marked(f"{MINE}  # \ud800")]}).encode())
    assert all(cell.source.encode() for cell in lone.cells)


def test_an_old_format_is_read() -> None:
    cells = [
        {"cell_type": "code", "input": list(MINE.splitlines(True)), "language": "python"},
        {"cell_type": "heading", "level": 1, "source": "Title"},
    ]
    script = read({"nbformat": 3, "worksheets": [{"cells": cells}, None, {"cells": 3}]})
    assert answers(script) == {"kl_divergence": MINE} and "old format" in script.repairs[0]


def test_lines_without_ends_are_lines() -> None:
    assert answers(only(marked("") | {"source": MINE.splitlines()})) == {"kl_divergence": MINE}


def test_duplicate_keys_and_numbers_that_are_none_do_no_harm() -> None:
    data = b'{"cells": [], "x": NaN, "y": [Infinity, 1e999], "cells": [%s]}'
    script = read(data % json.dumps(marked(MINE)).encode())
    assert answers(script) == {"kl_divergence": MINE}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<!DOCTYPE html>", "no JSON"),
        (b'{"cells": [', "no JSON (Expecting value, line 1, column 12)"),
        (b"[]", "no object"),
        (b"{}", "no list of cells"),
        (b'{"cells": {}}', "no list of cells"),
        (b"[" * 90_000, "nested too deeply"),
        (b'{"x": ' + b"1" * 5_000 + b"}", "too long"),
        (b"[" + b"[]," * 1_000_001 + b"0]", "lists and objects"),
        (b" " * 20_000_001, "20.0 MB; at most 20"),
        (b'{"cells": [' + b"0," * 2_000 + b"0]}", "2,001 cells"),
        (json.dumps({"cells": [code("x" * 600_000)]}).encode(), "characters; at most 524,288"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_notebook_or_too_large_is_refused_with_its_reason(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read(data)
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_outputs_of_every_size_that_is_read_do_not_count_as_code() -> None:
    content = notebook()
    content["cells"][5]["outputs"] = ["x" * 5_000_000]
    assert read(content).cells == read(notebook()).cells


KEYS = ["cells", "worksheets", "cell_type", "source", "input", "metadata", "nbgrader", "grade_id"]
WORDS = ["code", "markdown", "answer-entropy", "answer-kl_divergence", "entropy", MINE, "", "    x"]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text()
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
SOURCES = st.lists(
    st.sampled_from(
        ["def entropy(x):", "    return x", ")", '"""', "\r", "entropy = 1", "\x00", "("]
    )
    | st.text(max_size=5),
    max_size=6,
)
MARKS = st.sampled_from(["answer-entropy", "answer-kl_divergence", "entropy", "x", ""])
CELLS = st.builds(
    lambda kind, source, mark, id: {
        "cell_type": kind,
        "source": source,
        "metadata": {"nbgrader": {"grade_id": mark}},
        "id": id,
    },
    st.sampled_from(["code", "code", "code", "raw", None]),
    SOURCES | SOURCES.map("\n".join),
    MARKS,
    MARKS,
)


def well_formed(script: Script) -> None:
    found = [cell.answers for cell in script.cells if cell.answers]
    ids = [exercise.id for exercise in LOSSES.exercises]
    assert len(set(found)) == len(found) and sorted([*found, *script.missing]) == sorted(ids)
    assert script.cells[0].released
    lines = [*script.missing.values(), *script.repairs]
    assert all(line.isprintable() and line for line in lines)


@settings(max_examples=150, deadline=None)
@given(ANYTHING)
def test_json_of_every_shape_is_read_or_refused(value: Any) -> None:
    for content in (value, {"cells": value}, {"cells": [value, {"cell_type": "code"}]}):
        try:
            well_formed(read(json.dumps(content).encode()))
        except Unreadable as error:
            assert str(error).isprintable()


@settings(max_examples=150, deadline=None)
@given(st.lists(CELLS, max_size=8))
def test_cells_of_every_shape_give_each_exercise_an_answer_or_a_reason(cells: list[Any]) -> None:
    well_formed(read({"cells": cells}))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_of_every_kind_are_refused_or_read(data: bytes) -> None:
    for content in (data, b'{"cells": [' + data, b'{"cells": [], "x": "' + data + b'"}'):
        try:
            well_formed(read(content))
        except Unreadable as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "source", ["\n" * 100_000, " " * 200_000 + "x", "def " * 50_000, "x =\n" * 40_000]
)
def test_a_cell_made_to_be_slow_is_not(source: str) -> None:
    only(marked("def kl_divergence(s, t):"), marked(source + "0"), code(source + "1"))


def test_many_cells_made_to_be_slow_are_not() -> None:
    only(*[marked(" x = 1") for _ in range(1_900)])


def test_nothing_of_a_submission_is_parsed_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("compile", "exec", "eval", "__import__"):
            patch.setattr(f"builtins.{name}", lambda *args, **kwargs: called.append("called"))
        found = answers(only(marked(MINE), code("raise SystemExit"), code("import mine")))
    assert found == {"kl_divergence": MINE} and not called


# --- finding ------------------------------------------------------------------------------------

IPYNB = (ROOT / "notebooks" / "03_losses.ipynb").read_bytes()
UNMARKED = json.dumps({"cells": [code(MINE)], "nbformat": 4}).encode()


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    target = path / "export.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target


def owners(found: list[Submission]) -> list[tuple[str, str]]:
    assert all(not submission.problem for submission in found)
    return [(submission.student, submission.lesson) for submission in found]


def refused(path: Path, lesson: Lesson | None = None) -> str:
    with pytest.raises(UserError) as error:
        find_submissions(path, lesson)
    assert str(error.value).isprintable()
    return str(error.value)


FORMS = {
    "flat": ["{}/03_losses.ipynb"],
    "nbgrader": ["{}/03_losses/03_losses.ipynb", "{}/03_losses/timestamp.txt"],
    "a lesson first": ["03_losses/{}/homework.ipynb"],
    "Moodle, folders": ["{}_1234567_assignsubmission_file_/03_losses.ipynb"],
    "Moodle 4, folders": ["{}_1234567_assignsubmission_file/deeper/Losses final.ipynb"],
    "Moodle, files": ["{}_1234567_assignsubmission_file_03_losses.ipynb"],
    "Moodle, groups": ["Course-1/{}_assignsubmission_file_/03_losses (1).ipynb"],
    "Canvas": ["{}_12345_67890_03_losses-1.ipynb"],
    "Canvas, late": ["{}_LATE_12345_67890_Losses 2.ipynb"],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("pack", [folder, zipped])
def test_every_form_is_found_in_a_folder_and_in_a_zip(
    tmp_path: Path, form: list[str], pack: Any
) -> None:
    files = {line.format(name): IPYNB for line in form for name in ("lovelaceada", "turingalan")}
    found = find_submissions(pack(tmp_path, files))
    assert owners(found) == [("lovelaceada", "03_losses"), ("turingalan", "03_losses")]
    assert all(x.content == IPYNB and x.origin in files for x in found)


def test_without_names_canvas_students_have_their_code(tmp_path: Path) -> None:
    names = ("anon_Ab1cD_678_03_losses.ipynb", "LATE_anon_xY2zw_679_03_losses.ipynb")
    found = find_submissions(folder(tmp_path, dict.fromkeys(names, IPYNB)))
    assert owners(found) == [("anon_Ab1cD", "03_losses"), ("anon_xY2zw", "03_losses")]


def test_a_folder_around_everything_in_a_zip_is_looked_through(tmp_path: Path) -> None:
    files = {f"submitted/{name}/03_losses/03_losses.ipynb": IPYNB for name in ("ada", "alan")}
    assert [s.student for s in find_submissions(zipped(tmp_path, files))] == ["ada", "alan"]
    one = {"ada/03_losses/03_losses.ipynb": IPYNB, "ada/04_temperature/x.ipynb": b"{}"}
    assert [s.student for s in find_submissions(zipped(tmp_path, one))] == ["ada", "ada"]


def test_students_of_one_name_are_told_apart_by_number(tmp_path: Path) -> None:
    many = "{}_assignsubmission_file_/{}.ipynb"
    files = {
        many.format("Wei Wang_1", "03_losses"): IPYNB,
        many.format("Wei Wang_2", "homework"): IPYNB,
        many.format("Ada Lovelace_3", "03_losses"): IPYNB,
        many.format("Ada Lovelace_4", "04_temperature"): IPYNB,
    }
    assert owners(find_submissions(folder(tmp_path, files))) == [
        ("Ada Lovelace", "03_losses"),
        ("Ada Lovelace", "04_temperature"),
        ("Wei Wang_1", "03_losses"),
        ("Wei Wang_2", "03_losses"),
    ]


def test_one_lesson_alone_is_found_where_it_is_asked_for(tmp_path: Path) -> None:
    files = {"ada/03_losses.ipynb": IPYNB, "ada/04_temperature.ipynb": IPYNB}
    path = folder(tmp_path, files)
    assert owners(find_submissions(path, TEMPERATURE)) == [("ada", "04_temperature")]
    assert "no notebook of 05_knowledge_extraction" in refused(path, find_lesson("5"))


def test_a_notebook_that_tells_no_lesson_is_the_one_asked_for(tmp_path: Path) -> None:
    files = {
        "ada/homework.ipynb": UNMARKED,
        "alan/03_losses.ipynb": IPYNB,
        "alan/scratch.ipynb": UNMARKED,
    }
    path, said = folder(tmp_path, files), list[str]()
    assert owners(find_submissions(path, LOSSES, said.append)) == [
        ("ada", "03_losses"),
        ("alan", "03_losses"),
    ]
    assert said == ["passed over, as no lesson can be told: alan/scratch.ipynb"]
    assert owners(find_submissions(path)) == [("alan", "03_losses")]
    assert "no lesson" not in refused(folder(tmp_path / "other", {"ada/x.ipynb": UNMARKED}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_renamed_notebook_is_known_by_its_marks(tmp_path: Path, encoding: str) -> None:
    content = IPYNB.decode().encode(encoding)
    assert owners(find_submissions(folder(tmp_path, {"ada/Untitled.ipynb": content}))) == [
        ("ada", "03_losses")
    ]


def test_what_nobody_handed_in_is_passed_over(tmp_path: Path) -> None:
    aside = [
        "ada/.ipynb_checkpoints/03_losses-checkpoint.ipynb",
        "__MACOSX/ada/._03_losses.ipynb",
        "ada/._03_losses.ipynb",
        ".hidden/03_losses.ipynb",
        "ada/03_losses.attempt-2.ipynb",
        "ada/notes.txt",
        "grades.csv",
    ]
    files = {"ada/03_losses.ipynb": IPYNB} | dict.fromkeys(aside, b"{}")
    for path in (folder(tmp_path / "all", files), zipped(tmp_path, files)):
        assert owners(find_submissions(path)) == [("ada", "03_losses")]


def test_copies_count_once_and_two_versions_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, {"ada/03_losses.ipynb": IPYNB, "ada/03_losses (1).ipynb": IPYNB})
    assert owners(find_submissions(path)) == [("ada", "03_losses")]
    folder(path, {"ada/03_losses-2.ipynb": UNMARKED})
    assert "ada has ada/03_losses (1).ipynb and ada/03_losses-2.ipynb" in refused(path)


def test_what_is_no_place_of_submissions_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none")
    assert "no notebook in" in refused(folder(tmp_path / "empty", {"a/notes.txt": b""}))
    assert "no notebook in" in refused(zipped(tmp_path, {}))
    stray = folder(tmp_path / "stray", {"03_losses.ipynb": IPYNB})
    assert "(03_losses.ipynb); expected STUDENT/NN_name.ipynb" in refused(stray)
    assert "is no ZIP" in refused(stray / "03_losses.ipynb")
    half = tmp_path / "half.zip"
    half.write_bytes(zipped(tmp_path, {"ada/03_losses.ipynb": IPYNB}).read_bytes()[:5_000])
    assert "a damaged one" in refused(half)
    course = folder(tmp_path / "course", {"nbgrader_config.py": b"", "source/x.ipynb": b"{}"})
    assert "give its folder submitted" in refused(course)


def test_a_submission_travels_to_another_process(tmp_path: Path) -> None:
    (one,) = find_submissions(folder(tmp_path, {"ada/03_losses.ipynb": IPYNB}))
    assert pickle.loads(pickle.dumps(one)) == one and len(one.sha256) == 64


# --- finding: files that mean harm --------------------------------------------------------------


def problems(path: Path) -> dict[str, str]:
    found = find_submissions(path)
    assert all(not submission.content for submission in found if submission.problem)
    return {submission.student: submission.problem for submission in found}


@posix
def test_links_and_special_files_are_never_read(tmp_path: Path) -> None:
    secret = folder(tmp_path / "secret", {"03_losses.ipynb": IPYNB})
    path = folder(tmp_path / "in", {"ada/03_losses.ipynb": IPYNB, "b/notes": b"", "c/notes": b""})
    (path / "b" / "03_losses.ipynb").symlink_to(secret / "03_losses.ipynb")
    os.mkfifo(path / "c" / "03_losses.ipynb")
    (path / "d").symlink_to(secret)
    (path / "ada" / "loop").symlink_to(path)
    said: list[str] = []
    assert problems(path) == {
        "ada": "",
        "b": "the notebook is a link, which is not followed",
        "c": "the notebook is no plain file",
    }
    find_submissions(path, say=said.append)
    assert "links are not followed" in said[0] and "d" in said[0] and "ada/loop" in said[0]


@posix
def test_a_socket_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path, {"a/03_losses.ipynb": IPYNB, "b/notes": b""})
    monkeypatch.chdir(path / "b")  # the name of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("03_losses.ipynb")
        assert problems(path) == {"a": "", "b": "the notebook is no plain file"}


def test_a_notebook_that_is_too_large_stops_no_other(tmp_path: Path) -> None:
    files = {"ada/03_losses.ipynb": IPYNB, "bo/03_losses.ipynb": b" " * 20_000_001}
    for path in (folder(tmp_path / "all", files), zipped(tmp_path, files)):
        found = problems(path)
        assert found["ada"] == "" and "20.0 MB; at most 20" in found["bo"]


def test_a_notebook_that_unpacks_to_very_much_is_not_read(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"ada/03_losses.ipynb": b" " * 15_000_000})
    assert "more than 500 times its size" in problems(path)["ada"]


def test_links_encrypted_and_damaged_entries_of_a_zip_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a", "b", "c", "d"):
            info = zipfile.ZipInfo(f"{name}/03_losses.ipynb")
            if name == "a":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, f'{{"x": "{name * 9}"}}')
        archive.writestr(zipfile.ZipInfo("e/03_losses.ipynb"), b"{}" * 99, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes().replace(b"ccccccccc", b"cccc0cccc"))
    entry = [m.start() for m in re.finditer(b"PK\x01\x02", data)][1]
    data[entry + 8] |= 1
    path.write_bytes(data)
    found = problems(path)
    assert "link" in found["a"] and "encrypted" in found["b"] and "damaged" in found["c"]
    assert found["d"] == "" and "packed in a way" in found["e"]


@pytest.mark.parametrize(
    "name",
    [
        "../ada/03_losses.ipynb",
        "ada/../../03_losses.ipynb",
        "/etc/03_losses.ipynb",
        "C:\\ada\\03_losses.ipynb",
        "ada\\..\\03_losses.ipynb",
        "ada//03_losses.ipynb",
        "x" * 2_000 + "/03_losses.ipynb",
    ],
)
def test_paths_that_lead_out_of_a_zip_are_nobodys(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    path = zipped(tmp_path, {name: IPYNB, "bo/03_losses.ipynb": IPYNB})
    assert owners(find_submissions(path, say=said.append)) == [("bo", "03_losses")]
    assert "lead out of the ZIP" in said[0] and said[0].isprintable()


def test_a_zip_from_windows_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"ada\\03_losses.ipynb": IPYNB, "bo\\03_losses.ipynb": IPYNB})
    assert [student for student, _ in owners(find_submissions(path))] == ["ada", "bo"]


def test_too_much_of_everything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"s{k}/03_losses.ipynb": IPYNB for k in range(9)}
    path, archive = folder(tmp_path / "all", files), zipped(tmp_path, files)
    with monkeypatch.context() as patch:
        patch.setattr(submissions, "LARGEST_TOTAL", 8 * len(IPYNB))
        assert "GB together" in refused(path) and "GB together" in refused(archive)
    with monkeypatch.context() as patch:
        patch.setattr(submissions, "MOST_ENTRIES", 8)
        assert "more than 8 files" in refused(path) and "more than 8 files" in refused(archive)
    with monkeypatch.context() as patch:
        patch.setattr(submissions, "LARGEST_READ", 65_600)
        many = zipped(tmp_path, dict.fromkeys((f"a/{'x' * 200}{k}" for k in range(300)), b""))
        assert "a damaged one" in refused(many)


ENTRY = st.text(
    st.sampled_from("ab./\\:\0\n\u202e_ =1") | st.characters(exclude_categories=["Cs"]), max_size=12
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ENTRY, max_size=4, unique=True), st.sampled_from(["/03_losses.ipynb", ".ipynb", ""])
)
def test_entries_of_every_name_are_found_or_told(names: list[str], ending: str) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name + ending
            archive.writestr(info, b"{}")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "export.zip"
        path.write_bytes(data.getvalue())
        said: list[str] = []
        try:
            found = find_submissions(path, LOSSES, said.append)
        except UserError as error:
            assert str(error).isprintable()
        else:
            assert len({(s.student, s.lesson) for s in found}) == len(found) > 0
            shown = "".join(line for s in found for line in (s.student, s.origin, s.problem))
            assert re.sub("[\u200c\u200d]", "", shown + "".join(said)).isprintable()
            assert not any(c in s.student for s in found for c in "/\\")
        assert [p.name for p in Path(place).iterdir()] == ["export.zip"]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_zip_that_was_damaged_anywhere_is_found_or_told(junk: bytes, at: int) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ada/03_losses.ipynb", b'{"cells": []}')
        archive.writestr("bo/03_losses.ipynb", b'{"cells": [1, 2, 3]}')
    whole = data.getvalue()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "export.zip"
        path.write_bytes(whole[:at] + junk + whole[at + len(junk) // 2 :])
        try:
            find_submissions(path)
        except UserError as error:
            assert str(error).isprintable()


# --- names --------------------------------------------------------------------------------------


def same_file(name: str) -> str:
    """What two names have in common that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@pytest.mark.parametrize(
    "name",
    [
        "ada",
        "Ada",
        "ADA",
        "ada_l1",
        "ada.l-1",
        "anon_ab12",
        "Ada Lovelace",
        "Anna-Lena Müller",
        "王伟",
        "王 伟",
    ],
)
def test_a_plain_name_is_its_folder(name: str) -> None:
    assert folder_names([name, "another"])[name] == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "...", " ", "../etc", "/etc/passwd", "a/b", "a\\b", "C:", "C:\\x", "a\0b"),
        *("=1+1", "-rf", "@x", "~", "con", "CON", "nul.txt", "com1", "LPT¹", "con .x", "conin$"),
        *("a\n", "a\u202eb", "\ud800", "a.", "a ", " a", "x" * 5_000, "é" * 300, "王" * 300, "a:b"),
        *("Ada", "aDA", "ada~0123456789ab", "e\u0301", "ﬁ", "İ", "ß", "K", "a\u0338/", "\u0338"),
    ],
)
def test_a_folders_name_is_portable(name: str) -> None:
    portable(folder_names([name])[name])


def portable(made: str) -> None:
    assert 0 < len(made.encode("utf-8")) <= 180
    assert not set(made) & set('<>:"/\\|?*=\0') and made.isprintable()
    assert made[0] not in " .-=+@~" and made[-1] not in " ."
    assert not re.fullmatch(
        r"(con|prn|aux|nul|com\d|lpt\d)", made.partition(".")[0].strip().lower()
    )
    assert made == unicodedata.normalize("NFC", made)


NAMES = st.text(st.sampled_from("aAbB éÉe\u0301ß.~-_/") | st.characters(), max_size=6) | st.text()


@settings(max_examples=300)
@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_different_students_have_different_folders(names: list[str]) -> None:
    made = list(folder_names(names).values())
    for name in made:
        portable(name)
    assert len({same_file(name) for name in made}) == len(names)


def test_the_same_letters_in_another_case_are_another_folder() -> None:
    for alike in (("ada", "Ada", "ADA"), ("ada lovelace", "Ada Lovelace"), ("é", "e\u0301", "É")):
        made = folder_names(alike)
        assert len(set(map(same_file, made.values()))) == len(alike)


@posix
def test_names_that_hide_something_are_shown_with_it(tmp_path: Path) -> None:
    names = ("a\u202eb", "new\nline", "=cmd", "\udc80", "e\u0301", "علی\u200cرضا")
    files = {f"{name}/03_losses.ipynb": IPYNB for name in names}
    found = {s.student for s in find_submissions(folder(tmp_path, files))}
    assert found == {"a<U+202E>b", "new line", "=cmd", "<U+DC80>", "é", "علی\u200cرضا"}


def test_the_released_notebook_is_left_as_it_is() -> None:
    before = copy.deepcopy(released())
    read(notebook())
    assert released() == before
