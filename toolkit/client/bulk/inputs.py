"""Many files in: found, looked through once, and known to fit together before any work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from toolkit.client.bulk.columns import holds, json_field, widened, wider
from toolkit.client.bulk.places import Entry, Place
from toolkit.client.bulk.rows import FORMATS, Source, parquet_file, parquet_types
from toolkit.errors import InputError

__all__ = ["InputFile", "Inputs", "Mapper", "Scan", "scan_all"]

U = TypeVar("U")

_ROWS = 8192  # JSON values looked at together


class Mapper(Protocol):
    """Carries out a function for each item, somewhere, and yields the results in order. What it raises is raised."""

    def __call__(self, function: Callable[[InputFile], U], items: Sequence[InputFile], /) -> Iterator[U]: ...


@dataclass(frozen=True)
class InputFile:
    """A file of the input: its place in the list of inputs, path, size in bytes and time of change in nanoseconds."""

    root: int
    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Inputs:
    """Files and folders, and how they are read. A folder stands for all files below it, by path; files whose names
    begin with ``_`` or ``.`` are none of them."""

    roots: tuple[Place, ...]
    format: str | None
    text_column: str = "text"
    keep: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        uris: Iterable[str | Path],
        input_format: str | None = None,
        *,
        text_column: str = "text",
        keep: tuple[str, ...] = (),
    ) -> Inputs:
        """Local paths, ``s3://`` and ``gs://``; suffixes tell the format, unless given. Raises `InputError`."""
        if input_format is not None and input_format not in FORMATS:
            raise InputError(f"input format {input_format!r} is not supported; supported: {', '.join(FORMATS)}")
        return cls(tuple(Place.of(uri) for uri in uris), input_format, text_column, keep)

    def listed(self) -> tuple[str, list[InputFile]]:
        """The one format of all files, and the files. Raises `InputError` if there is none, or not one."""
        files: list[InputFile] = []
        formats: dict[str, Place] = {}
        for number, root in enumerate(self.roots):
            entries = root.files()
            if not entries:
                raise InputError(f"{root} holds no files")
            for entry in entries:
                formats.setdefault(self._format(entry), entry.place)
                files.append(InputFile(number, entry.place.path, entry.size, entry.changed))
        if len(formats) > 1:
            (first, one), (second, other) = list(formats.items())[:2]
            raise InputError(f"inputs are of one format: {one} is {first}, {other} is {second}")
        (chosen,) = formats
        if self.keep and chosen == "txt":
            raise InputError(f"lines of text have no columns to keep: {', '.join(self.keep)}")
        twice = {file.path for file in files}
        if len(twice) < len(files):
            raise InputError("a file is named more than once among the inputs")
        return chosen, files

    def _format(self, entry: Entry) -> str:
        chosen = self.format or entry.place.suffix[1:].lower()
        if chosen not in FORMATS:
            raise InputError(
                f"{entry.place}: input format {chosen!r} is not supported; supported: {', '.join(FORMATS)}"
            )
        return chosen

    def source(self, file: InputFile, kind: str) -> Source:
        """The file as rows."""
        root = self.roots[file.root]
        return Source(Place(root.filesystem, file.path, root.scheme), kind, self.text_column, self.keep)


@dataclass(frozen=True)
class Scan:
    """What a look through a file gives: its rows, the byte at which each part begins (none for Parquet), and the Arrow
    types of the kept columns (``None``: no one type holds all values)."""

    rows: int
    offsets: tuple[int, ...]
    kept: tuple[Any, ...]


