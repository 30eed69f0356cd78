"""The scheduler of a call, without input or output of its own.

A `Job` says what to send now, is told what came back, and hands out finished pieces in the order of the rows. The
sync and async shells drive it with a clock and a transport; tests drive it with numbers. All of splitting, retrying,
hedging and ordering is here.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import Any

from toolkit.client.options import Hedge, Retry, Split
from toolkit.client.transport.failures import Failure
from toolkit.client.types import Request
from toolkit.errors import ClientError, DeadlineError, ModelNotFoundError, RequestError, ResponseError

__all__ = ["Attempt", "Feed", "Job", "Piece", "Shared"]

_LONGEST_PUSHBACK = 60.0  # seconds; a server that asks for more, with no deadline given, has refused
_BREAKS = 3  # connections that may end on a request before it is taken for the cause; all but the first were its own
_UNDELIVERED = 4  # finished or open chunks held per request in flight, while an early one is late


class Shared:
    """What a client learns from one call for the next: the rows a server takes, and the retry budget. Thread-safe."""

    def __init__(self, retry: Retry) -> None:
        self._lock = threading.Lock()
        self._retry = retry
        self._tokens = float(retry.burst)
        self.rows: int | None = None

    def learn(self, rows: int) -> None:
        with self._lock:
            self.rows = max(1, rows if self.rows is None else min(rows, self.rows))

    def earn(self) -> None:
        with self._lock:
            self._tokens = min(float(self._retry.burst), self._tokens + self._retry.budget)

    def spend(self) -> bool:
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Feed:
    """Cuts a stream of rows into chunks by rows and bytes."""

    def __init__(self, rows: Iterable[bytes]) -> None:
        self._rows = iter(rows)
        self._held: list[bytes] = []

    def take(self, rows: int, size: int) -> list[bytes]:
        """The next chunk: at most ``rows`` rows and ``size`` bytes (one row may be larger); empty at the end."""
        block, self._held = self._held, []
        if len(block) < rows:
            block.extend(islice(self._rows, rows - len(block)))
        count = rows
        if sum(map(len, block)) > size:
            count = min(rows, max(1, bisect_right(list(accumulate(map(len, block))), size)))
        if count < len(block):
            block, self._held = block[:count], block[count:]
        return block


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` (half open) with their answer, or with the error that kept one row from having any."""

    start: int
    stop: int
    value: Any = None
    error: ClientError | None = None


