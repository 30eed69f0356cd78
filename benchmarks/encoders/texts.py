"""The texts of the benchmark: English words, lengths drawn from a fixed distribution, the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["LONG_SETS", "SETS", "Statistics", "TextSet", "load_sets", "make_set", "padded", "statistics", "write_sets"]

Lengths = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

SETS = ("mixed", "short")
MEASURED, WARM_UP = 2048, 1024
LONG_SETS = {"512-token": 32, "2,048-token": 8, "8,192-token": 4}
"""Texts that all have as many tokens as their set's name says, and how many there are."""
LONGEST = 248
SPECIAL_TOKENS = 2  # [CLS] and [SEP]

# mixed: lognormal with a mean of 32 tokens and a 95th percentile of 86
_MEDIAN, _SPREAD = 23.4, 0.79


@dataclass(frozen=True)
class TextSet:
    """Texts and their token ids (special tokens included), row by row."""

    name: str
    texts: tuple[str, ...]
    ids: tuple[Ids, ...]

    @property
    def lengths(self) -> Lengths:
        return np.array([len(row) for row in self.ids], np.int64)

    def rows(self, start: int, count: int) -> list[int]:
        """Numbers of ``count`` rows from ``start`` on; after the last comes the first."""
        return [(start + offset) % len(self.ids) for offset in range(count)]


@dataclass(frozen=True)
class Statistics:
    """Tokens of a text: mean, median, 95th percentile, longest.

    ``padded``, by the size of a batch: how many times its texts' tokens it has when all are padded to the longest.
    """

    texts: int
    mean: float
    median: float
    p95: float
    longest: int
    padded: dict[int, float]


def statistics(lengths: Lengths) -> Statistics:
    """Statistics of token counts."""
    return Statistics(
        len(lengths),
        float(np.mean(lengths)),
        float(np.median(lengths)),
        float(np.percentile(lengths, 95)),
        int(np.max(lengths)),
        {size: _padded_share(lengths, size) for size in (8, 32, 128) if size <= len(lengths)},
    )


def _padded_share(lengths: Lengths, size: int) -> float:
    batches = lengths[: len(lengths) // size * size].reshape(-1, size)
    return float(size * batches.max(1).sum() / batches.sum())


def lengths(kind: str, count: int, seed: int) -> Lengths:
    """Token counts, special tokens included: ``mixed`` 3 to 248, ``short`` 4 to 12, of long ones always the same."""
    random = np.random.default_rng(seed)
    if kind == "short":
        return random.integers(4, 13, count)
    if kind == "mixed":
        drawn = np.round(random.lognormal(np.log(_MEDIAN), _SPREAD, count))
        return np.clip(drawn, 3, LONGEST).astype(np.int64)
    if kind in LONG_SETS:
        return np.full(count, int(kind.removesuffix("-token").replace(",", "")), np.int64)
    raise ValueError(f"no text set {kind!r}; there are {', '.join((*SETS, *LONG_SETS))}")


def make_set(kind: str, count: int, seed: int, tokenizer_json: Path) -> TextSet:
    """``count`` texts whose token counts are exactly those of ``lengths``."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = _words()
    sizes = np.array([len(item.ids) - SPECIAL_TOKENS for item in tokenizer.encode_batch(words)])
    single = np.flatnonzero(sizes == 1)
    random = np.random.default_rng(seed + 1)
    texts = []
    for wanted in lengths(kind, count, seed) - SPECIAL_TOKENS:
        chosen: list[str] = []
        left = int(wanted)
        while left:
            at = int(random.integers(len(words)))
            if sizes[at] > left:  # the end of the text: a word of one token always fits
                at = int(single[random.integers(len(single))])
            chosen.append(words[at])
            left -= int(sizes[at])
        texts.append(" ".join(chosen))
    return TextSet(kind, tuple(texts), tuple(np.array(item.ids, np.int32) for item in tokenizer.encode_batch(texts)))


def _words() -> list[str]:
    """The English words of the built-in texts, each once."""
    from toolkit.corpus.check import check_texts

    found: dict[str, None] = {}
    for text in check_texts(256):
        if text.isascii():
            found |= dict.fromkeys(word for word in text.split() if word.isalpha() and 1 < len(word) < 16)
    return list(found)


def write_sets(file: Path, tokenizer_json: Path) -> None:
    """All sets and, named ``<set>-warm-up``, other texts of the same distribution, as JSON."""
    made = {kind: make_set(kind, MEASURED, 40 + at, tokenizer_json) for at, kind in enumerate(SETS)}
    made |= {f"{kind}-warm-up": make_set(kind, WARM_UP, 50 + at, tokenizer_json) for at, kind in enumerate(SETS)}
    for at, (kind, count) in enumerate(LONG_SETS.items()):
        made[kind] = make_set(kind, count, 60 + at, tokenizer_json)
        made[f"{kind}-warm-up"] = make_set(kind, count, 70 + at, tokenizer_json)
    plain = {n: {"texts": item.texts, "ids": [row.tolist() for row in item.ids]} for n, item in made.items()}
    file.write_text(json.dumps(plain))


def load_sets(file: Path) -> dict[str, TextSet]:
    """What ``write_sets`` wrote."""
    found = json.loads(file.read_text())
    return {
        name: TextSet(name, tuple(item["texts"]), tuple(np.array(row, np.int32) for row in item["ids"]))
        for name, item in found.items()
    }


def padded(rows: Sequence[Ids]) -> tuple[Ids, Ids]:
    """int32 ids and mask ``[rows, longest]`` of rows of ids."""
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(sizes.max()) < sizes[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int32)
