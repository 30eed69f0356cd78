"""Bulk embedding from files to tables, through interruptions."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from decimal import Decimal
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
    again = CliRunner().invoke(cli, [*args, "--resume"])
    assert (again.exit_code, again.stderr.splitlines()) == (
        2,
        [f"{target} is complete already", f"5 rows have no embedding; reasons: {side}"],
    )
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
        for damage in ("{", "{}", '{"format": 99}', '{"format": 2, "plan": {}, "progress": {}}'):
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


# ---- inputs that would lose rows, or end in the middle


CSV_HEAD = "id,text\n" + "".join(f"{i},row {i}\n" for i in range(5))


@pytest.mark.parametrize(
    "rest",
    ['5,"never closed\n' + "".join(f"{i},row {i}\n" for i in range(6, 1000)), '5,"never closed\n6,"row 6"\n7,row 7\n'],
    ids=["to the end", "to the next quote"],
)
def test_a_quote_that_is_never_closed_is_an_error_with_its_line_and_not_the_end_of_the_rows(
    embed: Callable[..., Result], tmp_path: Path, rest: str
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.npy"
    source.write_text(CSV_HEAD + rest)
    result = embed("--input", source, "--output", target)
    assert isinstance(result.exception, InputError), result.output
    assert f"{source}: the row that begins in line 7 cannot be read" in str(result.exception)
    assert not target.exists()
    source.write_text(CSV_HEAD + '5,"closed,\nin the end"\n')
    assert embed("--input", source, "--output", target, "--resume").exit_code == 0
    assert np.array_equal(np.load(target), vectors([*(f"row {i}" for i in range(5)), "closed,\nin the end"]))


KEPT = pa.table(
    {
        "text": ["one", "two"],
        "when": pa.array([1, None], pa.timestamp("ns")),
        "zone": pa.array([1_000_000, 0], pa.timestamp("us", "UTC")),
        "day": pa.array([18262, 18263], pa.date32()),
        "took": pa.array([5, 6], pa.duration("ns")),
        "price": pa.array([Decimal("1.10"), Decimal("2.20")], pa.decimal128(5, 2)),
        "raw": pa.array([b"\xff\x00", b"a"], pa.binary()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "deep": pa.array([{"at": [1]}, {"at": []}], pa.struct({"at": pa.list_(pa.timestamp("ns"))})),
    }
)
KEEP = [word for name in KEPT.column_names[1:] for word in ("--keep", name)]


def test_kept_columns_of_every_parquet_type_become_json(embed: Callable[..., Result], tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.jsonl"
    pq.write_table(KEPT, source)
    result = embed("--input", source, "--output", target, *KEEP)
    assert result.exit_code == 0, result.exception
    first, second = (json.loads(line) for line in target.open())
    assert first["when"] == "1970-01-01 00:00:00.000000001"
    assert second["when"] is None
    assert first["zone"] == "1970-01-01 00:00:01.000000Z"
    assert (first["day"], first["took"], first["price"]) == ("2020-01-01", 5, "1.10")
    assert first["raw"] == {"b64": "/wA="}
    assert (first["kind"], first["half"]) == ("x", 0.5)
    assert first["deep"] == {"at": ["1970-01-01 00:00:00.000000001"]}


def test_kept_columns_stay_as_they_are_from_parquet_to_parquet(embed: Callable[..., Result], tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(KEPT, source)
    assert embed("--input", source, "--output", target, *KEEP).exit_code == 0
    found = pq.read_table(target)
    for name in KEPT.column_names:
        expected = KEPT[name].cast(pa.string()) if name == "kind" else KEPT[name]
        assert found[name].type == expected.type
        assert found[name].to_pylist() == expected.to_pylist()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], pa.int64(), [1, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        (["a", None], pa.string(), ["a", None]),
        ([[1], []], pa.list_(pa.int64()), [[1], []]),
        ([1, "a"], pa.string(), ["1", '"a"']),
        ([True, 1], pa.string(), ["true", "1"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([2**60 + 1, 0.5], pa.string(), [str(2**60 + 1), "0.5"]),
        ([{}, {}], pa.string(), ["{}", "{}"]),
        ([[1], {"a": 1}], pa.string(), ["[1]", '{"a": 1}']),
        (["\ud800", "a"], pa.string(), ['"\\ud800"', '"a"']),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in one part", "in two parts"])
def test_kept_json_values_get_the_one_type_that_holds_them_or_stay_json(
    serve: Callable[..., FakeServing], tmp_path: Path, values: list[Any], kind: Any, expected: list[Any], apart: bool
) -> None:
    fake, source, target = serve(), tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("".join(json.dumps({"text": f"t{i}", "x": value}) + "\n" for i, value in enumerate(values)))

    def stop(rows: int) -> None:
        if rows:
            raise KeyboardInterrupt

    with Client(fake.grpc_url, "fake", split=Split(rows=1 if apart else 10, in_flight=1)) as client:
        if apart:
            with pytest.raises(KeyboardInterrupt):
                embed_file(client, Source.of(source, keep=("x",)), target, progress=stop)
        assert embed_file(client, Source.of(source, keep=("x",)), target, resume=apart).rows == 2
    found = pq.read_table(target)["x"]
    assert (found.type, found.to_pylist()) == (kind, expected)


def test_half_a_surrogate_pair_in_a_kept_value_is_written_as_its_escape(
    embed: Callable[..., Result], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a", "x": ["\\ud800"]}\n')
    assert embed("--input", source, "--output", target, "--keep", "x").exit_code == 0
    assert json.loads(target.read_text())["x"] == ["\ud800"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_a_file_in_utf16_is_refused_by_its_byte_order_mark(tmp_path: Path, suffix: str, encoding: str) -> None:
    source = tmp_path / f"in.{suffix}"
    content = {"txt": "one\ntwo\n", "csv": "text\none\n", "jsonl": '"one"\n'}[suffix]
    source.write_bytes((content if encoding in ("utf-16", "utf-32") else f"\ufeff{content}").encode(encoding))
    with pytest.raises(InputError, match=f"byte order mark of {encoding[:6].upper()}"):
        list(Source.of(source).rows())


def test_parquet_texts_that_are_stored_as_utf8_bytes_are_taken(embed: Callable[..., Result], tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.npy"
    pq.write_table(pa.table({"text": pa.array(["é".encode(), b"\xff", b"two"], pa.binary())}), source)
    assert embed("--input", source, "--output", target).exit_code == 2
    assert "not UTF-8" in (tmp_path / "out.npy.rejected.jsonl").read_text()
    assert np.array_equal(np.load(target)[[0, 2]], vectors(["é", "two"]))


def test_an_early_refusal_leaves_nothing_behind(
    embed: Callable[..., Result], fake: FakeServing, tmp_path: Path
) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "x", "x"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    number = pa.array([1], pa.timestamp("ns"))
    pq.write_table(pa.table({"text": number}), tmp_path / "number.parquet")
    (tmp_path / "twice.csv").write_text("text,x,x\na,b,c\n")
    (tmp_path / "bad.csv").write_text('text\n"a\n')
    (tmp_path / "wide.txt").write_text("one\n", "utf-16")
    (tmp_path / "bad.parquet").write_text("no parquet")
    there = sorted(os.listdir(tmp_path))
    calls = fake.calls
    for name, more, message in (
        ("twice.parquet", ["--keep", "x"], "2 columns of the name 'x'"),
        ("number.parquet", [], "column 'text' is of type timestamp[ns]; texts are strings"),
        ("twice.csv", ["--keep", "x"], "2 columns of the name 'x'"),
        ("bad.csv", [], "a quote is never closed"),
        ("wide.txt", [], "byte order mark of UTF-16"),
        ("bad.parquet", [], "cannot be read as Parquet"),
        ("twice.csv", ["--signature", "nope"], "no signature 'nope'"),
        ("twice.csv", ["--model", "other"], "other"),
    ):
        for suffix in ("npy", "jsonl", "parquet"):
            result = embed("--input", tmp_path / name, "--output", tmp_path / f"out.{suffix}", *more)
            assert message in str(result.exception), (name, result.exception)
            assert sorted(os.listdir(tmp_path)) == there
    assert fake.calls == calls
