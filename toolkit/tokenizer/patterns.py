"""RE2 patterns: literals and character classes by explicit ranges, so that no Unicode table of the server matters."""

from __future__ import annotations

import string
from collections.abc import Iterable

__all__ = ["character_class", "literal"]

_PLAIN = frozenset(string.ascii_letters + string.digits + "_ ")


def literal(text: str) -> str:
    """A pattern that matches exactly ``text``."""
    return "".join(c if c in _PLAIN or ord(c) > 0x7F else f"\\x{{{ord(c):X}}}" for c in text)


def character_class(code_points: Iterable[int], *, negated: bool = False) -> str:
    """A class of these code points (ascending or not; at least one)."""
    ranges: list[list[int]] = []
    for code_point in sorted(set(code_points)):
        # A range that runs over the surrogates is the same to RE2 and a lot shorter.
        if ranges and (code_point == ranges[-1][1] + 1 or (code_point, ranges[-1][1]) == (0xE000, 0xD7FF)):
            ranges[-1][1] = code_point
        else:
            ranges.append([code_point, code_point])
    parts = (f"\\x{{{a:X}}}" if a == b else f"\\x{{{a:X}}}-\\x{{{b:X}}}" for a, b in ranges)
    return f"[{'^' if negated else ''}{''.join(parts)}]"
