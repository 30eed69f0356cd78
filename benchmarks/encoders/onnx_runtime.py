"""ONNX Runtime on the CPU; ``model`` is a folder of graphs that compute the same."""

from __future__ import annotations

import numpy as np

from benchmarks.encoders.engines import Dense, Engine, Spec, Vectors, grouped
from benchmarks.encoders.texts import Ids


def load(spec: Spec) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1

    def graph(file: str) -> Dense:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

        def dense(ids: Ids, mask: Ids) -> Vectors:
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            return np.asarray(session.run(None, {name: value.astype(np.int64) for name, value in feed.items()})[0])

        return dense

    files = [spec.path / f"{name}.onnx" for name in spec.options["graphs"].split(",")]
    return Engine(
        grouped({file.stem.replace("_", " "): graph(str(file)) for file in files}),
        {"onnxruntime": onnxruntime.__version__},
    )
