"""What bulk embedding on Ray costs: the engine beside the bare artifact, tokens a batch, and the driver's memory.

    python benchmarks/bulk_ray.py scaling MODELS/NAME/1 [--rows 4000] [--rounds 3] [--workers 2]
    python benchmarks/bulk_ray.py budget MODELS/NAME/1 [--seconds 8] [--rounds 2]
    python benchmarks/bulk_ray.py driver [--rows 5000000] [--part-rows 5000]

``scaling``: processes that load the artifact and embed lists of texts, no files and no engine, take turns with the same
number of Ray actors, of one CPU each; loading is not counted on either side. Rows a second of a CPU are those of the
bare processes' CPU time. ``budget``: one thread, batches of so many tokens, by CPU time. ``driver``: generated rows and
an encoder that answers at once, so that only the engine works; prints the driver's resident memory over the run.
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
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from toolkit.artifact import session
from toolkit.artifact.session import Artifact
from toolkit.client.bulk import Inputs, OnRay, Place, embed_folder
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


def ray_rate(folder: Path, rows: list[str], workers: int) -> float:
    """Rows a second of ``workers`` actors, from when each has made its first parts to the last part."""
    part = max(1, len(rows) // (20 * workers))
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "in.txt"
        source.write_text("".join(f"{text}\n" for text in rows))
        output = Path(work) / "out"
        embed_folder(Artifact.of(folder), Inputs.of([source]), Place.of(output), OnRay(workers=workers), part_rows=part)
        ends = sorted(path.stat().st_mtime for path in output.glob("part-*"))
    first = 2 * workers
    return (len(ends) - first) * part / (ends[-1] - ends[first - 1])


def scaling(folder: Path, count: int, rounds: int, workers: int) -> None:
    rows = texts(count)
    ratios, rates = [], []
    actors = ray_rate(folder, rows, workers)
    for number in range(rounds):
        bare, of_a_cpu = bare_rate(folder, rows, workers)
        before, actors = actors, ray_rate(folder, rows, workers)
        ratios.append((before + actors) / 2 / bare)
        rates.append(of_a_cpu)
        print(
            f"round {number + 1}: {workers} processes {bare:,.1f} rows/s between {workers} actors {before:,.1f} and "
            f"{actors:,.1f}, ratio {ratios[-1]:.3f}; {of_a_cpu:,.1f} rows a second of CPU",
            flush=True,
        )
    print(f"median: ratio {statistics.median(ratios):.3f}, {statistics.median(rates):,.1f} rows a second of CPU")


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
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


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
