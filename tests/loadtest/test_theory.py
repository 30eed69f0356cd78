"""Schedule and recorder together, on simulated servers whose latencies queueing theory knows."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from known import md1_quantile, simulated

from toolkit.loadtest import constant
from toolkit.loadtest.measure import QUANTILES, Recorder
from toolkit.loadtest.records import make_records

RATE, SERVICE = 60.0, 0.01
PRECISION = 1e-3  # of a histogram of three digits


def check(recorder: Recorder, theory: dict[float, float]) -> None:
    latency = recorder.result().latency
    for q, expected in theory.items():
        found = latency.at(q)
        assert found.low is not None
        assert found.high is not None
        assert found.low * (1 - PRECISION) <= expected <= found.high * (1 + PRECISION), (q, expected, found)


def test_poisson_arrivals_at_a_fixed_service_time_give_the_percentiles_of_m_d_1() -> None:
    recorder = simulated(constant(RATE, 3000), lambda arrivals: np.full_like(arrivals, SERVICE))
    check(recorder, {q: md1_quantile(RATE, SERVICE, q) for q in QUANTILES})


def test_poisson_arrivals_at_exponential_service_times_give_the_percentiles_of_m_m_1() -> None:
    draw = np.random.default_rng(5)
    recorder = simulated(constant(RATE, 3000), lambda arrivals: draw.exponential(SERVICE, size=arrivals.size))
    check(recorder, {q: -log(1 - q) / (1 / SERVICE - RATE) for q in QUANTILES})


def test_an_interval_that_takes_queueing_requests_for_independent_would_be_too_narrow() -> None:
    """Intervals are to hold the true percentile nearly always; of naive ones far fewer would."""
    truth, naive, held = md1_quantile(RATE, SERVICE, 0.9), 0, 0
    for seed in range(30):
        found = simulated(constant(RATE, 60), lambda arrivals: np.full_like(arrivals, SERVICE), seed)
        item = found.result().latency.at(0.9)
        assert item.value is not None
        assert item.low is not None
        assert item.high is not None
        held += item.low <= truth <= item.high
        root = item.spread**0.5
        naive += item.value - (item.value - item.low) / root <= truth <= item.value + (item.high - item.value) / root
    assert held >= 26
    assert naive < 20


def test_evenly_spaced_requests_below_the_service_rate_never_wait() -> None:
    recorder = simulated(constant(50, 20, poisson=False), lambda arrivals: np.full_like(arrivals, SERVICE))
    latency = recorder.result().latency
    assert latency.answered == 1000
    assert latency.max == pytest.approx(SERVICE, rel=PRECISION)


def test_a_stall_of_a_second_shows_in_p99_and_max_as_it_must() -> None:
    """Each of the 100 requests that are due in the stall waits for the rest of it: 1 % of 10,000 and a few more."""

    def service(arrivals: np.ndarray) -> np.ndarray:
        times = np.full_like(arrivals, 1e-4)
        times[np.searchsorted(arrivals, 50.0)] += 1.0
        return times

    measured = simulated(constant(100, 100, poisson=False), service).result()
    assert measured.latency.max == pytest.approx(1.0001, rel=PRECISION)
    slow = sum(second.max is not None and second.max > 0.5 for second in measured.series)
    assert slow == 1
    p99, p999 = measured.latency.at(0.99).value, measured.latency.at(0.999).value
    assert p99 is not None
    assert p999 is not None
    # the k-th of the requests in the stall waits 1 s less k/100; the 10 slowest of 10,000 are beyond p99.9
    assert p999 == pytest.approx(1.0001 - 10 * (0.01 - 1e-4), abs=0.01)
    assert p99 == pytest.approx(1.0001 - 100 * (0.01 - 1e-4), abs=0.02)


def test_latency_is_from_the_intended_time_so_that_coordinated_omission_hides_nothing() -> None:
    """A generator that waits for the stalled answer sends late; the wait is the server's doing and is counted."""
    intended = np.arange(0, 10, 0.01)
    sent = np.where((intended >= 5) & (intended < 6), 6.0, intended)
    recorder = Recorder(0.0, 10.0)
    recorder.add(make_records(intended, sent, sent + 0.001))
    measured = recorder.result()
    assert measured.service.at(0.99).value == pytest.approx(0.001, rel=PRECISION)
    assert measured.latency.at(0.99).value == pytest.approx(0.901, rel=0.02)
    assert measured.lag.max == pytest.approx(1.0, rel=PRECISION)
