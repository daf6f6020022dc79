"""The figures of the lessons: pure functions from arrays to a figure with a text alternative.

They are also the still pictures of the explorers in ``widgets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from distill_lab.errors import UserError
from distill_lab.losses import soften
from distill_lab.plots import PALETTE, ReportFigure, canvas, percent

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE
INK = "#1A1A1A"
ARROW = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}


# --- distributions and attention ----------------------------------------------------------------


def plot_distributions(
    teacher_logits: Tensor,
    student_logits: Tensor | None,
    classes: Sequence[str],
    temperatures: Sequence[float],
    *,
    title: str = "The same logits at several temperatures",
) -> ReportFigure:
    """Draw softmax(z / T) for each temperature, teacher beside student.

    Args:
        teacher_logits: [classes].
        student_logits: [classes], or None to draw the teacher alone.
        classes: Names, [classes].
        temperatures: One small plot each.
    """
    sides = {"teacher": (teacher_logits, BLUE, "")}
    if student_logits is not None:
        sides["student"] = (student_logits, ORANGE, "//")
    shown = {
        (side, t): 100 * soften(logits, t).double().numpy()
        for side, (logits, _, _) in sides.items()
        for t in temperatures
    }
    words = "; ".join(
        f"{side} at T = {t:g}: "
        + ", ".join(f"{name} {value:.0f} %" for name, value in zip(classes, values, strict=True))
        for (side, t), values in shown.items()
    )
    figure, axes = canvas(
        1.2 + 1.75 * len(temperatures),
        0.9 + 0.42 * len(classes),
        title=title,
        alt=f"Bars of class probabilities. {words}.",
        columns=len(temperatures),
        sharey=True,
        squeeze=False,
    )
    height = 0.8 / len(sides)
    rows = np.arange(len(classes))
    for column, t in zip(axes[0], temperatures, strict=True):
        for k, (side, (_, colour, hatch)) in enumerate(sides.items()):
            place = rows + (k - (len(sides) - 1) / 2) * height
            column.barh(
                place,
                shown[side, t],
                0.9 * height,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=side,
            )
            for y, value in zip(place, shown[side, t], strict=True):
                column.text(value + 2, y, f"{value:.0f}", va="center", fontsize=7.5)
        column.set(xlim=(0, 118), xticks=[0, 50, 100])
        column.set_title(f"T = {t:g}", fontsize=9.5)
        column.set_xlabel("Probability (%)")
        column.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(rows, classes)
    axes[0, 0].invert_yaxis()
    if len(sides) > 1:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(sides)
        )
    return figure


def plot_attention(
    weights: Tensor, tokens: Sequence[str], *, title: str = "Attention weights"
) -> ReportFigure:
    """Draw an attention map: a row is the token that looks, a column the token looked at.

    Args:
        weights: [tokens, tokens], each row sums to 1.
        tokens: Their texts.
    """
    values = weights.detach().double().cpu().numpy()
    strongest = values.argmax(1)
    words = ", ".join(f"{tokens[q]} at {tokens[k]}" for q, k in enumerate(strongest))
    size = max(2.6, 0.34 * len(tokens) + 1.4)
    figure, axes = canvas(
        size + 1.0,
        size,
        title=title,
        alt=f"Heat map of attention weights. Each token looks most at: {words}.",
    )
    image = _heat_map(axes, values)
    axes.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tokens)), tokens)
    axes.set_xlabel("Looked at (key)")
    axes.set_ylabel("Looks (query)")
    _weight_bar(figure, image, axes)
    return figure


def plot_heads(weights: Tensor, tokens: Sequence[str], *, title: str) -> ReportFigure:
    """Draw the attention maps of all heads of a block, small, side by side.

    Args:
        weights: [heads, tokens, tokens].
        tokens: Their texts.
    """
    heads = len(weights)
    columns = min(6, heads)
    rows = -(-heads // columns)
    values = weights.detach().double().cpu().numpy()
    onto = values.mean(1).argmax(-1)
    words = ", ".join(f"head {h} {tokens[k]}" for h, k in enumerate(onto))
    figure, axes = canvas(
        1.35 * columns + 1.6,
        1.45 * rows + 0.5,
        title=title,
        alt=f"Heat maps of {heads} attention heads. Looked at most, on average: {words}.",
        rows=rows,
        columns=columns,
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for h, ax in enumerate(axes.flat):
        if h >= heads:
            ax.set_axis_off()
            continue
        image = _heat_map(ax, values[h])
        ax.set_title(f"head {h}", fontsize=8)
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=5)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=5)
    _weight_bar(figure, image, axes)
    return figure


def _weight_bar(figure: ReportFigure, image: Any, axes: Any) -> None:
    ticks = [0, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.set_label("Weight (each row sums to 1; square-root scale)", fontsize=8)
    bar.outline.set_visible(False)


def _heat_map(axes: Axes, values: Any) -> Any:
    # One scale for all maps, so that heads can be compared; its root keeps small weights visible.
    image = axes.imshow(values, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


class Bars(NamedTuple):
    """A loss explorer's state: two distributions and what the losses say of them."""

    teacher: Tensor
    student: Tensor
    losses: Mapping[str, float]


