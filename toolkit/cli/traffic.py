"""Options of every command that sends texts to measure: which texts, and how many rows a request has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from toolkit.loadtest import Distribution, TextSource

__all__ = ["rows_of", "text_options", "texts_of"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--texts",
        type=click.Path(path_type=Path),
        help="File of texts, as `embed` reads them. Default: a built-in mixed set.",
    ),
    click.option("--text-format", help="txt, jsonl, csv or parquet, where the suffix does not tell."),
    click.option("--text-column", default="text", show_default=True, help="Column or key that holds the text."),
    click.option("--tokens", help="Lengths of texts in tokens, by the model's own count: 16, 8-128 or 16:9,256:1."),
    click.option("--rows", default="1", show_default=True, help="Rows a request: 1, 1-32 or 1:9,32:1 (with weights)."),
)


def text_options(command: F) -> F:
    """Add the options to ``command``, in the order above."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def texts_of(options: dict[str, Any]) -> TextSource:
    """Where the texts come from, by the values of the options. Raises `InputError`."""
    from toolkit.loadtest import Distribution, TextSource

    return TextSource(
        None if options["texts"] is None else str(options["texts"]),
        options["text_format"],
        options["text_column"],
        None if options["tokens"] is None else Distribution.parse(options["tokens"], "--tokens"),
    )


def rows_of(options: dict[str, Any]) -> Distribution:
    """How many rows a request has. Raises `InputError`."""
    from toolkit.loadtest import Distribution

    return Distribution.parse(options["rows"], "--rows")
