"""The exact search for the best path, for the words where rounded scores do not prove it.

It does what the ``tokenizers`` package does, in double precision and in the same order, with plain TensorFlow ops: all
words at once, character by character. Its time is linear in the longest word's length, its memory in all words'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Trie", "best_paths", "trie_rows"]

_LEAF = 1 << 31

_BLOCK = 8  # steps without a look at whether there are more


class Trie(NamedTuple):
    """The pieces' trie in a form that takes few ops to walk, int32 [rows] each.

    A step from node ``n`` by a byte leads to row ``n ^ byte``: ``labels`` has the byte if this is a step of the trie
    (else -1), ``targets`` the next ``n``, ``values`` 1 + the number of the piece that ends there, or 0. ``targets[0]``
    is the first ``n``. The last 256 rows are a node without steps, ``n = rows - 256``, to which they lead back.
    """

    labels: Any
    targets: Any
    values: Any


class _Words(NamedTuple):
    """Words end to end: ``text`` int32 [bytes] with a 0 after each; for each character the byte where it ``starts`` and
    its ``word`` (int32 [characters]); ``splits`` of the words in characters (int32 [words + 1])."""

    text: tf.Tensor
    starts: tf.Tensor
    word: tf.Tensor
    splits: tf.Tensor


class _Matches(NamedTuple):
    """Pieces found in the words: number, first and last character (int32 [matches] each)."""

    number: tf.Tensor
    first: tf.Tensor
    last: tf.Tensor


def best_paths(
    text: tf.Tensor, row_splits: tf.Tensor, trie: Trie, scores: tf.Tensor, longest: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The numbers of the pieces (int32, packed) and each word's count (int32 [words]).

    ``text`` uint8 holds the words end to end, ``row_splits`` int32 [words + 1] their places; ``scores`` float64
    [pieces]; no piece is of more than ``longest`` characters. Every character is a piece.
    """
    import tensorflow as tf

    words = _split(tf.cast(text, tf.int32), row_splits)
    found = _matches(words, trie)
    gain = tf.gather(scores, found.number)
    best = _best_sums(words, found, gain, longest)
    zero = tf.zeros([1], tf.float64)
    before = tf.tensor_scatter_nd_update(
        tf.concat([zero, best], axis=0), words.splits[:-1, None], tf.zeros_like(words.splits[:-1], tf.float64)
    )
    # Of pieces that lead to the same sum the longest one counts.
    reached = tf.equal(tf.gather(before, found.first) + gain, tf.gather(best, found.last))
    size = tf.where(reached, found.last - found.first + 1, 0)
    sizes = tf.math.unsorted_segment_max(size, found.last, tf.size(words.starts))
    chosen = tf.where(tf.equal(size, tf.gather(sizes, found.last)))
    numbers = tf.scatter_nd(
        tf.gather_nd(found.last, chosen)[:, None], tf.gather_nd(found.number, chosen), tf.shape(sizes)
    )
    return _walk_back(sizes, numbers, words)


def trie_rows(trie: npt.NDArray[np.uint32]) -> Trie:
    """The rows of a double array (darts-clone)."""
    size = -(-len(trie) // 256) * 256
    units = np.zeros(size, np.uint32)
    units[: len(trie)] = trie
    target = np.arange(size, dtype=np.uint32) ^ (units >> 10 << ((units & 0x200) >> 6))
    inner = (units < _LEAF) & (units != 0)
    whole = inner & (units & 0x100 > 0)
    labels, targets, values = np.full((3, size + 256), [[-1], [size], [0]], np.int32)
    labels[:size][inner] = units[inner] & 0xFF
    targets[:size][inner] = target[inner]
    values[:size][whole] = (units[target[whole]] & (_LEAF - 1)) + 1
    return Trie(labels, targets, values)


def _split(text: tf.Tensor, row_splits: tf.Tensor) -> _Words:
    import tensorflow as tf

    size, ends = tf.size(text), row_splits[1:]
    place = tf.range(size) + tf.searchsorted(ends, tf.range(size), side="right")
    ends += tf.range(tf.size(ends))
    text = tf.scatter_nd(place[:, None], text, size[None] + tf.size(ends))
    begins = tf.not_equal(tf.bitwise.bitwise_and(text, 0xC0), 0x80) & (text > 0)
    starts = tf.cast(tf.where(begins)[:, 0], tf.int32)
    splits = tf.pad(tf.searchsorted(starts, ends), [[1, 0]])
    return _Words(text, starts, tf.searchsorted(ends, starts), splits)


def _matches(words: _Words, trie: Trie) -> _Matches:
    """All pieces at all places: walks the trie from all characters at once, as far as there are longer pieces."""
    import tensorflow as tf

    text = tf.pad(words.text, [[0, _BLOCK]])
    nowhere = tf.size(trie.labels) - 256
    end = tf.size(words.text)
    ahead = tf.range(_BLOCK)[:, None]

    def body(place: tf.Tensor, node: tf.Tensor, out: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rows = []
        for byte in tf.unstack(tf.gather(text, place + ahead), _BLOCK):
            row = tf.bitwise.bitwise_xor(node, byte)
            row = tf.where(tf.equal(tf.gather(trie.labels, row), byte), row, nowhere)
            node = tf.gather(trie.targets, row)
            rows.append(row)
        values = tf.gather(trie.values, tf.stack(rows))
        return tf.minimum(place + _BLOCK, end), node, tf.concat([out, values], axis=0)

    first_node = tf.fill(tf.shape(words.starts), trie.targets[0])
    # Few steps, as pieces are short; servers before 2.13 know no array that grows.
    *_, matches = tf.while_loop(
        lambda place, node, out: tf.reduce_any(node < nowhere),
        body,
        (words.starts, first_node, tf.zeros([0, tf.size(words.starts)], tf.int32)),
        shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None]), tf.TensorShape([None, None])),
    )
    found = tf.where(matches > 0)
    offset, first = tf.unstack(tf.cast(found, tf.int32), axis=1)
    character = tf.searchsorted(words.starts, tf.gather(words.starts, first) + offset, side="right") - 1
    return _Matches(tf.gather_nd(matches, found) - 1, first, character)


