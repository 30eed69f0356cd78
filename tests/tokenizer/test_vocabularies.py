"""Tokenizers of well-known models are exact on a sample of the self-check."""

from __future__ import annotations

import pytest
from vocabulary_support import STEPS, VOCABULARIES, vocabulary, with_another_vocabulary

from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check

LEAST = {"albert": 20_000, "xlm_roberta": 20_000}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_well_known_tokenizer_is_exact_on_a_sample_of_the_self_check(name: str) -> None:
    spec = read_tokenizer(TokenizerSource(vocabulary(name), "tokenizer.json", 64))
    assert self_check(spec, build_tokenizer(spec), sample=0.01).texts > LEAST.get(name, 10_000)


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_well_known_tokenizer_are_exact_with_another_vocabulary(name: str) -> None:
    spec = read_tokenizer(TokenizerSource(with_another_vocabulary(STEPS[name]), "tokenizer.json", 64))
    assert self_check(spec, build_tokenizer(spec), sample=0.01).texts > 10_000
