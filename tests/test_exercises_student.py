"""The reference answers of lesson 06 keep their laws and agree with the library."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lab import models
from distill_lab.evaluation import bootstrap_weights
from distill_lab.exercises.lesson_06 import SVD_EMBEDDINGS
from distill_lab.exercises.objects import Classifier, draw_batch, draw_classifier
from distill_lab.exercises.student import (
    bootstrap_interval,
    distillation_step,
    init_from_teacher_layers,
    train_epoch,
)
from distill_lab.training import DistillationModel, Objective


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STUDENT = draw_classifier(generator(1), layers=2)
TEACHER = draw_classifier(generator(2), layers=4)


def batch(rows: int, seed: int = 0) -> dict[str, Tensor]:
    drawn = generator(seed)
    lengths = tuple(1 + k % 3 for k in range(rows))
    return {
        **draw_batch(drawn, lengths),
        "labels": torch.tensor([k % 3 if k % 2 == 0 else -100 for k in range(rows)]),
        "teacher_logits": torch.randn(rows, 3, generator=drawn),
    }


def sgd(model: torch.nn.Module, rate: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=rate)


# --- init_from_teacher_layers --------------------------------------------------------------------


def test_blocks_are_those_of_the_library_and_word_embeddings_are_copied_too() -> None:
    layer_map = {"layer.0": "layer.1", "layer.1": "layer.3"}
    ours, librarys, teacher = STUDENT.build(), STUDENT.build(), TEACHER.build()
    init_from_teacher_layers(ours, teacher, layer_map)
    models.init_from_teacher_layers(librarys, teacher, layer_map)
    words = "bert.embeddings.word_embeddings.weight"
    for name, value in librarys.state_dict().items():
        source = teacher.state_dict()[name] if name == words else value
        assert torch.equal(ours.state_dict()[name], source), name


def test_beginning_twice_is_beginning_once_and_the_teacher_stays_apart() -> None:
    student, teacher = STUDENT.build(), TEACHER.build()
    init_from_teacher_layers(student, teacher, {"layer.0": "layer.2"})
    once = {name: value.clone() for name, value in student.state_dict().items()}
    init_from_teacher_layers(student, teacher, {"layer.0": "layer.2"})
    assert all(torch.equal(value, once[name]) for name, value in student.state_dict().items())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(
        torch.equal(value, TEACHER.weights[name]) for name, value in teacher.state_dict().items()
    )


def test_a_student_as_deep_as_its_teacher_becomes_its_twin() -> None:
    student, teacher = draw_classifier(generator(3), layers=4).build(), TEACHER.build()
    init_from_teacher_layers(student, teacher, {f"layer.{k}": f"layer.{k}" for k in range(4)})
    inputs = draw_batch(generator(), (3, 2))
    assert torch.equal(student(**inputs).logits, teacher(**inputs).logits)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError):
        init_from_teacher_layers(STUDENT.build(), TEACHER.build(), {"layer.0": "layer.4"})


def test_embeddings_are_cut_by_the_library() -> None:
    assert SVD_EMBEDDINGS.reference is models.svd_embeddings


# --- distillation_step and train_epoch -----------------------------------------------------------


@pytest.mark.parametrize(("temperature", "alpha"), [(2.0, 0.5), (1.0, 0.0), (4.0, 1.0)])
def test_the_loss_of_a_step_is_the_librarys_objective(temperature: float, alpha: float) -> None:
    objective = Objective(alpha=alpha, temperature=temperature)
    model = DistillationModel(STUDENT.build(), objective).train()
    student = STUDENT.build()
    value = distillation_step(
        student, batch(4), sgd(student, 0.1), temperature=temperature, alpha=alpha
    )
    assert value == pytest.approx(model(batch(4))["loss"].item(), rel=1e-5)


def test_steps_on_one_batch_lower_its_loss() -> None:
    student = STUDENT.build()
    optimizer = sgd(student, 0.05)
    losses = [distillation_step(student, batch(4), optimizer, alpha=1.0) for _ in range(20)]
    assert losses[-1] < losses[0] / 2


def test_an_epoch_of_one_batch_is_a_step() -> None:
    one, two = STUDENT.build(), STUDENT.build()
    assert train_epoch(one, [batch(3)], sgd(one, 0.1)) == distillation_step(
        two, batch(3), sgd(two, 0.1)
    )
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_without_learning_the_mean_loss_does_not_depend_on_the_batches(sizes: list[int]) -> None:
    whole = batch(sum(sizes)) | {"labels": torch.zeros(sum(sizes), dtype=torch.long)}
    cuts = np.cumsum([0, *sizes])
    parts = [{name: value[a:b] for name, value in whole.items()} for a, b in pairwise(cuts)]
    student = STUDENT.build()
    together = train_epoch(student, [whole], sgd(student, 0.0))
    assert train_epoch(student, iter(parts), sgd(student, 0.0)) == pytest.approx(together, rel=1e-4)


def test_gradients_from_before_do_not_leak_into_an_epoch() -> None:
    fresh, stale = STUDENT.build(), STUDENT.build()
    stale(**draw_batch(generator(5), (3,))).logits.sum().backward()
    for model in (fresh, stale):
        train_epoch(model, [batch(2), batch(3, seed=1)], sgd(model, 0.1))
    assert all(map(torch.equal, fresh.state_dict().values(), stale.state_dict().values()))


def test_an_epoch_wakes_the_student() -> None:
    asleep = Classifier({**STUDENT.config, "hidden_dropout_prob": 0.5}, STUDENT.weights)
    student = asleep.build()
    train_epoch(student, [batch(2)], sgd(student, 0.1))
    assert all(module.training for module in student.modules())


# --- bootstrap_interval --------------------------------------------------------------------------


def articles(seed: int = 0, groups: int = 30) -> tuple[Tensor, Tensor]:
    """Values that are alike within groups of one to six examples."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), random.integers(1, 7, groups))
    values = random.normal(size=groups)[group] + 0.3 * random.normal(size=len(group))
    return torch.tensor(values), torch.tensor(group)


