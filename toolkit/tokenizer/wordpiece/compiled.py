"""The tables of a compiled tokenizer, and where to get them: from the cache if they were compiled before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.cache import Arrays, cached_tables
from toolkit.tokenizer.spec import TokenizerSpec

__all__ = ["CompiledWordPiece", "compiled_wordpiece"]


@dataclass(frozen=True)
class CompiledWordPiece:
    """Passes over the raw text, the character map, passes over the mapped text, the pieces and their ids."""

    raw_passes: Passes
    charmap: bytes = field(repr=False)
    changed: int
    mapped_passes: Passes
    limit_passes: Passes
    pieces: bytes = field(repr=False)
    ids: npt.NDArray[np.int32] = field(repr=False)

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""
        rest = json.dumps([self.raw_passes, self.changed, self.mapped_passes, self.limit_passes])
        buffers = {"charmap": self.charmap, "pieces": self.pieces, "rest": rest.encode()}
        return {"ids": self.ids, **{name: np.frombuffer(buffer, np.uint8) for name, buffer in buffers.items()}}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> CompiledWordPiece:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""
        raw, changed, mapped, limit = json.loads(arrays["rest"].tobytes())
        charmap, pieces = arrays["charmap"].tobytes(), arrays["pieces"].tobytes()
        return cls(_passes(raw), charmap, int(changed), _passes(mapped), _passes(limit), pieces, arrays["ids"])


def compiled_wordpiece(spec: TokenizerSpec) -> CompiledWordPiece:
    """The tables of ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    from toolkit.tokenizer.wordpiece.compiler import compile_wordpiece

    return cached_tables(CompiledWordPiece, spec.json, Path(__file__).parent, lambda: compile_wordpiece(spec))


def _passes(pairs: Any) -> Passes:
    return tuple((pattern, rewrite) for pattern, rewrite in pairs)
