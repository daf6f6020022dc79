# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 · Evaluation and deployment: sure, fast and small enough?
#
# The student is trained. May it go out? "83 % right" is the beginning of an answer. Where it is to
# run, the topics may come in other shares than in the test; somebody will act on its confidence; the
# device has so many megabytes, and its user so much patience. This lesson measures all of that, writes
# the student as a file that runs without torch, and decides with limits on the table.
#
# **You will be able to**
#
# - say when accuracy misleads and macro-F1 does not, and what neither can know;
# - measure calibration, mend it with one number chosen on validation, and say what that cannot mend;
# - tell agreement from accuracy, and compare two students by a paired bootstrap over articles;
# - measure latency and throughput so that the numbers can be compared, and spot those that cannot;
# - export a model to ONNX, check that it gives the same answers, quantise it to int8, and say what
#   that costs;
# - draw a Pareto front, and choose a model for a phone, an embedded board or an edge server from
#   limits;
# - say what running on the device means for energy and privacy, and what it does not prove.
#
# You need macro-F1 (lesson 02), temperature (lesson 04) and the four students (lesson 01). The notation
# is that of lesson 01: logits $z$, probabilities $p$, temperature $T$, $N$ classes. Plan about 85
# minutes. **Budget:** all cells together run in less than a minute on two CPU cores. The first run on a
# machine also prepares the teacher and trains two small students, which takes some minutes and is done
# once.

# %%
from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from onnx import numpy_helper
from scipy import stats
from torch import Tensor

from distill_lab import evaluate
from distill_lab.classroom import (
    example_sentences,
    fine_tuned_teacher,
    predict,
    recall,
    result,
    stored_knowledge,
    table,
    task,
    tokenizer,
    trained_student,
)
from distill_lab.evaluation import (
    Evaluation,
    confusion_metrics,
    fit_temperature,
    gain,
    group_confusions,
    metric_intervals,
    reliability,
)
from distill_lab.exercises import check, progress, use
from distill_lab.export import OnnxClassifier, export_onnx, quantize_int8, save_tokenizer
from distill_lab.knowledge import take_rows
from distill_lab.models import count_bytes, count_parameters, word_embeddings
from distill_lab.plots import PALETTE, STUDENTS, TEACHER, canvas

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE
MEGABYTE = 1e6
LOOKS = {"teacher": TEACHER, **{name: STUDENTS[name] for name in ("distilled", "hard_labels")}}

# %% [markdown]
# ## Why: one student, eight answers
#
# Lesson 01 ended with a report card of many numbers. Here are eight of them, each as the distilled
# student's figure over the teacher's. On the dotted line both are equal.

# %%
report = result("five_seeds")
big, small = report["teacher"], report["students"]["distilled"]
RATIOS = {  # name: (student over teacher, is more better?)
    "accuracy": (small["accuracy"]["mean"] / big["accuracy"], True),
    "macro-F1": (small["macro_f1"]["mean"] / big["macro_f1"], True),
    "calibration error": (small["ece"] / big["ece"], False),
    "parameters": (small["parameters"] / big["parameters"], False),
    "bytes": (small["bytes"] / big["bytes"], False),
    "latency, median": (small["latency_ms"]["p50"] / big["latency_ms"]["p50"], False),
    "latency, 95th percentile": (small["latency_ms"]["p95"] / big["latency_ms"]["p95"], False),
    "throughput": (small["throughput"] / big["throughput"], True),
}
figure, axis = canvas(
    7.6,
    3.3,
    title="The distilled student over its teacher, eight ways (five seeds)",
    alt="Dot plot of the student's figure divided by the teacher's, on a log axis. "
    + ", ".join(f"{name} {ratio:.2f}" for name, (ratio, _) in RATIOS.items())
    + ".",
)
for row, (ratio, more_is_better) in enumerate(RATIOS.values()):
    better = (ratio > 1) == more_is_better
    axis.plot(ratio, row, "o" if better else "s", color=BLUE if better else VERMILION, markersize=8)
    side = 1 if ratio > 1 else -1  # on the far side of the line
    axis.annotate(
        f"{ratio:.2f}",
        (ratio, row),
        (8 * side, 0),
        textcoords="offset points",
        ha="left" if ratio > 1 else "right",
        va="center",
        fontsize=8,
    )
for marker, colour, label in (("o", BLUE, "student better"), ("s", VERMILION, "student worse")):
    axis.plot([], [], marker, color=colour, label=label)
axis.axvline(1, color=BLACK, linestyle=":", linewidth=1)
axis.set_xscale("log")
axis.set_yticks(range(len(RATIOS)), RATIOS)
axis.invert_yaxis()
axis.margins(x=0.12)
axis.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
axis.minorticks_off()
axis.set_xlabel("Student / teacher (log scale)")
axis.legend(fontsize=8, loc="upper right")
figure

# %% [markdown]
# None of them is "the" quality of the student, and none of them is its cost: parameters and time
# shrink by different factors. Dehghani et al. (2022) show how one measure of cost, reported alone,
# leads to conclusions that another one would not bear out; they call it the *efficiency misnomer*.
#
# So we go through them: first how well it answers, then how sure it is, then what it costs. At the end
# the numbers are set against limits.
#
# Three models come along. The **teacher** is present by its stored logits. Two **students** of the
# same shape (2 layers × 128) are trained once on your machine: `distilled` on the teacher's logits
# of the whole transfer set, `hard_labels` on the labelled sentences. *They differ in the data,
# too*, and in the number of training steps. Here that is no fault: we ask which of two given models
# to use, and not what an objective is worth.

# %%
data, words = task(), tokenizer()
classes = data.label_names


def stored_evaluation(split: str) -> Evaluation:
    """The teacher's stored answers to a split, as `evaluate` would give them."""
    rows = data.split(split)
    p = stored_knowledge(split).logits(rows["id"][:]).double().softmax(-1).numpy()
    return Evaluation(rows["id"][:], rows["group"][:], np.array(rows["label"][:]), p)


SPLITS = ("validation", "test")
students = {name: trained_student(name) for name in ("distilled", "hard_labels")}
answers = {"teacher": {split: stored_evaluation(split) for split in SPLITS}}
for name, model in students.items():
    answers[name] = {split: evaluate(model, data, words, split=split) for split in SPLITS}

# %%
rows = []
for name, by_split in answers.items():
    intervals = metric_intervals([by_split["test"]])
    rows.append(
        [
            LOOKS[name].label,
            *(
                f"{100 * x.mean:.1f} ({100 * x.low:.1f} to {100 * x.high:.1f})"
                for x in intervals.values()
            ),
        ]
    )
table(["model", "accuracy on test, %", "macro-F1 on test, × 100"], rows)
rows = data.test
print(
    f"{len(rows):,} sentences of {len(set(rows['group'][:])):,} articles; "
    "95 % intervals by a bootstrap over articles"
)

# %% [markdown]
# ## Accuracy against macro-F1: when the classes are not balanced
#
# Accuracy and macro-F1 are nearly equal in this table, because the five topics are about equally
# frequent in the test. On a sports site they would not be. Let us ask what happens to the *same*
# model when the mix of topics changes.
#
# For that we need no new sentences. From the test we take how a model treats each true class: the share
# of its sentences that goes to each of the five classes,
#
# $$r_{ij} = P(\text{predicted } j \mid \text{true } i), \qquad \sum_{j=1}^{N} r_{ij} = 1 .$$
#
# In a world where class $i$ has the share $\pi_i$, the confusion matrix is $\pi_i\, r_{ij}$, and every
# score follows from it. This assumes that only the *mix* changes, and that a sports sentence stays as
# hard as it is. Beside the models stands a guesser that always names the most frequent class.
#
# By hand, for the guesser: let 90 % of the sentences be of one class. Its accuracy is 0.9. F1 of a class
# is $2\,\mathrm{TP} / (2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN})$, with true positives TP, false
# positives FP and false negatives FN, here in shares of all sentences. For the frequent class
# TP = 0.9, FP = 0.1, FN = 0.
#
# ### Predict
#
# What is its macro-F1 over the five classes? Put a number between 0 and 1 in place of the dots.

# %%
my_f1 = ...  # such as 0.5
predict("08: macro-F1 of the guesser at 90 %", my_f1)

# %%
FREQUENT = int(np.bincount(answers["teacher"]["test"].labels).argmax())


def treatment(evaluation: Evaluation) -> np.ndarray:
    """How a model treats each true class: [true, predicted], rows sum to 1."""
    counts = group_confusions(evaluation).sum(0)
    return counts / counts.sum(1, keepdims=True)


def scores(rates: np.ndarray, share: float, frequent: int = FREQUENT) -> dict[str, float]:
    """Accuracy and macro-F1 where one class has this share, and the others share the rest."""
    mix = np.full(len(classes), (1 - share) / (len(classes) - 1))
    mix[frequent] = share
    found = confusion_metrics(1e6 * mix[:, None] * rates)  # as if a million sentences came
    return {name: float(value) for name, value in found.items()}


