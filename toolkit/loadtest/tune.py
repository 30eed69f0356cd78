"""The settings under which a server holds the highest rate: one axis after the other, each candidate on a server of its
own, driven by the same generator as a load test.

A candidate has to hold, in one trial, 5 % more than the best one so far; only those that do are searched for their
highest rate. So most of a sweep costs one trial a candidate, and what is no better than noise changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from toolkit.errors import GeneratorError, InputError, ServerError
from toolkit.loadtest.findmax import RESOLUTION, find_max
from toolkit.loadtest.report import Report, read_json, rebuild, save
from toolkit.loadtest.run import Settings, run
from toolkit.loadtest.schedule import Rates, constant

__all__ = ["AXES", "Candidate", "Served", "State", "Tried", "Tuning", "open_state", "question_of", "sweeps", "tune"]

SCHEMA = 1
STATE_FILE = "tune.json"
AXES = ("batching", "threads", "size", "wait")
_TOKENS = (256, 512, 1024, 2048, 4096)
_ROWS = (8, 16, 32, 64, 128)
_WAITS = (0, 500, 2000, 5000)


@dataclass(frozen=True)
class Candidate:
    """Settings to try. ``batching``: in the artifact's ``graph``, of ``rows`` by the server, or ``none``. ``threads``:
    batches computed at one time, and compute threads; ``threads_per_op``: threads that share one operation. ``size``:
    most tokens (``graph``) or rows (``rows``) of a batch; ``wait_micros``: its longest wait for company."""

    batching: Literal["graph", "rows", "none"]
    threads: int
    threads_per_op: int = 1
    size: int = 0
    wait_micros: int = 0

    def __str__(self) -> str:
        size = f", {self.size_words}, wait {self.wait_micros} µs" if self.batching != "none" else ""
        return f"batching {self.batching}, {self.threads} threads, {self.threads_per_op} per operation{size}"

    @property
    def size_words(self) -> str:
        return {"graph": f"{self.size} tokens", "rows": f"{self.size} rows", "none": ""}[self.batching]


@dataclass(frozen=True)
class Tried:
    """What became of a candidate. ``asked``: requests a second it had to hold to be searched further; ``rate``: the
    highest it holds, ``None`` if it did not hold ``asked``, or the server failed (``failure``). The figures are of the
    last trial at that rate: rows a second, percentiles in seconds (``None``: no answer), the server's CPUs busy;
    ``memory``: the most bytes the server had resident."""

    candidate: Candidate
    asked: float
    rate: float | None
    rows: float | None
    p50: float | None
    p99: float | None
    cpu: float | None
    memory: int | None
    failure: str | None

    @property
    def words(self) -> str:
        if self.failure is not None:
            return f"the server failed: {self.failure}"
        if self.rate is None:
            return f"does not hold {self.asked:,.1f}/s"
        return f"holds {self.rate:,.1f}/s"


@dataclass(frozen=True)
class Tuning:
    """All that is known, as ``tune.json`` keeps it. ``artifact``: fingerprint of what was measured; ``question``: what
    was asked, which a later run must ask again to go on. ``finished``: every candidate that could be better was tried;
    ``best``: the place in ``tried`` of the one that holds the highest rate, ``None`` if none holds any."""

    schema: int
    kind: str
    artifact: str
    question: dict[str, Any]
    tried: tuple[Tried, ...]
    best: int | None
    finished: bool

    @property
    def winner(self) -> Tried | None:
        return None if self.best is None else self.tried[self.best]


class Served(Protocol):
    """A server that runs."""

    @property
    def url(self) -> str: ...

    @property
    def metrics_url(self) -> str: ...

    @property
    def pid(self) -> int: ...

    def peak_memory(self) -> int: ...


Serve = Callable[[Candidate], AbstractContextManager[Served]]


@dataclass
class State:
    """A tuning that is written to its file whenever it changes; the file is replaced in one step."""

    path: Path
    tuning: Tuning

    def put(self, **changes: Any) -> None:
        self.tuning = replace(self.tuning, **changes)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            save(self.tuning, temporary)
            temporary.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from None

    def known(self, candidate: Candidate) -> Tried | None:
        return next((item for item in self.tuning.tried if item.candidate == candidate), None)


def open_state(folder: Path, artifact: str, question: dict[str, Any]) -> State:
    """The state of a tuning in ``folder``, begun or to be gone on with. Raises `InputError` if it is of another
    artifact or question."""
    path = folder / STATE_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return State(path, Tuning(SCHEMA, "tune", artifact, question, (), None, False))
    value = read_json(path)
    if value.get("schema") != SCHEMA or value.get("kind") != "tune":
        raise InputError(f"{path} is no tuning of schema {SCHEMA}; use another --output")
    tuning: Tuning = rebuild(Tuning, value, str(path))
    if tuning.artifact != artifact:
        raise InputError(f"{path} is about another artifact, or the artifact was changed since; use another --output")
    for name in sorted(tuning.question.keys() | question.keys()):
        before, now = tuning.question.get(name), question.get(name)
        if before != now:
            raise InputError(f"{path} was begun with {name} {before}, now it is {now}; use another --output")
    return State(path, tuning)


def sweeps(now: Candidate, cpus: int, axis: str) -> list[Candidate]:
    """The candidates along one axis from ``now``, which is not among them."""
    if axis == "batching":
        if now.batching == "graph":  # the server's own batching on top of it would only wait twice
            return []
        found = [Candidate("none", now.threads, now.threads_per_op),
                 Candidate("rows", now.threads, now.threads_per_op, 64, 2000)]  # fmt: skip
        # of its kin one is enough: the other axes say how large and how long
        return [item for item in found if item.batching != now.batching]
    if axis == "threads":
        pairs = [(cpus, 1), (cpus, cpus), (1, cpus), (max(1, cpus // 2), 2), (2 * cpus, 1)]
        found = [replace(now, threads=threads, threads_per_op=per_op) for threads, per_op in dict.fromkeys(pairs)]
    elif now.batching == "none":
        return []
    elif axis == "size":
        found = [replace(now, size=size) for size in (_TOKENS if now.batching == "graph" else _ROWS)]
    else:
        found = [replace(now, wait_micros=wait) for wait in _WAITS]
    return [item for item in found if item != now]


def tune(
    state: State,
    begin: Candidate,
    cpus: int,
    settings: Settings,
    serve: Serve,
    *,
    start: float = 10.0,
    budget: float = float("inf"),
    report: Callable[[Tried], None] = lambda tried: None,
    trial: Callable[..., Report] = run,
) -> Tuning:
    """Try candidates from ``begin`` on, until none is better or ``budget`` seconds are over, and return the tuning.

    ``settings`` say the load, but not the server (``url``, ``metrics_url``, ``server_pid``); each trial takes as long
    as ``settings.load``. ``start``: the rate to begin with; ``report`` is called after each candidate, also for those
    known from before. A candidate that the budget cuts short counts as not tried. Raises `GeneratorError` where the
    generator was the limit, `ServerError` if not even ``begin`` can be served.
    """
    if not isinstance(settings.load, Rates) or not settings.objectives:
        raise InputError("tuning needs an open loop at a rate, and objectives, like p99=50ms")
    search = _Tuner(state, settings, serve, start, time.monotonic() + budget, report, trial)
    try:
        search.run(begin, cpus)
    except _BudgetSpentError:
        return state.tuning
    state.put(finished=True)
    return state.tuning


class _BudgetSpentError(Exception):
    pass


class _Tuner:
    def __init__(
        self, state: State, settings: Settings, serve: Serve, start: float, deadline: float,
        report: Callable[[Tried], None], trial: Callable[..., Report],
    ) -> None:  # fmt: skip
        self.state, self.settings, self.serve, self.start = state, settings, serve, start
        self.deadline, self.report, self.trial = deadline, report, trial
        self.best: Tried | None = None
        self.seen: set[Candidate] = set()

    def run(self, begin: Candidate, cpus: int) -> None:
        first = self._try(begin)
        if first.failure is not None:
            raise ServerError(f"the server does not start with the present settings: {first.failure}")
        while True:
            before = self.best
            for axis in AXES:
                now = begin if self.best is None else self.best.candidate
                for candidate in sweeps(now, cpus, axis):
                    if candidate not in self.seen:
                        self._try(candidate)
            if self.best is before:
                return

    def _try(self, candidate: Candidate) -> Tried:
        """Measure, or know from before; what is better than the best takes its place."""
        self.seen.add(candidate)
        tried = self.state.known(candidate)
        if tried is None:
            tried = self._measured(candidate)
            self.state.put(tried=(*self.state.tuning.tried, tried))
        if tried.rate is not None and (self.best is None or tried.rate > (self.best.rate or 0.0)):
            self.best = tried
            self.state.put(best=self.state.tuning.tried.index(tried))
        self.report(tried)
        return tried

    def _measured(self, candidate: Candidate) -> Tried:
        if time.monotonic() >= self.deadline:
            raise _BudgetSpentError
        asked = self.start if self.best is None or self.best.rate is None else self.best.rate * (1 + RESOLUTION)
        try:
            with self.serve(candidate) as server, _alarm(self.deadline) as stop:
                found = self._measure(candidate, server, asked, stop)
                if stop.is_set():
                    raise _BudgetSpentError
                return replace(found, memory=server.peak_memory())
        except ServerError as error:
            return Tried(candidate, asked, None, None, None, None, None, None, str(error))

    def _measure(self, candidate: Candidate, server: Served, asked: float, stop: threading.Event) -> Tried:
        load = self.settings.load
        assert isinstance(load, Rates)
        settings = replace(self.settings, url=server.url, metrics_url=server.metrics_url, server_pid=server.pid)
        if self.best is not None:
            report = self.trial(replace(settings, load=constant(asked, load.seconds, poisson=load.poisson)), stop=stop)
            self._check(report.stopped, stop)
            if not all(result.held for result in report.verdict):
                latency, whole = report.measured.latency, report.server.whole if report.server else None
                return Tried(candidate, asked, None, report.measured.throughput.rows, latency.at(0.5).value,
                             latency.at(0.99).value, whole.cpu if whole else None, None, None)  # fmt: skip
        search = find_max(settings, asked, stop=stop, trial=self.trial)
        if search.generator_limit:
            raise GeneratorError(f"{candidate}: {search.stopped}")
        self._check(search.stopped, stop)
        point = next((item for item in search.points if item.rate == search.rate), search.points[0])
        return Tried(candidate, asked, search.rate, point.rows, point.p50, point.p99, point.cpu, None, None)

    def _check(self, stopped: str | None, stop: threading.Event) -> None:
        if stop.is_set():
            raise _BudgetSpentError
        if stopped == "interrupted":  # by Ctrl-C, not by us
            raise KeyboardInterrupt
        if stopped is not None:
            raise ServerError(stopped)


@contextmanager
def _alarm(deadline: float) -> Iterator[threading.Event]:
    """An event that is set at ``deadline``."""
    event = threading.Event()
    if deadline == float("inf"):
        yield event
        return
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), event.set)
    timer.start()
    try:
        yield event
    finally:
        timer.cancel()


def question_of(settings: Settings, **more: Any) -> dict[str, Any]:
    """What a tuning asks, in values that JSON keeps as they are."""
    load = settings.load
    asked = {
        "targets": [str(target) for target in settings.targets],
        "slo": ",".join(map(str, settings.objectives)),
        "seconds": load.seconds,
        "arrivals": "poisson" if isinstance(load, Rates) and load.poisson else "constant",
        **settings.as_json(),
        **more,
    }
    # how many processes send changes nothing of what the server holds
    return {name: value for name, value in asked.items() if name != "processes"}
