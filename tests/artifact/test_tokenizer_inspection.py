"""The tokenizer's steps, wherever the tokenizer comes from."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from toolkit.artifact.savedmodel import read_provenance
from toolkit.artifact.tokenizer_inspection import inspect_tokenizer
from toolkit.errors import ArtifactError, InputError, SourceError

TEXT = "Hello wörld [SEP]"


@pytest.fixture
def in_the_cache(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a model that the hub's cache holds."""
    repository = tmp_path / "hub" / "models--organisation--tiny"
    shutil.copytree(tiny_source, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "organisation/tiny"


def test_a_models_folder_and_its_hub_id_have_the_steps_that_its_artifact_records(
    tiny_source: Path, tiny_export: Path, in_the_cache: str
) -> None:
    recorded = (read_provenance(tiny_export) or {})["tokenizer"]
    assert len(recorded) > 4
    for source in (tiny_source, str(tiny_source), in_the_cache):
        assert [item.step for item in inspect_tokenizer(source)] == recorded
    assert [item.step for item in inspect_tokenizer(tiny_export)] == recorded


def test_a_models_folder_and_its_hub_id_show_what_each_step_makes_of_a_text(
    tiny_source: Path, in_the_cache: str
) -> None:
    from sentence_transformers import SentenceTransformer

    wanted = SentenceTransformer(str(tiny_source), device="cpu").tokenizer(TEXT)["input_ids"]
    for source in (tiny_source, in_the_cache):
        *before, tokens, packed = inspect_tokenizer(source, TEXT)
        assert isinstance(packed.result, list)
        assert [token_id for token_id, _ in packed.result] == wanted
        assert packed.result[0][1] == "[CLS]"
        assert isinstance(tokens.result, list)
        assert len(tokens.result) == len(packed.result) - 2
        assert all(isinstance(item.result, str) for item in before)


def test_where_there_is_no_tokenizer_the_error_says_so(tiny_export: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        inspect_tokenizer(tmp_path / "absent")
    with pytest.raises(SourceError, match=r"organisation/absent.*the hub does not give it"):
        inspect_tokenizer("organisation/absent")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(SourceError, match=r"tokenizer\.json: cannot be read"):
        inspect_tokenizer(tmp_path)
    with pytest.raises(InputError, match="--text needs the checkpoint"):
        inspect_tokenizer(tiny_export, TEXT)
    bare = tmp_path / "1"
    bare.mkdir()
    shutil.copy(tiny_export / "saved_model.pb", bare)
    with pytest.raises(ArtifactError, match="does not record the tokenizer's steps"):
        inspect_tokenizer(bare)
