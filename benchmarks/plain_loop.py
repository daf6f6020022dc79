"""Loops that need torch alone, as one would write them by hand for this one purpose.

They know nothing of ``distill_lab``: token ids as lists, teacher's logits as a tensor in memory, no
validation, no checkpoints, no checks, no progress bar. What costs nothing but a line is in them:
the fused AdamW, no weight decay of biases and norms, clipped gradients, autocast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Recipe:
    """What every side is trained by.

    Attributes:
        temperature: T of the soft targets.
        learning_rate: Peak rate.
        warmup: Share of the steps over which the rate rises; then it falls to 0 in a line.
        weight_decay: Of matrices.
        dtype: Of autocast around the forward passes; float32: none.
    """

    temperature: float
    learning_rate: float
    warmup: float
    weight_decay: float
    dtype: torch.dtype = torch.float32


def distill(
    student: Any,
    tokens: Tokens,
    teacher_logits: Tensor,
    epochs: Sequence[Sequence[Sequence[int]]],
    recipe: Recipe,
) -> list[float]:
    """Train a student on stored logits, in place.

    Args:
        student: A classifier of ``transformers``; the work is done where it lies.
        tokens: Token ids of each sentence.
        teacher_logits: Of each sentence, [sentences, classes].
        epochs: For each epoch its batches, each the places of its sentences.
        recipe: How; the loss is T² · KL(teacher ‖ student) at its temperature T.

    Returns:
        The loss of each step.
    """
    device, temperature, dtype = student.device, recipe.temperature, recipe.dtype
    soft_targets = F.log_softmax(teacher_logits.to(device) / temperature, -1)
    optimizer = adamw(student.parameters(), recipe.learning_rate, recipe.weight_decay)
    rate = LambdaLR(optimizer, linear(sum(map(len, epochs)), recipe.warmup))
    losses = []
    student.train()
    for batch in (batch for epoch in epochs for batch in epoch):
        inputs = padded([tokens[i] for i in batch], device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = student(**inputs).logits
        log_probabilities = F.log_softmax(logits.float() / temperature, -1)
        loss = temperature**2 * F.kl_div(
            log_probabilities, soft_targets[batch], reduction="batchmean", log_target=True
        )
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@torch.no_grad()
def extract(
    teacher: Any,
    tokens: Tokens,
    file: Path,
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Ask a teacher about each sentence and save its logits, in the order of the sentences.

    Sentences of similar length go together, the longest first, so that little is padding.

    Returns:
        [sentences, classes], float32, on the CPU.
    """
    teacher.eval()
    device = teacher.device
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    answers = []
    for k in range(0, len(order), batch_size):
        inputs = padded([tokens[i] for i in order[k : k + batch_size]], device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            answers.append(teacher(**inputs).logits.float())
    logits = torch.empty_like(found := torch.cat(answers).cpu())
    logits[order] = found
    torch.save(logits, file)
    return logits


def padded(rows: Tokens, device: torch.device) -> dict[str, Tensor]:
    """Make ``input_ids`` and ``attention_mask``, [rows, tokens]; BERT's padding is token 0."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> AdamW:
    """Give the optimizer; biases and norms, all of one dimension, do not decay."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.dim() == 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate, eps=1e-6, fused=True)


def linear(steps: int, warmup: float) -> Any:
    """Give the factor of the rate at a step: up over the first, then down to 0, in lines."""
    rising = math.ceil(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return step / max(1, rising)
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor
