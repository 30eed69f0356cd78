"""BPE over characters in the graph equals the tokenizers package on every text."""

from __future__ import annotations

import itertools
import json

import pytest
import tensorflow as tf
from marks import long
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from toolkit.artifact.compatibility import serving_releases
from toolkit.errors import CheckError, UnsupportedError
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer, self_check
from toolkit.tokenizer.bpe.whole_compiler import compile_character_pairs
from toolkit.tokenizer.texts import NATURAL, random_texts

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
GEMMA = normalizers.Replace(" ", "▁")
LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
NO_OP = pre_tokenizers.Split(" ", "merged_with_previous")


def metaspace(scheme="always", *, split=True):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


@pytest.fixture(scope="module")
def trained():
    """``crossing``: the vocabulary has tokens with ▁ inside."""

    def make(normalizer=None, pre_tokenizer=None, *, fallback=True, crossing=False, **model):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = GEMMA
        tokenizer.pre_tokenizer = None if crossing else metaspace("never")
        special = SPECIAL + (BYTES if fallback else [])
        trainer = trainers.BpeTrainer(
            vocab_size=1200, special_tokens=special, limit_alphabet=300, max_token_length=12, show_progress=False
        )
        code = ["    return x", "        if a > b: c", "x\n\n\ny", "the end of the text, the end of a day"] * 40
        tokenizer.train_from_iterator([*NATURAL, *code], trainer)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        settings = {"byte_fallback": fallback, "unk_token": "<unk>", "fuse_unk": True} | model
        root = json.loads(tokenizer.to_str())
        root["model"].update(settings)
        # Special tokens are found in the text; those of bytes only ever stand for a byte.
        root["added_tokens"] = [token for token in root["added_tokens"] if token["content"] not in BYTES]
        return Tokenizer.from_str(json.dumps(root))

    return make


@pytest.fixture(scope="module")
def gemma(trained):
    tokenizer = trained(GEMMA, NO_OP)
    tokenizer.add_tokens([AddedToken(mark * n, normalized=False) for mark in ("\n", "▁") for n in (4, 3, 2)])
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer


SPACING = ["".join(p) for p in itertools.product(["  ", " ", "▁", "\n", "<eos>", "a", ">", "\0", "𐍈"], repeat=3)]


def test_gemma_passes_a_sample_of_the_self_check(gemma, source):
    spec = read_tokenizer(source(gemma))
    report = self_check(spec, build_tokenizer(spec), sample=0.03)
    assert dict(report.groups)["vocabulary"] > len(spec.model.vocab)


FORMS = {
    "Llama 2": (LLAMA, None),
    "Llama 2, new": (None, metaspace("first", split=False)),
    "Metaspace": (None, metaspace()),
    "Metaspace, first": (None, metaspace("first")),
    "Metaspace, never": (None, metaspace("never")),
    "Metaspace after a change": (normalizers.Replace("``", '"\\'), metaspace()),
    "Gemma": (GEMMA, NO_OP),
}


@pytest.mark.parametrize("crossing", [True, False], ids=["crossing", "words"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(trained, equal, hard_texts, form, crossing):
    tokenizer = trained(*FORMS[form], crossing=crossing)
    equal(tokenizer, [*hard_texts[:2500], *SPACING, "a``b `` ```", *(f"a > b{text}" for text in NATURAL[:9])])


@pytest.mark.parametrize("crossing", [True, False], ids=["crossing", "words"])
@pytest.mark.parametrize("form", ["Gemma", *long("Llama 2")])
def test_marks_that_the_character_map_puts_before_spaces(trained, equal, source, form, crossing):
    tokenizer = trained(*FORMS[form], crossing=crossing)
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in ("▁▁", "<i>")])
    tokenizer.add_tokens([AddedToken("a", single_word=True, normalized=False)])
    assert compile_character_pairs(read_tokenizer(source(tokenizer))).spaces_marked
    pieces = ["  ", " ", "▁", "▁▁", "<i>", "a", ">", "\n"]
    equal(tokenizer, ["".join(parts) for parts in itertools.product(pieces, repeat=4)])


@pytest.mark.parametrize("unknown", ["<unk>", None])
@pytest.mark.parametrize("fuse", [True, False], ids=["fuse", "each"])
@pytest.mark.parametrize("form", ["Llama 2", "Metaspace"])
def test_unknown_characters(trained, equal, hard_texts, form, fuse, unknown):
    tokenizer = trained(*FORMS[form], fallback=False, fuse_unk=fuse, unk_token=unknown)
    tokenizer.add_special_tokens(["<中国𐍈>"])
    equal(tokenizer, [*hard_texts[:1500], *SPACING, "a中𐍈\U000f0000\U000f0001b c中 𐍈 中<中国𐍈>中"])


def test_parts_that_are_tokens_stay_whole_with_ignore_merges(trained, equal, hard_texts):
    root = json.loads(trained(None, metaspace(), ignore_merges=True).to_str())
    root["model"]["merges"] = root["model"]["merges"][::2][::-1]
    root["model"]["merges"] = [pair for pair in root["model"]["merges"] if len("".join(pair)) < 4]
    words = [token.replace("▁", " ") for token in root["model"]["vocab"]]
    for pre_tokenizer in (root["pre_tokenizer"], None):
        root["pre_tokenizer"] = pre_tokenizer
        equal(Tokenizer.from_str(json.dumps(root)), [*hard_texts[:700], *words, *root["model"]["vocab"]])


