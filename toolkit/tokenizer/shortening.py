"""Rows of tokens cut once more, where one tokenizer serves texts of several lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.tokenizer.spec import TokenizerSpec

__all__ = ["shortened"]


def shortened(
    spec: TokenizerSpec, ids: tf.Tensor, row_splits: tf.Tensor, max_length: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """What a tokenizer of ``spec`` would give if it cut at ``max_length`` tokens, made of what it gives: int32 ids
    ``[total]`` and row splits ``[batch + 1]``.

    ``max_length`` is at most that of ``spec``, and has room for the special tokens around a text.
    """
    import tensorflow as tf

    if spec.max_length is not None and max_length >= spec.max_length:
        return ids, row_splits
    before, after = len(spec.template.before), len(spec.template.after)
    starts, ends = row_splits[:-1], row_splits[1:]
    excess = tf.maximum(ends - starts - max_length, 0)
    left, right = (excess, 0) if spec.truncation_side == "left" else (0, excess)
    # Each row is three ranges of what it was; one op lists their places in order.
    ranges = tf.raw_ops.RaggedRange(
        starts=tf.reshape(tf.stack([starts, starts + before + left, ends - after], axis=1), [-1]),
        limits=tf.reshape(tf.stack([starts + before, ends - after - right, ends], axis=1), [-1]),
        deltas=tf.constant(1),
        Tsplits=tf.int32,
    )
    return tf.gather(ids, ranges.rt_dense_values), ranges.rt_nested_splits[::3]
