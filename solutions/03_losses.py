# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · Losses: what a student learns from a distribution
#
# A teacher answers with a whole distribution over the classes. This lesson is about the numbers
# that say how far a student's distribution is from it: where they come from, what they cost, which
# way they pull, and how code that looks right computes something else.
#
# **You will be able to**
#
# - say what entropy, cross-entropy and KL divergence count, in bits and in nats, and work a small
#   case by hand;
# - write all three so that they hold for extreme logits and for padded batches;
# - derive the gradient $p_s - p_t$ and check it against automatic differentiation;
# - choose the reduction of `F.kl_div`, and recognise the wrong ones by the factor they are off;
# - say what forward and reverse KL do to a student that cannot match its teacher;
# - train a student that is no Transformer from a teacher that is one.
#
# You need softmax, and the notation of lesson 01: logits $z$, probabilities $p$, the teacher's and
# the student's marked $p_t$ and $p_s$, $N$ classes, $B$ examples in a batch. No teacher is run
# here: its logits are stored. Plan about 75 minutes.

# %%
from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from IPython.display import display
from torch import Tensor, nn

from distill_lab.classroom import (
    example_classes,
    example_sentences,
    predict,
    recall,
    stored_knowledge,
    table,
    task,
)
from distill_lab.exercises import check, progress, use
from distill_lab.losses import reverse_kl_divergence
from distill_lab.plots import PALETTE, canvas
from distill_lab.widgets import loss_explorer

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE
# All models here are so small that a second thread would mostly wait for the first.
torch.set_num_threads(1)

# %% [markdown]
# ## Why: one sentence, two targets
#
# Our task sorts sentences into five topics: business, entertainment, politics, sports, tech. A label
# names one of them. It says nothing of the other four: for the label, a sentence about a
# software company's profits is as far from *tech* as from *sports*. The teacher's answer has a
# number for each class. Below is the one of our example sentences about which the teacher is least
# sure.


# %%
def certainty(example: dict) -> float:
    """The largest probability the teacher gives to any class of this example."""
    return torch.tensor(example["teacher"]).softmax(-1).max().item()


classes = example_classes()
example = min(example_sentences(), key=certainty)
hard = F.one_hot(torch.tensor(classes.index(example["topic"])), len(classes)).float()
soft = torch.tensor(example["teacher"]).softmax(-1)
print(f"“{example['text']}”")
print(f"label: {example['topic']}; the teacher gives most to {classes[soft.argmax().item()]}")

figure, axes = canvas(
    8,
    2.6,
    columns=2,
    sharey=True,
    title="One sentence, two targets",
    alt=f"Two bar charts for one sentence, “{example['text']}”, labelled {example['topic']}. "
    f"The hard label gives 1 to {example['topic']} and 0 to the rest. The teacher gives "
    + ", ".join(f"{p:.2f} to {name}" for name, p in zip(classes, soft.tolist(), strict=True))
    + ".",
)
for axis, target, colour, name in (
    (axes[0], hard, ORANGE, "Hard label"),
    (axes[1], soft, BLUE, "Teacher's soft target (T = 1)"),
):
    bars = axis.barh(classes, target.tolist(), color=colour)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set(title=name, xlim=(0, 1.15), xlabel="Probability (0 to 1)")
axes[0].invert_yaxis()
display(figure)

# %% [markdown]
# The right-hand side says which topics the words point to, and which hardly. It also shows the risk:
# where the teacher gives most to a class other than the label, a student is taught that as well. A
# soft target is the teacher's opinion, with its doubts and its errors.
#
# To train on it we need a loss that takes a distribution where the familiar one takes a label. It
# should be least where the student's distribution equals the teacher's, and it should charge most
# for what matters most. One idea gives such a loss, and it is older than neural networks: *the cost
# of a message*.

# %% [markdown]
# ## Entropy: the price of a surprise
#
# A machine sends one of four symbols, over and over: **a** half of the time, **b** a quarter,
# **c** and **d** an eighth each. We write each symbol as a word of zeros and ones. How many binary
# digits (bits) does a symbol cost on average? Three codes:
#
# | Symbol | Probability $p$ | Code 1 | Code 2 | Code 3 |
# |:--|--:|:--|:--|:--|
# | a | 1/2 | `0` | `00` | `111` |
# | b | 1/4 | `10` | `01` | `110` |
# | c | 1/8 | `110` | `10` | `10` |
# | d | 1/8 | `111` | `11` | `0` |
#
# In each code no word begins another, so a row of words needs no commas: `0100110` under code 1 can
# only be a, b, a, c. Code 2 spends two bits on everything. Code 1 has short words for frequent
# symbols. Code 3 was made by somebody who believed that d comes half of the time. By hand:
#
# $$
# \begin{aligned}
# \text{code 1:}\quad & \tfrac12\cdot1+\tfrac14\cdot2+\tfrac18\cdot3+\tfrac18\cdot3 = 1.75\\
# \text{code 2:}\quad & \tfrac12\cdot2+\tfrac14\cdot2+\tfrac18\cdot2+\tfrac18\cdot2 = 2\\
# \text{code 3:}\quad & \tfrac12\cdot3+\tfrac14\cdot3+\tfrac18\cdot2+\tfrac18\cdot1 = 2.625
# \end{aligned}
# $$
#
# Let us not trust the arithmetic: send a long message through each code, count its bits, and read
# the message back.

# %%
SYMBOLS = "abcd"
TRUE = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
CODES = {
    "code 1": ["0", "10", "110", "111"],
    "code 2": ["00", "01", "10", "11"],
    "code 3": ["111", "110", "10", "0"],
}


def decode(bits: str, words: list[str]) -> str:
    """Read a row of code words from left to right; no word begins another, so one always fits."""
    return "".join(SYMBOLS[words.index(word)] for word in re.findall("|".join(words), bits))


generator = torch.Generator().manual_seed(0)
drawn = torch.multinomial(TRUE, 20_000, replacement=True, generator=generator).tolist()
message = "".join(SYMBOLS[k] for k in drawn)
rows = []
for name, words in CODES.items():
    bits = "".join(words[k] for k in drawn)
    by_hand = sum(p * len(word) for p, word in zip(TRUE.tolist(), words, strict=True))
    read_back = "yes" if decode(bits, words) == message else "no"
    rows.append([name, f"{by_hand:.3f}", f"{len(bits) / len(drawn):.3f}", read_back])
table(["Code", "Bits a symbol, expected", "Counted in 20,000 symbols", "Read back whole?"], rows)

# %% [markdown]
# Could a better code go below 1.75 bits? No. Shannon (1948, §9) proved that no code whose messages
# can be read back spends less than
#
# $$ H(p) = -\sum_{i=1}^{N} p_i \log_2 p_i \quad\text{bits a symbol,} $$
#
# the **entropy** of $p$. It is the mean of $-\log_2 p_i$, the length of word that a symbol of
# probability $p_i$ deserves: 1 bit for 1/2, 2 bits for 1/4, 3 bits for 1/8. Those are the words of
# code 1, so code 1 is as good as any. (Where the $-\log_2 p_i$ are not whole numbers, single words
# must be rounded; coding long blocks of symbols at once makes the loss as small as you like. Cover
# and Thomas 2006, §5.4.)
#
# Read it the other way round: $-\log p_i$ is how *surprising* symbol $i$ is, and entropy is the
# mean surprise. Entropy is 0 where one symbol is certain, and $\log N$, its largest value, where
# all $N$ are equally likely. By convention a term with $p_i = 0$ counts as 0, which is the limit of
# $p \log p$.
#
# **Bits and nats.** Take the natural logarithm instead of $\log_2$ and the unit is the **nat**. One
# nat is $1/\ln 2$ bits. Losses are in nats, because `torch.log` is the natural logarithm.

