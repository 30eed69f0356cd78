"""Gemma 3 (Gemma Team 2025, arXiv:2503.19786) and EmbeddingGemma, as transformers' ``Gemma3TextModel`` has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.llama import LlamaSpec
from toolkit.encoder.fields import SLIDING, Fields
from toolkit.encoder.rotary import Rotary, read_rotary_by_type

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["Gemma3Spec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Gemma3Spec(LlamaSpec):
    """Llama with embeddings times the root of the hidden size, heads of queries and keys that are normalized, and
    normalizations of what attention and feed-forward give, too.

    Layers with a window are turned by frequencies of their own. Where attention is bidirectional a token looks at
    others fewer than a layer's window away on either side. Scores are multiplied by ``query_scale``, embeddings by
    ``embedding_scale``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    title: ClassVar[str] = "Gemma 3, EmbeddingGemma"
    normed_heads: ClassVar[bool] = True
    activation_field: ClassVar[str] = "hidden_activation"
    layer_norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "behind_attention_norm": "post_attention_layernorm",
        "output_norm": "pre_feedforward_layernorm",
        "behind_output_norm": "post_feedforward_layernorm",
    }

    near_frequencies: tuple[float, ...]
    near_scale: float
    query_scale: float
    embedding_scale: float

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        attention = fields.flag("attention_bias")
        return {"qkv_bias": attention, "output_bias": attention, "inner_bias": False}

    @classmethod
    def read_causal(cls, module: RawModule, windows: tuple[int, ...]) -> bool:
        fields = Fields(module)
        # Another value would change the masks once more, beside the field that Gemma has for it.
        fields.only("is_causal", (True,), True)
        return not fields.flag("use_bidirectional_attention")

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        fields = Fields(module)
        types = fields.layer_types(layers)
        if SLIDING not in types:
            return (0,) * layers
        window = fields.positive("sliding_window")
        if fields.flag("use_bidirectional_attention"):
            # transformers' configuration makes this of what is stored (Gemma3TextConfig.__post_init__)
            window = window // 2 + 1
        return tuple(window if kind == SLIDING else 0 for kind in types)

    @classmethod
    def read_rotation(cls, module: RawModule, size: int) -> dict[str, Any]:
        fields = Fields(module)
        whole, near = read_rotary_by_type(module, size, fields.layer_types(fields.positive("num_hidden_layers")))
        return {
            "frequencies": whole.frequencies,
            "scale": whole.scale,
            "near_frequencies": near.frequencies,
            "near_scale": near.scale,
            "query_scale": float(fields.positive("query_pre_attn_scalar") ** -0.5),
            "embedding_scale": _embedding_scale(module, fields.positive("hidden_size")),
            "max_positions": whole.limit or near.limit,
        }

    @property
    def attention_scale(self) -> float:
        return self.query_scale

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        # Normalizations multiply by 1 more than what is stored.
        return {name: 1.0 + value if name.endswith("/gamma") else value for name, value in stored.items()}

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.attention import Reach
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        everywhere = blocks.rotation(Rotary(self.frequencies, self.scale))
        near = blocks.rotation(Rotary(self.near_frequencies, self.near_scale))
        x = blocks.embeddings("word") * self.embedding_scale
        for layer, window in enumerate(self.windows):
            name = f"layer_{layer}"
            before = window - 1 if window else None
            context = blocks.rotary_attention(
                blocks.rms_norm(x, f"{name}/attention_norm"),
                name,
                like=x,
                rotation=near if window else everywhere,
                reach=Reach(before, 0 if self.causal else before),
                normed_heads=True,
            )
            added = blocks.projection(context, f"{name}/attention_output")
            x = x + blocks.rms_norm(added, f"{name}/behind_attention_norm")
            inner = blocks.gated(blocks.rms_norm(x, f"{name}/output_norm"), f"{name}/intermediate")
            x = x + blocks.rms_norm(blocks.projection(inner, f"{name}/output"), f"{name}/behind_output_norm")
        return blocks.rms_norm(x, "last_norm")


def _embedding_scale(module: RawModule, hidden: int) -> float:
    """The root of the hidden size, rounded as the original rounds it: to the dtype that the model was loaded in."""
    import torch

    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(str(module.config.get("dtype")), torch.float32)
    return float(torch.tensor(hidden**0.5, dtype=dtype))
