"""A frozen teacher's knowledge: observed live, or extracted once and read from a store.

Knowledge is a set of *features*, each with a name:

==========================  =====================================  =============================
``logits``                  the classifier's output                [batch, classes]
``pooled.LAYER``            mean over unmasked tokens of a layer   [batch, width]
``hidden_states.LAYER``     a layer's output                       [batch, tokens, width]
``attentions.LAYER``        a block's attention probabilities,     [batch, heads, tokens, tokens]
                            before dropout
``query.LAYER`` …           what the block's query, ``key`` and    [batch, tokens, width]
                            ``value`` maps give, heads side by side
==========================  =====================================  =============================

LAYER is ``embeddings`` or ``layer.k`` (see ``models``). A live teacher and a store give the same
keys for a batch, each feature's name behind ``teacher_``, and zeros where the mask is 0; what
reads them cannot tell which it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Value
from datasets import Sequence as ListOf
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distill_lab.attention import attention_in_the_open
from distill_lab.devices import (
    agreed,
    autocast,
    dtype_name,
    moved,
    on_device,
    own_device,
    pick_dtype,
    processes,
)
from distill_lab.errors import UserError
from distill_lab.files import json_hash, write_json, written_whole
from distill_lab.models import (
    attention_maps,
    block_index,
    encoder_blocks,
    hidden_state_index,
    label_names,
    processor_fingerprint,
    weights_fingerprint,
)
from distill_lab.vocabulary import parent_fingerprint

if TYPE_CHECKING:
    from distill_lab.tasks import Task

PREFIX = "teacher_"
FORMAT = 1
STORED_DTYPES = ("float32", "float16")
LAYER_KINDS = ("pooled", "hidden_states", "attentions", "query", "key", "value")
NOT_MODEL_INPUTS = ("labels", "id")
JOINED_BYTES = 2**28  # a larger column of a store is read from its file, shard by shard


class Knowledge(Protocol):
    """What gives a teacher's features for a batch: a ``LiveTeacher`` or a ``KnowledgeStore``."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Give ``{"teacher_" + feature: tensor}`` for a batch with ``id`` and model inputs."""


class Feature(NamedTuple):
    """A feature's name taken apart; ``layer`` is None for ``logits``."""

    kind: str
    layer: str | None


def parse_feature(name: str) -> Feature:
    """Take ``"hidden_states.layer.2"`` apart into ``("hidden_states", "layer.2")``.

    Raises:
        UserError: There is no such feature.
    """
    kind, _, layer = name.partition(".")
    if name == "logits":
        return Feature("logits", None)
    if kind not in LAYER_KINDS or not layer:
        raise UserError(
            f"no feature is called {name!r}; choose logits, or one of {', '.join(LAYER_KINDS)} "
            "with a layer's name behind a dot, as in hidden_states.layer.2"
        )
    return Feature(kind, layer)


# --- observing a model -------------------------------------------------------------------------


def observe(
    model: PreTrainedModel, batch: Mapping[str, Any], features: Iterable[str] = ("logits",)
) -> dict[str, Tensor]:
    """Run a model on a batch and give the named features, gradients attached where they are on.

    Args:
        model: Teacher or student.
        batch: What the task's collator made; ``labels``, ``id`` and teacher keys are not fed.
        features: Names as in the module's table.

    Raises:
        UserError: A feature is unknown, or the model has no such layer.
    """
    wanted = {name: parse_feature(name) for name in features}
    depth = model.config.num_hidden_layers
    kinds = {feature.kind for feature in wanted.values()}
    with ExitStack() as hooks:
        if "attentions" in kinds:
            hooks.enter_context(attention_in_the_open(model))
        caught = {
            name: hooks.enter_context(_Catch(_qkv_map(model, feature)))
            for name, feature in wanted.items()
            if feature.kind in ("query", "key", "value")
        }
        output = model(
            **model_inputs(batch),
            output_hidden_states=bool(kinds & {"pooled", "hidden_states"}),
            output_attentions="attentions" in kinds,
        )
    found = {}
    for name, (kind, layer) in wanted.items():
        if layer is None:
            found[name] = output.logits
        elif kind == "attentions":
            found[name] = output.attentions[block_index(layer, depth)]
        elif name in caught:
            found[name] = caught[name].value
        else:
            states = output.hidden_states[hidden_state_index(layer, depth)]
            pool = kind == "pooled"
            found[name] = masked_mean(states, token_mask(batch, states)) if pool else states
    return found


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give what of a batch the model is fed: no labels, no ids, nothing of a teacher's."""
    return {
        key: value
        for key, value in batch.items()
        if key not in NOT_MODEL_INPUTS and not key.startswith(PREFIX)
    }


