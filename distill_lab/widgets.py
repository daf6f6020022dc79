"""Explorers for notebooks: what a slider moves is computed on stored logits, never by training.

An explorer shows itself as the last line of a cell. Where widgets cannot be drawn (a page made
from the notebook, a viewer on the web) its still picture is shown instead; ``static()`` gives that
picture too.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_lab.diagrams import (
    BLUE,
    ORANGE,
    Bars,
    as_tensor,
    layer_map_cells,
    plot_attention,
    plot_distributions,
    plot_heads,
    plot_layer_map,
    plot_losses,
)
from distill_lab.knowledge import observe
from distill_lab.losses import (
    entropy,
    kl_divergence,
    reverse_kl_divergence,
    soft_cross_entropy,
    soften,
)
from distill_lab.plots import STUDENTS, ReportFigure, plot_students
from distill_lab.report import headline, html_sections

WIDE = widgets.Layout(width="98%")
LABELLED = {"description_width": "8.5em"}
LOWEST, HIGHEST = -0.6, 1.3  # log10 of the temperatures: about 0.25 to 20
PRESETS: dict[str, tuple[float, ...]] = {
    "sure of one class": (4.0, 0.5, 0.0, -0.5),
    "torn between two": (2.5, -1.0, 2.5, -1.0),
    "nearly even": (0.3, 0.1, 0.0, -0.2),
}
LETTERS = ("A", "B", "C", "D")
OWN_MAP, UNMAPPED = "own", "not mapped"
# As much of the report page's style sheet as a cell needs. Width 0 with a least
# width of 100 % keeps a wide table or figure from pushing the text out of the cell.
REPORT_STYLE = f"""<style>
.report-card {{ width: 0; min-width: 100%; line-height: 1.5; }}
.report-card small {{ display: block; font-weight: normal; }}
.report-card img {{ display: block; max-width: 100%; }}
.report-card .scroll {{ overflow-x: auto; }}
.report-card caption, .report-card th:first-child {{ text-align: left; }}
.report-card th, .report-card td {{ padding: 3px 8px; text-align: right; vertical-align: top; }}
.report-card th[scope=colgroup] {{ text-align: center; }}
.report-card td small {{ white-space: nowrap; }}
.report-card .share {{ width: 14em; }}
.report-card .bar {{ display: block; height: 0.8em; background: {BLUE}; }}
</style>"""


class Explorer:
    """Controls above a view that follows them.

    Attributes:
        panel: The widget.
        controls: By name; set a control's ``value`` to move it from code.
    """

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        view: Callable[..., str],
        still: Callable[..., ReportFigure],
    ) -> None:
        self.controls = dict(controls)
        self._view, self._still = view, still
        self._shown = widgets.HTML()
        self.panel = widgets.VBox([*self.controls.values(), self._shown], layout=WIDE)
        for control in self.controls.values():
            control.observe(self._redraw, names="value")
        self._redraw()

    @property
    def values(self) -> dict[str, Any]:
        """What the controls are set to."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def html(self) -> str:
        """What the view shows now."""
        return str(self._shown.value)

    def static(self) -> ReportFigure:
        """Give the still picture of what is shown now."""
        return self._still(**self.values)

    def _redraw(self, change: object = None) -> None:
        self._shown.value = self._view(**self.values)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        figure = self.static()
        return {
            **self.panel._repr_mimebundle_(**options),
            "text/html": figure._repr_html_(),
            "text/plain": figure.alt,
        }


# --- temperature --------------------------------------------------------------------------------


