"""Build the graph of a tokenizer: a chain of steps from strings to packed ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import tensorflow as tf

from toolkit.tokenizer.compiled import compiled_wordpiece
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.steps import (
    AddSpecialTokens,
    LimitWords,
    NormalizeCharacters,
    PackedTokens,
    RegexStep,
    Step,
    WordPiece,
)

__all__ = ["TokenizerGraph"]


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
    return TokenizerGraph(_steps(spec), spec.pad_id)


def _steps(spec: TokenizerSpec) -> tuple[Step, ...]:
    compiled = compiled_wordpiece(spec)
    model = spec.model
    raw = [token.content for token in spec.added_tokens if not token.normalized]
    late = [token.content for token in spec.added_tokens if token.normalized]
    steps: list[Step] = []
    if raw:
        steps.append(RegexStep(f"find in the text: {_listed(raw)}", compiled.raw_passes))
    steps.append(NormalizeCharacters(compiled.charmap, compiled.changed))
    if late:
        steps.append(RegexStep(f"find in the normalized text: {_listed(late)}", compiled.mapped_passes))
    steps.append(LimitWords(f"words of more than {model.max_chars} characters are unknown", compiled.limit_passes))
    steps.append(WordPiece(compiled.pieces, compiled.ids, model.unk_token, model.prefix))
    steps.append(AddSpecialTokens(spec.template.before, spec.template.after, spec.max_length, spec.truncation_side))
    return tuple(steps)


def _listed(contents: list[str]) -> str:
    shown = ", ".join(repr(content) for content in contents[:8])
    return f"{shown} and {len(contents) - 8} more" if len(contents) > 8 else shown
