"""``sentence-serving inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.display import (
    batching_words,
    notices_shown,
    precision_words,
    quality_words,
    quiet_tensorflow,
    target_words,
)
from toolkit.signatures import stamped_pair_signatures, stamped_text_signatures
from toolkit.sparse_signatures import stamped_sparse_signatures
from toolkit.tokenizer.bare import BareTokenizer
from toolkit.vectors_signatures import stamped_vectors_signatures

if TYPE_CHECKING:
    from toolkit.artifact.inspection import Inspection

__all__ = ["command"]

_UNGUARDED = "NOT refused: a request of a wrong shape can end any server; export the model again"


@click.command("inspect")
@click.argument("saved_model")
@click.option(
    "--tokenizer",
    is_flag=True,
    help="Print the steps of the tokenizer instead; SAVED_MODEL may also be a checkpoint's folder, a tokenizer.json or "
    "a hub id.",
)
@click.option("--text", help="With --tokenizer and a checkpoint: show what each step makes of this text.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, the list of ops included, as JSON.")
def command(saved_model: str, tokenizer: bool, text: str | None, as_json: bool) -> None:
    """Print signatures, sizes, provenance and compatible TF Serving releases of SAVED_MODEL (a version directory)."""
    quiet_tensorflow()
    if tokenizer:
        _tokenizer(saved_model, text, as_json)
        return
    if text is not None:
        raise click.UsageError("--text needs --tokenizer")
    from toolkit.artifact.inspection import inspect

    found = inspect(Path(saved_model))
    if as_json:
        click.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)


def _tokenizer(source: str, text: str | None, as_json: bool) -> None:
    from toolkit.artifact.tokenizer_inspection import inspect_tokenizer

    with notices_shown():
        results = inspect_tokenizer(source, text)
    if as_json:
        rows = [{"step": item.step, **({} if text is None else {"result": item.result})} for item in results]
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for number, item in enumerate(results, 1):
        click.echo(f"{number}. {item.step}")
        if isinstance(item.result, str):
            click.echo(f"   {item.result!r}")
        elif item.result is not None:
            click.echo(f"   {' '.join(f'{token_id}:{token}' for token_id, token in item.result)}")


def _print(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{found.path}[/bold]", soft_wrap=True)
    table = Table(min_width=64)
    for column in ("signature", "inputs", "outputs"):
        table.add_column(column)
    for item in found.signatures:
        table.add_row(item.name, "\n".join(map(str, item.inputs)), "\n".join(map(str, item.outputs)))
    console.print(table)

    facts = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.columns[1].overflow = "fold"  # a path or digest is of no use without its end
    facts.add_row("TF Serving", str(found.releases))
    mega = 1e6
    facts.add_row(
        "size",
        f"{found.total_bytes / mega:.1f} MB (graph {found.graph_bytes / mega:.1f}, "
        f"variables {found.variables_bytes / mega:.1f})",
    )
    facts.add_row("batching", batching_words(found.batching))
    facts.add_row("warm-up", "yes" if found.warmup else "none")
    if found.provenance is not None:
        facts.add_row("wrong shapes", "refused" if found.guarded else _UNGUARDED)
    for label, value in _provenance_rows(found.provenance):
        facts.add_row(label, value)
    console.print(facts)


def _provenance_rows(provenance: dict[str, Any] | None) -> list[tuple[str, str]]:
    if provenance is None:
        return [("provenance", "none; not exported by sentence-serving")]
    source, model, check = (provenance.get(key) or {} for key in ("source", "model", "check"))
    rows = [
        ("task", str(provenance.get("task", "embed"))),
        ("source", f"{source.get('name')}"),
        ("digest", f"{source.get('digest')}"),
        ("created", f"{provenance.get('created')}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())),
        ("model", ", ".join(f"{name} {value}" for name, value in model.items() if value != "")),
    ]
    if settings := source.get("settings"):
        rows.append(("settings", ", ".join(f"{name} {value}" for name, value in settings.items())))
    rows += [("note", notice) for notice in source.get("notices", ())]
    if bare := provenance.get("bare_tokenizer"):
        rows.append(("tokenizer", str(BareTokenizer(**bare))))
    rows += [(item.name, str(item)) for item in stamped_text_signatures(provenance)]
    rows += [(item.name, str(item)) for item in stamped_pair_signatures(provenance)]
    rows += [(item.name, str(item)) for item in stamped_vectors_signatures(provenance)]
    rows += [(item.name, str(item)) for item in stamped_sparse_signatures(provenance)]
    stamp = provenance.get("precision")
    if layout := provenance.get("layout"):
        lower = isinstance(stamp, dict) and stamp.get("name") == "bfloat16"
        needs = "; needs AVX512" if lower and layout["optimize"] == "latency" else ""
        rows += [("target", target_words(layout["target"])), ("optimized", f"for {layout['optimize']}{needs}")]
    if isinstance(stamp, dict) and stamp.get("products"):
        rows.append(("precision", precision_words(stamp)))
    if not check:
        rows.append(("check", "skipped: nothing proves that this artifact equals its original"))
    else:
        distance = check["max_cosine_distance"]
        cosine = "" if distance is None else f", cosine distance {distance:.2e}"
        rows.append(
            (
                "check",
                f"{'passed' if check['passed'] else 'FAILED'}: {check['comparisons']} {check.get('unit', 'vectors')}, "
                f"token ids identical, max abs difference {check['max_abs']:.2e}{cosine}",
            )
        )
        if check.get("mean_cosine_distance") is not None and stamp and stamp.get("products"):
            rows.append(("quality", quality_words(check)))
    return rows
