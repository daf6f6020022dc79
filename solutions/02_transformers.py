# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Transformers: what teacher and student are made of
#
# **Time** 90 minutes, with a good break after section 5 · **Difficulty** ★★★ · **You need** Python,
# PyTorch tensors, lesson 01
#
# In lesson 01 a teacher and a student were two boxes. In this lesson you open them. You write the
# parts of a Transformer yourself, as pure functions of tensors, and at the end *your* functions,
# fed with the teacher's weights, give the teacher's own numbers. Then you fine-tune the teacher
# and measure it.

# %% [markdown]
# ## What you will be able to do
#
# - compute attention by hand for three tokens, and say what query, key and value are for;
# - write scaled dot-product attention, several heads, and a whole encoder block, and show that
#   they agree with PyTorch and with a published model;
# - say what each mask is for: the *padding mask* and the *causal mask*;
# - tell an encoder (BERT), a decoder (GPT) and an encoder-decoder apart by their masks and by
#   where keys and values come from;
# - say what an encoder returns, and how a classifier turns it into one vector;
# - count a Transformer's parameters and say where they are;
# - compute accuracy and macro-F1 from a confusion matrix, and say when they disagree.
#
# **Time budget.** Run from top to bottom this notebook takes well under a minute on two processor
# cores. One step is done once per machine and then kept: fine-tuning the teacher (section 9), about
# a minute.

# %%
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor, nn

from distill_lab.classroom import (
    fine_tuned_teacher,
    predict,
    recall,
    stored_knowledge,
    task,
    tokenizer,
)
from distill_lab.diagrams import plot_attention, plot_encoder_block, plot_transformer_halves
from distill_lab.evaluation import predict_logits
from distill_lab.exercises import check, progress, use
from distill_lab.knowledge import observe
from distill_lab.models import build_student, count_parameters, encoder_blocks, load_teacher
from distill_lab.plots import PALETTE, canvas
from distill_lab.widgets import attention_viewer

torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## 1 · Why look inside?
#
# Distillation needs very little of a model: only its logits. But whoever builds a student has
# to decide how deep and how wide it is, what may be copied from the teacher, and where parameters
# can be saved. All of this is about the inside of the box.
#
# Our teacher is *all-MiniLM-L6-v2*, an **encoder**: a stack of six equal blocks. Our default
# student is a stack of two narrower ones. The block is that of the original Transformer
# (Vaswani et al. 2017, §3.1), in the form BERT uses (Devlin et al. 2019, §3).
#
# The teacher has a history that fits this course. It descends from *MiniLM*, a 12-block model
# which was itself distilled from a larger BERT-like teacher (Wang et al. 2020, §3). Every second
# block of it was kept (model card of `nreimers/MiniLM-L6-H384-uncased`), and the result was trained
# further on pairs of sentences that belong together (model card of `all-MiniLM-L6-v2`). **Your
# teacher has been a student.**

# %%
plot_encoder_block()

# %% [markdown]
# Follow the arrows. A block takes one vector for each token and gives one vector
# for each token, of the same width. Two things happen in between:
#
# 1. **attention** lets the tokens exchange information: the only place where one token learns
#    about another;
# 2. a **feed-forward network** works on each token alone.
#
# Around each of them stand a *residual connection* (the input is added to the output) and a
# *LayerNorm*. We build these parts one by one.
#
# ### Symbols
#
# | symbol | meaning | teacher | default student |
# |---|---|---|---|
# | $B$ | examples in a batch | | |
# | $n$ | tokens in a sentence, padding counted | | |
# | $d$ | width: the length of a token's vector (`hidden_size`) | 384 | 128 |
# | $L$ | number of blocks | 6 | 2 |
# | $h$ | number of attention heads | 12 | 2 |
# | $d_k$ | width of a query or key within one head, $d / h$ | 32 | 64 |
# | $N$ | number of classes | 5 | 5 |
# | $z$, $p$ | logits, probabilities | | |
#
# ### From text to vectors
#
# A **tokenizer** cuts a text into *word pieces* from a fixed vocabulary and gives their numbers.
# BERT's puts a special piece `[CLS]` before and `[SEP]` behind each text. A batch is a rectangle,
# so shorter texts are filled up with `[PAD]`. `attention_mask` is 1 where a real token stands and 0
# where padding does.

# %%
sentences = [
    "The bank raised its interest rates.",
    "The young midfielder scored twice in the unforgettable final.",
]
tokenize = tokenizer()
batch = dict(tokenize(sentences, padding=True, return_tensors="pt"))
for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
    print(" ".join(tokenize.convert_ids_to_tokens(row.tolist())))
    print(" ".join(str(int(m)) for m in mask), "\n")
print("input_ids", list(batch["input_ids"].shape), "= [batch, tokens]")

# %% [markdown]
# Count the word pieces of *unforgettable*: a word that is not in the vocabulary is spelt in several
# pieces; those that continue a word begin with `##`.
#
# Each number is then looked up in a table of **word embeddings**, one row of width $d$ a word
# piece. Attention, as you will see, does not know the order of its inputs, so a second table gives
# a vector to each *position*, and BERT has a third table that tells a first sentence from a second.
# The three are added and normalised.

# %%
encoder = load_teacher("minilm", label_names=task().label_names)  # not fine-tuned yet
config = encoder.config
tables = encoder.base_model.embeddings

with torch.no_grad():
    word = tables.word_embeddings(batch["input_ids"])  # [batch, tokens, width]
    position = tables.position_embeddings.weight[: word.shape[1]]  # [tokens, width]
    kind = tables.token_type_embeddings.weight[0]  # [width]: all tokens are of a first sentence
    embedded = tables.LayerNorm(word + position + kind)
    observed = encoder(**batch, output_hidden_states=True).hidden_states

print("word embeddings     ", list(word.shape), "= [batch, tokens, width]")
print("position embeddings ", list(position.shape), "= [tokens, width]")
print(
    "number of hidden states:", len(observed), "= the embeddings and", len(observed) - 1, "blocks"
)
print(f"largest difference to hidden_states[0]: {(embedded - observed[0]).abs().max():.1e}")

# %% [markdown]
# `hidden_states[0]` is what enters the first block. `hidden_states[k + 1]` is what block $k$ gives,
# with $k$ counted from 0. This off-by-one is a well-known source of errors; the library therefore
# names layers (`embeddings`, `layer.0`, …) and never takes such an index from you.

# %% [markdown]
# ## 2 · Attention, by hand
#
# Here is the idea. Each token asks a question (its **query**, a vector), each token shows a label
# (its **key**), and each has something to tell (its **value**). A query is compared with all keys.
# The better a key fits, the more of that token's value flows into the answer.
#
# All three are made from the same token vectors $x$ by three learned linear maps, which we call
# $W_q$, $W_k$ and $W_v$. In PyTorch's orientation, $q = x W_q^\top$.
#
# Take three tokens of width 2:
#
# | token | $x$ | | map | |
# |---|---|---|---|---|
# | 1 | (1, 0) | | $W_q$ | rows (1, 1) and (0, 1) |
# | 2 | (0, 1) | | $W_k$ | rows (1, 0) and (0, 1): the identity |
# | 3 | (1, 1) | | $W_v$ | rows (0, 2) and (2, 0) |
#
# **Step 1: queries, keys, values.** For token 3: $q = (1 \cdot 1 + 1 \cdot 1,\; 0 \cdot 1 + 1 \cdot
# 1) = (2, 1)$.
#
# | token | query | key | value |
# |---|---|---|---|
# | 1 | (1, 0) | (1, 0) | (0, 2) |
# | 2 | (1, 1) | (0, 1) | (2, 0) |
# | 3 | (2, 1) | (1, 1) | (2, 2) |
#
# **Step 2: scores.** The score of a query and a key is their dot product. Row = who asks, column =
# who is asked. Token 3 asking token 1: $2 \cdot 1 + 1 \cdot 0 = 2$.
#
# | $q \cdot k$ | key 1 | key 2 | key 3 |
# |---|---|---|---|
# | query 1 | 1 | 0 | 1 |
# | query 2 | 1 | 1 | 2 |
# | query 3 | 2 | 1 | 3 |
#
# **Step 3: scale.** Divide by $\sqrt{d_k} = \sqrt 2 \approx 1.414$. (Section 3 shows why.)
#
# | $q \cdot k / \sqrt{2}$ | key 1 | key 2 | key 3 |
# |---|---|---|---|
# | query 1 | 0.707 | 0 | 0.707 |
# | query 2 | 0.707 | 0.707 | 1.414 |
# | query 3 | 1.414 | 0.707 | 2.121 |
#
# **Step 4: softmax over each row.** Exponentiate ($e^{0.707} = 2.028$, $e^{1.414} = 4.113$,
# $e^{2.121} = 8.342$, $e^0 = 1$), then divide by the row's sum. The rows' sums are 5.056, 8.169 and
# 14.484. Each row is now a probability distribution over the tokens: the **attention weights**.
# (They are rounded to three digits here, so the middle row seems to lack a thousandth.)
#
# | weights | token 1 | token 2 | token 3 | sum |
# |---|---|---|---|---|
# | query 1 | 0.401 | 0.198 | 0.401 | 1 |
# | query 2 | 0.248 | 0.248 | 0.503 | 1 |
# | query 3 | 0.284 | 0.140 | 0.576 | 1 |
#
# **Step 5: mix the values.** Each output is the mean of the values under its row's weights. For
# query 1: $0.401 \cdot (0, 2) + 0.198 \cdot (2, 0) + 0.401 \cdot (2, 2) = (1.198, 1.604)$.
#
# | output | |
# |---|---|
# | token 1 | (1.198, 1.604) |
# | token 2 | (1.503, 1.503) |
# | token 3 | (1.432, 1.720) |
#
# In one line (Vaswani et al. 2017, §3.2.1, eq. 1), with queries, keys and values as the rows of
# matrices $Q$, $K$ and $V$:
#
# $$\text{Attention}(Q, K, V) = \text{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V$$
#
# Never trust a table: the next cell does the same steps in code, compares each with the tables
# above, and stops with an error if one differs by more than rounding.

