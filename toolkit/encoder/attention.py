"""Attention over padded rows: all scores at once, or block by block where a row is long.

Scores of a row of more than ``WHOLE`` places are computed for ``BLOCK`` queries at a time over the keys that these can
reach, so that memory grows with the row's length and not with its square, and nothing beyond a window is computed.
Where tokens do not look at all others this is done from ``PARTLY_WHOLE`` places on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import tensorflow as tf

__all__ = ["BLOCK", "EVERYWHERE", "WHOLE", "Attention", "Bias", "Masks", "Reach"]

BLOCK = 256
"""Queries of a long row that are computed at a time."""

WINDOW_BLOCK = 128
"""The same where tokens look at what is near: of a wider block's keys fewer are in the window of each query."""

WHOLE = 512
"""The length up to which rows are computed at once: more than a chunk of several rows has."""

PARTLY_WHOLE = 256
"""The same where tokens do not look at all: of longer rows the blocks leave out more than they cost."""


class Reach(NamedTuple):
    """How many places before and behind it a token looks at, besides itself (``None``: all)."""

    before: int | None = None
    behind: int | None = None

    @property
    def everywhere(self) -> bool:
        return self == EVERYWHERE

    @property
    def whole(self) -> int:
        """The length up to which a CPU computes rows at once."""
        nearest = min((side for side in self if side is not None), default=WHOLE)
        return PARTLY_WHOLE if nearest < WHOLE // 2 else WHOLE

    def look(self, of_query: tf.Tensor, of_key: tf.Tensor) -> tf.Tensor:
        """Whether queries at the int32 places ``[n]`` look at keys at the places ``[m]``: bool ``[n, m]``."""
        distance = of_query[:, None] - of_key[None, :]
        look = tf.ones_like(distance, tf.bool)
        if self.before is not None:
            look &= distance <= self.before
        if self.behind is not None:
            look &= -distance <= self.behind
        return look


EVERYWHERE = Reach()


