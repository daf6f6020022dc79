"""What judge and worker say to each other: frames of capped plain data, never a pickle.

A frame is a fixed header (magic, version, two lengths), JSON, and tensors as safetensors. What
JSON cannot say is said with one-key objects: ``{"tensor": …}``, ``{"tuple": […]}``, ``{"object":
…}`` for the inputs of ``exercises.objects``. The judge takes everything a worker sends for what it
is: bytes that a stranger's code may have written.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from distill_lab.exercises import objects

VERSION = 1
MAGIC = b"DLgr"
HEADER = struct.Struct(">4sHxxII")
LONGEST_JSON = 1 << 20  # bytes
LONGEST_TENSORS = 1 << 24  # bytes, 16 MiB: a hundred times what any exercise's answer takes
DEEPEST = 16
MOST_VALUES = 100_000
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
SCALARS = (str, bool, int, float, type(None))


@dataclass(frozen=True)
class AskedCall:
    """Stands for a ``ScriptedCall``: calling it, and its clock, asks the judge."""


OBJECTS = {
    cls.__name__: cls for cls in (objects.Classifier, objects.Sgd, objects.ScriptedClock, AskedCall)
}


class ProtocolError(Exception):
    """The other side does not keep to the protocol; the message says how, in one line."""


class Closed(ProtocolError):
    """The other side is gone."""


class Foreign:
    """Stands for a value that is no plain data; its class has the name of the value's."""


def foreign(name: str) -> Foreign:
    """Make what stands for a value of a class of this name."""
    safe = "".join(c for c in name[:60] if c.isalnum() or c == "_") or "object"
    return type(safe, (Foreign,), {})()  # type: ignore[no-any-return]


# --- values -------------------------------------------------------------------------------------


