"""What TensorFlow's optimizer makes of an artifact's graph."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import tensorflow as tf
from support import TEXTS
from tensorflow.python.saved_model import loader_impl
from tensorflow.python.util import _pywrap_util_port

LAYERS = 2
"""Of the tiny models."""
PATHS = 2
"""One for a single row, one for the loop over chunks; in float32 one more, for a single short row."""

needs_onednn = pytest.mark.skipif(not _pywrap_util_port.IsMklEnabled(), reason="this TensorFlow has no oneDNN kernels")


def optimized_ops(saved_model: Path, *, with_types: bool = False, traced: bool = False) -> collections.Counter[str]:
    """Kernels in the optimized graph of ``serving_default``, with what is fused into them; their ``T`` on request.
    Those that keep their weights packed are marked. Functions that are called are put into the graph, whose kernels
    cannot be looked at otherwise.

    With ``traced`` those that were run instead, in functions as they are, without what is fused into them.
    """
    session = tf.compat.v1.Session(graph=tf.Graph())
    loader = loader_impl.SavedModelLoader(str(saved_model))
    for function in [] if traced else loader.get_meta_graph_def_from_tags(["serve"]).graph_def.library.function:
        function.attr.pop("_noinline", None)
    with session.graph.as_default():
        meta = loader.load(session, ["serve"])
    signature = meta.signature_def["serving_default"]
    run = tf.compat.v1.RunMetadata()
    session.run(
        signature.outputs["embedding"].name,
        {signature.inputs["text"].name: list(TEXTS)},
        options=tf.compat.v1.RunOptions(output_partition_graphs=True, trace_level=3 if traced else 0),
        run_metadata=run,
    )
    ops: collections.Counter[str] = collections.Counter()
    if traced:
        for device in run.step_stats.dev_stats:
            # "name = op(inputs)"
            labels = (stats.timeline_label.partition(" = ")[2] for stats in device.node_stats)
            ops.update(label.partition("(")[0] for label in labels if label)
        session.close()
        return ops
    for graph in run.partition_graphs:
        for node in graph.node:
            fused = [name.decode() for name in node.attr["fused_ops"].list.s] if "fused_ops" in node.attr else []
            name = f"{node.op}[{','.join(fused)}]" if fused else node.op
            if "packed_product" in node.name:
                name += ":packed"
            if with_types and node.attr["T"].type:
                name += f":{tf.as_dtype(node.attr['T'].type).name}"
            ops[name] += 1
    session.close()
    return ops
