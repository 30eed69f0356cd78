"""Answers whose rows differ in length become a line for each row, or a named error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolkit.client.wire.sparse import sparse_rows
from toolkit.errors import ResponseError

FLAT = {"indices": np.array([4, 7, 1], np.int32), "values": np.array([1, 2, 3], np.float32)}


def test_row_splits_and_padding_tell_the_same_rows() -> None:
    flat = sparse_rows({**FLAT, "row_splits": np.array([0, 2, 2, 3])}, 3)
    wide = {
        "indices": np.array([[4, 7], [0, 0], [1, 0]], np.int32),
        "values": np.array([[1, 2], [0, 0], [3, 0]], np.float32),
    }
    for found in (flat, sparse_rows(wide, 3)):
        assert found["indices"].tolist() == [[4, 7], [], [1]]
        assert found["values"].tolist() == [[1.0, 2.0], [], [3.0]]
        assert (found["indices"].values.dtype, found["values"].values.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({**FLAT, "row_splits": np.array([0, 3])}, r"'row_splits' is \[0, 3\] of shape \[2\]"),
        ({**FLAT, "row_splits": np.array([0, 2, 1])}, r"'row_splits' is \[0, 2, 1\]"),
        ({**FLAT, "row_splits": np.array([0, 2, 4])}, r"'indices' has shape \[3\], but the rows end at 4"),
        ({"indices": FLAT["indices"], "row_splits": np.array([0, 2, 3])}, "'values' has shape"),
        ({"indices": np.zeros((2, 3)), "values": np.zeros((2, 2))}, r"shapes \[2, 3\] and \[2, 2\]"),
        ({"indices": np.zeros((2, 3))}, "no output 'values'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(answer: Any, message: str) -> None:
    with pytest.raises(ResponseError, match=message):
        sparse_rows(answer, 2)
