"""``sentence-serving loadtest locust``: Locust with our ``User``, for load from many machines."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click

from toolkit.errors import MissingExtraError

__all__ = ["command"]


@click.command("locust", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Run Locust on the bundled client, with Locust's own ARGUMENTS and those of our locustfile (see --help)."""
    if importlib.util.find_spec("locust") is None:
        raise MissingExtraError("locust", "locust")
    file = Path(__file__).parents[1] / "loadtest" / "locustfile.py"
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", str(file), *arguments])
