"""An exported model is served: raw texts in, the same vectors out over both APIs, alone and batched with others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import tensorflow as tf
from serving_support import text_request
from tensorflow_serving.apis import prediction_service_pb2_grpc

StartServer = Any

TEXTS = ["hello", "", "a longer text with several words in it", "Grüße, 你好 \U0001f600", "x " * 300]


def test_exported_model_gives_its_vectors_alone_and_in_batches(
    start_server: StartServer, tiny_export: Path, tmp_path: Path
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 5000 } max_enqueued_batches { value: 99 }"
    )
    model = tf.saved_model.load(str(tiny_export))
    alone = {
        text: model.signatures["serving_default"](text=tf.constant([text]))["embedding"][0].numpy() for text in TEXTS
    }
    name = tiny_export.parent.name
    for options in ({}, {"enable_batching": True, "batching_parameters_file": file}):
        server = start_server(model_base_path=tiny_export.parent, model_name=name, **options)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, ThreadPoolExecutor(16) as pool:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

            def ask(text: str, stub: Any = stub) -> np.ndarray:
                answer = stub.Predict(text_request(text.encode(), model=name), timeout=60)
                return np.array(answer.outputs["embedding"].float_val, np.float32)

            for text, vector in zip(TEXTS * 8, pool.map(ask, TEXTS * 8), strict=True):
                np.testing.assert_allclose(vector, alone[text], atol=1e-6, rtol=0)
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/{name}"
        rows = httpx.post(f"{url}:predict", json={"instances": TEXTS}, timeout=60).json()["predictions"]
        np.testing.assert_allclose(np.array(rows, np.float32), np.stack([alone[text] for text in TEXTS]), atol=1e-6)
        body = {"signature_name": "detailed", "instances": TEXTS}
        detailed = httpx.post(f"{url}:predict", json=body, timeout=60).json()["predictions"]
        assert [row["truncated"] for row in detailed] == [False, False, False, False, True]
        server.stop()


def test_tokens_are_counted_for_the_default_signature_without_changing_it(
    start_server: StartServer, tiny_export: Path
) -> None:
    answers = []
    for counted in (True, False):
        server = start_server(model_base_path=tiny_export.parent, model_name="m", count_tokens=counted)
        url = f"http://127.0.0.1:{server.rest_port}"
        answers.append(httpx.post(f"{url}/v1/models/m:predict", json={"instances": TEXTS}, timeout=60).json())
        page = httpx.get(f"{url}/monitoring/prometheus/metrics").text
        counts = dict(line.split(" ") for line in page.splitlines() if line.startswith("sentence_serving_t"))
        tokens = counts['sentence_serving_tokens_total{model="m",signature="serving_default"}']
        truncated = counts['sentence_serving_truncated_texts_total{model="m",signature="serving_default"}']
        if not counted:
            assert (tokens, truncated) == ("0.0", "0.0")
            continue
        body = {"signature_name": "detailed", "instances": TEXTS}
        rows = httpx.post(f"{url}/v1/models/m:predict", json=body, timeout=60).json()["predictions"]
        assert (float(tokens), truncated) == (sum(row["num_tokens"] for row in rows), "1.0")
    assert answers[0] == answers[1], "the same bits"