@dataclass(eq=False)
class _Chunk:
    start: int
    rows: list[bytes]
    failures: int = 0
    breaks: int = 0  # connections that ended while the server had it
    failed_since: float | None = None
    wake: float = 0.0
    hedged: bool = False
    live: dict[Attempt, float] = field(default_factory=dict)  # attempts in flight, and when they started

    @property
    def stop(self) -> int:
        return self.start + len(self.rows)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One sending of a chunk; ``timeout`` in seconds."""

    chunk: _Chunk
    request: Request
    timeout: float


@dataclass(eq=False)
class Job:
    """One call. ``encode(rows, version)`` makes a request, ``decode(body, count)`` reads its answer to a value and the
    version that made it (``None`` if unknown).

    ``version``: the model version all pieces must come from; the first answer sets it where the caller does not, and
    rows that another version answered are asked again, so that one result never mixes vectors of two models.
    A request on which a connection ended may have ended the server: it is sent again with no other beside it, so that
    none is suspected in its place, and not for ever, whatever ``retry`` allows, so that it does not go from replica to
    replica.
    ``isolate``: a refused request is cut down to the rows at fault, which become pieces with an error.
    ``splittable``: whether rows are the caller's (else the job is one request, whose row count means nothing).
    """

    feed: Feed
    encode: Callable[[list[bytes], int | None], Request]
    decode: Callable[[bytes, int], tuple[Any, int | None]]
    address: str
    model: str
    split: Split
    retry: Retry
    shared: Shared
    timeout: float
    hedge: Hedge | None = None
    deadline: float | None = None
    version: int | None = None
    isolate: bool = False
    splittable: bool = True
    deliver: Callable[[Piece], None] = lambda piece: None
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        self._open: dict[int, _Chunk] = {}  # by first row
        self._ready: dict[int, Piece] = {}
        self._read = 0  # rows taken from the feed
        self._delivered = 0
        self._fed = False
        self._window = float(self.split.in_flight)
        self._rows = self.split.rows

    def bound(self, deadline: float | None) -> None:
        """End by ``deadline`` at the latest."""
        if deadline is not None:
            self.deadline = deadline if self.deadline is None else min(deadline, self.deadline)

    @property
    def finished(self) -> bool:
        return self._fed and not self._open and not self._ready

    def poll(self, now: float) -> list[Attempt]:
        """What to send now. Raises `DeadlineError` when the call's time is over."""
        if self.deadline is not None and now >= self.deadline:
            first = min(self._open.values(), key=lambda chunk: chunk.start, default=None)
            failed = Failure(DeadlineError, "the call's deadline has passed")
            raise (
                self._error(failed, first)
                if first
                else DeadlineError(failed.message, address=self.address, model=self.model)
            )
        attempts = [self._attempt(chunk, now) for chunk in self._idle() if chunk.wake <= now]
        for chunk in self._open.values():
            if self._hedge_time(chunk) <= now:
                chunk.hedged = True  # also without budget: it is not asked for again and again
                if self.shared.spend():
                    attempts.append(self._attempt(chunk, now))
        while (
            not self._fed
            and not self._suspects()
            and len(self._open) < int(self._window)
            and self._held() < _UNDELIVERED * self.split.in_flight
        ):
            rows = self.feed.take(min(self._rows, self.shared.rows or self._rows), self.split.bytes)
            if not rows:
                self._fed = True
                break
            chunk = self._open[self._read] = _Chunk(self._read, rows)
            self._read += len(rows)
            attempts.append(self._attempt(chunk, now))
        return attempts

    def wait(self, now: float) -> float | None:
        """Seconds until `poll` has something to do although nothing came back; ``None`` if it never has."""
        times = [self.deadline] if self.deadline is not None else []
        times.extend(chunk.wake for chunk in self._idle())
        times.extend(self._hedge_time(chunk) for chunk in self._open.values() if chunk.live)
        soonest = min(times, default=float("inf"))
        return None if soonest == float("inf") else max(0.0, soonest - now)

    def resolve(self, attempt: Attempt, outcome: bytes | Failure, now: float) -> list[Attempt]:
        """Take in what came back; returns attempts that have become needless. Raises the call's error."""
        chunk = attempt.chunk
        if chunk.live.pop(attempt, None) is None:
            return []
        value, failure = (None, outcome) if isinstance(outcome, Failure) else self._decode(chunk, outcome)
        if failure is not None:
            self._fail(chunk, failure, now)
            return []
        del self._open[chunk.start]
        self._ready[chunk.start] = Piece(chunk.start, chunk.stop, value)
        self.shared.earn()
        self._window = min(float(self.split.in_flight), self._window + 1 / self._window)
        stale = list(chunk.live)
        chunk.live.clear()
        return stale

    def drain(self) -> Iterator[Piece]:
        """Finished pieces, each once, in the order of the rows."""
        while self._delivered in self._ready:
            # No name holds a piece that has been handed out: its answer's memory is to serve the next answer.
            pieces = [self._ready.pop(self._delivered)]
            self._delivered = pieces[0].stop
            yield pieces.pop()

    def _held(self) -> int:
        return len(self._open) + len(self._ready)

    def _suspects(self) -> list[_Chunk]:
        return [chunk for chunk in self._open.values() if chunk.breaks]

    def _idle(self) -> list[_Chunk]:
        """Chunks to send as soon as their time comes, in order. One on which a connection ended goes alone."""
        idle = sorted((chunk for chunk in self._open.values() if not chunk.live), key=lambda chunk: chunk.start)
        suspects = self._suspects()
        if not suspects:
            return idle
        return [] if len(idle) < len(self._open) else [min(suspects, key=lambda chunk: (chunk.wake, chunk.start))]

    def _hedge_time(self, chunk: _Chunk) -> float:
        if self.hedge is None or chunk.hedged or chunk.breaks or len(chunk.live) != 1:
            return float("inf")
        return next(iter(chunk.live.values())) + self.hedge.after

    def _attempt(self, chunk: _Chunk, now: float) -> Attempt:
        timeout = self.timeout if self.deadline is None else min(self.timeout, self.deadline - now)
        attempt = Attempt(chunk, self.encode(chunk.rows, self.version), timeout)
        chunk.live[attempt] = now
        return attempt

    def _decode(self, chunk: _Chunk, body: bytes) -> tuple[Any, Failure | None]:
        try:
            value, version = self.decode(body, len(chunk.rows))
        except ClientError as error:
            # A garbled answer may be a broken connection's; the number of attempts bounds the trust in that.
            return None, Failure(type(error), error.message, retry=True)
        if self.version is None:
            self.version = version
        if version not in (None, self.version):
            message = f"version {version} of the model answered after version {self.version}"
            return None, Failure(ResponseError, message, retry=True)
        return value, None

    def _fail(self, chunk: _Chunk, failure: Failure, now: float) -> None:
        chunk.failures += 1
        chunk.breaks += failure.broke
        chunk.failed_since = now if chunk.failed_since is None else chunk.failed_since
        if chunk.live:
            return  # its hedge may still succeed
        chunk.hedged = False
        many = len(chunk.rows) > 1
        if self.retry.patience is not None and failure.error is ModelNotFoundError:
            # A server that has just been restarted may listen before it has loaded its models.
            failure = replace(failure, retry=True)
        if failure.split and self.splittable:
            target = failure.limit or max(1, len(chunk.rows) // 2)
            if failure.retry:  # a lack of room, not a limit on size: send less at a time, in this call
                self._rows = min(self._rows, target)
                self._window = max(1.0, self._window / 2)
            else:
                self.shared.learn(target)
                if target < len(chunk.rows):
                    self._replace(chunk, target)
                    return
        if failure.retry:
            wait = failure.pushback if failure.pushback is not None else self.retry.wait(chunk.failures, self.draw())
            if self._may_retry(chunk, now, wait, failure):
                chunk.wake = now + wait
                if failure.split and self.splittable and many:
                    self._replace(chunk, (len(chunk.rows) + 1) // 2)
                return
        if self.isolate and issubclass(failure.error, RequestError):
            if many:
                self._replace(chunk, (len(chunk.rows) + 1) // 2)
            else:
                del self._open[chunk.start]
                self._ready[chunk.start] = Piece(chunk.start, chunk.stop, error=self._error(failure, chunk))
            return
        raise self._error(failure, chunk)

    def _may_retry(self, chunk: _Chunk, now: float, wait: float, failure: Failure) -> bool:
        if chunk.breaks >= _BREAKS or (self.deadline is not None and now + wait >= self.deadline):
            return False
        if self.retry.patience is not None:
            assert chunk.failed_since is not None
            return chunk.failures < self.retry.attempts or now + wait - chunk.failed_since <= self.retry.patience
        if chunk.failures >= self.retry.attempts or (self.deadline is None and wait > _LONGEST_PUSHBACK):
            return False
        return self.shared.spend()

    def _replace(self, chunk: _Chunk, rows: int) -> None:
        """Put chunks of at most ``rows`` rows in the place of one, with its history."""
        del self._open[chunk.start]
        for offset in range(0, len(chunk.rows), rows):
            part = _Chunk(
                chunk.start + offset,
                chunk.rows[offset : offset + rows],
                failures=chunk.failures,
                breaks=chunk.breaks,
                failed_since=chunk.failed_since,
                wake=chunk.wake,
            )
            self._open[part.start] = part

    def _error(self, failure: Failure, chunk: _Chunk) -> ClientError:
        gone = f"the server went away {chunk.breaks} times while it worked on this request"
        return failure.error(
            f"{gone}: {failure.message}" if failure.broke and chunk.breaks > 1 else failure.message,
            address=self.address,
            model=self.model,
            attempts=chunk.failures or None,
            rows=(chunk.start, chunk.stop) if self.splittable else None,
        )
