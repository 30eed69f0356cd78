"""Byte-level BPE in the graph equals the tokenizers package on every text."""

from __future__ import annotations

import itertools
import json

import pytest
import tensorflow as tf
from marks import long
from support import export_with_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from toolkit.artifact.compatibility import serving_releases
from toolkit.errors import CheckError, UnsupportedError
from toolkit.tokenizer import build_tokenizer, read_tokenizer, self_check
from toolkit.tokenizer.bpe.spec import EARLIER, SPLITS
from toolkit.tokenizer.texts import NATURAL, random_texts

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def split_by(name, prefix_space=False):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[name]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    def make(pre_tokenizer=None, normalizer=None, **model):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        trainer = trainers.BpeTrainer(
            vocab_size=3000,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(
            [*NATURAL] * 2 + [text.replace("\x11", "") for text in random_texts(300, 9)], trainer
        )
        for name, value in model.items():
            setattr(tokenizer.model, name, value)
        return tokenizer

    return make


@pytest.fixture(scope="module")
def roberta(trained):
    tokenizer = trained()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


# White space, contractions and digits in all orders of three.
PARTS = ["  ", " ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "'s", "'LL", "'ſ", "x", "7", "!"]
SPACING = ["".join(parts) for parts in itertools.product(PARTS, repeat=3)]


def test_roberta_passes_a_sample_of_the_self_check(roberta, source):
    spec = read_tokenizer(source(roberta))
    report = self_check(spec, build_tokenizer(spec), sample=0.05)
    assert dict(report.groups)["vocabulary"] == len(spec.model.vocab)


@pytest.mark.parametrize("prefix_space", [True, False])
def test_gpt2_split(trained, equal, hard_texts, prefix_space):
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=prefix_space))
    equal(tokenizer, [*hard_texts, *SPACING, *(f"{a}<s>{a}" for a in SPACING[::5])])


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("whole_parts", [True, *long(False)], ids=["ignore_merges", "merges"])
def test_newer_splits(trained, equal, hard_texts, name, whole_parts):
    tokenizer = trained(split_by(name), normalizers.NFC(), ignore_merges=whole_parts)
    equal(tokenizer, [*hard_texts, *SPACING, "1234567 12 3 ٣٤٥٦"])


@pytest.mark.parametrize("name", ["GPT-2", *long("Qwen 2")])
def test_a_space_in_front_of_each_part(trained, equal, hard_texts, name):
    tokenizer = trained(split_by(name, prefix_space=True))
    assert [part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a1 b")] == ["Ġa", "Ġ1", "Ġb"]
    equal(tokenizer, [*hard_texts, *SPACING, *(f"{a}<s>{a}" for a in SPACING[::5])])


@pytest.mark.parametrize("form", ["NFKC", "NFD", "NFKD"])
def test_other_normalization_forms(trained, equal, hard_texts, form):
    equal(trained(normalizer=getattr(normalizers, form)()), [*hard_texts[:1500], "<s>ﬁ<s>", "\u1e9b\u0323"])


def test_removing_what_an_expression_does_not_match_removes_nothing(trained, equal, hard_texts):
    split = pre_tokenizers.Split(Regex(SPLITS["GPT-4o"]), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    equal(trained(pre_tokenizers.Sequence([split, byte_level])), [*hard_texts[:1500], *SPACING, "aBCdE'LL Ab/\n//"])


@pytest.mark.parametrize("prefix_space", [False, True])
def test_several_splits_in_a_row(trained, equal, hard_texts, prefix_space):
    patterns = [*EARLIER.values(), SPLITS["DeepSeek-V3"]]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
    tokenizer = trained(pre_tokenizers.Sequence([*splits, byte_level]))
    equal(tokenizer, [*hard_texts, *SPACING, "12345 中国かなabc \x01\x02a 1 中  2<s>  3 \u0e00x #tag"])


@pytest.mark.parametrize("prefix_space", [False, *long(True)])
@pytest.mark.parametrize("each", [True, *long(False)], ids=["each", "runs"])
def test_digits_apart_as_granite_and_starcoder_have_them(trained, equal, hard_texts, each, prefix_space):
    digits = pre_tokenizers.Digits(individual_digits=each)
    texts = ["a 12 b34", " 5", "x\t\t6  7 ½Ⅻ٣4<s>8 <s>", "\U00011de0\U00016ff4"]
    for after in ([], [pre_tokenizers.Split(Regex(SPLITS["Llama 3"]), "isolated")]):
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=not after)
        tokenizer = trained(pre_tokenizers.Sequence([digits, *after, byte_level]))
        equal(tokenizer, [*hard_texts, *SPACING, *texts])


def test_composition(trained, equal):
    texts = ["e\u0301\u0323", "\u1100\u1161\u11a8", "\U00016d63\U00016d67\U00016d67", "a\u0345\u0334", "\u212b\u0958"]
    texts += ["<s>\u0338", "\U000f0000<s>\U000f00001", "ü\u0328", "\u0301a", "\u09c7\u09be \u0dd9\u0dcf\u0dca"]
    tokenizer = trained(normalizer=normalizers.NFC())
    equal(tokenizer, [*texts, *map("".join, itertools.permutations("a\u0301\u0323<>\u0338\u1161\u1100", 4))])


def test_added_tokens_of_every_kind(trained, equal):
    tokenizer = trained(normalizer=normalizers.NFC())
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<r>", rstrip=True), "<m", "<|e|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken("foo", single_word=True), AddedToken("cafe\u0301", normalized=True), "|||IP|||"])
    tokenizer.add_tokens(["a \n b", AddedToken("c\t\td", normalized=False)])
    pieces = ["<mask>", "<r>", "<m", " ", "   ", "foo", "café", "cafe\u0301", "a", "\t", "|||IP|||", "é", "_"]
    pieces += ["a \n b", "c\t\td"]
    texts = ["".join(parts) for parts in itertools.product(pieces, repeat=3)]
    equal(tokenizer, [*texts, *(" " * n + "x" for n in range(60))])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [2, 3, 9, None])
