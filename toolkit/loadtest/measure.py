"""From records of requests to figures: percentiles with intervals, throughput, errors, the generator's own lag.

A request that failed has no latency, but it is not left out either: it ranks behind every answered one, so that a
percentile that falls among the failures is ``None`` (no answer), and errors never make latencies look better.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import MissingExtraError
from toolkit.loadtest.records import Records

try:
    from hdrh.histogram import HdrHistogram
except ModuleNotFoundError as error:
    raise MissingExtraError("hdrhistogram", "loadtest") from error

__all__ = ["QUANTILES", "Distribution", "Measured", "Quantile", "Recorder", "Second", "Throughput"]

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
CONFIDENCE = 0.95
_Z = 1.959964  # of CONFIDENCE
_DIGITS = 3
_TICK = 0.01  # seconds; how exactly the throughput of a run of any length is cut off at its end
_LONGEST = 3600 * 10**9  # nanoseconds; what is longer is recorded as this
_FEWEST_GROUPS = 10  # stretches of a run that a variance between them is taken from
_VALUE_BITS = _LONGEST.bit_length()
_SUB_BITS = 11  # of a histogram of three digits: values below 2^11 are exact, larger ones keep that many bits


@dataclass(frozen=True)
class Quantile:
    """A percentile in seconds, with the interval that holds the true one with 95 % confidence. ``None``: a failed
    request; as a bound of the interval also: nothing measured says how far it may reach. ``spread``: by how much the
    number of slower requests varies more between seconds than chance has it; the interval is wider by its root."""

    q: float
    value: float | None
    low: float | None
    high: float | None
    spread: float

    @property
    def name(self) -> str:
        return quantile_name(self.q)


@dataclass(frozen=True)
class Distribution:
    """Latencies of one kind, in seconds. ``mean`` and ``max`` are of the answered ones. ``histogram`` is an
    HdrHistogram of nanoseconds, in its own compressed base64 form, which any HdrHistogram tool reads and merges."""

    answered: int
    failed: int
    mean: float | None
    max: float | None
    quantiles: tuple[Quantile, ...]
    histogram: str

    def at(self, q: float) -> Quantile:
        return next(item for item in self.quantiles if item.q == q)


@dataclass(frozen=True)
class Throughput:
    """Answers a second in the measured time. ``tokens`` is ``None`` where the model does not count them."""

    requests: float
    rows: float
    tokens: float | None


@dataclass(frozen=True)
class Second:
    """One second of the run, by intended send time; ``at`` in seconds from the end of the warm-up. Latencies in
    seconds, ``None`` where there was no answer."""

    at: float
    sent: int
    answered: int
    failed: int
    rows: int
    tokens: int
    p50: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True)
class Measured:
    """What a run measured. ``seconds``: the measured time, warm-up left out. ``latency``: from the intended send time;
    ``service``: from the actual one; ``lag``: between the two. ``unfinished``: under way when the run was broken off.
    ``errors``: by status; ``examples``: a message of each. ``retries``: attempts beyond the first."""

    seconds: float
    sent: int
    answered: int
    unfinished: int
    retries: int
    errors: dict[str, int]
    examples: dict[str, str]
    throughput: Throughput
    latency: Distribution
    service: Distribution
    lag: Distribution
    series: tuple[Second, ...]
    by_target: dict[str, Distribution]

    @property
    def failed(self) -> int:
        return self.sent - self.answered

    @property
    def error_rate(self) -> float:
        return self.failed / self.sent if self.sent else 0.0


def quantile_name(q: float) -> str:
    """``p99.9`` for 0.999."""
    return f"p{q * 100:.6g}"


def _quantised(nanoseconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value's bucket in a histogram of three digits, as its lowest value; fewer different ones to record."""
    shift = np.maximum(np.frexp(nanoseconds.astype(np.float64))[1] - _SUB_BITS, 0)
    lowest: NDArray[np.int64] = (nanoseconds >> shift) << shift
    return lowest


