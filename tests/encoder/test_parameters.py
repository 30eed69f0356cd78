"""Parameters are held as few variables and come back by their names."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

from toolkit.encoder.parameters import Parameters

ARRAYS = {
    "table": np.arange(12, dtype=np.float32).reshape(4, 3),
    "layer_0/kernel": np.ones([3, 2], np.int8),
    "layer_1/kernel": np.arange(6).reshape(2, 3).T.astype(tf.bfloat16.as_numpy_dtype),
    "layer_0/bias": np.array([1, 2], np.float32),
    "layer_0/gamma": np.array([3, 4, 5], np.float32),
    "layer_1/bias": np.array([6, 7], tf.bfloat16.as_numpy_dtype),
}


def test_every_parameter_comes_back_with_its_shape_and_dtype() -> None:
    parameters = Parameters(dict(ARRAYS))
    found = parameters.named(parameters.read())
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name].numpy(), array)


def test_arrays_are_let_go_once_variables_hold_them() -> None:
    arrays = dict(ARRAYS)
    Parameters(arrays)
    assert not arrays


@pytest.mark.parametrize("dtype", [np.float32, tf.bfloat16.as_numpy_dtype], ids=["float32", "bfloat16"])
def test_memory_goes_back_to_the_system_with_the_variables(dtype: Any) -> None:
    def resident() -> int:
        gc.collect()
        return psutil.Process().memory_info().rss

    before = resident()
    # one number each, so that only the variables take memory: arrays of numpy may stay in the heap of a large process
    one = np.ones([], dtype)
    parameters = Parameters({f"layer_{number}/kernel": np.broadcast_to(one, [4_000, 5_000]) for number in range(4)})
    held = 80_000_000 * np.dtype(dtype).itemsize
    assert resident() - before > 0.8 * held
    del parameters
    assert resident() - before < 0.2 * held


def test_vectors_of_one_dtype_share_a_variable() -> None:
    assert sorted(variable.shape.rank for variable in Parameters(dict(ARRAYS)).variables) == [1, 1, 2, 2, 2]


def test_shapes_are_known_inside_a_function_that_is_called() -> None:
    parameters = Parameters(dict(ARRAYS))
    shapes = {}

    @tf.function(autograph=False)
    def read() -> tf.Tensor:
        found = parameters.named(parameters.read())
        shapes.update({name: tuple(value.shape) for name, value in found.items()})
        return tf.reduce_sum(found["layer_0/bias"])

    assert float(read()) == 3
    assert shapes == {name: array.shape for name, array in ARRAYS.items()}
