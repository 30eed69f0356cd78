"""The bulk recipe: read rows, embed them, write them, remember how far it got."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from toolkit.client.bulk.pairing import Pairing, Refused, too_many
from toolkit.client.bulk.plan import Form, Plan, continued, new_plan
from toolkit.client.bulk.rows import Row, Source
from toolkit.client.bulk.sinks import Batch, Sink, open_sink, sink_format
from toolkit.client.bulk.state import Progress, StateFolder, sync_folder
from toolkit.client.job import Job
from toolkit.client.sync import Client
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE

__all__ = ["MAX_REJECTED", "PATIENCE", "Summary", "bulk_job", "embed_file", "stream"]

_CHECKPOINT_SECONDS = 2.0
_CHECKPOINT_ROWS = 65536
PATIENCE = 300.0
MAX_REJECTED = 1000


@dataclass(frozen=True)
class Summary:
    """``rows`` of input done, ``rejected`` of them without embedding (their reasons are in ``side_file``).
    ``already_done``: there was nothing to do; ``rows`` is then 0, ``rejected`` that of the run that did it."""

    rows: int
    rejected: int
    target: Path
    side_file: Path | None
    already_done: bool = False


def embed_file(
    client: Client,
    source: Source,
    target: Path,
    *,
    signature: str = DEFAULT_SIGNATURE,
    resume: bool = False,
    patience: float = PATIENCE,
    max_rejected: int = MAX_REJECTED,
    progress: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Embed all of ``source`` into ``target`` (``.npy``, ``.jsonl``, ``.parquet``, ``.safetensors``).

    Until it is complete, everything lies in ``<target>.partial``; a run that was stopped, or killed, is continued with
    ``resume=True``, and every row ends up exactly once in the target or, with the reason, in
    ``<target>.rejected.jsonl``. The model version is settled at the start and never mixed. ``patience``: how many
    seconds a server may be away. ``progress`` is told the number of rows done.

    Raises `InputError` for unusable input or a changed one, `RejectedError` after ``max_rejected`` rejected rows, and
    other `ClientError` classes when the server stays away or lacks the model.
    """
    kind = sink_format(target)
    folder = target.with_name(target.name + ".partial")
    side_file = target.with_name(target.name + ".rejected.jsonl")
    if target.exists() and not folder.exists():
        if resume:
            return _done_before(target, side_file)
        raise InputError(f"{target} exists already")
    if folder.exists() and not resume and (folder / "state.json").exists():
        raise InputError(f"{folder} holds an unfinished run: continue it by resuming, or delete it")
    fresh = not folder.exists()
    state = StateFolder(folder)
    run: _Run | None = None
    try:
        saved = state.load()
        if target.exists() and not (saved and saved[1].finished):
            raise InputError(f"{target} exists already, and {folder} is not complete")
        plan = _plan(client, source, signature, kind, saved[0] if saved else None)
        run = _Run(client, source, plan, saved[1] if saved else Progress(), state, max_rejected, progress)
        run.go(patience)
        return run.finish(target, side_file)
    except BaseException:
        if fresh and not (run and run.rows):  # there is nothing to continue
            state.remove()
        raise
    finally:
        if run is not None:
            run.close()
        state.close()


def _done_before(target: Path, side_file: Path) -> Summary:
    rejected = side_file.read_bytes().count(b"\n") if side_file.exists() else 0
    return Summary(0, rejected, target, side_file if rejected else None, already_done=True)


def _plan(client: Client, source: Source, signature: str, kind: str, before: Plan | None) -> Plan:
    """What this run will do; on resuming, the same as before, or an error that says what differs."""
    spec = client.session.spec
    form = Form(kind, source.format, source.text_column, source.keep)
    if before is not None:
        version = spec.version if spec.version is not None else before.version
        return continued(before, form, model=spec.model, version=version, signature=signature)
    return new_plan(client.metadata(), form, model=spec.model, signature=signature, address=str(client.session.address))


def bulk_job(client: Client, rows: Iterator[bytes], plan: Plan, patience: float) -> Job:
    session = replace(client.session, retry=replace(client.session.retry, patience=patience))
    job = session.text_job(rows, plan.signature, plan.outputs, read=plan.answered, version=plan.version, isolate=True)
    return client.run(job)


