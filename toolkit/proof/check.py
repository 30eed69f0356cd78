"""Exactness: an artifact against the original model, stage by stage; the first stage that diverges is named.

The artifact is reloaded from disk in a fresh process, as a server would, and asked for each text alone and in mixed
batches: neighbours and padding must not change a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.artifact.savedmodel import read_provenance
from toolkit.errors import ArtifactError, InputError
from toolkit.graph.source import open_source
from toolkit.proof.comparison import Bounds, CheckReport
from toolkit.proof.precision import stamped_bounds
from toolkit.proof.process import ArtifactProcess, artifact_process
from toolkit.proof.tasks import PROOFS
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.settings import stamped_settings

if TYPE_CHECKING:
    import keras
    from sentence_transformers.base.model import BaseModel

__all__ = ["check", "prove"]

Progress = Callable[[int, int], None]


def check(
    saved_model: str | Path,
    source: str | Path | BaseModel | keras.Model | Checkpoint,
    *,
    texts: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
) -> CheckReport:
    """Compare a SavedModel (a version directory) with its original; the result says whether they are equal.

    ``texts`` replaces the built-in corpus; ``bounds`` those of the precision that the artifact was exported in, which
    its provenance names, as it does the task, the settings (prompt, cuts, pooling) that the original gets too, and
    the further signatures. ``progress`` is called with (batches done, batches in all).
    Raises ``ArtifactError`` if the SavedModel cannot be loaded or run, ``SourceError`` for the original.
    """
    folder = Path(saved_model)
    if not (folder / "saved_model.pb").is_file():
        raise ArtifactError(f"{folder}: no saved_model.pb; expected a version directory <models>/<name>/<version>")
    if texts is not None and not texts:
        raise InputError("check needs at least one text")
    provenance = read_provenance(folder)
    with artifact_process() as process:
        if isinstance(source, Checkpoint):
            checkpoint = source
        else:
            checkpoint = open_source(
                source,
                task=(provenance or {}).get("task", "embed"),
                trust_remote_code=trust_remote_code,
                settings=stamped_settings(provenance),
            )
        return prove(folder, checkpoint, process, texts=texts, bounds=bounds, progress=progress)


def prove(
    folder: Path,
    checkpoint: Checkpoint,
    process: ArtifactProcess,
    *,
    texts: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """``check`` of an artifact whose original is open, in a process that was started before."""
    provenance = read_provenance(folder)
    proof = PROOFS[checkpoint.task](checkpoint, folder, provenance, texts)
    with ThreadPoolExecutor(1) as pool:  # the original runs while the other process loads and answers
        references = pool.submit(proof.references)
        arrays = process.answers(folder, proof.requests(), progress)
        return proof.compare(references.result(), arrays, bounds or stamped_bounds(provenance))
