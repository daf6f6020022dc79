"""The four steps in order: train a teacher, extract its knowledge, train students, evaluate.

Each step leaves its result in the run's folder with a key, a hash of all that the result depends
on. The next run with the same key uses it; an interrupted step goes on from its checkpoints or
shards.

::

    runs/NAME/config.toml            the settings; repeat with: distill-lab run --config
              teacher/               fine-tuned, in Hub layout
              knowledge/             the store
              students/VARIANT-seedK/
              report.json, report.html, figures/
              steps/                 what the results were made from
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import PreTrainedModel, set_seed

from distill_lab.devices import (
    agreed,
    device_name,
    dtype_name,
    moved,
    own_device,
    pick_device,
    pick_dtype,
    processes,
)
from distill_lab.errors import UserError
from distill_lab.evaluation import (
    Cost,
    Evaluation,
    class_similarity,
    compare,
    evaluate,
    measure_cost,
    reliability,
)
from distill_lab.files import json_hash, read_json, read_toml, write_json, write_text, written_whole
from distill_lab.knowledge import KnowledgeStore, extract
from distill_lab.models import (
    STUDENTS,
    PackedModel,
    build_student,
    count_parameters,
    freeze_layers,
    load_teacher,
    load_tokenizer,
    processor_fingerprint,
    save_model,
    weights_fingerprint,
)
from distill_lab.report import SCHEMA, load_report, write_report
from distill_lab.tasks import Task, load_task
from distill_lab.training import (
    Objective,
    Schedule,
    Training,
    distill,
    fine_tune,
    parse_objective,
)
from distill_lab.vocabulary import (
    PrunedVocabulary,
    describe_pruning,
    prune_embeddings,
    prune_to_texts,
)
from distill_lab.workers import check_at_once, how_many, side_by_side

Say = Callable[[str], None]
STEP = "step.json"  # beside a model: what it was made from
LARGEST_SEED = 2**32  # NumPy takes no larger one
VARIANTS = ("hard_labels", "label_smoothing", "distilled_same_data", "distilled")


@dataclass(frozen=True)
class Settings:
    """All that a run depends on. Each field is an option of ``distill-lab run``.

    Attributes:
        task: See ``load_task``; the five columns likewise.
        teacher: ``minilm``, a folder, or a Hub id.
        teacher_epochs: Passes over the labelled examples; 0 uses the teacher as it is.
        teacher_frozen: Share of the teacher's lower blocks that keep their weights, the
            embeddings with them; 0 trains everything.
        teacher_learning_rate: Peak rate of the teacher.
        student: ``tiny``, ``small``, a folder, or a Hub id.
        init, embeddings: See ``build_student``.
        prune_vocabulary: Leave the students only the word pieces of the transfer set's texts, see
            ``vocabulary``.
        objective: See ``parse_objective``.
        temperature, alpha: T of the soft targets, and their weight.
        label_smoothing: ε of the label-smoothing student, the control that knows no classes.
        epochs: Passes of the distilled student over the transfer set.
        labelled_epochs: Passes of the three students that see the labelled examples only.
        learning_rate, batch_size: Peak rate of the students, and examples a step.
        seeds: How many students of each kind.
        seed: The first seed; the teacher's too.
        max_length: Longest input, in tokens.
        device, dtype: Where and in what to compute.
    """

    task: str = "bbc-topics"
    text_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    teacher: str = "minilm"
    teacher_epochs: float = 1.0
    teacher_learning_rate: float = 2e-4
    teacher_frozen: float = 0.5
    student: str = "tiny"
    init: str = "random"
    embeddings: str = "svd"
    prune_vocabulary: bool = False
    objective: str = "soft"
    temperature: float = 2.0
    alpha: float = 1.0
    label_smoothing: float = 0.1
    epochs: float = 4.0
    labelled_epochs: float = 4.0
    learning_rate: float = 2e-3
    batch_size: int = 32
    seeds: int = 1
    seed: int = 0
    max_length: int = 48
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "float":  # 3 and 3.0 are the same setting, and give the same keys
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}; expected 1 or more")
        if not 0 <= self.seed <= LARGEST_SEED - self.seeds:
            raise UserError(f"seed is {self.seed}; expected 0 to {LARGEST_SEED - self.seeds:,}")
        if not 0 <= self.teacher_frozen <= 1:
            raise UserError(f"teacher frozen is {self.teacher_frozen}; expected a share, 0 to 1")
        # What else is wrong is refused here, before any work, by what will take it.
        if self.teacher_epochs != 0:
            _teacher_schedule(self)
        for variant in ("distilled", "hard_labels"):
            schedule_of(self, variant, self.seed)
        parse_objective(self.objective, alpha=self.alpha, temperature=self.temperature)
        Objective(label_smoothing=self.label_smoothing)

    @property
    def given(self) -> dict[str, Any]:
        """All settings that are set; a switch that is off is not."""
        return {k: v for k, v in asdict(self).items() if v is not None and v is not False}

    @property
    def columns(self) -> dict[str, Any]:
        """The five column options, as ``load_task`` takes them."""
        return {k: v for k, v in asdict(self).items() if k.endswith("_column")}


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a ``config.toml`` into ``Settings`` arguments.

    Raises:
        UserError: There is no such file, it is no TOML, or it has an unknown key or wrong type.
    """
    values = read_toml(Path(path), "config")
    check_settings(values, str(path))
    return values


