"""ELECTRA's discriminator (Clark et al. 2020, arXiv:2003.10555), as transformers' ``ElectraModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import BertSpec, bert_fields
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.blocks import Blocks
    from toolkit.source.checkpoint import RawModule

__all__ = ["ElectraSpec"]

Array = npt.NDArray[np.float32]

PROJECTION = "embeddings/projection"


@dataclass(frozen=True, kw_only=True)
class ElectraSpec(BertSpec):
    """BERT whose embeddings, of ``embedding_size``, are projected where that is not the hidden size."""

    model_types: ClassVar[tuple[str, ...]] = ("electra",)
    title: ClassVar[str] = "ELECTRA"

    embedding_size: int

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        size, types = fields.positive("embedding_size"), fields.positive("type_vocab_size")
        return cls(embedding_size=size, type_vocab_size=types, **bert_fields(module))

    @property
    def projected(self) -> bool:
        """Whether there is a projection."""
        return self.embedding_size != self.hidden_size

    def outside(self, weights: Weights) -> dict[str, Array]:
        size = self.embedding_size
        p = {**self.tables(weights, size), **weights.norm("embeddings.LayerNorm", "embeddings/norm", size)}
        if self.projected:
            p |= weights.linear(["embeddings_project"], PROJECTION, size, self.hidden_size)
        return p

    def product_names(self) -> tuple[str, ...]:
        return ((PROJECTION,) if self.projected else ()) + super().product_names()

    def embed(self, blocks: Blocks) -> tf.Tensor:
        x = super().embed(blocks)
        return blocks.projection(x, PROJECTION) if self.projected else x
