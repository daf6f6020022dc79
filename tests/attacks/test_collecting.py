"""Folders and ZIPs that attack as files, each graded as one batch with an honest student in it."""

from __future__ import annotations

import copy
import json
import os
import resource
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill_lab.course.grade import FEEDBACK, GRADES, LOG, grade
from distill_lab.course.results import SubmissionResult
from distill_lab.course.submissions import find_submissions, folder_names
from distill_lab.errors import UserError
from distill_lab.exercises.registry import find_lesson
from tests.attacks.collecting import (
    CASES,
    ENTRIES,
    HONEST,
    NAME,
    SECRET,
    Case,
    Entry,
    Notebook,
    as_bytes,
    put,
    write_zip,
)
from tests.attacks.test_attacks import ROOT, SEED, _released, honest

pytestmark = pytest.mark.slow

GIGABYTE = 1 << 30
LESSON = find_lesson("1")
PASSWD = "root:x:0"


@dataclass(frozen=True)
class Batch:
    """What became of a batch.

    Attributes:
        folder: Around all of it.
        results: By student.
        told: The lines.
        before: The files around ``out``, before.
        peak: Bytes of the largest process.
    """

    folder: Path
    results: dict[str, SubmissionResult]
    told: list[str]
    before: set[str]
    peak: int


def _files(folder: Path) -> set[str]:
    found = set()
    for place, folders, names in os.walk(os.fsencode(folder)):
        if os.fsdecode(place) == str(folder):
            folders[:] = [name for name in folders if name != b"out"]
        found |= {os.fsdecode(os.path.join(place, name)) for name in (*folders, *names)}
    return found


def _graded(folder: Path, submitted: Path) -> Batch:
    told: list[str] = []
    (folder / SECRET).write_text(SECRET)
    before = _files(folder)
    results = grade(
        submitted,
        folder / "out",
        jobs=2,
        seed=SEED,
        time_limit=3,
        memory=512,
        require_sandbox=True,
        root=ROOT,
        say=told.append,
    )
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert len({result.student for result in results}) == len(results)
    return Batch(folder, {r.student: r for r in results}, told, before, peak)


def _notebook() -> Notebook:
    notebook: Notebook = json.loads(json.dumps(_released(LESSON.number)))
    return notebook


@pytest.fixture(scope="module")
def folder_batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    folder = tmp_path_factory.mktemp("folder")
    submitted = folder / "submitted"
    notebook = _notebook()
    put(submitted / HONEST / NAME, as_bytes(honest(LESSON)))
    for case in CASES:
        own = Path(os.fsdecode(os.path.join(os.fsencode(submitted), os.fsencode(case.name))))
        own.mkdir()
        case.write(own, copy.deepcopy(notebook))
    yield _graded(folder, submitted)


@pytest.fixture(scope="module")
def zip_batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    folder = tmp_path_factory.mktemp("zip")
    write_zip(folder / "all.zip", ENTRIES, _notebook(), as_bytes(honest(LESSON)))
    yield _graded(folder, folder / "all.zip")


# --- one by one ---------------------------------------------------------------------------------


def _gets_nothing(result: SubmissionResult, says: str) -> None:
    assert [one.points for one in result.exercises] == [0.0] * len(LESSON.exercises)
    for one in result.exercises:
        assert one.status != "passed"
        assert says in one.reason and one.reason.isprintable() and len(one.reason) < 600


def _shown(name: str | bytes) -> str:
    """Give the name that results have."""
    text = os.fsdecode(name)
    line = " ".join(text.split())
    return "".join(c if c.isprintable() and c not in "/\\" else f"<U+{ord(c):04X}>" for c in line)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[:40])
def test_a_hostile_folder_gets_nothing(folder_batch: Batch, case: Case) -> None:
    student = _shown(case.name)
    if case.told:
        assert student not in folder_batch.results
        assert any(case.told in line and student in line for line in folder_batch.told)
    else:
        _gets_nothing(folder_batch.results[student], case.says)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: ascii(entry.name)[:40])
def test_a_hostile_entry_of_a_zip_gets_nothing(zip_batch: Batch, entry: Entry) -> None:
    if entry.student:
        _gets_nothing(zip_batch.results[entry.student], entry.says)
    else:
        assert any(entry.says in line for line in zip_batch.told)


# --- the batch as a whole -----------------------------------------------------------------------


@pytest.fixture(params=["folder_batch", "zip_batch"])
def batch(request: pytest.FixtureRequest) -> Batch:
    found: Batch = request.getfixturevalue(request.param)
    return found


def test_the_honest_get_all(batch: Batch) -> None:
    assert batch.results[HONEST].points == LESSON.points


