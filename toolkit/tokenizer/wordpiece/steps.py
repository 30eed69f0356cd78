"""The steps of a WordPiece tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import AddSpecialTokens, Buffer, NormalizeCharacters, RegexStep, Step, Tokens, listed
from toolkit.tokenizer.wordpiece.compiled import compiled_wordpiece
from toolkit.tokenizer.wordpiece.spec import WordPieceModel

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.tokenizer.wordpiece.spec import WordPieceModel

__all__ = ["LimitWords", "WordPiece", "wordpiece_steps"]


@dataclass(frozen=True)
class LimitWords(RegexStep):
    """Make words of too many characters unknown."""


@dataclass(frozen=True)
class WordPiece(Step):
    """Greedy longest match of the vocabulary's pieces inside each word."""

    model: bytes = field(repr=False)
    ids: npt.NDArray[np.int32] = field(repr=False)
    unk_token: str
    prefix: str

    def buffers(self) -> tuple[Buffer, ...]:
        return np.frombuffer(self.model, np.uint8), self.ids

    def apply(self, value: tf.Tensor, *buffers: tf.Tensor) -> Tokens:
        import tensorflow as tf
        from tensorflow_text.python.ops.fast_wordpiece_tokenizer import gen_fast_wordpiece_tokenizer

        model, ids = buffers
        _, pieces, row_splits, _, _ = gen_fast_wordpiece_tokenizer.fast_wordpiece_tokenize_with_offsets(
            input_values=value, wp_model=model
        )
        return Tokens(tf.gather(ids, pieces), row_splits)

    def __str__(self) -> str:
        return f"WordPiece: {len(self.ids):,} pieces, continuing {self.prefix!r}, unknown {self.unk_token!r}"


def wordpiece_steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    """The whole chain. Raises :class:`~toolkit.errors.UnsupportedError` for what only the tables show to be inexact."""
    compiled = compiled_wordpiece(spec)
    model = spec.model
    assert isinstance(model, WordPieceModel)
    raw = [token.content for token in spec.added_tokens if not token.normalized]
    late = [token.content for token in spec.added_tokens if token.normalized]
    steps: list[Step] = []
    if raw:
        steps.append(RegexStep(f"find in the text: {listed(raw)}", compiled.raw_passes))
    steps.append(NormalizeCharacters(compiled.charmap, compiled.changed))
    if late:
        steps.append(RegexStep(f"find in the normalized text: {listed(late)}", compiled.mapped_passes))
    steps.append(LimitWords(f"words of more than {model.max_chars} characters are unknown", compiled.limit_passes))
    steps.append(WordPiece(compiled.pieces, compiled.ids, model.unk_token, model.prefix))
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)
