"""tensorflow-text's own tokenizers, on the text that our steps prepare, equal the tokenizers package as well."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from unigram_support import make_unigram

from toolkit.artifact.tokenizer_inspection import inspect_tokenizer
from toolkit.convert import export
from toolkit.errors import CheckError, InputError, UnsupportedError
from toolkit.tokenizer import ENGINES, TokenizerSource, build_tokenizer, read_tokenizer, self_check
from toolkit.tokenizer.graph import TokenizerGraph

STOCK = [engine for engine in ENGINES if engine != "compiled"]
every_engine = pytest.mark.parametrize("engine", STOCK)


@pytest.mark.real_model
@every_engine
def test_minilm_is_exact_on_a_sample_of_the_self_check(minilm_json, engine):
    spec = read_tokenizer(TokenizerSource(minilm_json, "tokenizer.json", 256))
    assert self_check(spec, build_tokenizer(spec, engine), sample=0.02).texts > 50_000


@every_engine
@pytest.mark.parametrize(
    "settings",
    [
        {"lowercase": True},
        pytest.param(
            {"lowercase": False, "clean_text": False, "strip_accents": False, "handle_chinese_chars": False},
            marks=pytest.mark.long,
        ),
        pytest.param({"lowercase": True, "prefix": "x", "max_chars": 7}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_all_settings_and_added_tokens(train, equal, hard_texts, engine, settings):
    tokenizer = train(**settings)
    tokenizer.add_tokens([AddedToken("foo", single_word=True), "Naïve", "a b", AddedToken("<l>", lstrip=True)])
    equal(tokenizer, [*hard_texts[:2500], "foo foox <l> a  b NAÏVE", "a" * 300, "xx ##x"], engine=engine)


@every_engine
def test_words_that_contain_punctuation(train, equal, hard_texts, engine):
    tokenizer = train(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    equal(tokenizer, [*hard_texts[:1500], "don't a.b,c 中国x"], engine=engine)


@every_engine
def test_truncation_lengths_empty_batches_and_long_documents(plain, source, equal, engine):
    texts = ["", "a b c d e f", "the quick brown fox " * 40, "q" * 20_000, "." * 2000, "\0"]
    for side in ("left", "right"):
        equal(plain, texts, 7, engine=engine, truncation_side=side)
    packed = build_tokenizer(read_tokenizer(source(plain)), engine)(tf.zeros([0], tf.string))
    assert (packed.ids.shape, packed.row_splits.numpy().tolist(), packed.num_tokens.shape) == ((0,), [0], (0,))


@every_engine
def test_on_a_text_that_is_not_prepared_the_self_check_refuses_them_with_the_diverging_step(plain, source, engine):
    spec = read_tokenizer(source(plain))
    *_, tokens, pack = build_tokenizer(spec, engine).steps
    with pytest.raises(
        CheckError, match=rf"graph \[.*\], original \[.*\]; first diverging step: {engine}: 1,501 pieces"
    ):
        self_check(spec, TokenizerGraph((tokens, pack), spec.pad_id, engine), sample=0.01)


@every_engine
def test_other_kinds_of_tokenizers_are_refused_by_name(engine):
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.add_tokens(pre_tokenizers.ByteLevel.alphabet())
    root = json.loads(pairs.to_str())
    root["model"]["vocab"] = {token: number for number, token in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    root["added_tokens"] = []
    for tokenizer, kind in ((json.dumps(root), "BytePair"), (make_unigram().to_str(), "Unigram")):
        spec = read_tokenizer(TokenizerSource(tokenizer, "tokenizer.json", 8))
        message = rf"tokenizer\.json: model\.type is '{kind}'.*WordPiece, by the tokenizer engine {engine}"
        with pytest.raises(UnsupportedError, match=message):
            build_tokenizer(spec, engine)


def test_an_engine_that_does_not_exist_is_refused(plain, source):
    with pytest.raises(
        InputError, match="'bert' does not exist; there are: compiled, BertTokenizer, FastBertTokenizer"
    ):
        build_tokenizer(read_tokenizer(source(plain)), "bert")


def test_nothing_is_exported_unproved(tiny_source, tmp_path):
    with pytest.raises(InputError, match="'BertTokenizer' is only taken where it is proved equal"):
        export(tiny_source, tmp_path, "tiny", tokenizer_engine="BertTokenizer", verify=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@every_engine
def test_an_artifact_says_which_engine_it_has_and_loads_as_a_server_loads_it(tiny_source, tmp_path, engine):
    result = export(tiny_source, tmp_path, "tiny", tokenizer_sample=0.01, tokenizer_engine=engine)
    assert result.report is not None
    assert result.report.passed
    provenance = json.loads((result.path / "assets.extra" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["tokenizer_engine"] == engine
    assert provenance["tf_serving"]["since"] == "2.17"
    assert any(step.step.startswith(f"{engine}: ") for step in inspect_tokenizer(result.path))
    texts = ["Hello wörld", "", "中国 [SEP]"]
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(result.path))
        signature = graph.signature_def["tokenize"]
        ids = session.run(signature.outputs["input_ids"].name, {signature.inputs["text"].name: texts})
    assert (
        ids.tolist()
        == tf.saved_model.load(str(result.path))
        .signatures["tokenize"](tf.constant(texts))["input_ids"]
        .numpy()
        .tolist()
    )