def test_the_interval_is_that_of_the_librarys_resampling() -> None:
    values, groups = articles()
    sums = np.bincount(groups, weights=values.numpy())
    weights = bootstrap_weights(30, seed=7, resamples=20_000)
    means = weights @ sums / (weights @ np.bincount(groups))
    expected = np.percentile(means, [2.5, 97.5])
    ours = bootstrap_interval(values, groups, resamples=20_000)
    assert ours == pytest.approx(expected, abs=0.1 * means.std())


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
def test_the_interval_moves_and_stretches_with_the_values(shift: float, scale: float) -> None:
    values, groups = articles()
    expected = [scale * end + shift for end in bootstrap_interval(values, groups, 200)]
    assert bootstrap_interval(scale * values + shift, groups, 200) == pytest.approx(expected)


def test_neither_order_nor_numbering_matters() -> None:
    values, groups = articles()
    order = torch.randperm(len(values), generator=generator())
    shuffled = bootstrap_interval(values[order], 10 * groups[order] + 3, 500)
    assert shuffled == pytest.approx(bootstrap_interval(values, groups, 500))


def test_the_seed_decides() -> None:
    values, groups = articles()
    first, again, other = (bootstrap_interval(values, groups, 100, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_groups_that_are_alike_make_the_interval_wider() -> None:
    values, groups = articles()
    low, high = bootstrap_interval(values, groups)
    alone = bootstrap_interval(values, torch.arange(len(values)))
    assert high - low > 1.5 * (alone[1] - alone[0])


def test_most_intervals_hold_the_true_mean() -> None:
    """Nominally 95 %; percentile intervals of 30 groups hold it a little less often."""
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(*articles(seed), resamples=300)
        held += low <= 0 <= high
    assert 0.86 <= held / 200 <= 0.99
