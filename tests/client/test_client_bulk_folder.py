"""Many files into a folder of parts: shards of one job, local and on an S3 server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fake_serving import FakeServing, RefusedError
from text_vectors import vectors

from toolkit.cli import cli
from toolkit.client.bulk import FolderSummary, Inputs, Place, Served, Shard, Source, embed_folder
from toolkit.client.bulk.machine import memory_limit
from toolkit.errors import InputError, MissingExtraError, RejectedError, ServerError, ToolkitError

TEXTS = [f"row {i} é" for i in range(100)]
ONE = Shard(0, 1)


def fill(fake: FakeServing, inputs: Sequence[Any], output: Any, shard: Shard = ONE, **options: Any) -> FolderSummary:
    reading = {name: options.pop(name) for name in ("input_format", "text_column", "keep") if name in options}
    served = Served(fake.grpc_url, "fake", options.pop("version", None))
    options = {"part_rows": 7, **options}
    return embed_folder(served, Inputs.of(inputs, **reading), Place.of(output), shard, **options)


def whole(output: Path) -> pa.Table:
    return pa.dataset.dataset(output).to_table().sort_by("row")


def found(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_pylist()).astype(np.float32)


def write(path: Path, kind: str, texts: Sequence[str], first: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [{"text": text, "id": first + i} for i, text in enumerate(texts)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=11)
    elif kind == "jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        lines = "".join(f'"{row["text"]}\r\n",{row["id"]}\r\n\r\n' for row in rows)
        path.write_bytes(b"\xef\xbb\xbf" + f"text,id\r\n{lines}".encode())
    else:
        path.write_text("".join(f"{text}\n" for text in texts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of lines: 40, 0 and 60 of `TEXTS`."""
    for name, texts in (("a", TEXTS[:40]), ("b", []), ("c", TEXTS[40:])):
        write(tmp_path / f"in/{name}.txt", "txt", texts)
    (tmp_path / "in/_hidden.bin").write_bytes(b"x")
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_spans_cut_a_file_into_the_rows_that_it_has(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"f.{kind}", kind, TEXTS)
    keep = () if kind == "txt" else ("id",)
    source = Source.of(tmp_path / f"f.{kind}", keep=keep)
    rows = list(source.rows())
    assert len(rows) == 100
    for size in (1, 7, 100, 1000):
        spans = list(source.spans(size))
        assert [span.rows for span in spans] == [size] * (100 // size) + ([100 % size] if 100 % size else [])
        assert [row for span in spans for row in source.rows(span=span)] == rows
        assert [row for span in reversed(spans) for row in reversed(list(source.rows(span=span)))] == rows[::-1]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_every_row_of_every_file_is_in_the_folder_once_for_every_reader(
    fake: FakeServing, tmp_path: Path, kind: str
) -> None:
    for name, first, last in (("a", 0, 40), ("b", 40, 100)):
        write(tmp_path / f"in/{name}.{kind}", kind, TEXTS[first:last], first)
    keep = () if kind == "txt" else ("id",)
    summary = fill(fake, [tmp_path / "in"], tmp_path / "out", keep=keep)
    assert (summary.rows, summary.rejected, summary.finished) == (100, 0, True)
    table = whole(tmp_path / "out")
    expected = [f"{text}\r\n" for text in TEXTS] if kind == "csv" else TEXTS
    assert table["row"].to_pylist() == list(range(100))
    assert table["text"].to_pylist() == expected
    assert np.array_equal(found(table), vectors(expected))
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
    if keep:
        assert table["id"].to_pylist() == [str(i) if kind == "csv" else i for i in range(100)]
    metadata = pq.read_schema(tmp_path / "out/part-00000000.parquet").metadata
    assert metadata[b"sentence-serving.version"] == b"1"
    files = f"{tmp_path}/out/*.parquet"
    assert duckdb.sql(f"select count(*), sum(row) from '{files}'").fetchall() == [(100, 4950)]
    assert polars.scan_parquet(files).select(polars.col("row").sum()).collect().item() == 4950
    assert sorted(path.name for path in (tmp_path / "out/_scratch").iterdir()) == []


def test_shards_share_a_job_and_the_last_one_finishes_it(fake: FakeServing, folder: Path, tmp_path: Path) -> None:
    # shards other than the first one join what it began, without being told
    summaries = [fill(fake, [folder], tmp_path / "out", Shard(i, 3)) for i in range(3)]
    assert [summary.finished for summary in summaries] == [False, False, True]
    assert np.array_equal(found(whole(tmp_path / "out")), vectors(TEXTS))
    assert fill(fake, [folder], tmp_path / "out", Shard(1, 3)).already_done
    with pytest.raises(InputError, match="exists already"):
        fill(fake, [folder], tmp_path / "out", Shard(0, 3))


def test_a_shard_waits_for_the_first_one_and_says_so(fake: FakeServing, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"_manifest\.json is not there after 0\.1 seconds; shard 0 writes it"):
        fill(fake, [folder], tmp_path / "out", Shard(1, 2), patience=0.1)
    assert not (tmp_path / "out").exists()


def test_a_model_that_has_no_room_is_named_and_nothing_written(fake: FakeServing, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"a worker with 1,000,000,000 MB of memory, which grpc://.* needs; this machine"
    ):
        fill(fake, [folder], tmp_path / "out", Shard(0, 1, memory=10**15))
    assert not (tmp_path / "out").exists()


def test_the_memory_of_a_container_is_what_its_cgroup_allows(tmp_path: Path) -> None:
    machine = memory_limit(tmp_path)
    assert 1 << 28 < machine < 1 << 50
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_limit(tmp_path) == 1048576
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("2097152\n")
    assert memory_limit(tmp_path) == 2097152


def test_a_shards_number_comes_from_the_job_and_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "4")
    assert Shard.of("/8", 1) == Shard(4, 8)
    assert Shard.of("2/8", 1) == Shard(2, 8)
    for text, words in (("8/8", "from 0 to 7"), ("/4", "from 0 to 3"), ("x", "expected INDEX/COUNT")):
        with pytest.raises(InputError, match=words):
            Shard.of(text, 1)
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    with pytest.raises(InputError, match="has no index"):
        Shard.of("/8", 1)


