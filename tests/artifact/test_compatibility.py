"""inspect's statement on servers follows from the ops in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from fusion_support import needs_onednn

from toolkit.artifact.compatibility import RELEASES, graph_ops, serving_releases
from toolkit.artifact.inspection import inspect
from toolkit.convert import export
from toolkit.errors import ArtifactError, InputError


@pytest.mark.parametrize(
    ("ops", "since"),
    [
        (["MatMul", "Softmax"], RELEASES[0]),
        (["MatMul", "DisableCopyOnRead"], "2.10"),
        (["FastWordpieceTokenizeWithOffsets"], "2.10"),
        (["FastWordpieceTokenizeWithOffsets", "FastBertNormalize"], "2.12"),
        (["TFText>FastSentencepieceTokenize"], "2.12"),
        (["FastBertNormalize", "FusedBatchNormV3"], "2.17"),
        (["FastBertNormalize", "TFText>RoundRobinTrim"], "2.20"),
        (["SentencepieceTokenizeOp"], RELEASES[0]),
    ],
)
def test_the_newest_op_decides(ops: list[str], since: str) -> None:
    assert serving_releases(ops).since == since


def test_an_op_that_no_stock_server_links_rules_all_out() -> None:
    releases = serving_releases(["MatMul", "MyOwnOp"])
    assert releases.since is None
    assert "MyOwnOp" in str(releases)


def test_exports_need_2_17_for_their_fused_layer_norm(tiny_export: Path) -> None:
    releases = serving_releases(graph_ops(tiny_export))
    assert releases.unknown == ()
    assert (releases.since, releases.because) == ("2.17", ("FusedBatchNormV3",))


@needs_onednn
def test_exports_need_onednn_for_packed_weights_and_say_so(tiny_export: Path) -> None:
    found = inspect(tiny_export)
    assert str(found.releases) == "2.17 and later (FusedBatchNormV3); needs oneDNN (_MklNativeFusedMatMul)"
    assert (found.provenance or {})["tf_serving"]["onednn"] == ["_MklNativeFusedMatMul"]
    assert str(serving_releases(["FusedBatchNormV3"])) == "2.17 and later (FusedBatchNormV3)"


@pytest.mark.long
def test_exports_for_older_servers_need_2_12_for_tokenizer_and_packed_weights(
    tiny_source: Path, tmp_path: Path
) -> None:
    path = export(tiny_source, tmp_path, "tiny", tokenizer_sample=0.01, oldest_server="2.12").path
    found = inspect(path)
    because = ["FastBertNormalize", "_MklNativeFusedMatMul"]
    assert (found.releases.since, found.releases.because) == ("2.12", tuple(because))
    assert found.provenance is not None
    assert found.provenance["tf_serving"] == {"since": "2.12", "because": because, "onednn": because[1:]}


@pytest.mark.parametrize(
    ("oldest", "message"),
    [
        ("2.11", r"oldest server 2\.11: .* 2\.12 and later \(FastBertNormalize\)"),
        ("2.5", r"'2\.5': expected one of 2\.6 to 2\."),
        ("two", "'two': expected one of"),
    ],
)
def test_an_export_for_a_server_that_cannot_run_it_is_refused_by_name(
    tiny_source: Path, tmp_path: Path, oldest: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(tiny_source, tmp_path, "tiny", verify=False, oldest_server=oldest)
    assert list(tmp_path.iterdir()) == []


def test_int8_for_a_server_that_cannot_run_it_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"oldest server 2\.16: .* 2\.17 and later \(_QuantizedMatMul\)"):
        export(tmp_path / "nowhere", tmp_path, "tiny", oldest_server="2.16", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_provenance_is_inspected_all_the_same(tmp_path: Path) -> None:
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x * 2.0}, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    found = inspect(tmp_path)
    assert found.provenance is None
    assert not found.warmup
    (item,) = found.signatures
    assert (str(item.inputs[0]), str(item.outputs[0])) == ("x float32 [?, 3]", "y float32 [?, 3]")
    assert found.total_bytes >= found.graph_bytes + found.variables_bytes


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        inspect(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ArtifactError, match="no graph"):
        inspect(tmp_path)


def test_exports_write_no_attribute_that_older_servers_do_not_know(tiny_export: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((tiny_export / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    nodes = [*graph.graph_def.node, *(node for f in graph.graph_def.library.function for node in f.node_def)]
    variables = [node for node in nodes if node.op == "VarHandleOp"]
    assert variables
    assert not [node.name for node in variables if "debug_name" in node.attr]
    assert not [node.name for node in nodes if "resize_if_index_out_of_bounds" in node.attr]
    assert tf.saved_model.experimental.read_fingerprint(str(tiny_export)).saved_model_checksum > 0


def test_a_growing_tensor_array_needs_2_13(tmp_path: Path) -> None:
    def grow(x: tf.Tensor) -> dict[str, tf.Tensor]:
        array = tf.TensorArray(tf.float32, size=0, dynamic_size=True).write(0, x)
        return {"y": array.stack()}

    module = tf.Module()
    module.f = tf.function(grow, input_signature=[tf.TensorSpec([2], tf.float32)])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    assert inspect(tmp_path).releases.since == "2.13"
