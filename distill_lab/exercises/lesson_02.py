"""The exercises of lesson 02: attention, masks, heads, a block of an encoder, and macro-F1.

The expected values are computed here in float64 and head by head, with loops: another way than
that of ``distill_lab.exercises.attention``, which holds the reference answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lab.exercises.attention import (
    PROJECTIONS,
    causal_mask,
    encoder_block,
    multi_head_attention,
    scaled_dot_product_attention,
)
from distill_lab.exercises.contracts import (
    Answer,
    AnswerRaised,
    Broken,
    Contract,
    compare,
    draw,
    expect,
    nothing_changes,
    require,
)
from distill_lab.exercises.registry import Exercise, Lesson

Weights = dict[str, Tensor]


def macro_f1(predictions: Tensor, labels: Tensor, classes: int) -> float:
    """Give the unweighted mean of the classes' F1 scores.

    F1 of a class is 2 TP / (2 TP + FP + FN), from its true positives, false positives and false
    negatives; 0 for a class that is neither there nor predicted.

    Args:
        predictions: Predicted classes, int [examples].
        labels: True classes, int [examples].
        classes: How many classes there are; they are numbered from 0.
    """
    # Rows are true classes, columns predicted ones.
    pairs = torch.bincount(labels * classes + predictions, minlength=classes**2)
    confusion = pairs.view(classes, classes).double()
    right = confusion.diagonal()
    # What was predicted and what was there: TP + FP and TP + FN.
    both = confusion.sum(0) + confusion.sum(1)
    return (2 * right / both.clamp(min=1)).mean().item()


# --- what the contracts share ------------------------------------------------------------------


def _readable(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Draw float32 values with one decimal, so that a failing example can be followed by hand."""
    return draw(generator, *shape, scale=10 * scale).round() / 10


def _softmax(scores: Tensor, dim: int = -1) -> Tensor:
    exp = torch.exp(scores - scores.amax(dim, keepdim=True))
    return exp / exp.sum(dim, keepdim=True)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    divisor: float | None = None,
    dim: int = -1,
) -> Tensor:
    """Attention in float64; another ``divisor`` than √width, or axis of the softmax, if given."""
    query, key, value = query.double(), key.double(), value.double()
    scores = torch.einsum("...qw,...kw->...qk", query, key)
    scores = scores / (math.sqrt(query.shape[-1]) if divisor is None else divisor)
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
    return torch.einsum("...qk,...kv->...qv", _softmax(scores, dim), value)


def _calls(answer: Answer, advice: str, **inputs: Any) -> Any:
    """Call the answer; where it raises, say what it most likely forgot."""
    try:
        return answer(**inputs)
    except AnswerRaised as error:
        where = f" in the line: {error.line}" if error.line else ""
        raise Broken(
            f"{advice} It raises {error.kind}{where} ({error.detail}).", inputs=inputs
        ) from None


def _same_gradients(
    answer: Answer,
    formula: Callable[..., Tensor],
    names: Iterable[str],
    why: str,
    *,
    atol: float = 1e-6,
    **inputs: Any,
) -> None:
    """Compare the gradients of the summed value with those of a formula in float64."""
    names = list(names)
    found = answer.gradients(*names, **inputs)
    exact = {name: inputs[name].double().requires_grad_() for name in names}
    expected = torch.autograd.grad(formula(**{**inputs, **exact}).sum(), list(exact.values()))
    for name, want in zip(names, expected, strict=True):
        have = found[name]
        if have is None:
            raise Broken(
                f"no gradient reaches {name}: it leaves the graph on the way (.detach(), .data, "
                "numpy, torch.no_grad or torch.tensor(...) of a tensor). Nothing could be learnt.",
                inputs=inputs,
            )
        compare(
            have,
            want,
            f"the gradient of the value's sum in {name} is wrong: {why}",
            atol=atol,
            inputs=inputs,
        )


_nothing_changes = partial(
    nothing_changes,
    reason="it changes {changed} in place. Whoever called it still needs the old values: "
    "`x = x + y` makes a new tensor, `x += y` overwrites the caller's.",
    law="No input is changed in place",
    hints=(
        "Operators with = (`+=`, `/=`) and methods with _ at the end (`masked_fill_`) write into "
        "the tensor they are given.",
        "Write `x = x + y` and `scores.masked_fill(…)` instead.",
    ),
)


# --- causal_mask -------------------------------------------------------------------------------


def _lower(tokens: int, reach: int = 0) -> Tensor:
    """True where key ≤ query + reach, made entry by entry."""
    rows = [[key <= query + reach for key in range(tokens)] for query in range(tokens)]
    return torch.tensor(rows)


def _three_tokens(answer: Answer, generator: torch.Generator) -> None:
    for tokens in (3, 2):
        mask = answer(tokens=tokens)
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            expected, shown = _lower(tokens), {"tokens": tokens}
            additive = mask.is_floating_point() and bool(torch.isinf(mask).any())
            require(
                False,
                "this is an additive mask, 0 and −∞ to be added to scores. Here a mask is bool: "
                "True where a query may look."
                if additive
                else f"its entries are {str(mask.dtype).removeprefix('torch.')}, not bool. "
                "Comparing two tensors gives bool; so does `.bool()`.",
                inputs=shown,
                expected=expected,
                actual=mask,
            )
        compare(
            mask,
            _lower(tokens),
            "token number n (row n) may look at the tokens 0 to n, and at no later one.",
            unlike={
                "this is the opposite: it marks what is hidden. Here True means *may look*.": (
                    ~_lower(tokens)
                ),
                "this lets a token look at itself and what comes after it. Rows are queries and "
                "columns keys: True where key ≤ query.": _lower(tokens).T,
                "this lets a token see what came before but not itself. The first token would see "
                "nothing at all, and its softmax would be 0/0.": _lower(tokens, -1),
                "this lets a token see the one after it, which it is to predict.": (
                    _lower(tokens, 1)
                ),
                "this lets every token see itself alone.": torch.eye(tokens).bool(),
                "this hides nothing: every token sees the future.": torch.ones(
                    tokens, tokens, dtype=torch.bool
                ),
            },
            inputs={"tokens": tokens},
        )
    _mask_of(answer, _some_tokens(generator))


def _some_tokens(generator: torch.Generator) -> int:
    """Draw a number of tokens."""
    return int(torch.randint(12, 60, (), generator=generator))


def _whole_past(answer: Answer, generator: torch.Generator) -> None:
    for tokens in (5, _some_tokens(generator)):
        mask = _mask_of(answer, tokens)
        query, key = _first(~mask & _lower(tokens))
        require(
            query is None,
            f"of {tokens} tokens, token {query} does not see token {key}, which came before it. "
            "All of the past is seen, however far back.",
            inputs={"tokens": tokens},
            expected=_lower(tokens),
            actual=mask,
        )


def _no_future(answer: Answer, generator: torch.Generator) -> None:
    for tokens in (5, _some_tokens(generator)):
        mask = _mask_of(answer, tokens)
        query, key = _first(mask & ~_lower(tokens))
        require(
            query is None,
            f"of {tokens} tokens, token {query} sees token {key}, which comes after it. A model "
            "trained so copies the answer instead of predicting it.",
            inputs={"tokens": tokens},
            expected=_lower(tokens),
            actual=mask,
        )


def _one_token(answer: Answer, generator: torch.Generator) -> None:
    expect(
        answer,
        torch.ones(1, 1, dtype=torch.bool),
        "a single token sees itself: [[True]], with two axes like any other mask.",
        tokens=1,
    )


def _mask_of(answer: Answer, tokens: int) -> Tensor:
    mask = answer(tokens=tokens)
    right_kind = isinstance(mask, Tensor) and mask.dtype == torch.bool
    require(
        right_kind and mask.shape == (tokens, tokens),
        f"for {tokens} tokens it does not give a bool tensor of shape [{tokens}, {tokens}].",
        inputs={"tokens": tokens},
    )
    return mask  # type: ignore[no-any-return]


def _first(wrong: Tensor) -> tuple[int, int] | tuple[None, None]:
    """Row and column of the first true entry."""
    found = wrong.nonzero().tolist()
    return (found[0][0], found[0][1]) if found else (None, None)