def test_a_stopped_run_is_continued_and_makes_only_what_is_missing(
    serve: Callable[..., FakeServing], folder: Path, tmp_path: Path
) -> None:
    fake, output = serve(), tmp_path / "out"

    def stop(news: Any) -> None:
        if news.rows >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(fake, [folder], output, progress=stop)
    (output / "_scratch/part-00000009.parquet.0").write_bytes(b"half")  # as a killed worker leaves it
    with pytest.raises(InputError, match="holds an unfinished run"):
        fill(fake, [folder], output)
    standing = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 7 <= len(standing) < 15
    summary = fill(fake, [folder], output, resume=True)
    assert summary.rows == 100
    assert all(path.stat().st_mtime_ns == when for path, when in standing.items())
    assert np.array_equal(found(whole(output)), vectors(TEXTS))
    assert not list((output / "_scratch").iterdir())
    with pytest.raises(InputError, match="exists already"):
        fill(fake, [folder], output)


def test_a_run_is_not_continued_with_another_input_request_or_version(
    serve: Callable[..., FakeServing], folder: Path, tmp_path: Path
) -> None:
    fake, output = serve(versions=(1, 2)), tmp_path / "out"

    def stop(news: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(fake, [folder], output, progress=stop)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"version": 1}, "the unfinished run has version 2, not 1"),
        ({"signature": "detailed"}, "has signature 'serving_default', not 'detailed'"),
        ({"part_rows": 9}, "has part_rows 7, not 9"),
    ]
    for options, words in cases:
        with pytest.raises(InputError, match=words):
            fill(fake, [folder], output, resume=True, **options)
    fake.versions = (3,)
    with pytest.raises(InputError, match="was begun with version 2 of model fake, which is not there any more"):
        fill(fake, [folder], output, resume=True)
    fake.versions = (2, 3)
    write(folder / "d.txt", "txt", ["more"])
    with pytest.raises(InputError, match=r"d\.txt is not an input of the unfinished run"):
        fill(fake, [folder], output, resume=True)
    (folder / "d.txt").rename(tmp_path / "d.txt")
    (folder / "c.txt").rename(tmp_path / "c.txt")
    with pytest.raises(InputError, match=r"c\.txt, an input of the unfinished run, is not among"):
        fill(fake, [folder], output, resume=True)
    write(folder / "c.txt", "txt", TEXTS[40:])
    with pytest.raises(InputError, match=r"c\.txt has changed since"):
        fill(fake, [folder], output, resume=True)


