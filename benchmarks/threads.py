"""How to divide many cores: batches computed at one time, and compute threads for each of them.

    python -m benchmarks.threads --artifact MODELS/NAME/1
    python -m benchmarks.threads --docs          write what was measured into docs/performance.md

Measured on this machine, with one and with two compute threads: how long a request of so many tokens takes, and how
many texts a second one batch after another gives. From the two follows what part of a batch cannot be shared out
(Amdahl), and with that a simulation tells throughput and latency on more cores: single texts arrive at random, wait for
a free batch thread, and every free one takes all that wait up to the token limit, as the batching inside the graph does
with a timeout of 0. What it leaves out: cores that share memory bandwidth, caches and clock rate. All of that makes
more cores slower than simulated, for every way to divide them.
"""

from __future__ import annotations

import argparse
import datetime
import heapq
import json
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.encoders import models
from benchmarks.encoders.process import ROOT, environment
from benchmarks.encoders.report import replace_section
from benchmarks.encoders.texts import load_sets, write_sets

DOCUMENT = ROOT / "docs" / "performance.md"
SIZES = (1, 2, 4, 8, 16, 32)
REPEATS = 15
MAX_TOKENS = 1024
LOAD = 0.7
ARRIVALS = 200_000


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch on one thread, ``fixed + each * tokens``, of which ``serial`` cannot be shared out."""

    fixed: float
    each: float
    serial: float

    def seconds(self, tokens: int, threads: int) -> float:
        """Of a batch of ``tokens`` on ``threads`` threads, by Amdahl's law."""
        return (self.fixed + self.each * tokens) * (self.serial + (1 - self.serial) / threads)


