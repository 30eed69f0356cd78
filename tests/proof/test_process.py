"""The fresh process in which an artifact is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ArtifactError
from toolkit.proof.process import artifact_process


def test_whoever_waits_for_a_process_that_was_stopped_is_told_so(tmp_path: Path) -> None:
    with artifact_process() as process:
        process.stop()
        with pytest.raises(ArtifactError, match=f"{tmp_path}: .*exit status -9"):
            process.answers(tmp_path, [])


def test_a_folder_without_an_artifact_is_named(tmp_path: Path) -> None:
    with artifact_process() as process, pytest.raises(ArtifactError, match="SavedModel file does not exist"):
        process.answers(tmp_path, [])


def test_a_block_that_is_left_ends_the_process() -> None:
    with pytest.raises(RuntimeError), artifact_process() as process:
        raise RuntimeError
    assert process._process.returncode == -9
