"""StaticEmbedding in folders of sentence-transformers and model2vec: what is loaded is what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from support import TEXTS, largest_difference, static_embedding, wordpiece_tokenizer

from toolkit.errors import SourceError, SourceNotice, UnsupportedError
from toolkit.source.checkpoint import open_checkpoint

ROWS, SIZE = wordpiece_tokenizer().get_vocab_size(), 8
RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.standard_normal((ROWS, SIZE)).astype(np.float32)


def model2vec_folder(folder: Path, **tensors: Any) -> Path:
    """As model2vec (0.10) saves a model: texts are cut at 512 tokens, ``config.json`` is its own."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.enable_truncation(512)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True, "hidden_dim": SIZE}
    (folder / "config.json").write_text(json.dumps(config))
    modules = [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_saved_model_and_the_live_one_are_one_checkpoint(tmp_path: Path) -> None:
    model = SentenceTransformer(modules=[static_embedding(), Normalize()], device="cpu")
    model.save(str(tmp_path))
    saved, live = open_checkpoint(tmp_path), open_checkpoint(model)
    assert saved.digest == live.digest
    assert [module.type for module in saved.modules] == ["StaticEmbedding", "Normalize"]
    assert saved.tokenizer.max_length is None
    assert json.loads(saved.tokenizer.json)["post_processor"] is None
    assert saved.tokenizer_file is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_a_model2vec_folder_is_read_and_cut_where_its_tokenizer_cuts(tmp_path: Path, dtype: Any) -> None:
    folder = model2vec_folder(tmp_path, embeddings=NUMBERS.astype(dtype))
    if dtype == np.float16:
        with pytest.warns(SourceNotice, match="the weights are float16; equal means equal to those weights computed"):
            found = open_checkpoint(folder)
    else:
        found = open_checkpoint(folder)
    assert found.tokenizer.max_length == 512
    assert np.array_equal(found.modules[0].tensors["embedding.weight"], NUMBERS.astype(dtype).astype(np.float32))
    theirs = SentenceTransformer(str(folder), device="cpu").float().encode(list(TEXTS))
    assert largest_difference(found.reference.encode(list(TEXTS)), theirs) == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_quantized_vocabulary_is_put_together_as_model2vec_means_it(tmp_path: Path, kind: str) -> None:
    few = (NUMBERS[:50] * 40).astype(kind)
    mapping, weights = RANDOM.integers(0, 50, ROWS), RANDOM.random(ROWS)
    folder = model2vec_folder(tmp_path, embeddings=few, mapping=mapping, weights=weights)
    table = open_checkpoint(folder).modules[0].tensors["embedding.weight"]
    assert largest_difference(table, few[mapping].astype(np.float32) * weights.astype(np.float32)[:, None]) < 1e-5


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embeddings": NUMBERS[:50], "mapping": np.full(ROWS, 60)}, "cannot load it"),
        ({"embeddings": NUMBERS.astype(np.int8)}, "cannot load it"),
        ({"table": NUMBERS}, "cannot load it"),
        ({"embeddings": np.where(np.arange(ROWS)[:, None] == 3, np.nan, NUMBERS)}, "in row 3; expected finite"),
    ],
    ids=["mapping beyond the table", "whole numbers without weights", "no table", "NaN"],
)
def test_a_damaged_table_is_told(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_checkpoint(model2vec_folder(tmp_path, **tensors))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = model2vec_folder(tmp_path, embeddings=NUMBERS)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"no weights; expected model\.safetensors"):
        open_checkpoint(folder)


def test_what_a_loader_makes_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model2vec_folder(tmp_path, embeddings=NUMBERS)
    kind = type(static_embedding())
    load = kind.load

    def other(*args: Any, **kwargs: Any) -> Any:
        module = load(*args, **kwargs)
        module.embedding.weight.data[7, 3] += 1e-3
        return module

    monkeypatch.setattr(kind, "load", other)
    with pytest.raises(SourceError, match=r"model\.safetensors: the loaded embeddings are others than those"):
        open_checkpoint(folder)


def test_a_truncation_of_pairs_is_refused() -> None:
    model = SentenceTransformer(modules=[static_embedding()], device="cpu")
    model.tokenizer.enable_truncation(8, strategy="only_second")
    with pytest.raises(UnsupportedError, match=r"truncation\.strategy is 'only_second'"):
        open_checkpoint(model)


def test_special_tokens_that_are_read_as_text_are_refused() -> None:
    model = SentenceTransformer(modules=[static_embedding()], device="cpu")
    assert isinstance(model.tokenizer, tokenizers.Tokenizer)
    model.tokenizer.encode_special_tokens = True
    with pytest.raises(UnsupportedError, match="encode_special_tokens is True"):
        open_checkpoint(model)
