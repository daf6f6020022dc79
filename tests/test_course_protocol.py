"""Laws of what judge and worker say to each other: values arrive as they were, and whatever else
comes is refused as a ``ProtocolError``."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lab.course import protocol
from distill_lab.course.protocol import (
    DEEPEST,
    DTYPES,
    HEADER,
    LONGEST_JSON,
    LONGEST_TENSORS,
    MAGIC,
    MOST_VALUES,
    VERSION,
    AskedCall,
    Closed,
    Foreign,
    ProtocolError,
    pack,
    receive,
    send,
    unpack,
    waiting,
)
from distill_lab.exercises.objects import ScriptedClock, Sgd, draw_classifier

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def travelled(value: Any) -> Any:
    return unpack(*pack(value))


def same(a: Any, b: Any) -> bool:
    """Whether two values are alike, to the last bit and to the order of axes in memory."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(_bytes(a), _bytes(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=False)
        return len(a) == len(b) and all(
            same(x, y) for one in pairs for x, y in zip(*one, strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)


# --- values -------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of every dtype, of 0 to 4 axes in any order, with NaN and infinities."""
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    count = math.prod(shape)
    numbers: st.SearchStrategy[Any] = (
        st.integers(0, 1) if dtype is torch.bool else st.integers(0, 99)
    )
    if dtype.is_floating_point:
        numbers = st.floats(width=16)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    axes = draw(st.permutations(range(len(shape))))
    return torch.tensor(values, dtype=dtype).reshape(shape).permute(axes)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars | tensors(),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), parts, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
@settings(deadline=None)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    assert same(travelled(value), value)


@given(tensors())
@settings(deadline=None)
def test_a_tensor_keeps_the_order_of_its_axes_in_memory(tensor: Tensor) -> None:
    arrived = travelled(tensor)
    if all(size > 1 for size in tensor.shape):
        assert arrived.stride() == tensor.stride()
    assert arrived.is_contiguous() == tensor.is_contiguous()


def test_a_tensor_of_any_strides_arrives_with_its_values() -> None:
    base = torch.arange(24.0)
    for tensor in (
        base[::3],
        base[:1].expand(5, 5),
        base.as_strided((3, 3), (1, 1)),
        base.view(2, 3, 4)[:, 1:, ::2],
        base.requires_grad_() * 2,
        torch.nn.Parameter(torch.ones(2)),
    ):
        arrived = travelled(tensor)
        assert torch.equal(arrived, tensor.detach())
        assert type(arrived) is Tensor
        assert not arrived.requires_grad


def test_tensors_that_share_memory_arrive_apart() -> None:
    base = torch.zeros(3)
    one, other = travelled([base, base[:2]])
    one += 1
    assert other.tolist() == [0, 0]


def test_objects_of_the_exercises_arrive_as_they_were() -> None:
    classifier = draw_classifier(torch.Generator().manual_seed(0))
    arrived = travelled([classifier, Sgd(0.5, of="x"), ScriptedClock("y"), AskedCall()])
    assert arrived[1:] == [Sgd(0.5, of="x"), ScriptedClock("y"), AskedCall()]
    assert (arrived[0].config, arrived[0].training) == (classifier.config, classifier.training)
    assert same(dict(arrived[0].weights), dict(classifier.weights))


def test_what_only_looks_plain_arrives_plain() -> None:
    class Liar(float):
        __eq__ = lambda self, other: True  # noqa: E731
        __hash__ = float.__hash__

    class Sub(Tensor):
        pass

    assert type(travelled(Liar(2))) is float
    assert type(travelled(torch.ones(2).as_subclass(Sub))) is Tensor
    assert type(travelled(type("D", (dict,), {})(a=1))) is dict


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        {1},
        b"bytes",
        1j,
        torch.tensor(1j),
        torch.eye(2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8),
    ],
)
def test_of_a_value_that_is_no_data_only_the_name_arrives(value: Any) -> None:
    arrived = travelled([value])[0]
    assert isinstance(arrived, Foreign)
    assert type(arrived).__name__ == type(value).__name__