# %%
bits = -(TRUE * TRUE.log2()).sum().item()
nats = -(TRUE * TRUE.log()).sum().item()
print(f"entropy of the machine: {bits:.4f} bits = {nats:.4f} nats")
print(f"one nat is {1 / math.log(2):.4f} bits: {nats:.4f} / ln 2 = {nats / math.log(2):.4f}")
print(
    f"the largest possible with 4 symbols: ln 4 = {math.log(4):.4f} nats = {math.log2(4):.0f} bits"
)

# %% [markdown]
# ### A word on temperature
#
# All the functions below take a `temperature` $T$. It has one effect: **the logits are divided by
# $T$ before the softmax**, $p = \mathrm{softmax}(z / T)$, for teacher and student alike. In this
# lesson $T = 1$, which changes nothing. Why one would choose another value, and what it does to the
# loss, is what lesson 04 is about. Divide first, and you need not think of it again.
#
# ### Your turn
#
# The input is a batch of logits, `[batch, classes]`. The entropy of a row is a sum over its
# classes; the result is the mean over the rows. One thing to take care of: a logit of 10,000 must
# not break it. `F.log_softmax` gives $\log p$ from the logits directly and always finite; a section
# below shows what happens to those who take `softmax` and then `log`.


# %% exercise="entropy"
def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """H(p) = −Σ p log p of p = softmax(logits / temperature), in nats, mean over the rows.

    Args:
        logits: `[batch, classes]`.
        temperature: What the logits are divided by first.

    Returns:
        A scalar.
    """
    ### BEGIN SOLUTION
    log_p = F.log_softmax(logits / temperature, dim=-1)
    # Both factors come from log p: where p underflows to 0, log p is still finite, and 0 times it
    # is the 0 that the convention asks for.
    return -(log_p.exp() * log_p).sum(dim=-1).mean()
    ### END SOLUTION


# %%
entropy = use(entropy)

# %% [markdown]
# How unsure is the real teacher? It was fine-tuned on the labelled sentences and then asked about
# all sentences of the transfer set. Its logits are stored, one row a sentence. We look at both
# parts apart: the sentences it was trained on, and those it had never seen.

# %%
transfer = task().split("transfer")
teacher_logits = stored_knowledge("transfer").logits(transfer["id"][:])
labels = torch.tensor(transfer["label"][:])
is_labelled = labels >= 0
names = stored_knowledge("transfer").classes

rows = []
for name, part in (("labelled (trained on)", is_labelled), ("never seen", ~is_labelled)):
    nats = entropy(teacher_logits[part]).item()
    sure = (teacher_logits[part].softmax(-1).amax(-1) > 0.9).double().mean().item()
    rows.append(
        [
            name,
            f"{int(part.sum()):,}",
            f"{nats:.3f}",
            f"{nats / math.log(2):.3f}",
            f"{100 * sure:.0f} %",
        ]
    )
table(
    ["Sentences", "How many", "Mean entropy (nats)", "(bits)", "One class above 0.9 in"],
    rows,
)
print(f"the largest possible entropy, ln {len(names)}, is {math.log(len(names)):.3f} nats")

# %% [markdown]
# A target with little entropy is nearly a hard label, and can say little that a label does not. So
# what is in the last column matters: we come back to these two lines at the end.

# %% [markdown]
# ## Cross-entropy: paying with somebody else's code
#
# Code 3 was made for other probabilities: its words of 3, 3, 2 and 1 bits are right for a machine
# with $q = (1/8, 1/8, 1/4, 1/2)$. Word lengths *are* a belief: to give symbol $i$ a word of $l_i$
# bits is to believe $q_i = 2^{-l_i}$. The symbols come with $p$; we pay for each by $q$:
#
# $$ H(p, q) = -\sum_{i=1}^{N} p_i \log q_i . $$
#
# This is the **cross-entropy** of $q$ under $p$. In distillation the teacher sends the symbols and
# the student made the code: $H(p_t, p_s) = -\sum_i p_{t,i} \log p_{s,i}$. The logarithm is always
# the student's; the weight is always the teacher's.
#
# The hard-label loss is the case where $p_t$ is 1 for the label $y$ and 0 elsewhere: one term is
# left, $-\log p_{s,y}$. That is `F.cross_entropy(logits, labels)`. So the soft loss is not a new
# loss, only the old one with a target that says more.
#
# Here is the cost of all three codes, cut into the share of each symbol.

# %%
figure, axis = canvas(
    8,
    2.7,
    title="What a symbol costs under three codes, and which symbol it goes to",
    alt="Three stacked bars: mean bits a symbol. Code 1 costs 1.75, code 2 costs 2, code 3 costs "
    "2.625. A dashed line at the entropy, 1.75, touches the end of the bar of code 1. In code 3 "
    "the symbol a alone takes 1.5 bits.",
)
for row, words in enumerate(CODES.values()):
    left = 0.0
    for symbol, p, word, colour in zip(
        SYMBOLS, TRUE.tolist(), words, (SKY, ORANGE, GREEN, PINK), strict=True
    ):
        share = p * len(word)
        axis.barh(row, share, left=left, color=colour, edgecolor="white")
        axis.text(left + share / 2, row, symbol, ha="center", va="center")
        left += share
    axis.text(left + 0.03, row, f"{left:.3f}", va="center")
axis.axvline(bits, color=BLACK, linestyle="--", linewidth=1)
axis.text(bits, -0.62, "entropy H(p) ", ha="right", va="center")
axis.set(
    ylim=(2.6, -0.9), xlim=(0, 3), xlabel="Mean length (bits a symbol): probability × word length"
)
axis.set_yticks(range(3), CODES)
axis.grid(axis="y", visible=False)
display(figure)

# %% [markdown]
# The bar of code 3 ends where $H(p, q)$ is; the dashed line is $H(p)$. What lies between them is
# the price of the wrong belief. It needs both: $p$ says how often each word is sent, $q$ how long
# it is.
#
# ### Your turn


# %% exercise="soft_cross_entropy"
def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """−Σ p_teacher log p_student, both at the temperature, in nats, mean over the rows.

    No gradient reaches the teacher: it is what we train towards, not what we train.

    Args:
        student_logits: `[batch, classes]`.
        teacher_logits: `[batch, classes]`.
        temperature: What both logits are divided by first.

    Returns:
        A scalar.
    """
    ### BEGIN SOLUTION
    log_student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=-1)
    return -(teacher * log_student).sum(dim=-1).mean()
    ### END SOLUTION


# %%
soft_cross_entropy = use(soft_cross_entropy)

# %% [markdown]
# ### Two sentences that circulate
#
# **“$H = -\sum_{i=1}^{N} p_{t,i}\log p_{s,i}$, where $N$ is the number of samples.”** No. The sum
# runs over the *classes* of one example. The examples are averaged outside:
#
# $$
# L = \underbrace{\frac1B \sum_{b=1}^{B}}_{\text{examples, averaged}}\;
#     \underbrace{
#         \Big(-\sum_{i=1}^{N} p_{t,i}^{(b)} \log p_{s,i}^{(b)}\Big)
#     }_{\text{classes, summed}} .
# $$
#
# It is easy to see in the shapes. A batch that repeats each example three times is the same data,
# so its mean loss must be the same. Splitting the *classes* is another matter: averaging over them
# divides the loss by $N$, and makes a task with more classes look easier.

