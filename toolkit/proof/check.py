"""Exactness: an artifact against the original model, stage by stage; the first stage that diverges is named.

The artifact is reloaded from disk in a fresh process, as a server would, and asked for each text alone and in mixed
batches: neighbours and padding must not change a row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.artifact.savedmodel import read_provenance
from toolkit.errors import ArtifactError, InputError
from toolkit.graph.source import open_source
from toolkit.proof.comparison import Arrays, Bounds, CheckReport
from toolkit.proof.precision import stamped_bounds
from toolkit.proof.tasks import PROOFS
from toolkit.source.checkpoint import Checkpoint
from toolkit.source.settings import stamped_settings

if TYPE_CHECKING:
    import keras
    from sentence_transformers.base.model import BaseModel

__all__ = ["check"]

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
    if bounds is None:
        bounds = stamped_bounds(provenance)
    task = (provenance or {}).get("task", "embed")
    if isinstance(source, Checkpoint):
        checkpoint = source
    else:
        settings = stamped_settings(provenance)
        checkpoint = open_source(source, task=task, trust_remote_code=trust_remote_code, settings=settings)
    proof = PROOFS[checkpoint.task](checkpoint, folder, provenance, texts)
    with ThreadPoolExecutor(1) as pool:  # the original runs while the other process starts and loads
        references = pool.submit(proof.references)
        arrays = _run_artifact(folder, {"batches": proof.requests()}, progress)
        return proof.compare(references.result(), arrays, bounds)


def _run_artifact(folder: Path, request: dict[str, Any], progress: Progress | None) -> Arrays:
    # A file without a name, which nothing can leave behind: batches go to the process in it, and arrays come back.
    with tempfile.TemporaryFile() as exchange:
        exchange.write(json.dumps(request).encode())
        exchange.seek(0)
        # -I would hide the caller's path; the working directory must not decide which toolkit runs, so -P.
        command = [sys.executable, "-P", "-m", "toolkit.proof.artifact_runner", str(folder.resolve())]
        process = subprocess.Popen(
            command,
            stdin=exchange,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_child_environment(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
        drain.start()
        try:
            for line in process.stdout:
                if progress is not None and line.strip().isdigit():
                    progress(int(line), len(request["batches"]))
            process.wait()
        finally:
            if process.poll() is None:  # interrupted
                process.kill()
                process.wait()
            process.stdout.close()
            drain.join()
            process.stderr.close()
        if process.returncode != 0:
            reason = " ".join("".join(errors).split()[-60:]) or f"exit status {process.returncode}"
            raise ArtifactError(f"{folder}: the SavedModel cannot be loaded or run: {reason}")
        exchange.seek(0)
        with np.load(exchange) as archive:
            return {key: archive[key] for key in archive.files}


def _child_environment() -> dict[str, str]:
    """The environment with the directory this package was imported from on the module path."""

    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root + (os.pathsep + inherited if inherited else "")}
