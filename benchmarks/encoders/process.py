"""The driver's side of a worker: starts it, asks it, and lets it run only while it is asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.encoders.engines import Spec

__all__ = ["Process", "WorkerError", "environment"]

ROOT = Path(__file__).parents[2]


class WorkerError(Exception):
    """A worker ended; the message holds the end of what it wrote."""


def environment(threads: int) -> dict[str, str]:
    """This process' environment with ``threads`` threads for every library."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {
        **os.environ,
        **counts,
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }


class Process:
    """A worker process, stopped (SIGSTOP) whenever it is not at work, so that its threads cannot spin."""

    def __init__(self, name: str, python: str, spec: Spec) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "spec.json").write_text(json.dumps(asdict(spec)))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.encoders.worker", str(folder / "spec.json")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True,
                env=environment(spec.threads),
            )  # fmt: skip
        self.ready: dict[str, Any] = {}

    def wait_until_loaded(self) -> None:
        """Sets ``ready``: versions, seconds and resident bytes of the loading."""
        self.ready = self._answer()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command; raises ``WorkerError`` if the worker ended."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise WorkerError(f"{self.name}: the worker ended\n" + self._log.read_text(errors="replace")[-2000:])
        self._process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
