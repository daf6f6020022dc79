"""What the rows share: the task in any size, the teacher, a fresh student, and the batches."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from distill_lab import classroom
from distill_lab.devices import dtype_name
from distill_lab.knowledge import KnowledgeStore, extract
from distill_lab.models import build_student
from distill_lab.tasks import Task
from distill_lab.training import LengthBucketSampler, Schedule

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

task = classroom.task
tokenizer = classroom.tokenizer
teacher = classroom.fine_tuned_teacher

Batch = list[int]  # places of rows in their split
SMALL_VALIDATION = 32  # sentences


# --- the task -----------------------------------------------------------------------------------


def longer_task(examples: int) -> Task:
    """Give bbc-topics with so many transfer sentences, as long on average as all of them.

    Fewer than there are: evenly spaced ones, so that each topic keeps its share. More: each is
    repeated, under a new id (``ID~1``, ``ID~2``, …), as often as any other or once more.
    """
    return replace(task(), transfer=resized(task().transfer, examples))


def resized(data: Dataset, examples: int) -> Dataset:
    """Give so many rows of a split: evenly spaced ones, or all, repeated with new ids."""
    from datasets import Dataset

    there = len(data)
    if examples <= there:
        return data.select(np.arange(examples) * there // examples)
    rows = data.select(np.arange(examples) % there)
    columns = {name: rows[name][:] for name in data.column_names}
    columns["id"] = [
        f"{name}~{k // there}" if k >= there else name for k, name in enumerate(columns["id"])
    ]
    return Dataset.from_dict(columns, features=data.features)


def little_validation(task: Task) -> Task:
    """Cut the validation split to one batch, so that the pass after an epoch costs next to nothing.

    What is compared is the work on the other rows; that pass, no peer makes.
    """
    return replace(task, validation=resized(task.validation, SMALL_VALIDATION))


# --- models -------------------------------------------------------------------------------------


def student() -> PreTrainedModel:
    """Give a ``tiny`` student as it starts: SVD word embeddings, all else drawn from seed 0."""
    return copy.deepcopy(_student())


@cache
def _student() -> PreTrainedModel:
    return build_student(teacher(), "tiny", embeddings="svd", seed=0)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Turn dropout off, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


# --- batches ------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], schedule: Schedule) -> list[list[Batch]]:
    """Give the batches of each epoch, just as ``distill`` and ``fine_tune`` draw them.

    Args:
        lengths: Tokens of each row.
        schedule: Its epochs, batch size and seed count.
    """
    sampler = LengthBucketSampler(list(lengths), schedule.batch_size, seed=schedule.seed)
    epochs = []
    for epoch in range(int(schedule.epochs)):
        sampler.set_epoch(epoch)
        epochs.append(list(_cut(iter(sampler), schedule.batch_size)))
    return epochs


def _cut(places: Iterator[int], size: int) -> Iterator[Batch]:
    while batch := list(islice(places, size)):
        yield batch


class EpochAfterEpoch:
    """Batches that are those of the next epoch each time they are gone through."""

    def __init__(self, epochs: Sequence[Sequence[Batch]]) -> None:
        self.epochs = iter(epochs)
        self.batches = len(epochs[0])

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(next(self.epochs))


# --- a bench to work on -------------------------------------------------------------------------


class Bench:
    """Sentences, tokenised before any clock starts, and a teacher to ask about them.

    Args:
        task: Its transfer split is worked on; of the validation split a batch is left.
        folder: For whatever is written.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.task = little_validation(task)
        self.folder = folder
        self.teacher = teacher()
        self.tokenizer = tokenizer()
        self.data, _ = (self.task.encode(s, self.tokenizer) for s in ("transfer", "validation"))
        self.tokens: list[list[int]] = list(self.data["input_ids"][:])

    def extracted(self, dtype: torch.dtype) -> KnowledgeStore:
        """Ask the teacher about each sentence and store what it says, in a folder of its own."""
        folder = mkdtemp(prefix="store-", dir=self.folder)
        return extract(self.teacher, self.task, self.tokenizer, folder, dtype=dtype_name(dtype))


def quiet(work: Callable[[], object]) -> Callable[[], None]:
    """Give the same work without its progress bars, which peers show too, each in its manner."""

    def silent() -> None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            work()

    return silent


def paragraph(text: str, said: Mapping[str, Any]) -> str:
    """Fill in what was set, and make one line of it."""
    return " ".join(text.format(**said).split())
