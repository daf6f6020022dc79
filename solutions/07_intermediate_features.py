# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7 · Intermediate features: learning from inside the teacher
#
# So far a student has heard the end of what its teacher has to say: five numbers a sentence. On the
# way to them the teacher computes several hundred thousand others. This lesson builds the three
# losses that make a student learn from those, finds out which layers of two models correspond, and
# asks twice, with care, whether it is worth the trouble.
#
# **You will be able to**
#
# - write the losses on hidden states, on attention maps and on relations, each with its mask, and
#   say what each of them can and cannot see;
# - say what a projection is for, what it forgives, and why a small loss proves little;
# - name layers so that nothing is off by one, and pair them by a named layer map;
# - measure how alike two layers of different width are, and read the heat map without reading into
#   it;
# - show that counting the padding can turn a conclusion round;
# - read an ablation by its intervals, and say what it leaves open.
#
# You need lesson 02 (hidden states, attention, queries and keys, masks) and lesson 03 (KL
# divergence). The notation is that of lesson 02: $n$ tokens in a sentence, padding counted, width
# $d$, $h$ attention heads, $B$ sentences in a batch. What belongs to the student has the index $s$,
# what belongs to the teacher $t$. Plan about 85 minutes. **Budget:** all cells together run in
# about half a minute on two CPU cores. Teacher and students are trained once per machine and then
# kept: two or three minutes, the first time.

# %%
from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from distill_lab.classroom import (
    example_sentences,
    fine_tuned_teacher,
    predict,
    recall,
    result,
    table,
    task,
    tokenizer,
    trained_student,
)
from distill_lab.diagrams import plot_layer_map
from distill_lab.evaluation import seeds_interval
from distill_lab.exercises import check, progress, use
from distill_lab.knowledge import masked_mean, observe
from distill_lab.losses import distillation_loss
from distill_lab.models import build_student, layer_names, width
from distill_lab.plots import PALETTE, canvas
from distill_lab.training import relation_heads
from distill_lab.widgets import layer_map_explorer

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE

# %% [markdown]
# ## Why: what the logits leave out
#
# Three models take part. The **teacher** has six blocks of width 384. Two **students** of the same
# shape, two blocks of width 128: one was distilled on the teacher's logits (lesson 06), the other
# has the same first weights and has not been trained at all. It is here as a control, and it will
# be of use.

# %%
teacher = fine_tuned_teacher()
device = teacher.device
students = {
    "distilled": trained_student(),
    "untrained": build_student(teacher, "tiny", seed=0).eval().to(device),
}
student = students["distilled"]
for name, model in {"teacher": teacher, "student": student}.items():
    config = model.config
    print(
        f"{name}: {config.num_hidden_layers} blocks, width {width(model)}, "
        f"{config.num_attention_heads} heads; layers {', '.join(layer_names(model))}"
    )

# %%
PAIRS = [
    (1, "hidden states: projection, squared error", BLUE),
    (0, "attention maps: KL, heads averaged", GREEN),
    (-1, "relations of queries, keys, values: KL", PINK),
]
figure, axes = canvas(
    8.2,
    3.6,
    title="Where a student can listen",
    alt="Left, a stack of the teacher: embeddings, six blocks of width 384, head. Right, a stack "
    "of the student: embeddings, two blocks of width 128, head. Between the last blocks run "
    "three lines: hidden states, compared through a projection by squared error; attention maps, "
    "by KL, averaged over heads; relations of queries, keys and values, by KL. Between the heads "
    "runs a fourth: logits, by KL, which is all that the student has heard so far. Dotted lines "
    "lead from the student's layer.0 to several of the teacher's: a layer map has to choose.",
)
axes.set(xlim=(0, 100), ylim=(-1, 42))
axes.set_axis_off()


def stack(x: float, boxes: Sequence[tuple[str, float]], wide: float, colour: str) -> None:
    """Draw named boxes above each other, each at its height."""
    for text, y in boxes:
        face = type(axes.patch)((x, y), wide, 3.6, facecolor=colour, alpha=0.25, edgecolor="black")
        axes.add_patch(face)
        axes.text(x + wide / 2, y + 1.8, text, ha="center", va="center", fontsize=8.5)


stack(
    4,
    [("embeddings", 0), *((f"layer.{k}", 5 + 5 * k) for k in range(6)), ("head: 5 logits", 37)],
    20,
    BLUE,
)
stack(82, [("embeddings", 0), ("layer.0", 15), ("layer.1", 30), ("head: 5 logits", 37)], 14, ORANGE)
axes.text(14, 41.4, "teacher, width 384", ha="center", fontsize=8.5, fontweight="bold")
axes.text(89, 41.4, "student, width 128", ha="center", fontsize=8.5, fontweight="bold")
arrow = dict(arrowstyle="<->", linewidth=1.4)
axes.annotate("", (82, 38.8), (24, 38.8), arrowprops={**arrow, "color": BLACK})
axes.text(53, 39.3, "logits: KL (all that was used so far)", ha="center", fontsize=8.5)
for place, _, colour in PAIRS:
    y = 31.8 + 1.3 * place
    axes.annotate("", (82, y), (24, y), arrowprops={**arrow, "color": colour})
for row, (_, text, colour) in enumerate(PAIRS):
    axes.text(53, 27 - 2.8 * row, text, ha="center", fontsize=8.5, color=colour)
for height in (6.8, 11.8, 16.8):
    axes.plot([24, 82], [height, 16.8], color=BLACK, linewidth=0.9, linestyle=":")
axes.text(54, 6, "and lower down? a layer map says", ha="center", fontsize=8.5, style="italic")
figure

# %% [markdown]
# How much is there to hear? Count the numbers for one sentence of 26 tokens, the median length of our
# sentences, and their bytes in float32 for the whole transfer set.

# %%
TOKENS, SENTENCES = 26, len(task().transfer)
d_t, h_t = width(teacher), teacher.config.num_attention_heads
kinds = {
    "logits": len(task().label_names),
    "hidden states of one layer": TOKENS * d_t,
    "attention maps of one block": h_t * TOKENS**2,
    "queries, keys and values of one block": 3 * TOKENS * d_t,
}
table(
    ["signal", "numbers a sentence", "transfer set, stored in float32"],
    [[k, f"{count:,}", f"{4 * count * SENTENCES / 1e6:,.1f} MB"] for k, count in kinds.items()],
)

# %% [markdown]
# A thousand times as much, and more. Three reasons why it may help, each with the doubt that
# belongs to it:
#
# 1. **More signal from each sentence.** Where sentences are few, a target with thousands of
#    components says more than one with five. *But* most of it may be about things that your task
#    never asks for.
# 2. **Guidance on the way.** A deep student gets a target in its middle; it need not find out from
#    the far end what its lower blocks should do. Romero et al. (2015, FitNets, §2) introduced such
#    *hints* to train students that were deeper than their teachers. *But* our student has two
#    blocks.
# 3. **No task at hand.** Whoever compresses a model *before* anybody has a task has no logits of
#    interest. MiniLM, from which our teacher descends, and MiniLMv2 learn from the inside alone
#    (Wang et al. 2020, §3; Wang et al. 2021, §3). *But* we have a task.
#
# Against them stands one plain argument. The student will be judged by its answers. The answers are
# the logits, and a student with the right logits is right, whatever its inside looks like. On a
# classification task, **logits alone may be enough**. Keep both sides in mind until the ablation.
#
# ### Layers have names
#
# A Transformer library gives a list of hidden states. In this course no layer is ever called by its
# place in that list:
#
# | name | what it is | in the library's list |
# |---|---|---|
# | `embeddings` | what enters the first block | `hidden_states[0]` |
# | `layer.0` | what block 0, the first, gives | `hidden_states[1]` |
# | `layer.k` | what block $k$ gives | `hidden_states[k + 1]` |
#
# The error that circulates pairs `hidden_states[i]` with "layer $i$", blocks counted from 0, for as
# many $i$ as there are blocks. Nothing crashes. The embeddings get supervised, and the last block,
# from which the logits are made, does not. You can hear which state is the last: send both
# candidates through the teacher's own head.

# %%
texts = [example["text"] for example in example_sentences()]
own = dict(tokenizer()(texts, padding=True, return_tensors="pt").to(device))
own_mask = own["attention_mask"].bool().cpu()


@torch.no_grad()
def look(model: Any, batch: Mapping[str, Any], features: Sequence[str]) -> dict[str, Tensor]:
    """Observe features of a batch, by their names, on the CPU and without a gradient."""
    return {name: value.cpu() for name, value in observe(model, batch, features).items()}


with torch.no_grad():
    out = teacher(**own, output_hidden_states=True)
    for index in (5, 6):
        again = teacher.classifier(teacher.base_model.pooler(out.hidden_states[index]))
        off = (again - out.logits).abs().max()
        print(f"logits from hidden_states[{index}], largest difference to the model's: {off:.4f}")
named = look(teacher, own, ["hidden_states.layer.5"])["hidden_states.layer.5"]
print("layer.5 is hidden_states[6]:", torch.equal(named, out.hidden_states[6].cpu()))

# %% [markdown]
# `observe` takes names only, and knows all that this lesson needs: `hidden_states.LAYER`,
# `attentions.LAYER`, and `query.LAYER`, `key.LAYER`, `value.LAYER`.

# %%
for name, model in {"teacher": teacher, "student": student}.items():
    last = layer_names(model)[-1]
    wanted = [f"{kind}.{last}" for kind in ("hidden_states", "attentions", "query")]
    for feature, value in look(model, own, wanted).items():
        print(f"{name:8} {feature:24} {list(value.shape)}")

