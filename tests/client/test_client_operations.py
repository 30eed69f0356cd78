"""Every operation, over gRPC and REST, sync and async, against an independent peer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_serving import PAD, FakeServing, tokens
from text_vectors import DIM, vectors

from toolkit.client import AsyncClient, Client, Split
from toolkit.errors import (
    DeadlineError,
    InputError,
    ModelNotFoundError,
    ResponseError,
    SignatureError,
    UnreachableError,
)

TEXTS = [f"text {i} " + "word " * (i % 7) for i in range(300)] + ["", "é漢😀", "a\x00b"]


class AsyncAsSync:
    """`AsyncClient` behind `Client`'s face, so that one set of tests covers both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._loop.run_until_complete(self._collect(result))
            return self._loop.run_until_complete(result)

        return call

    async def _collect(self, items: Any) -> list[Any]:
        return [item async for item in items]

    def __enter__(self) -> AsyncAsSync:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[Client, AsyncAsSync], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def url(fake: FakeServing, protocol: str) -> str:
    return fake.grpc_url if protocol == "grpc" else fake.rest_url


@pytest.fixture
def connect(kind: Any, url: str) -> Callable[..., Any]:
    def make(model: str = "fake", address: str = url, **options: Any) -> Any:
        return kind(address, model, **options)

    return make


def test_embed_gives_each_text_its_own_vector_in_order(connect: Callable[..., Any]) -> None:
    with connect(split=Split(rows=7, in_flight=5)) as client:
        found = client.embed(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), DIM)
    assert found.flags.writeable
    assert np.array_equal(found, vectors(TEXTS))


def test_embed_takes_any_iterable_of_str(connect: Callable[..., Any]) -> None:
    with connect() as client:
        for texts in (tuple(TEXTS), iter(TEXTS), np.array(TEXTS[:-1]), dict.fromkeys(TEXTS)):
            assert np.array_equal(client.embed(texts), vectors(TEXTS)[: 302 if isinstance(texts, np.ndarray) else 303])


def test_no_texts_give_an_empty_array_of_the_models_dimension(connect: Callable[..., Any]) -> None:
    with connect() as client:
        assert client.embed([]).shape == (0, DIM)
        assert client.embed([]).dtype == np.float32
        empty = client.detailed([])
        assert (empty.embedding.shape, empty.num_tokens.shape, empty.truncated.dtype) == (
            (0, DIM),
            (0,),
            np.dtype(bool),
        )
        assert client.tokenize([])["input_ids"].shape == (0, 0)
        assert client.rerank("q", []) == []


def test_embed_stream_reads_lazily_and_keeps_order(connect: Callable[..., Any]) -> None:
    with connect(split=Split(rows=16)) as client:
        parts = list(client.embed_stream(text for text in TEXTS))
    assert len(parts) > 10
    assert np.array_equal(np.concatenate(parts), vectors(TEXTS))


