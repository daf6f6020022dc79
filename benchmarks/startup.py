"""How long ``import distill_lab`` and ``distill-lab --help`` take in a fresh process.

``python -m benchmarks.startup [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import interleaved, measured, row
from distill_lab.errors import UserError

REPEATS = 10
IMPORT_GOAL, HELP_GOAL = 0.3, 0.6  # seconds
SETUP = (
    "A new process each time, by turns; all of it counts, Python's own start too (`python_alone`, "
    "`python -c pass`). A first round, which reads the files from the disk, does not count."
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time the starts.

    Raises:
        UserError: ``distill-lab`` is not installed beside this Python.
    """
    program = Path(sys.executable).with_name("distill-lab")
    if not program.is_file():
        raise UserError(f"no distill-lab beside {sys.executable}; run: pip install --editable .")
    commands = {
        "python_alone": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import distill_lab"],
        "help": [str(program), "--help"],
    }
    seconds = interleaved(
        {name: partial(_run, command) for name, command in commands.items()},
        1 if options.quick else REPEATS,
    )
    return {
        "startup": {
            "import": measured(seconds["import"], unit="s", at_most=IMPORT_GOAL),
            "help": measured(seconds["help"], unit="s", at_most=HELP_GOAL),
            "python_alone": measured(seconds["python_alone"], unit="s"),
            "setup": SETUP,
        }
    }


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    row(measure)
