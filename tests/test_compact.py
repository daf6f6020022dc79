"""Laws of training only the word embeddings that the training examples meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_bert
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from distill_lab import training
from distill_lab.compact import CompactEmbedding, compacted, met_rows
from distill_lab.knowledge import extract
from distill_lab.tasks import Task
from distill_lab.training import Schedule, distill

SCHEDULE = Schedule(
    epochs=2, learning_rate=5e-3, batch_size=16, device="cpu", dtype="float32", weight_decay=0.0
)
WIDER = 300  # rows; the small task's vocabulary of about 100 is met almost whole


def wide_student(seed: int = 2) -> PreTrainedModel:
    """A student with many word pieces that no text has, and dropout."""
    set_seed(seed)
    student = small_bert(layers=2, width=16, heads=2)
    student.resize_token_embeddings(WIDER, mean_resizing=False)
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    return student.train()


def table(model: PreTrainedModel) -> Tensor:
    return model.get_input_embeddings().weight.detach().clone()


@contextmanager
def not_compacted(*_: object) -> Iterator[None]:
    yield


# --- the embedding in two parts ----------------------------------------------------------------


def test_it_gives_the_full_embedding_s_rows_in_both_modes() -> None:
    full = nn.Embedding(10, 4, padding_idx=0)
    compact = CompactEmbedding(full, torch.tensor([0, 3, 7]))
    met, any_ids = torch.tensor([[3, 7, 0]]), torch.arange(10)[None]
    assert compact.train()(met).equal(full(met))
    assert compact.eval()(any_ids).equal(full(any_ids))
    assert compact.weight.equal(full.weight)


def test_only_met_rows_learn_and_nothing_is_sent_round_in_each_step() -> None:
    compact = CompactEmbedding(nn.Embedding(10, 4), torch.tensor([3, 7]))
    assert [tuple(p.shape) for p in compact.parameters() if p.requires_grad] == [(2, 4)]
    assert not list(compact.buffers())


def test_a_row_that_is_not_met_is_refused_while_training() -> None:
    compact = CompactEmbedding(nn.Embedding(10, 4), torch.tensor([3, 7])).train()
    with pytest.raises(IndexError):
        compact(torch.tensor([[5]]))


def test_padding_gets_no_gradient() -> None:
    compact = CompactEmbedding(nn.Embedding(10, 4, padding_idx=7), torch.tensor([3, 7])).train()
    compact(torch.tensor([[3, 7]])).sum().backward()
    assert compact.met.grad is not None
    assert compact.met.grad.tolist() == [[1.0] * 4, [0.0] * 4]


def test_met_rows_are_those_of_the_data_and_padding(small_task: Task, small_tokenizer: Any) -> None:
    data = small_task.encode("labelled", small_tokenizer)
    expected = {i for row in data["input_ids"][:] for i in row}
    assert set(met_rows(data).tolist()) == expected
    assert set(met_rows(data, 299, None, 298).tolist()) == expected | {298, 299}
    few = data.select([5, 2])
    assert set(met_rows(few).tolist()) == {i for row in few["input_ids"][:] for i in row}


# --- a model with it ---------------------------------------------------------------------------


def test_training_learns_the_same_weights_as_with_all_rows(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = extract(small_teacher, small_task, small_tokenizer, tmp_path, device="cpu")
    one, other = wide_student(), wide_student()
    ours = distill(one, store, small_task, small_tokenizer, schedule=SCHEDULE)
    monkeypatch.setattr(training, "compacted", not_compacted)
    theirs = distill(other, store, small_task, small_tokenizer, schedule=SCHEDULE)
    assert [x for _, x in ours.curve] == pytest.approx([x for _, x in theirs.curve], abs=1e-6)
    assert ours.epochs == theirs.epochs
    expected = dict(other.named_parameters())
    for name, value in one.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_met_rows_learn_and_the_others_keep_their_values_in_spite_of_weight_decay(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: Any, tmp_path: Path
) -> None:
    store = extract(small_teacher, small_task, small_tokenizer, tmp_path, device="cpu")
    student = wide_student()
    before = table(student)
    schedule = Schedule(epochs=1, batch_size=16, device="cpu", weight_decay=0.1)
    distill(student, store, small_task, small_tokenizer, schedule=schedule)
    met = met_rows(small_task.encode("transfer", small_tokenizer))
    unmet = [k for k in range(WIDER) if k not in set(met.tolist())]
    changed = (table(student) != before).any(1)
    assert changed[met].all()
    assert not changed[unmet].any()


def test_the_model_has_its_own_embedding_again_however_the_block_ends(
    small_task: Task, small_tokenizer: Any
) -> None:
    student = wide_student()
    full, data = student.get_input_embeddings(), small_task.encode("labelled", small_tokenizer)
    with pytest.raises(KeyboardInterrupt), compacted(student, data, small_tokenizer.pad_token_id):
        compact = student.get_input_embeddings()
        assert isinstance(compact, CompactEmbedding)
        with torch.no_grad():
            compact.met += 1.0
        raise KeyboardInterrupt
    assert student.get_input_embeddings() is full
    assert full.weight.requires_grad
    changed = (table(student) - table(wide_student())).abs().max(1).values.round().bool()
    assert set(changed.nonzero().flatten().tolist()) == set(
        met_rows(data, small_tokenizer.pad_token_id).tolist()
    )


class Scaled(nn.Embedding):
    """An embedding of another kind."""


LEFT_ALONE = (
    *("frozen", "met almost whole", "without a row that is met", "of another kind", "renormed"),
    *("tied", "no ids"),
)


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_it_leaves_a_model_as_it_is_that_is(
    why: str, small_task: Task, small_tokenizer: Any
) -> None:
    student, data = wide_student(), small_task.encode("transfer", small_tokenizer)
    met = met_rows(data, small_tokenizer.pad_token_id)
    if why == "frozen":
        student.get_input_embeddings().weight.requires_grad_(False)
    elif why == "met almost whole":
        ids = [list(range(280)) for _ in range(len(data))]
        data = data.remove_columns("input_ids").add_column("input_ids", ids)
    elif why == "without a row that is met":
        student.resize_token_embeddings(int(met[-1]), mean_resizing=False)
    elif why == "of another kind":
        student.set_input_embeddings(Scaled(WIDER, 16))
    elif why == "renormed":
        student.get_input_embeddings().max_norm = 1.0
    elif why == "tied":
        student.decoder = nn.Linear(16, WIDER, bias=False)
        student.decoder.weight = student.get_input_embeddings().weight
    else:
        data = data.remove_columns("input_ids")
    before = student.get_input_embeddings()
    with compacted(student, data, small_tokenizer.pad_token_id):
        assert student.get_input_embeddings() is before
