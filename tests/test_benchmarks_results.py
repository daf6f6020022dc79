"""Laws of the benchmarks' command line and of the page it writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import growth, main_job, results
from benchmarks.harness import cost, measured, speedup
from benchmarks.results import as_markdown, met, missed, write_results
from distill_lab.errors import UserError

ROOT = Path(__file__).parent.parent
ABOUT = {"seconds": 12.0, "load_before": 0.1}
FOUND: dict[str, Any] = {
    "machine": {"cores": 2},
    "versions": {"python": "3.11.2"},
    "distill_epoch": {
        "vs_textbrewer": speedup([2.0, 2.0], [6.0, 8.0], at_least=3.8, aim=6),
        "vs_plain_loop": cost([2.0, 2.0], [2.0, 2.0], at_most=1.05),
        "quality": {"macro_f1": {"ours": 0.81, "TextBrewer": 0.8}, "setup": "On the test split."},
        "setup": "Both train on the same batches.",
        **ABOUT,
    },
    "startup": {"import": measured([0.1, 0.2], unit="s", at_most=0.3), "setup": "S.", **ABOUT},
}


# --- which rows ---------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_an_unknown_row_is_one_line_and_exit_code_2() -> None:
    done = run("extarct")
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "'extarct'" in line and "extract" in line


def test_list_names_every_row() -> None:
    done = run("--list")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == [*benchmarks.ROWS, *benchmarks.OPTIONAL]


def test_without_names_all_rows_run_but_the_optional() -> None:
    assert benchmarks.chosen([]) == list(benchmarks.ROWS)
    assert benchmarks.chosen(["startup", "torchdistill", "extract"]) == [
        "extract",
        "startup",
        "torchdistill",
    ]


@pytest.mark.parametrize("name", benchmarks.ROWS)
def test_each_row_has_a_module(name: str) -> None:
    assert importlib.util.find_spec(f"benchmarks.{benchmarks.MODULES.get(name, name)}") is not None


# --- putting together ---------------------------------------------------------------------------


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give a function that runs ``python -m benchmarks`` on rows that give what they are told."""
    monkeypatch.setattr("benchmarks.machine.machine", lambda: {"cores": 2})

    def measure(found: dict[str, dict[str, Any]], *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(benchmarks, "run_row", lambda name, quick=False: found[name])
        monkeypatch.setattr(sys, "argv", ["benchmarks", *found, "--out", str(tmp_path), *arguments])
        benchmarks.main()
        read: dict[str, Any] = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        return read

    return measure


def startup(value: float) -> dict[str, Any]:
    return {"startup": {"import": measured([value], unit="s", at_most=0.3), **ABOUT}}


def test_a_row_run_alone_keeps_the_others(measuring: Any) -> None:
    first = measuring({"startup": startup(0.1), "fine_tune": {"fine_tune": {"note": 1, **ABOUT}}})
    then = measuring({"startup": startup(0.2)})
    assert then["fine_tune"] == first["fine_tune"]
    assert then["startup"]["import"]["value"] == 0.2


def test_a_row_that_fails_leaves_the_others_and_ends_with_1(
    measuring: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring({"fine_tune": {"fine_tune": {"note": 1, **ABOUT}}})
    with pytest.raises(SystemExit) as ended:
        measuring({"fine_tune": {}, "startup": startup(0.1)})
    assert ended.value.code == 1
    assert "error: no figures of fine_tune" in capsys.readouterr().err
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["fine_tune"]["note"] == 1 and "startup" in written


def test_figures_of_two_machines_never_stand_in_one_file(
    measuring: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring({"startup": startup(0.1)})
    monkeypatch.setattr("benchmarks.machine.machine", lambda: {"cores": 4})
    with pytest.raises(SystemExit) as ended:
        measuring({"startup": startup(0.2)})
    assert ended.value.code == 2
    assert "of another machine (cores differ)" in capsys.readouterr().err


def test_a_quick_trial_does_not_touch_the_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.machine.machine", lambda: {"cores": 2})
    monkeypatch.setattr(benchmarks, "run_row", lambda name, quick: startup(0.1))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "startup", "--quick"])
    benchmarks.main()
    assert not (tmp_path / benchmarks.FOLDER).exists()
    assert (tmp_path / benchmarks.TRIAL_FOLDER / "RESULTS.md").is_file()


# --- goals --------------------------------------------------------------------------------------


def test_a_least_goal_is_met_from_above_and_a_most_goal_from_below() -> None:
    assert met(speedup([1.0], [3.8], at_least=3.8)) is True
    assert met(speedup([1.0], [3.7], at_least=3.8)) is False
    assert met(cost([1.05], [1.0], at_most=1.05)) is True
    assert met(cost([1.06], [1.0], at_most=1.05)) is False
    assert met(measured([0.98], unit="", at_least=0.99)) is False
    assert met(measured([float("nan")], unit="", at_most=1.0)) is False
    assert met(measured([0.98], unit="")) is None


def test_every_missed_goal_is_said_to_be_missed() -> None:
    [line] = missed(FOUND)
    assert line == "distill_epoch.vs_textbrewer: 3.5, goal ≥ 3.8 (aim 6) missed"
    page = as_markdown(FOUND)
    verdicts = {
        cells[1].strip().strip("`"): cells[-2].strip()
        for cells in (row.split("|") for row in page.splitlines() if row.startswith("| `"))
    }
    assert verdicts == {
        "distill_epoch.vs_textbrewer": "**missed**",
        "distill_epoch.vs_plain_loop": "yes",
        "startup.import": "yes",
    }
    assert "Of 3 goals, 1 is missed." in page


def test_the_page_says_how_each_row_was_set_up_and_on_what() -> None:
    page = as_markdown(FOUND)
    assert "Both train on the same batches." in page
    assert "On the test split." in page
    assert "| 0.81 | 0.8 |" in page
    assert "| cores | 2 |" in page
    assert "| python | 3.11.2 |" in page


def test_what_a_trial_found_is_no_result() -> None:
    tried = {"startup": FOUND["startup"] | {"quick": True}}
    assert "no results: startup" in as_markdown(tried)
    assert "no results" not in as_markdown(FOUND)


# --- growth and the main job --------------------------------------------------------------------


def grown(power: float) -> dict[str, dict[int, dict[str, float]]]:
    sizes = {
        size: {"seconds": (size / 1000) ** power, "peak_memory_bytes": 1e6 * (900 + size / 1000)}
        for size in growth.SIZES
    }
    return {part: sizes for part in growth.PARTS}


@pytest.mark.parametrize(("power", "verdict"), [(1.0, True), (1.04, True), (1.1, False)])
def test_the_slope_is_the_power_by_which_seconds_grow(power: float, verdict: bool) -> None:
    record = growth.entry(grown(power))["extract"]["slope"]
    assert record["value"] == pytest.approx(power, abs=1e-3)
    assert met(record) is verdict


def test_memory_is_that_of_the_largest_over_the_next_smaller() -> None:
    record = growth.entry(grown(1.0))["distill"]["memory"]
    assert record["ratio"] == pytest.approx(980 / 920, abs=1e-3)


def test_the_page_says_of_each_ratio_whether_more_is_faster_or_dearer() -> None:
    page = as_markdown(FOUND)
    assert "| 3.5 × as fast |" in page
    assert "| 1 × as much |" in page


def job(before: dict[str, Any]) -> dict[str, Any]:
    report = {
        "seconds": {"teacher": 40.0, "extract": 60.0, "students": 90.0, "total": 190.0},
        "retention": {"macro_f1": 0.985},
        "environment": {"peak_memory_bytes": 1_200_000_000},
    }
    return main_job.entry(report, 199.0, before)


def test_the_main_job_has_its_two_goals_and_is_set_beside_what_it_was() -> None:
    entry = job({"seconds": {"students": 150.0, "total": 247.0}, "retention_macro_f1": 0.99})
    assert met(entry["total"]) is True
    assert met(entry["retention_macro_f1"]) is False
    assert entry["vs_before"]["ratio"] == pytest.approx(247 / 190, abs=1e-3)
    assert list(entry["seconds_by_step"]) == ["before", "now"]
    assert "vs_before" not in job({})


# --- figures ------------------------------------------------------------------------------------


def test_each_figure_is_in_the_page_with_its_text_alternative(tmp_path: Path) -> None:
    found = FOUND | {
        "growth": growth.entry(grown(1.0)) | ABOUT,
        "main_job": job({"seconds": {"students": 150.0, "total": 247.0}}) | ABOUT,
    }
    write_results(found, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == ["growth.png", "main_job.png", "ratios.png"]
    for name in files:
        [line] = [line for line in page.splitlines() if line.endswith(f"](figures/{name})")]
        assert len(line) > 100
    assert not list(tmp_path.rglob("*.part"))


def test_what_was_not_measured_is_not_drawn() -> None:
    assert results.draw_figures({"machine": {}}) == {}
    assert list(results.draw_figures(FOUND)) == ["ratios"]


def test_a_wrong_name_is_told_with_all_names() -> None:
    with pytest.raises(UserError, match="choose distill, extract"):
        benchmarks.chosen(["distil"])
