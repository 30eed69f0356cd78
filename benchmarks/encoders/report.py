"""Tables from results: rates as medians over the rounds, ratios as medians of each round's ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["best", "rate", "rates_table", "ratio", "share_of_peak"]

Results = Mapping[str, Any]
"""``{"plan": ..., "variants": {name: ...}}``, as `benchmarks.encoders.measure` makes it."""


def rate(results: Results, name: str, batch: int, clock: str | None = None) -> float:
    """Sentences a second."""
    clock = clock or results["plan"]["clock"]
    return median(item["sentences"] / item[clock] for item in _rounds(results, name, batch))


def ratio(results: Results, name: str, other: str, batch: int) -> float:
    """How many times faster ``name`` is than ``other``: both worked on the same texts in each round."""
    clock = results["plan"]["clock"]
    pairs = zip(_rounds(results, name, batch), _rounds(results, other, batch), strict=True)
    return median(second[clock] / first[clock] for first, second in pairs)


def share_of_peak(results: Results, name: str, batch: int) -> float | None:
    """Operations a second as a share of those of the fastest fp32 matrix product; None if none was measured."""
    clock = results["plan"]["clock"]
    peaks = [v["name"] for v in results["variants"].values() if v["kind"] == "gemm" and v["precision"] == "fp32"]
    if not peaks:
        return None
    speeds = [[item["flops"] / item[clock] for item in _rounds(results, peak, batch)] for peak in peaks]
    peak = max(median(items) for items in speeds)
    return median(item["flops"] / item[clock] for item in _rounds(results, name, batch)) / peak


def best(results: Results, kind: str, precision: str, batch: int) -> str | None:
    """The name of the fastest variant of a kind and precision, None if there is none."""
    names = [v["name"] for v in results["variants"].values() if v["kind"] == kind and v["precision"] == precision]
    return max(names, key=lambda name: rate(results, name, batch), default=None)


def _rounds(results: Results, name: str, batch: int) -> Sequence[Mapping[str, float]]:
    found: Sequence[Mapping[str, float]] = results["variants"][name]["rounds"][str(batch)]
    return found


def batches(results: Results) -> list[int]:
    return [int(batch) for batch in results["plan"]["sentences"]]


def rates_table(results: Results) -> list[str]:
    """Sentences a second for each batch size, share of the peak at the largest, distance from the reference."""
    sizes = batches(results)
    lines = [
        f"| variant | {' | '.join(f'batch {size}' for size in sizes)} | share of peak | max abs error | min cosine |",
        "|---|" + "---:|" * (len(sizes) + 3),
    ]
    for name, variant in results["variants"].items():
        if variant["kind"] == "gemm":
            continue
        share = share_of_peak(results, name, sizes[-1])
        cells = [f"{rate(results, name, size):.0f}" for size in sizes]
        cells.append("" if share is None else f"{share:.0%}")
        error = variant["error"]
        cells += [f"{error['max_abs']:.1e}", f"{error['cosine_min']:.6f}"]
        lines.append(f"| {variant['title']} | {' | '.join(cells)} |")
    return lines
