"""Transports: they carry a `Request` to a server and bring back bytes or a `Failure`. Nothing else knows the network.

Any object with these methods can be given to `Client` and `AsyncClient` as ``transport``.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from toolkit.client.options import TLS, Token
from toolkit.client.transport.failures import Failure
from toolkit.client.types import Request
from toolkit.errors import InputError

__all__ = ["AsyncTransport", "Connection", "Outcome", "Transport"]

Outcome = bytes | Failure

_COMPRESSIBLE = 1024  # bytes; below it gzip costs more than it saves


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
    """How to connect: everything of a transport that is not the address. ``proxies``: use the environment's."""

    tls: TLS | None = None
    token: Token | None = None
    metadata: Mapping[str, str] | None = None
    compression: str | None = None
    round_robin: bool = False
    channels: int = 1
    proxies: bool = True

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

    def encoded(self, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
        """A REST request's body as it is sent, and the headers that say what it is. (gRPC compresses by itself.)"""
        headers = [("content-type", "application/json")]
        if self.compression is None or len(body) < _COMPRESSIBLE:
            return body, headers
        return gzip.compress(body, compresslevel=1), [*headers, ("content-encoding", "gzip")]