# %%
generator = torch.Generator().manual_seed(1)
few_teacher = teacher_logits[:4]
few_student = torch.randn(4, len(names), generator=generator)
terms = -few_teacher.softmax(-1) * few_student.log_softmax(-1)
print(f"terms {list(terms.shape)}: 4 examples, {len(names)} classes")
print("summed over classes, one number an example:", [round(x, 3) for x in terms.sum(-1).tolist()])
print(f"then averaged over examples:  {terms.sum(-1).mean():.4f} nats")
print(f"soft_cross_entropy:           {soft_cross_entropy(few_student, few_teacher):.4f} nats")
repeated = soft_cross_entropy(few_student.repeat(3, 1), few_teacher.repeat(3, 1))
print(f"each example three times:     {repeated:.4f} nats")
print(
    f"averaged over classes too:    {terms.mean():.4f}, "
    f"too small by a factor of {terms.sum(-1).mean() / terms.mean():.0f}"
)

# %% [markdown]
# A second look at the weights tells what a soft target is worth. Suppose that the teacher, asked
# about the sentence at the beginning again and again, each time *drew* a class with its
# probabilities and gave that as a hard label. The mean hard-label loss over very many draws is
# $\sum_i p_{t,i} \cdot (-\log p_{s,i})$: the soft cross-entropy. One soft target says at once what
# many drawn labels say in the long run, without their noise.

# %%
generator = torch.Generator().manual_seed(4)
one_student, one_teacher = few_student[1:2], torch.tensor(example["teacher"])[None]
print(f"one soft target:       {soft_cross_entropy(one_student, one_teacher):.4f} nats")
for draws in (1, 10, 1_000, 100_000):
    drawn = torch.multinomial(
        one_teacher.softmax(-1)[0], draws, replacement=True, generator=generator
    )
    loss = F.cross_entropy(one_student.expand(draws, -1), drawn)
    print(f"{draws:>7,} drawn labels:  {loss:.4f} nats")

# %% [markdown]
# **“Cross-entropy measures the difference between two distributions.”** A difference of equal
# things is 0. Let the student be the teacher, exactly:

# %%
same = soft_cross_entropy(teacher_logits, teacher_logits)
print(f"cross-entropy of the teacher with itself: {same:.4f} nats")
print(f"the teacher's entropy:                    {entropy(teacher_logits):.4f} nats")

# %% [markdown]
# The best student of all has the loss $H(p_t)$, not 0. A soft cross-entropy that “gets stuck” at
# the teacher's entropy is not stuck: it has arrived. What measures the difference is what is left
# when $H(p_t)$ is taken away.

# %% [markdown]
# ## KL divergence: the part that can be mended
#
# $$ \mathrm{KL}(p \,\|\, q) = \sum_{i=1}^{N} p_i \log \frac{p_i}{q_i} $$
#
# is the **Kullback-Leibler divergence**, or relative entropy (Kullback and Leibler 1951): the extra
# cost of paying by $q$ for what comes with $p$. Line by line, for a teacher and a student:
#
# $$
# \begin{aligned}
# H(p_t, p_s)
#   &= -\sum_i p_{t,i} \log p_{s,i}
#   && \text{the definition}\\
#   &= -\sum_i p_{t,i} \log p_{t,i} + \sum_i p_{t,i} \log p_{t,i} - \sum_i p_{t,i} \log p_{s,i}
#   && \text{add and take away the same}\\
#   &= -\sum_i p_{t,i} \log p_{t,i} + \sum_i p_{t,i} \big(\log p_{t,i} - \log p_{s,i}\big)
#   && \text{gather the last two sums}\\
#   &= H(p_t) + \mathrm{KL}(p_t \,\|\, p_s) .
#   && \text{both definitions}
# \end{aligned}
# $$
#
# The first term is the teacher's alone; no student can change it. The second is the student's to
# mend, and **it is never negative**. To see it, use $\log x \le x - 1$ (a straight line that
# touches the logarithm at $x = 1$):
#
# $$
# -\mathrm{KL}(p \,\|\, q) = \sum_i p_i \log \frac{q_i}{p_i}
# \;\le\; \sum_i p_i \Big(\frac{q_i}{p_i} - 1\Big) = \sum_i q_i - \sum_i p_i \le 0 ,
# $$
#
# where the sums run over $i$ with $p_i > 0$. Equality needs $q_i = p_i$ everywhere (Cover and
# Thomas 2006, Theorem 2.6.3). So KL is 0 exactly where the student says what the teacher says.
#
# For the machine: $H(p,q) = 2.625$ bits, $H(p) = 1.75$ bits, so $\mathrm{KL}(p\,\|\,q) = 0.875$
# bits, the gap between the bar of code 3 and the dashed line.
#
# ### Which rows count: the mask
#
# Some batches have rows that are not there: texts of different lengths are padded to one length,
# and a model with an answer a *token* gives logits `[batch, tokens, classes]` in which the padding
# has logits too. They mean nothing and must not reach the loss. A **mask** marks what counts: bool,
# `[batch]` or `[batch, tokens]`, true for a real row. Three rules, for all losses of this course:
#
# - *The sum runs over classes, the mean over the rows that count, of the whole batch.* Each token
#   weighs the same, whatever the length of its text. At least one row counts in
#   the exercise; the library gives 0 for none, where a plain mean would be 0 / 0 = NaN.
# - *What stands under a false entry changes nothing,* whatever it is. Multiplying by 0 is not
#   enough: $0 \cdot \mathrm{NaN}$ is NaN. Leave the rows out (`logits[mask]` keeps the others, as
#   `[rows, classes]`), or put a harmless number there with `torch.where`, *before* the arithmetic.
# - *Its gradient there is 0.* Leaving rows out does that by itself.

# %%
bad = torch.tensor([1.0, float("nan")])
keep = torch.tensor([True, False])
print("times 0:   ", (bad * keep).sum().item())
print("left out:  ", bad[keep].sum().item())
print("where:     ", torch.where(keep, bad, 0.0).sum().item())

# %% [markdown]
# ### Your turn
#
# You may call `F.kl_div`, but mind that its *first* argument is the student's **log**-probabilities
# and its second the teacher's, and read what `reduction` and `log_target` do in its documentation.
# Or write the sum out: it is one line.


