"""The whole way: an export, served by the embedded server, asked over gRPC and REST, equals the original."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from support import MAX_LENGTH, TEXTS, largest_difference
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from toolkit.cli import cli
from toolkit.client import Client
from toolkit.server import Server, ServerOptions


@pytest.fixture(scope="module")
def server(tiny_export: Path) -> Iterator[Server]:
    with Server(ServerOptions(models_dir=tiny_export.parents[1], port=0, rest_api_port=0)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(tiny_source: Path) -> np.ndarray:
    return np.asarray(SentenceTransformer(str(tiny_source), device="cpu").encode(list(TEXTS)))


def test_embeddings_equal_encode(url: str, expected: np.ndarray) -> None:
    with Client(url, "tiny") as client:
        assert largest_difference(client.embed(TEXTS), expected) < 1e-5
        assert client.embed([]).shape == (0, 24)
        many = client.embed(list(TEXTS) * 200)
    assert largest_difference(many, np.tile(expected, (200, 1))) < 1e-5


def test_every_signature_answers_through_the_client(url: str, expected: np.ndarray) -> None:
    with Client(url, "tiny") as client:
        detailed = client.detailed(TEXTS)
        tokens = client.tokenize(TEXTS)
        embedded = client.predict(tokens, signature="embed_tokens")["embedding"]
        hidden = client.predict({"text": list(TEXTS)}, signature="token_embeddings")
    assert largest_difference(detailed.embedding, expected) < 1e-5
    assert detailed.truncated.tolist() == [count > MAX_LENGTH for count in detailed.num_tokens]
    assert detailed.truncated.tolist()[:2] == [False, False]
    assert detailed.truncated.tolist()[5] is True
    assert largest_difference(embedded, expected) < 1e-5
    assert np.array_equal(hidden["attention_mask"], tokens["attention_mask"])


def test_tensorflow_servings_own_client_gets_the_same(server: Server, expected: np.ndarray) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([text.encode() for text in TEXTS]))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert answer.model_spec.version.value == 1
    assert largest_difference(tf.make_ndarray(answer.outputs["embedding"]), expected) < 1e-5


@pytest.mark.parametrize("form", ["rows", "named rows", "columns", "base64"])
def test_plain_http_gets_the_same(server: Server, expected: np.ndarray, form: str) -> None:
    bodies: dict[str, Any] = {
        "rows": {"instances": list(TEXTS)},
        "named rows": {"instances": [{"text": text} for text in TEXTS]},
        "columns": {"inputs": {"text": list(TEXTS)}},
        "base64": {"instances": [{"b64": base64.b64encode(text.encode()).decode()} for text in TEXTS]},
    }
    address = f"http://127.0.0.1:{server.rest_port}/v1/models/tiny:predict"
    with urllib.request.urlopen(address, json.dumps(bodies[form]).encode(), timeout=30) as response:
        answer = json.load(response)
    assert largest_difference(answer["outputs" if form == "columns" else "predictions"], expected) < 1e-5


def test_broken_utf8_reads_as_replacement_characters(server: Server) -> None:
    with Client(f"grpc://127.0.0.1:{server.grpc_port}", "tiny") as client:
        broken = client.predict({"text": [b"caf\xe9 \xff\xfe", b"\xf0\x9f\x9a"]})["embedding"]
        read = client.embed([b"caf\xe9 \xff\xfe".decode("utf-8", "replace"), "\ufffd"])
    assert largest_difference(broken, read) < 2e-6


def test_the_embed_command_prints_vectors(url: str, expected: np.ndarray) -> None:
    result = CliRunner().invoke(cli, ["embed", "--url", url, "--model", "tiny", TEXTS[0], TEXTS[3]])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == [TEXTS[0], TEXTS[3]]
    assert largest_difference([row["embedding"] for row in rows], expected[[0, 3]]) < 1e-5
