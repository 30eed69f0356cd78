"""Warm-up: the requests in ``assets.extra/tf_serving_warmup_requests`` are run before a version becomes available.

Source of the rules: TF Serving's ``saved_model_warmup_util.cc``: a TFRecord file of PredictionLog messages, at most
1000; one that fails fails the load.
"""

from __future__ import annotations

import time
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
    """Runs a servable's warm-up requests, if it has any, ``iterations`` times each; returns the seconds of each.

    Raises `ArtifactError` for a file that cannot be read or a request that fails.
    """
    file = servable.path / WARMUP_FILE
    if not file.exists():
        return []
    count, read, times = 0, 0, []
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
            for _ in range(iterations):
                started = time.perf_counter()
                _run(core, servable, log.predict_log.request)
                times.append(time.perf_counter() - started)
        if read != file.stat().st_size:
            raise ArtifactError(f"{file}: record {count + 1} cannot be read: the file ends within it")
    except ServingError as error:
        raise ArtifactError(f"{file}: record {count} fails: {error}") from None
    except ArtifactError:
        raise
    except Exception as error:  # TensorFlow's DataLossError, protobuf's DecodeError
        raise ArtifactError(f"{file}: record {count + 1} cannot be read: {error}") from None
    return times


def _run(core: Core, servable: Servable, request: predict_pb2.PredictRequest) -> None:
    inputs = {alias: wire.decode(alias, proto) for alias, proto in request.inputs.items()}
    core.predict(servable, request.model_spec.signature_name, inputs, lambda: inputs, request.output_filter)
