"""The report card of a finished run: checked, written as JSON, shown as a web page and a table.

A report is one plain dict. Qualities are fractions from 0 to 1, gains are percentage points of
accuracy, latency is in milliseconds, throughput in examples per second, sizes in bytes, times in
seconds; every interval is a 95 % interval. The sentences below are made from those numbers and say
no more than they support; a student that loses is shown losing.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill_lab.errors import UserError
from distill_lab.files import write_text
from distill_lab.plots import (
    NBSP,
    STUDENTS,
    TEACHER,
    Look,
    Report,
    alt_text,
    compact,
    draw_figures,
    percent,
    save_figures,
)

SCHEMA = 1
MINUS = "\N{MINUS SIGN}"

_INTERVAL = ("mean", "low", "high")
_COST = ("parameters", "bytes", "throughput", "latency_ms.p50", "latency_ms.p95")
_STUDENT = (
    *("seeds", "steps", "interval", "ece", "agreement", "seconds", *_COST),
    *(f"{metric}.{key}" for metric in ("accuracy", "macro_f1") for key in (*_INTERVAL, "values")),
)
_REQUIRED: dict[str, tuple[str, ...]] = {
    "task": ("name", "classes", "train", "transfer", "validation", "test"),
    "teacher": ("name", "accuracy", "macro_f1", "ece", *_COST),
    **{f"students.{student}": _STUDENT for student in STUDENTS},
    "retention": ("accuracy", "macro_f1"),
    "compression": ("parameters", "bytes"),
    "speedup": ("throughput", "latency"),
    "gain_over_hard_labels": _INTERVAL,
    "gain_with_transfer": _INTERVAL,
    "seconds": ("teacher", "extract", "students", "evaluate", "total"),
    "settings": (),
    "environment": ("python", "torch", "transformers", "device", "threads", "seed"),
    "reliability.teacher": ("confidence", "accuracy", "count"),
    "reliability.distilled": ("confidence", "accuracy", "count"),
    "class_similarity": ("labels", "matrix"),
}
# What `distill-lab export` adds, where it was run.
_EXPORT = (
    *("bytes", "throughput", "latency_ms.p50", "latency_ms.p95", "accuracy", "agreement"),
    *("max_abs_difference", "teacher_throughput", "speedup", "compression"),
)
_EXPORTS = {"onnx": "ONNX, float32", "onnx_int8": "ONNX, int8"}
# Where the students' vocabulary was pruned.
_VOCABULARY = (
    *("kept", "of", "unknown_test_tokens", "unknown_test_tokens_unpruned"),
    "changed_test_examples",
)


# -- reading, checking, writing --------------------------------------------------------------------


def validate_report(report: Report) -> None:
    """Check that a report has every key a report card needs, and only finite numbers.

    Raises:
        UserError: keys are missing (it lists them), the schema is another one, or a number is not
            finite (it says which).
    """
    if not isinstance(report, Mapping):
        raise UserError(f"a report is a JSON object, not {type(report).__name__}: run again")
    wanted = [f"{part}.{key}" for part, keys in _REQUIRED.items() for key in keys]
    wanted += [part for part, keys in _REQUIRED.items() if not keys]
    if "exports" in report:
        names = [name for name in _EXPORTS if name == "onnx" or _has(report, f"exports.{name}")]
        wanted += [f"exports.{name}.{key}" for name in names for key in _EXPORT]
    if "vocabulary" in report:
        wanted += [f"vocabulary.{key}" for key in _VOCABULARY]
    missing = [path for path in ("schema", *wanted) if not _has(report, path)]
    if missing:
        raise UserError(f"the report lacks {', '.join(missing)}: run again to make them")
    if report["schema"] != SCHEMA:
        raise UserError(
            f"the report has schema {report['schema']!r}, this version reads {SCHEMA}: run again"
        )
    odd = [path for path, number in _numbers(report) if not math.isfinite(number)]
    if odd:
        raise UserError(
            f"the report has numbers that are not finite at {', '.join(odd)}: run again"
        )


def load_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a report from ``report.json``, or from the folder of a run that holds one.

    Raises:
        UserError: there is no such file, or it is no complete report.
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"there is no report at {file}: give a run's folder or its report.json"
        ) from None
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise UserError(f"{file} cannot be read as JSON ({error}): run again to make it") from None
    validate_report(report)
    assert isinstance(report, dict)
    return report


def write_report(report: Report, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.json``, ``report.html`` and ``figures/NAME.png``; return the page's path.

    Each file is written under a temporary name and then renamed, so that none is ever half there.

    Raises:
        UserError: the report is not complete; nothing is written then.
    """
    validate_report(report)
    folder = Path(folder)
    pngs = draw_figures(report)
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render_html(report, pngs)
    save_figures(report, folder / "figures", pngs)
    write_text(folder / "report.json", text)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _has(report: Report, path: str) -> bool:
    value: Any = report
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in a report with its dotted path."""
    if isinstance(value, float | int):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{index}]")


# -- what the numbers say --------------------------------------------------------------------------


def headline(report: Report) -> str:
    """Say in two or three sentences what the run shows, computed from its numbers alone."""
    sentences = [_retention_sentence(report)]
    best = _best_student(report)
    if best != "distilled":
        f1 = report["students"][best]["macro_f1"]["mean"]
        sentences.append(
            f"It is not the best of the students: “{STUDENTS[best].label}” has macro-F1 {f1:.3f}."
        )
    sentences.append(
        _gain_sentence(
            report["gain_with_transfer"], "It", "the same student trained on hard labels"
        )
    )
    return " ".join(sentences)


def _retention_sentence(report: Report) -> str:
    teacher, student = report["teacher"]["macro_f1"], report["students"]["distilled"]["macro_f1"]
    scores = f"{student['mean']:.3f} against {teacher:.3f}"
    kept = percent(report["retention"]["macro_f1"])
    cost = (
        f"with {_times_fewer(report['compression']['parameters'])} parameters and "
        f"{_times(report['speedup']['throughput'])} its throughput"
    )
    rounded = round(report["retention"]["macro_f1"], 3)
    if rounded < 1:
        return f"The distilled student keeps {kept} of its teacher's macro-F1 ({scores}) {cost}."
    if rounded == 1:
        return f"The distilled student equals its teacher in macro-F1 ({scores}) {cost}."
    caveat = (
        "All of its 95 % interval lies above the teacher's score."
        if student["low"] > teacher
        else "The teacher's score lies inside the student's 95 % interval, so this run does not "
        "show that the student is better."
    )
    return (
        f"The distilled student scores above its teacher in macro-F1 ({scores}, {kept}) {cost}. "
        f"{caveat}"
    )


def _gain_sentence(gain: Mapping[str, float], subject: str, other: str) -> str:
    interval = f"95 % interval {_signed(gain['low'])} to {_signed(gain['high'])}"
    size = _signed(gain["mean"])
    if gain["low"] > 0:
        return f"{subject} is {size[1:]} points of accuracy above {other} ({interval})."
    if gain["high"] < 0:
        return (
            f"{subject} is {size[1:]} points of accuracy below {other} ({interval}): "
            "here distillation lost."
        )
    return (
        f"{subject} differs from {other} by {size} points of accuracy; the {interval} includes 0, "
        "so this run does not show which of the two is better."
    )


def _best_student(report: Report) -> str:
    """Return the student with the highest mean macro-F1; at equal values ``distilled``."""
    means = {key: report["students"][key]["macro_f1"]["mean"] for key in STUDENTS}
    return max(means, key=lambda key: (means[key], key == "distilled"))


def _interval_sentence(report: Report) -> str:
    kinds = {report["students"][key]["interval"] for key in STUDENTS}
    seeds = len(report["students"]["distilled"]["seeds"])
    return " ".join(
        _INTERVAL_KINDS.get(kind, _other_interval)(report, seeds) for kind in sorted(kinds)
    )


def _seed_interval(report: Report, seeds: int) -> str:
    return (
        f"Intervals are 95 % intervals over {seeds} seeds: they show how much the result changes "
        "when training is repeated with other random numbers, on this one test split."
    )


def _article_interval(report: Report, seeds: int) -> str:
    groups = report["task"].get("test_groups")
    what = f"the {groups:,} articles (groups)" if groups else "the articles (groups)"
    return (
        f"Intervals are 95 % bootstrap intervals: {what} of the test split are drawn again and "
        "again with replacement. They show how much the result depends on which articles were "
        "tested, and nothing of how much it depends on the seed."
    )


def _other_interval(report: Report, seeds: int) -> str:
    return "Intervals are 95 % intervals."


_INTERVAL_KINDS = {"seeds": _seed_interval, "articles": _article_interval}


def _cautions(report: Report) -> list[str]:
    """List what could mislead a reader of this very report."""
    students, task = report["students"], report["task"]
    seeds = len(students["distilled"]["seeds"])
    cautions = []
    if seeds == 1:
        cautions.append(
            "One seed. Another seed gives other numbers, and no interval here shows by how much. "
            "Repeat with --seeds 5 before relying on a small difference."
        )
    elif seeds < 5:
        cautions.append(f"Only {seeds} seeds: intervals over so few are themselves uncertain.")
    cautions.append(
        "One teacher. It was trained once; a retention compares the student with this teacher, "
        "and how far another training run of the teacher would move it is not shown."
    )
    cautions.append(
        "A high retention says nothing of how good the teacher is: "
        "read the teacher's own row first."
    )
    if task["transfer"] != task["train"]:
        cautions.append(
            f"More data. “{STUDENTS['distilled'].label}” saw {task['transfer']:,} examples, the "
            f"student on hard labels {task['train']:,}. Its gain comes from the teacher's answers "
            "and from the additional examples together. The fair comparison of the objectives "
            f"alone is “{STUDENTS['distilled_same_data'].label}” with hard labels."
        )
    steps = {STUDENTS[key].label: students[key]["steps"] for key in STUDENTS}
    if len(set(steps.values())) > 1:
        told = ", ".join(f"{label.lower()} {number:,}" for label, number in steps.items())
        cautions.append(
            f"Unequal numbers of training steps ({told}): part of a difference can come from that."
        )
    if len({students[key]["parameters"] for key in STUDENTS}) > 1:
        cautions.append("The students differ in size: part of a difference can come from that.")
    cautions.append(
        "Speed belongs to this machine: latency and throughput change with the processor, the "
        "number of threads and whatever else was running."
    )
    return cautions


# -- numbers in words ------------------------------------------------------------------------------


def _signed(points: float) -> str:
    """Write a difference in points with its sign: ``+2.1``, ``−0.4``; zero has none.

    A difference that one decimal would round to nothing gets as many as it takes to be seen.
    """
    if points == 0:
        return "0"
    text = f"{abs(points):.1f}" if abs(points) >= 0.05 else f"{abs(points):.1g}"
    return f"+{text}" if points > 0 else f"{MINUS}{text}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times"


def _times_fewer(ratio: float) -> str:
    """Put a compression ratio (teacher / student) in words."""
    if round(ratio, 1) == 1:
        return "about as many"
    return f"{ratio:.1f} times fewer" if ratio > 1 else f"{1 / ratio:.1f} times as many"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 120:
        return f"{round(seconds)}{NBSP}s"
    if minutes < 120:
        return f"{minutes}{NBSP}min {rest:02d}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f}"


def _plain(value: object) -> str:
    """Write a setting for people: no brackets, no quotes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value) or "none"
    return str(value)


