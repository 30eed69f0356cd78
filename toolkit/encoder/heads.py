"""The ways from packed tokens to attention's heads and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import tensorflow as tf

__all__ = ["Heads", "TransposedHeads", "shape_beside"]


def shape_beside(x: tf.Tensor, width: int) -> tf.Tensor:
    """The shape of as many rows as ``x`` has, of ``width`` numbers. The optimizer must know that the two shapes are
    one, if they are, to add ``x`` inside a product of the other."""
    return tf.shape(x) if x.shape[1] == width else tf.stack([tf.shape(x)[0], width])


class Heads:
    """The way from packed tokens to attention's heads and back: rows of one head's size are gathered straight from
    where one view has them to where the other wants them, and nothing is transposed.

    ``token`` and ``slot`` as in :class:`~toolkit.encoder.packing.Chunk`, whose padded view is ``length`` places long;
    ``count`` are the heads that go back.
    """

    def __init__(self, token: tf.Tensor, slot: tf.Tensor, length: tf.Tensor, count: int) -> None:
        self._token = token
        # Not slot[:, None]: with that the optimizer no longer knows that there are as many as there are tokens.
        place = tf.expand_dims(slot, 1)
        self._back = (place // length * count + tf.range(count)) * length + place % length
        self._into: dict[tuple[int, ...], tf.Tensor] = {}  # made once for all layers

    def split(self, values: tf.Tensor, size: int, counts: Sequence[int], first: int = 0) -> list[tf.Tensor]:
        """Of packed ``[padded_total, heads * size]``, from the head ``first`` on, so many heads for each part: padded
        ``[rows, heads, length, size]`` of each."""
        every, found = values.shape[1] // size, []
        by_head = tf.reshape(values, [-1, size])
        starts = accumulate(counts, initial=first)
        for count, alike in groupby(zip(counts, starts, strict=False), key=lambda part: part[0]):
            index = self._index(every, count, tuple(start for _, start in alike))
            found += tf.unstack(tf.gather(by_head, index), num=index.shape[0])
        return found

    def _index(self, every: int, count: int, starts: tuple[int, ...]) -> tf.Tensor:
        """int32 ``[parts, rows, count, length]``: where the parts that start at these of ``every`` head are."""
        key = (every, count, *starts)
        if key not in self._into:
            heads = tf.constant(starts)[:, None] + tf.range(count)
            self._into[key] = self._token[None, :, None, :] * every + heads[:, None, :, None]
        return self._into[key]

    def join(self, values: tf.Tensor, like: tf.Tensor, tokens: tf.Tensor | None = None) -> tf.Tensor:
        """Padded ``[rows, heads, length, size]`` to packed ``[n, heads * size]``, of as many rows as ``like``: of all
        tokens, or of those at int32 ``[n]``."""
        back = self._back if tokens is None else tf.gather(self._back, tokens)
        joined = tf.gather(tf.reshape(values, [-1, values.shape[3]]), back)
        return tf.reshape(joined, shape_beside(like, self._back.shape[1] * values.shape[3]))


class TransposedHeads:
    """The same by moving whole tokens and turning the view: no index is larger than the view is."""

    def __init__(self, token: tf.Tensor, slot: tf.Tensor) -> None:
        self._token, self._slot = token, slot

    def split(self, values: tf.Tensor, size: int, counts: Sequence[int], first: int = 0) -> list[tf.Tensor]:
        """As that of ``Heads``."""
        start, found = 0, []
        padded = tf.gather(values[:, first * size : (first + sum(counts)) * size], self._token)
        for count in counts:
            part = padded[:, :, start : start + count * size]
            shape = tf.concat([tf.shape(self._token), [count, size]], 0)
            by_head = tf.transpose(tf.reshape(part, shape), [0, 2, 1, 3])
            found.append(tf.ensure_shape(by_head, [None, count, None, size]))
            start += count * size
        return found

    def join(self, values: tf.Tensor, like: tf.Tensor, tokens: tf.Tensor | None = None) -> tf.Tensor:
        """As that of ``Heads``."""
        width = values.shape[1] * values.shape[3]
        slot = self._slot if tokens is None else tf.gather(self._slot, tokens)
        return tf.gather(tf.reshape(tf.transpose(values, [0, 2, 1, 3]), [-1, width]), slot)
