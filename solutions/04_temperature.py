# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · Temperature: how much of the teacher's doubt the student hears
#
# A teacher answers with five numbers, and one of them is usually so large that the other four
# hardly count. A *temperature* changes how much they count. This lesson builds the loss that most
# distillation uses, takes apart what is usually said about it, and ends with an experiment that
# "shows" the best temperature and is wrong.
#
# **You will be able to**
#
# - soften a distribution, and say what the temperature does to its odds and to its entropy;
# - say which factor $1/T$ of the soft gradient is exact and which one holds in a limit only, and so
#   why the loss has a factor $T^2$;
# - write the distillation loss with a temperature, a weight $\alpha$ and unlabelled examples;
# - derive what it becomes for $T \to \infty$: the matching of *centred* logits;
# - tell what a soft target says of the classes from mere smoothing, and name the control for it;
# - see through a sweep over temperatures that measures something else.
#
# You need lesson 03: entropy, cross-entropy, KL divergence and the gradient $p_s - p_t$. The
# notation is that of lesson 01: logits $z$, probabilities $p$, the teacher's and the student's
# marked $z_t, p_t$ and $z_s, p_s$, temperature $T$, weight $\alpha$ of the soft targets, $N$
# classes, $B$ examples in a batch. Plan about 75 minutes. **Budget:** all cells together run in
# less than a minute on two CPU cores. No teacher is run: its logits are stored.

# %%
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import Tensor, nn

from distill_lab.classroom import (
    example_classes,
    example_sentences,
    predict,
    recall,
    result,
    stored_knowledge,
    table,
    task,
    tokenizer,
)
from distill_lab.diagrams import plot_distributions
from distill_lab.evaluation import seeds_interval
from distill_lab.exercises import check, progress, use
from distill_lab.losses import cross_entropy, entropy, kl_divergence
from distill_lab.plots import PALETTE, STUDENTS, canvas
from distill_lab.widgets import temperature_explorer

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE
torch.set_num_threads(1)  # the models here are so small that a second thread would only wait

# %% [markdown]
# ## Why: one answer, four temperatures
#
# Of the sentences that we wrote for this course, here is the one the teacher is surest about and
# the one it is least sure about. In each row the logits are the same four times. They are divided
# by $T$ before the softmax, and nothing else happens.


# %%
def certainty(example: dict) -> float:
    """The largest probability the teacher gives to any class of this example."""
    return torch.tensor(example["teacher"]).softmax(-1).max().item()


classes = example_classes()
sure = max(example_sentences(), key=certainty)
unsure = min(example_sentences(), key=certainty)
for example in (sure, unsure):
    logits = torch.tensor(example["teacher"])
    display(plot_distributions(logits, None, classes, [1, 2, 4, 8], title=example["text"]))

# %% [markdown]
# Three things to see.
#
# - No class ever overtakes another. Dividing by a positive number keeps the order, so the teacher's
#   *prediction* is the same at every temperature.
# - Above, the teacher leaves a few per cent to four classes, much the same to each. A higher $T$
#   makes them visible, but there is little to see.
# - Below, it hesitates, and not evenly: some classes it considers, another it rules out. A
#   label can say none of this. At $T = 8$ it is nearly gone again.
#
# So a temperature is a *volume control for the small probabilities*. The questions of this lesson:
# what does it do to the loss and its gradient, what is there to be heard, and how does one find a
# good setting without fooling oneself?
#
# ## Softening
#
# $$p_k(T) = \frac{\exp(z_k / T)}{\sum_{j=1}^{N} \exp(z_j / T)}, \qquad T > 0$$
#
# (Hinton, Vinyals and Dean 2015, §2, equation 1). The sum runs over the $N$ classes of *one*
# example. $T$ is a pure number; $T = 1$ is the plain softmax.
#
# The easiest way to think of it is in **odds**. Divide the formula for class $j$ by that for class
# $k$; the sum cancels:
#
# $$\frac{p_j(T)}{p_k(T)} = \exp\!\left(\frac{z_j - z_k}{T}\right) =
# \left(\frac{p_j(1)}{p_k(1)}\right)^{1/T}.$$
#
# **A temperature takes the $T$-th root of all odds.** By hand: with two classes at 90 % and 10 %
# the odds are 9 to 1. At $T = 2$ they are $\sqrt 9 = 3$ to 1, which is 75 % and 25 %. At $T = 1/2$
# they are $9^2 = 81$ to 1, which is 98.8 % and 1.2 %. Keep these numbers: they check your function.


