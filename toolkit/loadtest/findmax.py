"""The highest rate that holds an objective: bracketing, then repeated trials at the edge until one can be sure.

A single run at the edge is a coin toss. What is asked of a percentile objective is therefore what LoadGen's early
stopping asks: that the share of requests beyond the bound is below what the percentile allows *with confidence*, over
all trials of a rate together. Requests that wait together are slow together; the number of independent ones is smaller
by the spread that the trials themselves show.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Literal

from hdrh.histogram import HdrHistogram

from toolkit.errors import InputError
from toolkit.loadtest.measure import Distribution
from toolkit.loadtest.report import SCHEMA, Environment, Report
from toolkit.loadtest.run import Settings, run
from toolkit.loadtest.schedule import Rates, constant
from toolkit.loadtest.slo import Objective, percentile_of

__all__ = ["Point", "Search", "decide", "find_max", "knee"]

CONFIDENCE = 0.95
_Z = 1.644854  # one-sided
RESOLUTION = 0.05  # how far the bracket is narrowed, as a share of the rate
_MOST_TRIALS = 5  # at one rate
_LATE_TRIALS = 3  # in a row that may be the generator's own
_MOST_RATES = 40

Decision = Literal["held", "missed", "undecided"]


@dataclass(frozen=True)
class Point:
    """All trials of one rate. Latencies in seconds (``None``: no answer), of the last trial; ``throughput`` and
    ``rows`` are answers and rows a second, ``errors`` a share, ``cpu`` the server's CPUs busy."""

    rate: float
    trials: int
    decision: str
    throughput: float
    rows: float
    tokens: float | None
    errors: float
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    cpu: float | None
    batch_rows: float | None


@dataclass(frozen=True)
class Search:
    """``rate``: the highest that held (``None``: none did), with ``confidence``; ``missed``: the lowest found above it
    that did not. ``knee``: the rate at which throughput for latency was best. ``last`` is the report of the last trial
    at ``rate``, or at the lowest rate. ``stopped``: why the search ended without an answer."""

    schema: int
    kind: str
    url: str
    command: str
    objectives: tuple[Objective, ...]
    confidence: float
    rate: float | None
    missed: float | None
    knee: float | None
    points: tuple[Point, ...]
    environment: Environment
    last: Report
    stopped: str | None
    generator_limit: bool


def decide(trials: list[Report], objectives: tuple[Objective, ...]) -> Decision:
    """Whether the objectives hold at a rate, from all its trials. Percentiles: with `CONFIDENCE`; errors, max and mean:
    in every trial."""
    decisions = []
    for objective in objectives:
        q = percentile_of(objective)
        if q is None:
            held = all(result.held for trial in trials for result in trial.verdict if result.objective == objective)
            decisions.append("held" if held else "missed")
        else:
            decisions.append(_percentile(trials, objective, q))
    if "missed" in decisions:
        return "missed"
    return "undecided" if "undecided" in decisions else "held"


def _percentile(trials: list[Report], objective: Objective, q: float) -> Decision:
    slow = total = 0.0
    for trial in trials:
        latency = trial.measured.latency
        beyond, count = beyond_bound(latency, objective.bound)
        # a trial of correlated requests weighs as many as there are independent ones in it
        spread = latency.at(q).spread
        slow, total = slow + beyond / spread, total + count / spread
    if not total:
        return "missed"
    low, high = _wilson(slow / total, total)
    if high <= 1 - q:
        return "held"
    return "missed" if low > 1 - q else "undecided"


def beyond_bound(latency: Distribution, bound: float) -> tuple[int, int]:
    """Requests slower than ``bound`` seconds, failed ones among them, and all of them."""
    slow = latency.failed
    if latency.histogram:
        histogram = HdrHistogram.decode(latency.histogram)
        limit = histogram.get_highest_equivalent_value(round(bound * 1e9))
        slow += sum(
            item.count_added_in_this_iter_step
            for item in histogram.get_recorded_iterator()
            if item.value_iterated_to > limit
        )
    return slow, latency.answered + latency.failed


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's interval of a share, each end with `CONFIDENCE`."""
    middle = share + _Z**2 / (2 * count)
    reach = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return (middle - reach) / (1 + _Z**2 / count), (middle + reach) / (1 + _Z**2 / count)


def knee(points: list[Point]) -> float | None:
    """The rate with the most throughput for its latency (Kleinrock's power): beyond it, a bit more load costs more
    latency than it is worth."""
    powers = {point.rate: point.throughput / point.mean for point in points if point.mean}
    return max(powers, key=lambda rate: powers[rate]) if powers else None


class _StoppedError(Exception):
    def __init__(self, reason: str, generator: bool = False) -> None:
        super().__init__(reason)
        self.generator = generator


