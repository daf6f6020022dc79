"""The reference answers of lesson 02 compute what torch, transformers and scikit-learn compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from distill_lab.evaluation import accuracy_and_macro_f1
from distill_lab.exercises.attention import (
    attention_weights,
    causal_mask,
    encoder_block,
    multi_head_attention,
    scaled_dot_product_attention,
    weights_of_bert_layer,
    weights_of_torch_layer,
)
from distill_lab.exercises.lesson_01 import compression, retention
from distill_lab.exercises.lesson_02 import macro_f1

BATCH, TOKENS, WIDTH, HEADS, INNER = 3, 7, 24, 4, 40


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def padding_mask() -> Tensor:
    """True for the real tokens of three texts of 7, 4 and 1 tokens, [batch, tokens]."""
    return torch.arange(TOKENS)[None, :] < torch.tensor([[7], [4], [1]])


def torch_layer() -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True
    )
    draw_anew(layer)
    return layer


def draw_anew(module: nn.Module) -> None:
    """Draw every parameter, so that no bias is 0 and no norm's weight 1."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean="norm" in name.lower() and "weight" in name, std=0.3)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_causal_mask_is_the_lower_triangle(tokens: int) -> None:
    assert torch.equal(causal_mask(tokens), torch.ones(tokens, tokens).tril().bool())


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_attention_is_torchs(leading: tuple[int, ...]) -> None:
    query, key, value = (torch.randn(*leading, n, w) for n, w in ((5, 8), (6, 8), (6, 3)))
    mask = torch.rand(5, 6) < 0.5
    mask[:, 0] = True
    for seen in (None, mask):
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        close(scaled_dot_product_attention(query, key, value, seen), expected)


def test_causal_attention_is_torchs() -> None:
    query, key, value = torch.randn(3, 2, 5, 8).unbind()
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    close(scaled_dot_product_attention(query, key, value, causal_mask(5)), expected)


def test_attention_weights_sum_to_one_and_are_zero_where_masked() -> None:
    query, key = 1e4 * torch.randn(2, BATCH, TOKENS, 8)
    mask = padding_mask()[:, None, :]
    weights = attention_weights(query, key, mask)
    close(weights.sum(-1), torch.ones(BATCH, TOKENS))
    assert not weights[~mask.expand_as(weights)].any()


def test_attention_from_a_worked_example() -> None:
    # Scores ln 3 and 0 after the scale, so the weights are 3/4 and 1/4.
    query = torch.tensor([[2 * math.log(3), 0.0, 0.0, 0.0]])
    key = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    value = torch.tensor([[4.0, 0.0], [0.0, 8.0]])
    close(scaled_dot_product_attention(query, key, value), torch.tensor([[3.0, 2.0]]))


def test_multi_head_attention_is_torchs() -> None:
    layer = torch_layer()
    weights = weights_of_torch_layer(layer)
    x, context = torch.randn(BATCH, 5, WIDTH), torch.randn(BATCH, TOKENS, WIDTH)
    mask = padding_mask()
    expected, maps = layer.self_attn(
        x, context, context, key_padding_mask=~mask, average_attn_weights=False
    )
    assert maps.shape == (BATCH, HEADS, 5, TOKENS)
    close(multi_head_attention(x, context, weights, HEADS, mask[:, None, None, :]), expected)


def test_multi_head_attention_takes_a_mask_for_each_head() -> None:
    layer = torch_layer()
    x = torch.randn(BATCH, TOKENS, WIDTH)
    mask = (torch.rand(BATCH, HEADS, TOKENS, TOKENS) < 0.5) | torch.eye(TOKENS).bool()
    expected, _ = layer.self_attn(x, x, x, attn_mask=~mask.flatten(0, 1))
    close(multi_head_attention(x, x, weights_of_torch_layer(layer), HEADS, mask), expected)


def test_multi_head_attention_refuses_heads_that_do_not_divide_the_width() -> None:
    x = torch.randn(1, 2, WIDTH)
    with pytest.raises(ValueError, match="width 24 cannot be split into 5 heads"):
        multi_head_attention(x, x, weights_of_torch_layer(torch_layer()), 5)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_encoder_block_is_torchs_to_1e_minus_5(eps: float) -> None:
    layer = torch_layer()
    layer.norm1.eps = layer.norm2.eps = eps
    weights = weights_of_torch_layer(layer)
    x, mask = torch.randn(BATCH, TOKENS, WIDTH), padding_mask()
    close(encoder_block(x, weights, HEADS, eps=eps), layer(x))
    padded = encoder_block(x, weights, HEADS, mask[:, None, None, :], eps)
    close(padded[mask], layer(x, src_key_padding_mask=~mask)[mask])


def test_encoder_block_has_torchs_gradients() -> None:
    layer = torch_layer()
    x = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
    upstream = torch.randn(BATCH, TOKENS, WIDTH)
    wanted = torch.autograd.grad(layer(x), [x, *layer.parameters()], upstream)
    value = encoder_block(x, weights_of_torch_layer(layer), HEADS)
    found = torch.autograd.grad(value, [x, *layer.parameters()], upstream)
    for have, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)


def test_encoder_blocks_in_a_row_are_bert() -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=TOKENS,
        layer_norm_eps=1e-3,
        attn_implementation="eager",
    )
    bert = BertModel(config).eval()
    draw_anew(bert)
    mask = padding_mask()
    with torch.no_grad():
        seen = bert(
            input_ids=torch.randint(50, (BATCH, TOKENS)),
            attention_mask=mask.long(),
            output_hidden_states=True,
        )
        x = seen.hidden_states[0]
        for layer, expected in zip(bert.encoder.layer, seen.hidden_states[1:], strict=True):
            weights = weights_of_bert_layer(layer)
            x = encoder_block(x, weights, HEADS, mask[:, None, None, :], config.layer_norm_eps)
            close(x[mask], expected[mask])


def test_padding_changes_no_real_token() -> None:
    weights = weights_of_torch_layer(torch_layer())
    x, mask = torch.randn(BATCH, TOKENS, WIDTH), padding_mask()
    junk = torch.where(mask[..., None], x, 1e6)
    seen = mask[:, None, None, :]
    close(
        encoder_block(junk, weights, HEADS, seen)[mask],
        encoder_block(x, weights, HEADS, seen)[mask],
    )


def test_no_token_depends_on_a_later_one_under_the_causal_mask() -> None:
    weights = weights_of_torch_layer(torch_layer())
    x = torch.randn(1, TOKENS, WIDTH)
    other = x.clone()
    other[:, 4:] += 1
    before, after = (encoder_block(v, weights, HEADS, causal_mask(TOKENS))[0] for v in (x, other))
    close(after[:4], before[:4])
    assert not torch.allclose(after[4:], before[4:], atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_macro_f1_is_that_of_the_report(classes: int, examples: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    predictions, labels = draw.integers(classes, size=(2, examples))
    scores = np.eye(classes)[predictions]
    expected = accuracy_and_macro_f1(scores, labels)["macro_f1"]
    found = macro_f1(torch.from_numpy(predictions), torch.from_numpy(labels), classes)
    assert found == pytest.approx(expected, abs=1e-12)


def test_retention_and_compression_of_a_half_sized_student_that_keeps_nine_tenths() -> None:
    assert retention(0.81, 0.9) == pytest.approx(0.9)
    assert compression(2_000, 1_000) == 2
    with pytest.raises(ValueError, match="teacher_score is 0: expected"):
        retention(0.5, 0)
    with pytest.raises(ValueError, match="student_parameters is 0: expected"):
        compression(10, 0)
