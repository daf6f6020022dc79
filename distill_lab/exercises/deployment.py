"""Reference answers of lesson 08: whether a student may go out, and on which machine.

``expected_calibration_error`` is that of ``distill_lab.evaluation``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch import Tensor


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Give the share of examples to which student and teacher give the same class.

    The labels are not asked: two classifiers that are wrong alike agree. Stanton et al. 2021, "Does
    Knowledge Distillation Really Work?" (arXiv:2106.05945), measure fidelity by it.

    Args:
        student_logits: `[examples, classes]`; probabilities do as well.
        teacher_logits: likewise.

    Returns:
        A fraction from 0 to 1.
    """
    same = student_logits.argmax(-1) == teacher_logits.argmax(-1)
    return same.double().mean().item()


def measure_latency(
    call: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    warmup: int = 10,
    repeats: int = 100,
) -> dict[str, float]:
    """Time a call, again and again, and give the middle and the slow end.

    Args:
        call: What is timed. On an accelerator it must wait for its own result (synchronise).
        clock: Gives the time in seconds, from any start.
        warmup: Calls made first and not timed (memory is allocated, caches fill).
        repeats: Calls timed, each by itself.

    Returns:
        ``{"p50", "p95"}`` in milliseconds: the 50th and the 95th percentile, linear between
        neighbours as in ``np.percentile``.
    """
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        start = clock()
        call()
        seconds.append(clock() - start)
    p50, p95 = 1000 * np.percentile(seconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def pareto_front(cost: Tensor, quality: Tensor) -> Tensor:
    """Say which models are worth a look: those that no other model dominates.

    One model dominates another when it is at least as good in both respects (costs no more, is no
    worse) and better in one. Equal twins do not dominate each other: both stay.

    Args:
        cost: `[models]`, lower is better: milliseconds, bytes or joules.
        quality: `[models]`, higher is better: accuracy or macro-F1.

    Returns:
        bool `[models]`, true on the front.
    """
    # Row: the model that is judged; column: the one that may dominate it.
    no_dearer, cheaper = cost <= cost[:, None], cost < cost[:, None]
    no_worse, better = quality >= quality[:, None], quality > quality[:, None]
    return ~(no_dearer & no_worse & (cheaper | better)).any(1)
