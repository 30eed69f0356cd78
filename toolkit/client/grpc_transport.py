"""gRPC transports. Bytes go in and out as they are: no stubs, no serializers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from toolkit._version import __version__
from toolkit.client.address import Address
from toolkit.client.failures import Failure, grpc_failure
from toolkit.client.options import TLS
from toolkit.client.transport import Connection, Outcome
from toolkit.client.types import Request

__all__ = ["AsyncGrpcTransport", "GrpcTransport"]


def _options(connection: Connection) -> list[tuple[str, Any]]:
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
    ]
    if connection.tls is not None and connection.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", connection.tls.server_name))
    return options


def _channels(module: Any, address: Address, connection: Connection) -> list[Any]:
    compression = grpc.Compression.Gzip if connection.compression == "gzip" else None
    options = _options(connection)
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


def _failure(code: Any, details: str | None, trailers: Sequence[tuple[str, str | bytes]] | None) -> Failure:
    texts = {name: value for name, value in trailers or () if isinstance(value, str)}
    return grpc_failure(code.name, details or "", texts)


class GrpcTransport:
    """Sync: calls run on gRPC's own threads."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self._connection = connection
        self._channels = _channels(grpc, address, connection)
        self._next = itertools.cycle(self._channels)

    def start(self, request: Request, timeout: float, done: Callable[[Outcome], None]) -> Callable[[], None]:
        call = (
            next(self._next)
            .unary_unary(request.path)
            .future(request.body, timeout=timeout, metadata=self._connection.headers())
        )

        def finished(call: Any) -> None:
            code = call.code()
            if code is grpc.StatusCode.OK:
                done(call.result())
            else:
                done(_failure(code, call.details(), call.trailing_metadata()))

        call.add_done_callback(finished)
        cancel: Callable[[], None] = call.cancel
        return cancel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class AsyncGrpcTransport:
    """Async: calls run on the running event loop."""

    def __init__(self, address: Address, connection: Connection) -> None:
        import grpc.aio

        self._connection = connection
        self._channels = _channels(grpc.aio, address, connection)
        self._next = itertools.cycle(self._channels)

    async def send(self, request: Request, timeout: float) -> Outcome:
        call = next(self._next).unary_unary(request.path)(
            request.body, timeout=timeout, metadata=self._connection.headers()
        )
        try:
            body: bytes = await call
        except grpc.aio.AioRpcError as error:
            return _failure(error.code(), error.details(), tuple(error.trailing_metadata() or ()))
        return body

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
