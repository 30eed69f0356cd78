"""What the embedded server costs, and what it stands.

    python benchmarks/server.py front MODEL_DIR     CPU of one request: front, queue, graph, at 64 concurrent callers
    python benchmarks/server.py memory              resident memory over 50,000 requests
    python benchmarks/server.py flood               1,000 concurrent calls against small limits

``MODEL_DIR`` is a model's folder (``MODEL_DIR/1/saved_model.pb``) whose ``serving_default`` takes ``text``. The callers
run in a process of their own. Results are printed as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import psutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

TEXTS = [
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog.",
    "Opening hours on Sundays",
    "Refund for order 4711",
    "What is the capital of France?",
    "A man is eating food.",
    "Wireless headphones with long battery life",
    "my parcel has not arrived",
]
BATCHING = """
max_batch_size { value: 64 } batch_timeout_micros { value: 2000 } num_batch_threads { value: 1 }
max_enqueued_batches { value: 1000 }
"""

# The batch scheduler's threads run the graph ("batch_threads_<name>", cut to 15 characters by the kernel), and those of
# TensorFlow's pools ("tf_<name>"). All others are the front: Python's, and gRPC's own.
GRAPH_THREADS = ("batch_threads", "tf_")
MOST = 0.15  # the front's share of the CPU that is aimed at


def request_bytes(model: str, texts: list[bytes]) -> bytes:
    """A PredictRequest of ``texts``."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs["text"]
    tensor.dtype = 7
    tensor.tensor_shape.dim.add(size=len(texts))
    tensor.string_val.extend(texts)
    return bytes(request.SerializeToString())


async def call_many(port: int, bodies: list[bytes], count: int, callers: int) -> dict[str, Any]:
    """``count`` Predict calls by ``callers`` concurrent callers; statuses and requests a second."""
    import grpc

    statuses: Counter[str] = Counter()
    left = iter(range(count))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        async def caller() -> None:
            for number in left:
                try:
                    await call(bodies[number % len(bodies)], timeout=120)
                    statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        seconds = time.perf_counter() - started
    return {"statuses": dict(statuses), "requests_per_second": count / seconds}


def load(port: int, model: str, count: int, callers: int) -> dict[str, Any]:
    """`call_many` in a process of its own."""
    arguments = ["callers", str(port), model, str(count), str(callers)]
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def sums(page: str) -> dict[str, float]:
    """Sums and counts of this package's histograms, of all signatures together."""
    found: dict[str, float] = defaultdict(float)
    for name, value in re.findall(r"^(sentence_serving_\w+_(?:sum|count))\{[^}]*\} (\S+)$", page, re.MULTILINE):
        found[name] += float(value)
    return found