# %% exercise="soften"
def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T) over the last axis.

    Args:
        logits: `[batch, classes]`, or any shape with the classes last.
        temperature: T > 0.

    Returns:
        Probabilities, of the same shape.

    Raises:
        ValueError: The temperature is 0 or less.
    """
    ### BEGIN SOLUTION
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: expected a number above 0")
    # torch.softmax subtracts the largest logit first, so it is safe at a tiny T too.
    return torch.softmax(logits / temperature, dim=-1)
    ### END SOLUTION


# %%
soften = use(soften)
by_hand = torch.tensor([0.9, 0.1]).log()  # log-probabilities are logits, too
for temperature in (0.5, 1.0, 2.0):
    p = soften(by_hand, temperature)
    print(f"T = {temperature}: {p[0]:.1%} and {p[1]:.1%}, odds {p[0] / p[1]:.0f} to 1")

# %% [markdown]
# ## What temperature does to entropy
#
# The entropy $H(p) = -\sum_k p_k \log p_k$ says how undecided a distribution is (lesson 03): 0 nats
# where one class is certain, $\log N$ where all are equal. Both ends belong to a temperature:
#
# - $T \to 0$: the odds of the largest logit against any other grow without bound. All probability
#   goes to the **argmax**, and $H \to 0$. (Two equal largest logits share it.)
# - $T \to \infty$: all odds become 1. The distribution becomes **uniform**, and $H \to \log N$.
#
# In between it only rises. With $\beta = 1/T$ and the expectation taken under $p(T)$, the entropy
# is $H = \log \sum_j \exp(\beta z_j) - \beta\,\mathbb{E}[z]$. Its derivative in $\beta$ is $-\beta
# \operatorname{Var}[z]$, and $d\beta / dT = -1/T^2$, so
#
# $$\frac{dH}{dT} = \frac{\operatorname{Var}_{p(T)}[z]}{T^3} \;\ge\; 0 .$$
#
# ### Predict
#
# Average the entropy of the teacher's answers over all validation sentences. At which temperature
# is it half of the largest value, $\tfrac12 \log 5 = 0.80$ nats? The two pictures above may help.

# %%
my_temperature = ...  # a number, such as 6.0
predict("04: the temperature of half the entropy", my_temperature)

# %% figure="entropy"
validation_rows = task().validation
z_t = stored_knowledge("validation").logits(validation_rows["id"][:]).double()
print(f"z_t: the teacher's logits on validation, {list(z_t.shape)} = [sentences, classes]")

temperatures = np.geomspace(0.05, 100, 60)
log_n = math.log(len(classes))


def entropies(logits: Tensor) -> list[float]:
    """Mean entropy in nats at each of the temperatures; logits [rows, classes]."""
    return [entropy(logits, float(t)).item() for t in temperatures]


mean_entropy = entropies(z_t)
half = float(np.interp(log_n / 2, mean_entropy, temperatures))
recall("04: the temperature of half the entropy", half)

curves = {
    "mean of all validation sentences": (z_t, BLUE, "-"),
    "our sentence, surest teacher": (torch.tensor([sure["teacher"]]), GREEN, "--"),
    "our sentence, least sure teacher": (torch.tensor([unsure["teacher"]]), VERMILION, "-."),
}
figure, axes = canvas(
    7.2,
    3.4,
    title="Entropy of the teacher's answers against temperature",
    alt=f"Three rising curves from about 0 nats at T = 0.05 to nearly log {len(classes)} = "
    f"{log_n:.2f} at T = 100. The mean over validation passes half of that at T = {half:.1f}. The "
    "least sure sentence lies above the mean, the surest below.",
)
for name, (logits, colour, line) in curves.items():
    axes.semilogx(temperatures, entropies(logits), color=colour, linestyle=line, label=name)
axes.axhline(log_n, color=BLACK, linestyle=":", linewidth=1)
axes.annotate(
    f"log {len(classes)} = {log_n:.2f}: all classes equal", (0.05, log_n + 0.03), fontsize=8
)
axes.plot(half, log_n / 2, "o", color=BLUE)
axes.annotate(f"half, at T = {half:.1f}", (half / 1.12, log_n / 2), ha="right", fontsize=8)
axes.set(xlabel="Temperature T (log scale)", ylabel="Entropy (nats)", ylim=(0, 1.8))
axes.legend(fontsize=8, loc="lower right")
figure

# %%
step = 1e-4
difference = (entropy(z_t[:1], 2 + step) - entropy(z_t[:1], 2 - step)).item() / (2 * step)
p = soften(z_t[:1], 2.0)
variance = (p * z_t[:1] ** 2).sum() - (p * z_t[:1]).sum() ** 2
print(f"one sentence at T = 2: dH/dT by difference {difference:.6f}, Var/T³ {variance / 8:.6f}")

# %% [markdown]
# Move $T$ yourself. Watch three readings: the teacher's entropy, the KL divergence from student to
# teacher, and the size of its gradient. Then tick the box that multiplies the loss by $T^2$.

# %%
temperature_explorer()

# %% [markdown]
# You will have seen KL itself shrink as $T$ grows, for the same two models. **Values of the soft
# loss at different temperatures cannot be compared**: a sweep that picks the temperature with the
# smallest loss picks the highest one.
#
# ## What temperature does to the gradient
#
# Let $L = \mathrm{KL}(p_t \,\|\, p_s)$ for one example, both sides softened with $T$. Write
# $u = z_s / T$ for the scaled logits. From lesson 03, the gradient in $u$ is
#
# $$\frac{\partial L}{\partial u_k} = p_{s,k} - p_{t,k}.$$
#
# The student's parameters act on $z_s$, not on $u$, and $\partial u_k / \partial z_{s,k} = 1/T$:
#
# $$\boxed{\;\frac{\partial L}{\partial z_{s,k}} = \frac{1}{T}\,(p_{s,k} - p_{t,k})\;}$$
#
# This **first factor $1/T$ is exact**, at every temperature: it is the chain rule. It is all that
# "falls out of the softmax". The often quoted second one hides in the difference of the
# probabilities. For $T$ large against the logits, $\exp(x) \approx 1 + x$ gives
#
# $$p_k \;\approx\; \frac{1 + z_k/T}{N + \sum_j z_j/T}
# \;\approx\; \frac1N + \frac{z_k - \bar z}{N\,T}, \qquad \bar z = \frac1N \sum_{j=1}^N z_j ,$$
#
# where terms in $1/T^2$ are left out. The uniform part $1/N$ is the same on both sides and cancels:
#
# $$p_{s,k} - p_{t,k} \;\approx\; \frac{1}{N\,T}\Big[(z_{s,k} - \bar z_s) - (z_{t,k} - \bar z_t)\Big].$$
#
# This **second factor $1/T$ is a limit**. Together: the gradients "scale as $1/T^2$" (Hinton et al.
# 2015, §2; the approximation is their §2.1, equations 2 to 4), once $T$ is high. How high? And what
# happens below?
#
# ### Predict
#
# Take the stored teacher and a student that knows nothing yet (logits drawn at random). From $T =
# 4$ to $T = 8$, by which factor does the gradient shrink: by 2, by 4, or by something else?

# %%
my_factor = ...  # a number, such as 2.0
predict("04: shrinkage of the gradient from T = 4 to T = 8", my_factor)

# %%
generator = torch.Generator().manual_seed(0)
z_s = torch.randn(z_t.shape, generator=generator).double()  # [sentences, classes]


def gradient_size(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> float:
    """Mean over examples of the Euclidean norm of dKL/dz_s = (p_s − p_t) / T."""
    difference = soften(student_logits, temperature) - soften(teacher_logits, temperature)
    return (difference / temperature).norm(dim=-1).mean().item()


logits = z_s.clone().requires_grad_()
(by_autograd,) = torch.autograd.grad(kl_divergence(logits, z_t, 3.0), logits)
# kl_divergence is a mean over the examples; the sum undoes it.
print(f"at T = 3, by autograd   {by_autograd.norm(dim=-1).sum():.6f}")
print(f"          by the formula {gradient_size(z_s, z_t, 3.0):.6f}")

sizes = np.array([gradient_size(z_s, z_t, float(t)) for t in temperatures])
recall(
    "04: shrinkage of the gradient from T = 4 to T = 8",
    gradient_size(z_s, z_t, 4.0) / gradient_size(z_s, z_t, 8.0),
)

# %% figure="gradient"
low, high = temperatures[0], temperatures[-1]
figure, panels = canvas(
    8.0,
    3.5,
    columns=2,
    title="The gradient of the soft loss, stored teacher and a student that knows nothing",
    alt=f"Two log-log plots against temperature. Left, KL alone: the gradient falls from "
    f"{sizes[0]:.3g} at T = {low:.2g} to {sizes[-1]:.2g} at T = {high:.3g}; it follows the line 1/T "
    "at the low end, the line 1/T squared at the high end, and bends between T = 0.5 and T = 10. "
    f"Right, T squared times KL: it rises from {sizes[0] * low**2:.2g}, passes "
    f"{max(sizes * temperatures**2):.2f} and is level, at {sizes[-1] * high**2:.2f}, from about "
    "T = 10 on.",
)
left, right = panels
left.loglog(temperatures, sizes, color=BLUE, linewidth=2, label="KL")
left.loglog(
    temperatures,
    sizes[0] * low / temperatures,
    color=ORANGE,
    linestyle=":",
    label="∝ 1/T (exact factor)",
)
left.loglog(
    temperatures,
    sizes[-1] * (high / temperatures) ** 2,
    color=GREEN,
    linestyle="--",
    label="∝ 1/T² (limit)",
)
left.set(ylabel="Mean norm of dL/dz (nats per logit, log scale)", ylim=(1e-5, 1e2))
right.loglog(temperatures, sizes * temperatures**2, color=VERMILION, linewidth=2, label="T² · KL")
right.axhline(sizes[-1] * high**2, color=BLACK, linestyle="--", linewidth=1, label="limit")
right.set(ylim=(1e-2, 3))
left.set_title("without T²", fontsize=9.5)
right.set_title("with T²", fontsize=9.5)
for panel in panels:
    panel.set_xlabel("Temperature T (log scale)")
    panel.legend(fontsize=8)
figure

# %%
slopes = np.gradient(np.log(sizes), np.log(temperatures))
level = sizes[-1] * high**2
table(
    [
        "T",
        "the gradient falls like",
        "size without T²",
        "size with T²",
        "with T², share of its limit",
    ],
    [
        [
            f"{t:g}",
            f"T^({np.interp(t, temperatures, slopes):.2f})",
            f"{size:.5f}",
            f"{t * t * size:.3f}",
            f"{t * t * size / level:.0%}",
        ]
        for t in (0.1, 0.5, 1, 2, 4, 8, 20, 50)
        for size in [gradient_size(z_s, z_t, t)]
    ],
)

# %% [markdown]
# Read the second column from the top. At low temperatures both distributions are nearly one-hot,
# their difference hardly depends on $T$, and what remains is the exact factor: $T^{-1}$. At high
# ones the exponent goes to $-2$, which it may overshoot on the way. Between lies a bend, here around
# $T = 1$; with larger logits it moves to the right.
#
# So "multiply by $T^2$" is not a law but a convention that keeps the size of the soft gradient at
# high $T$ from fading. Hinton et al. (2015, §2) say what it is for: that the relative contributions
# of hard and soft targets remain **roughly** unchanged when the temperature is changed. The last
# column shows how roughly.
#
# ## The distillation loss
#
# $$L \;=\; \alpha \; T^2 \; \mathrm{KL}\big(p_t(T) \,\|\, p_s(T)\big)
# \;+\; (1 - \alpha) \; \mathrm{CE}\big(y,\, p_s(1)\big)$$
#
# - The **soft** term is a mean over *all* examples of the batch: the teacher has an answer for
#   each. Both sides are softened with the same $T$. (With different ones the student would have to
#   learn logits of another size.) $T^2$ belongs to this term alone.
# - The **hard** term is the cross-entropy with the labels $y$ at $T = 1$, the temperature at which
#   the student is used later. It is a mean over the *labelled* examples.
# - $\alpha$, from 0 to 1, weighs the soft term. **Papers and libraries differ in which term carries
#   $\alpha$**: look before you copy a value.
#
# **Rows without a label.** Soft targets need no label, only an input. That is why a transfer set
# can be larger than the labelled one. The label −100 says "none" (the `ignore_index` of
# `torch.nn.functional.cross_entropy`). How many is that here?

# %%
transfer_labels = torch.tensor(task().transfer["label"][:])
labelled_share = (transfer_labels >= 0).double().mean().item()
print(f"transfer set: {len(transfer_labels):,} sentences, {labelled_share:.0%} with a label")
for batch in (2, 8, 32):
    print(
        f"a batch of {batch:>2} has no label at all in {(1 - labelled_share) ** batch:.2%} of draws"
    )
print("F.cross_entropy of a batch without labels:", end=" ")
print(F.cross_entropy(torch.zeros(2, 5), torch.tensor([-100, -100])).item())

# %% [markdown]
# The mean of nothing is 0/0. One such batch, and every weight of the student is NaN. So a batch in
# which nothing is labelled must have hard term **0**.
#
# The corners, and what is learnt in each:
#
# | $\alpha$ | $T$ | what is learnt |
# |---|---|---|
# | 0 | any | hard labels alone; $T$ and the teacher do not matter |
# | 1 | 1 | the teacher's probabilities as they are |
# | 1 | a little above 1 | its softened probabilities (the long run has $\alpha = 1$ and $T = 2$) |
# | 1 | very large | its centred logits, by squared error (next section) |
# | 1 | near 0 | the teacher's argmax as if it were a label; but $T^2$ shrinks the loss to nothing |
# | between | any | both, and where a sentence has a label and the teacher is wrong, a compromise |
#
# For the exercise, `kl_divergence(student_logits, teacher_logits, temperature)` of lesson 03 is
# imported: without $T^2$, and no gradient reaches the teacher.


# %% exercise="distillation_loss"
def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> Tensor:
    """α · T² · KL(teacher ‖ student) at T + (1 − α) · cross-entropy of the labelled rows at T = 1.

    Args:
        student_logits, teacher_logits: `[batch, classes]`; no gradient reaches the teacher.
        labels: class numbers `[batch]`, −100 where there is none; None only at α = 1, where they
            are not needed.
        temperature: T of the soft targets.
        alpha: weight of the soft targets, 0 to 1.

    Returns:
        A scalar, in nats.
    """
    ### BEGIN SOLUTION
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if labels is None:
        return alpha * soft
    labelled = labels != -100
    if not labelled.any():  # the mean over no row would be NaN
        return alpha * soft
    hard = F.cross_entropy(student_logits[labelled], labels[labelled])
    return alpha * soft + (1 - alpha) * hard
    ### END SOLUTION


# %%
distillation_loss = use(distillation_loss)
few, none = torch.tensor([0, 3, -100, -100]), torch.full((4,), -100)
table(
    ["α", "two of four rows labelled", "no row labelled"],
    [
        [
            f"{alpha:g}",
            *(f"{distillation_loss(z_s[:4], z_t[:4], y, alpha=alpha):.4f}" for y in (few, none)),
        ]
        for alpha in (0.0, 0.5, 1.0)
    ],
)

# %% [markdown]
# Check the table with your head: the left column is linear in $\alpha$ (its middle is the mean of
# the ends), the right one is $\alpha$ times the soft term, and at $\alpha = 1$ both agree.
#
# ## Very hot: matching logits
#
# What does $T^2\,\mathrm{KL}$ become for $T \to \infty$? KL goes to 0 and $T^2$ to infinity, so
# this needs care. Line by line, for one example, with $u = z/T$:
#
# **1. KL in logits.** With $A(u) = \log \sum_j \exp(u_j)$ we have $\log p_k = u_k - A(u)$. Put it
# into $\mathrm{KL} = \sum_k p_{t,k} (\log p_{t,k} - \log p_{s,k})$, and use $\sum_k p_{t,k} = 1$:
#
# $$\mathrm{KL}(p_t \,\|\, p_s) = A(u_s) - A(u_t) - \sum_{k=1}^N p_{t,k}\,(u_{s,k} - u_{t,k}).$$
#
# **2. Expand about 0.** The entries of $u$ are of the size of $1/T$. Write $\bar u$ for the mean
# over the classes, $c = u - \bar u$ for the centred vector, and $\langle a, b\rangle = \frac1N
# \sum_k a_k b_k$:
#
# $$A(u) = \log N + \bar u + \tfrac12 \langle c, c\rangle + O(1/T^3), \qquad
# p_{t,k} = \tfrac1N (1 + c_{t,k}) + O(1/T^2).$$
#
# **3. Put 2 into 1.** The logarithms cancel. So do the means: $\bar u_s - \bar u_t$ comes once from
# $A$ and once, with a minus sign, from the sum. What stays is of second order:
#
# $$\mathrm{KL} = \tfrac12 \langle c_s, c_s\rangle - \tfrac12 \langle c_t, c_t\rangle -
# \langle c_t,\, c_s - c_t\rangle + O(1/T^3).$$
#
# **4. Complete the square.** $\tfrac12\langle c_s, c_s\rangle - \langle c_t, c_s\rangle +
# \tfrac12\langle c_t, c_t\rangle = \tfrac12\langle c_s - c_t,\; c_s - c_t\rangle$.
#
# **5. Back to $z = T u$.** With $d_k = (z_{s,k} - \bar z_s) - (z_{t,k} - \bar z_t)$, the difference
# of the **centred logits**,
#
# $$\boxed{\;T^2\,\mathrm{KL}(p_t \,\|\, p_s) \;=\; \frac{1}{2N} \sum_{k=1}^{N} d_k^2 \;+\; O(1/T)\;}$$
#
# So the hottest distillation is regression on logits. Ba and Caruana (2014, §2) did just that, with
# a plain squared error. "High temperature matches logits" needs one more word, though: **centred**.
# The softmax ignores a constant added to a whole row, at every temperature, so no KL can ask for
# it. Hinton et al. (2015, §2.1) say so too: they assume logits with mean zero, and derive the limit
# for those. Which is better? A plain squared error also makes the student copy each row's mean,
# which carries nothing about the classes.


# %% exercise="logit_matching_loss"
def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over examples of Σ d² / (2N), d the difference of centred logits, N classes.

    Args:
        student_logits, teacher_logits: `[batch, classes]`; no gradient reaches the teacher.

    Returns:
        A scalar.
    """
    ### BEGIN SOLUTION
    difference = student_logits - teacher_logits.detach()
    # Centring is linear: the difference of the centred is the centred difference.
    centred = difference - difference.mean(dim=-1, keepdim=True)
    return centred.square().mean(dim=-1).mean() / 2
    ### END SOLUTION