def take_rows(data: Any, start: int, stop: int) -> list[dict[str, Any]]:
    """Give the rows from ``start`` to before ``stop``, or to the end, as a collator takes them."""
    columns = data[start:stop]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def token_mask(batch: Mapping[str, Any], states: Tensor) -> Tensor:
    """Give the batch's token mask, bool [batch, tokens]; all true where the modality has none."""
    mask: Tensor | None = batch.get("attention_mask")
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return mask.to(device=states.device, dtype=torch.bool)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over unmasked tokens: [batch, tokens, width] → [batch, width]."""
    kept = torch.where(mask[..., None], states, 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def _qkv_map(model: PreTrainedModel, feature: Feature) -> nn.Module:
    blocks = encoder_blocks(model)
    return attention_maps(blocks[block_index(feature.layer or "", len(blocks))])[feature.kind]


class _Catch:
    """Keep what a module gives in the forward passes inside a ``with`` block."""

    value: Tensor

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> _Catch:
        self.handle = self.module.register_forward_hook(self._keep)
        return self

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.value = output

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


# --- the frozen teacher ------------------------------------------------------------------------


class FrozenTeacher(nn.Module):
    """The one place that freezes a teacher: evaluation mode, no gradients, and it stays so.

    ``train()`` on this module or on one that owns it leaves the teacher asleep, and one woken
    behind its back is put to sleep again before it is asked. ``no_grad`` rather than
    ``inference_mode``: inference tensors cannot enter a loss that saves them for backward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.training = False

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Change nothing: a teacher cannot wake."""
        return self

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any], features: Iterable[str]) -> dict[str, Tensor]:
        """Observe the features; none of them carries a gradient."""
        # Looking costs a tenth of what setting both for every module and parameter does.
        if any(module.training for module in self.model.modules()):
            self.model.eval()
        if any(parameter.requires_grad for parameter in self.model.parameters()):
            self.model.requires_grad_(False)
        return observe(self.model, batch, features)


def check_apart(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a student that is its teacher, or that shares a parameter's storage with it.

    Raises:
        UserError: They are not apart.
    """
    theirs = {p.untyped_storage().data_ptr() for p in teacher.parameters() if p.numel()}
    shared = [
        name for name, p in student.named_parameters() if p.untyped_storage().data_ptr() in theirs
    ]
    if student is teacher or shared:
        raise UserError(
            f"student and teacher share parameters ({', '.join(shared[:3])}, {len(shared)} in "
            "all), so training one would change the other; give the student copies of them"
        )


class LiveTeacher:
    """Knowledge that is computed for each batch as it comes.

    Args:
        teacher: Frozen here, on the device where it lies.
        features: Names as in the module's table.
        dtype: Autocast dtype; float32 computes exactly as written.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        features: Sequence[str] = ("logits",),
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.teacher = FrozenTeacher(teacher)
        self.features = tuple(features)
        self.dtype = dtype

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Give the teacher's features for a batch, float32, zero where the mask is 0."""
        device = self.teacher.model.device
        batch = on_device(batch, device)
        with autocast(device, self.dtype):
            found = self.teacher(batch, self.features)
        return {
            PREFIX + name: _zero_padding(name, value.float(), batch)
            for name, value in found.items()
        }


