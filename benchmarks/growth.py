"""Time and memory against the number of examples, for extraction and for distillation.

``python -m benchmarks.growth [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth_part import TOKENS, VALIDATION
from benchmarks.harness import Record, cost, measured, rounded, row
from distill_lab.devices import dtype_name, pick_device, pick_dtype
from distill_lab.errors import UserError

SIZES = (5_000, 20_000, 80_000)
QUICK_SIZES = (200, 400, 800)
PARTS = ("extract", "distill")
SLOPE_GOAL, MEMORY_GOAL = 1.05, 1.15
SETUP = (
    f"Sentences of the transfer set, cut at {TOKENS} tokens and, beyond what there are, repeated "
    "under new ids: 5,000, 20,000 and 80,000 of them. Extraction, and one epoch of distillation "
    "from what it stored, each have a process of their own. Seconds are those of `extract` and "
    "`distill` (opening the store included), with all that they do: tokenising, fingerprints, "
    "checks, batches. Loading models and making the task do not count. The validation split is "
    f"cut to {VALIDATION} sentences, so that the pass over it after the epoch, which does not "
    "grow, hides nothing. The slope is that of the least-squares line of log seconds against log "
    "examples: 1 is in proportion. Memory is the highest resident set of the whole process, the "
    "task and the models included, from then on where they are loaded; `memory` sets that at "
    "80,000 examples beside that at 20,000."
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run every part at every size.

    Raises:
        UserError: A part failed; it has said why.
    """
    sizes = QUICK_SIZES if options.quick else SIZES
    dtype = dtype_name(pick_dtype(pick_device()))  # once, so that all sizes compute alike
    found: dict[str, dict[int, Record]] = {part: {} for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for part in PARTS:
                found[part][size] = _run(part, size, dtype, Path(folder) / f"store-{size}")
    return {"growth": entry(found) | {"dtype": {"computed_in": dtype}, "setup": SETUP}}


def _run(part: str, size: int, dtype: str, store: Path) -> Record:
    out = store.with_name(f"{store.name}-{part}.json")
    command = [sys.executable, "-m", "benchmarks.growth_part", part, str(size), dtype]
    if code := subprocess.run([*command, str(store), str(out)]).returncode:
        raise UserError(f"{part} of {size:,} examples ended with exit code {code}; see above")
    record: Record = json.loads(out.read_text(encoding="utf-8"))
    return record


def entry(found: Mapping[str, Mapping[int, Record]]) -> dict[str, Any]:
    """Give the row from each part's seconds and peak memory (bytes), by number of examples."""
    grown: dict[str, Any] = {}
    for part, by_size in found.items():
        *_, second_largest, largest = sorted(by_size)
        seconds = {size: record["seconds"] for size, record in by_size.items()}
        memory = {size: record["peak_memory_bytes"] for size, record in by_size.items()}
        grown[part] = {
            "slope": measured([slope(seconds)], unit="", at_most=SLOPE_GOAL),
            "memory": cost(
                [memory[largest]], [memory[second_largest]], at_most=MEMORY_GOAL, unit="bytes"
            ),
        }
        grown[f"{part}_by_examples"] = {
            str(size): {
                "seconds": rounded(seconds[size]),
                "examples_a_second": rounded(size / seconds[size]),
                "peak_memory_mb": round(memory[size] / 1e6),
            }
            for size in sorted(by_size)
        }
    return grown


def slope(seconds: Mapping[int, float]) -> float:
    """Give the slope of the least-squares line of log seconds against log examples."""
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


if __name__ == "__main__":
    row(measure)
