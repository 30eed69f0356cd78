"""to_keras: equal before training, trainable, and saved and loaded by Keras' own means."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from support import TEXTS, largest_difference, sentence_transformer, static_embedding

from toolkit.errors import InputError
from toolkit.graph.keras_back import from_keras
from toolkit.graph.keras_door import to_keras


@pytest.fixture(scope="module")
def original(tiny_source: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_source), device="cpu")


def tokens(original: SentenceTransformer) -> dict[str, np.ndarray]:
    features = original.preprocess(list(TEXTS))
    return {name: features[name].numpy().astype(np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}


def test_from_strings_it_equals_the_original(tiny_source: Path, original: SentenceTransformer) -> None:
    model = to_keras(tiny_source)
    assert model.output_shape == (None, 24)
    assert largest_difference(model(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 1e-5
    assert largest_difference(model.predict(tf.constant(TEXTS), verbose=0), original.encode(list(TEXTS))) < 1e-5


def test_from_token_ids_it_equals_the_original(tiny_source: Path, original: SentenceTransformer) -> None:
    model = to_keras(tiny_source, inputs="tokens")
    answer = model.predict(tokens(original), verbose=0)
    assert largest_difference(answer, original.encode(list(TEXTS))) < 1e-5


@pytest.mark.parametrize("pooling", [("cls", "max"), "weightedmean"], ids=str)
def test_pooling_modes_equal_the_original(tiny_bert: Path, pooling: str) -> None:
    original = sentence_transformer(tiny_bert, pooling=pooling)
    assert largest_difference(to_keras(original)(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 2e-5


def test_a_table_without_an_encoder_equals_the_original_after_saving_too(tmp_path: Path) -> None:
    original = SentenceTransformer(modules=[static_embedding(), Normalize()], device="cpu")
    to_keras(original).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert [weight.shape for weight in model.trainable_weights] == [original[0].embedding.weight.shape]
    assert largest_difference(model(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 1e-5
    assert largest_difference(from_keras(model).encode(list(TEXTS)), original.encode(list(TEXTS))) < 1e-5


def test_prompt_and_truncation_are_kept(tiny_source: Path) -> None:
    original = SentenceTransformer(
        str(tiny_source), device="cpu", prompts={"q": "query: "}, default_prompt_name="q", truncate_dim=5
    )
    assert largest_difference(to_keras(original)(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 1e-5


def test_a_token_without_an_embedding_is_refused_after_saving_too(tiny_source: Path, tmp_path: Path) -> None:
    original = SentenceTransformer(str(tiny_source), device="cpu")
    original.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    to_keras(original).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"text must contain no token that .*: <image>"):
        model(tf.constant(["hello", "see <image> here"]))
    assert largest_difference(model(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 1e-5


def test_a_prompt_can_be_chosen(tiny_source: Path) -> None:
    original = SentenceTransformer(str(tiny_source), device="cpu", prompts={"q": "query: "})
    expected = original.encode(list(TEXTS), prompt_name="q")
    assert largest_difference(to_keras(original, prompt_name="q")(tf.constant(TEXTS)), expected) < 1e-5
    with pytest.raises(InputError, match="prompt_name is 'x'; the model has: query, document, q"):
        to_keras(original, prompt_name="x")
    with pytest.raises(InputError, match="prompt_name goes with inputs 'text'"):
        to_keras(original, inputs="tokens", prompt_name="q")


def test_a_pooling_leaves_the_prompt_out_where_the_original_does(tiny_bert: Path, tmp_path: Path) -> None:
    original = sentence_transformer(tiny_bert, pooling=("mean", "cls"))
    original[1].include_prompt = False
    original.prompts["q"] = "a prompt of some words: "
    original.default_prompt_name = "q"
    to_keras(original).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert largest_difference(loaded(tf.constant(TEXTS)), original.encode(list(TEXTS))) < 2e-5
    answer = to_keras(original, inputs="tokens").predict(tokens(original), verbose=0)
    assert largest_difference(answer, original.encode(list(TEXTS), prompt="")) < 2e-5


@pytest.mark.parametrize("inputs", ["text", "tokens"])
def test_keras_saves_and_loads_it(
    tiny_source: Path, original: SentenceTransformer, tmp_path: Path, inputs: str
) -> None:
    path = tmp_path / "model.keras"
    to_keras(tiny_source, inputs=inputs).save(path)  # type: ignore[arg-type]
    loaded = keras.models.load_model(path)
    batch = tf.constant(TEXTS) if inputs == "text" else tokens(original)
    assert largest_difference(loaded.predict(batch, verbose=0), original.encode(list(TEXTS))) < 1e-5


@pytest.mark.parametrize("inputs", ["text", "tokens"])
def test_training_changes_every_weight_that_is_used_and_lowers_the_loss(
    tiny_source: Path, original: SentenceTransformer, inputs: str
) -> None:
    keras.utils.set_random_seed(0)
    model = to_keras(tiny_source, inputs=inputs)  # type: ignore[arg-type]
    batch = tf.constant(TEXTS) if inputs == "text" else tokens(original)
    target = np.roll(original.encode(list(TEXTS)), 1, 0)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    before = {weight.path: weight.numpy() for weight in model.trainable_weights}
    first = model.evaluate(batch, target, verbose=0)
    model.fit(batch, target, epochs=12, batch_size=len(TEXTS), verbose=0)
    assert model.evaluate(batch, target, verbose=0) < 0.9 * first
    # 5 of the embeddings, 12 of each of 2 layers, kernel and bias of the Dense module
    assert len(before) == 5 + 2 * 12 + 2
    unchanged = [w.path for w in model.trainable_weights if np.array_equal(before[w.path], w.numpy())]
    assert unchanged == []


def test_it_composes_with_other_layers(tiny_source: Path) -> None:
    base = to_keras(tiny_source)
    classifier = keras.Model(base.input, keras.layers.Dense(3, activation="softmax")(base.output))
    assert classifier(tf.constant(TEXTS)).shape == (len(TEXTS), 3)


def test_an_unknown_kind_of_input_is_refused(tiny_source: Path) -> None:
    with pytest.raises(InputError, match="'text' or 'tokens'"):
        to_keras(tiny_source, inputs="words")  # type: ignore[arg-type]


@pytest.mark.parametrize("model_type", ["mpnet", "albert", "xlm-roberta-xl", "deberta-v2", "modernbert"])
def test_every_family_becomes_a_keras_model_that_equals_it_and_is_saved_and_loaded(
    tmp_path: Path, model_type: str
) -> None:
    from family_models import save_family

    source = save_family(tmp_path, model_type)
    expected = SentenceTransformer(str(source), device="cpu").encode(list(TEXTS))
    model = to_keras(source)
    assert largest_difference(model(tf.constant(TEXTS)), expected) < 1e-5
    model.save(tmp_path / "model.keras")
    assert largest_difference(keras.models.load_model(tmp_path / "model.keras")(tf.constant(TEXTS)), expected) < 1e-5
