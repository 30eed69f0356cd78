"""The steps of a Unigram tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import AddSpecialTokens, Buffer, NormalizeCharacters, RegexStep, Step, Tokens
from toolkit.tokenizer.unigram.compiled import Pieces, compiled_unigram
from toolkit.tokenizer.unigram.lattice import SUM_LIMIT

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["FindClusters", "Unigram", "unigram_steps"]


@dataclass(frozen=True)
class FindClusters(RegexStep):
    """Mark the ends of runs of marks (``ends``); only if there is any, find the short grapheme clusters."""

    ends: Passes = field(repr=False)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        marked = value
        for pattern, rewrite in self.ends:
            marked = tf.strings.regex_replace(marked, pattern, rewrite)
        found = tf.where(tf.not_equal(tf.strings.length(marked), tf.strings.length(value)))

        def find() -> tf.Tensor:
            # What is replaced for broken UTF-8 counts as a character of a cluster.
            some = tf.strings.unicode_transcode(tf.gather_nd(marked, found), "UTF-8", "UTF-8", errors="replace")
            for pattern, rewrite in self.passes:
                some = tf.strings.regex_replace(some, pattern, rewrite)
            return tf.tensor_scatter_nd_update(marked, found, some)

        return tf.cond(tf.size(found) > 0, find, lambda: marked)


@dataclass(frozen=True)
class Unigram(Step):
    """Split at white space and find the most probable pieces of each word; unknown pieces in a row are one.

    The kernel looks for the best path with each of several rounded versions of the scores. Where they agree, it is the
    best one with the exact scores (see :mod:`toolkit.tokenizer.unigram.lattice`); the few other words go through
    :func:`~toolkit.tokenizer.unigram.exact.best_paths`.
    """

    models: tuple[bytes, ...] = field(repr=False)
    pieces: Pieces = field(repr=False)
    longest_path: int
    unk_id: int

    def buffers(self) -> tuple[Buffer, ...]:
        p = self.pieces
        tables = (p.ids, p.scores, p.units, p.room, p.certain, p.text, p.starts, p.trie)
        return (*tables, *(np.frombuffer(model, np.uint8) for model in self.models))

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> Tokens:
        import tensorflow as tf

        ids, _, _, _, certain, *_, first = buffers[: 9]
        words = tf.strings.split(value)
        pieces, splits = _tokenize(first, words.values)
        count = splits[1:] - splits[:-1]
        whole = tf.gather(certain, tf.gather(tf.pad(pieces, [[0, 1]]), splits[:-1]))
        doubtful = tf.where((count != 1) | ~whole)[:, 0]
        pieces, splits = tf.cond(
            tf.size(doubtful) > 0,
            lambda: self._proved(words.values, pieces, splits, doubtful, buffers),
            lambda: (pieces, splits),
        )
        token_ids = tf.gather(ids, pieces)
        row_splits = tf.gather(splits, words.row_splits)
        # A word's unknown pieces in a row are one token.
        unknown = tf.equal(token_ids, self.unk_id)
        begins = tf.tensor_scatter_nd_update(
            tf.zeros([tf.size(token_ids) + 1], tf.bool), splits[:, None], tf.ones_like(splits, tf.bool)
        )[:-1]
        keep = ~(unknown & tf.concat([[False], unknown[:-1]], axis=0)[: tf.size(unknown)]) | begins
        kept = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int32))], axis=0)
        return Tokens(tf.boolean_mask(token_ids, keep), tf.cast(tf.gather(kept, row_splits), tf.int64))

    def _proved(
        self, words: tf.Tensor, pieces: tf.Tensor, splits: tf.Tensor, doubtful: tf.Tensor, buffers: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """``pieces`` and ``splits`` with those of the ``doubtful`` words proved or replaced."""
        import tensorflow as tf

        from toolkit.tokenizer.unigram.exact import best_paths

        _, scores, units, room, _, text, starts, trie, _, *others = buffers
        begin, count = tf.gather(splits, doubtful), tf.gather(splits[1:] - splits[:-1], doubtful)
        at, some_splits = _ranges(begin, begin + count)
        some = tf.gather(pieces, at)
        sizes = tf.gather(starts, some + 1) - tf.gather(starts, some)
        row = tf.repeat(tf.range(tf.size(count)), count)
        ends = tf.cumsum(sizes)
        row_ends = tf.gather(tf.pad(ends, [[1, 0]]), some_splits[1:])
        # Sums that single precision holds exactly, at each piece's ends and inside it.
        gain = tf.cast(tf.gather(units, some), tf.int64)
        after = tf.cumsum(gain)
        before_row = tf.gather(tf.pad(after, [[1, 0]]), some_splits[:-1])
        after -= tf.gather(before_row, row)
        reach = tf.cast(tf.gather(room, some), tf.int64)
        far = tf.maximum(tf.abs(after), tf.abs(after - gain)) + reach > SUM_LIMIT
        bad = tf.math.unsorted_segment_max(tf.cast(far, tf.int32), row, tf.size(count)) > 0
        bad |= count > self.longest_path
        # Paths through the same words are the same if their pieces end at the same places.
        size = tf.gather(tf.pad(ends, [[1, 0]]), tf.size(ends)) + 1
        here = tf.scatter_nd(ends[:, None], tf.ones_like(ends), size[None])
        for model in others:
            other, _ = _tokenize(model, tf.gather(words, doubtful))
            other_ends = tf.cumsum(tf.gather(starts, other + 1) - tf.gather(starts, other))
            there = tf.scatter_nd(other_ends[:, None], tf.ones_like(other_ends), size[None])
            differ = tf.where(tf.not_equal(here, there))[:, 0]
            rows = tf.searchsorted(row_ends, tf.cast(differ, tf.int32))
            bad = tf.tensor_scatter_nd_update(bad, rows[:, None], tf.ones_like(rows, tf.bool))
        wrong = tf.where(bad)[:, 0]

        def searched() -> tuple[tf.Tensor, tf.Tensor]:
            first, last = tf.gather(some_splits, wrong), tf.gather(some_splits, wrong + 1)
            at, _ = _ranges(first, last)
            used = tf.gather(some, at)
            places, _ = _ranges(tf.gather(starts, used), tf.gather(starts, used + 1))
            lengths = tf.math.segment_sum(tf.gather(sizes, at), tf.repeat(tf.range(tf.size(wrong)), last - first))
            word_splits = tf.concat([[0], tf.cumsum(tf.cast(lengths, tf.int64))], axis=0)
            found, found_count = best_paths(
                tf.gather(text, places), word_splits, trie, scores, int((self.pieces.starts[1:] - self.pieces.starts[:-1]).max())
            )
            rows = tf.gather(doubtful, wrong)[:, None]
            found_ends = tf.cumsum(found_count) + tf.size(pieces)
            new_first = tf.tensor_scatter_nd_update(splits[:-1], rows, found_ends - found_count)
            new_last = tf.tensor_scatter_nd_update(splits[1:], rows, found_ends)
            at, new_splits = _ranges(new_first, new_last)
            return tf.gather(tf.concat([pieces, found], axis=0), at), new_splits

        return tf.cond(tf.size(wrong) > 0, searched, lambda: (pieces, splits))

    def __str__(self) -> str:
        return f"Unigram: {len(self.pieces.ids):,} pieces, best path of each word by {len(self.models)} proofs"


def _tokenize(model: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers of the pieces (int32, packed) and their row splits (int32)."""
    from tensorflow_text.python.ops.fast_sentencepiece_tokenizer import gen_fast_sentencepiece_tokenizer

    pieces, splits = gen_fast_sentencepiece_tokenizer.tf_text_fast_sentencepiece_tokenize(
        model, words, 0, 0, False, False, False
    )
    return pieces, splits


