"""Laws of the command line: a user's mistake is one clear line, exit code 2, and leaves nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
from conftest import sentences, small_bert, write_csv
from typer.testing import CliRunner

from distill_lab import cli, models, tasks
from distill_lab.pipeline import Settings


class Done(NamedTuple):
    code: int
    out: str
    err: str


class CommandLine:
    """Runs ``distill-lab`` in this process, in an empty folder."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, *arguments: object) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["distill-lab", *map(str, arguments)])
        self.capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *self.capsys.readouterr())

    def refused(self, *arguments: object, after_work: bool = False) -> str:
        """Run, assert that it was refused as it should be, and give the line that says why.

        Args:
            after_work: The mistake shows only when work has begun: bars may stand before the line,
                and results of finished steps stay.
        """
        before = set(self.folder.rglob("*"))
        done = self(*arguments)
        assert done.code == 2, done
        if not after_work:
            assert set(self.folder.rglob("*")) == before
            assert done.err.count("\n") == 1
        assert not list(self.folder.rglob(".*.part"))
        line = done.err.splitlines()[-1]
        assert line.startswith("distill-lab: ") and "Traceback" not in done.err
        return line


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored after
    for module in (models, tasks):
        monkeypatch.setattr(module, "hub_answers", lambda: False)
    datasets.disable_progress_bars()  # a process of its own has it from its environment
    yield CommandLine(tmp_path, monkeypatch, capsys)
    datasets.enable_progress_bars()


@pytest.fixture
def run_options(small_encoder: Path, small_size: Path) -> list[object]:
    return [
        *("run", "--teacher", small_encoder, "--student", small_size, "--max-length", 24),
        *("--teacher-epochs", 1, "--epochs", 1, "--labelled-epochs", 1, "--out", "out"),
        *("--dtype", "float32"),
    ]


ROWS = sentences()
Rows = list[dict[str, Any]]


def csv_file(change: Callable[[Rows], Rows]) -> Callable[[Path], str]:
    """Give a function that writes the sentences, changed, and gives the task's name."""

    def make(folder: Path) -> str:
        write_csv(folder / "data.csv", change([dict(row) for row in ROWS]))
        return "csv:data.csv"

    return make


