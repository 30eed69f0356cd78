"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118), as transformers' ``Gemma2Model`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.encoder.families.llama import LlamaSpec, windows_by_type
from toolkit.encoder.fields import Fields
from toolkit.encoder.rotary import Rotary

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["Gemma2Spec"]


@dataclass(frozen=True, kw_only=True)
class Gemma2Spec(LlamaSpec):
    """Llama with embeddings times the root of the hidden size, and normalizations of what attention and feed-forward
    give, too. Some layers have a window.

    Scores are multiplied by ``query_scale``, then kept between ``-score_cap`` and ``score_cap`` by a hyperbolic tangent
    (``None``: not); embeddings are multiplied by ``embedding_scale``.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gemma2",)
    title: ClassVar[str] = "Gemma 2"
    activation_field: ClassVar[str] = "hidden_activation"
    layer_norms: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "behind_attention_norm": "post_attention_layernorm",
        "output_norm": "pre_feedforward_layernorm",
        "behind_output_norm": "post_feedforward_layernorm",
    }

    query_scale: float
    score_cap: float | None
    embedding_scale: float

    @classmethod
    def biases(cls, fields: Fields) -> dict[str, bool]:
        attention = fields.flag("attention_bias")
        return {"qkv_bias": attention, "output_bias": attention, "inner_bias": False}

    @classmethod
    def read_causal(cls, module: RawModule) -> bool:
        # One of transformers' ways to compute attention looks at it, the others are causal whatever it says.
        Fields(module).only("use_bidirectional_attention", (False, None))
        return super().read_causal(module)

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        return windows_by_type(module, layers)

    @classmethod
    def read_rotation(cls, module: RawModule, size: int) -> dict[str, Any]:
        return {**super().read_rotation(module, size), **cls.read_scales(module)}

    @classmethod
    def read_scales(cls, module: RawModule) -> dict[str, Any]:
        """What is done to embeddings and to attention's scores."""
        fields, cap = Fields(module), "attn_logit_softcapping"
        return {
            # the root as the dtype has it in which the checkpoint was loaded, where it was
            "embedding_scale": fields.positive_number("embed_scale", fields.positive("hidden_size") ** 0.5),
            "query_scale": float(fields.positive("query_pre_attn_scalar") ** -0.5),
            "score_cap": None if module.config.get(cap) is None else fields.positive_number(cap),
        }

    @property
    def attention_scale(self) -> float:
        return self.query_scale

    def rotary(self, window: int) -> Rotary:
        """How queries and keys are turned in a layer with ``window``."""
        return Rotary(self.frequencies, self.scale)

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        # Normalizations multiply by 1 more than what is stored.
        return {name: 1.0 + value if name.endswith("/gamma") else value for name, value in stored.items()}

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        from toolkit.encoder.blocks import Blocks

        blocks = Blocks(products, self, chunk, fused_norm=fused_norm)
        rotations = {rotary: blocks.rotation(rotary) for rotary in dict.fromkeys(map(self.rotary, self.windows))}
        x = blocks.embeddings("word") * self.embedding_scale
        for name, window in zip(blocks.layers(), self.windows, strict=True):
            context, x = blocks.rotary_attention(
                blocks.rms_norm(x, f"{name}/attention_norm"),
                name,
                residual=x,
                rotation=rotations[self.rotary(window)],
                reach=self.reach(window),
                normed_heads=self.normed_heads,
                cap=self.score_cap,
            )
            added = blocks.projection(context, f"{name}/attention_output")
            x = x + blocks.rms_norm(added, f"{name}/behind_attention_norm")
            inner = blocks.gated(blocks.rms_norm(x, f"{name}/output_norm"), f"{name}/intermediate")
            x = x + blocks.rms_norm(blocks.projection(inner, f"{name}/output"), f"{name}/behind_output_norm")
        return blocks.rms_norm(x, "last_norm")
