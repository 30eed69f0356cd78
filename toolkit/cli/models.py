"""``sentence-serving models``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

__all__ = ["command"]


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
@click.option("--markdown", is_flag=True, help="Print the tables as docs/models.md has them.")
def command(as_json: bool, markdown: bool) -> None:
    """List what can be exported: tasks, encoder families, modules, tokenizers, signatures; and of the public models
    that are asked for most, which work and why the others are refused."""
    from toolkit.graph.catalogue import catalogue

    found = catalogue()
    if as_json:
        models = [{**asdict(model), "works": model.reason is None, "reason": model.reason} for model in found.models]
        click.echo(json.dumps({**asdict(found), "models": models}, indent=2))
    elif markdown:
        click.echo(found.markdown(), nl=False)
    else:
        _print("tasks", found.tasks)
        _print("encoder families", found.families)
        _print("modules", found.modules)
        _print("tokenizers", found.tokenizers)
        _print("signatures", found.signatures)
        _print(
            "public models",
            [(model.name, f"[red]{model.reason}[/red]" if model.reason else "works") for model in found.models],
        )


def _print(title: str, rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print()
