"""The figures of a report card: pure functions from a report to a matplotlib figure.

No function touches pyplot or any other global state. Colours are those of Okabe and Ito
("Color Universal Design", 2008), and every model has a marker of its own, so that nothing is told
by colour alone. Each figure carries a text alternative made from the same numbers.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from distill_lab.errors import UserError
from distill_lab.files import written_whole

Report = Mapping[str, Any]
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito that can be told apart on white, with any colour vision."""
DPI = 150
ANNOTATED_CLASSES = 12  # above this, numbers in a heat map's cells can no longer be read
FEW_EXAMPLES = 30  # an accuracy over fewer examples than this is drawn hollow
NBSP = "\N{NO-BREAK SPACE}"


class Look(NamedTuple):
    """How one model is named and drawn, in every figure and in the table."""

    label: str
    colour: str
    marker: str
    glyph: str


TEACHER = Look("Teacher", "#000000", "*", "★")
STUDENTS: dict[str, Look] = {
    "hard_labels": Look("Hard labels", "#E69F00", "s", "■"),
    "label_smoothing": Look("Label smoothing", "#CC79A7", "^", "▲"),
    "distilled_same_data": Look("Distilled, same data", "#009E73", "D", "◆"),
    "distilled": Look("Distilled, transfer set", "#0072B2", "o", "●"),
}

_GREY = "#595959"
# DejaVu Sans comes with matplotlib; the others are asked for glyphs it lacks, where installed.
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"]
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "#1A1A1A",
    "ytick.labelcolor": "#1A1A1A",
    "lines.linewidth": 1.5,
    "lines.markersize": 7,
    "errorbar.capsize": 3,
    "legend.frameon": False,
}


class ReportFigure(Figure):
    """A figure that carries its text alternative and shows itself in Jupyter without pyplot."""

    alt: str = ""

    def _repr_html_(self) -> str:
        data = base64.b64encode(png_bytes(self)).decode("ascii")
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" '
            'style="max-width:100%">'
        )