def _ranges(starts: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The numbers of all ranges in a row (int32), and their row splits (int32)."""
    import tensorflow as tf

    ranges = tf.raw_ops.RaggedRange(starts=starts, limits=ends, deltas=tf.constant(1), Tsplits=tf.int32)
    return ranges.rt_dense_values, ranges.rt_nested_splits


def unigram_steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    """The whole chain. Raises :class:`~toolkit.errors.UnsupportedError` for what only the tables show to be inexact."""
    compiled = compiled_unigram(spec)
    raw = [token.content for token in spec.added_tokens if not token.normalized]
    late = [token.content for token in spec.added_tokens if token.normalized]
    steps: list[Step] = []
    if compiled.raw_passes:
        steps.append(RegexStep(f"find in the text: {', '.join(map(repr, raw)) or 'nothing'}", compiled.raw_passes))
    if compiled.early_charmap:
        steps.append(NormalizeCharacters(compiled.early_charmap, 0))
    if compiled.mark_passes:
        steps.append(FindClusters("find short grapheme clusters", compiled.cluster_passes, compiled.mark_passes))
    steps.append(NormalizeCharacters(compiled.charmap, compiled.changed))
    if late:
        steps.append(RegexStep(f"find in the normalized text: {', '.join(map(repr, late))}", compiled.mapped_passes))
    if compiled.gap_passes:
        steps.append(RegexStep("strip and join spaces", compiled.gap_passes))
    steps.append(Unigram(compiled.models, compiled.pieces, compiled.longest_path, spec.model.unk_id))
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)
