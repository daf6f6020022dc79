"""Measure a classifier: quality, cost, and how sure one may be of a difference.

All intervals are 95 %. Over three or more seeds they are Student's t intervals of the mean;
with fewer they are percentile bootstraps over test *groups* (articles), because examples of one
group are not independent. Each says which it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import reduce
from scipy import optimize, special, stats
from sklearn.metrics import accuracy_score, f1_score
from tqdm.auto import tqdm

from distill_lab.devices import (
    agreed,
    autocast,
    on_device,
    own_device,
    pick_dtype,
    processes,
    synchronize,
)
from distill_lab.errors import UserError
from distill_lab.knowledge import model_inputs, observe, take_rows
from distill_lab.models import count_bytes, count_parameters, label_names
from distill_lab.workers import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from distill_lab.tasks import Task

BINS = 15
SEEDS_FOR_INTERVAL = 3
RESAMPLES = 2000
CPU = torch.device("cpu")
TEMPERATURES = (0.01, 100.0)  # among which one is fitted


# --- quality -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """A classifier's predictions on a split, and what they are worth.

    Attributes:
        ids: Example ids, in the split's order.
        groups: The group (article) of each example.
        labels: True classes, int64 [examples].
        probabilities: float64 [examples, classes].
    """

    ids: list[str]
    groups: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Most probable class of each example, [examples]."""
        predictions: NDArray[np.int64] = self.probabilities.argmax(1)
        return predictions

    @property
    def accuracy(self) -> float:
        """Share of examples classified rightly."""
        return accuracy_and_macro_f1(self.probabilities, self.labels)["accuracy"]

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1."""
        return accuracy_and_macro_f1(self.probabilities, self.labels)["macro_f1"]

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 equal-width bins."""
        return expected_calibration_error(self.probabilities, self.labels)


def evaluate(
    model: PreTrainedModel,
    task: Task,
    processor: Any,
    *,
    split: str = "test",
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 64,
    what: str = "evaluating",
) -> Evaluation:
    """Predict every example of a split.

    Args:
        model: A classifier of the task's classes; it is put in evaluation mode.
        task: Gives the examples.
        processor: The model's tokenizer.
        split: Which split; its rows are labelled.
        device: ``auto | cpu | cuda | mps``.
        dtype: Of autocast; float32 computes exactly as written.
        batch_size: Examples in a batch.
        what: Said by the progress bar.

    Raises:
        UserError: The split has rows without a label, or none at all.
    """
    data = task.encode(split, processor)
    labels = np.asarray(data["label"][:], dtype=np.int64)
    if not len(labels) or (labels < 0).any():
        raise UserError(
            f"{(labels < 0).sum():,} of the {len(labels):,} examples of {split} have no label; "
            "evaluate on a labelled split, such as test"
        )
    place = own_device(device)
    model.to(place)  # type: ignore[arg-type]  # transformers' decorator hides torch's types
    logits = predict_logits(
        model,
        data,
        task.collator(processor),
        dtype=pick_dtype(place, dtype),
        batch_size=batch_size,
        what=what,
    )
    return Evaluation(
        ids=data["id"][:],
        groups=data["group"][:],
        labels=labels,
        probabilities=logits.double().softmax(-1).numpy(),
    )


@torch.no_grad()
def predict_logits(
    model: PreTrainedModel,
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    what: str = "evaluating",
) -> torch.Tensor:
    """Give the logits of encoded rows, float32 [examples, classes], in the rows' order.

    Rows go through sorted by length where they have one, so that little is computed on padding.
    Under ``torchrun`` each process computes a share of the batches, and all get all logits; so all
    must call it.
    """
    model.eval()
    state = processes(model.device.type)
    lengths = np.asarray(data["length"][:] if "length" in data.column_names else [0] * len(data))
    order = np.argsort(-lengths, kind="stable")
    data = data.select(order)
    out = torch.zeros(len(order), len(label_names(model)))
    rounds = range(0, len(order), state.num_processes * batch_size)
    bar = progress_bar(
        total=len(order),
        desc=what,
        unit="example",
        leave=False,
        disable=not state.is_main_process,
    )
    with closing(bar):
        for first in rounds:
            start = first + state.process_index * batch_size
            stop = min(start + batch_size, len(order))
            if start < stop:
                batch = on_device(collate(take_rows(data, start, stop)), model.device)
                with autocast(model.device, dtype):
                    out[order[start:stop]] = observe(model, batch)["logits"].float().cpu()
            bar.update(min(rounds.step, len(order) - first))
    # Every row was computed by one process and is 0 in all others.
    logits: torch.Tensor = reduce(out.to(model.device), "sum").cpu()
    return logits