def test_truncation_and_lengths(roberta, equal, side, max_length):
    texts = ["", "a", " ".join("abcdefghij"), "the quick brown fox " * 40, "\0", "<mask>" * 12]
    equal(roberta, texts, max_length, truncation_side=side)


def test_empty_batch_many_rows_and_long_documents(roberta, source, equal):
    packed = build_tokenizer(read_tokenizer(source(roberta)))(tf.zeros([0], tf.string))
    assert (packed.ids.shape, packed.row_splits.numpy().tolist(), packed.num_tokens.shape) == ((0,), [0], (0,))
    equal(roberta, [f"row {number} of many, <mask> naïve" for number in range(10_000)])
    document = ("The quick brown fox; naïve 中国 \u0301 " * 7000)[:200_000]
    equal(roberta, [document, "q" * 200_000, " " * 200_000, "\0" * 200_000, "né" * 100_000], max_length=None)


def test_tokens_that_merges_do_not_make(trained, equal, hard_texts):
    """With ignore_merges they are found whole; without it they never occur."""
    root = json.loads(trained(split_by("Llama 3")).to_str())
    merges = root["model"]["merges"]
    root["model"]["merges"] = merges[:200] + merges[600:1200][::-1]  # many parts are missing or come too late
    known = set(root["model"]["vocab"])
    for ignore in (True, False):
        root["model"]["ignore_merges"] = ignore
        assert known
        equal(Tokenizer.from_str(json.dumps(root)), hard_texts[:1500])


@pytest.mark.parametrize("token", ["đđ", "a" * 257])
def test_a_token_that_only_ignore_merges_finds_and_no_table_can_hold_is_refused(trained, source, token):
    root = json.loads(trained(ignore_merges=True).to_str())
    root["model"]["vocab"][token] = len(root["model"]["vocab"])
    with pytest.raises(
        UnsupportedError, match=r"model.ignore_merges is .*at most 256 bytes, none of them 0x00 or 0x11"
    ):
        build_tokenizer(read_tokenizer(source(Tokenizer.from_str(json.dumps(root)))))


def test_a_token_that_several_merges_could_make(trained, equal, hard_texts):
    root = json.loads(trained().to_str())
    vocab, merges = root["model"]["vocab"], root["model"]["merges"]
    known = {tuple(pair) for pair in merges}
    others = [[w[:i], w[i:]] for w in vocab for i in range(1, len(w)) if w[:i] in vocab and w[i:] in vocab]
    root["model"]["merges"] = [*merges, *(pair for pair in others if tuple(pair) not in known)]
    assert len(root["model"]["merges"]) > len(merges)
    equal(Tokenizer.from_str(json.dumps(root)), hard_texts[:1500])


