"""The client behind a proxy that breaks connections, and with processes killed under it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chaos import embed_command, free_port, survive
from fake_serving import FakeServing
from fault_proxy import Fault, FaultProxy, mixture
from text_vectors import DIM, vectors

from toolkit.client import AsyncClient, Client, Retry, Split
from toolkit.errors import ClientError, DeadlineError, OverloadedError, UnreachableError

TEXTS = [f"text {i}" for i in range(2000)]


class Proxies:
    def __init__(self, fake: FakeServing, protocol: str) -> None:
        self.upstream = fake.grpc_port if protocol == "grpc" else fake.rest_port
        self.scheme = "grpc" if protocol == "grpc" else "http"
        self.open: list[FaultProxy] = []

    def __call__(self, *faults: Fault | None) -> tuple[FaultProxy, str]:
        """A proxy with these faults for its first connections, none after."""
        return self.mixed(lambda n: faults[n - 1] if n <= len(faults) else None)

    def mixed(self, faults: object) -> tuple[FaultProxy, str]:
        self.open.append(FaultProxy(self.upstream, faults))  # type: ignore[arg-type]
        return self.open[-1], f"{self.scheme}://127.0.0.1:{self.open[-1].port}"


@pytest.fixture
def proxied(fake: FakeServing, protocol: str) -> Iterator[Proxies]:
    proxies = Proxies(fake, protocol)
    yield proxies
    for proxy in proxies.open:
        proxy.close()


QUICK = Retry(attempts=8, base=0.02, longest=0.2, burst=1000)


@pytest.mark.parametrize("kind", ["drop", "reset", "half", "503"])
def test_a_broken_connection_is_made_good(proxied: Proxies, kind: str) -> None:
    proxy, url = proxied(*[Fault(kind, 2000)] * 3)
    with Client(url, "fake", split=Split(rows=50), retry=QUICK) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
    assert proxy.happened[kind] >= 1


def test_a_connection_that_always_breaks_is_one_typed_error(proxied: Proxies) -> None:
    for kind, error in (
        ("reset", UnreachableError),
        ("half", UnreachableError),
        ("503", (OverloadedError, UnreachableError)),
    ):
        _, url = proxied.mixed(lambda n, kind=kind: Fault(kind, 0))
        with Client(url, "fake", retry=Retry(attempts=3, base=0.01)) as client, pytest.raises(error) as caught:
            client.predict({"text": ["a"]}) if proxied.scheme == "grpc" else client.embed(["a"])
        assert caught.value.attempts == 3


def test_a_held_back_answer_meets_the_deadline(proxied: Proxies) -> None:
    _, url = proxied.mixed(lambda n: Fault("delay", 0, 30.0))
    with Client(url, "fake") as client, pytest.raises(DeadlineError):
        client.embed(["a"], deadline=0.3)
    with Client(url, "fake", timeout=0.1, retry=Retry(attempts=2)) as client, pytest.raises(DeadlineError) as caught:
        client.embed(["a"])
    assert caught.value.attempts == 2


@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_lost_or_shifted_under_a_mixture_of_faults(proxied: Proxies, seed: int) -> None:
    proxy, url = proxied.mixed(mixture(seed, most=60_000))
    retry = Retry(base=0.01, longest=0.1, patience=60)
    with Client(url, "fake", split=Split(rows=20), retry=retry) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))

    async def go() -> np.ndarray:
        async with AsyncClient(url, "fake", split=Split(rows=20), retry=retry) as client:
            return await client.embed(TEXTS)

    assert np.array_equal(asyncio.run(go()), vectors(TEXTS))
    assert proxy.happened


def test_a_call_that_fails_halfway_returns_nothing(fake: FakeServing, proxied: Proxies) -> None:
    _, url = proxied.mixed(lambda n: None if n == 1 else Fault("reset"))
    proxied.open[-1].faults = lambda n: Fault("reset", 20_000)
    with Client(url, "fake", split=Split(rows=20, in_flight=1), retry=Retry(attempts=1)) as client:
        with pytest.raises(ClientError) as caught:
            client.embed(TEXTS)
        assert caught.value.rows is not None or proxied.scheme == "http"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc"])
def test_bulk_survives_kills_of_server_and_client_behind_a_faulty_proxy(tmp_path: Path, protocol: str) -> None:
    texts = [f"row {i}" for i in range(20_000)]
    source, target = tmp_path / "texts.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts) + "\n")
    port = free_port()
    outcome = survive(
        [sys.executable, str(Path(__file__).with_name("light_serving.py")), str(port)],
        port,
        lambda proxy: embed_command(f"grpc://127.0.0.1:{proxy}", "fake", source, target, "--rows", "50"),
        target,
        len(texts) * DIM * 4,
        server_kills=2,
        client_kills=1,
        faults=mixture(5, most=400_000, healthy=0.4),
        limit=150,
    )
    assert (outcome.server_kills, outcome.client_kills, outcome.status) == (2, 1, 0)
    assert np.array_equal(np.load(target), vectors(texts))