# %% exercise="kl_divergence"
def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(teacher ‖ student), both at the temperature, in nats, without any factor T².

    Summed over the classes, mean over the rows that count. No gradient reaches the teacher.

    Args:
        student_logits: `[batch, classes]`, or `[batch, tokens, classes]` with a mask.
        teacher_logits: Likewise.
        temperature: What both logits are divided by first.
        mask: Bool, `[batch]` or `[batch, tokens]`; true where a row counts. None: every row does.
            Under a false entry anything may stand, even NaN.

    Returns:
        A scalar. At least one row counts.
    """
    ### BEGIN SOLUTION
    if mask is not None:
        # Indexing leaves the masked rows out before any arithmetic, so that a NaN in them reaches
        # neither the value nor the gradient. Either shape becomes [rows, classes].
        student_logits, teacher_logits = student_logits[mask], teacher_logits[mask]
    log_student = F.log_softmax(student_logits / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    rows = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    return rows.sum() / max(rows.numel(), 1)  # .mean() of no rows would be NaN
    ### END SOLUTION


# %%
kl_divergence = use(kl_divergence)

# %% [markdown]
# Now the law $H(p_t, p_s) = H(p_t) + \mathrm{KL}(p_t \,\|\, p_s)$, on random logits of very
# different sizes. A derivation can hide a slip; three functions that were written apart and agree
# on a thousand inputs are good evidence that none is there.

# %%
generator = torch.Generator().manual_seed(2)
largest_gap, smallest_kl = 0.0, math.inf
for _ in range(1000):
    size = 10 ** torch.empty(1).uniform_(-1, 1, generator=generator).item()
    student = size * torch.randn(3, 5, generator=generator)
    teacher = size * torch.randn(3, 5, generator=generator)
    whole = soft_cross_entropy(student, teacher)
    parts = entropy(teacher) + kl_divergence(student, teacher)
    largest_gap = max(largest_gap, ((whole - parts).abs() / whole).item())
    smallest_kl = min(smallest_kl, kl_divergence(student, teacher).item())
print(f"largest relative gap between CE and H + KL in 1,000 draws: {largest_gap:.1e}")
print(f"(one rounding of a float32 is {torch.finfo(torch.float32).eps:.1e})")
print(f"smallest KL met: {smallest_kl:.4f} nats")

# %% [markdown]
# And the mask, on two texts of three tokens and of one. The padding holds NaN.

# %%
generator = torch.Generator().manual_seed(5)
padded_student, padded_teacher = torch.randn(2, 2, 3, 5, generator=generator)
real = torch.tensor([[True, True, True], [True, False, False]])
padded_student[~real] = float("nan")
each_token = torch.stack(
    [
        kl_divergence(a[None], b[None])
        for a, b in zip(padded_student[real], padded_teacher[real], strict=True)
    ]
)
print("KL of each real token:         ", [round(k, 4) for k in each_token.tolist()])
print(f"their mean:                     {each_token.mean():.4f}")
masked = kl_divergence(padded_student, padded_teacher, mask=real)
print(f"kl_divergence with the mask:    {masked:.4f}")
by_text = (each_token[:3].mean() + each_token[3]) / 2
print(f"mean of the two texts' means:   {by_text:.4f}, another question, in which a token of a")
print("                                short text weighs more")

# %% [markdown]
# ### “KL is a distance”
#
# A distance is the same in both directions, and no detour is shorter than the straight way. KL
# keeps neither rule. Which error is dearer: to take a fair coin for one that shows heads nine times
# in ten, $\mathrm{KL}(\text{fair}\,\|\,\text{bent})$, or the other way round? Guess which coin comes
# first in the dearer one, `"fair"` or `"bent"`, or `"equal"`; then run on.

# %%
predict("03_coin", ...)


# %%
def coin(heads: float) -> Tensor:
    """Logits [1, 2] of a coin that shows heads with this probability."""
    return torch.tensor([[heads, 1 - heads]]).log()


fair, bent, between = coin(0.5), coin(0.9), coin(0.7)
there, back = kl_divergence(bent, fair), kl_divergence(fair, bent)
print(f"KL(fair ‖ bent) = {there:.4f} nats   KL(bent ‖ fair) = {back:.4f} nats")
detour = kl_divergence(between, fair) + kl_divergence(bent, between)
print(f"straight: KL(fair ‖ bent) = {there:.4f}   by way of 0.7: {detour:.4f}")
recall("03_coin", "fair" if there > back else "bent")

# %% [markdown]
# So always say which way round. This course writes the teacher first and calls
# $\mathrm{KL}(p_t\,\|\,p_s)$ the **forward** KL; $\mathrm{KL}(p_s\,\|\,p_t)$ is the **reverse**
# one. (In *code* the student comes first, `kl_divergence(student, teacher)`, as in torch's own
# losses, where the first argument is what is trained.)

# %% [markdown]
# ## Which way it pulls: the gradient
#
# A student does not see the loss. It feels its gradient. For these losses the gradient in the
# student's logits is so simple that it is worth deriving once in your life.
#
# Write $p = p_s = \mathrm{softmax}(z / T)$ for the student, and keep one example.
#
# *Step 1: the logarithm of softmax.*
#
# $$ \log p_i = \frac{z_i}{T} - \log \sum_k e^{z_k / T} . $$
#
# *Step 2: its derivative in one logit $z_j$.* The first part gives $1/T$ if $i = j$ and else 0;
# write $\delta_{ij}$ for that 1 or 0. The second part is a logarithm of a sum, of which one term
# has $z_j$:
#
# $$
# \frac{\partial \log p_i}{\partial z_j}
# = \frac{\delta_{ij}}{T} - \frac{1}{\sum_k e^{z_k/T}} \cdot \frac{e^{z_j/T}}{T}
# = \frac1T (\delta_{ij} - p_j) .
# $$
#
# (Multiply by $p_i$ and you have the Jacobian of softmax itself,
# $\partial p_i / \partial z_j = p_i (\delta_{ij} - p_j) / T$.)
#
# *Step 3: into the loss.* The teacher is a constant:
#
# $$
# \begin{aligned}
# \frac{\partial H(p_t, p_s)}{\partial z_j}
# &= -\sum_i p_{t,i}\, \frac1T (\delta_{ij} - p_{s,j})\\
# &= \frac1T \Big( -p_{t,j} + p_{s,j} \sum_i p_{t,i} \Big)
# && \text{only } i = j \text{ is left of the first part}\\
# &= \frac1T (p_{s,j} - p_{t,j})
# && \text{because the teacher's probabilities add up to 1.}
# \end{aligned}
# $$
#
# *Step 4: the batch.* The loss is a mean over $B$ examples, so each row's gradient is divided by
# $B$.
#
# What it says: a class to which the student gives too much is pushed down, one to which it gives
# too little is pulled up, each by just the excess. The pushes of a row add up to 0. With a hard
# label, $p_t$ is 0 for all wrong classes, and all are pushed down to nothing; with a soft target
# they are pushed to where the teacher has them. And since $H(p_t)$ is a constant, **KL has the very
# same gradient** (Hinton, Vinyals and Dean 2015, §2.1, equation 2, which gives it with the $1/T$).
#
# ### Your turn


# %% exercise="soft_cross_entropy_gradient"
def soft_cross_entropy_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """The gradient of `soft_cross_entropy` in the student's logits, by formula.

    Args:
        student_logits: `[batch, classes]`.
        teacher_logits: `[batch, classes]`.
        temperature: What both logits are divided by first.

    Returns:
        `[batch, classes]`: of the mean over the batch, so each row has a share of 1 / batch.
    """
    ### BEGIN SOLUTION
    student = F.softmax(student_logits / temperature, dim=-1)
    teacher = F.softmax(teacher_logits / temperature, dim=-1)
    return (student - teacher) / (temperature * len(student_logits))
    ### END SOLUTION


# %%
soft_cross_entropy_gradient = use(soft_cross_entropy_gradient)

# %% [markdown]
# Torch knows nothing of our four steps. It applies the chain rule to each operation. If both agree,
# for CE and for KL, the derivation stands.


# %%
def gradient_of(loss: Callable[[Tensor, Tensor, float], Tensor], z: Tensor, t: float) -> Tensor:
    """The gradient that automatic differentiation finds, [batch, classes]."""
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, few_teacher, t), z)
    return gradient


rows = []
for t in (0.5, 1.0, 4.0):
    formula = soft_cross_entropy_gradient(few_student, few_teacher, t)
    rows.append(
        [
            f"T = {t:g}",
            f"{formula.abs().max():.4f}",
            f"{(formula - gradient_of(soft_cross_entropy, few_student, t)).abs().max():.1e}",
            f"{(formula - gradient_of(kl_divergence, few_student, t)).abs().max():.1e}",
            f"{formula.sum(-1).abs().max():.1e}",
        ]
    )
table(
    ["", "Largest entry", "Formula − autograd of CE", "Formula − autograd of KL", "Row sums"], rows
)

# %% [markdown]
# Now see the difference that a soft target makes to a step. The student knows nothing yet (all
# logits 0), the sentence is the one at the beginning of this lesson. A step of gradient descent
# moves each logit *against* the gradient, by an amount proportional to $p_{t,j} - p_{s,j}$. (For
# the hard label we take a teacher that is certain: a logit of 10,000 for the label, 0 for the
# rest.)

# %% figure="pull"
ignorant = torch.zeros(1, len(classes))
pull_hard = -soft_cross_entropy_gradient(ignorant, 1e4 * hard[None])[0]
pull_soft = -soft_cross_entropy_gradient(ignorant, torch.tensor(example["teacher"])[None])[0]
figure, axes = canvas(
    8,
    2.6,
    columns=2,
    sharey=True,
    title="Which way each logit of an ignorant student is pulled",
    alt="Two bar charts of the pull on each logit. Hard label: "
    + ", ".join(f"{name} {v:+.2f}" for name, v in zip(classes, pull_hard.tolist(), strict=True))
    + ". Soft target: "
    + ", ".join(f"{name} {v:+.2f}" for name, v in zip(classes, pull_soft.tolist(), strict=True))
    + ".",
)
for axis, pull, colour, name in (
    (axes[0], pull_hard, ORANGE, "By the hard label"),
    (axes[1], pull_soft, BLUE, "By the soft target"),
):
    bars = axis.barh(classes, pull.tolist(), color=colour)
    axis.bar_label(bars, fmt="%+.2f", padding=3)
    axis.axvline(0, color=BLACK, linewidth=1)
    axis.set(title=name, xlim=(-0.5, 1.1), xlabel="−∂L/∂z: down ← 0 → up (nats per unit of logit)")
    axis.set_xticks([-0.4, 0, 0.4, 0.8])
axes[0].invert_yaxis()
display(figure)

# %% [markdown]
# The hard label pushes all wrong classes down alike. The soft target treats each in its own way:
# that is the information the label did not have.
#
# ### Play with it
#
# Move the student's logits and watch CE, forward and reverse KL, and the gradient $p_s - p_t$. Three
# things to try: make the gradient vanish (what is CE then, and what is KL?); add the same number to
# all logits; find a student whose forward KL is large and whose reverse KL is small.

# %%
display(loss_explorer())

# %% [markdown]
# ## Why in log-space
#
# `softmax` then `log` is what the formula says. In float32 it fails, and not only in theory: a
# float32 has no number between 0 and about $10^{-45}$, so $e^{-104}$ *is* 0, and its logarithm is
# $-\infty$. Logits that differ by 104 are enough, which a half-trained model, a low temperature or
# a large vocabulary can bring about. A frequent patch adds a small number before the logarithm.
# Compare the three: the cross-entropy under a uniform teacher, and its gradient in the first logit,
# for a student that is nearly sure of the second class. The right values come from float64.


# %%
def naive(z: Tensor) -> Tensor:
    """As the formula says."""
    return z.softmax(-1).log()


def patched(z: Tensor) -> Tensor:
    """With the usual patch."""
    return (z.softmax(-1) + 1e-8).log()


def stable(z: Tensor) -> Tensor:
    """z − logsumexp(z), which never leaves log-space."""
    return F.log_softmax(z, dim=-1)


WAYS = {"softmax().log()": naive, "(softmax() + 1e-8).log()": patched, "log_softmax": stable}


def against_uniform(log_probabilities: Callable[[Tensor], Tensor], logits: Tensor) -> list[str]:
    """The cross-entropy under a uniform teacher, and its gradient in the first logit."""
    z = logits.clone().requires_grad_()
    loss = -log_probabilities(z).mean(-1).sum()
    loss.backward()
    return [f"{loss.item():,.4f}", f"{z.grad[0, 0].item():.4f}"]


cases = {
    "mild: 0, 5, 0": torch.tensor([[0.0, 5.0, 0.0]]),
    "underflow: 0, 120, 0": torch.tensor([[0.0, 120.0, 0.0]]),
    "extreme: −1e4, 1e4, 0": torch.tensor([[-1e4, 1e4, 0.0]]),
}
rows = []
for case, logits in cases.items():
    for way, function in WAYS.items():
        rows.append([case, f"`{way}`", *against_uniform(function, logits)])
    rows.append([case, "**right** (float64)", *against_uniform(stable, logits.double())])
table(["Student's logits", "How log p is taken", "Loss (nats)", "Gradient, first logit"], rows)

# %% [markdown]
# - The plain way is infinite as soon as one probability underflows, and its gradient is NaN: one
#   such row, and every weight of the student is NaN after the next step.
# - The patch is finite and wrong. It caps each term at $-\log 10^{-8} = 18.4$ (here two of three
#   classes are capped, at a weight of 1/3 each), and, what is worse, where
#   the student is most wrong there is *no gradient left* to mend it. Nothing warns you.
# - `log_softmax` subtracts: $\log p_i = z_i - \log\sum_k e^{z_k}$, with the largest logit taken out
#   of the sum so that nothing overflows (Blanchard, Higham and Higham 2021 on its rounding errors).
#
# The teacher's side can fail by itself. In $p_t \log p_t$ an underflow makes $0 \cdot (-\infty)$,
# which is NaN:

# %%
for z in (-103.0, -104.0):
    print(f"exp({z:g}) in float32 is", torch.tensor(z).exp().item())
sure = torch.tensor([[120.0, 0.0, 0.0]])
print("Σ p log p by softmax().log():", (sure.softmax(-1) * naive(sure)).sum().item())
print("Σ p log p by log_softmax:    ", (stable(sure).exp() * stable(sure)).sum().item())
print("kl_divergence at ±1e4:       ", kl_divergence(cases["extreme: −1e4, 1e4, 0"], sure).item())

# %% [markdown]
# ## `batchmean` and its relatives
#
# `F.kl_div` is where most slips happen that still train. Its signature is
# `F.kl_div(input, target, reduction="mean", log_target=False)`:
#
# - `input` is the **student's log-probabilities**; `target` the teacher's **probabilities**, or
#   their logarithm with `log_target=True`. Nothing checks either.
# - `reduction="mean"`, the default, divides by the number of *elements*, $B \cdot N$: too small by
#   $N$. Torch warns about it, and its documentation says to use `batchmean`.
# - `"batchmean"` divides by the *first* axis. That is right for `[batch, classes]`. For
#   `[batch, tokens, classes]` it leaves the sum over tokens in.
# - `"sum"` divides by nothing: too large by $B$.
#
# Here they are all at once, on
# `[batch, classes] = [8, 5]`, and on tokens, `[batch, tokens, classes] = [4, 12, 5]` with no
# padding.

# %%
# Torch warns of "mean", and rightly; here it is called on purpose.
warnings.filterwarnings("ignore", message="reduction: 'mean' divides")

generator = torch.Generator().manual_seed(3)
z_s, z_t = torch.randn(2, 8, 5, generator=generator)
token_s, token_t = torch.randn(2, 4, 12, 5, generator=generator)
every_token = torch.ones(4, 12, dtype=torch.bool)


def reductions(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """What F.kl_div gives for the same two inputs, called in different ways."""
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    flat_s, flat_t = log_s.flatten(0, -2), log_t.flatten(0, -2)
    return {
        '"batchmean" of [rows, classes]': F.kl_div(
            flat_s, flat_t, reduction="batchmean", log_target=True
        ),
        '"none", then .sum(-1).mean()': F.kl_div(log_s, log_t, reduction="none", log_target=True)
        .sum(-1)
        .mean(),
        '"batchmean", not flattened': F.kl_div(
            log_s, log_t, reduction="batchmean", log_target=True
        ),
        '"mean"': F.kl_div(log_s, log_t, reduction="mean", log_target=True),
        '"sum"': F.kl_div(log_s, log_t, reduction="sum", log_target=True),
    }


right, right_token = kl_divergence(z_s, z_t), kl_divergence(token_s, token_t, mask=every_token)
on_rows, on_tokens = reductions(z_s, z_t), reductions(token_s, token_t)
table(
    ["Reduction", "[8, 5]", "ratio to right", "[4, 12, 5]", "ratio to right"],
    [
        [
            f"`{way}`",
            f"{on_rows[way]:.4f}",
            f"{on_rows[way] / right:.3g}",
            f"{on_tokens[way]:.4f}",
            f"{on_tokens[way] / right_token:.3g}",
        ]
        for way in on_rows
    ],
)

# %% [markdown]
# Read the factors: 0.2 is $1/N$ with $N = 5$; 8 is the batch; 12 the tokens of a text; 48 all
# tokens of the batch. A constant factor does not move the minimum, so why mind? Because the loss is
# seldom alone. It is added to a hard-label loss with a weight $\alpha$, and then the factor is a
# secret change of $\alpha$; it changes the step of plain SGD; and where it depends on the number of
# tokens, long texts and large batches weigh more, and no two runs with different padding compare.
# With a vocabulary of 30,000 words, `"mean"` divides the teacher's part by 30,000.
#
# The arguments can be wrong too. These mistakes are not a factor; they minimise something else:


# %%
def calls(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """What F.kl_div gives for logits that reach it in right and in wrong ways."""
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    p_s, p_t = log_s.exp(), log_t.exp()

    def kl_div(first: Tensor, second: Tensor, log_target: bool = False) -> Tensor:
        return F.kl_div(first, second, reduction="batchmean", log_target=log_target)

    return {
        "right": kl_div(log_s, log_t, log_target=True),
        "right: probabilities, log_target=False": kl_div(log_s, p_t),
        "swapped: this is KL(student ‖ teacher)": kl_div(log_t, log_s, log_target=True),
        "student's probabilities, not their logarithm": kl_div(p_s, p_t),
        "student's raw logits": kl_div(student, p_t),
        "teacher's logarithm, log_target forgotten": kl_div(log_s, log_t),
        "teacher's probabilities, log_target=True": kl_div(log_s, p_t, log_target=True),
    }


different, equal = calls(z_s, z_t), calls(z_t, z_t)
table(
    ["Call", "Value (nats)", "Ratio to right", "For equal logits"],
    [
        [
            way,
            f"{value:.4f}",
            f"{value / right:.3g}",
            f"{equal[way]:.4f}".replace("-0.0000", "0.0000"),
        ]
        for way, value in different.items()
    ],
)

# %% [markdown]
# The last column is the cheapest test there is: **for equal logits a KL must be 0**. It finds all
# of these but one. Swapped arguments pass it, because the reverse KL is 0 there too; to find those,
# compare with a case worked by hand. Those two tests take a minute to write.

# %% [markdown]
# ## Forward or reverse: a student that cannot match
#
# If the student can say exactly what the teacher says, both KLs have the same minimum, 0, at
# $p_s = p_t$. The direction matters where it *cannot*. Students are smaller; so this is their usual
# state.
#
# The smallest such case: the teacher's distribution has two peaks, and the student is a single bell
# curve with two numbers to choose, its mean $\mu$ and its width $\sigma$. Both live on a grid of
# 241 points, so they are distributions over 241 “classes”, and the losses above apply as they are.
#
# Guess first. Where will the bell sit that minimises the *reverse* KL,
# $\mathrm{KL}(p_s \,\|\, p_t)$? `"between the peaks"`, `"on one peak"`, or
# `"wide, over both"`?

# %%
predict("03_reverse_kl", ...)

# %%
x = torch.linspace(-6, 6, 241)


def bell_logits(mean: Tensor, log_width: Tensor) -> Tensor:
    """Logits [1, 241] of a Gaussian on the grid; softmax sees to the normalisation."""
    return (-0.5 * ((x - mean) / log_width.exp()) ** 2)[None]


peaks = [(0.6, -2.0, 0.5), (0.4, 2.0, 0.7)]  # weight, mean, width
two_peaks = torch.stack(
    [math.log(w / s) - 0.5 * ((x - m) / s) ** 2 for w, m, s in peaks]
).logsumexp(0)[None]


def fit(loss: Callable[[Tensor, Tensor], Tensor], start: float) -> Tensor:
    """Logits of the bell at which gradient descent arrives from a mean of `start`, width 1."""
    mean = torch.tensor(start, requires_grad=True)
    log_width = torch.tensor(0.0, requires_grad=True)
    optimiser = torch.optim.Adam([mean, log_width], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        loss(bell_logits(mean, log_width), two_peaks).backward()
        optimiser.step()
    return bell_logits(mean, log_width).detach()


def moments(logits: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the distribution on the grid."""
    p = logits.softmax(-1)[0]
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().sqrt().item()


