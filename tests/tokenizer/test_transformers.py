"""Tokenizers as transformers makes them from nothing but a vocabulary."""

from __future__ import annotations

import pytest
import tensorflow as tf
from transformers import BertTokenizer, MPNetTokenizer

from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer

_TEXTS = ["The quick brown fox's naïve jump; 中国!", "[MASK] <mask> x<mask>y  <s></s> [SEP][sep]", "", "  \t<mask>"]


@pytest.fixture(scope="module")
def words(plain):
    return sorted(plain.get_vocab(), key=plain.get_vocab().get)


def _assert_equal(tokenizer):
    source = TokenizerSource(tokenizer.backend_tokenizer.to_str(), "vocab.txt", 16)
    spec = read_tokenizer(source)
    packed = build_tokenizer(spec)(tf.constant(_TEXTS))
    expected = tokenizer(_TEXTS, truncation=True, max_length=16)["input_ids"]
    assert packed.ids.numpy().tolist() == [token_id for row in expected for token_id in row]
    assert spec.pad_id == tokenizer.pad_token_id


def test_bert(words):
    _assert_equal(BertTokenizer(vocab={word: number for number, word in enumerate(words)}))
    _assert_equal(BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=False))


def test_mpnet(words):
    names = ["<s>", "<pad>", "</s>", "[UNK]", *(w for w in words if not w.startswith("[")), "<mask>"]
    _assert_equal(MPNetTokenizer(vocab={word: number for number, word in enumerate(names)}))


def test_words_added_by_fine_tuning(words):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.add_tokens(["naïve", "quick brown", "fox's"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<mask>", "<s>"]})
    _assert_equal(tokenizer)
