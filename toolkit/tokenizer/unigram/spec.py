"""What a Unigram tokenizer is, and what of one is refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.parts import parts

__all__ = ["META", "UNKNOWN_PENALTY", "UnigramModel", "read_unigram"]

META = "▁"

Gaps = Literal["white space", "spaces", "each space"]

_CHARACTERS = ("Lowercase", "Nmt", "StripAccents")
_NORMALIZERS = ("Precompiled", *_CHARACTERS, "Strip", "Replace of ' {2,}'", "Sequence of these")
_RUNS = {"Regex": " {2,}"}
_PRE_TOKENIZERS = ("Metaspace", "Sequence of WhitespaceSplit and Metaspace")
UNKNOWN_PENALTY = 10.0


@dataclass(frozen=True)
class UnigramModel:
    """The most probable sequence of pieces for each word.

    ``vocab`` maps piece to id and ``scores`` to its log probability; ``unknown_score`` is that of a character which is
    no piece by itself. A word begins with the meta symbol ``▁``; ``prefix`` tells whether one is put before words that
    do not begin with it. ``gaps`` says what lies between words: ``white space`` of any kind; ``spaces``, of which a run
    counts as one; or ``each space``, which begins a word. ``strip_right``: gaps at the end of a text are dropped.
    ``before``, ``charsmap`` and ``after`` are what is done to the characters: normalizers (JSON) before and after the
    one with a precompiled map, and that map.
    """

    vocab: Mapping[str, int] = field(repr=False)
    scores: Mapping[str, float] = field(repr=False)
    unk_id: int
    prefix: bool
    gaps: Gaps
    strip_right: bool
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
    before, charsmap, after, strip_right, collapse = _read_normalizer(file, root["normalizer"], split)
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
    return UnigramModel(vocab, scores, node["unk_id"], prefix, gaps, strip_right, before, charsmap, after)


def _check_scores(file: str, scores: Mapping[str, float]) -> None:
    """Scores of SentencePiece are in single precision, but reading JSON may have changed the last bits a little."""
    for piece, score in scores.items():
        single = float(np.float32(score))
        if not abs(single) < 1000 or abs(score - single) > 2 * np.spacing(abs(single)):
            raise UnsupportedError(
                file, "model.vocab", f"{piece!r}, {score!r}", "scores in single precision, as SentencePiece writes them"
            )


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


def _read_normalizer(
    file: str, node: Any, split: bool
) -> tuple[tuple[Mapping[str, Any], ...], bytes | None, tuple[Mapping[str, Any], ...], bool, bool]:
    """What is done to characters before, by and after the precompiled map, then whether spaces at the end are stripped
    and whether runs of spaces become one."""
    before: list[Mapping[str, Any]] = []
    after: list[Mapping[str, Any]] = []
    charsmap: bytes | None = None
    spaces: list[str] = []
    for part in parts(node, "normalizers"):
        kind = part["type"]
        if kind in ("Strip", "Replace"):
            spaces.append(_space_part(file, part, split))
            continue
        if kind == "Precompiled" and charsmap is None and not spaces:
            charsmap = base64.b64decode(part["precompiled_charsmap"])
        elif kind in _CHARACTERS and not spaces:
            (before if charsmap is None else after).append(part)
        else:
            found = f"{kind} after {', '.join(spaces)}" if spaces else kind
            raise UnsupportedError(file, "normalizer.type", found, _NORMALIZERS)
    if charsmap is None:
        before, after = [], before
    if not split and spaces not in ([], ["collapse"], ["strip", "collapse"]):
        raise UnsupportedError(
            file, "normalizer.type", ", ".join(spaces), "Replace of ' {2,}', with or without Strip (right) before it"
        )
    return tuple(before), charsmap, tuple(after), "strip" in spaces, "collapse" in spaces


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
