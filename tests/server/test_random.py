"""Requests drawn at random: what a real TF Serving 2.20.0 answered to some is this server's answer, word for word; to
others, drawn anew by the same grammar, the status that the rules ask for."""

from __future__ import annotations

import base64
import json
import random
import re
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
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from toolkit.server import Server

CASES = json.loads((GOLDEN / "random.json").read_text())
HTTP = httpx.Client(verify=False)

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
RPCS: dict[str, tuple[str, Any]] = {
    "p": (f"/{PREDICTION}/Predict", predict_pb2.PredictResponse),
    "m": (f"/{PREDICTION}/GetModelMetadata", get_model_metadata_pb2.GetModelMetadataResponse),
    "s": (f"/{MODEL}/GetModelStatus", get_model_status_pb2.GetModelStatusResponse),
    "c": (f"/{PREDICTION}/Classify", classification_pb2.ClassificationResponse),
    "r": (f"/{PREDICTION}/Regress", regression_pb2.RegressionResponse),
    "i": (f"/{PREDICTION}/MultiInference", inference_pb2.MultiInferenceResponse),
}


def essence(text: str) -> str:
    """An error text as it was recorded: without the names of nodes and compiled functions."""
    return re.sub(r"\n?\t? ?\[\[\{\{.*\}\}\]\]", "", text)


def as_recorded(value: Any) -> Any:
    """JSON as it was recorded: numbers and truth values as Python writes them, errors by their essence."""
    if isinstance(value, dict):
        return {name: as_recorded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_recorded(item) for item in value]
    return essence(value) if isinstance(value, str) else str(value)


def ask(channel: grpc.Channel, rpc: str, request: bytes) -> tuple[str, Any]:
    """Code, and message or details."""
    method, response = RPCS[rpc]
    try:
        return "OK", response.FromString(channel.unary_unary(method)(request, timeout=60))
    except grpc.RpcError as error:
        return error.code().name, essence(error.details())


