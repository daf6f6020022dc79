"""Train only the word embeddings that the training examples meet.

Most of a small student is its word embeddings, and an optimizer passes over every row of them in
each step, whether it has a gradient or not. A row that no training example meets never has one.
While a model trains, such rows stand aside: gradients, their norm and AdamW's two moments are then
those of the other rows alone, and every weight that learns is the same. What the rows aside miss is
weight decay; they keep their first values, and validation reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from datasets import Dataset

WORTH_IT = 0.9  # where more of the rows are met, there is little to leave out
SLICE = 2**16  # rows of data looked at together


class CompactEmbedding(nn.Module):
    """An embedding in two parts: rows that are met, which learn, and the others, which do not.

    While it trains it knows the met rows only; while it evaluates, all.

    Args:
        full: The embedding to take apart; it is not changed.
        met: Rows that training may ask for, int64 [rows], each once.
    """

    def __init__(self, full: nn.Embedding, met: Tensor) -> None:
        super().__init__()
        aside = torch.ones(full.num_embeddings, dtype=torch.bool)
        aside[met] = False
        order = torch.cat([met, aside.nonzero().flatten()])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        weight = full.weight.detach()
        self.met = nn.Parameter(weight[met.to(weight.device)].clone())
        # No buffers: DistributedDataParallel sends those to all processes in every step.
        others = weight[aside.to(weight.device)].clone()
        self.others = nn.Parameter(others, requires_grad=False)
        # Of each row, where it stands in the met ones followed by the others.
        self.place = nn.Parameter(place.to(weight.device), requires_grad=False)
        self.padding_idx = None if full.padding_idx is None else int(place[full.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Give the rows of the ids: int64 [batch, tokens] → [batch, tokens, width]."""
        rows = self.met if self.training else torch.cat([self.met, self.others])
        return F.embedding(self.place[ids], rows, padding_idx=self.padding_idx)

    @property
    def weight(self) -> Tensor:
        """All rows in their own order, [rows, width], without gradients."""
        return torch.cat([self.met.detach(), self.others])[self.place]


def met_rows(data: Dataset, *also: int | None) -> Tensor:
    """Give the ids that encoded rows hold, and others that are there (padding): int64, sorted."""
    ids = np.array([one for one in also if one is not None], dtype=np.int64)
    column = data.with_format("numpy")["input_ids"]
    for start in range(0, len(data), SLICE):
        ids = np.union1d(ids, np.concatenate(column[start : start + SLICE]))
    return torch.from_numpy(ids)


@contextmanager
def compacted(model: PreTrainedModel, data: Dataset, padding: int | None) -> Iterator[None]:
    """Inside the block, only word embeddings that the data meets are parameters of the model.

    Afterwards, however the block ends, the model has its own embedding again, with what it learnt.
    A model whose embedding is frozen, tied to another layer, of another kind than a bare
    ``nn.Embedding``, or met almost whole is left as it is; so is one that reads no ids.

    Args:
        model: Changed in place.
        data: Encoded training rows.
        padding: The id that fills batches up.
    """
    found = _taken_apart(model, data, padding)
    if found is None:
        yield
        return
    full, compact = found
    model.set_input_embeddings(compact)
    try:
        yield
    finally:
        full.to(compact.met.device)
        with torch.no_grad():
            full.weight.copy_(compact.weight)
        model.set_input_embeddings(full)


def _taken_apart(
    model: PreTrainedModel, data: Dataset, padding: int | None
) -> tuple[nn.Embedding, CompactEmbedding] | None:
    """Give a model's word embedding and its two parts; None where it is to be left as it is."""
    full = model.get_input_embeddings() if "input_ids" in data.column_names else None
    if type(full) is not nn.Embedding:
        return None
    holders = [p is full.weight for m in model.modules() for p in m.parameters(recurse=False)]
    if not full.weight.requires_grad or sum(holders) > 1:
        return None
    if full.max_norm is not None or full.sparse or full.scale_grad_by_freq:
        return None
    met = met_rows(data, padding, full.padding_idx)
    if not 0 < len(met) <= WORTH_IT * full.num_embeddings or int(met[-1]) >= full.num_embeddings:
        return None
    return full, CompactEmbedding(full, met)