class Bias(NamedTuple):
    """What is added to the scores of queries and keys, each ``[rows, heads, n, size]``.

    ``whole`` is of rows of up to ``WHOLE`` places, ``[rows or 1, heads, length, length]``. ``part`` is of some of one
    long row's: of queries from the first int32 place on and keys from the second on, ``[1, heads, n, m]``.
    """

    whole: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    part: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class Masks:
    """What bars the tokens of a chunk from each other, float32: 0 where one may be looked at, a number that leaves
    nothing of exp() where not. Each is made once for all layers of a kind.

    ``mask`` is bool ``[rows, length]``, true at tokens that may be looked at.
    """

    def __init__(self, mask: tf.Tensor) -> None:
        # chosen, not multiplied: the optimizer looks for scale and mask behind the product, and would take this product
        # for that one
        self.barred = tf.where(mask, 0.0, -1e9)[:, None, :]
        self._mask = mask
        self._near: dict[Reach, tf.Tensor] = {}

    def whole(self, reach: Reach, most: int) -> tf.Tensor:
        """Of whole rows, for every head: ``[rows, 1 or length, length]``; of longer ones the first ``most`` places,
        if not all look at all."""
        if reach.everywhere:
            return self.barred
        if reach not in self._near:
            place = tf.range(tf.minimum(tf.shape(self._mask)[1], most))
            look = self._mask[:, None, :most] & reach.look(place, place)
            self._near[reach] = tf.where(look, 0.0, -1e9)
        return self._near[reach]

    def at(self, reach: Reach, places: tf.Tensor) -> tf.Tensor:
        """Of one query of each row, at the int32 ``places`` ``[rows]``: ``[rows, 1, length]``."""
        if reach.everywhere:
            return self.barred
        look = reach.look(places, tf.range(tf.shape(self._mask)[1]))
        return tf.where(look[:, None], self.barred, -1e9)

    def part(self, reach: Reach, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Of queries at the int32 places ``[n]`` and keys at the places ``[m]``, which lie side by side:
        ``[rows, 1 or n, m]``."""
        barred = self.barred[..., keys[0] : keys[0] + tf.size(keys)]
        return barred if reach.everywhere else tf.where(reach.look(queries, keys), barred, -1e9)


@dataclass(frozen=True)
class Attention:
    """Of the rows that ``masks`` are of, none with more than ``longest`` tokens (``None``: there is no limit).

    Scores are multiplied by ``scale``, then kept between ``-cap`` and ``cap`` by a hyperbolic tangent (``None``: not),
    then ``bias`` is added; ``dropout`` stands where the model drops weights in training. Rows of up to ``whole``
    places, at most ``WHOLE``, are computed at once.
    """

    masks: Masks
    scale: float
    dropout: Callable[[tf.Tensor], tf.Tensor]
    longest: int | None
    reach: Reach = EVERYWHERE
    cap: float | None = None
    bias: Bias | None = None
    whole: int = WHOLE

    def __call__(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        """``[rows, heads, length, size]`` of any float type, like ``query``.

        ``key`` and ``value`` may have fewer heads, each of which serves as many queries' heads that lie side by side.
        """
        masks = self.masks.whole(self.reach, self.whole)

        def at_once() -> tf.Tensor:
            bias = None if self.bias is None else self.bias.whole(query, key)
            return self._context(query, key, value, masks, bias)

        if self.longest is not None and self.longest <= self.whole:
            return at_once()
        return tf.cond(tf.shape(query)[2] <= self.whole, at_once, lambda: self._long(query, key, value))

    def at(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """The same of one query of each row, at the int32 ``places`` ``[rows]``: ``[rows, heads, 1, size]``. Without
        ``bias``."""
        own = tf.gather(query, places[:, None], axis=2, batch_dims=1)
        return self._context(own, key, value, self.masks.at(self.reach, places), None)

    @cached_property
    def _long(self) -> Any:
        """``_by_blocks`` as one function for all layers, which a graph, and what a server makes of it, holds once."""
        return tf.function(self._by_blocks, autograph=False, experimental_attributes={"_noinline": True})

    def _by_blocks(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        _, heads, _, size = query.shape
        length = tf.shape(query)[2]
        before, behind = self.reach
        block = BLOCK if before is None or behind is None else WINDOW_BLOCK
        # not a tf.TensorArray, see toolkit.encoder.packing
        shape = [-1, -1, heads, size]
        results = tf.raw_ops.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype=query.dtype)

        def body(start: tf.Tensor, results: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            stop = tf.minimum(start + block, length)
            first = tf.constant(0) if before is None else tf.maximum(start - before, 0)
            last = length if behind is None else tf.minimum(stop + behind, length)
            queries, keys = query[:, :, start:stop], key[:, :, first:last]
            masks = self.masks.part(self.reach, tf.range(start, stop), tf.range(first, last))
            bias = None if self.bias is None else self.bias.part(queries, keys, start, first)
            part = self._context(queries, keys, value[:, :, first:last], masks, bias)
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

    def _context(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, masks: tf.Tensor, bias: tf.Tensor | None
    ) -> tf.Tensor:
        # Their axis of heads is made here, in the branch that adds them to scores: the optimizer fuses the product, its
        # scale and the first result of the operation that masks come from; that which hands them into a branch has two.
        masks = tf.expand_dims(masks, 1)
        added = [tf.cast(part, query.dtype) for part in (masks, bias) if part is not None]
        if query.shape[1] == key.shape[1]:
            scores = self._scores(query, key)
            for part in added:
                scores = scores + part
            return tf.linalg.matmul(self.dropout(tf.nn.softmax(scores)), value)
        # The queries of heads that share keys as one longer row of them: no key is repeated.
        n, m = tf.shape(query)[2], tf.shape(key)[2]
        heads, shared, size = query.shape[1], key.shape[1], query.shape[3]
        together = tf.reshape(query, tf.stack([-1, shared, heads // shared * n, size]))
        scores = tf.reshape(self._scores(together, key), tf.stack([-1, heads, n, m]))
        for part in added:
            scores = scores + part
        weights = tf.reshape(self.dropout(tf.nn.softmax(scores)), tf.stack([-1, shared, heads // shared * n, m]))
        return tf.reshape(tf.linalg.matmul(weights, value), tf.stack([-1, heads, n, size]))

    def _scores(self, query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        scores = tf.linalg.matmul(query, key, transpose_b=True) * self.scale
        return scores if self.cap is None else tf.tanh(scores / self.cap) * self.cap
