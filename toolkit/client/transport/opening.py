"""Open the transport that an address asks for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import connection_failure
from toolkit.client.transport.interface import AsyncTransport, Connection, Outcome, Transport
from toolkit.client.types import Request
from toolkit.errors import InputError

__all__ = ["LoopTransport", "open_async", "open_sync"]

T = TypeVar("T")


def open_sync(address: Address, connection: Connection) -> Transport:
    _check(address, connection)
    if address.rest:
        from toolkit.client.transport.rest import RestTransport

        return LoopTransport(lambda: RestTransport(address, connection))
    from toolkit.client.transport.grpc import GrpcTransport

    return GrpcTransport(address, connection)


def open_async(address: Address, connection: Connection) -> AsyncTransport:
    _check(address, connection)
    if address.rest:
        from toolkit.client.transport.rest import RestTransport

        return RestTransport(address, connection)
    from toolkit.client.transport.grpc import AsyncGrpcTransport

    return AsyncGrpcTransport(address, connection)


def _check(address: Address, connection: Connection) -> None:
    if address.rest and connection.channels > 1:
        raise InputError(f"channels is {connection.channels}; REST opens a connection per request under way anyway")
    if connection.tls is not None and not address.secure and "://" in address.url:
        raise InputError(f"{address}: TLS options are given, but the scheme is not encrypted; use grpcs:// or https://")


class LoopTransport:
    """A sync transport out of an async one, which runs on an event loop in a thread of its own.

    A process that is forked off has no such thread: there, the first request begins anew.
    """

    def __init__(self, make: Callable[[], AsyncTransport]) -> None:
        self._make = make
        self._running = _Running(make)
        self._left: list[_Running] = []  # of the parent process; to close what it still uses would disturb it

    def start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        running = self._running
        if running.process != os.getpid():
            self._left.append(running)
            running = self._running = _Running(self._make)
        future = running.submit(running.transport.send(request, timeout))

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
        if self._running.process == os.getpid():
            self._running.close()


class _Running:
    """An async transport, the loop that it lives on, and the process that they belong to."""

    def __init__(self, make: Callable[[], AsyncTransport]) -> None:
        self.process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sentence-serving-rest", daemon=True)
        self._thread.start()

        async def made() -> AsyncTransport:
            return make()

        try:
            self.transport = self.submit(made()).result()
        except BaseException:
            self._end()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        if not self._loop.is_closed():
            self.submit(self.transport.close()).result()
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def void(_: object) -> None:
    """Drop a value."""
