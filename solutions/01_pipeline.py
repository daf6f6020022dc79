# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · The pipeline: from a large teacher to a small student
#
# A large model answers well and costs a lot each time it is asked. *Knowledge distillation* trains a
# small model, the **student**, to give the answers of the large one, the **teacher**. This lesson
# takes real text through all four steps of it and teaches you to read the result.
#
# **You will be able to**
#
# - say what the four steps of distillation are, and what flows from each to the next;
# - run them on real sentences, and say why sentences are split by article and which choices must not
#   be made on the test split;
# - say what a teacher's answer holds that a label does not;
# - read a report card line by line: quality, cost, and how sure one may be of a difference;
# - compute *retention* and *compression*, the two numbers most often quoted, and say what they hide;
# - count what a distilled student costs to make, and not only what it costs to run;
# - work with the exercises of this course: stub, check, hints, progress.
#
# You need Python and a little PyTorch: what a tensor is, and that a classifier gives one number for
# each class. You need not know anything of distillation. Plan about 60 minutes. **Budget:** all cells
# together run in less than a minute on two CPU cores. No teacher is trained here: its answers come
# with the course.

# %%
from __future__ import annotations

import dataclasses
import itertools
import random
import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from IPython.display import Markdown, display
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from distill_lab import Schedule, build_student, distill, evaluate, load_teacher
from distill_lab.classroom import (
    example_classes,
    example_sentences,
    predict,
    recall,
    result,
    stored_knowledge,
    task,
    tokenizer,
)
from distill_lab.diagrams import pipeline_picture
from distill_lab.exercises import check, progress, use
from distill_lab.losses import soften
from distill_lab.models import count_bytes, count_parameters, word_embeddings
from distill_lab.plots import PALETTE, STUDENTS, canvas, plot_students
from distill_lab.widgets import report_viewer

