"""Teaching figures say in words what they draw, and draw what they were given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from distill_lab import diagrams
from distill_lab.plots import ReportFigure, png_bytes

LOGITS = torch.tensor([2.0, 0.5, -1.0])
NAMES = ["business", "sports", "tech"]
FIGURES: list[Callable[[], ReportFigure]] = [
    diagrams.pipeline_picture,
    diagrams.plot_encoder_block,
    diagrams.plot_transformer_halves,
    lambda: diagrams.plot_distributions(LOGITS, LOGITS / 2, NAMES, [1, 4]),
    lambda: diagrams.plot_distributions(LOGITS, None, NAMES, [1]),
    lambda: diagrams.plot_attention(torch.eye(3), NAMES),
    lambda: diagrams.plot_heads(torch.eye(3).repeat(7, 1, 1), NAMES, title="heads"),
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
