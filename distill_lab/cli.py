"""The command line: ``run study extract distill evaluate predict export doctor lab course``.

Commands import what they need when they run, so that ``distill-lab --help`` is quick.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from distill_lab.course.cli import app as course
from distill_lab.course.cli import lab
from distill_lab.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distill_lab.tasks import Task


class _Commands(TyperGroup):
    """The commands; an interruption in one is said in a line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # typer would end in silence
            told = "interrupted; the same command goes on from what is done"
            print(f"\ndistill-lab: {told}", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="distill-lab",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Knowledge distillation for Transformers, end to end.

    [bold]distill-lab run[/bold] takes text through four steps: train a teacher, extract its
    knowledge, train students, evaluate them. The next four do one step each.
    [bold]distill-lab lab[/bold] opens the lessons.""",
)
console = Console()
COURSE = "The course"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Init(StrEnum):
    random = "random"
    teacher_layers = "teacher-layers"
    pretrained = "pretrained"


class Embeddings(StrEnum):
    svd = "svd"
    random = "random"


TASK_HELP = (
    "bbc-topics, csv:PATH, json:PATH, parquet:PATH or hub:OWNER/NAME[:CONFIG]"  # as load_task
)
TaskOption = Annotated[str, typer.Option("--task", metavar="SPEC", help=TASK_HELP)]
DATA = "Data"
MODELS = "Models"
OBJECTIVE = "Objective and training"


def _column(what: str, default: str) -> Any:
    return typer.Option(
        f"--{what}-column", metavar="NAME", help=f"Column of the {default}", rich_help_panel=DATA
    )


TextColumn = Annotated[str | None, _column("text", "texts; text or sentence if not given")]
LabelColumn = Annotated[str | None, _column("label", "labels; label if not given; empty: none")]
GroupColumn = Annotated[str | None, _column("group", "groups that must stay in one split")]
IdColumn = Annotated[str | None, _column("id", "unique ids; rows are numbered if not given")]
SplitColumn = Annotated[str | None, _column("split", "splits: train, validation, test")]
MaxLength = Annotated[
    int | None, typer.Option(help="Longest input, in tokens \\[48]", rich_help_panel=DATA)
]
DeviceOption = Annotated[Device | None, typer.Option(help="Where to compute \\[auto]")]
Dtype = Annotated[
    str | None, typer.Option(metavar="auto|float32|bfloat16", help="In what to compute \\[auto]")
]
AtOnce = Annotated[
    int | None,
    typer.Option(help="Students to train side by side \\[on CPUs as threads and memory allow]"),
]


@app.command()
def run(
    task: Annotated[
        str | None, typer.Option(metavar="SPEC", help=TASK_HELP, rich_help_panel=DATA)
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    max_length: MaxLength = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="minilm|PATH|HUB-ID", help="The teacher \\[minilm]", rich_help_panel=MODELS
        ),
    ] = None,
    teacher_epochs: Annotated[
        float | None,
        typer.Option(help="Passes of fine-tuning; 0: as it is \\[1]", rich_help_panel=MODELS),
    ] = None,
    teacher_learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak rate of the teacher \\[2e-4]", rich_help_panel=MODELS),
    ] = None,
    teacher_frozen: Annotated[
        float | None,
        typer.Option(
            help="Share of the lower blocks, and embeddings, kept as they are; 0: none \\[0.5]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="tiny|small|PATH|HUB-ID",
            help="tiny: 2 layers × 128; small: 3 layers, the teacher's width \\[tiny]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    init: Annotated[
        Init | None,
        typer.Option(help="Where its layers' weights come from \\[random]", rich_help_panel=MODELS),
    ] = None,
    embeddings: Annotated[
        Embeddings | None,
        typer.Option(
            help="Its word embeddings: the teacher's, cut by truncated SVD, or random \\[svd]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    prune_vocabulary: Annotated[
        bool | None,
        typer.Option(
            help="Leave it only the word pieces that the training texts show \\[no]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="TERMS",
            help="soft, with any of hidden_states, attention, relations added, each with a weight: "
            "soft+hidden_states=0.5+relations=1 \\[soft]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="T of the soft targets \\[2]", rich_help_panel=OBJECTIVE)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Weight of the soft targets; the hard labels have the rest \\[1]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="ε of the label-smoothing student \\[0.1]", rich_help_panel=OBJECTIVE),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the transfer set \\[4]", rich_help_panel=OBJECTIVE),
    ] = None,
    labelled_epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes of the students that see the labelled examples only \\[4]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak rate of the students \\[2e-3]", rich_help_panel=OBJECTIVE),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a step \\[32]", rich_help_panel=OBJECTIVE)
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Students of each kind; 3 or more give intervals over seeds \\[1]",
            rich_help_panel=OBJECTIVE,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed \\[0]", rich_help_panel=OBJECTIVE)
    ] = None,
    device: DeviceOption = None,
    dtype: Dtype = None,
    at_once: AtOnce = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Settings of an earlier run; options given here win over it"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder \\[runs/NAME]")
    ] = None,
) -> None:
    """Train a teacher, extract its knowledge, train students, and write the report card.

    Without options: BBC News topics, the MiniLM teacher, a student a fifth of its size. What is
    already made in the run's folder is used again; an interrupted run goes on.
    """
    given = {
        k: str(v) if isinstance(v, StrEnum) else v
        for k, v in locals().items()
        if v is not None and k not in ("config", "out", "at_once")
    }
    from distill_lab.pipeline import Settings, read_settings
    from distill_lab.pipeline import run as run_pipeline
    from distill_lab.report import render_terminal

    values = (read_settings(config) if config else {}) | given
    settings = Settings(**values)
    folder = out
    if folder is None and config is not None and config.name == "config.toml":
        folder = config.parent  # repeating a run stays in its folder
    report = run_pipeline(settings, folder, at_once=at_once, say=_say)
    if _is_main_process():
        console.print(render_terminal(report))
        folder = folder or Path("runs") / report["task"]["name"]
        _say(f"\nThe report: {folder / 'report.html'}")
        _print(f'Try it: distill-lab predict {folder} "some text"')


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study, a TOML file")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The study's folder \\[runs/studies/NAME]")
    ] = None,
    at_once: AtOnce = None,
) -> None:
    """Compare trainings that differ in one thing each, over seeds, with intervals.

    What is trained already is used again; an interrupted study goes on.
    """
    from distill_lab.study import read_study, run_study, study_table

    plan = read_study(file)
    folder = out or Path("runs") / "studies" / plan.name
    result = run_study(plan, folder, at_once=at_once, say=_say)
    console.print(study_table(result))
    _say(f"\nThe result: {folder / 'study.json'}")


@app.command()
def extract(
    teacher: Annotated[
        str, typer.Option(metavar="PATH|HUB-ID", help="A fine-tuned classifier of the task")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The store")],
    task: TaskOption = "bbc-topics",
    split: Annotated[str, typer.Option(help="labelled, transfer, validation or test")] = "transfer",
    features: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated: logits, pooled.LAYER, hidden_states.LAYER, attentions.LAYER, "
            "query.LAYER, key.LAYER, value.LAYER; LAYER is embeddings or layer.0, layer.1, …",
        ),
    ] = "logits",
    top_k: Annotated[
        int | None, typer.Option(help="Keep the k most probable classes and the tail's mass")
    ] = None,
    stored_dtype: Annotated[
        str, typer.Option(help="float32 or float16, for all but the logits")
    ] = "float32",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    max_length: MaxLength = None,
    device: DeviceOption = None,
    dtype: Dtype = None,
) -> None:
    """Ask a teacher about every example once, and keep the answers on disk."""
    from distill_lab import knowledge

    data = _task(task, max_length, text_column, label_column, group_column, id_column, split_column)
    model, processor = _trained(teacher, data)
    store = knowledge.extract(
        model,
        data,
        processor,
        out,
        split=split,
        features=[name.strip() for name in features.split(",")],
        top_k=top_k,
        stored_dtype=stored_dtype,
        device=str(device or "auto"),
        dtype=dtype or "auto",
    )
    if _is_main_process():
        _print(
            f"{len(store):,} examples, {store.bytes:,} bytes, "
            f"{store.bytes / len(store):,.0f} an example: {out}"
        )


@app.command()
def distill(
    teacher: Annotated[
        str, typer.Option(metavar="PATH|HUB-ID", help="The teacher that made the store")
    ],
    store: Annotated[Path, typer.Option(metavar="FOLDER", help="Its knowledge, from extract")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the student goes")],
    task: TaskOption = "bbc-topics",
    split: Annotated[str, typer.Option(help="labelled or transfer")] = "transfer",
    student: Annotated[
        str, typer.Option(metavar="tiny|small|PATH|HUB-ID", help="The student's size")
    ] = "tiny",
    init: Annotated[Init, typer.Option(help="Where its layers come from")] = Init.random,
    embeddings: Annotated[Embeddings, typer.Option(help="Its word embeddings")] = Embeddings.svd,
    objective: Annotated[
        str, typer.Option(metavar="TERMS", help="As in run: soft+hidden_states=0.5, …")
    ] = "soft",
    temperature: Annotated[float, typer.Option(help="T of the soft targets")] = 2.0,
    alpha: Annotated[float, typer.Option(help="Weight of the soft targets")] = 1.0,
    epochs: Annotated[float, typer.Option(help="Passes over the examples")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak rate")] = 2e-3,
    batch_size: Annotated[int, typer.Option(help="Examples a step")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Draws weights, batches and dropout")] = 0,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    max_length: MaxLength = None,
    device: DeviceOption = None,
    dtype: Dtype = None,
) -> None:
    """Train one student from a teacher's stored knowledge."""
    from distill_lab import training
    from distill_lab.files import check_new_folder, written_whole
    from distill_lab.knowledge import KnowledgeStore
    from distill_lab.models import build_student, save_model
    from distill_lab.pipeline import check_same_tokenizer, key_of

    data = _task(task, max_length, text_column, label_column, group_column, id_column, split_column)
    check_new_folder(out)
    model, processor = _trained(teacher, data)
    check_same_tokenizer(student, processor)
    known = KnowledgeStore(store)
    known.check(data.split(split), processor=processor, teacher=model)
    built = build_student(model, student, init=str(init), embeddings=str(embeddings), seed=seed)
    data.check(built, processor)
    wanted = training.parse_objective(objective, alpha=alpha, temperature=temperature)
    # The student's first weights; training itself sees to the rest.
    begun = key_of(student, str(init), str(embeddings), seed, known.fingerprint["teacher"])[:12]
    result = training.distill(
        built,
        known,
        data,
        processor,
        objective=wanted.mapped(built, model),
        split=split,
        schedule=training.Schedule(
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            device=str(device or "auto"),
            dtype=dtype or "auto",
        ),
        checkpoints=out.with_name(f"{out.name}.checkpoints-{begun}"),
    )
    if _is_main_process():
        with written_whole(out) as temporary:
            save_model(built, temporary)
            processor.save_pretrained(temporary)
        best = max((e["macro_f1"] for e in result.epochs), default=float("nan"))
        _print(
            f"{result.steps:,} steps in {result.seconds:.0f} s; validation macro-F1 {best:.4f} "
            f"(epoch {result.best_epoch:g}): {out}"
        )


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A classifier: folder or Hub id")],
    task: TaskOption = "bbc-topics",
    split: Annotated[str, typer.Option(help="test or validation")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    max_length: MaxLength = None,
    device: DeviceOption = None,
) -> None:
    """Measure a classifier's quality and cost on a split."""
    from distill_lab import evaluation
    from distill_lab.devices import moved, pick_device

    place = pick_device(str(device or "auto"))
    data = _task(task, max_length, text_column, label_column, group_column, id_column, split_column)
    classifier, processor = _trained(model, data)
    result = evaluation.evaluate(classifier, data, processor, split=split, device=str(place))
    intervals = evaluation.metric_intervals([result])
    rows, collate = data.encode(split, processor), data.collator(processor)
    cost = evaluation.measure_cost(moved(classifier, place), rows, collate)
    figures = {
        "split": split,
        "examples": len(rows),
        "interval": intervals["accuracy"].kind,
        **{name: interval.as_dict() for name, interval in intervals.items()},
        "ece": result.ece,
        **cost.as_dict(),
    }
    if not _is_main_process():
        return
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name in ("accuracy", "macro_f1"):
        i = intervals[name]
        _print(
            f"{name:<12} {i.mean:.4f}  (95 % interval over articles {i.low:.4f} to {i.high:.4f})"
        )
    _print(f"{'ece':<12} {result.ece:.4f}")
    _print(f"{'parameters':<12} {cost.parameters:,} ({cost.bytes:,} bytes)")
    _print(f"{'throughput':<12} {cost.throughput:,.0f} examples/s at batch 32")
    p50, p95 = cost.latency_ms["p50"], cost.latency_ms["p95"]
    _print(f"{'latency':<12} {p50:.2f} ms (p50), {p95:.2f} ms (p95)")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="Texts")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A file of texts instead")
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Its column of texts")] = "text",
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Where the predictions go")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which distilled student \\[the first]")] = None,
    device: DeviceOption = None,
) -> None:
    """Classify texts with teacher and distilled student side by side."""
    from distill_lab.prediction import load_pair, predict_texts, prediction_table, write_csv
    from distill_lab.tasks import read_texts

    if (file is None) == (not texts):
        raise UserError("give texts, or --file texts.csv, one of the two")
    if out is not None and file is None:
        raise UserError("--out goes with --file; texts on the command line are printed")
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    wanted = list(texts or []) if file is None else read_texts(file, text_column)
    pair = load_pair(run, seed=seed)
    predictions = predict_texts(pair, wanted, device=str(device or "auto"))
    if out is not None:
        write_csv(out, wanted, pair.label_names, predictions)
        _print(f"{len(wanted):,} predictions: {out}")
    else:
        console.print(prediction_table(wanted, pair.label_names, predictions))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model goes")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the weights to 8 bits, in a second model")
    ] = False,
) -> None:
    """Write the distilled student as an ONNX model that runs without torch.

    The ONNX model is checked against torch on the test split; its speed, beside the teacher's, is
    added to the run's report.
    """
    from distill_lab.export import export_run
    from distill_lab.report import exports_table

    report = export_run(run, out, int8=int8, say=_say)
    console.print(exports_table(report))
    _say(f"Exported: {out}; how to use it: {out / 'README.md'}")


