"""Which step of a Unigram tokenizer is to blame for a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from toolkit.tokenizer.steps import NormalizeCharacters, Step

if TYPE_CHECKING:
    from tokenizers import Encoding

    from toolkit.tokenizer.comparison import Comparison

__all__ = ["diverging_step"]


def diverging_step(comparison: Comparison, text: str, expected: Encoding) -> Step:
    """The first step that disagrees with the original, whose encoding of ``text`` is ``expected``.

    The added tokens found are the same in both, the tokens are not. If the original's words, given to the graph one by
    one, make the original's tokens, then the text was normalized or split in another way; otherwise the pieces are to
    blame.
    """
    trace = list(comparison.graph.trace(tf.constant([text], tf.string)))
    pieces = trace[-2][0]
    normalize = [step for step, _ in trace if isinstance(step, NormalizeCharacters)]
    words: dict[int | None, list[tuple[int, tuple[int, int]]]] = {}
    for word, token, span in zip(expected.word_ids, expected.ids, expected.offsets, strict=True):
        words.setdefault(word, []).append((token, span))
    for tokens in words.values():
        start, end = tokens[0][1][0], tokens[-1][1][1]
        *_, (_, found), _ = comparison.graph.trace(tf.constant([text[start:end]], tf.string))
        if found.ids.numpy().tolist() != [token for token, _ in tokens]:
            return pieces
    return normalize[-1]
