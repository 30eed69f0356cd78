"""A load test whose requests are sent by several machines: what one sends and records, and how it is put together.

Knows nothing of how the machines talk to each other; `toolkit.loadtest.locustfile` lets Locust do it.
"""

from __future__ import annotations

import resource
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.client import TLS
from toolkit.client.options import Retry
from toolkit.client.transport.address import Address, parse_address
from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interface import Connection, Outcome, Transport
from toolkit.client.transport.opening import LoopTransport, open_sync
from toolkit.errors import ClientError, InputError
from toolkit.loadtest.measure import Recorder
from toolkit.loadtest.metrics import Scraper
from toolkit.loadtest.records import RECORD
from toolkit.loadtest.report import Generator, Report
from toolkit.loadtest.rest import open_transport
from toolkit.loadtest.run import Settings, make_report, traffic_of
from toolkit.loadtest.schedule import Closed, Load, constant
from toolkit.loadtest.slo import parse_slo
from toolkit.loadtest.texts import Distribution, Target, TextSource
from toolkit.loadtest.worker import Statuses

__all__ = ["Gathering", "Sender", "settings_of"]


def settings_of(options: Namespace, users: int = 1, seconds: float = 1.0) -> Settings:
    """Settings from the options of the command line; ``users`` of them together send for ``seconds``. Raises
    `InputError`."""
    if not options.host or not options.model:
        raise InputError("give --host, the server's URL (grpc://server:8500), and --model, the served model's name")
    if options.rate_per_user < 0:
        raise InputError(f"--rate-per-user is {options.rate_per_user}; give requests a second, or 0 for a closed loop")
    secrets = [options.ca or None, options.cert or None, options.key or None, options.server_name or None]
    load: Load = Closed(max(1, users), seconds)
    if options.rate_per_user:
        load = constant(options.rate_per_user * max(1, users), seconds, poisson=options.arrivals == "poisson")
    return Settings(
        url=options.host,
        targets=(Target(options.model, options.signature),),
        load=load,
        warmup=options.warmup,
        texts=TextSource(
            options.texts or None,
            tokens=Distribution.parse(options.tokens, "--tokens") if options.tokens else None,
        ),
        rows=Distribution.parse(options.rows, "--rows"),
        timeout=options.request_timeout,
        retry=Retry(attempts=1),
        connection=Connection(
            tls=TLS(*secrets) if any(secrets) else None,
            token=_token(options.token_file) if options.token_file else None,
            compression=options.compression or None,
            round_robin=options.round_robin,
            channels=options.channels,
        ),
        processes=1,
        seed=options.seed,
        objectives=parse_slo(options.slo) if options.slo else (),
        max_lag=options.max_lag,
        metrics_url=options.metrics_url or None,
        command=shlex.join(["locust", *sys.argv[1:]]),
    )


def _token(path: str) -> Callable[[], str]:
    return lambda: Path(path).read_text().strip()


def _transport(address: Address, connection: Connection) -> Transport:
    # The client's REST costs gevent so much CPU that a process would hold about a hundred requests a second.
    if address.rest:
        return LoopTransport(lambda: open_transport(address, connection))
    return open_sync(address, connection)


