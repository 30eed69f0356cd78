"""The whole way of a model's further signatures: exported, proved, served, asked over gRPC and REST."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import tensorflow as tf
from click.testing import CliRunner
from marks import long
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import quantize_embeddings
from serving_support import served
from support import TEXTS, largest_difference, sentence_transformer
from tensorflow_serving.apis import prediction_log_pb2

from toolkit.artifact.savedmodel import WARMUP
from toolkit.cli import cli
from toolkit.client import Client
from toolkit.client.bulk import Source, embed_file
from toolkit.convert import Export, export


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    """Prompts, of which pooling leaves out the tokens; normalized."""
    made = sentence_transformer(tiny_bert, Normalize())
    made[1].include_prompt = False
    made.prompts |= {"query": "search for this: ", "document": "document: "}
    return made


@pytest.fixture(scope="module")
def exported(model: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("models")
    further: dict[str, Any] = {"prompts": ["query"], "dims": [12], "quantize": ["int8"]}
    return export(model, folder, "m", tokenizer_sample=0.01, prompt_name="document", **further)


@pytest.fixture(scope="module", params=["alone", *long("batched")])
def server(exported: Export, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("served")
    with served(exported.path, folder, batching=request.param == "batched") as running:
        yield running


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "m") as made:
        yield made


def test_the_proof_covers_every_signature(exported: Export) -> None:
    assert exported.report is not None
    stages = {figure.stage for figure in exported.report.stages}
    assert stages >= {"embed_query", "embedding_12", "embed_query_12"}
    figures = exported.report.quantized
    assert stages | {figure.signature for figure in figures} >= {item.name for item in exported.spec.texts[1:]}
    assert len(figures) == 4
    values, off = (sum(getattr(figure, name) for figure in figures) for name in ("values", "off"))
    assert off < values / 100  # of a step, rounding is a thousandth


def test_queries_and_documents_equal_the_originals(client: Client, model: SentenceTransformer) -> None:
    texts = list(TEXTS)
    assert largest_difference(client.embed_query(texts), model.encode_query(texts)) < 1e-5
    assert largest_difference(client.embed(texts), model.encode_document(texts)) < 1e-5
    assert largest_difference(client.embed_query(texts), client.embed(texts)) > 1e-2


def test_cut_and_quantized_embeddings_equal_the_originals(
    client: Client, model: SentenceTransformer, exported: Export
) -> None:
    query: Any = model.encode_query(list(TEXTS), truncate_dim=12, normalize_embeddings=True)
    assert largest_difference(client.embed(TEXTS, signature="embed_query_12"), query) < 1e-5
    ranges = np.load(exported.path / "assets.extra" / "ranges_12.npy")
    assert (ranges.shape, ranges.dtype) == ((2, 12), np.float32)
    steps = client.embed(TEXTS, signature="embed_query_12_int8")
    assert (steps.dtype, steps.shape) == (np.int8, (len(TEXTS), 12))
    exact: Any = quantize_embeddings(query, "int8", ranges)
    assert np.abs(steps.astype(int) - exact).max() <= 1  # where a float lies beside a step
    assert (steps != exact).mean() < 0.05
    empty = client.embed([], signature="embed_query_12_int8")
    assert (empty.dtype, empty.shape) == (np.int8, (0, 12))


def test_bulk_writes_quantized_columns(client: Client, tmp_path: Path) -> None:
    expected = client.embed(TEXTS, signature="embed_query_12_int8")
    source = Source(None, "txt", texts=TEXTS)
    for suffix in ("npy", "safetensors", "parquet", "jsonl"):
        embed_file(client, source, tmp_path / f"x.{suffix}", signature="embed_query_12_int8")
    written = {
        "npy": np.load(tmp_path / "x.npy"),
        "safetensors": safetensors.numpy.load_file(tmp_path / "x.safetensors")["embedding"],
        "parquet": pyarrow.parquet.read_table(tmp_path / "x.parquet")["embedding"].combine_chunks(),
        "jsonl": [json.loads(line)["embedding"] for line in (tmp_path / "x.jsonl").read_text().splitlines()],
    }
    assert written["parquet"].type == pyarrow.list_(pyarrow.int8(), expected.shape[1])
    written["parquet"] = written["parquet"].to_pylist()
    assert written["npy"].dtype == written["safetensors"].dtype == np.int8
    for values in written.values():
        assert np.array_equal(values, expected)


def test_each_has_a_warm_up_request(exported: Export) -> None:
    records = tf.data.TFRecordDataset(str(exported.path / WARMUP))
    logs = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()) for raw in records]
    names = {log.predict_log.request.model_spec.signature_name for log in logs}
    assert names == {item.name for item in exported.spec.texts}


def test_inspect_says_what_they_are(exported: Export) -> None:
    shown = CliRunner(env={"COLUMNS": "250"}).invoke(cli, ["inspect", str(exported.path)]).stdout
    assert "prompt 'search for this: ', pooled without its first" in shown
    assert "the first 12 numbers, normalized, quantized to int8" in shown
