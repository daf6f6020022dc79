"""Reference answers of lesson 06: how a student begins, learns, and is compared.

What the library trains with is ``distill_lab.training``; these are its ideas by hand, without the
Trainer around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill_lab.losses import distillation_loss


@torch.no_grad()
def init_from_teacher_layers(
    student: PreTrainedModel, teacher: PreTrainedModel, layer_map: Mapping[str, str]
) -> None:
    """Copy a teacher's blocks, and all that fits outside of them, into a student. In place.

    DistilBERT begins so (Sanh et al. 2019, section 3). The library's function of this name leaves
    the word embeddings to another.

    Args:
        student: A BERT classifier, its blocks in ``student.bert.encoder.layer``.
        teacher: Likewise, of the same width.
        layer_map: The teacher block of each student block, ``{"layer.0": "layer.2", …}``, counted
            from 0. A student block that it does not name stays as it is.
    """
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name, value in ours.items():
        if ".encoder.layer." not in name and name in theirs and theirs[name].shape == value.shape:
            value.copy_(theirs[name])
    for block, source in layer_map.items():
        copied = teacher.get_submodule(f"bert.encoder.{source}").state_dict()
        student.get_submodule(f"bert.encoder.{block}").load_state_dict(copied)


def distillation_step(
    student: PreTrainedModel,
    batch: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> float:
    """Let a student take one step towards its teacher; give the loss before the step.

    Args:
        student: A classifier of transformers.
        batch: ``input_ids`` and ``attention_mask``, `[batch, tokens]`; ``labels`` `[batch]`, −100
            where there is none; ``teacher_logits`` `[batch, classes]`.
        optimizer: Of the student's parameters.
        temperature: T of the soft targets.
        alpha: Weight of the soft term.
    """
    batch = {name: value.to(student.device) for name, value in batch.items()}
    logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = distillation_loss(
        logits, batch["teacher_logits"], batch["labels"], temperature=temperature, alpha=alpha
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_epoch(
    student: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> float:
    """Train a student on every batch once; give the mean loss over the examples.

    Args:
        batches: At least one, each as ``distillation_step`` takes it.
    """
    student.train()
    total, examples = 0.0, 0
    for batch in batches:
        loss = distillation_step(student, batch, optimizer, temperature=temperature, alpha=alpha)
        size = len(batch["input_ids"])
        total, examples = total + size * loss, examples + size
    return total / examples


def bootstrap_interval(
    values: Tensor, groups: Tensor, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Give the 95 % percentile interval of a mean, drawing whole groups with replacement.

    Efron and Tibshirani 1993, chapter 13, for the percentile interval; groups rather than examples
    because sentences of one article are right or wrong together.

    Args:
        values: `[examples]`, 1 where a model is right, say.
        groups: int `[examples]`, the article of each example, in any numbering.
        resamples: How often as many groups as there are get drawn.
        seed: Of the draws.
    """
    _, group = np.unique(groups.numpy(), return_inverse=True)
    sums, sizes = np.bincount(group, weights=values.double().numpy()), np.bincount(group)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(sizes), size=(resamples, len(sizes)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
