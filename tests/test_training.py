"""Laws of training: objectives, the sampler, exact resume, what is kept and what is refused."""

from __future__ import annotations

import errno
import gc
import re
import shutil
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, pairwise
from logging import Handler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_bert
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import BatchSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from distill_lab import losses, training
from distill_lab.errors import UserError
from distill_lab.knowledge import PREFIX, LiveTeacher, extract
from distill_lab.tasks import Task
from distill_lab.training import (
    DistillationModel,
    DistillationTrainer,
    LengthBucketSampler,
    Objective,
    Schedule,
    Training,
    distill,
    fine_tune,
    last_checkpoint,
    parse_objective,
    relation_heads,
)

LAYERS = {"layer.0": "layer.1", "layer.1": "layer.3"}
EVERYTHING = Objective(hidden_states=1.0, attention=1.0, relations=1.0, layer_map=LAYERS)
# The small task has 63 labelled rows: an epoch has 4 steps of 16 examples, the last of 15.
# There are checkpoints after steps 3, 4 (an epoch's end), 6, 8 (another), 9 and 12 (the end).
QUICK = Schedule(
    epochs=3, learning_rate=5e-3, batch_size=16, device="cpu", dtype="float32", checkpoint_every=3
)


@pytest.fixture(autouse=True, scope="module")
def _light() -> Iterator[None]:
    """Hide the bars of tokenising; keep the collector, which each training calls, off old objects.

    It would take most of these tests' time, and so would asking whether something is frozen.
    """
    import datasets

    datasets.disable_progress_bars()
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_own_garbage", nullcontext)
        yield
    gc.unfreeze()
    datasets.enable_progress_bars()


def dropping(student: PreTrainedModel) -> PreTrainedModel:
    """Turn dropout on, so that a run depends on the random state at every step."""
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return student


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def new_student(seed: int = 2) -> PreTrainedModel:
    set_seed(seed)
    return small_bert(layers=2, width=16, heads=2).train()


class TableOfLogits:
    """Knowledge that gives the same logits to every example."""

    def __init__(self, logits: list[float]) -> None:
        self.logits = torch.tensor(logits)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {PREFIX + "logits": self.logits.repeat(len(batch["id"]), 1)}


# --- the objective -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soft", Objective(alpha=0.7, temperature=3.0)),
        (" soft + relations = 2 ", Objective(alpha=0.7, temperature=3.0, relations=2.0)),
        (
            "soft+hidden-states=0.5+attentions",
            Objective(alpha=0.7, temperature=3.0, hidden_states=0.5, attention=1.0),
        ),
        ("hidden=1e-2", Objective(alpha=0.0, temperature=3.0, hidden_states=0.01)),
    ],
)
def test_an_objective_is_read_from_its_text(text: str, expected: Objective) -> None:
    assert parse_objective(text, alpha=0.7, temperature=3.0) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "soft+", "soft+soft", "soft+x=1", "soft+relations=", "soft+relations=a", "soft=2"),
        *("soft+attention=-1", "soft+attention=nan", "attention+attentions"),
    ],
)
def test_a_wrong_objective_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_objective(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        *({"alpha": 1.1}, {"alpha": float("nan")}, {"label_smoothing": 1.0}, {"relations": -1.0}),
        *({"temperature": 0.0}, {"temperature": float("inf")}),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected"):
        Objective(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        *({"epochs": 0}, {"learning_rate": float("nan")}, {"batch_size": -1}, {"max_steps": 0}),
        *({"checkpoint_every": 0}, {"warmup": 1.0}, {"weight_decay": -0.1}),
    ],
)
def test_a_schedule_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        Schedule(**values)


def test_an_objective_reads_the_mapped_layers_of_each_side() -> None:
    o = replace(EVERYTHING, layer_map={**LAYERS, "embeddings": "embeddings"})
    relations = [f"{kind}.layer.3" for kind in ("query", "key", "value")]
    assert o.features("teacher") == (
        "logits",
        *("hidden_states.embeddings", "hidden_states.layer.1", "hidden_states.layer.3"),
        *("attentions.layer.1", "attentions.layer.3"),
        *relations,
    )
    assert o.features("student")[-1] == "value.layer.1"
    assert Objective().features() == ("logits",)


@given(st.integers(1, 64), st.integers(1, 64))
def test_relation_heads_divide_both_widths(one: int, other: int) -> None:
    heads = relation_heads(one, other)
    assert one % heads == other % heads == 0
    assert not any(one % k == other % k == 0 for k in range(heads + 1, 13))


