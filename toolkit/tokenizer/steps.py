"""The steps of a tokenizer graph: small dataclasses that print themselves on one line and add their ops.

Those that every kind of tokenizer shares are here. The first ones map a string tensor [batch] to another, the last but
one makes :class:`Tokens`, and :class:`AddSpecialTokens` the final :class:`PackedTokens`. Only ops are used that the
stock TF Serving binary links from version 2.12 on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "AddSpecialTokens",
    "NormalizeCharacters",
    "PackedTokens",
    "RegexStep",
    "Step",
    "Tokens",
    "listed",
]

Buffer = npt.NDArray[Any]
_LARGE = 1 << 16  # bytes


class Tokens(NamedTuple):
    """Rows of token ids end to end: ``ids`` int32 [total], ``row_splits`` int64 [batch + 1]."""

    ids: tf.Tensor
    row_splits: tf.Tensor


class PackedTokens(NamedTuple):
    """What a tokenizer graph returns.

    ``ids`` int32 [total tokens]: special tokens included, truncated, rows end to end; ``row_splits`` int32
    [batch + 1]; ``num_tokens`` int32 [batch]: each row's length before truncation, special tokens included.
    """

    ids: tf.Tensor
    row_splits: tf.Tensor
    num_tokens: tf.Tensor


class Step(ABC):
    """One step. What it holds is made once for each graph, is part of the model and comes back as arguments of
    ``apply``.
    """

    def buffers(self) -> tuple[Buffer, ...]:
        """Arrays that the step's ops need."""
        return ()

    def held(self) -> tuple[Any, ...]:
        """What ``apply`` is given: the buffers, or other objects that a ``tf.Module`` keeps track of."""
        return tuple(map(_table, self.buffers()))

    @abstractmethod
    def apply(self, value: Any, *held: Any) -> Any:
        """Add the step's ops to the current graph."""


@dataclass(frozen=True)
class RegexStep(Step):
    """Replace every match of each pattern in turn (RE2 syntax; leftmost first, not overlapping)."""

    title: str
    passes: tuple[tuple[str, str], ...] = field(repr=False)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        for pattern, rewrite in self.passes:
            # A rewrite may contain marks that are no characters of a valid text.
            value = tf.strings.regex_replace(value, pattern, rewrite.encode("utf-8", "surrogatepass"))
        return value

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True)
class NormalizeCharacters(Step):
    """Replace each character by its string of the character map; broken UTF-8 counts as U+FFFD."""

    model: bytes = field(repr=False)
    changed: int

    def buffers(self) -> tuple[Buffer, ...]:
        return (np.frombuffer(self.model, np.uint8),)

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> tf.Tensor:
        from tensorflow_text.python.ops.fast_bert_normalizer import gen_fast_bert_normalizer

        text, _, _ = gen_fast_bert_normalizer.fast_bert_normalize(
            input_values=value, fast_bert_normalizer_model=buffers[0], get_offsets=False
        )
        return text

    def __str__(self) -> str:
        return f"normalize and split at single characters: {self.changed:,} code points change"


@dataclass(frozen=True)
class AddSpecialTokens(Step):
    """Cut each row to fit ``max_length``, then put the special tokens around it."""

    before: tuple[tuple[str, int], ...]
    after: tuple[tuple[str, int], ...]
    max_length: int | None
    side: str

    def apply(self, value: Tokens, *buffers: tf.Tensor) -> PackedTokens:
        import tensorflow as tf

        row_splits = tf.cast(value.row_splits, tf.int32)
        specials = [token_id for _, token_id in self.before + self.after]
        starts, ends = row_splits[:-1], row_splits[1:]
        length = ends - starts
        num_tokens = length + len(specials)
        if self.max_length is None and not specials:
            return PackedTokens(value.ids, row_splits, num_tokens)
        if self.max_length is not None:
            excess = tf.maximum(num_tokens - self.max_length, 0)
            starts, ends = (starts + excess, ends) if self.side == "left" else (starts, ends - excess)
        # Each row is three ranges of [special tokens, all ids]; one op lists their places in order.
        first, second = len(self.before), len(specials)
        zero = tf.zeros_like(starts)
        starts = tf.stack([zero, starts + second, zero + first], axis=1)
        ends = tf.stack([zero + first, ends + second, zero + second], axis=1)
        starts, ends = tf.reshape(starts, [-1]), tf.reshape(ends, [-1])
        ranges = tf.raw_ops.RaggedRange(starts=starts, limits=ends, deltas=tf.constant(1), Tsplits=tf.int32)
        ids = tf.concat([tf.constant(specials, tf.int32), value.ids], axis=0)
        return PackedTokens(tf.gather(ids, ranges.rt_dense_values), ranges.rt_nested_splits[::3], num_tokens)

    def __str__(self) -> str:
        row = " ".join([*(token for token, _ in self.before), "…", *(token for token, _ in self.after)])
        if self.max_length is None:
            return f"add special tokens: {row}"
        return f"cut to {self.max_length} tokens on the {self.side}, add special tokens: {row}"


def _table(buffer: Buffer) -> tf.Tensor | tf.Variable:
    """A large buffer as a variable: a server copies the constants of a graph many times over while it loads it."""
    import tensorflow as tf

    if buffer.nbytes < _LARGE:
        return tf.constant(buffer)
    return tf.Variable(buffer, trainable=False, name="table")


def listed(contents: list[str]) -> str:
    """The first few of many token contents, for printing."""
    shown = ", ".join(repr(content) for content in contents[:8])
    return f"{shown} and {len(contents) - 8} more" if len(contents) > 8 else shown