def check_settings(
    values: Mapping[str, Any], where: str, *, also: Sequence[str] = (), but: Sequence[str] = ()
) -> None:
    """Refuse keys that are no settings, and values of a wrong type.

    Args:
        values: As TOML gives them.
        where: What the refusal begins with.
        also: Keys that may stand beside the settings, named with them.
        but: Settings that are not to be given.

    Raises:
        UserError: One is.
    """
    kinds = {field.name: str(field.type).partition(" ")[0] for field in fields(Settings)}
    types: dict[str, tuple[type, ...]] = {
        **{"bool": (bool,), "int": (int,)},
        **{"float": (int, float), "str": (str,)},
    }
    known = [name for name in kinds if name not in but]
    for key, value in values.items():
        if key not in known:
            there = ", ".join((*also, *known))
            raise UserError(f"{where}: unknown setting {key!r}; there are {there}")
        kind = kinds[key]
        if not isinstance(value, types[kind]) or isinstance(value, bool) != (kind == "bool"):
            raise UserError(f"{where}: {key} is {value!r}; expected {kind}")


def settings_toml(settings: Settings) -> str:
    """Write settings as TOML; what is not set is left out."""
    lines = ["# Repeat this run with: distill-lab run --config config.toml"]
    lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in settings.given.items()]
    return "\n".join(lines) + "\n"


