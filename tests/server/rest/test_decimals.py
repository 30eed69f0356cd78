"""Numbers are written with TF Serving's digits, in bulk as one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from toolkit.server.rest.decimals import decimal, decimals


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2, "2.0"),
        (-0.693147182, "-0.693147182"),
        (0.2, "0.2"),
        (1e10, "1e+10"),
        (3e-5, "3e-05"),
        (16777216, "16777216.0"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (-0.0, "-0.0"),
    ],
)
def test_float32_is_written_as_recorded_servers_write_it(value: float, text: str) -> None:
    assert decimal(np.float32(value)) == text
    assert decimals(np.array([value], np.float32)) == [text]


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_bulk_equals_one_by_one_and_reads_back_float32(values: np.ndarray) -> None:
    texts = decimals(values)
    assert texts == [decimal(value) for value in values]
    for text, value in zip(texts, values, strict=True):
        if math.isfinite(value):
            assert np.float32(text) == value


@given(arrays.arrays(np.float64, st.integers(0, 40), elements=st.floats()))
def test_bulk_equals_one_by_one_float64(values: np.ndarray) -> None:
    assert decimals(values) == [decimal(value) for value in values]


def test_short_numbers_of_all_magnitudes_stay_short_in_bulk() -> None:
    values = np.array(
        [float(f"{mantissa}e{power}") for mantissa in (1.5, 9.99999, 1.23456) for power in range(-38, 38)]
    )
    single = values.astype(np.float32)
    assert decimals(single) == [decimal(value) for value in single]
    assert all(len(text.replace("-", "").replace("e", "")) < 14 for text in decimals(single))
