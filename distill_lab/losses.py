"""The objectives of distillation, as pure functions of tensors.

What holds for every loss here:

- The student comes first, the teacher second, classes last: `[batch, classes]`, or
  `[batch, tokens, classes]` with a mask. The result is a scalar, in nats where it is an entropy.
- Sums run over classes; means run over examples, or over the unmasked tokens of the whole batch
  (each token weighs the same, whatever the length of its text). The mean of nothing is 0.
- `mask` is bool or 0/1 and true where a row counts. What stands under a false entry (padding, even
  NaN) reaches neither the value nor the gradient.
- No gradient reaches the teacher, and no input is changed in place.
- float16 and bfloat16 are lifted to float32, in which the result comes back; float64 stays.
- Values are finite for float32 logits of ±1e4: log-probabilities are never `softmax().log()`.
- A wrong shape, mask or setting raises `ValueError` with one line that says what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
"""The label of a row that has no label: it has no hard-label term."""


# --- What the losses share ---


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_unit(name: str, value: float) -> None:
    _check(0.0 <= value <= 1.0, f"{name} is {value}: expected a number from 0 to 1.")


def _check_temperature(temperature: float) -> None:
    _check(
        math.isfinite(temperature) and temperature > 0,
        f"temperature is {temperature}: expected a finite number above 0.",
    )


def _boolean_mask(mask: Tensor | None, rows: torch.Size) -> Tensor | None:
    """The mask as bool `rows` (`[batch]` or `[batch, tokens]`), or None where every row counts."""
    _check(len(rows) >= 1, "an input has one axis only: expected [batch, classes] or more.")
    if mask is None:
        _check(
            len(rows) == 1,
            f"token-level input with {list(rows)} rows has no mask: give mask={list(rows)}, "
            "true where a token counts (the attention mask).",
        )
        return None
    _check(
        mask.shape == rows,
        f"mask has shape {list(mask.shape)}: expected {list(rows)}, one entry a row.",
    )
    if mask.dtype == torch.bool:
        return mask
    # An additive mask (0 to keep, -inf to drop) would otherwise be read upside down.
    _check(
        bool(((mask == 0) | (mask == 1)).all()),
        "mask has values other than 0 and 1: give a bool or 0/1 mask, true where a row counts.",
    )
    return mask.bool()


def _blank(values: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros for the masked rows. `where` and no product: 0 · NaN is NaN, forward and backward."""
    return values if mask is None else torch.where(mask[..., None], values, 0)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _pair(
    student: Tensor, teacher: Tensor, mask: Tensor | None, what: str = "logits"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both sides in one float type, masked rows blank, the teacher cut off; the mask as bool."""
    _check(
        student.shape == teacher.shape,
        f"student {what} have shape {list(student.shape)}, the teacher's {list(teacher.shape)}: "
        "expected the same shape, one row an example or token.",
    )
    mask = _boolean_mask(mask, student.shape[:-1])
    student, teacher = _blank(student, mask), _blank(teacher.detach(), mask)
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype), mask


def _masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the unmasked rows; 0, still attached to the graph, where there is none."""
    if mask is None:
        return rows.sum() / max(rows.numel(), 1)
    return torch.where(mask, rows, 0).sum() / mask.sum().clamp(min=1)


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    _check_temperature(temperature)
    return F.log_softmax(_at_least_float32(logits) / temperature, dim=-1)


def _log_softmax_pair(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    student, teacher, mask = _pair(student_logits, teacher_logits, mask)
    return _log_softmax(student, temperature), _log_softmax(teacher, temperature), mask


def _kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, from log-probabilities."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


# --- Soft targets ---


def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T) over the last axis (Hinton, Vinyals, Dean 2015, section 2)."""
    return _log_softmax(logits, temperature).exp()


def entropy(logits: Tensor, temperature: float = 1.0, *, mask: Tensor | None = None) -> Tensor:
    """H(p) = −Σ p log p of p = softmax(logits / T), mean over examples or unmasked tokens.

    Of one distribution only, so the gradient flows: detach the logits where they are a teacher's.
    """
    mask = _boolean_mask(mask, logits.shape[:-1])
    log_p = _log_softmax(_blank(logits, mask), temperature)
    return _masked_mean(-(log_p.exp() * log_p).sum(-1), mask)


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """−Σ p_teacher log p_student at T, mean over examples or unmasked tokens, without T².

    Equals `entropy` of the teacher plus `kl_divergence`: it has the gradient of the latter, and its
    least value is not 0 but the teacher's entropy (Hinton, Vinyals, Dean 2015, section 2).
    """
    log_q, log_p, mask = _log_softmax_pair(student_logits, teacher_logits, temperature, mask)
    return _masked_mean(-(log_p.exp() * log_q).sum(-1), mask)


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Forward KL(teacher ‖ student) at T, mean over examples or unmasked tokens, without T².

    The gradient of a row in its student logits is (p_student − p_teacher) / T
    (Hinton, Vinyals, Dean 2015, section 2.1).
    """
    log_q, log_p, mask = _log_softmax_pair(student_logits, teacher_logits, temperature, mask)
    return _masked_mean(_kl_rows(log_p, log_q), mask)


def reverse_kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Reverse KL(student ‖ teacher) at T, mean over examples or unmasked tokens, without T².

    Mode-seeking: it charges the student for mass where the teacher has little
    (Gu et al. 2024, MiniLLM, arXiv 2306.08543, section 2.1).
    """
    log_q, log_p, mask = _log_softmax_pair(student_logits, teacher_logits, temperature, mask)
    return _masked_mean(_kl_rows(log_q, log_p), mask)


def generalized_jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """[β KL(P ‖ M) + (1 − β) KL(Q ‖ M)] / (β (1 − β)), P teacher, Q student, M = β P + (1 − β) Q.

    The bracket is the generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024,
    arXiv 2306.13649, equation 1). It vanishes as β → 0 or 1; divided by β (1 − β) it runs without
    a jump from `kl_divergence` at β = 0 to `reverse_kl_divergence` at β = 1, and is four times the
    Jensen-Shannon divergence at β = 1/2. Implementations that use the bare bracket and switch to
    plain KL at exactly 0 and 1 jump there. Mean over examples or unmasked tokens, without T².
    """
    _check_unit("beta", beta)
    log_q, log_p, mask = _log_softmax_pair(student_logits, teacher_logits, temperature, mask)
    rows = _skew_kl_rows(log_p, log_q, 1 - beta) + _skew_kl_rows(log_q, log_p, beta)
    return _masked_mean(rows, mask)


def _skew_kl_rows(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """KL(a ‖ (1 − w) a + w b) / w of each row: 0 at w = 0, KL(a ‖ b) at w = 1."""
    if weight > 0.5:
        log_rest = math.log(1 - weight) if weight < 1 else -math.inf
        log_mixture = torch.logaddexp(log_a + log_rest, log_b + math.log(weight))
        return _kl_rows(log_a, log_mixture) / weight
    # A small w would divide the rounding of a KL near 0. With x = w (b/a − 1), and Σ (b − a) = 0,
    # −Σ a log(1 + x) / w = Σ (b − a) (1 − log(1 + x) / x), whose error does not grow with 1 / w.
    # The clamp keeps exp finite in float32; beyond it the last factor is 1 anyway.
    x = weight * torch.expm1((log_b - log_a).clamp(max=80.0))
    small = x.abs() < 1e-4
    near, far = torch.where(small, x, 0), torch.where(small, 1, x)  # each safe in its gradient
    series = near / 2 - near**2 / 3
    return ((log_b.exp() - log_a.exp()) * torch.where(small, series, 1 - far.log1p() / far)).sum(-1)


def logit_matching_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """Σ d² / 2N for N classes, d the difference of *centred* logits (each row's mean removed).

    The T → ∞ limit of T² · `kl_divergence` (Hinton, Vinyals, Dean 2015, section 2.1, who assume
    logits that are centred already). Mean over examples or unmasked tokens.
    """
    student, teacher, mask = _pair(student_logits, teacher_logits, mask)
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    return _masked_mean(centred.square().mean(-1) / 2, mask)


# --- Hard labels, and the mix ---


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """−log softmax(logits)[label] at T = 1, mean over the labelled rows; 0 where there is none.

    Args:
        logits: `[batch, classes]`, or `[batch, tokens, classes]` with a mask.
        labels: class numbers `[batch]` or `[batch, tokens]`; `IGNORE_INDEX` where there is none.
        label_smoothing: the share ε of the target spread evenly over all classes
            (Szegedy et al. 2016, section 7; as in `torch.nn.functional.cross_entropy`).
        mask: true where a row counts; a row counts only if it is labelled too.
    """
    _check_unit("label_smoothing", label_smoothing)
    mask = _boolean_mask(mask, logits.shape[:-1])
    _check(
        labels.shape == logits.shape[:-1] and not labels.is_floating_point(),
        f"labels are {labels.dtype} of shape {list(labels.shape)}: "
        f"expected integers of shape {list(logits.shape[:-1])}.",
    )
    labelled = labels != IGNORE_INDEX if mask is None else (labels != IGNORE_INDEX) & mask
    labels, classes = torch.where(labelled, labels, 0).long(), logits.shape[-1]
    # Looked at here, because on a GPU an index out of range ends the whole process.
    _check(
        bool(((labels >= 0) & (labels < classes)).all()),
        f"a label lies outside 0 to {classes - 1}: expected class numbers, or {IGNORE_INDEX}.",
    )
    log_q = _log_softmax(_blank(logits, labelled))
    target = log_q.gather(-1, labels[..., None]).squeeze(-1)
    return _masked_mean(
        -(1 - label_smoothing) * target - label_smoothing * log_q.mean(-1), labelled
    )


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """α · T² · KL(teacher ‖ student) at T + (1 − α) · cross-entropy of the labelled rows at T = 1.

    T² keeps the size of the soft gradient as T grows (Hinton, Vinyals, Dean 2015, section 2); α
    weighs the soft targets (1 = soft only). The soft mean runs over all rows (unmasked tokens),
    the hard mean over those with a label; a batch without any has hard term 0. `labels` may be left
    out at α = 1 only. Shapes as in `cross_entropy`.
    """
    _check_unit("alpha", alpha)
    soft = temperature**2 * kl_divergence(student_logits, teacher_logits, temperature, mask=mask)
    if labels is None:
        _check(alpha == 1, f"no labels at alpha={alpha}: give labels, or alpha=1 (soft only).")
        return soft
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, labels, mask=mask)


# --- Inside the network ---


def hidden_state_loss(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    *,
    mask: Tensor | None = None,
    projection: Callable[[Tensor], Tensor] | None = None,
    metric: Literal["mse", "cosine"] = "mse",
) -> Tensor:
    """The distance of hidden states, mean over examples or unmasked tokens.

    "mse" is the squared difference, mean over the width too (Romero et al. 2015, FitNets, section
    2.2; Jiao et al. 2020, TinyBERT, section 3.1); "cosine" is 1 − cos (Sanh et al. 2019,
    DistilBERT, section 2).

    Args:
        student_hidden: `[batch, width]` (pooled), or `[batch, tokens, width]` with a mask.
        teacher_hidden: likewise, with the teacher's width.
        mask: `[batch, tokens]`; its tokens are blank before the projection sees them.
        projection: from the student's width to the teacher's, a learned `nn.Linear` say; needed
            where the widths differ.
        metric: "mse" or "cosine".
    """
    _check(metric in ("mse", "cosine"), f"metric is {metric!r}: expected 'mse' or 'cosine'.")
    if projection is not None:
        student_hidden = projection(
            _blank(student_hidden, _boolean_mask(mask, student_hidden.shape[:-1]))
        )
    ours, theirs = student_hidden.shape[-1], teacher_hidden.shape[-1]
    _check(
        ours == theirs,
        f"student states are {ours} wide and the teacher's {theirs}: "
        f"give projection=torch.nn.Linear(student width, {theirs}).",
    )
    student, teacher, mask = _pair(student_hidden, teacher_hidden, mask, "states")
    if metric == "mse":
        return _masked_mean((student - teacher).square().mean(-1), mask)
    return _masked_mean(1 - F.cosine_similarity(student, teacher, dim=-1), mask)


def attention_loss(
    student_attention: Tensor,
    teacher_attention: Tensor,
    *,
    mask: Tensor,
    metric: Literal["kl", "mse"] = "kl",
) -> Tensor:
    """The distance of self-attention maps, mean over heads and unmasked queries.

    "kl" is KL(teacher ‖ student), summed over the unmasked keys (Wang et al. 2020, MiniLM, section
    3.1); "mse" the squared difference of probabilities, mean over a query's unmasked keys (after
    Jiao et al. 2020, TinyBERT, section 3.1, who take the scores before the softmax instead).
    Where the numbers of heads differ, both sides are first averaged over their heads. A student's
    probability is read as no less than the root of the smallest float (1e-19 in float32), so that
    value and gradient stay finite where it has underflowed to 0 (in maps of float32 or bfloat16;
    the gradient p / q of a float16 map may exceed what float16 can hold).

    Args:
        student_attention: probabilities `[batch, heads, tokens, tokens]`, keys last.
        teacher_attention: likewise; the number of heads may differ.
        mask: `[batch, tokens]`, of queries and keys alike.
        metric: "kl" or "mse".
    """
    _check(metric in ("kl", "mse"), f"metric is {metric!r}: expected 'kl' or 'mse'.")
    for side, maps in (("student", student_attention), ("teacher", teacher_attention)):
        _check(
            maps.ndim == 4 and maps.shape[2] == maps.shape[3],
            f"{side} attention has shape {list(maps.shape)}: "
            "expected [batch, heads, tokens, tokens].",
        )
    keep = _boolean_mask(mask, student_attention[:, 0].shape[:-1])
    assert keep is not None
    pairs = (keep[:, :, None] & keep[:, None, :])[:, None]  # [batch, 1, queries, keys]
    if student_attention.shape[1] != teacher_attention.shape[1]:
        student_attention = _at_least_float32(student_attention).mean(1, keepdim=True)
        teacher_attention = _at_least_float32(teacher_attention).mean(1, keepdim=True)
    queries = keep[:, None].expand(student_attention.shape[:-1])
    student, teacher, queries_kept = _pair(
        student_attention, teacher_attention, queries, "attention maps"
    )
    student, teacher = torch.where(pairs, student, 0), torch.where(pairs, teacher, 0)
    if metric == "mse":
        rows = (student - teacher).square().sum(-1) / pairs.sum(-1).clamp(min=1)
    else:
        floor = torch.finfo(student.dtype).tiny ** 0.5
        log_ratio = teacher.clamp(min=floor).log() - student.clamp(min=floor).log()
        rows = (teacher * log_ratio).sum(-1)
    return _masked_mean(rows, queries_kept)


def relation_loss(
    student_states: Tensor, teacher_states: Tensor, *, mask: Tensor, heads: int
) -> Tensor:
    """KL(teacher ‖ student) of token-to-token relations, mean over heads and unmasked tokens.

    The states are the queries (or the keys, or the values) of a layer, its attention heads side by
    side. They are cut anew into `heads` relation heads A of width d; the relation of each is
    softmax(A Aᵀ / √d) over the unmasked tokens. So neither the widths nor the numbers of attention
    heads of teacher and student need agree (Wang et al. 2021, MiniLMv2, section 3.1).

    Args:
        student_states: `[batch, tokens, width]`.
        teacher_states: likewise; its width may differ.
        mask: `[batch, tokens]`.
        heads: the number of relation heads; it divides both widths.
    """
    _check(
        student_states.ndim == teacher_states.ndim == 3
        and student_states.shape[:2] == teacher_states.shape[:2],
        f"student states have shape {list(student_states.shape)}, the teacher's "
        f"{list(teacher_states.shape)}: expected [batch, tokens, width] with the same tokens.",
    )
    for side, states in (("student", student_states), ("teacher", teacher_states)):
        _check(
            heads >= 1 and states.shape[-1] % heads == 0,
            f"{side} states are {states.shape[-1]} wide, which {heads} heads do not divide: "
            "choose heads >= 1 that divides the widths of both.",
        )
    keep = _boolean_mask(mask, student_states.shape[:-1])
    assert keep is not None
    student, teacher, queries = _pair(
        _log_relations(student_states, keep, heads),
        _log_relations(teacher_states, keep, heads),
        keep[:, None].expand(-1, heads, -1),
        "relations",
    )
    return _masked_mean(_kl_rows(teacher, student), queries)


def _log_relations(states: Tensor, mask: Tensor, heads: int) -> Tensor:
    """log softmax(A Aᵀ / √d) of each relation head, `[batch, heads, tokens, tokens]`."""
    shape = (*mask.shape, heads, states.shape[-1] // heads)
    split = _at_least_float32(_blank(states, mask)).reshape(shape).transpose(1, 2)
    with torch.autocast(states.device.type, enabled=False):  # which would multiply in half
        scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    # The lowest float and not -inf: an example without any token must not become NaN.
    scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return _log_softmax(scores)
