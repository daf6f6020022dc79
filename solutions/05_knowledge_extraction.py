# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Knowledge extraction: ask the teacher once
#
# In distillation the teacher answers and the student learns. The teacher is large, so asking it is
# most of the work; and it is frozen, so asking it twice gives the same answer twice. This lesson
# extracts its answers once and stores them. It measures what that saves, opens the store, and shows
# the slips with which a store, or a live teacher, quietly teaches the wrong thing.
#
# **You will be able to**
#
# - measure what a live teacher costs, what a store costs, and after how many passes the store pays;
# - say why knowledge is keyed by id, and what an answer that stands one row too low does to a
#   student;
# - keep a teacher asleep, that is, in evaluation mode, and say what `eval`,
#   `requires_grad_(False)`, `no_grad` and `inference_mode` each do and do not do;
# - write the extraction, a top-k compression that knows what it has cut off, and a fingerprint;
# - read a knowledge store with nothing but an Arrow reader, and say what it must refuse;
# - name the cases in which only a live teacher will do.
#
# You need lessons 01 to 04. The notation is that of lesson 01: logits $z$, probabilities $p$, the
# teacher's marked $z_t$ and $p_t$, the student's $z_s$ and $p_s$, temperature $T$, $N$ classes, $B$
# examples in a batch. Plan about 80 minutes. **Budget:** all cells together run in less than a
# minute on two CPU cores, once the teacher is there; the first lesson on a machine that asks for it
# fine-tunes it, in about a minute more.

# %%
from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill_lab import build_student, extract
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
)
from distill_lab.devices import moved, synchronize
from distill_lab.errors import UserError
from distill_lab.exercises import check, progress, use
from distill_lab.knowledge import (
    FrozenTeacher,
    Knowledge,
    KnowledgeStore,
    LiveTeacher,
    top_k_expand,
)
from distill_lab.losses import distillation_loss, entropy, kl_divergence
from distill_lab.models import weights_fingerprint
from distill_lab.plots import PALETTE, canvas
from distill_lab.tasks import encode_texts
from distill_lab.training import LengthBucketSampler

BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, BLACK = PALETTE

# %% [markdown]
# ## Why: the same question, twenty times
#
# The long run of lesson 01 trained five students on the transfer set, each with several passes over
# it. Its teacher was asked about each sentence once, before the first of them. The picture shows
# where the time went, and where it would have gone, had the teacher stood beside every student and
# answered anew at every step. The upper bar is measured. The lower one is put together from the
# same two figures.

# %%
report = result("five_seeds")
students, passes = report["settings"]["seeds"], round(report["settings"]["epochs"])
asking = report["seconds"]["extract"] / 60  # minutes for the whole transfer set, once
learning = report["students"]["distilled"]["seconds"] / 60  # minutes for one student
segments = {
    "stored": [(asking, BLUE), *[(learning, ORANGE)] * students],
    "live (reckoned)": [(asking, BLUE), (learning / passes, ORANGE)] * (students * passes),
}
totals = {name: sum(minutes for minutes, _ in parts) for name, parts in segments.items()}
figure, axes = canvas(
    8.0,
    2.1,
    title=f"{students} students, {passes} passes each: asking (blue, hatched) and learning",
    alt="Two bars of minutes. Stored: "
    f"{asking:.1f} minutes of asking, then {students} times {learning:.1f} minutes of learning, "
    f"{totals['stored']:.0f} in all. Live, reckoned: {students * passes} times {asking:.1f} of "
    f"asking and {learning / passes:.1f} of learning, {totals['live (reckoned)']:.0f} in all.",
)
for row, parts in enumerate(segments.values()):
    left = 0.0
    for minutes, colour in parts:
        hatch = "////" if colour == BLUE else ""
        axes.barh(row, minutes, left=left, color=colour, hatch=hatch, edgecolor="white")
        left += minutes
    axes.text(left + 0.3, row, f"{left:.0f} min", va="center")
axes.set_yticks(range(2), segments)
axes.set(xlabel="Time on that machine (minutes)", xlim=(0, 1.12 * max(totals.values())))
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
figure

# %% [markdown]
# Every blue piece but the first buys an answer that we had already. Buciluă, Caruana and
# Niculescu-Mizil (2006), whose teacher was a large ensemble, went through it once, to label a large
# set of examples, and trained on the result. Two names for the two ways:
#
# - A **live** teacher is run at each training step, on the batch of that step.
# - A **store** holds the answers, each under the *id* of its example. To train is to look up.
#
# ### Predict
#
# Storing costs something, too: the extraction comes on top of everything, before the first step.
# After how many passes over the data has it paid for itself? (Two students with three passes each
# count as six.)

# %%
my_passes = ...  # a number, such as 3.5
predict("05: passes until the store has paid", my_passes)

# %% [markdown]
# ## Live against stored, measured
#
# We measure it on a small part of the transfer set. First the extraction. It is one call, it writes
# to a folder, and its whole time counts, tokenising included. Here it computes in float32.

# %%
teacher = fine_tuned_teacher()
data, words = task(), tokenizer()
device = teacher.device
SMALL = 640
picked = sorted(random.Random(0).sample(range(len(data.transfer)), SMALL))
small = dataclasses.replace(data, transfer=data.transfer.select(picked))

scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # goes away with the notebook
began = time.perf_counter()
store = extract(teacher, small, words, Path(scratch.name) / "knowledge", dtype="float32")
extraction = time.perf_counter() - began
print(f"{len(store)} sentences in {extraction:.1f} s, {1000 * extraction / len(store):.2f} ms each")

# %% [markdown]
# Now the same training twice: a tiny student, the same first weights, the same batches, AdamW. Only
# `knowledge` differs. In this library a live teacher and a store are called alike: with a batch,
# giving `{"teacher_logits": [batch, classes]}`. The loop below cannot tell which it has.

# %%
rows = small.encode("transfer", words)
collate = small.collator(words)
sampler = LengthBucketSampler(rows["length"][:], 32, seed=0)  # batches of similar length
order = list(sampler)
batches = [collate(rows.select(order[k : k + 32]).to_list()) for k in range(0, SMALL, 32)]


