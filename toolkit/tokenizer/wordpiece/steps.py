"""The steps of a WordPiece tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.tokenizer.engines import Engine
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import AddSpecialTokens, Buffer, NormalizeCharacters, RegexStep, Step, Tokens, listed
from toolkit.tokenizer.wordpiece.compiled import compiled_wordpiece
from toolkit.tokenizer.wordpiece.spec import WordPieceModel
from toolkit.tokenizer.wordpiece.tables import CompiledWordPiece

if TYPE_CHECKING:
    import tensorflow as tf


__all__ = ["BertTokenizer", "FastBertTokenizer", "LimitWords", "WordPiece", "wordpiece_steps"]


@dataclass(frozen=True)
class LimitWords(RegexStep):
    """Make words of too many characters unknown."""


@dataclass(frozen=True)
class WordPiece(Step):
    """Greedy longest match of the vocabulary's pieces inside each word."""

    compiled: CompiledWordPiece = field(repr=False)
    unk_token: str
    prefix: str

    def buffers(self) -> tuple[Buffer, ...]:
        return np.frombuffer(self.compiled.model, np.uint8), self.compiled.ids

    def apply(self, value: tf.Tensor, *held: Any) -> Tokens:
        import tensorflow as tf
        from tensorflow_text.python.ops.fast_wordpiece_tokenizer import gen_fast_wordpiece_tokenizer

        model, ids = held
        _, pieces, row_splits, _, _ = gen_fast_wordpiece_tokenizer.fast_wordpiece_tokenize_with_offsets(
            input_values=value, wp_model=model
        )
        return Tokens(tf.gather(ids, pieces), row_splits)

    def __str__(self) -> str:
        count = len(self.compiled.ids)
        return f"{type(self).__name__}: {count:,} pieces, continuing {self.prefix!r}, unknown {self.unk_token!r}"


class FastBertTokenizer(WordPiece):
    """The class of this name in tensorflow-text. Its normalizer has nothing to do on the prepared text."""

    def held(self) -> tuple[Any, ...]:
        import tensorflow as tf
        import tensorflow_text

        tokenizer = tensorflow_text.FastBertTokenizer(
            fast_wordpiece_model_buffer=self.compiled.model, token_out_type=tf.int32
        )
        return tokenizer, tf.constant(self.compiled.ids)

    def apply(self, value: tf.Tensor, *held: Any) -> Tokens:
        import tensorflow as tf

        tokenizer, ids = held
        rows = tokenizer.tokenize(value)
        return Tokens(tf.gather(ids, rows.values), rows.row_splits)


class BertTokenizer(WordPiece):
    """The class of this name in tensorflow-text, with a table of the pieces; it splits at what the prepared text is
    split at already, and looks every part of a word up."""

    def held(self) -> tuple[Any, ...]:
        import tensorflow as tf
        import tensorflow_text

        prefix, *pieces = json.loads(self.compiled.pieces)
        initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(pieces), tf.constant(self.compiled.ids, tf.int64))
        tokenizer = tensorflow_text.BertTokenizer(
            tf.lookup.StaticHashTable(initializer, -1),
            suffix_indicator=prefix,
            max_bytes_per_word=self.compiled.max_bytes,
            unknown_token=pieces[-1],
        )
        return (tokenizer,)

    def apply(self, value: tf.Tensor, *held: Any) -> Tokens:
        import tensorflow as tf

        rows = held[0].tokenize(value).merge_dims(-2, -1)
        return Tokens(tf.cast(rows.values, tf.int32), rows.row_splits)


_ENGINES: Mapping[Engine, type[WordPiece]] = {
    "compiled": WordPiece,
    "BertTokenizer": BertTokenizer,
    "FastBertTokenizer": FastBertTokenizer,
}


def wordpiece_steps(spec: TokenizerSpec, engine: Engine) -> tuple[Step, ...]:
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
    steps.append(_ENGINES[engine](compiled, model.unk_token, model.prefix))
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)
