"""What a client costs: CPU per row, rows per second, import time and memory, on a server that answers at once.

    python benchmarks/client.py [--rows 256 1000 2048] [--dim 384] [--rounds 9] [--markdown docs/client-benchmark.md]

Compared, each in a process of its own and with the same texts and answers:

- `sentence-serving` over gRPC (sync and async) and over REST;
- the usual recipe: tensorflow-serving-api's stub with `tf.make_tensor_proto` and `tf.make_ndarray`;
- its other form, as in TensorFlow Serving's own examples: `np.array(output.float_val)`;
- REST as in TensorFlow's tutorials: requests, `json`, `np.array`.

A stock TensorFlow Serving answers with `float_val`; `tensor_content` takes the server's flag
`--enable_serialization_as_tensor_content` (2.19 and later), and leaves `tf.make_ndarray` little more than a copy to do.

CPU is that of the client's process, all threads, user and system; the server runs in another one. The clients take
turns, a round each, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
TURN = 0.5  # seconds, at the least
DEFAULT_ROWS = 1000  # of toolkit.client.Split
ALL_ROWS = 2048  # with 384 floats 3.1 MB; gRPC takes no more than 4 MB by default


def texts_of(count: int) -> list[str]:
    return [f"sentence number {i}: the quick brown fox jumps over the lazy dog" for i in range(count)]


def split(rows: int) -> Any:
    from toolkit.client import Split

    return Split() if rows == Split.rows else Split(rows=rows)


def ours_sync(url: str, rows: int) -> Callable[[list[str]], Any]:
    from toolkit.client import Client

    return Client(url, "m", split=split(rows)).embed


def ours_async(url: str, rows: int) -> Callable[[list[str]], Any]:
    import asyncio

    from toolkit.client import AsyncClient

    loop = asyncio.new_event_loop()
    client = AsyncClient(url, "m", split=split(rows))
    return lambda texts: loop.run_until_complete(client.embed(texts))


def serving_api(url: str, rows: int) -> Callable[[list[str]], Any]:
    import tensorflow as tf

    return _by_stub(url, rows, tf.make_ndarray)


def serving_api_list(url: str, rows: int) -> Callable[[list[str]], Any]:
    import numpy as np

    def array(tensor: Any) -> Any:
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        return np.array(tensor.float_val, dtype=np.float32).reshape(shape)

    return _by_stub(url, rows, array)


def _by_stub(url: str, rows: int, array: Callable[[Any], Any]) -> Callable[[list[str]], Any]:
    import grpc
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(url.removeprefix("grpc://"))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def embed(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), rows):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.model_spec.signature_name = "serving_default"
            request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts[start : start + rows]))
            parts.append(array(stub.Predict(request, 60).outputs["embedding"]))
        return np.concatenate(parts)

    return embed


def grpc_alone(url: str, rows: int) -> Callable[[list[str]], Any]:
    """What grpcio itself takes to send such a request and to hand over the answer's bytes, undecoded."""
    import grpc
    import numpy as np

    from toolkit.client.types import Spec
    from toolkit.client.wire.tensors import GrpcCodec

    request = GrpcCodec().predict(Spec("m"), {"text": [text.encode() for text in texts_of(rows)]}, (), None)
    channel = grpc.insecure_channel(url.removeprefix("grpc://"))
    call = channel.unary_unary(request.path)

    def embed(texts: list[str]) -> Any:
        for _ in range(0, len(texts), rows):
            call(request.body, timeout=60)
        return np.empty((len(texts), 0))

    return embed


def rest_by_hand(url: str, rows: int) -> Callable[[list[str]], Any]:
    import numpy as np
    import requests

    session = requests.Session()

    def embed(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), rows):
            body = json.dumps({"inputs": {"text": texts[start : start + rows]}})
            answer = session.post(f"{url}/v1/models/m:predict", data=body, timeout=60)
            parts.append(np.array(json.loads(answer.text)["outputs"], dtype=np.float32))
        return np.concatenate(parts)

    return embed


OURS, OURS_ASYNC, OURS_REST = "sentence-serving, gRPC", "sentence-serving, gRPC, async", "sentence-serving, REST"
USUAL, USUAL_LIST = "tensorflow-serving-api, `tf.make_ndarray`", "tensorflow-serving-api, `np.array(float_val)`"
USUAL_REST = "requests, `json`, `np.array`, REST"

RECIPES = {
    OURS: ("grpc", ours_sync),
    OURS_ASYNC: ("grpc", ours_async),
    USUAL: ("grpc", serving_api),
    USUAL_LIST: ("grpc", serving_api_list),
    "grpcio alone, answer not decoded": ("grpc", grpc_alone),
    OURS_REST: ("http", ours_sync),
    USUAL_REST: ("http", rest_by_hand),
}


def takes_part(name: str, field: str, rows: int) -> bool:
    if RECIPES[name][0] == "http":  # its answers are the same for both fields, and take a hundred times as long
        return (field, rows) == ("float_val", DEFAULT_ROWS)
    return name != USUAL_LIST or field == "float_val"