def _zero_padding(name: str, value: Tensor, batch: Mapping[str, Any]) -> Tensor:
    kind = parse_feature(name).kind
    if kind in ("logits", "pooled"):
        return value
    if kind == "attentions":
        mask = token_mask(batch, value[:, 0])
        return torch.where((mask[:, :, None] & mask[:, None, :])[:, None], value, 0.0)
    return torch.where(token_mask(batch, value)[..., None], value, 0.0)


# --- extracting --------------------------------------------------------------------------------


def fingerprint(
    teacher: PreTrainedModel,
    processor: Any,
    *,
    max_length: int,
    dtype: str,
    features: Sequence[str],
    top_k: int | None = None,
) -> dict[str, Any]:
    """Say what stored knowledge depends on (beside the texts, hashed example by example).

    Args:
        dtype: Of computation and of storage, as in ``"bfloat16 → float32"``.
    """
    return {
        "teacher": weights_fingerprint(teacher),
        "tokenizer": processor_fingerprint(processor),
        "max_length": max_length,
        "dtype": dtype,
        "features": sorted(features),
        "top_k": top_k,
        "classes": label_names(teacher),
    }


def extract(
    teacher: PreTrainedModel,
    task: Task,
    processor: Any,
    folder: str | Path,
    *,
    split: str = "transfer",
    features: Sequence[str] = ("logits",),
    top_k: int | None = None,
    stored_dtype: str = "float32",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
    shard_size: int = 4096,
) -> KnowledgeStore:
    """Run a frozen teacher over a split once and store what it knows.

    Examples go through sorted by length, so that little is computed on padding. Each shard is
    written whole; an interrupted extraction goes on with the first shard that is missing. Under
    ``torchrun`` each process writes its share of the shards.

    Args:
        teacher: The model to ask; it is frozen.
        task: Gives the examples.
        processor: The teacher's tokenizer.
        folder: The store. One that is complete and made from the same things is opened.
        split: Which of the task's splits.
        features: What to keep (see the module's table). ``logits`` is always kept.
        top_k: Keep only the k most probable classes and the mass of all others.
        stored_dtype: ``float32`` or ``float16``, of all features but the logits, which stay
            float32.
        device: ``auto | cpu | cuda | mps``.
        dtype: Of computation: ``auto`` (as a store was begun, else bfloat16 where that is faster),
            ``float32`` or ``bfloat16``.
        batch_size: Examples in a batch.
        shard_size: Examples in a shard.

    Raises:
        UserError: The folder holds knowledge made from something else, an argument is wrong, or
            the disk is full.
    """
    folder = Path(folder)
    if stored_dtype not in STORED_DTYPES:
        raise UserError(f"stored dtype {stored_dtype!r}; choose {' or '.join(STORED_DTYPES)}")
    if top_k is not None and not 1 <= top_k <= task.num_classes:
        raise UserError(f"top_k is {top_k}; expected 1 to {task.num_classes}, the classes")
    if min(batch_size, shard_size) < 1:
        raise UserError(f"batches of {batch_size} and shards of {shard_size}; give at least 1")
    features = tuple(dict.fromkeys(("logits", *features)))
    _check_features(teacher, features)
    if label_names(teacher) != list(task.label_names):
        raise UserError(
            f"the teacher's classes are {', '.join(label_names(teacher))}, the task's "
            f"{', '.join(task.label_names)}; give a teacher of this task"
        )
    manifest = _read_manifest(folder)
    state = processes(device)
    place = own_device(device)
    if dtype == "auto" and manifest is not None:
        # What is faster is measured, and may be measured otherwise the next time.
        dtype = manifest["fingerprint"]["dtype"].partition(" ")[0]
    dtype = agreed(dtype)  # a folder that is not shared has one manifest
    computed = pick_dtype(place, dtype)
    made_from = fingerprint(
        teacher,
        processor,
        max_length=task.max_length,
        dtype=f"{dtype_name(computed)} → {stored_dtype}",
        features=features,
        top_k=top_k,
    )
    data, collate = task.encode(split, processor), task.collator(processor)
    lengths = np.asarray(data["length"][:] if "length" in data.column_names else [0] * len(data))
    order = np.argsort(-lengths, kind="stable")
    shards = [order[k : k + shard_size] for k in range(0, len(order), shard_size)]
    names = [_shard_name(k) for k in range(len(shards))]
    contents = _contents_hash(data)

    if manifest is not None:
        _check_same(manifest["fingerprint"], made_from, folder)
        if manifest["contents"] != contents:
            raise UserError(
                f"the store {folder} was begun for other examples, or their content has changed; "
                "give another folder, or delete it"
            )
        if manifest["shard_size"] != shard_size:
            raise UserError(
                f"the store {folder} was begun with shards of {manifest['shard_size']} examples, "
                f"not {shard_size}; give another folder, or delete it"
            )
        broken = [shard for shard in manifest["shards"] if not _is_sound(folder, shard)]
        if manifest["complete"] and not broken:
            return KnowledgeStore(folder)
        for shard in broken:
            (folder / shard["file"]).unlink(missing_ok=True)
    elif folder.is_dir() and any(path.suffix != ".part" for path in folder.iterdir()):
        raise UserError(f"the folder {folder} holds something else; give a new or empty one")
    manifest = {
        "format": FORMAT,
        "complete": False,
        "fingerprint": made_from,
        "contents": contents,
        "shard_size": shard_size,
        "split": split,
        "examples": len(data),
        "shards": [],
    }
    missing = [k for k in range(len(shards)) if not _is_whole(folder / names[k], len(shards[k]))]
    mine = missing[state.process_index :: state.num_processes]
    state.wait_for_everyone()  # all have looked at the folder before the first writes to it
    if state.is_main_process:
        write_json(folder / "manifest.json", manifest)
    state.wait_for_everyone()

    ask = LiveTeacher(moved(teacher, place), features, dtype=computed)
    schema = _schema(features, task.num_classes, top_k, stored_dtype)
    with tqdm(
        total=sum(len(shards[k]) for k in mine),
        desc="extracting",
        unit="example",
        disable=not state.is_main_process,
    ) as bar:
        for k in mine:
            answers = _ask(ask, data.select(shards[k]), collate, batch_size, bar)
            _write_shard(folder / names[k], answers, schema, top_k)

    state.wait_for_everyone()
    if state.is_main_process:
        _check_all_here(folder, names)
        manifest["shards"] = [
            {"file": name, "rows": len(rows), "bytes": (folder / name).stat().st_size}
            for name, rows in zip(names, shards, strict=True)
        ]
        manifest["complete"] = True
        write_json(folder / "manifest.json", manifest)
    state.wait_for_everyone()
    return KnowledgeStore(folder)