SKY, BLACK = PALETTE[5:7]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows as a table."""
    lines = [header, ["---"] * len(header), *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


# %% [markdown]
# ## Why compress?
#
# The report of a long run comes with the course: one teacher, and students trained several times
# each with other random numbers. What does the teacher cost, beside a student of the kind that we
# train here?

# %%
report = result("five_seeds")
teacher_row, student_row = report["teacher"], report["students"]["distilled"]
MEGABYTE = 1e6


def cost_line(name: str, teacher: float, student: float, form: str) -> list[str]:
    """A line of the table of costs; the last column is the larger number over the smaller."""
    times = max(teacher, student) / min(teacher, student)
    return [name, format(teacher, form), format(student, form), f"{times:.1f} times"]


table(
    ["cost", "teacher", "student", "they differ by"],
    [
        cost_line("parameters", teacher_row["parameters"], student_row["parameters"], ","),
        cost_line(
            "memory for the weights (MB, float32)",
            teacher_row["bytes"] / MEGABYTE,
            student_row["bytes"] / MEGABYTE,
            ".1f",
        ),
        cost_line(
            "latency: one sentence alone (ms, median)",
            teacher_row["latency_ms"]["p50"],
            student_row["latency_ms"]["p50"],
            ".2f",
        ),
        cost_line(
            "throughput: sentences a second, 32 at a time",
            teacher_row["throughput"],
            student_row["throughput"],
            ",.0f",
        ),
    ],
)
print(
    f"Measured in float32 on: {report['environment']['device']}, "
    f"{report['environment']['threads']} threads."
)

# %% [markdown]
# These are four different costs, and a place where a model runs may be short of any one of them.
#
# - **Parameters** are the numbers that training has set. They must be stored, sent to the device and
#   read from memory. A parameter in float32 takes 4 bytes, which is all that the second line says.
# - **Latency** is how long one user waits for one answer.
# - **Throughput** is how many answers a machine gives in a second when there is a queue; it decides
#   how many machines one needs, and the bill for them.
#
# Training is paid once. These are paid again with every sentence, for as long as the model is in use.
# And our teacher is itself a small one: today's large language models have a thousand
# times its parameters and more.
#
# Why not train the small model on the labels and be done? One can, and this lesson does so, for
# comparison. The idea of distillation is that the large model has learnt more than the labels say,
# and that it can be asked about text which nobody has labelled.
#
# **Where it comes from.**
#
# - Buciluă, Caruana and Niculescu-Mizil (2006, "Model Compression") started from ensembles of hundreds
#   or thousands of classifiers. They let the ensemble label a large set of unlabelled or made-up
#   examples and trained one small network on it.
# - Hinton, Vinyals and Dean (2015) named it *distillation*. Their student learns the teacher's
#   *probabilities* of all classes, softened by a temperature (lesson 04).
# - Sanh, Debut, Chaumond and Wolf (2019) distilled BERT into DistilBERT: by their abstract, a model
#   40 % smaller and 60 % faster that keeps 97 % of BERT's language understanding. At the end of this
#   lesson you can say what each of these three numbers is a quotient of.

# %% [markdown]
# ## The four steps

# %%
pipeline_picture()

# %% [markdown]
# 1. **Teacher.** Take a large model and fine-tune it on the labelled sentences. From then on it is
#    *frozen*: it never changes again.
# 2. **Knowledge.** Ask it about every training sentence, labelled or not, and store what it answers:
#    for each sentence one number a class.
# 3. **Student.** Train a small model to give the same answers.
# 4. **Evaluation.** Ask both about sentences that neither has seen, measure what each costs, and write
#    a report card.
#
# In the library each step is a line or two. This is the whole program:
#
# ```python
# teacher = load_teacher("minilm", label_names=data.label_names)
# fine_tune(teacher, data, words)                                # 1 · teacher
# store = extract(teacher, data, words, "knowledge")             # 2 · knowledge
# student = build_student(teacher, "tiny", embeddings="svd")     # 3 · student
# distill(student, store, data, words)
# evaluate(student, data, words, split="test")                   # 4 · evaluation
# ```
#
# Steps 1 and 2 have been done for you, in the long run. What did they take, and what is left of them?

# %%
data, words = task(), tokenizer()  # the sentences; the rule that cuts them into word pieces
store = stored_knowledge("transfer")  # steps 1 and 2: what the teacher said
print(f"step 1, fine-tuning the teacher: {report['seconds']['teacher']:.0f} s on that machine")
print(f"step 2, asking it about {len(store):,} sentences: {report['seconds']['extract']:.0f} s")
print(
    f"Its answers lie in a store: {len(store):,} × {len(store.classes)} numbers, "
    f"{store.bytes / MEGABYTE:.1f} MB on disk with ids and hashes."
)
print(
    f"The teacher's weights would take {teacher_row['bytes'] / MEGABYTE:.0f} MB. "
    "They are not needed any more."
)

# %% [markdown]
# Steps 3 and 4 run now, on a small part of the task: 6,000 of the training sentences and every fourth
# validation sentence. A `Task` is a frozen dataclass, so a smaller one is a copy with two fields
# replaced.

# %%
SMALL = 6_000
chosen = sorted(random.Random(0).sample(range(len(data.transfer)), SMALL))
small = dataclasses.replace(
    data,
    transfer=data.transfer.select(chosen),
    validation=data.validation.select(range(0, len(data.validation), 4)),  # they stand by topic
)
print(
    f"{len(small.transfer):,} of {len(data.transfer):,} sentences to learn from, "
    f"{len(small.validation):,} of {len(data.validation):,} to look at."
)

# %% [markdown]
# And here are the steps live, in six lines; `before` is one line more than needed, to have something
# to compare with. The only thing still needed of the teacher is its word embeddings: from them the
# student's are made (lesson 06 shows how). `load_teacher` gives MiniLM as it came, not fine-tuned; its
# classification head holds random numbers, and nobody asks it anything.

# %%
body = load_teacher("minilm", label_names=data.label_names)
student = build_student(body, "tiny", embeddings="svd", seed=0)
before = evaluate(student, small, words, split="validation")
schedule = Schedule(epochs=2, learning_rate=2e-3)
training = distill(student, store, small, words, schedule=schedule)
ours = evaluate(student, small, words, split="validation")

# %%
frequent, times = Counter(ours.labels.tolist()).most_common(1)[0]
teacher_logits = stored_knowledge("validation").logits(ours.ids)  # [sentences, classes]
labels = torch.from_numpy(ours.labels)  # [sentences]
teacher_accuracy = (teacher_logits.argmax(-1) == labels).double().mean().item()
table(
    ["who answers", f"right, of {len(labels):,} validation sentences"],
    [
        [f"always “{data.label_names[frequent]}”", f"{100 * times / len(labels):.1f} %"],
        ["the student before training", f"{100 * before.accuracy:.1f} %"],
        [f"the student after {training.steps} steps", f"{100 * ours.accuracy:.1f} %"],
        ["the teacher, as stored", f"{100 * teacher_accuracy:.1f} %"],
    ],
)
print(
    f"{training.steps} steps in {training.seconds:.0f} s. This is a toy run: one seed, "
    f"{schedule.epochs} passes over {SMALL:,} sentences."
)

# %% [markdown]
# That was the pipeline. The rest of the lesson takes it apart: what went in, what the student learnt
# from, and how far one may trust the number that came out.
#
# No label took part in the student's loss: what it knows about topics it has from the teacher's
# numbers. (Labels had a small part all the same. Of its epochs `distill` keeps the one that did
# better on the validation sentences, the very ones of the table. So the student's figure may be
# a little too good; the section "What could fool us" shows why.)

# %% [markdown]
# ## What goes in: the task and its splits
#
# The task is to say which of five topics a sentence of a news article belongs to. The articles are the
# BBC's, of 2004 and 2005, collected by Greene and Cunningham (2006). A sentence's label is its
# article's topic. That is not always fair: no one can tell the topic of "She would not say more." So
# not even a perfect classifier would reach 100 %, and nobody knows what it would reach. `data/README.md`
# has the card of the data set, with origin, terms of use and known flaws.

# %%
PURPOSES = {
    "labelled": "training with labels: the teacher, and the students on hard labels",
    "transfer": "training with the teacher's answers; the labelled sentences are among them",
    "validation": "every choice: which epoch to keep, which setting to use",
    "test": "the figures in the report, and nothing else",
}
table(
    ["split", "sentences", "articles", "with a label", "used for"],
    [
        [
            name,
            f"{len(rows):,}",
            f"{len(set(rows['group'][:])):,}",
            f"{sum(label >= 0 for label in rows['label'][:]):,}",
            purpose,
        ]
        for name, purpose in PURPOSES.items()
        for rows in [data.split(name)]
    ],
)
print("classes:", ", ".join(data.label_names))

# %% [markdown]
# Most of the transfer set has no label. So it is in practice: to label a sentence costs a person's
# time, to ask a teacher about it costs a moment of a machine's. (In this data set the labels exist and
# are hidden. In the code a missing label is −100, the number that PyTorch's cross-entropy skips.)
#
# ### Why the split is by article
#
# Sentences of one article share names, places and phrases. If some of them are in training and others
# in the test, a model can recognise the *article* and repeat its label without knowing anything about
# the topic. For new articles that does not help. First a count: how many test articles have sentences
# in training as well, in our split, and in one drawn sentence by sentence?

# %%
train, test = set(data.transfer["group"][:]), set(data.test["group"][:])
sentences = data.transfer["group"][:] + data.test["group"][:]
random.Random(0).shuffle(sentences)
mixed_test, mixed_train = set(sentences[: len(data.test)]), set(sentences[len(data.test) :])
print(f"split by article:  {len(test & train)} of {len(test):,} test articles are in training too")
print(f"split by sentence: {len(mixed_test & mixed_train):,} of {len(mixed_test):,} would be")

# %% [markdown]
# Now a small run that shows what this does to a result. We take the labelled sentences and hold a
# fifth of them out, once by article and once by sentence, five times each. Two quick classifiers from
# scikit-learn, on weighted word counts (TF-IDF), are trained on the rest:
#
# - *nearest neighbour* looks for the most similar training sentence and repeats its label: it
#   memorises and does nothing else;
# - a *linear* classifier (a support vector machine) learns a weight for each word.
#
# **Guess** before you run it: by how many percentage points will the nearest neighbour look better
# when the split is by sentence? Put a number in place of the three dots.

# %%
my_points = ...  # such as 3
predict("points that a split by sentence adds", my_points)

# %%
rows = data.labelled
topic, article = np.array(rows["label"][:]), np.array(rows["group"][:])
features = TfidfVectorizer(sublinear_tf=True).fit_transform(rows["text"][:])
classifiers = {
    "nearest neighbour": KNeighborsClassifier(1, metric="cosine"),
    "linear": LinearSVC(),
}


def held_out(by_article: bool, seed: int) -> np.ndarray:
    """Which sentences are held out, bool [sentences]; as many either way, for the same seed."""
    order = np.random.default_rng(seed)
    names = order.permutation(np.unique(article))
    mask = np.isin(article, names[: len(names) // 5])
    return mask if by_article else order.permutation(mask)


scores: dict[tuple[str, bool], list[float]] = {}
for (name, classifier), by_article, seed in itertools.product(
    classifiers.items(), (True, False), range(5)
):
    mask = held_out(by_article, seed)
    fitted = classifier.fit(features[~mask], topic[~mask])
    right = (fitted.predict(features[mask]) == topic[mask]).mean()
    scores.setdefault((name, by_article), []).append(100 * right)


def spread(values: Sequence[float]) -> str:
    """Mean and range of some percentages."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


