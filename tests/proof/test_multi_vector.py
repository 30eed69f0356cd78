"""The proof of many vectors a text finds one vector too few, one that differs, and a token that is another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from multi_vector_support import multi_vector_encoder

from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.multi_vector_model import MultiVectorModel
from toolkit.proof.comparison import Bounds
from toolkit.proof.tasks.multi_vector import MultiVectorProof
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

Made = tuple[MultiVectorProof, Any, dict[str, Any]]
QUERY, PADDED = "multi_vector_query", "multi_vector_query_padded"


@pytest.fixture(scope="module")
def made(tiny_bert: Path) -> Made:
    """A proof, the original's answers, and the artifact's."""
    model = multi_vector_encoder(tiny_bert, query_expansion={"strategy": "min", "length": 6})
    checkpoint = open_checkpoint(model)
    spec = MultiVectorSpec.read(checkpoint, Views(("query",)))
    served = MultiVectorModel(spec)
    functions = {**served.functions(), "stages": served._staged}
    stamp = {"vectors_signatures": [asdict(item) for item in spec.texts]}
    proof = MultiVectorProof(checkpoint, Path(), stamp, ["a text", "one more of them, longer", ""])
    arrays = {
        f"{number}/{name}/{output}": value.numpy()
        for number, batch in enumerate(proof.requests())
        for name, _ in batch["calls"]
        for output, value in functions[name](tf.constant(batch["inputs"]["text"])).items()
    }
    return proof, proof.references(), arrays


def test_what_is_equal_passes(made: Made) -> None:
    proof, references, arrays = made
    report = proof.compare(references, arrays, Bounds())
    assert report.passed
    signatures = {key.split("/")[1] for key in arrays} - {"stages"}
    assert signatures == {"serving_default", "multi_vector", QUERY, PADDED}
    assert report.comparisons == len(signatures) * sum(map(len, proof.batches))
    assert report.max_cosine_distance is None


def _less(arrays: dict[str, Any], batch: int) -> None:
    arrays[f"{batch}/{QUERY}/row_splits"] = np.maximum(arrays[f"{batch}/{QUERY}/row_splits"] - 1, 0)


def _other(arrays: dict[str, Any], batch: int) -> None:
    arrays[f"{batch}/{PADDED}/values"] = arrays[f"{batch}/{PADDED}/values"] + np.float32(1e-4)


def _token(arrays: dict[str, Any], batch: int) -> None:
    arrays[f"{batch}/stages/query_input_ids"] = arrays[f"{batch}/stages/query_input_ids"] + 1


@pytest.mark.parametrize(
    ("change", "batch", "stage", "detail"),
    [
        (_less, -1, QUERY, "shape"),
        (_other, 1, PADDED, "max abs difference 0.0001"),
        (_token, 0, "token ids", "instead of"),
    ],
)
def test_what_differs_is_named(
    made: Made, change: Callable[[dict[str, Any], int], None], batch: int, stage: str, detail: str
) -> None:
    proof, references, arrays = made
    changed = dict(arrays)
    change(changed, batch % len(proof.batches))
    divergence = proof.compare(references, changed, Bounds()).divergence
    assert divergence is not None
    assert divergence.stage == stage
    assert detail in divergence.detail
