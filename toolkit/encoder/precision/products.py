"""What an encoder asks of its linear products, whatever they are computed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Products"]


class Products(Protocol):
    """The linear products of an encoder, by the names of its parameters (``layer_0/qkv``)."""

    def parameter(self, name: str) -> tf.Tensor:
        """A float32 parameter that takes part in no product: of a LayerNorm."""

    def embedding(self, name: str, ids: tf.Tensor) -> tf.Tensor:
        """Rows ``ids``, int32 ``[n]``, of a table: float32 ``[n, hidden]``."""

    def linear(self, x: Any, name: str, *, activation: bool = False, residual: tf.Tensor | None = None) -> Any:
        """``x @ kernel + bias``, ``[n, in]`` to ``[n, out]``, with the encoder's activation or ``residual`` added.

        Where there is no such parameter as ``name``/bias, none is added.

        With ``residual``, float32 ``[n, out]``, the result is float32. Without, its form is the products' own affair:
        what attention takes apart and puts together again has the dtype that they chose, and the result of an
        activation may only be given to the next product.
        """

    def halves(self, x: Any, name: str) -> tuple[Any, Any]:
        """The two halves of ``linear(x, name)``, ``[n, out / 2]`` each."""

    def dropout(self, x: tf.Tensor, rate: float) -> tf.Tensor:
        """Where the model drops values in training: ``x`` itself, unless these products are for training."""