def test_only_ops_that_stock_servers_link_and_no_loop_without_normalization(roberta, source):
    graph = build_tokenizer(read_tokenizer(source(roberta)))
    concrete = tf.function(graph.__call__, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()
    definition = concrete.graph.as_graph_def()
    ops = {node.op for node in definition.node} | {n.op for f in definition.library.function for n in f.node_def}
    assert serving_releases(ops).since == "2.12"
    # a table of words seen before starts empty and needs no initialization
    assert not {op for op in ops if "While" in op or "Py" in op or "HashTable" in op} - {"MutableHashTableOfTensorsV2"}


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_SPLIT = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False}
_KNOWN = {**_SPLIT, "pattern": {"Regex": SPLITS["GPT-4o"]}}
_PARTIAL = {**_SPLIT, "pattern": {"Regex": SPLITS["DeepSeek-V3"]}}
_DIGITS = {"type": "Digits", "individual_digits": True}
_REFUSED = [
    ("normalizer.type", "normalizer", {"type": "Lowercase"}),
    ("normalizer.type", "normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
    ("pre_tokenizer.type", "pre_tokenizer", {"type": "Whitespace"}),
    ("pre_tokenizer.use_regex", "pre_tokenizer", _BYTE_LEVEL),
    ("pre_tokenizer.use_regex", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]}),
    (
        "pre_tokenizer.use_regex",
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [_KNOWN, {**_BYTE_LEVEL, "use_regex": True}]},
    ),
    ("pre_tokenizer.type", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [_BYTE_LEVEL, _DIGITS]}),
    ("pre_tokenizer.pattern", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [_SPLIT, _BYTE_LEVEL]}),
    (
        "pre_tokenizer.behavior",
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [{**_KNOWN, "behavior": "MergedWithNext"}, _BYTE_LEVEL]},
    ),
    (
        "pre_tokenizer.invert",
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [{**_KNOWN, "behavior": "Removed"}, _BYTE_LEVEL]},
    ),
    (
        "pre_tokenizer.behavior",
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": [{**_PARTIAL, "behavior": "Removed", "invert": True}, _BYTE_LEVEL]},
    ),
    ("model.dropout", "model.dropout", 0.1),
    ("model.continuing_subword_prefix", "model.continuing_subword_prefix", "##"),
    ("model.end_of_word_suffix", "model.end_of_word_suffix", "</w>"),
]


@pytest.mark.parametrize(("field", "path", "value"), _REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_file_field_value_and_what_is_supported(trained, source, field, path, value):
    tokenizer = trained()
    root = json.loads(tokenizer.to_str())
    *parents, last = path.split(".")
    node = root
    for parent in parents:
        node = node[parent]
    node[last] = value
    if field.endswith(("prefix", "suffix")):
        root["model"]["merges"] = []
    with pytest.raises(UnsupportedError) as caught:
        read_tokenizer(type(source(tokenizer))(json.dumps(root), "tokenizer.json", 8))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"tokenizer.json: {field} is ")
    assert caught.value.supported


def test_a_vocabulary_without_a_byte_is_refused(trained, source):
    tokenizer = trained()
    root = json.loads(tokenizer.to_str())
    root["model"]["merges"] = []
    del root["model"]["vocab"]["Ġ"]
    with pytest.raises(UnsupportedError, match="without byte 0x20"):
        read_tokenizer(type(source(tokenizer))(json.dumps(root), "tokenizer.json", 8))


def renamed(tokenizer):
    return Tokenizer.from_str(tokenizer.to_str().replace("<mask>", "<musk>"))


def changed(**parts):
    def change(tokenizer):
        other = Tokenizer.from_str(tokenizer.to_str())
        for name, part in parts.items():
            setattr(other, name, part)
        return other

    return change


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (changed(pre_tokenizer=split_by("Qwen 2")), "split as"),
        (changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "split as"),
        (renamed, "find in the text"),
    ],
    ids=["split", "prefix", "added"],
)
def test_a_wrong_graph_is_refused_with_the_diverging_step(roberta, source, change, step):
    spec = read_tokenizer(source(roberta))
    with pytest.raises(CheckError, match=f"first diverging step: {step}"):
        self_check(spec, build_tokenizer(read_tokenizer(source(change(roberta)))), sample=0.01)


@pytest.mark.long
def test_a_model_with_such_a_tokenizer_is_exported_and_proved(roberta, tmp_path):
    result = export_with_tokenizer(roberta, tmp_path)
    assert result.report.passed
    assert str(result.spec).startswith("tokenizer   BytePair")
