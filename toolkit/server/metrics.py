"""The metrics page: TF Serving's names with its units (microseconds), and ours in Prometheus's style (seconds).

TF Serving's names begin with a colon and its counters lack ``_total``; prometheus-client insists on its own style, so
those few are written by hand here, and ours are left to the library.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from toolkit.server.metricnames import KINDS

if TYPE_CHECKING:
    from toolkit.server.servable import Timing

__all__ = ["Metrics"]

Labels = tuple[tuple[str, str], ...]


def _exponential(scale: float, growth: float, count: int) -> list[float]:
    """TensorFlow's ``monitoring::Buckets::Exponential``: ``count`` upper limits."""
    return [scale * growth**index for index in range(count)]


_LATENCY = _exponential(10, 1.8, 33)
_BYTES = _exponential(1, 4, 21)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SECONDS = tuple(limit / 1e6 for limit in _exponential(50, 2, 20))


class _Distribution:
    """One histogram's cell."""

    __slots__ = ("counts", "limits", "sum")

    def __init__(self, limits: list[float]) -> None:
        self.limits = limits
        self.counts = [0] * (len(limits) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value


def _text(labels: Labels) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{escape(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


class Metrics:
    """All counters of a server. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], float] = defaultdict(float)
        self._histograms: dict[tuple[str, Labels], _Distribution] = {}
        self._registry = CollectorRegistry()
        labels, registry = ["model"], self._registry
        self._queue = Histogram(
            "sentence_serving_queue_seconds",
            "Time a request waited in the batch scheduler",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._graph = Histogram(
            "sentence_serving_graph_seconds",
            "Time one batch took in the graph",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._front = Histogram(
            "sentence_serving_front_seconds",
            "Time of a request outside of queue and graph",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "sentence_serving_batch_rows", "Rows of a batch", labels, buckets=_ROWS, registry=registry
        )
        self._rows = Histogram(
            "sentence_serving_request_rows", "Rows of a request", labels, buckets=_ROWS, registry=registry
        )
        self._tokens = Counter(
            "sentence_serving_tokens", "Tokens of the texts, before truncation", labels, registry=registry
        )
        self._truncated = Counter(
            "sentence_serving_truncated_texts", "Texts cut at the model's length", labels, registry=registry
        )
        self._in_flight = Gauge("sentence_serving_requests_in_flight", "Requests in work", registry=registry)
        self._available = Gauge(
            "sentence_serving_model_available", "1 if a version of the model is available", labels, registry=registry
        )

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Adds to a counter of TF Serving's."""
        with self._lock:
            self._counters[name, tuple(labels.items())] += value

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge of TF Serving's."""
        with self._lock:
            self._counters[name, tuple(labels.items())] = value

    def observe(self, name: str, value: float, limits: list[float] = _LATENCY, **labels: str) -> None:
        """Adds a value to a histogram of TF Serving's."""
        with self._lock:
            self._observe(name, value, limits, tuple(labels.items()))

    def _observe(self, name: str, value: float, limits: list[float], labels: Labels) -> None:
        cell = self._histograms.get((name, labels))
        if cell is None:
            cell = self._histograms[name, labels] = _Distribution(limits)
        cell.observe(value)

    def loaded(self, path: str, stages: dict[str, float]) -> None:
        """A model version was loaded; ``stages``: seconds of each."""
        self.add(":tensorflow:cc:saved_model:load_attempt_count", model_path=path, status="success")
        self.add(":tensorflow:cc:saved_model:load_latency", sum(stages.values()) * 1e6, model_path=path)
        for stage, seconds in stages.items():
            name = ":tensorflow:cc:saved_model:load_latency_by_stage"
            self.observe(name, seconds * 1e6, model_path=path, stage=stage)
        self.set(":tensorflow:core:session_created", 1)

    def load_failed(self, path: str) -> None:
        """A model version could not be loaded."""
        self.add(":tensorflow:cc:saved_model:load_attempt_count", model_path=path, status="fail")

    def available(self, models: dict[str, bool]) -> None:
        """Which models have an available version."""
        for model, state in models.items():
            self._available.labels(model).set(state)

    def finished(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """A request was answered. Models that are not served are counted as one, so that names cannot pile up."""
        with self._lock:
            labels = (("model_name", model), ("status", status))
            self._counters[":tensorflow:serving:request_count", labels] += 1
            if status == "OK":
                self._observe(
                    ":tensorflow:serving:request_latency",
                    seconds * 1e6,
                    _LATENCY,
                    (("model_name", model), ("API", api), ("entrypoint", entrypoint)),
                )

    def ran(self, model: str, api: str, rows: int, sizes: tuple[int, int], timing: Timing, batched: bool) -> None:
        """A signature was run. ``sizes``: bytes of inputs and outputs."""
        run = timing.run * 1e6
        with self._lock:
            self._counters[":tensorflow:core:direct_session_runs", ()] += 1
            self._counters[":tensorflow:core:graph_runs", ()] += 1
            self._counters[":tensorflow:core:graph_run_time_usecs", ()] += run
            self._observe(":tensorflow:core:graph_run_time_usecs_histogram", run, _LATENCY, ())
            self._observe(":tensorflow:core:graph_run_input_tensor_bytes", sizes[0], _BYTES, ())
            self._observe(":tensorflow:core:graph_run_output_tensor_bytes", sizes[1], _BYTES, ())
            labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
            self._observe(":tensorflow:serving:runtime_latency", (timing.queue + timing.run) * 1e6, _LATENCY, labels)
            if batched:
                name = (("model_name", model),)
                self._observe(
                    ":tensorflow:serving:batching_session:queuing_latency", timing.queue * 1e6, _LATENCY, name
                )
                self._counters[":tensorflow:serving:batching_session:wrapped_run_count", name] += len(timing.batches)
        self._rows.labels(model).observe(rows)
        if batched:
            self._queue.labels(model).observe(timing.queue)
            for size, seconds in timing.batches:
                self._batch.labels(model).observe(size)
                self._graph.labels(model).observe(seconds)
        else:
            self._batch.labels(model).observe(rows)
            self._graph.labels(model).observe(timing.run)

    def front(self, model: str, seconds: float) -> None:
        """A request's time outside of queue and graph."""
        self._front.labels(model).observe(seconds)

    def tokens(self, model: str, tokens: int, truncated: int) -> None:
        """Tokens seen, and texts cut."""
        self._tokens.labels(model).inc(tokens)
        self._truncated.labels(model).inc(truncated)

    def in_flight(self, count: int) -> None:
        """How many requests are in work now."""
        self._in_flight.set(count)

    def page(self) -> bytes:
        """The page in Prometheus's text format."""
        with self._lock:
            samples: dict[str, list[str]] = defaultdict(list)
            for (name, labels), value in self._counters.items():
                samples[name].append(f"{name}{_text(labels)} {_number(value)}")
            for (name, labels), cell in self._histograms.items():
                samples[name] += _histogram(name, labels, cell)
        lines = []
        for name, kind in sorted(KINDS.items()):
            lines += [f"# TYPE {name} {kind}", *samples[name]]
        return "\n".join(lines).encode() + b"\n" + generate_latest(self._registry)


def _histogram(name: str, labels: Labels, cell: _Distribution) -> list[str]:
    lines, total = [], 0
    for limit, count in zip([*map(_number, cell.limits), "+Inf"], cell.counts, strict=True):
        total += count
        lines.append(f"{name}_bucket{_text((*labels, ('le', limit)))} {total}")
    return [*lines, f"{name}_sum{_text(labels)} {_number(cell.sum)}", f"{name}_count{_text(labels)} {total}"]
