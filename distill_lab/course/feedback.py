"""The page that tells a student what became of a submission: one HTML file that needs no other.

It shows laws, reasons and hints; inputs and expected values it has never seen. What stems from a
submission (name, reasons, repairs) is a stranger's text: it is escaped, its control characters are
replaced, and it is cut off at the edges of its own box. Equal results give equal pages.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape

from distill_lab.course.results import (
    ContractResult,
    ExerciseResult,
    Status,
    SubmissionResult,
    printable,
)
from distill_lab.exercises.display import GLYPHS, WORDS
from distill_lab.exercises.registry import Exercise, Lesson

# By status: its mark, its name, and what it means.
STATUSES: dict[Status, tuple[str, str, str]] = {
    "passed": ("✓", "passed", "Every law that carries points holds."),
    "partly": (
        "◐",
        "partly",
        "Some laws hold and others do not: the points are those of the laws that hold.",
    ),
    "failed": ("✗", "no points yet", "There is an answer, and it earns no points yet."),
    "not attempted": ("○", "not attempted", "The cell holds no answer of your own yet."),
    "missing": ("○", "missing", "The notebook has no cell that can be taken for this answer."),
    "stopped": (
        "✗",
        "stopped",
        "Grading had to stop before its end; laws that had been found to hold by then count.",
    ),
    "unreadable": (
        "✗",
        "unreadable",
        "The file cannot be read as a notebook, so nothing in it was graded.",
    ),
}
COLOURS = {"passed": "good", "failed": "bad", "stopped": "bad", "unreadable": "bad"}


def feedback_html(result: SubmissionResult, lesson: Lesson) -> str:
    """Make the page of a submission.

    Args:
        result: Of one of the lesson's submissions.
        lesson: Gives titles, and what answers may call.
    """
    rules = {exercise.id: exercise for exercise in lesson.exercises}
    parts = [_exercise(one, rules[one.exercise]) for one in result.exercises]
    title = f"Feedback for {_text(result.student)}: {_text(lesson.title)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"{_header(result, lesson)}<main>\n{_summary(result, rules)}{_repairs(result)}"
        f"{''.join(parts)}</main>\n{_footer(result)}</body>\n</html>\n"
    )


def _header(result: SubmissionResult, lesson: Lesson) -> str:
    return (
        f'<header>\n<p class="kicker">Feedback · lesson {lesson.number}</p>\n'
        f"<h1>{_text(lesson.title)}</h1>\n"
        f'<p class="said">Handed in by {_stranger(result.student)}</p>\n'
        f'<p class="total"><strong>{result.points:g}</strong> of {result.possible:g} points</p>\n'
        "</header>\n"
    )


def _summary(result: SubmissionResult, rules: dict[str, Exercise]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="#{one.exercise}">{_text(rules[one.exercise].title)}</a></th>'
        f"<td>{_status(one.status)}</td><td>{_share(one.points, one.possible)}</td></tr>\n"
        for one in result.exercises
    )
    return (
        "<section>\n<h2>All exercises</h2>\n<table>\n<thead><tr>"
        '<th scope="col">Exercise</th><th scope="col">Status</th><th scope="col">Points</th>'
        f"</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )


def _repairs(result: SubmissionResult) -> str:
    if not result.repairs:
        return ""
    items = "".join(f'<li><p class="said">{_stranger(one)}</p></li>\n' for one in result.repairs)
    return (
        "<section>\n<h2>Mended before grading</h2>\n"
        "<p>The notebook was not as it should be. This was done about it:</p>\n"
        f"<ul>\n{items}</ul>\n</section>\n"
    )


# --- an exercise --------------------------------------------------------------------------------


def _exercise(result: ExerciseResult, rules: Exercise) -> str:
    failed = [contract for contract in result.contracts if contract.status == "failed"]
    told_below = any(contract.reason == result.reason for contract in failed)
    parts = [
        f"<h2>{_text(rules.title)} <small><code>{_text(rules.id)}</code></small></h2>\n",
        f'<p class="score">{_status(result.status)} '
        f"<span>{_share(result.points, result.possible)} points</span></p>\n",
        f"<p>{STATUSES[result.status][2]}</p>\n",
        "" if told_below else _why(result.reason),
        _table(result.contracts, rules),
        *map(_failure, failed),
        "" if result.status == "passed" else _may_call(rules),
    ]
    return f'<section id="{rules.id}">\n{"".join(parts)}</section>\n'


def _table(contracts: tuple[ContractResult, ...], rules: Exercise) -> str:
    rows = "".join(
        f'<tr><td class="{_CONTRACT_COLOURS[one.status]}">'
        f'<span aria-hidden="true">{GLYPHS[one.status]}</span>&nbsp;{WORDS[one.status]}</td>'
        f'<th scope="row">{_text(one.law)}</th><td>{_reached(one)}</td></tr>\n'
        for one in contracts
    )
    return (
        f"<table>\n<caption>The laws of <code>{_text(rules.id)}</code></caption>\n<thead><tr>"
        '<th scope="col">Result</th><th scope="col">Law</th><th scope="col">Points</th>'
        f"</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )


_CONTRACT_COLOURS = {"passed": "good", "failed": "bad", "untried": "quiet"}


def _failure(contract: ContractResult) -> str:
    """Say why a law does not hold, then a hint, and the others on demand."""
    of = len(contract.hints)
    first = "".join(
        f"<p><strong>Hint 1 of {of}:</strong> {_text(hint)}</p>\n" for hint in contract.hints[:1]
    )
    others = "".join(
        f"<details>\n<summary>Hint {k} of {of}</summary>\n<p>{_text(hint)}</p>\n</details>\n"
        for k, hint in enumerate(contract.hints[1:], 2)
    )
    return (
        f'<div class="card">\n<h3><span aria-hidden="true" class="bad">✗</span> Fails: '
        f"{_text(contract.law)}</h3>\n{_why(contract.reason)}{first}{others}</div>\n"
    )


def _why(reason: str) -> str:
    return f'<p class="said"><strong>Why:</strong> {_stranger(reason)}</p>\n' if reason else ""


def _may_call(rules: Exercise) -> str:
    """Say what an answer may build on, and what would be the answer itself."""
    pairs = {
        "You may call": _text(rules.may_call),
        "Of the course's library, only": _names(rules.library),
        "Ruled out": _names(rules.not_allowed),
    }
    shown = "".join(f"<dt>{what}</dt><dd>{x}</dd>\n" for what, x in pairs.items() if x)
    return f"<h3>What an answer may call</h3>\n<dl>\n{shown}</dl>\n"


def _names(dotted: tuple[str, ...]) -> str:
    return ", ".join(f"<code>{_text(name)}</code>" for name in dotted)


def _status(status: Status) -> str:
    mark, name, _ = STATUSES[status]
    colour = COLOURS.get(status, "quiet")
    return f'<strong class="{colour}"><span aria-hidden="true">{mark}</span>&nbsp;{name}</strong>'


def _reached(contract: ContractResult) -> str:
    if not contract.points:
        return "none to get"
    return _share(contract.points if contract.status == "passed" else 0, contract.points)


def _share(points: float, possible: float) -> str:
    return f"{points:g} of {possible:g}"


def _footer(result: SubmissionResult) -> str:
    return (
        "<footer>\n<h2>How to read this page</h2>\n"
        "<p>A law is something that a right answer keeps. Each was tried on inputs of the same "
        "kind as those of the check in the notebook, but drawn anew: an answer that fits only the "
        "check's own inputs does not hold here. A law gives all of its points or none.</p>\n"
        "<p>✓ holds, ✗ fails, ○ was not tried: the first law of an exercise is what the others "
        "build on, and where it fails they are not tried.</p>\n"
        "<p>Each exercise was graded by itself. Where it calls an earlier one that is not passed, "
        "the course's own function usually stood in for that, as <code>use</code> has it in the "
        "notebook.</p>\n"
        f'<p class="quiet">The file that was graded has the SHA-256 <code>{_text(result.sha256)}'
        "</code>.</p>\n</footer>\n"
    )


# --- text ---------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Escape a text, as one printable line; `code` between backticks becomes ``code``."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(printable(text)))


def _stranger(text: str) -> str:
    """Show a stranger's text; where it is written from right to left, what is around it is not."""
    return f"<bdi>{_text(text)}</bdi>"


