"""Tokens found in the text: every attribute, overlaps, and both sides of normalization."""

from __future__ import annotations

import random

import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import build_tokenizer, read_tokenizer
from toolkit.tokenizer.added import Codes, Pattern, match_passes
from toolkit.tokenizer.characters import probe_words
from toolkit.tokenizer.patterns import character_class

_MARKS = "\ue000\ue001\ue002\ue003"
_AROUND = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "a",
    "é",
    "_",
    "-",
    "1",
    ".",
    "中",
    "\u0301",
    "\u200d",
    "x ",
    " y",
    "İ",
    "\u00a0",
    "\0",
]


@pytest.fixture(scope="module")
def word_class():
    return character_class(probe_words().nonzero()[0].tolist())


def _replaced(text: str, passes: tuple[tuple[str, str], ...]) -> str:
    value = tf.constant(text)
    for pattern, rewrite in passes:
        value = tf.strings.regex_replace(value, pattern, rewrite)
    return value.numpy().decode()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_passes_find_what_the_package_finds(word_class, data):
    contents = data.draw(
        st.lists(st.text("ab _-é", min_size=1, max_size=4), min_size=1, max_size=6, unique=True), label="contents"
    )
    flags = data.draw(st.lists(st.tuples(*[st.booleans()] * 3), min_size=6, max_size=6), label="flags")
    # refused when a tokenizer is read
    stripping = any(rstrip for _, (_, _, rstrip) in zip(contents, flags, strict=False))
    assume(not (stripping and any(c.isspace() and flag[1] for c, flag in zip(contents, flags, strict=False))))
    text = data.draw(st.text("ab _-é\t", max_size=24), label="text")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    for content, (single_word, lstrip, rstrip) in zip(contents, flags, strict=False):
        tokenizer.add_tokens(
            [AddedToken(content, single_word=single_word, lstrip=lstrip, rstrip=rstrip, normalized=False)]
        )
    patterns = [
        Pattern(content, data.draw(st.none() | st.integers(0, len(content) - 1)), *flag)
        for content, flag in zip(contents, flags, strict=False)
    ]
    codes = Codes(_MARKS, "\ue004", "\ue005", iter(map(chr, range(0xE010, 0xE020))))
    passes, replacements = match_passes(patterns, codes, word_class)
    found = {tokenizer.token_to_id(content): replacement for content, replacement in replacements.items()}
    assert len(set(found.values())) == len(contents)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    pieces = [found.get(i, text[a:b]) for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)]
    assert _replaced(text, passes) == "".join(pieces)


def _texts(tokens: list[str], count: int = 800) -> list[str]:
    generator = random.Random(7)
    variants = [
        form for token in tokens for form in (token, token, token.lower(), token.upper(), token[1:], token[:-1])
    ]
    return ["".join(generator.choice(variants + _AROUND) for _ in range(generator.randint(1, 9))) for _ in range(count)]


_CASES = {
    "plain added words": ["covid19", "new word", "Naïve", "ﬁne", "the"],
    "overlapping words": ["ab", "abc", "bcd", "b c", "cab"],
    "overlapping special tokens": [
        AddedToken(c, special=True, normalized=False) for c in ("<a>", "<a><b>", "<b>", "b><")
    ],
    "single words": [
        AddedToken("foo", single_word=True),
        AddedToken("BAR", single_word=True, normalized=False),
        AddedToken("_x", single_word=True),
        AddedToken("é", single_word=True),
        AddedToken("foobar", normalized=False),
        AddedToken("-", single_word=True, normalized=False),
    ],
    "stripped white space": [
        AddedToken("<l>", lstrip=True, normalized=False),
        AddedToken("<r>", rstrip=True, normalized=False),
        AddedToken("<b>", lstrip=True, rstrip=True),
        AddedToken(" x", normalized=True),
        AddedToken("y ", normalized=True),
        AddedToken(" ", normalized=True, single_word=True),
    ],
    "punctuation and ideographs": ["[new]", "a-b", "_x_", "c++", "中国", "中", "-", " - ", "a - b", "..."],
    "normalized and not": [
        AddedToken(c, normalized=n) for n in (True, False) for c in ("Tok" + str(n), "#t", "t#")[n:]
    ],
    "thirty words": [f"{a}{b}" for a in ("Word", "tok", "é") for b in range(10)],
}


@pytest.mark.parametrize("case", _CASES)
def test_added_tokens(train, equal, case):
    # Where nothing is cleaned, white space and private-use characters survive normalization.
    raw = case in ("single words", "stripped white space", "punctuation and ideographs")
    tokenizer = train(lowercase=False, clean_text=False) if raw else train(lowercase=True)
    tokenizer.add_tokens(_CASES[case])
    names = [token if isinstance(token, str) else token.content for token in _CASES[case]]
    equal(tokenizer, _texts([*names, "[SEP]", "[UNK]"]))


def test_tokens_that_normalization_deletes_are_refused(train, source):
    tokenizer = train(lowercase=True)
    tokenizer.add_tokens([AddedToken("\u0301", normalized=True)])
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json: added_tokens\.content is '\\u0301'|added_tokens"):
        read_tokenizer(source(tokenizer))


def test_tokens_that_normalization_makes_equal_are_refused(train, source):
    # The package itself picks one of them at random in each process.
    tokenizer = train(lowercase=True)
    tokenizer.add_tokens(["Foo", "foo"])
    with pytest.raises(UnsupportedError, match="'Foo' and 'foo'"):
        read_tokenizer(source(tokenizer))


def test_the_replacement_character_in_a_token_is_refused(train, source):
    tokenizer = train(lowercase=True)
    tokenizer.add_tokens([AddedToken("x\ufffd", normalized=False)])
    with pytest.raises(UnsupportedError, match=r"added_tokens\.content"):
        read_tokenizer(source(tokenizer))


def test_private_use_characters_in_tokens_do_not_collide(train, equal):
    tokenizer = train(lowercase=False, clean_text=False)
    tokenizer.add_tokens([AddedToken("\U000f0000", normalized=False), AddedToken("\ue000x", normalized=True)])
    private = ["\U000f0000", "\U000f0001", "\U000f0008", "\ue000", "\ue001", "\ue000x", "\x01", "\x02", "\x03", "\x05"]
    equal(tokenizer, _texts([*private, "[SEP]", "[MASK]"]))


def test_tokens_and_broken_utf8(train, equal):
    tokenizer = train(lowercase=True, strip_accents=False)
    tokenizer.add_tokens([AddedToken("é", single_word=True, normalized=False), AddedToken("中", normalized=True)])
    parts = [b"\xc3\xa9", b"\xc3", b"\xa9", b"\xe4\xb8\xad", b"\xe4\xb8", b"\xad", b"a", b" ", b"\xff", b"[SEP]", b"\0"]
    generator = random.Random(3)
    equal(tokenizer, [b"".join(generator.choices(parts, k=generator.randint(1, 8))) for _ in range(1000)])


def test_steps_name_the_tokens(train, source):
    tokenizer = train(lowercase=True)
    tokenizer.add_tokens(["covid19"])
    lines = [str(step) for step in build_tokenizer(read_tokenizer(source(tokenizer))).steps]
    assert "find in the normalized text: 'covid19'" in lines
