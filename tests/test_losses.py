"""The laws of the losses, in float64 against plain numpy formulas, gradients included."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor, nn

from distill_lab import losses
from distill_lab.losses import (
    IGNORE_INDEX,
    attention_loss,
    cross_entropy,
    distillation_loss,
    entropy,
    generalized_jensen_shannon,
    hidden_state_loss,
    kl_divergence,
    logit_matching_loss,
    relation_loss,
    reverse_kl_divergence,
    soft_cross_entropy,
    soften,
)

Array = NDArray[np.float64]


def law(*inputs: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test over random inputs: without a deadline, since the first call of torch is slow."""
    return lambda test: settings(deadline=None, max_examples=40)(given(*inputs)(test))


# --- Independent formulas, rows in numpy ---


def np_softmax(logits: Array, temperature: float = 1.0) -> Any:
    shifted = logits / temperature - (logits / temperature).max(-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)


def np_log_softmax(logits: Array, temperature: float = 1.0) -> Any:
    shifted = logits / temperature - (logits / temperature).max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def np_kl(p_logits: Array, q_logits: Array, temperature: float = 1.0) -> Any:
    log_p, log_q = np_log_softmax(p_logits, temperature), np_log_softmax(q_logits, temperature)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def np_kl_of_probabilities(p: Array, q: Array) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def np_mean(rows: Array, mask: NDArray[np.bool_] | None = None) -> float:
    kept = rows.ravel() if mask is None else rows[mask]
    return float(kept.mean()) if kept.size else 0.0


def np_js_rows(student: Array, teacher: Array, beta: float) -> Any:
    p, q = np_softmax(teacher), np_softmax(student)
    m = beta * p + (1 - beta) * q
    bracket = beta * p * np.log(p / m) + (1 - beta) * q * np.log(q / m)
    return bracket.sum(-1) / (beta * (1 - beta))


# --- Inputs ---


