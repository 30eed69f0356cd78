"""``sentence-serving tune``: the settings under which a model's server holds the highest rate."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.traffic import rows_of, text_options, texts_of
from toolkit.errors import ArtifactError, InputError
from toolkit.signatures import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from rich.table import Table

    from toolkit.loadtest.run import Settings
    from toolkit.loadtest.tune import Candidate, Tried, Tuning
    from toolkit.version_folder import VersionFolder

__all__ = ["command"]

_FILE = click.Path(path_type=Path)
_NOTHING_HOLDS = 1


@click.command("tune")
@click.argument("model_dir", type=_FILE)
@click.option("--slo", required=True, help="Objectives, p99=50ms,errors=0.1%: the highest rate is the one that holds.")
@click.option("--budget", default=30.0, show_default=True, help="Minutes; run again to go on where it ended.")
@click.option("--output", "-o", type=_FILE, default="tuned", show_default=True,
              help="Folder for what was measured (tune.json) and the settings as files.")  # fmt: skip
@click.option("--apply", is_flag=True, help="Set the artifact in MODEL_DIR to what was found, by one replace.")
@click.option("--engine", type=click.Choice(["auto", "embedded", "tensorflow_model_server"]), default="auto",
              show_default=True, help="Server to measure; auto: the real one if it is on PATH.")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1), help="CPUs of the server; default: all but one, for the generator.")
@click.option("--rest", is_flag=True, help="Ask over REST instead of gRPC.")
@click.option("--signature", default=DEFAULT_SIGNATURE, show_default=True, help="Any signature that takes only text.")
@text_options
@click.option("--rate", default=10.0, show_default=True, help="Requests a second to begin with.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True,
              help="How requests are spaced.")  # fmt: skip
@click.option("--trial", default=10.0, show_default=True, help="Seconds of each trial.")
@click.option("--warmup", default=2.0, show_default=True, help="Seconds before each trial, left out.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds until a request counts as failed.")
@click.option("--max-lag", default=0.01, show_default=True, help="Share of the latencies that may be the generator's.")
@click.option("--processes", type=click.IntRange(1), help="Generator processes; default: one a CPU, at most 2.")
@click.option("--seed", default=0, show_default=True, help="Of arrival times and texts.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(**options: Any) -> None:
    """Find the settings with which MODEL_DIR (<models>/<name>, or a version in it) holds the most under --slo.

    Batching, threads, threads per operation, size and wait of a batch are tried one after the other on a server on this
    machine, always on copies. The settings that won are written to --output: serving/model.env,
    serving/batching.config where batching of rows won, and a kustomize component with threads and the autoscaler's
    target. MODEL_DIR itself changes only with --apply. Exits with 1 if no settings hold the objectives.
    """
    from toolkit.deploy.tuned import tuned_files
    from toolkit.loadtest.local_server import split_cpus
    from toolkit.version_folder import VersionFolder

    place = VersionFolder.of(options["model_dir"])
    servers, generator = split_cpus(options["cpus"])
    with _on_cpus(generator):
        tuning = _tune(place, servers, options)
    winner = tuning.winner
    files: dict[str, str] = {}
    applied = False
    if winner is not None:
        files = tuned_files(winner, place.model, place.size, len(servers))
        _write(files, options["output"])
        applied = options["apply"] and _apply(place, winner.candidate)
    if options["as_json"]:
        click.echo(json.dumps({**asdict(tuning), "files": sorted(files), "applied": applied}, ensure_ascii=False))
    else:
        _show(tuning, place, options["output"], files, applied)
    if winner is None:
        raise click.exceptions.Exit(_NOTHING_HOLDS)


def _tune(place: VersionFolder, servers: frozenset[int], options: dict[str, Any]) -> Tuning:
    from rich.console import Console

    from toolkit.deploy.tuned import candidate_batching
    from toolkit.loadtest.local_server import LocalServers, batching_in_graph
    from toolkit.loadtest.tune import Candidate, open_state, question_of, tune

    settings = _settings(place, options)
    engine = options["engine"]
    if engine == "auto":
        engine = "tensorflow_model_server" if shutil.which("tensorflow_model_server") else "embedded"
    inside = batching_in_graph(place)
    begin = Candidate("none", len(servers))
    if inside is not None:
        begin = Candidate("graph", inside["threads"], 1, inside["max_tokens"], inside["timeout_micros"])
    question = question_of(settings, engine=engine, cpus=len(servers), rest=options["rest"], rate=options["rate"])
    state = open_state(options["output"], _fingerprint(place), question)
    local = LocalServers(
        place, options["output"].absolute() / ".work", engine, servers, candidate_batching, options["rest"]
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return tune(
        state,
        begin,
        len(servers),
        settings,
        local.serve,
        start=options["rate"],
        budget=options["budget"] * 60,
        report=lambda tried: console.print(f"{tried.candidate}: {tried.words}"),
    )


def _settings(place: VersionFolder, options: dict[str, Any]) -> Settings:
    from toolkit.loadtest import Settings, Target, constant, parse_slo

    if not options["budget"] > 0 or not options["rate"] > 0:
        raise InputError("--budget and --rate must be more than 0")
    more: dict[str, Any] = {} if options["processes"] is None else {"processes": options["processes"]}
    return Settings(
        url="grpc://localhost",
        targets=(Target(place.model, options["signature"]),),
        load=constant(options["rate"], options["trial"], poisson=options["arrivals"] == "poisson"),
        warmup=options["warmup"],
        texts=texts_of(options),
        rows=rows_of(options),
        timeout=options["timeout"],
        seed=options["seed"],
        objectives=parse_slo(options["slo"]),
        max_lag=options["max_lag"],
        **more,
    )


@contextmanager
def _on_cpus(cpus: frozenset[int]) -> Iterator[None]:
    """Run on these CPUs; the generator's processes take after this one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _fingerprint(place: VersionFolder) -> str:
    with (place.folder / "saved_model.pb").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(files: dict[str, str], output: Path) -> None:
    from toolkit.deploy.render import write

    write(files, output, force=True)
    if "serving/batching.config" not in files:  # of an earlier winner
        (output / "serving/batching.config").unlink(missing_ok=True)


