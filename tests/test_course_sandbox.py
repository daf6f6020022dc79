"""Laws of what the sandbox shows, and of the worker that is started in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from distill_lab.course import sandbox
from distill_lab.course.library import home
from distill_lab.course.sandbox import WORKER_FILES, Confinement, Worker, WorkerFailed
from distill_lab.exercises.registry import exercises

PACKAGE = Path(sandbox.__file__).resolve().parent.parent


def test_the_worker_is_made_of_files_that_define_no_answer() -> None:
    answers = {home(x.reference) for x in exercises().values()}
    for name in WORKER_FILES:
        module = "distill_lab." + name.removesuffix(".py").replace("/", ".")
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        defined = {(module, n.name) for n in tree.body if isinstance(n, ast.FunctionDef)}
        assert not defined & answers


@pytest.mark.slow
def test_the_worker_imports_nothing_of_the_library_but_its_files() -> None:
    known = {"distill_lab." + n.removesuffix(".py").replace("/", ".") for n in WORKER_FILES}
    known = {name.removesuffix(".__init__") for name in known} | {"distill_lab.exercises"}
    program = (
        "import sys, distill_lab.course.worker; "
        "print(*(m for m in sys.modules if m.partition('.')[0] == 'distill_lab'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", _without_exercises(program)], capture_output=True, text=True
    )
    assert set(done.stdout.split()) <= known, done.stderr


def _without_exercises(program: str) -> str:
    """In the sandbox the package ``exercises`` has no ``__init__``; here it is passed over."""
    return (
        "import sys, types; package = types.ModuleType('distill_lab.exercises'); "
        f"package.__path__ = [{str(PACKAGE / 'exercises')!r}]; "
        f"sys.modules['distill_lab.exercises'] = package; {program}"
    )


def test_an_installed_library_is_covered_where_packages_are_shown(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "distill_lab").mkdir(parents=True)
    options = sandbox._bubblewrap(tmp_path, [site])
    shown = options.index(str(site))
    assert options[shown - 1 : shown + 2] == ["--ro-bind", str(site), "/site/0"]
    covered = options.index("/site/0/distill_lab")
    assert options[covered - 1] == "--tmpfs" and covered > shown


def test_a_checkout_within_what_is_shown_is_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_answers", lambda prefixes: [tmp_path / "course"])
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    options = sandbox._bubblewrap(tmp_path, [])
    covered = options.index(str(tmp_path / "course"))
    assert options[covered - 1] == "--tmpfs" and covered > options.index(str(tmp_path))


def test_a_prefix_that_holds_a_library_is_known_to_hold_answers(tmp_path: Path) -> None:
    for name in ("distill_lab", "lib/python3.12/site-packages/distill_lab"):
        (tmp_path / name).mkdir(parents=True)
        assert tmp_path / name in sandbox._answers([tmp_path])


def test_nothing_of_the_callers_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    options = sandbox._bubblewrap(Path("/nowhere"), [])
    assert "--clearenv" in options and "SECRET_TOKEN" not in options
    assert "SECRET_TOKEN" not in sandbox._environment()


def test_no_network_and_no_process_of_the_machine_is_shared() -> None:
    options = sandbox._bubblewrap(Path("/nowhere"), [])
    assert {"--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"} <= set(options)
    assert options[-6:] == ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def test_a_worker_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START", "raise SystemExit('no room')")
    with pytest.raises(WorkerFailed, match="the worker does not start: no room"):
        Worker(Confinement(False, 1 << 29, 5))


def test_where_bubblewrap_is_missing_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert sandbox.why_no_sandbox.__wrapped__() == "bubblewrap is not installed"


def test_where_bubblewrap_does_not_work_its_words_are_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "TRY", "raise SystemExit('not permitted')")
    assert sandbox.why_no_sandbox.__wrapped__() == "not permitted"
