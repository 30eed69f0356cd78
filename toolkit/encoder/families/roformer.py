"""RoFormer (Su et al. 2021, arXiv:2104.09864), as transformers' ``RoFormerModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import bert_fields
from toolkit.encoder.families.electra import ElectraSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.rotary import side_by_side
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["RoFormerSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RoFormerSpec(ElectraSpec):
    """ELECTRA's embeddings, without positions, and BERT's layers with queries and keys that are turned by position
    (with ``rotary_value`` values too). Cosines and sines are in the checkpoint.

    The original turns numbers that lie side by side as a pair. Each pair's second stands half a head behind its first
    here: that is only another order of what a product yields, and so of its weights.
    """

    model_types: ClassVar[tuple[str, ...]] = ("roformer",)
    title: ClassVar[str] = "RoFormer"
    embedded: ClassVar[tuple[str, ...]] = ("word", "type")
    fixed: ClassVar[tuple[str, ...]] = ("rotation/",)

    rotary_value: bool

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields, numbers = Fields(module), bert_fields(module)
        fields.even_heads(numbers["hidden_size"] // numbers["num_heads"])
        return cls(
            embedding_size=fields.positive("embedding_size"),
            type_vocab_size=fields.positive("type_vocab_size"),
            rotary_value=fields.flag("rotary_value"),
            **numbers,
        )

    def stored(self) -> dict[str, Array]:
        p, hidden, heads = super().stored(), self.hidden_size, self.num_heads
        turned = (3 if self.rotary_value else 2) * hidden
        for layer in range(self.num_layers):
            for part in ("kernel", "bias"):
                stored = p[f"layer_{layer}/qkv/{part}"]
                ordered = side_by_side(stored[..., :turned], turned // hidden * heads)
                p[f"layer_{layer}/qkv/{part}"] = np.concatenate([ordered, stored[..., turned:]], -1)
            if self.rotary_value:
                name = f"layer_{layer}/attention_output/kernel"
                p[name] = np.ascontiguousarray(side_by_side(p[name].T, heads).T)
        return p

    def outside(self, weights: Weights) -> dict[str, Array]:
        size = self.hidden_size // self.num_heads
        table = weights.take("encoder.embed_positions.weight", (self.max_positions, size))
        sines, cosines = np.split(table, 2, axis=1)
        return {**super().outside(weights), "rotation/sin": sines.copy(), "rotation/cos": cosines.copy()}

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x, rotation = self.embed(blocks), blocks.stored_rotation("rotation")
        for name in blocks.layers():
            attended = blocks.rotary_attention(x, name, residual=x, rotation=rotation, turn_values=self.rotary_value)
            x = blocks.post_norm_rest(*attended, name)
        return x
