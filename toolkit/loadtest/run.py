"""A run from settings to report: processes are started, told when to begin, listened to, and stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from toolkit.client import Client
from toolkit.client.options import Retry
from toolkit.client.transport.address import parse_address
from toolkit.client.transport.interface import Connection
from toolkit.errors import ClientError, InputError
from toolkit.loadtest import schedule
from toolkit.loadtest.measure import Measured, Recorder
from toolkit.loadtest.metrics import Scraper
from toolkit.loadtest.records import RECORD
from toolkit.loadtest.report import SCHEMA, Generator, LagVerdict, Report, environment
from toolkit.loadtest.schedule import Closed, Load
from toolkit.loadtest.slo import Objective, judge
from toolkit.loadtest.texts import Distribution, Target, TextSource, Traffic, prepare
from toolkit.loadtest.worker import Order, work

__all__ = ["Progress", "Settings", "lag_verdict", "make_report", "run", "traffic_of"]

_START_SECONDS = 0.3  # from the word to the first request, so that all workers hear it in time
_READY_SECONDS = 60.0
_LAG_QUANTILES = (0.5, 0.9, 0.95, 0.99)

Progress = Callable[[float, Recorder], None]
"""Called about four times a second with the seconds since the start of the run and what has been recorded."""


@dataclass(frozen=True)
class Settings:
    """Everything a run needs. ``timeout``: seconds an attempt may take. ``retry``: off by default, since a request that
    is sent twice hides that the first one failed. ``warmup``: seconds before ``load``, at its first rate, left out.
    ``requests``: how many different requests are drawn. ``max_lag``: see `LagVerdict`. ``metrics_url``: the server's
    Prometheus page; ``server_pid``: its process, where it runs on this machine. ``command`` is kept in the report."""

    url: str
    targets: tuple[Target, ...]
    load: Load
    warmup: float = 5.0
    texts: TextSource = TextSource()
    rows: Distribution = Distribution()
    timeout: float = 10.0
    retry: Retry = Retry(attempts=1)
    connection: Connection = Connection()
    processes: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    seed: int = 0
    requests: int = 1024
    objectives: tuple[Objective, ...] = ()
    max_lag: float = 0.01
    metrics_url: str | None = None
    server_pid: int | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("no model is named")
        for name, value, least in (("processes", self.processes, 1), ("requests", self.requests, 1)):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if not self.warmup >= 0:
            raise InputError(f"warm-up is {self.warmup} seconds; it must be 0 or more")
        if not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout} seconds; it must be more than 0")
        if isinstance(self.load, schedule.Replay) and self.warmup >= self.load.seconds:
            raise InputError(f"the warm-up of {self.warmup:g} s leaves nothing of a replay of {self.load.seconds:g} s")

    def as_json(self) -> dict[str, Any]:
        """What the report keeps; no secrets."""
        return {
            "warmup": self.warmup,
            "texts": str(self.texts),
            "rows": str(self.rows),
            "timeout": self.timeout,
            "attempts": self.retry.attempts,
            "channels": self.connection.channels,
            "compression": self.connection.compression,
            "round_robin": self.connection.round_robin,
            "processes": self.processes,
            "seed": self.seed,
            "requests": self.requests,
        }


def lag_verdict(measured: Measured, bound: float, closed: bool = False) -> LagVerdict:
    """The rule: at no percentile up to p99 may the latency from the intended time be more than ``bound`` (a share)
    above the latency from the actual send time. The rarer ones are shown, but too few requests make them up."""
    share, worst = None, None
    if not closed:
        for q in _LAG_QUANTILES:
            whole, own = measured.latency.at(q), measured.service.at(q)
            if whole.value and own.value is not None:
                part = max(0.0, (whole.value - own.value) / whole.value)
                if share is None or part > share:
                    share, worst = part, whole.name
    return LagVerdict(bound, share, worst, share is None or share <= bound)


def run(settings: Settings, *, progress: Progress | None = None, stop: threading.Event | None = None) -> Report:
    """Carry out a load test. A server that fails, or is not there, is a finding and in the report; ``stop`` (or Ctrl-C)
    ends the run early, with what was measured. Raises `InputError` and `MissingExtraError` only."""
    parse_address(settings.url)
    stop = stop or threading.Event()
    try:
        traffic = traffic_of(settings)
    except ClientError as error:
        recorder = Recorder(0.0, 0.0, [str(target) for target in settings.targets])
        recorder.sent, recorder.errors[type(error).__name__] = 1, 1
        recorder.examples[type(error).__name__] = str(error)
        return make_report(
            settings, recorder.result(), None, Generator(0, 0.0, 0), f"the server was not usable: {error}"
        )
    with _ctrl_c(stop):
        return _Run(settings, traffic, stop, progress).report()


def traffic_of(settings: Settings) -> Traffic:
    connection = settings.connection
    with Client(
        settings.url,
        settings.targets[0].model,
        timeout=settings.timeout,
        tls=connection.tls,
        token=connection.token,
        metadata=connection.metadata,
        compression=connection.compression,
        round_robin=connection.round_robin,
        proxies=connection.proxies,
    ) as client:
        return prepare(client, settings.targets, settings.texts, settings.rows, settings.requests, settings.seed)


def make_report(
    settings: Settings, measured: Measured, server: Any, generator: Generator, stopped: str | None
) -> Report:
    """The report of what was measured."""
    closed = isinstance(settings.load, Closed)
    return Report(
        schema=SCHEMA,
        url=settings.url,
        targets=tuple(str(target) for target in settings.targets),
        command=settings.command,
        load=schedule.as_json(settings.load),
        load_words=settings.load.describe(),
        settings=settings.as_json(),
        environment=environment(),
        generator=generator,
        measured=measured,
        lag=lag_verdict(measured, settings.max_lag, closed),
        server=server,
        verdict=judge(measured, settings.objectives),
        stopped=stopped,
    )


@contextmanager
def _ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set ``stop``, and only the second one interrupt: an exception in the middle of a worker's message
    would lose the others. Signals are the main thread's; elsewhere there is nothing to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    def __init__(self, settings: Settings, traffic: Traffic, stop: threading.Event, progress: Progress | None) -> None:
        self.settings, self.traffic, self.stop, self.progress = settings, traffic, stop, progress
        names = [str(target) for target in settings.targets]
        # A replay's warm-up lies within it; else it comes before the load.
        inside = isinstance(settings.load, schedule.Replay)
        self.end = settings.load.seconds + (0.0 if inside else settings.warmup)
        self.recorder = Recorder(settings.warmup, self.end, names, traffic.counted)
        self.statuses: dict[Pipe, list[str]] = {}
        self.words: list[Pipe] = []  # to the workers
        self.cpu = 0.0
        self.unfinished = self.lost = 0
        self.stopped: str | None = None
        self.asked = False  # the workers to stop

    def report(self) -> Report:
        settings = self.settings
        scraper = None
        if settings.metrics_url is not None or settings.server_pid is not None:
            scraper = Scraper(settings.metrics_url, settings.server_pid)
            scraper.start()
        begin = time.monotonic()
        try:
            begin, over = self._workers()
        finally:
            server = scraper.stop(begin + settings.warmup) if scraper is not None else None
        end = min(self.end, over)
        if isinstance(settings.load, Closed) and settings.load.requests is not None and self.stopped is None:
            end = min(end, self.recorder.last_end)
        measured = self.recorder.result(end, self.unfinished)
        generator = Generator(settings.processes, self.cpu, self.lost)
        return make_report(settings, measured, server, generator, self.stopped)

    def _order(self, number: int) -> Order:
        settings = self.settings
        load = settings.load if isinstance(settings.load, Closed) else settings.load.after(settings.warmup)
        return Order(
            number=number,
            workers=settings.processes,
            load=load,
            traffic=self.traffic,
            address=parse_address(settings.url),
            connection=settings.connection,
            timeout=settings.timeout,
            retry=settings.retry,
            seed=settings.seed,
            warmup=settings.warmup,
        )

    def _workers(self) -> tuple[float, float]:
        """Run all workers to their end; when they began, and after how many seconds sending was over."""
        context = multiprocessing.get_context("spawn")  # grpc does not survive a fork
        pipes: list[Pipe] = []
        processes = []
        begin = time.monotonic()
        try:
            for number in range(self.settings.processes):
                ours, theirs = context.Pipe(duplex=False)
                orders, words = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(theirs, orders), daemon=True)
                process.start()
                theirs.close()
                orders.close()
                pipes.append(ours)
                self.words.append(words)
                processes.append(process)
                # Not as an argument: a child that ends before it has read a large one would be waited for for ever.
                with suppress(BrokenPipeError, ConnectionResetError):
                    words.send(self._order(number))
                self.statuses[ours] = []
            open_pipes = list(pipes)
            self._ready(open_pipes)
            begin = time.monotonic() + _START_SECONDS
            self._tell(("go", begin))
            over = self._listen(open_pipes, begin)
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()
            for pipe in (*pipes, *self.words):
                pipe.close()
        return begin, over

    def _ready(self, pipes: list[Pipe]) -> None:
        until = time.monotonic() + _READY_SECONDS
        for pipe in list(pipes):
            if not pipe.poll(max(0.0, until - time.monotonic())):
                raise InputError(f"a worker was not ready within {_READY_SECONDS:g} seconds; use fewer --processes")
            try:
                pipe.recv()
            except EOFError:
                if self.stop.is_set():  # Ctrl-C goes to all processes, also to those that do not know it yet
                    raise KeyboardInterrupt from None
                raise InputError("a worker process ended at its start; its message is on stderr") from None

    def _tell(self, word: tuple[str, Any]) -> None:
        for pipe in self.words:
            # one that has ended is noticed where its pipe is read
            with suppress(BrokenPipeError, ConnectionResetError):
                pipe.send(word)

    def _listen(self, pipes: list[Pipe], begin: float) -> float:
        over = float("inf")
        shown = 0.0
        while pipes:
            if self.stop.is_set() and not self.asked:
                over = self._break_off(begin)
            for pipe in wait(pipes, timeout=0.1):
                self._take(pipe, pipes)  # type: ignore[arg-type]
            now = time.monotonic() - begin
            if self.progress is not None and now - shown > 0.25:
                shown = now
                self.progress(now, self.recorder)
        return over

    def _break_off(self, begin: float) -> float:
        self.asked = True
        self.stopped = "interrupted"
        self._tell(("stop", None))
        return max(0.0, time.monotonic() - begin)

    def _take(self, pipe: Pipe, pipes: list[Pipe]) -> None:
        try:
            kind, value = pipe.recv()
        except (EOFError, ConnectionResetError):
            pipes.remove(pipe)
            self.lost += 1
            return
        if kind == "done":
            pipes.remove(pipe)
            self.cpu += value["cpu"]
            self.unfinished += value["unfinished"]
            return
        fresh, block = value
        self.statuses[pipe] += [name for name, _ in fresh]
        for name, text in fresh:
            self.recorder.examples.setdefault(name, text)
        self.recorder.add(np.frombuffer(block, RECORD), self.statuses[pipe])
