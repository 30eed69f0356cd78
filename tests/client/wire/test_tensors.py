"""The wire layer against tensorflow's own messages, and against messages that lie."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from toolkit.client.types import Spec
from toolkit.client.wire import messages
from toolkit.client.wire.tensors import GrpcCodec, encode_tensor
from toolkit.errors import InputError, ResponseError

CODEC = GrpcCodec()
FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
ARRAYS = st.sampled_from(FLOATS + INTEGERS).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), SHAPES))
TEXTS = st.lists(st.text() | st.binary(), max_size=6)


def same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes()


def decoded(proto: TensorProto | bytes) -> np.ndarray:
    """Our reading of their tensor, within an answer."""
    response = predict_pb2.PredictResponse()
    response.outputs["x"].CopyFrom(proto if isinstance(proto, TensorProto) else TensorProto())
    body = response.SerializeToString()
    if isinstance(proto, bytes):
        entry = b"\x0a\x01x\x12" + bytes([len(proto)]) + proto
        body = b"\x0a" + bytes([len(entry)]) + entry
    return CODEC.predicted(body, None)[0]["x"]


def theirs(message: messages.TensorProto) -> TensorProto:
    return TensorProto.FromString(message.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_what_we_encode_tensorflow_decodes_bit_for_bit(array: np.ndarray) -> None:
    same(tf.make_ndarray(theirs(encode_tensor(array))), array)


@settings(max_examples=200, deadline=None)
@given(ARRAYS)
def test_tensor_content_decodes_bit_for_bit(array: np.ndarray) -> None:
    same(decoded(tf.make_tensor_proto(array)), array)


@settings(max_examples=300, deadline=None)
@given(ARRAYS)
def test_repeated_values_decode_bit_for_bit(array: np.ndarray) -> None:
    same(decoded(repeated(array)), array)


def repeated(array: np.ndarray) -> TensorProto:
    """The tensor as a stock server writes it: a value field, never tensor_content."""
    proto = TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
    flat = array.ravel()
    if array.dtype == np.float16:
        proto.half_val.extend(flat.view(np.uint16).tolist())
    elif array.dtype.kind == "c":
        field = proto.scomplex_val if array.dtype == np.complex64 else proto.dcomplex_val
        field.extend(flat.view(np.float32 if array.dtype == np.complex64 else np.float64).tolist())
    else:
        fields = {"float32": "float_val", "float64": "double_val", "int64": "int64_val", "uint32": "uint32_val",
                  "uint64": "uint64_val", "bool": "bool_val"}  # fmt: skip
        getattr(proto, fields.get(array.dtype.name, "int_val")).extend(flat.tolist())
    return proto


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_strings_survive_both_ways(texts: list[str | bytes]) -> None:
    rows = [text.encode() if isinstance(text, str) else text for text in texts]
    assert tf.make_ndarray(theirs(encode_tensor(rows))).tolist() == rows
    assert decoded(tf.make_tensor_proto(rows, tf.string, [len(rows)])).tolist() == rows
    assert tf.make_ndarray(theirs(encode_tensor(np.array(texts, object)))).tolist() == rows


def test_bfloat16_becomes_the_float32_of_the_same_value() -> None:
    values = tf.constant([1.5, -3.25, 1e30, float("inf")], tf.bfloat16)
    expected = tf.cast(values, tf.float32).numpy()
    same(decoded(tf.make_tensor_proto(values.numpy())), expected)
    bits = values.numpy().view(np.uint16).tolist()
    proto = TensorProto(dtype=14, half_val=bits)
    proto.tensor_shape.dim.add(size=4)
    same(decoded(proto), expected)


def test_packed_values_in_several_blocks_and_unpacked_values_are_read() -> None:
    head = messages.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 4}]}).SerializeToString()
    values = np.array([1.5, -2.0, 3.25, 4.0], "<f4")
    blocks = b"".join(b"\x2a\x08" + values[i : i + 2].tobytes() for i in (0, 2))
    single = b"".join(b"\x2d" + values[i : i + 1].tobytes() for i in range(4))
    for body in (blocks, single):
        same(decoded(head + body), values)
        same(tf.make_ndarray(TensorProto.FromString(head + body)), values)
    head = messages.TensorProto(dtype=3, tensor_shape={"dim": [{"size": 2}]}).SerializeToString()
    same(decoded(head + b"\x38\x05\x38\x80\x01"), np.array([5, 128], np.int32))


def test_float_values_are_decoded_without_a_copy_of_their_own() -> None:
    body = response(dtype=1, tensor_shape=dims(1000), float_val=[np.arange(1000, dtype="<f4").tobytes()])
    array = CODEC.predicted(body, None)[0]["embedding"]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


def test_our_predict_request_is_theirs() -> None:
    request = CODEC.predict(Spec("m", 7, None, "s"), {"text": ["é".encode(), b""]}, ["embedding"], None)
    message = predict_pb2.PredictRequest.FromString(request.body)
    assert (message.model_spec.name, message.model_spec.version.value, message.model_spec.signature_name) == (
        "m",
        7,
        "s",
    )
    assert list(message.output_filter) == ["embedding"]
    assert tf.make_ndarray(message.inputs["text"]).tolist() == ["é".encode(), b""]
    labelled = predict_pb2.PredictRequest.FromString(CODEC.predict(Spec("m", None, "stable"), {}, [], None).body)
    assert labelled.model_spec.version_label == "stable"


def response(**tensor: object) -> bytes:
    message = messages.PredictResponse()
    message.outputs["embedding"].CopyFrom(messages.TensorProto(**tensor))
    return message.SerializeToString()


def dims(*sizes: int) -> dict[str, object]:
    return {"dim": [{"size": size} for size in sizes]}


ROW = np.ones(4, "<f4").tobytes()
HOSTILE = {
    "fewer values than the shape": response(dtype=1, tensor_shape=dims(2, 4), float_val=[ROW]),
    "more values than the shape": response(dtype=1, tensor_shape=dims(2), float_val=[ROW]),
    "values that broadcast": response(dtype=1, tensor_shape=dims(1 << 40), float_val=[ROW[:4]]),
    "no values for a huge shape": response(dtype=1, tensor_shape=dims(1 << 62, 1 << 62)),
    "a negative dimension": response(dtype=1, tensor_shape=dims(-4), float_val=[ROW]),
    "negative dimensions that multiply well": response(dtype=1, tensor_shape=dims(-2, -2), float_val=[ROW]),
    "an unknown rank": response(dtype=1, tensor_shape={"unknown_rank": True}, float_val=[ROW]),
    "more dimensions than numpy has": response(dtype=1, tensor_shape=dims(*[1] * 100), float_val=[ROW[:4]]),
    "a broken float": response(dtype=1, tensor_shape=dims(4), float_val=[ROW[:-1]]),
    "broken content": response(dtype=1, tensor_shape=dims(4), tensor_content=ROW[:-1]),
    "an unknown dtype": response(dtype=999, tensor_shape=dims(4), float_val=[ROW]),
    "a reference dtype": response(dtype=101, tensor_shape=dims(4), float_val=[ROW]),
    "values in another dtype's field": response(dtype=1, tensor_shape=dims(4), int_val=[b"\1\1\1\1"]),
    "a number cut off": response(dtype=3, tensor_shape=dims(1), int_val=[b"\x80"]),
    "a number of eleven bytes": response(dtype=3, tensor_shape=dims(1), int_val=[b"\xff" * 10 + b"\x01"]),
    "an int8 of 300": response(dtype=6, tensor_shape=dims(1), int_val=[b"\xac\x02"]),
    "a uint8 of -1": response(dtype=4, tensor_shape=dims(1), int_val=[b"\xff" * 9 + b"\x01"]),
    "strings in tensor_content": response(dtype=7, tensor_shape=dims(1), tensor_content=b"\1a"),
    "no protobuf": b"\xff\xff\xff\xff",
    "half an answer": response(dtype=1, tensor_shape=dims(4), float_val=[ROW])[:-5],
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_answer_is_a_response_error(body: bytes) -> None:
    with pytest.raises(ResponseError):
        CODEC.predicted(body, None)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_answer_cut_or_flipped_anywhere_gives_arrays_or_a_response_error(data: st.DataObject) -> None:
    body = bytearray(response(dtype=1, tensor_shape=dims(2, 4), float_val=[ROW, ROW]))
    del body[data.draw(st.integers(0, len(body))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        outputs, _ = CODEC.predicted(bytes(body), None)
    except ResponseError:
        return
    assert all(isinstance(value, np.ndarray) for value in outputs.values())


def test_metadata_reads_theirs() -> None:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    tensor = signatures.signature_def["serving_default"].outputs["embedding"]
    tensor.dtype = 1
    tensor.tensor_shape.CopyFrom(tf.TensorShape([None, 384]).as_proto())
    unknown = signatures.signature_def["serving_default"].inputs["text"]
    unknown.dtype = 7
    unknown.tensor_shape.unknown_rank = True
    signatures.signature_def["__saved_model_init_op"].SetInParent()
    message = get_model_metadata_pb2.GetModelMetadataResponse()
    message.model_spec.name, message.model_spec.version.value = "m", 3
    message.metadata["signature_def"].Pack(signatures)
    metadata = CODEC.metadata_of(message.SerializeToString())
    assert (metadata.model, metadata.version, list(metadata.signatures)) == ("m", 3, ["serving_default"])
    signature = metadata.signatures["serving_default"]
    assert str(signature.outputs["embedding"]) == "embedding float32 [?, 384]"
    assert str(signature.inputs["text"]) == "text string [?]"


def test_a_dtype_tensorflow_lacks_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="datetime64"):
        encode_tensor(np.array(["2020-01-01"], "datetime64[D]"))
    with pytest.raises(InputError, match="only str or bytes"):
        encode_tensor(np.array(["a", 1], object))
