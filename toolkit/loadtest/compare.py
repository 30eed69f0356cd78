"""Two sets of runs side by side: each figure's change, and whether it is more than noise.

The noise that matters is that between runs, which no interval from within one run contains. The test is therefore an
exact permutation test over whole runs: of all ways to deal the runs into two sets of these sizes, in what share do the
means lie at least as far apart? It assumes nothing of how the figures are distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from random import Random
from statistics import fmean

from toolkit.errors import InputError
from toolkit.loadtest.measure import QUANTILES, quantile_name
from toolkit.loadtest.report import Report, load

__all__ = ["Change", "changes", "permutation_p", "read_runs"]

LEVEL = 0.05
_EXACT = 20_000  # deals; above it so many are drawn at random


@dataclass(frozen=True)
class Change:
    """One figure: its means in A and B (``None``: some run has none), the change as a share of A, the share of deals at
    least as far apart, and what that means: ``changed``, ``noise``, or ``too few runs``."""

    name: str
    unit: str
    a: float | None
    b: float | None
    share: float | None
    p: float | None
    verdict: str


def read_runs(path: Path) -> list[Report]:
    """A report, or all ``report.json`` below a folder. Raises `InputError`."""
    files = sorted(path.rglob("report.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no report.json")
    return [load(file) for file in files]


def permutation_p(a: list[float], b: list[float]) -> float:
    """The two-sided p value of the difference of the means, exact up to 20,000 deals."""
    both = a + b
    total, size = sum(both), len(a)
    seen = abs(fmean(a) - fmean(b)) * (1 - 1e-9)

    def far(first: float) -> bool:
        return abs(first / size - (total - first) / len(b)) >= seen

    if comb(len(both), size) <= _EXACT:
        deals = [far(sum(chosen)) for chosen in combinations(both, size)]
        return sum(deals) / len(deals)
    random = Random(0)
    # the deal that was seen counts as one of those drawn, so that p is never 0
    hits = 1 + sum(far(sum(random.sample(both, size))) for _ in range(_EXACT))
    return hits / (_EXACT + 1)


def _figures() -> list[tuple[str, str, Callable[[Report], float | None]]]:
    def quantile(q: float) -> Callable[[Report], float | None]:
        return lambda report: report.measured.latency.at(q).value

    def server(name: str) -> Callable[[Report], float | None]:
        return lambda report: None if report.server is None else getattr(report.server.whole, name)

    return [
        ("requests", "1/s", lambda report: report.measured.throughput.requests),
        ("rows", "1/s", lambda report: report.measured.throughput.rows),
        ("tokens", "1/s", lambda report: report.measured.throughput.tokens),
        ("errors", "%", lambda report: report.measured.error_rate),
        ("mean", "s", lambda report: report.measured.latency.mean),
        *((quantile_name(q), "s", quantile(q)) for q in QUANTILES),
        ("max", "s", lambda report: report.measured.latency.max),
        ("server queue", "s", server("queue_seconds")),
        ("server graph", "s", server("graph_seconds")),
        ("server rows a batch", "", server("batch_rows")),
        ("server CPUs", "", server("cpu")),
        ("server memory", "B", server("memory")),
    ]


def changes(a: list[Report], b: list[Report]) -> list[Change]:
    """Every figure that both sets have. Raises `InputError` if the loads differ: then nothing can be said."""
    loads = {str((report.load, report.settings["texts"], report.settings["rows"])) for report in a + b}
    if len(loads) > 1:
        raise InputError(f"the runs were not under the same load: {'; '.join(sorted(loads))}")
    found = []
    for name, unit, figure in _figures():
        mine, theirs = [figure(report) for report in a], [figure(report) for report in b]
        if all(value is None for value in mine + theirs):
            continue
        found.append(_change(name, unit, mine, theirs))
    return found


def _change(name: str, unit: str, a: list[float | None], b: list[float | None]) -> Change:
    mine, theirs = [value for value in a if value is not None], [value for value in b if value is not None]
    if len(mine) < len(a) or len(theirs) < len(b):
        return Change(name, unit, fmean(mine) if mine else None, fmean(theirs) if theirs else None, None, None,
                      "some runs have none")  # fmt: skip
    before, after = fmean(mine), fmean(theirs)
    p = permutation_p(mine, theirs)
    # with so few runs even the most extreme deal is not rare enough
    least = (2 if len(mine) == len(theirs) else 1) / comb(len(mine) + len(theirs), len(mine))
    verdict = "too few runs" if least > LEVEL else "changed" if p <= LEVEL else "noise"
    return Change(name, unit, before, after, (after - before) / before if before else None, p, verdict)
