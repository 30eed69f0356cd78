"""The metrics page: TF Serving's names with its units (microseconds), and ours in Prometheus's style (seconds).

A request only appends one tuple to a list; sums and histograms are made of many at once, when the page is asked for or
the list has grown. TF Serving's names begin with a colon and its counters lack ``_total``; prometheus-client insists on
its own style, so those are written by hand, and ours are left to the library.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from toolkit.server.watching.metricnames import KINDS

__all__ = ["Metrics", "Run"]

Labels = tuple[tuple[str, str], ...]
Limits = npt.NDArray[np.float64]


def _exponential(scale: float, growth: float, count: int) -> Limits:
    """TensorFlow's ``monitoring::Buckets::Exponential``: ``count`` upper limits."""
    return scale * growth ** np.arange(count, dtype=np.float64)


_LATENCY = _exponential(10, 1.8, 33)
_BYTES = _exponential(1, 4, 21)
_ROWS = _exponential(1, 2, 13)
_SECONDS = _exponential(50e-6, 2, 20)
_DRAIN_AT = 4096
_LABELS = ["model", "signature"]

# Ours: name -> (help, limits), each by model and signature; TF Serving's own have the labels that it gives them
_OURS: dict[str, tuple[str, Limits]] = {
    "sentence_serving_queue_seconds": ("Time a request waited in the batch scheduler", _SECONDS),
    "sentence_serving_graph_seconds": ("Time of one batch in the graph", _SECONDS),
    "sentence_serving_front_seconds": ("Time of a request outside of queue and graph", _SECONDS),
    "sentence_serving_batch_rows": ("Rows of a batch", _ROWS),
    "sentence_serving_request_rows": ("Rows of a request", _ROWS),
}
_COUNTERS = {
    "sentence_serving_tokens": "Tokens of texts before truncation, for answers that hold their number",
    "sentence_serving_truncated_texts": "Texts that were cut, for answers that say so",
}


class Run(NamedTuple):
    """One run of a signature, for counting; ``record``, ``submitted`` and ``batched`` are its `Timing`."""

    signature: str
    rows: int
    input_bytes: int
    output_bytes: int
    record: npt.NDArray[Any]
    submitted: float
    batched: bool


