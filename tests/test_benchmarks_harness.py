"""Laws of the benchmarks' frame: turns, ratios, records, and the command line of a row."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.harness import cost, interleaved, measured, peak_memory, reset_peak_memory, speedup
from distill_lab.errors import UserError

MB = 2**20


def test_sides_take_turns_in_the_order_they_are_given() -> None:
    turns: list[str] = []
    seconds = interleaved(
        {"ours": lambda: turns.append("ours"), "theirs": lambda: turns.append("theirs")}, 3
    )
    assert turns == ["ours", "theirs"] * 4
    assert {name: len(taken) for name, taken in seconds.items()} == {"ours": 3, "theirs": 3}


def test_the_warm_up_can_be_left_out_and_never_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([9.0, 1.0, 2.0])
    monkeypatch.setattr(harness, "timed", lambda work: next(took))
    assert interleaved({"ours": lambda: None}, 2) == {"ours": [1.0, 2.0]}
    took = iter([3.0, 4.0])
    assert interleaved({"ours": lambda: None}, 2, warm_up=False) == {"ours": [3.0, 4.0]}


def test_a_cost_is_ours_over_theirs_and_a_speedup_theirs_over_ours() -> None:
    ours, theirs = [2.0, 2.0, 2.0], [8.0, 8.0, 8.0]
    assert cost(ours, theirs)["ratio"] == 0.25
    assert speedup(ours, theirs)["ratio"] == 4.0


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    ours, theirs = [1.0, 2.0, 30.0], [4.0, 6.0, 30.0]
    assert speedup(ours, theirs, at_least=3.8, aim=6) == {
        "kind": "speedup",
        "ratio": 3.0,
        "ours": 2.0,
        "theirs": 6.0,
        "unit": "s",
        "spread": [1.0, 4.0],
        "repeats": 3,
        "goal": {"at_least": 3.8},
        "aim": 6,
    }
    assert cost(ours, theirs, at_most=1.05)["spread"] == [0.25, 1.0]


def test_sides_with_unequal_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError):
        cost([1.0, 2.0], [1.0])


def test_what_has_no_peer_is_a_value_with_its_spread() -> None:
    assert measured([0.3, 0.1, 0.2], unit="s", at_most=0.3) == {
        "value": 0.2,
        "unit": "s",
        "spread": [0.1, 0.3],
        "repeats": 3,
        "goal": {"at_most": 0.3},
    }
    assert "goal" not in measured([1.0], unit="s")


@pytest.mark.skipif(not harness.CLEAR_REFS.exists(), reason="this system keeps the peak for good")
def test_peak_memory_sees_what_is_given_back_and_can_forget_it() -> None:
    reset_peak_memory()
    before = peak_memory()
    bytearray(200 * MB)
    assert peak_memory() > before + 150 * MB
    reset_peak_memory()
    assert peak_memory() < before + 100 * MB


@pytest.mark.skipif(not harness.STATUS.is_file(), reason="this system tells no program's own peak")
def test_peak_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    large = bytearray(300 * MB)
    code = "from benchmarks.harness import peak_memory; print(peak_memory())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    del large
    assert int(told.stdout) < 200 * MB


# --- a row's command line -----------------------------------------------------------------------


def run_row(monkeypatch: pytest.MonkeyPatch, *arguments: str, measure: Any = None) -> None:
    monkeypatch.setattr(sys, "argv", ["row", *arguments])
    harness.row(measure or (lambda options: {"startup": {"import": measured([0.1], unit="s")}}))


def test_a_row_prints_and_writes_its_entries_with_seconds_and_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "row.json"
    run_row(monkeypatch, "--out", str(out))
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written == json.loads(capsys.readouterr().out)
    assert written["startup"]["import"]["value"] == 0.1
    assert written["startup"]["seconds"] >= 0
    assert written["startup"]["load_before"] >= 0


def test_what_a_quick_trial_found_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_row(monkeypatch, "--quick")
    assert json.loads(capsys.readouterr().out)["startup"]["quick"] is True
    run_row(monkeypatch)
    assert "quick" not in json.loads(capsys.readouterr().out)["startup"]


def test_a_mistake_in_a_row_is_one_line_exit_code_2_and_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: argparse.Namespace) -> dict[str, Any]:
        raise UserError("no such peer; install it")

    out = tmp_path / "row.json"
    with pytest.raises(SystemExit) as ended:
        run_row(monkeypatch, "--out", str(out), measure=refuse)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such peer; install it\n"
    assert not out.exists()
