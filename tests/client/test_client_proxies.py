"""Proxies of the environment: who goes through one, what errors say, how they are turned off."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_serving import FakeServing
from name_server import NameServer
from text_vectors import vectors

from toolkit.cli import cli
from toolkit.client import AsyncClient, Client, Retry
from toolkit.client.transport.address import parse_address
from toolkit.client.transport.proxies import find_proxy
from toolkit.errors import InputError, UnreachableError

VARIABLES = ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "no_grpc_proxy")
ONCE = Retry(attempts=1)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def closed() -> Iterator[str]:
    """The URL of a port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://user:secret@127.0.0.1:{bound.getsockname()[1]}"


class HttpProxy:
    """Sends everything, whatever server it is for, to ``upstream``; ``asked`` are the first lines."""

    def __init__(self, upstream: int) -> None:
        self.asked: list[str] = []
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        self.asked.append(head.split(b"\r\n")[0].decode())
        server = socket.create_connection(("127.0.0.1", self._upstream))
        if head.startswith(b"CONNECT "):
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            server.sendall(_origin(head))
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)

    def close(self) -> None:
        self._listener.close()


def _origin(data: bytes) -> bytes:
    return data.replace(b" http://model.example:8501/", b" /")


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(_origin(data))
    except OSError:
        pass
    finally:
        target.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_loopback_addresses_never_go_through_a_proxy(
    fake: FakeServing, protocol: str, closed: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES[:3]:
        monkeypatch.setenv(name, closed)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "[::1]")
    url = fake.grpc_url if protocol == "grpc" else fake.rest_url

    async def embed(url: str) -> np.ndarray:
        async with AsyncClient(url, "fake", retry=ONCE) as client:
            return await client.embed(["a"])

    for address in (url, url.replace("localhost", "127.0.0.1")):
        if asynchronous:
            assert np.array_equal(asyncio.run(embed(address)), vectors(["a"]))
        else:
            with Client(address, "fake", retry=ONCE) as client:
                assert np.array_equal(client.embed(["a"]), vectors(["a"]))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_says_which_variable_sent_the_request_through_which_proxy(
    protocol: str, closed: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", closed)
    url = "grpc://model.example:8500" if protocol == "grpc" else "http://model.example:8501"
    shown = closed.replace("user:secret@", "")

    async def embed() -> None:
        async with AsyncClient(url, "fake", retry=ONCE) as client:
            await client.embed(["a"])

    def ask() -> None:
        if asynchronous:
            asyncio.run(embed())
        else:
            with Client(url, "fake", retry=ONCE) as client:
                client.embed(["a"])

    with pytest.raises(UnreachableError) as caught:
        ask()
    assert f"sent through the proxy {shown} (environment variable http_proxy)" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_other_addresses_go_through_the_proxy_of_the_environment(
    fake: FakeServing, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = HttpProxy(fake.grpc_port if protocol == "grpc" else fake.rest_port)
    monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
    url = "grpc://model.example:8500" if protocol == "grpc" else "http://model.example:8501"
    with Client(url, "fake", retry=ONCE) as client:
        assert np.array_equal(client.embed(["a"]), vectors(["a"]))
    assert all("model.example:850" in line for line in proxy.asked)
    assert proxy.asked
    proxy.close()


def test_an_argument_turns_proxies_off(
    fake: FakeServing, protocol: str, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(self: Any, host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setenv("http_proxy", closed)
    names = NameServer("127.0.0.1")
    url = f"dns://127.0.0.1:{names.port}/model.test:{fake.grpc_port}"
    if protocol == "rest":
        url = f"http://model.test:{fake.rest_port}"
    with Client(url, "fake", retry=ONCE) as client, pytest.raises(UnreachableError):
        client.embed(["a"])
    with Client(url, "fake", retry=ONCE, proxies=False) as client:
        assert np.array_equal(client.embed(["a"]), vectors(["a"]))
    arguments = ["embed", "--url", url, "--model", "fake", "--no-proxy", "a"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    names.close()


@pytest.mark.parametrize(
    ("url", "variable", "value"),
    [
        ("http://model.example", "ALL_PROXY", "socks5://user:secret@127.0.0.1:9"),
        ("http://model.example", "http_proxy", "http://127.0.0.1:none"),
        ("http://model.example", "HTTP_PROXY", "http://[::1"),
        ("grpc://model.example", "https_proxy", "socks5h://127.0.0.1:9"),
        ("grpc://model.example", "grpc_proxy", "http://"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable(
    url: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    threads = threading.active_count()
    with pytest.raises(InputError, match=f"environment variable {variable}.*--no-proxy") as caught:
        Client(url, "fake")
    assert "secret" not in str(caught.value)
    assert threading.active_count() == threads
    Client(url, "fake", proxies=False).close()


@pytest.mark.parametrize(
    ("url", "environment", "variable"),
    [
        ("grpc://h", {"http_proxy": "p:1"}, "http_proxy"),
        ("grpc://h", {"http_proxy": "p:1", "https_proxy": "q:1"}, "https_proxy"),
        ("grpc://h", {"http_proxy": "p:1", "grpc_proxy": "q:1"}, "grpc_proxy"),
        ("grpc://h", {"HTTP_PROXY": "p:1", "all_proxy": "q:1"}, None),
        ("grpc://10.0.0.1:1,10.0.0.2:1", {"http_proxy": "p:1"}, "http_proxy"),
        ("grpc://127.0.0.1:1,127.0.0.2:1", {"http_proxy": "p:1"}, None),
        ("grpc://[::1]:1", {"http_proxy": "p:1"}, None),
        ("ipv6:[::1]:1", {"http_proxy": "p:1"}, None),
        ("unix:/run/x.sock", {"http_proxy": "p:1"}, None),
        ("xds:///service", {"http_proxy": "p:1"}, None),
        ("dns://8.8.8.8/h:1", {"http_proxy": "p:1"}, "http_proxy"),
        ("dns:localhost:1", {"http_proxy": "p:1"}, None),
        ("grpc://h", {"http_proxy": "p:1", "no_grpc_proxy": "h"}, None),
        ("http://h", {"http_proxy": "p:1", "no_grpc_proxy": "h"}, "http_proxy"),
        ("http://h", {"HTTP_PROXY": "p:1"}, "HTTP_PROXY"),
        ("http://h", {"https_proxy": "p:1"}, None),
        ("https://h", {"https_proxy": "p:1"}, "https_proxy"),
        ("https://h", {"ALL_PROXY": "p:1"}, "ALL_PROXY"),
        ("http://[::1]:1", {"http_proxy": "p:1"}, None),
        ("http://[::ffff:127.0.0.1]:1", {"http_proxy": "p:1"}, None),
        ("http://0.0.0.0:1", {"http_proxy": "p:1"}, None),
        ("http://a.localhost", {"http_proxy": "p:1"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": "[::1], net"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": ".net"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": "*.net"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": "h.net:80"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": "*"}, None),
        ("http://h.net", {"http_proxy": "p:1", "no_proxy": "et,,other"}, "http_proxy"),
        ("http://10.1.2.3", {"http_proxy": "p:1", "no_proxy": "10.0.0.0/8"}, None),
        ("http://11.1.2.3", {"http_proxy": "p:1", "no_proxy": "10.0.0.0/8"}, "http_proxy"),
        ("http://[fd00::1]", {"http_proxy": "p:1", "no_proxy": "[fd00::1]:80"}, None),
    ],
)
def test_which_variable_counts_for_which_address(
    url: str, environment: dict[str, str], variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(parse_address(url))
    assert (proxy and proxy.variable) == variable
