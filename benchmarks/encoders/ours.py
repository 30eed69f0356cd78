"""An exported artifact, loaded by TensorFlow; ``input`` is ``ids`` (``embed_tokens``), ``text`` or ``nothing``.

With ``warm_up`` its own warm-up requests are played first. ``nothing`` is the bare runtime with a trivial graph.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.encoders.engines import Engine, Spec, Vectors
from benchmarks.encoders.texts import TextSet, padded


def load(spec: Spec) -> Engine:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
    tf.config.threading.set_inter_op_parallelism_threads(int(spec.options.get("inter_op", "1")))
    versions = {"tensorflow": tf.__version__}
    if spec.options["input"] == "nothing":  # the bare runtime, whose memory the others' is compared with
        import tensorflow_text  # noqa: F401

        trivial = tf.function(tf.linalg.matmul)
        return Engine(lambda batch: {"": lambda texts, numbers: trivial(tf.ones([8, 8]), tf.ones([8, 8]))}, versions)
    # Kept by the closures below: a signature lives only as long as the object it was loaded with.
    loaded, functions = _signatures(spec)

    def from_ids(texts: TextSet, numbers: Sequence[int]) -> Vectors:
        ids, mask = padded([texts.ids[number] for number in numbers])
        outputs = functions["embed_tokens"](
            input_ids=tf.constant(ids), attention_mask=tf.constant(mask), token_type_ids=tf.constant(np.zeros_like(ids))
        )
        return np.asarray(outputs["embedding"])

    def from_text(texts: TextSet, numbers: Sequence[int]) -> Vectors:
        text = tf.constant([texts.texts[number] for number in numbers])
        return np.asarray(functions["serving_default"](text=text)["embedding"])

    if spec.options.get("warm_up"):
        _play_warm_up(spec, functions)
    way = {"ids": from_ids, "text": from_text}[spec.options["input"]]
    return Engine(lambda batch: {"one call": way} if loaded else {}, versions)


def _signatures(spec: Spec) -> tuple[Any, Any]:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the tokenizer's ops

    loaded = tf.saved_model.load(spec.model)
    return loaded, loaded.signatures


def _play_warm_up(spec: Spec, functions: Any) -> None:
    """The requests that a server plays before it calls the artifact ready."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(spec.path / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        functions[request.model_spec.signature_name or "serving_default"](**inputs)
