"""Which kernels find the tokens in a text that the steps before them have prepared."""

from __future__ import annotations

from typing import Literal, get_args

from toolkit.errors import InputError, UnsupportedError
from toolkit.tokenizer.spec import TokenizerSpec
from toolkit.tokenizer.wordpiece.spec import WordPieceModel

__all__ = ["COMPILED", "ENGINES", "Engine", "require_engine"]

Engine = Literal["compiled", "BertTokenizer", "FastBertTokenizer"]
"""``compiled``: kernels with models compiled for them, the fastest. The others are tensorflow-text's classes of these
names, for WordPiece tokenizers; they are slower and yield the same tokens."""

COMPILED: Engine = "compiled"
ENGINES: tuple[Engine, ...] = get_args(Engine)


def require_engine(spec: TokenizerSpec, engine: Engine) -> None:
    """Raise :class:`~toolkit.errors.InputError` for an engine that does not exist, and
    :class:`~toolkit.errors.UnsupportedError` for one that does not take the tokenizer."""
    if engine not in ENGINES:
        raise InputError(f"tokenizer engine {engine!r} does not exist; there are: {', '.join(ENGINES)}")
    if engine != COMPILED and not isinstance(spec.model, WordPieceModel):
        kind = type(spec.model).__name__.removesuffix("Model")
        raise UnsupportedError(
            spec.file,
            "model.type",
            kind,
            f"WordPiece, by the tokenizer engine {engine}; the engine {COMPILED} takes it",
        )
