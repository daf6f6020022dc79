"""Compare arms: one training many times, each arm with something changed, over seeds.

A study is a TOML file. Every arm is a training with the ``Settings`` of a run, those of
``[settings]`` and what ``[arms.NAME]`` changes, and two words more: ``targets`` (``teacher`` or
``labels``) and ``data`` (``labelled`` or ``transfer``)::

    question = "Does a hotter teacher help?"
    seeds = 5
    baseline = "two"

    [settings]
    data = "labelled"
    epochs = 2

    [arms.two]
    label = "T = 2"

    [arms.eight]
    label = "T = 8"
    temperature = 8

Arms differ in nothing else: seed k draws the same batches in all, and the same weights where the
students have the same shape. Nothing is chosen on the test split: it is measured once, when an
arm's epoch has been chosen on validation. What is done is kept, and an interrupted study goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel

from distill_lab.devices import pick_device, processes
from distill_lab.errors import UserError
from distill_lab.evaluation import SEEDS_FOR_INTERVAL, Evaluation, evaluate, seeds_interval
from distill_lab.files import read_toml, write_json
from distill_lab.knowledge import KnowledgeStore, extract
from distill_lab.models import PackedModel, count_parameters, load_tokenizer, weights_fingerprint
from distill_lab.pipeline import (
    Say,
    Settings,
    build_student_of,
    check_settings,
    environment,
    key_of,
    made,
    objective_of,
    prepare_teacher,
    schedule_of,
    settled_dtype,
)
from distill_lab.tasks import Task, load_task
from distill_lab.training import Training, distill, fine_tune
from distill_lab.workers import check_at_once, how_many, side_by_side

TARGETS = ("teacher", "labels")
DATA = ("labelled", "transfer")
# What a run has beside one training: how many, and what belongs to its other students.
NOT_AN_ARMS = ("seeds", "labelled_epochs", "label_smoothing", "prune_vocabulary")
METRICS = ("accuracy", "macro_f1")
TEACHER_SETTINGS = ("teacher", "teacher_epochs", "teacher_learning_rate", "teacher_frozen", "seed")


@dataclass(frozen=True)
class Arm:
    """One kind of training.

    Attributes:
        name, label: For programs, and for people.
        targets: What the student learns from: the ``teacher``'s answers, or the ``labels``.
        data: The split it is trained on.
        settings: Of the training; its ``epochs`` are the passes over ``data``.
    """

    name: str
    label: str
    targets: str
    data: str
    settings: Settings


@dataclass(frozen=True)
class Study:
    """Arms to compare.

    Attributes:
        name: The file's, without ending.
        question: What the study asks, in a sentence.
        seeds: Students of each arm, 3 or more, as intervals are over seeds.
        baseline: The arm that gains are counted from.
    """

    name: str
    question: str
    seeds: int
    baseline: str
    arms: tuple[Arm, ...]


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: It cannot be read, or says something that no training can take.
    """
    path = Path(path)
    values = read_toml(path, "study")
    known = ("question", "seeds", "baseline", "settings", "arms")
    if unknown := sorted(set(values) - set(known)):
        raise UserError(f"{path}: unknown key {unknown[0]!r}; there are {', '.join(known)}")
    shared, arms = values.get("settings", {}), values.get("arms", {})
    if not isinstance(arms, dict) or len(arms) < 2:
        raise UserError(f"{path}: a study compares two arms or more; give them as [arms.NAME]")
    for name, table in {
        "[settings]": shared,
        **{f"[arms.{k}]": v for k, v in arms.items()},
    }.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} is {table!r}; expected a table of settings")
    seeds, baseline = values.get("seeds", 5), values.get("baseline", next(iter(arms)))
    if not isinstance(seeds, int) or seeds < SEEDS_FOR_INTERVAL:
        raise UserError(
            f"{path}: seeds is {seeds}; expected {SEEDS_FOR_INTERVAL} or more, as intervals are "
            "over seeds"
        )
    if not isinstance(baseline, str) or baseline not in arms:
        raise UserError(f"{path}: no arm is called {baseline!r}; there are {', '.join(arms)}")
    return Study(
        name=path.stem,
        question=str(values.get("question", "")),
        seeds=seeds,
        baseline=baseline,
        arms=tuple(_arm(path, name, shared | own) for name, own in arms.items()),
    )


