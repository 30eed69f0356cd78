"""Batching inside the graph: requests that arrive together are encoded together.

Each request is tokenized by itself. What is batched are its tokens, not its rows: ``BatchFunction`` joins and splits
tensors along their first dimension, so a request enters as one tensor ``[units, 3]``, in which each row is a header and
its tokens, and gets back ``[units, dim]`` with each row's vector at its header, or each token's at its own place. A
request's units are never cut.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.ops import gen_batch_ops

from toolkit.encoder.batching_options import MAX_TOKENS_NODE, Batching, queue_name
from toolkit.encoder.packing import on_host, row_of_token
from toolkit.encoder.target import CPU, Target

__all__ = ["batched"]

_HEADER = -1  # in the place of a position, which no caller chooses

Encode = Callable[..., tf.Tensor]


def batched(
    alone: Encode,
    together: Encode,
    dim: int | None,
    options: Batching,
    *,
    counted: bool = False,
    per_token: bool = False,
    target: Target = CPU,
) -> Encode:
    """A function of packed tokens that encodes small requests ``together`` and large ones ``alone``.

    All three take ids, type ids, positions and row splits, int32, and where something is ``counted`` in each row (its
    skipped or its attended tokens) int32 ``[batch]``, which rides in the rows' headers; they return float32 ``[batch,
    dim]``, or ``per_token`` ``[total, dim]``; a ``dim`` of ``None`` stands for as many numbers as a batch needs.
    TensorFlow does not optimize the body of a batch function, only functions that it calls and that are not inlined:
    ``together`` has to be one.
    """

    def encode_units(units: tf.Tensor) -> tf.Tensor:
        with on_host(target):
            header = tf.equal(units[:, 2], _HEADER)
            place = tf.cast(tf.where(header)[:, 0], tf.int32)
            rows, size = tf.size(place), tf.shape(units)[0]
            is_token = tf.logical_not(header)
            tokens = tf.unstack(tf.boolean_mask(units, is_token), num=3, axis=1)
            splits = tf.concat([place - tf.range(rows), [size - rows]], 0)
            counts = [tf.gather(units[:, 0], place)] if counted else []
        vectors = together(*tokens, splits, *counts)
        if per_token:
            place = tf.cast(tf.where(is_token)[:, 0], tf.int32)
        width = tf.shape(vectors)[1] if dim is None else dim
        return tf.scatter_nd(place[:, None], vectors, tf.stack([size, width]))

    body = tf.function(
        encode_units, input_signature=[tf.TensorSpec([None, 3], tf.int32)], autograph=False
    ).get_concrete_function()

    def batch_function(units: tf.Tensor) -> tf.Tensor:
        (vectors,) = gen_batch_ops.batch_function(
            in_tensors=[units],
            captured_tensors=body.captured_inputs,
            f=body,
            Tout=[tf.float32],
            num_batch_threads=options.threads,
            max_batch_size=options.max_tokens,
            batch_timeout_micros=options.timeout_micros,
            max_enqueued_batches=options.max_queued_batches,
            enable_large_batch_splitting=False,
            shared_name=queue_name(),
        )
        return tf.ensure_shape(vectors, [None, dim])

    def run(*packed: tf.Tensor) -> tf.Tensor:
        splits, total = packed[3], tf.size(packed[0])
        rows = tf.size(splits) - 1

        def in_batch() -> tf.Tensor:
            with on_host(target):
                headers = splits[:-1] + tf.range(rows)
                places = tf.range(total) + row_of_token(splits) + 1
                place = tf.concat([headers, places], 0)
                if counted:
                    header = tf.stack([packed[4], tf.zeros_like(headers), tf.fill([rows], _HEADER)], axis=1)
                else:
                    header = tf.tile([[0, 0, _HEADER]], tf.stack([rows, 1]))
                values = tf.concat([header, tf.stack(packed[:3], axis=1)], 0)
                units = tf.scatter_nd(place[:, None], values, tf.stack([total + rows, 3]))
            return tf.gather(batch_function(units), places if per_token else headers)

        fits = tf.logical_and(rows > 0, total + rows <= tf.constant(options.max_tokens, name=MAX_TOKENS_NODE))
        return tf.ensure_shape(tf.cond(fits, in_batch, lambda: alone(*packed)), [None, dim])

    return run
