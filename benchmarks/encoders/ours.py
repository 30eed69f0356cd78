"""An exported artifact in a TensorFlow session, as servers run it.

``input`` is ``ids`` (``embed_tokens``), ``text`` or ``nothing``.

Operations run on one thread each and beside each other, or with ``threads`` ``within operations`` one after another
on all threads. With ``warm_up`` its own warm-up requests are played first. ``nothing`` is the bare runtime with a
trivial graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.encoders.engines import Engine, Spec, Vectors
from benchmarks.encoders.texts import TextSet, padded

if TYPE_CHECKING:
    from toolkit.server.models.servable import Servable


def load(spec: Spec) -> Engine:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the containers do
    import tensorflow as tf

    # As the containers run an artifact: each operation on one thread, chunks and requests beside each other.
    within, across = (spec.threads, 1) if spec.options.get("threads") == "within operations" else (1, spec.threads)
    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(across)
    versions = {"tensorflow": tf.__version__}
    if spec.options["input"] == "nothing":  # the bare runtime, whose memory the others' is compared with
        import tensorflow_text  # noqa: F401

        trivial = tf.function(tf.linalg.matmul)
        return Engine(lambda batch: {"": lambda texts, numbers: trivial(tf.ones([8, 8]), tf.ones([8, 8]))}, versions)
    from toolkit.server.models.servable import RunOptions, Servable

    servable = Servable("model", 1, spec.path, RunOptions(("serve",), within, across, count_tokens=False))
    run = partial(_run, servable)

    def from_ids(texts: TextSet, numbers: Sequence[int]) -> Vectors:
        ids, mask = padded([texts.ids[number] for number in numbers])
        return run("embed_tokens", {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})

    def from_text(texts: TextSet, numbers: Sequence[int]) -> Vectors:
        text = np.array([texts.texts[number].encode() for number in numbers], object)
        return run("serving_default", {"text": text})

    if spec.options.get("warm_up"):
        _play_warm_up(spec, run)
    way = {"ids": from_ids, "text": from_text}[spec.options["input"]]
    return Engine(lambda batch: {"one call": way}, versions)


def _run(servable: Servable, signature: str, inputs: Mapping[str, npt.NDArray[Any]]) -> Vectors:
    return np.asarray(servable.run(servable.signatures[signature], inputs, ("embedding",))[0]["embedding"])


def _play_warm_up(spec: Spec, run: Callable[..., Vectors]) -> None:
    """The requests that a server plays before it calls the artifact ready."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from toolkit.server.watching.process import return_memory

    for record in tf.data.TFRecordDataset(str(spec.path / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        run(request.model_spec.signature_name or "serving_default", inputs)
    return_memory()
