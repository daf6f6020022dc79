"""A check's result as a table: HTML in JupyterLab, the same words as text elsewhere."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distill_lab.exercises.checking import Outcome, Status, Verdict
from distill_lab.exercises.registry import lesson_of

GLYPHS = {"passed": "✓", "failed": "✗", "untried": "○"}
WORDS = {"passed": "holds", "failed": "fails", "untried": "not tried"}
# Okabe and Ito's green and vermilion; the glyph says the same without colour.
COLOURS = {"passed": "#009E73", "failed": "#D55E00", "untried": "inherit"}
VALUES_SHOWN = 24
ENTRIES_SHOWN = 6


@dataclass(frozen=True)
class CheckResult:
    """What ``check`` shows.

    Attributes:
        verdict: What became of the contracts.
        failures: How often the first failing contract has failed; it decides the hints.
    """

    verdict: Verdict
    failures: int = 1

    @property
    def points(self) -> float:
        """Points reached."""
        return self.verdict.points

    @property
    def passed(self) -> bool:
        """Whether all contracts hold."""
        return self.verdict.passed

    @property
    def headline(self) -> str:
        """The exercise and its points, in a line."""
        exercise = self.verdict.exercise
        if not self.verdict.attempted:
            return f"{exercise.id}: not attempted yet (0 of {exercise.points:g} points)"
        return f"{exercise.id}: {self.points:g} of {exercise.points:g} points"

    def advice(self) -> list[str]:
        """What to do next, in lines; empty where all is well."""
        exercise = self.verdict.exercise
        if not self.verdict.attempted:
            return [
                "Replace the line that raises NotImplementedError with your code, run that cell, "
                "then this one."
            ]
        failure = self.verdict.first_failure
        if failure is None:
            return []
        hints = failure.contract.hints
        shown = hints[: max(1, self.failures)]
        lines = [f"Hint {k} of {len(hints)}: {hint}" for k, hint in enumerate(shown, 1)]
        if self.failures > len(hints):
            lesson = lesson_of(exercise).name
            lines.append(
                f"These were all hints. The worked answer stands in solutions/{lesson}.ipynb, "
                "which a course may hand out later."
            )
        return lines

    def __repr__(self) -> str:
        laws = [o.contract.law for o in self.verdict.outcomes]
        width = max(map(len, laws))
        lines = [self.headline]
        for outcome, law in zip(self.verdict.outcomes, laws, strict=True):
            lines.append(f"  {GLYPHS[outcome.status]} {law:<{width}}  {_points(outcome)}".rstrip())
        failure = self.verdict.first_failure
        if failure is not None:
            lines += ["", f"✗ {failure.contract.law}", f"  {_reason(failure)}"]
            lines += [f"    {name} = {value}" for name, value in evidence(failure).items()]
        return "\n".join([*lines, *(f"  {line}" for line in self.advice())])

    def _repr_html_(self) -> str:
        cell = "style='text-align:left;padding:2px 12px 2px 0'"
        rows = "".join(
            f"<tr><td {cell}>{html_glyph(o.status)}</td>"
            f"<td {cell}>{_text(o.contract.law)}</td><td {cell}>{_points(o)}</td></tr>"
            for o in self.verdict.outcomes
        )
        parts = [f"<p><b>{_text(self.headline)}</b></p><table><tbody>{rows}</tbody></table>"]
        failure = self.verdict.first_failure
        if failure is not None:
            parts.append(
                f"<p><b>✗ {_text(failure.contract.law)}</b><br>{_text(_reason(failure))}</p>"
            )
            shown = "\n".join(f"{name} = {value}" for name, value in evidence(failure).items())
            if shown:
                parts.append(f"<pre>{_text(shown)}</pre>")
        parts += [f"<p>{_text(line)}</p>" for line in self.advice()]
        return "".join(parts)


def html_glyph(status: Status) -> str:
    """The glyph of a status in its colour, with its word for whoever cannot see it."""
    word = WORDS[status]
    return (
        f"<span style='color:{COLOURS[status]};font-weight:bold' title='{word}' "
        f"aria-label='{word}'>{GLYPHS[status]}</span>"
    )


def evidence(outcome: Outcome) -> dict[str, str]:
    """The failing input by name, then what was expected and what came, as short text."""
    broken = outcome.broken
    if broken is None:
        return {}
    shown = {name: brief(value) for name, value in broken.inputs.items()}
    if broken.expected is not None:
        shown |= {"expected": brief(broken.expected), "your value": brief(broken.actual)}
    return shown


def brief(value: Any) -> str:
    """Write a value in a few words: small tensors whole, large ones by shape and beginning."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return _number(value.item())
        if value.numel() <= VALUES_SHOWN:
            return f"{_nested(value.tolist())}   # shape {list(value.shape)}"
        start = ", ".join(_number(v) for v in value.flatten()[:6].tolist())
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} tensor of shape {list(value.shape)}, beginning {start}, …"
    if isinstance(value, Mapping):
        shown = [f"{k!r}: {_shape(v)}" for k, v in itertools.islice(value.items(), ENTRIES_SHOWN)]
        more = [f"… {len(value) - ENTRIES_SHOWN} more"] if len(value) > ENTRIES_SHOWN else []
        return "{" + ", ".join(shown + more) + "}"
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor | Mapping) for v in value):
        return f"{len(value)} of them: " + "; ".join(map(brief, value[:ENTRIES_SHOWN]))
    return _number(value) if isinstance(value, float) else repr(value)


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return _number(value)


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _shape(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else brief(value)


def _reason(outcome: Outcome) -> str:
    reason = outcome.broken.reason if outcome.broken else ""
    first = reason.split(maxsplit=1)[0] if reason else ""
    name = first in outcome_names(outcome) or "_" in first or "(" in first  # a name stays as it is
    return reason if name else reason[:1].upper() + reason[1:]


def outcome_names(outcome: Outcome) -> set[str]:
    """Names that a reason may begin with: those of the inputs."""
    return set(outcome.broken.inputs) if outcome.broken else set()


def _points(outcome: Outcome) -> str:
    points = outcome.contract.points
    if not points:
        return "no points"
    reached = points if outcome.status == "passed" else 0
    return f"{reached:g} / {points:g}"


def _text(text: str) -> str:
    return html.escape(text)
