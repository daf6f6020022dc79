"""A teacher's knowledge: observed, stored, read back, and refused where it does not fit."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTConfig,
    ViTForImageClassification,
)

from distill_lab import knowledge
from distill_lab.errors import UserError
from distill_lab.knowledge import (
    PREFIX,
    FrozenTeacher,
    KnowledgeStore,
    LiveTeacher,
    check_apart,
    extract,
    masked_mean,
    observe,
    pack,
    parse_feature,
    top_k_compress,
    top_k_expand,
)
from distill_lab.tasks import Task
from distill_lab.vocabulary import prune_to_texts

FEATURES = (
    "logits",
    "pooled.layer.3",
    "hidden_states.embeddings",
    "hidden_states.layer.1",
    "attentions.layer.0",
    "query.layer.2",
    "key.layer.2",
    "value.layer.3",
)
Batch = dict[str, Any]


@contextmanager
def refused(match: str) -> Iterator[None]:
    """A refusal that matches, and stands in one line."""
    with pytest.raises(UserError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def batches(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "transfer",
    size: int = 9,
    seed: int | None = None,
) -> Iterator[Batch]:
    """Collated batches of a split: the longest first, or in an order drawn from a seed."""
    data = task.encode(split, tokenizer)
    lengths = np.asarray(data["length"][:])
    order = np.argsort(-lengths, kind="stable")
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(order))
    collate = task.collator(tokenizer)
    for start in range(0, len(order), size):
        yield collate(data.select(order[start : start + size]).to_list())


def one_batch(task: Task, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Batch:
    return next(batches(task, tokenizer, **options))


def quick(
    teacher: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    **options: Any,
) -> KnowledgeStore:
    """Extract on the CPU in float32, three shards of at most 45 examples."""
    given = {"device": "cpu", "dtype": "float32", "batch_size": 9, "shard_size": 45}
    return extract(teacher, task, tokenizer, folder, **(given | options))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory,
    small_task: Task,
    _teacher: PreTrainedModel,
    _tokenizer: PreTrainedTokenizerBase,
) -> KnowledgeStore:
    """All features of the small teacher; no test changes it."""
    folder = tmp_path_factory.mktemp("stored") / "knowledge"
    teacher, tokenizer = copy.deepcopy(_teacher), copy.deepcopy(_tokenizer)
    return quick(teacher, small_task, tokenizer, folder, features=FEATURES)


# --- observing ---------------------------------------------------------------------------------


def test_features_are_what_the_blocks_give(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = one_batch(small_task, small_tokenizer, seed=0)
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            caught[name] = output[0] if isinstance(output, tuple) else output

        return hook

    blocks = small_teacher.bert.encoder.layer
    small_teacher.bert.embeddings.register_forward_hook(keep("embeddings"))
    for k, block in enumerate(blocks):
        block.register_forward_hook(keep(f"layer.{k}"))
    with torch.no_grad():
        found = observe(small_teacher, batch, FEATURES)

    assert tuple(found) == FEATURES
    torch.testing.assert_close(found["hidden_states.embeddings"], caught["embeddings"])
    torch.testing.assert_close(found["hidden_states.layer.1"], caught["layer.1"])
    into = caught["layer.1"]  # what block 2 is given
    attention = blocks[2].attention.self
    torch.testing.assert_close(found["query.layer.2"], attention.query(into))
    torch.testing.assert_close(found["key.layer.2"], attention.key(into))
    torch.testing.assert_close(
        found["value.layer.3"], blocks[3].attention.self.value(caught["layer.2"])
    )
    pooled = [
        states[mask.bool()].mean(0)
        for states, mask in zip(caught["layer.3"], batch["attention_mask"], strict=True)
    ]
    torch.testing.assert_close(found["pooled.layer.3"], torch.stack(pooled))

    # Attention probabilities by their definition: softmax(QKᵀ/√d), padded keys left out.
    attention, heads = blocks[0].attention.self, 4
    query, key = (
        m(caught["embeddings"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for m in (attention.query, attention.key)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(batch["attention_mask"][:, None, None] == 0, -torch.inf)
    torch.testing.assert_close(found["attentions.layer.0"], scores.softmax(-1))


def test_observing_leaves_no_hook_behind(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in small_teacher.modules())

    batch = one_batch(small_task, small_tokenizer)
    before = hooks()  # transformers' own
    observe(small_teacher, batch, ["query.layer.0"])
    with refused("no encoder layer is called 'layer.9'"):
        observe(small_teacher, batch, ["query.layer.0", "key.layer.9"])
    assert hooks() == before


def test_a_student_is_observed_with_gradients(
    small_student: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = one_batch(small_task, small_tokenizer)
    found = observe(small_student, batch, ["logits", "value.layer.1", "pooled.layer.0"])
    assert all(value.requires_grad for value in found.values())


def test_what_belongs_to_no_model_is_not_fed(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = one_batch(small_task, small_tokenizer)
    plain = observe(small_teacher, batch)["logits"]
    more = batch | {f"{PREFIX}logits": plain.detach(), "labels": torch.full((9,), -100)}
    torch.testing.assert_close(observe(small_teacher, more)["logits"], plain)


@given(
    states=hnp.arrays(np.float64, (3, 5, 2), elements=st.floats(-1e3, 1e3)),
    mask=hnp.arrays(np.bool_, (3, 5)),
)
def test_pooling_is_the_mean_over_unmasked_tokens(states: np.ndarray, mask: np.ndarray) -> None:
    found = masked_mean(torch.from_numpy(states), torch.from_numpy(mask)).numpy()
    for row, kept, value in zip(states, mask, found, strict=True):
        expected = row[kept].mean(0) if kept.any() else np.zeros(2)
        np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["logit", "hidden_states", "hidden_states.", "states.layer.0", "logits.layer.0", ""]
)
def test_an_unknown_feature_is_refused(name: str) -> None:
    with refused(f"no feature is called '{name}'; choose logits, or one of pooled, hidden_states"):
        parse_feature(name)


# --- a teacher cannot wake ---------------------------------------------------------------------


def test_a_teacher_cannot_wake(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    for module in small_teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    batch = one_batch(small_task, small_tokenizer)
    expected = small_teacher(batch["input_ids"], batch["attention_mask"]).logits.detach()
    frozen = FrozenTeacher(small_teacher)

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = frozen
            self.student = nn.Linear(2, 2)

    def asleep() -> bool:
        return not (
            any(module.training for module in frozen.modules())
            or any(p.requires_grad for p in frozen.parameters())
        )

    owner = Owner()
    assert asleep()
    owner.train()
    frozen.train()
    assert owner.student.training
    assert asleep()
    owner.requires_grad_(True)
    small_teacher.train()  # behind its back
    assert not asleep()
    logits = frozen(batch, ["logits"])["logits"]
    assert asleep()
    torch.testing.assert_close(logits, expected)


def test_a_teachers_signal_enters_a_loss_and_carries_no_gradient(
    small_teacher: PreTrainedModel, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    found = LiveTeacher(small_teacher, FEATURES)(one_batch(small_task, small_tokenizer))
    for value in found.values():
        assert not value.requires_grad
        assert not value.is_inference()
        weight = torch.ones(value.shape[-1], requires_grad=True)
        (value * weight).sum().backward()  # saves the teacher's tensor for backward
        assert weight.grad is not None
    assert all(p.grad is None for p in small_teacher.parameters())


def test_student_and_teacher_sharing_parameters_are_refused(
    small_teacher: PreTrainedModel, small_student: PreTrainedModel
) -> None:
    check_apart(small_student, small_teacher)
    check_apart(copy.deepcopy(small_teacher), FrozenTeacher(small_teacher))
    with refused("student and teacher share parameters"):
        check_apart(small_teacher, FrozenTeacher(small_teacher))
    small_student.bert.pooler.dense.bias = nn.Parameter(small_teacher.classifier.weight[0, :16])
    with refused(r"share parameters \(bert.pooler.dense.bias, 1 in all\)"):
        check_apart(small_student, small_teacher)


# --- stored knowledge is live knowledge --------------------------------------------------------


def assert_same_knowledge(
    stored: Mapping[str, Tensor], live: Mapping[str, Tensor], *, rtol: float, atol: float
) -> None:
    assert set(stored) == set(live)
    for key, value in live.items():
        assert stored[key].dtype == value.dtype == torch.float32
        exact = key == f"{PREFIX}logits"  # float32 in any store
        torch.testing.assert_close(
            stored[key],
            value,
            rtol=min(rtol, 1e-5) if exact else rtol,
            atol=min(atol, 1e-5) if exact else atol,
            msg=lambda text, key=key: f"{key}: {text}",
        )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("stored_dtype", "rtol", "atol"), [("float32", 1e-5, 1e-5), ("float16", 1e-3, 1e-3)]
)
def test_stored_knowledge_equals_live(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    side: str,
    stored_dtype: str,
    rtol: float,
    atol: float,
) -> None:
    small_tokenizer.padding_side = side
    store = quick(
        small_teacher,
        small_task,
        small_tokenizer,
        tmp_path / "store",
        features=FEATURES,
        stored_dtype=stored_dtype,
    )
    live = LiveTeacher(small_teacher, store.features)
    # BERT counts positions from the padding on, so batches padded on the left are those extracted.
    seed = None if side == "left" else 1
    seen = []
    for batch in batches(small_task, small_tokenizer, seed=seed):
        assert_same_knowledge(store(batch), live(batch), rtol=rtol, atol=atol)
        seen += batch["id"]
    assert sorted(seen) == sorted(small_task.transfer["id"][:])
    assert len(store) == len(seen)
    assert set(store.features) == set(FEATURES)


def test_padding_is_zero_live_and_stored(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    batch = one_batch(small_task, small_tokenizer, seed=2)
    padded = batch["attention_mask"] == 0
    assert padded.any()
    for found in (stored(batch), LiveTeacher(small_teacher, FEATURES)(batch)):
        assert not found["teacher_hidden_states.layer.1"][padded].any()
        assert not found["teacher_query.layer.2"][padded].any()
        maps = found["teacher_attentions.layer.0"]
        assert not maps.transpose(1, 2)[padded].any()
        assert not maps.permute(0, 3, 1, 2)[padded].any()


@pytest.mark.parametrize("joined_bytes", [0, knowledge.JOINED_BYTES])
def test_reading_a_subset_in_another_order(
    joined_bytes: int,
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(knowledge, "JOINED_BYTES", joined_bytes)
    stored = KnowledgeStore(stored.folder)
    data = small_task.encode("labelled", small_tokenizer)
    stored.check(data, processor=small_tokenizer, max_length=24, teacher=small_teacher)
    order = np.random.default_rng(4).permutation(len(data))[:40]
    batch = small_task.collator(small_tokenizer)(data.select(order).to_list())
    rows = stored.rows(batch["id"])
    assert len(set(np.searchsorted(stored._starts, rows, side="right"))) == 3, "from all shards"
    found = stored(batch)
    live = LiveTeacher(small_teacher, stored.features)(batch)
    assert_same_knowledge(found, live, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stored.logits(batch["id"]), found["teacher_logits"])
    twice = stored.logits([batch["id"][3], batch["id"][0], batch["id"][3]])
    torch.testing.assert_close(twice, found["teacher_logits"][[3, 0, 3]])


def test_what_is_read_may_be_changed_and_the_store_stays(
    stored: KnowledgeStore, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = one_batch(small_task, small_tokenizer)
    before = {key: value.clone() for key, value in stored(batch).items()}
    for value in stored(batch).values():
        value.add_(1.0)
    for key, value in stored(batch).items():
        assert torch.equal(value, before[key])


@settings(max_examples=50, deadline=None)
@given(mask=hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 6))))
def test_padding_that_was_cut_off_is_laid_back_where_it_was(mask: np.ndarray) -> None:
    kept = torch.from_numpy(mask)
    batch, tokens = kept.shape
    states = torch.randn(batch, tokens, 3) * kept[..., None]
    maps = torch.randn(batch, 2, tokens, tokens) * (kept[:, None, :, None] & kept[:, None, None])
    for name, value in (("hidden_states.layer.0", states), ("attentions.layer.0", maps)):
        flat = knowledge._unpadded(name, value, kept)
        assert sum(v.size for v in flat) == sum(
            (n * 3 if value is states else 2 * n * n) for n in kept.sum(1).tolist()
        ), "padding is not stored"
        if mask.any():
            back = knowledge._padded(name.partition(".")[0], flat, kept)
            assert torch.equal(back, value)


def test_images_are_stored_without_a_mask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    config.intermediate_size = 32
    config.id2label = {0: "a", 1: "b"}
    teacher = ViTForImageClassification(config)
    pixels = torch.randn(5, 3, 8, 8)
    data = Dataset.from_dict(
        {
            "id": list("vwxyz"),
            "content_hash": list("VWXYZ"),
            "pixel_values": pixels.numpy(),
        }
    )

    def collate(rows: list[dict[str, Any]]) -> Batch:
        return {
            "id": [row["id"] for row in rows],
            "pixel_values": torch.tensor([row["pixel_values"] for row in rows]),
        }

    task = SimpleNamespace(
        num_classes=2,
        label_names=("a", "b"),
        max_length=0,
        encode=lambda split, processor: data,
        collator=lambda processor: collate,
    )
    processor = SimpleNamespace(to_dict=lambda: {"size": 8})
    features = ("pooled.layer.1", "hidden_states.layer.0", "attentions.layer.1", "key.layer.0")
    store = quick(
        teacher,
        task,  # type: ignore[arg-type]
        processor,  # type: ignore[arg-type]
        tmp_path / "store",
        features=features,
        batch_size=2,
        shard_size=3,
    )
    batch = collate(data.select([4, 0, 2]).to_list())
    live = LiveTeacher(teacher, store.features)
    assert live(batch)["teacher_attentions.layer.1"].shape == (3, 2, 5, 5)
    assert_same_knowledge(store(batch), live(batch), rtol=1e-5, atol=1e-5)


# --- top k -------------------------------------------------------------------------------------


@given(
    logits=hnp.arrays(np.float64, (3, 6), elements=st.floats(-30, 30)),
    k=st.integers(1, 6),
)
def test_top_k_keeps_the_tail_mass(logits: np.ndarray, k: int) -> None:
    exact = np.exp(logits - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    parts = top_k_compress(torch.from_numpy(logits), k)
    found = top_k_expand(parts, 6).double().softmax(-1).numpy()
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    for row, classes, kept in zip(exact, parts["top_classes"].numpy(), found, strict=True):
        assert len(set(classes.tolist())) == k
        others = np.setdiff1d(np.arange(6), classes)
        assert row[classes].min() >= np.max(row[others], initial=0.0) * (1 - 1e-5)
        np.testing.assert_allclose(kept[classes], row[classes], rtol=1e-4)
        np.testing.assert_allclose(kept[others].sum(), row[others].sum(), rtol=1e-4)
        if len(others):
            np.testing.assert_allclose(kept[others], kept[others].mean(), rtol=1e-6)


@given(logits=hnp.arrays(np.float32, (3, 6), elements=st.floats(-1e4, 1e4, width=32)))
def test_top_k_of_all_classes_is_exact(logits: np.ndarray) -> None:
    parts = top_k_compress(torch.from_numpy(logits), 6)
    assert torch.isneginf(parts["log_tail"]).all()
    expected = torch.from_numpy(logits).log_softmax(-1)
    torch.testing.assert_close(top_k_expand(parts, 6), expected, rtol=0, atol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_store_of_the_top_k_gives_the_teachers_probabilities(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    k: int,
) -> None:
    store = quick(small_teacher, small_task, small_tokenizer, tmp_path / "store", top_k=k)
    batch = one_batch(small_task, small_tokenizer, seed=3)
    live = LiveTeacher(small_teacher)(batch)["teacher_logits"].softmax(-1)
    found = store(batch)["teacher_logits"].softmax(-1)
    top = live.topk(k, dim=-1).indices
    torch.testing.assert_close(found.gather(1, top), live.gather(1, top), rtol=1e-4, atol=1e-6)
    if k >= 2:  # of three classes, one at most is in the tail
        torch.testing.assert_close(found, live, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(store.logits(batch["id"]).softmax(-1), found)


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_beyond_the_classes_is_refused(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    k: int,
) -> None:
    with refused(f"top_k is {k}; expected 1 to 3, the classes"):
        quick(small_teacher, small_task, small_tokenizer, tmp_path / "store", top_k=k)


# --- a store is bound to what made it ----------------------------------------------------------


def change_one_weight(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        model.bert.encoder.layer[2].output.dense.weight[3, 4] += 0.5
    return model


def test_another_teacher_is_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    data = small_task.encode("transfer", small_tokenizer)
    stored.check(data, teacher=small_teacher)
    change_one_weight(small_teacher)
    with refused("does not fit: a teacher with other weights made it; extract from this one"):
        stored.check(data, teacher=small_teacher)
    with refused("was made with another teacher; give another folder, or delete it"):
        quick(small_teacher, small_task, small_tokenizer, stored.folder, features=FEATURES)


def test_a_tokenizer_pruned_from_the_stores_is_accepted(
    stored: KnowledgeStore, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = small_task.transfer["text"][:]
    pruned = prune_to_texts(small_tokenizer, texts, small_task.max_length).tokenizer
    data = small_task.encode("transfer", pruned)
    stored.check(data, processor=pruned, max_length=small_task.max_length)
    ours, theirs = (next(batches(small_task, tokenizer)) for tokenizer in (pruned, small_tokenizer))
    assert not torch.equal(ours["input_ids"], theirs["input_ids"])
    for name, value in stored(theirs).items():
        assert torch.equal(stored(ours)[name], value)


def test_another_tokenizer_is_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    data = small_task.encode("transfer", small_tokenizer)
    small_tokenizer("we saw", padding="max_length", max_length=9, truncation=True)
    stored.check(data, processor=small_tokenizer)
    small_tokenizer.add_tokens(["daffodil"])
    with refused("does not fit: another tokenizer made it; give the teacher's tokenizer"):
        stored.check(data, processor=small_tokenizer)
    with refused("does not fit: another tokenizer made it"):  # one pruned from another tokenizer
        stored.check(data, processor=prune_to_texts(small_tokenizer, ["we saw"], 9).tokenizer)
    with refused("was made with another tokenizer;"):
        quick(small_teacher, small_task, small_tokenizer, stored.folder, features=FEATURES)


def test_another_length_is_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    shorter = replace(small_task, max_length=8)
    data = shorter.encode("transfer", small_tokenizer)
    with refused("made with max length 24 tokens, not 8; use --max-length 24"):
        stored.check(data, max_length=8)
    with refused(r"another max length \(24, now 8\)"):
        quick(small_teacher, shorter, small_tokenizer, stored.folder, features=FEATURES)
    with refused(r"has 8 tokens here and 1\d in the store; use the tokenizer and the max length"):
        stored(one_batch(shorter, small_tokenizer))


def test_other_features_are_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    data = small_task.encode("transfer", small_tokenizer)
    stored.check(data, features=FEATURES)
    with refused(r"it has no query.layer.0 \(it has attentions.layer.0, .*; extract with these"):
        stored.check(data, features=["logits", "query.layer.0"])
    with refused(r"another features \("):
        quick(small_teacher, small_task, small_tokenizer, stored.folder)


def test_another_dtype_is_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    for options, now in (
        ({"stored_dtype": "float16"}, "float32 → float16"),
        ({"dtype": "bfloat16"}, "bfloat16 → float32"),
    ):
        with refused(rf"was made with another dtype \(float32 → float32, now {now}\);"):
            quick(
                small_teacher,
                small_task,
                small_tokenizer,
                stored.folder,
                features=FEATURES,
                **options,
            )
    with refused("stored dtype 'int8'; choose float32 or float16"):
        quick(small_teacher, small_task, small_tokenizer, stored.folder, stored_dtype="int8")


def test_a_text_that_changed_is_refused(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = small_task.transfer.to_list()
    rows[7]["content_hash"] = "0" * 32
    changed = replace(small_task, transfer=Dataset.from_list(rows))
    with refused(f"content of example '{rows[7]['id']}' has changed since; extract again"):
        stored.check(changed.encode("transfer", small_tokenizer))
    with refused("was begun for other examples, or their content has changed"):
        quick(small_teacher, changed, small_tokenizer, stored.folder, features=FEATURES)


def test_an_id_that_is_missing_is_refused(
    stored: KnowledgeStore, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = small_task.encode("test", small_tokenizer)
    first = data[0]["id"]
    assert first not in stored
    assert small_task.transfer[0]["id"] in stored
    with refused(f"it has no example '{first}'; extract from this task"):
        stored.check(data)
    for read in (stored, lambda batch: stored.logits(batch["id"])):
        with refused("it has no example '.*'; extract from this task"):
            read(one_batch(small_task, small_tokenizer, split="test"))


def test_values_a_token_are_not_read_without_a_mask(
    stored: KnowledgeStore, small_task: Task
) -> None:
    with refused("has a value a token; reading it needs the batch's attention_mask"):
        stored({"id": small_task.transfer["id"][:]})


# --- what is no store --------------------------------------------------------------------------


def test_a_folder_that_is_no_store_is_refused(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    with refused("no knowledge store at .*; make one with: distill-lab extract"):
        KnowledgeStore(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with refused("holds something else; give a new or empty one"):
        quick(small_teacher, small_task, small_tokenizer, tmp_path)
    assert files(tmp_path) == {"thesis.txt": b"mine"}
    for text in ("{", "[]", '{"other": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        with refused("is no manifest of a knowledge store; delete the folder"):
            KnowledgeStore(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with refused("has format 99, this version reads 1; extract again"):
        KnowledgeStore(tmp_path)


def test_nothing_is_written_for_what_the_teacher_has_not(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    for feature, match in {
        "hidden_states.layer.4": "no encoder layer is called 'layer.4'; .* to layer.3",
        "attentions.embeddings": "no encoder layer is called 'embeddings'",
        "query.embeddings": "no encoder layer is called 'embeddings'",
        "gradients.layer.0": "no feature is called",
    }.items():
        with refused(match):
            quick(small_teacher, small_task, small_tokenizer, folder, features=[feature])
    with refused("batches of 9 and shards of 0; give at least 1"):
        quick(small_teacher, small_task, small_tokenizer, folder, shard_size=0)
    small_teacher.config.id2label = {0: "sea", 1: "garden", 2: "kitchen"}
    with refused("the teacher's classes are sea, garden, kitchen, the task's garden, kitchen, sea"):
        quick(small_teacher, small_task, small_tokenizer, folder)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "longer", "empty"])
def test_truncated_shard_is_refused(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    folder = tmp_path / "store"
    quick(small_teacher, small_task, small_tokenizer, folder)
    whole = files(folder)
    shard = folder / "shard-00001.arrow"
    data = whole[shard.name]
    shard.unlink()
    if damage != "missing":
        ends = {"truncated": data[: len(data) // 2], "longer": data + b"\0" * 8, "empty": b""}
        shard.write_bytes(ends[damage])
    with refused(r"shard-00001.arrow is missing, truncated or changed; repeat the extraction"):
        KnowledgeStore(folder)
    asked = count_questions(monkeypatch)
    quick(small_teacher, small_task, small_tokenizer, folder)  # as the message says
    assert asked == [5], "only this shard was made again: 45 examples in batches of 9"
    assert files(folder) == whole


# --- interruptions -----------------------------------------------------------------------------


def count_questions(
    monkeypatch: pytest.MonkeyPatch, interrupt_after: int | None = None
) -> list[int]:
    """Count the batches that a live teacher is asked about; be interrupted at one of them."""
    asked = [0]
    answer = LiveTeacher.__call__

    def counted(self: LiveTeacher, batch: Batch) -> dict[str, Tensor]:
        if asked[0] == interrupt_after:
            raise KeyboardInterrupt
        asked[0] += 1
        return answer(self, batch)

    monkeypatch.setattr(LiveTeacher, "__call__", counted)
    return asked


def test_extraction_goes_on_after_an_interruption(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    made = (small_teacher, small_task, small_tokenizer, folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_questions(patch, interrupt_after=7)  # in the second of three shards
        quick(*made, features=FEATURES)
    assert sorted(files(folder)) == ["manifest.json", "shard-00000.arrow"], "nothing half-written"
    with refused("is unfinished; repeat the extraction to go on"):
        KnowledgeStore(folder)
    first = (folder / "shard-00000.arrow").stat().st_mtime_ns

    with pytest.MonkeyPatch.context() as patch:
        asked = count_questions(patch)
        quick(*made, features=FEATURES)
    assert asked == [5 + 4], "the finished shard is not computed again"
    assert (folder / "shard-00000.arrow").stat().st_mtime_ns == first
    assert files(folder) == files(stored.folder), "as if nothing had happened"

    with pytest.MonkeyPatch.context() as patch:
        asked = count_questions(patch)
        quick(*made, features=FEATURES)
    assert asked == [0], "a complete store is opened"


def test_an_interrupted_extraction_does_not_go_on_with_another_teacher(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_questions(patch, interrupt_after=7)
        quick(small_teacher, small_task, small_tokenizer, folder)
    with refused("begun with shards of 45 examples, not 20"):
        quick(small_teacher, small_task, small_tokenizer, folder, shard_size=20)
    with refused("was made with another teacher"):
        quick(change_one_weight(small_teacher), small_task, small_tokenizer, folder)


@pytest.mark.parametrize("left", [".manifest.json.part", ".shard-00001.arrow.part"])
def test_what_a_killed_extraction_left_does_no_harm(
    stored: KnowledgeStore,
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    left: str,
) -> None:
    (tmp_path / left).write_bytes(b"half")
    quick(small_teacher, small_task, small_tokenizer, tmp_path, features=FEATURES)
    assert files(tmp_path) == files(stored.folder)


def test_auto_goes_on_in_the_dtype_that_it_began_with(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = (small_teacher, small_task, small_tokenizer, tmp_path / "store")
    pick = knowledge.pick_dtype
    for measured in (torch.bfloat16, torch.float32):  # the second time the measurement differs
        monkeypatch.setattr(
            knowledge,
            "pick_dtype",
            lambda device, name, m=measured: m if name == "auto" else pick(device, name),
        )
        store = quick(*made, dtype="auto")
        assert store.fingerprint["dtype"] == "bfloat16 → float32"


def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_shard(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knowledge, "pa", SimpleNamespace(**(vars(pa) | {"OSFile": _full})))
        with refused(r"the disk is full: .*shard-00000.arrow was not written; free some space"):
            quick(small_teacher, small_task, small_tokenizer, folder)
    assert list(files(folder)) == ["manifest.json"]
    assert len(quick(small_teacher, small_task, small_tokenizer, folder)) == 126


@contextmanager
def _full(path: str, mode: str) -> Iterator[pa.NativeFile]:
    """A file on a disk that fills when the file is closed, as a buffered one does."""
    with pa.OSFile(path, mode) as file:
        yield file
    raise OSError(errno.ENOSPC, "No space left on device")


def test_values_too_large_for_float16_are_refused(
    small_teacher: PreTrainedModel,
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    with torch.no_grad():
        small_teacher.bert.encoder.layer[3].output.LayerNorm.weight.fill_(1e6)
    with refused("a feature has values too large for float16; store float32"):
        quick(
            small_teacher,
            small_task,
            small_tokenizer,
            tmp_path / "store",
            features=["hidden_states.layer.3"],
            stored_dtype="float16",
        )
    assert list(files(tmp_path / "store")) == ["manifest.json"]


def test_the_manifest_says_what_the_store_holds(stored: KnowledgeStore, small_task: Task) -> None:
    manifest = json.loads((stored.folder / "manifest.json").read_text(encoding="utf-8"))
    shards = [path for path in stored.folder.iterdir() if path.suffix == ".arrow"]
    assert stored.bytes == sum(path.stat().st_size for path in shards)
    assert [shard["rows"] for shard in manifest["shards"]] == [45, 45, 36]
    assert manifest["examples"] == len(small_task.transfer)
    assert stored.classes == list(small_task.label_names)
    assert manifest["fingerprint"]["max_length"] == 24


# --- packing -----------------------------------------------------------------------------------


def test_a_packed_store_is_smaller_and_says_the_same(
    small_task: Task, small_tokenizer: Any, small_teacher: Any, tmp_path: Path
) -> None:
    store = extract(small_teacher, small_task, small_tokenizer, tmp_path / "store", shard_size=50)
    packed = pack(store, tmp_path / "packed")
    ids = small_task.transfer["id"][:]
    assert torch.equal(packed.logits(ids), store.logits(ids))
    assert packed.fingerprint == store.fingerprint
    assert packed.bytes < store.bytes
    packed.check(small_task.transfer, processor=small_tokenizer, teacher=small_teacher)


def test_only_logits_are_packed(
    small_task: Task, small_tokenizer: Any, small_teacher: Any, tmp_path: Path
) -> None:
    features = ("pooled.embeddings",)
    store = extract(
        small_teacher, small_task, small_tokenizer, tmp_path / "store", features=features
    )
    with pytest.raises(UserError, match="only logits"):
        pack(store, tmp_path / "packed")
