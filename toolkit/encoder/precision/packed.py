"""Products with weights in oneDNN's own order, which is made at the first call and kept.

With few rows a product takes as long as its weights take to arrive, and oneDNN otherwise puts them into its order at
every call. It keeps that order of what it is told is constant, which the graph optimizer tells it of constants of the
graph alone: they would be in each copy of the graph that a server makes. So the kernel that the optimizer would choose
is named here, with variables as its weights. The order that is kept is that of the first call. In float32 it differs
for fewer than 8 rows, up to 64 and more: all calls of one product must be of one of these classes. In bfloat16 it is
one for all, and another kernel works on it (``brgemm`` instead of ``gemm``), which is faster at any number of rows.

The graph optimizer would not choose the kernel where the processor cannot run it, which in bfloat16 is one without
AVX512: named, it ends the process there.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.encoder.target import PACKED_KERNEL

__all__ = ["PackedProducts", "packed_product"]

# What the kernel computes itself, by the names of toolkit.encoder.layers; other activations follow it.
_FUSED_ACTIVATIONS = {"gelu": "GeluExact", "gelu_tanh": "GeluApproximate", "relu": "Relu", "tanh": "Tanh"}


class PackedProducts(Float32Products):
    """Products in float32 of tensors that never change: each by 8 to 64 rows, or by fewer always, as those behind the
    last layer's attention for one token."""

    def linear(
        self, x: tf.Tensor, name: str, *, activation: bool = False, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        function = self._spec.activation if activation else "linear"
        added = residual if function == "linear" else None
        y = packed_product(x, self._params[f"{name}/kernel"], self._params.get(f"{name}/bias"), function, added)
        return y if residual is added else y + residual


def packed_product(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, function: str, residual: tf.Tensor | None = None
) -> tf.Tensor:
    """``function``, a name of ``ACTIVATION_FUNCTIONS``, of ``x @ kernel + bias``, in the one type of all of them.

    ``kernel`` never changes. ``residual`` is added where the function is linear.
    """
    fused = _FUSED_ACTIVATIONS.get(function)
    added = [tf.zeros([kernel.shape[1]], x.dtype) if bias is None else bias]  # the kernel adds one always
    steps = ["BiasAdd"]
    if fused:
        steps.append(fused)
    elif residual is not None:
        steps.append("Add")
        added.append(residual)
    attributes = {
        "T": AttrValue(type=x.dtype.as_datatype_enum),
        "num_args": AttrValue(i=len(added)),
        "fused_ops": AttrValue(list=AttrValue.ListValue(s=[step.encode() for step in steps])),
        "is_filter_const": AttrValue(b=True),
        "_kernel": AttrValue(s=b"MklNameChangeOp"),
    }
    operation = tf.compat.v1.get_default_graph().create_op(
        PACKED_KERNEL, [x, kernel, *added], [x.dtype], attrs=attributes, name="packed_product"
    )
    y = tf.ensure_shape(operation.outputs[0], [x.shape[0], kernel.shape[1]])
    return y if fused else ACTIVATION_FUNCTIONS[function](y)