def _words(key: object) -> str:
    return str(key).replace("_", " ")


# -- the table in a terminal -----------------------------------------------------------------------


def render_terminal(report: Report) -> RenderableType:
    """Return the report card for a terminal of 80 columns or more: headline, table, gains."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Model")
    for heading in (
        *("Accuracy\n%", "Macro-F1\n0 to 1", "ECE\n%", "Agree-\nment %", "Para-\nmeters"),
        *("Latency\nms", "Examples\na second"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    teacher = report["teacher"]
    table.add_row(
        TEACHER.label,
        f"{100 * teacher['accuracy']:.1f}",
        f"{teacher['macro_f1']:.3f}",
        f"{100 * teacher['ece']:.1f}",
        "",
        *_terminal_cost(teacher),
        end_section=True,
    )
    best = _best_student(report)
    for key, look in STUDENTS.items():
        student = report["students"][key]
        table.add_row(
            Text(look.label.replace(", ", ",\n"), style="bold" if key == best else ""),
            _terminal_score(student["accuracy"], 100, 1),
            _terminal_score(student["macro_f1"], 1, 3),
            f"{100 * student['ece']:.1f}",
            f"{100 * student['agreement']:.1f}",
            *_terminal_cost(student),
        )
    lines = [
        *([_ONE_STUDENT] if _same_data(report) else [_same_data_sentence(report)]),
        f"In bold the best student by macro-F1. {_interval_sentence(report)}",
        *([_vocabulary_sentence(report)] if "vocabulary" in report else []),
        f"The run took {_duration(report['seconds']['total'])}.",
    ]
    return Group(
        Text(f"Report card: {report['task']['name']}", style="bold"),
        Text(headline(report)),
        table,
        *(Text(line) for line in lines),
        *([exports_table(report)] if "exports" in report else []),
    )


def exports_table(report: Report) -> RenderableType:
    """Return what ``distill-lab export`` measured, for a terminal of 80 columns or more.

    Args:
        report: a report with ``exports``.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Model")
    for heading in (
        *("Accuracy\n%", "Differ-\nence", "Size\nMB", "Times\nsmaller", "Latency\nms"),
        *("Examples\na second", "Times\nfaster"),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in _export_rows(report):
        table.add_row(
            row.name,
            f"{100 * row.accuracy:.1f}",
            row.difference,
            _megabytes(row.cost["bytes"]),
            f"{row.compression:.1f}",
            f"{row.cost['latency_ms']['p50']:.2f}",
            f"{row.cost['throughput']:,.0f}",
            f"{row.speedup:.1f}",
            end_section=row.look is TEACHER,
        )
    return Group(table, Text(_exports_sentence(report)))


class _ExportRow(NamedTuple):
    """A model in the table of exports.

    Attributes:
        cost: Has its ``bytes``, ``throughput`` and ``latency_ms``.
        speedup, compression: How many times as fast, and as small, as the teacher.
    """

    look: Look
    name: str
    difference: str
    accuracy: float
    cost: Mapping[str, Any]
    speedup: float
    compression: float


def _export_rows(report: Report) -> Iterator[_ExportRow]:
    """Yield the teacher, the student that was exported, and its exports."""
    teacher, student = report["teacher"], report["students"]["distilled"]
    yield _ExportRow(TEACHER, TEACHER.label, "–", teacher["accuracy"], teacher, 1.0, 1.0)
    look, name = STUDENTS["distilled"], f"Distilled, seed {student['seeds'][0]}"
    speedup, compression = report["speedup"]["throughput"], report["compression"]["bytes"]
    accuracy = student["accuracy"]["values"][0]
    yield _ExportRow(look, name, "–", accuracy, student, speedup, compression)
    for label, export in _exports(report):
        difference = f"{export['max_abs_difference']:.1g}"
        ratios = export["speedup"], export["compression"]
        yield _ExportRow(look, label, difference, export["accuracy"], export, *ratios)


def _exports(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    """Give the label of each export, and what was measured of it."""
    return [
        (label, report["exports"][k]) for k, label in _EXPORTS.items() if k in report["exports"]
    ]


def _exports_sentence(report: Report) -> str:
    exports = [export for _, export in _exports(report)]
    agree = " and ".join(percent(export["agreement"]) for export in exports)
    again = " and ".join(f"{export['teacher_throughput']:,.0f}" for export in exports)
    return (
        "Difference: the largest of a score (logit) from the student's in torch. ONNX gives the "
        f"student's class to {agree} of the test examples. Teacher and student were measured in "
        "the run, in torch. An ONNX model was timed later, in onnxruntime on the CPU, in turn with "
        f"the teacher, which then took {again} examples a second; “times faster” is relative to "
        "that."
    )


def _terminal_score(value: Mapping[str, float], scale: float, digits: int) -> Text:
    """Return a score above its interval."""
    low, high = (f"{scale * value[end]:.{digits}f}" for end in ("low", "high"))
    text = Text(f"{scale * value['mean']:.{digits}f}")
    return text.append(f"\n{low}–{high}", style="dim")


def _terminal_cost(model: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        compact(model["parameters"]),
        f"{model['latency_ms']['p50']:.2f}",
        f"{model['throughput']:,.0f}",
    )


_ONE_STUDENT = (
    "Every training example is labelled: the transfer set is the labelled examples, and the two "
    "distilled students are one and the same."
)


def _same_data(report: Report) -> bool:
    """Whether there was nothing to distil on but the labelled examples."""
    return bool(report["task"]["transfer"] == report["task"]["train"])


def _same_data_sentence(report: Report) -> str:
    return _gain_sentence(
        report["gain_over_hard_labels"],
        "On the same data and labels alone, the distilled student",
        "the student trained on hard labels",
    )


# -- the page --------------------------------------------------------------------------------------


def render_html(report: Report, pngs: Mapping[str, bytes] | None = None) -> str:
    """Return the report card as one self-contained web page: no script, nothing loaded.

    Args:
        report: a complete report.
        pngs: the figures as ``draw_figures`` gave them, to save drawing again.

    Raises:
        UserError: the report is not complete.
    """
    sections = [_section(title, body) for title, body in html_sections(report, pngs).items()]
    title = escape(f"Report card: {report['task']['name']}")
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"{_html_header(report)}<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )
    return page.replace(" %", f"{NBSP}%")  # no line may begin with a percent sign


def html_sections(report: Report, pngs: Mapping[str, bytes] | None = None) -> dict[str, str]:
    """Give the report card's sections by title, as HTML; arguments as in ``render_html``.

    Raises:
        UserError: the report is not complete.
    """
    validate_report(report)
    pngs = draw_figures(report) if pngs is None else pngs
    exported = {"Exported to ONNX": _html_exports(report)} if "exports" in report else {}
    return {
        "What was done": _html_steps(report),
        "Results": _html_table(report),
        "What distillation gained": _html_gains(report),
        **exported,
        "Figures": "".join(_html_figure(name, png, report) for name, png in pngs.items()),
        "Where the time went": _html_seconds(report),
        "How to read this page": _html_reading(report),
        "Settings and environment": _html_settings(report),
        "Repeat it": _html_repeat(report),
    }


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}</section>\n"


def _html_header(report: Report) -> str:
    gain = report["gain_with_transfer"]
    tiles = [
        (percent(report["retention"]["macro_f1"]), "retention of the teacher's macro-F1"),
        (
            f"{report['compression']['parameters']:.1f}×",
            "compression: teacher's parameters ÷ student's",
        ),
        (f"{report['speedup']['throughput']:.1f}×", "speedup: student's throughput ÷ teacher's"),
        (
            f"{_signed(gain['mean'])}",
            "gain in points of accuracy over hard labels "
            f"({_signed(gain['low'])} to {_signed(gain['high'])})",
        ),
    ]
    shown = "".join(f"<div><dt>{what}</dt><dd>{number}</dd></div>\n" for number, what in tiles)
    return (
        '<header>\n<p class="kicker">Report card · knowledge distillation</p>\n'
        f"<h1>{escape(str(report['task']['name']))}</h1>\n"
        f'<p class="lede">{escape(headline(report))}</p>\n'
        f'<dl class="tiles">\n{shown}</dl>\n</header>\n'
    )


def _html_steps(report: Report) -> str:
    task, students, settings = report["task"], report["students"], report["settings"]
    took = {key: _took(value) for key, value in report["seconds"].items()}
    one = _same_data(report)
    runs = sum(len(students[key]["seeds"]) for key in STUDENTS if not (one and key == "distilled"))
    soft = [
        f"{name} {_plain(settings[key])}"
        for key, name in (
            ("temperature", "temperature"),
            ("alpha", "weight of the soft targets α ="),
        )
        if key in settings
    ]
    softly = f" ({escape(', '.join(soft))})" if soft else ""
    kinds = {
        "hard_labels": f"cross-entropy with the labels of {task['train']:,} examples; no teacher.",
        "label_smoothing": "the same, each label mixed with a uniform distribution; no teacher.",
        "distilled_same_data": f"the teacher's answers on those same examples{softly}.",
        "distilled": "the same student as the one before, as every training example is labelled."
        if one
        else f"the teacher's answers on the {task['transfer']:,} examples of the transfer set, "
        "which need no labels.",
    }
    listed = "".join(
        f"<li>{_mark(STUDENTS[key])}<b>{STUDENTS[key].label}</b>: {what} "
        f'<span class="quiet">{students[key]["steps"]:,} steps.</span></li>\n'
        for key, what in kinds.items()
    )
    groups = f" from {task['test_groups']:,} groups" if task.get("test_groups") else ""
    classes = [escape(str(name)) for name in task["classes"]]
    names = ", ".join(classes[:12]) + (
        f" and {len(classes) - 12} more" if len(classes) > 12 else ""
    )
    notes = "".join(f"<li>{escape(str(note))}</li>\n" for note in task.get("notes", []))
    notes = f'<p>About the data:</p>\n<ul class="quiet">\n{notes}</ul>\n' if notes else ""
    return (
        f"<p>The task: sort examples into {len(classes)} classes ({names}).</p>\n"
        '<ol class="steps">\n'
        f"<li>{_html_teacher(report)} {took['teacher']}</li>\n"
        f"<li><b>Extract its knowledge.</b> The frozen teacher answered {task['transfer']:,} "
        f"examples of the transfer set once, and its answers ({_html_features(report)}) were "
        f"stored. {took['extract']}</li>\n"
        f"<li><b>Train students.</b> {_student_sizes(report)}, trained in "
        f"{'three' if one else 'four'} ways, {runs} training runs in all. "
        f"{_html_vocabulary(report)}{took['students']}\n"
        f"<ul>\n{listed}</ul></li>\n"
        f"<li><b>Evaluate.</b> The teacher and all students were tested on the same "
        f"{task['test']:,} examples{groups}, which none was trained on and by which nothing was "
        f"chosen. {task['validation']:,} other examples, for validation, served to choose: of each "
        "training, the epoch with the best macro-F1 on them was kept. "
        f"{_html_precision(report)}{took['evaluate']}</li>\n</ol>\n{notes}"
    )


def _html_teacher(report: Report) -> str:
    teacher = report["teacher"]
    name = f"{escape(str(teacher['name']))}, {compact(teacher['parameters'])} parameters"
    if report["settings"].get("teacher_epochs") == 0:
        return f"<b>Take a teacher.</b> {name}, was used as it came, without fine-tuning."
    return (
        f"<b>Train a teacher.</b> {name}, learned from {report['task']['train']:,} labelled "
        "examples."
    )


def _html_features(report: Report) -> str:
    objective = str(report["settings"].get("objective", "soft"))
    more = "" if objective == "soft" else f", and what “{escape(objective)}” reads of its layers"
    return f"one score a class{more}"


def _html_precision(report: Report) -> str:
    """Say in what was computed; reports need not tell."""
    dtype = report["environment"].get("dtype")
    if dtype is None:
        return ""
    return (
        "Evaluation, speed included, computes in float32; training and extraction in "
        f"{escape(str(dtype))}{'' if dtype == 'float32' else ' where that is safe (autocast)'}. "
    )


def _took(seconds: float) -> str:
    return f'<span class="quiet">Time:{NBSP}{_duration(seconds)}.</span>'


def _html_vocabulary(report: Report) -> str:
    return f"{escape(_vocabulary_sentence(report))} " if "vocabulary" in report else ""


def _vocabulary_sentence(report: Report) -> str:
    """Say what pruning left of the students' vocabulary, and what it does to new texts."""
    pruned = report["vocabulary"]
    return (
        f"The students know the {pruned['kept']:,} of {pruned['of']:,} word pieces that the "
        "training texts show. With these "
        f"{_small_share(pruned['changed_test_examples'])} of the test examples are cut into other "
        f"pieces than the teacher's, and {_small_share(pruned['unknown_test_tokens'])} of their "
        "tokens are unknown; with all pieces it would be "
        f"{_small_share(pruned['unknown_test_tokens_unpruned'])}."
    )


def _small_share(share: float) -> str:
    """Write a share that may be next to nothing, but is not to be taken for it."""
    if 0 < share < 1e-5:
        return f"less than {percent(1e-5, 3)}"
    return percent(share, 0 if share == 0 else 3 if share < 1e-3 else 1)


def _student_sizes(report: Report) -> str:
    sizes = sorted({report["students"][key]["parameters"] for key in STUDENTS})
    if len(sizes) == 1:
        return f"Small models of one size, {compact(sizes[0])} parameters"
    return f"Small models of {compact(sizes[0])} to {compact(sizes[-1])} parameters"


def _html_table(report: Report) -> str:
    teacher, students = report["teacher"], report["students"]
    hard = students["hard_labels"]["accuracy"]["mean"]
    best = {
        "accuracy": max(student["accuracy"]["mean"] for student in students.values()),
        "macro_f1": max(student["macro_f1"]["mean"] for student in students.values()),
        "ece": min(student["ece"] for student in students.values()),
        "agreement": max(student["agreement"] for student in students.values()),
    }
    rows = [
        f'<tr class="teacher"><th scope="row">{_mark(TEACHER)}{TEACHER.label}'
        f"<small>{escape(str(teacher['name']))}</small></th>"
        f"<td>{100 * teacher['accuracy']:.1f}</td><td>{teacher['macro_f1']:.3f}</td>"
        f"<td>{100 * teacher['ece']:.1f}</td><td>–</td>{_html_cost(teacher)}"
        f"<td>{_duration(report['seconds']['teacher'])}</td></tr>\n"
    ]
    for key, look in STUDENTS.items():
        student = students[key]
        accuracy, f1 = student["accuracy"], student["macro_f1"]
        below = "<small>below hard labels</small>" if accuracy["mean"] < hard else ""
        cells = (
            _score(accuracy["mean"], best["accuracy"], 100, 1, accuracy),
            _score(f1["mean"], best["macro_f1"], 1, 3, f1),
            _score(student["ece"], best["ece"], 100, 1),
            _score(student["agreement"], best["agreement"], 100, 1),
        )
        rows.append(
            f'<tr><th scope="row">{_mark(look)}{look.label}{below}</th>{"".join(cells)}'
            f"{_html_cost(student)}<td>{_duration(student['seconds'])}</td></tr>\n"
        )
    headings = "".join(
        f'<th scope="col">{name}<small>{unit}</small></th>'
        for name, unit in (
            *(("Accuracy", "%"), ("Macro-F1", "0 to 1"), ("ECE", "%")),
            *(("Agreement", "%"), ("Parameters", "count"), ("Size", "MB")),
            *(("Throughput", "examples/s"), ("Latency", "ms, median"), ("Training", "time")),
        )
    )
    return (
        '<div class="scroll" role="region" aria-label="Table of results" tabindex="0">\n<table>\n'
        f"<caption>The teacher and four students on {report['task']['test']:,} test examples. "
        "Under a score stands its 95 % interval; in bold the best student of a column. "
        "Lower is better for ECE and for all costs but throughput.</caption>\n"
        '<thead>\n<tr><td></td><th scope="colgroup" colspan="4">Quality</th>'
        '<th scope="colgroup" colspan="5">Cost</th></tr>\n'
        f'<tr><th scope="col">Model</th>{headings}</tr>\n</thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n</div>\n"
        f'<p class="quiet">{escape(_interval_sentence(report))}</p>\n'
    )


def _html_cost(model: Mapping[str, Any]) -> str:
    latency = model["latency_ms"]
    return (
        f"<td>{compact(model['parameters'])}</td><td>{_megabytes(model['bytes'])}</td>"
        f"<td>{model['throughput']:,.0f}</td>"
        f"<td>{latency['p50']:.2f}<small>p95 {latency['p95']:.2f}</small></td>"
    )


def _score(
    value: float,
    best: float,
    scale: float,
    digits: int,
    interval: Mapping[str, float] | None = None,
) -> str:
    """Return a table cell with a score, bold where it is the best, above its interval."""
    text = f"{scale * value:.{digits}f}"
    text = f"<strong>{text}</strong>" if value == best else text
    if interval is not None:
        low, high = scale * interval["low"], scale * interval["high"]
        text += f"<small>{low:.{digits}f} to {high:.{digits}f}</small>"
    return f"<td>{text}</td>"


def _mark(look: Look) -> str:
    """Repeat a model's marker of the figures; it is decoration beside the model's name."""
    # The teacher's black would vanish on a dark page: it takes the colour of the text.
    colour = "currentColor" if look is TEACHER else look.colour
    return f'<span class="mark" aria-hidden="true" style="color:{colour}">{look.glyph}</span>'


def _html_gains(report: Report) -> str:
    same_data = _html_gain(
        report["gain_over_hard_labels"],
        "By the teacher's answers alone",
        "distilled_same_data",
        "Both students learned from the same examples.",
    )
    if _same_data(report):
        return f'<p>{_ONE_STUDENT}</p>\n<div class="cards">\n{same_data}</div>\n'
    task = report["task"]
    transfer = _html_gain(
        report["gain_with_transfer"],
        "By the teacher's answers and the transfer set",
        "distilled",
        f"The distilled student learned from {task['transfer']:,} examples, the other from "
        f"{task['train']:,}.",
    )
    return f'<div class="cards">\n{same_data}{transfer}</div>\n'


def _html_gain(gain: Mapping[str, float], title: str, student: str, note: str) -> str:
    if gain["low"] > 0:
        verdict = "The interval lies above 0: here distillation helped."
    elif gain["high"] < 0:
        verdict = "The interval lies below 0: here distillation lost."
    else:
        verdict = "The interval includes 0: this run does not show whether distillation helped."
    return (
        f'<div class="card"><h3>{title}</h3>\n<p class="quiet">{STUDENTS[student].label} {MINUS} '
        f"{STUDENTS['hard_labels'].label}</p>\n"
        f'<p class="big">{_signed(gain["mean"])} <small>points of accuracy, 95 % interval '
        f"{_signed(gain['low'])} to {_signed(gain['high'])}</small></p>\n"
        f"<p>{verdict} {note}</p></div>\n"
    )


def _html_exports(report: Report) -> str:
    rows = "".join(_html_export(row) for row in _export_rows(report))
    headings = "".join(
        f'<th scope="col">{name}<small>{unit}</small></th>'
        for name, unit in (
            *(("Accuracy", "%"), ("Difference", "of a score"), ("Size", "MB")),
            *(("Smaller", "times"), ("Throughput", "examples/s"), ("Faster", "times")),
            ("Latency", "ms, median"),
        )
    )
    return (
        '<div class="scroll" role="region" aria-label="Table of exports" tabindex="0">\n<table>\n'
        "<caption>The distilled student as files that run without torch. ONNX is a format for a "
        "model's operations and weights; int8 stores the weights as 8-bit integers.</caption>\n"
        f'<thead>\n<tr><th scope="col">Model</th>{headings}</tr>\n</thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
        f'<p class="quiet">{escape(_exports_sentence(report))}</p>\n'
    )


def _html_export(row: _ExportRow) -> str:
    start = '<tr class="teacher">' if row.look is TEACHER else "<tr>"
    latency = row.cost["latency_ms"]
    return (
        f'{start}<th scope="row">{_mark(row.look)}{row.name}</th>'
        f"<td>{100 * row.accuracy:.1f}</td><td>{row.difference}</td>"
        f"<td>{_megabytes(row.cost['bytes'])}</td><td>{row.compression:.1f}</td>"
        f"<td>{row.cost['throughput']:,.0f}</td><td>{row.speedup:.1f}</td>"
        f"<td>{latency['p50']:.2f}<small>p95 {latency['p95']:.2f}</small></td></tr>\n"
    )


_CAPTIONS = {
    "students": "A filled marker is a student's mean, the bar its 95 % interval, a small ring one "
    "seed where there are several. The dashed line is the teacher. Further right is better. The "
    "axes do not start at 0, so look at the numbers before you judge a distance.",
    "accuracy_against_cost": "Higher is more accurate, further left is cheaper: the best corner "
    "is the upper left. Costs are on log scales, where equal distances are equal ratios. Students "
    "of one size stand above one another.",
    "reliability": "Predictions are sorted by confidence into bins of equal width. On the dashed "
    "diagonal a model is right as often as its confidence says; below it the model is "
    "overconfident, above it too modest. The pale bars are the gaps that ECE averages. Below: how "
    "many examples a bin holds. A bin with few of them proves little; an empty one is left out.",
    "class_similarity": "A row takes the examples of one true class and averages the "
    "probabilities the teacher gives them. What stands off the diagonal is what labels do not "
    "tell and a student can learn from: which classes the teacher takes to be alike. It is the "
    "teacher's view, not a truth about the classes.",
}


def _html_figure(name: str, png: bytes, report: Report) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure>\n<img src="data:image/png;base64,{data}" '
        f'alt="{escape(alt_text(name, report))}">\n'
        f"<figcaption><b>How to read it.</b> {_CAPTIONS[name]}</figcaption>\n</figure>\n"
    )


