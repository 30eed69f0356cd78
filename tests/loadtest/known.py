"""Servers of known behaviour: simulated ones, for exact figures without a clock, and a real one in its own process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, factorial, floor
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from toolkit.client import TLS
from toolkit.loadtest import Rates, Report, Settings, Target
from toolkit.loadtest.measure import Recorder
from toolkit.loadtest.records import make_records
from toolkit.loadtest.report import Generator
from toolkit.loadtest.run import make_report

Array = np.ndarray[Any, Any]


def departures(arrivals: Array, services: Array) -> Array:
    """When a server with one queue in order is done with each request."""
    ends, end = np.empty_like(arrivals), 0.0
    for number, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        end = max(arrival, end) + service
        ends[number] = end
    return ends


def md1_quantile(rate: float, service: float, q: float) -> float:
    """A percentile in seconds: Erlang's formula for the wait, inverted, with the request's own service on top."""

    def at_most(t: float) -> float:
        terms = [
            (-rate * (t - k * service)) ** k / factorial(k) * exp(rate * (t - k * service))
            for k in range(floor(t / service) + 1)
        ]
        return (1 - rate * service) * sum(terms)

    low, high = 0.0, 15 * service
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) < q else (low, middle)
    return high + service


def simulated(load: Rates, service: Callable[[Array], Array], seed: int = 0) -> Recorder:
    """What is recorded of ``load`` on a simulated server; ``service`` gives the service times for the arrivals."""
    arrivals = np.concatenate(list(load.arrivals(seed)))
    recorder = Recorder(0.0, load.seconds)
    for block in np.array_split(make_records(arrivals, arrivals, departures(arrivals, service(arrivals))), 7):
        recorder.add(block)
    return recorder


def simulated_trial(service: float) -> Callable[..., Report]:
    """A `run` on a simulated server of fixed service time."""

    def trial(settings: Settings, *, stop: object = None) -> Report:
        assert isinstance(settings.load, Rates)
        recorder = simulated(settings.load, lambda arrivals: np.full_like(arrivals, service), settings.seed)
        return make_report(settings, recorder.result(), None, Generator(1, 0.0, 0), None)

    return trial


def settings(load: Any, url: str = "grpc://localhost:1", **more: Any) -> Settings:
    usual = {"targets": (Target("m"),), "warmup": 0.0, "processes": 2, "requests": 8}
    return Settings(url=url, load=load, **{**usual, **more})


@dataclass
class KnownServer:
    url: str
    process: subprocess.Popen[str]
    log_path: Path

    def first_request(self) -> None:
        """Wait for it."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "first\n"

    def log(self) -> Array:
        """Stop the server; its log: arrival, begin, end, failed of each request."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        found: Array = np.load(self.log_path)
        return found


def certificates(folder: Path) -> TLS:
    """A private authority's certificates in a new ``folder``, for `known_server`'s ``--tls``; what a client needs."""
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, host in (("server", "known.test"), ("client", "generator.test")):
        issued = authority.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return TLS(folder / "ca.pem", folder / "client.pem", folder / "client.key", "known.test")


@dataclass(frozen=True)
class Front:
    """A protocol of the known server: the server's options, a client's TLS, and the name of a planted error."""

    options: tuple[str, ...]
    tls: TLS | None
    planted: str


def front_of(name: str, folder: Path) -> Front:
    """``grpc``, ``rest``, ``grpc tls`` or ``rest tls``; certificates are put into ``folder``."""
    tls = certificates(folder / "tls") if "tls" in name else None
    secure = () if tls is None else ("--tls", str(folder / "tls"))
    if "rest" in name:
        return Front(("--rest", *secure), tls, "500 ResponseError")
    return Front(secure, tls, "INTERNAL ResponseError")


@contextmanager
def known_server(folder: Path, seconds: float, *options: str) -> Iterator[KnownServer]:
    log = folder / "log.npy"
    scheme = ("http" if "--rest" in options else "grpc") + ("s" if "--tls" in options else "")
    command = [sys.executable, str(Path(__file__).with_name("known_server.py")), str(seconds), str(log), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield KnownServer(f"{scheme}://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
