"""Products in bfloat16: operands of 8 significant bits, sums in float32, for processors that have it in hardware."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense

__all__ = ["Bfloat16Product"]

Array = npt.NDArray[np.float32]


class Bfloat16Product:
    """``[n, in]`` of any float type to bfloat16 ``[n, out]``, or to float32 where a residual is added.

    The weights are constants of the graph: oneDNN then keeps them in the layout that its kernels want.
    """

    def __init__(self, kernel: Array, bias: Array, activation: str) -> None:
        self._kernel = kernel.astype(tf.bfloat16.as_numpy_dtype)
        self._bias = bias.astype(tf.bfloat16.as_numpy_dtype)
        self._activation = activation

    def __call__(self, x: tf.Tensor, *, activation: bool, residual: tf.Tensor | None) -> tf.Tensor:
        y = dense(tf.cast(x, tf.bfloat16), tf.constant(self._kernel), tf.constant(self._bias))
        if activation:
            y = ACTIVATION_FUNCTIONS[self._activation](y)
        return y if residual is None else tf.cast(y, tf.float32) + residual
