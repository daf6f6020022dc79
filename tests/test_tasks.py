"""The laws of tasks: splits by group, no text twice, and user's mistakes told in one line."""

from __future__ import annotations

import copy
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lab import tasks
from distill_lab.errors import UserError
from distill_lab.tasks import SPLITS, UNLABELLED, Task, build_bbc_manifest, load_task

ANIMALS = ("cat", "dog", "owl")


def rows_of(
    count: int = 60, classes: Sequence[str] = ANIMALS, rows_a_group: int = 2
) -> list[dict[str, Any]]:
    """Make rows with ids, groups of one class each, and texts that all differ."""
    return [
        {
            "key": f"k{n:04d}",
            "text": f"Sentence {n} is about a {classes[n // rows_a_group % len(classes)]}.",
            "label": classes[n // rows_a_group % len(classes)],
            "source": f"page-{n // rows_a_group:03d}",
        }
        for n in range(count)
    ]


def write_csv(folder: Path, rows: Sequence[dict[str, Any]], name: str = "rows.csv") -> str:
    path = folder / name
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return f"csv:{path}"


def write_text(folder: Path, text: str | bytes, name: str = "rows.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"{name.rpartition('.')[2].replace('jsonl', 'json')}:{path}"


def membership(task: Task) -> dict[str, set[str]]:
    return {name: set(task.split(name)["text"][:]) for name in SPLITS}


def assert_refused(pattern: str, spec: str, **options: Any) -> str:
    with pytest.raises(UserError, match=pattern) as caught:
        load_task(spec, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.fixture(scope="module")
def bbc() -> Task:
    return load_task()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "Sentence", "is", "about", "a", *ANIMALS, "."]
    core = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )


# --- splits ------------------------------------------------------------------------------------


def test_no_group_stands_in_two_splits(tmp_path: Path, bbc: Task) -> None:
    own = load_task(write_csv(tmp_path, rows_of()), group_column="source")
    for task in (own, bbc):
        train, validation, test = (
            set(task.split(s)["group"][:]) for s in ("transfer", "validation", "test")
        )
        assert not train & validation and not train & test and not validation & test
        assert set(task.labelled["group"][:]) <= train


def test_no_text_stands_in_two_splits_or_twice_in_one(bbc: Task) -> None:
    texts = [
        " ".join(t.split()).casefold()
        for name in ("transfer", "validation", "test")
        for t in bbc.split(name)["text"][:]
    ]
    assert len(set(texts)) == len(texts)


def test_ids_are_unique_and_labelled_rows_are_transfer_rows(bbc: Task) -> None:
    ids = [i for name in ("transfer", "validation", "test") for i in bbc.split(name)["id"][:]]
    assert len(set(ids)) == len(ids)
    transfer = dict(zip(bbc.transfer["id"][:], bbc.transfer["label"][:], strict=True))
    labelled = dict(zip(bbc.labelled["id"][:], bbc.labelled["label"][:], strict=True))
    assert labelled == {i: label for i, label in transfer.items() if label != UNLABELLED}
    for name in ("labelled", "validation", "test"):
        assert UNLABELLED not in bbc.split(name)["label"][:]


@pytest.mark.parametrize("options", [{}, {"group_column": "source"}, {"id_column": "key"}])
def test_split_does_not_depend_on_row_order(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = rows_of()
    first = load_task(write_csv(tmp_path, rows), **options)
    random.Random(1).shuffle(rows)
    second = load_task(write_csv(tmp_path, rows), **options)
    assert membership(first) == membership(second)
    if "id_column" in options:
        assert first.fingerprint == second.fingerprint


def test_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    spec = write_csv(tmp_path, rows_of())
    assert load_task(spec, seed=1).fingerprint == load_task(spec, seed=1).fingerprint
    assert membership(load_task(spec, seed=1)) != membership(load_task(spec, seed=2))


def test_split_is_70_10_20_of_the_groups_of_each_class(tmp_path: Path) -> None:
    task = load_task(write_csv(tmp_path, rows_of(600)), group_column="source")
    for name, groups in (("transfer", 210), ("validation", 30), ("test", 60)):
        counted = task.describe()["splits"][name]
        assert counted["groups"] == groups
        assert counted["labels"] == dict.fromkeys(ANIMALS, groups * 2 // 3)


@settings(deadline=None, max_examples=150)
@given(
    groups=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=4),
        st.frozensets(st.sampled_from("WXYZ"), max_size=3),
        min_size=1,
        max_size=60,
    ),
    seed=st.integers(0, 10),
)
def test_every_class_is_in_training_and_every_group_is_placed(
    groups: dict[str, frozenset[str]], seed: int
) -> None:
    splits = tasks._draw_splits(groups, tasks.SHARES, seed)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) <= {"train", "validation", "test"}
    trained = {
        label for group, split in splits.items() if split == "train" for label in groups[group]
    }
    assert trained == {label for labels in groups.values() for label in labels}
    assert splits == tasks._draw_splits(dict(reversed(groups.items())), tasks.SHARES, seed)