@dataclass
class _Packed:
    """Tensors on their way, by number, and how many values there are so far."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: int = 0


def pack(value: Any) -> tuple[bytes, bytes]:
    """Give a value as JSON and the tensors in it as safetensors (empty where there are none).

    Raises:
        ProtocolError: It is nested too deeply, or holds too much.
    """
    packed = _Packed()
    plain = _plain(value, packed, 0)
    try:
        text = json.dumps(plain, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # the one left: an int of thousands of digits
        raise ProtocolError("the value holds a number that is too long") from None
    tensors = safetensors.torch.save(packed.tensors) if packed.tensors else b""
    if len(text) > LONGEST_JSON or len(tensors) > LONGEST_TENSORS:
        raise ProtocolError(
            f"the value takes {len(text) + len(tensors)} bytes; expected at most "
            f"{LONGEST_JSON} and {LONGEST_TENSORS} of tensors"
        )
    return text, tensors


def _plain(value: Any, packed: _Packed, depth: int) -> Any:
    packed.values += 1
    if depth > DEEPEST or packed.values > MOST_VALUES:
        raise ProtocolError(
            f"the value is nested more than {DEEPEST} deep or has more than {MOST_VALUES} parts"
        )
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor) and value.layout is torch.strided and value.dtype in DTYPES:
        return {"tensor": _stored(value, packed)}
    if type(value) in OBJECTS.values():
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"object": [type(value).__name__, _pairs(parts, packed, depth)]}
    if isinstance(value, Mapping):
        return {"dict": _pairs(value, packed, depth)}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_plain(part, packed, depth + 1) for part in value]}
    return {"foreign": type(value).__name__}


def _pairs(value: Mapping[Any, Any], packed: _Packed, depth: int) -> list[list[Any]]:
    return [
        [_plain(key, packed, depth + 1), _plain(part, packed, depth + 1)]
        for key, part in value.items()
    ]


def _stored(value: Tensor, packed: _Packed) -> list[Any]:
    """Put a tensor by, and give its number and the order of its axes in memory.

    The order matters: an answer must do right by a transposed view too.
    """
    tensor = value.detach().cpu()
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    if not tensor.permute(order).is_contiguous():
        order = list(range(tensor.dim()))
    name = str(len(packed.tensors))
    packed.tensors[name] = tensor.permute(order).contiguous().clone()
    return [name, order]


def unpack(text: bytes, tensors: bytes) -> Any:
    """Give the value that ``pack`` packed, or that somebody claims it did.

    Raises:
        ProtocolError: It is none.
    """
    try:
        if int.from_bytes(tensors[:8], "little") > LONGEST_JSON:  # of safetensors' own header
            raise ProtocolError("a message holds too many tensors")
        stored = safetensors.torch.load(tensors) if tensors else {}
        if any(tensor.dtype not in DTYPES for tensor in stored.values()):
            raise ProtocolError("a message holds a tensor of an unknown dtype")
        return _value(json.loads(text), stored, 0)
    except ProtocolError:
        raise
    except (Exception, RecursionError) as error:
        raise ProtocolError(f"a message cannot be read ({type(error).__name__})") from None


def _value(plain: Any, stored: dict[str, Tensor], depth: int) -> Any:
    if depth > DEEPEST:
        raise ProtocolError(f"a message is nested more than {DEEPEST} deep")
    if isinstance(plain, SCALARS):
        return plain
    ((kind, part),) = plain.items()
    if kind == "float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[part]
    if kind == "tensor":
        name, order = part
        back = sorted(range(len(order)), key=order.__getitem__)
        return stored.pop(name).permute(back)  # once: many times the same would grow when copied
    if kind == "foreign":
        return foreign(str(part))
    if kind == "object":
        name, pairs = part
        return OBJECTS[name](**_mapping(pairs, stored, depth))
    if kind == "dict":
        return _mapping(part, stored, depth)
    values = [_value(one, stored, depth + 1) for one in part]
    return {"list": list, "tuple": tuple}[kind](values)


def _mapping(pairs: Any, stored: dict[str, Tensor], depth: int) -> dict[Any, Any]:
    return {_value(key, stored, depth + 1): _value(part, stored, depth + 1) for key, part in pairs}


# --- frames -------------------------------------------------------------------------------------


def send(channel: socket.socket, value: Any, deadline: float | None = None) -> None:
    """Send a value.

    Args:
        deadline: By ``time.monotonic()``; None waits for ever.

    Raises:
        Closed: The other side is gone.
        TimeoutError: The deadline has passed.
        ProtocolError: The value is too large, or too deep.
    """
    text, tensors = pack(value)
    frame = HEADER.pack(MAGIC, VERSION, len(text), len(tensors)) + text + tensors
    try:
        _wait_until(channel, deadline)
        channel.sendall(frame)
    except (BrokenPipeError, ConnectionError) as error:
        raise Closed("the other side is gone") from error


def receive(channel: socket.socket, deadline: float | None = None) -> Any:
    """Receive a value.

    Raises:
        Closed: The other side is gone.
        TimeoutError: The deadline has passed.
        ProtocolError: What came is no message, or larger than one may be.
    """
    magic, version, text, tensors = HEADER.unpack(_exactly(channel, HEADER.size, deadline))
    if magic != MAGIC or version != VERSION:
        raise ProtocolError("what came is no message of this protocol's version")
    if text > LONGEST_JSON or tensors > LONGEST_TENSORS:
        # Of how many bytes, it chooses: that would tell of what it has been asked.
        raise ProtocolError("a message is longer than one may be")
    return unpack(_exactly(channel, text, deadline), _exactly(channel, tensors, deadline))


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < size:
        _wait_until(channel, deadline)
        try:
            part = channel.recv(min(size - len(received), 1 << 20))
        except ConnectionError as error:
            raise Closed("the other side is gone") from error
        if not part:
            raise Closed("the other side is gone")
        received += part
    return bytes(received)


def _wait_until(channel: socket.socket, deadline: float | None) -> None:
    """Let the next operation on the channel take until the deadline, and no longer."""
    if deadline is None:
        channel.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)


def waiting(channel: socket.socket) -> bool:
    """Whether bytes have come that nobody asked for."""
    channel.settimeout(0)
    try:
        return bool(channel.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, ConnectionError):
        return False
