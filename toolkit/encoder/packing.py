"""Packed tokens: rows of different length laid end to end, and the loop over chunks of rows.

Dense layers and LayerNorm see ``[total tokens, hidden]`` with no padding; only attention sees a padded view, and that
of one chunk. Rows are sorted by length, so that a chunk's rows are about equally long, and a chunk holds at most
``TOKEN_BUDGET`` padded tokens, so that its activations stay in the CPU's second-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import tensorflow as tf

from toolkit.encoder.heads import Heads, TransposedHeads
from toolkit.encoder.target import CPU, Target

__all__ = [
    "TOKEN_BUDGET",
    "Chunk",
    "Tokens",
    "eager_chunks",
    "in_chunks",
    "make_chunk",
    "make_single_chunk",
    "on_host",
    "pack",
    "padded_index",
    "row_of_token",
]

TOKEN_BUDGET = CPU.chunk_tokens
"""Padded tokens in a chunk, unless a graph is laid out for something else."""

ROUND_TO = 8
"""Lengths and token counts are rounded up to this: fewer distinct shapes, of which oneDNN keeps compiled kernels."""

ROUND_SINGLE_TO = 4
"""The same for a row on its own, where each token that is filled in counts for more."""

FEW_TOKENS = 32
"""The tokens of a row on its own for which products with packed weights are faster; see
:mod:`toolkit.encoder.precision.packed`."""


class Tokens(NamedTuple):
    """Rows of tokens laid end to end.

    ``ids``, ``type_ids`` and ``positions`` are int32 ``[total]``; ``row_splits`` is int32 ``[batch + 1]``, row ``i``
    being ``[row_splits[i]:row_splits[i + 1]]``. ``positions`` are the model's position ids. ``skipped``, int32
    ``[batch]``, is how many tokens pooling leaves out at the start of each row; ``None`` where it takes them all.
    ``attended``, int32 ``[batch]``, is how many tokens at the start of each row others look at; those behind them look
    at these, and are looked at by none. ``None``: all look at all.
    """

    ids: tf.Tensor
    type_ids: tf.Tensor
    positions: tf.Tensor
    row_splits: tf.Tensor
    skipped: tf.Tensor | None = None
    attended: tf.Tensor | None = None

    def tensors(self) -> list[tf.Tensor]:
        """Those that there are, in order."""
        return [tensor for tensor in self if tensor is not None]

    def with_skipped(self, count: int) -> Tokens:
        """The same for every row."""
        return self._replace(skipped=tf.fill(tf.shape(self.row_splits) - 1, count))

    def rows(self, order: tf.Tensor, splits: tf.Tensor, index: tf.Tensor) -> Tokens:
        """The rows with the numbers ``order``, whose tokens are those at ``index`` and whose splits are ``splits``."""
        ids, type_ids, positions = (tf.gather(values, index) for values in self[:3])
        counts = (None if counts is None else tf.gather(counts, order) for counts in (self.skipped, self.attended))
        return Tokens(ids, type_ids, positions, splits, *counts)


class Chunk(NamedTuple):
    """Some rows, ready for the encoder, plus what leads from the packed to the padded view and back.

    ``tokens``'s three per-token tensors are filled up to ``padded_total`` with tokens that belong to no row; ``total``
    is the number of real ones. The padded view, of ``length`` places a row, is filled up as well, in both directions.
    ``mask``, bool ``[filled rows, length]``, is true at tokens that may be looked at. ``slot`` int32 ``[padded_total]``
    is each token's place in the flattened padded view, ``token`` int32 ``[filled rows, length]`` the token at each
    place (at padding the row's first). ``target`` is what it is made for. ``few`` says that it is one row of at most
    ``FEW_TOKENS``. ``asked``, int32 ``[filled rows]``, is the one token of each row whose hidden state is asked for;
    ``None``: those of all are.
    """

    tokens: Tokens
    total: tf.Tensor
    rows: tf.Tensor
    length: tf.Tensor
    mask: tf.Tensor
    slot: tf.Tensor
    token: tf.Tensor
    target: Target = CPU
    few: bool = False
    asked: tf.Tensor | None = None

    def asking(self, tokens: tf.Tensor) -> Chunk:
        """The same, of which the hidden states of these tokens alone are asked for: int32 ``[rows]``, one of each row
        (of a row without tokens any number)."""
        with on_host(self.target):
            there = tf.clip_by_value(tokens, 0, tf.size(self.slot) - 1)
            filled = tf.pad(there, [[0, tf.shape(self.mask)[0] - self.rows]])
            return self._replace(asked=tf.ensure_shape(filled, self.mask.shape[:1]))

    def one_of_each(self, hidden: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        """The hidden states of these tokens, int32 ``[rows]``, one of each row: those of them alone if they were asked
        for, else those among all."""
        return tf.gather(hidden, tokens) if self.asked is None else hidden[: self.rows]

    def row_of_token(self) -> tf.Tensor:
        """int32 ``[total]``: the row that each of its tokens belongs to."""
        with on_host(self.target):
            return row_of_token(self.tokens.row_splits)

    def handed(self) -> tuple[tf.Tensor, ...]:
        """Itself as the arguments of a function, in which `taken` makes a chunk of them: the columns of its tokens as
        one tensor, so that the optimizer can tell there, too, that they are of one length."""
        columns = tf.stack([*self.tokens[:3], self.slot])
        asked = [] if self.asked is None else [self.asked]
        return columns, self.tokens.row_splits, self.total, self.rows, self.length, self.mask, self.token, *asked

    def handed_specs(self) -> list[tf.TensorSpec]:
        """Of `handed`, for chunks of one row, if this is one, or of any number."""
        number, padded = tf.TensorSpec([], tf.int32), [self.mask.shape[0], None]
        columns, splits = tf.TensorSpec([4, None], tf.int32), tf.TensorSpec([None], tf.int32)
        views = [tf.TensorSpec(padded, tf.bool), tf.TensorSpec(padded, tf.int32)]
        asked = [] if self.asked is None else [tf.TensorSpec(padded[:1], tf.int32)]
        return [columns, splits, *[number] * 3, *views, *asked]

    def taken(self, columns: tf.Tensor, splits: tf.Tensor, *others: tf.Tensor) -> Chunk:
        """One of this one's kind, of what `handed` gave, without what only pooling looks at."""
        ids, type_ids, positions, slot = tf.unstack(columns, num=4)
        total, rows, length, mask, token, *asked = others
        tokens = Tokens(ids, type_ids, positions, splits)
        return Chunk(tokens, total, rows, length, mask, slot, token, self.target, self.few, *asked)

    def heads(self, count: int) -> Heads | TransposedHeads:
        """For attention of ``count`` heads."""
        if self.target.transposes:
            return TransposedHeads(self.token, self.slot)
        return Heads(self.token, self.slot, self.length, count)


def _round_up(x: tf.Tensor, multiple: int | tf.Tensor = ROUND_TO) -> tf.Tensor:
    return (x + (multiple - 1)) // multiple * multiple


def _round_up_coarsely(x: tf.Tensor) -> tf.Tensor:
    """To one of 20 sizes in a budget, for a padded view's length and for int8: attention's products and int8 ones keep
    a compiled kernel for every size that they have seen, some hundred kilobytes each. Attention is so small a part of
    the work that a little padding costs nothing."""
    return _round_up(x, tf.where(x <= 64, ROUND_TO, tf.where(x <= 128, 16, 32)))


def _bucket(x: tf.Tensor) -> tf.Tensor:
    """To a power of two from 16 to 512, or a multiple of 512."""
    power = 16 + sum(tf.where(x > size, size, 0) for size in (16, 32, 64, 128, 256))
    return tf.where(x <= 512, power, _round_up(x, 512))


def _length_filling(target: Target) -> Callable[[tf.Tensor], tf.Tensor]:
    """How the length of a padded view is filled up."""
    return _bucket if target.buckets else _round_up_coarsely


def _round_up_rows(x: tf.Tensor) -> tf.Tensor:
    """The rows of a padded view, for the same reason."""
    return _round_up(x, tf.where(x <= 2, 1, tf.where(x <= 4, 2, tf.where(x <= 8, 4, 8))))


def row_of_token(row_splits: tf.Tensor) -> tf.Tensor:
    """int32 ``[total]``: the row that each packed token belongs to."""
    lengths = row_splits[1:] - row_splits[:-1]
    return tf.repeat(tf.range(tf.size(lengths)), lengths)


def padded_index(row_splits: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For a padded view ``[rows, length]``: int32 index of the packed token at each place, bool mask.

    At padding it is the row's own first token: what a mask multiplies by 0 may be NaN, which then stays in its row.
    """
    column = tf.range(length)[None, :]
    mask = column < (row_splits[1:] - row_splits[:-1])[:, None]
    first = tf.maximum(tf.minimum(row_splits[:-1], row_splits[-1] - 1), 0)  # there is one, even behind an empty row
    return tf.where(mask, row_splits[:-1, None] + column, first[:, None]), mask


def pack(
    input_ids: tf.Tensor, attention_mask: tf.Tensor, token_type_ids: tf.Tensor, positions: tf.Tensor | None = None
) -> Tokens:
    """Padded int32 ``[batch, length]`` tensors to ``Tokens``: what the mask leaves out is dropped.

    Without ``positions`` a token keeps its column, as transformers' BERT numbers them, wherever the padding stands.
    """
    mask = tf.not_equal(attention_mask, 0)
    place = tf.where(mask)
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    return Tokens(
        tf.gather_nd(input_ids, place),
        tf.gather_nd(token_type_ids, place),
        tf.cast(place[:, 1], tf.int32) if positions is None else tf.gather_nd(positions, place),
        tf.concat([[0], tf.cumsum(lengths)], 0),
    )


def _filled(size: tf.Tensor, *columns: tf.Tensor) -> list[tf.Tensor]:
    """Int32 tensors of one length, filled up with zeros to ``size``.

    They are filled together, so that the optimizer can tell that they are of one length: only then does it add a
    residual inside a product.
    """
    stacked = tf.stack(columns)
    return list(tf.unstack(tf.pad(stacked, [[0, 0], [0, size - tf.shape(stacked)[1]]]), num=len(columns)))


def make_chunk(tokens: Tokens, *, coarse: bool = False, target: Target = CPU) -> Chunk:
    """Prepare all rows of ``tokens`` as one chunk; ``coarse`` fills it up to one of fewer sizes."""
    lengths = tokens.row_splits[1:] - tokens.row_splits[:-1]
    rows, total = tf.size(lengths), tf.size(tokens.ids)
    length = tf.maximum(_length_filling(target)(tf.reduce_max(tf.concat([lengths, [0]], 0))), ROUND_TO)
    # rows without tokens fill the view up
    filled_splits = tf.pad(tokens.row_splits, [[0, _round_up_rows(rows) - rows]], constant_values=total)
    token, mask = padded_index(filled_splits, length)
    slot = tf.cast(tf.where(tf.reshape(mask, [-1]))[:, 0], tf.int32)
    if (attended := tokens.attended) is not None:
        attended = tf.pad(attended, [[0, _round_up_rows(rows) - rows]])
        mask &= tf.range(length)[None, :] < attended[:, None]
    size = _round_up(total, 128) if target.buckets else _round_up_coarsely(total) if coarse else _round_up(total)
    ids, types, positions, slot = _filled(tf.maximum(size, ROUND_TO), *tokens[:3], slot)
    filled = Tokens(ids, types, positions, *tokens[3:])
    return Chunk(filled, total, rows, length, mask, slot, token, target)


def make_single_chunk(tokens: Tokens, *, coarse: bool = False, few: bool = False) -> Chunk:
    """Prepare the one row of ``tokens``; ``few`` says that it is short, and fills it up to 8 at least."""
    total = tf.size(tokens.ids)
    least = ROUND_TO if few else ROUND_SINGLE_TO
    size = tf.maximum(_round_up_coarsely(total) if coarse else _round_up(total, ROUND_SINGLE_TO), least)
    length = _round_up_coarsely(size)
    ids, types, positions, slot = _filled(size, *tokens[:3], tf.range(total))
    filled = Tokens(ids, types, positions, *tokens[3:])
    place = tf.range(length)
    there = place < total
    mask = there if tokens.attended is None else place < tokens.attended[0]
    token = tf.where(there, place, 0)[None, :]
    return Chunk(filled, total, tf.constant(1), length, mask[None, :], slot, token, few=few)


def eager_chunks(tokens: Tokens) -> tuple[list[Chunk], list[int]]:
    """All rows as chunks under the token budget, shortest rows first, and the numbers of the rows in that order.

    For tensors that have values, not for those of a graph.
    """
    splits = tokens.row_splits.numpy()
    lengths = splits[1:] - splits[:-1]
    order = lengths.argsort(kind="stable").tolist()
    groups: list[list[int]] = []
    for row in order:
        if not groups or (len(groups[-1]) + 1) * lengths[row] > TOKEN_BUDGET:
            groups.append([])
        groups[-1].append(row)
    chunks = []
    for group in groups:
        index = tf.concat([tf.range(splits[row], splits[row + 1]) for row in group], 0)
        row_splits = tf.cumsum(tf.constant([0, *(int(lengths[row]) for row in group)]))
        chunks.append(make_chunk(tokens.rows(tf.constant(group), row_splits, index), coarse=True))
    return chunks, order


def on_host(target: Target) -> AbstractContextManager[Any]:
    """Where what says where tokens go is computed: on the CPU, if the target asks for it, else wherever.

    Operations that call functions must not be in it: on a server all that these do would go to the CPU too.
    """
    return tf.device("/CPU:0") if target.host_indices else nullcontext()


def in_chunks(
    tokens: Tokens,
    encoder: Callable[[], Callable[[Chunk], tf.Tensor]],
    width: int,
    *,
    per_token: bool,
    coarse: bool = False,
    few: bool = False,
    target: Target = CPU,
) -> tf.Tensor:
    """Encode chunks of rows and put the results back in the rows' order.

    ``encoder`` reads what it needs of variables, once for all chunks, and gives a function of a chunk to float32
    ``[rows, width]``, or with ``per_token`` to ``[padded_total, width]``. That function must read none: TensorFlow
    lets no chunk of the loop begin before the stateful operations of the last one have ended.

    The result is ``[batch, width]``, or packed ``[total, width]``. An empty batch gives an empty result. A batch of one
    row does without the loop, unless the ``target`` asks for few shapes. With ``coarse`` chunks are of fewer sizes.
    With ``few`` a row of at most ``FEW_TOKENS`` on its own has a path of its own, whose chunk says so.
    """

    def one(short: bool) -> tf.Tensor:
        chunk = make_single_chunk(tokens, coarse=coarse, few=short)
        result = encoder()(chunk)
        return result[: chunk.total] if per_token else result

    def single() -> tf.Tensor:
        if not few:
            return one(False)
        return tf.cond(tf.size(tokens.ids) <= FEW_TOKENS, lambda: one(True), lambda: one(False))

    def several() -> tf.Tensor:
        return _loop(tokens, encoder(), width, per_token, coarse, target)

    if target.buckets:
        result = several()
    else:
        # A function of its own: TensorFlow cannot take a branch apart in which a loop calls one that is not inlined.
        several.__name__ += "_by_token" if per_token else "_by_row"  # which the artifact's functions are told apart by
        called = tf.function(several, autograph=False, experimental_attributes={"_noinline": True})
        result = tf.cond(tf.equal(tf.size(tokens.row_splits), 2), single, called)
    return tf.ensure_shape(result, [None, width])


def _even_parts(lengths: tf.Tensor, target: Target) -> tf.Tensor | None:
    """int32 ``[batch]``: the part of the batch that each row falls into, rows being in the order of ``lengths``;
    ``None`` where the target asks for none."""
    if target.part_tokens is None:
        return None
    ends = tf.cumsum(lengths)
    total = tf.reduce_sum(lengths)
    pairs = tf.where(total < target.whole_tokens, 0, -(-total // (2 * target.part_tokens)))
    share = tf.maximum(1, -(-total // tf.maximum(1, 2 * pairs)))
    # by the middle of each row, so that one that reaches over the end of a part is in the part that has more of it
    return (ends - (lengths + 1) // 2) // share


def _loop(
    tokens: Tokens,
    encode: Callable[[Chunk], tf.Tensor],
    width: int,
    per_token: bool,
    coarse: bool,
    target: Target,
) -> tf.Tensor:
    budget, fill = target.chunk_tokens, _length_filling(target)
    with on_host(target):
        starts = tokens.row_splits[:-1]
        lengths = tokens.row_splits[1:] - starts
        batch = tf.size(lengths)
        order = tf.argsort(lengths, stable=True)
        sorted_lengths, sorted_starts = tf.gather(lengths, order), tf.gather(starts, order)
        parts = None if coarse else _even_parts(sorted_lengths, target)
    # Not a tf.TensorArray: one that grows writes an attribute that servers before 2.13 do not know, and they fail.
    results = tf.raw_ops.EmptyTensorList(element_shape=[-1, width], max_num_elements=-1, element_dtype=tf.float32)

    def body(row: tf.Tensor, results: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with on_host(target):
            # Rows are at least one token long (shorter ones, if any, cost nothing), so no more than the budget fit.
            window = sorted_lengths[row : row + budget]
            fits = tf.range(1, tf.size(window) + 1) * fill(window) <= budget
            if parts is not None:
                fits &= parts[row : row + budget] == parts[row]
            count = tf.maximum(1, tf.reduce_sum(tf.cast(fits, tf.int32)))
            length = window[:count]
            splits = tf.concat([[0], tf.cumsum(length)], 0)
            index = tf.repeat(sorted_starts[row : row + count] - splits[:-1], length) + tf.range(splits[-1])
            chunk = make_chunk(tokens.rows(order[row : row + count], splits, index), coarse=coarse, target=target)
            after = row + count
        result = encode(chunk)
        result = result[: chunk.total] if per_token else result
        return after, tf.raw_ops.TensorListPushBack(input_handle=results, tensor=result)

    _, results = tf.while_loop(
        lambda row, _: row < batch, body, [tf.constant(0), results], parallel_iterations=target.chunks_at_a_time
    )
    joined, _ = tf.raw_ops.TensorListConcatV2(
        input_handle=results, element_shape=[-1, width], leading_dims=tf.zeros([0], tf.int64), element_dtype=tf.float32
    )
    with on_host(target):
        place = tf.math.invert_permutation(order)
        if per_token:
            sorted_splits = tf.concat([[0], tf.cumsum(sorted_lengths)], 0)
            first = tf.gather(sorted_splits[:-1], place)
            place = tf.repeat(first - starts, lengths) + tf.range(tf.size(tokens.ids))
    return tf.gather(joined, place)