def _ranks(q: float, count: int, spread: float) -> tuple[int, int, int]:
    """Ranks (1 to ``count``; beyond: nothing known) of the percentile and of the interval's ends.

    The number of requests below the true percentile is binomial, which gives the ranks between which it lies,
    whatever the distribution is. ``spread`` is by how much that number varies more than for independent requests.
    """
    rank = max(1, ceil(q * count - 1e-9))
    reach = _Z * sqrt(q * (1 - q) * count * spread)
    return rank, floor(q * count - reach), ceil(q * count + reach) + 1


class _Latencies:
    """One kind of latency: a histogram of the whole, and sparse ones of each second."""

    def __init__(self) -> None:
        self.histogram = HdrHistogram(1, _LONGEST, _DIGITS)
        self.failed = 0
        self.total = 0.0
        self.seconds: dict[int, Counter[int]] = defaultdict(Counter)
        self.failed_in: Counter[int] = Counter()

    def add(self, seconds: NDArray[Any], slots: NDArray[Any]) -> None:
        nanoseconds = np.clip(np.rint(seconds * 1e9), 1, _LONGEST).astype(np.int64)
        self.total += float(seconds.sum())
        # second and bucket in one number, which sorts faster than pairs
        keys = (slots.astype(np.int64) << _VALUE_BITS) | _quantised(nanoseconds)
        found, counts = np.unique(keys, return_counts=True)
        values, seconds_of = found & ((1 << _VALUE_BITS) - 1), found >> _VALUE_BITS
        for slot, value, count in zip(seconds_of.tolist(), values.tolist(), counts.tolist(), strict=True):
            self.histogram.record_value(value, count)
            self.seconds[slot][value] += count
        # a bucket's lowest value would make the largest latency smaller than it was
        if len(nanoseconds) and int(nanoseconds.max()) > self.histogram.max_value:
            self.histogram.max_value = int(nanoseconds.max())

    def fail(self, slots: NDArray[Any]) -> None:
        self.failed += len(slots)
        self.failed_in.update(slots.tolist())

    def packed(self) -> dict[str, Any]:
        """What `merge` takes; numbers, texts and lists of them."""
        return {
            "histogram": self.histogram.encode().decode() if self.histogram.total_count else "",
            "max": int(self.histogram.max_value),
            "failed": self.failed,
            "total": self.total,
            "seconds": [[slot, list(found), list(found.values())] for slot, found in self.seconds.items()],
            "failed_in": [list(item) for item in self.failed_in.items()],
        }

    def merge(self, packed: dict[str, Any]) -> None:
        longest = max(int(self.histogram.max_value), packed["max"])
        if packed["histogram"]:
            self.histogram.add(HdrHistogram.decode(packed["histogram"]))
            self.histogram.max_value = longest  # the buckets know it less exactly
        self.failed += packed["failed"]
        self.total += packed["total"]
        for slot, values, counts in packed["seconds"]:
            self.seconds[slot].update(dict(zip(values, counts, strict=True)))
        self.failed_in.update(dict(packed["failed_in"]))

    def _spread(self, value: float) -> float:
        """The design effect: by how much the number of slow requests varies more between seconds than chance has it.
        Requests that wait in one queue are slow together; an interval that takes them for independent is too narrow."""
        there = (*self.seconds, *self.failed_in)
        slots = range(min(there), max(there) + 1)
        slow = np.array([self._slow(slot, value) for slot in slots], np.float64)
        sizes = np.array([self.seconds[s].total() + self.failed_in[s] for s in slots], np.float64)
        share = float(slow.sum() / sizes.sum())
        if not 0 < share < 1:
            return 1.0
        # a slow time may last longer than a second: the widest of stretches of 1, 2, 4, ... seconds counts
        spread, width = 1.0, 1
        while (groups := len(slots) // width) >= (_FEWEST_GROUPS if width > 1 else 4):
            parts = (slow - share * sizes)[: groups * width].reshape(groups, width).sum(1)
            variance = groups / (groups - 1) * float((parts**2).sum())
            # a variance of few groups is itself uncertain: Student's t in the place of the normal's z
            student = 1 + (_Z**2 + 1) / (4 * (groups - 1))
            found = variance / (share * (1 - share) * float(sizes[: groups * width].sum()))
            spread = max(spread, found * student**2 if found > 1 else 1.0)
            width *= 2
        return spread

    def _slow(self, slot: int, value: float) -> int:
        return sum(n for v, n in self.seconds[slot].items() if v > value) + self.failed_in[slot]

    def _at_rank(self, rank: int) -> float | None:
        answered: int = self.histogram.total_count
        if not 1 <= rank <= answered:
            return None
        # a bucket's highest value may lie above the largest latency that was seen
        return min(
            float(self.histogram.get_value_at_percentile(100 * rank / answered)), float(self.histogram.max_value)
        )

    def quantile(self, q: float) -> Quantile:
        count = self.histogram.total_count + self.failed
        if not count:
            return Quantile(q, None, None, None, 1.0)
        rank, _, _ = _ranks(q, count, 1.0)
        value = self._at_rank(rank)
        spread = self._spread(inf if value is None else value)
        _, low, high = _ranks(q, count, spread)
        ends = [_seconds(self._at_rank(max(1, low))), _seconds(self._at_rank(high))]
        return Quantile(q, _seconds(value), ends[0], ends[1], spread)

    def result(self) -> Distribution:
        answered = self.histogram.total_count
        return Distribution(
            answered=answered,
            failed=self.failed,
            mean=self.total / answered if answered else None,
            max=self.histogram.max_value / 1e9 if answered else None,
            quantiles=tuple(self.quantile(q) for q in QUANTILES),
            histogram=self.histogram.encode().decode() if answered else "",
        )

    def of_second(self, slot: int, q: float) -> float | None:
        """A percentile of one second; ``None`` where it falls among the failures."""
        counts = self.seconds.get(slot, Counter())
        rank = max(1, ceil(q * (counts.total() + self.failed_in[slot]) - 1e-9))
        for value in sorted(counts):
            rank -= counts[value]
            if rank <= 0:
                return value / 1e9
        return None


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


@dataclass
class Recorder:
    """Takes records as they come, in any order. ``begin`` and ``end`` (seconds from the start of the run) bound the
    measured time: requests whose intended time lies in it count for latency and errors, answers that came in it for
    the throughput."""

    begin: float
    end: float
    targets: Sequence[str] = ("",)
    counted: bool = True
    sent: int = 0
    retries: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._latency, self._service, self._lag = _Latencies(), _Latencies(), _Latencies()
        self._by_target = [_Latencies() for _ in self.targets]
        self._sent: Counter[int] = Counter()
        self._rows: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        # answers, rows and tokens by the time they came: when the measured time is over is known only at its end
        self._done: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
        self.last_end = self.begin

    def add(self, records: Records, statuses: Sequence[str] = ("OK",)) -> None:
        """``statuses`` gives the names of the records' status numbers; 0 is an answer."""
        good = records["status"] == 0
        finished = records[good & (records["end"] >= self.begin)]
        ticks = np.floor((finished["end"] - self.begin) / _TICK).astype(np.int64)
        for tick in np.unique(ticks).tolist():
            here = finished[ticks == tick]
            self._done[tick] += (len(here), here["rows"].sum(), here["tokens"].sum())
        records = records[(records["intended"] >= self.begin) & (records["intended"] < self.end)]
        if not len(records):
            return
        good = records["status"] == 0
        slots = np.floor(records["intended"] - self.begin).astype(np.int64)
        self.sent += len(records)
        self.retries += int((records["attempts"].astype(np.int64) - 1).sum())
        self._sent.update(slots.tolist())
        self.last_end = max(self.last_end, float(records["end"].max()))
        for number in np.unique(records["status"][~good]).tolist():
            self.errors[statuses[number]] += int((records["status"] == number).sum())
        answered, at = records[good], slots[good]
        from_intended = answered["end"] - answered["intended"]
        self._latency.add(from_intended, at)
        self._service.add(answered["end"] - answered["sent"], at)
        self._lag.add(records["sent"] - records["intended"], slots)
        for kind in (self._latency, self._service):
            kind.fail(slots[~good])
        for number, target in enumerate(self._by_target if len(self.targets) > 1 else []):
            mine = answered["target"] == number
            target.add(from_intended[mine], at[mine])
            target.fail(slots[~good & (records["target"] == number)])
        for slot in np.unique(at).tolist():
            here = answered[at == slot]
            self._rows[slot] += int(here["rows"].sum())
            self._tokens[slot] += int(here["tokens"].sum())

    def packed(self) -> dict[str, Any]:
        """What was recorded, for `merge` on another machine; numbers, texts, and lists and dicts of them."""
        return {
            "sent": self.sent,
            "retries": self.retries,
            "errors": dict(self.errors),
            "examples": self.examples,
            "last_end": self.last_end,
            "kinds": [kind.packed() for kind in self._kinds()],
            "slots": [[list(item) for item in slots.items()] for slots in (self._sent, self._rows, self._tokens)],
            "done": [[tick, *total.tolist()] for tick, total in self._done.items()],
        }

    def merge(self, packed: dict[str, Any]) -> None:
        """Take in what a recorder of the same ``begin`` and ``targets`` packed, as if its records had come here."""
        self.sent += packed["sent"]
        self.retries += packed["retries"]
        self.errors.update(packed["errors"])
        for name, text in packed["examples"].items():
            self.examples.setdefault(name, text)
        self.last_end = max(self.last_end, packed["last_end"])
        for kind, other in zip(self._kinds(), packed["kinds"], strict=True):
            kind.merge(other)
        for slots, others in zip((self._sent, self._rows, self._tokens), packed["slots"], strict=True):
            slots.update(dict(others))
        for tick, *total in packed["done"]:
            self._done[tick] += total

    def _kinds(self) -> list[_Latencies]:
        return [self._latency, self._service, self._lag, *self._by_target]

    def second(self, slot: int) -> Second:
        answered = self._latency.seconds[slot].total()
        longest = max(self._latency.seconds[slot], default=None)
        return Second(
            at=float(slot),
            sent=self._sent[slot],
            answered=answered,
            failed=self._latency.failed_in[slot],
            rows=self._rows[slot],
            tokens=self._tokens[slot],
            p50=self._latency.of_second(slot, 0.5),
            p99=self._latency.of_second(slot, 0.99),
            max=_seconds(longest),
        )

    def result(self, end: float | None = None, unfinished: int = 0) -> Measured:
        """The figures. ``end``: when the measured time was really over, where the run was bounded by requests or broken
        off."""
        seconds = max((self.end if end is None else min(end, self.end)) - self.begin, 1e-9)
        done = sum((total for tick, total in self._done.items() if (tick + 0.5) * _TICK < seconds), np.zeros(3))
        requests, rows, tokens = (done / seconds).tolist()
        return Measured(
            seconds=seconds,
            sent=self.sent,
            answered=self._latency.histogram.total_count,
            unfinished=unfinished,
            retries=self.retries,
            errors=dict(self.errors.most_common()),
            examples={name: text for name, text in self.examples.items() if name in self.errors},
            throughput=Throughput(requests, rows, tokens if self.counted else None),
            latency=self._latency.result(),
            service=self._service.result(),
            lag=self._lag.result(),
            series=tuple(self.second(slot) for slot in range(max(self._sent, default=-1) + 1)),
            by_target={name: kind.result() for name, kind in zip(self.targets, self._by_target, strict=True)}
            if len(self.targets) > 1
            else {},
        )
