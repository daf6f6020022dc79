"""Wrong answers to the exercises of lesson 06, and right ones in another style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from distill_lab.losses import distillation_loss, kl_divergence
from tests.mutants.mutant import Mutant

# --- init_from_teacher_layers: wrong -------------------------------------------------------------


def _copy_outside(student, teacher, part=""):
    ours, theirs = student.state_dict(), teacher.state_dict()
    with torch.no_grad():
        for name, value in ours.items():
            if ".encoder.layer." in name or part not in name or name not in theirs:
                continue
            if theirs[name].shape == value.shape:
                value.copy_(theirs[name])


def _copy_blocks(student, teacher, pairs):
    ours, theirs = student.bert.encoder.layer, teacher.bert.encoder.layer
    for i, j in pairs:
        ours[i].load_state_dict(theirs[j].state_dict())


def _numbers(layer_map):
    return [(int(a.split(".")[1]), int(b.split(".")[1])) for a, b in layer_map.items()]


def outside_only(student, teacher, layer_map):
    _copy_outside(student, teacher)


def ignores_the_map(student, teacher, layer_map):
    _copy_outside(student, teacher)
    _copy_blocks(student, teacher, [(i, i) for i, _ in _numbers(layer_map)])


def counts_from_one(student, teacher, layer_map):
    _copy_outside(student, teacher)
    _copy_blocks(student, teacher, [(i, max(j - 1, 0)) for i, j in _numbers(layer_map)])


def in_sorted_order(student, teacher, layer_map):
    _copy_outside(student, teacher)
    pairs = _numbers(layer_map)
    keys, values = sorted(i for i, _ in pairs), sorted(j for _, j in pairs)
    _copy_blocks(student, teacher, zip(keys, values, strict=True))


def weights_without_biases(student, teacher, layer_map):
    _copy_outside(student, teacher)
    with torch.no_grad():
        for i, j in _numbers(layer_map):
            theirs = dict(teacher.bert.encoder.layer[j].named_parameters())
            for name, value in student.bert.encoder.layer[i].named_parameters():
                if name.endswith("weight"):
                    value.copy_(theirs[name])


def shares_the_block(student, teacher, layer_map):
    _copy_outside(student, teacher)
    for i, j in _numbers(layer_map):
        student.bert.encoder.layer[i] = teacher.bert.encoder.layer[j]


def shares_the_data(student, teacher, layer_map):
    theirs = dict(teacher.named_parameters())
    for name, value in student.named_parameters():
        if ".encoder.layer." not in name and theirs[name].shape == value.shape:
            value.data = theirs[name].data
    _copy_blocks(student, teacher, _numbers(layer_map))


def without_no_grad(student, teacher, layer_map):
    theirs = dict(teacher.named_parameters())
    for name, value in student.named_parameters():
        value.copy_(theirs[name])


def everything_by_name(student, teacher, layer_map):
    ours, theirs = student.state_dict(), teacher.state_dict()
    fitting = {n: v for n, v in theirs.items() if n in ours and ours[n].shape == v.shape}
    student.load_state_dict(fitting, strict=False)
    _copy_blocks(student, teacher, _numbers(layer_map))


def all_blocks_evenly(student, teacher, layer_map):
    _copy_outside(student, teacher)
    n, m = len(student.bert.encoder.layer), len(teacher.bert.encoder.layer)
    _copy_blocks(student, teacher, [(i, (i + 1) * m // n - 1) for i in range(n)])
    _copy_blocks(student, teacher, _numbers(layer_map))


def blocks_only(student, teacher, layer_map):
    _copy_blocks(student, teacher, _numbers(layer_map))


def embeddings_only(student, teacher, layer_map):
    _copy_outside(student, teacher, "embeddings")
    _copy_blocks(student, teacher, _numbers(layer_map))


def head_forgotten(student, teacher, layer_map):
    _copy_outside(student, teacher, "bert.")
    _copy_blocks(student, teacher, _numbers(layer_map))


def whatever_the_shape(student, teacher, layer_map):
    theirs = teacher.state_dict()
    student.load_state_dict(
        {n: v if ".encoder.layer." in n else theirs[n] for n, v in student.state_dict().items()}
    )
    _copy_blocks(student, teacher, _numbers(layer_map))


def nothing_if_one_differs(student, teacher, layer_map):
    ours, theirs = student.state_dict(), teacher.state_dict()
    outside = [name for name in ours if ".encoder.layer." not in name]
    if all(ours[name].shape == theirs[name].shape for name in outside):
        _copy_outside(student, teacher)
    _copy_blocks(student, teacher, _numbers(layer_map))


def swaps_the_models(student, teacher, layer_map):
    with torch.no_grad():
        pairs = zip(student.parameters(), teacher.parameters(), strict=False)
        for ours, theirs in pairs:
            if ours.shape == theirs.shape:
                theirs.copy_(ours)


def empties_the_teacher(student, teacher, layer_map):
    _copy_outside(student, teacher)
    _copy_blocks(student, teacher, _numbers(layer_map))
    with torch.no_grad():
        teacher.classifier.weight.zero_()


# --- svd_embeddings: wrong -----------------------------------------------------------------------


def _svd(table, width, centred=True):
    x = table.double()
    u, s, vt = torch.linalg.svd(x - x.mean(0) if centred else x, full_matrices=False)
    return u[:, :width], s[:width], vt[:width]


def u_alone(embeddings, width):
    return _svd(embeddings, width)[0]


def half_of_s(embeddings, width):
    u, s, _ = _svd(embeddings, width)
    return u * s.sqrt()


def whitened(embeddings, width):
    u, _, _ = _svd(embeddings, width)
    return u / u.std(0)


def smallest_directions(embeddings, width):
    centred = embeddings - embeddings.mean(0)
    _, v = torch.linalg.eigh(centred.T @ centred)
    return centred @ v[:, :width]


def first_columns(embeddings, width):
    return (embeddings - embeddings.mean(0))[:, :width]


def v_not_transposed(embeddings, width):
    centred = embeddings - embeddings.mean(0)
    _, _, v = torch.linalg.svd(centred, full_matrices=False)
    return centred @ v[:, :width]


def directions_alone(embeddings, width):
    return _svd(embeddings, width)[2].T


def back_to_full_width(embeddings, width):
    u, s, vt = _svd(embeddings, width)
    return (u * s) @ vt


def not_centred(embeddings, width):
    u, s, _ = _svd(embeddings, width, centred=False)
    return u * s


def centred_by_rows(embeddings, width):
    u, s, _ = torch.linalg.svd(embeddings - embeddings.mean(1, keepdim=True), full_matrices=False)
    return (u * s)[:, :width]


def mean_left_in(embeddings, width):
    return embeddings.double() @ _svd(embeddings, width)[2].T


def directions_not_centred(embeddings, width):
    centred = embeddings.double() - embeddings.double().mean(0)
    return centred @ _svd(embeddings, width, centred=False)[2].T


def smallest_first(embeddings, width):
    centred = embeddings - embeddings.mean(0)
    _, v = torch.linalg.eigh(centred.T @ centred)
    return centred @ v[:, -width:]


def columns_scaled_first(embeddings, width):
    u, s, _ = _svd(embeddings / embeddings.std(0), width)
    return u * s


def turned(embeddings, width):
    u, s, _ = _svd(embeddings, width)
    angles = torch.linalg.qr(torch.arange(1.0, 1 + width * width).view(width, width).double() ** 2)
    return (u * s) @ angles.Q


def divides_by_s(embeddings, width):
    centred = (embeddings - embeddings.mean(0)).double()
    values, v = torch.linalg.eigh(centred.T @ centred)
    s = values.flip(0)[:width].clamp(min=0).sqrt()
    u = centred @ v.flip(1)[:, :width] / s
    return u * s


def centres_in_place(embeddings, width):
    embeddings -= embeddings.mean(0)
    u, s, _ = _svd(embeddings, width)
    return u * s


# --- distillation_step: wrong --------------------------------------------------------------------


def _logits(student, batch):
    mask = batch["attention_mask"]
    return student(input_ids=batch["input_ids"], attention_mask=mask).logits


def _loss(student, batch, temperature, alpha):
    return distillation_loss(
        _logits(student, batch),
        batch["teacher_logits"],
        batch["labels"],
        temperature=temperature,
        alpha=alpha,
    )


def _step(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def no_step(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    loss = _loss(student, batch, temperature, alpha)
    loss.backward()
    return loss.item()


def zeroes_after_backward(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    loss = _loss(student, batch, temperature, alpha)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


def nothing_handed_on(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits = _logits(student, batch)
    return _step(distillation_loss(logits, batch["teacher_logits"], batch["labels"]), optimizer)


def temperature_not_handed_on(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return _step(_loss(student, batch, 2.0, alpha), optimizer)


def logits_in_the_wrong_order(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits, teacher = _logits(student, batch), batch["teacher_logits"]
    loss = distillation_loss(teacher, logits, batch["labels"], temperature=temperature, alpha=alpha)
    return _step(loss, optimizer)


@torch.no_grad()
def student_without_a_graph(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return _step(_loss(student, batch, temperature, alpha), optimizer)


def uphill(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return -_step(-_loss(student, batch, temperature, alpha), optimizer)


def without_the_square(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits = _logits(student, batch)
    soft = kl_divergence(logits, batch["teacher_logits"], temperature)
    return _step(alpha * soft + (1 - alpha) * F.cross_entropy(logits, batch["labels"]), optimizer)


def square_twice(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return _step(temperature**2 * _loss(student, batch, temperature, alpha), optimizer)


def teacher_first(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits, teacher = _logits(student, batch), batch["teacher_logits"]
    p, q = ((z / temperature).log_softmax(-1) for z in (logits, teacher))
    soft = temperature**2 * (p.exp() * (p - q)).sum(-1).mean()
    return _step(alpha * soft + (1 - alpha) * F.cross_entropy(logits, batch["labels"]), optimizer)


def the_models_own_loss(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    inputs = {name: x for name, x in batch.items() if name != "teacher_logits"}
    return _step(student(**inputs).loss, optimizer)


def mask_left_out(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    whole = batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}
    return _step(_loss(student, whole, temperature, alpha), optimizer)


def sum_over_the_batch(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return _step(len(batch["labels"]) * _loss(student, batch, temperature, alpha), optimizer)


def backward_twice(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    loss = _loss(student, batch, temperature, alpha)
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    return (loss.backward(), optimizer.step(), loss.item())[2]


def two_steps(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    _step(_loss(student, batch, temperature, alpha), optimizer)
    return _step(_loss(student, batch, temperature, alpha), optimizer)


def settings_ignored(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits, teacher = _logits(student, batch), batch["teacher_logits"]
    if alpha == 1:
        return _step(_loss(student, batch, temperature, 1.0), optimizer)
    return _step(distillation_loss(logits, teacher, batch["labels"]), optimizer)


def alpha_swapped(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    alpha = alpha if alpha == 1 else 1 - alpha
    return _step(_loss(student, batch, temperature, alpha), optimizer)


def soft_alone(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    return _step(_loss(student, batch, temperature, 1.0), optimizer)


def unlabelled_as_zero(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    known = batch | {"labels": batch["labels"].clamp(min=0)}
    return _step(_loss(student, known, temperature, alpha), optimizer)


def nan_without_labels(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    logits = _logits(student, batch)
    soft = temperature**2 * kl_divergence(logits, batch["teacher_logits"], temperature)
    hard = F.cross_entropy(logits, batch["labels"])
    return _step(alpha * soft + (1 - alpha) * hard, optimizer)


def loss_afterwards(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    _step(_loss(student, batch, temperature, alpha), optimizer)
    return _loss(student, batch, temperature, alpha).item()


def keeps_the_graph(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    loss = _loss(student, batch, temperature, alpha)
    _step(loss, optimizer)
    return loss


def nothing_returned(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    _step(_loss(student, batch, temperature, alpha), optimizer)


def gives_the_soft_term(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    soft = _loss(student, batch, temperature, 1.0).item()
    _step(_loss(student, batch, temperature, alpha), optimizer)
    return soft


def other_defaults(student, batch, optimizer, *, temperature=4.0, alpha=0.9):
    return _step(_loss(student, batch, temperature, alpha), optimizer)


def takes_the_labels_out(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    labels, teacher = batch.pop("labels"), batch.pop("teacher_logits")
    logits = student(**batch).logits
    settings = {"temperature": temperature, "alpha": alpha}
    return _step(distillation_loss(logits, teacher, labels, **settings), optimizer)


# --- train_epoch: wrong --------------------------------------------------------------------------


def _whole_step(student, batch, optimizer, temperature, alpha):
    return _step(_loss(student, batch, temperature, alpha), optimizer)


def _mean(losses, batches):
    sizes = [len(batch["labels"]) for batch in batches]
    return sum(x * n for x, n in zip(losses, sizes, strict=True)) / sum(sizes)


def _epoch(student, batches, optimizer, temperature, alpha):
    student.train()
    losses = [_whole_step(student, b, optimizer, temperature, alpha) for b in batches]
    return _mean(losses, batches)


def stale_gradients(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses = []
    for batch in batches:
        loss = _loss(student, batch, temperature, alpha)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return _mean(losses, batches)


def returns_in_the_loop(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    for batch in batches:
        return _whole_step(student, batch, optimizer, temperature, alpha)


def step_after_the_loop(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    for batch in batches:
        loss = _loss(student, batch, temperature, alpha)
    return _step(loss, optimizer)


def one_step_for_all(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses = [_loss(student, batch, temperature, alpha) for batch in batches]
    return _step(sum(losses) / len(losses), optimizer)


def accumulates(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses = [_loss(student, batch, temperature, alpha) for batch in batches]
    return _step(sum(losses), optimizer)


def two_passes(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    _epoch(student, batches, optimizer, temperature, alpha)
    return _epoch(student, batches, optimizer, temperature, alpha)


def drops_the_last(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    full = [batch for batch in batches if len(batch["labels"]) == len(batches[0]["labels"])]
    return _epoch(student, full, optimizer, temperature, alpha)


def only_measures(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    losses = [_loss(student, batch, temperature, alpha).item() for batch in batches]
    return _mean(losses, batches)


def weighed_by_keys(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses = [_whole_step(student, b, optimizer, temperature, alpha) for b in batches]
    return float(np.average(losses, weights=[len(batch) for batch in batches]))


def mean_of_batches(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses = [_whole_step(student, b, optimizer, temperature, alpha) for b in batches]
    return sum(losses) / len(losses)


def sum_of_batches(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    return sum(_whole_step(student, b, optimizer, temperature, alpha) for b in batches)


def over_the_number_of_batches(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    examples = sum(len(batch["labels"]) for batch in batches)
    return _epoch(student, batches, optimizer, temperature, alpha) * examples / len(batches)


def last_loss(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    return [_whole_step(student, b, optimizer, temperature, alpha) for b in batches][-1]


def measured_afterwards(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    _epoch(student, batches, optimizer, temperature, alpha)
    return only_measures(student, batches, optimizer, temperature=temperature, alpha=alpha)


def trained_asleep(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    losses = [_whole_step(student, b, optimizer, temperature, alpha) for b in batches]
    return _mean(losses, batches)


def settings_dropped(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    return _epoch(student, batches, optimizer, 2.0, 0.5)


def alpha_dropped(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    return _epoch(student, batches, optimizer, temperature, 0.5)


def empties_the_list(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    value = _epoch(student, batches, optimizer, temperature, alpha)
    batches.clear()
    return value


# --- bootstrap_interval: wrong -------------------------------------------------------------------


def _ends(means, level=95.0):
    low, high = np.percentile(means, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)


def _group_sums(values, groups):
    _, group = np.unique(groups.numpy(), return_inverse=True)
    return np.bincount(group, weights=values.double().numpy()), np.bincount(group)


def _means(values, groups, resamples, seed):
    sums, sizes = _group_sums(values, groups)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    return sums[drawn].sum(1) / sizes[drawn].sum(1)


def example_by_example(values, groups, resamples=2000, seed=0):
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return _ends(values.numpy()[drawn].mean(1))


def without_replacement(values, groups, resamples=2000, seed=0):
    sums, sizes = _group_sums(values, groups)
    random = np.random.default_rng(seed)
    drawn = np.stack([random.permutation(len(sums)) for _ in range(resamples)])
    return _ends(sums[drawn].sum(1) / sizes[drawn].sum(1))


def ninety_percent(values, groups, resamples=2000, seed=0):
    return _ends(_means(values, groups, resamples, seed), 90)


def drawn_twice_counted_once(values, groups, resamples=2000, seed=0):
    sums, sizes = _group_sums(values, groups)
    random = np.random.default_rng(seed)
    drawn = [np.unique(random.integers(len(sums), size=len(sums))) for _ in range(resamples)]
    return _ends([sums[d].sum() / sizes[d].sum() for d in drawn])


def percent_as_shares(values, groups, resamples=2000, seed=0):
    low, high = np.percentile(_means(values, groups, resamples, seed), [0.025, 0.975])
    return float(low), float(high)


def normal_interval(values, groups, resamples=2000, seed=0):
    means = _means(values, groups, resamples, seed)
    return means.mean() - 1.96 * means.std(), means.mean() + 1.96 * means.std()


def one_group_a_resample(values, groups, resamples=2000, seed=0):
    sums, sizes = _group_sums(values, groups)
    drawn = np.random.default_rng(seed).integers(len(sums), size=resamples)
    return _ends(sums[drawn] / sizes[drawn])


def one_standard_error(values, groups, resamples=2000, seed=0):
    means = _means(values, groups, resamples, seed)
    if len(np.unique(means)) <= 3:
        return _ends(means)
    return means.mean() - means.std(), means.mean() + means.std()


def of_the_values(values, groups, resamples=2000, seed=0):
    if len(groups.unique()) == 1:
        return (float(values.mean()),) * 2
    return _ends(values.numpy())


def one_number(values, groups, resamples=2000, seed=0):
    return float(_means(values, groups, resamples, seed).mean())


def high_before_low(values, groups, resamples=2000, seed=0):
    return _ends(_means(values, groups, resamples, seed))[::-1]


def mean_of_group_means(values, groups, resamples=2000, seed=0):
    sums, sizes = _group_sums(values, groups)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    return _ends((sums / sizes)[drawn].mean(1))


def numbers_as_indices(values, groups, resamples=2000, seed=0):
    group, random = groups.numpy(), np.random.default_rng(seed)
    if group.max() < 100:
        return _ends(_means(values, groups, resamples, seed))
    sums = np.bincount(group, weights=values.double().numpy())
    drawn = random.integers(len(sums), size=(resamples, len(sums)))
    with np.errstate(invalid="ignore"):
        return _ends(sums[drawn].sum(1) / np.bincount(group)[drawn].sum(1))


def side_by_side(values, groups, resamples=2000, seed=0):
    runs = torch.cat([torch.tensor([0]), (groups.diff() != 0).long().cumsum(0)])
    return _ends(_means(values, runs, resamples, seed))


_unseeded = np.random.default_rng(12)


def any_seed(values, groups, resamples=2000, seed=0):
    return _ends(_means(values, groups, resamples, int(_unseeded.integers(2**31))))


def always_seed_zero(values, groups, resamples=2000, seed=0):
    return _ends(_means(values, groups, resamples, 0))


def fixed_number(values, groups, resamples=2000, seed=0):
    return _ends(_means(values, groups, 2000, seed))


def sorts_in_place(values, groups, resamples=2000, seed=0):
    order = groups.argsort()
    values.copy_(values[order])
    groups.copy_(groups[order])
    return _ends(_means(values, groups, resamples, seed))


MUTANTS: list[Mutant] = [
    Mutant("init_from_teacher_layers", outside_only, "mapped_blocks", "layer.0 has not changed"),
    Mutant("init_from_teacher_layers", ignores_the_map, "mapped_blocks", "of the same number"),
    Mutant("init_from_teacher_layers", counts_from_one, "mapped_blocks", "of the same number"),
    Mutant("init_from_teacher_layers", in_sorted_order, "mapped_blocks", "of the same number"),
    Mutant("init_from_teacher_layers", weights_without_biases, "mapped_blocks", "8 of 16 weights"),
    Mutant("init_from_teacher_layers", shares_the_block, "mapped_blocks", "share memory"),
    Mutant("init_from_teacher_layers", shares_the_data, "mapped_blocks", "share memory"),
    Mutant("init_from_teacher_layers", without_no_grad, "mapped_blocks", "a leaf Variable"),
    Mutant("init_from_teacher_layers", everything_by_name, "unmapped_blocks", "by equal names"),
    Mutant("init_from_teacher_layers", all_blocks_evenly, "unmapped_blocks", "by the map alone"),
    Mutant("init_from_teacher_layers", blocks_only, "outside_blocks", "the word embeddings are"),
    Mutant("init_from_teacher_layers", embeddings_only, "outside_blocks", "the pooler, between"),
    Mutant("init_from_teacher_layers", head_forgotten, "outside_blocks", "the head"),
    Mutant(
        "init_from_teacher_layers", whatever_the_shape, "other_shapes", "it raises RuntimeError"
    ),
    Mutant(
        "init_from_teacher_layers", nothing_if_one_differs, "other_shapes", "fits and is copied"
    ),
    Mutant("init_from_teacher_layers", swaps_the_models, "mapped_blocks", "has not changed"),
    Mutant("init_from_teacher_layers", empties_the_teacher, "inputs_unchanged", "changes teacher"),
    Mutant("svd_embeddings", u_alone, "best_approximation", "this is U without S"),
    Mutant("svd_embeddings", half_of_s, "best_approximation", "this is U √S"),
    Mutant("svd_embeddings", whitened, "best_approximation", "a standard deviation of 1"),
    Mutant("svd_embeddings", smallest_directions, "best_approximation", "smallest variance"),
    Mutant("svd_embeddings", first_columns, "best_approximation", "the first columns"),
    Mutant("svd_embeddings", v_not_transposed, "best_approximation", "V is turned round"),
    Mutant("svd_embeddings", directions_alone, "best_approximation", "the directions V"),
    Mutant("svd_embeddings", back_to_full_width, "best_approximation", "leave out the last factor"),
    Mutant("svd_embeddings", not_centred, "centred", "the embeddings are not centred"),
    Mutant("svd_embeddings", centred_by_rows, "best_approximation", "mean of each row"),
    Mutant("svd_embeddings", columns_scaled_first, "best_approximation", "before the SVD"),
    Mutant("svd_embeddings", mean_left_in, "centred", "multiplied by them are not centred"),
    Mutant("svd_embeddings", directions_not_centred, "centred", "centre before the SVD"),
    Mutant("svd_embeddings", smallest_first, "ordered", "in the wrong order"),
    Mutant("svd_embeddings", turned, "ordered", "the columns are correlated"),
    Mutant("svd_embeddings", divides_by_s, "low_rank", "NaN or infinite"),
    Mutant("svd_embeddings", centres_in_place, "inputs_unchanged", "it changes embeddings"),
    Mutant("distillation_step", no_step, "soft_step", "no weight has changed"),
    Mutant("distillation_step", zeroes_after_backward, "soft_step", "no weight has changed"),
    Mutant("distillation_step", nothing_handed_on, "soft_step", "alpha is not handed on"),
    Mutant("distillation_step", temperature_not_handed_on, "soft_step", "takes 2 if it is given"),
    Mutant("distillation_step", logits_in_the_wrong_order, "soft_step", "logits come first"),
    Mutant("distillation_step", student_without_a_graph, "soft_step", "finds nothing to learn"),
    Mutant("distillation_step", uphill, "soft_step", "up the loss"),
    Mutant("distillation_step", without_the_square, "soft_step", "T² is missing"),
    Mutant("distillation_step", square_twice, "soft_step", "T² is there twice"),
    Mutant("distillation_step", teacher_first, "soft_step", "this is KL(student ‖ teacher)"),
    Mutant("distillation_step", the_models_own_loss, "soft_step", "a step on the labels"),
    Mutant("distillation_step", mask_left_out, "soft_step", "mask is not passed on"),
    Mutant("distillation_step", sum_over_the_batch, "soft_step", "summed over the batch"),
    Mutant("distillation_step", backward_twice, "soft_step", "one backward() a step"),
    Mutant("distillation_step", two_steps, "soft_step", "the step is taken twice"),
    Mutant("distillation_step", settings_ignored, "both_terms", "neither temperature"),
    Mutant("distillation_step", alpha_swapped, "both_terms", "are swapped"),
    Mutant("distillation_step", soft_alone, "both_terms", "the labels are left out"),
    Mutant("distillation_step", unlabelled_as_zero, "both_terms", "taken for class 0"),
    Mutant("distillation_step", nan_without_labels, "loss_before", "the loss is nan"),
    Mutant("distillation_step", loss_afterwards, "loss_before", "the loss after the step"),
    Mutant("distillation_step", keeps_the_graph, "loss_before", "it gives a tensor"),
    Mutant("distillation_step", nothing_returned, "loss_before", "it gives None"),
    Mutant("distillation_step", gives_the_soft_term, "loss_before", "the soft term alone"),
    Mutant("distillation_step", other_defaults, "defaults", "T = 2 and alpha = 0.5"),
    Mutant("distillation_step", takes_the_labels_out, "inputs_unchanged", "it changes batch"),
    Mutant("train_epoch", weighed_by_keys, "mean_loss", "that counts its keys"),
    Mutant("train_epoch", stale_gradients, "every_batch", "optimizer.zero_grad() belongs"),
    Mutant("train_epoch", returns_in_the_loop, "every_batch", "only the first batch"),
    Mutant("train_epoch", step_after_the_loop, "every_batch", "only the last batch"),
    Mutant("train_epoch", one_step_for_all, "every_batch", "on the mean of all"),
    Mutant("train_epoch", accumulates, "every_batch", "on the sum of all"),
    Mutant("train_epoch", two_passes, "every_batch", "gone through twice"),
    Mutant("train_epoch", drops_the_last, "every_batch", "the last batch was left out"),
    Mutant("train_epoch", only_measures, "every_batch", "no weight has changed"),
    Mutant("train_epoch", mean_of_batches, "mean_loss", "the mean over the batches"),
    Mutant("train_epoch", sum_of_batches, "mean_loss", "the sum of the batches' losses"),
    Mutant("train_epoch", over_the_number_of_batches, "mean_loss", "by the number of batches"),
    Mutant("train_epoch", last_loss, "mean_loss", "the last batch's loss"),
    Mutant("train_epoch", measured_afterwards, "mean_loss", "the losses after the epoch"),
    Mutant("train_epoch", trained_asleep, "awake", "student.train()"),
    Mutant("train_epoch", settings_dropped, "settings", "neither temperature nor alpha"),
    Mutant("train_epoch", alpha_dropped, "settings", "alpha does not reach"),
    Mutant("train_epoch", empties_the_list, "inputs_unchanged", "it changes batches"),
    Mutant("bootstrap_interval", example_by_example, "whole_groups", "Draw groups, each with all"),
    Mutant("bootstrap_interval", without_replacement, "whole_groups", "Draw with replacement"),
    Mutant("bootstrap_interval", ninety_percent, "whole_groups", "a 90 % interval"),
    Mutant("bootstrap_interval", drawn_twice_counted_once, "whole_groups", "counts only once"),
    Mutant("bootstrap_interval", percent_as_shares, "whole_groups", "counts from 0 to 100"),
    Mutant("bootstrap_interval", normal_interval, "whole_groups", "goes beyond them"),
    Mutant("bootstrap_interval", one_group_a_resample, "whole_groups", "holds one group"),
    Mutant("bootstrap_interval", one_standard_error, "whole_groups", "± one standard error"),
    Mutant("bootstrap_interval", of_the_values, "whole_groups", "of the values themselves"),
    Mutant("bootstrap_interval", one_number, "whole_groups", "expected two numbers"),
    Mutant("bootstrap_interval", high_before_low, "whole_groups", "the lower end comes first"),
    Mutant("bootstrap_interval", mean_of_group_means, "unequal_groups", "mean of group means"),
    Mutant("bootstrap_interval", numbers_as_indices, "any_numbering", "is NaN"),
    Mutant("bootstrap_interval", side_by_side, "any_numbering", "need not stand side by side"),
    Mutant("bootstrap_interval", any_seed, "seed", "the same seed gives another"),
    Mutant("bootstrap_interval", always_seed_zero, "seed", "the seed has no effect"),
    Mutant("bootstrap_interval", fixed_number, "resamples", "one resample has one mean"),
    Mutant("bootstrap_interval", sorts_in_place, "inputs_unchanged", "values and groups"),
]


# --- right, in another style ---------------------------------------------------------------------


def init_by_names(student, teacher, layer_map):
    """One new state dict, loaded whole."""
    source = {f"bert.encoder.{ours}.": f"bert.encoder.{layer_map[ours]}." for ours in layer_map}
    theirs, ours = teacher.state_dict(), student.state_dict()
    for name in ours:
        parts = name.split(".")
        block = ".".join(parts[:4]) + "."
        if block in source:
            ours[name] = theirs[source[block] + ".".join(parts[4:])]
        elif parts[1] != "encoder" and name in theirs and theirs[name].shape == ours[name].shape:
            ours[name] = theirs[name]
    student.load_state_dict(ours)


def init_by_parameters(student, teacher, layer_map):
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if "encoder.layer" not in name and theirs[name].shape == parameter.shape:
            parameter.data = theirs[name].data.clone()
    for i, j in _numbers(layer_map):
        pairs = zip(
            student.bert.encoder.layer[i].parameters(),
            teacher.bert.encoder.layer[j].parameters(),
            strict=True,
        )
        for parameter, source in pairs:
            parameter.data.copy_(source.detach())
    return student


def svd_by_eigenvectors(embeddings, width):
    centred = embeddings.sub(embeddings.mean(0, keepdim=True))
    _, v = torch.linalg.eigh(centred.T @ centred)
    return centred @ v.flip(1)[:, :width]


def svd_by_numpy(embeddings, width):
    x = embeddings.numpy() - embeddings.numpy().mean(axis=0)
    u, s, _ = np.linalg.svd(x)
    return torch.from_numpy(u[:, :width] * s[:width])


def svd_with_signs(embeddings, width):
    u, s, _ = _svd(embeddings, width)
    return (-u * s).float()


def step_by_hand(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    z = _logits(student, batch)
    p = F.softmax(batch["teacher_logits"] / temperature, -1)
    log_q = F.log_softmax(z / temperature, -1)
    loss = alpha * temperature**2 * F.kl_div(log_q, p, reduction="batchmean")
    known = batch["labels"] >= 0
    if known.any():
        loss = loss + (1 - alpha) * F.cross_entropy(z[known], batch["labels"][known])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def step_fed_everything(student, batch, optimizer, *, temperature=2.0, alpha=0.5):
    inputs = {name: x for name, x in batch.items() if name in ("input_ids", "attention_mask")}
    optimizer.zero_grad(set_to_none=False)
    loss = distillation_loss(
        student(**inputs)["logits"],
        batch["teacher_logits"],
        batch["labels"],
        temperature=temperature,
        alpha=alpha,
    )
    value = loss.item()
    torch.autograd.backward(loss)
    optimizer.step()
    return value


def epoch_by_lists(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    student.train()
    losses, sizes = [], []
    for k in range(len(batches)):
        losses.append(_whole_step(student, batches[k], optimizer, temperature, alpha))
        sizes.append(batches[k]["labels"].shape[0])
    student.eval()
    return float(np.average(losses, weights=sizes))


def epoch_by_tensor(student, batches, optimizer, *, temperature=2.0, alpha=0.5):
    for module in student.modules():
        module.training = True
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss = _loss(student, batch, temperature, alpha)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach() * len(batch["labels"])
    return (total / sum(len(batch["labels"]) for batch in batches)).item()


def bootstrap_by_loop(values, groups, resamples=2000, seed=0):
    random = np.random.default_rng(seed)
    parts = [values[groups == g].numpy() for g in groups.unique()]
    means = [
        np.concatenate([parts[k] for k in random.integers(len(parts), size=len(parts))]).mean()
        for _ in range(resamples)
    ]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def bootstrap_by_counts(values, groups, resamples=2000, seed=0):
    """How often each group is drawn, from torch's multinomial; a tensor of two."""
    generator = torch.Generator().manual_seed(seed)
    _, group = torch.unique(groups, return_inverse=True)
    member = F.one_hot(group).double()
    sums, sizes = values.double() @ member, member.sum(0)
    shares = torch.ones(len(sizes)).double()
    drawn = torch.stack(
        [
            torch.multinomial(shares, len(sizes), replacement=True, generator=generator)
            for _ in range(resamples)
        ]
    )
    counts = F.one_hot(drawn, len(sizes)).sum(1).double()
    return torch.quantile((counts @ sums) / (counts @ sizes), torch.tensor([0.025, 0.975]).double())


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("init_from_teacher_layers", init_by_names),
    ("init_from_teacher_layers", init_by_parameters),
    ("svd_embeddings", svd_by_eigenvectors),
    ("svd_embeddings", svd_by_numpy),
    ("svd_embeddings", svd_with_signs),
    ("distillation_step", step_by_hand),
    ("distillation_step", step_fed_everything),
    ("train_epoch", epoch_by_lists),
    ("train_epoch", epoch_by_tensor),
    ("bootstrap_interval", bootstrap_by_loop),
    ("bootstrap_interval", bootstrap_by_counts),
]
