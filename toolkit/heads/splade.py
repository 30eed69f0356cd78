"""SPLADE pooling: the numbers that a masked language model gives each word at each token, to one sparse vector.

As sentence-transformers' ``SpladePooling`` (6.2) computes it (Formal et al. 2021, arXiv:2107.05720 for ``sum`` and
arXiv:2109.10086 for ``max``; ``log1p_relu`` is arXiv:2504.14839).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from toolkit.errors import UnsupportedError
from toolkit.heads.head import RowHead, with_norm_bias
from toolkit.heads.masked_lm import MaskedLMSpec

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.source.checkpoint import RawModule

__all__ = ["SPLADE_ACTIVATIONS", "SPLADE_STRATEGIES", "Splade", "SpladePoolingSpec", "read_splade"]

Array = npt.NDArray[np.float32]

SPLADE_STRATEGIES = ("max", "sum")
SPLADE_ACTIVATIONS = ("relu", "log1p_relu")

WORDS = 4096
"""Words whose numbers are in memory at a time, for all tokens of a chunk: some megabytes whatever the vocabulary is."""


@dataclass(frozen=True)
class SpladePoolingSpec:
    """The ``strategy`` over tokens, and the ``activation`` of each number before log1p."""

    strategy: str
    activation: str

    def __str__(self) -> str:
        return f"splade      {self.strategy} over tokens of log1p of {self.activation}"


@dataclass(frozen=True)
class Splade(RowHead):
    """A head that says of each token what its words are, and how that becomes one vector."""

    name: ClassVar[str] = "splade"

    masked_lm: MaskedLMSpec
    pooling: SpladePoolingSpec

    @property
    def names(self) -> tuple[str, ...]:
        """Of the two, in order."""
        return ("1_masked_lm", "2_spladepooling")

    def __str__(self) -> str:
        return f"{self.masked_lm}\n{self.pooling}"

    @property
    def stored(self) -> Mapping[str, str]:  # type: ignore[override]  # of the head's spec
        return self.masked_lm.stored

    @property
    def weights(self) -> Mapping[str, Array]:
        found = self.masked_lm.tensors
        return {name: found[name] for name in self.stored if name in found}

    def derived(self, weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        found = with_norm_bias(weights)
        found.setdefault("words_bias", np.zeros(self.masked_lm.vocab_size, np.float32))
        return found

    def apply(self, params: Mapping[str, tf.Tensor], hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
        """Hidden states ``[padded_total, hidden]`` of a chunk to float32 ``[rows, vocab]``; ``words`` are among
        ``params``, also if they are the encoder's."""
        x = self.masked_lm.transform(params, hidden)
        return _splade(self.pooling, x, params["words"], params["words_bias"], chunk)


def read_splade(module: RawModule) -> SpladePoolingSpec:
    """The spec of a SpladePooling module. Raises ``UnsupportedError``."""
    strategy, activation = (
        module.config.get("pooling_strategy", "max"),
        module.config.get("activation_function", "relu"),
    )
    for field, value, known in (
        ("pooling_strategy", strategy, SPLADE_STRATEGIES),
        ("activation_function", activation, SPLADE_ACTIVATIONS),
    ):
        if value not in known:
            raise UnsupportedError(module.file, field, value, known)
    return SpladePoolingSpec(strategy, activation)


def _splade(spec: SpladePoolingSpec, x: tf.Tensor, words: tf.Tensor, words_bias: tf.Tensor, chunk: Chunk) -> tf.Tensor:
    """What the head's transform gave, ``[padded_total, size]``, and its table of words ``[vocab, size]`` and their
    biases to float32 ``[rows, vocab]``; a row without tokens yields zeros.

    The vocabulary is walked through in blocks of ``WORDS``: the numbers of all words at all tokens are never in memory
    together.
    """
    import tensorflow as tf

    tokens, rows, vocab = x[: chunk.total], chunk.rows, words.shape[0]
    row = chunk.row_of_token()

    def active(values: tf.Tensor) -> tf.Tensor:
        values = tf.math.log1p(tf.nn.relu(values))
        return tf.math.log1p(values) if spec.activation == "log1p_relu" else values

    def pooled(values: tf.Tensor) -> tf.Tensor:
        if spec.strategy == "sum":
            return tf.math.unsorted_segment_sum(active(values), row, rows)
        # Neither relu nor log1p falls as its input rises: the largest number is the largest one's. A row without tokens
        # has the lowest number that there is, and relu makes 0 of it.
        return active(tf.math.unsorted_segment_max(values, row, rows))

    def body(start: tf.Tensor, blocks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = tf.minimum(start + WORDS, vocab)
        logits = tf.nn.bias_add(tf.linalg.matmul(tokens, words[start:end], transpose_b=True), words_bias[start:end])
        # Words come first: blocks are put together along the first dimension.
        block = tf.transpose(pooled(logits))
        return end, tf.raw_ops.TensorListPushBack(input_handle=blocks, tensor=block)

    # A list of its own, as in the loop over chunks; one block after the other, which is what bounds the memory.
    shape = tf.stack([-1, rows])
    none = tf.raw_ops.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype=tf.float32)
    _, blocks = tf.while_loop(lambda start, _: start < vocab, body, [tf.constant(0), none], parallel_iterations=1)
    joined, _ = tf.raw_ops.TensorListConcatV2(
        input_handle=blocks, element_shape=shape, leading_dims=tf.zeros([0], tf.int64), element_dtype=tf.float32
    )
    return tf.ensure_shape(tf.transpose(joined), [None, vocab])