class Sender:
    """What one process sends, and what became of it. ``number``: of the process; others draw other requests. Raises
    `ClientError` if the server does not answer as it should."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.settings, self.number = settings, number
        self.traffic = traffic_of(settings)
        self.transport: Transport = _transport(parse_address(settings.url), settings.connection)
        self.begin = time.monotonic()
        self.stopped_at: float | None = None
        self.under_way = 0
        self.users = 0
        self._statuses = Statuses()
        self._rows: list[tuple[Any, ...]] = []
        self._draw = np.random.default_rng((settings.seed, 3, number))
        self._order: list[int] = []

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begin

    def stop(self) -> None:
        """No request is sent from now on."""
        self.stopped_at = self.stopped_at if self.stopped_at is not None else self.now()

    def user_draws(self) -> np.random.Generator:
        """Random numbers of a user of its own."""
        self.users += 1
        return np.random.default_rng((self.settings.seed, 5, self.number, self.users))

    def send(self, intended: float | None, wait: Callable[[Callable[[Callable[[Outcome], None]], object]], Outcome]
             ) -> tuple[float, Outcome] | None:  # fmt: skip
        """Send the next request, and wait for what becomes of it by ``wait``, which is given a function that starts the
        request and calls back. Returns the seconds from ``intended`` (else from the send) and the outcome; ``None``
        after the end."""
        if self.stopped_at is not None:
            return None
        if not self._order:
            self._order = self._draw.permutation(len(self.traffic.requests)).tolist()
        number = self._order.pop()
        request, timeout = self.traffic.requests[number], self.settings.timeout
        sent = self.now()
        self.under_way += 1
        outcome = wait(lambda done: self.transport.start(request, timeout, done))
        self.under_way -= 1
        end = self.now()
        status = self._statuses.number(outcome) if isinstance(outcome, Failure) else 0
        first = sent if intended is None else intended
        traffic = self.traffic
        self._rows.append(
            (first, sent, end, status, traffic.target[number], 1, traffic.rows[number], traffic.tokens[number])
        )
        return end - first, outcome

    def take(self) -> dict[str, Any]:
        """What was recorded since it was asked last, packed."""
        names = [str(target) for target in self.settings.targets]
        recorder = Recorder(self.settings.warmup, float("inf"), names, self.traffic.counted)
        rows, self._rows = self._rows, []
        for name, text in self._statuses.fresh:
            recorder.examples.setdefault(name, text)
        self._statuses.fresh = []
        recorder.add(np.array(rows, RECORD), self._statuses.names)
        return {**recorder.packed(), "counted": self.traffic.counted}

    def last(self) -> dict[str, Any]:
        """The rest, at the end, with what only the end tells."""
        self.stop()
        used = resource.getrusage(resource.RUSAGE_SELF)
        packed = self.take()
        self.transport.close()
        return {
            "records": packed,
            "seconds": self.stopped_at,
            "unfinished": self.under_way,
            "cpu": used.ru_utime + used.ru_stime,
        }


@dataclass
class Gathering:
    """Puts together what all senders recorded. ``senders``: how many there were at the start."""

    settings: Settings
    senders: int
    ended: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [str(target) for target in self.settings.targets]
        self.recorder = Recorder(self.settings.warmup, float("inf"), names)
        self._begin = time.monotonic()
        self._scraper = None
        if self.settings.metrics_url is not None:
            self._scraper = Scraper(self.settings.metrics_url)
            self._scraper.start()

    def add(self, packed: dict[str, Any]) -> None:
        """Something that a sender recorded."""
        self.recorder.counted = self.recorder.counted and packed["counted"]
        self.recorder.merge(packed)

    def end(self, last: dict[str, Any]) -> None:
        """A sender's end; ``problem`` says why it sent nothing."""
        if "problem" in last:
            self.problems.append(last["problem"])
            return
        self.add(last["records"])
        self.ended.append(last)

    @property
    def complete(self) -> bool:
        return len(self.ended) + len(self.problems) >= self.senders

    def report(self, load: Callable[[float], Load]) -> Report:
        """The report of the whole; ``load`` gives the load of so many measured seconds."""
        # each sender has a clock of its own, from its own begin: what all of them have in common is measured
        over = min((item["seconds"] for item in self.ended), default=self.settings.warmup)
        seconds = max(over - self.settings.warmup, 1e-3)
        server = self._scraper.stop(self._begin + self.settings.warmup) if self._scraper is not None else None
        unfinished = sum(item["unfinished"] for item in self.ended)
        measured = self.recorder.result(self.settings.warmup + seconds, unfinished)
        cpu = sum(item["cpu"] for item in self.ended)
        lost = max(0, self.senders - len(self.ended) - len(self.problems))
        stopped = f"the server was not usable: {self.problems[0]}" if self.problems else None
        if stopped is None and not self.ended:
            stopped = "no sender was left"
        settings = replace(self.settings, load=load(seconds), processes=max(1, self.senders))
        return make_report(settings, measured, server, Generator(self.senders, cpu, lost), stopped)


def problem_of(error: ClientError | InputError) -> dict[str, Any]:
    """A sender's end that never began."""
    return {"problem": str(error)}
