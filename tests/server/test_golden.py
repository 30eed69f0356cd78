"""Every recorded answer of a real TF Serving 2.20.0 is this server's answer too."""

from __future__ import annotations

import gzip
import json
import re
import time
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import text_format
from serving_support import GOLDEN
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from toolkit.server import Server

HTTP = httpx.Client(verify=False)  # one for all: making a client takes longer than a request

REST_CASES = json.loads((GOLDEN / "rest.json").read_text())
GRPC_CASES = json.loads((GOLDEN / "grpc.json").read_text())

# Counters inside TensorFlow's C++ runtime that Python cannot read: declared on the page, without samples.
RUNTIME_ONLY = (
    ":tensorflow:core:graph_build_calls",
    ":tensorflow:core:graph_build_time_usecs",
    ":tensorflow:core:graph_optimization_usecs",
    ":tensorflow:core:graph_pending_queue_length_histogram",
    ":tensorflow:core:graph_unused_outputs",
    ":tensorflow:core:saved_model:read",
)

MESSAGES = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}


def essence(text: str) -> str:
    """An error text without what may differ: node names, names of compiled functions and of tensors."""
    return re.sub(r"\n?\t? ?\[\[\{\{.*\}\}\]\]", "", text)


def rest_content(body: str, content_type: str) -> Any:
    """What a body says."""
    if content_type != "application/json" or not body:
        return body
    parsed = json.loads(body)
    return {"error": essence(parsed["error"])} if "error" in parsed else parsed


def metric_lines(body: str) -> tuple[set[str], set[str]]:
    """Type declarations, and names of samples, of TF Serving's metrics."""
    lines = [line for line in body.splitlines() if line.startswith((":", "# TYPE :"))]
    types = {line for line in lines if line.startswith("#")}
    names = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    return types, {name for name in names if not name.startswith(RUNTIME_ONLY)}


@pytest.mark.parametrize("index", range(len(REST_CASES)), ids=lambda i: f"{i}-{REST_CASES[i]['request']['path']}")
def test_rest_answers_as_recorded(golden_server: Server, index: int) -> None:
    case = REST_CASES[index]
    request = case["request"]
    headers = dict(request["headers"])
    body = None if request["body"] is None else request["body"].encode()
    if headers.get("Content-Encoding") == "gzip" and "X-Raw" not in headers and body is not None:
        body = gzip.compress(body)
    url = f"http://127.0.0.1:{golden_server.rest_port}"
    if request["path"].startswith("/monitoring"):  # the recorded server had answered a prediction by then
        assert HTTP.post(f"{url}/v1/models/other:predict", json={"instances": ["a"]}).status_code == 200
    # httpx would tidy the path up; the recorded one must arrive as it is.
    target = httpx.URL(url).copy_with(raw_path=request["path"].encode())
    reply = HTTP.request(request["method"], target, content=body, headers={"accept-encoding": "", **headers})
    content_type = case["headers"]["content-type"]
    assert (reply.status_code, reply.headers["content-type"]) == (case["status"], content_type)
    if request["path"].startswith("/monitoring"):
        assert metric_lines(reply.text) == metric_lines(case["body"])
    else:
        assert rest_content(reply.text, content_type) == rest_content(case["body"], content_type)


def test_rest_text_is_laid_out_as_recorded(golden_server: Server) -> None:
    """Beyond equal contents: spaces and line ends of answers without maps are those of RapidJSON."""
    exact = [0, 1, 2, 24, 25, 31, 33]
    for case in (REST_CASES[index] for index in exact):
        reply = HTTP.post(
            f"http://127.0.0.1:{golden_server.rest_port}{case['request']['path']}", content=case["request"]["body"]
        )
        assert reply.text == case["body"]


def test_grpc_answers_as_recorded_in_order(golden_server: Server) -> None:
    """One test, as reloads change what later calls see."""
    with grpc.insecure_channel(f"127.0.0.1:{golden_server.grpc_port}") as channel:
        stubs = [
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        ]
        for case in GRPC_CASES:
            request_type, response_type = MESSAGES[case["rpc"]]
            call = next(getattr(stub, case["rpc"]) for stub in stubs if hasattr(stub, case["rpc"]))
            text = case["request"].replace("MODELS", str(GOLDEN / "models"))
            request = text_format.Parse(text, request_type())
            if "response" in case:
                expected = text_format.Parse(case["response"], response_type())
                deadline = time.monotonic() + 10  # the recorded server, too, needed a while to retire versions
                while (actual := call(request)) != expected and case["rpc"] == "GetModelStatus":
                    assert time.monotonic() < deadline, case["name"]
                    time.sleep(0.02)
                same = text_format.MessageToString(actual) == text_format.MessageToString(expected)
                assert actual == expected or same, case["name"]  # NaN differs from itself
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    call(request)
                assert caught.value.code().name == case["code"], case["name"]
                assert essence(caught.value.details()) == essence(case["details"]), case["name"]
