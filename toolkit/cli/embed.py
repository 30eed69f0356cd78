"""``sentence-serving embed``: texts in, embeddings out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.connection import connection_of, connection_options
from toolkit.cli.display import rows_bar
from toolkit.cli.embed_folder import artifact, fill_folder, is_folder_job, only_for_folders
from toolkit.client import Client, Hedge, Split
from toolkit.errors import InputError
from toolkit.signatures import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from toolkit.client.bulk import Served, Source

__all__ = ["command"]

_URL = "grpc://localhost:8500"
_REFUSED = 2  # exit status when some rows have no embedding


@click.command("embed")
@click.argument("texts", nargs=-1)
@click.option("--url", help=f"Server: grpc://, grpcs://, http://, https://, or host:port for gRPC.  [default: {_URL}]")
@click.option("--model", help="Name of the served model.")
@click.option("--version", type=click.IntRange(0), help="Version of the model; default: the server's choice.")
@click.option("--label", help="Version label, instead of --version.")
@click.option("--signature", default=DEFAULT_SIGNATURE, show_default=True, help="Signature from text to embedding.")
@click.option("--input", multiple=True, metavar="FILE",
              help="File of texts: .txt (a text per line), .jsonl, .csv, .parquet; - is stdin. With --engine ray or "
                   "--shard any number of files and folders, also s3:// and gs://.")  # fmt: skip
@click.option("--input-format", help="txt, jsonl, csv or parquet, where the suffix does not tell.")
@click.option("--text-column", default="text", show_default=True, help="Column or key that holds the text.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy this column to the output (.jsonl, .parquet).")
@click.option("--output", help="File: .npy, .jsonl, .parquet, .safetensors. Default: JSON lines on stdout. With "
                               "--engine ray or --shard a folder of .parquet.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue an unfinished run; every row is embedded exactly once.")
@click.option("--rows", default=Split.rows, show_default=True, help="Rows per request; more cost the client less.")
@click.option("--in-flight", default=Split.in_flight, show_default=True, help="Requests under way at a time.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds an attempt may take.")
@click.option("--patience", default=300.0, show_default=True, help="Seconds a server may be away before the run stops.")
@click.option("--max-rejected", default=1000, show_default=True, help="Rows without embedding before the run stops.")
@connection_options
@click.option("--hedge", type=float, help="Seconds after which a request without answer is sent a second time.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Who works: this process, or actors of a Ray cluster.")  # fmt: skip
@click.option("--ray-address", metavar="HOST:PORT", help="Running cluster; auto: this machine's. Default: a local one, "
                                                         "started and stopped.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Actors; default: as many as the cluster has room for.")
@click.option("--cpus-per-worker", type=click.IntRange(1), help="CPUs of an actor or shard.  [default: 1]")
@click.option(
    "--worker-memory", type=click.IntRange(1), metavar="MIB", help="Memory of an actor or shard; default: by the model."
)
@click.option("--artifact", metavar="FOLDER", help="Exported model that the workers load themselves, without a server.")
@click.option("--shard", metavar="I/N", help="Be shard I of N processes that fill one folder; /N takes I from "
                                             "JOB_COMPLETION_INDEX.")  # fmt: skip
@click.option("--part-rows", type=click.IntRange(1), help="Input rows a file of the folder.  [default: 20000]")
def command(**options: Any) -> None:
    """Embed TEXTS, the rows of a file, or the lines of stdin through a running server; with --engine ray or --shard
    any number of files into a folder, through a server or with the artifact in the workers.

    Exits with 2 if some rows could not be embedded, also where --resume finds nothing to do any more; they are listed,
    with the reasons, beside the output.
    """
    if is_folder_job(options):
        fill_folder(artifact(options) if options["artifact"] is not None else _served(options), options, _REFUSED)
        return
    only_for_folders(options)
    _one_file(options)


def _one_file(options: dict[str, Any]) -> None:
    from toolkit.client.bulk import stream

    source = _source(options)
    if options["resume"] and options["output"] is None:
        raise InputError("--resume needs --output: what went to stdout is not remembered")
    with _served(options).client() as client:
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

    inputs = options["input"]
    if options["texts"]:
        if inputs:
            raise InputError("give texts or --input, not both")
        return Source(None, "txt", texts=options["texts"])
    if len(inputs) > 1:
        raise InputError(f"--input is given {len(inputs)} times; only --engine ray and --shard take several")
    path = Path(inputs[0]) if inputs and inputs[0] != "-" else None
    return Source.of(path, options["input_format"], text_column=options["text_column"], keep=options["keep"])


def _served(options: dict[str, Any]) -> Served:
    from toolkit.client.bulk import Served

    if options["model"] is None:
        raise click.UsageError("Missing option '--model'.")
    connection = connection_of(options)
    return Served(
        options["url"] or _URL,
        options["model"],
        options["version"],
        options["label"],
        {
            "timeout": options["timeout"],
            "tls": connection.tls,
            "token": connection.token,
            "metadata": connection.metadata,
            "compression": connection.compression,
            "split": Split(rows=options["rows"], in_flight=options["in_flight"]),
            "hedge": Hedge(options["hedge"]) if options["hedge"] is not None else None,
            "round_robin": connection.round_robin,
            "channels": connection.channels,
            "proxies": connection.proxies,
        },
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

    target = Path(options["output"])
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
    else:
        click.echo(f"{summary.rows - summary.rejected} of {summary.rows} rows embedded: {target}", err=True)
    if summary.rejected:
        click.echo(f"{summary.rejected} rows have no embedding; reasons: {summary.side_file}", err=True)
        raise click.exceptions.Exit(_REFUSED)


@contextmanager
def progress_bar(source: Source) -> Iterator[Callable[[int], None]]:
    """A progress bar with rows/s and time left, where stderr is a terminal."""
    with rows_bar(Path(source.name).name, source.count) as show:
        yield show
