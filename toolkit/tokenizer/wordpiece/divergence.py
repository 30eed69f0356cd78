"""Which step of a WordPiece tokenizer is to blame for a difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import tensorflow as tf

from toolkit.tokenizer.steps import Step

if TYPE_CHECKING:
    from tokenizers import Encoding

    from toolkit.tokenizer.comparison import Comparison

__all__ = ["diverging_step"]


def diverging_step(comparison: Comparison, text: str, expected: Encoding) -> Step:
    """The first step that disagrees with the original, whose encoding of ``text`` is ``expected``.

    The added tokens found are the same in both, the tokens are not.
    """

    def words(part: str) -> list[bytes]:
        """The words that reach the step which makes tokens."""
        *before, _, _ = comparison.graph.trace(tf.constant([part], tf.string))
        return list(before[-1][1].numpy()[0].split())

    *before, (pieces, _), _ = comparison.graph.trace(tf.constant([text], tf.string))
    if not before:
        return pieces
    *_, (split, whole), (limit, limited) = before
    if words(text) != [word for part in _original_words(comparison, text, expected) for word in words(part)]:
        return split
    return pieces if whole.numpy() == limited.numpy() else limit


def _original_words(comparison: Comparison, text: str, encoding: Encoding) -> Iterator[str]:
    """The original's words, normalized; tokens found in the text as they stand there."""
    normalizer, pre_tokenizer = comparison.full.normalizer, comparison.full.pre_tokenizer
    spans: dict[int | None, tuple[int, int, bool]] = {}
    for word, token, (start, end) in zip(encoding.word_ids, encoding.ids, encoding.offsets, strict=True):
        spans[word] = (spans.get(word, (start,))[0], end, token in comparison.added)
    for start, end, added in spans.values():
        span = text[start:end]
        if added:
            yield span
        else:
            normal = span if normalizer is None else normalizer.normalize_str(span)
            yield from (part for part, _ in pre_tokenizer.pre_tokenize_str(normal))
