"""The encoder families that can be exported: one file each, one line of this table each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.encoder.families.albert import AlbertSpec
from toolkit.encoder.families.bert import BertSpec
from toolkit.encoder.families.bert_generation import BertGenerationSpec
from toolkit.encoder.families.deberta import DebertaSpec
from toolkit.encoder.families.deberta_v2 import DebertaV2Spec
from toolkit.encoder.families.distilbert import DistilBertSpec
from toolkit.encoder.families.electra import ElectraSpec
from toolkit.encoder.families.ernie import ErnieSpec
from toolkit.encoder.families.eurobert import EuroBertSpec
from toolkit.encoder.families.gemma2 import Gemma2Spec
from toolkit.encoder.families.gemma3 import Gemma3Spec
from toolkit.encoder.families.granite import GraniteSpec
from toolkit.encoder.families.gte import GteSpec
from toolkit.encoder.families.jina_embeddings_v3 import JinaEmbeddingsV3Spec
from toolkit.encoder.families.llama import LlamaSpec, MistralSpec, Qwen2Spec, Qwen3Spec
from toolkit.encoder.families.megatron_bert import MegatronBertSpec
from toolkit.encoder.families.modernbert import ModernBertSpec
from toolkit.encoder.families.mpnet import MPNetSpec
from toolkit.encoder.families.nomic_bert import NomicBertSpec
from toolkit.encoder.families.roberta import RobertaSpec
from toolkit.encoder.families.roformer import RoFormerSpec
from toolkit.encoder.families.t5 import T5Spec
from toolkit.encoder.families.xlm_roberta_xl import XlmRobertaXlSpec
from toolkit.encoder.static import STATIC, StaticSpec
from toolkit.source.stored import require_model_type

if TYPE_CHECKING:
    from toolkit.encoder.family import EncoderSpec
    from toolkit.source.checkpoint import RawModule

__all__ = ["ENCODERS", "FAMILIES", "MODEL_TYPES", "read_encoder"]

FAMILIES: tuple[type[EncoderSpec], ...] = (
    BertSpec,
    RobertaSpec,
    MPNetSpec,
    DistilBertSpec,
    ElectraSpec,
    AlbertSpec,
    ErnieSpec,
    MegatronBertSpec,
    XlmRobertaXlSpec,
    BertGenerationSpec,
    DebertaSpec,
    DebertaV2Spec,
    T5Spec,
    ModernBertSpec,
    NomicBertSpec,
    GteSpec,
    JinaEmbeddingsV3Spec,
    EuroBertSpec,
    LlamaSpec,
    MistralSpec,
    Qwen2Spec,
    Qwen3Spec,
    Gemma2Spec,
    Gemma3Spec,
    GraniteSpec,
    RoFormerSpec,
)

MODEL_TYPES: Mapping[str, type[EncoderSpec]] = {
    model_type: family for family in FAMILIES for model_type in family.model_types
}
"""A configuration's ``model_type`` to its family."""

ENCODERS: Mapping[str, type[EncoderSpec]] = {**MODEL_TYPES, STATIC: StaticSpec}
"""By the ``family`` that a spec names: those, and the one without layers, which no configuration names."""


def read_encoder(module: RawModule) -> EncoderSpec:
    """The encoder of a Transformer module. Raises ``UnsupportedError`` for a model type that is no family's."""
    require_model_type(module.config, Path(module.file), MODEL_TYPES)
    return replace(MODEL_TYPES[module.config["model_type"]].read(module), adapter=module.adapter)