def file(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return f"{name.partition('.')[2]}:{name}"

    return make


def each(**values: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row | values for row in rows]


def added(*more: dict[str, Any]) -> Callable[[Rows], Rows]:
    return lambda rows: [*rows, *({"group": "g", "id": f"i{k}"} | m for k, m in enumerate(more))]


def with_splits(rows: Rows) -> Rows:
    split = [row | {"split": "test" if k % 5 == 0 else "train"} for k, row in enumerate(rows)]
    new = {"label": "new", "group": "g", "split": "test"}
    return [*split, *(new | {"text": f"a new {k}", "id": f"i{k}"} for k in range(2))]


def objects(*rows: dict[str, Any]) -> bytes:
    return json.dumps([*ROWS, *rows]).encode()


BAD_DATA: dict[str, tuple[Callable[[Path], str], tuple[object, ...], str]] = {
    "no such file": (lambda f: "csv:none.csv", (), "no such file: none.csv"),
    "unknown task": (lambda f: "poetry", (), "unknown task 'poetry'"),
    "missing column": (
        csv_file(list),
        ("--text-column", "body"),
        "no column 'body'; the columns are 'text', 'label', 'group', 'id'",
    ),
    "one class": (csv_file(each(label="a")), (), "at least two classes"),
    "a class with one example": (csv_file(added({"text": "x y", "label": "rare"})), (), "'rare'"),
    "empty text": (csv_file(added({"text": "  ", "label": "sea"})), (), "row 181 (empty)"),
    "missing text": (file("data.json", objects({"label": "sea"})), (), "row 181 (missing)"),
    "text is no string": (
        file("data.json", objects({"text": 3, "label": "sea"})),
        (),
        "row 181 (of type int, not a string)",
    ),
    "broken UTF-8": (file("data.csv", b"text,label\na\xffb,x\n"), (), "not UTF-8: byte 0xff"),
    "duplicate ids": (csv_file(each(id="x")), ("--id-column", "id"), "more than once ('x')"),
    "unseen label in test": (
        csv_file(with_splits),
        ("--split-column", "split"),
        "labels of the test split never occur in training: 'new'",
    ),
    "fewer examples than classes": (csv_file(lambda rows: rows[::60]), (), "one example only"),
    "no rows": (file("data.csv", b"text,label\n"), (), "no rows"),
    "no Parquet": (file("data.parquet", b"PAR1"), (), "cannot be read as Parquet"),
    "hub off line": (lambda f: "hub:no/such", (), "Hub cannot be reached"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_refused(name: str, command: CommandLine, run_options: list[object]) -> None:
    make, options, said = BAD_DATA[name]
    assert said in command.refused(*run_options, "--task", make(command.folder), *options)


@pytest.fixture
def task_options(run_options: list[object], small_csv: Path) -> list[object]:
    return [*run_options, "--task", f"csv:{small_csv}", "--group-column", "group"]


BAD_OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "no such teacher": (("--teacher", "./none"), "no model folder at './none'"),
    "teacher on the hub, off line": (("--teacher", "no/such"), "Hub cannot be reached"),
    "no such student": (("--student", "./none"), "no model folder at './none'"),
    "too long": (("--max-length", 65), "at most 64"),
    "too short": (("--max-length", 1), "at least 4"),
    "untrained teacher as it is": (("--teacher-epochs", 0), "no classification head"),
    "student wider than teacher": (("--student", "tiny"), "--embeddings random"),
    "layers of other widths": (("--init", "teacher-layers"), "as wide as its teacher"),
    "pretrained needs a place": (
        ("--student", "tiny", "--init", "pretrained"),
        "needs a folder or Hub id",
    ),
    "temperature": (("--temperature", 0), "temperature is 0.0"),
    "temperature nan": (("--temperature", "nan"), "temperature is nan"),
    "alpha": (("--alpha", 2), "alpha is 2.0"),
    "label smoothing": (("--label-smoothing", 1), "label smoothing is 1.0"),
    "epochs": (("--epochs", 0), "epochs is 0.0"),
    "teacher epochs": (("--teacher-epochs", "nan"), "epochs is nan"),
    "teacher frozen": (("--teacher-frozen", 3), "teacher frozen is 3.0"),
    "learning rate": (("--teacher-learning-rate", -1), "learning rate is -1.0"),
    "batch size": (("--batch-size", 0), "batch size is 0"),
    "seeds": (("--seeds", 0), "seeds is 0"),
    "at once": (("--at-once", 0), "at once is 0"),
    "seed": (("--seed", 2**32), "seed is 4294967296"),
    "objective": (("--objective", "soft+magic"), "'magic' is unknown"),
    "dtype": (("--dtype", "int8"), "no dtype is called 'int8'"),
    "no such config": (("--config", "none.toml"), "no config can be read at none.toml"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_refused(
    name: str, command: CommandLine, task_options: list[object]
) -> None:
    options, said = BAD_OPTIONS[name]
    assert said in command.refused(*task_options, *options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("magic = 1", "unknown setting 'magic'"),
        ("seeds = '3'", "seeds is '3'; expected int"),
        ("seeds = true", "seeds is True; expected int"),
        ("seeds = ", "no valid TOML"),
    ],
)
def test_a_bad_config_is_refused(content: str, said: str, command: CommandLine) -> None:
    (command.folder / "c.toml").write_text(content, encoding="utf-8")
    assert said in command.refused("run", "--config", "c.toml")


def test_a_teacher_with_another_number_of_classes_is_refused(
    command: CommandLine, task_options: list[object], small_tokenizer: Any
) -> None:
    small_bert(classes=tuple("abcde")).save_pretrained("five")
    small_tokenizer.save_pretrained("five")
    assert "classifies 5 classes" in command.refused(*task_options, "--teacher", "five")


def test_a_student_with_another_tokenizer_is_refused(
    command: CommandLine, task_options: list[object], small_size: Path, small_tokenizer: Any
) -> None:
    shutil.copytree(small_size, "other")
    small_tokenizer.add_tokens(["zebra"])
    small_tokenizer.save_pretrained("other")
    options = ("--student", "other", "--embeddings", "random")
    assert "another tokenizer" in command.refused(*task_options, *options)


def test_a_model_smaller_than_its_tokenizer_is_refused(
    command: CommandLine, task_options: list[object], small_tokenizer: Any
) -> None:
    model = small_bert().base_model
    model.resize_token_embeddings(50)
    model.save_pretrained("cut")
    small_tokenizer.save_pretrained("cut")
    assert "embeddings of 50 only" in command.refused(*task_options, "--teacher", "cut")


def test_weights_with_a_wrong_hash_are_refused(
    command: CommandLine, task_options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MINILM_SHA256", "0" * 64)
    assert "have sha256 53aa" in command.refused(*task_options, "--teacher", "minilm")


@pytest.mark.slow
def test_a_folder_of_another_task_or_of_something_else_is_refused(
    command: CommandLine, task_options: list[object], finished_run: Path
) -> None:
    shutil.copytree(finished_run, "out")
    assert "belongs to the task 'csv:" in command.refused(*task_options)
    Path("full").mkdir()
    Path("full/of").write_text("something else")
    assert "holds something else" in command.refused(*task_options, "--out", "full")
    assert "is a file" in command.refused(*task_options, "--out", "full/of")


def test_a_loss_of_nan_names_the_step_and_stops(
    command: CommandLine, task_options: list[object]
) -> None:
    said = command.refused(*task_options, "--learning-rate", 1e30, after_work=True)
    assert "the loss became nan at step" in said
    assert not list(Path("out").glob("checkpoints*"))
    assert [p.name for p in Path("out").iterdir() if p.name in ("students", "report.json")] == []


@pytest.mark.parametrize(
    "place",
    ["distill_lab.pipeline.save_model", "distill_lab.report.draw_figures", "pyarrow.OSFile"],
)
def test_a_full_disk_is_told_in_one_line(
    place: str, command: CommandLine, task_options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "distill_lab.report.draw_figures":  # the first file of the report is a figure
        monkeypatch.setattr(place, lambda report: {"students": b"png"})
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(place, full)
    assert "the disk is full" in command.refused(*task_options, after_work=True)
    assert not Path("out/report.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [("run", "--magic"), ("run", "--seeds", "x"), ("run", "--device", "tpu"), ("dance",)],
)
def test_a_wrong_use_has_exit_code_2(arguments: Iterable[str], command: CommandLine) -> None:
    done = command(*arguments)
    assert done.code == 2 and "Error" in done.err and "Traceback" not in done.err
    assert list(command.folder.iterdir()) == []


def test_an_interruption_says_that_the_command_goes_on(
    command: CommandLine, task_options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill_lab.pipeline.extract", interrupt)
    done = command(*task_options)
    assert done.code == 130 and "Traceback" not in done.err
    assert done.err.endswith(
        "\ndistill-lab: interrupted; the same command goes on from what is done\n"
    )


# --- run --------------------------------------------------------------------------------------


def test_run_shows_each_step_and_the_report_card(
    command: CommandLine, task_options: list[object]
) -> None:
    done = command(*task_options, "--out", "a [b] folder")
    assert done.code == 0
    at = [done.out.index(f"{k} · ") for k in range(1, 5)]
    assert at == sorted(at)
    assert "Report card: topics" in done.out and "…" not in done.out
    assert "The report: a [b] folder/report.html" in done.out
    assert "the two distilled students are one and the same" in " ".join(done.out.split())
    for what in ("teacher", "extracting", "hard labels, seed 0", "testing teacher"):
        assert f"{what}: " in done.err  # a bar that says what is done
    for noise in ("Warning", "warning", "note:", "Writing model shards", "Map:", "Generating"):
        assert noise not in done.err + done.out
    left = {path.name for path in Path("a [b] folder").iterdir()}
    assert left == {
        *("config.toml", "report.json", "report.html", "figures", "knowledge"),
        *("steps", "students", "teacher"),
    }


def test_config_repeats_a_run_in_its_folder(command: CommandLine, finished_run: Path) -> None:
    run = Path(shutil.copytree(finished_run, command.folder / "run"))
    before = (run / "report.json").read_bytes()
    done = command("run", "--config", "run/config.toml")
    assert done.code == 0 and "nothing has changed" in done.out
    assert (run / "report.json").read_bytes() == before
    assert {path.name for path in command.folder.iterdir()} == {"run"}


def test_every_setting_is_an_option_of_run() -> None:
    text = CliRunner().invoke(cli.app, ["run", "--help"], env={"COLUMNS": "200"}).output
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in text


# --- the single steps --------------------------------------------------------------------------


@pytest.fixture
def steps(command: CommandLine, finished_run: Path, half_labelled_csv: Path) -> list[object]:
    """Options of a single step: the finished run's task and teacher, and a store of it."""
    task = ["--task", f"csv:{half_labelled_csv}", "--group-column", "group", "--id-column", "id"]
    options = [*task, "--max-length", 24, "--teacher", finished_run / "teacher"]
    assert command("extract", *options, "--out", "store", "--dtype", "float32").code == 0
    return options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dtype", "bfloat16"), "another dtype (float32 → float32, now bfloat16 → float32)"),
        (("--stored-dtype", "float16"), "another dtype"),
        (("--max-length", 20), "another max length (24, now 20)"),
        (("--features", "logits,pooled.layer.0"), "another features"),
        (("--top-k", 2), "another top k"),
        (("--split", "labelled"), "other examples"),
        (("--split", "nowhere"), "no split is called 'nowhere'"),
        (("--features", "magic"), "no feature is called 'magic'"),
        (("--features", "pooled.layer.7"), "no encoder layer is called 'layer.7'"),
        (("--teacher", "./none"), "no model folder"),
    ],
)
def test_extract_refuses_a_store_made_from_something_else(
    options: tuple[object, ...], said: str, command: CommandLine, steps: list[object]
) -> None:
    assert said in command.refused("extract", *steps, "--out", "store", *options)


def test_extract_refuses_a_teacher_without_a_head(
    command: CommandLine, steps: list[object], small_encoder: Path
) -> None:
    options = (*steps, "--teacher", small_encoder, "--out", "new")
    assert "no classification head" in command.refused("extract", *options)


@pytest.fixture
def distilling(steps: list[object], small_size: Path) -> list[object]:
    options = ["--student", small_size, "--store", "store", "--out", "student", "--epochs", 1]
    return ["distill", *steps, *options, "--dtype", "float32"]


def test_distill_and_evaluate_go_from_store_to_figures(
    command: CommandLine, distilling: list[object], steps: list[object]
) -> None:
    assert "validation macro-F1" in command(*distilling).out
    assert not list(Path().glob("student.checkpoints*"))
    assert "is not empty" in command.refused(*distilling)
    done = command("evaluate", "student", "--json", *steps[: steps.index("--teacher")])
    figures = json.loads(done.out)
    assert done.code == 0 and 0 <= figures["accuracy"]["mean"] <= 1 and figures["parameters"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--store", "none"), "no knowledge store at none"),
        (("--max-length", 20), "made with max length 24 tokens, not 20"),
        (("--objective", "soft+relations"), "extract with these features"),
        (("--temperature", 0), "temperature is 0.0"),
        (("--split", "test"), "it has no example"),
        (("--student", "tiny"), "--embeddings random"),
        (("--out", "."), "is no new folder"),
    ],
)
def test_distill_refuses_what_does_not_fit(
    options: tuple[object, ...], said: str, command: CommandLine, distilling: list[object]
) -> None:
    assert said in command.refused(*distilling, *options)


def test_distill_refuses_a_store_of_another_teacher_text_or_tokenizer(
    command: CommandLine,
    distilling: list[object],
    finished_run: Path,
    half_labelled_csv: Path,
    small_size: Path,
    small_tokenizer: Any,
) -> None:
    student = finished_run / "students" / "hard_labels-seed0"
    assert "other weights" in command.refused(*distilling, "--teacher", student)
    changed = half_labelled_csv.read_text("utf-8").replace("the ", "a ")
    Path("changed.csv").write_text(changed, encoding="utf-8")
    said = command.refused(*distilling, "--task", "csv:changed.csv")
    assert "has changed" in said or "has no example" in said
    shutil.copytree(small_size, "other")
    small_tokenizer.add_tokens(["zebra"])
    small_tokenizer.save_pretrained("other")
    assert "another tokenizer" in command.refused(*distilling, "--student", "other")


def test_distill_goes_on_from_checkpoints_of_the_same_student_only(
    command: CommandLine, distilling: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(*options: object) -> Path:
        given: dict[str, Path] = {}
        with monkeypatch.context() as patch:
            patch.setattr("distill_lab.training.distill", lambda *_, **k: given.update(k) or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                command(*distilling, *options)
        return given["checkpoints"]

    again = folder()
    assert folder() == again
    changes = (("--embeddings", "random"), ("--seed", 1))
    assert len({again, *(folder(*change) for change in changes)}) == 3


def test_distill_refuses_a_truncated_store(command: CommandLine, distilling: list[object]) -> None:
    (shard,) = Path("store").glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:-200])
    assert "truncated" in command.refused(*distilling)


def test_evaluate_refuses_a_model_without_a_head(
    command: CommandLine, small_encoder: Path, small_csv: Path
) -> None:
    options = ("--task", f"csv:{small_csv}", "--max-length", 24)
    assert "no classification head" in command.refused("evaluate", small_encoder, *options)


def test_evaluate_refuses_a_split_with_rows_that_have_no_label(
    command: CommandLine, steps: list[object]
) -> None:
    teacher, task = steps[steps.index("--teacher") + 1], steps[: steps.index("--teacher")]
    said = command.refused("evaluate", teacher, *task, "--split", "transfer")
    assert "of transfer have no label" in said


# --- predict and doctor ------------------------------------------------------------------------


def test_predict_shows_both_models_for_a_text_with_brackets(
    command: CommandLine, finished_run: Path
) -> None:
    done = command("predict", finished_run, "a [red]rose[/red]", "and [a shell")
    assert done.code == 0
    assert "[red]rose[/red]" in done.out and "[a shell" in done.out
    assert done.out.count("%") == 2 * 2 * 3


def test_predict_reads_what_it_wrote(
    command: CommandLine, finished_run: Path, small_csv: Path
) -> None:
    assert command("predict", finished_run, "--file", small_csv, "--out", "a.csv").code == 0
    done = command("predict", finished_run, "--file", "a.csv", "--out", "new/b.csv")
    assert "180 predictions: new/b.csv" in done.out
    assert Path("a.csv").read_bytes() == Path("new/b.csv").read_bytes()


def test_predict_refuses_what_it_cannot_use(
    command: CommandLine, finished_run: Path, small_csv: Path
) -> None:
    def refused(*arguments: object) -> str:
        return command.refused("predict", *arguments)

    Path("folder").mkdir()
    Path("folder/kept").write_text("kept")
    Path("empty.csv").write_text("text\n", encoding="utf-8")
    assert "text 1 is empty" in refused(finished_run, "")
    assert "one of the two" in refused(finished_run)
    assert "one of the two" in refused(finished_run, "a", "--file", small_csv)
    assert "--out goes with --file" in refused(finished_run, "a", "--out", "x.csv")
    assert "is a folder" in refused(finished_run, "--file", small_csv, "--out", "folder")
    assert "no such file" in refused(finished_run, "--file", "none.csv")
    assert "no column 'body'" in refused(finished_run, "--file", small_csv, "--text-column", "body")
    assert "no rows" in refused(finished_run, "--file", "empty.csv")
    assert "is no run's folder" in refused("folder", "a")
    assert "no student of seed 3" in refused(finished_run, "a", "--seed", 3)


@pytest.mark.slow
def test_export_shows_what_it_measured(command: CommandLine, finished_run: Path) -> None:
    shutil.copytree(finished_run, "run")
    done = command("export", "run", "--int8", "--out", "out")
    assert done.code == 0
    assert "ONNX, int8" in done.out and f"how to use it: {Path('out', 'README.md')}" in done.out
    assert Path("out/model.int8.onnx").is_file()


def test_export_refuses_what_it_cannot_use(
    command: CommandLine, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, "run")
    Path("run/report.json").unlink()
    Path("folder").mkdir()
    Path("folder/kept").write_text("kept")
    refused = partial(command.refused, "export")
    assert "is not finished" in refused("run", "--out", "out")
    assert "is no run's folder" in refused("folder", "--out", "out")
    assert "is not empty" in refused(finished_run, "--out", "folder")
    assert "is a file" in refused(finished_run, "--out", "folder/kept")
    assert "cannot be written" in refused(finished_run, "--out", "folder/kept/out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "distill_lab.export")
    assert "pip install 'distill-lab[export]'" in refused(finished_run, "--out", "out")


def test_doctor_has_exit_code_1_when_something_is_amiss(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_lab.doctor.checks", lambda: [tasks.Check("it", True, "is", "")])
    assert command("doctor").code == 0
    amiss = tasks.Check("it", False, "is not", "mend it")
    monkeypatch.setattr("distill_lab.doctor.checks", lambda: [amiss])
    done = command("doctor")
    assert done.code == 1 and "mend it" in done.out
