"""Sparse vectors in the graph: which numbers of a dense one are kept, and the forms that they are handed on in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from toolkit.encoder.packing import padded_index

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["compacted", "expanded", "flat", "largest", "padded"]


def largest(x: tf.Tensor, most: int) -> tf.Tensor:
    """``[batch, dim]`` with the ``most`` numbers of largest magnitude of each row, and zeros, as
    ``select_max_active_dims`` of sentence-transformers (6.2) does it. Of equal ones the first are taken."""
    batch, dim = tf.shape(x)[0], x.shape[1]
    _, index = tf.math.top_k(tf.abs(x), min(most, dim), sorted=False)
    row = tf.tile(tf.range(batch)[:, None], [1, min(most, dim)])
    place = tf.stack([row, index], 2)
    return tf.scatter_nd(place, tf.gather_nd(x, place), tf.stack([batch, dim]))


def compacted(x: tf.Tensor) -> tf.Tensor:
    """float32 ``[batch, dim]`` to ``[batch, 2 * k]``: each row's indices, ascending, and then its values, both filled
    up with zeros to the ``k`` of the row that has most. Indices are float32 here, so that one tensor holds all."""
    active = tf.not_equal(x, 0.0)
    place = tf.where(active)
    counts = tf.reduce_sum(tf.cast(active, tf.int32), 1)
    splits = tf.concat([[0], tf.cumsum(counts)], 0)
    k = tf.maximum(tf.reduce_max(tf.concat([counts, [0]], 0)), 1)
    index, mask = padded_index(splits, k)

    def spread(column: tf.Tensor) -> tf.Tensor:
        # one more, so that index 0 exists where nothing is active
        return tf.where(mask, tf.gather(tf.pad(column, [[0, 1]]), index), 0.0)

    return tf.concat([spread(tf.cast(place[:, 1], tf.float32)), spread(tf.gather_nd(x, place))], 1)


def padded(compact: tf.Tensor, most: int | None) -> dict[str, tf.Tensor]:
    """What ``compacted`` made to ``indices`` int32 and ``values`` float32, both ``[batch, k]``; ``k`` is ``most`` where
    there is a most, else what the row needs that has most of these."""
    indices, values = _halves(compact)
    counts = tf.reduce_sum(tf.cast(tf.not_equal(values, 0.0), tf.int32), 1)
    k = tf.maximum(tf.reduce_max(tf.concat([counts, [0]], 0)), 1)
    indices, values = indices[:, :k], values[:, :k]
    if most is not None:
        filled: Callable[[tf.Tensor], tf.Tensor] = lambda part: tf.ensure_shape(  # noqa: E731
            tf.pad(part, [[0, 0], [0, most - k]]), [None, most]
        )
        indices, values = filled(indices), filled(values)
    return {"indices": indices, "values": values}


def flat(compact: tf.Tensor) -> dict[str, tf.Tensor]:
    """The same to ``indices`` int32 and ``values`` float32 ``[active]``, and ``row_splits`` int32 ``[batch + 1]``."""
    indices, values = _halves(compact)
    active = tf.not_equal(values, 0.0)
    counts = tf.reduce_sum(tf.cast(active, tf.int32), 1)
    return {
        "indices": tf.boolean_mask(indices, active),
        "values": tf.boolean_mask(values, active),
        "row_splits": tf.concat([[0], tf.cumsum(counts)], 0),
    }


def expanded(compact: tf.Tensor, dim: int) -> tf.Tensor:
    """The same to float32 ``[batch, dim]``, as it was."""
    indices, values = _halves(compact)
    shape = tf.shape(indices)
    row = tf.tile(tf.range(shape[0])[:, None], tf.stack([1, shape[1]]))
    return tf.ensure_shape(tf.scatter_nd(tf.stack([row, indices], 2), values, tf.stack([shape[0], dim])), [None, dim])


def _halves(compact: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    k = tf.shape(compact)[1] // 2
    return tf.cast(compact[:, :k], tf.int32), compact[:, k:]
