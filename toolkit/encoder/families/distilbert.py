"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108), as transformers' ``DistilBertModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.bert import BertSpec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import LayerNames

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["DistilBertSpec"]

Array = npt.NDArray[np.float32]

LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
)


@dataclass(frozen=True, kw_only=True)
class DistilBertSpec(BertSpec):
    """BERT without token types, under names of its own."""

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    title: ClassVar[str] = "DistilBERT"
    embedded: ClassVar[tuple[str, ...]] = ("word", "position")
    layers: ClassVar[str] = "transformer.layer"
    layer_names: ClassVar[LayerNames] = LAYER

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        hidden, heads = fields.heads("dim", "n_heads")
        return cls(
            family=str(module.config["model_type"]),
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden,
            num_layers=fields.positive("n_layers"),
            num_heads=heads,
            intermediate_size=fields.positive("hidden_dim"),
            max_positions=fields.positive("max_position_embeddings"),
            type_vocab_size=1,
            activation=fields.activation("activation"),
            layer_norm_eps=1e-12,  # a literal of DistilBERT's modules
            hidden_dropout=fields.rate("dropout"),
            attention_dropout=fields.rate("attention_dropout"),
            tensors=module.tensors,
        )
