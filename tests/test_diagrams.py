"""Teaching figures say in words what they draw, and draw what they were given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from distill_lab import diagrams
from distill_lab.errors import UserError
from distill_lab.plots import ReportFigure, png_bytes

LOGITS = torch.tensor([2.0, 0.5, -1.0])
NAMES = ["business", "sports", "tech"]
STUDENT, TEACHER = ["embeddings", "layer.0"], ["embeddings", "layer.0", "layer.1"]
SIMILARITY = torch.tensor([[0.9, 0.4, 0.1], [0.2, 0.3, 0.7]])
FIGURES: list[Callable[[], ReportFigure]] = [
    diagrams.pipeline_picture,
    diagrams.plot_encoder_block,
    diagrams.plot_transformer_halves,
    lambda: diagrams.plot_distributions(LOGITS, LOGITS / 2, NAMES, [1, 4]),
    lambda: diagrams.plot_distributions(LOGITS, None, NAMES, [1]),
    lambda: diagrams.plot_attention(torch.eye(3), NAMES),
    lambda: diagrams.plot_heads(torch.eye(3).repeat(7, 1, 1), NAMES, title="heads"),
    lambda: diagrams.plot_layer_map(SIMILARITY, STUDENT, TEACHER, {"layer.0": "layer.1"}),
    lambda: diagrams.plot_layer_map(SIMILARITY, STUDENT, TEACHER, {}),
]


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_draws_and_has_a_text_alternative(figure: Callable[[], ReportFigure]) -> None:
    drawn = figure()
    assert len(png_bytes(drawn)) > 5000 and len(drawn.alt) > 60
    assert drawn.alt[:40] in drawn._repr_html_()


def test_the_alternative_of_distributions_has_their_percentages() -> None:
    alt = diagrams.plot_distributions(LOGITS, LOGITS / 2, NAMES, [1, 2]).alt
    for logits, t in ((LOGITS, 1), (LOGITS, 2), (LOGITS / 2, 1)):
        assert f"business {100 * (logits / t).softmax(-1)[0]:.0f} %" in alt


def test_the_alternative_of_attention_names_where_each_token_looks() -> None:
    weights = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    alt = diagrams.plot_attention(weights, NAMES).alt
    assert "business at sports, sports at tech, tech at business" in alt


def test_a_layer_map_says_its_pairs_their_mean_and_what_is_most_alike() -> None:
    layer_map = {"embeddings": "embeddings", "layer.0": "layer.0"}
    figure = diagrams.plot_layer_map(SIMILARITY, STUDENT, TEACHER, layer_map)
    assert "Most alike: embeddings to embeddings (0.90), layer.0 to layer.1 (0.70)" in figure.alt
    assert "embeddings with embeddings (0.90), layer.0 with layer.0 (0.30)" in figure.alt
    assert "mean similarity 0.60" in figure.alt


@pytest.mark.parametrize(
    ("layer_map", "side"),
    [({"layer.1": "layer.0"}, "student"), ({"layer.0": "layer.2"}, "teacher")],
)
def test_a_layer_map_must_name_layers_that_are_there(layer_map: dict[str, str], side: str) -> None:
    with pytest.raises(UserError, match=rf"names layer\.\d, which the {side} has not"):
        diagrams.plot_layer_map(SIMILARITY, STUDENT, TEACHER, layer_map)


def test_the_frames_stand_on_the_mapped_cells() -> None:
    layer_map = {"layer.0": "layer.1", "embeddings": "layer.0"}
    assert diagrams.layer_map_cells(STUDENT, TEACHER, layer_map) == [(0, 1), (1, 2)]
    axes = diagrams.plot_layer_map(SIMILARITY, STUDENT, TEACHER, layer_map).axes[0]
    frames = [p.get_bbox() for p in axes.patches if isinstance(p, Rectangle)]
    centres = [((box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2) for box in frames]
    assert np.allclose(centres, [(0, 1), (1, 2)])
