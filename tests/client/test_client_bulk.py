"""Bulk embedding from files to tables, through interruptions."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fake_serving import FakeServing, RefusedError
from safetensors.numpy import load_file
from text_vectors import DIM, vectors

from toolkit.cli import cli
from toolkit.cli.embed import progress_bar
from toolkit.client import Client, Retry, Split
from toolkit.client.bulk import Source, embed_file
from toolkit.client.bulk.sinks import Batch, NpySink
from toolkit.errors import InputError, ModelNotFoundError, RequestError, SignatureError, UnreachableError

TEXTS = [f"row {i} é" for i in range(500)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(text + "\n" for text in TEXTS))
    return path


@pytest.fixture
def embed(fake: FakeServing, protocol: str) -> Callable[..., Result]:
    url = fake.grpc_url if protocol == "grpc" else fake.rest_url

    def run(*args: Any, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(cli, ["embed", "--url", url, "--model", "fake", *map(str, args)], input=stdin)

    return run


def read(path: Path) -> Any:
    """All embeddings of a finished target, by row."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        return load_file(path)["embedding"]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
        return np.stack(table["embedding"].to_pylist()).astype(np.float32)
    return np.array([json.loads(line)["embedding"] for line in path.open()], np.float32)


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet", "safetensors"])
def test_every_output_format_holds_every_row_in_order(
    embed: Callable[..., Result], lines: Path, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"out.{suffix}"
    result = embed("--input", lines, "--output", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"500 of 500 rows embedded: {target}\n"
    assert np.array_equal(read(target), vectors(TEXTS))
    assert sorted(os.listdir(tmp_path)) == [target.name, "texts.txt"]


def write_input(path: Path, columns: dict[str, list[Any]]) -> Path:
    names = list(columns)
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        table = [names, *rows]
        path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in table))
    else:
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_input_format_with_named_columns(fake: FakeServing, tmp_path: Path, suffix: str) -> None:
    texts = ["a, b", "two\nlines", "", "é漢"]
    source = write_input(tmp_path / f"in.{suffix}", {"id": ["w", "x", "y", "z"], "body": texts})
    target = tmp_path / "out.parquet"
    args = ["embed", "--url", fake.grpc_url, "--model", "fake", "--input", str(source), "--output", str(target)]
    result = CliRunner().invoke(cli, [*args, "--text-column", "body", "--keep", "id"])
    assert result.exit_code == 0, result.output
    table = pq.read_table(target)
    assert table.column_names == ["row", "text", "id", "embedding"]
    assert table["text"].to_pylist() == texts
    assert table["id"].to_pylist() == ["w", "x", "y", "z"]
    assert np.array_equal(read(target), vectors(texts))


def test_arguments_and_stdin_become_json_lines(embed: Callable[..., Result]) -> None:
    for result in (
        embed("text one", "é"),
        embed(stdin=b"text one\n\xc3\xa9"),
        embed("--input", "-", stdin=b"text one\n\xc3\xa9\n"),
    ):
        assert result.exit_code == 0
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert [answer["text"] for answer in answers] == ["text one", "é"]
        assert np.array_equal(np.array([a["embedding"] for a in answers], np.float32), vectors(["text one", "é"]))


def test_the_detailed_signature_adds_its_columns(embed: Callable[..., Result]) -> None:
    result = embed("--signature", "detailed", "one two three four five", "six")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(a["num_tokens"], a["truncated"]) for a in answers] == [(7, True), (3, False)]


