"""Laws of a pruned vocabulary: training texts and what is learned of them stay the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TOPICS, small_bert
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from distill_lab.errors import UserError
from distill_lab.evaluation import predict_logits
from distill_lab.knowledge import LiveTeacher, extract
from distill_lab.models import count_parameters, load_tokenizer, processor_fingerprint
from distill_lab.pipeline import VARIANTS, Settings, read_settings, run
from distill_lab.prediction import load_pair, predict_texts
from distill_lab.report import load_report, render_html, render_terminal, validate_report
from distill_lab.tasks import Task, load_task
from distill_lab.training import Objective, Schedule, distill
from distill_lab.vocabulary import (
    PRUNED_FROM,
    PrunedVocabulary,
    describe_pruning,
    parent_fingerprint,
    prune_embeddings,
    prune_to_texts,
    prune_vocabulary,
    used_ids,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(autouse=True, scope="module")
def _no_bars() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(autouse=True, scope="module")
def _no_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill_lab.report.draw_figures", lambda report: {})
        yield


def old_ids(pruned: PrunedVocabulary, ids: Sequence[int]) -> list[int]:
    return pruned.kept[torch.tensor(ids, dtype=torch.int64)].tolist()


def bert_tokenizer(pieces: Sequence[str]) -> PreTrainedTokenizerBase:
    vocabulary = {token: k for k, token in enumerate((*SPECIAL, *pieces))}
    return BertTokenizerFast(vocab=vocabulary, model_max_length=64)


# --- tokenizers: laws on random vocabularies -----------------------------------------------------

words = st.text("abc", min_size=1, max_size=6)
texts = st.lists(words, min_size=1, max_size=8).map(" ".join)


@st.composite
def tokenizers(draw: st.DrawFn) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of a few pieces, which leaves many a word unknown."""
    bare = st.text("abc", min_size=1, max_size=3)
    pieces = draw(st.lists(st.one_of(bare, bare.map("##".__add__)), min_size=4, unique=True))
    return bert_tokenizer(pieces)


@settings(max_examples=60, deadline=None)
@given(tokenizers(), st.lists(texts, min_size=1, max_size=5), st.integers(4, 9))
def test_training_texts_give_the_same_pieces(
    tokenizer: PreTrainedTokenizerBase, training: list[str], max_length: int
) -> None:
    pruned = prune_vocabulary(tokenizer, used_ids(tokenizer, training, max_length))
    for text in training:
        full, new = (
            t(text, truncation=True, max_length=max_length)["input_ids"]
            for t in (tokenizer, pruned.tokenizer)
        )
        assert old_ids(pruned, new) == full
        assert pruned.tokenizer.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(full)


@settings(max_examples=30, deadline=None)
@given(tokenizers(), st.lists(words, min_size=1, max_size=8), st.data())
def test_new_texts_of_training_words_give_the_same_pieces(
    tokenizer: PreTrainedTokenizerBase, training: list[str], data: st.DataObject
) -> None:
    pruned = prune_to_texts(tokenizer, training, 64)
    text = " ".join(data.draw(st.lists(st.sampled_from(training), max_size=12)))
    assert old_ids(pruned, pruned.tokenizer(text)["input_ids"]) == tokenizer(text)["input_ids"]


@settings(max_examples=30, deadline=None)
@given(tokenizers(), st.lists(texts, min_size=1, max_size=3), st.lists(texts, min_size=4))
def test_any_text_gives_valid_ids_and_reads_the_same_where_none_is_unknown(
    tokenizer: PreTrainedTokenizerBase, training: list[str], others: list[str]
) -> None:
    pruned = prune_to_texts(tokenizer, training, 64)
    for text in others:
        ids = pruned.tokenizer(text)["input_ids"]
        assert all(0 <= i < len(pruned.kept) == len(pruned.tokenizer) for i in ids)
        if pruned.tokenizer.unk_token_id not in ids:
            assert pruned.tokenizer.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=30, deadline=None)