CAUSAL_MASK = Exercise(
    id="causal_mask",
    title="A mask that hides the future",
    minutes=5,
    difficulty=1,
    reference=causal_mask,
    parameters="tokens",
    may_call="torch.arange, comparisons, torch.ones, torch.tril and the like",
    contracts=(
        Contract(
            "three_tokens",
            "Of three tokens the first sees one, the second two, the third all three",
            0.5,
            _three_tokens,
            (
                "Write the 3 × 3 table on paper first: a row for each token that looks (query), a "
                "column for each token that is looked at (key).",
                "Number the tokens with `position = torch.arange(tokens)`. A row and a column of "
                "such numbers, compared, give a table of True and False.",
                "`return position[None, :] <= position[:, None]`",
            ),
        ),
        Contract(
            "whole_past",
            "Every earlier token is seen, however far back",
            0.5,
            _whole_past,
            (
                "The lower left corner belongs to the last token and the first: it is True.",
                "The only condition is key <= query; nothing bounds how far back.",
            ),
        ),
        Contract(
            "no_future",
            "No later token is seen, whatever the number of tokens",
            0.5,
            _no_future,
            (
                "Nothing above the diagonal is True, for 17 tokens as for 3.",
                "Build the mask from `tokens`, with no number of your own in it.",
            ),
        ),
        Contract(
            "one_token",
            "The mask of a single token is [[True]]",
            0.5,
            _one_token,
            (
                "Does the mask of one token still have two axes?",
                "Leave out `squeeze`; `[None, :]` and `[:, None]` keep both axes.",
            ),
        ),
    ),
)


# --- scaled_dot_product_attention --------------------------------------------------------------


def _averages(answer: Answer, generator: torch.Generator) -> None:
    for queries, keys, width in ((2, 3, 2), (1, 2, 4)):
        query = torch.zeros(queries, width)
        key, value = _readable(generator, keys, width), _readable(generator, keys, 2)
        mean = value.double().mean(0).expand(queries, 2)
        expect(
            answer,
            mean,
            "a query of zeros matches every key alike (all scores are 0), so every key has the "
            "same weight and the value is the plain mean of the values.",
            unlike={
                "the scores themselves weigh the values. A softmax makes weights of scores: above "
                "0, and with the sum 1.": torch.zeros_like(mean),
                "the values are added up, not averaged: the weights of a query do not sum to 1. "
                "Does the softmax run over the keys, the last axis?": keys * mean,
                "the softmax runs over the queries. Each query shares its weights out among the "
                "keys, which are the last axis of the scores.": keys / queries * mean,
                "this averages the keys. Keys decide the weights; averaged are the values.": (
                    key.double().mean(0).expand(queries, width)
                ),
                "this averages what a query sees behind a causal mask; no mask was given.": (
                    _attend(query, key, value, _lower(keys)[:queries])
                ),
            },
            query=query,
            key=key,
            value=value,
        )


def _dot_products(answer: Answer, generator: torch.Generator) -> None:
    # Of width 1, so that the scale is 1 and only the matching is tried.
    for queries, keys in ((1, 2), (2, 3), (4, 3)):
        query, key = _readable(generator, queries, 1) + 0.5, _readable(generator, keys, 1)
        value = _readable(generator, keys, 2)
        exp = torch.exp(query.double() @ key.double().T)
        distance = -(query.double() - key.double().T).abs()
        expect(
            answer,
            _attend(query, key, value),
            "the weights of a query are the softmax of its dot products with the keys: "
            "exp(q · k) over the sum of all keys' exp(q · k).",
            unlike={
                "it is the plain mean of the values, whatever the keys: the dot products of query "
                "and keys do not reach the weights.": value.double().mean(0).expand(queries, 2),
                "the more a key is like the query, the less it weighs: a sign is turned.": _attend(
                    -query, key, value
                ),
                "the softmax runs over the queries. Each query shares its weights out among the "
                "keys, which are the last axis of the scores.": _attend(query, key, value, dim=-2),
                "the exponentials weigh the values but are not divided by their sum.": (
                    exp @ value.double()
                ),
                "it takes the one value whose key fits best. Attention is soft: every key has some "
                "weight.": value.double()[(query @ key.T).argmax(-1)],
                "the weights come from distances between query and key. Here they come from dot "
                "products.": _softmax(distance) @ value.double(),
            },
            query=query,
            key=key,
            value=value,
        )


def _scaled(answer: Answer, generator: torch.Generator) -> None:
    for queries, keys, width, value_width in ((1, 2, 4, 1), (2, 3, 9, 2), (3, 5, 16, 2)):
        query, key = _readable(generator, queries, width), _readable(generator, keys, width)
        value = _readable(generator, keys, value_width)
        expect(
            answer,
            _attend(query, key, value),
            "scores are dot products divided by √width, where width is the length of a query. A "
            "sum of `width` products spreads with √width; divided by it, the spread stays 1.",
            unlike={
                "the scores are not scaled. A sum of `width` products spreads with √width; divided "
                "by √width, the spread stays the same for narrow and wide heads.": _attend(
                    query, key, value, divisor=1
                ),
                "the scores are divided by the width; it is its square root.": _attend(
                    query, key, value, divisor=width
                ),
                "the scores are multiplied by √width; they are divided by it.": _attend(
                    query, key, value, divisor=1 / math.sqrt(width)
                ),
                "the scores are divided by √keys. It is the width of query and key that counts, "
                "the last axis, and not how many keys there are.": _attend(
                    query, key, value, divisor=math.sqrt(keys)
                ),
                "the scores are divided by √(value width). It is the width of query and key that "
                "counts.": _attend(query, key, value, divisor=math.sqrt(value_width)),
                "the weights are scaled after the softmax, so they no longer sum to 1. It is the "
                "scores that are divided.": (
                    _attend(query, key, value, divisor=1) / math.sqrt(width)
                ),
            },
            query=query,
            key=key,
            value=value,
        )


def _masked(answer: Answer, generator: torch.Generator) -> None:
    cases: list[dict[str, Any]] = []
    query, key = _readable(generator, 2, 4), _readable(generator, 3, 4)
    value = _readable(generator, 3, 2) + 2
    mask = torch.tensor([[True, False, True], [True, True, False]])
    cases.append({"query": query, "key": key, "value": value, "mask": mask})
    # The last key is hidden from every query; what lies there is junk that outshines the rest.
    query = _readable(generator, 2, 4).abs() + 0.5
    junk_key, junk_value = torch.cat([key[:2], torch.full((1, 4), 9.0)]), value.clone()
    junk_value[2] = 1e6
    mask = torch.tensor([[True, True, False]]).expand(2, 3).contiguous()
    cases.append({"query": query, "key": junk_key, "value": junk_value, "mask": mask})
    for case in cases:
        query, key, value, mask = case.values()
        weights = _softmax(_scores(query, key))
        expect(
            answer,
            _attend(query, key, value, mask),
            "where the mask is False the weight is exactly 0, and the others still sum to 1: "
            "neither the masked key nor its value, however large, changes anything.",
            unlike={
                "the mask changes nothing: masked keys still have weight.": _attend(
                    query, key, value
                ),
                "the mask is read upside down. True means *may look*, so it is the False entries "
                "that get weight 0.": _attend(query, key, value, ~mask),
                "the weights are set to 0 after the softmax, so those that are left sum to less "
                "than 1. Mask the scores, before the softmax.": (weights * mask) @ value.double(),
                "masked scores become 0, and exp(0) = 1 is a weight like another. They must become "
                "−∞, whose exponential is 0.": (
                    _softmax(_scores(query, key) * mask) @ value.double()
                ),
                "the bool mask is added to the scores, as 0 and 1. Masked scores must become −∞.": (
                    _softmax(_scores(query, key) + mask) @ value.double()
                ),
            },
            **case,
        )


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return query.double() @ key.double().transpose(-2, -1) / math.sqrt(query.shape[-1])


