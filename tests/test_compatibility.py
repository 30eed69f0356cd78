"""inspect's statement on servers follows from the ops in the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from toolkit.compatibility import RELEASES, graph_ops, serving_releases
from toolkit.errors import ArtifactError
from toolkit.inspection import inspect


@pytest.mark.parametrize(
    ("ops", "since"),
    [
        (["MatMul", "Softmax"], RELEASES[0]),
        (["MatMul", "DisableCopyOnRead"], "2.10"),
        (["FastWordpieceTokenizeWithOffsets"], "2.10"),
        (["FastWordpieceTokenizeWithOffsets", "FastBertNormalize"], "2.12"),
        (["TFText>FastSentencepieceTokenize"], "2.12"),
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


def test_exports_need_2_12_for_their_tokenizer_only(tiny_export: Path) -> None:
    releases = serving_releases(graph_ops(tiny_export))
    assert releases.unknown == ()
    assert (releases.since, releases.because) == ("2.12", ("FastBertNormalize",))


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
