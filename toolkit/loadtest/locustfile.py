"""Load from many machines: a Locust ``User`` on the bundled client, run by Locust's own master and workers.

    sentence-serving loadtest locust --master --headless --expect-workers 2 -u 20 -t 1m --host grpc://HOST --model M
    sentence-serving loadtest locust --worker --master-host MASTER

With ``--rate-per-user`` (the default) a user is a source of requests that come whether or not earlier ones were
answered; so latencies are from the intended times, as in ``sentence-serving loadtest``. With 0 a user is a caller who
waits for each answer: a closed loop. Workers record into the same HdrHistograms, which come to the master with Locust's
own reports; the master writes the same ``report.json`` and ``report.html``.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.event
import gevent.pool
import gevent.socket
import grpc.experimental.gevent
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interface import Outcome
from toolkit.errors import ClientError, InputError, ToolkitError
from toolkit.loadtest.distributed import Gathering, Sender, problem_of, settings_of
from toolkit.loadtest.html import write_html
from toolkit.loadtest.report import Report, save
from toolkit.loadtest.show import summary
from toolkit.loadtest.timer import KernelTimer
from toolkit.signatures import DEFAULT_SIGNATURE

__all__ = ["EmbeddingUser"]

# Locust has put gevent into the place of threads; gRPC's C core has to be told.
grpc.experimental.gevent.init_gevent()

_STOP, _ENDED, _KEY = "loadtest-stop", "loadtest-ended", "loadtest"
_GRACE_SECONDS = 5.0
_CONNECTION = {
    "ca": "PEM file of the server's authority",
    "cert": "PEM file of the client's certificate",
    "key": "PEM file of the client's key",
    "server-name": "Name in the server's certificate",
    "token-file": "File with a bearer token",
    "compression": "gzip: compress requests",
}
_log = logging.getLogger(__name__)


class EmbeddingUser(User):
    """A source of requests, or a caller (``--rate-per-user 0``)."""

    sender: ClassVar[Sender | None] = None
    pool: ClassVar[gevent.pool.Pool] = gevent.pool.Pool()

    def on_start(self) -> None:
        if self.sender is None:
            raise StopUser
        self._draws = self.sender.user_draws()
        self._timer = KernelTimer()
        options = self.environment.parsed_options
        self._rate, self._poisson = options.rate_per_user, options.arrivals == "poisson"
        # constant arrivals of many users must not fall together
        self._next = self.sender.now() + (self._draws.random() / self._rate if self._rate else 0.0)

    def on_stop(self) -> None:
        if hasattr(self, "_timer"):
            self._timer.close()

    @task
    def embed(self) -> None:
        """One request, at its time."""
        sender = self.sender
        if sender is None or sender.stopped_at is not None:
            raise StopUser
        if not self._rate:
            self._send(sender, None)
            return
        self._timer.at(sender.begin + self._next)
        gevent.socket.wait_read(self._timer.fd)
        self._timer.rang()
        self.pool.spawn(self._send, sender, self._next)
        self._next += self._draws.exponential(1 / self._rate) if self._poisson else 1 / self._rate

    def _send(self, sender: Sender, intended: float | None) -> None:
        found = sender.send(intended, _wait)
        if found is None:
            return
        seconds, outcome = found
        self.environment.events.request.fire(
            request_type=sender.settings.url.partition(":")[0],
            name=str(sender.settings.targets[0]),
            response_time=seconds * 1000,
            response_length=0 if isinstance(outcome, Failure) else len(outcome),
            exception=outcome.error(outcome.message) if isinstance(outcome, Failure) else None,
            context={},
        )


def _wait(start: Callable[[Callable[[Outcome], None]], object]) -> Outcome:
    result: gevent.event.AsyncResult[Outcome] = gevent.event.AsyncResult()
    start(result.set)
    outcome: Outcome = result.get()
    return outcome


class _Test:
    """What happens at Locust's events, on the master, on a worker, or on one process that is both."""

    def __init__(self) -> None:
        self.gathering: Gathering | None = None
        self.problem: dict[str, Any] | None = None
        self.report: Report | None = None

    def listen(self) -> None:
        events.init_command_line_parser.add_listener(_options)
        events.init.add_listener(self.init)
        events.test_start.add_listener(self.start)
        events.report_to_master.add_listener(self.report_to_master)
        events.worker_report.add_listener(self.worker_report)
        events.test_stopping.add_listener(self.stopping)

    def init(self, environment: Environment, runner: Any, web_ui: Any, **_: Any) -> None:
        if isinstance(runner, WorkerRunner):
            runner.register_message(_STOP, lambda environment, msg, **_: self._stop_worker(runner), concurrent=True)
            return
        with _exits():
            _settings(environment)
        assert environment.parsed_options is not None
        self.folder = Path(environment.parsed_options.report)
        if isinstance(runner, MasterRunner):
            runner.register_message(_ENDED, lambda environment, msg, **_: self._ended(msg.data), concurrent=False)
        if web_ui is not None:
            web_ui.app.add_url_rule("/report.html", "loadtest_html", lambda: self._page("report.html"))
            web_ui.app.add_url_rule("/report.json", "loadtest_json", lambda: self._page("report.json"))

    def _page(self, name: str) -> Any:
        if self.report is None:
            return "There is no report before a test has ended.\n", 404
        kind = "text/html" if name.endswith("html") else "application/json"
        return (self.folder / name).read_text(encoding="utf-8"), 200, {"Content-Type": f"{kind}; charset=utf-8"}

    def start(self, environment: Environment, **_: Any) -> None:
        runner = environment.runner
        if not isinstance(runner, WorkerRunner):
            senders = len(runner.clients.ready) if isinstance(runner, MasterRunner) else 1
            with _exits():
                self.gathering = Gathering(_settings(environment), senders)
        if isinstance(runner, MasterRunner):
            return
        EmbeddingUser.sender = self.problem = None
        number = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        try:
            EmbeddingUser.sender = Sender(_settings(environment), number)
        except (ClientError, InputError) as error:
            _log.error("%s", error)
            self.problem = problem_of(error)

    def report_to_master(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if EmbeddingUser.sender is not None:
            data[_KEY] = EmbeddingUser.sender.take()

    def worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if self.gathering is not None and _KEY in data:
            self.gathering.add(data[_KEY])

    def stopping(self, environment: Environment, **_: Any) -> None:
        """The end of a test: everybody stops, and says what is still to be said."""
        runner = environment.runner
        if runner is None or isinstance(runner, WorkerRunner) or self.gathering is None:
            return
        if isinstance(runner, MasterRunner):
            runner.send_message(_STOP)
            until = time.monotonic() + self.gathering.settings.timeout + _GRACE_SECONDS
            while not self.gathering.complete and runner.clients and time.monotonic() < until:
                gevent.sleep(0.05)
        else:
            self._ended(self._last())
        users = runner.target_user_count
        gathering, self.gathering = self.gathering, None
        report = gathering.report(lambda seconds: _settings(environment, users, seconds).load)
        self._write(environment, report)

    def _write(self, environment: Environment, report: Report) -> None:
        from rich.console import Console

        self.report = report
        self.folder.mkdir(parents=True, exist_ok=True)
        save(report, self.folder / "report.json")
        write_html(report, self.folder / "report.html")
        Console(highlight=False).print(summary(report))
        print(f"report: {self.folder / 'report.html'}", flush=True)
        if not report.lag.held or report.generator.lost:
            environment.process_exit_code = 7
        elif report.stopped is not None or not all(result.held for result in report.verdict):
            environment.process_exit_code = 1
        elif any(result.objective.name == "errors" for result in report.verdict):
            environment.process_exit_code = 0  # else Locust takes any error for a failure

    def _stop_worker(self, runner: WorkerRunner) -> None:
        runner.send_message(_ENDED, self._last())

    def _last(self) -> dict[str, Any]:
        sender = EmbeddingUser.sender
        if sender is None:
            return self.problem or {"problem": "the worker had no test"}
        sender.stop()
        EmbeddingUser.pool.join(timeout=sender.settings.timeout)
        until = time.monotonic() + sender.settings.timeout
        while sender.under_way and time.monotonic() < until:  # callers of a closed loop are in no pool
            gevent.sleep(0.02)
        EmbeddingUser.sender = None
        return sender.last()

    def _ended(self, last: dict[str, Any]) -> None:
        if self.gathering is not None:
            self.gathering.end(last)


@contextlib.contextmanager
def _exits() -> Iterator[None]:
    """An error of ours ends Locust, which would only log it."""
    try:
        yield
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _settings(environment: Environment, users: int = 1, seconds: float = 1.0) -> Any:
    options = environment.parsed_options
    assert options is not None
    return settings_of(Namespace(**{**vars(options), "host": environment.host or options.host}), users, seconds)


def _options(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="", env_var="LOADTEST_MODEL", help="Name of the served model.")
    add("--signature", default=DEFAULT_SIGNATURE, help="Any signature that takes only text.")
    add("--rate-per-user", type=float, default=1.0, env_var="LOADTEST_RATE_PER_USER",
        help="Requests a second of each user, open loop; 0: a user waits for each answer (closed loop).")  # fmt: skip
    add("--arrivals", choices=["poisson", "constant"], default="poisson", help="How a user's requests are spaced.")
    add("--warmup", type=float, default=5.0, help="Seconds at the start, left out; users should be spawned by then.")
    add("--rows", default="1", help="Rows a request: 1, 1-32 or 1:9,32:1 (with weights).")
    add("--texts", default="", help="File of texts on every worker. Default: a built-in mixed set.")
    add("--tokens", default="", help="Lengths of texts in tokens, by the model's own count.")
    add("--request-timeout", type=float, default=10.0, help="Seconds until a request counts as failed.")
    add("--seed", type=int, default=0, help="Of arrival times and texts.")
    add("--slo", default="", env_var="LOADTEST_SLO", help="Objectives, p99=50ms,errors=0.1%%; exit code 1 if missed.")
    add("--max-lag", type=float, default=0.01, help="Share of the latencies that may be the generator's.")
    add("--metrics-url", default="", help="The server's Prometheus page, read by the master.")
    add("--report", default="loadtest-report", env_var="LOADTEST_REPORT", help="Folder of the master for the report.")
    for name, text in _CONNECTION.items():
        add(f"--{name}", default="", help=f"{text}.", include_in_web_ui=False)
    add("--round-robin", action="store_true", help="Spread requests over all addresses of the host's name.")
    add("--channels", type=int, default=1, help="gRPC connections of each worker.")


_Test().listen()
