"""Products with packed weights: those of one short text, equal to all others to float rounding."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusion_support import needs_onednn

from toolkit.encoder.families.bert import BertSpec
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.precision.packed import PackedProducts

SIZE = 24


def spec(activation: str) -> BertSpec:
    return BertSpec(
        family="bert",
        vocab_size=9,
        hidden_size=SIZE,
        num_layers=1,
        num_heads=2,
        intermediate_size=SIZE,
        max_positions=9,
        type_vocab_size=1,
        activation=activation,
        layer_norm_eps=1e-12,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
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
        kind = spec(activation)
        return computed(PackedProducts(read, kind), x), computed(Float32Products(read, kind), x)

    # beyond the class of rows that the first call packs for the weights are put in order anew: slower, not different
    for rows in (8, 12, 32, 64, 3, 200, 8):
        packed, plain = both(random.standard_normal((rows, SIZE)).astype(np.float32))
        np.testing.assert_allclose(packed, plain, rtol=1e-5, atol=2e-5)
