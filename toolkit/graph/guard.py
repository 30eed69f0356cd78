"""What every signature asks of its inputs before any other op sees them, so that no request ends a server.

A session does not hold what it is fed to the shape of its placeholder, and the kernels of tokenizers read past the end
of text of another rank, or abort. Nor does it help to ask for the rank of a tensor that is declared as ``[None]``:
TensorFlow answers from the declaration, when the graph is traced and again when a server optimizes it. So shapes are
asked of a tensor of which nothing is declared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import tensorflow as tf

from toolkit.signatures import GUARD_NODE, Tensor
from toolkit.tokenizer.spec import TokenizerSpec

__all__ = ["guarded", "with_embeddings"]

Result = TypeVar("Result")


def guarded(function: Callable[..., Result], inputs: Sequence[Tensor]) -> Callable[..., Result]:
    """``function`` of a signature's ``inputs``, which is not run for any that it is not made for.

    Those are either ``[batch]``, all of one length, which may come as ``[batch, 1]`` too; or an ``attention_mask`` of
    zeros and ones and others, all of one shape ``[batch, length]``, with a length of at least 1 where there is any row.
    Else the graph fails with INVALID_ARGUMENT, and says which input came in which shape.
    """

    @functools.wraps(function)
    def checked(*values: tf.Tensor) -> Result:
        check = _one_a_row if all(item.shape == ("batch",) for item in inputs) else _of_one_shape
        return function(*check(inputs, values))

    return checked


def with_embeddings(ids: tf.Tensor, tokenizer: TokenizerSpec, vocab_size: int) -> tf.Tensor:
    """A text's token ``ids``, once each is known to be one of the ``vocab_size`` that have an embedding.

    Only special tokens in the text itself may have none, and only where a tokenizer has such tokens is it asked. Else
    the graph fails with INVALID_ARGUMENT, which names them. The lookup would notice as well on a CPU, but only in a
    batch, where it fails for the other callers too.
    """
    without = tokenizer.special_from(vocab_size)
    if not without:
        return ids
    shown = ", ".join(without[:8]) + (" and others" if len(without) > 8 else "")
    message = f"text must contain no token that the model has no embedding for: {shown}"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(ids < vocab_size), [message])]):
        return tf.identity(ids)


def _one_a_row(inputs: Sequence[Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    undeclared = [_undeclared(value) for value in values]
    checks: list[tf.Operation] = []
    for item, value in zip(inputs, undeclared, strict=True):
        shape = tf.shape(value)
        rank = tf.size(shape)
        fits = (rank >= 1) & (rank <= 2) & tf.reduce_all(tf.equal(shape[1:], 1))
        with tf.control_dependencies(checks):  # of two faults, always the same one is told
            checks = [_require(fits, f"{item.name} must have the shape [batch], not", shape)]
    with tf.control_dependencies(checks):
        columns = [tf.reshape(value, [-1]) for value in undeclared]
    if len(columns) > 1:
        names = [item.name for item in inputs]
        first, *others = sizes = [tf.shape(column) for column in columns]
        same = tf.reduce_all([tf.reduce_all(tf.equal(first, other)) for other in others])
        message = f"{', '.join(names[:-1])} and {names[-1]} must have as many rows, not"
        checks = [_require(same, message, *sizes)]
    with tf.control_dependencies(checks):
        return [tf.identity(column) for column in columns] if len(columns) > 1 else columns


def _of_one_shape(inputs: Sequence[Tensor], values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    shapes = [tf.shape(_undeclared(value)) for value in values]
    checks: list[tf.Operation] = []
    for item, shape in zip(inputs, shapes, strict=True):
        with tf.control_dependencies(checks):  # of two faults, always the same one is told
            checks = [
                _require(tf.equal(tf.size(shape), 2), f"{item.name} must have the shape [batch, length], not", shape)
            ]
    names = [item.name for item in inputs]
    with tf.control_dependencies(checks):
        first, *others = shapes
        same = tf.reduce_all([tf.reduce_all(tf.equal(first, other)) for other in others])
        together = f"{', '.join(names[:-1])} and {names[-1]} must have the same shape, not"
        checks = [_require(same, together, *shapes)]
    with tf.control_dependencies(checks):
        # A message of a few bytes can hold any number of rows that have no length.
        filled = tf.minimum(first[0], 1) <= first[1]
        checks = [_require(filled, f"{names[0]} must have rows of at least one place, not the shape", first)]
    mask = values[names.index("attention_mask")]
    with tf.control_dependencies(checks):
        ones = tf.reduce_all((mask >= 0) & (mask <= 1))
        checks = [_require(ones, "attention_mask must be 0 or 1")]
    with tf.control_dependencies(checks):
        return [tf.identity(value) for value in values]


def _undeclared(value: tf.Tensor) -> tf.Tensor:
    """``value``, of a shape that is known when the graph runs, and not before."""
    return tf.raw_ops.PlaceholderWithDefault(input=value, shape=tf.TensorShape(None))


def _require(condition: tf.Tensor, message: str, *shapes: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(condition, [message, *shapes], summarize=-1, name=GUARD_NODE)
