"""Several processes do what one does: the same losses, the same store, the same report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import pytest
from conftest import TOPICS, sentences, small_bert, threads, write_csv
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, set_seed

from distill_lab.knowledge import KnowledgeStore
from distill_lab.pipeline import Settings, run

pytestmark = pytest.mark.slow

PYTHON = [sys.executable]
TWO = [*PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PROGRAMS = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
BATCH = 16  # of all processes together; it divides the labelled rows and the transfer rows
FEATURES = ("logits", "pooled.layer.0", "hidden_states.layer.1", "attentions.layer.2")
SECONDS = 120  # after which a launch is given up


# --- launching ---------------------------------------------------------------------------------


@contextmanager
def nothing_left_of(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a launcher and its ranks at the end of the block, however it ends.

    Each rank has a session of its own, so that no signal to the launcher's group reaches it.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            launcher = psutil.Process(process.pid)
            for one in (launcher, *launcher.children(recursive=True)):
                one.kill()
        process.wait()


def launch(command: Sequence[object], cwd: Path, *, fails: bool = False) -> str:
    """Run a command with one thread a process; give what it said, and assert how it ended."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": PROGRAMS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    with nothing_left_of(process):
        said, _ = process.communicate(timeout=SECONDS)
    assert bool(process.returncode) == fails, said[-6000:]
    return said


# --- what is launched --------------------------------------------------------------------------

# Extracts, distils and evaluates as a user's script does, and keeps what this rank saw of it.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from safetensors.torch import save_file
from distill_lab import training
from distill_lab.evaluation import evaluate
from distill_lab.knowledge import extract
from distill_lab.models import load_teacher, load_tokenizer
from distill_lab.tasks import load_task

batch_size = int(sys.argv[1])
last_step = int(sys.argv[2])  # of rank 1, which is then killed, or finds something wrong
rank = os.environ.get("RANK", "0")
losses = []

class Watched(training.DistillationTrainer):
    def compute_loss(self, *args, **kwargs):
        if rank == "1" and self.state.global_step == last_step:
            if sys.argv[5] == "wrong":
                raise training.UserError("something is wrong here alone")
            os.kill(os.getpid(), signal.SIGKILL)
        loss = super().compute_loss(*args, **kwargs)
        losses.append(loss.item())
        return loss

training.DistillationTrainer = Watched
task = load_task("csv:../topics.csv", split_column="split", id_column="id", max_length=24)
teacher, student = (
    load_teacher(f"../{name}", label_names=task.label_names) for name in ("teacher", "student")
)
tokenizer = load_tokenizer("../teacher")
store = extract(
    teacher, task, tokenizer, sys.argv[3].format(rank), shard_size=20,
    features=json.loads(sys.argv[4]), device="cpu", dtype=sys.argv[6],
)
schedule = training.Schedule(
    epochs=3, batch_size=batch_size, device="cpu", dtype="float32", checkpoint_every=4
)
done = training.distill(
    student, store, task, tokenizer, schedule=schedule, checkpoints="checkpoints"
)
Path(f"losses-{rank}.json").write_text(json.dumps(losses))
Path(f"epochs-{rank}.json").write_text(json.dumps([done.steps, done.epochs]))
save_file(student.state_dict(), f"student-{rank}.safetensors")
seen = evaluate(teacher, task, tokenizer, device="cpu", batch_size=7)  # 51 rows: 8 batches
np.save(f"probabilities-{rank}.npy", seen.probabilities)
"""


def rows() -> list[dict[str, str]]:
    """Make rows of which 96 are for training, 48 of them labelled, and 51 for the test."""
    made = []
    for k, row in enumerate(sentences()):
        place = k % (len(sentences()) // len(TOPICS))  # within the topic
        split = "train" if place < 32 else "validation" if place < 43 else "test"
        label = "" if place < 16 else row["label"]
        made.append({"text": row["text"], "id": row["id"], "label": label, "split": split})
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, _tokenizer: PreTrainedTokenizerBase) -> Path:
    """A folder with a task, a teacher, a student and the script."""
    folder = tmp_path_factory.mktemp("distributed")
    write_csv(folder / "topics.csv", rows())
    for seed, (name, layers, width) in enumerate((("teacher", 4, 32), ("student", 2, 16))):
        set_seed(seed)
        small_bert(layers=layers, width=width, heads=2).save_pretrained(folder / name)
        _tokenizer.save_pretrained(folder / name)
    (folder / "script.py").write_text(SCRIPT)
    return folder


def scripted(
    place: Path,
    name: str,
    start: list[str],
    *,
    last_step: int = -1,
    store: str = "store",
    how: str = "killed",
    dtype: str = "float32",
    fails: bool = False,
) -> str:
    """Run the script in a folder of that name, and give what was said."""
    folder = place / name
    folder.mkdir(exist_ok=True)
    each = BATCH // (2 if start == TWO else 1)
    given = (each, last_step, store, json.dumps(FEATURES), how, dtype)
    return launch([*start, "../script.py", *given], folder, fails=fails)


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    scripted(place, "one", PYTHON)
    return place / "one"


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    scripted(place, "two", TWO)
    return place / "two"


# --- training ----------------------------------------------------------------------------------


def losses(folder: Path, rank: int) -> np.ndarray:
    return np.array(json.loads((folder / f"losses-{rank}.json").read_text()))


def largest_difference(a: Path, b: Path) -> float:
    """The largest difference between two students' weights."""
    ours, theirs = load_file(a), load_file(b)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def test_two_processes_reach_the_losses_of_one_step_by_step(one: Path, two: Path) -> None:
    alone, left, right = losses(one, 0), losses(two, 0), losses(two, 1)
    assert len(alone) == 3 * 96 / BATCH
    assert alone[0] > 2 * alone[-1]  # it learns
    assert np.abs(left - right).min() > 0  # each has examples of its own
    assert np.abs((left + right) / 2 - alone).max() < 1e-4


