"""Classify, Regress and MultiInference work for signatures that have them, on both APIs."""

# ruff: noqa: E501 - tables of cases, one a line
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from toolkit.server import Server, ServerOptions


@pytest.fixture(scope="module")
def server(slow_model: Path) -> Iterator[Server]:
    with Server(ServerOptions(model_base_path=slow_model, port=0, rest_api_port=0, host="127.0.0.1")) as server:
        yield server


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def fill(request: Any, *values: float) -> Any:
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return request


def test_classify_gives_labels_and_scores(stub: Any) -> None:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", "classify"
    answer = stub.Classify(fill(request, 0.25, 1.0))
    rows = [[(item.label, item.score) for item in row.classes] for row in answer.result.classifications]
    assert rows == [[("yes", 0.25), ("no", 0.75)], [("yes", 1.0), ("no", 0.0)]]
    assert answer.model_spec.version.value == 1


def test_regress_gives_values(stub: Any) -> None:
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "default", "regress"
    answer = stub.Regress(fill(request, 0.25, 1.0))
    assert [item.value for item in answer.result.regressions] == [0.5, 2.0]


def test_multi_inference_runs_several_tasks_on_one_input(stub: Any) -> None:
    request = fill(inference_pb2.MultiInferenceRequest(), 0.5)
    for name in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{name}")
        task.model_spec.name, task.model_spec.signature_name = "default", name
    results = stub.MultiInference(request).results
    assert results[0].classification_result.classifications[0].classes[0].score == 0.5
    assert results[1].regression_result.regressions[0].value == 1.0


@pytest.mark.parametrize(
    ("tasks", "code", "error"),
    [
        ([], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ([("default", "regress", "predict")], "UNIMPLEMENTED", "Unsupported signature method_name: tensorflow/serving/predict"),
        ([("default", "regress", "regress")] * 2, "INVALID_ARGUMENT", "Duplicate evaluation of signature: regress"),
        (
            [("default", "regress", "regress"), ("other", "regress", "regress")],
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        ([("default", "none", "regress")], "INVALID_ARGUMENT", "Requested signature not found in model graph: none"),
        ([("none", "regress", "regress")], "NOT_FOUND", "Servable not found for request: Latest(none)"),
    ],
)  # fmt: skip
def test_multi_inference_errors_are_tf_servings(stub: Any, tasks: list[tuple[str, ...]], code: str, error: str) -> None:
    request = fill(inference_pb2.MultiInferenceRequest(), 0.5)
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = model, signature
    with pytest.raises(grpc.RpcError) as caught:
        stub.MultiInference(request)
    assert (caught.value.code().name, caught.value.details()) == (code, error)


def test_rest_classify_and_regress(server: Server) -> None:
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/default"
    body = {"signature_name": "classify", "examples": [{"x": 0.25}, {"x": [1.0]}]}
    answer = httpx.post(f"{url}:classify", json=body)
    assert answer.json() == {"results": [[["yes", 0.25], ["no", 0.75]], [["yes", 1.0], ["no", 0.0]]]}
    body = {"signature_name": "regress", "context": {"x": 0.25}, "examples": [{}, {"x": 1.5}]}
    answer = httpx.post(f"{url}:regress", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0] == 0.5


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": ["a"]}, "Example must be JSON object but got JSON String"),
        ({"examples": [{"x": [1, 1.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": 1.0}], "signature_name": "none"}, "No signature was found with the name: none"),
        ({"examples": [{"x": 1.0}]}, "No classification inputs found in SignatureDef:"),
    ],
)
def test_rest_examples_that_cannot_be_are_refused(server: Server, body: Any, error: str) -> None:
    answer = httpx.post(f"http://127.0.0.1:{server.rest_port}/v1/models/default:classify", json=body)
    assert answer.status_code == 400
    assert error in answer.json()["error"]
