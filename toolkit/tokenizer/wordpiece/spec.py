"""What a WordPiece tokenizer is, and what of one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.parts import parts

__all__ = ["WordPieceModel", "read_wordpiece"]

# Normalizers that treat each character by itself, so that asking for every code point's normal form tells everything.
# NFD and NFKD (and BertNormalizer's strip_accents) also put combining marks into canonical order; whether that can be
# seen depends on the vocabulary and is settled when the tables are compiled.
_NORMALIZERS = ("BertNormalizer", "Lowercase", "NFD", "NFKD", "Nmt", "StripAccents", "Sequence of these")
_PRE_TOKENIZERS = ("BertPreTokenizer", "WhitespaceSplit", "Punctuation (Isolated)", "Digits", "Sequence of these")
# RE2 counts no further in one go, and beyond it exceeds its memory budget and becomes slow.
_MAX_WORD_CHARS = 1000


@dataclass(frozen=True)
class WordPieceModel:
    """Greedy longest match inside words: ``vocab`` maps token to id."""

    vocab: Mapping[str, int] = field(repr=False)
    unk_token: str
    prefix: str
    max_chars: int

    @property
    def unk_id(self) -> int:
        """The id of a word that the pieces do not cover."""
        return self.vocab[self.unk_token]


def read_wordpiece(file: str, root: Mapping[str, Any]) -> WordPieceModel:
    """The model of a complete ``tokenizer.json``; raises :class:`~toolkit.errors.UnsupportedError`."""
    _check_normalizer(file, "normalizer", root["normalizer"])
    _check_pre_tokenizer(file, "pre_tokenizer", root["pre_tokenizer"])
    node = root["model"]
    vocab, unk = node["vocab"], node["unk_token"]
    if unk not in vocab:
        raise UnsupportedError(file, "model.unk_token", unk, "a token of model.vocab")
    limit = node["max_input_chars_per_word"]
    if not 1 <= limit <= _MAX_WORD_CHARS:
        raise UnsupportedError(file, "model.max_input_chars_per_word", limit, f"1 to {_MAX_WORD_CHARS}")
    return WordPieceModel(vocab, unk, node["continuing_subword_prefix"], limit)


def _check_normalizer(file: str, name: str, node: Any) -> None:
    for part in parts(node, "normalizers"):
        if part["type"] not in _NORMALIZERS:
            raise UnsupportedError(file, f"{name}.type", part["type"], _NORMALIZERS)


def _check_pre_tokenizer(file: str, name: str, node: Any) -> None:
    found = parts(node, "pretokenizers")
    for part in found:
        kind = part["type"]
        if kind in ("BertPreTokenizer", "WhitespaceSplit", "Digits"):
            continue
        if kind == "Punctuation":
            if part["behavior"] != "Isolated":
                raise UnsupportedError(file, f"{name}.behavior", part["behavior"], ["Isolated"])
            continue
        raise UnsupportedError(file, f"{name}.type", kind, _PRE_TOKENIZERS)
    # Runs of digits stay together only if nothing else can glue or cut them, which depends on their neighbours.
    for part in found:
        if part["type"] == "Digits" and not part["individual_digits"]:
            raise UnsupportedError(file, f"{name}.individual_digits", False, [True])
    if not any(part["type"] in ("BertPreTokenizer", "WhitespaceSplit") for part in found):
        raise UnsupportedError(file, f"{name}.type", node and node["type"], "a pre-tokenizer that splits at whitespace")
