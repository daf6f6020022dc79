"""What docs/scaling.md says is so: its commands and its Python run, its arithmetic is right."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import sentences, write_csv
from test_distributed import launch

from distill_lab.cli import app
from distill_lab.knowledge import KnowledgeStore

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
MILLIONS = 100e6


def block(language: str) -> str:
    """Give the one fenced block of a language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    return str(found)


COMMAND_LINES = [*block("sh").splitlines(), block("bash").replace("\\\n", " ").splitlines()[-1]]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    name, *arguments = shlex.split(line.partition(" -m distill_lab ")[2])
    COMMANDS[name].make_context(name, arguments)  # parses and checks, runs nothing


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_batch_script_is_one_that_bash_takes() -> None:
    subprocess.run(["bash", "-n"], input=block("bash"), text=True, check=True)


def test_the_streaming_example_is_short() -> None:
    assert len([line for line in block("python").splitlines() if line]) <= 30


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", DOC)
    assert targets and all((ROOT / "docs" / target).is_file() for target in targets)


# --- arithmetic --------------------------------------------------------------------------------


def shown(row: str) -> str:
    """Give the digits in the second cell of the row that begins with a text."""
    [cell] = re.findall(rf"^\| {re.escape(row)} \| ([\d.,]+)", DOC, re.MULTILINE)
    return str(cell).replace(",", "")


def number(row: str) -> float:
    return float(shown(row))


def rounded(value: float, like: str) -> str:
    """Write a value with as many decimals as another has."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def test_every_figure_is_marked_measured_or_computed() -> None:
    tables = DOC.partition("## What 100 million sentences take")[2]
    rows = [line.split(" | ") for line in tables.splitlines() if re.match(r"\| .*\d.* \|", line)]
    figures = [row for row in rows if len(row) == 3 and row[1].strip()]
    assert len(figures) == 20
    assert all(re.match(r"measured|computed", row[2]) for row in figures)


def test_the_rates_are_those_of_the_stored_run() -> None:
    report = json.loads((ROOT / "data/results/five_seeds.json").read_text(encoding="utf-8"))
    sentences, distilled = report["task"]["transfer"], report["students"]["distilled"]
    extracted = sentences / report["seconds"]["extract"]
    assert shown("extraction, bfloat16") == rounded(extracted, "")
    epochs = report["settings"]["epochs"]
    trained = epochs * sentences / distilled["seconds"]
    assert shown("one distillation epoch, bfloat16, batch 32") == rounded(trained, "")
    assert report["environment"]["threads"] == 2
    assert report["environment"]["dtype"] == "bfloat16"


def test_what_is_computed_follows_from_what_is_measured() -> None:
    hour, tokens = 3600, 26.9

    def at(rate: str) -> float:
        return MILLIONS / number(rate) / hour

    host = "tokenising, padding and writing, one process, one thread"
    per_process = "the same for 100 million: what bounds extraction with one process"
    table = "the table with hashes, as training checks them"
    peak = 0.2 * 312e12
    teacher = 2 * 6 * 12 * 384**2 * tokens + 6 * 4 * 384 * tokens**2
    student = 3 * (2 * 2 * 12 * 128**2 * tokens + 2 * 4 * 128 * tokens**2)
    follows = {
        "extraction of 100 million": at("extraction, bfloat16"),
        "one epoch over 100 million": at("one distillation epoch, bfloat16, batch 32"),
        "the store of 100 million": number("the store, logits alone") * MILLIONS / 1e9,
        "both, one store of 100 million, in every process": number(table) * MILLIONS / 1e9,
        "both, a part of 1 million": number(table) * 1e6 / 1e9,
        "teacher, one sentence": teacher / 1e9,
        "teacher, 100 million at 20 % of the peak": teacher * MILLIONS / peak / hour,
        per_process: at(host),
        "the same, eight processes": at(host) / 8,
        "student, one sentence, forward and backward": student / 1e9,
        "student, 100 million at 20 % of the peak": student * MILLIONS / peak / hour,
        "AdamW's pass over 4.4 million parameters": 1e3 * 28 * 4.4e6 / 2.0e12,
        "one epoch at 10 ms a step (assumed: Python and kernel starts), batch 32": (
            MILLIONS / 32 * 0.01 / hour
        ),
        "the same, batch 512": MILLIONS / 512 * 0.01 / hour,
    }
    assert {row: shown(row) for row in follows} == {
        row: rounded(value, shown(row)) for row, value in follows.items()
    }


# --- running it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands were given, one after the other."""
    folder = tmp_path_factory.mktemp("scaling")
    write_csv(folder / "topics.csv", sentences())
    for line in block("sh").splitlines():
        launch(["bash", "-c", line], folder)
    return folder


@pytest.mark.slow
def test_the_commands_run_in_two_processes(worked: Path) -> None:
    assert (worked / "runs" / "topics" / "report.html").is_file()
    assert len(KnowledgeStore(worked / "store")) == 126
    assert (worked / "student" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_transfer_set_is_streamed_part_by_part(worked: Path) -> None:
    texts = [{"text": row["text"]} for row in sentences(seed=1)[:120]]
    with (worked / "many.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(texts)
    code = block("python").replace("PART = 1_000_000", "PART = 50")
    said = launch([sys.executable, "-c", code], worked)
    parts = re.findall(r"^part (\d): (\d+) examples", said, re.MULTILINE)
    assert parts == [("0", "50"), ("1", "50"), ("2", "20")]
    assert (worked / "student-of-parts" / "model.safetensors").is_file()
