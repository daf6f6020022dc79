"""What bounds the main job: bare matrix products, and a student's step, with the optimizer's part.

``python -m benchmarks.limits [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from benchmarks import material
from benchmarks.harness import rounded, row
from distill_lab import classroom
from distill_lab.compact import compacted
from distill_lab.devices import (
    autocast,
    dtype_name,
    moved,
    on_device,
    pick_device,
    pick_dtype,
    synchronize,
)
from distill_lab.knowledge import take_rows
from distill_lab.training import DistillationModel, Objective, Schedule

TOKENS = 860  # of a batch of 32 sentences
SHAPES = {"teacher": (384, 1536), "student": (128, 512)}  # of the products with most operations


class Way(NamedTuple):
    """How a step is made: by the fused AdamW, over the word embeddings met, with dropout."""

    fused: bool
    met: bool
    dropout: bool


WAYS = {
    "AdamW in a loop": Way(fused=False, met=False, dropout=True),
    "fused": Way(fused=True, met=False, dropout=True),
    "fused, rows met": Way(fused=True, met=True, dropout=True),
    "fused, rows met, no dropout": Way(fused=True, met=True, dropout=False),
}
SETUP = """
`matrix products`: GFLOP/s of `linear` on {tokens} tokens with the feed-forward weights of the
teacher and of the tiny student, nothing else. `student step`: the median milliseconds of a step on
32 sentences of the split from stored logits (forward, backward, clipping, AdamW), in {dtype}, and
AdamW's part of it: its loop over the parameters, its fused form, and that over the word embeddings
alone that the split's texts have, as `distill` trains them; the last once more without dropout.
"""


class Step(NamedTuple):
    """Milliseconds of a step, and of the optimizer in it."""

    whole: float
    optimizer: float


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time bare products, then steps in three ways on two splits."""
    steps = 4 if options.quick else 60
    seconds = 0.1 if options.quick else 2.0
    products = {
        name: {
            dtype_name(dtype): rounded(gflops(*shape, dtype, seconds))
            for dtype in (torch.float32, torch.bfloat16)
        }
        for name, shape in SHAPES.items()
    }
    taken = {
        f"{split}, {name}": timed_steps(split, way, steps)
        for split in ("transfer", "labelled")
        for name, way in WAYS.items()
    }
    return {
        "limits": {
            "matrix_products": products,
            "student_step": {
                name: {"step_ms": rounded(step.whole), "optimizer_ms": rounded(step.optimizer)}
                for name, step in taken.items()
            },
            "setup": material.paragraph(
                SETUP, {"tokens": TOKENS, "dtype": dtype_name(pick_dtype(pick_device()))}
            ),
        }
    }


def gflops(inputs: int, outputs: int, dtype: torch.dtype, seconds: float) -> float:
    """Give the rate at which the machine multiplies tokens with weights of this shape."""
    device = pick_device()
    tokens = torch.randn(TOKENS, inputs, device=device, dtype=dtype)
    weights = torch.randn(outputs, inputs, device=device, dtype=dtype)
    linear(tokens, weights)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        linear(tokens, weights)
        synchronize(device)
        count += 1
    return 2e-9 * TOKENS * inputs * outputs * count / spent


def timed_steps(split: str, way: Way, steps: int) -> Step:
    """Train a fresh student for some steps; the first tenth does not count."""
    device = pick_device()
    dtype = pick_dtype(device)
    task, tokenizer = material.task(), material.tokenizer()
    data = task.encode(split, tokenizer)
    student = moved(material.student(), device).train()
    if not way.dropout:
        material.without_dropout(student)
    with compacted(student, data, tokenizer.pad_token_id) if way.met else nullcontext():
        model = DistillationModel(student, Objective()).train()
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = AdamW(learning, lr=2e-3, eps=1e-6, fused=way.fused, foreach=False)
        whole, part = [], []
        for batch in _batches(data, task.collator(tokenizer), steps):
            start = time.perf_counter()
            with autocast(device, dtype):
                loss = model(batch)["loss"]
            loss.backward()
            clip_grad_norm_(learning, 1.0)
            before = time.perf_counter()
            optimizer.step()
            after = time.perf_counter()
            optimizer.zero_grad()
            whole.append(time.perf_counter() - start)
            part.append(after - before)
    warm = steps // 10
    return Step(1e3 * median(whole[warm:]), 1e3 * median(part[warm:]))


def _batches(data: Any, collate: Any, steps: int) -> Iterator[dict[str, Any]]:
    store, device = classroom.stored_knowledge(), pick_device()
    lengths = data["length"][:]
    [order] = material.batches(lengths, Schedule(epochs=1))
    for places in islice(order, steps):
        batch = collate(take_rows(data.select(places), 0, len(places)))
        batch |= store(batch)
        yield on_device(batch, device)


if __name__ == "__main__":
    row(measure)
