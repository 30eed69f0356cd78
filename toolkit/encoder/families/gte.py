"""GTE (Zhang et al. 2024, arXiv:2407.19669), as transformers' ``GteModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.encoder.families.nomic_bert import RotaryBertSpec

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["GteSpec"]


@dataclass(frozen=True, kw_only=True)
class GteSpec(RotaryBertSpec):
    """Gated feed-forward layers; attention's products have biases, and the last product of a layer."""

    model_types: ClassVar[tuple[str, ...]] = ("gte",)
    title: ClassVar[str] = "GTE"
    biased: ClassVar[tuple[str, ...]] = ("qkv", "attention_output", "output")
    inward: ClassVar[tuple[str, ...]] = ("mlp.gate_proj", "mlp.up_proj")
    outward: ClassVar[str] = "mlp.down_proj"
    inner_dropout: ClassVar[bool] = True

    @classmethod
    def types(cls, module: RawModule) -> dict[str, Any]:
        if module.config.get("type_vocab_size") == 0:
            return {"typed": False, "type_vocab_size": 1}
        return super().types(module)
