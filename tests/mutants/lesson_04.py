"""Wrong answers to the exercises of lesson 04, and right ones in another style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of_distributions

from distill_lab.losses import cross_entropy, kl_divergence
from tests.mutants.mutant import Mutant

# --- soften: wrong -------------------------------------------------------------------------------


def _above_zero(temperature):
    if temperature <= 0:
        raise ValueError("temperature must be above 0")
    return temperature


def logs(logits, temperature=1.0):
    return F.log_softmax(logits / _above_zero(temperature), -1)


def sigmoids(logits, temperature=1.0):
    return torch.sigmoid(logits / _above_zero(temperature))


def over_rows(logits, temperature=1.0):
    return torch.softmax(logits / _above_zero(temperature), 0)


def over_all_entries(logits, temperature=1.0):
    e = (logits / _above_zero(temperature)).exp()
    return e / e.sum()


def not_normalised(logits, temperature=1.0):
    return (logits / _above_zero(temperature)).exp()


def multiplied(logits, temperature=1.0):
    return torch.softmax(logits * _above_zero(temperature), -1)


def divided_after(logits, temperature=1.0):
    return torch.softmax(logits, -1) / _above_zero(temperature)


def power_of_p(logits, temperature=1.0):
    return torch.softmax(logits, -1) ** (1 / _above_zero(temperature))


def second_axis(logits, temperature=1.0):
    return torch.softmax(logits / _above_zero(temperature), 1)


def overflowing(logits, temperature=1.0):
    e = (logits / _above_zero(temperature)).exp()
    return e / e.sum(-1, keepdim=True)


def clamped_logits(logits, temperature=1.0):
    z = (logits / _above_zero(temperature)).clamp(-85, 85)
    return z.exp() / z.exp().sum(-1, keepdim=True)


def takes_any_temperature(logits, temperature=1.0):
    return torch.softmax(logits / temperature, -1)


def refuses_zero_only(logits, temperature=1.0):
    if temperature == 0:
        raise ValueError("temperature must not be 0")
    return torch.softmax(logits / temperature, -1)


def asserts(logits, temperature=1.0):
    assert temperature > 0
    return torch.softmax(logits / temperature, -1)


def writes_into_logits(logits, temperature=1.0):
    logits /= _above_zero(temperature)
    return logits.softmax(-1)


# --- distillation_loss: wrong --------------------------------------------------------------------


def _hard(student_logits, labels):
    return 0.0 if labels is None else cross_entropy(student_logits, labels)


def _mixed(soft, student_logits, labels, alpha):
    return alpha * soft + (1 - alpha) * _hard(student_logits, labels)


def square_missing(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def square_twice(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**4 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def first_power(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def kl_turned(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(teacher_logits.detach(), student_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def divides_by_classes_too(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    log_q = F.log_softmax(student_logits / temperature, -1)
    p = F.softmax(teacher_logits.detach() / temperature, -1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="mean")
    return _mixed(soft, student_logits, labels, alpha)


def not_softened(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits)
    return _mixed(soft, student_logits, labels, alpha)


def teacher_not_softened(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    soft = temperature**2 * kl_divergence(student_logits / temperature, teacher_logits)
    return _mixed(soft, student_logits, labels, alpha)


def cross_entropy_for_kl(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    p = F.softmax(teacher_logits.detach() / temperature, -1)
    soft = temperature**2 * F.cross_entropy(student_logits / temperature, p)
    return _mixed(soft, student_logits, labels, alpha)


def alpha_turned(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, 1 - alpha)


def hard_not_weighed(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return alpha * soft + _hard(student_logits, labels)


def soft_not_weighed(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return soft + (1 - alpha) * _hard(student_logits, labels)


def hard_softened(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits / temperature, labels, alpha)


def square_on_both(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = kl_divergence(student_logits, teacher_logits, temperature)
    return temperature**2 * _mixed(soft, student_logits, labels, alpha)


def hard_of_the_teacher(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, teacher_logits.detach(), labels, alpha)


def alpha_in_steps(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha if alpha in (0, 1) else 0.5)


def soft_alone_or_both(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if alpha in (0, 1):
        return _mixed(soft, student_logits, labels, alpha)
    return soft + _hard(student_logits, labels)


def four_for_the_square(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = 4 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def four_when_soft_only(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    factor = 4 if alpha == 1 else temperature**2
    soft = factor * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def hard_over_all_rows(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if labels is None:
        return alpha * soft
    hard = F.cross_entropy(student_logits, labels, reduction="none").mean()
    return alpha * soft + (1 - alpha) * hard


def soft_over_labelled_rows(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    if labels is not None and bool((labels != -100).any()):
        known = labels != -100
        student_logits, teacher_logits = student_logits[known], teacher_logits[known]
        labels = labels[known]
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft, student_logits, labels, alpha)


def unlabelled_are_class_zero(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    labels = None if labels is None else labels.clamp(min=0)
    return _mixed(soft, student_logits, labels, alpha)


def torch_on_no_labels(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if labels is None:
        return alpha * soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def whole_soft_on_no_labels(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if labels is None or not bool((labels != -100).any()):
        return soft
    return _mixed(soft, student_logits, labels, alpha)


def always_needs_labels(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, labels)


def logs_of_softmax(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    p = (teacher_logits.detach() / temperature).softmax(-1)
    q = (student_logits / temperature).softmax(-1)
    soft = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    return _mixed(soft, student_logits, labels, alpha)


def epsilon_in_the_logs(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    p = (teacher_logits.detach() / temperature).softmax(-1)
    q = (student_logits / temperature).softmax(-1)
    soft = temperature**2 * (p * ((p + 1e-8).log() - (q + 1e-8).log())).sum(-1).mean()
    return _mixed(soft, student_logits, labels, alpha)


# torch gives infinity where the student's probability is exactly 0.
def loss_by_distributions(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    p = Categorical(logits=teacher_logits.detach() / temperature)
    q = Categorical(logits=student_logits / temperature)
    soft = temperature * temperature * kl_of_distributions(p, q).mean()
    if labels is None or alpha == 1:
        return alpha * soft
    weights = (labels != -100).to(student_logits.dtype)
    hard = F.cross_entropy(student_logits, labels, reduction="none") * weights
    return alpha * soft + (1 - alpha) * hard.sum() / weights.sum().clamp(min=1)


def relabels_in_place(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    value = _mixed(soft, student_logits, labels, alpha)
    if labels is not None:
        labels += 1
    return value


def soft_detached(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    return _mixed(soft.detach(), student_logits, labels, alpha)


def teacher_learns(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    log_q = F.log_softmax(student_logits / temperature, -1)
    log_p = F.log_softmax(teacher_logits / temperature, -1)
    soft = temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return _mixed(soft, student_logits, labels, alpha)


# --- logit_matching_loss: wrong ------------------------------------------------------------------


def _centre(x, axis=-1):
    return x - x.mean(axis, keepdim=True)


def not_centred(student_logits, teacher_logits):
    return (student_logits - teacher_logits.detach()).square().mean() / 2


def bare_mse(student_logits, teacher_logits):
    return F.mse_loss(student_logits, teacher_logits.detach())


def half_missing(student_logits, teacher_logits):
    return F.mse_loss(_centre(student_logits), _centre(teacher_logits.detach()))


def sum_over_classes(student_logits, teacher_logits):
    return _centre(student_logits - teacher_logits.detach()).square().sum(-1).mean() / 2


def sum_over_rows(student_logits, teacher_logits):
    return _centre(student_logits - teacher_logits.detach()).square().mean(-1).sum() / 2


def unbiased_variance(student_logits, teacher_logits):
    return (student_logits - teacher_logits.detach()).var(-1).mean() / 2


def centred_over_the_batch(student_logits, teacher_logits):
    return _centre(student_logits - teacher_logits.detach(), 0).square().mean() / 2


def one_mean_for_all(student_logits, teacher_logits):
    difference = student_logits - teacher_logits.detach()
    return (difference - difference.mean()).square().mean() / 2


def absolute(student_logits, teacher_logits):
    return _centre(student_logits - teacher_logits.detach()).abs().mean() / 2


def of_probabilities(student_logits, teacher_logits):
    return F.mse_loss(student_logits.softmax(-1), teacher_logits.detach().softmax(-1)) / 2


def student_alone_centred(student_logits, teacher_logits):
    return (_centre(student_logits) - teacher_logits.detach()).square().mean() / 2


def smooth_l1(student_logits, teacher_logits):
    ours, theirs = _centre(student_logits), _centre(teacher_logits.detach())
    return F.huber_loss(ours, theirs, delta=8.0)


def centred_in_place(student_logits, teacher_logits):
    ours, theirs = student_logits.data, teacher_logits.data
    ours -= ours.mean(-1, keepdim=True)
    theirs -= theirs.mean(-1, keepdim=True)
    return _centre(student_logits - theirs).square().mean() / 2


def mean_detached(student_logits, teacher_logits):
    difference = student_logits - teacher_logits.detach()
    centred = difference.detach() - difference.mean(-1, keepdim=True)
    return centred.square().mean() / 2


def gives_a_float(student_logits, teacher_logits):
    return float(_centre(student_logits - teacher_logits).square().mean() / 2)


def teacher_moves(student_logits, teacher_logits):
    return _centre(student_logits - teacher_logits).square().mean() / 2


MUTANTS: list[Mutant] = [
    Mutant("soften", logs, "definition", "these are log-probabilities"),
    Mutant("soften", sigmoids, "definition", "sigmoid"),
    Mutant("soften", over_rows, "definition", "dim=0"),
    Mutant("soften", over_all_entries, "definition", "the whole tensor"),
    Mutant("soften", not_normalised, "definition", "not yet divided"),
    Mutant("soften", multiplied, "temperature", "the logits are multiplied by T"),
    Mutant("soften", divided_after, "temperature", "the probabilities are divided by T"),
    Mutant("soften", power_of_p, "temperature", "p^(1/T)"),
    Mutant("soften", second_axis, "any_shape", "the softmax runs over axis 1"),
    Mutant("soften", overflowing, "limits", "infinite in float32"),
    Mutant("soften", clamped_logits, "limits", "as T goes to 0"),
    Mutant("soften", takes_any_temperature, "refuses_bad_temperature", "T = 0 is accepted"),
    Mutant("soften", refuses_zero_only, "refuses_bad_temperature", "T = -1 is accepted"),
    Mutant("soften", asserts, "refuses_bad_temperature", "raises AssertionError"),
    Mutant("soften", writes_into_logits, "inputs_unchanged", "it changes logits in place"),
    Mutant("distillation_loss", square_missing, "soft_term", "T² is missing"),
    Mutant("distillation_loss", square_twice, "soft_term", "T² is there twice"),
    Mutant("distillation_loss", first_power, "soft_term", "KL is multiplied by T; expected T²"),
    Mutant("distillation_loss", kl_turned, "soft_term", "this is KL(student ‖ teacher)"),
    Mutant("distillation_loss", divides_by_classes_too, "soft_term", "over the classes too"),
    Mutant("distillation_loss", not_softened, "soft_term", "the logits are not divided by T"),
    Mutant("distillation_loss", teacher_not_softened, "soft_term", "the student's logits only"),
    Mutant("distillation_loss", cross_entropy_for_kl, "soft_term", "times the cross-entropy"),
    Mutant("distillation_loss", alpha_turned, "soft_term", "alpha and 1 − alpha are swapped"),
    Mutant("distillation_loss", hard_not_weighed, "soft_term", "the hard term is still there"),
    Mutant("distillation_loss", soft_not_weighed, "hard_term", "the soft term is still there"),
    Mutant("distillation_loss", hard_softened, "hard_term", "the hard term is softened too"),
    Mutant("distillation_loss", square_on_both, "hard_term", "T² multiplies the hard term too"),
    Mutant("distillation_loss", hard_of_the_teacher, "hard_term", "of the teacher's logits"),
    Mutant("distillation_loss", alpha_in_steps, "mix", "alpha has no effect"),
    Mutant("distillation_loss", soft_alone_or_both, "mix", "neither term is weighed"),
    Mutant("distillation_loss", four_for_the_square, "mix", "the factor is 4 whatever T is"),
    Mutant("distillation_loss", four_when_soft_only, "scale", "the factor does not depend on T"),
    Mutant("distillation_loss", hard_over_all_rows, "unlabelled_rows", "divided by all rows"),
    Mutant("distillation_loss", soft_over_labelled_rows, "unlabelled_rows", "the soft term too"),
    Mutant("distillation_loss", unlabelled_are_class_zero, "unlabelled_rows", "for class 0"),
    Mutant("distillation_loss", torch_on_no_labels, "no_labels", "the value is NaN"),
    Mutant("distillation_loss", whole_soft_on_no_labels, "no_labels", "loses its weight alpha"),
    Mutant("distillation_loss", always_needs_labels, "no_labels", "labels=None raises"),
    Mutant("distillation_loss", logs_of_softmax, "finite", "underflows to 0"),
    Mutant("distillation_loss", loss_by_distributions, "finite", "the value is infinite"),
    Mutant("distillation_loss", epsilon_in_the_logs, "finite", "an epsilon of 1e-08"),
    Mutant("distillation_loss", relabels_in_place, "inputs_unchanged", "it changes labels in"),
    Mutant("distillation_loss", soft_detached, "gradient", "of the hard term alone"),
    Mutant("distillation_loss", teacher_learns, "gradient", "reaches the teacher's logits"),
    Mutant("logit_matching_loss", not_centred, "definition", "the logits are not centred: take"),
    Mutant("logit_matching_loss", bare_mse, "definition", "F.mse_loss of the bare logits"),
    Mutant("logit_matching_loss", half_missing, "definition", "1/2 is missing: T² · KL goes"),
    Mutant("logit_matching_loss", sum_over_classes, "definition", "is not divided by N, the"),
    Mutant("logit_matching_loss", sum_over_rows, "definition", "this is the sum over the rows"),
    Mutant("logit_matching_loss", unbiased_variance, "definition", "N − 1"),
    Mutant("logit_matching_loss", centred_over_the_batch, "definition", "centring over the batch"),
    Mutant("logit_matching_loss", one_mean_for_all, "definition", "the mean of all logits"),
    Mutant("logit_matching_loss", absolute, "definition", "the mean of |d|"),
    Mutant("logit_matching_loss", of_probabilities, "definition", "no softmax here"),
    Mutant("logit_matching_loss", student_alone_centred, "definition", "the student's logits only"),
    Mutant("logit_matching_loss", smooth_l1, "quadratic", "a sum of squares"),
    Mutant("logit_matching_loss", centred_in_place, "inputs_unchanged", "in place"),
    Mutant("logit_matching_loss", mean_detached, "gradient", "is not d / (N · rows)"),
    Mutant("logit_matching_loss", gives_a_float, "definition", "a plain number"),
    Mutant("logit_matching_loss", teacher_moves, "no_gradient_to_the_teacher", "target too"),
]


# --- right, in another style ---------------------------------------------------------------------


def soften_by_hand(logits, temperature=1.0):
    if not temperature > 0:
        raise ValueError("T > 0")
    z = logits / temperature
    e = torch.exp(z - z.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)


def soften_by_logsumexp(logits, temperature=1.0):
    z = logits.double() / _above_zero(temperature)
    return (z - z.logsumexp(-1, keepdim=True)).exp()


def soften_by_a_distribution(logits, temperature=1.0):
    return Categorical(logits=logits / _above_zero(temperature)).probs


def loss_by_torch(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    log_q = F.log_softmax(student_logits / temperature, -1)
    p = F.softmax(teacher_logits.detach() / temperature, -1)
    loss = alpha * temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    if labels is not None and bool((labels != -100).any()):
        loss = loss + (1 - alpha) * F.cross_entropy(student_logits, labels, ignore_index=-100)
    return loss


def loss_in_float64(student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5):
    student, teacher = student_logits.double(), teacher_logits.detach().double()
    log_q, log_p = (F.log_softmax(x / temperature, -1) for x in (student, teacher))
    loss = alpha * temperature**2 * torch.einsum("bc,bc->b", log_p.exp(), log_p - log_q).mean()
    if labels is None:
        return loss
    known = labels >= 0
    z, y = student[known], labels[known]
    rows = z.logsumexp(-1) - z.gather(-1, y[:, None])[:, 0]
    return loss + (1 - alpha) * rows.sum() / max(len(y), 1)


def loss_by_one_hot_labels(
    student_logits, teacher_logits, labels=None, *, temperature=2.0, alpha=0.5
):
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature)
    if labels is None:
        return alpha * soft
    known = labels.ne(-100)
    targets = F.one_hot(labels.clamp(min=0), student_logits.shape[-1]) * known[:, None]
    hard = -(targets * student_logits.log_softmax(-1)).sum() / known.sum().clamp(min=1)
    return torch.lerp(hard, soft, alpha)


def half_the_biased_variance(student_logits, teacher_logits):
    return (student_logits - teacher_logits.detach()).var(-1, correction=0).mean() / 2


def mse_of_centred(student_logits, teacher_logits):
    return F.mse_loss(_centre(student_logits), _centre(teacher_logits.detach())) / 2


def by_a_centring_matrix(student_logits, teacher_logits):
    n = student_logits.shape[-1]
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    d = (student_logits - teacher_logits.detach()).double() @ centring
    return torch.einsum("bn,bn->", d, d) / (2 * n * len(d))


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("soften", soften_by_hand),
    ("soften", soften_by_logsumexp),
    ("soften", soften_by_a_distribution),
    ("distillation_loss", loss_by_torch),
    ("distillation_loss", loss_in_float64),
    ("distillation_loss", loss_by_one_hot_labels),
    ("logit_matching_loss", half_the_biased_variance),
    ("logit_matching_loss", mse_of_centred),
    ("logit_matching_loss", by_a_centring_matrix),
]
