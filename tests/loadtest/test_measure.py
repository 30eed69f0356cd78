"""What becomes of records: failures, warm-up, ends, throughput, lag."""

from __future__ import annotations

import numpy as np
import pytest
from known import settings

from toolkit.loadtest import constant, judge, parse_slo
from toolkit.loadtest.measure import Recorder
from toolkit.loadtest.records import make_records
from toolkit.loadtest.report import Generator, load, save
from toolkit.loadtest.run import lag_verdict, make_report


def recorded(latency: np.ndarray, status: object = 0, lag: object = 0.0, seconds: float = 10.0) -> Recorder:
    intended = np.linspace(0, seconds, len(latency), endpoint=False)
    recorder = Recorder(0.0, seconds)
    recorder.add(make_records(intended, intended + lag, intended + latency, status=status), ("OK", "INTERNAL", "LOST"))
    return recorder


def test_failed_requests_rank_behind_every_answer_so_that_errors_never_make_latencies_better() -> None:
    latency = np.full(1000, 0.010)
    status = np.zeros(1000, int)
    status[::50] = 1  # 2 %, which failed at once
    latency[::50] = 1e-4
    measured = recorded(latency, status).result()
    assert measured.latency.at(0.95).value == pytest.approx(0.010, rel=1e-3)
    assert measured.latency.at(0.99).value is None
    assert (measured.sent, measured.answered, measured.failed) == (1000, 980, 20)
    assert measured.errors == {"INTERNAL": 20}
    held = judge(measured, parse_slo("p95=11ms,p99=11ms,max=1s,errors=2%"))
    assert [result.held for result in held] == [True, False, False, True]


def test_errors_are_counted_by_status() -> None:
    status = np.arange(300) % 3
    assert recorded(np.full(300, 0.01), status).result().errors == {"INTERNAL": 100, "LOST": 100}


def test_the_warm_up_is_left_out_and_late_answers_of_it_are_not_of_the_latencies() -> None:
    recorder = Recorder(5.0, 15.0)
    intended = np.arange(0, 15, 0.1)
    recorder.add(make_records(intended, intended, intended + np.where(intended < 5, 3.0, 0.01), rows=4, tokens=40))
    measured = recorder.result()
    assert measured.sent == 100
    assert measured.latency.max == pytest.approx(0.01, rel=1e-3)
    assert measured.seconds == 10
    # what was answered in the measured time: the last ones of the warm-up, too, but nothing after its end
    assert measured.throughput.requests == pytest.approx(13, abs=0.2)
    assert measured.throughput.rows == pytest.approx(4 * measured.throughput.requests)
    assert measured.throughput.tokens == pytest.approx(40 * measured.throughput.requests)


def test_records_may_come_in_any_order_and_any_blocks() -> None:
    draw = np.random.default_rng(0)
    latency = draw.exponential(0.05, size=2000)
    whole = recorded(latency).result()
    intended = np.linspace(0, 10, 2000, endpoint=False)
    records = make_records(intended, intended, intended + latency)
    draw.shuffle(records)
    parts = Recorder(0.0, 10.0)
    for block in np.array_split(records, 9):
        parts.add(block)
    assert parts.result() == whole


def test_a_percentile_that_too_few_requests_bound_from_above_says_so() -> None:
    item = recorded(np.linspace(0.01, 0.02, 100)).result().latency.at(0.99)
    assert item.low is not None
    assert item.high is None


def test_nothing_sent_is_reported_as_nothing_and_holds_no_objective() -> None:
    measured = Recorder(0.0, 10.0).result()
    assert measured.sent == 0
    assert measured.latency.at(0.5).value is None
    assert not any(result.held for result in judge(measured, parse_slo("p99=1s,errors=100%,max=1s")))


def test_lag_above_one_per_cent_of_the_latencies_fails_the_run_and_less_does_not() -> None:
    good = recorded(np.full(1000, 0.1), lag=0.0005).result()
    assert lag_verdict(good, 0.01).held
    late = recorded(np.full(1000, 0.1), lag=0.002).result()
    verdict = lag_verdict(late, 0.01)
    assert not verdict.held
    assert verdict.share == pytest.approx(0.02, rel=0.1)
    # a closed loop has no intended times to be late for
    assert lag_verdict(late, 0.01, closed=True).share is None


def test_a_report_is_the_same_after_it_was_written_and_read(tmp_path) -> None:
    draw = np.random.default_rng(0)
    measured = recorded(draw.exponential(0.05, size=500), (np.arange(500) % 100 == 0).astype(int)).result()
    asked = settings(constant(50, 10), objectives=parse_slo("p99=50ms,errors=0.1%"))
    report = make_report(asked, measured, None, Generator(2, 1.5, 0), None)
    save(report, tmp_path / "report.json")
    assert load(tmp_path / "report.json") == report
