"""The reference answers of lesson 07 agree with the library, with torch and with transformers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from distill_lab import losses
from distill_lab.exercises.features import (
    attention_loss,
    hidden_state_loss,
    layer_map,
    relation_loss,
)
from distill_lab.models import even_layer_map

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def states(width: int) -> Tensor:
    return torch.randn(*MASK.shape, width)


def maps(heads: int) -> Tensor:
    scores = torch.randn(len(MASK), heads, MASK.shape[1], MASK.shape[1])
    return scores.masked_fill(~MASK[:, None, None, :], -math.inf).softmax(-1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_hidden_state_loss_is_torchs_mse_of_the_unmasked_tokens() -> None:
    student, teacher = states(6), states(6)
    close(hidden_state_loss(student, teacher, MASK), F.mse_loss(student[MASK], teacher[MASK]))


def test_the_projection_is_that_of_a_linear_layer() -> None:
    student, teacher, linear = states(3), states(5), nn.Linear(3, 5, bias=False)
    expected = losses.hidden_state_loss(student, teacher, mask=MASK, projection=linear)
    close(hidden_state_loss(student, teacher, MASK, linear.weight), expected)
    close(expected, F.mse_loss(linear(student)[MASK], teacher[MASK]))


def test_the_projection_learns() -> None:
    student, teacher = states(3), states(5)
    projection = torch.randn(5, 3, requires_grad=True)
    hidden_state_loss(student, teacher, MASK, projection).backward()
    assert projection.grad is not None and projection.grad.abs().min() > 0


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (2, 3)])
def test_attention_loss_is_the_librarys(ours: int, theirs: int) -> None:
    student, teacher = maps(ours), maps(theirs)
    expected = losses.attention_loss(student, teacher, mask=MASK)
    close(attention_loss(student, teacher, MASK), expected)


def test_attention_loss_is_the_kl_divergence_of_the_scores() -> None:
    student, teacher = torch.randn(2, 3, 2, 4, 4)
    everywhere = torch.ones(3, 4, dtype=torch.bool)
    expected = losses.kl_divergence(student.flatten(0, 2), teacher.flatten(0, 2))
    close(attention_loss(student.softmax(-1), teacher.softmax(-1), everywhere), expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_relation_loss_is_the_librarys(heads: int) -> None:
    student, teacher = states(4), states(6)
    expected = losses.relation_loss(student, teacher, mask=MASK, heads=heads)
    close(relation_loss(student, teacher, MASK, heads), expected)


def test_relation_loss_is_the_attention_loss_of_states_that_attend_to_themselves() -> None:
    student, teacher, heads = states(4), states(6), 2

    def relation(x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = parts @ parts.mT / math.sqrt(parts.shape[-1])
        return scores.masked_fill(~MASK[:, None, None, :], -math.inf).softmax(-1)

    expected = attention_loss(relation(student), relation(teacher), MASK)
    close(relation_loss(student, teacher, MASK, heads), expected)


def test_relation_loss_does_not_see_a_turn_of_a_head() -> None:
    student, teacher = states(3), states(3)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    close(relation_loss(student @ turn, teacher, MASK, 1), relation_loss(student, teacher, MASK, 1))
    close(relation_loss(teacher @ turn, teacher, MASK, 1), torch.tensor(0.0))


@pytest.mark.parametrize("loss", [hidden_state_loss, relation_loss])
def test_padding_of_nan_reaches_neither_value_nor_gradient(loss: object) -> None:
    student, teacher = states(4), states(4)
    extra = {"heads": 2} if loss is relation_loss else {}
    spoilt = torch.where(MASK[..., None], student, math.nan).requires_grad_()
    value = loss(spoilt, torch.where(MASK[..., None], teacher, math.nan), MASK, **extra)  # type: ignore[operator]
    close(value, loss(student, teacher, MASK, **extra))  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(value, spoilt)
    assert gradient.isfinite().all() and not gradient[~MASK].any()


@given(st.integers(1, 24), st.integers(0, 24), st.sampled_from(["even", "last"]))
def test_layer_map_rises_to_the_last_block(n: int, more: int, strategy: str) -> None:
    mapped = layer_map(n, n + more, strategy)
    blocks = [int(name.removeprefix("layer.")) for name in mapped.values()]
    assert list(mapped) == [f"layer.{i}" for i in range(n)]
    assert blocks == sorted(set(blocks)) and blocks[-1] == n + more - 1


@given(st.integers(1, 24), st.integers(1, 5))
def test_even_shares_are_tinyberts_where_they_divide(n: int, share: int) -> None:
    """TinyBERT's student layer m, counted from 1, learns from the teacher's g(m) = share · m."""
    assert layer_map(n, share * n) == {
        f"layer.{m - 1}": f"layer.{share * m - 1}" for m in range(1, n + 1)
    }


def test_even_layer_map_is_that_of_the_models() -> None:
    def model(layers: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=4,
                hidden_size=4,
                num_hidden_layers=layers,
                num_attention_heads=1,
                intermediate_size=4,
                max_position_embeddings=4,
            )
        )

    for n, m in ((2, 6), (4, 6), (3, 3)):
        assert layer_map(n, m) == even_layer_map(model(n), model(m))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((4, 3), "4 layers and its teacher 3"), ((2, 6, "skip"), "expected 'even' or 'last'")],
)
def test_layer_map_refuses_what_makes_no_sense(arguments: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        layer_map(*arguments)
