"""What merges make of single tokens, and the models of the kernels that find them: for all kinds of BPE.

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
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import characters
from toolkit.tokenizer.added import Pattern
from toolkit.tokenizer.bpe.marks import END, START
from toolkit.tokenizer.patterns import character_class

if TYPE_CHECKING:
    from toolkit.tokenizer.spec import AddedToken

__all__ = ["MAX_WORD_BYTES", "fits", "lookup_model", "marked_tokens", "pattern", "ranks", "reachable", "word_pattern"]

MAX_WORD_BYTES = 256  # tensorflow_text/core/kernels/fast_wordpiece_tokenizer_utils.h
# What a WordPiece vocabulary needs, of bytes that no text contains. Without a continuing piece the kernel's builder
# would add one for U+0011; for this character it also has another use, and it takes C strings.
_PREFIX, _CONTINUING, _UNKNOWN = b"\xff", b"\xff\xff", b"\xfe"
_UNFIT = (b"\0", b"\x11")

Merges = Sequence[tuple[str, str]]


def reachable(tokens: Mapping[str, int], merges: Merges, among: Iterable[str]) -> set[str]:
    """Those of ``among`` that their own text is merged into."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(dict(tokens), list(merges)))
    chosen = list(among)
    encoded = tokenizer.encode_batch_fast(chosen, add_special_tokens=False)
    return {token for token, row in zip(chosen, encoded, strict=True) if row.ids == [tokens[token]]}


def ranks(merges: Merges, chosen: set[str]) -> dict[str, int]:
    """The rank of the merge that makes each of the ``chosen`` tokens, which are reachable, from its own text."""
    made: defaultdict[str, list[int]] = defaultdict(list)
    for rank, (left, right) in enumerate(merges):
        made[left + right].append(rank)
    # A later entry for the same pair replaces the earlier one.
    rank_of = {pair: rank for rank, pair in enumerate(merges)}
    return {
        token: found[0] if len(found) == 1 else rank_of[_last_merge(token, rank_of)]
        for token, found in made.items()
        if token in chosen
    }


def _last_merge(token: str, rank_of: dict[tuple[str, str], int]) -> tuple[str, str]:
    """The merge that makes ``token`` from its own text, where several could."""
    symbols = list(token)
    while len(symbols) > 2:
        _, at = min((rank_of.get(pair, len(rank_of)), at) for at, pair in enumerate(pairwise(symbols)))
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols[0], symbols[1]


def pattern(token: AddedToken, content: str) -> Pattern:
    """How ``token`` is looked for where its content reads ``content``."""
    return Pattern(content, None, token.single_word, token.lstrip, token.rstrip)


def word_pattern(tokens: Iterable[AddedToken]) -> str | None:
    """A pattern for one word character, if some token is looked for as a word."""
    if not any(token.single_word for token in tokens):
        return None
    return character_class(map(int, np.flatnonzero(characters.probe_words())))


def marked_tokens(file: str, tokens: Iterable[AddedToken], forms: Mapping[str, str]) -> dict[bytes, int]:
    """The words that tokens found in the text become, marks included, with their ids.

    ``forms`` are the contents as they are when the text is split. Raises
    :class:`~toolkit.errors.UnsupportedError` for contents that no word can hold.
    """
    words: dict[bytes, int] = {}
    for token in tokens:
        word = f"{START}{forms[token.content]}{END}".encode("utf-8", "surrogatepass")
        if words.setdefault(word, token.id) != token.id:
            raise UnsupportedError(
                file, "added_tokens.content", token.content, "contents that differ after normalization"
            )
        if len(word) > MAX_WORD_BYTES or b"\0" in word:
            raise UnsupportedError(
                file, "added_tokens.content", token.content, f"{MAX_WORD_BYTES - 6} bytes of UTF-8, none of them 0"
            )
    return words


def fits(file: str, token: str, word: bytes, *, merged: bool) -> bool:
    """Whether the look-up kernel can hold ``word``; those that are ``merged`` as well need not be looked up.

    Raises :class:`~toolkit.errors.UnsupportedError` for one that is neither.
    """
    if len(word) <= MAX_WORD_BYTES and not any(byte in word for byte in _UNFIT):
        return True
    if not merged:
        raise UnsupportedError(
            file,
            "model.ignore_merges",
            f"true, for token {token[:40]!r}",
            f"such tokens of at most {MAX_WORD_BYTES} bytes, none of them 0x00 or 0x11",
        )
    return False


def lookup_model(words: Mapping[bytes, int]) -> tuple[bytes, npt.NDArray[np.int32]]:
    """The look-up kernel's model, and the token id of each of its words (the last two: of none)."""
    from tensorflow_text.core.pybinds import pywrap_fast_wordpiece_tokenizer_model_builder as builder

    data = builder.build_fast_wordpiece_model(
        [*words, _UNKNOWN, _CONTINUING], MAX_WORD_BYTES, _PREFIX, _UNKNOWN, True, False
    )
    return data, np.array([*words.values(), -1, -1], np.int32)