def _html_seconds(report: Report) -> str:
    seconds = report["seconds"]
    total = max(seconds["total"], 1e-9)
    steps = {
        "prepare": "Read the data and load the models",
        "teacher": "Train the teacher",
        "extract": "Extract its knowledge",
        "students": "Train all students, all seeds",
        "evaluate": "Evaluate",
    }
    steps = {key: name for key, name in steps.items() if key in seconds}
    shares = {key: 100 * seconds[key] / total for key in steps}
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{_duration(seconds[key])}</td><td class="share">'
        f'<span class="bar" style="width:{min(100, shares[key]):.1f}%"></span></td>'
        f"<td>{shares[key]:.0f}{NBSP}%</td></tr>\n"
        for key, name in steps.items()
    )
    return (
        '<table class="time">\n<caption>Wall-clock time of the steps, installation not '
        'counted.</caption>\n<thead>\n<tr><th scope="col">Step</th><th scope="col">Time</th>'
        '<th scope="col" colspan="2">Share of the total</th></tr>\n</thead>\n'
        f"<tbody>\n{rows}</tbody>\n<tfoot>\n"
        f'<tr><th scope="row">Total</th><td>{_duration(seconds["total"])}</td>'
        '<td colspan="2"></td></tr>\n</tfoot>\n</table>\n'
        "<p>A distilled student is cheap to run, not cheap to make: the teacher and the extraction "
        "belong to its price.</p>\n"
    )


