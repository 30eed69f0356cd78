"""The half of ``sentence-serving embed`` that fills a folder of parts: by shards, or by workers on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.display import quiet_tensorflow, rows_bar
from toolkit.errors import ClientError, InputError

if TYPE_CHECKING:
    from toolkit.client.bulk import Encoder, FolderSummary, Inputs, Progress
    from toolkit.client.bulk.folder import Runner

__all__ = ["artifact", "fill_folder", "is_folder_job", "only_for_folders"]

_RAY = ("ray_address", "workers")
_FOLDERS = (*_RAY, "artifact", "cpus_per_worker", "worker_memory", "part_rows")


def is_folder_job(options: dict[str, Any]) -> bool:
    """Whether the output is a folder of parts."""
    return options["engine"] == "ray" or options["shard"] is not None


def only_for_folders(options: dict[str, Any]) -> None:
    """Raise `InputError` for an option that means nothing for one file by one process."""
    given = [name for name in _FOLDERS if options[name] is not None]
    if given:
        raise InputError(f"{_flag(given[0])} needs --engine ray{'' if given[0] in _RAY else ' or --shard'}")


def fill_folder(encoder: Encoder, options: dict[str, Any], rejected_exit: int) -> None:
    """Carry out the job; exits with ``rejected_exit`` if rows have no embedding."""
    from toolkit.client.bulk import Place, embed_folder
    from toolkit.client.bulk.folder import PART_ROWS

    runner, inputs = _runner(options), _inputs(options)  # in this order: Ray's extra has all that inputs need
    output = Place.of(options["output"])
    with rows_bar(options["output"]) as show:

        def progress(news: Progress) -> None:
            for trouble in news.troubles:
                click.echo(trouble, err=True)
            show(news.rows, news.total)

        try:
            summary = embed_folder(
                encoder,
                inputs,
                output,
                runner,
                signature=options["signature"],
                resume=options["resume"],
                patience=options["patience"],
                max_rejected=options["max_rejected"],
                part_rows=options["part_rows"] or PART_ROWS,
                progress=progress,
            )
        except KeyboardInterrupt:
            click.echo(f"interrupted; the same command with --resume continues ({output})", err=True)
            raise
        except (ClientError, InputError) as error:
            for note in getattr(error, "__notes__", ()):  # which worker
                click.echo(note, err=True)
            raise
    _say(summary, options["shard"])
    if summary.rejected:
        raise click.exceptions.Exit(rejected_exit)


def _say(summary: FolderSummary, shard: str | None) -> None:
    if summary.already_done:
        click.echo(f"{summary.target} is complete already", err=True)
    else:
        good = summary.rows - summary.rejected
        rest = "" if summary.finished else f" by shard {shard}; other shards are not done"
        click.echo(f"{good} of {summary.rows} rows embedded{rest}: {summary.target}", err=True)
    if summary.rejected:
        where = summary.side_file or f"{summary.target}/_part-*.rejected.jsonl"
        click.echo(f"{summary.rejected} rows have no embedding; reasons: {where}", err=True)


def _inputs(options: dict[str, Any]) -> Inputs:
    from toolkit.client.bulk import Inputs

    if options["texts"] or not options["input"] or "-" in options["input"]:
        raise InputError("--engine ray and --shard take their texts from --input: files and folders")
    if options["output"] is None:
        raise InputError("--engine ray and --shard need --output: a folder")
    return Inputs.of(
        options["input"], options["input_format"], text_column=options["text_column"], keep=options["keep"]
    )


def _runner(options: dict[str, Any]) -> Runner:
    from toolkit.client.bulk import OnRay, Shard

    cpus = options["cpus_per_worker"] or 1
    memory = options["worker_memory"] and options["worker_memory"] << 20
    if options["engine"] == "ray":
        if options["shard"] is not None:
            raise InputError("--engine ray and --shard exclude each other: Ray shares the work out itself")
        return OnRay(options["ray_address"], options["workers"], cpus, memory)
    given = [name for name in _RAY if options[name] is not None]
    if given:
        raise InputError(f"{_flag(given[0])} needs --engine ray")
    return Shard.of(options["shard"], cpus, memory)


def artifact(options: dict[str, Any]) -> Encoder:
    """The artifact to be loaded by the workers."""
    from toolkit.artifact.session import Artifact

    given = [name for name in ("model", "version", "label", "url") if options[name] is not None]
    if given:
        raise InputError(f"--artifact and {_flag(given[0])} exclude each other")
    found = Artifact.of(Path(options["artifact"]))
    quiet_tensorflow("ray")
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
