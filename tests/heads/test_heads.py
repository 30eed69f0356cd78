"""Modules behind the encoder compute what sentence-transformers' modules compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling
from support import largest_difference
from torch import nn

from toolkit.encoder.packing import make_chunk, pack
from toolkit.heads.dense import DENSE_ACTIVATIONS, DenseSpec
from toolkit.heads.layer_norm import LayerNormSpec
from toolkit.heads.normalize import NormalizeSpec
from toolkit.heads.pooling import POOLING_MODES, PoolingSpec, pool

RANDOM = np.random.default_rng(0)


def dense_spec(module: Dense, activation: str) -> DenseSpec:
    residual = module.residual.weight.detach().numpy().T if hasattr(module, "residual") else None
    bias = module.linear.bias.detach().numpy() if module.linear.bias is not None else None
    return DenseSpec(
        module.in_features,
        module.out_features,
        activation,
        module.use_residual,
        module.linear.weight.detach().numpy().T,
        bias,
        residual,
    )


def ours(head: Any, x: np.ndarray) -> Any:
    return head.apply(head.parameters(), tf.constant(x))


def theirs(module: nn.Module, x: np.ndarray) -> Any:
    with torch.no_grad():
        return module({"sentence_embedding": torch.tensor(x)})["sentence_embedding"].numpy()


@pytest.mark.parametrize("path", sorted(DENSE_ACTIVATIONS))
def test_every_activation_equals_torchs_over_its_whole_range(path: str) -> None:
    module = Dense(6, 64, activation_function=getattr(nn, path.rsplit(".", 1)[1])())
    x = np.concatenate([RANDOM.normal(0, scale, [50, 6]) for scale in (1e-4, 1, 10, 100)]).astype(np.float32)
    difference = largest_difference(ours(dense_spec(module, DENSE_ACTIVATIONS[path]), x), theirs(module, x))
    assert difference < 1e-5 * max(1.0, float(np.abs(theirs(module, x)).max()))


@pytest.mark.parametrize("out", [6, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_dense_with_and_without_bias_and_residual(out: int, bias: bool, residual: bool) -> None:
    module = Dense(6, out, bias=bias, use_residual=residual)
    x = RANDOM.normal(size=[9, 6]).astype(np.float32)
    assert largest_difference(ours(dense_spec(module, "tanh"), x), theirs(module, x)) < 1e-6


def test_layer_norm_equals_torchs() -> None:
    module = LayerNorm(6)
    nn.init.normal_(module.norm.weight)
    nn.init.normal_(module.norm.bias)
    spec = LayerNormSpec(6, module.norm.eps, module.norm.weight.detach().numpy(), module.norm.bias.detach().numpy())
    x = RANDOM.normal(3, 2, size=[9, 6]).astype(np.float32)
    assert largest_difference(ours(spec, x), theirs(module, x)) < 2e-6


def test_normalize_keeps_zero_and_tiny_vectors_finite() -> None:
    x = np.array([[3, 4], [0, 0], [1e-20, 0], [1e-13, 1e-13], [-1e18, 1e18]], np.float32)
    assert largest_difference(ours(NormalizeSpec(), x), theirs(Normalize(), x)) < 1e-6


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_counts_only_tokens_of_the_row(mode: str) -> None:
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 1, 0]], np.int32)
    hidden = RANDOM.normal(size=[4, 5, 3]).astype(np.float32)
    chunk = make_chunk(pack(*(tf.constant(mask),) * 3))
    packed = np.zeros([chunk.slot.shape[0], 3], np.float32)
    packed[: mask.sum()] = hidden[mask.astype(bool)]
    with torch.no_grad():
        features = {"token_embeddings": torch.tensor(hidden), "attention_mask": torch.tensor(mask)}
        expected = Pooling(3, mode)(features)["sentence_embedding"].numpy()
    assert largest_difference(pool(PoolingSpec((mode,), 3), tf.constant(packed), chunk), expected) < 1e-6


@pytest.mark.parametrize("skipped", [1, 3, 4, 9])
def test_a_prompts_tokens_do_not_count_however_many_of_a_row_they_are(skipped: int) -> None:
    lengths = [5, 3, 1, 4]
    mask = np.array([[1] * length + [0] * (5 - length) for length in lengths], np.int32)
    hidden = RANDOM.normal(size=[4, 5, 3]).astype(np.float32)
    chunk = make_chunk(pack(*(tf.constant(mask),) * 3).with_skipped(skipped))
    packed = np.zeros([chunk.slot.shape[0], 3], np.float32)
    packed[: mask.sum()] = hidden[mask.astype(bool)]
    with torch.no_grad():
        features = {"token_embeddings": torch.tensor(hidden), "attention_mask": torch.tensor(mask)}
        module = Pooling(3, POOLING_MODES, include_prompt=False)
        expected = module(features | {"prompt_length": skipped})["sentence_embedding"].numpy()
    spec = PoolingSpec(POOLING_MODES, 18, include_prompt=False)
    assert largest_difference(np.nan_to_num(pool(spec, tf.constant(packed), chunk)), np.nan_to_num(expected)) < 1e-6


@pytest.mark.parametrize("mode", ["cls", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_row_without_tokens_is_pooled_to_zeros(mode: str) -> None:
    none = tf.zeros([2, 3], tf.int32)
    chunk = make_chunk(pack(none, none, none))
    hidden = tf.ones([chunk.slot.shape[0], 3])
    assert np.array_equal(pool(PoolingSpec((mode,), 3), hidden, chunk), np.zeros([2, 3]))
