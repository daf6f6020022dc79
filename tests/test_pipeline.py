"""Laws of a run: made once, made again only where something changed, the same after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_bert, threads
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from distill_lab.errors import UserError
from distill_lab.models import load_teacher, weights_fingerprint
from distill_lab.pipeline import (
    VARIANTS,
    Settings,
    _Student,
    _waited,
    prepare_teacher,
    read_settings,
    run,
    settings_toml,
)
from distill_lab.tasks import load_task

SCORE = ("mean", "low", "high", "values")
COST = ("parameters", "bytes", "throughput", "latency_ms.p50", "latency_ms.p95")
PROMISED = {
    "task": ("name", "classes", "train", "transfer", "validation", "test"),
    "teacher": ("accuracy", "macro_f1", "ece", *COST),
    **{
        f"students.{name}": (
            *("seeds", "interval", "ece", "agreement", *COST),
            *(f"{metric}.{key}" for metric in ("accuracy", "macro_f1") for key in SCORE),
        )
        for name in ("hard_labels", "label_smoothing", "distilled_same_data", "distilled")
    },
    "retention": ("accuracy", "macro_f1"),
    "compression": ("parameters", "bytes"),
    "speedup": ("throughput", "latency"),
    "gain_over_hard_labels": SCORE[:3],
    "gain_with_transfer": SCORE[:3],
    "seconds": ("teacher", "extract", "students", "evaluate", "total"),
    "environment": ("python", "torch", "transformers", "device", "threads", "seed"),
}


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def at(report: dict[str, Any], path: str) -> Any:
    value: Any = report
    for key in path.split("."):
        value = value[key]
    return value


def quality(report: dict[str, Any]) -> dict[str, Any]:
    """All figures of a report that a clock does not make."""
    paths = ["task", "reliability", "class_similarity", "retention", "compression"]
    paths += ["gain_over_hard_labels", "gain_with_transfer"]
    of_models = ["accuracy", "macro_f1", "ece", "parameters", "bytes"]
    paths += [f"teacher.{key}" for key in of_models]
    of_students = [*of_models, "agreement", "seeds", "steps", "interval"]
    paths += [f"students.{name}.{key}" for name in VARIANTS for key in of_students]
    return {path: at(report, path) for path in paths}


@pytest.fixture
def a_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_lab.report.draw_figures", lambda report: {})


# --- the report ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PROMISED)
def test_the_report_has_every_figure_it_promises(part: str, finished_run: Path) -> None:
    report = report_of(finished_run)
    for key in PROMISED[part]:
        assert at(report, f"{part}.{key}") is not None


def test_the_report_counts_the_task(finished_run: Path, small_settings: Settings) -> None:
    task = load_task(small_settings.task, **small_settings.columns, max_length=24)
    counts = report_of(finished_run)["task"]
    assert counts["transfer"] == len(task.transfer) > counts["train"] == len(task.labelled)
    assert (counts["validation"], counts["test"]) == (len(task.validation), len(task.test))


def test_the_seconds_add_up(finished_run: Path) -> None:
    seconds = report_of(finished_run)["seconds"]
    assert sum(v for k, v in seconds.items() if k != "total") == pytest.approx(seconds["total"])
    assert all(value > 0 for value in seconds.values())


def test_models_and_page_are_in_the_folder(finished_run: Path) -> None:
    for name in ("teacher", *(f"students/{variant}-seed0" for variant in VARIANTS)):
        assert (finished_run / name / "model.safetensors").is_file()
        load_teacher(str(finished_run / name), label_names=("garden", "kitchen", "sea"))
    assert (finished_run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(list((finished_run / "figures").glob("*.png"))) == 4
    assert not list(finished_run.glob("checkpoints*"))


def test_teacher_and_distilled_student_learn(finished_run: Path) -> None:
    report = report_of(finished_run)
    assert report["teacher"]["accuracy"] > 0.6
    assert report["students"]["distilled"]["agreement"] > 0.5


# --- settings -----------------------------------------------------------------------------------

numbers = st.floats(1e-6, 1e6)


@given(
    st.builds(
        Settings,
        task=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
        group_column=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
        temperature=numbers | st.integers(1, 100),
        learning_rate=numbers,
        alpha=st.floats(0, 1),
        prune_vocabulary=st.booleans(),
        seeds=st.integers(1, 100),
        seed=st.integers(0, 2**31),
    )
)
def test_a_config_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_text(settings_toml(settings), encoding="utf-8")
    assert Settings(**read_settings(path)) == settings


def test_a_whole_number_is_the_same_setting_as_a_float() -> None:
    assert settings_toml(Settings(epochs=3)) == settings_toml(Settings(epochs=3.0))


@pytest.mark.parametrize(
    "line", ["prune_vocabulary = 1", 'prune_vocabulary = "yes"', "seeds = true"]
)
def test_a_switch_is_no_number_and_a_number_no_switch(line: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=r"expected (bool|int)$"):
        read_settings(tmp_path / "config.toml")


def test_a_switch_that_is_off_is_not_written_down() -> None:
    # So that a run that was finished before there was the switch is still the same run.
    assert "prune_vocabulary" not in settings_toml(Settings())
    assert "prune_vocabulary = true" in settings_toml(Settings(prune_vocabulary=True))


# --- made again only where something changed ----------------------------------------------------

EVERYTHING = {"teacher", "knowledge", *VARIANTS}
DISTILLED = {"distilled_same_data", "distilled"}


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def made_anew(folder: Path, settings: Settings) -> set[str]:
    """Run again; give which results were written anew, and check that it says so."""
    places = {v: folder / "students" / f"{v}-seed0" / "step.json" for v in VARIANTS}
    places["teacher"] = folder / "teacher" / "step.json"
    places["knowledge"] = folder / "knowledge" / "manifest.json"
    before = {name: place.stat().st_mtime_ns for name, place in places.items()}
    said: list[str] = []
    run(settings, folder, say=said.append)
    anew = {name for name, place in places.items() if place.stat().st_mtime_ns != before[name]}
    for name in EVERYTHING:
        word = {"teacher": "1 ·", "knowledge": "2 ·"}.get(name, f"{name.replace('_', ' ')}, seed 0")
        (line,) = (line for line in said if word in line and "anew" not in line)
        assert ("already" in line) == (name not in anew)
    return anew


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"temperature": 3.0}, DISTILLED),
        ({"label_smoothing": 0.2}, {"label_smoothing"}),
        slow({"labelled_epochs": 1.0}, set(VARIANTS) - {"distilled"}),
        ({"epochs": 1.0}, {"distilled"}),
        slow({"seeds": 2}, set()),
        ({"objective": "soft+hidden_states=0.5"}, {"knowledge", *DISTILLED}),
        slow({"embeddings": "random"}, set(VARIANTS)),
        slow({"prune_vocabulary": True}, set(VARIANTS)),
        slow({"teacher_learning_rate": 1e-3}, EVERYTHING),
        slow({"seed": 1}, {"teacher", "knowledge"}),
    ],
)
def test_a_changed_setting_makes_its_step_anew_and_what_follows(
    change: dict[str, Any], anew: set[str], a_copy: Path, small_settings: Settings
) -> None:
    changed = dataclasses.replace(small_settings, **change)
    if "seed" in change:  # other students, beside the old ones
        said: list[str] = []
        run(changed, a_copy, say=said.append)
        assert not any("already" in line for line in said)
    else:
        assert made_anew(a_copy, changed) == anew
    report = report_of(a_copy)
    assert all(report["settings"][key] == value for key, value in change.items())
    assert Settings(**read_settings(a_copy / "config.toml")) == changed
    assert len(report["students"]["distilled"]["seeds"]) == changed.seeds


def test_a_second_run_makes_nothing_and_says_so(a_copy: Path, small_settings: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in a_copy.rglob("*") if path.is_file()}
    del before[a_copy / "config.toml"]
    said: list[str] = []
    report = run(small_settings, a_copy, say=said.append)
    assert report == report_of(a_copy)
    assert all("already" in line for line in said) and len(said) == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_a_teacher_changed_in_its_place_is_another_teacher(
    a_copy: Path, small_settings: Settings, small_encoder: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(small_encoder, tmp_path / "teacher"))
    settings = dataclasses.replace(small_settings, teacher=str(moved))
    assert made_anew(a_copy, settings) == set()  # the same weights elsewhere are the same teacher
    small_bert(layers=2, heads=2).base_model.save_pretrained(moved)
    assert made_anew(a_copy, settings) == EVERYTHING


def test_a_broken_shard_is_made_again(a_copy: Path, small_settings: Settings) -> None:
    (shard,) = (a_copy / "knowledge").glob("*.arrow")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    run(small_settings, a_copy, say=lambda line: None)
    assert shard.read_bytes() == whole


@pytest.mark.slow
def test_with_nothing_but_labelled_examples_one_student_is_trained_for_both(
    small_settings: Settings, small_csv: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        small_settings, task=f"csv:{small_csv}", teacher_epochs=1.0, epochs=1.0
    )
    said: list[str] = []
    report = run(settings, tmp_path / "run", say=said.append)
    assert report["students"]["distilled"] == report["students"]["distilled_same_data"]
    assert report["gain_with_transfer"] == report["gain_over_hard_labels"]
    assert any("distilled is the same" in line for line in said)
    assert len({report["students"][name]["steps"] for name in VARIANTS}) == 1
    assert not (tmp_path / "run" / "students" / "distilled-seed0").exists()


@pytest.mark.slow
def test_a_fine_tuned_teacher_is_used_as_it_is(
    small_settings: Settings, finished_run: Path, tmp_path: Path
) -> None:
    teacher = finished_run / "teacher"
    settings = dataclasses.replace(small_settings, teacher=str(teacher), teacher_epochs=0)
    report = run(settings, tmp_path / "run", say=lambda line: None)
    one, other = (
        weights_fingerprint(load_teacher(str(place), label_names=report["task"]["classes"]))
        for place in (teacher, tmp_path / "run" / "teacher")
    )
    assert one == other
    assert report["teacher"]["accuracy"] == report_of(finished_run)["teacher"]["accuracy"]


def test_nothing_is_written_before_all_is_known_to_fit(
    small_settings: Settings, tmp_path: Path
) -> None:
    for change in ({"student": "tiny"}, {"max_length": 65}, {"objective": "soft+relations"}):
        settings = dataclasses.replace(small_settings, **change)
        if change == {"objective": "soft+relations"}:  # a student deeper than its teacher
            small_bert(layers=3, width=16, heads=2).base_model.save_pretrained(tmp_path / "deep")
            for file in Path(small_settings.student).glob("tokenizer*"):
                shutil.copy(file, tmp_path / "deep")
            settings = dataclasses.replace(settings, student=str(tmp_path / "deep"))
        with pytest.raises(UserError):
            run(settings, tmp_path / "run", say=lambda line: None)
        assert not (tmp_path / "run").exists()


# --- killed -------------------------------------------------------------------------------------

# The command line, with small shards, which kills itself at a call of a function, and writes down
# the step of each training step.
CHILD = """
import os, signal, sys
from distill_lab import cli, knowledge, pipeline, training