def logits_of(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def finite(shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    numbers = st.floats(-20, 20, allow_nan=False, width=32)
    return hnp.arrays(np.float64, shape, elements=numbers)


shapes = st.tuples(st.integers(1, 4), st.integers(2, 5))
pairs = shapes.flatmap(lambda shape: st.tuples(finite(shape), finite(shape)))
temperatures = st.floats(0.5, 8)
betas = st.floats(0, 1)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def jensen_shannon(beta: float) -> Callable[..., Tensor]:
    def loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        return generalized_jensen_shannon(student, teacher, beta, mask=mask)

    return loss


def soft_and_hard(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    labels = torch.arange(student[..., 0].numel()).reshape(student.shape[:-1]) % student.shape[-1]
    return distillation_loss(student, teacher, labels, mask=mask)


LOGIT_LOSSES: dict[str, Callable[..., Tensor]] = {
    "soft_cross_entropy": soft_cross_entropy,
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "js_0": jensen_shannon(0),
    "js_tiny": jensen_shannon(1e-6),
    "js_third": jensen_shannon(0.3),
    "js_half": jensen_shannon(0.5),
    "js_most": jensen_shannon(1 - 1e-6),
    "js_1": jensen_shannon(1),
    "logit_matching": logit_matching_loss,
    "distillation": soft_and_hard,
    "hidden_mse": hidden_state_loss,
    "hidden_cosine": lambda s, t, mask=None: hidden_state_loss(s, t, mask=mask, metric="cosine"),
}


each_logit_loss = pytest.mark.parametrize("name", LOGIT_LOSSES)
# Without the mix, whose labels are made from the shape of its input.
each_unlabelled_loss = pytest.mark.parametrize(
    "loss", [loss for loss in LOGIT_LOSSES.values() if loss is not soft_and_hard]
)

# --- Values against numpy ---


@law(pairs, temperatures)
def test_values_equal_the_numpy_formulas(pair: tuple[Array, Array], temperature: float) -> None:
    student, teacher = pair
    s, t = torch.tensor(student), torch.tensor(teacher)
    p, log_p = np_softmax(teacher, temperature), np_log_softmax(teacher, temperature)
    np.testing.assert_allclose(soften(t, temperature), p, rtol=1e-9, atol=1e-12)
    expected = np_mean(-(p * log_p).sum(-1))
    np.testing.assert_allclose(entropy(t, temperature), expected, rtol=1e-9, atol=1e-12)
    cross = np_mean(-(p * np_log_softmax(student, temperature)).sum(-1))
    two_sided = {
        soft_cross_entropy: cross,
        kl_divergence: np_mean(np_kl(teacher, student, temperature)),
        reverse_kl_divergence: np_mean(np_kl(student, teacher, temperature)),
    }
    for two, value in two_sided.items():
        np.testing.assert_allclose(two(s, t, temperature), value, rtol=1e-9, atol=1e-12)


@law(pairs, st.floats(0.01, 0.99))
def test_jensen_shannon_equals_the_numpy_formula(pair: tuple[Array, Array], beta: float) -> None:
    student, teacher = pair
    actual = generalized_jensen_shannon(torch.tensor(student), torch.tensor(teacher), beta)
    expected = np_mean(np_js_rows(student, teacher, beta))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)


@law(pairs)
def test_logit_matching_is_the_squared_centred_difference_over_two_n(
    pair: tuple[Array, Array],
) -> None:
    student, teacher = pair
    centred = (student - student.mean(-1, keepdims=True)) - (
        teacher - teacher.mean(-1, keepdims=True)
    )
    expected = np_mean((centred**2).sum(-1) / (2 * student.shape[-1]))
    actual = logit_matching_loss(torch.tensor(student), torch.tensor(teacher))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


# --- Laws of entropies ---


@law(shapes.flatmap(finite), temperatures, betas)
def test_kl_is_zero_for_equal_logits(logits: Array, temperature: float, beta: float) -> None:
    z = torch.tensor(logits)
    assert abs(kl_divergence(z, z + 5, temperature)) < 1e-12  # a constant changes no softmax
    assert abs(reverse_kl_divergence(z, z, temperature)) < 1e-12
    assert abs(generalized_jensen_shannon(z, z, beta, temperature)) < 1e-12
    assert logit_matching_loss(z, z + 5) < 1e-12


@law(pairs, temperatures, betas)
def test_divergences_are_never_negative(
    pair: tuple[Array, Array], temperature: float, beta: float
) -> None:
    s, t = map(torch.tensor, pair)
    assert kl_divergence(s, t, temperature) > -1e-12
    assert reverse_kl_divergence(s, t, temperature) > -1e-12
    assert generalized_jensen_shannon(s, t, beta, temperature) > -1e-12


@law(pairs, temperatures)
def test_cross_entropy_is_entropy_plus_kl(pair: tuple[Array, Array], temperature: float) -> None:
    s, t = map(torch.tensor, pair)
    total = entropy(t, temperature) + kl_divergence(s, t, temperature)
    torch.testing.assert_close(soft_cross_entropy(s, t, temperature), total)


@law(pairs, temperatures)
def test_kl_and_cross_entropy_share_the_analytic_gradient(
    pair: tuple[Array, Array], temperature: float
) -> None:
    s, t = map(torch.tensor, pair)
    analytic = np_softmax(pair[0], temperature) - np_softmax(pair[1], temperature)
    analytic = analytic / (temperature * len(analytic))
    for loss in (kl_divergence, soft_cross_entropy):
        actual = gradient(lambda z, loss=loss: loss(z, t, temperature), s)  # type: ignore[misc]
        np.testing.assert_allclose(actual, analytic, rtol=1e-9, atol=1e-12)


@law(pairs)
def test_reverse_kl_has_the_analytic_gradient(pair: tuple[Array, Array]) -> None:
    s, t = map(torch.tensor, pair)
    q, ratio = np_softmax(pair[0]), np_log_softmax(pair[0]) - np_log_softmax(pair[1])
    analytic = q * (ratio - np_kl(*pair)[:, None]) / len(q)
    actual = gradient(lambda z: reverse_kl_divergence(z, t), s)
    np.testing.assert_allclose(actual, analytic, rtol=1e-9, atol=1e-12)


def test_forward_and_reverse_kl_differ_and_swap_with_their_sides() -> None:
    s, t = logits_of(3, 4, seed=1), logits_of(3, 4, seed=2)
    assert abs(kl_divergence(s, t) - reverse_kl_divergence(s, t)) > 0.1
    torch.testing.assert_close(kl_divergence(s, t), reverse_kl_divergence(t, s))


@law(pairs, temperatures, st.floats(0.5, 4))
def test_soft_term_is_homogeneous_of_degree_two(
    pair: tuple[Array, Array], temperature: float, c: float
) -> None:
    s, t = map(torch.tensor, pair)

    def term(student: Tensor, teacher: Tensor, at: float) -> Tensor:
        return distillation_loss(student, teacher, temperature=at, alpha=1)

    torch.testing.assert_close(term(c * s, c * t, c * temperature), c**2 * term(s, t, temperature))


def test_soft_term_tends_to_logit_matching_as_temperature_grows() -> None:
    s, t = logits_of(4, 6, seed=1) + 7, logits_of(4, 6, seed=2)  # a mean that must not count
    limit = logit_matching_loss(s, t)
    slope = gradient(lambda z: logit_matching_loss(z, t), s)
    for temperature, tolerance in ((1e2, 0.1), (1e3, 0.01), (1e4, 0.001)):

        def soft(z: Tensor, temperature: float = temperature) -> Tensor:
            return distillation_loss(z, t, temperature=temperature, alpha=1)

        torch.testing.assert_close(soft(s), limit, rtol=tolerance, atol=0)
        torch.testing.assert_close(gradient(soft, s), slope, rtol=tolerance, atol=tolerance)


@law(pairs, st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(pair: tuple[Array, Array], random: Any) -> None:
    s, t = map(torch.tensor, pair)
    order = list(range(s.shape[-1]))
    random.shuffle(order)
    for loss in LOGIT_LOSSES.values():
        if loss is not soft_and_hard:  # its labels are numbers of classes
            torch.testing.assert_close(loss(s[:, order], t[:, order]), loss(s, t))


# --- Jensen-Shannon ---


def test_jensen_shannon_at_one_half_is_four_times_the_plain_one() -> None:
    s, t = logits_of(3, 5, seed=1), logits_of(3, 5, seed=2)
    p, q = np_softmax(t.numpy()), np_softmax(s.numpy())
    m = (p + q) / 2
    plain = np_mean((p * np.log(p / m) / 2 + q * np.log(q / m) / 2).sum(-1))
    np.testing.assert_allclose(generalized_jensen_shannon(s, t), 4 * plain, rtol=1e-12)


@law(pairs, st.integers(0, 1024))
def test_jensen_shannon_is_symmetric_in_beta(pair: tuple[Array, Array], parts: int) -> None:
    s, t = map(torch.tensor, pair)
    beta = parts / 1024  # so that 1 - beta is exact
    left = generalized_jensen_shannon(s, t, beta)
    torch.testing.assert_close(left, generalized_jensen_shannon(t, s, 1 - beta), atol=1e-9, rtol=0)


@pytest.mark.parametrize("beta", [5e-5, 1 - 5e-5])
def test_jensen_shannon_is_exact_where_its_series_takes_over(beta: float) -> None:
    s, t = logits_of(8, 5, seed=1, scale=0.5), logits_of(8, 5, seed=2, scale=0.5)
    expected = np_mean(np_js_rows(s.numpy(), t.numpy(), beta))  # exact to 1e-16 / 5e-5
    np.testing.assert_allclose(generalized_jensen_shannon(s, t, beta), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("end, limit", [(0.0, kl_divergence), (1.0, reverse_kl_divergence)])
@pytest.mark.parametrize("scale", [3.0, 0.01])
def test_jensen_shannon_runs_into_both_kls_in_float32(
    end: float, limit: Callable[..., Tensor], scale: float
) -> None:
    s, t = (
        logits_of(6, 5, seed=1, scale=scale).float(),
        logits_of(6, 5, seed=2, scale=scale).float(),
    )
    value, slope = limit(s, t), gradient(lambda z: limit(z, t), s)
    torch.testing.assert_close(generalized_jensen_shannon(s, t, end), value, rtol=1e-5, atol=1e-7)
    previous = float("inf")
    for step in (1e-3, 1e-4, 1e-5, 1e-6):
        beta = abs(end - step)
        gap = float((generalized_jensen_shannon(s, t, beta) - value).abs())
        assert gap <= max(200 * step * float(value), 3e-7) and gap <= previous + 1e-6
        previous = gap
        close = gradient(lambda z, beta=beta: generalized_jensen_shannon(z, t, beta), s)  # type: ignore[misc]
        torch.testing.assert_close(close, slope, rtol=1e-2, atol=200 * step + 1e-6)


@pytest.mark.parametrize("beta", [1e-6, 1e-3, 0.3, 0.5, 0.7, 1 - 1e-3, 1 - 1e-6])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
def test_jensen_shannon_in_float32_agrees_with_float64(beta: float, scale: float) -> None:
    s, t = (
        logits_of(8, 6, seed=3, scale=scale).float(),
        logits_of(8, 6, seed=4, scale=scale).float(),
    )
    exact = generalized_jensen_shannon(s.double(), t.double(), beta)
    actual = generalized_jensen_shannon(s, t, beta).double()
    torch.testing.assert_close(actual, exact, rtol=1e-5, atol=3e-7)
    exact = gradient(lambda z: generalized_jensen_shannon(z, t.double(), beta), s.double())
    actual = gradient(lambda z: generalized_jensen_shannon(z, t, beta), s).double()
    torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1e-30, 1e-6, 0.5, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("far", [0.0, 5.0, 79.0, 81.0, 1e4])
def test_jensen_shannon_is_finite_wherever_the_two_sides_are(beta: float, far: float) -> None:
    s, t = torch.tensor([[far, -far, 0.0]]), torch.tensor([[-far, far, 0.0]])
    assert generalized_jensen_shannon(s, t, beta).isfinite()
    assert gradient(lambda z: generalized_jensen_shannon(z, t, beta), s).isfinite().all()


# --- Reductions and masks ---


@law(st.data())
def test_masked_values_equal_the_numpy_mean_over_unmasked_tokens(data: st.DataObject) -> None:
    student, teacher = data.draw(finite((2, 3, 4))), data.draw(finite((2, 3, 4)))
    mask = data.draw(hnp.arrays(np.bool_, (2, 3)))
    s, t, m = torch.tensor(student), torch.tensor(teacher), torch.tensor(mask)
    np.testing.assert_allclose(
        kl_divergence(s, t, 2, mask=m), np_mean(np_kl(teacher, student, 2), mask), atol=1e-11
    )
    np.testing.assert_allclose(
        entropy(t, mask=m.long()),
        np_mean(-(np_softmax(teacher) * np_log_softmax(teacher)).sum(-1), mask),
        atol=1e-11,
    )
    np.testing.assert_allclose(
        hidden_state_loss(s, t, mask=m), np_mean(((student - teacher) ** 2).mean(-1), mask)
    )


@each_logit_loss
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_changes_neither_value_nor_gradient(name: str, garbage: float) -> None:
    loss = LOGIT_LOSSES[name]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    s, t = logits_of(2, 3, 4, seed=1), logits_of(2, 3, 4, seed=2)
    filled = [torch.where(mask[..., None].bool(), x, garbage) for x in (s, t)]
    torch.testing.assert_close(loss(filled[0], filled[1], mask=mask), loss(s, t, mask=mask))
    before = gradient(lambda z: loss(z, t, mask=mask), s)
    after = gradient(lambda z: loss(z, filled[1], mask=mask), filled[0])
    torch.testing.assert_close(after, before)
    assert (after[mask == 0] == 0).all() and (after[mask == 1] != 0).any()


@each_unlabelled_loss
def test_longer_padding_changes_nothing(loss: Callable[..., Tensor]) -> None:
    s, t = logits_of(2, 3, 4, seed=1), logits_of(2, 3, 4, seed=2)
    longer = torch.cat([torch.ones(2, 3), torch.zeros(2, 2)], 1)
    s5, t5 = (torch.cat([x, logits_of(2, 2, 4, seed=9)], 1) for x in (s, t))
    torch.testing.assert_close(loss(s5, t5, mask=longer), loss(s, t, mask=torch.ones(2, 3)))


@each_unlabelled_loss
def test_rows_alone_may_be_masked_too(loss: Callable[..., Tensor]) -> None:
    s, t = logits_of(4, 3, seed=1), logits_of(4, 3, seed=2)
    keep = torch.tensor([True, False, True, True])
    torch.testing.assert_close(loss(s, t, mask=keep), loss(s[keep], t[keep]))


@each_unlabelled_loss
def test_splitting_a_batch_changes_nothing_once_weighted_by_tokens(
    loss: Callable[..., Tensor],
) -> None:
    s, t = logits_of(4, 3, 5, seed=1), logits_of(4, 3, 5, seed=2)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()
    parts = [(slice(0, 1), 3), (slice(1, 4), 3)]
    split = sum(loss(s[i], t[i], mask=mask[i]) * count for i, count in parts) / 6
    torch.testing.assert_close(split, loss(s, t, mask=mask))
    rows_s, rows_t = s[:, 0], t[:, 0]
    split = (loss(rows_s[:1], rows_t[:1]) + 3 * loss(rows_s[1:], rows_t[1:])) / 4
    torch.testing.assert_close(split, loss(rows_s, rows_t))


@each_logit_loss
def test_the_mean_of_nothing_is_zero_and_attached(name: str) -> None:
    loss = LOGIT_LOSSES[name]
    s, t = torch.full((2, 3, 4), float("nan")), logits_of(2, 3, 4).float()
    mask = torch.zeros(2, 3)
    assert loss(s, t, mask=mask).item() == 0
    assert (gradient(lambda z: loss(z, t, mask=mask), s) == 0).all()


# --- What every loss keeps ---


@each_logit_loss
def test_a_loss_is_a_scalar_that_leaves_its_inputs_and_the_teacher_alone(name: str) -> None:
    loss = LOGIT_LOSSES[name]
    s = logits_of(2, 3, 4, seed=1).requires_grad_()
    t = logits_of(2, 3, 4, seed=2).requires_grad_()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    copies = s.detach().clone(), t.detach().clone(), mask.clone()
    value = loss(s, t, mask=mask)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.shape == () and value.dtype == torch.float64
    assert t.grad is None and s.grad is not None
    for after, before in zip((s, t, mask), copies, strict=True):
        assert torch.equal(after.detach(), before)


@each_logit_loss
def test_gradients_pass_gradcheck(name: str) -> None:
    loss = LOGIT_LOSSES[name]
    mask = torch.tensor([[1, 1], [1, 0]])
    s, t = logits_of(2, 2, 3, seed=1, scale=1).requires_grad_(), logits_of(2, 2, 3, seed=2, scale=1)
    assert torch.autograd.gradcheck(lambda z: loss(z, t, mask=mask), (s,))


@each_logit_loss
def test_finite_in_float32_at_logits_of_ten_thousand(name: str) -> None:
    loss = LOGIT_LOSSES[name]
    s = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]])
    t = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]])
    for teacher in (t, s):
        value = loss(s, teacher)
        assert value.isfinite() and value.dtype == torch.float32
        assert gradient(lambda z, teacher=teacher: loss(z, teacher), s).isfinite().all()  # type: ignore[misc]


