"""The encoders of T5 (Raffel et al. 2019, arXiv:1910.10683), mT5 (Xue et al. 2020, arXiv:2010.11934) and UMT5 (Chung et
al. 2023, arXiv:2304.09151), as transformers' ``T5EncoderModel`` and its kin compute them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.buckets import by_distance, distance_buckets
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights
from toolkit.errors import UnsupportedError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["T5Spec"]

Array = npt.NDArray[np.float32]

BUCKETS = "attention_buckets"

UNUSED = ("shared.",)
"""The words' table under the name that encoder and decoder share; the encoder looks into ``encoder.embed_tokens``."""


@dataclass(frozen=True, kw_only=True)
class T5Spec(EncoderSpec):
    """Words alone are embedded; where a token stands only tells by its distance from others, of which each head has a
    bias. Layers normalize by the root mean square what goes in, scores are not scaled, and nothing has a bias.

    ``gated`` feed-forward layers multiply what the activation gives by a product without one. Of UMT5 each layer has
    biases of its own, of the others the first for all.
    """

    model_types: ClassVar[tuple[str, ...]] = ("t5", "mt5", "umt5")
    title: ClassVar[str] = "T5, mT5, UMT5, the encoder"
    any_mask: ClassVar[bool] = False

    head_size: int
    gated: bool
    buckets: int
    max_distance: int

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        fields.encoder_only()
        buckets = fields.positive("relative_attention_num_buckets")
        farthest = fields.positive("relative_attention_max_distance")
        if buckets < 4 or farthest <= buckets // 4:
            supported = f"numbers from 4 on to less than 4 times relative_attention_max_distance, {farthest}"
            raise UnsupportedError(module.file, "relative_attention_num_buckets", buckets, supported)
        rate = fields.rate("dropout_rate")
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=fields.positive("d_model"),
            num_layers=fields.positive("num_layers"),
            num_heads=fields.positive("num_heads"),
            head_size=fields.positive("d_kv"),
            intermediate_size=fields.positive("d_ff"),
            max_positions=0,
            type_vocab_size=1,
            activation=fields.activation("dense_act_fn"),
            gated=fields.flag("is_gated_act"),
            layer_norm_eps=fields.epsilon("layer_norm_epsilon"),
            hidden_dropout=rate,
            attention_dropout=rate,
            buckets=buckets,
            max_distance=farthest,
            tensors=module.tensors,
        )

    @property
    def attention_scale(self) -> float:
        return 1.0

    @property
    def shared_bias(self) -> bool:
        """Whether the first layer's biases by distance are those of all."""
        return self.family != "umt5"

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors, ignore=UNUSED)
        hidden, inner, heads = self.hidden_size, self.intermediate_size, self.num_heads
        width = heads * self.head_size
        p = {"embeddings/word": weights.take("encoder.embed_tokens.weight", (self.vocab_size, hidden))}
        for layer in range(self.num_layers):
            out, first, second = f"layer_{layer}", *(f"encoder.block.{layer}.layer.{part}" for part in (0, 1))
            attention, forward = f"{first}.SelfAttention", f"{second}.DenseReluDense"
            p |= weights.linear([f"{attention}.{x}" for x in "qkv"], f"{out}/qkv", hidden, width, bias=False)
            p |= weights.linear([f"{attention}.o"], f"{out}/attention_output", width, hidden, bias=False)
            inward = ["wi_0", "wi_1"] if self.gated else ["wi"]
            p |= weights.linear([f"{forward}.{x}" for x in inward], f"{out}/intermediate", hidden, inner, bias=False)
            p |= weights.linear([f"{forward}.wo"], f"{out}/output", inner, hidden, bias=False)
            p[f"{out}/attention_norm/gamma"] = weights.take(f"{first}.layer_norm.weight", (hidden,))
            p[f"{out}/output_norm/gamma"] = weights.take(f"{second}.layer_norm.weight", (hidden,))
            if layer == 0 or not self.shared_bias:
                shape = (self.buckets, heads)
                p[f"{out}/{BUCKETS}"] = weights.take(f"{attention}.relative_attention_bias.weight", shape)
        p["last_norm/gamma"] = weights.take("encoder.final_layer_norm.weight", (hidden,))
        weights.finish()
        return p

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        p = dict(stored)
        rows = distance_buckets(self.max_distance + 1, self.buckets, self.max_distance)
        for name in [name for name in p if name.endswith(f"/{BUCKETS}")]:
            p[f"{name.removesuffix(BUCKETS)}attention_bias"] = by_distance(p.pop(name), rows)
        return p

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        x = blocks.dropout(blocks.embeddings("word"))
        for layer, name in enumerate(blocks.layers()):
            if layer == 0 or not self.shared_bias:
                bias = blocks.relative_bias(f"{name}/attention_bias")
            context, x = blocks.attention(blocks.rms_norm(x, f"{name}/attention_norm"), name, residual=x, bias=bias)
            x = blocks.linear(context, f"{name}/attention_output", residual=x)
            normed, inward = blocks.rms_norm(x, f"{name}/output_norm"), f"{name}/intermediate"
            inner = blocks.gated(normed, inward) if self.gated else blocks.linear(normed, inward, activation=True)
            x = blocks.linear(blocks.dropout(inner), f"{name}/output", residual=x)
        return blocks.dropout(blocks.rms_norm(x, "last_norm"))
