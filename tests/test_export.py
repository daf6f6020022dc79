"""Laws of the export: the file gives what torch gives, needs no torch, and is whole or not there.

What is random is drawn anew from a seed for each test; models are tiny.
"""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
import transformers
from conftest import TOPICS, VOCABULARY, small_bert
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from distill_lab import export
from distill_lab.errors import UserError
from distill_lab.export import (
    OnnxClassifier,
    compare_logits,
    export_onnx,
    export_run,
    measure_export,
    quantize_int8,
    save_tokenizer,
)
from distill_lab.files import write_json
from distill_lab.pipeline import Settings
from distill_lab.pipeline import run as run_pipeline
from distill_lab.prediction import load_pair, predict_texts
from distill_lab.report import load_report
from distill_lab.tasks import Task

MAX_LENGTH = 24
SIZES = {"num_labels": 3, "vocab_size": len(VOCABULARY), "max_position_embeddings": 64}
SIZES |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def model_of(architecture: str) -> PreTrainedModel:
    """Draw a classifier of 2 layers × 32, wider than usual, so that its logits differ."""
    config = getattr(transformers, f"{architecture}Config")(**SIZES, initializer_range=0.2)
    config.pad_token_id = 0
    set_seed(0)
    model: PreTrainedModel = getattr(transformers, f"{architecture}ForSequenceClassification")(
        config
    )
    return model.eval()


def batch_of(examples: int, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw a batch whose first row is full and whose others are of any length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY), (examples, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (examples, 1), generator=generator)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@torch.no_grad()
def torch_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(**batch).logits
    return logits


# --- writing a model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a BERT in float32 and int8."""
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(model_of("Bert"), folder / "model.onnx", max_length=MAX_LENGTH)
    quantize_int8(folder / "model.onnx", folder / "model.int8.onnx")
    return folder


@pytest.mark.parametrize(
    "architecture",
    ["Bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DistilBert", "Roberta"))],
)
def test_onnx_gives_what_torch_gives_for_any_batch_and_length(
    architecture: str, exported: Path, tmp_path: Path
) -> None:
    model, path = model_of(architecture), exported / "model.onnx"
    if architecture != "Bert":
        path = tmp_path / "model.onnx"
        export_onnx(model, path, max_length=MAX_LENGTH)
    classifier = OnnxClassifier(path)
    for seed, (examples, tokens) in enumerate([(1, 1), (1, 7), (2, 24), (7, 13), (32, 2)]):
        batch = batch_of(examples, tokens, seed)
        found = classifier(batch)
        assert found.shape == (examples, 3) and found.dtype == torch.float32
        assert (found - torch_logits(model, batch)).abs().max() < 1e-5
    assert found.std(0).min() > 0.01  # there was something to get wrong


