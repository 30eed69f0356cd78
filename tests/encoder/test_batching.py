"""Requests that arrive together are encoded together, and no caller can tell."""

from __future__ import annotations

import collections
import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from support import TEXTS, largest_difference

from toolkit.convert import export
from toolkit.encoder.batching import batched
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.packing import Tokens

DIM = 3


def packed(rows: list[list[int]]) -> list[tf.Tensor]:
    flat = [token for row in rows for token in row]
    splits = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = (flat, [2 * token for token in flat], [3 * token for token in flat], splits)
    return Tokens(*(tf.constant(np.array(column, np.int32)) for column in columns)).tensors()


class Encoder:
    """Sums each row's three columns, and records the rows of every call."""

    def __init__(self, wait_for: threading.Event | None = None) -> None:
        self.calls: list[list[int]] = []
        self.wait_for = wait_for
        self.started = threading.Event()

    def __call__(self, *columns: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._sums, columns, tf.float32), [None, DIM])

    def _sums(self, *columns: Any) -> Any:
        *values, splits = columns
        self.calls.append(np.diff(splits).tolist())
        self.started.set()
        if self.wait_for is not None:
            self.wait_for.wait(30)
        sums = [[column[a:b].sum() for column in values] for a, b in itertools.pairwise(splits)]
        return np.array(sums, np.float32).reshape(-1, DIM)


def function(alone: Encoder, together: Encoder, options: Batching) -> Any:
    run = batched(alone, together, DIM, options)
    signature = [tf.TensorSpec([None], tf.int32)] * 4
    # Traced here: the first call of a function that is not holds a lock that others wait for.
    return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()


def expected(rows: list[list[int]]) -> Any:
    return np.array([[sum(row), 2 * sum(row), 3 * sum(row)] for row in rows], np.float32).reshape(-1, DIM)


@pytest.mark.parametrize("rows", [[[1]], [[5, 6, 7], [1], [2, 3]], [[], [4], [], []], [[]]], ids=str)
def test_one_request_comes_back_as_it_went_in(rows: list[list[int]]) -> None:
    alone, together = Encoder(), Encoder()
    result = function(alone, together, Batching(max_tokens=64))(*packed(rows))
    np.testing.assert_array_equal(result.numpy(), expected(rows))
    assert together.calls == [[len(row) for row in rows]]
    assert not alone.calls


def test_how_many_tokens_pooling_leaves_out_rides_along() -> None:
    def encode(ids: tf.Tensor, types: tf.Tensor, positions: tf.Tensor, splits: tf.Tensor, skipped: Any) -> tf.Tensor:
        first = tf.cast(splits[:-1], tf.float32)
        return tf.stack([tf.cast(skipped, tf.float32), first, first], 1)

    run = batched(encode, encode, DIM, Batching(max_tokens=64), counted=True)
    run = tf.function(run, input_signature=[tf.TensorSpec([None], tf.int32)] * 5, autograph=False)
    answer = run(*packed([[5, 6, 7], [1], [2, 3]]), tf.constant([2, 0, 1]))
    np.testing.assert_array_equal(answer.numpy(), [[2, 0, 0], [0, 3, 3], [1, 4, 4]])


def test_a_request_larger_than_a_batch_and_an_empty_one_are_encoded_by_themselves() -> None:
    alone, together = Encoder(), Encoder()
    run = function(alone, together, Batching(max_tokens=8))
    for rows in ([[1, 2, 3], [4, 5, 6, 7]], []):
        np.testing.assert_array_equal(run(*packed(rows)).numpy(), expected(rows))
    assert alone.calls == [[3, 4], []]
    run(*packed([[1, 2, 3], [4, 5, 6]]))  # six tokens and two headers just fit
    assert together.calls == [[3, 3]]


def test_requests_that_wait_are_joined_within_the_token_budget_and_never_cut() -> None:
    release = threading.Event()
    together = Encoder(release)
    run = function(Encoder(), together, Batching(max_tokens=12, threads=1))
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        rows = [[number, number + 1], [number + 2]]  # five units: two requests to a batch
        results[number] = (run(*packed(rows)).numpy(), expected(rows))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(9)]
    callers[0].start()
    assert together.started.wait(30)
    for caller in callers[1:]:
        caller.start()
    deadline = threading.Event()
    deadline.wait(1.0)  # all have queued by now; were they late, there would only be more batches
    release.set()
    for caller in callers:
        caller.join(30)
    assert sorted(results) == list(range(9))
    for got, wanted in results.values():
        np.testing.assert_array_equal(got, wanted)
    assert sum(len(call) for call in together.calls) == 18
    assert all(call in ([2, 1], [2, 1, 2, 1]) for call in together.calls), together.calls
    assert [2, 1, 2, 1] in together.calls


def test_a_full_queue_answers_unavailable_and_what_was_accepted_is_right() -> None:
    release = threading.Event()
    together = Encoder(release)
    run = function(Encoder(), together, Batching(max_tokens=4, threads=1, max_queued_batches=1))
    outcomes: collections.Counter[str] = collections.Counter()

    def call() -> None:
        try:
            np.testing.assert_array_equal(run(*packed([[1, 2, 3]])).numpy(), expected([[1, 2, 3]]))
            outcomes["right"] += 1
        except tf.errors.UnavailableError:
            outcomes["unavailable"] += 1

    callers = [threading.Thread(target=call) for _ in range(8)]
    callers[0].start()
    assert together.started.wait(30)
    for caller in callers[1:]:
        caller.start()
    for caller in callers[1:]:
        caller.join(0.5)
    release.set()
    for caller in callers:
        caller.join(30)
    assert outcomes["right"] + outcomes["unavailable"] == 8
    assert outcomes["right"] >= 1
    assert outcomes["unavailable"] >= 1


def test_concurrent_callers_of_an_artifact_get_the_vectors_of_one_without_batching(
    tiny_source: Path, tiny_export: Path, tmp_path: Path
) -> None:
    plain = export(tiny_source, tmp_path, "plain", verify=False, batching=None).path
    loaded = [tf.saved_model.load(str(path)) for path in (plain, tiny_export)]
    unbatched, together = (model.signatures["serving_default"] for model in loaded)
    wanted = unbatched(text=tf.constant(TEXTS))["embedding"].numpy()
    worst: list[float] = []

    def call(first: int) -> None:
        for turn in range(20):
            chosen = [(first + turn + offset) % len(TEXTS) for offset in range(1 + turn % 3)]
            got = together(text=tf.constant([TEXTS[i] for i in chosen]))["embedding"].numpy()
            worst.append(largest_difference(got, wanted[chosen]))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert len(worst) == 160
    assert max(worst) < 1e-6
