"""A server whose behaviour is known: one request at a time, in order, each of the same service time.

    python known_server.py SECONDS LOG [--rest] [--tls FOLDER] [--stall AT SECONDS] [--fail-every N]
                           [--exponential SEED] [--places N]

Speaks gRPC, or REST with kept-alive connections; with ``--tls`` under the certificates of `known.certificates`, and
only with clients that have one. Prints its port, and "first" when the first request has come. With ``--places`` so many
wait at most, and the others are refused. At the end (SIGTERM) it writes ``LOG``, a .npy of [arrival, begin, end,
failed] of each request in `time.monotonic`: what a generator reports can be held against what the server did, whatever
the machine did to both. The stall begins AT seconds after the first request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from toolkit.client.wire import messages

SERVICE = "tensorflow.serving.PredictionService"


@dataclass(frozen=True)
class Refusal:
    code: grpc.StatusCode
    status: int
    message: str


FULL = Refusal(grpc.StatusCode.UNAVAILABLE, 503, "the queue is full")
PLANTED = Refusal(grpc.StatusCode.INTERNAL, 500, "planted")


def unknown(name: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, 404, f"Servable not found for request: Latest({name})")


class Queue:
    """The one queue, and the log of what went through it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rows: list[tuple[float, float, float, bool]] = []
        self.refused: list[float] = []
        self._one = asyncio.Lock()  # a lock of asyncio wakes waiters in order
        self._draw = random.Random(options.exponential)
        self._first = 0.0
        self._waiting = 0

    async def work(self) -> Refusal | None:
        options, arrival = self.options, time.monotonic()
        if not self._first:
            self._first = arrival
            print("first", flush=True)
        if options.places and self._waiting >= options.places:
            self.refused.append(arrival)
            return FULL
        self._waiting += 1
        seconds = options.seconds if options.exponential is None else self._draw.expovariate(1 / options.seconds)
        async with self._one:
            begin = time.monotonic()
            if options.stall and begin >= self._first + options.stall[0]:
                await asyncio.sleep(options.stall[1])
                options.stall = None
            if seconds:
                await asyncio.sleep(seconds)
            number = len(self.rows) + 1
            failed = bool(options.fail_every) and number % options.fail_every == 0
            self.rows.append((arrival, begin, time.monotonic(), failed))
        self._waiting -= 1
        return PLANTED if failed else None

    def save(self) -> None:
        rows = self.rows + [(arrival, arrival, arrival, True) for arrival in self.refused]
        np.save(self.options.log, np.array(rows or np.empty((0, 4)), np.float64))


# ---- gRPC


def metadata() -> bytes:
    signatures = messages.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.inputs["text"].dtype = 7
    signature.inputs["text"].tensor_shape.dim.add(size=-1)
    signature.outputs["embedding"].dtype = 1
    signature.outputs["embedding"].tensor_shape.dim.add(size=-1)
    signature.outputs["embedding"].tensor_shape.dim.add(size=1)
    answer = messages.GetModelMetadataResponse(model_spec={"name": "m", "version": {"value": 1}})
    answer.metadata["signature_def"].value = signatures.SerializeToString()
    return answer.SerializeToString()


def prediction() -> bytes:
    answer = messages.PredictResponse(model_spec={"name": "m", "version": {"value": 1}})
    tensor = messages.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 1}]}, tensor_content=b"\0" * 4)
    answer.outputs["embedding"].CopyFrom(tensor)
    return answer.SerializeToString()


async def serve_grpc(queue: Queue, tls: Path | None) -> tuple[int, grpc.aio.Server]:
    answer = prediction()

    async def predict(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        refusal = await queue.work()
        if refusal is not None:
            await context.abort(refusal.code, refusal.message)
        return answer

    async def described(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        name = messages.GetModelMetadataRequest.FromString(request).model_spec.name
        if name != "m":
            await context.abort(unknown(name).code, unknown(name).message)
        return metadata()

    server = grpc.aio.server()
    handlers = {
        "Predict": grpc.unary_unary_rpc_method_handler(predict),
        "GetModelMetadata": grpc.unary_unary_rpc_method_handler(described),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = ((tls / "server.key").read_bytes(), (tls / "server.pem").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], (tls / "ca.pem").read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return port, server


# ---- REST


def described() -> bytes:
    text = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1"}]}}
    embedding = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "1"}]}}
    signatures = {"serving_default": {"inputs": {"text": text}, "outputs": {"embedding": embedding}}}
    spec = {"name": "m", "version": "1", "signature_name": ""}
    return json.dumps({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}).encode()


async def serve_rest(queue: Queue, tls: Path | None) -> tuple[int, asyncio.Server]:
    metadata = described()

    async def answered(path: str) -> tuple[int, bytes]:
        model, _, what = path.removeprefix("/v1/models/").replace(":", "/").partition("/")
        refusal = unknown(model)
        if model == "m":
            if what == "metadata":
                return 200, metadata
            refusal = await queue.work()
        if refusal is None:
            return 200, b'{"outputs": [[0.0]]}'
        return refusal.status, json.dumps({"error": refusal.message}).encode()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                status, body = await answered(head.split()[1].decode())
                fields = f"content-type: application/json\r\ncontent-length: {len(body)}"
                writer.write(f"HTTP/1.1 {status} Known\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls / "ca.pem"))
        context.load_cert_chain(str(tls / "server.pem"), str(tls / "server.key"))
        context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context, backlog=1024)
    return server.sockets[0].getsockname()[1], server


async def main(options: argparse.Namespace) -> None:
    queue = Queue(options)
    port, server = await (serve_rest if options.rest else serve_grpc)(queue, options.tls)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print(port, flush=True)
    await over.wait()
    if isinstance(server, asyncio.Server):
        server.close()
    else:
        await server.stop(None)
    queue.save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("log")
    parser.add_argument("--rest", action="store_true")
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--stall", type=float, nargs=2)
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--exponential", type=int)
    parser.add_argument("--places", type=int, default=0)
    asyncio.run(main(parser.parse_args()))