def test_an_export_is_one_file_that_says_nothing_of_this_machine(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == ["model.int8.onnx", "model.onnx"]
    for path in exported.iterdir():
        content = path.read_bytes()
        for word in (b"site-packages", b".py", os.getcwd().encode(), str(Path.home()).encode()):
            assert word not in content
    parameters = sum(p.numel() for p in model_of("Bert").parameters())
    assert 4 * parameters < OnnxClassifier(exported / "model.onnx").bytes < 4.5 * parameters


def test_the_graph_has_two_inputs_of_any_size(exported: Path) -> None:
    graph = onnx.load(exported / "model.onnx").graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    both = ["batch", "tokens"]
    assert shapes == {"input_ids": both, "attention_mask": both, "logits": ["batch", 3]}


@pytest.mark.slow
def test_exporting_says_nothing_and_leaves_the_model_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model = small_bert(layers=1, width=16, heads=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config._attn_implementation
    capfd.readouterr()
    export_onnx(model, tmp_path / "model.onnx", max_length=8)
    quantize_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert capfd.readouterr() == ("", "")
    assert [w for w in recwarn if not issubclass(w.category, DeprecationWarning)] == []
    assert model.training and model.config._attn_implementation == attention
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_int8_holds_embeddings_and_products_in_a_byte_a_weight(exported: Path) -> None:
    weights = onnx.load(exported / "model.int8.onnx").graph.initializer
    eight_bits = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tables = {w.name: w for w in weights if len(w.dims) == 2 and np.prod(w.dims) >= 32 * 32}
    floats = [name for name, w in tables.items() if w.data_type == onnx.TensorProto.FLOAT]
    assert floats == [] and sum(w.data_type in eight_bits for w in tables.values()) >= 2 + 2 * 6
    largest = max(
        int(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max())
        for w in tables.values()
        if w.data_type == onnx.TensorProto.INT8
    )
    assert largest <= 64  # 7 of 8 bits, so that no processor overflows


def test_int8_gives_nearly_the_same_logits(exported: Path) -> None:
    batch = batch_of(64, MAX_LENGTH)
    ours = OnnxClassifier(exported / "model.int8.onnx")(batch)
    theirs = torch_logits(model_of("Bert"), batch)
    assert 0 < (ours - theirs).abs().max() < 0.3
    assert (ours.argmax(1) == theirs.argmax(1)).double().mean() > 0.9


class TwoWays(transformers.BertForSequenceClassification):
    """A model whose operations depend on its numbers: no graph can be traced of it."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if output.logits.sum() > 0:
            output.logits = output.logits * 2
        return output


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_refused_in_one_line(tmp_path: Path) -> None:
    model = TwoWays(small_bert(layers=1, width=16, heads=2).config)
    with pytest.raises(UserError, match=r"^TwoWays cannot be exported to ONNX") as error:
        export_onnx(model, tmp_path / "model.onnx", max_length=8)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="is no ONNX model"):
        OnnxClassifier(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="is no file"):
        OnnxClassifier(tmp_path / "none.onnx")


def test_a_session_takes_as_many_threads_as_torch(exported: Path) -> None:
    def threads(asked: int | None) -> int:
        options = OnnxClassifier(exported / "model.onnx", asked).session.get_session_options()
        return int(options.intra_op_num_threads)

    assert threads(None) == torch.get_num_threads() and threads(3) == 3


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_that_is_not_installed_is_named_with_its_remedy(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "distill_lab.export")
    with pytest.raises(UserError, match=rf"\({package}\S*\); run: pip install 'distill-lab\[exp"):
        importlib.import_module("distill_lab.export")


# --- the tokenizer -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_tokenizer_alone_cuts_and_pads_as_ours_does(
    side: str, small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    small_tokenizer.padding_side = small_tokenizer.truncation_side = side
    texts = ["a rose", "we saw the tulip near the moss, and one fern today again", "the gull"]
    save_tokenizer(small_tokenizer, tmp_path / "tokenizer.json", max_length=8)
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(texts)
    wanted = small_tokenizer(texts, truncation=True, max_length=8, padding=True)
    assert [e.ids for e in found] == wanted["input_ids"]
    assert [e.attention_mask for e in found] == wanted["attention_mask"]
    assert len(found[0].ids) == 8


def test_a_tokenizer_that_needs_transformers_is_refused(tmp_path: Path) -> None:
    slow = object()
    with pytest.raises(UserError, match="no fast tokenizer"):
        save_tokenizer(slow, tmp_path / "tokenizer.json", max_length=8)


# --- measuring ---------------------------------------------------------------------------------


def test_a_measurement_is_of_the_file_and_of_the_whole_split(
    exported: Path, small_task: Task, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    student, teacher = model_of("Bert"), small_bert(layers=6, width=64)
    path = exported / "model.onnx"
    data, collate = small_task.encode("test", small_tokenizer), small_task.collator(small_tokenizer)
    classifier = OnnxClassifier(path)
    ours, theirs = compare_logits(classifier, student, data, collate)
    batch = collate([data[k] for k in range(len(data))])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert ours.shape == (len(data), 3)
    assert torch.allclose(theirs, torch_logits(student, inputs), atol=1e-5)  # in the rows' order
    found = measure_export(classifier, student, teacher, data, collate)
    right = ours.argmax(1) == batch["labels"]
    assert found["accuracy"] == pytest.approx(right.double().mean().item())
    assert found["max_abs_difference"] == (ours - theirs).abs().max().item() < 1e-5
    assert found["agreement"] == 1.0
    assert found["bytes"] == path.stat().st_size
    assert found["compression"] == pytest.approx(
        4 * sum(p.numel() for p in teacher.parameters()) / path.stat().st_size
    )
    assert found["speedup"] == found["throughput"] / found["teacher_throughput"] > 0
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]


# --- exporting a run ---------------------------------------------------------------------------


class Exported(NamedTuple):
    run: Path
    out: Path
    report: dict[str, Any]
    said: list[str]


def copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place / "run"))


@pytest.fixture(scope="module")
def exported_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A finished run, and its student's export in float32 and int8."""
    place = tmp_path_factory.mktemp("export")
    run, said = copied(finished_run, place), []
    report = export_run(run, place / "new" / "out", int8=True, say=said.append)
    return Exported(run, place / "new" / "out", report, said)


def test_a_run_is_exported_whole_and_its_report_says_so(
    exported_run: Exported, finished_run: Path
) -> None:
    run, out, report, _ = exported_run
    files = ["README.md", "model.int8.onnx", "model.onnx", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert list(out.parent.iterdir()) == [out]
    assert load_report(run) == report
    assert {k: v for k, v in report.items() if k != "exports"} == load_report(finished_run)
    assert set(report["exports"]) == {"onnx", "onnx_int8"}
    for name, file in (("onnx", "model.onnx"), ("onnx_int8", "model.int8.onnx")):
        found = report["exports"][name]
        assert found["bytes"] == (out / file).stat().st_size
        assert {"throughput", "latency_ms", "accuracy", "max_abs_difference"} < set(found)
    accuracy = report["students"]["distilled"]["accuracy"]["values"][0]
    assert report["exports"]["onnx"]["accuracy"] == pytest.approx(accuracy)
    assert report["exports"]["onnx"]["max_abs_difference"] <= 1e-4
    assert "Exported to ONNX" in (run / "report.html").read_text(encoding="utf-8")


NO_TORCH = "import sys; sys.modules.update(torch=None, transformers=None, distill_lab=None)\n"


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_the_readmes_five_lines_run_without_torch_and_transformers(
    file: str, exported_run: Exported
) -> None:
    readme = (exported_run.out / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example.count("\n") == 5
    texts = ["we saw the rose near a tulip.", "nobody liked the storm"]
    example = re.sub(r"encode_batch\(.*\)", lambda _: f"encode_batch({texts!r})", example)
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH + example.replace("model.onnx", file)],
        cwd=exported_run.out,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pair = load_pair(exported_run.run)
    wanted = predict_texts(pair, texts, device="cpu").student.argmax(1)
    assert done.stdout.strip() == str([pair.label_names[k] for k in wanted.tolist()])


@pytest.mark.slow
def test_exporting_again_replaces_what_the_report_says_of_exports(
    exported_run: Exported, tmp_path: Path, exported_files: None
) -> None:
    run = copied(exported_run.run, tmp_path)
    before = load_report(run)
    (tmp_path / "out").mkdir()  # empty: it may be used
    after = export_run(run, tmp_path / "out", say=lambda line: None)
    assert set(after["exports"]) == {"onnx"} and load_report(run) == after
    assert not (tmp_path / "out" / "model.int8.onnx").exists()
    assert {k: v for k, v in after.items() if k != "exports"} == {
        k: v for k, v in before.items() if k != "exports"
    }
    assert "model.int8.onnx" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_run_that_is_repeated_keeps_its_exports(
    exported_run: Exported, small_settings: Settings
) -> None:
    report = run_pipeline(small_settings, exported_run.run, say=lambda line: None)
    assert report == exported_run.report


@pytest.fixture
def exported_files(exported_run: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exporter write what it wrote before: the rest of the work is tested."""

    def write(model: Any, path: Path, *, max_length: int) -> None:
        shutil.copy(exported_run.out / "model.onnx", path)

    monkeypatch.setattr(export, "export_onnx", write)


def refused(run: Path, out: Path) -> str:
    """Export, assert that it was refused and that nothing was written, and give the line."""
    report, before = (run / "report.json"), set(out.parent.rglob("*"))
    content = report.read_bytes() if report.is_file() else b""
    with pytest.raises(UserError) as error:
        export_run(run, out, int8=True, say=lambda line: None)
    assert set(out.parent.rglob("*")) == before
    assert not content or report.read_bytes() == content
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_that_gives_something_else_is_refused(
    finished_run: Path,
    exported_files: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = copied(finished_run, tmp_path)
    student = load_pair(run).student
    with torch.no_grad():
        student.classifier.bias += 2e-4
    student.save_pretrained(run / "students" / "distilled-seed0")
    assert "logits differ by 0.0002, at most 0.0001 is accepted" in refused(run, tmp_path / "out")
    monkeypatch.setattr(export, "measure_export", lambda *a, **k: {"max_abs_difference": math.nan})
    assert "logits differ by nan" in refused(run, tmp_path / "out")


def test_an_interruption_leaves_nothing(
    finished_run: Path, exported_files: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "measure_export", interrupt)
    run = copied(finished_run, tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        export_run(run, tmp_path / "out", say=lambda line: None)
    assert set(tmp_path.rglob("*")) == before and "exports" not in load_report(run)


def test_a_place_that_cannot_be_written_or_is_taken_is_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    assert "is not empty" in refused(finished_run, tmp_path / "full")
    assert "is a file" in refused(finished_run, tmp_path / "full" / "file")
    assert "cannot be written" in refused(finished_run, tmp_path / "full" / "file" / "out")
    for number, said in (
        (errno.EACCES, "be written (Permission denied)"),
        (errno.ENOENT, "be made"),
    ):

        def denied(*_: Any, number: int = number, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "mkdir", denied)
        assert f"cannot {said}" in refused(finished_run, tmp_path / "out")


def test_a_run_that_is_not_there_or_not_finished_is_refused(
    finished_run: Path, tmp_path: Path
) -> None:
    assert "is no run's folder" in refused(tmp_path / "none", tmp_path / "out")
    run = copied(finished_run, tmp_path)
    (run / "report.json").unlink()
    assert "is not finished" in refused(run, tmp_path / "out")


def test_a_task_whose_data_changed_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = copied(finished_run, tmp_path)
    report = load_report(run)
    report["task"]["test"] += 1
    write_json(run / "report.json", report)
    assert "its data changed" in refused(run, tmp_path / "out")


def test_the_students_own_tokenizer_is_exported(
    finished_run: Path, exported_files: None, tmp_path: Path
) -> None:
    run = copied(finished_run, tmp_path)
    path = run / "students" / "distilled-seed0" / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    words = state["model"]["vocab"]
    for one, other in zip(TOPICS["garden"], TOPICS["sea"], strict=True):
        words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(state), encoding="utf-8")
    report = export_run(run, tmp_path / "out", say=lambda line: None)
    found = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert found.token_to_id("rose") == words["rose"]
    accuracy = report["students"]["distilled"]["accuracy"]["values"][0]
    assert report["exports"]["onnx"]["accuracy"] < accuracy  # the texts were encoded with it


def test_a_tokenizer_that_gives_other_ids_than_its_file_is_refused(
    finished_run: Path, exported_files: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(processor: Any, path: Path, *, max_length: int) -> None:
        save_tokenizer(processor, path, max_length=4)

    monkeypatch.setattr(export, "save_tokenizer", save)
    assert "gives other token ids" in refused(finished_run, tmp_path / "out")
