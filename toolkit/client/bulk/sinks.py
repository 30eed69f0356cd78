"""Embeddings out: one sink per file format. A sink grows in a folder of its own and becomes the target by a rename.

What a sink has written counts only up to the position that the state names; `restore` cuts off everything behind it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from toolkit.client.bulk.columns import json_value, kept_array, parquet_module, settled, typed
from toolkit.client.bulk.plan import Plan
from toolkit.client.bulk.rows import Row
from toolkit.client.types import Array
from toolkit.client.wire.arrays import Ragged
from toolkit.client.wire.sparse import INDICES, VALUES
from toolkit.errors import InputError

__all__ = ["SINKS", "Batch", "Sink", "batch_table", "json_line", "open_sink", "sink_format", "vector_types"]

_HEADER = 256  # bytes kept free at the start of .npy and .safetensors, filled in when the number of rows is known


@dataclass(frozen=True)
class Batch:
    """Consecutive input rows from number ``start``; ``outputs`` hold one line per row whose ``places`` is not -1."""

    start: int
    rows: Sequence[Row]
    places: Sequence[int]
    outputs: Mapping[str, Array | Ragged]

    def good(self) -> list[tuple[int, Row, int]]:
        """(row number, row, line in the outputs) of the rows that have an embedding."""
        pairs = zip(self.rows, self.places, strict=True)
        return [(self.start + i, row, place) for i, (row, place) in enumerate(pairs) if place >= 0]


class Sink(Protocol):
    def write(self, batch: Batch) -> int:
        """Append; returns the new position."""
        ...

    def sync(self) -> int:
        """Make everything written durable; returns the position that `restore` takes."""
        ...

    def restore(self, position: int) -> None: ...

    def finish(self, rows: int) -> Path:
        """Complete the file and return it, ready to be renamed. May be called again after a crash."""
        ...

    def close(self) -> None: ...


def json_line(number: int | None, row: Row, outputs: Mapping[str, Any]) -> bytes:
    """One line of JSON: the row's number (if given), its text, kept columns and outputs."""
    head = {} if number is None else {"row": number}
    content = {**head, "text": row.text, **row.kept, **outputs}
    line = json.dumps(content, ensure_ascii=False, default=json_value)
    try:
        return line.encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair in a kept value: JSON's escape is all that there is for it
        return json.dumps(content, default=json_value).encode() + b"\n"


class _FileSink:
    """A sink that appends to one file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "data"
        self._file: BinaryIO = self._path.open("r+b" if self._path.exists() else "x+b")
        self._file.seek(0, os.SEEK_END)

    def sync(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def restore(self, position: int) -> None:
        self._file.truncate(position)
        self._file.seek(position)

    def finish(self, rows: int) -> Path:
        self.sync()
        return self._path

    def close(self) -> None:
        self._file.close()


class JsonlSink(_FileSink):
    """``{"row": 0, "text": ..., <kept columns>, "embedding": [...], <other outputs>}`` per line."""

    def write(self, batch: Batch) -> int:
        lists = {name: value.tolist() for name, value in batch.outputs.items()}
        for number, row, place in batch.good():
            self._file.write(json_line(number, row, {name: lists[name][place] for name in lists}))
        return self._file.tell()


class _ArraySink(_FileSink):
    """The embeddings as one array [rows, dim]; a row without embedding is NaN (0 in a quantized array)."""

    def __init__(self, folder: Path, dim: int, dtype: str) -> None:
        super().__init__(folder)
        self._dim = dim
        self._dtype = np.dtype(dtype).newbyteorder("<")
        if not self._file.tell():
            self._file.write(bytes(_HEADER))

    def write(self, batch: Batch) -> int:
        places = np.asarray(batch.places)
        block = np.full((len(places), self._dim), np.nan if self._dtype.kind == "f" else 0, self._dtype)
        if "embedding" in batch.outputs:
            block[places >= 0] = np.asarray(batch.outputs["embedding"])[places[places >= 0]]
        self._file.write(block.tobytes())
        return self._file.tell()

    def restore(self, position: int) -> None:
        super().restore(max(position, _HEADER))

    def finish(self, rows: int) -> Path:
        header = self._header(rows)
        assert len(header) == _HEADER
        self._file.seek(0)
        self._file.write(header)
        return super().finish(rows)

    def _header(self, rows: int) -> bytes:
        raise NotImplementedError


class NpySink(_ArraySink):
    """NumPy's format, version 1.0."""

    def _header(self, rows: int) -> bytes:
        fields = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, self._dim)}
        head = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER - 10)
        return head + str(fields).encode().ljust(_HEADER - 11) + b"\n"


