"""What the tests share: a small task of sentences made here, and small models for it."""

from __future__ import annotations

import copy
import csv
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from distill_lab.pipeline import Settings, run
from distill_lab.tasks import Task, load_task


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOPICS = {
    "garden": _words("rose tulip fern moss seed soil spade hedge bee lawn"),
    "kitchen": _words("pan spoon bread soup salt oven plate onion knife butter"),
    "sea": _words("wave sail gull tide shell anchor reef storm crab harbour"),
}
SUBJECTS = _words("we they you nobody everybody")
VERBS = _words("saw found lost liked drew wanted")
LINKS = _words("near under with beside before")
EXTRAS = _words("today again slowly at last in the morning")
SENTENCES_A_TOPIC = 60
SENTENCES_A_GROUP = 3
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys(w for words in TOPICS.values() for w in words),
    *dict.fromkeys((*SUBJECTS, *VERBS, *LINKS, *EXTRAS, "a", "the", "and", "one", ".", ",")),
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    *"bdefghijklmnoprstuvwy",
]


def sentences(seed: int = 0) -> list[dict[str, str]]:
    """Make rows of short sentences; their length varies from six to twelve words."""
    draw = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    for topic, nouns in TOPICS.items():
        made = 0
        while made < SENTENCES_A_TOPIC:
            one, two, three = draw.sample(nouns, 3)
            text = f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} the {one} {draw.choice(LINKS)} "
            text += draw.choice((f"a {two}", f"the {two}, and one {three}", f"{two}s and {three}s"))
            text += draw.choice(("", f" {' '.join(EXTRAS[: draw.randint(1, 4)])}")) + "."
            if text in rows:
                continue
            group = f"{topic}-{made // SENTENCES_A_GROUP:02d}"
            rows[text] = {"text": text, "label": topic, "group": group, "id": f"{topic}-{made:03d}"}
            made += 1
    return list(rows.values())


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as a CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def small_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small task's file: 180 sentences, 3 topics, groups of 3."""
    return write_csv(tmp_path_factory.mktemp("task") / "topics.csv", sentences())


@pytest.fixture(scope="session")
def small_task(small_csv: Path) -> Task:
    """The small task: 3 classes, 126 transfer rows of which 63 are labelled, at most 24 tokens.

    Nothing changes a task, so all tests share one.
    """
    return load_task(
        f"csv:{small_csv}",
        group_column="group",
        id_column="id",
        max_length=24,
        labelled_groups=21,
    )


@pytest.fixture(scope="session")
def _tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(file), do_lower_case=True, model_max_length=64)


@pytest.fixture
def small_tokenizer(_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of about 100 pieces, one of its own for each test."""
    return copy.deepcopy(_tokenizer)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch have so many threads, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def small_bert(
    *, layers: int = 4, width: int = 32, heads: int = 4, classes: tuple[str, ...] = tuple(TOPICS)
) -> PreTrainedModel:
    """Make a BERT classifier without dropout, drawn from torch's seed, in evaluation mode.

    Its weights are drawn wider than BERT's usual 0.02, so that classes, layers and attention maps
    differ clearly between examples.
    """
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        id2label=dict(enumerate(classes)),
        label2id={name: k for k, name in enumerate(classes)},
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="session")
def _teacher() -> PreTrainedModel:
    set_seed(1)
    return small_bert()


@pytest.fixture(scope="session")
def _student() -> PreTrainedModel:
    set_seed(2)
    return small_bert(layers=2, width=16, heads=2)


@pytest.fixture
def small_teacher(_teacher: PreTrainedModel) -> PreTrainedModel:
    """A classifier of 4 layers × 32, 4 heads, no dropout: a copy of its own for each test."""
    return copy.deepcopy(_teacher)


@pytest.fixture
def small_student(_student: PreTrainedModel) -> PreTrainedModel:
    """A classifier of 2 layers × 16, 2 heads, no dropout: a copy of its own for each test."""
    return copy.deepcopy(_student).train()


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory, _tokenizer: Any) -> Path:
    """Folder of an encoder without a head, 2 layers × 32, and its tokenizer."""
    set_seed(3)
    folder = tmp_path_factory.mktemp("encoder")
    small_bert(layers=2, heads=2).base_model.save_pretrained(folder)
    _tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_size(tmp_path_factory: pytest.TempPathFactory, _tokenizer: Any) -> Path:
    """Folder whose configuration, 1 layer × 16, a student takes."""
    folder = tmp_path_factory.mktemp("size")
    small_bert(layers=1, width=16, heads=2).base_model.save_pretrained(folder)
    _tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def half_labelled_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small task's file with no label in every other group."""
    rows = sentences()
    for row in rows:
        row["label"] *= int(row["group"][-1]) % 2
    return write_csv(tmp_path_factory.mktemp("half") / "half.csv", rows)


@pytest.fixture(scope="session")
def small_settings(half_labelled_csv: Path, small_encoder: Path, small_size: Path) -> Settings:
    """Settings of a run that takes about a second."""
    return Settings(
        task=f"csv:{half_labelled_csv}",
        group_column="group",
        id_column="id",
        teacher=str(small_encoder),
        teacher_epochs=12,
        teacher_learning_rate=1e-2,
        teacher_frozen=0.0,
        student=str(small_size),
        epochs=6,
        labelled_epochs=6,
        learning_rate=2e-2,
        max_length=24,
        dtype="float32",
    )


@pytest.fixture(scope="session")
def finished_run(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; copy it before you change anything in it."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    run(small_settings, folder, say=lambda line: None)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a course of one small lesson, not built; the registry knows no other."""
    from test_course_build import LESSON, SOURCE

    from distill_lab.exercises import registry

    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "09_numbers.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "lessons", lambda: (LESSON,))
    return tmp_path
