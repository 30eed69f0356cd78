"""Batching is read from an artifact and changed in it, without the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from click.testing import CliRunner
from support import TEXTS, largest_difference

from toolkit.artifact.inspection import inspect
from toolkit.artifact.tuning import tune_artifact
from toolkit.cli import cli
from toolkit.convert import export
from toolkit.encoder.batching_options import Batching
from toolkit.errors import ArtifactError, InputError


@pytest.fixture
def artifact(tiny_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export, tmp_path / "1"))


def test_an_export_batches_by_tokens_unless_told_otherwise(
    tiny_source: Path, tiny_export: Path, tmp_path: Path
) -> None:
    assert inspect(tiny_export).batching == Batching()
    options = Batching(max_tokens=77, timeout_micros=5, threads=3, max_queued_batches=9)
    assert inspect(export(tiny_source, tmp_path, "a", verify=False, batching=options).path).batching == options
    assert inspect(export(tiny_source, tmp_path, "b", verify=False, batching=None).path).batching is None


def test_every_option_can_be_changed_and_the_vectors_stay(artifact: Path) -> None:
    files = sorted(path.name for path in artifact.iterdir())
    before = tf.saved_model.load(str(artifact)).signatures["serving_default"](text=tf.constant(TEXTS))["embedding"]
    changed = tune_artifact(artifact, max_tokens=40, threads=1)
    assert changed == Batching(max_tokens=40, threads=1)
    assert tune_artifact(artifact, timeout_micros=300, max_queued_batches=3) == Batching(40, 300, 1, 3)
    assert inspect(artifact).batching == Batching(40, 300, 1, 3)
    # more tokens than 40 in all: with the old limit beside the new attribute the scheduler would refuse the request
    after = tf.saved_model.load(str(artifact)).signatures["serving_default"](text=tf.constant(TEXTS))["embedding"]
    assert largest_difference(before, after) < 1e-6
    assert sorted(path.name for path in artifact.iterdir()) == files


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 0), ("timeout_micros", -1), ("threads", 2**31)])
def test_a_number_out_of_range_is_refused_by_name_and_nothing_changes(artifact: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"batching.{name} {value}"):
        tune_artifact(artifact, **{name: value})
    assert inspect(artifact).batching == Batching()


def test_an_unknown_option_is_refused_by_name(artifact: Path) -> None:
    with pytest.raises(InputError, match=r"batching\.rows: not an option"):
        tune_artifact(artifact, rows=3)


def test_an_artifact_without_batching_is_refused(tiny_source: Path, tmp_path: Path) -> None:
    path = export(tiny_source, tmp_path, "b", verify=False, batching=None).path
    with pytest.raises(ArtifactError, match="exported without batching"):
        tune_artifact(path, threads=1)


def test_the_command_changes_prints_and_refuses(artifact: Path) -> None:
    run = CliRunner().invoke
    result = run(cli, ["tune-artifact", str(artifact), "--batch-max-tokens", "512", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == Batching(max_tokens=512).to_json()
    assert "at most 512 tokens" in run(cli, ["inspect", str(artifact)]).output.replace("\n", " ")
    assert run(cli, ["tune-artifact", str(artifact)]).exit_code == 2
    both = run(cli, ["export", "SOURCE", str(artifact), "--name", "a", "--no-batching", "--batch-threads", "2"])
    assert both.exit_code == 2
    assert "--no-batching and --batch-threads exclude each other" in both.output
