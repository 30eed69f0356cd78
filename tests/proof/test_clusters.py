"""Clusters are those of Ward's method, or so near to it that a cosine off by the bound makes them others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from toolkit.proof.clusters import are_wards, means

BOUND = 1e-5


def vectors_of(count: int, *, repeated: bool = False) -> Any:
    rng = np.random.default_rng(count)
    x = rng.normal(size=(count, 8))
    if repeated:
        x = x[rng.integers(0, count // 6, count)] + rng.normal(size=x.shape) * 1e-4
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def labels_of(vectors: Any, wanted: int, noise: float = 0.0) -> Any:
    """Those of SciPy, for cosines that are off by up to ``noise``."""
    off = np.random.default_rng(0).uniform(-noise, noise, (len(vectors), len(vectors)))
    distances = squareform(np.clip(1 - vectors @ vectors.T + off, 0, 2), checks=False)
    return (fcluster(linkage(distances, "ward"), wanted, "maxclust") - 1).astype(np.int32)


@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize("factor", [1.2, 2.0, 5.0])
def test_the_originals_clusters_are_right(count: int, factor: float) -> None:
    vectors, wanted = vectors_of(count), max(int(count // factor), 1)
    assert are_wards(vectors, labels_of(vectors, wanted), wanted, BOUND)


def test_other_clusters_are_right_at_near_ties_alone() -> None:
    vectors = vectors_of(60, repeated=True)
    exact, other = labels_of(vectors, 30), labels_of(vectors, 30, noise=1e-6)
    assert not np.array_equal(exact, other)
    assert are_wards(vectors, other, 30, BOUND)
    assert not are_wards(vectors, other, 30, 1e-12)


def test_wrong_clusters_are_wrong() -> None:
    vectors = vectors_of(40)
    right = labels_of(vectors, 20)
    swapped = np.select([right == 3, right == 4], [4, 3], right)
    moved = right.copy()
    moved[0] = (moved[0] + 1) % 20
    merged = np.where(right > 4, right - 1, right)
    missing = np.where(right > 4, right + 1, right)
    for wrong in (swapped, moved, merged, missing):
        assert not are_wards(vectors, wrong, 20, BOUND)
    assert not are_wards(vectors, labels_of(vectors, 21), 20, BOUND)


def test_means_are_those_of_each_label() -> None:
    vectors = np.array([[1, 0], [0, 1], [3, 0]], np.float32)
    labels = np.array([1, 0, 1], np.int32)
    assert means(vectors, labels, normalized=False).tolist() == [[0, 1], [2, 0]]
    assert means(vectors, labels, normalized=True).tolist() == [[0, 1], [1, 0]]