def measure_here(artifact: str, sets: str, threads: int) -> list[tuple[int, float]]:
    """(tokens, median wall seconds) of batches of several sizes on ``threads`` threads; in a process of its own."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the tokenizer's ops

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(artifact)
    embed = loaded.signatures["serving_default"]
    texts = load_sets(Path(sets))["mixed"]
    chance = random.Random(0)
    found = []
    for size in SIZES:
        for _ in range(3):
            numbers = chance.sample(range(len(texts.texts)), size)
            text = tf.constant([texts.texts[number] for number in numbers])
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                embed(text=text)
                times.append(time.perf_counter() - started)
            found.append((int(texts.lengths[numbers].sum()), median(times)))
    return found


def measured(artifact: Path, sets: Path, threads: int) -> list[tuple[int, float]]:
    """`measure_here` with so many cores and threads."""
    command = [sys.executable, "-m", "benchmarks.threads", "--artifact", str(artifact)]
    command += ["--measure", str(threads), "--sets", str(sets)]
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command], cwd=ROOT, env=environment(threads),
        stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return [(int(tokens), float(seconds)) for tokens, seconds in json.loads(done.stdout)]


def cost(one: Sequence[tuple[int, float]], two: Sequence[tuple[int, float]]) -> Cost:
    """The line through ``one``, and the part that cannot be shared from the ratio of batches of many tokens."""
    tokens, seconds = np.array(one).T
    # relative errors count: a line fitted to seconds would follow the largest batches only
    (each, fixed), *_ = np.linalg.lstsq(np.stack([tokens, np.ones_like(tokens)], 1) / seconds[:, None],
                                        np.ones_like(seconds), rcond=None)  # fmt: skip
    large = [b / a for (count, a), (_, b) in zip(one, two, strict=True) if count >= MAX_TOKENS // 4]
    return Cost(max(0.0, float(fixed)), float(each), min(1.0, max(0.0, 2 * median(large) - 1)))


def simulate(model: Cost, lengths: Sequence[int], batches: int, threads: int, rate: float) -> Mapping[str, float]:
    """Single texts arrive ``rate`` times a second (Poisson): texts a second, latencies in milliseconds, batch size."""
    chance = random.Random(0)
    arrivals, now = [], 0.0
    for _ in range(ARRIVALS):
        now += chance.expovariate(rate)
        arrivals.append((now, chance.choice(lengths)))
    free = [0.0] * batches  # when each batch thread is free again
    waiting: deque[tuple[float, int]] = deque()
    latencies: list[float] = []
    sizes: list[int] = []
    at = 0
    while at < len(arrivals) or waiting:
        start = heapq.heappop(free)
        if not waiting:
            start = max(start, arrivals[at][0])
        while at < len(arrivals) and arrivals[at][0] <= start:
            waiting.append(arrivals[at])
            at += 1
        batch = [waiting.popleft()]
        tokens = batch[0][1]
        while waiting and tokens + waiting[0][1] <= MAX_TOKENS:
            batch.append(waiting.popleft())
            tokens += batch[-1][1]
        end = start + model.seconds(tokens, threads)
        heapq.heappush(free, end)
        latencies += [end - arrived for arrived, _ in batch]
        sizes.append(len(batch))
    # the first tenth fills the queue, the last empties it
    middle = sorted(latencies[len(latencies) // 10 : -len(latencies) // 10])
    return {
        "texts_per_second": len(arrivals) / max(free),
        "p50_ms": 1e3 * middle[len(middle) // 2],
        "p99_ms": 1e3 * middle[int(len(middle) * 0.99)],
        "batch": sum(sizes) / len(sizes),
    }


def study(model: Cost, lengths: Sequence[int], cores: int) -> list[dict[str, float]]:
    """Every way to divide ``cores``: what it gives at most, and latencies at `LOAD` of what the best gives."""
    ways = [2**power for power in range(cores.bit_length()) if cores % 2**power == 0]
    most = {threads: simulate(model, lengths, cores // threads, threads, 1e9)["texts_per_second"] for threads in ways}
    rate = LOAD * max(most.values())
    found = []
    for threads in ways:
        busy = rate < 0.98 * most[threads]  # else the queue only grows
        told = simulate(model, lengths, cores // threads, threads, rate) if busy else {}
        idle = 1e3 * model.seconds(int(np.mean(lengths)), threads)
        found.append({"batches": cores // threads, "threads": threads, "most": most[threads], "alone_ms": idle, **told})
    return found


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The tables."""
    model = Cost(**results["cost"])
    yield (
        f"all-MiniLM-L6-v2, mixed texts, {results['date']}, {results['machine']}. Measured on one thread: "
        f"{1e3 * model.fixed:.1f} ms and {1e3 * MAX_TOKENS * model.each:.1f} ms for each {MAX_TOKENS:,} tokens; with "
        f"two threads large batches take {(1 + model.serial) / 2:.2f} of that, so {model.serial:.0%} of the work is "
        "not shared out. Simulated from these:"
    )
    for cores, rows in results["studies"].items():
        best = max(row["most"] for row in rows)
        yield ""
        yield (
            f"| simulated, {cores} cores: batches at a time x threads | throughput at most | "
            f"p50, p99 ms at {LOAD:.0%} load | "
            "texts in a batch then | a text of mean length alone, ms |"
        )
        yield "|---|---:|---:|---:|---:|"
        for row in rows:
            told = (
                f"{row['p50_ms']:.1f}, {row['p99_ms']:.1f} | {row['batch']:.1f}" if "batch" in row else "overloaded | "
            )
            yield (
                f"| {row['batches']:.0f} x {row['threads']:.0f} | {row['most'] / best:.2f} | {told} | "
                f"{row['alone_ms']:.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, metavar="DIR", help="a version directory, exported with --no-batching")
    parser.add_argument("--cores", type=int, nargs="+", default=[8, 64], metavar="N")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", metavar="DIR")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sets", help=argparse.SUPPRESS)
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the document")
    given = parser.parse_args()
    file = given.work / "threads.json"
    if given.measure:
        print(json.dumps(measure_here(str(given.artifact), given.sets, given.measure)))
        return
    if given.docs:
        found = json.loads(file.read_text())
        DOCUMENT.write_text(replace_section(DOCUMENT.read_text(), "benchmarks/threads.py", list(lines(found))))
        return
    if given.artifact is None or len(os.sched_getaffinity(0)) < 2:
        parser.error("--artifact and two cores are needed")
    given.work.mkdir(parents=True, exist_ok=True)
    sets = given.work / "sets.json"
    if not sets.exists():
        write_sets(sets, models.minilm() / "tokenizer.json")
    model = cost(*(measured(given.artifact.resolve(), sets, threads) for threads in (1, 2)))
    lengths = load_sets(sets)["mixed"].lengths.tolist()
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": cpu.split(":")[1].strip(),
        "cost": {"fixed": model.fixed, "each": model.each, "serial": model.serial},
        "studies": {str(cores): study(model, lengths, cores) for cores in given.cores},
    }
    file.write_text(json.dumps(results, indent=1))
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
