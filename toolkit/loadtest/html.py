"""``report.html``: one file without a network, light and dark, for a screen of any width."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from hdrh.histogram import HdrHistogram

from toolkit.loadtest.charts import Line, chart
from toolkit.loadtest.findmax import Search
from toolkit.loadtest.measure import QUANTILES
from toolkit.loadtest.report import Report
from toolkit.loadtest.show import interval, milliseconds, result_words
from toolkit.loadtest.slo import percentile_of

__all__ = ["run_page", "search_page", "write_html", "write_search_html"]

_CSS = """
:root { color-scheme: light dark; --ground: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --soft: #5b6470; --faint: #b8c0ca;
  --blue: #1f6feb; --orange: #c2570c; --red: #c62828; --green: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1116; --card: #171b22; --ink: #e6e9ee; --soft: #9aa4b1;
  --faint: #4b5563; --blue: #6cb0ff; --orange: #ffa45c; --red: #ff7b72; --green: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 16px 48px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border-radius: 10px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; font-weight: 650; white-space: nowrap; } .tile span { color: var(--soft); }
.verdict { border-left: 4px solid var(--green); background: var(--card); padding: 8px 14px; margin: 8px 0;
  border-radius: 0 8px 8px 0; } .verdict.bad { border-color: var(--red); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border-radius: 10px; padding: 12px; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 6px; } svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; }
pre { background: var(--card); padding: 12px; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

_PERCENTS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999)


def write_html(report: Report, path: Path) -> None:
    path.write_text(run_page(report), encoding="utf-8")


def write_search_html(search: Search, path: Path) -> None:
    path.write_text(search_page(search), encoding="utf-8")


