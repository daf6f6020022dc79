"""Write whole files or none: to a temporary name first, then rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_lab.errors import UserError


def data_path(name: str) -> Path:
    """Give the path of a file or folder of ``data/``, in an installed package or a checkout.

    Raises:
        UserError: It is in neither.
    """
    package = Path(__file__).parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"data/{name} is missing from this installation; install distill_lab again")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it when the block ends well, else delete it.

    What is written may be a file or a folder; a folder that was there is replaced.

    Raises:
        UserError: The disk is full, or the place may not be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    with told_as_user_error(path):
        _remove(temporary)
        try:
            make_folder(path.parent)
            yield temporary
            if path.is_dir() and temporary.is_dir():  # a file never takes a folder's place
                _remove(path)
            temporary.replace(path)
        finally:
            _remove(temporary)


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in, where they are missing.

    Raises:
        UserError: The place takes no folders.
        OSError: It may not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # what /proc says, which takes no folders
        raise UserError(f"{path} cannot be made; choose another folder") from error


def check_new_folder(path: Path) -> None:
    """Refuse an ``--out`` that is taken, or has no name of its own.

    Raises:
        UserError: It is, or has not.
    """
    if path.name in ("", ".."):
        raise UserError(f"--out {path} is no new folder; give one a name, as in --out student")
    with told_as_user_error(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path} is a file; give a new folder")
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"--out {path} is not empty; give a new folder")


@contextmanager
def told_as_user_error(path: Path) -> Iterator[None]:
    """Tell a full disk, or a place that may not be written, in one line.

    Libraries wrap the operating system's error in their own (safetensors, torch), so the words
    are looked at too; torch's zip writer, ``inline_container``, says only that a write came short.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        words = (os.strerror(errno.ENOSPC), "inline_container.cc")
        if number in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error) for word in words):
            raise UserError(
                f"the disk is full: {path} was not written; free some space and repeat"
            ) from error
        refused = (
            errno.EACCES,
            errno.EROFS,
            errno.EPERM,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.EEXIST,
        )
        if number in refused:
            what = os.strerror(number)
            raise UserError(f"{path} cannot be written ({what}); choose another folder") from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with two spaces of indent, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, its keys in their order; 64 hex digits."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        what: What it should be, as the refusal says it: ``config``.

    Raises:
        UserError: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"no {what} can be read at {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error
