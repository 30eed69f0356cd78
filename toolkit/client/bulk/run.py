"""The bulk recipe: read rows, embed them, write them, remember how far it got."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from toolkit.client.bulk.rows import Row, Source
from toolkit.client.bulk.sinks import Batch, Sink, open_sink, sink_format
from toolkit.client.bulk.state import Plan, Progress, StateFolder, sync_folder
from toolkit.client.job import Job, Piece
from toolkit.client.sync import Client
from toolkit.errors import InputError, RequestError, SignatureError
from toolkit.signatures import DEFAULT_SIGNATURE

__all__ = ["Summary", "embed_file", "stream"]

_CHECKPOINT_SECONDS = 2.0
_CHECKPOINT_ROWS = 65536
PATIENCE = 300.0
MAX_REJECTED = 1000


@dataclass(frozen=True)
class Summary:
    """``rows`` of input done, ``rejected`` of them without embedding (their reasons are in ``side_file``)."""

    rows: int
    rejected: int
    target: Path
    side_file: Path | None
    already_done: bool = False


@dataclass(frozen=True)
class _Refused:
    row: int
    text: str | None
    reason: str


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

    Raises `InputError` for unusable input or a changed one, `RequestError` after ``max_rejected`` rejected rows, and
    other `ClientError` classes when the server stays away or lacks the model.
    """
    kind = sink_format(target)
    folder = target.with_name(target.name + ".partial")
    side_file = target.with_name(target.name + ".rejected.jsonl")
    if target.exists() and not folder.exists():
        if resume:
            return Summary(0, 0, target, side_file if side_file.exists() else None, already_done=True)
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


def _plan(client: Client, source: Source, signature: str, kind: str, before: Plan | None) -> Plan:
    """What this run will do; on resuming, the same as before, or an error that says what differs."""
    spec = client.session.spec
    if before is not None:
        wanted = replace(
            before,
            model=spec.model,
            version=spec.version if spec.version is not None else before.version,
            signature=signature,
            output_format=kind,
            input_format=source.format,
            text_column=source.text_column,
            keep=source.keep,
        )
        for name, value in vars(wanted).items():
            if value != getattr(before, name):
                raise InputError(f"the unfinished run has {name} {getattr(before, name)!r}, not {value!r}")
        return before
    metadata = client.metadata()
    info = metadata.signatures.get(signature)
    address = str(client.session.address)
    if info is None:
        names = ", ".join(metadata.signatures)
        raise SignatureError(
            f"the model has no signature {signature!r}; it has: {names}", address=address, model=spec.model
        )
    tensor = info.outputs.get("embedding")
    if list(info.inputs) != ["text"] or tensor is None or not tensor.shape or tensor.shape[-1] is None:
        sides = [", ".join(map(str, side.values())) for side in (info.inputs, info.outputs)]
        raise SignatureError(
            f"signature {signature!r} is not text to embedding: it takes {sides[0]} and gives {sides[1]}",
            address=address,
            model=spec.model,
        )
    beside = tuple(name for name, item in info.outputs.items() if item.shape is not None and len(item.shape) == 1)
    outputs = ("embedding", *beside) if kind in ("jsonl", "parquet") else ("embedding",)
    clash = set(source.keep) & {"row", "text", *outputs}
    if clash and kind in ("jsonl", "parquet"):
        raise InputError(f"column {', '.join(sorted(clash))} cannot be kept: the output has one of that name")
    dtype = "float32" if tensor.dtype.startswith(("float", "bfloat")) else tensor.dtype
    return Plan(
        spec.model, metadata.version, signature, outputs, tensor.shape[-1], dtype,
        kind, source.format, source.text_column, source.keep,
    )  # fmt: skip


def _bulk_job(client: Client, rows: Iterator[bytes], plan: Plan, patience: float) -> Job:
    session = replace(client.session, retry=replace(client.session.retry, patience=patience))
    return client.run(session.text_job(rows, plan.signature, plan.outputs, version=plan.version, isolate=True))


class _Pairing:
    """Keeps the rows that were read until their pieces arrive, so that each vector meets its own row."""

    def __init__(self, rows: Iterator[Row], start: int) -> None:
        self._rows = rows
        self._waiting: deque[Row] = deque()
        self._start = start

    def texts(self) -> Iterator[bytes]:
        for row in self._rows:
            self._waiting.append(row)
            if row.text is not None:
                yield row.text.encode()

    def batch(self, piece: Piece) -> tuple[Batch, list[_Refused]]:
        """The rows up to the piece's last one, unusable ones between them included."""
        rows: list[Row] = []
        places: list[int] = []
        refused: list[_Refused] = []
        left = piece.stop - piece.start
        while left:
            row = self._waiting.popleft()
            number = self._start + len(rows)
            if row.text is None:
                refused.append(_Refused(number, None, row.problem or ""))
            elif piece.error is not None:
                refused.append(_Refused(number, row.text, piece.error.message))
            usable = row.text is not None and piece.error is None
            places.append(piece.stop - piece.start - left if usable else -1)
            left -= row.text is not None
            rows.append(row)
        return self._made(rows, places, piece), refused

    def rest(self) -> tuple[Batch, list[_Refused]]:
        """Unusable rows behind the last usable one."""
        rows = list(self._waiting)
        self._waiting.clear()
        refused = [_Refused(self._start + i, None, row.problem or "") for i, row in enumerate(rows)]
        return self._made(rows, [-1] * len(rows), None), refused

    def _made(self, rows: list[Row], places: list[int], piece: Piece | None) -> Batch:
        outputs = piece.value if piece is not None and piece.error is None else {}
        batch = Batch(self._start, rows, places, outputs)
        self._start += len(rows)
        return batch


def stream(
    client: Client, source: Source, signature: str, patience: float = PATIENCE
) -> Iterator[tuple[Batch, list[tuple[int, str]]]]:
    """Embed without a target: batches as they come, and (row number, reason) of rows that have no embedding."""
    plan = _plan(client, source, signature, "jsonl", None)
    pairing = _Pairing(source.rows(), 0)
    for piece in client.pieces(_bulk_job(client, pairing.texts(), plan, patience)):
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
        self._sink: Sink = open_sink(plan.output_format, state.path, plan.dim, plan.dtype)
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
        pairing = _Pairing(rows, self._done.rows)
        self._report(self._done.rows)
        try:
            for piece in self._client.pieces(_bulk_job(self._client, pairing.texts(), self._plan, patience)):
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

    def _take(self, batch: Batch, refused: list[_Refused]) -> None:
        self._midway = True
        position = self._sink.write(batch)
        size = self._done.rejected_bytes
        for item in refused:
            line = json.dumps(vars(item), ensure_ascii=False).encode() + b"\n"
            size += self._side.write(line)
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
            last = refused[-1]
            raise RequestError(
                f"{self._done.rejected} rows cannot be embedded, more than the {self._max_rejected} allowed; "
                f"the last is row {last.row}: {last.reason}",
                model=self._plan.model,
            )

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