def test_rows_that_cannot_be_embedded_go_to_the_side_file_with_the_reason(
    serve: Callable[..., FakeServing], tmp_path: Path, protocol: str
) -> None:
    fake = serve()
    whole = fake.predict

    def refuse(signature: str, inputs: dict[str, np.ndarray], *rest: Any, **more: Any) -> Any:
        if b"poison" in inputs["text"]:
            raise RefusedError("INVALID_ARGUMENT", "this text is poison")
        return whole(signature, inputs, *rest, **more)

    fake.predict = refuse  # type: ignore[method-assign]
    source = tmp_path / "in.jsonl"
    good = [f"good {i}" for i in range(20)]
    rows: list[Any] = [{"text": text} for text in good]
    rows[3:3] = [{"text": None}, {"body": "x"}, "plain", {"text": "poison"}]
    source.write_text("\n".join(json.dumps(row) for row in rows) + "\nno json\n" + json.dumps({"text": 5}) + "\n")
    target = tmp_path / "out.npy"
    url = fake.grpc_url if protocol == "grpc" else fake.rest_url
    args = ["embed", "--url", url, "--model", "fake", "--input", str(source), "--output", str(target)]
    result = CliRunner().invoke(cli, args)
    side = tmp_path / "out.npy.rejected.jsonl"
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"21 of 26 rows embedded: {target}",
        f"5 rows have no embedding; reasons: {side}",
    ]
    refused = [json.loads(line) for line in side.open()]
    assert [item["row"] for item in refused] == [3, 4, 6, 24, 25]
    assert [item["text"] for item in refused] == [None, None, "poison", None, None]
    assert "is null" in refused[0]["reason"]
    assert "no 'text'" in refused[1]["reason"]
    assert "this text is poison" in refused[2]["reason"]
    assert "not JSON" in refused[3]["reason"]
    assert "type int" in refused[4]["reason"]
    found = np.load(target)
    assert np.isnan(found[[3, 4, 6, 24, 25]]).all()
    assert np.array_equal(found[[0, 1, 2, 5, *range(7, 24)]], vectors([*good[:3], "plain", *good[3:]]))


def test_lines_that_are_no_utf8_are_rejected_alone(embed: Callable[..., Result], tmp_path: Path) -> None:
    for suffix, head in ((".txt", b""), (".csv", b"text\n")):
        source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}.npy"
        source.write_bytes(head + b"one\n\xff\xfe\nthree\n")
        assert embed("--input", source, "--output", target).exit_code == 2
        found = np.load(target)
        assert np.isnan(found[1]).all()
        assert np.array_equal(found[[0, 2]], vectors(["one", "three"]))


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet", "safetensors"])
def test_a_run_stopped_at_any_batch_is_continued_to_the_same_result(
    serve: Callable[..., FakeServing], lines: Path, tmp_path: Path, suffix: str
) -> None:
    fake = serve()
    target = tmp_path / f"out.{suffix}"
    with Client(fake.grpc_url, "fake", split=Split(rows=16, in_flight=3)) as client:
        stops = 0

        class StopError(BaseException):
            pass

        def stopping(limit: int) -> Callable[[int], None]:
            def progress(rows: int) -> None:
                if rows >= limit:
                    raise StopError

            return progress

        for limit in (1, 100, 333):
            with pytest.raises(StopError):
                embed_file(client, Source.of(lines), target, resume=True, progress=stopping(limit))
            stops += 1
            assert not target.exists()
        with pytest.raises(InputError, match="holds an unfinished run"):
            embed_file(client, Source.of(lines), target)
        sent = sum(fake.rows)
        summary = embed_file(client, Source.of(lines), target, resume=True)
        assert (summary.rows, summary.rejected, stops) == (500, 0, 3)
        assert sum(fake.rows) - sent < 400
        assert np.array_equal(read(target), vectors(TEXTS))
        assert embed_file(client, Source.of(lines), target, resume=True).already_done
        with pytest.raises(InputError, match="exists already"):
            embed_file(client, Source.of(lines), target)


def test_an_interrupt_at_the_command_line_says_how_to_continue(
    serve: Callable[..., FakeServing], lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, target = serve(), tmp_path / "out.npy"
    args = ["embed", "--url", fake.grpc_url, "--model", "fake", "--input", str(lines), "--output", str(target)]
    args += ["--rows", "256"]
    take = Client.pieces

    def interrupted(self: Client, job: Any) -> Any:
        pieces = take(self, job)
        yield next(pieces)
        if job.splittable:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Client, "pieces", interrupted)
        result = CliRunner().invoke(cli, args)
    assert result.exit_code == 1  # click's own; the entry point turns it into 130
    assert f"interrupted; the same command with --resume continues ({target}.partial)" in result.stderr
    state = json.loads((tmp_path / "out.npy.partial/state.json").read_text())
    assert state["progress"]["rows"] == 256
    assert CliRunner().invoke(cli, [*args, "--resume"]).exit_code == 0
    assert np.array_equal(np.load(target), vectors(TEXTS))


