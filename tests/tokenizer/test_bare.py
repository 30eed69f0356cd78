"""The file of a tokenizer beside the tokenizer that sentence-transformers loads from its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolkit.errors import SourceError
from toolkit.source.checkpoint import open_checkpoint
from toolkit.tokenizer.bare import compare_bare


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


def test_a_file_that_is_loaded_as_it_is_gives_the_same_ids(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    assert checkpoint.tokenizer_file == source / "tokenizer.json"
    found = compare_bare(checkpoint.tokenizer_file, checkpoint.tokenizer)
    assert (found.differences, found.example) == (0, None)
    assert str(found) == f"tokenizer.json alone gives the same token ids for all of {found.texts:,} texts"


def test_texts_that_the_file_alone_cuts_otherwise_are_counted(source: Path) -> None:
    file = source / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False  # BertTokenizer sets its own normalizer all the same
    file.write_text(json.dumps(tokenizer))
    found = compare_bare(file, open_checkpoint(source).tokenizer)
    assert 1_000 < found.differences < found.texts
    assert found.example is not None
    assert f"other token ids for {found.differences:,} of {found.texts:,} texts, {found.example!a} for ex" in str(found)


def test_a_file_that_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    loaded = open_checkpoint(source).tokenizer
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tokenizer.json: cannot be read"):
        compare_bare(tmp_path / "tokenizer.json", loaded)
