"""The reference answers of lesson 05 keep their laws and agree with the library."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lab import knowledge
from distill_lab.exercises.extraction import extract_logits, fingerprint
from distill_lab.exercises.lesson_05 import TOP_K_COMPRESS, teacher_logits
from distill_lab.exercises.objects import draw_batch, draw_classifier
from distill_lab.models import weights_fingerprint

SETTINGS: dict[str, str | int | float] = {"max_length": 128, "dtype": "float32"}
LENGTHS = (5, 2, 3, 1, 4, 2)
IDS = [f"text-{k}" for k in range(len(LENGTHS))]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


TEACHER = draw_classifier(generator(), layers=2)
TEXTS = draw_batch(generator(), LENGTHS)


def batch_of(rows: list[int], padding: int = 0) -> dict[str, Any]:
    """Some of the texts as a batch, padded to the longest of them and beyond."""
    tokens = max(LENGTHS[k] for k in rows)
    return {"id": [IDS[k] for k in rows]} | {
        name: torch.nn.functional.pad(value[rows, :tokens], (0, padding))
        for name, value in TEXTS.items()
    }


def test_logits_are_those_of_a_live_teacher() -> None:
    batch = batch_of([0, 1, 2])
    found = extract_logits(TEACHER.build(), [batch])
    live = knowledge.LiveTeacher(TEACHER.build())(batch)["teacher_logits"]
    torch.testing.assert_close(torch.stack([found[id] for id in batch["id"]]), live)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(len(IDS))), size=st.integers(1, 6), padding=st.integers(0, 3))
def test_order_batch_size_and_padding_change_nothing(
    order: list[int], size: int, padding: int
) -> None:
    batches = [batch_of(order[k : k + size], padding) for k in range(0, len(order), size)]
    found = extract_logits(TEACHER.build(), batches)
    assert sorted(found) == IDS
    expected = teacher_logits(TEACHER, TEXTS).float()
    torch.testing.assert_close(
        torch.stack([found[id] for id in IDS]), expected, rtol=1e-5, atol=1e-5
    )


def test_batches_may_come_one_by_one_and_be_none() -> None:
    found = extract_logits(TEACHER.build(), (batch_of([k]) for k in range(len(IDS))))
    assert list(found) == IDS
    assert extract_logits(TEACHER.build(), []) == {}


def test_an_awake_teacher_is_put_to_sleep_and_carries_no_gradient() -> None:
    teacher = draw_classifier(generator(), layers=2, dropout=0.5, training=("bert.encoder",))
    model = teacher.build()
    found = extract_logits(model, [batch_of([0, 1])])
    assert not any(module.training for module in model.modules())
    assert not any(row.requires_grad for row in found.values())
    expected = teacher_logits(teacher, batch_of([0, 1])).float()
    torch.testing.assert_close(torch.stack(list(found.values())), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_with_too_few_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        extract_logits(TEACHER.build(), [batch_of([0, 1]) | {"id": ["alone"]}])


def test_compression_is_the_librarys() -> None:
    assert TOP_K_COMPRESS.reference is knowledge.top_k_compress


# --- fingerprint ---------------------------------------------------------------------------------


def weights() -> dict[str, Tensor]:
    return TEACHER.build().state_dict()


CHANGES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a value": lambda w: w["classifier.bias"].add_(torch.tensor([0.0, 0.0, 1e-6])),
    "a sign of zero": lambda w: w["bert.embeddings.LayerNorm.bias"].neg_(),
    "a name": lambda w: w.update({"head.bias": w.pop("classifier.bias")}),
    "a shape": lambda w: w.update({"classifier.bias": w["classifier.bias"][:, None]}),
    "a dtype": lambda w: w.update({"classifier.bias": w["classifier.bias"].view(torch.int32)}),
    "one tensor less": lambda w: w.pop("classifier.bias"),
    "one empty tensor more": lambda w: w.update({"none": torch.zeros(0)}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_weights_changes_the_fingerprint(change: str) -> None:
    changed = weights()
    CHANGES[change](changed)
    assert fingerprint(changed, SETTINGS) != fingerprint(weights(), SETTINGS)


@given(
    settings_pair=st.tuples(
        *[st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3)] * 2
    )
)
def test_settings_have_the_same_fingerprint_only_if_equal(
    settings_pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    one, two = settings_pair
    assert (fingerprint({}, one) == fingerprint({}, two)) == (one == two)


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=0, max_size=4),
    cuts=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_where_one_tensor_ends_and_the_next_begins_counts(
    values: list[float], cuts: tuple[int, int]
) -> None:
    one, two = (min(cut, len(values)) for cut in cuts)
    whole = torch.tensor(values)
    prints = [fingerprint({"a": whole[:cut], "b": whole[cut:]}, {}) for cut in (one, two)]
    assert (prints[0] == prints[1]) == (one == two)


def test_neither_order_nor_layout_nor_gradients_change_the_fingerprint() -> None:
    plain = fingerprint(weights(), SETTINGS)
    turned = dict(reversed(weights().items()))
    assert fingerprint(turned, dict(reversed(SETTINGS.items()))) == plain
    strided = {n: w.T.contiguous().T if w.ndim == 2 else w for n, w in weights().items()}
    assert fingerprint(strided, SETTINGS) == plain
    assert fingerprint(dict(TEACHER.build().named_parameters()), SETTINGS) == plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_every_dtype_has_a_fingerprint(dtype: torch.dtype) -> None:
    ones, zeros = ({"a": torch.full((2,), x).to(dtype)} for x in (1, 0))
    assert fingerprint(ones, {}) != fingerprint(zeros, {})


def test_it_tells_models_apart_as_the_librarys_does() -> None:
    one, same = TEACHER.build(), TEACHER.build()
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.classifier.bias[0] += 1e-6
    for model, equal in ((same, True), (other, False)):
        ours = fingerprint(model.state_dict(), {}) == fingerprint(one.state_dict(), {})
        assert ours == (weights_fingerprint(model) == weights_fingerprint(one)) == equal
