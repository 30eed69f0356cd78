"""Words that were seen before have the tokens that a search for them finds, whatever other calls do meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from support import MAX_LENGTH
from tokenizers import Tokenizer
from unigram_support import changed, make_unigram

from toolkit.artifact.compatibility import read_saved_model, saved_model_nodes
from toolkit.server.models.servable import RunOptions, Servable
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer
from toolkit.tokenizer.graph import TokenizerGraph
from toolkit.tokenizer.seen import SeenWords
from toolkit.tokenizer.texts import NATURAL, random_texts
from toolkit.tokenizer.unigram.steps import Unigram

# Every test has limits of its own, and so words of its own.
Rows = list[list[int]]


def _graph(tokenizer: Tokenizer | str, **limits: int) -> tuple[TokenizerGraph, Unigram]:
    text = tokenizer if isinstance(tokenizer, str) else tokenizer.to_str()
    graph = build_tokenizer(read_tokenizer(TokenizerSource(text, "tokenizer.json", None)))
    *before, unigram, last = graph.steps
    assert isinstance(unigram, Unigram)
    unigram = dataclasses.replace(unigram, seen=SeenWords(**limits))
    return TokenizerGraph((*before, unigram, last), graph.pad_id, graph.engine), unigram


def _function(graph: TokenizerGraph) -> Callable[[Sequence[str]], Rows]:
    compiled = tf.function(graph.__call__, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()

    def rows(texts: Sequence[str]) -> Rows:
        packed = compiled(tf.constant(list(texts), tf.string))
        return [packed.ids.numpy()[a:b].tolist() for a, b in itertools.pairwise(packed.row_splits.numpy())]

    return rows


def _size(unigram: Unigram) -> int:
    return int(tf.raw_ops.LookupTableSizeV2(table_handle=unigram.seen.table(unigram.digest)))


def _expected(tokenizer: Tokenizer, texts: Sequence[str]) -> Rows:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*NATURAL, *random_texts(400, 5), "", " ", "naïve <mask> naïve"]


def test_tokens_are_the_same_for_new_words_for_seen_ones_and_after_they_were_forgotten(xlmr, texts):
    graph, unigram = _graph(xlmr, words=60_000)
    rows, expected = _function(graph), _expected(xlmr, texts)
    assert _size(unigram) == 0
    assert rows(texts) == expected
    seen = _size(unigram)
    assert seen > 1000
    assert rows(texts) == expected
    assert _size(unigram) == seen
    assert rows(texts[::-1] + texts) == expected[::-1] + expected
    unigram.seen.forget(unigram.digest)
    assert _size(unigram) == 0
    assert rows(texts) == expected
    assert _size(unigram) == seen


@pytest.mark.parametrize("words", [1, 7, 300])
def test_no_more_words_are_kept_than_the_limit_says(xlmr, texts, words):
    graph, unigram = _graph(xlmr, words=words)
    rows, expected = _function(graph), _expected(xlmr, texts)
    sizes = set()
    for start in [*range(0, len(texts), 5), *range(0, len(texts), 5)]:
        assert rows(texts[start : start + 5]) == expected[start : start + 5]
        sizes.add(_size(unigram))
    assert rows(texts) == expected  # more new words at once than may be kept
    assert 0 < max(sizes | {_size(unigram)}) <= words
    assert words < 300 or min(sizes) < words / 2, "they were never forgotten"


def test_words_with_more_tokens_or_bytes_than_the_limits_are_exact_and_not_kept(xlmr):
    graph, unigram = _graph(xlmr, tokens=2, size=12)
    rows = _function(graph)
    texts = ["a", "東京は日本の首都です" * 3, "q" * 5000, "xzqxzqxzq", "e" * 13, "aa bb"]
    for _ in range(2):
        assert rows(texts) == _expected(xlmr, texts)
    words = [word for text in texts for word in text.split()]
    short = [w for w in words if len(xlmr.encode(w, add_special_tokens=False).ids) <= 2 and len(w.encode()) <= 12]
    assert 1 < len(short) < len(words)
    assert _size(unigram) == len(short)


def test_a_word_of_just_as_many_tokens_and_bytes_as_the_limits_is_kept(xlmr):
    word = "xzqxzqxzq"
    tokens = len(xlmr.encode(word, add_special_tokens=False).ids)
    for more, size, kept in ((0, 9, 1), (-1, 9, 0), (0, 8, 0)):
        graph, unigram = _graph(xlmr, tokens=tokens + more, size=size)
        assert _function(graph)([word]) == _expected(xlmr, [word])
        assert _size(unigram) == kept


def test_two_tokenizers_in_one_process_do_not_share_words(charsmap, xlmr):
    def swap(root):
        vocab = root["model"]["vocab"]
        vocab[30][0], vocab[31][0] = vocab[31][0], vocab[30][0]

    others = [
        xlmr,
        Tokenizer.from_str(changed(xlmr, swap)),
        make_unigram(charsmap, extra=[("▁naï", -1.0)]),
    ]
    texts = [*NATURAL, "naïve"]
    graphs = [_graph(tokenizer, words=50_000) for tokenizer in others]
    expected = [_expected(tokenizer, texts) for tokenizer in others]
    assert expected[0] != expected[1] != expected[2]
    for _ in range(2):
        for (graph, _), wanted in zip(graphs, expected, strict=True):
            assert _function(graph)(texts) == wanted
    assert len({unigram.digest for _, unigram in graphs}) == 3


def test_the_same_tokenizer_built_twice_shares_words(xlmr):
    (first, one), (second, two) = _graph(xlmr, words=40_000), _graph(xlmr, words=40_000)
    assert _function(first)(["share these words"]) == _function(second)(["share these words"])
    assert _size(one) == _size(two) == 3


def test_concurrent_calls_stay_exact_while_words_are_forgotten(xlmr, texts):
    graph, _ = _graph(xlmr, words=200)
    rows, expected = _function(graph), _expected(xlmr, texts)

    def call(seed: int) -> bool:
        chosen = np.random.default_rng(seed).integers(0, len(texts), 20).tolist()
        return rows([texts[n] for n in chosen]) == [expected[n] for n in chosen]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


def test_calls_outside_a_function_share_the_words(xlmr):
    graph, unigram = _graph(xlmr, words=30_000)
    for _ in range(2):
        assert graph(tf.constant(["eager words"])).ids.numpy().tolist() == xlmr.encode("eager words").ids
        assert _size(unigram) == 2
    assert _function(graph)(["eager words"]) == _expected(xlmr, ["eager words"])
    assert _size(unigram) == 2


def test_an_empty_batch_adds_no_word(xlmr):
    graph, unigram = _graph(xlmr, words=20_000)
    rows = _function(graph)
    assert rows([]) == []
    assert rows(["", " "]) == _expected(xlmr, ["", " "])
    assert _size(unigram) == 0


@pytest.mark.long
def test_the_signatures_of_an_artifact_share_words_in_a_servers_session(xlmr, exported, texts):
    folder = exported.path
    nodes = list(saved_model_nodes(read_saved_model(folder)))
    (name,) = {node.attr["shared_name"].s for node in nodes if node.op == "MutableHashTableOfTensorsV2"}
    reference = Tokenizer.from_str(xlmr.to_str())
    reference.enable_truncation(MAX_LENGTH)
    expected = _expected(reference, texts)
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        seen = SeenWords()
        table = tf.raw_ops.MutableHashTableOfTensorsV2(
            key_dtype=tf.string, value_dtype=tf.int32, value_shape=[1 + seen.tokens], shared_name=name.decode()
        )
        size = tf.raw_ops.LookupTableSizeV2(table_handle=table)

    def run(signature: str) -> dict[str, np.ndarray]:
        definition = meta.signature_def[signature]
        outputs = {key: tensor.name for key, tensor in definition.outputs.items()}
        return session.run(outputs, {definition.inputs["text"].name: [text.encode() for text in texts]})

    assert session.run(size) == 0
    cold = run("serving_default")["embedding"]
    kept = session.run(size)
    assert kept > 500
    found = run("tokenize")
    rows = [row[mask > 0].tolist() for row, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]
    assert rows == expected
    np.testing.assert_array_equal(run("serving_default")["embedding"], cold)
    assert session.run(size) == kept

    servable = Servable("model", 1, folder, RunOptions())
    signature = servable.signature("tokenize")
    assert signature is not None
    data = {"text": np.array([text.encode() for text in texts], object)}
    for _ in range(2):
        found, _ = servable.run(signature, data, ("input_ids", "attention_mask"))
        rows = [row[mask > 0].tolist() for row, mask in zip(found["input_ids"], found["attention_mask"], strict=True)]
        assert rows == expected
    servable.close()


def test_no_branch_or_function_is_given_the_table_as_an_argument() -> None:
    graph, _ = _graph(make_unigram(), words=71)
    compiled = tf.function(graph.__call__, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()
    definition = compiled.graph.as_graph_def()
    made = 0
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        tables = {node.name for node in nodes if node.op == "MutableHashTableOfTensorsV2"}
        takers = {node.op for node in nodes if tables & {name.split(":")[0] for name in node.input}}
        assert takers <= {"LookupTableFindV2", "LookupTableSizeV2", "LookupTableInsertV2", "LookupTableImportV2"}
        made += len(tables)
    assert made == 4