@pytest.fixture
def stopped(serve: Callable[..., FakeServing], lines: Path, tmp_path: Path) -> tuple[FakeServing, Path]:
    """A server, and a target whose run was stopped after some rows."""
    fake, target = serve(versions=(1, 2)), tmp_path / "out.npy"

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    with Client(fake.grpc_url, "fake", split=Split(rows=16)) as client, pytest.raises(KeyboardInterrupt):
        embed_file(client, Source.of(lines), target, progress=stop)
    return fake, target


def test_a_continued_run_keeps_to_its_model_version(stopped: tuple[FakeServing, Path], lines: Path) -> None:
    fake, target = stopped
    fake.versions = (1, 2, 3)
    with Client(fake.grpc_url, "fake", split=Split(rows=16)) as client:
        embed_file(client, Source.of(lines), target, resume=True)
    assert np.array_equal(np.load(target), vectors(TEXTS, 2))


def test_a_run_is_not_continued_with_another_input_or_another_request(
    stopped: tuple[FakeServing, Path], lines: Path, tmp_path: Path
) -> None:
    fake, target = stopped
    state = json.loads((tmp_path / "out.npy.partial/state.json").read_text())
    state["progress"].update(rows=16, digest="00")
    (tmp_path / "out.npy.partial/state.json").write_text(json.dumps(state))
    with Client(fake.grpc_url, "fake") as client:
        with pytest.raises(InputError, match="not the input of the unfinished run"):
            embed_file(client, Source.of(lines), target, resume=True)
        with pytest.raises(InputError, match="the unfinished run has signature 'serving_default', not 'detailed'"):
            embed_file(client, Source.of(lines), target, signature="detailed", resume=True)
        lines.write_text("only one\n")
        with pytest.raises(InputError, match="fewer rows than"):
            embed_file(client, Source.of(lines), target, resume=True)


def test_a_damaged_state_is_named(stopped: tuple[FakeServing, Path], lines: Path, tmp_path: Path) -> None:
    fake, target = stopped
    path = tmp_path / "out.npy.partial/state.json"
    with Client(fake.grpc_url, "fake") as client:
        for damage in ("{", "{}", '{"format": 99}', '{"format": 1, "plan": {}, "progress": {}}'):
            path.write_text(damage)
            with pytest.raises(InputError, match=r"state\.json|state format 99"):
                embed_file(client, Source.of(lines), target, resume=True)


