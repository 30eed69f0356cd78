"""What comes after the encoder: pooling of a chunk's tokens, Dense, LayerNorm, Normalize, truncation of the embedding.

Formulas follow sentence-transformers' ``Pooling``, ``Dense``, ``LayerNorm`` and ``Normalize`` modules (release 6.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.graph.spec import DenseSpec, HeadSpec, LayerNormSpec, NormalizeSpec, PoolingSpec

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk

__all__ = ["apply_head", "head_parameters", "pool", "stage_names"]


def stage_names(heads: Sequence[HeadSpec]) -> tuple[str, ...]:
    """A readable name for each head, in order: ``1_pooling``, ``2_dense``, ... (module 0 is the encoder)."""
    return tuple(
        f"{index}_{type(head).__name__.removesuffix('Spec').lower()}" for index, head in enumerate(heads, start=1)
    )


def head_parameters(heads: Sequence[HeadSpec]) -> dict[str, npt.NDArray[np.float32]]:
    """The heads' weights by parameter name."""
    params: dict[str, npt.NDArray[np.float32]] = {}
    for name, head in zip(stage_names(heads), heads, strict=True):
        if isinstance(head, DenseSpec):
            params[f"{name}/kernel"] = head.weight
            if head.bias is not None:
                params[f"{name}/bias"] = head.bias
            if head.residual_weight is not None:
                params[f"{name}/residual"] = head.residual_weight
        elif isinstance(head, LayerNormSpec):
            params[f"{name}/gamma"], params[f"{name}/beta"] = head.weight, head.bias
    return params


def pool(spec: PoolingSpec, hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
    """Token embeddings ``[padded_total, hidden]`` of a chunk to ``[rows, dim]``, one row for each text.

    Only tokens count: nothing of a row's padding or neighbours enters. A row without tokens yields zeros, except for
    ``max``, where torch yields -inf and so do we.
    """
    import tensorflow as tf

    from toolkit.encoder.packing import row_of_token

    tokens, rows = hidden[: chunk.total], chunk.rows
    splits = chunk.tokens.row_splits
    row = row_of_token(splits)
    lengths = tf.cast(splits[1:] - splits[:-1], hidden.dtype)[:, None]

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, row, rows)

    def at(index: tf.Tensor) -> tf.Tensor:
        # hidden has at least one row, if only of fill, so index 0 exists even when no text has a token
        return tf.where(lengths > 0, tf.gather(hidden, tf.maximum(index, 0)), 0.0)

    def weighted_mean() -> tf.Tensor:
        # torch counts positions from a row's first token on
        position = chunk.tokens.positions[: chunk.total]
        first = tf.gather(chunk.tokens.positions, splits[:-1])
        weight = tf.cast(position - tf.gather(first, row) + 1, hidden.dtype)[:, None]
        return total(tokens * weight) / tf.maximum(total(weight), 1e-9)

    pooled = {
        "cls": lambda: at(splits[:-1]),
        "lasttoken": lambda: at(splits[1:] - 1),
        "max": lambda: tf.where(lengths > 0, tf.math.unsorted_segment_max(tokens, row, rows), -np.inf),
        "mean": lambda: total(tokens) / tf.maximum(lengths, 1e-9),
        "mean_sqrt_len_tokens": lambda: total(tokens) / tf.sqrt(tf.maximum(lengths, 1e-9)),
        "weightedmean": weighted_mean,
    }
    return tf.concat([pooled[mode]() for mode in spec.modes], 1)


def apply_head(head: HeadSpec, name: str, params: Mapping[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Apply a module behind Pooling to embeddings ``[batch, dim]``; ``name`` leads to its parameters."""
    import tensorflow as tf

    from toolkit.encoder.layers import ACTIVATION_FUNCTIONS, dense, layer_norm

    if isinstance(head, DenseSpec):
        y = ACTIVATION_FUNCTIONS[head.activation](dense(x, params[f"{name}/kernel"], params.get(f"{name}/bias")))
        if not head.residual:
            return y
        return y + (x if head.residual_weight is None else dense(x, params[f"{name}/residual"], None))
    if isinstance(head, LayerNormSpec):
        return layer_norm(x, params[f"{name}/gamma"], params[f"{name}/beta"], head.epsilon)
    if isinstance(head, NormalizeSpec):
        return x / tf.maximum(tf.norm(x, axis=-1, keepdims=True), 1e-12)
    raise TypeError(f"{type(head).__name__} is not applied to embeddings")
