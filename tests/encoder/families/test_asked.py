"""Where one token of each text is all that pooling takes, the last layer is computed for these tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from family_models import CONFIGURATIONS, save_family
from marks import long, long_but
from sentence_transformers.sentence_transformer.modules import Normalize
from support import HIDDEN, MAX_LENGTH, TEXTS, largest_difference, sentence_transformer

from toolkit.encoder.families import FAMILIES
from toolkit.encoder.layout import Layout
from toolkit.encoder.packing import Tokens, make_chunk, make_single_chunk
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.target import GPU
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.source.checkpoint import open_checkpoint

PROMPT = "one two: "


class Counting(Float32Products):
    """Says how many rows each product was given."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.rows: list[int] = []

    def linear(self, x: tf.Tensor, name: str, **options: Any) -> tf.Tensor:
        self.rows.append(x.shape[0])
        return super().linear(x, name, **options)


def spec_of(source: Any) -> EmbedSpec:
    spec = read_spec(open_checkpoint(source))
    assert isinstance(spec, EmbedSpec)
    return spec


def some_tokens(spec: EmbedSpec, lengths: Sequence[int]) -> Tokens:
    ids = tf.constant(np.random.default_rng(0).integers(5, 200, sum(lengths)).astype(np.int32))
    columns = tf.concat([tf.range(length) for length in lengths], 0)
    splits = tf.constant(np.cumsum([0, *lengths]).astype(np.int32))
    return Tokens(ids, tf.zeros_like(ids), spec.encoder.positions(ids, columns, splits), splits)


def assert_asked_equal_all(spec: EmbedSpec, behind: int = 0) -> None:
    """``behind`` the last layer there are so many products that need all tokens."""
    encoder = spec.encoder
    params = {name: tf.constant(value) for name, value in encoder.parameters().items()}
    some, one = some_tokens(spec, (3, 9, 1, 20, 5)), some_tokens(spec, (13,))
    chunks = [make_chunk(some), make_chunk(some, coarse=True), make_chunk(some, target=GPU)]
    for chunk in [*chunks, make_single_chunk(one), make_single_chunk(one, few=True)]:
        splits, filled, total = chunk.tokens.row_splits, chunk.mask.shape[0], chunk.slot.shape[0]
        everything = encoder.hidden_states(Float32Products(params, encoder), chunk)
        for tokens in (splits[:-1], splits[1:] - 1, (splits[:-1] + splits[1:]) // 2):
            products = Counting(params, encoder)
            found = encoder.hidden_states(products, chunk.asking(tokens))
            assert found.shape == (filled, HIDDEN)
            assert largest_difference(found[: chunk.rows], tf.gather(everything, tokens)) < 2e-6
            whole = len(products.rows) - behind - 3
            assert products.rows == [*[total] * whole, *[filled] * 3, *[total] * behind]


FIRST = [family.model_types[0] for family in FAMILIES]


@pytest.mark.parametrize("model_type", long_but(FIRST, CONFIGURATIONS))
def test_hidden_states_of_single_tokens_are_those_among_all(tmp_path: Path, model_type: str) -> None:
    assert_asked_equal_all(spec_of(save_family(tmp_path, model_type)))


def test_a_convolution_in_the_last_layer_sees_all_tokens(tmp_path: Path) -> None:
    convolved = {"conv_kernel_size": 3, "conv_act": "gelu", "num_hidden_layers": 1}
    assert_asked_equal_all(spec_of(save_family(tmp_path, "deberta-v2", **convolved)), behind=1)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
@pytest.mark.parametrize("model_type", ["bert", "qwen3", *long("modernbert", "deberta-v2", "t5", "albert", "gemma2")])
def test_the_first_and_the_last_tokens_embedding_is_the_originals(
    tmp_path: Path, model_type: str, pooling: str, include_prompt: bool
) -> None:
    save_family(tmp_path, model_type)
    original = sentence_transformer(tmp_path / "encoder", Normalize(), pooling=pooling)
    original[1].include_prompt = include_prompt
    original.prompts, original.default_prompt_name = {"query": PROMPT}, "query"
    model = EmbedModel(spec_of(original), Layout(packed=True))
    texts = [*TEXTS, "", "word " * MAX_LENGTH]
    expected = original.encode(texts, batch_size=3)
    assert largest_difference(model._serving_default(tf.constant(texts))["embedding"], expected) < 1e-5
    for text, alone in zip(texts, expected, strict=True):
        assert largest_difference(model._serving_default(tf.constant([text]))["embedding"][0], alone) < 1e-5
    assert model._serving_default(tf.constant([], tf.string))["embedding"].shape == (0, HIDDEN)


@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
def test_texts_without_tokens_are_embedded_as_nothing(tmp_path: Path, pooling: str) -> None:
    save_family(tmp_path, "bert")
    model = EmbedModel(spec_of(sentence_transformer(tmp_path / "encoder", pooling=pooling)))
    ids, mask = tf.fill([3, 8], 7), tf.constant([[0] * 8, [1] * 8, [0] * 8])
    found = model._embed_tokens(ids, mask, tf.zeros_like(ids))["embedding"]
    assert np.any(found[1])
    assert not np.any(found[::2])


def test_several_tokens_are_pooled_of_all_hidden_states(tmp_path: Path) -> None:
    save_family(tmp_path, "bert")
    for pooling in ("mean", ["cls", "mean"]):
        model = EmbedModel(spec_of(sentence_transformer(tmp_path / "encoder", pooling=pooling)))
        model._serving_default(tf.constant(list(TEXTS)))
        assert not [kind for kind in model._encoders if kind.endswith("_asked")]
