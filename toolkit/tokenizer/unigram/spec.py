"""What a Unigram tokenizer is, and what of one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.parts import parts
from toolkit.tokenizer.unigram.normalizer import META, Normalization, read_normalization

__all__ = ["META", "UNKNOWN_PENALTY", "UnigramModel", "read_unigram"]

Gaps = Literal["white space", "spaces", "each space"]

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
    counts as one; or ``each space``, which begins a word. ``normalization`` is what is done to the text before.
    """

    vocab: Mapping[str, int] = field(repr=False)
    scores: Mapping[str, float] = field(repr=False)
    unk_id: int
    prefix: bool
    gaps: Gaps
    normalization: Normalization

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
    normalization = read_normalization(file, root["normalizer"], words=split)
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
    gaps: Gaps = "white space" if split else "spaces" if normalization.collapse else "each space"
    return UnigramModel(vocab, scores, node["unk_id"], prefix, gaps, normalization)


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
