"""When requests are to be sent: pure functions of a seed, without clock or network.

Times are seconds from the start of the run. Every process of a run draws the same sequence and takes its share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import InputError

__all__ = ["Closed", "Load", "Rates", "Replay", "Segment", "constant", "ramp", "steps"]

_BLOCK = 1 << 14  # arrivals drawn at a time: a long run at a high rate never lies in memory as a whole

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """``seconds`` in which the rate goes from ``first`` to ``last`` requests a second, in a straight line."""

    seconds: float
    first: float
    last: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"a step of the load takes {self.seconds} seconds; it must be more than 0")
        if not (0 <= self.first < float("inf") and 0 <= self.last < float("inf") and self.first + self.last > 0):
            raise InputError(f"a rate from {self.first} to {self.last} requests a second is no load")

    @property
    def count(self) -> float:
        """Requests in the segment, on average."""
        return (self.first + self.last) / 2 * self.seconds


@dataclass(frozen=True)
class Rates:
    """Open loop: the rate over time. ``poisson``: arrivals independent of each other, as many callers make them; else
    evenly spaced."""

    segments: tuple[Segment, ...]
    poisson: bool = True

    def __post_init__(self) -> None:
        if not self.segments:
            raise InputError("the load has no steps")

    @property
    def seconds(self) -> float:
        return sum(segment.seconds for segment in self.segments)

    def after(self, warmup: float) -> Rates:
        """The same load after ``warmup`` seconds at its first rate (or at its mean, where it starts from nothing)."""
        if not warmup:
            return self
        head = self.segments[0]
        rate = head.first or head.count / head.seconds
        return Rates((Segment(warmup, rate, rate), *self.segments), self.poisson)

    def arrivals(self, seed: int) -> Iterator[Times]:
        """The times of all requests, ascending, in blocks."""
        draw = np.random.default_rng((seed, 1))
        ends = np.cumsum([segment.count for segment in self.segments])
        reached = 0.0
        while reached < ends[-1]:
            gaps = draw.exponential(size=_BLOCK) if self.poisson else np.ones(_BLOCK)
            counts = reached + np.cumsum(gaps)
            reached = float(counts[-1])
            # evenly spaced requests start with the first one at 0
            yield self._times(
                (counts if self.poisson else counts - 1)[: int(np.searchsorted(counts, ends[-1], "right"))]
            )

    def _times(self, counts: Times) -> Times:
        """When the expected number of requests reaches ``counts``."""
        times = np.empty_like(counts)
        begin = time = 0.0
        for number, part in enumerate(self.segments):
            last = number == len(self.segments) - 1
            here = (counts >= begin) & ((counts < begin + part.count) | last)
            slope = (part.last - part.first) / part.seconds
            more = counts[here] - begin
            # the positive root of first*t + slope*t²/2 = more, in the form that holds for slope 0, too
            times[here] = time + 2 * more / (part.first + np.sqrt(np.maximum(part.first**2 + 2 * slope * more, 1e-300)))
            begin, time = begin + part.count, time + part.seconds
        return times

    def describe(self) -> str:
        kind = "Poisson" if self.poisson else "evenly spaced"
        parts = [
            f"{part.first:g}/s for {part.seconds:g} s"
            if part.first == part.last
            else f"{part.first:g} to {part.last:g}/s in {part.seconds:g} s"
            for part in self.segments
        ]
        return f"open loop, {kind}: {', '.join(parts)}"


@dataclass(frozen=True)
class Replay:
    """Open loop: recorded arrival times, ascending, from 0."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.times:
            raise InputError("there are no arrival times to replay")
        if not np.all(np.isfinite(self.times)) or np.any(np.diff(self.times) < 0) or self.times[0] < 0:
            raise InputError("arrival times must be finite, ascending and not below 0")

    @property
    def seconds(self) -> float:
        # the end is not of the measured time, the last arrival is
        return float(np.nextafter(self.times[-1], np.inf))

    def after(self, warmup: float) -> Replay:
        """Itself: a recording has its warm-up in its own first seconds, which are then left out."""
        return self

    def arrivals(self, seed: int) -> Iterator[Times]:
        yield np.array(self.times)

    def describe(self) -> str:
        return f"open loop, replay of {len(self.times)} arrivals in {self.times[-1]:g} s"


@dataclass(frozen=True)
class Closed:
    """Closed loop: ``callers`` that each send a request when they have got the last one's answer, for ``seconds``, or
    until ``requests`` have been sent.

    It hides what a slow server does to callers who do not wait for each other: the load falls as the server slows
    down, and requests that would have come during a stall are never sent.
    """

    callers: int
    seconds: float
    requests: int | None = None

    def __post_init__(self) -> None:
        if self.callers < 1:
            raise InputError(f"callers is {self.callers}; it must be at least 1")
        if not self.seconds > 0:
            raise InputError(f"the run takes {self.seconds} seconds; it must be more than 0")
        if self.requests is not None and self.requests < 1:
            raise InputError(f"requests is {self.requests}; it must be at least 1")

    def describe(self) -> str:
        return f"closed loop, {self.callers} callers: the load falls as the server slows down, which hides stalls"


Load = Rates | Replay | Closed


def constant(rate: float, seconds: float, *, poisson: bool = True) -> Rates:
    """``rate`` requests a second for ``seconds``."""
    return Rates((Segment(seconds, rate, rate),), poisson)


def steps(rates: list[tuple[float, float]], *, poisson: bool = True) -> Rates:
    """One (rate, seconds) after the other."""
    return Rates(tuple(Segment(seconds, rate, rate) for rate, seconds in rates), poisson)


def ramp(first: float, last: float, seconds: float, *, poisson: bool = True) -> Rates:
    """From ``first`` to ``last`` requests a second in ``seconds``."""
    return Rates((Segment(seconds, first, last),), poisson)


def as_json(load: Load) -> dict[str, Any]:
    """What a report keeps of a load."""
    if isinstance(load, Closed):
        return {"kind": "closed", "callers": load.callers, "seconds": load.seconds, "requests": load.requests}
    if isinstance(load, Replay):
        return {"kind": "replay", "requests": len(load.times), "seconds": load.seconds}
    kind = "poisson" if load.poisson else "constant"
    return {"kind": kind, "segments": [[part.seconds, part.first, part.last] for part in load.segments]}
