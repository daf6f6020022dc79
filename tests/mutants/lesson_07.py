"""Wrong answers to the exercises of lesson 07, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.mutants.mutant import Mutant

# --- hidden_state_loss: wrong --------------------------------------------------------------------


def _projected(student_hidden, projection):
    return student_hidden if projection is None else F.linear(student_hidden, projection)


def _blank(states, mask):
    return torch.where(mask[..., None], states, 0)


def _difference(student_hidden, teacher_hidden, mask, projection):
    ours = _projected(_blank(student_hidden, mask), projection)
    return ours - _blank(teacher_hidden.detach(), mask)


def _squares(student_hidden, teacher_hidden, mask, projection):
    return _difference(student_hidden, teacher_hidden, mask, projection).square().mean(-1)


def summed_over_width(student_hidden, teacher_hidden, mask, projection=None):
    difference = _difference(student_hidden, teacher_hidden, mask, projection)
    return difference.square().sum(-1)[mask].mean()


def summed_over_tokens(student_hidden, teacher_hidden, mask, projection=None):
    return _squares(student_hidden, teacher_hidden, mask, projection).sum()


def halved(student_hidden, teacher_hidden, mask, projection=None):
    return _squares(student_hidden, teacher_hidden, mask, projection)[mask].mean() / 2


def absolute(student_hidden, teacher_hidden, mask, projection=None):
    return _difference(student_hidden, teacher_hidden, mask, projection).abs()[mask].mean()


def euclidean(student_hidden, teacher_hidden, mask, projection=None):
    return _difference(student_hidden, teacher_hidden, mask, projection)[mask].norm(dim=-1).mean()


def cosine(student_hidden, teacher_hidden, mask, projection=None):
    ours = _projected(student_hidden, projection)[mask]
    return 1 - F.cosine_similarity(ours, teacher_hidden[mask].detach(), dim=-1).mean()


def each_token_its_own(student_hidden, teacher_hidden, mask, projection=None):
    return _squares(student_hidden, teacher_hidden, mask, projection)


def padding_compared(student_hidden, teacher_hidden, mask, projection=None):
    return F.mse_loss(_projected(student_hidden, projection), teacher_hidden.detach())


def divided_by_all_positions(student_hidden, teacher_hidden, mask, projection=None):
    return _squares(student_hidden, teacher_hidden, mask, projection).mean()


def mask_upside_down(student_hidden, teacher_hidden, mask, projection=None):
    mask = ~mask if not mask.all() else mask
    return _squares(student_hidden, teacher_hidden, mask, projection)[mask].mean()


def mean_of_texts(student_hidden, teacher_hidden, mask, projection=None):
    rows = _squares(student_hidden, teacher_hidden, mask, projection)
    return (rows.sum(-1) / mask.sum(-1)).mean()


def one_side_blanked(student_hidden, teacher_hidden, mask, projection=None):
    ours = _projected(student_hidden * mask[..., None], projection)
    return F.mse_loss(ours, teacher_hidden.detach())


def other_side_blanked(student_hidden, teacher_hidden, mask, projection=None):
    rows = (_projected(student_hidden, projection) - _blank(teacher_hidden.detach(), mask)).square()
    return rows.mean(-1).sum() / mask.sum()


def transposed_projection(student_hidden, teacher_hidden, mask, projection=None):
    if projection is not None and projection.shape[0] == projection.shape[1]:
        projection = projection.T
    return _squares(student_hidden, teacher_hidden, mask, projection)[mask].mean()


def projects_the_teacher(student_hidden, teacher_hidden, mask, projection=None):
    theirs = _projected(teacher_hidden, projection)
    return F.mse_loss(student_hidden[mask], theirs[mask].detach())


def projection_forgotten(student_hidden, teacher_hidden, mask, projection=None):
    return F.mse_loss(student_hidden[mask], teacher_hidden[mask].detach())


def cut_to_the_smaller_width(student_hidden, teacher_hidden, mask, projection=None):
    if projection is not None and projection.shape[0] == projection.shape[1]:
        return hidden_by_indexing(student_hidden, teacher_hidden, mask, projection)
    width = min(student_hidden.shape[-1], teacher_hidden.shape[-1])
    return F.mse_loss(student_hidden[mask][:, :width], teacher_hidden[mask][:, :width].detach())


def matrix_the_wrong_way(student_hidden, teacher_hidden, mask, projection=None):
    if projection is not None and projection.shape[0] != projection.shape[1]:
        student_hidden = student_hidden @ projection
        projection = None
    return _squares(student_hidden, teacher_hidden, mask, projection)[mask].mean()


def multiplied_by_the_mask(student_hidden, teacher_hidden, mask, projection=None):
    rows = (_projected(student_hidden, projection) - teacher_hidden.detach()).square().mean(-1)
    return (rows * mask).sum() / mask.sum()


def blanked_afterwards(student_hidden, teacher_hidden, mask, projection=None):
    rows = (_projected(student_hidden, projection) - teacher_hidden.detach()).square().mean(-1)
    return torch.where(mask, rows, 0).sum() / mask.sum()


def blanked_in_place(student_hidden, teacher_hidden, mask, projection=None):
    student_hidden.data[~mask] = 0
    return hidden_by_indexing(student_hidden, teacher_hidden, mask, projection)


def projection_detached(student_hidden, teacher_hidden, mask, projection=None):
    projection = None if projection is None else projection.detach()
    return _squares(student_hidden, teacher_hidden, mask, projection)[mask].mean()


def teacher_learns(student_hidden, teacher_hidden, mask, projection=None):
    return F.mse_loss(_projected(student_hidden, projection)[mask], teacher_hidden[mask])


def gives_a_float(student_hidden, teacher_hidden, mask, projection=None):
    return teacher_learns(student_hidden, teacher_hidden, mask, projection).item()


# --- attention_loss: wrong -----------------------------------------------------------------------


def _maps(student_attention, teacher_attention, mask):
    """Both maps, averaged over the heads where their numbers differ, blank under padding."""
    student, teacher = student_attention, teacher_attention.detach()
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(1, keepdim=True) for x in (student, teacher))
    keep = (mask[:, :, None] & mask[:, None, :])[:, None]
    return torch.where(keep, student, 0), torch.where(keep, teacher, 0)


def _kl(student, teacher, floor=1e-12):
    return (teacher * (teacher.clamp(min=floor).log() - student.clamp(min=floor).log())).sum(-1)


def _mean(rows, mask):
    return torch.where(mask[:, None], rows, 0).sum() / (mask.sum() * rows.shape[1])


def maps_turned(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _mean(_kl(teacher, student), mask)


def batchmean(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return F.kl_div(student.clamp(min=1e-12).log(), teacher, reduction="batchmean")


def mean_over_keys_too(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return F.kl_div(student.clamp(min=1e-12).log(), teacher, reduction="mean")


def heads_summed(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return torch.where(mask[:, None], _kl(student, teacher), 0).sum() / mask.sum()


def softmax_of_probabilities(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    rows = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    return _mean(rows, mask)


def log_softmax_of_the_student(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _mean(F.kl_div(student.log_softmax(-1), teacher, reduction="none").sum(-1), mask)


def mse_of_maps(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return F.mse_loss(student, teacher)


def cross_entropy_of_maps(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _mean(-(teacher * student.clamp(min=1e-12).log()).sum(-1), mask)


def heads_always_averaged(student_attention, teacher_attention, mask):
    ours, theirs = (x.mean(1, keepdim=True) for x in (student_attention, teacher_attention))
    student, teacher = _maps(ours, theirs, mask)
    return _mean(_kl(student, teacher), mask)


def padding_queries_count(student_attention, teacher_attention, mask):
    student, teacher = student_attention, teacher_attention.detach()
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(1, keepdim=True) for x in (student, teacher))
    return _kl(student, teacher).mean()


def maps_over_all_positions(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _kl(student, teacher).mean()


def maps_per_text(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return (_kl(student, teacher).mean(1).sum(-1) / mask.sum(-1)).mean()


def logs_of_zero(student_attention, teacher_attention, mask):
    student, teacher = student_attention, teacher_attention.detach()
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(1, keepdim=True) for x in (student, teacher))
    return _mean((teacher * (teacher.log() - student.log())).sum(-1), mask)


def upside_down_maps(student_attention, teacher_attention, mask):
    mask = mask if mask.all() else ~mask
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _mean(_kl(student, teacher), mask)


def every_head_with_every_head(student_attention, teacher_attention, mask):
    student, teacher = student_attention, teacher_attention
    if student.shape[1] == teacher.shape[1]:
        return attention_by_loops(student, teacher, mask)
    ours = student.repeat_interleave(teacher.shape[1], 1)
    theirs = teacher.repeat(1, student.shape[1], 1, 1)
    return _mean(_kl(*_maps(ours, theirs, mask)), mask)


def first_heads(student_attention, teacher_attention, mask):
    heads = min(student_attention.shape[1], teacher_attention.shape[1])
    maps = _maps(student_attention[:, :heads], teacher_attention[:, :heads], mask)
    return _mean(_kl(*maps), mask)


def heads_must_agree(student_attention, teacher_attention, mask):
    keep = (mask[:, :, None] & mask[:, None, :])[:, None]
    student = torch.where(keep, student_attention, 0)
    teacher = torch.where(keep, teacher_attention.detach(), 0)
    assert student.shape == teacher.shape
    return _mean(_kl(student, teacher), mask)


def never_looked_is_infinite(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    terms = torch.where(teacher > 0, teacher * (teacher / student).log(), 0)
    return _mean(terms.sum(-1), mask)


def zeros_left_out(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    both = (student > 0) & (teacher > 0)
    student, teacher = (torch.where(both, x, 1) for x in (student, teacher))
    return _mean((teacher * (teacher.log() - student.log())).sum(-1), mask)


def finite_but_not_its_gradient(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    log_q = student.log().clamp(min=-30)
    return _mean((teacher * (teacher.clamp(min=1e-12).log() - log_q)).sum(-1), mask)


def large_epsilon(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    return _mean((teacher * ((teacher + 1e-3) / (student + 1e-3)).log()).sum(-1), mask)


def maps_multiplied(student_attention, teacher_attention, mask):
    student, teacher = student_attention, teacher_attention.detach()
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(1, keepdim=True) for x in (student, teacher))
    keep = (mask[:, :, None] & mask[:, None, :])[:, None]
    return _mean(_kl(student * keep, teacher * keep), mask)


def student_detached(student_attention, teacher_attention, mask):
    return attention_by_loops(student_attention.detach(), teacher_attention, mask)


def small_probabilities_do_not_learn(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    student = torch.where(student > 0.3, student, student.detach())
    return _mean(_kl(student, teacher), mask)


def teachers_map_learns(student_attention, teacher_attention, mask):
    return attention_by_loops(student_attention, teacher_attention, mask, detach=False)


def map_blanked_in_place(student_attention, teacher_attention, mask):
    student_attention.data.masked_fill_(~mask[:, None, :, None], 0)
    return attention_by_loops(student_attention, teacher_attention, mask)


# --- relation_loss: wrong ------------------------------------------------------------------------


def _split(states, mask, heads):
    states = _blank(states, mask)
    batch, tokens, width = states.shape
    return states.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def _log_relation(parts, mask, divisor=None, fill=None):
    divisor = math.sqrt(parts.shape[-1]) if divisor is None else divisor
    scores = parts @ parts.transpose(-1, -2) / divisor
    fill = torch.finfo(scores.dtype).min if fill is None else fill
    return scores.masked_fill(~mask[:, None, None, :], fill).log_softmax(-1)


def _relation_rows(student_states, teacher_states, mask, heads, split=_split, **how):
    log_q = _log_relation(split(student_states, mask, heads), mask, **how)
    log_p = _log_relation(split(teacher_states.detach(), mask, heads), mask, **how)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def relations_not_scaled(student_states, teacher_states, mask, heads):
    return _mean(_relation_rows(student_states, teacher_states, mask, heads, divisor=1), mask)


def scaled_by_the_width_itself(student_states, teacher_states, mask, heads):
    ours, theirs = (_split(x, mask, heads) for x in (student_states, teacher_states.detach()))
    log_q = _log_relation(ours, mask, ours.shape[-1])
    log_p = _log_relation(theirs, mask, theirs.shape[-1])
    return _mean((log_p.exp() * (log_p - log_q)).sum(-1), mask)


def one_scale_for_both(student_states, teacher_states, mask, heads):
    d = student_states.shape[-1] // heads
    rows = _relation_rows(student_states, teacher_states, mask, heads, divisor=math.sqrt(d))
    return _mean(rows, mask)


def relations_turned(student_states, teacher_states, mask, heads):
    log_q = _log_relation(_split(student_states, mask, heads), mask)
    log_p = _log_relation(_split(teacher_states.detach(), mask, heads), mask)
    return _mean((log_q.exp() * (log_q - log_p)).sum(-1), mask)


def relation_batchmean(student_states, teacher_states, mask, heads):
    rows = _relation_rows(student_states, teacher_states, mask, heads)
    return rows.sum() / len(rows)


def relation_mean_of_entries(student_states, teacher_states, mask, heads):
    log_q = _log_relation(_split(student_states, mask, heads), mask)
    log_p = _log_relation(_split(teacher_states.detach(), mask, heads), mask)
    return F.kl_div(log_q, log_p, reduction="mean", log_target=True)


def squared_relations(student_states, teacher_states, mask, heads):
    log_q = _log_relation(_split(student_states, mask, heads), mask)
    log_p = _log_relation(_split(teacher_states.detach(), mask, heads), mask)
    return F.mse_loss(log_q.exp(), log_p.exp())


def cosines(student_states, teacher_states, mask, heads):
    unit = [F.normalize(x, dim=-1) for x in (student_states, teacher_states)]
    return _mean(_relation_rows(*unit, mask, heads, divisor=1), mask)


def softmax_over_heads(student_states, teacher_states, mask, heads):
    sides = [_split(x, mask, heads) for x in (student_states, teacher_states.detach())]
    logs = [(x @ x.mT / math.sqrt(x.shape[-1])).log_softmax(1) for x in sides]
    return _mean((logs[1].exp() * (logs[1] - logs[0])).sum(-1), mask)


def heads_forgotten(student_states, teacher_states, mask, heads):
    return _mean(_relation_rows(student_states, teacher_states, mask, 1), mask)


def heads_by_a_bare_reshape(student_states, teacher_states, mask, heads):
    def split(states, mask, heads):
        states = _blank(states, mask)
        return states.reshape(len(states), heads, states.shape[1], states.shape[2] // heads)

    return _mean(_relation_rows(student_states, teacher_states, mask, heads, split), mask)


def heads_interleaved(student_states, teacher_states, mask, heads):
    def split(states, mask, heads):
        states = _blank(states, mask)
        return states.unflatten(-1, (states.shape[-1] // heads, heads)).permute(0, 3, 1, 2)

    return _mean(_relation_rows(student_states, teacher_states, mask, heads, split), mask)


def scaled_by_the_whole_width(student_states, teacher_states, mask, heads):
    ours, theirs = (_split(x, mask, heads) for x in (student_states, teacher_states.detach()))
    log_q = _log_relation(ours, mask, math.sqrt(student_states.shape[-1]))
    log_p = _log_relation(theirs, mask, math.sqrt(teacher_states.shape[-1]))
    return _mean((log_p.exp() * (log_p - log_q)).sum(-1), mask)


def relation_heads_summed(student_states, teacher_states, mask, heads):
    return heads * _mean(_relation_rows(student_states, teacher_states, mask, heads), mask)


def relations_averaged_first(student_states, teacher_states, mask, heads):
    logs = [
        _log_relation(_split(x, mask, heads), mask).exp().mean(1, keepdim=True).log()
        for x in (student_states, teacher_states.detach())
    ]
    return _mean((logs[1].exp() * (logs[1] - logs[0])).sum(-1), mask)


def relations_without_a_mask(student_states, teacher_states, mask, heads):
    everywhere = torch.ones_like(mask)
    return _relation_rows(student_states, teacher_states, everywhere, heads).mean()


def keys_not_masked(student_states, teacher_states, mask, heads):
    everywhere = torch.ones_like(mask)
    rows = _relation_rows(student_states, teacher_states, everywhere, heads)
    return _mean(rows, mask)


def masked_scores_are_zero(student_states, teacher_states, mask, heads):
    return _mean(_relation_rows(student_states, teacher_states, mask, heads, fill=0.0), mask)


def padding_relates_too(student_states, teacher_states, mask, heads):
    def split(states, mask, heads):
        return _split(states, torch.ones_like(mask), heads)

    return _relation_rows(student_states, teacher_states, mask, heads, split).mean()


def relations_over_all_positions(student_states, teacher_states, mask, heads):
    rows = _relation_rows(student_states, teacher_states, mask, heads)
    return torch.where(mask[:, None], rows, 0).mean()


def relations_per_text(student_states, teacher_states, mask, heads):
    rows = torch.where(
        mask[:, None], _relation_rows(student_states, teacher_states, mask, heads), 0
    )
    return (rows.mean(1).sum(-1) / mask.sum(-1)).mean()


def minus_infinity(student_states, teacher_states, mask, heads):
    rows = _relation_rows(student_states, teacher_states, mask, heads, fill=-math.inf)
    return _mean(rows, mask)


def relation_logs_of_softmax(student_states, teacher_states, mask, heads):
    q = _log_relation(_split(student_states, mask, heads), mask).exp()
    p = _log_relation(_split(teacher_states.detach(), mask, heads), mask).exp()
    return _mean(torch.where(p > 0, p * (p / q).log(), 0).sum(-1), mask)


def relation_logs_of_a_masked_softmax(student_states, teacher_states, mask, heads):
    q = _log_relation(_split(student_states, mask, heads), mask).softmax(-1).log()
    p = _log_relation(_split(teacher_states.detach(), mask, heads), mask).softmax(-1).log()
    return _mean((p.exp() * (p - q)).sum(-1), mask)


def relation_epsilon(student_states, teacher_states, mask, heads):
    q = _log_relation(_split(student_states, mask, heads), mask).exp()
    p = _log_relation(_split(teacher_states.detach(), mask, heads), mask).exp()
    return _mean((p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(-1), mask)


def states_not_blanked(student_states, teacher_states, mask, heads):
    def split(states, mask, heads):
        return _split(states, torch.ones_like(mask), heads)

    return _mean(_relation_rows(student_states, teacher_states, mask, heads, split), mask)


def one_side_of_the_product_detached(student_states, teacher_states, mask, heads):
    ours = _split(student_states, mask, heads)
    scores = ours @ ours.detach().mT / math.sqrt(ours.shape[-1])
    log_q = scores.masked_fill(~mask[:, None, None, :], -1e30).log_softmax(-1)
    log_p = _log_relation(_split(teacher_states.detach(), mask, heads), mask)
    return _mean((log_p.exp() * (log_p - log_q)).sum(-1), mask)


def teachers_states_learn(student_states, teacher_states, mask, heads):
    log_q = _log_relation(_split(student_states, mask, heads), mask)
    log_p = _log_relation(_split(teacher_states, mask, heads), mask)
    return _mean((log_p.exp() * (log_p - log_q)).sum(-1), mask)


def states_blanked_in_place(student_states, teacher_states, mask, heads):
    student_states.data[~mask] = 0
    return _mean(_relation_rows(student_states, teacher_states, mask, heads), mask)


# --- layer_map: wrong ----------------------------------------------------------------------------


def _named(blocks):
    return {f"layer.{i}": f"layer.{k}" for i, k in enumerate(blocks)}


def _checked(n, m, strategy):
    if n > m or strategy not in ("even", "last"):
        raise ValueError("no such map")


def _even(n, m):
    return [math.ceil((i + 1) * m / n) - 1 for i in range(n)]


def _map(student_layers, teacher_layers, strategy, even=_even, last=lambda n, m: range(m - n, m)):
    _checked(student_layers, teacher_layers, strategy)
    return _named((even if strategy == "even" else last)(student_layers, teacher_layers))


def indices_of_hidden_states(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, strategy, lambda n, m: [k + 1 for k in _even(n, m)])


def one_too_low(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, strategy, lambda n, m: [k - 1 for k in _even(n, m)])


def first_of_each_share(student_layers, teacher_layers, strategy="even"):
    return _map(
        student_layers, teacher_layers, strategy, lambda n, m: [i * m // n for i in range(n)]
    )


def first_to_first(student_layers, teacher_layers, strategy="even"):
    def even(n, m):
        return [round(i * (m - 1) / max(n - 1, 1)) for i in range(n)]

    return _map(student_layers, teacher_layers, strategy, even)


def lowest_blocks(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, strategy, lambda n, m: range(n))


def bare_numbers(student_layers, teacher_layers, strategy="even"):
    named = _map(student_layers, teacher_layers, strategy)
    return {int(ours[6:]): int(theirs[6:]) for ours, theirs in named.items()}


def teacher_to_student(student_layers, teacher_layers, strategy="even"):
    return {b: a for a, b in _map(student_layers, teacher_layers, strategy).items()}


def counted_from_one(student_layers, teacher_layers, strategy="even"):
    named = _map(student_layers, teacher_layers, strategy)
    return {f"layer.{int(a[6:]) + 1}": f"layer.{int(b[6:]) + 1}" for a, b in named.items()}


def fixed_stride(student_layers, teacher_layers, strategy="even"):
    return _map(
        student_layers,
        teacher_layers,
        strategy,
        lambda n, m: [(i + 1) * (m // n) - 1 for i in range(n)],
    )


def rounded_down(student_layers, teacher_layers, strategy="even"):
    return _map(
        student_layers,
        teacher_layers,
        strategy,
        lambda n, m: [(i + 1) * m // n - 1 for i in range(n)],
    )


def rounded_to_the_nearest(student_layers, teacher_layers, strategy="even"):
    def even(n, m):
        return [round((i + 1) * m / n) - 1 for i in range(n)]

    return _map(student_layers, teacher_layers, strategy, even)


def divided_first(student_layers, teacher_layers, strategy="even"):
    def even(n, m):
        return [math.ceil((i + 1) * (m / n)) - 1 for i in range(n)]

    return _map(student_layers, teacher_layers, strategy, even)


def always_even(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, strategy, last=_even)


def last_as_in_the_paper(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, strategy, last=lambda n, m: range(m - n - 1, m - 1))


def last_reversed(student_layers, teacher_layers, strategy="even"):
    return _map(
        student_layers, teacher_layers, strategy, last=lambda n, m: range(m - 1, m - n - 1, -1)
    )


def takes_a_larger_student(student_layers, teacher_layers, strategy="even"):
    if strategy not in ("even", "last"):
        raise ValueError(strategy)
    return _map(min(student_layers, teacher_layers), teacher_layers, strategy)


def takes_any_strategy(student_layers, teacher_layers, strategy="even"):
    return _map(student_layers, teacher_layers, "even" if strategy == "even" else "last")


def asserts(student_layers, teacher_layers, strategy="even"):
    assert student_layers <= teacher_layers
    return _map(student_layers, teacher_layers, strategy)


MUTANTS: list[Mutant] = [
    Mutant("hidden_state_loss", summed_over_width, "definition", "summed over the width"),
    Mutant("hidden_state_loss", summed_over_tokens, "definition", "the tokens are summed"),
    Mutant("hidden_state_loss", halved, "definition", "half of it"),
    Mutant("hidden_state_loss", absolute, "definition", "absolute differences"),
    Mutant("hidden_state_loss", euclidean, "definition", "‖s − t‖"),
    Mutant("hidden_state_loss", cosine, "definition", "1 − cos"),
    Mutant("hidden_state_loss", each_token_its_own, "definition", "a tensor of shape [1, 1]"),
    Mutant("hidden_state_loss", gives_a_float, "definition", "a plain number"),
    Mutant("hidden_state_loss", padding_compared, "padding", "the mask has no effect"),
    Mutant("hidden_state_loss", divided_by_all_positions, "padding", "divided by all positions"),
    Mutant("hidden_state_loss", mask_upside_down, "padding", "upside down"),
    Mutant("hidden_state_loss", mean_of_texts, "padding", "each text is averaged first"),
    Mutant("hidden_state_loss", one_side_blanked, "padding", "only the student's side"),
    Mutant("hidden_state_loss", other_side_blanked, "padding", "only the teacher's side"),
    Mutant("hidden_state_loss", projection_forgotten, "projection", "has no effect"),
    Mutant("hidden_state_loss", transposed_projection, "projection", "this is x W: expected x Wᵀ"),
    Mutant("hidden_state_loss", projects_the_teacher, "projection", "teacher's states are proj"),
    Mutant("hidden_state_loss", matrix_the_wrong_way, "projection", "as wide as the teacher"),
    Mutant("hidden_state_loss", cut_to_the_smaller_width, "projection", "not compared as x Wᵀ"),
    Mutant("hidden_state_loss", multiplied_by_the_mask, "out_of_reach", "NaN · 0 is NaN"),
    Mutant("hidden_state_loss", blanked_afterwards, "out_of_reach", "reaches the gradient"),
    Mutant("hidden_state_loss", projection_detached, "gradient", "reaches projection"),
    Mutant("hidden_state_loss", teacher_learns, "no_gradient_to_the_teacher", "move the target"),
    Mutant("hidden_state_loss", blanked_in_place, "inputs_unchanged", "changes student_hidden"),
    Mutant("attention_loss", maps_turned, "definition", "this is KL(student ‖ teacher)"),
    Mutant("attention_loss", batchmean, "definition", "the queries are summed"),
    Mutant("attention_loss", mean_over_keys_too, "definition", "over the keys too"),
    Mutant("attention_loss", heads_summed, "definition", "the heads are summed"),
    Mutant("attention_loss", softmax_of_probabilities, "definition", "the maps went through"),
    Mutant("attention_loss", log_softmax_of_the_student, "definition", "the student's map went"),
    Mutant("attention_loss", mse_of_maps, "definition", "squared difference of the maps"),
    Mutant("attention_loss", cross_entropy_of_maps, "definition", "cross-entropy"),
    Mutant("attention_loss", heads_always_averaged, "definition", "averaged before KL"),
    Mutant("attention_loss", large_epsilon, "definition", "it is not the mean over texts"),
    Mutant("attention_loss", padding_queries_count, "padding", "the maps of padding queries"),
    Mutant("attention_loss", maps_over_all_positions, "padding", "divided by all positions"),
    Mutant("attention_loss", maps_per_text, "padding", "each text is averaged first"),
    Mutant("attention_loss", logs_of_zero, "padding", "0 · (log 0 − log 0) is NaN"),
    Mutant("attention_loss", upside_down_maps, "padding", "upside down"),
    Mutant("attention_loss", every_head_with_every_head, "numbers_of_heads", "with every head"),
    Mutant("attention_loss", first_heads, "numbers_of_heads", "in order, and what is left over"),
    Mutant("attention_loss", heads_must_agree, "numbers_of_heads", "cannot be paired"),
    Mutant("attention_loss", never_looked_is_infinite, "zero_probability", "infinite or NaN"),
    Mutant("attention_loss", zeros_left_out, "zero_probability", "left out of the sum"),
    Mutant("attention_loss", finite_but_not_its_gradient, "zero_probability", "the gradient in"),
    Mutant("attention_loss", maps_multiplied, "out_of_reach", "NaN · 0 is NaN"),
    Mutant("attention_loss", student_detached, "zero_probability", "no gradient flows"),
    Mutant("attention_loss", small_probabilities_do_not_learn, "gradient", "is cut off"),
    Mutant("attention_loss", teachers_map_learns, "no_gradient_to_the_teacher", "move the target"),
    Mutant("attention_loss", map_blanked_in_place, "inputs_unchanged", "changes student_attention"),
    Mutant("relation_loss", relations_not_scaled, "definition", "are not divided by √(d / r)"),
    Mutant("relation_loss", scaled_by_the_width_itself, "definition", "by the width itself"),
    Mutant("relation_loss", one_scale_for_both, "definition", "the root of the student's width"),
    Mutant("relation_loss", relations_turned, "definition", "this is KL(student ‖ teacher)"),
    Mutant("relation_loss", relation_batchmean, "definition", "rows are summed"),
    Mutant("relation_loss", relation_mean_of_entries, "definition", "a row's entries too"),
    Mutant("relation_loss", squared_relations, "definition", "squared difference"),
    Mutant("relation_loss", cosines, "definition", "cosines"),
    Mutant("relation_loss", softmax_over_heads, "definition", "it gives 0"),
    Mutant("relation_loss", heads_forgotten, "heads", "one relation of the whole width"),
    Mutant("relation_loss", heads_by_a_bare_reshape, "heads", "mixes tokens into heads"),
    Mutant("relation_loss", heads_interleaved, "heads", "every so-many-th column"),
    Mutant("relation_loss", scaled_by_the_whole_width, "heads", "the root of the whole width"),
    Mutant("relation_loss", relation_heads_summed, "heads", "the heads are summed"),
    Mutant("relation_loss", relations_averaged_first, "heads", "averaged over the heads before"),
    Mutant("relation_loss", relations_without_a_mask, "padding", "the mask has no effect"),
    Mutant("relation_loss", keys_not_masked, "padding", "still related to padding"),
    Mutant("relation_loss", masked_scores_are_zero, "padding", "exp(0) = 1"),
    Mutant("relation_loss", padding_relates_too, "padding", "padding's own rows count"),
    Mutant("relation_loss", relations_over_all_positions, "padding", "by all positions"),
    Mutant("relation_loss", relations_per_text, "padding", "each text is averaged first"),
    Mutant("relation_loss", minus_infinity, "padding", "−∞ − (−∞) is NaN"),
    Mutant(
        "relation_loss", relation_logs_of_a_masked_softmax, "padding", "take log_softmax, which"
    ),
    Mutant("relation_loss", relation_logs_of_softmax, "finite", "whose log is −∞"),
    Mutant("relation_loss", relation_epsilon, "finite", "not exact there"),
    Mutant("relation_loss", states_not_blanked, "out_of_reach", "reaches the gradient"),
    Mutant("relation_loss", one_side_of_the_product_detached, "gradient", "is cut off"),
    Mutant("relation_loss", teachers_states_learn, "no_gradient_to_the_teacher", "move the target"),
    Mutant("relation_loss", states_blanked_in_place, "inputs_unchanged", "changes student_states"),
    Mutant("layer_map", indices_of_hidden_states, "even", "one too high"),
    Mutant("layer_map", one_too_low, "even", "one too low"),
    Mutant("layer_map", first_of_each_share, "even", "has the first teacher block of its share"),
    Mutant("layer_map", first_to_first, "even", "from the first block to the last"),
    Mutant("layer_map", lowest_blocks, "even", "the teacher's first blocks"),
    Mutant("layer_map", bare_numbers, "even", "layers have names"),
    Mutant("layer_map", teacher_to_student, "even", "the wrong way round"),
    Mutant("layer_map", counted_from_one, "even", "counted from 1"),
    Mutant("layer_map", fixed_stride, "remainder", "a fixed stride"),
    Mutant("layer_map", rounded_down, "remainder", "rounded down"),
    Mutant("layer_map", rounded_to_the_nearest, "remainder", "to the nearest"),
    Mutant("layer_map", divided_first, "remainder", "Multiply first, then divide"),
    Mutant("layer_map", always_even, "last", "the strategy has no effect"),
    Mutant("layer_map", last_as_in_the_paper, "last", "the very last block is left out"),
    Mutant("layer_map", last_reversed, "last", "in reverse order"),
    Mutant("layer_map", takes_a_larger_student, "refused", "a student with more layers than"),
    Mutant("layer_map", takes_any_strategy, "refused", "'evne' is accepted"),
    Mutant("layer_map", asserts, "refused", "it raises AssertionError"),
]


# --- right, in another style ---------------------------------------------------------------------


def hidden_by_indexing(student_hidden, teacher_hidden, mask, projection=None):
    student, teacher = student_hidden[mask], teacher_hidden[mask].detach()
    if projection is not None:
        student = student @ projection.T
    return F.mse_loss(student, teacher)


def hidden_by_where(student_hidden, teacher_hidden, mask, projection=None):
    rows = _squares(student_hidden, teacher_hidden, mask, projection)
    return torch.where(mask, rows, 0).sum() / mask.sum()


def hidden_in_float64(student_hidden, teacher_hidden, mask, projection=None):
    keep = mask[..., None]
    student = student_hidden.masked_fill(~keep, 0).double()
    teacher = teacher_hidden.detach().masked_fill(~keep, 0).double()
    if projection is not None:
        student = torch.einsum("bts,ws->btw", student, projection.double())
    return ((student - teacher) ** 2 * keep).sum() / (mask.sum() * teacher.shape[-1])


def attention_by_loops(student_attention, teacher_attention, mask, detach=True):
    if detach:
        teacher_attention = teacher_attention.detach()
    if student_attention.shape[1] != teacher_attention.shape[1]:
        student_attention = student_attention.mean(1, keepdim=True)
        teacher_attention = teacher_attention.mean(1, keepdim=True)
    rows = []
    for text, kept in enumerate(mask):
        q = student_attention[text][:, kept][:, :, kept].clamp(min=1e-15)
        p = teacher_attention[text][:, kept][:, :, kept]
        rows.append((torch.xlogy(p, p) - p * q.log()).sum(-1).mean(0))
    return torch.cat(rows).mean()


def attention_by_kl_div(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    terms = F.kl_div((student + 1e-12).log(), teacher, reduction="none")
    return terms.sum(-1).transpose(1, 2)[mask].mean()


def attention_normalised_anew(student_attention, teacher_attention, mask):
    student, teacher = _maps(student_attention, teacher_attention, mask)
    student, teacher = (
        x.double() / x.double().sum(-1, keepdim=True).clamp(min=1e-9) for x in (student, teacher)
    )
    return _mean(_kl(student, teacher, 1e-30), mask)


def relation_by_loops(student_states, teacher_states, mask, heads):
    values = []
    for text, kept in enumerate(mask):
        ours = student_states[text][kept].chunk(heads, -1)
        theirs = teacher_states.detach()[text][kept].chunk(heads, -1)
        for a, b in zip(ours, theirs, strict=True):
            log_q = (a @ a.T / a.shape[-1] ** 0.5).log_softmax(-1)
            log_p = (b @ b.T / b.shape[-1] ** 0.5).log_softmax(-1)
            values.append(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
    return torch.cat(values).mean()


def relation_by_einsum(student_states, teacher_states, mask, heads):
    def relate(states):
        parts = states.masked_fill(~mask[..., None], 0).double().unflatten(-1, (heads, -1))
        scores = torch.einsum("bqhd,bkhd->bhqk", parts, parts) / math.sqrt(parts.shape[-1])
        return scores.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1)

    log_q, log_p = relate(student_states), relate(teacher_states.detach())
    rows = (log_p.exp() * (log_p - log_q)).sum(-1)
    return (rows.mean(1) * mask).sum() / mask.sum()


def map_by_steps(student_layers, teacher_layers, strategy="even"):
    _checked(student_layers, teacher_layers, strategy)
    if strategy == "last":
        skipped = teacher_layers - student_layers
        return {f"layer.{i}": f"layer.{i + skipped}" for i in range(student_layers)}
    blocks, block = [], -1
    for i in range(student_layers):
        while (block + 1) * student_layers < (i + 1) * teacher_layers:
            block += 1
        blocks.append(block)
    return dict(
        zip(
            map("layer.{}".format, range(student_layers)),
            map("layer.{}".format, blocks),
            strict=True,
        )
    )


def map_by_floor_division(student_layers, teacher_layers, strategy="even"):
    n, m = student_layers, teacher_layers
    _checked(n, m, strategy)
    blocks = {"even": [((i + 1) * m - 1) // n for i in range(n)], "last": range(m)[-n:]}
    return _named(blocks[strategy])


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("hidden_state_loss", hidden_by_indexing),
    ("hidden_state_loss", hidden_by_where),
    ("hidden_state_loss", hidden_in_float64),
    ("attention_loss", attention_by_loops),
    ("attention_loss", attention_by_kl_div),
    ("attention_loss", attention_normalised_anew),
    ("relation_loss", relation_by_loops),
    ("relation_loss", relation_by_einsum),
    ("layer_map", map_by_steps),
    ("layer_map", map_by_floor_division),
]
