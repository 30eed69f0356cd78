"""Resident memory after loading and after many calls, and the first call against the steady ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.encoders.measure import Workplace
from benchmarks.encoders.models import MODELS
from benchmarks.encoders.variants import Variant

__all__ = ["measure_memory", "memory_section"]

BARE = Variant("bare", "the bare runtime", "ours", "ours", "fp32", options={"input": "nothing"})
LARGEST_BATCH = 8
FIRST_CALLS = {1: 20, 32: 8}
"""Requests of each batch size whose first call is timed."""


def measure_memory(workplace: Workplace, model: str, variants: Sequence[Variant], calls: int) -> dict[str, Any]:
    """Results of the artifacts that take strings, and of the bare runtime, one after the other."""
    artifacts = [v for v in variants if v.options.get("input") == "text"]
    found: dict[str, Any] = {}
    for variant in [BARE, *(replace(v, options={**v.options, "warm_up": "yes"}) for v in artifacts)]:
        process = workplace.start(model, variant, 1)
        try:
            process.wait_until_loaded()
            first = {} if variant is BARE else {
                str(batch): process.ask("first", texts="mixed", batch=batch, repeats=10, requests=count)["requests"]
                for batch, count in FIRST_CALLS.items()
            }  # fmt: skip
            count = 100 if variant is BARE else calls
            shapes = process.ask("shapes", texts="mixed", calls=count, largest=LARGEST_BATCH, seed=0)
        finally:
            process.close()
        found[variant.name] = {"title": variant.title, "loaded": process.ready["resident"], **shapes, "first": first}
    return {"model": model, "calls": calls, "variants": found}


def memory_section(results: Mapping[str, Any]) -> Iterator[str]:
    """The table, in megabytes above the bare runtime."""
    bare = results["variants"]["bare"]["after"]
    yield f"### Memory and first calls, {MODELS[results['model']]}"
    yield ""
    yield (
        f"Resident megabytes above the bare runtime ({bare / 1e6:.0f} MB: TensorFlow and its text ops, one trivial "
        f"graph): after loading and the artifact's own warm-up requests, and after {results['calls']:,} more calls "
        f"with 1 to {LARGEST_BATCH} texts of the mixed set, drawn at random. First call: the first with a request "
        "against the median of ten repetitions of it, wall time, the median and the worst of several requests."
    )
    yield ""
    sizes = list(FIRST_CALLS)
    yield f"| artifact | loaded | after the calls | {' | '.join(f'first call, batch {n}' for n in sizes)} |"
    yield "|---|" + "---:|" * (2 + len(sizes))
    for name, item in results["variants"].items():
        if name == "bare":
            continue
        cells = [f"{(item[key] - bare) / 1e6:.0f}" for key in ("loaded", "after")]
        for size in sizes:
            times = [request["first"] / request["steady"] for request in item["first"][str(size)]]
            cells.append(f"{median(times):.2f} (worst {max(times):.2f})")
        yield f"| {item['title']} | {' | '.join(cells)} |"