def test_rejected_rows_are_listed_with_their_reasons(serve: Callable[..., FakeServing], tmp_path: Path) -> None:
    fake = serve()
    answer = fake.predict

    def refuse(signature: str, inputs: dict[str, np.ndarray], *rest: Any, **more: Any) -> Any:
        if b"poison" in inputs["text"]:
            raise RefusedError("INVALID_ARGUMENT", "this text is poison")
        return answer(signature, inputs, *rest, **more)

    fake.predict = refuse  # type: ignore[method-assign]
    (tmp_path / "in.txt").write_bytes(b"one\n\xff\n" + b"two\n" * 10 + b"poison\nlast\n")
    summary = fill(fake, [tmp_path / "in.txt"], tmp_path / "out")
    assert (summary.rows, summary.rejected) == (14, 2)
    lines = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").open()]
    assert [(line["row"], line["text"]) for line in lines] == [(1, None), (12, "poison")]
    assert "not UTF-8" in lines[0]["reason"]
    assert "this text is poison" in lines[1]["reason"]
    assert whole(tmp_path / "out")["row"].to_pylist() == [0, *range(2, 12), 13]
    again = fill(fake, [tmp_path / "in.txt"], tmp_path / "out", resume=True)
    assert (again.rejected, again.already_done, str(again.side_file)) == (2, True, f"{tmp_path}/out.rejected.jsonl")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    assert fill(fake, [tmp_path / "in.txt"], tmp_path / "out").rejected == 0
    assert not (tmp_path / "out.rejected.jsonl").exists()  # the other output's
    (tmp_path / "in.txt").write_bytes(b"one\n\xff\n\xff\n")
    with pytest.raises(RejectedError, match="2 rows cannot be embedded, more than the 1 allowed"):
        fill(fake, [tmp_path / "in.txt"], tmp_path / "other", max_rejected=1)


def test_kept_json_has_one_type_in_all_parts_or_stays_json(fake: FakeServing, tmp_path: Path) -> None:
    for name, number, mixed in (("a", "1", "1"), ("b", "2.5", '"x"')):
        lines = f'{{"text": "{name}", "number": {number}, "mixed": {mixed}}}\n'
        write(tmp_path / f"in/{name}.jsonl", "txt", [])
        (tmp_path / f"in/{name}.jsonl").write_text(lines)
    fill(fake, [tmp_path / "in"], tmp_path / "out", keep=("number", "mixed"))
    table = whole(tmp_path / "out")
    assert table["number"].to_pylist() == [1.0, 2.5]
    assert table["mixed"].to_pylist() == ["1", '"x"']