PLACES = {
    "train": (training.DistillationTrainer, "compute_loss"),
    "extract": (knowledge, "_write_shard"),
    "evaluate": (pipeline, "measure_cost"),
}
where, number, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv[1:4] = []
knowledge.extract.__kwdefaults__["shard_size"] = 32


def watched(name):
    owner, function = PLACES[name]
    real, calls = getattr(owner, function), 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if name == where and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        step = args[0].state.global_step if name == "train" else calls - 1
        with open(log, "a") as file:
            file.write(f"{name} {step}\\n")
        return real(*args, **kwargs)

    setattr(owner, function, call)


for name in PLACES:
    watched(name)
cli.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_run_killed_in_each_step_goes_on_and_ends_with_the_same_figures(
    small_settings: Settings, tmp_path: Path
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(settings_toml(small_settings), encoding="utf-8")

    def command(out: str, where: str = "", number: int = 0) -> tuple[int, str, list[str]]:
        """Give exit code, what was printed, and what was computed."""
        log = tmp_path / "log"
        log.write_text("")
        arguments = [where or "nowhere", str(number), str(log), "run", "--config", str(config)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments, "--out", str(tmp_path / out)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return done.returncode, done.stdout, log.read_text().splitlines()

    code, _, whole = command("whole")
    assert code == 0
    steps = [int(line.split()[1]) for line in whole if line.startswith("train")]
    starts = [k for k, step in enumerate(steps) if step == 0]
    assert len(starts) == 1 + len(VARIANTS)  # the teacher and the students
    teacher, last, all_students = starts[1], len(steps) - starts[-1], len(steps) - starts[1]
    assert teacher >= 6 and last >= 6

    killed = -signal.SIGKILL
    # In the middle of the teacher's training: it goes on from an epoch's checkpoint.
    code, said, _ = command("cut", "train", teacher - 1)
    assert code == killed and "2 ·" not in said
    # In the middle of the extraction: the shards that are whole are not made again.
    code, said, did = command("cut", "extract", 3)
    assert code == killed and "3 ·" not in said
    assert 0 < int(did[0].split()[1]) < teacher - 1 and "train 0" not in did
    # In the middle of the last student.
    code, said, did = command("cut", "train", all_students - 1)
    assert code == killed and "already fine-tuned" in said and "4 ·" not in said
    made = sum(line.startswith("extract") for line in did)
    assert 0 < made == sum(line.startswith("extract") for line in whole) - 2
    # In the middle of the evaluation.
    code, said, did = command("cut", "evaluate", 3)
    assert code == killed and said.count("is already trained") == 3 and "4 ·" in said
    assert did[0].startswith("train") and did[0] != "train 0"
    code, said, did = command("cut")
    assert code == 0 and not any(line.startswith(("train", "extract")) for line in did)

    assert quality(report_of(tmp_path / "cut")) == quality(report_of(tmp_path / "whole"))
    left = {str(path.relative_to(tmp_path / "cut")) for path in (tmp_path / "cut").rglob("*")}
    assert left == {
        str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").rglob("*")
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no workers")
def test_students_trained_side_by_side_are_those_trained_one_after_another(
    a_copy: Path, small_settings: Settings, tmp_path: Path
) -> None:
    shutil.rmtree(a_copy / "students")
    (a_copy / "report.json").unlink()
    reports, weights = {}, {}
    for at_once in (1, 2):
        folder = Path(shutil.copytree(a_copy, tmp_path / f"{at_once} at once"))
        with threads(at_once):
            reports[at_once] = run(small_settings, folder, at_once=at_once, say=lambda line: None)
        weights[at_once] = [
            load_file(folder / f"students/{variant}-seed0" / "model.safetensors")
            for variant in VARIANTS
        ]
        assert not list(folder.glob("checkpoints*"))
    for ours, theirs in zip(weights[2], weights[1], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for at_once, report in reports.items():
        assert report["environment"]["students_side_by_side"] == at_once


def test_seconds_that_students_share_are_counted_once() -> None:
    def student(name: str, span: tuple[float, float] | None, seconds: float = 0.0) -> _Student:
        return _Student(Path(name), 1, seconds, span)

    beside = [student("a", (0, 100)), student("b", (10, 40)), student("c", (40, 120))]
    assert _waited(beside) == 120
    assert _waited([*beside, student("d", (500, 510))]) == 130
    assert _waited([*beside, student("of an earlier version", None, 7.0)]) == 127
    assert _waited([]) == 0


@pytest.mark.slow
def test_a_csv_of_2000_rows_is_split_by_its_group_column(
    small_settings: Settings, tmp_path: Path
) -> None:
    make: Callable[[int], str] = lambda k: f"{('rose', 'pan', 'wave')[k % 3]} number {k} is one"  # noqa: E731
    rows = [f'"{make(k)}",{"abc"[k % 3]},g{k // 12}-{k % 3}' for k in range(2000)]
    (tmp_path / "rows.csv").write_text("\n".join(["body,topic,speaker", *rows]), encoding="utf-8")
    settings = dataclasses.replace(
        small_settings,
        task=f"csv:{tmp_path / 'rows.csv'}",
        text_column="body",
        label_column="topic",
        group_column="speaker",
        id_column=None,
        teacher_epochs=1,
        epochs=1,
        labelled_epochs=1,
    )
    report = run(settings, tmp_path / "run", say=lambda line: None)
    counts = report["task"]
    assert counts["train"] + counts["validation"] + counts["test"] == 2000
    task = load_task(settings.task, **settings.columns, max_length=24)
    groups = [set(task.split(name)["group"][:]) for name in ("transfer", "validation", "test")]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert counts["test_groups"] == len(groups[2])


# --- the first step alone ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_prepared_teacher_is_made_from_what_a_runs_teacher_is_made_from(
    small_settings: Settings, finished_run: Path, tmp_path: Path
) -> None:
    prepared = prepare_teacher(small_settings, tmp_path / "cache", say=lambda line: None)
    keys = [
        json.loads((folder / "teacher" / "step.json").read_text(encoding="utf-8"))["key"]
        for folder in (tmp_path / "cache", finished_run)
    ]
    assert keys[0] == keys[1] and not prepared.training


def test_a_prepared_teacher_is_loaded_the_second_time(
    small_settings: Settings, a_copy: Path
) -> None:
    said: list[str] = []
    prepare_teacher(small_settings, a_copy, say=said.append)
    assert len(said) == 1 and "already" in said[0]
