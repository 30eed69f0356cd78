"""The generator's own REST transport: what it sends and takes is what the client's sends and takes."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from toolkit.client.transport.address import Address, parse_address
from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interface import AsyncTransport, Connection, Outcome
from toolkit.client.transport.rest import RestTransport
from toolkit.client.types import Request
from toolkit.loadtest.rest import LeanRestTransport, open_transport

Make = Callable[[Address, Connection], AsyncTransport]
both = pytest.mark.parametrize("make", [RestTransport, LeanRestTransport], ids=["client", "generator"])


@dataclass(frozen=True)
class Came:
    """A request as a server got it, at its ``address``; head in lower case."""

    head: bytes
    body: bytes
    address: str


@dataclass
class Server:
    """Gives the same answer to every request, at all ``addresses``. ``close``: and then closes the connection."""

    answer: bytes
    close: bool = False
    addresses: tuple[str, ...] = ("127.0.0.1",)
    came: list[Came] = field(default_factory=list)
    connections: int = 0

    def sent(self, make: Make, bodies: list[bytes], connection: Connection = Connection(), name: str = "127.0.0.1"
             ) -> list[Outcome]:  # fmt: skip
        """What becomes of ``bodies``, sent one after the other to ``name``."""

        async def send() -> list[Outcome]:
            port, servers = 0, []
            for address in self.addresses:
                servers.append(await asyncio.start_server(self._serve, address, port))
                port = servers[-1].sockets[0].getsockname()[1]
            transport = make(parse_address(f"http://{name}:{port}"), connection)
            try:
                return [await transport.send(Request("/v1/models/m:predict", body), 5.0) for body in bodies]
            finally:
                await transport.close()
                for server in servers:
                    server.close()

        return asyncio.run(send())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: *(\d+)", head)
                assert length
                body = await reader.readexactly(int(length[1]))
                self.came.append(Came(head, body, writer.get_extra_info("sockname")[0]))
                writer.write(self.answer)
                if self.close:
                    break
        writer.close()


@both
def test_bodies_of_1024_bytes_and_more_are_compressed_where_that_is_asked_for(make: Make) -> None:
    bodies = [b"x" * 1023, b"y" * 1024, b"z" * 5000]
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    assert server.sent(make, bodies, Connection(compression="gzip")) == [b"{}"] * 3
    assert server.connections == 1
    assert [b"content-encoding: gzip" in item.head for item in server.came] == [False, True, True]
    assert server.came[0].body == bodies[0]
    assert [gzip.decompress(item.body) for item in server.came[1:]] == bodies[1:]
    server.came.clear()
    server.sent(make, bodies)
    assert [item.body for item in server.came] == bodies
    assert not any(b"content-encoding" in item.head for item in server.came)


@both
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_an_answer_without_a_length_ends_with_the_connection(make: Make, head: bytes) -> None:
    server = Server(head + b'{"outputs": [[0.0]]}', close=True)
    assert server.sent(make, [b"1", b"2"]) == [b'{"outputs": [[0.0]]}'] * 2
    assert [item.body for item in server.came] == [b"1", b"2"]
    assert server.connections == 2


@both
@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
    ids=["head", "length", "chunks"],
)
def test_an_answer_that_breaks_off_is_no_answer(make: Make, part: bytes) -> None:
    outcomes = Server(part, close=True).sent(make, [b"1"])
    assert [isinstance(item, Failure) and item.error.__name__ for item in outcomes] == ["UnreachableError"]


@both
def test_a_failure_without_a_length_keeps_its_reason(make: Make) -> None:
    server = Server(b'HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n{"error": "the queue is full"}', close=True)
    (outcome,) = server.sent(make, [b"1"])
    assert isinstance(outcome, Failure)
    assert outcome.message == "503: the queue is full"


@both
def test_round_robin_takes_the_addresses_of_a_name_in_turn_and_keeps_their_connections(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.getaddrinfo
    addresses = ("127.0.0.1", "127.0.0.2")

    def found(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "headless.test":
            return known(host, port, *more, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", addresses=addresses)
    assert server.sent(make, [b"1"] * 6, Connection(round_robin=True), "headless.test") == [b"{}"] * 6
    assert [item.address for item in server.came] == [*addresses] * 3
    assert server.connections == 2
    assert all(b"host: headless.test:" in item.head for item in server.came)


def test_the_generator_sends_by_the_environments_proxy_where_the_client_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")

    async def chosen(url: str, connection: Connection) -> type:
        transport = open_transport(parse_address(url), connection)
        await transport.close()
        return type(transport)

    assert asyncio.run(chosen("http://server.test:8501", Connection())) is RestTransport
    assert asyncio.run(chosen("http://server.test:8501", Connection(proxies=False))) is LeanRestTransport
    assert asyncio.run(chosen("http://127.0.0.1:8501", Connection())) is LeanRestTransport
