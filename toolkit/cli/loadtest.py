"""``sentence-serving loadtest``: load on a running server, and the truth about what it did."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.connection import connection_of, connection_options
from toolkit.cli.locust import command as locust_command
from toolkit.cli.traffic import rows_of, text_options, texts_of
from toolkit.errors import ClientError, GeneratorError, InputError
from toolkit.signatures import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from toolkit.loadtest import Report, Settings, Target
    from toolkit.loadtest.schedule import Load

__all__ = ["command"]

_FILE = click.Path(path_type=Path)
_MISSED = 1


class _Group(click.Group):
    """Runs a load test where no other command is named, so that ``loadtest URL`` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("loadtest", cls=_Group)
def command() -> None:
    """Measure what a deployment holds: `loadtest URL --model M` is `loadtest run URL --model M`.

    Exits with 1 if an objective is missed, 5 if requests failed and no objective says how many may, 7 if the generator
    itself was the limit. The report is written in each case, and after Ctrl-C, too (130).
    """


@command.command("run")
@click.argument("url")
@click.option("--model", help="Name of the served model.")
@click.option("--version", type=click.IntRange(0), help="Version of the model; default: the server's choice.")
@click.option("--label", help="Version label, instead of --version.")
@click.option("--signature", default=DEFAULT_SIGNATURE, show_default=True, help="Any signature that takes only text.")
@click.option("--mix", multiple=True, metavar="MODEL[/SIGNATURE]=WEIGHT", help="Several, by weight; not with --model.")
@click.option("--rate", type=float, help="Open loop: requests a second; with --find-max, where to begin.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True,
              help="How requests of an open loop are spaced.")  # fmt: skip
@click.option("--steps", metavar="RATE:SECONDS,...", help="Open loop: one rate after the other.")
@click.option("--ramp", metavar="FROM:TO", help="Open loop: a rate that changes in a straight line.")
@click.option("--replay", type=_FILE, help="Open loop: recorded arrival times, seconds, one a line.")
@click.option("--callers", type=int, help="Closed loop: so many callers that wait for each answer. Hides stalls.")
@click.option("--duration", default=30.0, show_default=True, help="Seconds to measure; of --find-max, each trial.")
@click.option("--requests", "bound", type=click.IntRange(1), help="Requests to measure, instead of --duration.")
@click.option("--warmup", default=5.0, show_default=True, help="Seconds before, left out of all figures.")
@text_options
@click.option("--timeout", default=10.0, show_default=True, help="Seconds until a request counts as failed.")
@click.option("--attempts", default=1, show_default=True, help="How often a request is sent; retries hide failures.")
@click.option("--slo", help="Objectives, p99=50ms,errors=0.1%; exit code 1 if one is missed.")
@click.option("--find-max", is_flag=True, help="Search the highest rate that holds --slo.")
@click.option("--max-lag", default="1%", show_default=True, help="Share of the latencies that may be the generator's.")
@click.option("--processes", type=click.IntRange(1), help="Generator processes; default: one a CPU, at most 2.")
@click.option("--seed", default=0, show_default=True, help="Of arrival times and texts.")
@click.option("--metrics-url", help="The server's Prometheus page: queue, batches, CPU beside the client's figures.")
@click.option("--server-pid", type=int, help="The server's process, where it runs here: its CPU and memory.")
@click.option("--report", "folder", type=_FILE, default="loadtest-report", show_default=True,
              help="Folder for report.json and report.html.")  # fmt: skip
@click.option("--repeat", default=1, show_default=True, help="Runs, in folders 1, 2, ... of --report, to compare.")
@connection_options
def run_command(**options: Any) -> None:
    """Put load on the server at URL and report what it did."""
    from rich.console import Console

    from toolkit.loadtest import run, save
    from toolkit.loadtest.html import write_html
    from toolkit.loadtest.show import live, summary

    settings = _settings(options)
    if options["find_max"]:
        _find_max(settings, options)
        return
    worst = 0
    for number in range(options["repeat"]):
        folder = options["folder"] / str(number + 1) if options["repeat"] > 1 else options["folder"]
        _folder(folder)
        with live(Console(stderr=True), settings.warmup + settings.load.seconds, "load test") as progress:
            report = run(settings, progress=progress)
        save(report, folder / "report.json")
        write_html(report, folder / "report.html")
        Console(highlight=False).print(summary(report))
        click.echo(f"report: {folder / 'report.html'}")
        code = exit_code(report)
        if code == 130:
            raise KeyboardInterrupt
        worst = worst or code
    if worst:
        raise click.exceptions.Exit(worst)