@given(tokenizers(), st.lists(texts, min_size=1, max_size=3))
def test_pruning_again_to_the_same_texts_drops_nothing(
    tokenizer: PreTrainedTokenizerBase, training: list[str]
) -> None:
    pruned = prune_to_texts(tokenizer, training, 64)
    assume(len(pruned.tokenizer) > len(SPECIAL))
    again = prune_to_texts(pruned.tokenizer, training, 64)
    assert again.kept.tolist() == list(range(len(pruned.kept)))


# --- tokenizers: cases ---------------------------------------------------------------------------


def test_a_word_cut_by_max_length_keeps_its_first_piece() -> None:
    tokenizer = bert_tokenizer(["ab", "##c", "a", "##b"])
    pruned = prune_to_texts(tokenizer, ["ab abc"], 4)  # [CLS] ab ab | ##c is cut off
    assert pruned.tokenizer.tokenize("ab abc") == ["ab", "ab", "##c"]
    assert pruned.tokenizer.convert_tokens_to_ids("a") == pruned.tokenizer.unk_token_id


def test_an_unknown_word_of_the_training_stays_unknown() -> None:
    # Cut from the left, abc is ab and then nothing; a and ##bc are used elsewhere.
    tokenizer = bert_tokenizer(["ab", "a", "##bc", "x"])
    training = ["abc", "a", "x"]
    assert tokenizer.tokenize("abc") == ["[UNK]"]
    pruned = prune_vocabulary(tokenizer, [*used_ids(tokenizer, training, 9), 7])
    assert pruned.tokenizer.tokenize("abc") == ["[UNK]"]
    careless = prune_vocabulary(tokenizer, {6, 7, 8})
    assert careless.tokenizer.tokenize("abc") == ["a", "##bc"]


def test_an_unseen_word_is_cut_into_smaller_pieces_or_unknown() -> None:
    tokenizer = bert_tokenizer(["garden", "gar", "##den", "gate", "##s"])
    pruned = prune_vocabulary(tokenizer, tokenizer.convert_tokens_to_ids(["gar", "##den"]))
    assert tokenizer.tokenize("garden gate") == ["garden", "gate"]
    assert pruned.tokenizer.tokenize("garden gate") == ["gar", "##den", "[UNK]"]


def test_special_tokens_are_all_kept_and_found_under_their_new_ids() -> None:
    pieces = ("[PAD]", "[unused0]", "fern", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rose")
    vocabulary = {token: k for k, token in enumerate(pieces)}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=64)
    before = (tokenizer.get_vocab(), processor_fingerprint(tokenizer))
    pruned = prune_to_texts(tokenizer, ["rose"], 9).tokenizer
    assert pruned.get_vocab() == {
        **{"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4},
        "rose": 5,
    }
    assert pruned.special_tokens_map == tokenizer.special_tokens_map
    assert (pruned.pad_token_id, pruned.unk_token_id, pruned.mask_token_id) == (0, 1, 4)
    assert (pruned.cls_token_id, pruned.sep_token_id) == (2, 3)
    batch = pruned(["rose", "rose rose"], padding=True)
    assert batch["input_ids"] == [[2, 5, 3, 0], [2, 5, 5, 3]]
    assert pruned.model_max_length == 64
    assert (tokenizer.get_vocab(), processor_fingerprint(tokenizer)) == before, "left as it is"


def test_the_padding_token_keeps_its_id() -> None:
    vocabulary = {t: k for k, t in enumerate(["fern", "moss", *SPECIAL, "rose", "soil"])}
    tokenizer = BertTokenizerFast(vocab=vocabulary)
    pruned = prune_to_texts(tokenizer, ["soil"], 9).tokenizer
    assert pruned.pad_token_id == tokenizer.pad_token_id == 2
    assert "rose" not in pruned.get_vocab()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["template", "bert", "sequence", "none"])
