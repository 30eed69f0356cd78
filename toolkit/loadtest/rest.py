"""A REST transport that costs the generator next to nothing.

The client's own, of httpx, takes about a millisecond of CPU a request, which on a machine shared with the server would
be measured with it. This one does what a generator needs: HTTP/1.1, kept-alive connections, one per request under way.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

from toolkit._version import __version__
from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import Failure, connection_failure, http_failure
from toolkit.client.transport.interface import AsyncTransport, Connection, Outcome
from toolkit.client.transport.opening import open_async
from toolkit.client.transport.proxies import find_proxy
from toolkit.client.transport.rotation import Rotation
from toolkit.client.types import Request
from toolkit.errors import MissingExtraError

try:
    import httptools
except ModuleNotFoundError as error:
    raise MissingExtraError("httptools", "loadtest") from error

__all__ = ["LeanRestTransport", "open_transport"]


def open_transport(address: Address, connection: Connection) -> AsyncTransport:
    """The transport of a worker: the client's own, but for REST without a proxy."""
    if address.rest and (not connection.proxies or find_proxy(address) is None):
        return LeanRestTransport(address, connection)
    return open_async(address, connection)


class _LostError(Exception):
    """The connection ended before an answer did; ``untouched``: before one began."""

    def __init__(self, reason: str, untouched: bool) -> None:
        super().__init__(reason)
        self.untouched = untouched


class _Exchange(asyncio.Protocol):
    """A connection to ``host``: one request at a time."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.transport: Any = None
        self.closed = False
        self.used = False
        self._answer: asyncio.Future[tuple[int, bytes, dict[str, str]]] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._touched = False
        self._until_close = False

    async def ask(self, head: bytes, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(head + body)
        return await self._answer

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._touched = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP answer: {error}")
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._until_close and error is None:
            self.on_message_complete()
        else:
            self._fail("the connection ended before the answer did" + (f": {error}" if error is not None else ""))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_LostError(reason, not self._touched))

    # ---- the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        # An answer that does not say where it ends, ends with the connection (RFC 9112, section 6.3), which the parser
        # is not told.
        chunked = self._headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._until_close = not chunked and "content-length" not in self._headers

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer = (self._parser.get_status_code(), b"".join(self._body), self._headers)
        if not self._parser.should_keep_alive():
            self.closed = True
            self.transport.close()
        self._begin()
        self.used = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class LeanRestTransport:
    """An `AsyncTransport`."""

    def __init__(self, address: Address, connection: Connection) -> None:
        parts = urlsplit(address.target)
        assert parts.hostname is not None
        self._connection = connection
        self._host, self._port = parts.hostname, parts.port or 80  # an address always has its port
        self._prefix = parts.path.rstrip("/")
        self._fixed = (
            f"host: {parts.netloc}\r\nuser-agent: sentence-serving/{__version__}\r\naccept: application/json\r\n"
        )
        self._ssl, self._name = None, None
        if address.secure:
            tls = connection.tls
            self._ssl = ssl.create_default_context(cafile=None if tls is None or tls.ca is None else str(tls.ca))
            if tls is not None and tls.cert is not None and tls.key is not None:
                self._ssl.load_cert_chain(str(tls.cert), str(tls.key))
            self._name = self._host if tls is None or tls.server_name is None else tls.server_name
        self._rotation = Rotation(self._host, self._port) if connection.round_robin else None
        self._idle: dict[str, list[_Exchange]] = defaultdict(list)  # by the host or its address

    async def send(self, request: Request, timeout: float) -> Outcome:
        outcome = await self._sent(request, timeout)
        if self._rotation is not None and isinstance(outcome, Failure):
            self._rotation.stale()
        return outcome

    async def _sent(self, request: Request, timeout: float) -> Outcome:
        exchange = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    exchange = await self._exchange()
                    reused = exchange.used
                    try:
                        status, body, headers = await exchange.ask(*self._message(request))
                        break
                    except _LostError as error:
                        # a kept-alive connection that the server had just closed is nobody's failure
                        if not (reused and error.untouched):
                            return connection_failure(str(error))
        except TimeoutError:
            if exchange is not None:
                exchange.transport.abort()
            return connection_failure(f"no answer within {timeout:g} seconds", timeout=True)
        except ssl.SSLError as error:
            return connection_failure(str(error), final=True)
        except OSError as error:
            return connection_failure(f"{self._host}:{self._port}: {error.strerror or error}")
        except asyncio.CancelledError:
            if exchange is not None:
                exchange.transport.abort()
            raise
        if not exchange.closed:
            self._idle[exchange.host].append(exchange)
        return body if status == 200 else http_failure(status, body, headers)

    async def _exchange(self) -> _Exchange:
        host = self._host if self._rotation is None else await self._rotation.next()
        idle = self._idle[host]
        while idle:
            exchange = idle.pop()
            if not exchange.closed:
                return exchange
        _, exchange = await asyncio.get_running_loop().create_connection(
            lambda: _Exchange(host), host, self._port, ssl=self._ssl, server_hostname=self._name
        )
        return exchange

    def _message(self, request: Request) -> tuple[bytes, bytes]:
        method, body, headers = "GET", b"", self._connection.headers()
        if request.body is not None:
            method = "POST"
            body, more = self._connection.encoded(request.body)
            headers += [*more, ("content-length", str(len(body)))]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"{method} {self._prefix}{request.path} HTTP/1.1\r\n{self._fixed}{lines}\r\n".encode(), body

    async def close(self) -> None:
        for exchange in itertools.chain.from_iterable(self._idle.values()):
            exchange.transport.close()
        self._idle.clear()
