"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108), as transformers' ``DistilBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import LayerNames, Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["DistilBertSpec"]

Array = npt.NDArray[np.float32]

LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
)


@dataclass(frozen=True, kw_only=True)
class DistilBertSpec(EncoderSpec):
    """BERT without token types, under names of its own."""

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    title: ClassVar[str] = "DistilBERT"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.heads("dim", "n_heads")
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=fields.positive("n_layers"),
            num_heads=heads,
            intermediate_size=fields.positive("hidden_dim"),
            max_positions=fields.positive("max_position_embeddings"),
            type_vocab_size=1,
            activation=fields.activation("activation"),
            layer_norm_eps=1e-12,  # a literal of DistilBERT's modules
            hidden_dropout=fields.rate("dropout"),
            attention_dropout=fields.rate("attention_dropout"),
            tensors=module.tensors,
        )

    def parameters(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=("embeddings.position_ids",))
        hidden = self.hidden_size
        p = {
            "embeddings/word": weights.take("embeddings.word_embeddings.weight", (self.vocab_size, hidden)),
            "embeddings/position": weights.take("embeddings.position_embeddings.weight", (self.max_positions, hidden)),
            **weights.norm("embeddings.LayerNorm", "embeddings/norm", hidden),
        }
        for layer in range(self.num_layers):
            names = LAYER.at(f"transformer.layer.{layer}")
            p |= weights.layer(names, f"layer_{layer}", hidden, self.intermediate_size)
        weights.finish()
        return p

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x = blocks.dropout(blocks.norm(blocks.embeddings("word", "position"), "embeddings/norm"))
        for layer in range(self.num_layers):
            x = blocks.post_norm_layer(x, f"layer_{layer}")
        return x
