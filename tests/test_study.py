"""Laws of a study: arms differ in what the file says alone, are trained once, and are compared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import threads
from rich.console import Console

from distill_lab import study as studies
from distill_lab.course.stored import store_study
from distill_lab.errors import UserError
from distill_lab.evaluation import seeds_interval
from distill_lab.files import data_path
from distill_lab.pipeline import Settings
from distill_lab.study import Study, read_study, run_study, study_table


def quiet(line: str) -> None:
    pass


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


ARMS = '[arms.soft]\n[arms.hard]\ntargets = "labels"\n'


@pytest.fixture(scope="module")
def plan(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three arms of three seeds, each a training of less than a second."""
    shared = {k: v for k, v in small_settings.given.items() if k not in studies.NOT_AN_ARMS}
    lines = [f"{k} = {json.dumps(v)}" for k, v in shared.items()]
    text = "\n".join(
        [
            'question = "Does the teacher help?"',
            "seeds = 3",
            'baseline = "hard"',
            "[settings]",
            *lines,
            "[arms.hard]",
            'label = "hard labels"',
            'targets = "labels"',
            "[arms.soft]",
            'label = "distilled"',
            "[arms.states]",
            'objective = "soft+hidden_states=1"',
        ]
    )
    return read_study(write(tmp_path_factory.mktemp("study") / "help.toml", text))


