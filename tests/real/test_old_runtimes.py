"""Every family's artifact in older releases of TensorFlow: `make test-runtimes`, which installs them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from family_models import save_family
from sentence_transformers import SentenceTransformer

from toolkit.artifact.inspection import inspect
from toolkit.convert import export
from toolkit.encoder.families import FAMILIES

pytestmark = pytest.mark.runtimes

OLDEST, DEFAULT = "2.12", "2.17"


@pytest.mark.parametrize("model_type", [family.model_types[0] for family in FAMILIES])
def test_an_artifact_answers_in_the_oldest_release_that_inspect_names(tmp_path: Path, model_type: str) -> None:
    from benchmarks.oldest_runtime import TEXTS, answers, make_runtime

    python = {name: make_runtime(Path(os.environ["RUNTIMES"], name), name) for name in (OLDEST, DEFAULT)}
    source = save_family(tmp_path, model_type)
    original = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    for wanted in (OLDEST, DEFAULT):
        path = export(source, tmp_path / "models", f"m{wanted}", verify=False, oldest_server=wanted).path
        named = inspect(path).releases.since
        assert named in (OLDEST, wanted)
        if wanted == named:  # without LayerNorm the artifact is the same for both
            for release in {named, DEFAULT}:
                assert np.abs(answers(python[release], path) - original).max() <= 1e-5
