"""Build the graph of a tokenizer: a chain of steps from strings to packed ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import tensorflow as tf

from toolkit.tokenizer.bpe.spec import BytePairModel
from toolkit.tokenizer.bpe.steps import bytepair_steps, character_pair_steps
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel
from toolkit.tokenizer.engines import Engine, require_engine
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import PackedTokens, Step, Tokens
from toolkit.tokenizer.unigram.spec import UnigramModel
from toolkit.tokenizer.unigram.steps import unigram_steps
from toolkit.tokenizer.wordpiece.spec import WordPieceModel
from toolkit.tokenizer.wordpiece.steps import wordpiece_steps

__all__ = ["TokenizerGraph"]

_STEPS: Mapping[type, Callable[[TokenizerSpec, Engine], tuple[Step, ...]]] = {
    WordPieceModel: wordpiece_steps,
    UnigramModel: lambda spec, _: unigram_steps(spec),
    BytePairModel: lambda spec, _: bytepair_steps(spec),
    CharacterPairModel: lambda spec, _: character_pair_steps(spec),
}


class TokenizerGraph(tf.Module):  # type: ignore[misc]
    """Strings to packed token ids, equal to the ``tokenizers`` package on every text.

    ``steps`` run in order; each prints itself on one line. What the steps need is held by this object, so that
    functions which call it share it and a SavedModel contains it once, with no asset files.
    """

    def __init__(self, steps: tuple[Step, ...], pad_id: int, engine: Engine) -> None:
        super().__init__(name="tokenizer")
        self.steps = steps
        self.pad_id = pad_id
        self.engine = engine
        self._held = [step.held() for step in steps]

    def __call__(self, text: tf.Tensor) -> PackedTokens:
        """Tokenize ``text``, strings [batch] (bytes; broken UTF-8 reads as U+FFFD)."""
        *_, (_, packed) = self.trace(text)
        return cast("PackedTokens", packed)

    def tokens(self, text: tf.Tensor) -> Tokens:
        """The tokens of ``text`` alone: no special tokens around them, and nothing cut off."""
        *_, (_, found) = itertools.islice(self.trace(text), len(self.steps) - 1)  # all but AddSpecialTokens
        return cast("Tokens", found)

    def trace(self, text: tf.Tensor) -> Iterator[tuple[Step, Any]]:
        """Each step with its result."""
        value: Any = text
        for step, held in zip(self.steps, self._held, strict=True):
            # read here, not in a loop or branch of a step, where a server would read it again and again
            read = [item.read_value() if isinstance(item, tf.Variable) else item for item in held]
            value = step.apply(value, *read)
            yield step, value


def build(spec: TokenizerSpec, engine: Engine) -> TokenizerGraph:
    """See :func:`toolkit.tokenizer.build_tokenizer`."""
    require_engine(spec, engine)
    return TokenizerGraph(_STEPS[type(spec.model)](spec, engine), spec.pad_id, engine)