def thread_seconds() -> dict[str, float]:
    """CPU seconds of this process by name of thread, as the kernel's scheduler counts them (to the nanosecond)."""
    found: dict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            found[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has just ended
    return found


def answer_bytes() -> bytes:
    """A PredictResponse of one row of 384 float32 values."""
    from tensorflow_serving.apis import predict_pb2

    response = predict_pb2.PredictResponse()
    tensor = response.outputs["embedding"]
    tensor.dtype = 1
    for size in (1, 384):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend([0.0] * 384)
    return bytes(response.SerializeToString())


def empty_server(callers: int) -> tuple[Any, int]:
    """A bare grpcio server, started, and its port: each Predict call gets the same bytes at once; nothing is parsed."""
    import grpc

    answer = answer_bytes()
    handler = grpc.unary_unary_rpc_method_handler(lambda body, context: answer)
    server = grpc.server(ThreadPoolExecutor(callers))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def spent(port: int, count: int, callers: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The result of `load`, and the CPU microseconds a request that each group of threads used meanwhile."""
    before = thread_seconds()
    result = load(port, "model", count, callers)
    after = thread_seconds()
    return result, {name: 1e6 * (seconds - before.get(name, 0)) / count for name, seconds in after.items()}


def graph_part(used: dict[str, float]) -> float:
    """What the graph's threads have of ``used``."""
    return sum(value for name, value in used.items() if name.startswith(GRAPH_THREADS))


def front(model_dir: Path, count: int, callers: int, rounds: int) -> dict[str, Any]:
    """CPU time for each request, split by the threads that used it: graph or front; and the waiting in the queue.

    A bare grpcio server takes the same calls in the same process, turn about, for comparison. It answers at once, so
    few of its threads are ever at work together: it is no lower bound for a server whose calls wait for a batch.
    """
    from toolkit.server import Server, ServerOptions

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batching.config"
        file.write_text(BATCHING)
        options = ServerOptions(
            model_base_path=model_dir, model_name="model", port=0, rest_api_port=-1, host="127.0.0.1",
            enable_batching=True, batching_parameters_file=file, grpc_max_threads=callers,
            tensorflow_session_parallelism=1,
        )  # fmt: skip
        empty, empty_port = empty_server(callers)
        with Server(options) as server:
            for port in (server.grpc_port, empty_port):
                load(port, "model", max(200, count // 10), callers)  # warm
            before = sums(server._metrics.page().decode())
            served, bare = [], []
            for _ in range(rounds):
                served.append(spent(server.grpc_port, count, callers))
                bare.append(spent(empty_port, count, callers)[1])
            after = sums(server._metrics.page().decode())
            used = {name: after[name] - before.get(name, 0) for name in after}
        empty.stop(None).wait()
    statuses: Counter[str] = Counter()
    for result, _ in served:
        statuses.update(result["statuses"])
    graphs = [graph_part(threads) for _, threads in served]
    if not all(graphs):
        raise SystemExit(f"no thread of the graph among {sorted(served[0][1])}: known are {', '.join(GRAPH_THREADS)}")
    fronts = [sum(threads.values()) - graph for (_, threads), graph in zip(served, graphs, strict=True)]
    floors = [sum(threads.values()) - graph_part(threads) for threads in bare]
    shares = [mine / (mine + graph) for mine, graph in zip(fronts, graphs, strict=True)]
    share = median(shares)
    batches = used["sentence_serving_batch_rows_count"]
    return {
        "statuses": dict(statuses),
        "requests_per_second": median(result["requests_per_second"] for result, _ in served),
        "callers": callers,
        "mean_batch_rows": used["sentence_serving_batch_rows_sum"] / batches,
        "mean_queue_ms": 1e3 * used["sentence_serving_queue_seconds_sum"] / (rounds * count),
        "mean_graph_ms_per_batch": 1e3 * used["sentence_serving_graph_seconds_sum"] / batches,
        "cpu_us_per_request_by_round": {
            "graph": [round(value) for value in graphs],
            "front": [round(value) for value in fronts],
            "empty_grpcio_server": [round(value) for value in floors],
        },
        "front_share_of_cpu_by_round": [round(value, 3) for value in shares],
        "front_to_empty_grpcio_server": median(mine / floor for mine, floor in zip(fronts, floors, strict=True)),
        "verdict": f"front {share:.1%} of the CPU (median), {'within' if share <= MOST else 'above'} {MOST:.0%}",
    }


def golden_model() -> Path:
    """The small recorded model of the tests."""
    return Path(__file__).parents[1] / "tests" / "server" / "golden" / "models" / "echo"


def resident() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def memory(count: int) -> dict[str, Any]:
    """Resident memory of a server after each tenth of ``count`` requests."""
    from toolkit.server import Server, ServerOptions

    options = ServerOptions(
        model_base_path=golden_model(), model_name="model", port=0, rest_api_port=-1, host="127.0.0.1"
    )
    with Server(options) as server:
        load(server.grpc_port, "model", 3000, 32)
        steps = [resident()]
        statuses: Counter[str] = Counter()
        for _ in range(10):
            statuses.update(load(server.grpc_port, "model", count // 10, 32)["statuses"])
            steps.append(resident())
    megabytes = [round(step / 1e6, 1) for step in steps]
    return {
        "requests": count,
        "statuses": dict(statuses),
        "resident_mb": megabytes,
        "grown_mb": megabytes[-1] - megabytes[0],
    }


def flood(calls: int) -> dict[str, Any]:
    """``calls`` at once against limits of 8 gRPC calls: who is answered, who is refused, and that it serves on."""
    from toolkit.server import Server, ServerOptions

    options = ServerOptions(
        model_base_path=golden_model(), model_name="model", port=0, rest_api_port=-1, host="127.0.0.1",
        grpc_max_threads=8,
    )  # fmt: skip
    with Server(options) as server:
        result = load(server.grpc_port, "model", calls, calls)
        afterwards = load(server.grpc_port, "model", 10, 1)
    return {"calls": calls, "limit": 8, **result, "afterwards": afterwards["statuses"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("front")
    command.add_argument("model_dir", type=Path)
    command.add_argument("--requests", type=int, default=4000)
    command.add_argument("--callers", type=int, default=64)
    command.add_argument("--rounds", type=int, default=3)
    command = commands.add_parser("memory")
    command.add_argument("--requests", type=int, default=50_000)
    command = commands.add_parser("flood")
    command.add_argument("--calls", type=int, default=1000)
    command = commands.add_parser("callers")
    for name, kind in (("port", int), ("model", str), ("count", int), ("callers", int)):
        command.add_argument(name, type=kind)
    given = parser.parse_args()
    match given.command:
        case "front":
            result = front(given.model_dir, given.requests, given.callers, given.rounds)
        case "memory":
            result = memory(given.requests)
        case "flood":
            result = flood(given.calls)
        case _:
            bodies = [request_bytes(given.model, [text.encode()]) for text in TEXTS]
            result = asyncio.run(call_many(given.port, bodies, given.count, given.callers))
    print(json.dumps(result, indent=None if given.command == "callers" else 2))


if __name__ == "__main__":
    main()
