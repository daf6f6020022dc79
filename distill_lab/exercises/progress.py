"""What a student has done so far: a file in the user's data folder, sent nowhere."""

from __future__ import annotations

import contextlib
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from distill_lab.errors import UserError
from distill_lab.exercises.registry import Lesson, find_lesson, lessons
from distill_lab.files import write_json

FOLDER_VARIABLE = "DISTILL_LAB_DATA"


def progress_file() -> Path:
    """Where progress is kept: ``$DISTILL_LAB_DATA``, else the user's data folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else user_data_path("distill_lab")) / "progress.json"


def read_progress() -> dict[str, Any]:
    """Read what is kept: ``exercises`` by id, and ``guesses``; empty where there is nothing yet."""
    try:
        kept = json.loads(progress_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    kept = kept if isinstance(kept, dict) else {}
    return {"exercises": {}, "guesses": {}} | kept


@contextlib.contextmanager
def changed_progress() -> Iterator[dict[str, Any]]:
    """Give what is kept, and keep what the block makes of it.

    A folder that cannot be written changes nothing: a lesson goes on without its record.
    """
    kept = read_progress()
    yield kept
    with contextlib.suppress(UserError, OSError):
        write_json(progress_file(), kept)


class Progress:
    """The panel that ``progress()`` shows: HTML in JupyterLab, the same words elsewhere."""

    def __init__(self, shown: tuple[Lesson, ...], kept: dict[str, Any]) -> None:
        self.lessons = shown
        self._kept = kept["exercises"]

    def points(self, lesson: Lesson) -> float:
        """Points reached in a lesson."""
        return sum(self._reached(exercise.id) for exercise in lesson.exercises)

    def done(self, lesson: Lesson) -> list[str]:
        """Ids of the lesson's exercises whose contracts all held once."""
        return [x.id for x in lesson.exercises if self._reached(x.id) >= x.points]

    @property
    def next(self) -> tuple[Lesson, str] | None:
        """The first exercise that is not done, with its lesson; None where all are."""
        return next(
            (
                (lesson, exercise.id)
                for lesson in self.lessons
                for exercise in lesson.exercises
                if exercise.id not in self.done(lesson)
            ),
            None,
        )

    def _reached(self, id: str) -> float:
        return float(self._kept.get(id, {}).get("points", 0))

    @property
    def _next_line(self) -> str:
        if self.next is None:
            return "All exercises are done."
        lesson, exercise = self.next
        return f"Next: {exercise} in {lesson.name}.ipynb"

    def __repr__(self) -> str:
        lines = []
        for lesson in self.lessons:
            lines.append(
                f"{lesson.name}  {len(self.done(lesson))} of {len(lesson.exercises)} exercises, "
                f"{self.points(lesson):g} of {lesson.points:g} points"
            )
            lines += [
                f"  {self._glyph(x.id, x.points)} {x.id}  {self._reached(x.id):g} / {x.points:g}"
                for x in lesson.exercises
            ]
        return "\n".join([*lines, self._next_line])

    def _glyph(self, id: str, points: float) -> str:
        return "✓" if self._reached(id) >= points else "✗" if id in self._kept else "○"

    def _repr_html_(self) -> str:
        cell = "style='text-align:left;padding:2px 12px 2px 0'"
        rows = []
        for lesson in self.lessons:
            bar = (
                f"<progress max='{lesson.points:g}' value='{self.points(lesson):g}' "
                f"aria-label='{self.points(lesson):g} of {lesson.points:g} points'></progress>"
            )
            marks = " ".join(
                f"<span style='white-space:nowrap'>{self._glyph(x.id, x.points)} "
                f"<code>{html.escape(x.id)}</code></span>"
                for x in lesson.exercises
            )
            rows.append(
                f"<tr><th scope='row' {cell}>{html.escape(lesson.name)}</th>"
                f"<td {cell}>{bar}</td>"
                f"<td {cell}>{self.points(lesson):g} / {lesson.points:g}</td>"
                f"<td {cell}>{marks}</td></tr>"
            )
        head = "".join(
            f"<th scope='col' {cell}>{name}</th>" for name in ("lesson", "", "points", "exercises")
        )
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p>{html.escape(self._next_line)}</p>"
        )


def progress(lesson: str | None = None) -> Progress:
    """Show exercises done, points, and what is next, of all lessons or of one.

    Raises:
        UserError: There is no such lesson.
    """
    shown = lessons() if lesson is None else (find_lesson(lesson),)
    return Progress(shown, read_progress())


def record(id: str, points: float, failed: str | None) -> int:
    """Note a check: the best points so far, and how often the failed contract has failed.

    Returns:
        How often ``failed`` has failed, this time included; 0 where nothing failed.
    """
    with changed_progress() as kept:
        entry = kept["exercises"].setdefault(id, {"points": 0.0, "failures": {}})
        entry["points"] = max(points, float(entry["points"]))
        if failed is None:
            entry["failures"] = {}
            return 0
        entry["failures"][failed] = 1 + int(entry["failures"].get(failed, 0))
        return int(entry["failures"][failed])