_GLOSSARY = (
    ("Accuracy", "the share of test examples whose class is predicted correctly."),
    (
        "Macro-F1",
        "F1 is the harmonic mean of precision (the share of the predictions of a class that are "
        "right) and recall (the share of a class's examples that were found). Macro-F1 is its "
        "plain mean over classes, so a rare class counts as much as a frequent one.",
    ),
    (
        "Retention",
        "the distilled student's score divided by the teacher's. 100 % is the teacher's level, and "
        "more is possible.",
    ),
    (
        "Compression and speedup",
        "how many times as many parameters the teacher has, and how many times as many examples a "
        "second the student takes, both in the same precision on the same device.",
    ),
    (
        "ECE",
        "expected calibration error: the mean gap between confidence and accuracy over 15 "
        "equal-width bins of confidence, weighted by the examples in each. 0 is best.",
    ),
    (
        "Agreement",
        "the share of test examples where a student predicts the same class as the teacher, be it "
        "right or wrong.",
    ),
    (
        "Interval",
        "a range made by a procedure that, repeated, would hold the value it estimates in about "
        "95 of 100 cases. When the interval of a gain includes 0, the run does not show a gain.",
    ),
    (
        "Throughput and latency",
        "throughput counts examples a second in batches of 32; latency is the time for one example "
        "alone: p50 is the median, p95 is not exceeded by 95 % of the calls.",
    ),
    (
        "Soft targets and temperature",
        "soft targets are the teacher's probabilities for all classes. Its scores are divided by "
        "the temperature first; a temperature above 1 makes the small probabilities visible.",
    ),
)


