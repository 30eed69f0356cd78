"""One part of a job: rows of one file in, one Parquet file out, which is there when all of it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from toolkit.client.bulk.columns import parquet_module, typed
from toolkit.client.bulk.encoder import Embed, Encoder
from toolkit.client.bulk.inputs import Inputs
from toolkit.client.bulk.manifest import SCRATCH, Manifest, Part
from toolkit.client.bulk.pairing import Pairing, Refused, too_many
from toolkit.client.bulk.places import Place
from toolkit.client.bulk.sinks import Batch, batch_table
from toolkit.errors import InputError

__all__ = ["PartResult", "Work", "Worker", "parquet_bytes"]

_ATTEMPTS = 3  # at a part, where a file system fails
_WAIT = 2.0  # seconds before the second; twice as long before the third


@dataclass(frozen=True)
class Work:
    """All that a worker is told, besides the manifest, which it reads in ``output``."""

    encoder: Encoder
    inputs: Inputs
    output: Place
    patience: float
    max_rejected: int
    cpus: int


@dataclass(frozen=True)
class PartResult:
    """A part that stands: its rows, how many of them have no embedding, and what went wrong on the way."""

    number: int
    rows: int
    rejected: int
    troubles: tuple[str, ...] = ()


class Worker:
    """Embeds parts, one after the other, with a model that is made ready once. Close it, or use it in ``with``."""

    def __init__(self, work: Work) -> None:
        manifest = Manifest.read(work.output)
        if manifest is None:
            raise InputError(f"{work.output} has no manifest; is it one folder for all workers?")
        self._manifest = manifest.with_roots(work.inputs.listed()[1])
        self._work = work
        self._stack = ExitStack()
        self._embed: Embed | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the model's connections or session."""
        self._stack.close()

    def embed(self, number: int) -> PartResult:
        """Make part ``number``, unless it stands already.

        A file system's failures are met by trying again. Raises `InputError` for an input that has changed or an
        output that cannot be written, `RejectedError` for more rejected rows than allowed, and what the model raises.
        """
        part = self._manifest.part(number)
        troubles: list[str] = []
        while True:
            try:
                return self._attempt(part, tuple(troubles))
            except OSError as error:
                troubles.append(f"part {number}, attempt {len(troubles) + 1}: {error}")
                if len(troubles) == _ATTEMPTS:
                    raise InputError(f"{self._work.output}: {troubles[-1]}") from None
                time.sleep(_WAIT * 2 ** (len(troubles) - 1))

    def _attempt(self, part: Part, troubles: tuple[str, ...]) -> PartResult:
        import pyarrow

        output, rejected = self._work.output, self._work.output / part.rejected_name
        if (output / part.name).exists():  # made by a worker that did not live to say so
            return PartResult(part.number, part.span.rows, (rejected.read() or b"").count(b"\n"), troubles)
        tables, refused = self._rows(part)
        if refused:
            rejected.put((item.line() for item in refused), output / SCRATCH)
        else:
            rejected.remove_file()  # an earlier attempt's
        schema = self._manifest.schema
        table = pyarrow.concat_tables(tables) if tables else schema.empty_table()
        (output / part.name).put([parquet_bytes(table.cast(schema))], output / SCRATCH)
        return PartResult(part.number, part.span.rows, len(refused), troubles)

    def _rows(self, part: Part) -> tuple[list[Any], list[Refused]]:
        source = self._manifest.source(self._work.inputs, part)
        pairing = Pairing(source.rows(exact=True, span=part.span), part.row)
        tables: list[Any] = []
        refused: list[Refused] = []
        rows = 0

        def take(batch: Batch, problems: Sequence[Refused]) -> None:
            nonlocal rows
            rows += len(batch.rows)
            table = batch_table(batch)
            if table is not None:
                tables.append(typed(table, self._manifest.schema))
            refused.extend(problems)
            if len(refused) > self._work.max_rejected:
                raise too_many(len(refused), self._work.max_rejected, refused[-1], self._manifest.plan.model)

        for piece in self._model()(pairing.texts()):
            take(*pairing.batch(piece))
        take(*pairing.rest())
        if rows != part.span.rows:
            raise InputError(f"{source.name} has changed since the run began: {rows} rows where {part.span.rows} were")
        return tables, refused

    def _model(self) -> Embed:
        if self._embed is None:
            work = self._work
            opened = work.encoder.open(self._manifest.plan, work.patience, work.cpus)
            self._embed = self._stack.enter_context(opened)
        return self._embed


def parquet_bytes(table: Any) -> Any:
    """A table as a Parquet file, in memory."""
    import pyarrow

    buffer = pyarrow.BufferOutputStream()
    parquet_module().write_table(table, buffer)
    return buffer.getvalue()
