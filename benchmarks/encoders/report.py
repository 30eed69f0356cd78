"""Tables and plots from results.

Rates are medians over the rounds, ratios medians of each round's ratio. Rounds have different texts, so that a round's
rate is that of its operations a second, for texts of average length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.encoders.models import MODELS
from benchmarks.encoders.texts import LONG_SETS

__all__ = ["TARGETS", "best", "plot", "rate", "ratio", "replace_section", "section", "share_of_peak"]

Results = Mapping[str, Any]
"""``{"plan": ..., "variants": {name: ...}}``, as `benchmarks.encoders.measure` makes it."""


def rate(results: Results, name: str, batch: int, clock: str | None = None) -> float:
    """Sentences a second."""
    clock = clock or results["plan"]["clock"]
    rounds = _rounds(results, name, batch)
    operations = sum(item["flops"] for item in rounds) / sum(item["sentences"] for item in rounds)
    return median(item["flops"] / item[clock] for item in rounds) / operations


def ratio(results: Results, name: str, other: str, batch: int) -> float:
    """How many times faster ``name`` is than ``other``: both worked on the same texts in each round."""
    clock = results["plan"]["clock"]
    pairs = zip(_rounds(results, name, batch), _rounds(results, other, batch), strict=True)
    return median(second[clock] / first[clock] for first, second in pairs)


def share_of_peak(results: Results, name: str, batch: int) -> float | None:
    """Operations a second as a share of those of the fastest fp32 matrix product; None if none was measured."""
    clock = results["plan"]["clock"]
    peaks = _named(results, "gemm", "fp32")
    if not peaks:
        return None

    def speed(variant: str) -> float:
        return median(item["flops"] / item[clock] for item in _rounds(results, variant, batch))

    return speed(name) / max(map(speed, peaks))


def best(results: Results, kind: str, precision: str, batch: int) -> str | None:
    """The name of the fastest variant of a kind and precision, None if there is none."""
    return max(_named(results, kind, precision), key=lambda name: rate(results, name, batch), default=None)


def _named(results: Results, kind: str, precision: str) -> list[str]:
    return [v["name"] for v in results["variants"].values() if (v["kind"], v["precision"]) == (kind, precision)]


def _rounds(results: Results, name: str, batch: int) -> Sequence[Mapping[str, float]]:
    found: Sequence[Mapping[str, float]] = results["variants"][name]["rounds"][str(batch)]
    return found


def batches(results: Results) -> list[int]:
    return [int(batch) for batch in results["plan"]["sentences"]]


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at: ``other`` names what ``name`` is compared with, for a batch size."""

    title: str
    name: str
    other: Callable[[Results, int], str | None]
    aim: Mapping[int, float]
    """From this batch size on, at least this ratio."""
    long: Mapping[int, float] = field(default_factory=dict)
    """The same for texts that are all equally long, of which no order saves padding."""

    def at(self, texts: str, batch: int) -> float | None:
        """The aim for a set of texts and a batch size."""
        aim = self.long if texts in LONG_SETS else self.aim
        found = [value for least, value in sorted(aim.items()) if batch >= least]
        return found[-1] if found else None


def _is(name: str) -> Callable[[Results, int], str | None]:
    return lambda results, batch: name if name in results["variants"] else None


def _best(precision: str) -> Callable[[Results, int], str | None]:
    return lambda results, batch: best(results, "peer", precision, batch)


TARGETS: Sequence[Target] = (
    Target("ours-fp32 / best sorted fp32 peer", "ours-fp32", _best("fp32"), {1: 1.0, 8: 1.4}, {1: 1.0, 8: 1.1}),
    Target("ours-fp32 / sentence-transformers as shipped", "ours-fp32", _is("sentence-transformers"), {32: 4.0}),
    Target("ours-fp32 / the Keras recipe", "ours-fp32", _is("keras-recipe"), {32: 5.0}),
    Target("ours-bf16 / openvino-bf16", "ours-bf16", _is("openvino-bf16"), {8: 1.25}),
    Target("ours-bf16 / best sorted fp32 peer", "ours-bf16", _best("fp32"), {8: 2.3}),
    Target("ours-int8 / best sorted int8 peer", "ours-int8", _best("int8"), {1: 1.0}),
    Target("ours-int8 / ours-fp32", "ours-int8", _is("ours-fp32"), {1: 2.2}),
    Target("ours-fp32 from strings / from token ids", "ours-fp32-strings", _is("ours-fp32"), {1: 0.95}),
)


def rates_table(results: Results) -> Iterator[str]:
    """Sentences a second for each batch size, share of the peak at the largest, distance from the reference."""
    sizes = batches(results)
    columns = [*(f"batch {n}" for n in sizes), "share of peak", "max abs error", "cosine, mean and min"]
    yield f"| variant | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (len(sizes) + 3)
    for name, variant in results["variants"].items():
        if variant["kind"] == "gemm":
            continue
        share = share_of_peak(results, name, sizes[-1])
        rates = [rate(results, name, size) for size in sizes]
        cells = [f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}" for value in rates]
        cells.append("" if share is None else f"{share:.0%}")
        error = variant["error"]
        cells += [f"{error['max_abs']:.1e}", f"{error['cosine_mean']:.6f} {error['cosine_min']:.6f}"]
        yield f"| {variant['title']} | {' | '.join(cells)} |"


