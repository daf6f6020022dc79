"""What the README says is so: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from distill_lab.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def blocks(language: str) -> list[str]:
    """Give the fenced blocks of a language, also those indented in a list."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block"
    return found


def command_lines() -> list[str]:
    """Give the lines of shell blocks that call ``distill-lab``."""
    lines = [
        line.strip()
        for language in ("sh", "bat")
        for b in blocks(language)
        for line in b.split("\n")
    ]
    return [line for line in lines if line.startswith("distill-lab ")]


def all_commands() -> list[Any]:
    """Give the commands, those of groups among them."""
    return [c for x in COMMANDS.values() for c in (x, *getattr(x, "commands", {}).values())]


@pytest.mark.parametrize("line", dict.fromkeys(command_lines()))
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = COMMANDS[name]
    if hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)  # parses and checks, runs nothing


def test_the_table_has_every_command() -> None:
    listed = re.findall(r"^\| `distill-lab (\w+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_every_option_in_the_prose_exists() -> None:
    prose = re.sub(r"^ *```.*?^ *```$", "", README, flags=re.MULTILINE | re.DOTALL)
    code = " ".join(re.findall(r"`([^`]+)`", prose))
    named = set(re.findall(r"--[a-z0-9-]+", code))
    there = {o for command in all_commands() for p in command.params for o in p.opts}
    assert named and named <= there | {"--help"}


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    files = [t for t in targets if not t.startswith(("#", "https:"))]
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    assert [t for t in files if not (ROOT / t).is_file()] == []
    assert [t for t in targets if t.startswith("#") and t not in anchors] == []


def test_no_number_is_left_to_be_filled_in() -> None:
    assert re.findall(r"TODO-NUMBER[^|\n ]*", README) == []


@pytest.mark.slow
def test_the_python_blocks_run_one_after_the_other(small_csv: Path, tmp_path: Path) -> None:
    shutil.copy(small_csv, tmp_path / "topics.csv")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = dict(re.findall(r"^(teacher|student): accuracy ([\d.]+)", done.stdout, re.MULTILINE))
    assert float(scores["student"]) > 0.8 * float(scores["teacher"]) > 0.6
    assert (tmp_path / "student" / "model.safetensors").is_file()
