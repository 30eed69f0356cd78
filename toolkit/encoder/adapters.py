"""What an adapter adds to an encoder's products and tables (LoRA, Hu et al. 2021, arXiv:2106.09685): beside them, so
that encoders with different adapters have the same variables. The sum is taken as peft takes it, of results and not of
weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS
from toolkit.encoder.precision.halves import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorflow as tf

    from toolkit.encoder.family import EncoderSpec
    from toolkit.encoder.precision.float32 import Float32Products

__all__ = ["AdaptedProducts", "added_parameters", "merged"]

Array = npt.NDArray[np.float32]


def added_parameters(spec: EncoderSpec) -> dict[str, Array]:
    """The adapter's matrices by the names of the parameters that they add to: of ``layer_0/qkv`` ``layer_0/qkv/down``
    ``[in, rank]`` and ``layer_0/qkv/up`` ``[rank, out]``; of a table its rows' and ``[rank, size]``.

    Where ``stored`` puts each tensor is found as in :mod:`toolkit.encoder.places`: by tensors that hold the number of
    each row, and take no memory.
    """
    tensors = {name: tensor for name, tensor in spec.tensors.items() if tensor.ndim}
    starts = dict(zip(tensors, accumulate((len(tensor) for tensor in tensors.values()), initial=0), strict=False))
    numbered: Any = {
        name: np.broadcast_to(_column(starts[name], len(tensor), tensor.ndim), tensor.shape)
        for name, tensor in tensors.items()
    }
    found: dict[str, Array] = {}
    for name, places in replace(spec, tensors={**spec.tensors, **numbered}, adapter={}).stored().items():
        product, of_product = name.removesuffix("/kernel"), name.endswith("/kernel")
        if places.ndim != 2 or not (of_product or name.startswith("embeddings/")):
            continue
        rows = places[0] if of_product else places[:, 0]
        parts = []
        for tensor, (left, right) in spec.adapter.items():  # of which the hidden states may need only some
            own = rows - starts.get(tensor, -len(left))
            here = np.flatnonzero((own >= 0) & (own < len(left)))
            if here.size:
                placed = np.zeros((len(rows), left.shape[1]), np.float32)
                placed[here] = left[own[here]]
                parts.append((right.T, placed.T) if of_product else (placed, right))
        if parts:
            found[f"{product}/down"] = np.concatenate([down for down, _ in parts], 1)
            found[f"{product}/up"] = np.concatenate([up for _, up in parts], 0)
    return found


def _column(start: int, length: int, ndim: int) -> npt.NDArray[np.int32]:
    return np.arange(start, start + length, dtype=np.int32).reshape(-1, *[1] * (ndim - 1))


def merged(spec: EncoderSpec) -> EncoderSpec:
    """The same encoder with its adapter's numbers in the weights."""
    tensors = {
        name: tensor + spec.adapter[name][0] @ spec.adapter[name][1] if name in spec.adapter else tensor
        for name, tensor in spec.tensors.items()
    }
    return replace(spec, tensors=tensors, adapter={}) if spec.adapter else spec


class AdaptedProducts:
    """``products`` in float32 with what ``added_parameters`` names added to the results of some."""

    def __init__(self, products: Float32Products, spec: EncoderSpec, added: Mapping[str, tf.Tensor]) -> None:
        self._products, self._spec, self._added = products, spec, added
        self.parameter, self.dropout = products.parameter, products.dropout

    def embedding(self, name: str, ids: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        x = self._products.embedding(name, ids)
        if f"{name}/down" not in self._added:
            return x
        return x + tf.matmul(tf.gather(self._added[f"{name}/down"], ids), self._added[f"{name}/up"])

    def halves(self, x: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        gate, inner = self._products.halves(x, name)
        if f"{name}/down" not in self._added:
            return gate, inner
        to_gate, to_inner = cut(self._more(x, name))
        return gate + to_gate, inner + to_inner

    def _more(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """What is added to a product's result."""
        import tensorflow as tf

        return tf.matmul(tf.matmul(x, self._added[f"{name}/down"]), self._added[f"{name}/up"])

    def linear(
        self, x: tf.Tensor, name: str, *, activation: bool = False, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        if f"{name}/down" not in self._added:
            return self._products.linear(x, name, activation=activation, residual=residual)
        more = self._more(x, name)
        y = self._products.linear(x, name, residual=more if residual is None else residual + more)
        return ACTIVATION_FUNCTIONS[self._spec.activation](y) if activation else y
