"""What the lessons have in store is made from a finished run of the default task alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distill_lab.course.stored import SENTENCES, store_deployment, store_run
from distill_lab.errors import UserError


def test_a_run_of_another_task_is_refused_and_nothing_is_written(
    finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="bbc-topics"):
        store_run(finished_run, tmp_path / "data", name="other")
    assert not (tmp_path / "data").exists()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no report"):
        store_run(tmp_path, tmp_path / "data", name="none")


def test_every_topic_has_sentences_of_ours() -> None:
    topics = {topic for _, topic in SENTENCES}
    assert topics == {"business", "entertainment", "politics", "sports", "tech"}


def test_a_run_whose_student_is_not_exported_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not exported"):
        store_deployment([finished_run], tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_deployment_table_has_a_row_for_each_format(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    figures = {
        "bytes": 9,
        "throughput": 5.0,
        "latency_ms": {"p50": 1.0, "p95": 2.0},
        "accuracy": 0.5,
        "max_abs_difference": 0.0,
        "agreement": 1.0,
        "teacher_throughput": 4.0,
        "speedup": 1.25,
        "compression": 2.0,
    }
    report["exports"] = {"onnx": figures, "onnx_int8": figures | {"bytes": 3}}
    (run / "report.json").write_text(json.dumps(report), encoding="utf-8")
    store_deployment([run], tmp_path / "data")
    stored = json.loads((tmp_path / "data/results/deployment.json").read_text(encoding="utf-8"))
    formats = [row["format"] for row in stored["models"]]
    assert formats == ["torch float32", "torch float32", "onnx float32", "onnx int8"]
    assert stored["models"][0]["throughput"] == 4.0 and stored["models"][3]["bytes"] == 3
    first = report["students"]["distilled"]["accuracy"]["values"][0]
    assert stored["models"][1]["accuracy"] == first