bells = {
    "forward KL": fit(kl_divergence, 0.0),
    "reverse KL, start at −1": fit(reverse_kl_divergence, -1.0),
    "reverse KL, start at +1": fit(reverse_kl_divergence, 1.0),
    "reverse KL, start at 0": fit(reverse_kl_divergence, 0.0),
}
rows = []
for name, bell in {**bells, "*the target itself*": two_peaks}.items():
    both = kl_divergence(bell, two_peaks), reverse_kl_divergence(bell, two_peaks)
    rows.append([name, *(f"{m:.3f}" for m in moments(bell)), *(f"{loss:.3f}" for loss in both)])
table(["Student", "Mean", "Width", "Forward KL (nats)", "Reverse KL (nats)"], rows)

# %% figure="forward-and-reverse"
forward_mean, forward_width = moments(bells["forward KL"])
figure, axes = canvas(
    8,
    2.9,
    columns=2,
    sharey=True,
    title="One bell for two peaks: forward KL covers, reverse KL picks",
    alt="A target with a larger peak at −2 and a smaller one at 2. Left: the bell of the "
    f"forward KL has mean {forward_mean:.2f} and width {forward_width:.2f}; it is low and wide, "
    "covers both peaks, and is high in the valley where the target is almost 0. Right: two bells "
    "found with the reverse KL each stand on one peak and leave the other out.",
)
styles = {
    "forward KL": (axes[0], BLUE, "-"),
    "reverse KL, start at −1": (axes[1], VERMILION, "-"),
    "reverse KL, start at +1": (axes[1], GREEN, "--"),
}
step = (x[1] - x[0]).item()
for axis in axes:
    axis.fill_between(x, two_peaks.softmax(-1)[0] / step, color="#D0D0D0", label="teacher")
    axis.set(xlabel="x (grid of 241 points)", ylim=(0, 0.95))
