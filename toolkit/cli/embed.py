"""``sentence-serving embed``: texts in, embeddings out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from toolkit.errors import InputError

__all__ = ["command"]


@click.command("embed")
@click.argument("texts", nargs=-1)
@click.option(
    "--url", default="grpc://localhost:8500", show_default=True, help="grpc://, grpcs://, http:// or https://."
)
@click.option("--model", required=True, help="Name of the served model.")
@click.option("--input", "source", type=click.Path(path_type=Path), help="A file with one text per line.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A .jsonl or .npy file; without it, JSON lines on stdout."
)
def command(texts: tuple[str, ...], url: str, model: str, source: Path | None, output: Path | None) -> None:
    """Embed TEXTS, the lines of a file, or the lines of stdin through a running server."""
    import numpy as np

    from toolkit.client import Client

    if texts and source is not None:
        raise InputError("give texts or --input, not both")
    if output is not None and output.suffix not in (".jsonl", ".npy"):
        raise InputError(f"{output}: output format {output.suffix!r} is not supported; supported: .jsonl, .npy")
    try:
        lines = list(texts) or (source.read_text() if source else sys.stdin.read()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source or 'stdin'} cannot be read: {error}") from None
    with Client(url, model) as client:
        vectors = client.embed(lines)
    if output is None:
        for text, vector in zip(lines, vectors.tolist(), strict=True):
            click.echo(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False))
        return
    partial = output.with_name(output.name + ".partial")
    with partial.open("wb") as file:
        if output.suffix == ".npy":
            np.save(file, vectors)
        else:
            for text, vector in zip(lines, vectors.tolist(), strict=True):
                file.write(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False).encode() + b"\n")
    os.replace(partial, output)