def run(
    settings: Settings,
    out: str | Path | None = None,
    *,
    at_once: int | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Run the four steps, or what of them is not done yet, and write the report.

    Args:
        settings: See ``Settings``.
        out: The run's folder; ``runs/NAME`` of the task if None.
        at_once: Students to train side by side on CPUs, each in a process; None: as many as threads
            and memory allow.
        say: Called with a line at each step.

    Returns:
        The report, as it stands in ``report.json``.

    Raises:
        UserError: Something given is wrong; or the folder belongs to another task.
    """
    start = time.perf_counter()
    steps = _begin(settings, out, say, at_once)
    task, folder = steps.task, steps.folder
    prepare = time.perf_counter() - start

    teacher, teacher_seconds = steps.teacher()
    store, extract_seconds = steps.knowledge(teacher)
    students = steps.students(teacher, store)
    if (done := steps.finished_report()) is not None:
        say(f"4 · Evaluate: the report is already in {folder}; nothing has changed")
        return done
    say(f"4 · Evaluate: teacher and all students on {len(task.test):,} test examples")
    before = time.perf_counter()
    evaluations, costs = steps.evaluate(teacher, students)
    report = steps.report(evaluations, costs, students)
    seconds = {
        "prepare": prepare,
        "teacher": teacher_seconds,
        "extract": extract_seconds,
        "students": _waited({t for runs in students.values() for t in runs}),
        "evaluate": time.perf_counter() - before,
    }
    report["settings"] = settings.given
    report["seconds"] = seconds | {"total": sum(seconds.values())}
    report["environment"] |= {
        "students_side_by_side": steps.at_once,
        "peak_memory_bytes": _peak_memory(),
    }
    if _is_main():
        for left in folder.glob("checkpoints-*"):  # of a run that was given up
            shutil.rmtree(left, ignore_errors=True)
        write_report(report, folder)
        write_json(folder / "steps" / "report.json", {"key": steps.report_key()})
    return report


def prepare_teacher(settings: Settings, folder: str | Path, *, say: Say = print) -> PreTrainedModel:
    """Do the first step alone: give the teacher that a run in this folder would have.

    Args:
        settings: See ``Settings``; those of the students do not matter.
        folder: A run's folder. A teacher that was made there from the same things is loaded.
        say: Called with a line.

    Raises:
        UserError: Something given is wrong; or the folder belongs to another task.
    """
    steps = _begin(settings, folder, say)
    teacher, _ = steps.teacher()
    teacher.eval()
    return moved(teacher, pick_device(settings.device))


def _begin(
    settings: Settings, out: str | Path | None, say: Say, at_once: int | None = None
) -> _Steps:
    """Claim the run's folder, see that all that was given fits, and write the settings down."""
    device = pick_device(settings.device)
    processes(settings.device)
    check_at_once(at_once, device)
    task = load_task(settings.task, **settings.columns, max_length=settings.max_length)
    folder = Path(out) if out is not None else Path("runs") / task.name
    _claim(folder, settings)
    models = _load_models(settings, task)
    PartialState().wait_for_everyone()  # all have looked at the folder
    # All that was given fits; nothing was written before.
    settled = replace(
        settings, device=str(device), dtype=settled_dtype(folder, settings.dtype, device)
    )
    if _is_main():
        write_text(folder / "config.toml", settings_toml(settings))
    return _Steps(settled, task, models, folder, say, at_once)


class _Models(NamedTuple):
    """What a run starts from."""

    teacher: PreTrainedModel  # not yet fine-tuned
    student: PreTrainedModel  # as it is built from that teacher; those to train are built later
    tokenizer: Any
    pruned: PrunedVocabulary | None  # the students' vocabulary, where it is not the teacher's

    @property
    def student_tokenizer(self) -> Any:
        """The students' own tokenizer."""
        return self.tokenizer if self.pruned is None else self.pruned.tokenizer


def _load_models(s: Settings, task: Task) -> _Models:
    """Load the teacher and build a student, to see that all fits before anything is written.

    Raises:
        UserError: Something does not.
    """
    tokenizer = load_tokenizer(s.teacher)
    check_same_tokenizer(s.student, tokenizer)
    set_seed(s.seed)  # draws the head
    teacher = load_teacher(s.teacher, label_names=task.label_names)
    if not s.teacher_epochs:
        check_trained(s.teacher, teacher)
    task.check(teacher, tokenizer)
    pruned = None
    if s.prune_vocabulary:
        pruned = prune_to_texts(tokenizer, task.transfer["text"][:], task.max_length)
    student = build_student_of(s, teacher, pruned, s.seed)
    models = _Models(teacher, student, tokenizer, pruned)
    task.check(student, models.student_tokenizer)
    objective_of(s, student, teacher)
    return models


def build_student_of(
    s: Settings, teacher: PreTrainedModel, pruned: PrunedVocabulary | None, seed: int
) -> PreTrainedModel:
    """Build a student; one of a pruned vocabulary has a part of the other's embeddings."""
    student = build_student(teacher, s.student, init=s.init, embeddings=s.embeddings, seed=seed)
    if pruned is not None:
        prune_embeddings(student, pruned.kept)
    return student


def check_same_tokenizer(student: str, tokenizer: Any) -> None:
    """Refuse a student that stands somewhere with another tokenizer than its teacher's.

    Raises:
        UserError: It does.
    """
    if student in STUDENTS:
        return
    if processor_fingerprint(load_tokenizer(student)) != processor_fingerprint(tokenizer):
        raise UserError(
            f"the student {student!r} has another tokenizer than the teacher; distillation by "
            "token ids needs the same one"
        )


def check_trained(source: str, model: PreTrainedModel) -> None:
    """Refuse a classifier whose head was drawn when it was loaded, and never trained.

    Raises:
        UserError: It is one.
    """
    if not any("ForSequenceClassification" in a for a in model.config.architectures or ()):
        raise UserError(
            f"the model {source!r} has no classification head, so it knows nothing of the classes; "
            "fine-tune it first (distill-lab run does)"
        )


class _Student(NamedTuple):
    """A trained student's folder and what is known of its training.

    Attributes:
        seconds: Of its training.
        span: From when to when it was waited for, in seconds since the epoch; students that are
            trained side by side share some. None where it was not noted.
    """

    folder: Path
    steps: int
    seconds: float
    span: tuple[float, float] | None

    @classmethod
    def of(cls, folder: Path, record: Mapping[str, Any]) -> _Student:
        span = record.get("span")
        return cls(folder, record["steps"], record["seconds"], span and (span[0], span[1]))


@dataclass(frozen=True)
class _Job:
    """A student to train, with all that it takes, so that another process can do it.

    Attributes:
        folder, key: Where it goes, and what it is made from.
        asked: When, in seconds since the epoch.
        student: As it is built.
        train: Trains a student in place.
    """

    folder: Path
    key: str
    asked: float
    student: PackedModel
    tokenizer: Any
    train: Callable[[PreTrainedModel], Training]

    def __call__(self) -> _Student:
        student = self.student.unpacked()
        training = self.train(student)
        now = time.time()
        # It may have been begun before: then all of its seconds are laid before now.
        span = [min(self.asked, now - training.seconds), now]
        record = asdict(training) | {"span": span}
        _save(student, self.tokenizer, self.folder, self.key, record)
        return _Student.of(self.folder, record)


def _title(variant: str, seed: int) -> str:
    return f"Student: {variant.replace('_', ' ')}, seed {seed}"


def _split(variant: str) -> str:
    """Name the split that such a student is trained on."""
    return "transfer" if variant == "distilled" else "labelled"


class _Steps:
    """The four steps of one run, and the keys by which their results are known again."""

    def __init__(
        self,
        settings: Settings,
        task: Task,
        models: _Models,
        folder: Path,
        say: Say,
        at_once: int | None,
    ) -> None:
        self.settings = settings
        self.task = task
        self.models = models
        self.tokenizer, self.student_tokenizer = models.tokenizer, models.student_tokenizer
        self.folder = folder
        self.say = say
        # A fully labelled task has nothing to transfer to: both students are then the same.
        self.same_data = len(task.transfer) == len(task.labelled)
        s = settings
        self.at_once = at_once or how_many(
            [self._steps_of(variant) for variant in self._variants()] * s.seeds,
            count_parameters(models.student),
            torch.device(s.device),
        )
        self.teacher_key = key_of(
            [task.fingerprint, s.max_length, processor_fingerprint(self.tokenizer)],
            weights_fingerprint(models.teacher),
            asdict(_teacher_schedule(s)) if s.teacher_epochs else None,
            s.teacher_frozen,
        )
        self.student_made_from = [
            models.student.config.to_json_string(),
            weights_fingerprint(models.student),
            [s.init, s.embeddings],
        ]

    def student_key(self, variant: str, seed: int) -> str:
        s = self.settings
        trained = asdict(schedule_of(s, variant, seed, self.same_data))
        smoothing = s.label_smoothing if variant == "label_smoothing" else 0.0
        soft = [s.objective, s.temperature, s.alpha] if variant.startswith("distilled") else []
        return key_of(self.teacher_key, self.student_made_from, [variant, trained, smoothing, soft])

    def report_key(self) -> str:
        students = [self.student_key(v, k) for v in VARIANTS for k in self._seeds()]
        return key_of(students, asdict(self.settings), SCHEMA)

    def _seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    # The steps.

    def teacher(self) -> tuple[PreTrainedModel, float]:
        """Fine-tune the teacher, or load it; give it with the seconds its training took."""
        s, task, folder = self.settings, self.task, self.folder / "teacher"
        key = self.teacher_key
        if (record := agreed(made(folder / STEP, key))) is not None:
            done = "fine-tuned" if s.teacher_epochs else "in place"
            self.say(f"1 · Teacher: {s.teacher} is already {done}; using {folder}")
            return self._load(folder), float(record["seconds"])
        start = time.perf_counter()
        model, spent = self.models.teacher, 0.0
        if s.teacher_epochs:
            self.say(
                f"1 · Teacher: fine-tune {s.teacher} ({count_parameters(model):,} parameters) on "
                f"{len(task.labelled):,} labelled examples"
            )
            frozen = round(s.teacher_frozen * model.config.num_hidden_layers)
            if frozen:
                freeze_layers(model, ["embeddings", *(f"layer.{k}" for k in range(frozen))])
            spent = fine_tune(
                model,
                task,
                self.tokenizer,
                schedule=_teacher_schedule(s),
                checkpoints=self._checkpoints(f"teacher-{key[:12]}"),
                what="teacher",
            ).seconds
        else:
            self.say(f"1 · Teacher: {s.teacher}, used as it is")
        seconds = max(spent, time.perf_counter() - start)
        _save(model, self.tokenizer, folder, key, {"seconds": seconds})
        return model, seconds

    def knowledge(self, teacher: PreTrainedModel) -> tuple[KnowledgeStore, float]:
        """Ask the teacher once about every transfer example; give the store and the seconds."""
        s, folder = self.settings, self.folder / "knowledge"
        features = objective_of(s, self.models.student, teacher).features()
        key = key_of(self.teacher_key, sorted(features))
        path = self.folder / "steps" / "knowledge.json"
        record = agreed(read_json(path))
        if record.get("key") != key:
            if record:
                self.say("2 · Knowledge: the teacher or the objective changed; extracting anew")
            if _is_main():
                shutil.rmtree(folder, ignore_errors=True)
                write_json(path, {"key": key})
            record = {}
        PartialState().wait_for_everyone()
        if "seconds" in record:
            self.say(f"2 · Knowledge: already extracted; using {folder}")
        else:
            self.say(
                f"2 · Knowledge: ask the teacher about {len(self.task.transfer):,} examples "
                f"({', '.join(features)}; {s.dtype})"
            )
        start = time.perf_counter()
        store = extract(
            teacher,
            self.task,
            self.tokenizer,
            folder,
            features=features,
            device=s.device,
            dtype=s.dtype,
        )
        if "seconds" not in record:
            record = {"key": key, "seconds": time.perf_counter() - start}
            if _is_main():
                write_json(path, record)
        return store, float(record["seconds"])

    def students(
        self, teacher: PreTrainedModel, store: KnowledgeStore
    ) -> dict[str, list[_Student]]:
        """Train each kind of student once a seed; those of a seed start from the same weights."""
        found: dict[tuple[str, int], _Student] = {}
        to_train = []
        for seed, variant in itertools.product(self._seeds(), self._variants()):
            folder = self._student_folder(variant, seed)
            if (record := agreed(made(folder / STEP, self.student_key(variant, seed)))) is None:
                to_train.append((variant, seed))
            else:
                self.say(f"3 · {_title(variant, seed)}, is already trained; using {folder}")
                found[variant, seed] = _Student.of(folder, record)
        if to_train and self.at_once > 1:
            # The longest first, so that no process idles at the end.
            to_train.sort(key=lambda which: -self._steps_of(which[0]))
            self.say(f"3 · Students: {len(to_train)} to train, {self.at_once} at a time")
        build = lru_cache(maxsize=1)(  # those of a seed come one after another
            partial(build_student_of, self.settings, teacher, self.models.pruned)
        )
        job = partial(self._job, build, teacher, store)
        found |= zip(to_train, side_by_side(job, to_train, self.at_once), strict=True)
        trained = {v: [found[v, seed] for seed in self._seeds()] for v in self._variants()}
        if self.same_data:
            self.say("3 · Students: every training example is labelled, so distilled is the same")
            trained["distilled"] = trained["distilled_same_data"]
        return trained

    def _variants(self) -> list[str]:
        """Name the kinds of students that are trained."""
        return [v for v in VARIANTS if not (self.same_data and v == "distilled")]

    def _steps_of(self, variant: str) -> int:
        """Optimizer steps of such a student."""
        schedule = schedule_of(self.settings, variant, self.settings.seed, self.same_data)
        return schedule.steps(len(self.task.split(_split(variant))))

    def _job(
        self,
        build: Callable[[int], PreTrainedModel],
        teacher: PreTrainedModel,
        store: KnowledgeStore,
        which: tuple[str, int],
    ) -> _Job:
        variant, seed = which
        s, key, asked = self.settings, self.student_key(variant, seed), time.time()
        student = build(seed)
        schedule = schedule_of(s, variant, seed, self.same_data)
        self.say(
            f"3 · {_title(variant, seed)} ({count_parameters(student):,} parameters, "
            f"{schedule.epochs:g} × {len(self.task.split(_split(variant))):,} examples)"
        )
        common: dict[str, Any] = {
            "task": self.task,
            "processor": self.student_tokenizer,
            "split": _split(variant),
            "schedule": schedule,
            "checkpoints": self._checkpoints(f"{variant}-{key[:12]}"),
            "what": f"{variant.replace('_', ' ')}, seed {seed}",
        }
        train: Callable[[PreTrainedModel], Training]
        if variant.startswith("distilled"):
            objective = objective_of(s, student, teacher)
            train = partial(distill, knowledge=store, objective=objective, **common)
        else:
            smoothing = s.label_smoothing if variant == "label_smoothing" else 0.0
            train = partial(fine_tune, label_smoothing=smoothing, **common)
        folder, packed = self._student_folder(variant, seed), PackedModel.of(student)
        return _Job(folder, key, asked, packed, self.student_tokenizer, train)

    def _student_folder(self, variant: str, seed: int) -> Path:
        return self.folder / "students" / f"{variant}-seed{seed}"

    def evaluate(
        self, teacher: PreTrainedModel, students: Mapping[str, list[_Student]]
    ) -> tuple[dict[str, list[Evaluation]], dict[str, Cost]]:
        """Predict the test split with every model, in float32, and measure what each costs."""
        task = self.task
        device = own_device(self.settings.device)
        evaluations: dict[str, list[Evaluation]] = {}
        costs: dict[str, Cost] = {}
        for name in ("teacher", *students):
            if name == "distilled" and self.same_data:
                continue
            tokenizer = self.tokenizer if name == "teacher" else self.student_tokenizer
            evaluations[name] = []
            for student in students.get(name, [None]):
                model = teacher if student is None else self._load(student.folder)
                what = f"testing {name.replace('_', ' ')}"
                evaluations[name].append(
                    evaluate(model, task, tokenizer, device=self.settings.device, what=what)
                )
            rows, collate = task.encode("test", tokenizer), task.collator(tokenizer)
            costs[name] = measure_cost(moved(model, device), rows, collate)
        if self.same_data:
            evaluations["distilled"] = evaluations["distilled_same_data"]
            costs["distilled"] = costs["distilled_same_data"]
        return evaluations, costs

    def _load(self, folder: Path) -> PreTrainedModel:
        return load_teacher(str(folder), label_names=self.task.label_names)

    def report(
        self,
        evaluations: Mapping[str, list[Evaluation]],
        costs: Mapping[str, Cost],
        students: Mapping[str, list[_Student]],
    ) -> dict[str, Any]:
        """Put the report together, all but its settings and seconds."""
        s, task = self.settings, self.task
        teacher = evaluations["teacher"][0]
        runs = {name: evaluations[name] for name in VARIANTS}
        figures = compare(teacher, runs, costs["teacher"], costs)
        for name, trained in students.items():
            figures["students"][name] |= {
                "seeds": list(self._seeds()),
                "steps": trained[0].steps,
                "seconds": sum(t.seconds for t in trained) / len(trained),
            }
        figures["teacher"]["name"] = s.teacher
        pruned, device = self.models.pruned, pick_device(s.device)
        if pruned is not None:
            texts = task.test["text"][:]
            figures["vocabulary"] = describe_pruning(self.tokenizer, pruned, texts, task.max_length)
        return {
            "schema": SCHEMA,
            "task": {
                "name": task.name,
                "classes": list(task.label_names),
                "train": len(task.labelled),
                "transfer": len(task.transfer),
                "validation": len(task.validation),
                "test": len(task.test),
                "test_groups": len(set(teacher.groups)),
                "notes": list(task.notes),
            },
            **figures,
            "reliability": {
                "teacher": reliability(teacher.probabilities, teacher.labels),
                "distilled": _pooled_reliability(runs["distilled"]),
            },
            "class_similarity": {
                "labels": list(task.label_names),
                "matrix": class_similarity(teacher, s.temperature).tolist(),
            },
            "environment": environment(device, s.dtype) | {"seed": s.seed},
        }

    def finished_report(self) -> dict[str, Any] | None:
        """Give the report if it was made from the same things."""
        if made(self.folder / "steps" / "report.json", self.report_key()) is None:
            return None
        try:
            return load_report(self.folder)
        except UserError:  # someone deleted or edited it: make it again
            return None

    def _checkpoints(self, name: str) -> Path:
        return self.folder / f"checkpoints-{name}"


def _save(
    model: PreTrainedModel, tokenizer: Any, folder: Path, key: str, record: Mapping[str, Any]
) -> None:
    """Save a model, its tokenizer and the record of its making, whole or not at all."""
    if _is_main():
        with written_whole(folder) as temporary:
            save_model(model, temporary)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / STEP, {"key": key, **record})
    PartialState().wait_for_everyone()