_CSS = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1c1d1f; --quiet: #5a5e64;
  --line: #dcdee1; --accent: #00639c; --good: #00694d; --bad: #a64200; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1d2024; --ink: #e8e9eb;
  --quiet: #a5abb3; --line: #363b42; --accent: #6cc0f0; --good: #4fd0a5; --bad: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere; }
header, main, footer { max-width: 50rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
footer { padding-bottom: 3rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 .6rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h2 small { display: block; font-size: .9rem; font-weight: 400; color: var(--quiet); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .5rem; }
p { margin: .5rem 0; }
a { color: var(--accent); }
.kicker { color: var(--accent); font-weight: 600; margin: 0 0 .3rem; }
.total strong { font-size: 2rem; line-height: 1.2; color: var(--accent); }
.score span { display: inline-block; }
.score strong { margin-right: .8rem; }
.said { overflow: hidden; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.quiet { color: var(--quiet); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .94rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); margin-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; }
th:last-child, td:last-child { text-align: right; padding-right: 0; }
td { white-space: nowrap; }
td, thead th { overflow-wrap: normal; }
thead tr { border-bottom: 2px solid var(--line); }
tbody tr { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; width: 100%; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem 1.2rem; margin: 1rem 0; }
.card h3 { margin-top: 0; }
summary { color: var(--accent); cursor: pointer; font-weight: 600; }
details { margin: .5rem 0; }
dt { color: var(--quiet); }
dd { margin: 0 0 .5rem; }
code { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", Consolas, monospace;
  font-size: .9em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 30rem) {
  table { font-size: .85rem; }
  td:not(:last-child) { white-space: normal; }
  th, td { padding-right: .5rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --quiet: #444;
    --line: #bbb; --accent: #00588a; --good: #005a40; --bad: #8a3600; }
  body { font-size: 10pt; }
  header { padding-top: 0; }
  h2 { margin-top: 1.5rem; }
  h2, h3 { break-after: avoid; }
  tr, .card { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
@page { margin: 1.6cm; }
"""
_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
# The one style sheet above, and nothing else: no script, no picture, no form, nothing remote.
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
