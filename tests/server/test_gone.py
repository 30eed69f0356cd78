"""Work of callers that have gone, or whose deadline has passed, is dropped if it has not begun."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from serving_support import text_request, wait_until
from tensorflow_serving.apis import predict_pb2

from toolkit.server import Server
from toolkit.server.requests.core import ModelRef
from toolkit.server.requests.status import Code, ServingError

StartServer = Any


def requests_counted(server: Server) -> float:
    page = httpx.get(f"http://127.0.0.1:{server.rest_port}/monitoring/prometheus/metrics").text
    counts = [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_count{")]
    return sum(float(line.split()[-1]) for line in counts)


def test_rest_requests_of_callers_that_have_gone_are_not_begun(start_server: StartServer, slow_model: Path) -> None:
    server = start_server(model_base_path=slow_model, rest_api_num_threads=1)
    assert server._rest is not None
    front = server._rest._app

    def send(steps: float) -> socket.socket:
        body = json.dumps({"instances": [steps]}).encode()
        connection = socket.create_connection(("127.0.0.1", server.rest_port or 0))
        head = f"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    first = send(30000.0)
    wait_until(lambda: front.admission.calls == 1)
    others = [send(1e6) for _ in range(23)]
    wait_until(lambda: front.admission.calls == 24)
    for connection in (first, *others):
        connection.close()
    wait_until(lambda: front.admission.calls == 0)
    assert _small(server) == 200
    assert requests_counted(server) == 2, "the one that had begun, and the last"


def test_work_is_dropped_between_reading_a_request_and_running_it(golden_server: Server) -> None:
    core = golden_server._core
    read: list[str] = []

    def inputs() -> dict[str, np.ndarray]:
        read.append("text")
        return {"text": np.zeros(1)}  # of a wrong type, which a run would say

    with core.leased(ModelRef("echo")) as servable, pytest.raises(ServingError) as caught:
        core.predict(servable, "", ["text"], inputs, awaited=lambda: False)
    assert (read, caught.value.code) == (["text"], Code.CANCELLED)


@pytest.mark.parametrize(("active", "remaining"), [(False, 5.0), (True, 0.0)])
@pytest.mark.parametrize("method", ["Predict", "Classify", "MultiInference"])
def test_grpc_calls_that_are_cancelled_or_late_are_not_begun(
    golden_server: Server, method: str, active: bool, remaining: float
) -> None:
    """A call that has waited for a thread: its context says by then that nobody waits for it any more."""

    class Context:
        def is_active(self) -> bool:
            return active

        def time_remaining(self) -> float:
            return remaining

        def abort(self, code: grpc.StatusCode, details: str) -> None:
            raise RuntimeError(code.name)

    front = golden_server._grpc
    assert front is not None
    began: list[Any] = []
    call = front._unary(method, predict_pb2.PredictRequest, lambda request, _: began.append(request))  # type: ignore[arg-type,func-returns-value]
    context: Any = Context()
    with pytest.raises(RuntimeError, match="CANCELLED"):
        call(text_request(b"a").SerializeToString(), context)
    assert began == []


def _small(server: Server) -> int:
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/default:predict"
    return httpx.post(url, json={"instances": [1.0]}, timeout=60).status_code
