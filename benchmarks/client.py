"""What a client costs: CPU per row, rows per second, import time and memory, on a server that answers at once.

    python benchmarks/client.py [--rows 128] [--dim 384] [--requests 300] [--markdown docs/client-benchmark.md]

Compared, each in a process of its own and with the same texts and answers:

- `sentence-serving` over gRPC (sync and async) and over REST;
- the usual recipe: tensorflow-serving-api's stub with `tf.make_tensor_proto` and `tf.make_ndarray`;
- REST by hand: httpx, `json`, `numpy.array`.

CPU is that of the client's process, all threads; the server runs in another one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROUNDS = 5


def texts_of(count: int) -> list[str]:
    return [f"sentence number {i}: the quick brown fox jumps over the lazy dog" for i in range(count)]


def ours_sync(url: str, rows: int) -> Callable[[list[str]], Any]:
    from toolkit.client import Client, Split

    return Client(url, "m", split=Split(rows=rows)).embed


def ours_async(url: str, rows: int) -> Callable[[list[str]], Any]:
    import asyncio

    from toolkit.client import AsyncClient, Split

    loop = asyncio.new_event_loop()
    client = AsyncClient(url, "m", split=Split(rows=rows))
    return lambda texts: loop.run_until_complete(client.embed(texts))


def serving_api(url: str, rows: int) -> Callable[[list[str]], Any]:
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
            parts.append(tf.make_ndarray(stub.Predict(request, 60).outputs["embedding"]))
        return np.concatenate(parts)

    return embed


def grpc_alone(url: str, rows: int) -> Callable[[list[str]], Any]:
    """What grpcio itself takes to send such a request and to hand over the answer's bytes, undecoded."""
    import grpc
    import numpy as np

    from toolkit.client.types import Spec
    from toolkit.client.wire import GrpcCodec

    request = GrpcCodec().predict(Spec("m"), {"text": [text.encode() for text in texts_of(rows)]}, (), None)
    channel = grpc.insecure_channel(url.removeprefix("grpc://"))
    call = channel.unary_unary(request.path)

    def embed(texts: list[str]) -> Any:
        for _ in range(0, len(texts), rows):
            call(request.body, timeout=60)
        return np.empty((len(texts), 0))

    return embed


def rest_by_hand(url: str, rows: int) -> Callable[[list[str]], Any]:
    import httpx
    import numpy as np

    client = httpx.Client()

    def embed(texts: list[str]) -> Any:
        parts = []
        for start in range(0, len(texts), rows):
            body = {"inputs": {"text": texts[start : start + rows]}}
            answer = client.post(f"{url}/v1/models/m:predict", json=body, timeout=60)
            parts.append(np.array(answer.json()["outputs"], np.float32))
        return np.concatenate(parts)

    return embed


RECIPES = {
    "sentence-serving, gRPC": ("grpc", ours_sync),
    "sentence-serving, gRPC, async": ("grpc", ours_async),
    "tensorflow-serving-api, gRPC": ("grpc", serving_api),
    "grpcio alone, answer not decoded": ("grpc", grpc_alone),
    "sentence-serving, REST": ("http", ours_sync),
    "httpx and JSON by hand, REST": ("http", rest_by_hand),
}


def measure(name: str, url: str, rows: int, dim: int, requests: int) -> dict[str, float]:
    """Run one recipe in this process."""
    import resource

    sys.path.insert(0, str(ROOT))
    began = time.perf_counter()
    embed = RECIPES[name][1](url, rows)
    setup = time.perf_counter() - began
    texts = texts_of(rows * requests)
    embed(texts[: rows * 5])
    best = {"cpu": float("inf"), "wall": float("inf")}
    for _ in range(ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        found = embed(texts)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert found.shape in ((len(texts), dim), (len(texts), 0))
        best = {"cpu": min(best["cpu"], cpu), "wall": min(best["wall"], wall)}
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cpu_us_per_row": best["cpu"] / len(texts) * 1e6,
        "rows_per_s": len(texts) / best["wall"],
        "import_s": setup,
        "peak_mb": megabytes,
    }


def imports(module: str) -> tuple[float, float]:
    """Seconds and megabytes (peak) of importing ``module`` in a fresh interpreter, which itself is counted too."""
    code = (
        f"import time; t = time.perf_counter(); import {module}; t = time.perf_counter() - t\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]\n"
        "print(t, int(peak) / 1024)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).split() for _ in range(3)]
    return min(float(run[0]) for run in runs), min(float(run[1]) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="rows per request")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.rows, options.dim, options.requests)))
        return
    lines = [
        f"{options.rows} rows of {options.dim} floats per request, {options.requests} requests, best of {ROUNDS}; "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs.",
        "",
        "| client | answer | CPU per row, µs | rows/s |",
        "|---|---|---|---|",
    ]
    figures = {}
    for field in ("float_val", "tensor_content"):
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/instant_server.py"), str(options.rows), str(options.dim), field],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            grpc_port, rest_port = server.stdout.readline().split()
            for name, (scheme, _) in RECIPES.items():
                if scheme == "http" and field == "tensor_content":
                    continue
                url = f"{scheme}://127.0.0.1:{grpc_port if scheme == 'grpc' else rest_port}"
                sizes = ["--rows", str(options.rows), "--dim", str(options.dim), "--requests", str(options.requests)]
                command = [sys.executable, __file__, *sizes, "--one", name, url]
                result = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
                kind = field if scheme == "grpc" else "JSON"
                figures[name, kind] = result["cpu_us_per_row"]
                lines.append(f"| {name} | {kind} | {result['cpu_us_per_row']:.2f} | {result['rows_per_s']:,.0f} |")
        finally:
            server.kill()
            server.wait()
    for kind in ("float_val", "tensor_content"):
        ours, usual, floor = (
            figures[name, kind]
            for name in ("sentence-serving, gRPC", "tensorflow-serving-api, gRPC", "grpcio alone, answer not decoded")
        )
        lines.append(
            f"\n{kind}: the usual recipe takes {usual / ours:.1f} times the CPU per row; added to grpcio's own: "
            f"{max(usual - floor, 0):.2f} against {max(ours - floor, 0):.2f} µs."
        )
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
