"""Pairs of texts as one row by way of a chat template, which puts them into one text (sentence-transformers 6.2).

That text is cut like any other, and would lose what the template ends in, the place where a decoder answers: the last
tokens of a row as long as it may be are then that ending, as ``Transformer._restore_chat_template_suffix`` has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.tokenizer.pairs import PackedPairs
from toolkit.tokenizer.spec import TokenizerSpec, reference_tokenizer

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.tokenizer.graph import TokenizerGraph

__all__ = ["ChatPairs", "Frame", "read_chat_pairs"]

_FILLERS = ("0", "1 2 3 4")
"""Texts that sentence-transformers puts into a template to see what stays the same at its end."""


@dataclass(frozen=True)
class Frame:
    """What a template writes around a query and the document behind it."""

    before: str
    between: str
    after: str

    def around(self, query: str, document: str) -> str:
        """The text of a pair."""
        return f"{self.before}{query}{self.between}{document}{self.after}"

    def __str__(self) -> str:
        return " ".join([*(repr(text[-20:]) for text in (self.before, self.between)), repr(self.after[:20])])


@dataclass(frozen=True)
class ChatPairs:
    """By each prompt the ``frames`` of pairs, and the ids in which a row ends that is ``max_length`` tokens long."""

    frames: Mapping[str, Frame]
    endings: Mapping[str, tuple[int, ...]]
    max_length: int

    def __str__(self) -> str:
        return f"a chat template, ...{next(iter(self.frames.values()))}..., at most {self.max_length} tokens"

    @property
    def columns(self) -> tuple[str, ...]:
        """The dtypes of what ``rows`` takes."""
        return ("string", "int32")

    def prompted(self, prompt: str, query: tf.Tensor, document: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What ``rows`` takes of queries and documents, strings [batch]: the texts of pairs, and the ending."""
        import tensorflow as tf

        frame = self.frames[prompt]
        text = tf.strings.join([frame.before, query, frame.between, document, frame.after])
        return text, tf.constant(self.endings[prompt], tf.int32, [len(self.endings[prompt])])

    def rows(self, tokenizer: TokenizerGraph, text: tf.Tensor, ending: tf.Tensor) -> PackedPairs:
        """The rows of pairs."""
        import tensorflow as tf

        packed = tokenizer(text)
        ids, splits = packed.ids, packed.row_splits
        lengths = splits[1:] - splits[:-1]
        # Of each token, the number of its place in the ending: below 0 where it stands before that.
        place = tf.range(tf.size(ids)) - tf.repeat(splits[1:], lengths) + tf.size(ending)
        last = (place >= 0) & tf.repeat(lengths >= self.max_length, lengths)
        # one more, so that number 0 exists where the ending is empty
        ids = tf.where(last, tf.gather(tf.pad(ending, [[0, 1]]), tf.maximum(place, 0)), ids)
        return PackedPairs(ids, tf.zeros_like(ids), splits)


def read_chat_pairs(
    spec: TokenizerSpec, max_length: int, frames: Mapping[str, Frame], *, keeps_ending: bool
) -> ChatPairs:
    """How the tokenizer of ``spec``, which adds no tokens to a text, makes rows of pairs in ``frames``."""
    tokenizer = reference_tokenizer(spec, max_length=None)

    def ending(frame: Frame) -> tuple[int, ...]:
        first, second = (tokenizer.encode(frame.around(filler, filler)).ids for filler in _FILLERS)
        backwards = zip(reversed(first), reversed(second), strict=False)
        count = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], backwards))
        return tuple(first[len(first) - count :]) if 0 < count < min(len(first), len(second)) else ()

    return ChatPairs(
        frames, {prompt: ending(frame) if keeps_ending else () for prompt, frame in frames.items()}, max_length
    )
