"""Teacher and student answering: in torch, as ONNX and as int8, one sentence or 32 at a time.

``python -m benchmarks.inference [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks import material
from benchmarks.harness import interleaved, rounded, row, speedup
from distill_lab.classroom import trained_student
from distill_lab.devices import device_name
from distill_lab.evaluation import accuracy_and_macro_f1
from distill_lab.export import OnnxClassifier, export_onnx, quantize_int8
from distill_lab.knowledge import model_inputs, take_rows

Classifier = Callable[[Mapping[str, Any]], torch.Tensor]
Batches = list[dict[str, torch.Tensor]]
SIZES = (1, 32)
EXAMPLES, REPEATS = 640, 5
SETUP = (
    "The fine-tuned teacher and its distilled student of 2 layers × 128, each as the torch model "
    "(eager, float32), as the ONNX model that `distill-lab export` writes, and as its int8 form, "
    "run by onnxruntime on the CPU with as many threads as torch. All six take turns over the "
    "same first sentences of the test split, as they come, padded to the longest of the batch; "
    "tokenising and padding do not count. Accuracy is on the whole test split, in batches of 32: "
    "an int8 model rounds by the range of a whole batch. Ratios are seconds of the teacher in "
    "torch over seconds of the student, at the same batch size."
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Export both models, time all forms by turns, and let each answer the test split."""
    task, tokenizer = material.task(), material.tokenizer()
    split = "validation" if options.quick else "test"
    data, collate = task.encode(split, tokenizer), task.collator(tokenizer)
    timed_rows = 64 if options.quick else EXAMPLES
    batches = {
        size: [
            model_inputs(collate(take_rows(data, k, min(k + size, timed_rows))))
            for k in range(0, timed_rows, size)
        ]
        for size in SIZES
    }
    every = data.select(range(64)) if options.quick else data
    models = {"teacher": material.teacher(), "student": trained_student()}
    with tempfile.TemporaryDirectory() as folder:
        forms = {
            f"{name}, {form}": classifier
            for name, model in models.items()
            for form, classifier in _forms(model, Path(folder) / name, task.max_length).items()
        }
        repeats = 1 if options.quick else REPEATS
        seconds = {size: _seconds(forms, batches[size], repeats) for size in SIZES}
        latency = {name: _latency(form, batches[1]) for name, form in forms.items()}
        accuracy = {name: _accuracy(form, every, collate) for name, form in forms.items()}
    return {
        "inference": {
            **{
                f"batch_{size}": {
                    name.removeprefix("student, "): speedup(taken[name], taken["teacher, torch"])
                    for name in forms
                    if name.startswith("student")
                }
                for size, taken in seconds.items()
            },
            "forms": {
                name: {
                    f"examples_a_second_at_{size}": rounded(timed_rows / np.median(taken[name]))
                    for size, taken in seconds.items()
                }
                | {f"p{q}_ms": rounded(latency[name][q]) for q in (50, 95)}
                | {"accuracy": rounded(accuracy[name])}
                for name in forms
            },
            "device": {"torch": device_name(models["teacher"].device), "onnxruntime": "cpu"},
            "setup": SETUP,
        }
    }


def _forms(model: PreTrainedModel, folder: Path, max_length: int) -> dict[str, Classifier]:
    """Give a model in its three forms, each from a batch's inputs to its logits."""
    folder.mkdir()
    model.float().eval()
    export_onnx(model, folder / "model.onnx", max_length=max_length)
    quantize_int8(folder / "model.onnx", folder / "model.int8.onnx")

    def in_torch(inputs: Mapping[str, Any]) -> torch.Tensor:
        logits: torch.Tensor = model(**{k: v.to(model.device) for k, v in inputs.items()}).logits
        return logits.cpu()

    return {
        "torch": in_torch,
        "onnx": OnnxClassifier(folder / "model.onnx"),
        "int8": OnnxClassifier(folder / "model.int8.onnx"),
    }


def _seconds(
    forms: Mapping[str, Classifier], batches: Batches, repeats: int
) -> dict[str, list[float]]:
    """Time each form over the batches, by turns."""

    def over(form: Classifier) -> Callable[[], None]:
        @torch.no_grad()
        def work() -> None:
            for batch in batches:
                form(batch)

        return work

    return interleaved({name: over(form) for name, form in forms.items()}, repeats)


@torch.no_grad()
def _latency(form: Classifier, singles: Batches) -> dict[int, float]:
    """Give the median and the 95th percentile of the milliseconds that one sentence takes."""
    milliseconds = []
    for single in singles:
        start = time.perf_counter()
        form(single)  # its logits are on the CPU when it returns
        milliseconds.append(1000 * (time.perf_counter() - start))
    return {q: float(np.percentile(milliseconds, q)) for q in (50, 95)}


@torch.no_grad()
def _accuracy(form: Classifier, data: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> float:
    logits = [
        form(model_inputs(collate(take_rows(data, k, k + 32)))) for k in range(0, len(data), 32)
    ]
    return float(accuracy_and_macro_f1(torch.cat(logits), data["label"][:])["accuracy"])


if __name__ == "__main__":
    row(measure)
