"""Reference answers of lesson 05 that the library has in another shape.

The library's own are ``distill_lab.knowledge.extract``, which stores what a teacher says on disk,
and ``distill_lab.models.weights_fingerprint``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def extract_logits(
    teacher: PreTrainedModel, batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Ask a teacher about every text once and give its logits by the texts' ids.

    Args:
        teacher: A classifier of transformers. It is put to sleep (evaluation mode) and stays so.
        batches: Each has ``id``, as many texts' names as there are rows, and ``input_ids`` and
            ``attention_mask``, `[batch, tokens]`.

    Returns:
        float32 logits `[classes]` by id, on the CPU.
    """
    teacher.eval()  # always: teacher.training tells of the outermost module alone
    found: dict[str, Tensor] = {}
    for batch in batches:
        logits = teacher(
            input_ids=batch["input_ids"].to(teacher.device),
            attention_mask=batch["attention_mask"].to(teacher.device),
        ).logits
        found.update(zip(batch["id"], logits.float().cpu(), strict=True))
    return found


def fingerprint(weights: Mapping[str, Tensor], settings: Mapping[str, str | int | float]) -> str:
    """Give the SHA-256 of all that a teacher's answers depend on; 64 hex digits.

    Neither the order of the two dictionaries nor how a tensor lies in memory matters.

    Args:
        weights: The teacher's state dict.
        settings: What else the answers depend on, such as ``{"max_length": 128}``.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        tensor = value.detach().cpu().contiguous()
        # Shape and dtype say where this tensor's bytes end, so no two dicts give the same stream.
        header = [name, list(tensor.shape), str(tensor.dtype)]
        digest.update(json.dumps(header).encode())
        # Viewed as bytes, because numpy has no bfloat16; flat, because a scalar has no such view.
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(dict(settings), sort_keys=True).encode())
    return digest.hexdigest()
