"""Fine-tuning the teacher against the bare ``Trainer`` of transformers."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from benchmarks import material
from benchmarks.harness import Record, cost, interleaved, row
from benchmarks.material import paragraph, quiet
from distill_lab.devices import dtype_name, moved, pick_device, pick_dtype
from distill_lab.knowledge import model_inputs
from distill_lab.models import freeze_layers, load_teacher
from distill_lab.tasks import Task
from distill_lab.training import LengthBucketSampler, Schedule, fine_tune

SCHEDULE = Schedule(epochs=1, learning_rate=2e-4)
SETUP = """
One epoch of the teacher (all-MiniLM-L6-v2 with a new head, embeddings and lower half frozen, as in
the default task) on the same {examples} labelled sentences in the same batches of {batch_size}, in
{dtype}, which is what `dtype="auto"` takes here; tokenised before the clock starts. Ours is a
whole call of `fine_tune`. Theirs makes a `transformers.Trainer` with the same arguments and trains
with it; only its sampler is replaced, so that both go through the same batches in the same order.
Both also validate on {validation} sentences, save a checkpoint, and load it again as the best.
"""


class PlainTrainer(Trainer):
    """The Trainer as it is, but for the order of the rows."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBucketSampler:
        data: Any = self.train_dataset
        return LengthBucketSampler(
            data["length"][:], self.args.train_batch_size, seed=self.args.seed
        )


def train(
    model: PreTrainedModel, task: Task, tokenizer: Any, schedule: Schedule, folder: Path
) -> PlainTrainer:
    """Train a classifier on its labels with the bare Trainer, in place."""
    device = pick_device(schedule.device)
    collate = task.collator(tokenizer)
    trainer = PlainTrainer(
        model,
        TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=schedule.epochs,
            max_steps=schedule.max_steps,
            per_device_train_batch_size=schedule.batch_size,
            per_device_eval_batch_size=4 * schedule.batch_size,
            learning_rate=schedule.learning_rate,
            warmup_steps=schedule.warmup,
            weight_decay=schedule.weight_decay,
            adam_epsilon=1e-6,
            optim="adamw_torch_fused",
            bf16=pick_dtype(device, schedule.dtype) == torch.bfloat16,
            use_cpu=device.type == "cpu",
            seed=schedule.seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_only_model=True,
            load_best_model_at_end=True,
            logging_steps=20,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
        ),
        data_collator=_with_labels(collate),
        train_dataset=task.encode("labelled", tokenizer),
        eval_dataset=task.encode("validation", tokenizer),
    )
    trainer.train()
    return trainer


def _with_labels(collate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        return {**model_inputs(batch), "labels": batch["labels"]}

    return collated


def new_teacher(task: Task) -> PreTrainedModel:
    """Give the teacher as the default task starts with it."""
    set_seed(0)
    model = load_teacher("minilm", label_names=task.label_names)
    half = model.config.num_hidden_layers // 2
    freeze_layers(model, ["embeddings", *(f"layer.{k}" for k in range(half))])
    return moved(model, pick_device())


def measure(options: argparse.Namespace) -> dict[str, Record]:
    """Time both on the same sentences."""
    task = material.task()
    labelled = material.resized(task.labelled, 64 if options.quick else options.sentences)
    task = material.little_validation(replace(task, labelled=labelled))
    tokenizer = material.tokenizer()
    for split in ("labelled", "validation"):
        task.encode(split, tokenizer)
    start = new_teacher(task)
    schedule = replace(SCHEDULE, dtype=dtype_name(pick_dtype(pick_device())))

    def ours(schedule: Schedule = schedule) -> None:
        fine_tune(copy.deepcopy(start), task, tokenizer, schedule=schedule)

    def theirs(schedule: Schedule = schedule) -> None:
        with TemporaryDirectory() as folder:
            train(copy.deepcopy(start), task, tokenizer, schedule, Path(folder))

    for side in (ours, theirs):
        quiet(partial(side, replace(schedule, max_steps=2)))()
    seconds = interleaved(
        {"ours": quiet(ours), "trainer": quiet(theirs)},
        1 if options.quick else options.repeats,
        warm_up=False,
    )
    said = {
        "examples": f"{len(labelled):,}",
        "batch_size": schedule.batch_size,
        "dtype": schedule.dtype,
        "validation": len(task.validation),
    }
    compared = cost(seconds["ours"], seconds["trainer"], at_most=1.02)
    return {"fine_tune": {"vs_trainer": compared, "setup": paragraph(SETUP, said)}}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the row's own options."""
    parser.add_argument("--sentences", type=int, default=3200, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")


if __name__ == "__main__":
    row(measure, arguments=arguments)
