"""Normalize: embeddings to length 1, as sentence-transformers' ``Normalize`` (release 6.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from toolkit.heads.head import HeadSpec, features

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["NormalizeSpec"]


@dataclass(frozen=True)
class NormalizeSpec(HeadSpec):
    """Division by the Euclidean norm, which is taken as at least 1e-12 (``torch.nn.functional.normalize``)."""

    module_type: ClassVar = "Normalize"

    def __str__(self) -> str:
        return "normalize   to length 1"

    @classmethod
    def read(cls, module: RawModule, dim: int) -> Self:
        return cls(**features(module))

    def width(self, dim: int) -> int:
        return dim

    def apply(self, params: Mapping[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return x / tf.maximum(tf.norm(x, axis=-1, keepdims=True), 1e-12)
