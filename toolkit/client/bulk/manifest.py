"""What is known of a job whose output is a folder of parts: ``_manifest.json`` in that folder.

It is written when the job begins and once more when it is finished. Between the two the parts speak for themselves: one
that stands under its name is complete. So any number of workers, and the one that directs them, may end at any moment.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from toolkit.client.bulk.inputs import InputFile, Inputs, Scan
from toolkit.client.bulk.places import Place
from toolkit.client.bulk.plan import Plan
from toolkit.client.bulk.rows import Source, Span
from toolkit.client.bulk.sinks import vector_types
from toolkit.errors import InputError

__all__ = ["MANIFEST", "SCRATCH", "Manifest", "Part", "table_schema"]

MANIFEST = "_manifest.json"
SCRATCH = "_scratch"  # a folder for what is being written
_FORMAT = 1
_FILE = tuple(field.name for field in fields(InputFile))


class Part(NamedTuple):
    """``span`` of one file, whose first row has the number ``row`` among those of all files."""

    number: int
    file: int
    span: Span
    row: int

    @property
    def name(self) -> str:
        return f"part-{self.number:08}.parquet"

    @property
    def rejected_name(self) -> str:
        return f"_part-{self.number:08}.rejected.jsonl"


@dataclass(frozen=True)
class Manifest:
    """``scans`` has the rows and the parts of each of ``files``; ``schema`` is that of every part. ``rejected``: rows
    without embedding, known when the job is finished."""

    plan: Plan
    part_rows: int
    files: tuple[InputFile, ...]
    scans: tuple[Scan, ...]
    schema: Any
    rejected: int | None = None

    @property
    def finished(self) -> bool:
        return self.rejected is not None

    @cached_property
    def rows(self) -> int:
        return sum(scan.rows for scan in self.scans)

    @cached_property
    def _first_parts(self) -> list[int]:
        return [0, *accumulate(-(-scan.rows // self.part_rows) for scan in self.scans)]

    @cached_property
    def _first_rows(self) -> list[int]:
        return [0, *accumulate(scan.rows for scan in self.scans)]

    @property
    def parts(self) -> int:
        """How many there are."""
        return self._first_parts[-1]

    def part(self, number: int) -> Part:
        file = bisect_right(self._first_parts, number) - 1
        place, scan = number - self._first_parts[file], self.scans[file]
        start = place * self.part_rows
        span = Span(start, min(self.part_rows, scan.rows - start), scan.offsets[place] if scan.offsets else 0)
        return Part(number, file, span, self._first_rows[file] + start)

    def source(self, inputs: Inputs, part: Part) -> Source:
        return inputs.source(self.files[part.file], self.plan.input_format)

    def write(self, output: Place) -> None:
        """Raises `OSError`."""
        content = {
            "format": _FORMAT,
            "finished": self.finished,
            "rows": self.rows,
            "rejected": self.rejected,
            "parts": self.parts,
            "part_rows": self.part_rows,
            "plan": asdict(self.plan),
            "schema": base64.b64encode(self.schema.serialize()).decode(),
            "files": [
                {**asdict(file), "first_row": first, "rows": scan.rows, "offsets": scan.offsets}
                for file, scan, first in zip(self.files, self.scans, self._first_rows, strict=False)
            ],
        }
        (output / MANIFEST).put([json.dumps(content, indent=1).encode()], output / SCRATCH)

    @classmethod
    def read(cls, output: Place) -> Manifest | None:
        """The manifest in a folder; ``None`` if there is none. Raises `InputError`."""
        import pyarrow

        place = output / MANIFEST
        content = place.read()
        if content is None:
            return None
        try:
            saved = json.loads(content)
            if saved["format"] != _FORMAT:
                raise InputError(
                    f"{place} is of format {saved['format']}; supported: {_FORMAT}; "
                    "finish the job with the release that began it, or delete its output"
                )
            return cls(
                Plan.of(saved["plan"]),
                saved["part_rows"],
                tuple(InputFile(*(item[name] for name in _FILE)) for item in saved["files"]),
                tuple(Scan(item["rows"], tuple(item["offsets"]), ()) for item in saved["files"]),
                pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(saved["schema"]))),
                saved["rejected"],
            )
        except (ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
            raise InputError(f"{place} is damaged: {error!r}") from None

    def same_inputs(self, files: Sequence[InputFile], part_rows: int) -> None:
        """Raise `InputError` if a run that goes on would read something else."""
        if part_rows != self.part_rows:
            raise InputError(f"the unfinished run has part_rows {self.part_rows!r}, not {part_rows!r}")
        before = {file.path: file for file in self.files}
        now = {file.path: file for file in files}
        if missing := sorted(before.keys() - now.keys()):
            raise InputError(f"{missing[0]}, an input of the unfinished run, is not among the inputs")
        if new := sorted(now.keys() - before.keys()):
            raise InputError(f"{new[0]} is not an input of the unfinished run")
        for path, file in now.items():
            if replace(file, root=0) != replace(before[path], root=0):
                raise InputError(f"{path} has changed since the unfinished run began")

    def with_roots(self, files: Sequence[InputFile]) -> Manifest:
        """The same, for a run that names its inputs in other words."""
        roots = {file.path: file.root for file in files}
        return replace(self, files=tuple(replace(file, root=roots[file.path]) for file in self.files))


def table_schema(plan: Plan, kept: Sequence[Any], types: Mapping[str, str]) -> Any:
    """The schema of every part. ``types``: the dtype of each output, by name."""
    import pyarrow

    vectors = vector_types(plan)

    def arrow(name: str) -> Any:
        if name in vectors:
            return vectors[name]
        return pyarrow.binary() if types[name] == "string" else pyarrow.from_numpy_dtype(types[name])

    about = {"model": plan.model, "version": plan.version, "signature": plan.signature, "digest": plan.digest}
    columns = [pyarrow.field("row", pyarrow.int64()), pyarrow.field("text", pyarrow.string()), *kept]
    columns += [pyarrow.field(name, arrow(name)) for name in plan.columns]
    metadata = {f"sentence-serving.{name}": str(value) for name, value in about.items() if value is not None}
    return pyarrow.schema(columns, metadata=metadata)
