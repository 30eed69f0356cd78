"""Gemma 3 (Gemma Team 2025, arXiv:2503.19786) and EmbeddingGemma, as transformers' ``Gemma3TextModel`` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.encoder.families.gemma2 import Gemma2Spec
from toolkit.encoder.fields import Fields
from toolkit.encoder.rotary import Rotary, read_rotary_by_type

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["Gemma3Spec"]


@dataclass(frozen=True, kw_only=True)
class Gemma3Spec(Gemma2Spec):
    """Gemma 2 with heads of queries and keys that are normalized, in the place of the tangent. Layers with a window are
    turned by frequencies of their own. Attention may be bidirectional."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    title: ClassVar[str] = "Gemma 3, EmbeddingGemma"
    normed_heads: ClassVar[bool] = True

    near_frequencies: tuple[float, ...]
    near_scale: float

    @classmethod
    def read_causal(cls, module: RawModule) -> bool:
        fields = Fields(module)
        # Another value would change the masks once more, beside the field that Gemma has for it.
        fields.only("is_causal", (True,), True)
        return not fields.flag("use_bidirectional_attention")

    @classmethod
    def read_windows(cls, module: RawModule, layers: int) -> tuple[int, ...]:
        # Of what is stored transformers' configuration makes half and 1 more (Gemma3TextConfig.__post_init__), and its
        # bidirectional mask bars who is so far away.
        halved = Fields(module).flag("use_bidirectional_attention")
        return tuple(window // 2 if halved else window for window in super().read_windows(module, layers))

    @classmethod
    def read_rotation(cls, module: RawModule, size: int) -> dict[str, Any]:
        fields = Fields(module)
        whole, near = read_rotary_by_type(module, size, fields.layer_types(fields.positive("num_hidden_layers")))
        return {
            "frequencies": whole.frequencies,
            "scale": whole.scale,
            "near_frequencies": near.frequencies,
            "near_scale": near.scale,
            "max_positions": whole.limit or near.limit,
            **cls.read_scales(module),
        }

    @classmethod
    def read_scales(cls, module: RawModule) -> dict[str, Any]:
        # Gemma3Attention keeps attn_logit_softcapping and gives it to nothing.
        return {**super().read_scales(module), "score_cap": None}

    def rotary(self, window: int) -> Rotary:
        return Rotary(self.near_frequencies, self.near_scale) if window else super().rotary(window)
