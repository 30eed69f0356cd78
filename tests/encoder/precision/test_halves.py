"""A gate's two halves are products of their own, and go back into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from family_models import save_family
from support import TEXTS, largest_difference

from toolkit.encoder.layout import Layout
from toolkit.encoder.precision.halves import cut, halved, together
from toolkit.graph.precision_choice import all_bfloat16
from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.source.checkpoint import open_checkpoint

GATED = ["modernbert", "nomic_bert", "mt5", "qwen3", "gemma2"]


def test_halves_are_the_first_and_the_second_of_the_last_axis() -> None:
    first, second = cut(np.arange(12).reshape(2, 6))
    assert (first.tolist(), second.tolist()) == ([[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]])


def test_only_products_of_a_gate_are_halved_with_their_biases() -> None:
    kernel, bias = np.arange(12.0).reshape(2, 6), np.arange(6.0)
    given = {"layer_0/intermediate/kernel": kernel, "layer_0/intermediate/bias": bias, "layer_0/output/kernel": kernel}
    assert halved(dict(given), inner=6) == given
    emptied = dict(given)
    found = halved(emptied, inner=3)
    assert not emptied, "a large model would be in memory twice"
    assert list(found) == [
        "layer_0/intermediate/gate/kernel",
        "layer_0/intermediate/inner/kernel",
        "layer_0/intermediate/gate/bias",
        "layer_0/intermediate/inner/bias",
        "layer_0/output/kernel",
    ]
    assert np.array_equal(found["layer_0/intermediate/inner/kernel"], kernel[:, 3:])
    assert np.array_equal(found["layer_0/intermediate/gate/bias"], bias[:3])
    back = together({name: tf.constant(array) for name, array in found.items()})
    assert back.keys() == given.keys()
    assert all(np.array_equal(back[name], given[name]) for name in given)


@pytest.mark.parametrize("lower", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", GATED)
def test_no_result_of_a_gated_layer_is_cut_apart(tmp_path: Path, model_type: str, lower: bool) -> None:
    checkpoint = open_checkpoint(save_family(tmp_path, model_type))
    spec = read_spec(checkpoint)
    model = EmbedModel(spec, Layout(plan=all_bfloat16(spec.encoder) if lower else None))
    kernels = [variable for variable in model._encoder.variables if "intermediate" in variable.name]
    assert len(kernels) == 2 * spec.encoder.num_layers
    assert {tuple(kernel.shape) for kernel in kernels} == {(spec.encoder.hidden_size, spec.encoder.intermediate_size)}
    ours = model._serving_default(tf.constant(list(TEXTS)))["embedding"]
    theirs = checkpoint.reference.encode(list(TEXTS))
    if lower:
        assert np.sum(ours * theirs, 1).min() > 0.999
    else:
        assert largest_difference(ours, theirs) < 1e-5
    widths = {
        node.attr["_output_shapes"].list.shape[0].dim[-1].size
        for part in model._encoders.values()
        for node in part.traced().graph.as_graph_def(add_shapes=True).node
        if node.op == "StridedSlice" and len(node.attr["_output_shapes"].list.shape[0].dim) == 2
    }
    assert spec.encoder.intermediate_size not in widths
