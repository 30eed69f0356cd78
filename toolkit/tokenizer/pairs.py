"""Pairs of texts as one row: both cut to fit together, in the tokenizer's own template for pairs.

The template is asked of the tokenizer itself. The cut is that of ``truncate_encodings`` in the tokenizers package
(release 0.23, ``tokenizers/src/utils/truncation.rs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.spec import Side, TokenizerSpec, reference_tokenizer
from toolkit.tokenizer.steps import Tokens

if TYPE_CHECKING:
    import tensorflow as tf
    from tokenizers import Tokenizer

    from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["STRATEGIES", "PackedPairs", "Pairs", "read_pairs"]

STRATEGIES = ("longest_first", "only_first", "only_second")
"""Which of the two texts loses tokens, as transformers names it: the longer one, or always the same one."""


class Part(NamedTuple):
    """One part of a pair's row: the text of that number (0 or 1), or that special ``token``."""

    text: int | None
    token: str
    token_id: int
    type_id: int


class PackedPairs(NamedTuple):
    """Rows of token ids end to end: ``ids`` and ``type_ids`` int32 [total], ``row_splits`` int32 [batch + 1]."""

    ids: tf.Tensor
    type_ids: tf.Tensor
    row_splits: tf.Tensor


@dataclass(frozen=True)
class Pairs:
    """How pairs become rows: ``parts`` in order, at most ``max_length`` tokens; on ``side`` tokens are lost."""

    parts: tuple[Part, ...]
    max_length: int
    side: Side
    strategy: str

    @property
    def size(self) -> int:
        """How many special tokens a row has."""
        return sum(part.text is None for part in self.parts)

    def __str__(self) -> str:
        row = " ".join(part.token if part.text is None else "AB"[part.text] for part in self.parts)
        return f"{row}, at most {self.max_length} tokens, cut {self.strategy} on the {self.side}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The dtypes of what ``rows`` takes."""
        return ("string", "string")

    def prompted(self, prompt: str, query: tf.Tensor, document: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What ``rows`` takes of queries and documents, strings [batch]: queries with ``prompt`` before them, and
        documents."""
        import tensorflow as tf

        return tf.strings.join([prompt, query]) if prompt else query, document

    def rows(self, tokenizer: TokenizerGraph, query: tf.Tensor, document: tf.Tensor) -> PackedPairs:
        """The rows of pairs."""
        import tensorflow as tf

        # Most requests have one query for many documents: it is tokenized once.
        queries, number = tf.unique(query)
        tokens = tokenizer.tokens(tf.concat([queries, document], 0))
        return self.pack(tokens, number, tf.range(tf.size(document)) + tf.size(queries))

    def pack(self, tokens: Tokens, first: tf.Tensor, second: tf.Tensor) -> PackedPairs:
        """Rows of the texts with the numbers ``first`` and ``second``, int32 [batch], among those of ``tokens``.

        Where only one text may be cut and that is not enough, the graph fails with INVALID_ARGUMENT, as the original
        fails.
        """
        import tensorflow as tf

        splits = tf.cast(tokens.row_splits, tf.int32)
        starts = [tf.gather(splits, number) for number in (first, second)]
        lengths = [tf.gather(splits, number + 1) - start for number, start in zip((first, second), starts, strict=True)]
        kept = self._kept(*lengths)
        if self.side == "left":
            starts = [start + length - keep for start, length, keep in zip(starts, lengths, kept, strict=True)]
        # Each row is several ranges of [special tokens, all ids]; one op lists their places in order.
        specials = [part.token_id for part in self.parts if part.text is None]
        zero, seen = tf.zeros_like(first), 0
        begins, sizes = [], []
        for part in self.parts:
            if part.text is None:
                begins.append(zero + seen)
                sizes.append(zero + 1)
                seen += 1
            else:
                begins.append(starts[part.text] + len(specials))
                sizes.append(kept[part.text])
        begin, size = (tf.reshape(tf.stack(columns, axis=1), [-1]) for columns in (begins, sizes))
        ranges = tf.raw_ops.RaggedRange(starts=begin, limits=begin + size, deltas=tf.constant(1), Tsplits=tf.int32)
        ids = tf.concat([tf.constant(specials, tf.int32), tokens.ids], axis=0)
        types = tf.tile(tf.constant([part.type_id for part in self.parts]), [tf.size(first)])
        return PackedPairs(
            tf.gather(ids, ranges.rt_dense_values),
            tf.repeat(types, size),
            ranges.rt_nested_splits[:: len(self.parts)],
        )

    def _kept(self, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """How many tokens of each text are kept, where they have ``first`` and ``second``."""
        import tensorflow as tf

        room = self.max_length - self.size
        excess = tf.maximum(first + second - room, 0)
        if self.strategy != "longest_first":
            cut, other = (first, second) if self.strategy == "only_first" else (second, first)
            name = "first" if self.strategy == "only_first" else "second"
            cuts = f"of a pair the {name} text alone is cut, to {self.max_length} tokens in all"
            message = f"{cuts}: the other one is too long"
            enough = tf.debugging.Assert(tf.reduce_all((excess == 0) | (cut > excess)), [message])
            with tf.control_dependencies([enough]):
                cut = cut - excess
            return (cut, other) if self.strategy == "only_first" else (other, cut)
        shorter = tf.minimum(first, second)
        longer = tf.where(shorter > room, shorter, tf.maximum(shorter, room - shorter))
        both = shorter + longer > room
        shorter = tf.where(both, room // 2, shorter)
        longer = tf.where(both, room // 2 + room % 2, longer)
        swapped = first > second
        cut = excess > 0
        return (
            tf.where(cut, tf.where(swapped, longer, shorter), first),
            tf.where(cut, tf.where(swapped, shorter, longer), second),
        )


def read_pairs(spec: TokenizerSpec, max_length: int, strategy: str, *, token_types: bool) -> Pairs:
    """How the tokenizer of ``spec`` makes one row of two texts; without ``token_types`` all types are 0.

    Raises ``UnsupportedError`` for a template that a pair does not show, and one with no room for a token.
    """
    tokenizer = reference_tokenizer(spec, max_length=None)
    parts: list[Part] = []
    row = tokenizer.encode("a", "b")
    for token, token_id, type_id, text in zip(row.tokens, row.ids, row.type_ids, row.sequence_ids, strict=True):
        type_id = type_id if token_types else 0
        part = Part(None, token, token_id, type_id) if text is None else Part(text, "", -1, type_id)
        if text is None or part not in parts:
            parts.append(part)
    if sorted(part.text for part in parts if part.text is not None) != [0, 1] or not _hold(tokenizer, parts):
        shown = " ".join(row.tokens)
        raise UnsupportedError(spec.file, "post_processor", shown, "templates that have both texts of a pair once")
    found = Pairs(tuple(parts), max_length, spec.truncation_side, strategy)
    if max_length <= found.size:
        raise UnsupportedError(
            spec.file, "max_length", max_length, f"more than {found.size} (special tokens of a pair)"
        )
    return found


def _hold(tokenizer: Tokenizer, parts: Sequence[Part]) -> bool:
    """Whether another pair is put together of the same parts: the package does not mark a text's second place."""
    texts = ("b b", "a")
    inside = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    expected = [token for part in parts for token in ([part.token_id] if part.text is None else inside[part.text])]
    return bool(tokenizer.encode(*texts).ids == expected)
