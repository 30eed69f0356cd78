"""Layers as TensorFlow functions, written so that TensorFlow's graph optimizer fuses them into oneDNN kernels.

The forms matter: ``matmul + bias_add`` (and a GELU or a residual behind it) becomes one ``_MklNativeFusedMatMul`` only
if written like this, see ``tests/encoder/test_fusion.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

__all__ = ["ACTIVATION_FUNCTIONS", "dense", "fused_layer_norm", "layer_norm", "rms_norm"]


def _gelu(x: tf.Tensor) -> tf.Tensor:
    # tf.nn.gelu emits Erfc, which is slow wherever the pattern is not fused; this form fuses and is fast without.
    return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1.0 + tf.math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


# The names that specs use; each is torch's function of that name with its default options.
ACTIVATION_FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "elu": tf.nn.elu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardtanh": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.01),
    "linear": lambda x: x,
    "mish": lambda x: x * tf.math.tanh(tf.math.softplus(x)),
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "selu": tf.nn.selu,
    "sigmoid": tf.math.sigmoid,
    "silu": lambda x: x * tf.math.sigmoid(x),
    "softplus": tf.math.softplus,
    "softsign": tf.nn.softsign,
    "tanh": tf.math.tanh,
}


def dense(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """``x @ weight + bias``: ``[n, in]`` times ``[in, out]``."""
    y = tf.linalg.matmul(x, weight)
    return y if bias is None else tf.nn.bias_add(y, bias)


def layer_norm(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor, epsilon: float) -> tf.Tensor:
    """LayerNorm over the last axis with the biased variance, like ``torch.nn.LayerNorm``."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * weight + bias


def fused_layer_norm(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor, epsilon: float) -> tf.Tensor:
    """:func:`layer_norm` of ``[n, size]`` in the form that Keras writes, a batch normalization over rows.

    The optimizer makes one oneDNN kernel of it, where it knows the sizes of ``x``, ``weight`` and ``bias``. Those two
    must be the only results of their operations: of several it would take the first.

    Before TensorFlow 2.17 it does not do so inside functions, and the kernel of the batch normalization that is then
    left keeps its sizes in the kernel itself: two calls at a time overwrite each other's, and the process dies.
    """
    rows = tf.shape(x)[0]
    none = tf.constant([], tf.float32)
    normal = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(x, tf.stack([1, rows, x.shape[-1], 1])),
        scale=tf.fill([rows], 1.0),
        offset=tf.fill([rows], 0.0),
        mean=none,
        variance=none,
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    ).y
    return bias + tf.reshape(normal, tf.shape(x)) * weight


def rms_norm(x: tf.Tensor, weight: tf.Tensor, epsilon: float) -> tf.Tensor:
    """``x`` over the root mean square of its last axis, times ``weight`` (Zhang, Sennrich 2019, arXiv:1910.07467)."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon) * weight
