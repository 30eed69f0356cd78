"""A server that answers at once: canned answers of ROWS x DIM floats, over gRPC and REST, whatever is asked.

    python benchmarks/instant_server.py ROWS DIM FIELD      (FIELD: float_val or tensor_content)

Prints its two ports. Its own work is next to nothing, so that a benchmark sees the client's.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from toolkit.client.wire import messages


def main() -> None:
    rows, dim, field = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    values = np.random.default_rng(0).normal(size=(rows, dim)).astype("<f4") / 20
    response = messages.PredictResponse(model_spec={"name": "m", "version": {"value": 1}})
    block = values.tobytes()
    response.outputs["embedding"].CopyFrom(
        messages.TensorProto(
            dtype=1,
            tensor_shape={"dim": [{"size": rows}, {"size": dim}]},
            **{field: [block] if field == "float_val" else block},
        )
    )
    answer = response.SerializeToString()
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler}),)
    )
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    shape = {"dim": [{"size": "-1", "name": ""}, {"size": str(dim), "name": ""}], "unknown_rank": False}
    side = {"embedding": {"name": "e:0", "dtype": "DT_FLOAT", "tensor_shape": shape}}
    signature = {"inputs": {}, "outputs": side, "method_name": ""}
    metadata = json.dumps(
        {
            "model_spec": {"name": "m", "signature_name": "", "version": "1"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    ).encode()
    outputs = json.dumps({"outputs": [[float(f"{x:.9g}") for x in row] for row in values.tolist()]}).encode()

    class Rest(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: Any) -> None:
            pass

        def send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send(metadata)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send(outputs)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    print(grpc_port, http.server_address[1], flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
