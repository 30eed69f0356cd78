"""The generator's own REST transport: what it sends and takes is what the client's sends and takes."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable

import pytest

from toolkit.client.transport.address import Address, parse_address
from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interface import AsyncTransport, Connection, Outcome
from toolkit.client.transport.rest import RestTransport
from toolkit.client.types import Request
from toolkit.loadtest.rest import LeanRestTransport

Make = Callable[[Address, Connection], AsyncTransport]
both = pytest.mark.parametrize("make", [RestTransport, LeanRestTransport], ids=["client", "generator"])


def exchanged(
    make: Make, bodies: list[bytes], answer: bytes, connection: Connection = Connection(), *, close: bool = False
) -> tuple[list[Outcome], list[tuple[bytes, bytes]], int]:
    """Send ``bodies`` one after the other to a server that gives the same answer to each; the outcomes, head and
    body of each request as it came, and the number of connections. ``close``: the server closes after each answer."""
    came: list[tuple[bytes, bytes]] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            assert length
            came.append((head.lower(), await reader.readexactly(int(length[1]))))
            writer.write(answer)
            if close:
                writer.close()
                return

    async def sent() -> list[Outcome]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = make(parse_address(f"http://127.0.0.1:{port}"), connection)
        try:
            return [await transport.send(Request("/v1/models/m:predict", body), 5.0) for body in bodies]
        finally:
            await transport.close()
            server.close()

    return asyncio.run(sent()), came, connections


@both
def test_bodies_of_1024_bytes_and_more_are_compressed_where_that_is_asked_for(make: Make) -> None:
    bodies = [b"x" * 1023, b"y" * 1024, b"z" * 5000]
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    outcomes, came, connections = exchanged(make, bodies, answer, Connection(compression="gzip"))
    assert outcomes == [b"{}"] * 3
    assert connections == 1
    assert [b"content-encoding: gzip" in head for head, _ in came] == [False, True, True]
    assert [body if len(body) == 1023 else gzip.decompress(body) for _, body in came] == bodies
    plain = exchanged(make, bodies, answer)[1]
    assert [body for _, body in plain] == bodies
    assert not any(b"content-encoding" in head for head, _ in plain)


@both
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_an_answer_without_a_length_ends_with_the_connection(make: Make, head: bytes) -> None:
    outcomes, came, connections = exchanged(make, [b"1", b"2"], head + b'{"outputs": [[0.0]]}', close=True)
    assert outcomes == [b'{"outputs": [[0.0]]}'] * 2
    assert [body for _, body in came] == [b"1", b"2"]
    assert connections == 2


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
    outcomes, _, _ = exchanged(make, [b"1"], part, close=True)
    assert [isinstance(item, Failure) and item.error.__name__ for item in outcomes] == ["UnreachableError"]


@both
def test_a_failure_without_a_length_keeps_its_reason(make: Make) -> None:
    answer = b'HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n{"error": "the queue is full"}'
    (outcome,), _, _ = exchanged(make, [b"1"], answer, close=True)
    assert isinstance(outcome, Failure)
    assert outcome.message == "503: the queue is full"
