"""``sentence-serving embed``: texts in, embeddings out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.connection import connection_of, connection_options
from toolkit.client import Client, Hedge, Split
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from toolkit.client.bulk import Source

__all__ = ["command"]

_FILE = click.Path(path_type=Path)
_REFUSED = 2  # exit status when some rows have no embedding


@click.command("embed")
@click.argument("texts", nargs=-1)
@click.option("--url", default="grpc://localhost:8500", show_default=True,
              help="Server: grpc://, grpcs://, http://, https://, or host:port for gRPC.")  # fmt: skip
@click.option("--model", required=True, help="Name of the served model.")
@click.option("--version", type=click.IntRange(0), help="Version of the model; default: the server's choice.")
@click.option("--label", help="Version label, instead of --version.")
@click.option("--signature", default=DEFAULT_SIGNATURE, show_default=True, help="Signature from text to embedding.")
@click.option("--input", "input_path", type=_FILE,
              help="File of texts: .txt (a text per line), .jsonl, .csv, .parquet; - is stdin.")  # fmt: skip
@click.option("--input-format", help="txt, jsonl, csv or parquet, where the suffix does not tell.")
@click.option("--text-column", default="text", show_default=True, help="Column or key that holds the text.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy this column to the output (.jsonl, .parquet).")
@click.option("--output", type=_FILE, help="File: .npy, .jsonl, .parquet, .safetensors. Default: JSON lines on stdout.")
@click.option("--resume", is_flag=True, help="Continue an unfinished run; every row is embedded exactly once.")
@click.option("--rows", default=Split.rows, show_default=True, help="Rows per request; more cost the client less.")
@click.option("--in-flight", default=Split.in_flight, show_default=True, help="Requests under way at a time.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds an attempt may take.")
@click.option("--patience", default=300.0, show_default=True, help="Seconds a server may be away before the run stops.")
@click.option("--max-rejected", default=1000, show_default=True, help="Rows without embedding before the run stops.")
@connection_options
@click.option("--hedge", type=float, help="Seconds after which a request without answer is sent a second time.")
def command(**options: Any) -> None:
    """Embed TEXTS, the rows of a file, or the lines of stdin through a running server.

    Exits with 2 if some rows could not be embedded; they are listed, with the reasons, beside the output.
    """
    from toolkit.client.bulk import stream

    source = _source(options)
    if options["resume"] and options["output"] is None:
        raise InputError("--resume needs --output: what went to stdout is not remembered")
    with _client(options) as client:
        if options["output"] is not None:
            _to_file(client, source, options)
            return
        refused = 0
        for batch, problems in stream(client, source, options["signature"], options["patience"]):
            _print(batch)
            for row, reason in problems:
                click.echo(f"row {row} has no embedding: {reason}", err=True)
            refused += len(problems)
    if refused:
        raise click.exceptions.Exit(_REFUSED)


def _source(options: dict[str, Any]) -> Source:
    from toolkit.client.bulk import Source

    path = options["input_path"]
    if options["texts"]:
        if path is not None:
            raise InputError("give texts or --input, not both")
        return Source(None, "txt", texts=options["texts"])
    if path is not None and str(path) == "-":
        path = None
    return Source.of(path, options["input_format"], text_column=options["text_column"], keep=options["keep"])


def _client(options: dict[str, Any]) -> Client:
    connection = connection_of(options)
    return Client(
        options["url"],
        options["model"],
        version=options["version"],
        label=options["label"],
        timeout=options["timeout"],
        tls=connection.tls,
        token=connection.token,
        metadata=connection.metadata,
        compression=connection.compression,
        split=Split(rows=options["rows"], in_flight=options["in_flight"]),
        hedge=Hedge(options["hedge"]) if options["hedge"] is not None else None,
        round_robin=connection.round_robin,
        channels=connection.channels,
        proxies=connection.proxies,
    )


def _print(batch: Any) -> None:
    from toolkit.client.bulk.sinks import json_line

    outputs = {name: value.tolist() for name, value in batch.outputs.items()}
    out = sys.stdout.buffer
    for _, row, place in batch.good():
        out.write(json_line(None, row, {name: outputs[name][place] for name in outputs}))
    out.flush()


def _to_file(client: Client, source: Source, options: dict[str, Any]) -> None:
    from toolkit.client.bulk import embed_file

    target = options["output"]
    try:
        with progress_bar(source) as progress:
            summary = embed_file(
                client,
                source,
                target,
                signature=options["signature"],
                resume=options["resume"],
                patience=options["patience"],
                max_rejected=options["max_rejected"],
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; the same command with --resume continues ({target}.partial)", err=True)
        raise
    if summary.already_done:
        click.echo(f"{target} is complete already", err=True)
        return
    click.echo(f"{summary.rows - summary.rejected} of {summary.rows} rows embedded: {target}", err=True)
    if summary.rejected:
        click.echo(f"{summary.rejected} rows have no embedding; reasons: {summary.side_file}", err=True)
        raise click.exceptions.Exit(_REFUSED)


@contextmanager
def progress_bar(source: Source) -> Iterator[Callable[[int], None]]:
    """A progress bar with rows/s and time left, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(Path(source.name).name, total=source.count(), rate="")

        def show(rows: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=rows, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield show