for name, (axis, colour, line) in styles.items():
    axis.plot(x, bells[name].softmax(-1)[0] / step, color=colour, linestyle=line, label=name)
    axis.legend(loc="upper right", fontsize=8, frameon=False)
axes[0].set_ylabel("Probability density")
display(figure)
best = min(list(bells)[1:], key=lambda name: reverse_kl_divergence(bells[name], two_peaks).item())
recall("03_reverse_kl", f"the least reverse KL has mean {moments(bells[best])[0]:.2f}: on one peak")

# %% [markdown]
# Why? Look at where each sum puts its weight.
#
# - **Forward**, $\sum p_t \log (p_t / p_s)$: the teacher weighs. Wherever the teacher has mass and
#   the student has none, the logarithm explodes. The student must *cover* all of it, even at the
#   price of mass in the valley, where the teacher has almost none and the sum hardly looks. The fit
#   has the mean and the width of the target itself, as the table shows: for a bell that is a
#   theorem (moment matching; Bishop 2006, §10.7).
# - **Reverse**, $\sum p_s \log (p_s / p_t)$: the student weighs. It pays for its own mass where the
#   teacher has none, and nothing for what it leaves out. It *seeks a mode* and stays there. Its
#   loss has several minima, and the start decides: the least one stands on the larger peak, another
#   on the smaller. From the middle the descent ended in a third, wide and shallow one, whose loss
#   is the largest of the three. On a peak the loss is close to $-\log$ of the peak's weight, since
#   $p_s \approx p_t / \text{weight}$ there:

