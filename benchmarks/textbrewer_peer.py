"""Distillation by TextBrewer (Yang et al. 2020, arXiv:2002.12620), as its manual describes it.

TextBrewer's soft loss is the cross-entropy at T, without T². Its weight is set to T² here, so that
its loss is T² · (KL + H(teacher)) at T: H(teacher) is a constant, so its gradient is that of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from benchmarks.material import Batch, EpochAfterEpoch
from benchmarks.plain_loop import Recipe, Tokens, adamw, linear, padded
from distill_lab.errors import UserError

INSTALL = "pip install --constraint constraints.txt --requirement benchmarks/requirements.txt"


Answers = list[list[Any]]  # of each batch: its tensors, and a list of the teacher's logits


def distill(
    student: Any,
    teacher: Any,
    tokens: Tokens,
    epochs: Sequence[Sequence[Batch]],
    folder: Path,
    recipe: Recipe,
    answers: Answers | None = None,
) -> list[float]:
    """Train a student on a live teacher's logits, in place; see ``plain_loop.distill``.

    Args:
        student: A classifier of ``transformers``.
        teacher: Likewise, on the same device.
        tokens: Token ids of each sentence.
        epochs: For each epoch its batches, each the places of its sentences.
        folder: Where it leaves the student's weights after each epoch, which it always does.
        recipe: How. TextBrewer itself knows float32 and, by NVIDIA's Apex, float16; for another
            dtype the models come wrapped.
        answers: Train on these, given by ``ask``, in an order that it draws anew each epoch; then
            of ``epochs`` their number counts only, and no teacher is asked.

    Returns:
        The loss of each step.

    Raises:
        UserError: TextBrewer is not installed.
    """
    device = student.device
    distiller = _distiller(
        teacher, student, folder, recipe.temperature, recipe.dtype, answers is not None
    )
    loader: Any = _Nothing(len(epochs[0]))
    if answers is None:
        loader = DataLoader(
            tokens,  # type: ignore[arg-type]  # a list is a data set
            batch_sampler=EpochAfterEpoch(epochs),  # type: ignore[arg-type]
            collate_fn=lambda rows: padded(rows, device),
        )
    else:
        distiller.logits_cache = list(answers)
    distiller.tb_writer = losses = _Losses()
    with distiller:
        distiller.train(
            adamw(student.parameters(), recipe.learning_rate, recipe.weight_decay),
            loader,
            num_epochs=len(epochs),
            scheduler_class=LambdaLR,
            scheduler_args={"lr_lambda": linear(sum(map(len, epochs)), recipe.warmup)},
            max_grad_norm=1.0,
        )
    return losses.values


def ask(
    teacher: Any,
    tokens: Tokens,
    batches: Sequence[Batch],
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
) -> Answers:
    """Fill the cache of TextBrewer's ``BasicDistiller`` (its ``GeneralDistiller`` has none).

    Its ``train`` does the same before the first epoch when ``is_caching_logits`` is set. What it
    keeps are whole batches, so that all epochs have the same ones.

    Args:
        teacher: A classifier of ``transformers``.
        tokens: Token ids of each sentence.
        batches: Each the places of its sentences.
        folder: It wants one.
        dtype: Of autocast.
    """
    distiller = _distiller(teacher, teacher, folder, 1.0, dtype, True)
    teacher.eval()
    for batch in batches:
        distiller.cache_logits(padded([tokens[i] for i in batch], teacher.device), {}, None)
    answers: Answers = distiller.logits_cache
    return answers


def _distiller(
    teacher: Any, student: Any, folder: Path, temperature: float, dtype: torch.dtype, cached: bool
) -> Any:
    textbrewer = _textbrewer()
    return (textbrewer.BasicDistiller if cached else textbrewer.GeneralDistiller)(
        textbrewer.TrainingConfig(output_dir=str(folder), device=student.device),
        textbrewer.DistillationConfig(
            temperature=temperature,
            kd_loss_type="ce",
            kd_loss_weight=temperature**2,
            hard_label_weight=0,
            is_caching_logits=cached,
        ),
        _computing_in(dtype, teacher),
        _computing_in(dtype, student),
        adaptor_T=_logits,
        adaptor_S=_logits,
    )


def _textbrewer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its comparing strings by "is"
        try:
            import textbrewer  # type: ignore[import-untyped]
        except ImportError as error:
            raise UserError(f"TextBrewer is missing ({error}); {INSTALL}") from None
    return textbrewer


def _logits(batch: Any, outputs: Any) -> dict[str, Tensor]:
    return {"logits": outputs.logits.float()}


def _computing_in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    return model if dtype == torch.float32 else _Autocast(model, dtype)


class _Autocast(nn.Module):
    """A model whose forward pass computes in another dtype."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, **inputs: Tensor) -> Any:
        with torch.autocast(self.model.device.type, self.dtype):
            return self.model(**inputs)


class _Nothing:
    """A loader of so many batches that gives none, where the cache is full already."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(())


class _Losses:
    """Stand in for the writer of logs to which TextBrewer tells the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if name == "scalar/total_loss":
            self.values.append(value)