def objective_of(s: Settings, student: PreTrainedModel, teacher: PreTrainedModel) -> Objective:
    """Give the objective of a distilled student, its layers mapped."""
    objective = parse_objective(s.objective, alpha=s.alpha, temperature=s.temperature)
    return objective.mapped(student, teacher)


def _teacher_schedule(s: Settings) -> Schedule:
    return Schedule(
        epochs=s.teacher_epochs,
        learning_rate=s.teacher_learning_rate,
        batch_size=s.batch_size,
        seed=s.seed,
        device=s.device,
        dtype=s.dtype,
        checkpoint_every=50,
    )


def schedule_of(s: Settings, variant: str, seed: int, same_data: bool = False) -> Schedule:
    """Give a student's schedule; on the same data all have the same number of steps."""
    long = variant == "distilled" or same_data
    return Schedule(
        epochs=s.epochs if long else s.labelled_epochs,
        learning_rate=s.learning_rate,
        batch_size=s.batch_size,
        seed=seed,
        device=s.device,
        dtype=s.dtype,
    )


def _pooled_reliability(runs: list[Evaluation]) -> dict[str, list[float]]:
    """Reliability over the predictions of all seeds together."""
    return reliability(
        np.concatenate([r.probabilities for r in runs]), np.concatenate([r.labels for r in runs])
    )


