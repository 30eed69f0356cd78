"""Token pooling: the clusters of the original, in its order, and their means."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from support import largest_difference

from toolkit.heads.token_pooling import TokenPoolingSpec

DIM, LONGEST = 16, 90


def unit_vectors(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    x = rng.normal(size=(count, DIM)) + rng.normal(size=DIM)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def pooled(spec: TokenPoolingSpec, texts: list[Any]) -> list[Any]:
    splits = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    vectors = np.concatenate([np.zeros((0, DIM), np.float32), *texts])
    apply = tf.function(lambda x, rows: spec.apply(x, rows, LONGEST), autograph=False)
    given = tf.TensorSpec([None, DIM]), tf.TensorSpec([None], tf.int32)
    found, rows, *_ = apply.get_concrete_function(*given)(tf.constant(vectors), tf.constant(splits))
    return [found[a:b].numpy() for a, b in pairwise(rows)]


@pytest.mark.parametrize(
    ("factor", "protected", "normalized"),
    [(2.0, 1, True), (1.01, 1, False), (1.1, 0, True), (3.3, 2, True), (50.0, 1, False), (1.0, 1, True)],
)
def test_clusters_are_the_originals_in_its_order(factor: float, protected: int, normalized: bool) -> None:
    rng = np.random.default_rng(0)
    module = HierarchicalTokenPooling(factor, num_protected_tokens=protected, normalize_embeddings=normalized)
    texts = [unit_vectors(rng, count) for count in (0, 1, 2, 3, *rng.integers(4, 40, 12), LONGEST)]
    found = pooled(TokenPoolingSpec(factor, protected, normalized), texts)
    expected = [module.forward(_features(text))["token_embeddings"][0].numpy() for text in texts]
    assert [len(row) for row in found] == [len(row) for row in expected]
    assert largest_difference(np.concatenate(found), np.concatenate(expected)) < 1e-6


def _features(text: Any) -> dict[str, Any]:
    return {"token_embeddings": torch.tensor(text)[None], "attention_mask": torch.ones(1, len(text))}


def test_distances_that_occur_more_than_once_leave_as_few_clusters_as_in_the_original() -> None:
    rng = np.random.default_rng(1)
    axes = np.eye(DIM, dtype=np.float32)
    apart = unit_vectors(rng, 5)
    texts = [axes[:7], np.repeat(axes[:4], 3, 0), np.concatenate([apart, axes[:1], apart]), np.repeat(apart, 2, 0)]
    module = HierarchicalTokenPooling(2.0, num_protected_tokens=0)
    expected = [module.pool_one(torch.tensor(text)).numpy() for text in texts]
    assert len(expected[0]) < 3  # all are equally far from each other
    found = pooled(TokenPoolingSpec(2.0, 0, True), texts)
    assert [len(row) for row in found] == [len(row) for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert {tuple(row) for row in ours.round(5) + 0.0} == {tuple(row) for row in theirs.round(5) + 0.0}


def test_no_text_gives_no_vector() -> None:
    assert pooled(TokenPoolingSpec(2.0, 1, True), []) == []
    assert [len(row) for row in pooled(TokenPoolingSpec(2.0, 1, True), [np.zeros((0, DIM), np.float32)] * 2)] == [0, 0]