rates = {name: treatment(by_split["test"]) for name, by_split in answers.items()}
guesser = np.zeros_like(rates["teacher"])
guesser[:, FREQUENT] = 1
f1 = 2 * 0.9 / (2 * 0.9 + 0.1 + 0)
print(f"by hand: F1 of the frequent class {f1:.3f}, of the four others 0; mean {f1 / 5:.3f}")
recall("08: macro-F1 of the guesser at 90 %", scores(guesser, 0.9)["macro_f1"])

# %% figure="imbalance"
shares = np.linspace(0.2, 0.98, 40)
lines = {
    "teacher": (rates["teacher"], TEACHER.colour, "-"),
    "hard-label student": (rates["hard_labels"], STUDENTS["hard_labels"].colour, "--"),
    "always the frequent class": (guesser, VERMILION, ":"),
}
curves = {
    name: [scores(r, share) for share in shares.tolist()] for name, (r, _, _) in lines.items()
}
figure, panels = canvas(
    8.0,
    3.4,
    columns=2,
    title=f"The same models in other mixes (frequent class: {classes[FREQUENT]})",
    alt="Two line plots against the share of the most frequent class, 20 to 98 %. "
    + " ".join(
        f"{name}: accuracy {100 * c[0]['accuracy']:.0f} to {100 * c[-1]['accuracy']:.0f} %, "
        f"macro-F1 {c[0]['macro_f1']:.2f} to {c[-1]['macro_f1']:.2f}."
        for name, c in curves.items()
    ),
)
for panel, metric, scale in zip(panels, ("accuracy", "macro_f1"), (100, 1), strict=True):
    for name, (_, colour, style) in lines.items():
        panel.plot(
            100 * shares,
            [scale * point[metric] for point in curves[name]],
            color=colour,
            linestyle=style,
            linewidth=2,
            label=name,
        )
    panel.set_xlabel(f"Share of {classes[FREQUENT]} in the mix (%)")
    panel.set_ylim(0, 1.04 * scale)
panels[0].set_ylabel("Accuracy (%)")
panels[1].set_ylabel("Macro-F1 (0 to 1)")
panels[0].legend(fontsize=8, loc="lower right")
figure

# %%
for share in (0.2, 0.9):
    there = [100 * scores(rates["distilled"], share, k)["accuracy"] for k in range(len(classes))]
    print(
        f"the distilled student where one class has {share:.0%}: accuracy {min(there):.1f} to "
        f"{max(there):.1f} %, depending on which class it is"
    )
beaten = [
    share
    for share in np.linspace(0.2, 1, 801).tolist()
    if share >= scores(rates["teacher"], share)["accuracy"]  # the guesser's accuracy is the share
]
print(f"from {beaten[0]:.0%} {classes[FREQUENT]} on, the guesser is more accurate than the teacher")

# %% [markdown]
# Read the left panel first. The guesser knows nothing, and its accuracy rises to the end. A model that
# has learnt a lot moves by a few points only, towards its recall of that class, and at some point is
# beaten by the guesser. In the right panel the guesser stays where it belongs.
#
# But look at the models there: *they did not change either*, and their macro-F1 falls. When a class gets
# rare, the errors of a very frequent one fall into it, and its precision goes down. So macro-F1 is not a
# property of the model alone; it, too, depends on the mix. What does not is the table $r_{ij}$ itself,
# with the recall of each class, $r_{ii}$, on its diagonal.
#
# **"Accuracy on the test set is the accuracy in use."** Only if what comes in use is drawn as the test
# was: the same mix (the printed range shows what that alone can do), the same kind of sentence, the same
# year. Nothing computed on the test can tell you whether that is so.
#
# Which score to report? Macro-F1 where every class matters alike, however rare. Accuracy where
# every *sentence* matters alike and the mix is the real one. If you know what each kind of error
# costs, compute that instead.

# %% [markdown]
# ## Calibration: may one believe its confidence?
#
# A classifier's **confidence** is its largest probability, $\max_k p_k$. It is *calibrated* if it
# is right in 70 % of the cases in which it says 70 %. That matters as soon as somebody acts on it:
# "below 80 %, ask a person", "below 80 %, ask the server".
#
# The usual measure is the **expected calibration error**, ECE (Naeini et al. 2015; here in the form
# of Guo et al. 2017, §2). Cut $(0, 1]$ into $M$ bins of equal width; bin $m$ holds the confidences
# $c$ with $\frac{m-1}{M} < c \le \frac{m}{M}$, that is $(a, b]$: an edge belongs to the bin below
# it. In each bin compare the share of right answers, $\mathrm{acc}_m$, with the mean confidence,
# $\mathrm{conf}_m$, and average the gaps, weighted by the examples in them:
#
# $$\mathrm{ECE} = \sum_{m=1}^{M} \frac{n_m}{n}\; \Big|\,\mathrm{acc}_m - \mathrm{conf}_m\,\Big| .$$
#
# Here $n$ is the number of examples, $n_m$ that in bin $m$; an empty bin adds nothing. ECE lies
# between 0 and 1, and 0 is best.
#
# By hand, with two bins. Four answers of three-class models, confidences 0.9, 0.8, 0.7 and 0.4; the
# first and third are right. The upper bin $(\tfrac12, 1]$ has three: mean confidence 0.8, two of three
# right, gap $0.1\overline{3}$. The lower has one: confidence 0.4, wrong, gap 0.4. So
# $\mathrm{ECE} = \tfrac34 \cdot 0.1\overline{3} + \tfrac14 \cdot 0.4 = 0.2$.


