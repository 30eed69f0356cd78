"""Packing loses nothing, keeps order, and does no work on padding."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from toolkit.encoder.packing import (
    ROUND_SINGLE_TO,
    ROUND_TO,
    TOKEN_BUDGET,
    Chunk,
    Tokens,
    in_chunks,
    make_chunk,
    make_single_chunk,
    pack,
    row_of_token,
)


def tokens(lengths: list[int]) -> Tokens:
    total = sum(lengths)
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths] or [[]]).astype(np.int32)
    ids = np.arange(1, total + 1, dtype=np.int32)
    return Tokens(tf.constant(ids), tf.zeros([total], tf.int32), tf.constant(positions), tf.constant(splits))


LENGTHS = [
    [],
    [1],
    [0],
    [0, 0, 0],
    [5, 1, 3],
    [0, 7, 0, 2],
    [TOKEN_BUDGET],
    [TOKEN_BUDGET + 9, 1],
    [3] * 700,
    list(range(60)) * 3,
]


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} rows")
def test_every_row_comes_back_in_its_place(lengths: list[int]) -> None:
    packed = tokens(lengths)

    @tf.function(autograph=False)
    def sums() -> tf.Tensor:
        def encode(chunk: Chunk) -> tf.Tensor:
            real = tf.cast(chunk.tokens.ids[: chunk.total], tf.float32)
            row = row_of_token(chunk.tokens.row_splits)
            return tf.math.unsorted_segment_sum(tf.stack([real, tf.ones_like(real)], 1), row, chunk.rows)

        return in_chunks(packed, lambda: encode, 2, per_token=False)

    rows = np.split(np.arange(1, sum(lengths) + 1), np.cumsum(lengths)[:-1]) if lengths else []
    expected = np.array([[row.sum(), len(row)] for row in rows], np.float32).reshape(-1, 2)
    assert np.array_equal(sums(), expected)


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} rows")
def test_every_token_comes_back_in_its_place(lengths: list[int]) -> None:
    packed = tokens(lengths)

    @tf.function(autograph=False)
    def values() -> tf.Tensor:
        def encode(chunk: Chunk) -> tf.Tensor:
            return tf.cast(tf.stack([chunk.tokens.ids, chunk.tokens.positions], 1), tf.float32)

        return in_chunks(packed, lambda: encode, 2, per_token=True)

    assert np.array_equal(values(), np.stack([packed.ids, packed.positions], 1).astype(np.float32))


def chunks_of(lengths: list[int], *, coarse: bool = False) -> list[tuple[int, int, int]]:
    """Rows, padded length and filled count of tokens of each chunk that rows of these lengths are cut into."""
    packed = tokens(lengths)
    seen: list[tuple[int, int, int]] = []

    def record(rows: int, length: int, total: int) -> np.ndarray:
        seen.append((int(rows), int(length), int(total)))
        return np.zeros([int(rows), 1], np.float32)

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        def encode(chunk: Chunk) -> tf.Tensor:
            return tf.numpy_function(record, [chunk.rows, chunk.length, tf.size(chunk.tokens.ids)], tf.float32)

        return in_chunks(packed, lambda: encode, 1, per_token=False, coarse=coarse)

    run()
    assert sum(rows for rows, _, _ in seen) == len(lengths)
    return seen


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} rows")
def test_chunks_hold_at_most_the_budget_unless_one_row_is_longer(lengths: list[int]) -> None:
    seen = chunks_of(lengths)
    for rows, length, total in seen:
        assert rows * length <= TOKEN_BUDGET or rows == 1 or length == ROUND_TO
        multiple = ROUND_TO if len(lengths) > 1 else ROUND_SINGLE_TO
        assert length % multiple == 0
        assert total % multiple == 0
    # no work on padding: what is computed exceeds the tokens by the rounding of each chunk only
    assert sum(total for _, _, total in seen) <= sum(lengths) + ROUND_TO * len(seen)


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [([8] * 9, 1), ([8] * 10, 2), ([8] * 64, 2), ([8] * 65, 4), ([16] * 64, 4), ([8] * 12 + [96], 2)],
)
def test_a_batch_in_float32_is_cut_into_an_even_number_of_equal_parts(lengths: list[int], parts: int) -> None:
    totals = [total for _, _, total in chunks_of(lengths)]
    assert len(totals) == parts
    assert max(totals) - min(totals) <= max(lengths[:-1])


def test_in_lower_precision_a_batch_is_cut_by_the_budget_alone() -> None:
    assert [total for _, _, total in chunks_of([16] * 48, coarse=True)] == [384, 384]


def test_the_padded_view_and_the_packed_tokens_lead_to_each_other() -> None:
    chunk = make_chunk(tokens([3, 0, 9, 1]))
    slot, token, mask = chunk.slot.numpy(), chunk.token.numpy(), chunk.mask.numpy()
    total = int(chunk.total)
    assert (total, int(chunk.rows), int(chunk.length)) == (13, 4, 16)
    assert token.shape == mask.shape == (4, 16)
    assert np.array_equal(token.ravel()[slot[:total]], np.arange(total))
    assert np.array_equal(np.flatnonzero(mask), slot[:total])
    # at padding a row's own first token, so that nothing of one row is seen by another; rows 1 and 4 have none
    assert [set(row[~seen]) for row, seen in zip(token, mask, strict=True)] == [{0}, {3}, {3}, {12}]


def test_the_padded_view_is_filled_up_to_few_sizes() -> None:
    chunk = make_chunk(tokens([70, 2, 3, 4, 5]))
    assert chunk.mask.shape == chunk.token.shape == (8, 80)
    assert int(chunk.rows) == 5
    assert np.asarray(chunk.mask).sum(1).tolist() == [70, 2, 3, 4, 5, 0, 0, 0]
    assert make_single_chunk(tokens([70])).mask.shape == (1, 80)


@pytest.mark.parametrize("lengths", [[7], [70], [3, 0, 9, 1], [1, 2, 3, 4, 70]], ids=str)
def test_heads_are_split_as_a_transposed_padded_view_has_them_and_joined_again(lengths: list[int]) -> None:
    chunk = (make_single_chunk if len(lengths) == 1 else make_chunk)(tokens(lengths))
    count, parts, size = 3, 2, 4
    heads = chunk.heads(count)
    filled = chunk.slot.shape[0]
    values = np.random.default_rng(0).standard_normal([filled, parts * count * size]).astype(np.float32)
    found = np.stack([part.numpy() for part in heads.split(tf.constant(values), size, [count] * parts)])
    padded = values[chunk.token.numpy()].reshape(*chunk.token.shape, parts, count, size)
    assert np.array_equal(found, padded.transpose(2, 0, 3, 1, 4))
    total = sum(lengths)
    for part in range(parts):
        wanted = values.reshape(filled, parts, count * size)[:, part]
        assert np.array_equal(heads.join(tf.constant(found[part]), like=tf.constant(wanted))[:total], wanted[:total])


@pytest.mark.parametrize("threads", [1, 4])
def test_chunks_computed_at_a_time_give_what_they_give_one_after_another(threads: int) -> None:
    lengths = [5 + 7 * row % 60 for row in range(400)]
    graph = tf.Graph()
    with graph.as_default():
        packed = tokens(lengths)
        weight = tf.constant(np.random.default_rng(0).standard_normal([64, 64]).astype(np.float32))

        def encode(chunk: Chunk) -> tf.Tensor:
            hidden = tf.one_hot(chunk.tokens.ids % 64, 64)
            for _ in range(4):
                hidden = tf.tanh(hidden @ weight)
            row = row_of_token(chunk.tokens.row_splits)
            return tf.math.unsorted_segment_sum(hidden[: chunk.total], row, chunk.rows)

        result = tf.function(lambda: in_chunks(packed, lambda: encode, 64, per_token=False), autograph=False)()
        alone = [in_chunks(tokens([length]), lambda: encode, 64, per_token=False) for length in lengths[:1]]
    options = tf.compat.v1.ConfigProto(
        inter_op_parallelism_threads=threads, intra_op_parallelism_threads=1, use_per_session_threads=True
    )
    with tf.compat.v1.Session(graph=graph, config=options) as session:
        first = session.run(result)
        for _ in range(5):
            assert np.array_equal(session.run(result), first)
        assert first.shape == (400, 64)
        assert np.allclose(first[0], session.run(alone[0])[0], atol=1e-5)


def test_pack_drops_what_the_mask_leaves_out_and_keeps_columns_as_positions() -> None:
    packed = pack(
        tf.constant([[5, 6, 7], [8, 9, 10]]), tf.constant([[0, 1, 1], [1, 0, 0]]), tf.constant([[0, 1, 0], [1, 1, 1]])
    )
    assert packed.ids.numpy().tolist() == [6, 7, 8]
    assert packed.type_ids.numpy().tolist() == [1, 0, 1]
    assert packed.positions.numpy().tolist() == [1, 2, 0]
    assert packed.row_splits.numpy().tolist() == [0, 2, 3]
