"""The figures of ``RESULTS.md``, from ``results.json``: ratios, growth, the main job's seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill_lab.plots import PALETTE, ReportFigure, canvas

Results = Mapping[str, Any]
COMPARED = {
    "distill_epoch.vs_textbrewer": "an epoch, TextBrewer",
    "distill_epoch.vs_textbrewer_cached": "an epoch, TextBrewer, its cache",
    "distill_three_epochs_with_extraction.vs_textbrewer": "extraction + three epochs, TextBrewer",
    "distill_epoch.vs_plain_loop": "an epoch, plain loop",
    "extract.vs_plain_loop": "extraction, plain loop",
    "fine_tune.vs_trainer": "fine-tuning, bare Trainer",
    "store_read.vs_array": "reading the store, bare array",
}
GROWING = {"extract": "extraction", "distill": "one epoch of distillation"}
STEPS = ("prepare", "teacher", "extract", "students", "evaluate")
STEP_HATCHES = ("", "//", "", "..", "")


def draw_figures(results: Results) -> dict[str, ReportFigure]:
    """Draw what the results have the figures for, each with its text alternative, by name."""
    drawings: dict[str, Callable[[Results], ReportFigure | None]] = {
        "ratios": draw_ratios,
        "growth": draw_growth,
        "main_job": draw_main_job,
    }
    drawn = {name: draw(results) for name, draw in drawings.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_ratios(results: Results) -> ReportFigure | None:
    """Draw how long the peers took against ours, with spread and goal; above 1 ours is faster."""
    shown = []
    for path, label in COMPARED.items():
        name, _, key = path.partition(".")
        record = results.get(name, {}).get(key)
        if record:
            shown.append((label, *_theirs_over_ours(record)))
    if not shown:
        return None
    said = "; ".join(f"{label} {ratio:.2f}" for label, ratio, *_ in shown)
    figure, axes = canvas(
        7.2,
        0.9 + 0.36 * len(shown),
        title="How many times our seconds the peer takes: above 1, ours is faster",
        alt=f"Seconds of each peer over ours, above 1 where ours is faster: {said}.",
    )
    for height, (_, ratio, low, high, goal) in enumerate(reversed(shown)):
        axes.plot([low, high], [height, height], color=PALETTE[0], linewidth=2)
        axes.plot(
            ratio, height, "o", color=PALETTE[0], label="median, spread" if not height else None
        )
        if goal is not None:
            mark = {"color": PALETTE[4], "markersize": 13, "markeredgewidth": 2}
            axes.plot(goal, height, "|", label="goal (at least)" if not height else None, **mark)
    axes.axvline(1, color=PALETTE[6], linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), [label for label, *_ in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("Seconds of the peer / our seconds (log scale)")
    figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    return figure


def _theirs_over_ours(record: Mapping[str, Any]) -> tuple[float, float, float, float | None]:
    """Give ratio, its spread and its goal, turned so that more is better for us."""
    goal = record.get("goal", {})
    low, high = record["spread"]
    if record["kind"] == "cost":
        most = goal.get("at_most")
        return 1 / record["ratio"], 1 / high, 1 / low, 1 / most if most else None
    return record["ratio"], low, high, goal.get("at_least")


def draw_growth(results: Results) -> ReportFigure | None:
    """Draw seconds and peak memory against the number of examples."""
    growth = results.get("growth", {})
    series = {
        label: growth[f"{name}_by_examples"]
        for name, label in GROWING.items()
        if f"{name}_by_examples" in growth
    }
    if not series:
        return None
    said = []
    for label, rows in series.items():
        first, last = rows[min(rows, key=int)], rows[max(rows, key=int)]
        said.append(
            f"{label} from {first['seconds']:.3g} s and {first['peak_memory_mb']:,.0f} MB at "
            f"{int(min(rows, key=int)):,} examples to {last['seconds']:.3g} s and "
            f"{last['peak_memory_mb']:,.0f} MB at {int(max(rows, key=int)):,}"
        )
    figure, (left, right) = canvas(
        7.2,
        3.2,
        title="Time and memory against the number of examples",
        alt=f"Two panels against the number of examples: {'; '.join(said)}.",
        columns=2,
    )
    ticks: list[int] = []
    for k, (label, rows) in enumerate(series.items()):
        sizes = sorted(map(int, rows))
        ticks = sizes
        line = {"color": PALETTE[k], "marker": "os"[k], "label": label}
        seconds = [rows[str(size)]["seconds"] for size in sizes]
        left.plot(sizes, seconds, **line)
        right.plot(sizes, [rows[str(size)]["peak_memory_mb"] for size in sizes], **line)
    # In proportion to the work: from the first measurement of the last series.
    left.plot(
        ticks,
        [seconds[0] * size / ticks[0] for size in ticks],
        color=PALETTE[6],
        linewidth=0.8,
        linestyle=":",
        label="in proportion (slope 1)",
    )
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        axes.minorticks_off()
        axes.set_xlabel("Examples (log scale)")
    left.set_yscale("log")
    left.set_ylabel("Seconds (log scale)")
    right.set_ylabel("Peak resident memory (MB)")
    right.set_ylim(0, 1.1 * right.get_ylim()[1])
    left.legend(fontsize=8, frameon=False)
    return figure


def draw_main_job(results: Results) -> ReportFigure | None:
    """Draw the seconds of the main job's steps, before and now, and the goal for their sum."""
    job = results.get("main_job", {})
    bars = job.get("seconds_by_step", {})
    if not bars:
        return None
    said = "; ".join(
        f"{name} {steps['total']:.0f} s in all ("
        + ", ".join(f"{step} {steps[step]:.0f}" for step in STEPS if step in steps)
        + ")"
        for name, steps in bars.items()
    )
    goal = job.get("total", {}).get("goal", {}).get("at_most")
    figure, axes = canvas(
        7.2,
        1.5 + 0.4 * len(bars),
        title="distill-lab run on the default task, from nothing",
        alt=f"Seconds of the main job by step: {said}."
        + (f" The goal is {goal:g} s." if goal else ""),
    )
    names = list(reversed(bars))
    for k, step in enumerate(STEPS):
        starts = [sum(bars[name].get(before, 0) for before in STEPS[:k]) for name in names]
        widths = [bars[name].get(step, 0) for name in names]
        look = {"color": PALETTE[k], "edgecolor": "white", "hatch": STEP_HATCHES[k], "zorder": 2}
        drawn = axes.barh(names, widths, left=starts, label=step, **look)
        longest = max(bars[name]["total"] for name in names)
        axes.bar_label(
            drawn,
            [f"{w:.0f}" if w > 0.05 * longest else "" for w in widths],
            label_type="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
            zorder=5,  # above the goal's line
        )
    if goal:
        axes.axvline(goal, color=PALETTE[6], linestyle="--", label=f"goal, {goal:g} s", zorder=4)
    axes.set_xlabel("Seconds")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure
