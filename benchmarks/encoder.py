"""The encoder side by side with its peers: one interleaved run, same texts, each variant a process of its own.

    python -m benchmarks.encoder --quick                     minutes: MiniLM, mixed lengths, one core
    python -m benchmarks.encoder --peers-python VENV/bin/python

"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

from benchmarks.encoders.measure import Plan, Workplace
from benchmarks.encoders.models import MODELS
from benchmarks.encoders.report import rates_table
from benchmarks.encoders.texts import SETS
from benchmarks.encoders.variants import chosen

QUICK = {1: 32, 8: 64, 32: 96, 128: 128}
FULL = {1: 64, 8: 128, 32: 256, 128: 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=None)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=None)
    parser.add_argument("--cores", nargs="+", type=int, default=None)
    parser.add_argument("--batches", nargs="+", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--variants", nargs="+", default=["*"], metavar="GLOB")
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    given = parser.parse_args()
    artifacts = {name: Path(folder) for name, _, folder in (item.partition("=") for item in given.artifact)}
    started = datetime.datetime.now()

    def say(line: str) -> None:
        print(f"{(datetime.datetime.now() - started).total_seconds():6.0f} s  {line}", file=sys.stderr, flush=True)

    affinity = sorted(os.sched_getaffinity(0))
    workplace = Workplace(given.work, given.peers_python, affinity, say)
    variants = chosen(given.variants, artifacts)
    quick = given.quick
    for model in given.models or (["minilm"] if quick else list(MODELS)):
        for texts in given.sets or (["mixed"] if quick else SETS):
            for cores in given.cores or ([1] if quick else [1, 2]):
                sizes = QUICK if quick else FULL
                if given.batches:
                    sizes = {batch: sizes[batch] for batch in given.batches}
                if model == "bert-base":
                    sizes = {batch: max(batch, count // 4) for batch, count in sizes.items()}
                plan = Plan(model, texts, cores, sizes, given.rounds or (3 if quick else 8))
                say(f"{model}, {texts}, {cores} core(s)")
                results = workplace.compare(plan, variants)
                (workplace.folder / f"{model}-{texts}-{cores}.json").write_text(json.dumps(results, indent=1))
                print("\n".join(rates_table(results)), flush=True)


if __name__ == "__main__":
    main()
