"""What a Unigram tokenizer's normalizers are, in the order of their use, and which of them are refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.added import SPACES
from toolkit.tokenizer.composition import Form
from toolkit.tokenizer.parts import parts

__all__ = ["CHARACTERS", "FORMS", "META", "REGEXES", "Normalization", "is_by_character", "read_normalization"]

META = "▁"

Node = Mapping[str, Any]

CHARACTERS = ("Lowercase", "Nmt", "StripAccents")
"""Normalizers that treat each character by itself."""
FORMS: tuple[Form, ...] = get_args(Form)
_DECOMPOSING = ("NFD", "NFKD")
_RUNS = " {2,}"
REGEXES: Mapping[str, str] = {
    _RUNS: _RUNS,
    r"\s{2,}|[\n\r\t]": rf"{SPACES}{{2,}}|[\n\r\t]",
    r"\s{2,}": rf"{SPACES}{{2,}}",
    r"\s+": rf"{SPACES}+",
    r"\n": r"\n",
    r"[\n\r\t]": r"[\n\r\t]",
}
"""The regular expressions that a ``Replace`` may have, as RE2 is to read them (``\\s`` is the White_Space property)."""
_NORMALIZERS = (
    "Precompiled, once",
    *CHARACTERS,
    *FORMS,
    "Strip",
    "Replace of strings",
    *(f"Replace of '{regex}'" for regex in REGEXES),
    "Prepend",
    "Sequence of these",
)
_BEHIND = (
    *(*CHARACTERS, "NFD or NFKD with StripAccents behind it"),
    "Replace of ' {2,}' at the end, with or without Strip before it",
)


@dataclass(frozen=True)
class Normalization:
    """``early`` are normalizers (JSON) for the text between the tokens found in it, one after the other. Then come the
    precompiled map ``charsmap``, ``after`` it normalizers (JSON) of single characters, and what is done to the spaces:
    those at the ends of a text dropped (``strip_left``, ``strip_right``), a run of them made one (``collapse``).
    """

    early: tuple[Node, ...]
    charsmap: bytes | None = field(repr=False)
    after: tuple[Node, ...]
    strip_left: bool
    strip_right: bool
    collapse: bool


def read_normalization(file: str, node: Any, *, words: bool) -> Normalization:
    """Read ``node``, a tokenizer's normalizer (JSON). ``words``: what follows splits at white space of any kind.

    Raises :class:`~toolkit.errors.UnsupportedError`.
    """
    found: list[Node] = [part for part in parts(node, "normalizers") if not _does_nothing(part)]
    for part in found:
        _check(file, part)
    if words:
        found = _without_needless(found)
    collapse = bool(found) and _is_collapse(found[-1])
    if collapse:
        found.pop()
    kinds = [part["type"] for part in found]
    if "Precompiled" not in kinds:
        last = _last(found)
        return Normalization(tuple(found[:last]), None, tuple(found[last:]), False, False, collapse)
    at = kinds.index("Precompiled")
    behind = found[at + 1 :]
    strips = []
    while collapse and behind and behind[-1]["type"] == "Strip":
        strips.append(behind.pop())
    if _last(behind):
        value = f"{behind[_last(behind) - 1]['type']} after Precompiled"
        raise UnsupportedError(file, "normalizer.type", value, _BEHIND)
    return Normalization(
        early=tuple(found[:at]),
        charsmap=base64.b64decode(found[at]["precompiled_charsmap"]),
        after=tuple(behind),
        strip_left=any(part["strip_left"] for part in strips),
        strip_right=any(part["strip_right"] for part in strips),
        collapse=collapse,
    )


def _check(file: str, part: Node) -> None:
    kind = part["type"]
    if kind == "Replace":
        pattern = part["pattern"]
        if "Regex" in pattern:
            if pattern["Regex"] not in REGEXES:
                raise UnsupportedError(file, "normalizer.pattern", pattern["Regex"], ["strings", *REGEXES])
        elif not pattern["String"]:
            raise UnsupportedError(file, "normalizer.pattern", "", "strings that are not empty")
    elif kind not in (*CHARACTERS, *FORMS, "Precompiled", "Strip", "Prepend"):
        raise UnsupportedError(file, "normalizer.type", kind, _NORMALIZERS)


def _does_nothing(part: Node) -> bool:
    if part["type"] == "Strip":
        return not part["strip_left"] and not part["strip_right"]
    return bool(part["type"] == "Prepend" and not part["prepend"])


def _is_collapse(part: Node) -> bool:
    """Whether a run of spaces becomes one, or the meta symbol, which is what a space becomes."""
    return bool(part["type"] == "Replace" and part["pattern"] == {"Regex": _RUNS} and part["content"] in (" ", META))


def _without_needless(found: Sequence[Node]) -> list[Node]:
    """Where words are split at white space, fewer spaces between and around them change nothing that follows, unless
    something looks for spaces."""
    kept: list[Node] = []
    for part in reversed(found):
        looked_for = any(other["type"] in ("Replace", "Prepend") for other in kept)
        needless = _is_collapse(part) and part["content"] == " " and not looked_for
        if not (needless or (part["type"] == "Strip" and not kept)):
            kept.append(part)
    return kept[::-1]


def _last(found: Sequence[Node]) -> int:
    """How many of these normalizers come before those at the end that treat characters by themselves."""
    for number in range(len(found), 0, -1):
        if not is_by_character(found, number - 1):
            return number
    return 0


def is_by_character(found: Sequence[Node], number: int) -> bool:
    """Whether a normalizer treats each character by itself. Decomposition puts marks in an order, which is more, but
    not if all marks are dropped before the next normalizer that could tell their order."""
    kind = found[number]["type"]
    if kind in CHARACTERS:
        return True
    behind = [part["type"] for part in found[number + 1 :] if part["type"] != "Lowercase"]
    return kind in _DECOMPOSING and behind[:1] == ["StripAccents"]
