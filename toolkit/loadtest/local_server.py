"""A server on this machine for one candidate: a copy of the artifact, changed as the candidate says, in a process and
on CPUs of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.client import Client
from toolkit.errors import ClientError, InputError, ServerError
from toolkit.loadtest.tune import Candidate
from toolkit.version_folder import VersionFolder

__all__ = ["Engine", "LocalServers", "batching_in_graph", "own_command", "split_cpus"]

Engine = Literal["embedded", "tensorflow_model_server"]

_METRICS_PATH = "/monitoring/prometheus/metrics"
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_CHANGED = ("saved_model.pb", "fingerprint.pb")  # what `tune-artifact` writes; the rest is linked, not copied


def own_command(*arguments: str) -> list[str]:
    """The command line of ``sentence-serving`` in this interpreter."""
    return [sys.executable, "-c", "from toolkit.cli import main; main()", *arguments]


def _run(*arguments: str) -> str:
    done = subprocess.run(own_command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(_last_line(done.stderr) or f"{arguments[0]} ended with {done.returncode}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].removeprefix("error: ")


def batching_in_graph(place: VersionFolder) -> dict[str, int] | None:
    """The options of the artifact's own batching; ``None`` if it has none."""
    found: dict[str, int] | None = json.loads(_run("inspect", str(place.folder), "--json"))["batching"]
    return found


def split_cpus(wanted: int | None) -> tuple[frozenset[int], frozenset[int]]:
    """CPUs of the server and of the generator, which share them only where there is but one."""
    there = sorted(os.sched_getaffinity(0))
    count = wanted if wanted is not None else max(1, len(there) - 1)
    if not 1 <= count <= len(there):
        raise InputError(f"--cpus is {count}; this machine has {len(there)}")
    return frozenset(there[:count]), frozenset(there[count:] or there)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    metrics_url: str
    pid: int

    def peak_memory(self) -> int:
        """The most bytes it had resident so far."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise ServerError(f"process {self.pid} has ended")


@dataclass(frozen=True)
class LocalServers:
    """Serves candidates one after the other. ``work``: a folder for copies and logs; variables are linked into
    it where it is on the artifact's file system, else copied. ``batching_config``: text of the server's batching file.
    """

    place: VersionFolder
    work: Path
    engine: Engine
    cpus: frozenset[int]
    batching_config: Callable[[Candidate], str]
    rest: bool = False

    @contextmanager
    def serve(self, candidate: Candidate) -> Iterator[Running]:
        """A server with the candidate's settings, stopped at the end. Raises `ServerError` if it does not start."""
        shutil.rmtree(self.work, ignore_errors=True)
        model = self.work / self.place.model
        try:
            self._copy(model / self.place.folder.name, candidate)
            with self._process(self._arguments(candidate, model)) as running:
                yield running
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def _copy(self, version: Path, candidate: Candidate) -> None:
        def take(source: str, target: str) -> None:
            if Path(source).name in _CHANGED:
                shutil.copyfile(source, target)
                return
            try:
                os.link(source, target)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, target)

        shutil.copytree(self.place.folder, version, copy_function=take)
        if candidate.batching == "graph":
            _run("tune-artifact", str(version), *(f"--batch-{name}={value}" for name, value in _batching(candidate)))

    def _arguments(self, candidate: Candidate, model: Path) -> list[str]:
        found = [
            f"--engine={self.engine}",
            f"--model_name={self.place.model}",
            f"--model_base_path={model}",
            f"--tensorflow_intra_op_parallelism={candidate.threads_per_op}",
            f"--tensorflow_inter_op_parallelism={candidate.threads}",
        ]
        if candidate.batching == "rows":
            file = self.work / "batching.config"
            file.write_text(self.batching_config(candidate))
            found += ["--enable_batching=true", f"--batching_parameters_file={file}"]
        if self.engine == "embedded":
            found.append("--host=127.0.0.1")
        return found

    @contextmanager
    def _process(self, arguments: Sequence[str]) -> Iterator[Running]:
        grpc, rest = _free_ports()
        log = self.work / "server.log"
        ports = [f"--port={grpc}", f"--rest_api_port={rest}"]
        with log.open("wb") as output:
            process = subprocess.Popen(own_command("serve", *arguments, *ports), stdout=output, stderr=output)
        try:
            os.sched_setaffinity(process.pid, self.cpus)  # before it makes threads, which take after it
            url = f"http://127.0.0.1:{rest}" if self.rest else f"grpc://127.0.0.1:{grpc}"
            self._wait(process, url, log)
            yield Running(url, f"http://127.0.0.1:{rest}{_METRICS_PATH}", process.pid)
            if process.poll() is not None:
                raise ServerError(f"ended with {process.returncode}: {_last_line(log.read_text(errors='replace'))}")
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        """Wait until the model answers."""
        slices = int(_START_SECONDS / 0.5)
        with Client(url, self.place.model, timeout=5.0) as client:
            for _ in range(slices):
                if process.poll() is not None:
                    words = _last_line(log.read_text(errors="replace"))
                    raise ServerError(f"ended with {process.returncode} at its start: {words}")
                try:
                    client.wait_until_ready(0.5, interval=0.1)
                    return
                except ClientError:
                    continue
        raise ServerError(f"did not answer within {_START_SECONDS:g} seconds")


def _batching(candidate: Candidate) -> list[tuple[str, int]]:
    return [
        ("max-tokens", candidate.size),
        ("timeout-micros", candidate.wait_micros),
        ("threads", candidate.threads),
    ]


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
