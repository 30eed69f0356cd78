"""Tokens that are looked for in the text: regular-expression passes that replace each one by something of its own.

The ``tokenizers`` package looks for all tokens of a kind at once: leftmost match, the longest one there, none
overlapping; a match of a ``single_word`` token between word characters is dropped, yet what it covered stays covered.
Where no two contents can overlap, it comes to the same to look for one after the other. Otherwise all matches are
marked at one go, the marks beside word characters are changed, and then tokens are replaced where their marks allow.

A pass costs more than the characters it looks at, so one pass replaces up to nine tokens. Its rewrite is the same for
all of them: a start of the group's own, then the nine capture groups with fillers in between, then an end. Which group
has captured something, a character of the token, tells which token it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from toolkit.tokenizer.patterns import character_class, literal

__all__ = ["MARKS", "SPACES", "Codes", "Pattern", "match_passes"]

MARKS = 4
# The White_Space property, which has been stable for years; what \s means to the package.
SPACES = character_class(
    [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)

_GROUPS = 9  # that a rewrite can name

Passes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pattern:
    """A token's ``content`` as it stands in the text. ``anchor`` is the place in it of a character to capture; without
    one the token takes a pass of its own.
    """

    content: str
    anchor: int | None
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False

    @property
    def captured(self) -> str:
        """A pattern that captures the anchor."""
        if self.anchor is None:
            return literal(self.content)
        before, anchor, after = (
            self.content[: self.anchor],
            self.content[self.anchor],
            self.content[self.anchor + 1 :],
        )
        return f"{literal(before)}({literal(anchor)}){literal(after)}"


@dataclass(frozen=True)
class Codes:
    """Characters that the text does not contain: ``marks`` (``MARKS`` of them), the ``filler`` and ``end`` of a
    replacement, and ``starts``, as many as there may be passes. ``outside`` stands before and after a replacement.
    """

    marks: str
    filler: str
    end: str
    starts: Iterator[str] = field(repr=False)
    outside: str = ""


def match_passes(tokens: Sequence[Pattern], codes: Codes, word: str | None) -> tuple[Passes, dict[str, str]]:
    """Passes that replace ``tokens``, whose contents are distinct, and the replacement of each content.

    ``word`` is a pattern for one word character, needed if some token is ``single_word``. White space beside tokens
    with ``lstrip`` and ``rstrip`` is not deleted; see :func:`strip_passes`.
    """
    contents = sorted((token.content for token in tokens), key=len, reverse=True)
    single = any(token.single_word for token in tokens)
    marked = single or _may_overlap(contents)
    passes: list[tuple[str, str]] = []
    start, end, bad_start, bad_end = tuple(codes.marks)
    if marked:
        passes.append((f"({'|'.join(map(literal, contents))})", rf"{start}\1{end}"))
    if single:
        # The neighbour may be the end or the beginning of another match.
        passes.append((f"((?:{word}){end}?){start}", rf"\1{bad_start}"))
        passes.append((f"{end}([{start}{bad_start}]?(?:{word}))", rf"{bad_end}\1"))
    replacements: dict[str, str] = {}
    left, right = "", ""
    for group in _groups(tokens):
        begin = next(codes.starts)
        pattern = f"(?:{'|'.join(token.captured for token in group)})"
        if marked:
            loose = not group[0].single_word
            pattern = f"[{start}{bad_start}]{pattern}[{end}{bad_end}]" if loose else f"{start}{pattern}{end}"
        places = [rf"\{number}" if token.anchor is not None else "" for number, token in enumerate(group, 1)]
        passes.append((pattern, codes.outside + begin + codes.filler.join(places) + codes.end + codes.outside))
        for number, token in enumerate(group):
            anchor = "" if token.anchor is None else token.content[token.anchor]
            filled = codes.filler * number + anchor + codes.filler * (len(group) - 1 - number)
            replacements[token.content] = begin + filled + codes.end
        left += begin if group[0].lstrip else ""
        right += begin if group[0].rstrip else ""
    if marked:
        passes.append((f"[{codes.marks}]", ""))
    if left:
        passes.append((f"{SPACES}+([{left}])", r"\1"))
    if right:
        passes.append((f"([{right}][^{codes.end}]*{codes.end}){SPACES}+", r"\1"))
    return tuple(passes), replacements


def _groups(tokens: Iterable[Pattern]) -> Iterator[list[Pattern]]:
    """Tokens that one pass may replace."""

    def attributes(token: Pattern) -> tuple[bool, ...]:
        return token.single_word, token.lstrip, token.rstrip, token.anchor is None

    for key, members in itertools.groupby(sorted(tokens, key=attributes), attributes):
        alone = key[-1]
        rest = list(members)
        while rest:
            size = 1 if alone else _GROUPS
            yield rest[:size]
            rest = rest[size:]


def _may_overlap(contents: Sequence[str]) -> bool:
    """Whether one content may begin inside another one."""
    pairs = ((a, b) for a in contents for b in contents if a != b)
    return any(b in a or any(a.endswith(b[:size]) for size in range(1, len(b))) for a, b in pairs)
