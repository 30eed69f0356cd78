"""Compile a byte-level BPE tokenizer into regular expressions and models of two kernels of tensorflow-text, exactly.

Most parts that a text is split into are tokens. A kernel made for WordPiece, ``FastWordpieceTokenizeWithOffsets``,
looks them up: it is given a vocabulary without continuing pieces, so that a word is either found whole or unknown. What
it does not know is merged by ``SentencepieceTokenizeOp``, each different part once.

SentencePiece merges the two neighbours whose union is the token with the best score, the ``tokenizers`` package the two
that are the best merge. Both come to the same where each token has the rank of the one merge that its own text is made
by, and tokens whose own text is not merged into them are left out. For in any text the merges inside the span of a
token are those made in the token's text alone, in the same order, as long as none crosses the span's ends; so a token
is only ever made the way it is made from its own text, and one that is not made from it is never made.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import characters
from toolkit.tokenizer.added import Pattern
from toolkit.tokenizer.bpe.marks import END, START, mark_passes
from toolkit.tokenizer.bpe.sentencepiece import bpe_model
from toolkit.tokenizer.bpe.spec import BYTES, BytePairModel
from toolkit.tokenizer.bpe.splitting import split_passes
from toolkit.tokenizer.bpe.tables import CompiledBytePairs
from toolkit.tokenizer.composition import compile_composition
from toolkit.tokenizer.patterns import character_class
from toolkit.tokenizer.spec import AddedToken, TokenizerSpec, reference_tokenizer

__all__ = ["NUL", "compile_bytepairs"]

NUL = "\u0100"
"""What byte 0 becomes for SentencePiece; each other byte becomes the character of the same number."""

_MAX_WORD_BYTES = 256  # tensorflow_text/core/kernels/fast_wordpiece_tokenizer_utils.h
# What a WordPiece vocabulary needs, of bytes that no text contains. Without a continuing piece the kernel's builder
# would add one for U+0011; for this character it also has another use, and it takes C strings.
_PREFIX, _CONTINUING, _UNKNOWN = b"\xff", b"\xff\xff", b"\xfe"
_UNFIT = (b"\0", b"\x11")


def compile_bytepairs(spec: TokenizerSpec) -> CompiledBytePairs:
    """Compile ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    model = spec.model
    assert isinstance(model, BytePairModel)
    composition = compile_composition(spec.file, "NFC") if model.compose else None
    reachable = _reachable(model)
    forms = _normal_forms(spec)
    added = _marked_tokens(spec, forms)
    pieces, piece_ids = _pieces(model, reachable)
    words, word_ids = _words(spec, model, reachable, added)
    raw, late = ([token for token in spec.added_tokens if token.normalized == late] for late in (False, True))
    word = None
    if any(token.single_word for token in spec.added_tokens):
        word = character_class(map(int, np.flatnonzero(characters.probe_words())))
    return CompiledBytePairs(
        mark_passes([_pattern(token, token.content) for token in raw], word, late=False),
        mark_passes([_pattern(token, forms[token.content]) for token in late], word, late=bool(raw)),
        split_passes(model.split, prefix_space=model.prefix_space, tokens=bool(spec.added_tokens)),
        words,
        word_ids,
        pieces,
        piece_ids,
        composition,
    )


def _pattern(token: AddedToken, content: str) -> Pattern:
    return Pattern(content, None, token.single_word, token.lstrip, token.rstrip)


def _normal_forms(spec: TokenizerSpec) -> dict[str, str]:
    """The added tokens' contents as they are when all normalization is done, also of those found before that."""
    normalizer = reference_tokenizer(spec, max_length=None).normalizer
    return {
        token.content: token.content if normalizer is None else normalizer.normalize_str(token.content)
        for token in spec.added_tokens
    }