def ratios_table(results: Results) -> Iterator[str]:
    """The ratios that are aimed at, with the aim in brackets."""
    sizes = batches(results)
    rows = []
    for target in TARGETS:
        if target.name not in results["variants"]:
            continue
        others = {size: target.other(results, size) for size in sizes}
        if None in others.values():
            continue
        cells = []
        for size, other in others.items():
            assert other is not None
            aim = target.at(results["plan"]["texts"], size)
            cells.append(f"{ratio(results, target.name, other, size):.2f}" + (f" ({aim:g})" if aim else ""))
        rows.append(f"| {target.title} | {' | '.join(cells)} |")
    if rows:
        yield f"| ratio (aim) | {' | '.join(f'batch {n}' for n in sizes)} |"
        yield "|---|" + "---:|" * len(sizes)
        yield from rows


def latency_table(results: Results) -> Iterator[str]:
    """Wall milliseconds of requests of one text, of all rounds together; nothing where none were measured."""
    each = {
        variant["title"]: [1e3 * seconds for item in variant["rounds"].get("1", []) for seconds in item.get("each", [])]
        for variant in results["variants"].values()
        if variant["kind"] != "gemm"
    }
    measured = {title: found for title, found in each.items() if found}
    if not measured:
        return
    yield "| one text, ms by the wall | p50 | p95 | p99 |"
    yield "|---|---:|---:|---:|"
    for title, found in measured.items():
        yield f"| {title} | {' | '.join(f'{value:.1f}' for value in np.percentile(found, [50, 95, 99]))} |"
    yield ""


def peaks(results: Results) -> Iterator[str]:
    """The matrix products, in GFLOP/s."""
    clock, batch = results["plan"]["clock"], batches(results)[-1]
    found = []
    for name, variant in results["variants"].items():
        if variant["kind"] == "gemm":
            speed = median(item["flops"] / item[clock] for item in _rounds(results, name, batch))
            found.append(f"{variant['title'].removeprefix('matrix product ')} {speed / 1e9:.0f}")
    if found:
        yield f"Large matrix products in the same run, GFLOP/s: {'; '.join(found)}."


def ways(results: Results) -> Iterator[str]:
    """How each peer sorted."""
    for variant in results["variants"].values():
        if variant["kind"] == "peer":
            chosen = "; ".join(f"batch {batch}: {way}" for batch, way in variant["ways"].items())
            yield f"- {variant['name']}: {chosen}"


def section(results: Results) -> Iterator[str]:
    """All about one comparison."""
    plan, about = results["plan"], results["about"]
    seconds = "CPU second" if plan["clock"] == "cpu" else "second"
    cores = "1 core" if plan["cores"] == 1 else f"{plan['cores']} cores"
    yield f"### {MODELS[plan['model']]}, {plan['texts']} texts, {cores}"
    yield ""
    yield f"Sentences a {seconds}, {plan['rounds']} rounds, {about['date']}, {about['machine']}; {about['versions']}."
    yield ""
    yield from rates_table(results)
    yield ""
    yield from ratios_table(results)
    yield ""
    yield from latency_table(results)
    yield from peaks(results)
    yield ""
    yield "How each peer was given its rows, the best that was found:"
    yield ""
    yield from ways(results)


def replace_section(document: str, name: str, lines: Sequence[str]) -> str:
    """The document with ``lines`` between the comments ``<!-- name -->`` and ``<!-- /name -->``.

    Raises ``ValueError`` if it does not have both.
    """
    start, stop = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = document.partition(start)
    _, closed, after = rest.partition(stop)
    if not (found and closed):
        raise ValueError(f"no {start} ... {stop} in the document")
    return f"{before}{start}\n" + "\n".join(lines).rstrip() + f"\n{stop}{after}"


def plot(results: Results, file: Path) -> None:
    """Sentences a second over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plan, sizes = results["plan"], batches(results)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    styles = {"ours": "-", "peer": "--", "shipped": ":", "recipe": ":"}
    markers = {"fp32": "o", "bf16": "s", "int8": "^"}
    for name, variant in results["variants"].items():
        if variant["kind"] != "gemm" and not name.endswith("-strings"):
            rates = [rate(results, name, size) for size in sizes]
            style, marker = styles[variant["kind"]], markers[variant["precision"]]
            axes.plot(sizes, rates, style, marker=marker, markersize=4, label=variant["title"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("texts in a request")
    axes.set_ylabel("sentences a second")
    axes.set_title(f"{MODELS[plan['model']]}, {plan['texts']} texts, {plan['cores']} core(s)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