def temperature_explorer(
    examples: Sequence[Mapping[str, Any]] | None = None, classes: Sequence[str] | None = None
) -> Explorer:
    """Move T over a sentence's logits: both distributions, entropy, KL and the gradient's size.

    Args:
        examples: As ``classroom.example_sentences`` gives them, which are used if None: ``text``,
            ``teacher`` [classes] and ``students``, by name [classes].
        classes: Their names; needed with ``examples``.
    """
    if examples is None or classes is None:
        from distill_lab.classroom import example_classes, example_sentences

        examples, classes = example_sentences(), example_classes()
    sentences = {example["text"]: example for example in examples}
    names = list(classes)
    students = {
        STUDENTS[key].label if key in STUDENTS else key: key for key in examples[0]["students"]
    }

    def pick(sentence: str, student: str) -> tuple[Tensor, Tensor]:
        example = sentences[sentence]
        return as_tensor(example["teacher"]), as_tensor(example["students"][student])

    def view(sentence: str, student: str, temperature: float, times_t2: bool) -> str:
        teacher, other = pick(sentence, student)
        return _bars(names, teacher, other, temperature) + _readings(
            temperature_readings(teacher, other, temperature, times_t2=times_t2)
        )

    def still(sentence: str, student: str, temperature: float, times_t2: bool) -> ReportFigure:
        teacher, other = pick(sentence, student)
        temperatures = sorted({1.0, 2.0, 4.0, 8.0, round(temperature, 2)})
        return plot_distributions(teacher, other, names, temperatures, title=sentence)

    controls = {
        "sentence": widgets.Dropdown(
            options=list(sentences), description="sentence", layout=WIDE, style=LABELLED
        ),
        "student": widgets.Dropdown(
            options=students, value=next(iter(students.values())), description="student",
            style=LABELLED,
        ),
        "temperature": widgets.FloatLogSlider(
            value=1.0, min=LOWEST, max=HIGHEST, step=0.02, description="temperature T",
            readout_format=".2f", layout=widgets.Layout(width="34em"), style=LABELLED,
        ),
        "times_t2": widgets.Checkbox(
            value=False, description="multiply the soft loss by T²", style=LABELLED,
            layout=widgets.Layout(width="34em"),
        ),
    }  # fmt: skip
    return Explorer(controls, view, still)