def _order_of_keys(answer: Answer, generator: torch.Generator) -> None:
    for tokens in (2, 4):
        query, key = _readable(generator, tokens, 2), _readable(generator, tokens, 2)
        value = _readable(generator, tokens, 2)
        order = torch.arange(tokens).flip(0)
        inputs = {"query": query, "key": key[order], "value": value[order]}
        compare(
            answer(**inputs),
            answer(query=query, key=key, value=value),
            "attention knows no order: keys given in another order, each with its value, make the "
            "same average. Here the order of the keys changed the value.",
            unlike={
                "without a mask, later keys are hidden, as if a causal mask had been given. What "
                "may be seen is for the caller to say.": _attend(
                    inputs["query"], inputs["key"], inputs["value"], _lower(tokens)
                ),
            },
            inputs=inputs,
        )


def _leading_axes(answer: Answer, generator: torch.Generator) -> None:
    padding = torch.tensor([[True, True, False], [True, False, False]])
    cases = [
        ((2,), None),
        ((2, 2), None),
        ((2, 2), padding[:, None, None, :]),
        ((2, 2), _lower(3)[1:]),
    ]
    for axes, mask in cases:
        query, key = _readable(generator, *axes, 2, 4), _readable(generator, *axes, 3, 4)
        inputs: dict[str, Any] = {
            "query": query,
            "key": key,
            "value": _readable(generator, *axes, 3, 1),
        }
        wrong_axis = (
            {}
            if mask is not None
            else {
                f"the softmax runs over axis {dim}, which is not the keys' once axes for batch and "
                "heads come first. Count from the end: dim=-1.": _attend(**inputs, dim=dim)
                for dim in (0, 1)
            }
        )
        given = {**inputs, "mask": mask}
        value = _calls(
            answer,
            "with axes for batch and heads in front, only the last two axes are to be swapped and "
            "multiplied: key.transpose(-2, -1), not key.T; and a mask is broadcast as it is.",
            **given,
        )
        compare(
            value,
            _attend(**inputs, mask=mask),
            "axes in front of the last two (batch, heads) are kept, and each example and head is "
            "computed as if it stood alone.",
            unlike=wrong_axis,
            inputs=given,
        )


def _large_scores(answer: Answer, generator: torch.Generator) -> None:
    key, value = torch.tensor([[1.0], [-1.0], [0.5]]), torch.tensor([[1.0], [2.0], [3.0]])
    for query in (torch.tensor([[1e4]]), torch.tensor([[-1e4]])):
        expect(
            answer,
            _attend(query, key, value),
            "exp(10000) is infinite in float32, and ∞/∞ is NaN. `softmax` takes the largest score "
            "off all of them first, which changes no weight.",
            query=query,
            key=key,
            value=value,
        )
    query, mask = torch.ones(1, 1), torch.tensor([[True, True, False]])
    key = torch.tensor([[-20000.0], [-20001.0], [1.0]])
    expect(
        answer,
        _attend(query, key, value, mask),
        "very low scores are still scores: only what is masked has weight 0.",
        unlike={
            "all weight goes to the masked key: −10,000, set or added, is not low enough where the "
            'scores that count are low too. Use −∞: float("-inf").': value.double()[2:],
        },
        query=query,
        key=key,
        value=value,
        mask=mask,
    )


def _attention_gradients(answer: Answer, generator: torch.Generator) -> None:
    inputs: dict[str, Any] = {
        "query": _readable(generator, 2, 4),
        "key": _readable(generator, 3, 4),
        "value": _readable(generator, 3, 2),
    }
    _same_gradients(
        answer,
        _attend,
        inputs,
        "part of the way from it to the value was cut off.",
        **inputs,
    )


ATTENTION = Exercise(
    id="scaled_dot_product_attention",
    title="Scaled dot-product attention",
    minutes=15,
    difficulty=2,
    reference=scaled_dot_product_attention,
    parameters="query, key, value, mask=None",
    may_call="matrix products, softmax, masked_fill, torch.where, math.sqrt",
    not_allowed=("torch.nn.functional.scaled_dot_product_attention",),
    contracts=(
        Contract(
            "averages_values",
            "Where all scores are equal, the value is the mean of the values",
            0.5,
            _averages,
            (
                "Three steps: scores (each query with each key), weights (they sum to 1 over the "
                "keys), average of the values.",
                "`weights` is [..., queries, keys] and `value` [..., keys, value width]: what "
                "product of the two is [..., queries, value width]?",
                "`scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])`, then "
                "`return scores.softmax(-1) @ value`",
            ),
        ),
        Contract(
            "dot_products",
            "Weights are the softmax, over the keys, of query · key",
            0.5,
            _dot_products,
            (
                "Which axis of the scores holds the keys? That is the axis the weights sum to 1 "
                "over.",
                "All dot products at once are one matrix product: `query @ key.transpose(-2, -1)`.",
                "`weights = scores.softmax(dim=-1)`",
            ),
        ),
        Contract(
            "scaled",
            "Scores are divided by the square root of the width",
            0.5,
            _scaled,
            (
                "The width is the length of one query: the last entry of its shape.",
                "Divide the scores, before the softmax.",
                "`scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])`",
            ),
        ),
        Contract(
            "masked_keys",
            "A masked key and its value, even huge, change nothing",
            0.5,
            _masked,
            (
                "Which score has the exponential 0?",
                "Where the mask is False, the score becomes −∞: before the softmax.",
                '`if mask is not None: scores = scores.masked_fill(~mask, float("-inf"))`',
            ),
        ),
        Contract(
            "order_of_keys",
            "Keys and values in another order give the same value",
            0.5,
            _order_of_keys,
            (
                "Does your function do something with positions: a mask of its own, a loop that "
                "stops at the query's number?",
                "With mask=None every query sees every key.",
            ),
        ),
        Contract(
            "leading_axes",
            "Axes for batch and heads are kept, and masks are broadcast over them",
            0.5,
            _leading_axes,
            (
                "Name axes from the end, so that it does not matter how many come before.",
                "`.T` turns all axes round; `.transpose(-2, -1)` only the last two. Softmax over "
                "dim=-1.",
            ),
        ),
        Contract(
            "large_scores",
            "The value is finite and right for scores of ±10,000",
            0.5,
            _large_scores,
            (
                "What is exp(10000) in float32?",
                "Use `.softmax(-1)`, or take each row's maximum off its scores before `exp`; and "
                "fill masked scores with −∞ rather than a number you think is low.",
            ),
        ),
        _nothing_changes(
            lambda generator: {
                "query": _readable(generator, 2, 4),
                "key": _readable(generator, 3, 4),
                "value": _readable(generator, 3, 2),
                "mask": _lower(3)[1:],
            }
        ),
        Contract(
            "gradient_flows",
            "Gradients reach query, key and value",
            0.5,
            _attention_gradients,
            (
                "Somewhere a tensor is turned into numbers and back.",
                "Leave out .detach(), .item(), .numpy() and torch.tensor(...): torch operations "
                "all the way.",
            ),
        ),
    ),
)


# --- multi_head_attention ----------------------------------------------------------------------


def _attention_weights(generator: torch.Generator, width: int) -> Weights:
    weights = {}
    for name in PROJECTIONS:
        weights[f"{name}.weight"] = _readable(generator, width, width, scale=0.7)
        weights[f"{name}.bias"] = _readable(generator, width, scale=0.5)
    return weights