# %% exercise="expected_calibration_error"
def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean |accuracy − confidence| over bins of confidence, weighted by their counts.

    Args:
        probabilities: `[examples, classes]`, rows sum to 1.
        labels: true classes `[examples]`.
        bins: equal-width bins (a, b] over (0, 1].

    Returns:
        A number between 0 and 1; Guo et al. 2017, equation 3.
    """
    ### BEGIN SOLUTION
    confidence, predicted = probabilities.double().max(-1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    # bucketize counts the edges below c: an edge itself falls into the bin below it, as (a, b] asks.
    which = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    # Count times |mean right − mean confidence| is |sum of the differences|: no division by 0.
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, which, right - confidence)
    return (gaps.abs().sum() / len(labels)).item()
    ### END SOLUTION


# %%
expected_calibration_error = use(expected_calibration_error)
by_hand = torch.tensor(
    [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.4, 0.3, 0.3]], dtype=torch.float64
)
print(f"by hand: {expected_calibration_error(by_hand, torch.tensor([0, 0, 2, 1]), bins=2):.3f}")
rows = []
for name, by_split in answers.items():
    e = by_split["test"]
    ece = expected_calibration_error(torch.tensor(e.probabilities), torch.tensor(e.labels))
    confidence = e.probabilities.max(1).mean()
    rows.append(
        [
            LOOKS[name].label,
            f"{e.accuracy:.1%}",
            f"{confidence:.1%}",
            f"{100 * (confidence - e.accuracy):+.1f}",
            f"{ece:.1%}",
        ]
    )
table(["model", "accuracy", "mean confidence", "points too sure", "ECE"], rows)

# %% [markdown]
# A model whose mean confidence is above its accuracy is *overconfident*. Training on hard labels
# invites that: where a training sentence is right already, the loss still falls when the logits
# grow. Teacher and distilled student: compare their rows. The one was trained to give the
# probabilities of the other.
#
# ### Mending it with one number
#
# **Temperature scaling** (Guo et al. 2017, §4.2): divide the finished model's logits by one number $T$,
# the same for all examples and classes, before the softmax. $T > 1$ lowers every confidence, $T < 1$
# raises it. $T$ is the one that makes the cross-entropy with the labels least *on validation*:
#
# $$T^{*} = \arg\min_{T} \; \frac1n \sum_{b=1}^{n} -\log p_{b,\,y_b}(T), \qquad
# p_b(T) = \mathrm{softmax}(z_b / T) ,$$
#
# with the logits $z_b$ and the label $y_b$ of the $n$ validation sentences.
#
# In $1/T$ this is convex, so there is one valley, and a search along a line finds it.
# `fit_temperature` in `distill_lab.evaluation` does. Three properties are worth a thought:
#
# - Dividing keeps the order: **no prediction changes**, and so neither do accuracy and macro-F1.
# - It has a single parameter. With thousands of validation sentences it cannot learn them by heart.
# - It is not the $T$ of distillation. That one softens targets in training; this one is applied to a
#   finished model.
#
# ### Predict
#
# Which $T$ will the hard-label student need?

# %%
my_t = ...  # a number, such as 1.0
predict("08: T that calibrates the hard-label student", my_t)


# %%
def log_p(evaluation: Evaluation) -> Tensor:
    """Log-probabilities [examples, classes]: logits too, from which softmax gives p again."""
    return torch.tensor(evaluation.probabilities).log()


def ece_at(evaluation: Evaluation, temperature: float = 1.0) -> float:
    """ECE of the answers, their logits divided by a temperature."""
    p = (log_p(evaluation) / temperature).softmax(-1)
    return expected_calibration_error(p, torch.tensor(evaluation.labels))


def mean_surprise(evaluation: Evaluation, temperature: float = 1.0) -> float:
    """Cross-entropy with the labels in nats, the logits divided by a temperature."""
    rows = (log_p(evaluation) / temperature).log_softmax(-1)
    return -rows[torch.arange(len(rows)), torch.tensor(evaluation.labels)].mean().item()


fitted = {
    name: fit_temperature(log_p(by_split["validation"]), by_split["validation"].labels)
    for name, by_split in answers.items()
}
recall("08: T that calibrates the hard-label student", fitted["hard_labels"])
rows = []
for name, t in fitted.items():
    e = answers[name]["test"]
    rows.append(
        [
            LOOKS[name].label,
            f"{t:.2f}",
            f"{mean_surprise(e):.3f} → {mean_surprise(e, t):.3f}",
            f"{ece_at(e):.1%} → {ece_at(e, t):.1%}",
            int(((log_p(e) / t).argmax(-1).numpy() != e.predictions).sum()),
        ]
    )
table(
    ["model", "T, from validation", "cross-entropy on test (nats)", "ECE on test", "other class"],
    rows,
)

# %% [markdown]
# A **reliability diagram** shows what ECE adds up: for each bin a point, its mean confidence to the
# right and the share of right answers upwards. Calibrated bins lie on the dotted diagonal.

# %% figure="reliability"
FEW = 50  # bins with fewer examples than this are left out: their accuracy is mostly chance


def curve(evaluation: Evaluation, temperature: float) -> tuple[list[float], list[float]]:
    """Mean confidence and accuracy, in percent, of the bins that hold enough examples."""
    bins = reliability((log_p(evaluation) / temperature).softmax(-1), evaluation.labels)
    kept = [k for k, count in enumerate(bins["count"]) if count >= FEW]
    return [100 * bins["confidence"][k] for k in kept], [100 * bins["accuracy"][k] for k in kept]


def worst_gap(evaluation: Evaluation, temperature: float) -> float:
    """The largest distance from the diagonal among these bins, in points; + where too sure."""
    return max((c - a for c, a in zip(*curve(evaluation, temperature), strict=True)), key=abs)


figure, panels = canvas(
    8.0,
    3.5,
    columns=3,
    sharey=True,
    title="Reliability on test, before and after temperature scaling (T from validation)",
    alt="Three reliability diagrams, accuracy against confidence. "
    + " ".join(
        f"{LOOKS[name].label}: the bin furthest from the diagonal is {worst_gap(e, 1.0):+.0f} points "
        f"too sure before, {worst_gap(e, t):+.0f} after T = {t:.2f}."
        for name, t in fitted.items()
        for e in [answers[name]["test"]]
    ),
)
for panel, (name, t) in zip(panels, fitted.items(), strict=True):
    e = answers[name]["test"]
    panel.plot([20, 100], [20, 100], color=BLACK, linestyle=":", linewidth=1)
    panel.plot(*curve(e, 1.0), "o-", color=VERMILION, markersize=5, label="before")
    panel.plot(
        *curve(e, t), "s--", color=BLUE, markersize=5, markerfacecolor="white", label="after"
    )
    panel.set_title(f"{LOOKS[name].label}, T = {t:.2f}", fontsize=9.5)
    panel.set(xlabel="Confidence (%)", xlim=(20, 102), ylim=(20, 102))
panels[0].set_ylabel("Right in the bin (%)")
panels[0].legend(fontsize=8, loc="upper left")
figure

# %% [markdown]
# Below the dotted line a model is surer than it is right. Compare the panels:
#
# - Where the whole curve lies well below the line, one number can lift it.
# - Where a curve crosses the line, or lies above it at one end and below at the other, $T$ can only
#   trade one end against the other. **One knob moves a curve; it does not bend it into shape.**
#   Then ECE may hardly change, or rise a little, although the cross-entropy on validation fell.
# - $T$ was found on validation and judged on test. Look whether cross-entropy fell on test as well.
#
# ### What ECE does not say
#
# ECE is one number, and a delicate one. Three short runs. In the first a "model" gives each sentence the
# shares of the topics in validation, whatever the sentence says.

# %%
e = answers["teacher"]["test"]
labels = torch.tensor(e.labels)
class_shares = torch.tensor(np.bincount(answers["teacher"]["validation"].labels)).double()
ignorant = (class_shares / class_shares.sum()).expand(len(labels), -1)
right = (ignorant.argmax(-1) == labels).double().mean()
print(
    f"1. a model that ignores its input: ECE {expected_calibration_error(ignorant, labels):.1%}, "
    f"accuracy {right:.1%}"
)
p = torch.tensor(e.probabilities)
by_bins = {bins: expected_calibration_error(p, labels, bins) for bins in (1, 5, 15, 50, 200)}
print("2. the teacher, by bins:", ", ".join(f"{k}: {v:.1%}" for k, v in by_bins.items()))

generator = torch.Generator().manual_seed(0)


def chance_ece(examples: int, draws: int = 20) -> float:
    """Mean ECE of a perfectly calibrated model: its labels are drawn from its own answers."""
    found = []
    for _ in range(draws):
        picked = p[torch.randperm(len(p), generator=generator)[:examples]]
        drawn = torch.multinomial(picked, 1, generator=generator)[:, 0]
        found.append(expected_calibration_error(picked, drawn))
    return float(np.mean(found))


print("3. a perfectly calibrated model, judged by few sentences:")
for examples in (50, 200, 1000, len(p)):
    print(f"   {examples:>5,} sentences: ECE {chance_ece(examples):.1%}")

# %% [markdown]
# 1. Calibration is not quality. The best calibrated of these "models" knows nothing at all.
# 2. The number of bins is a choice, and the result depends on it. With one bin all errors of either sign
#    may cancel; with many, each holds few sentences and its accuracy is noisy. Say which you used. (The
#    course uses 15, as Guo et al. do.)
# 3. ECE is a mean of absolute values, so chance adds to it where truth would be 0. A small test makes a
#    perfect model look badly calibrated. Compare ECEs of the same number of sentences only.

# %% [markdown]
# ## Agreement: does the student answer like its teacher?
#
# The student was trained to *imitate*. **Agreement** asks for that alone: the share of examples to which
# both give the same class. The labels are not asked. Stanton et al. (2021) measure it beside accuracy
# ("top-1 agreement"), and find that students may gain accuracy while they remain surprisingly far from
# what their teachers say.
#
# By hand: the teacher answers A A B C, the student A B B B. They agree on the first and third: 2 of 4.


# %% exercise="agreement"
def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Share of examples to which both give their highest logit to the same class.

    Args:
        student_logits: `[examples, classes]`.
        teacher_logits: `[examples, classes]`, of the same examples in the same order.

    Returns:
        A fraction from 0 to 1.
    """
    ### BEGIN SOLUTION
    same = student_logits.argmax(-1) == teacher_logits.argmax(-1)
    return same.double().mean().item()
    ### END SOLUTION


# %%
agreement = use(agreement)
z_t = log_p(answers["teacher"]["test"])
z_s = {name: log_p(answers[name]["test"]) for name in students}

# %% [markdown]
# How do the two hang together? Say the teacher is right on a share $a_t$ of the examples and the
# student on $a_s$. Where both are right they agree; where exactly one is right they do not; where
# both are wrong they may. At most they agree on $1 - |a_t - a_s|$. At the least they agree nowhere
# but where both *must* be right, on $a_t + a_s - 1$ (or on nothing, if that is negative). Between
# these bounds everything is possible.
#
# To see it, we make two students out of the teacher's own answers, by changing some of them. Both
# have the accuracy of the distilled student. The *copyist* answers as the teacher does, except that
# it spoils a few answers that were right. The *free spirit* mends every error of its teacher, and
# makes others instead.
#
# ### Predict
#
# Of the test sentences that the *teacher* gets wrong: to what share does the real distilled student give
# the very same wrong class? And the hard-label student, which has seen no answer of this teacher? Two
# fractions.

# %%
my_shares = ...  # such as [0.5, 0.2]: distilled, hard labels
predict("08: share of the teacher's errors repeated", my_shares)

# %%
teacher_says = z_t.argmax(-1)
wrong = teacher_says != labels
missed = int(wrong.sum())
goal = int((z_s["distilled"].argmax(-1) != labels).sum())  # errors a student has to make
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))


def spoiled(said: Tensor, errors: int) -> Tensor:
    """Answers [examples] with some made wrong where the teacher is right, up to so many errors."""
    said = said.clone()
    chosen = order[~wrong[order]][: errors - int((said != labels).sum())]
    said[chosen] = (said[chosen] + 1) % len(classes)
    return said


made = {
    "copyist (made up)": spoiled(teacher_says, goal),
    "free spirit (made up)": spoiled(torch.where(wrong, labels, teacher_says), goal),
    **{LOOKS[name].label: z.argmax(-1) for name, z in z_s.items()},
}
one_hot = torch.eye(len(classes))  # the class as logits, which is what `agreement` takes
repeated = {name: ((said == teacher_says) & wrong).sum() / missed for name, said in made.items()}
rows = []
for name, said in made.items():
    rows.append(
        [
            name,
            f"{(said == labels).double().mean():.1%}",
            f"{agreement(one_hot[said], z_t):.1%}",
            f"{repeated[name]:.0%}",
            f"{((said == labels) & wrong).sum() / missed:.0%}",
        ]
    )