class SafetensorsSink(_ArraySink):
    """One tensor, ``embedding``. The format's header is JSON padded with spaces."""

    def _header(self, rows: int) -> bytes:
        name = {"f": "F", "i": "I", "u": "U"}[self._dtype.kind] + str(8 * self._dtype.itemsize)
        size = rows * self._dim * self._dtype.itemsize
        fields = {"embedding": {"dtype": name, "shape": [rows, self._dim], "data_offsets": [0, size]}}
        return struct.pack("<Q", _HEADER - 8) + json.dumps(fields).encode().ljust(_HEADER - 8)


def batch_table(batch: Batch) -> Any:
    """The rows with an embedding as an Arrow table (kept JSON values still as such); ``None`` if there are none."""
    import pyarrow

    good = batch.good()
    if not good:
        return None
    numbers, rows, places = zip(*good, strict=True)
    columns: dict[str, Any] = {"row": pyarrow.array(numbers, pyarrow.int64())}
    columns["text"] = pyarrow.array([row.text for row in rows], pyarrow.string())
    marks: dict[str, Any] = {}
    for name in rows[0].kept:
        columns[name], marks[name] = kept_array([row.kept[name] for row in rows])
    for name, value in batch.outputs.items():
        picked = value[list(places)]
        columns[name] = _vectors(picked) if isinstance(picked, Ragged) else _numbers(picked)
    fields = [pyarrow.field(name, column.type, metadata=marks.get(name)) for name, column in columns.items()]
    return pyarrow.table(list(columns.values()), schema=pyarrow.schema(fields))


def _numbers(values: Array) -> Any:
    import pyarrow

    flat = pyarrow.array(values.reshape(-1))
    return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _vectors(rows: Ragged) -> Any:
    import pyarrow

    return pyarrow.ListArray.from_arrays(pyarrow.array(rows.row_splits), _numbers(rows.values))


def vector_types(plan: Plan) -> dict[str, Any]:
    """The Arrow type of the column that holds a row's vector: a list of fixed size; of its vectors a list of these; of
    the two that hold a sparse one lists."""
    import pyarrow

    if plan.sparse:
        return {INDICES: pyarrow.list_(pyarrow.int32()), VALUES: pyarrow.list_(pyarrow.float32())}
    vector = pyarrow.list_(pyarrow.from_numpy_dtype(plan.dtype), plan.dim)
    return {plan.columns[0]: pyarrow.list_(vector) if plan.ragged else vector}


class ParquetSink:
    """Columns ``row``, ``text``, the kept ones, and the outputs (``embedding`` as an Arrow fixed-size list, the vectors
    of several as a list of these).

    A Parquet file is readable only once it is closed, so each stretch between two checkpoints is a file; the last step
    joins them.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._parquet = parquet_module()
        self._folder = folder
        self._plan = plan
        self._parts = 0
        self._tables: list[Any] = []

    def write(self, batch: Batch) -> int:
        table = batch_table(batch)
        if table is not None:
            self._tables.append(table)
        return self._parts

    def sync(self) -> int:
        import pyarrow

        if self._tables:
            with self._part(self._parts).open("wb") as file:
                self._parquet.write_table(pyarrow.concat_tables(self._tables), file)
                file.flush()
                os.fsync(file.fileno())
            self._parts += 1
            self._tables = []
        return self._parts

    def restore(self, position: int) -> None:
        self._parts = position
        self._tables = []

    def finish(self, rows: int) -> Path:
        import pyarrow

        self.sync()
        parts = [self._part(number) for number in range(self._parts)]
        least = {"row": pyarrow.int64(), "text": pyarrow.string(), **vector_types(self._plan)}
        schema = self._parquet.read_schema(parts[0]) if parts else pyarrow.schema(least)
        schema = settled(lambda: map(self._parquet.read_table, parts), schema)
        whole = self._folder / "whole.parquet"
        with whole.open("wb") as file:
            with self._parquet.ParquetWriter(file, schema.remove_metadata()) as writer:
                for part in parts:
                    writer.write_table(typed(self._parquet.read_table(part), schema))
            file.flush()
            os.fsync(file.fileno())
        return whole

    def close(self) -> None:
        self._tables = []

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"


SINKS = ("npy", "jsonl", "parquet", "safetensors")


def sink_format(target: Path) -> str:
    """The format a target's suffix asks for. Raises `InputError`, or `MissingExtraError` if a package is lacking."""
    kind = target.suffix[1:].lower()
    if kind not in SINKS:
        raise InputError(f"{target}: output format {kind!r} is not supported; supported: {', '.join(SINKS)}")
    if kind == "parquet":
        parquet_module()
    return kind


def open_sink(plan: Plan, folder: Path) -> Sink:
    kind = plan.output_format
    if kind == "parquet":
        return ParquetSink(folder, plan)
    if kind == "jsonl":
        return JsonlSink(folder)
    return (NpySink if kind == "npy" else SafetensorsSink)(folder, plan.dim, plan.dtype)
