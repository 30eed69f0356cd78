"""The gRPC wire format as pure functions: tensors, requests and answers to bytes and back.

Answers are untrusted: whatever does not add up (truncated messages, dimensions that contradict the values, values out
of a dtype's range) raises `ResponseError`, before anything is allocated for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from toolkit.client.types import (
    Array,
    Column,
    ModelMetadata,
    Request,
    SignatureInfo,
    Spec,
    TensorInfo,
    VersionStatus,
)
from toolkit.client.wire import messages
from toolkit.client.wire.scan import RawTensor, scan_response
from toolkit.errors import InputError, ResponseError

Buffer = bytes | memoryview

__all__ = ["GrpcCodec", "decode_tensor", "encode_tensor"]

# numbers of tensorflow/core/framework/types.proto
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_NUMBERS = {name: number for number, name in DTYPES.items()}
_STRING = _NUMBERS["string"]

# dtype -> (field with its values, how they lie on the wire); "varint" or the little-endian dtype of a packed block
_FIELDS = {
    "float32": ("float_val", "<f4"),
    "float64": ("double_val", "<f8"),
    "complex64": ("scomplex_val", "<c8"),
    "complex128": ("dcomplex_val", "<c16"),
    "int64": ("int64_val", "varint"),
    "uint32": ("uint32_val", "varint"),
    "uint64": ("uint64_val", "varint"),
    "bool": ("bool_val", "varint"),
    "float16": ("half_val", "varint"),
    "bfloat16": ("half_val", "varint"),
    **dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8"), ("int_val", "varint")),
}
_CONTENT = 4  # number of the field tensor_content
_MAX_RANK = 32  # numpy's own limit is 32 before version 2

_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


def encode_tensor(value: Column, tensor: Any = None) -> Any:
    """A TensorProto of ``value`` (``tensor``, filled in, where one is given): a list of bytes becomes a string tensor
    [n]; an array keeps its dtype and shape.

    Arrays of str, bytes or object become string tensors. Raises `InputError` for a dtype TensorFlow does not have.
    """
    tensor = messages.TensorProto() if tensor is None else tensor
    for size in (len(value),) if isinstance(value, list) else value.shape:
        tensor.tensor_shape.dim.add(size=size)
    if isinstance(value, list):
        tensor.dtype = _STRING
        tensor.string_val.extend(value)
    elif value.dtype.kind in "OUST":
        tensor.dtype = _STRING
        tensor.tensor_shape.SetInParent()
        try:
            tensor.string_val.extend([i.encode() if isinstance(i, str) else i for i in value.ravel().tolist()])
        except TypeError:
            raise InputError("a string input must hold only str or bytes") from None
    elif value.dtype.name in _NUMBERS:
        tensor.dtype = _NUMBERS[value.dtype.name]
        tensor.tensor_shape.SetInParent()
        tensor.tensor_content = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).tobytes()
    else:
        raise InputError(f"dtype {value.dtype} cannot be sent; supported: {', '.join(_NUMBERS)}")
    return tensor


def decode_tensor(raw: RawTensor) -> Array:
    """The array of a tensor. Numbers that lie contiguous on the wire become read-only views of the answer's bytes (not
    necessarily aligned); strings become an object array of bytes; bfloat16, which numpy lacks, float32 (exact).

    Raises `ResponseError` if dtype, dimensions and values do not agree.
    """
    tensor = raw.head
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ResponseError(f"a tensor has dtype number {tensor.dtype}, which is not supported")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise ResponseError(f"a tensor has the impossible shape {list(shape)}")
    flat = _strings(raw) if dtype == "string" else _numbers(raw, dtype)
    if flat.size != math.prod(shape):
        raise ResponseError(f"a tensor of shape {list(shape)} carries {flat.size} values")
    array: Array = flat.reshape(shape)
    return array


def _strings(raw: RawTensor) -> Array:
    if raw.values or raw.head.tensor_content:
        raise ResponseError("a string tensor carries numbers")
    flat = np.empty(len(raw.head.string_val), dtype=object)
    flat[:] = raw.head.string_val
    return flat


def _numbers(raw: RawTensor, dtype: str) -> Array:
    content = raw.values[_CONTENT][-1] if _CONTENT in raw.values else raw.head.tensor_content
    if len(content):
        if dtype == "bool":
            # A byte other than 0 and 1 viewed as bool would be undefined behaviour later on.
            return _view(content, "u1").astype(bool)
        if dtype == "bfloat16":
            return _widen(_view(content, "<u2"))
        return _view(content, np.dtype(dtype).newbyteorder("<").str)
    field, layout = _FIELDS[dtype]
    number = raw.head.DESCRIPTOR.fields_by_name[field].number
    blocks = raw.values.get(number) or getattr(raw.head, field)
    if not blocks:
        return _unpacked(raw.head, number, dtype)
    block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
    return _view(block, layout) if layout != "varint" else _fit(_varints(block), dtype)


def _view(block: Buffer, dtype: str) -> Array:
    try:
        return np.frombuffer(block, dtype)
    except ValueError:
        raise ResponseError(f"a tensor carries {len(block)} bytes, which is no whole number of values") from None


def _varints(block: Buffer) -> Array:
    """All base-128 varints of ``block`` as uint64, ten passes over arrays at the most."""
    data = np.frombuffer(block, np.uint8)
    last = data < 0x80
    if last.all():
        return data
    if not last[-1]:
        raise ResponseError("a tensor's values end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ResponseError("a tensor carries a number of more than 64 bits")
    values: Array = np.zeros(len(ends), np.uint64)
    for position in range(int(lengths.max())):
        here = lengths > position
        values[here] |= (data[starts[here] + position].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * position)
    return values


def _fit(values: Array, dtype: str) -> Array:
    """Varint ``values`` (uint8 or uint64, two's complement of 64 bits) as ``dtype``; refuses what does not fit."""
    if dtype == "bool":
        return values.astype(bool)
    if dtype in ("float16", "bfloat16"):
        bits = _exact(values, np.uint16)
        return bits.view(np.float16) if dtype == "float16" else _widen(bits)
    if dtype.startswith("u"):
        return _exact(values, np.dtype(dtype))
    return _exact(values.astype(np.uint64).view(np.int64), np.dtype(dtype))


def _exact(values: Array, dtype: Any) -> Array:
    fitted = values.astype(dtype)
    if not np.array_equal(fitted, values):
        raise ResponseError(f"a tensor of {np.dtype(dtype).name} carries values that do not fit")
    return fitted


def _widen(bits: Array) -> Array:
    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def _unpacked(tensor: Any, number: int, dtype: str) -> Array:
    """Values sent one by one. No known server does it, but every protobuf parser must take it."""
    unknown: Any = UnknownFieldSet(tensor)
    found = [item.data for item in unknown if item.field_number == number]
    layout = _FIELDS[dtype][1]
    if not found or layout == "varint":
        return _fit(np.array(found, np.uint64), dtype) if found else np.empty(0, _numpy_name(dtype))
    raw = {"<f4": "<u4", "<f8": "<u8", "<c8": "<u4", "<c16": "<u8"}[layout]
    return _view(np.array(found, raw).tobytes(), layout)


def _numpy_name(dtype: str) -> str:
    return {"bfloat16": "float32", "string": "object"}.get(dtype, dtype)


def _model_spec(spec: Spec, *, signature: bool = True) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": spec.model}
    if signature:
        fields["signature_name"] = spec.signature
    if spec.version is not None:
        fields["version"] = {"value": spec.version}
    elif spec.label is not None:
        fields["version_label"] = spec.label
    return fields


def _parse(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise ResponseError(f"the answer is not a {kind.DESCRIPTOR.name} message: {error}") from None


def _infos(entries: Any) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            name,
            DTYPES.get(info.dtype, f"dtype {info.dtype}"),
            None
            if info.tensor_shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in sorted(entries.items())
    }


class GrpcCodec:
    """Requests and answers of tensorflow.serving's PredictionService and ModelService."""

    describes_outputs = True  # an answer names its outputs, their dtypes and the version that made them

    def predict(
        self, spec: Spec, inputs: Mapping[str, Column], outputs: Sequence[str], signature: SignatureInfo | None
    ) -> Request:
        """A Predict request. ``outputs`` empty means all."""
        message = messages.PredictRequest(model_spec=_model_spec(spec), output_filter=outputs)
        for name, value in inputs.items():
            encode_tensor(value, message.inputs[name])
        return Request("/tensorflow.serving.PredictionService/Predict", message.SerializeToString())

    def predicted(self, body: bytes, signature: SignatureInfo | None) -> tuple[dict[str, Array], int | None]:
        """The outputs by name and the version that made them."""
        outputs, version = scan_response(body)
        return {name: decode_tensor(raw) for name, raw in outputs.items()}, version

    def metadata(self, spec: Spec) -> Request:
        message = messages.GetModelMetadataRequest(
            model_spec=_model_spec(spec, signature=False), metadata_field=["signature_def"]
        )
        return Request("/tensorflow.serving.PredictionService/GetModelMetadata", message.SerializeToString())

    def metadata_of(self, body: bytes) -> ModelMetadata:
        message = _parse(messages.GetModelMetadataResponse, body)
        signatures = _parse(messages.SignatureDefMap, message.metadata["signature_def"].value)
        return ModelMetadata(
            message.model_spec.name,
            message.model_spec.version.value if message.model_spec.HasField("version") else None,
            {
                name: SignatureInfo(name, _infos(item.inputs), _infos(item.outputs))
                for name, item in sorted(signatures.signature_def.items())
                if not name.startswith("__")
            },
        )

    def status(self, spec: Spec) -> Request:
        message = messages.GetModelStatusRequest(model_spec=_model_spec(spec, signature=False))
        return Request("/tensorflow.serving.ModelService/GetModelStatus", message.SerializeToString())

    def status_of(self, body: bytes) -> list[VersionStatus]:
        message = _parse(messages.GetModelStatusResponse, body)
        return [
            VersionStatus(item.version, _STATES.get(item.state, "UNKNOWN"), item.status.error_message)
            for item in message.model_version_status
        ]
