"""Where to get the tables of a tokenizer: from the cache, if they were compiled before."""

from __future__ import annotations

from pathlib import Path

from toolkit.tokenizer.cache import cached_tables
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.unigram.tables import CompiledUnigram

__all__ = ["compiled_unigram"]


def compiled_unigram(spec: TokenizerSpec) -> CompiledUnigram:
    """The tables of ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    from toolkit.tokenizer.unigram.compiler import compile_unigram

    return cached_tables(CompiledUnigram, spec.json, Path(__file__).parent, lambda: compile_unigram(spec))
