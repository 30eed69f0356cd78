"""The pieces of a Unigram tokenizer as the kernel and the exact search need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.tokenizer.spec import TokenizerSpec, reference_tokenizer
from toolkit.tokenizer.unigram.exact import trie_rows
from toolkit.tokenizer.unigram.lattice import Lattice, build_lattice, kernel_models
from toolkit.tokenizer.unigram.spec import META, UNKNOWN_PENALTY, UnigramModel
from toolkit.tokenizer.unigram.tables import Pieces

__all__ = ["UNKNOWN", "UNKNOWN_SPACE", "WORD", "compile_pieces"]

UNKNOWN, WORD, UNKNOWN_SPACE = "\x01", "\x02", "\x04"


def compile_pieces(
    spec: TokenizerSpec,
    vocab: Mapping[str, int],
    remap: Mapping[str, str],
    singles: Sequence[str],
    words: Mapping[str, int],
    prefixes: Mapping[str, str],
) -> tuple[tuple[bytes, ...], Pieces, Lattice]:
    """The kernel's models, the pieces' tables and their lattice.

    ``vocab`` are the pieces with their ids, ``remap`` the characters that stand for others in the text, ``singles`` all
    characters of the text, ``words`` those that stand for tokens, and ``prefixes`` what the kernel is to replace in a
    word. Raises ``ValueError`` for scores that are not multiples of a common small number.
    """
    model = spec.model
    assert isinstance(model, UnigramModel)
    meta = " " if model.prefix else WORD
    table = str.maketrans({**remap, META: meta})
    texts = [piece.translate(table) for piece in vocab]
    known = set(texts)
    unknown = [UNKNOWN, UNKNOWN_SPACE, *(c for c in (*singles, meta) if c not in known)]
    texts += [*unknown, *((" " if model.prefix else "") + word for word in words)]
    ids = [*vocab.values(), *[model.unk_id] * len(unknown), *words.values()]
    pieces_scores = [model.scores[piece] for piece in vocab]
    scores = np.array([*pieces_scores, *[model.unknown_score] * len(unknown), *[0.0] * len(words)])
    nearest = np.array(scores, np.float32).astype(np.float64)
    nearest[len(vocab) : len(vocab) + len(unknown)] = float(np.float32(model.lowest_score)) - UNKNOWN_PENALTY
    inexact = scores != nearest
    lattice = build_lattice(texts, nearest, inexact)
    models, trie = kernel_models(texts, lattice.versions, prefixes, dummy_prefix=model.prefix)
    certain = np.zeros(len(texts), np.bool_)
    certain[: len(vocab)] = _best_alone(spec, vocab)
    certain[len(texts) - len(words) :] = True
    encoded = [text.encode() for text in texts]
    pieces = Pieces(
        ids=np.array(ids, np.int32),
        scores=scores,
        units=lattice.versions[0].astype(np.int32),
        room=np.minimum(lattice.room, 2**30).astype(np.int32),
        certain=certain,
        inexact=inexact,
        text=np.frombuffer(b"".join(encoded), np.uint8),
        starts=np.cumsum([0, *map(len, encoded)]).astype(np.int32),
        **trie_rows(trie)._asdict(),
    )
    return models, pieces, lattice


def _best_alone(spec: TokenizerSpec, vocab: Mapping[str, int]) -> list[bool]:
    """Whether each piece, as a word, is best left whole."""
    tokenize = reference_tokenizer(spec, max_length=None).model.tokenize
    return [len(tokens := tokenize(piece)) == 1 and tokens[0].id == number for piece, number in vocab.items()]