def test_nobody_else_has_a_result(batch: Batch) -> None:
    if batch.folder.name.startswith("zip"):
        expected = {entry.student for entry in ENTRIES if entry.student}
    else:
        expected = {_shown(case.name) for case in CASES if not case.told}
    assert set(batch.results) == expected | {HONEST}


def test_nothing_is_written_elsewhere(batch: Batch) -> None:
    assert _files(batch.folder) == batch.before
    assert sorted(os.listdir(batch.folder / "out")) == sorted([FEEDBACK, GRADES, LOG])


def test_each_page_is_where_its_student_looks(batch: Batch) -> None:
    pages = {path for path in (batch.folder / "out" / FEEDBACK).rglob("*") if path.is_file()}
    names = folder_names(batch.results)
    place = batch.folder / "out" / FEEDBACK
    assert pages == {place / name / f"{LESSON.name}.html" for name in names.values()}
    assert len(pages) == len(batch.results)


def test_no_linked_file_is_shown(batch: Batch) -> None:
    for path in (batch.folder / "out").rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert PASSWD not in text and SECRET not in text
            assert path.suffix != ".html" or "<script" not in text


def test_the_table_has_a_line_for_each_and_no_formula(batch: Batch) -> None:
    lines = (batch.folder / "out" / GRADES).read_bytes().decode("utf-8").split("\n")
    assert len(lines) - 2 == len(batch.results) * len(LESSON.exercises)
    assert not any(line.lstrip('"').startswith(("=", "+", "-", "@", "\t")) for line in lines)


def test_memory_stays_sane(batch: Batch) -> None:
    assert batch.peak < 1.5 * GIGABYTE


def test_lines_told_are_printable(batch: Batch) -> None:
    assert all(line.isprintable() and len(line) < 2000 for line in batch.told)


# --- what no batch is made of -------------------------------------------------------------------


def _nothing_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        find_submissions(path)
    assert str(error.value).isprintable()
    return str(error.value)


def test_a_zip_of_too_many_entries(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(100_001):
            archive.writestr(f"{number}/x", b"")
    assert "more than 100,000" in _nothing_of(tmp_path / "all.zip")


def test_a_zip_in_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    write_zip(tmp_path / "inner.zip", [], {}, b"{}")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", f"{HONEST}/01_pipeline.zip")
        archive.write(tmp_path / "inner.zip", f"mallory/{NAME}")
    (only,) = find_submissions(tmp_path / "all.zip")
    assert (only.student, only.content[:2]) == ("mallory", b"PK")


@pytest.mark.parametrize("second", ["e\u0301mile", "\u00e9mile "])
def test_two_ways_to_write_one_name_are_told(tmp_path: Path, second: str) -> None:
    put(tmp_path / "\u00e9mile" / NAME, b"{}")
    put(tmp_path / second / NAME, b"[]")
    assert "two notebooks of one student" in _nothing_of(tmp_path)


def test_two_different_notebooks_under_one_name_in_a_zip_are_told(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "all.zip", "w") as archive,
    ):
        archive.writestr(f"{HONEST}/{NAME}", b"{}")
        archive.writestr(f"{HONEST}/{NAME}", b"[]")
    assert "two notebooks of one student" in _nothing_of(tmp_path / "all.zip")


@pytest.mark.parametrize(
    "inside",
    [f"ada_7_assignsubmission_file_/{NAME}", f"ada_7_assignsubmission_file_{NAME}", f"ada/{NAME}"],
)
@pytest.mark.parametrize("around", ["", "01_pipeline/", "submitted/"])
def test_nobody_hands_in_for_another(tmp_path: Path, around: str, inside: str) -> None:
    names = (f"{around}mallory/{inside}", f"{around}emmy/{NAME}")
    for name in names:
        put(tmp_path / "folder" / name, b"{}")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in names:
            archive.write(tmp_path / "folder" / name, name)
    start = tmp_path / "folder" / ("submitted" if around == "submitted/" else "")
    for path in (start, tmp_path / "all.zip"):
        assert [s.student for s in find_submissions(path)] == ["emmy", "mallory"]


@pytest.mark.parametrize("around", ["", "export/", "01_pipeline/", "week 1/01_pipeline/"])
def test_moodles_names_count_in_folders_around_all_of_them(tmp_path: Path, around: str) -> None:
    put(tmp_path / f"{around}Ada L_1_assignsubmission_file_/x/{NAME}", b"{}")
    put(tmp_path / f"{around}Emmy N_2_assignsubmission_file_{NAME}", b"{}")
    put(tmp_path / "notes.ipynb", b"{}")
    assert [s.student for s in find_submissions(tmp_path)] == ["Ada L", "Emmy N"]
