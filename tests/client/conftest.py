from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fake_serving import FakeServing


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServing]]:
    """Start a `FakeServing` with the given fields; stopped at the end of the test."""
    started: list[FakeServing] = []

    def start(**fields: object) -> FakeServing:
        started.append(FakeServing(**fields).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for fake in started:
        fake.stop()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServing]:
    """A server without quirks, shared by a module's tests."""
    running = FakeServing().start()
    yield running
    running.stop()


@pytest.fixture(params=["grpc", "rest"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)
