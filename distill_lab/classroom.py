"""What the lessons share: the task, the teacher and what is stored of it, and guesses noted.

Everything works without a network. Stored knowledge and results come with the package (``data/``);
the teacher is fine-tuned once per machine, into the user's cache folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_lab.devices import moved, pick_device
from distill_lab.errors import UserError
from distill_lab.exercises.progress import changed_progress, read_progress
from distill_lab.files import data_path, write_json, written_whole
from distill_lab.knowledge import KnowledgeStore
from distill_lab.models import (
    build_student,
    load_teacher,
    load_tokenizer,
    save_model,
    weights_fingerprint,
)
from distill_lab.pipeline import STEP, Settings, key_of, made, prepare_teacher
from distill_lab.tasks import Task, load_task
from distill_lab.training import Schedule, distill, fine_tune

TASK = "bbc-topics"
CACHE_VARIABLE = "DISTILL_LAB_CACHE"
STUDENT_EPOCHS = {"distilled": 2.0, "hard_labels": 4.0}
STORED_SPLITS = ("transfer", "validation", "test")


@cache
def task() -> Task:
    """Give the default task, bbc-topics: sentences of news articles in five topics."""
    return load_task(TASK)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Give the teacher's tokenizer, which the students share."""
    return load_tokenizer("minilm")


@cache
def stored_knowledge(split: str = "transfer") -> KnowledgeStore:
    """Give what a fine-tuned teacher said of every sentence of a split: its logits.

    Args:
        split: ``transfer`` (the labelled sentences are among them), ``validation`` or ``test``.

    Raises:
        UserError: Nothing is stored for such a split.
    """
    if split not in STORED_SPLITS:
        raise UserError(f"no knowledge is stored of {split!r}; choose {', '.join(STORED_SPLITS)}")
    return KnowledgeStore(data_path(f"knowledge/{TASK}/{split}"))


def cache_folder() -> Path:
    """Where the teacher is kept: ``$DISTILL_LAB_CACHE``, else the user's cache folder."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else user_cache_path("distill_lab")


@cache
def fine_tuned_teacher() -> PreTrainedModel:
    """Give the teacher of the default run, fine-tuned on the labelled sentences.

    The first call on a machine trains it (about a minute on two CPU cores, seconds on a GPU) and
    keeps it, about 90 MB, in ``cache_folder()``; later calls load it.

    Returns:
        A classifier in evaluation mode, on the device that ``device="auto"`` gives.
    """
    folder = cache_folder() / TASK
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "teacher").is_dir():
        where = "a minute or two" if pick_device().type == "cpu" else "some seconds"
        print(f"The teacher is fine-tuned once on this machine; that takes {where}.")
    with FileLock(f"{folder}.lock"):  # two notebooks may ask at once
        return prepare_teacher(Settings(task=TASK), folder, say=_silent)


@cache
def trained_student(variant: str = "distilled") -> PreTrainedModel:
    """Give a tiny student, trained once per machine and kept beside the teacher.

    Both start from the same weights, with the teacher's word embeddings cut by SVD.

    Args:
        variant: ``distilled`` took 2 passes over the transfer set, on the stored logits (about a
            minute on two CPU cores); ``hard_labels`` took 4 passes over the labelled sentences.

    Returns:
        A classifier in evaluation mode, on the device that ``device="auto"`` gives.

    Raises:
        UserError: There is no such variant.
    """
    if variant not in STUDENT_EPOCHS:
        raise UserError(f"no student is called {variant!r}; choose {', '.join(STUDENT_EPOCHS)}")
    teacher = fine_tuned_teacher()
    folder = cache_folder() / TASK / "students-of-the-lessons" / variant
    schedule = Schedule(epochs=STUDENT_EPOCHS[variant])
    key = key_of(task().fingerprint, weights_fingerprint(teacher), asdict(schedule))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if made(folder / STEP, key) is None:
            print("This student is trained once on this machine; that takes about a minute.")
            student = build_student(teacher, "tiny", seed=0)
            common: dict[str, Any] = {"schedule": schedule, "what": variant.replace("_", " ")}
            if variant == "distilled":
                distill(student, stored_knowledge("transfer"), task(), tokenizer(), **common)
            else:
                fine_tune(student, task(), tokenizer(), **common)
            with written_whole(folder) as temporary:
                save_model(student, temporary)
                write_json(temporary / STEP, {"key": key})
    student = load_teacher(str(folder), label_names=task().label_names)
    return moved(student, pick_device())


def _silent(line: str) -> None:
    """Say nothing: the lesson's text says what happens."""


# --- stored results ----------------------------------------------------------------------------


def example_classes() -> list[str]:
    """Give the names of the classes of ``example_sentences``, in the order of their logits."""
    return list(_examples()["classes"])


def example_sentences() -> list[dict[str, Any]]:
    """Give sentences of our own, with the logits of the teacher and of four students.

    Returns:
        For each ``text``, ``topic``, ``teacher`` [classes] and ``students``, by variant [classes].
    """
    return list(_examples()["sentences"])


@cache
def _examples() -> dict[str, Any]:
    examples: dict[str, Any] = json.loads(data_path("examples.json").read_text(encoding="utf-8"))
    return examples


def result(name: str) -> dict[str, Any]:
    """Give the stored report of a run too long for a lesson; ``settings`` say how to repeat it.

    Raises:
        UserError: There is no such result.
    """
    try:
        path = data_path(f"results/{name}.json")
    except UserError:
        known = sorted(path.stem for path in data_path("results").glob("*.json"))
        raise UserError(f"no result is called {name!r}; choose {', '.join(known)}") from None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


# --- tables ------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows as a table; numbers in the columns after the first stand on the right.

    Args:
        header: A heading for each column.
        rows: Each with an entry for each column; Markdown and formulas are fine.
    """
    from IPython.display import Markdown, display

    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


# --- guesses -----------------------------------------------------------------------------------


def predict(question: str, guess: Any) -> None:
    """Note a guess before the run that answers it; ``...`` stands for none yet.

    Args:
        question: A name for the question, the same for ``recall``.
        guess: Any value that JSON can hold.
    """
    if guess is ...:
        print("No guess yet: put yours in place of the three dots, and run this cell again.")
        return
    try:
        json.dumps(guess)
    except (TypeError, ValueError):
        print("This guess cannot be noted: give a number, a text, or a list of them.")
        return
    with changed_progress() as kept:
        kept["guesses"][question] = guess
    print(f"Noted: {_said(guess)}. You will be asked to compare.")


def recall(question: str, truth: Any) -> None:
    """Show the guess that was noted beside what came out."""
    guesses = read_progress()["guesses"]
    print(f"You guessed:  {_said(guesses[question]) if question in guesses else 'nothing yet'}")
    print(f"It came out:  {_said(truth)}")


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return str(value)
