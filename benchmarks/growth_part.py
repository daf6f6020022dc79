"""One measurement of the growth row, in a process that does nothing else.

``python -m benchmarks.growth_part extract|distill EXAMPLES DTYPE STORE OUT`` writes seconds and
peak memory to OUT; ``distill`` reads the store that ``extract`` made of as many examples.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

TOKENS = 16  # a short sentence: what is spent on an example, not on its length, shows the more
VALIDATION = 320


def main(part: str, examples: str, dtype: str, store: str, out: str) -> None:
    """Measure one part at one size."""
    from benchmarks import material
    from benchmarks.harness import peak_memory, reset_peak_memory, timed
    from distill_lab import KnowledgeStore, Schedule, distill, extract
    from distill_lab.files import write_json

    task = replace(
        material.longer_task(int(examples)),
        max_length=TOKENS,
        validation=material.resized(material.task().validation, VALIDATION),
    )
    tokenizer = material.tokenizer()
    if part == "extract":
        teacher = material.teacher()
        reset_peak_memory()
        seconds = timed(lambda: extract(teacher, task, tokenizer, store, dtype=dtype))
    else:
        student = material.student()
        schedule = Schedule(epochs=1, dtype=dtype)
        reset_peak_memory()
        seconds = timed(
            lambda: distill(student, KnowledgeStore(store), task, tokenizer, schedule=schedule)
        )
    write_json(Path(out), {"seconds": seconds, "peak_memory_bytes": peak_memory()})


if __name__ == "__main__":
    main(*sys.argv[1:])