class _Searching:
    def __init__(
        self, settings: Settings, stop: threading.Event | None, report: Callable[[Point], None],
        trial: Callable[..., Report],
    ) -> None:  # fmt: skip
        self.settings, self.stop, self.report, self.trial = settings, stop, report, trial
        assert isinstance(settings.load, Rates)
        self.seconds, self.poisson = settings.load.seconds, settings.load.poisson
        self.trials: dict[float, list[Report]] = {}
        self.points: dict[float, Point] = {}
        self.runs = 0

    def at(self, rate: float, *, sure: bool) -> bool:
        """Whether the objectives hold at ``rate``: by one trial, or (``sure``) by as many as it takes."""
        trials = self.trials.setdefault(rate, [])
        while True:
            decision = decide(trials, self.settings.objectives) if trials else "undecided"
            enough = bool(trials) if not sure else decision != "undecided" or len(trials) >= _MOST_TRIALS
            if enough:
                break
            trials.append(self._run(rate))
        held = decision == "held" if sure else all(result.held for result in trials[-1].verdict)
        self.points[rate] = _point(rate, trials, decision if sure else "held once" if held else "missed once")
        self.report(self.points[rate])
        return held

    def _run(self, rate: float) -> Report:
        """A trial at ``rate``. One that holds, but whose figures are the generator's own, is taken again, twice."""
        for _ in range(_LATE_TRIALS):
            report = self._try(rate)
            # a rate that is missed anyway needs no faultless generator
            if report.lag.held or not all(result.held for result in report.verdict):
                return report
        self.trials[rate].append(report)
        raise _StoppedError(
            f"at {rate:.4g} requests/s {report.lag.share:.2%} of the {report.lag.worst} latency was the "
            f"generator's own in {_LATE_TRIALS} trials in a row (at most {report.lag.bound:.2%}, --max-lag): "
            "use more --processes or another machine",
            generator=True,
        )

    def _try(self, rate: float) -> Report:
        self.runs += 1
        load = constant(rate, self.seconds, poisson=self.poisson)
        # another seed for each trial: the same arrivals again would tell nothing new
        report = self.trial(replace(self.settings, load=load, seed=self.settings.seed + self.runs), stop=self.stop)
        if report.stopped is not None:
            self.trials[rate].append(report)
            raise _StoppedError(report.stopped)
        return report


def _point(rate: float, trials: list[Report], decision: str) -> Point:
    measured, server = trials[-1].measured, trials[-1].server
    return Point(
        rate=rate,
        trials=len(trials),
        decision=decision,
        throughput=measured.throughput.requests,
        rows=measured.throughput.rows,
        tokens=measured.throughput.tokens,
        errors=measured.error_rate,
        mean=measured.latency.mean,
        p50=measured.latency.at(0.5).value,
        p95=measured.latency.at(0.95).value,
        p99=measured.latency.at(0.99).value,
        cpu=None if server is None else server.whole.cpu,
        batch_rows=None if server is None else server.whole.batch_rows,
    )


def find_max(
    settings: Settings,
    start: float = 10.0,
    *,
    report: Callable[[Point], None] = lambda point: None,
    stop: threading.Event | None = None,
    trial: Callable[..., Report] = run,
) -> Search:
    """Search the highest rate that holds ``settings.objectives``; each trial takes as long as ``settings.load``.

    From ``start`` the rate doubles until a trial misses (or halves until one holds); the bracket is then halved, in
    proportion, to `RESOLUTION`; at its lower end trials are repeated until the objectives hold, or are missed, with
    `CONFIDENCE`, at most five times; what stays undecided counts as missed, and the next lower rate is tried.
    ``trial`` replaces `run`, for tests. Raises `InputError`.
    """
    if not settings.objectives:
        raise InputError("a search needs objectives, like p99=50ms")
    if not isinstance(settings.load, Rates):
        raise InputError("a search needs an open loop at a rate")
    if not 0 < start < float("inf"):
        raise InputError(f"the rate to begin with is {start}; it must be more than 0")
    search = _Searching(settings, stop, report, trial)
    best: float | None = None
    stopped: _StoppedError | None = None
    try:
        best = _search(search, start)
    except _StoppedError as error:
        stopped = error
    points = [search.points[rate] for rate in sorted(search.points)]
    shown = best if best is not None else min(search.trials)
    return Search(
        schema=SCHEMA,
        kind="find-max",
        url=settings.url,
        command=settings.command,
        objectives=settings.objectives,
        confidence=CONFIDENCE,
        rate=best,
        missed=min(
            (p.rate for p in points if not p.decision.startswith("held") and p.rate > (best or 0)), default=None
        ),
        knee=knee(points),
        points=tuple(points),
        environment=search.trials[shown][-1].environment,
        last=search.trials[shown][-1],
        stopped=None if stopped is None else str(stopped),
        generator_limit=stopped is not None and stopped.generator,
    )


def _search(search: _Searching, start: float) -> float | None:
    low, high = 0.0, float("inf")
    rate = start
    for _ in range(_MOST_RATES):
        if search.at(rate, sure=False):
            low = rate
        else:
            high = rate
        if low and high <= low * (1 + RESOLUTION):
            break
        if high == float("inf"):
            rate = low * 2
        elif not low:
            rate = high / 2
            # a load that sends next to nothing in a trial cannot hold anything
            if rate * search.seconds < 10:
                return None
        else:
            rate = sqrt(low * high)
    while low * search.seconds >= 10:
        if search.at(low, sure=True):
            return low
        low /= 1 + RESOLUTION
    return None
