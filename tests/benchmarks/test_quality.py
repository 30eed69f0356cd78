"""Pairs of sentences with people's scores: read as the STS benchmark has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import Pairs, read_pairs, table

LINES = (
    'captions\tMSRvid\t2012test\t0001\t2.5\tA "girl" sings.\tA girl brushes her hair.',
    "captions\tMSRvid\t2012test\t0002\t5.0\tA girl brushes her hair.\tA girl is brushing her hair.\ta licence",
)


def test_each_sentence_is_there_once_and_quotes_are_no_quoting(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert pairs.sentences == ('A "girl" sings.', "A girl brushes her hair.", "A girl is brushing her hair.")
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.scores.tolist()) == ([0, 1], [1, 2], [2.5, 5.0])


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("5.0,one,two\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="expected at least 7 columns"):
        read_pairs(tmp_path / "pairs.csv")


def test_the_table_says_how_the_original_and_others_do() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.arange(15), np.arange(15, 30)
    scores = np.sum(vectors[first] * vectors[second], 1)
    pairs = Pairs(tuple(map(str, range(30))), first, second, scores)
    lines = list(table(pairs, {"the original": vectors, "another": -vectors}))
    assert lines[2] == "| the original | 1.0000 | 1.00000 | 100.0% | 1.00000 1.00000 |"
    assert lines[3] == "| another | 1.0000 | 1.00000 | 100.0% | -1.00000 -1.00000 |"
