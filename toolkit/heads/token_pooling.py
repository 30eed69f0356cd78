"""HierarchicalTokenPooling of a MultiVectorEncoder, as sentence-transformers has it (release 6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from toolkit.heads.normalize import NormalizeSpec

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["TokenPoolingSpec"]


@dataclass(frozen=True)
class TokenPoolingSpec:
    """A text's vectors to about ``1 / factor`` of them, the means of clusters; the first ``protected`` stay by
    themselves. ``normalized``: all are normalized then, and also where nothing is merged (a ``factor`` of 1)."""

    factor: float
    protected: int
    normalized: bool

    def __str__(self) -> str:
        words = [f"1 / {self.factor:g} of the vectors, the first {self.protected} as they are"] if self.merges else []
        return ", ".join([*words, *(["normalized"] if self.normalized else [])])

    @classmethod
    def read(cls, module: RawModule) -> Self:
        config = module.config
        normalized = bool(config["normalize_embeddings"])
        return cls(float(config["pool_factor"]), int(config["num_protected_tokens"]), normalized)

    @property
    def merges(self) -> bool:
        """Whether vectors become fewer."""
        return self.factor > 1

    def clusters(self, vectors: int) -> int:
        """How many become of so many vectors, where none are protected."""
        return min(vectors, max(int(vectors // self.factor), 1))

    def apply(self, vectors: tf.Tensor, splits: tf.Tensor, longest: int) -> tuple[tf.Tensor, ...]:
        """Texts' vectors float32 ``[vectors, dim]`` and their int32 row splits, of which no text has more than
        ``longest``, to those that are left of them; where it ``merges`` also which of these, by its int32 number in its
        text, each vector went to."""
        found: tuple[tf.Tensor, ...] = vectors, splits
        if self.merges:
            from toolkit.heads.clusters import merged

            wanted = [self.clusters(vectors) for vectors in range(longest + 1)]
            found = merged(vectors, splits, self.protected, wanted)
        return (NormalizeSpec().apply({}, found[0]) if self.normalized else found[0], *found[1:])
