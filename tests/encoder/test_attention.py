"""Attention of long rows grows with their length: no tensor of the graph with its square, none beyond a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from family_models import save_family
from marks import long

from toolkit.encoder.attention import (
    BLOCK,
    EVERYWHERE,
    PARTLY_WHOLE,
    WHOLE,
    WINDOW_BLOCK,
    Attention,
    Masks,
    Reach,
)
from toolkit.encoder.family import EncoderSpec
from toolkit.encoder.packing import Tokens, in_chunks
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.graph.tasks import read_spec
from toolkit.source.checkpoint import open_checkpoint

LONG = 8 * BLOCK
LIMITS = {"xlm-roberta": 2 * LONG + 2, "mpnet": 2 * LONG + 2}
"""Positions, where there is a table of them."""


def encoder(folder: Path, model_type: str) -> EncoderSpec:
    changes = {"max_position_embeddings": LIMITS[model_type]} if model_type in LIMITS else {}
    return read_spec(open_checkpoint(save_family(folder, model_type, **changes))).encoder


def computed(spec: EncoderSpec, *lengths: int) -> Iterator[dict[str, list[tuple[int, ...]]]]:
    """The shapes of all tensors that the optimized graph computes for one row of each length, by kernel."""
    arrays = spec.parameters()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        params = {name: tf.constant(value) for name, value in arrays.items()}
        length = tf.compat.v1.placeholder(tf.int32, [])
        tokens = Tokens(
            tf.ones([length], tf.int32), tf.zeros([length], tf.int32), tf.range(length), tf.stack([0, length])
        )
        result = in_chunks(
            tokens,
            lambda: lambda chunk: spec.hidden_states(Float32Products(params, spec), chunk),
            spec.hidden_size,
            per_token=True,
        )
        for count in lengths:
            run: Any = tf.compat.v1.RunMetadata()
            options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
            session.run(result, {length: count}, options=options, run_metadata=run)
            found: dict[str, list[tuple[int, ...]]] = {}
            for stats in (stats for device in run.step_stats.dev_stats for stats in device.node_stats):
                kernel = stats.timeline_label.partition(" = ")[2].partition("(")[0]
                for output in stats.output:
                    shape = tuple(dim.size for dim in output.tensor_description.shape.dim)
                    found.setdefault(kernel, []).append(shape)
            yield found


def traced(spec: EncoderSpec) -> tf.Graph:
    """The graph of packed tokens to hidden states, not optimized."""
    arrays = spec.parameters()
    with tf.Graph().as_default() as graph:
        params = {name: tf.constant(value) for name, value in arrays.items()}
        tokens = Tokens(*(tf.compat.v1.placeholder(tf.int32, [None]) for _ in range(4)))
        in_chunks(
            tokens,
            lambda: lambda chunk: spec.hidden_states(Float32Products(params, spec), chunk),
            spec.hidden_size,
            per_token=True,
        )
    return graph


def numbers(shapes: dict[str, list[tuple[int, ...]]]) -> int:
    """In the largest tensor."""
    return max(int(np.prod(shape)) for of_kernel in shapes.values() for shape in of_kernel)


@pytest.mark.parametrize(
    "model_type",
    [
        "xlm-roberta",
        "t5",
        "deberta-v2",
        "modernbert",
        *long("mpnet", "qwen3"),
    ],
)
def test_no_tensor_grows_with_the_square_of_a_texts_length(tmp_path: Path, model_type: str) -> None:
    once, twice = computed(encoder(tmp_path, model_type), LONG, 2 * LONG)
    assert sum(map(len, once.values())) > 100, "the trace tells of tensors"
    assert numbers(twice) <= 2 * numbers(once)


def test_scores_beyond_a_window_are_not_computed(tmp_path: Path) -> None:
    spec: Any = encoder(tmp_path, "modernbert")
    (shapes,) = computed(replace(spec, local=(True,) * spec.num_layers), LONG)
    weights = [shape for kernel, found in shapes.items() if "Softmax" in kernel for shape in found]
    assert len(weights) >= spec.num_layers * LONG // WINDOW_BLOCK
    assert max(shape[-1] for shape in weights if len(shape) == 4) == WINDOW_BLOCK + 2 * spec.window
    assert numbers(shapes) < LONG * LONG


def test_a_window_is_kept_to_from_half_the_length_on_at_which_all_scores_are_too_many(tmp_path: Path) -> None:
    spec: Any = encoder(tmp_path, "modernbert")
    local = replace(spec, local=(True,) * spec.num_layers)
    short, longer = computed(local, PARTLY_WHOLE, 2 * WINDOW_BLOCK + PARTLY_WHOLE)

    def widths(shapes: dict[str, list[tuple[int, ...]]]) -> set[int]:
        return {shape[-1] for kernel, found in shapes.items() if "Softmax" in kernel for shape in found}

    assert PARTLY_WHOLE in widths(short)
    assert max(widths(longer)) == WINDOW_BLOCK + 2 * spec.window


@pytest.mark.parametrize(
    ("reach", "whole"),
    [
        (EVERYWHERE, WHOLE),
        (Reach(64, 64), PARTLY_WHOLE),
        (Reach(None, 0), PARTLY_WHOLE),
        (Reach(511, 0), PARTLY_WHOLE),
        (Reach(256, 256), WHOLE),
        (Reach(255, 256), PARTLY_WHOLE),
    ],
)
def test_rows_are_computed_at_once_where_blocks_would_leave_out_little(reach: Reach, whole: int) -> None:
    assert reach.whole == whole


@pytest.mark.parametrize("reach", [Reach(None, 0), Reach(30, 0), Reach(20, 20)])
def test_several_rows_in_blocks_equal_the_same_at_once(reach: Reach) -> None:
    draw = np.random.default_rng(0)
    length = BLOCK + WINDOW_BLOCK + 9
    query, key, value = (tf.constant(draw.normal(size=[3, heads, length, 4]), tf.float32) for heads in (4, 2, 2))
    there = tf.range(length)[None, :] < tf.constant([length, BLOCK - 3, 5])[:, None]
    blocks, at_once = (
        tf.boolean_mask(tf.transpose(attended(query, key, value), [0, 2, 1, 3]), there)
        for whole in (PARTLY_WHOLE, WHOLE)
        for attended in [Attention(Masks(there), 0.5, tf.identity, None, reach, whole=whole)]
    )
    assert np.abs(blocks - at_once).max() < 1e-6


@pytest.mark.parametrize("longest", [WHOLE, None])
def test_keys_that_several_heads_share_are_not_repeated(longest: int | None) -> None:
    rows, heads, shared, length, size = 2, 6, 2, WHOLE + 1 if longest is None else 40, 4
    draw = np.random.default_rng(0)
    query, key, value = (
        tf.constant(draw.normal(size=[rows, count, length, size]), tf.float32) for count in (heads, shared, shared)
    )

    def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        return Attention(Masks(tf.ones([rows, length], tf.bool)), size**-0.5, tf.identity, longest)(query, key, value)

    function = tf.function(attend, autograph=False).get_concrete_function(query, key, value)
    nodes = [node for one in function.graph.as_graph_def().library.function for node in one.node_def]
    kinds = {node.op for node in [*function.graph.as_graph_def().node, *nodes]}
    assert "BatchMatMulV2" in kinds
    assert not kinds & {"Tile", "BroadcastTo", "GatherV2", "ConcatV2"}, "what could repeat them"
    repeated = (tf.repeat(part, heads // shared, axis=1) for part in (key, value))
    assert np.abs(function(query, key, value) - attend(query, *repeated)).max() < 1e-6


def test_a_model_of_short_texts_has_no_second_way(tmp_path: Path) -> None:
    spec = encoder(tmp_path, "bert")
    assert spec.max_length is not None
    assert spec.max_length <= WHOLE
    graph = traced(spec)
    assert [op.name for op in graph.get_operations() if op.type in ("If", "StatelessIf")] == ["cond"]


@pytest.mark.parametrize("model_type", ["xlm-roberta", "deberta-v2", "modernbert"])
def test_masks_are_made_in_the_branch_that_adds_them_to_scores(tmp_path: Path, model_type: str) -> None:
    """The optimizer fuses an addend by the name of its operation alone. Of one that is handed into a branch, if what
    carries it is optimized away, that is a tf.Switch, whose first result is none: the whole branch would yield nothing.
    """
    added = [
        (function.signature.name, addend)
        for function in traced(encoder(tmp_path, model_type)).as_graph_def().library.function
        for product in function.node_def
        if product.op.startswith("BatchMatMul")
        for scaled in function.node_def
        if scaled.op == "Mul" and f"{product.name}:output:0" in scaled.input
        for sum_ in function.node_def
        if sum_.op == "AddV2" and f"{scaled.name}:z:0" in sum_.input
        for addend in sum_.input
    ]
    assert added
    assert not [(name, addend) for name, addend in added if ":" not in addend], "arguments of the function"