def test_all_processes_end_with_the_same_student(one: Path, two: Path) -> None:
    assert largest_difference(two / "student-0.safetensors", two / "student-1.safetensors") == 0.0
    assert largest_difference(one / "student-0.safetensors", two / "student-0.safetensors") < 1e-3
    steps, epochs = json.loads((one / "epochs-0.json").read_text())
    for rank in (0, 1):
        assert json.loads((two / f"epochs-{rank}.json").read_text()) == [
            steps,
            [pytest.approx(epoch) for epoch in epochs],
        ]


def test_two_processes_resume_after_one_of_them_was_killed(two: Path, place: Path) -> None:
    said = scripted(place, "killed", TWO, last_step=10, fails=True)
    assert "Signal 9 (SIGKILL)" in said
    killed = place / "killed"
    assert (killed / "checkpoints" / "checkpoint-8").is_dir()
    scripted(place, "killed", TWO)
    for rank in (0, 1):
        assert np.array_equal(losses(killed, rank), losses(two, rank)[8:])
        student = f"student-{rank}.safetensors"
        assert largest_difference(killed / student, two / student) == 0.0
    assert not (killed / "checkpoints").exists()


def test_what_is_wrong_in_one_process_ends_all(place: Path) -> None:
    said = scripted(place, "wrong", TWO, last_step=5, how="wrong", fails=True)
    assert "something is wrong here alone" in said


# Without a word of parting, most launches of this ended with an abort.
EXCHANGE_AND_END = """
import torch
from accelerate.utils import reduce
from distill_lab.devices import processes

processes("cpu")
numbers = torch.ones(1000, 3)
for _ in range(50):
    numbers = reduce(numbers, "sum") / 4
"""


def test_processes_that_end_right_after_an_exchange_end_well(tmp_path: Path) -> None:
    (tmp_path / "exchange.py").write_text(EXCHANGE_AND_END)
    launch([*TWO[:-1], "4", "exchange.py"], tmp_path)


# --- extraction --------------------------------------------------------------------------------


def test_two_processes_make_the_store_of_one(one: Path, two: Path) -> None:
    ours, theirs = (KnowledgeStore(folder / "store") for folder in (two, one))
    assert ours.manifest == theirs.manifest
    for shard in ours.manifest["shards"]:
        a, b = (datasets.Dataset.from_file(str(s.folder / shard["file"])) for s in (ours, theirs))
        for name in ("id", "content_hash", "tokens"):
            assert a[name][:] == b[name][:]
        for name in FEATURES:
            for x, y in zip(a[name][:], b[name][:], strict=True):
                assert np.abs(np.subtract(x, y)).max() < 1e-5
    assert sorted(path.name for path in ours.folder.iterdir()) == sorted(
        ["manifest.json", *(shard["file"] for shard in ours.manifest["shards"])]
    )


