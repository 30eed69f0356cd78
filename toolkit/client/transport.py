"""Transports: they carry a `Request` to a server and bring back bytes or a `Failure`. Nothing else knows the network.

Any object with these methods can be given to `Client` and `AsyncClient` as ``transport``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Protocol

from toolkit.client.address import Address
from toolkit.client.failures import Failure, connection_failure
from toolkit.client.options import TLS, Token
from toolkit.client.types import Request
from toolkit.errors import InputError

__all__ = ["AsyncTransport", "Connection", "LoopTransport", "Outcome", "Transport", "open_async", "open_sync"]

Outcome = bytes | Failure


class Transport(Protocol):
    """What `Client` needs."""

    def start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        """Send without waiting; ``done`` is called once, from any thread. Returns a function that cancels."""
        ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """What `AsyncClient` needs. Cancelling the task cancels the request."""

    async def send(self, request: Request, timeout: float) -> Outcome: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Connection:
    """How to connect: everything of a transport that is not the address."""

    tls: TLS | None = None
    token: Token | None = None
    metadata: Mapping[str, str] | None = None
    compression: str | None = None
    round_robin: bool = False
    channels: int = 1

    def __post_init__(self) -> None:
        if self.compression not in (None, "gzip"):
            raise InputError(f"compression is {self.compression!r}; supported: 'gzip' or None")
        if self.channels < 1:
            raise InputError(f"channels is {self.channels}; it must be at least 1")
        for name, value in (self.metadata or {}).items():
            if not isinstance(value, str) or not name.isascii() or not value.isascii() or "\n" in name + value:
                raise InputError(f"metadata {name!r} must have an ASCII name and an ASCII str value")

    def headers(self) -> list[tuple[str, str]]:
        """Metadata of one attempt; names in lower case, as both protocols want them."""
        pairs = [(name.lower(), value) for name, value in (self.metadata or {}).items()]
        if self.token is not None:
            token = self.token if isinstance(self.token, str) else self.token()
            pairs.append(("authorization", f"Bearer {token}"))
        return pairs


def open_sync(address: Address, connection: Connection) -> Transport:
    _check(address, connection)
    if address.rest:
        from toolkit.client.rest_transport import RestTransport

        return LoopTransport(lambda: RestTransport(address, connection))
    from toolkit.client.grpc_transport import GrpcTransport

    return GrpcTransport(address, connection)


def open_async(address: Address, connection: Connection) -> AsyncTransport:
    _check(address, connection)
    if address.rest:
        from toolkit.client.rest_transport import RestTransport

        return RestTransport(address, connection)
    from toolkit.client.grpc_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(address, connection)


def _check(address: Address, connection: Connection) -> None:
    if address.rest and connection.channels > 1:
        raise InputError(f"channels is {connection.channels}; REST opens a connection per request under way anyway")
    if connection.tls is not None and not address.secure and "://" in address.url:
        raise InputError(f"{address}: TLS options are given, but the scheme is not encrypted; use grpcs:// or https://")


class LoopTransport:
    """A sync transport out of an async one, which runs on an event loop in a thread of its own."""

    def __init__(self, make: Callable[[], AsyncTransport]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sentence-serving-rest", daemon=True)
        self._thread.start()

        async def made() -> AsyncTransport:
            return make()

        self._transport = asyncio.run_coroutine_threadsafe(made(), self._loop).result()

    def start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        future = asyncio.run_coroutine_threadsafe(self._transport.send(request, timeout), self._loop)

        def finished(_: object) -> None:
            try:
                done(future.result())
            except CancelledError:
                done(connection_failure("the request was cancelled", final=True))
            except BaseException as error:  # a fault of ours must reach the caller, who waits for an outcome
                done(connection_failure(f"{type(error).__name__}: {error}", final=True))

        future.add_done_callback(finished)
        return lambda: void(future.cancel())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._transport.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def void(_: object) -> None:
    """Drop a value."""
