"""The server survives every request, in a process of its own whose exit code tells."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from wrong_requests import GOOD, TYPES, Request, requests

ROOT = Path(__file__).parents[2]


@contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command, and the addresses that it tells."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = "from toolkit.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "serve", "--port=0", "--rest_api_port=0", "--host=127.0.0.1", "--json",
         *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        except (grpc.RpcError, httpx.TransportError) as error:
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the server ended: exit code {process.wait(timeout=5)}") from error
            raise
        finally:
            process.kill()


class Caller:
    """Asks one model over both APIs."""

    def __init__(self, stub: Any, http: httpx.Client, model: str) -> None:
        self.stub, self.http, self.model = stub, http, model

    def over_grpc(self, request: Request) -> dict[str, np.ndarray] | str:
        """The outputs, or the error's text."""
        message = predict_pb2.PredictRequest()
        message.model_spec.name, message.model_spec.signature_name = self.model, request.signature
        for name, value in request.inputs.items():
            message.inputs[name].CopyFrom(tf.make_tensor_proto(value, shape=value.shape))
        try:
            outputs = self.stub.Predict(message, timeout=60).outputs
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return str(error.details())
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    def over_rest(self, request: Request) -> str:
        """The error's text, empty where there is an answer."""
        body = {
            "signature_name": request.signature,
            "inputs": {name: in_json(value) for name, value in request.inputs.items()},
        }
        answer = self.http.post(f"/v1/models/{self.model}:predict", json=body)
        assert answer.status_code in (200, 400), answer.text
        return str(answer.json().get("error", ""))

    def hold(self, request: Request) -> None:
        """Whatever is right about ``request`` is told alike by both APIs, and others are answered all the while."""
        answer = self.over_grpc(request)
        assert isinstance(answer, str) == bool(request.refused), (request.refused, answer)
        if isinstance(answer, dict):
            assert {len(value) for value in answer.values()} == {request.rows}
        if request.refused not in TYPES and all(size for value in request.inputs.values() for size in value.shape[:-1]):
            said = self.over_rest(request)
            assert said == (answer if isinstance(answer, str) else "")
        self.hold_good()

    def hold_good(self) -> None:
        """A good request has the answer that it had at first."""
        answer = self.over_grpc(Request("serving_default", GOOD))
        assert isinstance(answer, dict), answer
        if not hasattr(self, "first"):
            self.first = answer["embedding"]
        np.testing.assert_allclose(answer["embedding"], self.first, atol=1e-6, rtol=0)


def in_json(value: Any) -> Any:
    """An array, or a text of any bytes, as JSON."""
    if isinstance(value, np.ndarray):
        return in_json(value.tolist())
    if isinstance(value, list):
        return [in_json(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


# The graphs of the other kinds are put to the same in a process without a server.
@pytest.mark.parametrize(
    ("batching", "kinds", "count"),
    [
        ("true", ("wordpiece",), 50),
        pytest.param("true", ("bpe", "unigram"), 100, marks=pytest.mark.long),
        pytest.param("false", ("bpe", "unigram", "wordpiece"), 100, marks=pytest.mark.long),
    ],
)
def test_no_request_ends_the_server_or_fails_another_one(
    of_kind: Callable[[str], Path], batching: str, kinds: Sequence[str], count: int
) -> None:
    (models,) = {of_kind(kind).parent for kind in kinds}
    with server(str(models), f"--enable_batching={batching}") as (process, address):
        with grpc.insecure_channel(address["grpc"]) as channel, ThreadPoolExecutor(4) as pool:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with httpx.Client(base_url=address["rest"], timeout=60) as http:
                for number, kind in enumerate(kinds):
                    caller = Caller(stub, http, kind)
                    caller.hold_good()
                    list(pool.map(caller.hold, requests(seed=number, count=count)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
