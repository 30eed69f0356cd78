"""XLM-RoBERTa-XL (Goyal et al. 2021, arXiv:2105.00572), as transformers' ``XLMRobertaXLModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from toolkit.encoder.families.bert import LAYER
from toolkit.encoder.families.megatron_bert import PreNorm
from toolkit.encoder.families.roberta import RobertaSpec
from toolkit.encoder.weights import LayerNames

__all__ = ["XlmRobertaXlSpec"]


@dataclass(frozen=True, kw_only=True)
class XlmRobertaXlSpec(PreNorm, RobertaSpec):
    """RoBERTa's positions, and LayerNorms before attention and feed-forward."""

    model_types: ClassVar[tuple[str, ...]] = ("xlm-roberta-xl",)
    title: ClassVar[str] = "XLM-RoBERTa-XL"
    layer_names: ClassVar[LayerNames] = replace(
        LAYER, attention_norm="attention.self_attn_layer_norm", output_norm="LayerNorm"
    )
    last_norm: ClassVar[str] = "encoder.LayerNorm"
