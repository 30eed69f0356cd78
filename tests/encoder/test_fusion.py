"""TensorFlow's optimizer turns the encoder's graph into oneDNN kernels: which ones, and how many a layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from fusion_support import LAYERS, PATHS, needs_onednn, optimized_ops

from toolkit.artifact.compatibility import read_saved_model, saved_model_nodes
from toolkit.convert import export


@pytest.fixture(scope="module")
def unbatched(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_source, tmp_path_factory.mktemp("models"), "tiny", verify=False, batching=None).path


@needs_onednn
def test_each_layer_is_ten_fused_kernels(unbatched: Path) -> None:
    ops = optimized_ops(unbatched)
    assert ops["_MklNativeFusedMatMul[BiasAdd]:packed"] == LAYERS
    assert ops["_MklNativeFusedMatMul[BiasAdd,GeluExact]:packed"] == LAYERS
    assert ops["_MklNativeFusedMatMul[BiasAdd,Add]:packed"] == 2 * LAYERS
    layers = PATHS * LAYERS
    # query, key and value in one product; attention's and the feed-forward's output add the residual at once
    assert ops["_MklNativeFusedMatMul[BiasAdd]"] == layers
    assert ops["_MklNativeFusedMatMul[BiasAdd,GeluExact]"] == layers
    assert ops["_MklNativeFusedMatMul[BiasAdd,Add]"] == 2 * layers
    # query times key with scale and mask, softmax, times value
    attentions = layers + LAYERS
    assert ops["_MklFusedBatchMatMulV2[Mul,Add]"] == attentions
    assert ops["_MklSoftmax"] == attentions
    assert ops["_MklBatchMatMulV2"] == attentions
    # two in a layer, and one behind the embeddings; a single row is normalized faster without the kernel
    assert ops["_MklLayerNorm"] == 2 * LAYERS + 1
    assert ops["Rsqrt"] == 2 * (2 * LAYERS + 1)
    # the Dense module behind Pooling
    assert ops["_MklNativeFusedMatMul[BiasAdd,Tanh]"] + ops["_FusedMatMul[BiasAdd,Tanh]"] == 1
    loose = {"MatMul", "_MklMatMul", "BatchMatMulV2", "BiasAdd", "Erf", "Erfc", "Softmax", "FusedBatchNormV3"}
    assert not loose & set(ops)


@needs_onednn
def test_batches_in_the_graph_are_as_many_fused_kernels(tiny_source: Path, tmp_path: Path) -> None:
    """The body of the batching op is a function that is called, which the optimizer sees by itself."""
    path = export(tiny_source, tmp_path, "tiny", verify=False).path
    ops = optimized_ops(path, traced=True)
    layers = LAYERS  # of the loop; one path is taken
    assert ops["_MklLayerNorm"] % (2 * layers + 1) == 0
    assert ops["_MklLayerNorm"] > 0
    assert ops["_MklLayerNorm"] // (2 * layers + 1) == ops["_MklSoftmax"] // layers
    assert not {"FusedBatchNormV3", "_MklNativeFusedBatchNormV3", "Rsqrt", "_MklTranspose"} & set(ops)
    model = read_saved_model(path)
    functions = model.meta_graphs[0].graph_def.library.function
    called = {item.signature.name for item in functions if item.attr["_noinline"].b}
    calls = [node for node in saved_model_nodes(model) if node.attr["f"].func.name in called]
    assert calls
    for node in calls:  # optimized once, when first called
        options = tf.compat.v1.ConfigProto.FromString(node.attr["config_proto"].s).graph_options.rewrite_options
        assert (options.meta_optimizer_iterations, options.disable_tfg_optimizer) == (1, True)
        assert (options.memory_optimization, options.layout_optimizer) == (1, 2)  # NO_MEM_OPT, OFF


@needs_onednn
def test_for_older_servers_layer_norm_is_not_left_to_a_kernel_that_two_calls_at_a_time_break(
    tiny_source: Path, tmp_path: Path
) -> None:
    ops = optimized_ops(export(tiny_source, tmp_path, "tiny", verify=False, batching=None, oldest_server="2.12").path)
    assert not [name for name in ops if "BatchNorm" in name or "LayerNorm" in name]
    assert ops["Rsqrt"] == (PATHS + 1) * (2 * LAYERS + 1)
    assert ops["_MklSoftmax"] == (PATHS + 1) * LAYERS
