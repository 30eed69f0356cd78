"""What every encoder family is: numbers, an account of its tensors, hidden states on packed tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["EncoderSpec", "padded_positions"]

Array = npt.NDArray[np.float32]

LAYER_PRODUCTS = ("qkv", "attention_output", "intermediate", "output")
"""The products of a transformer layer, in the order of their use."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(ABC):
    """An encoder as its ``transformers`` class computes it, without the layers behind the last hidden state.

    ``family`` is the checkpoint's ``model_type``. ``max_positions`` are the positions that there may be (0: texts may
    be of any length), and ``type_vocab_size`` the token types (1: only type 0, or none). The
    dropout rates matter only where the model is trained further. ``tensors`` are the checkpoint's, by name, and
    ``adapter`` is what is added to some of them: ``[rows, rank]`` and ``[rank, columns]``, whose product it is.

    A family is a subclass in a file of its own, in the table of :mod:`toolkit.encoder.families`. It keeps these names
    of parameters: ``embeddings/word`` is the table of words; a product ``p`` has ``p/kernel`` ``[in, out]`` and
    ``p/bias``; products whose result is added to a residual end in ``output``.
    """

    model_types: ClassVar[tuple[str, ...]]
    """What a configuration's ``model_type`` may be."""
    title: ClassVar[str]
    """Whose architecture it is, for the table that people read."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """What the names begin with of stored numbers that training does not change."""
    any_mask: ClassVar[bool] = True
    """Whether a caller's ``attention_mask`` may have holes. Not so where tokens are counted or their distance counts:
    packed tokens do not know how many the mask left out between them."""
    any_look: ClassVar[bool] = True
    """Whether tokens that others do not look at have hidden states of their own, as those of an expanded query have
    in ColBERT. Not so where the original computes nothing there."""

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    activation: str
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    tensors: Mapping[str, Array] = field(repr=False, default_factory=dict)
    adapter: Mapping[str, tuple[Array, Array]] = field(repr=False, default_factory=dict)

    @classmethod
    @abstractmethod
    def read(cls, module: RawModule) -> Self:
        """The spec of a checkpoint's Transformer module.

        Raises ``UnsupportedError`` for a field that is not computed here, ``SourceError`` for one that makes no sense.
        """

    def __str__(self) -> str:
        return f"{self.family}, {self.num_layers} layers, hidden size {self.hidden_size}, {self.num_heads} heads"

    @property
    def max_length(self) -> int | None:
        """The most tokens that a text may have, special tokens included; ``None`` where the encoder has no limit."""
        return self.max_positions or None

    @property
    def sight(self) -> int | None:
        """How many places before itself a token sees in each layer, at least; ``None`` where it sees all."""
        return None

    @property
    def num_key_heads(self) -> int:
        """The heads of keys and values, each of which may serve several of queries."""
        return self.num_heads

    @property
    def attention_scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        return float((self.hidden_size // self.num_heads) ** -0.5)

    def residual_dropout(self, product: str) -> float:
        """The dropout rate of what a product adds to a residual."""
        return self.hidden_dropout

    def positions(self, ids: tf.Tensor, columns: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
        """Position ids of rows of tokens laid end to end, int32 ``[total]`` as all three; ``columns`` count from 0."""
        return columns

    @abstractmethod
    def stored(self) -> dict[str, Array]:
        """The checkpoint's numbers in the graph's order: weights as ``[in, out]``, query, key and value side by side in
        one product. They are moved about only, so that they can be put back (:mod:`toolkit.encoder.places`).

        Accounts for every tensor of the checkpoint. Raises ``SourceError`` for a missing, misshapen or left-over one.
        """

    def derived(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The graph's parameters, of what ``stored`` names: arrays, or tensors where they are trained further."""
        return dict(stored)

    def parameters(self) -> dict[str, Array]:
        """The graph's parameters. Raises ``SourceError`` as ``stored`` does."""
        return {name: np.asarray(value) for name, value in self.derived(self.stored()).items()}

    def product_names(self) -> tuple[str, ...]:
        """The linear products, in the order in which ``hidden_states`` first asks for them."""
        return tuple(f"layer_{layer}/{part}" for layer in range(self.num_layers) for part in LAYER_PRODUCTS)

    @abstractmethod
    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        """The last hidden state of a chunk's packed tokens, float32 ``[padded_total, hidden]``, or ``[filled rows,
        hidden]`` where it is asked for one token of each row.

        ``products`` computes with what ``parameters`` names. ``fused_norm`` says that the optimizer of TensorFlow 2.17
        or later will see this, and not a training step or eager mode.
        """


def padded_positions(spec: EncoderSpec, input_ids: tf.Tensor) -> tf.Tensor:
    """Position ids of padded int32 ``[batch, length]`` ids, as the original numbers them, padding included."""
    import tensorflow as tf

    shape = tf.shape(input_ids)
    columns = tf.tile(tf.range(shape[1])[None, :], tf.stack([shape[0], 1]))
    splits = tf.range(shape[0] + 1) * shape[1]
    flat = spec.positions(tf.reshape(input_ids, [-1]), tf.reshape(columns, [-1]), splits)
    return tf.reshape(flat, shape)
