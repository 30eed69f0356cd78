"""One process of the generator: sends at the intended times and reports what became of each request.

It does nothing else: requests come encoded, answers are not decoded, figures are made by the parent.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np

from toolkit.client.options import Retry
from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interface import AsyncTransport, Connection
from toolkit.loadtest.records import RECORD
from toolkit.loadtest.rest import open_transport
from toolkit.loadtest.schedule import Closed, Load, Rates, Replay
from toolkit.loadtest.texts import Traffic
from toolkit.loadtest.timer import KernelTimer

__all__ = ["Order", "work"]

REPORT_SECONDS = 0.25
_AWAKE_SECONDS = 0.0003


@dataclass(frozen=True)
class Order:
    """What one worker is to do: it is ``number`` of ``workers``. ``load`` has the warm-up in it."""

    number: int
    workers: int
    load: Load
    traffic: Traffic
    address: Address
    connection: Connection
    timeout: float
    retry: Retry
    seed: int
    warmup: float


class Alarm:
    """A kernel's timer on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._timer, self._loop, self._ring = KernelTimer(), loop, ring
        loop.add_reader(self._timer.fd, self._due)

    def _due(self) -> None:
        if self._timer.rang():
            self._ring()

    def at(self, seconds: float) -> None:
        """Ring at ``seconds`` of `time.monotonic`; at once if that is past."""
        self._timer.at(seconds)

    def close(self) -> None:
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()


class Statuses:
    """Names of outcomes by number; 0 is OK. New ones are reported with an example of their message."""

    def __init__(self) -> None:
        self.names: list[str] = ["OK"]
        self.fresh: list[tuple[str, str]] = [("OK", "")]

    def number(self, failure: Failure) -> int:
        name = status_name(failure)
        if name not in self.names:
            self.names.append(name)
            self.fresh.append((name, failure.message))
        return self.names.index(name)


def status_name(failure: Failure) -> str:
    """``UNAVAILABLE OverloadedError``: the protocol's status, where there is one, and what the client makes of it."""
    code = failure.message.partition(":")[0]
    known = code.replace("_", "").isalnum() and (code.isupper() or code.isdigit())
    return f"{code} {failure.error.__name__}" if known else failure.error.__name__