@each_logit_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = LOGIT_LOSSES[name]
    s, t = logits_of(3, 4, seed=1).to(dtype), logits_of(3, 4, seed=2).to(dtype)
    value = loss(s, t)
    assert value.dtype == torch.float32 and soften(s).dtype == torch.float32
    torch.testing.assert_close(value, loss(s.float(), t.float()))
    torch.testing.assert_close(loss(s.float(), t), value)  # a stored half-precision teacher
    assert gradient(lambda z: loss(z, t), s).dtype == dtype


# --- Hard labels and the mix ---


@law(pairs, st.floats(0, 1), st.data())
def test_cross_entropy_equals_torch_with_smoothing_and_missing_labels(
    pair: tuple[Array, Array], smoothing: float, data: st.DataObject
) -> None:
    z = torch.tensor(pair[0])
    choices = st.sampled_from([IGNORE_INDEX, *range(z.shape[1])])
    labels = torch.tensor([data.draw(choices) for _ in range(len(z))])

    def reference(logits: Tensor) -> Tensor:
        if (labels == IGNORE_INDEX).all():
            return logits.sum() * 0
        return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    def ours(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=smoothing)

    torch.testing.assert_close(ours(z), reference(z))
    torch.testing.assert_close(gradient(ours, z), gradient(reference, z))


