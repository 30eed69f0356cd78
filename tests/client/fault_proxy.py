"""A TCP proxy that breaks connections on purpose, for gRPC and HTTP alike."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Fault", "FaultProxy", "mixture"]


@dataclass(frozen=True)
class Fault:
    """``kind`` happens once ``after`` bytes of answers have passed: ``drop`` (close), ``reset`` (RST), ``half``
    (forward half of the next block, then close), ``delay`` (hold the answers back for ``seconds``), ``503`` (instead
    of the server, at once)."""

    kind: str
    after: int = 0
    seconds: float = 0.0


def mixture(seed: int, *, most: int = 200_000, healthy: float = 0.2) -> Callable[[int], Fault | None]:
    """A repeatable mixture of all faults, one per connection."""
    draw = random.Random(seed)

    def choose(connection: int) -> Fault | None:
        if draw.random() < healthy:
            return None
        kind = draw.choice(["drop", "reset", "half", "delay", "503"])
        return Fault(kind, draw.randrange(most), draw.random())

    return choose


class FaultProxy:
    """Listens on ``port`` of localhost and forwards to ``upstream``; ``faults(n)`` is what befalls connection n."""

    def __init__(self, upstream: int, faults: Callable[[int], Fault | None]) -> None:
        self.upstream = upstream
        self.faults = faults
        self.happened: Counter[str] = Counter()
        self.connections = 0
        self.asked = 0  # bytes of requests
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._connection(self.faults(self.connections), reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # one of the two sides went away: the other one is told so below
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connection(
        self, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if fault is not None and fault.kind == "503":
            self.happened["503"] += 1
            await asyncio.wait_for(_answer_503(reader, writer), 5)
            return
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            _reset(writer)
            return
        pumps = [
            asyncio.create_task(self._requests(reader, to_server)),
            asyncio.create_task(self._answers(fault, from_server, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_server.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(65536):
            self.asked += len(block)
            writer.write(block)
            await writer.drain()

    async def _answers(self, fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while block := await reader.read(65536):
            passed += len(block)
            if fault is not None and passed > fault.after:
                self.happened[fault.kind] += 1
                if fault.kind == "delay":
                    await asyncio.sleep(fault.seconds)
                    fault = None
                elif fault.kind == "half":
                    writer.write(block[: len(block) // 2])
                    await writer.drain()
                    return
                elif fault.kind == "reset":
                    _reset(writer)
                    return
                else:
                    return
            writer.write(block)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def _answer_503(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """503 in the protocol that the client speaks: HTTP/1.1, or HTTP/2 as gRPC uses it."""
    head = await reader.readexactly(len(_PREFACE))
    if head != _PREFACE:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        return
    writer.write(_frame(4, 0, 0))  # our settings
    for _ in range(20):
        size, kind, flags, stream = struct.unpack(">IBBI", b"\0" + await reader.readexactly(9))
        await reader.readexactly(size)
        if kind == 4 and not flags & 1:
            writer.write(_frame(4, 1, 0))  # acknowledge the client's settings
        elif kind == 1:
            # HEADERS that end the stream; HPACK: literal, name 8 of the static table (:status), value "503"
            writer.write(_frame(1, 5, stream, b"\x08\x03503"))
        await writer.drain()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