# %% [markdown]
# Sentences and tokens agree, because both models read the same word pieces. Widths do not, nor do
# the heads. Each of the three losses has its own way around that.
#
# ## Hidden states
#
# A hidden state is a vector a token. The idea is simple: *for each token, be close to the teacher's
# vector*. Let $x_{b,i} \in \mathbb{R}^{d_s}$ be the student's state of token $i$ in sentence $b$,
# and $y_{b,i} \in \mathbb{R}^{d_t}$ the teacher's. They cannot be subtracted, being of length 128
# and of length 384. So a matrix $W$ of shape $d_t \times d_s$, the **projection**, carries one to
# the other, and the distance is the squared one:
#
# $$
# L_{\text{hid}} = \frac{1}{\sum_{b,i} m_{b,i}} \sum_{b,i} m_{b,i}\;
# \frac{1}{d_t} \left\lVert W x_{b,i} - y_{b,i} \right\rVert^2 .
# $$
#
# This is TinyBERT's hidden-state loss (Jiao et al. 2020, §3). FitNets has the same idea under the
# name of *regressor*: a layer, learned and thrown away, that brings the student's narrower states to
# the teacher's width (Romero et al. 2015, §2). Three decisions are hidden in the formula:
#
# - **$W$ is learned**, together with the student, and thrown away afterwards. Give it to the
#   optimiser. A projection that is forgotten there stays random, and the student has to fit it.
# - **$m_{b,i}$ is the mask**, 1 for a token and 0 for padding. The mean runs over the tokens of the
#   whole batch, each with the same weight, and not over rectangles of padding. This will matter.
# - **The mean over the width** keeps the size of the loss from growing with $d_t$. It does not make
#   two losses comparable, as you will see.
#
# By hand, two tokens of width 2 and one place of padding, no projection:
#
# | | token 1 | token 2 | padding |
# |---|---|---|---|
# | student | (1, 0) | (0, 1) | (9, 9) |
# | teacher | (1, 2) | (2, 1) | (0, 0) |
# | mean squared difference | (0 + 4) / 2 = 2 | (4 + 0) / 2 = 2 | (81 + 81) / 2 = 81 |
#
# With the mask the loss is $(2 + 2) / 2 = 2$. Without it, $(2 + 2 + 81) / 3 = 28.3$.
#
# ### Your turn
#
# Make the padding harmless *before* it meets anything else. A product with the mask is not enough:
# $0 \cdot \text{NaN}$ is NaN. Indexing with the mask, `states[mask]`, takes the tokens that count,
# `[tokens that count, width]`.


