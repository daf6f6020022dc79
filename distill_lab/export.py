"""Write a distilled student as an ONNX model that runs without torch, and measure it there.

ONNX is a file format for a model's graph of operations and its weights; onnxruntime runs such a
file on many kinds of processors. An exported folder holds::

    model.onnx          float32, its weights inside
    model.int8.onnx     8-bit integer weights, if asked for
    tokenizer.json      text → token ids, cut and padded as the model expects
    README.md           what it is, and five lines that use it
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distill_lab.errors import UserError
from distill_lab.evaluation import accuracy_and_macro_f1, measure_speeds
from distill_lab.files import check_new_folder, written_whole
from distill_lab.knowledge import take_rows
from distill_lab.models import count_bytes, count_parameters
from distill_lab.pipeline import Say, Settings, read_settings
from distill_lab.prediction import Pair, load_pair
from distill_lab.report import load_report, write_report
from distill_lab.tasks import Task, load_task

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  # torch's exporter needs it
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError as error:
    raise UserError(
        f"ONNX export needs a package that is not installed ({error.name}); "
        "run: pip install 'distill-lab[export]'"
    ) from error

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]
FILES = {"onnx": "model.onnx", "onnx_int8": "model.int8.onnx"}
INPUTS = ("input_ids", "attention_mask")
TOLERANCE = 1e-4  # of a logit, between torch and the float32 ONNX model
BATCH_SIZES = (1, 2, 7, 32)  # in which the two are compared, in turn
TEXTS_TO_COMPARE = 1000  # by the exported tokenizer


# --- writing a model ---------------------------------------------------------------------------


class _Logits(nn.Module):
    """A classifier that takes token ids and mask, and gives its logits alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export_onnx(model: PreTrainedModel, path: Path, *, max_length: int) -> None:
    """Write a classifier as a float32 ONNX model, its weights inside; the model is left as it is.

    The file's inputs are ``input_ids`` and ``attention_mask`` (int64, [batch, tokens]), its output
    is ``logits`` (float32, [batch, classes]); batch and tokens may be of any size up to what the
    model takes. It is traced by ``torch.export`` (torch.onnx.export with dynamo=True).

    Args:
        model: A sequence classifier that reads token ids.
        path: The file.
        max_length: Tokens of the example it is traced with: the longest inputs it will get.

    Raises:
        UserError: The exporter cannot do this architecture.
    """
    traced = copy.deepcopy(model).cpu().float().eval()
    ids = torch.ones(2, max_length, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    sizes = {0: "batch", 1: "tokens"}
    with _quiet(), _told(f"{type(model).__name__} cannot be exported to ONNX"):
        traced.set_attn_implementation("eager")  # fewer operations than the fused kernel becomes
        program = torch.onnx.export(
            _Logits(traced),
            kwargs=dict(zip(INPUTS, (ids, mask), strict=True)),
            input_names=INPUTS,
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(INPUTS, sizes),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        graph = _without_notes(program.model_proto)
    onnx.save(graph, path)


def _without_notes(model: Any) -> Any:
    """Drop what the exporter notes at each operation: 0.3 MB, with paths of this machine in it."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")  # shapes of intermediate results; onnxruntime infers them
    return model


def quantize_int8(source: Path, target: Path) -> None:
    """Write a float32 ONNX model anew with int8 weights (dynamic quantization).

    Weights of matrix products and embedding tables become 8-bit integers with one scale a tensor;
    the inputs of the products are rounded to 8 bits as they come, by the range that the whole
    batch has. So a text's logits depend a little on what else is in its batch. Of the weights' 8
    bits 7 are used: older x86 processors add the products of two of them in 16 bits, where 8
    would overflow (onnxruntime's documentation, "Quantize ONNX models", on reduce_range).

    Raises:
        UserError: onnxruntime cannot quantize this model.
    """
    with _quiet(), _told("the ONNX model cannot be quantized"):
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, reduce_range=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes that the exporter and the quantizer write for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell a library's failure in one line, that of its deepest cause."""
    try:
        yield
    except OSError:  # a full disk, say: it has words of its own
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise UserError(
            f"{what}: {type(cause).__name__}: {reason[:200]}; nothing was written, "
            "choose a student of another architecture"
        ) from error


def save_tokenizer(processor: Any, path: Path, *, max_length: int) -> None:
    """Write a tokenizer so that the package tokenizers alone cuts and pads as we do.

    Raises:
        UserError: It is none of the fast tokenizers, which that package can read.
    """
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(processor).__name__} has no fast tokenizer that can be written as "
            "tokenizer.json; choose a student with one"
        )
    tokenizer = Tokenizer.from_str(backend.to_str())  # a copy
    tokenizer.enable_truncation(max_length, direction=processor.truncation_side)
    tokenizer.enable_padding(
        direction=processor.padding_side,
        pad_id=processor.pad_token_id,
        pad_token=processor.pad_token,
    )
    tokenizer.save(str(path))


# --- running and measuring it ------------------------------------------------------------------


class OnnxClassifier:
    """An ONNX classifier as ``export_onnx`` writes it, run by onnxruntime on the CPU.

    Args:
        path: The file.
        threads: Threads of an operation; as many as torch uses if None.

    Raises:
        UserError: There is no such file, or it is no ONNX model.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.path = Path(path)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(
                self.path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class for each of its many reasons
            what = (
                "is no ONNX model that onnxruntime can run" if self.path.is_file() else "is no file"
            )
            raise UserError(f"{self.path} {what}; export a model first") from error

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """Give the logits of a collated batch, float32 [batch, classes]."""
        feeds = {name: batch[name].cpu().numpy() for name in INPUTS}
        return torch.from_numpy(self.session.run(["logits"], feeds)[0])


@torch.no_grad()
def compare_logits(
    classifier: OnnxClassifier,
    student: PreTrainedModel,
    data: Any,
    collate: Collate,
    *,
    what: str = "comparing",
) -> tuple[Tensor, Tensor]:
    """Give the logits of an export and of the torch model it was made from, on the same batches.

    Batches hold 1, 2, 7 and 32 rows in turn, as they come, padded to the longest of the batch.

    Args:
        classifier: The export.
        student: The torch model, on the CPU.
        data: Encoded rows.
        collate: Makes a batch of rows.
        what: Said by the progress bar.

    Returns:
        Two tensors, float32 [examples, classes], in the rows' order.
    """
    student.eval()
    ours, theirs = [], []
    sizes = cycle(BATCH_SIZES)
    with tqdm(total=len(data), desc=what, unit="example", leave=False) as bar:
        start = 0
        while start < len(data):
            rows = take_rows(data, start, start + next(sizes))
            batch = collate(rows)
            ours.append(classifier(batch))
            theirs.append(student(**{name: batch[name] for name in INPUTS}).logits)
            start += len(rows)
            bar.update(len(rows))
    return torch.cat(ours), torch.cat(theirs)


def measure_export(
    classifier: OnnxClassifier,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Any,
    collate: Collate,
    *,
    name: str = "ONNX",
) -> dict[str, Any]:
    """Measure an export on a labelled split: how it answers, what it costs.

    Speed is measured as ``measure_cost`` does, the teacher's (torch, eager float32) in turn with
    the export's, all on the CPU with the same number of threads. The teacher is fed the student's
    token ids: what they say does not change the time.

    Args:
        classifier: The export.
        student: The torch model it was made from, on the CPU.
        teacher: On the CPU.
        data: The split's rows, encoded.
        collate: Makes a batch of rows.
        name: Said by the progress bars.

    Returns:
        ``bytes`` of the file; ``throughput`` (examples a second at batch 32); ``latency_ms`` (p50
        and p95 of one example); ``accuracy`` on all rows; ``max_abs_difference`` of a logit from
        the student's; ``agreement``, the share of rows that get the student's class;
        ``teacher_throughput``, measured here; ``speedup``, the ratio of the two throughputs;
        ``compression``, the teacher's bytes over the file's.
    """
    teacher.eval()
    ours, theirs = compare_logits(classifier, student, data, collate, what=f"checking {name}")
    speed, teacher_speed = measure_speeds(
        [classifier, lambda inputs: teacher(**inputs)], data, collate, what=f"timing {name}"
    )
    return {
        "bytes": classifier.bytes,
        "throughput": speed.throughput,
        "latency_ms": speed.latency_ms,
        "accuracy": accuracy_and_macro_f1(ours, data["label"][:])["accuracy"],
        "max_abs_difference": (ours - theirs).abs().max().item(),
        "agreement": (ours.argmax(1) == theirs.argmax(1)).double().mean().item(),
        "teacher_throughput": teacher_speed.throughput,
        "speedup": speed.throughput / teacher_speed.throughput,
        "compression": count_bytes(teacher) / classifier.bytes,
    }


# --- exporting a run ---------------------------------------------------------------------------


def export_run(run: Path, out: Path, *, int8: bool = False, say: Say = print) -> dict[str, Any]:
    """Export a finished run's distilled student (first seed), and add it to the run's report.

    The folder is written whole or not at all, and only when the ONNX model gives the logits that
    torch gives, to 1e-4, on the whole test split.

    Args:
        run: The run's folder.
        out: A new folder, or an empty one.
        int8: Whether to quantize, too.
        say: Called with a line at each step.

    Returns:
        The report, with ``exports``.

    Raises:
        UserError: The run is not finished, ``out`` cannot be used, or the export failed.
    """
    pair = load_pair(run)
    check_new_folder(out)
    report = load_report(run)
    with written_whole(out) as folder:
        folder.mkdir()  # now, so that a place which may not be written costs no work
        settings = Settings(**read_settings(run / "config.toml"))
        task = load_task(settings.task, **settings.columns, max_length=settings.max_length)
        if len(task.test) != report["task"]["test"]:
            raise UserError(
                f"the task has {len(task.test):,} test examples and the run had "
                f"{report['task']['test']:,}: its data changed; repeat the run first"
            )
        exports = _write(folder, pair, task, int8=int8, say=say)
        (folder / "README.md").write_text(_readme(task, exports), encoding="utf-8")
    report["exports"] = exports
    write_report(report, run)
    return report


def _write(folder: Path, pair: Pair, task: Task, *, int8: bool, say: Say) -> dict[str, Any]:
    """Write models and tokenizer into a folder; give what was measured of the models."""
    student, teacher, processor = pair.student, pair.teacher, pair.student_processor
    save_tokenizer(processor, folder / "tokenizer.json", max_length=task.max_length)
    data, collate = task.encode("test", processor), task.collator(processor)
    _check_tokenizer(folder / "tokenizer.json", task.test["text"][:TEXTS_TO_COMPARE], data)
    say(f"Export: {type(student).__name__}, {count_parameters(student):,} parameters, to ONNX")
    paths = {name: folder / file for name, file in FILES.items()}
    export_onnx(student, paths["onnx"], max_length=task.max_length)
    if int8:
        quantize_int8(paths["onnx"], paths["onnx_int8"])
    else:
        del paths["onnx_int8"]
    exports: dict[str, Any] = {}
    for name, path in paths.items():
        say(f"Check: {path.name} against torch on {len(data):,} test examples; its speed")
        exports[name] = measure_export(
            OnnxClassifier(path), student, teacher, data, collate, name=path.name
        )
        difference = exports[name]["max_abs_difference"]
        if name == "onnx" and not difference <= TOLERANCE:
            raise UserError(
                "the ONNX model does not give what torch gives: logits differ by "
                f"{difference:.1g}, at most {TOLERANCE:g} is accepted; nothing was written, choose "
                "a student of another architecture"
            )
    return exports


def _check_tokenizer(path: Path, texts: Sequence[str], data: Any) -> None:
    """Refuse a tokenizer.json that gives other ids than the tokenizer it was made from.

    Raises:
        UserError: It does.
    """
    found = Tokenizer.from_file(str(path))
    found.no_padding()
    ids = [encoding.ids for encoding in found.encode_batch(texts)]
    if ids != data["input_ids"][: len(texts)]:
        raise UserError(
            "the student's tokenizer.json, read by the package tokenizers, gives other token ids "
            "than transformers does; it cannot be used without transformers"
        )


def _readme(task: Task, exports: Mapping[str, Mapping[str, Any]]) -> str:
    kinds = {
        "onnx": "weights in float32",
        "onnx_int8": "the same with int8 weights, inputs of the products rounded to 8 bits",
    }
    rows = "\n".join(
        f"| `{FILES[name]}` | {kinds[name]} | {e['bytes'] / 1e6:.1f} | {100 * e['accuracy']:.1f} |"
        f" {e['max_abs_difference']:.1g} |"
        for name, e in exports.items()
    )
    labels = json.dumps(list(task.label_names), ensure_ascii=False)
    return _README.format(
        name=task.name,
        classes=len(task.label_names),
        rows=rows,
        labels=labels,
        feeds='{"input_ids": ids, "attention_mask": mask}',
        examples=f"{len(task.test):,}",
        max_length=task.max_length,
    )


_README = """# A text classifier in ONNX: {name}

It sorts texts into {classes} classes. `distill-lab export` made it from a distilled student.

| file | what it is | MB | accuracy, % | largest difference |
|---|---|---|---|---|
{rows}

Accuracy is that on the {examples} test examples of the run; the difference is that of a logit from
the student's in torch, over the same examples. `tokenizer.json` turns texts into token ids, cut at
{max_length} tokens and padded to the longest text.

It needs `pip install onnxruntime tokenizers` (NumPy comes with onnxruntime) and nothing else. In
this folder:

```python
import numpy as np, onnxruntime as ort, tokenizers
texts = tokenizers.Tokenizer.from_file("tokenizer.json").encode_batch(["A text.", "Another one."])
ids, mask = np.array([(t.ids, t.attention_mask) for t in texts], dtype="int64").swapaxes(0, 1)
[logits] = ort.InferenceSession("model.onnx").run(None, {feeds})
print([{labels}[k] for k in logits.argmax(1)])
```

Inputs are int64 [batch, tokens], the logits float32 [batch, classes]; their softmax gives
probabilities. onnxruntime uses all cores unless `SessionOptions.intra_op_num_threads` says
otherwise. With int8, inputs are rounded by the range of the whole batch, so a text's logits depend
a little on what else is in its batch.
"""
