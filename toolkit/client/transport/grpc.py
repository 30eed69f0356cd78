"""gRPC transports. Bytes go in and out as they are: no stubs, no serializers."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from toolkit._version import __version__
from toolkit.client.options import TLS
from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import Failure, grpc_failure
from toolkit.client.transport.interface import Connection, Outcome
from toolkit.client.transport.interrupts import interrupts_later
from toolkit.client.transport.proxies import Proxy, find_proxy
from toolkit.client.types import Request

__all__ = ["AsyncGrpcTransport", "GrpcTransport"]

RENEW_SECONDS = 30.0  # how long a service's new pods may stay unnoticed
_CONNECT_SECONDS = 10.0


def _options(connection: Connection, proxy: Proxy | None) -> list[tuple[str, Any]]:
    policy = "round_robin" if connection.round_robin else "pick_first"
    options: list[tuple[str, Any]] = [
        # gRPC takes 4 MB by default, 2,730 rows of 384 floats; a server's own limit is 2 GB.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Retries are ours, so that attempts, budget and deadline are counted in one place.
        ("grpc.enable_retries", 0),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{policy: {}}]})),
        # A connection per channel; by default channels with the same arguments share one.
        ("grpc.use_local_subchannel_pool", 1),
        # A server that restarts is found again soon, and a name that has changed is looked up again soon
        # (gRPC's own values are up to 120 s between connections and 30 s between resolutions).
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.primary_user_agent", f"sentence-serving/{__version__}"),
        # Which proxy is decided here and not by gRPC, so that errors can name it.
        ("grpc.enable_http_proxy", int(proxy is not None)),
    ]
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy.url))
    if connection.tls is not None and connection.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", connection.tls.server_name))
    return options


def _channels(module: Any, address: Address, connection: Connection, proxy: Proxy | None) -> list[Any]:
    compression = grpc.Compression.Gzip if connection.compression == "gzip" else None
    options = _options(connection, proxy)
    if not address.secure and connection.tls is None:
        return [
            module.insecure_channel(address.target, options=options, compression=compression)
            for _ in range(connection.channels)
        ]
    tls = connection.tls or TLS()
    credentials = grpc.ssl_channel_credentials(tls.read("ca"), tls.read("key"), tls.read("cert"))
    return [
        module.secure_channel(address.target, credentials, options=options, compression=compression)
        for _ in range(connection.channels)
    ]


def _failure(
    code: Any, details: str | None, trailers: Sequence[tuple[str, str | bytes]] | None, proxy: Proxy | None
) -> Failure:
    texts = {name: value for name, value in trailers or () if isinstance(value, str)}
    failure = grpc_failure(code.name, details or "", texts)
    return failure if proxy is None else proxy.told(failure)


class _Channels:
    """The channels of a transport, in turn, and how many calls are under way on them."""

    def __init__(self, channels: list[Any]) -> None:
        self.all = channels
        self.calls = 0
        self._methods: dict[str, Iterator[Any]] = {}

    def method(self, path: str) -> Any:
        if path not in self._methods:
            self._methods[path] = itertools.cycle([channel.unary_unary(path) for channel in self.all])
        return next(self._methods[path])


class _Age:
    """When channels are to be renewed: gRPC looks a name up again only when a connection ends, and so would never
    notice that a service has got more pods. Only names that stand for several addresses need it."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self._matters = connection.round_robin and address.target.startswith("dns:")
        self._until = time.monotonic() + RENEW_SECONDS

    def is_over(self) -> bool:
        """Whether to renew now; says so once in a while, at the calls of a transport that is in use."""
        if not self._matters or time.monotonic() < self._until:
            return False
        self._until = time.monotonic() + RENEW_SECONDS
        return True


class GrpcTransport:
    """Sync: calls run on gRPC's own threads."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self._connection = connection
        self._proxy = find_proxy(address) if connection.proxies else None
        self._open: Callable[[], _Channels] = lambda: _Channels(_channels(grpc, address, connection, self._proxy))
        self._age = _Age(address, connection)
        self._current = self._open()
        self._all = {self._current}
        self._change = threading.Condition()

    def start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        with interrupts_later():
            return self._start(request, timeout, done)

    def _start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        metadata = self._connection.headers() or None
        with self._change:
            if self._age.is_over():
                threading.Thread(target=self._renew, name="sentence-serving-renew", daemon=True).start()
            channels = self._current
            # Under the lock: channels without calls may be closed at any time once they have been replaced.
            call = channels.method(request.path).future(request.body, timeout=timeout, metadata=metadata)
            channels.calls += 1

        def finished(call: Any) -> None:
            with self._change:
                channels.calls -= 1
                if channels is not self._current:
                    self._change.notify_all()
            code = call.code()
            if code is grpc.StatusCode.OK:
                done(call.result())
            else:
                done(_failure(code, call.details(), call.trailing_metadata(), self._proxy))

        call.add_done_callback(finished)
        cancel: Callable[[], None] = call.cancel
        return cancel

    def _renew(self) -> None:
        """Put new channels in the place of the present ones, once they are connected; calls under way end there."""
        fresh = self._open()
        try:
            for channel in fresh.all:
                grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:  # the present channels are better than none
            _close(fresh)
            return
        with self._change:
            if not self._all:  # closed meanwhile
                _close(fresh)
                return
            old, self._current = self._current, fresh
            self._all.add(fresh)
            self._change.wait_for(lambda: not old.calls or old not in self._all)
            self._all.discard(old)
        _close(old)

    def close(self) -> None:
        with self._change:
            channels, self._all = self._all, set()
            self._change.notify_all()
        for item in channels:
            _close(item)


def _close(channels: _Channels) -> None:
    for channel in channels.all:
        channel.close()


class AsyncGrpcTransport:
    """Async: calls run on the running event loop."""

    def __init__(self, address: Address, connection: Connection) -> None:
        import grpc.aio

        self._connection = connection
        self._proxy = find_proxy(address) if connection.proxies else None
        self._open: Callable[[], _Channels] = lambda: _Channels(_channels(grpc.aio, address, connection, self._proxy))
        self._age = _Age(address, connection)
        self._current = self._open()
        self._all = {self._current}
        self._renewal: asyncio.Task[None] | None = None

    async def send(self, request: Request, timeout: float) -> Outcome:
        if self._age.is_over() and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew())
        channels = self._current
        channels.calls += 1
        try:
            call = channels.method(request.path)(
                request.body, timeout=timeout, metadata=self._connection.headers() or None
            )
            body: bytes = await call
        except grpc.aio.AioRpcError as error:
            return _failure(error.code(), error.details(), tuple(error.trailing_metadata() or ()), self._proxy)
        finally:
            channels.calls -= 1
            if channels is not self._current and not channels.calls and channels in self._all:
                self._all.discard(channels)
                await _aclose(channels)
        return body

    async def _renew(self) -> None:
        fresh = self._open()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                for channel in fresh.all:
                    await channel.channel_ready()
        except BaseException as error:
            await _aclose(fresh)
            if not isinstance(error, TimeoutError):
                raise
            return
        old, self._current = self._current, fresh
        self._all.add(fresh)
        if not old.calls:
            self._all.discard(old)
            await _aclose(old)

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        channels, self._all = self._all, set()
        for item in channels:
            await _aclose(item)


async def _aclose(channels: _Channels) -> None:
    for channel in channels.all:
        await channel.close()
