"""The tables of a compiled Unigram tokenizer, and where to get them: from the cache if they were compiled before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.cache import Arrays
from toolkit.tokenizer.unigram.early import EarlyStage

__all__ = ["CompiledUnigram", "Pieces"]


@dataclass(frozen=True)
class Pieces:
    """Of each piece: its token's ``ids``, its exact ``scores`` (float64), its ``units`` and ``room`` (int32; see
    :class:`~toolkit.tokenizer.unigram.lattice.Lattice`), whether it is ``certain`` to be the best path where the kernel
    says so, whether its score is ``inexact``, not quite of single precision, and its UTF-8 bytes
    ``text[starts[n]:starts[n + 1]]``. ``labels``, ``targets`` and ``values`` are the rows of their trie
    (:class:`~toolkit.tokenizer.unigram.exact.Trie`).
    """

    ids: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    units: npt.NDArray[np.int32]
    room: npt.NDArray[np.int32]
    certain: npt.NDArray[np.bool_]
    inexact: npt.NDArray[np.bool_]
    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]


@dataclass(frozen=True)
class CompiledUnigram:
    """In the order of their use: passes over the raw texts that the pattern ``rare`` matches, the stages of the
    normalizers before the precompiled one, the passes of grapheme clusters over texts that not all ``plain`` patterns
    match, the main character map, passes over the mapped text, the kernel's models, the pieces, and the longest path
    (in pieces) and word (in bytes) that the models prove."""

    raw_passes: Passes
    rare: str = field(repr=False)
    early: tuple[EarlyStage, ...]
    plain: tuple[str, ...] = field(repr=False)
    mark_passes: Passes
    cluster_passes: Passes
    charmap: bytes = field(repr=False)
    changed: int
    mapped_passes: Passes
    gap_passes: Passes
    models: tuple[bytes, ...] = field(repr=False)
    pieces: Pieces = field(repr=False)
    longest_path: int
    longest_word: int

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""
        passes = (self.raw_passes, self.mark_passes, self.cluster_passes, self.mapped_passes, self.gap_passes)
        counts = (self.changed, self.longest_path, self.longest_word, len(self.models), len(self.early))
        rest = json.dumps([*passes, self.rare, self.plain, *counts])
        buffers = {"rest": rest.encode(), "charmap": self.charmap}
        buffers.update((f"model_{number}", model) for number, model in enumerate(self.models))
        return {
            **{name: np.frombuffer(buffer, np.uint8) for name, buffer in buffers.items()},
            **{f"pieces_{part.name}": getattr(self.pieces, part.name) for part in fields(Pieces)},
            **{
                name: array
                for number, stage in enumerate(self.early)
                for name, array in stage.to_arrays(f"early_{number}_").items()
            },
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> CompiledUnigram:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""
        raw, mark, cluster, mapped, gap, rare, plain, changed, longest, longest_word, models, early = json.loads(
            arrays["rest"].tobytes()
        )
        return cls(
            raw_passes=_passes(raw),
            rare=rare,
            early=tuple(EarlyStage.from_arrays(arrays, f"early_{number}_") for number in range(early)),
            plain=tuple(plain),
            mark_passes=_passes(mark),
            cluster_passes=_passes(cluster),
            charmap=arrays["charmap"].tobytes(),
            changed=int(changed),
            mapped_passes=_passes(mapped),
            gap_passes=_passes(gap),
            models=tuple(arrays[f"model_{number}"].tobytes() for number in range(models)),
            pieces=Pieces(**{part.name: arrays[f"pieces_{part.name}"] for part in fields(Pieces)}),
            longest_path=int(longest),
            longest_word=int(longest_word),
        )


def _passes(pairs: Any) -> Passes:
    return tuple((pattern, rewrite) for pattern, rewrite in pairs)
