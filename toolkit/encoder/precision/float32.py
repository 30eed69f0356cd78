"""Products in float32: exact, on any processor, and trainable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense
from toolkit.encoder.precision.halves import HALVES, cut

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.family import EncoderSpec

__all__ = ["Float32Products"]


class Float32Products:
    """Products of the tensors in ``params``, variables or what was read of them, `halved` or not. Tables may be of
    another float type.

    ``dropout`` (values, rate) stands where the model has it in training.
    """

    def __init__(
        self,
        params: Mapping[str, tf.Tensor],
        spec: EncoderSpec,
        dropout: Callable[[tf.Tensor, float], tf.Tensor] = lambda x, rate: x,
    ) -> None:
        self._params = params
        self._spec = spec
        self.dropout = dropout

    def parameter(self, name: str) -> tf.Tensor:
        return self._params[name]

    def embedding(self, name: str, ids: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(tf.gather(self._params[name], ids), tf.float32)

    def halves(self, x: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        first, second = (f"{name}/{half}" for half in HALVES)
        if f"{first}/kernel" not in self._params:
            return cut(self.linear(x, name))
        return self.linear(x, first), self.linear(x, second)

    def linear(
        self, x: tf.Tensor, name: str, *, activation: bool = False, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        y = dense(x, self._params[f"{name}/kernel"], self._params.get(f"{name}/bias"))
        if activation:
            y = ACTIVATION_FUNCTIONS[self._spec.activation](y)
        return y if residual is None else self.dropout(y, self._spec.residual_dropout(name)) + residual
