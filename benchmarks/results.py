"""``RESULTS.md`` from ``results.json``: goals met or missed, setup, figures, machine, versions."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.plots import draw_figures
from distill_lab.files import write_json, write_text, written_whole
from distill_lab.plots import png_bytes

Results = Mapping[str, Any]
ABOUT = ("machine", "versions")  # what of the results is no row
TITLES = {
    "distill_epoch": "One epoch of distillation from stored knowledge",
    "distill_three_epochs_with_extraction": "Three epochs of distillation, extraction included",
    "extract": "Extraction",
    "store_read": "Reading the store",
    "fine_tune": "Fine-tuning",
    "inference": "Inference",
    "growth": "Time and memory against the number of examples",
    "startup": "Start",
    "grading": "Grading a class",
    "main_job": "The main job",
    "limits": "What bounds the main job",
    "torchdistill": "One epoch against torchdistill",
}
READS = {"speedup": "× as fast", "cost": "× as much"}  # ours, set beside theirs


def write_results(results: Results, folder: Path) -> None:
    """Write ``results.json``, ``RESULTS.md`` and ``figures/``, each file whole or not at all."""
    write_json(folder / "results.json", results)
    figures = draw_figures(results)
    for name, figure in figures.items():
        with written_whole(folder / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png_bytes(figure))
    alts = {name: figure.alt for name, figure in figures.items()}
    write_text(folder / "RESULTS.md", as_markdown(results, alts))


# --- goals --------------------------------------------------------------------------------------


def records(entry: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the records of an entry (see ``harness``), each with its path, as in ``a.b``."""
    for key, value in entry.items():
        if isinstance(value, Mapping):
            name = f"{path}.{key}" if path else key
            if is_record(value):
                yield name, value
            else:
                yield from records(value, name)


def is_record(value: object) -> bool:
    """Whether this is what ``cost``, ``speedup`` or ``measured`` makes."""
    return isinstance(value, Mapping) and {"unit", "spread", "repeats"} <= value.keys()


def met(record: Mapping[str, Any]) -> bool | None:
    """Say whether a record's goal is met; None where it has none."""
    goal = record.get("goal")
    if not goal:
        return None
    value = record.get("ratio", record.get("value"))
    if value is None or value != value:  # NaN is no figure
        return False
    return bool(value >= goal["at_least"] if "at_least" in goal else value <= goal["at_most"])


def told(results: Results) -> list[str]:
    """Give a line for each record: what it is, its goal, and whether that is met."""
    return [_told(name, record) for name, record in records(_rows(results))]


def missed(results: Results) -> list[str]:
    """Give the lines of ``told`` whose goal is missed."""
    found = records(_rows(results))
    return [_told(name, record) for name, record in found if met(record) is False]


def _told(name: str, record: Mapping[str, Any]) -> str:
    unit = "" if "ratio" in record else record["unit"]
    line = f"{name}: {_quantity(record.get('ratio', record.get('value')), unit)}"
    verdict = {True: "met", False: "missed", None: ""}[met(record)]
    return line + (f", goal {_goal(record)} {verdict}" if verdict else "")


# --- the page -----------------------------------------------------------------------------------


