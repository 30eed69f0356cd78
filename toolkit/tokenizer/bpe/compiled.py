"""Where to get the tables of a tokenizer: from the cache, if they were compiled before."""

from __future__ import annotations

from pathlib import Path

from toolkit.tokenizer.bpe.tables import CompiledBytePairs
from toolkit.tokenizer.bpe.whole_spec import CharacterPairModel
from toolkit.tokenizer.cache import cached_tables
from toolkit.tokenizer.spec import TokenizerSpec

__all__ = ["compiled_bytepairs"]


def compiled_bytepairs(spec: TokenizerSpec) -> CompiledBytePairs:
    """The tables of ``spec``. Raises :class:`~toolkit.errors.UnsupportedError` for what cannot be made exact."""
    from toolkit.tokenizer.bpe.compiler import compile_bytepairs
    from toolkit.tokenizer.bpe.whole_compiler import compile_character_pairs

    compile_tables = compile_character_pairs if isinstance(spec.model, CharacterPairModel) else compile_bytepairs
    return cached_tables(CompiledBytePairs, spec.json, Path(__file__).parent, lambda: compile_tables(spec))
