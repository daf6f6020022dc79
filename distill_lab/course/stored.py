"""Make what ``data/`` stores for the lessons, from the folder of a finished run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill_lab.classroom import STORED_SPLITS
from distill_lab.errors import UserError
from distill_lab.evaluation import predict_logits
from distill_lab.files import read_json, write_json
from distill_lab.knowledge import KnowledgeStore, extract, pack
from distill_lab.models import load_teacher, load_tokenizer
from distill_lab.pipeline import VARIANTS, Say, read_settings
from distill_lab.report import load_report
from distill_lab.tasks import Task, encode_texts, load_task

# Written for the course. Some are plain, some stand between two topics on purpose.
SENTENCES = (
    ("The bank raised its forecast after profits grew for a third quarter.", "business"),
    ("Shares in the airline fell when fuel became dearer.", "business"),
    ("The band plays two nights in Leeds before its album comes out in May.", "entertainment"),
    ("Her second film opened at the top of the box office.", "entertainment"),
    ("Ministers will vote on the new pensions bill next week.", "politics"),
    ("The opposition leader called for an inquiry into the spending plans.", "politics"),
    ("The captain scored twice as the visitors won the cup tie.", "sports"),
    ("An injured knee keeps the sprinter out of the indoor championships.", "sports"),
    ("The new phone can send pictures over a faster wireless network.", "tech"),
    ("A flaw in the browser lets attackers read stored passwords.", "tech"),
    ("The minister wants football clubs to share their television money.", "politics"),
    ("The maker of the football game doubled its profits.", "business"),
    ("The studio sued a web site that let users download its films.", "tech"),
    ("He said that he was pleased with the result.", "sports"),
)


def store_run(run: Path, data: Path, *, name: str, say: Say = print) -> None:
    """Write a run's report, teacher logits and answers to our own sentences into ``data/``.

    Args:
        run: The folder of a finished run of the default task.
        data: The folder ``data/``.
        name: Of the result, as ``classroom.result`` finds it.

    Raises:
        UserError: The run is not finished, or it is of another task.
    """
    report = load_report(run)
    settings = read_settings(run / "config.toml")
    task = load_task(settings["task"], max_length=settings["max_length"])
    if task.name != "bbc-topics":
        raise UserError(f"{run} is a run of {task.name}; lessons store runs of bbc-topics")
    write_json(data / "results" / f"{name}.json", report)
    teacher = load_teacher(str(run / "teacher"), label_names=task.label_names)
    tokenizer = load_tokenizer(str(run / "teacher"))
    for split in STORED_SPLITS:
        say(f"storing the teacher's logits of {split}")
        with tempfile.TemporaryDirectory() as folder:
            store = (
                KnowledgeStore(run / "knowledge")
                if split == "transfer"
                else extract(
                    teacher,
                    task,
                    tokenizer,
                    folder,
                    split=split,
                    dtype=report["environment"]["dtype"],
                )
            )
            pack(store, data / "knowledge" / task.name / split)
    say("asking teacher and students about the course's own sentences")
    write_json(data / "examples.json", _answers(run, task))


def store_study(folder: Path, data: Path) -> None:
    """Write a study's result into ``data/``, with the command that repeats it.

    Args:
        folder: The folder of a finished study.
        data: The folder ``data/``; the study's file stands in ``data/studies``.

    Raises:
        UserError: The folder holds no finished study.
    """
    result = read_json(folder / "study.json")
    if not result:
        raise UserError(f"{folder} holds no finished study; make one: distill-lab study FILE")
    name = result["study"]
    command = {"command": f"distill-lab study data/studies/{name}.toml"}
    write_json(data / "results" / f"{name}.json", command | result)


def store_deployment(runs: Sequence[Path], data: Path) -> None:
    """Write a table of models and formats into ``data/``, from runs whose students were exported.

    Args:
        runs: Folders of finished runs with ``exports`` in their report; the first one's teacher
            stands for all.
        data: The folder ``data/``.

    Raises:
        UserError: A run is not finished, or its student was not exported.
    """
    models: list[dict[str, Any]] = []
    for run in runs:
        report = load_report(run)
        if "exports" not in report:
            raise UserError(
                f"the student of {run} is not exported; distill-lab export {run} --int8"
            )
        settings, exports = report["settings"], report["exports"]
        if not models:
            teacher = report["teacher"] | {"throughput": exports["onnx"]["teacher_throughput"]}
            models.append(_row("teacher", "torch float32", teacher))
        name = f"student {settings['student']}"
        name += ", pruned vocabulary" if settings.get("prune_vocabulary") else ""
        student = report["students"]["distilled"]
        first_seed = student | {"accuracy": student["accuracy"]["values"][0]}  # which is exported
        models.append(_row(name, "torch float32", first_seed))
        for key, form in (("onnx", "onnx float32"), ("onnx_int8", "onnx int8")):
            models += [_row(name, form, exports[key])] if key in exports else []
    command = f"distill-lab course deployment {' '.join(f'runs/{run.name}' for run in runs)}"
    result = {"command": command, "models": models, "environment": report["environment"]}
    write_json(data / "results" / "deployment.json", result)


def _row(name: str, form: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: figures[key] for key in ("bytes", "throughput", "latency_ms", "accuracy")}
    return {"name": name, "format": form, **kept}


def _answers(run: Path, task: Task) -> dict[str, Any]:
    folders = {"teacher": run / "teacher"}
    folders |= {variant: run / "students" / f"{variant}-seed0" for variant in VARIANTS}
    answers: dict[str, list[list[float]]] = {}
    for name, folder in folders.items():
        model = load_teacher(str(folder), label_names=task.label_names)
        tokenizer = load_tokenizer(str(folder))  # a student's own: its vocabulary may be pruned
        rows = encode_texts([text for text, _ in SENTENCES], tokenizer, task.max_length)
        logits: torch.Tensor = predict_logits(model, rows, task.collator(tokenizer))
        answers[name] = [[round(v, 4) for v in row] for row in logits.tolist()]
    return {
        "classes": list(task.label_names),
        "sentences": [
            {
                "text": text,
                "topic": topic,
                "teacher": answers["teacher"][k],
                "students": {variant: answers[variant][k] for variant in VARIANTS},
            }
            for k, (text, topic) in enumerate(SENTENCES)
        ],
    }