class _Distribution:
    """One histogram's cell."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.counts = np.zeros(len(limits) + 1, dtype=np.int64)
        self.sum = 0.0

    def observe(self, values: Sequence[float] | Limits) -> None:
        array = np.asarray(values, dtype=np.float64)
        self.counts += np.bincount(np.searchsorted(self.limits, array), minlength=len(self.counts))
        self.sum += float(array.sum())

    def cumulative(self) -> list[tuple[str, int]]:
        names = [*map(_number, self.limits), "+Inf"]
        return list(zip(names, np.cumsum(self.counts).tolist(), strict=True))


Record = tuple[str, str, str, str, float, Run | None]


class Metrics:
    """All counters of a server. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._counters: dict[tuple[str, Labels], float] = defaultdict(float)
        self._histograms: dict[tuple[str, Labels], _Distribution] = {}
        self._available: dict[str, bool] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Ours(self))

    # -- counting -----------------------------------------------------------------------------------------------------

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float, run: Run | None) -> None:
        """A request was answered. ``model`` is empty for models that are not served, so that names cannot pile up."""
        self._records.append((model, api, entrypoint, status, seconds, run))
        if len(self._records) > _DRAIN_AT:
            with self._lock:
                self._drain()

    def loaded(self, model: str, path: str, stages: dict[str, float], warmup: Iterable[float] = ()) -> None:
        """A model version was loaded; ``stages``: seconds of each; ``warmup``: seconds of each warm-up request."""
        with self._lock:
            name = ":tensorflow:cc:saved_model:load_"
            self._counters[f"{name}attempt_count", (("model_path", path), ("status", "success"))] += 1
            self._counters[f"{name}latency", (("model_path", path),)] += sum(stages.values()) * 1e6
            for stage, seconds in stages.items():
                labels = (("model_path", path), ("stage", stage))
                self._observe(f"{name}latency_by_stage", labels, [seconds * 1e6])
            self._counters[":tensorflow:core:session_created", ()] = 1
            if times := [seconds * 1e6 for seconds in warmup]:
                labels = (("model_path", path), ("status", "OK"))
                self._observe(":tensorflow:serving:model_warmup_latency", labels, times)
                records = ":tensorflow:serving:model_warmup_records_read"
                self._counters[records, (("model_name", model),)] += len(times)

    def load_failed(self, path: str) -> None:
        """A model version could not be loaded."""
        with self._lock:
            labels = (("model_path", path), ("status", "fail"))
            self._counters[":tensorflow:cc:saved_model:load_attempt_count", labels] += 1

    def available(self, models: dict[str, bool]) -> None:
        """Which models have an available version."""
        with self._lock:
            self._available = dict(models)

    def _observe(self, name: str, labels: Labels, values: Sequence[float] | Limits, limits: Limits = _LATENCY) -> None:
        cell = self._histograms.get((name, labels))
        if cell is None:
            cell = self._histograms[name, labels] = _Distribution(limits)
        cell.observe(values)

    def _drain(self) -> None:
        """Turns the records into sums."""
        records, self._records = self._records, []
        requests: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        runs: dict[tuple[str, str, str], list[tuple[float, Run]]] = defaultdict(list)
        for model, api, entrypoint, status, seconds, run in records:
            requests[model, api, entrypoint, status].append(seconds * 1e6)
            if run is not None:
                runs[model, api, run.signature].append((seconds, run))
        for (model, api, entrypoint, status), times in requests.items():
            counted = (("model_name", model), ("status", status))
            self._counters[":tensorflow:serving:request_count", counted] += len(times)
            if status == "OK":
                labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
                self._observe(":tensorflow:serving:request_latency", labels, times)
        for (model, api, signature), group in runs.items():
            self._count_runs(model, api, signature, group)

    def _count_runs(self, model: str, api: str, signature: str, group: list[tuple[float, Run]]) -> None:
        runs = [run for _, run in group]
        lengths = np.array([len(run.record) for run in runs])
        start, end, rows, row, tokens, truncated = np.concatenate([run.record for run in runs]).T
        last = np.cumsum(lengths) - 1
        first = last - lengths + 1
        times = end[last] - start[first]
        queues = np.maximum(0.0, start[first] - [run.submitted for run in runs])
        batched = np.array([run.batched for run in runs])
        opened = row == 0  # a batch is counted for the request whose row is its first
        core = ":tensorflow:core:graph_run"
        self._counters[":tensorflow:core:direct_session_runs", ()] += len(runs)
        self._counters[f"{core}s", ()] += len(runs)
        self._counters[f"{core}_time_usecs", ()] += float(times.sum() * 1e6)
        self._observe(f"{core}_time_usecs_histogram", (), times * 1e6)
        self._observe(f"{core}_input_tensor_bytes", (), [run.input_bytes for run in runs], _BYTES)
        self._observe(f"{core}_output_tensor_bytes", (), [run.output_bytes for run in runs], _BYTES)
        labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
        self._observe(":tensorflow:serving:runtime_latency", labels, (queues + times) * 1e6)
        name = (("model_name", model),)
        if batched.any():
            session = ":tensorflow:serving:batching_session:"
            self._observe(f"{session}queuing_latency", name, queues[batched] * 1e6)
            self._counters[f"{session}wrapped_run_count", name] += int((opened & np.repeat(batched, lengths)).sum())
        ours = (("model", model), ("signature", signature))
        values: dict[str, Sequence[float] | Limits] = {
            "sentence_serving_queue_seconds": queues[batched],
            "sentence_serving_graph_seconds": (end - start)[opened],
            "sentence_serving_front_seconds": np.maximum(0.0, [seconds for seconds, _ in group] - queues - times),
            "sentence_serving_batch_rows": rows[opened],
            "sentence_serving_request_rows": [run.rows for run in runs],
        }
        for metric, observed in values.items():
            if len(observed):
                self._observe(metric, ours, observed, _OURS[metric][1])
        self._counters["sentence_serving_tokens", ours] += float(tokens.sum())
        self._counters["sentence_serving_truncated_texts", ours] += float(truncated.sum())

    # -- telling ------------------------------------------------------------------------------------------------------

    def page(self) -> bytes:
        """The page in Prometheus's text format."""
        samples: dict[str, list[str]] = defaultdict(list)
        with self._lock:
            self._drain()
            for (name, labels), value in self._counters.items():
                samples[name].append(f"{name}{_text(labels)} {_number(value)}")
            for (name, labels), cell in self._histograms.items():
                samples[name] += _histogram(name, labels, cell)
        lines = []
        for name, kind in sorted(KINDS.items()):
            lines += [f"# TYPE {name} {kind}", *samples[name]]
        return "\n".join(lines).encode() + b"\n" + generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """Ours, for prometheus-client."""
        with self._lock:
            for name, (text, _) in _OURS.items():
                histogram = HistogramMetricFamily(name, text, labels=_LABELS)
                for labels, cell in self._of(self._histograms, name):
                    histogram.add_metric(labels, cell.cumulative(), cell.sum)
                yield histogram
            for name, text in _COUNTERS.items():
                counter = CounterMetricFamily(name, text, labels=_LABELS)
                for labels, value in self._of(self._counters, name):
                    counter.add_metric(labels, value)
                yield counter
            gauge = GaugeMetricFamily(
                "sentence_serving_model_available", "1 if a version of the model is available", labels=["model"]
            )
            for model, state in self._available.items():
                gauge.add_metric([model], int(state))
            yield gauge

    @staticmethod
    def _of(cells: dict[tuple[str, Labels], Any], name: str) -> list[tuple[list[str], Any]]:
        return [([value for _, value in labels], cell) for (metric, labels), cell in cells.items() if metric == name]


class _Ours(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def _text(labels: Labels) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{escape(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _histogram(name: str, labels: Labels, cell: _Distribution) -> list[str]:
    lines = [f"{name}_bucket{_text((*labels, ('le', limit)))} {count}" for limit, count in cell.cumulative()]
    total = int(cell.counts.sum())
    return [*lines, f"{name}_sum{_text(labels)} {_number(cell.sum)}", f"{name}_count{_text(labels)} {total}"]
