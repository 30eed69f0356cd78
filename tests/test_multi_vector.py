"""The whole way of a model of many vectors a text: exported, proved, served, asked over gRPC and REST."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
import pytest
from click.testing import CliRunner
from marks import long
from multi_vector_support import DIM, multi_vector_encoder
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from serving_support import address, counted, served
from support import TEXTS, largest_difference

from toolkit.artifact.session import Artifact
from toolkit.cli import cli
from toolkit.client import AsyncClient, Client, Split
from toolkit.client.bulk import Inputs, Place, Shard, embed_folder
from toolkit.convert import Export, export
from toolkit.errors import InputError, SignatureError

ROWS = [*TEXTS, "?! ...", "one more text"]


@pytest.fixture(scope="module")
def source(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    options: dict[str, Any] = {"query_expansion": {"strategy": "fixed", "length": 20}, "document_length": 30}
    multi_vector_encoder(tiny_bert, **options).save(str(folder))
    return folder


@pytest.fixture(scope="module")
def original(source: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(source), device="cpu")


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(source, tmp_path_factory.mktemp("models"), "m", tokenizer_sample=0.001)


@pytest.fixture(scope="module", params=["alone", *long("batched")])
def server(exported: Export, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``batched``: by the server itself, which takes outputs with a row for each text alone."""
    batching = request.param == "batched"
    with served(exported.path, tmp_path_factory.mktemp("served"), batching=batching, warmed=True) as running:
        running.batches = batching
        yield running


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "m", split=Split(rows=4)) as made:
        yield made


def assert_equal(ours: Any, theirs: Any) -> None:
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    assert largest_difference(np.concatenate(ours), np.concatenate(theirs)) < 1e-5


def test_the_proof_covers_every_signature(exported: Export) -> None:
    assert exported.report is not None
    stages = {figure.stage for figure in exported.report.stages}
    assert stages >= {item.name for item in exported.spec.signatures}
    assert stages >= {"query: hidden state", "document: 1_dense", "text: 2_normalize"}
    assert exported.report.token_ids_equal
    assert exported.report.max_abs <= 1e-5
    provenance = json.loads((exported.path / "assets.extra" / "provenance.json").read_text())
    assert provenance["task"] == "multi_vector"


def test_vectors_served_are_the_originals(client: Client, server: Any, original: MultiVectorEncoder) -> None:
    if not server.batches:
        assert_equal(client.multi_vector_query(ROWS), original.encode_query(ROWS, convert_to_numpy=True))
        assert_equal(client.multi_vector_document(ROWS), original.encode_document(ROWS, convert_to_numpy=True))
        assert_equal(client.multi_vector(ROWS), original.encode(ROWS, convert_to_numpy=True))
    answer = client.predict({"text": ROWS}, signature="multi_vector_document_padded")
    rows = [values[mask.astype(bool)] for values, mask in zip(answer["values"], answer["mask"], strict=True)]
    assert_equal(rows, original.encode_document(ROWS, convert_to_numpy=True))


def test_the_async_client_and_the_command_get_the_same(url: str, server: Any, original: MultiVectorEncoder) -> None:
    async def ask() -> Any:
        async with AsyncClient(url, "m", split=Split(rows=2)) as made:
            return await asyncio.gather(made.multi_vector_query(ROWS), made.multi_vector_document(ROWS))

    if server.batches:  # rows, which ragged answers are not
        return
    queries, documents = asyncio.run(ask())
    assert_equal(queries, original.encode_query(ROWS, convert_to_numpy=True))
    exact = original.encode_document(ROWS, convert_to_numpy=True)
    assert_equal(documents, exact)
    chosen = ["--url", url, "--model", "m", "--signature", "multi_vector_document"]
    result = CliRunner().invoke(cli, ["embed", *chosen, *ROWS[:2]])
    assert result.exit_code == 0, result.output
    rows = [np.array(json.loads(line)["values"]) for line in result.stdout.splitlines()]
    assert_equal(rows, exact[:2])


def test_texts_are_counted_by_signature(client: Client, server: Any) -> None:
    name = "multi_vector_query_padded"
    before = counted(server, "m", name)
    client.predict({"text": ROWS[:3]}, signature=name)
    assert tuple(np.subtract(counted(server, "m", name), before)) == (1, 3)


def test_a_prompt_that_is_none_is_named(client: Client) -> None:
    with pytest.raises(SignatureError, match=r"no signature 'multi_vector_title'; it has: .*multi_vector_query"):
        client.multi_vector(ROWS, signature="multi_vector_title")


def test_rests_row_form_gives_each_text_its_padded_vectors(server: Any, original: MultiVectorEncoder) -> None:
    body = json.dumps({"instances": ROWS[:2]}).encode()
    address = f"http://127.0.0.1:{server.rest_port}/v1/models/m:predict"
    with urllib.request.urlopen(urllib.request.Request(address, body), timeout=60) as response:
        predictions = json.loads(response.read())["predictions"]
    rows = [np.array(item["values"])[np.array(item["mask"], bool)] for item in predictions]
    assert_equal(rows, original.encode(ROWS[:2], convert_to_numpy=True))


def test_bulk_embedding_with_the_artifact_in_the_process_writes_the_same(
    exported: Export, original: MultiVectorEncoder, tmp_path: Path
) -> None:
    lines = tmp_path / "in.txt"
    lines.write_text("".join(f"{text}\n" for text in ROWS))
    inputs, output = Inputs.of([lines]), Place.of(tmp_path / "out")
    name = "multi_vector_document"
    summary = embed_folder(Artifact.of(exported.path), inputs, output, Shard(0, 1), signature=name, part_rows=4)
    assert (summary.rows, summary.rejected) == (len(ROWS), 0)
    table = pyarrow.dataset.dataset(tmp_path / "out").to_table().sort_by("row")
    assert table.schema.field("values").type == pyarrow.list_(pyarrow.list_(pyarrow.float32(), DIM))
    found = [np.array(row, np.float32).reshape(-1, DIM) for row in table["values"].to_pylist()]
    assert_equal(found, original.encode_document(ROWS, convert_to_numpy=True))


def test_inspect_says_what_the_signatures_are(exported: Export) -> None:
    shown = CliRunner(env={"COLUMNS": "250"}).invoke(cli, ["inspect", str(exported.path)]).stdout
    assert "a vector for each token of a query, ragged, prompt '[Q] '" in shown
    assert "row_splits int32 [?]" in shown


@pytest.mark.long
def test_a_model_that_pools_is_exported_proved_and_served(tiny_bert: Path, tmp_path: Path) -> None:
    model = multi_vector_encoder(tiny_bert, HierarchicalTokenPooling(2.0))
    with pytest.raises(InputError, match="precision 'bfloat16': it pools vectors"):
        export(model, tmp_path / "lower", "m", precision="bfloat16")
    exported = export(model, tmp_path / "models", "m", tokenizer_sample=0.001)
    assert exported.report is not None
    assert exported.report.passed
    names = {item.name for item in exported.spec.signatures if "query" not in item.name}
    assert {item.signature for item in exported.report.pooled} == names
    with (
        served(exported.path, tmp_path / "served", batching=False, warmed=True) as running,
        Client(address(running, "grpc"), "m") as made,
    ):
        assert_equal(made.multi_vector_document(ROWS), model.encode_document(ROWS, convert_to_numpy=True))
        assert_equal(made.multi_vector_query(ROWS), model.encode_query(ROWS, convert_to_numpy=True))
