"""The encoder of BERT for generation (Rothe et al. 2020, arXiv:1907.12461), as transformers' ``BertGenerationEncoder``
computes it: BERT without token types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from toolkit.encoder.families.bert import BertSpec, bert_fields

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["BertGenerationSpec"]


@dataclass(frozen=True, kw_only=True)
class BertGenerationSpec(BertSpec):
    """BERT whose embeddings are of words and positions."""

    model_types: ClassVar[tuple[str, ...]] = ("bert-generation",)
    title: ClassVar[str] = "BERT for generation, the encoder"
    embedded: ClassVar[tuple[str, ...]] = ("word", "position")

    @classmethod
    def read(cls, module: RawModule) -> Self:
        return cls(type_vocab_size=1, **bert_fields(module))
