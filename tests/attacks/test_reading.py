"""What answers can make of the inputs that everybody knows, and of those that nobody should."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lab.course.grade import FEEDBACK, GRADES, LOG, grade
from distill_lab.course.judging import PUBLIC_SEED
from distill_lab.exercises.checking import judge, judge_answer
from distill_lab.exercises.contracts import AnswerRaised
from distill_lab.exercises.local import LocalAnswer
from distill_lab.exercises.registry import Exercise, exercises, find_exercise, lesson_of
from tests.answers import hand_in
from tests.attacks.attack import Attack
from tests.attacks.test_attacks import ROOT, SEED, hostile

pytestmark = pytest.mark.slow

# --- a table of the public inputs ---------------------------------------------------------------


def _key(value: Any) -> object:
    """Give what is equal for equal inputs, hashable."""
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return str(value.dtype), tuple(value.shape), value.stride(), data
    if isinstance(value, Mapping):
        return tuple(sorted((name, _key(part)) for name, part in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return _key(vars(value)) if hasattr(value, "__dict__") else (type(value).__name__, value)


class ByHeart(LocalAnswer):
    """Answers as the library does, but only what it has been asked before.

    Attributes:
        known: What it may answer; None for everything.
        asked: What it has been asked.
    """

    def __init__(self, exercise: Exercise, known: set[object] | None = None) -> None:
        rules = dataclasses.replace(exercise, not_allowed=())
        super().__init__(rules, exercise.reference)
        self.known, self.asked = known, set[object]()

    def _call(self, given: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        key = _key(inputs)
        self.asked.add(key)
        if self.known is not None and key not in self.known:
            raise AnswerRaised("KeyError", "never seen", None, inputs)
        return super()._call(given, inputs)


@pytest.mark.parametrize("id", exercises())
def test_a_table_of_the_public_inputs_earns_nothing(id: str) -> None:
    exercise = find_exercise(id)
    public = ByHeart(exercise)
    assert judge_answer(exercise, public, seed=PUBLIC_SEED).points == exercise.points
    by_heart = ByHeart(exercise, public.asked)
    assert judge_answer(exercise, by_heart, seed=SEED).points == 0


# --- secret inputs in what students read --------------------------------------------------------

HEAD = """
import linecache, os, torch
from distill_lab.exercises.contracts import Broken


def seen(logits):
    return " ".join(f"{x:.6f}" for x in logits.flatten().tolist()[:20])


def right(logits, temperature):
    log_p = (logits / temperature).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def entropy(logits, temperature=1.0):
"""
TALKS = {
    "message": "raise ValueError(seen(logits))",
    "name": "raise type(seen(logits), (Exception,), {})()",
    "value": "return type(seen(logits), (), {})()",
    "text": "return seen(logits)",
    "broken": "raise Broken(seen(logits))",
    "stub": "raise NotImplementedError('entropy ' + seen(logits))",
    "line": """
    source = f"raise ValueError()  # {seen(logits)}"
    linecache.cache["<talk>"] = (len(source), None, [source], "<talk>")
    exec(compile(source, "<talk>", "exec"))""",
    "prints": "print(seen(logits)); os.write(2, seen(logits).encode()); return 0.0",
    "ends": "os.write(3, seen(logits).encode() * 9); os._exit(3)",
    "only-secrets": """
    if PUBLIC.issuperset(seen(logits).split()):
        return right(logits, temperature)
    raise ValueError(seen(logits))""",
}


def _drawn(exercise: Exercise, seed: int) -> set[str]:
    """Give the numbers that a seed draws, as they would be told."""
    numbers: set[str] = set()

    def entropy(logits: Tensor, temperature: float = 1.0) -> Any:
        numbers.update(f"{x:.6f}" for x in logits.flatten().tolist())
        return exercise.reference(logits, temperature)

    assert judge(exercise, entropy, seed=seed).passed
    return numbers


def test_what_students_read_has_no_secret_input(tmp_path: Path) -> None:
    """Numbers of the public seed stand there instead, so something was told."""
    exercise = find_exercise("entropy")
    public = _drawn(exercise, PUBLIC_SEED)
    secret = _drawn(exercise, SEED) - public
    assert len(secret) > 100
    for name, body in TALKS.items():
        source = f"PUBLIC = set({sorted(public)})\n{HEAD}    {body.strip()}\n"
        attack = Attack(name, 3, answers={"entropy": source})
        hand_in(tmp_path / "submitted" / name, lesson_of(exercise), hostile(attack))
    out = tmp_path / "out"
    results = grade(
        tmp_path / "submitted", out, jobs=2, seed=SEED, time_limit=3, memory=512, root=ROOT,
        require_sandbox=True, say=lambda line: None,
    )  # fmt: skip
    assert all(result.points == 0 for result in results)
    by_secret = next(r for r in results if r.student == "only-secrets")
    assert "does not hold for other inputs" in by_secret.exercises[0].reason
    told = 0
    for path in (out / GRADES, out / LOG, *(out / FEEDBACK).rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        assert [number for number in secret if number in text] == []
        told += sum(number in text for number in public)
    assert told > 10
