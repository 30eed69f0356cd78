"""Rows in: texts from arguments, lines, JSON lines, CSV and Parquet, one `Row` each, as lazily as the format allows.

A format is two functions: one finds the records of an open file, with the byte behind each, the other makes a record
a `Row`. The first alone cuts a file into spans, from which the rows can be read in any order.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toolkit.client.bulk.columns import kept_type, parquet_module, text_type
from toolkit.client.bulk.places import Place
from toolkit.errors import InputError

__all__ = ["FORMATS", "Row", "Source", "Span", "parquet_file", "parquet_types"]

_PARQUET_ROWS = 8192  # rows of Parquet in memory
_CSV_FIELD = 1 << 27  # characters; Python's own limit of 131,072 is less than a long document


class Row(NamedTuple):
    """A text with the columns to keep beside it, or the reason why it is none."""

    text: str | None
    kept: dict[str, Any]
    problem: str | None = None


class Span(NamedTuple):
    """``rows`` rows of a file from number ``start``; the first begins at byte ``offset`` (Parquet: always 0)."""

    start: int
    rows: int
    offset: int


@dataclass(frozen=True)
class Source:
    """Where rows come from: ``path`` (``None``: stdin, or ``texts``), its format, and the columns of interest."""

    path: Path | Place | None
    format: str
    text_column: str = "text"
    keep: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        path: Path | Place | None,
        input_format: str | None = None,
        *,
        text_column: str = "text",
        keep: tuple[str, ...] = (),
    ) -> Source:
        """A file (its suffix tells the format, unless given) or stdin (``path=None``; lines, unless given)."""
        suffix = "txt" if path is None else path.suffix[1:].lower()
        chosen = input_format or suffix
        if chosen not in FORMATS:
            raise InputError(f"{path}: input format {chosen!r} is not supported; supported: {', '.join(FORMATS)}")
        if path is None and chosen == "parquet":
            raise InputError("Parquet cannot be read from stdin; give a file")
        if path is not None and not path.is_file():
            raise InputError(f"{path} is not a file")
        if keep and chosen == "txt":
            raise InputError(f"lines of text have no columns to keep: {', '.join(keep)}")
        return cls(path, chosen, text_column, keep)

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else "arguments" if self.texts else "stdin"

    def rows(self, exact: bool = False, span: Span | None = None) -> Iterator[Row]:
        """All rows, in order, or those of ``span``. Raises `InputError` if the whole is unusable; a bad row is a `Row`
        with a problem.

        ``exact``: columns of Parquet are kept as Arrow scalars of their own types, for Parquet; else as JSON has them.
        """
        if self.texts:
            return (_checked(text, {}) for text in self.texts)
        if self.format == "parquet":
            return _parquet(self, exact, span)
        return _text_rows(self, span)

    def spans(self, rows: int) -> Iterator[Span]:
        """The file in spans of ``rows`` rows, the last with fewer. Raises `InputError` if the file is unusable."""
        if self.format == "parquet":
            with parquet_file(self) as file:
                count = int(file.metadata.num_rows)
            for start in range(0, count, rows):
                yield Span(start, min(rows, count - start), 0)
            return
        records, _ = _RECORDS[self.format]
        found, start, offset = 0, 0, 0
        with _opened(self) as file:
            for found, (after, _) in enumerate(records(self, file, 0), 1):
                if found - start == rows:
                    yield Span(start, rows, offset)
                    start, offset = found, after
        if found > start:
            yield Span(start, found - start, offset)

    def count(self) -> int | None:
        """How many rows there are (an estimate for CSV with line breaks in fields); ``None`` for stdin."""
        if self.texts:
            return len(self.texts)
        if self.path is None:
            return None
        if self.format == "parquet":
            return sum(span.rows for span in self.spans(1 << 20))
        with self.path.open("rb") as file:
            lines, last = 0, b"\n"
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block[-1:]
        return lines + (last != b"\n") - (self.format == "csv")


def _checked(text: Any, kept: dict[str, Any]) -> Row:
    if text is None:
        return Row(None, kept, "the text is null")
    if isinstance(text, bytes):  # as many writers of Parquet store texts
        try:
            return Row(text.decode(), kept)
        except UnicodeDecodeError as error:
            return Row(None, kept, f"the text is not UTF-8: {error.reason} at byte {error.start}")
    if not isinstance(text, str):
        return Row(None, kept, f"the text is of type {type(text).__name__}")
    return Row(text, kept) if _is_unicode(text) else Row(None, kept, "the text is not valid Unicode")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_utf16(source: Source, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        kind = "UTF-32" if b"\0\0" in start[:4] else "UTF-16"
        raise InputError(
            f"{source.name} begins with the byte order mark of {kind}; only UTF-8 is read: convert it first"
        )


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if source.path is None:
        yield sys.stdin.buffer
        return
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise InputError(f"{source.path} cannot be read: {error.strerror or error}") from None
    with file:
        yield file


def _text_rows(source: Source, span: Span | None) -> Iterator[Row]:
    records, row = _RECORDS[source.format]
    with _opened(source) as file:
        found = records(source, file, span.offset if span else 0)
        for _, record in islice(found, span.rows) if span else found:
            yield row(source, record)


def _lines(source: Source, file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """Lines from byte ``offset``, where one begins, with the byte behind each."""
    if offset:
        file.seek(offset)
    first = not offset
    for line in file:
        offset += len(line)
        if first:
            _refuse_utf16(source, line)
            line, first = line.removeprefix(b"\xef\xbb\xbf"), False
        yield offset, line.rstrip(b"\r\n")


def _txt(source: Source, line: bytes) -> Row:
    try:
        return Row(line.decode(), {})
    except UnicodeDecodeError as error:
        return Row(None, {}, f"the line is not UTF-8: {error.reason} at byte {error.start}")


def _json_lines(source: Source, file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    return ((after, line) for after, line in _lines(source, file, offset) if line.strip())


def _jsonl(source: Source, line: bytes) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(None, {}, f"the line is not JSON: {error}")
    if not isinstance(value, dict):
        return _checked(value, dict.fromkeys(source.keep))
    kept = {name: value.get(name) for name in source.keep}
    if source.text_column in value:
        return _checked(value[source.text_column], kept)
    return Row(None, kept, f"there is no {source.text_column!r}")


class _CsvRecord(NamedTuple):
    fields: list[str]
    header: list[str]
    places: list[int]  # of the text and the kept columns


class _CsvLines:
    """Lines as `csv` wants them: with their ends, of whatever kind. ``after``: the byte behind the last one given."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.after = 0

    def __iter__(self) -> Iterator[str]:
        for block in self._file:
            for line in block.splitlines(keepends=True):
                text = line if self.after else line.removeprefix(b"\xef\xbb\xbf")
                self.after += len(line)
                # Bytes that are no UTF-8 become lone surrogates, which are refused for their row alone.
                yield text.decode(errors="surrogateescape")

    def seek(self, offset: int) -> None:
        self._file.seek(offset)
        self.after = offset


