"""Laws of grading a batch: repeatable, resumable, and one bad submission never stops the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode
from typer.testing import CliRunner

from distill_lab.cli import app, main
from distill_lab.course import grade as grading
from distill_lab.course.grade import GRADES, LOG, grade
from distill_lab.course.judging import Judge, imports_of, ruled_out
from distill_lab.course.notebooks import as_text, pristine
from distill_lab.course.repair import Cell, Script
from distill_lab.course.results import SubmissionResult, grades_csv
from distill_lab.course.sandbox import Confinement, why_no_sandbox
from distill_lab.course.submissions import Submission
from distill_lab.errors import UserError
from distill_lab.exercises.checking import judge
from distill_lab.exercises.registry import Exercise, find_exercise, find_lesson, lesson_of, lessons
from tests.answers import answer_text, answered, hand_in, worked_answers
from tests.mutants.test_mutants import MUTANTS, OTHER_STYLES

ROOT = Path(__file__).parent.parent
LESSON = find_lesson("3")
SEED = 20_261_128
MEGABYTE = 1 << 20


def student_notebook(**answers: str) -> NotebookNode:
    """Lesson 03 as students get it, with answers by exercise."""
    return answered(pristine(LESSON, ROOT), answers)


ENTROPY_TOO_LARGE = """\
def entropy(logits, temperature=1.0):
    log_p = torch.log_softmax(logits / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).sum()
"""


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Submissions of every kind."""
    folder = tmp_path_factory.mktemp("submitted")
    worked = worked_answers(LESSON)
    hand_in(folder / "solved", LESSON, student_notebook(**worked))
    hand_in(folder / "unsolved", LESSON, student_notebook())
    hand_in(folder / "half", LESSON, student_notebook(**{**worked, "entropy": ENTROPY_TOO_LARGE}))
    hand_in(folder / "broken", LESSON, "{ no notebook")
    hand_in(folder / "ends", LESSON, student_notebook(entropy="import os\nos._exit(0)"))
    return folder


def grade_here(submitted: Path, out: Path, **options: Any) -> list[SubmissionResult]:
    return grade(submitted, out, root=ROOT, time_limit=5, memory=512, **options)


