"""Compile a WordPiece tokenizer into the buffers of two kernels of tensorflow-text, exactly.

The kernels are ``FastBertNormalize``, which replaces single characters, and ``FastWordpieceTokenizeWithOffsets``,
which splits at spaces and punctuation and matches pieces. Left to themselves they differ from the ``tokenizers``
package on some 145,000 code points. Here the first one is given a character map of our own, which does all the work of
the tokenizer's normalizer and pre-tokenizer and hands the second one a text in a closed alphabet:

- a gap becomes a space, a character that is a word of its own stands between spaces;
- a character that no piece contains becomes a private-use character (any word with it is unknown);
- a character at which the kernel would split a word, or might in another version, becomes a private-use character, in
  the map and in the pieces alike;
- a token found in the text becomes a word of private-use characters.

So nothing depends on the Unicode tables of the server, and tensorflow-text's own tokenizers, given this text and the
same pieces, find nothing in it that they would treat in another way.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import characters
from toolkit.tokenizer.added import MARKS, Codes, Passes, Pattern, match_passes
from toolkit.tokenizer.characters import CODE_POINTS, DELETED, ISOLATED, SPACE, WORD, Characters
from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.patterns import character_class
from toolkit.tokenizer.spec import TokenizerSpec, reference_tokenizer
from toolkit.tokenizer.wordpiece.spec import WordPieceModel
from toolkit.tokenizer.wordpiece.tables import CompiledWordPiece

__all__ = ["compile_wordpiece"]

_MARKS = "\x03\x04\x05\x06"
_GAPS = " \n\t\v\f\r"  # what a gap may become: distinct ones where tokens of the normalized text contain them
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_CODED = 16  # characters that suffice for a word that stands for a token found in the text
_MAX_PIECE_BYTES = 256  # tensorflow_text/core/kernels/fast_wordpiece_tokenizer_utils.h
# Ideographs at which the kernel splits (tensorflow_text/core/kernels/fast_wordpiece_tokenizer_utils.h).
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


def compile_wordpiece(spec: TokenizerSpec) -> CompiledWordPiece:
    """Compile ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    return _Compiler(spec).compile()


