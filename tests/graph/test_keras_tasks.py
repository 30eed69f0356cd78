"""to_keras and the way back for tasks other than embed: equal, trainable, and what training made goes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from classifier_models import PAIRS, save_classifier
from family_models import save_transformer
from marks import long
from multi_vector_support import multi_vector_encoder
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from sparse_support import save_masked_bert, splade_model
from support import TEXTS, largest_difference, save_bert, wordpiece_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertTokenizerFast

from toolkit.convert import export
from toolkit.errors import CheckError, InputError, UnsupportedError
from toolkit.graph.keras_back import from_keras, keras_checkpoint
from toolkit.graph.keras_door import to_keras
from toolkit.proof.check import check
from toolkit.source.checkpoint import open_checkpoint

TEMPLATE = "[CLS]{{ messages | map(attribute='content') | join(' so ') }}[SEP]is it"


def classifier(folder: Path, kind: str = "bert", **changes: Any) -> CrossEncoder:
    return CrossEncoder(str(save_classifier(folder, kind, **changes)), device="cpu")


def asking(folder: Path, *, tied: bool) -> CrossEncoder:
    saved = save_transformer(folder / "plain", "qwen3", AutoModelForCausalLM, tie_word_embeddings=tied)
    first = Transformer(str(saved), transformer_task="text-generation", processor_kwargs={"chat_template": TEMPLATE})
    return CrossEncoder(modules=[first, LogitScore(11, 12)], device="cpu")


def counted(folder: Path) -> SparseEncoder:
    tokenizer = BertTokenizerFast(tokenizer_object=wordpiece_tokenizer(), model_max_length=48)
    weights = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(0)) + 0.1
    return SparseEncoder(modules=[SparseStaticEmbedding(tokenizer, weight=weights)], device="cpu")


def masked(folder: Path, kind: str) -> SparseEncoder:
    plain = save_transformer(folder / "plain", kind, AutoModelForMaskedLM, initializer_range=0.1)
    return splade_model(plain, "sum", "log1p_relu")


MODELS: dict[str, Callable[[Path], Any]] = {
    "rerank": classifier,
    "rerank, several labels and none of their biases": lambda folder: classifier(folder, "modernbert", labels=3),
    "rerank, by a decoder's own table": lambda folder: asking(folder, tied=True),
    "rerank, by a table beside it": lambda folder: asking(folder, tied=False),
    "rerank, of RoBERTa's form": lambda folder: classifier(folder, "roberta"),
    "sparse, the encoder's own table": lambda folder: splade_model(save_masked_bert(folder), max_active_dims=9),
    "sparse, no encoder": counted,
    "sparse, a table beside it": lambda folder: splade_model(save_masked_bert(folder, tie_word_embeddings=False)),
    "sparse, of ModernBERT's form": lambda folder: masked(folder, "modernbert"),
    "sparse, smaller words": lambda folder: masked(folder, "albert"),
}
SHORT = ("rerank", "sparse, the encoder's own table", "sparse, no encoder")
RESTING = ("embeddings.token_type", "key.bias", "pooler", "rotation")


def given(model: Any) -> Any:
    """What the Keras model of ``model`` takes, of rows of all lengths."""
    if not isinstance(model, CrossEncoder):
        return tf.constant(TEXTS)
    return dict(zip(("query", "document"), (tf.constant(column) for column in zip(*PAIRS, strict=True)), strict=True))


def original(model: Any) -> Any:
    if isinstance(model, CrossEncoder):
        return model.predict(PAIRS)
    dim = model.get_embedding_dimension()
    return model.encode(list(TEXTS), convert_to_sparse_tensor=False, max_active_dims=dim).numpy()


def counted_vectors(made: keras.Model, texts: Any) -> dict[str, list[np.ndarray]]:
    """Those of a Keras model of many vectors."""
    found = {
        name: np.asarray(value) for name, value in made.predict({"query": texts, "document": texts}, verbose=0).items()
    }
    return {
        name: [row[mask.astype(bool)] for row, mask in zip(found[name], found[f"{name}_mask"], strict=True)]
        for name in ("query", "document")
    }


def difference(ours: Any, theirs: Any) -> float:
    scale = np.maximum(1.0, np.abs(theirs))
    return largest_difference(np.asarray(ours) / scale, theirs / scale)


@pytest.mark.parametrize("name", [*SHORT, *long(*(name for name in MODELS if name not in SHORT))])
def test_it_equals_the_original_is_trained_saved_and_goes_back(tmp_path: Path, name: str) -> None:
    model = MODELS[name](tmp_path / "made")
    made, rows, expected = to_keras(model), given(model), original(model)
    assert difference(made.predict(rows, verbose=0), expected) < 1e-5
    model.save(str(tmp_path / "original"))
    assert open_checkpoint(from_keras(made)).digest == open_checkpoint(tmp_path / "original").digest
    before = {weight.path: weight.numpy() for weight in made.trainable_weights}
    made.compile(keras.optimizers.SGD(0.5), "mse")
    made.fit(rows, np.roll(expected, 1, 0) + 0.5, batch_size=len(expected), verbose=0)
    unmoved = [weight.path for weight in made.trainable_weights if np.array_equal(before[weight.path], weight.numpy())]
    assert not [path for path in unmoved if not any(part in path for part in RESTING)]
    made.save(tmp_path / "trained.keras")
    from_keras(tmp_path / "trained.keras").save(str(tmp_path / "saved"))
    saved = type(model)(str(tmp_path / "saved"), device="cpu")
    assert difference(original(saved), expected) > 1e-4
    assert difference(made.predict(rows, verbose=0), original(saved)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", ["rerank", "sparse, the encoder's own table", "sparse, no encoder"])
def test_a_trained_model_is_exported_and_proved_equal_to_the_keras_model(tmp_path: Path, name: str) -> None:
    model = MODELS[name](tmp_path / "made")
    made = to_keras(model)
    weights = made.trainable_weights
    weights[0].assign(weights[0] * 1.5)
    made.save(tmp_path / "trained.keras")
    done = export(tmp_path / "trained.keras", tmp_path / "models", "model", tokenizer_sample=0.001)
    assert done.report is not None
    assert not check(done.path, model, texts=["hello world\tthis is it", "a\tb"]).passed


def test_the_proof_of_pairs_compares_with_the_keras_model_itself(tmp_path: Path) -> None:
    checkpoint = keras_checkpoint(to_keras(classifier(tmp_path)))
    assert difference(checkpoint.answers[None](PAIRS), original(checkpoint.reference)) < 1e-5


def test_tokens_go_in_and_a_prompt_comes_before_queries(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    model.prompts["q"] = "a prompt: "
    features = model.preprocess(PAIRS)
    tokens = {
        name: features[name].numpy().astype(np.int32)
        for name in features
        if name in ("input_ids", "attention_mask", "token_type_ids")
    }
    made = to_keras(model, inputs="tokens")
    assert difference(made.predict(tokens, verbose=0), original(model)) < 1e-5
    assert difference(original(from_keras(made)), original(model)) < 1e-6
    prompted = to_keras(model, prompt_name="q")
    assert difference(prompted.predict(given(model), verbose=0), model.predict(PAIRS, prompt_name="q")) < 1e-5
    assert from_keras(prompted).default_prompt_name == "q"


def test_another_answer_than_the_originals_and_another_task_are_refused_by_name(tmp_path: Path) -> None:
    made = to_keras(classifier(tmp_path))
    with pytest.raises(CheckError, match=r"it answers \[1\] numbers, and what its weights make \[\]"):
        from_keras(keras.Model(made.input, made.get_layer("classifier").output))
    with pytest.raises(InputError, match=r"task 'sparse': the source is a CrossEncoder, whose task is 'rerank'"):
        keras_checkpoint(made, task="sparse")
    with pytest.raises(UnsupportedError, match=r"architectures is 'BertModel'.*with a head that classifies texts"):
        to_keras(save_bert(tmp_path / "plain"), task="rerank")


EXPANSIONS: dict[str, Any] = {
    "none": None,
    "unattended": {"strategy": "fixed", "length": 12, "attend": False},
    "attended": {"strategy": "min", "length": 12, "attend": True},
    "pooled": None,
}


def many_vectors(bert: Path, kind: str) -> MultiVectorEncoder:
    pooling = [HierarchicalTokenPooling(pool_factor=2, tasks=["query", "document"])] if kind == "pooled" else []
    return multi_vector_encoder(bert, *pooling, query_expansion=EXPANSIONS[kind])


@pytest.mark.parametrize("kind", ["unattended", "pooled", *long("none", "attended")])
def test_a_model_of_many_vectors_is_trained_by_pairs_and_goes_back(tiny_bert: Path, tmp_path: Path, kind: str) -> None:
    model, texts = many_vectors(tiny_bert, kind), list(TEXTS)
    made = to_keras(model)

    def require_equal(theirs: Any) -> None:
        ours = counted_vectors(made, tf.constant(texts))
        for name, ask in (("query", theirs.encode_query), ("document", theirs.encode_document)):
            for ours_of, theirs_of in zip(ours[name], ask(texts, convert_to_numpy=True), strict=True):
                assert difference(ours_of, theirs_of) < 1e-5

    require_equal(model)
    before = {weight.path: weight.numpy() for weight in made.trainable_weights}
    rows = {name: tf.constant(texts) for name in ("query", "document")}
    with tf.GradientTape() as tape:
        found = made(rows)
        similar = tf.einsum("aqd,btd->abqt", found["query"], found["document"])
        scores = tf.reduce_sum(tf.reduce_max(similar, 3), 2)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(tf.range(len(texts)), scores, True))
    keras.optimizers.SGD(0.5).apply(tape.gradient(loss, made.trainable_weights), made.trainable_weights)
    unmoved = [weight.path for weight in made.trainable_weights if np.array_equal(before[weight.path], weight.numpy())]
    assert unmoved == []
    made.save(tmp_path / "trained.keras")
    from_keras(tmp_path / "trained.keras").save(str(tmp_path / "saved"))
    require_equal(MultiVectorEncoder(str(tmp_path / "saved"), device="cpu"))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["unattended", "pooled", "none"])
def test_a_model_of_many_vectors_is_exported_and_proved_equal_to_the_keras_model(
    tiny_bert: Path, tmp_path: Path, kind: str
) -> None:
    made = to_keras(many_vectors(tiny_bert, kind))
    made.trainable_weights[0].assign(made.trainable_weights[0] * 1.5)
    done = export(made, tmp_path / "models", "model", tokenizer_sample=0.001)
    assert done.report is not None


def test_what_a_model_of_many_vectors_does_not_take_is_refused_by_name(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="inputs 'tokens': a Keras model of many vectors takes texts"):
        to_keras(multi_vector_encoder(tiny_bert), inputs="tokens")
    with pytest.raises(InputError, match="prompt_name 'query': a Keras model of many vectors takes texts"):
        to_keras(multi_vector_encoder(tiny_bert), prompt_name="query")
