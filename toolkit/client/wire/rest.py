"""The REST wire format as pure functions: requests and answers to JSON and back.

JSON carries no dtypes and leaves out the name of a single output, so answers are read with the signature's metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

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
from toolkit.errors import InputError, ResponseError

__all__ = ["RestCodec"]


class RestCodec:
    """Requests and answers of TensorFlow Serving's REST API (v1)."""

    describes_outputs = False

    def predict(
        self, spec: Spec, inputs: Mapping[str, Column], outputs: Sequence[str], signature: SignatureInfo | None
    ) -> Request:
        """A ``:predict`` request in column form. REST has no output filter: ``outputs`` is applied to the answer."""
        body = {"signature_name": spec.signature, "inputs": {name: _plain(value) for name, value in inputs.items()}}
        return Request(f"{_path(spec)}:predict", json.dumps(body, ensure_ascii=False).encode())

    def predicted(self, body: bytes, signature: SignatureInfo | None) -> tuple[dict[str, Array], int | None]:
        assert signature is not None, "REST answers cannot be read without the signature"
        outputs = _member(_parse(body), "outputs")
        if len(signature.outputs) == 1:
            outputs = {next(iter(signature.outputs)): outputs}
        if not isinstance(outputs, dict) or set(outputs) != set(signature.outputs):
            raise ResponseError(f"the answer's outputs are not those of the signature: {', '.join(signature.outputs)}")
        return {name: _array(outputs[name], info) for name, info in signature.outputs.items()}, None

    def metadata(self, spec: Spec) -> Request:
        return Request(f"{_path(spec)}/metadata", None)

    def metadata_of(self, body: bytes) -> ModelMetadata:
        answer = _parse(body)
        try:
            model_spec, signatures = answer["model_spec"], answer["metadata"]["signature_def"]["signature_def"]
            return ModelMetadata(
                model_spec["name"],
                int(model_spec["version"]) if model_spec.get("version") else None,
                {
                    name: SignatureInfo(name, _infos(item["inputs"]), _infos(item["outputs"]))
                    for name, item in sorted(signatures.items())
                    if not name.startswith("__")
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResponseError(f"the metadata answer lacks what it must have: {error!r}") from None

    def status(self, spec: Spec) -> Request:
        return Request(_path(spec), None)

    def status_of(self, body: bytes) -> list[VersionStatus]:
        try:
            return [
                VersionStatus(int(item["version"]), str(item["state"]), str(item["status"]["error_message"]))
                for item in _member(_parse(body), "model_version_status")
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ResponseError(f"the status answer lacks what it must have: {error!r}") from None


def _path(spec: Spec) -> str:
    path = f"/v1/models/{quote(spec.model, safe='')}"
    if spec.version is not None:
        return f"{path}/versions/{spec.version}"
    return f"{path}/labels/{quote(spec.label, safe='')}" if spec.label is not None else path


def _plain(value: Column) -> Any:
    """JSON form of an input; text goes as a string, bytes that are no UTF-8 as ``{"b64": ...}``."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    if value.dtype.kind in "OUST":
        if not value.ndim:
            return _text(value.item())
        return [_plain(item if isinstance(item, np.ndarray) else np.array(item, object)) for item in value]
    if value.dtype.kind not in "biuf":
        raise InputError(f"dtype {value.dtype} cannot be sent over REST; use gRPC")
    return value.tolist()


def _text(item: Any) -> Any:
    if isinstance(item, str):
        return item
    if not isinstance(item, bytes):
        raise InputError("a string input must hold only str or bytes")
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"the answer is not JSON: {error}") from None


def _member(answer: Any, name: str) -> Any:
    if not isinstance(answer, dict) or name not in answer:
        raise ResponseError(f"the answer has no {name!r}")
    return answer[name]


def _array(value: Any, info: TensorInfo) -> Array:
    try:
        if info.dtype == "string":
            return _string_array(value)
        array = np.array(value, {"bfloat16": "float32"}.get(info.dtype, info.dtype))
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise ResponseError(f"output {info.name} cannot be read as {info.dtype}: {error}") from None
    if not array.size and info.shape is not None and array.ndim < len(info.shape):
        # "[]" is all that JSON says of an empty batch; the trailing dimensions are the signature's.
        array = array.reshape((0, *(size or 0 for size in info.shape[1:])))
    return array


def _string_array(value: Any) -> Array:
    shape: list[int] = []
    flat: list[Any] = [value]
    while flat and all(isinstance(item, list) for item in flat):
        if len({len(item) for item in flat}) != 1:
            raise ValueError("ragged rows")
        shape.append(len(flat[0]))
        flat = [item for row in flat for item in row]
    array = np.empty(len(flat), object)
    array[:] = [base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode() for item in flat]
    return array.reshape(shape)


def _infos(entries: Any) -> dict[str, TensorInfo]:
    infos = {}
    for name, info in sorted(entries.items()):
        shape = info["tensor_shape"]
        dims = tuple(None if int(dim["size"]) < 0 else int(dim["size"]) for dim in shape.get("dim", ()))
        infos[name] = TensorInfo(
            name, _DTYPES.get(info["dtype"], info["dtype"]), None if shape.get("unknown_rank") else dims
        )
    return infos


_DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    **{f"DT_{name.upper()}": name for name in ("bfloat16", "bool", "string", "complex64", "complex128")},
    **{
        f"DT_{name.upper()}": name
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
}
