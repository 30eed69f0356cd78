"""Attention over padded rows: all scores at once, or block by block where rows are long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

__all__ = ["EVERYWHERE", "Attention", "Reach"]

BLOCK = 128
"""Queries whose scores are computed at a time in long rows: memory then grows with a row's length, not its square."""

WHOLE = 512
"""The length up to which rows are computed at once: more than a chunk of several rows has."""


class Reach(NamedTuple):
    """How many places before and behind it a token looks at, besides itself (``None``: all)."""

    before: int | None = None
    behind: int | None = None


EVERYWHERE = Reach()


@dataclass(frozen=True)
class Attention:
    """Of rows of ``mask``, bool ``[rows, length]``, true at tokens.

    Scores are multiplied by ``scale``, then kept between ``-cap`` and ``cap`` by a hyperbolic tangent (``None``: not);
    ``dropout`` stands where the model drops weights in training.
    """

    mask: tf.Tensor
    scale: float
    dropout: Callable[[tf.Tensor], tf.Tensor]
    reach: Reach = EVERYWHERE
    cap: float | None = None

    def __call__(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """``[rows, heads, length, size]`` of any float type, like ``query``.

        ``key`` and ``value`` may have fewer heads, each of which serves as many queries' heads that lie side by side.
        """
        length = tf.shape(query)[2]
        return tf.cond(
            length <= WHOLE,
            lambda: self._part(query, key, value, tf.constant(0), tf.constant(0), length),
            lambda: self._by_blocks(query, key, value, length),
        )

    def _by_blocks(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        _, heads, _, size = query.shape
        # not a tf.TensorArray, see toolkit.encoder.packing
        shape = [-1, -1, heads, size]
        results = tf.raw_ops.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype=query.dtype)

        def body(start: tf.Tensor, results: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            stop = tf.minimum(start + BLOCK, length)
            before, behind = self.reach
            first = tf.constant(0) if before is None else tf.maximum(start - before, 0)
            last = length if behind is None else tf.minimum(stop + behind, length)
            part = self._part(
                query[:, :, start:stop], key[:, :, first:last], value[:, :, first:last], start, first, last
            )
            by_place = tf.transpose(part, [2, 0, 1, 3])
            return stop, tf.raw_ops.TensorListPushBack(input_handle=results, tensor=by_place)

        # One block at a time: several would share nothing but need the memory of all.
        _, results = tf.while_loop(
            lambda start, _: start < length, body, [tf.constant(0), results], parallel_iterations=1
        )
        joined, _ = tf.raw_ops.TensorListConcatV2(
            input_handle=results,
            element_shape=shape,
            leading_dims=tf.zeros([0], tf.int64),
            element_dtype=query.dtype,
        )
        return tf.transpose(joined, [1, 2, 0, 3])

    def _part(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, start: tf.Tensor, first: tf.Tensor, last: tf.Tensor
    ) -> tf.Tensor:
        """Of queries from place ``start`` on over the keys from place ``first`` to below ``last``."""
        look = self.mask[:, first:last][:, None, None, :]
        of_query, of_key = start + tf.range(tf.shape(query)[2])[:, None], tf.range(first, last)[None, :]
        if self.reach.before is not None:
            look &= of_query - of_key <= self.reach.before
        if self.reach.behind is not None:
            look &= of_key - of_query <= self.reach.behind
        barred = tf.cast(tf.where(look, 0.0, -1e9), query.dtype)
        if query.shape[1] == key.shape[1]:
            scores = self._scores(query, key) + barred
            return tf.linalg.matmul(self.dropout(tf.nn.softmax(scores)), value)
        # The queries of heads that share keys as one longer row of them: no key is repeated.
        n, m = tf.shape(query)[2], tf.shape(key)[2]
        heads, shared, size = query.shape[1], key.shape[1], query.shape[3]
        together = tf.reshape(query, tf.stack([-1, shared, heads // shared * n, size]))
        scores = self._scores(together, key)
        weights = self.dropout(tf.nn.softmax(tf.reshape(scores, tf.stack([-1, heads, n, m])) + barred))
        context = tf.linalg.matmul(tf.reshape(weights, tf.stack([-1, shared, heads // shared * n, m])), value)
        return tf.reshape(context, tf.stack([-1, heads, n, size]))

    def _scores(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        scores = tf.linalg.matmul(query, key, transpose_b=True) * self.scale
        return scores if self.cap is None else tf.tanh(scores / self.cap) * self.cap
