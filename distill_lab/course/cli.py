"""``distill-lab course``: lessons from their sources to points and stored results; and ``lab``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from distill_lab.course.results import GRADES, Format

if TYPE_CHECKING:
    from rich.table import Table

    from distill_lab.course.results import SubmissionResult
    from distill_lab.exercises.registry import Lesson

app = typer.Typer(
    name="course",
    no_args_is_help=True,
    help=(
        "Build, draw, list, reset and release the lessons; lay out a course for nbgrader; grade; "
        "carry points to gradebooks; store results."
    ),
)
console = Console()

LessonNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="LESSON", help="Names or numbers, such as 3 or 03_losses; else all"),
]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The course's folder; else the nearest one above with the lessons",
    ),
]


@app.command()
def build(
    lessons: LessonNames = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if a notebook is not built")
    ] = False,
    execute: Annotated[
        bool, typer.Option("--execute", help="Also run both; executed copies go to build/")
    ] = False,
    root: Root = None,
) -> None:
    """Make the solved and the student notebook of each lesson from solutions/NN_name.py."""
    from distill_lab.course.notebooks import SOLUTIONS, find_root

    chosen = _lessons(lessons)
    folder = (root or find_root(SOLUTIONS)).resolve()
    if check:
        _check(folder, chosen)
    else:
        _build(folder, chosen)
    if execute:
        _execute(folder, chosen)


def _build(folder: Path, chosen: tuple[Lesson, ...]) -> None:
    from distill_lab.course import build

    for lesson in chosen:
        for line in build.build(folder, lesson):
            _print(line)


def _check(folder: Path, chosen: tuple[Lesson, ...]) -> None:
    from distill_lab.course import build

    well = True
    for lesson in chosen:
        try:
            for stale in build.check_built(folder, lesson):
                well = False
                _print(stale.diff)
                _print(stale.reason)
        except build.SourceError as error:
            well = False
            if error.diff:
                _print(error.diff)
            _print(str(error))
    if not well:
        raise typer.Exit(1)
    _print(f"{', '.join(x.name for x in chosen)}: every notebook is what its source makes")


def _execute(folder: Path, chosen: tuple[Lesson, ...]) -> None:
    import time

    from distill_lab.course import build
    from distill_lab.course.notebooks import NOTEBOOKS, SOLUTIONS

    failed = False
    for lesson in chosen:
        for kind in (NOTEBOOKS, SOLUTIONS):
            name, start = f"{kind}/{lesson.name}.ipynb", time.perf_counter()
            _print(f"running {name} …")
            try:
                target = build.execute(folder, lesson, kind)
            except build.CellFailed as error:
                failed = True
                _print(f"{name} failed:\n{error}")
            else:
                seconds = time.perf_counter() - start
                _print(f"{name} ran in {seconds:.0f} s: {target.relative_to(folder)}")
    if failed:
        raise typer.Exit(1)


@app.command()
def figures(lessons: LessonNames = None, root: Root = None) -> None:
    """Run the solved notebooks and store their marked figures, as "what you should see"."""
    from distill_lab.course import build
    from distill_lab.course.notebooks import SOLUTIONS, find_root

    chosen = _lessons(lessons)
    folder = (root or find_root(SOLUTIONS)).resolve()
    for lesson in chosen:
        _print(f"running solutions/{lesson.name}.ipynb …")
        try:
            for path in build.draw_figures(folder, lesson):
                _print(f"{path.relative_to(folder)} written")
        except build.CellFailed as error:
            _print(str(error))
            raise typer.Exit(1) from None
    _build(folder, chosen)


@app.command("list")
def list_lessons() -> None:
    """List lessons and exercises with points, minutes and difficulty."""
    console.print(table(_lessons(None)))


def table(shown: tuple[Lesson, ...]) -> Table:
    """Lay lessons and their exercises out for the terminal."""
    from rich.table import Table

    from distill_lab.course.notebooks import stars

    result = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    result.add_column("Lesson", no_wrap=True)
    result.add_column("", overflow="fold")
    for name in ("Points", "Minutes"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("Level", no_wrap=True)

    for lesson in shown:
        whole = f"{lesson.points:g}", str(lesson.minutes), stars(lesson.difficulty)
        result.add_row(lesson.name, lesson.title, *whole, style="bold")
        for x in lesson.exercises:
            row = f"{x.points:g}", str(x.minutes), stars(x.difficulty)
            result.add_row(f"  {x.id}", x.title, *row)
    points = sum(lesson.points for lesson in shown)
    minutes = sum(lesson.minutes for lesson in shown)
    result.add_row("all", "", f"{points:g}", str(minutes), "", style="bold")
    return result


@app.command()
def reset(
    lesson: Annotated[str, typer.Argument(help="Name or number, such as 3 or 03_losses")],
    exercise: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Put only this answer back, not the whole lesson"),
    ] = None,
    root: Root = None,
) -> None:
    """Put the stub back into a student notebook; the old notebook is kept beside it."""
    from distill_lab.course import notebooks
    from distill_lab.exercises.registry import find_lesson

    chosen = find_lesson(lesson)
    folder = root or notebooks.find_root(notebooks.NOTEBOOKS, notebooks.SOLUTIONS)
    attempt = notebooks.reset(chosen, folder, exercise)
    what = f"{exercise} in {chosen.name}.ipynb is" if exercise else f"{chosen.name}.ipynb is"
    kept = f"; the notebook as it was: {attempt}" if attempt else ""
    _print(f"{what} as released{kept}")
    if attempt:
        _print("If it is open in JupyterLab: File > Reload Notebook from Disk.")


@app.command()
def release(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or that of a release before")
    ],
    lessons: LessonNames = None,
    root: Root = None,
) -> None:
    """Lay out what students get: notebooks without answers, a README, what to install."""
    from distill_lab.course.release import lay_out

    for line in lay_out(folder, _lessons(lessons), root):
        _print(line)


@app.command()
def nbgrader(
    folder: Annotated[Path, typer.Argument(help="The course's new folder")],
    lessons: LessonNames = None,
    root: Root = None,
) -> None:
    """Lay out a course for plain nbgrader: source notebooks, configuration, a README."""
    from distill_lab.course.notebooks import SOLUTIONS, find_root

    chosen = _lessons(lessons)
    source = (root or find_root(SOLUTIONS)).resolve()
    from distill_lab.course.nbgrader import lay_out

    for line in lay_out(folder, chosen, source):
        _print(line)


@app.command()
def grade(
    submitted: Annotated[
        Path, typer.Argument(metavar="SUBMITTED", help="Folder or ZIP of what students handed in")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where grades, feedback and the log go; new")
    ],
    lesson: Annotated[
        str | None, typer.Option(metavar="NN", help="Only this lesson's submissions")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that judge; else one for each core")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the secret inputs, to repeat a grading; else new")
    ] = None,
    time_limit: Annotated[
        int, typer.Option(min=1, metavar="S", help="Seconds an exercise may take")
    ] = 20,
    memory: Annotated[
        int, typer.Option(min=64, metavar="MB", help="Megabytes an exercise may take")
    ] = 1024,
    require_sandbox: Annotated[
        bool, typer.Option("--require-sandbox", help="Refuse where bubblewrap does not work")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the grading that DIR holds")
    ] = False,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Send submissions to this Dask scheduler")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The course's folder; else the lessons installed"),
    ] = None,
) -> None:
    """Grade what students handed in; their code runs in a sandbox."""
    import os

    from distill_lab.course.grade import grade
    from distill_lab.exercises.registry import find_lesson

    try:
        results = grade(
            submitted,
            out,
            lesson=find_lesson(lesson) if lesson is not None else None,
            jobs=jobs or len(os.sched_getaffinity(0)),
            seed=seed,
            time_limit=time_limit,
            memory=memory,
            require_sandbox=require_sandbox,
            resume=resume,
            dask=dask,
            root=root,
            say=lambda line: print(line, file=sys.stderr),
            watch=_bar,
        )
    except KeyboardInterrupt:
        print("\ndistill-lab: interrupted; go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    reached = sum(result.points for result in results)
    possible = sum(result.possible for result in results)
    _print(f"{len(results)} submissions graded, {reached:g} of {possible:g} points: {out / GRADES}")


def _bar(results: Iterable[SubmissionResult], total: int) -> Iterator[SubmissionResult]:
    """Show how far grading has come."""
    from tqdm.auto import tqdm

    yield from tqdm(results, total=total, desc="grading", unit="submission", leave=False)


@app.command()
def gradebook(
    graded: Annotated[Path, typer.Argument(metavar="OUT", help="The folder with grades.csv")],
    format: Annotated[Format, typer.Option(help="The system that takes the points")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where it goes; else into OUT, named by the format"),
    ] = None,
) -> None:
    """Carry the points of grades.csv to nbgrader, Canvas, Moodle, Gradescope or a table."""
    from distill_lab.course.gradebook import export

    _print(export(graded, format, to))


@app.command()
def store(
    run: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a finished run or study")
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What the lessons call a run's report")
    ] = "five_seeds",
    root: Root = None,
) -> None:
    """Store in data/ what the lessons show: a study's result, or a run's report and logits."""
    from distill_lab.course.notebooks import SOLUTIONS, find_root
    from distill_lab.course.stored import store_run, store_study

    data = (root or find_root(SOLUTIONS)).resolve() / "data"
    if (run / "study.json").is_file():
        store_study(run, data)
    else:
        store_run(run, data, name=name, say=_print)


@app.command()
def deployment(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished runs with exported students")
    ],
    root: Root = None,
) -> None:
    """Store in data/ the sizes, speeds and accuracies of the runs' models and exports."""
    from distill_lab.course.notebooks import SOLUTIONS, find_root
    from distill_lab.course.stored import store_deployment

    store_deployment(runs, (root or find_root(SOLUTIONS)).resolve() / "data")


def lab(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTION", help="Options for JupyterLab, after --"),
    ] = None,
    root: Root = None,
) -> None:
    """Open JupyterLab on the lessons; where there are none yet, put them into ./notebooks."""
    from distill_lab.course.notebooks import (
        NOTEBOOKS,
        find_root,
        has_lessons,
        open_lab,
        provide_notebooks,
    )
    from distill_lab.errors import UserError

    try:
        folder = (root or find_root(NOTEBOOKS)).resolve()
    except UserError:
        folder = Path.cwd()
    if not has_lessons(folder / NOTEBOOKS):
        written = provide_notebooks(folder, _lessons(None))
        _print(f"the lessons are now in {folder / NOTEBOOKS}: {', '.join(x.name for x in written)}")
    status = open_lab(folder / NOTEBOOKS, options or [])
    if status:
        raise typer.Exit(status)


def _lessons(names: list[str] | None) -> tuple[Lesson, ...]:
    from distill_lab.exercises import registry

    return tuple(map(registry.find_lesson, names)) if names else registry.lessons()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