def test_added_tokens_of_every_kind(trained, equal):
    for form in ("Llama 2", "Metaspace", "Gemma"):
        tokenizer = trained(*FORMS[form])
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<r>", rstrip=True)])
        tokenizer.add_tokens(
            [AddedToken("foo", single_word=True), AddedToken("new word"), AddedToken("the", normalized=True)]
        )
        tokenizer.add_tokens([AddedToken("raw word", normalized=False)])
        pieces = ["<mask>", "<r>", " ", "foo", "new word", "raw word", "▁new▁word", "a", "the", "▁", "\n"]
        equal(tokenizer, ["".join(parts) for parts in itertools.product(pieces, repeat=3)])


def test_texts_are_cut_before_spaces_but_where_a_token_goes_over_one(trained, source):
    def parts(tokenizer, text):
        graph = build_tokenizer(read_tokenizer(source(tokenizer)))
        *_, (_, marked), _, _ = graph.trace(tf.constant([text]))
        # spaces stand for the marks that they become
        return [part.decode().replace(" ", "▁") for part in marked.numpy()[0].split(b"\xed\xa0\x80") if part]

    assert parts(trained(GEMMA), "a > b  of day") == ["a", "▁>", "▁b", "▁▁of", "▁day"]
    root = json.loads(trained(GEMMA).to_str())
    tokens, merges = root["model"]["vocab"], root["model"]["merges"]
    tokens["f▁d"] = len(tokens)
    merges.insert(0, ["▁", "d"])
    tokens.setdefault("▁d", len(tokens))
    merges.insert(1, ["f", "▁d"])
    assert parts(Tokenizer.from_str(json.dumps(root)), "a > b  of day") == ["a", "▁>", "▁b", "▁▁of▁day"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [2, 9, None])
def test_truncation_many_rows_and_long_documents(gemma, equal, side, max_length):
    document = ("The quick brown fox; naïve 中国 \u0301 " * 3000)[:80_000]
    texts = ["", "a", "<image>" * 12, document, "q" * 80_000, " " * 80_000, "\0" * 9000, "né" * 40_000]
    equal(gemma, [*texts, *(f"row {n} of many" for n in range(3000))], max_length, truncation_side=side)


def test_only_ops_that_stock_servers_link(gemma, source):
    graph = build_tokenizer(read_tokenizer(source(gemma)))
    concrete = tf.function(graph.__call__, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()
    definition = concrete.graph.as_graph_def()
    ops = {node.op for node in definition.node} | {n.op for f in definition.library.function for n in f.node_def}
    assert serving_releases(ops).since == "2.12"
    # a table of words seen before starts empty and needs no initialization
    assert not {op for op in ops if "While" in op or "Py" in op or "HashTable" in op} - {"MutableHashTableOfTensorsV2"}


def test_compiled_tables_come_back_from_arrays(gemma, source):
    tables = compile_character_pairs(read_tokenizer(source(gemma)))
    again = type(tables).from_arrays(tables.to_arrays())
    assert again.spaces_marked is tables.spaces_marked is True
    assert (again.normal_passes, again.split_passes) == (tables.normal_passes, tables.split_passes)


_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
_REFUSED = [
    ("normalizer.type", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}}),
    ("normalizer.pattern", {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"}}),
    ("normalizer.content", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": ""}}),
    ("pre_tokenizer.type", {"pre_tokenizer": {"type": "Whitespace"}}),
    ("pre_tokenizer.type", {"pre_tokenizer": {**_SPLIT, "invert": True}}),
    ("pre_tokenizer.pattern", {"normalizer": None, "pre_tokenizer": _SPLIT}),
    ("pre_tokenizer.pattern", {"pre_tokenizer": {**_SPLIT, "pattern": {"Regex": " "}}}),
    ("model.unk_token", {"model": {"byte_fallback": False, "unk_token": "<none>"}}),
    ("model.ignore_merges", {"model": {"byte_fallback": False, "ignore_merges": True}}),
    ("model.dropout", {"model": {"dropout": 0.1}}),
]


@pytest.mark.parametrize(("field", "change"), _REFUSED, ids=lambda value: str(value)[:60])
def test_refusals_name_file_field_value_and_what_is_supported(trained, field, change):
    root = json.loads(trained(GEMMA).to_str())
    change = dict(change)
    root["model"].update(change.pop("model", {}))
    root.update(change)
    with pytest.raises(UnsupportedError) as caught:
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 8))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"tokenizer.json: {field} is ")
    assert caught.value.supported


def test_a_byte_left_out_and_bytes_that_merge_are_refused(trained):
    root = json.loads(trained(GEMMA).to_str())
    root["model"]["vocab"]["<0x0A><0x0B>"] = len(root["model"]["vocab"])
    root["model"]["merges"].append(["<0x0A>", "<0x0B>"])
    with pytest.raises(UnsupportedError, match=r"model.merges is '<0x0A> <0x0B>'"):
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 8))
    root["model"]["merges"].pop()
    del root["model"]["vocab"]["<0xF7>"]
    with pytest.raises(UnsupportedError, match=r"model.vocab is 'without <0xF7>'"):
        read_tokenizer(TokenizerSource(json.dumps(root), "tokenizer.json", 8))


def test_a_wrong_graph_is_refused_with_the_diverging_step(trained, source):
    spec = read_tokenizer(source(trained(LLAMA)))
    wrong = build_tokenizer(read_tokenizer(source(trained(GEMMA))))
    with pytest.raises(CheckError, match=r"first diverging step: normalize: ' ' to '▁'"):
        self_check(spec, wrong, sample=0.01)


def test_a_random_vocabulary_of_merges_in_any_order(trained, equal):
    root = json.loads(trained(GEMMA, crossing=True).to_str())
    merges = root["model"]["merges"]
    root["model"]["merges"] = merges[1::2] + merges[::2]
    equal(Tokenizer.from_str(json.dumps(root)), [*NATURAL, *random_texts(500, 3)])
