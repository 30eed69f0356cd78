"""A gRPC server that starts in a moment (no tensorflow), to be killed and started again: ``light_serving.py PORT``.

It knows one model, ``fake``, whose embeddings are those of `text_vectors`. The text ``poison`` ends it.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from text_vectors import DIM, vector

from toolkit.client.wire import messages


def predict(request: Any, context: Any) -> bytes:
    texts = request.inputs["text"].string_val
    if b"poison" in texts:
        os._exit(139)
    response = messages.PredictResponse(model_spec={"name": "fake", "version": {"value": 1}})
    response.outputs["embedding"].CopyFrom(
        messages.TensorProto(
            dtype=1,
            tensor_shape={"dim": [{"size": len(texts)}, {"size": DIM}]},
            float_val=[np.concatenate([vector(text) for text in texts]).tobytes()],
        )
    )
    return bytes(response.SerializeToString())


def metadata(request: Any, context: Any) -> bytes:
    signatures = messages.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.inputs["text"].dtype = 7
    signature.inputs["text"].tensor_shape.dim.add(size=-1)
    signature.outputs["embedding"].dtype = 1
    for size in (-1, DIM):
        signature.outputs["embedding"].tensor_shape.dim.add(size=size)
    response = messages.GetModelMetadataResponse(model_spec={"name": "fake", "version": {"value": 1}})
    response.metadata["signature_def"].value = signatures.SerializeToString()
    return bytes(response.SerializeToString())


def serve(port: int) -> None:
    methods = {
        "Predict": grpc.unary_unary_rpc_method_handler(predict, messages.PredictRequest.FromString),
        "GetModelMetadata": grpc.unary_unary_rpc_method_handler(metadata, messages.GetModelMetadataRequest.FromString),
    }
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
