"""Products of oneDNN's int8 kernels, as stock TensorFlow on x86 has them.

``_QuantizedMatMul`` multiplies uint8 by int8 and adds bias, activation or residual before its result leaves the
registers. The op exists in TensorFlow 2.12 and later; its kernels only where TensorFlow was built with oneDNN for x86.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense
from toolkit.encoder.precision.quantization import Quantization

__all__ = ["Int8Product"]

# What the kernel computes itself, by the names of toolkit.encoder.layers; other activations follow it.
_FUSED_ACTIVATIONS = {"gelu": "GeluExact", "gelu_tanh": "GeluApproximate", "relu": "Relu"}


class Int8Product:
    """``[n, in]`` of any float type times int8 ``kernel`` ``[in, out]``, as ``numbers`` say: float32 ``[n, out]``."""

    def __init__(self, kernel: tf.Tensor, bias: tf.Tensor | None, numbers: Quantization, activation: str) -> None:
        self._kernel = kernel
        self._numbers = numbers
        # the kernel adds one always
        self._bias = tf.zeros([numbers.kernel.shape[1]]) if bias is None else bias
        self._activation = activation
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, x: tf.Tensor, *, activation: bool, residual: tf.Tensor | None) -> tf.Tensor:
        if not tf.executing_eagerly():
            return self._call(x, activation, residual)
        # The op exists in graphs only; so here it gets one of its own.
        rows, columns = self._numbers.kernel.shape
        given = [tf.TensorSpec([None, rows], x.dtype), activation]
        if residual is None:
            return self._graph(*given, None)(x)
        return self._graph(*given, tf.TensorSpec([None, columns], tf.float32))(x, residual)

    def _graph(self, *given: Any) -> Any:
        if given not in self._graphs:
            self._graphs[given] = tf.function(self._call, autograph=False).get_concrete_function(*given)
        return self._graphs[given]

    def _call(self, x: tf.Tensor, activation: bool, residual: tf.Tensor | None) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        numbers, bias = self._numbers, tf.convert_to_tensor(self._bias)
        if residual is not None and numbers.outliers.size:
            apart = tf.gather(x, numbers.outliers, axis=1)
            residual = dense(apart, tf.constant(numbers.outlier_kernel), bias) + residual
            bias = tf.zeros([numbers.kernel.shape[1]])
        given = tf.raw_ops.QuantizeV2(
            input=x if numbers.scale is None else x * numbers.scale,
            min_range=tf.constant(numbers.low, tf.float32),
            max_range=tf.constant(numbers.high, tf.float32),
            T=tf.quint8,
            mode="MIN_FIRST",
        )
        kernel = tf.bitcast(tf.convert_to_tensor(self._kernel), tf.qint8)
        fused = _FUSED_ACTIVATIONS.get(self._activation) if activation else None
        steps = ["BiasAdd", *([fused] if fused else []), *(["Add"] if residual is not None else []), "Dequantize"]
        y = _quantized_matmul(
            [given.output, kernel, bias, *([] if residual is None else [residual])],
            [given.output_min, given.output_max, tf.constant(-numbers.largest), tf.constant(numbers.largest)],
            steps,
        )
        y = tf.ensure_shape(y, [None, numbers.kernel.shape[1]])
        return ACTIVATION_FUNCTIONS[self._activation](y) if activation and not fused else y


def _quantized_matmul(device_inputs: list[tf.Tensor], host_inputs: list[tf.Tensor], fused_ops: list[str]) -> tf.Tensor:
    """The op ``_QuantizedMatMul``, which TensorFlow has no Python function for: float32 of uint8 times int8."""

    def types(tensors: Sequence[tf.Tensor]) -> AttrValue:
        return AttrValue(list=AttrValue.ListValue(type=[tensor.dtype.as_datatype_enum for tensor in tensors]))

    def type_of(dtype: tf.DType) -> AttrValue:
        return AttrValue(type=dtype.as_datatype_enum)

    attributes = {
        "Tdevice_inputs": types(device_inputs),
        "Thost_inputs": types(host_inputs),
        "Tdevice_outputs": AttrValue(list=AttrValue.ListValue(type=[tf.float32.as_datatype_enum])),
        "Thost_outputs": types([]),
        "T1": type_of(tf.quint8),
        "T2": type_of(tf.qint8),
        "Tbias": type_of(tf.float32),
        "U": type_of(tf.float32),
        "Tout": type_of(tf.float32),
        "is_weight_const": AttrValue(b=True),
        "is_bias_const": AttrValue(b=True),
        "fused_ops": AttrValue(list=AttrValue.ListValue(s=[name.encode() for name in fused_ops])),
        "input_quant_mode": AttrValue(s=b"MIN_FIRST"),
    }
    operation = tf.compat.v1.get_default_graph().create_op(
        "_QuantizedMatMul",
        [*device_inputs, *host_inputs],
        [tf.float32],
        attrs=attributes,
        name="quantized_matmul",
    )
    return operation.outputs[0]
