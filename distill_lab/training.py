"""Train a teacher or a student: one objective, one trainer.

``fine_tune`` trains on hard labels, ``distill`` on a teacher's knowledge; both run
``transformers.Trainer`` with a seeded length-bucketing sampler, choose the best epoch on the
validation split, and go on exactly where they were interrupted.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distill_lab import losses
from distill_lab.compact import compacted
from distill_lab.devices import agreed, dtype_name, pick_device, pick_dtype, processes
from distill_lab.errors import UserError
from distill_lab.files import json_hash, read_json, told_as_user_error, write_json
from distill_lab.knowledge import (
    PREFIX,
    Knowledge,
    KnowledgeStore,
    LiveTeacher,
    check_apart,
    observe,
    token_mask,
)
from distill_lab.models import (
    even_layer_map,
    label_names,
    layer_names,
    weights_fingerprint,
    width,
)
from distill_lab.quiet import quiet_transformers
from distill_lab.vocabulary import parent_fingerprint
from distill_lab.workers import ProgressBar, progress_bar

if TYPE_CHECKING:
    from datasets import Dataset

    from distill_lab.tasks import Task

TERMS = ("soft", "hard", "hidden_states", "attention", "relations")
MADE_FROM = "made_from.json"
CHECKPOINT_FORMAT = 3  # since it is noted what student and knowledge they are of
SMALLER = "use a smaller learning rate or weights, or --dtype float32"


# --- what is minimised -------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """What a student minimises: α · soft + (1 − α) · hard + weighted intermediate terms.

    Attributes:
        alpha: Weight of the soft targets, T² · KL(teacher ‖ student); 1 = soft only, 0 = hard
            labels only (then no teacher is asked for logits).
        temperature: T of the soft targets.
        label_smoothing: ε of the hard term (Szegedy et al. 2016, §7).
        hidden_states: Weight of the mean squared error between the mapped layers' outputs, the
            student's through a learned linear projection (TinyBERT: Jiao et al. 2020, §3.1).
        attention: Weight of KL(teacher ‖ student) between the mapped blocks' attention maps
            (MiniLM: Wang et al. 2020, §3.1).
        relations: Weight of the Q-Q, K-K and V-V relations of the last mapped block, averaged
            over the three (MiniLMv2: Wang et al. 2021, §3.1).
        layer_map: student layer → teacher layer; evenly spread when empty.
    """

    alpha: float = 1.0
    temperature: float = 2.0
    label_smoothing: float = 0.0
    hidden_states: float = 0.0
    attention: float = 0.0
    relations: float = 0.0
    layer_map: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"alpha is {self.alpha}; expected 0 (hard labels) to 1 (soft targets)")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature is {self.temperature}; expected a number above 0")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(f"label smoothing is {self.label_smoothing}; expected 0 up to 1")
        for name in ("hidden_states", "attention", "relations"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"the weight of {name} is {weight}; expected 0 or more")

    @property
    def needs_teacher(self) -> bool:
        """Whether any term asks for a teacher's knowledge."""
        return bool(self.alpha or self.hidden_states or self.attention or self.relations)

    @property
    def needs_layers(self) -> bool:
        """Whether any term looks inside the models, which takes a layer map."""
        return bool(self.hidden_states or self.attention or self.relations)

    def mapped(self, student: PreTrainedModel, teacher: PreTrainedModel) -> Objective:
        """Fill in the layer map (evenly spread) where an intermediate term needs one."""
        if self.layer_map or not self.needs_layers:
            return self
        return replace(self, layer_map=even_layer_map(student, teacher))

    def check(self, student: PreTrainedModel) -> None:
        """Refuse a layer map that is missing or does not fit.

        Raises:
            UserError: Likewise.
        """
        self._check_mapped()
        if not self.needs_layers:
            return
        unknown = sorted(set(self.layer_map) - set(layer_names(student)))
        if unknown:
            raise UserError(
                f"the layer map names {', '.join(unknown)}, which the student has not; "
                f"its layers are {', '.join(layer_names(student))}"
            )
        if (self.attention or self.relations) and not self.block_pairs():
            raise UserError(
                "the layer map has embeddings only, which have no attention; map encoder layers too"
            )

    def _check_mapped(self) -> None:
        if self.needs_layers and not self.layer_map:
            raise UserError(
                "hidden states, attention and relations need a layer map; "
                "give layer_map, or use objective.mapped(student, teacher)"
            )

    def features(self, side: str = "teacher") -> tuple[str, ...]:
        """Names of the features this objective reads on the ``teacher`` or ``student`` side.

        Raises:
            UserError: The layer map is missing.
        """
        self._check_mapped()
        at = ("student", "teacher").index(side)
        wanted = ["logits"]
        if self.hidden_states:
            wanted += [f"hidden_states.{pair[at]}" for pair in self.pairs()]
        if self.attention:
            wanted += [f"attentions.{pair[at]}" for pair in self.block_pairs()]
        if self.relations:
            last = self.block_pairs()[-1][at]
            wanted += [f"{kind}.{last}" for kind in ("query", "key", "value")]
        return tuple(dict.fromkeys(wanted))

    def pairs(self) -> list[tuple[str, str]]:
        """Mapped layers, from the lowest to the highest of the student."""
        return sorted(self.layer_map.items(), key=lambda pair: _layer_order(pair[0]))

    def block_pairs(self) -> list[tuple[str, str]]:
        """Mapped layers that are encoder blocks, which alone have attention, on both sides."""
        return [pair for pair in self.pairs() if "embeddings" not in pair]


