"""Products of several precisions in one encoder, each as a plan says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.precision.bfloat16 import Bfloat16Product
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.precision.halves import HALVES, halved
from toolkit.encoder.precision.int8 import Int8Product
from toolkit.encoder.precision.quantization import Quantization

if TYPE_CHECKING:
    from toolkit.encoder.family import EncoderSpec

__all__ = ["MixedProducts", "Plan"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """The precision of each product, by its name; ``int8`` holds the numbers of those in int8.

    A product that is in neither is computed in float32.
    """

    bfloat16: frozenset[str] = frozenset()
    int8: Mapping[str, Quantization] = field(default_factory=dict)

    def precision(self, name: str) -> str:
        """Of a product: ``int8``, ``bfloat16`` or ``float32``."""
        return "int8" if name in self.int8 else "bfloat16" if name in self.bfloat16 else "float32"

    def by_precision(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Those of ``names`` in each precision that there is any in."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self.precision(name), []).append(name)
        return found

    def stored(self, parameters: Mapping[str, Array], inner: int) -> dict[str, npt.NDArray[Any]]:
        """``parameters`` in the types in which ``MixedProducts`` wants them, those in bfloat16 `halved`: ``inner`` is
        the feed-forward layers' size."""
        bfloat16 = tf.bfloat16.as_numpy_dtype
        # By far the largest table, of which few rows are used at a time: half the bytes, at 2^-9 of each value.
        found: dict[str, npt.NDArray[Any]] = dict(parameters)
        found["embeddings/word"] = parameters["embeddings/word"].astype(bfloat16)
        for name in self.bfloat16:
            both = (f"{name}/kernel", f"{name}/bias")
            found |= halved({key: found.pop(key).astype(bfloat16) for key in both if key in found}, inner)
        return found | {f"{name}/kernel": numbers.kernel for name, numbers in self.int8.items()}


class _Product(Protocol):
    def __call__(self, x: Any, *, activation: bool, residual: tf.Tensor | None) -> Any: ...


class MixedProducts(Float32Products):
    """Products of ``params``, in the types of ``plan.stored``, as ``plan`` says; with ``packed`` those in bfloat16 are
    of weights in oneDNN's order, as those in int8 always are."""

    def __init__(self, params: Mapping[str, tf.Tensor], spec: EncoderSpec, plan: Plan, *, packed: bool = False) -> None:
        super().__init__(params, spec)
        self._products: dict[str, _Product] = {}
        parts = [part for name in plan.bfloat16 for part in (name, *(f"{name}/{half}" for half in HALVES))]
        for part in [part for part in parts if f"{part}/kernel" in params]:
            kernel, bias = params[f"{part}/kernel"], params.get(f"{part}/bias")
            self._products[part] = Bfloat16Product(kernel, bias, spec.activation, packed=packed)
        following = {numbers.handover.source: numbers for numbers in plan.int8.values() if numbers.handover is not None}
        for name, numbers in plan.int8.items():
            kernel, bias = params[f"{name}/kernel"], params.get(f"{name}/bias")
            self._products[name] = Int8Product(kernel, bias, numbers, spec.activation, following.get(name))

    def linear(self, x: Any, name: str, *, activation: bool = False, residual: tf.Tensor | None = None) -> Any:
        if name in self._products:
            return self._products[name](x, activation=activation, residual=residual)
        return super().linear(tf.cast(x, tf.float32), name, activation=activation, residual=residual)
