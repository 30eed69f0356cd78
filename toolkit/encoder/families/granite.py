"""Granite (Granite Team 2024), as transformers' ``GraniteModel`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit.encoder.families.llama import LlamaSpec
from toolkit.encoder.fields import Fields

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["GraniteSpec"]


@dataclass(frozen=True, kw_only=True)
class GraniteSpec(LlamaSpec):
    """Llama in which words, scores and what is added to a residual are multiplied by numbers of the configuration.

    Words and added products have theirs in the weights, so that the graph is Llama's.
    """

    model_types: ClassVar[tuple[str, ...]] = ("granite",)
    title: ClassVar[str] = "Granite"

    word_scale: float
    query_scale: float
    added_scale: float

    @classmethod
    def read_rotation(cls, module: RawModule, size: int) -> dict[str, Any]:
        fields = Fields(module)
        return {
            **super().read_rotation(module, size),
            "word_scale": fields.positive_number("embedding_multiplier"),
            "query_scale": fields.positive_number("attention_multiplier"),
            "added_scale": fields.positive_number("residual_multiplier"),
        }

    @property
    def attention_scale(self) -> float:
        return self.query_scale

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value * scale if (scale := self._scale(name)) != 1.0 else value for name, value in stored.items()}

    def _scale(self, name: str) -> float:
        if name == "embeddings/word":
            return self.word_scale
        return self.added_scale if name.split("/")[1] in ("attention_output", "output") else 1.0
