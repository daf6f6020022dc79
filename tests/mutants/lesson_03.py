"""Wrong answers to the exercises of lesson 03, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of_distributions

from tests.mutants.mutant import Mutant

# --- entropy: wrong ------------------------------------------------------------------------------


def in_bits(logits, temperature=1.0):
    p = torch.softmax(logits / temperature, -1)
    return -(p * p.log2()).sum(-1).mean()


def summed_over_rows(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).sum()


def mean_over_everything(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).mean()


def without_the_minus(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    return (log_p.exp() * log_p).sum(-1).mean()


def one_value_a_row(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).sum(-1)


def unweighted(logits, temperature=1.0):
    return -F.log_softmax(logits / temperature, -1).sum(-1).mean()


def bare_logits_as_logs(logits, temperature=1.0):
    z = logits / temperature
    return -(z.softmax(-1) * z).sum(-1).mean()


def softmax_over_the_batch(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, 0)
    return -(log_p.exp() * log_p).sum(-1).mean()


def forgets_return(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    _ = -(log_p.exp() * log_p).sum(-1).mean()


def temperature_ignored(logits, temperature=1.0):
    log_p = F.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def temperature_multiplied(logits, temperature=1.0):
    log_p = F.log_softmax(logits * temperature, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def divided_afterwards(logits, temperature=1.0):
    log_p = F.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1).mean() / temperature


def with_temperature_squared(logits, temperature=1.0):
    log_p = F.log_softmax(logits / temperature, -1)
    return -(log_p.exp() * log_p).sum(-1).mean() * temperature**2


def bare_exponentials(logits, temperature=1.0):
    e = (logits / temperature).exp()
    p = e / e.sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1).mean()


def log_of_softmax(logits, temperature=1.0):
    p = (logits / temperature).softmax(-1)
    return -(p * p.log()).sum(-1).mean()


def divides_in_place(logits, temperature=1.0):
    logits /= temperature
    log_p = F.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1).mean()


# --- soft_cross_entropy: wrong -------------------------------------------------------------------


def roles_swapped(student_logits, teacher_logits, temperature=1.0):
    q = (student_logits / temperature).softmax(-1)
    return -(q * F.log_softmax(teacher_logits.detach() / temperature, -1)).sum(-1).mean()


def kl_instead(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    log_p = F.log_softmax(teacher_logits.detach() / temperature, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def students_entropy(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    return -(log_q.exp() * log_q).sum(-1).mean()


def argmax_target(student_logits, teacher_logits, temperature=1.0):
    return F.cross_entropy(student_logits / temperature, teacher_logits.argmax(-1))


def mean_over_classes(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    return -((teacher_logits.detach() / temperature).softmax(-1) * log_q).mean()


def bare_teacher_logits(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    return -(teacher_logits.detach() * log_q).sum(-1).mean()


def batch_axis(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, 0)
    return -((teacher_logits.detach() / temperature).softmax(0) * log_q).sum(-1).mean()


def student_alone_softened(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    return -(teacher_logits.detach().softmax(-1) * log_q).sum(-1).mean()


def teacher_alone_softened(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits, -1)
    return -((teacher_logits.detach() / temperature).softmax(-1) * log_q).sum(-1).mean()


def squared_temperature(student_logits, teacher_logits, temperature=1.0):
    log_q = F.log_softmax(student_logits / temperature, -1)
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return temperature**2 * -(p * log_q).sum(-1).mean()


def epsilon_under_the_log(student_logits, teacher_logits, temperature=1.0):
    q = (student_logits / temperature).softmax(-1)
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return -(p * (q + 1e-9).log()).sum(-1).mean()


def student_underflows(student_logits, teacher_logits, temperature=1.0):
    q = (student_logits / temperature).softmax(-1)
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return -(p * q.log()).sum(-1).mean()


def own_exponentials(student_logits, teacher_logits, temperature=1.0):
    z = student_logits / temperature
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return -(p * (z - z.exp().sum(-1, keepdim=True).log())).sum(-1).mean()


def teacher_divided_in_place(student_logits, teacher_logits, temperature=1.0):
    p = teacher_logits.detach().div_(temperature).softmax(-1)
    return -(p * F.log_softmax(student_logits / temperature, -1)).sum(-1).mean()


def gives_an_item(student_logits, teacher_logits, temperature=1.0):
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return -(p * F.log_softmax(student_logits / temperature, -1)).sum(-1).mean().item()


def student_detached(student_logits, teacher_logits, temperature=1.0):
    p = (teacher_logits / temperature).softmax(-1)
    return -(p * F.log_softmax(student_logits.detach() / temperature, -1)).sum(-1).mean()


def teacher_awake(student_logits, teacher_logits, temperature=1.0):
    p = (teacher_logits / temperature).softmax(-1)
    return -(p * F.log_softmax(student_logits / temperature, -1)).sum(-1).mean()


# --- kl_divergence: wrong ------------------------------------------------------------------------


def _masked(student, teacher, mask):
    teacher = teacher.detach()
    return (student, teacher) if mask is None else (student[mask], teacher[mask])


def _logs(student, teacher, temperature):
    return F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)


def reversed_kl(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def mean_for_batchmean(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return F.kl_div(log_q, log_p, reduction="mean", log_target=True)


def sum_for_batchmean(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def cross_entropy_instead(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return -(log_p.exp() * log_q).sum(-1).mean()


def log_target_forgotten(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return F.kl_div(log_q, log_p, reduction="batchmean")


def probabilities_as_input(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return F.kl_div(log_q.exp(), log_p.exp(), reduction="batchmean")


def logits_as_input(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    target = (teacher / temperature).softmax(-1)
    return F.kl_div(student / temperature, target, reduction="batchmean")


def both_ways(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() / 2


def temperature_squared_too_soon(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def teacher_at_one(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    target = teacher.softmax(-1)
    return F.kl_div(F.log_softmax(student / temperature, -1), target, reduction="batchmean")


def temperature_nowhere(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), 1.0)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def mask_ignored(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    log_q, log_p = _logs(student_logits, teacher_logits.detach(), temperature)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def mask_upside_down(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    mask = None if mask is None else ~mask
    log_q, log_p = _logs(*_masked(student_logits, teacher_logits, mask), temperature)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def divides_by_all_rows(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    log_q, log_p = _logs(student, teacher, temperature)
    return (log_p.exp() * (log_p - log_q)).sum() / student_logits[..., 0].numel()


def _rows(student_logits, teacher_logits, temperature):
    log_q, log_p = _logs(student_logits, teacher_logits.detach(), temperature)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mean_of_the_texts_means(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    rows = _rows(student_logits, teacher_logits, temperature)
    if mask is None:
        return rows.mean()
    if mask.ndim == 1:
        return rows[mask].mean()
    return (torch.where(mask, rows, 0).sum(-1) / mask.sum(-1)).mean()


def divides_by_texts(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    rows = _rows(student_logits, teacher_logits, temperature)
    if mask is None or mask.ndim == 1:
        return rows.mean() if mask is None else rows[mask].mean()
    return torch.where(mask, rows, 0).sum() / len(rows)


def multiplies_by_the_mask(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    rows = _rows(student_logits, teacher_logits, temperature)
    return rows.mean() if mask is None else (rows * mask).sum() / mask.sum()


def masks_after_the_softmax(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    rows = _rows(student_logits, teacher_logits, temperature)
    return rows.mean() if mask is None else rows[mask].mean()


def logs_of_softmaxes(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()


def clamped_probabilities(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    return (p * (p.clamp(min=1e-8).log() - q.clamp(min=1e-8).log())).sum(-1).mean()


# torch gives infinity where the student's probability is exactly 0.
def kl_of_two_distributions(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    p, q = Categorical(logits=teacher / temperature), Categorical(logits=student / temperature)
    return kl_of_distributions(p, q).mean()


def blanks_in_place(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    if mask is not None:
        student_logits.data[~mask] = 0
        teacher_logits.data[~mask] = 0
    student, teacher = _masked(student_logits, teacher_logits, mask)
    log_q, log_p = _logs(student, teacher, temperature)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def teacher_not_detached(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    if mask is not None:
        student_logits, teacher_logits = student_logits[mask], teacher_logits[mask]
    log_q, log_p = _logs(student_logits, teacher_logits, temperature)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


# --- soft_cross_entropy_gradient: wrong ----------------------------------------------------------


def _difference(student_logits, teacher_logits, temperature):
    return (student_logits / temperature).softmax(-1) - (teacher_logits / temperature).softmax(-1)


def sign_turned(student_logits, teacher_logits, temperature=1.0):
    return -_difference(student_logits, teacher_logits, temperature) / (
        temperature * len(student_logits)
    )


def batch_forgotten(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, temperature) / temperature


def divides_by_entries(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, temperature) / (
        temperature * student_logits.numel()
    )


def divides_by_classes(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, temperature) / (
        temperature * student_logits.shape[-1]
    )


def difference_of_logs(student_logits, teacher_logits, temperature=1.0):
    log_q, log_p = _logs(student_logits, teacher_logits, temperature)
    return (log_q - log_p) / (temperature * len(student_logits))


def axis_of_the_batch(student_logits, teacher_logits, temperature=1.0):
    q, p = (student_logits / temperature).softmax(0), (teacher_logits / temperature).softmax(0)
    return (q - p) / (temperature * len(student_logits))


def chain_rule_forgotten(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, temperature) / len(student_logits)


def temperature_twice(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, temperature) / (
        temperature**2 * len(student_logits)
    )


def softmax_at_one(student_logits, teacher_logits, temperature=1.0):
    return _difference(student_logits, teacher_logits, 1.0) / (temperature * len(student_logits))


def teacher_not_softened(student_logits, teacher_logits, temperature=1.0):
    difference = (student_logits / temperature).softmax(-1) - teacher_logits.softmax(-1)
    return difference / (temperature * len(student_logits))


def exponentials_overflow(student_logits, teacher_logits, temperature=1.0):
    q, p = (student_logits / temperature).exp(), (teacher_logits / temperature).exp()
    difference = q / q.sum(-1, keepdim=True) - p / p.sum(-1, keepdim=True)
    return difference / (temperature * len(student_logits))


def by_autograd(student_logits, teacher_logits, temperature=1.0):
    z = student_logits.detach().requires_grad_()
    p = (teacher_logits / temperature).softmax(-1)
    return torch.autograd.grad(F.cross_entropy(z / temperature, p), z)[0]


def by_backward(student_logits, teacher_logits, temperature=1.0):
    z = student_logits.detach().requires_grad_()
    F.cross_entropy(z / temperature, (teacher_logits / temperature).softmax(-1)).backward()
    return z.grad


def subtracts_in_place(student_logits, teacher_logits, temperature=1.0):
    q = student_logits.div_(temperature).softmax(-1)
    p = teacher_logits.div_(temperature).softmax(-1)
    return (q - p) / (temperature * len(student_logits))


MUTANTS: list[Mutant] = [
    Mutant("entropy", in_bits, "definition", "in bits"),
    Mutant("entropy", summed_over_rows, "definition", "the sum over the rows"),
    Mutant("entropy", mean_over_everything, "definition", "the mean runs over the classes too"),
    Mutant("entropy", without_the_minus, "definition", "the sign is the wrong way round"),
    Mutant("entropy", one_value_a_row, "definition", "expected one number"),
    Mutant("entropy", unweighted, "definition", "weigh each log p by its p"),
    Mutant("entropy", bare_logits_as_logs, "definition", "bare logits z"),
    Mutant("entropy", softmax_over_the_batch, "definition", "dim=0"),
    Mutant("entropy", forgets_return, "definition", "return statement"),
    Mutant("entropy", temperature_ignored, "temperature", "the temperature has no effect"),
    Mutant("entropy", temperature_multiplied, "temperature", "the logits are multiplied by T"),
    Mutant("entropy", divided_afterwards, "temperature", "the entropy itself is divided by T"),
    Mutant("entropy", with_temperature_squared, "temperature", "multiplied by T²"),
    Mutant("entropy", bare_exponentials, "constant_added", "exp(100)"),
    Mutant("entropy", log_of_softmax, "finite", "softmax(z).log()"),
    Mutant("entropy", divides_in_place, "inputs_unchanged", "it changes logits in place"),
    Mutant("soft_cross_entropy", roles_swapped, "definition", "the roles are swapped"),
    Mutant("soft_cross_entropy", kl_instead, "definition", "this is KL(teacher ‖ student)"),
    Mutant("soft_cross_entropy", students_entropy, "definition", "the student's own entropy"),
    Mutant("soft_cross_entropy", argmax_target, "definition", "argmax"),
    Mutant("soft_cross_entropy", mean_over_classes, "definition", "runs over the classes too"),
    Mutant("soft_cross_entropy", bare_teacher_logits, "definition", "the teacher's bare logits"),
    Mutant("soft_cross_entropy", batch_axis, "definition", "dim=0"),
    Mutant(
        "soft_cross_entropy", student_alone_softened, "temperature", "the student's logits only"
    ),
    Mutant(
        "soft_cross_entropy", teacher_alone_softened, "temperature", "the teacher's logits only"
    ),
    Mutant("soft_cross_entropy", squared_temperature, "temperature", "T² is there"),
    Mutant("soft_cross_entropy", own_exponentials, "constant_added", "exp(100)"),
    Mutant("soft_cross_entropy", epsilon_under_the_log, "finite", "−log(1e-09)"),
    Mutant("soft_cross_entropy", student_underflows, "finite", "underflows to 0"),
    Mutant("soft_cross_entropy", teacher_divided_in_place, "inputs_unchanged", "teacher_logits in"),
    Mutant("soft_cross_entropy", gives_an_item, "definition", ".item()"),
    Mutant("soft_cross_entropy", student_detached, "gradient", "never the student's"),
    Mutant(
        "soft_cross_entropy", teacher_awake, "no_gradient_to_the_teacher", "reaches the teacher"
    ),
    Mutant("kl_divergence", reversed_kl, "definition", "this is KL(student ‖ teacher)"),
    Mutant("kl_divergence", mean_for_batchmean, "definition", "'batchmean', not 'mean'"),
    Mutant("kl_divergence", sum_for_batchmean, "definition", "this is the sum over the rows"),
    Mutant("kl_divergence", cross_entropy_instead, "definition", "this is the cross-entropy"),
    Mutant("kl_divergence", log_target_forgotten, "definition", "log_target=True"),
    Mutant("kl_divergence", probabilities_as_input, "definition", "the student's probabilities"),
    Mutant("kl_divergence", logits_as_input, "definition", "the student's bare logits"),
    Mutant("kl_divergence", both_ways, "definition", "the mean of KL both ways"),
    Mutant("kl_divergence", temperature_squared_too_soon, "temperature", "T² is there"),
    Mutant("kl_divergence", teacher_at_one, "zero_for_equal", "T divides one side only"),
    Mutant("kl_divergence", temperature_nowhere, "temperature", "the temperature has no effect"),
    Mutant("kl_divergence", mask_ignored, "masked_rows", "the mask has no effect"),
    Mutant("kl_divergence", mask_upside_down, "masked_rows", "upside down"),
    Mutant("kl_divergence", divides_by_all_rows, "masked_rows", "blank but still counted"),
    Mutant("kl_divergence", mean_of_the_texts_means, "masked_rows", "each text's mean"),
    Mutant("kl_divergence", divides_by_texts, "masked_rows", "number of texts, not of tokens"),
    Mutant("kl_divergence", multiplies_by_the_mask, "masked_rows", "0 · NaN is NaN"),
    Mutant("kl_divergence", masks_after_the_softmax, "gradient", "before the softmax"),
    Mutant("kl_divergence", logs_of_softmaxes, "finite", "underflows to 0"),
    Mutant("kl_divergence", kl_of_two_distributions, "finite", "the value is infinite"),
    Mutant("kl_divergence", clamped_probabilities, "finite", "−log(1e-08)"),
    Mutant("kl_divergence", blanks_in_place, "inputs_unchanged", "student_logits and teacher_log"),
    Mutant("kl_divergence", teacher_not_detached, "no_gradient_to_the_teacher", "target too"),
    Mutant("soft_cross_entropy_gradient", sign_turned, "formula", "the sign is the wrong way"),
    Mutant("soft_cross_entropy_gradient", batch_forgotten, "formula", "a mean over the batch"),
    Mutant(
        "soft_cross_entropy_gradient", divides_by_entries, "formula", "the loss sums over those"
    ),
    Mutant("soft_cross_entropy_gradient", divides_by_classes, "formula", "the number of classes"),
    Mutant("soft_cross_entropy_gradient", difference_of_logs, "formula", "of log-probabilities"),
    Mutant("soft_cross_entropy_gradient", axis_of_the_batch, "formula", "dim=0"),
    Mutant("soft_cross_entropy_gradient", chain_rule_forgotten, "temperature", "1/T is missing"),
    Mutant("soft_cross_entropy_gradient", temperature_twice, "temperature", "there is 1/T²"),
    Mutant("soft_cross_entropy_gradient", softmax_at_one, "temperature", "those at T = 1"),
    Mutant(
        "soft_cross_entropy_gradient", teacher_not_softened, "temperature", "student's logits only"
    ),
    Mutant("soft_cross_entropy_gradient", exponentials_overflow, "zero_for_equal", "NaN"),
    Mutant(
        "soft_cross_entropy_gradient", by_autograd, "formula", "torch.autograd.grad` is the answer"
    ),
    Mutant("soft_cross_entropy_gradient", by_backward, "formula", "backward` is the answer"),
    Mutant("soft_cross_entropy_gradient", subtracts_in_place, "inputs_unchanged", "in place"),
]


# --- right, in another style ---------------------------------------------------------------------


def entropy_of_a_distribution(logits, temperature=1.0):
    return Categorical(logits=logits / temperature).entropy().mean()


def entropy_by_logsumexp(logits, temperature=1.0):
    z = logits / temperature
    return (z.logsumexp(-1) - (z.softmax(-1) * z).sum(-1)).mean()


def entropy_in_float64(logits, temperature=1.0):
    log_p = (logits.double() / temperature).log_softmax(-1)
    return -torch.einsum("bc,bc->b", log_p.exp(), log_p).mean()


def entropy_by_xlogy(logits, temperature=1.0):
    p = (logits / temperature).softmax(-1)
    return -torch.special.xlogy(p, p).sum() / len(p)


def entropy_in_numpy(logits, temperature=1.0):
    total = 0.0
    for row in logits.double().detach().numpy() / temperature:
        shifted = row - row.max()
        log_p = shifted - math.log(np.exp(shifted).sum())
        total -= float((np.exp(log_p) * log_p).sum())
    return torch.tensor(total / len(logits))


def torch_cross_entropy(student_logits, teacher_logits, temperature=1.0):
    target = (teacher_logits.detach() / temperature).softmax(-1)
    return F.cross_entropy(student_logits / temperature, target)


def cross_entropy_by_einsum(student_logits, teacher_logits, temperature=1.0):
    with torch.no_grad():
        p = torch.softmax(teacher_logits / temperature, -1)
    log_q = torch.log_softmax(student_logits / temperature, -1)
    return -torch.einsum("bc,bc->", p, log_q) / len(p)


def cross_entropy_by_logsumexp(student_logits, teacher_logits, temperature=1.0):
    z = student_logits / temperature
    p = (teacher_logits.detach() / temperature).softmax(-1)
    return (z.logsumexp(-1) - (p * z).sum(-1)).mean()


def cross_entropy_in_float64(student_logits, teacher_logits, temperature=1.0):
    p = (teacher_logits.detach().double() / temperature).softmax(-1)
    return -(p * F.log_softmax(student_logits.double() / temperature, -1)).sum(-1).mean().float()


def kl_by_batchmean(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits, teacher_logits, mask)
    log_q = F.log_softmax(student.reshape(-1, student.shape[-1]) / temperature, -1)
    target = F.softmax(teacher.reshape(-1, student.shape[-1]) / temperature, -1)
    return F.kl_div(log_q, target, reduction="batchmean")


def kl_by_where(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    if mask is None:
        mask = torch.ones(student_logits.shape[:-1], dtype=torch.bool)
    student = student_logits.masked_fill(~mask.unsqueeze(-1), 0.0)
    teacher = teacher_logits.detach().masked_fill(~mask.unsqueeze(-1), 0.0)
    log_q, log_p = _logs(student, teacher, temperature)
    rows = torch.einsum("...c,...c->...", log_p.exp(), log_p - log_q)
    return (rows * mask).sum() / mask.sum()


def kl_as_difference(student_logits, teacher_logits, temperature=1.0, *, mask=None):
    student, teacher = _masked(student_logits.double(), teacher_logits.double(), mask)
    log_q, log_p = _logs(student, teacher, temperature)
    p = log_p.exp()
    return -(p * log_q).sum(-1).mean() + (p * log_p).sum(-1).mean()


def gradient_row_by_row(student_logits, teacher_logits, temperature=1.0):
    rows = [
        torch.softmax(s / temperature, 0) - torch.softmax(t / temperature, 0)
        for s, t in zip(student_logits, teacher_logits, strict=True)
    ]
    return torch.stack(rows).div(temperature * len(rows))


def gradient_in_float64(student_logits, teacher_logits, temperature=1.0):
    log_q, log_p = _logs(student_logits.double(), teacher_logits.double(), temperature)
    return (log_q.exp() - log_p.exp()) / temperature / student_logits.size(0)


def gradient_by_the_jacobian(student_logits, teacher_logits, temperature=1.0):
    q, p = (student_logits / temperature).softmax(-1), (teacher_logits / temperature).softmax(-1)
    # d log q_i / d z_j = (δ_ij − q_j) / T
    jacobian = (torch.eye(q.shape[-1]) - q[:, None, :]) / temperature
    return -torch.einsum("bi,bij->bj", p, jacobian) / len(q)


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("entropy", entropy_of_a_distribution),
    ("entropy", entropy_by_logsumexp),
    ("entropy", entropy_in_float64),
    ("entropy", entropy_by_xlogy),
    ("entropy", entropy_in_numpy),
    ("soft_cross_entropy", torch_cross_entropy),
    ("soft_cross_entropy", cross_entropy_by_einsum),
    ("soft_cross_entropy", cross_entropy_by_logsumexp),
    ("soft_cross_entropy", cross_entropy_in_float64),
    ("kl_divergence", kl_by_batchmean),
    ("kl_divergence", kl_by_where),
    ("kl_divergence", kl_as_difference),
    ("soft_cross_entropy_gradient", gradient_row_by_row),
    ("soft_cross_entropy_gradient", gradient_in_float64),
    ("soft_cross_entropy_gradient", gradient_by_the_jacobian),
]
