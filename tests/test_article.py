"""The article's bi-encoder (mean pooling, Dense 384 to 256, Tanh), trained, saved, converted: equal at every stage."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sentence_transformers import SentenceTransformer
from support import largest_difference

from toolkit.graph.tasks import read_spec
from toolkit.graph.tasks.embed_model import EmbedModel
from toolkit.source.checkpoint import open_checkpoint

pytestmark = pytest.mark.real_model

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "article.py"))
TEXTS: list[str] = EXAMPLE["TEXTS"]
TRAIN: Callable[[Path, Path], None] = EXAMPLE["train"]


@pytest.fixture(scope="module")
def article(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("article")
    TRAIN(minilm, folder)
    return folder / "model"


@pytest.fixture(scope="module")
def original(article: Path) -> SentenceTransformer:
    return SentenceTransformer(str(article), device="cpu")


@pytest.fixture(scope="module")
def converted(article: Path) -> Any:
    return EmbedModel(read_spec(open_checkpoint(article)))


def test_training_moved_the_model(article: Path, minilm: Path) -> None:
    before, after = (open_checkpoint(folder).modules[0].tensors for folder in (minilm, article))
    name = "encoder.layer.5.output.dense.weight"
    assert not np.array_equal(before[name], after[name])


def test_token_ids_are_identical(converted: Any, original: SentenceTransformer) -> None:
    ours = converted._tokenize_signature(tf.constant(TEXTS))
    theirs = original.preprocess(TEXTS)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert np.array_equal(ours[name], theirs[name].numpy())


def test_hidden_pooled_and_dense_are_equal_for_mixed_lengths(converted: Any, original: SentenceTransformer) -> None:
    features = original.preprocess(TEXTS)
    mask = features["attention_mask"].numpy()[..., None]
    stages = converted._stages(tf.constant(TEXTS))
    hidden = converted._token_embeddings(tf.constant(TEXTS))["token_embeddings"]
    features = original[0](features)
    assert largest_difference(hidden, features["token_embeddings"].detach().numpy() * mask) < 5e-5
    features = original[1](features)
    assert largest_difference(stages["1_pooling"], features["sentence_embedding"].detach()) < 1e-5
    features = original[2](features)
    assert stages["2_dense"].shape == (len(TEXTS), 256)
    assert largest_difference(stages["2_dense"], features["sentence_embedding"].detach()) < 1e-5


def test_the_embedding_equals_encode(converted: Any, original: SentenceTransformer) -> None:
    ours = converted._serving_default(tf.constant(TEXTS))["embedding"]
    assert largest_difference(ours, original.encode(TEXTS)) < 1e-5
    for row, text in enumerate(TEXTS):
        alone = converted._serving_default(tf.constant([text]))["embedding"][0]
        assert largest_difference(ours[row], alone) < 1e-5
