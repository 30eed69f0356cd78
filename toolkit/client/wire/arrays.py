"""A caller's values to rows and columns, and the pieces of an answer to one array; every check of either is here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.client.types import Array, Column
from toolkit.errors import InputError, ResponseError
from toolkit.vectors_signatures import ROW_SPLITS, VALUES

__all__ = [
    "Ragged",
    "Table",
    "aligned",
    "as_served",
    "checked_rows",
    "pad_join",
    "row_aligned",
    "text_rows",
    "to_column",
]


def text_rows(texts: Iterable[str]) -> list[bytes]:
    """The texts as UTF-8. Raises `InputError` naming the first one that is no text."""
    if isinstance(texts, (str, bytes)):
        raise InputError(f"texts is one {type(texts).__name__}; give a list of str")
    if isinstance(texts, np.ndarray):
        texts = texts.ravel().tolist() if texts.ndim == 1 else _refuse_shape(texts)
    try:
        texts = texts if isinstance(texts, list) else list(texts)
    except TypeError:
        raise InputError(f"texts is of type {type(texts).__name__}; give a list of str") from None
    try:
        return list(map(str.encode, texts))
    except TypeError:
        row, bad = next((i, text) for i, text in enumerate(texts) if not isinstance(text, str))
        raise InputError(f"texts[{row}] is of type {type(bad).__name__}; every text must be a str") from None
    except UnicodeEncodeError as error:
        row = next(i for i, text in enumerate(texts) if text is error.object or text == error.object)
        raise InputError(f"texts[{row}] is not valid Unicode: {error.reason}") from None


def checked_rows(texts: Iterable[str]) -> Iterator[bytes]:
    if isinstance(texts, (str, bytes)):
        raise InputError(f"texts is one {type(texts).__name__}; give texts, one by one")
    for row, text in enumerate(texts):
        try:
            yield text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise InputError(f"text {row} of the stream is no valid str: {error}") from None


def _refuse_shape(texts: Array) -> list[str]:
    raise InputError(f"texts is an array of shape {list(texts.shape)}; give one dimension")


def to_column(name: str, value: Any) -> Column:
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name!r} is no array: {error}") from None
    if not isinstance(value, (np.ndarray, np.generic)):
        # Plain Python numbers have no width; TensorFlow takes them as 32 bits, and so do most models.
        narrow = {"float64": np.float32, "int64": np.int32}.get(array.dtype.name)
        if narrow is np.float32 or (narrow is np.int32 and np.array_equal(array.astype(narrow), array)):
            array = array.astype(narrow)
    if array.dtype.kind in "UST":
        # numpy's fixed-width strings drop trailing NULs; objects keep every byte
        array = np.array(value, object)
    if array.dtype.kind == "O" and not all(isinstance(item, (str, bytes)) for item in array.ravel().tolist()):
        raise InputError(f"input {name!r} is no array of numbers, str or bytes")
    return array


def row_aligned(name: str, answer: Mapping[str, Array], count: int) -> Array:
    if name not in answer:
        raise ResponseError(f"the answer has no output {name!r}; it has: {', '.join(sorted(answer)) or 'none'}")
    array = answer[name]
    if not array.ndim or array.shape[0] != count:
        raise ResponseError(f"output {name!r} has shape {list(array.shape)} for {count} rows")
    if name == "embedding" and array.ndim != 2:
        raise ResponseError(f"output 'embedding' has shape {list(array.shape)}; [rows, dim] was expected")
    return as_served(name, array)


@dataclass(frozen=True)
class Ragged:
    """Rows of any number of vectors: ``values`` float32 ``[vectors, dim]``, of which row ``i`` has those from
    ``row_splits[i]`` to ``row_splits[i + 1]``, int32 ``[rows + 1]``. Of sparse vectors the values are numbers."""

    values: Array
    row_splits: NDArray[np.int32]

    @classmethod
    def of(cls, answer: Mapping[str, Array], count: int) -> Ragged:
        """An answer for ``count`` rows, copied. Raises `ResponseError` if it is none."""
        if missing := [name for name in (VALUES, ROW_SPLITS) if name not in answer]:
            there = ", ".join(sorted(answer)) or "none"
            raise ResponseError(f"the answer has no output {missing[0]!r}; it has: {there}")
        values, splits = answer[VALUES], answer[ROW_SPLITS]
        if values.ndim != 2 or splits.shape != (count + 1,):
            shapes = f"{list(values.shape)} and {list(splits.shape)}"
            raise ResponseError(f"outputs {VALUES!r} and {ROW_SPLITS!r} have shapes {shapes} for {count} rows")
        splits = np.array(aligned(splits), np.int32)
        if splits[0] != 0 or splits[-1] != len(values) or (np.diff(splits) < 0).any():
            raise ResponseError(f"output {ROW_SPLITS!r} does not split {len(values)} vectors into {count} rows")
        return cls(np.array(aligned(values), np.float32), splits)

    def rows(self) -> list[NDArray[np.float32]]:
        """The vectors of each row, ``[any, dim]``."""
        return [self.values[start:stop] for start, stop in pairwise(self.row_splits)]

    def __getitem__(self, places: Sequence[int]) -> Ragged:
        """The rows with these numbers."""
        rows = self.rows()
        found = [rows[place] for place in places]
        lengths = np.cumsum([0, *map(len, found)]).astype(np.int32)
        return Ragged(np.concatenate([self.values[:0], *found]), lengths)

    def tolist(self) -> list[list[Any]]:
        """As plain numbers."""
        return [row.tolist() for row in self.rows()]


def as_served(name: str, array: Array) -> Array:
    """An embedding in any float type is float32 to the caller; quantized ones stay as they are."""
    return array.astype(np.float32, copy=False) if name == "embedding" and array.dtype.kind == "f" else array


def aligned(array: Array) -> Array:
    """``array``, copied if its memory is not aligned for its dtype, as a view of an answer may be."""
    if array.flags.aligned:
        return array
    copied = np.empty(array.shape, array.dtype)
    _copy(array, copied)
    return copied


def _copy(source: Array, target: Array) -> None:
    # As bytes: numpy copies unaligned numbers one by one.
    if source.size:
        target.reshape(-1).view(np.uint8)[:] = source.reshape(-1).view(np.uint8)


class Table:
    """Outputs of all rows, filled in piece by piece as the answers come."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.columns: dict[str, Array] = {}

    def put(self, start: int, piece: Mapping[str, Array]) -> None:
        """Take in the outputs of the rows from ``start`` on. Raises `ResponseError` if their shapes are not alike."""
        for name, part in piece.items():
            if name not in self.columns:
                self.columns[name] = np.empty((self._rows, *part.shape[1:]), part.dtype)
            place = self.columns[name][start : start + len(part)]
            if (part.shape, part.dtype) != (place.shape, place.dtype):
                was, now = ([f"{a.dtype}", *a.shape[1:]] for a in (place, part))
                raise ResponseError(f"answers disagree on the shape of {name!r}: {was} and {now}")
            _copy(part, place)


def pad_join(name: str, pieces: list[dict[str, Array]], pad: int) -> NDArray[np.int32]:
    length = max(piece[name].shape[1] for piece in pieces)
    rows = sum(len(piece[name]) for piece in pieces)
    joined = np.full((rows, length), pad, np.int32)
    row = 0
    for piece in pieces:
        part = piece[name]
        joined[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    return joined
