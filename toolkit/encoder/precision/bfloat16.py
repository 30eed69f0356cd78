"""Products in bfloat16: operands of 8 significant bits, sums in float32, for processors that have it in hardware."""

from __future__ import annotations

import tensorflow as tf

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense
from toolkit.encoder.precision.packed import packed_product

__all__ = ["Bfloat16Product"]


class Bfloat16Product:
    """``[n, in]`` of any float type to bfloat16 ``[n, out]``, or to float32 where a residual is added.

    ``kernel`` ``[in, out]`` and ``bias`` ``[out]``, if there is one, are bfloat16. With ``packed`` graphs keep the
    kernel in oneDNN's order.
    """

    def __init__(self, kernel: tf.Tensor, bias: tf.Tensor | None, activation: str, *, packed: bool = False) -> None:
        self._kernel = kernel
        self._bias = bias
        self._activation = activation
        self._packed = packed

    def __call__(self, x: tf.Tensor, *, activation: bool, residual: tf.Tensor | None) -> tf.Tensor:
        x, function = tf.cast(x, tf.bfloat16), self._activation if activation else "linear"
        if self._packed and not tf.executing_eagerly():
            y = packed_product(x, self._kernel, self._bias, function)
        else:
            y = ACTIVATION_FUNCTIONS[function](dense(x, self._kernel, self._bias))
        return y if residual is None else tf.cast(y, tf.float32) + residual