def _csv_records(source: Source, file: BinaryIO, offset: int) -> Iterator[tuple[int, _CsvRecord]]:
    csv.field_size_limit(_CSV_FIELD)
    lines = _CsvLines(file)
    # Strict: a quote that is never closed would else take all rows up to the next one, or the end, for one field.
    table = csv.reader(iter(lines), strict=True)
    line = 1  # where the row begins
    try:
        header = next(table, [])
        _refuse_utf16(source, "".join(header[:1]).encode(errors="surrogateescape"))
        places = _columns(source, header)
        if offset:
            lines.seek(offset)
            table = csv.reader(iter(lines), strict=True)
        line = table.line_num + 1
        for fields in table:
            if fields:
                yield lines.after, _CsvRecord(fields, header, places)
            line = table.line_num + 1
    except csv.Error as error:
        reason = "a quote is never closed" if "unexpected end of data" in str(error) else str(error)
        raise InputError(
            f"{source.name}: the row that begins in line {line} cannot be read: {reason} (line {table.line_num})"
        ) from None


def _csv(source: Source, record: _CsvRecord) -> Row:
    fields, header, places = record
    if len(fields) != len(header):
        reason = f"{len(fields)} fields under {len(header)} column names"
        return Row(None, dict.fromkeys(source.keep), reason)
    kept = dict(zip(source.keep, (fields[i] for i in places[1:]), strict=True))
    for name, value in kept.items():
        if not _is_unicode(value):
            return Row(None, dict.fromkeys(source.keep), f"column {name!r} is not valid Unicode")
    return _checked(fields[places[0]], kept)


