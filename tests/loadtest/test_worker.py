"""A worker that is asked for more than it can send."""

from __future__ import annotations

import asyncio
import multiprocessing
import time

import numpy as np
import pytest

from toolkit.client.options import Retry
from toolkit.client.transport.address import parse_address
from toolkit.client.transport.interface import Connection, Outcome
from toolkit.client.types import Request
from toolkit.loadtest import Rates, constant
from toolkit.loadtest.measure import Recorder
from toolkit.loadtest.records import RECORD, Records
from toolkit.loadtest.run import lag_verdict
from toolkit.loadtest.texts import Traffic
from toolkit.loadtest.worker import Order, Worker

SECONDS = 0.001


class Busy:
    """A transport that answers at once, but on which to send takes the generator `SECONDS` of its CPU."""

    async def send(self, request: Request, timeout: float) -> Outcome:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            pass
        await asyncio.sleep(0)  # the answer is there in the next turn of the loop
        return b""

    async def close(self) -> None:
        pass


def recorded(load: Rates) -> Records:
    """What a worker alone records of ``load``."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    orders, words = multiprocessing.Pipe(duplex=False)
    traffic = Traffic((Request("/m", b""),), (0,), (1,), (0,), False)
    order = Order(0, 1, load, traffic, parse_address("m:1"), Connection(), 10.0, Retry(attempts=1), 0, 0.0)
    words.send(("go", time.monotonic()))
    asyncio.run(Worker(order, theirs, orders).run())
    blocks = []
    while (message := ours.recv())[0] != "done":
        if message[0] == "records":
            blocks.append(np.frombuffer(message[1][1], RECORD))
    for pipe in (ours, theirs, orders, words):
        pipe.close()
    return np.concatenate(blocks)


def test_a_worker_that_falls_behind_takes_answers_as_they_come_and_tells_how_late_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolkit.loadtest.worker.open_transport", lambda address, connection: Busy())
    load = constant(2 / SECONDS, 0.4, poisson=False)
    found = recorded(load)
    assert sorted(found["intended"]) == pytest.approx(np.concatenate(list(load.arrivals(0))))
    # sent and not yet answered, at each send
    under_way = np.arange(1, len(found) + 1) - np.searchsorted(np.sort(found["end"]), np.sort(found["sent"]))
    assert under_way.max() <= 2
    recorder = Recorder(0.0, load.seconds)
    recorder.add(found)
    measured = recorder.result()
    assert measured.sent == measured.answered == len(found) == 800
    assert measured.lag.at(0.99).value > 0.3  # sending takes 0.8 s at least, instead of 0.4
    assert not lag_verdict(measured, 0.01).held