added = {name: np.mean(scores[name, False]) - np.mean(scores[name, True]) for name in classifiers}
table(
    ["classifier", "right, split by article (%)", "right, split by sentence (%)", "points added"],
    [
        [name, spread(scores[name, True]), spread(scores[name, False]), f"{added[name]:+.1f}"]
        for name in classifiers
    ],
)
recall("points that a split by sentence adds", round(float(added["nearest neighbour"]), 1))

# %% [markdown]
# In brackets stands the range over the five draws. Nothing about the classifiers differs between the
# columns; only the way of testing does. Whatever is added on the right is *leakage*: it would vanish
# with tomorrow's articles. Two things are worth remembering. Compare which of the two classifiers
# gains more, the one that memorises or the one that generalises. And compare how wide the ranges are:
# the split by sentence looks not only better but also *surer* than it is.
#
# Whenever your own rows come in families (sentences of an article, visits of a patient, frames of a
# film) the family must stay in one split. In the library that is `--group-column`.

# %% [markdown]
# ## What the student learns from: soft targets
#
# A classifier gives a sentence one number a class, its **logits** $z = (z_1, \dots, z_N)$, where $N$
# is the number of classes (here 5). The **softmax** turns them into probabilities, which are positive
# and add up to 1:
#
# $$p_k = \frac{\exp(z_k)}{\sum_{j=1}^{N} \exp(z_j)}, \qquad k = 1, \dots, N$$
#
# A **hard label** names one class. A **soft target** is the whole list $p_1, \dots, p_N$ of the
# teacher. Below are four sentences written for this course: the one that the teacher is surest of, and
# the three it is least sure of. A thick outline marks the class of the hard label.

# %%
classes = example_classes()


def certainty(example: dict) -> float:
    """The largest probability that the teacher gives to any class."""
    return torch.tensor(example["teacher"]).softmax(-1).max().item()


by_certainty = sorted(example_sentences(), key=certainty)
shown = [by_certainty[-1], *reversed(by_certainty[:3])]
answers = [100 * soften(torch.tensor(x["teacher"])) for x in shown]

figure, axes = canvas(
    8,
    3.1,
    columns=4,
    sharey=True,
    title="Hard label (outlined) and the teacher's answer (bars)",
    alt="Bar charts of the teacher's class probabilities for four sentences. "
    + " ".join(
        f"“{x['text']}” Hard label {x['topic']}; teacher: "
        + ", ".join(f"{name} {p:.0f} %" for name, p in zip(classes, answer.tolist(), strict=True))
        + "."
        for x, answer in zip(shown, answers, strict=True)
    ),
)
for axis, example, answer in zip(axes, shown, answers, strict=True):
    bars = axis.barh(classes, answer.tolist(), color=SKY)
    axis.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    bars[classes.index(example["topic"])].set(edgecolor=BLACK, linewidth=2)
    axis.set_title(textwrap.fill(example["text"], 23), fontsize=8)
    axis.set(xlim=(0, 120), xticks=[0, 50, 100], xlabel="Probability (%)")
    axis.grid(axis="y", visible=False)