def temperature_readings(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float, *, times_t2: bool
) -> dict[str, float]:
    """Say of one example at T: the teacher's entropy, KL, and the size of the loss's gradient.

    Args:
        teacher_logits, student_logits: [classes].
        times_t2: Whether the loss is T² · KL rather than KL.

    Returns:
        By what is read: nats, and the Euclidean norm of the gradient in the student's logits.
    """
    teacher = teacher_logits[None]
    student = student_logits[None].clone().requires_grad_()
    factor = temperature**2 if times_t2 else 1.0
    loss = factor * kl_divergence(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    name = "T² · KL(teacher ‖ student)" if times_t2 else "KL(teacher ‖ student)"
    return {
        "entropy of the teacher (nats)": entropy(teacher, temperature).item(),
        f"{name} (nats)": loss.item(),
        "size of its gradient (per unit of logit)": gradient.norm().item(),
    }


# --- losses -------------------------------------------------------------------------------------


def loss_explorer() -> Explorer:
    """Move a student's logits and watch CE, both KL divergences and the gradient p_s − p_t."""

    def state(teacher: str, logits: Mapping[str, float]) -> Bars:
        z_t, z_s = as_tensor(PRESETS[teacher])[None], as_tensor(list(logits.values()))[None]
        losses = {
            "H(p_t)": entropy(z_t).item(),
            "CE": soft_cross_entropy(z_s, z_t).item(),
            "KL(t ‖ s)": kl_divergence(z_s, z_t).item(),
            "KL(s ‖ t)": reverse_kl_divergence(z_s, z_t).item(),
        }
        return Bars(soften(z_t)[0], soften(z_s)[0], losses)

    def view(teacher: str, **logits: float) -> str:
        bars = state(teacher, logits)
        rows = _pairs(LETTERS, bars.teacher, bars.student, gradient=bars.student - bars.teacher)
        return rows + _readings({f"{name} (nats)": value for name, value in bars.losses.items()})

    def still(teacher: str, **logits: float) -> ReportFigure:
        return plot_losses(state(teacher, logits), LETTERS)

    controls: dict[str, widgets.Widget] = {
        "teacher": widgets.Dropdown(options=list(PRESETS), description="teacher", style=LABELLED)
    }
    for letter in LETTERS:
        controls[f"z_{letter}"] = widgets.FloatSlider(
            value=0.0, min=-5, max=5, step=0.1, description=f"student z_{letter}", style=LABELLED
        )
    return Explorer(controls, view, still)


# --- attention ----------------------------------------------------------------------------------


def attention_viewer(
    texts: Sequence[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Explorer:
    """Look at a model's attention: pick a text, a block and a head.

    Args:
        texts: One or more.
        model: An encoder classifier.
        tokenizer: Its tokenizer.
    """
    layers = [f"layer.{k}" for k in range(model.config.num_hidden_layers)]
    known: dict[str, tuple[dict[str, Tensor], list[str]]] = {}

    def look(text: str, layer: str) -> tuple[Tensor, list[str]]:
        if text not in known:
            batch = tokenizer([text], return_tensors="pt").to(model.device)
            features = {name: f"attentions.{name}" for name in layers}
            with torch.no_grad():
                found = observe(model, batch, features.values())
            tokens = [
                str(tokenizer.convert_ids_to_tokens(i)) for i in batch["input_ids"][0].tolist()
            ]
            maps = {name: found[feature][0].cpu() for name, feature in features.items()}
            known[text] = maps, tokens
        maps, tokens = known[text]
        return maps[layer], tokens

    def view(text: str, layer: str, head: int) -> str:
        weights, tokens = look(text, layer)
        title = f"{layer}, head {head}"
        return plot_attention(weights[head], tokens, title=title)._repr_html_()

    def still(text: str, layer: str, head: int) -> ReportFigure:
        weights, tokens = look(text, layer)
        return plot_heads(weights, tokens, title=f"All heads of {layer}")

    controls = {
        "text": widgets.Dropdown(
            options=list(texts), description="text", layout=WIDE, style=LABELLED
        ),
        "layer": widgets.Dropdown(options=layers, description="block", style=LABELLED),
        "head": widgets.IntSlider(
            min=0, max=model.config.num_attention_heads - 1, description="head", style=LABELLED
        ),
    }
    return Explorer(controls, view, still)


# --- layer maps ---------------------------------------------------------------------------------


def layer_map_explorer(
    similarity: Tensor,
    student_layers: Sequence[str],
    teacher_layers: Sequence[str],
    maps: Mapping[str, Mapping[str, str]],
) -> Explorer:
    """Lay layer maps over a heat map of similarities: those given by name, or one's own.

    Args:
        similarity: [student layers, teacher layers], from 0 to 1.
        student_layers, teacher_layers: Their names, in order.
        maps: By name: student layer → teacher layer. One's own begins as the first of them.

    Raises:
        UserError: A map names a layer that is not there.
    """
    for known in maps.values():
        layer_map_cells(student_layers, teacher_layers, known)
    first = next(iter(maps.values()))

    def chosen(name: str, own: Mapping[str, str]) -> Mapping[str, str]:
        return maps.get(name, {ours: theirs for ours, theirs in own.items() if theirs != UNMAPPED})

    def draw(name: str, own: Mapping[str, str]) -> ReportFigure:
        layer_map = chosen(name, own)
        title = f"The map “{name}”"
        return plot_layer_map(similarity, student_layers, teacher_layers, layer_map, title=title)

    def view(layer_map: str, **own: str) -> str:
        cells = layer_map_cells(student_layers, teacher_layers, chosen(layer_map, own))
        read = {
            f"{student_layers[i]} ↦ {teacher_layers[k]}": similarity[i, k].item() for i, k in cells
        }
        mean = {"mean of the pairs": sum(read.values()) / len(read)} if read else {}
        return draw(layer_map, own)._repr_html_() + _readings(read | mean)

    def still(layer_map: str, **own: str) -> ReportFigure:
        return draw(layer_map, own)

    which = widgets.Dropdown(options=[*maps, OWN_MAP], description="map", style=LABELLED)
    pickers = {
        layer: widgets.Dropdown(
            options=[UNMAPPED, *teacher_layers],
            value=first.get(layer, UNMAPPED),
            description=layer,
            disabled=True,
            style=LABELLED,
        )
        for layer in student_layers
    }

    def hand_over(change: Mapping[str, Any]) -> None:
        for picker in pickers.values():
            picker.disabled = change["new"] != OWN_MAP

    which.observe(hand_over, names="value")
    return Explorer({"layer_map": which, **pickers}, view, still)


# --- report card --------------------------------------------------------------------------------


def report_viewer(report: Mapping[str, Any]) -> Explorer:
    """Leaf through a report card, section by section, the headline above each.

    Args:
        report: A complete report.
    """
    sections = html_sections(report)
    said = f"<p><b>{html.escape(headline(report))}</b></p>"

    def view(section: str) -> str:
        return f"{REPORT_STYLE}<div class='report-card'>{said}{sections[section]}</div>"

    def still(section: str) -> ReportFigure:
        return plot_students(report)  # type: ignore[return-value]

    controls = {
        "section": widgets.ToggleButtons(
            options=list(sections), value="Results", style={"button_width": "auto"}
        )
    }
    return Explorer(controls, view, still)


# --- bars as HTML -------------------------------------------------------------------------------
# Drawn as HTML because it is redrawn at every step of a slider, and because text can be read aloud.


def _bars(classes: Sequence[str], teacher: Tensor, student: Tensor, temperature: float) -> str:
    return _pairs(classes, soften(teacher, temperature), soften(student, temperature))


def _pairs(
    classes: Sequence[str], teacher: Tensor, student: Tensor, gradient: Tensor | None = None
) -> str:
    """A row a class: the teacher's bar above the student's, and the gradient as an arrow."""
    cell = "style='padding:1px 12px 1px 0;text-align:left'"
    head = ["class", "", "teacher", "student", *([] if gradient is None else ["p_s − p_t", "step"])]
    rows = []
    for k, name in enumerate(classes):
        p_t, p_s = float(teacher[k]), float(student[k])
        bars = _bar(p_t, BLUE) + _bar(p_s, ORANGE)
        cells = [html.escape(name), bars, f"{100 * p_t:.1f} %", f"{100 * p_s:.1f} %"]
        if gradient is not None:
            cells += [f"{float(gradient[k]):+.3f}".replace("-", "−"), _step(float(gradient[k]))]
        rows.append("<tr>" + "".join(f"<td {cell}>{c}</td>" for c in cells) + "</tr>")
    heads = "".join(f"<th scope='col' {cell}>{h}</th>" for h in head)
    legend = (
        f"<span style='color:{BLUE}'>■</span> teacher &nbsp; "
        f"<span style='color:{ORANGE}'>■</span> student"
    )
    if gradient is not None:
        legend += " &nbsp; step: which way a step of gradient descent moves the student's logit"
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table><p>{legend}</p>"


def _bar(share: float, colour: str) -> str:
    return (
        f"<div style='width:16em;height:9px;margin:1px 0'><div aria-hidden='true' "
        f"style='width:{100 * share:.2f}%;height:9px;background:{colour}'></div></div>"
    )


def _step(gradient: float) -> str:
    if abs(gradient) < 0.005:
        return "–"
    arrow, word = ("▼", "down") if gradient > 0 else ("▲", "up")
    return f"{arrow * min(5, 1 + int(10 * abs(gradient)))} {word}"


def _readings(values: Mapping[str, float]) -> str:
    items = "".join(
        f"<li>{html.escape(name)}: <b>{value:.4f}</b></li>" for name, value in values.items()
    )
    return f"<ul aria-live='polite'>{items}</ul>"
