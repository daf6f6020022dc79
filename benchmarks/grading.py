"""Submissions a minute: ``distill-lab course grade`` and ``nbgrader autograde``, side by side.

``python -m benchmarks.grading [--lesson NN] [--sample N] [--quick] [--out FILE.json]``, in the
checkout.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbformat import NotebookNode

from benchmarks.harness import Record, row, speedup
from distill_lab.course.build import read_lesson, student_notebook
from distill_lab.course.nbgrader import lay_out
from distill_lab.course.notebooks import as_text
from distill_lab.exercises.registry import Lesson, find_lesson
from tests.answers import answer_cells, answer_text, answered, answers_of, answers_only, hand_in
from tests.mutants.test_mutants import MUTANTS, OTHER_STYLES

ROOT = Path(__file__).parent.parent
SUBMISSIONS = 200
KINDS = ("solved", "half", "wrong", "broken")
SAMPLED = KINDS[:3]  # what both can grade
GOAL, AIM = 20, 50
EVERY = 0.2  # seconds between two looks at the memory
SETUP = (
    "`distill-lab course grade` grades a class of 200, a process for each core, and all of the "
    "command counts, from its start to the last page of feedback. nbgrader's Python API grades a "
    "sample of the very same notebooks (solved, half-solved and wrong ones), one after the other "
    "as `nbgrader autograde` does, after one for warming up, and only the grading counts. "
    "`vs_nbgrader_stripped`: it gets them without demonstrations, with nothing but imports, "
    "answers, checks and `use` lines. Figures are seconds a submission, ours for the whole class "
    "over its number, theirs the median of the sample, over which the spread is. Memory is the "
    "peak of the whole process tree, looked at every 0.2 s: the sum of RSS, and of PSS where that "
    "of RSS was highest so far."
)


# --- what is handed in --------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """A student's notebook.

    Attributes:
        student: Whose.
        kind: One of ``KINDS``.
        text: The file.
    """

    student: str
    kind: str
    text: str


def submissions(lesson: Lesson, count: int = SUBMISSIONS) -> list[Submission]:
    """Make a class's submissions, the kinds by turns; the same ones each time."""
    solved = read_lesson(ROOT, lesson)
    unsolved = student_notebook(solved)
    right, wrong = _right_answers(lesson, solved), _wrong_answers(lesson)
    made = []
    for number in range(count):
        turn, kind = number // len(KINDS), KINDS[number % len(KINDS)]
        answers = _turn(wrong if kind == "wrong" else right, turn)
        if kind == "half":
            answers = {id: answers[id] for id in _some(list(answers), turn)}
        notebook = answered(unsolved, answers)
        text = _broken(notebook, turn) if kind == "broken" else as_text(notebook)
        made.append(Submission(f"student-{number + 1:03}", kind, text))
    return made


def _right_answers(lesson: Lesson, solved: NotebookNode) -> dict[str, list[str]]:
    """Give, by exercise, the worked answer and those in another style."""
    worked = answers_of(solved)
    return {
        x.id: [worked[x.id]] + [answer_text(*o) for o in OTHER_STYLES if o[0] == x.id]
        for x in lesson.exercises
    }


def _wrong_answers(lesson: Lesson) -> dict[str, list[str]]:
    return {
        x.id: [answer_text(x.id, mutant.function) for mutant in MUTANTS if mutant.exercise == x.id]
        for x in lesson.exercises
    }


def _turn(choices: dict[str, list[str]], turn: int) -> dict[str, str]:
    return {id: answers[turn % len(answers)] for id, answers in choices.items()}


def _some(ids: Sequence[str], turn: int) -> Sequence[str]:
    """Choose some exercises, but not all: another choice each turn, until all had theirs."""
    sizes = range(1, len(ids))
    choices = [some for size in sizes for some in itertools.combinations(ids, size)]
    return choices[turn % len(choices)] if choices else ()


def stripped(text: str) -> str:
    """Leave of a notebook's code the imports, the answers, the checks, and the ``use`` lines."""
    return as_text(answers_only(nbformat.reads(text, as_version=nbformat.NO_CONVERT)))


# --- broken, by turns ---------------------------------------------------------------------------


def _broken(notebook: NotebookNode, turn: int) -> str:
    return (_split, _unmarked, _misspelt, _cut_off)[turn % 4](notebook)


def _split(notebook: NotebookNode) -> str:
    """Split each answer over two cells."""
    answers = {cell.id for cell in answer_cells(notebook).values()}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id in answers:
            lines = cell.source.split("\n")
            middle = len(lines) // 2
            cell.source = "\n".join(lines[:middle])
            rest = {"source": "\n".join(lines[middle:]), "id": f"{cell.id}-2", "metadata": {}}
            cells.append(nbformat.from_dict(cell | rest))
    notebook.cells = cells
    return as_text(notebook)


def _unmarked(notebook: NotebookNode) -> str:
    """Lose the cells' metadata and ids, as other editors do."""
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        del cell["id"]
    return as_text(notebook)


def _misspelt(notebook: NotebookNode) -> str:
    """Leave a bracket open in the first answer."""
    next(iter(answer_cells(notebook).values())).source += "\nprint("
    return as_text(notebook)


