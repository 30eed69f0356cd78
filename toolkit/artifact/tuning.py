"""How an artifact batches requests: read, and changed without the checkpoint.

The options of :class:`~toolkit.encoder.batching_options.Batching` are attributes of the op ``BatchFunction``, so they
can be changed in ``saved_model.pb``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.artifact.compatibility import read_saved_model, saved_model_nodes
from toolkit.encoder.batching_options import MAX_TOKENS_NODE, Batching, queue_name
from toolkit.errors import ArtifactError, InputError

__all__ = ["read_batching", "tune_artifact"]

_ATTRIBUTES = {
    "max_tokens": "max_batch_size",
    "timeout_micros": "batch_timeout_micros",
    "threads": "num_batch_threads",
    "max_queued_batches": "max_enqueued_batches",
}


def read_batching(model: Any) -> Batching | None:
    """The options in a parsed ``saved_model.pb``; ``None`` if its graph does not batch by tokens."""
    if not any(node.name == MAX_TOKENS_NODE for node in saved_model_nodes(model)):
        return None
    for node in _batch_functions(model):
        return Batching(**{name: node.attr[attribute].i for name, attribute in _ATTRIBUTES.items()})
    return None


def tune_artifact(saved_model: str | Path, **changes: int) -> Batching:
    """Change options of :class:`Batching`, by name, in a version directory; return what is set now.

    ``saved_model.pb`` is replaced in one step; a server that has loaded the version keeps what it has until it loads it
    anew. Raises ``InputError`` for an unknown name or number, ``ArtifactError`` if the artifact is damaged or was
    exported without batching.
    """
    from tensorflow.python.saved_model import fingerprinting_utils

    folder = Path(saved_model)
    unknown = sorted(set(changes) - set(_ATTRIBUTES))
    if unknown:
        raise InputError(f"batching.{unknown[0]}: not an option; there are {', '.join(_ATTRIBUTES)}")
    model = read_saved_model(folder)
    found = read_batching(model)
    if found is None:
        reason = "was exported without batching inside the graph; export it with --batching"
        raise ArtifactError(f"{folder}: {reason} (a StaticEmbedding never has it)")
    options = replace(found, **changes)
    queues: dict[bytes, bytes] = {}  # of each of several encoders its own
    for node in _batch_functions(model):
        node.attr["shared_name"].s = queues.setdefault(node.attr["shared_name"].s, queue_name().encode())
        for name, attribute in _ATTRIBUTES.items():
            node.attr[attribute].i = getattr(options, name)
    for node in saved_model_nodes(model):
        if node.name == MAX_TOKENS_NODE:
            node.attr["value"].tensor.int_val[:] = [options.max_tokens]
    path = folder / "saved_model.pb"
    temporary = folder / f".saved_model.{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error
    fingerprinting_utils.write_fingerprint(str(folder))
    return options


def _batch_functions(model: Any) -> Iterator[Any]:
    return (node for node in saved_model_nodes(model) if node.op == "BatchFunction")