def _arm(path: Path, name: str, values: Mapping[str, Any]) -> Arm:
    own = {"label": name, "targets": "teacher", "data": "labelled"}
    own |= {key: str(values[key]) for key in own if key in values}
    given = {key: value for key, value in values.items() if key not in own}
    check_settings(given, f"{path}, arm {name}", also=tuple(own), but=NOT_AN_ARMS)
    for key, choices in (("targets", TARGETS), ("data", DATA)):
        if own[key] not in choices:
            raise UserError(
                f"{path}, arm {name}: {key} is {own[key]!r}; choose {' or '.join(choices)}"
            )
    return Arm(name=name, settings=Settings(**given), **own)


def run_study(
    study: Study, out: str | Path, *, at_once: int | None = None, say: Say = print
) -> dict[str, Any]:
    """Train every arm with every seed, or what of it is not done yet, and compare.

    Args:
        study: See ``read_study``.
        out: The study's folder; what is kept there makes it resumable.
        at_once: As in ``pipeline.run``.
        say: Called with a line at each training.

    Returns:
        What ``study.json`` holds: ``arms``, each with ``accuracy`` and ``macro_f1`` (mean, 95 %
        interval over seeds, values), ``gain`` (points of accuracy over the baseline, paired by
        seed), steps, seconds, the epochs on validation, and its ``teacher`` if it has one;
        ``environment``.

    Raises:
        UserError: Something given is wrong, or the folder holds another study's results.
    """
    bench = _Bench(study, Path(out), say, at_once)
    runs = bench.students()
    result = {
        "study": study.name,
        "question": study.question,
        "seeds": list(range(study.seeds)),
        "baseline": study.baseline,
        "arms": {
            arm.name: _summary(study, arm, runs)
            | ({"teacher": bench.teacher_figures(arm)} if arm.targets == "teacher" else {})
            for arm in study.arms
        },
        "environment": environment(bench.device, bench.dtype)
        | {"students_side_by_side": bench.at_once},
    }
    write_json(Path(out) / "study.json", result)
    return result


class _Teacher(NamedTuple):
    """A fine-tuned teacher, its tokenizer, and what tells its weights from others'."""

    model: PreTrainedModel
    tokenizer: Any
    fingerprint: str


@dataclass(frozen=True)
class _Job:
    """A student to train and measure, with all that it takes, so that another process can do it.

    Attributes:
        path, key: Where its record goes, and what it is made from.
        student: As it is built.
        train: Trains a student in place.
        test: Measures it on the test split.
    """

    path: Path
    key: str
    student: PackedModel
    train: Callable[[PreTrainedModel], Training]
    test: Callable[[PreTrainedModel], Evaluation]

    def __call__(self) -> dict[str, Any]:
        student = self.student.unpacked()
        training = self.train(student)
        record = {
            "key": self.key,
            "parameters": count_parameters(student),
            **_figures(self.test(student)),
            **asdict(training),
        }
        write_json(self.path, record)
        return record


def _figures(measured: Evaluation) -> dict[str, float]:
    return {metric: getattr(measured, metric) for metric in METRICS}