def test_cross_entropy_of_tokens_counts_rows_both_labelled_and_unmasked() -> None:
    z = logits_of(2, 3, 4)
    labels = torch.tensor([[1, IGNORE_INDEX, 3], [0, 2, 2]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    garbage = z.masked_fill((mask == 0)[..., None], float("nan"))
    garbage[0, 1] = float("nan")  # unlabelled
    log_q = np_log_softmax(z.numpy())
    expected = -(log_q[0, 0, 1] + log_q[1, 0, 0] + log_q[1, 1, 2]) / 3
    np.testing.assert_allclose(cross_entropy(garbage, labels, mask=mask), expected)
    slope = gradient(lambda x: cross_entropy(x, labels, mask=mask), garbage)
    assert slope.isfinite().all() and (slope[0, 1] == 0).all()


@law(pairs, temperatures, st.floats(0, 1))
def test_distillation_loss_is_alpha_t_squared_kl_plus_the_rest_of_cross_entropy(
    pair: tuple[Array, Array], temperature: float, alpha: float
) -> None:
    student, teacher = pair
    labels = np.arange(len(student)) % student.shape[1]
    labels[1:2] = IGNORE_INDEX
    labelled = np.flatnonzero(labels != IGNORE_INDEX)
    hard = -np_log_softmax(student)[labelled, labels[labelled]].mean()
    soft = temperature**2 * np_mean(np_kl(teacher, student, temperature))
    s, t = map(torch.tensor, pair)
    actual = distillation_loss(s, t, torch.tensor(labels), temperature=temperature, alpha=alpha)
    np.testing.assert_allclose(actual, alpha * soft + (1 - alpha) * hard, rtol=1e-9, atol=1e-11)


def test_a_batch_without_labels_has_no_hard_term() -> None:
    s, t = logits_of(3, 4, seed=1), logits_of(3, 4, seed=2)
    none = torch.full((3,), IGNORE_INDEX)
    torch.testing.assert_close(distillation_loss(s, t, none), 0.5 * 4 * kl_divergence(s, t, 2.0))
    torch.testing.assert_close(
        distillation_loss(s, t, none, alpha=1), distillation_loss(s, t, alpha=1)
    )
    assert distillation_loss(s, t, none, alpha=0) == 0
    assert (gradient(lambda z: cross_entropy(z, none), s) == 0).all()


# --- Hidden states ---


def test_cosine_is_one_minus_the_cosine_of_the_angle() -> None:
    s, t = logits_of(3, 4, seed=1), logits_of(3, 4, seed=2)
    a, b = s.numpy(), t.numpy()
    cosines = (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    np.testing.assert_allclose(hidden_state_loss(s, t, metric="cosine"), 1 - cosines.mean())
    assert abs(hidden_state_loss(s, 3 * s, metric="cosine")) < 1e-12


@pytest.mark.parametrize("metric", ["mse", "cosine"])
def test_a_projection_bridges_widths_and_learns_from_unmasked_tokens_only(metric: Any) -> None:
    projection = nn.Linear(3, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    s, t = logits_of(1, 3, 3), logits_of(1, 3, 5)
    s[0, 2] = t[0, 2] = float("nan")
    value = hidden_state_loss(s, t, mask=mask, projection=projection, metric=metric)
    value.backward()  # type: ignore[no-untyped-call]
    expected = hidden_state_loss(projection(s[0, :2]), t[0, :2], metric=metric)
    torch.testing.assert_close(value, expected)
    assert projection.weight.grad is not None
    assert projection.weight.grad.isfinite().all() and (projection.weight.grad != 0).any()


# --- Attention maps and relations ---


def maps_of(batch: int, heads: int, mask: Tensor, seed: int) -> Tensor:
    scores = logits_of(batch, heads, mask.shape[1], mask.shape[1], seed=seed, scale=1.0)
    return scores.masked_fill(~mask[:, None, None].bool(), -torch.inf).softmax(-1)


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])


def kept_rows(maps: Tensor) -> Iterator[Array]:
    for example, keep in zip(maps.numpy(), MASK.numpy().astype(bool), strict=True):
        for head in example:
            yield from head[keep][:, keep]


@pytest.mark.parametrize("metric", ["kl", "mse"])
def test_attention_loss_equals_a_numpy_loop(metric: Any) -> None:
    s, t = maps_of(3, 2, MASK, 1), maps_of(3, 2, MASK, 2)
    rows = [
        np_kl_of_probabilities(p, q) if metric == "kl" else ((p - q) ** 2).mean()
        for p, q in zip(kept_rows(t), kept_rows(s), strict=True)
    ]
    actual = attention_loss(s, t, mask=MASK, metric=metric)
    np.testing.assert_allclose(actual, np.mean(rows), rtol=1e-12)


@pytest.mark.parametrize("metric", ["kl", "mse"])
def test_attention_of_other_head_counts_is_compared_by_the_mean_head(metric: Any) -> None:
    s, t = maps_of(3, 2, MASK, 1), maps_of(3, 3, MASK, 2)
    means = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
    expected = attention_loss(*means, mask=MASK, metric=metric)
    torch.testing.assert_close(attention_loss(s, t, mask=MASK, metric=metric), expected)


@pytest.mark.parametrize("metric", ["kl", "mse"])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 0.25])
def test_masked_queries_and_keys_do_not_count_in_attention(metric: Any, garbage: float) -> None:
    s, t = maps_of(3, 2, MASK, 1), maps_of(3, 2, MASK, 2)
    away = (MASK[:, None, :, None] & MASK[:, None, None, :]) == 0
    s2, t2 = s.masked_fill(away, garbage), t.masked_fill(away, garbage)

    def loss(maps: Tensor, teacher: Tensor) -> Tensor:
        return attention_loss(maps, teacher, mask=MASK, metric=metric)

    torch.testing.assert_close(loss(s2, t2), loss(s, t))
    after = gradient(lambda z: loss(z, t2), s2)
    torch.testing.assert_close(after, gradient(lambda z: loss(z, t), s))
    assert (after[away.expand_as(after)] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_attention_kl_is_finite_where_probabilities_have_underflowed(dtype: torch.dtype) -> None:
    s = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-37, 0.0], [0.0, 1.0, 0.0]], dtype=dtype)
    t = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [1.0, 1e-40, 0.0]], dtype=dtype)
    ones = torch.ones(1, 3)
    value = attention_loss(s[None, None], t[None, None], mask=ones)
    assert value.isfinite() and value > 1
    scaled = gradient(lambda z: 1e3 * attention_loss(z, t[None, None], mask=ones), s[None, None])
    assert dtype == torch.float16 or scaled.isfinite().all()  # p / q may exceed float16
    zero = attention_loss(s[None, None], s[None, None], mask=ones)
    assert zero == 0


