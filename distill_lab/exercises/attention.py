"""Attention from its parts: the reference answers of lesson 02, in the lesson's order.

Written to be read, not to be fast: ``torch.nn.functional.scaled_dot_product_attention`` computes
the same with less memory. A mask is bool and true where a query *may* look; no row of it is
wholly false. Formulas: Vaswani et al. 2017, arXiv:1706.03762, §3.1-3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

PROJECTIONS = ("query", "key", "value", "output")


def causal_mask(tokens: int) -> Tensor:
    """Give the mask in which a token sees itself and what came before it.

    Returns:
        bool [tokens, tokens]: row = query, column = key, true where key ≤ query.
    """
    position = torch.arange(tokens)
    return position[None, :] <= position[:, None]


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give how much each query looks at each key: softmax of query · key / √width.

    Args:
        query: [..., queries, width].
        key: [..., keys, width].
        mask: bool, broadcastable to [..., queries, keys], true where a query may look.

    Returns:
        [..., queries, keys]; each row sums to 1, and is 0 where the mask is false.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        # Before the softmax, so that the weights that are left still sum to 1.
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Average the values, for each query, by how well their keys match it (eq. 1).

    Args:
        query: [..., queries, width].
        key: [..., keys, width].
        value: [..., keys, value width].
        mask: bool, broadcastable to [..., queries, keys], true where a query may look.

    Returns:
        [..., queries, value width].
    """
    return attention_weights(query, key, mask) @ value


def multi_head_attention(
    x: Tensor,
    context: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Let the tokens of ``x`` look at those of ``context`` through several heads (§3.2.2).

    Args:
        x: [batch, queries, width].
        context: [batch, keys, width]; ``x`` itself for self-attention.
        weights: ``query.weight`` [width, width] and ``query.bias`` [width], likewise ``key``,
            ``value`` and ``output``, in torch's orientation (y = x Wᵀ + b).
        heads: Into how many equal parts the width is split; head h has columns h·d to (h+1)·d.
        mask: bool, broadcastable to [batch, heads, queries, keys], true where one may look.

    Returns:
        [batch, queries, width].

    Raises:
        ValueError: The heads do not divide the width.
    """
    width = x.shape[-1]
    if width % heads:
        raise ValueError(f"width {width} cannot be split into {heads} heads of equal width.")
    query = _split(_linear(x, weights, "query"), heads)
    key = _split(_linear(context, weights, "key"), heads)
    value = _split(_linear(context, weights, "value"), heads)
    attended = scaled_dot_product_attention(query, key, value, mask)
    return _linear(_merge(attended), weights, "output")


def encoder_block(
    x: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Run a block of a Transformer's encoder: look around, then think about each token (§3.1).

    Post-norm, as in the original Transformer and in BERT: LayerNorm(x + attention(x)), then
    LayerNorm(x + FFN(x)), where FFN expands, applies the exact GELU, and contracts.

    Args:
        x: [batch, tokens, width].
        weights: Those of ``multi_head_attention``, and ``attention_norm.weight`` and ``.bias``
            [width], ``expand.weight`` [inner, width] and ``.bias`` [inner], ``contract.weight``
            [width, inner] and ``.bias`` [width], ``output_norm.weight`` and ``.bias`` [width].
        heads: Of the attention.
        mask: As ``multi_head_attention`` takes it.
        eps: Added to the variance in both LayerNorms.

    Returns:
        [batch, tokens, width].
    """
    x = _layer_norm(x + multi_head_attention(x, x, weights, heads, mask), weights, "attention", eps)
    inner = F.gelu(_linear(x, weights, "expand"))
    return _layer_norm(x + _linear(inner, weights, "contract"), weights, "output", eps)


# --- weights of ready-made layers --------------------------------------------------------------


def weights_of_torch_layer(layer: nn.TransformerEncoderLayer) -> dict[str, Tensor]:
    """Give the weights of torch's encoder layer under the names ``encoder_block`` reads."""
    attention: Any = layer.self_attn
    weights = dict(zip(_names("weight"), attention.in_proj_weight.chunk(3), strict=True))
    weights |= dict(zip(_names("bias"), attention.in_proj_bias.chunk(3), strict=True))
    parts = {
        "output": attention.out_proj,
        "attention_norm": layer.norm1,
        "expand": layer.linear1,
        "contract": layer.linear2,
        "output_norm": layer.norm2,
    }
    return weights | _weights_and_biases(parts)


def weights_of_bert_layer(layer: Any) -> dict[str, Tensor]:
    """Give the weights of one of ``model.bert.encoder.layer`` as ``encoder_block`` reads them.

    BERT's eps is not torch's: pass ``eps=model.config.layer_norm_eps``.
    """
    attention = layer.attention.self
    return _weights_and_biases(
        {
            "query": attention.query,
            "key": attention.key,
            "value": attention.value,
            "output": layer.attention.output.dense,
            "attention_norm": layer.attention.output.LayerNorm,
            "expand": layer.intermediate.dense,
            "contract": layer.output.dense,
            "output_norm": layer.output.LayerNorm,
        }
    )


def _names(kind: str) -> list[str]:
    return [f"{name}.{kind}" for name in PROJECTIONS[:3]]


def _weights_and_biases(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": getattr(part, kind)
        for name, part in parts.items()
        for kind in ("weight", "bias")
    }


def _linear(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    projected: Tensor = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
    return projected


def _layer_norm(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    weight, bias = weights[f"{name}_norm.weight"], weights[f"{name}_norm.bias"]
    normalised: Tensor = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return normalised


def _split(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, width] to [batch, heads, tokens, head width]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[batch, heads, tokens, head width] to [batch, tokens, width]."""
    return x.transpose(1, 2).flatten(-2)
