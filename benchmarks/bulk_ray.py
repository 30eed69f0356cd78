"""What bulk embedding on Ray costs: the engine beside the bare artifact, tokens a batch, and the driver's memory.

    python benchmarks/bulk_ray.py scaling MODELS/NAME/1 [--rows 4000] [--rounds 3] [--workers 2]
    python benchmarks/bulk_ray.py budget MODELS/NAME/1 [--seconds 8] [--rounds 2]
    python benchmarks/bulk_ray.py driver [--rows 5000000] [--part-rows 5000]

``scaling``: processes that load the artifact and embed lists of texts, no files and no engine, take turns with the
same number of Ray actors, of one CPU each; loading is not counted on either side. Rows a second of CPU are by the CPU
time of the bare processes, and of everything that belongs to Ray, driver included: other work on the machine hardly
changes that ratio. ``budget``: one thread, batches of so many tokens, by CPU time. ``driver``: generated rows and an
encoder that answers at once, so that only the engine works; prints the driver's resident memory over the run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from toolkit.artifact import session
from toolkit.artifact.session import Artifact
from toolkit.client.bulk import Inputs, OnRay, Place, Progress, embed_folder
from toolkit.client.bulk.plan import Form, Plan, new_plan
from toolkit.client.job import Piece
from toolkit.client.types import ModelMetadata, SignatureInfo, TensorInfo
from toolkit.corpus.calibration import built_in_texts
from toolkit.signatures import DEFAULT_SIGNATURE

DIM = 384


def texts(count: int) -> list[str]:
    """Texts of many lengths, mixed."""
    lines = [" ".join(text.split()) for text in built_in_texts(256).texts]
    random.Random(0).shuffle(lines)
    return list(islice(cycle(lines), count))


def plan(artifact: Artifact) -> Plan:
    form = Form("parquet", "txt", "text", ())
    return new_plan(
        artifact.metadata(None), form, model=artifact.model, signature=DEFAULT_SIGNATURE, address=artifact.name
    )


def bare(folder: str, mine: list[bytes], ready: Any, seconds: Any) -> None:
    """A process that embeds its texts, after all have loaded the model."""
    artifact = Artifact.of(Path(folder))
    with artifact.open(plan(artifact), 0, 1) as embed:
        list(embed(iter(mine[:200])))
        ready.wait()
        began, used = time.perf_counter(), time.process_time()
        list(embed(iter(mine)))
        seconds.put((time.perf_counter() - began, time.process_time() - used))


def bare_rate(folder: Path, rows: list[str], workers: int) -> tuple[float, float]:
    """Rows a second of ``workers`` processes, and of a CPU that had nothing else to do."""
    context = multiprocessing.get_context("spawn")
    ready, seconds = context.Barrier(workers), context.Queue()
    shares = [[text.encode() for text in rows[i::workers]] for i in range(workers)]
    processes = [context.Process(target=bare, args=(str(folder), share, ready, seconds)) for share in shares]
    for process in processes:
        process.start()
    found = [seconds.get() for _ in processes]
    for process in processes:
        process.join()
    return len(rows) / max(wall for wall, _ in found), len(rows) / sum(used for _, used in found)


def ray_rate(folder: Path, rows: list[str], workers: int) -> tuple[float, float]:
    """The same of ``workers`` actors, from when each has made its first parts to the last part."""
    part = max(1, len(rows) // (5 * workers))  # not too small: the last batch of a part is a short one
    marks: list[tuple[int, float, float]] = []

    def note(news: Progress) -> None:
        if news.rows >= workers * part:
            marks.append((news.rows, time.perf_counter(), used_by_all()))

    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "in.txt"
        source.write_text("".join(f"{text}\n" for text in rows))
        runner = OnRay(workers=workers)
        output = Place.of(Path(work) / "out")
        embed_folder(Artifact.of(folder), Inputs.of([source]), output, runner, part_rows=part, progress=note)
    (before, began, used), (after, ended, used_then) = marks[0], marks[-1]
    return (after - before) / (ended - began), (after - before) / (used_then - used)


def used_by_all() -> float:
    """Seconds of CPU of this process and of those that it, or Ray for it, has started."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def scaling(folder: Path, count: int, rounds: int, workers: int) -> None:
    rows = texts(count)
    found = []
    for number in range(rounds):
        order = [bare_rate, ray_rate] if number % 2 == 0 else [ray_rate, bare_rate]
        turns = {rate: rate(folder, rows, workers) for rate in order}
        (bare, bare_cpu), (actors, actors_cpu) = turns[bare_rate], turns[ray_rate]
        found.append((actors / bare, actors_cpu / bare_cpu, bare_cpu))
        print(
            f"round {number + 1}: {workers} processes {bare:,.1f} rows/s, actors {actors:,.1f}, ratio "
            f"{actors / bare:.3f}; rows a second of CPU {bare_cpu:,.1f}, with Ray {actors_cpu:,.1f}, ratio "
            f"{actors_cpu / bare_cpu:.3f}",
            flush=True,
        )
    wall, cpu, rate = map(statistics.median, zip(*found, strict=True))
    print(f"median: ratio {wall:.3f}, of CPU {cpu:.3f}; {rate:,.1f} rows a second of CPU")


