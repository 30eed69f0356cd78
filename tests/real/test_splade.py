"""A real SPLADE through the whole proof: `make test-all`, which installs the package that holds it."""

from __future__ import annotations

import shutil
import site
from pathlib import Path

import pytest

from toolkit.convert import export

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
pytestmark = pytest.mark.long


def test_a_real_splade_passes_the_whole_proof(tmp_path: Path) -> None:
    found = [path for folder in site.getsitepackages() if (path := Path(folder) / "cognition/model").is_dir()]
    if not found:
        pytest.skip("only make test-all installs the model")
    source = tmp_path / "source"
    source.mkdir()
    for name in FILES:
        shutil.copy(found[0] / name, source)
    result = export(source, tmp_path / "models", "splade", task="sparse")
    assert result.tokenizer_report is not None
    assert result.tokenizer_report.texts > 1_200_000
    assert result.report is not None
    assert result.report.token_ids_equal
    assert result.report.max_abs <= 1e-5
    assert all(figure.active > 1000 and not figure.off for figure in result.report.sparse)