def test_added_tokens_and_what_a_post_processor_adds_are_renumbered(
    kind: str, padded: bool
) -> None:
    pieces = ("fern", "[UNK]", "moss", "[CLS]", "rose", "[SEP]", "##s")
    ids = {token: k for k, token in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bert = processors.BertProcessing(("[SEP]", 5), ("[CLS]", 3))
    backend.post_processor = {
        "template": processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 5)]
        ),
        "bert": bert,
        "sequence": processors.Sequence([bert]),
        "none": None,
    }[kind]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.add_tokens(["lawn mower", "seed bed"])
    if padded:  # the last token, and it keeps its id: nothing before it can go
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    training = ["roses lawn mower roses"]
    pruned = prune_to_texts(tokenizer, training, 9)
    full, new = (t(training[0])["input_ids"] for t in (tokenizer, pruned.tokenizer))
    assert old_ids(pruned, new) == full
    assert len(full) == 5 + 2 * (kind != "none")
    assert pruned.tokenizer.convert_ids_to_tokens(new) == tokenizer.convert_ids_to_tokens(full)
    assert pruned.tokenizer.get_added_vocab().keys() == tokenizer.get_added_vocab().keys()
    assert ("fern" in pruned.tokenizer.get_vocab()) == padded


def test_a_pruned_tokenizer_is_read_back_the_same_and_knows_its_parent(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pruned = prune_to_texts(small_tokenizer, ["we saw the rose.", "a tulip"], 24).tokenizer
    pruned.save_pretrained(tmp_path)
    for again in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert processor_fingerprint(again) == processor_fingerprint(pruned)
        assert parent_fingerprint(again) == processor_fingerprint(small_tokenizer)
        assert again("we saw a tulip")["input_ids"] == pruned("we saw a tulip")["input_ids"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config[PRUNED_FROM] == processor_fingerprint(small_tokenizer)
    assert parent_fingerprint(small_tokenizer) is None and parent_fingerprint(None) is None


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    bpe = PreTrainedTokenizerFast(tokenizer_object=backend)
    for tokenizer in (bpe, object()):
        with pytest.raises(UserError, match="only the vocabulary of a fast WordPiece") as caught:
            prune_to_texts(tokenizer, ["ab"], 9)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cuts_otherwise_once_it_is_pruned_is_refused(
    small_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_lab.vocabulary.used_ids", lambda *_: {0, 1})
    with pytest.raises(UserError, match="would cut 1 of 2 training texts otherwise"):
        prune_to_texts(small_tokenizer, ["we saw the rose.", "?"], 24)


def test_what_pruning_does_to_new_texts_is_counted() -> None:
    tokenizer = bert_tokenizer(["rose", "rosebud", "##bud", "fern"])
    pruned = prune_to_texts(tokenizer, ["rose", "?rose"], 9)
    assert describe_pruning(tokenizer, pruned, ["rose rose", "rose fern", "?", "rosebud"], 9) == {
        "kept": 6,
        "of": 9,
        "unknown_test_tokens": 3 / 6,  # rose rose | rose [UNK] | [UNK] | [UNK]
        "unknown_test_tokens_unpruned": 1 / 6,
        "changed_test_examples": 2 / 4,
    }


# --- models --------------------------------------------------------------------------------------


@pytest.fixture
def pruned(small_task: Task, small_tokenizer: PreTrainedTokenizerBase) -> PrunedVocabulary:
    return prune_to_texts(small_tokenizer, small_task.transfer["text"][:], small_task.max_length)


def test_a_pruned_model_gives_the_same_logits(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_student: PreTrainedModel,
    pruned: PrunedVocabulary,
    tmp_path: Path,
) -> None:
    def logits(model: PreTrainedModel, tokenizer: Any) -> torch.Tensor:
        rows = small_task.encode("transfer", tokenizer)
        return predict_logits(model.eval(), rows, small_task.collator(tokenizer))

    before = logits(small_student, small_tokenizer)
    parameters, dropped = count_parameters(small_student), len(small_tokenizer) - len(pruned.kept)
    prune_embeddings(small_student, pruned.kept)
    assert torch.equal(logits(small_student, pruned.tokenizer), before)
    assert dropped > 10
    assert count_parameters(small_student) == parameters - 16 * dropped
    assert small_student.config.vocab_size == len(pruned.kept)
    small_student.save_pretrained(tmp_path)
    pruned.tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(again, AutoTokenizer.from_pretrained(tmp_path)), before)


def test_special_ids_of_the_configuration_follow(small_student: PreTrainedModel) -> None:
    table = small_student.get_input_embeddings()
    small_student.config.sep_token_id, small_student.config.bos_token_id = 3, 9
    table.weight.requires_grad_(False)
    prune_embeddings(small_student, torch.tensor([0, 1, 3, 20]))
    config = small_student.config
    assert (config.pad_token_id, config.sep_token_id, config.bos_token_id) == (0, 2, None)
    assert (table.num_embeddings, table.padding_idx) == (4, 0)
    assert not table.weight.requires_grad
    prune_embeddings(small_student, torch.tensor([1, 2]))
    assert table.padding_idx is None


@pytest.mark.slow
def test_a_pruned_student_learns_what_the_full_one_learns(
    small_task: Task,
    small_tokenizer: PreTrainedTokenizerBase,
    small_teacher: PreTrainedModel,
    pruned: PrunedVocabulary,
    tmp_path: Path,
) -> None:
    objective = Objective(hidden_states=0.1, layer_map={"layer.1": "layer.3"})
    store = extract(
        *(small_teacher, small_task, small_tokenizer, tmp_path / "store"),
        features=objective.features(),
        device="cpu",
        dtype="float32",
    )
    schedule = Schedule(epochs=2, learning_rate=5e-3, batch_size=16, device="cpu", dtype="float32")
    set_seed(2)
    full = small_bert(layers=2, width=16, heads=2)
    student = copy.deepcopy(full)
    prune_embeddings(student, pruned.kept)
    started = student.get_input_embeddings().weight.detach().clone()
    for model, tokenizer in ((full, small_tokenizer), (student, pruned.tokenizer)):
        distill(model, store, small_task, tokenizer, objective=objective, schedule=schedule)
    assert (student.get_input_embeddings().weight - started).abs().max() > 1e-3
    prune_embeddings(full, pruned.kept)
    ours, theirs = student.state_dict(), full.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_a_live_teacher_is_refused_for_a_pruned_student(
    small_task: Task,
    small_teacher: PreTrainedModel,
    small_student: PreTrainedModel,
    pruned: PrunedVocabulary,
) -> None:
    prune_embeddings(small_student, pruned.kept)
    with pytest.raises(UserError, match="vocabulary is pruned, so its token ids mean other"):
        distill(small_student, LiveTeacher(small_teacher), small_task, pruned.tokenizer)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruned_run(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    settings = dataclasses.replace(small_settings, prune_vocabulary=True)
    run(settings, folder, say=lambda line: None)
    return folder


def task_of(settings: Settings) -> Task:
    return load_task(settings.task, **settings.columns, max_length=settings.max_length)


@pytest.mark.slow
def test_all_students_of_a_run_are_pruned_alike_and_the_teacher_is_not(
    pruned_run: Path, finished_run: Path, small_settings: Settings
) -> None:
    report, unpruned = load_report(pruned_run), load_report(finished_run)
    told = report["vocabulary"]
    assert "vocabulary" not in unpruned
    assert report["teacher"]["parameters"] == unpruned["teacher"]["parameters"]
    parent = processor_fingerprint(load_tokenizer(str(pruned_run / "teacher")))
    shown = set()
    full = load_tokenizer(str(pruned_run / "teacher"))
    for text in task_of(small_settings).transfer["text"][:]:
        shown.update(full.tokenize(text))
    for variant in VARIANTS:
        folder = pruned_run / "students" / f"{variant}-seed0"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert set(tokenizer.get_vocab()) == shown | set(SPECIAL)
        assert parent_fingerprint(tokenizer) == parent
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.vocab_size == len(tokenizer) == told["kept"] < told["of"]
        student = report["students"][variant]
        assert student["parameters"] == count_parameters(model)
        fewer = unpruned["students"][variant]["parameters"] - student["parameters"]
        assert fewer == 16 * (told["of"] - told["kept"])


def test_the_report_says_what_was_pruned(pruned_run: Path) -> None:
    from rich.console import Console

    report = load_report(pruned_run)
    kept, of = report["vocabulary"]["kept"], report["vocabulary"]["of"]
    sentence = f"The students know the {kept} of {of} word pieces that the training texts show."
    console = Console(width=300)
    with console.capture() as capture:
        console.print(render_terminal(report))
    assert sentence in capture.get()
    assert sentence in render_html(report, {})
    del report["vocabulary"]["kept"]
    with pytest.raises(UserError, match=r"lacks vocabulary\.kept:"):
        validate_report(report)


def test_a_pruned_run_predicts_with_a_tokenizer_for_each_model(
    pruned_run: Path, small_settings: Settings
) -> None:
    pair = load_pair(pruned_run)
    assert len(pair.student_processor) < len(pair.processor)
    test = task_of(small_settings).test
    found = predict_texts(pair, test["text"][:])
    right = torch.tensor(test["label"][:])
    report = load_report(pruned_run)
    for probabilities, accuracy in (
        (found.teacher, report["teacher"]["accuracy"]),
        (found.student, report["students"]["distilled"]["accuracy"]["mean"]),
    ):
        chosen = probabilities.argmax(1)
        assert (chosen == right).double().mean().item() == pytest.approx(accuracy)


def test_a_pruned_run_is_repeated_by_its_config(pruned_run: Path) -> None:
    values = read_settings(pruned_run / "config.toml")
    assert values["prune_vocabulary"] is True
    said: list[str] = []
    run(Settings(**values), pruned_run, say=said.append)
    assert all("already" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"init": "pretrained"}, {"init": "teacher-layers"}])
def test_every_init_can_be_pruned(
    change: dict[str, Any], small_settings: Settings, small_encoder: Path, tmp_path: Path
) -> None:
    place = str(small_encoder) if change["init"] == "pretrained" else "small"
    wide = small_bert(layers=3)
    folder = tmp_path / "teacher"
    wide.base_model.save_pretrained(folder)
    load_tokenizer(str(small_encoder)).save_pretrained(folder)
    settings = dataclasses.replace(
        small_settings,
        **change,
        **{"student": place, "teacher": str(folder), "prune_vocabulary": True},
        **{"teacher_epochs": 1.0, "epochs": 1.0, "labelled_epochs": 1.0},
    )
    report = run(settings, tmp_path / "run", say=lambda line: None)
    assert report["vocabulary"]["kept"] < report["vocabulary"]["of"]


# --- the default task ----------------------------------------------------------------------------


@pytest.mark.slow
def test_all_training_texts_of_the_default_task_give_the_same_pieces() -> None:
    task, tokenizer = load_task(), load_tokenizer()
    pruned = prune_to_texts(tokenizer, task.transfer["text"][:], task.max_length)
    full, new = (task.encode("transfer", t)["input_ids"][:] for t in (tokenizer, pruned.tokenizer))
    kept = pruned.kept.tolist()
    assert len(full) > 25_000
    assert [[kept[i] for i in ids] for ids in new] == full
    assert len(kept) < 0.65 * len(tokenizer)
    assert {i for ids in full for i in ids} <= set(kept)
    # What the test split alone shows is not kept.
    test = {i for ids in task.encode("test", tokenizer)["input_ids"][:] for i in ids}
    assert len(test - set(kept)) > 500


def test_letters_and_topics_of_the_small_task_are_what_these_tests_take_them_for(
    small_tokenizer: PreTrainedTokenizerBase, pruned: PrunedVocabulary
) -> None:
    gone = set(small_tokenizer.get_vocab()) - set(pruned.tokenizer.get_vocab())
    assert gone & {f"##{letter}" for letter in string.ascii_lowercase}
    assert not gone & {word for words in TOPICS.values() for word in words}