def test_two_runs_into_one_target_exclude_each_other(fake: FakeServing, lines: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    other: list[str] = []

    def second(rows: int) -> None:
        if rows and not other:
            with Client(fake.grpc_url, "fake") as client, pytest.raises(InputError) as caught:
                embed_file(client, Source.of(lines), target, resume=True)
            other.append(str(caught.value))

    with Client(fake.grpc_url, "fake") as client:
        embed_file(client, Source.of(lines), target, progress=second)
    assert "in use by another run" in other[0]


def test_too_many_rejected_rows_end_the_run(serve: Callable[..., FakeServing], lines: Path, tmp_path: Path) -> None:
    def refuse(call: int, rows: int) -> None:
        raise RefusedError("INVALID_ARGUMENT", "no")

    fake = serve(before=refuse)
    with (
        Client(fake.grpc_url, "fake") as client,
        pytest.raises(RequestError, match=r"11 rows cannot .* the 10 allowed"),
    ):
        embed_file(client, Source.of(lines), tmp_path / "out.npy", max_rejected=10)


def test_a_full_disk_ends_the_run_and_leaves_it_resumable(
    fake: FakeServing, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, written = tmp_path / "out.npy", []
    write = NpySink.write

    def full(self: NpySink, batch: Batch) -> int:
        written.append(batch)
        position = write(self, batch)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return position

    with Client(fake.grpc_url, "fake", split=Split(rows=16)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(NpySink, "write", full)
            with pytest.raises(InputError, match="No space left on device"):
                embed_file(client, Source.of(lines), target)
        assert not target.exists()
        embed_file(client, Source.of(lines), target, resume=True)
    assert np.array_equal(np.load(target), vectors(TEXTS))


def test_a_server_that_stays_away_ends_the_run_and_leaves_it_resumable(
    serve: Callable[..., FakeServing], lines: Path, tmp_path: Path
) -> None:
    fake, target = serve(), tmp_path / "out.npy"
    with Client(fake.grpc_url, "fake", split=Split(rows=16, in_flight=2), retry=Retry(base=0.01)) as client:
        stop = lambda rows: fake.stop() if rows == 160 else None  # noqa: E731
        with pytest.raises(UnreachableError):
            embed_file(client, Source.of(lines), target, patience=0.2, progress=stop)
    again = serve()
    with Client(again.grpc_url, "fake") as client:
        embed_file(client, Source.of(lines), target, resume=True)
    assert np.array_equal(np.load(target), vectors(TEXTS))


def test_the_progress_bar_shows_rows_and_speed_on_a_terminal(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with redirect_stderr(Terminal()) as shown, progress_bar(Source.of(lines)) as report:
        for rows in (100, 250, 500):
            time.sleep(0.02)
            report(rows)
    assert "500/500" in shown.getvalue()
    assert "rows/s" in shown.getvalue()


@pytest.mark.parametrize(("suffix", "count"), [("txt", 3), ("csv", 2), ("jsonl", 3), ("parquet", 2)])
def test_rows_are_counted_for_the_time_left(tmp_path: Path, suffix: str, count: int) -> None:
    path = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": ["a", "b"]}), path)
    else:
        path.write_text("text\na\nb")
    assert Source.of(path).count() == count


def test_empty_inputs_make_empty_tables(embed: Callable[..., Result], tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    for suffix in ("npy", "safetensors", "parquet", "jsonl"):
        target = tmp_path / f"out.{suffix}"
        assert embed("--input", empty, "--output", target).exit_code == 0
        if suffix in ("npy", "safetensors"):
            assert read(target).shape == (0, DIM)
        elif suffix == "parquet":
            assert pq.read_table(target).num_rows == 0
        else:
            assert target.read_bytes() == b""


def test_what_cannot_be_read_or_written_is_named(embed: Callable[..., Result], lines: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.parquet").write_text("no parquet")
    cases: list[tuple[list[Any], type[Exception], str]] = [
        (["--input", tmp_path / "no.txt"], InputError, "is not a file"),
        (["--input", tmp_path / "t.csv"], InputError, "has no column text; it has: a, b"),
        (["--input", tmp_path / "bad.parquet"], InputError, "cannot be read as Parquet"),
        (["--input", lines, "--output", tmp_path / "x.zip"], InputError, "'zip' is not supported; supported: npy"),
        (["--input", lines, "--input-format", "xml"], InputError, "'xml' is not supported; supported: txt"),
        (["--input", lines, "--keep", "id"], InputError, "no columns to keep"),
        (["--input", lines, "some text"], InputError, "not both"),
        (["--resume", "some text"], InputError, "--resume needs --output"),
        (["--signature", "nope", "some text"], SignatureError, "no signature 'nope'"),
        (["--signature", "echo", "some text"], SignatureError, "not text to embedding"),
        (["--version", "9", "some text"], ModelNotFoundError, "9"),
        (["--ca", tmp_path / "no.pem", "some text"], InputError, "is not a file"),
    ]
    for args, kind, message in cases:
        result = embed(*args)
        assert isinstance(result.exception, kind), (args, result.exception)
        assert message in str(result.exception)
