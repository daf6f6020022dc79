"""Wrong answers to the exercises of lesson 05, and right ones in another style."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save
from torch.utils.data import default_collate

from tests.mutants.mutant import Mutant

# --- extract_logits: wrong -----------------------------------------------------------------------


def _run(teacher, batch):
    mask = batch["attention_mask"]
    return teacher(input_ids=batch["input_ids"], attention_mask=mask).logits


def _rows(teacher, batches, run=_run):
    return {
        id: row
        for batch in batches
        for id, row in zip(batch["id"], run(teacher, batch), strict=True)
    }


@torch.no_grad()
def awake(teacher, batches):
    return _rows(teacher, batches)


@torch.no_grad()
def asks_the_flag(teacher, batches):
    if teacher.training:
        teacher.eval()
    return _rows(teacher, batches)


@torch.no_grad()
def only_the_flag(teacher, batches):
    teacher.training = False
    return _rows(teacher, batches)


@torch.no_grad()
def no_mask(teacher, batches):
    return _rows(
        teacher.eval(), batches, lambda t, b: t(torch.as_tensor(b["input_ids"]), None).logits
    )


@torch.no_grad()
def mask_of_its_own(teacher, batches):
    ids = "input_ids"
    return _rows(
        teacher.eval(), batches, lambda t, b: t(b[ids], attention_mask=(b[ids] != 0).long()).logits
    )


@torch.no_grad()
def mask_turned(teacher, batches):
    return _rows(
        teacher.eval(),
        batches,
        lambda t, b: t(b["input_ids"], attention_mask=1 - b["attention_mask"]).logits,
    )


@torch.no_grad()
def probabilities(teacher, batches):
    return {id: row.softmax(-1) for id, row in _rows(teacher.eval(), batches).items()}


@torch.no_grad()
def hard_labels(teacher, batches):
    rows = _rows(teacher.eval(), batches)
    return {id: (row == row.max()).float() for id, row in rows.items()}


@torch.no_grad()
def predicted_classes(teacher, batches):
    return {id: int(row.argmax()) for id, row in _rows(teacher.eval(), batches).items()}


@torch.no_grad()
def a_batch_of_one(teacher, batches):
    return {id: row[None] for id, row in _rows(teacher.eval(), batches).items()}


@torch.no_grad()
def lists(teacher, batches):
    return {id: row.tolist() for id, row in _rows(teacher.eval(), batches).items()}


@torch.no_grad()
def half_precision(teacher, batches):
    return {id: row.half() for id, row in _rows(teacher.eval(), batches).items()}


@torch.no_grad()
def one_tensor(teacher, batches):
    return torch.stack(list(_rows(teacher.eval(), batches).values()))


@torch.no_grad()
def row_numbers(teacher, batches):
    return dict(enumerate(_rows(teacher.eval(), batches).values()))


@torch.no_grad()
def new_dict_each_batch(teacher, batches):
    teacher.eval()
    for batch in batches:
        found = dict(zip(batch["id"], _run(teacher, batch), strict=True))
    return found


@torch.no_grad()
def drops_the_last(teacher, batches):
    size = len(batches[0]["id"])
    return _rows(teacher.eval(), [batch for batch in batches if len(batch["id"]) == size])


@torch.no_grad()
def sorted_ids(teacher, batches):
    teacher.eval()
    found = {}
    for batch in batches:
        found.update(zip(sorted(batch["id"]), _run(teacher, batch), strict=True))
    return found


@torch.no_grad()
def first_row_for_all(teacher, batches):
    teacher.eval()
    return {id: _run(teacher, batch)[0] for batch in batches for id in batch["id"]}


def with_its_graph(teacher, batches):
    return _rows(teacher.eval(), batches)


@torch.no_grad()
def wakes_it_again(teacher, batches):
    found = _rows(teacher.eval(), batches)
    teacher.train()
    return found


@torch.no_grad()
def takes_the_ids_out(teacher, batches):
    teacher.eval()
    found = {}
    for batch in batches:
        ids = batch.pop("id")
        found.update(zip(ids, teacher(**batch).logits, strict=True))
    return found


# --- top_k_compress: wrong -----------------------------------------------------------------------


def _packed(values, classes, tail):
    return {"top_log_probs": values, "top_classes": classes, "log_tail": tail}


def _tail(log_probs, classes):
    return log_probs.scatter(-1, classes, -torch.inf).logsumexp(-1)


def bare_logits(logits, k):
    values, classes = logits.topk(k)
    return _packed(values, classes, _tail(logits, classes))


def renormalised(logits, k):
    values, classes = logits.topk(k)
    return _packed(values.log_softmax(-1), classes, _tail(logits.log_softmax(-1), classes))


def of_probabilities(logits, k):
    p = logits.softmax(-1)
    values, classes = p.topk(k)
    return _packed(values, classes, (1 - values.sum(-1)).log())


def least_probable(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k, largest=False)
    return _packed(values, classes, _tail(log_probs, classes))


def ascending(logits, k):
    values, classes = logits.log_softmax(-1).sort(-1)
    return _packed(values[:, -k:], classes[:, -k:], values[:, :-k].logsumexp(-1))


def over_the_batch(logits, k):
    log_probs = logits.log_softmax(0)
    values, classes = log_probs.topk(k)
    return _packed(values, classes, _tail(log_probs, classes))


def ranks_for_classes(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    ranks = torch.arange(k).expand_as(classes)
    return _packed(values, ranks, _tail(log_probs, classes))


def classes_as_floats(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    return _packed(values, classes.float(), _tail(log_probs, classes))


def two_parts(logits, k):
    values, classes = logits.log_softmax(-1).topk(k)
    return {"top_log_probs": values, "top_classes": classes}


def tail_not_logged(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    return _packed(values, classes, _tail(log_probs, classes).exp())


def tail_of_bare_logits(logits, k):
    values, classes = logits.log_softmax(-1).topk(k)
    return _packed(values, classes, _tail(logits, classes))


def kept_masked_with_zero(logits, k):
    log_p = logits.log_softmax(-1)
    values, classes = log_p.topk(k)
    tail = log_p.scatter(-1, classes, 0.0).logsumexp(-1)
    return {"top_log_probs": values, "top_classes": classes, "log_tail": tail}


def tail_a_class(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    others = logits.shape[-1] - k
    return _packed(values, classes, _tail(log_probs, classes) - torch.tensor(others).log())


def next_class_for_the_tail(logits, k):
    values, classes = logits.log_softmax(-1).sort(-1, descending=True)
    tail = values[:, k] if k < logits.shape[-1] else torch.full((len(logits),), -torch.inf)
    return _packed(values[:, :k], classes[:, :k], tail)


def nothing_taken_out(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    return _packed(values, classes, log_probs.logsumexp(-1))


def kept_for_the_tail(logits, k):
    values, classes = logits.log_softmax(-1).topk(k)
    return _packed(values, classes, values.logsumexp(-1))


def one_minus_sum(logits, k):
    values, classes = logits.log_softmax(-1).topk(k)
    return _packed(values, classes, torch.log1p(-values.exp().sum(-1)))


def epsilon_in_the_tail(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    tail = log_probs.exp().scatter(-1, classes, 0.0).sum(-1)
    return _packed(values, classes, (tail + 1e-12).log())


def one_minus_sum_clamped(logits, k):
    values, classes = logits.log_softmax(-1).topk(k)
    if k == logits.shape[-1]:
        return _packed(values, classes, torch.full((len(logits),), -torch.inf))
    return _packed(values, classes, (1 - values.exp().sum(-1)).clamp(min=0).log())


def by_a_threshold(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    others = log_probs.masked_fill(log_probs >= values[:, -1:], -torch.inf)
    return _packed(values, classes, others.logsumexp(-1))


def classes_by_comparison(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    found = (log_probs[:, None, :] == values[:, :, None]).int().argmax(-1)
    return _packed(values, found, _tail(log_probs, classes))


def writes_into_the_logits(logits, k):
    log_probs = logits.log_softmax(-1)
    values, classes = log_probs.topk(k)
    logits.scatter_(-1, classes, -torch.inf)
    return _packed(values, classes, _tail(log_probs, classes))


# --- fingerprint: wrong --------------------------------------------------------------------------


def _sha(text):
    return hashlib.sha256(text if isinstance(text, bytes) else str(text).encode()).hexdigest()


def _bytes(value):
    return value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _header(name, value):
    return repr((name, tuple(value.shape), value.dtype)).encode()


def _settings(settings):
    return json.dumps(settings, sort_keys=True).encode()


def _stream(weights, part=lambda name, value: _header(name, value) + _bytes(value)):
    return b"".join(part(name, value) for name, value in sorted(weights.items()))


def md5(weights, settings):
    return hashlib.md5(_stream(weights) + _settings(settings)).hexdigest()


def raw_digest(weights, settings):
    return hashlib.sha256(_stream(weights) + _settings(settings)).digest()


def pythons_hash(weights, settings):
    return hash((_stream(weights), _settings(settings)))


_calls = iter(range(10**9))


def the_objects(weights, settings):
    return _sha((next(_calls), settings))


def names_only(weights, settings):
    return _sha((sorted(weights), sorted(settings.items())))


def sums(weights, settings):
    return _sha([(n, w.double().sum().item()) for n, w in sorted(weights.items())])


def printed(weights, settings):
    return _sha((sorted(weights.items()), sorted(settings.items())))


def sixteen_digits_of_a_mean(weights, settings):
    parts = [(n, round(w.double().abs().mean().item(), 4)) for n, w in sorted(weights.items())]
    return _sha(parts)


def last_tensor_only(weights, settings):
    for name, value in sorted(weights.items()):
        digest = hashlib.sha256(_header(name, value) + _bytes(value))
    digest.update(_settings(settings))
    return digest.hexdigest()


def str_of_lists_cut(weights, settings):
    parts = [(n, tuple(w.shape), w.flatten()[:100].tolist()) for n, w in sorted(weights.items())]
    return _sha((parts, sorted(settings.items())))


def no_names(weights, settings):
    stream = _stream(weights, lambda n, w: repr((tuple(w.shape), w.dtype)).encode() + _bytes(w))
    return _sha(stream + _settings(settings))


def names_apart(weights, settings):
    values = sorted(_header("", w) + _bytes(w) for w in weights.values())
    return _sha(repr(sorted(weights)).encode() + b"".join(values) + _settings(settings))


def no_shapes(weights, settings):
    stream = _stream(weights, lambda n, w: repr((n, w.dtype)).encode() + _bytes(w))
    return _sha(stream + _settings(settings))


def no_dtypes(weights, settings):
    stream = _stream(weights, lambda n, w: repr((n, tuple(w.shape))).encode() + _bytes(w))
    return _sha(stream + _settings(settings))


def no_settings(weights, settings):
    return _sha(_stream(weights))


def setting_names_only(weights, settings):
    return _sha(_stream(weights) + repr(sorted(settings)).encode())


def setting_values_only(weights, settings):
    return _sha(_stream(weights) + repr([settings[k] for k in sorted(settings)]).encode())


def setting_values_apart(weights, settings):
    parts = sorted(settings), sorted(map(str, settings.values()))
    return _sha(_stream(weights) + repr(parts).encode())


def settings_run_together(weights, settings):
    text = "".join(f"{name}{value}" for name, value in sorted(settings.items()))
    return _sha(_stream(weights) + text.encode())


def weights_as_they_come(weights, settings):
    stream = b"".join(_header(n, w) + _bytes(w) for n, w in weights.items())
    return _sha(stream + _settings(settings))


def settings_as_they_come(weights, settings):
    return _sha(_stream(weights) + json.dumps(settings).encode())


def as_in_memory(weights, settings):
    stream = _stream(weights, lambda n, w: _header(n, w) + bytes(w.untyped_storage().tolist()))
    return _sha(stream + _settings(settings))


def through_torch_save(weights, settings):
    buffer = io.BytesIO()
    torch.save({name: weights[name] for name in sorted(weights)}, buffer)
    return _sha(buffer.getvalue() + _settings(settings))


def straight_to_numpy(weights, settings):
    stream = _stream(weights, lambda n, w: _header(n, w) + w.numpy().tobytes())
    return _sha(stream + _settings(settings))


def through_float32(weights, settings):
    stream = _stream(weights, lambda n, w: _header(n, w) + w.float().numpy().tobytes())
    return _sha(stream + _settings(settings))


def not_flat(weights, settings):
    stream = _stream(
        weights, lambda n, w: _header(n, w) + w.contiguous().view(torch.uint8).numpy().tobytes()
    )
    return _sha(stream + _settings(settings))


def keeps_it_in_the_settings(weights, settings):
    settings["weights"] = _sha(_stream(weights))
    return _sha(_settings(settings))


MUTANTS: list[Mutant] = [
    Mutant("extract_logits", awake, "asleep", "the teacher came in training mode"),
    Mutant("extract_logits", asks_the_flag, "asleep", "whatever teacher.training says"),
    Mutant("extract_logits", only_the_flag, "asleep", "the teacher came in training mode"),
    Mutant("extract_logits", no_mask, "mask", "the attention mask is not passed on"),
    Mutant("extract_logits", mask_of_its_own, "mask", "the batch's own attention_mask"),
    Mutant("extract_logits", mask_turned, "values", "1 is where a token counts"),
    Mutant("extract_logits", probabilities, "values", "these are probabilities"),
    Mutant("extract_logits", hard_labels, "values", "that is a hard label"),
    Mutant("extract_logits", predicted_classes, "values", "no tensor but a value of type int"),
    Mutant("extract_logits", a_batch_of_one, "values", "a tensor of shape [1, 3]; expected the"),
    Mutant("extract_logits", lists, "values", "no tensor but a value of type list"),
    Mutant("extract_logits", half_precision, "values", "the logits are float16"),
    Mutant("extract_logits", one_tensor, "values", "it gives Tensor"),
    Mutant("extract_logits", row_numbers, "values", "the keys are numbers"),
    Mutant("extract_logits", new_dict_each_batch, "every_id", "only the last batch is there"),
    Mutant("extract_logits", drops_the_last, "every_id", "the last batch is left out"),
    Mutant("extract_logits", sorted_ids, "values", "stand the logits of 'a1'"),
    Mutant("extract_logits", first_row_for_all, "values", "take ids and rows in pairs"),
    Mutant("extract_logits", with_its_graph, "no_graph", "torch.no_grad()"),
    Mutant("extract_logits", wakes_it_again, "left_asleep", "in training mode after the call"),
    Mutant("extract_logits", takes_the_ids_out, "inputs_unchanged", "it changes batches"),
    Mutant("top_k_compress", bare_logits, "kept", "the bare logits"),
    Mutant("top_k_compress", renormalised, "kept", "over the k kept classes alone"),
    Mutant("top_k_compress", of_probabilities, "kept", "holds probabilities"),
    Mutant("top_k_compress", least_probable, "kept", "the least probable classes"),
    Mutant("top_k_compress", ascending, "kept", "the order is the wrong way round"),
    Mutant("top_k_compress", over_the_batch, "kept", "dim=0"),
    Mutant("top_k_compress", ranks_for_classes, "kept", "top_classes counts 0, 1, 2"),
    Mutant("top_k_compress", classes_as_floats, "kept", "top_classes are not integers"),
    Mutant("top_k_compress", two_parts, "kept", "expected a dict with top_log_probs"),
    Mutant("top_k_compress", tail_not_logged, "log_tail", "the probability itself"),
    Mutant("top_k_compress", tail_of_bare_logits, "log_tail", "logsumexp of the bare logits"),
    Mutant("top_k_compress", kept_masked_with_zero, "log_tail", "and not 0, the log of 1"),
    Mutant("top_k_compress", tail_a_class, "log_tail", "the log of the mean"),
    Mutant("top_k_compress", next_class_for_the_tail, "log_tail", "the largest of the other"),
    Mutant("top_k_compress", nothing_taken_out, "log_tail", "the log of 1"),
    Mutant("top_k_compress", kept_for_the_tail, "log_tail", "the log of the kept probability"),
    Mutant("top_k_compress", one_minus_sum, "no_tail", "rounding error"),
    Mutant("top_k_compress", epsilon_in_the_tail, "no_tail", "an epsilon or a clamp"),
    Mutant("top_k_compress", one_minus_sum_clamped, "small_tail", "already add up to 1"),
    Mutant("top_k_compress", by_a_threshold, "ties", "not by comparing probabilities"),
    Mutant("top_k_compress", classes_by_comparison, "ties", "names a class twice"),
    Mutant("top_k_compress", writes_into_the_logits, "inputs_unchanged", "it changes logits"),
    Mutant("fingerprint", md5, "values", "a text of 32 characters"),
    Mutant("fingerprint", raw_digest, "values", "it gives bytes"),
    Mutant("fingerprint", pythons_hash, "values", "it gives int"),
    Mutant("fingerprint", the_objects, "values", "the same call gives another one"),
    Mutant("fingerprint", names_only, "values", "a weight is another"),
    Mutant("fingerprint", sums, "values", "two values have changed places"),
    Mutant("fingerprint", printed, "values", "the smallest step that float32 has"),
    Mutant("fingerprint", sixteen_digits_of_a_mean, "values", "changed places"),
    Mutant("fingerprint", last_tensor_only, "values", "every tensor belongs into the hash"),
    Mutant("fingerprint", str_of_lists_cut, "values", "in the middle of a large tensor"),
    Mutant("fingerprint", no_names, "names_shapes_dtypes", "'bias' has become 'weight'"),
    Mutant("fingerprint", names_apart, "names_shapes_dtypes", "two tensors have changed names"),
    Mutant("fingerprint", no_shapes, "names_shapes_dtypes", "another shape, [3, 2]"),
    Mutant("fingerprint", no_dtypes, "names_shapes_dtypes", "another dtype"),
    Mutant("fingerprint", no_settings, "settings", "max_length 64 for 128"),
    Mutant("fingerprint", setting_names_only, "settings", "max_length 64 for 128"),
    Mutant("fingerprint", setting_values_only, "settings", "a setting has another name"),
    Mutant("fingerprint", setting_values_apart, "settings", "two settings have changed values"),
    Mutant("fingerprint", settings_run_together, "settings", "without anything between"),
    Mutant("fingerprint", weights_as_they_come, "order", "the order of the weights"),
    Mutant("fingerprint", settings_as_they_come, "order", "the order of the settings"),
    Mutant("fingerprint", as_in_memory, "layout", "a transposed view"),
    Mutant("fingerprint", through_torch_save, "layout", ".contiguous() lays them"),
    Mutant("fingerprint", straight_to_numpy, "any_tensor", "numpy knows no bfloat16"),
    Mutant("fingerprint", through_float32, "any_tensor", "without turning them"),
    Mutant("fingerprint", not_flat, "any_tensor", "a scalar has no bytes to view"),
    Mutant("fingerprint", keeps_it_in_the_settings, "inputs_unchanged", "it changes settings"),
]


# --- right, in another style ---------------------------------------------------------------------


def extract_text_by_text(teacher, batches):
    """Each text by itself, cut to its own length."""
    found = {}
    for module in teacher.modules():
        module.training = False
    for batch in batches:
        for k, id in enumerate(batch["id"]):
            kept = batch["attention_mask"][k].bool()
            with torch.inference_mode():
                logits = teacher(batch["input_ids"][k, kept][None])["logits"][0]
            found[id] = logits.detach().cpu()
    return found


def extract_then_collate(teacher, batches):
    teacher.requires_grad_(False)
    teacher.eval()
    ids, logits = [], []
    for batch in batches:
        inputs = {key: value for key, value in batch.items() if key != "id"}
        ids += batch["id"]
        logits.append(teacher(**inputs).logits)
    return dict(zip(ids, torch.cat(logits).unbind(), strict=True))


def compress_by_sorting(logits, k):
    z, classes = torch.sort(logits.double(), dim=1, descending=True, stable=True)
    z = z - torch.logsumexp(z, 1, keepdim=True)
    return {
        "top_classes": classes[:, :k],
        "top_log_probs": z[:, :k],
        "log_tail": torch.logsumexp(z[:, k:], 1),
    }


def compress_row_by_row(logits, k):
    rows = []
    for row in logits:
        log_probs = row - row.logsumexp(0)
        values, classes = torch.topk(log_probs, k)
        others = [j for j in range(len(row)) if j not in classes.tolist()]
        tail = log_probs[others].logsumexp(0) if others else torch.tensor(-torch.inf)
        rows.append({"top_log_probs": values, "top_classes": classes.int(), "log_tail": tail})
    return default_collate(rows)


def fingerprint_by_safetensors(weights, settings):
    flat = {name: weights[name].contiguous() for name in sorted(weights)}
    return hashlib.sha256(save(flat) + repr(sorted(settings.items())).encode()).hexdigest()


def fingerprint_of_fingerprints(weights, settings):
    """A table of all that counts, hashed as JSON."""
    table = {
        "weights": {
            name: [list(w.shape), str(w.dtype), _sha(bytes(w.reshape(-1).view(torch.uint8)))]
            for name, w in weights.items()
        },
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("extract_logits", extract_text_by_text),
    ("extract_logits", extract_then_collate),
    ("top_k_compress", compress_by_sorting),
    ("top_k_compress", compress_row_by_row),
    ("fingerprint", fingerprint_by_safetensors),
    ("fingerprint", fingerprint_of_fingerprints),
]