# %%
x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # [tokens, width]
w_q = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
w_k = torch.eye(2)
w_v = torch.tensor([[0.0, 2.0], [2.0, 0.0]])

by_hand = {
    "queries": [[1, 0], [1, 1], [2, 1]],
    "scores": [[1, 0, 1], [1, 1, 2], [2, 1, 3]],
    "scaled": [[0.707, 0, 0.707], [0.707, 0.707, 1.414], [1.414, 0.707, 2.121]],
    "weights": [[0.401, 0.198, 0.401], [0.248, 0.248, 0.503], [0.284, 0.140, 0.576]],
    "output": [[1.198, 1.604], [1.503, 1.503], [1.432, 1.720]],
}

queries, keys, values = x @ w_q.T, x @ w_k.T, x @ w_v.T
scores = queries @ keys.T
scaled = scores / math.sqrt(2)
exponentials = scaled.exp()
weights = exponentials / exponentials.sum(dim=1, keepdim=True)
output = weights @ values

in_code = dict(queries=queries, scores=scores, scaled=scaled, weights=weights, output=output)
for step, value in in_code.items():
    torch.testing.assert_close(value, torch.tensor(by_hand[step]).float(), rtol=0, atol=6e-4)
    print(f"{step}\n{value}\n")
print("every table agrees with the code to rounding")

# %% [markdown]
# Three things to notice before you go on:
#
# - An output is a **weighted mean of values**: it can never lie outside them. What makes attention
#   powerful is that the weights are computed anew for each input.
# - The weights of a row depend on *all* tokens, and they are not symmetric: compare what query 1
#   gives to token 3 with what query 3 gives to token 1.
# - Nothing in the formula says which token came first.

# %% [markdown]
# ## 3 · Masks, and the function itself
#
# A **mask** says which token may look at which: `True` = may look. There are two uses.
#
# - **Padding mask.** `[PAD]` is there only to fill a rectangle. No token may look at it. The mask
#   depends on the example, and is the same for all queries.
# - **Causal mask.** A model that writes a text from left to right must not see what comes next, or
#   it would learn to copy instead of to predict. The token at position $i$ may look at positions
#   $0, …, i$. The mask depends on the position, and is the same for all examples.
#
# A forbidden score becomes $-\infty$ *before* the softmax. Since $e^{-\infty} = 0$, its weight is
# exactly 0, and the other weights of the row still sum to 1. (Setting weights to 0 *after* the
# softmax is a classic error: the rows no longer sum to 1.)
#
# Start with the causal mask, a square of booleans. For four tokens it should be
#
# | may look | key 0 | key 1 | key 2 | key 3 |
# |---|---|---|---|---|
# | **query 0** | ✓ | | | |
# | **query 1** | ✓ | ✓ | | |
# | **query 2** | ✓ | ✓ | ✓ | |
# | **query 3** | ✓ | ✓ | ✓ | ✓ |


# %% exercise="causal_mask"
def causal_mask(tokens: int) -> Tensor:
    """Say which token may look at which, if none may look ahead.

    Args:
        tokens: Length of the sequence.

    Returns:
        bool [tokens, tokens]: row = query (who looks), column = key (who is looked at),
        True = may look. A token may look at itself and at all before it.
    """
    ### BEGIN SOLUTION
    position = torch.arange(tokens)
    key, query = position[None, :], position[:, None]  # a row and a column: they broadcast
    return key <= query
    ### END SOLUTION


# %%
causal_mask = use(causal_mask)
print(causal_mask(4))

# %% [markdown]
# Now the heart of the lesson: steps 2 to 5 of section 2, for any number of leading dimensions.
# The three dots `...` in the shapes stand for them (batch and heads, later). Some hints on form:
#
# - `key.transpose(-2, -1)` swaps the last two dimensions, whatever comes before;
# - `@` multiplies the last two dimensions and broadcasts the others;
# - the softmax runs over the *keys*, the last dimension of the scores;
# - `scores.masked_fill(where, value)` puts a value where a boolean tensor is true. Mind that our
#   mask is true where a token **may** look.


# %% exercise="scaled_dot_product_attention"
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mix values by how well their keys fit a query: softmax(Q Kᵀ / √d) V.

    Vaswani et al. 2017, §3.2.1, eq. 1.

    Args:
        query: [..., queries, width].
        key: [..., keys, width].
        value: [..., keys, value width].
        mask: bool, broadcastable to [..., queries, keys]; True = may look. No row is wholly
            False. None: all may look at all.

    Returns:
        [..., queries, value width].
    """
    ### BEGIN SOLUTION
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        # Before the softmax, so that the remaining weights of a row still sum to 1.
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1) @ value
    ### END SOLUTION


# %%
scaled_dot_product_attention = use(scaled_dot_product_attention)

free = scaled_dot_product_attention(queries, keys, values)
causal = scaled_dot_product_attention(queries, keys, values, causal_mask(3))
print("all may look at all (the tables above):\n", free)
print("under the causal mask:\n", causal)
print("the value of token 1:\n", values[0])

# %% [markdown]
# Under the causal mask the first row equals the first token's own value: there is nobody else whom
# it may ask. The last row has not changed, because the last token may look at everybody.
#
# The picture shows the three rows of weights for both cases, side by side.


# %%
def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give the weights alone, [queries, keys]: mixing the rows of an identity matrix shows them."""
    return scaled_dot_product_attention(query, key, torch.eye(key.shape[-2]), mask)


maps = {
    "no mask": attention_weights(queries, keys),
    "causal mask": attention_weights(queries, keys, causal_mask(3)),
}
figure, axes = canvas(
    7,
    3.4,
    columns=2,
    title="Attention weights of the worked example",
    alt="Two 3 by 3 grids of attention weights, row = query, column = key. "
    + " ".join(
        f"{k}: {[[round(w, 2) for w in row] for row in v.tolist()]}." for k, v in maps.items()
    ),
)
for axis, (title, shown) in zip(axes, maps.items(), strict=True):
    axis.imshow(shown, cmap="Blues", vmin=0, vmax=1.2)
    axis.set(title=title, xlabel="key: token looked at", ylabel="query: token that looks")
    axis.set_xticks(range(3), ["1", "2", "3"])
    axis.set_yticks(range(3), ["1", "2", "3"])
    axis.grid(False)
    for i in range(3):
        for j in range(3):
            colour = "white" if shown[i, j] > 0.7 else "black"
            axis.text(j, i, f"{shown[i, j]:.3f}", ha="center", va="center", color=colour)
figure

# %% [markdown]
# ### Why divide by $\sqrt{d_k}$?
#
# Suppose the components of a query and a key are independent, with mean 0 and variance 1. The dot
# product $q \cdot k = \sum_{i=1}^{d_k} q_i k_i$ is a sum of $d_k$ terms. Each term has mean 0 and
# variance 1, so the sum has variance $d_k$ (Vaswani et al. 2017, §3.2.1, footnote 4). Its typical
# size is the standard deviation, $\sqrt{d_k}$. Dividing by $\sqrt{d_k}$ brings the variance back to
# 1 for every width.
#
# **Predict.** Queries and keys are drawn with variance 1. When their width grows from 2 to 512, by
# which factor does the variance of the *undivided* dot product grow? Replace the `...` by a number.

# %%
predict("dot_product_variance_factor", ...)

# %%
widths = [2, 8, 32, 128, 512]
keys_each = 16  # tokens that a query chooses from
generator = torch.Generator().manual_seed(0)


def softmax_slope(weights: Tensor) -> Tensor:
    """Mean of Σ p (1 − p), the trace of the softmax's Jacobian: how far it still reacts."""
    return (weights * (1 - weights)).sum(-1).mean()


rows = []
for width in widths:
    q = torch.randn(2000, 1, width, generator=generator)
    k = torch.randn(2000, keys_each, width, generator=generator)
    raw = (q @ k.transpose(-2, -1)).squeeze(1)  # [queries, keys]
    for divided, s in ((False, raw), (True, raw / math.sqrt(width))):
        p = s.softmax(-1)
        rows.append((width, divided, s.var(), p.max(-1).values.mean(), softmax_slope(p)))

print("width  divided   variance   largest weight   slope Σp(1−p)")
for width, divided, variance, largest, slope in rows:
    how = "by √d" if divided else "no"
    print(f"{width:5d}  {how:>7}  {variance:9.2f}  {largest:15.3f}  {slope:14.4f}")

