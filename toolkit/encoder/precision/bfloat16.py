"""Products in bfloat16: operands of 8 significant bits, sums in float32, for processors that have it in hardware."""

from __future__ import annotations

import tensorflow as tf

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense

__all__ = ["Bfloat16Product"]


class Bfloat16Product:
    """``[n, in]`` of any float type to bfloat16 ``[n, out]``, or to float32 where a residual is added.

    ``kernel`` ``[in, out]`` and ``bias`` ``[out]``, if there is one, are bfloat16.
    """

    def __init__(self, kernel: tf.Tensor, bias: tf.Tensor | None, activation: str) -> None:
        self._kernel = kernel
        self._bias = bias
        self._activation = activation

    def __call__(self, x: tf.Tensor, *, activation: bool, residual: tf.Tensor | None) -> tf.Tensor:
        y = dense(tf.cast(x, tf.bfloat16), self._kernel, self._bias)
        if activation:
            y = ACTIVATION_FUNCTIONS[self._activation](y)
        return y if residual is None else tf.cast(y, tf.float32) + residual
