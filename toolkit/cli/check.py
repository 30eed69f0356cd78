"""``sentence-serving check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import click

from toolkit.cli.display import check_table, notices_shown, quiet_tensorflow, stage_progress

__all__ = ["command"]


@click.command("check")
@click.argument("saved_model", type=click.Path(path_type=Path))
@click.argument("source")
@click.option(
    "--texts",
    type=click.File(encoding="utf-8"),
    help="Texts to compare, one a line, instead of the corpus; for a CrossEncoder a query, a tab and a document.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that the checkpoint brings along.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def command(saved_model: Path, source: str, texts: TextIO | None, trust_remote_code: bool, as_json: bool) -> None:
    """Compare SAVED_MODEL (a version directory) with its original SOURCE.

    The SavedModel is reloaded in a fresh process. Exit code 0 if token ids are identical and vectors within 1e-5
    (largest absolute difference) and 1e-6 (cosine distance), or for bfloat16 and int8 within the cosine that the
    artifact was exported with; 1 if not, naming the first stage that diverges. SOURCE gets the settings that the
    artifact was exported with: --truncate-dim, --max-seq-length, --prompt-name, --pooling.
    """
    quiet_tensorflow()
    from toolkit.proof.check import check

    lines = [line.rstrip("\r\n") for line in texts] if texts is not None else None
    with notices_shown(), stage_progress() as progress:
        progress("reading the checkpoint", 0, 0)
        report = check(
            saved_model,
            source,
            texts=lines,
            trust_remote_code=trust_remote_code,
            progress=lambda done, total: progress("checking", done, total),
        )
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        check_table(report)
    report.require_passed()
