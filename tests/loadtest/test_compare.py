"""Changes between runs: what is noise and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from known import settings, simulated_trial

from toolkit.errors import InputError
from toolkit.loadtest import Report, constant, save
from toolkit.loadtest.compare import changes, permutation_p, read_runs


def runs(service: float, seeds: range) -> list[Report]:
    trial = simulated_trial(service)
    return [trial(replace(settings(constant(50, 20)), seed=seed)) for seed in seeds]


def test_the_p_value_is_exact() -> None:
    assert permutation_p([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    assert permutation_p([1, 2], [1, 2]) == 1


def test_a_slower_server_is_a_change_and_the_same_server_is_noise() -> None:
    before = runs(0.010, range(5))
    same = {item.name: item.verdict for item in changes(before, runs(0.010, range(5, 10)))}
    slower = {item.name: item for item in changes(before, runs(0.013, range(5, 10)))}
    assert same["p50"] == "noise"
    assert slower["p50"].verdict == "changed"
    assert slower["p50"].share is not None
    assert slower["p50"].share > 0.2


def test_single_runs_cannot_be_told_apart_and_it_says_so() -> None:
    assert {item.verdict for item in changes(runs(0.01, range(1)), runs(0.02, range(1, 2)))} == {"too few runs"}


def test_runs_under_different_loads_are_not_compared() -> None:
    other = [simulated_trial(0.01)(settings(constant(60, 20)))]
    with pytest.raises(InputError, match="same load"):
        changes(runs(0.01, range(1)), other)


def test_a_folder_of_runs_is_read_whole(tmp_path) -> None:
    for number, report in enumerate(runs(0.01, range(2))):
        (tmp_path / str(number)).mkdir()
        save(report, tmp_path / str(number) / "report.json")
    assert len(read_runs(tmp_path)) == 2
    (tmp_path / "0" / "report.json").write_text("{}")
    with pytest.raises(InputError, match="no report of schema 1"):
        read_runs(tmp_path)