def _marked_tokens(spec: TokenizerSpec, forms: dict[str, str]) -> dict[bytes, int]:
    """The words that tokens found in the text become, marks included, with their ids."""
    words: dict[bytes, int] = {}
    for token in spec.added_tokens:
        word = f"{START}{forms[token.content]}{END}".encode("utf-8", "surrogatepass")
        if words.setdefault(word, token.id) != token.id:
            raise UnsupportedError(
                spec.file, "added_tokens.content", token.content, "contents that differ after normalization"
            )
        if len(word) > _MAX_WORD_BYTES or b"\0" in word:
            raise UnsupportedError(
                spec.file,
                "added_tokens.content",
                token.content,
                f"{_MAX_WORD_BYTES - 6} bytes of UTF-8, none of them 0",
            )
    return words


def _reachable(model: BytePairModel) -> set[str]:
    """The tokens that their own text is merged into."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(dict(model.tokens), list(model.merges)))
    tokens = [token for token in model.tokens if token and BYTES.keys() >= set(token)]
    encoded = tokenizer.encode_batch_fast(tokens, add_special_tokens=False)
    return {token for token, row in zip(tokens, encoded, strict=True) if row.ids == [model.tokens[token]]}


def _pieces(model: BytePairModel, reachable: set[str]) -> tuple[bytes, npt.NDArray[np.int32]]:
    """SentencePiece's model, and the token id of each of its pieces."""
    ranks = _ranks(model, reachable)
    text = {character: chr(byte) if byte else NUL for character, byte in BYTES.items()}
    tokens = sorted(reachable, key=model.tokens.__getitem__)
    pieces = (("".join(map(text.__getitem__, token)).encode(), -float(ranks.get(token, 0))) for token in tokens)
    return bpe_model(pieces), np.array([model.tokens[token] for token in tokens], np.int32)


def _ranks(model: BytePairModel, reachable: set[str]) -> dict[str, int]:
    """The rank of the merge that makes each token from its own text."""
    made: defaultdict[str, list[int]] = defaultdict(list)
    for rank, (left, right) in enumerate(model.merges):
        made[left + right].append(rank)
    # A later entry for the same pair replaces the earlier one.
    rank_of = {pair: rank for rank, pair in enumerate(model.merges)}
    return {
        token: ranks[0] if len(ranks) == 1 else rank_of[_last_merge(token, rank_of)]
        for token, ranks in made.items()
        if token in reachable
    }


def _last_merge(token: str, rank_of: dict[tuple[str, str], int]) -> tuple[str, str]:
    """The merge that makes ``token`` from its own text, where several could."""
    symbols = list(token)
    while len(symbols) > 2:
        _, at = min((rank_of.get(pair, len(rank_of)), at) for at, pair in enumerate(pairwise(symbols)))
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols[0], symbols[1]


def _words(
    spec: TokenizerSpec, model: BytePairModel, reachable: set[str], added: dict[bytes, int]
) -> tuple[bytes, npt.NDArray[np.int32]]:
    """The look-up kernel's model, and the token id of each of its words (the last two: of none)."""
    from tensorflow_text.core.pybinds import pywrap_fast_wordpiece_tokenizer_model_builder as builder

    words: dict[bytes, int] = {}
    for token, token_id in model.tokens.items():
        if token not in reachable and not model.whole_parts:
            continue
        if not BYTES.keys() >= set(token):
            continue  # no part of a text looks like this
        word = bytes(map(BYTES.__getitem__, token))
        if not _is_text(word):
            continue  # a part of a text is whole characters
        if len(word) <= _MAX_WORD_BYTES and not any(byte in word for byte in _UNFIT):
            words[word] = token_id
        elif token not in reachable:
            raise UnsupportedError(
                spec.file,
                "model.ignore_merges",
                f"true, for token {token[:40]!r}",
                f"such tokens of at most {_MAX_WORD_BYTES} bytes, none of them 0x00 or 0x11",
            )
    words.update(added)
    data = builder.build_fast_wordpiece_model(
        [*words, _UNKNOWN, _CONTINUING], _MAX_WORD_BYTES, _PREFIX, _UNKNOWN, True, False
    )
    return data, np.array([*words.values(), -1, -1], np.int32)


def _is_text(word: bytes) -> bool:
    try:
        return bool(word.decode())
    except UnicodeDecodeError:
        return False