def pack(store: KnowledgeStore, folder: str | Path) -> KnowledgeStore:
    """Write a store of logits anew, in one compressed shard sorted by id: the same, but small.

    It loses nothing, and it is read like any other; only mapping it costs its decompression.

    Raises:
        UserError: The store has more than logits.
    """
    if store.features != ("logits",):
        raise UserError(f"only logits are packed; this store has {', '.join(store.features)}")
    folder, name = Path(folder), _shard_name(0)
    tables = [shard.data.table for shard in store._shards]
    table = pa.concat_tables(tables).sort_by("id").combine_chunks()
    with (
        written_whole(folder / name) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(
            sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
        ) as writer,
    ):
        writer.write_table(table, max_chunksize=len(table))
    shard = {"file": name, "rows": len(table), "bytes": (folder / name).stat().st_size}
    manifest = store.manifest | {"shard_size": len(table), "shards": [shard]}
    write_json(folder / "manifest.json", manifest)
    return KnowledgeStore(folder)


def _check_features(teacher: PreTrainedModel, features: Iterable[str]) -> None:
    """Refuse a feature that the teacher has not, before anything is computed or written."""
    depth = teacher.config.num_hidden_layers
    for name in features:
        feature = parse_feature(name)
        if feature.kind in ("pooled", "hidden_states"):
            hidden_state_index(feature.layer or "", depth)
        elif feature.kind == "attentions":
            block_index(feature.layer or "", depth)
        elif feature.kind != "logits":
            _qkv_map(teacher, feature)


