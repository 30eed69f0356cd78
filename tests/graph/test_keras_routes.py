"""to_keras and the way back for models with a Router: texts of each route go its way, and training goes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import long
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from sparse_support import inference_free, save_masked_bert, splade_model
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, save_bert, static_embedding

from toolkit.convert import export
from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.keras_back import from_keras, keras_checkpoint
from toolkit.graph.keras_door import to_keras
from toolkit.proof.check import check
from toolkit.proof.reference import reference_answers
from toolkit.signatures import Prompt, TextSignature
from toolkit.source.checkpoint import open_checkpoint

PROMPTS = {"query": "search: ", "document": ""}
ROWS = {name: tf.constant(TEXTS) for name in PROMPTS}


def bert(folder: Path, **config: Any) -> list[Any]:
    return [Transformer(str(save_bert(folder, **config)), max_seq_length=MAX_LENGTH), Pooling(HIDDEN)]


def routed(query: list[Any], document: list[Any], *behind: Any, **options: Any) -> SentenceTransformer:
    router = Router.for_query_document(query, document)
    return SentenceTransformer(modules=[router, *behind], device="cpu", prompts=dict(PROMPTS), **options).eval()


def apart(folder: Path) -> SentenceTransformer:
    """Queries through a table and a Dense of their own, documents through an encoder, and all to length 1."""
    return routed([static_embedding(16), Dense(16, HIDDEN)], bert(folder), Normalize())


def shared(folder: Path) -> SentenceTransformer:
    """One encoder, and a Dense for each."""
    both = bert(folder)
    return routed([*both, Dense(HIDDEN, 12)], [*both, Dense(HIDDEN, 12), Normalize()], truncate_dim=9)


def two(folder: Path) -> SentenceTransformer:
    """An encoder for each, of which one leaves the prompt out."""
    query = bert(folder / "query", num_hidden_layers=1)
    query[1].include_prompt = False
    return routed(query, bert(folder / "document", seed=1), Dense(HIDDEN, 12))


def sparse(folder: Path) -> SparseEncoder:
    """Queries by a weight for each token, documents by SPLADE."""
    return inference_free(save_masked_bert(folder), prompts=dict(PROMPTS))


def sparse_trained(folder: Path) -> SparseEncoder:
    """The same with weights that training changes."""
    model = sparse(folder)
    static = model[0].sub_modules["query"][0]
    static.weight.requires_grad_(True)
    static.frozen = False
    return model


MODELS: dict[str, Callable[[Path], Any]] = {
    function.__name__: function for function in (apart, shared, two, sparse, sparse_trained)
}
LAYERS = {
    "apart": ["encoder_query", "pooling_query", "head_1_dense_query", "encoder_document", "pooling_document"],
    "shared": ["encoder", "head_2_dense_query", "head_3_dense_document", "head_4_normalize_document"],
    "two": ["encoder_query", "encoder_document", "pooling_query", "pooling_document", "head_4_dense"],
    "sparse": ["encoder_query", "occurrence_query", "encoder_document", "splade_document"],
    "sparse_trained": ["encoder_query"],
}
RESTING = ("embeddings.token_type", "key.bias", "pooler")


def originals(model: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if isinstance(model, SparseEncoder):
        options = {"convert_to_sparse_tensor": False, "max_active_dims": model.get_embedding_dimension()}
    asked = {"query": model.encode_query, "document": model.encode_document}
    return {name: np.asarray(ask(list(TEXTS), **options)) for name, ask in asked.items()}


def require_equal(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    for name, rows in theirs.items():
        scale = np.maximum(1.0, np.abs(rows))
        assert largest_difference(np.asarray(ours[name]) / scale, rows / scale) < 1e-5


@pytest.mark.parametrize("name", ["apart", "sparse", *long("shared", "two", "sparse_trained")])
def test_each_route_equals_the_originals_is_trained_saved_and_goes_back(tmp_path: Path, name: str) -> None:
    model = MODELS[name](tmp_path / "made")
    made, expected = to_keras(model), originals(model)
    assert set(LAYERS[name]) <= {layer.name for layer in made.layers}
    require_equal(made.predict(ROWS, verbose=0), expected)
    model.save(str(tmp_path / "original"))
    assert open_checkpoint(from_keras(made)).digest == open_checkpoint(tmp_path / "original").digest
    before = {weight.path: weight.numpy() for weight in made.trainable_weights}
    assert any(path.startswith("encoder_query") for path in before) == (name in ("apart", "two", "sparse_trained"))
    made.compile(keras.optimizers.SGD(0.5), {"query": "mse", "document": "mse"})
    wanted = {route: np.roll(rows, 1, 0) + 0.5 for route, rows in expected.items()}
    made.fit(ROWS, wanted, batch_size=len(TEXTS), verbose=0)
    unmoved = [weight.path for weight in made.trainable_weights if np.array_equal(before[weight.path], weight.numpy())]
    assert not [path for path in unmoved if not any(part in path for part in RESTING)]
    made.save(tmp_path / "trained.keras")
    from_keras(tmp_path / "trained.keras").save(str(tmp_path / "saved"))
    trained = originals(type(model)(str(tmp_path / "saved"), device="cpu"))
    assert largest_difference(trained["document"], expected["document"]) > 1e-4
    require_equal(made.predict(ROWS, verbose=0), trained)


def test_an_encoder_that_routes_share_is_one_layer_and_gets_the_gradients_of_both(tmp_path: Path) -> None:
    model = shared(tmp_path)
    made = to_keras(model)
    require_equal(made(ROWS), originals(model))
    assert [layer.name for layer in made.layers if "encoder" in layer.name] == ["encoder"]
    assert sorted(layer.name for layer in made.layers if "dense" in layer.name) == [
        "head_2_dense_query",
        "head_3_dense_document",
    ]
    require_equal(originals(from_keras(made)), originals(model))
    scores = keras.layers.Dot(-1)([made.output["query"], made.output["document"]])
    training = keras.Model(made.input, scores)
    training.compile(keras.optimizers.SGD(0.1), "mse")
    before = made.get_layer("encoder").params["embeddings/word"].numpy()
    training.fit(ROWS, np.ones(len(TEXTS)), verbose=0)
    assert not np.array_equal(before, made.get_layer("encoder").params["embeddings/word"].numpy())


@pytest.mark.long
@pytest.mark.parametrize("name", ["apart", "shared", "sparse_trained"])
def test_a_trained_model_is_exported_and_every_signature_proved(tmp_path: Path, name: str) -> None:
    model = MODELS[name](tmp_path / "made")
    made = to_keras(model)
    for weight in made.trainable_weights:
        if "word" in weight.path:
            weight.assign(weight * 1.5)
    made.save(tmp_path / "trained.keras")
    options: dict[str, Any] = {} if name.startswith("sparse") else {"dims": (8,), "quantize": ("ubinary",)}
    done = export(tmp_path / "trained.keras", tmp_path / "models", "model", tokenizer_sample=0.001, **options)
    assert done.report is not None
    names = {item.name for item in done.spec.signatures}
    wanted = {"embed_query", "embed_document", "embed_query_8", "embed_document_8_ubinary"}
    assert ({"sparse_query", "sparse_document"} if name.startswith("sparse") else wanted) <= names
    assert check(done.path, made, texts=["hello world", ""]).passed
    assert not check(done.path, model, texts=["hello world", "this is it"]).passed


def test_the_proof_of_each_route_compares_with_the_keras_model_itself(tmp_path: Path) -> None:
    model = apart(tmp_path)
    checkpoint = keras_checkpoint(to_keras(model))
    # the default route is that of documents, and its prompt theirs
    assert set(checkpoint.answers) == {None, "query", "document"}
    assert np.array_equal(checkpoint.answers[None](TEXTS), checkpoint.answers["document"](TEXTS))
    own = np.arange(HIDDEN, dtype=np.float32)
    told = replace(checkpoint, answers={**checkpoint.answers, "query": lambda texts: own[None]})
    further = TextSignature("embed_query", Prompt("query", "search: "), HIDDEN)
    (answer,) = reference_answers(told, ["hello"], [further])
    assert np.array_equal(answer.further["embed_query"], own)
    model.prompts["document"] = "text: "
    assert set(keras_checkpoint(to_keras(model)).answers) == {"query", "document"}


def test_texts_that_are_neither_may_go_a_third_way(tmp_path: Path) -> None:
    routes = {"query": [static_embedding(8)], "document": [static_embedding(8, seed=1)]}
    router = Router({**routes, "text": [static_embedding(8, seed=2)]}, default_route="text")
    model = SentenceTransformer(modules=[router], device="cpu")
    made = to_keras(model)
    ours = made({**ROWS, "text": tf.constant(TEXTS)})
    require_equal(ours, {**originals(model), "text": model.encode(list(TEXTS))})
    checkpoint = keras_checkpoint(made)
    assert largest_difference(checkpoint.answers[None](TEXTS), model.encode(list(TEXTS))) < 1e-5
    require_equal(originals(checkpoint.reference), originals(model))


def test_both_routes_may_have_one_splade(tmp_path: Path) -> None:
    modules = list(splade_model(save_masked_bert(tmp_path)))
    model = SparseEncoder(
        modules=[Router.for_query_document(modules, modules)], device="cpu", prompts=dict(PROMPTS)
    ).eval()
    made = to_keras(model)
    require_equal(made(ROWS), originals(model))
    assert {"encoder", "splade"} <= {layer.name for layer in made.layers}
    require_equal(originals(from_keras(made)), originals(model))


def test_weights_that_were_frozen_stay_so(tmp_path: Path) -> None:
    to_keras(sparse(tmp_path)).save(tmp_path / "model.keras")
    layer = keras.models.load_model(tmp_path / "model.keras").get_layer("encoder_query")
    assert (len(layer.weights), layer.trainable_weights) == (1, [])


def test_what_a_model_with_routes_does_not_take_is_refused_by_name(tmp_path: Path) -> None:
    model = apart(tmp_path)
    for options, named in (
        ({"inputs": "tokens"}, "inputs 'tokens'"),
        ({"prompt_name": "query"}, "prompt_name 'query'"),
    ):
        with pytest.raises(InputError, match=f"{named}: a Keras model with routes takes texts"):
            to_keras(model, **options)  # type: ignore[arg-type]
    made = to_keras(model)
    with pytest.raises(SourceError, match="module 2, Transformer: no layer has its weights"):
        from_keras(keras.Model(made.input["query"], made.output["query"]))
    with pytest.raises(UnsupportedError, match=r"layers is .*'encoder_document'"):
        from_keras(keras.Model(made.input["document"], made.output["document"]))
    both = bert(tmp_path / "both")
    half = to_keras(routed([*both, Normalize()], both))
    with pytest.raises(UnsupportedError, match=r"inputs is 'KerasTensor'.*those of to_keras: query, document"):
        from_keras(keras.Model(half.input["document"], half.output["document"]))
