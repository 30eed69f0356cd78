"""Tokens that are looked for in the text: regular-expression passes that replace each one by something of its own.

The ``tokenizers`` package looks for all tokens of a kind at once: leftmost match, the longest one there, none
overlapping; a match of a ``single_word`` token between word characters is dropped, yet what it covered stays covered.
Where no two contents can overlap, one pass for each token comes to the same. Otherwise all matches are marked at one
go, the marks beside word characters are changed, and then each token is replaced where its marks allow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolkit.tokenizer.patterns import character_class, literal

__all__ = ["MARKS", "SPACES", "Pattern", "match_passes", "strip_passes"]

MARKS = 4
# The White_Space property, which has been stable for years; what \s means to the package.
SPACES = character_class(
    [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)

Passes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pattern:
    """A token's ``content`` as it stands in the text, and the ``replacement`` for it."""

    content: str
    replacement: str
    single_word: bool


def match_passes(tokens: Sequence[Pattern], marks: Sequence[str], word: str | None) -> Passes:
    """Passes that replace ``tokens``; of equal contents the first counts.

    ``marks`` are ``MARKS`` characters that the text does not contain; ``word`` is a pattern for one word character,
    needed if some token is ``single_word``.
    """
    first = {token.content: token for token in reversed(tokens)}
    tokens = sorted(first.values(), key=lambda token: -len(token.content))
    if not any(token.single_word for token in tokens) and not _may_overlap([token.content for token in tokens]):
        return tuple((literal(token.content), token.replacement) for token in tokens)
    return tuple(_marked_passes(tokens, marks, word))


def _marked_passes(tokens: Sequence[Pattern], marks: Sequence[str], word: str | None) -> Iterator[tuple[str, str]]:
    start, end, bad_start, bad_end = marks
    yield f"({'|'.join(literal(token.content) for token in tokens)})", rf"{start}\1{end}"
    if any(token.single_word for token in tokens):
        # The neighbour may be the end or the beginning of another match.
        yield f"((?:{word}){end}?){start}", rf"\1{bad_start}"
        yield f"{end}([{start}{bad_start}]?(?:{word}))", rf"{bad_end}\1"
    for token in tokens:
        content = literal(token.content)
        if token.single_word:
            yield f"{start}{content}{end}", token.replacement
        else:
            yield f"[{start}{bad_start}]{content}[{end}{bad_end}]", token.replacement
    yield f"[{''.join(marks)}]", ""


def _may_overlap(contents: Sequence[str]) -> bool:
    """Whether one content may begin inside another one."""
    pairs = ((a, b) for a in contents for b in contents if a != b)
    return any(b in a or any(a.endswith(b[:size]) for size in range(1, len(b))) for a, b in pairs)


def strip_passes(left: Sequence[str], right: Sequence[str]) -> Passes:
    """Passes that delete the white space before the characters ``left`` and after the characters ``right``."""
    passes = []
    if left:
        passes.append((f"{SPACES}+([{''.join(left)}])", r"\1"))
    if right:
        passes.append((f"([{''.join(right)}]){SPACES}+", r"\1"))
    return tuple(passes)
