"""The ways from packed tokens to attention's heads and back."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

__all__ = ["Heads", "TransposedHeads", "shape_beside"]


def shape_beside(x: tf.Tensor, width: int) -> tf.Tensor:
    """The shape of as many rows as ``x`` has, of ``width`` numbers. The optimizer must know that the two shapes are
    one, if they are, to add ``x`` inside a product of the other."""
    return tf.shape(x) if x.shape[1] == width else tf.stack([tf.shape(x)[0], width])


class Heads(NamedTuple):
    """The way from packed tokens to attention's heads and back: rows of one head's size are gathered straight from
    where one view has them to where the other wants them, and nothing is transposed.

    ``into`` int32 ``[parts, rows, heads, length]``, one for parts of as many heads, ``back`` int32
    ``[padded_total, heads]``.
    """

    into: tuple[tf.Tensor, ...]
    back: tf.Tensor

    def split(self, values: tf.Tensor) -> list[tf.Tensor]:
        """Packed ``[padded_total, heads of all parts * size]`` to padded ``[rows, heads, length, size]`` of each."""
        size = values.shape[1] // sum(index.shape[0] * index.shape[2] for index in self.into)
        by_head = tf.reshape(values, [-1, size])
        return [part for index in self.into for part in tf.unstack(tf.gather(by_head, index), num=index.shape[0])]

    def of(self, tokens: tf.Tensor) -> Heads:
        """The way back to some tokens alone, those at int32 ``[n]`` of all."""
        return self._replace(back=tf.gather(self.back, tokens))

    def join(self, values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Padded ``[rows, heads, length, size]`` to packed ``[padded_total, heads * size]``, of as many rows as
        ``like``."""
        joined = tf.gather(tf.reshape(values, [-1, values.shape[3]]), self.back)
        return tf.reshape(joined, shape_beside(like, self.back.shape[1] * values.shape[3]))


class TransposedHeads(NamedTuple):
    """The same by moving whole tokens and turning the view: no index is larger than the view is."""

    token: tf.Tensor
    slot: tf.Tensor
    counts: tuple[int, ...]

    def split(self, values: tf.Tensor) -> list[tf.Tensor]:
        """As that of ``Heads``."""
        size, start, found = values.shape[1] // sum(self.counts), 0, []
        padded = tf.gather(values, self.token)
        for count in self.counts:
            part = padded[:, :, start : start + count * size]
            shape = tf.concat([tf.shape(self.token), [count, size]], 0)
            by_head = tf.transpose(tf.reshape(part, shape), [0, 2, 1, 3])
            found.append(tf.ensure_shape(by_head, [None, count, None, size]))
            start += count * size
        return found

    def of(self, tokens: tf.Tensor) -> TransposedHeads:
        """As that of ``Heads``."""
        return self._replace(slot=tf.gather(self.slot, tokens))

    def join(self, values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """As that of ``Heads``."""
        width = values.shape[1] * values.shape[3]
        return tf.gather(tf.reshape(tf.transpose(values, [0, 2, 1, 3]), [-1, width]), self.slot)