# %%
logit_matching_loss = use(logit_matching_loss)
limit = logit_matching_loss(z_s, z_t).item()
scaled = np.array([t * t * kl_divergence(z_s, z_t, float(t)).item() for t in temperatures])
error = np.abs(scaled - limit)

figure, (left, right) = canvas(
    8.0,
    3.3,
    columns=2,
    title="T² · KL goes to the matching of centred logits",
    alt=f"Left: T squared times KL against temperature rises from near 0, passes "
    f"{scaled.max():.2f} and settles at the dashed limit {limit:.2f}. Right, log-log: its distance "
    f"from the limit falls along the line 1/T, to {error[-1]:.2g} at T = {high:.0f}.",
)
left.semilogx(temperatures, scaled, color=BLUE, label="T² · KL")
left.axhline(limit, color=BLACK, linestyle="--", linewidth=1, label="Σ d² / 2N")
left.set(xlabel="Temperature T (log scale)", ylabel="Loss (nats × T²)", ylim=(0, None))
right.loglog(temperatures, error, color=BLUE, label="|T² · KL − limit|")
right.loglog(
    temperatures, error[-1] * high / temperatures, color=GREEN, linestyle="--", label="∝ 1/T"
)
right.set(xlabel="Temperature T (log scale)", ylabel="Distance from the limit (log scale)")
for panel in (left, right):
    panel.legend(fontsize=8)