def test_the_name_of_a_foreign_class_is_a_name() -> None:
    evil = type("<b>\n" + "x" * 10_000, (), {})()
    assert type(travelled(evil)).__name__ == "b" + "x" * 56
    assert type(travelled(type("<>", (), {})())).__name__ == "object"


# --- limits -------------------------------------------------------------------------------------


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_has_a_limit() -> None:
    assert travelled(_nested(DEEPEST)) == _nested(DEEPEST)
    with pytest.raises(ProtocolError, match=f"more than {DEEPEST} deep"):
        pack(_nested(DEEPEST + 1))
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ProtocolError):
        pack(itself)


class _Endless(dict[Any, Any]):
    def items(self) -> Any:
        while True:
            yield 1, 1


@pytest.mark.parametrize(
    "value",
    [
        [0] * (MOST_VALUES + 1),
        "x" * (LONGEST_JSON + 1),
        torch.zeros(LONGEST_TENSORS + 1, dtype=torch.int8),
        torch.zeros(1).expand(LONGEST_TENSORS),
        10**5000,
        _Endless(),
    ],
    ids=["values", "text", "tensors", "expanded", "digits", "endless"],
)
def test_size_has_a_limit(value: Any) -> None:
    with pytest.raises(ProtocolError):
        pack(value)


# --- what strangers send ------------------------------------------------------------------------