class _Bench:
    """What the trainings of a study share: the task, teachers and what is stored of them."""

    def __init__(self, study: Study, folder: Path, say: Say, at_once: int | None) -> None:
        self.study, self.folder, self.say, self._asked = study, folder, say, at_once
        first = study.arms[0].settings
        alike = ("task", "max_length", "device", "dtype", *first.columns)
        for arm in study.arms:
            if any(getattr(arm.settings, k) != getattr(first, k) for k in alike):
                raise UserError(
                    f"arm {arm.name} has another task, max length, device or dtype than the first; "
                    "give those in [settings], the same for all arms"
                )
        if processes(first.device).num_processes > 1:
            raise UserError("a study runs in one process; start it without torchrun")
        self.device = pick_device(first.device)
        check_at_once(at_once, self.device)
        self.task: Task = load_task(first.task, **first.columns, max_length=first.max_length)
        self.dtype = settled_dtype(folder, first.dtype, self.device)
        # Each made, hashed or opened once, however many students ask.
        self._teachers: dict[str, _Teacher] = {}
        self._stores: dict[str, KnowledgeStore] = {}
        self._distillations: dict[str, Callable[..., Training]] = {}

    def students(self) -> dict[str, list[dict[str, Any]]]:
        """Train and measure each arm's students; give the records."""
        arms, seeds = self.study.arms, range(self.study.seeds)
        records: dict[tuple[str, int], dict[str, Any]] = {}
        to_train: list[tuple[Arm, int, str]] = []
        # Seed by seed, so that a stopped study is balanced.
        for number, (seed, arm) in enumerate(itertools.product(seeds, arms), start=1):
            what = f"{number} of {len(seeds) * len(arms)} · {arm.label}, seed {seed}"
            if (kept := made(self._record(arm, seed), self._key(arm, seed))) is not None:
                self.say(f"{what}: already trained")
                records[arm.name, seed] = kept
            else:
                to_train.append((arm, seed, what))
        for arm in dict.fromkeys(arm for arm, _, _ in to_train):
            self._training(arm)  # now, as later a process would have to wait for it
        trained = side_by_side(lambda each: self._job(*each), to_train, self.at_once)
        for (arm, seed, _), record in zip(to_train, trained, strict=True):
            records[arm.name, seed] = record
        return {arm.name: [records[arm.name, seed] for seed in seeds] for arm in arms}

    @cached_property
    def at_once(self) -> int:
        """How many of the study's students are trained side by side."""
        if self._asked is not None:
            return self._asked
        arms = self.study.arms
        steps = [
            schedule_of(arm.settings, "distilled", 0).steps(len(self.task.split(arm.data)))
            for arm in arms
        ]
        sizes = {(arm.settings.teacher, arm.settings.student): arm.settings for arm in arms}
        largest = max(count_parameters(self._sample(settings)) for settings in sizes.values())
        return how_many(steps * self.study.seeds, largest, self.device)

    def _record(self, arm: Arm, seed: int) -> Path:
        return self.folder / "results" / f"{arm.name}-seed{seed}.json"

    def _key(self, arm: Arm, seed: int) -> str:
        return key_of(
            self.task.fingerprint,
            self.teacher(arm.settings).fingerprint,
            [arm.targets, arm.data, seed, self.dtype],
            {k: v for k, v in arm.settings.given.items() if k not in ("device", "dtype", "seeds")},
        )

    def _job(self, arm: Arm, seed: int, what: str) -> _Job:
        self.say(what)
        teacher, key = self.teacher(arm.settings), self._key(arm, seed)
        settled = replace(arm.settings, device=str(self.device), dtype=self.dtype)
        student = build_student_of(settled, teacher.model, None, seed)
        common: dict[str, Any] = {
            "task": self.task,
            "processor": teacher.tokenizer,
            "split": arm.data,
            "schedule": schedule_of(settled, "distilled", seed),  # epochs over whatever data
            "checkpoints": self.folder / "checkpoints" / f"{arm.name}-seed{seed}-{key[:12]}",
            "what": arm.label,
        }
        return _Job(
            path=self._record(arm, seed),
            key=key,
            student=PackedModel.of(student),
            train=partial(self._training(arm), **common),
            test=self._test(teacher.tokenizer, f"testing {arm.label}"),
        )

    def _sample(self, settings: Settings) -> PreTrainedModel:
        """Build a student of these settings' shape, whatever its weights."""
        quick = replace(settings, embeddings="random")
        return build_student_of(quick, self.teacher(settings).model, None, 0)

    def _training(self, arm: Arm) -> Callable[..., Training]:
        """Give the training of the arm's students, with the knowledge that it takes."""
        if arm.targets == "labels":
            return fine_tune
        if arm.name not in self._distillations:
            teacher = self.teacher(arm.settings).model
            objective = objective_of(arm.settings, self._sample(arm.settings), teacher)
            store = self.knowledge(arm.settings, arm.data, objective.features())
            self._distillations[arm.name] = partial(distill, knowledge=store, objective=objective)
        return self._distillations[arm.name]

    def teacher(self, settings: Settings) -> _Teacher:
        """Give the teacher of these settings, fine-tuned once a study."""
        name = self._teacher_name(settings)
        if name not in self._teachers:
            own = replace(settings, dtype=self.dtype, seeds=1)
            model = prepare_teacher(own, self.folder / "teachers" / name, say=self.say)
            self._teachers[name] = _Teacher(
                model, load_tokenizer(settings.teacher), weights_fingerprint(model)
            )
        return self._teachers[name]

    def teacher_figures(self, arm: Arm) -> dict[str, Any]:
        """Give the arm's teacher: its name, size and what it is worth on the test split."""
        teacher = self.teacher(arm.settings)
        path = self.folder / "results" / f"teacher-{self._teacher_name(arm.settings)}.json"
        key = key_of(self.task.fingerprint, teacher.fingerprint)
        kept = made(path, key)
        if kept is None:
            measured = self._test(teacher.tokenizer, "testing teacher")(teacher.model)
            kept = {"key": key, **_figures(measured)}
            write_json(path, kept)
        figures = {metric: kept[metric] for metric in METRICS}
        size = {"name": arm.settings.teacher, "parameters": count_parameters(teacher.model)}
        return size | figures

    def knowledge(
        self, settings: Settings, split: str, features: tuple[str, ...]
    ) -> KnowledgeStore:
        """Give what the teacher knows of a split, extracted once for each set of features."""
        name = f"{split}-{key_of(self._teacher_name(settings), sorted(features))[:12]}"
        if name not in self._stores:
            teacher = self.teacher(settings)
            self._stores[name] = extract(
                teacher.model,
                self.task,
                teacher.tokenizer,
                self.folder / "knowledge" / name,
                split=split,
                features=features,
                device=str(self.device),
                dtype=self.dtype,
            )
        return self._stores[name]

    def _test(self, tokenizer: Any, what: str) -> Callable[[PreTrainedModel], Evaluation]:
        return partial(
            evaluate, task=self.task, processor=tokenizer, device=str(self.device), what=what
        )

    def _teacher_name(self, settings: Settings) -> str:
        return key_of({name: getattr(settings, name) for name in TEACHER_SETTINGS})[:12]


