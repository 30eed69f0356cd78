"""Pooling: the token embeddings of a text to one vector, as sentence-transformers' ``Pooling`` (6.2) does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError, UnsupportedError
from toolkit.source.settings import POOLING_MODES

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.source.checkpoint import RawModule

__all__ = ["POOLING_MODES", "PoolingSpec", "only_token", "pool", "read_pooling"]


@dataclass(frozen=True)
class PoolingSpec:
    """Token embeddings to one vector; several modes are concatenated in this order. Without ``include_prompt`` the
    tokens of a prompt do not count."""

    modes: tuple[str, ...]
    dim: int
    include_prompt: bool = True

    def __str__(self) -> str:
        return f"pooling     {' and '.join(self.modes)}{'' if self.include_prompt else ', without the prompt'}"


def read_pooling(module: RawModule, hidden_size: int) -> PoolingSpec:
    """The spec of a Pooling module behind an encoder. Raises ``UnsupportedError`` or ``SourceError``."""
    raw = module.config.get("pooling_mode", "mean")
    modes = (raw,) if isinstance(raw, str) else tuple(raw)
    if unknown := [mode for mode in modes if mode not in POOLING_MODES]:
        raise UnsupportedError(module.file, "pooling_mode", unknown[0], POOLING_MODES)
    if (size := Fields(module).positive("embedding_dimension")) != hidden_size:
        raise SourceError(
            f"{module.file}: embedding_dimension is {size}, but the encoder's hidden size is {hidden_size}"
        )
    return PoolingSpec(modes, hidden_size * len(modes), bool(module.config.get("include_prompt", True)))


def only_token(spec: PoolingSpec, chunk: Chunk) -> tf.Tensor | None:
    """The one token of each row that pooling takes, int32 ``[rows]``; ``None`` where it takes more than one."""
    return _token(spec.modes[0], chunk) if spec.modes in (("cls",), ("lasttoken",)) else None


def _token(mode: str, chunk: Chunk) -> tf.Tensor:
    """The token that ``cls`` or ``lasttoken`` takes of each row that has one, int32 ``[rows]``."""
    import tensorflow as tf

    splits, skipped = chunk.tokens.row_splits, chunk.tokens.skipped
    if mode == "lasttoken":
        return splits[1:] - 1
    if skipped is None:
        return splits[:-1]
    start = splits[:-1] + skipped
    return tf.where(start < splits[1:], start, splits[:-1])


def pool(spec: PoolingSpec, hidden: tf.Tensor, chunk: Chunk, *, columns: bool = True) -> tf.Tensor:
    """Token embeddings ``[padded_total, hidden]`` of a chunk to ``[rows, dim]``, one row for each text; or those of
    `only_token` alone, where the chunk is asked for no others.

    Only tokens count: nothing of a row's padding or neighbours enters, nor of the tokens that the chunk says are
    skipped. A row without tokens yields zeros, except for ``max``, where torch yields -inf and so do we; so does one
    whose tokens are all skipped, but for ``cls``, where torch takes the first one all the same. ``columns`` says that
    position ids are the tokens' columns; else each token is taken to stand right behind the one before it.
    """
    import tensorflow as tf

    tokens, rows = hidden[: chunk.total], chunk.rows
    splits = chunk.tokens.row_splits
    row = segment = chunk.row_of_token()
    first = start = splits[:-1]
    if (skipped := chunk.tokens.skipped) is not None:
        start = tf.minimum(first + skipped, splits[1:])
        # what is in no row is dropped
        segment = tf.where(tf.range(chunk.total) >= tf.gather(start, row), row, -1)
    lengths = tf.cast(splits[1:] - start, hidden.dtype)[:, None]

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, segment, rows)

    def one(mode: str, exists: tf.Tensor) -> tf.Tensor:
        # hidden has at least one row, if only of fill, so index 0 exists even when no text has a token
        return tf.where(exists, chunk.one_of_each(hidden, tf.maximum(_token(mode, chunk), 0)), 0.0)

    def weighted_mean() -> tf.Tensor:
        # torch counts positions from a row's first token on
        position = chunk.tokens.positions[: chunk.total] if columns else tf.range(chunk.total)
        lowest = tf.gather(chunk.tokens.positions, first) if columns else first
        weight = tf.cast(position - tf.gather(lowest, row) + 1, hidden.dtype)[:, None]
        return total(tokens * weight) / tf.maximum(total(weight), 1e-9)

    pooled = {
        "cls": lambda: one("cls", (splits[1:] > first)[:, None]),
        "lasttoken": lambda: one("lasttoken", lengths > 0),
        "max": lambda: tf.where(lengths > 0, tf.math.unsorted_segment_max(tokens, segment, rows), -np.inf),
        "mean": lambda: total(tokens) / tf.maximum(lengths, 1e-9),
        "mean_sqrt_len_tokens": lambda: total(tokens) / tf.sqrt(tf.maximum(lengths, 1e-9)),
        "weightedmean": weighted_mean,
    }
    return tf.concat([pooled[mode]() for mode in spec.modes], 1)
