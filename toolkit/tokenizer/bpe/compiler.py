"""Compile a byte-level BPE tokenizer into regular expressions and models of two kernels of tensorflow-text, exactly.

:mod:`toolkit.tokenizer.bpe.tokens` says why the kernels' results are those of the ``tokenizers`` package.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolkit.tokenizer.bpe.marks import mark_passes
from toolkit.tokenizer.bpe.sentencepiece import bpe_model
from toolkit.tokenizer.bpe.spec import BYTES, BytePairModel
from toolkit.tokenizer.bpe.splitting import split_passes
from toolkit.tokenizer.bpe.tables import CompiledBytePairs
from toolkit.tokenizer.bpe.tokens import fits, lookup_model, marked_tokens, pattern, ranks, reachable, word_pattern
from toolkit.tokenizer.composition import compile_composition
from toolkit.tokenizer.spec import TokenizerSpec, reference_tokenizer

__all__ = ["NUL", "compile_bytepairs"]

NUL = "\u0100"
"""What byte 0 becomes for SentencePiece; each other byte becomes the character of the same number."""


def compile_bytepairs(spec: TokenizerSpec) -> CompiledBytePairs:
    """Compile ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    model = spec.model
    assert isinstance(model, BytePairModel)
    composition = None if model.form is None else compile_composition(spec.file, model.form)
    among = [token for token in model.tokens if token and BYTES.keys() >= set(token)]
    made = reachable(model.tokens, model.merges, among)
    forms = _normal_forms(spec)
    added = marked_tokens(spec.file, spec.added_tokens, forms)
    pieces, piece_ids = _pieces(model, made)
    words, word_ids = _words(spec, model, made, added)
    raw, late = ([token for token in spec.added_tokens if token.normalized == late] for late in (False, True))
    word = word_pattern(spec.added_tokens)
    return CompiledBytePairs(
        mark_passes([pattern(token, token.content) for token in raw], word, late=False),
        mark_passes([pattern(token, forms[token.content]) for token in late], word, late=bool(raw)),
        split_passes(model.split, model.earlier, prefixed=model.prefixed, tokens=forms.values()),
        words,
        word_ids,
        pieces,
        piece_ids,
        composition,
    )


def _normal_forms(spec: TokenizerSpec) -> dict[str, str]:
    """The added tokens' contents as they are when all normalization is done, also of those found before that."""
    normalizer = reference_tokenizer(spec, max_length=None).normalizer
    return {
        token.content: token.content if normalizer is None else normalizer.normalize_str(token.content)
        for token in spec.added_tokens
    }


def _pieces(model: BytePairModel, made: set[str]) -> tuple[bytes, npt.NDArray[np.int32]]:
    """SentencePiece's model, and the token id of each of its pieces."""
    rank = ranks(model.merges, made)
    text = {character: chr(byte) if byte else NUL for character, byte in BYTES.items()}
    tokens = sorted(made, key=model.tokens.__getitem__)
    pieces = (("".join(map(text.__getitem__, token)).encode(), -float(rank.get(token, 0))) for token in tokens)
    return bpe_model(pieces), np.array([model.tokens[token] for token in tokens], np.int32)


def _words(
    spec: TokenizerSpec, model: BytePairModel, made: set[str], added: dict[bytes, int]
) -> tuple[bytes, npt.NDArray[np.int32]]:
    """The look-up kernel's model, and the token id of each of its words (the last two: of none)."""
    words: dict[bytes, int] = {}
    for token, token_id in model.tokens.items():
        if token not in made and not model.whole_parts:
            continue
        if not BYTES.keys() >= set(token):
            continue  # no part of a text looks like this
        word = bytes(map(BYTES.__getitem__, token))
        # A part of a text is whole characters.
        if _is_text(word) and fits(spec.file, token, word, merged=token in made):
            words[word] = token_id
    return lookup_model({**words, **added})


def _is_text(word: bytes) -> bool:
    try:
        return bool(word.decode())
    except UnicodeDecodeError:
        return False
