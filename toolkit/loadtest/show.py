"""The summary people read on a terminal, and the line that moves while a run is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from toolkit.loadtest.compare import Change
from toolkit.loadtest.findmax import Point, Search
from toolkit.loadtest.measure import QUANTILES, Distribution, Quantile, Recorder
from toolkit.loadtest.report import Report
from toolkit.loadtest.slo import Result

__all__ = [
    "changes_table",
    "interval",
    "live",
    "milliseconds",
    "result_words",
    "search_summary",
    "summary",
    "trial_words",
]


def milliseconds(seconds: float | None, missing: str = "no answer") -> str:
    """``12.3 ms``, with the digits that matter."""
    if seconds is None:
        return missing
    value = seconds * 1000
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def interval(item: Quantile) -> str:
    """``191 to 478 ms``; an end that nothing measured bounds is a question mark."""
    return f"{milliseconds(item.low, '?').removesuffix(' ms')} to {milliseconds(item.high, '?')}"


def result_words(result: Result) -> str:
    """``p99=50ms held: 31.2 ms``."""
    objective = result.objective
    if objective.name == "errors":
        value = "nothing sent" if result.value is None else f"{result.value:.3%}"
    else:
        value = milliseconds(result.value)
    return f"{objective} {'held' if result.held else 'MISSED'}: {value}"


def _latencies(report: Report) -> Table:
    measured = report.measured
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("latency")
    table.add_column("since the send" if report.closed else "since the intended send", justify="right", style="bold")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if not report.closed:
        table.add_column("actual send", justify="right")
        table.add_column("sent late by", justify="right")
    kinds: list[Distribution] = [] if report.closed else [measured.service, measured.lag]
    for q in QUANTILES:
        item = measured.latency.at(q)
        others = [milliseconds(kind.at(q).value) for kind in kinds]
        table.add_row(item.name, milliseconds(item.value), interval(item), *others)
    table.add_row("max", milliseconds(measured.latency.max), "", *(milliseconds(kind.max) for kind in kinds))
    return table


def summary(report: Report) -> Group:
    """All that matters of a report, for `rich.console.Console.print`."""
    measured = report.measured
    rate = measured.throughput
    tokens = "tokens not counted" if rate.tokens is None else f"{rate.tokens:,.0f} tokens/s"
    lines = [
        f"{report.url}  {', '.join(report.targets)}",
        f"{report.load_words}; measured for {measured.seconds:.1f} s",
        f"texts       {report.settings['texts']}, {report.settings['rows']} rows a request",
        f"throughput  {rate.requests:,.1f} requests/s, {rate.rows:,.1f} rows/s, {tokens}",
        f"requests    {measured.sent:,} sent, {measured.answered:,} answered, {measured.failed:,} failed"
        + (f", {measured.unfinished} unfinished" if measured.unfinished else "")
        + (f", {measured.retries} sent again" if report.settings["attempts"] > 1 else ""),
    ]
    parts: list[Text | Table] = [Text(line) for line in lines]
    for name, count in measured.errors.items():
        parts.append(Text(f"  {count:,} x {name}: {measured.examples.get(name, '')[:200]}", style="red"))
    if measured.sent and measured.answered:
        parts.append(_latencies(report))
    server = report.server.whole if report.server is not None else None
    if server is not None:
        figures = {
            "queue": milliseconds(server.queue_seconds, ""),
            "graph": milliseconds(server.graph_seconds, ""),
            "rows a batch": "" if server.batch_rows is None else f"{server.batch_rows:.1f}",
            "tokens a batch": "" if server.batch_tokens is None else f"{server.batch_tokens:.0f}",
            "CPUs": "" if server.cpu is None else f"{server.cpu:.2f}",
            "memory": "" if server.memory is None else f"{server.memory / 2**20:,.0f} MiB",
        }
        parts.append(Text("server      " + ", ".join(f"{name} {value}" for name, value in figures.items() if value)))
    for result in report.verdict:
        parts.append(Text(result_words(result), style="bold green" if result.held else "bold red"))
    if not report.lag.held and report.lag.share is not None:
        parts.append(
            Text(
                f"THE GENERATOR WAS THE LIMIT: {report.lag.share:.1%} of the latency at {report.lag.worst} comes from "
                f"requests sent late (at most {report.lag.bound:.2%} allowed, --max-lag). These are not the server's "
                "figures: use more --processes, another machine, or a lower rate.",
                style="bold red",
            )
        )
    if report.generator.lost:
        parts.append(Text(f"{report.generator.lost} worker processes ended before their time", style="bold red"))
    if report.stopped is not None:
        parts.append(Text(f"ended early: {report.stopped}", style="yellow"))
    return Group(*parts)


def changes_table(changes: list[Change], runs_a: int, runs_b: int) -> Table:
    """The comparison of two sets of runs."""
    table = Table(title=f"{runs_a} runs against {runs_b}", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("figure", "A", "B", "change", "p", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for item in changes:
        style = "bold" if item.verdict == "changed" else ""
        table.add_row(
            item.name,
            _figure(item.a, item.unit),
            _figure(item.b, item.unit),
            "" if item.share is None else f"{item.share:+.1%}",
            "" if item.p is None else f"{item.p:.3f}",
            item.verdict,
            style=style,
        )
    return table


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s":
        return milliseconds(value)
    if unit == "%":
        return f"{value:.2%}"
    if unit == "B":
        return f"{value / 2**20:,.0f} MiB"
    return f"{value:,.1f}{'/s' if unit else ''}"


def trial_words(point: Point) -> str:
    """One line of a search."""
    times = "" if point.trials == 1 else f" in {point.trials} trials"
    return (
        f"{point.rate:10,.1f} requests/s: p50 {milliseconds(point.p50)}, p99 {milliseconds(point.p99)}, "
        f"errors {point.errors:.2%}: {point.decision}{times}"
    )


def search_summary(search: Search) -> Group:
    """What a search found, for `rich.console.Console.print`."""
    wanted = ",".join(map(str, search.objectives))
    if search.stopped is not None:
        return Group(Text(f"no answer: {search.stopped}", style="bold red"))
    if search.rate is None:
        return Group(Text(f"no rate holds {wanted}", style="bold red"))
    point = next(point for point in search.points if point.rate == search.rate)
    tokens = "" if point.tokens is None else f", {point.tokens:,.0f} tokens/s"
    lines = [Text(f"holds {wanted} up to {search.rate:,.1f} requests/s ({point.rows:,.1f} rows/s{tokens}), "
                  f"with {search.confidence:.0%} confidence", style="bold green")]  # fmt: skip
    if search.missed is not None:
        lines.append(Text(f"does not hold it at {search.missed:,.1f} requests/s"))
    if search.knee is not None:
        lines.append(Text(f"most throughput for its latency at {search.knee:,.1f} requests/s (the knee)"))
    return Group(*lines)


@contextmanager
def live(console: Console, seconds: float, title: str) -> Iterator[Callable[[float, Recorder], None]]:
    """Yield a function that shows how a run is going, on a terminal; elsewhere it does nothing."""
    if not console.is_terminal:
        yield lambda now, recorder: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=seconds, now="")

        def show(now: float, recorder: Recorder) -> None:
            words = "warming up"
            if now >= recorder.begin + 1:
                second = recorder.second(int(now - recorder.begin) - 1)
                words = (
                    f"{second.sent} sent/s, p50 {milliseconds(second.p50, '-')}, p99 {milliseconds(second.p99, '-')}, "
                    f"{sum(recorder.errors.values())} failed"
                )
            bar.update(task, completed=min(now, seconds), now=words)

        yield show
