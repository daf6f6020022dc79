"""Laws of attention in the open: what is computed stays the same, and the maps are whole."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_lab.attention import attention_in_the_open
from distill_lab.knowledge import observe
from distill_lab.tasks import Task

MAPS = ("attentions.layer.0", "attentions.layer.1")


@pytest.fixture
def batch(small_task: Task, small_tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Sentences of different lengths."""
    rows = small_task.encode("test", small_tokenizer)
    return dict(small_task.collator(small_tokenizer)([rows[k] for k in range(8)]))


def dropping(model: PreTrainedModel, p: float) -> PreTrainedModel:
    """Copy a model, awake, with dropout in its attention alone."""
    model = copy.deepcopy(model).train()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = p if name.endswith("attention.self.dropout") else 0.0
    return model


def test_maps_of_a_model_in_training_are_whole_distributions(
    small_student: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> None:
    awake, asleep = dropping(small_student, 0.5), copy.deepcopy(small_student).eval()
    ours, theirs = observe(awake, batch, MAPS[:1]), observe(asleep, batch, MAPS[:1])
    torch.testing.assert_close(ours[MAPS[0]], theirs[MAPS[0]])  # the first block's: nothing dropped
    torch.testing.assert_close(ours[MAPS[0]].sum(-1), torch.ones_like(ours[MAPS[0]][..., 0]))


def test_what_is_attended_to_still_drops_out(
    small_student: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> None:
    awake, still = dropping(small_student, 0.5), dropping(small_student, 0.0)
    first, second, whole = (
        observe(model, batch, ("logits", MAPS[0]))["logits"] for model in (awake, awake, still)
    )
    assert not torch.equal(first, second)
    torch.testing.assert_close(whole, observe(small_student.eval(), batch)["logits"])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_model_computes_afterwards_as_before(
    implementation: str, small_student: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> None:
    small_student.set_attn_implementation(implementation)
    before = observe(small_student.eval(), batch)["logits"]
    with pytest.raises(ZeroDivisionError), attention_in_the_open(small_student):
        raise ZeroDivisionError
    assert small_student.config._attn_implementation == implementation
    found = observe(small_student, batch, ("logits", *MAPS))
    assert small_student.config._attn_implementation == implementation
    torch.testing.assert_close(found["logits"], before)
    assert torch.equal(observe(small_student, batch)["logits"], before)


def test_maps_are_those_of_transformers_where_nothing_drops_out(
    small_teacher: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> None:
    ours = observe(small_teacher.eval(), batch, MAPS)
    small_teacher.set_attn_implementation("eager")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs = small_teacher(**inputs, output_attentions=True).attentions
    for k, name in enumerate(MAPS):
        torch.testing.assert_close(ours[name], theirs[k])
