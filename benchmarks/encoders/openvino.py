"""OpenVINO on the CPU; ``hint`` is the inference precision hint, ``graph`` the file in the model's folder."""

from __future__ import annotations

import numpy as np

from benchmarks.encoders.engines import Engine, Spec, Vectors, grouped
from benchmarks.encoders.texts import Ids


def load(spec: Spec) -> Engine:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(spec.path / f"{spec.options['graph']}.xml"),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": spec.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": spec.options["hint"],
            "ENABLE_CPU_PINNING": False,  # the process is pinned already
        },
    )
    request = compiled.create_infer_request()

    def dense(ids: Ids, mask: Ids) -> Vectors:
        feed = [value.astype(np.int64) for value in (ids, mask, np.zeros_like(ids))]
        return np.array(request.infer(feed)[0])

    return Engine(grouped({"": dense}), {"openvino": openvino.__version__.split("-")[0]})
