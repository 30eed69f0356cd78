"""Buckets of distances as T5 has them (Raffel et al. 2019, arXiv:1910.10683), and MPNet after it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["by_distance", "distance_buckets"]


def distance_buckets(length: int, buckets: int, max_distance: int) -> npt.NDArray[np.int64]:
    """The bucket of each distance from ``-(length - 1)`` to ``length - 1``: half of them for each side, half of those
    for the nearest places one by one, the others ever wider (``T5Attention._relative_position_bucket``). From
    ``max_distance`` on all have the last bucket of their side. ``buckets`` are 4 at least.

    In torch, and in its order of operations: a logarithm rounded otherwise puts a distance into another bucket.
    """
    import torch

    distance = torch.arange(-(length - 1), length)
    buckets //= 2
    side = (distance > 0).to(torch.long) * buckets
    distance = torch.abs(distance)
    exact = buckets // 2
    steps = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = torch.clamp(exact + torch.nan_to_num(steps, neginf=0.0).to(torch.long), max=buckets - 1)
    return np.asarray((side + torch.where(distance < exact, distance, far)).numpy())


def by_distance(table: Any, rows: npt.NDArray[np.int64]) -> Any:
    """A table ``[buckets, heads]`` as one of distances, ``[heads, distances]``: ``rows`` are the distances' buckets."""
    import tensorflow as tf

    return tf.transpose(tf.gather(table, rows))
