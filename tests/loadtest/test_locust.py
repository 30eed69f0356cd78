"""Load from many machines: what several processes record is one report, exactly as if one had recorded it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
from known import Front, KnownServer, known_server

from toolkit.loadtest import Report, load
from toolkit.loadtest.measure import Recorder
from toolkit.loadtest.records import make_records

COMMAND = [sys.executable, "-c", "from toolkit.cli import main; main()", "loadtest", "locust"]
ROOT = Path(__file__).parents[2]


def test_recorders_merged_over_the_network_give_what_one_recorder_gives() -> None:
    draw = np.random.default_rng(0)
    at = np.sort(draw.uniform(0, 8, 6000))
    records = make_records(
        at, at + draw.exponential(0.0001, 6000), at + draw.gamma(2, 0.01, 6000),
        status=(draw.random(6000) < 0.02).astype(int), target=draw.integers(0, 2, 6000), rows=3, tokens=7,
    )  # fmt: skip
    statuses = ["OK", "UNAVAILABLE OverloadedError"]
    whole, merged = (Recorder(1.0, float("inf"), ("a", "b")) for _ in range(2))
    whole.add(records, statuses)
    for part in range(4):
        one = Recorder(1.0, float("inf"), ("a", "b"))
        one.add(records[part::4], statuses)
        one.examples["UNAVAILABLE OverloadedError"] = "full"
        merged.merge(msgpack.unpackb(msgpack.packb(one.packed()), strict_map_key=False))
    whole.examples["UNAVAILABLE OverloadedError"] = "full"
    one, other = whole.result(8.0), merged.result(8.0)
    assert abs((one.latency.mean or 0) - (other.latency.mean or 1)) < 1e-12  # a sum in another order
    for name in ("sent", "answered", "errors", "examples", "throughput", "series"):
        assert getattr(one, name) == getattr(other, name), name
    for kind in ("latency", "service", "lag"):
        assert getattr(one, kind).quantiles == getattr(other, kind).quantiles, kind
        assert getattr(one, kind).max == getattr(other, kind).max
        assert getattr(one, kind).histogram == getattr(other, kind).histogram
    assert {name: found.quantiles for name, found in one.by_target.items()} == {
        name: found.quantiles for name, found in other.by_target.items()
    }


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def asking(server: KnownServer, front: Front, report: Path) -> list[str]:
    """Locust's arguments for a test of the known server."""
    secrets = {} if front.tls is None else {name.replace("_", "-"): value for name, value in vars(front.tls).items()}
    return ["--headless", f"--host={server.url}", "--model=m", "--warmup=0", "--max-lag=1", "--slo=errors=50%",
            f"--report={report}", *(f"--{name}={value}" for name, value in secrets.items())]  # fmt: skip


def held_against(log: np.ndarray, front: Front, folder: Path) -> Report:
    """The report, of which the server's log must say the same."""
    report = load(folder / "report.json")
    assert report.stopped is None
    assert report.measured.unfinished == 0
    assert report.measured.sent == len(log) > 0
    assert report.measured.errors == {front.planted: int(log[:, 3].sum())}
    assert report.measured.failed == int(log[:, 3].sum()) > 0
    assert report.generator.lost == 0
    assert (folder / "report.html").stat().st_size > 10_000
    return report


@pytest.mark.parametrize("front", ["grpc tls", "rest tls"], indirect=True)
def test_one_process_reports_every_request_that_the_server_saw(tmp_path: Path, front: Front) -> None:
    with known_server(tmp_path, 0.002, *front.options, "--fail-every", "5") as server:
        done = subprocess.run(
            [*COMMAND, "-u4", "-r100", "-t3s", "--rate-per-user=10", *asking(server, front, tmp_path / "report")],
            capture_output=True, text=True, timeout=120, env=environment(), check=False,
        )  # fmt: skip
        log = server.log()
    assert done.returncode == 0, done.stderr[-3000:]
    report = held_against(log, front, tmp_path / "report")
    assert report.generator.processes == 1
    assert report.load["segments"][0][1] == 40.0


@pytest.mark.parametrize("front", ["rest"], indirect=True)
def test_a_master_and_two_workers_report_every_request_that_the_server_saw(tmp_path: Path, front: Front) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with known_server(tmp_path, 0.002, *front.options, "--fail-every", "5") as server:
        workers = [
            subprocess.Popen([*COMMAND, "--worker", "--master-port", port], env=environment(),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]  # fmt: skip
        try:
            master = subprocess.run(
                [*COMMAND, "--master", "--expect-workers=2", "--expect-workers-max-wait=60", "-u6", "-r100", "-t6s",
                 f"--master-bind-port={port}", "--master-bind-host=127.0.0.1", "--rate-per-user=4",
                 *asking(server, front, tmp_path / "report")],
                capture_output=True, text=True, timeout=120, env=environment(), check=False,
            )  # fmt: skip
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            until = time.monotonic() + 10
            for worker in workers:
                try:
                    worker.wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
        log = server.log()
    assert master.returncode == 0, master.stderr[-3000:]
    report = held_against(log, front, tmp_path / "report")
    assert report.generator.processes == 2
    assert report.load["kind"] == "poisson"
    assert report.load["segments"][0][1] == 24.0
    assert "errors=50% held" in master.stdout


def test_a_wrong_option_ends_locust_with_one_line_and_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--headless", "-t1s", "--host=grpc://127.0.0.1:1"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: give --host" in done.stderr
    assert "--model" in done.stderr


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_server_that_is_not_there_is_a_report_and_exit_1(tmp_path: Path, url: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--headless", "-t1s", f"--host={url}", "--model=m", "--warmup=0", "--request-timeout=1"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "loadtest-report/report.json").read_text())
    assert found["stopped"].startswith("the server was not usable")
