"""JSON values and tensors as text, laid out as RapidJSON's PrettyWriter does in TF Serving."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.server.requests.status import invalid
from toolkit.server.rest.decimals import decimals

__all__ = ["error_body", "quote", "tensors_to_columns", "tensors_to_rows", "value_text"]

Array = npt.NDArray[Any]

_quote = json.JSONEncoder(ensure_ascii=False).encode
_IN_HEX = re.compile("[\x0b\x0e\x0f\x1a-\x1f]")  # control characters whose escapes have letters


def quote(text: str) -> str:
    """A JSON string literal; only what must be escaped is, control characters with capital letters in hex."""
    if _IN_HEX.search(text) is None:
        return _quote(text)
    parts = re.split(f"({_IN_HEX.pattern})", text)
    parts[::2] = [_quote(part)[1:-1] for part in parts[::2]]
    parts[1::2] = [f"\\u{ord(character):04X}" for character in parts[1::2]]
    return f'"{"".join(parts)}"'


def error_body(message: str) -> bytes:
    """The body of every REST error."""
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "surrogateescape")


def value_text(value: Any) -> str:
    """A parsed JSON value as TF Serving quotes it in error messages: up to a number that is not finite, if any."""
    parts: list[str] = []
    _write(value, 0, parts)
    return "".join(parts)


def _write(value: Any, depth: int, parts: list[str]) -> bool:
    """Adds the text of ``value``; False where RapidJSON's writer stops, which it does at NaN and Infinity."""
    pad = "    " * depth
    if isinstance(value, dict):
        for index, (name, item) in enumerate(value.items()):
            parts.append(f"{',' if index else '{'}\n{pad}    {quote(name)}: ")
            if not _write(item, depth + 1, parts):
                return False
        parts.append(f"\n{pad}}}" if value else "{}")
    elif isinstance(value, list):
        parts.append("[")
        for index, item in enumerate(value):
            parts.append(", " if index else "")
            if not _write(item, depth + 1, parts):
                return False
        parts.append("]")
    elif isinstance(value, str):
        parts.append(quote(value))
    elif isinstance(value, bool) or value is None:
        parts.append({True: "true", False: "false", None: "null"}[value])
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        parts.append(str(value))
    else:
        parts.append(_double(float(value)) if math.isfinite(value) else "")
        return math.isfinite(value)
    return True


def _double(number: float) -> str:
    """As RapidJSON writes a double: the shortest digits, in full from 1e-6 to 1e21, else ``1e30`` or ``1.5e-7``."""
    sign, whole, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, whole))
    point = len(digits) + exponent  # where the decimal point stands, counted from the first digit
    if number == 0:
        text = "0.0"
    elif exponent >= 0 and point <= 21:
        text = digits + "0" * exponent + ".0"
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{point - 1}"
    return "-" * sign + text


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