# %%
for (weight, place, _), name in zip(peaks, list(bells)[1:3], strict=True):
    loss = reverse_kl_divergence(bells[name], two_peaks)
    print(f"peak at {place:+}: −log {weight} = {-math.log(weight):.3f}, loss {loss:.3f} nats")

# %% [markdown]
# Bishop (2006, §10.1.2) shows the same with two dimensions. For language models Gu et al. (2024,
# MiniLLM, §2.1) argue for the reverse direction: a small model that covers everything its teacher
# might say puts mass on texts that the teacher would never say. With five classes and a softmax on
# top the student can represent any answer to a *single* sentence, and the forward KL is the usual
# choice. Neither is “the right one”: they ask for different things.
#
# A trap on the way: you cannot get the reverse KL by calling `kl_divergence(teacher, student)`. The
# value would be right, but our function cuts the gradient of its second argument. Alone, `backward()`
# then fails; added to another loss it is worse: everything runs, and this term teaches nothing.

# %% [markdown]
# ## “KL makes the student more robust than cross-entropy”
#
# You can read this in tutorials. We have all it takes to judge it: the teacher is fixed, so
# $H(p_t)$ is a constant, so both losses have the same gradient, so two students that start with the
# same weights and see the same batches take the same steps. Let us run it with real targets.
#
# The student is as simple as a text classifier gets, a **bag of embeddings**: one learned vector a
# word, the mean over the words of the sentence, one linear layer to the five classes. No attention,
# no order of words, not even the teacher's tokenizer.

# %%
PADDING = 0
LONGEST = 64


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters."""
    return re.findall(r"[a-z]+", text.lower())


counts = Counter(word for text in transfer["text"][:] for word in words_of(text))
number = {word: k for k, (word, n) in enumerate(counts.most_common(), start=1) if n >= 2}


def as_bags(texts: Sequence[str]) -> Tensor:
    """Word numbers [texts, LONGEST], padded; words met less than twice are left out."""
    found = ([number[w] for w in words_of(text) if w in number][:LONGEST] for text in texts)
    return torch.tensor([bag + [PADDING] * (LONGEST - len(bag)) for bag in found])


class BagOfEmbeddings(nn.Module):
    """Mean of word vectors, then a linear layer: [batch, LONGEST] to logits [batch, classes]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(len(number) + 1, width, mode="mean", padding_idx=PADDING)
        self.classify = nn.Linear(width, len(names))

    def forward(self, bags: Tensor) -> Tensor:
        return self.classify(self.embed(bags))


Loss = Callable[[Tensor, Tensor], Tensor]
"""From student logits [batch, classes] and row numbers [batch] to a scalar."""


def train(rows: Tensor, loss: Loss, seed: int, steps: int = 300) -> BagOfEmbeddings:
    """Train a new student on batches of 256 drawn from these rows; the seed fixes all chance."""
    torch.manual_seed(seed)
    student = BagOfEmbeddings()
    optimiser = torch.optim.Adam(student.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (256,), generator=generator)]
        optimiser.zero_grad()
        loss(student(bags[batch]), batch).backward()
        optimiser.step()
    return student.eval()


bags = as_bags(transfer["text"][:])
everything = torch.arange(len(bags))
size = sum(parameter.numel() for parameter in BagOfEmbeddings().parameters())
print(f"{len(number):,} words, {size:,} parameters, {len(bags):,} sentences")

# %%
with_kl = train(everything, lambda z, rows: kl_divergence(z, teacher_logits[rows]), seed=0)
with_ce = train(everything, lambda z, rows: soft_cross_entropy(z, teacher_logits[rows]), seed=0)

start = train(everything, lambda z, rows: z.sum(), seed=0, steps=0)
moved = [(a - b).abs().max() for a, b in zip(start.parameters(), with_kl.parameters(), strict=True)]
apart = [
    (a - b).abs().max() for a, b in zip(with_ce.parameters(), with_kl.parameters(), strict=True)
]
with torch.no_grad():
    z = with_kl(bags)
    kl, ce = kl_divergence(z, teacher_logits), soft_cross_entropy(z, teacher_logits)
print(f"after 300 steps: CE {ce:.4f} nats, KL {kl:.4f} nats; the teacher's entropy {ce - kl:.4f}")
print(f"largest change of a weight in training:         {max(moved):.3g}")
print(f"largest difference of a weight, CE against KL:  {max(apart):.3g}")

# %% [markdown]
# The two losses differ by a constant, and the two students are the same student: neither can be the
# more robust one. A difference of 0 means that even the roundings
# agreed; if you wrote the losses in another way, you may see a difference the size of roundings,
# which Adam can enlarge a little, against changes of the weights many times as large.
#
# When *does* the choice matter? Where the teacher is not fixed (it has a gradient, or its targets
# change: then $H(p_t)$ is no constant), where a threshold or a schedule looks at the loss's
# *value*, and for reading a curve: KL is 0 at the goal, CE is not.

# %% [markdown]
# ## The losses do not care
#
# The teacher is a Transformer; this student is not. Nothing in the losses knew. They compare two
# rows of numbers. Buciluă, Caruana and Niculescu-Mizil (2006) taught neural nets from ensembles of
# many kinds of model in this way, Ba and Caruana (2014, §2) shallow nets from deep ones, and Tang
# et al. (2019) an LSTM from BERT, all on the teacher's outputs.
#
# But does it help? Three ways to train the same student, each with 300 steps of 256 sentences:
#
# 1. **hard labels**: the labelled sentences, cross-entropy with their labels;
# 2. **soft targets, same sentences**: the labelled sentences, the teacher's targets, no labels;
# 3. **soft targets, all sentences**: the whole transfer set, most of it without labels. Only a
#    teacher can make use of that.
#
# Guess the gain of 2 over 1, and of 3 over 1, in points of validation accuracy. Put two numbers in
# place of the dots, such as `[3, 5]`.

# %%
predict("03_bag_gains", ...)

# %%
validation = task().split("validation")
validation_labels = torch.tensor(validation["label"][:])
validation_bags = as_bags(validation["text"][:])


def accuracy(logits: Tensor) -> float:
    """The share of the validation sentences that get their label, in per cent."""
    return 100 * (logits.argmax(-1) == validation_labels).double().mean().item()


labelled = is_labelled.nonzero().squeeze(1)
SEEDS = (0, 1, 2)
ARMS: dict[str, tuple[Tensor, Loss]] = {
    "hard labels": (labelled, lambda z, rows: F.cross_entropy(z, labels[rows])),
    "soft targets,\nsame sentences": (
        labelled,
        lambda z, rows: kl_divergence(z, teacher_logits[rows]),
    ),
    "soft targets,\nall sentences": (
        everything,
        lambda z, rows: kl_divergence(z, teacher_logits[rows]),
    ),
}
scores: dict[str, list[float]] = {}
for arm, (arm_rows, arm_loss) in ARMS.items():
    students = [train(arm_rows, arm_loss, seed) for seed in SEEDS]
    with torch.no_grad():
        scores[arm] = [accuracy(student(validation_bags)) for student in students]
teacher_accuracy = accuracy(stored_knowledge("validation").logits(validation["id"][:]))

means = {arm: sum(values) / len(values) for arm, values in scores.items()}
first, second, third = means.values()
table(
    ["Trained on", *(f"Seed {seed}" for seed in SEEDS), "Mean", "Gain over hard labels"],
    [
        [
            arm.replace("\n", " "),
            *(f"{value:.2f}" for value in values),
            f"{means[arm]:.2f}",
            f"{means[arm] - first:+.2f}",
        ]
        for arm, values in scores.items()
    ],
)
recall("03_bag_gains", [round(second - first, 2), round(third - first, 2)])

