"""How requests are batched inside a graph: the options, and how they are read and changed in an artifact.

The scheduler is TensorFlow Serving's own C++ one, behind the op ``BatchFunction`` (see
:mod:`toolkit.encoder.batching`). Its options are attributes of that op, so they can be changed in ``saved_model.pb``
without the checkpoint.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from toolkit.compatibility import read_saved_model, saved_model_nodes
from toolkit.errors import ArtifactError, InputError

__all__ = ["MAX_TOKENS_NODE", "Batching", "queue_name", "read_batching", "tune_artifact"]

MAX_TOKENS_NODE = "batching_max_tokens"
"""Name of the constant in the graph that holds ``max_tokens`` once more, beside the op's attribute."""

_ATTRIBUTES = {
    "max_tokens": "max_batch_size",
    "timeout_micros": "batch_timeout_micros",
    "threads": "num_batch_threads",
    "max_queued_batches": "max_enqueued_batches",
}
_LEAST = {"max_tokens": 1, "timeout_micros": 0, "threads": 1, "max_queued_batches": 1}
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Batching:
    """How requests are batched inside the graph.

    ``max_tokens``: tokens in a batch, special tokens included and one more for each text; a larger request is encoded
    by itself at once, and no text is ever cut. ``timeout_micros``: how long a batch waits for more requests while a
    thread is free (0: not at all; batches form while the threads are busy). ``threads``: batches that are encoded at
    one time. ``max_queued_batches``: full batches that may wait; callers beyond that get UNAVAILABLE.

    Raises :class:`~toolkit.errors.InputError` for a number that is out of range.
    """

    max_tokens: int = 1024
    timeout_micros: int = 0
    threads: int = 2
    max_queued_batches: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), _LEAST[field.name]
            if not least <= value <= _MOST:
                raise InputError(f"batching.{field.name} {value}: expected {least} to {_MOST}")

    def to_json(self) -> dict[str, int]:
        """The options by name."""
        return asdict(self)


def queue_name() -> str:
    """A name that no other artifact's queue has.

    Where several artifacts share one TensorFlow runtime (a Python process that loads them; not TF Serving, which keeps
    them apart), the first queue of a name serves all that ask for it, with its options.
    """
    return f"sentence_serving_{secrets.token_hex(8)}"


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
        raise ArtifactError(f"{folder}: was exported without batching inside the graph; export it with --batching")
    options = replace(found, **changes)
    queue = queue_name().encode()
    for node in _batch_functions(model):
        node.attr["shared_name"].s = queue
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
