"""Hierarchical token pooling: vectors of a text that are near to each other become one, their mean.

As sentence-transformers' ``HierarchicalTokenPooling`` (6.2) does it: Ward's clustering of cosine distances by SciPy's
``linkage`` and ``fcluster(criterion="maxclust")`` (1.17), of which the order of the clusters is part of the result.

Ward's distances are reducible: a merge brings no third cluster nearer than the nearer of the two was. So any two
clusters that are each other's nearest are merged sooner or later, in whatever order merges are made, and all such pairs
are merged at a time (Murtagh, "A survey of recent advances in hierarchical clustering algorithms", 1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from toolkit.encoder.packing import row_of_token

__all__ = ["clusters", "merged"]

DISTANCES = 1 << 20
"""Distances that are looked at in one go, 8 bytes each: rows of few tokens share a step, those of many have their own.
"""


def merged(
    vectors: tf.Tensor, splits: tf.Tensor, protected: int, wanted_of: Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Texts' vectors ``[vectors, dim]`` and their int32 row splits to those of clusters, their means; and int32
    ``[vectors]``, the number in its text of the one that each went to. The first ``protected`` of each text stay as
    they are; of ``n`` more become ``wanted_of[n]``."""
    lengths = splits[1:] - splits[:-1]
    alone = tf.minimum(lengths, protected)
    wanted = tf.gather(tf.constant(wanted_of, tf.int32), lengths - alone)
    label = _labels(vectors, splits, alone, wanted)
    row = row_of_token(splits)
    # Clusters are fewer than wanted where the distance at which they are cut occurs more than once.
    most = tf.maximum(tf.math.unsorted_segment_max(label, row, tf.size(lengths)), -1) + 1
    found = tf.concat([[0], tf.cumsum(most)], 0)
    place = tf.gather(found, row) + label
    sums = tf.math.unsorted_segment_sum(vectors, place, found[-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(label, tf.float32), place, found[-1])
    return tf.ensure_shape(sums / counts[:, None], [None, *vectors.shape[1:]]), found, label


def _labels(vectors: tf.Tensor, splits: tf.Tensor, alone: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """int32, for each vector the number in its text of the cluster that it goes to; the first ``alone`` of a text stay
    by themselves."""
    starts, lengths = splits[:-1] + alone, splits[1:] - splits[:-1] - alone
    order = tf.argsort(lengths, stable=True)
    sorted_lengths = tf.gather(lengths, order)
    found = tf.raw_ops.EmptyTensorList(element_shape=[-1], max_num_elements=-1, element_dtype=tf.int32)

    def body(row: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        squares = tf.square(tf.cast(sorted_lengths[row:], tf.int64))
        fits = tf.range(1, tf.size(squares, tf.int64) + 1) * squares <= DISTANCES
        chosen = order[row : row + tf.maximum(1, tf.reduce_sum(tf.cast(fits, tf.int32)))]
        own = tf.gather(lengths, chosen)
        column = tf.range(own[-1])[None, :]
        there = column < own[:, None]
        x = tf.gather(vectors, tf.where(there, tf.gather(starts, chosen)[:, None] + column, 0))
        distances = tf.clip_by_value(1.0 - tf.matmul(x, x, transpose_b=True), 0.0, 2.0)
        labels = tf.boolean_mask(clusters(distances, own, tf.gather(wanted, chosen)), there)
        return row + tf.size(chosen), tf.raw_ops.TensorListPushBack(input_handle=found, tensor=labels)

    empty = tf.reduce_sum(tf.cast(tf.equal(sorted_lengths, 0), tf.int32))
    _, found = tf.while_loop(lambda row, _: row < tf.size(order), body, [empty, found], parallel_iterations=1)
    labels, _ = tf.raw_ops.TensorListConcatV2(
        input_handle=found, element_shape=[-1], leading_dims=tf.zeros([0], tf.int64), element_dtype=tf.int32
    )
    # back to the texts' own order, behind those that stay by themselves
    begin = tf.gather(tf.cumsum(sorted_lengths, exclusive=True), tf.math.invert_permutation(order))
    row = row_of_token(splits)
    column = tf.range(tf.shape(vectors)[0]) - tf.gather(splits, row)
    inner = column - tf.gather(alone, row)
    place = tf.where(inner >= 0, tf.gather(begin, row) + inner, 0)
    padded = tf.pad(labels, [[0, 1]])  # so that there is one
    return tf.where(inner >= 0, tf.gather(alone, row) + tf.gather(padded, place), column)


class _State(NamedTuple):
    """Clusters of each row so far, the existing ones first, in the order of the last of their tokens.

    By cluster: the sums of squared ``distances`` between the tokens of two (within one: each pair twice), its ``size``,
    the squared ``height`` at which it was merged, when it was ``born``, and which token comes ``first`` in it. By
    token: the ``cluster`` that it is in, its ``place`` in that, and the ``height`` at which it was joined to the
    tokens before it (``joined``, infinite: not yet).
    """

    count: tf.Tensor
    distances: tf.Tensor
    size: tf.Tensor
    height: tf.Tensor
    born: tf.Tensor
    first: tf.Tensor
    cluster: tf.Tensor
    place: tf.Tensor
    joined: tf.Tensor


def clusters(distances: tf.Tensor, lengths: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """int32 ``[rows, tokens]``: the cluster of each token, of as many as are ``wanted`` or, where several merges are at
    the distance that decides, fewer.

    ``distances`` are float32 ``[rows, tokens, tokens]``; row ``i`` has ``lengths[i]`` tokens, and zeros behind them.
    """
    rows, most = tf.shape(distances)[0], tf.shape(distances)[1]
    column = tf.tile(tf.range(most)[None, :], [rows, 1])
    upper = tf.linalg.band_part(tf.square(tf.cast(distances, tf.float64)), 0, -1)  # alike both ways
    there = column < lengths[:, None]
    nowhere, none = tf.zeros([rows, most], tf.int32), tf.zeros([rows, most], tf.float64)
    own = tf.where(there, column, 0)
    state = _State(
        count=lengths,
        distances=tf.linalg.set_diag(upper + tf.transpose(upper, [0, 2, 1]), none),
        size=none + 1.0,
        height=none,
        born=column,
        first=column,
        cluster=own,
        place=nowhere,
        joined=none + float("inf"),
    )
    shapes = _State(*(tf.TensorShape([None] * value.shape.rank) for value in state))
    _, state = tf.while_loop(
        lambda turn, state: tf.reduce_max(state.count) > 1,
        lambda turn, state: (turn + 1, _merge_nearest(state, turn * most)),
        [tf.constant(1), state],
        shape_invariants=[tf.TensorShape([]), shapes],
        parallel_iterations=1,
        maximum_iterations=most,  # each merges some, unless distances are no numbers
    )
    # As many of the lowest merges as it takes, and all that are as low as the last of them.
    index = tf.clip_by_value(lengths - wanted - 1, 0, most - 1)
    cut = tf.gather(tf.sort(state.joined, 1), index, batch_dims=1)[:, None]
    apart = tf.cast((state.joined > cut) & tf.math.is_finite(state.joined), tf.int32)
    place = tf.where(there, state.place, column)
    in_order = tf.gather(apart, tf.argsort(place, 1), batch_dims=1)
    return tf.gather(tf.cumsum(in_order, 1), place, batch_dims=1)


def _merge_nearest(state: _State, now: tf.Tensor) -> _State:
    """All clusters that are each other's nearest merged, two at a time; ``now`` is later than all are born."""
    sums, size, inf = state.distances, state.size, tf.constant(float("inf"), tf.float64)
    width = tf.shape(size)[1]
    column = tf.range(width)[None, :]
    there = column < state.count[:, None]
    # Ward's squared distance of two clusters of n and m tokens, by the sums of squares between them and within each.
    within = tf.linalg.diag_part(sums) / (2.0 * size)
    across = sums - within[:, :, None] * size[:, None, :] - size[:, :, None] * within[:, None, :]
    ward = 2.0 * across / (size[:, :, None] + size[:, None, :])
    others = there[:, :, None] & there[:, None, :] & tf.not_equal(column[0][:, None], column[0][None, :])[None]
    ward = tf.where(others, ward, inf)
    nearest, distance = tf.argmin(ward, 2, tf.int32), tf.reduce_min(ward, 2)
    mutual = tf.equal(tf.gather(nearest, nearest, batch_dims=1), column) & (distance < inf)

    def other(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, nearest, batch_dims=1)

    # Which comes second: a token behind what is merged already, the later merge, the later token.
    single, partner = size < 2.0, other(size) < 2.0
    lower, level = state.height < other(state.height), tf.equal(state.height, other(state.height))
    ahead = tf.where(tf.equal(single, partner), lower | (level & (state.born < other(state.born))), partner)
    second = mutual & ~ahead
    height = tf.where(mutual, tf.maximum(distance, tf.maximum(state.height, other(state.height))), state.height)
    size_before = tf.where(second, tf.cast(other(size), tf.int32), 0)
    leads = tf.equal(tf.gather(state.first, state.cluster, batch_dims=1), tf.range(tf.shape(state.cluster)[1])[None, :])
    joining = leads & tf.gather(second, state.cluster, batch_dims=1)

    # What stays: of two the later one, in whose place the both are from now on.
    gone = mutual & (nearest > column)
    stays = there & ~gone
    count = tf.reduce_sum(tf.cast(stays, tf.int32), 1)
    left = tf.argsort(tf.cast(stays, tf.int32), 1, direction="DESCENDING", stable=True)[:, : tf.reduce_max(count)]
    number = tf.cumsum(tf.cast(stays, tf.int32), 1) - 1
    number = tf.where(gone, other(number), number)
    grown, mates = tf.gather(mutual, left, batch_dims=1), tf.gather(nearest, left, batch_dims=1)

    def added(values: tf.Tensor) -> tf.Tensor:
        mine, theirs = tf.gather(values, left, batch_dims=1), tf.gather(values, mates, batch_dims=1)
        shown = grown if values.shape.rank == 2 else grown[:, :, None]
        return tf.where(shown, mine + theirs, mine)

    sums = added(tf.transpose(added(sums), [0, 2, 1]))
    return _State(
        count=count,
        distances=(sums + tf.transpose(sums, [0, 2, 1])) / 2.0,  # alike both ways, whatever was rounded
        size=added(size),
        height=tf.gather(height, left, batch_dims=1),
        born=tf.gather(tf.where(mutual, now + column, state.born), left, batch_dims=1),
        first=tf.gather(tf.where(second, other(state.first), state.first), left, batch_dims=1),
        cluster=tf.gather(number, state.cluster, batch_dims=1),
        place=state.place + tf.gather(size_before, state.cluster, batch_dims=1),
        joined=tf.where(joining, tf.gather(height, state.cluster, batch_dims=1), state.joined),
    )