def work(name: str, url: str, rows: int, dim: int, total: int) -> None:
    """Run one recipe in this process: a round for every line on stdin, its figures as a line on stdout."""
    sys.path.insert(0, str(ROOT))
    embed = RECIPES[name][1](url, rows)
    texts = texts_of(total)
    embed(texts[: rows * 3])
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        rows_done = 0
        # Turns are alike in time, not in rows: else the fast clients' would be mostly cold caches.
        while not rows_done or time.perf_counter() - wall < TURN:
            found = embed(texts)
            assert found.shape in ((total, dim), (total, 0))
            rows_done += total
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu": cpu / rows_done * 1e6, "wall": wall / rows_done}), flush=True)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def rounds(field: str, rows: int, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The figures of every recipe that takes part, a round of one after a round of the other."""
    # Whole requests only, the server knows but one answer.
    total = max(1, options.total // rows) * rows
    server = start(ROOT / "benchmarks/instant_server.py", rows, options.dim, field)
    workers = {}
    found: dict[str, list[dict[str, float]]] = {}
    try:
        grpc_port, rest_port = line_of(server).split()
        for name, (scheme, _) in RECIPES.items():
            if not takes_part(name, field, rows):
                continue
            url = f"{scheme}://127.0.0.1:{grpc_port if scheme == 'grpc' else rest_port}"
            # REST takes a hundred times as long: fewer rows will do.
            few = total if scheme == "grpc" else max(1, total // rows // 10) * rows
            sizes = ["--rows", rows, "--dim", options.dim, "--total", few]
            workers[name] = start(__file__, *sizes, "--one", name, url)
            if line_of(workers[name]) != "ready\n":
                raise SystemExit(f"{name}: did not start")
            found[name] = []
        for _ in range(options.rounds):
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                found[name].append(json.loads(line_of(worker)))
    finally:
        for process in (*workers.values(), server):
            process.kill()
            process.wait()
    return found


def ratios(cpu: dict[tuple[str, str, int], float]) -> list[str]:
    """How many times the CPU per row of ours the other recipes take: at our default, and at their best."""
    lines = [
        "| the others' CPU per row, in that of ours at the default | answer | gRPC, sync | async |",
        "|---|---|---|---|",
    ]
    for (name, field, rows), figure in cpu.items():
        if name in (USUAL, USUAL_LIST, USUAL_REST) and rows in (DEFAULT_ROWS, ALL_ROWS):
            own = [cpu.get((ours, field, DEFAULT_ROWS)) for ours in (OURS, OURS_ASYNC)]
            if None not in own:
                times = " | ".join(f"{figure / ours:.1f} x" for ours in own if ours)
                lines.append(f"| {name}, {rows} rows a request | {'JSON' if name == USUAL_REST else field} | {times} |")
    rest = [cpu.get((name, "float_val", DEFAULT_ROWS)) for name in (USUAL_REST, OURS_REST)]
    if rest[0] and rest[1]:
        lines.append(f"\nOver REST, the recipe by hand takes {rest[0] / rest[1]:.2f} times the CPU of ours.")
    return lines


def imports(module: str) -> tuple[float, float]:
    """Seconds and megabytes (peak) of importing ``module`` in a fresh interpreter, which itself is counted too."""
    code = (
        f"import time; t = time.perf_counter(); import {module}; t = time.perf_counter() - t\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]\n"
        "print(t, int(peak) / 1024)"
    )
    with tempfile.TemporaryDirectory() as compiled:  # by the first run, whatever the environment says
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
        command = [sys.executable, "-c", code]
        runs = [subprocess.check_output(command, text=True, cwd=ROOT, env=environment).split() for _ in range(4)]
    return min(float(run[0]) for run in runs), min(float(run[1]) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, DEFAULT_ROWS, ALL_ROWS], help="rows per request")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--total", type=int, default=16384, help="rows per call, at the most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, url = options.one
        work(name, url, options.rows[0], options.dim, options.total)
        return
    lines = [
        f"Calls of {options.total} rows of {options.dim} floats, median (least) of {options.rounds} rounds in turn; "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs.",
        "",
        "| client | answer | rows a request | CPU per row, µs | rows/s |",
        "|---|---|---|---|---|",
    ]
    cpu: dict[tuple[str, str, int], float] = {}
    for field in ("float_val", "tensor_content"):
        for rows in options.rows:
            for name, figures in rounds(field, rows, options).items():
                cpu[name, field, rows] = median(figure["cpu"] for figure in figures)
                least = min(figure["cpu"] for figure in figures)
                speed = 1 / median(figure["wall"] for figure in figures)
                kind = field if RECIPES[name][0] == "grpc" else "JSON"
                lines.append(
                    f"| {name} | {kind} | {rows} | {cpu[name, field, rows]:.2f} ({least:.2f}) | {speed:,.0f} |"
                )
    lines += ["", *ratios(cpu)]
    lines += ["", "| import | seconds | peak memory, MB |", "|---|---|---|"]
    for module in ("toolkit.client", "tensorflow_serving.apis.prediction_service_pb2_grpc", "httpx", "numpy"):
        seconds, megabytes = imports(module)
        lines.append(f"| `{module}` | {seconds:.2f} | {megabytes:.0f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
