"""The exact search finds the same pieces as the tokenizers package, even if sums differ in the last bits only."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer, models
from unigram_support import make_unigram

from toolkit.tokenizer.unigram.exact import best_paths, trie_rows
from toolkit.tokenizer.unigram.lattice import kernel_models

LETTERS = "ɖʛʄé"


def _few_scores(generator):
    """Pieces of one to four letters with few different scores, as decimals whose last digits JSON readers lose."""
    scores = [float(np.float32(generator.uniform(-12, -4))) for _ in range(4)]
    pieces = {"".join(generator.choices(LETTERS, k=generator.randint(1, 4))) for _ in range(60)} | set(LETTERS)
    # Not to be too good to be cut: a longer piece costs as much as shorter ones together, or as one.
    return [
        (piece, generator.choice(scores) + generator.choice(scores[:2]) * (len(piece) > 2)) for piece in sorted(pieces)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_random_words_of_all_lengths_in_one_call(seed):
    generator = random.Random(seed)
    vocab = [("<unk>", 0.0), *_few_scores(generator)]
    tokenizer = Tokenizer.from_str(Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False)).to_str())
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]  # the scores as they were read
    words = ["".join(generator.choices(LETTERS, k=size)) for size in [*range(1, 60), 700, 3, 1]]
    names = [piece for piece, _ in vocab]
    _, trie = kernel_models(names, [np.zeros(len(names), np.int64)], {}, dummy_prefix=False)
    encoded = [word.encode() for word in words]
    pieces, count = best_paths(
        tf.constant(np.frombuffer(b"".join(encoded), np.uint8)),
        tf.constant(np.cumsum([0, *map(len, encoded)]), tf.int32),
        trie_rows(trie),
        tf.constant([score for _, score in vocab], tf.float64),
        max(map(len, names)),
    )
    rows = np.split(pieces.numpy(), np.cumsum(count.numpy())[:-1])
    assert [row.tolist() for row in rows] == [[token.id for token in tokenizer.model.tokenize(word)] for word in words]


@pytest.mark.parametrize("seed", [1, 7])
def test_equal_sums_of_inexact_scores_in_the_graph(charsmap, equal, seed):
    generator = random.Random(seed)
    extra = [(piece, float(np.float32(score))) for piece, score in _few_scores(generator) if piece != "é"]
    texts = ["".join(generator.choices(LETTERS, k=generator.randint(2, 24))) for _ in range(3000)]
    equal(make_unigram(charsmap, size=200, extra=extra), texts, max_length=None)