def exit_code(report: Report) -> int:
    """The command's exit status for a report."""
    if report.stopped == "interrupted":
        return 130
    if not report.lag.held or report.generator.lost:
        return GeneratorError.exit_code
    if not all(result.held for result in report.verdict):
        return _MISSED
    judged = any(result.objective.name == "errors" for result in report.verdict)
    return ClientError.exit_code if report.measured.failed and not judged else 0


def _folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--report {folder} cannot be made: {error.strerror}") from None


def _settings(options: dict[str, Any]) -> Settings:
    from toolkit.client.options import Retry
    from toolkit.loadtest import Settings, parse_slo

    objectives = parse_slo(options["slo"]) if options["slo"] else ()
    more: dict[str, Any] = {} if options["processes"] is None else {"processes": options["processes"]}
    return Settings(
        url=options["url"],
        targets=_targets(options),
        load=_load(options),
        warmup=options["warmup"],
        texts=texts_of(options),
        rows=rows_of(options),
        timeout=options["timeout"],
        retry=Retry(attempts=options["attempts"]),
        connection=connection_of(options),
        seed=options["seed"],
        objectives=objectives,
        max_lag=_share(options["max_lag"]),
        metrics_url=options["metrics_url"],
        server_pid=options["server_pid"],
        command=_repeatable(sys.argv[1:]),
        **more,
    )


def _repeatable(arguments: list[str]) -> str:
    """The command line without what is nobody's business: values of --metadata may be keys."""
    words = ["sentence-serving", *arguments]
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name == "--metadata" and equals:
            words[place] = "--metadata=..."
        elif place and words[place - 1] == "--metadata":
            words[place] = "..."
    return shlex.join(words)


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if match is None:
        raise InputError(f"--max-lag is {text!r}; give a share, like 1%")
    return float(match[1]) / 100


def _targets(options: dict[str, Any]) -> tuple[Target, ...]:
    from toolkit.loadtest import Target

    if bool(options["model"]) == bool(options["mix"]):
        raise InputError("give either --model or --mix")
    if options["model"]:
        return (Target(options["model"], options["signature"], 1.0, options["version"], options["label"]),)
    if options["version"] is not None or options["label"] is not None:
        raise InputError("--version and --label belong to --model, not to --mix")
    found = []
    for text in options["mix"]:
        match = re.fullmatch(r"([^/=]+)(?:/([^/=]+))?=(\d+(?:\.\d+)?)", text)
        if match is None:
            raise InputError(f"--mix {text!r} is not MODEL=WEIGHT or MODEL/SIGNATURE=WEIGHT")
        found.append(Target(match[1], match[2] or options["signature"], float(match[3])))
    return tuple(found)


def _load(options: dict[str, Any]) -> Load:
    from toolkit.loadtest import Closed, Replay, constant, ramp, steps

    kinds = [name for name in ("rate", "steps", "ramp", "replay", "callers") if options[name] is not None]
    if options["find_max"]:
        if kinds not in ([], ["rate"]) or options["bound"] is not None:
            raise InputError("--find-max chooses the rates itself; only --rate, where it begins, goes with it")
        if not options["slo"]:
            raise InputError("--find-max needs --slo: the highest rate is the one that holds it")
        kinds, options["rate"] = ["rate"], options["rate"] or 10.0
    if len(kinds) != 1:
        raise InputError("give one of --rate, --steps, --ramp, --replay (open loop), --callers (closed loop)")
    kind, value, seconds = kinds[0], options[kinds[0]], options["duration"]
    bound, poisson = options["bound"], options["arrivals"] == "poisson"
    if kind == "callers":
        return Closed(value, seconds if bound is None else float("1e9"), bound)
    if kind == "rate":
        if not value > 0:
            raise InputError(f"--rate is {value}; it must be more than 0")
        return constant(value, seconds if bound is None else bound / value, poisson=poisson)
    if bound is not None:
        raise InputError(f"--requests goes with --rate and --callers; --{kind} says itself how many there are")
    if kind == "steps":
        return steps([_pair(part, "--steps", "RATE:SECONDS") for part in value.split(",")], poisson=poisson)
    if kind == "ramp":
        return ramp(*_pair(value, "--ramp", "FROM:TO"), seconds, poisson=poisson)
    return Replay(_times(value))


