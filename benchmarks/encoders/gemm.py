"""The machine's peak: one large matrix product, in TensorFlow (oneDNN) or torch, after ``library`` and ``dtype``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from benchmarks.encoders.engines import Engine, Spec
from benchmarks.encoders.texts import TextSet

SIZE = 2048
REPEAT = 8
FLOPS = 2 * SIZE**3 * REPEAT
"""Operations of one call, multiplications and additions."""


def load(spec: Spec) -> Engine:
    make = {"tensorflow": _tensorflow, "torch": _torch}[spec.options["library"]]
    product, version = make(spec)

    def run(texts: TextSet, numbers: Sequence[int]) -> None:
        for _ in range(REPEAT):
            product()

    return Engine(lambda batch: {"": run}, {spec.options["library"]: version})


def _tensorflow(spec: Spec) -> tuple[Callable[[], object], str]:
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    x = tf.cast(tf.random.normal([SIZE, SIZE]), spec.options["dtype"])
    multiply = tf.function(tf.linalg.matmul)
    return lambda: multiply(x, x).numpy(), tf.__version__


def _torch(spec: Spec) -> tuple[Callable[[], object], str]:
    import torch

    torch.set_num_threads(spec.threads)
    x = torch.randn(SIZE, SIZE).to(getattr(torch, spec.options["dtype"]))
    return lambda: x @ x, str(torch.__version__)