class Worker:
    def __init__(self, order: Order, pipe: Pipe, orders: Pipe) -> None:
        self.order, self.pipe, self.orders = order, pipe, orders
        self.statuses = Statuses()
        self.rows: list[tuple[Any, ...]] = []
        self.live: set[asyncio.Task[None]] = set()
        self.begin = 0.0
        self.stopped = False
        self.all_sent = asyncio.Event()
        self.over = asyncio.Event()
        self.draw = np.random.default_rng((order.seed, 3, order.number))
        self._order: list[int] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        transport = open_transport(self.order.address, self.order.connection)
        self.pipe.send(("ready", None))
        word, begin = await asyncio.to_thread(self._word)
        if word == "go":
            self.begin = begin
            loop.add_reader(self.orders.fileno(), self._told)
            reporting = asyncio.create_task(self._report())
            if isinstance(self.order.load, Closed):
                await self._closed_loop(transport, self.order.load)
            else:
                await self._open_loop(transport, self.order.load)
            while self.live and not self.stopped:
                await asyncio.wait(self.live, timeout=0.05)
            self.over.set()
            await reporting
            loop.remove_reader(self.orders.fileno())
        await self._give()
        for task in self.live:  # under way when the run was broken off: neither answered nor failed
            task.cancel()
        unfinished = len(self.live)
        await asyncio.gather(*self.live, return_exceptions=True)
        await transport.close()
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.pipe.send(("done", {"cpu": used.ru_utime + used.ru_stime, "unfinished": unfinished}))

    def _told(self) -> None:
        self.stopped = True  # "stop", or the parent is gone
        self.all_sent.set()
        asyncio.get_running_loop().remove_reader(self.orders.fileno())

    async def _open_loop(self, transport: AsyncTransport, load: Rates | Replay) -> None:
        mine = self._mine(load)
        upcoming, armed = next(mine, None), -1.0  # armed: the arrival that the alarm has been set for
        loop = asyncio.get_running_loop()

        def ring() -> None:
            nonlocal upcoming, armed
            now = time.monotonic() - self.begin
            # One a turn of the loop, for answers are taken between turns. If a turn sent all that has come due in the
            # last one, each would be longer than the last under a load beyond what this process can send.
            if upcoming is not None and upcoming <= now and not self.stopped:
                task = asyncio.create_task(self._one(transport, upcoming, self._next()))
                self.live.add(task)
                task.add_done_callback(self.live.discard)
                upcoming = next(mine, None)
            if upcoming is None or self.stopped:
                self.all_sent.set()
                return
            # A CPU that sleeps wakes late. The last part of a wait, a tenth at most, is therefore spent awake, turning
            # the loop over so that answers are taken meanwhile.
            if upcoming <= now or armed == upcoming:
                loop.call_soon(ring)
            else:
                armed = upcoming
                alarm.at(self.begin + upcoming - min(_AWAKE_SECONDS, (upcoming - now) / 10))

        alarm = Alarm(loop, ring)
        try:
            ring()
            await self.all_sent.wait()
        finally:
            alarm.close()

    def _mine(self, load: Rates | Replay) -> Iterator[float]:
        """Every ``workers``-th arrival of the one sequence that all workers draw."""
        seen = 0
        for block in load.arrivals(self.order.seed):
            first = (self.order.number - seen) % self.order.workers
            yield from block[first :: self.order.workers].tolist()
            seen += len(block)

    async def _closed_loop(self, transport: AsyncTransport, load: Closed) -> None:
        callers = len(range(self.order.number, load.callers, self.order.workers))
        left = None
        if load.requests is not None:
            left = iter(range(len(range(self.order.number, load.requests, self.order.workers))))
        while (early := self.begin - time.monotonic()) > 0:
            await asyncio.sleep(early)

        async def caller() -> None:
            while not self.stopped and (now := time.monotonic() - self.begin) < self.order.warmup + load.seconds:
                # a bound in requests is for the measured ones
                if left is not None and now >= self.order.warmup and next(left, None) is None:
                    return
                await self._one(transport, now, self._next())

        for _ in range(callers):
            task = asyncio.create_task(caller())
            self.live.add(task)
            task.add_done_callback(self.live.discard)

    def _next(self) -> int:
        if not self._order:
            self._order = self.draw.permutation(len(self.order.traffic.requests)).tolist()
        return self._order.pop()

    async def _one(self, transport: AsyncTransport, intended: float, number: int) -> None:
        order, traffic = self.order, self.order.traffic
        request = traffic.requests[number]
        sent = time.monotonic() - self.begin
        attempts = 1
        outcome = await transport.send(request, order.timeout)
        while isinstance(outcome, Failure) and outcome.retry and attempts < order.retry.attempts and not self.stopped:
            wait = order.retry.wait(attempts, float(self.draw.random()))
            await asyncio.sleep(wait if outcome.pushback is None else outcome.pushback)
            attempts += 1
            outcome = await transport.send(request, order.timeout)
        end = time.monotonic() - self.begin
        status = self.statuses.number(outcome) if isinstance(outcome, Failure) else 0
        self.rows.append(
            (
                intended,
                sent,
                end,
                status,
                traffic.target[number],
                attempts,
                traffic.rows[number],
                traffic.tokens[number],
            )
        )

    def _word(self) -> tuple[str, float]:
        try:
            word: tuple[str, float] = self.orders.recv()
            return word
        except EOFError:  # the parent is gone
            return "stop", 0.0

    async def _report(self) -> None:
        while not self.over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), REPORT_SECONDS)
            await self._give()

    async def _give(self) -> None:
        rows, self.rows = self.rows, []
        fresh, self.statuses.fresh = self.statuses.fresh, []
        block = await asyncio.to_thread(lambda: np.array(rows, RECORD).tobytes())
        try:
            # in a thread: a parent that is slow to read must not hold up what is due here
            await asyncio.to_thread(self.pipe.send, ("records", (fresh, block)))
        except BrokenPipeError:
            self.stopped = True


def work(pipe: Pipe, orders: Pipe) -> None:
    """Entry point of the process: records go out by ``pipe``; an `Order`, then words, come in by ``orders``. Two pipes,
    since an event loop that watches one makes it non-blocking, and half a message would be lost."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent says when to stop
    order: Order = orders.recv()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:  # an event loop of C, which halves the work of a request; not made for every platform
        runner = asyncio.Runner()

    async def main() -> None:
        await Worker(order, pipe, orders).run()

    with runner:
        runner.run(main())
