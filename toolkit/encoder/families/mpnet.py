"""MPNet (Song et al. 2020, arXiv:2004.09297), as transformers' ``MPNetModel`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.buckets import by_distance, distance_buckets
from toolkit.encoder.families.bert import bert_fields
from toolkit.encoder.families.roberta import CountedPositions
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import LayerNames, Weights

if TYPE_CHECKING:
    from toolkit.encoder.attention import Bias
    from toolkit.encoder.blocks import Blocks
    from toolkit.source.checkpoint import RawModule

__all__ = ["MPNetSpec"]

Array = npt.NDArray[np.float32]

# MPNetEmbeddings and MPNetEncoder have these as literals, whatever the configuration says.
PAD_ID = 1
BUCKETS = 32
MAX_DISTANCE = 128

LAYER = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)


@dataclass(frozen=True, kw_only=True)
class MPNetSpec(CountedPositions):
    """BERT without token types, with RoBERTa's positions and one bias by distance for the attention of all layers."""

    model_types: ClassVar[tuple[str, ...]] = ("mpnet",)
    title: ClassVar[str] = "MPNet"

    embedded: ClassVar[tuple[str, ...]] = ("word", "position")
    layer_names: ClassVar[LayerNames] = LAYER

    @classmethod
    def read(cls, module: RawModule) -> Self:
        Fields(module).only("relative_attention_num_buckets", (BUCKETS,), BUCKETS)
        return cls(pad_id=PAD_ID, type_vocab_size=1, **bert_fields(module))

    def outside(self, weights: Weights) -> dict[str, Array]:
        biases = weights.take("encoder.relative_attention_bias.weight", (BUCKETS, self.num_heads))
        return {**super().outside(weights), "attention/buckets": biases}

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        p = dict(stored)
        rows = distance_buckets(self.max_length, BUCKETS, MAX_DISTANCE)
        p["attention/bias"] = by_distance(p.pop("attention/buckets"), rows)
        return p

    def bias(self, blocks: Blocks) -> Bias:
        return blocks.relative_bias("attention/bias")