def test_embed_reports_progress_to_the_last_row(connect: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []
    with connect(split=Split(rows=100)) as client:
        client.embed(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(100, 303), (200, 303), (300, 303), (303, 303)]


def test_detailed(connect: Callable[..., Any]) -> None:
    with connect(split=Split(rows=50)) as client:
        found = client.detailed(TEXTS)
    counts = np.array([len(tokens(text.encode())) for text in TEXTS])
    assert np.array_equal(found.embedding, vectors(TEXTS))
    assert np.array_equal(found.num_tokens, counts)
    assert found.num_tokens.dtype == np.int32
    assert np.array_equal(found.truncated, counts > 5)
    assert found.truncated.dtype == np.bool_


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_tokenize_pads_all_rows_alike_however_the_input_is_split(connect: Callable[..., Any], rows: int) -> None:
    texts = ["one", "one two three", "", "one two"] * 5
    with connect(split=Split(rows=rows)) as client:
        found = client.tokenize(texts)
    expected = [tokens(text.encode()) for text in texts]
    assert found["input_ids"].tolist() == [row + [PAD] * (5 - len(row)) for row in expected]
    assert found["attention_mask"].tolist() == [[1] * len(row) + [0] * (5 - len(row)) for row in expected]
    assert all(value.dtype == np.int32 for value in found.values())


def test_rerank_sorts_by_falling_score(connect: Callable[..., Any]) -> None:
    documents = ["long document", "doc", "a document", "doc"]
    with connect(split=Split(rows=2)) as client:
        found = client.rerank("query", documents)
        assert [(item.index, item.score, item.document) for item in found] == [
            (1, 497.0, "doc"), (3, 497.0, "doc"), (2, 490.0, "a document"), (0, 487.0, "long document"),
        ]  # fmt: skip
        assert client.rerank("query", documents, top_k=1) == found[:1]


def test_predict_reaches_any_signature_in_its_own_dtypes(connect: Callable[..., Any]) -> None:
    with connect() as client:
        found = client.predict({"x": np.array([1, -2, 100], np.float32)}, signature="numbers")
        assert {name: (value.dtype.name, value.tolist()) for name, value in found.items()} == {
            "doubled": ("float32", [2.0, -4.0, 200.0]),
            "flag": ("bool", [True, False, True]),
            "small": ("int8", [1, -2, 100]),
        }
        assert client.predict({"x": [0.5]}, signature="numbers")["doubled"].tolist() == [1.0]
        only = client.predict({"x": np.zeros(1, np.float32)}, signature="numbers", outputs=["flag"])
        assert list(only) == ["flag"]
        assert client.predict({"text": ["a", "é"]}, signature="echo")["text"].tolist() == [b"a", "é".encode()]
        assert client.predict({"text": [b"a\x00"]}, signature="echo")["text"].tolist() == [b"a\x00"]
        small = client.embed(TEXTS[:3], signature="quantized")
        assert small.dtype == np.int8
        assert np.array_equal(small, (vectors(TEXTS[:3]) * 254).astype(np.int8))


def test_status_metadata_and_readiness(connect: Callable[..., Any]) -> None:
    with connect() as client:
        assert [(item.version, item.state, item.error) for item in client.status()] == [(1, "AVAILABLE", "")]
        metadata = client.metadata()
        assert (metadata.model, metadata.version) == ("fake", 1)
        assert str(metadata.signatures["serving_default"].outputs["embedding"]) == "embedding float32 [?, 8]"
        assert client.wait_until_ready(5) == metadata


def test_a_method_whose_signature_the_model_lacks_says_so_by_name(connect: Callable[..., Any]) -> None:
    with connect() as client:
        assert np.array_equal(client.embed_query(["a"]), vectors(["a"]))
        with pytest.raises(
            SignatureError, match=r"no signature 'embed_document'; it has: .*embed_query.*serving_default"
        ):
            client.embed_document(["a"])
        with pytest.raises(SignatureError, match="no signature 'nope'"):
            client.predict({"text": ["a"]}, signature="nope")
        with pytest.raises(SignatureError, match="no signature 'nope'"):
            client.embed([], signature="nope")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "texts is one str; give a list of str"),
        (b"bytes", "texts is one bytes"),
        (["a", 1], r"texts\[1\] is of type int"),
        ([None], r"texts\[0\] is of type NoneType"),
        ([b"a"], r"texts\[0\] is of type bytes"),
        (["a", "\ud800"], r"texts\[1\] is not valid Unicode"),
        (3, "texts is of type int"),
        (np.array([["a"]]), r"texts is an array of shape \[1, 1\]"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_before_anything_is_sent(
    connect: Callable[..., Any], fake: FakeServing, texts: Any, message: str
) -> None:
    calls = fake.calls
    with connect() as client, pytest.raises(InputError, match=message):
        client.embed(texts)
    assert fake.calls == calls


def test_unknown_model_version_and_label_are_named(connect: Callable[..., Any]) -> None:
    for options in ({"model": "nope"}, {"version": 9}, {"label": "nope"}):
        with connect(**options) as client, pytest.raises(ModelNotFoundError) as caught:
            client.embed(["a"])
        assert "nope" in str(caught.value) or "9" in str(caught.value)
        assert caught.value.attempts in (None, 1)


def test_version_and_label_choose_the_version(kind: Any, protocol: str, serve: Callable[..., FakeServing]) -> None:
    fake = serve(versions=(1, 2, 3), labels={"stable": 2})
    url = fake.grpc_url if protocol == "grpc" else fake.rest_url
    for options, version in (({}, 3), ({"version": 1}, 1), ({"label": "stable"}, 2)):
        with kind(url, "fake", split=Split(rows=2), **options) as client:
            assert np.array_equal(client.embed(TEXTS[:9]), vectors(TEXTS[:9], version))


def test_an_unreachable_server_is_one_clear_error(kind: Any, protocol: str) -> None:
    address = "localhost:1" if protocol == "grpc" else "http://localhost:1"
    with kind(address, "fake") as client, pytest.raises(UnreachableError) as caught:
        client.embed(["a"])
    assert caught.value.attempts == 4
    assert address in str(caught.value)
    with kind(address, "fake") as client, pytest.raises(DeadlineError, match=r"not ready within 0\.3 seconds; last: "):
        client.wait_until_ready(0.3)


def test_the_wrong_protocol_for_a_port_is_explained(kind: Any, fake: FakeServing) -> None:
    with (
        kind(f"grpc://127.0.0.1:{fake.rest_port}", "fake") as client,
        pytest.raises(UnreachableError, match="use http://"),
    ):
        client.embed(["a"])
    with (
        kind(f"http://127.0.0.1:{fake.grpc_port}", "fake") as client,
        pytest.raises(UnreachableError, match="use grpc://"),
    ):
        client.embed(["a"])


def test_a_missing_output_is_named(connect: Callable[..., Any]) -> None:
    with connect() as client, pytest.raises(ResponseError, match=r"no output 'embedding'|not those of the signature"):
        client.embed(["a"], signature="echo")


def test_a_stream_left_early_cancels_what_is_under_way(fake: FakeServing) -> None:
    endless = (f"text {i}" for i in itertools.count())
    with Client(fake.grpc_url, "fake", split=Split(rows=4, in_flight=2)) as client:
        assert np.array_equal(next(iter(client.embed_stream(endless))), vectors([f"text {i}" for i in range(4)]))
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))


def test_one_client_serves_many_threads(fake: FakeServing, url: str) -> None:
    with Client(url, "fake", split=Split(rows=16)) as client, ThreadPoolExecutor(8) as pool:
        parts = [TEXTS[i::20] for i in range(20)]
        for part, found in zip(parts, pool.map(client.embed, parts), strict=True):
            assert np.array_equal(found, vectors(part))


def test_a_closed_client_says_so(connect: Callable[..., Any]) -> None:
    with connect() as client:
        client.embed(["a"])
        client.close()
        with pytest.raises(InputError, match="client is closed"):
            client.embed(["a"])


def test_both_clients_have_the_same_vocabulary() -> None:
    def face(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if not name.startswith("_") and callable(member)
        }

    assert face(Client) == face(AsyncClient)
    assert list(inspect.signature(Client).parameters) == list(inspect.signature(AsyncClient).parameters)
