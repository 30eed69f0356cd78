"""Marks around tokens found in the text, and at the ends of the parts it is split into.

A mark is the three bytes that UTF-8 would have for a surrogate. No valid text contains them, RE2 takes them for
characters like any other, and so nothing of the text needs to be set aside for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.tokenizer.added import SPACES, Passes, Pattern
from toolkit.tokenizer.patterns import literal

__all__ = ["ANY", "BREAK", "END", "START", "mark_passes", "pattern_of"]

BREAK, START, END = "\ud800", "\ud801", "\ud802"
_LATE_START, _LATE_END, _BAD_START, _BAD_END = "\ud803", "\ud804", "\ud805", "\ud806"
ANY = r"\x{D800}-\x{DFFF}"
"""All marks, inside a character class."""


def pattern_of(mark: str) -> str:
    """A pattern for a mark."""
    return f"\\x{{{ord(mark):X}}}"


def mark_passes(tokens: Sequence[Pattern], word: str | None, *, late: bool) -> Passes:
    """Passes that put ``START`` and ``END`` around each of ``tokens``, as the ``tokenizers`` package finds them.

    ``word`` is a pattern for one word character, needed if some token is ``single_word``. ``late``: there may be
    marked tokens already; nothing is looked for inside them.
    """
    if not tokens:
        return ()
    start, end = (_LATE_START, _LATE_END) if late else (START, END)
    s, e, bad_s, bad_e = map(pattern_of, (start, end, _BAD_START, _BAD_END))
    old = [f"{pattern_of(START)}[^{pattern_of(END)}]*{pattern_of(END)}"] if late else []
    passes = [(f"(?:{'|'.join([*old, _any(tokens)])})", rf"{start}\0{end}")]
    if late:
        passes += [(s + pattern_of(START), START), (pattern_of(END) + e, END)]
    single = [token for token in tokens if token.single_word]
    if single:
        # A token between word characters is dropped; what it covered stays covered. The neighbour may be the end or
        # the beginning of another match.
        passes += [
            (f"((?:{word}){e}?){s}", rf"\1{_BAD_START}"),
            (f"{e}([{s}{bad_s}]?(?:{word}))", rf"{_BAD_END}\1"),
            (f"[{s}{bad_s}]({_any(single)}){bad_e}|{bad_s}({_any(single)}){e}", r"\1\2"),
            (bad_s, start),
            (bad_e, end),
        ]
    for strips, form in (
        ([t for t in tokens if t.lstrip], rf"{SPACES}+({s}(?:{{}}){e})"),
        ([t for t in tokens if t.rstrip], rf"({s}(?:{{}}){e}){SPACES}+"),
    ):
        if strips:
            passes.append((form.replace("{}", _any(strips)), r"\1"))
    if late:
        passes += [(s, START), (e, END)]
    return tuple(passes)


def _any(tokens: Sequence[Pattern]) -> str:
    """A pattern for any of the tokens' contents, the longest that is there."""
    return "|".join(map(literal, sorted((token.content for token in tokens), key=len, reverse=True)))
