"""From many files to a folder of parts, by any number of workers: what leads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TextIO, TypeVar

from toolkit.client.bulk.encoder import Encoder
from toolkit.client.bulk.inputs import InputFile, Inputs, Mapper, scan_all
from toolkit.client.bulk.manifest import MANIFEST, SCRATCH, Manifest, Part, table_schema
from toolkit.client.bulk.pairing import too_many
from toolkit.client.bulk.part import PartResult, Work, parquet_bytes
from toolkit.client.bulk.places import Place, file_errors
from toolkit.client.bulk.plan import Form, continued, new_plan
from toolkit.client.bulk.run import MAX_REJECTED, PATIENCE
from toolkit.client.bulk.state import lock_folder
from toolkit.errors import InputError, ModelNotFoundError
from toolkit.signatures import DEFAULT_SIGNATURE

__all__ = ["PART_ROWS", "FolderSummary", "Progress", "Runner", "embed_folder"]

PART_ROWS = 20_000
T = TypeVar("T")
U = TypeVar("U")

_LOOK = 0.5  # seconds between looks for another's manifest


@dataclass(frozen=True)
class Progress:
    """``rows`` of ``total`` done, ``rejected`` of them without embedding; ``troubles`` are new ones, with the worker
    that had them."""

    rows: int
    total: int
    rejected: int
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderSummary:
    """``rows`` done by this run or before it, ``rejected`` of them without embedding. ``side_file``: their reasons.
    ``finished``: nothing is left to do, by anyone; ``already_done``: there was nothing to do."""

    rows: int
    rejected: int
    target: Place
    side_file: Place | None
    finished: bool
    already_done: bool = False


class Runner(Protocol):
    """Who does the work. ``leads``: whether it begins the job, or waits for another to begin it."""

    @property
    def leads(self) -> bool: ...
    @property
    def cpus(self) -> int: ...

    def map(self, function: Callable[[T], U], items: Sequence[T], /) -> Iterator[U]:
        """Carry out a function for each item, somewhere, and yield the results in order. What it raises is raised."""
        ...

    def open(self, encoder: Encoder) -> AbstractContextManager[None]:
        """Everything that the work needs is there within the context. Raises `ToolkitError` if it is not."""
        ...

    def share(self, numbers: Sequence[int]) -> list[int]:
        """The parts that are this runner's."""
        ...

    def run(self, work: Work, numbers: Sequence[int]) -> Iterator[PartResult]:
        """Make the parts, in any order; raises the first error that no repetition cures."""
        ...


