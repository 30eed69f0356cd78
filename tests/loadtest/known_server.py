"""A gRPC server whose behaviour is known: one request at a time, in order, each of the same service time.

    python known_server.py SECONDS LOG [--stall AT SECONDS] [--fail-every N] [--exponential SEED] [--places N]

Prints its port, and "first" when the first request has come. With ``--places`` so many wait at most, and the others are
refused. At the end (SIGTERM) it writes ``LOG``, a .npy of [arrival, begin, end, failed] of each request in
`time.monotonic`: what a generator reports can be held against what the server did, whatever the machine did to both.
The stall begins AT seconds after the first request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import time

import grpc
import grpc.aio
import numpy as np

from toolkit.client.wire import messages

SERVICE = "tensorflow.serving.PredictionService"


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


async def main(options: argparse.Namespace) -> None:
    rows: list[tuple[float, float, float, bool]] = []
    answer, queue = prediction(), asyncio.Lock()  # a lock of asyncio wakes waiters in order
    draw = random.Random(options.exponential)
    first, waiting = 0.0, 0
    refused: list[float] = []

    async def predict(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        nonlocal first, waiting
        arrival = time.monotonic()
        if not first:
            first = arrival
            print("first", flush=True)
        if options.places and waiting >= options.places:
            refused.append(arrival)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        waiting += 1
        seconds = options.seconds if options.exponential is None else draw.expovariate(1 / options.seconds)
        async with queue:
            begin = time.monotonic()
            if options.stall and begin >= first + options.stall[0]:
                await asyncio.sleep(options.stall[1])
                options.stall = None
            if seconds:
                await asyncio.sleep(seconds)
            number = len(rows) + 1
            failed = bool(options.fail_every) and number % options.fail_every == 0
            rows.append((arrival, begin, time.monotonic(), failed))
        waiting -= 1
        if failed:
            await context.abort(grpc.StatusCode.INTERNAL, "planted")
        return answer

    async def described(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        name = messages.GetModelMetadataRequest.FromString(request).model_spec.name
        if name != "m":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})")
        return metadata()

    server = grpc.aio.server()
    handlers = {
        "Predict": grpc.unary_unary_rpc_method_handler(predict),
        "GetModelMetadata": grpc.unary_unary_rpc_method_handler(described),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print(port, flush=True)
    await over.wait()
    await server.stop(None)
    rows += [(arrival, arrival, arrival, True) for arrival in refused]
    np.save(options.log, np.array(rows or np.empty((0, 4)), np.float64))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("log")
    parser.add_argument("--stall", type=float, nargs=2)
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--exponential", type=int)
    parser.add_argument("--places", type=int, default=0)
    asyncio.run(main(parser.parse_args()))