def test_attention_kl_through_a_softmax_has_the_analytic_gradient() -> None:
    scores, t = logits_of(1, 2, 4, 4, seed=1), logits_of(1, 2, 4, 4, seed=2).softmax(-1)
    actual = gradient(lambda z: attention_loss(z.softmax(-1), t, mask=torch.ones(1, 4)), scores)
    torch.testing.assert_close(actual, (scores.softmax(-1) - t) / 8)


def np_relations(states: Array, heads: int) -> list[Array]:
    width = states.shape[-1] // heads
    split = [states[:, h * width : (h + 1) * width] for h in range(heads)]
    return [np_softmax(a @ a.T / np.sqrt(width)) for a in split]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relation_loss_equals_a_numpy_loop(heads: int) -> None:
    s, t = logits_of(3, 4, 8, seed=1, scale=1), logits_of(3, 4, 12, seed=2, scale=1)
    rows = []
    for one, other, keep in zip(s.numpy(), t.numpy(), MASK.numpy().astype(bool), strict=True):
        ours, theirs = np_relations(one[keep], heads), np_relations(other[keep], heads)
        for r_s, r_t in zip(ours, theirs, strict=True):
            rows += [np_kl_of_probabilities(p, q) for p, q in zip(r_t, r_s, strict=True)]
    actual = relation_loss(s, t, mask=MASK, heads=heads)
    np.testing.assert_allclose(actual, np.mean(rows), rtol=1e-11)
    assert abs(relation_loss(s, s, mask=MASK, heads=heads)) < 1e-12


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_masked_tokens_do_not_count_in_relations(garbage: float) -> None:
    s, t = logits_of(3, 4, 8, seed=1, scale=1), logits_of(3, 4, 8, seed=2, scale=1)
    s2, t2 = (x.masked_fill((MASK == 0)[..., None], garbage) for x in (s, t))

    def loss(states: Tensor, teacher: Tensor) -> Tensor:
        return relation_loss(states, teacher, mask=MASK, heads=2)

    torch.testing.assert_close(loss(s2, t2), loss(s, t))
    torch.testing.assert_close(
        gradient(lambda z: loss(z, t2), s2), gradient(lambda z: loss(z, t), s)
    )


