"""REST classify and regress requests: JSON objects to ``tf.Example`` messages, results to JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, model_pb2, regression_pb2

from toolkit.server.requests.core import ModelRef
from toolkit.server.requests.status import ServingError, invalid
from toolkit.server.rest.decimals import decimal
from toolkit.server.rest.jsonparse import parse
from toolkit.server.rest.jsontensor import decode_base64, is_base64
from toolkit.server.rest.jsontext import quote, value_text

__all__ = ["classify_body", "classify_json", "regress_body", "regress_json"]

_TYPES: dict[type, str] = {dict: "Object", list: "Array", type(None): "Null"}


def classify_body(ref: ModelRef, body: bytes) -> classification_pb2.ClassificationRequest:
    """A classify request. Raises `ServingError`."""
    return _fill(ref, body, classification_pb2.ClassificationRequest())


def regress_body(ref: ModelRef, body: bytes) -> regression_pb2.RegressionRequest:
    """A regress request. Raises `ServingError`."""
    return _fill(ref, body, regression_pb2.RegressionRequest())


def _fill(ref: ModelRef, body: bytes, request: Any) -> Any:
    spec: model_pb2.ModelSpec = request.model_spec
    spec.name = ref.name
    if ref.version is not None:
        spec.version.value = ref.version
    if ref.label is not None:
        spec.version_label = ref.label
    document = parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {value_text(document)} Is not object")

    def malformed(text: str) -> ServingError:
        return invalid(f"JSON Value: {value_text(document)} {text}")

    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise malformed("not formatted correctly. 'signature_name' key must be a string value.")
    spec.signature_name = name
    examples = request.input.example_list.examples
    if "context" in document:
        request.input.example_list_with_context.context.CopyFrom(_example(document["context"]))
        examples = request.input.example_list_with_context.examples
    if "examples" not in document:
        raise malformed("When method is classify, key 'examples' is expected and was not found")
    rows = document["examples"]
    if not isinstance(rows, list):
        raise malformed("Expecting 'examples' value to be an list/array")
    if not rows:
        raise malformed("'examples' value is an empty array")
    examples.extend(map(_example, rows))
    return request


def _example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        kinds = {**_TYPES, str: "String", int: "Number", float: "Number", bool: str(value)}
        raise invalid(f"Example must be JSON object but got JSON {kinds[type(value)]}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)
    return example


def _add(value: Any, name: str, feature: feature_pb2.Feature) -> None:
    if type(value) in _TYPES and not is_base64(value):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_TYPES[type(value)]}")
    kind = (
        "bytes_list" if isinstance(value, (str, dict)) else "float_list" if isinstance(value, float) else "int64_list"
    )
    if feature.WhichOneof("kind") not in (None, kind):
        given = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}[feature.WhichOneof("kind")]
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {given}")
    if isinstance(value, dict):
        feature.bytes_list.value.append(decode_base64(value))
    elif isinstance(value, str):
        feature.bytes_list.value.append(value.encode("utf-8", "surrogateescape"))
    elif isinstance(value, float):
        if abs(value) > float(np.finfo(np.float32).max) and abs(value) != float("inf"):
            raise invalid(f"Cannot convert JSON value: {value_text(value)} to float without loss of precision.")
        feature.float_list.value.append(value)
    else:
        if not -(2**63) <= value < 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(int(value))


def classify_json(response: classification_pb2.ClassificationResponse) -> bytes:
    """The answer to a classify request: a list of ``[label, score]`` for each example."""
    rows = [
        "[" + ", ".join(f"[{quote(item.label)}, {decimal(np.float32(item.score))}]" for item in row.classes) + "]"
        for row in response.result.classifications
    ]
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'.encode()


def regress_json(response: regression_pb2.RegressionResponse) -> bytes:
    """The answer to a regress request: a number for each example."""
    numbers = ", ".join(decimal(np.float32(item.value)) for item in response.result.regressions)
    return f'{{\n    "results": [{numbers}]\n}}'.encode()
