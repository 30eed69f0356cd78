"""from_keras: a model trained in Keras is a SentenceTransformer again, equal to it, or refused by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from family_models import save_family
from marks import long
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm
from support import HIDDEN, TEXTS, largest_difference, sentence_transformer

from toolkit.errors import CheckError, InputError, SourceError, UnsupportedError
from toolkit.graph.keras_back import from_keras, keras_checkpoint
from toolkit.graph.keras_door import to_keras
from toolkit.graph.keras_layers import Encoder, Pooling
from toolkit.graph.source import open_source
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.proof.reference import reference_answers
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint
from toolkit.source.settings import SourceSettings


def trained(model: keras.Model) -> keras.Model:
    """``model`` after a step that is long enough for every weight that counts to move."""
    texts = tf.constant(TEXTS)
    model.compile(keras.optimizers.SGD(5.0), "mse")
    model.fit(texts, np.roll(np.asarray(model(texts)), 1, 0), batch_size=len(TEXTS), verbose=0)
    return model


def encoded(model: SentenceTransformer) -> Any:
    return model.encode(list(TEXTS))


# a table of distances with buckets, tables under two names, distances that are projected, biases that are none,
# cosines that are stored, products that share weights, normalizations that are stored less 1
@pytest.mark.parametrize(
    "model_type",
    [
        *("t5", "deberta-v2", "modernbert"),
        *long("mpnet", "roformer", "albert", "gemma3_text"),
    ],
)
def test_a_family_goes_back_as_it_came_and_trained_as_it_was_trained(tmp_path: Path, model_type: str) -> None:
    source = save_family(tmp_path, model_type)
    original, model = open_checkpoint(source), to_keras(source)
    assert open_checkpoint(from_keras(model)).digest == original.digest
    from_keras(trained(model)).save(str(tmp_path / "saved"))
    saved = open_checkpoint(tmp_path / "saved")
    assert largest_difference(model(tf.constant(TEXTS)), encoded(saved.reference)) < 1e-5
    moved = [
        name
        for name, before in original.modules[0].tensors.items()
        if not np.array_equal(before, saved.modules[0].tensors[name])
    ]
    # what no hidden state depends on, what is not trained, and what attention takes no notice of
    resting = re.compile(r"pooler|embed_positions|(key(_proj)?|\.k)\.bias")
    assert all(resting.search(name) for name in set(original.modules[0].tensors) - set(moved))


def test_modules_prompt_and_cut_go_back_too(tiny_bert: Path, tmp_path: Path) -> None:
    heads = (Dense(HIDDEN, 24), LayerNorm(24), Dense(24, 12, bias=False))
    original = sentence_transformer(tiny_bert, Dropout(0.1), *heads)
    original.prompts["q"] = "query: "
    original.truncate_dim = 7
    model = to_keras(original, prompt_name="q")
    trained(model).save(tmp_path / "model.keras")
    from_keras(tmp_path / "model.keras").save(str(tmp_path / "saved"))
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert (saved.default_prompt_name, saved.truncate_dim) == ("q", 7)
    assert largest_difference(model(tf.constant(TEXTS)), encoded(saved)) < 1e-5
    assert [type(module).__name__ for module in saved] == [type(module).__name__ for module in original]
    written = "".join(file.read_text() for file in (tmp_path / "saved").rglob("*.json"))
    assert "/tmp" not in written


def test_weights_that_keras_saved_are_loaded_into_the_same_model(tiny_source: Path, tmp_path: Path) -> None:
    model = trained(to_keras(tiny_source))
    model.save_weights(tmp_path / "x.weights.h5")
    again = to_keras(tiny_source)
    again.load_weights(tmp_path / "x.weights.h5")
    assert largest_difference(encoded(from_keras(again)), model(tf.constant(TEXTS))) < 1e-5


def test_a_model_of_tokens_goes_back_and_is_compared_from_texts(tiny_source: Path) -> None:
    original = SentenceTransformer(str(tiny_source), device="cpu", prompts={"q": "query: "}, default_prompt_name="q")
    model = to_keras(original, inputs="tokens")
    checkpoint = keras_checkpoint(model)
    assert largest_difference(checkpoint.answers[None](TEXTS), encoded(original)) < 1e-5
    original[1].include_prompt = False
    with pytest.raises(UnsupportedError, match=r"inputs is 'tokens'.*text, where pooling leaves a prompt out"):
        keras_checkpoint(to_keras(original, inputs="tokens"))


def test_every_signature_of_a_trained_model_equals_what_it_became(tiny_source: Path) -> None:
    original = SentenceTransformer(str(tiny_source), device="cpu", prompts={"q": "query: "})
    checkpoint = open_source(trained(to_keras(original)), settings=SourceSettings(truncate_dim=20))
    spec = EmbedSpec.read(checkpoint, Views(dims=(8,), quantized=("ubinary",)))
    served, texts = EmbedModel(spec), list(TEXTS)
    answers = {item.name: served._text_signature(item, tf.constant(texts))["embedding"] for item in spec.texts}
    prompted = checkpoint.reference.encode(texts, prompt_name="q", truncate_dim=8, normalize_embeddings=True)
    assert largest_difference(answers["embed_q_8"], prompted) < 1e-5
    assert answers["embedding_ubinary"].dtype == tf.uint8
    (answer,) = reference_answers(checkpoint, texts[:1])
    assert answer.embedding.shape == (20,)


def test_the_proof_compares_with_the_keras_model_itself(tiny_source: Path) -> None:
    checkpoint = keras_checkpoint(to_keras(tiny_source))
    own = np.arange(24, dtype=np.float32)
    (answer,) = reference_answers(replace(checkpoint, answers={None: lambda texts: own[None]}), ["hello"])
    assert np.array_equal(answer.embedding, own)


def test_what_no_checkpoint_holds_is_not_trained(tmp_path: Path) -> None:
    for model_type, kept in {"modernbert": "beta", "roformer": "rotation"}.items():
        model = to_keras(save_family(tmp_path / model_type, model_type))
        assert not [weight.path for weight in model.trainable_weights if kept in weight.path]


def test_layers_that_no_sentence_transformer_has_are_refused_by_name(tiny_source: Path) -> None:
    model = to_keras(tiny_source)
    around = keras.Model(model.input, keras.layers.Dense(3, name="classes")(model.output))
    with pytest.raises(UnsupportedError, match=r"layer 'classes' is 'Dense'.*the layers of to_keras alone"):
        from_keras(around)
    with pytest.raises(UnsupportedError, match="layer 'sentence_transformer' is 'Functional'"):
        from_keras(keras.Sequential([model]))
    half = keras.Model(model.input, model.get_layer("encoder").output)
    with pytest.raises(UnsupportedError, match=r"layers is \['tokenize', 'encoder'\]"):
        from_keras(half)


def test_another_order_of_its_layers_is_no_sentence_transformer(tiny_bert: Path) -> None:
    model = to_keras(sentence_transformer(tiny_bert, Dense(HIDDEN, HIDDEN), LayerNorm(HIDDEN)))
    x = model.get_layer("head_2_dense")(model.get_layer("pooling").output)
    skipped = keras.Model(model.input, x)
    with pytest.raises(SourceError, match="module 3, LayerNorm: no layer has its weights"):
        from_keras(skipped)
    turned = model.get_layer("head_2_dense")(model.get_layer("head_3_layernorm")(model.get_layer("pooling").output))
    with pytest.raises((CheckError, SourceError)):
        from_keras(keras.Model(model.input, turned))


def test_weights_that_are_no_numbers_are_refused_by_their_name(tiny_source: Path) -> None:
    model = to_keras(tiny_source)
    model.get_layer("encoder").params["layer_1/output/bias"].assign(np.full(HIDDEN, np.nan))
    with pytest.raises(SourceError, match=r"encoder\.layer\.1\.output\.dense\.bias' has nan in element 0"):
        from_keras(model)


def test_settings_and_files_that_do_not_go_with_it_are_refused(tiny_source: Path, tmp_path: Path) -> None:
    model = to_keras(tiny_source)
    for settings in ({"prompt_name": "q"}, {"max_seq_length": 8}, {"pooling": "max"}):
        with pytest.raises(InputError, match=f"{next(iter(settings))} .*the Keras model has its own"):
            open_source(model, settings=SourceSettings(**settings))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="revision 'main'"):
        open_source(model, revision="main")
    (tmp_path / "no.keras").write_bytes(b"none")
    with pytest.raises(SourceError, match=r"no\.keras: Keras cannot load it"):
        open_source(tmp_path / "no.keras")


def test_a_model_that_an_earlier_release_saved_is_read_and_does_not_go_back(tmp_path: Path) -> None:
    source = save_family(tmp_path, "modernbert")
    spec = EmbedSpec.read(open_checkpoint(source)).encoder
    config = to_keras(source).get_layer("encoder").get_config()
    values = spec.parameters()
    old = {"shapes": {name: list(value.shape) for name, value in values.items()}}
    config = {name: value for name, value in config.items() if name not in ("tensors", "skeleton")} | old
    new = to_keras(source)
    earlier = Encoder.from_config(config)
    tokens = new.get_layer("tokenize")(new.input)
    hidden = earlier(*tokens.values())
    earlier.load(values)
    x = Pooling(["mean"], HIDDEN)(hidden, tokens["attention_mask"])
    model = keras.Model(new.input, new.get_layer("head_2_normalize")(x))
    assert largest_difference(model(tf.constant(TEXTS)), new(tf.constant(TEXTS))) < 1e-6
    with pytest.raises(UnsupportedError, match="saved by an earlier release"):
        from_keras(model)
