"""Exact tokenization in the graph: strings in, the token ids of the Hugging Face tokenizer out.

:func:`read_tokenizer` turns a checkpoint's tokenizer into a frozen spec or refuses it by name; :func:`build_tokenizer`
compiles the spec into a graph of ops that the stock TF Serving binary links; :func:`self_check` proves the graph
against the ``tokenizers`` package. Importing this package imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from toolkit.tokenizer.engines import COMPILED, ENGINES, Engine
from toolkit.tokenizer.shortening import shortened
from toolkit.tokenizer.spec import (
    TOKENIZER_KINDS,
    AddedToken,
    Template,
    TokenizerSource,
    TokenizerSpec,
    read_tokenizer,
    reference_tokenizer,
)
from toolkit.tokenizer.steps import PackedTokens, Step
from toolkit.tokenizer.unigram.spec import UnigramModel
from toolkit.tokenizer.wordpiece.spec import WordPieceModel

if TYPE_CHECKING:
    from toolkit.tokenizer.graph import TokenizerGraph
    from toolkit.tokenizer.selfcheck import TokenizerReport

__all__ = [
    "COMPILED",
    "ENGINES",
    "TOKENIZER_KINDS",
    "AddedToken",
    "Engine",
    "PackedTokens",
    "Step",
    "Template",
    "TokenizerSource",
    "TokenizerSpec",
    "UnigramModel",
    "WordPieceModel",
    "build_tokenizer",
    "read_tokenizer",
    "reference_tokenizer",
    "self_check",
    "shortened",
]


def build_tokenizer(spec: TokenizerSpec, engine: Engine = COMPILED) -> TokenizerGraph:
    """Compile ``spec`` into a graph: strings [batch] to :class:`PackedTokens`.

    Raises :class:`~toolkit.errors.UnsupportedError` for what only the compiled tables show to be inexact, and for an
    ``engine`` that does not take the tokenizer; :class:`~toolkit.errors.InputError` for one that does not exist.
    """
    from toolkit.tokenizer.graph import build

    return build(spec, engine)


def self_check(
    spec: TokenizerSpec,
    graph: TokenizerGraph,
    *,
    sample: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> TokenizerReport:
    """Compare ``graph`` with the ``tokenizers`` package on texts made to find differences.

    These are all code points in three contexts, 50,000 random texts, 20,000 strings of broken UTF-8, every piece of
    the vocabulary, the added tokens in many surroundings, and sentences in sixty languages; ``sample`` (0 to 1) takes
    a part of the large groups. ``progress`` is called with the texts compared so far and in total. Raises
    :class:`~toolkit.errors.CheckError` at the first difference, with the text shortened as far as it still shows,
    both lists of ids and the first diverging step.
    """
    from toolkit.tokenizer.selfcheck import check

    return check(spec, graph, sample=sample, progress=progress)
