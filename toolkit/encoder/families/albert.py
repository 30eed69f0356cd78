"""ALBERT (Lan et al. 2019, arXiv:1909.11942), as transformers' ``AlbertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import UNUSED, BertSpec, bert_fields
from toolkit.encoder.family import LAYER_PRODUCTS
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import LayerNames, Weights
from toolkit.errors import SourceError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["AlbertSpec"]

Array = npt.NDArray[np.float32]

PROJECTION = "embeddings/projection"

LAYER = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    intermediate="ffn",
    output="ffn_output",
    output_norm="full_layer_layer_norm",
)


@dataclass(frozen=True, kw_only=True)
class AlbertSpec(BertSpec):
    """BERT whose embeddings are projected and whose layers share weights.

    There are ``groups`` of ``group_layers`` layers each; the ``num_layers`` steps use the groups one after another.
    """

    model_types: ClassVar[tuple[str, ...]] = ("albert",)
    title: ClassVar[str] = "ALBERT"

    embedding_size: int
    groups: int
    group_layers: int

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields, numbers = Fields(module), bert_fields(module)
        groups = fields.positive("num_hidden_groups")
        if groups > numbers["num_layers"]:
            raise SourceError(
                f"{module.file}: num_hidden_groups is {groups}, more than num_hidden_layers, {numbers['num_layers']}"
            )
        return cls(
            embedding_size=fields.positive("embedding_size"),
            groups=groups,
            group_layers=fields.positive("inner_group_num"),
            type_vocab_size=fields.positive("type_vocab_size"),
            **numbers,
        )

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        size, hidden = self.embedding_size, self.hidden_size

        p = {
            **self.tables(weights, size),
            **weights.norm("embeddings.LayerNorm", "embeddings/norm", size),
            **weights.linear(["encoder.embedding_hidden_mapping_in"], PROJECTION, size, hidden),
        }
        for group in range(self.groups):
            for layer in range(self.group_layers):
                names = LAYER.at(f"encoder.albert_layer_groups.{group}.albert_layers.{layer}")
                p |= weights.layer(names, _name(group, layer), hidden, self.intermediate_size)
        weights.finish()
        return p

    def _layers(self) -> list[str]:
        """The layers in the order of their use."""
        used = [int(step / (self.num_layers / self.groups)) for step in range(self.num_layers)]
        return [_name(group, layer) for group in used for layer in range(self.group_layers)]

    def product_names(self) -> tuple[str, ...]:
        # a group that no step uses has no products that anybody asks for
        return (PROJECTION, *(f"{name}/{part}" for name in dict.fromkeys(self._layers()) for part in LAYER_PRODUCTS))

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x = blocks.projection(self.embed(blocks), PROJECTION)
        for name in blocks.layers(self._layers()):
            x = blocks.post_norm_layer(x, name)
        return x


def _name(group: int, layer: int) -> str:
    return f"group_{group}_layer_{layer}"