figure

# %%
table(
    ["T", "T² · KL", "off the limit by"],
    [
        [t, f"{value:.4f}", f"{value / limit - 1:+.1%}"]
        for t in (1, 2, 4, 8, 20, 100)
        for value in [t**2 * kl_divergence(z_s, z_t, t).item()]
    ],
)
moved = z_s + 3.0  # the same constant for every class: the same probabilities, at any T
table(
    ["loss", "student", "the same student, 3 added to each of its logits"],
    [
        [name, f"{loss(z_s):.4f}", f"{loss(moved):.4f}"]
        for name, loss in {
            "T² · KL at T = 100": lambda z: 1e4 * kl_divergence(z, z_t, 100.0),
            "centred logits, Σ d² / 2N": lambda z: logit_matching_loss(z, z_t),
            "plain squared error, half its mean": lambda z: F.mse_loss(z, z_t) / 2,
        }.items()
    ],
)

# %% [markdown]
# In the right-hand picture the distance falls along $1/T$, as step 5 says, once $T$ is high. (The
# notch is where $T^2\,\mathrm{KL}$ crosses its limit on the way up: a distance of 0 has no place on
# a log axis.)
#
# In the last table the first two losses do not see the 3; the plain squared error does, and would
# spend the student's gradient on taking it away.
#
# The table before it says how far the limit carries at a temperature that one would use. It is a
# limit: at $T$ of 2 or 4 the soft loss is *not* the matching of logits. It looks at the probable
# classes more, and at the improbable ones less. Hinton et al. (2015, §2.1) argue that this can be
# good or bad: very negative logits are hardly constrained by the teacher's training and may be
# noise, or they may hold something useful.
#
# A word on going to the limit in earnest: do not do it through KL. In float32 the KL at a very high
# temperature is a difference of almost equal numbers, and $T^2$ multiplies the rounding:

# %%
for t in (1e2, 1e3, 1e4, 1e5):
    single, double = (
        t * t * kl_divergence(z_s.to(x), z_t.to(x), t) for x in (torch.float32, z_t.dtype)
    )
    print(f"T = {t:>7,.0f}: T² · KL in float32 {single:>8.3f}, in float64 {double:.3f}")
print(f"the limit itself, in float32: {logit_matching_loss(z_s.float(), z_t.float()):.3f}")

# %% [markdown]
# ## Dark knowledge: which classes the teacher confuses
#
# What is there to be heard in the small probabilities? Average the teacher's answers over all
# validation sentences of each true class. If its doubt were mere noise, the cells of a row off the
# diagonal would be alike.

