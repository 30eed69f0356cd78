"""What a byte-level BPE tokenizer is, and what of one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from toolkit.errors import UnsupportedError
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel, read_character_pairs
from toolkit.tokenizer.composition import Form
from toolkit.tokenizer.parts import parts

__all__ = ["BYTES", "EARLIER", "GPT2", "PARTIAL", "SPLITS", "BytePairModel", "Digits", "Prefixed", "read_pairs"]

Prefixed = Literal["text", "part"]

# What ByteLevel(use_regex=true) splits with (tokenizers/src/pre_tokenizers/byte_level.rs).
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_NEWER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?{letters}|{numbers}"
    r"| ?{others}+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)


def _newer(letters: str, numbers: str, others: str) -> str:
    return _NEWER.replace("{letters}", letters).replace("{numbers}", numbers).replace("{others}", others)


SPLITS: Mapping[str, str] = {
    "GPT-2": GPT2,
    "Llama 3": _newer(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]"),
    "Qwen 2": _newer(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]"),
    "Qwen 3.5": _newer(r"[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]"),
    "GPT-4o": _GPT4O,
    "DeepSeek-V3": _DEEPSEEK,
}
"""The regular expressions that the last ``Split`` pre-tokenizer may have, by the model that made them known."""

EARLIER: Mapping[str, str] = {"numbers": r"\p{N}{1,3}", "Chinese and Japanese": "[一-龥\u3040-ゟ゠-ヿ]+"}
"""Those of ``Split`` pre-tokenizers before the last one."""


@dataclass(frozen=True)
class Digits:
    """A ``Digits`` pre-tokenizer, whose digits are not those of a regular expression: each is a part of its own
    (``each``), or those that stand together are one."""

    each: bool

    def __str__(self) -> str:
        return f"Digits(individual_digits={str(self.each).lower()})"


PARTIAL = frozenset({_DEEPSEEK, *EARLIER.values()})
"""The expressions that do not match every character; what lies between two matches is a part as well."""


def _byte_characters() -> dict[str, int]:
    """GPT-2's character for each byte: itself where it prints, else one from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES: Mapping[str, int] = _byte_characters()
"""The byte that each character of a byte-level vocabulary stands for."""

_NORMALIZERS = ("null", "NFC", "NFD", "NFKC", "NFKD")
_PRE_TOKENIZERS = (
    "ByteLevel(use_regex=true), alone or behind Digits",
    "Sequence[Split(Regex) or Digits…, Split(Regex), ByteLevel(use_regex=false)]",
)
# Of the bytes of valid UTF-8, those that no text can contain.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}


@dataclass(frozen=True)
class BytePairModel:
    """Merges of byte pairs inside the parts that the pre-tokenizer makes.

    ``tokens`` maps tokens in byte-level characters to ids; ``merges`` are pairs of such tokens by rank; ``split`` is
    the regular expression that makes the parts, of what ``earlier`` splits leave; ``prefixed``: what gets a space in
    front unless it begins with one, the text that ``split`` is given or each part that it makes; ``whole_parts``: a
    part that is a token is that token, whatever the merges say; ``form`` is the Unicode normalization form of the
    texts, if any.
    """

    tokens: Mapping[str, int] = field(repr=False)
    merges: tuple[tuple[str, str], ...] = field(repr=False)
    earlier: tuple[str | Digits, ...]
    split: str
    prefixed: Prefixed | None
    whole_parts: bool
    form: Form | None

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
    earlier, split, prefixed = _pre_tokenizer(file, root["pre_tokenizer"])
    form = _normalizer(file, root["normalizer"])
    tokens = node["vocab"]
    for character, byte in BYTES.items():
        if byte not in _NEVER and character not in tokens:
            raise UnsupportedError(
                file, "model.vocab", f"without byte 0x{byte:02X}", "vocabularies with a token for every byte"
            )
    # All else of the model (unk_token, fuse_unk, byte_fallback) is about characters without a token.
    merges = tuple((left, right) for left, right in node["merges"])
    return BytePairModel(tokens, merges, earlier, split, prefixed, bool(node["ignore_merges"]), form)


def _normalizer(file: str, node: Any) -> Form | None:
    """The normalization form that texts get."""
    form: Form | None = None
    for part in parts(node, "normalizers"):
        if part["type"] not in get_args(Form) or form not in (None, part["type"]):
            raise UnsupportedError(file, "normalizer.type", part["type"], _NORMALIZERS)
        form = part["type"]
    return form


def _pre_tokenizer(file: str, node: Any) -> tuple[tuple[str | Digits, ...], str, Prefixed | None]:
    """What splits earlier, the regular expression that makes the parts, and what a space is put in front of."""
    *before, last = parts(node, "pretokenizers")
    kinds = [part["type"] for part in before]
    if last["type"] != "ByteLevel" or not {"Split", "Digits"}.issuperset(kinds):
        raise UnsupportedError(file, "pre_tokenizer.type", ", ".join([*kinds, last["type"]]), _PRE_TOKENIZERS)
    if last["use_regex"] != (kinds[-1:] != ["Split"]) or (last["use_regex"] and "Split" in kinds):
        raise UnsupportedError(file, "pre_tokenizer.use_regex", last["use_regex"], _PRE_TOKENIZERS)
    prefixed: Prefixed = "text" if last["use_regex"] else "part"
    split = GPT2 if last["use_regex"] else _split(file, before.pop(), SPLITS)
    return tuple(_earlier(file, part) for part in before), split, prefixed if last["add_prefix_space"] else None


def _earlier(file: str, part: Mapping[str, Any]) -> str | Digits:
    return Digits(part["individual_digits"]) if part["type"] == "Digits" else _split(file, part, EARLIER)


def _split(file: str, split: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """The regular expression of a ``Split``, one of ``known``."""
    pattern = split["pattern"].get("Regex")
    if pattern not in known.values():
        supported = "; ".join(f"{name}: {text}" for name, text in known.items())
        raise UnsupportedError(file, "pre_tokenizer.pattern", pattern or split["pattern"], supported)
    # Where an expression matches all of every text, to remove what it does not match is to remove nothing.
    allowed = {"Isolated": False} | ({} if pattern in PARTIAL else {"Removed": True})
    if split["behavior"] not in allowed:
        raise UnsupportedError(file, "pre_tokenizer.behavior", split["behavior"], list(allowed))
    if split["invert"] != allowed[split["behavior"]]:
        raise UnsupportedError(file, "pre_tokenizer.invert", split["invert"], [allowed[split["behavior"]]])
    return str(pattern)
