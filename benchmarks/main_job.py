"""``distill-lab run`` of the default task, from nothing: seconds, step by step, and quality.

``python -m benchmarks.main_job [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import measured, rounded, row, speedup, timed
from benchmarks.machine import machine
from distill_lab.errors import UserError
from distill_lab.files import read_json

BEFORE = Path(__file__).with_name("before.json")
SECONDS_GOAL, RETENTION_GOAL = 200, 0.99
TOPICS = {"garden": "rose fern moss seed bee", "sea": "wave gull tide reef crab"}
SETUP = (
    "`distill-lab run` with its defaults and one seed, once, in a new process and an empty "
    "folder. `total` and the steps are the report's own `seconds`; `wall` also counts Python's "
    "start, the imports, and writing the report. `peak_memory` is the first process's, without "
    "those that train students. *Before* is the same job on the same machine at commit 672abf9, "
    "one run too, from `benchmarks/before.json`. Retention is the distilled student's macro-F1 "
    "over the teacher's, on the test split."
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the job and read its report.

    Raises:
        UserError: The run failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        task = ["--task", f"csv:{_few_sentences(Path(folder))}"] if options.quick else []
        command = [sys.executable, "-m", "distill_lab", "run", "--out", str(out), *task]
        wall = timed(lambda: _run(command))
        report = read_json(out / "report.json")
    return {"main_job": entry(report, wall, {} if options.quick else before())}


def before() -> dict[str, Any]:
    """Give the job's earlier figures; nothing where they are of another machine."""
    found = read_json(BEFORE)
    return found["main_job"] if found.get("machine") == machine() else {}


def _run(command: list[str]) -> None:
    if code := subprocess.run(command).returncode:
        raise UserError(f"distill-lab run ended with exit code {code}; see above")


def _few_sentences(folder: Path) -> Path:
    """Write a small task, to try the code on."""
    lines = [
        f"we saw a {word} on day {day},{topic}"
        for topic, words in TOPICS.items()
        for word in words.split()
        for day in range(20)
    ]
    path = folder / "sentences.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def entry(report: dict[str, Any], wall: float, before: dict[str, Any]) -> dict[str, Any]:
    """Give the row from a report, the clock's seconds, and the same job's figures before."""
    seconds = report["seconds"]
    steps = {"now": {name: rounded(value) for name, value in seconds.items()}}
    found = {
        "total": measured([seconds["total"]], unit="s", at_most=SECONDS_GOAL),
        "retention_macro_f1": measured(
            [report["retention"]["macro_f1"]], unit="", at_least=RETENTION_GOAL
        ),
        "wall": measured([wall], unit="s"),
        "peak_memory": measured([report["environment"]["peak_memory_bytes"]], unit="bytes"),
        "seconds_by_step": steps,
        "setup": SETUP,
    }
    if before:
        # read top to bottom, in the table and in the figure
        found["seconds_by_step"] = {"before": before["seconds"], **steps}
        found["vs_before"] = speedup([seconds["total"]], [before["seconds"]["total"]])
        found["before"] = {key: value for key, value in before.items() if key != "seconds"}
    return found


if __name__ == "__main__":
    row(measure)
