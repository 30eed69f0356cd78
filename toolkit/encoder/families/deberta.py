"""DeBERTa (He et al. 2020, arXiv:2006.03654) as it was at first and transformers' ``DebertaModel`` computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.families.deberta_v2 import LAYER, DebertaV2Spec
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
            f"{out}/qkv/bias": np.concatenate([query, np.zeros_like(query), value]),
            **weights.behind_attention(names, out, hidden, self.intermediate_size),
        }

    def projection(self, weights: Weights, p: dict[str, Array], layer: int, part: int) -> tuple[Array, Array]:
        name, hidden = f"encoder.layer.{layer}.attention.self.{('pos_q_proj', 'pos_proj')[part]}", self.hidden_size
        kernel = weights.take(f"{name}.weight", (hidden, hidden)).T
        return kernel, weights.take(f"{name}.bias", (hidden,)) if part == 0 else np.zeros(hidden, np.float32)
