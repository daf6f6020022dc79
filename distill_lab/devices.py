"""Where the work runs: the device, and the dtype in which a matrix product is fastest there."""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from statistics import median
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from distill_lab.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
Found = TypeVar("Found")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GAIN_WORTH_HAVING = 1.2  # bfloat16 must be this many times as fast to be chosen


def pick_device(name: str = "auto") -> torch.device:
    """Turn ``auto | cpu | cuda | mps`` into a device; ``auto`` takes the fastest there is.

    Raises:
        UserError: The name is unknown, or this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, ok in there.items() if ok), "cpu"))
    kind = name.partition(":")[0]
    if kind not in ("cpu", *there):
        raise UserError(f"no device is called {name!r}; choose auto, cpu, cuda or mps")
    if not there.get(kind, True):
        raise UserError(f"device {name!r} is not available here; choose --device auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"no device is called {name!r}; a number may follow, as in cuda:0"
        ) from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there are {torch.cuda.device_count()} CUDA devices, and no {name!r}")
    return device


def device_name(device: torch.device) -> str:
    """Name a device for people: the card's name, or its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def processes(device: str = "auto") -> PartialState:
    """Join the processes that ``torchrun`` or ``accelerate launch`` started; else be the only one.

    Accelerate joins processes on the CPU only when it is told so, and the first to ask decides for
    all: ask here, before anything else does.
    """
    state = PartialState(cpu=pick_device(device).type == "cpu")
    if state.backend == "gloo":
        _leave_at_exit()
    return state


@cache
def _leave_at_exit() -> None:
    """Part from the other processes while the interpreter still lives.

    Gloo's threads may hold what the last exchange was made of; to free it they need the interpreter
    and now and then abort a process that is ending (pytorch/pytorch#179291).
    """
    atexit.register(PartialState().destroy_process_group)


def agreed(found: Found) -> Found:
    """Give what the first process found, so that all have the same; all must ask."""
    [first] = broadcast_object_list([found])
    return cast(Found, first)


def own_device(name: str = "auto") -> torch.device:
    """Turn a device's name into the device of this process: of several, each has its own.

    Raises:
        UserError: As in ``pick_device``.
    """
    device, state = pick_device(name), processes(name)
    return device if state.num_processes == 1 else state.device


@lru_cache
def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Give the dtype of autocast: ``auto`` measures whether bfloat16 pays on this device.

    A product of the size a MiniLM feed-forward layer has is timed in both dtypes (about 0.1 s,
    once a process): processors without bfloat16 instructions emulate it and are slower with it.
    Of several processes the first one's measurement counts for all, so all must ask.

    Raises:
        UserError: The name is not ``auto``, ``float32`` or ``bfloat16``.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UserError(f"no dtype is called {name!r}; choose auto, {' or '.join(DTYPES)}")
    if device.type == "mps":
        return torch.float32
    processes(device.type)  # gives each its own CUDA device, before that is used
    gain = _product_seconds(device, torch.float32) / _product_seconds(device, torch.bfloat16)
    return torch.bfloat16 if agreed(gain) >= GAIN_WORTH_HAVING else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Name a dtype as ``pick_dtype`` takes it: ``bfloat16``, ``float32``."""
    return str(dtype).removeprefix("torch.")


def _product_seconds(device: torch.device, dtype: torch.dtype) -> float:
    tokens, width = 1024, 384
    a = torch.ones(tokens, width, device=device, dtype=dtype)
    b = torch.ones(width, 4 * width, device=device, dtype=dtype)
    seconds = []
    for _ in range(9):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])


def moved(model: Module, device: torch.device) -> Module:
    """Move a model to a device, in place, and give it."""
    nn.Module.to(model, device)
    return model


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock reads true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Give a batch with its tensors on a device, and what is no tensor as it is."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Compute in ``dtype`` where that is safe; with float32, change nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