# %%
truth = torch.tensor(validation_rows["label"][:])
diagonal = torch.eye(len(classes), dtype=torch.bool)


def mean_answer(temperature: float) -> Tensor:
    """Mean softened answer of the teacher by true class, [true class, class], in percent."""
    p = soften(z_t, temperature)
    return 100 * torch.stack([p[truth == k].mean(0) for k in range(len(classes))])


answers = {t: mean_answer(t) for t in (1, 4)}
favourites = answers[1].masked_fill(diagonal, -1).argmax(1).tolist()
figure, panels = canvas(
    8.0,
    3.7,
    columns=2,
    sharey=True,
    title="The teacher's mean answer by true class, in % (bold: the likeliest confusion)",
    alt="Two heat maps of percentages, T = 1 and T = 4, true class by row. "
    + " ".join(
        f"For {name}, {answers[1][k, k]:.0f} % on the diagonal at T = 1 and {answers[4][k, k]:.0f} % "
        f"at T = 4; the largest other cell is {classes[other]}, {answers[1][k, other]:.0f} % and "
        f"{answers[4][k, other]:.0f} %."
        for k, (name, other) in enumerate(zip(classes, favourites, strict=True))
    ),
)
for panel, (t, values) in zip(panels, answers.items(), strict=True):
    panel.imshow(values, cmap="Blues", vmin=0, vmax=100)
    panel.grid(visible=False)
    for row in range(len(classes)):
        for column in range(len(classes)):
            value = values[row, column].item()
            ink = "white" if value > 55 else "black"
            weight = "bold" if column == favourites[row] else "normal"
            panel.text(
                column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=8,
                fontweight=weight,
            )  # fmt: skip
    panel.set_title(f"T = {t}", fontsize=9.5)
    panel.set_xlabel("Class the teacher names")
    panel.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
panels[0].set_yticks(range(len(classes)), classes)
panels[0].set_ylabel("True class")
figure

# %%
rows = []
for k, name in enumerate(classes):
    others = [j for j in range(len(classes)) if j != k]
    most = max(others, key=lambda j: answers[1][k, j])
    least = min(others, key=lambda j: answers[1][k, j])
    ratios = [f"{answers[t][k, most] / answers[t][k, least]:.1f}" for t in (1, 4)]
    rows.append([name, classes[most], classes[least], *ratios])
table(["true class", "most doubt to", "least doubt to", "ratio, T = 1", "ratio, T = 4"], rows)

# %% [markdown]
# Where the ratio at $T = 1$ is far from 1, the doubt has structure. Think of news: companies that
# make machines stand in the business pages and in the technology pages; games, music and films are
# sold by downloads. Topics that share words share probability. A student that learns these rows
# learns which topics are alike, and that is in no label. Hinton named it **dark knowledge**. Where
# the ratio is near 1, the mean shows next to none, and you should not read a story into the bold
# cell.
#
# The two ratios show what a temperature does to it: it makes the small probabilities *larger* and
# the differences between them *smaller*. Both at once; there is no setting that gives only the
# first.
#
# ### Where is it?
#
# Means hide which sentences it comes from. Group the validation sentences by how sure the teacher
# is. In each group take the probability that is *not* on the top class, and ask how evenly the
# other four share it: its entropy over $\log 4$, so that 100 % means that the four are equal.

# %%
p_t = soften(z_t)
top = p_t.max(-1)
rest = p_t.scatter(1, top.indices[:, None], 0.0)
rest = rest / rest.sum(-1, keepdim=True)
evenness = torch.special.entr(rest).sum(-1) / math.log(len(classes) - 1)
right = top.indices == truth

BOUNDS = (0.0, 0.5, 0.8, 0.95, 1.0)
rows = []
for below, above in pairwise(BOUNDS):
    group = (top.values > below) & (top.values <= above)
    rows.append(
        [
            f"{below:.0%} to {above:.0%}",
            f"{group.double().mean():.0%}",
            f"{right[group].double().mean():.0%}",
            f"{1 - top.values[group].mean():.0%}",
            f"{evenness[group].mean():.0%}",
        ]
    )
table(
    [
        "teacher's top probability",
        "sentences",
        "it is right",
        "left for the other four",
        "how evenly",
    ],
    rows,
)

# %% [markdown]
# Compare the last line with the others. On the sentences of which this teacher is sure, little is
# left for the other classes, and it is shared more evenly than elsewhere: there the target is close
# to a label with a little smoothing. What it knows of the classes stands in the sentences where it
# hesitates. Our own examples of that kind:

# %%
rows = []
for example in example_sentences():
    p = soften(torch.tensor([example["teacher"]] * 2), 1.0)[0]
    if p.max() < 0.93:
        hot = soften(torch.tensor(example["teacher"]), 4.0)
        order = p.argsort(descending=True).tolist()
        named = [f"{classes[k]} {p[k]:.0%} → {hot[k]:.0%}" for k in (order[0], order[1], order[-1])]
        rows.append([example["text"], example["topic"], *named])
table(["sentence", "topic", "first (T = 1 → T = 4)", "second", "last"], rows)

# %% [markdown]
# Two honest limits. Part of the teacher's doubt is its own error, and the student learns that as
# well. And part belongs to the sentence: "He said that he was pleased with the result" has no topic
# by itself, and it gets the topic of the article it stood in.
#
# ## Label smoothing: the control that knows no classes
#
# A soft target may help for three reasons:
#
# 1. it is *soft*: it keeps the student from driving its logits to extremes;
# 2. it is *softer for some sentences than for others*: it says which are hard;
# 3. it says *which classes* are alike: dark knowledge proper.
#
# To know whether the third or second matters one needs a control that has only the first. That is
# **label smoothing** (Szegedy et al. 2016, §7). The target keeps $1 - \varepsilon$ of the label $y$
# and spreads $\varepsilon$ evenly over all $N$ classes:
#
# $$q_k = (1 - \varepsilon)\,[k = y] + \frac{\varepsilon}{N},$$
#
# where $[k = y]$ is 1 for the label's class and 0 for the others. Every sentence gets the same
# doubt, and every wrong class the same share of it.

# %%
EPSILON = 0.1
hard = F.one_hot(torch.tensor(classes.index(unsure["topic"])), len(classes)).double()
smoothed = (1 - EPSILON) * hard + EPSILON / len(classes)
taught = [soften(torch.tensor(unsure["teacher"]).double(), t) for t in (1.0, 2.0)]
print(f"“{unsure['text']}” ({unsure['topic']})")
table(
    ["class", "hard label", f"smoothed, ε = {EPSILON}", "teacher, T = 1", "teacher, T = 2"],
    [
        [name, *(f"{target[k]:.1%}" for target in (hard, smoothed, *taught))]
        for k, name in enumerate(classes)
    ],
)