def test_a_store_that_the_processes_do_not_share_is_refused(place: Path) -> None:
    apart = partial(scripted, place, "apart", TWO, store="store-{}", dtype="auto", fails=True)
    assert "shard-00001.arrow, but it is not in store-0; give a folder that all" in apart()
    # The second time the first process finds its own manifest, the second one nothing but a shard.
    assert "store-1 holds something else; give a new or empty one" in apart()


# --- evaluation --------------------------------------------------------------------------------


def test_every_process_has_the_predictions_of_one(one: Path, two: Path) -> None:
    alone, *both = (
        np.load(folder / f"probabilities-{rank}.npy")
        for folder, rank in ((one, 0), (two, 0), (two, 1))
    )
    assert alone.shape == (51, 3)
    assert all(np.abs(probabilities - alone).max() < 1e-6 for probabilities in both)


# --- the command line --------------------------------------------------------------------------


def quality(report: dict[str, Any]) -> list[float]:
    """Give a report's quality figures."""
    models = [report["teacher"], *report["students"].values()]
    scores = [model[name] for model in models for name in ("accuracy", "macro_f1")]
    means = [score["mean"] if isinstance(score, dict) else score for score in scores]
    alike = [student["agreement"] for student in report["students"].values()]
    return [*means, *(model["ece"] for model in models), *alike]


@pytest.fixture(scope="module")
def settings(place: Path, small_encoder: Path, small_size: Path) -> Settings:
    return Settings(
        task=f"csv:{place / 'topics.csv'}",
        split_column="split",
        id_column="id",
        teacher=str(small_encoder),
        teacher_epochs=4,
        teacher_learning_rate=5e-3,
        teacher_frozen=0.0,
        student=str(small_size),
        epochs=4,
        labelled_epochs=4,
        learning_rate=1e-2,
        batch_size=BATCH,
        max_length=24,
        device="cpu",
        dtype="float32",
    )


def run_in_two(settings: Settings, place: Path) -> str:
    """Give the command line a run of these settings in two processes; give what was said."""
    given = replace(settings, batch_size=BATCH // 2).given
    options = [part for k, v in given.items() for part in (f"--{k.replace('_', '-')}", v)]
    return launch([*TWO, "-m", "distill_lab", "run", *options, "--out", "run"], place)


@pytest.fixture(scope="module")
def said_of_run(settings: Settings, place: Path) -> str:
    return run_in_two(settings, place)


def test_a_run_in_two_processes_gives_the_report_of_one(
    settings: Settings, said_of_run: str, place: Path, tmp_path: Path, one_thread: None
) -> None:
    alone = run(settings, tmp_path, say=lambda line: None)
    together = json.loads((place / "run" / "report.json").read_text(encoding="utf-8"))
    assert quality(together) == pytest.approx(quality(alone), abs=1e-6)
    assert together["teacher"]["throughput"] > 0
    assert said_of_run.count("The report: ") == 1  # one process speaks


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as in what is launched, so that sums come out alike."""
    with threads(1):
        yield


def test_two_processes_agree_on_what_is_made_already(
    settings: Settings, said_of_run: str, place: Path
) -> None:
    report = (place / "run" / "report.json").read_bytes()
    assert "the report is already in run; nothing has changed" in run_in_two(settings, place)
    assert (place / "run" / "report.json").read_bytes() == report


def test_accelerate_launch_starts_it_too(place: Path, tmp_path: Path) -> None:
    start = [*PYTHON, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    data = ["--task", f"csv:{place / 'topics.csv'}", "--split-column", "split"]
    command = [*start, "-m", "distill_lab", "extract", "--teacher", place / "teacher", *data]
    said = launch([*command, "--device", "cpu", "--out", "store"], tmp_path)
    assert said.count("96 examples") == 1
    assert len(KnowledgeStore(tmp_path / "store")) == 96
