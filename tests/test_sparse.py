"""The whole way of sparse vectors: exported, proved, inspected, served, asked over gRPC and REST, written in bulk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from marks import long
from sentence_transformers import SparseEncoder
from serving_support import address, counted, served
from sparse_support import inference_free, save_masked_bert
from support import TEXTS, largest_difference

from toolkit.artifact.savedmodel import read_provenance
from toolkit.artifact.session import Artifact
from toolkit.cli import cli
from toolkit.client import AsyncClient, Client, Split
from toolkit.client.bulk import Inputs, Place, Shard, Source, embed_file, embed_folder
from toolkit.convert import export
from toolkit.errors import InputError, SignatureError
from toolkit.proof.check import check


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SparseEncoder:
    return inference_free(save_masked_bert(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def exported(model: SparseEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model.save(str(folder / "source"))
    arguments = ["export", str(folder / "source"), str(folder), "--name", "m", "--tokenizer-sample", "0.01"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "m" / "1"


@pytest.fixture(scope="module", params=["alone", *long("rows")])
def server(exported: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``rows``: it batches requests and takes outputs with a row for each text alone; ``form`` is to be asked."""
    folder = tmp_path_factory.mktemp("served")
    with served(exported, folder, batching=request.param == "rows", warmed=True) as running:
        running.form = "_padded" if request.param == "rows" else ""
        yield running


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "m", split=Split(rows=3)) as made:
        yield made


def original(model: SparseEncoder, ask: str) -> Any:
    return getattr(model, ask)(list(TEXTS), convert_to_sparse_tensor=False).numpy()


def test_the_proof_covers_every_signature(exported: Path) -> None:
    provenance = read_provenance(exported)
    assert provenance is not None
    assert provenance["task"] == "sparse"
    names = {item["name"] for item in provenance["sparse_signatures"]}
    found = provenance["check"]
    assert found["passed"]
    assert {item["signature"] for item in found["sparse"]} == names
    assert {item["stage"] for item in found["stages"]} == {"hidden state", *names}
    active, off = (sum(item[key] for item in found["sparse"]) for key in ("active", "off"))
    assert active > 100_000
    assert off < active / 10_000


@pytest.mark.long
def test_a_model_without_an_encoder_is_exported_proved_and_served(model: SparseEncoder, tmp_path: Path) -> None:
    alone = SparseEncoder(modules=[model[0].sub_modules["query"][0]], device="cpu", max_active_dims=3)
    found = export(alone, tmp_path / "models", "m", tokenizer_sample=0.01)
    assert found.report is not None
    assert found.report.passed
    assert {item.signature for item in found.report.sparse} == {"serving_default"} | {
        f"sparse{form}" for form in ("", "_padded", "_dense")
    }
    with served(found.path, tmp_path / "served", batching=False, warmed=True) as running:
        for scheme, form in (("grpc", ""), ("http", "_padded")):
            with Client(address(running, scheme), "m", split=Split(rows=3)) as made:
                answer = made.sparse(TEXTS, signature=f"sparse{form}").csr().toarray()
                assert largest_difference(answer, original(alone, "encode")) < 1e-6
    shown = CliRunner(env={"COLUMNS": "250"}).invoke(cli, ["inspect", str(found.path)])
    assert shown.exit_code == 0, shown.output
    with pytest.raises(InputError, match="precision 'int8': static has no products"):
        export(alone, tmp_path / "models", "m", precision="int8")


@pytest.mark.long
def test_check_finds_another_model(exported: Path, model: SparseEncoder, tmp_path: Path) -> None:
    other = inference_free(save_masked_bert(tmp_path, hidden_act="relu"))
    report = check(exported, other, texts=["hello world", "short"])
    assert not report.passed
    assert report.divergence is not None
    assert report.divergence.stage == "hidden state"


def test_inspect_says_what_the_signatures_are(exported: Path) -> None:
    shown = CliRunner(env={"COLUMNS": "250"}).invoke(cli, ["inspect", str(exported)]).stdout
    assert "no prompt, a weight for each token, no encoder, padded with index 0 and value 0" in shown
    assert "row_splits int32 [?]" in shown
    assert "sparse vectors, token ids identical" in shown


