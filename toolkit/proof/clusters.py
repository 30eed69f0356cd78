"""Whether clusters of vectors are those of Ward's method, where distances may be off by rounding.

Merges that are nearly as low as each other may be made in either order, and then clusters may be quite others. So what
the artifact did is followed merge by merge: at each, no other may be lower by more than distances can be off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PooledFigure", "are_wards", "means"]

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PooledFigure:
    """Of one signature: how many ``texts`` were pooled, and how many have other clusters than the original's (``off``),
    each of them right where a cosine is off by no more than the bound."""

    signature: str
    texts: int
    off: int

    def __str__(self) -> str:
        return f"{self.off} of {self.texts} pooled otherwise, at near ties"


def means(vectors: Vectors, labels: Labels, *, normalized: bool) -> Vectors:
    """The mean of the vectors ``[n, dim]`` with each label, ``[labels, dim]``."""
    sums = np.zeros((int(labels.max(initial=-1)) + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    found = sums / np.bincount(labels, minlength=len(sums))[:, None]
    if normalized:
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found.astype(np.float32)


def are_wards(vectors: Vectors, labels: Labels, wanted: int, bound: float) -> bool:
    """Whether Ward's method on the cosine distances of ``vectors`` ``[n, dim]``, each of which may be off by ``bound``,
    may end in clusters of these ``labels`` ``[n]``, numbered in the order of its tree, where ``wanted`` are asked for.
    """
    count = int(labels.max(initial=-1)) + 1
    if len(np.unique(labels)) != count or count > wanted or labels.min(initial=0) < 0:
        return False
    tree = _Tree(np.clip(1.0 - vectors @ vectors.T, 0, 2).astype(np.float64), labels, bound)
    low = [tree.merge_within() for _ in range(len(labels) - count)]
    if None in low or any(tree.merge_neighbours() is None for _ in range(count - 1)):
        return False
    # Fewer than asked for are left where the merge that reaches that number is as high as others.
    made = sorted(height for height in low if height is not None)
    needed = len(labels) - wanted
    return needed <= 0 or all(least <= made[needed - 1][1] for least, _ in made[needed:])


class _Tree:
    """Clusters that are merged, by their first vector in the order of their labels.

    Of any two: how far apart they are, and the ``least`` and the ``most`` that this may be, as the squares that Ward's
    method merges by; infinite for one that is part of another now. Of each: the least and the most at which it was
    merged itself.
    """

    def __init__(self, distances: Array, labels: Labels, bound: float) -> None:
        self.order = np.argsort(labels, kind="stable")
        self.label = labels[self.order]
        distances = distances[np.ix_(self.order, self.order)]
        np.fill_diagonal(distances, 0.0)
        errors = 2 * bound * distances + bound**2
        np.fill_diagonal(errors, 0.0)
        self.sums, self.errors = distances**2, errors
        self.size = np.ones(len(labels))
        self.there = np.ones(len(labels), bool)
        self.low, self.high = np.zeros(len(labels)), np.zeros(len(labels))
        self.apart = np.full(distances.shape, np.inf)
        self.least, self.most = self.apart.copy(), self.apart.copy()
        for row in range(len(labels)):
            self._measure(row)
        # of one label
        self.alike = np.where(self.label[:, None] == self.label[None, :], self.apart, np.inf)

    def _measure(self, row: int) -> None:
        """How far ``row`` is from each of the others."""
        size, own = self.size, self.size[row]
        weight, both = 2 * own * size / (own + size), own * size
        inside = [np.diag(sums) / (2 * size**2) for sums in (self.sums, self.errors)]
        apart = weight * (self.sums[row] / both - inside[0] - inside[0][row])
        error = weight * (self.errors[row] / both + inside[1] + inside[1][row])
        other = self.there.copy()
        other[row] = False
        for table, value in ((self.apart, apart), (self.least, apart - error), (self.most, apart + error)):
            table[row] = table[:, row] = np.where(other, value, np.inf)

    def merge_within(self) -> tuple[float, float] | None:
        """Merge the two nearest of one label; ``None`` if others are nearer whatever is off. Returns how far apart they
        were, at least and at most."""
        a, b = sorted(divmod(int(np.argmin(self.alike)), len(self.alike)))
        return self._merged(a, b) if self.least[a, b] <= self.most.min() else None

    def merge_neighbours(self) -> tuple[float, float] | None:
        """Merge the first two that may be nearest, and of which the first comes first in the tree; else ``None``."""
        left = np.flatnonzero(self.there)
        a, b = left[:-1], left[1:]
        single = self.size == 1
        in_turn = np.where(
            single[a] & single[b],
            self.order[a] < self.order[b],
            ~single[a] & (single[b] | (self.low[a] <= self.high[b])),
        )
        right = np.flatnonzero(in_turn & (self.least[a, b] <= self.most.min()))
        return self._merged(int(a[right[0]]), int(b[right[0]])) if right.size else None

    def _merged(self, a: int, b: int) -> tuple[float, float]:
        self.low[a], self.high[a] = self.least[a, b], self.most[a, b]
        for sums in (self.sums, self.errors):
            sums[a] += sums[b]
            sums[:, a] += sums[:, b]
        self.size[a] += self.size[b]
        self.there[b] = False
        self._measure(a)
        for table in (self.apart, self.least, self.most, self.alike):
            table[b] = table[:, b] = np.inf
        of_label = self.label == self.label[a]
        self.alike[a, of_label] = self.alike[of_label, a] = self.apart[a, of_label]
        return float(self.low[a]), float(self.high[a])
