"""The numbers of an int8 product: scaling and range lose little, outliers are kept out."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.encoder.precision.calibration import Inputs
from toolkit.encoder.precision.quantization import quantize


def inputs(sample: np.ndarray) -> Inputs:
    return Inputs(sample, np.minimum(sample.min(0), 0), np.maximum(sample.max(0), 0))


def example(outlier: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    sample = random.standard_normal((200, 64)).astype(np.float32)
    sample[:, 3] *= outlier
    return sample, random.standard_normal((64, 32)).astype(np.float32)


def test_weights_are_whole_numbers_within_range_and_stand_for_the_kernel() -> None:
    sample, kernel = example()
    numbers = quantize(kernel, inputs(sample))
    assert numbers.kernel.dtype == np.int8
    assert np.abs(numbers.kernel.astype(int)).max() == 127
    scale = np.ones(64) if numbers.scale is None else numbers.scale
    restored = numbers.kernel * (numbers.largest / 127) * scale[:, None]
    assert np.abs(restored - kernel).max() < 0.03
    assert numbers.error < 0.02


def test_a_channel_of_large_values_is_scaled_down_rather_than_cut() -> None:
    sample, kernel = example(outlier=60)
    numbers = quantize(kernel, inputs(sample))
    assert numbers.scale is not None
    assert numbers.scale[3] < np.median(numbers.scale) / 4
    assert numbers.error < quantize(kernel, inputs(sample), scaling=False).error / 3


def test_outliers_are_kept_in_float32_and_out_of_the_int8_weights() -> None:
    sample, kernel = example(outlier=60)
    numbers = quantize(kernel, inputs(sample), outliers=4)
    assert 3 in numbers.outliers
    assert len(numbers.outliers) == 4
    assert not numbers.kernel[numbers.outliers].any()
    np.testing.assert_array_equal(numbers.outlier_kernel, kernel[numbers.outliers])
    assert numbers.error < quantize(kernel, inputs(sample)).error


def test_weights_are_rounded_so_that_outputs_change_less_than_by_the_nearest() -> None:
    random = np.random.default_rng(0)
    sample = (random.standard_normal((400, 8)) @ random.standard_normal((8, 64))).astype(np.float32)
    kernel = random.standard_normal((64, 32)).astype(np.float32)
    numbers = quantize(kernel, inputs(sample), scaling=False)
    steps = numbers.largest / 127
    nearest = np.clip(np.round(kernel / steps), -127, 127)
    # on tokens like the sample's that were not in it
    fresh = sample[:200] + sample[200:]
    ours, plain = (np.linalg.norm(fresh @ (rounded * steps - kernel)) for rounded in (numbers.kernel, nearest))
    assert ours < 0.7 * plain


def test_a_token_of_huge_outputs_does_not_decide_alone() -> None:
    sample, kernel = example()
    calm = quantize(kernel, inputs(sample), scaling=False)
    sample[0] *= 50
    numbers = quantize(kernel, inputs(sample), scaling=False)
    # by its share of all outputs' norm nothing but that token would count, and no value of its would be cut
    assert numbers.high < 0.7 * sample.max()
    assert calm.error < numbers.error


def test_the_lowest_value_is_not_cut_with_the_highest() -> None:
    random = np.random.default_rng(0)
    sample = random.standard_exponential((200, 64)).astype(np.float32) ** 2 - np.float32(0.17)
    numbers = quantize(random.standard_normal((64, 32)).astype(np.float32), inputs(sample), scaling=False)
    assert numbers.high < 0.9 * sample.max()
    assert numbers.low == pytest.approx(sample.min())


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_input_and_a_zero_kernel_give_finite_numbers(value: float) -> None:
    sample = np.full((10, 8), value, np.float32)
    for kernel in (np.zeros((8, 4), np.float32), np.ones((8, 4), np.float32)):
        numbers = quantize(kernel, inputs(sample))
        assert np.isfinite([numbers.low, numbers.high, numbers.error]).all()
        assert numbers.low < numbers.high
