"""StaticEmbedding: an embedding for each token and their mean, no layers, as sentence-transformers (6.2) has it.

model2vec (github.com/MinishLab/model2vec) and static-retrieval-mrl are such models. Rows need no padded view, and
computing several callers' texts together would gain nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.encoder.precision.products import Products
    from toolkit.source.checkpoint import RawModule

__all__ = ["STATIC", "StaticSpec"]

Array = npt.NDArray[np.float32]

STATIC = "static"
"""The ``family`` of such an encoder."""

_TENSOR, _TABLE = "embedding.weight", "embeddings/word"

_TOKENS = 4096
"""Whose embeddings are looked up at a time, or those of one longer text: what stays in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class StaticSpec(EncoderSpec):
    """A table of embeddings in the place of an encoder: a token's hidden state is its row."""

    model_types: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = "StaticEmbedding"

    @classmethod
    def read(cls, module: RawModule) -> Self:
        fields = Fields(module)
        fields.only("mode", ("mean",))
        for name in ("max_norm", "padding_idx"):  # of a live model's EmbeddingBag
            fields.only(name, (None,))
        table = module.tensors.get(_TENSOR)
        if table is None or len(module.tensors) > 1 or table.ndim != 2 or 0 in table.shape:
            raise SourceError(f"{module.file}: expected a tensor {_TENSOR!r} of [tokens, numbers] alone")
        return cls.of(module.tensors)

    @classmethod
    def of(cls, tensors: Mapping[str, Array]) -> Self:
        """The spec of a table ``[tokens, numbers]`` or ``[tokens]``, whatever its name is."""
        (table,) = tensors.values()
        rows, *sizes = table.shape
        return cls(
            family=STATIC,
            vocab_size=rows,
            hidden_size=sizes[0] if sizes else 1,
            num_layers=0,
            num_heads=0,
            intermediate_size=0,
            max_positions=0,
            type_vocab_size=1,
            activation="linear",
            layer_norm_eps=0.0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            tensors=tensors,
        )

    def __str__(self) -> str:
        return f"static, {self.vocab_size} tokens of {self.hidden_size} numbers"

    def stored(self) -> dict[str, Array]:
        (table,) = self.tensors.values()
        return {_TABLE: table.reshape(self.vocab_size, self.hidden_size)}

    def hidden_states(self, products: Products, chunk: Chunk, *, fused_norm: bool = False) -> tf.Tensor:
        return products.embedding(_TABLE, chunk.tokens.ids)

    def means(self, params: Mapping[str, tf.Tensor], ids: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
        """The mean of each row's embeddings, float32 ``[batch, hidden]``, zeros where a row has none; ``ids`` int32
        ``[total]``, ``row_splits`` int32 ``[batch + 1]``.

        Rows are taken some at a time, so that a large request needs no memory for all of its embeddings.
        """
        import tensorflow as tf

        table, size = params[_TABLE], self.hidden_size
        results = tf.raw_ops.EmptyTensorList(element_shape=[-1, size], max_num_elements=-1, element_dtype=tf.float32)

        def body(row: tf.Tensor, results: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            fitting = tf.searchsorted(row_splits, [row_splits[row] + _TOKENS], side="right")[0] - 1
            stop = tf.maximum(row + 1, fitting)
            splits = row_splits[row : stop + 1]
            found = tf.gather(table, ids[splits[0] : splits[-1]])
            of_row = tf.searchsorted(splits[1:], tf.range(splits[0], splits[-1]), side="right")
            # It adds one after another, as torch does. An op for sparse segments adds in groups: a rounding that shows
            # where one word is repeated thousands of times.
            means = tf.math.segment_mean(found, of_row)
            means = tf.pad(means, [[0, stop - row - tf.shape(means)[0]], [0, 0]])
            return stop, tf.raw_ops.TensorListPushBack(input_handle=results, tensor=means)

        rows = tf.size(row_splits) - 1
        _, results = tf.while_loop(lambda row, _: row < rows, body, [tf.constant(0), results], parallel_iterations=1)
        joined, _ = tf.raw_ops.TensorListConcatV2(
            input_handle=results,
            element_shape=[-1, size],
            leading_dims=tf.zeros([0], tf.int64),
            element_dtype=tf.float32,
        )
        return tf.ensure_shape(joined, [None, size])