def embed_folder(
    encoder: Encoder,
    inputs: Inputs,
    output: Place,
    runner: Runner,
    *,
    signature: str = DEFAULT_SIGNATURE,
    resume: bool = False,
    patience: float = PATIENCE,
    max_rejected: int = MAX_REJECTED,
    part_rows: int = PART_ROWS,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> FolderSummary:
    """Embed all of ``inputs`` into Parquet files in the folder ``output``, each of ``part_rows`` input rows.

    A part is there when it is complete; a run that was stopped or killed is continued with ``resume=True``, which
    makes the parts that are missing; a runner that does not lead joins what the leader has begun, without ``resume``.
    Every row ends up once in a part or, with the reason, in ``<output>.rejected.jsonl``. The model version is settled
    at the start and never mixed. ``patience``: how many seconds a server may be away.

    Raises `InputError` for unusable or changed inputs, `RejectedError` after ``max_rejected`` rejected rows, and what
    the model and the runner raise. Nothing is written before inputs, model and workers are known to be there.
    """
    if part_rows < 1:
        raise InputError(f"{part_rows} rows a part; it must be at least 1")
    before = _before(output, resume or not runner.leads)
    if before is not None and before.finished:
        side_file = output.beside(".rejected.jsonl") if before.rejected else None
        return FolderSummary(before.rows, before.rejected or 0, output, side_file, True, already_done=True)
    kind, files = inputs.listed()
    form = Form("parquet", kind, inputs.text_column, inputs.keep)
    with runner.open(encoder), _locked(output, runner.leads) as begin:
        if before is None and not runner.leads:
            before = _another(output, patience)
        if before is None:
            manifest = _begun(encoder, inputs, files, form, signature, part_rows, runner.map)
            begin()
            with file_errors(output, "written"):
                manifest.write(output)
        else:
            manifest = _continued(before, encoder, files, form, signature, part_rows, output)
        work = Work(encoder, inputs, output, patience, max_rejected, runner.cpus)
        rows, rejected = _run(manifest, work, runner, progress)
        if len(_standing(output)) < manifest.parts:  # other shards are still at work
            return FolderSummary(rows, rejected, output, None, finished=False)
        return _finish(manifest, output)


def _before(output: Place, resume: bool) -> Manifest | None:
    """What an earlier run left. Raises `InputError` for an output that is not to be touched."""
    manifest = Manifest.read(output)
    if manifest is None:
        if output.exists() and (output.is_file() or output.files()):
            raise InputError(f"{output} exists already")
        return None
    if not resume:
        if manifest.finished:
            raise InputError(f"{output} exists already")
        raise InputError(f"{output} holds an unfinished run: continue it by resuming, or delete it")
    return manifest


@contextmanager
def _locked(output: Place, leads: bool) -> Iterator[Callable[[], None]]:
    """One leader at a time, where the output is a local folder. The folder is made when what is yielded is called, or
    now if it exists."""
    locks: list[TextIO] = []

    def lock() -> None:
        if leads and output.local is not None and not locks:
            with file_errors(output, "written"):
                locks.append(lock_folder(output.local, "_lock"))

    try:
        if output.local is not None and output.local.is_dir():
            lock()
        yield lock
    finally:
        for held in locks:
            held.close()


def _another(output: Place, patience: float) -> Manifest:
    """The manifest that the leading shard writes, once it is there."""
    end = time.monotonic() + patience
    while (manifest := Manifest.read(output)) is None:
        if time.monotonic() >= end:
            raise InputError(f"{output / MANIFEST} is not there after {patience:g} seconds; shard 0 writes it")
        time.sleep(_LOOK)
    return manifest


def _begun(
    encoder: Encoder,
    inputs: Inputs,
    files: list[InputFile],
    form: Form,
    signature: str,
    part_rows: int,
    mapper: Mapper,
) -> Manifest:
    metadata = encoder.metadata(None)
    plan = new_plan(
        metadata, form, model=encoder.model, signature=signature, address=encoder.name, digest=encoder.digest
    )
    scans, kept = scan_all(inputs, form.input_format, files, part_rows, mapper)
    types = {name: tensor.dtype for name, tensor in metadata.signatures[signature].outputs.items()}
    return Manifest(plan, part_rows, tuple(files), tuple(scans), table_schema(plan, kept, types))


def _continued(
    before: Manifest,
    encoder: Encoder,
    files: list[InputFile],
    form: Form,
    signature: str,
    part_rows: int,
    output: Place,
) -> Manifest:
    version = encoder.version if encoder.version is not None else before.plan.version
    continued(before.plan, form, model=encoder.model, version=version, signature=signature, digest=encoder.digest)
    try:
        encoder.metadata(version)
    except ModelNotFoundError as error:
        raise InputError(
            f"{output} was begun with version {version} of model {encoder.model}, which is not there any more, and "
            f"versions are not mixed: {error.message}"
        ) from None
    before.same_inputs(files, part_rows)
    return before.with_roots(files)


def _standing(output: Place) -> set[int]:
    """The numbers of the parts that are there."""
    names = (entry.place.name for entry in output.files())
    return {int(name[5:-8]) for name in names if name.startswith("part-") and name.endswith(".parquet")}


def _run(manifest: Manifest, work: Work, runner: Runner, progress: Callable[[Progress], None]) -> tuple[int, int]:
    mine = runner.share(range(manifest.parts))
    standing = _standing(work.output)
    before = [part for part in map(manifest.part, mine) if part.number in standing]
    rows = sum(part.span.rows for part in before)
    rejected = sum(content.count(b"\n") for content in _reasons(work.output, before))
    total = sum(manifest.part(number).span.rows for number in mine)
    progress(Progress(rows, total, rejected))
    for result in runner.run(work, [number for number in mine if number not in standing]):
        rows, rejected = rows + result.rows, rejected + result.rejected
        progress(Progress(rows, total, rejected, result.troubles))
        if rejected > work.max_rejected:
            raise too_many(rejected, work.max_rejected, None, manifest.plan.model)
    return rows, rejected


def _reasons(output: Place, parts: Iterable[Part]) -> Iterator[bytes]:
    """The rejected rows of each part that has any, as lines of JSON, in the order of the parts."""
    names = {entry.place.name for entry in output.files(hidden=True)}
    for part in parts:
        if part.rejected_name in names:
            yield (output / part.rejected_name).read() or b""


def _finish(manifest: Manifest, output: Place) -> FolderSummary:
    """Put the rest in place; every step can be done again after a crash, and by two at a time."""
    parts = [manifest.part(number) for number in range(manifest.parts)]
    scratch, side_file = output / SCRATCH, output.beside(".rejected.jsonl")
    rejected = 0

    def counted() -> Iterator[bytes]:
        nonlocal rejected
        for content in _reasons(output, parts):
            rejected += content.count(b"\n")
            yield content

    with file_errors(output, "written"):
        if any(True for _ in _reasons(output, parts)):
            side_file.put(counted(), scratch)
        else:
            side_file.remove_file()  # that of an output that was here before
        if not parts:  # for readers, which take the columns from a file
            (output / "part-00000000.parquet").put([parquet_bytes(manifest.schema.empty_table())], scratch)
        replace(manifest, rejected=rejected).write(output)
        # What killed workers were writing. In a bucket the folder may have gone with the last file.
        for entry in scratch.files(hidden=True) if scratch.exists() else []:
            if "part-" in entry.place.name:
                entry.place.remove_file()
    return FolderSummary(manifest.rows, rejected, output, side_file if rejected else None, finished=True)
