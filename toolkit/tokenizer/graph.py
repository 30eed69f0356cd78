"""Build the graph of a tokenizer: a chain of steps from strings to packed ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import tensorflow as tf

from toolkit.tokenizer.bpe.spec import BytePairModel
from toolkit.tokenizer.bpe.steps import bytepair_steps
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import PackedTokens, Step
from toolkit.tokenizer.unigram.spec import UnigramModel
from toolkit.tokenizer.unigram.steps import unigram_steps
from toolkit.tokenizer.wordpiece.spec import WordPieceModel
from toolkit.tokenizer.wordpiece.steps import wordpiece_steps

__all__ = ["TokenizerGraph"]

_STEPS: Mapping[type, Callable[[TokenizerSpec], tuple[Step, ...]]] = {
    WordPieceModel: wordpiece_steps,
    UnigramModel: unigram_steps,
    BytePairModel: bytepair_steps,
}


class TokenizerGraph(tf.Module):  # type: ignore[misc]
    """Strings to packed token ids, equal to the ``tokenizers`` package on every text.

    ``steps`` run in order; each prints itself on one line. The steps' buffers are constants held by this object, so
    that functions which call it share them and a SavedModel contains them once, with no asset files.
    """

    def __init__(self, steps: tuple[Step, ...], pad_id: int) -> None:
        super().__init__(name="tokenizer")
        self.steps = steps
        self.pad_id = pad_id
        self._buffers = [[tf.constant(buffer) for buffer in step.buffers()] for step in steps]

    def __call__(self, text: tf.Tensor) -> PackedTokens:
        """Tokenize ``text``, strings [batch] (bytes; broken UTF-8 reads as U+FFFD)."""
        *_, (_, packed) = self.trace(text)
        return cast("PackedTokens", packed)

    def trace(self, text: tf.Tensor) -> Iterator[tuple[Step, Any]]:
        """Each step with its result."""
        value: Any = text
        for step, buffers in zip(self.steps, self._buffers, strict=True):
            value = step.apply(value, *buffers)
            yield step, value


def build(spec: TokenizerSpec) -> TokenizerGraph:
    """See :func:`toolkit.tokenizer.build_tokenizer`."""
    return TokenizerGraph(_STEPS[type(spec.model)](spec), spec.pad_id)
