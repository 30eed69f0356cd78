"""What a Unigram tokenizer is, and what of one is refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.parts import parts

__all__ = ["META", "UNKNOWN_PENALTY", "UnigramModel", "read_unigram"]

META = "▁"

Gaps = Literal["white space", "spaces", "each space"]

_CHARACTERS = ("Lowercase", "Nmt", "StripAccents")
_DECOMPOSING = ("NFD", "NFKD")
_NORMALIZERS = (
    "Precompiled",
    *_CHARACTERS,
    "NFD or NFKD with StripAccents behind it",
    "Strip",
    "Replace of ' {2,}'",
    "Replace of strings, first of all",
    "Sequence of these",
)
_RUNS = {"Regex": " {2,}"}
_PRE_TOKENIZERS = ("Metaspace", "Sequence of WhitespaceSplit and Metaspace")
UNKNOWN_PENALTY = 10.0
LARGEST_SCORE = 1000.0
"""So that the nearest number of single precision is nearer than half a unit of the rounded scores, 2**-15."""


@dataclass(frozen=True)
class UnigramModel:
    """The most probable sequence of pieces for each word.

    ``vocab`` maps piece to id and ``scores`` to its log probability; ``unknown_score`` is that of a character which is
    no piece by itself. A word begins with the meta symbol ``▁``; ``prefix`` tells whether one is put before words that
    do not begin with it. ``gaps`` says what lies between words: ``white space`` of any kind; ``spaces``, of which a run
    counts as one; or ``each space``, which begins a word. ``strip_right``: gaps at the end of a text are dropped.
    ``replaced`` are strings to replace in the text, one after the other, before anything else is done to it.
    ``before``, ``charsmap`` and ``after`` are what is done to the characters: normalizers (JSON) before and after the
    one with a precompiled map, and that map.
    """

    vocab: Mapping[str, int] = field(repr=False)
    scores: Mapping[str, float] = field(repr=False)
    unk_id: int
    prefix: bool
    gaps: Gaps
    strip_right: bool
    replaced: tuple[tuple[str, str], ...]
    before: tuple[Mapping[str, Any], ...]
    charsmap: bytes | None = field(repr=False)
    after: tuple[Mapping[str, Any], ...]

    @property
    def lowest_score(self) -> float:
        """The least score of any piece."""
        return min(self.scores.values())

    @property
    def unknown_score(self) -> float:
        """The score of a character that is no piece."""
        return self.lowest_score - UNKNOWN_PENALTY


def read_unigram(file: str, root: Mapping[str, Any]) -> UnigramModel:
    """The model of a complete ``tokenizer.json``; raises :class:`~toolkit.errors.UnsupportedError`."""
    split, prefix = _read_pre_tokenizer(file, root["pre_tokenizer"])
    found = parts(root["normalizer"], "normalizers")
    replaced = _read_replaced(file, found, root["added_tokens"])
    before, charsmap, after, strip_right, collapse = _read_normalizer(file, found[len(replaced) :], split)
    node = root["model"]
    if node["byte_fallback"]:
        raise UnsupportedError(file, "model.byte_fallback", True, [False])
    if node["unk_id"] is None:
        raise UnsupportedError(file, "model.unk_id", None, "the id of a piece")
    # Of pieces that occur twice, the last one counts.
    vocab = {piece: number for number, (piece, _) in enumerate(node["vocab"])}
    scores = {piece: float(score) for piece, score in node["vocab"]}
    _check_scores(file, scores)
    if META not in vocab:
        raise UnsupportedError(file, "model.vocab", f"without {META!r}", f"vocabularies with the piece {META!r}")
    pre_tokenizer = parts(root["pre_tokenizer"], "pretokenizers")[-1]
    if not pre_tokenizer["split"]:
        longer = next((piece for piece in vocab if META in piece[1:]), None)
        if longer is not None:
            raise UnsupportedError(file, "pre_tokenizer.split", False, f"[True], as a piece spans words: {longer!r}")
    gaps: Gaps = "white space" if split else "spaces" if collapse else "each space"
    return UnigramModel(vocab, scores, node["unk_id"], prefix, gaps, strip_right, replaced, before, charsmap, after)


def _check_scores(file: str, scores: Mapping[str, float]) -> None:
    """Scores of SentencePiece are in single precision, those that reading JSON or somebody has changed not quite: such
    a piece is proved or searched, as long as it is not further from single precision than rounding takes it."""
    for piece, score in scores.items():
        if not abs(score) < LARGEST_SCORE:
            raise UnsupportedError(file, "model.vocab", f"{piece!r}, {score!r}", f"scores below {LARGEST_SCORE:.0f}")


def _read_pre_tokenizer(file: str, node: Any) -> tuple[bool, bool]:
    """Whether words are split at white space of any kind, and whether words get the meta symbol."""
    found = parts(node, "pretokenizers")
    kinds = [part["type"] for part in found]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise UnsupportedError(file, "pre_tokenizer.type", ", ".join(kinds) or None, _PRE_TOKENIZERS)
    metaspace = found[-1]
    if metaspace["replacement"] != META:
        raise UnsupportedError(file, "pre_tokenizer.replacement", metaspace["replacement"], [META])
    if metaspace["prepend_scheme"] not in ("always", "never"):
        raise UnsupportedError(file, "pre_tokenizer.prepend_scheme", metaspace["prepend_scheme"], ["always", "never"])
    return len(found) == 2, metaspace["prepend_scheme"] == "always"


def _read_replaced(
    file: str, found: Sequence[Mapping[str, Any]], added_tokens: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, str], ...]:
    """What the first normalizers replace by strings: a string by another."""
    replaced: list[tuple[str, str]] = []
    for part in found:
        string = part["pattern"].get("String") if part["type"] == "Replace" else None
        if not string:
            break
        # Tokens are found first, and what stands for one in the text may contain its first character.
        near = next((token["content"] for token in added_tokens if set(string) & set(token["content"])), None)
        if near is not None:
            raise UnsupportedError(
                file, "normalizer.pattern", string, f"strings that share nothing with token {near!r}"
            )
        replaced.append((string, part["content"]))
    return tuple(replaced)


def _read_normalizer(
    file: str, found: Sequence[Mapping[str, Any]], split: bool
) -> tuple[tuple[Mapping[str, Any], ...], bytes | None, tuple[Mapping[str, Any], ...], bool, bool]:
    """What is done to characters before, by and after the precompiled map, then whether spaces at the end are stripped
    and whether runs of spaces become one."""
    before: list[Mapping[str, Any]] = []
    after: list[Mapping[str, Any]] = []
    charsmap: bytes | None = None
    spaces: list[str] = []
    for number, part in enumerate(found):
        kind = part["type"]
        if kind in ("Strip", "Replace"):
            spaces.append(_space_part(file, part, split))
            continue
        # Where words are split at white space, spaces that became fewer change nothing that follows.
        in_order = not spaces or (split and "strip" not in spaces)
        if kind == "Precompiled" and charsmap is None and in_order:
            charsmap = base64.b64decode(part["precompiled_charsmap"])
        elif in_order and (kind in _CHARACTERS or (kind in _DECOMPOSING and _strips_marks(found[number + 1 :]))):
            (before if charsmap is None else after).append(part)
        else:
            value = f"{kind} after {', '.join(spaces)}" if spaces else kind
            raise UnsupportedError(file, "normalizer.type", value, _NORMALIZERS)
    if charsmap is None:
        before, after = [], before
    if not split and spaces not in ([], ["collapse"], ["strip", "collapse"]):
        raise UnsupportedError(
            file, "normalizer.type", ", ".join(spaces), "Replace of ' {2,}', with or without Strip (right) before it"
        )
    return tuple(before), charsmap, tuple(after), "strip" in spaces, "collapse" in spaces


def _strips_marks(behind: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all marks are dropped before the next normalizer that could tell their order: decomposition puts marks
    in an order, which is more than a change of single characters."""
    kinds = [part["type"] for part in behind if part["type"] != "Lowercase"]
    return kinds[:1] == ["StripAccents"]


def _space_part(file: str, part: Mapping[str, Any], split: bool) -> str:
    if part["type"] == "Strip":
        if not split and (part["strip_left"], part["strip_right"]) != (False, True):
            raise UnsupportedError(file, "normalizer.strip_left", part["strip_left"], "Strip on the right only")
        return "strip"
    if part["pattern"] != _RUNS:
        raise UnsupportedError(file, "normalizer.pattern", part["pattern"], [_RUNS])
    # White space that became a meta symbol would not be split at, and begin a word at the end.
    contents = (" ",) if split else (" ", META)
    if part["content"] not in contents:
        raise UnsupportedError(file, "normalizer.content", part["content"], contents)
    return "collapse"
