"""How requests are batched inside a graph: the options.

The scheduler is TensorFlow Serving's own C++ one, behind the op ``BatchFunction`` (see
:mod:`toolkit.encoder.batching`).
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, fields

from toolkit.errors import InputError

__all__ = ["MAX_TOKENS_NODE", "Batching", "queue_name"]

MAX_TOKENS_NODE = "batching_max_tokens"
"""Name of the constant in the graph that holds ``max_tokens`` once more, beside the op's attribute."""

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