def test_relations_multiply_in_float32_even_under_autocast() -> None:
    s, t = logits_of(3, 4, 8, seed=1).float(), logits_of(3, 4, 8, seed=2).float()
    plain = relation_loss(s, t, mask=MASK, heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(relation_loss(s, t, mask=MASK, heads=2), plain)


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return attention_loss(student, teacher, mask=mask)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return attention_loss(student, teacher, mask=mask, metric="mse")


def relations(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return relation_loss(student, teacher, mask=mask, heads=2)


STRUCTURE_LOSSES = [attention_kl, attention_mse, relations]


def structure_inputs(loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    if loss is relations:
        return logits_of(3, 4, 6, seed=1, scale=1), logits_of(3, 4, 6, seed=2, scale=1)
    return maps_of(3, 2, MASK, 1), maps_of(3, 2, MASK, 2)


@pytest.mark.parametrize("loss", STRUCTURE_LOSSES)
def test_maps_and_relations_keep_the_common_laws(loss: Callable[..., Tensor]) -> None:
    s, t = structure_inputs(loss)
    # The teacher stays cut off, the inputs as they were, the result a scalar.
    s1, t1 = s.clone().requires_grad_(), t.clone().requires_grad_()
    value = loss(s1, t1, MASK)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.shape == () and value.dtype == torch.float64 and t1.grad is None
    assert torch.equal(s1, s) and torch.equal(t1, t)
    # A split batch, weighted by its unmasked tokens.
    split = (4 * loss(s[:1], t[:1], MASK[:1]) + 5 * loss(s[1:], t[1:], MASK[1:])) / 9
    torch.testing.assert_close(split, value.detach())
    # An example without tokens adds nothing; a batch of such is 0 with gradient 0.
    blank = torch.cat([MASK[:2], torch.zeros(1, 4, dtype=torch.long)])
    torch.testing.assert_close(loss(s, t, blank), loss(s[:2], t[:2], MASK[:2]))
    assert loss(s, t, 0 * MASK) == 0
    assert (gradient(lambda z: loss(z, t, 0 * MASK), s) == 0).all()
    # Half precision comes back as float32.
    assert loss(s.bfloat16(), t.bfloat16(), MASK).dtype == torch.float32


@pytest.mark.parametrize("loss", STRUCTURE_LOSSES)
def test_maps_and_relations_pass_gradcheck(loss: Callable[..., Tensor]) -> None:
    s, t = structure_inputs(loss)
    if loss is not relations:  # away from the zeros, where the KL of a probability has a corner
        s = s + 0.01
    assert torch.autograd.gradcheck(lambda z: loss(z, t, MASK), (s.requires_grad_(),))


def test_relations_are_finite_in_float32_at_states_of_ten_thousand() -> None:
    s, t = logits_of(3, 4, 8, seed=1).sign().float() * 1e4, logits_of(3, 4, 8, seed=2).float() * 1e4
    assert relation_loss(s, t, mask=MASK, heads=2).isfinite()
    assert gradient(lambda z: relation_loss(z, t, mask=MASK, heads=2), s).isfinite().all()


# --- What is refused ---

Z2, Z3, LABELS = torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.tensor([0, 1])
MAPS, STATES = torch.full((2, 2, 4, 4), 0.25), torch.zeros(2, 4, 6)
ONES = torch.ones(2, 4)

REFUSED: list[tuple[str, Callable[[], Tensor]]] = [
    ("has no mask", lambda: kl_divergence(Z3, Z3)),
    ("has no mask", lambda: entropy(Z3)),
    ("has no mask", lambda: cross_entropy(Z3, torch.zeros(2, 4, dtype=torch.long))),
    ("has no mask", lambda: hidden_state_loss(Z3, Z3)),
    ("has no mask", lambda: hidden_state_loss(Z3, Z3, projection=nn.Linear(3, 3))),
    ("one axis only", lambda: kl_divergence(Z2[0], Z2[0])),
    ("same shape", lambda: kl_divergence(Z2, torch.zeros(2, 4))),
    ("same shape", lambda: logit_matching_loss(Z2, torch.zeros(3, 3))),
    ("mask has shape", lambda: kl_divergence(Z3, Z3, mask=torch.ones(2, 3))),
    ("mask has shape", lambda: kl_divergence(Z2, Z2, mask=torch.ones(2, 1))),
    ("other than 0 and 1", lambda: kl_divergence(Z3, Z3, mask=(1 - ONES) * -1e4 - 1)),
    ("temperature", lambda: kl_divergence(Z2, Z2, 0)),
    ("temperature", lambda: soften(Z2, -1)),
    ("temperature", lambda: entropy(Z2, float("nan"))),
    ("temperature", lambda: soft_cross_entropy(Z2, Z2, float("inf"))),
    ("temperature", lambda: distillation_loss(Z2, Z2, temperature=0, alpha=1)),
    ("beta", lambda: generalized_jensen_shannon(Z2, Z2, -0.1)),
    ("beta", lambda: generalized_jensen_shannon(Z2, Z2, 1.1)),
    ("beta", lambda: generalized_jensen_shannon(Z2, Z2, float("nan"))),
    ("alpha", lambda: distillation_loss(Z2, Z2, LABELS, alpha=1.5)),
    ("alpha", lambda: distillation_loss(Z2, Z2, LABELS, alpha=-0.5)),
    ("no labels", lambda: distillation_loss(Z2, Z2)),
    ("label_smoothing", lambda: cross_entropy(Z2, LABELS, label_smoothing=2)),
    ("labels are", lambda: cross_entropy(Z2, LABELS[:1])),
    ("labels are", lambda: cross_entropy(Z2, LABELS.float())),
    ("a label lies outside", lambda: cross_entropy(Z2, LABELS + 2)),
    ("a label lies outside", lambda: cross_entropy(Z2, LABELS - 1)),
    ("projection", lambda: hidden_state_loss(Z2, torch.zeros(2, 5))),
    ("same shape", lambda: hidden_state_loss(Z2, torch.zeros(3, 3))),
    ("metric", lambda: hidden_state_loss(Z2, Z2, metric="l1")),  # type: ignore[arg-type]
    ("metric", lambda: attention_loss(MAPS, MAPS, mask=ONES, metric="l1")),  # type: ignore[arg-type]
    ("tokens, tokens", lambda: attention_loss(MAPS[0], MAPS[0], mask=ONES)),
    ("tokens, tokens", lambda: attention_loss(MAPS, MAPS[..., :3], mask=ONES)),
    ("same shape", lambda: attention_loss(MAPS, MAPS[:, :, :3, :3], mask=ONES)),
    ("mask has shape", lambda: attention_loss(MAPS, MAPS, mask=ONES[:, :3])),
    ("has no mask", lambda: attention_loss(MAPS, MAPS, mask=None)),  # type: ignore[arg-type]
    ("same tokens", lambda: relation_loss(STATES, STATES[:, :3], mask=ONES, heads=2)),
    ("same tokens", lambda: relation_loss(STATES[0], STATES[0], mask=ONES, heads=2)),
    ("do not divide", lambda: relation_loss(STATES, STATES, mask=ONES, heads=4)),
    ("do not divide", lambda: relation_loss(STATES, STATES[..., :3], mask=ONES, heads=2)),
    ("do not divide", lambda: relation_loss(STATES, STATES, mask=ONES, heads=0)),
    ("has no mask", lambda: relation_loss(STATES, STATES, mask=None, heads=2)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("words, call", REFUSED)
def test_mistakes_are_refused_in_one_line(words: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_losses_import_torch_alone() -> None:
    source = inspect.getsource(losses)
    imported = [
        line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))
    ]
    outside = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert outside == {"torch"}
