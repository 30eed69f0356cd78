"""Closed-loop callers for `benchmarks.serving`: a process that obeys commands, one JSON object a line.

    python -m benchmarks.callers grpc SETS.json SET               calls a server
    python -m benchmarks.callers direct SETS.json SET ARTIFACT THREADS   calls the artifact, loaded in this process

A command holds ``callers``, ``rows`` (texts in a request), ``seconds``, and for gRPC the server's ``address`` and
``pid``. Each caller sends its next request when the last is answered. The answer holds texts, seconds, latencies and
CPU seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.encoders.texts import TextSet, load_sets

Command = Mapping[str, Any]
MODEL = "model"


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, in user and kernel mode."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def answer(latencies: list[float], rows: int, seconds: float, cpu: tuple[float, float]) -> dict[str, float]:
    """What the driver is told; ``cpu``: the server's and the callers' seconds."""
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist()
    return {
        "texts": len(latencies) * rows, "seconds": seconds, "p50": p50, "p95": p95, "p99": p99,
        "server_cpu": cpu[0], "client_cpu": cpu[1],
    }  # fmt: skip


def requests_of(texts: TextSet, rows: int) -> Iterator[list[bytes]]:
    """Requests of ``rows`` texts, without end."""
    for start in itertools.count(0, rows):
        yield [texts.texts[number].encode() for number in texts.rows(start, rows)]


async def over_grpc(command: Command, texts: TextSet) -> dict[str, float]:
    """The callers as coroutines of one connection."""
    import grpc

    from toolkit.client.types import Spec
    from toolkit.client.wire.tensors import GrpcCodec

    rows = command["rows"]
    count = max(1, 2048 // rows)
    encoded = [
        GrpcCodec().predict(Spec(MODEL), {"text": request}, (), None)
        for request in itertools.islice(requests_of(texts, rows), count)
    ]
    bodies = itertools.cycle(item.body for item in encoded)
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(command["address"]) as channel:
        call = channel.unary_unary(encoded[0].path)
        await call(next(bodies))
        started, cpu, server = time.perf_counter(), time.process_time(), cpu_seconds(command["pid"])
        stop = started + command["seconds"]

        async def caller() -> None:
            while (sent := time.perf_counter()) < stop:
                await call(next(bodies))
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(command["callers"])))
        seconds, used = time.perf_counter() - started, time.process_time() - cpu
        return answer(latencies, rows, seconds, (cpu_seconds(command["pid"]) - server, used))


def direct(command: Command, texts: TextSet, embed: Callable[[list[bytes]], Any]) -> dict[str, float]:
    """The callers as threads."""
    rows = command["rows"]
    bodies, lock = requests_of(texts, rows), threading.Lock()
    latencies: list[float] = []
    errors: list[Exception] = []
    embed(next(bodies))
    started, cpu = time.perf_counter(), time.process_time()
    stop = started + command["seconds"]

    def caller() -> None:
        try:
            while time.perf_counter() < stop:
                with lock:
                    request = next(bodies)
                sent = time.perf_counter()
                embed(request)
                latencies.append(time.perf_counter() - sent)
        except Exception as error:  # handed to the main thread
            errors.append(error)

    threads = [threading.Thread(target=caller) for _ in range(command["callers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answer(latencies, rows, time.perf_counter() - started, (time.process_time() - cpu, 0.0))


def load(artifact: str, within: int, across: int) -> Callable[[list[bytes]], Any]:
    """The artifact's ``serving_default`` as a function."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the tokenizer's ops

    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(across)
    loaded = tf.saved_model.load(artifact)

    def embed(request: list[bytes]) -> Any:  # refers to ``loaded``: its signatures live only as long as it does
        return loaded.signatures["serving_default"](text=tf.constant(request))["embedding"].numpy()

    return embed


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind, sets, name, *rest = sys.argv[1:]
    texts = load_sets(Path(sets))[name]
    embed = load(rest[0], int(rest[1]), int(rest[2])) if kind == "direct" else None
    print(json.dumps({"pid": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        result = direct(command, texts, embed) if embed else asyncio.run(over_grpc(command, texts))
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
