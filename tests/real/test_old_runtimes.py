"""Artifacts of every family and task in older releases of TensorFlow: `make test-runtimes`, which installs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_models import save_classifier
from family_models import save_family
from multi_vector_support import multi_vector_encoder
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sparse_support import inference_free, save_masked_bert
from support import HIDDEN, MAX_LENGTH, save_bert, static_embedding

from toolkit.artifact.inspection import inspect
from toolkit.convert import export
from toolkit.encoder.families import FAMILIES

pytestmark = pytest.mark.runtimes

OLDEST, DEFAULT = "2.12", "2.17"


def runtimes() -> dict[str, str]:
    from benchmarks.oldest_runtime import make_runtime

    return {name: make_runtime(Path(os.environ["RUNTIMES"], name), name) for name in (OLDEST, DEFAULT)}


def in_old_releases(source: Any, folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Artifacts for the oldest release and for the default one, each with what it answers in that release: the oldest
    that `inspect` names for it. Without LayerNorm the two are the same."""
    from benchmarks.oldest_runtime import answers

    python, found = runtimes(), []
    for wanted in (OLDEST, DEFAULT):
        path = export(source, folder / "models", f"m{wanted}", verify=False, oldest_server=wanted).path
        assert inspect(path).releases.since in (OLDEST, wanted)
        found.append((path, answers(python[wanted], path)))
    return found


@pytest.mark.parametrize("model_type", [family.model_types[0] for family in FAMILIES])
def test_an_artifact_answers_in_the_oldest_release_that_inspect_names(tmp_path: Path, model_type: str) -> None:
    from benchmarks.oldest_runtime import TEXTS

    source = save_family(tmp_path, model_type)
    original = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    for _, ours in in_old_releases(source, tmp_path):
        assert np.abs(ours["serving_default/embedding"] - original).max() <= 1e-5


def router(folder: Path) -> SentenceTransformer:
    documents = [Transformer(str(save_bert(folder)), max_seq_length=MAX_LENGTH), Pooling(HIDDEN)]
    ways = Router.for_query_document([static_embedding(HIDDEN)], documents)
    return SentenceTransformer(modules=[ways, Normalize()], device="cpu").eval()


def static(folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(modules=[static_embedding(HIDDEN), Normalize()], device="cpu")
    model.prompts |= {"query": "search for this: "}
    return model


def rerank(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(save_classifier(folder)), device="cpu")


def multi_vector(folder: Path) -> Any:
    options: dict[str, Any] = {"query_expansion": {"strategy": "fixed", "length": 20}, "document_length": 30}
    return multi_vector_encoder(save_bert(folder), **options)


def pooled(folder: Path) -> Any:
    return multi_vector_encoder(save_bert(folder), HierarchicalTokenPooling(2.0))


TASKS: Mapping[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "static": (static, ("serving_default/embedding", "embed_query/embedding")),
    "router": (router, ("serving_default/embedding", "embed_query/embedding", "embed_document/embedding")),
    "rerank": (rerank, ("serving_default/score", "rerank/score")),
    "sparse": (
        lambda folder: inference_free(save_masked_bert(folder)),
        ("sparse_dense/embedding", "sparse_query_dense/embedding"),
    ),
    "multi_vector": (
        multi_vector,
        ("serving_default/values", "multi_vector_query/values", "multi_vector_document/values"),
    ),
    "pooled": (pooled, ("serving_default/values", "multi_vector_document/values")),
}
"""Models, and the outputs that are compared: what is active in a sparse vector is a matter of rounding."""


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_answers_that_it_has_here(tmp_path: Path, task: str) -> None:
    from benchmarks.oldest_runtime import answers

    make, outputs = TASKS[task]
    for path, old in in_old_releases(make(tmp_path / "source"), tmp_path):
        here = answers(sys.executable, path)
        assert set(old) == set(here) >= set(outputs)
        for name in outputs:
            assert np.abs(old[name] - here[name]).max() <= 1e-5