def _changes(candidate: Candidate) -> list[str]:
    return [
        f"--batch-max-tokens={candidate.size}",
        f"--batch-timeout-micros={candidate.wait_micros}",
        f"--batch-threads={candidate.threads}",
    ]


def _apply(place: VersionFolder, candidate: Candidate) -> bool:
    """Set the artifact; ``False`` where it has nothing to set."""
    from toolkit.loadtest.local_server import own_command

    if candidate.batching != "graph":
        return False
    arguments = own_command("tune-artifact", str(place.folder), *_changes(candidate))
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArtifactError((done.stderr.strip().splitlines() or ["not changed"])[-1].removeprefix("error: "))
    return True


def _table(tuning: Tuning) -> Table:
    from rich import box
    from rich.table import Table

    from toolkit.loadtest.show import milliseconds

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("batching")
    for name in ("threads", "per op", "size", "wait", "rows/s", "p50", "p99", "CPUs", "memory"):
        table.add_column(name, justify="right")
    table.add_column("result")

    def row(tried: Tried) -> list[str]:
        item = tried.candidate
        batches = item.batching != "none"
        measured = tried.failure is None
        return [
            item.batching,
            str(item.threads),
            str(item.threads_per_op),
            item.size_words,
            f"{item.wait_micros} µs" if batches else "",
            "" if tried.rows is None else f"{tried.rows:,.1f}",
            milliseconds(tried.p50) if measured else "",
            milliseconds(tried.p99) if measured else "",
            "" if tried.cpu is None else f"{tried.cpu:.2f}",
            "" if tried.memory is None else f"{tried.memory / 2**20:,.0f} MiB",
            tried.words,
        ]

    for place, tried in enumerate(tuning.tried):
        table.add_row(*row(tried), style="bold green" if place == tuning.best else "")
    return table


def _show(tuning: Tuning, place: VersionFolder, output: Path, files: dict[str, str], applied: bool) -> None:
    from rich.console import Console

    # what is no terminal has no width, and columns that are cut say nothing
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    console.print(_table(tuning))
    winner = tuning.winner
    if winner is None:
        console.print(f"no settings hold {tuning.question['slo']}", style="bold red")
    else:
        console.print(f"best: {winner.candidate}: {winner.words}", style="bold green")
    if not tuning.finished:
        console.print("The budget is over before all was tried; run the same command again to go on.")
    if winner is None:
        return
    console.print(f"written to {output}: {', '.join(sorted(files))}")
    if winner.candidate.batching != "rows":
        console.print("The server needs no batching.config: remove it from serving/ and its kustomization.yaml.")
    if winner.cpu is None:
        console.print("The server does not say what CPU it uses: the autoscaler's target is left as it is.")
    if applied:
        console.print(f"{place.folder} is set to it")
    elif winner.candidate.batching == "graph":
        console.print(f"to set the artifact: --apply, or sentence-serving tune-artifact {place.folder} "
                      + " ".join(_changes(winner.candidate)))  # fmt: skip
