"""What the lessons share: stored knowledge that fits the task, results, and noted guesses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill_lab import classroom
from distill_lab.errors import UserError
from distill_lab.files import data_path
from distill_lab.models import processor_fingerprint
from distill_lab.report import load_report


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILL_LAB_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("split", classroom.STORED_SPLITS)
def test_stored_knowledge_is_of_this_task_and_this_tokenizer(split: str) -> None:
    store, task = classroom.stored_knowledge(split), classroom.task()
    rows = task.split(split)
    store.check(rows, processor=classroom.tokenizer(), max_length=task.max_length)
    assert len(store) == len(rows)
    assert store.classes == list(task.label_names) and store.features == ("logits",)


def test_all_splits_were_asked_of_one_teacher() -> None:
    stores = [classroom.stored_knowledge(split) for split in classroom.STORED_SPLITS]
    assert len({store.fingerprint["teacher"] for store in stores}) == 1


def test_stored_logits_are_a_good_teachers() -> None:
    task, store = classroom.task(), classroom.stored_knowledge("test")
    guesses = store.logits(task.test["id"][:]).argmax(-1)
    accuracy = (guesses == torch.tensor(task.test["label"][:])).double().mean().item()
    report = classroom.result("five_seeds")
    assert accuracy == pytest.approx(report["teacher"]["accuracy"], abs=0.005)  # bfloat16


def test_stored_knowledge_is_small() -> None:
    size = sum(path.stat().st_size for path in data_path("knowledge").rglob("*") if path.is_file())
    assert size < 1_500_000


def test_an_unknown_split_or_result_is_told() -> None:
    with pytest.raises(UserError, match="transfer, validation, test"):
        classroom.stored_knowledge("train")
    with pytest.raises(UserError, match="five_seeds"):
        classroom.result("six_seeds")


def test_results_are_whole_reports_without_a_machines_name() -> None:
    report = classroom.result("five_seeds")
    load_report(data_path("results/five_seeds.json"))
    assert len(report["students"]["distilled"]["accuracy"]["values"]) == 5
    assert report["settings"]["task"] == classroom.TASK


def test_example_sentences_have_answers_of_all_models() -> None:
    classes = classroom.example_classes()
    assert classes == list(classroom.task().label_names)
    for example in classroom.example_sentences():
        assert example["topic"] in classes and len(example["teacher"]) == len(classes)
        assert set(example["students"]) == {
            "hard_labels",
            "label_smoothing",
            "distilled_same_data",
            "distilled",
        }


def test_example_sentences_are_not_the_data_sets() -> None:
    ours = {example["text"].casefold() for example in classroom.example_sentences()}
    task = classroom.task()
    for split in classroom.STORED_SPLITS:
        assert not ours & {text.casefold() for text in task.split(split)["text"][:]}


def test_a_guess_is_recalled(capsys: pytest.CaptureFixture[str]) -> None:
    classroom.predict("order", ["a", "b"])
    classroom.recall("order", ["b", "a"])
    out = capsys.readouterr().out
    assert "a, b" in out and "b, a" in out


@pytest.mark.parametrize("guess", [..., object()])
def test_no_guess_is_asked_for_and_not_noted(
    guess: object, capsys: pytest.CaptureFixture[str], data_folder: Path
) -> None:
    classroom.predict("order", guess)
    classroom.recall("order", 3)
    assert "nothing yet" in capsys.readouterr().out and not list(data_folder.iterdir())


def test_the_teacher_is_kept_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_LAB_CACHE", str(tmp_path / "cache"))
    assert classroom.cache_folder() == tmp_path / "cache"


def test_the_tokenizer_is_the_one_that_made_the_store() -> None:
    made = classroom.stored_knowledge("validation").fingerprint["tokenizer"]
    assert processor_fingerprint(classroom.tokenizer()) == made