def _pair(text: str, option: str, form: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    try:
        return float(first), float(last)
    except ValueError:
        raise InputError(f"{option} {text!r} is not {form}") from None


def _times(path: Path) -> tuple[float, ...]:
    try:
        times = [float(line) for line in path.read_text().split()]
    except OSError as error:
        raise InputError(f"--replay {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"--replay {path}: {error}") from None
    first = times[0] if times else 0.0
    return tuple(time - first for time in times)


def _find_max(settings: Settings, options: dict[str, Any]) -> None:
    from rich.console import Console

    from toolkit.loadtest import save
    from toolkit.loadtest.findmax import find_max
    from toolkit.loadtest.html import write_search_html
    from toolkit.loadtest.show import search_summary, trial_words

    folder = options["folder"]
    _folder(folder)
    console = Console(highlight=False)
    found = find_max(settings, options["rate"], report=lambda point: console.print(trial_words(point)))
    save(found, folder / "report.json")
    write_search_html(found, folder / "report.html")
    console.print(search_summary(found))
    click.echo(f"report: {folder / 'report.html'}")
    if found.stopped == "interrupted":
        raise KeyboardInterrupt
    if found.stopped is not None:
        raise GeneratorError(found.stopped) if found.generator_limit else InputError(found.stopped)
    if found.rate is None:
        raise click.exceptions.Exit(_MISSED)


@command.command("compare")
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True))
def compare_command(a: Path, b: Path) -> None:
    """Compare the runs in A with those in B: a report.json each, or folders of them (--repeat 5 makes one).

    A change counts if it is larger than what runs differ by among themselves (permutation test, 5 %); that takes four
    runs on each side.
    """
    from rich.console import Console

    from toolkit.loadtest.compare import changes, read_runs
    from toolkit.loadtest.show import changes_table

    mine, theirs = read_runs(a), read_runs(b)
    Console(highlight=False).print(changes_table(changes(mine, theirs), len(mine), len(theirs)))


@command.command("plan")
@click.option("--from", "source", required=True, type=click.Path(path_type=Path, exists=True),
              help="Report of --find-max, or its folder, on one replica.")  # fmt: skip
@click.option("--rate", required=True, type=float, help="Requests a second to hold.")
@click.option("--slo", help="The objectives; must be those of the report. Default: those.")
@click.option("--per-node", default=1, show_default=True, help="Replicas on a node, lost together with it.")
@click.option("--cpus", type=float, help="CPUs of a replica, for the cost.")
@click.option("--price", type=float, help="Price of a CPU hour, for the cost.")
def plan_command(
    source: Path, rate: float, slo: str | None, per_node: int, cpus: float | None, price: float | None
) -> None:
    """Replicas for a rate, with one node to lose, and the cost of a million texts."""
    from toolkit.loadtest import parse_slo
    from toolkit.loadtest.plan import load_search, make_plan

    search = load_search(source)
    plan = make_plan(search, rate, parse_slo(slo) if slo else (), per_node=per_node, cpus=cpus, price=price)
    wanted = ",".join(map(str, search.objectives))
    click.echo(f"a replica holds {plan.per_replica:,.1f} requests/s under {wanted}")
    click.echo(f"replicas: {plan.replicas} ({plan.needed} for {rate:,.1f} requests/s, {plan.spare} for one lost node)")
    click.echo(f"load: {plan.utilisation:.0%} of what they hold, {plan.after_loss:.0%} after losing a node")
    if plan.cost is not None:
        click.echo(f"a million texts: {plan.cost:,.4g} at {price:g} a CPU hour, {cpus:g} CPUs a replica")


command.add_command(locust_command)
