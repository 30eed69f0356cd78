"""One variant in a process of its own: loads, then answers commands, one JSON object a line.

``python -m benchmarks.encoders.worker SPEC.json``. Commands (``do``): ``warm``, ``run``, ``vectors``, ``shapes``,
``first``. The first line is the answer to the loading.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoders.engines import ENGINES, Engine, Spec, Way
from benchmarks.encoders.texts import TextSet, load_sets

FINALISTS = 3
"""Ways that are measured a second time when the best is looked for."""

WARM_UP = 4
"""Requests of several texts that precede all rounds, larger and smaller ones, so that no round has the first of a kind:
of an artifact a request of more tokens than its batches may have is the first use of another path."""


class Worker:
    """The commands on one engine."""

    def __init__(self, engine: Engine, sets: dict[str, TextSet]) -> None:
        self._engine = engine
        self._sets = sets
        self._ways: dict[int, tuple[str, Way]] = {}

    def warm(self, texts: str, batch: int, sentences: int, way: str | None, clock: str, tried: int) -> dict[str, Any]:
        """Take ``way``, or the best of all by ``clock`` (``cpu`` or ``wall``) and ``tried`` texts or more, for requests
        of ``batch`` rows.

        Then run ``sentences`` other texts of the same kind, of requests with several at least `WARM_UP`.
        """
        warm_up = self._sets[f"{texts}-warm-up"]
        ways = dict(self._engine.ways(batch))
        seconds: dict[str, float] = {}
        if way is None and len(ways) > 1:
            seconds = self._compare(ways, warm_up, batch, max(batch, tried), clock, 1)
            finalists = {name: ways[name] for name in sorted(seconds, key=lambda name: seconds[name])[:FINALISTS]}
            second = self._compare(finalists, warm_up, batch, max(batch, 2 * tried), clock, 2)
            way = min(second, key=lambda name: second[name])
        name = way if way is not None else next(iter(ways))
        self._ways[batch] = (name, ways[name])
        self._encode(warm_up, batch, 0, max(sentences, WARM_UP * batch if batch > 1 else 0))
        return {"way": name, "tried": seconds}

    def _compare(
        self, ways: dict[str, Way], texts: TextSet, batch: int, sentences: int, clock: str, rounds: int
    ) -> dict[str, float]:
        """Seconds of each way, the smallest of the rounds."""
        seconds: dict[str, float] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                self._ways[batch] = (name, way)
                spent = self._encode(texts, batch, 0, sentences)[clock]
                seconds[name] = min(spent, seconds.get(name, spent))
        return seconds

    def run(self, texts: str, batch: int, start: int, sentences: int) -> dict[str, Any]:
        """CPU and wall seconds for ``sentences`` texts from number ``start`` on, in requests of ``batch``; of requests
        of one text the wall seconds of each as well."""
        return self._encode(self._sets[texts], batch, start, sentences)

    def _encode(self, texts: TextSet, batch: int, start: int, sentences: int) -> dict[str, Any]:
        _, way = self._ways[batch]
        size = sentences if self._engine.whole else batch
        requests = [texts.rows(at, size) for at in range(start, start + sentences, size)]
        cpu, wall = time.process_time(), time.perf_counter()
        each = [_wall(way, texts, numbers) for numbers in requests]
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        return {**spent, "each": each} if batch == 1 and not self._engine.whole else spent

    def vectors(self, texts: str, batch: int, sentences: int, file: str) -> dict[str, Any]:
        """Write the vectors of the first ``sentences`` texts as .npy."""
        chosen = self._sets[texts]
        way = self._ways[batch][1]
        parts = [np.asarray(way(chosen, chosen.rows(at, batch))) for at in range(0, sentences, batch)]
        np.save(file, np.concatenate(parts).astype(np.float32))
        return {}

    def shapes(self, texts: str, calls: int, largest: int, seed: int) -> dict[str, Any]:
        """``calls`` requests of 1 to ``largest`` texts, drawn at random; resident bytes before and after."""
        chosen = self._sets[texts]
        way = next(iter(self._engine.ways(1).values()))
        way(chosen, [0])
        random = np.random.default_rng(seed)
        before = resident()
        for _ in range(calls):
            way(chosen, random.integers(0, len(chosen.ids), int(random.integers(1, largest + 1))).tolist())
        return {"before": before, "after": resident()}

    def first(self, texts: str, batch: int, repeats: int, requests: int) -> dict[str, Any]:
        """Wall seconds of the first call and the median of ``repeats`` further ones, for several requests."""
        chosen = self._sets[texts]
        way = next(iter(self._engine.ways(batch).values()))
        found = []
        for at in range(requests):
            numbers = chosen.rows(at * batch, batch)
            seconds = [_wall(way, chosen, numbers) for _ in range(repeats + 1)]
            found.append({"first": seconds[0], "steady": float(np.median(seconds[1:]))})
        return {"requests": found}


def _wall(way: Way, texts: TextSet, numbers: Sequence[int]) -> float:
    started = time.perf_counter()
    way(texts, numbers)
    return time.perf_counter() - started


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pin(cores: Sequence[int]) -> None:
    """Keep all threads of this process, and those that they will start, on ``cores``."""
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def die_with_parent() -> None:
    """A worker that is stopped would outlive a driver that is killed."""
    set_death_signal = 1  # PR_SET_PDEATHSIG, linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not disturb the answers
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    die_with_parent()
    started = time.perf_counter()
    if spec.engine not in ENGINES:
        raise SystemExit(f"no engine {spec.engine!r}; there are {', '.join(ENGINES)}")
    engine: Engine = import_module(f"benchmarks.encoders.{spec.engine}").load(spec)
    pin(spec.cores)
    ready = {"versions": engine.versions, "load_seconds": time.perf_counter() - started, "resident": resident()}
    worker = Worker(engine, load_sets(Path(spec.sets)))
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(worker, command.pop("do"))(**command)), file=answers, flush=True)


if __name__ == "__main__":
    main()