def one_batch(task: Task, tokenizer: PreTrainedTokenizerBase, rows: int = 16) -> dict[str, Any]:
    data = task.encode("labelled", tokenizer)
    batch: dict[str, Any] = task.collator(tokenizer)([data[k] for k in range(rows)])
    return batch


@pytest.mark.parametrize("name", ["hidden_states", "attention", "relations"])
def test_every_intermediate_term_trains(
    name: str,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    small_student: PreTrainedModel,
) -> None:
    objective = Objective(alpha=1.0, layer_map=LAYERS, **{name: 1.0})  # type: ignore[arg-type]
    model = DistillationModel(small_student, objective, teacher_width=32).train()
    batch = one_batch(small_task, small_tokenizer)
    batch |= LiveTeacher(small_teacher, objective.features())(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        term = model(batch)[name]
        optimizer.zero_grad()
        term.backward()
        if not values:  # each mapped layer is reached, and so is what is learned beside it
            assert len(model.projections) == (2 if name == "hidden_states" else 0)
            assert all(p.grad is not None and p.grad.any() for p in model.projections.parameters())
            reached = [n for n, p in small_student.named_parameters() if p.grad is not None]
            assert any("layer.0" in n for n in reached)
            assert any("layer.1" in n for n in reached)
        optimizer.step()
        values.append(term.item())
    assert values[-1] < 0.8 * values[0]
    assert all(p.grad is None for p in small_teacher.parameters())


def test_the_loss_is_the_weighted_sum_of_its_terms(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    small_student: PreTrainedModel,
) -> None:
    objective = replace(
        EVERYTHING, alpha=0.3, hidden_states=0.5, attention=2.0, relations=3.0, label_smoothing=0.1
    )
    model = DistillationModel(small_student, objective, teacher_width=32)
    batch = one_batch(small_task, small_tokenizer)
    batch |= LiveTeacher(small_teacher, objective.features())(batch)
    found = model(batch)
    scale = {"soft": 0.3, "hard": 0.7, "hidden_states": 0.5, "attention": 2.0, "relations": 3.0}
    assert set(found) == {"loss", "logits", *scale}
    expected = sum(factor * found[name] for name, factor in scale.items())
    torch.testing.assert_close(found["loss"], expected)
    hard = nn.functional.cross_entropy(found["logits"], batch["labels"], label_smoothing=0.1)
    torch.testing.assert_close(found["hard"], hard)
    p = (batch["teacher_logits"] / 2).double().softmax(-1)
    q = (found["logits"] / 2).double().softmax(-1)
    soft = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(found["soft"].double(), soft, rtol=1e-5, atol=1e-6)


def test_alpha_0_asks_no_teacher(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_teacher: PreTrainedModel
) -> None:
    class Asleep(LiveTeacher):
        def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
            raise AssertionError("the teacher was asked")

    found = []
    for teacher in (Asleep(small_teacher), None):
        student = dropping(new_student())
        if teacher is None:
            fine_tune(student, small_task, small_tokenizer, schedule=QUICK)
        else:
            distill(
                *(student, teacher, small_task, small_tokenizer),
                objective=Objective(alpha=0.0),
                schedule=QUICK,
            )
        found.append(weights(student))
    # The unlabelled rows of the transfer set are of no use either: both saw the same steps.
    assert largest_difference(*found) == 0.0


def test_alpha_1_ignores_the_labels(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_teacher: PreTrainedModel
) -> None:
    labels = np.array(small_task.transfer["label"][:])
    features = small_task.transfer.features
    other = small_task.transfer.remove_columns("label").add_column(
        "label", np.random.default_rng(0).permutation(labels), feature=features["label"]
    )
    found = []
    for task in (small_task, replace(small_task, transfer=other)):
        student = new_student()
        schedule = replace(QUICK, epochs=1)
        distill(student, LiveTeacher(small_teacher), task, small_tokenizer, schedule=schedule)
        found.append(weights(student))
    assert largest_difference(*found) == 0.0


# --- one teacher, two ways of asking it ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", [Objective(), replace(EVERYTHING, alpha=0.5)])
def test_stored_and_live_teachers_train_the_same_student(
    objective: Objective,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    tmp_path: Path,
) -> None:
    schedule = replace(QUICK, learning_rate=2e-4, epochs=9, batch_size=8, max_steps=50)
    store = extract(
        *(small_teacher, small_task, small_tokenizer, tmp_path / "store"),
        features=objective.features(),
        device="cpu",
        dtype="float32",
    )
    found, before = [], weights(new_student())
    for knowledge in (store, LiveTeacher(small_teacher, objective.features())):
        student = new_student()
        training = distill(
            *(student, knowledge, small_task, small_tokenizer),
            objective=objective,
            schedule=schedule,
        )
        assert training.steps == 50
        found.append(weights(student))
    assert largest_difference(*found) < 1e-5
    assert largest_difference(found[0], before) > 1e-4  # they have moved


# --- the sampler -------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 5), st.integers(0, 5), st.integers(1, 4))
def test_each_index_is_yielded_once_an_epoch(
    lengths: list[int], batch_size: int, seed: int, epoch: int, pool: int
) -> None:
    sampler = LengthBucketSampler(lengths, batch_size, seed=seed, pool=pool)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


@given(LENGTHS, st.integers(1, 16))
def test_batches_are_of_similar_length_and_the_short_one_is_last(
    lengths: list[int], batch_size: int
) -> None:
    order = list(LengthBucketSampler(lengths, batch_size))  # one pool holds all
    batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    # The batches cut the sorted lengths into pieces: no two of them overlap.
    spans = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_the_order_depends_on_seed_and_epoch_only(seed: int, epoch: int, other: int) -> None:
    lengths = [k % 17 for k in range(150)]
    one, two = (LengthBucketSampler(lengths, 4, seed=seed, pool=5) for _ in range(2))
    two.set_epoch(other)
    list(two)  # what went before leaves no trace
    torch.manual_seed(other)
    for sampler in (one, two):
        sampler.set_epoch(epoch)
    assert list(one) == list(two)
    if other != epoch:
        two.set_epoch(other)
        assert list(one) != list(two)
    assert list(one) != list(LengthBucketSampler(lengths, 4, seed=seed + 1, pool=5))


def test_a_global_batch_of_similar_length_is_split_over_the_processes(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    from accelerate.data_loader import BatchSamplerShard

    data = small_task.encode("transfer", small_tokenizer).select(range(120))
    trainer = DistillationTrainer.__new__(DistillationTrainer)
    trainer.train_dataset = data
    trainer.args = SimpleNamespace(train_batch_size=4, world_size=3, seed=0)
    trainer.add_callback = lambda callback: None  # type: ignore[method-assign]
    sampler = trainer._get_train_sampler()
    assert sampler.batch_size == 12
    shares = [
        list(BatchSamplerShard(BatchSampler(sampler, 4, False), 3, process)) for process in range(3)
    ]
    together = [[*chain(*parts)] for parts in zip(*shares, strict=True)]
    assert sorted(chain(*together)) == list(range(120))
    assert [*chain(*together)] == list(sampler)
    lengths = data["length"][:]
    spans = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in together)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_the_trainer_follows_the_sampler(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_student: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []
    observe = training.observe

    def watch(model: Any, batch: Mapping[str, Any], *features: Any) -> dict[str, Tensor]:
        if model.training:
            seen.append(list(batch["id"]))
        return observe(model, batch, *features)

    monkeypatch.setattr(training, "observe", watch)
    fine_tune(small_student, small_task, small_tokenizer, schedule=QUICK)
    data = small_task.encode("labelled", small_tokenizer)
    sampler = LengthBucketSampler(data["length"][:], 16, seed=0)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = [data["id"][i] for i in sampler]
        expected += [order[k : k + 16] for k in range(0, len(order), 16)]
    assert seen == expected


# --- exact resume ------------------------------------------------------------------------------


class Killed(KeyboardInterrupt):
    """Stands for kill -9: nothing that catches Exception sees it."""


class KillAt(TrainerCallback):
    """Kill the run when an event comes at a step."""

    def __init__(self, event: str, step: int) -> None:
        self.step = step
        setattr(self, event, self._strike)

    def _strike(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def adding(monkeypatch: pytest.MonkeyPatch, callback: TrainerCallback) -> None:
    """Make every trainer born from now on carry a callback too."""
    original = DistillationTrainer.__init__

    def init(self: DistillationTrainer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.add_callback(callback)

    monkeypatch.setattr(DistillationTrainer, "__init__", init)


def killing(monkeypatch: pytest.MonkeyPatch, method: str, step: int, before: bool) -> None:
    """Kill the run in a method of the trainer, at a step, before or after it does its work."""
    original = getattr(DistillationTrainer, method)

    def strike(self: DistillationTrainer, *args: Any, **kwargs: Any) -> Any:
        if before and self.state.global_step == step:
            raise Killed
        result = original(self, *args, **kwargs)
        if self.state.global_step == step:
            raise Killed
        return result

    monkeypatch.setattr(DistillationTrainer, method, strike)


def same(one: Training, other: Training) -> bool:
    return replace(one, seconds=0.0) == replace(other, seconds=0.0)


Run = Callable[..., tuple[dict[str, Tensor], Training]]
PROJECTED = Objective(alpha=0.5, hidden_states=1.0, layer_map=LAYERS)


@pytest.fixture(scope="module")
def run(small_task: Task, _tokenizer: PreTrainedTokenizerBase, _teacher: PreTrainedModel) -> Run:
    """Distil a new student, dropout on and projections beside it, into a folder."""
    knowledge = LiveTeacher(_teacher, PROJECTED.features())

    def distilled(
        folder: Path, student: PreTrainedModel | None = None, **changes: Any
    ) -> tuple[dict[str, Tensor], Training]:
        student = student or dropping(new_student())
        done = distill(
            *(student, knowledge, small_task, _tokenizer),
            objective=PROJECTED,
            split="labelled",
            schedule=replace(QUICK, **changes),
            checkpoints=folder,
        )
        return weights(student), done

    return distilled


def interrupted(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and be killed after step 5, in the second epoch."""
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 5))
        with pytest.raises(Killed):
            run(folder)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Training]:
    """What an uninterrupted run gives."""
    return run(tmp_path_factory.mktemp("whole") / "checkpoints")


KILLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the first checkpoint": lambda m: adding(m, KillAt("on_step_end", 2)),
    "in the first epoch": lambda m: adding(m, KillAt("on_step_begin", 3)),
    "in the middle of epoch 2": lambda m: adding(m, KillAt("on_step_end", 7)),
    "after the last step of epoch 2": lambda m: adding(m, KillAt("on_epoch_end", 8)),
    "before epoch 2 is evaluated": lambda m: killing(m, "evaluate", 8, True),
    "after epoch 2 was evaluated": lambda m: killing(m, "evaluate", 8, False),
    "while epoch 2 is saved": lambda m: killing(m, "_save_rng_state", 8, True),
    "while step 6 is saved": lambda m: killing(m, "_save_optimizer_and_scheduler", 6, True),
    "after epoch 2 was saved": lambda m: adding(m, KillAt("on_save", 8)),
    "after the last checkpoint": lambda m: adding(m, KillAt("on_save", 12)),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_an_interrupted_training_resumes_exactly(
    moment: str,
    run: Run,
    whole: tuple[dict[str, Tensor], Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        KILLS[moment](patch)
        with pytest.raises(Killed):
            run(folder)
    resumed, training = run(folder)
    assert largest_difference(whole[0], resumed) == 0.0
    assert same(training, whole[1])
    assert [e["epoch"] for e in training.epochs] == [1, 2, 3]
    assert not folder.exists()


@pytest.mark.parametrize("every", [1, 2])  # both come where an epoch ends, too
def test_a_training_killed_again_and_again_resumes_exactly(
    every: int, run: Run, whole: tuple[dict[str, Tensor], Training], tmp_path: Path
) -> None:
    for event, step in (("on_step_end", 3), ("on_epoch_end", 4), ("on_save", 8)):
        with pytest.MonkeyPatch.context() as patch:
            adding(patch, KillAt(event, step))
            with pytest.raises(Killed):
                run(tmp_path, checkpoint_every=every)
    resumed, training = run(tmp_path, checkpoint_every=every)
    assert largest_difference(whole[0], resumed) == 0.0
    assert training.epochs == whole[1].epochs
    assert training.best_epoch == whole[1].best_epoch


def test_a_training_stopped_inside_an_epoch_resumes_exactly(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, first = run(tmp_path / "whole", max_steps=6)
    assert [e["epoch"] for e in first.epochs] == [1, 1.5]
    with monkeypatch.context() as patch:  # killed with all done but the cleaning up
        patch.setattr(training, "_keep_best", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path / "killed", max_steps=6)
    resumed, again = run(tmp_path / "killed", max_steps=6)
    assert largest_difference(expected, resumed) == 0.0
    assert same(again, first)
    assert again.steps == 6


def test_the_interrupted_student_itself_may_go_on(
    run: Run,
    whole: tuple[dict[str, Tensor], Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = dropping(new_student())
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 7))
        with pytest.raises(Killed):
            run(tmp_path, student)
    resumed, training = run(tmp_path, student)
    assert largest_difference(whole[0], resumed) == 0.0
    assert same(training, whole[1])


@pytest.mark.parametrize("damage", ["no state", "half a state", "empty state", "no files"])
def test_an_incomplete_newest_checkpoint_is_passed_over(
    damage: str,
    run: Run,
    whole: tuple[dict[str, Tensor], Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 7))
        with pytest.raises(Killed):
            run(tmp_path)
    newest = tmp_path / "checkpoint-6"
    assert last_checkpoint(tmp_path) == newest
    state = newest / "trainer_state.json"
    text = state.read_text(encoding="utf-8")
    if damage == "no files":
        shutil.rmtree(newest)
        newest.mkdir()
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text(text[: len(text) // 2] if damage == "half a state" else "")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not newest.exists()
    resumed, training = run(tmp_path)
    assert largest_difference(whole[0], resumed) == 0.0
    assert same(training, whole[1])


def test_checkpoints_may_be_moved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_lab import evaluation

    scores = iter([0.9, 0.3, 0.3] * 2)  # the first epoch's weights must be found where they are now
    monkeypatch.setattr(
        evaluation,
        "accuracy_and_macro_f1",
        lambda *args: {"accuracy": 0.0, "macro_f1": next(scores)},
    )
    expected, first = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 11))
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    (tmp_path / "killed").rename(tmp_path / "moved")
    resumed, training = run(tmp_path / "moved")
    assert training.best_epoch == 1
    assert largest_difference(expected, resumed) == 0.0
    assert same(training, first)


def test_seconds_are_summed_over_interruptions(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (5, 11):
                time.sleep(0.5)

    start = time.perf_counter()
    adding(monkeypatch, Slow())
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_begin", 7))
        with pytest.raises(Killed):
            run(tmp_path)
    time.sleep(0.5)  # what passes between two runs does not count
    _, training = run(tmp_path)
    assert 1.0 < training.seconds < time.perf_counter() - start - 0.5


def test_a_full_disk_leaves_the_checkpoints(
    run: Run,
    whole: tuple[dict[str, Tensor], Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FullDisk(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 7:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        adding(patch, FullDisk())
        with pytest.raises(UserError, match="the disk is full"):
            run(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "checkpoint-6").is_dir()
    found, training = run(tmp_path / "checkpoints")
    assert largest_difference(found, whole[0]) == 0.0 and same(training, whole[1])


def test_a_resumed_training_keeps_the_dtype_it_began_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = run(tmp_path / "whole", dtype="bfloat16")

    def measuring(found: torch.dtype) -> None:
        known = {"auto": found, "bfloat16": torch.bfloat16, "float32": torch.float32}
        monkeypatch.setattr(training, "pick_dtype", lambda device, name: known[name])

    measuring(torch.bfloat16)
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 7))
        with pytest.raises(Killed):
            run(tmp_path / "killed", dtype="auto")
    measuring(torch.float32)
    found, _ = run(tmp_path / "killed", dtype="auto")
    assert largest_difference(found, wanted) == 0.0


def test_checkpoints_that_others_made_are_refused_and_left(run: Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "model.safetensors").write_bytes(b"years of work")
    with pytest.raises(UserError, match="checkpoints that distill_lab did not make"):
        run(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint-best", "model.safetensors"]


def test_checkpoints_of_another_student_or_teacher_are_refused(
    run: Run,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted(run, tmp_path, monkeypatch)
    with pytest.raises(UserError, match="made with other student;"):
        run(tmp_path, small_bert(layers=2, width=32, heads=2))
    other = LiveTeacher(small_bert(layers=4, width=32, heads=4), PROJECTED.features())
    with pytest.raises(UserError, match="made with other knowledge;"):
        distill(
            *(new_student(), other, small_task, small_tokenizer),
            objective=PROJECTED,
            split="labelled",
            schedule=QUICK,
            checkpoints=tmp_path,
        )


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 1e-3}, "learning rate"), ({"seed": 1, "epochs": 9}, "epochs, seed")],
)
def test_checkpoints_of_another_training_are_refused(
    changes: dict[str, Any],
    named: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted(run, tmp_path, monkeypatch)
    kept = sorted(path.name for path in tmp_path.iterdir())
    student = new_student()
    before = weights(student)
    with pytest.raises(UserError, match=f"made with other {named};"):
        run(tmp_path, student, **changes)
    assert largest_difference(before, weights(student)) == 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_what_else_is_in_the_folder_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_frozen_parameters_keep_their_values_and_resume(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frozen() -> PreTrainedModel:
        model = dropping(new_student())
        model.bert.embeddings.requires_grad_(False)
        model.bert.encoder.layer[0].requires_grad_(False)
        return model

    first, whole, resumed = weights(frozen()), frozen(), frozen()
    fine_tune(whole, small_task, small_tokenizer, schedule=QUICK)
    after = weights(whole)
    still = [name for name in first if "embeddings" in name or "layer.0." in name]
    assert all(torch.equal(first[name], after[name]) for name in still)
    assert not any(torch.equal(first[name], after[name]) for name in first if name not in still)
    assert not whole.bert.embeddings.word_embeddings.weight.requires_grad
    with monkeypatch.context() as patch:
        adding(patch, KillAt("on_step_end", 7))
        with pytest.raises(Killed):
            fine_tune(frozen(), small_task, small_tokenizer, schedule=QUICK, checkpoints=tmp_path)
    fine_tune(resumed, small_task, small_tokenizer, schedule=QUICK, checkpoints=tmp_path)
    assert largest_difference(after, weights(resumed)) == 0.0


# --- what is kept ------------------------------------------------------------------------------


def test_best_epoch_on_validation_is_kept(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_lab import evaluation

    ends: list[dict[str, Tensor]] = []
    scores = iter([0.3, 0.9, 0.9, 0.5])  # of two equal epochs the first counts
    student = new_student()

    def judge(scores_of: Any, labels: Any) -> dict[str, float]:
        ends.append(weights(student.base_model.encoder))
        return {"accuracy": 0.0, "macro_f1": next(scores)}

    monkeypatch.setattr(evaluation, "accuracy_and_macro_f1", judge)
    training = fine_tune(student, small_task, small_tokenizer, schedule=replace(QUICK, epochs=4))
    assert [e["macro_f1"] for e in training.epochs] == [0.3, 0.9, 0.9, 0.5]
    assert training.best_epoch == 2
    kept = weights(student.base_model.encoder)
    assert [largest_difference(end, kept) == 0.0 for end in ends] == [False, True, False, False]


@pytest.mark.parametrize("changed", [{}, {"epochs": 1.5}, {"batch_size": 20}, {"max_steps": 5}])
def test_a_schedule_knows_its_steps_beforehand(
    changed: dict[str, Any],
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_student: PreTrainedModel,
) -> None:
    schedule = replace(QUICK, **changed)
    training = fine_tune(small_student, small_task, small_tokenizer, schedule=schedule)
    assert schedule.steps(len(small_task.labelled)) == training.steps


def test_the_record_of_an_epoch_is_what_the_student_gets_right_on_validation(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_student: PreTrainedModel
) -> None:
    from distill_lab.evaluation import evaluate

    schedule = replace(QUICK, epochs=6, batch_size=8)
    training = fine_tune(small_student, small_task, small_tokenizer, schedule=schedule)
    best = next(e for e in training.epochs if e["epoch"] == training.best_epoch)
    found = evaluate(small_student, small_task, small_tokenizer, split="validation", device="cpu")
    assert found.accuracy == pytest.approx(best["accuracy"])
    assert found.macro_f1 == pytest.approx(best["macro_f1"])
    assert best["macro_f1"] > 0.6  # it has learned something
    assert not small_student.training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_leaves_nothing_that_only_the_collector_could_free(
    dtype: str, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    student = new_student()
    gone = weakref.ref(student)
    gc.disable()
    try:
        fine_tune(student, small_task, small_tokenizer, schedule=replace(QUICK, dtype=dtype))
        del student
        assert gone() is None
    finally:
        gc.enable()


def test_only_the_student_is_the_result(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    small_student: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[DistillationModel] = []
    init = DistillationModel.__init__

    def keep(self: DistillationModel, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)
        before.update(weights(self.projections))

    before: dict[str, Tensor] = {}
    monkeypatch.setattr(DistillationModel, "__init__", keep)
    names, first = list(small_student.state_dict()), weights(small_student)
    distill(
        *(small_student, LiveTeacher(small_teacher, EVERYTHING.features())),
        *(small_task, small_tokenizer),
        objective=EVERYTHING,
        schedule=QUICK,
    )
    assert list(small_student.state_dict()) == names
    assert not any("projection" in name for name in names)
    # What stands beside the student has learned, and all of the student has.
    after = weights(made[0].projections)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert not any(torch.equal(first[name], small_student.state_dict()[name]) for name in names)
    small_student.save_pretrained(tmp_path)
    again = type(small_student).from_pretrained(tmp_path)
    assert largest_difference(weights(again), weights(small_student)) == 0.0


def test_projections_are_in_checkpoints(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adding(monkeypatch, KillAt("on_step_end", 5))
    with pytest.raises(Killed):
        run(tmp_path)
    stored = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert {name for name in stored if not name.startswith("student.")} == {
        f"projections.layer_{k}.{part}" for k in (0, 1) for part in ("weight", "bias")
    }
    assert not any("teacher" in name for name in stored)


def test_tied_weights_can_be_trained(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, small_student: PreTrainedModel
) -> None:
    one, other = small_student.bert.encoder.layer
    other.output.dense.weight = one.output.dense.weight
    fine_tune(small_student, small_task, small_tokenizer, schedule=QUICK)
    assert other.output.dense.weight is one.output.dense.weight


def test_two_trainings_in_one_process_do_not_touch_each_other(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    def train(dtype: str) -> dict[str, Tensor]:
        student = dropping(new_student())
        fine_tune(student, small_task, small_tokenizer, schedule=replace(QUICK, dtype=dtype))
        return weights(student)

    exact, rounded, again = train("float32"), train("bfloat16"), train("float32")
    assert largest_difference(exact, again) == 0.0
    assert largest_difference(exact, rounded) > 0.0  # bfloat16 was really used
    assert all(value.dtype == torch.float32 for value in rounded.values())


@pytest.mark.parametrize("killed", [False, True])
def test_a_training_leaves_nothing_in_memory(
    killed: bool,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[Any]] = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model, optimizer = kwargs["model"], kwargs["optimizer"].optimizer
            parameters = [*model.parameters()]
            made.extend(map(weakref.ref, (args, state, model, optimizer, *parameters)))

    student = new_student()
    adding(monkeypatch, Spy())
    if killed:
        adding(monkeypatch, KillAt("on_step_end", 3))
    schedule = replace(QUICK, epochs=1)
    with pytest.raises(Killed) if killed else nullcontext():
        fine_tune(student, small_task, small_tokenizer, schedule=schedule)
    del student
    gc.collect()
    assert len(made) > 10
    assert [ref() for ref in made if ref() is not None] == []


def test_nothing_is_printed_but_the_bar(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    said: list[str] = []
    ear = Handler()
    ear.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    verbosity = logging.get_verbosity()
    logging.warning_once.cache_clear()
    logging.add_handler(ear)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path)
    logging.remove_handler(ear)
    out, err = capfd.readouterr()
    assert (out, said) == ("", [])
    assert all(line.startswith("distilling:") for line in re.split(r"[\r\n]+", err) if line.strip())
    assert "12/12" in err
    assert err.endswith("\n")
    assert logging.get_verbosity() == verbosity


# --- what is refused ---------------------------------------------------------------------------


def test_a_nan_loss_is_named_with_its_step_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []
    original = losses.distillation_loss

    def breaking(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(losses, "distillation_loss", breaking)
    folder = tmp_path / "checkpoints"
    with pytest.raises(UserError) as error:
        run(folder)
    assert "the loss became nan at step 5 (soft nan, hard " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(calls) == 5
    assert not folder.exists()
    assert capfd.readouterr().err.endswith("\n")  # the bar does not share its line with the error


def test_a_last_step_that_breaks_the_weights_is_named_too(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    schedule = replace(QUICK, learning_rate=1e38, warmup=0.0, max_steps=1)
    with pytest.raises(UserError, match="became NaN or infinite at step 1; use a smaller"):
        fine_tune(new_student(), small_task, small_tokenizer, schedule=schedule, checkpoints=folder)
    assert not folder.exists()


@pytest.fixture
def refused(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Distil with something wrong; give the one line that refuses it before training starts."""

    def attempt(**changes: Any) -> str:
        def never(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("training has started")

        monkeypatch.setattr(DistillationTrainer, "__init__", never)
        folder = tmp_path / "checkpoints"
        given: dict[str, Any] = {
            "student": new_student(),
            "knowledge": LiveTeacher(small_teacher),
            "task": small_task,
            "processor": small_tokenizer,
            "schedule": QUICK,
            "checkpoints": folder,
        }
        with pytest.raises(UserError) as error:
            distill(**given | changes)
        assert not folder.exists()
        line = str(error.value)
        assert "\n" not in line
        return line

    return attempt


def test_a_live_teacher_without_the_features_is_refused(refused: Callable[..., str]) -> None:
    line = refused(objective=Objective(hidden_states=1.0, layer_map=LAYERS))
    assert "was not asked for hidden_states.layer.1, hidden_states.layer.3" in line


def test_a_missing_or_wrong_layer_map_is_refused(refused: Callable[..., str]) -> None:
    assert "need a layer map" in refused(objective=Objective(attention=1.0))
    wrong = Objective(relations=1.0, layer_map={"layer.7": "layer.1", "layer": "layer.0"})
    assert "names layer, layer.7, which the student has not" in refused(objective=wrong)
    only = Objective(attention=1.0, layer_map={"embeddings": "embeddings"})
    assert "embeddings only" in refused(objective=only)


def test_other_classes_are_refused(refused: Callable[..., str]) -> None:
    four = small_bert(classes=("a", "b", "c", "d"))
    assert "the model has 4 classes, the task 3" in refused(student=four)
    assert "the teacher's classes are a, b, c, d" in refused(knowledge=LiveTeacher(four))
    turned = small_bert(classes=("sea", "garden", "kitchen"))
    assert "the teacher's classes are sea, garden" in refused(knowledge=LiveTeacher(turned))


def test_a_student_that_is_its_teacher_is_refused(
    refused: Callable[..., str], small_teacher: PreTrainedModel
) -> None:
    assert "share parameters" in refused(student=small_teacher)
    student = new_student()
    student.bert.pooler.dense.bias = nn.Parameter(small_teacher.bert.pooler.dense.bias[:16])
    assert "share parameters (bert.pooler.dense.bias" in refused(student=student)


def test_a_store_that_does_not_fit_is_refused(
    refused: Callable[..., str],
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    tmp_path: Path,
) -> None:
    store = extract(
        *(small_teacher, small_task, small_tokenizer, tmp_path / "store"),
        split="labelled",
        device="cpu",
        dtype="float32",
    )
    line = refused(knowledge=store, objective=Objective(attention=1.0, layer_map=LAYERS))
    assert "it has no attentions.layer.1, attentions.layer.3 (it has logits)" in line
    assert "it has no example" in refused(knowledge=store)
    assert "max length 24 tokens, not 20" in refused(
        knowledge=store, task=replace(small_task, max_length=20)
    )
    small_tokenizer.add_tokens(["zebra"])
    assert "another tokenizer" in refused(knowledge=store, split="labelled")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_there_to_judge_by_is_not_trained_on(
    split: str, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match=f"the {split} split is there to judge by"):
        fine_tune(new_student(), small_task, small_tokenizer, split=split, schedule=QUICK)


def test_another_gpu_than_the_first_is_refused(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "pick_device", torch.device)
    with pytest.raises(UserError, match="set CUDA_VISIBLE_DEVICES"):
        schedule = replace(QUICK, device="cuda:1")
        fine_tune(new_student(), small_task, small_tokenizer, schedule=schedule)


@pytest.mark.parametrize("term", ["hidden_states", "attention", "relations"])
def test_features_without_a_layer_map_are_refused(term: str) -> None:
    with pytest.raises(UserError, match="need a layer map"):
        Objective(**{term: 1.0}).features()


def test_a_split_without_labels_is_refused(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    unlabelled = [k for k, label in enumerate(small_task.transfer["label"][:]) if label < 0]
    task = replace(small_task, transfer=small_task.transfer.select(unlabelled))
    with pytest.raises(UserError, match="no example to train on"):
        fine_tune(new_student(), task, small_tokenizer, split="transfer", schedule=QUICK)


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trainer_costs_little_more_than_a_loop_written_by_hand(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = small_task.encode("transfer", small_tokenizer)
    collate, table = small_task.collator(small_tokenizer), TableOfLogits([1.0, 0.0, -1.0])
    steps, model = 60, {"layers": 2, "width": 256, "heads": 4}

    def by_hand() -> float:
        student = small_bert(**model).train()
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
        sampler = LengthBucketSampler(data["length"][:], 16)
        start, step = time.process_time(), 0
        while step < steps:
            order = list(sampler)
            for k in range(0, len(order), 16):
                batch = collate(data.__getitems__(order[k : k + 16]))
                batch |= table(batch)
                logits = training.observe(student, batch)["logits"]
                losses.distillation_loss(logits, batch["teacher_logits"], alpha=1.0).backward()
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
        return (time.process_time() - start) / step

    def by_trainer() -> float:
        student = small_bert(**model).train()
        seconds: list[float] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                seconds.append(time.process_time())

        with pytest.MonkeyPatch.context() as patch:
            adding(patch, Clock())
            patch.setattr(training, "_check_knowledge", lambda *args: None)
            schedule = replace(QUICK, epochs=99, max_steps=steps, batch_size=16, learning_rate=1e-4)
            distill(student, table, small_task, small_tokenizer, schedule=schedule)  # type: ignore[arg-type]
        return float(np.median(np.diff(seconds)))

    ratios = [by_trainer() / by_hand() for _ in range(5)]
    assert min(ratios) < 1.3, ratios
