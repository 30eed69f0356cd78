"""Requests joined by TensorFlow's scheduler come apart again, each with its own rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_support import GOLDEN, copy_version, text_request
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from toolkit.server import Server
from toolkit.server.models.servable import check_batch
from toolkit.server.requests.status import ServingError

StartServer = Any

PARAMETERS = """
max_batch_size { value: 8 } batch_timeout_micros { value: 3000 } num_batch_threads { value: 2 }
max_enqueued_batches { value: 1000 }
"""


@pytest.fixture(scope="module")
def batching_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from toolkit.server import ServerOptions

    file = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text(PARAMETERS)
    options = ServerOptions(
        models_dir=GOLDEN / "models", port=0, rest_api_port=0, host="127.0.0.1",
        enable_batching=True, batching_parameters_file=file,
    )  # fmt: skip
    with Server(options) as server:
        yield server


def predict(server: Server, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)


def test_rows_of_concurrent_requests_are_their_own(batching_server: Server) -> None:
    def ask(number: int) -> bool:
        texts = [b"%d-" % number + b"x" * row for row in range(number % 8)]
        answer = stub.Predict(text_request(*texts, signature="detailed"))
        echoed = list(answer.outputs["echo"].string_val) == texts
        return echoed and list(answer.outputs["num_tokens"].int_val) == [len(text) for text in texts]

    with (
        grpc.insecure_channel(f"127.0.0.1:{batching_server.grpc_port}") as channel,
        ThreadPoolExecutor(32) as pool,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert all(pool.map(ask, range(400)))
    page = httpx.get(f"http://127.0.0.1:{batching_server.rest_port}/monitoring/prometheus/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    batches = float(lines['sentence_serving_batch_rows_count{model="echo",signature="detailed"}'])
    requests = float(lines['sentence_serving_request_rows_count{model="echo",signature="detailed"}'])
    assert batches < requests, "nothing was joined"
    assert float(lines[':tensorflow:serving:batching_session:queuing_latency_count{model_name="echo"}']) == 350
    assert requests == 400, "of which every eighth is empty and not queued"
    assert float(lines['sentence_serving_queue_seconds_sum{model="echo",signature="detailed"}']) > 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=20), max_size=8))
def test_batched_answers_equal_unbatched_ones(batching_server: Server, texts: list[bytes]) -> None:
    answer = predict(batching_server, text_request(*texts))
    expected = [[len(text), len(text) / 2, 3.0] for text in texts]
    values = np.array(answer.outputs["embedding"].float_val).reshape(-1, 3).tolist()
    assert values == expected
    assert [dim.size for dim in answer.outputs["embedding"].tensor_shape.dim] == [len(texts), 3]


def test_request_larger_than_a_batch_is_refused_as_by_tf_serving(batching_server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(batching_server, text_request(*[b"x"] * 9))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Task size 9 is larger than maximum input batch size 8" in caught.value.details()
    answer = httpx.post(
        f"http://127.0.0.1:{batching_server.rest_port}/v1/models/echo:predict", json={"instances": ["x"] * 9}
    )
    assert answer.status_code == 400


def test_inputs_that_cannot_be_joined_run_alone(batching_server: Server) -> None:
    """Token ids of free length, and texts of another rank than the signature's, are answered as without batching."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "echo", "embed_tokens"
    for alias in ("input_ids", "attention_mask"):
        tensor = request.inputs[alias]
        tensor.dtype = types_pb2.DT_INT32
        tensor.int_val.extend([1, 2, 3] if alias == "input_ids" else [1, 1, 1])
        for size in (1, 3):
            tensor.tensor_shape.dim.add(size=size)
    assert list(predict(batching_server, request).outputs["embedding"].float_val) == [6.0]
    square = text_request(b"a", b"b")
    square.inputs["text"].tensor_shape.dim.add(size=1)
    assert [dim.size for dim in predict(batching_server, square).outputs["embedding"].tensor_shape.dim] == [2, 3, 1]


def test_output_filter_works_on_batched_signatures(batching_server: Server) -> None:
    request = text_request(b"abc", signature="detailed")
    request.output_filter.extend(["num_tokens", "echo"])
    answer = predict(batching_server, request)
    assert set(answer.outputs) == {"num_tokens", "echo"}
    assert list(answer.outputs["num_tokens"].int_val) == [3]


def test_splitting_and_allowed_sizes_keep_rows_in_order(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 1000 } max_enqueued_batches { value: 100 } "
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 8 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 64"
    )
    server = start_server(models_dir=GOLDEN / "models", enable_batching=True, batching_parameters_file=file)
    texts = [b"x" * number for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: predict(server, text_request(*texts, signature="detailed")), range(12)):
            assert list(answer.outputs["echo"].string_val) == texts


def test_full_queue_is_unavailable(start_server: StartServer, slow_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 1 } num_batch_threads { value: 1 } max_enqueued_batches { value: 1 } "
        "batch_timeout_micros { value: 0 }"
    )
    server = start_server(model_base_path=slow_model, enable_batching=True, batching_parameters_file=file)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/default:predict"
    body = {"inputs": {"steps": [20000.0]}}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(url, json=body, timeout=60), range(12)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert "The batch scheduling queue to which this task was submitted is full" in refused.json()["error"]


def test_per_model_parameters_apply_to_their_model_only(start_server: StartServer, tmp_path: Path) -> None:
    version = copy_version(tmp_path / "batched", 1)
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    copy_version(tmp_path / "plain", 1)
    server = start_server(models_dir=tmp_path, enable_batching=True, enable_per_model_batching_parameters=True)
    three = text_request(b"a", b"b", b"c", model="plain")
    assert len(predict(server, three).outputs["embedding"].float_val) == 9
    three.model_spec.name = "batched"
    with pytest.raises(grpc.RpcError, match="Task size 3 is larger than maximum input batch size 2"):
        predict(server, three)


def test_what_has_no_rows_or_not_as_many_of_each_is_refused_as_tf_serving_does(batching_server: Server) -> None:
    url = f"http://127.0.0.1:{batching_server.rest_port}/v1/models/echo:predict"
    reply = httpx.post(url, json={"signature_name": "odd", "inputs": 0.5})
    error = "Batching Run() input tensors must have at least one dimension"
    assert (reply.status_code, reply.json()) == (400, {"error": error})
    with pytest.raises(ServingError, match=r"Batching Run.. input tensors must have equal 0th-dimension size"):
        check_batch([np.zeros(2), np.zeros((3, 1))])
