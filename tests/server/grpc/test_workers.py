"""The threads of gRPC's calls run everything, tell of every end once, and survive what they run."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from serving_support import wait_until

from toolkit.server.grpc.workers import Workers


@pytest.fixture
def workers() -> Any:
    found = Workers(4)
    yield found
    found.shutdown()


def test_every_call_runs_and_its_end_is_told_once(workers: Workers) -> None:
    ran: list[int] = []
    told: list[int] = []
    for number in range(2000):
        workers.submit(ran.append, number).add_done_callback(lambda _, number=number: told.append(number))
    wait_until(lambda: len(told) >= 2000)
    assert sorted(ran) == sorted(told) == list(range(2000))


def test_an_end_before_anybody_asked_is_told_at_once(workers: Workers) -> None:
    ended = threading.Event()
    call = workers.submit(ended.set)
    assert ended.wait(10)
    wait_until(lambda: call._done)  # type: ignore[attr-defined]
    told: list[Any] = []
    call.add_done_callback(told.append)
    assert told == [call]


def test_threads_survive_what_is_raised(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise SystemExit("a handler's own")

    told: list[Any] = []
    for _ in range(8):
        workers.submit(fail).add_done_callback(told.append)
    ran = threading.Event()
    workers.submit(ran.set)
    assert ran.wait(10)
    wait_until(lambda: len(told) == 8)
    assert len(caplog.records) == 8


def test_waiting_threads_keep_no_request(workers: Workers) -> None:
    class Request:
        pass

    request = Request()
    gone = weakref.ref(request)
    workers.submit(lambda _: None, request)
    del request
    wait_until(lambda: (gc.collect(), gone() is None)[1])


def test_nothing_is_taken_after_the_end_and_what_was_taken_is_done() -> None:
    workers = Workers(2)
    ran: list[int] = []
    for number in range(100):
        workers.submit(ran.append, number)
    workers.shutdown()
    wait_until(lambda: len(ran) == 100)
    with pytest.raises(RuntimeError, match="after shutdown"):
        workers.submit(print)
