"""Where to get the tables of a tokenizer: from the cache, if they were compiled before."""

from __future__ import annotations

from pathlib import Path

from toolkit.tokenizer.cache import cached_tables
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.wordpiece.tables import CompiledWordPiece

__all__ = ["compiled_wordpiece"]


def compiled_wordpiece(spec: TokenizerSpec) -> CompiledWordPiece:
    """The tables of ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    from toolkit.tokenizer.wordpiece.compiler import compile_wordpiece

    return cached_tables(CompiledWordPiece, spec.json, Path(__file__).parent, lambda: compile_wordpiece(spec))