# %%
figure, axis = canvas(
    8,
    3.1,
    title="A bag of embeddings, three ways to train it, three seeds each",
    alt="Validation accuracy in per cent, one ring a seed and a bar for the mean. "
    + ". ".join(
        f"{arm.replace(chr(10), ' ')}: " + ", ".join(f"{v:.1f}" for v in values)
        for arm, values in scores.items()
    )
    + f". The teacher, a dashed line, has {teacher_accuracy:.1f}.",
)
for place, ((arm, values), colour, marker) in enumerate(
    zip(scores.items(), (ORANGE, GREEN, BLUE), "sDo", strict=True)
):
    axis.hlines(means[arm], place - 0.22, place + 0.22, color=colour, linewidth=2.5)
    offsets = [place + 0.1 * (k - 1) for k in range(len(values))]
    axis.plot(offsets, values, marker, color=colour, markerfacecolor="white", markersize=7)
    axis.text(place + 0.27, means[arm], f"{means[arm]:.1f}", va="center")
axis.axhline(teacher_accuracy, color=BLACK, linestyle="--", linewidth=1)
axis.text(2.55, teacher_accuracy, f"teacher {teacher_accuracy:.1f}", ha="right", va="bottom")
axis.set_xticks(range(3), scores)
axis.set(xlim=(-0.5, 2.6), ylabel="Accuracy on validation (%)")
axis.set_ylim(min(map(min, scores.values())) - 1.5, teacher_accuracy + 1.8)
axis.grid(axis="x", visible=False)
display(figure)

# %% [markdown]
# ### What could fool us
#
# **Different data.** The third student saw sentences that the first never saw. Its gain over hard
# labels is a gain of *teacher and data together*: labels for those sentences, had we had them,
# might have done as well or better. To ask what the soft targets alone are worth, compare 2 with 1:
# the same sentences, the same number of steps. Anybody who shows you only 3 against 1 has not shown
# you that the soft targets did it.
#
# **Different steps.** An epoch of 27,000 sentences has more steps than one of 6,000. Here all have
# the same number of steps. That is one kind of fairness; the best number of steps for each is
# another (see *On your own*).
#
# **Seeds, and the size of the validation set.** Is a gain of a point real? Seeds tell you how
# much the training's own chance matters; they do not tell you that another set of sentences would
# give the same. The cell below puts a rough scale on both.
#
# **A teacher that knows its lesson by heart.** The labelled sentences are those the teacher was
# fine-tuned on. The more often it is right there, and the surer it is of it, the less its targets
# say that the label does not. The last line below compares; the table of entropies near the
# beginning of this lesson has the rest.

# %%
paired = [b - a for a, b in zip(*list(scores.values())[:2], strict=True)]
spread = max(max(values) - min(values) for values in scores.values())
chance = 100 * math.sqrt(first / 100 * (1 - first / 100) / len(validation_labels))
print(
    "soft targets against hard labels, same sentences, seed by seed: "
    + ", ".join(f"{d:+.2f}" for d in paired)
    + " points"
)
print(f"largest spread between seeds within one way of training: {spread:.2f} points")
print(
    f"standard error of an accuracy of {first:.1f} % on {len(validation_labels):,} sentences, were "
    f"they independent: {chance:.2f} points (sentences of one article are not: it is more)"
)
print(f"all sentences against hard labels: {third - first:+.2f} points")

on_own = (teacher_logits[is_labelled].argmax(-1) == labels[is_labelled]).double().mean().item()
print(
    f"\nteacher's accuracy on the sentences it was trained on: {100 * on_own:.1f} %; "
    f"on validation: {teacher_accuracy:.1f} %"
)

# %% [markdown]
# So be careful with what you say. A gain that is smaller than the scales above is not a finding,
# with either sign. What a Transformer student gains on the test split, with five seeds, is in the
# report card of lesson 01. Its intervals are Student's t intervals over the seeds: they say how far
# another seed would move the gain, not how far other articles would.

# %% [markdown]
# ## On your own
#
# Nothing here is graded.
#
# 1. **More steps.** Train all three ways for 100, 600 and 1,200 steps (`steps=`). Which one is hurt
#    by going on, and why do the others hold? Choose the number on validation, and say what you have
#    then used validation for.
# 2. **Hard labels from the teacher.** Replace the soft targets by the teacher's argmax, on all
#    sentences. How much of the third way's gain is left? That is what the *softness* is worth.
# 3. **Reverse KL.** Train the bag with `reverse_kl_divergence`. Compare accuracy, and the mean
#    entropy of the student's answers with `entropy`.
# 4. **A smaller code.** Invent a machine with five symbols whose best code with one word a symbol
#    is not as good as its entropy. By how much does it miss? (Huffman's method finds the best
#    code.)
# 5. **Which slip is it?** Ask a friend to break `kl_divergence` in one of the ways of this lesson,
#    and find out which from its values alone.
# 6. **By hand.** For $p_t = (1/2, 1/4, 1/4)$ and $p_s = (1/4, 1/4, 1/2)$ compute $H(p_t)$,
#    $H(p_t, p_s)$, both KLs in bits, and the gradient. Then check with your functions.

# %%
display(progress())

# %% [markdown]
# ## Sources
#
# - C. E. Shannon, “A Mathematical Theory of Communication”, *Bell System Technical Journal* 27,
#   1948, pp. 379-423 and 623-656. §6 defines entropy, §9 proves that no code does better; the
#   machine of this lesson, with its best code, is the example of §10.
# - T. M. Cover and J. A. Thomas, *Elements of Information Theory*, 2nd edition, Wiley, 2006. §2.1
#   entropy; §2.3 relative entropy; §2.6 it is not negative; §5.1-5.4 codes, and Theorem 5.4.3 on
#   the cost of a code for the wrong distribution.
# - S. Kullback and R. A. Leibler, “On Information and Sufficiency”, *Annals of Mathematical
#   Statistics* 22(1), 1951, pp. 79-86.
# - C. Buciluă, R. Caruana and A. Niculescu-Mizil, “Model Compression”, KDD 2006, pp. 535-541.
# - L. J. Ba and R. Caruana, “Do Deep Nets Really Need to be Deep?”, NeurIPS 2014, arXiv 1312.6184.
#   §2: training shallow nets to mimic deep ones, on logits.
# - G. Hinton, O. Vinyals and J. Dean, “Distilling the Knowledge in a Neural Network”, 2015, arXiv
#   1503.02531. §2: soft targets; §2.1: the gradient.
# - R. Tang, Y. Lu, L. Liu, L. Mou, O. Vechtomova and J. Lin, “Distilling Task-Specific Knowledge
#   from BERT into Simple Neural Networks”, 2019, arXiv 1903.12136.
# - C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer, 2006. §10.1.2 the two
#   directions of KL; §10.7 forward KL and moments.
# - Y. Gu, L. Dong, F. Wei and M. Huang, “MiniLLM: Knowledge Distillation of Large Language Models”,
#   ICLR 2024, arXiv 2306.08543. §2.1: why the reverse direction.
# - P. Blanchard, D. J. Higham and N. J. Higham, “Accurately Computing the Log-Sum-Exp and Softmax
#   Functions”, *IMA Journal of Numerical Analysis* 41(4), 2021, pp. 2311-2330.
# - PyTorch documentation, `torch.nn.KLDivLoss`: argument order, `log_target`, and the warning about
#   `reduction="mean"`.
#
# ## What to read next
#
# Lesson 04 turns the knob that stood at 1 here. Before it, read Hinton, Vinyals and Dean, §2 and
# §2.1: you can derive its equation 2 now. For more on codes and surprise, D. J. C. MacKay,
# *Information Theory, Inference, and Learning Algorithms* (Cambridge University Press, 2003, free
# from the author's site), chapters 2, 4 and 5.
