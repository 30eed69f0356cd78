"""An exported artifact, loaded by TensorFlow; ``input`` is ``ids`` (``embed_tokens``) or ``text``."""

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

    way = {"ids": from_ids, "text": from_text}[spec.options["input"]]
    return Engine(lambda batch: {"one call": way} if loaded else {}, versions)


def _signatures(spec: Spec) -> tuple[Any, Any]:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the tokenizer's ops

    loaded = tf.saved_model.load(spec.model)
    return loaded, loaded.signatures
