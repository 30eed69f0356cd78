"""Whole runs, processes and all, against a real server of known behaviour. What the generator says is held against the
server's own log, so that a slow machine, which is slow for both, cannot make a test fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known import Front, known_server, settings

from toolkit.cli.loadtest import exit_code
from toolkit.client.options import Retry
from toolkit.client.transport.interface import Connection
from toolkit.errors import InputError
from toolkit.loadtest import Closed, Replay, Report, Target, constant, load, parse_slo, run
from toolkit.loadtest.measure import QUANTILES


def in_order(report: Report) -> None:
    measured = report.measured
    assert measured.sent == measured.answered + sum(measured.errors.values())
    assert report.stopped is None
    assert report.generator.lost == 0


def test_every_planned_request_is_sent_and_no_latency_is_less_than_the_servers_own(tmp_path: Path) -> None:
    load_ = constant(100, 3)
    planned = np.concatenate(list(load_.after(1.0).arrivals(0)))
    with known_server(tmp_path, 0.004, "--exponential", "3") as server:
        report = run(settings(load_, server.url, warmup=1.0))
        log = server.log()
    in_order(report)
    measured = report.measured
    assert len(log) == len(planned)
    assert measured.sent == (planned >= 1.0).sum()
    assert not measured.errors
    # the measured requests are those that arrived last, in the order of the server's log by arrival
    log = log[np.argsort(log[:, 0])][-measured.sent :]
    own = np.sort(log[:, 2] - log[:, 0])
    for q in QUANTILES:
        found = measured.service.at(q).value
        assert found is not None
        assert found * 1.001 >= own[max(0, int(np.ceil(q * len(own))) - 2)]
        intended = measured.latency.at(q).value
        assert intended is not None
        assert intended * 1.001 >= found


@pytest.mark.parametrize("front", ["grpc", "rest", "grpc tls", "rest tls"], indirect=True)
def test_planted_errors_are_counted_exactly(tmp_path: Path, front: Front) -> None:
    with known_server(tmp_path, 0.0, *front.options, "--fail-every", "7") as server:
        report = run(settings(constant(100, 2), server.url, connection=Connection(tls=front.tls)))
        log = server.log()
    in_order(report)
    assert report.measured.sent == len(log)
    assert report.measured.errors == {front.planted: int(log[:, 3].sum())} == {front.planted: len(log) // 7}
    assert "planted" in report.measured.examples[front.planted]
    assert report.measured.retries == 0
    assert exit_code(report) in (5, 7)  # failed requests without an objective for them, or a machine too busy


@pytest.mark.parametrize("front", ["grpc tls", "rest tls"], indirect=True)
def test_a_client_without_the_certificate_that_is_asked_for_is_reported_as_not_let_in(
    tmp_path: Path, front: Front
) -> None:
    assert front.tls is not None
    stranger = Connection(tls=replace(front.tls, cert=None, key=None))
    with known_server(tmp_path, 0.0, *front.options) as server:
        report = run(settings(constant(10, 1), server.url, connection=stranger))
        log = server.log()
    assert len(log) == 0
    assert report.measured.errors == {"UnreachableError": 1}
    assert exit_code(report) == 5


def test_an_open_loop_goes_on_in_a_stall_and_counts_the_wait_from_the_intended_time(tmp_path: Path) -> None:
    load_ = constant(100, 3)
    planned = np.concatenate(list(load_.arrivals(0)))
    with known_server(tmp_path, 0.0, "--stall", "1", "1") as server:
        report = run(settings(load_, server.url))
        log = server.log()
    in_order(report)
    stalled = log[np.argmax(log[:, 2] - log[:, 1])]
    first = log[:, 0].min() - planned[0]
    due = planned + first  # on the server's clock, late by the first request's way
    waited = ((due > stalled[1]) & (due < stalled[2] - 0.5)).sum()
    assert waited > 20
    slow = sum(
        item > 0.4 for item in _latencies(report)
    )  # 0.1 s for the first request's way, which has a connection to open
    assert slow >= waited
    assert report.measured.latency.at(0.99).value > 0.4
    assert report.measured.latency.max > 0.9


def test_a_closed_loop_misses_the_same_stall_and_says_so(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.005, "--stall", "1", "1") as server:
        report = run(settings(Closed(2, 3.0), server.url))
        log = server.log()
    in_order(report)
    stalled = log[np.argmax(log[:, 2] - log[:, 1])]
    came = ((log[:, 0] > stalled[1]) & (log[:, 0] < stalled[2])).sum()
    assert came <= 2  # no caller sends while it waits
    assert report.closed
    assert "hides" in report.load_words
    assert report.lag.share is None


def _latencies(report: Report) -> list[float]:
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram.decode(report.measured.latency.histogram)
    return [
        item.value_iterated_to / 1e9
        for item in histogram.get_recorded_iterator()
        for _ in range(item.count_added_in_this_iter_step)
    ]


def test_a_closed_loop_sends_as_many_requests_as_it_was_bound_to(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.0) as server:
        report = run(settings(Closed(3, 1e9, 41), server.url))
        log = server.log()
    in_order(report)
    assert report.measured.sent == len(log) == 41
    assert report.measured.seconds < 60


def test_a_full_queue_is_reported_by_its_name(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.2, "--places", "2") as server:
        report = run(settings(constant(30, 2), server.url))
        log = server.log()
    in_order(report)
    assert report.measured.errors == {"UNAVAILABLE OverloadedError": int(log[:, 3].sum())}
    assert report.measured.failed > 0


def test_retries_are_counted_where_they_are_asked_for(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.1, "--places", "1") as server:
        report = run(settings(constant(20, 2), server.url, retry=Retry(attempts=3, base=0.01, longest=0.05)))
        log = server.log()
    assert report.measured.sent + report.measured.retries == len(log)
    assert report.measured.retries > 0


def test_a_server_that_is_killed_leaves_a_report_with_what_was_measured(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.0) as server:

        def watch(now: float, recorder: object) -> None:
            if recorder.sent > 50:  # type: ignore[attr-defined]
                server.process.kill()

        report = run(settings(constant(100, 3), server.url, timeout=2.0), progress=watch)
    in_order(report)
    assert report.measured.answered > 50
    assert report.measured.failed > 0
    assert all("Unreachable" in name or "Deadline" in name for name in report.measured.errors)


def test_a_refused_port_is_a_report_with_the_error_and_exit_code_5() -> None:
    report = run(settings(constant(10, 1), "grpc://127.0.0.1:1"))
    assert report.measured.errors == {"UnreachableError": 1}
    assert report.stopped is not None
    assert exit_code(report) == 5
    assert exit_code(run(settings(constant(10, 1), "http://127.0.0.1:1"))) == 5


def test_an_unknown_model_is_a_report_with_the_error_and_exit_code_5(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.0) as server:
        report = run(settings(constant(10, 1), server.url, targets=(Target("other"),)))
    assert report.measured.errors == {"ModelNotFoundError": 1}
    assert "other" in report.measured.examples["ModelNotFoundError"]
    assert exit_code(report) == 5


def test_a_signature_that_is_not_there_is_refused_before_any_load(tmp_path: Path) -> None:
    with (
        known_server(tmp_path, 0.0) as server,
        pytest.raises(InputError, match=r"no signature 'nope'; it has: serving_default"),
    ):
        run(settings(constant(10, 1), server.url, targets=(Target("m", "nope"),)))


def test_being_told_to_stop_ends_the_run_with_what_was_measured(tmp_path: Path) -> None:
    stop = threading.Event()
    with known_server(tmp_path, 0.0) as server:
        report = run(
            settings(constant(50, 600), server.url, objectives=parse_slo("errors=0%")),
            stop=stop,
            progress=lambda now, recorder: stop.set() if recorder.sent > 20 else None,
        )
    assert report.stopped == "interrupted"
    assert report.measured.answered > 0
    assert report.measured.seconds < 300
    assert exit_code(report) == 130


def test_ctrl_c_writes_the_report_and_exits_with_130(tmp_path: Path) -> None:
    code = "from toolkit.cli import main; main()"
    with known_server(tmp_path, 0.0) as server:
        options = [
            "--model",
            "m",
            "--rate",
            "50",
            "--duration",
            "600",
            "--warmup",
            "0",
            "--report",
            str(tmp_path / "r"),
        ]
        process = subprocess.Popen(
            [sys.executable, "-c", code, "loadtest", server.url, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            server.first_request()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all processes of the command
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, output
    report = load(tmp_path / "r" / "report.json")
    assert report.stopped == "interrupted"
    assert "ended early: interrupted" in output
    page = (tmp_path / "r" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert json.loads((tmp_path / "r" / "report.json").read_text())["schema"] == 1


def test_a_run_leaves_the_environments_proxy_alone_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # where nobody listens
    with known_server(tmp_path, 0.0, "--rest") as server:
        url = server.url.replace("127.0.0.1", "127.1")  # not in the form of a loopback address, which has no proxy
        report = run(settings(constant(20, 1), url, connection=Connection(proxies=False)))
        assert "proxy" in str(run(settings(constant(20, 1), url)).stopped)
        log = server.log()
    in_order(report)
    assert report.measured.answered == len(log) > 0


def test_twice_what_a_server_holds_is_answered_at_what_it_holds_and_nothing_is_left_out(tmp_path: Path) -> None:
    load_ = constant(1000, 1.5, poisson=False)
    planned = np.concatenate(list(load_.arrivals(0)))
    with known_server(tmp_path, 0.002) as server:  # 500/s at most
        report = run(settings(load_, server.url, timeout=60.0))
        log = server.log()
    in_order(report)
    measured = report.measured
    assert measured.sent == measured.answered == len(log) == len(planned)
    # what the server did in the measured time, which the first request began, late by its way
    held = (log[:, 2] < log[:, 0].min() + load_.seconds).sum() / load_.seconds
    assert held < 500
    assert measured.throughput.requests == pytest.approx(held, rel=0.15)
    # the last one waits for all before it
    assert measured.latency.max == pytest.approx(log[:, 2].max() - log[:, 0].min() - planned[-1], rel=0.15)


def test_a_replay_sends_all_of_its_arrivals_the_last_one_too(tmp_path: Path) -> None:
    with known_server(tmp_path, 0.0) as server:
        report = run(settings(Replay((0.0, 0.2, 0.2, 0.5, 1.0)), server.url))
        log = server.log()
    in_order(report)
    assert report.measured.sent == len(log) == 5
