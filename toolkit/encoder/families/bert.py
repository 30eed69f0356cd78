"""BERT (Devlin et al. 2018, arXiv:1810.04805), as transformers' ``BertModel`` computes it.

The names of tensors are those of transformers' ``modeling_bert.py``. The pooler is left out: sentence-transformers
pools the last hidden state itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import LayerNames, Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.attention import Bias
    from toolkit.encoder.blocks import Blocks
    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["UNUSED", "BertSpec", "bert_fields"]

Array = npt.NDArray[np.float32]

UNUSED = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
"""Tensors that no hidden state depends on: what pools it, and buffers of plain numbers in older checkpoints."""

LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)


def bert_fields(module: RawModule) -> dict[str, Any]:
    """The fields that BERT and its relatives have in common, as arguments of their specs; decoders are refused."""
    fields = Fields(module)
    fields.only("position_embedding_type", ("absolute",), "absolute")
    fields.encoder_only()
    hidden, heads = fields.heads()
    return {
        "family": str(module.config["model_type"]),
        "vocab_size": fields.positive("vocab_size"),
        "hidden_size": hidden,
        "num_layers": fields.positive("num_hidden_layers"),
        "num_heads": heads,
        "intermediate_size": fields.positive("intermediate_size"),
        "max_positions": fields.positive("max_position_embeddings"),
        "activation": fields.activation(),
        "layer_norm_eps": fields.epsilon(),
        "hidden_dropout": fields.rate("hidden_dropout_prob"),
        "attention_dropout": fields.rate("attention_probs_dropout_prob"),
        "tensors": module.tensors,
    }


@dataclass(frozen=True, kw_only=True)
class BertSpec(EncoderSpec):
    """Words, types and positions are added and normalized; each layer normalizes behind its residuals.

    Relatives differ in what the class variables say, and in the methods that they bring: ``embedded`` are the tables
    that are added, ``layers`` and ``layer_names`` where the checkpoint keeps the layers.
    """

    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    title: ClassVar[str] = "BERT"
    embedded: ClassVar[tuple[str, ...]] = ("word", "type", "position")
    layers: ClassVar[str] = "encoder.layer"
    layer_names: ClassVar[LayerNames] = LAYER

    @classmethod
    def read(cls, module: RawModule) -> Self:
        return cls(type_vocab_size=Fields(module).positive("type_vocab_size"), **bert_fields(module))

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        p = self.outside(weights)
        for layer in range(self.num_layers):
            names = self.layer_names.at(f"{self.layers}.{layer}")
            p |= weights.layer(names, f"layer_{layer}", self.hidden_size, self.intermediate_size)
        weights.finish()
        return p

    def outside(self, weights: Weights) -> dict[str, Array]:
        """The parameters that belong to no layer."""
        norm = weights.norm("embeddings.LayerNorm", "embeddings/norm", self.hidden_size)
        return {**self.tables(weights, self.hidden_size), **norm}

    def tables(self, weights: Weights, size: int) -> dict[str, Array]:
        """The tables of embeddings, each ``[rows, size]``."""
        found = {
            "word": ("word_embeddings", self.vocab_size),
            "type": ("token_type_embeddings", self.type_vocab_size),
            "position": ("position_embeddings", self.max_positions),
        }
        chosen = {table: found[table] for table in self.embedded}
        return {
            f"embeddings/{table}": weights.take(f"embeddings.{name}.weight", (rows, size))
            for table, (name, rows) in chosen.items()
        }

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x, bias = self.embed(blocks), self.bias(blocks)
        for name in blocks.layers():
            x = blocks.post_norm_layer(x, name, bias)
        return x

    def embed(self, blocks: Blocks) -> tf.Tensor:
        """What goes into the first layer: float32 ``[padded_total, hidden]``."""
        return blocks.dropout(blocks.norm(blocks.embeddings(*self.embedded), "embeddings/norm"))

    def bias(self, blocks: Blocks) -> Bias | None:
        """What is added to the scores of attention in every layer, if anything is."""
        return None