def plot_losses(bars: Bars, classes: Sequence[str]) -> ReportFigure:
    """Draw teacher, student and the gradient p_s − p_t of each class, with the losses' values."""
    teacher, student = bars.teacher.double().numpy(), bars.student.double().numpy()
    said = ", ".join(f"{name} {value:.3f} nats" for name, value in bars.losses.items())
    words = "; ".join(
        f"{name}: teacher {percent(t, 0)}, student {percent(s, 0)}, gradient {s - t:+.2f}"
        for name, t, s in zip(classes, teacher, student, strict=True)
    )
    figure, (left, right) = canvas(
        7.2,
        2.9,
        title=said,
        alt=f"Bars of two distributions and their difference. {said}. {words}.",
        columns=2,
    )
    places = np.arange(len(classes))
    left.bar(places - 0.2, 100 * teacher, 0.38, color=BLUE, label="teacher p_t")
    left.bar(places + 0.2, 100 * student, 0.38, color=ORANGE, hatch="//", label="student p_s")
    left.set_ylabel("Probability (%)")
    left.legend(fontsize=8)
    right.bar(places, student - teacher, 0.5, color=GREEN)
    right.axhline(0, color=INK, linewidth=0.8)
    right.set_ylabel("Gradient p_s − p_t (per unit of logit)")
    for ax in (left, right):
        ax.set_xticks(places, classes)
        ax.grid(axis="x", visible=False)
    return figure


# --- layer maps -----------------------------------------------------------------------------------


