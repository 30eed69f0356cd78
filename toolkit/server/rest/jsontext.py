"""JSON values and tensors as text, laid out as RapidJSON's PrettyWriter does in TF Serving."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.rest.decimals import decimal, decimals

__all__ = ["error_body", "quote", "tensors_to_columns", "tensors_to_rows", "value_text"]

Array = npt.NDArray[Any]

_quote = json.JSONEncoder(ensure_ascii=False).encode


def quote(text: str) -> str:
    """A JSON string literal; only what must be escaped is."""
    return _quote(text)


def error_body(message: str) -> bytes:
    """The body of every REST error."""
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "surrogateescape")


def value_text(value: Any) -> str:
    """A parsed JSON value as TF Serving quotes it in error messages."""
    if isinstance(value, float):
        # Printed as the float32 it would become, if it fits into one.
        fits = abs(value) <= float(np.finfo(np.float32).max)
        return decimal(np.float32(value) if fits else np.float64(value))
    return _pretty(value, 0)


def _pretty(value: Any, depth: int, inline: bool = False) -> str:
    if isinstance(value, dict):
        if not value:
            return "{}"
        pad = "    " * (depth + 1)
        members = ",\n".join(f"{pad}{quote(name)}: {_pretty(item, depth + 1)}" for name, item in value.items())
        return f"{{\n{members}\n{'    ' * depth}}}"
    if isinstance(value, list):
        return "[" + ", ".join(_pretty(item, depth + 1) for item in value) + "]"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return repr(value)
    return decimal(np.float64(value)) if isinstance(value, float) else str(value)


def _bytes_object(value: bytes, depth: int) -> str:
    pad = "    " * depth
    return f'{{\n{pad}    "b64": "{base64.b64encode(value).decode()}"\n{pad}}}'


def _elements(name: str, array: Array, depth: int) -> list[str]:
    """The flat elements of ``array`` as JSON texts; ``depth`` is the level at which they stand."""
    flat = array.reshape(-1)
    match flat.dtype.kind:
        case "f":
            return decimals(flat if flat.dtype.itemsize > 2 else flat.astype(np.float32))
        case "b":
            return ["true" if item else "false" for item in flat.tolist()]
        case "i" | "u":
            return list(map(str, flat.tolist()))
        case "O":
            if name.endswith("_bytes"):
                return [_bytes_object(item, depth) for item in flat]
            return [quote(item.decode("utf-8", "surrogateescape")) for item in flat]
        case _:
            # bfloat16 and the 8-bit floats are numpy extension types of kind "V"
            raise invalid(f"Failed to write JSON value for tensor type: {flat.dtype.name}")


def _nest_inline(texts: list[str], shape: Sequence[int]) -> str:
    """``[[a, b], [c, d]]`` on one line."""
    for size in reversed(shape):
        if size == 0:
            texts = ["[]"] * int(np.prod(shape[: len(shape) - list(reversed(shape)).index(0) - 1]))
            continue
        texts = ["[" + ", ".join(texts[at : at + size]) + "]" for at in range(0, len(texts), size)]
    return texts[0] if texts else "[]"


def _rows_of(name: str, array: Array, depth: int) -> list[str]:
    """One JSON text for each row of ``array``."""
    batch, shape = array.shape[0], array.shape[1:]
    texts = _elements(name, array, depth + len(shape))
    if not shape:
        return texts
    size = int(np.prod(shape))
    return [_nest_inline(texts[at * size : (at + 1) * size], shape) for at in range(batch)]


def tensors_to_rows(outputs: Mapping[str, Array]) -> bytes:
    """The answer to a request in row form. ``outputs``: alias to array of shape ``[batch, ...]``.

    Raises `ServingError` where the outputs cannot be read as rows.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    batch = -1
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, array.shape[0]):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {batch}")
        batch = array.shape[0]
    if batch == 0:
        return b'{\n    "predictions": []\n}'
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        body = ", ".join(_rows_of(name, array, 2))
    else:
        columns = [_rows_of(name, array, 3) for name, array in outputs.items()]
        keys = [f"            {quote(name)}: " for name in outputs]
        items = (
            ",\n".join(key + text for key, text in zip(keys, texts, strict=True))
            for texts in zip(*columns, strict=True)
        )
        body = ",".join(f"\n        {{\n{item}\n        }}" for item in items)
    return f'{{\n    "predictions": [{body}\n    ]\n}}'.encode("utf-8", "surrogateescape")


def _nest_pretty(texts: list[str], shape: Sequence[int], depth: int) -> str:
    """An array with each element on its own line."""
    for level in range(len(shape) - 1, -1, -1):
        size = shape[level]
        pad = "    " * (depth + level)
        if size == 0:
            texts = ["[]"] * int(np.prod(shape[:level]))
            continue
        joint = f",\n{pad}    "
        texts = [f"[\n{pad}    {joint.join(texts[at : at + size])}\n{pad}]" for at in range(0, len(texts), size)]
    return texts[0] if texts else "[]"


def tensors_to_columns(outputs: Mapping[str, Array]) -> bytes:
    """The answer to a request in column form; a single output stands without its name."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    depth = 1 if len(outputs) == 1 else 2
    texts = [
        _nest_pretty(_elements(name, array, depth + array.ndim), array.shape, depth) for name, array in outputs.items()
    ]
    if depth == 1:
        body = texts[0]
    else:
        members = ",\n".join(f"        {quote(name)}: {text}" for name, text in zip(outputs, texts, strict=True))
        body = f"{{\n{members}\n    }}"
    return f'{{\n    "outputs": {body}\n}}'.encode("utf-8", "surrogateescape")


def unsupported_type(name: str, dtype: str) -> ServingError:
    """A JSON value for a type that JSON cannot carry."""
    return ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {name} to type: {dtype}")
