"""Folders of models of many vectors: as sentence-transformers saves them, as PyLate and as Stanford's ColBERT do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from multi_vector_support import DIM, multi_vector_encoder
from safetensors.numpy import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from support import HIDDEN

from toolkit.errors import InputError, SourceError, UnsupportedError
from toolkit.graph.tasks.multi_vector import Expansion, MultiVectorSpec
from toolkit.source.checkpoint import open_checkpoint


@pytest.fixture
def saved(tiny_bert: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    multi_vector_encoder(tiny_bert, query_expansion={"strategy": "fixed", "length": 20}).save(str(folder))
    return folder


@pytest.fixture
def pylate(saved: Path) -> Path:
    """As PyLate 1 saves it: an encoder, a Dense of its own, and settings beside them."""
    for name in ("sentence_bert_config.json", "2_MultiVectorMask", "3_Normalize"):
        path = saved / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (saved / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 31, "do_lower_case": False}))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (saved / "modules.json").write_text(json.dumps(modules))
    dense = {"in_features": HIDDEN, "out_features": DIM, "bias": False, "use_residual": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (saved / "1_Dense" / "config.json").write_text(json.dumps(dense))
    settings = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 24,
        "document_length": 30,
        "attend_to_expansion_tokens": False,
        "skiplist_words": ["!", "."],
        "do_query_expansion": True,
    }
    (saved / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return saved


@pytest.fixture
def stanford(tiny_bert: Path, tmp_path: Path) -> Path:
    """As Stanford's ColBERT saves it: a projection beside BERT's weights, and settings in ``artifact.metadata``."""
    folder = tmp_path / "stanford"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = np.random.default_rng(0).normal(size=(DIM, HIDDEN)).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    metadata = {"query_maxlen": 20, "doc_maxlen": 30, "attend_to_mask_tokens": False, "mask_punctuation": True}
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


def test_a_saved_model_is_read_with_its_task_and_its_settings(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    assert checkpoint.task == "multi_vector"
    assert isinstance(checkpoint.reference, MultiVectorEncoder)
    live = open_checkpoint(MultiVectorEncoder(str(saved), device="cpu"))
    assert checkpoint.digest == live.digest
    with pytest.raises(InputError, match="embed"):
        open_checkpoint(MultiVectorEncoder(str(saved), device="cpu"), task="embed")


def test_a_folder_of_pylate_is_read_as_sentence_transformers_loads_it(pylate: Path) -> None:
    spec = MultiVectorSpec.read(open_checkpoint(pylate))
    text, query, document = spec.roles
    assert (query.expansion, query.max_length) == (Expansion(24, 4, attended=False), 24)
    assert (document.max_length, len(document.skipped), text.max_length) == (30, 2, 31)
    assert [item.prompt.text for item in spec.texts if item.role and not item.padded] == ["[Q] ", "[D] "]
    assert spec.stages == ("1_dense", "2_normalize")


def test_a_folder_of_stanfords_colbert_is_read_with_its_projection(stanford: Path) -> None:
    checkpoint = open_checkpoint(stanford)
    assert checkpoint.task == "multi_vector"
    spec = MultiVectorSpec.read(checkpoint)
    assert spec.roles[1].expansion == Expansion(20, 4, attended=False)
    assert (spec.roles[2].max_length, spec.dim) == (30, DIM)
    stored = load_file(stanford / "model.safetensors")["linear.weight"]
    np.testing.assert_array_equal(spec.heads[0].parameters()["kernel"], stored.T)


def test_a_projection_that_no_file_holds_is_refused(stanford: Path, tiny_bert: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"architectures is 'BertModel'.*HF_ColBERT"):
        open_checkpoint(tiny_bert, task="multi_vector")
    weights = load_file(stanford / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, stanford / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match="linear"):
        open_checkpoint(stanford)
    config = json.loads((stanford / "config.json").read_text())
    (stanford / "config.json").write_text(json.dumps({**config, "architectures": []}))
    with pytest.raises(UnsupportedError, match="architectures"):
        open_checkpoint(stanford)


def test_fields_that_are_not_known_are_refused_by_name(saved: Path) -> None:
    file = saved / "2_MultiVectorMask" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "skip_numbers": True}))
    with pytest.raises(UnsupportedError, match=r"2_MultiVectorMask/config\.json: skip_numbers is True"):
        open_checkpoint(saved)
