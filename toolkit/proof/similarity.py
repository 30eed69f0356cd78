"""What vectors are used for, by the similarities of all pairs of texts: who is nearest, and in which order. numpy only.

A cosine with the original says how far vectors moved, not whether a search still finds the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NEIGHBOURS", "Agreement", "agreement", "rank_correlation"]

Array = npt.NDArray[Any]

NEIGHBOURS = 10


@dataclass(frozen=True)
class Agreement:
    """Of two sets of vectors of the same texts: ``neighbours``, the share of each text's ten nearest texts that both
    have, and ``rank_correlation``, Spearman's, of the similarities of all pairs of texts."""

    neighbours: float
    rank_correlation: float


def agreement(ours: Array, theirs: Array) -> Agreement | None:
    """Of vectors ``[texts, dim]``, row by row of the same texts; ``None`` where there are too few to tell."""
    if len(ours) <= NEIGHBOURS:
        return None
    found, wanted = _similarities(ours), _similarities(theirs)
    nearest = np.argsort(-found, axis=1, kind="stable")[:, :NEIGHBOURS]
    # Texts that are as near as the last of the nearest, such as equal ones, count as nearest too.
    last = np.sort(wanted, axis=1)[:, -NEIGHBOURS][:, None]
    kept = float(np.mean(np.take_along_axis(wanted, nearest, 1) >= last - 1e-6))
    pairs = np.triu_indices(len(ours), 1)
    return Agreement(kept, rank_correlation(found[pairs], wanted[pairs]))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's correlation of two lists of numbers; equal ones share their ranks' mean. 0 where one is constant."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else 0.0


def _ranks(values: Array) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _similarities(vectors: Array) -> Array:
    """Cosines of all pairs, in float64; -1 of each with itself."""
    x = np.nan_to_num(vectors.astype(np.float64))
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    similarities: Array = x @ x.T
    np.fill_diagonal(similarities, -1.0)
    return similarities