def _page(title: str, body: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _tiles(pairs: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in pairs
    )
    return f'<div class="tiles">{cells}</div>'


def _verdict(words: str, good: bool) -> str:
    return f'<div class="verdict{"" if good else " bad"}">{escape(words)}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], last_is_text: bool = False) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = []
    for row in rows:
        cells = [
            f"<td{' class=text' if last_is_text and place == len(row) - 1 else ''}>{escape(cell)}</td>"
            for place, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _figure(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def run_page(report: Report) -> str:
    """The page of one run."""
    measured = report.measured
    rate = measured.throughput
    tiles = [
        ("requests a second", f"{rate.requests:,.1f}"),
        ("rows a second", f"{rate.rows:,.1f}"),
        *([("tokens a second", f"{rate.tokens:,.0f}")] if rate.tokens is not None else []),
        ("p50", milliseconds(measured.latency.at(0.5).value)),
        ("p99", milliseconds(measured.latency.at(0.99).value)),
        ("longest", milliseconds(measured.latency.max)),
        ("failed", f"{measured.failed:,} of {measured.sent:,}"),
    ]
    since = "the send" if report.closed else "the intended send"
    body = [
        f"<h1>Load test of {escape(', '.join(report.targets))}</h1>",
        f'<p class="soft">{escape(report.url)} · {escape(report.load_words)} · measured for {measured.seconds:.1f} s '
        f"· {escape(report.environment.started)}</p>",
        f'<p class="soft">Texts: {escape(report.settings["texts"])}, {escape(report.settings["rows"])} rows a request. '
        f"Latency is from {since} to the answer; failed requests rank behind all answers.</p>",
        *_verdicts(report),
        _tiles(tiles),
        "<h2>Over time</h2>",
        f'<div class="charts">{"".join(_charts(report))}</div>',
        "<h2>Latency</h2>",
        _latency_table(report),
    ]
    if measured.errors:
        rows = [[name, f"{count:,}", measured.examples.get(name, "")] for name, count in measured.errors.items()]
        body += ["<h2>Errors</h2>", _table(["status", "requests", "for example"], rows, last_is_text=True)]
    if measured.by_target:
        rows = [
            [name, f"{kind.answered:,}", f"{kind.failed:,}", *(milliseconds(kind.at(q).value) for q in QUANTILES)]
            for name, kind in measured.by_target.items()
        ]
        head = ["model", "answered", "failed", *(item.name for item in measured.latency.quantiles)]
        body += ["<h2>By model</h2>", _table(head, rows)]
    return _page("Load test", [*body, *_origin(report)])


def _verdicts(report: Report) -> list[str]:
    found = [_verdict(result_words(result), result.held) for result in report.verdict]
    if not report.lag.held and report.lag.share is not None:
        words = (
            f"The generator was the limit: {report.lag.share:.1%} of the latency at {report.lag.worst} comes from "
            f"requests sent late (at most {report.lag.bound:.2%} allowed). These are not the server's figures."
        )
        found.append(_verdict(words, False))
    elif report.lag.share is not None:
        found.append(
            _verdict(f"The generator kept to its times: at most {report.lag.share:.2%} of a latency is its own.", True)
        )
    if report.closed:
        found.append(
            _verdict("Closed loop: callers wait for answers, so a stall is seen by few and hides the rest.", False)
        )
    if report.stopped is not None:
        found.append(_verdict(f"Ended early: {report.stopped}", False))
    return found


def _charts(report: Report) -> list[str]:
    series = report.measured.series
    if not series:
        return []
    at = [second.at for second in series]

    def ms(values: Sequence[float | None]) -> list[float | None]:
        return [None if value is None else value * 1000 for value in values]

    bounds = [
        (result.objective.bound * 1000, str(result.objective), "red")
        for result in report.verdict
        if result.objective.name != "errors"
    ]
    lines = [
        Line("p50", at, ms([s.p50 for s in series]), "blue"),
        Line("p99", at, ms([s.p99 for s in series]), "orange"),
        Line("longest", at, ms([s.max for s in series]), "ink", dashed=True),
    ]
    charts = [
        ("Latency", chart("Latency over time", lines, "seconds", "ms", log_y=True, horizontals=bounds)),
        ("Percentiles", _percentiles(report, bounds)),
    ]
    # the last second may be a part of one
    whole = series[:-1] if len(series) > 1 and report.measured.seconds % 1 else series
    rates = [
        Line("sent", at[: len(whole)], [float(s.sent) for s in whole], "ink", dashed=True),
        Line("answered", at[: len(whole)], [float(s.answered) for s in whole], "blue"),
    ]
    charts.append(("Requests a second", chart("Throughput over time", rates, "seconds", "requests/s")))
    failed = Line("failed", at, [float(s.failed) for s in series], "red", bars=True)
    charts.append(("Failed requests", chart("Errors over time", [failed], "seconds", "requests/s")))
    server = report.server.series if report.server is not None else ()
    if server:
        when = [point.at for point in server]
        batches = Line("rows a batch", when, [p.batch_rows for p in server], "blue", marker=True)
        waits = Line("queue", when, ms([p.queue_seconds for p in server]), "orange", marker=True)
        graph = Line("graph", when, ms([p.graph_seconds for p in server]), "blue", marker=True)
        cpus = Line("CPUs", when, [p.cpu for p in server], "green", marker=True)
        charts.append(("Server: batch sizes", chart("Batch sizes", [batches], "seconds", "rows a batch")))
        charts.append(
            (
                "Server: queue and graph",
                chart("Server times", [line for line in (waits, graph) if any(line.y)], "seconds", "ms"),
            )
        )
        charts.append(("Server: CPUs busy", chart("Server CPU", [cpus], "seconds", "CPUs")))
        memory = [None if p.memory is None else p.memory / 2**20 for p in server]
        charts.append(("Server: memory", chart("Server memory", [Line("MiB", when, memory, "ink")], "seconds", "MiB")))
    return [_figure(title, svg) for title, svg in charts]


def _percentiles(report: Report, bounds: list[tuple[float, str, str]]) -> str:
    lines = []
    kinds = [("from the intended send", report.measured.latency, "blue", False)]
    if not report.closed:
        kinds.append(("from the actual send", report.measured.service, "orange", True))
    for name, kind, colour, dashed in kinds:
        total = kind.answered + kind.failed
        xs, ys, seen = [], [], 0
        if kind.histogram:
            for item in HdrHistogram.decode(kind.histogram).get_recorded_iterator():
                seen += item.count_added_in_this_iter_step
                # the last request of all has no percentile of its own
                if seen < total:
                    xs.append(total / (total - seen))
                    ys.append(item.value_iterated_to / 1e6)
        lines.append(Line(name, xs, ys, colour, dashed=dashed))
    longest = max((x for line in lines for x in line.x), default=10.0)
    ticks = [(1 / (1 - q), f"{q * 100:.6g}%") for q in _PERCENTS if 1 / (1 - q) <= longest]
    return chart("Latency by percentile", lines, "requests answered within", "ms", log_x=True, log_y=True,
                 x_ticks=ticks, horizontals=bounds)  # fmt: skip


def _latency_table(report: Report) -> str:
    measured = report.measured
    head = ["", "latency", "95 % interval"] + ([] if report.closed else ["since the actual send", "sent late by"])
    kinds = [] if report.closed else [measured.service, measured.lag]
    rows = [
        [
            item.name,
            milliseconds(item.value),
            interval(item),
            *(milliseconds(kind.at(item.q).value) for kind in kinds),
        ]
        for item in measured.latency.quantiles
    ]
    rows.append(["max", milliseconds(measured.latency.max), "", *(milliseconds(kind.max) for kind in kinds)])
    return _table(head, rows)


def _origin(report: Report) -> list[str]:
    place = report.environment
    generator = report.generator
    rows = [
        ["sentence-serving", place.version],
        ["Python", place.python],
        ["machine", f"{place.cpu}, {place.cpus} CPUs, {place.platform}"],
        ["generator", f"{generator.processes} processes, {generator.cpu:.1f} CPU seconds"],
        *([name, str(value)] for name, value in report.settings.items()),
    ]
    return [
        "<h2>Where and how</h2>",
        _table(["", ""], rows, last_is_text=True),
        f"<h2>Again</h2><pre>{escape(report.command)}</pre>",
    ]


def search_page(search: Search) -> str:
    """The page of a search for the highest rate."""
    wanted = ",".join(map(str, search.objectives))
    # along the axis: a rate above the highest may be answered less often than one below
    points = sorted((point for point in search.points if point.p99 is not None), key=lambda point: point.throughput)
    by_rate = [point.throughput for point in points]
    lines = [
        Line("p50", by_rate, [p.p50 * 1000 if p.p50 else None for p in points], "blue", marker=True),
        Line("p99", by_rate, [p.p99 * 1000 if p.p99 else None for p in points], "orange", marker=True),
    ]
    at = {point.rate: point.throughput for point in points}
    marks = []
    if search.knee in at:
        marks.append((at[search.knee], "knee", "ink"))
    if search.rate in at:
        marks.append((at[search.rate], "highest that holds", "green"))
    bounds = [(o.bound * 1000, str(o), "red") for o in search.objectives if percentile_of(o) is not None]
    figures = [
        _figure(
            "Latency against throughput",
            chart(
                "Latency against throughput",
                lines,
                "answers a second",
                "ms",
                log_y=True,
                verticals=marks,
                horizontals=bounds,
            ),
        ),
    ]
    for title, values in (("Server: CPUs busy", [p.cpu for p in points]),
                          ("Server: rows a batch", [p.batch_rows for p in points])):  # fmt: skip
        if any(value is not None for value in values):
            line = Line(title, by_rate, values, "green", marker=True)
            figures.append(_figure(title, chart(title, [line], "answers a second", "")))
    head = ["rate", "answered/s", "rows/s", "p50", "p95", "p99", "errors", "trials", "decision"]
    rows = [
        [
            f"{p.rate:,.1f}",
            f"{p.throughput:,.1f}",
            f"{p.rows:,.1f}",
            *(milliseconds(value) for value in (p.p50, p.p95, p.p99)),
            f"{p.errors:.2%}",
            str(p.trials),
            p.decision,
        ]
        for p in search.points
    ]
    if search.stopped is not None:
        verdict = _verdict(f"No answer: {search.stopped}", False)
    elif search.rate is None:
        verdict = _verdict(f"No rate holds {wanted}", False)
    else:
        words = f"Holds {wanted} up to {search.rate:,.1f} requests a second, with {search.confidence:.0%} confidence"
        verdict = _verdict(words, True)
    body = [
        f"<h1>Highest rate of {escape(', '.join(search.last.targets))}</h1>",
        f'<p class="soft">{escape(search.url)} · {escape(wanted)} · {escape(search.environment.started)}</p>',
        verdict,
        f'<div class="charts">{"".join(figures)}</div>',
        "<h2>Rates tried</h2>",
        _table(head, rows),
    ]
    return _page("Highest rate", [*body, *_origin(search.last)])
