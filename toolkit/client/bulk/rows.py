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

from toolkit.errors import InputError, MissingExtraError

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

    def rows(self) -> Iterator[Row]:
        """All rows, in order. Raises `InputError` if the whole is unusable; a bad row is a `Row` with a problem."""
        if self.texts:
            return (_checked(text, {}) for text in self.texts)
        return FORMATS[self.format](self)

    def count(self) -> int | None:
        """How many rows there are (an estimate for CSV with line breaks in fields); ``None`` for stdin."""
        if self.texts:
            return len(self.texts)
        if self.path is None:
            return None
        if self.format == "parquet":
            return int(_parquet().ParquetFile(self.path).metadata.num_rows)
        with self.path.open("rb") as file:
            lines, last = 0, b"\n"
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block[-1:]
        return lines + (last != b"\n") - (self.format == "csv")


def _checked(text: Any, kept: dict[str, Any]) -> Row:
    if text is None:
        return Row(None, kept, "the text is null")
    if not isinstance(text, str):
        return Row(None, kept, f"the text is of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Row(None, kept, "the text is not valid Unicode")
    return Row(text, kept)


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
        # Bytes that are no UTF-8 become lone surrogates, which `_checked` refuses for their row alone.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        table = csv.reader(text)
        try:
            header = next(table, [])
            places = _columns(source, header)
            for fields in table:
                if not fields:
                    continue
                if len(fields) != len(header):
                    yield Row(
                        None, dict.fromkeys(source.keep), f"{len(fields)} fields under {len(header)} column names"
                    )
                    continue
                yield _checked(fields[places[0]], dict(zip(source.keep, (fields[i] for i in places[1:]), strict=True)))
        except csv.Error as error:
            raise InputError(f"{source.name}, line {table.line_num}: {error}") from None
        finally:
            text.detach()


def _columns(source: Source, there: list[str]) -> list[int]:
    missing = [name for name in (source.text_column, *source.keep) if name not in there]
    if missing:
        raise InputError(f"{source.name} has no column {', '.join(missing)}; it has: {', '.join(there) or 'none'}")
    return [there.index(name) for name in (source.text_column, *source.keep)]


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "bulk") from None
    return pyarrow.parquet


def _parquet_rows(source: Source) -> Iterator[Row]:
    parquet = _parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(source.path) as file:
            _columns(source, file.schema_arrow.names)
            wanted = list(dict.fromkeys([source.text_column, *source.keep]))
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                columns = {name: batch.column(name).to_pylist() for name in wanted}
                for i, text in enumerate(columns[source.text_column]):
                    yield _checked(text, {name: columns[name][i] for name in source.keep})
    except pyarrow.ArrowException as error:
        raise InputError(f"{source.path} cannot be read as Parquet: {error}") from None


FORMATS: dict[str, Callable[[Source], Iterator[Row]]] = {
    "txt": _txt,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet_rows,
}
