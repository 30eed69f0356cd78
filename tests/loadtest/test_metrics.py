"""The server's own figures, of its Prometheus page."""

from __future__ import annotations

import os

import pytest

from toolkit.loadtest.metrics import Sample, figures, parse, process_figures

OURS = """
# TYPE sentence_serving_queue_seconds histogram
sentence_serving_queue_seconds_bucket{{model="m",le="0.1"}} {n}
sentence_serving_queue_seconds_sum{{model="m"}} {queue}
sentence_serving_queue_seconds_count{{model="m"}} {n}
# TYPE sentence_serving_batch_rows histogram
sentence_serving_batch_rows_sum{{model="m"}} {rows}
sentence_serving_batch_rows_count{{model="m"}} {batches}
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1000
"""
THEIRS = """
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{{model_name="m",API="predict",entrypoint="GRPC",le="10"}} 1
:tensorflow:serving:request_latency_sum{{model_name="m",API="predict",entrypoint="GRPC"}} {sum}
:tensorflow:serving:request_latency_count{{model_name="m",API="predict",entrypoint="GRPC"}} {n}
# TYPE :tensorflow:serving:batching_session:queuing_latency histogram
:tensorflow:serving:batching_session:queuing_latency_sum{{model_name="m"}} {queue}
:tensorflow:serving:batching_session:queuing_latency_count{{model_name="m"}} {n}
"""


def test_our_names_are_read_as_what_was_added_during_the_run() -> None:
    before = Sample(10.0, parse(OURS.format(n=100, queue=1.0, rows=50, batches=10, cpu=5)))
    after = Sample(14.0, parse(OURS.format(n=300, queue=3.0, rows=250, batches=35, cpu=11)))
    point = figures(before, after, 10.0)
    assert point.queue_seconds == pytest.approx(0.01)
    assert point.batch_rows == pytest.approx(8)
    assert point.batches == 25
    assert point.cpu == pytest.approx(1.5)
    assert point.memory == 1000
    assert point.request_seconds is None
    assert point.at == 4


def test_tensorflow_servings_names_are_read_in_their_microseconds() -> None:
    before = Sample(0.0, parse(THEIRS.format(n=10, sum=1e5, queue=1e4)))
    after = Sample(1.0, parse(THEIRS.format(n=30, sum=5e5, queue=5e4)))
    point = figures(before, after, 0.0)
    assert point.request_seconds == pytest.approx(0.02)
    assert point.queue_seconds == pytest.approx(0.002)
    assert point.cpu is None


def test_a_process_of_this_machine_tells_its_cpu_and_memory() -> None:
    values = process_figures(os.getpid())
    assert values["process_cpu_seconds_total"] > 0
    assert values["process_resident_memory_bytes"] > 1 << 20
