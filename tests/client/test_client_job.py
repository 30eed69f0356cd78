"""The scheduler, driven by a simulated clock and server: no network, no waiting."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.client.job import Feed, Job, Piece, Shared
from toolkit.client.options import Hedge, Retry, Split
from toolkit.client.transport.failures import Failure, grpc_failure, http_failure
from toolkit.client.types import Request
from toolkit.errors import (
    AuthenticationError,
    ClientError,
    DeadlineError,
    InputError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    ResponseError,
    SignatureError,
    UnreachableError,
)

# what a simulated server does with rows: seconds to the answer, and the answer
Server = Callable[[list[bytes], float], tuple[float, bytes | Failure]]
DOWN = Failure(UnreachableError, "down", retry=True)


@dataclass
class Simulation:
    """Runs a job against a function; time passes only where something waits."""

    rows: list[bytes]
    server: Server
    options: dict[str, Any] = field(default_factory=dict)
    now: float = 1000.0
    sent: list[tuple[float, list[bytes]]] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        retry = self.options.setdefault("retry", Retry())
        self.job = Job(
            **{
                "feed": Feed(self.rows),
                "encode": lambda rows, version: Request(str(version), b"\0".join(rows)),
                "decode": lambda body, count: (body.split(b"\0"), None),
                "address": "there",
                "model": "m",
                "split": Split(rows=10, in_flight=4),
                "shared": Shared(retry),
                "timeout": 60.0,
                "draw": lambda: 1.0,
                **self.options,
            }
        )

    def run(self) -> list[Piece]:
        events: list[Any] = []
        order = itertools.count()
        pieces: list[Piece] = []
        live: set[Any] = set()
        while not self.job.finished:
            for attempt in self.job.poll(self.now):
                rows = attempt.request.body.split(b"\0")
                self.sent.append((self.now, rows))
                delay, outcome = self.server(rows, self.now)
                if delay > attempt.timeout:
                    delay, outcome = attempt.timeout, Failure(DeadlineError, "slow", retry=True)
                heapq.heappush(events, (self.now + delay, next(order), attempt, outcome))
                live.add(attempt)
                self.most = max(self.most, len(live))
            wait = self.job.wait(self.now)
            if events and (wait is None or events[0][0] <= self.now + wait):
                self.now, _, attempt, outcome = heapq.heappop(events)
                if attempt in live:
                    live.remove(attempt)
                    live.difference_update(self.job.resolve(attempt, outcome, self.now))
            elif wait is not None:
                self.now += wait
            pieces.extend(self.job.drain())
        return pieces


def echo(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
    return 0.01, b"\0".join(rows)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


def values(pieces: list[Piece]) -> list[bytes]:
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])] if pieces else True
    return [row for piece in pieces for row in piece.value]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"")), max_size=200),
    st.integers(1, 50),
    st.integers(1, 100),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_whatever_a_flaky_server_does_every_row_comes_once_in_order(
    rows: list[bytes], at_most: int, size: int, in_flight: int, random: Any
) -> None:
    def flaky(chunk: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        kind = random.randrange(6)
        answers: list[bytes | Failure] = [
            DOWN,
            Failure(OverloadedError, "full", retry=True, split=True),
            Failure(RequestError, "too big", split=True) if len(chunk) > 1 else DOWN,
        ]
        return random.random() * 10, answers[kind] if kind < 3 else b"\0".join(chunk)

    simulation = Simulation(
        rows,
        flaky,
        {
            "split": Split(rows=at_most, bytes=size, in_flight=in_flight),
            "retry": Retry(patience=1e9),
            "hedge": Hedge(5),
        },
    )
    assert values(simulation.run()) == rows
    for _, chunk in simulation.sent:
        assert len(chunk) <= at_most
        assert len(chunk) == 1 or sum(map(len, chunk)) <= size


def test_chunks_are_cut_by_rows_and_bytes() -> None:
    feed = Feed([b"a" * 4, b"b" * 4, b"c" * 20, b"d", b"e", b"f"])
    assert [len(feed.take(3, 10)) for _ in range(5)] == [2, 1, 3, 0, 0]


def test_requests_in_flight_are_bounded_and_an_early_straggler_bounds_what_is_held() -> None:
    slow = Simulation(
        numbered(1000), lambda rows, now: (1e3 if rows[0] == b"0" else 0.01, b"\0".join(rows)), {"timeout": 1e4}
    )
    assert values(slow.run()) == numbered(1000)
    assert slow.most == 4
    early = [when for when, _ in slow.sent if when < 1500]
    assert len(early) == 16


def test_waits_grow_with_jitter_and_the_attempts_are_bounded() -> None:
    simulation = Simulation(
        [b"x"], lambda rows, now: (0.0, DOWN), {"retry": Retry(attempts=5, base=1, factor=2, longest=4)}
    )
    with pytest.raises(
        UnreachableError, match=r"down \(server there, model m, rows 0 to 0, after 5 attempts\)"
    ) as caught:
        simulation.run()
    times = [when for when, _ in simulation.sent]
    assert [b - a for a, b in itertools.pairwise(times)] == [1, 2, 4, 4]
    assert (caught.value.attempts, caught.value.rows, caught.value.address, caught.value.model) == (
        5,
        (0, 1),
        "there",
        "m",
    )
    assert Retry(base=1).wait(1, 0.0) == 0.5
    assert Retry(base=1).wait(10**6, 0.99) <= 5


def test_an_error_names_the_rows_of_its_request() -> None:
    def refuse(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return 0.01, Failure(RequestError, "no") if b"25" in rows else b"\0".join(rows)

    with pytest.raises(RequestError) as caught:
        Simulation(numbered(100), refuse).run()
    assert caught.value.rows == (20, 30)
    assert caught.value.attempts == 1


def test_the_retry_budget_ends_a_call_that_mostly_fails() -> None:
    calls = itertools.count()

    def mostly(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return 0.01, b"\0".join(rows) if next(calls) % 2 else DOWN

    with pytest.raises(UnreachableError):
        Simulation(numbered(1000), mostly, {"retry": Retry(burst=5, budget=0.1)}).run()
    generous = Simulation(numbered(1000), mostly, {"retry": Retry(burst=5, budget=1.0)})
    assert values(generous.run()) == numbered(1000)


def test_the_deadline_bounds_attempts_and_waits() -> None:
    slow = Simulation([b"x"], lambda rows, now: (50.0, b"x"), {"deadline": 1010.0, "timeout": 4.0})
    with pytest.raises(DeadlineError):
        slow.run()
    assert slow.now <= 1010
    pushed = Simulation(
        [b"x"],
        lambda rows, now: (0.0, Failure(OverloadedError, "later", retry=True, pushback=99.0)),
        {"deadline": 1010.0},
    )
    with pytest.raises(OverloadedError, match="later"):
        pushed.run()
    assert pushed.now == 1000


def test_a_servers_pushback_replaces_the_wait() -> None:
    answers: list[bytes | Failure] = [Failure(OverloadedError, "", retry=True, pushback=7.0), b"x"]
    simulation = Simulation([b"x"], lambda rows, now: (0.0, answers.pop(0)))
    simulation.run()
    assert [when for when, _ in simulation.sent] == [1000, 1007]


def test_a_size_limit_halves_at_once_and_is_remembered() -> None:
    def limited(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return 0.0, b"\0".join(rows) if len(rows) <= 3 else Failure(RequestError, "too large", split=True)

    simulation = Simulation(numbered(100), limited)
    assert values(simulation.run()) == numbered(100)
    assert simulation.now == 1000  # no waits
    assert simulation.job.shared.rows == 2
    assert max(len(rows) for _, rows in simulation.sent[20:]) == 2


def test_a_limit_that_the_server_names_is_used_as_it_is() -> None:
    def limited(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return 0.0, b"\0".join(rows) if len(rows) <= 7 else Failure(RequestError, "", split=True, limit=7)

    simulation = Simulation(numbered(100), limited)
    assert values(simulation.run()) == numbered(100)
    assert simulation.job.shared.rows == 7


def test_one_row_that_is_too_large_is_an_error() -> None:
    with pytest.raises(RequestError, match="too large"):
        Simulation([b"x"], lambda rows, now: (0.0, Failure(RequestError, "too large", split=True))).run()


def test_overload_sends_fewer_rows_and_fewer_requests_at_a_time() -> None:
    overloaded = Failure(OverloadedError, "full", retry=True, split=True)
    simulation = Simulation(
        numbered(400),
        lambda rows, now: (1.0, overloaded if now < 1005 else b"\0".join(rows)),
        {"retry": Retry(patience=60)},
    )
    assert values(simulation.run()) == numbered(400)
    assert simulation.job.shared.rows is None  # not a limit of the server: the next call starts afresh


def test_a_hedge_overtakes_a_stuck_request_and_costs_budget() -> None:
    seen: list[bytes] = []

    def stuck_once(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        seen.append(rows[0])
        return (50.0 if rows[0] == b"10" and seen.count(b"10") == 1 else 0.01), b"\0".join(rows)

    hedged = Simulation(numbered(40), stuck_once, {"hedge": Hedge(0.5), "retry": Retry(burst=1, budget=0)})
    assert values(hedged.run()) == numbered(40)
    assert hedged.now < 1001
    seen.clear()
    broke = Simulation(numbered(40), stuck_once, {"hedge": Hedge(0.5), "retry": Retry(burst=0, budget=0)})
    broke.run()
    assert broke.now > 1049


def test_a_failed_attempt_waits_for_its_hedge() -> None:
    outcomes: list[tuple[float, bytes | Failure]] = [(0.8, DOWN), (0.6, b"x")]
    simulation = Simulation([b"x"], lambda rows, now: outcomes.pop(0), {"hedge": Hedge(0.5)})
    assert values(simulation.run()) == [b"x"]
    assert len(simulation.sent) == 2


def test_two_versions_of_a_model_are_never_mixed() -> None:
    versions = {0: 1, 1: 2}
    asked: list[str | None] = []

    def encode(rows: list[bytes], version: int | None) -> Request:
        asked.append(None if version is None else str(version))
        return Request(str(version), b"\0".join(rows))

    def decode(body: bytes, count: int) -> tuple[Any, int | None]:
        number = versions.pop(len(versions) and min(versions), 1)
        return body.split(b"\0"), number

    simulation = Simulation(numbered(40), echo, {"encode": encode, "decode": decode})
    assert values(simulation.run()) == numbered(40)
    assert asked == [None, None, None, None, "1"]


def test_an_answer_of_another_version_for_good_is_an_error() -> None:
    numbers = itertools.count(1)
    with pytest.raises(ResponseError, match=r"version \d of the model answered after version 1"):
        Simulation(numbered(20), echo, {"decode": lambda body, count: (body, next(numbers))}).run()


def test_isolation_finds_the_rows_at_fault_and_keeps_all_others() -> None:
    bad = {b"3", b"44", b"45"}

    def refuse(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return 0.0, Failure(RequestError, "bad row") if bad & set(rows) else b"\0".join(rows)

    pieces = Simulation(numbered(100), refuse, {"isolate": True}).run()
    assert {b"%d" % piece.start for piece in pieces if piece.error} == bad
    assert [row for piece in pieces if not piece.error for row in piece.value] == [
        r for r in numbered(100) if r not in bad
    ]


def test_patience_outlives_a_server_that_is_away_and_ends_when_it_stays_away() -> None:
    def away(until: float) -> Server:
        return lambda rows, now: (0.01, DOWN if now < until else b"\0".join(rows))

    patient = Retry(attempts=1, patience=100)
    assert values(Simulation(numbered(50), away(1080), {"retry": patient}).run()) == numbered(50)
    with pytest.raises(UnreachableError):
        Simulation(numbered(50), away(1e9), {"retry": patient}).run()


# ---- what statuses mean


@pytest.mark.parametrize(
    ("code", "details", "kind", "retry", "split"),
    [
        ("NOT_FOUND", "Servable not found for request: Latest(nope)", ModelNotFoundError, False, False),
        ("INVALID_ARGUMENT", "Unrecognized servable version label: nope", ModelNotFoundError, False, False),
        ("FAILED_PRECONDITION", 'Serving signature key "nope" not found.', SignatureError, False, False),
        ("INVALID_ARGUMENT", "input size does not match signature", RequestError, False, False),
        ("OUT_OF_RANGE", "Node 'NoOp' does not have output 0", RequestError, False, False),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 5)", RequestError, False, True),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 5)", RequestError, False, True),
        ("RESOURCE_EXHAUSTED", "", OverloadedError, True, True),
        ("UNAVAILABLE", "failed to connect to all addresses", UnreachableError, True, False),
        (
            "UNAVAILABLE",
            "The batch scheduling queue to which this task was submitted is full",
            OverloadedError,
            True,
            False,
        ),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", UnreachableError, False, False),
        ("INTERNAL", "Received RST_STREAM with error code 2", UnreachableError, True, False),
        ("UNKNOWN", "Stream removed", UnreachableError, True, False),
        ("INTERNAL", "a node failed", ResponseError, False, False),
        ("DEADLINE_EXCEEDED", "", DeadlineError, True, False),
        ("UNAUTHENTICATED", "who are you", AuthenticationError, False, False),
        ("PERMISSION_DENIED", "", AuthenticationError, False, False),
        ("UNIMPLEMENTED", "Method not found!", ResponseError, False, False),
    ],
)
def test_grpc_statuses(code: str, details: str, kind: type[ClientError], retry: bool, split: bool) -> None:
    failure = grpc_failure(code, details, {})
    assert (failure.error, failure.retry, failure.split) == (kind, retry, split)


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry", "split"),
    [
        (404, b'{"error": "Servable not found for request: Latest(nope)"}', ModelNotFoundError, False, False),
        (404, b"<HTML>Not Found</HTML>", ResponseError, False, False),
        (400, b'{"error": "Unrecognized servable version label: nope"}', ModelNotFoundError, False, False),
        (
            400,
            b'{"error": "Serving signature name: \\"nope\\" not found in signature def"}',
            SignatureError,
            False,
            False,
        ),
        (400, b'{"error": "JSON Parse error"}', RequestError, False, False),
        (401, b"", AuthenticationError, False, False),
        (403, b"", AuthenticationError, False, False),
        (413, b"", RequestError, False, True),
        (429, b"", OverloadedError, True, True),
        (500, b"oops", ResponseError, False, False),
        (502, b"", UnreachableError, True, False),
        (503, b"[]", OverloadedError, True, False),
        (504, b"", DeadlineError, True, False),
    ],
)
def test_http_statuses(status: int, body: bytes, kind: type[ClientError], retry: bool, split: bool) -> None:
    failure = http_failure(status, body, {})
    assert (failure.error, failure.retry, failure.split) == (kind, retry, split)


def test_pushback_is_read_from_both_protocols() -> None:
    assert grpc_failure("UNAVAILABLE", "", {"grpc-retry-pushback-ms": "1500"}).pushback == 1.5
    for never in ("-1", "soon", "9" * 30):
        assert not grpc_failure("UNAVAILABLE", "", {"grpc-retry-pushback-ms": never}).retry
    assert http_failure(503, b"", {"retry-after": "3"}).pushback == 3
    assert http_failure(503, b"", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}).pushback == 0
    assert http_failure(503, b"", {"retry-after": "soon"}).pushback is None


def test_the_largest_batch_a_server_names_is_read() -> None:
    details = "Task size 100 is larger than maximum input batch size 64"
    assert grpc_failure("INVALID_ARGUMENT", details, {}).limit == 64
    assert http_failure(400, b'{"error": "%s"}' % details.encode(), {}).limit == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split(rows=0), r"Split\.rows is 0; it must be at least 1"),
        (lambda: Retry(attempts=0), r"Retry\.attempts is 0"),
        (lambda: Retry(longest=0.01), r"Retry\.longest is 0\.01; it must be at least 0\.1"),
        (lambda: Hedge(0), r"Hedge\.after is 0"),
    ],
)
def test_impossible_options_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


BROKEN = Failure(UnreachableError, "Socket closed", retry=True, broke=True)


@pytest.mark.parametrize("options", [{"retry": Retry(patience=1e9)}, {"retry": Retry(attempts=99, burst=99)}])
def test_a_request_that_ends_its_servers_is_found_and_named_after_three_of_them(options: dict[str, Any]) -> None:
    def fragile(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        return (0.02, BROKEN) if b"25" in rows else (0.01, b"\0".join(rows))

    simulation = Simulation(numbered(100), fragile, options)
    with pytest.raises(UnreachableError, match="the server went away 3 times while it worked on this request") as error:
        simulation.run()
    assert error.value.rows == (20, 30)
    fatal = [rows for _, rows in simulation.sent if b"25" in rows]
    assert len(fatal) == 3
    assert simulation.job._delivered == 20


def test_requests_whose_connection_broke_go_one_at_a_time_until_they_are_answered() -> None:
    deaths = iter([True] * 4)
    live: list[float] = []

    def once(rows: list[bytes], now: float) -> tuple[float, bytes | Failure]:
        if next(deaths, False):
            return 0.01, BROKEN
        live[:] = [end for end in live if end > now]
        overlaps.append(len(live))
        live.append(now + 1)
        return 1, b"\0".join(rows)

    overlaps: list[int] = []
    simulation = Simulation(numbered(100), once)
    assert values(simulation.run()) == numbered(100)
    assert overlaps[:4] == [0, 0, 0, 0]
    assert max(overlaps) == 3


@pytest.mark.parametrize(
    ("code", "details", "broke"),
    [
        ("UNAVAILABLE", "Socket closed", True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", True),
        ("UNKNOWN", "Stream removed", True),
        ("UNAVAILABLE", "disconnect/reset before headers. reset reason: connection termination", True),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: Connection reset by peer", False),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused", False),
        ("UNAVAILABLE", "queue is full", False),
        ("INTERNAL", "Received RST_STREAM with error code 2", False),
    ],
)  # fmt: skip
def test_a_connection_that_ended_is_told_apart_from_one_that_never_was(code: str, details: str, broke: bool) -> None:
    assert grpc_failure(code, details, {}).broke is broke
