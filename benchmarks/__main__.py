"""Run the benchmarks, each row in a process of its own, and write what came out.

``python -m benchmarks [ROW ...] [--out DIR] [--quick] [--list]``, in the checkout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_lab.errors import UserError
from distill_lab.files import read_json

ROWS = {
    "distill": "an epoch, and three with extraction, against TextBrewer and a plain loop",
    "extract": "extraction against a plain loop",
    "store_read": "reading the store against reading a bare array",
    "fine_tune": "fine-tuning against bare Trainer",
    "inference": "teacher and student, in torch, ONNX and int8",
    "growth": "time and memory against the number of examples",
    "startup": "import distill_lab, distill-lab --help",
    "grading": "grading a class against nbgrader",
    "main_job": "distill-lab run, from nothing",
    "limits": "what bounds it: matrix products, and a student's step",
}
OPTIONAL = {"torchdistill": "an epoch against torchdistill, in an environment of its own"}
MODULES = {"torchdistill": "torchdistill_peer"}  # where it is not called as the row
FOLDER = Path("benchmarks")
TRIAL_FOLDER = Path("build/benchmarks")  # what --quick finds must not pass for the real thing


def chosen(names: Sequence[str]) -> list[str]:
    """Give the rows to run, in their order: those named, else all but the optional.

    Raises:
        UserError: There is no such row.
    """
    known = [*ROWS, *OPTIONAL]
    for name in names:
        if name not in known:
            raise UserError(f"no row is called {name!r}; choose {', '.join(known)}")
    return [name for name in known if name in names] if names else list(ROWS)


def run_row(name: str, *, quick: bool = False) -> dict[str, Any]:
    """Run one row in a new process and give what it adds to the results, by name.

    Returns:
        Nothing where the row failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", f"benchmarks.{MODULES.get(name, name)}"]
        command += ["--out", str(out)] + (["--quick"] if quick else [])
        done = subprocess.run(command, stdout=subprocess.DEVNULL)  # a row prints what it writes
        return read_json(out) if done.returncode == 0 else {}


def check_same(results: dict[str, Any], about: dict[str, dict[str, Any]]) -> None:
    """Refuse to put figures of two machines, numbers of threads or sets of versions into one file.

    Args:
        results: What is there already.
        about: ``machine`` and ``versions`` of now.

    Raises:
        UserError: The results there are of another machine, or were made with other versions.
    """
    for what, now in about.items():
        before = results.get(what, now)
        if before != now:
            differing = sorted(key for key in before | now if before.get(key) != now.get(key))
            raise UserError(
                f"the results there are of another {what} ({', '.join(differing)} differ); "
                "give another --out, or run all rows after deleting them"
            )


def main() -> None:
    """Read the command line, run the rows, write ``results.json`` and ``RESULTS.md``."""
    try:
        _run(_options())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="which; all but the optional if none"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where to write [{FOLDER}]")
    parser.add_argument(
        "--quick", action="store_true", help=f"tiny sizes, to try the code [into {TRIAL_FOLDER}]"
    )
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    if options.list:
        for name, what in ROWS.items():
            print(f"{name:14}{what}")
        for name, what in OPTIONAL.items():
            print(f"{name:14}{what} (only when named)")
        return
    names = chosen(options.rows)
    folder: Path = options.out or (TRIAL_FOLDER if options.quick else FOLDER)

    from benchmarks.machine import machine, versions
    from benchmarks.results import missed, told, write_results

    about = {"machine": machine(), "versions": versions()}
    failed = []
    for number, name in enumerate(names, 1):
        results = read_json(folder / "results.json")
        check_same(results, about)
        print(f"{number}/{len(names)} · {name}: {(ROWS | OPTIONAL)[name]}", flush=True)
        found = run_row(name, quick=options.quick)
        if not found:
            failed.append(name)
            continue
        print("\n".join(told(found)), flush=True)
        write_results(about | results | found, folder)  # the other rows stay
    short = missed(read_json(folder / "results.json"))
    print("\n".join(["goals missed:", *short] if short else ["no goal is missed"]))
    print(f"results: {folder / 'RESULTS.md'}")
    if failed:
        print(f"error: no figures of {', '.join(failed)}; see above", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