axes[0].invert_yaxis()
display(figure)

for example, answer in zip(shown, answers, strict=True):
    order = answer.argsort(descending=True).tolist()
    likely = " > ".join(f"{classes[k]} {answer[k]:.1f} %" for k in order[:3])
    print(f"label {example['topic']}; teacher {likely}")

# %% [markdown]
# Read the printed lines against the labels.
#
# - The label treats all wrong topics alike. The teacher gives each a number of its own. Taken over many
#   sentences, these say which topics resemble each other; Hinton called this *dark knowledge*.
# - Of a single sentence, do the small numbers make sense to you? In some lines yes. Where the teacher
#   is sure they are weak evidence, and it may rank last a topic you would name second.
# - A sentence between several topics has a soft target spread over them. Its label is as certain as any
#   other.
# - Does the teacher's first choice differ from the label in one of the lines? Then the student is
#   taught what the *teacher* thinks, right or wrong. Distillation passes on mistakes as well.
# - For sentences of which the teacher is very sure, the soft target is nearly the hard label. To make
#   its small probabilities count, the logits are divided by a **temperature** $T$ before the softmax;
#   the student learns from the result. The next cell does it to the first sentence with the $T$ of the
#   long run. Lesson 04 is about what happens there and why.

# %%
hot = report["settings"]["temperature"]
for t in (1.0, hot):
    answer = 100 * soften(torch.tensor(shown[0]["teacher"]), t)
    print(f"T = {t:g}:", ", ".join(f"{n} {p:.1f} %" for n, p in zip(classes, answer, strict=True)))

# %% [markdown]
# ## Predict: four students
#
# Does it help? To find out, the long run trained four kinds of student. They have the same size and,
# seed by seed, the same first weights. They differ in what they learn from:
#
# | name | learns from | which sentences |
# |---|---|---|
# | `hard_labels` | the labels | labelled |
# | `label_smoothing` | the labels, softened by a fixed rule: a little probability for every class alike | labelled |
# | `distilled_same_data` | the teacher's answers | labelled |
# | `distilled` | the teacher's answers | all transfer sentences |
#
# Label smoothing is there as a *control*. Its targets are soft too, but they know nothing: every wrong
# class gets the same. If soft targets helped only because they are soft, it would do as well as
# distillation.
#
# Which is best on the test split, which worst? Put the four names in order, best first, in place of
# the three dots. You will see the answer after the exercises.

# %%
my_order = ...  # such as ["hard_labels", "distilled", ...]
predict("order of the four students", my_order)

# %% [markdown]
# ## Exercises: how much is left, and how much smaller
#
# Two numbers are quoted with every distilled model. They are easy, and that is on purpose: here you
# learn how exercises work.
#
# **Retention** is the share of the teacher's score that the student keeps:
#
# $$\text{retention} = \frac{\text{the student's score}}{\text{the teacher's score}}$$
#
# By hand: a teacher with a score of 0.8 and a student with 0.6 have a retention of
# $0.6 / 0.8 = 0.75$. The scores are accuracies, or macro-F1 values (lesson 02), both on the same
# examples. Retention is a fraction: 0.99 says that 99 % of the score is left. A student can beat its
# teacher; then retention is above 1. A teacher whose score is 0 has nothing to keep, and a negative
# score is a slip: raise `ValueError` for both.
#
# **How an exercise works.** The cell below the heading is yours. Replace the line that raises
# `NotImplementedError` (keep the first line, with the names of the parameters) and run it. The cell
# after it is the *check*; run it as often as you like.
#
# 1. **Run the check before you write anything.** Each line is a *contract*, a law that your function
#    must keep, with its points. ○ in front means that it was not tried.
# 2. **Make a mistake on purpose.** Let the function return `teacher_score / student_score`, upside
#    down. ✗ marks a contract that fails. Of the first that fails you see why, the smallest input that
#    shows it, what was expected and what your function gave, and a hint. Run the check again without
#    a change: a further hint.
# 3. **Mend it.** ✓ on every line gives all points. If some contracts hold and some do not, you get the
#    points of those that hold; only when the *first* one fails are the others not tried, because they
#    build on it. One slip can fail several lines: mend the first, and run the check again.
#
# Nothing can break. If you leave an exercise unsolved, `use(retention)` in the cell after the check
# gives you the library's function in its place, says so in a line, and the notebook runs on. Once
# yours keeps all its contracts, the notebook runs on with yours.


# %% exercise="retention"
def retention(student_score: float, teacher_score: float) -> float:
    """The student's score as a fraction of the teacher's, such as 0.99.

    Raises:
        ValueError: The teacher's score is 0 or less.
    """
    ### BEGIN SOLUTION
    if teacher_score <= 0:
        raise ValueError(f"teacher_score is {teacher_score}: expected a score above 0")
    return student_score / teacher_score
    ### END SOLUTION


# %%
retention = use(retention)
kept = retention(ours.accuracy, teacher_accuracy)
guesser = retention(times / len(labels), teacher_accuracy)
print(f"our small run, accuracy on its validation sentences: retention {kept:.3f}")
print(f"a “model” that always says “{data.label_names[frequent]}”: retention {guesser:.3f}")

# %% [markdown]
# The second line is a warning. Retention does not begin at 0: even a model that has learnt nothing
# keeps a share of the teacher's score, and the fewer the classes, the larger the share. Ask what
# guessing would give before you are impressed by a retention.
#
# **Compression** says how many times fewer parameters the student has. It is a factor, such as 5.2,
# and not the share that was saved.
#
# $$\text{compression} = \frac{\text{the teacher's parameters}}{\text{the student's parameters}}$$
#
# By hand: 1,000 parameters against 250 is a compression of 4. A student that is larger than its
# teacher has a compression below 1. One without parameters, or with fewer than none, is a slip: raise
# `ValueError`.


