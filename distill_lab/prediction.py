"""Classify new texts with a finished run's teacher and distilled student, side by side."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel

from distill_lab.devices import moved, pick_device
from distill_lab.errors import UserError
from distill_lab.evaluation import predict_logits
from distill_lab.files import written_whole
from distill_lab.models import load_teacher, load_tokenizer
from distill_lab.pipeline import Settings, read_settings
from distill_lab.report import load_report
from distill_lab.tasks import TextCollator, encode_texts


class Pair(NamedTuple):
    """A run's teacher and one of its distilled students, each with its tokenizer."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    processor: Any
    student_processor: Any  # another where the student's vocabulary is pruned
    label_names: list[str]
    max_length: int


class Predictions(NamedTuple):
    """Probabilities of each text, float32 [texts, classes], of both models."""

    teacher: Tensor
    student: Tensor


def load_pair(run: Path, *, seed: int | None = None) -> Pair:
    """Load a finished run's teacher and the distilled student of a seed (the first if None).

    Raises:
        UserError: The folder is no run, the run is not finished, or has no such seed.
    """
    if not (run / "config.toml").is_file():
        raise UserError(
            f"{run} is no run's folder (it has no config.toml); make one: distill-lab run"
        )
    settings = Settings(**read_settings(run / "config.toml"))
    unfinished = UserError(f"the run {run} is not finished; repeat its distill-lab run to go on")
    try:
        report = load_report(run)
    except UserError:
        raise unfinished from None
    if report["settings"] != settings.given:  # it was begun again with others
        raise unfinished
    seeds = report["students"]["distilled"]["seeds"]
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UserError(f"the run has no student of seed {seed}; there are {seeds}")
    label_names = [str(name) for name in report["task"]["classes"]]
    # With nothing but labelled examples the two distilled students are one.
    places = [
        run / "students" / f"{name}-seed{seed}" for name in ("distilled", "distilled_same_data")
    ]
    student = next((place for place in places if place.is_dir()), None)
    if student is None or not (run / "teacher").is_dir():
        raise unfinished
    return Pair(
        teacher=load_teacher(str(run / "teacher"), label_names=label_names),
        student=load_teacher(str(student), label_names=label_names),
        processor=load_tokenizer(str(run / "teacher")),
        student_processor=load_tokenizer(str(student)),
        label_names=label_names,
        max_length=settings.max_length,
    )


def predict_texts(pair: Pair, texts: Sequence[str], *, device: str = "auto") -> Predictions:
    """Classify texts with both models, in float32.

    Raises:
        UserError: A text is empty.
    """
    place = pick_device(device)

    def classify(what: str, model: PreTrainedModel, processor: Any) -> Tensor:
        data = encode_texts(texts, processor, pair.max_length)
        collate = TextCollator(processor.pad_token_id, processor.padding_side)
        return predict_logits(moved(model, place), data, collate, what=what).softmax(-1)

    return Predictions(
        teacher=classify("teacher", pair.teacher, pair.processor),
        student=classify("student", pair.student, pair.student_processor),
    )


def prediction_table(
    texts: Sequence[str], label_names: Sequence[str], predictions: Predictions
) -> Table:
    """Lay out predictions for the terminal: a block a text, a line a class."""
    table = Table("Text", "Class")
    for name in ("Teacher", "Student"):
        table.add_column(name, justify="right", no_wrap=True)
    for k, text in enumerate(texts):
        teacher, student = predictions.teacher[k], predictions.student[k]
        for row, c in enumerate(teacher.argsort(descending=True).tolist()):
            table.add_row(
                Text(text if row == 0 else ""),  # Text, as a user's brackets are no markup
                Text(label_names[c]),
                _percent(teacher, c),
                _percent(student, c),
            )
        table.add_section()
    return table


def _percent(probabilities: Tensor, c: int) -> Text:
    """Print a probability, bold where it is the model's choice."""
    chosen = int(probabilities.argmax()) == c
    return Text(f"{100 * probabilities[c].item():.1f} %", style="bold" if chosen else "")


def write_csv(
    path: Path, texts: Sequence[str], label_names: Sequence[str], predictions: Predictions
) -> None:
    """Write texts, classes and probabilities of both models, whole or not at all."""
    header = ["text", "teacher", "student"]
    header += [f"{who}_{name}" for who in ("teacher", "student") for name in label_names]
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(header)
        for k, text in enumerate(texts):
            both = (predictions.teacher[k], predictions.student[k])
            choices = [label_names[int(p.argmax())] for p in both]
            writer.writerow([text, *choices, *(f"{v:.6f}" for p in both for v in p.tolist())])
