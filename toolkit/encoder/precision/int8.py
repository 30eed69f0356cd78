"""Products of oneDNN's int8 kernels, as stock TensorFlow on x86 has them.

``_QuantizedMatMul`` multiplies uint8 by int8 and adds bias, activation or residual before its result leaves the
registers. The op exists in TensorFlow 2.12 and later; its kernels only where TensorFlow was built with oneDNN for x86.
An activation that the next product in int8 reads is written as that one's uint8: four times fewer bytes, and no pass to
quantize them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense
from toolkit.encoder.precision.quantization import Quantization

__all__ = ["FUSED_ACTIVATIONS", "Int8Product"]

# What the kernel computes itself, by the names of toolkit.encoder.layers; other activations follow it.
FUSED_ACTIVATIONS = {"gelu": "GeluExact", "gelu_tanh": "GeluApproximate", "relu": "Relu"}


class _Handed(NamedTuple):
    """An activation as the next product wants it: its uint8 ``[n, in]``, and its outliers, float32 ``[n, k]``."""

    values: tf.Tensor
    apart: tf.Tensor


class Int8Product:
    """``[n, in]`` of any float type times int8 ``kernel`` ``[in, out]``, as ``numbers`` say: float32 ``[n, out]``.

    The activation becomes what the product whose numbers are ``following`` takes without quantizing it, if any.
    """

    def __init__(
        self,
        kernel: tf.Tensor,
        bias: tf.Tensor | None,
        numbers: Quantization,
        activation: str,
        following: Quantization | None = None,
    ) -> None:
        self._kernel = kernel
        self._numbers = numbers
        self._following = following
        # the kernel adds one always
        self._bias = tf.zeros([numbers.kernel.shape[1]]) if bias is None else bias
        self._activation = activation
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def __call__(self, x: tf.Tensor | _Handed, *, activation: bool, residual: tf.Tensor | None) -> tf.Tensor | _Handed:
        if not tf.executing_eagerly():
            return self._call(x, activation, residual)
        # The op exists in graphs only; so here it gets one of its own.
        spec = tf.nest.map_structure(lambda part: tf.TensorSpec([None, part.shape[1]], part.dtype), x)
        if residual is None:
            return self._graph(activation, spec)(x)
        return self._graph(activation, spec, tf.TensorSpec([None, residual.shape[1]], tf.float32))(x, residual)

    def _graph(self, activation: bool, *specs: Any) -> Any:
        def call(x: Any, residual: tf.Tensor | None = None) -> Any:
            return self._call(x, activation, residual)

        if (activation, specs) not in self._graphs:
            self._graphs[activation, specs] = tf.function(call, input_signature=specs, autograph=False)
        return self._graphs[activation, specs]

    def _call(self, x: tf.Tensor | _Handed, activation: bool, residual: tf.Tensor | None) -> tf.Tensor | _Handed:
        numbers, bias = self._numbers, tf.convert_to_tensor(self._bias)
        if not isinstance(x, _Handed):
            x = tf.cast(x, tf.float32)
        if residual is not None and numbers.outliers.size:
            apart = x.apart if isinstance(x, _Handed) else tf.gather(x, numbers.outliers, axis=1)
            residual = dense(apart, tf.constant(numbers.outlier_kernel), bias) + residual
            bias = tf.zeros([numbers.kernel.shape[1]])
        given, kernel = self._quantized(x), tf.bitcast(tf.convert_to_tensor(self._kernel), tf.qint8)
        fused = FUSED_ACTIVATIONS.get(self._activation) if activation else None
        tensors = [given[0], kernel, bias, *([] if residual is None else [residual])]
        ranges = [*given[1:], tf.constant(-numbers.largest), tf.constant(numbers.largest)]
        steps = ["BiasAdd", *([fused] if fused else []), *(["Add"] if residual is not None else [])]
        if fused and (following := self._following) is not None and following.handover is not None:
            wanted = [tf.constant(following.low, tf.float32), tf.constant(following.high, tf.float32)]
            y = _quantized_matmul(tensors, [*ranges, *wanted], [*steps, "Requantize"], tf.quint8)
            columns = following.handover
            apart = dense(x, tf.constant(columns.kernel), tf.constant(columns.bias))
            values = tf.ensure_shape(tf.bitcast(y, tf.uint8), [None, numbers.kernel.shape[1]])
            return _Handed(values, ACTIVATION_FUNCTIONS[self._activation](apart))
        y = _quantized_matmul(tensors, ranges, [*steps, "Dequantize"], tf.float32)
        y = tf.ensure_shape(y, [None, numbers.kernel.shape[1]])
        return ACTIVATION_FUNCTIONS[self._activation](y) if activation and not fused else y

    def _quantized(self, x: tf.Tensor | _Handed) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What is given, as quint8, and what the lowest and the highest stand for."""
        numbers = self._numbers
        low, high = tf.constant(numbers.low, tf.float32), tf.constant(numbers.high, tf.float32)
        if isinstance(x, _Handed):
            return tf.bitcast(x.values, tf.quint8), low, high
        scaled = x if numbers.scale is None else x * numbers.scale
        given = tf.raw_ops.QuantizeV2(input=scaled, min_range=low, max_range=high, T=tf.quint8, mode="MIN_FIRST")
        return given.output, given.output_min, given.output_max


def _quantized_matmul(
    device_inputs: list[tf.Tensor], host_inputs: list[tf.Tensor], fused_ops: list[str], out: tf.DType
) -> tf.Tensor:
    """The op ``_QuantizedMatMul``, which TensorFlow has no Python function for: ``out`` of uint8 times int8."""

    def types(tensors: Sequence[tf.Tensor]) -> AttrValue:
        return AttrValue(list=AttrValue.ListValue(type=[tensor.dtype.as_datatype_enum for tensor in tensors]))

    def type_of(dtype: tf.DType) -> AttrValue:
        return AttrValue(type=dtype.as_datatype_enum)

    range_types = [] if out == tf.float32 else [tf.float32, tf.float32]
    attributes = {
        "Tdevice_inputs": types(device_inputs),
        "Thost_inputs": types(host_inputs),
        "Tdevice_outputs": AttrValue(list=AttrValue.ListValue(type=[out.as_datatype_enum])),
        "Thost_outputs": AttrValue(list=AttrValue.ListValue(type=[dtype.as_datatype_enum for dtype in range_types])),
        "T1": type_of(tf.quint8),
        "T2": type_of(tf.qint8),
        "Tbias": type_of(tf.float32),
        "U": type_of(tf.float32),
        "Tout": type_of(out),
        "is_weight_const": AttrValue(b=True),
        "is_bias_const": AttrValue(b=True),
        "fused_ops": AttrValue(list=AttrValue.ListValue(s=[name.encode() for name in fused_ops])),
        "input_quant_mode": AttrValue(s=b"MIN_FIRST"),
        "output_quant_mode": AttrValue(s=b"MIN_FIRST"),
    }
    operation = tf.compat.v1.get_default_graph().create_op(
        "_QuantizedMatMul",
        [*device_inputs, *host_inputs],
        [out, *range_types],
        attrs=attributes,
        name="quantized_matmul",
    )
    return operation.outputs[0]