def test_the_client_makes_arrays_of_scipy(server: Any, client: Client, model: SparseEncoder) -> None:
    for name, ask in (("sparse", "encode"), ("sparse_query", "encode_query"), ("sparse_query_padded", "encode_query")):
        found = client.sparse(TEXTS, signature=name.removesuffix(server.form) + server.form)
        exact = original(model, ask)
        assert (found.indices.dtype, found.values.dtype) == (np.int32, np.float32)
        assert found.csr().shape == exact.shape
        assert largest_difference(found.csr().toarray(), exact) < 1e-5
        indices, values = next(iter(found))
        assert np.array_equal(indices, np.flatnonzero(exact[0]))
        assert largest_difference(values, exact[0][indices]) < 1e-5
    nothing = client.sparse([], signature="sparse_padded")
    assert nothing.csr().shape == (0, exact.shape[1])


def test_a_dense_vector_is_an_embedding_to_the_client(client: Client, model: SparseEncoder) -> None:
    assert largest_difference(client.embed(TEXTS, signature="sparse_dense"), original(model, "encode")) < 1e-5
    with pytest.raises(SignatureError, match=r"'sparse_dense' gives no sparse vectors .*embedding float32"):
        client.sparse(TEXTS, signature="sparse_dense")
    with pytest.raises(SignatureError, match=r"no signature 'sparse_none'; it has: serving_default, sparse,"):
        client.sparse(TEXTS, signature="sparse_none")


def test_texts_are_counted_by_signature(server: Any, client: Client) -> None:
    before = counted(server, "m", "sparse_query_padded")
    client.sparse(TEXTS[:3], signature="sparse_query_padded")
    assert tuple(np.subtract(counted(server, "m", "sparse_query_padded"), before)) == (1, 3)


def test_the_async_client_gives_the_same(server: Any, client: Client) -> None:
    async def ask() -> Any:
        async with AsyncClient(address(server, "grpc"), "m", split=Split(rows=2)) as made:
            return await made.sparse(TEXTS, signature=f"sparse{server.form}")

    expected = client.sparse(TEXTS, signature="sparse_padded").csr().toarray()
    assert largest_difference(asyncio.run(ask()).csr().toarray(), expected) < 1e-5


def test_bulk_writes_lists(server: Any, client: Client, tmp_path: Path) -> None:
    expected = client.sparse(TEXTS, signature="sparse_padded")
    source = Source(None, "txt", texts=TEXTS)
    for signature in {f"sparse{server.form}", "sparse_padded"}:
        for suffix in ("parquet", "jsonl"):
            embed_file(client, source, tmp_path / f"{signature}.{suffix}", signature=signature)
        table = pyarrow.parquet.read_table(tmp_path / f"{signature}.parquet")
        assert table.column_names == ["row", "text", "indices", "values"]
        assert table.schema.field("indices").type == pyarrow.list_(pyarrow.int32())
        assert table.schema.field("values").type == pyarrow.list_(pyarrow.float32())
        lines = [json.loads(line) for line in (tmp_path / f"{signature}.jsonl").read_text().splitlines()]
        for row, (indices, values) in enumerate(expected):
            for found in (table.slice(row, 1).to_pylist()[0], lines[row]):
                assert found["indices"] == indices.tolist()
                assert largest_difference(found["values"], values) < 1e-5
    with pytest.raises(InputError, match=r"'sparse' gives a text a sparse vector, for which there is no place in .npy"):
        embed_file(client, source, tmp_path / "x.npy", signature="sparse")
    (tmp_path / "empty.txt").touch()
    empty = Source.of(tmp_path / "empty.txt")
    nothing = embed_file(client, empty, tmp_path / "nothing.parquet", signature="sparse")
    assert pyarrow.parquet.read_schema(nothing.target).names == ["row", "text", "indices", "values"]


def test_the_command_prints_and_writes_them(server: Any, tmp_path: Path) -> None:
    arguments = ["embed", "--url", address(server, "grpc"), "--model", "m", "--signature", f"sparse{server.form}"]
    printed = CliRunner().invoke(cli, [*arguments, "hello world"]).stdout
    target = tmp_path / "x.parquet"
    assert CliRunner().invoke(cli, [*arguments, "--output", str(target), "hello world"]).exit_code == 0
    found = pyarrow.parquet.read_table(target).to_pylist()[0]
    assert json.loads(printed)["indices"] == found["indices"]
    assert found["values"]


def test_workers_with_the_artifact_write_the_same(exported: Path, model: SparseEncoder, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hello world\nshort\n")
    inputs, output = Inputs.of([tmp_path / "in.txt"]), Place.of(tmp_path / "out")
    embed_folder(Artifact.of(exported), inputs, output, Shard.of("0/1"), signature="sparse_query")
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table.schema.field("values").type == pyarrow.list_(pyarrow.float32())
    exact = original(model, "encode_query")[0]
    assert table["indices"].to_pylist()[0] == np.flatnonzero(exact).tolist()
