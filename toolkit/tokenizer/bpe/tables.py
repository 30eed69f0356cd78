"""The tables of a compiled tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.cache import Arrays
from toolkit.tokenizer.composition import Composition

__all__ = ["CompiledBytePairs"]


@dataclass(frozen=True)
class CompiledBytePairs:
    """Passes that find tokens in the text and in the normalized text, and those that split it; then the words.

    ``words`` is the model of a kernel that looks words up, ``word_ids`` the token id of each word (the last two are no
    words); ``pieces`` is a SentencePiece model for all others, ``piece_ids`` the token id of each of its pieces.
    ``spaces_marked``: the passes are for texts with ``BREAK`` before each space.
    """

    raw_passes: Passes
    late_passes: Passes
    split_passes: Passes
    words: bytes = field(repr=False)
    word_ids: npt.NDArray[np.int32] = field(repr=False)
    pieces: bytes = field(repr=False)
    piece_ids: npt.NDArray[np.int32] = field(repr=False)
    composition: Composition | None
    normal_passes: Passes = ()
    spaces_marked: bool = False

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""
        passes = [self.raw_passes, self.late_passes, self.split_passes, self.normal_passes]
        settings = json.dumps([self.spaces_marked, *passes]).encode()
        buffers = {"passes": settings, "words": self.words, "pieces": self.pieces}
        composition = {} if self.composition is None else self.composition.to_arrays()
        return {
            "word_ids": self.word_ids,
            "piece_ids": self.piece_ids,
            **{name: np.frombuffer(buffer, np.uint8) for name, buffer in buffers.items()},
            **composition,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> CompiledBytePairs:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""
        spaces_marked, *passes = json.loads(arrays["passes"].tobytes())
        raw, late, split, normal = map(_passes, passes)
        words, pieces = arrays["words"].tobytes(), arrays["pieces"].tobytes()
        composes = any(item.name in arrays for item in fields(Composition))
        composition = Composition.from_arrays(arrays) if composes else None
        ids = arrays["word_ids"], arrays["piece_ids"]
        return cls(raw, late, split, words, ids[0], pieces, ids[1], composition, normal, spaces_marked)


def _passes(pairs: Any) -> Passes:
    return tuple((pattern, rewrite) for pattern, rewrite in pairs)
