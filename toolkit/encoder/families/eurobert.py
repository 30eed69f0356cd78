"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500), as transformers' ``EuroBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.rotary import Rotary, read_rotary
from toolkit.encoder.weights import Weights
from toolkit.errors import SourceError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["EuroBertSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EuroBertSpec(EncoderSpec):
    """Llama's layers, in which a token looks at all others: they normalize by the root mean square what goes in, turn
    queries and keys by position and feed forward through a gate. Several heads of queries may share one of keys."""

    model_types: ClassVar[tuple[str, ...]] = ("eurobert",)
    title: ClassVar[str] = "EuroBERT"

    key_heads: int
    head_size: int
    frequencies: tuple[float, ...]
    scale: float
    attention_bias: bool
    inner_bias: bool

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.heads()
        size, shared = fields.positive("head_dim"), fields.positive("num_key_value_heads")
        if heads % shared:
            raise SourceError(
                f"{module.file}: num_attention_heads {heads} is no multiple of num_key_value_heads {shared}"
            )
        rotary = read_rotary(module, size)
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=fields.positive("num_hidden_layers"),
            num_heads=heads,
            key_heads=shared,
            head_size=size,
            intermediate_size=fields.positive("intermediate_size"),
            max_positions=rotary.limit,
            type_vocab_size=1,
            activation=fields.activation(),
            layer_norm_eps=fields.epsilon("rms_norm_eps"),
            hidden_dropout=0.0,
            attention_dropout=fields.rate("attention_dropout"),
            frequencies=rotary.frequencies,
            scale=rotary.scale,
            attention_bias=fields.flag("attention_bias"),
            inner_bias=fields.flag("mlp_bias"),
            tensors=module.tensors,
        )

    @property
    def num_key_heads(self) -> int:
        return self.key_heads

    @property
    def attention_scale(self) -> float:
        return float(self.head_size**-0.5)

    def parameters(self) -> dict[str, Array]:
        weights = Weights(self.tensors)
        hidden, inner = self.hidden_size, self.intermediate_size
        heads, keys = self.num_heads * self.head_size, self.key_heads * self.head_size
        p = {"embeddings/word": weights.take("embed_tokens.weight", (self.vocab_size, hidden))}
        for layer in range(self.num_layers):
            name, out = f"layers.{layer}", f"layer_{layer}"
            attention, forward = f"{name}.self_attn", f"{name}.mlp"
            biased = self.attention_bias
            three = [f"{attention}.{part}_proj" for part in "qkv"]
            p |= weights.linear(three, f"{out}/qkv", hidden, (heads, keys, keys), bias=biased)
            p |= weights.linear([f"{attention}.o_proj"], f"{out}/attention_output", heads, hidden, bias=biased)
            inward = [f"{forward}.{part}_proj" for part in ("gate", "up")]
            p |= weights.linear(inward, f"{out}/intermediate", hidden, inner, bias=self.inner_bias)
            p |= weights.linear([f"{forward}.down_proj"], f"{out}/output", inner, hidden, bias=self.inner_bias)
            p[f"{out}/attention_norm/gamma"] = weights.take(f"{name}.input_layernorm.weight", (hidden,))
            p[f"{out}/output_norm/gamma"] = weights.take(f"{name}.post_attention_layernorm.weight", (hidden,))
        p["last_norm/gamma"] = weights.take("norm.weight", (hidden,))
        weights.finish()
        return p

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        rotation = blocks.rotation(Rotary(self.frequencies, self.scale))
        x = blocks.embeddings("word")
        for layer in range(self.num_layers):
            name = f"layer_{layer}"
            normed = blocks.rms_norm(x, f"{name}/attention_norm")
            context = blocks.rotary_attention(normed, name, like=x, rotation=rotation)
            x = blocks.linear(context, f"{name}/attention_output", residual=x)
            inner = blocks.gated(blocks.rms_norm(x, f"{name}/output_norm"), f"{name}/intermediate")
            x = blocks.linear(inner, f"{name}/output", residual=x)
        return blocks.rms_norm(x, "last_norm")
