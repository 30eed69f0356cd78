"""WordPiece in the graph equals the tokenizers package on every text."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from toolkit.errors import UnsupportedError
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check


@pytest.mark.real_model
def test_minilm_is_exact_on_a_sample_of_the_self_check(minilm_json):
    spec = read_tokenizer(TokenizerSource(minilm_json, "tokenizer.json", 256))
    report = self_check(spec, build_tokenizer(spec), sample=0.05)
    assert report.texts > 80_000


@pytest.mark.parametrize(
    "settings",
    [
        {"lowercase": True},
        {"lowercase": False},
        {"lowercase": True, "strip_accents": False, "handle_chinese_chars": False},
        {"lowercase": False, "strip_accents": True, "clean_text": False},
        {"lowercase": False, "strip_accents": False, "clean_text": False, "handle_chinese_chars": False},
        {"lowercase": True, "clean_text": False},
    ],
    ids=str,
)
def test_bert_normalizer_settings(train, equal, hard_texts, settings):
    equal(train(**settings), hard_texts)


@pytest.mark.parametrize("prefix", ["@@", "▁", "x", "", "__y"])
def test_continuing_prefixes(train, equal, hard_texts, prefix):
    words = ["▁a", "▁ab x ab abc", "xing", "__ya", "y__ya", "@@a", "a@@"]
    equal(train(prefix=prefix, lowercase=True), [*hard_texts[:1500], *words])


@pytest.mark.parametrize("limit", [1, 5, 100, 1000])
def test_word_limits_count_characters(train, equal, limit):
    letters = ["a", "é", "中", "\U0001f600", "ß", "\u0301", "a\u0301"]
    texts = [letter * count for letter in letters for count in (limit - 1, limit, limit + 1)]
    tokenizer = train(max_chars=limit, lowercase=True, handle_chinese_chars=False)
    tokenizer.add_tokens(["naïve", "##"])
    equal(tokenizer, [*texts, "[SEP]a[MASK] naïve##aab[PAD]"], max_length=None)


def test_other_special_tokens_and_mpnet_style_post_processor(train, equal, hard_texts):
    tokenizer = train(special=("<pad>", "<unk>", "<s>", "</s>", "<mask>"), lowercase=True)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
    )
    equal(tokenizer, [*hard_texts[:1500], "<s>a</s>", "<MASK><mask>"])


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer(lowercase=False)]),
        normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]),
        normalizers.Nmt(),
    ],
    ids=["lowercase-bert", "nfd", "nfkd", "nmt"],
)
def test_sequences_of_normalizers(train, equal, hard_texts, normalizer):
    equal(train(normalizer=normalizer), hard_texts[:2500])


def test_no_normalizer_and_no_post_processor(plain, equal, hard_texts):
    tokenizer = Tokenizer.from_str(plain.to_str())
    tokenizer.normalizer = None
    tokenizer.post_processor = None
    equal(tokenizer, hard_texts[:1500])


def test_other_pre_tokenizers(plain, equal, hard_texts):
    for pre_tokenizer in (
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
        ),
    ):
        tokenizer = Tokenizer.from_str(plain.to_str())
        tokenizer.pre_tokenizer = pre_tokenizer
        equal(tokenizer, hard_texts[:1500])


def test_lowercase_of_sentence_transformers(train, source):
    tokenizer = train(lowercase=False)
    spec = read_tokenizer(source(tokenizer, lowercase=True))
    reference = Tokenizer.from_str(tokenizer.to_str())
    reference.normalizer = normalizers.Sequence([normalizers.Lowercase(), reference.normalizer])
    texts = ["The QUICK Straße", "İstanbul", "ΟΔΥΣΣΕΥΣ", "[SEP] [sep]"]
    packed = build_tokenizer(spec)(tf.constant(texts))
    assert packed.ids.numpy().tolist() == [i for text in texts for i in reference.encode(text).ids]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [2, 3, 7, 64, None])
def test_truncation_and_lengths(plain, equal, side, max_length):
    texts = ["", "a", " ".join("abcdefghij"), "the quick brown fox " * 40, "a b c d e", "a b c d e f"]
    equal(plain, texts, max_length, truncation_side=side)


def test_empty_batch_and_empty_strings(plain, source):
    graph = build_tokenizer(read_tokenizer(source(plain)))
    packed = graph(tf.zeros([0], tf.string))
    assert packed.ids.shape == (0,)
    assert packed.row_splits.numpy().tolist() == [0]
    assert packed.num_tokens.shape == (0,)
    packed = graph(tf.constant(["", ""]))
    assert packed.row_splits.numpy().tolist() == [0, 2, 4]
    assert [value.dtype for value in packed] == [tf.int32] * 3


def test_ten_thousand_rows_and_very_long_documents(plain, equal):
    equal(plain, [f"row {number} of many, [SEP] naïve" for number in range(10_000)])
    document = ("The quick brown fox; naïve 中国 \u0301 " * 7000)[:200_000]
    equal(plain, [document, "q" * 200_000, "\u0301" * 200_000, "." * 200_000, "\0" * 200_000], max_length=None)


def test_marks_that_the_normalizer_would_reorder_are_refused(train):
    # Two combining marks of different classes, which strip_accents keeps as they are no nonspacing marks.
    tokenizer = train(lowercase=True, texts=["x\u302e y\U0001d165 \u302e \U0001d165"])
    assert {"\u302e", "\U0001d165"} <= set("".join(tokenizer.get_vocab()))
    spec = read_tokenizer(TokenizerSource(tokenizer.to_str(), "tokenizer.json", 64))
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json: normalizer is .*reorders U\+.*supported"):
        build_tokenizer(spec)


def test_marks_of_tokens_in_the_normalized_text_are_refused_likewise(train, source):
    tokenizer = train(normalizer=normalizers.NFD(), texts=["plain"])
    tokenizer.add_tokens(["a\u0323"])
    with pytest.raises(UnsupportedError, match=r"reorders U\+.*added tokens"):
        build_tokenizer(read_tokenizer(source(tokenizer)))


def test_one_such_mark_is_no_obstacle(train, equal):
    tokenizer = train(lowercase=True, texts=["x\u302e \u302e"])
    equal(tokenizer, ["x\u302e\U0001d165", "x\U0001d165\u302e", "x\u302e", "x\u0301\u302e"])
