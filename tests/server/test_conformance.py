"""Conformance, through public clients alone: a table of requests and what every TF Serving answers.

The server is this package's; ``pytest tests/server/test_conformance.py --server-address HOST:PORT,http://HOST:PORT``
asks another one, which must serve the recorded models (``golden/models.config``).
"""

# ruff: noqa: E501 - tables of cases, one a line
from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving_support import golden_options
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from toolkit.server import Server


@dataclass(frozen=True)
class Target:
    """The server that is asked."""

    channel: grpc.Channel
    rest: httpx.Client


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    address = request.config.getoption("--server-address", default=None)
    if address:
        where, url = address.split(",")
        with grpc.insecure_channel(where) as channel, httpx.Client(base_url=url) as client:
            yield Target(channel, client)
        return
    with Server(golden_options(tmp_path_factory.mktemp("conformance"))) as server:
        url = f"http://127.0.0.1:{server.rest_port}"
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, httpx.Client(base_url=url) as client:
            yield Target(channel, client)


PREDICT = "/v1/models/echo:predict"

# method, path, body, status, what the JSON body must be (a text: what its error must contain)
REST: list[tuple[str, str, Any, int, Any]] = [
    ("POST", PREDICT, {"instances": ["abcd"]}, 200, {"predictions": [[4.0, 2.0, 2.0]]}),
    ("POST", PREDICT, {"inputs": ["abcd"]}, 200, {"outputs": [[4.0, 2.0, 2.0]]}),
    ("POST", PREDICT, {"inputs": {"text": {"b64": "AA=="}}}, 400, "axis = 1 not in [-1, 1)"),
    ("POST", PREDICT, {"inputs": []}, 200, {"outputs": []}),
    ("POST", PREDICT, {"instances": [["a"], ["b"]]}, 200, {"predictions": [[[1.0], [0.5], [2.0]], [[1.0], [0.5], [2.0]]]}),
    ("POST", PREDICT, {"instances": ["a"], "signature_name": ""}, 200, {"predictions": [[1.0, 0.5, 2.0]]}),
    ("POST", PREDICT, {"instances": ["a"], "unknown": 1}, 200, {"predictions": [[1.0, 0.5, 2.0]]}),
    ("POST", PREDICT, {"instances": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: string"),
    ("POST", PREDICT, {"instances": [[]]}, 200, {"predictions": [[[], [], []]]}),
    ("POST", PREDICT, {"inputs": {"wrong": ["a"]}}, 400, "Missing named input: text in 'inputs' object."),
    ("POST", PREDICT, None, 400, "JSON Parse error: The document is empty"),
    ("POST", "/v1/models/echo/labels/stable:predict", {"instances": ["a"]}, 200, {"predictions": [[1.0, 0.5, 1.0]]}),
    ("POST", "/v1/models/echo/versions/2:predict", {"instances": ["a"]}, 200, {"predictions": [[1.0, 0.5, 2.0]]}),
    ("POST", "/V1/Models/echo:predict", {"instances": ["a"]}, 200, {"predictions": [[1.0, 0.5, 2.0]]}),
    ("POST", "/v1/models/%65cho:predict", {"instances": ["a"]}, 200, {"predictions": [[1.0, 0.5, 2.0]]}),
    ("POST", "/v1/models/echo:explain", {"instances": ["a"]}, 400, "Malformed request: POST /v1/models/echo:explain"),
    ("POST", "/v1/models/echo/metadata", None, 400, "Malformed request: POST /v1/models/echo/metadata"),
    ("DELETE", "/v1/models/echo", None, 400, "Malformed request: DELETE /v1/models/echo"),
    ("GET", "/v1/models/other/versions/5", None, 200,
     {"model_version_status": [{"version": "5", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]}),
    ("GET", "/v1/models/other/versions/6", None, 404, "Could not find version 6 of model other"),
    ("GET", "/v1/models/nope/metadata", None, 404, "Servable not found for request: Latest(nope)"),
    ("POST", PREDICT, {"signature_name": "odd", "instances": [0.0]}, 200, {"predictions": [{"y": float("-inf"), "z": float("inf")}]}),
    ("POST", PREDICT, {"signature_name": "odd", "inputs": [1e-7]}, 200, {"outputs": {"y": [-16.1180954], "z": [10000000.0]}}),
    ("POST", PREDICT, {"signature_name": "__saved_model_init_op", "inputs": {}}, 400, "Failed to get input map for signature"),
    ("POST", "/v1/models/echo:regress", {"examples": [{"text": "a"}]}, 400, "No regression inputs found in SignatureDef"),
]  # fmt: skip


@pytest.mark.parametrize("row", REST, ids=lambda row: f"{row[0]} {row[1]} {json.dumps(row[2])[:60]}")
def test_rest(target: Target, row: tuple[str, str, Any, int, Any]) -> None:
    method, path, body, status, expected = row
    answer = target.rest.request(method, path, content=None if body is None else json.dumps(body))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    if isinstance(expected, str):
        assert expected in answer.json()["error"]
    else:
        assert answer.json() == expected


def test_gzip_goes_both_ways(target: Target) -> None:
    body = json.dumps({"signature_name": "detailed", "instances": ["some text"] * 50}).encode()
    plain = target.rest.post(PREDICT, content=body, headers={"accept-encoding": "identity"})
    packed = target.rest.post(
        PREDICT, content=gzip.compress(body), headers={"content-encoding": "gzip", "accept-encoding": "gzip"}
    )
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.json() == packed.json()


# method, request as text, status, what the error text must contain
CALLS: list[tuple[str, str, str, str]] = [
    ("Predict", "", "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ("Predict", 'model_spec { name: "echo" } inputs { key: "txt" value { dtype: DT_STRING string_val: "a" } }',
     "INVALID_ARGUMENT", "Signature input alias: text(feed name: serving_default_text:0) not found in request"),
    ("Predict", 'model_spec { name: "echo" } inputs { key: "text" value { dtype: DT_FLOAT float_val: 1 } }',
     "INVALID_ARGUMENT", "Expects arg[0] to be string but float is provided"),
    ("Predict", 'model_spec { name: "echo" } inputs { key: "text" value { dtype: DT_STRING string_val: "a" '
     'tensor_shape { dim { size: 1 } } } } output_filter: "nope"',
     "INVALID_ARGUMENT", "output tensor alias not found in signature: nope"),
    ("Predict", 'model_spec { name: "echo" } inputs { key: "text" value { dtype: DT_STRING tensor_content: "\\377" '
     "tensor_shape { dim { size: 3 } } } }", "INVALID_ARGUMENT", "tensor parsing error: text"),
    ("GetModelMetadata", 'metadata_field: "signature_def"', "INVALID_ARGUMENT", "Missing ModelSpec"),
    ("GetModelMetadata", 'model_spec { name: "nope" } metadata_field: "signature_def"',
     "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    ("GetModelStatus", "", "INVALID_ARGUMENT", "Missing ModelSpec"),
    ("GetModelStatus", 'model_spec { name: "echo" version { value: 9 } }',
     "NOT_FOUND", "Could not find version 9 of model echo"),
    ("Classify", 'model_spec { name: "echo" signature_name: "nope" }', "INVALID_ARGUMENT", ""),
    ("MultiInference", 'tasks { model_spec { name: "echo" } method_name: "tensorflow/serving/classify" }',
     "INVALID_ARGUMENT", "No classification inputs found in SignatureDef"),
]  # fmt: skip
REQUESTS = {
    "Predict": predict_pb2.PredictRequest,
    "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
    "Classify": classification_pb2.ClassificationRequest,
    "MultiInference": inference_pb2.MultiInferenceRequest,
}


@pytest.mark.parametrize("row", CALLS, ids=lambda row: f"{row[0]} {row[3][:50]}")
def test_grpc_errors(target: Target, row: tuple[str, str, str, str]) -> None:
    method, text, code, error = row
    stubs = (
        prediction_service_pb2_grpc.PredictionServiceStub(target.channel),
        model_service_pb2_grpc.ModelServiceStub(target.channel),
    )
    call = next(getattr(stub, method) for stub in stubs if hasattr(stub, method))
    with pytest.raises(grpc.RpcError) as caught:
        call(text_format.Parse(text, REQUESTS[method]()))
    assert caught.value.code().name == code
    assert error in caught.value.details()


@pytest.mark.parametrize("rows", [0, 1, 2, 37])
def test_predict_shapes_and_types_of_every_output(target: Target, rows: int) -> None:
    texts = [f"text {'x' * row}".encode() for row in range(rows)]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "echo", "detailed"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts, tf.string, (rows,)))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(target.channel).Predict(request)
    arrays = {alias: tf.make_ndarray(proto) for alias, proto in answer.outputs.items()}
    lengths = np.array([len(text) for text in texts], np.int32)
    np.testing.assert_array_equal(arrays["num_tokens"], lengths)
    np.testing.assert_array_equal(arrays["truncated"], lengths > 8)
    assert arrays["echo"].tolist() == texts
    assert arrays["embedding"].shape == (rows, 3)
    np.testing.assert_array_equal(arrays["embedding"][:, 0], lengths.astype(np.float32))


def test_both_apis_give_the_same_numbers(target: Target) -> None:
    values = np.random.default_rng(0).uniform(1e-6, 1e6, 64).astype(np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "echo", "odd"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(target.channel).Predict(request)
    body = {"signature_name": "odd", "inputs": values.tolist()}
    rest = target.rest.post(PREDICT, json=body).json()["outputs"]
    for alias in ("y", "z"):
        np.testing.assert_array_equal(np.array(rest[alias], np.float32), tf.make_ndarray(answer.outputs[alias]))
