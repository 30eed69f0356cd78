"""``sentence-serving tune-artifact``, and the options that it shares with ``export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from toolkit.cli.display import batching_words, quiet_tensorflow

__all__ = ["batching_changes", "batching_options", "command"]

_OPTIONS = {
    "max_tokens": "Tokens in a batch, one more for each text included; larger requests go by themselves.",
    "timeout_micros": "Microseconds a batch waits for more while a thread is free.",
    "threads": "Batches encoded at one time: the CPUs of the server, divided by its intra-op threads.",
    "max_queued_batches": "Full batches that may wait; beyond them callers get UNAVAILABLE.",
}


def batching_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--batch-max-tokens`` and its like, one for each option of ``Batching``."""
    for name, text in reversed(_OPTIONS.items()):
        command = click.option(f"--batch-{name.replace('_', '-')}", type=int, help=text)(command)
    return command


def batching_changes(values: dict[str, int | None]) -> dict[str, int]:
    """The options that were given, by name in ``Batching``."""
    return {name.removeprefix("batch_"): value for name, value in values.items() if value is not None}


@click.command("tune-artifact")
@click.argument("saved_model", type=click.Path(path_type=Path))
@batching_options
@click.option("--json", "as_json", is_flag=True, help="Print the options that are set now as JSON.")
def command(saved_model: Path, as_json: bool, **batching: int | None) -> None:
    """Change how SAVED_MODEL (a version directory) batches requests inside its graph; the model is not needed.

    saved_model.pb is replaced in one step. A server that has loaded the version goes on with what it has: restart it,
    or copy the artifact to the next version number first and change that.
    """
    changes = batching_changes(batching)
    if not changes:
        raise click.UsageError("nothing to change; give at least one --batch-... option")
    quiet_tensorflow()
    from toolkit.artifact.tuning import tune_artifact

    options = tune_artifact(saved_model, **changes)
    click.echo(json.dumps(options.to_json()) if as_json else f"batching {batching_words(options)}")
