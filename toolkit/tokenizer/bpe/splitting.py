"""The pre-tokenizer's regular expression for RE2, which has neither lookahead nor the tokenizer's Unicode tables.

``\\p{L}`` and the like become the ranges that the tokenizer's own engine matches. ``\\s+(?!\\S)``, which leaves the
last character of white space before a word to that word, becomes a mark in front of this character.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from toolkit.tokenizer.added import Passes
from toolkit.tokenizer.bpe.marks import ANY, BREAK, END, START, pattern_of
from toolkit.tokenizer.bpe.spec import GPT2, PARTIAL, Digits, Prefixed
from toolkit.tokenizer.characters import CODE_POINTS
from toolkit.tokenizer.patterns import character_class

__all__ = ["members", "split_passes"]

_LOOKAHEAD = r"\s+(?!\S)|\s+"
_IGNORING_CASE = re.compile(r"\(\?i:([^)]*)\)")
_ATOM = re.compile(r"\[\^|\[|\]|\\p\{\w+\}|\\s|\\.|.", re.DOTALL)
_ALL = [*range(0xD800), *range(0xE000, CODE_POINTS)]


def members(pattern: str, among: Sequence[int] = _ALL) -> list[int]:
    """The code points of ``among`` that ``pattern``, one character long, matches in the ``tokenizers`` package."""
    from tokenizers import Regex, normalizers

    delete = normalizers.Replace(Regex(f"(?:{pattern})+"), "").normalize_str
    found: list[int] = []
    for part in (among[at : at + 4096] for at in range(0, len(among), 4096)):
        text = "".join(map(chr, part))
        rest = delete(text)
        if len(rest) < len(text):
            found += sorted(set(part).difference(map(ord, rest)))
    return found


def split_passes(
    split: str, earlier: Sequence[str | Digits] = (), *, prefixed: Prefixed | None, tokens: Collection[str]
) -> Passes:
    """Passes that put ``BREAK`` after every part of a text, and maybe before it as well, as those of ``earlier`` split,
    then by ``split``, and the spaces of those that are ``prefixed``; there may be marked ``tokens`` in the text."""
    newline = "" if split == GPT2 else "\r\n"
    translate = _Translation()
    space, word = translate(r"\s"), translate(r"[^\s]")
    # The last of several characters of white space before something else; newer patterns end parts after newlines.
    last = character_class(set(members(r"\s")) - set(map(ord, newline)))
    marked = f"{pattern_of(START)}[^{pattern_of(END)}]*{pattern_of(END)}|" if tokens else ""
    patterns = [_digits(part) if isinstance(part, Digits) else translate(part) for part in earlier]
    first = [(f"(?:{marked}{pattern})", rf"{BREAK}\0{BREAK}") for pattern in patterns]
    runs = f"({space})({last}{word})"
    if any(re.search(r"\s\s\S", token) for token in tokens):
        passes = [(f"({marked[:-1]})|{runs}", rf"\1\2{BREAK}\3")]
    else:
        passes = [(runs, rf"\1{BREAK}\2")]
    before = BREAK if split in PARTIAL else ""
    passes.append((f"(?:{marked}{translate(split.replace(_LOOKAHEAD, _LOOKAHEAD[-3:]))})", rf"{before}\0{BREAK}"))
    spaces = []
    if prefixed:
        mark = BREAK if earlier or prefixed == "part" else END
        spaces = [(f"^[^ {ANY}]", r" \0"), (f"{pattern_of(mark)}([^ {ANY}])", rf"{mark} \1")]
    return (*first, *passes, *spaces) if prefixed == "part" else (*first, *spaces, *passes)


def _digits(apart: Digits) -> str:
    """The pattern of what a ``Digits`` pre-tokenizer makes a part."""
    from tokenizers import pre_tokenizers

    parts = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a".join(map(chr, _ALL)))
    digits = character_class({ord(found) for found, _ in parts if len(found) == 1} - {ord("a")})
    return digits if apart.each else f"{digits}+"


class _Translation:
    """Rewrites patterns, asking for each class of characters once."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def __call__(self, pattern: str) -> str:
        pattern = _IGNORING_CASE.sub(lambda match: f"(?:{self._ignoring_case(match[1])})", pattern)
        out, inside = [], False
        for atom in _ATOM.findall(pattern):
            if atom in ("[", "[^"):
                inside = True
                out.append(atom if atom == "[" else f"[^{ANY}")
            elif atom == "]":
                inside = False
                out.append(atom)
            elif atom.startswith(r"\p") or atom == r"\s":
                ranges = self._ranges(atom)
                out.append(ranges if inside else f"[{ranges}]")
            else:
                out.append(atom)
        return "".join(out)

    def _ranges(self, atom: str) -> str:
        if atom not in self._classes:
            self._classes[atom] = character_class(members(atom))[1:-1]
        return self._classes[atom]

    def _ignoring_case(self, pattern: str) -> str:
        """Each letter as the class of all that match it in any case (the long s among them)."""
        letters = sorted(set(filter(str.isalpha, pattern)))
        candidates = members(f"(?i:{'|'.join(letters)})")
        classes = {letter: character_class(members(f"(?i:{letter})", candidates)) for letter in letters}
        return "".join(classes.get(character, character) for character in pattern)