def stream(
    client: Client, source: Source, signature: str, patience: float = PATIENCE
) -> Iterator[tuple[Batch, list[tuple[int, str]]]]:
    """Embed without a target: batches as they come, and (row number, reason) of rows that have no embedding."""
    plan = _plan(client, source, signature, "jsonl", None)
    pairing = Pairing(source.rows(), 0)
    for piece in client.pieces(bulk_job(client, pairing.texts(), plan, patience)):
        batch, refused = pairing.batch(piece)
        yield batch, [(item.row, item.reason) for item in refused]
    batch, refused = pairing.rest()
    yield batch, [(item.row, item.reason) for item in refused]


class _Run:
    """One run into a target, from wherever the last one stopped."""

    def __init__(
        self,
        client: Client,
        source: Source,
        plan: Plan,
        before: Progress,
        state: StateFolder,
        max_rejected: int,
        report: Callable[[int], None],
    ) -> None:
        self._client, self._source, self._plan, self._state = client, source, plan, state
        self._max_rejected, self._report = max_rejected, report
        self._done = before
        self._digest = hashlib.blake2b(digest_size=16)
        self._sink: Sink = open_sink(plan, state.path)
        self._side: BinaryIO = (state.path / "rejected.jsonl").open("ab")
        if not before.finished:
            self._sink.restore(before.position)
            self._side.truncate(before.rejected_bytes)
        self._midway = False
        self._saved_at = time.monotonic()
        self._saved_rows = before.rows

    def go(self, patience: float) -> None:
        """Embed what is left. Whatever ends it early, what is done by then is saved."""
        if self._done.finished:
            return
        rows = self._source.rows(exact=self._plan.output_format == "parquet")
        self._skip(rows)
        pairing = Pairing(rows, self._done.rows)
        self._report(self._done.rows)
        try:
            for piece in self._client.pieces(bulk_job(self._client, pairing.texts(), self._plan, patience)):
                self._take(*pairing.batch(piece))
                if self._due():
                    self._save()
            self._take(*pairing.rest())
        except OSError as error:  # no room on the disk: what was written last may be incomplete, so nothing is saved
            raise InputError(f"{self._state.path} cannot be written: {error.strerror}") from None
        except BaseException:
            if not self._midway:  # else the last checkpoint is what can be trusted
                self._save()
            raise
        self._save(finished=True)

    def finish(self, target: Path, side_file: Path) -> Summary:
        """Put the results in place; every step can be done again after a crash."""
        rejected = self._done.rejected
        if not target.exists():
            self._sink.finish(self._done.rows).rename(target)
        self.close()
        refused = self._state.path / "rejected.jsonl"
        if refused.exists() and refused.stat().st_size:
            refused.rename(side_file)
        elif not rejected:
            side_file.unlink(missing_ok=True)  # that of an output that was here before
        sync_folder(target.parent)
        self._state.remove()
        return Summary(self._done.rows, rejected, target, side_file if rejected else None)

    @property
    def rows(self) -> int:
        """Rows of input done."""
        return self._done.rows

    def close(self) -> None:
        self._sink.close()
        self._side.close()

    def _skip(self, rows: Iterator[Row]) -> None:
        """Read over the rows that are done, making sure that they are the same ones."""
        for _ in range(self._done.rows):
            row = next(rows, None)
            if row is None:
                raise InputError(f"{self._source.name} has fewer rows than the unfinished run has done")
            self._hash(row)
        if self._done.rows and self._digest.hexdigest() != self._done.digest:
            raise InputError(f"{self._source.name} is not the input of the unfinished run: its first rows differ")

    def _hash(self, row: Row) -> None:
        data = b"\xff" if row.text is None else row.text.encode()
        self._digest.update(len(data).to_bytes(8, "little") + data)

    def _take(self, batch: Batch, refused: list[Refused]) -> None:
        self._midway = True
        position = self._sink.write(batch)
        size = self._done.rejected_bytes
        for item in refused:
            size += self._side.write(item.line())
        for row in batch.rows:
            self._hash(row)
        self._done = Progress(
            self._done.rows + len(batch.rows),
            self._digest.hexdigest(),
            position,
            self._done.rejected + len(refused),
            size,
        )
        self._midway = False
        self._report(self._done.rows)
        if self._done.rejected > self._max_rejected:
            raise too_many(self._done.rejected, self._max_rejected, refused[-1], self._plan.model)

    def _due(self) -> bool:
        rows = self._done.rows - self._saved_rows
        return rows >= _CHECKPOINT_ROWS or time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS

    def _save(self, finished: bool = False) -> None:
        position = self._sink.sync()
        self._side.flush()
        os.fsync(self._side.fileno())
        self._done = replace(self._done, position=position, finished=finished)
        self._state.save(self._plan, self._done)
        self._saved_at, self._saved_rows = time.monotonic(), self._done.rows