# %%
z_transfer = stored_knowledge("transfer").logits(task().transfer["id"][:])
target_entropies = {
    t: torch.special.entr(soften(z_transfer, t)).sum(-1).numpy() for t in (1.0, 2.0)
}
of_smoothed = torch.special.entr(smoothed).sum().item()
quantiles = {t: np.quantile(h, [0.1, 0.9]) for t, h in target_entropies.items()}
figure, axes = canvas(
    7.2,
    3.1,
    title="How soft are the targets of the transfer set?",
    alt="Two histograms of the entropy of the teacher's targets. "
    + " ".join(
        f"At T = {t:g}, 80 % of the sentences lie between {low_q:.2f} and {high_q:.2f} nats."
        for t, (low_q, high_q) in quantiles.items()
    )
    + f" A dashed line at {of_smoothed:.2f} nats is every smoothed label, a dotted line at 0 every "
    "hard label.",
)
bins = np.linspace(0, log_n, 60).tolist()
for (t, values), colour, hatch in zip(
    target_entropies.items(), (BLUE, ORANGE), ("", "///"), strict=True
):
    axes.hist(values, bins, color=colour, alpha=0.65, hatch=hatch, label=f"teacher, T = {t:g}")
axes.axvline(of_smoothed, color=BLACK, linestyle="--", label=f"every smoothed label, ε = {EPSILON}")
axes.axvline(0.0, color=BLACK, linestyle=":", label="every hard label")
axes.set(xlabel="Entropy of the target (nats)", ylabel="Sentences")
axes.legend(fontsize=8)
figure

# %% [markdown]
# A smoothed label has the same entropy for every sentence, a line in the picture. The teacher's
# targets differ from sentence to sentence: it has its doubts, but about particular ones.
#
# Which is worth more? The long run of lesson 01 trained four students of the same size from the
# same starting point with five seeds. Three of them saw exactly the same labelled sentences, for
# the same number of steps:

# %%
report = result("five_seeds")
students = report["students"]
table(
    ["student", "accuracy on test", "95 % interval over seeds"],
    [
        [
            STUDENTS[name].label,
            f"{score['mean']:.1%}",
            f"{score['low']:.1%} to {score['high']:.1%}",
        ]
        for name in STUDENTS
        for score in [students[name]["accuracy"]]
    ],
)


def gain(ours: str, theirs: str) -> str:
    """The difference of two students in points, paired by seed, with its interval."""
    pairs = zip(*(students[name]["accuracy"]["values"] for name in (ours, theirs)), strict=True)
    x = seeds_interval([100 * (a - b) for a, b in pairs])
    verdict = "excludes 0" if x.low > 0 or x.high < 0 else "includes 0"
    return f"{x.mean:+.1f} points, interval {x.low:+.1f} to {x.high:+.1f} ({verdict})"


print(f"label smoothing against hard labels:        {gain('label_smoothing', 'hard_labels')}")
print(
    f"distilled against smoothed, same sentences: {gain('distilled_same_data', 'label_smoothing')}"
)
print(f"transfer set against same sentences:        {gain('distilled', 'distilled_same_data')}")

# %% [markdown]
# The first line is what softness alone is worth here, the second what comes on top when the targets
# know something (reasons 2 and 3 together; task 4 at the end takes them apart), the third what more
# sentences are worth.
#
# The two kinds of softness are relatives, and the literature has used both directions of that. Yuan
# et al. (2020) read distillation as a *learned* label smoothing and show gains from weak teachers
# and from hand-made ones; so a gain over hard labels does not prove that dark knowledge was passed
# on. That is why the smoothed student stands in every report of this course. And Müller, Kornblith
# and Hinton (2019) look at the teacher: trained with label smoothing it is better calibrated (§3),
# and yet its students are worse than those of a teacher trained on hard labels (§4). Smoothing
# presses all sentences of a class to the same distance from the other classes (§2), and so wipes
# out just the differences among wrong classes that a student would learn from.
#
# ## A sweep that misleads
#
# Which temperature is best? Everybody sweeps. Here is a sweep as it is often done, on real data,
# with every number true. Find out what is wrong with it.
#
# To be trained in a fraction of a second the student is a *bag of words*: the mean of its words'
# vectors, then a linear layer. It sees all labelled sentences and 6,000 of the unlabelled ones,
# with the stored logits of the teacher.


