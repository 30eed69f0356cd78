"""The tables of a compiled tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.cache import Arrays

__all__ = ["CompiledWordPiece"]


@dataclass(frozen=True)
class CompiledWordPiece:
    """Passes over the raw text, the character map, passes over the mapped text; the pieces.

    ``model`` is the kernel's model of the pieces, ``ids`` the token id of each, ``max_bytes`` more than a known word
    has. ``pieces`` lists them for others than the kernel (JSON): the prefix of those that continue a word, then all,
    the unknown one last.
    """

    raw_passes: Passes
    charmap: bytes = field(repr=False)
    changed: int
    mapped_passes: Passes
    limit_passes: Passes
    model: bytes = field(repr=False)
    pieces: bytes = field(repr=False)
    ids: npt.NDArray[np.int32] = field(repr=False)
    max_bytes: int

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""
        rest = json.dumps([self.raw_passes, self.changed, self.mapped_passes, self.limit_passes, self.max_bytes])
        buffers = {"charmap": self.charmap, "model": self.model, "pieces": self.pieces, "rest": rest.encode()}
        return {"ids": self.ids, **{name: np.frombuffer(buffer, np.uint8) for name, buffer in buffers.items()}}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> CompiledWordPiece:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""
        raw, changed, mapped, limit, max_bytes = json.loads(arrays["rest"].tobytes())
        return cls(
            raw_passes=_passes(raw),
            charmap=arrays["charmap"].tobytes(),
            changed=int(changed),
            mapped_passes=_passes(mapped),
            limit_passes=_passes(limit),
            model=arrays["model"].tobytes(),
            pieces=arrays["pieces"].tobytes(),
            ids=arrays["ids"],
            max_bytes=int(max_bytes),
        )


def _passes(pairs: Any) -> Passes:
    return tuple((pattern, rewrite) for pattern, rewrite in pairs)
