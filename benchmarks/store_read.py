"""Reading logits from a store, against reading a bare array by the same ids.

``python -m benchmarks.store_read [--quick] [--out FILE.json]``, in the checkout.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import material
from benchmarks.harness import cost, interleaved, rounded, row
from distill_lab import build_student, extract, load_teacher
from distill_lab.knowledge import take_rows
from distill_lab.quiet import quiet_transformers
from distill_lab.tasks import Task

BATCH = 32
REPEATS = 15
TOKENS = 16  # so that making the store takes less; what is read does not depend on it
GOAL = 2.0
SETUP = (
    "All transfer sentences in random order, in batches of 32; a round reads each once. Ours is "
    "`store(batch)` as the trainer calls it, with the ids and the attention mask: it finds the "
    "rows in a dictionary, compares each example's number of tokens with the stored one, and "
    "gathers the logits, whose shards it lays end to end in memory at the first batch. `vs_array` "
    "is a float32 NumPy array [examples, classes] whose rows are found in a dictionary too, since "
    "batches come with ids, and which is indexed and made a tensor; it compares nothing. "
    "`logits_vs_array` leaves the comparison out here as well (`store.logits(ids)`), and "
    "`vs_rows` spares the array the ids: it gets the numbers of its rows. The store is as "
    "`extract` writes it, in shards of 4,096. An untrained student stands in for the teacher: "
    "what is stored does not change the time."
)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time reading every example in batches, from the store and from the array."""
    task = material.longer_task(640) if options.quick else material.task()
    task = replace(task, max_length=TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        sides = _sides(task, Path(folder))
        seconds = interleaved(sides, 1 if options.quick else REPEATS)
    ours = seconds["store"]
    return {
        "store_read": {
            "vs_array": cost(ours, seconds["array"], at_most=GOAL),
            "logits_vs_array": cost(seconds["logits"], seconds["array"]),
            "vs_rows": cost(ours, seconds["rows"]),
            "examples_a_second": {
                name: rounded(len(task.transfer) / median(taken)) for name, taken in seconds.items()
            },
            "setup": SETUP,
        }
    }


def _sides(task: Task, folder: Path) -> dict[str, Callable[[], None]]:
    """Make the store, the array with the same logits, and the batches; give who reads them how."""
    tokenizer = material.tokenizer()
    with quiet_transformers():
        teacher = load_teacher("minilm", label_names=task.label_names)
        stand_in = build_student(teacher, "tiny", embeddings="random", seed=0)
    store = extract(stand_in, task, tokenizer, folder / "store", dtype="float32")
    data, collate = task.encode("transfer", tokenizer), task.collator(tokenizer)
    array = store.logits(data["id"][:]).numpy().copy()
    row_of = {example: k for k, example in enumerate(data["id"][:])}
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = data.select(order)
    batches = [
        {key: batch[key] for key in ("id", "attention_mask")}
        for k in range(0, len(data), BATCH)
        for batch in [collate(take_rows(shuffled, k, k + BATCH))]
    ]
    rows = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]

    def each(read: Callable[[Any], Any], wanted: list[Any]) -> Callable[[], None]:
        def work() -> None:
            for batch in wanted:
                read(batch)

        return work

    return {
        "store": each(store, batches),
        "array": each(lambda b: torch.from_numpy(array[[row_of[i] for i in b["id"]]]), batches),
        "logits": each(lambda batch: store.logits(batch["id"]), batches),
        "rows": each(lambda here: torch.from_numpy(array[here]), rows),
    }


if __name__ == "__main__":
    row(measure)
