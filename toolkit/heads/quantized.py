"""Quantized embeddings, bit for bit as ``quantize_embeddings`` of sentence-transformers (6.2) computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.signatures import QUANTIZED

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["quantized", "starts_and_steps"]

Array = npt.NDArray[np.float32]


def starts_and_steps(ranges: Array) -> Array:
    """Smallest and largest value of each number, ``[2, dim]``, to where its 256 steps start and how large they are."""
    starts = ranges[0].astype(np.float32)
    steps = (ranges[1].astype(np.float32) - starts) / np.float32(255)
    return np.stack([starts, np.where(steps == 0, np.float32(1), steps)])


def quantized(x: tf.Tensor, kind: str, starts_and_steps: tf.Tensor | None = None) -> tf.Tensor:
    """float32 ``[batch, dim]`` to ``kind``: int8 or uint8 ``[batch, dim]`` by ``starts_and_steps`` ``[2, dim]``; or
    ``binary`` (int8) or ``ubinary`` (uint8) ``[batch, dim / 8]``, of which each holds eight signs.

    ``starts_and_steps`` must be a variable's: a division by a constant is optimized to a product with its reciprocal,
    which rounds otherwise.
    """
    import tensorflow as tf

    if kind in ("int8", "uint8"):
        assert starts_and_steps is not None
        start, step = tf.unstack(starts_and_steps, num=2)
        places = tf.clip_by_value(tf.floor((x - start) / step), 0.0, 255.0)
        return tf.cast(places if kind == "uint8" else places - 128.0, QUANTIZED[kind])
    size = -(-x.shape[1] // 8)
    signs = tf.pad(tf.cast(x > 0, tf.int32), [[0, 0], [0, 8 * size - x.shape[1]]])
    packed = tf.reduce_sum(tf.reshape(signs, [-1, size, 8]) * [128, 64, 32, 16, 8, 4, 2, 1], 2)
    return tf.cast(packed if kind == "ubinary" else packed - 128, QUANTIZED[kind])
