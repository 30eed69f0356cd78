"""A quantized value is right if the original's float lies within the bound of it, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from toolkit.proof.quantized import compare_quantized
from toolkit.signatures import QUANTIZED, Prompt, TextSignature

DIM, BOUND = 20, 1e-4
RANGES = np.stack([np.full(DIM, -1), np.full(DIM, 1)]).astype(np.float32)
FLOATS = np.linspace(-0.9, 0.95, DIM).astype(np.float32)


def signature(kind: str) -> TextSignature:
    return TextSignature(f"embedding_{kind}", Prompt(None, ""), DIM, quantized=kind)


def quantized(kind: str, floats: np.ndarray) -> np.ndarray:
    return np.asarray(quantize_embeddings(floats[None], kind, RANGES))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_equal_values_are_right_and_others_are_told_by_their_place(kind: str) -> None:
    ours = quantized(kind, FLOATS)
    assert compare_quantized(signature(kind), ours, FLOATS, BOUND, RANGES) == (0, None)
    other = FLOATS.copy()
    other[13] = -other[13]
    off, wrong = compare_quantized(signature(kind), quantized(kind, other), FLOATS, BOUND, RANGES)
    assert (off, str(wrong).split(" is ")[0]) == (0, "number 13")


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_float_within_the_bound_of_a_step_may_fall_on_either_side_and_is_counted(kind: str) -> None:
    floats = FLOATS.copy()
    floats[4] = 0 if kind.endswith("binary") else -1 + 2 / 255 * 100  # where a step begins
    for change, passes in ((BOUND / 2, True), (-BOUND / 2, True), (3 * BOUND, False), (-3 * BOUND, False)):
        ours = floats.copy()
        ours[4] += change
        off, wrong = compare_quantized(signature(kind), quantized(kind, ours), floats - change, BOUND / 3, RANGES)
        assert wrong is not None, "further from the step than the bound"
        off, wrong = compare_quantized(signature(kind), quantized(kind, ours), floats - change, 2 * BOUND, RANGES)
        assert (wrong is None) == passes
        assert off == passes


@pytest.mark.parametrize("kind", QUANTIZED)
def test_another_dtype_or_size_is_wrong(kind: str) -> None:
    ours = quantized(kind, FLOATS)
    for other in (ours.astype(np.int32), ours[:-1]):
        assert "instead of" in str(compare_quantized(signature(kind), other, FLOATS, BOUND, RANGES)[1])


def test_a_bit_that_fills_up_a_byte_is_zero() -> None:
    ours = quantized("ubinary", FLOATS)
    ours[-1] |= 1
    assert compare_quantized(signature("ubinary"), ours, FLOATS, BOUND, RANGES)[1] is not None
