"""An epoch of distillation against torchdistill, in an environment of its own.

torchdistill imports torchvision, and the torchvision that pip installs does not import beside the
CPU build of torch. So both sides run on the CUDA build (5.6 GB; it computes on the CPU as well), in
an environment that is made once, in the checkout::

    python -m venv build/torchdistill
    grep -vE "^(torch|triton|setuptools)==" constraints.txt > build/torchdistill/constraints.txt
    build/torchdistill/bin/pip install --constraint build/torchdistill/constraints.txt \
        torch==2.14.1 torchvision==0.29.1 torchdistill==1.1.5 --editable .
    python -m benchmarks torchdistill
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import plain_loop
from benchmarks.distill import Sides, dtype_of, recipe_of
from benchmarks.harness import Record, interleaved, row, speedup
from benchmarks.material import (
    Batch,
    EpochAfterEpoch,
    longer_task,
    paragraph,
    quiet,
    without_dropout,
)
from benchmarks.plain_loop import Recipe, Tokens, adamw, linear, padded
from distill_lab.errors import UserError
from distill_lab.training import Schedule

ENVIRONMENT = Path("build/torchdistill")
STEPS_COMPARED = 10
RUNNING = "DISTILL_LAB_TORCHDISTILL"  # set where this module has started itself again
SETUP = """
As `distill_epoch.vs_textbrewer`, over {examples} sentences, in {dtype} on both sides, both on torch
{torch} (torchvision, which torchdistill imports, needs its CUDA build; the work is done on
{device}). torchdistill {version} asks a live teacher, its only way: a `DistillationBox`, its
`KDLoss` with weight T² (which it leaves out where there is no hard term), and the loop over
`forward_process` and `post_forward_process` of its examples. With dropout off, its losses over the
first {steps} batches differ from those of the plain loop by {difference:.1g} at most.
"""


def distill(
    student: Any,
    teacher: Any,
    tokens: Tokens,
    epochs: Sequence[Sequence[Batch]],
    recipe: Recipe,
) -> list[float]:
    """Train a student on a live teacher's logits, in place; see ``plain_loop.distill``.

    Args:
        student: A classifier of ``transformers`` whose head is its ``classifier``.
        teacher: Likewise, on the same device.
        tokens: Token ids of each sentence.
        epochs: For each epoch its batches, each the places of its sentences.
        recipe: How.

    Returns:
        The loss of each step.
    """
    # Neither is in the environment in which types are checked.
    from torchdistill.core.distillation import get_distillation_box  # type: ignore
    from torchdistill.optim.registry import register_optimizer  # type: ignore

    register_optimizer(adamw, key="adamw_of_the_plain_loop")
    device, temperature, dtype = student.device, recipe.temperature, recipe.dtype
    observed = {
        "forward_proc": "forward_batch_only_as_kwargs",
        "forward_hook": {"input": [], "output": ["classifier"]},
    }
    at_head = {
        f"{side}_module_{key}": value
        for side in ("student", "teacher")
        for key, value in (("path", "classifier"), ("io", "output"))
    }
    box = get_distillation_box(
        teacher.eval(),
        student,
        {},
        {
            "num_epochs": len(epochs),
            "teacher": observed | {"requires_grad": False},
            "student": observed,
            "optimizer": {
                "key": "adamw_of_the_plain_loop",
                "kwargs": {
                    "learning_rate": recipe.learning_rate,
                    "weight_decay": recipe.weight_decay,
                },
                "max_grad_norm": 1.0,
            },
            "scheduler": {
                "key": "LambdaLR",
                "kwargs": {"lr_lambda": linear(sum(map(len, epochs)), recipe.warmup)},
                "scheduling_step": 1,
            },
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {
                    "sub_terms": {
                        "kd": {
                            "criterion": {
                                "key": "KDLoss",
                                "kwargs": at_head | {"temperature": temperature, "alpha": 0.0},
                            },
                            "weight": temperature**2,
                        }
                    }
                },
            },
        },
        device=device,
        device_ids=[],
        distributed=False,
        lr_factor=1,
    )
    loader: DataLoader = DataLoader(
        tokens,  # type: ignore[arg-type]  # a list is a data set
        batch_sampler=EpochAfterEpoch(epochs),  # type: ignore[arg-type]
        collate_fn=lambda rows: padded(rows, device),
    )
    losses = []
    for epoch in range(len(epochs)):
        box.pre_epoch_process(epoch=epoch)
        for batch in loader:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = box.forward_process(batch)
            box.post_forward_process(loss)
            losses.append(loss.detach())
        box.post_epoch_process()
    box.clean_modules()
    return torch.stack(losses).tolist()


def measure(options: argparse.Namespace) -> dict[str, Record]:
    """Time an epoch of both sides."""
    logging.disable(logging.INFO)  # torchdistill lists its settings
    examples = 320 if options.quick else options.sentences
    schedule = Schedule(epochs=1, dtype="float32")
    with TemporaryDirectory() as name:
        sides = Sides(longer_task(examples), Path(name))
        store = sides.extracted(dtype_of(schedule))

        def theirs(schedule: Schedule = schedule) -> None:
            distill(
                sides.student("torchdistill"),
                sides.teacher,
                sides.tokens,
                sides.batches(schedule),
                recipe_of(schedule),
            )

        quiet(lambda: sides.ours("", store, replace(schedule, max_steps=10)))()
        difference = largest_difference(sides, store.logits(sides.data["id"][:]), schedule)
        seconds = interleaved(
            {"ours": quiet(partial(sides.ours, "ours", store, schedule)), "theirs": quiet(theirs)},
            1 if options.quick else options.repeats,
            warm_up=False,
        )
    said = {
        "examples": f"{examples:,}",
        "dtype": schedule.dtype,
        "torch": torch.__version__,
        "device": sides.device,
        "version": version("torchdistill"),
        "steps": STEPS_COMPARED,
        "difference": difference,
    }
    compared = speedup(seconds["ours"], seconds["theirs"])
    return {"torchdistill": {"vs_torchdistill": compared, "setup": paragraph(SETUP, said)}}


def largest_difference(sides: Sides, logits: Tensor, schedule: Schedule) -> float:
    """Say by how much the losses of the first batches differ from the plain loop's, dropout off."""
    batches = [sides.batches(schedule)[0][:STEPS_COMPARED]]
    student = without_dropout(sides.student(""))
    plain = plain_loop.distill(student, sides.tokens, logits, batches, recipe_of(schedule))
    student = without_dropout(sides.student(""))
    theirs = distill(student, sides.teacher, sides.tokens, batches, recipe_of(schedule))
    return max(abs(a - b) for a, b in zip(plain, theirs, strict=True))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the row's own options."""
    parser.add_argument("--sentences", type=int, default=6400, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")


def in_its_environment() -> int:
    """Run this module again, in the environment that has torchdistill, and give its exit code.

    Raises:
        UserError: There is none.
    """
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists() or RUNNING in os.environ:
        raise UserError(
            f"torchdistill is not in {ENVIRONMENT}; the first lines of "
            "benchmarks/torchdistill_peer.py say how to put it there"
        )
    command = [str(python), "-m", "benchmarks.torchdistill_peer", *sys.argv[1:]]
    return subprocess.run(command, env=os.environ | {RUNNING: "1"}).returncode


if __name__ == "__main__":
    if find_spec("torchdistill"):
        row(measure, arguments=arguments)
    else:
        try:
            raise SystemExit(in_its_environment())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
