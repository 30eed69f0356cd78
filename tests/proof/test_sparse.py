"""What counts as the same sparse vector: the same words but for those within the bound of being left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolkit.proof.comparison import Bounds
from toolkit.proof.tasks.sparse import _Comparison, _dense
from toolkit.signatures import Prompt
from toolkit.sparse_signatures import DENSE, FLAT, PADDED, SparseSignature

THEIRS = np.array([0, 0.5, 0, 2.0, 3e-6, 0, 1.0, 0], np.float32)


def compared(ours: Any, theirs: Any = THEIRS, most: int | None = None) -> _Comparison:
    comparison = _Comparison(["a text"], Bounds())
    signature = SparseSignature("sparse", Prompt(None, ""), DENSE, len(theirs), most)
    comparison.sparse(signature, 0, np.asarray(ours, np.float32), np.asarray(theirs, np.float32))
    return comparison


def changed(place: int, value: float) -> np.ndarray:
    vector = THEIRS.copy()
    vector[place] = value
    return vector


def test_the_same_vector_passes() -> None:
    found = compared(THEIRS)
    assert found.first() is None
    assert (found.sparse_figures["sparse"].active, found.sparse_figures["sparse"].off) == (4, 0)


@pytest.mark.parametrize(("place", "value"), [(4, 0.0), (0, 5e-6)])
def test_a_word_within_the_bound_of_0_is_counted_and_passes(place: int, value: float) -> None:
    found = compared(changed(place, value))
    assert found.first() is None
    assert found.sparse_figures["sparse"].off == 1


@pytest.mark.parametrize(
    ("place", "value"), [(1, 0.0), (0, 2e-5), (1, 0.50002), (3, 2.0001), (6, float("nan")), (6, -1.0)]
)
def test_a_missing_word_an_additional_one_and_another_value_fail(place: int, value: float) -> None:
    found = compared(changed(place, value)).first()
    assert found is not None
    assert (found.stage, found.text) == ("sparse", "a text")
    assert f"number {place} is " in found.detail


def test_of_equal_numbers_any_may_be_the_last_that_is_kept() -> None:
    theirs = [3.0, 1.0, 1.0, 0.5]
    other = compared([3.0, 0.0, 1.0, 0.0], theirs, most=2)
    assert other.first() is None
    assert compared([0.0, 1.0, 1.0, 0.0], theirs, most=2).first() is not None
    assert compared([3.0, 0.0, 0.0, 0.5], theirs, most=2).first() is not None


def test_a_sum_over_many_tokens_is_compared_by_its_size() -> None:
    assert compared([400.0, 0.0], [400.001, 0.0]).first() is None
    assert compared([400.0, 0.0], [400.01, 0.0]).first() is not None


@pytest.mark.parametrize(
    ("form", "indices", "values", "wrong"),
    [
        (FLAT, [1, 0], [1.0, 2.0], "indices that do not ascend"),
        (FLAT, [0, 1], [1.0, 0.0], "a value of 0"),
        (PADDED, [[1, 2]], [[1.0, 0.0]], "padding that is not index 0"),
        (PADDED, [[0, 1, 2]], [[1.0, 2.0, 3.0]], "3 active, more than 2"),
    ],
)
def test_an_answer_that_is_no_sparse_vector_says_so(form: str, indices: Any, values: Any, wrong: str) -> None:
    signature = SparseSignature("s", Prompt(None, ""), form, 4, 2)
    outputs = {"s/indices": np.array(indices), "s/values": np.array(values), "s/row_splits": np.array([0, 2])}
    found = _dense(signature, 0, outputs)
    assert isinstance(found, str)
    assert wrong in found
