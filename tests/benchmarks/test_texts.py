"""The benchmark's texts have the lengths that are claimed, and are the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import wordpiece_tokenizer

from benchmarks.encoders.models import Dimensions, flops
from benchmarks.encoders.texts import (
    LONG_SETS,
    LONGEST,
    SETS,
    lengths,
    load_sets,
    make_set,
    padded,
    statistics,
    write_sets,
)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    wordpiece_tokenizer().save(str(file))
    return file


def test_mixed_lengths_are_those_of_real_texts_and_short_ones_of_queries() -> None:
    mixed = statistics(lengths("mixed", 20_000, 0))
    assert mixed.mean == pytest.approx(32, abs=1)
    assert mixed.p95 == pytest.approx(86, abs=3)
    assert mixed.longest == LONGEST
    assert statistics(np.array([1, 3] * 4 + [8] * 8)).padded == {8: (24 + 64) / (16 + 64)}
    short = lengths("short", 1000, 0)
    assert set(short.tolist()) == set(range(4, 13))
    with pytest.raises(ValueError, match="no text set 'long'; there are mixed, short, 512-token, "):
        lengths("long", 1, 0)
    assert lengths("2,048-token", 3, 0).tolist() == [2048] * 3


@pytest.mark.parametrize("kind", ["mixed", "short"])
def test_every_text_has_exactly_the_drawn_number_of_tokens(kind: str, tokenizer_json: Path) -> None:
    made = make_set(kind, 200, 3, tokenizer_json)
    assert made.lengths.tolist() == lengths(kind, 200, 3).tolist()
    again = make_set(kind, 200, 3, tokenizer_json)
    assert again.texts == made.texts
    assert make_set(kind, 200, 4, tokenizer_json).texts != made.texts


def test_sets_survive_their_file_and_warm_up_texts_are_others(tokenizer_json: Path, tmp_path: Path) -> None:
    write_sets(tmp_path / "sets.json", tokenizer_json)
    sets = load_sets(tmp_path / "sets.json")
    assert set(sets) == {name for kind in (*SETS, *LONG_SETS) for name in (kind, f"{kind}-warm-up")}
    assert sets["8,192-token"].lengths.tolist() == [8192] * LONG_SETS["8,192-token"]
    assert len(sets["mixed"].texts) == 2048
    assert sets["mixed"].texts[:1024] != sets["mixed-warm-up"].texts
    assert sets["short"].ids[0].dtype == np.int32
    assert sets["short"].rows(2046, 4) == [2046, 2047, 0, 1]


def test_padding_keeps_every_id_and_masks_the_rest() -> None:
    ids, mask = padded([np.array([5, 6, 7], np.int32), np.array([8], np.int32)])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int32


def test_operations_are_counted_at_each_text_s_own_length() -> None:
    small = Dimensions(layers=1, hidden=2, inner=3)
    # a token: 4 products 2x2 and 2 products 2x3, each multiplication with its addition; attention: 2 * 2 * 2 a pair
    token = 2 * (4 * 4 + 2 * 6)
    assert flops(small, np.array([1])) == token + 8
    assert flops(small, np.array([3])) == 3 * token + 9 * 8
    assert flops(Dimensions(1, 2, 3, inward=2, heads=4, keys=1), np.array([1])) == 2 * 2 * (2 * 4 + 2 * 1 + 3 * 3) + 16
    assert flops(Dimensions(4, 2, 3), np.array([1, 3])) == 4 * (4 * token + 10 * 8)
    # of each row's one token all but keys and values, and what it sees
    keys = 2 * 2 * 2 * 2
    last = 2 * (token - keys) + 4 * keys + 4 * 8
    assert flops(Dimensions(4, 2, 3, one=True), np.array([1, 3])) == 3 * (4 * token + 10 * 8) + last