@app.command()
def doctor() -> None:
    """Say what is installed, what will be used, and how to mend what is missing."""
    from distill_lab.doctor import checks, table

    found = checks()
    console.print(table(found))
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def _task(
    spec: str,
    max_length: int | None,
    text: str | None,
    label: str | None,
    group: str | None,
    identity: str | None,
    split: str | None,
) -> Task:
    from distill_lab.tasks import load_task

    return load_task(
        spec,
        text_column=text,
        label_column=label,
        group_column=group,
        id_column=identity,
        split_column=split,
        **({} if max_length is None else {"max_length": max_length}),
    )


def _trained(source: str, task: Task) -> tuple[PreTrainedModel, Any]:
    """Load a classifier of the task and its tokenizer.

    Raises:
        UserError: It has no head that was trained, or cannot read the task's inputs.
    """
    from distill_lab.models import load_teacher, load_tokenizer
    from distill_lab.pipeline import check_trained

    model, tokenizer = load_teacher(source, label_names=task.label_names), load_tokenizer(source)
    check_trained(source, model)
    task.check(model, tokenizer)
    return model, tokenizer


def _say(line: str) -> None:
    if _is_main_process():
        _print(line, style="bold")


def _print(line: str, style: str | None = None) -> None:
    """Print a line as it is: names of files are no markup, and no line is broken inside one."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _is_main_process() -> bool:
    """Whether this is the process that speaks, under torchrun too; asked without torch."""
    return os.environ.get("RANK", "0") == "0"


def _hush() -> None:
    """Leave the terminal to what matters: libraries' notes and bars are not for the reader."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("distill_lab").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)  # for who writes libraries
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"


app.command(rich_help_panel=COURSE)(lab)
app.add_typer(course, rich_help_panel=COURSE)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    _hush()
    try:
        app()
    except UserError as error:
        print(f"distill-lab: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
