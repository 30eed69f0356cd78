"""The artifact's folder: atomic, never overwritten, nothing left behind by a failure."""

from __future__ import annotations

import errno
import os
import re
import stat
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from toolkit.artifact.compatibility import read_saved_model
from toolkit.artifact.savedmodel import PROVENANCE, WARMUP, read_provenance, require_space, stage_version
from toolkit.convert import export
from toolkit.encoder.batching_options import Batching
from toolkit.errors import ArtifactError, CheckError, InputError, SourceError, VersionExistsError
from toolkit.graph.tasks import serving_model


def test_a_version_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with stage_version(tmp_path, "m", None) as staged:
        (staged.folder / "file").write_text("x")
        assert not staged.target.exists()
        assert not staged.folder.name.isdecimal(), "TF Serving takes numeric names for versions"
    assert (tmp_path / "m" / "1" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_the_next_free_version_is_one_above_the_highest(tmp_path: Path) -> None:
    for name in ("1", "7", "03", "notes", "9.tmp"):
        (tmp_path / "m" / name).mkdir(parents=True)
    with stage_version(tmp_path, "m", None) as staged:
        assert staged.version == 8


def test_an_existing_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m" / "2").mkdir(parents=True)
    (tmp_path / "m" / "2" / "keep").write_text("x")
    with pytest.raises(VersionExistsError, match="exists already"), stage_version(tmp_path, "m", 2):
        pass
    assert (tmp_path / "m" / "2" / "keep").read_text() == "x"


def test_a_version_written_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def write() -> None:
        with stage_version(tmp_path, "m", 2) as staged:
            staged.target.mkdir()
            (staged.target / "theirs").write_text("x")

    with pytest.raises(VersionExistsError, match="meanwhile"):
        write()
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["2"]
    assert (tmp_path / "m" / "2" / "theirs").exists()


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with stage_version(tmp_path / "new" / "deep", "m", 1) as staged:
            (staged.folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_others_can_read_the_version(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with stage_version(tmp_path, "m", 1) as staged:
            pass
    finally:
        os.umask(mask)
    assert stat.S_IMODE(staged.target.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a:b", "a b", "é", "x" * 129])
def test_names_that_do_not_fit_a_url_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="model name"), stage_version(tmp_path, name, 1):
        pass


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_outside_int64_are_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(InputError, match="version"), stage_version(tmp_path, "m", version):
        pass


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("x")
    with pytest.raises(ArtifactError, match="models"), stage_version(tmp_path / "models", "m", 1):
        pass


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="no space"):
        require_space(tmp_path, 2**62)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ArtifactError, match="no space left"), stage_version(tmp_path, "m", 1):
        pass


def test_tensorflow_running_out_of_space_is_named_and_cleaned_up(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "write failed; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(ArtifactError, match="no space left"):
        export(tiny_source, tmp_path / "models", "m", tokenizer_sample=0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_its_check_is_removed(
    tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.encoder.families.bert import BertSpec

    true = BertSpec.parameters
    monkeypatch.setattr(BertSpec, "parameters", lambda spec: {name: value * 1.01 for name, value in true(spec).items()})
    with pytest.raises(CheckError, match="first at hidden state"):
        export(tiny_source, tmp_path, "m", tokenizer_sample=0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_source_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        export(tmp_path / "absent", tmp_path / "models", "m")
    assert list(tmp_path.iterdir()) == []


def test_provenance_states_source_versions_and_figures(tiny_export: Path) -> None:
    provenance = read_provenance(tiny_export)
    assert provenance is not None
    assert provenance["source"]["digest"].startswith("sha256:")
    assert provenance["check"]["passed"] is True
    assert provenance["check"]["max_abs"] <= 1e-5
    assert provenance["tokenizer_check"]["texts"] > 1000
    assert provenance["check"]["max_cosine_distance"] <= 1e-6
    assert {"tensorflow", "torch", "sentence-transformers", "sentence-serving"} <= set(provenance["versions"])
    assert provenance["model"]["dimension"] == 24
    assert (tiny_export / PROVENANCE).is_file()


def test_an_unproved_export_says_so(tiny_source: Path, tmp_path: Path) -> None:
    result = export(tiny_source, tmp_path, "m", verify=False)
    assert result.report is None
    provenance = read_provenance(result.path)
    assert provenance is not None
    assert provenance["check"] is None


def test_the_exports_own_variables_are_gone_before_the_artifact_is_proved(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def remembered(*args: Any, **options: Any) -> Any:
        model = serving_model(*args, **options)
        made.extend(weakref.ref(variable) for variable in model._encoder.variables)
        return model

    def prove(*args: Any, **options: Any) -> Any:
        raise CheckError(f"{sum(variable() is not None for variable in made)} of the variables are there")

    monkeypatch.setattr("toolkit.convert.serving_model", remembered)
    monkeypatch.setattr("toolkit.convert.prove", prove)
    with pytest.raises(CheckError, match=r"^0 of the variables are there"):
        export(tiny_source, tmp_path, "m", tokenizer_sample=0.001)
    assert len(made) > 10


def test_damaged_provenance_is_named(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    (tmp_path / PROVENANCE).parent.mkdir()
    (tmp_path / PROVENANCE).write_text("{")
    with pytest.raises(ArtifactError, match=r"provenance\.json"):
        read_provenance(tmp_path)


def warmup_tokens(path: Path) -> list[list[int]]:
    """The number of tokens of each text of each warm-up request, before truncation."""
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(path))
    found = []
    for record in tf.data.TFRecordDataset(str(path / WARMUP)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "tiny"
        output = loaded.signatures["detailed"](text=tf.constant(tf.make_ndarray(request.inputs["text"])))
        found.append(output["num_tokens"].numpy().tolist())
    return found


def test_warmup_covers_short_to_longest_texts_on_the_served_signature(tiny_export: Path) -> None:
    requests = warmup_tokens(tiny_export)
    assert 1 in map(len, requests)
    assert 1 < max(map(len, requests)) <= 8
    assert min(map(min, requests)) < 8
    assert max(map(max, requests)) > 48


def test_warmup_covers_a_request_that_is_too_large_to_be_batched(tiny_source: Path, tmp_path: Path) -> None:
    path = export(tiny_source, tmp_path, "tiny", verify=False, batching=Batching(max_tokens=200)).path
    *others, large = ([min(tokens, 48) + 1 for tokens in request] for request in warmup_tokens(path))
    assert sum(large) > 200
    assert max(map(sum, others)) <= 200


def test_no_chunk_of_a_batch_waits_for_another(tiny_export: Path) -> None:
    """Of what TensorFlow calls stateful, such as a function that reads variables, a loop runs one after the other."""
    functions = read_saved_model(tiny_export).meta_graphs[0].graph_def.library.function
    bodies = [item for item in functions if "while_body" in item.signature.name]
    encoding = [
        (body, node) for body in bodies for node in body.node_def if "hidden_states" in node.attr["f"].func.name
    ]
    assert len(encoding) == 2  # of rows and of tokens
    for body, node in encoding:
        assert node.op == "PartitionedCall"
        assert not body.signature.is_stateful
        assert not body.control_ret
        assert not any(name.startswith("^") for item in body.node_def for name in item.input)


def test_an_artifact_holds_each_part_of_the_graph_once(tiny_export: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((tiny_export / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    parts = Counter(re.sub(r"_\d+$", "", function.signature.name) for function in functions)
    own = {name: count for name, count in parts.items() if name.startswith("__inference_") and "wrapper" not in name}
    assert {"__inference__hidden_tokens", "__inference__tokenize_text", "__inference__embed_joined"} <= own.keys()
    assert set(own.values()) == {1}
