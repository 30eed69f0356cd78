"""What a byte-level BPE tokenizer is, and what of one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel, read_character_pairs
from toolkit.tokenizer.parts import parts

__all__ = ["BYTES", "GPT2", "SPLITS", "BytePairModel", "read_pairs"]

# What ByteLevel(use_regex=true) splits with (tokenizers/src/pre_tokenizers/byte_level.rs).
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_NEWER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?{letters}|{numbers}"
    r"| ?{others}+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _newer(letters: str, numbers: str, others: str) -> str:
    return _NEWER.replace("{letters}", letters).replace("{numbers}", numbers).replace("{others}", others)


SPLITS: Mapping[str, str] = {
    "GPT-2": GPT2,
    "Llama 3": _newer(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]"),
    "Qwen 2": _newer(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]"),
    "Qwen 3.5": _newer(r"[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]"),
}
"""The regular expressions that a ``Split`` pre-tokenizer may have, by the model that made them known."""


def _byte_characters() -> dict[str, int]:
    """GPT-2's character for each byte: itself where it prints, else one from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES: Mapping[str, int] = _byte_characters()
"""The byte that each character of a byte-level vocabulary stands for."""

_NORMALIZERS = ("null", "NFC")
_PRE_TOKENIZERS = (
    "ByteLevel(use_regex=true)",
    "Sequence[Split(Regex, Isolated), ByteLevel(add_prefix_space=false, use_regex=false)]",
)
# Of the bytes of valid UTF-8, those that no text can contain.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}


@dataclass(frozen=True)
class BytePairModel:
    """Merges of byte pairs inside the parts that the pre-tokenizer makes.

    ``tokens`` maps tokens in byte-level characters to ids; ``merges`` are pairs of such tokens by rank; ``split`` is
    the regular expression that makes the parts; ``prefix_space``: a text that does not begin with a space gets one;
    ``whole_parts``: a part that is a token is that token, whatever the merges say; ``compose``: texts are normalized
    to NFC.
    """

    tokens: Mapping[str, int] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)
    split: str
    prefix_space: bool
    whole_parts: bool
    compose: bool

    @property
    def unk_id(self) -> None:
        """No text is unknown: every byte is a token."""
        return None

    @property
    def vocab(self) -> dict[bytes, int]:
        """The tokens as bytes (not always valid UTF-8) with their ids; other ones as they are written."""
        return {
            bytes(map(BYTES.__getitem__, token)) if BYTES.keys() >= set(token) else token.encode(): token_id
            for token, token_id in self.tokens.items()
        }


def read_pairs(file: str, root: Mapping[str, Any]) -> BytePairModel | CharacterPairModel:
    """The model of a complete ``tokenizer.json``, over bytes where the pre-tokenizer makes bytes of the text, else over
    characters; raises :class:`~toolkit.errors.UnsupportedError`."""
    node = root["model"]
    if node["dropout"]:
        raise UnsupportedError(file, "model.dropout", node["dropout"], "null (merges are not left out by chance)")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if node[name]:
            raise UnsupportedError(file, f"model.{name}", node[name], "null or empty")
    byte_level = any(part["type"] == "ByteLevel" for part in parts(root["pre_tokenizer"], "pretokenizers"))
    return _read_bytepair(file, root) if byte_level else read_character_pairs(file, root)


def _read_bytepair(file: str, root: Mapping[str, Any]) -> BytePairModel:
    node = root["model"]
    split, prefix_space = _pre_tokenizer(file, root["pre_tokenizer"])
    compose = _normalizer(file, root["normalizer"])
    tokens = node["vocab"]
    for character, byte in BYTES.items():
        if byte not in _NEVER and character not in tokens:
            raise UnsupportedError(
                file, "model.vocab", f"without byte 0x{byte:02X}", "vocabularies with a token for every byte"
            )
    # All else of the model (unk_token, fuse_unk, byte_fallback) is about characters without a token.
    merges = tuple((left, right) for left, right in node["merges"])
    return BytePairModel(tokens, merges, split, prefix_space, bool(node["ignore_merges"]), compose)


def _normalizer(file: str, node: Any) -> bool:
    """Whether the tokenizer normalizes to NFC."""
    found = parts(node, "normalizers")
    for part in found:
        if part["type"] != "NFC":
            raise UnsupportedError(file, "normalizer.type", part["type"], _NORMALIZERS)
    return bool(found)


def _pre_tokenizer(file: str, node: Any) -> tuple[str, bool]:
    """The regular expression that makes the parts, and whether a space is put in front."""
    found = parts(node, "pretokenizers")
    kinds = [part["type"] for part in found]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise UnsupportedError(file, "pre_tokenizer.type", ", ".join(kinds) or None, _PRE_TOKENIZERS)
    last = found[-1]
    if last["use_regex"] != (len(found) == 1):
        raise UnsupportedError(file, "pre_tokenizer.use_regex", last["use_regex"], _PRE_TOKENIZERS)
    if len(found) == 1:
        return GPT2, last["add_prefix_space"]
    if last["add_prefix_space"]:
        raise UnsupportedError(file, "pre_tokenizer.add_prefix_space", True, _PRE_TOKENIZERS)
    split = found[0]
    for name, wanted in (("behavior", "Isolated"), ("invert", False)):
        if split[name] != wanted:
            raise UnsupportedError(file, f"pre_tokenizer.{name}", split[name], [wanted])
    pattern = split["pattern"].get("Regex")
    if pattern not in SPLITS.values():
        supported = "; ".join(f"{name}: {known}" for name, known in SPLITS.items())
        raise UnsupportedError(file, "pre_tokenizer.pattern", pattern or split["pattern"], supported)
    return pattern, False
