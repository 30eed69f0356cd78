"""TensorProto to numpy and back, without a Python loop over elements where numpy can do it.

`decode` follows ``Tensor::FromProto`` of TensorFlow: surplus values are cut, missing ones repeat the last, none at all
are zeros (or empty strings), up to what `MAX_FILLED` says, and ``unknown_rank`` means nothing beside the dimensions.
`predict_response` writes protobuf's wire format itself: a float32 array's bytes are the packed ``float_val`` field as
they lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.python.framework import dtypes

from toolkit.server.requests.status import invalid

__all__ = ["decode", "dtype_name", "encode", "numpy_dtype", "predict_response"]

Array = npt.NDArray[Any]

MAX_FILLED = 1 << 26
"""A few bytes may announce any shape: numbers are filled up by repetition to so many bytes at most, and strings, of
which each is work for a model, to as many as the message itself has bytes."""

# TensorProto's field for values of a type, where it is not tensor_content
_VALUES = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
    types_pb2.DT_QINT8: "int_val",
    types_pb2.DT_QUINT8: "int_val",
    types_pb2.DT_QINT16: "int_val",
    types_pb2.DT_QUINT16: "int_val",
    types_pb2.DT_QINT32: "int_val",
}
_SEEN_AS = {"half_val": np.uint16, "scomplex_val": np.float32, "dcomplex_val": np.float64}  # what a field's values are

# Types whose elements lie in memory as protobuf packs them: tag of their field
_PACKED = {types_pb2.DT_FLOAT: b"\x2a", types_pb2.DT_DOUBLE: b"\x32", types_pb2.DT_BOOL: b"\x5a"}


@cache
def numpy_dtype(number: int) -> np.dtype[Any]:
    """The numpy dtype that TensorFlow uses for ``DataType`` ``number``."""
    dtype: np.dtype[Any] = np.dtype(dtypes.as_dtype(number).as_numpy_dtype)
    return dtype


@cache
def dtype_name(number: int) -> str:
    """TensorFlow's C++ name of a ``DataType``: "float", "string", "int32"."""
    names = {types_pb2.DT_FLOAT: "float", types_pb2.DT_DOUBLE: "double", types_pb2.DT_HALF: "half"}
    return names.get(number) or dtypes.as_dtype(number).name


def decode(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """``proto`` as an array (strings: dtype object holding ``bytes``).

    Raises `ServingError` INVALID_ARGUMENT "tensor parsing error: ALIAS" where TensorFlow does.
    """
    number = proto.dtype
    if number == types_pb2.DT_STRING and len(proto.tensor_shape.dim) == 1 and not proto.tensor_content:
        values = list(proto.string_val)
        if len(values) == proto.tensor_shape.dim[0].size:
            return _strings(values)  # texts, as nearly every request sends them
    error = invalid(f"tensor parsing error: {alias}")
    field = _VALUES.get(number)
    if field is None:
        raise error
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    size = 1
    for length in shape:
        size *= length
        if length < 0 or size > 1 << 62:
            raise error
    try:
        if not size:  # nothing is read then, whatever there is
            return np.empty(shape, numpy_dtype(number))
        flat = _content(proto, size) if proto.tensor_content else _values(proto, number, field, size)
        return flat.reshape(shape)
    except (ValueError, IndexError):
        raise error from None


def _content(proto: tensor_pb2.TensorProto, size: int) -> Array:
    content = proto.tensor_content
    if proto.dtype == types_pb2.DT_STRING:
        return _strings(_split_strings(content, size))
    array = np.frombuffer(content, numpy_dtype(proto.dtype))
    if array.size != size:
        raise ValueError(size)
    return array


def _values(proto: tensor_pb2.TensorProto, number: int, field: str, size: int) -> Array:
    values = getattr(proto, field)
    each = 2 if field.endswith("complex_val") else 1  # numbers to an element
    count = len(values) // each
    if count < size and not _may_fill(proto, size):
        raise ValueError(size)
    array: Array
    if number == types_pb2.DT_STRING:
        array = _strings(list(values) if count <= size else values[:size])
    elif field in _SEEN_AS:
        array = np.array(values[: count * each], _SEEN_AS[field]).view(numpy_dtype(number))[:size]
    else:
        wide = {"int_val": np.dtype(np.int32)}.get(field, numpy_dtype(number))
        array = np.array(values, wide).astype(numpy_dtype(number), copy=False)[:size]
    if count >= size:
        return array
    filler = array[-1:] if count else _strings([b""]) if number == types_pb2.DT_STRING else np.zeros(1, array.dtype)
    return np.concatenate([array, np.repeat(filler, size - count)])


def _may_fill(proto: tensor_pb2.TensorProto, size: int) -> bool:
    if proto.dtype == types_pb2.DT_STRING:
        return size <= int(proto.ByteSize())
    return size * numpy_dtype(proto.dtype).itemsize <= MAX_FILLED


def _strings(values: list[bytes]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _split_strings(content: bytes, size: int) -> list[bytes]:
    """TensorFlow's coding of strings in tensor_content: all lengths as varints, then the bytes."""
    if size > len(content):
        raise ValueError(size)
    lengths, at = [], 0
    for _ in range(size):
        length = shift = 0
        while True:
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise ValueError(size)
    result = []
    for length in lengths:
        result.append(content[at : at + length])
        at += length
    return result


def encode(array: Array, number: int, *, as_content: bool = False) -> bytes:
    """``array`` as the wire bytes of a TensorProto of ``DataType`` ``number``.

    ``as_content`` puts the raw bytes into ``tensor_content``; strings always go into ``string_val``.
    """
    if array.size and number in _PACKED and not as_content:
        return _packed_head(number, array.shape, array.nbytes) + array.tobytes()
    head = _head(number, array.shape)
    if not array.size:
        return head
    if number == types_pb2.DT_STRING:
        return head + _message(string_val=array.reshape(-1).tolist())
    if as_content:
        return head + _field(4, np.ascontiguousarray(array).tobytes())
    field = _VALUES.get(number)
    if field is None:
        raise invalid(f"Output of type {dtype_name(number)} cannot be sent")
    flat = np.ascontiguousarray(array).reshape(-1)
    if field in _SEEN_AS:
        flat = flat.view(_SEEN_AS[field])
    return head + _message(**{field: flat.tolist()})


def _message(**fields: Any) -> bytes:
    return bytes(tensor_pb2.TensorProto(**fields).SerializeToString())


@lru_cache(maxsize=4096)
def _head(number: int, shape: tuple[int, ...]) -> bytes:
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    return _message(dtype=number, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims))


@lru_cache(maxsize=4096)
def _packed_head(number: int, shape: tuple[int, ...], size: int) -> bytes:
    """All of a TensorProto up to the ``size`` bytes of its packed values."""
    return _head(number, shape) + _PACKED[number] + _varint(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


@lru_cache(maxsize=4096)
def _output_head(alias: str, size: int) -> bytes:
    """The beginning of a PredictResponse's map entry for a TensorProto of ``size`` bytes."""
    key = _field(1, alias.encode()) + b"\x12" + _varint(size)
    return b"\n" + _varint(len(key) + size) + key


def predict_response(outputs: Mapping[str, bytes], model_spec: bytes) -> bytes:
    """A PredictResponse's wire bytes from encoded TensorProtos by alias and an encoded ModelSpec."""
    parts = [part for alias, tensor in outputs.items() for part in (_output_head(alias, len(tensor)), tensor)]
    return b"".join((*parts, b"\x12", _varint(len(model_spec)), model_spec))