table(
    [
        "student",
        "accuracy",
        "agreement with the teacher",
        "its errors repeated",
        "its errors mended",
    ],
    rows,
)
recall(
    "08: share of the teacher's errors repeated",
    [round(repeated[LOOKS[name].label].item(), 2) for name in students],
)

# %% [markdown]
# The first three rows have (nearly) the same accuracy, and no accuracy could tell them apart. Agreement
# can. Which of them one wants depends on the use. Where a student replaces a teacher in a running
# system, agreement says how many answers will *change*, for better or worse. Where the task itself
# counts, it says little: high agreement includes the teacher's errors.
#
# Do not read the hard-label student's repeats as imitation: it never saw the teacher's answers
# (though its word embeddings were cut from the teacher's, lesson 06). Some sentences mislead
# anybody, and some have the topic of their article and show another.

# %% [markdown]
# ## Which of two students is better? A paired bootstrap
#
# Distilled and hard-label student have their intervals in the first table. What if such intervals
# overlap? That would *not* mean that the models do not differ. Both face the same sentences: an article
# that is hard for one tends to be hard for the other. That part of the uncertainty is common to both,
# and cancels in the *difference*.
#
# So bootstrap the difference. Draw as many articles as there are, with repetition; compute both
# accuracies on *this same draw*, subtract; repeat 2,000 times; the middle 95 % are the interval
# (Berg-Kirkpatrick, Burkett and Klein 2012 study this test on NLP tasks; Dror et al. 2018 say which
# test to use when). Lesson 06 built it; `distill_lab.evaluation.gain` does it here. Beside it stand
# two ways not to do it.

# %%
ours, theirs = answers["distilled"]["test"], answers["hard_labels"]["test"]
paired = gain([ours], [theirs])
apart = [metric_intervals([e])["accuracy"] for e in (ours, theirs)]
unpaired = 100 * math.hypot(*((x.high - x.low) / 2 for x in apart))
better = 100.0 * (ours.predictions == ours.labels) - 100.0 * (theirs.predictions == theirs.labels)
alone = 1.96 * better.std() / math.sqrt(len(better))  # right by the textbook, were they independent
table(
    ["interval of the difference in accuracy", "points", "95 % interval", "width"],
    [
        [name, f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}", f"{high - low:.1f}"]
        for name, mean, low, high in (
            ("paired, over articles", paired.mean, paired.low, paired.high),
            (
                "not paired: from the two single intervals",
                paired.mean,
                paired.mean - unpaired,
                paired.mean + unpaired,
            ),
            (
                "paired, sentences taken as independent",
                paired.mean,
                paired.mean - alone,
                paired.mean + alone,
            ),
        )
    ],
)
verdict = "excludes" if paired.low > 0 or paired.high < 0 else "includes"
print(f"distilled against hard labels: the paired interval over articles {verdict} 0")

# %% [markdown]
# The second row is honest but wasteful: it forgets that both saw the same articles. The third is
# narrower for a bad reason, if it is narrower: sentences of an article are not independent (lesson 01).
#
# And what does the first row *not* say? It is about these two files of weights, and asks how they would
# compare on other articles. It says nothing of what another seed would give. For a statement about the
# *method* you need several seeds; the long run with five of them:

# %%
method = report["gain_with_transfer"]
print(
    f"distilled on the transfer set, less hard labels: {method['mean']:+.1f} points, 95 % interval "
    f"over seeds {method['low']:.1f} to {method['high']:.1f}"
)

# %% [markdown]
# ## Latency, measured properly
#
# Now the costs. **Latency** is the time one call takes; **throughput** is the number of answers a
# second. Timing looks easy: look at the clock, call, look again. What goes wrong?
#
# - **The first calls may be slow.** Memory is allocated, kernels are chosen, files are read. Warm
#   up first, and do not count it. (Unless the first call is what your user waits for. Then measure
#   *that*.)
# - **One number hides the spread.** Other processes take their turn, and the slow calls are what users
#   complain about. Time many calls, each by itself. Report the median, **p50** (half of the calls are
#   faster), and **p95** (95 % are). A mean mixes the two.
# - **An accelerator answers later.** A call on a GPU returns before the work is done; the clock
#   must wait for it (`torch.cuda.synchronize`). All times of this lesson are those of the CPU.
#
# Here is the teacher, freshly loaded, answering one and the same sentence twelve times. It has not
# answered anything in this notebook before.

# %%
THREADS = 1
torch.set_num_threads(THREADS)
models = {"teacher": fine_tuned_teacher().cpu(), **{n: m.cpu() for n, m in students.items()}}
rows = data.encode("test", words)
collate = data.collator(words)
lengths = np.array(rows["length"][:])  # tokens
TOKENS = int(np.median(lengths))
typical = rows.select(np.flatnonzero(lengths == TOKENS)[:32])  # all of the same length: no padding