def test_no_rows_at_all_make_a_readable_folder(fake: FakeServing, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert fill(fake, [tmp_path / "empty.txt"], tmp_path / "out").rows == 0
    assert whole(tmp_path / "out").column_names == ["row", "text", "embedding"]


def test_what_cannot_be_used_is_named_before_anything_is_written(
    fake: FakeServing, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    write(tmp_path / "mixed/a.txt", "txt", TEXTS)
    write(tmp_path / "mixed/b.csv", "csv", TEXTS)
    (tmp_path / "types").mkdir()
    pq.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "types/a.parquet")
    pq.write_table(pa.table({"text": ["a"], "id": ["1"]}), tmp_path / "types/b.parquet")
    pq.write_table(pa.table({"text": pa.nulls(3), "id": [1, 2, 3]}), tmp_path / "null.parquet")
    pq.write_table(pa.table({"text": pa.array([None], pa.string())}), tmp_path / "nulls.parquet")
    (tmp_path / "quote.csv").write_text('text\n"never closed\n')
    (tmp_path / "bad.zip").write_text("x")
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("mine")
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([tmp_path / "nowhere"], {}, "nowhere does not exist"),
        ([tmp_path / "none"], {}, "none holds no files"),
        ([tmp_path / "mixed"], {}, r"of one format: .*a\.txt is txt, .*b\.csv is csv"),
        ([tmp_path / "types"], {"keep": ("id",)}, r"b\.parquet: column 'id' is of type string; in .*a\.parquet"),
        ([tmp_path / "types"], {"text_column": "body"}, "has no column body; it has: text, id"),
        ([tmp_path / "null.parquet"], {}, "column 'text' holds nothing but nulls"),
        ([tmp_path / "nulls.parquet"], {}, "column 'text' holds nothing but nulls"),
        ([tmp_path / "quote.csv"], {}, "a quote is never closed"),
        ([tmp_path / "bad.zip"], {}, "'zip' is not supported"),
        ([folder, folder / "a.txt"], {}, "named more than once"),
        ([folder], {"keep": ("id",)}, "no columns to keep"),
        ([folder], {"input_format": "xml"}, "'xml' is not supported"),
        ([folder], {"part_rows": 0}, "at least 1"),
        (["nothing://bucket/x"], {}, "nothing://bucket/x: "),
    ]
    for inputs, options, words in cases:
        with pytest.raises(InputError, match=words):
            fill(fake, inputs, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists(), words
    with pytest.raises(InputError, match="there exists already"):
        fill(fake, [folder], tmp_path / "there")
    with pytest.raises(ToolkitError, match="no signature 'nope'"):
        fill(fake, [folder], tmp_path / "out", signature="nope")
    assert not (tmp_path / "out").exists()


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="bulk"):
        Place.of("s3://bucket/key")


def test_the_command_fills_a_folder_and_refuses_options_that_mean_nothing(
    fake: FakeServing, folder: Path, tmp_path: Path
) -> None:
    def run(*arguments: object) -> Any:
        start = ["embed", "--url", fake.grpc_url, "--model", "fake"]
        return CliRunner().invoke(cli, [*start, *map(str, arguments)])

    output = tmp_path / "out"
    done = run("--shard", "0/1", "--input", folder, "--output", output)
    assert (done.exit_code, done.stderr) == (0, f"100 of 100 rows embedded: {output}\n")
    again = run("--shard", "0/1", "--input", folder, "--output", output, "--resume")
    assert (again.exit_code, again.stderr) == (0, f"{output} is complete already\n")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--shard", "0/1", "--output", output, "text"), "take their texts from --input"),
        (("--shard", "0/1", "--input", folder), "need --output"),
        (("--shard", "0/1", "--engine", "ray", "--input", folder, "--output", output), "exclude each other"),
        (("--shard", "0/1", "--workers", 2, "--input", folder, "--output", output), "--workers needs --engine ray"),
        (("--ray-address", "auto", "text"), "--ray-address needs --engine ray"),
        (("--part-rows", 5, "text"), "--part-rows needs --engine ray or --shard"),
        (("--shard", "0/1", "--artifact", folder, "--input", folder, "--output", output), "exclude each other"),
        (("--input", folder, "--input", folder), "only --engine ray and --shard take several"),
    ]
    for arguments, words in cases:
        result = run(*arguments)
        assert isinstance(result.exception, InputError), (arguments, result.output)
        assert words in str(result.exception)


# ---- real servers of buckets