# %% exercise="compression"
def compression(teacher_parameters: int, student_parameters: int) -> float:
    """How many times fewer parameters the student has than its teacher, such as 5.18.

    Raises:
        ValueError: The student has no parameters, or fewer.
    """
    ### BEGIN SOLUTION
    if student_parameters <= 0:
        raise ValueError(f"student_parameters is {student_parameters}: expected 1 or more")
    return teacher_parameters / student_parameters
    ### END SOLUTION


# %%
compression = use(compression)
fewer = compression(count_parameters(body), count_parameters(student))
print(f"our student has {fewer:.2f} times fewer parameters than its teacher")
print(f"DistilBERT is “40 % smaller” than BERT: compression {compression(100, 60):.2f}")

# %% [markdown]
# The last line shows why one should say which number one means: "40 % smaller" and "compressed 1.67
# times" are the same fact.
#
# And does a model with so many times fewer parameters run so many times faster? Compare with the table
# at the top. One reason why the two factors differ is where the parameters are:

# %%
table(
    ["model", "parameters", "of them word embeddings"],
    [
        [name, f"{count_parameters(model):,}", f"{100 * share:.0f} %"]
        for name, model in (("teacher", body), ("student", student))
        for share in [word_embeddings(model).weight.numel() / count_parameters(model)]
    ],
)
without = [count_parameters(m) - word_embeddings(m).weight.numel() for m in (body, student)]
print(f"compression of all the rest, which does the computing: {compression(*without):.1f}")
print(f"speedup in batches of 32 (long run): {report['speedup']['throughput']:.1f}")
print(f"speedup for a single sentence:       {report['speedup']['latency']:.1f}")

# %% [markdown]
# Word embeddings are a table in which a row is looked up for each word piece. They fill memory, but
# looking up costs hardly any time; the time goes into the layers above them. So the one compression
# says what is saved in memory, the other is nearer to what is saved in time, and how near depends on
# how one measures. Lesson 02 opens both models.
#
# **Progress.** What you have done so far in all lessons, and what comes next. It is kept in a file in
# your user data folder and sent nowhere; you can call `progress()` in any notebook.

# %%
progress()

# %% [markdown]
# To begin an exercise again, run `distill-lab course reset 01_pipeline --exercise retention` in a
# terminal: the stub comes back, and your attempt is kept beside the notebook.
#
# ## Look: the long run
#
# Now the answer to your guess. The long run trained each of the four students several times on the
# whole task, not on 6,000 sentences. Anyone can repeat it; these are the numbers of the test split:

# %%
accuracy = {name: row["accuracy"]["mean"] for name, row in report["students"].items()}
order = sorted(accuracy, key=lambda name: -accuracy[name])
recall("order of the four students", order)
table(
    ["model", "accuracy (%), mean", "retention of accuracy", "each seed (%)"],
    [
        ["Teacher", f"{100 * teacher_row['accuracy']:.1f}", "", "(there is one teacher)"],
        *(
            [
                STUDENTS[name].label,
                f"{100 * accuracy[name]:.1f}",
                f"{retention(accuracy[name], teacher_row['accuracy']):.3f}",
                ", ".join(f"{100 * v:.1f}" for v in report["students"][name]["accuracy"]["values"]),
            ]
            for name in order
        ),
    ],
)
print(f"distill-lab run --seeds {report['settings']['seeds']}")

# %% figure="students"
plot_students(report)

# %% [markdown]
# A small ring is one training. The trainings of one kind differ in nothing but the *seed*, the number
# from which all their random choices follow: first weights, order of the sentences, dropout. The filled
# marker is the mean, the bar its 95 % interval, the dashed line the teacher. The axes do not begin at
# 0: look at the numbers before you judge a distance.
#
# Which comparison says what?
#
# - `distilled_same_data` against `hard_labels` says what the *teacher's answers* are worth: the same
#   sentences, as many steps, the same first weights.
# - `distilled_same_data` against `label_smoothing` says what they are worth beyond being soft.
# - `distilled` against `distilled_same_data` says what *unlabelled sentences* are worth, and more
#   steps with them. Without a teacher the student could not have used these sentences at all. But it
#   is another question.
#
# The report states the first gain, and the first and third together, in percentage points of accuracy:


# %%
def paired(better: str, other: str) -> dict[str, float]:
    """The mean difference of two students over the seeds, in points, with its 95 % interval."""
    a, b = (np.array(report["students"][name]["accuracy"]["values"]) for name in (better, other))
    difference = 100 * (a - b)
    error = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    mean = float(difference.mean())
    return {"mean": mean, "low": mean - error, "high": mean + error}


for what, gain in {
    "label smoothing, less hard labels": paired("label_smoothing", "hard_labels"),
    "same data, less label smoothing": paired("distilled_same_data", "label_smoothing"),
    "same data, less hard labels": report["gain_over_hard_labels"],
    "transfer set, less same data": paired("distilled", "distilled_same_data"),
    "transfer set, less hard labels": report["gain_with_transfer"],
}.items():
    verdict = "excludes" if gain["low"] > 0 or gain["high"] < 0 else "includes"
    print(
        f"{what}: {gain['mean']:+.1f} points, 95 % interval {gain['low']:.1f} to "
        f"{gain['high']:.1f}, which {verdict} 0"
    )

