"""Laws of prediction: both models side by side, texts shown and written as they are."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from distill_lab.errors import UserError
from distill_lab.evaluation import evaluate
from distill_lab.prediction import (
    Pair,
    Predictions,
    load_pair,
    predict_texts,
    prediction_table,
    write_csv,
)
from distill_lab.tasks import load_task, read_texts

ODD = ["we saw the [red]rose[/red] near [/bold]", r"a \[fern] under the moss\\", 'a, "shell"\nwave']


@pytest.fixture(scope="module")
def pair(finished_run: Path) -> Pair:
    return load_pair(finished_run)


def printed(texts: list[str], pair: Pair, predictions: Predictions) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(prediction_table(texts, pair.label_names, predictions))
    return capture.get()


def test_each_row_of_probabilities_sums_to_one(pair: Pair) -> None:
    for found in predict_texts(pair, ODD):
        assert found.shape == (3, 3)
        assert torch.allclose(found.sum(1), torch.ones(3), atol=1e-6)


def test_predictions_are_those_that_the_report_counts(
    finished_run: Path, half_labelled_csv: Path, pair: Pair
) -> None:
    task = load_task(
        f"csv:{half_labelled_csv}", group_column="group", id_column="id", max_length=24
    )
    found = predict_texts(pair, task.test["text"][:])
    report = json.loads((finished_run / "report.json").read_text(encoding="utf-8"))
    right = torch.tensor(task.test["label"][:])
    accuracy = {
        "teacher": report["teacher"]["accuracy"],
        "student": report["students"]["distilled"]["accuracy"]["mean"],
    }
    for name, value in accuracy.items():
        chosen = getattr(found, name).argmax(1)
        assert (chosen == right).double().mean().item() == pytest.approx(value)
    again = evaluate(pair.student, task, pair.processor)
    assert torch.allclose(torch.from_numpy(again.probabilities).float(), found.student, atol=1e-5)


def test_square_brackets_are_shown_as_they_are(pair: Pair) -> None:
    shown = printed(ODD, pair, predict_texts(pair, ODD))
    assert "[red]rose[/red] near [/bold]" in shown and r"\[fern] under the moss\\" in shown


def test_the_table_puts_the_teachers_first_choice_first(pair: Pair) -> None:
    found = predict_texts(pair, ["a shell near the wave"])
    rows = [line for line in printed(["a shell"], pair, found).splitlines() if "%" in line]
    order = [name for row in rows for name in pair.label_names if name in row]
    best = found.teacher[0].argsort(descending=True)
    assert order == [pair.label_names[k] for k in best.tolist()]


def test_a_csv_is_read_back_equal(pair: Pair, tmp_path: Path) -> None:
    found = predict_texts(pair, ODD)
    path = tmp_path / "out.csv"
    write_csv(path, ODD, pair.label_names, found)
    assert read_texts(path, "text") == ODD  # what was written can be classified again
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for k, row in enumerate(rows):
        assert row["teacher"] == pair.label_names[int(found.teacher[k].argmax())]
        for c, name in enumerate(pair.label_names):
            value = float(row[f"student_{name}"])
            assert value == pytest.approx(found.student[k, c].item(), abs=1e-6)


def test_an_empty_text_is_refused(pair: Pair) -> None:
    with pytest.raises(UserError, match="text 2 is empty"):
        predict_texts(pair, ["a rose", "  "])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config"):
        load_pair(tmp_path)


@pytest.mark.parametrize("lost", ["report.json", "students", "teacher"])
def test_an_unfinished_run_is_refused(lost: str, finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    with pytest.raises(UserError, match="is not finished"):
        load_pair(run)


def test_a_run_begun_again_with_other_settings_is_unfinished(
    finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = run / "config.toml"
    config.write_text(config.read_text("utf-8").replace("alpha = 1.0", "alpha = 0.5"), "utf-8")
    with pytest.raises(UserError, match="is not finished"):
        load_pair(run)


def test_an_unknown_seed_is_refused(finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"no student of seed 7; there are \[0\]"):
        load_pair(finished_run, seed=7)
