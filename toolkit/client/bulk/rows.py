"""Rows in: texts from arguments, lines, JSON lines, CSV and Parquet, one `Row` each, as lazily as the format allows."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toolkit.client.bulk.columns import kept_type, parquet_module, text_type
from toolkit.errors import InputError

__all__ = ["FORMATS", "Row", "Source"]

_CSV_FIELD = 1 << 27  # characters; Python's own limit of 131,072 is less than a long document


class Row(NamedTuple):
    """A text with the columns to keep beside it, or the reason why it is none."""

    text: str | None
    kept: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """Where rows come from: ``path`` (``None``: stdin, or ``texts``), its format, and the columns of interest."""

    path: Path | None
    format: str
    text_column: str = "text"
    keep: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        path: Path | None,
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

    def rows(self, exact: bool = False) -> Iterator[Row]:
        """All rows, in order. Raises `InputError` if the whole is unusable; a bad row is a `Row` with a problem.

        ``exact``: columns of Parquet are kept as Arrow scalars of their own types, for Parquet; else as JSON has them.
        """
        if self.texts:
            return (_checked(text, {}) for text in self.texts)
        if self.format == "parquet":
            return _parquet(self, exact)
        return FORMATS[self.format](self)

    def count(self) -> int | None:
        """How many rows there are (an estimate for CSV with line breaks in fields); ``None`` for stdin."""
        if self.texts:
            return len(self.texts)
        if self.path is None:
            return None
        if self.format == "parquet":
            return int(parquet_module().ParquetFile(self.path).metadata.num_rows)
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
        raise InputError(f"{source.path} cannot be read: {error.strerror}") from None
    with file:
        yield file


def _lines(source: Source) -> Iterator[bytes]:
    with _opened(source) as file:
        for number, line in enumerate(file):
            if number == 0:
                _refuse_utf16(source, line)
            yield (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip(b"\r\n")


def _txt(source: Source) -> Iterator[Row]:
    for line in _lines(source):
        try:
            yield Row(line.decode(), {})
        except UnicodeDecodeError as error:
            yield Row(None, {}, f"the line is not UTF-8: {error.reason} at byte {error.start}")


def _jsonl(source: Source) -> Iterator[Row]:
    for line in _lines(source):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Row(None, {}, f"the line is not JSON: {error}")
            continue
        if isinstance(value, dict):
            kept = {name: value.get(name) for name in source.keep}
            if source.text_column in value:
                yield _checked(value[source.text_column], kept)
            else:
                yield Row(None, kept, f"there is no {source.text_column!r}")
        else:
            yield _checked(value, dict.fromkeys(source.keep))


def _csv(source: Source) -> Iterator[Row]:
    csv.field_size_limit(_CSV_FIELD)
    with _opened(source) as file:
        # Bytes that are no UTF-8 become lone surrogates, which are refused for their row alone.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        # Strict: a quote that is never closed would else take all rows up to the next one, or the end, for one field.
        table = csv.reader(text, strict=True)
        line = 1  # where the row begins
        try:
            header = next(table, [])
            _refuse_utf16(source, "".join(header[:1]).encode(errors="surrogateescape"))
            places = _columns(source, header)
            line = table.line_num + 1
            for fields in table:
                if fields:
                    yield _csv_row(source, header, places, fields)
                line = table.line_num + 1
        except csv.Error as error:
            reason = "a quote is never closed" if "unexpected end of data" in str(error) else str(error)
            raise InputError(
                f"{source.name}: the row that begins in line {line} cannot be read: {reason} (line {table.line_num})"
            ) from None
        finally:
            text.detach()


def _csv_row(source: Source, header: list[str], places: list[int], fields: list[str]) -> Row:
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


def _parquet(source: Source, exact: bool = False) -> Iterator[Row]:
    parquet = parquet_module()
    import pyarrow

    try:
        with parquet.ParquetFile(source.path) as file:
            _columns(source, file.schema_arrow.names)
            there = {name: file.schema_arrow.field(name).type for name in (source.text_column, *source.keep)}
            where = {name: f"{source.name}: column {name!r}" for name in there}
            kinds = {name: kept_type(where[name], there[name], exact) for name in source.keep}
            text_kind = text_type(where[source.text_column], there[source.text_column])
            wanted = list(dict.fromkeys([source.text_column, *source.keep]))
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                columns = {name: batch.column(name).cast(kind) for name, kind in kinds.items()}
                kept = {name: list(column) if exact else column.to_pylist() for name, column in columns.items()}
                for i, text in enumerate(batch.column(source.text_column).cast(text_kind).to_pylist()):
                    yield _checked(text, {name: values[i] for name, values in kept.items()})
    except pyarrow.ArrowException as error:
        raise InputError(f"{source.path} cannot be read as Parquet: {error}") from None


FORMATS: dict[str, Callable[[Source], Iterator[Row]]] = {
    "txt": _txt,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
