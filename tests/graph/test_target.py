"""A graph for a GPU computes the same on a CPU, and leaves to the GPU what belongs there and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from support import TEXTS, largest_difference

from toolkit.artifact.compatibility import read_saved_model
from toolkit.artifact.inspection import inspect
from toolkit.artifact.savedmodel import write_provenance
from toolkit.cli.inspect import command
from toolkit.convert import Export, export
from toolkit.encoder.packing import Chunk, Tokens, in_chunks, make_chunk
from toolkit.encoder.target import CPU, GPU

HEAVY = {"MatMul", "BatchMatMulV2", "Softmax", "Rsqrt", "Erf"}
INDICES = {"Where", "Cumsum", "Unique", "LookupTableFindV2", "StaticRegexReplace"}


@pytest.fixture(scope="module")
def exported(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(tiny_source, tmp_path_factory.mktemp("models"), "tiny", target="gpu", tokenizer_sample=0.001)


def test_it_is_proved_and_answers_on_a_cpu(exported: Export, tiny_source: Path) -> None:
    assert exported.report is not None
    assert exported.report.max_abs <= 1e-5
    found = tf.saved_model.load(str(exported.path)).signatures["serving_default"](text=tf.constant(TEXTS))
    original = SentenceTransformer(str(tiny_source), device="cpu")
    assert largest_difference(found["embedding"].numpy(), original.encode(list(TEXTS))) < 1e-5


def functions(saved_model: Path) -> dict[str, Any]:
    (meta_graph,) = read_saved_model(saved_model).meta_graphs
    # but for those that save and restore variables, which TensorFlow places itself
    return {
        function.signature.name: function.node_def
        for function in meta_graph.graph_def.library.function
        if "traced_save" not in function.signature.name and "traced_restore" not in function.signature.name
    }


def called(node: Any) -> set[str]:
    return {item for attr in node.attr.values() for item in (attr.func.name, *(f.name for f in attr.list.func)) if item}


def test_products_and_all_that_calls_them_are_on_no_device_and_indices_are_on_the_cpu(
    exported: Export, tiny_export: Path
) -> None:
    found = functions(exported.path)
    heavy: set[str] = set()
    while True:
        grown = {
            name
            for name, nodes in found.items()
            if any(node.op in HEAVY or called(node) & heavy for node in nodes) and name not in heavy
        }
        if not grown:
            break
        heavy |= grown
    free = [node for nodes in found.values() for node in nodes if node.op in HEAVY or called(node) & heavy]
    assert len([node for node in free if node.op == "MatMul"]) >= 8
    pinned = {(node.op, node.name) for node in free if node.device}
    heads = {(op, name) for op, name in pinned if op in HEAVY}
    assert all(op in ("MatMul", "Rsqrt") for op, _ in heads), "of modules behind pooling, one vector for each text"
    assert pinned == heads, "a call on the CPU would take all that it calls there"
    indices = [node for nodes in found.values() for node in nodes if node.op in INDICES]
    assert indices
    assert {(node.op, node.device) for node in indices if not node.device.endswith("CPU:0")} == set()
    pinned_reads = {
        name for name, nodes in found.items() if any(node.op == "ReadVariableOp" and node.device for node in nodes)
    }
    assert all("tokenize" in name for name in pinned_reads), "only the tokenizer's tables are read on the CPU"
    assert any("packed_product" in node.name for nodes in functions(tiny_export).values() for node in nodes)
    assert not [node for nodes in found.values() for node in nodes if "packed_product" in node.name]
    assert not [node for nodes in found.values() for node in nodes if node.op == "FusedBatchNormV3"]


def test_for_a_cpu_nothing_is_placed(tiny_export: Path) -> None:
    nodes = [node for nodes in functions(tiny_export).values() for node in nodes if node.op in HEAVY | INDICES]
    assert nodes
    assert not [node.name for node in nodes if node.device]


def test_provenance_and_inspect_say_what_it_is_for(exported: Export, tiny_export: Path) -> None:
    stamp = (inspect(exported.path).provenance or {})["layout"]
    assert stamp == {"target": GPU.to_json(), "optimize": "memory", "fused_norm": False}
    shown = " ".join(CliRunner().invoke(command, [str(exported.path)]).output.split())
    assert "gpu: chunks of 16384 tokens, 1 at a time; as proved with NVIDIA_TF32_OVERRIDE=0" in shown
    assert (inspect(tiny_export).provenance or {})["layout"]["target"] == CPU.to_json()


def test_artifacts_of_before_say_nothing_of_it(tiny_export: Path, tmp_path: Path) -> None:
    before = shutil.copytree(tiny_export, tmp_path / "1")
    provenance = inspect(before).provenance or {}
    write_provenance(before, {name: value for name, value in provenance.items() if name != "layout"})
    result = CliRunner().invoke(command, [str(before)])
    assert result.exit_code == 0
    assert not {"target", "optimized"} & {line.partition(" ")[0] for line in result.output.splitlines()}


def test_the_gpu_component_sets_what_the_proof_asks_for() -> None:
    file = Path(__file__).parents[2] / "k8s" / "components" / "gpu" / "deployment.yaml"
    (server,) = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]["containers"]
    assert [(item["name"], item["value"]) for item in server["env"]] == list(GPU.environment)


def tokens(lengths: list[int]) -> Tokens:
    ids = tf.range(1, sum(lengths) + 1)
    splits = tf.constant(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return Tokens(ids, tf.zeros_like(ids), tf.zeros_like(ids), splits)


@pytest.mark.parametrize(
    ("lengths", "length", "total"),
    [([7], 16, 128), ([17, 3], 32, 128), ([100] * 3, 128, 384), ([500], 512, 512), ([513], 1024, 640)],
)
def test_shapes_are_few(lengths: list[int], length: int, total: int) -> None:
    chunk = make_chunk(tokens(lengths), target=GPU)
    assert (int(chunk.length), chunk.tokens.ids.shape[0]) == (length, total)


@pytest.mark.parametrize("shared", [None, 1])
def test_heads_are_the_same_by_either_way(shared: int | None) -> None:
    chunk = make_chunk(tokens([3, 20, 1]), target=GPU)
    counts = (2, shared or 2, shared or 2)
    values = tf.random.stateless_normal([128, sum(counts) * 4], [1, 2])
    ways = [chunk.heads(2), chunk._replace(target=CPU).heads(2)]
    (one, other) = (way.split(values, 4, counts) for way in ways)
    assert [part.shape for part in one] == [part.shape for part in other]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    for way in ways:
        (alone,) = way.split(values, 4, counts[2:], sum(counts[:2]))
        assert np.array_equal(alone, one[2])
    like, some = tf.zeros([128, 8]), tf.constant([3, 0, 23])
    joined = [way.join(one[0], like)[: chunk.total] for way in ways]
    assert np.array_equal(*joined)
    for way in ways:
        assert np.array_equal(way.join(one[0], like[:3], some), tf.gather(joined[0], some))


def test_a_batch_is_a_few_large_chunks() -> None:
    seen: list[tuple[int, int]] = []

    def encode(chunk: Chunk) -> tf.Tensor:
        seen.append((int(chunk.rows), int(chunk.length)))
        return tf.zeros([chunk.rows, 1])

    in_chunks(tokens([30] * 600 + [200] * 20), lambda: encode, 1, per_token=False, target=GPU)
    assert seen == [(512, 32), (88, 32), (20, 256)]
