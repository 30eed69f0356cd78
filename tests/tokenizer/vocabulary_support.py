"""Tokenizers of well-known models that are among the tests' data. Of DeBERTa-v3 and ModernBERT the steps are theirs,
and the vocabulary is another."""

from __future__ import annotations

import lzma
from pathlib import Path

__all__ = ["VOCABULARIES", "vocabulary"]

_DATA = Path(__file__).parents[1] / "data"
VOCABULARIES = sorted(path.name.removesuffix(".json.xz") for path in _DATA.glob("*.json.xz"))


def vocabulary(name: str) -> str:
    """The ``tokenizer.json`` of one of ``VOCABULARIES``."""
    return lzma.decompress((_DATA / f"{name}.json.xz").read_bytes()).decode()
