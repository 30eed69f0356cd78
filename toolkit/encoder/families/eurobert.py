"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500), as transformers' ``EuroBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from toolkit.encoder.families.llama import LlamaSpec

__all__ = ["EuroBertSpec"]


@dataclass(frozen=True, kw_only=True)
class EuroBertSpec(LlamaSpec):
    """Llama, in which a token looks at all others."""

    model_types: ClassVar[tuple[str, ...]] = ("eurobert",)
    title: ClassVar[str] = "EuroBERT"
    any_mask: ClassVar[bool] = True
    decoder: ClassVar[bool] = False