def _ask(
    ask: LiveTeacher, rows: Dataset, collate: Callable[..., Any], batch_size: int, bar: tqdm
) -> Iterator[tuple[dict[str, Any], list[str], dict[str, Tensor]]]:
    """Yield each batch, its content hashes, and what the teacher says of it."""
    for start in range(0, len(rows), batch_size):
        part = take_rows(rows, start, start + batch_size)
        batch = collate(part)
        yield batch, [row["content_hash"] for row in part], ask(batch)
        bar.update(len(part))


def _check_all_here(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which other processes' shards do not turn up.

    Raises:
        UserError: One is missing.
    """
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(
            f"another process wrote {missing[0]}, but it is not in {folder}; give a folder that "
            "all machines share"
        )


def _contents_hash(data: Dataset) -> str:
    """Hash ids and content hashes, whatever their order."""
    pairs = sorted(zip(data["id"][:], data["content_hash"][:], strict=True))
    return json_hash(pairs)


def _shard_name(k: int) -> str:
    return f"shard-{k:05d}.arrow"


# --- the format on disk ------------------------------------------------------------------------
# A shard is one Arrow stream of one record batch, which datasets.Dataset.from_file memory-maps.
# What has one size for all examples is a list of fixed length; what is a value a token is a flat
# list of unmasked entries, and ``tokens`` says how many there are. Padding is never stored.


def _schema(
    features: Sequence[str], classes: int, top_k: int | None, stored_dtype: str
) -> Features:
    columns: dict[str, Any] = {
        "id": Value("string"),
        "content_hash": Value("string"),
        "tokens": Value("int32"),
    }
    if top_k is None:
        columns["logits"] = ListOf(Value("float32"), length=classes)
    else:
        columns["top_log_probs"] = ListOf(Value("float32"), length=top_k)
        columns["top_classes"] = ListOf(Value("int32"), length=top_k)
        columns["log_tail"] = Value("float32")
    for name in features:
        if name != "logits":
            columns[name] = ListOf(Value(stored_dtype))
    return Features(columns)


def _write_shard(
    path: Path,
    batches: Iterator[tuple[dict[str, Any], list[str], dict[str, Tensor]]],
    schema: Features,
    top_k: int | None,
) -> None:
    rows: dict[str, list[Any]] = {name: [] for name in schema}
    for batch, hashes, found in batches:
        rows["id"] += batch["id"]
        rows["content_hash"] += hashes
        logits = found.pop(PREFIX + "logits").cpu()
        masks = token_mask(batch, _some_states(found, logits)).cpu()
        rows["tokens"] += masks.sum(1).tolist()
        columns = {"logits": logits} if top_k is None else top_k_compress(logits, top_k)
        for name, values in columns.items():
            rows[name].extend(values.numpy())
        for key, values in found.items():
            name = key.removeprefix(PREFIX)
            rows[name] += _unpadded(name, values.cpu(), masks)
    arrays = {
        name: pa.array(values, type=schema.arrow_schema.field(name).type)
        if isinstance(values[0], str | int)
        else _list_array(values, schema.arrow_schema.field(name).type)
        for name, values in rows.items()
    }
    table = pa.table(arrays, schema=schema.arrow_schema)
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table.combine_chunks(), max_chunksize=len(table))


def _some_states(found: Mapping[str, Tensor], logits: Tensor) -> Tensor:
    """Give something with a row a token ([batch, tokens, …]); without any, one of no tokens."""
    for key, values in found.items():
        kind = parse_feature(key.removeprefix(PREFIX)).kind
        if kind != "pooled":
            return values[:, 0] if kind == "attentions" else values
    return logits[:, :0]


def _unpadded(name: str, values: Tensor, masks: Tensor) -> list[np.ndarray]:
    """Cut the padding off each example and lay its values flat."""
    kind = parse_feature(name).kind
    if kind == "pooled":
        return list(values.numpy())
    if kind == "attentions":
        return [v[:, m][:, :, m].flatten().numpy() for v, m in zip(values, masks, strict=True)]
    return [v[m].flatten().numpy() for v, m in zip(values, masks, strict=True)]


def _list_array(values: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        return pa.array(np.asarray(values), type=kind)
    flat = np.concatenate([v.reshape(-1) for v in values])
    if kind.value_type == pa.float16() and np.abs(flat).max() > np.finfo(np.float16).max:
        raise UserError("a feature has values too large for float16; store float32")
    flat = pa.array(flat.astype(kind.value_type.to_pandas_dtype()), type=kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    offsets = np.concatenate([[0], np.cumsum([v.size for v in values])])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise UserError("a shard holds more values than Arrow lists index; give a smaller shard")
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), flat)


def top_k_compress(logits: Tensor, k: int) -> dict[str, Tensor]:
    """Keep the k most probable classes and, in one number, the mass of all others.

    Args:
        logits: [batch, classes].

    Returns:
        ``top_log_probs`` [batch, k] at T = 1, ``top_classes`` [batch, k] (int32), ``log_tail``
        [batch]: the log of the probability of all other classes (−inf when there are none).
    """
    log_probs = logits.float().log_softmax(-1)
    values, classes = log_probs.topk(k, dim=-1)
    others = log_probs.scatter(-1, classes, -torch.inf)
    return {
        "top_log_probs": values,
        "top_classes": classes.to(torch.int32),
        "log_tail": others.logsumexp(-1),
    }


def top_k_expand(parts: Mapping[str, Tensor], classes: int) -> Tensor:
    """Give logits whose softmax has the kept probabilities, the tail spread evenly.

    Returns:
        [batch, classes], float32; they are log-probabilities at T = 1.
    """
    kept = parts["top_log_probs"]
    others = classes - kept.shape[-1]
    if others:
        logits = (parts["log_tail"] - float(np.log(others)))[:, None].repeat(1, classes)
    else:
        logits = torch.empty(len(kept), classes, dtype=kept.dtype)
    return logits.scatter(-1, parts["top_classes"].long(), kept)


# --- reading -----------------------------------------------------------------------------------


class KnowledgeStore:
    """A teacher's stored knowledge, memory-mapped, keyed by example id.

    Calling it with a batch gives what a ``LiveTeacher`` with the same features gives.

    Raises:
        UserError: There is no store, it is unfinished, a shard is truncated or of another format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        if manifest is None:
            raise UserError(f"no knowledge store at {folder}; make one with: distill-lab extract")
        if not manifest["complete"]:
            raise UserError(f"the store {folder} is unfinished; repeat the extraction to go on")
        self.manifest: dict[str, Any] = manifest
        self.fingerprint: dict[str, Any] = manifest["fingerprint"]
        self._shards = [self._open(shard) for shard in manifest["shards"]]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        ids = [i for shard in self._shards for i in shard["id"][:]]
        self._row = {example: k for k, example in enumerate(ids)}
        self._columns: dict[str, np.ndarray | None] = {}

    def _open(self, shard: Mapping[str, Any]) -> Dataset:
        path = self.folder / shard["file"]
        if not _is_sound(self.folder, shard):
            raise UserError(
                f"the store's file {path} is missing, truncated or changed; repeat the "
                "extraction, which makes this file again"
            )
        return Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, example: str) -> bool:
        return example in self._row

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the stored features."""
        return tuple(self.fingerprint["features"])

    @property
    def classes(self) -> list[str]:
        """Names of the teacher's classes, in the order of the logits."""
        return list(self.fingerprint["classes"])

    @property
    def bytes(self) -> int:
        """Bytes on disk, of all shards."""
        return sum(int(shard["bytes"]) for shard in self.manifest["shards"])

    def check(
        self,
        data: Dataset,
        *,
        processor: Any = None,
        max_length: int | None = None,
        features: Iterable[str] = (),
        teacher: PreTrainedModel | None = None,
    ) -> None:
        """Refuse examples, a tokenizer, a length or a teacher that are not what made the store.

        Args:
            data: Rows with ``id`` and ``content_hash``; a subset in any order is fine.
            processor: The tokenizer that made the store, or one that was pruned from it, which
                gives the same tokens of the texts it was pruned to, under other ids.
            teacher: The live teacher, where one is at hand.

        Raises:
            UserError: In one line, which of them it is.
        """
        made = self.fingerprint
        if processor is not None and made["tokenizer"] not in (
            processor_fingerprint(processor),
            parent_fingerprint(processor),
        ):
            raise self._refusal("another tokenizer made it", "give the teacher's tokenizer")
        if max_length is not None and max_length != made["max_length"]:
            raise self._refusal(
                f"it was made with max length {made['max_length']} tokens, not {max_length}",
                f"use --max-length {made['max_length']}",
            )
        missing = sorted(set(features) - set(made["features"]))
        if missing:
            raise self._refusal(
                f"it has no {', '.join(missing)} (it has {', '.join(made['features'])})",
                "extract with these features",
            )
        if teacher is not None and weights_fingerprint(teacher) != made["teacher"]:
            raise self._refusal("a teacher with other weights made it", "extract from this one")
        hashes = self._hashes
        for example, content in zip(data["id"][:], data["content_hash"][:], strict=True):
            row = self._row.get(example)
            if row is None:
                raise self._refusal(f"it has no example {example!r}", "extract from this task")
            if hashes[row] != content:
                raise self._refusal(
                    f"the content of example {example!r} has changed since", "extract again"
                )

    def _refusal(self, why: str, mend: str) -> UserError:
        return UserError(f"the store {self.folder} does not fit: {why}; {mend}")

    @cached_property
    def _hashes(self) -> list[str]:
        return [h for shard in self._shards for h in shard["content_hash"][:]]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Give the features of a batch's examples, float32, zero where the mask is 0.

        Raises:
            UserError: An id is not in the store, or its number of tokens is another.
        """
        rows = self.rows(batch["id"])
        mask = self._mask(batch, rows)
        return {PREFIX + name: self._read(name, rows, mask) for name in self.features}

    def _mask(self, batch: Mapping[str, Any], rows: np.ndarray) -> Tensor | None:
        """Give the batch's token mask on the CPU; a modality without one has as many everywhere."""
        tokens = self._fixed("tokens", rows).tolist()
        mask: Tensor | None = batch.get("attention_mask")
        if mask is None:
            alike = tokens.count(tokens[0]) == len(tokens)
            return torch.ones(len(rows), tokens[0], dtype=torch.bool) if alike else None
        mask = mask.cpu()
        here = mask.sum(1).tolist()
        for example, ours, stored in zip(batch["id"], here, tokens, strict=True):
            if ours != stored:
                raise self._refusal(
                    f"example {example!r} has {ours} tokens here and {stored} in the store",
                    "use the tokenizer and the max length that made it",
                )
        return mask

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Where the examples stand in the store.

        Raises:
            UserError: An id is not in the store.
        """
        try:
            return np.array([self._row[i] for i in ids], dtype=np.int64)
        except KeyError as error:
            raise self._refusal(f"it has no example {error}", "extract from this task") from None

    def logits(self, ids: Sequence[str]) -> Tensor:
        """Logits of the examples, float32 [examples, classes], in the order of ``ids``."""
        return self._read("logits", self.rows(ids), None)

    def _read(self, name: str, rows: np.ndarray, mask: Tensor | None) -> Tensor:
        kind = parse_feature(name).kind
        if kind == "logits" and self.fingerprint["top_k"] is not None:
            parts = ("top_log_probs", "top_classes", "log_tail")
            return top_k_expand(
                {part: torch.from_numpy(self._fixed(part, rows)) for part in parts},
                len(self.classes),
            )
        if kind == "logits":
            return torch.from_numpy(self._fixed(name, rows))
        values = self._ragged(name, rows)
        if kind == "pooled":
            return torch.from_numpy(np.stack(values)).float()
        if mask is None:
            raise UserError(
                f"{name} has a value a token; reading it needs the batch's attention_mask"
            )
        return _padded(kind, values, mask.bool())

    def _fixed(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Gather rows of a column of fixed size."""
        if name not in self._columns:
            self._columns[name] = self._joined(name)
        column = self._columns[name]
        if column is not None:
            return column.take(rows, axis=0)
        views = self._views(name)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), *views[0].shape[1:]), dtype=views[0].dtype)
        for shard in np.unique(which):
            here = which == shard
            out[here] = views[shard][rows[here] - self._starts[shard]]
        return out

    def _views(self, name: str) -> list[np.ndarray]:
        """A column's values in the mapped memory, shard by shard."""
        return [_fixed_view(shard, name) for shard in self._shards]

    def _joined(self, name: str) -> np.ndarray | None:
        """Lay a small column's shards end to end, which makes reading it several times as fast."""
        views = self._views(name)
        if len(views) == 1:
            return views[0]
        small = sum(view.nbytes for view in views) <= JOINED_BYTES
        return np.concatenate(views) if small else None

    def _ragged(self, name: str, rows: np.ndarray) -> list[np.ndarray]:
        which = np.searchsorted(self._starts, rows, side="right") - 1
        columns = [shard.data.column(name).chunk(0) for shard in self._shards]
        return [
            columns[k][int(row - self._starts[k])].values.to_numpy()
            for k, row in zip(which, rows, strict=True)
        ]