def _summary(study: Study, arm: Arm, runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours, base = runs[arm.name], runs[study.baseline]
    values = {metric: [run[metric] for run in ours] for metric in METRICS}
    summary = {
        "label": arm.label,
        "settings": {"targets": arm.targets, "data": arm.data, **arm.settings.given},
        "parameters": ours[0]["parameters"],
        "steps": ours[0]["steps"],
        "seconds": float(np.mean([run["seconds"] for run in ours])),
        **{m: seeds_interval(v).as_dict() | {"values": v} for m, v in values.items()},
        "validation": [run["epochs"] for run in ours],
        "curve": ours[0]["curve"],
    }
    if arm.name != study.baseline:
        gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(ours, base, strict=True)]
        summary["gain"] = seeds_interval(gains).as_dict()
    return summary


def study_table(result: Mapping[str, Any]) -> Table:
    """Lay out a study's result for the terminal, a line an arm."""
    table = Table("Arm", title=Text(str(result["question"])), title_justify="left")
    gain = f"points over {result['arms'][result['baseline']]['label']}"
    for name in ("accuracy [95 %]", gain, "macro-F1", "on validation", "steps", "seconds"):
        table.add_column(Text(name), justify="right")
    for arm in result["arms"].values():
        best = [max(e["macro_f1"] for e in epochs) for epochs in arm["validation"]]
        table.add_row(
            Text(arm["label"]),
            Text(_interval(arm["accuracy"], ".4f")),
            Text(_interval(arm["gain"], "+.2f") if "gain" in arm else ""),
            f"{arm['macro_f1']['mean']:.4f}",
            f"{np.mean(best):.4f}",
            f"{arm['steps']:,}",
            f"{arm['seconds']:.0f}",
        )
    return table


def _interval(value: Mapping[str, float], form: str) -> str:
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"
