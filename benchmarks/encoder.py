"""The encoder side by side with its peers: one interleaved run, same texts, each variant a process of its own.

    python -m benchmarks.encoder --quick                            all-MiniLM-L6-v2, mixed lengths, one core: minutes
    python -m benchmarks.encoder                                    everything: hours
    python -m benchmarks.encoder --models bge-m3-long --cores 1     texts of 512, 2,048 and 8,192 tokens: minutes
    python -m benchmarks.encoder --variants 'ours-*' --artifact NAME=MODELS/NAME/1
    python -m benchmarks.encoder --docs                             write what was measured into docs/performance.md

The peers are not dependencies of this project: install ``benchmarks/peers.txt`` into an environment of its own and name
its interpreter with ``--peers-python``; ``benchmarks/keras.txt`` likewise with ``--keras-python``. Variants whose
libraries are not there are left out by ``--variants``. What was made for the peers and how they sort best is kept in
``--work``; delete that folder to make and choose it again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.encoders.measure import Plan, Workplace
from benchmarks.encoders.memory import measure_memory, memory_section
from benchmarks.encoders.models import LONG, MODELS
from benchmarks.encoders.process import ROOT
from benchmarks.encoders.report import plot, replace_section, section
from benchmarks.encoders.texts import LONG_SETS, SETS, statistics
from benchmarks.encoders.variants import Variant, chosen

DOCUMENT = ROOT / "docs" / "performance.md"
# sentences in a round by batch size: eight rounds of the full mode at 128 go through all 2,048 texts
QUICK, QUICK_ROUNDS = {1: 64, 8: 64, 32: 64, 128: 128}, 3
FULL, FULL_ROUNDS = {1: 64, 8: 128, 32: 256, 128: 256}, 8
LONG_SENTENCES, LONG_ROUNDS = {"512-token": {1: 4, 8: 8}, "2,048-token": {1: 2}, "8,192-token": {1: 1}}, 3
BASE_SHARE = 4
"""Encoders of base size are about eight times slower and get this many times fewer sentences."""


def plans(given: argparse.Namespace) -> Iterator[Plan]:
    """The comparisons to make."""
    quick = given.quick
    for model in (["minilm"] if quick else MODELS) if given.models is None else given.models:
        if model in LONG:
            for texts in [kind for kind in LONG_SETS if not given.sets or kind in given.sets]:
                for cores in given.cores or [1, 2]:
                    long = LONG_SENTENCES[texts]
                    yield Plan(model, texts, cores, long, given.rounds or LONG_ROUNDS, tried=1)
            continue
        sizes = QUICK if quick else FULL
        if model != "minilm":
            sizes = {batch: max(batch, count // BASE_SHARE) for batch, count in sizes.items()}
        sizes = {batch: count for batch, count in sizes.items() if batch in given.batches}
        for texts in [kind for kind in given.sets or (["mixed"] if quick else SETS) if kind in SETS]:
            for cores in given.cores or ([1] if quick else [1, 2]):
                yield Plan(model, texts, cores, sizes, given.rounds or (QUICK_ROUNDS if quick else FULL_ROUNDS))


def about(results: Mapping[str, Any]) -> dict[str, str]:
    """When, where and of what: date, processor, versions."""
    info = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [name for name in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in fields["flags"].split()]
    versions: dict[str, str] = {}
    for variant in results["variants"].values():
        versions |= variant["versions"]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{fields['model name']}, model {fields['cpu family']}/{fields['model']}, {' '.join(flags)}",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "python": platform.python_version(),
    }


def measure(given: argparse.Namespace, workplace: Workplace, variants: Sequence[Variant]) -> None:
    """Run the comparisons; each is printed and kept as soon as it is done."""
    for plan in plans(given):
        workplace.say(f"{plan.model}, {plan.texts}, {plan.cores} core(s)")
        results = workplace.compare(plan, [variant for variant in variants if plan.cores > 1 or not variant.shares])
        results["about"] = about(results)
        file = workplace.folder / f"encoder-{plan.model}-{plan.texts}-{plan.cores}.json"
        file.write_text(json.dumps(results, indent=1))
        print("\n".join(section(results)) + "\n", flush=True)
    for model in given.memory:
        workplace.say(f"{model}, memory")
        found = measure_memory(workplace, model, variants, given.calls)
        (workplace.folder / f"memory-{model}.json").write_text(json.dumps(found, indent=1))
        print("\n".join(memory_section(found)) + "\n", flush=True)


def write_document(workplace: Workplace) -> None:
    """All results of the work folder as tables and plots in ``docs/``."""
    lines = []
    for kind in SETS:
        told = statistics(workplace.sets[kind].lengths)
        lines.append(
            f"- {kind}: {told.texts:,} texts, tokens: mean {told.mean:.1f}, median {told.median:.0f}, "
            f"95th percentile {told.p95:.0f}, longest {told.longest}; batches of "
            f"{', '.join(map(str, told.padded))} padded to the longest are "
            f"{', '.join(f'{share:.1f}' for share in told.padded.values())} times the tokens"
        )
    for model in MODELS:
        for kind in LONG_SETS if model in LONG else SETS:
            for file in sorted(workplace.folder.glob(f"encoder-{model}-{kind}-*.json")):
                results = json.loads(file.read_text())
                image = DOCUMENT.parent / "images" / file.with_suffix(".png").name
                lines += ["", *section(results)]
                if len(results["plan"]["sentences"]) > 2:  # fewer points are no curve
                    plot(results, image)
                    lines += ["", f"![Sentences a second](images/{image.name})"]
        for file in workplace.folder.glob(f"memory-{model}.json"):
            lines += ["", *memory_section(json.loads(file.read_text()))]
    DOCUMENT.write_text(replace_section(DOCUMENT.read_text(), "benchmarks/encoder.py", lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sentences and rounds, one comparison")
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--sets", nargs="+", choices=(*SETS, *LONG_SETS))
    parser.add_argument("--cores", nargs="+", type=int, metavar="N")
    parser.add_argument("--batches", nargs="+", type=int, choices=list(FULL), default=list(FULL))
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--variants", nargs="+", default=["*"], metavar="GLOB", help="names as in variants.py")
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=DIR", help="a version directory more")
    parser.add_argument("--memory", nargs="*", choices=list(MODELS), help="measure memory (default: not with --quick)")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of random shapes for --memory")
    parser.add_argument("--only-memory", action="store_true", help="no comparison of speed")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--keras-python", metavar="PATH", help="without it the Keras recipe is left out")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", metavar="DIR")
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the document")
    given = parser.parse_args()
    started = datetime.datetime.now()

    def say(line: str) -> None:
        print(f"{(datetime.datetime.now() - started).total_seconds():6.0f} s  {line}", file=sys.stderr, flush=True)

    affinity = sorted(os.sched_getaffinity(0))
    if max(given.cores or [1]) > len(affinity):
        parser.error(f"--cores {max(given.cores)}: this process may use {len(affinity)}")
    workplace = Workplace(given.work, given.peers_python, given.keras_python, affinity, say)
    if given.docs:
        write_document(workplace)
        return
    artifacts = {name: Path(folder) for name, _, folder in (item.partition("=") for item in given.artifact)}
    variants = [v for v in chosen(given.variants, artifacts) if v.step != "keras" or given.keras_python]
    if given.memory is None:
        given.memory = [] if given.quick else [model for model in MODELS if model not in LONG]
    if given.only_memory:
        given.models = []
    measure(given, workplace, variants)


if __name__ == "__main__":
    main()