def _fixed_view(shard: Dataset, name: str) -> np.ndarray:
    column = shard.data.column(name).chunk(0)
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column)
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def _padded(kind: str, values: list[np.ndarray], mask: Tensor) -> Tensor:
    """Lay each example's values where the mask is true, zeros elsewhere."""
    batch, tokens = mask.shape
    counts = mask.sum(1).tolist()
    longest = int(np.argmax(counts))  # an example may have no token at all
    if kind == "attentions":
        heads = len(values[longest]) // max(1, counts[longest]) ** 2
        out = torch.zeros(batch, heads, tokens, tokens)
        for k, (v, n) in enumerate(zip(values, counts, strict=True)):
            pair = (mask[k][:, None] & mask[k][None, :]).expand(heads, -1, -1)
            out[k][pair] = torch.tensor(v.reshape(heads, n, n)).float().flatten()
        return out
    width = len(values[longest]) // max(1, counts[longest])
    out = torch.zeros(batch, tokens, width)
    out[mask] = torch.from_numpy(np.concatenate(values)).float().reshape(-1, width)
    return out


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a knowledge store; delete the folder") from error
    if not known:
        raise UserError(
            f"the store {folder} has format {manifest['format']}, this version reads {FORMAT}; "
            "extract again"
        )
    return manifest


def _check_same(made: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    differing = [key for key in now if made.get(key) != now[key]]
    if differing:
        said = [
            key.replace("_", " ")
            + ("" if key in ("teacher", "tokenizer") else f" ({made.get(key)}, now {now[key]})")
            for key in differing
        ]
        raise UserError(
            f"the store {folder} was made with another {' and another '.join(said)}; "
            "give another folder, or delete it"
        )


def _is_sound(folder: Path, shard: Mapping[str, Any]) -> bool:
    """Whether a shard is on disk as the manifest describes it."""
    path = folder / shard["file"]
    return _is_whole(path, shard["rows"]) and path.stat().st_size == shard["bytes"]


def _is_whole(path: Path, rows: int) -> bool:
    """Whether a shard can be read to its end and has that many rows."""
    if not path.is_file():
        return False
    try:
        with pa.memory_map(str(path)) as source:
            return bool(sum(batch.num_rows for batch in pa.ipc.open_stream(source)) == rows)
    except (pa.ArrowInvalid, OSError):
        return False
