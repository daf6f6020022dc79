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
    ids = np.unique(np.concatenate(data.with_format("numpy")["input_ids"][:]))
    ids = np.union1d(ids, [one for one in also if one is not None])
    return torch.from_numpy(ids.astype(np.int64))


@contextmanager
def compacted(model: PreTrainedModel, data: Dataset, padding: int | None) -> Iterator[None]:
    """Inside the block, only word embeddings that the data meets are parameters of the model.

    Afterwards, however the block ends, the model has its own embedding again, with what it learnt.
    A model whose embedding is frozen, of another kind than ``nn.Embedding``, or met almost whole is
    left as it is; so is one that reads no ids.

    Args:
        model: Changed in place.
        data: Encoded training rows.
        padding: The id that fills batches up.
    """
    full = model.get_input_embeddings() if "input_ids" in data.column_names else None
    if type(full) is not nn.Embedding or not full.weight.requires_grad:
        yield
        return
    met = met_rows(data, padding, full.padding_idx)
    if len(met) > WORTH_IT * full.num_embeddings or int(met[-1]) >= full.num_embeddings:
        yield
        return
    compact = CompactEmbedding(full, met)
    model.set_input_embeddings(compact)
    try:
        yield
    finally:
        full.to(compact.met.device)
        with torch.no_grad():
            full.weight.copy_(compact.weight)
        model.set_input_embeddings(full)