# %%
def load(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [sentences, tokens] (0 where padded), labels and the teacher's logits of a split."""
    rows = task().encode(split, tokenizer())
    ids = [torch.tensor(row) for row in rows["input_ids"][:]]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
    return padded, torch.tensor(rows["label"][:]), stored_knowledge(split).logits(rows["id"][:])


words, targets, teacher_logits = load("transfer")
unlabelled = torch.where(targets < 0)[0]
some = unlabelled[
    torch.randperm(len(unlabelled), generator=torch.Generator().manual_seed(0))[:6000]
]
training_rows = torch.cat([torch.where(targets >= 0)[0], some])
judged = {split: load(split)[:2] for split in ("validation", "test")}
print(
    f"{len(training_rows):,} training sentences, {(targets[training_rows] >= 0).double().mean():.0%} "
    f"of them labelled; {len(judged['validation'][0]):,} for choices, "
    f"{len(judged['test'][0]):,} for the final figures"
)


# %%
class Bag(nn.Module):
    """The mean of 32-dimensional word vectors, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        vocabulary = tokenizer().vocab_size
        self.words = nn.EmbeddingBag(vocabulary, 32, mode="mean", sparse=True, padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.1)
        self.classes = nn.Linear(32, len(classes))

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, tokens] → logits [batch, classes]."""
        return self.classes(self.words(ids))


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of student's logits, teacher's logits, labels


def train(loss: Loss, rate: float, seed: int, epochs: int = 3, batch: int = 64) -> dict[str, float]:
    """Train a bag by plain SGD, the rate falling to 0; give its accuracies in percent, by split."""
    torch.manual_seed(seed)
    model = Bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    steps = epochs * math.ceil(len(training_rows) / batch)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)
    for _ in range(epochs):
        for rows in training_rows[torch.randperm(len(training_rows))].split(batch):
            value = loss(model(words[rows]), teacher_logits[rows], targets[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            falling.step()
    with torch.no_grad():
        return {
            split: 100 * (model(ids).argmax(-1) == labels).double().mean().item()
            for split, (ids, labels) in judged.items()
        }


# %% [markdown]
# The story. Somebody trains on hard labels and has a learning rate that works. Now they add soft
# targets, half and half, and take the loss from a blog post that has no $T^2$:
#
# $$L = \tfrac12\,\mathrm{KL}\big(p_t(T)\,\|\,p_s(T)\big) + \tfrac12\,\mathrm{CE}(y, p_s(1)).$$
#
# They try five temperatures. Time is short, so each gets one seed.
#
# ### Predict
#
# Which of the five will look best? And, a harder question to keep in mind: *why* would it?

# %%
SWEEP = (1, 2, 4, 8, 20)
my_best = ...  # one of 1, 2, 4, 8, 20
predict("04: the naive sweep's best temperature", my_best)

# %%
NAIVE_RATE = 38.0  # so large because the gradient of a mean of word vectors is so small


def hard_half(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Half the cross-entropy with the labels, and no teacher."""
    return 0.5 * cross_entropy(s, y)


def without_t2(temperature: float) -> Loss:
    """Half soft, half hard, and no T²."""
    return lambda s, t, y: 0.5 * kl_divergence(s, t, temperature) + hard_half(s, t, y)


naive = {t: [train(without_t2(t), NAIVE_RATE, seed=0)["validation"]] for t in SWEEP}
for t in SWEEP:
    print(f"T = {t:>2}: {naive[t][0]:.1f} % of the validation sentences right")
winner = max(SWEEP, key=lambda t: naive[t][0])
print(f"\nThe sweep says: T = {winner}.")
recall("04: the naive sweep's best temperature", winner)

# %% [markdown]
# Taken at its word: the higher the temperature, the better the student. (A student of 22 % names the
# same class for every sentence: it did not learn badly, it broke.) There is even a ready
# explanation, "soft targets bring out the dark knowledge". Before you believe a sweep, ask three
# questions of it.
#
# **Question 1: is it the seed?** Two more seeds for each temperature.
#
# **Question 2: what would the *control* say?** The same training with the soft term left out.

# %%
SEEDS = (0, 1, 2)
for t in SWEEP:
    naive[t] += [train(without_t2(t), NAIVE_RATE, seed)["validation"] for seed in SEEDS[1:]]
no_teacher = [train(hard_half, NAIVE_RATE, seed)["validation"] for seed in SEEDS]


def said(values: Sequence[float]) -> str:
    """Mean and all values."""
    return f"{np.mean(values):.1f} %   ({', '.join(f'{value:.1f}' for value in values)})"


for t in SWEEP:
    print(f"T = {t:>2}:     {said(naive[t])}")
print(f"no teacher: {said(no_teacher)}")
apart = float(np.mean(naive[20]) - np.mean(no_teacher))
spread = max(np.ptp(naive[20]), np.ptp(no_teacher))
print(
    f"\nT = 20 and no teacher at all differ by {apart:+.1f} points on average; "
    f"among its own seeds the less steady of the two ranges over {spread:.1f}."
)

# %% [markdown]
# More seeds do *not* make the trend go away. That is worth remembering: **seeds guard against
# chance, not against a fault in the design.** A biased experiment, repeated, gives the same biased
# answer with a smaller interval.
#
# The control is what gives it away. If $T = 20$ is about as good as no teacher, the sweep did not
# find the temperature at which the teacher teaches best. It found the one at which it says nothing.
#
# **Question 3: what else changes when I turn this knob?** You know the answer: the gradient.

# %%
table(
    ["T", "soft gradient, T = 1 set to 1: without T²", "with T²"],
    [
        [t, f"{ratio:.4f}", f"{t * t * ratio:.2f}"]
        for t in SWEEP
        for ratio in [gradient_size(z_s, z_t, t) / gradient_size(z_s, z_t, 1.0)]
    ],
)
table(
    ["learning rate", "no teacher", "without T², T = 1"],
    [
        [f"{rate:g}", *(f"{train(loss, rate, seed=0)['validation']:.1f} %" for loss in losses)]
        for losses in [(hard_half, without_t2(1))]
        for rate in (NAIVE_RATE / 4, NAIVE_RATE / 2, NAIVE_RATE)
    ],
)

# %% [markdown]
# Without $T^2$ the soft term fades as $T$ grows: the knob called "temperature" turns the *weight of
# the teacher*, and with it the *length of the step*. The lower table shows the rest. The learning
# rate was one that hard labels stand by themselves. Hard labels and teacher together pull harder,
# and at that rate the student is thrown about; at a lower rate the order is turned round. Low
# temperatures did not teach worse. They taught *more strongly*, at a rate that had been chosen
# without them.
#
# ### The sweep put right
#
# Three changes, each for one fault:
#
# - $T^2$ is in the loss, so that temperature changes the shape of the targets and, roughly, nothing
#   else;
# - the learning rate is **chosen for each setting**, controls included, on validation, with a seed
#   that is not used again;
# - then three fresh seeds, judged on **test**, with an interval: Student's $t$ at 95 %.

# %%
RATES = (7.0, 10.0, 14.0, 20.0)
FRESH = (11, 12, 13)


def with_t2(temperature: float) -> Loss:
    """The distillation loss of this lesson, half soft and half hard."""
    return lambda s, t, y: distillation_loss(s, t, y, temperature=temperature, alpha=0.5)


settings: dict[str, Loss] = {
    **{f"T = {t}": with_t2(t) for t in SWEEP},
    "hard labels": lambda s, t, y: cross_entropy(s, y),
    "smoothed": lambda s, t, y: cross_entropy(s, y, label_smoothing=EPSILON),
}
chosen = {
    name: max(RATES, key=lambda rate: train(loss, rate, seed=10)["validation"])
    for name, loss in settings.items()
}
fair = {
    name: [train(loss, chosen[name], seed)["test"] for seed in FRESH]
    for name, loss in settings.items()
}
intervals = {name: seeds_interval(values) for name, values in fair.items()}
table(
    ["setting", "rate", "test accuracy", "95 % interval", *(f"seed {seed}" for seed in FRESH)],
    [
        [
            name,
            f"{chosen[name]:g}",
            f"{x.mean:.1f} %",
            f"{x.low:.1f} to {x.high:.1f}",
            *(f"{value:.1f}" for value in fair[name]),
        ]
        for name, x in intervals.items()
    ],
)
hot = [f"T = {t}" for t in SWEEP]
best = max(hot, key=lambda name: intervals[name].mean)
behind = [a - b for a, b in zip(fair[best], fair["T = 20"], strict=True)]
gap = seeds_interval(behind)
print(f"best on average: {best}")
for seed, values in zip(FRESH, zip(*(fair[name] for name in hot), strict=True), strict=True):
    print(f"seed {seed} alone would have said {hot[int(np.argmax(values))]}")
print(
    f"T = 20 is behind {best} by {gap.mean:.1f} points, paired by seed "
    f"(interval {gap.low:.1f} to {gap.high:.1f})"
)
means = [intervals[name].mean for name in hot]
over_hard = min(means) - intervals["hard labels"].mean
print(
    f"temperatures range over {max(means) - min(means):.1f} points; the worst of them is "
    f"{over_hard:+.1f} points from hard labels"
)

# %% figure="fair-sweep"
figure, (left, right) = canvas(
    8.0,
    3.5,
    columns=2,
    title="The same students, two sweeps (note the two scales)",
    alt="Left, the naive sweep on validation, mean of three seeds: "
    + ", ".join(f"T = {t} {np.mean(naive[t]):.0f} %" for t in SWEEP)
    + f"; a dashed line at {np.mean(no_teacher):.0f} % is training without a teacher. Right, with T "
    "squared and the rate chosen for each, on test with intervals: "
    + ", ".join(
        f"{name} {x.mean:.1f} % ({x.low:.1f} to {x.high:.1f})" for name, x in intervals.items()
    )
    + ".",
)
places = range(len(SWEEP))
for k, t in enumerate(SWEEP):
    left.plot(
        [k] * len(SEEDS), naive[t], "o", color=VERMILION, markersize=4, markerfacecolor="none"
    )
left.plot(
    places, [np.mean(naive[t]) for t in SWEEP], "-", color=VERMILION, label="soft and hard, no T²"
)
left.axhline(np.mean(no_teacher), color=BLACK, linestyle="--", linewidth=1, label="no teacher")
left.set_xticks(places, SWEEP)
left.set_title("naive: no T², one rate", fontsize=9.5)
left.set(xlabel="Temperature T", ylabel="Validation accuracy (%)")
left.legend(fontsize=8)
for k, (name, x) in enumerate(intervals.items()):
    colour, marker = (BLUE, "o") if name in hot else (ORANGE, "s")
    right.errorbar(k, x.mean, yerr=x.mean - x.low, fmt=marker, color=colour)
    right.plot(
        [k + 0.2] * len(FRESH), fair[name], "o", color=colour, markersize=3, markerfacecolor="none"
    )
right.set_xticks(range(len(intervals)), intervals, rotation=35, ha="right")
right.set_title("put right: T², a rate for each", fontsize=9.5)
right.set(xlabel="Setting", ylabel="Test accuracy (%)")
figure

# %% [markdown]
# Compare the two panels, and look at the scales: the naive sweep showed differences of tens of
# points, the right one shows few. What is left of "the hotter, the better"? Read the printed lines:
#
# - **Is there a difference at all?** The intervals of single settings are wide, and those of
#   neighbours overlap. That alone does not say that neighbours are equal: a seed that is lucky with
#   one temperature tends to be lucky with the next (compare the columns). So take the difference
#   *seed by seed*, and the interval of that, as the line about $T = 20$ does.
# - **Is there a best one?** Three seeds that agree say more than one. They do not say that the
#   finding holds for other students, other data or another $\alpha$. What the table supports is a
#   region of good temperatures, not a number.
# - **Is it important?** Set the range over temperatures against the distance to hard labels. *That*
#   the teacher is heard should count for more than at which volume.
#
# ## What could fool us
#
# - **A knob that turns two things.** Without $T^2$, temperature is also a weight and a step size.
#   With $T^2$ it still is, a little: see the column "with T²". That is why the rate was chosen for
#   each.
# - **A rate tuned for the baseline** favours whatever is most like the baseline. The fault also
#   occurs the other way round, when only the new method is tuned.
# - **An optimiser that hides it.** Adam divides each gradient by its own recent size. At $\alpha = 1$
#   a factor in front of the whole loss changes next to nothing, and a missing $T^2$ goes unnoticed
#   until the day somebody adds labels.
# - **Loss values** at different temperatures do not compare. Compare what you are after: accuracy
#   at $T = 1$.
# - **One seed**, and the wish for a winner. Chance gives a best temperature in every sweep.
# - **Choosing on test.** The rates were chosen on validation. Had we picked $T$ by the right panel
#   and then reported its figure, that figure would be too good.
# - **Equal data.** The soft term sees 6,000 sentences that the hard term does not. That is a fair
#   use of a teacher, but no comparison of losses; the one on equal data stands in the table of the
#   four students.
# - **Equal compute.** All students here take the same number of steps. The teacher's own training
#   and the extraction of its logits are not counted.
# - **Temperature after training** is something else. Dividing a finished model's logits by a $T$
#   changes its confidence and none of its predictions; done on validation it calibrates (Guo et al.
#   2017, §4.2).
#
# ## On your own
#
# Nothing here is graded.
#
# 1. **The opposite sweep.** Run the naive sweep with `NAIVE_RATE = 10.0`. Which temperature "wins"
#    now? With one faulty loss you can show either result.
# 2. **Only soft.** Set `alpha=1.0` in `with_t2`. What do the labels still add?
# 3. **The limit.** Train with `logit_matching_loss` for the soft term. Which temperature of the
#    right sweep does it come close to, and why?
# 4. **Softness without classes.** In each row of `teacher_logits`, permute at random the logits
#    that are not the largest. Confidence (reason 2) stays, dark knowledge (reason 3) goes. Where
#    does the student end, between `smoothed` and `T = 2`?
# 5. **Adam.** Replace SGD by `torch.optim.Adam` (with `sparse=False`, and a rate near 0.01) at
#    $\alpha = 1$, $T = 8$, with and without $T^2$. Then at $\alpha = 0.5$.
# 6. **By hand.** $z_t = (2, 0)$, $z_s = (0, 0)$. Work out the gradient of KL in $z_s$ at $T = 1$
#    and at $T = 10$, and compare with $1/T^2$. Check with `gradient_size`.
# 7. **The report's picture.** `distill_lab.plots.plot_class_similarity(report)` draws the heat map
#    on the test split. Are its confusions those of validation?

# %%
progress()

# %% [markdown]
# ## Sources
#
# - G. Hinton, O. Vinyals and J. Dean, “Distilling the Knowledge in a Neural Network”, 2015, arXiv
#   1503.02531. §2: temperature, the mix with hard labels, and the factor $T^2$; §2.1: matching
#   logits as the limit, for logits of mean zero.
# - L. J. Ba and R. Caruana, “Do Deep Nets Really Need to be Deep?”, NeurIPS 2014, arXiv 1312.6184.
#   §2: regression on logits.
# - C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens and Z. Wojna, “Rethinking the Inception
#   Architecture for Computer Vision”, CVPR 2016, arXiv 1512.00567. §7: label smoothing.
# - R. Müller, S. Kornblith and G. Hinton, “When Does Label Smoothing Help?”, NeurIPS 2019, arXiv
#   1906.02629. §3: calibration; §4: why a smoothed teacher teaches worse.
# - L. Yuan, F. E. H. Tay, G. Li, T. Wang and J. Feng, “Revisiting Knowledge Distillation via Label
#   Smoothing Regularization”, CVPR 2020, pp. 3903-3911, arXiv 1909.11723.
# - C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, “On Calibration of Modern Neural Networks”, ICML
#   2017, arXiv 1706.04599. §4.2: temperature scaling.
#
# ## What to read next
#
# Hinton, Vinyals and Dean, §2 and §2.1, once more: two pages, and you can now say of each sentence
# whether it is exact, a limit or a rule of thumb. Then Müller, Kornblith and Hinton for pictures of
# what smoothing does inside a network. Lesson 05 asks how the teacher's answers are extracted and
# stored.
