"""What a BPE tokenizer over characters is (SentencePiece's kind, as Gemma, Llama 2 and Mistral have it), and what of
one is refused.

The text is not turned into bytes first: characters that are no tokens fall apart into tokens of their bytes, or become
the unknown token. Spaces become ``▁``, and merges may run over the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.parts import parts

__all__ = ["CharacterPairModel", "Metaspace", "Prepend", "Replace", "read_character_pairs"]

_NORMALIZERS = ("null", "Prepend", "Replace(String)", "Sequence of these")
_PRE_TOKENIZERS = (
    "null",
    "Metaspace",
    "Split by a string that normalization leaves none of",
    "ByteLevel(use_regex=true)",
    "Sequence of Split(Regex), ByteLevel(use_regex=false)",
)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Prepend:
    """Put ``text`` in front of every stretch of text before, between and after added tokens."""

    text: str

    def __str__(self) -> str:
        return f"{self.text!r} in front"


@dataclass(frozen=True)
class Replace:
    """Replace every ``old`` by ``new``."""

    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.old!r} to {self.new!r}"


@dataclass(frozen=True)
class Metaspace:
    """Spaces become ``mark``; ``prepend`` (``always``, ``first``, ``never``) says which stretches of text get one in
    front where they have none; ``split``: each mark begins a part."""

    mark: str
    prepend: str
    split: bool

    def __str__(self) -> str:
        return f"spaces to {self.mark!r}, one in front: {self.prepend}"


@dataclass(frozen=True)
class CharacterPairModel:
    """Merges of characters and what they made.

    ``byte_fallback``: a character without a token becomes the tokens of its bytes; else it becomes ``unk_id``, several
    in a row a single one if ``fuse_unk``, and without an ``unk_id`` nothing. ``whole_parts``: a part that is a token is
    that token, whatever the merges say. ``changes`` normalize the text, in order.
    """

    tokens: Mapping[str, int] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)
    changes: tuple[Prepend | Replace, ...]
    metaspace: Metaspace | None
    unk_id: int | None
    byte_fallback: bool
    fuse_unk: bool
    whole_parts: bool

    @property
    def vocab(self) -> Mapping[str, int]:
        """The tokens with their ids."""
        return self.tokens


def read_character_pairs(file: str, root: Mapping[str, Any]) -> CharacterPairModel:
    """The model of a complete ``tokenizer.json``; raises :class:`~toolkit.errors.UnsupportedError`."""
    node, tokens = root["model"], root["model"]["vocab"]
    changes = tuple(_change(file, part) for part in parts(root["normalizer"], "normalizers"))
    metaspace = _pre_tokenizer(file, root["pre_tokenizer"], changes)
    merges = tuple((left, right) for left, right in node["merges"])
    fallback, unknown = bool(node["byte_fallback"]), node["unk_token"]
    if fallback:
        _require_bytes(file, tokens, merges)
    elif unknown is not None and unknown not in tokens:
        raise UnsupportedError(file, "model.unk_token", unknown, "a token of the vocabulary, or null")
    elif metaspace is not None and metaspace.mark not in tokens:
        raise UnsupportedError(
            file, "model.vocab", f"without {metaspace.mark!r}", "one with it, where byte_fallback is false"
        )
    if node["ignore_merges"] and not fallback:
        raise UnsupportedError(file, "model.ignore_merges", True, "false, without ByteLevel and byte_fallback")
    return CharacterPairModel(
        tokens=tokens,
        merges=merges,
        changes=changes,
        metaspace=metaspace,
        unk_id=None if fallback or unknown is None else tokens[unknown],
        byte_fallback=fallback,
        fuse_unk=bool(node["fuse_unk"]),
        whole_parts=bool(node["ignore_merges"]),
    )


def _require_bytes(file: str, tokens: Mapping[str, int], merges: tuple[tuple[str, str], ...]) -> None:
    """Refuse byte fallback with a byte left out, whose characters would be unknown, and with bytes that merge."""
    for byte in range(256):
        if f"<0x{byte:02X}>" not in tokens:
            supported = "vocabularies with a token for every byte, where byte_fallback is true"
            raise UnsupportedError(file, "model.vocab", f"without <0x{byte:02X}>", supported)
    for left, right in merges:
        if any(map(_BYTE_TOKEN.fullmatch, (left, right, left + right))):
            supported = "merges without tokens of single bytes, where byte_fallback is true"
            raise UnsupportedError(file, "model.merges", f"{left} {right}", supported)


def _change(file: str, part: Mapping[str, Any]) -> Prepend | Replace:
    if part["type"] == "Prepend":
        return Prepend(part["prepend"])
    if part["type"] != "Replace":
        raise UnsupportedError(file, "normalizer.type", part["type"], _NORMALIZERS)
    old, new = part["pattern"].get("String"), part["content"]
    if not old:
        raise UnsupportedError(file, "normalizer.pattern", part["pattern"], "a String that is not empty")
    if not new:
        raise UnsupportedError(file, "normalizer.content", new, "a string that is not empty")
    return Replace(old, new)


def _pre_tokenizer(file: str, node: Any, changes: tuple[Prepend | Replace, ...]) -> Metaspace | None:
    metaspace = None
    for part in parts(node, "pretokenizers"):
        if part["type"] == "Metaspace" and metaspace is None:
            metaspace = Metaspace(part["replacement"], part["prepend_scheme"], part["split"])
        elif part["type"] == "Split" and metaspace is None and not part["invert"]:
            text = part["pattern"].get("String")
            if not text or not _leaves_none(changes, text):
                raise UnsupportedError(file, "pre_tokenizer.pattern", part["pattern"], _PRE_TOKENIZERS)
        else:
            raise UnsupportedError(file, "pre_tokenizer.type", part["type"], _PRE_TOKENIZERS)
    return metaspace


def _leaves_none(changes: tuple[Prepend | Replace, ...], text: str) -> bool:
    """Whether no normalized text contains ``text``, a single character: it is replaced, and none comes in again."""
    gone = False
    for change in changes:
        new = change.text if isinstance(change, Prepend) else change.new
        gone = text not in new and (gone or (isinstance(change, Replace) and change.old == text))
    return gone and len(text) == 1
