"""What several of the server's tests need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.artifact.savedmodel import WARMUP
from toolkit.server import Server, ServerOptions

GOLDEN = Path(__file__).parent / "server" / "golden"
SERVE = [sys.executable, "-c", "from toolkit.cli import main; main()", "serve"]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that is to import this package."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A server in a process of its own, and its addresses; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [*SERVE, "--port=0", "--rest_api_port=0", "--host=127.0.0.1", "--json", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served(version: Path, folder: Path, *, batching: bool, warmed: bool = False) -> Iterator[Server]:
    """A server in this process that has an exported model as ``m``; ``batching``: it batches rows itself. Without the
    records of warm-up, which take seconds for each signature that a test asks nothing of."""
    options: dict[str, Any] = {}
    if batching:
        file = folder / "batching.config"
        file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 1000 }")
        options = {"enable_batching": True, "batching_parameters_file": file}
    copy = folder / "models" / "m" / "1"
    shutil.copytree(version, copy)
    if not warmed:
        (copy / WARMUP).unlink()
    with Server(ServerOptions(models_dir=folder / "models", port=0, rest_api_port=0, **options)) as running:
        yield running


def address(server: Server, scheme: str) -> str:
    """Where a server of this process is asked over ``grpc`` or ``http``."""
    return f"{scheme}://127.0.0.1:{server.grpc_port if scheme == 'grpc' else server.rest_port}"


def counted(server: Server, model: str, signature: str) -> tuple[float, float]:
    """How many requests its metrics count of a signature, and how many rows of these."""
    url = f"{address(server, 'http')}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=30) as response:
        lines = response.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    name, labels = "sentence_serving_request_rows", f'{{model="{model}",signature="{signature}"}}'
    requests, rows = (float(values.get(f"{name}_{part}{labels}", 0)) for part in ("count", "sum"))
    return requests, rows


def ended(process: subprocess.Popen[str]) -> int:
    """The exit code of a server that is asked to end."""
    process.terminate()
    process.communicate(timeout=60)
    return process.returncode


def golden_options(folder: Path, **changes: Any) -> ServerOptions:
    """The options with which the recorded server ran."""
    config = folder / "models.config"
    config.write_text((GOLDEN / "models.config").read_text().replace("MODELS", str(GOLDEN / "models")))
    options: dict[str, Any] = {
        "model_config_file": config,
        "monitoring_config_file": GOLDEN / "monitoring.config",
        "allow_version_labels_for_unavailable_models": True,
        "grpc_max_threads": 64,
        "port": 0,
        "rest_api_port": 0,
        "host": "127.0.0.1",
    }
    return ServerOptions(**(options | changes))


def copy_version(folder: Path, version: int, source: int = 1) -> Path:
    """Puts the recorded model's version ``source`` into ``folder`` as ``version``, complete at once."""
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{version}"
    shutil.copytree(GOLDEN / "models" / "echo" / str(source), half)
    half.rename(folder / str(version))
    return folder / str(version)


def text_request(*texts: bytes, model: str = "echo", signature: str = "") -> Any:
    """A PredictRequest of texts."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor = request.inputs["text"]
    tensor.dtype = 7
    tensor.tensor_shape.dim.add(size=len(texts))
    tensor.string_val.extend(texts)
    return request


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Returns as soon as ``condition`` holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def save_slow_model(folder: Path) -> None:
    """A model whose ``serving_default`` takes ``steps`` float32 ``[batch]`` and does that many steps of work."""
    import tensorflow as tf

    class Slow(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="steps")])
        def work(self, steps):  # type: ignore[no-untyped-def]
            limit = tf.cast(tf.reduce_max(steps), tf.int32)
            start = tf.eye(64)
            _, end = tf.while_loop(lambda i, _: i < limit, lambda i, m: (i + 1, tf.matmul(m, start)), [0, start])
            return {"done": steps + 0.0 * end[0, 1]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):  # type: ignore[no-untyped-def]
            parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})
            scores = tf.stack([parsed["x"], 1.0 - parsed["x"]], axis=1)
            return {"classes": tf.tile([["yes", "no"]], [tf.shape(inputs)[0], 1]), "scores": scores}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):  # type: ignore[no-untyped-def]
            parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})
            return {"outputs": 2.0 * parsed["x"]}

    module = Slow()
    signatures = {"serving_default": module.work, "classify": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(folder), signatures=signatures)