def accuracy_and_macro_f1(scores: Any, labels: Any) -> dict[str, float]:
    """Accuracy, and the mean of the classes' F1, of the class with the highest score.

    A class that is neither there nor predicted has F1 0.

    Args:
        scores: Logits or probabilities, [examples, classes].
        labels: True classes, [examples].
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    predicted = scores.argmax(1)
    classes = np.arange(scores.shape[1])
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(
            f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)
        ),
    }


def reliability(probabilities: Any, labels: Any, bins: int = BINS) -> dict[str, list[float]]:
    """Group predictions by confidence into equal-width bins (a, b] over (0, 1].

    Args:
        probabilities: [examples, classes].
        labels: True classes, [examples].

    Returns:
        Lists of length ``bins``: ``lower`` and ``upper`` edge, ``count``, and mean ``confidence``
        and ``accuracy`` (0 where a bin is empty). Guo et al. 2017, arXiv:1706.04599, §2.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    some = np.maximum(count, 1)
    return {
        "lower": edges[:-1].tolist(),
        "upper": edges[1:].tolist(),
        "count": count.tolist(),
        "confidence": (np.bincount(which, confidence, minlength=bins) / some).tolist(),
        "accuracy": (np.bincount(which, right, minlength=bins) / some).tolist(),
    }


def expected_calibration_error(probabilities: Any, labels: Any, bins: int = BINS) -> float:
    """Mean |accuracy − confidence| over bins, weighted by their counts (Guo et al. 2017, eq. 3)."""
    r = reliability(probabilities, labels, bins)
    count, confidence, right = (np.asarray(r[k]) for k in ("count", "confidence", "accuracy"))
    return float((count * np.abs(right - confidence)).sum() / count.sum())


def fit_temperature(logits: Any, labels: Any) -> float:
    """Find the temperature by which a finished classifier's logits are best divided.

    It is the T that gives the least mean cross-entropy of softmax(logits / T) with the labels: one
    number for all examples and classes, so no prediction changes (temperature scaling, Guo et al.
    2017, §4.2). Fit it on validation, and use it on other examples.

    Args:
        logits: [examples, classes].
        labels: True classes, [examples].

    Returns:
        T between 0.01 and 100. The data may know no best T: where every example is classified
        rightly, the smaller the better; then it is one near a bound.

    Raises:
        ValueError: There is no example, or not one label for each.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels)
    if not len(y) or len(z) != len(y):
        raise ValueError(f"{len(z)} rows of logits and {len(y)} labels: one each is needed")

    def cross_entropy(log_temperature: float) -> float:
        log_p = special.log_softmax(z / np.exp(log_temperature), axis=1)
        return -float(log_p[np.arange(len(y)), y].mean())

    low, high = np.log(TEMPERATURES)
    # The cross-entropy is convex in 1/T, so in log T it has one valley.
    found = optimize.minimize_scalar(
        cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-7}
    )
    return float(np.exp(found.x))


def agreement(one: Evaluation, other: Evaluation) -> float:
    """Share of examples to which two classifiers give the same class, right or wrong.

    Raises:
        ValueError: They classified other examples, or in another order.
    """
    _check_same_examples(one, other)
    return float((one.predictions == other.predictions).mean())


def _check_same_examples(one: Evaluation, other: Evaluation) -> None:
    if one.ids != other.ids:
        raise ValueError("the two evaluations are not of the same examples in the same order")


def class_similarity(evaluation: Evaluation, temperature: float = 1.0) -> NDArray[np.float64]:
    """Mean probability of each class (column) on the examples of each true class (row).

    Off the diagonal stands what hard labels do not say: which classes the teacher finds alike.

    Args:
        temperature: At which the probabilities are softened first.

    Returns:
        [classes, classes]; a row sums to 1, or is 0 where a class has no example.
    """
    logits = np.log(np.maximum(evaluation.probabilities, 1e-300)) / temperature
    softened = np.exp(logits - logits.max(1, keepdims=True))
    softened /= softened.sum(1, keepdims=True)
    classes = softened.shape[1]
    sums = np.zeros((classes, classes))
    np.add.at(sums, evaluation.labels, softened)
    counts = np.bincount(evaluation.labels, minlength=classes)
    return sums / np.maximum(counts, 1)[:, None]


# --- intervals ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; ``kind`` is ``seeds`` or ``articles`` (groups)."""

    mean: float
    low: float
    high: float
    kind: str

    def as_dict(self) -> dict[str, float]:
        """Give ``{mean, low, high}``."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def seeds_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean over seeds; needs two values or more."""
    mean = float(np.mean(values))
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return Interval(mean, float(mean - half), float(mean + half), "seeds")


def group_confusions(evaluation: Evaluation) -> NDArray[np.int64]:
    """Confusion matrix of each group: [groups, true classes, predicted classes]."""
    _, group = np.unique(evaluation.groups, return_inverse=True)
    classes = evaluation.probabilities.shape[1]
    counts = np.zeros((group.max() + 1, classes, classes), dtype=np.int64)
    np.add.at(counts, (group, evaluation.labels, evaluation.predictions), 1)
    return counts


