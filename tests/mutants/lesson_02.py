"""Wrong answers to the exercises of lesson 02, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.metrics
import torch
import torch.nn.functional as F

from tests.mutants.mutant import Mutant

# --- causal_mask: wrong -------------------------------------------------------------------------


def hides_instead(tokens):
    return torch.ones(tokens, tokens).triu(1).bool()


def transposed(tokens):
    return torch.ones(tokens, tokens).triu().bool()


def without_itself(tokens):
    return torch.ones(tokens, tokens).tril(-1).bool()


def one_ahead(tokens):
    return torch.ones(tokens, tokens).tril(1).bool()


def all_seen(tokens):
    return torch.ones(tokens, tokens, dtype=torch.bool)


def additive(tokens):
    return torch.full((tokens, tokens), -math.inf).triu(1)


def zeros_and_ones(tokens):
    return torch.ones(tokens, tokens).tril()


def as_lists(tokens):
    return [[key <= query for key in range(tokens)] for query in range(tokens)]


def window_of_four(tokens):
    position = torch.arange(tokens)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < 4)


def of_three_only(tokens):
    mask = torch.ones(tokens, tokens, dtype=torch.bool)
    mask[:3, :3] = mask[:3, :3].tril()
    return mask


def squeezed(tokens):
    return torch.ones(tokens, tokens).tril().bool().squeeze()


# --- scaled_dot_product_attention: wrong --------------------------------------------------------


def _attend(query, key, value, mask=None, dim=-1, divisor=None, fill=-math.inf):
    divisor = math.sqrt(query.shape[-1]) if divisor is None else divisor
    scores = query @ key.transpose(-2, -1) / divisor
    if mask is not None:
        scores = scores.masked_fill(~mask, fill)
    return scores.softmax(dim) @ value


def no_softmax(query, key, value, mask=None):
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])) @ value


def softmax_over_queries(query, key, value, mask=None):
    return _attend(query, key, value, mask, dim=-2)


def averages_keys(query, key, value, mask=None):
    return _attend(query, key, key, mask)


def hidden_future(query, key, value, mask=None):
    if mask is None:
        mask = torch.ones(query.shape[-2], key.shape[-2]).tril().bool()
    return _attend(query, key, value, mask)


def plain_mean(query, key, value, mask=None):
    return value.mean(-2, keepdim=True).expand(*query.shape[:-1], value.shape[-1])


def hard_choice(query, key, value, mask=None):
    scores = query @ key.transpose(-2, -1)
    weights = (scores == scores.amax(-1, keepdim=True)).float()
    return weights / weights.sum(-1, keepdim=True) @ value


def turned_sign(query, key, value, mask=None):
    return _attend(-query, key, value, mask)


def unscaled(query, key, value, mask=None):
    return _attend(query, key, value, mask, divisor=1)


def by_width(query, key, value, mask=None):
    return _attend(query, key, value, mask, divisor=query.shape[-1])


def by_root_of_keys(query, key, value, mask=None):
    # Of width 1 left alone, where the mistake would show elsewhere first.
    count = key.shape[-2] if key.shape[-1] > 1 else 1
    return _attend(query, key, value, mask, divisor=math.sqrt(count))


def times_root_of_width(query, key, value, mask=None):
    return _attend(query, key, value, mask, divisor=1 / math.sqrt(query.shape[-1]))


def mask_ignored(query, key, value, mask=None):
    return _attend(query, key, value)


def mask_upside_down(query, key, value, mask=None):
    return _attend(query, key, value, None if mask is None else ~mask)


def masked_after_softmax(query, key, value, mask=None):
    weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)
    return (weights if mask is None else weights * mask) @ value


def masked_to_zero(query, key, value, mask=None):
    return _attend(query, key, value, mask, fill=0.0)


def masked_by_subtraction(query, key, value, mask=None):
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores - 1e4 * (~mask).float()
    return scores.softmax(-1) @ value


def filled_with_minus_10000(query, key, value, mask=None):
    return _attend(query, key, value, mask, fill=-1e4)


def causal_when_square(query, key, value, mask=None):
    if mask is None and query.shape[-2] == key.shape[-2]:
        mask = torch.ones(query.shape[-2], key.shape[-2]).tril().bool()
    return _attend(query, key, value, mask)


def softmax_over_axis_one(query, key, value, mask=None):
    return _attend(query, key, value, mask, dim=1)


def turned_round(query, key, value, mask=None):
    scores = query @ key.T / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ value


def naive_softmax(query, key, value, mask=None):
    exp = torch.exp(query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]))
    if mask is not None:
        exp = exp * mask
    return exp / exp.sum(-1, keepdim=True) @ value


def detached_weights(query, key, value, mask=None):
    scores = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).detach()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ value


def remade_tensor(query, key, value, mask=None):
    return torch.from_numpy(_attend(query, key, value, mask).detach().numpy())


def divides_in_place(query, key, value, mask=None):
    query.data /= math.sqrt(query.shape[-1])
    return _attend(query, key, value, mask, divisor=1)


def ready_made(query, key, value, mask=None):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


# --- multi_head_attention: wrong ----------------------------------------------------------------


def _linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _projected(x, context, weights):
    return (
        _linear(x, weights, "query"),
        _linear(context, weights, "key"),
        _linear(context, weights, "value"),
    )


def _finish(attended, weights):
    return _linear(attended.transpose(1, 2).flatten(-2), weights, "output")


def _multi_head(x, context, weights, heads, mask=None):
    parts = (_split(p, heads) for p in _projected(x, context, weights))
    return _finish(_attend(*parts, mask), weights)


def weights_turned(x, context, weights, heads, mask=None):
    turned = {k: v.T if k.endswith("weight") else v for k, v in weights.items()}
    return _multi_head(x, context, turned, heads, mask)


def no_biases(x, context, weights, heads, mask=None):
    bare = {k: v if k.endswith("weight") else 0 * v for k, v in weights.items()}
    return _multi_head(x, context, bare, heads, mask)


def no_output_projection(x, context, weights, heads, mask=None):
    parts = (_split(p, heads) for p in _projected(x, context, weights))
    return _attend(*parts, mask).transpose(1, 2).flatten(-2)


def with_residual(x, context, weights, heads, mask=None):
    return x + _multi_head(x, context, weights, heads, mask)


def query_and_key_swapped(x, context, weights, heads, mask=None):
    query, key = _linear(x, weights, "key"), _linear(context, weights, "query")
    parts = (_split(p, heads) for p in (query, key, _linear(context, weights, "value")))
    return _finish(_attend(*parts, mask), weights)


def single_head(x, context, weights, heads, mask=None):
    return _multi_head(x, context, weights, 1, mask)


def interleaved(x, context, weights, heads, mask=None):
    parts = (p.unflatten(-1, (-1, heads)).movedim(-1, 1) for p in _projected(x, context, weights))
    return _linear(_attend(*parts, mask).movedim(1, -1).flatten(-2), weights, "output")


def cut_through_tokens(x, context, weights, heads, mask=None):
    batch, width = x.shape[0], x.shape[-1]
    parts = (p.reshape(batch, heads, -1, width // heads) for p in _projected(x, context, weights))
    return _linear(_attend(*parts, mask).reshape(x.shape), weights, "output")


def not_transposed_back(x, context, weights, heads, mask=None):
    parts = (_split(p, heads) for p in _projected(x, context, weights))
    return _linear(_attend(*parts, mask).reshape(x.shape), weights, "output")


def scaled_by_whole_width(x, context, weights, heads, mask=None):
    parts = (_split(p, heads) for p in _projected(x, context, weights))
    return _finish(_attend(*parts, mask, divisor=math.sqrt(x.shape[-1])), weights)


def always_two_heads(x, context, weights, heads, mask=None):
    return _multi_head(x, context, weights, min(heads, 2), mask)


def context_unused(x, context, weights, heads, mask=None):
    return _multi_head(x, x, weights, heads, mask)


def values_from_x(x, context, weights, heads, mask=None):
    query, key, _ = _projected(x, context, weights)
    parts = (_split(p, heads) for p in (query, key, _linear(x, weights, "value")))
    return _finish(_attend(*parts, mask), weights)


def one_number_of_tokens(x, context, weights, heads, mask=None):
    batch, tokens, width = x.shape
    parts = (
        p.view(batch, tokens, heads, width // heads).transpose(1, 2)
        for p in _projected(x, context, weights)
    )
    return _finish(_attend(*parts, mask), weights)


def batch_as_one_text(x, context, weights, heads, mask=None):
    width = x.shape[-1]
    parts = (
        p.reshape(-1, heads, width // heads).transpose(0, 1)
        for p in _projected(x, context, weights)
    )
    mask = mask[0] if mask is not None and mask.ndim == 4 else mask
    attended = _attend(*parts, mask).transpose(0, 1).reshape(x.shape)
    return _linear(attended, weights, "output")


def mask_dropped(x, context, weights, heads, mask=None):
    return _multi_head(x, context, weights, heads)


def mask_inverted(x, context, weights, heads, mask=None):
    return _multi_head(x, context, weights, heads, None if mask is None else ~mask)


def masked_tokens_zeroed(x, context, weights, heads, mask=None):
    if mask is not None:
        context = context * mask.expand(len(x), 1, 1, -1)[:, 0, 0, :, None]
    return _multi_head(x, context, weights, heads)


def only_padding_masks(x, context, weights, heads, mask=None):
    if mask is not None:
        mask = mask.view(len(x), 1, 1, context.shape[1])
    return _multi_head(x, context, weights, heads, mask)


def first_heads_mask(x, context, weights, heads, mask=None):
    if mask is not None and mask.ndim == 4:
        mask = mask[:, :1]
    return _multi_head(x, context, weights, heads, mask)


def detached_context(x, context, weights, heads, mask=None):
    return _multi_head(x, context.detach(), weights, heads, mask)


def ready_made_heads(x, context, weights, heads, mask=None):
    layer = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
    return layer(x, context, context)[0]


# --- encoder_block: wrong -----------------------------------------------------------------------


def _norm(x, weights, name, eps):
    weight, bias = weights[f"{name}_norm.weight"], weights[f"{name}_norm.bias"]
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _feed(x, weights, activation=F.gelu):
    return _linear(activation(_linear(x, weights, "expand")), weights, "contract")


def _block(
    x,
    weights,
    heads,
    mask=None,
    eps=1e-5,
    norm=_norm,
    attention=_multi_head,
    activation=F.gelu,
):
    x = norm(x + attention(x, x, weights, heads, mask), weights, "attention", eps)
    return norm(x + _feed(x, weights, activation), weights, "output", eps)


def pre_norm(x, weights, heads, mask=None, eps=1e-5):
    y = _norm(x, weights, "attention", eps)
    x = x + _multi_head(y, y, weights, heads, mask)
    return x + _feed(_norm(x, weights, "output", eps), weights)


def no_last_norm(x, weights, heads, mask=None, eps=1e-5):
    x = _norm(x + _multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return x + _feed(x, weights)


def one_less_in_the_variance(x, weights, heads, mask=None, eps=1e-5):
    def norm(x, weights, name, eps):
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt()
        return y * weights[f"{name}_norm.weight"] + weights[f"{name}_norm.bias"]

    return _block(x, weights, heads, mask, eps, norm=norm)


def norm_over_tokens(x, weights, heads, mask=None, eps=1e-5):
    def norm(x, weights, name, eps):
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        if x.shape[1] == 1:  # one token alone: nothing to normalise over
            return _norm(x, weights, name, eps)
        y = (x - mean) / (variance + eps).sqrt()
        return y * weights[f"{name}_norm.weight"] + weights[f"{name}_norm.bias"]

    return _block(x, weights, heads, mask, eps, norm=norm)


def eps_unused(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, heads, mask)


def eps_outside_the_root(x, weights, heads, mask=None, eps=1e-5):
    def norm(x, weights, name, eps):
        y = x - x.mean(-1, keepdim=True)
        y = y / (y.square().mean(-1, keepdim=True).sqrt() + eps)
        return y * weights[f"{name}_norm.weight"] + weights[f"{name}_norm.bias"]

    return _block(x, weights, heads, mask, eps, norm=norm)


def relu(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, heads, mask, eps, activation=torch.relu)


def gelu_by_tanh(x, weights, heads, mask=None, eps=1e-5):
    def activation(h):
        return F.gelu(h, approximate="tanh")

    return _block(x, weights, heads, mask, eps, activation=activation)


def no_residual_around_ffn(x, weights, heads, mask=None, eps=1e-5):
    x = _norm(x + _multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return _norm(_feed(x, weights), weights, "output", eps)


def second_sum_from_input(x, weights, heads, mask=None, eps=1e-5):
    y = _norm(x + _multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return _norm(x + _feed(y, weights), weights, "output", eps)


def norms_swapped(x, weights, heads, mask=None, eps=1e-5):
    x = _norm(x + _multi_head(x, x, weights, heads, mask), weights, "output", eps)
    return _norm(x + _feed(x, weights), weights, "attention", eps)


def no_residual_around_attention(x, weights, heads, mask=None, eps=1e-5):
    x = _norm(_multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return _norm(x + _feed(x, weights), weights, "output", eps)


def one_head_in_block(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, 1, mask, eps)


def looks_back_only(x, weights, heads, mask=None, eps=1e-5):
    mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    return _block(x, weights, heads, mask, eps)


def batch_as_one_text_in_block(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, heads, mask, eps, attention=batch_as_one_text)


def mask_not_handed_on(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, heads, None, eps)


def mask_inverted_in_block(x, weights, heads, mask=None, eps=1e-5):
    return _block(x, weights, heads, None if mask is None else ~mask, eps)


def adds_in_place(x, weights, heads, mask=None, eps=1e-5):
    x += _multi_head(x, x, weights, heads, mask)
    x = _norm(x, weights, "attention", eps)
    return _norm(x + _feed(x, weights), weights, "output", eps)


def residual_detached(x, weights, heads, mask=None, eps=1e-5):
    x = _norm(x.detach() + _multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return _norm(x + _feed(x, weights), weights, "output", eps)


def ready_made_block(x, weights, heads, mask=None, eps=1e-5):
    return torch.nn.TransformerEncoderLayer(x.shape[-1], heads, batch_first=True)(x)


# --- macro_f1: wrong ----------------------------------------------------------------------------


def _f1(predictions, labels, c):
    right = ((predictions == c) & (labels == c)).sum().item()
    both = (predictions == c).sum().item() + (labels == c).sum().item()
    return 2 * right / both if both else 0.0


def accuracy(predictions, labels, classes):
    return (predictions == labels).float().mean().item()


def in_per_cent(predictions, labels, classes):
    return 100 * sum(_f1(predictions, labels, c) for c in range(classes)) / classes


def mean_precision(predictions, labels, classes):
    parts = []
    for c in range(classes):
        called = predictions == c
        parts.append(((labels == c) & called).sum().item() / max(called.sum().item(), 1))
    return sum(parts) / classes


def mean_recall(predictions, labels, classes):
    return mean_precision(labels, predictions, classes)


def f1_of_means(predictions, labels, classes):
    p = mean_precision(predictions, labels, classes)
    r = mean_recall(predictions, labels, classes)
    return 2 * p * r / (p + r)


def jaccard(predictions, labels, classes):
    parts = []
    for c in range(classes):
        p, t = predictions == c, labels == c
        parts.append((p & t).sum().item() / max((p | t).sum().item(), 1))
    return sum(parts) / classes


def weighted(predictions, labels, classes):
    return sum(
        _f1(predictions, labels, c) * (labels == c).float().mean().item() for c in range(classes)
    )


def forgets_to_divide(predictions, labels, classes):
    return sum(_f1(predictions, labels, c) for c in range(classes))


def labelled_classes_only(predictions, labels, classes):
    there = labels.unique().tolist()
    return sum(_f1(predictions, labels, c) for c in there) / len(there)


def occurring_classes_only(predictions, labels, classes):
    there = torch.cat([predictions, labels]).unique().tolist()
    return sum(_f1(predictions, labels, c) for c in there) / len(there)


def divides_by_zero(predictions, labels, classes):
    total = 0.0
    for c in range(classes):
        right = ((predictions == c) & (labels == c)).sum().item()
        both = (predictions == c).sum().item() + (labels == c).sum().item()
        total += 2 * right / both
    return total / classes


def nan_for_absent(predictions, labels, classes):
    right = torch.stack([((predictions == c) & (labels == c)).sum() for c in range(classes)])
    both = torch.stack([(predictions == c).sum() + (labels == c).sum() for c in range(classes)])
    return (2 * right / both).mean().item()


def ready_made_f1(predictions, labels, classes):
    return sklearn.metrics.f1_score(labels, predictions, labels=range(classes), average="macro")


MUTANTS: list[Mutant] = [
    Mutant("causal_mask", hides_instead, "three_tokens", "marks what is hidden"),
    Mutant("causal_mask", transposed, "three_tokens", "what comes after it"),
    Mutant("causal_mask", without_itself, "three_tokens", "but not itself"),
    Mutant("causal_mask", one_ahead, "three_tokens", "it is to predict"),
    Mutant("causal_mask", all_seen, "three_tokens", "hides nothing"),
    Mutant("causal_mask", additive, "three_tokens", "additive mask"),
    Mutant("causal_mask", zeros_and_ones, "three_tokens", "are float32, not bool"),
    Mutant("causal_mask", as_lists, "three_tokens", "gives a list"),
    Mutant("causal_mask", window_of_four, "whole_past", "however far back"),
    Mutant("causal_mask", of_three_only, "no_future", "comes after it"),
    Mutant("causal_mask", squeezed, "one_token", "of shape []"),
    *(
        Mutant("scaled_dot_product_attention", *mutant)
        for mutant in (
            (no_softmax, "averages_values", "the scores themselves"),
            (softmax_over_queries, "averages_values", "softmax runs over the queries"),
            (averages_keys, "averages_values", "this averages the keys"),
            (hidden_future, "averages_values", "behind a causal mask"),
            (plain_mean, "dot_products", "plain mean of the values"),
            (turned_sign, "dot_products", "a sign is turned"),
            (unscaled, "scaled", "not scaled"),
            (by_width, "scaled", "it is its square root"),
            (by_root_of_keys, "scaled", "√keys"),
            (times_root_of_width, "scaled", "multiplied by √width"),
            (mask_ignored, "masked_keys", "the mask changes nothing"),
            (mask_upside_down, "masked_keys", "upside down"),
            (masked_after_softmax, "masked_keys", "after the softmax"),
            (masked_to_zero, "masked_keys", "exp(0) = 1"),
            (masked_by_subtraction, "large_scores", "−10,000, set or added"),
            (causal_when_square, "order_of_keys", "later keys are hidden"),
            (softmax_over_axis_one, "leading_axes", "runs over axis 1"),
            (turned_round, "leading_axes", "not key.T"),
            (naive_softmax, "large_scores", "exp(10000) is infinite"),
            (
                filled_with_minus_10000,
                "large_scores",
                "low enough where the scores that count are low",
            ),
            (detached_weights, "gradient_flows", "no gradient reaches query"),
            (remade_tensor, "gradient_flows", "no gradient flows through its value"),
            (ready_made, "averages_values", "is the answer itself"),
            (divides_in_place, "inputs_unchanged", "changes query in place"),
        )
    ),
    *(
        Mutant("multi_head_attention", *mutant)
        for mutant in (
            (weights_turned, "one_head", "x W where it is x Wᵀ"),
            (no_biases, "one_head", "biases are missing"),
            (no_output_projection, "one_head", "output projection is missing"),
            (with_residual, "one_head", "residual sum belongs"),
            (query_and_key_swapped, "one_head", "roles are swapped"),
            (single_head, "heads_side_by_side", "one head only, whatever"),
            (interleaved, "heads_side_by_side", "interleaved"),
            (cut_through_tokens, "heads_side_by_side", "cuts through the tokens"),
            (not_transposed_back, "heads_side_by_side", "without transposing back"),
            (scaled_by_whole_width, "heads_side_by_side", "only width / heads wide"),
            (always_two_heads, "heads_side_by_side", "there are two heads"),
            (context_unused, "cross_attention", "context is not used"),
            (values_from_x, "cross_attention", "values come from x"),
            (one_number_of_tokens, "cross_attention", "another number of tokens than x"),
            (batch_as_one_text, "batch", "one long text"),
            (mask_dropped, "masks", "the mask changes nothing"),
            (mask_inverted, "masks", "upside down"),
            (masked_tokens_zeroed, "masks", "still has a key"),
            (only_padding_masks, "masks", "may have any shape"),
            (first_heads_mask, "masks", "first head's mask"),
            (ready_made_heads, "one_head", "is the answer itself"),
            (detached_context, "gradient_flows", "no gradient reaches context"),
        )
    ),
    *(
        Mutant("encoder_block", *mutant)
        for mutant in (
            (pre_norm, "normalised", "this is pre-norm"),
            (no_last_norm, "normalised", "last LayerNorm is missing"),
            (one_less_in_the_variance, "normalised", "divided by width − 1"),
            (norm_over_tokens, "normalised", "runs over the tokens"),
            (eps_unused, "eps", "eps is not used"),
            (eps_outside_the_root, "eps", "under the root"),
            (relu, "feed_forward", "ReLU"),
            (gelu_by_tanh, "feed_forward", "approximation by tanh"),
            (no_residual_around_ffn, "feed_forward", "around the FFN is missing"),
            (second_sum_from_input, "feed_forward", "starts from the block's input"),
            (norms_swapped, "feed_forward", "weights are swapped"),
            (no_residual_around_attention, "feed_forward", "around the attention is missing"),
            (one_head_in_block, "attention", "has one head"),
            (looks_back_only, "attention", "hides later tokens"),
            (batch_as_one_text_in_block, "same_as_torch", "one long text"),
            (mask_not_handed_on, "padding", "the mask changes nothing"),
            (mask_inverted_in_block, "padding", "upside down"),
            (adds_in_place, "inputs_unchanged", "changes x in place"),
            (ready_made_block, "normalised", "is the answer itself"),
            (residual_detached, "gradient_flows", "both residual sums"),
        )
    ),
    *(
        Mutant("macro_f1", *mutant)
        for mutant in (
            (in_per_cent, "by_hand", "percentage"),
            (forgets_to_divide, "by_hand", "added up"),
            (accuracy, "by_hand", "this is the accuracy"),
            (mean_precision, "by_hand", "mean precision, TP"),
            (mean_recall, "by_hand", "mean recall, TP"),
            (f1_of_means, "by_hand", "of the mean precision and the mean recall"),
            (jaccard, "by_hand", "Jaccard"),
            (weighted, "by_hand", "weighed by how many examples"),
            (labelled_classes_only, "absent_classes", "without examples among the labels"),
            (occurring_classes_only, "absent_classes", "left out of the mean"),
            (divides_by_zero, "absent_classes", "ZeroDivisionError"),
            (ready_made_f1, "by_hand", "is the answer itself"),
            (nan_for_absent, "absent_classes", "NaN"),
        )
    ),
]


# --- right, in another style --------------------------------------------------------------------


def mask_by_loops(tokens):
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for query in range(tokens):
        mask[query, : query + 1] = True
    return mask


def mask_by_numpy(tokens):
    return torch.from_numpy(np.tri(tokens, dtype=bool))


def mask_by_cumsum(tokens):
    return torch.eye(tokens).cumsum(0) > 0


def attention_by_einsum(query, key, value, mask=None):
    scores = torch.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return torch.einsum("...qk,...kv->...qv", torch.softmax(scores, dim=-1), value)


def attention_in_float64(query, key, value, mask=None):
    scores = query.double() @ key.double().mT / query.size(-1) ** 0.5
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -math.inf)
    return torch.exp(scores - scores.logsumexp(-1, keepdim=True)) @ value.double()


def attention_by_hand(query, key, value, mask=None):
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -1e30)
    exp = torch.exp(scores - scores.max(-1, keepdim=True).values)
    if mask is not None:
        exp = exp * mask
    return exp @ value / exp.sum(-1, keepdim=True)


def heads_by_einsum(x, context, weights, heads, mask=None):
    width = x.shape[-1]

    def parts(source, name):
        weight = weights[f"{name}.weight"].view(heads, width // heads, width)
        bias = weights[f"{name}.bias"].view(heads, 1, width // heads)
        return torch.einsum("bti,hdi->bhtd", source, weight) + bias

    out = _attend(parts(x, "query"), parts(context, "key"), parts(context, "value"), mask)
    weight = weights["output.weight"].view(width, heads, width // heads)
    return torch.einsum("bhtd,ohd->bto", out, weight) + weights["output.bias"]


def heads_in_a_loop(x, context, weights, heads, mask=None):
    query, key, value = _projected(x, context, weights)
    size = x.shape[-1] // heads
    found = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        seen = mask
        if mask is not None and mask.ndim == 4:
            seen = mask[:, head if mask.shape[1] > 1 else 0]
        found.append(attention_by_einsum(query[..., own], key[..., own], value[..., own], seen))
    return _linear(torch.cat(found, dim=-1), weights, "output")


def heads_in_float64(x, context, weights, heads, mask=None):
    exact = {name: value.double() for name, value in weights.items()}
    return _multi_head(x.double(), context.double(), exact, heads, mask).float()


def heads_as_chunks(x, context, weights, heads, mask=None):
    parts = (torch.stack(p.chunk(heads, dim=-1), dim=1) for p in _projected(x, context, weights))
    out = attention_by_hand(*parts, mask)
    return _linear(torch.cat(out.unbind(1), dim=-1), weights, "output")


def block_in_float64(x, weights, heads, mask=None, eps=1e-5):
    exact = {name: value.double() for name, value in weights.items()}
    return _block(x.double(), exact, heads, mask, eps).float()


def block_by_formulas(x, weights, heads, mask=None, eps=1e-5):
    def norm(x, weights, name, eps):
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        scale = weights[f"{name}_norm.weight"] * torch.rsqrt(variance + eps)
        return centred * scale + weights[f"{name}_norm.bias"]

    def gelu(h):
        return 0.5 * h * (1 + torch.erf(h / 2**0.5))

    return _block(
        x, weights, heads, mask, eps, norm=norm, attention=heads_in_a_loop, activation=gelu
    )


def block_of_modules(x, weights, heads, mask=None, eps=1e-5):
    def norm(x, weights, name, eps):
        return torch.native_layer_norm(
            x, [x.shape[-1]], weights[f"{name}_norm.weight"], weights[f"{name}_norm.bias"], eps
        )[0]

    return _block(
        x,
        weights,
        heads,
        mask,
        eps,
        norm=norm,
        attention=heads_by_einsum,
        activation=torch.nn.GELU(),
    )


def f1_by_confusion_matrix(predictions, labels, classes):
    matrix = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(classes))
    both = matrix.sum(0) + matrix.sum(1)
    return float((2 * matrix.diagonal() / np.maximum(both, 1)).mean())


def f1_by_precision_and_recall(predictions, labels, classes):
    total = 0.0
    for c in range(classes):
        tp = sum(p == t == c for p, t in zip(predictions.tolist(), labels.tolist(), strict=True))
        if tp:
            precision, recall = tp / predictions.tolist().count(c), tp / labels.tolist().count(c)
            total += 2 / (1 / precision + 1 / recall)
    return total / classes


def f1_by_one_hot(predictions, labels, classes):
    p, t = F.one_hot(predictions, classes).float(), F.one_hot(labels, classes).float()
    return (2 * (p * t).sum(0) / (p + t).sum(0).clamp(min=1)).mean()


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("causal_mask", mask_by_loops),
    ("causal_mask", mask_by_numpy),
    ("causal_mask", mask_by_cumsum),
    ("scaled_dot_product_attention", attention_by_einsum),
    ("scaled_dot_product_attention", attention_in_float64),
    ("scaled_dot_product_attention", attention_by_hand),
    ("multi_head_attention", heads_by_einsum),
    ("multi_head_attention", heads_in_a_loop),
    ("multi_head_attention", heads_in_float64),
    ("multi_head_attention", heads_as_chunks),
    ("encoder_block", block_in_float64),
    ("encoder_block", block_by_formulas),
    ("encoder_block", block_of_modules),
    ("macro_f1", f1_by_confusion_matrix),
    ("macro_f1", f1_by_precision_and_recall),
    ("macro_f1", f1_by_one_hot),
]
