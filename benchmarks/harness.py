"""What the rows share: sides timed by turns, records of what came out, a row's command line."""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from distill_lab.errors import UserError
from distill_lab.files import write_json

Record = dict[str, Any]
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux, proc(5)


# --- timing -------------------------------------------------------------------------------------


def interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Time the sides by turns, so that what slows the machine for a while slows each of them.

    Args:
        sides: What to time, by name; each round calls them in this order.
        repeats: Rounds.
        warm_up: A round before the first that does not count.

    Returns:
        The seconds of each round, by side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1 if warm_up else 0, repeats):
        for name, work in sides.items():
            took = timed(work)
            if turn >= 0:
                seconds[name].append(took)
    return seconds


def timed(work: Callable[[], object]) -> float:
    """Give the seconds of a call; on CUDA, until the device has finished what it was given."""
    gc.collect()  # what another side left behind is not this one's to sweep
    _await_device()
    start = time.perf_counter()
    work()
    _await_device()
    return time.perf_counter() - start


def _await_device() -> None:
    torch = sys.modules.get("torch")  # a row that needs no torch does not load it here
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Give the highest resident set of this process so far, or since ``reset_peak_memory``.

    Returns:
        Bytes. On Linux they are of the program itself: ``getrusage`` would count what the process
        that started it held at that moment.
    """
    if STATUS.is_file():
        words = STATUS.read_text(encoding="utf-8").split()
        return 1024 * int(words[words.index("VmHWM:") + 1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reset_peak_memory() -> None:
    """Forget what was needed before, as far as the system can: Linux does, others keep it."""
    with suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="ascii")


# --- records ------------------------------------------------------------------------------------


def cost(
    ours: Sequence[float], theirs: Sequence[float], *, at_most: float | None = None, unit: str = "s"
) -> Record:
    """Compare what should be small: the ratio is ours / theirs.

    Args:
        ours: What each round took.
        theirs: What the same rounds took the peer.
        at_most: The goal for the ratio.
        unit: Of both.

    Returns:
        ``kind`` (``cost``), ``ratio`` (of the medians), ``ours`` and ``theirs`` (the medians),
        ``unit``, ``spread`` (the lowest and the highest ratio of a round), ``repeats`` and, where
        there is one, ``goal``.
    """
    ratio = median(ours) / median(theirs)
    return {"kind": "cost"} | _compared(ours, theirs, ratio, unit, {"at_most": at_most})


def speedup(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_least: float | None = None,
    aim: float | None = None,
    unit: str = "s",
) -> Record:
    """Compare what should be small, where the peer is the slower: the ratio is theirs / ours.

    Args:
        ours: What each round took.
        theirs: What the same rounds took the peer.
        at_least: The goal for the ratio.
        aim: What is hoped for beyond the goal.
        unit: Of both.

    Returns:
        As ``cost`` does, ``kind`` being ``speedup``, and ``aim``.
    """
    ratio = median(theirs) / median(ours)
    record = _compared(ours, theirs, ratio, unit, {"at_least": at_least}, inverse=True)
    return {"kind": "speedup"} | record | ({"aim": aim} if aim is not None else {})


def measured(
    values: Sequence[float],
    *,
    unit: str,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Record:
    """Record what has no peer.

    Args:
        values: What each repeat gave.
        unit: Of the values; ``""`` for a bare number.
        at_most: The goal, where small is good.
        at_least: The goal, where large is good.

    Returns:
        ``value`` (the median), ``unit``, ``spread`` (the lowest and the highest value),
        ``repeats`` and, where there is one, ``goal``.
    """
    record = {
        "value": rounded(median(values)),
        "unit": unit,
        "spread": [rounded(min(values)), rounded(max(values))],
        "repeats": len(values),
    }
    return record | _goal({"at_most": at_most, "at_least": at_least})


def rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def _compared(
    ours: Sequence[float],
    theirs: Sequence[float],
    ratio: float,
    unit: str,
    goal: Mapping[str, float | None],
    *,
    inverse: bool = False,
) -> Record:
    rounds = [b / a if inverse else a / b for a, b in zip(ours, theirs, strict=True)]
    record = {
        "ratio": rounded(ratio),
        "ours": rounded(median(ours)),
        "theirs": rounded(median(theirs)),
        "unit": unit,
        "spread": [rounded(min(rounds)), rounded(max(rounds))],
        "repeats": len(ours),
    }
    return record | _goal(goal)


def _goal(goal: Mapping[str, float | None]) -> Record:
    given = {side: bound for side, bound in goal.items() if bound is not None}
    return {"goal": given} if given else {}


# --- a row's command line -----------------------------------------------------------------------


def row(
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    *,
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Be the ``main()`` of a row's module: read its command line, measure, print and write.

    Each entry also gets ``seconds``, how long the whole row took, ``load_before``, the machine's
    load average over the minute before it, and, where it was asked for, ``quick``.

    Args:
        measure: Takes the options and returns what the row adds to ``results.json``, by name:
            ``{"store_read": {"vs_array": ..., "setup": ...}}``.
        arguments: Adds the row's own options.
    """
    first_line = (sys.modules["__main__"].__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=first_line)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write what came out")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, one repeat: to try the code"
    )
    if arguments is not None:
        arguments(parser)
    options = parser.parse_args()
    load, start = os.getloadavg()[0], time.perf_counter()
    try:
        entries = measure(options)
        about: Record = {
            "seconds": round(time.perf_counter() - start, 1),
            "load_before": round(load, 2),
        }
        about |= {"quick": True} if options.quick else {}
        found = {name: entry | about for name, entry in entries.items()}
        if options.out:
            write_json(options.out, found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(found, indent=2, ensure_ascii=False))