def as_markdown(results: Results, figures: Mapping[str, str] | None = None) -> str:
    """Write the page.

    Args:
        results: As in ``results.json``.
        figures: The text alternatives of what lies in ``figures/``, by name.
    """
    rows = _rows(results)
    parts = ["# Results of the benchmarks", _opening(rows), _summary(rows)]
    for name, entry in rows.items():
        parts += [f"## {TITLES.get(name, name)}", *_details(entry)]
    if figures:
        parts.append("## Figures")
        parts += [f"![{_alt(alt)}](figures/{name}.png)" for name, alt in figures.items()]
    for name in ABOUT:
        parts += [f"## {name.capitalize()}", _pairs(results.get(name, {}))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(results: Results) -> dict[str, Any]:
    """Give the entries of rows, in the order of ``TITLES``."""
    order = [*TITLES, *(name for name in results if name not in TITLES)]
    return {name: results[name] for name in order if name in results and name not in ABOUT}


def _opening(rows: Mapping[str, Any]) -> str:
    lines = [
        "`python -m benchmarks` writes this page from `results.json`. Ratios are of medians and "
        "say how many times as fast as the peer ours is, or how many times as much it costs, in "
        "seconds or bytes. The spread is the lowest and the highest of a round, in which each side "
        "had its turn."
    ]
    goals = [met(record) for _, record in records(rows)]
    short = goals.count(False)
    verb = "is" if short == 1 else "are"
    lines.append(f"Of {len(goals) - goals.count(None)} goals, {short} {verb} missed.")
    tried = [name for name, entry in rows.items() if entry.get("quick")]
    if tried:
        lines.append(f"**Tiny sizes, to try the code only, no results: {', '.join(tried)}.**")
    return "\n\n".join(lines)


def _summary(rows: Mapping[str, Any]) -> str:
    lines = [
        "| row | ours | theirs | ratio | spread | goal | met? |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, record in records(rows):
        unit = record["unit"]
        verdict = {True: "yes", False: "**missed**", None: ""}[met(record)]
        low, high = record["spread"]
        ratio = record.get("ratio")
        cells = [
            f"`{name}`",
            _quantity(record.get("ours", record.get("value")), unit),
            _quantity(record.get("theirs"), unit),
            f"{_number(ratio)} {READS[record['kind']]}" if ratio else "",
            f"{_within(low, record)} – {_within(high, record)}"
            if record["repeats"] > 1
            else "once",
            _goal(record),
            verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _goal(record: Mapping[str, Any]) -> str:
    goal = record.get("goal", {})
    unit = "" if "ratio" in record else record["unit"]
    text = "".join(
        f"{sign} {_quantity(goal[side], unit)}"
        for side, sign in {"at_least": "≥", "at_most": "≤"}.items()
        if side in goal
    )
    return text + (f" (aim {_number(record['aim'])})" if "aim" in record else "")


def _details(entry: Mapping[str, Any]) -> Iterator[str]:
    if "setup" in entry:
        yield str(entry["setup"])
    yield from _tables(entry)
    if "seconds" in entry:
        yield f"Took {_number(entry['seconds'])} s; load average before it {entry['load_before']}."


def _tables(entry: Mapping[str, Any]) -> Iterator[str]:
    for key, value in entry.items():
        if table := _table(value):
            yield f"{_words(key).capitalize()}:"
            yield table
        elif isinstance(value, Mapping) and "setup" in value:  # figures with a text of their own
            yield str(value["setup"])
            yield from _tables(value)


def _within(value: float, record: Mapping[str, Any]) -> str:
    return _number(value) if "ratio" in record else _quantity(value, record["unit"])


def _table(value: object) -> str:
    """Draw numbers and words by two names, or by one; nothing where there is anything else."""
    if not isinstance(value, Mapping) or is_record(value) or not value:
        return ""
    rows = value if all(isinstance(row, Mapping) for row in value.values()) else {"": value}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[row.get(column) for column in columns] for row in rows.values()]
    if any(isinstance(cell, Mapping | list) for row in cells for cell in row):
        return ""
    lines = [["", *map(_words, columns)], ["---", *["--:"] * len(columns)]]
    lines += [[_words(name), *map(_number, row)] for name, row in zip(rows, cells, strict=True)]
    if list(rows) == [""]:  # one row without a name
        lines = [line[1:] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pairs(pairs: Mapping[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    return "\n".join(lines + [f"| {_words(key)} | {value} |" for key, value in pairs.items()])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _quantity(value: float | None, unit: str) -> str:
    if value is None or not unit:
        return _number(value)
    if unit == "bytes":
        return f"{_number(value / 1e6)} MB"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{_number(1000 * value)} ms"
    return f"{_number(value)} {unit}"


def _number(value: object) -> str:
    """Write a number with four significant digits and commas; anything else as it is."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _alt(text: str) -> str:
    return html.escape(text, quote=False).replace("[", "(").replace("]", ")").replace("\n", " ")
