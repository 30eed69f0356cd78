"""The client behind a proxy that breaks connections, and with processes killed under it."""

from __future__ import annotations

import asyncio
import subprocess
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
from toolkit.client.bulk import Source, embed_file
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


# attempts: the proxy's 503 answers up to 20 frames on a connection, two of them or more for each attempt
QUICK = Retry(attempts=24, base=0.02, longest=0.2, burst=1000)


@pytest.mark.parametrize("kind", ["drop", "reset", "half", "503"])
def test_a_broken_connection_is_made_good(proxied: Proxies, kind: str) -> None:
    proxy, url = proxied(*[Fault(kind, 2000)] * 2)
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


@pytest.fixture
def replicas() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Four servers, each a process that the text ``poison`` ends, and the address of all."""
    ports = [free_port() for _ in range(4)]
    program = str(Path(__file__).with_name("light_serving.py"))
    processes = [subprocess.Popen([sys.executable, program, str(port)]) for port in ports]
    yield "grpc://" + ",".join(f"127.0.0.1:{port}" for port in ports), processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_text_that_ends_servers_does_not_end_every_replica(
    replicas: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    url, processes = replicas
    for port in url.removeprefix("grpc://").split(","):
        with Client(port, "fake") as client:
            client.wait_until_ready(30)
    texts = [f"row {i}" for i in range(200)]
    texts[57] = "poison"
    source, target = tmp_path / "texts.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts))
    retry = Retry(base=0.3, longest=0.3)
    with Client(url, "fake", round_robin=True, split=Split(rows=10), retry=retry) as client:
        with pytest.raises(UnreachableError, match=r"the server went away 3 times while .*rows 50 to 59"):
            embed_file(client, Source.of(source), target, patience=60)
        assert [process.poll() for process in processes].count(None) == 1
        texts[57] = "harmless"
        source.write_text("\n".join(texts))
        assert embed_file(client, Source.of(source), target, resume=True, patience=60).rows == 200
    assert np.array_equal(np.load(target), vectors(texts))


def test_patience_does_not_send_a_request_for_ever_that_ends_its_connections(fake: FakeServing) -> None:
    dropped = FaultProxy(fake.rest_port, lambda n: Fault("drop", 0))
    retry = Retry(base=0.01, patience=60)
    with (
        Client(f"http://127.0.0.1:{dropped.port}", "fake", retry=retry) as client,
        pytest.raises(UnreachableError, match="the server went away 3 times"),
    ):
        client.embed(["a"])
    assert dropped.connections == 3
    dropped.close()