@pytest.fixture(scope="module")
def graded(submitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted grading of them leaves."""
    out = tmp_path_factory.mktemp("graded") / "out"
    grade_here(submitted, out, seed=SEED, jobs=1)
    return out


def rows(out: Path) -> dict[tuple[str, str], list[str]]:
    lines = (out / GRADES).read_text(encoding="utf-8").splitlines()[1:]
    return {(cells[0], cells[2]): cells[3:] for cells in (line.split(",", 6) for line in lines)}


# --- what is graded -----------------------------------------------------------------------------


def test_the_tests_have_a_working_sandbox() -> None:
    assert why_no_sandbox() == ""


@pytest.mark.slow
def test_every_submission_gets_what_it_is_due(graded: Path) -> None:
    found = rows(graded)
    for exercise in LESSON.exercises:
        full = f"{exercise.points:g}"
        assert found["solved", exercise.id][:3] == [full, full, "passed"]
        assert found["unsolved", exercise.id][:3] == ["0", full, "not attempted"]
        assert found["broken", exercise.id][:3] == ["0", full, "unreadable"]
        if exercise.id != "entropy":
            assert found["half", exercise.id][2] == "passed"
    assert found["half", "entropy"][2] == "partly" or found["half", "entropy"][0] == "0"
    assert found["ends", "entropy"][:3] == ["0", "2", "stopped"]


@pytest.mark.slow
def test_each_student_has_a_page(graded: Path) -> None:
    pages = {path.parent.name for path in (graded / "feedback").glob(f"*/{LESSON.name}.html")}
    assert pages == {"solved", "unsolved", "half", "broken", "ends"}


@pytest.mark.slow
def test_the_log_records_the_seed_and_every_result(graded: Path) -> None:
    head, *lines = map(json.loads, (graded / LOG).read_text(encoding="utf-8").splitlines())
    assert head["seed"] == SEED
    results = [SubmissionResult.from_json(line) for line in lines]
    assert grades_csv(results) == (graded / GRADES).read_text(encoding="utf-8")


# --- again, and on ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_seed_repeats_a_grading_byte_for_byte(
    submitted: Path, graded: Path, tmp_path: Path
) -> None:
    grade_here(submitted, tmp_path / "again", seed=SEED, jobs=2)
    assert (tmp_path / "again" / GRADES).read_bytes() == (graded / GRADES).read_bytes()


@pytest.mark.slow
def test_a_grading_that_was_killed_goes_on_to_the_same_grades(
    submitted: Path, graded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--seed", str(SEED), "--jobs", "1", "--time-limit", "5", "--memory", "512"]
    command = [sys.executable, "-m", "distill_lab", "course", "grade", str(submitted)]
    command += ["--out", str(out), "--root", str(ROOT), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        log = out / LOG
        if log.is_file() and log.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.05)
    mine = set(descendants(process.pid))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / GRADES).exists()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(runs, mine)):
        time.sleep(0.05)
    assert not [pid for pid in mine if runs(pid)]
    with (out / LOG).open("ab") as file:
        file.write(b'{"student": "half a li')
    grade_here(submitted, out, resume=True, jobs=1)
    assert (out / GRADES).read_bytes() == (graded / GRADES).read_bytes()


def descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_grades(
    submitted: Path, graded: Path, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        grade_here(submitted, tmp_path / "out", seed=SEED, dask=cluster.scheduler_address)
    assert (tmp_path / "out" / GRADES).read_bytes() == (graded / GRADES).read_bytes()


# --- with no worker: the batch and its log ------------------------------------------------------


def fake(results: list[str]) -> Any:
    """Judges that give each submission full points, and note whom they judged."""

    def judged(jobs: int, settings: grading.Settings) -> Any:
        def through(submissions: Iterable[Submission]) -> Iterator[SubmissionResult]:
            for submission in submissions:
                results.append(submission.student)
                yield SubmissionResult(submission.student, submission.lesson, submission.sha256, ())

        return through

    return judged


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(grading, "_pool", fake(found))
    return found


@pytest.fixture
def two(tmp_path: Path) -> Path:
    folder = tmp_path / "submitted"
    hand_in(folder / "ada", LESSON, student_notebook())
    hand_in(folder / "bob", LESSON, student_notebook())
    return folder


def test_what_is_graded_is_not_graded_again(two: Path, tmp_path: Path, judged: list[str]) -> None:
    grade_here(two, tmp_path / "out")
    hand_in(two / "cyd", LESSON, student_notebook())
    (two / "bob" / f"{LESSON.name}.ipynb").write_text(as_text(student_notebook(entropy="x = 1")))
    grade_here(two, tmp_path / "out", resume=True)
    assert judged == ["ada", "bob", "bob", "cyd"]
    grade_here(two, tmp_path / "out", resume=True)
    assert judged == ["ada", "bob", "bob", "cyd"]


def test_each_grading_has_a_seed_of_its_own(two: Path, tmp_path: Path, judged: list[str]) -> None:
    seeds = set()
    for name in "ab":
        grade_here(two, tmp_path / name)
        seeds.add(json.loads((tmp_path / name / LOG).read_text().splitlines()[0])["seed"])
    assert len(seeds) == 2


def test_a_grading_is_not_begun_twice_in_a_folder(
    two: Path, tmp_path: Path, judged: list[str]
) -> None:
    grade_here(two, tmp_path / "out")
    with pytest.raises(UserError, match="holds a grading already; go on with it with --resume"):
        grade_here(two, tmp_path / "out")


def test_a_grading_goes_on_only_with_its_own_settings(
    two: Path, tmp_path: Path, judged: list[str]
) -> None:
    grade_here(two, tmp_path / "out", seed=1)
    with pytest.raises(UserError, match="begun with another seed"):
        grade_here(two, tmp_path / "out", seed=2, resume=True)
    with pytest.raises(UserError, match="begun with another time_limit and memory"):
        grade(two, tmp_path / "out", root=ROOT, resume=True, time_limit=7, memory=100)


def test_a_foreign_folder_is_refused_and_left_alone(
    two: Path, tmp_path: Path, judged: list[str]
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no grading"):
        grade_here(two, out)
    with pytest.raises(UserError, match="is a file"):
        grade_here(two, out / "thesis.txt")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").rename(out / LOG)
    with pytest.raises(UserError, match="is no log of a grading"):
        grade_here(two, out, resume=True)


def test_where_nothing_is_graded_nothing_is_left(tmp_path: Path) -> None:
    for submitted, said in (("missing", "missing"), ("empty", "no notebook in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            grade_here(tmp_path / submitted, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_exit_code_2(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (two / "ada" / f"{LESSON.name} (1).ipynb").write_text(as_text(student_notebook(entropy="1")))
    out = str(tmp_path / "out")
    for arguments, said in (
        (["nowhere", "--out", out], "nowhere"),
        ([str(two), "--out", out], "two notebooks"),
        ([str(two), "--out", out, "--lesson", "99"], "no lesson is called '99'"),
        ([str(two / "bob"), "--out", "/proc/out"], "/proc/out cannot be made"),
    ):
        monkeypatch.setattr(sys, "argv", ["distill-lab", "course", "grade", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr().err
        assert ended.value.code == 2 and len(told.strip().splitlines()) == 1 and said in told, told


def test_a_dask_scheduler_that_does_not_answer_is_told(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading, "DASK_SECONDS", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        grade_here(two, tmp_path / "out", dask="tcp://127.0.0.1:9")
    assert not (tmp_path / "out").exists()


def test_without_a_sandbox_there_is_a_loud_warning_or_a_refusal(
    two: Path, tmp_path: Path, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading, "why_no_sandbox", lambda: "bubblewrap is not installed")
    with pytest.raises(UserError, match="bubblewrap is not installed"):
        grade_here(two, tmp_path / "out", require_sandbox=True)
    said: list[str] = []
    grade_here(two, tmp_path / "out", say=said.append)
    assert said[0].startswith("WARNING: no working sandbox (bubblewrap is not installed)")
    head = json.loads((tmp_path / "out" / LOG).read_text().splitlines()[0])
    assert head["sandbox"] is False


def test_two_gradings_do_not_write_into_one_folder(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with grading._only_one(out), pytest.raises(UserError, match="another grading is writing"):
        grade_here(two, out)
    assert not out.exists()


def test_the_command_line_hands_its_options_on(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def noted(submitted: Path, out: Path, **options: Any) -> list[SubmissionResult]:
        given.update(options, submitted=submitted, out=out)
        return []

    monkeypatch.setattr(grading, "grade", noted)
    line = "--lesson 3 --jobs 5 --seed 9 --time-limit 7 --memory 99 --require-sandbox --resume"
    arguments = ["course", "grade", str(two), "--out", str(tmp_path / "out"), *line.split()]
    done = CliRunner().invoke(app, [*arguments, "--dask", "tcp://x:1"])
    assert done.exit_code == 0, done.output
    wanted = {"lesson": LESSON, "jobs": 5, "seed": 9, "time_limit": 7, "memory": 99}
    wanted |= {"require_sandbox": True, "resume": True, "dask": "tcp://x:1", "submitted": two}
    assert {name: given[name] for name in wanted} == wanted


# --- every mutant -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judging() -> Iterator[Judge]:
    released = {lesson.name: pristine(lesson, ROOT) for lesson in lessons()}
    limits = Confinement(True, 1024 * MEGABYTE, 60, imports_of(released), ruled_out(lessons()))
    judge = Judge(limits, SEED, released)
    yield judge
    judge.close()


def as_cell(exercise: Exercise, function: Any) -> Script:
    """A submission with a function of the tests as the answer to one exercise."""
    return Script((Cell(answer_text(exercise.id, function), exercise.id),), {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.exercise}-{m.function.__name__}")
def test_a_wrong_answer_gets_the_points_that_its_contracts_say(mutant: Any, judging: Judge) -> None:
    exercise = find_exercise(mutant.exercise)
    result = judging.exercise(exercise, as_cell(exercise, mutant.function), before(exercise))
    expected = judge(exercise, mutant.function, seed=SEED)
    assert result.points == expected.points < exercise.points or not mutant_costs(expected)
    assert [c.status for c in result.contracts] == [o.status for o in expected.outcomes]


def before(exercise: Exercise) -> list[Exercise]:
    """The exercises before it: a mutant's notebook answers one only."""
    all_ = lesson_of(exercise).exercises
    return list(all_[: all_.index(exercise)])


def mutant_costs(verdict: Any) -> bool:
    """Whether a mutant breaks a law that carries points."""
    return any(o.status != "passed" and o.contract.points for o in verdict.outcomes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "function"), OTHER_STYLES, ids=[f"{e}-{f.__name__}" for e, f in OTHER_STYLES]
)
def test_a_right_answer_in_another_style_gets_all_points(
    id: str, function: Any, judging: Judge
) -> None:
    exercise = find_exercise(id)
    result = judging.exercise(exercise, as_cell(exercise, function), before(exercise))
    assert result.status == "passed", result.reason


# --- who grades ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_one_who_is_not_root_can_grade_in_the_sandbox(submitted: Path, tmp_path: Path) -> None:
    """As root the sandbox works by root's rights, as anybody else by a user namespace."""
    if not shutil.which("setpriv"):
        pytest.fail("setpriv (util-linux) is missing")
    program = (
        "from distill_lab.course.sandbox import *; "
        "assert why_no_sandbox() == '', why_no_sandbox(); "
        "w = Worker(Confinement(True, 1 << 29, 5)); s = w.session(); s.__enter__(); print('well')"
    )
    setpriv = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]
    done = subprocess.run(
        [*setpriv, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "well\n", done.stderr
