"""The steps of a Unigram tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.seen import SeenWords, digest
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import AddSpecialTokens, Buffer, NormalizeCharacters, RegexStep, Step, Tokens, listed
from toolkit.tokenizer.unigram.compiled import compiled_unigram
from toolkit.tokenizer.unigram.early import RareRegexStep
from toolkit.tokenizer.unigram.exact import Trie, best_paths
from toolkit.tokenizer.unigram.lattice import SUM_LIMIT
from toolkit.tokenizer.unigram.spec import UnigramModel
from toolkit.tokenizer.unigram.tables import Pieces

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["FindClusters", "Unigram", "unigram_steps"]


@dataclass(frozen=True)
class FindClusters(Step):
    """Find short grapheme clusters, in the texts that are not ``plain``: mark the ends of runs of marks (``ends``) and,
    only if there is any, look at the characters before (``passes``)."""

    plain: tuple[str, ...] = field(repr=False)
    ends: Passes = field(repr=False)
    passes: Passes = field(repr=False)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        plain = [tf.strings.regex_full_match(value, pattern) for pattern in self.plain]
        found = tf.where(~tf.reduce_all(plain, axis=0))

        def find() -> tf.Tensor:
            # What is replaced for broken UTF-8 counts as a character of a cluster.
            some = tf.strings.unicode_transcode(tf.gather_nd(value, found), "UTF-8", "UTF-8", errors="replace")
            for pattern, rewrite in (*self.ends, *self.passes):
                some = tf.strings.regex_replace(some, pattern, rewrite)
            return tf.tensor_scatter_nd_update(value, found, some)

        return tf.cond(tf.size(found) > 0, find, lambda: value)

    def __str__(self) -> str:
        return "find short grapheme clusters"


@dataclass(frozen=True)
class Unigram(Step):
    """Split at white space and find the most probable pieces of each word; unknown pieces in a row are one.

    The kernel looks for the best path with each of several rounded versions of the scores. Where they agree, it is the
    best one with the exact scores (see :mod:`toolkit.tokenizer.unigram.lattice`); the few other words go through
    :func:`~toolkit.tokenizer.unigram.exact.best_paths`. Words whose pieces were found before are only looked up
    (:mod:`toolkit.tokenizer.seen`).
    """

    models: tuple[bytes, ...] = field(repr=False)
    pieces: Pieces = field(repr=False)
    longest_path: int
    longest_word: int
    unk_id: int
    seen: SeenWords = field(default_factory=SeenWords)

    def buffers(self) -> tuple[Buffer, ...]:
        tables = (getattr(self.pieces, part.name) for part in fields(Pieces))
        return (*tables, *(np.frombuffer(model, np.uint8) for model in self.models))

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> Tokens:
        import tensorflow as tf

        tables = {part.name: buffer for part, buffer in zip(fields(Pieces), buffers, strict=False)}
        models = buffers[len(tables) :]
        split = tf.strings.split(value)
        words, which = tf.unique(split.values)
        found = self.seen.look_up(self.digest, words, lambda some: self._searched(some, tables, models))
        at, splits = _ranges(tf.gather(found.starts, which), tf.gather(found.ends, which))
        row_splits = tf.gather(splits, split.row_splits)
        return Tokens(tf.gather(found.token_ids, at), tf.cast(row_splits, tf.int64))

    @cached_property
    def digest(self) -> str:
        """Of everything that the tokens of a word depend on."""
        return digest(self.buffers(), self.longest_path, self.longest_word, self.unk_id)

    def _searched(
        self, words: tf.Tensor, tables: dict[str, tf.Tensor], models: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The token ids of words (packed) and their row splits."""
        import tensorflow as tf

        pieces, splits = _tokenize(models[0], words)
        count = splits[1:] - splits[:-1]
        certain = tf.gather(tables["certain"], tf.gather(tf.pad(pieces, [[0, 1]]), splits[:-1]))
        doubtful = tf.where((count != 1) | ~certain)[:, 0]
        pieces, splits = tf.cond(
            tf.size(doubtful) > 0,
            lambda: self._proved(_Paths(words, pieces, splits, doubtful, tables), models),
            lambda: (pieces, splits),
        )
        return self._fused(tf.gather(tables["ids"], pieces), splits)

    def _fused(self, token_ids: tf.Tensor, splits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The words' token ids and splits, a word's unknown ones in a row as one."""
        import tensorflow as tf

        unknown = tf.equal(token_ids, self.unk_id)
        begins = tf.scatter_nd(splits[:, None], tf.ones_like(splits), [tf.size(token_ids) + 1])[:-1] > 0
        keep = ~(unknown & tf.concat([[False], unknown], axis=0)[:-1]) | begins
        kept = tf.pad(tf.cumsum(tf.cast(keep, tf.int32)), [[1, 0]])
        return tf.boolean_mask(token_ids, keep), tf.gather(kept, splits)

    def _proved(self, paths: _Paths, models: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        """The pieces and splits of all words, the doubtful ones proved or replaced."""
        import tensorflow as tf

        bad = paths.uncertain(self.longest_path, self.longest_word)
        if len(models) > 1:
            rows = tf.where(~bad)[:, 0]
            rows = tf.boolean_mask(rows, paths.differ(models[1:2], rows))
            rows = tf.cond(
                tf.size(rows) > 0, lambda: tf.boolean_mask(rows, paths.differ(models[2:], rows)), lambda: rows
            )
            bad = tf.tensor_scatter_nd_update(bad, rows[:, None], tf.ones_like(rows, tf.bool))
        wrong = tf.where(bad)[:, 0]
        starts = self.pieces.starts
        begins = (self.pieces.text & 0xC0) != 0x80
        longest = int(np.add.reduceat(begins, starts[:-1], dtype=np.int32).max())
        kept = paths.pieces, paths.splits
        replaced, splits = tf.cond(tf.size(wrong) > 0, lambda: paths.searched(wrong, longest), lambda: kept)
        return replaced, splits

    def __str__(self) -> str:
        return f"Unigram: {len(self.pieces.ids):,} pieces, the most probable ones of each word; {self.seen}"


class _Paths:
    """The paths of the ``doubtful`` ones among ``words``, as the first version of the scores has them."""

    def __init__(
        self, words: tf.Tensor, pieces: tf.Tensor, splits: tf.Tensor, doubtful: tf.Tensor, tables: dict[str, tf.Tensor]
    ) -> None:
        import tensorflow as tf

        self.pieces, self.splits, self.doubtful, self.tables = pieces, splits, doubtful, tables
        self.words = tf.gather(words, doubtful)
        first = tf.gather(splits, doubtful)
        self.count = tf.gather(splits[1:], doubtful) - first
        at, self.some_splits = _ranges(first, first + self.count)
        self.some = tf.gather(pieces, at)
        self.row = tf.searchsorted(self.some_splits[1:], tf.range(tf.size(self.some)), side="right")
        self.size = tf.math.segment_sum(self._sizes(self.some), self.row)

    def _table(self, name: str, pieces: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.gather(self.tables[name], pieces)

    def _sizes(self, pieces: tf.Tensor) -> tf.Tensor:
        return self._table("starts", pieces + 1) - self._table("starts", pieces)

    def uncertain(self, longest_path: int, longest_word: int) -> tf.Tensor:
        """Which words no version of the scores proves: long ones, those whose sums single precision may not hold, at
        the pieces' ends or inside them, and those with a piece whose score is not of single precision."""
        import tensorflow as tf

        gain = tf.cast(self._table("units", self.some), tf.int64)
        total = tf.cumsum(gain)
        before = tf.gather(tf.pad(total, [[1, 0]]), self.some_splits[:-1])
        total -= tf.gather(before, self.row)
        reach = tf.cast(self._table("room", self.some), tf.int64)
        far = tf.maximum(tf.abs(total), tf.abs(total - gain)) + reach > SUM_LIMIT
        bad = tf.cast(far | self._table("inexact", self.some), tf.int32)
        return (tf.math.segment_max(bad, self.row) > 0) | (self.count > longest_path) | (self.size > longest_word)

    def differ(self, models: tuple[tf.Tensor, ...], rows: tf.Tensor) -> tf.Tensor:
        """In which of these rows some of ``models`` finds another path.

        Paths through the same words are the same if their pieces end at the same places.
        """
        import tensorflow as tf

        first = tf.gather(self.some_splits, rows)
        at, splits = _ranges(first, first + tf.gather(self.count, rows))
        ends = tf.cumsum(self._sizes(tf.gather(self.some, at)))
        row_ends = tf.gather(tf.pad(ends, [[1, 0]]), splits[1:])
        size = tf.reduce_max(tf.pad(ends, [[1, 0]]))[None] + 1
        here = tf.scatter_nd(ends[:, None], tf.ones_like(ends), size)
        words = tf.gather(self.words, rows)
        differ = tf.zeros_like(rows, tf.bool)
        for model in models:
            other, _ = _tokenize(model, words)
            other_ends = tf.cumsum(self._sizes(other))
            there = tf.scatter_nd(other_ends[:, None], tf.ones_like(other_ends), size)
            places = tf.cast(tf.where(tf.not_equal(here, there))[:, 0], tf.int32)
            found = tf.searchsorted(row_ends, places)
            differ = tf.tensor_scatter_nd_update(differ, found[:, None], tf.ones_like(found, tf.bool))
        return differ

    def searched(self, rows: tf.Tensor, longest: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The pieces and splits of all words, with the exact best paths of these rows."""
        import tensorflow as tf

        first = tf.gather(self.some_splits, rows)
        count = tf.gather(self.count, rows)
        at, _ = _ranges(first, first + count)
        used = tf.gather(self.some, at)
        starts = self._table("starts", used)
        places, _ = _ranges(starts, starts + self._sizes(used))
        text_splits = tf.pad(tf.cumsum(tf.gather(self.size, rows)), [[1, 0]])
        trie = Trie(*(self.tables[name] for name in Trie._fields))
        found, found_count = best_paths(
            tf.gather(self.tables["text"], places), text_splits, trie, self.tables["scores"], longest
        )
        words = tf.gather(self.doubtful, rows)[:, None]
        ends = tf.cumsum(found_count) + tf.size(self.pieces)
        new_first = tf.tensor_scatter_nd_update(self.splits[:-1], words, ends - found_count)
        new_last = tf.tensor_scatter_nd_update(self.splits[1:], words, ends)
        at, splits = _ranges(new_first, new_last)
        return tf.gather(tf.concat([self.pieces, found], axis=0), at), splits


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
    assert isinstance(spec.model, UnigramModel)
    compiled = compiled_unigram(spec)
    raw = [token.content for token in spec.added_tokens if not token.normalized]
    late = [token.content for token in spec.added_tokens if token.normalized]
    steps: list[Step] = []
    if compiled.raw_passes:
        title = f"find in the text: {listed(raw) or 'nothing'}"
        steps.append(RareRegexStep(title, compiled.raw_passes, compiled.rare))
    steps += [stage.step() for stage in compiled.early]
    if compiled.mark_passes:
        steps.append(FindClusters(compiled.plain, compiled.mark_passes, compiled.cluster_passes))
    steps.append(NormalizeCharacters(compiled.charmap, compiled.changed))
    if late:
        steps.append(RegexStep(f"find in the normalized text: {listed(late)}", compiled.mapped_passes))
    if compiled.gap_passes:
        steps.append(RegexStep("strip and join spaces", compiled.gap_passes))
    steps.append(
        Unigram(compiled.models, compiled.pieces, compiled.longest_path, compiled.longest_word, spec.model.unk_id)
    )
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)