def post(server: Server, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> httpx.Response:
    target = httpx.URL(f"http://127.0.0.1:{server.rest_port}").copy_with(raw_path=path.encode())  # as it is
    return HTTP.request(method, target, content=body, headers={"accept-encoding": "", **headers})


@pytest.mark.parametrize("index", range(len(CASES["rest"])))
def test_rest_answers_as_recorded(golden_server: Server, index: int) -> None:
    case = CASES["rest"][index]
    body = None if case["body64"] is None else base64.b64decode(case["body64"])
    reply = post(golden_server, case["method"], case["path"], body, case["headers"])
    try:
        answer = as_recorded(reply.json())
    except ValueError:
        answer = reply.text
    assert (reply.status_code, answer) == (case["status"], case["answer"])


@pytest.mark.parametrize("index", range(len(CASES["grpc"])), ids=lambda i: f"{i}-{CASES['grpc'][i]['rpc']}")
def test_grpc_answers_as_recorded(golden_server: Server, index: int) -> None:
    case = CASES["grpc"][index]
    with grpc.insecure_channel(f"127.0.0.1:{golden_server.grpc_port}") as channel:
        code, answer = ask(channel, case["rpc"], base64.b64decode(case["request64"]))
    expected = case["answer"]
    if code == "OK" and case["rpc"] == "m":
        answer = len(answer.metadata)
    elif code == case["code"] == "OK":
        expected = text_format.Parse(expected, RPCS[case["rpc"]][1]())
    assert (code, answer) == (case["code"], expected), case["request"]


# -- the same kinds, drawn anew: statuses by rule ---------------------------------------------------------------------

LABELS = {"echo": {"stable": 1, "canary": 2}}
VERSIONS = {"echo": {1, 2}, "other": {5}}
WORDS = ["", "a", "ü", "日本", "🚀 x", '"q"', "\\", "line\nbreak", "a" * 300]


def draw_predict(draw: random.Random) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    spec = request.model_spec
    spec.name = draw.choices(["echo", "other", "nope", ""], [12, 3, 1, 1])[0]
    match draw.choices(["none", "version", "label"], [6, 1, 1])[0]:
        case "version":
            spec.version.value = draw.choice([0, 1, 2, 5, -1, 9])
        case "label":
            spec.version_label = draw.choice(["stable", "canary", "no", "", " "])
    spec.signature_name = draw.choices(["", "serving_default", "two"], [6, 4, 1])[0]
    for name in draw.choices([["text"], ["txt"], [""], ["text", "x"], ["x", "y"], []], [12, 2, 1, 1, 1, 1])[0]:
        tensor = request.inputs[name]
        tensor.dtype = draw.choices([7, 1, 3, 9, 10, 19, 8, 11, 0, 99], [16, 1, 1, 1, 1, 1, 1, 1, 1, 1])[0]
        for size in draw.choice([(1,), (2,), (3,), (0,), (1, 1), (2, 1), (2, 0), (-1,), (1, -1)]):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_shape.unknown_rank = draw.random() < 0.2
        tensor.string_val.extend(word.encode() for word in draw.choices(WORDS, k=draw.randrange(4)))
        if draw.random() < 0.2:
            tensor.tensor_content = draw.choice([b"\5hello\0", b"\1a", b"\2\1abc", b"abcd", b"\xff\xff\xff\xff\x0f"])
    for name in draw.choices([[], ["embedding"], ["nope"], ["embedding"] * 2], [8, 1, 1, 1])[0]:
        request.output_filter.append(name)
    return request


def parses(tensor: Any) -> bool:
    """Whether TensorFlow makes a tensor of the message."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    count = 1
    for size in sizes:
        count *= size
    if tensor.dtype in (0, 99) or min(sizes, default=0) < 0:
        return False
    if not count or not tensor.tensor_content:
        return True
    content = tensor.tensor_content
    if tensor.dtype != 7:
        return len(content) == count * {1: 4, 3: 4, 9: 8, 10: 1, 19: 2, 8: 8, 11: 1}[tensor.dtype]
    lengths = content[:count]  # all of them are below 128, where they are right
    return len(lengths) == count and max(lengths) < 128 and len(content) == count + sum(lengths)


def predict_rule(request: predict_pb2.PredictRequest) -> tuple[str, str]:
    """Code, and how the details begin."""
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    if not spec.name:
        return "INVALID_ARGUMENT", "ModelSpec has no name specified."
    version = spec.version.value if choice == "version" else None
    if choice == "version_label":
        version = LABELS.get(spec.name, {}).get(spec.version_label)
        if version is None:
            return "INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label}"
    if spec.name not in VERSIONS or version not in VERSIONS[spec.name] | {None}:
        return "NOT_FOUND", "Servable not found for request: "
    if spec.signature_name == "two":
        return "FAILED_PRECONDITION", 'Serving signature key "two" not found.'
    if len(request.inputs) != 1:
        return "INVALID_ARGUMENT", f"input size does not match signature: {len(request.inputs)}!=1 len({{"
    if "text" not in request.inputs:
        return "INVALID_ARGUMENT", "Signature input alias: text(feed name: serving_default_text:0) not found in request"
    tensor = request.inputs["text"]
    if not parses(tensor):
        return "INVALID_ARGUMENT", "tensor parsing error: text"
    if "nope" in request.output_filter:
        return "INVALID_ARGUMENT", "output tensor alias not found in signature: nope Outputs expected"
    if len(request.output_filter) > 1:
        return "INVALID_ARGUMENT", "duplicate output tensor alias: embedding"
    if tensor.dtype != 7:
        return "INVALID_ARGUMENT", "Expects arg[0] to be string but "
    return "OK", ""


def test_grpc_requests_by_rule(golden_server: Server) -> None:
    draw = random.Random(23)
    seen = set()
    with grpc.insecure_channel(f"127.0.0.1:{golden_server.grpc_port}") as channel:
        for _ in range(400):
            request = draw_predict(draw)
            code, text = predict_rule(request)
            found, answer = ask(channel, "p", request.SerializeToString())
            assert found == code, (answer, request)
            assert code == "OK" or answer.startswith(text), (answer, request)
            seen.add(text)
    assert len(seen) >= 12, "every rule was met"


def draw_value(draw: random.Random) -> str:
    leaf = draw.choices(["word", "b64", "number", "row", "list"], [12, 2, 1, 2, 1])[0]
    match leaf:
        case "word":
            return json.dumps(draw.choice(WORDS), ensure_ascii=draw.random() < 0.5)
        case "b64":
            return draw.choice(['{"b64": "aGk="}', '{"b64": "aGn/"}', '{"b64": "!!!"}'])
        case "number":
            return draw.choice(["1e30", "-1", "0", "true", "null", "NaN", "1.5"])
        case "row":
            return f'{{"text": {json.dumps(draw.choice(WORDS))}}}'
        case _:
            return draw.choice(["[]", '["a"]'])


def draw_body(draw: random.Random) -> str:
    values = ", ".join(draw_value(draw) for _ in range(draw.randrange(4)))
    name = draw.choices(["instances", "inputs", "examples"], [6, 3, 1])[0]
    value = f"[{values}]"
    if name == "inputs" and draw.random() < 0.5:
        value = f'{{"{draw.choice(["text", "text", "txt"])}": {value}}}'
    members = [f'"{name}": {value}']
    if draw.random() < 0.2:
        members.append(f'"signature_name": {draw.choice(["1", json.dumps("two"), json.dumps("")])}')
    text = f"{{{', '.join(members)}}}"
    if draw.random() < 0.3:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(["", "/", "]", "\x00", ",", "[", '"']) + text[at + draw.randrange(2) :]
    return text


def rest_rule(text: str) -> int:
    """The status of a predict request, by what its JSON says."""
    decoder = json.JSONDecoder()
    try:
        document, _ = decoder.raw_decode(text.strip(" \n\r\t"))
    except ValueError:
        return 400
    if not isinstance(document, dict) or document.get("signature_name", "") != "":
        return 400
    if ("instances" in document) == ("inputs" in document):
        return 400

    def is_text(value: Any) -> bool:
        return isinstance(value, str) or (isinstance(value, dict) and value in ({"b64": "aGk="}, {"b64": "aGn/"}))

    def rectangular(values: list[Any]) -> bool:
        lists = [value for value in values if isinstance(value, list)]
        if not lists:
            return all(map(is_text, values))
        return len(lists) == len(values) and len({len(value) for value in lists}) == 1 and all(map(rectangular, lists))

    value = document.get("inputs", document.get("instances"))
    if "instances" in document:
        if not isinstance(value, list) or not value:
            return 400
        if isinstance(value[0], dict) and not is_text(value[0]):
            if not all(isinstance(row, dict) and row.keys() == {"text"} for row in value):
                return 400
            value = [row["text"] for row in value]
    elif isinstance(value, dict) and not is_text(value):
        value = value.get("text", 0)
    return 200 if isinstance(value, list) and rectangular(value) else 400


def test_rest_requests_by_rule(golden_server: Server) -> None:
    draw = random.Random(23)
    seen = []
    for _ in range(400):
        text = draw_body(draw)
        reply = post(golden_server, "POST", "/v1/models/echo:predict", text.encode(), {})
        assert reply.status_code == rest_rule(text), (text, reply.text)
        if reply.status_code != 200:
            assert reply.json().keys() == {"error"}
        seen.append(reply.status_code)
    assert min(seen.count(200), seen.count(400)) > 50
