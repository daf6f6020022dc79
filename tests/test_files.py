"""Whole files or none; a full disk in one line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_lab.errors import UserError
from distill_lab.files import data_path, told_as_user_error, write_json, write_text, written_whole


def test_what_is_written_stands_under_its_name_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "note.txt", "Grüße\n")
    assert (tmp_path / "new" / "note.txt").read_bytes() == "Grüße\n".encode()
    assert os.listdir(tmp_path / "new") == ["note.txt"]


def test_json_reads_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "→"}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert "→" in text


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_half_of_the_new(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(type(error)), written_whole(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_a_folder_takes_the_place_of_the_one_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale.bin").write_text("old")
    with written_whole(path) as temporary:
        temporary.mkdir()
        (temporary / "weights.bin").write_text("new")
        assert (path / "stale.bin").exists(), "the old one goes only when the new one is whole"
    assert os.listdir(path) == ["weights.bin"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_half_written_folder_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), written_whole(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights.bin").write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "half.bin").write_text("half")
    with written_whole(tmp_path / "model") as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == []


@pytest.mark.parametrize(
    "error",
    [
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
        lambda: RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)\nat write"),
    ],
)
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, error: Callable[[], Exception]
) -> None:
    path = tmp_path / "weights.bin"
    with (
        pytest.raises(UserError, match=r"the disk is full: .*weights\.bin was not written; free"),
        written_whole(path) as temporary,
    ):
        temporary.write_text("half")
        raise error()
    assert os.listdir(tmp_path) == []


def test_a_place_that_may_not_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be written \(.+\); choose another folder"):
        write_text(tmp_path / "file" / "note.txt", "text")
    with (
        pytest.raises(UserError, match="Permission denied"),
        told_as_user_error(tmp_path),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_other_errors_keep_their_kind() -> None:
    with pytest.raises(KeyError), told_as_user_error(Path("x")):
        raise KeyError("x")
    with pytest.raises(UserError, match=r"^as it was$"), told_as_user_error(Path("x")):
        raise UserError("as it was")


def test_data_that_is_missing_is_told_in_one_line() -> None:
    assert data_path("bbc-topics.json").is_file()
    with pytest.raises(UserError, match="install distill_lab again"):
        data_path("no-such-file.json")
