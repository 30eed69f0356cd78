"""A small TF Serving without TensorFlow models: both APIs, answered from tensorflow-serving-api's own messages.

It is the client's independent peer: nothing of the client's wire layer is used here. Its embedding of a text is
`text_vectors.vector`, so that every row of an answer can be told from every other.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from text_vectors import DIM, vector

PAD = 9


def tokens(text: bytes) -> list[int]:
    return [1, *(100 + len(word) for word in text.split()), 2]


def answer(signature: str, inputs: dict[str, np.ndarray], version: int) -> dict[str, np.ndarray]:
    if signature == "numbers":
        return {"doubled": inputs["x"] * 2, "flag": inputs["x"] > 0, "small": inputs["x"].astype(np.int8)}
    texts = [bytes(item) for item in inputs["document" if signature == "rerank" else "text"]]
    embedding = np.stack([vector(text, version) for text in texts]) if texts else np.empty((0, DIM), np.float32)
    if signature in ("serving_default", "embed_query"):
        return {"embedding": embedding}
    if signature == "quantized":
        return {"embedding": (embedding * 254).astype(np.int8)}
    if signature == "detailed":
        count = np.array([len(tokens(text)) for text in texts], np.int32)
        return {"embedding": embedding, "num_tokens": count, "truncated": count > 5}
    if signature == "rerank":
        return {
            "score": np.array([len(q) * 100 - len(d) for q, d in zip(inputs["query"], texts, strict=True)], np.float32)
        }
    if signature.startswith("multi_vector"):  # of each word
        words = [text.split() for text in texts]
        values = [vector(word, version) for row in words for word in row]
        splits = np.cumsum([0, *map(len, words)]).astype(np.int32)
        return {"values": np.array(values, np.float32).reshape(-1, DIM), "row_splits": splits}
    if signature == "echo":
        return {"text": np.array(texts, object)}
    rows = [tokens(text) for text in texts]
    length = max(map(len, rows), default=0)
    ids = np.array([row + [PAD] * (length - len(row)) for row in rows], np.int32).reshape(len(rows), length)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int32).reshape(len(rows), length)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


_T, _B = ("text", "string", (-1,)), ("embedding", "float32", (-1, DIM))
SIGNATURES: dict[str, tuple[list[Any], list[Any]]] = {
    "serving_default": ([_T], [_B]),
    "embed_query": ([_T], [_B]),
    "quantized": ([_T], [("embedding", "int8", (-1, DIM))]),
    "detailed": ([_T], [_B, ("num_tokens", "int32", (-1,)), ("truncated", "bool", (-1,))]),
    "tokenize": ([_T], [(name, "int32", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids")]),
    "rerank": ([("query", "string", (-1,)), ("document", "string", (-1,))], [("score", "float32", (-1,))]),
    "echo": ([_T], [("text", "string", (-1,))]),
    "multi_vector": ([_T], [("values", "float32", (-1, DIM)), ("row_splits", "int32", (-1,))]),
    "multi_vector_query": ([_T], [("values", "float32", (-1, DIM)), ("row_splits", "int32", (-1,))]),
    "numbers": (
        [("x", "float32", (-1,))],
        [("doubled", "float32", (-1,)), ("flag", "bool", (-1,)), ("small", "int8", (-1,))],
    ),
}


class RefusedError(Exception):
    """A status to be answered instead: ``code`` of gRPC, details, trailing metadata or headers."""

    def __init__(self, code: str, details: str = "", **extra: str) -> None:
        super().__init__(code, details)
        self.code, self.details, self.extra = code, details, extra


_HTTP = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429,
         "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "UNAUTHENTICATED": 401, "INTERNAL": 500}  # fmt: skip


@dataclass
class FakeServing:
    """``before(call number, input rows)`` may raise `RefusedError` or sleep; ``seen`` is the metadata of every call."""

    model: str = "fake"
    versions: tuple[int, ...] = (1,)
    labels: dict[str, int] = field(default_factory=lambda: {"stable": 1})
    grpc_port: int = 0
    rest_port: int = 0
    host: str = "127.0.0.1"
    content: bool = False  # answer with tensor_content instead of float_val
    signatures: tuple[str, ...] = tuple(SIGNATURES)
    before: Callable[[int, int], None] = lambda call, rows: None
    credentials: Any = None
    ssl_context: Any = None
    max_receive: int = -1

    def __post_init__(self) -> None:
        self.calls = 0
        self.rows: list[int] = []
        self.seen: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._grpc = grpc.server(
            ThreadPoolExecutor(32),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", self.max_receive)],
        )
        self._grpc.add_generic_rpc_handlers((_Handler(self),))
        address = f"{self.host}:{self.grpc_port}"
        if self.credentials is None:
            self.grpc_port = self._grpc.add_insecure_port(address)
        else:
            self.grpc_port = self._grpc.add_secure_port(address, self.credentials)
        self._http = _Server((self.host, self.rest_port), type("Handler", (_Rest,), {"fake": self}))
        if self.ssl_context is not None:
            self._http.socket = self.ssl_context.wrap_socket(self._http.socket, server_side=True)
        self.rest_port = self._http.server_address[1]

    @property
    def grpc_url(self) -> str:
        return f"grpc{'s' if self.credentials else ''}://localhost:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        return f"http{'s' if self.ssl_context else ''}://localhost:{self.rest_port}"

    def start(self) -> FakeServing:
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._grpc.stop(0)
        self._http.shutdown()
        self._http.server_close()

    def version(self, name: str, version: int | None, label: str | None) -> int:
        if name != self.model or (version is not None and version not in self.versions):
            what = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RefusedError("NOT_FOUND", f"Servable not found for request: {what}")
        if label is not None and label not in self.labels:
            raise RefusedError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
        return self.labels[label] if label is not None else version if version is not None else max(self.versions)

    def predict(
        self, signature: str, inputs: dict[str, np.ndarray], version: int, headers: dict[str, str], rest: bool
    ) -> dict[str, np.ndarray]:
        rows = len(next(iter(inputs.values()))) if inputs else 0
        with self._lock:
            self.calls += 1
            call = self.calls
            self.rows.append(rows)
            self.seen.append(headers)
        self.before(call, rows)
        if signature not in self.signatures:
            if rest:
                raise RefusedError(
                    "INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def'
                )
            raise RefusedError("FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.')
        if set(inputs) != {name for name, _, _ in SIGNATURES[signature][0]}:
            raise RefusedError("INVALID_ARGUMENT", "input size does not match signature")
        return answer(signature, inputs, version)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, fake: FakeServing) -> None:
        self.fake = fake

    def service(self, details: Any) -> Any:
        kinds = {
            "/tensorflow.serving.PredictionService/Predict": (predict_pb2.PredictRequest, self.predict),
            "/tensorflow.serving.PredictionService/GetModelMetadata": (
                get_model_metadata_pb2.GetModelMetadataRequest,
                self.metadata,
            ),
            "/tensorflow.serving.ModelService/GetModelStatus": (
                get_model_status_pb2.GetModelStatusRequest,
                self.status,
            ),
        }
        if details.method not in kinds:
            return None
        kind, function = kinds[details.method]

        def call(request: Any, context: Any) -> Any:
            try:
                return function(request, {item.key: item.value for item in context.invocation_metadata()})
            except RefusedError as error:
                context.set_trailing_metadata(tuple((k.replace("_", "-"), v) for k, v in error.extra.items()))
                context.abort(getattr(grpc.StatusCode, error.code), error.details)

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=kind.FromString, response_serializer=lambda message: message.SerializeToString()
        )

    def resolve(self, spec: Any) -> int:
        return self.fake.version(
            spec.name,
            spec.version.value if spec.HasField("version") else None,
            spec.version_label if spec.HasField("version_label") else None,
        )

    def predict(self, request: Any, headers: dict[str, str]) -> Any:
        version = self.resolve(request.model_spec)
        signature = request.model_spec.signature_name or "serving_default"
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        outputs = self.fake.predict(signature, inputs, version, headers, rest=False)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature
        for name, value in outputs.items():
            if request.output_filter and name not in request.output_filter:
                continue
            proto = tf.make_tensor_proto(value.tolist(), tf.as_dtype(value.dtype), value.shape)
            if self.fake.content and value.dtype.kind != "O":
                proto = tf.make_tensor_proto(value)
            response.outputs[name].CopyFrom(proto)
        return response

    def metadata(self, request: Any, headers: dict[str, str]) -> Any:
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self.resolve(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        signatures.signature_def["__saved_model_init_op"].SetInParent()
        for name in self.fake.signatures:
            definition: meta_graph_pb2.SignatureDef = signatures.signature_def[name]
            for side, tensors in zip((definition.inputs, definition.outputs), SIGNATURES[name], strict=True):
                for alias, dtype, shape in tensors:
                    side[alias].name = f"{name}_{alias}:0"
                    side[alias].dtype = tf.as_dtype(dtype).as_datatype_enum
                    side[alias].tensor_shape.CopyFrom(tf.TensorShape([None if d < 0 else d for d in shape]).as_proto())
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request: Any, headers: dict[str, str]) -> Any:
        if request.model_spec.name != self.fake.model:
            raise RefusedError("NOT_FOUND", f"Could not find any versions of model {request.model_spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(self.fake.versions, reverse=True):
            response.model_version_status.add(version=version, state=30)
        return response


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class _Rest(BaseHTTPRequestHandler):
    fake: FakeServing
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, function: Callable[[], Any]) -> None:
        headers: dict[str, str] = {}
        try:
            status, body = 200, function()
        except RefusedError as error:
            status, body = _HTTP[error.code], {"error": error.details}
            headers = {name.replace("_", "-"): value for name, value in error.extra.items()}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _resolve(self, path: str) -> int:
        parts = path.removeprefix("/v1/models/").split("/")
        version = int(parts[2]) if parts[1:2] == ["versions"] else None
        label = parts[2] if parts[1:2] == ["labels"] else None
        return self.fake.version(parts[0], version, label)

    def _get(self) -> Any:
        if not self.path.endswith("/metadata"):
            if self.path.removeprefix("/v1/models/").split("/")[0] != self.fake.model:
                raise RefusedError("NOT_FOUND", "Could not find any versions of model")
            status = {"error_code": "OK", "error_message": ""}
            return {
                "model_version_status": [
                    {"version": str(version), "state": "AVAILABLE", "status": status}
                    for version in sorted(self.fake.versions, reverse=True)
                ]
            }
        version = self._resolve(self.path.removesuffix("/metadata"))
        names = {
            "string": "DT_STRING",
            "float32": "DT_FLOAT",
            "int32": "DT_INT32",
            "bool": "DT_BOOL",
            "int8": "DT_INT8",
        }

        def side(tensors: Any) -> Any:
            return {
                alias: {
                    "name": f"{alias}:0",
                    "dtype": names[dtype],
                    "tensor_shape": {"dim": [{"size": str(d), "name": ""} for d in shape], "unknown_rank": False},
                }
                for alias, dtype, shape in tensors
            }

        signatures = {
            name: {"inputs": side(SIGNATURES[name][0]), "outputs": side(SIGNATURES[name][1]), "method_name": ""}
            for name in self.fake.signatures
        }
        return {
            "model_spec": {"name": self.fake.model, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def _post(self) -> Any:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        version = self._resolve(self.path.removesuffix(":predict"))
        request = json.loads(body)
        kinds = {alias: dtype for ins, _ in SIGNATURES.values() for alias, dtype, _ in ins}

        def text(item: Any) -> bytes:
            return base64.b64decode(item["b64"]) if isinstance(item, dict) else item.encode()

        inputs = {
            name: np.array([text(item) for item in value], object)
            if kinds.get(name) == "string"
            else np.array(value, kinds.get(name))
            for name, value in request["inputs"].items()
        }
        headers = {name.lower(): value for name, value in self.headers.items()}
        outputs = self.fake.predict(request["signature_name"], inputs, version, headers, rest=True)
        plain = {
            name: [item.decode() for item in value] if value.dtype.kind == "O" else value.tolist()
            for name, value in outputs.items()
        }
        return {"outputs": next(iter(plain.values())) if len(plain) == 1 else plain}
