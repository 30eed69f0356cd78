"""JSON bodies become the arrays that TF Serving would make, or its very error."""

# ruff: noqa: E501, PT017 - tables of cases, one a line
from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.server.requests.status import Code, ServingError
from toolkit.server.rest.jsontensor import predict_body
from toolkit.server.rest.jsontext import tensors_to_columns, tensors_to_rows, value_text


def read(body: Any, **inputs: str) -> dict[str, np.ndarray]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return predict_body(text, lambda _: inputs or {"text": "string"}).inputs


@pytest.mark.parametrize(
    ("body", "inputs", "error"),
    [
        (
            {"instances": ["a", ["b"]]},
            {},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
        ),
        (
            {"instances": [[1, 2], [1]]},
            {"x": "int32"},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
        ),
        ({"instances": ["a", {"text": "b"}]}, {}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"text": "a"}, "b"]}, {}, "Expecting object but got list at item 1 of input list"),
        ({"inputs": [[1], 2]}, {"x": "int32"}, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"inputs": [1, [2]]}, {"x": "int32"}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": [[1, 2], [3]]}, {"x": "int32"}, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"inputs": {"y": 1}}, {"x": "int32"}, "Missing named input: x in 'inputs' object."),
        ({"inputs": [2**31]}, {"x": "int32"}, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ({"inputs": [True]}, {"x": "int32"}, "JSON Value: true Type: True is not of expected type: int32"),
        ({"inputs": [1, True]}, {"x": "float"}, "JSON Value: true Type: True is not of expected type: float"),
        ({"inputs": [16777216]}, {"x": "float"}, "Cannot convert JSON value: 16777216 to float without loss of precision."),
        ({"inputs": [1e39]}, {"x": "float"}, "Cannot convert JSON value: 1e39 to float without loss of precision."),
        ({"inputs": [1]}, {"x": "bool"}, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ({"inputs": [{"a": 1}]}, {"x": "int32"}, 'JSON Value: {\n    "a": 1\n} Type: Object is not of expected type: int32'),
        ({"inputs": [{"a": "b"}]}, {}, 'JSON Value: {\n    "a": "b"\n} not formatted correctly for base64 data'),
    ],
)  # fmt: skip
def test_unfit_values_are_refused_by_name(body: Any, inputs: dict[str, str], error: str) -> None:
    with pytest.raises(ServingError) as caught:
        read(body, **inputs)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, error)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e30, "1e30"),
        (-1.5e-7, "-1.5e-7"),
        (1e21, "1e21"),
        (123456789012345680000.0, "123456789012345680000.0"),
        (0.001234, "0.001234"),
        (1e-6, "0.000001"),
        (-0.0, "-0.0"),
        (10**25, "1e25"),
        (2**64 - 1, "18446744073709551615"),
        ("\x0b\x1f\n", '"\\u000B\\u001F\\n"'),
        ({"a": [1, float("nan"), 2], "b": {}}, '{\n    "a": [1, '),
        (float("inf"), ""),
    ],
)
def test_values_are_quoted_in_errors_as_rapidjson_writes_them_up_to_what_it_cannot_write(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_half_precision_is_not_read_from_json() -> None:
    with pytest.raises(ServingError) as caught:
        read({"inputs": [1.5]}, x="half")
    assert caught.value.code is Code.UNIMPLEMENTED
    assert caught.value.message == "Conversion of JSON Value: 1.5 to type: half"


@pytest.mark.parametrize("size", ["", "=", "=="])
def test_base64_needs_no_padding(size: str) -> None:
    value = base64.b64encode(b"\xff\x00" + b"z" * (2 - len(size))).decode()
    expected = base64.b64decode(value)
    for text in (value, value.rstrip("=")):
        assert read({"instances": [{"b64": text}, "plain"]})["text"].tolist() == [expected, b"plain"]


def test_not_a_number_and_infinity_are_numbers() -> None:
    array = read(b'{"inputs": [NaN, Infinity, -Infinity, 1.5]}', x="float")["x"]
    np.testing.assert_array_equal(array, np.array([np.nan, np.inf, -np.inf, 1.5], np.float32))


@given(st.lists(st.text(), min_size=1))
def test_any_texts_arrive_as_their_bytes_in_both_forms(texts: list[str]) -> None:
    for form in ({"instances": texts}, {"inputs": texts}, {"instances": [{"text": text} for text in texts]}):
        assert read(form)["text"].tolist() == [text.encode() for text in texts]


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=width, max_size=width), min_size=1)
    )
)
def test_numbers_in_lists_keep_shape_and_value(rows: list[list[int]]) -> None:
    np.testing.assert_array_equal(read({"inputs": rows}, x="int32")["x"], np.array(rows, np.int32))
    np.testing.assert_array_equal(read({"instances": rows}, x="int64")["x"], np.array(rows, np.int64))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_any_value_is_read_or_refused_cleanly(value: object) -> None:
    for dtype in ("string", "int32", "uint8", "int64", "uint64", "float", "double", "bool"):
        for form in ("inputs", "instances"):
            try:
                read({form: value}, x=dtype)
            except ServingError as error:
                assert error.code is Code.INVALID_ARGUMENT


OUTPUTS = {
    "float": np.array([[0.1, 2], [-3.5, np.nan]], np.float32),
    "whole": np.array([[[1], [2]], [[3], [4]]], np.int64),
    "flag": np.array([True, False]),
    "text": np.array([b'a"\n', "é\x01".encode()], dtype=object),
    "raw_bytes": np.array([b"\xff", b""], dtype=object),
    "half": np.array([0.5, 1], np.float16),
    "none": np.zeros((2, 0, 3), np.float32),
}


def test_outputs_of_every_type_are_written_in_both_forms() -> None:
    rows = json.loads(tensors_to_rows(OUTPUTS))["predictions"]
    assert rows[0] == {
        "float": [0.1, 2.0], "whole": [[1], [2]], "flag": True, "text": 'a"\n', "raw_bytes": {"b64": "/w=="},
        "half": 0.5, "none": [],
    }  # fmt: skip
    columns = json.loads(tensors_to_columns(OUTPUTS))["outputs"]
    assert columns["whole"] == OUTPUTS["whole"].tolist()
    assert columns["raw_bytes"] == [{"b64": "/w=="}, {"b64": ""}]
    assert columns["none"] == [[], []]
    assert [row["text"] for row in rows] == columns["text"]


def test_scalars_and_unequal_batches_cannot_be_rows() -> None:
    with pytest.raises(ServingError, match="Tensor name: a has no shape information "):
        tensors_to_rows({"a": np.float32(1)})  # type: ignore[dict-item]
    with pytest.raises(ServingError, match="Tensor name: b has inconsistent batch size: 2 expecting: 1"):
        tensors_to_rows({"a": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)})
    assert json.loads(tensors_to_columns({"a": np.array(1, np.int32)})) == {"outputs": 1}