undivided = [float(v) for _, divided, v, _, _ in rows if not divided]
recall("dot_product_variance_factor", round(undivided[-1] / undivided[0], 1))

# %% figure="scaling"
figure, axes = canvas(
    8,
    3.2,
    columns=2,
    title="Dividing by √d keeps the softmax awake",
    alt="Left: variance of the scores against width, log-log; it grows in step with the width when "
    f"undivided (from {undivided[0]:.1f} to {undivided[-1]:.0f}) and stays near 1 when divided. "
    "Right: mean largest of 16 attention weights; undivided it rises from "
    f"{rows[0][3]:.2f} to {rows[-2][3]:.2f}, divided it ends at {rows[-1][3]:.2f}.",
)
for divided, colour, marker, style in ((False, 4, "s", "--"), (True, 0, "o", "-")):
    picked = [row for row in rows if row[1] == divided]
    look = dict(color=PALETTE[colour], marker=marker, linestyle=style)
    label = "divided by √d" if divided else "not divided"
    axes[0].plot(widths, [float(row[2]) for row in picked], label=label, **look)
    axes[1].plot(widths, [float(row[3]) for row in picked], label=label, **look)
axes[0].set(xscale="log", yscale="log", xlabel="width of query and key (log scale)")
axes[0].set_ylabel("variance of the scores (log scale)")
axes[1].set(xscale="log", ylim=(0, 1), xlabel="width of query and key (log scale)")
axes[1].set_ylabel("mean largest weight (0 to 1)")
for axis in axes:
    axis.set_xticks(widths, [str(width) for width in widths])
    axis.minorticks_off()
axes[1].axhline(1 / keys_each, color=PALETTE[6], linestyle=":", label="all keys alike: 1/16")
axes[0].legend()
axes[1].legend()
figure

# %% [markdown]
# The last column of the table is what matters for learning. The derivative of a softmax weight
# $p_i$ in its own score is $p_i (1 - p_i)$. Once one weight is close to 1 and the others close to
# 0, all these derivatives are close to 0: the softmax is **saturated**, and almost no gradient
# reaches the queries and keys. Compare the slopes of the last two rows.
#
# You will meet the same division again in lesson 04, where it has a name: $\sqrt{d_k}$ acts as a
# **temperature** on the scores.

# %% [markdown]
# ## 4 · Several heads
#
# One row of weights can say one thing. But a token may want to ask several questions at once: which
# word does this pronoun stand for, which verb belongs to me, where does the sentence end?
# **Multi-head attention** (Vaswani et al. 2017, §3.2.2) cuts queries, keys and values into $h$
# parts of width $d_k = d / h$, lets each part attend by itself, and joins the results:
#
# $$\text{head}_i = \text{Attention}(Q_i, K_i, V_i), \qquad
# \text{MultiHead} = [\text{head}_1, …, \text{head}_h]\, W_o^\top + b_o$$
#
# The heads cost nothing extra: the maps $W_q, W_k, W_v, W_o$ are $d \times d$ whatever $h$ is. The
# cell below draws the way of the shapes for $n = 3$ tokens, width $d = 4$ and $h = 2$ heads. (Only
# the queries are drawn; keys and values go the same way up to the split.)

# %%
steps = [
    ("x", "3 × 4", (3, 4), None),
    ("queries", "3 × 4", (3, 4), 2),
    ("split: one a head", "2 × 3 × 2", (3, 2), 2),
    ("weights", "2 × 3 × 3", (3, 3), 2),
    ("mixed values", "2 × 3 × 2", (3, 2), 2),
    ("join", "3 × 4", (3, 4), 2),
    ("output map", "3 × 4", (3, 4), None),
]
figure, axis = canvas(
    9,
    2.9,
    title="The way of the shapes: 3 tokens, width 4, 2 heads",
    alt="Seven boxes from left to right. x, 3 by 4; queries, 3 by 4, columns 1-2 of head 1 and "
    "columns 3-4 of head 2; split into two 3 by 2 matrices; two 3 by 3 matrices of weights; two 3 "
    "by 2 matrices of mixed values; joined side by side to 3 by 4; after the output map 3 by 4.",
)


def draw_grid(left: float, top: float, shape: tuple[int, int], colours: Sequence[str]) -> None:
    """Draw a matrix as a grid of cells; column j in ``colours[j]``."""
    for i in range(shape[0]):
        for j in range(shape[1]):
            axis.add_patch(
                type(axis.patch)(
                    (left + j, top - i - 1), 1, 1, facecolor=colours[j], edgecolor="white", lw=1.5
                )
            )


left = 0.0
head_colours, plain = (PALETTE[5], PALETTE[1]), "#B8B8B8"
for number, (name, size, shape, heads_drawn) in enumerate(steps):
    stacked = size.startswith("2 ×")
    wide = shape[1]
    if stacked:
        for head in range(2):
            draw_grid(left, 7.4 - 3.8 * head, shape, [head_colours[head]] * wide)
            axis.text(
                left + wide / 2, 7.6 - 3.8 * head, f"head {head + 1}", ha="center", fontsize=8
            )
    else:
        halves = [head_colours[0]] * 2 + [head_colours[1]] * 2
        draw_grid(left, 5.5, shape, halves if heads_drawn else [plain] * 4)
    axis.text(left + wide / 2, -0.9, name, ha="center", fontsize=8.5)
    axis.text(left + wide / 2, -1.9, size, ha="center", fontsize=8.5, family="monospace")
    if number < len(steps) - 1:
        arrow = dict(arrowstyle="->", color="#595959")
        axis.annotate("", (left + wide + 1.7, 4), (left + wide + 0.3, 4), arrowprops=arrow)
    left += wide + 2.0
axis.set(xlim=(-0.6, left), ylim=(-2.4, 8.6))
axis.set_aspect("equal")
axis.axis("off")
figure

# %% [markdown]
# The same in general, with a batch in front. `context` is where keys and values come from. In
# **self-attention** it is `x` itself; in **cross-attention** (section 6) it is another sequence.
#
# | step | code | shape |
# |---|---|---|
# | input | `x`, `context` | `[batch, queries, width]`, `[batch, keys, width]` |
# | three maps | `F.linear(x, weight, bias)` | `[batch, tokens, width]` |
# | split the width | `.unflatten(-1, (heads, -1))` | `[batch, tokens, heads, width / heads]` |
# | heads before tokens | `.transpose(1, 2)` | `[batch, heads, tokens, width / heads]` |
# | attend | your function | `[batch, heads, queries, width / heads]` |
# | tokens before heads | `.transpose(1, 2)` | `[batch, queries, heads, width / heads]` |
# | join the heads | `.flatten(-2)` | `[batch, queries, width]` |
# | output map | `F.linear(…)` | `[batch, queries, width]` |
#
# The transposition is needed because attention works on the last two dimensions: they must be
# *tokens × width of a head*, and everything before them is "do the same for each". Reshaping
# straight to `[batch, heads, tokens, width / heads]` gives the right shape with the wrong numbers:
# it cuts along the tokens.


