"""Extraction of a teacher's logits against a plain loop over sentences sorted by length."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import material, plain_loop
from benchmarks.harness import Record, cost, interleaved, row
from benchmarks.material import Bench, paragraph, quiet
from distill_lab.devices import dtype_name, pick_device, pick_dtype

BATCH_SIZE = 32
SETUP = """
The fine-tuned teacher's logits of the same {examples} sentences, tokenised before the clock
starts, sorted by length with the longest first, in batches of {batch_size}, in {dtype}, which is
what `dtype="auto"` takes here. Ours is a whole call of `extract` into an empty folder:
fingerprints of the teacher, the tokenizer and each text, the store's file and its manifest, and
opening it. Theirs is `benchmarks/plain_loop.py`: logits in one tensor, saved by `torch.save`. Both
gave the same logits: the largest difference was {difference:.1g}.
"""


def measure(options: argparse.Namespace) -> dict[str, Record]:
    """Time both on the same sentences."""
    examples = 160 if options.quick else options.sentences
    dtype = pick_dtype(pick_device())
    with TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(material.longer_task(examples), folder)
        plain = partial(
            plain_loop.extract,
            bench.teacher,
            bench.tokens,
            folder / "logits.pt",
            batch_size=BATCH_SIZE,
            dtype=dtype,
        )
        ours = partial(bench.extracted, dtype)
        few = Bench(material.longer_task(64), folder)
        quiet(lambda: few.extracted(dtype))()
        difference = (ours().logits(bench.data["id"][:]) - plain()).abs().max().item()
        seconds = interleaved(
            {"ours": quiet(ours), "plain_loop": plain},
            1 if options.quick else options.repeats,
            warm_up=False,
        )
    said = {
        "examples": f"{examples:,}",
        "batch_size": BATCH_SIZE,
        "dtype": dtype_name(dtype),
        "difference": difference,
    }
    compared = cost(seconds["ours"], seconds["plain_loop"], at_most=1.05)
    return {"extract": {"vs_plain_loop": compared, "setup": paragraph(SETUP, said)}}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the row's own options."""
    parser.add_argument("--sentences", type=int, default=6400, metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")


if __name__ == "__main__":
    row(measure, arguments=arguments)
