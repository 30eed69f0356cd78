"""Products with packed weights, equal to all others to their type's rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fusion_support import needs_onednn
from support import TEXTS, bert_without_weights

from toolkit.encoder.layout import runs_packed_bfloat16
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.precision.mixed import MixedProducts, Plan
from toolkit.encoder.precision.packed import PackedProducts

SIZE = 24


KINDS = pytest.mark.parametrize(
    ("activation", "activated", "added"),
    [
        ("gelu", False, False),
        ("gelu", True, False),
        ("gelu_tanh", True, False),
        ("relu", True, False),
        ("silu", True, False),
        ("silu", True, True),
        ("gelu", False, True),
        ("gelu", True, True),
    ],
)


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
@KINDS
def test_a_packed_product_equals_a_product_at_every_number_of_rows(
    activation: str, activated: bool, added: bool, with_bias: bool
) -> None:
    random = np.random.default_rng(0)
    params = {"p/kernel": tf.Variable(random.standard_normal((SIZE, SIZE)).astype(np.float32))}
    if with_bias:
        params["p/bias"] = tf.Variable(random.standard_normal(SIZE).astype(np.float32))

    def computed(products: Float32Products, x: tf.Tensor) -> tf.Tensor:
        return products.linear(x, "p", activation=activated, residual=2 * x if added else None)

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE], tf.float32)], autograph=False)
    def both(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # what is read of variables, as models give it
        read = {name: value.read_value() for name, value in params.items()}
        kind = bert_without_weights(SIZE, activation)
        return computed(PackedProducts(read, kind), x), computed(Float32Products(read, kind), x)

    # beyond the class of rows that the first call packs for the weights are put in order anew: slower, not different
    for rows in (8, 12, 32, 64, 3, 200, 8):
        packed, plain = both(random.standard_normal((rows, SIZE)).astype(np.float32))
        np.testing.assert_allclose(packed, plain, rtol=1e-5, atol=2e-5)


@needs_onednn
@pytest.mark.long
def test_a_server_with_onednn_switched_off_answers_an_artifact_with_packed_weights_the_same(
    tiny_export: Path, tmp_path: Path
) -> None:
    ask = (
        "import sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "ask = lambda texts: served(text=tf.constant(texts))['embedding'].numpy()\n"
        "np.save(sys.argv[2], [*(ask([text])[0] for text in sys.argv[3:]), *ask(sys.argv[3:])])\n"
    )
    answers = []
    for switch in ("0", "1"):
        file = tmp_path / f"{switch}.npy"
        command = [sys.executable, "-c", ask, str(tiny_export), str(file), *TEXTS]
        subprocess.run(command, check=True, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": switch})
        answers.append(np.load(file))
    off, on = answers
    assert np.abs(off[: len(TEXTS)] - off[len(TEXTS) :]).max() < 1e-6
    assert np.abs(off - on).max() < 1e-6


@needs_onednn
@pytest.mark.skipif(not runs_packed_bfloat16(), reason="this processor has no AVX512")
@pytest.mark.parametrize("with_bias", [True, False])
@KINDS
def test_a_packed_product_in_bfloat16_equals_one_to_its_rounding(
    activation: str, activated: bool, added: bool, with_bias: bool
) -> None:
    random, plan = np.random.default_rng(0), Plan(bfloat16=frozenset({"p"}))
    values = {"p/kernel": random.standard_normal((SIZE, SIZE)), "embeddings/word": np.zeros((1, SIZE))}
    if with_bias:
        values["p/bias"] = random.standard_normal(SIZE)
    stored = plan.stored({name: value.astype(np.float32) for name, value in values.items()}, SIZE)
    variables = {name: tf.Variable(value) for name, value in stored.items()}

    def computed(params: Mapping[str, tf.Tensor], x: tf.Tensor, packed: bool) -> tf.Tensor:
        products = MixedProducts(params, bert_without_weights(SIZE, activation), plan, packed=packed)
        return tf.cast(products.linear(x, "p", activation=activated, residual=2 * x if added else None), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE], tf.float32)], autograph=False)
    def both(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        params = {name: value.read_value() for name, value in variables.items()}
        return computed(params, x, True), computed(params, x, False)

    for rows in (8, 64, 3, 200):
        packed, plain = both(random.standard_normal((rows, SIZE)).astype(np.float32))
        assert packed.dtype == tf.float32
        np.testing.assert_allclose(packed, plain, rtol=2**-6, atol=0.1)
