"""nbgrader's side of the grading benchmark, in a process that holds nothing else.

``python -m benchmarks.autograde COURSE LESSON OUT STUDENT...`` grades the students' submissions one
after the other, as ``nbgrader autograde`` does, and writes seconds and points of each to OUT.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader


def nbgrader(course: Path) -> NbGraderAPI:
    """Start nbgrader with the course's own configuration."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    own = {"CourseDirectory": {"root": str(course)}, "Exchange": {"root": str(course)}}
    config.merge(Config(**own, NbGraderAPI={"log_level": "ERROR"}))
    return NbGraderAPI(config=config)


def main(course: str, lesson: str, out: str, *students: str) -> None:
    """Release the lesson, then grade what these students handed in.

    Raises:
        RuntimeError: nbgrader could not.
    """
    grader = nbgrader(Path(course))
    _succeeded(grader.generate_assignment(lesson))
    seconds = {}
    for student in students:
        start = time.perf_counter()
        _succeeded(grader.autograde(lesson, student))
        seconds[student] = time.perf_counter() - start
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        points = {name: gradebook.find_submission(lesson, name).score for name in students}
    graded = {name: {"seconds": seconds[name], "points": points[name]} for name in students}
    Path(out).write_text(json.dumps(graded), encoding="utf-8")


def _succeeded(done: dict) -> None:
    if not done["success"]:
        raise RuntimeError(f"{done['error']}\n{done['log']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
