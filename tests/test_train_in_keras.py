"""The example: a model trained in Keras, exported, proved equal to the Keras model, served and asked."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from support import TEXTS, largest_difference

from toolkit.artifact.savedmodel import read_provenance
from toolkit.proof.check import check

pytestmark = pytest.mark.long

MAIN: Callable[..., int] = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "train_in_keras.py"))["main"]


@pytest.fixture(scope="module")
def folder(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    assert MAIN(tiny_source, folder, tokenizer_sample=0.01) == 0, "the loss falls"
    return folder


def test_the_artifact_is_stamped_with_a_proof_against_the_keras_model(folder: Path) -> None:
    stamp = read_provenance(folder / "models" / "trained" / "1")
    assert stamp is not None
    assert stamp["source"]["name"] == str(folder / "trained.keras")
    assert stamp["check"]["passed"]
    assert len(stamp["signatures"]) == 5


def test_the_saved_folder_is_the_trained_model(folder: Path, tiny_source: Path) -> None:
    saved, base = (SentenceTransformer(str(path), device="cpu") for path in (folder / "trained", tiny_source))
    assert largest_difference(saved.encode(list(TEXTS)), base.encode(list(TEXTS))) > 1e-4


def test_check_takes_the_keras_model_again_and_tells_another(folder: Path, tiny_source: Path) -> None:
    artifact = folder / "models" / "trained" / "1"
    assert check(artifact, folder / "trained.keras").passed
    report = check(artifact, tiny_source)
    assert report.divergence is not None
