"""ModernBERT (Warner et al. 2024, arXiv:2412.13663), as transformers' ``ModernBertModel`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import SLIDING, Fields
from toolkit.encoder.rotary import Rotary, read_rotary_by_type
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["ModernBertSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ModernBertSpec(EncoderSpec):
    """Layers normalize what goes in, the first one's attention excepted, and feed forward through a gate. In ``local``
    layers, those of true, a token looks at others up to ``window`` places away, in the others at all.

    Queries and keys are turned by position, in either kind of layer by frequencies of its own. Products and LayerNorms
    have biases where ``attention_bias``, ``inner_bias`` and ``norm_bias`` say so.
    """

    model_types: ClassVar[tuple[str, ...]] = ("modernbert",)
    title: ClassVar[str] = "ModernBERT"
    any_mask: ClassVar[bool] = False

    local: tuple[bool, ...]
    window: int
    frequencies: tuple[float, ...]
    scale: float
    local_frequencies: tuple[float, ...]
    local_scale: float
    attention_bias: bool
    inner_bias: bool
    norm_bias: bool
    inner_dropout: float

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.heads()
        layers = fields.positive("num_hidden_layers")
        types = fields.layer_types(layers)
        everywhere, near = read_rotary_by_type(module, hidden // heads, types)
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=layers,
            num_heads=heads,
            intermediate_size=fields.positive("intermediate_size"),
            max_positions=everywhere.limit or near.limit,
            type_vocab_size=1,
            activation=fields.activation("hidden_activation"),
            layer_norm_eps=fields.epsilon("norm_eps"),
            hidden_dropout=fields.rate("embedding_dropout"),
            inner_dropout=fields.rate("mlp_dropout"),
            attention_dropout=fields.rate("attention_dropout"),
            local=tuple(kind == SLIDING for kind in types),
            window=fields.positive("local_attention") // 2,
            frequencies=everywhere.frequencies,
            scale=everywhere.scale,
            local_frequencies=near.frequencies,
            local_scale=near.scale,
            attention_bias=fields.flag("attention_bias"),
            inner_bias=fields.flag("mlp_bias"),
            norm_bias=fields.flag("norm_bias"),
            tensors=module.tensors,
        )

    def residual_dropout(self, product: str) -> float:
        return self.attention_dropout if product.endswith("attention_output") else 0.0

    def stored(self) -> dict[str, Array]:
        weights = Weights(self.tensors)
        hidden, inner = self.hidden_size, self.intermediate_size
        p = {"embeddings/word": weights.take("embeddings.tok_embeddings.weight", (self.vocab_size, hidden))}
        p |= weights.norm("embeddings.norm", "embeddings/norm", hidden, bias=self.norm_bias)
        for layer in range(self.num_layers):
            name, out = f"layers.{layer}", f"layer_{layer}"
            p |= weights.linear([f"{name}.attn.Wqkv"], f"{out}/qkv", hidden, 3 * hidden, bias=self.attention_bias)
            output = f"{out}/attention_output"
            p |= weights.linear([f"{name}.attn.Wo"], output, hidden, hidden, bias=self.attention_bias)
            p |= weights.linear([f"{name}.mlp.Wi"], f"{out}/intermediate", hidden, 2 * inner, bias=self.inner_bias)
            p |= weights.linear([f"{name}.mlp.Wo"], f"{out}/output", inner, hidden, bias=self.inner_bias)
            if layer:
                p |= weights.norm(f"{name}.attn_norm", f"{out}/attention_norm", hidden, bias=self.norm_bias)
            p |= weights.norm(f"{name}.mlp_norm", f"{out}/output_norm", hidden, bias=self.norm_bias)
        p |= weights.norm("final_norm", "last_norm", hidden, bias=self.norm_bias)
        weights.finish()
        return p

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        p = dict(stored)
        for name in [] if self.norm_bias else [name for name in p if name.endswith("/gamma")]:
            # the fused kernel has a bias, so here is one that changes nothing
            p[f"{name.removesuffix('gamma')}beta"] = np.zeros(self.hidden_size, np.float32)
        return p

    @property
    def sight(self) -> int | None:
        return self.window if any(self.local) else None

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.attention import EVERYWHERE, Reach
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        everywhere = blocks.rotation(Rotary(self.frequencies, self.scale))
        near = blocks.rotation(Rotary(self.local_frequencies, self.local_scale))
        x = blocks.dropout(blocks.norm(blocks.embeddings("word"), "embeddings/norm"))
        for layer, (name, local) in enumerate(zip(blocks.layers(), self.local, strict=True)):
            normed = blocks.norm(x, f"{name}/attention_norm") if layer else x
            reach = Reach(self.window, self.window) if local else EVERYWHERE
            rotation = near if local else everywhere
            context, x = blocks.rotary_attention(normed, name, residual=x, rotation=rotation, reach=reach)
            x = blocks.linear(context, f"{name}/attention_output", residual=x)
            inner = blocks.gated(blocks.norm(x, f"{name}/output_norm"), f"{name}/intermediate")
            x = blocks.linear(products.dropout(inner, self.inner_dropout), f"{name}/output", residual=x)
        return blocks.norm(x, "last_norm")
