"""The character map's buffer does to every code point and to broken UTF-8 what it was told."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from toolkit.tokenizer.charmap import UNCHANGED, charmap_model
from toolkit.tokenizer.steps import NormalizeCharacters
from toolkit.tokenizer.texts import broken_utf8, code_points


def _apply(model: bytes, texts: list[str | bytes]) -> list[bytes]:
    step = NormalizeCharacters(model, 0)
    return list(step.apply(tf.constant(texts, tf.string), *map(tf.constant, step.buffers())).numpy())


@pytest.fixture(scope="module")
def table():
    """Random replacements for random code points, dense in some places and sparse in others."""
    generator = np.random.default_rng(5)
    strings = ["", " ", "\ufffd", "longer " * 9, *(chr(0x4E00 + n) * (1 + n % 3) for n in range(3000))]
    index = np.full(0x110000, UNCHANGED, np.int32)
    dense = generator.random(0x110000) < np.repeat(generator.choice([0, 0.02, 0.9, 1], 0x110000 // 256), 256)
    index[dense] = generator.integers(0, len(strings), int(dense.sum()))
    index[0xD800:0xE000] = UNCHANGED
    return strings, index


@pytest.fixture(scope="module")
def model(table):
    strings, index = table
    return charmap_model([string.encode() for string in strings], index, 2)


def test_every_code_point_becomes_its_string(table, model):
    strings, index = table
    points = code_points()
    expected = [chr(c) if index[c] == UNCHANGED else strings[index[c]] for c in points]
    assert [text.decode() for text in _apply(model, [chr(c) for c in points])] == expected


def test_characters_in_a_row(table, model):
    strings, index = table
    points = code_points()[::97]
    expected = "".join(chr(c) if index[c] == UNCHANGED else strings[index[c]] for c in points)
    assert _apply(model, ["".join(map(chr, points))]) == [expected.encode()]


def test_broken_utf8_is_what_decoding_with_replacement_makes_of_it(model):
    identity = charmap_model([b"\xef\xbf\xbd", b"?"], np.where(np.arange(0x110000) == 0x3F, 1, UNCHANGED), 0)
    texts = [bytes([a, b, c]) for a in range(0x7F, 0x100, 3) for b in range(0x7E, 0x100, 5) for c in (0x41, 0x80, 0xBF)]
    texts += broken_utf8(5000)
    assert _apply(identity, texts) == [text.decode("utf-8", "replace").encode() for text in texts]


def test_few_replacements_need_few_units():
    index = np.full(0x110000, UNCHANGED, np.int32)
    index[ord("a")] = 0
    assert len(charmap_model([b"b"], index, 0)) < 10_000


def test_too_long_a_replacement_is_an_error():
    with pytest.raises(ValueError, match="64 bytes"):
        charmap_model([b"x" * 64], np.full(0x110000, UNCHANGED, np.int32), 0)
