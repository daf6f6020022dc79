"""Attention in the open: a forward pass in which the maps are formed, and given before dropout.

The fused kernels never form the maps, and transformers' own "eager" attention gives them *after*
dropout: while a model trains, a tenth of the entries are then exact zeros, whose logarithm no loss
on distributions can use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "distill_lab_maps"


@contextmanager
def attention_in_the_open(model: PreTrainedModel) -> Iterator[None]:
    """Let a model form its attention maps inside the block, and compute as before after it.

    A model that does not follow transformers' attention interface is left as it is.
    """
    if not model._can_set_attn_implementation():  # setting it would only warn, at every pass
        yield
        return
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Attend, with queries, keys and values [batch, heads, tokens, width of a head].

    Returns:
        What is attended to, [batch, tokens, heads, width of a head], through the maps after
        dropout; and the maps before it, [batch, heads, tokens, tokens].
    """
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if attention_mask is not None:
        scores = scores + attention_mask
    maps = scores.softmax(-1)
    attended = F.dropout(maps, dropout, module.training) @ value
    return attended.transpose(1, 2).contiguous(), maps


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)
