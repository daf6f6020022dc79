"""Distillation against TextBrewer and a plain loop: an epoch, and three with the teacher's answers.

Same teacher, same student as it starts, same batches with the same padding, same temperature, same
optimizer and rates; each in the dtype that it takes by itself, and in the same dtype.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import material, plain_loop, textbrewer_peer
from benchmarks.harness import Record, interleaved, rounded, row, speedup
from benchmarks.harness import cost as costs
from benchmarks.material import paragraph, quiet
from distill_lab.devices import dtype_name, moved, pick_device, pick_dtype
from distill_lab.evaluation import evaluate
from distill_lab.knowledge import KnowledgeStore
from distill_lab.tasks import Task
from distill_lab.training import Objective, Schedule, distill

TEMPERATURE = 2.0
EPOCHS = 3

SETUP = """
Every side trains the same `tiny` student ({parameters} parameters, word embeddings by SVD of the
teacher's) from the same weights on the same {examples} sentences of bbc-topics, in the same
batches of {batch_size}, padded alike, at T = {temperature}, with fused AdamW, a linear schedule
(peak rate {learning_rate}, over the first {warmup} of the steps rising), gradients clipped at norm
1, and dropout. Sentences are tokenised before the clock starts. Timed is, on our side, a whole
call of `distill` with an opened store: its checks, the start of the Trainer, the epoch, a
validation pass over {validation} sentences, the checkpoint, and the reading of the best weights.
While it trains, `distill` lays aside the word embeddings that none of the sentences uses; the
peers' optimizers go over all. The peers validate nothing, and only TextBrewer saves weights.
In `vs_textbrewer` each side computes as it comes: ours in {auto}, which `dtype="auto"` takes here,
TextBrewer in float32, since it knows no bfloat16, and its float16 needs NVIDIA's Apex.
`vs_textbrewer_float32` has float32 on both sides, and so has `vs_textbrewer_cached`. TextBrewer is
its `GeneralDistiller`, which asks a live teacher about each batch; `kd_loss_type` is "ce" with
weight T², so that its gradients are ours. `vs_textbrewer_cached` is its `BasicDistiller` with
`is_caching_logits`, the cache filled before the clock starts. `vs_plain_loop` is
`benchmarks/plain_loop.py`, logits in memory, {auto} on both sides.
"""
THREE_SETUP = """
As `distill_epoch`, with {epochs} epochs over the {examples} sentences, and all that the teacher is
asked on the clock: ours first extracts a store; TextBrewer asks its live teacher in each epoch, or
(`vs_textbrewer_cached`) once, to fill its cache. With t for a pass of the teacher and s for an
epoch of the student, in the same dtype, the ratio is 3 (t + s) / (t + 3 s): what extraction saves
is two of three passes of the teacher, and `vs_textbrewer_float32` can say no more than that.
"""
QUALITY_SETUP = """
Macro-F1 on the test split after {epochs} epochs over the {examples} sentences, one run each, in
float32 but for `ours`, which is in {auto}, as it comes. Ours keeps the best epoch by the validation
split, as `distill` does, the others their last.
"""


class Sides(material.Bench):
    """The sides, each of which trains a student of its own and leaves it under a name.

    Args:
        task: As of ``Bench``.
        folder: Likewise.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        super().__init__(task, folder)
        self.device = pick_device()
        self.whole = task
        self.trained: dict[str, PreTrainedModel] = {}

    def batches(self, schedule: Schedule) -> list[list[material.Batch]]:
        """Give each epoch's batches, those that ``distill`` draws."""
        return material.batches(self.data["length"][:], schedule)

    def student(self, name: str) -> PreTrainedModel:
        """Give a fresh student, and keep it under this name for its quality to be looked at."""
        self.trained[name] = moved(material.student(), self.device)
        return self.trained[name]

    def ours(
        self, name: str, store: KnowledgeStore, schedule: Schedule, task: Task | None = None
    ) -> None:
        """Distil by the library."""
        objective = Objective(alpha=1.0, temperature=TEMPERATURE)
        distill(
            self.student(name),
            store,
            task or self.task,
            self.tokenizer,
            objective=objective,
            schedule=schedule,
        )

    def textbrewer(
        self, name: str, schedule: Schedule, answers: textbrewer_peer.Answers | None = None
    ) -> None:
        """Distil by TextBrewer, with a live teacher or on its answers."""
        textbrewer_peer.distill(
            self.student(name),
            self.teacher,
            self.tokens,
            self.batches(schedule),
            self.folder / "textbrewer",
            recipe_of(schedule),
            answers,
        )

    def textbrewer_answers(self, schedule: Schedule) -> textbrewer_peer.Answers:
        """Fill TextBrewer's cache."""
        return textbrewer_peer.ask(
            self.teacher,
            self.tokens,
            self.batches(schedule)[0],
            self.folder / "textbrewer",
            dtype=dtype_of(schedule),
        )

    def plain(self, name: str, logits: Tensor, schedule: Schedule) -> None:
        """Distil by the plain loop."""
        plain_loop.distill(
            self.student(name), self.tokens, logits, self.batches(schedule), recipe_of(schedule)
        )

    def macro_f1(self, name: str) -> float:
        """Say how good a student has become."""
        model = self.trained[name]
        return evaluate(model, self.whole, self.tokenizer, split="test").macro_f1


def recipe_of(schedule: Schedule) -> plain_loop.Recipe:
    """Give a schedule, and the temperature, in the peers' words."""
    return plain_loop.Recipe(
        temperature=TEMPERATURE,
        learning_rate=schedule.learning_rate,
        warmup=schedule.warmup,
        weight_decay=schedule.weight_decay,
        dtype=dtype_of(schedule),
    )


def dtype_of(schedule: Schedule) -> torch.dtype:
    """Give the dtype that a schedule means here."""
    return pick_dtype(pick_device(schedule.device), schedule.dtype)


def measure(options: argparse.Namespace) -> dict[str, Record]:
    """Time an epoch, then three with the extraction; then look at what the students have become."""
    quick = options.quick
    task = material.longer_task(320 if quick else options.sentences)
    repeats = 1 if quick else options.repeats
    auto = pick_dtype(pick_device())
    with TemporaryDirectory() as name:
        sides = Sides(task, Path(name))
        store = sides.extracted(auto)
        logits = store.logits(sides.data["id"][:])
        float32, own = (
            Schedule(epochs=1, dtype="float32"),
            Schedule(epochs=1, dtype=dtype_name(auto)),
        )
        warm_up(replace(float32, max_steps=10), sides, store)
        epoch = one_epoch(sides, store, logits, float32, own, repeats)
        three = three_epochs(sides, float32, own, 1 if quick else options.long_repeats)
        quality = qualities(sides, store, logits, float32, own)
    said = {
        "parameters": f"{sum(p.numel() for p in material.student().parameters()):,}",
        "examples": f"{len(sides.data):,}",
        "validation": len(sides.task.validation),
        "batch_size": own.batch_size,
        "temperature": f"{TEMPERATURE:g}",
        "learning_rate": own.learning_rate,
        "warmup": f"{own.warmup:.0%}",
        "auto": dtype_name(auto),
        "epochs": EPOCHS,
    }
    quality["setup"] = paragraph(QUALITY_SETUP, said)
    return {
        "distill_epoch": {**epoch, "quality": quality, "setup": paragraph(SETUP, said)},
        "distill_three_epochs_with_extraction": {**three, "setup": paragraph(THREE_SETUP, said)},
    }


def warm_up(schedule: Schedule, sides: Sides, store: KnowledgeStore) -> None:
    """Load what each side loads at its first call, with some steps of each."""
    few = Sides(replace(sides.task, transfer=sides.task.transfer.select(range(160))), sides.folder)
    quiet(lambda: few.ours("", store, schedule))()
    quiet(lambda: few.textbrewer("", schedule))()
    quiet(lambda: few.plain("", store.logits(few.data["id"][:]), schedule))()


def one_epoch(
    sides: Sides,
    store: KnowledgeStore,
    logits: Tensor,
    float32: Schedule,
    own: Schedule,
    repeats: int,
) -> Record:
    """Time an epoch of each side."""
    answers = sides.textbrewer_answers(float32)
    seconds = interleaved(
        {
            "ours_float32": quiet(partial(sides.ours, "ours_float32", store, float32)),
            "textbrewer": quiet(partial(sides.textbrewer, "textbrewer", float32)),
            "textbrewer_cached": quiet(
                partial(sides.textbrewer, "textbrewer_cached", float32, answers)
            ),
            "ours": quiet(partial(sides.ours, "ours", store, own)),
            "plain_loop": quiet(partial(sides.plain, "plain_loop", logits, own)),
        },
        repeats,
        warm_up=False,
    )
    as_it_comes, float32_too, theirs = (
        seconds[name] for name in ("ours", "ours_float32", "textbrewer")
    )
    return {
        "vs_textbrewer": speedup(as_it_comes, theirs, at_least=3.8, aim=6.0),
        "vs_textbrewer_float32": speedup(float32_too, theirs),
        "vs_textbrewer_cached": speedup(float32_too, seconds["textbrewer_cached"]),
        "vs_plain_loop": costs(as_it_comes, seconds["plain_loop"], at_most=1.05),
    }


def three_epochs(sides: Sides, float32: Schedule, own: Schedule, repeats: int) -> Record:
    """Time three epochs, with all that the teacher is asked."""
    float32, own = replace(float32, epochs=EPOCHS), replace(own, epochs=EPOCHS)

    def ours(name: str, schedule: Schedule) -> None:
        sides.ours(name, sides.extracted(dtype_of(schedule)), schedule)

    def textbrewer_cached() -> None:
        sides.textbrewer("textbrewer_cached", float32, sides.textbrewer_answers(float32))

    seconds = interleaved(
        {
            "ours_float32": quiet(partial(ours, "ours_float32", float32)),
            "textbrewer": quiet(partial(sides.textbrewer, "textbrewer", float32)),
            "textbrewer_cached": quiet(textbrewer_cached),
            "ours": quiet(partial(ours, "ours", own)),
        },
        repeats,
        warm_up=False,
    )
    return {
        "vs_textbrewer": speedup(seconds["ours"], seconds["textbrewer"], at_least=2.5),
        "vs_textbrewer_float32": speedup(seconds["ours_float32"], seconds["textbrewer"]),
        "vs_textbrewer_cached": speedup(seconds["ours_float32"], seconds["textbrewer_cached"]),
    }


def qualities(
    sides: Sides, store: KnowledgeStore, logits: Tensor, float32: Schedule, own: Schedule
) -> dict[str, Any]:
    """Give each student's macro-F1 after three epochs; TextBrewer's was trained just before."""
    float32, own = replace(float32, epochs=EPOCHS), replace(own, epochs=EPOCHS)
    quiet(lambda: sides.ours("ours", store, own, sides.whole))()
    quiet(lambda: sides.ours("ours_float32", store, float32, sides.whole))()
    quiet(lambda: sides.plain("plain_loop", logits, float32))()
    names = ("ours", "ours_float32", "textbrewer", "plain_loop")
    return {"test_macro_f1": {name: rounded(sides.macro_f1(name)) for name in names}}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the row's own options."""
    parser.add_argument("--sentences", type=int, default=6400, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds of one epoch")
    parser.add_argument(
        "--long-repeats", type=int, default=2, metavar="N", help="… of three epochs"
    )


if __name__ == "__main__":
    row(measure, arguments=arguments)