def batch_of(size: int) -> dict[str, Tensor]:
    """A batch of typical sentences: input_ids and attention_mask, both [size, TOKENS]."""
    batch = collate(take_rows(typical, 0, size))
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def ask(model: torch.nn.Module, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """What is to be timed: the model answers the batch."""

    @torch.no_grad()
    def call() -> Tensor:
        return model(**batch).logits

    return call


call = ask(models["teacher"], batch_of(1))
taken = [1000 * seconds for seconds in timeit.repeat(call, number=1, repeat=12)]
print("milliseconds:", ", ".join(f"{ms:.1f}" for ms in taken))
print(f"the first took {taken[0] / np.median(taken[1:]):.1f} times the median of the others")
print(f"among the others, the slowest took {max(taken[1:]) / min(taken[1:]):.1f} times the fastest")

# %% [markdown]
# A function that measures time has a problem of its own: how do you *test* it? Its result differs
# from run to run. The way out is to give it its clock. `clock` is an argument, a function that
# returns seconds; its default is `time.perf_counter`. For a test we pass a clock that only moves
# when the timed call says so. Then the right answer is known to the last digit. (This is how the
# check works. So call `clock`, and not `time.perf_counter`, inside.)
#
# By hand: five calls take 30, 12, 1, 2 and 3 ms. With `warmup=2` and `repeats=3` the last three
# count: p50 is 2 ms. For p95 with linear interpolation: the three values stand at 0 %, 50 % and
# 100 %; 95 % lies nine tenths of the way from 2 to 3, so 2.9 ms.


# %% exercise="measure_latency"
def measure_latency(
    call: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    warmup: int = 10,
    repeats: int = 100,
) -> dict[str, float]:
    """Time a call many times, each by itself.

    Args:
        call: what is timed; takes no argument.
        clock: gives the time in seconds, from any start.
        warmup: calls that are made first and not counted.
        repeats: calls that are timed.

    Returns:
        "p50" and "p95", in milliseconds: percentiles with linear interpolation, as `np.percentile`.
    """
    ### BEGIN SOLUTION
    for _ in range(warmup):
        call()
    milliseconds = []
    for _ in range(repeats):
        start = clock()
        call()
        milliseconds.append(1000 * (clock() - start))
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
    ### END SOLUTION


# %%
measure_latency = use(measure_latency)


class Scripted:
    """A call whose n-th run takes the n-th of these seconds, and the clock that it moves."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.now, self.seconds = 0.0, iter(seconds)

    def __call__(self) -> None:
        self.now += next(self.seconds)

    def clock(self) -> float:
        return self.now


scripted = Scripted([0.030, 0.012, 0.001, 0.002, 0.003])
by_hand = measure_latency(scripted, scripted.clock, warmup=2, repeats=3)
print("by hand:", ", ".join(f"{name} {ms:.1f} ms" for name, ms in by_hand.items()))

# %% [markdown]
# ### Batches
#
# Larger batches *can* use the machine better, because a weight that has been read is used for more
# than one sentence, and because what each call costs besides is shared. They also let the first
# sentence wait for the last. So "how fast is it?" has an answer for each batch size.
#
# ### Predict
#
# From one sentence at a time to 32: by what factor does the *teacher's* throughput rise on this machine,
# with one thread? And the distilled *student's*?

# %%
my_factors = ...  # such as [2.0, 5.0]: teacher, student
predict("08: throughput at 32 over throughput at 1", my_factors)

# %%
SIZES = (1, 2, 4, 8, 16, 32)


def latency(call: Callable[[], object], seconds: float = 0.15) -> dict[str, float]:
    """Latency over as many calls as fit in so many seconds, from 5 to 50."""
    once = measure_latency(call, warmup=1, repeats=1)["p50"]
    fitting = int(np.clip(1000 * seconds / once, 5, 50))
    return measure_latency(call, warmup=1, repeats=fitting)


speed = {
    name: [latency(ask(models[name], batch_of(size))) for size in SIZES]
    for name in ("teacher", "distilled")
}
rate = {
    name: [1000 * size / ms["p50"] for size, ms in zip(SIZES, found, strict=True)]
    for name, found in speed.items()
}
figure, (left, right) = canvas(
    8.0,
    3.5,
    columns=2,
    title=f"Batch size, in torch float32, {THREADS} thread, sentences of {TOKENS} tokens",
    alt="Two log-log plots against batch size 1 to 32. "
    + " ".join(
        f"{LOOKS[name].label}: median latency {found[0]['p50']:.2g} to {found[-1]['p50']:.3g} ms, "
        f"throughput {rate[name][0]:,.0f} to {rate[name][-1]:,.0f} sentences a second."
        for name, found in speed.items()
    ),
)
for name, found in speed.items():
    look = LOOKS[name]
    p50, p95 = ([ms[q] for ms in found] for q in ("p50", "p95"))
    left.fill_between(SIZES, p50, p95, color=look.colour, alpha=0.2, linewidth=0)
    left.plot(SIZES, p50, look.marker + "-", color=look.colour, label=f"{look.label}, p50 to p95")
    right.plot(SIZES, rate[name], look.marker + "-", color=look.colour, label=look.label)
left.set_ylabel("Latency of the batch (ms, log scale)")
right.set_ylabel("Throughput (sentences/s, log scale)")
for panel in (left, right):
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(SIZES, SIZES)
    panel.set_xlabel("Sentences in the batch (log scale)")
    panel.legend(fontsize=8)
figure

# %%
recall(
    "08: throughput at 32 over throughput at 1",
    [round(rate[name][-1] / rate[name][0], 1) for name in speed],
)
for k in (0, -1):
    print(
        f"batches of {SIZES[k]:>2}: the student is {rate['distilled'][k] / rate['teacher'][k]:.1f} "
        "times as fast as the teacher"
    )

# %% [markdown]
# The last two lines are both "the speedup" of the same student over the same teacher. A speedup
# without a batch size says little. (Each point is of 5 to 50 calls, so its p95 is a rough one: of
# so few, it lies at or just below the slowest. A jump in one of the curves, or a p95 far above the
# median, may mean that something else was running. Run the cell again.)
#
# ### Four more ways to get the speedup you want
#
# **Padding.** A model computes on padding as on words. The library pads to the longest sentence of
# a batch; many scripts pad to a fixed length. **Threads.** A large model may use two cores where a
# tiny one only pays for sharing. Below, one sentence at a time, in all combinations. Which teacher
# would you put beside which student, if you wanted to look good?

# %%
single = batch_of(1)
padded = {
    name: torch.nn.functional.pad(ids, (0, data.max_length - TOKENS))
    for name, ids in single.items()
}  # 0 is the padding token, and in the mask it means "not there"
inputs = {
    f"its own {TOKENS} tokens": single,
    f"padded to {data.max_length}": padded,
}
found = {}
for threads in sorted({1, min(2, os.cpu_count() or 1)}):
    torch.set_num_threads(threads)
    for kind, batch in inputs.items():
        for name in ("teacher", "distilled"):
            found[name, threads, kind] = latency(ask(models[name], batch))
torch.set_num_threads(THREADS)
settings = list(dict.fromkeys(key[1:] for key in found))
table(
    ["threads, input", "teacher p50 (p95), ms", "student p50 (p95), ms", "speedup"],
    [
        [
            f"{threads}, {kind}",
            f"{t['p50']:.2f} ({t['p95']:.2f})",
            f"{s['p50']:.2f} ({s['p95']:.2f})",
            f"{t['p50'] / s['p50']:.1f}",
        ]
        for threads, kind in settings
        for t, s in [(found["teacher", threads, kind], found["distilled", threads, kind])]
    ],
)
medians = {
    name: [found[name, *setting]["p50"] for setting in settings]
    for name in ("teacher", "distilled")
}
print(
    f"a row for each side, as one likes: speedups from "
    f"{min(medians['teacher']) / max(medians['distilled']):.1f} to "
    f"{max(medians['teacher']) / min(medians['distilled']):.1f}"
)

# %% [markdown]
# Each row is a fair comparison. The last line is what becomes possible when the two numbers come
# from two rows, or from two papers. Look also whether the second thread helps both. Two more ways:
#
# **Other processes.** Look at p95 beside p50, and measure the two models in turn, so that both are
# disturbed alike. **What is timed.** Tokenising is not in these numbers. Is it small beside a tiny
# model? (Compare it also with the times further below.)

# %%
text = next(x["text"] for x in example_sentences())
tokenising = latency(lambda: words([text], truncation=True))
answering = found["distilled", 1, f"its own {TOKENS} tokens"]
print(
    f"tokenising one sentence, p50: {tokenising['p50']:.2f} ms; the student: {answering['p50']:.2f}"
)

# %% [markdown]
# ## ONNX: a file that needs no torch
#
# To install torch and transformers on a phone in order to run a model of a few megabytes would be
# odd. **ONNX** is a file format for a model: a graph of operations (matrix product, softmax, …) and
# the weights. **onnxruntime** runs such files on many processors. `distill-lab export` does all of
# this for a finished run; here we take its steps one by one.
#
# torch's exporter runs the model once on an example and notes the operations (`torch.onnx.export` with
# `dynamo=True`). What it notes must hold for other inputs, so batch size and number of tokens are
# declared as *variable*. Forget that, and the file works for the size of the example, or gives something
# else for others. Therefore: **compare outputs, in several shapes**.
#
# ### Predict
#
# The largest difference of any logit between torch and ONNX, in float32, over some hundred test
# sentences: about 1e-1, 1e-3, 1e-6, or exactly 0?

# %%
my_difference = ...  # such as 1e-3
predict("08: largest difference of a logit, torch against ONNX", my_difference)

# %%
student = models["distilled"]
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
export_onnx(student, folder / "model.onnx", max_length=data.max_length)
in_onnx = OnnxClassifier(folder / "model.onnx", threads=THREADS)
graph = onnx.load(folder / "model.onnx").graph
print(f"{len(graph.node)} operations, {in_onnx.bytes / MEGABYTE:.1f} MB")
for tensor in (*graph.input, *graph.output):
    shape = [axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim]
    print(f"  {tensor.name}: [{', '.join(map(str, shape))}]")

# %%
some = rows.select(range(0, len(rows), 13))  # a thirteenth of the test sentences, of all articles


def logits_of(answer: Callable[[dict[str, Tensor]], Tensor], size: int) -> Tensor:
    """Logits [sentences, classes] of these sentences, asked in batches of a size."""
    batches = (collate(take_rows(some, k, k + size)) for k in range(0, len(some), size))
    return torch.cat([answer(batch) for batch in batches])


@torch.no_grad()
def in_torch(batch: dict[str, Tensor]) -> Tensor:
    """The student's logits [batch, classes], in torch."""
    return student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


reference = {size: logits_of(in_torch, size) for size in (1, 7, 32)}
differences = {
    size: (logits_of(in_onnx, size) - reference[size]).abs().max().item() for size in reference
}
for size, difference in differences.items():
    print(f"{len(some)} sentences in batches of {size:>2}: largest difference {difference:.1e}")
between = (reference[1] - reference[32]).abs().max()
print(f"torch with itself, batches of 1 against 32:  {between:.1e}")
recall("08: largest difference of a logit, torch against ONNX", max(differences.values()))

# %% [markdown]
# Not exactly 0, for the same reason that torch differs from itself: sums are taken in another
# order, and float32 rounds each step. The last line is a good scale for what is "equal".
# `distill-lab export` accepts 1e-4 on the whole test split, and writes nothing otherwise.
#
# ## int8: a quarter of the bytes
#
# A float32 weight takes 4 bytes, an 8-bit integer takes one. **Quantisation** (Jacob et al. 2018, §2.1)
# writes each number $w$ of a tensor as
#
# $$w \approx s\,(q - o),$$
#
# with an integer $q$ of 8 bits, and for the whole tensor one scale $s$ and one offset $o$, the
# integer that stands for 0. The scale is chosen so that the smallest and largest number just fit.
# Rounding to the nearest $q$ makes an error of at most $s/2$. So *one* large weight makes the steps
# coarse for all.
#
# In our file the tables of embeddings, which are only looked up, take all integers from 0 to 255. The
# matrices of products have $o = 0$ and use 7 of the 8 bits, $q$ from −64 to 64: older x86 processors add
# such products in 16 bits, and with all 8 bits a sum may not fit (onnxruntime's documentation, on
# `reduce_range`).
#
# By hand, for such a matrix: if the largest weight is 0.32, then $s = 0.32/64 =
# 0.005$. A weight of 0.0183 becomes $q = \mathrm{round}(3.66) = 4$, read back as 0.020.
#
# *Dynamic* quantisation does this to the weights once, in the file, and to the inputs of each matrix
# product while the model runs, with the range they happen to have. It needs no data for calibration.
# Let us look into the file.

# %%
quantize_int8(folder / "model.onnx", folder / "model.int8.onnx")
in_int8 = OnnxClassifier(folder / "model.int8.onnx", threads=THREADS)
stored = {
    x.name: numpy_helper.to_array(x)
    for x in onnx.load(folder / "model.int8.onnx").graph.initializer
}
name, q = max(
    ((name, x) for name, x in stored.items() if x.dtype in (np.int8, np.uint8)),
    key=lambda pair: pair[1].size,
)
name = name.removesuffix("_quantized")
s, o = stored[f"{name}_scale"].item(), int(stored[f"{name}_zero_point"])
table_of_words = word_embeddings(student).weight.detach().numpy()
error = np.abs(s * (q.astype(np.float32) - o) - table_of_words)
print(f"the largest tensor is {name.split('.')[-2]} {list(q.shape)}, {q.dtype}")
print(
    f"weights from {table_of_words.min():.3f} to {table_of_words.max():.3f}; s = {s:.5f}, o = {o}"
)
print(f"integers from {q.min()} to {q.max()}")
print(f"largest error of a weight {error.max():.5f}, s/2 = {s / 2:.5f}")
print(f"half of all weights are smaller than {np.median(np.abs(table_of_words)) / s:.1f} steps")
print(
    f"bytes: {in_onnx.bytes:,} → {in_int8.bytes:,}, {in_onnx.bytes / in_int8.bytes:.2f} times fewer"
)

# %% [markdown]
# ### Predict
#
# How many of these sentences get another class from the int8 model?

# %%
my_changes = ...  # a whole number
predict("08: sentences that int8 changes", my_changes)


# %%
def evaluation_of(logits: Tensor) -> Evaluation:
    """The sentences of `some` with these logits [sentences, classes], to compare by article."""
    p = logits.double().softmax(-1).numpy()
    return Evaluation(some["id"][:], some["group"][:], np.array(some["label"][:]), p)


rounded = logits_of(in_int8, 32)
before, after = evaluation_of(reference[32]), evaluation_of(rounded)
changed = int((before.predictions != after.predictions).sum())
recall("08: sentences that int8 changes", changed)
print(f"largest difference of a logit: {(rounded - reference[32]).abs().max():.2f}")
print(f"accuracy {before.accuracy:.1%} → {after.accuracy:.1%}, on {len(some)} sentences")
cost = gain([after], [before])
print(f"difference {cost.mean:+.2f} points, 95 % interval {cost.low:+.2f} to {cost.high:+.2f}")
if not changed:
    print(f"no sentence changed; yet as many as {3 / len(some):.1%} of all could be, see below")
print("one sentence, alone against among 32 (largest difference of a logit):")
for name, answer in {"float32": in_onnx, "int8": in_int8}.items():
    alone, among = (answer(collate(take_rows(some, 0, size)))[0] for size in (1, 32))
    print(f"  {name}: {(alone - among).abs().max():.1e}")

# %% [markdown]
# Two things to note.
#
# - **An interval from a few hundred sentences is what it is.** If nothing changed, the bootstrap
#   draws from nothing but zeros and gives an interval of width 0, which is too good. What has not
#   occurred in $n$ independent sentences may still have a probability of up to about $3/n$ (at
#   95 %; Hanley and Lippman-Hand 1983), and sentences of one article are not quite independent. So
#   a small test can show that int8 does harm, and never quite that it does none.
# - **Dynamic ranges depend on company.** The inputs of a product are rounded by the range of the whole
#   batch, so a sentence's int8 logits depend a little on what else is in it. Whoever asks twice may get
#   two answers.
#
# ### "int8 is always faster"

# %%
runs = {
    "torch float32": in_torch,
    "ONNX float32": in_onnx,
    "ONNX int8": in_int8,
}
batches = {size: batch_of(size) for size in (1, 32)}
timed = {
    (name, size): latency(partial(answer, batch))
    for size, batch in batches.items()
    for name, answer in runs.items()
}
sizes_on_disk = (count_bytes(student), in_onnx.bytes, in_int8.bytes)
table(
    ["the distilled student", "MB", "one sentence, p50 (p95), ms", "32 sentences, p50 (p95), ms"],
    [
        [
            name,
            f"{size_on_disk / MEGABYTE:.1f}",
            *(f"{timed[name, b]['p50']:.2f} ({timed[name, b]['p95']:.2f})" for b in (1, 32)),
        ]
        for name, size_on_disk in zip(runs, sizes_on_disk, strict=True)
    ],
)
for b in (1, 32):
    base, torch_base = timed["ONNX float32", b]["p50"], timed["torch float32", b]["p50"]
    print(
        f"batch of {b:>2}: ONNX float32 is {torch_base / base:.1f} times as fast as torch, int8 "
        f"{base / timed['ONNX int8', b]['p50']:.2f} times as fast as ONNX float32"
    )

# %% [markdown]
# The bytes are a quarter for sure; they were counted. The time is another matter. Integer products
# can be faster, where the processor has instructions for them. Against that stands new work:
# finding the range of each input, rounding it, turning the result back into floats. onnxruntime's
# documentation ("Quantize ONNX models") says plainly that the gain depends on model and hardware
# and that old hardware may get slower. The lines above are this machine's answer for this model. On
# another one measure again.
#
# ### Without torch
#
# Does the file really need nothing else? We write the tokenizer beside it, and start a new Python that
# imports three packages and answers one of our sentences. It also says how much memory it takes up.

# %%
save_tokenizer(words, folder / "tokenizer.json", max_length=data.max_length)
PROGRAM = """
import numpy as np, onnxruntime as ort, tokenizers
texts = tokenizers.Tokenizer.from_file("tokenizer.json").encode_batch([TEXT])
ids, mask = np.array([(t.ids, t.attention_mask) for t in texts], dtype="int64").swapaxes(0, 1)
feeds = {"input_ids": ids, "attention_mask": mask}
[logits] = ort.InferenceSession("model.int8.onnx").run(None, feeds)
import psutil, sys
print(logits.argmax(1)[0], psutil.Process().memory_info().rss, "torch" in sys.modules)
"""
start = time.perf_counter()
done = subprocess.run(
    [sys.executable, "-c", f"TEXT = {text!r}\n{PROGRAM}"],
    cwd=folder, capture_output=True, text=True, check=True,
)  # fmt: skip
seconds = time.perf_counter() - start
k, memory, has_torch = done.stdout.split()
print(f"“{text}”: {classes[int(k)]}")
print(f"from starting Python to the answer: {seconds:.1f} s; torch imported: {has_torch}")
print(
    f"memory of that process: {int(memory) / MEGABYTE:.0f} MB, for a model of "
    f"{in_int8.bytes / MEGABYTE:.1f} MB"
)

# %% [markdown]
# **Memory is not the size of the file.** There is the runtime, the interpreter, the tokenizer's
# table of words, and room for intermediate results, which grows with batch and length. On a small
# device measure the *process*, at the largest input it will get. And between start and first answer
# passes a time that no p95 shows.
#
# ### The long run
#
# The same steps for all models, on the whole test split, with a project command:

# %%
deployment = result("deployment")
fleet = deployment["models"]
table(
    ["model", "format", "MB", "accuracy, %", "p50 (p95), ms", "sentences/s, 32"],
    [
        [
            m["name"],
            m["format"],
            f"{m['bytes'] / MEGABYTE:.1f}",
            f"{100 * m['accuracy']:.2f}",
            f"{m['latency_ms']['p50']:.2f} ({m['latency_ms']['p95']:.2f})",
            f"{m['throughput']:,.0f}",
        ]
        for m in fleet
    ],
)
print(deployment["command"])
by_key = {(m["name"], m["format"]): m for m in fleet}
for name in dict.fromkeys(m["name"] for m in fleet):
    pair = [by_key.get((name, f"onnx {kind}")) for kind in ("float32", "int8")]
    if all(pair):
        plain, quantized = pair
        print(
            f"{name}: int8 changes accuracy by "
            f"{100 * (quantized['accuracy'] - plain['accuracy']):+.2f} points, bytes by a factor of "
            f"{plain['bytes'] / quantized['bytes']:.1f}, throughput by "
            f"{quantized['throughput'] / plain['throughput']:.2f}"
        )

# %% [markdown]
# *Pruned vocabulary* means: rows of the word embeddings for pieces that the training texts never
# show are dropped. A new word that needs a dropped piece is cut into smaller ones, or becomes
# `[UNK]` where none fits. It saves bytes and no time, because a row that is never looked up costs
# no time.
#
# Compare the differences in accuracy with the width of an interval over articles (the first table
# of this lesson): what is a fraction of it, one test of this size does not show. The speeds are
# those of one machine, measured once.

# %% [markdown]
# ## Pareto: which models are worth a look
#
# With two things to care for, a *cost* (less is better) and a *quality* (more is better), there is
# seldom a best model. But some can be struck out. A model is **dominated** if another one is at
# least as good in both, and better in one. What is left is the **Pareto front**: to be better in
# one, you must give up some of the other.
#
# By hand, with (cost, quality): A (1, 0.70), B (2, 0.80), C (3, 0.75), D (4, 0.81), and E, which
# equals B. C is dominated by B: dearer and worse. A is cheapest, D is best. B and E are equal in
# both, so neither is *better* in one: both stay. The front is A, B, D, E.


# %% exercise="pareto_front"
def pareto_front(cost: Tensor, quality: Tensor) -> Tensor:
    """Which models no other model dominates.

    Args:
        cost: `[models]`, lower is better.
        quality: `[models]`, higher is better.

    Returns:
        Bool `[models]`: false where another model is at least as good in both and better in one.
    """
    ### BEGIN SOLUTION
    # Rows are the models that are judged, columns the rivals that may dominate them.
    as_good = (cost <= cost[:, None]) & (quality >= quality[:, None])
    better = (cost < cost[:, None]) | (quality > quality[:, None])
    return ~(as_good & better).any(dim=1)
    ### END SOLUTION


# %%
pareto_front = use(pareto_front)
cost_by_hand = torch.tensor([1.0, 2.0, 3.0, 4.0, 2.0])
quality_by_hand = torch.tensor([0.70, 0.80, 0.75, 0.81, 0.80])
on_front = pareto_front(cost_by_hand, quality_by_hand).tolist()
print("by hand:", ", ".join(n for n, keep in zip("ABCDE", on_front, strict=True) if keep))

# %% figure="pareto"
quality = torch.tensor([m["accuracy"] for m in fleet], dtype=torch.float64)
COSTS = {
    "Bytes of the file (MB, log scale)": [m["bytes"] / MEGABYTE for m in fleet],
    "Time a sentence, 32 at a time (ms, log scale)": [1000 / m["throughput"] for m in fleet],
}
fronts = {
    what: pareto_front(torch.tensor(cost, dtype=torch.float64), quality).tolist()
    for what, cost in COSTS.items()
}
names = list(dict.fromkeys(m["name"] for m in fleet))
formats = list(dict.fromkeys(m["format"] for m in fleet))
NAME_LOOKS = dict(zip(names, zip((BLACK, BLUE, GREEN, ORANGE), "*oDs", strict=True), strict=False))
FILLS = dict(zip(formats, ("full", "left", "none"), strict=False))


def full_name(m: dict) -> str:
    """Model and format."""
    return f"{m['name']} ({m['format']})"


figure, panels = canvas(
    8.0,
    4.6,
    columns=2,
    sharey=True,
    title="Accuracy against cost, and the models that no other one dominates",
    alt="Two scatter plots of test accuracy, against bytes and against time a sentence. "
    + "; ".join(
        f"{full_name(m)}: {100 * m['accuracy']:.1f} %, {m['bytes'] / MEGABYTE:.1f} MB, "
        f"{1000 / m['throughput']:.2f} ms"
        for m in fleet
    )
    + ". "
    + " ".join(
        f"On the front of {what.split(' (')[0].lower()}: "
        + "; ".join(full_name(m) for m, keep in zip(fleet, front, strict=True) if keep)
        + "."
        for what, front in fronts.items()
    ),
)
for panel, (what, costs) in zip(panels, COSTS.items(), strict=True):
    points = [(c, 100 * m["accuracy"]) for c, m in zip(costs, fleet, strict=True)]
    best = sorted(point for point, keep in zip(points, fronts[what], strict=True) if keep)
    panel.plot(*zip(*best, strict=True), drawstyle="steps-post", color=VERMILION, linewidth=1.5)
    for point, m in zip(points, fleet, strict=True):
        colour, marker = NAME_LOOKS[m["name"]]
        panel.plot(
            *point, marker, color=colour, fillstyle=FILLS[m["format"]], markersize=10,
            markerfacecoloralt="white",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(x=0.1, y=0.15)
    panel.set_xlabel(what)
panels[0].set_ylabel("Accuracy on test (%)")
for name, (colour, marker) in NAME_LOOKS.items():
    panels[0].plot([], [], marker, color=colour, label=name)
for form, fill in FILLS.items():
    panels[0].plot([], [], "o", color=BLACK, fillstyle=fill, markerfacecoloralt="white", label=form)
panels[0].plot([], [], "-", color=VERMILION, label="Pareto front")
figure.legend(loc="outside lower center", ncols=4, fontsize=8)
figure

# %%
for what, front in fronts.items():
    print(f"{what.split(' (')[0]}: {sum(front)} of {len(front)} models are on the front:")
    for m, keep in zip(fleet, front, strict=True):
        if keep:
            print(f"  {full_name(m)}")
half = max(
    100 * (x.high - x.low) / 2
    for x in (metric_intervals([by_split["test"]])["accuracy"] for by_split in answers.values())
)
print(f"\nfor scale: the accuracy of one model has an interval of about ±{half:.1f} points here")

# %% [markdown]
# The stairs show the best accuracy to be had for at most that cost. What lies below and to the right of
# them can be forgotten, *for this cost*: compare the two panels.
#
# What could fool us here? **The front believes every decimal.** A model whose accuracy is 0.05 points
# higher than its rival's is on it, and on another test it might not be; set the distances between points
# beside the last line. (For two models on the same sentences the paired interval is narrower than that.)
# And **with more costs more models survive**: each new column gives somebody a chance to be best at
# something.
#
# ## Three budgets
#
# A front does not choose; limits do. Here are three places where a model might run. **The limits
# are examples, made up for this exercise.** Yours come from whoever pays for the flash memory, and
# from users.

# %%
LIMITS = {  # what must not be exceeded, or not be missed
    "a phone": {"MB": 10.0, "p95, ms": 20.0, "accuracy, %": 80.0},
    "an embedded board": {"MB": 4.0, "p95, ms": 100.0, "accuracy, %": 78.0},
    "an edge server": {"MB": 500.0, "sentences/s": 1000.0, "accuracy, %": 82.0},
}
AT_LEAST = ("accuracy, %", "sentences/s")  # of these more is better; of the others less


def measured(m: dict) -> dict[str, float]:
    """A model's figures, by the names of the limits."""
    return {
        "MB": m["bytes"] / MEGABYTE,
        "p95, ms": m["latency_ms"]["p95"],
        "sentences/s": m["throughput"],
        "accuracy, %": 100 * m["accuracy"],
    }


def misses(m: dict, limits: dict[str, float]) -> Iterator[str]:
    """The limits that a model does not keep."""
    for name, limit in limits.items():
        value = measured(m)[name]
        if value < limit if name in AT_LEAST else value > limit:
            yield f"{name} {value:.4g}"


columns = list(dict.fromkeys(name for limits in LIMITS.values() for name in limits))
table(
    ["place", *(f"{name} {'≥' if name in AT_LEAST else '≤'}" for name in columns)],
    [
        [place, *(f"{limits[name]:g}" if name in limits else "no limit" for name in columns)]
        for place, limits in LIMITS.items()
    ],
)

# %% [markdown]
# ### Predict
#
# For each place, does any model of the long run fit, and which would you send there?

# %%
my_choice = ...  # such as ["student tiny (onnx int8)", "none", "teacher (torch float32)"]
predict("08: a model for phone, board and server", my_choice)

# %%
table(
    ["model", *LIMITS],
    [
        [full_name(m), *("; ".join(misses(m, limits)) or "fits" for limits in LIMITS.values())]
        for m in fleet
    ],
)
choices = {}
for place, limits in LIMITS.items():
    fitting = [m for m in fleet if not any(misses(m, limits))]
    # The most accurate of those that fit; of equals the smallest.
    choices[place] = max(fitting, key=lambda m: (m["accuracy"], -m["bytes"]), default=None)
recall(
    "08: a model for phone, board and server",
    ["none" if m is None else full_name(m) for m in choices.values()],
)
for place, m in choices.items():
    if m is None:
        print(f"{place}: no model fits")
    elif "p95, ms" in LIMITS[place]:
        room = LIMITS[place]["p95, ms"] / m["latency_ms"]["p95"]
        print(
            f"{place}: {full_name(m)}; keeps its latency on a device up to {room:.0f} times slower"
        )
    else:
        room = m["throughput"] / LIMITS[place]["sentences/s"]
        print(f"{place}: {full_name(m)}; keeps its throughput on one up to {room:.1f} times slower")

# %% [markdown]
# **These times are not the device's.** They were taken on the machine of the long run. Bytes and
# accuracy travel with the file (nearly: int8 arithmetic may round differently on another
# processor). Latency does not. That is why the last lines turn the question round: *how much slower
# may the device be?* What would have to be measured there:
#
# - p50 and p95 on the device itself, with its own runtime and threads, *after minutes of use*,
#   since small devices slow down when they get warm, and on battery if it runs on one;
# - the longest input, the first call after start, and the memory of the whole process;
# - accuracy on sentences of the kind that come there, through the tokenizer that runs there.
#
# And a fault in our own table: it chose by test accuracy. A limit that is checked once on the test
# is an acceptance test, and that is fine. But the best of several by the test, reported with its
# accuracy from the same test, looks too good (lesson 01). The clean way is to pick on validation.
#
# Read in each table which limit struck out which model: that, and not a score, is what decided.

# %% [markdown]
# ## Staying on the device: energy and privacy
#
# ### Energy: what can be said without a meter
#
# Nothing here measured energy, so no joules are claimed. What can be counted is arithmetic. In a
# Transformer each weight of a matrix is used once for each token, in one multiplication and one
# addition. So, for a sentence of $\ell$ tokens (the $n$ of lessons 02 and 07, which here counts
# examples),
#
# $$\text{multiply-adds for an answer} \;\approx\; (\text{parameters without embeddings}) \times \ell .$$
#
# Embeddings are left out, since looking up is no arithmetic (Kaplan et al. 2020, §2.1, count so;
# they write 2 operations a multiply-add). It is an estimate: attention's own products are left out
# (they are small for short sentences), and pooler and classifier run once, not for each token.


# %%
def without_embeddings(model: torch.nn.Module) -> int:
    """Parameters that take part in products: all but the tables of embeddings."""
    return count_parameters(model) - sum(p.numel() for p in model.bert.embeddings.parameters())


counts = {
    "parameters": [count_parameters(models[n]) for n in speed],
    "without embeddings": [without_embeddings(models[n]) for n in speed],
    f"multiply-adds an answer, {TOKENS} tokens": [
        TOKENS * without_embeddings(models[n]) for n in speed
    ],
    "one sentence, p50, µs": [1000 * speed[n][0]["p50"] for n in speed],
    "32 sentences, p50 a sentence, µs": [1e6 / rate[n][-1] for n in speed],
}
table(
    ["", "teacher", "student", "ratio"],
    [[what, f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f}"] for what, (a, b) in counts.items()],
)

# %% [markdown]
# Five ways to say how much cheaper the student is: compare the ratios. (The second and the third
# agree by construction.) A count of operations does not give the time (between products lie memory,
# small operations and Python), and the time does not give the energy, which also depends on the
# voltage, the memory traffic, the screen and the radio. What one may expect is the *direction*:
# less arithmetic and fewer bytes to read. How much, a meter on the device has to say. An answer on
# the device also saves sending the text; what that is worth depends on the network, and is not
# measured here either. And training is not in it: the teacher's and ours was paid once (lesson 01).
#
# ### Privacy: what stays, and what does not
#
# If the model runs on the device, the text need not leave it: no server sees it, and none can keep
# it. That is worth a lot, and it is a statement about the *program*, not about the model: a program
# may still send logs, or the predicted topics, which say something about the text as well.
#
# Something else leaves, in the other direction: **the model goes to everybody**. Whoever has the
# file can ask it as often as they like, and may learn something about the sentences it was trained
# on. The simplest such question is *membership*: was this sentence in the training set? (Shokri et
# al. 2017; Yeom et al. 2018 tie it to overfitting.) A model tends to be surer of what it has seen.
# So take the probability it gives to the sentence's label, and guess "seen" where it is high. How
# often does a seen sentence get more than an unseen one? One half would be no leak at all.

# %%
members = data.labelled.select(range(0, len(data.labelled), 6))
peek = dataclasses.replace(data, test=members)
rows = []
for name, model in students.items():
    seen, unseen = evaluate(model, peek, words), answers[name]["test"]
    own = [e.probabilities[np.arange(len(e.labels)), e.labels] for e in (seen, unseen)]
    # The statistic counts the pairs (seen, unseen) in which the seen one has more; an equal pair is half.
    above = stats.mannwhitneyu(*own).statistic / (len(own[0]) * len(own[1]))
    rows.append(
        [LOOKS[name].label, f"{seen.accuracy:.1%}", f"{unseen.accuracy:.1%}", f"{above:.2f}"]
    )
table(
    ["student", "accuracy on labelled training sentences", "on test", "seen above unseen, share"],
    rows,
)
print(f"{len(members):,} training sentences against {len(data.test):,} of the test")

# %% [markdown]
# Compare the two rows. The hard-label student met each of these sentences several times with its
# label; the distilled one met each of them too, among many others, with the teacher's answer, and
# the teacher had met their labels. Read the last column for what it is: a weak attack by one
# threshold. It gives a lower bound of what leaks. A low number does **not** prove that the model is
# private, and distillation is no protection by itself. If the training text is confidential, ask
# before the model leaves the house; there are methods with guarantees (differential privacy), which
# this course does not build.
#
# Our sentences are old news, so nothing is at stake here. With mails or patients' records it would be.

# %% [markdown]
# ## What could fool us
#
# - **A test mix that is not the world's.** Neither accuracy nor macro-F1 is a property of the model
#   alone.
# - **$T$, the bins, the threshold or the model chosen on test.** Each choice fits a little of the test's
#   chance. $T$ is one number and the harm is small; that is no reason to begin.
# - **Calibrated once, calibrated for ever.** $T$ was fitted to these sentences. With other inputs,
#   or after quantisation, fit again.
# - **Agreement taken for quality**, or quality for agreement.
# - **Two intervals that overlap**, read as "no difference". Pair, and look at the difference.
# - **One seed**, with an interval over articles. It is about this file, not about the method.
# - **A first call, another padding, another number of threads, another batch size** on one side of a
#   speedup. Ask for all of them whenever you read one.
# - **A teacher in torch against a student in onnxruntime.** The product of three gains (a smaller model,
#   a better runtime, int8), quoted as one. Quote all rows of the table.
# - **"int8 is always faster"**, and "the file is small, so it needs little memory".
# - **This machine's milliseconds on somebody else's device.**
#
# ## On your own
#
# Nothing here is graded.
#
# 1. **A cascade.** Let the distilled student answer where its calibrated confidence is above a
#    threshold, and the teacher elsewhere. Plot accuracy against the share of sentences sent to the
#    teacher. Choose the threshold on validation. Does calibration change the curve? (Think first:
#    does $T$ change the *order* of the confidences?)
# 2. **$T$ on test.** Fit $T$ on test as well. By how much does it differ, and how much does it "gain"?
#    Then draw 200 validation sentences many times, and fit on each: how far does $T$ scatter?
# 3. **A busy machine.** Start `python -c "while True: pass"` in two terminals and repeat the table of
#    threads. What happens to p50, p95 and to the speedup? (End both with Ctrl-C.)
# 4. **Where do int8's errors come from?** Set one weight of the word embeddings of a copy of the
#    student to 50, export and quantise again. How many sentences change now?
# 5. **Other limits.** Find limits for the phone under which the *teacher* is the only choice, and others
#    under which no model fits. What would you train next?
# 6. **A pruned student.** `distill-lab run --prune-vocabulary --out runs/pruned`, then
#    `distill-lab export runs/pruned --int8 --out pruned`. What does a text in another language
#    become?

# %%
progress()

# %% [markdown]
# ## Sources
#
# - C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, “On Calibration of Modern Neural Networks”, ICML
#   2017, arXiv 1706.04599. §2: reliability diagrams and ECE; §4.2: temperature scaling.
# - M. P. Naeini, G. F. Cooper and M. Hauskrecht, “Obtaining Well Calibrated Probabilities Using Bayesian
#   Binning”, AAAI 2015, pp. 2901-2907. Where ECE comes from.
# - S. Stanton, P. Izmailov, P. Kirichenko, A. A. Alemi and A. G. Wilson, “Does Knowledge Distillation
#   Really Work?”, NeurIPS 2021, arXiv 2106.05945. Agreement against accuracy.
# - T. Berg-Kirkpatrick, D. Burkett and D. Klein, “An Empirical Investigation of Statistical
#   Significance in NLP”, EMNLP-CoNLL 2012, pp. 995-1005. The paired bootstrap.
# - R. Dror, G. Baumer, S. Shlomov and R. Reichart, “The Hitchhiker's Guide to Testing Statistical
#   Significance in Natural Language Processing”, ACL 2018, pp. 1383-1392.
# - J. A. Hanley and A. Lippman-Hand, “If Nothing Goes Wrong, Is Everything All Right? Interpreting Zero
#   Numerators”, *JAMA* 249(13), 1983, pp. 1743-1745.
# - M. Dehghani, A. Arnab, L. Beyer, A. Vaswani and Y. Tay, “The Efficiency Misnomer”, ICLR 2022, arXiv
#   2110.12894.
# - B. Jacob et al., “Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
#   Inference”, CVPR 2018, pp. 2704-2713, arXiv 1712.05877. §2.1: the scheme.
# - onnxruntime documentation, “Quantize ONNX models”: dynamic quantisation, and when it does not pay.
# - J. Kaplan et al., “Scaling Laws for Neural Language Models”, 2020, arXiv 2001.08361. §2.1:
#   counting the arithmetic of a Transformer.
# - R. Shokri, M. Stronati, C. Song and V. Shmatikov, “Membership Inference Attacks Against Machine
#   Learning Models”, IEEE Symposium on Security and Privacy 2017, pp. 3-18, arXiv 1610.05820.
# - S. Yeom, I. Giacomelli, M. Fredrikson and S. Jha, “Privacy Risk in Machine Learning: Analyzing the
#   Connection to Overfitting”, IEEE Computer Security Foundations 2018, arXiv 1709.01604.
#
# ## Where to go from here
#
# You have built the whole way: losses, targets, stored knowledge, training, features, and now the
# decision.
#
# - `make demo` runs it from end to end and ends with a report card: you can now read each of its lines.
# - **Your own data.** `distill-lab run --task csv:my.csv --text-column text --label-column topic
#   --group-column article` takes a table of yours. Name the group column if rows come in families.
# - **Ship it.** `distill-lab export runs/NAME --int8 --out DIR` does what this lesson did by hand,
#   checks the outputs, and leaves a README with the five lines that run it.
# - Then read Dehghani et al. (2022) with the table of the five ratios beside you, and Guo et al. (2017)
#   with the three reliability diagrams.
