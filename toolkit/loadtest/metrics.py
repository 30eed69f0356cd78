"""The server's own figures, from its Prometheus page: of TF Serving, of the embedded server, or of both's kin.

Both keep counters from their start; what belongs to a run is the difference between its end and its begin.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx

from toolkit.errors import InputError, MissingExtraError

__all__ = ["Sample", "Scraper", "ServerFigures", "ServerPoint", "figures", "parse", "process_figures"]

# What is shown -> the names it has at the servers; a histogram's or summary's _sum and _count are read.
_HISTOGRAMS = {
    "queue_seconds": (
        ("sentence_serving_queue_seconds", 1.0),
        ("_tensorflow_serving_batching_session_queuing_latency", 1e-6),
        ("_tensorflow_serving_batching_queuing_latency", 1e-6),
    ),
    "graph_seconds": (
        ("sentence_serving_graph_seconds", 1.0),
        ("_tensorflow_core_graph_run_time_usecs_histogram", 1e-6),
    ),
    "request_seconds": (("_tensorflow_serving_request_latency", 1e-6),),
    "batch_rows": (
        ("sentence_serving_batch_rows", 1.0),
        ("_tensorflow_serving_batching_session_processed_batch_size", 1.0),
        ("_tensorflow_serving_batching_processed_batch_size", 1.0),
    ),
    "tokens": (("sentence_serving_tokens", 1.0),),
}
_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"


@dataclass(frozen=True)
class Sample:
    """One look at the page: ``values`` are sums over all labels, by name."""

    at: float
    values: dict[str, float]


@dataclass(frozen=True)
class ServerPoint:
    """Between two looks: means of what was counted in between (``None``: the server does not say, or nothing was).
    ``at``: seconds from the end of the warm-up; ``cpu``: CPUs busy; ``memory``: bytes resident at the end."""

    at: float
    queue_seconds: float | None
    graph_seconds: float | None
    request_seconds: float | None
    batch_rows: float | None
    batch_tokens: float | None
    batches: float | None
    cpu: float | None
    memory: float | None


@dataclass(frozen=True)
class ServerFigures:
    """``whole``: over the measured time; ``series``: over time. ``missed``: looks that failed."""

    url: str | None
    whole: ServerPoint
    series: tuple[ServerPoint, ...]
    missed: int


def parse(page: str) -> dict[str, float]:
    """The samples of a Prometheus page, summed over their labels. TF Serving's names begin with ``:tensorflow:``,
    whose colons become underscores here."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ModuleNotFoundError as error:
        raise MissingExtraError("prometheus-client", "loadtest") from error
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                name = sample.name.replace(":", "_")
                values[name] = values.get(name, 0.0) + float(sample.value)
    return values


def _mean(before: Sample, after: Sample, names: tuple[tuple[str, float], ...]) -> tuple[float | None, float | None]:
    """Mean and number of what was observed between two looks, by the first name that moved."""
    for name, unit in names:
        count = after.values.get(f"{name}_count", 0.0) - before.values.get(f"{name}_count", 0.0)
        if count > 0:
            total = after.values.get(f"{name}_sum", 0.0) - before.values.get(f"{name}_sum", 0.0)
            return total / count * unit, count
    return None, None


def figures(before: Sample, after: Sample, begin: float) -> ServerPoint:
    """What the server did between two looks."""
    means = {name: _mean(before, after, names) for name, names in _HISTOGRAMS.items()}
    batches = means["batch_rows"][1]
    tokens, texts = means["tokens"]
    cpu = None
    if _CPU in after.values and _CPU in before.values and after.at > before.at:
        cpu = max(0.0, after.values[_CPU] - before.values[_CPU]) / (after.at - before.at)
    return ServerPoint(
        at=after.at - begin,
        queue_seconds=means["queue_seconds"][0],
        graph_seconds=means["graph_seconds"][0],
        request_seconds=means["request_seconds"][0],
        batch_rows=means["batch_rows"][0],
        batch_tokens=tokens * texts / batches if tokens and texts and batches else None,
        batches=batches,
        cpu=cpu,
        memory=after.values.get(_MEMORY),
    )


def process_figures(pid: int) -> dict[str, float]:
    """CPU seconds and resident bytes of a process of this machine, under Prometheus's names. Raises `OSError`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return {_CPU: ticks / os.sysconf("SC_CLK_TCK"), _MEMORY: float(pages * os.sysconf("SC_PAGE_SIZE"))}


class Scraper:
    """Looks at the page every ``interval`` seconds, in a thread of its own, and at the process ``pid`` of this machine,
    for servers whose page does not tell CPU and memory. A look that fails is counted: a server that was killed has no
    page."""

    def __init__(self, url: str | None, pid: int | None = None, interval: float = 1.0) -> None:
        self.url, self.pid, self._interval = url, pid, interval
        self._client = httpx.Client(timeout=5.0)
        self._samples: list[Sample] = []
        self._missed = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sentence-serving-metrics", daemon=True)

    def start(self) -> None:
        """Look for the first time. Raises `InputError` if there is no such page, or no such process."""
        try:
            self._samples.append(self._look())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._client.close()
            raise InputError(f"{self.url} is no Prometheus page: {str(error).splitlines()[0]}") from None
        except OSError as error:
            self._client.close()
            raise InputError(f"there is no process {self.pid} to look at: {error.strerror}") from None
        self._thread.start()

    def _look(self) -> Sample:
        values: dict[str, float] = {}
        if self.url is not None:
            answer = self._client.get(self.url)
            answer.raise_for_status()
            values = parse(answer.text)
        if self.pid is not None:
            values |= process_figures(self.pid)
        return Sample(time.monotonic(), values)

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self._try()

    def _try(self) -> None:
        try:
            self._samples.append(self._look())
        except (httpx.HTTPError, ValueError, OSError):
            self._missed += 1

    def stop(self, begin: float) -> ServerFigures:
        """The last look, and what all of them say; ``begin``: when the measured time began (`time.monotonic`)."""
        self._end.set()
        self._thread.join()
        self._try()
        self._client.close()
        # the first look after the warm-up, or the last one before, where the run was too short for one
        first = next((i for i, sample in enumerate(self._samples[:-1]) if sample.at >= begin), len(self._samples) - 2)
        samples = self._samples[max(0, first) :]
        series = tuple(figures(a, b, begin) for a, b in pairwise(samples))
        return ServerFigures(self.url, figures(samples[0], samples[-1], begin), series, self._missed)
