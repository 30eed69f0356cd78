"""Sparse vectors equal those of the SparseEncoder: strategies and activations, heads of masked language models, routes,
prompts, at most so many numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from family_models import CONFIGURATIONS, save_transformer
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import Router
from sentence_transformers.util import select_max_active_dims
from sparse_support import inference_free, save_masked_bert, splade_model
from support import TEXTS, largest_difference
from transformers import AutoModelForMaskedLM

from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.errors import InputError, UnsupportedError
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.sparse import SparseSpec
from toolkit.graph.tasks.sparse_model import SparseModel
from toolkit.heads import splade
from toolkit.heads.masked_lm import MASKED_LM_TYPES
from toolkit.heads.sparse import compacted, expanded, flat, largest, padded
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_bert(tmp_path_factory.mktemp("bert"))


def served(model: Any, batching: Batching | None = None, **views: Any) -> SparseModel:
    spec = read_spec(open_checkpoint(model), Views(**views))
    assert isinstance(spec, SparseSpec)
    return SparseModel(spec, Layout(batching=batching))


def ours(model: SparseModel, name: str = "sparse_dense", texts: Any = TEXTS) -> Any:
    return model.functions()[name](tf.constant(list(texts), tf.string))


def originals(model: SparseEncoder, ask: str = "encode", **options: Any) -> Any:
    return getattr(model, ask)(list(TEXTS), convert_to_sparse_tensor=False, **options).numpy()


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_vectors_equal_the_originals_alone_and_in_batches(
    bert: Path, strategy: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade, "WORDS", 256)  # three blocks of words, the last one smaller
    model = splade_model(bert, strategy, activation)
    exact, graph = originals(model), served(model)
    bound = 1e-5 * max(1.0, float(exact.max()))
    assert 0.05 < (exact != 0).mean() < 0.95
    assert largest_difference(ours(graph)["embedding"], exact) < bound
    for row, text in enumerate(TEXTS):
        assert largest_difference(ours(graph, texts=[text])["embedding"], exact[row : row + 1]) < bound


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param(name, marks=[] if name in ("distilbert", "mpnet", "electra", "modernbert") else [pytest.mark.long])
        for name in MASKED_LM_TYPES
    ],
)
def test_the_head_of_each_family_equals_its_originals(model_type: str, tmp_path: Path) -> None:
    source = save_transformer(tmp_path, model_type, AutoModelForMaskedLM)
    checkpoint = open_checkpoint(source, task="sparse")
    spec = read_spec(checkpoint)
    assert isinstance(spec, SparseSpec)
    assert spec.splade.masked_lm.tied
    exact = originals(checkpoint.reference)  # type: ignore[arg-type]
    difference = largest_difference(ours(SparseModel(spec))["embedding"], exact)
    assert difference < 2e-5 * max(1.0, float(exact.max()))


def test_a_table_of_words_may_be_the_heads_own(tmp_path: Path) -> None:
    model = splade_model(save_masked_bert(tmp_path, tie_word_embeddings=False))
    graph = served(model)
    assert not graph._spec.splade.masked_lm.tied
    assert largest_difference(ours(graph)["embedding"], originals(model)) < 1e-5


def test_families_without_a_head_that_is_computed_are_refused_by_name(tmp_path: Path) -> None:
    assert set(MASKED_LM_TYPES) < set(CONFIGURATIONS)
    source = save_transformer(tmp_path, "deberta", AutoModelForMaskedLM)
    with pytest.raises(UnsupportedError, match=r"model_type is 'deberta'.*bert, distilbert.*as masked language models"):
        read_spec(open_checkpoint(source, task="sparse"))


def test_forms_of_a_vector_are_the_same_vector(bert: Path) -> None:
    graph = served(splade_model(bert))
    dense = ours(graph)["embedding"].numpy()
    one = ours(graph, "sparse")
    rows = np.repeat(np.arange(len(TEXTS)), np.diff(one["row_splits"]))
    assert one["indices"].dtype == one["row_splits"].dtype == tf.int32
    assert np.array_equal(np.transpose(np.nonzero(dense)), np.stack([rows, one["indices"]], 1))
    assert np.array_equal(one["values"], dense[np.nonzero(dense)])
    for name in ("sparse_padded", "serving_default"):
        other = ours(graph, name)
        k = int(np.diff(one["row_splits"]).max())
        assert other["indices"].shape == other["values"].shape == (len(TEXTS), k)
        filled = np.zeros_like(dense)
        np.add.at(filled, (np.arange(len(TEXTS))[:, None], other["indices"].numpy()), other["values"].numpy())
        assert np.array_equal(filled, dense)


def test_no_texts_give_no_rows(bert: Path) -> None:
    graph = served(splade_model(bert))
    for name in ("sparse", "sparse_padded", "sparse_dense"):
        answer = ours(graph, name, texts=[])
        assert answer.get("row_splits", tf.constant([0])).numpy().tolist() == [0]
        assert all(not value.shape[0] for key, value in answer.items() if key != "row_splits")


def test_what_is_batched_with_others_is_the_same(bert: Path) -> None:
    model = splade_model(bert)
    for limit in (1024, 60):  # with room for all, and for some alone
        graph = served(model, Batching(max_tokens=limit))
        assert largest_difference(ours(graph)["embedding"], originals(model)) < 1e-5
        alone = ours(graph, "sparse", texts=[TEXTS[0]])
        assert np.array_equal(alone["indices"], np.flatnonzero(originals(model)[0]))


def test_at_most_so_many_numbers_are_active(bert: Path) -> None:
    model = splade_model(bert, max_active_dims=9)
    graph = served(model)
    exact = originals(model)
    assert largest_difference(ours(graph)["embedding"], exact) < 1e-5
    other = ours(graph, "sparse_padded")
    assert other["values"].shape == (len(TEXTS), 9)
    assert graph.functions()["sparse_padded"] is not None
    shapes = {name: item.structured_outputs for name, item in graph.signature_functions().items()}
    assert shapes["sparse_padded"]["values"].shape.as_list() == [None, 9]


def test_queries_may_have_a_weight_for_each_token_and_no_encoder(bert: Path, tmp_path: Path) -> None:
    model = inference_free(bert)
    model.save(str(tmp_path / "source"))
    checkpoint = open_checkpoint(tmp_path / "source")
    assert checkpoint.digest == open_checkpoint(model).digest
    kinds = {name: [module.type for module in way.modules] for name, way in checkpoint.ways.items()}
    assert kinds == {"query": ["SparseStaticEmbedding"], "document": ["Transformer", "SpladePooling"]}
    assert checkpoint.modules == checkpoint.ways["document"].modules  # which is where other texts go
    graph = served(tmp_path / "source")
    for name, ask in (("sparse_query", "encode_query"), ("sparse_document", "encode_document"), ("sparse", "encode")):
        dense = ours(graph, f"{name}_dense")["embedding"]
        assert largest_difference(dense, originals(model, ask)) < 1e-5
    queries = originals(model, "encode_query")
    assert (queries < 0).any()
    assert not queries[1].any()  # the empty text
    assert [item.name for item in graph._spec.texts if item.static] == [
        "sparse_query",
        "sparse_query_padded",
        "sparse_query_dense",
    ]


def test_the_default_route_may_be_the_one_without_an_encoder(bert: Path) -> None:
    model = inference_free(bert)
    model[0].default_route = "query"
    graph = served(model)
    assert largest_difference(ours(graph)["embedding"], originals(model)) < 1e-6
    assert graph._spec.warmup(None)[0][0] == "sparse_document_padded"


def test_prompts_are_put_before_texts_on_either_route(bert: Path) -> None:
    for make in (splade_model, inference_free):
        model = make(bert)
        model.prompts |= {"query": "search for this: ", "other": "word "}
        graph = served(model)
        for name, ask in (("sparse_query", "encode_query"), ("sparse_document", "encode_document")):
            assert largest_difference(ours(graph, f"{name}_dense")["embedding"], originals(model, ask)) < 1e-5
        exact = originals(model, prompt_name="other")
        assert largest_difference(ours(graph, "sparse_other_dense")["embedding"], exact) < 1e-5


def test_a_prompt_whose_name_is_taken_is_refused(bert: Path) -> None:
    model = splade_model(bert)
    model.prompts |= {"padded": "x: "}
    with pytest.raises(InputError, match=r"another signature 'sparse_padded'; choose the prompts"):
        read_spec(open_checkpoint(model))


def test_cuts_and_quantized_vectors_are_not_for_sparse_models(bert: Path) -> None:
    checkpoint = open_checkpoint(splade_model(bert))
    for views, field in ((Views(dims=(8,)), "dims"), (Views(quantized=("int8",)), "quantize")):
        with pytest.raises(InputError, match=f"{field}: not for sparse"):
            read_spec(checkpoint, views)


@pytest.mark.parametrize("limit", [4, 10**30])
def test_a_weight_for_each_token_is_a_model_by_itself(bert: Path, tmp_path: Path, limit: int) -> None:
    static = inference_free(bert)[0].sub_modules["query"][0]
    static.tokenizer.model_max_length = limit
    live = SparseEncoder(modules=[static], device="cpu", prompts={"query": "search for this: "})
    live.save(str(tmp_path / "source"))
    checkpoint = open_checkpoint(tmp_path / "source")
    assert checkpoint.digest == open_checkpoint(live).digest
    graph = served(tmp_path / "source", Batching())
    assert all(item.static for item in graph._spec.texts)
    assert graph._spec.max_length == (4 if limit == 4 else None)
    for name, ask in (("sparse_query", "encode_query"), ("sparse_document", "encode_document"), ("sparse", "encode")):
        assert largest_difference(ours(graph, f"{name}_dense")["embedding"], originals(live, ask)) == 0
    ids = graph.functions()["tokenize"](tf.constant(["a word of more words"]))["input_ids"].numpy()[0].tolist()
    assert ids == static.preprocess(["a word of more words"])["input_ids"][0].tolist()
    assert graph._spec.precisions == ("float32",)


def test_other_layouts_are_refused_by_name(bert: Path, tmp_path: Path) -> None:
    first, second = splade_model(bert), splade_model(save_masked_bert(tmp_path, num_hidden_layers=1))
    router = Router.for_query_document(list(first), list(second))
    with pytest.raises(UnsupportedError, match=r"modules is 'Transformer, SpladePooling.*the routes of a Router"):
        read_spec(open_checkpoint(SparseEncoder(modules=[router], device="cpu")))


def test_the_largest_numbers_are_those_that_the_original_takes() -> None:
    x = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    for most in (1, 7, 40, 99):
        exact = select_max_active_dims(x, most).numpy()
        assert np.array_equal(largest(tf.constant(x), most), exact)


def test_vectors_come_back_from_what_travels_through_a_batch() -> None:
    x = np.zeros((4, 30), np.float32)
    x[0, [3, 29]], x[2, :] = [1.5, -2.0], 7.0
    compact = compacted(tf.constant(x))
    assert compact.shape == (4, 60)
    assert np.array_equal(expanded(compact, 30), x)
    assert flat(compact)["row_splits"].numpy().tolist() == [0, 2, 2, 32, 32]
    wide = padded(compact[:2], 5)
    assert wide["indices"].numpy().tolist() == [[3, 29, 0, 0, 0], [0] * 5]
    assert compacted(tf.zeros([2, 30])).shape == (2, 2)
