"""Answers of signatures for sparse vectors, in either form, as rows of indices and values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.client.types import Array
from toolkit.client.wire.arrays import Ragged, aligned, row_aligned
from toolkit.errors import ResponseError
from toolkit.vectors_signatures import ROW_SPLITS, VALUES

__all__ = ["INDICES", "SPARSE", "VALUES", "sparse_rows"]

INDICES = "indices"
SPARSE = (INDICES, VALUES)
"""The outputs that a signature for sparse vectors has in either form."""


def sparse_rows(answer: Mapping[str, Array], count: int) -> dict[str, Ragged]:
    """``indices`` int32 and ``values`` float32 of ``count`` rows: those that ``row_splits`` tell apart; without it
    padded rows ``[rows, most]``, less the padding, whose value is 0.

    Raises ``ResponseError`` for an answer that is none.
    """
    if ROW_SPLITS in answer:
        splits = np.array(aligned(answer[ROW_SPLITS]), np.int32)
        found = {name: answer.get(name, np.empty((0, 0))) for name in SPARSE}
        if splits.shape != (count + 1,) or splits[0] != 0 or (np.diff(splits) < 0).any():
            raise ResponseError(f"output 'row_splits' is {splits[:8].tolist()} of shape {list(splits.shape)}")
        total = int(splits[-1])
    else:
        wide = {name: row_aligned(name, answer, count) for name in SPARSE}
        shapes = [list(array.shape) for array in wide.values()]
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise ResponseError(f"outputs 'indices' and 'values' have the shapes {shapes[0]} and {shapes[1]}")
        active = wide[VALUES] != 0
        splits = np.cumsum([0, *active.sum(1)], dtype=np.int32)
        found, total = {name: array[active] for name, array in wide.items()}, int(splits[-1])
    for name, array in found.items():
        if array.shape != (total,):
            raise ResponseError(f"output {name!r} has shape {list(array.shape)}, but the rows end at {total}")
    dtypes = {INDICES: np.int32, VALUES: np.float32}
    return {name: Ragged(np.array(aligned(array), dtypes[name]), splits) for name, array in found.items()}
