"""Which step of a BPE tokenizer is to blame for a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from toolkit.tokenizer.bpe.marks import BREAK
from toolkit.tokenizer.bpe.spec import BYTES
from toolkit.tokenizer.composition import ComposeCharacters
from toolkit.tokenizer.steps import RegexStep, Step

if TYPE_CHECKING:
    from tokenizers import Encoding

    from toolkit.tokenizer.comparison import Comparison

__all__ = ["diverging_character_step", "diverging_step"]


def diverging_step(comparison: Comparison, text: str, expected: Encoding) -> Step:
    """The first step that disagrees with the original, whose encoding of ``text`` is ``expected``.

    The added tokens found are the same in both, the tokens are not.
    """
    *before, (merge, _), _ = comparison.graph.trace(tf.constant([text], tf.string))
    normalizer, pre_tokenizer = comparison.full.normalizer, comparison.full.pre_tokenizer
    split, marked = before[-1]
    if any(token in comparison.added for token in expected.ids):
        # Parts beside tokens found in the text: told apart by their number alone.
        parts = [part for part in marked.numpy()[0].split(_bytes(BREAK)) if part]
        return merge if len(parts) == len(set(filter(lambda word: word is not None, expected.word_ids))) else split
    normal = text if normalizer is None else normalizer.normalize_str(text)
    for step, value in before:
        if isinstance(step, ComposeCharacters) and value.numpy()[0].decode() != normal:
            return step
    wanted = [bytes(map(BYTES.__getitem__, part)) for part, _ in pre_tokenizer.pre_tokenize_str(normal)]
    found = [part for part in marked.numpy()[0].split(_bytes(BREAK)) if part]
    return merge if found == wanted else split


def diverging_character_step(comparison: Comparison, text: str, expected: Encoding) -> Step:
    """Likewise for a tokenizer over characters, whose text may be cut where the original has one part.

    Beside tokens found in the text only the merges are told apart from the rest.
    """
    *before, (merge, _), _ = comparison.graph.trace(tf.constant([text], tf.string))
    split, marked = before[-1]
    if any(token in comparison.added for token in expected.ids):
        return merge
    normalizer, pre_tokenizer = comparison.full.normalizer, comparison.full.pre_tokenizer
    normal = text if normalizer is None else normalizer.normalize_str(text)
    wanted = [normal] if pre_tokenizer is None else [part for part, _ in pre_tokenizer.pre_tokenize_str(normal)]
    for step, value in before:
        if isinstance(step, RegexStep) and str(step).startswith("normalize") and _differ(value.numpy()[0], normal):
            return step
    return split if _differ(marked.numpy()[0], "".join(wanted)) else merge


def _differ(text: bytes, wanted: str) -> bool:
    """Whether texts differ in more than marks, and that spaces stand for ``▁``
    (:mod:`toolkit.tokenizer.bpe.whole_compiler`)."""
    return text.replace(_bytes(BREAK), b"").decode().replace("▁", " ") != wanted.replace("▁", " ")


def _bytes(mark: str) -> bytes:
    return mark.encode("utf-8", "surrogatepass")
