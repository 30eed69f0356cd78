"""Any number of vectors a text: asked for over gRPC and REST, sync and async, cut into requests, written in bulk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from fake_serving import FakeServing
from text_vectors import DIM, vectors

from toolkit.client import AsyncClient, Client, Split
from toolkit.client.bulk import Source, embed_file
from toolkit.client.wire.arrays import Ragged
from toolkit.errors import InputError, ResponseError, SignatureError

TEXTS = [f"text {i} " + "word " * (i % 7) for i in range(100)] + ["", "é漢😀", " ", "a\x00b c"]
EXPECTED = [vectors(text.split()) for text in TEXTS]


@pytest.fixture
def url(fake: FakeServing, protocol: str) -> str:
    return fake.grpc_url if protocol == "grpc" else fake.rest_url


def test_each_text_gets_its_own_vectors_in_order(url: str) -> None:
    seen: list[tuple[int, int]] = []
    with Client(url, "fake", split=Split(rows=7, in_flight=5)) as client:
        found = client.multi_vector(TEXTS, progress=lambda done, total: seen.append((done, total)))
        queries = client.multi_vector_query(iter(TEXTS))
    for rows in (found, queries):
        assert [row.dtype for row in rows] == [np.float32] * len(TEXTS)
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(rows, EXPECTED, strict=True))
    assert found[-2].shape == (0, DIM)
    assert found[0].flags.writeable
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_awaited_it_is_the_same(url: str) -> None:
    async def ask() -> Any:
        async with AsyncClient(url, "fake", split=Split(rows=30)) as client:
            return await client.multi_vector(TEXTS), await client.multi_vector_query(TEXTS[:3])

    found, few = asyncio.run(ask())
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, EXPECTED, strict=True))
    assert len(few) == 3


def test_no_texts_give_no_rows_and_a_model_without_the_signature_says_so(url: str) -> None:
    with Client(url, "fake") as client:
        assert client.multi_vector([]) == []
        for texts in ([], ["a"]):
            with pytest.raises(SignatureError, match=r"no signature .multi_vector_document.; it has: .*multi_vector"):
                client.multi_vector_document(texts)
        with pytest.raises(InputError, match="one str"):
            client.multi_vector("a text")


BROKEN: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, Any]]] = {
    "no output 'row_splits'": lambda values, splits: {"values": values},
    r"shapes \[3, 8\] and \[2\] for 2 rows": lambda values, splits: {"values": values, "row_splits": splits[1:]},
    r"does not split 3 vectors into 2 rows": lambda values, splits: {"values": values, "row_splits": splits + 1},
    r"does not split 2 vectors": lambda values, splits: {"values": values[:2], "row_splits": splits},
    r"does not split 3 vectors": lambda values, splits: {"values": values, "row_splits": splits[[0, 2, 1]]},
}


@pytest.mark.parametrize("message", BROKEN)
def test_an_answer_that_does_not_fit_its_rows_is_an_error(message: str) -> None:
    values, splits = np.zeros((3, DIM), np.float32), np.array([0, 1, 3], np.int32)
    assert [len(row) for row in Ragged.of({"values": values, "row_splits": splits}, 2).rows()] == [1, 2]
    with pytest.raises(ResponseError, match=message):
        Ragged.of(BROKEN[message](values, splits), 2)


def test_bulk_writes_lists_of_vectors(fake: FakeServing, tmp_path: Path) -> None:
    source = Source(None, "txt", texts=tuple(TEXTS))
    with Client(fake.grpc_url, "fake", split=Split(rows=9)) as client:
        for suffix in ("parquet", "jsonl"):
            embed_file(client, source, tmp_path / f"x.{suffix}", signature="multi_vector")
        for suffix in ("npy", "safetensors"):
            message = rf"'multi_vector' gives a text any number of vectors.*\.{suffix}; supported: \.parquet, \.jsonl"
            with pytest.raises(InputError, match=message):
                embed_file(client, source, tmp_path / f"x.{suffix}", signature="multi_vector")
        embed_file(client, Source.of(_lines(tmp_path)), tmp_path / "none.parquet", signature="multi_vector")
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table.schema.field("values").type == pyarrow.list_(pyarrow.list_(pyarrow.float32(), DIM))
    assert pyarrow.parquet.read_schema(tmp_path / "none.parquet") == table.schema
    assert table["text"].to_pylist() == TEXTS
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert sorted(lines[0]) == ["row", "text", "values"]
    for rows in (table["values"].to_pylist(), [line["values"] for line in lines]):
        found = [np.array(row, np.float32).reshape(-1, DIM) for row in rows]
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, EXPECTED, strict=True))


def _lines(folder: Path) -> Path:
    """A file without lines."""
    (folder / "none.txt").write_text("")
    return folder / "none.txt"


def test_a_column_that_the_vectors_need_cannot_be_kept(fake: FakeServing, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a", "values": 1}\n')
    source = Source.of(tmp_path / "in.jsonl", keep=("values",))
    with Client(fake.grpc_url, "fake") as client, pytest.raises(InputError, match="column values cannot be kept"):
        embed_file(client, source, tmp_path / "x.parquet", signature="multi_vector")