def budget(folder: Path, seconds: float, rounds: int) -> None:
    artifact = Artifact.of(folder)
    rows = [text.encode() for text in texts(4_000)]
    budgets = [512, 1024, 2048, 4096, 8192, 16384]
    rates: dict[int, list[float]] = {size: [] for size in budgets}
    with artifact.open(plan(artifact), 0, 1) as embed:
        list(embed(iter(rows[:200])))
        for number in range(rounds):
            for size in budgets if number % 2 == 0 else reversed(budgets):
                session.BUDGET = size
                began, done = time.process_time(), 0
                for piece in embed(cycle(rows)):
                    done = piece.stop
                    if time.process_time() - began >= seconds:
                        break
                rates[size].append(done / (time.process_time() - began))
    best = max(statistics.median(found) for found in rates.values())
    for size, found in rates.items():
        middle = statistics.median(found)
        print(f"{size:6} tokens a batch: {middle:7,.1f} rows a second of CPU, {middle / best:.2f} of the best")


class Instant:
    """An encoder whose vectors are there at once."""

    name = model = "instant"
    version, digest, memory = 1, "none", 256 << 20

    def metadata(self, version: int | None) -> ModelMetadata:
        into = {"text": TensorInfo("text", "string", (None,))}
        out = {"embedding": TensorInfo("embedding", "float32", (None, DIM))}
        return ModelMetadata("instant", 1, {DEFAULT_SIGNATURE: SignatureInfo(DEFAULT_SIGNATURE, into, out)})

    @contextmanager
    def open(self, plan: Plan, patience: float, cpus: int) -> Iterator[Callable[[Iterator[bytes]], Iterator[Piece]]]:
        def embed(rows: Iterator[bytes]) -> Iterator[Piece]:
            start = 0
            while block := list(islice(rows, 1_000)):
                values = np.zeros((len(block), DIM), np.float32)
                values[:, 0] = [hash(text) % 1_000_003 for text in block]
                yield Piece(start, start + len(block), {"embedding": values})
                start += len(block)

        yield embed


def resident() -> float:
    """MB of this process."""
    return float(psutil.Process().memory_info().rss) / 1e6


def driver(count: int, part_rows: int) -> None:
    samples: list[tuple[int, float]] = []
    done = 0
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            samples.append((done, resident()))

    def note(news: Any) -> None:
        nonlocal done
        done = news.rows

    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "in.txt"
        with source.open("w") as file:
            file.writelines(f"generated row {i}\n" for i in range(count))
        watcher = threading.Thread(target=look)
        watcher.start()
        began = time.monotonic()
        try:
            summary = embed_folder(
                Instant(),
                Inputs.of([source]),
                Place.of(Path(work) / "out"),
                OnRay(),
                part_rows=part_rows,
                progress=note,
            )
        finally:
            over.set()
            watcher.join()
        taken = time.monotonic() - began
    assert (summary.rows, summary.rejected) == (count, 0)
    print(f"{count:,} rows in {-(-count // part_rows):,} parts: {taken:.0f} s, {count / taken:,.0f} rows/s")
    for tenth in range(11):
        nearest = min(samples, key=lambda sample: abs(sample[0] - count * tenth / 10))
        print(f"{nearest[0]:12,} rows done: driver {nearest[1]:,.0f} MB")
    print(f"{'highest':>12}: {max(size for _, size in samples):,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    scale = commands.add_parser("scaling")
    scale.add_argument("artifact", type=Path)
    scale.add_argument("--rows", type=int, default=4_000)
    scale.add_argument("--rounds", type=int, default=3)
    scale.add_argument("--workers", type=int, default=2)
    sizes = commands.add_parser("budget")
    sizes.add_argument("artifact", type=Path)
    sizes.add_argument("--seconds", type=float, default=8.0)
    sizes.add_argument("--rounds", type=int, default=2)
    memory = commands.add_parser("driver")
    memory.add_argument("--rows", type=int, default=5_000_000)
    memory.add_argument("--part-rows", type=int, default=5_000)
    options = vars(parser.parse_args())
    command = options.pop("command")
    if command == "driver":
        driver(options["rows"], options["part_rows"])
        return
    folder = options.pop("artifact").absolute()
    if command == "scaling":
        scaling(folder, options["rows"], options["rounds"], options["workers"])
    else:
        budget(folder, options["seconds"], options["rounds"])


if __name__ == "__main__":
    main()