def _cut_off(notebook: NotebookNode) -> str:
    text = as_text(notebook)
    return text[: len(text) // 2]


# --- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a command took, with all processes it started.

    Attributes:
        seconds: On the clock.
        rss: Highest sum of resident sets, in MB; a page that processes share counts in each.
        pss: Highest sum of proportional sets, in MB; a shared page counts once. It costs more to
            read, so it is looked at only where the sum of resident sets is the highest so far.
    """

    seconds: float
    rss: int
    pss: int


def watched(command: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a command in the checkout and look at its memory meanwhile."""
    start = time.perf_counter()
    rss = pss = 0
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        while process.poll() is None:
            now = _summed(process.pid, lambda p: p.memory_info().rss)
            if now > rss:
                rss = now
                pss = max(pss, _summed(process.pid, lambda p: p.memory_full_info().pss))
            time.sleep(EVERY)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    return Run(seconds, rss // 10**6, pss // 10**6)


def _summed(pid: int, size: Callable[[psutil.Process], int]) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += size(process)
        except psutil.NoSuchProcess:  # it has just ended
            continue
        except psutil.AccessDenied:  # another user's, in the sandbox: its PSS is not shown
            total += process.memory_info().rss
    return total


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Grade a class with the command, then a sample of it with nbgrader."""
    count, sample = (8, 1) if options.quick else (SUBMISSIONS, options.sample)
    with tempfile.TemporaryDirectory() as folder:
        return {"grading": graded(find_lesson(options.lesson), count, sample, Path(folder))}


def graded(lesson: Lesson, count: int, sample: int, folder: Path) -> Record:
    """Grade so many submissions with the command, and a sample of them with nbgrader."""
    made = submissions(lesson, count)
    chosen = [submission for submission in made if submission.kind in SAMPLED][:sample]
    environment = _environment(folder)

    for submission in made:
        hand_in(folder / "submitted" / submission.student, lesson, submission.text)
    cores = len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "distill_lab", "course", "grade", str(folder / "submitted")]
    command += ["--out", str(folder / "graded"), "--lesson", lesson.name, "--root", str(ROOT)]
    command += ["--jobs", str(cores), "--seed", "0", "--require-sandbox"]
    ours = watched(command, environment)

    course = folder / "course"
    list(lay_out(course, [lesson], ROOT))
    whole = _autograded(course, lesson, {s.student: s.text for s in chosen}, environment)
    bare = _autograded(
        course, lesson, {f"{s.student}-bare": stripped(s.text) for s in chosen}, environment
    )
    points = _points(folder / "graded" / "grades.csv")
    each = [ours.seconds / count] * len(chosen)
    return {
        "vs_nbgrader": speedup(each, whole.seconds, at_least=GOAL, aim=AIM),
        "vs_nbgrader_stripped": speedup(each, bare.seconds),
        "rates": {
            "distill_lab": _rate(count, ours.seconds, ours),
            "nbgrader": _rate(len(chosen), sum(whole.seconds), whole.run),
            "nbgrader_stripped": _rate(len(chosen), sum(bare.seconds), bare.run),
        },
        "class": {"lesson": lesson.name, "cores": cores}
        | Counter(submission.kind for submission in made),
        "sample": {
            submission.student: {
                "kind": submission.kind,
                "points": points[submission.student],
                "points_nbgrader": whole.points[i],
                "seconds_nbgrader": round(whole.seconds[i], 2),
                "seconds_nbgrader_stripped": round(bare.seconds[i], 2),
            }
            for i, submission in enumerate(chosen)
        },
        "setup": SETUP,
    }


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own, and nbgrader finds its programs and this Python's kernel."""
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "DISTILL_LAB_DATA": str(folder / "data"),
    }
    environment.pop("DISTILL_LAB_STRICT", None)
    places = {f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
    return environment | places


@dataclass(frozen=True)
class Autograded:
    """What nbgrader took: seconds and points of each submission, and the process."""

    seconds: list[float]
    points: list[float]
    run: Run


def _autograded(
    course: Path, lesson: Lesson, texts: dict[str, str], environment: dict[str, str]
) -> Autograded:
    """Grade with nbgrader; its start and a first submission, for warming up, do not count."""
    student, text = next(iter(texts.items()))
    handed_in = {f"{student}-warm-up": text} | texts
    out = course / "seconds.json"
    for student, text in handed_in.items():
        hand_in(course / "submitted" / student / lesson.name, lesson, text)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.autograde"]
    run = watched([*command, str(course), lesson.name, str(out), *handed_in], environment)
    graded = json.loads(out.read_text(encoding="utf-8"))
    each = [graded[student] for student in texts]
    return Autograded([one["seconds"] for one in each], [one["points"] for one in each], run)


def _points(grades: Path) -> dict[str, float]:
    """Give the points of each student."""
    points: dict[str, float] = defaultdict(float)
    with grades.open(encoding="utf-8", newline="") as file:
        for grade in csv.DictReader(file):
            points[grade["student"]] += float(grade["points"])
    return points


def _rate(count: int, seconds: float, run: Run) -> dict[str, float]:
    return {
        "submissions": count,
        "seconds": round(seconds, 1),
        "submissions_a_minute": round(60 * count / seconds, 2),
        "peak_rss_mb": run.rss,
        "peak_pss_mb": run.pss,
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lesson", default="3", metavar="NN")
    parser.add_argument("--sample", type=int, default=4, metavar="N", help="graded by nbgrader")


if __name__ == "__main__":
    row(measure, arguments=_arguments)