# %% exercise="hidden_state_loss"
def hidden_state_loss(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor,
    projection: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of hidden states, over the width and the unmasked tokens.

    Args:
        student_hidden: `[batch, tokens, student width]`.
        teacher_hidden: `[batch, tokens, teacher width]`; no gradient reaches it.
        mask: bool `[batch, tokens]`, true where a token counts.
        projection: W, `[teacher width, student width]`: a student's state x becomes x Wᵀ. None:
            the widths are equal, and the states are compared as they are.

    Returns:
        A scalar. What stands where the mask is false, even NaN, has no part in it.
    """
    ### BEGIN SOLUTION
    # Indexing leaves the padding behind at once, so that neither a NaN in it nor its gradient
    # can come back through a product.
    ours, theirs = student_hidden[mask], teacher_hidden[mask].detach()
    if projection is not None:
        ours = F.linear(ours, projection)
    return F.mse_loss(ours, theirs)
    ### END SOLUTION


# %%
hidden_state_loss = use(hidden_state_loss)
by_hand = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
target = torch.tensor([[[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]]])
for what, mask in (("mask", [[True, True, False]]), ("no mask", [[True, True, True]])):
    print(f"{what:8} {hidden_state_loss(by_hand, target, torch.tensor(mask)):.2f}")

# %% [markdown]
# ### How close is close?
#
# To look at real layers we need states of real sentences. Take 384 sentences of the validation
# split, padded to the task's limit of 48 tokens, and keep the states of all layers. They are used
# in halves: on the first half a projection is **fitted**, on the second it is **judged**.

# %%
generator = torch.Generator().manual_seed(0)
encoded = task().encode("validation", tokenizer())
chosen = torch.randperm(len(encoded), generator=generator)[:384].tolist()
batch = task().collator(tokenizer())([encoded[k] for k in chosen])
room = task().max_length - batch["input_ids"].shape[1]
sample = {k: F.pad(batch[k], (0, room)) for k in ("input_ids", "attention_mask")}
labels = batch["labels"]
real = sample["attention_mask"].bool()  # [sentences, 48]
FIT, JUDGE = slice(0, 192), slice(192, 384)


def all_states(model: Any) -> dict[str, Tensor]:
    """Give the states of every layer, [sentences, 48, width], and the logits, by name."""
    names = ["logits", *(f"hidden_states.{layer}" for layer in layer_names(model))]
    parts = [
        look(model, {k: v[rows].to(device) for k, v in sample.items()}, names)
        for rows in torch.arange(len(labels)).split(32)
    ]
    return {n.removeprefix("hidden_states."): torch.cat([p[n] for p in parts]) for n in names}


theirs = all_states(teacher)
ours = {name: all_states(model) for name, model in students.items()}
print("one layer of the teacher:", list(theirs["layer.5"].shape), "= [sentences, tokens, width]")
print(f"{int(real.sum()):,} tokens that count in {real.numel():,} places")

# %% [markdown]
# A loss of 0.11, say, means nothing by itself. Is it small? That depends on how much the teacher's
# states differ from each other. So compare with the best that *one fixed vector* could do for all
# tokens: the mean state, whose loss is the **variance** of the teacher's states (mean over width
# and tokens). What is left is the **explained share**,
#
# $$R^2 = 1 - \frac{L_{\text{hid}}}{\text{variance}},$$
#
# 1 for a perfect match, 0 for no better than that fixed vector, below 0 for worse. The best projection
# for given states can be written down, no training needed: least squares. (It has no constant term,
# as $W$ has none. So states that know nothing can end a little below 0.)


# %%
def best_projection(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Give the W that makes the hidden-state loss of these states least, [d_t, d_s]."""
    x, y = student[mask].double(), teacher[mask].double()
    return torch.linalg.lstsq(x, y).solution.T.float()


def explained(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[float, float]:
    """Fit a projection on the first half; give loss and explained share on the second."""
    w = best_projection(student[FIT], teacher[FIT], mask[FIT])
    loss = hidden_state_loss(student[JUDGE], teacher[JUDGE], mask[JUDGE], w)
    variance = teacher[JUDGE][mask[JUDGE]].var(dim=0, correction=0).mean()
    return loss.item(), (1 - loss / variance).item()


rows = []
for layer in layer_names(teacher):
    variance = theirs[layer][JUDGE][real[JUDGE]].var(dim=0, correction=0).mean()
    loss, share = explained(ours["distilled"]["layer.1"], theirs[layer], real)
    rows.append([layer, f"{variance:.3f}", f"{loss:.3f}", f"{share:.2f}"])
table(["teacher's layer", "its variance", "loss of the student's layer.1", "explained share"], rows)

# %% [markdown]
# Read the last two columns against each other, for `embeddings` and `layer.4` say: much the same
# share explained, and losses far apart, because one layer varies more than the other. The loss goes
# with the *variance* of the teacher's layer as well as with how well it is met. **Losses of
# different layers, teachers or widths do not compare.** A student "closer to layer A than to layer
# B by the loss" may simply look at a quieter layer.
#
# ## What a projection forgives
#
# A projection is generous in three ways. You should know all of them before you trust a small loss.
#
# **It forgives every change of coordinates.** Multiply all the student's states by any invertible
# matrix $A$. The projection $W A^{-1}$ undoes it, and the best loss is the same. So the loss asks
# *what can be read off* the student's states by a linear map, not what they are. This is as it
# should be: no component of a hidden state has a meaning by its place.
#
# **With few tokens it forgives everything.** $W$ has $d_t \times d_s$ free numbers. With no more
# tokens than the student is wide, a linear map goes through all points exactly, whatever they are.
#
# **Predict.** Replace the student's states by *noise* of the same shape, which knows nothing of the
# sentences. With a projection fitted on 100 tokens, which share of the teacher's states does noise
# explain on those 100 tokens, in per cent? And on other tokens?

# %%
predict("07: explained by noise, on its own 100 tokens and on others (%)", ...)  # such as [50, 0]

# %% figure="noise"
noise = torch.randn(ours["distilled"]["layer.1"].shape, generator=generator)
COUNTS = (50, 100, 200, 400, 800, 1600, 3200)


def by_tokens(states: Tensor, count: int) -> tuple[float, float]:
    """Fit on the first ``count`` tokens; give the explained share on them and on the other half."""
    x, y = states[FIT][real[FIT]][None, :count], theirs["layer.5"][FIT][real[FIT]][None, :count]
    w = best_projection(x, y, torch.ones(1, count, dtype=torch.bool))
    seen = (
        1
        - hidden_state_loss(x, y, torch.ones(1, count, dtype=torch.bool), w)
        / y.var(dim=1, correction=0).mean()
    )
    target, mask = theirs["layer.5"][JUDGE], real[JUDGE]
    fresh = hidden_state_loss(states[JUDGE], target, mask, w)
    return seen.item(), (1 - fresh / target[mask].var(dim=0, correction=0).mean()).item()


curves = {
    "student's layer.1": (ours["distilled"]["layer.1"], BLUE, "o"),
    "noise": (noise, VERMILION, "s"),
}
shares = {name: [by_tokens(x, n) for n in COUNTS] for name, (x, _, _) in curves.items()}
recall(
    "07: explained by noise, on its own 100 tokens and on others (%)",
    [round(100 * share) for share in shares["noise"][COUNTS.index(100)]],
)
figure, panels = canvas(
    8.0,
    3.3,
    columns=2,
    sharey=True,
    title="A projection fitted on few tokens: layer.5 explained",
    alt="Explained share of the teacher's layer.5 against the number of tokens that the projection "
    "was fitted on. "
    + " ".join(
        f"{name}: on the tokens fitted "
        + ", ".join(f"{seen:.2f}" for seen, _ in values)
        + "; on other tokens "
        + ", ".join(f"{fresh:.2f}" for _, fresh in values)
        + f" (at {', '.join(map(str, COUNTS))} tokens)."
        for name, values in shares.items()
    ),
)
for panel, which, title in zip(panels, (0, 1), ("on the tokens fitted", "on others"), strict=True):
    for name, (_, colour, marker) in curves.items():
        panel.plot(
            COUNTS,
            [value[which] for value in shares[name]],
            marker=marker,
            linestyle="-" if name != "noise" else "--",
            color=colour,
            label=name,
        )
    panel.axhline(0, color=BLACK, linewidth=0.8)
    panel.axvline(width(student), color=BLACK, linestyle=":", linewidth=1)
    panel.set(xscale="log", xlabel="Tokens fitted on (log scale)", ylim=(-1.1, 1.1))
    panel.set_title(title, fontsize=9.5)
    panel.set_xticks(COUNTS, [str(n) for n in COUNTS])
    panel.minorticks_off()
panels[0].text(width(student) * 1.05, -0.95, "the student's width", fontsize=8)
panels[0].set_ylabel("Explained share of layer.5 (1 = all)")
panels[0].legend(fontsize=8, loc=(0.5, 0.18))
figure

# %% [markdown]
# On the left, up to the student's width of 128, noise is as good as the student: both explain
# everything. On the right, the same projections on tokens they have not seen. Points below the
# frame are worse than $-1$: fitted exactly through a few points, a map swings wildly elsewhere. So
# the loss on the batch that is being learned says little; look at sentences that were not.
#
# **It forgives a student that knows nothing.** Fitted on thousands of tokens and judged on others,
# how near to the teacher are the distilled student and the untrained one? Take two
# pairs of layers, `layer.0` with `layer.2` and last with last; why these two, a later section says.

# %%
EVEN = {"layer.0": "layer.2", "layer.1": "layer.5"}
rows = []
closeness = {}
for name, states in ours.items():
    right = 100 * (states["logits"].argmax(-1) == labels).double().mean().item()
    values = [explained(states[s], theirs[t], real) for s, t in EVEN.items()]
    closeness[name] = values
    rows.append([name, f"{right:.0f} %", *(f"{x:.3f}" for pair in values for x in pair)])
table(
    ["student", "accuracy", "0 → 2: loss", "explained", "1 → 5: loss", "explained"],
    rows,
)
below, above = (closeness["untrained"][k][0] - closeness["distilled"][k][0] for k in (0, 1))
print(
    f"loss of the untrained student less that of the distilled: {below:+.3f} at layer.2, "
    f"{above:+.3f} at layer.5"
)

# %% [markdown]
# The untrained student has never learnt anything; its answers are guesses. Yet at `layer.2` it is
# about as near to the teacher as the student that was trained. The reason is no mystery. Its word
# embeddings were cut from the teacher's by SVD (lesson 06), so a linear map can give much of them
# back, and the teacher's low layers are still close to its embeddings. The top layer tells the two
# apart. **"The intermediate loss is small" is no evidence that the student is good**: say small
# against what, on which layer, and on which tokens.

# %% [markdown]
# ## Attention maps
#
# The second signal is *who looks at whom*. In a block with $h$ heads, each token $i$ has in each
# head a probability distribution over the tokens $j$: with $k$ for the head, $A_{b,k,i,j}$ of shape
# $[B, h, n, n]$, rows summing to 1 over the last index (lesson 02). Distributions are compared by
# KL divergence (lesson 03), row by row:
#
# $$
# L_{\text{att}} = \frac{1}{h \sum_{b,i} m_{b,i}} \sum_{b,k,i} m_{b,i} \sum_{j} m_{b,j}\,
# A^t_{b,k,i,j} \log \frac{A^t_{b,k,i,j}}{A^s_{b,k,i,j}} .
# $$
#
# The sum over the keys $j$ is inside: it is the "sum over classes" of this KL. The mean runs over
# heads and over the queries $i$ that are tokens. MiniLM uses it for the last block alone (Wang et
# al. 2020, §3). TinyBERT compares the scores *before* the softmax, by squared error (Jiao et al.
# 2020, §3). Attention maps have no width, so **no projection** is needed.
#
# In vision, *attention transfer* (Zagoruyko and Komodakis 2017) means something else: there the map
# is made from the sizes of a layer's activations over the places of an image. The name is the same,
# the thing is not.
#
# By hand, one query, three keys: the teacher's row is (1/2, 1/2, 0), the student's (1/4, 3/4, 0).
# The KL is $\tfrac12 \ln 2 + \tfrac12 \ln \tfrac23 = 0.3466 - 0.2027 = 0.1438$ nats. The third key
# adds nothing: $0 \log 0$ counts as 0. Were the *student's* second entry 0, the KL would be
# infinite. A softmax is never quite 0, but float32 is: below about $10^{-45}$. So the logarithm
# needs a floor.
#
# **Twelve heads and two.** The student has no head 7. Nor does head 1 of one model correspond to
# head 1 of the other: the order of the heads is an accident of the first weights, and a student
# with as many heads must be *made* to agree. With fewer, the simplest way out is to average over
# the heads on both sides, and to compare the means. What this costs can be measured:


# %%
def row_kl(p: Tensor, q: Tensor, mask: Tensor) -> float:
    """Mean KL(p ‖ q) in nats of the rows of maps [batch, heads, tokens, tokens] that count."""
    tiny = torch.finfo(p.dtype).tiny
    rows = (p * (p.clamp_min(tiny).log() - q.clamp_min(tiny).log())).sum(-1)
    return rows.transpose(0, 1)[:, mask].mean().item()


maps = {
    "teacher": look(teacher, own, [f"attentions.layer.{k}" for k in range(6)]),
    "student": look(student, own, [f"attentions.layer.{k}" for k in range(2)]),
}
uniform = own_mask[:, None, None, :] / own_mask.sum(-1)[:, None, None, None]
table(
    ["teacher's block", "a head from the mean of all heads", "the mean from uniform"],
    [
        [
            name.removeprefix("attentions."),
            f"{row_kl(value, value.mean(1, keepdim=True).expand_as(value), own_mask):.2f} nats",
            f"{row_kl(value.mean(1, keepdim=True), uniform, own_mask):.2f} nats",
        ]
        for name, value in maps["teacher"].items()
    ],
)

# %% [markdown]
# The second column is what averaging loses: how much a single head differs from the mean of all.
# The third is what is left to be learnt: how much that mean differs from looking everywhere alike.
# Where the second is larger than the third, most of what the heads have to say about each other is
# gone before the student hears it.
#
# ### Your turn
#
# Mind the two roles of the mask: a query that is padding has no row in the mean, and a key that is
# padding no term in the sum. As a floor for the logarithm, `torch.finfo(dtype).tiny` (about
# $10^{-38}$) will do for the value. But the *gradient* $-p_t / p_s$ can then come near $10^{38}$, and
# float32 ends at $3 \cdot 10^{38}$: a weight on the loss, or the square in a gradient's norm, would
# make it infinite. The square root of `tiny`, $10^{-19}$, leaves room for both.


# %% exercise="attention_loss"
def attention_loss(student_attention: Tensor, teacher_attention: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher ‖ student) of attention maps, mean over heads and unmasked queries.

    Args:
        student_attention: probabilities `[batch, heads, tokens, tokens]`, keys last.
        teacher_attention: likewise; no gradient reaches it. Where the numbers of heads differ,
            both are averaged over their heads first.
        mask: bool `[batch, tokens]`, true where a token counts, as a query and as a key.

    Returns:
        A scalar, in nats; finite where the student's probability is 0.
    """
    ### BEGIN SOLUTION
    teacher_attention = teacher_attention.detach()
    if student_attention.shape[1] != teacher_attention.shape[1]:
        student_attention = student_attention.mean(1, keepdim=True)
        teacher_attention = teacher_attention.mean(1, keepdim=True)
    # Queries first: [unmasked queries, heads, keys], and each query's own mask of keys.
    student = student_attention.transpose(1, 2)[mask]
    teacher = teacher_attention.transpose(1, 2)[mask]
    keys = mask[:, None].expand(-1, mask.shape[1], -1)[mask][:, None]
    student, teacher = torch.where(keys, student, 0), torch.where(keys, teacher, 0)
    # A probability that has underflowed to 0 must neither make the logarithm infinite nor the
    # gradient, which is −p_teacher / p_student.
    floor = torch.finfo(student.dtype).tiny ** 0.5
    log_ratio = teacher.clamp_min(floor).log() - student.clamp_min(floor).log()
    return (teacher * log_ratio).sum(-1).mean()
    ### END SOLUTION


# %%
attention_loss = use(attention_loss)
one_query = torch.tensor([[[[0.25, 0.75, 0.0]] * 3]]), torch.tensor([[[[0.5, 0.5, 0.0]] * 3]])
three = torch.ones(1, 3, dtype=torch.bool)
print(f"by hand 0.1438 nats, by your function {attention_loss(*one_query, three):.4f}\n")
last = {
    name: found[f"attentions.{layer}"]
    for (name, found), layer in zip(maps.items(), ("layer.5", "layer.1"), strict=True)
}
for name, value in {
    "the student's layer.1": last["student"],
    "uniform attention": uniform.expand(-1, 2, own_mask.shape[1], -1),
}.items():
    print(
        f"{name:22} to the teacher's layer.5: "
        f"{attention_loss(value, last['teacher'], own_mask):.3f} nats"
    )

# %% [markdown]
# The second line is the yardstick, as the constant vector was above. This student has never been
# asked for its attention. See on which side of the yardstick it stands, and do not be surprised: a
# way of looking that gives the right logits in two blocks need not be one that does so in six.
#
# ## Relations
#
# The third signal needs neither equal widths nor equal heads, *and* no projection. The idea of
# MiniLMv2 (Wang et al. 2021, §3): do not compare a token's vector with a vector of another model.
# Compare **how alike the tokens are to each other**. That is a table of $n \times n$ numbers in any
# model.
#
# Take the queries of one block, all heads side by side: $[B, n, d]$. Cut the width anew into $r$
# **relation heads** of width $d / r$. They need not be the attention heads; $r$ only has to divide
# the widths of both models. For one sentence and one relation head let $Q$ be the $n \times d/r$
# matrix of its queries. Its **relation** is
#
# $$
# R = \text{softmax}\!\left(\frac{Q\, Q^\top}{\sqrt{d / r}}\right), \qquad [n, n],
# $$
#
# where the softmax runs over the tokens of the sentence, padding left out. Row $i$ says to which
# tokens $i$ is alike, as a distribution. The formula is that of attention with the same matrix on
# both sides, and the root is there for the same reason (lesson 02). The loss is the KL divergence
# of the rows, teacher ‖ student, a mean over relation heads and unmasked tokens:
#
# $$
# L_{\text{rel}} = \frac{1}{r \sum_{b,i} m_{b,i}} \sum_{b,k,i} m_{b,i}\,
# \text{KL}\big(R^t_{b,k,i} \,\|\, R^s_{b,k,i}\big) .
# $$
#
# The same for the keys (K-K) and the values (V-V); the three losses are added there, and averaged
# in our library.
#
# By hand: three tokens, one relation head, a teacher of width 4 and a student of width 1.
#
# | | token 1 | token 2 | token 3 | divided by |
# |---|---|---|---|---|
# | teacher's queries | (1, 1, 0, 0) | (0, 0, 1, 1) | (1, 1, 0, 0) | $\sqrt 4 = 2$ |
# | its scores, row 1 | 2 / 2 = 1 | 0 | 1 | |
# | its relation, row 1 | 0.422 | 0.155 | 0.422 | |
# | student's queries | 1 | −1 | 1 | $\sqrt 1 = 1$ |
# | its scores, row 1 | 1 | −1 | 1 | |
# | its relation, row 1 | 0.468 | 0.063 | 0.468 | |
#
# Rows 1 and 3 are alike and have a KL of 0.052 nats; row 2 has 0.112. The mean is 0.072. The
# student exaggerates: its tokens 1 and 2 point in opposite directions, the teacher's are merely at
# right angles.
#
# ### Your turn
#
# `unflatten(-1, (heads, -1))` and `transpose(1, 2)` cut the heads, as in lesson 02. Mask the *keys*
# before the softmax, and take the mean over the *queries* that count. Work with `log_softmax`, as
# in lesson 03. In the table below, $A$ stands for the $Q$, $K$ or $V$ of one relation head.


# %% exercise="relation_loss"
def relation_loss(
    student_states: Tensor, teacher_states: Tensor, mask: Tensor, heads: int
) -> Tensor:
    """KL(teacher ‖ student) of token-to-token relations, mean over heads and unmasked tokens.

    The relation of a head A, `[tokens, width / heads]`, is softmax(A Aᵀ / √(width / heads)) over
    the unmasked tokens.

    Args:
        student_states: queries, keys or values of a block, `[batch, tokens, student width]`.
        teacher_states: likewise, `[batch, tokens, teacher width]`; no gradient reaches it.
        mask: bool `[batch, tokens]`, true where a token counts.
        heads: number of relation heads; it divides both widths.

    Returns:
        A scalar, in nats.
    """

    ### BEGIN SOLUTION
    def log_relation(states: Tensor) -> Tensor:
        """Log-probabilities `[batch, heads, tokens, tokens]`, keys last."""
        # `where` first: the scores of real tokens must not meet a NaN that stands in the padding.
        states = torch.where(mask[..., None], states, 0)
        a = states.unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = a @ a.transpose(-2, -1) / math.sqrt(a.shape[-1])
        # The lowest float rather than −∞: a difference of two infinities would be NaN in the KL.
        lowest = torch.finfo(scores.dtype).min
        return F.log_softmax(scores.masked_fill(~mask[:, None, None, :], lowest), dim=-1)

    student, teacher = log_relation(student_states), log_relation(teacher_states.detach())
    rows = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return rows.transpose(1, 2)[mask].mean()  # [unmasked tokens, heads]
    ### END SOLUTION


# %%
relation_loss = use(relation_loss)
small = torch.tensor([[[1.0], [-1.0], [1.0]]])
large = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]])
print(f"by hand 0.072 nats, by your function {relation_loss(small, large, three, heads=1):.4f}\n")

relations = {
    name: look(model, own, [f"{kind}.{layer}" for kind in ("query", "key", "value")])
    for name, model, layer in (("teacher", teacher, "layer.5"), ("student", student, "layer.1"))
}
r = relation_heads(width(student), width(teacher))
print(f"widths {width(student)} and {width(teacher)}: {r} relation heads")
for (feature, x), y in zip(
    relations["student"].items(), relations["teacher"].values(), strict=True
):
    kind = feature.partition(".")[0]
    flat = relation_loss(torch.zeros_like(x), y, own_mask, r)
    loss = relation_loss(x, y, own_mask, r)
    print(f"{kind:6} student {loss:.3f} nats, all tokens alike {flat:.3f} nats")

# %% [markdown]
# The yardstick here is a student for whom all tokens are alike: with states of 0 every relation is
# uniform.
#
# The relation forgives less than the projection did. Turn the student's vectors within a relation
# head (an orthogonal matrix) and no product of two of them changes. Turn them over the whole width,
# so that the heads mix, or stretch them, and the relations change. The next cell tries it on both
# losses. For the hidden states the projection is fitted anew each time.


# %%
def rotation(size: int) -> Tensor:
    """Draw an orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


changes = {
    "none": torch.eye(width(student)),
    "turned within each relation head": torch.block_diag(
        *(rotation(width(student) // r) for _ in range(r))
    ),
    "turned over the whole width": rotation(width(student)),
    "doubled": 2 * torch.eye(width(student)),
    "stretched, each component by 0.5 to 2": torch.diag(torch.linspace(0.5, 2.0, width(student))),
}
x_hid, x_rel = ours["distilled"]["layer.1"], relations["student"]["query.layer.1"]
table(
    ["change of the student's states", "hidden states, projection refitted", "relations (queries)"],
    [
        [
            name,
            f"{explained(x_hid @ a, theirs['layer.5'], real)[0]:.4f}",
            f"{relation_loss(x_rel @ a, relations['teacher']['query.layer.5'], own_mask, r):.4f}",
        ]
        for name, a in changes.items()
    ],
)

# %% [markdown]
# The left column stays as it is. The right one stays for the turn within the heads alone, though
# the turn that mixes them may do little. Which is better? Neither, by itself. A loss that forgives
# much leaves the student free to find its own way. A loss that forgives little says more, and may
# ask for what the student cannot give.
#
# | | compares | equal widths? | equal heads? | learns beside the student | forgives |
# |---|---|---|---|---|---|
# | hidden states | a vector a token | no | no | a projection | any invertible linear map |
# | attention | who looks at whom | no | yes, or averaged | nothing | nothing in the map |
# | relations | which tokens are alike | no | no | nothing | a turn within each relation head |

# %% [markdown]
# ## Which layer with which?
#
# Two blocks, six blocks. A **layer map** says which of the teacher's layers each student layer
# learns from. Let the student have $L_s$ blocks and the teacher $L_t \ge L_s$, counted from 0.
#
# - **even**: block $i$ learns from block $\left\lceil (i + 1)\, L_t / L_s \right\rceil - 1$. Each
#   student block does the work of about $L_t / L_s$ teacher blocks, and is compared with the last
#   of them. The last is mapped to the last. This is TinyBERT's uniform map (Jiao et al. 2020, §3
#   and §4); there the embeddings and the prediction layer are mapped to each other too.
# - **last**: the student's blocks learn from the teacher's top $L_s$ blocks, in order.
#
# Sun et al. (2019, §3) compared two such maps under the name of *patient* distillation: *PKD-Skip*
# learns from every $k$-th layer, *PKD-Last* from the last $k$. One difference to ours: they leave
# the student's last block out, because the logits teach it already. With 6 student and 12 teacher
# blocks, counted from 1 as in the paper, PKD-Last pairs 1 to 5 with 7 to 11; our *last* has these
# five and 6 with 12. They also compare one vector a sentence, that of `[CLS]`, scaled to length 1.
#
# By hand, *even*:
#
# | | block 0 | block 1 | block 2 | block 3 |
# |---|---|---|---|---|
# | 2 of 6 | ⌈6/2⌉ − 1 = 2 | ⌈12/2⌉ − 1 = 5 | | |
# | 3 of 6 | ⌈6/3⌉ − 1 = 1 | 3 | 5 | |
# | 4 of 6 | ⌈6/4⌉ − 1 = 1 | ⌈12/4⌉ − 1 = 2 | ⌈18/4⌉ − 1 = 4 | 5 |
#
# Two slips to avoid. $\lfloor i\, L_t / L_s \rfloor$ maps the first to the first and *never reaches
# the last*: 2 of 6 would give 0 and 3. And a quotient rounded by the machine can be a little too
# large: `math.ceil(7 * (29 / 7)) - 1` is 29, and 29 blocks end at 28. Keep to whole numbers, where
# `-(-a // b)` is $\lceil a / b \rceil$.


# %% exercise="layer_map"
def layer_map(student_layers: int, teacher_layers: int, strategy: str = "even") -> dict[str, str]:
    """Say which teacher block each student block learns from.

    Args:
        student_layers: Number of the student's blocks.
        teacher_layers: Number of the teacher's.
        strategy: "even": block i from block ⌈(i + 1) · teacher / student⌉ − 1. "last": from the
            teacher's top blocks, in order.

    Returns:
        student block → teacher block, such as {"layer.0": "layer.2", "layer.1": "layer.5"}.

    Raises:
        ValueError: The student has more blocks than the teacher, or there is no such strategy.
    """
    ### BEGIN SOLUTION
    if student_layers > teacher_layers:
        raise ValueError(
            f"the student has {student_layers} blocks, more than its teacher's {teacher_layers}"
        )
    if strategy == "even":
        # −(−a // b) is ⌈a / b⌉ in whole numbers, free of rounding.
        chosen = [-(-(i + 1) * teacher_layers // student_layers) - 1 for i in range(student_layers)]
    elif strategy == "last":
        chosen = list(range(teacher_layers - student_layers, teacher_layers))
    else:
        raise ValueError(f"strategy is {strategy!r}: expected 'even' or 'last'")
    return {f"layer.{i}": f"layer.{k}" for i, k in enumerate(chosen)}
    ### END SOLUTION


# %%
layer_map = use(layer_map)
MAPS = {name: layer_map(2, 6, name) for name in ("even", "last")}
for name, pairs in MAPS.items():
    print(f"{name}: {pairs}")

# %% [markdown]
# ### Similar by what measure?
#
# The even map sounds reasonable: a third of the way up in the teacher is half the way up in the
# student. It rests on a belief, though: **that the student should copy its teacher's layers one by
# one**. Does a student that learns from logits alone, and is free to do as it likes, come to
# resemble its teacher in that way? To see, we need a measure that compares layers of *different
# widths* without training anything.
#
# **Linear CKA** (centred kernel alignment; Kornblith et al. 2019, §3) compares two tables of
# vectors for the same $M$ sentences, $X$ of shape $[M, d_s]$ and $Y$ of shape $[M, d_t]$, from each
# of which the mean over the sentences has been taken off:
#
# $$
# \text{CKA}(X, Y) = \frac{\lVert Y^\top X \rVert_F^2}
# {\lVert X^\top X \rVert_F \; \lVert Y^\top Y \rVert_F} ,
# $$
#
# where $\lVert \cdot \rVert_F^2$ is the sum of all squared entries. The same number comes from
# another side: $\lVert Y^\top X \rVert_F^2 = \sum_{a,b} (X X^\top)_{ab} (Y Y^\top)_{ab}$. There the
# tables $X X^\top$ and $Y Y^\top$, both $[M, M]$, say *which sentences are alike* in either model,
# and CKA is the cosine of the angle between those tables: the idea of the relations once more. It
# lies between 0 and 1. A turn of $X$, or a stretch of all of it by one factor, changes nothing. Any
# other linear map does, and on purpose (§2 there): a measure that forgives *every* invertible
# linear map sees no difference at all between models that are wider than there are sentences. You
# saw why with the noise.
#
# Here $X$ holds one vector a sentence: the mean over its tokens, padding left out.

# %%
pooled_theirs = {layer: masked_mean(theirs[layer], real) for layer in layer_names(teacher)}


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two tables of vectors for the same sentences, [M, d_s] and [M, d_t]."""
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    return ((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def similarity(states: Mapping[str, Tensor], order: Tensor | None = None) -> Tensor:
    """CKA of each student layer with each of the teacher's, [student layers, teacher layers]."""
    pooled = [masked_mean(states[layer], real) for layer in layer_names(student)]
    if order is not None:
        pooled = [x[order] for x in pooled]
    return torch.tensor([[linear_cka(x, y) for y in pooled_theirs.values()] for x in pooled])


# %% [markdown]
# **Predict.** The student was distilled on logits alone. To which of the teacher's layers is the
# output of its *first* block, `layer.0`, most alike?

# %%
predict("07: the teacher's layer most like the student's layer.0", ...)  # such as "layer.2"

# %% figure="similarity"
heat = similarity(ours["distilled"])
ours_names, theirs_names = layer_names(student), layer_names(teacher)
recall(
    "07: the teacher's layer most like the student's layer.0",
    theirs_names[int(heat[ours_names.index("layer.0")].argmax())],
)
plot_layer_map(heat, ours_names, theirs_names, MAPS["even"], title="Linear CKA, the even map")

# %% [markdown]
# Now lay other maps over it. Choose *own* and draw yours: which map has the largest mean
# similarity?

# %%
layer_map_explorer(heat, ours_names, theirs_names, {name: MAPS[name] for name in ("last", "even")})

# %% [markdown]
# Two controls before you read it. If each student sentence is compared with the teacher's state of
# *another* sentence, all similarity should be gone; what remains is the floor of the measure with
# this many sentences. And the untrained student shows what is similar by construction.

# %%
shuffled = similarity(ours["distilled"], torch.randperm(len(labels), generator=generator))
naive = similarity(ours["untrained"])
table(
    ["student's layer", *theirs_names],
    [
        [f"{what}, {ours_names[i]}", *(f"{v:.2f}" for v in values[i])]
        for what, values, layers in (
            ("distilled", heat, (0, 1, 2)),
            ("untrained", naive, (0, 1, 2)),
            ("sentences shuffled", shuffled, (2,)),
        )
        for i in layers
    ],
)
for name, pairs in MAPS.items():
    cells = [heat[ours_names.index(s), theirs_names.index(t)] for s, t in pairs.items()]
    print(f"{name}: mean similarity of the mapped pairs {torch.stack(cells).mean():.2f}")

# %% [markdown]
# What it shows, and what it does not:
#
# - **The student did not copy the ladder.** Nobody told it how, and it used its first block to get
#   high up at once: compare the row of `layer.0` with the even map's frame. With two steps for what
#   the teacher does in six, there is no reason why the first should stop where the teacher stops
#   after three. "The student should copy the teacher's layers one by one" is a habit of thought,
#   and no finding.
# - **It is made by training.** In the untrained student all layers look alike, because untrained
#   blocks pass on little but the embeddings.
# - **Similar is not the same as good.** A map with a large mean similarity asks for what the
#   student does anyway. A map with a small one asks it to change. Which of them teaches more is not
#   in this picture; only training can say, with seeds and an interval.
# - **One vector a sentence.** The mean over tokens is kind to the topic and silent about words.
# - **A measure has a taste.** CKA weighs directions by their variance. Others see other things: the
#   explained shares of the next section, token by token, tell a flatter story of `layer.0`.
#
# For relations no map is needed: they are taken of one layer, usually the last of the student. Of
# the teacher MiniLM took the last one; Wang et al. (2021, §3) found that for large teachers an
# upper-middle layer taught better.

# %% [markdown]
# ## What padding can do to a conclusion
#
# Published code at times takes the hidden-state loss as the mean over the *whole rectangle*, padding
# counted. That of TinyBERT is an example (`task_distill.py` calls `MSELoss` on all positions). Is
# that bad? "It adds a constant", one may think, "and the order stays". Let us see.
#
# A place of padding has a hidden state like any other: its token is `[PAD]`, it looks at the real
# tokens, and nobody looks at it. How many of those do we count by mistake?
#
# **Predict.** In batches of 32 sentences drawn at random, each padded to its longest, which share
# of all places is padding, in per cent?

# %%
predict("07: padding in batches of 32 (%)", ...)

# %%
places = torch.arange(real.shape[1])
longest = real.sum(1).view(-1, 32).amax(1).repeat_interleave(32)  # of each sentence's batch
in_batch = places < longest[:, None]
everything = torch.ones_like(real)
COUNTED = {"tokens alone": real, "padded to the longest": in_batch, "padded to 48": everything}
share = {name: 100 * (1 - real.sum() / m.sum()).item() for name, m in COUNTED.items()}
recall("07: padding in batches of 32 (%)", round(share["padded to the longest"], 1))
print({name: f"{value:.0f} % padding" for name, value in share.items()})

# %% [markdown]
# Cutting the rectangle of 48 down to a batch's longest sentence gives what a smaller rectangle
# would have given: the state of a place does not depend on how much padding stands beside it. So we
# need not run the models again, only say which places count.
#
# **First, a number that is not one.** The same student, the same sentences, one projection (fitted
# on tokens), and three ways to put the sentences into batches.

# %%
w = best_projection(
    ours["distilled"]["layer.0"][FIT], theirs["layer.2"][FIT], real[FIT]
)  # for layer.0 → layer.2
by_length = real.sum(1).argsort()
rows = []
for name, order in (("as drawn", torch.arange(len(real))), ("sorted by length", by_length)):
    counted = places < real[order].sum(1).view(-1, 32).amax(1).repeat_interleave(32)[:, None]
    x, y = ours["distilled"]["layer.0"][order], theirs["layer.2"][order]
    values = [hidden_state_loss(x, y, m, w).item() for m in (real[order], counted)]
    rows.append([f"batches {name}", *(f"{value:.4f}" for value in values)])
x, y = ours["distilled"]["layer.0"], theirs["layer.2"]
rows.append(
    ["all to 48", *(f"{hidden_state_loss(x, y, m, w).item():.4f}" for m in (real, everything))]
)
table(["how the sentences are padded", "loss over tokens", "loss over all places"], rows)

# %% [markdown]
# With the mask the loss belongs to the model and the sentences. Without it, it belongs to the
# *sorting* as well. Compare two students trained with different batch sizes by that number, and you
# compare the batch sizes.
#
# **Second, a conclusion.** Suppose you want to choose the layer map by closeness: should the
# student's `layer.0` learn from `layer.2` (even) or from `layer.4` (last)? You fit a projection to
# each candidate and compare explained shares, on sentences that were not fitted. You do it twice,
# once over the tokens and once, by oversight, over all places of batches padded to their longest.
# Everything else is the same, and both times fitting and judging count the same places.

# %%
predict("07: nearer to the student's layer.0, over tokens: layer.2 or layer.4", ...)

# %% figure="padding"
profile = {
    name: [explained(ours["distilled"]["layer.0"], theirs[t], mask)[1] for t in theirs_names]
    for name, mask in COUNTED.items()
}
two, four = theirs_names.index("layer.2"), theirs_names.index("layer.4")
verdict = {
    name: "layer.2 (even)" if values[two] > values[four] else "layer.4 (last)"
    for name, values in profile.items()
}
recall(
    "07: nearer to the student's layer.0, over tokens: layer.2 or layer.4", verdict["tokens alone"]
)
for name, values in profile.items():
    best = theirs_names[max(range(len(values)), key=values.__getitem__)]
    print(
        f"{name:22} layer.2 {values[two]:.3f}, layer.4 {values[four]:.3f}: nearer {verdict[name]}; "
        f"nearest of all {best}"
    )

figure, axes = canvas(
    7.2,
    3.4,
    title="How much of each teacher layer the student's layer.0 explains",
    alt="Explained share of each teacher layer by the student's layer.0, on fresh sentences. "
    + " ".join(
        f"{name}: "
        + ", ".join(f"{t} {v:.2f}" for t, v in zip(theirs_names, values, strict=True))
        + f"; of layer.2 and layer.4 the nearer is {verdict[name]}."
        for name, values in profile.items()
    ),
)
styles = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (VERMILION, "^", ":"))
for (name, values), (colour, marker, line) in zip(profile.items(), styles, strict=True):
    axes.plot(range(len(values)), values, marker=marker, linestyle=line, color=colour, label=name)
for place, name in ((two, "even map"), (four, "last map")):
    axes.axvline(place, color=BLACK, linewidth=0.8, linestyle=":")
    axes.text(place, 0.98, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize=8)
axes.set_xticks(range(len(theirs_names)), theirs_names)
axes.set(xlabel="Teacher layer", ylabel="Explained share (1 = all)")
axes.legend(fontsize=8, loc="lower left", title="mean over")
figure

# %% [markdown]
# Look at the printed lines. In the run pictured above the answer turns round: over tokens the last
# map is nearer, over all places the even one. And over all places the nearest layer of all is
# `embeddings`, which over tokens it is not. Nothing about the models changed. We asked another
# question as well: *how well does the student tell padding from words?*
#
# Where does it come from? Split the places into tokens and padding:

# %%
padding = in_batch & ~real
rows = []
for layer in ("embeddings", "layer.2", "layer.4", "layer.5"):
    x, y = ours["distilled"]["layer.0"], theirs[layer]
    w = best_projection(x[FIT], y[FIT], in_batch[FIT])
    on = [hidden_state_loss(x[JUDGE], y[JUDGE], m[JUDGE], w).item() for m in (real, padding)]
    spread = [y[JUDGE][m[JUDGE]].var(dim=0, correction=0).mean().item() for m in (real, padding)]
    apart = (y[JUDGE][real[JUDGE]].mean(0) - y[JUDGE][padding[JUDGE]].mean(0)).square().mean()
    rows.append([layer, *(f"{v:.3f}" for v in (*on, *spread)), f"{apart:.3f}"])
table(
    [
        "teacher's layer",
        "loss, tokens",
        "loss, padding",
        "variance, tokens",
        "variance, padding",
        "squared distance of their means",
    ],
    rows,
)

# %% [markdown]
# In the low layers the padding is *easy*: its states hardly vary from one sentence to the next, and
# stand apart from those of the tokens. "This is padding" already explains a good part of the
# variance of the rectangle. Higher up the padding has looked at the sentence often enough to vary
# with it. So counting it flatters the low layers.
#
# The margin between the two maps is small. How sure is the turn? Judge each held-out batch of 32 by
# itself, and look at the differences, pair by pair: six of them, with Student's t interval of their
# mean. (`seeds_interval` computes it for the results of seeds; here the six values are batches.)

# %%
gaps: dict[str, list[float]] = {}
for name, mask in (("tokens alone", real), ("padded to the longest", in_batch)):
    x = ours["distilled"]["layer.0"]
    fitted = {t: best_projection(x[FIT], theirs[t][FIT], mask[FIT]) for t in ("layer.2", "layer.4")}
    scores = {}
    for t, w in fitted.items():
        variance = theirs[t][JUDGE][mask[JUDGE]].var(dim=0, correction=0).mean()
        scores[t] = [
            1 - (hidden_state_loss(x[rows], theirs[t][rows], mask[rows], w) / variance).item()
            for rows in torch.arange(192, 384).split(32)
        ]
    gaps[name] = [a - b for a, b in zip(scores["layer.4"], scores["layer.2"], strict=True)]
    interval = seeds_interval(gaps[name])
    print(
        f"{name:22} layer.4 less layer.2, batch by batch: "
        + ", ".join(f"{gap:+.3f}" for gap in gaps[name])
        + f"; mean {interval.mean:+.3f} (95 % interval {interval.low:+.3f} to {interval.high:+.3f})"
    )

# %% [markdown]
# An interval that excludes 0 on the one side above and on the other below is a conclusion turned
# round by a mask. Whether the nearer map *teaches* better is still another question; but whoever
# chose by this number chose by their padding. The remedy costs one argument, and all losses of this
# course refuse to work on tokens without it.

# %% [markdown]
# ## Watch it learn
#
# A short run, to see the terms move. It begins with a student that has learnt from labels alone,
# and goes on for 40 steps, four passes over 320 labelled sentences, with the teacher's help, in
# three ways:
#
# - **logits alone.** A projection learns beside the student, so that we can read the hidden-state
#   loss, but the student's states are *detached*: the student does not feel it;
# - **with hidden states**, on the even map, masked, with the weight 10 (how it was chosen: see the
#   ablation below);
# - **the same, padding counted.**
#
# The three share the first weights, the batches and the number of steps. This is far too little
# training for any word about accuracy, and none will be said.

# %%
STEPS, WEIGHT = 40, 10.0
rows = task().encode("labelled", tokenizer())
order = torch.randperm(len(rows), generator=generator)[:320].tolist()
collate = task().collator(tokenizer())
train = [collate([rows[k] for k in order[i : i + 32]]) for i in range(0, 320, 32)]
features = ["logits", *(f"hidden_states.{t}" for t in EVEN.values())]


def moved(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give what a model reads of a batch, on its device."""
    return {k: batch[k].to(device) for k in ("input_ids", "attention_mask")}


with torch.no_grad():
    heard = [observe(teacher, moved(batch), features) for batch in train]


def hidden_term(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    projections: Mapping[str, nn.Linear],
    mask: Tensor,
) -> Tensor:
    """Mean of the hidden-state losses of the mapped pairs, from features by their names."""
    pairs = [(f"hidden_states.{s}", f"hidden_states.{t}", s) for s, t in EVEN.items()]
    terms = [
        hidden_state_loss(student[x], teacher[y], mask, projections[s].weight) for x, y, s in pairs
    ]
    return torch.stack(terms).mean()


def run(feels: bool, mask_padding: bool) -> tuple[dict[str, list[float]], Any]:
    """Train for some steps; give the losses of each step, and the student."""
    torch.manual_seed(0)
    learner = copy.deepcopy(trained_student("hard_labels")).train()  # all share that one
    projections = {
        s: nn.Linear(width(learner), width(teacher), bias=False).to(device) for s in EVEN
    }
    learned = [*learner.parameters(), *(p.weight for p in projections.values())]
    optimizer = torch.optim.AdamW(learned, lr=5e-4)
    curve: dict[str, list[float]] = {"soft": [], "hidden": [], "over tokens": []}
    for step in range(STEPS):
        batch, known = moved(train[step % len(train)]), heard[step % len(train)]
        found = observe(learner, batch, ["logits", *(f"hidden_states.{s}" for s in EVEN)])
        soft = distillation_loss(found["logits"], known["logits"], temperature=2.0, alpha=1.0)
        if not feels:
            found = {name: value.detach() for name, value in found.items()}
        tokens = batch["attention_mask"].bool()
        over_tokens = hidden_term(found, known, projections, tokens)
        over_all = hidden_term(found, known, projections, torch.ones_like(tokens))
        term = over_tokens if mask_padding else over_all
        optimizer.zero_grad()
        (soft + WEIGHT * term).backward()
        optimizer.step()
        for name, value in (("soft", soft), ("hidden", term), ("over tokens", over_tokens)):
            curve[name].append(value.item())
    return curve, learner.eval()


trained = {
    "logits alone": run(feels=False, mask_padding=True),
    "with hidden states": run(feels=True, mask_padding=True),
    "with hidden states, padding counted": run(feels=True, mask_padding=False),
}
runs = {name: curve for name, (curve, _) in trained.items()}

# %%
looks = dict(zip(runs, ((BLACK, ":"), (BLUE, "-"), (VERMILION, "--")), strict=True))
figure, panels = canvas(
    8.2,
    3.4,
    columns=2,
    title="Forty steps: the terms of the loss",
    alt="Two panels of loss against step. "
    + " ".join(
        f"{name}: soft loss {curve['soft'][0]:.2f} to {curve['soft'][-1]:.2f} nats, hidden-state "
        f"loss as trained on {curve['hidden'][0]:.2f} to {curve['hidden'][-1]:.2f}, over tokens "
        f"{curve['over tokens'][0]:.2f} to {curve['over tokens'][-1]:.2f}."
        for name, curve in runs.items()
    ),
)
for name, curve in runs.items():
    colour, line = looks[name]
    panels[0].plot(range(1, STEPS + 1), curve["hidden"], color=colour, linestyle=line, label=name)
    panels[1].plot(range(1, STEPS + 1), curve["soft"], color=colour, linestyle=line, label=name)
panels[0].set(xlabel="Step", ylabel="Hidden-state loss, as computed", ylim=(0, None))
panels[1].set(xlabel="Step", ylabel="Soft loss, T² · KL (nats)", ylim=(0, None))
panels[0].legend(fontsize=8)
figure

# %%
rows = []
for name, (curve, learner) in trained.items():
    states = all_states(learner)
    anew = [explained(states[s], theirs[t], real)[1] for s, t in EVEN.items()]
    lasting = [sum(curve[k][-10:]) / 10 for k in ("soft", "hidden", "over tokens")]
    rows.append([name, *(f"{value:.3f}" for value in (*lasting, *anew))])
table(
    [
        "run",
        "soft loss (last 10 steps)",
        "hidden-state loss as computed",
        "the same over tokens",
        "0 → 2 explained, projection anew",
        "1 → 5 explained, projection anew",
    ],
    rows,
)

# %% [markdown]
# The jumps on the right are the batches, the same for all three runs. Now read the table from left
# to right.
#
# - **The hidden-state loss falls in every run**, also in the first, in which the student does not
#   feel it. There the projection alone learns, to read off what is there anyway. A falling loss is
#   no sign that the *student* is changing; the difference between the first two rows is nearer to
#   one.
# - **Counting the padding gives a smaller sum**, as in the table by layers above, and the column
#   "over tokens" compares like with like. Does the order of the last two runs stay the same in both
#   columns? Who reports the loss that was trained on reports the easier one.
# - **The last two columns ask the student itself.** They throw the learned projections away and fit
#   new ones, on the validation sentences of above. Are the two students that felt the term nearer
#   to the teacher now than the one that did not? If they are not, or are even further, then it was
#   the projection that learned; and a student that is pulled by a projection which is still half
#   random does not come nearer to anything. All that will be kept is the student.
#
# In the library all of this is three lines. They keep the projections with the student while it
# trains, through checkpoints too, and leave them out of the result:
#
# ```python
# objective = Objective(alpha=1.0, temperature=2.0, hidden_states=10.0, layer_map=layer_map(2, 6))
# knowledge = LiveTeacher(teacher, objective.features())
# distill(student, knowledge, task(), tokenizer(), objective=objective)
# ```
#
# ## Does it pay here? The ablation
#
# Now the question itself. An **ablation** adds (or takes away) one part at a time, with all else
# equal. The long run has five arms, each with five seeds: the same student, the same labelled
# sentences, the same number of steps; the weights of the terms were chosen on validation, and
# accuracy was measured once, on test.
#
# **Predict.** Which of the four gains most over logits alone, and how many points is it?

# %%
predict("07: the best of hidden_states, attention, relations, all, and its gain in points", ...)

# %%
study = result("intermediate_features")
arms, baseline = study["arms"], study["baseline"]
others = [name for name in arms if name != baseline]
print(f"question: {study['question']}")
print(f"command:  {study['command']}")
best = max(others, key=lambda name: arms[name]["gain"]["mean"])
recall(
    "07: the best of hidden_states, attention, relations, all, and its gain in points",
    [best, round(arms[best]["gain"]["mean"], 2)],
)
table(
    ["learned from", "accuracy, mean of seeds (95 % interval)", "gain (95 % interval)"],
    [
        [
            arm["label"],
            f"{100 * a['mean']:.1f} % ({100 * a['low']:.1f} to {100 * a['high']:.1f})",
            f"{g['mean']:+.2f} ({g['low']:+.2f} to {g['high']:+.2f})" if g else "",
        ]
        for arm in arms.values()
        for a, g in [(arm["accuracy"], arm.get("gain"))]
    ],
)
for name in others:
    gain = arms[name]["gain"]
    span = f"[{gain['low']:+.2f}, {gain['high']:+.2f}]"
    if gain["low"] > 0:
        said = "lies above 0"
    elif gain["high"] < 0:
        said = "lies below 0"
    else:
        said = "holds 0: these seeds do not tell it from logits alone"
    print(f"{arms[name]['label']}: the interval {span} {said}")

# %% figure="ablation"
figure, axes = canvas(
    7.2,
    1.1 + 0.55 * len(others),
    title="What each term adds to logits alone, five seeds",
    alt="Gain in points of test accuracy over logits alone, mean and 95 % interval over seeds, and "
    "each seed. "
    + " ".join(
        f"{arms[name]['label']}: {g['mean']:+.2f} ({g['low']:+.2f} to {g['high']:+.2f})."
        for name in others
        for g in [arms[name]["gain"]]
    ),
)
base = arms[baseline]["accuracy"]["values"]
for row, name in enumerate(others):
    gain = arms[name]["gain"]
    clear = gain["low"] > 0 or gain["high"] < 0
    axes.errorbar(
        gain["mean"],
        row,
        xerr=[[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]],
        fmt="o",
        color=BLUE,
        markerfacecolor=BLUE if clear else "white",
    )
    each = [100 * (a - b) for a, b in zip(arms[name]["accuracy"]["values"], base, strict=True)]
    axes.plot(each, [row + 0.22] * len(each), "|", color=ORANGE, markersize=7)
axes.axvline(0, color=BLACK, linewidth=1)
axes.set_yticks(range(len(others)), [arms[name]["label"] for name in others])
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.set_xlabel("Gain over logits alone (points of test accuracy; filled: interval without 0)")
figure

# %% [markdown]
# Three of the four intervals hold 0: **of no single term do five seeds show that it pays.** They do
# not tell what it adds from nothing, and the ends of the intervals say how large it may be all the
# same: they reach to about half a point for hidden states and relations, and to nearly a whole one
# for attention maps, whose seeds differ most. The interval of all three together begins just above
# 0, and every one of its seeds (orange) lies above 0 too. Does that pay, then?
#
# An interval of 95 % misses the true gain once in twenty times. Four were drawn, and we now point at
# the one that stands out; that *some* interval of four misses is not so rare. **Bonferroni's
# correction** asks for more, so that all $m$ intervals together are right in at least 95 % of cases,
# however they depend on each other: each is drawn at $1 - 0.05 / m$, and is wider.

# %%
level = 1 - 0.05 / len(others)
rows = []
for name in others:
    gains = [100 * (a - b) for a, b in zip(arms[name]["accuracy"]["values"], base, strict=True)]
    mean, error = sum(gains) / len(gains), stats.sem(gains)
    low, high = stats.t.interval(level, len(gains) - 1, mean, error)
    ordinary = arms[name]["gain"]
    rows.append(
        [
            arms[name]["label"],
            f"{ordinary['low']:+.2f} to {ordinary['high']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
        ]
    )
table(["learned from", "gain, 95 %", f"gain, {100 * level:.2f} %"], rows)

# %% [markdown]
# Now all four hold 0. So: five seeds suggest that all three together add about a quarter of a point,
# and do not settle it. What would? This one arm, named beforehand, with seeds that nobody has seen:
# number 9 of *On your own*.
#
# How were the weights chosen? By a first study, shorter (3 epochs, 3 seeds), with three weights for
# each term, by macro-F1 on *validation*.

# %%
weights = result("intermediate_weights")
print(f"command:  {weights['command']}")
table(
    ["learned from", "macro-F1 on validation, mean", "accuracy on test, each seed (%)"],
    [
        [
            arm["label"],
            f"{sum(max(e['macro_f1'] for e in epochs) for epochs in arm['validation']) / 3:.4f}",
            ", ".join(f"{100 * value:.1f}" for value in arm["accuracy"]["values"]),
        ]
        for arm in weights["arms"].values()
    ],
)

# %% [markdown]
# Look at single seeds. With hidden states × 1, and with attention × 0.1 and × 1, the second seed lies
# two to nine points below the same seed of logits alone, and the others lie within two of theirs. A
# single short run could have "shown" that hidden states ruin a student, and the same run with
# another seed that they do no harm. In the longer study, with the chosen weights, the worst is one
# point.
#
# **What these intervals can say:** whether, with this student, these sentences and this many steps,
# a term moved the mean over seeds by more than the seeds themselves would. A gain is paired: seed
# $k$ has the same first weights and the same batches in every arm, so that luck shared by both is
# gone.
#
# **What they cannot say:**
#
# - *That a term does nothing.* An interval around 0 holds all gains within it. Its width says how
#   large a gain could hide.
# - *That it would be so elsewhere.* Five topics, two blocks of width 128, sentences. TinyBERT's own
#   ablation (Jiao et al. 2020, §4) found its Transformer-layer terms essential, with a student
#   distilled on a large general corpus before it saw a task. MiniLM's student had no logits at all.
# - *That it would be so with more sentences.* On the whole transfer set the student hears more
#   than four times as many logits. A help that makes up for few sentences has less to make up for.
# - *That another weight, layer map or schedule would not do better.* One weight a term was chosen,
#   by three seeds, of which a single one can move the mean by three points. Each choice stands at the
#   end of its row, so that a weight beyond it may be better; and for all three together, the weights
#   were not chosen together.
# - *That it is worth it.* The arms have equal steps, not equal costs. Look at the table of bytes at
#   the top: the logits of the whole transfer set are half a megabyte, one layer's hidden states
#   about a gigabyte; and a teacher that is run live instead takes time.
#
# ### Why logits alone may be enough here
#
# What does the inside say that the logits do not? Ask how much of it can be *read off the logits*.
# For each of the teacher's layers take the mean state of each sentence, as for CKA, and fit a
# linear map from the five logits to it. As a yardstick: five logits are four numbers (what raises
# all of them alike changes no probability), so compare with the most that *any* four numbers a
# sentence could explain, the four directions of largest variance.

# %%
z = theirs["logits"] - theirs["logits"].mean(1, keepdim=True)
z = torch.cat([z[:, 1:], torch.ones(len(z), 1)], dim=1)  # four numbers, and a constant
alone = torch.ones(len(z), 1, dtype=torch.bool)  # one vector a sentence, and it counts
rows = []
for layer, x in pooled_theirs.items():
    _, by_logits = explained(z[:, None], x[:, None], alone)
    fitted, fresh = x[FIT] - x[FIT].mean(0), x[JUDGE] - x[JUDGE].mean(0)
    four_directions = torch.linalg.svd(fitted, full_matrices=False).Vh[:4]
    at_most = (fresh @ four_directions.T).square().sum() / fresh.square().sum()
    rows.append([layer, f"{by_logits:.0%}", f"{at_most:.0%}"])
table(["teacher's layer", "explained by its own logits", "by the best four numbers"], rows)

# %% [markdown]
# Read it from below. In the last layer the logits explain most of a sentence's mean state, and
# hardly less than any four numbers could: fine-tuning has left little there *but* the answer. Who
# has the logits has heard it. In the low layers the logits explain next to nothing: there the
# teacher says much, and nearly all of it about other things than the topic. A student of 128
# components that has to give it back spends them on that.
#
# This is one number a layer, for means over tokens; single tokens say more. But it shows where the
# two sides of the beginning meet. The more a task *is* its logits, and the more sentences you have
# to ask about, the less the inside can add. Where there is no task yet, or few sentences, or a
# student too deep to be taught from its far end, it may be the other way round.
#
# ## What could fool us
#
# - **A small loss.** Noise reaches 0 on few tokens, an untrained student comes close in a low
#   layer, and the projection learns even when the student does not. Give a yardstick with every
#   loss.
# - **Losses across layers, widths, teachers.** They have other variances. Compare explained shares.
# - **Padding.** It changed a number with the batch and a choice with the number.
# - **Off by one.** The embeddings supervised, the last block left alone, no error message.
# - **A projection that is not trained**, or that was trained and is then taken along: a result must
#   be the student alone.
# - **The teacher's gradient.** Without `detach`, and with the teacher's parameters in the optimiser,
#   the two models move towards each other. The loss falls beautifully.
# - **More terms, more weights.** Whoever tunes four weights for the new method and none for the old
#   has tuned the comparison. Same budget of trials for both.
# - **Equal steps, unequal cost.** A live teacher, attention maps in the open (no fused kernels),
#   and projections cost time; the baseline could have spent it on more sentences.
# - **A heat map's story.** Similarity shows what training did, and not what training should do.
# - **Equal data.** All arms must see the same sentences; and the teacher was fine-tuned on them,
#   which makes its inside there tidier than elsewhere.
#
# ## On your own
#
# Nothing here is graded.
#
# 1. **A better start.** Begin the run with projections fitted by `best_projection`, on the training
#    sentences, instead of random ones. What do the last two columns of its table say now?
# 2. **The other map.** Run it with `EVEN = MAPS["last"]` (and `features` made anew). Which of the
#    two hidden-state losses falls further? What would you need to say which map is better?
# 3. **A head map.** Instead of averaging, give each of the student's two heads the teacher's head
#    to which it is closest on our sentences. How stable is that choice over other sentences?
# 4. **Relations of hidden states.** Apply `relation_loss` to `hidden_states.LAYER`. What does it
#    now forgive that the projection does not, and the other way round?
# 5. **CKA and few sentences.** Compute the shuffled control with 20, 50, 100 and 384 sentences. How
#    similar are two layers that have nothing to do with each other?
# 6. **Cosine.** DistilBERT (Sanh et al. 2019, §2) compares directions of hidden states. Write
#    $1 - \cos$ with a mask. What does it forgive?
# 7. **Find the bug.** Ask a friend to break one of your losses in one of these ways: mask on
#    queries only; mean over sentences instead of tokens; student and teacher exchanged; $\sqrt d$
#    of the whole width. Which of the hand-worked numbers gives it away?
# 8. **Another seed, another flip?** Draw other sentences (`manual_seed(1)`) for the padding
#    experiment, and try the students' `layer.1`, and the student of hard labels,
#    `trained_student("hard_labels")`. Where does the conclusion turn round, and where is it safe?
# 9. **Settle it.** Copy `data/studies/intermediate_features.toml`, keep the arms `logits` and `all`,
#    and set `seeds = 10`. Write down now what you expect of the seeds 5 to 9, and judge by these five
#    alone. `distill-lab study FILE` makes twenty trainings; ten took 6 minutes on two cores.

# %%
progress()

# %% [markdown]
# ## Sources
#
# - A. Romero, N. Ballas, S. E. Kahou, A. Chassang, C. Gatta and Y. Bengio, “FitNets: Hints for Thin
#   Deep Nets”, ICLR 2015, arXiv 1412.6550. §2: hints, and the regressor between unequal widths.
# - S. Zagoruyko and N. Komodakis, “Paying More Attention to Attention: Improving the Performance of
#   Convolutional Neural Networks via Attention Transfer”, ICLR 2017, arXiv 1612.03928. §3.
# - S. Sun, Y. Cheng, Z. Gan and J. Liu, “Patient Knowledge Distillation for BERT Model
#   Compression”, EMNLP 2019, arXiv 1908.09355. §3: PKD-Skip and PKD-Last.
# - V. Sanh, L. Debut, J. Chaumond and T. Wolf, “DistilBERT, a distilled version of BERT: smaller,
#   faster, cheaper and lighter”, 2019, arXiv 1910.01108. §2: the cosine of hidden states.
# - X. Jiao, Y. Yin, L. Shang, X. Jiang, X. Chen, L. Li, F. Wang and Q. Liu, “TinyBERT: Distilling
#   BERT for Natural Language Understanding”, Findings of EMNLP 2020, arXiv 1909.10351. §3: the
#   losses on attention and hidden states; §4: maps and ablation.
# - W. Wang, F. Wei, L. Dong, H. Bao, N. Yang and M. Zhou, “MiniLM: Deep Self-Attention Distillation
#   for Task-Agnostic Compression of Pre-Trained Transformers”, NeurIPS 2020, arXiv 2002.10957. §3:
#   attention distributions and value relations of the last block.
# - W. Wang, H. Bao, S. Huang, L. Dong and F. Wei, “MiniLMv2: Multi-Head Self-Attention Relation
#   Distillation for Compressing Pretrained Transformers”, Findings of ACL 2021, arXiv 2012.15828.
#   §3: relations, and which of the teacher's layers.
# - S. Kornblith, M. Norouzi, H. Lee and G. Hinton, “Similarity of Neural Network Representations
#   Revisited”, ICML 2019, arXiv 1905.00414. §2: what a measure should forgive; §3: CKA.
#
# ## What to read next
#
# Wang et al. 2021, §3, is four pages, and you have now written its loss. Jiao et al. 2020, §3, for
# all terms of TinyBERT side by side. Then Kornblith et al. 2019 for what else heat maps of layers
# show. **Lesson 08** takes the finished students out of the laboratory: how good are they really,
# how sure of themselves, how fast, and on what device do they fit?
