"""What docs/grading.md says is so: its commands parse, its tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from distill_lab.course import grade, isolation, protocol, repair
from distill_lab.course.cli import app
from distill_lab.course.results import COLUMNS, Status

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
PROMPT = "distill-lab course "


def command_lines() -> list[str]:
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL))
    lines = shell.replace("\\\n", " ").split("\n")
    return [PROMPT + line.partition(PROMPT)[2] for line in lines if PROMPT in line]


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    name, *arguments = shlex.split(line)[2:]
    COMMANDS[name].make_context(name, arguments)  # parses and checks, runs nothing


def test_the_table_has_every_option_of_grade() -> None:
    listed = re.findall(r"^\| `(--[a-z-]+)", DOC, re.MULTILINE)
    options = [p.opts[0] for p in COMMANDS["grade"].params if p.opts[0].startswith("--")]
    assert sorted(listed) == sorted(options)


def test_the_defaults_are_the_commands() -> None:
    defaults = {p.name: p.default for p in COMMANDS["grade"].params}
    assert f"seconds an exercise may take ({defaults['time_limit']})" in DOC
    assert f"beyond what Python and torch do ({defaults['memory']})" in DOC


def test_every_status_every_column_and_every_file_is_named() -> None:
    for status in get_args(Status):
        assert f"\n| `{status}` |" in DOC
    assert ", ".join(f"`{column}`" for column in COLUMNS) in DOC
    for name in (grade.LOG, grade.GRADES, f"{grade.FEEDBACK}/STUDENT/NN_name.html"):
        assert f"\n| `{name}` |" in DOC


def test_the_limits_are_the_ones_in_force() -> None:
    assert f"at most {protocol.LONGEST_JSON >> 20} MiB" in DOC
    assert f"at most {protocol.LONGEST_TENSORS >> 20} MiB" in DOC
    assert f"{isolation.PROCESSES} processes or threads; {isolation.OPEN_FILES} open files" in DOC
    assert f"{isolation.FILE_BYTES >> 20} MiB" in DOC
    assert isolation.SCRATCH.startswith(b"size=64m") and "(64 MB each)" in DOC
    assert f"{repair.LARGEST_NOTEBOOK / 1e6:g} MB, {repair.MOST_CELLS:,} cells" in DOC
