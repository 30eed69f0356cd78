"""Arrival times, as pure functions of a seed."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.errors import InputError
from toolkit.loadtest import Closed, Rates, Replay, Segment, constant, ramp, steps


def all_of(load: Rates | Replay, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(load.arrivals(seed)))


def test_a_constant_rate_sends_exactly_that_many_evenly_from_the_start_on() -> None:
    np.testing.assert_allclose(all_of(constant(20_000, 3, poisson=False)), np.arange(60_000) / 20_000, atol=1e-9)


def test_poisson_arrivals_are_ascending_independent_and_of_the_rate() -> None:
    times = all_of(constant(1000, 100))
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert times[-1] < 100
    # the number varies by its root; gaps of a Poisson process vary by their mean
    assert abs(len(times) - 100_000) < 5 * 100_000**0.5
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)


def test_a_seed_gives_the_same_times_again_and_another_seed_others() -> None:
    load = constant(100, 10)
    np.testing.assert_array_equal(all_of(load, 1), all_of(load, 1))
    assert all_of(load, 1)[0] != all_of(load, 2)[0]


def test_steps_have_their_rates_one_after_the_other() -> None:
    times = all_of(steps([(10, 2), (100, 1), (5, 4)], poisson=False))
    counts = [int(((times >= a) & (times < b)).sum()) for a, b in ((0, 2), (2, 3), (3, 7))]
    assert counts == [20, 100, 20]


@pytest.mark.parametrize(("first", "last"), [(0, 100), (100, 0), (10, 90)])
def test_a_ramp_sends_as_many_as_the_area_below_it(first: float, last: float) -> None:
    times = all_of(ramp(first, last, 10, poisson=False))
    assert len(times) == 500
    half = (first + (first + last) / 2) / 2 * 5  # requests of the first five seconds
    assert abs((times < 5).sum() - half) <= 1


def test_the_warm_up_runs_at_the_first_rate_and_shifts_what_follows() -> None:
    load = steps([(10, 2), (100, 1)], poisson=False).after(3)
    times = all_of(load)
    assert load.seconds == 6
    assert (times < 5).sum() == 50
    assert (times >= 5).sum() == 100


def test_a_replay_sends_at_the_recorded_times() -> None:
    np.testing.assert_array_equal(all_of(Replay((0.0, 0.5, 0.5, 2.0))), [0, 0.5, 0.5, 2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(0, 10),
        lambda: constant(10, 0),
        lambda: constant(float("nan"), 1),
        lambda: Rates(()),
        lambda: Segment(1, -1, 5),
        lambda: Replay(()),
        lambda: Replay((1.0, 0.5)),
        lambda: Closed(0, 1),
        lambda: Closed(1, 0),
        lambda: Closed(1, 1, 0),
    ],
)
def test_a_load_that_is_none_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]
