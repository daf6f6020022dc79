"""Inputs of an exercise that are no tensors, as plain data: a classifier, an optimizer, a clock.

A contract gives one of these; what asks the answer builds the object itself, in the process where
the answer runs, and hands that to the function. So contracts stay free of objects that could not
travel to another process, and nothing that travels needs to be trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from distill_lab.quiet import quiet_transformers


@runtime_checkable
class Buildable(Protocol):
    """An object as plain data."""

    def build(self, built: Mapping[str, Any]) -> Any:
        """Make the object; ``built`` holds the inputs of the same call that are made already."""

    def state(self, made: Any) -> dict[str, Tensor]:
        """Give what a contract may look at after the call, as named tensors."""


@dataclass(frozen=True)
class Classifier:
    """A small BERT classifier; the answer gets a ``BertForSequenceClassification``.

    Attributes:
        config: Arguments of ``BertConfig``.
        weights: Its state dict.
        training: Names of modules that are in training mode, ``""`` for the whole model; all
            others are in evaluation mode.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    training: tuple[str, ...] = ()

    def build(self, built: Mapping[str, Any] = {}) -> BertForSequenceClassification:
        """Make the model, with weights of its own."""
        model = _bert(self.config)
        model.load_state_dict({name: value.clone() for name, value in self.weights.items()})
        model.eval()
        for name in self.training:
            model.get_submodule(name).train()
        return model

    def state(self, made: Any) -> dict[str, Tensor]:
        """Give the weights by name, and 1 under ``"training"`` where any part is awake."""
        awake = any(module.training for module in made.modules())
        weights = {name: value.detach().clone() for name, value in made.state_dict().items()}
        return weights | {"training": torch.tensor(float(awake))}

    def __repr__(self) -> str:
        c = self.config
        mode = "evaluation mode"
        if self.training:
            parts = [name for name in self.training if name]
            mode = f"training mode ({', '.join(parts)})" if parts else "training mode"
        layers = "1 layer" if c["num_hidden_layers"] == 1 else f"{c['num_hidden_layers']} layers"
        return (
            f"a BERT classifier of {layers} × {c['hidden_size']}, {c['num_labels']} classes, "
            f"in {mode}"
        )


def _bert(config: Mapping[str, Any]) -> BertForSequenceClassification:
    """Make a classifier whose weights will be set; torch's own random numbers are left alone."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return BertForSequenceClassification(BertConfig(**config))


def draw_classifier(
    generator: torch.Generator,
    *,
    layers: int = 1,
    width: int = 8,
    heads: int = 2,
    classes: int = 3,
    vocabulary: int = 12,
    dropout: float = 0.0,
    training: tuple[str, ...] = (),
) -> Classifier:
    """Draw a small classifier whose logits differ clearly from text to text."""
    config: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 16,
        "num_labels": classes,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "attn_implementation": "eager",
    }
    weights = {
        name: value
        if "LayerNorm" in name or not value.is_floating_point()
        else 0.4 * torch.randn(value.shape, generator=generator)
        for name, value in _bert(config).state_dict().items()
    }
    return Classifier(config, weights, training)


def draw_batch(
    generator: torch.Generator,
    lengths: tuple[int, ...],
    *,
    vocabulary: int = 12,
    padding: int = 0,
) -> dict[str, Tensor]:
    """Draw a batch of token ids of the given lengths, padded with 0 to the longest and beyond.

    Args:
        padding: Columns of padding beyond the longest text.

    Returns:
        ``input_ids`` and ``attention_mask`` (1 where a token counts), both int64 [batch, tokens].
    """
    tokens = max(lengths) + padding
    mask = torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None]
    drawn = torch.randint(1, vocabulary, (len(lengths), tokens), generator=generator)
    return {"input_ids": drawn * mask, "attention_mask": mask.long()}


@dataclass(frozen=True)
class Sgd:
    """Plain gradient descent over a classifier's weights; the answer gets a ``torch.optim.SGD``.

    Attributes:
        of: The input whose parameters it changes.
        learning_rate: Of each step: weight − rate · gradient.
    """

    learning_rate: float
    of: str = "student"

    def build(self, built: Mapping[str, Any]) -> torch.optim.SGD:
        """Make the optimizer of the classifier built before."""
        model = cast(nn.Module, built[self.of])
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate)

    def state(self, made: Any) -> dict[str, Tensor]:
        """Nothing is to be seen."""
        return {}

    def __repr__(self) -> str:
        return f"torch.optim.SGD({self.of}.parameters(), lr={self.learning_rate:g})"


class _Stopwatch:
    """A call that takes a scripted time on a clock that nothing else moves."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.calls = 0
        self.now = 100.0

    def __call__(self) -> None:
        self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1


@dataclass(frozen=True)
class ScriptedCall:
    """Something to be timed, whose n-th call takes the n-th of the given seconds.

    Attributes:
        seconds: [calls]; calls beyond the last take as long as the last.
    """

    seconds: Tensor

    def build(self, built: Mapping[str, Any]) -> Callable[[], None]:
        """Make the call."""
        return _Stopwatch(self.seconds.tolist())

    def state(self, made: Any) -> dict[str, Tensor]:
        """Give how often it was called, under ``"calls"``."""
        return {"calls": torch.tensor(float(made.calls))}

    def __repr__(self) -> str:
        start = ", ".join(f"{1000 * s:g}" for s in self.seconds[:6].tolist())
        more = ", …" if len(self.seconds) > 6 else ""
        return f"a call that takes {start}{more} ms, one after the other"


@dataclass(frozen=True)
class ScriptedClock:
    """The clock that a ``ScriptedCall`` moves: called, it gives seconds as ``perf_counter`` does.

    Attributes:
        of: The input that moves it.
    """

    of: str = "call"

    def build(self, built: Mapping[str, Any]) -> Callable[[], float]:
        """Make the clock of the call built before."""
        stopwatch = built[self.of]
        return lambda: float(stopwatch.now)

    def state(self, made: Any) -> dict[str, Tensor]:
        """Nothing is to be seen."""
        return {}

    def __repr__(self) -> str:
        return "a clock that only this call moves"


def build_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a call's inputs, and build those that stand for objects, in their order."""
    built: dict[str, Any] = {}
    for name, value in inputs.items():
        built[name] = value.build(built) if isinstance(value, Buildable) else copied(value)
    return built


def copied(value: Any) -> Any:
    """Copy tensors, and dictionaries and lists of them, detached from any graph."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return copy.copy(value)


def shared_parameters(made: Mapping[str, Any]) -> list[str]:
    """Name the parameters whose memory two models among the inputs share."""
    models = [value for value in made.values() if isinstance(value, nn.Module)]
    owner: dict[int, nn.Module] = {}
    shared = []
    for model in models:
        for name, parameter in model.named_parameters():
            if owner.setdefault(parameter.data_ptr(), model) is not model:
                shared.append(name)
    return shared