def plot_layer_map(
    similarity: Tensor,
    student_layers: Sequence[str],
    teacher_layers: Sequence[str],
    layer_map: Mapping[str, str],
    *,
    title: str = "Layer map",
) -> ReportFigure:
    """Draw how alike student and teacher layers are, and frame the pairs of a layer map.

    Args:
        similarity: [student layers, teacher layers], from 0 to 1.
        student_layers, teacher_layers: Their names, in order.
        layer_map: student layer → teacher layer; not every layer need be mapped.

    Raises:
        UserError: The map names a layer that is not there.
    """
    values = similarity.detach().double().cpu().numpy()
    cells = layer_map_cells(student_layers, teacher_layers, layer_map)
    mean = f"mean similarity {np.mean([values[c] for c in cells]):.2f}" if cells else "no pair"
    nearest = ", ".join(
        f"{name} to {teacher_layers[k]} ({values[row, k]:.2f})"
        for row, (name, k) in enumerate(zip(student_layers, values.argmax(1), strict=True))
    )
    framed = ", ".join(
        f"{student_layers[i]} with {teacher_layers[k]} ({values[i, k]:.2f})" for i, k in cells
    )
    figure, axes = canvas(
        2.4 + 0.72 * len(teacher_layers),
        1.5 + 0.48 * len(student_layers),
        title=f"{title}: {mean}",
        alt=f"Heat map of similarity, student layers by teacher layers. Most alike: {nearest}. "
        f"Framed, the pairs of the map: {framed or 'none'}; {mean}.",
    )
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, k), value in np.ndenumerate(values):
        ink = "white" if value > 0.6 else INK
        weight = "bold" if (i, k) in cells else "normal"
        axes.text(
            k, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8, weight=weight
        )
    for i, k in cells:
        corner = (k - 0.46, i - 0.44)
        frame = Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=VERMILION, linewidth=2.5)
        axes.add_patch(frame)
    axes.set_xticks(range(len(teacher_layers)), teacher_layers, rotation=30, ha="right")
    axes.set_yticks(range(len(student_layers)), student_layers)
    axes.set_xlabel("Teacher layer (framed: mapped)")
    axes.set_ylabel("Student layer")
    bar = figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1])
    bar.set_label("Similarity (0 to 1)", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def layer_map_cells(
    student_layers: Sequence[str], teacher_layers: Sequence[str], layer_map: Mapping[str, str]
) -> list[tuple[int, int]]:
    """Give the (row, column) of each pair of a layer map, in the order of the student's layers.

    Raises:
        UserError: The map names a layer that is not there.
    """
    for side, known, named in (
        ("student", student_layers, layer_map.keys()),
        ("teacher", teacher_layers, layer_map.values()),
    ):
        if unknown := sorted(set(named) - set(known)):
            raise UserError(
                f"the layer map names {unknown[0]}, which the {side} has not; its layers are "
                f"{', '.join(known)}"
            )
    ours, theirs = list(student_layers), list(teacher_layers)
    return sorted((ours.index(s), theirs.index(t)) for s, t in layer_map.items())


# --- boxes and arrows ---------------------------------------------------------------------------


def pipeline_picture() -> ReportFigure:
    """Draw the four steps of distillation and what flows between them."""
    alt = (
        "Four boxes from left to right. 1, teacher: a large model is fine-tuned on labelled "
        "sentences. 2, knowledge: it is asked once about every sentence, and its logits are "
        "stored. 3, student: a small model is trained to give the same answers. 4, evaluation: "
        "both are measured on sentences that neither has seen, and a report card is written."
    )
    figure, axes = _board(9.2, 2.6, title="Distillation in four steps", alt=alt, size=(100, 26))
    steps = [
        ("1 · Teacher", "large model,\nfine-tuned", BLUE),
        ("2 · Knowledge", "its logits for\nevery sentence,\nstored once", GREEN),
        ("3 · Student", "small model,\nlearns the\nlogits", ORANGE),
        ("4 · Evaluation", "both on unseen\nsentences:\nreport card", PINK),
    ]
    for k, (name, what, colour) in enumerate(steps):
        _box(axes, 1 + 26 * k, 9, 18, 15, f"{name}\n{what}", colour, size=8.5)
    flows = ["asked once", "soft targets", "model"]
    for k, flow in enumerate(flows):
        _arrow(axes, (19.3 + 26 * k, 16.5), (26.7 + 26 * k, 16.5), flow)
    for x, text in ((10, "labelled sentences"), (36, "all training sentences"), (88, "test split")):
        axes.text(x, 1, text, ha="center", va="bottom", fontsize=8)
        _arrow(axes, (x, 4), (x, 8.7))
    return figure


def plot_encoder_block() -> ReportFigure:
    """Draw an encoder block with its LayerNorms after the additions (post-norm)."""
    alt = (
        "Boxes from left to right: x, tokens by width, enters multi-head self-attention; the "
        "result is added to x and normalised (LayerNorm); that enters the feed-forward network "
        "(expand, GELU, contract); its result is added to its input and normalised again. Two "
        "arrows above, the residual connections, go around attention and around the feed-forward "
        "network."
    )
    figure, axes = _board(9.2, 2.3, title="An encoder block (post-norm)", alt=alt, size=(100, 22))
    boxes = [
        (12, 15, "multi-head\nself-attention", BLUE),
        (34, 13, "add\nLayerNorm", GREEN),
        (54, 15, "expand · GELU\ncontract", ORANGE),
        (76, 13, "add\nLayerNorm", GREEN),
    ]
    for x, width, text, colour in boxes:
        _box(axes, x, 4, width, 9, text, colour, size=8.5)
    for start, end in ((4, 12), (27, 34), (47, 54), (69, 76), (89, 96)):
        _arrow(axes, (start, 8.5), (end - 0.3, 8.5))
    axes.text(2.5, 8.5, "x", ha="center", va="center", fontsize=11, style="italic")
    for start, end in ((7, 40), (50, 82)):
        axes.plot([start, start, end], [8.5, 17, 17], color=INK, linewidth=1.2)
        _arrow(axes, (end, 17), (end, 13.3))
        axes.text((start + end) / 2, 17.4, "residual", ha="center", va="bottom", fontsize=8)
    axes.text(50, 0.2, "every arrow carries [batch, tokens, width]", ha="center", fontsize=8)
    return figure


def plot_transformer_halves() -> ReportFigure:
    """Draw encoder and decoder side by side: BERT is the one, GPT the other."""
    alt = (
        "Left, the encoder, the half that became BERT: self-attention in which every token sees "
        "all tokens, then a feed-forward network, repeated. Right, the decoder: causal "
        "self-attention in which a token sees only earlier ones, then cross-attention to the "
        "encoder's output, then a feed-forward network, repeated. GPT is the decoder without "
        "cross-attention. An arrow leads from the encoder's output to cross-attention."
    )
    figure, axes = _board(
        8.2, 4.0, title="The two halves of the Transformer", alt=alt, size=(100, 48)
    )
    columns = [
        (6, "Encoder (BERT)", [("feed-forward", ORANGE), ("self-attention\nall tokens", BLUE)]),
        (
            60,
            "Decoder (GPT: without cross-attention)",
            [
                ("feed-forward", ORANGE),
                ("cross-attention\nto the encoder's output", GREEN),
                ("causal self-attention\nearlier tokens only", BLUE),
            ],
        ),
    ]
    for x, name, blocks in columns:
        axes.text(x + 15, 45, name, ha="center", va="bottom", fontsize=9, fontweight="bold")
        top = 38.0
        for text, colour in blocks:
            _box(axes, x, top - 7, 30, 7.5, text, colour, size=8.5)
            top -= 11
        _arrow(axes, (x + 15, top - 1.5), (x + 15, top + 3.6))
        axes.text(x + 15, top - 2, "tokens", ha="center", va="top", fontsize=8)
        for k in range(1, len(blocks)):
            edge = 38.0 - 11 * k
            _arrow(axes, (x + 15, edge + 0.8), (x + 15, edge + 3.7))
        _arrow(axes, (x + 15, 38.8), (x + 15, 43.5))
    axes.plot([21, 46, 46], [41, 41, 23.7], color=INK, linewidth=1.2)
    _arrow(axes, (46, 23.7), (59.6, 23.7), "keys, values")
    axes.text(47, 41, "a vector a token", va="center", fontsize=8)
    return figure


def _board(
    width: float, height: float, *, title: str, alt: str, size: tuple[float, float]
) -> tuple[ReportFigure, Axes]:
    figure, axes = canvas(width, height, title=title, alt=alt)
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    axes.set_axis_off()
    return figure, axes


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float
) -> None:
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=1",
        facecolor=(*_rgb(colour), 0.16),
        edgecolor=colour,
        linewidth=1.4,
    )
    axes.add_patch(patch)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return red, green, blue


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = ""
) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops=ARROW)
    if text:
        middle = ((start[0] + end[0]) / 2, start[1] + 0.6)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=7.5)


def as_tensor(values: Sequence[float]) -> Tensor:
    """Give a list of logits as float64, so that explorers and figures agree to the last digit."""
    return torch.tensor(list(values), dtype=torch.float64)
