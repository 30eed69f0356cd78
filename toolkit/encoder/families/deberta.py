"""DeBERTa (He et al. 2020, arXiv:2006.03654) as it was at first and transformers' ``DebertaModel`` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.deberta_v2 import LAYER, PARTS, DebertaV2Spec
from toolkit.encoder.fields import Fields
from toolkit.encoder.weights import Weights

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["DebertaSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DebertaSpec(DebertaV2Spec):
    """DeBERTa-v2 without what that brought: no buckets, no shared projections, no convolution. Keys have no bias, and
    queries, keys and values are projected together, head by head."""

    model_types: ClassVar[tuple[str, ...]] = ("deberta",)
    title: ClassVar[str] = "DeBERTa"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        Fields(module).only("talking_head", (False, None), False)
        return replace(
            super().read(module),
            buckets=0,
            summands=1 + len(module.config.get("pos_att_type") or []),
            shared_projections=False,
            normed_distances=False,
            convolution=0,
        )

    def layer(self, weights: Weights, layer: int) -> dict[str, Array]:
        names, out, hidden = LAYER.at(f"encoder.layer.{layer}"), f"layer_{layer}", self.hidden_size
        own, heads = f"encoder.layer.{layer}.attention.self", self.num_heads
        stored = weights.take(f"{own}.in_proj.weight", (3 * hidden, hidden))
        by_part = stored.reshape(heads, 3, hidden // heads, hidden).transpose(3, 1, 0, 2)
        query, value = (weights.take(f"{own}.{part}_bias", (hidden,)) for part in "qv")
        return {
            f"{out}/qkv/kernel": np.ascontiguousarray(by_part).reshape(hidden, 3 * hidden),
            f"{out}/query/bias": query,
            f"{out}/value/bias": value,
            **weights.behind_attention(names, out, hidden, self.intermediate_size),
        }

    def projection(self, weights: Weights, layer: int, part: int) -> dict[str, Array]:
        own, out = f"encoder.layer.{layer}.attention.self", f"layer_{layer}/project_{PARTS[part]}"
        name = f"{own}.{('pos_q_proj', 'pos_proj')[part]}"
        return weights.linear([name], out, self.hidden_size, self.hidden_size, bias=part == 0)

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        p, keys = super().derived(stored), np.zeros(self.hidden_size, np.float32)
        for layer in range(self.num_layers):
            query, value = (p.pop(f"layer_{layer}/{part}/bias") for part in ("query", "value"))
            p[f"layer_{layer}/qkv/bias"] = tf.concat([query, keys, value], 0)
        return p