def _html_reading(report: Report) -> str:
    terms = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>\n" for term, meaning in _GLOSSARY)
    cautions = "".join(f"<li>{escape(caution)}</li>\n" for caution in _cautions(report))
    return (
        f'<dl class="glossary">\n{terms}</dl>\n<h3>What could fool us</h3>\n<ul>\n{cautions}</ul>\n'
    )


def _html_settings(report: Report) -> str:
    return (
        '<div class="cards">\n'
        f"{_html_pairs('Settings', report['settings'])}"
        f"{_html_pairs('Environment', report['environment'])}</div>\n"
    )


def _html_pairs(title: str, pairs: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(_words(key))}</dt><dd>{escape(_plain(value))}</dd>\n"
        for key, value in pairs.items()
    )
    return f'<div class="card"><h3>{title}</h3>\n<dl class="pairs">\n{rows}</dl></div>\n'


def _html_repeat(report: Report) -> str:
    return (
        "<p>The settings of this run are in <code>config.toml</code>, beside this page. "
        "This repeats it:</p>\n"
        "<pre><code>distill-lab run --config config.toml</code></pre>\n"
        "<p>All numbers of this page are in <code>report.json</code>.</p>\n"
    )


_CSS = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1c1d1f; --quiet: #5a5e64;
  --line: #dcdee1; --accent: #0072b2; --tint: #eaf3f9; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8e9eb;
  --quiet: #a5abb3; --line: #363b42; --accent: #6cc0f0; --tint: #1b2c38; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main { max-width: 66rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; }