SERVERS = {
    "s3": ["moto.server", "-H", "127.0.0.1", "-p"],
    "gs": ["gcp_storage_emulator", "start", "--host=127.0.0.1", "--in-memory", "--default-bucket=corpus", "--port"],
}


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A server that speaks S3, or Google's API, with a bucket ``corpus``; gives the URI of a key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = tmp_path_factory.mktemp(request.param) / "log"
    command = [sys.executable, "-m", *SERVERS[request.param], address.split(":")[1]]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(address.split(":"), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, log.read_text()  # noqa: PT018
                time.sleep(0.1)
        options = f"scheme=http&endpoint_override={address}"
        if request.param == "s3":
            options += "&region=us-east-1"
            Place.of(f"s3://corpus?{options}&allow_bucket_creation=true").filesystem.create_dir("corpus")
        user = "anonymous@" if request.param == "gs" else ""
        yield lambda key: f"{request.param}://{user}{key}?{options}"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        process.kill()
        process.wait()


def test_a_bucket_is_read_and_filled_as_a_folder_is(
    fake: FakeServing, bucket: Callable[[str], str], tmp_path: Path
) -> None:
    for kind, place in (("csv", 0), ("jsonl", 1), ("parquet", 2)):
        write(tmp_path / f"f.{kind}", kind, TEXTS)
        into = Place.of(bucket(f"corpus/in{place}/f.{kind}"))
        with into.filesystem.open_output_stream(into.path) as stream:
            stream.write((tmp_path / f"f.{kind}").read_bytes())
        uri = bucket(f"corpus/out{place}")

        def stop(news: Any) -> None:
            if news.rows:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fill(fake, [bucket(f"corpus/in{place}")], uri, progress=stop, keep=("id",))
        summary = fill(fake, [bucket(f"corpus/in{place}")], uri, resume=True, keep=("id",))
        assert (summary.rows, str(summary.target)) == (100, f"{into.scheme}://corpus/out{place}")
        output = Place.of(uri)
        table = pa.dataset.dataset(output.path, filesystem=output.filesystem).to_table().sort_by("row")
        assert np.array_equal(found(table), vectors(table["text"].to_pylist()))
        assert table.num_rows == 100
        assert fill(fake, [bucket(f"corpus/in{place}")], uri, resume=True).already_done


def test_a_bucket_that_is_not_there_is_named(fake: FakeServing, bucket: Callable[[str], str], folder: Path) -> None:
    with pytest.raises(InputError, match=r"(s3|gs)://elsewhere/in (does not exist|cannot be read)"):
        fill(fake, [bucket("elsewhere/in")], bucket("corpus/no"))
    with pytest.raises(InputError, match=r"(s3|gs)://elsewhere/out cannot be"):
        fill(fake, [folder], bucket("elsewhere/out"))


def test_a_bucket_without_rights_is_named_before_anything_is_written(
    fake: FakeServing, bucket: Callable[[str], str], folder: Path, tmp_path: Path
) -> None:
    uri = bucket("corpus/in")
    if uri.startswith("gs:"):
        # the emulator lets everybody in, but who has no credentials does not get that far
        denied = ("gs://corpus/in?retry_limit_seconds=1", "gs://corpus/out?retry_limit_seconds=1")
        words = "OAuth2 access token"
    else:
        _only_known_keys(uri, True)
        denied, words = (uri, bucket("corpus/out")), "ACCESS_DENIED"
    try:
        with pytest.raises(InputError, match=rf"//corpus/in cannot be read: .*{words}"):
            fill(fake, [denied[0]], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(InputError, match=rf"//corpus/out.* cannot be read: .*{words}"):
            fill(fake, [folder], denied[1])
    finally:
        if not uri.startswith("gs:"):
            _only_known_keys(uri, False)
    assert not Place.of(bucket("corpus/out")).exists()


def _only_known_keys(uri: str, only: bool) -> None:
    """Whether the server of S3 lets nobody in whose key it has not given out itself."""
    address = uri.split("endpoint_override=")[1].split("&")[0]
    asked = urllib.request.Request(
        f"http://{address}/moto-api/reset-auth", b"0" if only else b"inf", {"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(asked).close()


def test_googles_buckets_are_given_up_on_in_a_minute_unless_the_address_says_otherwise() -> None:
    for uri, same in (
        ("gs://a/b", "gs://a/b?retry_limit_seconds=60"),
        ("gs://a/b?scheme=http", "gs://a/b?scheme=http&retry_limit_seconds=60"),
        ("gs://a/b?retry_limit_seconds=5", "gs://a/b?retry_limit_seconds=5"),
    ):
        assert Place.of(uri).filesystem == pa.fs.FileSystem.from_uri(same)[0]
    assert Place.of("gs://a/b").filesystem != pa.fs.FileSystem.from_uri("gs://a/b")[0]