def fed(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a model is fed of a batch, on its device: no ids, no labels."""
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def clock() -> float:
    """Seconds, read when the device has done what it was given."""
    synchronize(device)
    return time.perf_counter()


@dataclasses.dataclass
class Run:
    """A training: its student, and for each step the loss and the seconds it took."""

    student: PreTrainedModel
    losses: list[float] = dataclasses.field(default_factory=list)
    asking: list[float] = dataclasses.field(default_factory=list)
    learning: list[float] = dataclasses.field(default_factory=list)


def train(knowledge: Knowledge, seed: int = 0) -> Run:
    """Train a new tiny student with one pass over `batches`; the seed fixes all chance."""
    student = moved(build_student(teacher, "tiny", seed=seed), device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    torch.manual_seed(seed)  # dropout
    run = Run(student)
    for batch in batches:
        began = clock()
        teacher_logits = knowledge(batch)["teacher_logits"].to(device)  # [batch, classes]
        asked = clock()
        loss = distillation_loss(student(**fed(batch)).logits, teacher_logits, alpha=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.losses.append(loss.item())
        run.learning.append(clock() - asked)
        run.asking.append(asked - began)
    return run


live_teacher = LiveTeacher(teacher)
live, stored = train(live_teacher), train(store)

# %% figure="cost"
WARM_UP = 2  # the first steps also pay for making room in memory
ways = {"live": live, "stored": stored}
asks, learns = (
    {name: 1000 * np.mean(getattr(run, part)[WARM_UP:]) for name, run in ways.items()}
    for part in ("asking", "learning")
)  # milliseconds a step
one_off = 1000 * extraction / len(batches)  # milliseconds a batch, once
break_even = one_off / (asks["live"] - asks["stored"])
table(
    ["milliseconds a step of 32 sentences", *ways],
    [
        ["asking the teacher, or looking up", *(f"{asks[name]:.2f}" for name in ways)],
        ["the student's step", *(f"{learns[name]:.1f}" for name in ways)],
        ["extraction beforehand, a batch", "", f"{one_off:.1f}"],
    ],
)
recall("05: passes until the store has paid", float(break_even))

figure, (left, right) = canvas(
    8.0,
    3.0,
    columns=2,
    title="What a step costs, and what many passes cost",
    alt="Left, milliseconds of a step: live "
    f"{asks['live']:.0f} for asking and {learns['live']:.0f} for the student; stored "
    f"{asks['stored']:.2f} and {learns['stored']:.0f}. Right, minutes for the whole transfer set "
    "against the number of passes: two straight lines. The stored one starts higher, is flatter; "
    f"they cross at {break_even:.1f} passes.",
)
for k, name in enumerate(ways):
    left.bar(k, asks[name], color=BLUE, hatch="////", edgecolor="white")
    left.bar(k, learns[name], bottom=asks[name], color=ORANGE, edgecolor="white")
left.set_xticks(range(2), ways)
left.set(ylabel="Time of a step (ms)", ylim=(0, 1.3 * (asks["live"] + learns["live"])))
left.text(0, asks["live"] / 2, "asking", ha="center", va="center", backgroundcolor="white")
for k, name in enumerate(ways):
    left.text(k, asks[name] + learns[name] / 2, "learning", ha="center", va="center")
left.set_title("one step", fontsize=9.5)

number = np.linspace(0, 6, 61)
to_minutes = len(data.transfer) / 32 / 1000 / 60  # from milliseconds a batch to the whole set
for name, colour, line in (("live", VERMILION, "--"), ("stored", BLUE, "-")):
    start = one_off if name == "stored" else 0.0
    minutes = to_minutes * (start + number * (asks[name] + learns["stored"]))
    right.plot(number, minutes, color=colour, linestyle=line, label=name)
right.axvline(break_even, color=BLACK, linestyle=":", linewidth=1)
right.annotate(
    f"even at {break_even:.1f}", (break_even + 0.1, 0.92), xycoords=("data", "axes fraction"),
    fontsize=8,
)  # fmt: skip
right.set_title(f"all {len(data.transfer):,} sentences, from the times on the left", fontsize=9.5)
right.set(xlabel="Passes over the transfer set (number)", ylabel="Time (minutes)", ylim=(0, None))
right.legend(fontsize=8, loc="lower right", frameon=False)
figure

# %% [markdown]
# The crossing lies near one pass, and it must: extraction *is* one pass of the teacher, with little
# around it. (A little below 1 is possible as well, where the batches of the training are padded
# more than those of the extraction. If yours is far from 1, another program was at work while one
# of the two was timed: run both cells again.) So the rule is short: **from the second pass on a store
# is cheaper**, and it does not matter whether the second pass is a second epoch, a second seed or a
# second temperature. Temperature, weight $\alpha$, the student's size and its data order are all
# chosen *after* the extraction.
#
# Two things this does not show. The height of the blue bar is that of *this* teacher on *this*
# machine; a teacher with ten times the parameters has a far higher one, and the crossing stays near
# where it is. And time is not all: with a store, the teacher need not be in memory while the
# student trains, nor be on the same machine, nor be there at all. The students of lessons 01, 03
# and 04 learnt from a teacher that was not there.
#
# ### "A stored teacher is less good than a live one"
#
# One can hear that a live teacher "interacts" with its student. But a student gets five numbers
# for each sentence. If they are the same numbers, it is the same training. Compare the two runs
# from above, and, as a scale, a third one that differs in its seed:

# %%
other_seed = train(store, seed=1)
ids = [id for batch in batches for id in batch["id"]]
with torch.no_grad():
    apart = max(
        (live_teacher(batch)["teacher_logits"].cpu() - store(batch)["teacher_logits"]).abs().max()
        for batch in batches[:4]
    )


def named(run: Run) -> Tensor:
    """The class that a student names for each sentence of `batches`, [sentences]."""
    run.student.eval()
    with torch.no_grad():
        return torch.cat([run.student(**fed(b)).logits.argmax(-1).cpu() for b in batches])


print(f"largest difference between a live and a stored logit: {apart:.1e}\n")
table(
    ["two students", "largest difference of their losses at a step", "same class named"],
    [
        [
            what,
            f"{np.abs(np.subtract(one.losses, two.losses)).max():.1e} nats",
            f"{(named(one) == named(two)).double().mean():.1%}",
        ]
        for what, one, two in (
            ("live against stored", live, stored),
            ("stored, seed 0 against seed 1", stored, other_seed),
        )
    ],
)

# %% [markdown]
# The stored logits were computed in other batches than the live ones, with other padding; a matrix
# product then adds its terms in another order and rounds otherwise. That is what the
# printed line and the first row of the table show, and it is the whole difference. Training can
# enlarge it, as it enlarges any rounding; the seed does far more.
#
# ## Order: whose answer is it?
#
# An extraction goes through the sentences *by length*, so that a batch holds sentences of one
# length and little is computed on padding. Training goes through them *shuffled*. Another run
# trains on a part. So the third row here is not the third row there, and a stored answer needs a
# name that does not depend on any order: the **id**. Where do the sentences of the first training
# batch stand in our store?

# %%
first_four = batches[0]["id"][:4]
in_the_set = [small.transfer["id"][:].index(id) for id in first_four]
print("ids in the first batch:  ", *first_four)
print("their rows in the set:   ", *in_the_set)
print("their rows in the store: ", *store.rows(first_four))

# %% [markdown]
# What if one forgets? We try two slips on a student that trains in a moment: the *bag of words*
# of lesson 04, a mean of word vectors and a linear layer. It gets every third article of the
# transfer set, whole, and the answers that come with the course.
#
# - **Off by one.** The answers stand one row too low: sentence $i$ gets the answer to sentence
#   $i - 1$. A header line counted as a row is enough.
# - **Never sorted back.** The answers stand in the order of the extraction, by length, and are
#   read in the order of the set.
# - For comparison: **by id**.

# %%
articles = sorted(set(data.transfer["group"][:]))[::3]
kept = np.flatnonzero(np.isin(data.transfer["group"][:], articles))
part = dataclasses.replace(data, transfer=data.transfer.select(kept))


def padded(split: str) -> tuple[Any, Tensor, Tensor]:
    """The rows of a split, their token ids [sentences, tokens] (0 where padded), their labels."""
    rows = part.encode(split, words)
    tokens = [torch.tensor(row) for row in rows["input_ids"][:]]
    return rows, nn.utils.rnn.pad_sequence(tokens, batch_first=True), torch.tensor(rows["label"][:])


part_rows, part_tokens, part_labels = padded("transfer")
validation_rows, validation_tokens, validation_labels = padded("validation")
z_t = stored_knowledge("transfer").logits(part_rows["id"][:])  # [sentences, classes]
z_validation = stored_knowledge("validation").logits(validation_rows["id"][:])


class Bag(nn.Module):
    """The mean of 32-dimensional word vectors, then a linear layer: to logits [batch, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words.vocab_size, 32, mode="mean", padding_idx=0)
        self.classes = nn.Linear(32, data.num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classes(self.words(tokens))


def bag_answers(targets: Tensor, seed: int, steps: int = 150) -> Tensor:
    """Train a bag on logits or log-probabilities [sentences, classes]; give validation logits."""
    torch.manual_seed(seed)
    bag = Bag()
    optimizer = torch.optim.Adam(bag.parameters(), lr=0.02, fused=True)
    for _ in range(steps):
        batch = torch.randint(len(targets), (256,))
        optimizer.zero_grad()
        kl_divergence(bag(part_tokens[batch]), targets[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return bag(validation_tokens)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """In per cent, over the labelled rows."""
    labelled = labels >= 0
    return 100 * (logits.argmax(-1) == labels)[labelled].double().mean().item()


SEEDS = (0, 1, 2)
by_id = [bag_answers(z_t, seed) for seed in SEEDS]
print(f"{len(z_t):,} sentences, answers by id: the student gets", end=" ")
print(", ".join(f"{accuracy(z, validation_labels):.1f} %" for z in by_id), "(three seeds)")

# %% [markdown]
# ### Predict
#
# How many per cent will it get when *every* answer it learns from is the answer to another
# sentence, the one before?

# %%
my_accuracy = ...  # per cent, such as 35
predict("05: accuracy of the student off by one (%)", my_accuracy)

# %%
by_length = np.argsort(-np.array(part_rows["length"][:]), kind="stable")
targets = {"by id": z_t, "off by one": z_t.roll(1, dims=0), "never sorted back": z_t[by_length]}
answers = {"by id": by_id} | {
    name: [bag_answers(targets[name], seed) for seed in SEEDS]
    for name in ("off by one", "never sorted back")
}
table(
    [
        "answers",
        "student's accuracy, three seeds (%)",
        "mean",
        "stored answers that name the label (%)",
    ],
    [
        [
            name,
            ", ".join(f"{accuracy(z, validation_labels):.1f}" for z in answers[name]),
            f"{np.mean([accuracy(z, validation_labels) for z in answers[name]]):.1f}",
            f"{accuracy(targets[name], part_labels):.1f}",
        ]
        for name in targets
    ],
)
off = np.mean([accuracy(z, validation_labels) for z in answers["off by one"]])
recall("05: accuracy of the student off by one (%)", float(off))
group = np.array(part_rows["group"][:])
same_article = (group[1:] == group[:-1]).mean()
print(f"sentences whose neighbour above is of the same article: {same_article:.0%}")

# %% [markdown]
# To read the answers in the wrong order is a crash that one sees. To be off by one is worse. Rows
# stand by article, so the answer to the sentence before is nearly always an answer about the same
# topic, and the student loses a few points. Nobody who gets this accuracy looks for a fault; one
# says that "distillation does not help much here". Even the usual check is blind: the last column
# asks whether the stored answers agree with the labels, and off by one they do.
#
# Two things help. The keys: with ids there is no row to be off by. And a check that looks at the
# *same sentence* and not at its kind: ask the teacher about a few sentences again, and compare.


# %%
few = collate(part_rows.select(range(8)).to_list())
asked_again = live_teacher(few)["teacher_logits"].cpu()
for name, logits in targets.items():
    print(f"{name}: off by up to {(logits[:8] - asked_again).abs().max():.3f}")

# %% [markdown]
# Eight sentences are enough. (The first line is not exactly 0; a section below finds out why.)
#
# ## Masks: an answer that depends on the neighbours
#
# A batch is padded to its longest sentence. The attention mask, 1 for a token and 0 for padding,
# tells the teacher what to leave out. Without it the padding is read, and a sentence's answer
# depends on how long the *other* sentences of its batch happen to be. We pad our own sentences to
# 48 tokens and ask three times.

# %%
ours = encode_texts([example["text"] for example in example_sentences()], words, data.max_length)
own = fed(collate(ours.to_list()))
missing = data.max_length - own["input_ids"].shape[1]
wide = {name: F.pad(value, (0, missing)) for name, value in own.items()}  # [sentences, 48]
with torch.no_grad():
    z_own = teacher(**own).logits
    with_mask = teacher(**wide).logits
    without = teacher(input_ids=wide["input_ids"]).logits
for name, logits in (("with the mask", with_mask), ("without it", without)):
    gap = (logits - z_own).abs().max()
    changed = (logits.argmax(-1) != z_own.argmax(-1)).sum()
    print(f"padded, {name}: off by up to {gap:.1e}; {changed} of {len(z_own)} classes change")

# %% [markdown]
# ## The frozen teacher, and how it wakes
#
# "Frozen" is said of four things, and code that sees to one of them is often thought to see to all:
#
# 1. its weights do not change;
# 2. no gradient flows into it;
# 3. no graph is kept of what it computes, which would cost memory;
# 4. it is **asleep**: dropout is off, and it gives the same answer each time.
#
# The fourth is lost most easily. `train()` on a module sets the mode of everything inside it. Many
# trainers call it before each epoch or each step, and many scripts keep the teacher inside the
# module that is trained:


# %%
class Distiller(nn.Module):
    """Student and teacher in one module, as it is often written."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.eval()


sleeper = copy.deepcopy(teacher)  # so that the one we go on with is left alone
student_with_teacher_inside = Distiller(stored.student, sleeper)
print("before: is the teacher awake?", sleeper.training)
student_with_teacher_inside.train()
print("after train() on its owner: ", sleeper.training)

# %% [markdown]
# No warning, no error. From now on each answer is that of a network in which every dropout leaves
# out a tenth of what passes it, another tenth each time.
#
# ### Predict
#
# Ask this woken teacher twice about the same 192 validation sentences. On how many per cent of them
# does it name the same class both times? And what happens to its accuracy?

# %%
my_agreement = ...  # per cent
predict("05: agreement of a woken teacher with itself (%)", my_agreement)

# %%
lengths = validation_rows["length"][:]
drawn = random.Random(1).sample(range(len(lengths)), 192)
some = validation_rows.select(sorted(drawn, key=lengths.__getitem__))  # by length: less padding
some_batches = [collate(some.select(range(k, k + 32)).to_list()) for k in range(0, len(some), 32)]
some_labels = torch.tensor(some["label"][:])


def answers_of(model: PreTrainedModel) -> Tensor:
    """The logits of a model, in whatever mode it is, for `some`: [sentences, classes]."""
    with torch.no_grad():
        return torch.cat([model(**fed(batch)).logits.cpu() for batch in some_batches])


torch.manual_seed(0)
first, second, asleep = answers_of(sleeper), answers_of(sleeper), answers_of(teacher)
same = (first.argmax(-1) == second.argmax(-1)).double().mean().item()
recall("05: agreement of a woken teacher with itself (%)", 100 * same)
table(
    [
        "teacher",
        "accuracy (%)",
        "same class as the first line (%)",
        "KL(this ‖ asleep) (nats)",
    ],
    [
        [
            name,
            f"{accuracy(z, some_labels):.1f}",
            f"{100 * (z.argmax(-1) == asleep.argmax(-1)).double().mean():.1f}",
            f"{kl_divergence(asleep, z):.3f}",
        ]
        for name, z in (
            ("asleep", asleep),
            ("awake, first call", first),
            ("awake, second call", second),
        )
    ],
)

# %% [markdown]
# Accuracy raises no alarm: it moves by a few points at most, up or down, and on 192 sentences its
# standard error alone is about 2.6 points. That is why nobody notices. The fault shows only where
# one asks the teacher *twice*. Which answers move? Take three of our own sentences: the one of
# which the teacher is surest, and the two of which it is least sure. Ask a hundred times.

# %% figure="awake"
certainty = z_own.softmax(-1).amax(-1).cpu()  # [sentences]
ranks = certainty.argsort()
chosen = [ranks[-1].item(), ranks[1].item(), ranks[0].item()]
CALLS = 100
torch.manual_seed(0)
with torch.no_grad():
    many = {name: value[chosen].repeat(CALLS, 1) for name, value in own.items()}
    woken = sleeper(**many).logits.softmax(-1).cpu().view(CALLS, len(chosen), -1)
top = z_own[chosen].argmax(-1).cpu()  # the class that the sleeping teacher names
awake_answers = 100 * woken[:, range(len(chosen)), top]  # [calls, sentences]
asleep_answers = 100 * certainty[chosen]
texts = [example_sentences()[k]["text"] for k in chosen]
spans = [(column.min().item(), column.max().item()) for column in awake_answers.T]

figure, axes = canvas(
    8.0,
    2.8,
    rows=1,
    title=f"{CALLS} answers of a woken teacher (dots) and the one of the sleeping teacher (line)",
    alt="For three sentences, the probability of the class that the sleeping teacher names. "
    + " ".join(
        f"“{text}” Asleep {calm:.0f} %; awake between {low:.0f} and {high:.0f} %."
        for text, calm, (low, high) in zip(texts, asleep_answers.tolist(), spans, strict=True)
    ),
)
jitter = np.random.default_rng(0).uniform(-0.22, 0.22, CALLS)
for row, (column, calm) in enumerate(zip(awake_answers.T, asleep_answers, strict=True)):
    axes.plot(column, row + jitter, "o", color=SKY, markersize=4, alpha=0.6)
    axes.vlines(calm, row - 0.33, row + 0.33, color=VERMILION, linewidth=2.5)
    axes.text(0, row - 0.38, texts[row], fontsize=8, va="bottom")
axes.set_yticks([])
axes.set(xlim=(0, 100), ylim=(len(chosen) - 0.6, -0.75))
axes.set_xlabel("Probability of the class that the sleeping teacher names (%)")
figure

# %% [markdown]
# Where the teacher is sure, dropout moves little. Where it hesitates, and there stands what a
# student can learn beyond the label (lesson 04), its answer is thrown about. A student that copied
# the sleeping teacher perfectly would still have a loss of the size of the table's last column, and
# that part is noise. And answers that nobody can get a second time cannot be checked against their
# teacher.
#
# ### Four words that do four things
#
# Which of the usual calls sees to which of the four points? Not from memory, by running: a small
# network with dropout, copied anew each time and in training mode, is frozen in one way only. Then
# we ask it twice, look for a graph, and take its answer as the target of two losses of a student: a
# mean squared error, which most people would write without a thought for the teacher's gradient,
# and the KL divergence of this course. Do gradients of the student's loss reach the weights of its
# teacher?

# %%
two = {name: value[:2].cpu() for name, value in own.items()}
small_one = build_student(teacher, "tiny", seed=3)  # stands in for a teacher; awake
pupil = build_student(teacher, "tiny", seed=4)
ERRORS: dict[str, str] = {}


def frozen_by(name: str) -> list[str]:
    """Freeze a copy in one way and say what holds for it."""
    model = copy.deepcopy(small_one).train()
    if name == "`model.eval()`":
        model.eval()
    if name == "`model.requires_grad_(False)`":
        model.requires_grad_(False)
    context = {
        "`with torch.no_grad()`": torch.no_grad,
        "`with torch.inference_mode()`": torch.inference_mode,
    }.get(name, torch.enable_grad)

    def ask() -> Tensor:
        with context():
            return model(**two).logits

    steady, graph = torch.equal(ask(), ask()), ask().requires_grad
    works = []
    for loss in (F.mse_loss, kl_divergence):
        try:
            loss(pupil(**two).logits, ask()).backward()
            works.append("yes")
        except RuntimeError as error:
            ERRORS[name] = str(error)
            works.append("**error**")
    filled = any(p.grad is not None for p in model.parameters())
    return [name, *("yes" if is_so else "no" for is_so in (steady, graph, filled)), *works]


table(
    ["only", "same answer twice?", "graph kept?", "gradients reach it?", "MSE works?", "KL works?"],
    [
        frozen_by(name)
        for name in (
            "nothing",
            "`model.eval()`",
            "`model.requires_grad_(False)`",
            "`with torch.no_grad()`",
            "`with torch.inference_mode()`",
        )
    ],
)
for name, error in ERRORS.items():
    print(f"{name.strip('`')}: {error}")

small_one.requires_grad_(False)
vectors = pupil.get_input_embeddings()(two["input_ids"])  # these do need a gradient
fed_with_them = small_one(inputs_embeds=vectors, attention_mask=two["attention_mask"])
print("\nrequires_grad_(False), fed with what needs one: graph kept?", end=" ")
print("yes" if fed_with_them.logits.requires_grad else "no")

# %% [markdown]
# Read the rows.
#
# - Only `eval()` puts it to sleep, and it does nothing else: gradients still flow. (They come by
#   way of the MSE. Our `kl_divergence` cuts the teacher off by itself.)
# - `requires_grad_(False)` and `no_grad` both keep gradients out. They differ in what they attach
#   to: the first to the weights, for good; the second to a stretch of code. With the first alone a
#   graph is kept again as soon as anything that *does* need a gradient is fed in, as the last line
#   shows.
# - `inference_mode` goes further than `no_grad`: autograd forgets these tensors altogether, and
#   they may not be saved for a backward pass. MSE saves its target, hence the error. KL takes their
#   logarithms first, outside, and those are ordinary tensors. So a loop that runs well on logits
#   breaks on the day somebody adds hidden states and an MSE (lesson 07). As the message says,
#   `clone` or `no_grad` mends it.
#
# The first point, weights that do not change, has no column: it follows from the second, as long as
# no gradient is left from before. An optimiser skips a parameter whose `grad` is None; one whose
# `grad` is 0 it may still move, by weight decay or momentum. It is surer not to hand it the
# teacher's parameters at all.
#
# So a frozen teacher needs `eval()`, `requires_grad_(False)` and `no_grad` together. And a guard
# against its owner's `train()`. It is short, because `nn.Module.train` is a method like any other:
#
# ```python
# class Asleep(nn.Module):
#     def __init__(self, model):
#         super().__init__()
#         self.model = model.requires_grad_(False).eval()
#
#     def train(self, mode=True):
#         return self          # the owner's train() ends here
#
#     @torch.no_grad()
#     def forward(self, **batch):
#         self.model.eval()    # in case somebody woke it behind our back
#         return self.model(**batch)
# ```
#
# The library's is called `FrozenTeacher`; `LiveTeacher` has one inside.

# %%
guarded = Distiller(stored.student, FrozenTeacher(sleeper))
guarded.train()
print("behind the guard, after train() on the owner:", sleeper.training)
sleeper.bert.encoder.train()  # woken by hand, and only in part
print("its encoder woken by hand: teacher.training says", sleeper.training, end="; ")
print("its dropouts say", any(m.training for m in sleeper.modules() if isinstance(m, nn.Dropout)))
found = guarded.teacher(own, ["logits"])["logits"]
print("asked once more, off the sleeping teacher by", (found - z_own).abs().max().item())

# %% [markdown]
# Remember the second line for the exercise: `teacher.training` tells of the outermost module only.
# Do not ask whether it is asleep. Put it to sleep.
#
# ### Your turn: ask once, by id
#
# Everything so far in one function. The batches come from a collator: `id` is a list of strings,
# `input_ids` and `attention_mask` are `[batch, tokens]`; there may be other keys, and the last
# batch may be smaller. They lie on the CPU, the teacher perhaps on a GPU: move what you feed to
# `teacher.device`, and bring the answers back. What you give is a dict from id to that example's
# logits, `[classes]`, float32.


# %% exercise="extract_logits"
def extract_logits(
    teacher: PreTrainedModel, batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Ask a frozen teacher about every example once.

    Args:
        teacher: A classifier of transformers, awake or asleep. It is left asleep.
        batches: Each with "id" (list of strings), "input_ids" and "attention_mask"
            `[batch, tokens]`, on the CPU.

    Returns:
        For each id its logits `[classes]`, float32, on the CPU, without a graph.
    """
    ### BEGIN SOLUTION
    teacher.eval()  # all of it, whatever teacher.training says
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for batch in batches:
            logits = teacher(
                input_ids=batch["input_ids"].to(teacher.device),
                attention_mask=batch["attention_mask"].to(teacher.device),
            ).logits
            # Ids and rows go in pairs, batch by batch: no row number ever leaves this line.
            found.update(zip(batch["id"], logits.float().cpu(), strict=True))
    return found
    ### END SOLUTION


# %%
extract_logits = use(extract_logits)
sleeper.train()  # awake on purpose: it must not matter
asked_batches = batches[:8]
found = extract_logits(sleeper, asked_batches)
print(
    f"{len(found)} sentences, {next(iter(found.values())).shape[0]} logits each; asleep again:",
    end=" ",
)
print(not sleeper.training)

# %% [markdown]
# ## The same teacher, other digits
#
# Compare your extraction with two stores: our own from the beginning of this lesson, and the one
# that comes with the course, from the long run.

# %%
asked_ids = list(found)
yours = torch.stack(list(found.values()))  # [sentences, classes]
shipped = stored_knowledge("transfer")
in_bfloat16 = LiveTeacher(teacher, dtype=torch.bfloat16)
coarse = torch.cat([in_bfloat16(batch)["teacher_logits"].cpu() for batch in asked_batches])
same_weights = weights_fingerprint(teacher) == shipped.fingerprint["teacher"]


def compared(name: str, one: Tensor, two: Tensor) -> list[str]:
    """How far two extractions of the same sentences are apart."""
    gaps = (one - two).abs()
    agree = (one.argmax(-1) == two.argmax(-1)).double().mean()
    return [name, f"{gaps.max():.1e}", f"{gaps.mean():.1e}", f"{agree:.1%}"]


table(
    ["logits", "largest difference", "mean difference", "same class"],
    [
        compared("yours against our store", yours, store.logits(asked_ids)),
        compared("yours against the course's store", yours, shipped.logits(asked_ids)),
        compared("yours against the teacher asked in bfloat16", yours, coarse),
        compared("the course's store against bfloat16", shipped.logits(asked_ids), coarse),
    ],
)
print("our store was computed and stored in:        ", store.fingerprint["dtype"])
print("the course's store was computed and stored in:", shipped.fingerprint["dtype"])
print("has the teacher on this machine the same weights as the course's?", same_weights)

# %% [markdown]
# Your function and the library's agree to the rounding of float32. The course's store is further
# away, by thousands of times as much, and the reason stands in its fingerprint: it was *computed*
# in bfloat16, because that is faster, and only *stored* in float32. bfloat16 has the range of
# float32, but 8 bits of precision: between 2 and 4 its neighbours are 1/64 = 0.016 apart. The last
# line of the table tests the explanation. Ask the same teacher in the same dtype, and the mean
# difference shrinks; what is left are logits that were computed in another batch and rounded to a
# neighbour. (It is so only where the last printed line says `True`. If your machine has fine-tuned
# a teacher of its own, with other roundings, its weights are others, and the difference is one of
# teachers.)
#
# There is a second trace. If the stored numbers came out of bfloat16, then each of them *is* a
# bfloat16 number, and cutting it down to 2 bytes loses nothing at all:

# %%
for name, logits in (
    ("our store", store.logits(asked_ids)),
    ("the course's", shipped.logits(asked_ids)),
):
    exact = (logits == logits.bfloat16().float()).double().mean()
    print(f"{name}: {exact:.1%} of the stored float32 numbers are bfloat16 numbers")

# %% [markdown]
# Is it bad? The class hardly ever changes. But two extractions that differ in dtype are not the
# same knowledge, and who compares one with the other should not be left to guess. That is why the
# dtype belongs into the fingerprint.
#
# ## Fewer bytes
#
# Five numbers a sentence are nothing. A language model gives a number for each entry of its
# vocabulary, and it does so for each *token*. Let us reckon for our sentences and a vocabulary as
# large as the teacher's. (Our teacher has no such head; only the sizes matter here.)

# %%
V = words.vocab_size
tokens_in_all = np.mean(rows["length"][:]) * len(data.transfer)  # from the sample
table(
    ["stored in float32", "answers", "bytes an answer", "in all (MB)"],
    [
        [what, f"{answers:,.0f}", f"{4 * numbers:,}", f"{4e-6 * answers * numbers:,.1f}"]
        for what, answers, numbers in (
            ("5 classes a sentence", len(data.transfer), 5),
            (f"{V:,} word pieces a token", tokens_in_all, V),
        )
    ],
)

# %% [markdown]
# **Half the bytes a number.** The first way is a shorter number. float16 has 11 bits of precision
# and ends at 65,504; bfloat16 has 8 bits and no such end. The error below is
# $\mathrm{KL}(p \,\|\, q)$, where $p$ is the softmax of the original and $q$ that of what is read
# back, both in float64.

# %%
fine = store.logits(ids).double()  # computed in float32, [sentences, classes]
table(
    [
        "stored as",
        "bytes for 5 classes",
        "largest error of a logit",
        "KL (nats)",
        "100,000 is read as",
    ],
    [
        [
            str(dtype).removeprefix("torch."),
            5 * dtype.itemsize,
            f"{(fine.to(dtype).double() - fine).abs().max():.1e}",
            f"{kl_divergence(fine.to(dtype).double(), fine):.1e}",
            f"{torch.tensor(1e5).to(dtype).item():,.0f}",
        ]
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ],
)

# %% [markdown]
# Both errors are tiny beside what a student has left to learn (tenths of a nat, in a table below).
# For logits of this size float16 is the better of the two; where a model marks forbidden classes
# with logits of −10⁹, it is not, because that becomes −∞. But half of some 90 GB (the table
# before the last) is still 45. It takes another idea.
#
# **Fewer numbers.** Most of 30,522 probabilities are next to 0. Keep the $k$ most probable classes,
# a set $K$, with their log-probabilities, and of all others only their *sum*, the **tail**
#
# $$r = \sum_{i \notin K} p_i .$$
#
# Who reads it back spreads the tail evenly, $q_i = r / (N - k)$ for each class outside $K$, and
# $q_i = p_i$ inside. What is lost? Inside $K$ nothing, so the KL divergence has only the outer
# terms:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_{i \notin K} p_i \log \frac{p_i}{r/(N-k)}
# = r \,\Big( \log (N - k) - H(p_{\text{tail}}) \Big),$$
#
# where $p_{\text{tail}} = p_i / r$ is the tail as a distribution by itself and $H$ its entropy.
# (Put $p_i = r \cdot p_i/r$ into the logarithm.) So the error is **the mass of the tail times its
# unevenness**. It is 0 where the tail is empty, and where it is even.
#
# By hand: $p = (0.7, 0.2, 0.06, 0.04)$ and $k = 2$. The tail is $r = 0.1$, spread as 0.05 and 0.05.
# The error is $0.06 \ln(0.06/0.05) + 0.04 \ln(0.04/0.05) = 0.01094 - 0.00893 = 0.0020$ nats.
#
# ### Your turn
#
# Work with logarithms (lesson 03). The tail is the place where it is easy to slip: $\log(1 - \sum_K
# p_i)$ subtracts almost equal numbers and in float32 gives $-\infty$, or NaN, for a tail that is
# small but there. Add up the tail itself: `torch.logsumexp` over the classes that are *not* kept.
# With $k = N$ no class is left, and the logarithm of 0 is $-\infty$.


# %% exercise="top_k_compress"
def top_k_compress(logits: Tensor, k: int) -> dict[str, Tensor]:
    """Keep the k most probable classes, and in one number the mass of all others.

    Args:
        logits: `[batch, classes]`.
        k: 1 to the number of classes.

    Returns:
        "top_log_probs" `[batch, k]` at T = 1, the most probable first; "top_classes" `[batch, k]`,
        integers; "log_tail" `[batch]`, the log of the probability of all other classes, −inf
        where there are none.
    """
    ### BEGIN SOLUTION
    log_probs = F.log_softmax(logits, dim=-1)
    top_log_probs, top_classes = log_probs.topk(k, dim=-1)  # sorted, largest first
    # exp(−inf) = 0: the kept classes add nothing to the tail's sum.
    others = log_probs.scatter(-1, top_classes, -torch.inf)
    return {
        "top_log_probs": top_log_probs,
        "top_classes": top_classes,
        "log_tail": others.logsumexp(dim=-1),
    }
    ### END SOLUTION


# %%
top_k_compress = use(top_k_compress)


def read_back(logits: Tensor, k: int) -> Tensor:
    """Compress logits [batch, classes] in float32 and expand them, the tail spread evenly."""
    return top_k_expand(top_k_compress(logits.float(), k), logits.shape[-1])


by_hand = torch.tensor([[0.7, 0.2, 0.06, 0.04]]).log()
print("kept and spread:", [round(p, 3) for p in read_back(by_hand, 2).softmax(-1)[0].tolist()])
print(f"KL: {kl_divergence(read_back(by_hand, 2).double(), by_hand.double()):.4f} nats")

# %% [markdown]
# ### On five classes, and on thirty thousand
#
# In our format a kept class takes 8 bytes, 4 for the log-probability (float32) and 4 for its number
# (int32), and the tail 4 more: $8k + 4$ bytes an answer, against $4N$ for the full row.
#
# For the large head we need logits, and an honest word on where they come from. We have no language
# model here, so we take a *made-up* distribution with a stated law: the class of rank $j$ has
# probability proportional to $j^{-a}$, the law that Zipf (1949) found, with $a$ near 1, for the
# frequencies of words; that is, $z_j = -a \log j$. Which word has which rank changes none of the
# numbers below, so one row is enough. Three exponents stand for three states of a language model:
# $a = 1$ is undecided, $a = 1.5$ less so, $a = 2$ rather sure. A real model goes through all of
# them within a sentence, and its tail is no clean power law: read the curves for their shape, not
# for their digits.

# %%
ranks_log = torch.arange(1, V + 1).double().log()
zipf = {a: -a * ranks_log[None] for a in (1.0, 1.5, 2.0)}  # logits [1, V]
for a, z in zipf.items():
    p = z.softmax(-1)[0]
    shares = f"first class {p[0]:.0%}, first ten {p[:10].sum():.0%}"
    print(f"a = {a}: entropy {entropy(z):.2f} nats, {shares}")

# %% [markdown]
# ### Predict
#
# For $a = 1.5$: how many of the 30,522 classes must be kept for an error below 0.01 nats at $T =
# 1$?

# %%
my_kept = ...  # a number of classes
predict("05: classes to keep for 0.01 nats", my_kept)


# %% figure="bytes"
def error_of(logits: Tensor, k: int, temperature: float = 1.0) -> float:
    """KL(full row ‖ row read back) in nats, at a temperature."""
    return kl_divergence(read_back(logits, k).double(), logits.double(), temperature).item()


def bytes_of(k: int) -> int:
    """Bytes of an answer of k kept classes and a tail."""
    return 8 * k + 4


KEPT = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
errors = {(a, t): [error_of(z, k, t) for k in KEPT] for a, z in zipf.items() for t in (1.0, 2.0)}
five = {t: [error_of(fine, k, t) for k in (1, 2, 3)] for t in (1.0, 2.0)}
enough = int(np.exp(np.interp(-np.log(0.01), -np.log(errors[1.5, 1.0]), np.log(KEPT))))
recall("05: classes to keep for 0.01 nats", f"about {enough:,} ({bytes_of(enough):,} bytes)")

at_100 = KEPT.index(100)
figure, panels = canvas(
    8.0,
    3.6,
    columns=2,
    sharey=True,
    title="What an answer costs to store, and what is lost",
    alt="Two log-log panels, T = 1 and T = 2: KL error in nats against bytes an answer. Five "
    f"classes at T = 1: {five[1.0][0]:.3f} nats at 12 bytes, {five[1.0][1]:.3f} at 20, where the "
    "full row lies too. Made-up vocabulary rows with 100 classes kept (804 bytes) at T = 1 and 2: "
    + "; ".join(
        f"a = {a}: {errors[a, 1.0][at_100]:.3f} and {errors[a, 2.0][at_100]:.3f}" for a in zipf
    )
    + f". The full row has {4 * V:,} bytes, in float16 {2 * V:,}.",
)
for panel, t in zip(panels, (1.0, 2.0), strict=True):
    panel.loglog(
        [bytes_of(k) for k in (1, 2, 3)], five[t], "o-", color=GREEN, markersize=5,
        label="5 classes, teacher's logits",
    )  # fmt: skip
    for a, colour, marker in zip(zipf, (VERMILION, BLUE, PINK), "s^D", strict=True):
        panel.loglog(
            [bytes_of(k) for k in KEPT], errors[a, t], f"{marker}-", color=colour, markersize=4,
            label=f"{V:,} classes, made up, a = {a:g}",
        )  # fmt: skip
    for size, line, name in (
        (20, ":", "5 × 4"),
        (2 * V, "--", "float16"),
        (4 * V, ":", "float32"),
    ):
        panel.axvline(size, color=BLACK, linestyle=line, linewidth=1)
        panel.annotate(
            name, (size, 0.98), xycoords=("data", "axes fraction"), rotation=90, ha="right",
            va="top", fontsize=7.5,
        )  # fmt: skip
    panel.set_title(f"T = {t:g} (vertical lines: the full rows)", fontsize=9.5)
    panel.set(xlabel="Bytes an answer (log scale)", ylim=(1e-5, 60))
panels[0].set_ylabel("Error: KL (nats, log scale)")
panels[1].legend(fontsize=7.5, loc="lower left", frameon=False)
figure

# %%
table(
    [
        "5 classes: kept",
        "bytes (full row: 20)",
        "mass kept",
        "KL at T = 1 (nats)",
        "KL at T = 2 (nats)",
    ],
    [
        [
            k,
            bytes_of(k),
            f"{1 - top_k_compress(fine, k)['log_tail'].exp().mean():.1%}",
            f"{error_of(fine, k):.4f}",
            f"{error_of(fine, k, 2.0):.4f}",
        ]
        for k in range(1, 6)
    ],
)


# %%
def tail_of(logits: Tensor, temperature: float) -> float:
    """Per cent of a row's probability beyond its first hundred classes, at a temperature."""
    return 100 * (logits / temperature).softmax(-1)[0, 100:].sum().item()


table(
    [
        f"{V:,} classes, 100 kept",
        "tail at T = 1 (%)",
        "tail at T = 2 (%)",
        "at T = 2, read back (%)",
        "KL at T = 1 (nats)",
        "KL at T = 2 (nats)",
    ],
    [
        [
            f"a = {a:g}",
            f"{tail_of(z, 1.0):.1f}",
            f"{tail_of(z, 2.0):.1f}",
            f"{tail_of(read_back(z, 100).double(), 2.0):.1f}",
            f"{errors[a, 1.0][at_100]:.3f}",
            f"{errors[a, 2.0][at_100]:.3f}",
        ]
        for a, z in zipf.items()
    ],
)

# %% [markdown]
# - **On five classes do not compress.** Two kept classes take the bytes of the full row and lose
#   something; four are exact (a tail of one class *is* that class) and take nearly twice the bytes.
# - **On a large head** the error at $T = 1$ falls with $k$, faster the surer the model is. A hundred
#   classes take less than a hundredth of the row's bytes.
# - **Look at the temperature you will train at.** The parts are stored for $T = 1$. Compare the
#   panels at a hundred classes (804 bytes, the last table): the sure model, $a = 2$, has the
#   smallest error of the three at $T = 1$ and the largest at $T = 2$. Three things happen. A higher
#   $T$ moves probability into the tail. There the even spread, right in sum at $T = 1$, becomes too
#   heavy: compare its two columns at $T = 2$. And the tail itself becomes more even, as
#   $j^{-a}$ becomes $j^{-a/2}$. Where the tail was small, the first two win and the error grows;
#   where it was large already, as for $a = 1$, the third wins and it falls. An error measured at
#   $T = 1$ says little about training at $T = 2$.
#
# ### Tail dropped, or tail modelled
#
# Many implementations keep no tail. They renormalise: $\tilde p_i = p_i / (1 - r)$ inside $K$, and
# 0 outside. It looks harmless where $r$ is small. But the student learns its target, and this
# target says that the kept classes are more probable than the teacher thinks, by the factor
# $1/(1-r)$, and *all* others impossible: $\mathrm{KL}(p \,\|\, \tilde p) = \infty$. It is a bias,
# and more data do not average it away. Anshumann et al. (2025) show it for language models, and
# propose to draw the kept classes at random instead, so that the target is right on average; Shen
# and Xing (2022) compare both kinds of target, and others, for images.
#
# Here it is on our task, with targets of $k = 1$ and $k = 2$ classes, same bag, same steps, three
# seeds. *Confidence* is the mean of a student's largest probability.


# %%
def renormalised(logits: Tensor, k: int) -> Tensor:
    """Logits [batch, classes] of a target without its tail: −10⁴ outside the top k."""
    parts = top_k_compress(logits, k)
    dropped = torch.full_like(logits, -1e4)
    return dropped.scatter(-1, parts["top_classes"].long(), parts["top_log_probs"])


kinds = {"full row": by_id} | {
    f"k = {k}, tail {name}": [bag_answers(make(z_t, k), seed) for seed in SEEDS]
    for k in (1, 2)
    for name, make in (("modelled", read_back), ("dropped", renormalised))
}


def mean_of(students: Sequence[Tensor], form: str, figure: Callable[[Tensor], float]) -> str:
    """The mean of a figure over the seeds, and its range."""
    values = [figure(z) for z in students]
    mean, low, high = (format(v, form) for v in (np.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


table(
    ["target", "accuracy (%)", "confidence (%)", "KL(teacher ‖ student) (nats)"],
    [
        [
            name,
            mean_of(bags, ".1f", lambda z: accuracy(z, validation_labels)),
            mean_of(bags, ".1f", lambda z: 100 * z.softmax(-1).amax(-1).mean().item()),
            mean_of(bags, ".3f", lambda z: kl_divergence(z, z_validation).item()),
        ]
        for name, bags in kinds.items()
    ],
)

# %% [markdown]
# Compare the two lines of each $k$. Accuracy hardly tells them apart: which class is on top is the
# same in both targets. Confidence does. With a dropped tail a student is surer than with a modelled
# one, and surer than it is right. And it ends further from the teacher, to come near whom is what
# distillation is about. One number a row, the tail, makes the difference.
#
# ## The store, opened
#
# Now the real format. A store is a folder with a manifest, which is JSON, and shards, which are
# Arrow streams; any Arrow reader in any language opens them. Here is the manifest of the one that
# comes with the course.

# %%
manifest = json.loads((shipped.folder / "manifest.json").read_text(encoding="utf-8"))
print(json.dumps(manifest, indent=1, ensure_ascii=False))

# %% [markdown]
# `fingerprint` says what made the answers: a hash of the teacher's weights, one of the tokenizer,
# and the settings. `contents` is a hash over all ids and texts, `complete` is false while an
# extraction runs, and `shards` lists the files with their rows and bytes, so that a truncated file
# is noticed.

# %%
shard = shipped.folder / manifest["shards"][0]["file"]
with pa.memory_map(str(shard)) as source:
    arrow = pa.ipc.open_stream(source).read_all()
print(arrow.schema.remove_metadata())
print(f"\n{arrow.num_rows:,} rows; the first three:")
for row in arrow.slice(0, 3).to_pylist():
    print(row["id"], row["content_hash"], row["tokens"], [round(z, 2) for z in row["logits"]])

# %%
column_bytes = {name: arrow.column(name).nbytes / arrow.num_rows for name in arrow.column_names}
table(
    ["column", "bytes a row in memory"],
    [
        *([name, f"{size:.1f}"] for name, size in column_bytes.items()),
        ["**all**", f"{sum(column_bytes.values()):.1f}"],
        ["the file, compressed", f"{shard.stat().st_size / arrow.num_rows:.1f}"],
    ],
)
row = arrow.slice(0, 1).to_pylist()[0]
text = data.transfer["text"][data.transfer["id"][:].index(row["id"])]
digest = hashlib.sha256(text.encode()).hexdigest()
print(
    "the hash of the first text, made here, is the stored one:", digest[:32] == row["content_hash"]
)

# %% [markdown]
# Things to notice:
#
# - `logits` is a *fixed-size list*: the values of all rows lie side by side, and row $i$ begins at
#   byte $20\,i$. Nothing need be parsed; the file is mapped into memory and read where it lies.
#   (The course's own is compressed for the journey and is unpacked once; `extract` writes it
#   plain.)
# - No text is in it. The *content hash*, the first 32 hex digits of the text's SHA-256, stands for
#   the text: it tells whether a text is still the same, and gives it away only to somebody who has
#   guessed it.
# - `tokens` says how many tokens the sentence had for the tokenizer. A batch in which it has
#   another number is refused.
# - The logits are the smaller part of a row. On five classes the names weigh more than the
#   knowledge.
#
# ## What must change the fingerprint, and what must not
#
# Ids and content hashes say to which text an answer belongs. The **fingerprint** says whose answer
# it is. Stores outlive teachers: somebody fine-tunes for one more epoch, changes the longest length
# from 48 to 64 tokens, and trains on answers that no model in the house would give any more.
# Nothing fails, the shapes are right.
#
# A fingerprint is a hash of everything the answers depend on. Two laws pull in two directions. It
# must change with *anything* that can change an answer, or it is worthless. It must not change with
# what cannot, or people learn to ignore it. For a teacher's state dict (a dict from name to tensor)
# and a dict of settings:
#
# | must change it | must not |
# |---|---|
# | any value of any tensor, by however little | the order of either dict |
# | a tensor's name | how equal values lie in memory (a transposed view) |
# | its shape, even with the same bytes | `requires_grad` |
# | its dtype | |
# | a setting's name or value | |
#
# ### Your turn
#
# `hashlib.sha256()` takes bytes piece by piece with `update`, and gives 64 hex digits with
# `hexdigest()`. Three hints.
#
# - *Fix an order.* Sort by name. For the settings, `json.dumps(settings, sort_keys=True)` gives one
#   text for equal dicts.
# - *Mark where things end.* The bytes of `"ab"` and then `"c"` are those of `"a"` and then `"bc"`.
#   Hash name, shape and dtype *before* the values: then it is clear how many bytes follow.
# - *Take the bytes themselves.* A printed tensor is rounded and cut short. `value.contiguous()`
#   brings the values into their order; `.flatten().view(torch.uint8)` shows any dtype as bytes
#   (numpy has no bfloat16), and `.numpy().tobytes()` hands them over.


# %% exercise="fingerprint"
def fingerprint(weights: Mapping[str, Tensor], settings: Mapping[str, str | int | float]) -> str:
    """SHA-256 of a teacher's weights and of the settings it is asked with.

    Args:
        weights: A state dict, name → tensor of any shape and dtype.
        settings: What else the answers depend on, such as {"max_length": 48}.

    Returns:
        64 hex digits.
    """
    ### BEGIN SOLUTION
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        tensor = value.detach().cpu().contiguous()
        # As JSON, a name cannot run into the shape, whatever characters it has.
        header = json.dumps([name, list(tensor.shape), str(tensor.dtype)])
        digest.update(header.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(dict(settings), sort_keys=True).encode())
    return digest.hexdigest()
    ### END SOLUTION


# %%
fingerprint = use(fingerprint)
# The last block and the head stand for the whole teacher: the same laws, far fewer bytes.
kept_names = [name for name in teacher.state_dict() if "layer.5." in name or "classifier" in name]
state = {name: teacher.state_dict()[name].cpu().clone() for name in kept_names}
settings = {"max_length": data.max_length, "dtype": "float32"}
HEAD = "classifier.weight"  # [classes, width]


def with_head(head: Tensor) -> dict[str, Tensor]:
    """The same weights with another head."""
    return state | {HEAD: head}


head = state[HEAD]
nudged = head.clone()
nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(torch.inf))
swapped = head.clone()
swapped[0, :2] = head[0, [1, 0]]
renamed = {name.replace(HEAD, "head.weight"): value for name, value in state.items()}
across = head.T.contiguous().T  # the same values, laid out column by column
again = safetensors.torch.load(safetensors.torch.save(state))

before = fingerprint(state, settings)
cases: dict[str, tuple[str, str]] = {  # what is done → its fingerprint, whether it must change
    "one weight up by the smallest step": (fingerprint(with_head(nudged), settings), "yes"),
    "two weights change places": (fingerprint(with_head(swapped), settings), "yes"),
    "a tensor is renamed": (fingerprint(renamed, settings), "yes"),
    "a tensor gets another shape": (fingerprint(with_head(head.view(-1, 5)), settings), "yes"),
    "a tensor is cut to bfloat16": (fingerprint(with_head(head.bfloat16()), settings), "yes"),
    "max_length 48 → 64": (fingerprint(state, settings | {"max_length": 64}), "yes"),
    "the weights in another order": (fingerprint(dict(reversed(state.items())), settings), "no"),
    "the settings in another order": (fingerprint(state, dict(reversed(settings.items()))), "no"),
    "a tensor laid out by columns": (fingerprint(with_head(across), settings), "no"),
    "a tensor that asks for gradients": (
        fingerprint(with_head(head.clone().requires_grad_()), settings), "no",
    ),
    "saved, and loaded again": (fingerprint(again, settings), "no"),
}  # fmt: skip
table(
    ["what is done", "fingerprint", "has it changed?", "must it?"],
    [
        ["nothing", f"`{before[:12]}…`", "", ""],
        *(
            [what, f"`{after[:12]}…`", "yes" if after != before else "no", must]
            for what, (after, must) in cases.items()
        ),
    ],
)

# %% [markdown]
# The first row against the second: one weight of 1.8 million has moved by the smallest step there
# is, and the two fingerprints look no more alike than any two. A hash does not say how much has
# changed, nor what. So the library keeps a *dict* of parts, the one in the manifest: two hashes and
# the plain settings. A refusal can then name the part.
#
# What can it not see? Whether the teacher was awake. Which version of a library computed the
# answers, on which processor. Whether a setting that matters was left out of the dict by whoever
# wrote it. A fingerprint proves that things are different; that they are the same it makes only
# likely.
#
# ## What a store refuses
#
# Most slips below would run through without an error, and teach something else, if nobody compared.
# The library compares before training, and answers in one line. (The folder's name is replaced by
# STORE.)


# %%
def refusal(of: KnowledgeStore, call: Callable[[], object]) -> str:
    """The one line with which a store refuses, or that it does not."""
    try:
        call()
    except UserError as error:
        return str(error).replace(str(of.folder), "STORE")
    return "(not refused)"


some_rows = small.transfer.select(range(3))
same_texts = Dataset.from_dict({name: some_rows[name][:] for name in ("id", "content_hash")})
new_hash = hashlib.sha256((some_rows["text"][1] + " Really.").encode()).hexdigest()[:32]
edited = Dataset.from_dict(
    {
        "id": same_texts["id"][:],
        "content_hash": [same_texts["content_hash"][0], new_hash, same_texts["content_hash"][2]],
    }
)
other_words = copy.deepcopy(words)
other_words.add_tokens(["distillation"])
with torch.no_grad():
    sleeper.classifier.bias[0] += 1e-3  # a teacher that was trained a little further

for what, call in {
    "nothing is wrong": lambda: store.check(same_texts, processor=words, teacher=teacher),
    "a text was edited": lambda: store.check(edited),
    "another tokenizer": lambda: store.check(same_texts, processor=other_words),
    "another length": lambda: store.check(same_texts, max_length=64),
    "another teacher": lambda: store.check(same_texts, teacher=sleeper),
    "an id that is not there": lambda: store.logits(["weather/001#000"]),
    "a feature that is not there": lambda: store.check(same_texts, features=["pooled.layer.5"]),
}.items():
    print(f"{what}: {refusal(store, call)}")

# %% [markdown]
# The other way round needs thought, too. What is allowed without a word: a subset, another order,
# other batch sizes. None of them changes an answer by more than its rounding.
#
# ## Where only a live teacher will do
#
# A store answers questions that were asked before. So it fails where the *input* is new each time.
# The commonest case is augmentation: a word is masked or deleted at random, an image is cropped
# anew in each epoch. Let us replace a tenth of the word pieces of our 192 validation sentences by
# `[MASK]`, and delete one piece in another copy. Does the teacher say the same? And does the store
# notice?

# %%
chance = torch.Generator().manual_seed(0)


def masked(batch: Mapping[str, Any], rate: float = 0.1) -> dict[str, Any]:
    """The batch with word pieces replaced by [MASK] at random; [CLS], [SEP] and padding stay."""
    tokens = batch["input_ids"]
    special = torch.isin(tokens, torch.tensor(words.all_special_ids))
    hit = (torch.rand(tokens.shape, generator=chance) < rate) & ~special
    return {**batch, "input_ids": tokens.masked_fill(hit, words.mask_token_id)}


def shortened(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with the first word piece of each sentence deleted."""
    keep = [0, *range(2, batch["input_ids"].shape[1])]
    return {**batch, **{name: batch[name][:, keep] for name in ("input_ids", "attention_mask")}}


validation_store = stored_knowledge("validation")
for what, alter in (("a tenth masked", masked), ("a piece deleted", shortened)):
    altered = [alter(batch) for batch in some_batches]
    new = torch.stack(list(extract_logits(teacher, altered).values()))
    agree = (new.argmax(-1) == asleep.argmax(-1)).double().mean()
    gap = kl_divergence(asleep, new)
    print(f"{what}: the teacher names the same class for {agree:.0%}", end="; ")
    print(f"KL(altered ‖ clean) {gap:.2f} nats")
    ask_store = partial(validation_store, altered[0])
    print("   the store:", refusal(validation_store, ask_store))

# %% [markdown]
# The stored answer is that to *another text*. Where the length has changed the store notices; where
# a piece was only replaced it cannot, because all it is given is the id. Here you have to know what
# you want, and there are two opinions:
#
# - The student should give the answer to the *clean* text although it sees a damaged one. Then the
#   stored answer is the right one. It is how noise is used in self-training (Xie et al. 2020: the
#   teacher is not noised, the student is).
# - The student should compute the *same function* as the teacher. Then both must see the same
#   input. Beyer et al. (2022) find for images that this "consistent" teaching is what counts, and
#   that answers computed beforehand, to another crop, fall behind.
#
# A way between: store several altered copies of each example, each with its own id and the recipe
# to make it again. Shen and Xing (2022) do so with crops of images. Other cases where no store
# helps: the student writes the texts itself (language models that learn from what they generate),
# the teacher changes while the student learns, or all the answers would not fit on a disk.
#
# ## What could fool us
#
# - **A clock.** The first steps are slower, other programs run, a laptop grows warm. We left the
#   first steps out and ran both ways with the same batches; one run is still one run. Run the cell
#   of "Live against stored, measured" again and see which digit moves.
# - **Counting from the second day.** A store's extraction belongs to the bill of the first student,
#   and a teacher that is changed needs a new one. Who compares methods at equal compute has to say
#   which of them paid for it.
# - **A fault that costs little.** Off by one cost the student a few points; a dropped tail cost it
#   no accuracy, and being awake cost the teacher none, that one could tell from chance. None of
#   them raises an error. What found them was not a score but a *law*: the same question, the same
#   answer; the same id, the same text.
# - **The order of a set.** Off by one looks harmless because our rows stand by article. On shuffled
#   rows the answer above belongs to any topic (task 6 tries it). How visible a fault is depends on
#   the data; whether it is one does not.
# - **A made-up law.** The curves for 30,522 classes follow from $j^{-a}$ and from nothing else.
#   They show how error, bytes and temperature hang together. How many classes *your* language model
#   needs, its own logits must tell.
# - **One teacher.** All seeds of a student learn from the same store. An interval over these seeds
#   does not know that another fine-tuning of the teacher would have given other answers.
# - **A store of the test split.** It is there for the figures that are reported at the end. Whoever
#   trains or chooses on it has leaked the test through the teacher.
#
# ## On your own
#
# Nothing here is graded.
#
# 1. **Your own store.** Write twenty sentences of two topics of your choice into a CSV file with
#    columns `text` and `label`, load it with `distill_lab.load_task("csv:…")`, and `extract` from
#    `fine_tuned_teacher()`. With which line does the library refuse, and why is it right?
# 2. **Batch sizes.** Extract `small` in batches of 1, 8 and 128. How long does each take, and do
#    the logits agree? Explain both.
# 3. **Averaging an awake teacher.** Take the mean of the *probabilities* of 2, 10 and 50 calls of
#    an awake teacher. Does it come nearer to the sleeping one? (Gal and Ghahramani 2016 read this
#    mean as an answer in its own right.)
# 4. **Fewer bytes still.** Store the kept log-probabilities in float16, and the class numbers in
#    int16 (30,522 fits). How many bytes are left, and what does it add to the error?
# 5. **A tail with a shape.** Instead of spreading the tail evenly, spread it by $j^{-b}$ over the
#    ranks beyond $k$, with one $b$ for all rows. Which $b$ suits which $a$, and what must be stored
#    besides?
# 6. **Off by one, shuffled.** Permute `z_t` and the rows alike, shift by one, and train the bag.
#    Which line of the table does it come close to?
# 7. **By hand.** $p = (0.5, 0.3, 0.1, 0.1)$, $k = 2$. What is the error with the tail modelled?
#    What do the targets look like with the tail dropped? Check both with your functions.

# %%
progress()

# %% [markdown]
# ## Sources
#
# - C. Buciluă, R. Caruana and A. Niculescu-Mizil, “Model Compression”, KDD 2006, pp. 535-541: the
#   teacher's answers to a large set of examples, made once, as training data.
# - G. Hinton, O. Vinyals and J. Dean, “Distilling the Knowledge in a Neural Network”, 2015, arXiv
#   1503.02531. §2: the transfer set and its soft targets.
# - Z. Shen and E. Xing, “A Fast Knowledge Distillation Framework for Visual Recognition”, ECCV
#   2022, arXiv 2112.01528: soft labels of many crops stored with the recipe of each crop, and ways
#   to compress them.
# - Anshumann, M. A. Zaidi, A. Kedia, J. Ahn, T. Kwon, K. Lee, H. Lee and J. Lee, “Sparse Logit
#   Sampling: Accelerating Knowledge Distillation in LLMs”, ACL 2025, pp. 18085-18108, arXiv
#   2503.16870: the bias of stored top-k probabilities, and a remedy.
# - L. Beyer, X. Zhai, A. Royer, L. Markeeva, R. Anil and A. Kolesnikov, “Knowledge Distillation: A
#   Good Teacher Is Patient and Consistent”, CVPR 2022, pp. 10925-10934, arXiv 2106.05237.
# - Q. Xie, M.-T. Luong, E. Hovy and Q. V. Le, “Self-Training With Noisy Student Improves ImageNet
#   Classification”, CVPR 2020, pp. 10687-10698, arXiv 1911.04252.
# - N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, “Dropout: A Simple
#   Way to Prevent Neural Networks from Overfitting”, *JMLR* 15, 2014, pp. 1929-1958: why it is off
#   when a trained network is asked.
# - Y. Gal and Z. Ghahramani, “Dropout as a Bayesian Approximation: Representing Model Uncertainty
#   in Deep Learning”, ICML 2016, arXiv 1506.02142.
# - G. K. Zipf, *Human Behavior and the Principle of Least Effort*, Addison-Wesley, 1949.
# - PyTorch documentation, “Autograd mechanics”: grad modes, `no_grad`, inference mode and
#   evaluation mode; `torch.optim.Optimizer.zero_grad`: a gradient of 0 and one of None. Apache Arrow
#   documentation, “Arrow Columnar Format”: fixed-size lists and streams.
#
# ## What to read next
#
# Beyer et al. (2022), for the strongest case against a store, and then Shen and Xing (2022), who
# store all the same. The page on autograd mechanics is worth an evening. Lesson 06 takes the stored
# answers and trains the student: from random weights, from the teacher's layers, from its word
# embeddings, and with intervals that say what was gained.