def _project(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    weight, bias = weights[f"{name}.weight"].double(), weights[f"{name}.bias"].double()
    return torch.einsum("...i,oi->...o", x.double(), weight) + bias


def _multi_head(
    x: Tensor,
    context: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
    *,
    divisor: float | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Multi-head attention in float64, head after head, on the columns each has of the width."""
    query, key, value = (
        _project(source, weights, name)
        for source, name in ((x, "query"), (context, "key"), (context, "value"))
    )
    width = x.shape[-1]
    size = width // heads
    if mask is not None:
        mask = mask.expand(len(x), heads, x.shape[1], context.shape[1])
    attended = [torch.empty(0)] * width
    for head in range(heads):
        columns = (
            range(head, width, heads) if interleaved else range(head * size, head * size + size)
        )
        own = list(columns)
        seen = None if mask is None else mask[:, head]
        out = _attend(query[..., own], key[..., own], value[..., own], seen, divisor=divisor)
        for place, column in enumerate(own):
            attended[column] = out[..., place]
    return _project(torch.stack(attended, -1), weights, "output")


def _changed(weights: Weights, ending: str, change: Callable[[Tensor], Tensor]) -> Weights:
    """The weights, those of a name's ending changed."""
    return {k: change(v) if k.endswith(ending) else v for k, v in weights.items()}


def _identity(weight: Tensor) -> Tensor:
    return torch.eye(len(weight))


def _without(weights: Weights, name: str) -> Weights:
    """The weights with one projection that does nothing."""
    weights = _changed(weights, f"{name}.weight", _identity)
    return _changed(weights, f"{name}.bias", torch.zeros_like)


def _one_head(answer: Answer, generator: torch.Generator) -> None:
    for queries, width in ((1, 2), (2, 2), (3, 4)):
        x, weights = _readable(generator, 1, queries, width), _attention_weights(generator, width)
        if queries == 1:
            # One token can look at itself only: the value is its projected value.
            aim = (
                "a single token gives all its weight to itself, so the value is "
                "output(value(x)): two projections, y = x Wᵀ + b."
            )
        else:
            aim = (
                "with one head: project x to queries, the context to keys and values, let them "
                "attend, and project the result with output."
            )
        swapped = {
            k.replace("query", "?").replace("key", "query").replace("?", "key"): v
            for k, v in weights.items()
        }
        mistakes = {
            "the weights are used the wrong way round: x W where it is x Wᵀ. torch keeps a "
            "weight as [out, in]; F.linear(x, weight, bias) does it.": _changed(
                weights, ".weight", torch.t
            ),
            "the biases are missing: y = x Wᵀ + b, in all four projections.": _changed(
                weights, ".bias", torch.zeros_like
            ),
            "the output projection is missing: what the heads found still goes through "
            "output.weight and output.bias.": _without(weights, "output"),
            "the values are not projected: it is value(context) that is averaged.": _without(
                weights, "value"
            ),
            "the queries are not projected.": _without(weights, "query"),
            "the keys are not projected.": _without(weights, "key"),
            "the roles are swapped: query.weight projects x, key.weight the context.": swapped,
        }
        values = {k: _multi_head(x, x, w, 1) for k, w in mistakes.items()}
        values["the scores are not divided by √width."] = _multi_head(x, x, weights, 1, divisor=1)
        values[
            "the tokens themselves are added to the value. The residual sum belongs to the "
            "encoder's block, not to attention."
        ] = x + _multi_head(x, x, weights, 1)
        expect(
            answer,
            _multi_head(x, x, weights, 1),
            aim,
            unlike=values,
            x=x,
            context=x,
            weights=weights,
            heads=1,
        )


def _side_by_side(answer: Answer, generator: torch.Generator) -> None:
    for heads, tokens, width in ((2, 2, 4), (2, 3, 4), (3, 2, 6)):
        x, weights = _readable(generator, 1, tokens, width), _attention_weights(generator, width)
        size = width // heads
        query, key, value = (
            _project(x, weights, name).view(1, heads, tokens, size) for name in PROJECTIONS[:3]
        )
        mixed = _attend(query, key, value).reshape(1, tokens, width)
        query, key, value = (
            _project(x, weights, name).view(1, tokens, heads, size).transpose(1, 2)
            for name in PROJECTIONS[:3]
        )
        unmerged = _attend(query, key, value).reshape(1, tokens, width)
        expect(
            answer,
            _multi_head(x, x, weights, heads),
            "head h works on columns h·d to (h+1)·d − 1 of the projected queries, keys and values "
            "(d = width / heads) and puts what it found into the same columns.",
            unlike={
                "there is one head only, whatever `heads` says: all columns were matched "
                "together.": _multi_head(x, x, weights, 1),
                "there is one head only, and its scores are divided by the √ of a narrower "
                "width.": _multi_head(x, x, weights, 1, divisor=math.sqrt(size)),
                "there are two heads, whatever `heads` says.": (_multi_head(x, x, weights, 2)),
                "the heads are interleaved: head h took the columns h, h + heads, … . View as "
                "(…, heads, d), not (…, d, heads).": _multi_head(
                    x, x, weights, heads, interleaved=True
                ),
                "view(batch, heads, tokens, d) cuts through the tokens: a head gets pieces of "
                "several of them. View as (batch, tokens, heads, d), then transpose(1, 2).": (
                    _project(mixed, weights, "output")
                ),
                "the heads were split rightly, but put together without transposing back: "
                "transpose(1, 2) before the last reshape.": _project(unmerged, weights, "output"),
                "the scores are divided by √width; a head is only width / heads wide.": (
                    _multi_head(x, x, weights, heads, divisor=math.sqrt(width))
                ),
                "the scores of a head are not divided by the √ of its width.": (
                    _multi_head(x, x, weights, heads, divisor=1)
                ),
            },
            x=x,
            context=x,
            weights=weights,
            heads=heads,
        )


def _cross_attention(answer: Answer, generator: torch.Generator) -> None:
    for queries, keys in ((2, 2), (2, 3), (3, 1)):
        x, context = _readable(generator, 1, queries, 4), _readable(generator, 1, keys, 4)
        weights = _attention_weights(generator, 4)
        inputs = {"x": x, "context": context, "weights": weights, "heads": 2}
        mistakes = {
            "the context is not used: keys and values come from x.": _multi_head(x, x, weights, 2),
            "x and context are swapped: x asks (query), the context answers (key, value).": (
                _multi_head(context, x, weights, 2)
            ),
        }
        if queries == keys:
            mistakes |= {
                "the values come from x; keys and values come from the context both.": (
                    _keys_and_values(x, context, x, weights)
                ),
                "the keys come from x; keys and values come from the context both.": (
                    _keys_and_values(x, x, context, weights)
                ),
            }
        value = _calls(
            answer,
            "the context may have another number of tokens than x: read each number from its own "
            "tensor.",
            **inputs,
        )
        compare(
            value,
            _multi_head(x, context, weights, 2),
            "queries come from x, keys and values from the context; the value has a row for each "
            "token of x.",
            unlike=mistakes,
            inputs=inputs,
        )


def _keys_and_values(x: Tensor, keys: Tensor, values: Tensor, weights: Weights) -> Tensor:
    """Attention of two heads over keys and values from different tokens."""
    query, key = _project(x, weights, "query"), _project(keys, weights, "key")
    value = _project(values, weights, "value")
    halves = [slice(0, 2), slice(2, 4)]
    out = [_attend(query[..., h], key[..., h], value[..., h]) for h in halves]
    return _project(torch.cat(out, -1), weights, "output")


def _batch(answer: Answer, generator: torch.Generator) -> None:
    for batch, tokens in ((2, 2), (3, 4)):
        x, weights = _readable(generator, batch, tokens, 4), _attention_weights(generator, 4)
        inputs = {"x": x, "context": x, "weights": weights, "heads": 2}
        together = x.reshape(1, batch * tokens, 4)
        value = _calls(
            answer, "with several examples in the batch, the first axis is theirs.", **inputs
        )
        compare(
            value,
            torch.cat([_multi_head(one[None], one[None], weights, 2) for one in x]),
            "each example of a batch is computed as if it stood alone.",
            unlike={
                "the tokens of one example look at those of the others: the batch was read as one "
                "long text.": _multi_head(together, together, weights, 2).view(batch, tokens, 4),
                "every example has the first one's keys and values.": (
                    _multi_head(x, x[:1].expand_as(x), weights, 2)
                ),
            },
            inputs=inputs,
        )


def _masks(answer: Answer, generator: torch.Generator) -> None:
    padding = torch.tensor([[True, True, False], [True, False, False]])[:, None, None, :]
    each_head = torch.stack([_lower(3), _lower(3, -1) | torch.eye(3).bool().flip(0)])[None]
    cases = [(1, padding[:1]), (2, padding), (1, _lower(3)), (1, each_head)]
    for batch, mask in cases:
        x, weights = _readable(generator, batch, 3, 4), _attention_weights(generator, 4)
        mask = mask if bool(mask.any(-1).all()) else mask | torch.eye(3).bool()
        inputs = {"x": x, "context": x, "weights": weights, "heads": 2, "mask": mask}
        mistakes = {
            "the mask changes nothing: hand it on to the attention of the heads.": (
                _multi_head(x, x, weights, 2)
            ),
        }
        if bool((~mask).any(-1).all()):
            mistakes["the mask is read upside down: True means *may look*."] = _multi_head(
                x, x, weights, 2, ~mask
            )
        if mask.shape[-2:] == (1, 3):
            # A key of zeros, projected, is its bias: a key like another.
            hidden = x * mask[:, 0, 0, :, None]
            mistakes[
                "the masked tokens are set to 0 before they are projected. A token of zeros still "
                "has a key and a value (the biases), and still gets weight."
            ] = _multi_head(x, hidden, weights, 2)
        if mask.ndim == 4 and mask.shape[1] > 1:
            mistakes["the first head's mask is used for all heads."] = _multi_head(
                x, x, weights, 2, mask[:, :1]
            )
        value = _calls(
            answer,
            "a mask may have any shape that broadcasts to [batch, heads, queries, keys]: hand it "
            "on as it is.",
            **inputs,
        )
        compare(
            value,
            _multi_head(x, x, weights, 2, mask),
            "a token that the mask hides from a query changes nothing of that query's value.",
            unlike=mistakes,
            inputs=inputs,
        )


def _torch_attention(answer: Answer, generator: torch.Generator) -> None:
    padding = torch.arange(7)[None, :] < torch.tensor([[7], [4]])
    x, context = draw(generator, 2, 5, 24), draw(generator, 2, 7, 24)
    weights = {
        f"{name}.{kind}": draw(generator, *shape, scale=0.3)
        for name in PROJECTIONS
        for kind, shape in (("weight", (24, 24)), ("bias", (24,)))
    }
    exact = {k: v.double() for k, v in weights.items()}
    # torch's axis order is [tokens, batch, width], and its mask is true where a key is hidden.
    expected, _ = F.multi_head_attention_forward(
        x.double().transpose(0, 1),
        *(context.double().transpose(0, 1),) * 2,
        embed_dim_to_check=24,
        num_heads=4,
        in_proj_weight=None,
        in_proj_bias=torch.cat([exact[f"{name}.bias"] for name in PROJECTIONS[:3]]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=exact["output.weight"],
        out_proj_bias=exact["output.bias"],
        training=False,
        key_padding_mask=~padding,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=exact["query.weight"],
        k_proj_weight=exact["key.weight"],
        v_proj_weight=exact["value.weight"],
    )
    expect(
        answer,
        expected.transpose(0, 1),
        "torch's nn.MultiheadAttention gives another value for the same weights (4 heads, width "
        "24, cross-attention, padding).",
        atol=1e-5,
        x=x,
        context=context,
        weights=weights,
        heads=4,
        mask=padding[:, None, None, :],
    )


def _multi_head_gradients(answer: Answer, generator: torch.Generator) -> None:
    inputs = {
        "x": _readable(generator, 1, 2, 4),
        "context": _readable(generator, 1, 3, 4),
        "weights": _attention_weights(generator, 4),
        "heads": 2,
    }
    _same_gradients(
        answer,
        _multi_head,
        ("x", "context"),
        "x is reached through the queries, the context through keys and values.",
        atol=1e-5,
        **inputs,
    )


MULTI_HEAD = Exercise(
    id="multi_head_attention",
    title="Several heads side by side",
    minutes=20,
    difficulty=3,
    reference=multi_head_attention,
    parameters="x, context, weights, heads, mask=None",
    may_call="your scaled_dot_product_attention, F.linear, view, reshape, transpose, einsum",
    not_allowed=(
        "torch.nn.MultiheadAttention",
        "torch.nn.functional.multi_head_attention_forward",
        "torch.nn.functional.scaled_dot_product_attention",
    ),
    contracts=(
        Contract(
            "one_head",
            "With one head: project, attend, project the result",
            0.5,
            _one_head,
            (
                "Four projections: x to queries, the context to keys and to values, and at the "
                "end what was found through `output`.",
                '`F.linear(x, weights["query.weight"], weights["query.bias"])` is x Wᵀ + b.',
                "With one head, `scaled_dot_product_attention(query, key, value, mask)` stands "
                "between the projections.",
            ),
        ),
        Contract(
            "heads_side_by_side",
            "Head i has the columns i·dₖ to (i+1)·dₖ − 1 (dₖ = width / heads), before and after",
            1,
            _side_by_side,
            (
                "Project first, all heads at once. Then cut the width into `heads` pieces and let "
                "the heads be an axis in front of the tokens, as if they were a batch.",
                "`.view(batch, tokens, heads, d).transpose(1, 2)` is [batch, heads, tokens, d]. "
                "What undoes it?",
                "`attended.transpose(1, 2).reshape(batch, queries, width)`, then the output "
                "projection.",
            ),
        ),
        Contract(
            "cross_attention",
            "Queries come from x; keys and values from the context, of any length",
            0.5,
            _cross_attention,
            (
                "x asks, the context answers. Which two of the three projections read the context?",
                "The context may be longer or shorter than x: take its number of tokens from "
                "`context.shape[1]`, or leave it to -1.",
            ),
        ),
        Contract(
            "batch",
            "Each example of a batch is computed as if alone",
            0.5,
            _batch,
            (
                "Is the batch still the first axis when the heads attend?",
                "[batch, heads, tokens, d]: matrix products touch the last two axes only, so "
                "neither examples nor heads mix.",
            ),
        ),
        Contract(
            "masks",
            "What the mask hides changes nothing: padding, the future, a head's own mask",
            0.5,
            _masks,
            (
                "The mask has the shape of the scores, [batch, heads, queries, keys], or "
                "broadcasts to it.",
                "Hand it on: `scaled_dot_product_attention(query, key, value, mask)`.",
            ),
        ),
        Contract(
            "same_as_torch",
            "It is what nn.MultiheadAttention computes",
            0.5,
            _torch_attention,
            (
                "All the other laws hold on small inputs. Is there a number in your code that "
                "should be read from a shape?",
                "d is `x.shape[-1] // heads`.",
            ),
        ),
        _nothing_changes(
            lambda generator: {
                "x": _readable(generator, 1, 2, 4),
                "context": _readable(generator, 1, 3, 4),
                "weights": _attention_weights(generator, 4),
                "heads": 2,
                "mask": _lower(3)[1:],
            }
        ),
        Contract(
            "gradient_flows",
            "Gradients reach x and the context",
            0.5,
            _multi_head_gradients,
            (
                "Somewhere a tensor is turned into numbers and back.",
                "Leave out .detach(), .data, .numpy() and torch.tensor(...).",
            ),
        ),
    ),
)


# --- encoder_block -----------------------------------------------------------------------------


def _block_weights(generator: torch.Generator, width: int, inner: int) -> Weights:
    weights = _attention_weights(generator, width)
    for name, out, into in (("expand", inner, width), ("contract", width, inner)):
        weights[f"{name}.weight"] = _readable(generator, out, into, scale=0.7)
        weights[f"{name}.bias"] = _readable(generator, out, scale=0.5)
    for name in ("attention_norm", "output_norm"):
        weights[f"{name}.weight"] = 1 + _readable(generator, width, scale=0.3)
        weights[f"{name}.bias"] = _readable(generator, width, scale=0.3)
    return weights


def _silent(weights: Weights, name: str) -> Weights:
    """The weights with one projection that gives zeros."""
    return _changed(_changed(weights, f"{name}.weight", torch.zeros_like), f"{name}.bias", _zero)


def _zero(bias: Tensor) -> Tensor:
    return torch.zeros_like(bias)


def _normalise(
    x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float, *, root: bool = True
) -> Tensor:
    """LayerNorm by its formula; with ``root`` false, eps is added to the deviation instead."""
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    deviation = (variance + eps).sqrt() if root else variance.sqrt() + eps
    weight, bias = weights[f"{name}_norm.weight"].double(), weights[f"{name}_norm.bias"].double()
    return (x - mean) / deviation * weight + bias


def _gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def _feed(
    x: Tensor, weights: Mapping[str, Tensor], activation: Callable[[Tensor], Tensor] = _gelu
) -> Tensor:
    return _project(activation(_project(x, weights, "expand")), weights, "contract")


def _block(
    x: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: Callable[[Tensor], Tensor] = _gelu,
) -> Tensor:
    x = x.double()
    x = _normalise(x + _multi_head(x, x, weights, heads, mask), weights, "attention", eps)
    return _normalise(x + _feed(x, weights, activation), weights, "output", eps)


def _pre_norm(x: Tensor, weights: Mapping[str, Tensor], heads: int, eps: float = 1e-5) -> Tensor:
    x = x.double()
    first = _normalise(x, weights, "attention", eps)
    x = x + _multi_head(first, first, weights, heads)
    return x + _feed(_normalise(x, weights, "output", eps), weights)


def _no_norm(weights: Weights) -> Weights:
    """The weights with LayerNorms that only normalise: weight 1, bias 0."""
    return _changed(_changed(weights, "norm.weight", torch.ones_like), "norm.bias", _zero)


def _normalised(answer: Answer, generator: torch.Generator) -> None:
    for tokens, width in ((1, 4), (3, 4)):
        x = _readable(generator, 1, tokens, width)
        weights = _no_norm(_block_weights(generator, width, 6))
        inputs = {"x": x, "weights": weights, "heads": 2}
        value = answer(**inputs)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            compare(value, x, "the value has the shape of x.", inputs=inputs)
        value = value.double()
        middle = _multi_head(x, x, weights, 2) + x
        middle = _normalise(middle, weights, "attention", 1e-5)
        unfinished = middle + _feed(middle, weights)
        variance = value.var(-1, correction=0)
        norms_over_tokens = torch.zeros_like(value[0, 0])
        diagnoses = (
            (
                _close(value, _pre_norm(x, weights, 2)),
                "this is pre-norm: LayerNorm before attention and FFN. Here it comes after, as in "
                "the first Transformer and in BERT: LayerNorm(x + attention(x)).",
            ),
            (
                _close(value, unfinished),
                "the last LayerNorm is missing: the block ends with LayerNorm(x + FFN(x)).",
            ),
            (
                _close(variance, torch.full_like(variance, (width - 1) / width), 1e-3),
                "the variance is divided by width − 1. LayerNorm divides by the width: "
                "var(correction=0).",
            ),
            (
                tokens > 1 and _close(value.mean((0, 1)), norms_over_tokens, 1e-3),
                "LayerNorm runs over the tokens. Each token is normalised by itself, over its own "
                "numbers: the last axis.",
            ),
        )
        plain = (
            "the block ends with LayerNorm, and with weight 1 and bias 0 that leaves every token "
            "with mean 0 and variance 1 over the width; this does not."
        )
        reason = next((says for applies, says in diagnoses if applies), plain)
        right = _close(value.mean(-1), torch.zeros_like(variance), 1e-3)
        right = right and _close(variance, torch.ones_like(variance), 1e-3)
        require(right, reason, inputs=inputs, expected=_block(x, weights, 2), actual=value)


def _close(a: Tensor, b: Tensor, atol: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=atol)


def _eps(answer: Answer, generator: torch.Generator) -> None:
    # Attention and FFN give zeros here, so that two LayerNorms in a row are all that is left.
    weights = _silent(_silent(_no_norm(_block_weights(generator, 4, 6)), "output"), "contract")
    x = _readable(generator, 1, 2, 4)

    def norms(first: float, second: float, *, root: bool = True) -> Tensor:
        inner = _normalise(x.double(), weights, "attention", first, root=root)
        return _normalise(inner, weights, "output", second, root=root)

    for eps in (0.5, 1e-3):
        expect(
            answer,
            norms(eps, eps),
            "eps is added to the variance, under the root, in both LayerNorms.",
            unlike={
                "eps is not used: both LayerNorms take 1e-5, whatever is asked for. BERT asks for "
                "1e-12.": norms(1e-5, 1e-5),
                "eps is added to the standard deviation; it belongs under the root, with the "
                "variance.": norms(eps, eps, root=False),
                "eps is used in the first LayerNorm only.": norms(eps, 1e-5),
                "eps is used in the second LayerNorm only.": norms(1e-5, eps),
                "only one LayerNorm was run: there is one after the attention and one after the "
                "FFN.": _normalise(x.double(), weights, "output", eps),
            },
            atol=1e-5,
            x=x,
            weights=weights,
            heads=2,
            eps=eps,
        )


def _feed_forward(answer: Answer, generator: torch.Generator) -> None:
    for tokens, width, inner in ((1, 4, 3), (3, 4, 8)):
        # Drawn wide, so that an eps in the wrong place stays too small to be seen here.
        x = _readable(generator, 1, tokens, width, scale=3)
        weights = _block_weights(generator, width, inner)
        weights = _silent(weights, "output")
        middle = _normalise(x.double(), weights, "attention", 1e-5)
        nothing = _normalise(torch.zeros_like(middle), weights, "attention", 1e-5)

        def close(value: Tensor, weights: Weights = weights) -> Tensor:
            return _normalise(value, weights, "output", 1e-5)

        expect(
            answer,
            close(middle + _feed(middle, weights)),
            "with attention that gives zeros, the block is LayerNorm(y + FFN(y)) with "
            "y = LayerNorm(x), and FFN(y) = contract(GELU(expand(y))).",
            unlike={
                "the activation is ReLU; here it is GELU, as in BERT.": close(
                    middle + _feed(middle, weights, torch.relu)
                ),
                "the activation is GELU's approximation by tanh; here it is the exact one, "
                'F.gelu(x) without approximate="tanh".': close(
                    middle + _feed(middle, weights, lambda h: F.gelu(h, approximate="tanh"))
                ),
                "there is no activation between expand and contract: two linear maps in a row are "
                "one linear map.": close(middle + _feed(middle, weights, lambda h: h)),
                "a second activation follows contract; GELU stands between the two alone.": close(
                    middle + _gelu(_feed(middle, weights))
                ),
                "the residual sum around the FFN is missing: y + FFN(y).": close(
                    _feed(middle, weights)
                ),
                "the residual sum around the attention is missing: x + attention(x).": close(
                    nothing + _feed(nothing, weights)
                ),
                "the FFN reads x from before the first LayerNorm.": close(
                    middle + _feed(x.double(), weights)
                ),
                "the second residual sum starts from the block's input; it is what comes out of "
                "the first LayerNorm that is added.": close(x.double() + _feed(middle, weights)),
                "the first LayerNorm is missing: there is one after the attention's sum and one "
                "after the FFN's.": close(x.double() + _feed(x.double(), weights)),
                "the two LayerNorms' weights are swapped: attention_norm comes first.": _normalise(
                    _normalise(x.double(), weights, "output", 1e-5)
                    + _feed(_normalise(x.double(), weights, "output", 1e-5), weights),
                    weights,
                    "attention",
                    1e-5,
                ),
                "the LayerNorms do not use their weight and bias.": _block(x, _no_norm(weights), 1),
                "the biases of expand and contract are missing.": close(
                    middle + _feed(middle, _without_ffn_biases(weights))
                ),
            },
            atol=1e-5,
            x=x,
            weights=weights,
            heads=1,
        )


def _without_ffn_biases(weights: Weights) -> Weights:
    return _changed(_changed(weights, "expand.bias", _zero), "contract.bias", _zero)


def _attention_part(answer: Answer, generator: torch.Generator) -> None:
    for tokens, heads in ((2, 1), (2, 2), (4, 2)):
        x = _readable(generator, 1, tokens, 4, scale=3)
        weights = _silent(_block_weights(generator, 4, 6), "contract")
        attended = _multi_head(x, x, weights, heads)

        def close(value: Tensor, weights: Weights = weights) -> Tensor:
            inner = _normalise(value, weights, "attention", 1e-5)
            return _normalise(inner, weights, "output", 1e-5)

        expect(
            answer,
            close(x.double() + attended),
            "with an FFN that gives zeros, the block is LayerNorm(LayerNorm(x + attention(x))).",
            unlike={
                "the attention is missing.": close(x.double()),
                "the attention has one head, whatever `heads` says.": close(
                    x.double() + _multi_head(x, x, weights, 1)
                ),
                "the attention hides later tokens, as a decoder's does. An encoder looks both "
                "ways.": close(x.double() + _multi_head(x, x, weights, heads, _lower(tokens))),
                "the residual sum counts x twice.": close(2 * x.double() + attended),
            },
            atol=1e-5,
            x=x,
            weights=weights,
            heads=heads,
        )


def _torch_layer(answer: Answer, generator: torch.Generator) -> None:
    for batch, tokens, width, heads in ((2, 3, 8, 2), (3, 7, 24, 4)):
        x, weights = (
            draw(generator, batch, tokens, width),
            _block_weights(generator, width, 2 * width),
        )
        weights = {k: v if "norm" in k else v * 4 / width for k, v in weights.items()}
        expect(
            answer,
            _run_torch_layer(x, weights, heads),
            "torch's nn.TransformerEncoderLayer (post-norm, GELU, no dropout) gives another value "
            "for the same weights.",
            unlike={
                "the tokens of one example look at those of the others: the batch was read as one "
                "long text.": _block(x.reshape(1, -1, width), weights, heads).view_as(x),
            },
            atol=1e-5,
            x=x,
            weights=weights,
            heads=heads,
        )


def _run_torch_layer(x: Tensor, weights: Weights, heads: int) -> Tensor:
    """Run torch's own layer on these weights, in float64."""
    inner, width = weights["expand.weight"].shape
    # Without initial values: they would be drawn from the generator that everyone shares.
    layer = torch.nn.utils.skip_init(
        nn.TransformerEncoderLayer,
        width,
        heads,
        inner,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        dtype=torch.float64,
        device="cpu",
    )
    parts = {
        "self_attn.out_proj.": "output.",
        "norm1.": "attention_norm.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm2.": "output_norm.",
    }
    state = {t + k: weights[o + k] for t, o in parts.items() for k in ("weight", "bias")}
    for kind in ("weight", "bias"):
        rows = [weights[f"{name}.{kind}"] for name in PROJECTIONS[:3]]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(rows)
    layer.load_state_dict(state)
    value: Tensor = layer(x.double()).detach()
    return value


def _padding(answer: Answer, generator: torch.Generator) -> None:
    for real, padded in ((1, 2), (3, 5)):
        x, weights = _readable(generator, 1, padded, 4), _block_weights(generator, 4, 6)
        x[:, real:] *= 3
        mask = (torch.arange(padded) < real)[None, None, None, :]
        inputs = {"x": x, "weights": weights, "heads": 2, "mask": mask}
        value = _calls(
            answer,
            "the mask broadcasts to [batch, heads, queries, keys]: hand it on to the attention as "
            "it is.",
            **inputs,
        )
        if not isinstance(value, Tensor) or value.shape != x.shape:
            compare(value, x, "the value has the shape of x.", inputs=inputs)
        compare(
            value[:, :real],
            _block(x[:, :real], weights, 2),
            "a text must come out the same with and without padding behind it: padding is masked "
            "in the attention.",
            unlike={
                "the mask changes nothing: the text looks at its padding. Hand the mask on to the "
                "attention.": _block(x, weights, 2)[:, :real],
                "the mask is read upside down: True means *may look*, and here the text looks at "
                "its padding alone.": _block(x, weights, 2, ~mask)[:, :real],
            },
            atol=1e-5,
            inputs=inputs,
        )
    x, weights = _readable(generator, 1, 4, 4), _block_weights(generator, 4, 6)
    inputs = {"x": x, "weights": weights, "heads": 2, "mask": _lower(4)}
    compare(
        answer(**inputs),
        _block(x, weights, 2, _lower(4)),
        "under a causal mask [tokens, tokens] no token depends on a later one.",
        atol=1e-5,
        inputs=inputs,
    )


def _block_gradients(answer: Answer, generator: torch.Generator) -> None:
    inputs = {
        "x": _readable(generator, 1, 3, 4),
        "weights": _block_weights(generator, 4, 6),
        "heads": 2,
    }
    _same_gradients(
        answer,
        _block,
        ("x",),
        "it flows through both residual sums, the attention and the FFN.",
        atol=1e-4,
        **inputs,
    )


ENCODER_BLOCK = Exercise(
    id="encoder_block",
    title="A block of an encoder",
    minutes=20,
    difficulty=3,
    reference=encoder_block,
    parameters="x, weights, heads, mask=None, eps=1e-5",
    may_call="your multi_head_attention, F.linear, F.layer_norm, F.gelu",
    not_allowed=("torch.nn.TransformerEncoderLayer",),
    contracts=(
        Contract(
            "normalised",
            "Every token that comes out is normalised over the width",
            0.5,
            _normalised,
            (
                "The block is two lines of the same kind: x = LayerNorm(x + something(x)).",
                "`F.layer_norm(x, x.shape[-1:], weight, bias, eps)` normalises each token over "
                "its width.",
                "`x = F.layer_norm(x + attention, …)`, then `x = F.layer_norm(x + ffn, …)`; the "
                "block returns the second.",
            ),
        ),
        Contract(
            "feed_forward",
            "FFN: expand, exact GELU, contract; added to what it read; normalised",
            1,
            _feed_forward,
            (
                "What does the FFN read, and what is its result added to? Both times it is what "
                "comes out of the first LayerNorm.",
                '`F.gelu(F.linear(x, weights["expand.weight"], weights["expand.bias"]))` is the '
                "inner layer; contract follows without an activation.",
                "`x = F.layer_norm(x + contracted, x.shape[-1:], "
                'weights["output_norm.weight"], weights["output_norm.bias"], eps)`',
            ),
        ),
        Contract(
            "attention",
            "The tokens' attention to each other is added to them",
            1,
            _attention_part,
            (
                "Self-attention: the tokens are their own context.",
                "`attention = multi_head_attention(x, x, weights, heads, mask)`",
                "`x = F.layer_norm(x + attention, x.shape[-1:], "
                'weights["attention_norm.weight"], weights["attention_norm.bias"], eps)`',
            ),
        ),
        Contract(
            "eps",
            "Both LayerNorms add eps to the variance",
            0.5,
            _eps,
            (
                "eps keeps a token of equal numbers from being divided by 0. It is an argument: "
                "where does it go?",
                "It is the last argument of `F.layer_norm`, in both calls.",
            ),
        ),
        Contract(
            "same_as_torch",
            "It is what nn.TransformerEncoderLayer computes, to 1e-5",
            1,
            _torch_layer,
            (
                "The other laws hold on one example at a time. What happens with several in a "
                "batch?",
                "Keep x at [batch, tokens, width] throughout; LayerNorm and FFN need no reshape.",
            ),
        ),
        Contract(
            "padding",
            "Padding behind a text changes nothing of it",
            0.5,
            _padding,
            (
                "Only in one place do tokens look at each other.",
                "`multi_head_attention(x, x, weights, heads, mask)`: LayerNorm and FFN work on "
                "each token alone and need no mask.",
            ),
        ),
        _nothing_changes(
            lambda generator: {
                "x": _readable(generator, 1, 3, 4),
                "weights": _block_weights(generator, 4, 6),
                "heads": 2,
                "mask": _lower(3),
            }
        ),
        Contract(
            "gradient_flows",
            "The gradient reaches x through both sums",
            0.5,
            _block_gradients,
            (
                "Somewhere a tensor leaves the graph, or part of it is treated as a constant.",
                "Leave out .detach(), .data and torch.no_grad(); mean and variance of a LayerNorm "
                "are part of the graph too.",
            ),
        ),
    ),
)


# --- macro_f1 ----------------------------------------------------------------------------------


def _counts(predictions: Tensor, labels: Tensor, classes: int) -> list[tuple[int, int, int]]:
    """True positives, false positives and false negatives of each class."""
    pairs = list(zip(predictions.tolist(), labels.tolist(), strict=True))
    return [
        (
            sum(p == c and t == c for p, t in pairs),
            sum(p == c and t != c for p, t in pairs),
            sum(p != c and t == c for p, t in pairs),
        )
        for c in range(classes)
    ]


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return _ratio(sum(values), len(values))


def _right_and_wrong(predictions: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """The macro-F1 under ``"right"``, and what plausible mistakes give."""
    counts = _counts(predictions, labels, classes)
    f1 = [_ratio(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in counts]
    precision = [_ratio(tp, tp + fp) for tp, fp, fn in counts]
    recall = [_ratio(tp, tp + fn) for tp, fp, fn in counts]
    support = [tp + fn for tp, fp, fn in counts]
    there = [f for f, n in zip(f1, support, strict=True) if n]
    seen = [f for f, (tp, fp, fn) in zip(f1, counts, strict=True) if tp + fp + fn]
    p, r = _mean(precision), _mean(recall)
    return {
        "right": _mean(f1),
        "classes without examples among the labels are left out of the mean. `classes` says how "
        "many count.": _mean(there),
        "classes that are neither there nor predicted are left out of the mean. They count, with "
        "F1 0.": _mean(seen),
        "a class that is neither there nor predicted has F1 1 here; it is agreed to be 0.": _mean(
            f if tp + fp + fn else 1.0 for f, (tp, fp, fn) in zip(f1, counts, strict=True)
        ),
        "this is a percentage. Here a score lies between 0 and 1.": 100 * _mean(f1),
        "the F1 of the classes are added up, but not divided by their number.": sum(f1),
        "this is the accuracy (which is also micro-F1): classes count by how many examples they "
        "have. Macro means the mean over classes.": _mean(
            (predictions == labels).double().tolist()
        ),
        "the classes are weighed by how many examples they have. Macro means that each counts the "
        "same.": _ratio(sum(f * n for f, n in zip(f1, support, strict=True)), sum(support)),
        "this is the mean precision, TP / (TP + FP). F1 counts what was missed (FN) as well.": p,
        "this is the mean recall, TP / (TP + FN). F1 counts false alarms (FP) as well.": r,
        "this is F1 of the mean precision and the mean recall. Macro-F1 is the mean of the "
        "classes' F1, which is another number.": _ratio(2 * p * r, p + r),
        "this is TP / (TP + FP + FN), the Jaccard index. In F1, TP counts twice above and below.": (
            _mean(_ratio(tp, tp + fp + fn) for tp, fp, fn in counts)
        ),
        "the factor 2 above the line is missing: F1 = 2 TP / (2 TP + FP + FN).": _mean(f1) / 2,
        "this is F1 of class 1 alone; macro-F1 is the mean over all classes.": f1[1],
    }


def _tries(answer: Answer, reason: str, cases: Iterable[tuple[Any, Any, int]], **more: Any) -> None:
    for predictions, labels, classes in cases:
        inputs: dict[str, Any] = {
            "predictions": torch.as_tensor(predictions),
            "labels": torch.as_tensor(labels),
            "classes": classes,
        }
        values = _right_and_wrong(**inputs)
        value = _calls(
            answer,
            "a class may have no true positives, or be neither there nor predicted: then its "
            "F1 is 0.",
            **inputs,
        )
        compare(value, values.pop("right"), reason, unlike=values, inputs=inputs)


def _by_hand(answer: Answer, generator: torch.Generator) -> None:
    _tries(
        answer,
        "count true positives, false positives and false negatives of each class; "
        "F1 = 2 TP / (2 TP + FP + FN); then the mean over the classes.",
        [
            ([0, 1], [0, 1], 2),
            ([0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1], 2),
            ([0, 0, 1, 1, 1, 2, 0, 0], [0, 0, 0, 1, 1, 2, 2, 0], 3),
            (*torch.randint(3, (2, 12), generator=generator), 3),
        ],
    )


def _classes_weigh_alike(answer: Answer, generator: torch.Generator) -> None:
    _tries(
        answer,
        "a class of one example counts as much as a class of nine.",
        [
            ([0] * 10, [0] * 9 + [1], 2),
            ([0] * 8 + [1, 1], [0] * 9 + [1], 2),
        ],
    )


def _absent_classes(answer: Answer, generator: torch.Generator) -> None:
    _tries(
        answer,
        "`classes` says how many classes count. One that is neither there nor predicted has F1 0 "
        "and is part of the mean.",
        [
            ([0, 2, 1], [0, 1, 1], 3),
            ([0, 1, 1, 1, 1], [0, 1, 0, 1, 1], 3),
            ([0, 0, 1], [0, 1, 1], 5),
        ],
    )


def _both_ways(answer: Answer, generator: torch.Generator) -> None:
    for examples in (6, 40):
        one, two = (
            torch.randint(3, (examples,), generator=generator),
            torch.randint(3, (examples,), generator=generator),
        )
        forward = answer(predictions=one, labels=two, classes=3)
        inputs = {"predictions": two, "labels": one, "classes": 3}
        compare(
            answer(**inputs),
            torch.as_tensor(forward),
            "swapping predictions and labels makes false alarms of what was missed and the other "
            "way round; F1 counts both alike, so it stays the same.",
            inputs=inputs,
        )


def _many(answer: Answer, generator: torch.Generator) -> None:
    labels = torch.randint(5, (200,), generator=generator)
    guess = torch.randint(5, (200,), generator=generator)
    sure = torch.rand(200, generator=generator) < 0.7
    predictions = torch.where(sure, labels, guess)
    _tries(
        answer,
        "on 200 examples of five classes the value is another.",
        [(predictions, labels, 5)],
    )


MACRO_F1 = Exercise(
    id="macro_f1",
    title="Macro-F1 from counts",
    minutes=10,
    difficulty=2,
    reference=macro_f1,
    parameters="predictions, labels, classes",
    may_call="comparisons and sums, torch.bincount, sklearn.metrics.confusion_matrix",
    not_allowed=(
        "sklearn.metrics.f1_score",
        "sklearn.metrics.fbeta_score",
        "sklearn.metrics.precision_recall_fscore_support",
        "sklearn.metrics.classification_report",
        "distill_lab.evaluation.accuracy_and_macro_f1",
    ),
    contracts=(
        Contract(
            "by_hand",
            "On a few examples it is what one counts by hand",
            1,
            _by_hand,
            (
                "Take one class at a time. Its F1 needs three counts: found rightly (TP), called "
                "so wrongly (FP), missed (FN).",
                "`((predictions == c) & (labels == c)).sum()` counts the true positives of class "
                "c; the other two counts are alike, with `!=`.",
                "`f1 = 2 * tp / (2 * tp + fp + fn)` for each c in range(classes), and at the end "
                "their sum divided by `classes`.",
            ),
        ),
        Contract(
            "classes_weigh_alike",
            "A rare class counts as much as a frequent one",
            0.5,
            _classes_weigh_alike,
            (
                "Is each class's F1 weighed by the number of its examples somewhere?",
                "The mean divides by the number of classes, not by that of examples.",
            ),
        ),
        Contract(
            "absent_classes",
            "A class that is neither there nor predicted has F1 0 and counts",
            0.5,
            _absent_classes,
            (
                "What does your function do where 2 TP + FP + FN is 0?",
                "Loop over range(classes), not over the classes that occur, and give F1 0 where "
                "there is nothing to divide by.",
                "`max(2 * tp + fp + fn, 1)` below the line does it: TP is 0 there.",
            ),
        ),
        Contract(
            "both_ways",
            "Swapping predictions and labels changes nothing",
            0.5,
            _both_ways,
            (
                "FP and FN swap their roles; does your formula treat them alike?",
                "F1 = 2 TP / (2 TP + FP + FN): the plain sum of FP and FN.",
            ),
        ),
        Contract(
            "many_examples",
            "It holds on 200 examples of five classes",
            0.5,
            _many,
            (
                "Is a number of classes or examples written into your code?",
                "Count with tensors or with plain loops, over range(classes).",
            ),
        ),
        _nothing_changes(
            lambda generator: {
                "predictions": torch.tensor([0, 1, 1, 2]),
                "labels": torch.tensor([0, 1, 2, 2]),
                "classes": 3,
            }
        ),
    ),
)


LESSON = Lesson(
    name="02_transformers",
    title="Transformers: attention, heads, blocks, and a teacher made of them",
    minutes=90,
    difficulty=3,
    exercises=(CAUSAL_MASK, ATTENTION, MULTI_HEAD, ENCODER_BLOCK, MACRO_F1),
)
