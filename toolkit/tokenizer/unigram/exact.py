"""The exact search for the best path, for the few words where rounded scores do not prove it.

It does what the ``tokenizers`` package does, in double precision and in the same order, with plain TensorFlow ops: all
words at once, character by character. Its time is linear in the longest word's length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["best_paths"]


def best_paths(
    text: tf.Tensor, row_splits: tf.Tensor, trie: tf.Tensor, scores: tf.Tensor, longest: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The numbers of the pieces (int32, packed) and each word's count (int32 [words]).

    ``text`` uint8 holds the words end to end, ``row_splits`` int64 [words + 1] their places; ``trie`` int32 is the
    pieces' double array, ``scores`` float64 [pieces]; no piece is of more than ``longest`` bytes.
    """
    import tensorflow as tf

    lengths = tf.cast(row_splits[1:] - row_splits[:-1], tf.int32)
    ragged = tf.RaggedTensor.from_row_splits(tf.cast(text, tf.int32), row_splits, validate=False)
    found = _matches(ragged.to_tensor(), trie, longest)
    sizes, numbers = _search(found, scores, longest)
    return _walk_back(sizes, numbers, lengths)


def _matches(text: tf.Tensor, trie: tf.Tensor, longest: int) -> tf.Tensor:
    """int32 [places, words, longest]: 1 + the number of the piece of each size (in bytes, less one) that begins at a
    place of a word, or 0. ``text`` is [words, places], padded with 0."""
    import tensorflow as tf

    def offset(unit: tf.Tensor) -> tf.Tensor:
        return tf.bitwise.left_shift(
            tf.bitwise.bitwise_and(tf.bitwise.right_shift(unit, 10), 0x3FFFFF),
            tf.bitwise.right_shift(tf.bitwise.bitwise_and(unit, 0x200), 6),
        )

    last = tf.size(trie) - 1

    def body(
        size: tf.Tensor, at: tf.Tensor, rest: tf.Tensor, alive: tf.Tensor, out: tf.TensorArray
    ) -> tuple[tf.Tensor, ...]:
        at = tf.minimum(tf.bitwise.bitwise_xor(at, rest), last)
        unit = tf.gather(trie, at)
        alive &= tf.equal(tf.bitwise.bitwise_and(unit, tf.constant(-0x80000000 | 0xFF, tf.int32)), rest) & (rest > 0)
        at = tf.where(alive, tf.minimum(tf.bitwise.bitwise_xor(at, offset(unit)), last), 0)
        leaf = alive & (tf.bitwise.bitwise_and(unit, 0x100) > 0)
        number = tf.bitwise.bitwise_and(tf.gather(trie, at), 0x7FFFFFFF)
        out = out.write(size, tf.where(leaf, number + 1, 0))
        return size + 1, at, tf.pad(rest[:, 1:], [[0, 0], [0, 1]]), alive, out

    start = tf.fill(tf.shape(text), offset(trie[0]))
    array = tf.TensorArray(tf.int32, longest, dynamic_size=False, element_shape=[None, None])
    *_, array = tf.while_loop(
        lambda size, *_: size < longest,
        body,
        (0, start, text, tf.ones_like(text, tf.bool), array),
        maximum_iterations=longest,
    )
    return tf.transpose(array.stack(), [2, 1, 0])


def _search(found: tf.Tensor, scores: tf.Tensor, longest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """For each end (in bytes, less one) of each word, the size and the number of the last piece of the best path."""
    import tensorflow as tf

    places, words = tf.shape(found)[0], tf.shape(found)[1]
    nothing = tf.constant(float("-inf"), tf.float64)
    table = tf.concat([[nothing], scores], axis=0)

    def body(
        place: tf.Tensor,
        here: tf.Tensor,
        best: tf.Tensor,
        size: tf.Tensor,
        number: tf.Tensor,
        sizes: tf.TensorArray,
        numbers: tf.TensorArray,
    ) -> tuple[tf.Tensor, ...]:
        pieces = found[place]
        candidate = here[:, None] + tf.gather(table, pieces)
        better = candidate > best
        best = tf.where(better, candidate, best)
        size = tf.where(better, tf.range(1, longest + 1)[None, :], size)
        number = tf.where(better, pieces, number)
        sizes, numbers = sizes.write(place, size[:, 0]), numbers.write(place, number[:, 0])
        ahead = [[0, 0], [0, 1]]
        return (
            place + 1,
            best[:, 0],
            tf.pad(best[:, 1:], ahead, constant_values=nothing),
            tf.pad(size[:, 1:], ahead),
            tf.pad(number[:, 1:], ahead),
            sizes,
            numbers,
        )

    window = tf.stack([words, longest])
    arrays = [tf.TensorArray(tf.int32, places, dynamic_size=False, element_shape=[None]) for _ in range(2)]
    *_, sizes, numbers = tf.while_loop(
        lambda place, *_: place < places,
        body,
        (
            0,
            tf.zeros([words], tf.float64),
            tf.fill(window, nothing),
            tf.zeros(window, tf.int32),
            tf.zeros(window, tf.int32),
            *arrays,
        ),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None]),
            *[tf.TensorShape([None, longest])] * 3,
            *[tf.TensorShape(None)] * 2,
        ),
    )
    return sizes.stack(), numbers.stack()


def _walk_back(sizes: tf.Tensor, numbers: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pieces of each word's best path in order, and how many they are."""
    import tensorflow as tf

    places, words = tf.shape(sizes)[0], tf.shape(sizes)[1]
    column = tf.range(words)
    flat_sizes, flat_numbers = tf.reshape(sizes, [-1]), tf.reshape(numbers, [-1])

    def body(step: tf.Tensor, end: tf.Tensor, out: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        at = tf.maximum(end - 1, 0) * words + column
        open_ = end > 0
        out = out.write(step, tf.where(open_, tf.gather(flat_numbers, at), 0))
        return step + 1, tf.where(open_, end - tf.maximum(tf.gather(flat_sizes, at), 1), 0), out

    array = tf.TensorArray(tf.int32, places, dynamic_size=False, element_shape=[None])
    steps, _, array = tf.while_loop(
        lambda step, end, _: tf.reduce_any(end > 0),
        body,
        (0, lengths, array),
    )
    path = tf.reverse(tf.transpose(array.gather(tf.range(steps))), [1])
    inside = path > 0
    return tf.boolean_mask(path, inside) - 1, tf.reduce_sum(tf.cast(inside, tf.int32), axis=1)
