"""TensorFlow's optimizer turns the encoder's graph into oneDNN kernels: which ones, and how many a layer."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import tensorflow as tf
from support import TEXTS
from tensorflow.python.util import _pywrap_util_port

from toolkit.convert import export

LAYERS = 2
PATHS = 2  # one for a single row, one for the loop over chunks


def optimized_ops(saved_model: Path) -> collections.Counter[str]:
    """Kernel names in the optimized graph of ``serving_default``, with what is fused into them."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))
    signature = meta.signature_def["serving_default"]
    run = tf.compat.v1.RunMetadata()
    session.run(
        signature.outputs["embedding"].name,
        {signature.inputs["text"].name: list(TEXTS)},
        options=tf.compat.v1.RunOptions(output_partition_graphs=True),
        run_metadata=run,
    )
    ops: collections.Counter[str] = collections.Counter()
    for graph in run.partition_graphs:
        for node in graph.node:
            fused = [name.decode() for name in node.attr["fused_ops"].list.s] if "fused_ops" in node.attr else []
            ops[f"{node.op}[{','.join(fused)}]" if fused else node.op] += 1
    session.close()
    return ops


@pytest.fixture(scope="module")
def unbatched(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_source, tmp_path_factory.mktemp("models"), "tiny", verify=False, batching=None).path


@pytest.mark.skipif(not _pywrap_util_port.IsMklEnabled(), reason="this TensorFlow has no oneDNN kernels")
def test_each_layer_is_ten_fused_kernels(unbatched: Path) -> None:
    ops = optimized_ops(unbatched)
    layers = PATHS * LAYERS
    # query, key and value in one product; attention's and the feed-forward's output add the residual at once
    assert ops["_MklNativeFusedMatMul[BiasAdd]"] == layers
    assert ops["_MklNativeFusedMatMul[BiasAdd,GeluExact]"] == layers
    assert ops["_MklNativeFusedMatMul[BiasAdd,Add]"] == 2 * layers
    # query times key with scale and mask, softmax, times value
    assert ops["_MklFusedBatchMatMulV2[Mul,Add]"] == layers
    assert ops["_MklSoftmax"] == layers
    assert ops["_MklBatchMatMulV2"] == layers
    # two in a layer, and one behind the embeddings
    assert ops["_MklLayerNorm"] == 2 * layers + PATHS
    # the Dense module behind Pooling
    assert ops["_MklNativeFusedMatMul[BiasAdd,Tanh]"] + ops["_FusedMatMul[BiasAdd,Tanh]"] == 1
    loose = {"MatMul", "_MklMatMul", "BatchMatMulV2", "BiasAdd", "Erf", "Erfc", "Softmax", "FusedBatchNormV3"}
    assert not loose & set(ops)