# %% exercise="multi_head_attention"
def multi_head_attention(
    x: Tensor,
    context: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Let every token of ``x`` attend to ``context`` with several heads.

    Vaswani et al. 2017, §3.2.2.

    Args:
        x: [batch, queries, width]; the queries are made from it.
        context: [batch, keys, width]; keys and values are made from it.
        weights: "query.weight" [width, width] and "query.bias" [width], and likewise for "key",
            "value" and "output". A map is y = x Wᵀ + b, as in ``F.linear``.
        heads: They lie side by side along the width: head i owns the i-th slice of width / heads.
        mask: bool, broadcastable to [batch, heads, queries, keys]; True = may look.

    Returns:
        [batch, queries, width].
    """

    ### BEGIN SOLUTION
    def linear(name: str, tokens: Tensor) -> Tensor:
        return F.linear(tokens, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def split(tokens: Tensor) -> Tensor:
        """[batch, tokens, width] → [batch, heads, tokens, width / heads]."""
        return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)

    query = split(linear("query", x))
    key = split(linear("key", context))
    value = split(linear("value", context))
    mixed = scaled_dot_product_attention(query, key, value, mask)
    joined = mixed.transpose(1, 2).flatten(-2)  # the heads side by side again
    return linear("output", joined)
    ### END SOLUTION


# %%
multi_head_attention = use(multi_head_attention)


def torch_attention_weights(attention: nn.MultiheadAttention) -> dict[str, Tensor]:
    """Give the weights of torch's attention under our names; torch stacks the first three maps."""
    names = ("query", "key", "value")
    return {
        **{f"{k}.weight": w for k, w in zip(names, attention.in_proj_weight.chunk(3), strict=True)},
        **{f"{k}.bias": b for k, b in zip(names, attention.in_proj_bias.chunk(3), strict=True)},
        "output.weight": attention.out_proj.weight,
        "output.bias": attention.out_proj.bias,
    }


torchs = nn.MultiheadAttention(embed_dim=32, num_heads=4, batch_first=True).eval()
x, context = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
with torch.no_grad():
    ours = multi_head_attention(x, context, torch_attention_weights(torchs), heads=4)
    theirs, _ = torchs(x, context, context)
print("x", list(x.shape), "  context", list(context.shape), "  output", list(ours.shape))
print(f"largest difference to nn.MultiheadAttention: {(ours - theirs).abs().max():.1e}")

# %% [markdown]
# **Attention does not know the order.** If the tokens are shuffled, the outputs are shuffled in the
# same way, and nothing else happens. The next cell shows it on the same weights.

# %%
shuffle = torch.tensor([3, 0, 4, 1, 2])
with torch.no_grad():
    own = torch_attention_weights(torchs)
    straight = multi_head_attention(x, x, own, heads=4)
    shuffled = multi_head_attention(x[:, shuffle], x[:, shuffle], own, heads=4)
difference = (shuffled - straight[:, shuffle]).abs().max()
print(f"shuffle, then attend, against attend, then shuffle: largest difference {difference:.1e}")

# %% [markdown]
# This is why a Transformer adds position embeddings to its input (Vaswani et al. 2017, §3.5).
# Without them, "the dog bit the man" and "the man bit the dog" would be one and the same.

# %% [markdown]
# ## 5 · The encoder block
#
# Three parts are still missing.
#
# **Residual connection.** Instead of $f(x)$ a layer gives $x + f(x)$. What is there is kept, and
# the layer only has to learn what to add. In a deep stack the gradient has a straight way back
# through the sums (He et al. 2016, §3.1; Vaswani et al. 2017, §3.1).
#
# **LayerNorm** (Ba, Kiros, Hinton 2016, §3) brings each token's vector to mean 0 and variance 1,
# over its own $d$ components, then scales and shifts each component by learned $g_i$ and $b_i$:
#
# $$\text{LayerNorm}(x)_i = g_i \cdot \frac{x_i - \mu}{\sqrt{\sigma^2 + \varepsilon}} + b_i, \qquad
# \mu = \frac 1 d \sum_{j=1}^d x_j, \quad \sigma^2 = \frac 1 d \sum_{j=1}^d (x_j - \mu)^2$$
#
# $\varepsilon$ keeps the root away from 0; it belongs to the model, and BERT's is $10^{-12}$, not
# PyTorch's default of $10^{-5}$. The mean runs over the *width of one token*, never over the batch:
# so a token's result does not depend on its neighbours in the batch, in contrast to BatchNorm.
#
# **Feed-forward network (FFN).** Each token by itself: expand to the inner width ($4d$ in BERT), apply a
# non-linear function, contract back to $d$ (Vaswani et al. 2017, §3.3). The original used ReLU;
# BERT uses **GELU** (Hendrycks and Gimpel 2016, §2), $\text{GELU}(x) = x \cdot \Phi(x)$, where
# $\Phi$ is the distribution function of the standard normal. `F.gelu` computes exactly this by
# default. An approximation by tanh is also in use; the cell prints how far it is off.

# %%
one_token = 3 * observed[3][0, 1] + 2  # some vector to normalise: neither mean 0 nor variance 1
normed = F.layer_norm(one_token, (384,))
grid = torch.linspace(-4, 4, 161)
off = (F.gelu(grid) - F.gelu(grid, approximate="tanh")).abs().max()
print(f"largest difference of the tanh approximation from GELU on [-4, 4]: {off:.5f}")
figure, axes = canvas(
    8,
    3.0,
    columns=2,
    title="Two of the parts: LayerNorm and GELU",
    alt="Left: histogram of the 384 components of one token's vector before LayerNorm "
    f"(mean {one_token.mean():.2f}, standard deviation {one_token.std():.2f}) and after (mean 0, "
    f"standard deviation {normed.std():.2f}). Right: GELU and ReLU between -4 and 4; GELU is "
    "smooth, a little negative below 0, and close to ReLU from about 3 on.",
)
for k, (vector, name) in enumerate(((one_token, "before"), (normed, "after"))):
    label = f"{name}: mean {float(vector.mean()):z.2f}, sd {float(vector.std()):.2f}"
    style = dict(histtype="step", linewidth=1.6, linestyle=("--", "-")[k])
    axes[0].hist(vector.numpy(), bins=40, color=PALETTE[(4, 0)[k]], label=label, **style)
axes[0].set(xlabel="value of a component", ylabel="number of components")
axes[0].margins(y=0.4)
axes[0].legend()
axes[1].plot(grid, F.relu(grid), color=PALETTE[4], linestyle="--", label="ReLU")
axes[1].plot(grid, F.gelu(grid), color=PALETTE[0], label="GELU")
axes[1].set(xlabel="input", ylabel="output")
axes[1].legend()
figure

# %% [markdown]
# Now put the block together. In the original order (**post-norm**: the norm stands *behind* the
# sum), which BERT keeps:
#
# $$x \leftarrow \text{LayerNorm}(x + \text{MultiHead}(x, x)), \qquad
# x \leftarrow \text{LayerNorm}(x + \text{contract}(\text{GELU}(\text{expand}(x))))$$
#
# Many later models put the norm *before* each part (pre-norm). The parts are the same, the numbers
# are not; a weight file fits only the order it was trained with.


# %% exercise="encoder_block"
def encoder_block(
    x: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    mask: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Run one encoder block, post-norm, with exact GELU.

    Vaswani et al. 2017, §3.1 and §3.3; Devlin et al. 2019, §3.

    Args:
        x: [batch, tokens, width].
        weights: Those of ``multi_head_attention``, and "attention_norm.weight" and ".bias"
            [width], "expand.weight" [inner, width] and ".bias" [inner], "contract.weight"
            [width, inner] and ".bias" [width], "output_norm.weight" and ".bias" [width].
        heads: Number of attention heads.
        mask: bool, broadcastable to [batch, heads, tokens, tokens]; True = may look.
        eps: ε of both LayerNorms.

    Returns:
        [batch, tokens, width].
    """

    ### BEGIN SOLUTION
    def linear(name: str, tokens: Tensor) -> Tensor:
        return F.linear(tokens, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, tokens: Tensor) -> Tensor:
        width = tokens.shape[-1:]
        return F.layer_norm(tokens, width, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x = norm("attention_norm", x + multi_head_attention(x, x, weights, heads, mask))
    return norm("output_norm", x + linear("contract", F.gelu(linear("expand", x))))
    ### END SOLUTION


# %%
encoder_block = use(encoder_block)


def named(**modules: nn.Module) -> dict[str, Tensor]:
    """Give the weight and bias of some modules as ``name.weight`` and ``name.bias``."""
    return {f"{m}.{k}": v for m, module in modules.items() for k, v in module.named_parameters()}


# Torch's layer: width 32, 4 heads, inner width 64.
layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
for parameter in layer.parameters():  # fresh norms are all ones and zeros: they would hide errors
    nn.init.normal_(parameter, std=0.3)
layer.eval()
layer_weights = torch_attention_weights(layer.self_attn) | named(
    attention_norm=layer.norm1,
    expand=layer.linear1,
    contract=layer.linear2,
    output_norm=layer.norm2,
)

x = torch.randn(3, 6, 32)
real = torch.tensor([6, 4, 2])[:, None] > torch.arange(6)  # [batch, tokens]: lengths 6, 4, 2
with torch.no_grad():
    ours = encoder_block(x, layer_weights, heads=4, mask=real[:, None, None, :])
    theirs = layer(x, src_key_padding_mask=~real)  # torch's mask is true where it may NOT look
difference = (ours - theirs)[real].abs().max()
print(f"largest difference to nn.TransformerEncoderLayer: {difference:.1e}  (allowed: 1e-5)")
assert difference < 1e-5

# %% [markdown]
# Two remarks on that cell. Our mask has shape `[batch, 1, 1, keys]`: it broadcasts over heads and
# queries. And PyTorch's `src_key_padding_mask` has the *opposite* meaning of ours. There is no
# standard, so look it up each time.
#
# ### The real teacher, block by block
#
# Agreeing with a random layer is good. Agreeing with a published model is better. BERT's blocks
# have other names for the same parts; a small table translates them.

# %%
BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}


def bert_weights(block: nn.Module) -> dict[str, Tensor]:
    """Give the weights of a block of BERT under our names."""
    state = block.state_dict()
    return {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in BERT_NAMES.items()
        for kind in ("weight", "bias")
    }


def run_blocks(
    x: Tensor, model: Any, attention_mask: Tensor, start: int = 0, stop: int | None = None
) -> Tensor:
    """Run blocks ``start`` to ``stop`` of a BERT with our own ``encoder_block``.

    Args:
        x: [batch, tokens, width], what enters block ``start``.
        attention_mask: int [batch, tokens], 1 where a token is real.
    """
    mask = attention_mask.bool()[:, None, None, :]
    for block in encoder_blocks(model)[start:stop]:
        x = encoder_block(
            x,
            bert_weights(block),
            heads=model.config.num_attention_heads,
            mask=mask,
            eps=model.config.layer_norm_eps,
        )
    return x


real = batch["attention_mask"].bool()
print("block   fed with the teacher's input   fed with our own output so far")
ours = observed[0]
for k in range(config.num_hidden_layers):
    one = run_blocks(observed[k], encoder, batch["attention_mask"], k, k + 1)
    ours = run_blocks(ours, encoder, batch["attention_mask"], k, k + 1)
    each, chained = (float((y - observed[k + 1])[real].abs().max()) for y in (one, ours))
    print(f"{k:5d}   {each:29.1e}   {chained:30.1e}")
    assert max(each, chained) < 1e-3
print(f"\ntypical size of a component, for comparison: {observed[-1][real].std():.2f}")

# %% [markdown]
# These are the largest differences over all tokens and components. What is left is rounding:
# float32 keeps about seven digits, and the two programs add in another order. If the last column
# had jumped at some block, you would know where to look.
#
# **You have just run a published Transformer with your own code.**

# %% [markdown]
# ## 6 · The decoder: looking back, and looking across
#
# The original Transformer was a translator (Vaswani et al. 2017, §3.1). An *encoder* reads the
# source sentence; a *decoder* writes the translation, one token at a time. A decoder block has
# three parts instead of two:
#
# 1. **self-attention under the causal mask**: what have I written so far?
# 2. **cross-attention**: queries from the decoder, keys and values from the *encoder's output*:
#    what does the source say?
# 3. the feed-forward network.
#
# You have already written all of them. Cross-attention is `multi_head_attention` with another
# `context`.


# %%
def decoder_block(
    x: Tensor, memory: Tensor, weights: Mapping[str, Tensor], heads: int, eps: float = 1e-5
) -> Tensor:
    """Run one decoder block, post-norm.

    Args:
        x: [batch, target tokens, width], what was written so far.
        memory: [batch, source tokens, width], what the encoder returned.
        weights: Those of an encoder block, the attention's behind "self." and again "cross.".

    Returns:
        [batch, target tokens, width].
    """

    def attend(name: str, context: Tensor, mask: Tensor | None = None) -> Tensor:
        own = {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
        return multi_head_attention(x, context, own, heads, mask)

    def linear(name: str, tokens: Tensor) -> Tensor:
        return F.linear(tokens, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, tokens: Tensor) -> Tensor:
        width = tokens.shape[-1:]
        return F.layer_norm(tokens, width, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x = norm("self_norm", x + attend("self.", x, causal_mask(x.shape[1])))
    x = norm("cross_norm", x + attend("cross.", memory))
    return norm("output_norm", x + linear("contract", F.gelu(linear("expand", x))))


def behind(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix before each name."""
    return {prefix + name: value for name, value in weights.items()}


layer = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
for parameter in layer.parameters():
    nn.init.normal_(parameter, std=0.3)
layer.eval()
decoder_weights = {
    **behind("self.", torch_attention_weights(layer.self_attn)),
    **behind("cross.", torch_attention_weights(layer.multihead_attn)),
    **named(self_norm=layer.norm1, cross_norm=layer.norm2, output_norm=layer.norm3),
    **named(expand=layer.linear1, contract=layer.linear2),
}

target, memory = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
with torch.no_grad():
    ours = decoder_block(target, memory, decoder_weights, heads=4)
    theirs = layer(target, memory, tgt_mask=~causal_mask(5))
print("what is written so far, x       ", list(target.shape), "= [batch, target tokens, width]")
print("what the encoder gave, memory   ", list(memory.shape), "= [batch, source tokens, width]")
own, across = ([2, 4, target.shape[1], keys.shape[1]] for keys in (target, memory))
print("weights of the self-attention   ", own, "= [batch, heads, target tokens, target tokens]")
print("weights of the cross-attention  ", across, "= [batch, heads, target tokens, source tokens]")
print("output                          ", list(ours.shape), "= [batch, target tokens, width]")
print(f"largest difference to nn.TransformerDecoderLayer: {(ours - theirs).abs().max():.1e}")

# %% [markdown]
# Source and target have different lengths, and the memory has *one vector for each source token*.
# Cross-attention could not choose among them if the encoder gave a single vector.
#
# ### A later token changes no earlier output
#
# This is what the causal mask promises, and it is the reason why a decoder can be trained on all
# positions of a text at once. Change the last of six tokens, and look at how far each output moves.

# %%
x = torch.randn(1, 6, 32)
changed = x.clone()
changed[:, -1] += 1.0
print("position               0      1      2      3      4      5")
for name, mask in (("no mask", None), ("causal mask", causal_mask(6))):
    with torch.no_grad():
        before = encoder_block(x, layer_weights, 4, mask)
        after = encoder_block(changed, layer_weights, 4, mask)
    moved = (after - before).abs().amax(dim=-1)[0]
    print(f"{name:18}", " ".join(f"{float(m):6.3f}" for m in moved))
    if mask is not None:
        assert not moved[:-1].any()

# %% [markdown]
# Without a mask every output moves. With it, the first five stay *exactly* as they were.
#
# ## 7 · BERT and GPT: the two halves
#
# Look again at the cell you just ran: it used `encoder_block` with a causal mask. A decoder block
# without cross-attention *is* an encoder block with a causal mask. In architecture, that is nearly
# the whole difference between the two best-known families; the rest is what they are trained to
# predict.

# %%
plot_transformer_halves()

# %% [markdown]
# | | BERT | GPT | the whole Transformer |
# |---|---|---|---|
# | half | encoder | decoder, without cross-attention | both |
# | may look | at all real tokens | back only | encoder: at all; decoder: back, and across |
# | learns to | fill in hidden words | predict the next token | translate, in the original |
# | returns | a vector a token | a vector a token | a vector a target token |
# | which has seen | both sides | what came before | the source, and what was written |
# | good for | classifying, tagging, search | writing, continuing | turning text into text |
#
# (Devlin et al. 2019, §3.1; Radford et al. 2018, §3.1; Vaswani et al. 2017, §3.1 and §5.) A GPT
# puts one more linear map behind its last block, from width $d$ to the vocabulary: the logits of
# the next token. A *sequence-to-sequence* task turns one text into another: translation, summaries,
# answers to questions, correction. The decoder then writes one token, looks at the source again,
# writes the next, and so on until it writes an end mark.
#
# Sequence-to-sequence does not *need* two halves: a decoder alone can read the source as the
# beginning of its own text. And an encoder alone can be a classifier's body, which is what we need.
# Our teacher is BERT's half.
#
# ### What the encoder returns
#
# You can find it written that an encoder turns a sentence into "a fixed-length vector". It does
# not. It returns **one vector a token**: as many as there are tokens. To get one vector a sentence,
# something has to *pool* them. Two ways are common:
#
# - **`[CLS]` and a pooler.** BERT takes the vector of the first token, which has looked at all
#   others, as that of the whole (Devlin et al. 2019, §3); its published code sends it through one
#   more linear map and a tanh. Our teacher's classifier does this. Another linear map, the
#   **head**, makes the $N$ logits.
# - **Mean pooling** (Reimers and Gurevych 2019, §3, their default): the mean over all *real*
#   tokens.
#
# The next cell does both with our own blocks, and compares the logits with the model's. (The head
# is fresh from the random generator: this model has not been fine-tuned, so its logits mean nothing
# yet.)


# %%
def pool_cls(states: Tensor, model: Any) -> Tensor:
    """BERT's pooler: the vector of [CLS] through a map and a tanh, [batch, width]."""
    dense = model.base_model.pooler.dense
    return torch.tanh(F.linear(states[:, 0], dense.weight, dense.bias))


def pool_mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over real tokens, [batch, width]."""
    real = attention_mask[..., None].to(states.dtype)  # [batch, tokens, 1]
    return (states * real).sum(1) / real.sum(1)


with torch.no_grad():
    states = run_blocks(embedded, encoder, batch["attention_mask"])
    pooled = pool_cls(states, encoder)
    logits = F.linear(pooled, encoder.classifier.weight, encoder.classifier.bias)
    mean = pool_mean(states, batch["attention_mask"])
    theirs = encoder(**batch).logits

print("the encoder returns  ", list(states.shape), "= [batch, tokens, width]")
print("[CLS] and pooler     ", list(pooled.shape), "= [batch, width]")
print("mean of real tokens  ", list(mean.shape), "= [batch, width]")
print("logits               ", list(logits.shape), "= [batch, classes]")
print(f"largest difference to the model's logits: {(logits - theirs).abs().max():.1e}")

for text in ("Rates rise.", "Rates rise, and with them the price of every new loan."):
    one = dict(tokenize(text, return_tensors="pt"))
    with torch.no_grad():
        shape = list(encoder.base_model(**one).last_hidden_state.shape)
    print(f"{shape}  {text}")

# %% [markdown]
# **One word, several vectors.** The table of word embeddings has one row for *bank*. What the
# encoder gives for it depends on the sentence around it. Compare the first sentence with three
# others by the cosine of the angle between the vectors for *bank* (1 = same direction, 0 = at right
# angles).

# %%
about_bank = [
    "The bank raised its interest rates.",
    "She asked the bank for a cheaper loan.",
    "They had lunch on the bank of the river.",
    "The boat drifted towards the muddy bank.",
]
bank = tokenize.convert_tokens_to_ids("bank")
inputs = dict(tokenize(about_bank, padding=True, return_tensors="pt"))
here = inputs["input_ids"] == bank  # one in each sentence
with torch.no_grad():
    layers = encoder(**inputs, output_hidden_states=True).hidden_states
words = tables.word_embeddings(inputs["input_ids"])[here].detach()
print("cosine with the first sentence's bank")
print("word embedding   after the last block")
for first, last, text in zip(
    F.cosine_similarity(words, words[:1]),
    F.cosine_similarity(layers[-1][here], layers[-1][here][:1]),
    about_bank,
    strict=True,
):
    print(f"{float(first):14.3f}   {float(last):20.3f}   {text}")

# %% [markdown]
# ## 8 · Where are the parameters?
#
# A linear map from width $a$ to width $b$ has $a b + b$ parameters. So, for one block of width $d$
# and inner width $4d$:
#
# | part | parameters | |
# |---|---|---|
# | attention | $4 (d^2 + d)$ | four maps $d \to d$ |
# | feed-forward | $8 d^2 + 5 d$ | $d \to 4d$ and $4d \to d$ |
# | two LayerNorms | $4 d$ | a scale and a shift each |
# | **together** | $12 d^2 + 13 d$ | about $12 d^2$ |
#
# And before the blocks: the table of word embeddings has (size of the vocabulary) $\times\, d$.
#
# **Predict.** The vocabulary has 30,522 word pieces. The teacher has $d = 384$ and 6 blocks, the
# student $d = 128$ and 2 blocks. Which share of all parameters are word embeddings, in per cent, in
# each of them? Guess first, then reach for the formula.

# %%
predict("teacher_word_embeddings_percent", ...)
predict("student_word_embeddings_percent", ...)


# %%
def part_of(name: str) -> str:
    """Say to which part of BERT a parameter belongs, by its name."""
    if "word_embeddings" in name:
        return "word embeddings"
    if "LayerNorm" in name:
        return "LayerNorms"
    if ".embeddings." in name:
        return "position and type embeddings"
    if ".attention." in name:
        return "attention"
    if ".encoder." in name:
        return "feed-forward"
    return "pooler and head"


student = build_student(encoder, "tiny", embeddings="random")
models = {"teacher": encoder, "student": student}
parts: dict[str, Counter[str]] = {who: Counter() for who in models}
for who, model in models.items():
    for name, parameter in model.named_parameters():
        parts[who][part_of(name)] += parameter.numel()

print(f"{'part':30}{'teacher':>12}{'share':>8}{'student':>12}{'share':>8}")
for part in parts["teacher"]:
    print(f"{part:30}", end="")
    for who in models:
        print(f"{parts[who][part]:12,}{parts[who][part] / parts[who].total():8.1%}", end="")
    print()
print(f"{'all':30}{parts['teacher'].total():12,}{'':8}{parts['student'].total():12,}\n")

for who, model in models.items():
    assert parts[who].total() == count_parameters(model)
    d, blocks = model.config.hidden_size, model.config.num_hidden_layers
    norms = 4 * d * blocks + 2 * d  # and one LayerNorm behind the embeddings
    assert parts[who]["LayerNorms"] == norms
    in_blocks = parts[who]["attention"] + parts[who]["feed-forward"] + norms - 2 * d
    assert in_blocks == blocks * (12 * d**2 + 13 * d)
    share = 100 * parts[who]["word embeddings"] / parts[who].total()
    recall(f"{who}_word_embeddings_percent", round(share, 1))

# %% figure="parameters"
figure, axes = canvas(
    8.4,
    3.0,
    rows=2,
    sharex=False,
    title="Where the parameters are",
    alt="Two stacked bars. "
    + " ".join(
        f"{who}, {parts[who].total() / 1e6:.1f} million parameters: "
        + ", ".join(f"{part} {n / parts[who].total():.0%}" for part, n in parts[who].items())
        + "."
        for who in models
    ),
)
hatches = ["", "..", "//", "\\\\", "xx", "--"]
for axis, who in zip(axes, models, strict=True):
    left = 0.0
    for k, (part, number) in enumerate(parts[who].items()):
        millions = number / 1e6
        style = dict(color=PALETTE[k], hatch=hatches[k], edgecolor="white", label=part)
        axis.barh(0, millions, left=left, height=0.6, **style)
        if number / parts[who].total() > 0.08:
            text = f"{number / parts[who].total():.0%}"
            box = dict(facecolor="white", edgecolor="none", pad=1.5)
            axis.text(left + millions / 2, 0, text, ha="center", va="center", bbox=box)
        left += millions
    axis.set_yticks([0], [who])
    axis.set_xlim(0, left * 1.01)
    axis.grid(False)
axes[1].set_xlabel("millions of parameters (each bar has its own scale)")
handles, _ = axes[0].get_legend_handles_labels()
figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8.5)
figure

# %% [markdown]
# Word embeddings shrink with $d$, blocks with $d^2$. So the narrower a model, the more of it is
# vocabulary. Remember this when you read "our student is so many times smaller": by parameters, a
# small student is mostly a dictionary.
#
# **Parameters are not work.** Looking up a row in a table takes no multiplication. In the blocks, a
# map $a \to b$ takes $a b$ multiplications for each token, and attention takes $2 n d$ more
# (scores, and mixing the values).

# %%
news = task()
encoded = news.encode("validation", tokenize)
n = round(sum(encoded["length"][:]) / len(encoded))
print(f"a validation sentence has {n} tokens on average")
work = {}
for who, model in models.items():
    d, blocks = model.config.hidden_size, model.config.num_hidden_layers
    work[who] = blocks * (12 * d**2 + 2 * n * d)
    print(f"{who}: {work[who] / 1e6:.2f} million multiplications a token")
print(f"parameters: {parts['teacher'].total() / parts['student'].total():.1f} times fewer")
print(f"multiplications: {work['teacher'] / work['student']:.1f} times fewer")

# %% [markdown]
# Neither of the two numbers is a speed. How much faster a model is depends on the machine, the
# batch and the depth. Sanh et al. (2019, §3) found that, for a fixed number of parameters, the
# width matters less for the speed than the number of layers; so they halved BERT's *depth* to make
# DistilBERT, and dropped the pooler and the type embeddings as well. Lesson 08 measures speed
# properly.

# %% [markdown]
# ## 9 · Fine-tune the teacher
#
# The encoder knows English, not our five topics; its head is random. `fine_tuned_teacher()` does
# what lesson 01 called step 1. If the teacher is in the cache already, it is loaded in a second or
# so. **If not, it is trained now, once: about a minute on two processor cores, with a progress
# bar.** This is the recipe:
#
# ```python
# teacher = load_teacher("minilm", label_names=task.label_names)
# freeze_layers(teacher, ["embeddings", "layer.0", "layer.1", "layer.2"])
# fine_tune(teacher, task, tokenizer, schedule=Schedule(epochs=1, learning_rate=2e-4))
# ```
#
# - **Labelled sentences only**, with cross-entropy: a teacher learns from hard labels.
# - **The embeddings and the lower three of the six blocks are frozen.** They keep their values.
#   This saves time (no gradients for them, no optimiser state) and protects what pre-training
#   learned from a small data set.
# - **One epoch**, that is, each labelled sentence once.
# - **Learning rate $2 \cdot 10^{-4}$**, larger than the $2$ to $5 \cdot 10^{-5}$ that Devlin et al.
#   (2019, appendix A.3) recommend for fine-tuning all of BERT for two to four epochs. Here only
#   the upper half moves, and it sees each sentence once.
#
# What does frozen mean in numbers? Compare the fine-tuned weights with the published ones, part by
# part.

# %%
teacher = fine_tuned_teacher().cpu().eval()

original = dict(encoder.named_parameters())
moved: dict[str, float] = {}
for name, parameter in teacher.named_parameters():
    layer_of = name.split(".")[3] if ".layer." in name else None
    group = f"block {layer_of}" if layer_of else part_of(name)
    group = "embeddings" if ".embeddings." in name else group
    if "classifier" not in name:  # the head was random in both
        change = float((parameter - original[name]).detach().abs().max())
        moved[group] = max(moved.get(group, 0.0), change)
for group, change in moved.items():
    print(f"{group:16} largest change of a weight: {change:.5f}")

# %% [markdown]
# Now measure it, before and after, on 400 sentences drawn from the validation split. (The *test*
# split is for the final report only; whatever we look at while we build and choose is validation.)

# %%
names = list(news.label_names)
N = len(names)
sample = encoded.shuffle(seed=0).select(range(400))
sample_labels = torch.tensor(sample["label"][:])

sample_logits = {}
for who, model in (("before", encoder), ("after", teacher)):
    sample_logits[who] = predict_logits(model, sample, news.collator(tokenize))
    right = (sample_logits[who].argmax(1) == sample_labels).float().mean()
    print(f"{who} fine-tuning: accuracy {right:.1%} on {len(sample)} validation sentences")
print(f"guessing one of {N} classes at random: {1 / N:.1%}")

# %% [markdown]
# Is the result good? A single sentence, out of its article, often has no topic at all: "He said
# that it was too early to tell." could stand anywhere. So do not expect 100 %.
#
# 400 sentences are few. The course comes with the logits that a teacher of this same recipe gave
# for *all* validation sentences, so we can go on with those and wait for nothing. The stored
# teacher and yours were trained by the same recipe, perhaps on different machines, and float
# arithmetic differs between machines; the next cell says how often the two give the same class.

# %%
store = stored_knowledge("validation")
logits = store.logits(news.validation["id"][:])  # [examples, classes]
labels = torch.tensor(news.validation["label"][:])
predictions = logits.argmax(1)
print("stored logits", list(logits.shape), "  labels", list(labels.shape))

stored_sample = store.logits(sample["id"][:]).argmax(1)
same = (stored_sample == sample_logits["after"].argmax(1)).float().mean()
print(f"your teacher and the stored one agree on {same:.1%} of the {len(sample)} sentences")

# %% [markdown]
# ## 10 · Accuracy and macro-F1, from the confusion matrix
#
# The **confusion matrix** counts everything a classifier did. Row = true class, column = predicted
# class. The diagonal is right; all else is wrong.

# %% figure="confusion"
confusion = torch.zeros(N, N, dtype=torch.int64)
for true, predicted in zip(labels.tolist(), predictions.tolist(), strict=True):
    confusion[true, predicted] += 1

share = confusion / confusion.sum(1, keepdim=True)
worst = (share - torch.eye(N)).argmax()
true_worst, predicted_worst = divmod(int(worst), N)
figure, axis = canvas(
    6,
    4.6,
    title=f"Confusion matrix of the teacher, {len(labels):,} validation sentences",
    alt="Grid of counts, row = true class, column = predicted class. Right: "
    + ", ".join(f"{names[k]} {share[k, k]:.0%}" for k in range(N))
    + f". Most frequent error: {names[true_worst]} taken for {names[predicted_worst]}, "
    f"{share[true_worst, predicted_worst]:.0%} of its row.",
)
image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
for i in range(N):
    for j in range(N):
        text = f"{confusion[i, j]:,}\n{share[i, j]:.0%}"
        dark = float(share[i, j]) > 0.5
        axis.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
axis.set_xticks(range(N), names, rotation=20)
axis.set_yticks(range(N), names)
axis.set(xlabel="predicted class", ylabel="true class")
axis.grid(False)
figure.colorbar(image, ax=axis, label="share of the row (0 to 1)")
figure

# %% [markdown]
# Look at which classes are confused with which. The errors are not spread evenly: some classes are
# more alike than others. A teacher's probabilities carry this, a single hard label does not. Lesson 04
# makes use of it.
#
# For one class $c$, with all others as "not $c$":
#
# | | predicted $c$ | predicted another |
# |---|---|---|
# | **truly $c$** | TP, true positives | FN, false negatives (missed) |
# | **truly another** | FP, false positives (false alarms) | (not needed) |
#
# TP is on the diagonal, TP + FN is the sum of row $c$, TP + FP is the sum of column $c$.
#
# $$\text{precision} = \frac{TP}{TP + FP}, \qquad \text{recall} = \frac{TP}{TP + FN}, \qquad
# F_1 = \frac{2 \cdot \text{precision} \cdot \text{recall}}{\text{precision} + \text{recall}}
# = \frac{2\,TP}{2\,TP + FP + FN}$$
#
# **Accuracy** is the sum of the diagonal over the sum of everything. Each *example* counts alike.
# **Macro-F1** is the plain mean of the $N$ classes' $F_1$. Each *class* counts alike, however rare.
# A class that occurs neither in the labels nor in the predictions has $2\,TP + FP + FN = 0$; its
# $F_1$ is set to 0.


# %% exercise="macro_f1"
def macro_f1(predictions: Tensor, labels: Tensor, classes: int) -> float:
    """Give the unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Args:
        predictions: int [examples], predicted classes, 0 to classes − 1.
        labels: int [examples], true classes.
        classes: Number of classes, whether or not all of them occur.

    Returns:
        A float between 0 and 1; a class with 2 TP + FP + FN = 0 has F1 0.
    """
    ### BEGIN SOLUTION
    # Each pair (true, predicted) as one number, so that counting pairs is counting numbers.
    pairs = labels * classes + predictions
    confusion = pairs.bincount(minlength=classes**2).view(classes, classes)
    hits = confusion.diagonal().double()
    # The row sum is TP + FN and the column sum TP + FP: together the formula's denominator.
    counted = confusion.sum(dim=0) + confusion.sum(dim=1)
    return float((2 * hits / counted.clamp_min(1)).mean())
    ### END SOLUTION


# %%
macro_f1 = use(macro_f1)

print(f"{'class':15}{'precision':>10}{'recall':>10}{'F1':>10}{'sentences':>12}")
for c, name in enumerate(names):
    hits, true, called = confusion[c, c], confusion[c].sum(), confusion[:, c].sum()
    f1 = 2 * hits / (true + called)
    print(f"{name:15}{hits / called:10.3f}{hits / true:10.3f}{f1:10.3f}{true:12,}")

accuracy = confusion.diagonal().sum() / confusion.sum()
ours = macro_f1(predictions, labels, N)
theirs = f1_score(labels, predictions, average="macro")
print(f"\naccuracy  {accuracy:.4f}\nmacro-F1  {ours:.4f}   scikit-learn: {theirs:.4f}")
assert abs(ours - theirs) < 1e-9

# %% [markdown]
# Here the two are close, since our classes are of similar size. They part when classes are not.
# Imagine 1,000 messages, of which 50 are urgent, and three classifiers: one that never says
# "urgent", one that finds most urgent messages at the price of some false alarms, and one that is
# always right.

# %%
urgent = torch.zeros(1000, dtype=torch.int64)
urgent[:50] = 1
lazy = torch.zeros_like(urgent)
careful = urgent.clone()
careful[:10] = 0  # 10 of 50 missed
careful[50:110] = 1  # 60 false alarms
print(f"{'classifier':22}{'accuracy':>10}{'macro-F1':>10}{'urgent found':>14}")
for name, guesses in (("never says urgent", lazy), ("careful", careful), ("perfect", urgent)):
    right = float((guesses == urgent).float().mean())
    found = int(guesses[:50].sum())
    print(f"{name:22}{right:10.3f}{macro_f1(guesses, urgent, 2):10.3f}{found:11d}/50")

# %% [markdown]
# By accuracy the classifier that does nothing beats the one that works. Macro-F1 sees it. When you
# distil for a task with rare classes, report both, and look at the matrix.

# %% [markdown]
# ## 11 · Look: what the teacher attends to
#
# Back to the inside. Your own functions can make the teacher's attention maps. The next cell does
# so for all heads of all blocks on one sentence, compares them with what the model itself reports,
# and looks for three simple patterns, of which some are strong here and some are not: tokens that
# look at the token before, at the token after, and at `[SEP]`. It draws the head in which the first
# pattern is strongest.

# %%
about = [
    "The bank raised its interest rates after prices went up again.",
    "The striker missed a penalty, but she scored in extra time.",
    "The minister said the new law would protect small shops.",
    "The phone folds twice and charges in ten minutes.",
]


def head_maps(x: Tensor, weights: Mapping[str, Tensor], heads: int) -> Tensor:
    """Give the attention weights of all heads, [batch, heads, tokens, tokens]; no padding."""

    def split(name: str) -> Tensor:
        projected = F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        return projected.unflatten(-1, (heads, -1)).transpose(1, 2)

    return attention_weights(split("query"), split("key"))


one = dict(tokenize(about[0], return_tensors="pt"))
pieces = tokenize.convert_ids_to_tokens(one["input_ids"][0].tolist())
heads, depth = teacher.config.num_attention_heads, teacher.config.num_hidden_layers
with torch.no_grad():
    inside = teacher(**one, output_hidden_states=True).hidden_states
    blocks = encoder_blocks(teacher)
    maps = torch.cat([head_maps(inside[k], bert_weights(blocks[k]), heads) for k in range(depth)])
    reported = observe(teacher, one, [f"attentions.layer.{k}" for k in range(depth)])
difference = (maps - torch.cat(list(reported.values()))).abs().max()
print("maps", list(maps.shape), "= [blocks, heads, tokens, tokens]")
print(f"largest difference to the weights that the model reports: {difference:.1e}\n")

patterns = {
    "the token before": maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1),  # [blocks, heads]
    "the token after": maps.diagonal(1, dim1=-2, dim2=-1).mean(-1),
    "[SEP]": maps[..., -1].mean(-1),
}
for what, strength in patterns.items():
    block, head = divmod(int(strength.argmax()), heads)
    print(
        f"most weight on {what:17} block {block}, head {head:2d}: {strength.max():.2f} on average"
    )
print(f"for comparison, uniform weights give {1 / len(pieces):.2f}")

block, head = divmod(int(patterns["the token before"].argmax()), heads)
plot_attention(maps[block, head], pieces, title=f"Block {block}, head {head}")

# %% [markdown]
# Now look around by yourself. In the viewer choose a sentence, a block and a head; row = the token
# that looks, column = the token that is looked at. Do the patterns hold on the other sentences?
# Heads of different blocks have nothing to do with each other, though they share a number.

# %%
attention_viewer(about, teacher, tokenize)

# %% [markdown]
# ## 12 · What could fool us
#
# ### Attention maps look like explanations
#
# It is tempting to read a strong weight as "the model decided because of this word". Jain and
# Wallace (2019) tested this on classifiers with a recurrent encoder: the weights agreed poorly with
# gradient-based measures of importance (§4.1), and quite other weights often gave nearly the same
# output (§4.2). Wiegreffe and Pinter (2019) answered that this depends on what one calls an
# explanation, and on how one tests. The lesson: a map is a *hint* to be tested by an experiment.
#
# Here is a crude experiment of that kind, on our teacher. In one block we replace every attention
# weight by the same number: all queries become zero vectors, so all scores are equal and each token
# takes the plain mean of all values. Then we count how often the predicted class stays the same.
#
# **Predict.** Out of 100 sentences, for how many does the teacher's class stay the same when the
# *last* block's attention is made uniform?

# %%
predict("uniform_last_block_percent", ...)


# %%
def uniform(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set the query map to zero: all scores become 0 and all attention weights equal."""
    zeros = {name: torch.zeros_like(weights[name]) for name in ("query.weight", "query.bias")}
    return {**weights, **zeros}


@torch.no_grad()
def classify(model: Any, inputs: Mapping[str, Tensor], uniform_blocks: set[int]) -> Tensor:
    """Predict classes with our own blocks, some of them with uniform attention; int [batch]."""
    mask = inputs["attention_mask"].bool()[:, None, None, :]
    x = model.base_model.embeddings(inputs["input_ids"])
    for k, block in enumerate(encoder_blocks(model)):
        own = bert_weights(block)
        own = uniform(own) if k in uniform_blocks else own
        heads, eps = model.config.num_attention_heads, model.config.layer_norm_eps
        x = encoder_block(x, own, heads, mask, eps)
    return model.classifier(pool_cls(x, model)).argmax(1)


some = news.collator(tokenize)([sample[k] for k in range(100)])
usual = classify(teacher, some, set())
print("attention made uniform in   same class as before   accuracy")
kept = {}
for blocks in (*({k} for k in range(depth)), set(range(depth))):
    found = classify(teacher, some, blocks)
    which = "all blocks" if len(blocks) > 1 else f"block {min(blocks)}"
    kept[which] = 100 * float((found == usual).float().mean())
    right = 100 * float((found == some["labels"]).float().mean())
    print(f"{which:25}{kept[which]:21.1f} %{right:10.1f} %")
print(f"(nowhere: accuracy {100 * float((usual == some['labels']).float().mean()):.1f} %)")
recall("uniform_last_block_percent", round(kept[f"block {depth - 1}"], 1))

# %% [markdown]
# Read the last two columns with care. Uniform attention still mixes the values of all tokens; only
# the *pattern* is gone. Where the class stays the same for nearly all sentences, the pattern of
# that one block was not needed for it, however convincing it looked in the viewer. With so few
# sentences an accuracy is good to some 8 points either way: do not rank the blocks by it. Compare the
# single blocks with "all blocks": what one block can do without, the model as a whole may well
# need.
#
# ### Padding that is not masked
#
# The same sentence, alone and in a batch with a longer one. With the mask, its logits stay the same
# to rounding. Now "forget" `attention_mask`: BERT then takes all tokens for real, `[PAD]` too.

# %%
short = "Shares fell."
long = "The long-awaited sequel opened in more than three thousand cinemas on the same weekend."
alone = dict(tokenize(short, return_tensors="pt"))
together = dict(tokenize([short, long], padding=True, return_tensors="pt"))
with torch.no_grad():
    by_itself = teacher(**alone).logits[0]
    masked = teacher(**together).logits[0]
    forgotten = teacher(input_ids=together["input_ids"]).logits[0]

print(f"{'':28}" + "".join(f"{name:>15}" for name in names))
for how, z in (
    ("alone", by_itself),
    ("in a batch, masked", masked),
    ("in a batch, mask forgotten", forgotten),
):
    print(f"{how:28}" + "".join(f"{float(v):15.4f}" for v in z) + f"   → {names[z.argmax()]}")
print(f"\nlargest difference to the sentence alone, masked: {(masked - by_itself).abs().max():.1e}")
print(f"largest difference, mask forgotten:              {(forgotten - by_itself).abs().max():.3f}")

# %% [markdown]
# No error, no warning, logits of the right shape: and they depend on which *other* sentence
# happened to be in the batch. In distillation this is poison. The same sentence would have another
# teacher signal in each epoch, and stored logits would not match live ones.
#
# ### A teacher left in training mode
#
# **Dropout** sets a random part of the activations to zero while a model trains. `model.eval()`
# switches it off. Forget that, and the teacher gives another answer each time it is asked.

# %%
torch.manual_seed(0)
for mode in ("train", "eval"):
    teacher.train(mode == "train")
    with torch.no_grad():
        first, second = (teacher(**alone).logits[0] for _ in range(2))
    print(f"{mode:6} asked once: ", " ".join(f"{float(v):8.4f}" for v in first))
    print(f"{'':6} asked again:", " ".join(f"{float(v):8.4f}" for v in second))
    print(f"{'':6} largest difference: {(first - second).abs().max():.4f}\n")
teacher.eval()
assert not teacher.training

# %% [markdown]
# `torch.no_grad()` does not help: it stops gradients, not dropout. And `train()` on a module that
# *owns* the teacher wakes the teacher too. The library freezes a teacher in one place
# (`FrozenTeacher`) whose `train()` does nothing.
#
# ### And two more
#
# - **Off by one.** `hidden_states[0]` is not a block's output. Who pairs `hidden_states[k]` with
#   "layer $k$" supervises the embeddings and leaves the last layer alone.
# - **The wrong norm.** With $\varepsilon = 10^{-5}$ instead of $10^{-12}$, or tanh-GELU instead of
#   the exact one, every shape fits and every number is a little off. Only a comparison with the
#   original, as in section 5, finds it.

# %% [markdown]
# ## On your own
#
# Ungraded; there are no check cells.
#
# 1. In section 5, run the teacher's blocks with `eps=1e-5`, and then with
#    `F.gelu(…, approximate="tanh")` in your block. How large do the differences become? Would you
#    have noticed them in the accuracy?
# 2. Show that one head of width $d$ and $h$ heads of width $d/h$ have equally many parameters but
#    different outputs.
# 3. Replace the causal mask in section 6 by a *window*: each token sees itself and the two before
#    it. After how many blocks can the last token have learnt of the first of ten?
# 4. Swap two words in one of our sentences. How far do the teacher's logits move? Then set the
#    position embeddings to zero (in a copy: `copy.deepcopy(teacher)`) and swap again.
# 5. Which width $d$ gives a two-block student with 1 million parameters and the same vocabulary?
#    What would you give up instead: width, blocks or vocabulary?
# 6. Pool the teacher's last layer by the mean over tokens, and classify each validation sentence by
#    the nearest class mean (computed on labelled sentences). How far is that from the fine-tuned
#    head?
#
# ## Sources
#
# - A. Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, arXiv:1706.03762. §3.1 encoder and
#   decoder stacks, §3.2.1 scaled dot-product attention (footnote 4: the variance), §3.2.2 heads,
#   §3.2.3 the three uses of attention, §3.3 feed-forward, §3.5 positions.
# - J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, *BERT: Pre-training of Deep Bidirectional
#   Transformers for Language Understanding*, NAACL 2019, arXiv:1810.04805. §3 the model and
#   `[CLS]`, §3.1 masked words, appendix A.3 fine-tuning.
# - A. Radford, K. Narasimhan, T. Salimans, I. Sutskever, *Improving Language Understanding by
#   Generative Pre-Training*, OpenAI technical report 2018. §3.1 pre-training, §4.1 the model.
# - K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016,
#   arXiv:1512.03385. §3.1.
# - J. L. Ba, J. R. Kiros, G. E. Hinton, *Layer Normalization*, 2016, arXiv:1607.06450. §3.
# - D. Hendrycks, K. Gimpel, *Gaussian Error Linear Units (GELUs)*, 2016, arXiv:1606.08415. §2.
# - W. Wang et al., *MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
#   Pre-Trained Transformers*, NeurIPS 2020, arXiv:2002.10957. §3.
# - N. Reimers, I. Gurevych, *Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks*, EMNLP
#   2019, arXiv:1908.10084. §3 pooling.
# - V. Sanh, L. Debut, J. Chaumond, T. Wolf, *DistilBERT, a distilled version of BERT: smaller,
#   faster, cheaper and lighter*, 2019, arXiv:1910.01108. §3.
# - S. Jain, B. C. Wallace, *Attention is not Explanation*, NAACL 2019, arXiv:1902.10186. §4.1,
#   §4.2.
# - S. Wiegreffe, Y. Pinter, *Attention is not not Explanation*, EMNLP 2019, arXiv:1908.04626.
#
# ## What to read next
#
# - **Lesson 03** turns to the objective: entropy, cross-entropy and the Kullback-Leibler
#   divergence. There the student will not even be a Transformer, and the losses will not care.
# - Read Vaswani et al. 2017, §3, now: with this lesson done, each sentence of it should be
#   familiar. Figure 1 there shows the two halves of section 7.
# - *The Annotated Transformer* (A. Rush, 2018; A. Huang et al., 2022) goes through the same paper
#   line by line, training included.
# - Wang et al. 2020, §3, for how our teacher's ancestor learned from *its* teacher. Lesson 07
#   implements the idea.

# %%
progress()
