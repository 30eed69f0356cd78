"""A model made on the spot, and what a running server has to get right: answers on both APIs, and an orderly end."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.sandbox import Process

MODEL = "trial"
SLOW = "s" * 3200  # a text that keeps the graph busy for most of a second, longer than the pause before SIGTERM


def make_model(folder: Path) -> Path:
    """``folder/trial/1``: texts to [length, 2 * length, 0.5]; the time it takes grows with the longest text."""
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            length = tf.cast(tf.strings.length(text), tf.float32)
            square = tf.eye(384) + tf.reduce_sum(length) * 0
            turns = tf.cast(tf.reduce_max(tf.concat([length, [0.0]], 0)), tf.int32) // 4
            _, done = tf.while_loop(lambda i, _: i < turns, lambda i, m: (i + 1, m @ square), (0, square))
            return {"embedding": tf.stack([length, length * 2, length * 0 + done[0, 0] / 2], axis=1)}

    model = Model()
    path = folder / MODEL / "1"
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.__call__})
    return path


def expected(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 2.0 * len(text), 0.5] for text in texts]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    grpc: int
    rest: int
    certificate: Path | None = None
    """Folder with tls.crt and tls.key: gRPC is mutual TLS, with this one certificate for all."""

    def get(self, path: str) -> tuple[int, str]:
        return self._ask("GET", path, None)

    def predict(self, texts: list[str]) -> list[list[float]]:
        status, body = self._ask("POST", f"/v1/models/{MODEL}:predict", json.dumps({"instances": texts}))
        assert status == 200, f"{status}: {body}"
        found: list[list[float]] = json.loads(body)["predictions"]
        return found

    def _ask(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def predict_grpc(self, texts: list[str]) -> list[list[float]]:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.inputs["text"].CopyFrom(tf.make_tensor_proto(texts, tf.string))
        with self.channel(with_certificate=True) as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        found: list[list[float]] = tf.make_ndarray(answer.outputs["embedding"]).tolist()
        return found

    def channel(self, *, with_certificate: bool) -> Any:
        import grpc

        target = f"127.0.0.1:{self.grpc}"
        if self.certificate is None:
            return grpc.insecure_channel(target)
        key, certificate = ((self.certificate / name).read_bytes() for name in ("tls.key", "tls.crt"))
        own = (key, certificate) if with_certificate else (None, None)
        credentials = grpc.ssl_channel_credentials(certificate, *own)
        return grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", "sentence-serving-grpc")])

    def wait_until_ready(self, process: Process, seconds: float = 120, model: str = MODEL) -> None:
        """Waits as the startup probe does. Raises ``AssertionError`` with the server's words if it ends or never is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert process.outer.poll() is None, f"ended with {process.outer.returncode}:\n{process.log.read_text()}"
            try:
                if self.get(f"/v1/models/{model}/metadata")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"not ready after {seconds} s:\n{process.log.read_text()}")


@dataclass
class Load:
    """Callers on both APIs, each sending the next request when the last is answered, until they are told to stop."""

    address: Address
    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, callers: int) -> None:
        for number in range(callers):
            call = self.address.predict if number % 2 else self.address.predict_grpc
            thread = threading.Thread(target=self._call, args=(call, [SLOW, f"caller {number}"]))
            self._threads.append(thread)
            thread.start()

    def _call(self, call: Callable[[list[str]], list[list[float]]], texts: list[str]) -> None:
        while not self._stop.is_set():
            with self._lock:
                self.sent += 1
            try:
                assert call(texts) == expected(texts)
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            with self._lock:
                self.answered += 1

    @property
    def in_progress(self) -> int:
        with self._lock:
            return self.sent - self.answered

    def withdraw(self) -> None:
        """No caller starts another request: what Kubernetes' endpoints do when a pod begins to end."""
        self._stop.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def check_answers(address: Address) -> None:
    texts = ["", "a", "Grüße", "x" * 30]
    lengths = [[float(len(text.encode())), 2.0 * len(text.encode()), 0.5] for text in texts]
    assert address.predict(texts) == lengths
    assert address.predict_grpc(texts) == lengths
    many = ["x" * (number % 7) for number in range(150)]  # more than a batch: the server splits it
    assert address.predict(many) == expected(many)


def check_restrictions(process: Process) -> None:
    """Process 1 is the server itself, unprivileged, and can gain nothing."""
    status = process.status()
    assert status["NSpid"].split()[-1] == "1"
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"serve" in command
    assert not any(part.endswith((b"/sh", b"entrypoint")) for part in command)


def check_sigterm_under_load(address: Address, process: Process) -> str:
    """Every request that was accepted is answered, and the process ends with 0; returns a line with the counts."""
    load = Load(address)
    load.start(callers=8)
    end = time.monotonic() + 60
    while load.answered < 16 and time.monotonic() < end:
        time.sleep(0.02)
    load.withdraw()
    time.sleep(0.3)  # the preStop pause: requests on their way arrive
    waiting = load.in_progress
    process.terminate()
    try:
        code = process.outer.wait(60)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"does not end after SIGTERM:\n{process.log.read_text()}") from None
    load.join()
    assert not load.failures, load.failures
    assert load.answered == load.sent
    assert waiting > 0, "nothing was in progress at SIGTERM: the test would prove nothing"
    assert code == 0, f"ended with {code}:\n{process.log.read_text()}"
    return f"SIGTERM with {waiting} of {load.sent} requests in progress: 0 failed, exit 0"