def _layer_order(name: str) -> int:
    return -1 if name == "embeddings" else int(name.rpartition(".")[2])


def parse_objective(text: str, *, alpha: float = 1.0, temperature: float = 2.0) -> Objective:
    """Read ``"soft"`` or ``"soft+hidden_states=0.5+relations=1"``; a weight left out is 1.

    Raises:
        UserError: A term is unknown, given twice, or its weight is no number.
    """
    weights: dict[str, Any] = {}
    for part in text.split("+"):
        name, given, value = part.partition("=")
        name = name.strip().replace("-", "_")
        name = {"hidden": "hidden_states", "attentions": "attention"}.get(name, name)
        if name not in ("soft", "hidden_states", "attention", "relations") or name in weights:
            raise UserError(
                f"objective {text!r}: {part.strip()!r} is unknown or repeated; expected soft, with "
                "any of hidden_states, attention, relations added, as in "
                "soft+hidden_states=0.5+relations=1"
            )
        try:
            weights[name] = float(value) if given else 1.0
        except ValueError:
            raise UserError(f"objective {text!r}: the weight {value!r} is no number") from None
    if weights.pop("soft", None) not in (1.0, None):
        raise UserError("the soft targets' weight is --alpha; give soft without a number")
    if "soft" not in text:
        alpha = 0.0
    return replace(Objective(alpha=alpha, temperature=temperature), **weights)


