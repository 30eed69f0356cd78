"""Messages carry arrays as TensorFlow itself packs and reads them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from toolkit.server.requests import wire
from toolkit.server.requests.status import ServingError

ARRAYS = [
    np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32),
    np.array([1e300], np.float64),
    np.array([[-1, 2**31 - 1]], np.int32),
    np.array([-(2**63), 5], np.int64),
    np.array([-3, 4], np.int8),
    np.array([3, 250], np.uint8),
    np.array([7], np.uint16),
    np.array([2**32 - 1], np.uint32),
    np.array([2**64 - 1], np.uint64),
    np.array([[True], [False]]),
    np.array([0.5, 65504], np.float16),
    np.array([[b"\xff\x00", b""]], dtype=object),
    np.zeros((0, 3), np.float32),
    np.array(3.0, np.float32),
    np.array([1 + 2j, -3j], np.complex64),
    np.array([[1e300j]], np.complex128),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
@pytest.mark.parametrize("as_content", [False, True])
def test_encoded_arrays_are_what_tensorflow_reads(array: np.ndarray, as_content: bool) -> None:
    number = types_pb2.DT_STRING if array.dtype.kind == "O" else tf.as_dtype(array.dtype).as_datatype_enum
    proto = tensor_pb2.TensorProto.FromString(wire.encode(array, number, as_content=as_content))
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    np.testing.assert_array_equal(wire.decode("x", proto), array)
    assert bool(proto.tensor_content) == (as_content and array.dtype.kind != "O" and array.size > 0)


def test_strings_in_tensor_content_are_read() -> None:
    texts = [b"ab", b"", b"x" * 300]
    content = bytes([2, 0, 0xAC, 0x02]) + b"".join(texts)
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=content)
    proto.tensor_shape.dim.add(size=3)
    assert wire.decode("x", proto).tolist() == texts


@given(st.integers(0, 6), st.lists(st.integers(-5, 5), max_size=8))
def test_missing_values_repeat_the_last_and_surplus_ones_are_cut(size: int, values: list[int]) -> None:
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT32, int_val=values)
    proto.tensor_shape.dim.add(size=size)
    last = values[-1] if values else 0
    assert wire.decode("x", proto).tolist() == (values + [last] * size)[:size]
    texts = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[str(v).encode() for v in values])
    texts.tensor_shape.dim.add(size=size)
    filler = str(last).encode() if values else b""
    assert wire.decode("x", texts).tolist() == ([str(v).encode() for v in values] + [filler] * size)[:size]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("dtype: DT_FLOAT tensor_shape { unknown_rank: true } float_val: 1", ()),
        ("dtype: DT_STRING tensor_shape { dim { size: 2 } dim { } unknown_rank: true } string_val: 'a'", (2, 0)),
        ("dtype: DT_HALF tensor_shape { dim { size: 2 } dim { } } tensor_content: 'abc'", (2, 0)),
        ("dtype: DT_QINT8 tensor_shape { dim { size: 2 } } int_val: 3", (2,)),
        ("dtype: DT_COMPLEX64 tensor_shape { dim { size: 2 } } scomplex_val: 1 scomplex_val: 2 scomplex_val: 3", (2,)),
    ],
)
def test_shapes_of_unknown_rank_and_contents_of_nothing_are_read_as_tensorflow_does(
    text: str, shape: tuple[int, ...]
) -> None:
    array = wire.decode("x", text_format.Parse(text, tensor_pb2.TensorProto()))
    assert array.shape == shape


@pytest.mark.parametrize(
    ("dtype", "values", "most"),
    [
        ("DT_STRING", "", 8),
        ("DT_STRING", "string_val: 'text'", 14),
        ("DT_STRING", "string_val: ''", 10),
        ("DT_UINT8", "int_val: 1", wire.MAX_FILLED),
        ("DT_DOUBLE", "", wire.MAX_FILLED // 8),
        ("DT_COMPLEX128", "", wire.MAX_FILLED // 16),
    ],
)
def test_a_few_bytes_do_not_announce_more_than_a_bound(dtype: str, values: str, most: int) -> None:
    def decoded(size: int) -> np.ndarray:
        text = f"dtype: {dtype} tensor_shape {{ dim {{ size: {size} }} }} {values}"
        return wire.decode("x", text_format.Parse(text, tensor_pb2.TensorProto()))

    assert decoded(most).shape == (most,)
    for size in (most + 1, 1 << 20 if dtype == "DT_STRING" else 1 << 40):
        with pytest.raises(ServingError, match="tensor parsing error: x"):
            decoded(size)


@pytest.mark.parametrize(
    "text",
    [
        "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: 'abc'",
        "dtype: DT_STRING tensor_shape { dim { size: 2 } } tensor_content: '\\377'",
        "dtype: DT_FLOAT tensor_shape { dim { size: 4000000000 } dim { size: 4000000000 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: 4000000000 } } float_val: 1",
        "dtype: DT_RESOURCE tensor_shape { }",
        "dtype: 999 tensor_shape { }",
    ],
)
def test_tensors_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        wire.decode("x", text_format.Parse(text, tensor_pb2.TensorProto()))


@given(st.binary(max_size=60))
def test_any_message_that_parses_is_decoded_or_refused(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        proto = tensor_pb2.TensorProto.FromString(data)
    except DecodeError:
        return
    try:
        wire.decode("x", proto)
    except ServingError as error:
        assert error.message == "tensor parsing error: x"  # noqa: PT017 - an answer is right too


def test_hand_written_response_is_the_message() -> None:
    outputs = {"a" * 200: np.ones((3, 100), np.float32), "b": np.array([b"x"], dtype=object)}
    encoded = {
        "a" * 200: wire.encode(outputs["a" * 200], types_pb2.DT_FLOAT),
        "b": wire.encode(outputs["b"], types_pb2.DT_STRING),
    }
    spec = predict_pb2.PredictResponse()
    spec.model_spec.name = "m"
    message = predict_pb2.PredictResponse.FromString(
        wire.predict_response(encoded, spec.model_spec.SerializeToString())
    )
    assert message.model_spec.name == "m"
    assert message.outputs.keys() == outputs.keys()
    np.testing.assert_array_equal(tf.make_ndarray(message.outputs["a" * 200]), outputs["a" * 200])