def _claim(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds something else than a run of this task.

    Raises:
        UserError: It does.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; expected a folder, new or of the same task")
    config = folder / "config.toml"
    if config.is_file():
        of = read_settings(config).get("task", "bbc-topics")
        if of != settings.task:
            raise UserError(
                f"the folder {folder} belongs to the task {of!r}, not {settings.task!r}; "
                "choose another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"the folder {folder} holds something else; choose another --out")


def settled_dtype(folder: Path, asked: str, device: torch.device) -> str:
    """Settle the dtype once a folder: measured again, it might come out otherwise half-way."""
    path = folder / "steps" / "dtype.json"
    question = {"device": str(device), "asked": asked}
    known = agreed(read_json(path))
    if {k: known.get(k) for k in question} == question:
        return str(known["dtype"])
    dtype = dtype_name(pick_dtype(device, asked))
    if _is_main():
        write_json(path, question | {"dtype": dtype})
    PartialState().wait_for_everyone()
    return dtype


def environment(device: torch.device, dtype: str) -> dict[str, Any]:
    """Say with what, where and in what dtype was computed; for reports."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device_name(device),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "processes": PartialState().num_processes,
    }


def made(path: Path, key: str) -> dict[str, Any] | None:
    """Give the record of something finished if it was made from the same things."""
    record = read_json(path)
    return record if record.get("key") == key else None


def key_of(*parts: Any) -> str:
    """Hash what a result is made from, given as JSON values."""
    return json_hash(parts)


def _is_main() -> bool:
    return bool(PartialState().is_main_process)


def _waited(students: Collection[_Student]) -> float:
    """Seconds in which one of them, or more, was waited for; where that is unknown, their sum.

    After an interruption it is more, if another had ended by then: see ``_Job``.
    """
    seconds = sum(t.seconds for t in students if t.span is None)
    until = -math.inf
    for begin, end in sorted(t.span for t in students if t.span is not None):
        seconds += max(0.0, end - max(begin, until))
        until = max(until, end)
    return seconds


def _peak_memory() -> int | None:
    """Peak resident bytes of this process, without workers; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
