"""Megatron-BERT (Shoeybi et al. 2019, arXiv:1909.08053), as transformers' ``MegatronBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import LAYER, BertSpec
from toolkit.encoder.weights import LayerNames, Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.blocks import Blocks
    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products

__all__ = ["MegatronBertSpec", "PreNorm"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PreNorm(BertSpec):
    """Layers that normalize what goes in, and one LayerNorm behind the last of them; embeddings are not normalized."""

    last_norm: ClassVar[str]

    def outside(self, weights: Weights) -> dict[str, Array]:
        norm = weights.norm(self.last_norm, "last_norm", self.hidden_size)
        return {**self.tables(weights, self.hidden_size), **norm}

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x = self.embed(blocks)
        for name in blocks.layers():
            x = blocks.pre_norm_layer(x, name)
        return blocks.norm(x, "last_norm")

    def embed(self, blocks: Blocks) -> tf.Tensor:
        return blocks.dropout(blocks.embeddings(*self.embedded))


@dataclass(frozen=True, kw_only=True)
class MegatronBertSpec(PreNorm):
    """BERT with its LayerNorms before attention and feed-forward."""

    model_types: ClassVar[tuple[str, ...]] = ("megatron-bert",)
    title: ClassVar[str] = "Megatron-BERT"
    layer_names: ClassVar[LayerNames] = replace(LAYER, attention_norm="attention.ln", output_norm="ln")
    last_norm: ClassVar[str] = "encoder.ln"
