"""Reference answers of lesson 07: what a student can learn from inside its teacher.

The three losses are those of ``distill_lab.losses``, with the signatures of the exercises: the mask
always there, the projection a plain matrix.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_lab.losses import attention_loss as _attention_loss
from distill_lab.losses import hidden_state_loss as _hidden_state_loss
from distill_lab.losses import relation_loss as _relation_loss


def hidden_state_loss(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor,
    projection: Tensor | None = None,
) -> Tensor:
    """Give the squared difference of hidden states, mean over the width and the unmasked tokens.

    Jiao et al. 2020, TinyBERT, section 3.1; Romero et al. 2015, FitNets, section 2.2.

    Args:
        student_hidden: `[batch, tokens, student width]`.
        teacher_hidden: `[batch, tokens, teacher width]`; no gradient reaches it.
        mask: bool `[batch, tokens]`, true where a token counts.
        projection: W, `[teacher width, student width]`: the student's state x becomes x Wᵀ before
            it is compared. Needed where the widths differ.

    Returns:
        A scalar. What stands under a false entry of the mask, NaN even, does not reach it.
    """
    project = None if projection is None else lambda states: F.linear(states, projection)
    return _hidden_state_loss(student_hidden, teacher_hidden, mask=mask, projection=project)


def attention_loss(student_attention: Tensor, teacher_attention: Tensor, mask: Tensor) -> Tensor:
    """Give KL(teacher ‖ student) of attention maps, mean over heads and unmasked queries.

    Wang et al. 2020, MiniLM, section 3.1. Where the numbers of heads differ, both maps are first
    averaged over their heads.

    Args:
        student_attention: probabilities `[batch, heads, queries, keys]`, the keys of a query
            summing to 1.
        teacher_attention: likewise; the number of heads may differ; no gradient reaches it.
        mask: bool `[batch, tokens]`, true where a token counts, as query and as key.

    Returns:
        A scalar in nats, finite where the student's probability is 0.
    """
    return _attention_loss(student_attention, teacher_attention, mask=mask)


def relation_loss(
    student_states: Tensor, teacher_states: Tensor, mask: Tensor, heads: int
) -> Tensor:
    """Give KL(teacher ‖ student) of token relations, mean over heads and unmasked tokens.

    Queries, keys or values are cut along the width into relation heads A of width d each; their
    relation is softmax(A Aᵀ / √d) over the unmasked tokens. Wang et al. 2021, MiniLMv2,
    section 3.1.

    Args:
        student_states: `[batch, tokens, student width]`.
        teacher_states: `[batch, tokens, teacher width]`; no gradient reaches it.
        mask: bool `[batch, tokens]`, true where a token counts.
        heads: how many relation heads; it divides both widths.

    Returns:
        A scalar in nats.
    """
    return _relation_loss(student_states, teacher_states, mask=mask, heads=heads)


def layer_map(student_layers: int, teacher_layers: int, strategy: str = "even") -> dict[str, str]:
    """Say from which teacher block each student block learns, ``{"layer.0": "layer.2", …}``.

    Blocks are counted from 0; ``layer.k`` is the output of block k, which transformers gives as
    ``hidden_states[k + 1]`` (``hidden_states[0]`` are the embeddings).

    Args:
        student_layers: n, how many blocks the student has.
        teacher_layers: m, how many the teacher has.
        strategy: ``"even"``: block i learns from block ⌈(i + 1) · m / n⌉ − 1, spread evenly, the
            last from the last (the uniform map of Jiao et al. 2020, TinyBERT, sections 3.1 and 4,
            where m is a multiple of n). ``"last"``: from the top n blocks, in order (after
            PKD-Last of Sun et al. 2019, section 3, who leave out the very last block on both
            sides, because it feeds the classifier that learns from the logits anyway; here it is
            mapped too).

    Raises:
        ValueError: More student than teacher blocks, or an unknown strategy.
    """
    n, m = student_layers, teacher_layers
    if n > m:
        raise ValueError(
            f"the student has {n} layers and its teacher {m}: expected no more than the teacher's."
        )
    if strategy == "even":
        chosen = [-(-(i + 1) * m // n) - 1 for i in range(n)]  # −(−a // b) is ⌈a / b⌉, exactly
    elif strategy == "last":
        chosen = list(range(m - n, m))
    else:
        raise ValueError(f"strategy is {strategy!r}: expected 'even' or 'last'.")
    return {f"layer.{i}": f"layer.{k}" for i, k in enumerate(chosen)}
