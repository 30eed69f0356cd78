"""Tokenizers as transformers makes them from nothing but a vocabulary."""

from __future__ import annotations

import json
import lzma

import pytest
import tensorflow as tf
from support import byte_level_tokenizer
from transformers import (
    AlbertTokenizer,
    BarthezTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    DebertaTokenizer,
    MPNetTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)
from unigram_support import CHARSMAP, make_unigram

from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer

_TEXTS = ["The quick brown fox's naïve jump; 中国!", "[MASK] <mask> x<mask>y  <s></s> [SEP][sep]", "", "  \t<mask>"]


@pytest.fixture(scope="module")
def words(plain):
    return sorted(plain.get_vocab(), key=plain.get_vocab().get)


@pytest.fixture(scope="module")
def pieces():
    vocab = json.loads(make_unigram(size=1500).to_str())["model"]["vocab"]
    return [(piece, score) for piece, score in vocab if score]


@pytest.fixture(scope="module")
def charsmap():
    return lzma.decompress(CHARSMAP.read_bytes())


def _assert_equal(tokenizer, *more):
    texts = [*_TEXTS, *more]
    source = TokenizerSource(tokenizer.backend_tokenizer.to_str(), "vocab.txt", 16)
    spec = read_tokenizer(source)
    packed = build_tokenizer(spec)(tf.constant(texts))
    expected = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert packed.ids.numpy().tolist() == [token_id for row in expected for token_id in row]
    assert spec.pad_id == tokenizer.pad_token_id


def test_bert(words):
    _assert_equal(BertTokenizer(vocab={word: number for number, word in enumerate(words)}))
    _assert_equal(BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=False))


def test_mpnet(words):
    names = ["<s>", "<pad>", "</s>", "[UNK]", *(w for w in words if not w.startswith("[")), "<mask>"]
    _assert_equal(MPNetTokenizer(vocab={word: number for number, word in enumerate(names)}))


def _behind(pieces, *names):
    return [*((name, 0.0) for name in names), *pieces, ("<mask>", 0.0)]


def test_camembert(pieces, charsmap):
    first = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    vocab = _behind(pieces, *first)
    vocab[4] = ("<unk>NOTUSED", -100.0)
    tokenizer = CamembertTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap)
    assert tokenizer("").input_ids == [5, 6]
    _assert_equal(tokenizer, "<s>NOTUSED a </s>NOTUSED<unk>NOTUSED", "\u4e00 <unk>")


def test_xlm_roberta_barthez_and_albert(pieces, charsmap):
    vocab = _behind(pieces, "<s>", "<pad>", "</s>", "<unk>")
    _assert_equal(XLMRobertaTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap))
    _assert_equal(BarthezTokenizer(vocab=vocab))
    vocab = _behind(pieces, "<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
    _assert_equal(AlbertTokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap), "``quoted'' Ünïcödé")


@pytest.mark.parametrize("prefix_space", [False, True])
def test_roberta_and_deberta(prefix_space):
    model = json.loads(byte_level_tokenizer().to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    roberta = RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=prefix_space)
    _assert_equal(roberta, "x <mask> <mask>y")
    names = dict(zip(("<s>", "<pad>", "</s>", "<unk>"), ("[CLS]", "[PAD]", "[SEP]", "[UNK]"), strict=True))
    vocab = {names.get(token, token): number for token, number in model["vocab"].items()}
    _assert_equal(DebertaTokenizer(vocab=vocab, merges=merges, add_prefix_space=prefix_space))


def test_words_added_by_fine_tuning(words):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.add_tokens(["naïve", "quick brown", "fox's"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<mask>", "<s>"]})
    _assert_equal(tokenizer)