# %% [markdown]
# ### Where an interval comes from
#
# With $m$ seeds we have $m$ values $x_1, \dots, x_m$ with mean $\bar{x}$ and standard deviation $s$.
# The interval of the mean is Student's:
#
# $$\bar{x} \pm t_{m-1} \frac{s}{\sqrt{m}}$$
#
# where $t_{m-1}$ is a number from a table (the 97.5 % point of Student's t distribution with $m - 1$
# degrees of freedom; the fewer seeds, the larger). For a *difference* of two students we take, seed by
# seed, the difference first and then its interval. They are *paired*: both began with the same
# weights, so whatever luck lay in these counts for both.


# %%
# The formula, beside what the report says.
def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of the mean, over seeds."""
    x = np.asarray(values)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return f"{x.mean():.2f} ({x.mean() - half:.2f} to {x.mean() + half:.2f})"


same, hard = (
    100 * np.array(report["students"][name]["accuracy"]["values"])
    for name in ("distilled_same_data", "hard_labels")
)
gain = report["gain_over_hard_labels"]
print(f"t for {len(hard)} seeds: {stats.t.ppf(0.975, len(hard) - 1):.3f}")
print("hard labels, accuracy (%):      ", interval(hard))
print("seed by seed, same data - hard: ", ", ".join(f"{d:+.2f}" for d in same - hard))
print("by the formula:                 ", interval(same - hard))
print(
    f"in the report:                   {gain['mean']:.2f} ({gain['low']:.2f} to {gain['high']:.2f})"
)

# %% [markdown]
# ## The report card, line by line
#
# `distill-lab run` ends with a report card. Leaf through it with the buttons; the table below says what
# each line is. For some of them the last column has the value of *our* small run.

# %%
report_viewer(report)

# %%
agree = (teacher_logits.argmax(-1).numpy() == ours.predictions).mean()
table(
    ["line", "what it is", "beware", "our small run"],
    [
        [
            "accuracy",
            "share of sentences whose most probable class is the right one",
            "where one class is frequent, saying it always scores well",
            f"{100 * ours.accuracy:.1f} %",
        ],
        [
            "macro-F1",
            "F1 of each class (harmonic mean of precision and recall), then their plain mean: "
            "rare classes count as much as frequent ones",
            "lesson 02 builds it",
            f"{ours.macro_f1:.3f}",
        ],
        [
            "ECE",
            "expected calibration error: how far confidence is from accuracy, averaged over 15 bins "
            "of confidence (Guo et al. 2017); 0 is best",
            "says nothing of how often the model is right; lesson 08 builds it",
            f"{100 * ours.ece:.1f} %",
        ],
        [
            "agreement",
            "share of sentences on which student and teacher choose the same class",
            "counts shared mistakes as agreement",
            f"{100 * agree:.1f} %",
        ],
        [
            "parameters, size",
            "numbers that the model holds, and the bytes they take in float32",
            "mostly word embeddings in a small model, see above",
            f"{count_parameters(student):,}; {count_bytes(student) / MEGABYTE:.1f} MB",
        ],
        [
            "latency",
            "time for one sentence alone: p50 is the median, p95 is not exceeded by 95 % of calls",
            "without tokenising; depends on machine and threads, see *Settings and environment*",
            "",
        ],
        ["throughput", "sentences a second, 32 at a time", "likewise", ""],
        [
            "retention, compression, speedup",
            "the student's figure against the teacher's",
            "a quotient hides sizes: look at both numbers",
            f"{kept:.3f}; {fewer:.2f}",
        ],
        [
            "interval over *seeds*",
            "with three seeds or more: where the mean over trainings lies, at 95 % confidence",
            "one test split, one teacher: says nothing of other sentences or other teachers",
            "one seed: none",
        ],
        [
            "interval over *articles*",
            "with fewer seeds: how the score would vary with other test articles (bootstrap)",
            "says nothing of other seeds; the card says which of the two it shows",
            "see below",
        ],
    ],
)

# %% [markdown]
# **ECE by hand.** Suppose a model says "90 % sure" of ten sentences and is right about seven of them.
# Confidence 0.9, accuracy 0.7: in this bin the gap is 0.2. ECE is the mean of such gaps, each bin
# weighted by the sentences in it. Compare the ECE of the four students in the card: whose confidence is
# furthest from its accuracy? (ECE does not say in which direction; the card's reliability figure does.)
#
# **A bootstrap by hand.** Where there is one seed, the card asks another question: what if the test had
# other articles? It answers by drawing, from the articles we have, as many again *with* repetition,
# computing the score, and doing so 2,000 times; the interval holds the middle 95 % of the scores. Why
# draw articles, and not sentences? We try both on the teacher's stored answers for the validation
# split.

# %%
rows = data.validation
answers = stored_knowledge("validation").logits(rows["id"][:])  # [sentences, classes]
truth = torch.tensor(rows["label"][:])  # [sentences]
right = (answers.argmax(-1) == truth).numpy()
draws = np.random.default_rng(0)


def bootstrap(groups: Sequence[str]) -> tuple[float, float]:
    """The middle 95 % of the accuracies (%) when whole groups are drawn with repetition."""
    number = np.unique(groups, return_inverse=True)[1]  # the group of each sentence
    size, hits = np.bincount(number), np.bincount(number, weights=right)
    picked = draws.integers(0, len(size), size=(2_000, len(size)))
    low, high = np.percentile(100 * hits[picked].sum(1) / size[picked].sum(1), [2.5, 97.5])
    return float(low), float(high)


print(f"teacher on {len(right):,} validation sentences: {100 * right.mean():.1f} % right")
for unit, groups in (("sentences", rows["id"][:]), ("articles", rows["group"][:])):
    low, high = bootstrap(groups)
    print(f"drawing {unit:>9}: {low:.1f} to {high:.1f} %, {high - low:.1f} points wide")

# %% [markdown]
# Compare the widths. Drawing sentences pretends that each of them is news. But a teacher that
# misreads an article tends to misread many of its sentences: there are fewer independent observations
# than sentences. An interval that ignores this is too narrow, and differences look surer than they are.

# %% [markdown]
# ## "The student is cheaper"
#
# To run, yes. It is often said that it is cheaper to *train*, too. That forgets that without a teacher
# there is no distilled student, and without its answers neither. Count them all:

# %%
seconds = report["seconds"]
distilled = report["students"]["distilled"]
hard_seconds = report["students"]["hard_labels"]["seconds"]
parts = {
    "fine-tuning the teacher": seconds["teacher"],
    f"asking it about {report['task']['transfer']:,} sentences": seconds["extract"],
    "training one student on its answers (mean over seeds)": distilled["seconds"],
}
total = sum(parts.values())
for what, spent in parts.items():
    print(f"{spent:6.0f} s  {what}")
print(f"{total:6.0f} s  together: a distilled student")
print(f"{hard_seconds:6.0f} s  in all: a student on hard labels, which is as fast to run")

# %% [markdown]
# So what is bought with these seconds depends on what you would do otherwise.
#
# - **Otherwise you would run the teacher.** Then it has to be trained anyway. Extra are the extraction
#   and the student's training; they are earned back sentence by sentence.
# - **Otherwise you would run a student trained on hard labels.** It has the same size and speed, so
#   nothing is earned back. The extra seconds, the teacher's among them, buy accuracy.

# %%
saved = 1 / teacher_row["throughput"] - 1 / distilled["throughput"]  # seconds a sentence
extra = total - parts["fine-tuning the teacher"]
print(
    f"against running the teacher: {extra:.0f} s more to make, {1000 * saved:.2f} ms saved on each "
    f"sentence, even after {extra / saved:,.0f} sentences"
)
print(
    f"against hard labels: {total - hard_seconds:.0f} s more to make, for "
    f"{report['gain_with_transfer']['mean']:+.1f} points of accuracy"
)

# %% [markdown]
# These are the seconds of one machine, and throughput in batches of 32, measured in float32. Asking
# the teacher went faster than that throughput, because it was done in bfloat16 with sentences
# sorted by length, so that little was computed on padding; at such a rate it takes more sentences
# to break even. With single sentences the numbers are others again. Two costs are not in them:
# somebody once trained MiniLM, on far more text than ours, and somebody tried out settings before
# this run was made. An honest account of your own project has a line for each.

# %% [markdown]
# ## What could fool us
#
# ### One seed
#
# Had we trained each student once only, would we have seen the same order? In the next cell you are
# unlucky: of two neighbours in the order, the better one is shown with its worst seed, the other with
# its best.

# %%
values = {name: row["accuracy"]["values"] for name, row in report["students"].items()}
for high, low in itertools.pairwise(order):
    worst, best = 100 * min(values[high]), 100 * max(values[low])
    verdict = "the order would turn" if best >= worst else "the order holds"
    print(f"{high} at its worst {worst:.2f}, {low} at its best {best:.2f}: {verdict}")

# %% [markdown]
# Look at the smallest of these distances. And order is one thing, size another: go back to the gains
# seed by seed, above, and compare the smallest with the largest. With one seed you would have reported
# one of these numbers, without knowing which.
#
# ### More steps, more data
#
# A student that trained longer, or on more sentences, is not better because of its objective. Before
# you compare two students, compare what they were given:

# %%
task_row = report["task"]
table(
    ["student", "sentences it saw", "steps", "seconds", "accuracy (%)"],
    [
        [
            STUDENTS[name].label,
            f"{task_row['transfer' if name == 'distilled' else 'train']:,}",
            f"{row['steps']:,}",
            f"{row['seconds']:.0f}",
            f"{100 * accuracy[name]:.1f}",
        ]
        for name, row in report["students"].items()
    ],
)

# %% [markdown]
# In which rows is all equal but the target? Only between those does the last column tell you about the
# *objective*.
#
# ### Choosing on the test split
#
# Try enough settings, keep the one that does best on the test, and report its test score: it is too
# good, even if none of the settings makes a difference. A small experiment shows it. We make 50
# "models" that are all equally good: the teacher's stored answers with random noise added to the
# logits, new noise for each. On 500 sentences, called "test" here, we choose the best. The other
# sentences show what the choice was worth. (All of them are of the validation split; the real test
# split is left alone.)

# %%
generator = torch.Generator().manual_seed(0)
models, picked_on = 50, 500
test_part = torch.randperm(len(truth), generator=generator) < picked_on  # [sentences]
noise = torch.randn(models, *answers.shape, generator=generator)
hits = ((answers + noise).argmax(-1) == truth).double()  # [models, sentences]
chosen_on, elsewhere = 100 * hits[:, test_part].mean(1), 100 * hits[:, ~test_part].mean(1)
winner = chosen_on.argmax()
for name, part in (
    (f"on the {picked_on} that it was chosen on", chosen_on),
    (f"on {int((~test_part).sum()):,} others", elsewhere),
):
    print(
        f"the winner {name}: {part[winner]:.1f} %, {round((part[winner] - part.mean()).item(), 1) + 0.0:+.1f} points "
        "against the mean of all 50"
    )

# %% [markdown]
# All 50 are the same model with other noise, so the advantage of the first line is luck, and the second
# line shows what is left of it. Here every choice (which epoch to keep, which settings to use) is made
# on validation, and the test is read once, at the end.
#
# ### Leakage
#
# Sentences of one article on both sides of the split: you have seen above what it adds. The same goes
# for repeated sentences. The task says what was done about those:

# %%
for note in data.notes:
    print("-", note)

# %% [markdown]
# And one leak that we cannot close: the teacher's pre-training text came from the web, and these
# articles are old enough to have been in it, without our labels. It would help the teacher, and through
# it the distilled students. By how much is not known.

# %% [markdown]
# ## Glossary and notation
#
# Used in all lessons.
#
# | symbol | name | shape or unit | in the code |
# |---|---|---|---|
# | $B$ | examples in a batch | number | `batch` in a shape |
# | $N$ | classes (never the number of examples) | number | `classes` in a shape |
# | $z$; $z_t$, $z_s$ | logits; the teacher's, the student's | `[batch, classes]` | `logits`; `teacher_logits`, `student_logits` |
# | $p$; $p_t$, $p_s$ | probabilities, the softmax of the logits | `[batch, classes]` | `soften(logits, temperature)` |
# | $y$ | hard labels: class numbers, −100 where there is none | `[batch]` | `labels` |
# | $T$ | temperature: logits are divided by it before the softmax | number > 0 | `temperature` |
# | $\alpha$ | weight of the soft term; $1 - \alpha$ is that of the hard term | number, 0 to 1 | `alpha` |
# | $H(p)$ | entropy (lesson 03) | nats | `entropy` |
# | $H(p_t, p_s)$ | cross-entropy with soft targets (lesson 03) | nats | `soft_cross_entropy` |
# | $\mathrm{KL}(p_t \,\Vert\, p_s)$ | divergence of the student from the teacher (lesson 03) | nats | `kl_divergence` |
#
# The losses are functions in `distill_lab.losses`: student first, teacher second, classes last; a loss
# is one number, in nats, a mean over the batch.
#
# | word | meaning |
# |---|---|
# | teacher | the large model; trained first, then *frozen*: it never changes again |
# | student | the small model |
# | hard label, soft target | one class; a probability for each class |
# | knowledge | whatever of the teacher the student learns from; here its logits |
# | knowledge store | the teacher's answers on disk, by example id, with a hash of each text |
# | labelled, transfer set | sentences with a label; all sentences on which the student meets the teacher's answers |
# | validation, test split | sentences for choices; sentences for the final figures, read once |
# | group | what must stay in one split; here an article |
# | step, epoch | one update of the weights from one batch; one pass over the data |
# | seed | the number from which all random choices of a training follow |
# | retention, compression | the student's score over the teacher's; the teacher's parameters over the student's |
# | contract | a law that your answer to an exercise must keep |
#
# ## On your own
#
# Not graded.
#
# 1. Set `SMALL` to 2,000 and to 12,000 and run the small training again. Guess both accuracies first.
#    Then change `seed=0` to `seed=1` in `build_student` and in `Schedule`, and see how much of the
#    differences was luck.
# 2. Make it a comparison. `from distill_lab import fine_tune`, build a second student with the same
#    seed, and call `fine_tune(second, small, words, schedule=schedule)`: it learns from the hard labels
#    of the labelled sentences. Are sentences and steps equal to those of ours? What would you have to
#    change so that they are?
# 3. In a terminal, `distill-lab run` makes a report of your own in a few minutes. Then guess, and change
#    one thing in a copy, which trains anew only what the change touches:
#    `cp -r runs/bbc-topics runs/hotter`, then
#    `distill-lab run --out runs/hotter --temperature 8`. Or try `--embeddings random`: what was the
#    good start worth?
# 4. `distill-lab predict runs/bbc-topics "Shares in the football club rose."` asks your teacher and your
#    student. Find a sentence on which they disagree.
# 5. Which sentences can nobody classify? Read ten validation sentences that the teacher gets wrong, and
#    say of each whether you would have got it right without the article.
#
# ## Sources
#
# - C. Buciluă, R. Caruana, A. Niculescu-Mizil. Model Compression. KDD 2006, pp. 535-541.
# - G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. 2015,
#   arXiv:1503.02531 (§1 and §2: soft targets and temperature).
# - V. Sanh, L. Debut, J. Chaumond, T. Wolf. DistilBERT, a distilled version of BERT: smaller, faster,
#   cheaper and lighter. 2019, arXiv:1910.01108 (the three numbers: abstract).
# - C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On Calibration of Modern Neural Networks. ICML 2017,
#   arXiv:1706.04599 (§2: expected calibration error).
# - D. Greene, P. Cunningham. Practical Solutions to the Problem of Diagonal Dominance in Kernel
#   Document Clustering. ICML 2006, pp. 377-384 (the texts).
# - C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna. Rethinking the Inception Architecture for
#   Computer Vision. CVPR 2016 (§7: label smoothing).
# - B. Efron, R. J. Tibshirani. An Introduction to the Bootstrap. Chapman & Hall, 1993 (percentile
#   intervals).
#
# ## What to read next
#
# Hinton, Vinyals and Dean (2015), sections 1 and 2: a few pages, and most of lessons 03 and 04. Then
# Buciluă, Caruana and Niculescu-Mizil (2006), to see the idea before it was about neural teachers. Then
# lesson 02, which opens the two models.
