"""ELECTRA's discriminator (Clark et al. 2020, arXiv:2003.10555), as transformers' ``ElectraModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import LAYER, UNUSED, BertSpec, bert_fields
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
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

    def table(self, weights: Weights, name: str, rows: int) -> Array:
        return weights.take(f"embeddings.{name}.weight", (rows, self.embedding_size))

    def parameters(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        size, hidden = self.embedding_size, self.hidden_size
        p = {
            "embeddings/word": self.table(weights, "word_embeddings", self.vocab_size),
            "embeddings/position": self.table(weights, "position_embeddings", self.max_positions),
            "embeddings/type": self.table(weights, "token_type_embeddings", self.type_vocab_size),
            **weights.norm("embeddings.LayerNorm", "embeddings/norm", size),
        }
        if self.projected:
            p |= weights.linear(["embeddings_project"], PROJECTION, size, hidden)
        for layer in range(self.num_layers):
            names = LAYER.at(f"encoder.layer.{layer}")
            p |= weights.layer(names, f"layer_{layer}", hidden, self.intermediate_size)
        weights.finish()
        return p

    def product_names(self) -> tuple[str, ...]:
        return ((PROJECTION,) if self.projected else ()) + super().product_names()

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x = blocks.dropout(blocks.norm(blocks.embeddings("word", "type", "position"), "embeddings/norm"))
        if self.projected:
            x = blocks.projection(x, PROJECTION)
        for layer in range(self.num_layers):
            x = blocks.post_norm_layer(x, f"layer_{layer}")
        return x
