"""Finds the tensors of a PredictResponse in its bytes without copying their values.

A protobuf parser copies every ``bytes`` field, twice by the time Python holds it. Here only the small fields go through
the parser; the values stay where they are and are handed out as memoryviews.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from toolkit.client.wire import messages
from toolkit.errors import ResponseError

__all__ = ["RawTensor", "scan_response"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# tensor_content and the packed numbers of TensorProto
_VALUES = frozenset({4, 5, 6, 7, 9, 10, 11, 12, 13, 16, 17})


@dataclass(frozen=True)
class RawTensor:
    """``head`` is a TensorProto without its packed values; ``values`` are those, by field number, in their order."""

    head: Any
    values: dict[int, list[memoryview]] = field(default_factory=dict)


def scan_response(body: bytes) -> tuple[dict[str, RawTensor], int | None]:
    """The outputs of a PredictResponse by name, and the model version. Raises `ResponseError` for a broken message."""
    view = memoryview(body)
    outputs: dict[str, RawTensor] = {}
    version = None
    try:
        for number, kind, start, stop in _fields(view, 0, len(view)):
            if (number, kind) == (1, _BYTES):
                name, raw = _entry(view, start, stop)
                outputs[name] = raw
            elif (number, kind) == (2, _BYTES):
                spec = messages.ModelSpec.FromString(bytes(view[start:stop]))
                version = spec.version.value if spec.HasField("version") else version
    except (DecodeError, UnicodeDecodeError, IndexError) as error:
        raise ResponseError(f"the answer is not a PredictResponse message: {error}") from None
    return outputs, version


def _entry(view: memoryview, start: int, stop: int) -> tuple[str, RawTensor]:
    name, raw = "", RawTensor(messages.TensorProto())
    for number, kind, first, last in _fields(view, start, stop):
        if (number, kind) == (1, _BYTES):
            name = bytes(view[first:last]).decode()
        elif (number, kind) == (2, _BYTES):
            raw = _tensor(view, first, last)
    return name, raw


def _tensor(view: memoryview, start: int, stop: int) -> RawTensor:
    values: dict[int, list[memoryview]] = {}
    head = bytearray()
    begin = start
    for number, kind, first, last in _fields(view, start, stop):
        if kind == _BYTES and number in _VALUES:
            values.setdefault(number, []).append(view[first:last])
        elif number in _VALUES or number == 8:
            # Strings, or numbers one by one: many small fields, for which the parser is faster than this loop.
            return RawTensor(messages.TensorProto.FromString(bytes(view[start:stop])))
        else:
            head += view[begin:last]
        begin = last
    return RawTensor(messages.TensorProto.FromString(bytes(head)), values)


def _fields(view: memoryview, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and place of the value of every field in ``view[at:stop]``."""
    while at < stop:
        tag, at = _varint(view, at, stop)
        kind = tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(view, at, stop)
        elif kind == _BYTES:
            size, start = _varint(view, at, stop)
            at = start + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise DecodeError(f"wire type {kind}")
        if at > stop:
            raise DecodeError("truncated message")
        yield tag >> 3, kind, start, at


def _varint(view: memoryview, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise DecodeError("truncated message")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError("a number of more than 64 bits")
