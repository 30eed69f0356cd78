"""The addresses behind a host's name, for REST; gRPC has its own way of finding them."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator

__all__ = ["Rotation"]

_SECONDS = 5.0  # how long the addresses of a name are used before it is looked up again


class Rotation:
    """The addresses in turn; looked up again every few seconds and after a failure."""

    def __init__(self, host: str, port: int | None) -> None:
        self._host, self._port = host, port
        self._addresses: Iterator[str] = iter(())
        self._until = 0.0

    async def next(self) -> str:
        """The next address. Raises `OSError` if the name has none."""
        if time.monotonic() >= self._until:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = itertools.cycle(dict.fromkeys(str(item[4][0]) for item in found))
            self._until = time.monotonic() + _SECONDS
        return next(self._addresses)

    def stale(self) -> None:
        """Look the name up again at the next request."""
        self._until = 0.0
