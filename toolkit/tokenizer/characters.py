"""What a tokenizer does to each single character, asked of the tokenizer itself.

Unicode tables differ between versions and implementations; the only tables that make a graph exact are those inside
the tokenizer. Its normalizer and pre-tokenizer are therefore asked about all 1,112,064 code points, a few thousand at
a time: a few long strings are far cheaper than a million short ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "CODE_POINTS",
    "DELETED",
    "ISOLATED",
    "LONGER",
    "SPACE",
    "WORD",
    "Characters",
    "probe",
    "probe_words",
]

CODE_POINTS = 0x110000
WORD, SPACE, ISOLATED = 0, 1, 2  # a part of a word, a gap between words, a word of its own
DELETED, LONGER = -1, -2

_CHUNK = 4096
_SEPARATOR = "0"


@dataclass(frozen=True)
class Characters:
    """``single[c]``: the normal form of code point ``c`` if it is one code point, ``DELETED``, or ``LONGER`` and then
    found in ``longer``. ``kind[d]``: what the pre-tokenizer makes of ``d``: ``WORD``, ``SPACE`` or ``ISOLATED``.
    Both are arrays over all code points; surrogates are ``DELETED``.
    """

    single: npt.NDArray[np.int32] = field(repr=False)
    longer: dict[int, str] = field(repr=False)
    kind: npt.NDArray[np.uint8] = field(repr=False)


def probe(tokenizer: Tokenizer) -> Characters:
    """Ask ``tokenizer`` (whose normalizer works character by character) about every code point."""
    kind = np.zeros(CODE_POINTS, np.uint8)
    single = np.arange(CODE_POINTS, dtype=np.int32)
    single[0xD800:0xE000] = DELETED
    longer: dict[int, str] = {}
    normalizer = tokenizer.normalizer
    for first in _chunks():
        text = _characters(first)
        kind[first : first + len(text)] = _kinds(tokenizer.pre_tokenizer, text)
        if normalizer is not None and (forms := _normal_forms(normalizer.normalize_str, text)):
            lengths = np.fromiter(map(len, forms), np.int64, len(forms))
            part = np.full(len(forms), LONGER, np.int32)
            part[lengths == 0] = DELETED
            part[lengths == 1] = _ordinals("".join(form for form in forms if len(form) == 1))
            single[first : first + len(text)] = part
            longer.update((first + int(i), forms[i]) for i in np.flatnonzero(lengths > 1))
    return Characters(single, longer, kind)


def probe_words() -> npt.NDArray[np.bool_]:
    """Which code points the ``tokenizers`` package takes for word characters beside a ``single_word`` token."""
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer: Any = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    tokenizer.add_tokens([AddedToken("xx", single_word=True, normalized=False)])
    word = np.zeros(CODE_POINTS, np.bool_)
    for first in _chunks():
        text = _characters(first)
        encoding = tokenizer.encode("".join(f"{character}xx " for character in text), add_special_tokens=False)
        starts = [start for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if token != 0]
        found = np.ones(len(text), np.bool_)
        found[(np.array(starts, np.int64) - 1) // 4] = False
        word[first : first + len(text)] = found
    return word


def _chunks() -> range:
    return range(0, CODE_POINTS, _CHUNK)


def _characters(first: int) -> str:
    """The characters of a chunk; the one with the surrogates ends before them."""
    return "".join(map(chr, range(first, 0xD800 if first == 0xD000 else first + _CHUNK)))


def _ordinals(text: str) -> npt.NDArray[np.int32]:
    return np.frombuffer(text.encode("utf-32-le"), "<i4").astype(np.int32)


def _normal_forms(normalize: Callable[[str], str], text: str) -> list[str]:
    """The normal form of each character of ``text``; none if they all are their own."""
    separated = _SEPARATOR + _SEPARATOR.join(text) + _SEPARATOR
    normal = normalize(separated)
    if normal == separated:
        return []
    forms = normal.split(_SEPARATOR)[1:-1]
    if len(forms) == len(text):
        return forms
    # A normal form contains the separator itself.
    return [normalize(f"{_SEPARATOR}{character}{_SEPARATOR}")[1:-1] for character in text]


def _kinds(pre_tokenizer: Any, text: str) -> npt.NDArray[np.uint8]:
    """Kind of each character: between letters, a character is inside the surrounding piece, its own piece, or none."""
    covered = np.zeros(2 * len(text) + 1, np.int64)  # length of the piece that covers a position, 0: no piece
    for _, (start, end) in pre_tokenizer.pre_tokenize_str(f"a{'a'.join(text)}a"):
        covered[start:end] = end - start
    lengths = covered[1::2]
    return np.where(lengths == 0, SPACE, np.where(lengths == 1, ISOLATED, WORD)).astype(np.uint8)
