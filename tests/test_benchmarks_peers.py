"""Laws of the benchmarks' peers: what is timed side by side does the same work."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from benchmarks import fine_tune as fine_tune_row
from benchmarks import material, plain_loop, textbrewer_peer
from benchmarks.distill import TEMPERATURE, recipe_of
from distill_lab import losses
from distill_lab.errors import UserError
from distill_lab.knowledge import KnowledgeStore, extract
from distill_lab.tasks import Task
from distill_lab.training import Objective, Schedule, distill, fine_tune

SCHEDULE = Schedule(epochs=2, batch_size=16, dtype="float32", device="cpu", learning_rate=2e-3)
CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture
def store(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> KnowledgeStore:
    return extract(small_teacher, small_task, small_tokenizer, tmp_path / "store", dtype="float32")


@pytest.fixture
def tokens(small_task: Task, small_tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return list(small_task.encode("transfer", small_tokenizer)["input_ids"][:])


@pytest.fixture
def logits(store: KnowledgeStore, small_task: Task) -> Tensor:
    return store.logits(small_task.transfer["id"][:])


@pytest.fixture
def trainer_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of each step of whatever Trainer runs."""
    found: list[float] = []
    step = Trainer.training_step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        loss = step(*args, **kwargs)
        found.append(loss.item())
        return loss

    monkeypatch.setattr(Trainer, "training_step", recorded)
    return found


@pytest.fixture
def ours(
    store: KnowledgeStore,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_student: PreTrainedModel,
    trainer_losses: list[float],
) -> list[float]:
    """The loss of each step of ``distill``."""
    distill(
        copy.deepcopy(small_student),
        store,
        small_task,
        small_tokenizer,
        objective=Objective(temperature=TEMPERATURE),
        schedule=SCHEDULE,
    )
    assert len(trainer_losses) == 16
    return trainer_losses


def batches(tokens: list[list[int]], schedule: Schedule = SCHEDULE) -> list[list[material.Batch]]:
    return material.batches([len(row) for row in tokens], schedule)


# --- the peers train the same thing -------------------------------------------------------------


def test_losses_of_the_plain_loop_are_ours_step_by_step(
    ours: list[float], small_student: PreTrainedModel, tokens: list[list[int]], logits: Tensor
) -> None:
    theirs = plain_loop.distill(small_student, tokens, logits, batches(tokens), recipe_of(SCHEDULE))
    np.testing.assert_allclose(theirs, ours, **CLOSE)
    assert theirs[-1] < 0.9 * theirs[0]


def test_losses_of_textbrewer_less_the_teachers_entropy_are_ours_step_by_step(
    ours: list[float],
    small_student: PreTrainedModel,
    small_teacher: PreTrainedModel,
    tokens: list[list[int]],
    logits: Tensor,
    tmp_path: Path,
) -> None:
    pytest.importorskip("textbrewer", reason="benchmarks/requirements.txt is not installed")
    epochs = batches(tokens)
    theirs = textbrewer_peer.distill(
        small_student, small_teacher, tokens, epochs, tmp_path, recipe_of(SCHEDULE)
    )
    entropies = [losses.entropy(logits[batch], TEMPERATURE).item() for e in epochs for batch in e]
    kl = np.asarray(theirs) - TEMPERATURE**2 * np.asarray(entropies)
    np.testing.assert_allclose(kl, ours, **CLOSE)


def test_textbrewer_on_its_cache_sees_the_losses_of_its_live_teacher(
    small_student: PreTrainedModel,
    small_teacher: PreTrainedModel,
    tokens: list[list[int]],
    tmp_path: Path,
) -> None:
    pytest.importorskip("textbrewer", reason="benchmarks/requirements.txt is not installed")
    # With so small a rate the student stays as it is, whatever the order of the batches.
    still = recipe_of(replace(SCHEDULE, learning_rate=1e-12))
    epochs = batches(tokens, replace(SCHEDULE, epochs=1))
    answers = textbrewer_peer.ask(small_teacher, tokens, epochs[0], tmp_path)
    live, cached = (
        textbrewer_peer.distill(
            copy.deepcopy(small_student),
            small_teacher,
            tokens,
            epochs,
            tmp_path,
            still,
            a,
        )
        for a in (None, answers)
    )
    np.testing.assert_allclose(sorted(cached), sorted(live), **CLOSE)


def test_losses_of_the_bare_trainer_are_those_of_fine_tune(
    small_student: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    trainer_losses: list[float],
    tmp_path: Path,
) -> None:
    fine_tune(copy.deepcopy(small_student), small_task, small_tokenizer, schedule=SCHEDULE)
    ours, trainer_losses[:] = list(trainer_losses), []
    fine_tune_row.train(small_student, small_task, small_tokenizer, SCHEDULE, tmp_path)
    assert len(ours) == 8
    np.testing.assert_allclose(trainer_losses, ours, **CLOSE)


def test_the_plain_loop_extracts_what_the_store_holds(
    small_teacher: PreTrainedModel, tokens: list[list[int]], logits: Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "logits.pt"
    plain = plain_loop.extract(small_teacher, tokens, file, batch_size=32)
    torch.testing.assert_close(plain, logits, rtol=0.0, atol=1e-5)
    assert torch.equal(torch.load(file), plain)


def test_without_textbrewer_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
    small_student: PreTrainedModel,
    tokens: list[list[int]],
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "textbrewer", None)
    with pytest.raises(UserError, match=r"^TextBrewer is missing .*benchmarks/requirements\.txt$"):
        textbrewer_peer.ask(small_student, tokens, [[0]], tmp_path)


# --- the material -------------------------------------------------------------------------------


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("examples", [1, 50, 126, 127, 300])
def test_a_resized_split_has_so_many_rows_with_ids_of_their_own(
    small_task: Task, examples: int
) -> None:
    data = material.resized(small_task.transfer, examples)
    assert len(data) == examples
    assert len(set(data["id"][:])) == examples
    assert data.features == small_task.transfer.features
    kept = set(zip(*(small_task.transfer[c][:] for c in ("text", "content_hash")), strict=True))
    assert set(zip(*(data[c][:] for c in ("text", "content_hash")), strict=True)) <= kept


def test_a_shortened_split_keeps_the_share_of_each_topic(small_task: Task) -> None:
    topic: Callable[[Any], Counter[str]] = lambda data: Counter(  # noqa: E731
        group.partition("-")[0] for group in data["group"][:]
    )
    whole, half = small_task.transfer, material.resized(small_task.transfer, 63)
    assert all(abs(2 * topic(half)[name] - n) <= 2 for name, n in topic(whole).items())


def test_a_lengthened_split_is_as_long_on_average(small_task: Task) -> None:
    whole, longer = small_task.transfer, material.resized(small_task.transfer, 10 * 126)
    assert mean([len(t) for t in longer["text"][:]]) == mean([len(t) for t in whole["text"][:]])


def test_batches_hold_each_row_once_an_epoch_and_differ_between_epochs() -> None:
    lengths = list(np.random.default_rng(0).integers(4, 48, 100))
    one, other = material.batches(lengths, SCHEDULE)
    for epoch in (one, other):
        assert sorted(i for batch in epoch for i in batch) == list(range(100))
        assert [len(batch) for batch in epoch] == [16] * 6 + [4]
    assert one != other
