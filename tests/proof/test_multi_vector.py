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
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from toolkit.graph.tasks.multi_vector import MultiVectorSpec
from toolkit.graph.tasks.multi_vector_model import MultiVectorModel
from toolkit.proof.clusters import means
from toolkit.proof.comparison import Bounds
from toolkit.proof.tasks.multi_vector import MultiVectorProof
from toolkit.signatures import Views
from toolkit.source.checkpoint import open_checkpoint

Made = tuple[MultiVectorProof, Any, dict[str, Any]]
QUERY, PADDED = "multi_vector_query", "multi_vector_query_padded"
DOCUMENT, DOCUMENT_PADDED = "multi_vector_document", "multi_vector_document_padded"
TEXTS = ["a text", "one more of them, longer", ""]
POOLED = ["a text of some more words, so that there are several clusters of its tokens", *TEXTS]


@pytest.fixture(scope="module")
def made(tiny_bert: Path) -> Made:
    return proved(multi_vector_encoder(tiny_bert, query_expansion={"strategy": "min", "length": 6}), "query", TEXTS)


def proved(model: MultiVectorEncoder, prompt: str, texts: list[str]) -> Made:
    """A proof, the original's answers, and the artifact's."""
    checkpoint = open_checkpoint(model)
    spec = MultiVectorSpec.read(checkpoint, Views((prompt,)))
    served = MultiVectorModel(spec)
    functions = {**served.functions(), "stages": served._staged}
    stamp = {"vectors_signatures": [asdict(item) for item in spec.texts]}
    proof = MultiVectorProof(checkpoint, Path(), stamp, texts)
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


@pytest.fixture(scope="module")
def pooled(tiny_bert: Path) -> Made:
    return proved(multi_vector_encoder(tiny_bert, HierarchicalTokenPooling(2.0)), "document", POOLED)


def test_pooled_vectors_are_compared_and_counted(pooled: Made) -> None:
    proof, references, arrays = pooled
    report = proof.compare(references, arrays, Bounds())
    assert report.passed
    figure = next(item for item in report.pooled if item.signature == DOCUMENT)
    assert (figure.texts, figure.off) == (sum(map(len, proof.batches)), 0)
    assert {item.signature for item in report.pooled} == {"serving_default", "multi_vector", DOCUMENT, DOCUMENT_PADDED}


def _with_other_clusters(made: Made, labels: Any) -> Any:
    """The report where the first text's vectors went to these clusters, asked alone."""
    proof, references, arrays = made
    batch = proof.batches.index([0])
    changed = dict(arrays)
    changed[f"{batch}/stages/{DOCUMENT}_clusters"] = labels
    changed[f"{batch}/{DOCUMENT}/values"] = means(references.whole["document"][0], labels, normalized=True)
    changed[f"{batch}/{DOCUMENT}/row_splits"] = np.array([0, labels.max() + 1], np.int32)
    return proof.compare(references, changed, Bounds())


def test_other_clusters_pass_at_near_ties_alone_and_are_counted(pooled: Made, monkeypatch: Any) -> None:
    proof, references, arrays = pooled
    labels = arrays[f"{proof.batches.index([0])}/stages/{DOCUMENT}_clusters"].copy()
    labels[-1] = 1 if labels[-1] != 1 else 2
    divergence = _with_other_clusters(pooled, labels).divergence
    assert divergence is not None
    assert divergence.stage == DOCUMENT
    # Here the others are as near as those: each vector of the text is the same but for the last bits.
    near = np.ones_like(references.whole["document"][0]) / 4
    near += np.random.default_rng(0).uniform(-1e-7, 1e-7, near.shape).astype(np.float32)
    monkeypatch.setitem(references.whole, "document", [near, *references.whole["document"][1:]])
    report = _with_other_clusters(pooled, labels)
    assert report.divergence is None
    assert next(item for item in report.pooled if item.signature == DOCUMENT).off == 1


@pytest.mark.long
def test_tokens_that_are_alike_but_for_rounding_are_near_ties(tiny_bert: Path) -> None:
    model = multi_vector_encoder(tiny_bert, HierarchicalTokenPooling(1.5))
    embeddings: Any = model[0].auto_model.embeddings
    embeddings.position_embeddings.weight.data.zero_()  # each "word" has the same vector now
    texts = ["word " * 25, "some word " * 12, "a word, some word and a last word", *POOLED]
    proof, references, arrays = proved(model, "document", texts)
    report = proof.compare(references, arrays, Bounds())
    assert report.passed
    assert {figure.texts for figure in report.pooled} == {sum(map(len, proof.batches))}
