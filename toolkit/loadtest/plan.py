"""How many replicas a rate takes, and what a million texts cost, from a measured highest rate."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import cast

from toolkit.errors import InputError
from toolkit.loadtest.findmax import Search
from toolkit.loadtest.report import SCHEMA, read_json, rebuild
from toolkit.loadtest.slo import Objective

__all__ = ["Plan", "load_search", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """``needed``: replicas that hold the rate; ``replicas``: with those of one lost node on top. ``utilisation``: the
    share of their highest rate at which the replicas run; ``after_loss``: the same when a node is gone. ``cost``: of a
    million texts, in the currency of the price, with all replicas running at the planned rate."""

    rate: float
    per_replica: float
    needed: int
    spare: int
    replicas: int
    utilisation: float
    after_loss: float
    rows_per_second: float
    cost: float | None


def load_search(path: Path) -> Search:
    """Read the ``report.json`` of ``--find-max``. Raises `InputError`."""
    value = read_json(path / "report.json" if path.is_dir() else path)
    if value.get("kind") != "find-max" or value.get("schema") != SCHEMA:
        raise InputError(f"{path} is no report of loadtest --find-max, of schema {SCHEMA}")
    return cast(Search, rebuild(Search, value, str(path)))


def make_plan(
    search: Search,
    rate: float,
    objectives: tuple[Objective, ...],
    *,
    per_node: int = 1,
    cpus: float | None = None,
    price: float | None = None,
) -> Plan:
    """Replicas for ``rate`` requests a second under ``objectives``, which must be those that were searched for.

    ``per_node``: replicas on a node, all lost with it; ``cpus``: CPUs of a replica; ``price``: of a CPU hour.
    needed = ceil(rate / highest); replicas = needed + per_node, so that any node may be lost;
    cost of a million texts = 10⁶ / (rate x rows a request) / 3600 x replicas x cpus x price.
    """
    if not 0 < rate < float("inf"):
        raise InputError(f"--rate is {rate}; it must be more than 0")
    if search.rate is None:
        raise InputError("the search found no rate that holds its objectives; there is nothing to plan with")
    if objectives and set(objectives) != set(search.objectives):
        wanted, found = (",".join(sorted(map(str, items))) for items in (objectives, search.objectives))
        raise InputError(f"--slo is {wanted}, but the search was for {found}; search again for other objectives")
    if per_node < 1:
        raise InputError(f"--per-node is {per_node}; it must be at least 1")
    if (cpus is None) != (price is None):
        raise InputError("the cost takes both --cpus and --price")
    if cpus is not None and price is not None and not (cpus > 0 and price >= 0):
        raise InputError(f"--cpus is {cpus} and --price is {price}; they must be positive")
    point = next(point for point in search.points if point.rate == search.rate)
    rows = point.rows / point.throughput * rate if point.throughput else 0.0
    # what floating point adds to a whole number is no replica
    needed = max(1, ceil(rate / search.rate - 1e-9))
    replicas = needed + per_node
    cost = None
    if cpus is not None and price is not None:
        cost = 1e6 / rows / 3600 * replicas * cpus * price
    return Plan(
        rate=rate,
        per_replica=search.rate,
        needed=needed,
        spare=per_node,
        replicas=replicas,
        utilisation=rate / (replicas * search.rate),
        after_loss=rate / (needed * search.rate),
        rows_per_second=rows,
        cost=cost,
    )
