"""Dense: a linear layer with an activation, as sentence-transformers' ``Dense`` (release 6.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError, UnsupportedError
from toolkit.heads.head import HeadSpec, features, no_leftovers, tensor

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["DENSE_ACTIVATIONS", "DenseSpec"]

Array = npt.NDArray[np.float32]

# torch class of a Dense module's activation -> name of our activation, with that class's default options
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "linear",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.ReLU6": "relu6",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Mish": "mish",
    "torch.nn.modules.activation.ELU": "elu",
    "torch.nn.modules.activation.SELU": "selu",
    "torch.nn.modules.activation.LeakyReLU": "leaky_relu",
    "torch.nn.modules.activation.Softplus": "softplus",
    "torch.nn.modules.activation.Softsign": "softsign",
    "torch.nn.modules.activation.Hardtanh": "hardtanh",
}


@dataclass(frozen=True)
class DenseSpec(HeadSpec):
    """``activation(x @ weight + bias)``, plus a residual (projected where the sizes differ).

    ``weight`` is ``[in, out]``, ``bias`` ``[out]`` or ``None``; ``residual_weight`` is ``[in, out]`` or ``None``.
    """

    module_type: ClassVar = "Dense"
    stored: ClassVar = {"kernel": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"}

    in_features: int
    out_features: int
    activation: str
    residual: bool
    weight: Array = field(repr=False)
    bias: Array | None = field(repr=False)
    residual_weight: Array | None = field(repr=False, default=None)

    def __str__(self) -> str:
        residual = ", residual" if self.residual else ""
        return f"dense       {self.in_features} to {self.out_features}, {self.activation}{residual}"

    @classmethod
    def read(cls, module: RawModule, dim: int) -> Self:
        fields = Fields(module)
        size_in, size_out = fields.positive("in_features"), fields.positive("out_features")
        if size_in != dim:
            raise SourceError(f"{module.file}: in_features is {size_in}, but the module before yields {dim}")
        activation = str(module.config.get("activation_function"))
        if activation not in DENSE_ACTIVATIONS:
            raise UnsupportedError(module.file, "activation_function", activation, DENSE_ACTIVATIONS)
        shown, default = module.config.get("activation_repr"), module.config.get("activation_default_repr")
        if shown != default:
            supported = f"{default}, the class's default options"
            raise UnsupportedError(module.file, "activation_function", shown, supported)
        has_bias, residual = bool(module.config.get("bias", True)), bool(module.config.get("use_residual", False))
        projected = residual and size_in != size_out
        used = ["linear.weight", *(["linear.bias"] if has_bias else []), *(["residual.weight"] if projected else [])]
        no_leftovers(module, *used)

        def matrix(name: str) -> Array:
            return np.ascontiguousarray(tensor(module, name, (size_out, size_in)).T)

        return cls(
            in_features=size_in,
            out_features=size_out,
            activation=DENSE_ACTIVATIONS[activation],
            residual=residual,
            weight=matrix("linear.weight"),
            bias=tensor(module, "linear.bias", (size_out,)) if has_bias else None,
            residual_weight=matrix("residual.weight") if projected else None,
            **features(module),
        )

    def width(self, dim: int) -> int:
        return self.out_features

    def parameters(self) -> dict[str, Array]:
        found = {"kernel": self.weight, "bias": self.bias, "residual": self.residual_weight}
        return {name: value for name, value in found.items() if value is not None}

    def apply(self, params: Mapping[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense

        y = ACTIVATION_FUNCTIONS[self.activation](dense(x, params["kernel"], params.get("bias")))
        if not self.residual:
            return y
        return y + (x if self.residual_weight is None else dense(x, params["residual"], None))
