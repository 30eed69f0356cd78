"""Warm-up: the requests in ``assets.extra/tf_serving_warmup_requests`` are run before a version becomes available.

Source of the rules: TF Serving's ``saved_model_warmup_util.cc``: a TFRecord file of PredictionLog messages, at most
1000; one that fails fails the load.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tensorflow.python.lib.io import tf_record
from tensorflow.python.util import deprecation
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from toolkit.errors import ArtifactError
from toolkit.server.models.servable import Servable
from toolkit.server.requests import wire
from toolkit.server.requests.core import Core
from toolkit.server.requests.status import ServingError

__all__ = ["WARMUP_FILE", "replay"]

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000
_FRAME = 16  # bytes of a TFRecord besides its content: length, and checksums of length and content


def replay(core: Core, servable: Servable, iterations: int) -> list[float]:
    """Runs a servable's warm-up requests, if it has any, ``iterations`` times each; returns the seconds of each run.

    They run in order, but for the largest, which runs beside the others: what a version does the first time, such as
    optimizing the graph's functions, keeps one CPU busy however many there are. Where requests are batched by the
    server all run in order, so that none is joined with another.

    Raises `ArtifactError` for a file that cannot be read, before any request is run, or for a request that fails.
    """
    file = servable.path / WARMUP_FILE
    if not file.exists():
        return []
    requests = list(_requests(file))

    def run(place: int) -> list[float]:
        times = []
        for _ in range(iterations):
            started = time.perf_counter()
            try:
                _run(core, servable, requests[place])
            except ServingError as error:
                raise ArtifactError(f"{file}: record {place + 1} fails: {error}") from None
            times.append(time.perf_counter() - started)
        return times

    places = range(len(requests))
    times = {place: run(place) for place in (places if servable.batches else places[:1])}
    left = [place for place in places if place not in times]
    if left:
        largest = max(left, key=lambda place: requests[place].ByteSize())
        with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as beside:
            aside = beside.submit(run, largest)
            times |= {place: run(place) for place in left if place != largest}
            times[largest] = aside.result()
    return [seconds for place in places for seconds in times[place]]


def _requests(file: Path) -> Iterator[predict_pb2.PredictRequest]:
    count, read = 0, 0
    try:
        with deprecation.silence():  # the only reader that checks checksums and starts no second runtime
            records = tf_record.tf_record_iterator(str(file))
        for record in records:
            count += 1
            read += len(record) + _FRAME
            if count > MAX_RECORDS:
                raise ArtifactError(f"{file}: Number of warmup records exceeds the maximum ({MAX_RECORDS})")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                kind = log.WhichOneof("log_type") or "nothing"
                raise ArtifactError(f"{file}: record {count} is {kind}, which is not supported; supported: predict_log")
            yield log.predict_log.request
        if read != file.stat().st_size:
            raise ArtifactError(f"{file}: record {count + 1} cannot be read: the file ends within it")
    except ArtifactError:
        raise
    except Exception as error:  # TensorFlow's DataLossError, protobuf's DecodeError
        raise ArtifactError(f"{file}: record {count + 1} cannot be read: {error}") from None


def _run(core: Core, servable: Servable, request: predict_pb2.PredictRequest) -> None:
    inputs = {alias: wire.decode(alias, proto) for alias, proto in request.inputs.items()}
    core.predict(servable, request.model_spec.signature_name, inputs, lambda: inputs, request.output_filter)