def _columns(source: Source, there: list[str]) -> list[int]:
    missing = [name for name in (source.text_column, *source.keep) if name not in there]
    if missing:
        raise InputError(f"{source.name} has no column {', '.join(missing)}; it has: {', '.join(there) or 'none'}")
    for name in (source.text_column, *source.keep):
        if there.count(name) > 1:
            raise InputError(f"{source.name} has {there.count(name)} columns of the name {name!r}; which one is meant?")
    return [there.index(name) for name in (source.text_column, *source.keep)]


@contextmanager
def parquet_file(source: Source) -> Iterator[Any]:
    parquet = parquet_module()
    import pyarrow

    file = source.path.open("rb") if isinstance(source.path, Place) else source.path
    try:
        with parquet.ParquetFile(file) as opened:
            yield opened
    except pyarrow.ArrowException as error:
        raise InputError(f"{source.path} cannot be read as Parquet: {error}") from None


def parquet_types(source: Source, file: Any, exact: bool) -> tuple[Any, dict[str, Any]]:
    """The Arrow types that the column of texts and the kept ones are read as. Raises `InputError`."""
    _columns(source, file.schema_arrow.names)
    there = {name: file.schema_arrow.field(name).type for name in (source.text_column, *source.keep)}
    where = {name: f"{source.name}: column {name!r}" for name in there}
    kinds = {name: kept_type(where[name], there[name], exact) for name in source.keep}
    return text_type(where[source.text_column], there[source.text_column]), kinds


def _parquet(source: Source, exact: bool, span: Span | None) -> Iterator[Row]:
    with parquet_file(source) as file:
        text_kind, kinds = parquet_types(source, file, exact)
        wanted = list(dict.fromkeys([source.text_column, *source.keep]))
        for batch in _batches(file, wanted, span):
            columns = {name: batch.column(name).cast(kind) for name, kind in kinds.items()}
            kept = {name: list(column) if exact else column.to_pylist() for name, column in columns.items()}
            for i, text in enumerate(batch.column(source.text_column).cast(text_kind).to_pylist()):
                yield _checked(text, {name: values[i] for name, values in kept.items()})


def _batches(file: Any, columns: list[str], span: Span | None) -> Iterator[Any]:
    """The file's rows, or those of ``span``, from no other row groups than it needs."""
    if span is None:
        yield from file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns)
        return
    first, stop = span.start, span.start + span.rows
    at, groups = 0, []
    for group in range(file.num_row_groups):
        after = at + file.metadata.row_group(group).num_rows
        if at < stop and after > first:
            groups.append((group, at))
        at = after
    if not groups:
        return
    at = groups[0][1]
    wanted = [group for group, _ in groups]
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=wanted, columns=columns):
        low, high = max(first, at), min(stop, at + batch.num_rows)
        if low < high:
            yield batch.slice(low - at, high - low)
        at += batch.num_rows
        if at >= stop:
            return


# how the records of a text format are found in an open file, and what makes a row of one
_RECORDS: dict[str, tuple[Callable[..., Iterator[tuple[int, Any]]], Callable[[Source, Any], Row]]] = {
    "txt": (_lines, _txt),
    "jsonl": (_json_lines, _jsonl),
    "csv": (_csv_records, _csv),
}

FORMATS = (*_RECORDS, "parquet")