@pytest.fixture(scope="module")
def finished(plan: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "help"
    run_study(plan, folder, say=quiet)
    return folder


@pytest.fixture
def result(finished: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((finished / "study.json").read_text(encoding="utf-8"))
    return read


def test_arms_share_the_settings_and_change_only_their_own(plan: Study) -> None:
    hard, soft, states = plan.arms
    assert (hard.targets, soft.targets) == ("labels", "teacher") and hard.settings == soft.settings
    assert states.label == "states" and states.settings.objective == "soft+hidden_states=1"
    assert states.settings.epochs == soft.settings.epochs


@pytest.mark.slow
def test_every_arm_has_an_interval_over_its_seeds(result: dict[str, Any]) -> None:
    assert list(result["arms"]) == ["hard", "soft", "states"] and result["seeds"] == [0, 1, 2]
    for arm in result["arms"].values():
        for metric in ("accuracy", "macro_f1"):
            values = arm[metric]["values"]
            assert len(values) == 3
            assert arm[metric]["mean"] == pytest.approx(np.mean(values))
            assert arm[metric]["low"] == pytest.approx(seeds_interval(values).low)
        assert len(arm["validation"]) == 3 and arm["steps"] > 0 and arm["seconds"] > 0


@pytest.mark.slow
def test_an_arm_with_a_teacher_says_what_it_is_worth(result: dict[str, Any]) -> None:
    assert "teacher" not in result["arms"]["hard"]
    soft = result["arms"]["soft"]["teacher"]
    assert soft == result["arms"]["states"]["teacher"] and 0 < soft["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no workers")
def test_students_trained_side_by_side_are_those_trained_one_after_another(
    plan: Study, finished: Path, tmp_path: Path
) -> None:
    made = {}
    for at_once in (1, 2):
        folder = Path(shutil.copytree(finished, tmp_path / f"{at_once} at once"))
        shutil.rmtree(folder / "results")
        with threads(at_once):
            result = run_study(plan, folder, at_once=at_once, say=quiet)
        assert result["environment"]["students_side_by_side"] == at_once
        for arm in result["arms"].values():
            arm.pop("seconds")
            arm.pop("teacher", None)  # which is measured here, with as many threads
        made[at_once] = result["arms"]
    assert made[2] == made[1]


@pytest.mark.slow
def test_gains_are_paired_by_seed_and_in_points(result: dict[str, Any]) -> None:
    arms = result["arms"]
    assert "gain" not in arms["hard"]
    for name in ("soft", "states"):
        pairs = zip(
            arms[name]["accuracy"]["values"], arms["hard"]["accuracy"]["values"], strict=True
        )
        expected = seeds_interval([100 * (a - b) for a, b in pairs])
        assert arms[name]["gain"] == pytest.approx(expected.as_dict())


@pytest.mark.slow
def test_students_of_an_arm_differ_by_seed_alone(result: dict[str, Any]) -> None:
    steps = {arm["steps"] for arm in result["arms"].values()}
    assert len(steps) == 1  # the same passes over the same data
    assert len({str(epochs) for epochs in result["arms"]["soft"]["validation"]}) > 1


@pytest.mark.slow
def test_a_finished_study_trains_nothing_again(
    plan: Study, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "study.json").read_bytes()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    for name in ("distill", "fine_tune", "evaluate"):
        monkeypatch.setattr(studies, name, refuse)
    run_study(plan, finished, say=quiet)
    assert (finished / "study.json").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_study_trains_what_is_missing(
    plan: Study, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    lost = folder / "results" / "soft-seed1.json"
    lost.unlink()
    said: list[str] = []
    run_study(plan, folder, say=said.append)
    trained = [line for line in said if " of 9 · " in line and "already" not in line]
    assert trained == ["5 of 9 · distilled, seed 1"] and lost.is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[arms.one]\n", "two arms or more"),
        ("seeds = 2\n" + ARMS, "3 or more"),
        ('baseline = "none"\n' + ARMS, "'none'"),
        (ARMS + "tempreature = 3\n", "'tempreature'"),
        (ARMS + 'epochs = "three"\n', "epochs is 'three'; expected float"),
        (ARMS + "seeds = 3\n", "'seeds'"),
        ('[arms.a]\n[arms.b]\ntargets = "both"\n', "teacher or labels"),
        ('[arms.a]\n[arms.b]\ndata = "test"\n', "labelled or transfer"),
        ("settings = 3\n" + ARMS, "settings] is 3; expected a table"),
        ("[arms]\na = {}\nb = 3\n", "arms.b] is 3; expected a table"),
        ('baseline = ["a"]\n' + ARMS, "no arm is called"),
        ("title = 1\n" + ARMS, "unknown key 'title'"),
        ("[arms", "no valid TOML"),
        ("[arms.a]\n[arms.b]\ntemperature = -1\n", "temperature is -1"),
    ],
)
def test_a_file_that_says_nonsense_is_refused_in_a_line(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_study(write(tmp_path / "bad.toml", text))
    assert "\n" not in str(error.value)


def test_a_label_may_be_a_number(tmp_path: Path) -> None:
    plan = read_study(write(tmp_path / "s.toml", "[arms.a]\nlabel = 8\n[arms.b]\n"))
    assert [arm.label for arm in plan.arms] == ["8", "b"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study can be read"):
        read_study(tmp_path / "none.toml")


def test_arms_of_different_tasks_are_refused(tmp_path: Path) -> None:
    plan = read_study(write(tmp_path / "s.toml", "[arms.a]\n[arms.b]\nmax_length = 9\n"))
    with pytest.raises(UserError, match="same for all arms"):
        run_study(plan, tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_table_has_a_line_an_arm(result: dict[str, Any]) -> None:
    console = Console(width=200, record=True)
    console.print(study_table(result))
    text = console.export_text()
    assert all(arm["label"] in text for arm in result["arms"].values())
    assert "Does the teacher help?" in text and "points over hard labels" in text


@pytest.mark.parametrize("path", sorted(data_path("studies").glob("*.toml")), ids=lambda p: p.stem)
def test_the_courses_own_studies_can_be_read(path: Path) -> None:
    assert read_study(path).seeds >= 3


@pytest.mark.slow
def test_a_stored_study_says_which_command_made_it(finished: Path, tmp_path: Path) -> None:
    store_study(finished, tmp_path)
    stored = json.loads((tmp_path / "results" / "help.json").read_text(encoding="utf-8"))
    assert stored["command"] == "distill-lab study data/studies/help.toml"
    assert stored["arms"].keys() == {"hard", "soft", "states"}
    with pytest.raises(UserError, match="no finished study"):
        store_study(tmp_path / "none", tmp_path)