class DistillationModel(nn.Module):
    """A student and all that is learned beside it, in one module.

    So DistributedDataParallel, checkpoints and resume see the projections; only ``student`` is
    the result.

    Args:
        student: The model to train.
        objective: With its layer map filled in.
        teacher_width: Of the teacher's hidden states, where they are distilled.
    """

    def __init__(
        self, student: PreTrainedModel, objective: Objective, teacher_width: int | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.projections = nn.ModuleDict()
        if objective.hidden_states:
            if teacher_width is None:
                raise ValueError("hidden states are distilled: teacher_width must be given")
            for layer, _ in objective.pairs():
                self.projections[layer.replace(".", "_")] = nn.Linear(width(student), teacher_width)

    def train(self, mode: bool = True) -> DistillationModel:
        """Set the mode of all modules, unless they have it: the Trainer asks before each step."""
        return self if self.training == self.student.training == mode else super().train(mode)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Give all weights, tied ones a copy each: safetensors refuses to store shared memory."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        seen: set[int] = set()
        for name, value in state.items():
            if value.data_ptr() in seen:
                state[name] = value.clone()
            seen.add(value.data_ptr())
        return state

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Give ``loss`` (scalar), ``logits`` [batch, classes], and each term under its name."""
        if not self.training:
            return {"logits": observe(self.student, batch)["logits"]}
        found = observe(self.student, batch, self.objective.features("student"))
        terms = self._terms(found, batch)
        weights = self._weights()
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, "logits": found["logits"], **terms}

    def _weights(self) -> dict[str, float]:
        o = self.objective
        return {
            "soft": o.alpha,
            "hard": 1.0 - o.alpha,
            "hidden_states": o.hidden_states,
            "attention": o.attention,
            "relations": o.relations,
        }

    def _terms(self, found: Mapping[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        o = self.objective
        logits = found["logits"]
        terms: dict[str, Tensor] = {}
        if o.alpha > 0:
            terms["soft"] = losses.distillation_loss(
                logits, batch[PREFIX + "logits"], temperature=o.temperature, alpha=1.0
            )
        if o.alpha < 1:
            terms["hard"] = losses.cross_entropy(
                logits, batch["labels"], label_smoothing=o.label_smoothing
            )
        if o.hidden_states:
            terms["hidden_states"] = self._mean(found, batch, "hidden_states")
        if o.attention:
            terms["attention"] = self._mean(found, batch, "attentions")
        if o.relations:
            terms["relations"] = self._relations(found, batch)
        return terms

    def _mean(self, found: Mapping[str, Tensor], batch: Mapping[str, Any], kind: str) -> Tensor:
        """Mean of a loss over the mapped layers."""
        o, values = self.objective, []
        for ours, theirs in o.block_pairs() if kind == "attentions" else o.pairs():
            student, teacher = found[f"{kind}.{ours}"], batch[f"{PREFIX}{kind}.{theirs}"]
            if kind == "attentions":
                mask = token_mask(batch, student[:, 0])
                values.append(losses.attention_loss(student, teacher, mask=mask))
            else:
                projection = self.projections[ours.replace(".", "_")]
                mask = token_mask(batch, student)
                values.append(
                    losses.hidden_state_loss(student, teacher, mask=mask, projection=projection)
                )
        return torch.stack(values).mean()

    def _relations(self, found: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        ours, theirs = self.objective.block_pairs()[-1]
        values = []
        for kind in ("query", "key", "value"):
            student, teacher = found[f"{kind}.{ours}"], batch[f"{PREFIX}{kind}.{theirs}"]
            values.append(
                losses.relation_loss(
                    student,
                    teacher,
                    mask=token_mask(batch, student),
                    heads=relation_heads(student.shape[-1], teacher.shape[-1]),
                )
            )
        return torch.stack(values).mean()


def relation_heads(student_width: int, teacher_width: int, at_most: int = 12) -> int:
    """Give the largest number of relation heads, up to ``at_most``, that divides both widths."""
    common = math.gcd(student_width, teacher_width)
    return max(heads for heads in range(1, at_most + 1) if common % heads == 0)


# --- how it is minimised -----------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and where to train.

    Attributes:
        epochs: Passes over the data.
        learning_rate: Peak of AdamW's rate; it rises for ``warmup`` of all steps, then falls to 0
            in a line.
        batch_size: Examples a step and process.
        seed: Draws batches and dropout.
        device: ``auto | cpu | cuda | mps``.
        dtype: Of autocast: ``auto`` (bfloat16 where that is faster), ``float32``, ``bfloat16``.
        checkpoint_every: Steps between checkpoints; there is one after each epoch too.
        max_steps: Stop after so many steps whatever ``epochs`` says; -1: do not.
    """

    epochs: float = 2
    learning_rate: float = 2e-3
    batch_size: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    checkpoint_every: int = 500
    max_steps: int = -1

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name.replace('_', ' ')} is {value}; expected a number above 0")
        if not 0.0 <= self.warmup < 1.0:
            raise UserError(f"warmup is {self.warmup}; expected a share of all steps, 0 up to 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"weight decay is {self.weight_decay}; expected 0 or more")
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(
                f"max steps is {self.max_steps}; expected 1 or more, or -1 for no limit"
            )

    def steps(self, examples: int) -> int:
        """Optimizer steps over so many examples, in one process."""
        if self.max_steps != -1:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(examples / self.batch_size))


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        steps: Optimizer steps.
        seconds: Wall-clock seconds, over all of its runs if it was interrupted.
        epochs: A record an epoch: ``epoch``, ``macro_f1`` and ``accuracy`` on validation.
        best_epoch: The epoch whose weights were kept.
        curve: ``(step, loss)`` as logged, the mean since the last.
    """

    steps: int
    seconds: float
    epochs: list[dict[str, float]]
    best_epoch: float
    curve: list[tuple[int, float]]


class LengthBucketSampler(Sampler[int]):
    """Yield all indices in batches of similar length, drawn anew each epoch from the seed.

    Indices are shuffled, cut into pools of ``pool`` batches, sorted by length inside a pool, cut
    into batches, and the batches shuffled; a last, smaller batch stays last. The order depends on
    the seed and the epoch only, so that a resumed run sees the same batches. (Krell et al. and
    others; the Trainer's own length grouping draws from a generator that no seed reaches.)
    """

    def __init__(
        self, lengths: list[int], batch_size: int, *, seed: int = 0, pool: int = 50
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool * batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        pools = [order[k : k + self.pool] for k in range(0, len(order), self.pool)]
        order = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in pools])
        batches = [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]
        short = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        random.shuffle(batches)
        for batch in (*batches, *short):
            yield from batch.tolist()


class DistillationTrainer(Trainer):
    """``transformers.Trainer`` for a ``DistillationModel``: asks for knowledge, stops at NaN.

    Args:
        knowledge: Live or stored; None for hard labels alone.
    """

    def __init__(self, *args: Any, knowledge: Knowledge | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.knowledge = knowledge
        # The losses are means over the batch already; the Trainer must not divide again.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Add the teacher's features to the batch and give the objective's value."""
        if self.knowledge is not None:
            found = self.knowledge(inputs)
            inputs = inputs | {k: v.to(self.args.device) for k, v in found.items()}
        outputs = model(inputs)
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            terms = ", ".join(f"{k} {outputs[k].item():g}" for k in TERMS if k in outputs)
            raise UserError(
                f"the loss became {loss.item():g} at step {self.state.global_step + 1} ({terms}); "
                + SMALLER
            )
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Predict without a teacher: epochs are compared by what the student gets right."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            logits = model(inputs)["logits"]
        if not torch.isfinite(logits).all():  # the last update, which no loss has looked at
            raise UserError(
                f"the logits became NaN or infinite at step {self.state.global_step}; {SMALLER}"
            )
        return None, logits.float(), inputs["labels"]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBucketSampler:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = data["length"][:] if "length" in data.column_names else [1] * len(data)
        sampler = LengthBucketSampler(
            lengths, self.args.train_batch_size * self.args.world_size, seed=self.args.seed
        )
        self.add_callback(_FollowEpoch(sampler))
        return sampler


class _FollowEpoch(TrainerCallback):
    """Tell the sampler the epoch, after a resume in the middle of one too.

    Accelerate's own ``set_epoch`` does not reach a sampler behind skipped batches of a sharded
    loader.
    """

    def __init__(self, sampler: LengthBucketSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.set_epoch(int(state.epoch + 1e-6))


class _SaveEvery(TrainerCallback):
    """Ask for a checkpoint every so many steps (0: none), beside the one after each epoch.

    None after an epoch's last step: the epoch is not evaluated yet, and a run that goes on from
    there would never evaluate it. The loss is logged with each checkpoint, because the Trainer
    does not keep what it has summed up since the last log.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        inside = state.epoch % 1 != 0 and state.global_step < state.max_steps
        if inside and self.steps and state.global_step % self.steps == 0:
            control.should_log = control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = True


class _Clock(TrainerCallback):
    """Keep the seconds spent in the trainer's state, so that they survive an interruption."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        spent = [r["seconds"] for r in state.log_history if "seconds" in r]
        self.start = time.perf_counter() - (spent[-1] if spent else 0.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.log_history:
            state.log_history[-1]["seconds"] = time.perf_counter() - self.start


class _Bar(TrainerCallback):
    """A progress bar that says what is trained."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: ProgressBar | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar = progress_bar(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.what,
            unit="step",
            disable=not state.is_world_process_zero,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        shown = {"loss": "loss", "eval_macro_f1": "validation macro-F1"}
        for key, name in shown.items():
            if self.bar is not None and logs and key in logs:
                self.bar.set_postfix({name: f"{logs[key]:.4f}"})

    def close(self) -> None:
        """Leave the bar as it stands, so that what is printed next begins on a line of its own."""
        if self.bar is not None:
            self.bar.close()


def fine_tune(
    model: PreTrainedModel,
    task: Task,
    processor: Any,
    *,
    split: str = "labelled",
    label_smoothing: float = 0.0,
    schedule: Schedule | None = None,
    checkpoints: str | Path | None = None,
    what: str = "fine-tuning",
) -> Training:
    """Train a classifier on hard labels, in place; the best epoch's weights stay.

    Args:
        model: Parameters that do not require gradients keep their values.
        task: Gives the examples and the validation split.
        processor: The model's tokenizer.
        split: Rows with label -100 are of no use and left out.
        label_smoothing: ε of Szegedy et al. 2016, §7.
        schedule: See ``Schedule``.
        checkpoints: Folder that makes the training resumable: call again with the same arguments.
            What was written there is removed at the end. None: not resumable.
        what: Said by the progress bar.

    Raises:
        UserError: The model does not fit the task; the checkpoints were made with other arguments;
            the loss became NaN or infinite; or the disk is full.
    """
    objective = Objective(alpha=0.0, label_smoothing=label_smoothing)
    return _train(model, task, processor, None, objective, split, schedule, checkpoints, what)


def distill(
    student: PreTrainedModel,
    knowledge: KnowledgeStore | LiveTeacher,
    task: Task,
    processor: Any,
    *,
    objective: Objective | None = None,
    split: str = "transfer",
    schedule: Schedule | None = None,
    checkpoints: str | Path | None = None,
    what: str = "distilling",
) -> Training:
    """Train a student on a teacher's knowledge, in place; the best epoch's weights stay.

    Args:
        student: The model to train.
        knowledge: A store or a live teacher; the trainer cannot tell which.
        task: Gives the examples and the validation split.
        processor: The tokenizer of both; for a student whose vocabulary is pruned, its own.
        objective: See ``Objective``; one with intermediate terms needs its layer map.
        split: ``transfer`` or ``labelled``.
        schedule: See ``Schedule``.
        checkpoints: As in ``fine_tune``.
        what: Said by the progress bar.

    Raises:
        UserError: Student, store or teacher do not fit task, tokenizer or objective; student and
            teacher share parameters; and as in ``fine_tune``.
    """
    objective = objective or Objective()
    return _train(
        student, task, processor, knowledge, objective, split, schedule, checkpoints, what
    )


def _train(
    model: PreTrainedModel,
    task: Task,
    processor: Any,
    knowledge: KnowledgeStore | LiveTeacher | None,
    objective: Objective,
    split: str,
    schedule: Schedule | None,
    checkpoints: str | Path | None,
    what: str,
) -> Training:
    schedule = schedule or Schedule()
    if split in ("validation", "test"):
        raise UserError(f"the {split} split is there to judge by; train on labelled or transfer")
    if pick_device(schedule.device).index:  # transformers' Trainer knows no other than 0
        raise UserError(
            f"training takes the first GPU that it sees, not {schedule.device}; "
            "give the device cuda, and set CUDA_VISIBLE_DEVICES to choose among GPUs"
        )
    processes(schedule.device)
    _check_model(model, objective, task)
    data = task.encode(split, processor)
    if not objective.needs_teacher:
        knowledge = None  # it is not asked for anything
        labelled = np.flatnonzero(np.asarray(data["label"][:]) >= 0)
        data = data if len(labelled) == len(data) else data.select(labelled)
    if len(data) == 0:
        raise UserError(f"the split {split!r} has no example to train on; give labelled rows")
    teacher_width = _check_knowledge(model, knowledge, objective, data, task, processor)
    torch.manual_seed(schedule.seed)  # draws the projections
    trained = DistillationModel(model, objective, teacher_width)
    run = partial(_run, trained, task, processor, knowledge, data, what=what)
    with compacted(model, data, getattr(processor, "pad_token_id", None)):
        if checkpoints is None:
            with _temporary_folder() as folder:
                return run(schedule, folder)
        folder = Path(checkpoints)
        schedule = _settled(schedule, folder)
        _check_same_training(folder, _made_from(trained, knowledge, objective, schedule, data))
        try:
            training = run(schedule, folder)
        except UserError as error:
            if error.__cause__ is None:  # else a full disk, say, from which it can go on
                _clear(folder)  # not waiting: another process may not have failed, and never come
            raise
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            _clear(folder)
        PartialState().wait_for_everyone()
        return training


def _check_model(model: PreTrainedModel, objective: Objective, task: Task) -> None:
    """Refuse a model with another number of classes, or a layer map that does not fit it."""
    classes = len(label_names(model))
    if classes != task.num_classes:
        raise UserError(
            f"the model has {classes} classes, the task {task.num_classes} "
            f"({', '.join(task.label_names)}); give a model with a head of that size"
        )
    objective.check(model)


def _check_knowledge(
    student: PreTrainedModel,
    knowledge: KnowledgeStore | LiveTeacher | None,
    objective: Objective,
    data: Dataset,
    task: Task,
    processor: Any,
) -> int | None:
    """Refuse knowledge that does not fit; give the width of its hidden states, if it has any."""
    if knowledge is None:
        return None
    features = objective.features("teacher")
    if isinstance(knowledge, KnowledgeStore):
        knowledge.check(data, processor=processor, max_length=task.max_length, features=features)
        classes = knowledge.classes
    else:
        if parent_fingerprint(processor) is not None:
            raise UserError(
                "the student's vocabulary is pruned, so its token ids mean other pieces to a live "
                "teacher; extract the teacher's knowledge to a store and distil from that"
            )
        check_apart(student, knowledge.teacher)
        missing = sorted(set(features) - set(knowledge.features))
        if missing:
            raise UserError(f"the live teacher was not asked for {', '.join(missing)}; add them")
        classes = label_names(knowledge.teacher.model)
    if classes != list(task.label_names):
        raise UserError(
            f"the teacher's classes are {', '.join(classes)}, the task's "
            f"{', '.join(task.label_names)}; give a teacher of this task"
        )
    if not objective.hidden_states:
        return None
    one = task.collator(processor)([data[0]])
    states = next(v for k, v in knowledge(one).items() if k.startswith(PREFIX + "hidden_states"))
    return int(states.shape[-1])


def _run(
    model: DistillationModel,
    task: Task,
    processor: Any,
    knowledge: Knowledge | None,
    data: Dataset,
    schedule: Schedule,
    folder: Path,
    what: str,
) -> Training:
    state = _finished(folder)
    if state is None:
        with told_as_user_error(folder), quiet_transformers(), _own_garbage():
            state = _fit(model, task, processor, knowledge, data, schedule, folder, what)
    _keep_best(model, folder, state)
    return _summary(state)


def _fit(
    model: DistillationModel,
    task: Task,
    processor: Any,
    knowledge: Knowledge | None,
    data: Dataset,
    schedule: Schedule,
    folder: Path,
    what: str,
) -> TrainerState:
    """Train to the end, from the last checkpoint or from the start."""
    from distill_lab.evaluation import accuracy_and_macro_f1

    resumable = (folder / MADE_FROM).is_file()  # else nobody will come back for a checkpoint
    checkpoint = last_checkpoint(folder)
    device = pick_device(schedule.device)
    validation = task.encode("validation", processor)
    if "length" in validation.column_names:
        validation = validation.select(np.argsort(validation["length"][:], kind="stable"))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.max_steps,
        per_device_train_batch_size=schedule.batch_size,
        per_device_eval_batch_size=4 * schedule.batch_size,
        learning_rate=schedule.learning_rate,
        warmup_steps=schedule.warmup,
        weight_decay=schedule.weight_decay,
        lr_scheduler_type="linear",
        # As BERT's own (Devlin et al. 2019, released code). At 1e-8 a weight whose gradient is
        # exactly 0 but for rounding, such as a key's bias, walks at random at the full rate.
        adam_epsilon=1e-6,
        optim="adamw_torch_fused" if device.type in ("cpu", "cuda") else "adamw_torch",
        bf16=pick_dtype(device, schedule.dtype) == torch.bfloat16,
        use_cpu=device.type == "cpu",
        seed=schedule.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        save_only_model=not resumable,
        metric_for_best_model="macro_f1",
        logging_steps=20,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device.type == "cuda",
    )
    if arguments.n_gpu > 1:  # torchrun gives each GPU a process; DataParallel cannot split a batch
        arguments._n_gpu = 1
    bar = _Bar(what)
    trainer = DistillationTrainer(
        model,
        arguments,
        knowledge=knowledge,
        data_collator=task.collator(processor),
        train_dataset=data,
        eval_dataset=validation,
        compute_metrics=lambda p: accuracy_and_macro_f1(p.predictions, p.label_ids),
        callbacks=[_SaveEvery(schedule.checkpoint_every if resumable else 0), _Clock(), bar],
    )
    _silence(trainer)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
        # Accelerate's autocast hangs on the model itself: only the collector could then free it.
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
    return trainer.state


@contextmanager
def _own_garbage() -> Iterator[None]:
    """Let the collector look, inside the block and at its end, only at what the block has made.

    The Trainer calls it, and walking all objects of the process takes some tenths of a second. What
    a training leaves, models and optimizer states in reference cycles, is freed at once. On CUDA
    all is left as it is: what others left in cycles may hold memory that the training needs.
    """
    if gc.get_freeze_count() or torch.cuda.is_available():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _silence(trainer: Trainer) -> None:
    """Take out the callback that prints every log: the bar shows what matters."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


# --- checkpoints -------------------------------------------------------------------------------


def last_checkpoint(folder: Path) -> Path | None:
    """Give the newest complete checkpoint; an incomplete one, of a killed run, is removed.

    The Trainer writes ``trainer_state.json`` last.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            found.append((_read_state(path).global_step, path))
        except (OSError, ValueError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None


def _read_state(checkpoint: Path) -> TrainerState:
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def _finished(folder: Path) -> TrainerState | None:
    """Give the state of a training that has come to its end already, if this one has."""
    checkpoint = last_checkpoint(folder)
    state = _read_state(checkpoint) if checkpoint else None
    return state if state and state.global_step >= state.max_steps else None


def _keep_best(model: DistillationModel, folder: Path, state: TrainerState) -> None:
    """Load the best epoch's weights, found by its step: the state's path is where it was *then*."""
    PartialState().wait_for_everyone()
    weights = load_file(folder / f"checkpoint-{state.best_global_step}" / "model.safetensors")
    model.load_state_dict(weights)
    model.eval()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Give a folder that goes away; under torchrun, the same for all processes."""
    with TemporaryDirectory(prefix="distill_lab-") as own:
        yield Path(agreed(own))
        PartialState().wait_for_everyone()


def _settled(schedule: Schedule, folder: Path) -> Schedule:
    """Give the schedule with its dtype, that of the checkpoints if there are any.

    Measured again, it might come out otherwise half-way.
    """
    if schedule.dtype != "auto":
        return schedule
    measured = dtype_name(pick_dtype(pick_device(schedule.device), schedule.dtype))
    then = read_json(folder / MADE_FROM) if last_checkpoint(folder) else {}
    return replace(schedule, dtype=agreed(then.get("dtype", measured)))


def _made_from(
    model: DistillationModel,
    knowledge: KnowledgeStore | LiveTeacher | None,
    objective: Objective,
    schedule: Schedule,
    data: Dataset,
) -> dict[str, Any]:
    """Say what a training and its checkpoints depend on, beside the student's first weights."""
    columns = (data[name][:] for name in ("id", "content_hash", "label"))
    own = {k: v for k, v in asdict(schedule).items() if k not in ("device", "checkpoint_every")}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return {
        **asdict(objective),
        **own,
        "processes": PartialState().num_processes,
        "checkpoint_format": CHECKPOINT_FORMAT,
        "examples": json_hash(list(columns)),
        "student": json_hash(shapes),
        "knowledge": _identity(knowledge),
    }


def _identity(knowledge: KnowledgeStore | LiveTeacher | None) -> str | None:
    if isinstance(knowledge, LiveTeacher):
        teacher = weights_fingerprint(knowledge.teacher.model)
        return json_hash([teacher, dtype_name(knowledge.dtype)])
    return None if knowledge is None else json_hash(knowledge.fingerprint)


def _check_same_training(folder: Path, made_from: dict[str, Any]) -> None:
    """Refuse checkpoints of another training; else note what this one is made from."""
    path = folder / MADE_FROM
    if not path.is_file() and any(folder.glob("checkpoint-*")):
        raise UserError(
            f"{folder} holds checkpoints that distill_lab did not make; give another folder"
        )
    if last_checkpoint(folder) is not None:
        then = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in made_from if then.get(name) != made_from[name]]
        if differing:
            raise UserError(
                f"the checkpoints in {folder} were made with other "
                f"{', '.join(differing).replace('_', ' ')}; give the same, or another folder"
            )
    if PartialState().is_main_process:
        write_json(path, made_from)
    PartialState().wait_for_everyone()


def _clear(folder: Path) -> None:
    """Remove what was written to the folder, and the folder unless it holds something else.

    Several processes in which the same is wrong may do so at once.
    """
    with suppress(OSError):
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / MADE_FROM).unlink(missing_ok=True)
        folder.rmdir()


def _summary(state: TrainerState) -> Training:
    history = state.log_history
    epochs = [
        {"epoch": r["epoch"], "macro_f1": r["eval_macro_f1"], "accuracy": r["eval_accuracy"]}
        for r in history
        if "eval_macro_f1" in r
    ]
    best = max(epochs, key=lambda r: r["macro_f1"])
    return Training(
        steps=state.global_step,
        seconds=max((r["seconds"] for r in history if "seconds" in r), default=0.0),
        epochs=epochs,
        best_epoch=best["epoch"],
        curve=[(int(r["step"]), r["loss"]) for r in history if "loss" in r],
    )
