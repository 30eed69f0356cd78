"""REST predict requests: a JSON document to named arrays, with TF Serving's rules and error texts.

Sources of the rules: the recorded answers of TF Serving 2.20 and its ``util/json_tensor.cc``. The common cases (texts,
rectangular numbers) take a bulk path; everything else is walked value by value, which also finds the exact error.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.rest.jsonparse import parse
from toolkit.server.rest.jsontext import value_text

__all__ = ["PredictBody", "decode_base64", "is_base64", "predict_body"]

Array = npt.NDArray[Any]
Inputs = Mapping[str, str]  # input alias -> TensorFlow's name of the dtype ("string", "float", "int32", ...)

MAX_RANK = 60  # numpy's limit, less the batch dimension and some room

_INTEGERS: dict[str, tuple[type[np.generic], int, int]] = {
    # dtype -> numpy type, and the range that TF Serving accepts in JSON (it narrows the small ones silently)
    "int8": (np.int8, -(2**31), 2**31 - 1),
    "uint8": (np.uint8, -(2**31), 2**31 - 1),
    "int16": (np.int16, -(2**31), 2**31 - 1),
    "int32": (np.int32, -(2**31), 2**31 - 1),
    "int64": (np.int64, -(2**63), 2**63 - 1),
    "uint32": (np.uint32, 0, 2**32 - 1),
    "uint64": (np.uint64, 0, 2**64 - 1),
}
_FLOATS: dict[str, tuple[type[np.floating], int]] = {
    # dtype -> numpy type and its largest exact run of whole numbers
    "float": (np.float32, 2**24 - 1),
    "double": (np.float64, 2**53 - 1),
}


@dataclass(frozen=True)
class PredictBody:
    """A predict request's content: the signature asked for, the form of the answer, the input arrays."""

    signature_name: str
    form: Literal["rows", "columns"]
    inputs: dict[str, Array]