class _Compiler:
    """The tables that the parts of one compilation share."""

    def __init__(self, spec: TokenizerSpec) -> None:
        assert isinstance(spec.model, WordPieceModel)
        self.spec = spec
        self.model = spec.model
        self.tokenizer = reference_tokenizer(spec, max_length=None)
        self.characters = characters.probe(self.tokenizer)
        self.raw_tokens = [token for token in spec.added_tokens if not token.normalized]
        self.late_tokens = [token for token in spec.added_tokens if token.normalized]
        self.late_contents = [self._normal_form(token.content) for token in self.late_tokens]
        self.isolated = (self.characters.kind == ISOLATED) | _always_apart(self.characters)
        self.initial, self.continuing = self._reachable_pieces()
        used = (*self.initial, *self.continuing, *self.late_contents)
        self.alphabet = sorted(set().union(*used))
        self.private = self._private_characters()
        # A character that no piece contains; the second one: a word character, where single_word tokens must tell.
        self.unknown, self.unknown_word = next(self.private), next(self.private)
        self.remap = {character: next(self.private) for character in self.alphabet if self._must_remap(character)}
        self.words: npt.NDArray[np.bool_] | None = None
        if any(token.single_word for token in spec.added_tokens):
            self.words = characters.probe_words()
        self.gaps = self._gap_strings()
        self.codes: list[str] = []
        self.filler, self.end = self._code(), self._code()
        self.strings: dict[str, int] = {}
        self.symbols = self._symbols()
        strings = list(self.strings)
        self.late_mapped = ["".join(strings[self.symbols[ord(d)]] for d in content) for content in self.late_contents]
        self.apart = {self._symbol(d).strip(" ") for d in self.alphabet if self.isolated[ord(d)]}

    def compile(self) -> CompiledWordPiece:
        self._check_order_of_marks()
        index = self._character_index()
        raw_passes, raw_words = self._raw_passes(index)
        mapped_passes, late_words = self._mapped_passes()
        # A prefix of its own, which no text contains, spares the corner cases of prefixes that look like words.
        prefix = next(self.private)
        ids = self._pieces(prefix, raw_words | late_words)
        invalid = self._string("\ufffd") if index[0xFFFD] == UNCHANGED else int(index[0xFFFD])
        changed = int((index != UNCHANGED).sum())
        try:
            charmap = charmap_model([string.encode() for string in self.strings], index, invalid)
        except ValueError as error:
            raise UnsupportedError(
                self.spec.file, "normalizer", str(error), "normal forms of 63 bytes a character"
            ) from error
        return CompiledWordPiece(
            raw_passes=raw_passes,
            charmap=charmap,
            changed=changed,
            mapped_passes=mapped_passes,
            limit_passes=self._limit_passes(),
            model=self._kernel_model(prefix, list(ids)),
            pieces=json.dumps([prefix, *ids]).encode(),
            ids=np.array(list(ids.values()), np.int32),
            max_bytes=self.max_bytes,
        )

    @property
    def max_chars(self) -> int:
        return self.model.max_chars

    @property
    def max_bytes(self) -> int:
        """More bytes than any word has that may be known."""
        return 4 * (self.max_chars + _CODED)

    # Pieces and alphabet

    def _normal_form(self, text: str) -> str:
        normalizer = self.tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def _reachable_pieces(self) -> tuple[dict[str, int], dict[str, int]]:
        """The pieces that can begin a word and those that can continue one (without the prefix), with their ids.

        A word is a run of word characters, or one isolated character, of at most ``max_chars``.
        """
        vocab, prefix = self.model.vocab, self.model.prefix
        kind = bytes(self.characters.kind)
        in_vocab = set().union(*vocab)
        isolated = {character for character in in_vocab if self.isolated[ord(character)]}
        apart = isolated | {character for character in in_vocab if kind[ord(character)] == SPACE}
        initial = {
            token: token_id
            for token, token_id in vocab.items()
            if 0 < len(token) <= self.max_chars and (apart.isdisjoint(token) or token in isolated)
        }
        continuing = {
            token[len(prefix) :]: token_id
            for token, token_id in vocab.items()
            if len(prefix) < len(token) < self.max_chars + len(prefix)
            and token.startswith(prefix)
            and apart.isdisjoint(token[len(prefix) :])
        }
        return initial, continuing

    def _private_characters(self) -> Iterator[str]:
        taken = set(self.alphabet)
        for block in _PRIVATE:
            yield from (chr(code_point) for code_point in block if chr(code_point) not in taken)
        raise UnsupportedError(self.spec.file, "model.vocab", len(self.alphabet), "an alphabet of 100,000 characters")

    def _code(self) -> str:
        """Another character for the words that stand for tokens found in the text."""
        self.codes.append(next(self.private))
        return self.codes[-1]

    def _must_remap(self, character: str) -> bool:
        """Whether the kernel would, or in some version of its tables might, not take the character as we mean it."""
        code_point, kind = ord(character), self.characters.kind[ord(character)]
        if kind == SPACE:
            return False
        category = unicodedata.category(character)[0]
        if self.isolated[code_point]:
            return category in "CZ" or character not in self.initial
        return category not in "LMN" or any(low <= code_point <= high for low, high in _IDEOGRAPHS)

    def _check_order_of_marks(self) -> None:
        """Refuse a normalizer that visibly reorders combining marks: then it does not work character by character.

        Canonical ordering moves marks only within a run of them, and a word with a character outside the alphabet is
        unknown in any order; so two marks of different classes must survive and be in the alphabet. But a token of the
        normalized text is found beside any character, so for the marks in one, all marks that survive count.
        """
        if self.tokenizer.normalizer is None:
            return
        from tokenizers import normalizers

        decompose = normalizers.NFD().normalize_str
        single = self.characters.single
        # Each mark that survives, with the character that it becomes (a lower-case one, say).
        surviving = {
            character: chr(single[ord(character)])
            for character in map(chr, np.flatnonzero(single >= 0).tolist())
            if unicodedata.category(character)[0] == "M" and _is_mark(character, decompose)
        }
        alphabet, contents = set(self.alphabet), set().union(*self.late_contents)
        known = [mark for mark, form in surviving.items() if form in alphabet]
        found = [mark for mark, form in surviving.items() if form in contents]
        pairs = itertools.chain(
            itertools.product(known, known), itertools.product(found, surviving), itertools.product(surviving, found)
        )
        for first, second in pairs:
            if self._normal_form(first + second) != self._normal_form(first) + self._normal_form(second):
                raise UnsupportedError(
                    self.spec.file,
                    "normalizer",
                    f"reorders U+{ord(first):04X} U+{ord(second):04X}",
                    "vocabularies and added tokens for which the order of combining marks makes no difference",
                )

    # The character map

    def _gap_strings(self) -> dict[str, str]:
        """What white space becomes: a space; but where tokens are looked for in the normalized text, gaps must not
        look like the spaces around isolated characters, and those that occur in a token must stay distinct.
        """
        if not self.late_tokens:
            return {"": " "}
        inside = sorted({d for content in self.late_contents for d in content if self.characters.kind[ord(d)] == SPACE})
        if len(inside) > 4:
            raise UnsupportedError(
                self.spec.file, "added_tokens.content", "".join(inside), "four kinds of white space in all contents"
            )
        return {"": _GAPS[1], **dict(zip(inside, _GAPS[2:], strict=False))}

    def _symbol(self, character: str) -> str:
        code_point = ord(character)
        if self.characters.kind[code_point] == SPACE:
            return self.gaps[character]
        symbol = self.remap.get(character, character)
        return f" {symbol} " if self.isolated[code_point] else symbol

    def _string(self, string: str) -> int:
        """The number of a replacement string."""
        return self.strings.setdefault(string, len(self.strings))

    def _symbols(self) -> npt.NDArray[np.int32]:
        """For each character that normalization may yield, the number of the string that stands for it."""
        kind = self.characters.kind
        symbols = np.empty(CODE_POINTS, np.int32)
        symbols[kind == WORD] = self._string(self.unknown)
        symbols[kind == SPACE] = self._string(self.gaps[""])
        symbols[kind == ISOLATED] = self._string(f" {self.unknown} ")
        if self.words is not None:
            symbols[(kind == WORD) & self.words] = self._string(self.unknown_word)
            symbols[(kind == ISOLATED) & self.words] = self._string(f" {self.unknown_word} ")
        for character in (*self.alphabet, *(gap for gap in self.gaps if gap)):
            symbols[ord(character)] = self._string(self._symbol(character))
        return symbols

    def _character_index(self) -> npt.NDArray[np.int32]:
        """For each code point, the number of its replacement string, or ``UNCHANGED``."""
        single = self.characters.single
        index = np.full(CODE_POINTS, UNCHANGED, np.int32)
        index[single >= 0] = self.symbols[single[single >= 0]]
        index[single == DELETED] = self._string("")
        index[0xD800:0xE000] = UNCHANGED
        strings, symbols = list(self.strings), self.symbols.tolist()
        for code_point, form in self.characters.longer.items():
            replacement = "".join([strings[symbols[ord(character)]] for character in form])
            index[code_point] = self._string(replacement if self.late_tokens else re.sub("  +", " ", replacement))
        for string, number in list(self.strings.items()):
            if len(string) == 1 and index[ord(string)] == number:
                index[ord(string)] = UNCHANGED
        return index

    # Added tokens

    def _raw_passes(self, index: npt.NDArray[np.int32]) -> tuple[Passes, dict[str, int]]:
        """Passes that turn tokens of the raw text into replacements of their own; enters the codes into ``index``.

        Also returns the words that the replacements become, with their ids. The codes are private-use characters that
        the tokenizer treats like any other such character; those in the text are first replaced by another one.
        """
        if not self.raw_tokens:
            return (), {}
        contents = set().union(*(token.content for token in self.raw_tokens), self.alphabet)
        like = index[0xFFFFD]
        alike = (c for c in range(0xF0000, 0xFFFFE) if index[c] == like and chr(c) not in contents)
        reserved = list(itertools.islice(alike, MARKS + 3 + len(self.raw_tokens)))
        if len(reserved) < MARKS + 3 + len(self.raw_tokens):
            raise UnsupportedError(self.spec.file, "added_tokens", len(self.raw_tokens), "60,000 tokens")
        *reserved, ordinary = reserved
        marks, (filler, end, *starts) = "".join(map(chr, reserved[:MARKS])), map(chr, reserved[MARKS:])
        forms = {filler: self.filler, end: self.end, **{start: self._code() for start in starts}}
        strings = list(self.strings)

        def form(character: str) -> str:
            number = index[ord(character)]
            return forms.get(character) or (character if number == UNCHANGED else strings[number])

        # White space means nothing to the pieces, but a token of the normalized text may begin or end with it.
        strip = bool(self.late_tokens)
        patterns = [
            Pattern(
                token.content,
                self._anchor(map(form, token.content)),
                token.single_word,
                token.lstrip and strip,
                token.rstrip and strip,
            )
            for token in self.raw_tokens
        ]
        word_class = None if self.words is None else character_class(map(int, np.flatnonzero(self.words)))
        passes, replacements = match_passes(patterns, Codes(marks, filler, end, iter(starts)), word_class)
        words = {"".join(map(form, replacements[token.content])): token.id for token in self.raw_tokens}
        index[ord(filler)], index[ord(end)] = self._string(self.filler), self._string(f"{self.end} ")
        for start in starts:
            index[ord(start)] = self._string(f" {forms[start]}")
        return ((character_class(reserved), chr(ordinary)), *passes), words

    def _mapped_passes(self) -> tuple[Passes, dict[str, int]]:
        """Passes that turn tokens of the normalized text, as they look after the character map, into words."""
        if not self.late_tokens:
            return (), {}
        patterns = [
            Pattern(content, self._anchor(content), token.single_word)
            for token, content in zip(self.late_tokens, self.late_mapped, strict=True)
        ]
        codes = Codes(_MARKS, self.filler, self.end, iter(self._code, ""), outside=" ")
        passes, replacements = match_passes(patterns, codes, self._mapped_word_pattern())
        return passes, {replacements[p.content]: t.id for t, p in zip(self.late_tokens, patterns, strict=True)}

    def _anchor(self, forms: Iterable[str]) -> int | None:
        """The place of the first character that can be part of a word by what it becomes, and is no token itself."""
        unfit = {*_GAPS, *self.apart, *self.late_mapped}
        return next((at for at, form in enumerate(forms) if len(form) == 1 and form not in unfit), None)

    def _mapped_word_pattern(self) -> str | None:
        """A pattern for a word character after the character map."""
        if self.words is None:
            return None
        known = [character for character in self.alphabet if self.words[ord(character)]]
        inside = [self.unknown_word, *(self._symbol(d) for d in known if not self.isolated[ord(d)])]
        apart = [self.unknown_word, *(symbol for d in known if (symbol := self._symbol(d).strip(" ")) in self.apart)]
        return f"{character_class(map(ord, inside))}| {character_class(map(ord, apart))} "

    def _limit_passes(self) -> Passes:
        """A pass that makes words of too many characters unknown."""
        gaps = {ord(gap) for gap in (" ", *self.gaps.values())}
        gap, other = character_class(gaps), character_class({*gaps, *map(ord, self.codes)}, negated=True)
        # Anchored to the word's beginning, so that RE2 counts once and not from every character.
        return ((f"(^|{gap}){other}{{{self.max_chars}}}{other}+", rf"\1{self.unknown}"),)

    # The pieces

    def _pieces(self, prefix: str, words: dict[str, int]) -> dict[str, int]:
        """The pieces as they look after the character map, with their token ids; the unknown one last."""
        table = str.maketrans(self.remap)
        ids = {token.translate(table): token_id for token, token_id in self.initial.items()}
        ids.update((prefix + token.translate(table), token_id) for token, token_id in self.continuing.items())
        ids.update(words)
        ids[next(self.private)] = self.model.unk_id
        return ids

    def _kernel_model(self, prefix: str, pieces: list[str]) -> bytes:
        from tensorflow_text.core.pybinds import pywrap_fast_wordpiece_tokenizer_model_builder as builder

        longest = max(pieces, key=len)
        if any(len(piece.encode()) > _MAX_PIECE_BYTES for piece in pieces):
            raise UnsupportedError(self.spec.file, "model.vocab", longest, f"pieces of {_MAX_PIECE_BYTES} bytes")
        try:
            model: bytes = builder.build_fast_wordpiece_model(pieces, self.max_bytes, prefix, pieces[-1], False, False)
        except (RuntimeError, ValueError) as error:
            raise UnsupportedError(
                self.spec.file, "model.vocab", str(error), "what FastWordpieceTokenizer can hold"
            ) from error
        return model


def _always_apart(table: Characters) -> npt.NDArray[np.bool_]:
    """Word characters that normalization always puts between gaps (ideographs), so that they are words of their own."""
    apart = np.zeros(CODE_POINTS, np.bool_)
    attached = np.zeros(CODE_POINTS, np.bool_)
    attached[table.single[table.single >= 0]] = True
    kind = bytes(table.kind)
    for form in table.longer.values():
        points = [ord(character) for character in form]
        kinds = [kind[point] for point in points]
        for place, point in enumerate(points):
            between = 0 < place < len(points) - 1 and kinds[place - 1] == SPACE == kinds[place + 1]
            (apart if between else attached)[point] = True
    apart &= ~attached & (table.kind == WORD)
    return apart


def _is_mark(character: str, decompose: Callable[[str], str]) -> bool:
    """Whether the character has a combining class: it then changes places with a mark of the lowest or highest one."""
    low, high = "\u0334", "\u0345"
    return decompose(character) == character and (
        decompose(character + low) != character + low or decompose(high + character) != high + character
    )