def test_a_class_whose_groups_all_went_to_test_gets_one_back() -> None:
    groups = {
        name: frozenset(labels) for name, labels in zip("abcd", ("AZ", "BZ", "A", "B"), strict=True)
    }
    for seed in range(30):  # by chance both of Z's groups are drawn for test by A and B
        splits = tasks._draw_splits(groups, tasks.SHARES, seed)
        assert "train" in (splits["a"], splits["b"])


@settings(deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from("WXYZ"), st.integers(2, 40), min_size=1),
    seed=st.integers(0, 99),
)
def test_every_class_of_two_groups_is_tested_and_of_three_validated(
    counts: dict[str, int], seed: int
) -> None:
    groups = {f"{c}{k}": frozenset([c]) for c, n in counts.items() for k in range(n)}
    splits = tasks._draw_splits(groups, tasks.SHARES, seed)
    for label, n in counts.items():
        drawn = [splits[f"{label}{k}"] for k in range(n)]
        assert drawn.count("test") == max(1, round(0.2 * n))
        assert drawn.count("validation") == (0 if n == 2 else max(1, round(0.1 * n)))


def test_a_split_column_is_kept(tmp_path: Path) -> None:
    names = ("train", "Training", "dev", "testing")
    rows = [{**r, "part": names[n // 6 % 4]} for n, r in enumerate(rows_of())]
    task = load_task(
        write_csv(tmp_path, rows), split_column="part", group_column="source", id_column="key"
    )
    wanted = {"transfer": names[:2], "validation": names[2:3], "test": names[3:]}
    for name, parts in wanted.items():
        assert task.split(name)["id"][:] == [r["key"] for r in rows if r["part"] in parts]


def test_a_missing_validation_split_is_cut_from_training_by_group(tmp_path: Path) -> None:
    rows = [{**r, "part": "test" if n < 12 else "train"} for n, r in enumerate(rows_of())]
    spec = write_csv(tmp_path, rows)
    task = load_task(spec, split_column="part", group_column="source", id_column="key")
    assert task.test["id"][:] == [r["key"] for r in rows[:12]]
    assert len(set(task.validation["group"][:])) == 3  # a tenth of 8 groups of each of 3 classes
    assert not set(task.validation["group"][:]) & set(task.transfer["group"][:])


def test_labelled_groups_are_counted_and_even_over_classes(tmp_path: Path, bbc: Task) -> None:
    spec = write_csv(tmp_path, rows_of(180))
    own = load_task(spec, group_column="source", labelled_groups=9)
    for task, groups in ((own, 3), (bbc, 60)):
        seen = set(zip(task.labelled["label"][:], task.labelled["group"][:], strict=True))
        labels = [label for label, _ in seen]
        assert [labels.count(k) for k in range(task.num_classes)] == [groups] * task.num_classes
    assert_refused("labelled_groups is 2;.*at least 3", spec, labelled_groups=2)
    assert_refused("labelled_groups is 999;.*at most", spec, labelled_groups=999)


# --- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_task(tmp_path: Path, kind: str) -> None:
    rows = rows_of()
    expected = load_task(write_csv(tmp_path, rows, "a.csv"))
    frame, path = pd.DataFrame(rows), tmp_path / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False, quoting=1)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    task = load_task(f"{kind.replace('jsonl', 'json')}:{path}")
    assert task.fingerprint == expected.fingerprint
    assert task.name == "rows" and task.label_names == ANIMALS


def test_empty_labels_make_rows_that_are_in_transfer_only(tmp_path: Path) -> None:
    rows = [{**r, "label": "" if n % 2 else r["label"]} for n, r in enumerate(rows_of())]
    task = load_task(write_csv(tmp_path, rows), id_column="key")
    unlabelled = {r["key"] for r in rows if not r["label"]}
    transfer = dict(zip(task.transfer["id"][:], task.transfer["label"][:], strict=True))
    assert {i for i, label in transfer.items() if label == UNLABELLED} == unlabelled
    assert not unlabelled & {
        *task.labelled["id"][:],
        *task.validation["id"][:],
        *task.test["id"][:],
    }


def test_unlabelled_rows_of_held_out_groups_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [{**r, "label": "" if n % 2 else r["label"]} for n, r in enumerate(rows_of())]
    task = load_task(write_csv(tmp_path, rows), group_column="source")
    for name in ("validation", "test"):
        assert UNLABELLED not in task.split(name)["label"][:]
    held_out = len(task.validation) + len(task.test)  # each of their groups had one of each kind
    assert len(task.transfer) + 2 * held_out == len(rows)
    assert task.notes == (f"{held_out} unlabelled rows of held-out groups were left out",)


def test_words_like_na_and_null_are_texts_and_labels(tmp_path: Path) -> None:
    rows = rows_of(30, ("NA", "null"))
    rows[0]["text"], rows[2]["text"] = "NA", "null"
    task = load_task(write_csv(tmp_path, rows))
    assert task.label_names == ("NA", "null")
    assert {"NA", "null"} <= set.union(*membership(task).values())


def test_integer_labels_are_ordered_by_value(tmp_path: Path) -> None:
    rows = [{**r, "label": (10, 9, -1)[n % 3]} for n, r in enumerate(rows_of())]
    assert load_task(write_csv(tmp_path, rows)).label_names == ("-1", "9", "10")
    path = tmp_path / "rows.parquet"
    pd.DataFrame([*rows, {"text": "No label here."}]).to_parquet(path)  # makes the labels floats
    assert load_task(f"parquet:{path}").label_names == ("-1", "9", "10")


def test_repeated_texts_are_kept_once_and_told(tmp_path: Path) -> None:
    rows = rows_of()
    again = {**rows[0], "key": "again", "text": rows[0]["text"].upper().replace(" ", "  ")}
    other = {**rows[1], "key": "other", "label": "owl"}
    task = load_task(write_csv(tmp_path, [*rows, again, other]))
    assert sum(len(task.split(s)) for s in ("transfer", "validation", "test")) == len(rows)
    assert "2 rows repeat" in task.notes[0] and "1 of the repeated" in task.notes[1]


def test_a_test_text_is_taken_out_of_training(tmp_path: Path) -> None:
    rows = [{**r, "part": "test" if n < 12 else "train"} for n, r in enumerate(rows_of())]
    copy = {**rows[0], "part": "train", "key": "copy", "source": "new"}
    task = load_task(write_csv(tmp_path, [copy, *rows]), split_column="part", id_column="key")
    assert len(task.test) == 12 and "copy" not in task.transfer["id"][:]


def test_fingerprint_changes_with_a_text_a_label_and_a_split_but_not_with_the_name(
    tmp_path: Path,
) -> None:
    rows = rows_of()

    def fingerprint(name: str = "a.csv", seed: int = 0, **change: str) -> str:
        changed = [{**rows[0], **change}, *rows[1:]]
        return load_task(write_csv(tmp_path, changed, name), id_column="key", seed=seed).fingerprint

    first = fingerprint()
    assert first == fingerprint("b.csv")
    others = {fingerprint(text="Another text."), fingerprint(label="dog"), fingerprint(seed=1)}
    assert len(others | {first}) == 4


# --- encoding ----------------------------------------------------------------------------------


def test_encoding_cuts_at_max_length_and_keeps_the_order(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of()
    rows[0]["text"] = "a " * 30
    task = load_task(write_csv(tmp_path, rows), max_length=5)
    for name in SPLITS:
        encoded = task.encode(name, tokenizer)
        assert encoded.column_names == [
            *("id", "label", "group", "content_hash", "input_ids", "attention_mask", "length")
        ]
        assert encoded["id"][:] == task.split(name)["id"][:]
        assert encoded["length"][:] == [len(ids) for ids in encoded["input_ids"][:]]
        assert max(encoded["length"][:]) <= 5
        assert encoded[:] == task.encode(name, tokenizer)[:]


def test_collator_pads_to_the_longest_and_keeps_ids_last(tmp_path: Path, tokenizer: Any) -> None:
    import torch

    rows = rows_of()
    rows[0]["text"] = "a " * 12
    task = load_task(write_csv(tmp_path, rows), max_length=16)
    encoded = {r["id"]: r for n in SPLITS for r in task.encode(n, tokenizer)}
    chosen = [encoded["row-000001"], encoded["row-000002"]]
    collate = pickle.loads(pickle.dumps(task.collator(tokenizer)))
    batch = collate(chosen)
    assert list(batch) == ["input_ids", "attention_mask", "labels", "id"]
    assert batch["id"] == ["row-000001", "row-000002"]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 12)
    assert batch["labels"].dtype == batch["input_ids"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [r["length"] for r in chosen]
    assert batch["input_ids"][1, chosen[1]["length"] :].eq(tokenizer.pad_token_id).all()


def test_encoding_refuses_more_tokens_than_the_model_takes(tmp_path: Path, tokenizer: Any) -> None:
    task = load_task(write_csv(tmp_path, rows_of()), max_length=33)
    with pytest.raises(UserError, match=r"33 tokens.* at most 32"):
        task.encode("test", tokenizer)


def test_a_split_is_tokenised_once_for_tokenizers_that_do_the_same(
    small_task: Task, small_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = replace(small_task)
    first = task.encode("test", small_tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "_tokenise", None)
        assert task.encode("test", copy.deepcopy(small_tokenizer))[:] == first[:]
    first.set_format("numpy", columns=["label"])  # the caller's own view of it
    assert "input_ids" in task.encode("test", small_tokenizer)[0]


def test_a_tokenizer_that_was_changed_in_place_tokenises_anew(
    small_task: Task, small_tokenizer: Any
) -> None:
    task = replace(small_task)
    before = task.encode("test", small_tokenizer)["input_ids"][:]
    small_tokenizer.add_tokens(small_task.test[0]["text"][-5:-1])
    assert task.encode("test", small_tokenizer)["input_ids"][:] != before
    short = replace(small_task, max_length=4)
    right = short.encode("test", small_tokenizer)["input_ids"][:]
    small_tokenizer.truncation_side = "left"
    assert short.encode("test", small_tokenizer)["input_ids"][:] != right


def test_collator_refuses_a_tokenizer_without_padding(tmp_path: Path, tokenizer: Any) -> None:
    from copy import deepcopy

    other = deepcopy(tokenizer)
    other.pad_token = None
    with pytest.raises(UserError, match="no padding token"):
        load_task(write_csv(tmp_path, rows_of())).collator(other)


def test_loading_a_task_imports_no_torch(tmp_path: Path) -> None:
    spec = write_csv(tmp_path, rows_of())
    code = (
        f"import sys; from distill_lab.tasks import load_task; load_task({spec!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- a user's mistakes, each in one line -------------------------------------------------------


def test_unknown_tasks_are_refused(tmp_path: Path) -> None:
    for spec in ("imdb", "xml:rows.xml", "csv:", "hub:", ""):
        assert_refused("unknown task .*; expected bbc-topics, csv:PATH", spec)
    assert_refused("has its own columns", "bbc-topics", text_column="text")
    assert_refused("max_length is 2 tokens", "bbc-topics", max_length=2)
    with pytest.raises(UserError, match="no split is called 'dev'; choose one of labelled"):
        load_task(write_csv(tmp_path, rows_of())).split("dev")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for kind in ("csv", "json", "parquet"):
        assert_refused("no such file: .*nowhere", f"{kind}:{tmp_path / 'nowhere'}")
    assert_refused("cannot read", f"csv:{tmp_path}")


def test_broken_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    spec = write_text(tmp_path, b"text,label\nfine,a\ncaf\xe9,b\n")
    assert_refused("not UTF-8: byte 0xe9 at offset 21, line 3; save the file as UTF-8", spec)
    spec = write_text(tmp_path, b'{"text": "caf\xe9"}', "rows.jsonl")
    assert_refused("not UTF-8.*line 1;", spec)
    spec = write_text(tmp_path, '{"text": "half \\ud83d a pair", "label": "a"}', "rows.json")
    assert_refused("row 1 holds half a UTF-16 surrogate pair", spec)


def test_missing_columns_are_refused_with_those_there_are(tmp_path: Path) -> None:
    spec = write_csv(tmp_path, [{"body": "x", "kind": "y"}])
    there = "the columns are 'body', 'kind'; name one with"
    assert_refused(f"no column 'text' or 'sentence'; {there} --text-column", spec)
    assert_refused(f"no column 'label'; {there} --label-column", spec, text_column="body")
    assert_refused(f"no column 'txt'; {there} --text-column", spec, text_column="txt")
    spec = write_csv(tmp_path, rows_of())
    for option in ("group", "id", "split"):
        assert_refused(f"no column 'x';.*--{option}-column", spec, **{f"{option}_column": "x"})


def test_files_that_cannot_be_parsed_are_refused(tmp_path: Path) -> None:
    assert_refused("has no rows", write_text(tmp_path, ""))
    assert_refused("has no rows", write_text(tmp_path, "text,label\n"))
    assert_refused("has no rows", write_text(tmp_path, "[]", "rows.json"))
    assert_refused("two columns of the same name", write_text(tmp_path, "text,text\na,b\n"))
    spec = write_text(tmp_path, "text,label\nHello, world,a\n")
    assert_refused("line 2: 3 fields where the header has 2; put texts with commas", spec)
    assert_refused("line 2: .*double quotes", write_text(tmp_path, 'text,label\n"a" b,c\n'))
    spec = write_text(tmp_path, '{"text": "a", "label": "b"}\n{"text": \n', "rows.jsonl")
    assert_refused("line 2: .*expected an object a line", spec)
    assert_refused("line 1: .*one array", write_text(tmp_path, "[{]", "rows.json"))
    assert_refused("row 1 is of type int; expected objects", write_text(tmp_path, "[1]", "a.json"))
    spec = write_text(tmp_path, b"PAR1 no table PAR1", "rows.parquet")
    assert_refused("cannot be read as Parquet", spec)


def test_texts_that_are_empty_missing_or_no_strings_are_refused(tmp_path: Path) -> None:
    rows = rows_of()
    rows[3]["text"] = "  "
    rows[7]["text"] = ""
    pattern = "2 of 60 texts cannot be used, first row 4 \\({}"
    assert_refused(pattern.format("empty"), write_csv(tmp_path, rows))
    for value, what in ((None, "missing"), (3, "of type int"), (["a"], "of type list")):
        rows[3]["text"] = value
        spec = write_text(tmp_path, json.dumps(rows), "rows.json")
        assert_refused(pattern.format(what), spec)


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    rows = rows_of()
    rows[4]["label"] = 0.5
    spec = write_text(tmp_path, json.dumps(rows), "rows.json")
    assert_refused("label of row 5 is of type float \\(0.5\\); expected a class", spec)
    assert_refused("no row has a label", write_csv(tmp_path, [{**r, "label": ""} for r in rows]))
    one = write_csv(tmp_path, rows_of(classes=["cat"]))
    assert_refused("all labels are 'cat'; .*at least two classes", one)


def test_a_class_with_one_example_is_refused(tmp_path: Path) -> None:
    rows = [*rows_of(), {"text": "Only once.", "label": "emu", "key": "z", "source": "z"}]
    spec = write_csv(tmp_path, rows)
    assert_refused("1 of 4 classes has one example only \\('emu'\\)", spec)
    spec = write_csv(tmp_path, [{"text": f"t{n}", "label": f"l{n}"} for n in range(20)])
    assert_refused("20 of 20 classes have one example only .*and 12 more", spec)


def test_a_class_in_one_group_is_refused(tmp_path: Path) -> None:
    rows = rows_of()
    rows += [{"text": f"Emu {n}.", "label": "emu", "source": "zoo", "key": f"e{n}"} for n in (1, 2)]
    spec = write_csv(tmp_path, rows)
    assert_refused("one group \\('emu'\\).*two groups of each class", spec, group_column="source")
    assert load_task(spec).num_classes == 4


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(4)]
    assert_refused(
        "too few examples: none is left for the validation split", write_csv(tmp_path, rows)
    )


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    rows = rows_of()
    rows[5]["key"] = rows[4]["key"]
    spec = write_csv(tmp_path, rows)
    assert_refused("1 ids occur more than once \\('k0004'\\)", spec, id_column="key")
    rows[5]["key"] = ""
    spec = write_csv(tmp_path, rows)
    assert_refused("column 'key' is empty in row 6", spec, id_column="key")


def test_bad_split_columns_are_refused(tmp_path: Path) -> None:
    def refuse(pattern: str, parts: Sequence[str], **changes: str) -> None:
        rows = [{**r, "part": p} for r, p in zip(rows_of(len(parts)), parts, strict=True)]
        rows[-1].update(changes)
        spec = write_csv(tmp_path, rows)
        assert_refused(pattern, spec, split_column="part", group_column="source")

    good = ["train", "train", "test", "test"] * 15
    refuse("row 60 has the split 'later'; expected train", [*good[:-1], "later"])
    refuse("group 'page-029' stands in two splits, (test|train)", [*good[:-1], "train"])
    refuse("no training split", ["test", "test", "dev", "dev"] * 15)
    unseen = {"label": "emu", "source": "new", "text": "An emu."}
    rows = [*good, "test", "test"]
    refuse("one example only", rows, **unseen)
    many = [{**r, "part": p} for r, p in zip(rows_of(60), good, strict=True)]
    many += [{**unseen, "text": f"Emu {n}.", "key": f"e{n}", "part": "test"} for n in (1, 2)]
    spec = write_csv(tmp_path, many)
    assert_refused(
        "labels of the test split never occur in training: 'emu'", spec, split_column="part"
    )


# --- the Hub -----------------------------------------------------------------------------------


def hub_folder(folder: Path, splits: Mapping[str, Sequence[dict[str, Any]]]) -> Path:
    """Lay out a folder as the Hub does: Parquet files, and a card that names them."""
    from datasets import ClassLabel, Dataset, Features, Value

    text = Value("string")
    features = Features({"text": text, "label": ClassLabel(names=list(ANIMALS)), "source": text})
    lines = ["---", "configs:", "- config_name: plain", "  data_files:"]
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        columns = {name: [r[name] for r in rows] for name in features}
        data = Dataset.from_dict(columns, features=features)
        data.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        lines += [f"  - split: {split}", f"    path: data/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "A data set of our own.", ""]))
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_data_set_keeps_its_splits_and_class_names(tmp_path: Path) -> None:
    rows = [{**r, "label": ANIMALS.index(r["label"])} for r in rows_of(90)]
    splits = {"train": rows[:60], "validation": rows[60:72], "test": rows[72:]}
    folder = hub_folder(tmp_path / "pets", splits)
    task = load_task(f"hub:{folder}")
    assert task.label_names == ANIMALS
    for name, split in (("transfer", "train"), ("validation", "validation"), ("test", "test")):
        data = task.split(name)
        assert data["text"][:] == [r["text"] for r in splits[split]]
        assert data["label"][:] == [r["label"] for r in splits[split]]
        assert data["id"][0] == f"{split}-000001"
    assert membership(load_task(f"hub:{folder}:plain")) == membership(task)
    assert_refused("cannot be loaded: .*; check the name and the conf", f"hub:{folder}:other")


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_test_split_without_labels_is_cut_from_training_instead(tmp_path: Path) -> None:
    rows = [{**r, "label": ANIMALS.index(r["label"])} for r in rows_of(90)]
    hidden = [{**r, "label": -1} for r in rows[72:]]
    folder = hub_folder(tmp_path / "pets", {"train": rows[:60], "test": hidden, "extra": rows[60:]})
    task = load_task(f"hub:{folder}", group_column="source")
    assert set.union(*membership(task).values()) == {r["text"] for r in rows[:60]}
    assert {len(set(task.split(s)["group"][:])) for s in ("validation", "test")} == {3, 6}
    assert "'extra' is none of train" in task.notes[0]
    assert "18 unlabelled rows of the test split" in task.notes[1]


@pytest.mark.usefixtures("hub_cache")
def test_more_classes_than_examples_are_refused(tmp_path: Path) -> None:
    rows = [
        {"text": "One.", "label": 0, "source": "a"},
        {"text": "Two.", "label": 1, "source": "b"},
    ]
    folder = hub_folder(tmp_path / "pets", {"train": rows})
    assert_refused("2 labelled examples for 3 classes", f"hub:{folder}")


@pytest.mark.usefixtures("hub_cache")
def test_an_unreachable_hub_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(tasks, "hub_answers", lambda: False)
    before = datasets.config.HF_HUB_OFFLINE
    assert_refused("Hub cannot be reached .*csv:PATH", "hub:nobody/no-such-data-set")
    assert before == datasets.config.HF_HUB_OFFLINE


# --- bbc-topics --------------------------------------------------------------------------------


def test_the_bbc_manifest_is_what_the_installed_files_give() -> None:
    assert build_bbc_manifest() == tasks._bbc_manifest()


def test_bbc_topics_has_its_articles_and_classes(bbc: Task) -> None:
    assert bbc.label_names == ("business", "entertainment", "politics", "sports", "tech")
    counted = bbc.describe()["splits"]
    assert [counted[s]["groups"] for s in SPLITS] == [300, 1449, 206, 415]
    assert [counted[s]["examples"] for s in SPLITS] == [5987, 27351, 3943, 7839]
    for example in (bbc.test[0], bbc.validation[5]):
        assert example["id"].startswith(example["group"] + "#")
        assert example["group"].startswith(bbc.label_names[example["label"]] + "/")
        assert len(example["content_hash"]) == 32


def test_near_duplicates_are_found_by_their_shingles() -> None:
    words = [f"word{n}" for n in range(300)]
    changed = [*words[:-1], "other"]
    half = words[:150] + [f"else{n}" for n in range(150)]
    articles = {
        name: " ".join(w).encode()
        for name, w in {"a/1": words, "a/2": words, "a/3": changed, "a/4": half}.items()
    }
    assert tasks._find_duplicates(articles) == {"a/2": "= a/1", "a/3": "~ a/1"}
    for length, alike in ((22, {}), (23, {"b": "~ a"})):  # 17 of 19 shingles; 18 of 20, just 0.9
        pair = {"a": words[:length], "b": [*words[: length - 1], "other"]}
        found = tasks._find_duplicates({n: " ".join(w).encode() for n, w in pair.items()})
        assert found == alike


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("ab ", min_size=1, max_size=60), min_size=2, max_size=8))
def test_kept_articles_are_all_less_alike_than_the_threshold(texts: list[str]) -> None:
    articles = {f"t/{n}": text.encode() for n, text in enumerate(texts)}
    dropped = tasks._find_duplicates(articles)

    def jaccard(one: str, other: str) -> float:
        a, b = (tasks._shingles(articles[n].decode()) for n in (one, other))
        return len(a & b) / len(a | b)

    kept = [n for n in articles if n not in dropped]
    assert all(jaccard(a, b) < 0.9 for a in kept for b in kept if a < b)
    for name, why in dropped.items():
        assert why[2:] in articles and why[2:] < name and jaccard(name, why[2:]) >= 0.9


def test_changed_or_missing_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    articles = tasks._read_bbc_articles()
    changed = {**articles, "tech/007": b"something else"}
    monkeypatch.setattr(tasks, "_read_bbc_articles", lambda: changed)
    assert_refused(
        "1 files of .* not those of version 1.0.0 \\(first: tech/007\\); pip", "bbc-topics"
    )
    check = tasks.describe_data()[0]
    assert not check.ok and "tech/007" in check.detail and check.fix.startswith("pip install")
    monkeypatch.undo()
    assert tasks.describe_data()[0].ok
    monkeypatch.setattr(tasks, "BBC_PACKAGE", "no_such_package")
    assert_refused("not installed; pip install", "bbc-topics")


def test_texts_of_the_wrong_encoding_keep_their_pound_signs() -> None:
    assert tasks._decode("a £5m fee".encode()) == tasks._decode("a £5m fee".encode("cp1252"))


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rose 2.5% to $1.3bn.", "Analysts were surprised!"],
        ['"I am glad," she said.', '"Very glad."', "He left."],
        ["Mr. Smith met J. Jones in the U.S. Senate.", "Did they agree?", "Yes."],
        ["Prices fell (by £3.)", "£2 is the rest."],
        ["No full stop at the end"],
    ],
)
def test_sentences_end_where_a_reader_ends_them(sentences: list[str]) -> None:
    assert tasks.split_sentences("  " + " ".join(sentences) + " ") == sentences


@given(st.text("aB.!?\"' ()J9", max_size=80))
def test_splitting_sentences_loses_no_character(paragraph: str) -> None:
    joined = "".join(tasks.split_sentences(paragraph))
    assert joined.replace(" ", "") == paragraph.replace(" ", "")
