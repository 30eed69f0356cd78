"""Kill a server and a client again and again while rows are embedded in bulk, behind a proxy with faults."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fault_proxy import Fault, FaultProxy

import toolkit

# the package under test, wherever it is installed
PACKAGES = Path(toolkit.__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, limit: float) -> None:
    end = time.monotonic() + limit
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, f"nothing listens on port {port}"
            time.sleep(0.1)


class Process:
    """A command that is killed by SIGKILL; its output goes to ``log``."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.command, self.log = list(command), log
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.log.parent, env=environment
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Outcome:
    server_kills: int
    client_kills: int
    seconds: float
    faults: dict[str, int]
    status: int


def survive(
    server: Sequence[str],
    port: int,
    client: Callable[[int], Sequence[str]],
    target: Path,
    total_bytes: int,
    *,
    server_kills: int,
    client_kills: int,
    faults: Callable[[int], Fault | None],
    limit: float,
) -> Outcome:
    """Run ``client(proxy port)`` to its end against ``server`` (listening on ``port``). The kills are spread evenly
    over the growth of ``<target>.partial/data`` to ``total_bytes``; what was killed is started again at once."""
    began = time.monotonic()
    kinds = ["server"] * server_kills + ["client"] * client_kills
    kinds = [kinds[i] for i in sorted(range(len(kinds)), key=lambda i: (i * 7) % max(1, len(kinds)))]
    marks = [((i + 1) / (len(kinds) + 1), kind) for i, kind in enumerate(kinds)]
    done = {"server": 0, "client": 0}
    data = target.with_name(target.name + ".partial") / "data"
    proxy = FaultProxy(port, faults)
    serving = Process(server, target.with_suffix(".server.log"))
    wait_for_port(port, limit)
    embedding = Process(client(proxy.port), target.with_suffix(".client.log"))
    try:
        while embedding.process.poll() is None:
            assert time.monotonic() - began < limit, f"not finished after {limit} s; kills so far: {done}"
            time.sleep(0.01)
            grown = data.stat().st_size / total_bytes if data.exists() else 0.0
            if marks and grown >= marks[0][0]:
                kind = marks.pop(0)[1]
                victim = serving if kind == "server" else embedding
                victim.kill()
                done[kind] += 1
                victim.start()
        status = embedding.process.returncode
    finally:
        for process in (embedding, serving):
            if process.process.poll() is None:
                process.kill()
        proxy.close()
    return Outcome(done["server"], done["client"], time.monotonic() - began, dict(proxy.happened), status)


def embed_command(url: str, model: str, source: Path, target: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-c", "from toolkit.cli import main; main()", "embed", "--url", url, "--model", model,
        "--input", str(source), "--output", str(target), "--resume", *options,
    ]  # fmt: skip
