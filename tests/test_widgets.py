"""Explorers: what a control moves is what the losses say, and each has a still picture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_lab import losses
from distill_lab.errors import UserError
from distill_lab.plots import ReportFigure
from distill_lab.widgets import (
    Explorer,
    attention_viewer,
    layer_map_explorer,
    loss_explorer,
    report_viewer,
    temperature_explorer,
    temperature_readings,
)

REPORT = json.loads((Path(__file__).parent / "sample_report.json").read_text(encoding="utf-8"))
EXAMPLES = [
    {"text": "One <b> & two.", "teacher": [3.0, 1.0, -2.0], "students": {"distilled": [2.0, 0, 0]}},
    {"text": "Another.", "teacher": [0.0, 0.5, 0.0], "students": {"distilled": [0.0, 0.0, 1.0]}},
]
CLASSES = ["a", "b", "c"]
LAYERS = ["embeddings", "layer.0"], ["embeddings", "layer.0", "layer.1"]
SIMILARITY = torch.tensor([[0.9, 0.4, 0.1], [0.2, 0.3, 0.7]])
MAPS = {"even": {"layer.0": "layer.1"}, "low": {"layer.0": "layer.0", "embeddings": "embeddings"}}
Make = Callable[..., Explorer]


@pytest.fixture
def attention(small_teacher: Any, small_tokenizer: Any) -> Explorer:
    texts = ["we saw the rose near a fern.", "they lost the pan."]
    return attention_viewer(texts, small_teacher, small_tokenizer)


@pytest.fixture(params=["temperature", "loss", "attention", "layer map", "report"])
def explorer(request: pytest.FixtureRequest) -> Explorer:
    if request.param == "attention":
        return request.getfixturevalue("attention")  # type: ignore[no-any-return]
    return {
        "temperature": lambda: temperature_explorer(EXAMPLES, CLASSES),
        "loss": loss_explorer,
        "layer map": lambda: layer_map_explorer(SIMILARITY, *LAYERS, MAPS),
        "report": lambda: report_viewer(REPORT),
    }[request.param]()


def number(html: str, name: str) -> float:
    found = re.search(re.escape(name) + r"[^:]*: <b>([-\d.]+)</b>", html)
    assert found, html
    return float(found[1])


def test_every_explorer_has_a_widget_and_a_still_picture_with_words(explorer: Explorer) -> None:
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "data:image/png" in bundle["text/html"] and "alt=" in bundle["text/html"]
    assert isinstance(explorer.static(), ReportFigure) and len(bundle["text/plain"]) > 40


def test_moving_t_changes_the_numbers_to_those_of_the_losses() -> None:
    explorer = temperature_explorer(EXAMPLES, CLASSES)
    before = explorer.html
    explorer.controls["temperature"].value = 4.0
    assert explorer.html != before
    teacher, student = torch.tensor([EXAMPLES[0]["teacher"]]), torch.tensor([[2.0, 0, 0]])
    assert number(explorer.html, "entropy of the teacher") == pytest.approx(
        losses.entropy(teacher, 4.0).item(), abs=1e-4
    )
    assert number(explorer.html, "KL(teacher ‖ student)") == pytest.approx(
        losses.kl_divergence(student, teacher, 4.0).item(), abs=1e-4
    )


def test_a_sentence_is_text_and_never_markup() -> None:
    explorer = temperature_explorer(EXAMPLES, CLASSES)
    assert "<b> & two" not in explorer.html


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_t2_multiplies_loss_and_gradient(temperature: float) -> None:
    z_t, z_s = torch.tensor([3.0, 1.0, -2.0]), torch.tensor([2.0, 0.0, 0.0])
    bare = list(temperature_readings(z_t, z_s, temperature, times_t2=False).values())
    times = list(temperature_readings(z_t, z_s, temperature, times_t2=True).values())
    factors = [1, temperature**2, temperature**2]
    assert times == pytest.approx([f * x for f, x in zip(factors, bare, strict=True)], rel=1e-5)


def test_the_readings_gradient_is_p_student_less_p_teacher_over_t() -> None:
    z_t, z_s = torch.tensor([3.0, 1.0, -2.0]), torch.tensor([2.0, 0.0, 0.0])
    read = temperature_readings(z_t, z_s, 2.0, times_t2=False)
    expected = (((z_s / 2).softmax(-1) - (z_t / 2).softmax(-1)) / 2).norm().item()
    assert list(read.values())[-1] == pytest.approx(expected, rel=1e-5)


def test_in_the_loss_explorer_cross_entropy_is_entropy_plus_kl() -> None:
    explorer = loss_explorer()
    explorer.controls["z_A"].value = 2.0
    explorer.controls["teacher"].value = "torn between two"
    read = [number(explorer.html, name) for name in ("H(p_t)", "CE", "KL(t ‖ s)")]
    assert read[1] == pytest.approx(read[0] + read[2], abs=2e-4)


def test_the_arrow_points_to_the_teacher() -> None:
    explorer = loss_explorer()  # an even student under a teacher that is sure of A
    row_a, row_d = re.findall(r"<tr><td.*?</tr>", explorer.html)[0::3]
    assert "▲" in row_a and "▼" in row_d


def test_the_attention_viewer_shows_another_map_for_another_head(attention: Explorer) -> None:
    before = attention.html
    attention.controls["head"].value = 1
    assert attention.html != before and "Each token looks most at" in attention.html
    before = attention.html
    attention.controls["text"].value = "they lost the pan."
    assert attention.html != before


def test_another_layer_map_has_other_pairs_and_their_mean() -> None:
    explorer = layer_map_explorer(SIMILARITY, *LAYERS, MAPS)
    assert number(explorer.html, "mean of the pairs") == pytest.approx(0.7, abs=1e-4)
    explorer.controls["layer_map"].value = "low"
    assert number(explorer.html, "layer.0 ↦ layer.0") == pytest.approx(0.3, abs=1e-4)
    assert number(explorer.html, "mean of the pairs") == pytest.approx(0.6, abs=1e-4)


def test_ones_own_layer_map_begins_as_the_first_and_can_be_changed_and_emptied() -> None:
    explorer = layer_map_explorer(SIMILARITY, *LAYERS, MAPS)
    assert explorer.controls["layer.0"].disabled
    explorer.controls["layer_map"].value = "own"
    assert not explorer.controls["layer.0"].disabled
    assert number(explorer.html, "layer.0 ↦ layer.1") == pytest.approx(0.7, abs=1e-4)
    explorer.controls["embeddings"].value = "layer.0"
    assert number(explorer.html, "mean of the pairs") == pytest.approx(0.55, abs=1e-4)
    for layer in ("embeddings", "layer.0"):
        explorer.controls[layer].value = "not mapped"
    assert "mean of the pairs" not in explorer.html and "no pair" in explorer.static().alt


def test_a_layer_map_of_other_models_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer\.7, which the teacher has not"):
        layer_map_explorer(SIMILARITY, *LAYERS, {"even": {"layer.0": "layer.7"}})


def test_the_report_viewer_has_every_section() -> None:
    explorer = report_viewer(REPORT)
    for section in explorer.controls["section"].options:
        explorer.controls["section"].value = section
        assert len(explorer.html) > 200