def _best_sums(words: _Words, found: _Matches, gain: tf.Tensor, longest: int) -> tf.Tensor:
    """The best sum of each character's end, float64 [characters]: added from the word's beginning on.

    Long words first, blocks of several characters of all words that are long enough stand together.
    """
    import tensorflow as tf

    block = min(_BLOCK, longest)
    lengths = words.splits[1:] - words.splits[:-1]
    last_block, order = tf.math.top_k((lengths - 1) // block, tf.size(lengths))
    rank = tf.math.invert_permutation(order)
    blocks = last_block[0] + 1
    active = tf.searchsorted(-last_block, -tf.range(blocks), side="right")
    offsets = tf.pad(tf.cumsum(active * block), [[1, 0]])
    place = tf.range(tf.size(words.starts)) - tf.gather(words.splits, words.word)
    row = tf.gather(offsets, place // block) + tf.gather(rank, words.word) * block + place % block
    nothing = tf.constant(float("-inf"), tf.float64)
    # One row for each end of pieces, the longest piece first.
    table = tf.tensor_scatter_nd_update(
        tf.fill([offsets[-1] * longest], nothing),
        (tf.gather(row, found.last) * longest + longest - 1 - (found.last - found.first))[:, None],
        gain,
    )

    def body(number: tf.Tensor, sums: tf.Tensor, out: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        start, end, some = offsets[number], offsets[number + 1], active[number]
        parts = tf.reshape(table[start * longest : end * longest], [some, block, longest])
        columns = tf.split(sums[:some], longest, axis=1)
        for part in tf.unstack(parts, axis=1):
            sums = tf.concat(columns[-longest:], axis=1)
            columns.append(tf.reduce_max(sums + part, axis=1, keepdims=True))
        best = tf.concat(columns[-block:], axis=1)
        return number + 1, tf.concat(columns[-longest:], axis=1), out.write(number, tf.reshape(best, [-1]))

    beginning = tf.constant([[float("-inf")] * (longest - 1) + [0.0]], tf.float64)
    array = tf.TensorArray(tf.float64, blocks, dynamic_size=False, infer_shape=False, element_shape=[None])
    *_, array = tf.while_loop(
        lambda number, *_: number < blocks,
        body,
        (0, tf.tile(beginning, [tf.size(lengths), 1]), array),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, longest]), tf.TensorShape(None)),
    )
    return tf.gather(array.concat(), row)


def _walk_back(sizes: tf.Tensor, numbers: tf.Tensor, words: _Words) -> tuple[tf.Tensor, tf.Tensor]:
    """The pieces of each word's best path in order, and how many they are.

    Characters at which a piece of the path ends are marked: the last one, and with twice as many pieces each time those
    that lie so many pieces before a marked one.
    """
    import tensorflow as tf

    count = tf.size(sizes)
    before = tf.range(count) - sizes
    nowhere = before < tf.gather(words.splits, words.word)
    before = tf.concat([tf.where(nowhere, count, before), [count]], axis=0)
    ends = words.splits[1:, None] - 1
    marks = tf.scatter_nd(ends, tf.ones_like(ends[:, 0]), [count + 1])

    def body(before: tf.Tensor, marks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        more = tf.gather(before, tf.where(marks > 0))
        return tf.gather(before, before), tf.tensor_scatter_nd_update(marks, more, tf.ones_like(more[:, 0]))

    _, marks = tf.while_loop(lambda before, _: tf.reduce_any(before < count), body, (before, marks))
    inside = marks[:-1]
    at = tf.gather(tf.pad(tf.cumsum(inside), [[1, 0]]), words.splits)
    return tf.boolean_mask(numbers, inside > 0), at[1:] - at[:-1]