def scan_all(
    inputs: Inputs, kind: str, files: Sequence[InputFile], part_rows: int, mapper: Mapper
) -> tuple[list[Scan], list[Any]]:
    """Every file looked through, and the kept columns as Arrow fields that hold the values of all.

    Raises `InputError` for a file that cannot be read to its end, lacks a column, has texts that are none, or columns
    of other types than the files before it.
    """
    scans = list(mapper(partial(_scan, inputs, kind, part_rows), files))
    fields: list[Any] = []
    for place, name in enumerate(inputs.keep):
        if kind == "parquet":
            fields.append(_one_type(inputs, files, name, [scan.kept[place] for scan in scans]))
            continue
        common = scans[0].kept[place]
        for scan in scans[1:]:
            common = wider(common, scan.kept[place])
        fields.append((name, common))
    if kind == "jsonl" and inputs.keep:
        kinds = tuple(common for _, common in fields)
        fits = [True] * len(kinds)
        for found in mapper(partial(_fits, inputs, kinds), files):
            fits = [one and other for one, other in zip(fits, found, strict=True)]
        fields = [(name, common if good else None) for (name, common), good in zip(fields, fits, strict=True)]
    return scans, [_field(name, common) for name, common in fields]


def _field(name: str, kind: Any) -> Any:
    import pyarrow

    return json_field(name) if kind is None else pyarrow.field(name, kind)


def _one_type(inputs: Inputs, files: Sequence[InputFile], name: str, kinds: Sequence[Any]) -> tuple[str, Any]:
    """The one type of a column of Parquet files; columns of nulls, which have a type of their own, fit to any."""
    from pyarrow import types

    typed = [(file, kind) for file, kind in zip(files, kinds, strict=True) if not types.is_null(kind)]
    for file, kind in typed[1:]:
        if kind != typed[0][1]:
            first = inputs.source(typed[0][0], "parquet").name
            here = inputs.source(file, "parquet").name
            raise InputError(f"{here}: column {name!r} is of type {kind}; in {first} it is of type {typed[0][1]}")
    return name, typed[0][1] if typed else kinds[0]


def _scan(inputs: Inputs, kind: str, part_rows: int, file: InputFile) -> Scan:
    import pyarrow

    source = inputs.source(file, kind)
    try:
        if kind == "parquet":
            with parquet_file(source) as opened:
                text, kept = parquet_types(source, opened, exact=True)
                rows = int(opened.metadata.num_rows)
                if rows and (pyarrow.types.is_null(text) or _nulls(opened, source.text_column) == rows):
                    raise InputError(f"{source.name}: column {source.text_column!r} holds nothing but nulls")
            return Scan(rows, (), tuple(kept[name] for name in inputs.keep))
        spans = list(source.spans(part_rows))
        types: list[Any] = [pyarrow.string()] * len(inputs.keep)
        if kind == "jsonl":
            types = [pyarrow.null()] * len(inputs.keep)
            for columns in _kept_columns(source):
                types = [widened(found, values) for found, values in zip(types, columns, strict=True)]
        return Scan(sum(span.rows for span in spans), tuple(span.offset for span in spans), tuple(types))
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error}") from None


def _nulls(file: Any, column: str) -> int:
    """How many values of a column are null, as far as the file says."""
    place = file.schema_arrow.names.index(column)
    if len(file.schema.names) != len(file.schema_arrow.names):
        return 0  # nested columns: places in the two lists differ
    count = 0
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(place).statistics
        count += statistics.null_count if statistics is not None and statistics.has_null_count else 0
    return count


def _fits(inputs: Inputs, kinds: Sequence[Any], file: InputFile) -> list[bool]:
    """Whether each kept column of a JSON file can be of its type (``None``: it cannot)."""
    fits = [kind is not None for kind in kinds]
    for columns in _kept_columns(inputs.source(file, "jsonl")):
        fits = [good and holds(kind, values) for good, kind, values in zip(fits, kinds, columns, strict=True)]
    return fits


def _kept_columns(source: Source) -> Iterator[list[list[Any]]]:
    """The values of the kept columns, some thousand rows at a time."""
    if not source.keep:
        return
    rows = source.rows()
    while block := list(islice(rows, _ROWS)):
        yield [[row.kept[name] for row in block] for name in source.keep]
