"""The fresh process in which an artifact is loaded and asked, as a server would load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from toolkit.errors import ArtifactError
from toolkit.proof.comparison import Arrays
from toolkit.proof.proof import Batch

__all__ = ["ArtifactProcess", "artifact_process"]

Progress = Callable[[int, int], None]


class ArtifactProcess:
    """A process that imports tensorflow, and then runs one artifact (see `toolkit.proof.artifact_runner`)."""

    def __init__(self, process: subprocess.Popen[str], exchange: IO[bytes]) -> None:
        self._process, self._exchange = process, exchange
        self._errors: list[str] = []
        self._drain = threading.Thread(target=lambda: self._errors.extend(process.stderr or []), daemon=True)
        self._drain.start()

    def answers(self, folder: Path, batches: Sequence[Batch], progress: Progress | None = None) -> Arrays:
        """What the artifact in ``folder`` answers to ``batches``; can be asked once.

        ``progress`` is called with (batches done, batches in all). Raises ``ArtifactError`` if the artifact cannot be
        loaded or run, or if the process was stopped.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"saved_model": str(folder.resolve()), "batches": batches}
        self._exchange.write(json.dumps(request).encode())
        self._exchange.seek(0)
        process.stdin.close()  # what it waits for
        for line in process.stdout:
            if progress is not None and line.strip().isdigit():
                progress(int(line), len(batches))
        process.wait()
        self._drain.join()
        if process.returncode != 0:
            reason = " ".join("".join(self._errors).split()[-60:]) or f"exit status {process.returncode}"
            raise ArtifactError(f"{folder}: the SavedModel cannot be loaded or run: {reason}")
        self._exchange.seek(0)
        with np.load(self._exchange) as archive:
            return {key: archive[key] for key in archive.files}

    def stop(self) -> None:
        """End the process; whoever waits for its answers gets an ``ArtifactError``."""
        self._process.kill()

    def close(self) -> None:
        """End the process, if it has not, and all that belongs to it."""
        self._process.kill()
        self._process.wait()
        self._drain.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def artifact_process() -> Iterator[ArtifactProcess]:
    """Start the process, and end it when the block is left.

    It imports tensorflow before it is asked anything, which takes seconds that the caller has other use for.
    """
    # A file without a name, which nothing can leave behind: batches go to the process in it, and arrays come back.
    with tempfile.TemporaryFile() as exchange:
        # -I would hide the caller's path; the working directory must not decide which toolkit runs, so -P.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolkit.proof.artifact_runner", str(exchange.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(exchange.fileno(),),
            text=True,
            env=_child_environment(),
        )
        running = ArtifactProcess(process, exchange)
        try:
            yield running
        finally:
            running.close()


def _child_environment() -> dict[str, str]:
    """The environment with the directory this package was imported from on the module path."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root + (os.pathsep + inherited if inherited else "")}
