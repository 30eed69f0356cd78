"""Compile a Unigram tokenizer into the buffers of two kernels of tensorflow-text, exactly.

``FastBertNormalize`` replaces single characters; ``FastSentencepieceTokenize`` finds each word's best pieces. In the
text between them white space separates words, whose meta symbol at the beginning is left out and put there by the
second kernel, and these characters have a meaning of their own:

- ``UNKNOWN`` is a character that no piece contains, ``UNKNOWN_SPACE`` one that is white space;
- ``WORD`` at a word's beginning stands for a meta symbol in the text itself;
- ``COMPOSED`` stands before a letter and a mark that are a key of the precompiled map;
- ``SOFT`` is white space before a token found in the text, ``HARD`` is that before something that makes a word of its
  own of the spaces before.

So nothing depends on the Unicode tables of the server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import characters
from toolkit.tokenizer.added import MARKS, Codes, Passes, Pattern, match_passes
from toolkit.tokenizer.characters import CODE_POINTS, DELETED, SPACE, Characters
from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.parts import parts
from toolkit.tokenizer.patterns import character_class, literal
from toolkit.tokenizer.spec import AddedToken, TokenizerSpec, reference_tokenizer
from toolkit.tokenizer.unigram.charsmap import read_charsmap
from toolkit.tokenizer.unigram.clusters import Clusters, Signs
from toolkit.tokenizer.unigram.early import EarlyStage, Surroundings, compile_early, regex_stage, splitting_tokenizer
from toolkit.tokenizer.unigram.pieces import UNKNOWN, UNKNOWN_SPACE, WORD, compile_pieces
from toolkit.tokenizer.unigram.spec import META, UnigramModel
from toolkit.tokenizer.unigram.tables import CompiledUnigram

__all__ = ["compile_unigram"]

COMPOSED = "\x03"
_MARKS = "\x05\x06\x07\x08"
HARD, SOFT = "\n", "\r"
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_ORDINARY = 0xFFFFD


def compile_unigram(spec: TokenizerSpec) -> CompiledUnigram:
    """Compile ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    return _Compiler(spec).compile()


