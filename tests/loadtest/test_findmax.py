"""The search for the highest rate, on a simulated server whose highest rate queueing theory knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known import md1_quantile, settings, simulated_trial

from toolkit.errors import InputError
from toolkit.loadtest import Settings, constant, parse_slo
from toolkit.loadtest.findmax import RESOLUTION, Search, decide, find_max
from toolkit.loadtest.html import search_page
from toolkit.loadtest.plan import load_search, make_plan
from toolkit.loadtest.report import Report, save

SERVICE = 0.01


def search(slo: str, seconds: float = 60, start: float = 10.0, service: float = SERVICE) -> Search:
    asked = settings(constant(1, seconds), objectives=parse_slo(slo))
    return find_max(asked, start, trial=simulated_trial(service))


def test_the_highest_rate_is_found_from_below_and_from_above() -> None:
    """Never above the edge that theory has, since it must be sure, and not far below."""
    edge = next(rate for rate in np.arange(50, 70, 0.1) if md1_quantile(rate, SERVICE, 0.99) > 0.05)
    for start in (10.0, 400.0):
        found = search("p99=50ms", seconds=200, start=start)
        assert found.rate is not None
        assert 0.92 * edge < found.rate < edge
        assert found.missed is not None
        assert found.missed <= found.rate * (1 + RESOLUTION) ** 3
        last = next(point for point in found.points if point.rate == found.rate)
        assert last.decision == "held"


def test_an_objective_below_the_service_time_is_held_by_no_rate() -> None:
    assert search("p99=9ms", seconds=5).rate is None


def test_few_requests_are_not_sure_even_if_all_were_fast() -> None:
    """100 fast requests do not show that 99.9 % are; 5,000 do."""
    trial = simulated_trial(SERVICE)
    objectives = parse_slo("p99.9=20ms")
    asked = settings(constant(1, 100, poisson=False), objectives=objectives)
    few = trial(asked)
    assert few.verdict[0].held
    assert decide([few], objectives) == "undecided"
    many = trial(replace(asked, load=constant(50, 100, poisson=False)))
    assert decide([many], objectives) == "held"


def test_trials_that_are_the_generators_own_are_taken_again_and_count_for_nothing() -> None:
    late: list[int] = []

    def trial(asked: Settings, *, stop: object = None) -> Report:
        report = simulated_trial(SERVICE)(asked)
        late.append(len(late) % 3)
        if not late[-1]:
            return report
        return replace(report, lag=replace(report.lag, share=0.2, worst="p99", held=False))

    asked = settings(constant(1, 60), objectives=parse_slo("p99=50ms"))
    found = find_max(asked, 10.0, trial=trial)
    assert found.rate is not None
    assert not found.generator_limit
    assert len(late) > sum(point.trials for point in found.points)


def test_a_generator_that_is_the_limit_ends_the_search() -> None:
    def trial(asked: Settings, *, stop: object = None) -> Report:
        report = simulated_trial(SERVICE)(asked)
        return replace(report, lag=replace(report.lag, share=0.2, worst="p99", held=False))

    asked = settings(constant(1, 10), objectives=parse_slo("p99=50ms"))
    found = find_max(asked, 10.0, trial=trial)
    assert found.generator_limit
    assert found.rate is None
    assert "20.00%" in (found.stopped or "")


def test_the_knee_lies_below_the_highest_rate_the_server_can_do() -> None:
    found = search("p99=200ms", seconds=100)
    assert found.knee is not None
    assert 20 < found.knee < 100


def test_a_search_is_written_read_drawn_and_planned_with(tmp_path) -> None:
    found = search("p99=50ms", seconds=60)
    save(found, tmp_path / "report.json")
    again = load_search(tmp_path)
    assert again == found
    page = search_page(found)
    assert page.count("<svg") == 1
    assert "knee" in page

    assert found.rate is not None
    plan = make_plan(found, found.rate * 10, parse_slo("p99=50ms"), cpus=2, price=0.05)
    assert (plan.needed, plan.spare, plan.replicas) == (10, 1, 11)
    assert plan.utilisation == pytest.approx(10 / 11)
    assert plan.after_loss == pytest.approx(1)
    assert plan.cost == pytest.approx(1e6 / (found.rate * 10) / 3600 * 11 * 2 * 0.05, rel=1e-6)
    assert make_plan(found, found.rate * 10.1, ()).needed == 11
    with pytest.raises(InputError, match="search again"):
        make_plan(found, 10, parse_slo("p99=10ms"))