def predict_body(body: bytes, inputs_of: Callable[[str], Inputs]) -> PredictBody:
    """Reads a request's body. ``inputs_of`` gives the inputs of a signature ("" is the default one) or raises.

    Raises `ServingError` with TF Serving's code and text.
    """
    document = parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {value_text(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {value_text(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    expected = inputs_of(name)
    if not expected:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document:
        if "inputs" in document:
            raise invalid(
                f"JSON Value: {value_text(document)} Not formatted correctly expecting only one of 'inputs' or "
                "'instances' keys to exist "
            )
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid(f"JSON Value: {value_text(document)} Expecting 'instances' to be an list/array")
        if not rows:
            raise invalid(f"JSON Value: {value_text(document)} No values in 'instances' array")
        return PredictBody(name, "rows", _from_rows(rows, expected))
    if "inputs" in document:
        return PredictBody(name, "columns", _from_columns(document["inputs"], expected))
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_columns(value: Any, expected: Inputs) -> dict[str, Array]:
    if not isinstance(value, dict) or is_base64(value):
        if len(expected) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, dtype),) = expected.items()
        return {name: _tensor(value, dtype)}
    result = {}
    for name, dtype in expected.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        result[name] = _tensor(value[name], dtype)
    return result


def _from_rows(rows: list[Any], expected: Inputs) -> dict[str, Array]:
    if not isinstance(rows[0], dict) and len(expected) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_named(rows[0]):
        ((name, dtype),) = expected.items()
        array = _bulk(rows, dtype)
        return {name: _Rows(expected).plain(rows, name) if array is None else array}
    return _Rows(expected).named(rows)


class _Rows:
    """Rows gathered one by one: each must have the shape of the first."""

    def __init__(self, expected: Inputs) -> None:
        self.expected = expected
        self.values: dict[str, list[Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def plain(self, rows: list[Any], name: str) -> Array:
        for index, row in enumerate(rows):
            if _is_named(row):
                raise invalid(f"Expecting value/list but got object at item {index} of input list")
            try:
                self.add(name, row)
            except ServingError as error:
                raise invalid(f"Failed to process element: {index} of 'instances' list. Error: {error}") from None
        return self.array(name, len(rows))

    def named(self, rows: list[Any]) -> dict[str, Array]:
        names = set(self.expected)
        for index, row in enumerate(rows):
            if not _is_named(row):
                raise invalid(f"Expecting object but got list at item {index} of input list")
            for name, value in row.items():
                try:
                    self.add(name, value)
                except ServingError as error:
                    raise invalid(
                        f"Failed to process element: {index} key: {name} of 'instances' list. Error: {error}"
                    ) from None
            if row.keys() != names:
                raise invalid(
                    f"Failed to process element: {index} of 'instances' list. JSON object: {value_text(row)} "
                    f"keys must be equal to: {','.join(sorted(names))}"
                )
        return {name: self.array(name, len(rows)) for name in self.expected}

    def add(self, name: str, value: Any) -> None:
        if name not in self.expected:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape = _shape(value)
        flat: list[Any] = []
        _fill(value, 0, shape, self.expected[name], flat)
        first = self.shapes.setdefault(name, shape)
        if len(flat) != (size := int(np.prod(first))):
            raise invalid(f"Expecting tensor size: {size} but got: {len(flat)}")
        if shape != first:
            raise invalid(f"Expecting shape {_shape_text(first)} but got: {_shape_text(shape)}")
        self.values.setdefault(name, []).extend(flat)

    def array(self, name: str, count: int) -> Array:
        return _array(self.values[name], self.expected[name]).reshape((count, *self.shapes[name]))


def _tensor(value: Any, dtype: str) -> Array:
    if isinstance(value, list) and value:
        array = _bulk(value, dtype)
        if array is not None:
            return array
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, 0, shape, dtype, flat)
    return _array(flat, dtype).reshape(shape)


def _bulk(values: list[Any], dtype: str) -> Array | None:
    """The whole list at once where its content is plainly right; None where a closer look is needed."""
    if dtype == "string":
        try:
            return _array([text.encode() for text in values], dtype)
        except (AttributeError, UnicodeEncodeError):
            return None
    if dtype in _INTEGERS:
        kind, low, high = _INTEGERS[dtype]
        array = _numbers(values, int)
        if array is None or array.dtype.kind != "i" or array.size == 0:
            return None
        return array.astype(kind) if low <= array.min() and array.max() <= high else None
    if dtype in _FLOATS:
        wide, exact = _FLOATS[dtype]
        array = _numbers(values, float)
        if array is None or array.dtype.kind not in "fi" or array.size == 0:
            return None
        # Whole numbers and huge ones have rules of their own; NaN fails the comparison and is looked at closely too.
        return array.astype(wide) if bool((np.abs(array) <= exact).all()) else None
    return None


def _numbers(values: list[Any], kind: type) -> Array | None:
    """A rectangular list of lists of numbers as an array; None if a bool, a string or another shape is in it."""
    leaves = values
    while leaves and isinstance(leaves[0], list):
        if not all(isinstance(item, list) for item in leaves):
            return None
        leaves = [leaf for item in leaves for leaf in item]
    if not set(map(type, leaves)) <= {int, kind}:
        return None
    try:
        return np.array(values)
    except ValueError:
        return None


def _array(flat: list[Any], dtype: str) -> Array:
    if dtype == "string":
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array
    if dtype == "bool":
        return np.array(flat, dtype=np.bool_)
    if dtype in _INTEGERS:
        kind, low, _ = _INTEGERS[dtype]
        return np.array(flat, dtype=np.int64 if low else np.uint64).astype(kind)
    return np.array(flat, dtype=_FLOATS[dtype][0])


def _shape(value: Any) -> tuple[int, ...]:
    """The shape as the first elements tell it."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > MAX_RANK:
        raise invalid(f"JSON lists are nested {len(shape)} deep; a tensor has at most {MAX_RANK} dimensions")
    return tuple(shape)


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _fill(value: Any, level: int, shape: tuple[int, ...], dtype: str, flat: list[Any]) -> None:
    """Appends the leaves of ``value`` to ``flat``; raises where its form is not that of ``shape``."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {value_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _fill(item, level + 1, shape, dtype, flat)


def _leaf(value: Any, dtype: str) -> Any:
    """One scalar in Python's terms, checked as TF Serving checks it."""
    if isinstance(value, dict):
        if dtype != "string":
            raise _type_error(value, dtype)
        return decode_base64(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in _FLOATS:
        if not number:
            raise _type_error(value, dtype)
        wide, exact = _FLOATS[dtype]
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            value = float(value)
        limit = exact if isinstance(value, int) else float(np.finfo(wide).max)
        if abs(value) > limit and abs(value) != float("inf"):
            raise invalid(f"Cannot convert JSON value: {value_text(value)} to {dtype} without loss of precision.")
        return value
    if dtype in _INTEGERS:
        _, low, high = _INTEGERS[dtype]
        if not (number and isinstance(value, int) and low <= value <= high):
            raise _type_error(value, dtype)
        return value
    if dtype == "string":
        if not isinstance(value, str):
            raise _type_error(value, dtype)
        return _encode(value)
    if dtype == "bool":
        if not isinstance(value, bool):
            raise _type_error(value, dtype)
        return value
    raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {value_text(value)} to type: {dtype}")


def _encode(text: str) -> bytes:
    """UTF-8 of a parsed string; bytes that were not UTF-8 come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def _type_error(value: Any, dtype: str) -> ServingError:
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    kind = {True: "True", False: "False", None: "Null"}[value] if value is None or isinstance(value, bool) else ""
    return invalid(
        f"JSON Value: {value_text(value)} Type: {kind or names[type(value)]} is not of expected type: {dtype}"
    )


def is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def decode_base64(value: dict[str, Any]) -> bytes:
    if not is_base64(value):
        raise invalid(f"JSON Value: {value_text(value)} not formatted correctly for base64 data")
    text = re.sub(r"[ \t\n\r\f\v]", "", value["b64"]).rstrip("=")
    try:
        if not re.fullmatch(r"[A-Za-z0-9+/]*", text):
            raise binascii.Error
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None
