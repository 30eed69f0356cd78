"""The encoder of BERT for generation (Rothe et al. 2020, arXiv:1907.12461), as transformers' ``BertGenerationEncoder``
computes it: BERT without token types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import BertSpec, bert_fields
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["BertGenerationSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BertGenerationSpec(BertSpec):
    """BERT whose table of token types is one row of zeros."""

    model_types: ClassVar[tuple[str, ...]] = ("bert-generation",)
    title: ClassVar[str] = "BERT for generation, the encoder"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        return cls(type_vocab_size=1, **bert_fields(module))

    def table(self, weights: Weights, name: str, rows: int) -> Array:
        if name == "token_type_embeddings":
            return np.zeros((rows, self.hidden_size), np.float32)
        return super().table(weights, name, rows)
