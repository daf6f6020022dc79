"""Laws of the report card's figures."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from distill_lab.errors import UserError
from distill_lab.plots import (
    ANNOTATED_CLASSES,
    FIGURES,
    NBSP,
    STUDENTS,
    TEACHER,
    alt_text,
    compact,
    png_bytes,
    save_figures,
)

SAMPLE = json.loads((Path(__file__).parent / "sample_report.json").read_text(encoding="utf-8"))


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(SAMPLE)


def with_classes(report: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Give a report other classes, with one class taken for the next one a little."""
    n = len(labels)
    matrix = [[0.1 / max(1, n - 2)] * n for _ in range(n)]
    for row in range(n):
        matrix[row][row], matrix[row][(row + 1) % n] = 0.7, 0.2
    report["task"]["classes"] = labels
    report["class_similarity"] = {"labels": labels, "matrix": matrix}
    return report


def words(figure: Figure) -> str:
    """Return all text of a drawn figure."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("students", "(%)"),
        ("accuracy_against_cost", "(ms"),
        ("reliability", "(%)"),
        ("class_similarity", "(%"),
    ],
)
def test_axis_labels_carry_units(name: str, unit: str, report: dict[str, Any]) -> None:
    figure = FIGURES[name](report)
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert any(unit in label for label in labels)
    assert figure.get_suptitle()


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(report: dict[str, Any]) -> None:
    for draw in FIGURES.values():
        assert png_bytes(draw(report)) == png_bytes(draw(report))


def test_figures_leave_the_report_and_matplotlib_as_they_were(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    settings = dict(matplotlib.rcParams)
    for draw in FIGURES.values():
        draw(report)
    assert report == before
    assert dict(matplotlib.rcParams) == settings


def test_figures_do_without_pyplot() -> None:
    code = "import sys, distill_lab.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figure_shows_itself_in_jupyter_with_its_text_alternative(report: dict[str, Any]) -> None:
    report["task"]["name"] = '"><script>'
    shown = FIGURES["students"](report)._repr_html_()
    assert shown is not None
    assert shown.startswith('<img src="data:image/png;base64,')
    assert "Hard labels: accuracy" in shown and "<script>" not in shown


def test_models_differ_in_colour_and_in_marker() -> None:
    looks = [TEACHER, *STUDENTS.values()]
    for part in ("label", "colour", "marker", "glyph"):
        assert len({getattr(look, part) for look in looks}) == len(looks)


def test_saved_pictures_name_no_software_and_hold_the_text_alternative(
    report: dict[str, Any], tmp_path: Path
) -> None:
    paths = save_figures(report, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{n}.png" for n in FIGURES}
    for name, path in paths.items():
        with Image.open(path) as image:
            assert "Software" not in image.info
            assert image.info["Description"] == alt_text(name, report)
            assert round(image.info["dpi"][0]) == 150


def test_single_seeds_are_drawn_only_when_there_are_several(report: dict[str, Any]) -> None:
    def points(report: dict[str, Any]) -> int:
        lines = FIGURES["students"](report).axes[0].lines
        return sum(np.size(line.get_xdata()) for line in lines if line.get_markersize() < 4)

    seeds = [len(report["students"][key]["accuracy"]["values"]) for key in STUDENTS]
    assert points(report) == sum(seeds)
    for key in STUDENTS:
        for metric in ("accuracy", "macro_f1"):
            report["students"][key][metric]["values"] = [0.8]
    assert points(report) == 0


def test_a_mean_outside_its_interval_is_still_drawn(report: dict[str, Any]) -> None:
    report["students"]["distilled"]["accuracy"].update(mean=0.9, low=0.80, high=0.85)
    png_bytes(FIGURES["students"](report))
    png_bytes(FIGURES["accuracy_against_cost"](report))


def test_empty_bins_are_not_drawn(report: dict[str, Any]) -> None:
    curve = report["reliability"]["teacher"]
    filled = sum(count > 0 for count in curve["count"])
    assert filled < len(curve["count"])
    for nothing in (0.0, None):
        for i, count in enumerate(curve["count"]):
            if count == 0:
                curve["confidence"][i] = curve["accuracy"][i] = nothing
        axes = FIGURES["reliability"](report).axes[0]
        assert sum(line.get_marker() == TEACHER.marker for line in axes.lines) == filled
        assert "expected calibration error" in alt_text("reliability", report)


@pytest.mark.parametrize("n", [2, ANNOTATED_CLASSES, ANNOTATED_CLASSES + 1, 50])
def test_cells_carry_numbers_only_while_they_can_be_read(n: int, report: dict[str, Any]) -> None:
    figure = FIGURES["class_similarity"](with_classes(report, [f"class {i}" for i in range(n)]))
    assert len(figure.axes[0].texts) == (n * n if n <= ANNOTATED_CLASSES else 0)
    png_bytes(figure)


def test_labels_are_shown_as_they_are_not_as_formulas(report: dict[str, Any]) -> None:
    labels = ["a $x^$ b", "under_score", "$", "two\nlines", "long " * 30]
    report["task"]["name"] = r"cost in $ and \frac{"
    figure = FIGURES["class_similarity"](with_classes(report, labels))
    png_bytes(figure)
    shown = words(figure)
    assert "two lines" in shown and "long " * 10 not in shown


def test_text_alternatives_say_the_numbers(report: dict[str, Any]) -> None:
    report["students"]["hard_labels"]["accuracy"].update(mean=0.1234, low=0.1111, high=0.1357)
    assert f"12.3{NBSP}% (11.1 to 13.6)" in alt_text("students", report)
    report["students"]["distilled"]["latency_ms"]["p50"] = 7.25
    assert "7.25 ms" in alt_text("accuracy_against_cost", report)
    report["class_similarity"]["matrix"][3][1] = 0.4321
    assert f"sport as entertainment, 43.2{NBSP}%" in alt_text("class_similarity", report)


@pytest.mark.parametrize(("shift", "word"), [(-0.1, "less often"), (0.1, "more often")])
def test_reliability_text_tells_too_bold_from_too_modest(
    shift: float, word: str, report: dict[str, Any]
) -> None:
    curve = report["reliability"]["teacher"]
    curve["accuracy"] = [confidence + shift for confidence in curve["confidence"]]
    teacher = alt_text("reliability", report).split("Distilled")[0]
    assert f"it is right 10.0{NBSP}% {word}" in teacher


def test_an_unknown_figure_is_refused_with_the_names_there_are(report: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'nothing'.*students, accuracy_against_cost"):
        alt_text("nothing", report)


@given(st.integers(1, 10**12))
def test_compact_counts_keep_three_digits(number: int) -> None:
    text, _, unit = compact(number).partition(NBSP)
    value = float(text) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert value == pytest.approx(number, rel=0.005)
    assert len(text) <= 5 and not (unit and float(text) < 1)


def test_pictures_are_of_print_width(report: dict[str, Any]) -> None:
    for draw in FIGURES.values():
        with Image.open(io.BytesIO(png_bytes(draw(report)))) as image:
            assert 700 <= image.width <= 1600