def confusion_metrics(confusions: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Accuracy and macro-F1 of confusion matrices [..., true, predicted] → [...]."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    return _metrics(right, confusions.sum(-1), confusions.sum(-2))


def _metrics(
    right: NDArray[Any], true: NDArray[Any], predicted: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Give the metrics by how many of a class are predicted rightly, are there, are predicted."""
    f1 = 2 * right / np.maximum(true + predicted, 1)
    return {"accuracy": right.sum(-1) / true.sum(-1), "macro_f1": f1.mean(-1)}


def bootstrap_weights(groups: int, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """How often each group is drawn in each resample of all groups: [resamples, groups]."""
    random = np.random.default_rng(seed)
    return random.multinomial(groups, np.full(groups, 1 / groups), size=resamples)


def metric_intervals(runs: Sequence[Evaluation]) -> dict[str, Interval]:
    """Intervals of the mean accuracy and macro-F1 of one kind of model over its seeds."""
    points = {name: [getattr(run, name) for run in runs] for name in ("accuracy", "macro_f1")}
    if len(runs) >= SEEDS_FOR_INTERVAL:
        return {name: seeds_interval(values) for name, values in points.items()}
    resampled = [_resampled(run) for run in runs]
    return {
        name: _percentiles(float(np.mean(values)), np.mean([r[name] for r in resampled], axis=0))
        for name, values in points.items()
    }


def gain(ours: Sequence[Evaluation], baseline: Sequence[Evaluation]) -> Interval:
    """Difference of accuracy in percentage points, paired by seed, or by article.

    Raises:
        ValueError: The two have not the same number of runs, or not of the same examples.
    """
    pairs = list(zip(ours, baseline, strict=True))
    for pair in pairs:
        _check_same_examples(*pair)
    differences = [100 * (a.accuracy - b.accuracy) for a, b in pairs]
    if len(pairs) >= SEEDS_FOR_INTERVAL:
        return seeds_interval(differences)
    # The same resample of articles for both, so that what makes an article easy cancels.
    resampled = [_resampled(a)["accuracy"] - _resampled(b)["accuracy"] for a, b in pairs]
    return _percentiles(float(np.mean(differences)), 100 * np.mean(resampled, axis=0))


def _resampled(run: Evaluation) -> dict[str, NDArray[np.float64]]:
    # Three counts a class are all that the metrics need of a confusion matrix, which grows with the
    # square of the classes; as floats, exact up to 2**53, so that BLAS adds them up.
    _, group = np.unique(run.groups, return_inverse=True)
    hit = run.predictions == run.labels
    right, true, predicted = np.zeros((3, group.max() + 1, run.probabilities.shape[1]))
    np.add.at(right, (group[hit], run.labels[hit]), 1)
    np.add.at(true, (group, run.labels), 1)
    np.add.at(predicted, (group, run.predictions), 1)
    weights = bootstrap_weights(len(true)).astype(np.float64)
    return _metrics(weights @ right, weights @ true, weights @ predicted)


def _percentiles(mean: float, values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(mean, float(low), float(high), "articles")


# --- cost --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a model costs: parameters, bytes of its weights, speed in eager float32.

    Attributes:
        throughput: Examples a second at batch 32.
        latency_ms: ``p50`` and ``p95`` of one example, in milliseconds.
    """

    parameters: int
    bytes: int
    throughput: float
    latency_ms: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as the report holds them."""
        return dict(vars(self))


@dataclass(frozen=True)
class Speed:
    """How fast a model is; the fields are those of ``Cost``."""

    throughput: float
    latency_ms: dict[str, float]


def measure_cost(
    model: PreTrainedModel,
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    batch_size: int = 32,
    examples: int = 320,
    repeats: int = 5,
) -> Cost:
    """Measure what a model costs; its speed on encoded rows, as ``measure_speeds`` does.

    Under ``torchrun`` the first process measures, and the others wait for its figures; so all must
    call it.
    """
    model = model.float().eval()
    speeds: list[Speed] = []
    if processes(model.device.type).is_main_process:
        speeds = measure_speeds(
            [lambda inputs: model(**inputs)],
            data,
            collate,
            device=model.device,
            batch_size=batch_size,
            examples=examples,
            repeats=repeats,
        )
    [speed] = agreed(speeds)
    return Cost(
        parameters=count_parameters(model),
        bytes=count_bytes(model),
        throughput=speed.throughput,
        latency_ms=speed.latency_ms,
    )


@torch.no_grad()
def measure_speeds(
    models: Sequence[Callable[[dict[str, Any]], Any]],
    data: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    device: torch.device = CPU,
    batch_size: int = 32,
    examples: int = 320,
    repeats: int = 5,
    what: str | None = None,
) -> list[Speed]:
    """Measure the speed of models on encoded rows, tokenising and padding not counted.

    Batches hold the rows as they come, padded to the longest of the batch, the same for every
    model. All models run once over them to warm up, then ``repeats`` times, and the median
    counts. They take turns, so that other work on the machine falls on all of them.

    Args:
        models: Each called with a batch's model inputs.
        data: Encoded rows; the first ``examples`` are used, and of those 100 for the latency.
        collate: Makes a batch of rows.
        device: Where the models compute.
        batch_size: Examples in a batch.
        examples: Rows to go through.
        repeats: Timed passes.
        what: Said by a progress bar; no bar if None.
    """
    rows = take_rows(data, 0, examples)
    batches = [
        model_inputs(on_device(collate(rows[k : k + batch_size]), device))
        for k in range(0, len(rows), batch_size)
    ]
    singles = [model_inputs(on_device(collate([row]), device)) for row in rows[:100]]
    seconds: list[list[float]] = [[] for _ in models]
    with tqdm(
        total=(repeats + 1) * len(models), desc=what, unit="pass", leave=False, disable=what is None
    ) as bar:
        for _ in range(repeats + 1):
            for taken, model in zip(seconds, models, strict=True):
                taken.append(sum(_seconds(model, batch, device) for batch in batches))
                bar.update()
    return [
        Speed(
            throughput=len(rows) / float(np.median(taken[1:])),
            latency_ms=_latency_ms(model, singles, device),
        )
        for taken, model in zip(seconds, models, strict=True)
    ]


def _latency_ms(
    model: Callable[[dict[str, Any]], Any], singles: list[dict[str, Any]], device: torch.device
) -> dict[str, float]:
    for single in singles[:10]:
        _seconds(model, single, device)
    latency = [1000 * _seconds(model, single, device) for single in singles]
    return {f"p{q}": float(np.percentile(latency, q)) for q in (50, 95)}


def _seconds(
    model: Callable[[dict[str, Any]], Any], inputs: dict[str, Any], device: torch.device
) -> float:
    synchronize(device)
    start = time.perf_counter()
    model(inputs)
    synchronize(device)
    return time.perf_counter() - start


# --- the comparison ----------------------------------------------------------------------------


def compare(
    teacher: Evaluation,
    students: Mapping[str, Sequence[Evaluation]],
    teacher_cost: Cost,
    student_cost: Mapping[str, Cost],
) -> dict[str, Any]:
    """Put teacher and students side by side, as ``report.json`` holds it.

    Args:
        teacher: On the test split.
        students: ``hard_labels``, ``label_smoothing``, ``distilled_same_data`` and ``distilled``,
            each its runs, one a seed, on the same split.
        teacher_cost: Of the teacher.
        student_cost: Of each kind of student.

    Returns:
        ``teacher``, ``students``, ``retention``, ``compression``, ``speedup``,
        ``gain_over_hard_labels``, ``gain_with_transfer``.
    """
    best, cost = students["distilled"], student_cost["distilled"]
    mean = {
        name: float(np.mean([getattr(run, name) for run in best]))
        for name in ("accuracy", "macro_f1")
    }
    latency = teacher_cost.latency_ms["p50"] / cost.latency_ms["p50"]
    hard = students["hard_labels"]
    return {
        "teacher": _quality(teacher) | teacher_cost.as_dict(),
        "students": {
            name: _student(runs, teacher) | student_cost[name].as_dict()
            for name, runs in students.items()
        },
        "retention": {name: mean[name] / getattr(teacher, name) for name in mean},
        "compression": {
            "parameters": teacher_cost.parameters / cost.parameters,
            "bytes": teacher_cost.bytes / cost.bytes,
        },
        "speedup": {"throughput": cost.throughput / teacher_cost.throughput, "latency": latency},
        "gain_over_hard_labels": gain(students["distilled_same_data"], hard).as_dict(),
        "gain_with_transfer": gain(best, hard).as_dict(),
    }


def _quality(evaluation: Evaluation) -> dict[str, float]:
    return {name: getattr(evaluation, name) for name in ("accuracy", "macro_f1", "ece")}


def _student(runs: Sequence[Evaluation], teacher: Evaluation) -> dict[str, Any]:
    intervals = metric_intervals(runs)
    return {
        "seeds": list(range(len(runs))),
        "interval": intervals["accuracy"].kind,
        **{
            name: interval.as_dict() | {"values": [getattr(run, name) for run in runs]}
            for name, interval in intervals.items()
        },
        "ece": float(np.mean([run.ece for run in runs])),
        "agreement": float(np.mean([agreement(run, teacher) for run in runs])),
    }
