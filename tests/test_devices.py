"""The device is there, and bfloat16 is used where it is measured to pay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from distill_lab import devices
from distill_lab.devices import (
    autocast,
    moved,
    pick_device,
    pick_dtype,
    processes,
    synchronize,
)
from distill_lab.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    pick_dtype.cache_clear()
    yield
    pick_dtype.cache_clear()


def have(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Pretend that this machine has so many CUDA devices, and perhaps Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def measure(monkeypatch: pytest.MonkeyPatch, *, float32: float, bfloat16: float) -> None:
    """Pretend that a product takes so many seconds."""
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(devices, "_product_seconds", lambda device, dtype: seconds[dtype])


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, False, "cpu"), (1, False, "cuda"), (0, True, "mps")]
)
def test_auto_takes_the_fastest_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    have(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device("auto") == torch.device(expected)
    assert pick_device("cpu") == CPU


def test_a_numbered_device_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, cuda=2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"there are 2 CUDA devices, and no 'cuda:2'"):
        pick_device("cuda:2")
    with pytest.raises(UserError, match=r"no device is called 'cuda:x'"):
        pick_device("cuda:x")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    for name in ("cuda", "mps", "cuda:0"):
        with pytest.raises(UserError, match=f"device '{name}' is not available here"):
            pick_device(name)
    with pytest.raises(UserError, match="no device is called 'gpu'; choose auto, cpu, cuda or mps"):
        pick_device("gpu")


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [
        (1.0, 0.5, torch.bfloat16),
        (1.0, 0.9, torch.float32),  # a gain that is not worth the digits
        (1.0, 4.0, torch.float32),  # emulated
    ],
)
def test_bfloat16_is_chosen_where_it_is_measured_to_pay(
    monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float, expected: torch.dtype
) -> None:
    measure(monkeypatch, float32=float32, bfloat16=bfloat16)
    assert pick_dtype(CPU) == expected


def test_a_named_dtype_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, float32=1.0, bfloat16=0.1)
    assert pick_dtype(CPU, "float32") == torch.float32
    measure(monkeypatch, float32=0.1, bfloat16=1.0)
    assert pick_dtype(CPU, "bfloat16") == torch.bfloat16
    with pytest.raises(UserError, match="no dtype is called 'half'; choose auto, float32 or"):
        pick_dtype(CPU, "half")


def test_the_measurement_measures() -> None:
    assert 0 < devices._product_seconds(CPU, torch.float32) < 10


def test_autocast_computes_in_the_dtype_and_float32_changes_nothing() -> None:
    synchronize(CPU)
    x = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (x @ x).dtype == torch.float32


def test_alone_there_is_one_process_and_it_is_the_main_one() -> None:
    state = processes("cpu")
    assert (state.num_processes, state.is_main_process) == (1, True)


def test_a_model_is_moved_in_place() -> None:
    model = torch.nn.Linear(2, 2)
    assert moved(model, torch.device("meta")) is model
    assert model.weight.device.type == "meta"
