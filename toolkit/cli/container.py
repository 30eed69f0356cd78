"""``sentence-serving container``: what the embedded server's image runs; in it, no shell is needed."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from toolkit.deploy.container import VARIABLES, become_the_server, is_healthy, plan
from toolkit.errors import InputError

__all__ = ["command"]

_EX_USAGE = 64  # as serving/entrypoint: told apart from the server's own exit codes


@click.group("container")
def command() -> None:
    """Be the entry point, or the health check, of the embedded server's container image."""


_TABLE = "\n".join(
    f"{name} [{variable.default or 'not set'}]\n    {variable.meaning}" for name, variable in VARIABLES.items()
)


@command.command(
    "start",
    context_settings={"ignore_unknown_options": True},
    epilog=f"\b\nVariables, with their defaults:\n\n\b\n{_TABLE}",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def start(flags: tuple[str, ...]) -> None:
    """Check the variables and the folder of configuration, then become the server.

    FLAGS are passed on to `sentence-serving serve`. A variable, argument or file that makes no sense is refused in one
    line with exit code 64, and so is any other variable whose name starts with SERVING_.
    """
    try:
        decided = plan(os.environ, flags)
    except InputError as error:
        _refuse(error)
    for line in decided.said:
        click.echo(f"entrypoint: {line}", err=True)
    become_the_server(decided, os.environ)


@command.command("check")
def check() -> None:
    """Exit with 0 while the first model of models.config is loaded, and with 1 while it is not."""
    try:
        healthy = is_healthy(os.environ)
    except InputError as error:
        _refuse(error)
    sys.exit(0 if healthy else 1)


def _refuse(error: InputError) -> NoReturn:
    click.echo(f"entrypoint: {error}", err=True)
    sys.exit(_EX_USAGE)
