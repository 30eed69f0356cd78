"""StaticEmbedding in the graph equals sentence-transformers', whose tokenizer adds and cuts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, Normalize
from support import TEXTS, byte_level_tokenizer, largest_difference, static_embedding, unigram_tokenizer

from toolkit.convert import export
from toolkit.corpus.check import check_texts
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.tasks import read_spec, serving_model
from toolkit.signatures import SIGNATURES
from toolkit.source.checkpoint import open_checkpoint

LONG = [" ".join(["word"] * 3000), *check_texts(None)]


def functions(model: SentenceTransformer, batching: Batching | None = None) -> dict[str, Any]:
    return dict(serving_model(read_spec(open_checkpoint(model)), Layout(batching=batching)).signature_functions())


def static(*modules: Any, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(modules=[static_embedding(**options), *modules], device="cpu")


def embed(model: SentenceTransformer, texts: Sequence[str]) -> Any:
    return functions(model)["serving_default"](text=tf.constant(list(texts)))["embedding"]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return static(Normalize())


@pytest.fixture(scope="module")
def served(model: SentenceTransformer) -> dict[str, Any]:
    return functions(model, Batching())


@pytest.mark.parametrize("texts", [TEXTS, LONG], ids=["mixed", "thousands of tokens"])
def test_it_equals_encode_at_any_length(served: Any, model: SentenceTransformer, texts: Sequence[str]) -> None:
    ours = served["serving_default"](text=tf.constant(list(texts)))["embedding"]
    assert largest_difference(ours, model.encode(list(texts))) < 1e-6


def test_a_row_is_the_same_alone(served: Any) -> None:
    together = served["serving_default"](text=tf.constant(list(TEXTS)))["embedding"]
    alone = [served["serving_default"](text=tf.constant([text]))["embedding"][0] for text in TEXTS]
    assert np.array_equal(together, alone)


def test_an_empty_text_is_zeros_and_an_empty_batch_has_no_row(served: Any) -> None:
    assert not served["serving_default"](text=tf.constant([""]))["embedding"].numpy().any()
    for name in ("serving_default", "detailed", "tokenize", "token_embeddings"):
        for value in served[name](text=tf.constant([], tf.string)).values():
            assert value.shape[0] == 0


@pytest.mark.parametrize(
    "tokenizer",
    [byte_level_tokenizer, pytest.param(unigram_tokenizer, marks=pytest.mark.long)],
    ids=["byte-level BPE", "Unigram"],
)
def test_any_tokenizer_does_and_its_special_tokens_are_left_out(tokenizer: Any) -> None:
    model = static(tokenizer=tokenizer())
    served = functions(model)
    ours = served["serving_default"](text=tf.constant(list(TEXTS)))["embedding"]
    assert largest_difference(ours, model.encode(list(TEXTS))) < 1e-6
    (ids,) = served["tokenize"](text=tf.constant(["hello"]))["input_ids"].numpy().tolist()
    assert ids == model.tokenizer.encode("hello", add_special_tokens=False).ids
    assert ids != model.tokenizer.encode("hello").ids


@pytest.mark.parametrize("direction", ["left", "right"])
def test_a_tokenizer_that_cuts_is_followed(direction: str) -> None:
    """As those of model2vec do, at 512."""
    model = static()
    model.tokenizer.enable_truncation(5, direction=direction)
    texts = ["one two three four five six seven eight", "short", ""]
    served = functions(model)
    ours = served["serving_default"](text=tf.constant(texts))["embedding"]
    assert largest_difference(ours, model.encode(texts)) < 1e-6
    detailed = served["detailed"](text=tf.constant(texts))
    whole = static().tokenizer
    counts = [len(whole.encode(text, add_special_tokens=False).ids) for text in texts]
    assert detailed["num_tokens"].numpy().tolist() == counts
    assert detailed["truncated"].numpy().tolist() == [True, False, False]


def test_nothing_is_ever_cut_otherwise(served: Any, model: SentenceTransformer) -> None:
    answer = served["detailed"](text=tf.constant(LONG))
    assert not answer["truncated"].numpy().any()
    assert answer["num_tokens"].numpy().max() >= 3000
    assert largest_difference(answer["embedding"], model.encode(LONG)) < 1e-6


def test_token_embeddings_are_rows_of_the_table(served: Any, model: SentenceTransformer) -> None:
    answer = served["token_embeddings"](text=tf.constant(list(TEXTS)))
    ids = served["tokenize"](text=tf.constant(list(TEXTS)))["input_ids"]
    mask = answer["attention_mask"].numpy()[..., None]
    assert np.array_equal(answer["token_embeddings"], model[0].embedding.weight.detach().numpy()[ids] * mask)


def test_embed_tokens_takes_any_mask_and_refuses_ids_outside_the_table(served: Any, model: SentenceTransformer) -> None:
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    mask = np.array([[1, 0, 1], [0, 0, 0]])
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
    ours = served["embed_tokens"](**{name: tf.constant(value, tf.int32) for name, value in features.items()})
    theirs = model({"input_ids": torch.tensor([5, 7]), "offsets": torch.tensor([0, 2])})["sentence_embedding"]
    assert largest_difference(ours["embedding"], theirs.detach()) < 1e-6
    features["input_ids"] = ids + 10**6
    with pytest.raises(tf.errors.InvalidArgumentError, match="input_ids must be from 0 to"):
        served["embed_tokens"](**{name: tf.constant(value, tf.int32) for name, value in features.items()})


@pytest.mark.parametrize(
    "modules", [[], [Dropout(0.5), Dense(16, 24), Normalize()]], ids=["nothing", "dropout, dense, normalize"]
)
def test_modules_behind_it_equal_the_originals(modules: list[Any]) -> None:
    model = static(*modules)
    assert largest_difference(embed(model, TEXTS), model.encode(list(TEXTS))) < 1e-6


def test_rows_are_not_batched_with_other_callers(model: SentenceTransformer) -> None:
    graph = functions(model, Batching())["serving_default"].graph.as_graph_def()
    assert not any(node.op == "BatchFunction" for function in graph.library.function for node in function.node_def)


def test_a_token_without_an_embedding_is_told() -> None:
    with pytest.raises(SourceError, match=r"token .* has id \d+, but the encoder has 100 embeddings"):
        embed(static(rows=100), TEXTS)


def test_another_sum_than_the_mean_is_refused() -> None:
    model = static()
    model[0].embedding.mode = "sum"
    with pytest.raises(UnsupportedError, match="mode is 'sum', which is not supported; supported: mean"):
        embed(model, TEXTS)


def test_what_only_encoders_have_is_refused_by_name(model: SentenceTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision 'int8': static has no products; supported: float32"):
        export(model, tmp_path, "m", precision="int8")
    with pytest.raises(InputError, match="max_seq_length is for a Transformer; a StaticEmbedding has no such limit"):
        export(model, tmp_path, "m", max_seq_length=8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = static(Normalize())
    source.prompts |= {"query": "search for this: "}
    folder = tmp_path_factory.mktemp("static")
    source.save(str(folder / "source"))
    further: dict[str, Any] = {"dims": [8], "quantize": ["int8"], "oldest_server": "2.12", "tokenizer_sample": 0.01}
    return export(folder / "source", folder / "models", "m", **further)


def test_the_proof_covers_every_signature(exported: Any) -> None:
    assert exported.report.passed
    assert exported.report.max_abs < 1e-6
    loaded = tf.saved_model.load(str(exported.path)).signatures
    further = {item.name for item in exported.spec.texts}
    assert set(loaded) == {item.name for item in SIGNATURES} | further
    proved = {figure.stage for figure in exported.report.stages}
    proved |= {figure.signature for figure in exported.report.quantized}
    assert proved >= {"embedding", "hidden state", "1_pooling", "2_normalize"} | (further - {"serving_default"})
    assert {"embed_query", "embed_document", "embed_query_8_int8"} <= further


def test_it_says_what_it_is(exported: Any) -> None:
    shown = str(exported.spec)
    assert "any number of tokens" in shown
    assert "static, " in shown
    assert exported.spec.max_length is None
