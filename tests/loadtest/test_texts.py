"""What is sent: texts, their tokens by the model's own count, rows, signatures by weight; over both protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_serving import FakeServing, RefusedError, tokens
from known import settings
from tensorflow_serving.apis import predict_pb2

from toolkit.client import Client
from toolkit.errors import InputError
from toolkit.loadtest import Closed, Distribution, Target, TextSource, run
from toolkit.loadtest.texts import Traffic, prepare

ONE = Distribution()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    server = FakeServing().start()
    with Client(server.grpc_url, "fake") as client:
        yield client
    server.stop()


def sent(traffic: Traffic) -> list[dict[str, list[bytes]]]:
    found = []
    for request in traffic.requests:
        assert request.body is not None
        message = predict_pb2.PredictRequest.FromString(request.body)
        found.append({name: list(tensor.string_val) for name, tensor in message.inputs.items()})
    return found


def test_texts_of_a_file_are_sent_and_their_tokens_counted_by_the_model(client: Client, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"t": "one"}\n{"t": "two words"}\n')
    source = TextSource(str(tmp_path / "texts.jsonl"), column="t")
    traffic = prepare(client, (Target("fake"),), source, Distribution((3,), (1.0,)), 50, 0)
    assert traffic.counted
    for inputs, rows, count in zip(sent(traffic), traffic.rows, traffic.tokens, strict=True):
        assert rows == len(inputs["text"]) == 3
        assert set(inputs["text"]) <= {b"one", b"two words"}
        assert count == sum(len(tokens(text)) for text in inputs["text"])


def test_a_distribution_of_lengths_gives_texts_of_exactly_so_many_tokens(client: Client) -> None:
    source = TextSource(tokens=Distribution.parse("5:3,40:1", "x"))
    traffic = prepare(client, (Target("fake"),), source, ONE, 400, 0)
    assert Counter(len(tokens(inputs["text"][0])) for inputs in sent(traffic)).keys() == {5, 40}
    assert list(traffic.tokens) == [len(tokens(inputs["text"][0])) for inputs in sent(traffic)]
    assert 0.15 < np.mean(np.array(traffic.tokens) == 40) < 0.35


def test_a_length_below_the_special_tokens_is_refused(client: Client) -> None:
    with pytest.raises(InputError, match="no text of 2 tokens"):
        prepare(client, (Target("fake"),), TextSource(tokens=Distribution((2,), (1.0,))), ONE, 4, 0)


def test_signatures_are_mixed_by_weight_and_each_gets_all_its_text_inputs(client: Client) -> None:
    targets = (Target("fake", "rerank", 1.0), Target("fake", "detailed", 3.0))
    traffic = prepare(client, targets, TextSource(), Distribution.parse("1-4", "x"), 400, 0)
    assert 0.65 < np.mean(np.array(traffic.target) == 1) < 0.85
    for place, rows, inputs in zip(traffic.target, traffic.rows, sent(traffic), strict=True):
        assert set(inputs) == ({"query", "document"} if place == 0 else {"text"})
        assert {len(column) for column in inputs.values()} == {rows}


def test_a_seed_gives_the_same_requests_again(client: Client) -> None:
    first, again, other = (prepare(client, (Target("fake"),), TextSource(), ONE, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_signature_that_takes_numbers_is_refused(client: Client) -> None:
    with pytest.raises(InputError, match=r"numbers takes more than text: x float32"):
        prepare(client, (Target("fake", "numbers"),), TextSource(), ONE, 4, 0)


def test_over_rest_errors_have_their_http_status_and_each_model_its_own_figures(tmp_path: Path) -> None:
    def before(call: int, rows: int) -> None:
        if call % 5 == 0 and call > 20:
            raise RefusedError("RESOURCE_EXHAUSTED", "full")

    server = FakeServing(before=before).start()
    try:
        targets = (Target("fake"), Target("fake", "detailed"))
        report = run(settings(Closed(2, 1e9, 60), server.rest_url, targets=targets))
    finally:
        server.stop()
    measured = report.measured
    assert measured.sent == 60
    assert set(measured.errors) == {"429 OverloadedError"}
    assert 0 < measured.failed <= 12
    assert set(measured.by_target) == {"fake serving_default", "fake detailed"}
    assert sum(kind.answered + kind.failed for kind in measured.by_target.values()) == 60
    assert measured.throughput.tokens is not None
    assert measured.throughput.tokens > 0