main { padding-bottom: 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: 2.3rem; margin: 0 0 1rem; }
h2 { font-size: 1.45rem; margin: 3.2rem 0 1rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
section > h3 { margin-top: 1.8rem; }
p, li, dd, figcaption, caption { max-width: 46rem; overflow-wrap: anywhere; }
.kicker { color: var(--accent); font-weight: 600; margin: 0 0 .3rem; }
.lede { font-size: 1.22rem; margin: 0 0 1.8rem; max-width: 52rem; }
.quiet, small { color: var(--quiet); }
small { display: block; font-size: .8rem; font-weight: 400; line-height: 1.3; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem;
  margin: 0; }
.tiles div { background: var(--tint); border-radius: .6rem; padding: 1rem 1.2rem; display: flex;
  flex-direction: column-reverse; justify-content: flex-end; }
.tiles dd { margin: 0; font-size: 2rem; font-weight: 700; line-height: 1.2; color: var(--accent); }
.tiles dt { color: var(--quiet); font-size: .92rem; line-height: 1.35; }
.steps > li { margin-bottom: .8rem; padding-left: .3rem; }
.steps ul { list-style: none; padding: 0; margin: .5rem 0 0; }
.mark { display: inline-block; width: 1.3em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%;
  font-size: .9rem; }
caption { text-align: left; margin-bottom: .8rem; color: var(--quiet); caption-side: top; }
td small, th small { font-size: .86em; }
th, td { text-align: right; padding: .5rem .4rem; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 500; }
tbody th small { padding-left: 1.6em; white-space: normal; overflow-wrap: anywhere;
  max-width: 14rem; }
thead tr:last-child { border-bottom: 2px solid var(--line); }
thead th[scope=colgroup] { text-align: center; color: var(--accent); }
tbody tr { border-bottom: 1px solid var(--line); }
tr.teacher { background: var(--tint); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 1rem; }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.2rem 1.4rem; margin: 0; min-width: 0; }
.card p { margin: .3rem 0; }
.big { font-size: 2rem; font-weight: 700; line-height: 1.2; }
figure { margin-bottom: 1.5rem; }
figure img { display: block; max-width: 100%; width: auto; max-height: 34rem; margin: .6rem auto;
  background: #fff; padding: .6rem; border-radius: .4rem; }
figcaption { margin: .8rem auto 0; }
.time { width: auto; min-width: min(40rem, 100%); }
.time th[colspan] { text-align: left; }
.time tbody th { white-space: normal; }
.share { width: 14rem; }
.bar { display: block; height: .8rem; margin-top: .3rem; min-width: 2px; border-radius: .2rem;
  background: var(--accent); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.glossary dt { font-weight: 600; }
.glossary dd { margin: 0 0 .8rem; }
.pairs { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
.pairs dt { color: var(--quiet); }
.pairs dd { margin: 0; }
pre { background: var(--tint); border-radius: .4rem; padding: .8rem 1rem; overflow-x: auto; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #bbb; --accent: #00588a;
    --tint: #f2f6f9; }
  body { font-size: 10pt; }
  header { padding-top: 0; }
  h2 { margin-top: 1.5rem; }
  h2, h3 { break-after: avoid; }
  figure, .card, tr, .tiles div { break-inside: avoid; }
  table { font-size: 7pt; }
  th, td { padding: .3rem .2rem; }
  .cards { grid-template-columns: 1fr 1fr; }
  pre { break-before: avoid; }
  section p { orphans: 3; widows: 3; }
  .scroll { overflow: visible; }
  figure img { max-height: 9cm; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
}
@page { margin: 1.6cm; }
"""