class _Compiler:
    """The tables that the parts of one compilation share."""

    def __init__(self, spec: TokenizerSpec) -> None:
        assert isinstance(spec.model, UnigramModel)
        self.spec, self.model = spec, spec.model
        self.normalization = self.model.normalization
        # What becomes of a character that stands for a token: nothing is put before it, and it is no white space.
        self.early = self._normalizer(
            [part for part in self.normalization.early if part["type"] not in ("Prepend", "Strip")]
        )
        self.late_normalizer = self._normalizer(self.normalization.after)
        charsmap = self._precompiled()
        self.clusters = self._clusters(charsmap)
        self.characters = characters.probe(splitting_tokenizer([*charsmap, *self.normalization.after]))
        self.raw_tokens = [token for token in spec.added_tokens if not token.normalized]
        self.late_tokens = [token for token in spec.added_tokens if token.normalized]
        whole = reference_tokenizer(spec, max_length=None).normalizer
        self.late_contents = [
            token.content if whole is None else whole.normalize_str(token.content) for token in self.late_tokens
        ]
        self._check_late_tokens()
        self.vocab = self._reachable_pieces()
        self.alphabet = sorted(set().union(*self.vocab, *self.late_contents, *self._composed_from()) - {META, " "})
        self.private = self._private_characters()
        self.remap = {character: next(self.private) for character in self.alphabet if ord(character) < 0x20}
        self.codes: list[str] = []
        self.strings: dict[str, int] = {}
        self.taken: list[int] = []
        self.symbols = self._symbols()

    def compile(self) -> CompiledUnigram:
        index = self._character_index(self.characters)
        reserved = self._reserved(index)
        signs = [chr(next(reserved)) for _ in range(3)] if self.clusters else []
        prepends = any(part["type"] == "Prepend" for part in self.normalization.early)
        sign = chr(next(reserved)) if prepends else ""
        rare = ""
        raw_passes, raw_words, raw_starts, apart = self._raw_passes(index, reserved)
        early = self._early_stages(apart, sign)
        line_ends = self._line_end_pass()
        if early and line_ends:
            early = (*early, regex_stage("carriage returns before line feeds", *line_ends))
            line_ends = ()
        if self.taken:
            raw_passes = ((character_class(self.taken), chr(_ORDINARY)), *raw_passes, *line_ends)
            contents = [literal(token.content) for token in self.raw_tokens]
            rare = rf"\C*(?:{'|'.join([character_class(self.taken), *contents, *(one for one, _ in line_ends)])})\C*"
        mark_passes: Passes = ()
        cluster_passes: Passes = ()
        if self.clusters:
            end, joined, composed = signs
            mark_pass, cluster_passes = self.clusters.passes(Signs(end, joined, composed, apart))
            mark_passes = (mark_pass,) if cluster_passes else ()
            index[ord(end)] = index[ord(joined)] = self._string("")
            index[ord(composed)] = self._string(COMPOSED)
        mapped_passes, late_words, hard_starts = self._mapped_passes()
        singles = [self.remap.get(character, character) for character in self.alphabet]
        try:
            models, pieces, lattice = compile_pieces(
                self.spec, self.vocab, self.remap, singles, raw_words | late_words, self._prefixes()
            )
        except ValueError as error:
            raise self._refuse("model.vocab", str(error), "scores that are sums of few powers of two") from error
        return CompiledUnigram(
            raw_passes=raw_passes,
            rare=rare,
            early=early,
            plain=self.clusters.plain() if self.clusters and mark_passes else (),
            mark_passes=mark_passes,
            cluster_passes=cluster_passes,
            charmap=self._charmap(index),
            changed=int((index != UNCHANGED).sum()),
            mapped_passes=mapped_passes,
            gap_passes=self._gap_passes(raw_starts, hard_starts),
            models=models,
            pieces=pieces,
            longest_path=lattice.longest_path,
            longest_word=lattice.longest_word,
        )

    def _refuse(self, field: str, value: object, supported: str) -> UnsupportedError:
        return UnsupportedError(self.spec.file, field, value, supported)

    # Normalizers

    def _normalizer(self, chain: Sequence[Mapping[str, Any]]) -> Callable[[str], str]:
        return splitting_tokenizer(chain).normalizer.normalize_str if chain else str

    def _precompiled(self) -> list[dict[str, Any]]:
        found = parts(json.loads(self.spec.json)["normalizer"], "normalizers")
        return [part for part in found if part["type"] == "Precompiled"]

    def _clusters(self, charsmap: Sequence[Mapping[str, Any]]) -> Clusters | None:
        if not charsmap or self.normalization.charsmap is None:
            return None
        try:
            clusters = Clusters(self._normalizer(charsmap), read_charsmap(self.normalization.charsmap))
        except ValueError as error:
            raise self._refuse("normalizer.precompiled_charsmap", str(error), "one of SentencePiece") from error
        if (key := clusters.unsupported()) is not None:
            raise self._refuse("normalizer.precompiled_charsmap", key, "keys that begin with no such character")
        return clusters

    def _line_end_pass(self) -> Passes:
        """A carriage return and a line feed are one cluster, too; only the first one counts."""
        if self.clusters is None:
            return ()
        one, two = (self.clusters.normalize(text) for text in ("\r\n", "\r \n"))
        if one == two.replace(" ", "", 1) or (self.model.gaps != "each space" and one.isspace() and two.isspace()):
            return ()
        if "\r" not in self.clusters.rules:
            raise self._refuse("normalizer.precompiled_charsmap", "\r\n", "maps without this key")
        return (("\r\n", "\r"),)

    # Pieces and alphabet

    def _check_late_tokens(self) -> None:
        composed = "".join(self.clusters.pairs.values()) if self.clusters else ""
        for token, content in zip(self.late_tokens, self.late_contents, strict=True):
            unfit = next((c for c in content if c in f"{META}{composed}" or c.isspace()), None)
            if unfit is not None:
                raise self._refuse(
                    "added_tokens.content", token.content, f"normalized tokens without white space, {META} and {unfit}"
                )
            if token.single_word:
                raise self._refuse("added_tokens.single_word", True, "[False], for normalized tokens")
            stripped = token.rstrip or (token.lstrip and self.model.gaps == "each space")
            if self.model.gaps != "white space" and stripped:
                raise self._refuse(
                    "added_tokens.normalized", token.content, "tokens of the text itself, with this pre-tokenizer"
                )

    def _reachable_pieces(self) -> dict[str, int]:
        """The pieces that can be a part of a word, with their ids."""
        kind = bytes(self.characters.kind)
        spaces = {c for c in set().union(*self.model.vocab) if kind[ord(c)] == SPACE}
        if self.model.gaps != "white space":
            spaces = {" "}
        return {
            piece: number
            for piece, number in self.model.vocab.items()
            if piece and META not in piece[1:] and spaces.isdisjoint(piece)
        }

    def _composed_from(self) -> Iterator[str]:
        """What the keys of several characters become, one by one: the kernel must tell them apart."""
        if self.clusters:
            for key in self.clusters.pairs:
                yield self._one_by_one(key)

    def _one_by_one(self, key: str) -> str:
        assert self.clusters is not None
        return "".join(self.late_normalizer(self.clusters.rules.get(c, c)) for c in key)

    def _private_characters(self) -> Iterator[str]:
        taken = set(self.alphabet)
        for block in _PRIVATE:
            yield from (chr(code_point) for code_point in block if chr(code_point) not in taken)
        raise self._refuse("model.vocab", len(self.alphabet), "an alphabet of 100,000 characters")

    def _code(self) -> str:
        """Another character for the words that stand for tokens found in the text."""
        self.codes.append(next(self.private))
        return self.codes[-1]

    # The character map

    def _string(self, string: str) -> int:
        """The number of a replacement string."""
        return self.strings.setdefault(string, len(self.strings))

    def _symbols(self) -> npt.NDArray[np.int32]:
        """For each character that normalization may yield, the number of the string that stands for it."""
        symbols = np.full(CODE_POINTS, self._string(UNKNOWN), np.int32)
        white = self.characters.kind == SPACE
        words = self.model.gaps == "white space"
        symbols[white] = self._string(" " if words else UNKNOWN_SPACE)
        for character in self.alphabet:
            symbols[ord(character)] = self._string(self.remap.get(character, character))
        if not words:
            symbols[ord(" ")] = self._string(" " if self.model.gaps == "spaces" else f"{HARD}{WORD}")
            known = [c for c in self.alphabet if white[ord(c)]]
            if known and self._strips:
                raise self._refuse("model.vocab", known[0], "vocabularies without white space, with this normalizer")
        symbols[ord(META)] = self._string(f"{HARD}{WORD}")
        return symbols

    @property
    def _strips(self) -> bool:
        """Whether white space of any kind is stripped beside tokens or at an end."""
        strips = self.normalization.strip_left or self.normalization.strip_right
        return strips or any(token.lstrip for token in self.late_tokens)

    def _symbol(self, text: str) -> str:
        strings = list(self.strings)
        return "".join(strings[self.symbols[ord(character)]] for character in text)

    def _character_index(self, table: Characters) -> npt.NDArray[np.int32]:
        """For each code point, the number of its replacement string, or ``UNCHANGED``."""
        single = table.single
        index = np.full(CODE_POINTS, UNCHANGED, np.int32)
        index[single >= 0] = self.symbols[single[single >= 0]]
        index[single == DELETED] = self._string("")
        index[0xD800:0xE000] = UNCHANGED
        strings, symbols = list(self.strings), self.symbols.tolist()
        for code_point, form in table.longer.items():
            index[code_point] = self._string("".join([strings[symbols[ord(character)]] for character in form]))
        for string, number in list(self.strings.items()):
            if len(string) == 1 and index[ord(string)] == number:
                index[ord(string)] = UNCHANGED
        return index

    def _charmap(self, index: npt.NDArray[np.int32]) -> bytes:
        invalid = self._string("\ufffd") if index[0xFFFD] == UNCHANGED else int(index[0xFFFD])
        try:
            return charmap_model([string.encode() for string in self.strings], index, invalid)
        except ValueError as error:
            raise self._refuse("normalizer", str(error), "normal forms of 63 bytes a character") from error

    def _early_stages(self, codes: str, sign: str) -> tuple[EarlyStage, ...]:
        """``codes``: what replacements of tokens begin with, and last what they end with."""
        around = Surroundings(codes[-1:] or None, character_class(map(ord, codes[:-1])) if codes else None, sign)
        return compile_early(self.spec.file, self.normalization.early, around)

    # Added tokens and gaps

    def _reserved(self, index: npt.NDArray[np.int32]) -> Iterator[int]:
        """Private-use characters that are to the tokenizer like any other such character; ``taken`` collects them."""
        contents = set().union(*(token.content for token in self.raw_tokens), self.alphabet)
        like = index[_ORDINARY]
        for code_point in range(0xF0000, _ORDINARY):
            if (
                index[code_point] == like
                and chr(code_point) not in contents
                and self.early(chr(code_point)) == chr(code_point)
            ):
                self.taken.append(code_point)
                yield code_point
        raise self._refuse("added_tokens", len(self.raw_tokens), "60,000 tokens")

    def _raw_passes(
        self, index: npt.NDArray[np.int32], reserved: Iterator[int]
    ) -> tuple[Passes, dict[str, int], list[str], str]:
        """Passes that turn tokens of the raw text into replacements of their own; enters the codes into ``index``.

        Also the words that the replacements become, with their ids; what these words begin with; and the codes.
        """
        if not self.raw_tokens:
            return (), {}, [], ""
        marks = "".join(chr(next(reserved)) for _ in range(MARKS))
        filler, end = chr(next(reserved)), chr(next(reserved))
        starts: dict[str, str] = {}

        def new_starts() -> Iterator[str]:
            for code_point in reserved:
                starts[chr(code_point)] = self._code()
                yield chr(code_point)

        forms = {filler: self._code(), end: self._code()}
        patterns = [
            Pattern(token.content, self._anchor(token), token.single_word, token.lstrip, token.rstrip)
            for token in self.raw_tokens
        ]
        words = None
        if any(token.single_word for token in self.raw_tokens):
            words = character_class(np.flatnonzero(characters.probe_words()).tolist())
        passes, replacements = match_passes(patterns, Codes(marks, filler, end, new_starts()), words)
        strings = list(self.strings)
        forms.update(starts)

        def form(character: str) -> str:
            if character in forms:
                return forms[character]
            numbers = [(c, index[ord(c)]) for c in self.early(character)]
            return "".join(c if number == UNCHANGED else strings[number] for c, number in numbers)

        found = {"".join(map(form, replacements[token.content])): token.id for token in self.raw_tokens}
        self.raw_end = forms[end]
        index[ord(filler)], index[ord(end)] = self._string(forms[filler]), self._string(forms[end] + SOFT)
        for start, code in starts.items():
            index[ord(start)] = self._string(SOFT + code)
        return passes, found, list(starts.values()), "".join([*starts, end])

    def _anchor(self, token: AddedToken) -> int | None:
        """The token's first character, if it becomes a part of a word, by whose place tokens can be told apart."""
        if token.content[0].isspace():
            return None
        form = self.early(token.content[0])
        form = self.late_normalizer(self.clusters.normalize(form) if self.clusters else form)
        symbol = self._symbol(form)
        return 0 if len(symbol) == 1 and not symbol.isspace() and symbol != WORD else None

    def _mapped_passes(self) -> tuple[Passes, dict[str, int], list[str]]:
        """Passes that turn tokens of the normalized text into words, these, and those before which spaces count."""
        if not self.late_tokens:
            return (), {}, []
        filler, end = self._code(), self._code()
        patterns = [Pattern(self._symbol(content), None) for content in self.late_contents]
        codes = Codes(_MARKS, filler, end, iter(self._code, ""), outside=SOFT)
        passes, replacements = match_passes(patterns, codes, None)
        words = {replacements[p.content]: t.id for t, p in zip(self.late_tokens, patterns, strict=True)}
        hard = [replacements[p.content][0] for t, p in zip(self.late_tokens, patterns, strict=True) if not t.lstrip]
        stripped = [replacements[p.content][0] for t, p in zip(self.late_tokens, patterns, strict=True) if t.lstrip]
        if stripped and self.model.gaps == "spaces":
            pattern = f"[ {UNKNOWN_SPACE}]+({SOFT}[{''.join(stripped)}])"
            passes = (*passes, (pattern, r"\1"))
        return passes, words, hard

    def _gap_passes(self, raw_starts: Sequence[str], hard_starts: Sequence[str]) -> Passes:
        """Spaces at the end of a text, and before tokens, are words of their own unless they are stripped."""
        if self.model.gaps == "white space":
            return ()
        before_raw = f"{SOFT}[{''.join(raw_starts)}]" if raw_starts else "$"
        after_raw = f"{self.raw_end}{SOFT}" if raw_starts else "^"
        passes: list[tuple[str, str]] = []
        if self.normalization.strip_left:
            passes.append((f"(^|{after_raw})[ {UNKNOWN_SPACE}]+", r"\1"))
        lone = [HARD]
        if hard_starts:
            lone.append(f"{SOFT}[{''.join(hard_starts)}]")
        if self.normalization.strip_right:
            passes.append((f"[ {UNKNOWN_SPACE}]+($|{before_raw})", r"\1"))
        elif self.model.gaps == "spaces":
            lone += ["$", before_raw]
        if self.model.gaps == "spaces":
            passes.append((f" +({'|'.join(lone)})", rf"{HARD}{WORD}\1"))
        return tuple(passes)

    # The pieces

    def _prefixes(self) -> dict[str, str]:
        """What the kernel is to replace in a word."""
        prefixes = {f" {WORD}": " "} if self.model.prefix else {}
        for key, form in self.clusters.pairs.items() if self.clusters else ():
            whole = self._symbol(self.late_normalizer(form))
            if any(character.isspace() or character == WORD for character in whole):
                raise self._refuse("normalizer.precompiled_charsmap", key, "clusters that become no white space")
            if prefixes.setdefault(COMPOSED + self._symbol(self._one_by_one(key)), whole) != whole:
                kinds = ", ".join(part["type"] for part in self.normalization.after)
                raise self._refuse("normalizer.type", f"{kinds} after Precompiled", "normalizers that keep marks there")
        return prefixes
