"""Length sorting of the peers: no row is lost, groups keep to their size, answers are in the callers' order."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.encoders.engines import grouped
from benchmarks.encoders.grouping import Grouping, candidates
from benchmarks.encoders.texts import Ids, TextSet, padded

LENGTHS = np.array([9, 3, 40, 3, 7, 12, 300, 5])


@pytest.mark.parametrize("grouping", [*candidates(128), Grouping(1000)], ids=str)
def test_groups_hold_each_row_once_in_order_of_length(grouping: Grouping) -> None:
    groups = grouping.groups(LENGTHS)
    assert LENGTHS[np.concatenate(groups)].tolist() == sorted(LENGTHS.tolist())
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(LENGTHS)))


def test_groups_of_rows_are_full_but_for_the_last() -> None:
    assert [len(group) for group in Grouping(3).groups(LENGTHS)] == [3, 3, 2]


def test_groups_of_tokens_keep_to_the_budget_where_a_single_row_does() -> None:
    groups = Grouping(64, by_tokens=True).groups(LENGTHS)
    padded_tokens = [len(group) * int(LENGTHS[group].max()) for group in groups]
    assert padded_tokens == [45, 12, 40, 300]


def test_no_candidate_needs_more_rows_than_there_are() -> None:
    assert candidates(1) == [Grouping(1)]
    assert [str(item) for item in candidates(8)] == [
        "groups of 1 rows",
        "groups of 2 rows",
        "groups of 4 rows",
        "groups of 8 rows",
        "groups of 256 tokens",
        "groups of 512 tokens",
    ]


def test_a_grouped_library_answers_in_the_callers_order() -> None:
    rows = tuple(np.full(length, number + 1, np.int32) for number, length in enumerate(LENGTHS))
    texts = TextSet("texts", ("",) * len(rows), rows)

    def first_id_and_length(ids: Ids, mask: Ids) -> np.ndarray:
        return np.stack([ids[:, 0], mask.sum(1)], 1).astype(np.float32)

    for name, way in grouped({"graph": first_id_and_length})(8).items():
        assert name.startswith("graph, groups of")
        expected = [[number + 1, LENGTHS[number]] for number in (6, 0, 3, 2)]
        assert way(texts, [6, 0, 3, 2]).tolist() == expected
    assert padded(rows[:1])[0].shape == (1, 9)
