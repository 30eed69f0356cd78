"""Prompts and quantized vectors over gRPC and REST, of artifacts that batch in their graph and that do not."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import quantize_embeddings
from serving_support import counted
from support import TEXTS, largest_difference, sentence_transformer

from toolkit.artifact.savedmodel import write_model
from toolkit.cli import cli
from toolkit.client import Client
from toolkit.encoder.batching_options import Batching
from toolkit.encoder.layout import Layout
from toolkit.graph.tasks.embed import EmbedSpec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.proof.ranges import calibrated_ranges
from toolkit.server import Server, ServerOptions
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

KINDS = {"uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}
Floats = dict[str, Any]


@pytest.fixture(scope="module")
def original(tiny_bert: Path) -> SentenceTransformer:
    made = sentence_transformer(tiny_bert, Normalize())
    made.prompts |= {"document": "document: "}
    return made


@pytest.fixture(scope="module")
def ranges(original: SentenceTransformer) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(original)
    return calibrated_ranges(checkpoint, EmbedSpec.read(checkpoint, Views((), (), ("uint8",))).texts, TEXTS)


@pytest.fixture(scope="module")
def server(
    original: SentenceTransformer, ranges: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Of two artifacts: ``together`` batches in its graph, ``alone`` does not."""
    models = tmp_path_factory.mktemp("models")
    spec = EmbedSpec.read(open_checkpoint(original), Views(("document",), (), tuple(KINDS)))
    for name, batching in (("together", Batching()), ("alone", None)):
        write_model(EmbedModel(spec, Layout(batching=batching), ranges=ranges), models / name / "1")
    with Server(ServerOptions(models_dir=models, port=0, rest_api_port=0)) as running:
        yield running


@pytest.mark.parametrize("model", ["together", "alone"])
def test_each_signature_answers_as_the_original(
    url: str, model: str, original: SentenceTransformer, ranges: dict[str, np.ndarray]
) -> None:
    texts = list(TEXTS)
    floats = {"embedding": original.encode(texts), "embed_document": original.encode_document(texts)}
    names = [*floats, *(f"{name}_{kind}" for name in floats for kind in KINDS)][1:]
    with Client(url, model) as client, ThreadPoolExecutor(8) as callers:  # who call at once are batched together
        answers = dict(zip(names, callers.map(lambda name: client.embed(texts, signature=name), names), strict=True))
    assert largest_difference(answers.pop("embed_document"), floats["embed_document"]) < 1e-5
    for name, answer in answers.items():
        base, kind = name.rsplit("_", 1)
        expected: Any = quantize_embeddings(floats[base], kind, ranges["ranges"] if kind == "uint8" else None)
        assert (answer.dtype, answer.shape) == (KINDS[kind], expected.shape)
        if kind == "uint8":
            assert np.abs(answer.astype(int) - expected).max() <= 1, "where a float lies beside a step"
        # the ranges were calibrated on the same texts, so that the first and the last step begin at some of the floats
        assert (answer != expected).mean() < (0.1 if kind == "uint8" else 0.02)


@pytest.mark.parametrize("model", ["together", "alone"])
def test_the_embed_command_prints_what_the_client_gets(url: str, model: str) -> None:
    for signature in ("embed_document", "embed_document_uint8", "embedding_ubinary"):
        chosen = ["--url", url, "--model", model, "--signature", signature]
        result = CliRunner().invoke(cli, ["embed", *chosen, TEXTS[0], TEXTS[3]])
        assert result.exit_code == 0, result.output
        rows = [json.loads(line)["embedding"] for line in result.stdout.splitlines()]
        with Client(url, model) as client:
            expected = client.embed([TEXTS[0], TEXTS[3]], signature=signature)
        assert largest_difference(rows, expected) < 1e-6
        assert all(type(value) is (float if expected.dtype == np.float32 else int) for row in rows for value in row)


def test_plain_http_gets_whole_numbers(server: Server) -> None:
    address = f"http://127.0.0.1:{server.rest_port}/v1/models/together:predict"
    body = json.dumps({"signature_name": "embed_document_binary", "instances": list(TEXTS)}).encode()
    with urllib.request.urlopen(address, body, timeout=30) as response:
        rows = json.load(response)["predictions"]
    with Client(f"grpc://127.0.0.1:{server.grpc_port}", "together") as client:
        assert np.array_equal(rows, client.embed(TEXTS, signature="embed_document_binary"))


def test_requests_and_rows_are_counted_by_signature(server: Server) -> None:
    names = ("embed_document", "embedding_ubinary", "serving_default")
    before = {name: counted(server, "alone", name) for name in names}
    with Client(f"grpc://127.0.0.1:{server.grpc_port}", "alone") as client:
        client.embed(TEXTS[:3], signature="embed_document")
        client.embed(TEXTS[:2], signature="embed_document")
        client.embed(TEXTS[:1], signature="embedding_ubinary")
    moved = {name: tuple(np.subtract(counted(server, "alone", name), before[name])) for name in names}
    assert moved == {"embed_document": (2, 5), "embedding_ubinary": (1, 1), "serving_default": (0, 0)}
