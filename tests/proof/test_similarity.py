"""Neighbours and ranks of similarities: equal for equal vectors, and as scipy counts them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from toolkit.proof.similarity import NEIGHBOURS, agreement, rank_correlation


def vectors(texts: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((texts, 8)).astype(np.float32)


def test_equal_vectors_agree_wholly_whatever_their_length() -> None:
    found = agreement(3 * vectors(), vectors())
    assert found is not None
    assert found.neighbours == 1
    assert found.rank_correlation == pytest.approx(1)


def test_unrelated_vectors_have_few_neighbours_and_no_order_in_common() -> None:
    found = agreement(vectors(seed=1), vectors())
    assert found is not None
    assert found.neighbours < 0.5
    assert abs(found.rank_correlation) < 0.2


def test_a_small_change_costs_less_than_a_large_one() -> None:
    small, large = (agreement(vectors() + scale * vectors(seed=1), vectors()) for scale in (0.05, 0.5))
    assert small is not None
    assert large is not None
    assert large.neighbours < small.neighbours <= 1
    assert large.rank_correlation < small.rank_correlation < 1


def test_too_few_texts_to_have_neighbours_tell_nothing() -> None:
    assert agreement(vectors(NEIGHBOURS), vectors(NEIGHBOURS)) is None
    assert agreement(vectors(NEIGHBOURS + 1), vectors(NEIGHBOURS + 1)) is not None


def test_ranks_correlate_as_scipy_says_ties_included() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, 200).astype(float), random.standard_normal(200)
    assert rank_correlation(a, b + a) == pytest.approx(spearmanr(a, b + a).statistic)
    assert rank_correlation(b, np.exp(b)) == pytest.approx(1)
    assert rank_correlation(b, -b) == pytest.approx(-1)
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0
