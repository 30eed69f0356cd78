"""LayerNorm over the embedding, as sentence-transformers' ``LayerNorm`` (release 6.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError
from toolkit.heads.head import HeadSpec, no_leftovers, tensor

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["LayerNormSpec"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerNormSpec(HeadSpec):
    """LayerNorm with torch's default epsilon, 1e-5. ``weight`` and ``bias`` are ``[dim]``."""

    module_type: ClassVar = "LayerNorm"
    stored: ClassVar = {"gamma": "norm.weight", "beta": "norm.bias"}

    dim: int
    epsilon: float
    weight: Array = field(repr=False)
    bias: Array = field(repr=False)

    def __str__(self) -> str:
        return f"layer norm  over {self.dim}"

    @classmethod
    def read(cls, module: RawModule, dim: int) -> Self:
        if (size := Fields(module).positive("dimension")) != dim:
            raise SourceError(f"{module.file}: dimension is {size}, but the module before yields {dim}")
        no_leftovers(module, "norm.weight", "norm.bias")
        return cls(dim, 1e-5, tensor(module, "norm.weight", (dim,)), tensor(module, "norm.bias", (dim,)))

    def width(self, dim: int) -> int:
        return dim

    def parameters(self) -> dict[str, Array]:
        return {"gamma": self.weight, "beta": self.bias}

    def apply(self, params: Mapping[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        from toolkit.encoder.layers import layer_norm

        return layer_norm(x, params["gamma"], params["beta"], self.epsilon)