def canvas(
    width: float,
    height: float,
    *,
    title: str,
    alt: str,
    rows: int = 1,
    columns: int = 1,
    **subplots: Any,
) -> tuple[ReportFigure, Any]:
    """Give an empty figure in the house style, and its axes, for a lesson to draw on.

    Args:
        width, height: In inches; a notebook page is about 8 wide.
        title: Of the whole figure.
        alt: The text alternative: what the figure shows, with the numbers that matter.
        rows, columns: Of axes; one pair of axes comes bare, more as an array.
        subplots: Passed to ``Figure.subplots``, such as ``sharey=True``.
    """
    with matplotlib.rc_context(_style()):
        figure = ReportFigure(figsize=(width, height), layout="constrained")
        figure.alt = alt
        axes = figure.subplots(rows, columns, **subplots)
        figure.suptitle(_plain_text(title), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        return figure, axes


# -- the four figures ------------------------------------------------------------------------------


def plot_students(report: Report) -> Figure:
    """Draw accuracy and macro-F1 of the four students, with intervals, against the teacher's line.

    Filled markers are means, bars 95 % intervals, small rings single seeds (when there are
    several).
    """
    with matplotlib.rc_context(_style()):
        figure = _figure("students", report, (7.2, 3.2), "Four students against their teacher")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_students(left, report, "accuracy", scale=100, digits=1)
        _draw_students(right, report, "macro_f1", scale=1, digits=3)
        left.set_xlabel("Accuracy on the test split (%)")
        right.set_xlabel("Macro-F1 on the test split (0 to 1)")
        left.set_yticks(range(len(STUDENTS)), [look.label for look in STUDENTS.values()])
        left.set_ylim(len(STUDENTS) - 0.5, -0.7)
        return figure


def plot_accuracy_against_cost(report: Report) -> Figure:
    """Draw accuracy against parameters and against the latency of one example, on log axes."""
    with matplotlib.rc_context(_style()):
        figure = _figure("accuracy_against_cost", report, (7.2, 3.7), "What accuracy costs")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_cost(left, report, lambda model: float(model["parameters"]))
        _draw_cost(right, report, lambda model: float(model["latency_ms"]["p50"]))
        left.set_xlabel("Parameters (log scale)")
        right.set_xlabel("Median latency of one example (ms, log scale)")
        left.set_ylabel("Accuracy on the test split (%)")
        looks = [TEACHER, *STUDENTS.values()]
        figure.legend(
            handles=[_handle(look) for look in looks],
            loc="outside lower center",
            ncols=len(looks),
            columnspacing=1.2,
            handletextpad=0.2,
            fontsize=8.5,
        )
        return figure


def plot_reliability(report: Report) -> Figure:
    """Draw the reliability diagrams of teacher and distilled student above their bins' counts.

    Bins without examples are left out; hollow points stand for bins of fewer than
    ``FEW_EXAMPLES``.
    """
    with matplotlib.rc_context(_style()):
        figure = _figure("reliability", report, (7.2, 4.5), "Does confidence match accuracy?")
        axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
        models = [
            ("teacher", TEACHER, report["teacher"]["ece"]),
            ("distilled", STUDENTS["distilled"], report["students"]["distilled"]["ece"]),
        ]
        for column, (key, look, ece) in enumerate(models):
            top, bottom = axes[0, column], axes[1, column]
            _draw_reliability(top, bottom, report["reliability"][key], look)
            top.set_title(f"{look.label}: ECE {percent(ece)}")
            bottom.set_xlabel("Confidence: probability of the predicted class (%)")
        axes[0, 0].set_ylabel("Accuracy within the bin (%)")
        axes[1, 0].set_ylabel("Examples")
        return figure


def plot_class_similarity(report: Report) -> Figure:
    """Draw the mean probability the teacher gives each class (column), by true class (row).

    Colour follows the square root of the probability, so that the small ones off the diagonal can
    be told apart; up to ``ANNOTATED_CLASSES`` classes the cells also carry their value in percent.
    """
    labels = [_plain_text(_short(label)) for label in report["class_similarity"]["labels"]]
    matrix = report["class_similarity"]["matrix"]
    size = min(9.0, max(4.4, 2.6 + 0.45 * len(labels)))
    ticks = max(4.0, min(9.0, 250 / len(labels)))
    with matplotlib.rc_context(_style(**{"axes.grid": False})):
        title = "What the teacher finds alike"
        figure = _figure("class_similarity", report, (size + 1.2, size), title)
        axes = figure.subplots()
        image = axes.imshow(matrix, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
        turn = 40 if len(labels) <= ANNOTATED_CLASSES else 90
        axes.set_xticks(range(len(labels)), labels)
        axes.tick_params(axis="x", labelrotation=turn)
        for label in axes.get_xticklabels():
            label.set(ha="right", va="top" if turn < 90 else "center", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(labelsize=ticks, length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("Class the teacher gives probability to")
        axes.set_ylabel("True class of the examples")
        if len(labels) <= ANNOTATED_CLASSES:
            for row, values in enumerate(matrix):
                for column, value in enumerate(values):
                    text = f"{100 * value:.1f}"
                    colour = "white" if value > 0.35 else "black"
                    axes.text(column, row, text, ha="center", va="center", color=colour, size=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
        bar.set_label(f"Mean probability{_at_temperature(report)} (%, square-root scale)")
        bar.outline.set_visible(False)
        return figure


FIGURES: dict[str, Callable[[Report], Figure]] = {
    "students": plot_students,
    "accuracy_against_cost": plot_accuracy_against_cost,
    "reliability": plot_reliability,
    "class_similarity": plot_class_similarity,
}


# -- text alternatives -----------------------------------------------------------------------------


def alt_text(figure_name: str, report: Report) -> str:
    """Say in words what a figure shows, from the numbers it is drawn from.

    Raises:
        UserError: there is no figure of that name.
    """
    if figure_name not in _ALT_TEXTS:
        known = ", ".join(_ALT_TEXTS)
        raise UserError(f"no figure is called {figure_name!r}: choose one of {known}")
    return _ALT_TEXTS[figure_name](report)


def _alt_students(report: Report) -> str:
    teacher = report["teacher"]
    students = "; ".join(
        f"{look.label}: accuracy {_percent_interval(report['students'][key]['accuracy'])}, "
        f"macro-F1 {_fraction_interval(report['students'][key]['macro_f1'])}"
        for key, look in STUDENTS.items()
    )
    return (
        "Dot plot of test accuracy and macro-F1 of four students, with 95 % intervals, against the "
        f"teacher's accuracy {percent(teacher['accuracy'])} and macro-F1 "
        f"{teacher['macro_f1']:.3f}. {students}."
    )


def _alt_cost(report: Report) -> str:
    models = [(TEACHER.label, report["teacher"], report["teacher"]["accuracy"])]
    for key, look in STUDENTS.items():
        student = report["students"][key]
        models.append((look.label, student, student["accuracy"]["mean"]))
    points = "; ".join(
        f"{label}: {compact(model['parameters'])} parameters, "
        f"{model['latency_ms']['p50']:.3g} ms, accuracy {percent(accuracy)}"
        for label, model, accuracy in models
    )
    return (
        "Two scatter plots of test accuracy, against the number of parameters and against the "
        f"median latency of one example, both on log axes. {points}."
    )


def _alt_reliability(report: Report) -> str:
    parts = []
    eces = {
        "teacher": report["teacher"]["ece"],
        "distilled": report["students"]["distilled"]["ece"],
    }
    for key, look in (("teacher", TEACHER), ("distilled", STUDENTS["distilled"])):
        bins = _filled_bins(report["reliability"][key])
        gap = sum(b.examples * (b.accuracy - b.confidence) for b in bins)
        gap /= max(1, sum(b.examples for b in bins))
        tendency = (
            "its confidence and its accuracy are equal on average"
            if abs(gap) < 0.0005
            else f"it is right {percent(abs(gap))} {'more' if gap > 0 else 'less'} often than its "
            "confidence says, on average"
        )
        parts.append(f"{look.label}: expected calibration error {percent(eces[key])}; {tendency}")
    return (
        "Two reliability diagrams, accuracy against confidence in equal-width bins beside the "
        f"diagonal of perfect calibration, above the number of examples in each bin. "
        f"{'. '.join(parts)}."
    )


def _alt_similarity(report: Report) -> str:
    labels = [_short(label) for label in report["class_similarity"]["labels"]]
    matrix = report["class_similarity"]["matrix"]
    pairs = sorted(
        (
            (value, labels[row], labels[column])
            for row, values in enumerate(matrix)
            for column, value in enumerate(values)
            if row != column
        ),
        key=lambda pair: -pair[0],
    )[:5]
    own = sum(matrix[i][i] for i in range(len(labels))) / len(labels)
    told = "; ".join(f"{true} as {other}, {percent(value)}" for value, true, other in pairs)
    return (
        f"Heat map of {len(labels)} by {len(labels)} classes: the mean probability the teacher"
        f"{_at_temperature(report)} gives each class, by true class. The true class gets "
        f"{percent(own)}, averaged over classes. The largest values beside it: {told}."
    )


_ALT_TEXTS: dict[str, Callable[[Report], str]] = {
    "students": _alt_students,
    "accuracy_against_cost": _alt_cost,
    "reliability": _alt_reliability,
    "class_similarity": _alt_similarity,
}


# -- saving ----------------------------------------------------------------------------------------


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG at 150 dpi; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    # Software would name the matplotlib version; Description holds the text alternative.
    metadata = {"Software": None, "Description": getattr(figure, "alt", None)}
    figure.savefig(buffer, format="png", dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def draw_figures(report: Report) -> dict[str, bytes]:
    """Draw every figure of ``FIGURES`` and return each as PNG bytes, by name."""
    return {name: png_bytes(draw(report)) for name, draw in FIGURES.items()}


def save_figures(
    report: Report, folder: str | os.PathLike[str], pngs: Mapping[str, bytes] | None = None
) -> dict[str, Path]:
    """Write every figure to ``folder/NAME.png`` and return the paths, by name.

    Args:
        report: a report, see ``distill_lab.report``.
        folder: made where it does not exist.
        pngs: what ``draw_figures`` gave, to save drawing again.
    """
    pngs = draw_figures(report) if pngs is None else pngs
    paths = {name: Path(folder) / f"{name}.png" for name in pngs}
    for name, path in paths.items():
        with written_whole(path) as temporary:
            temporary.write_bytes(pngs[name])
    return paths


# -- numbers in words ------------------------------------------------------------------------------


def percent(fraction: float, digits: int = 1) -> str:
    """Write a fraction as a percentage: 0.8254 becomes ``82.5 %``."""
    return f"{100 * fraction:.{digits}f}{NBSP}%"


def compact(number: float) -> str:
    """Write a count to three digits with a unit: 22713221 becomes ``22.7 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * size:
            return f"{_three_digits(number / size)}{NBSP}{unit}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    """Round to three significant digits, without an exponent and without idle zeros."""
    digits = max(0, 2 - len(f"{abs(number):.0f}") + 1) if abs(number) >= 1 else 3
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _percent_interval(value: Mapping[str, float]) -> str:
    return f"{percent(value['mean'])} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _fraction_interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _at_temperature(report: Report) -> str:
    temperature = report.get("settings", {}).get("temperature")
    return "" if temperature is None else f" at temperature {temperature:g}"


def _short(label: object, longest: int = 22) -> str:
    """Put a label on one line of at most ``longest`` characters."""
    text = " ".join(str(label).split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


# -- drawing ---------------------------------------------------------------------------------------


def _style(**changes: object) -> Any:
    installed = set(font_manager.get_font_names())
    fonts = [name for name in _FONTS if name in installed]
    return {**_STYLE, "font.family": fonts, **changes}


def _figure(name: str, report: Report, size: tuple[float, float], title: str) -> ReportFigure:
    figure = ReportFigure(figsize=size, layout="constrained")
    figure.alt = alt_text(name, report)
    room = int(9.5 * size[0]) - len(title)  # so many bold letters fit in an inch
    task = _plain_text(_short(report["task"]["name"], room))
    figure.suptitle(f"{title} · {task}", x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _plain_text(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as the start of a formula."""
    return text.replace("$", r"\$")


def _errors(value: Mapping[str, float], scale: float) -> list[list[float]]:
    """Return how far the interval reaches below and above the mean, as errorbar wants it."""
    below, above = value["mean"] - value["low"], value["high"] - value["mean"]
    return [[scale * max(0.0, below)], [scale * max(0.0, above)]]


def _draw_students(axes: Axes, report: Report, metric: str, scale: float, digits: int) -> None:
    teacher = scale * report["teacher"][metric]
    axes.axvline(teacher, color=TEACHER.colour, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    axes.annotate(
        f"teacher {teacher:.{digits}f}",
        (teacher, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
    )
    for row, (key, look) in enumerate(STUDENTS.items()):
        value = report["students"][key][metric]
        mean = scale * value["mean"]
        axes.errorbar(
            mean, row, xerr=_errors(value, scale), fmt=look.marker, color=look.colour, zorder=3
        )
        if len(value["values"]) > 1:
            seeds = [scale * number for number in value["values"]]
            axes.plot(
                seeds,
                [row + 0.24] * len(seeds),
                linestyle="none",
                marker="o",
                markersize=3.2,
                markerfacecolor="none",
                markeredgecolor=look.colour,
                markeredgewidth=0.9,
            )
        axes.annotate(
            f"{mean:.{digits}f}",
            (mean, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _draw_cost(axes: Axes, report: Report, cost: Callable[[Mapping[str, Any]], float]) -> None:
    students = {key: cost(report["students"][key]) for key in STUDENTS}
    teacher = cost(report["teacher"])
    axes.set_xscale("log")
    accuracy = 100 * report["teacher"]["accuracy"]
    axes.axhline(accuracy, color=_GREY, linestyle=(0, (5, 3)), linewidth=0.8, zorder=1)
    axes.plot(teacher, accuracy, TEACHER.marker, color=TEACHER.colour, markersize=11, zorder=4)
    for key, x in students.items():
        value, look = report["students"][key]["accuracy"], STUDENTS[key]
        axes.errorbar(
            x,
            100 * value["mean"],
            yerr=_errors(value, 100),
            fmt=look.marker,
            color=look.colour,
            zorder=3,
        )
    costs = [*students.values(), teacher]
    axes.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=_log_steps(*axes.get_xlim())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.margins(y=0.12)


def _log_steps(low: float, high: float) -> tuple[float, ...]:
    """Choose the tick values within a decade so that a short range still has a few."""
    ratio = high / low
    if ratio > 300:
        return (1.0,)
    return (1.0, 2.0, 5.0) if ratio > 4 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


def _handle(look: Look) -> Line2D:
    return Line2D([], [], linestyle="none", marker=look.marker, color=look.colour, label=look.label)


class _Bin(NamedTuple):
    confidence: float
    accuracy: float
    examples: int


def _filled_bins(curve: Mapping[str, Sequence[float]]) -> list[_Bin]:
    """Return the bins that hold examples; the others have neither confidence nor accuracy."""
    bins = zip(curve["confidence"], curve["accuracy"], curve["count"], strict=True)
    return [_Bin(confidence, accuracy, int(n)) for confidence, accuracy, n in bins if n]


def _draw_reliability(
    top: Axes, bottom: Axes, curve: Mapping[str, Sequence[float]], look: Look
) -> None:
    bins = _filled_bins(curve)
    x = [100 * b.confidence for b in bins]
    y = [100 * b.accuracy for b in bins]
    top.plot([0, 100], [0, 100], color=_GREY, linestyle=(0, (5, 3)), linewidth=1)
    top.vlines(x, x, y, color=look.colour, linewidth=3, alpha=0.3)
    top.plot(x, y, color=look.colour, linewidth=1, alpha=0.6)
    for b in bins:
        face = "white" if b.examples < FEW_EXAMPLES else look.colour
        top.plot(
            100 * b.confidence,
            100 * b.accuracy,
            look.marker,
            markerfacecolor=face,
            markeredgecolor=look.colour,
            markersize=9 if look is TEACHER else 7,
        )
    # Upper left is free: a classifier's confidence is at least 1 / classes, and mostly high.
    words = ["dashed: perfect calibration"]
    if any(b.examples < FEW_EXAMPLES for b in bins):
        words.append(f"hollow: fewer than {FEW_EXAMPLES} examples")
    top.text(3, 97, "\n".join(words), va="top", fontsize=8, color=_GREY)
    top.set(xlim=(0, 100), ylim=(0, 102))
    counts = curve["count"]
    width = 100 / len(counts)
    bottom.bar(
        [width * i for i in range(len(counts))],
        counts,
        width=0.9 * width,
        align="edge",
        color=look.colour,
    )
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