def _safetensors(head: Any, data: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
MALFORMED: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "no JSON": (b"{", b""),
    "no UTF-8": (b'"\xff"', b""),
    "a bare list": (b"[1]", b""),
    "no kind": (b"{}", b""),
    "two kinds": (b'{"list":[],"tuple":[]}', b""),
    "another kind": (b'{"pickle":"x"}', b""),
    "another float": (b'{"float":"1e999"}', b""),
    "a key that has no hash": (b'{"dict":[[{"list":[]},1]]}', b""),
    "no pairs": (b'{"dict":[1]}', b""),
    "another object": (b'{"object":["Popen",[]]}', b""),
    "an object of other fields": (b'{"object":["Sgd",[["evil",1]]]}', b""),
    "deep brackets": (b"[" * 100_000, b""),
    "deep lists": (b'{"list":[' * 17 + b"1" + b"]}" * 17, b""),
    "digits": (b"1" * 10_000, b""),
    "a tensor that is not there": (b'{"tensor":["0",[0]]}', b""),
    "a tensor twice": (
        b'{"list":[{"tensor":["0",[0]]},{"tensor":["0",[0]]}]}',
        _safetensors(ONE, bytes(8)),
    ),
    "axes that there are not": (b'{"tensor":["0",[0,1]]}', _safetensors(ONE, bytes(8))),
    "an axis twice": (b'{"tensor":["0",[0,0]]}', _safetensors(ONE, bytes(8))),
    "no axes": (b'{"tensor":["0",1]}', _safetensors(ONE, bytes(8))),
    "no safetensors": (b"1", b"PK\x03\x04"),
    "a pickle": (b"1", b"\x80\x04K\x01."),
    "a header too long": (b"1", struct.pack("<Q", 1 << 60) + b"{}"),
    "many tensors": (b"1", struct.pack("<Q", LONGEST_JSON + 1) + b" " * (LONGEST_JSON + 1)),
    "data too short": (b"1", _safetensors(ONE, bytes(7))),
    "another dtype": (
        b"1",
        _safetensors({"0": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
    ),
    "a shape without end": (
        b"1",
        _safetensors({"0": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}),
    ),
}


@pytest.mark.parametrize("text, stored", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_a_protocol_error(text: bytes, stored: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        unpack(text, stored)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(deadline=None)
def test_noise_gives_a_value_or_a_protocol_error(text: bytes, stored: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        unpack(text, stored)


@given(values, st.data())
@settings(deadline=None)
def test_a_damaged_message_gives_a_value_or_a_protocol_error(
    value: Any, data: st.DataObject
) -> None:
    text, stored = map(bytearray, pack(value))
    for part in (text, stored):
        if part and data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(part) - 1))
            part[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        unpack(bytes(text), bytes(stored))


# --- frames -------------------------------------------------------------------------------------


def test_frames_arrive_in_order_and_none_is_lost(pair: Pair) -> None:
    one, other = pair
    sent = [{"n": k, "x": torch.arange(k)} for k in range(5)]
    for value in sent:
        send(one, value)
    assert all(same(receive(other), value) for value in sent)


def test_a_large_frame_arrives_whole(pair: Pair) -> None:
    one, other = pair
    large = torch.arange(1 << 20, dtype=torch.int64)
    sending = threading.Thread(target=send, args=(one, large))
    sending.start()
    assert torch.equal(receive(other, time.monotonic() + 20), large)
    sending.join()


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(b"HTTP", VERSION, 1, 0),
        HEADER.pack(MAGIC, VERSION + 1, 1, 0),
        HEADER.pack(MAGIC, VERSION, LONGEST_JSON + 1, 0),
        HEADER.pack(MAGIC, VERSION, 1, LONGEST_TENSORS + 1),
        HEADER.pack(MAGIC, VERSION, 2**32 - 1, 2**32 - 1),
    ],
)
def test_a_header_is_refused_before_anything_is_read(pair: Pair, header: bytes) -> None:
    one, other = pair
    one.sendall(header)
    with pytest.raises(ProtocolError):
        receive(other, time.monotonic() + 1)


def test_a_refusal_does_not_tell_the_lengths_that_were_claimed(pair: Pair) -> None:
    one, other = pair
    one.sendall(HEADER.pack(MAGIC, VERSION, 2_123_456_789, 0))
    with pytest.raises(ProtocolError) as raised:
        receive(other)
    assert not any(character.isdigit() for character in str(raised.value))


@pytest.mark.parametrize("kept", [0, 1, HEADER.size - 1, HEADER.size, HEADER.size + 1])
def test_a_frame_that_breaks_off_is_the_end(pair: Pair, kept: int) -> None:
    one, other = pair
    text, _ = pack([1, 2, 3])
    one.sendall((HEADER.pack(MAGIC, VERSION, len(text), 0) + text)[:kept])
    one.close()
    with pytest.raises(Closed):
        receive(other)


def test_to_send_to_nobody_is_the_end(pair: Pair) -> None:
    one, other = pair
    other.close()
    with pytest.raises(Closed):
        send(one, 1)


def test_a_deadline_holds_for_the_whole_frame_however_slowly_it_drips(pair: Pair) -> None:
    one, other = pair
    stop = threading.Event()

    def drip() -> None:
        for byte in HEADER.pack(MAGIC, VERSION, 1000, 0) + bytes(1000):
            one.send(bytes([byte]))
            if stop.wait(0.02):
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(other, start + 0.3)
    assert time.monotonic() - start < 1
    stop.set()
    dripping.join()


def test_a_deadline_holds_where_nobody_reads(pair: Pair) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        send(pair[0], torch.zeros(1 << 20), start + 0.3)
    assert time.monotonic() - start < 1


def test_what_waits_unasked_is_seen_and_stays(pair: Pair) -> None:
    one, other = pair
    assert not waiting(other)
    send(one, 7)
    assert waiting(other)
    assert receive(other) == 7
    one.close()
    assert not waiting(other)


def test_descriptors_sent_along_do_not_arrive(pair: Pair) -> None:
    one, other = pair
    text, _ = pack(1)
    frame = HEADER.pack(MAGIC, VERSION, len(text), 0) + text
    with open("/dev/null") as null:
        before = null.fileno()
        socket.send_fds(one, [frame], [before])
        assert receive(other) == 1
        with open("/dev/null") as next_one:
            assert next_one.fileno() == before + 1


def test_nothing_is_unpickled() -> None:
    assert not any("pickle" in name for name in vars(protocol))
