"""TLS, tokens, metadata, compression, limits, several servers, hedging: what lies between the client and the model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from fake_serving import FakeServing, RefusedError
from fault_proxy import FaultProxy
from name_server import NameServer
from text_vectors import vectors

import toolkit
from toolkit.client import TLS, AsyncClient, Client, Hedge, Retry, Split
from toolkit.client.transport import grpc as grpc_transport
from toolkit.client.transport.address import parse_address
from toolkit.client.transport.failures import Failure
from toolkit.client.transport.interrupts import interrupts_later
from toolkit.client.transport.opening import void
from toolkit.client.types import Request
from toolkit.client.wire import messages
from toolkit.client.wire.tensors import encode_tensor
from toolkit.errors import (
    AuthenticationError,
    InputError,
    OverloadedError,
    RequestError,
    ResponseError,
    UnreachableError,
)

TEXTS = [f"text {i}" for i in range(300)]
# the package under test, wherever it is installed
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(toolkit.__file__).parents[1])}


def url_of(fake: FakeServing, protocol: str) -> str:
    return fake.grpc_url if protocol == "grpc" else fake.rest_url


# ---- addresses


@pytest.mark.parametrize(
    ("url", "target", "rest", "secure"),
    [
        ("localhost:8500", "dns:///localhost:8500", False, False),
        ("localhost", "dns:///localhost:8500", False, False),
        ("grpc://tf-serving.ns:9000", "dns:///tf-serving.ns:9000", False, False),
        ("grpcs://host", "dns:///host:443", False, True),
        ("grpc://[::1]:8500", "dns:///[::1]:8500", False, False),
        ("grpc://10.0.0.1:1,10.0.0.2", "ipv4:10.0.0.1:1,10.0.0.2:8500", False, False),
        ("http://host:8501", "http://host:8501", True, False),
        ("https://host/prefix/", "https://host:443/prefix", True, True),
        ("unix:/run/tf.sock", "unix:/run/tf.sock", False, False),
        ("dns://8.8.8.8/host:8500", "dns://8.8.8.8/host:8500", False, False),
    ],
)
def test_addresses(url: str, target: str, rest: bool, secure: bool) -> None:
    address = parse_address(url)
    assert (address.target, address.rest, address.secure) == (target, rest, secure)


@pytest.mark.parametrize(
    "url",
    ["", " ", "ftp://host", "grpc://", "grpc://host/path", "grpc://host:99999", "grpc://host:x", "grpc://a:1,b:2",
     "http://user:secret@host", "http://host?x=1", "grpc://ho st:1", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"address|scheme|port|path|host"):
        parse_address(url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model is ''"),
        ({"version": 1, "label": "a"}, "exclude each other"),
        ({"version": -1}, "version is -1"),
        ({"version": True}, "version is True"),
        ({"label": "a-b"}, "label is 'a-b'"),
        ({"timeout": 0}, "timeout is 0"),
        ({"compression": "br"}, "compression is 'br'"),
        ({"channels": 0}, "channels is 0"),
        ({"metadata": {"a": "é"}}, "metadata 'a'"),
        ({"tls": TLS()}, "not encrypted"),
    ],
)
def test_impossible_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Client("grpc://localhost:1", options.pop("model", "m"), **options)


def test_a_deadline_of_nothing_is_refused(fake: FakeServing) -> None:
    with Client(fake.grpc_url, "fake") as client, pytest.raises(InputError, match="deadline is 0 seconds"):
        client.embed(["a"], deadline=0)


# ---- TLS


@dataclass(frozen=True)
class Certificates:
    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl(*new, "-x509", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(
            *new, "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", f"/CN={name}", "-addext",
            "subjectAltName=DNS:localhost,DNS:inner.name", "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(folder / name for name in names))


@pytest.fixture(params=[False, True], ids=["tls", "mutual-tls"])
def secured(
    request: pytest.FixtureRequest, serve: Callable[..., FakeServing], certificates: Certificates
) -> tuple[FakeServing, bool]:
    mutual = bool(request.param)
    pair = (certificates.server_key.read_bytes(), certificates.server.read_bytes())
    roots = certificates.ca.read_bytes() if mutual else None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    if mutual:
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    credentials = grpc.ssl_server_credentials([pair], roots, mutual)
    return serve(credentials=credentials, ssl_context=context), mutual


def test_encrypted_and_mutually_authenticated_connections(
    secured: tuple[FakeServing, bool], certificates: Certificates, protocol: str
) -> None:
    fake, mutual = secured
    url = url_of(fake, protocol)
    own = {"cert": certificates.client, "key": certificates.client_key} if mutual else {}
    with Client(url, "fake", tls=TLS(ca=certificates.ca, **own)) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
    named = TLS(ca=certificates.ca, server_name="inner.name", **own)
    with Client(url.replace("localhost", "127.0.0.1"), "fake", tls=named) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))


def test_a_certificate_that_is_not_trusted_ends_the_call(
    secured: tuple[FakeServing, bool], certificates: Certificates, protocol: str
) -> None:
    fake, mutual = secured
    url = url_of(fake, protocol)
    wrong = [TLS(ca=certificates.ca, server_name="other.name"), TLS(), None]
    if mutual:
        wrong.append(TLS(ca=certificates.ca))
    for tls in wrong:
        client = Client(url, "fake", tls=tls, retry=Retry(attempts=2, base=0.01))
        with client, pytest.raises(UnreachableError):
            client.embed(["a"])


def test_certificate_files_are_checked_at_once(certificates: Certificates) -> None:
    with pytest.raises(InputError, match="cert and key belong together"):
        TLS(cert=certificates.client)
    with pytest.raises(InputError, match=r"ca /no/such\.pem is not a file"):
        TLS(ca="/no/such.pem")


# ---- what is sent along


def test_tokens_and_metadata_reach_the_server(serve: Callable[..., FakeServing], protocol: str) -> None:
    fake = serve()
    tokens = iter(["first", "second"])
    with Client(url_of(fake, protocol), "fake", token="secret", metadata={"X-Team": "search"}) as client:
        client.embed(["a"])
    assert fake.seen[-1]["authorization"] == "Bearer secret"
    assert fake.seen[-1]["x-team"] == "search"
    with Client(fake.grpc_url, "fake", token=lambda: next(tokens)) as client:
        client.embed(["a"])
        client.embed(["a"])
    assert [seen["authorization"] for seen in fake.seen[-2:]] == ["Bearer first", "Bearer second"]


def test_refused_credentials_are_not_retried(serve: Callable[..., FakeServing], protocol: str) -> None:
    def refuse(call: int, rows: int) -> None:
        raise RefusedError("UNAUTHENTICATED", "no token")

    fake = serve(before=refuse)
    with Client(url_of(fake, protocol), "fake") as client, pytest.raises(AuthenticationError, match="no token"):
        client.embed(["a"])
    assert fake.calls == 1


def test_compressed_requests_are_smaller_on_the_wire(fake: FakeServing, protocol: str) -> None:
    sizes = []
    for compression in (None, "gzip"):
        proxy = FaultProxy(fake.grpc_port if protocol == "grpc" else fake.rest_port, lambda n: None)
        url = f"{'grpc' if protocol == 'grpc' else 'http'}://localhost:{proxy.port}"
        with Client(url, "fake", compression=compression) as client:
            assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        sizes.append(proxy.asked)
        proxy.close()
    assert sizes[1] < sizes[0] * 0.8


# ---- limits of the server


def test_a_request_above_the_servers_message_limit_is_halved(serve: Callable[..., FakeServing]) -> None:
    fake = serve(max_receive=2000)
    texts = [text * 20 for text in TEXTS]
    with Client(fake.grpc_url, "fake", split=Split(rows=256)) as client:
        assert np.array_equal(client.embed(texts), vectors(texts))
        assert max(fake.rows) <= 16
        calls = fake.calls
        client.embed(texts)
        assert fake.calls - calls <= len(texts) // max(1, client.session.shared.rows or 1) + 1
        with pytest.raises(RequestError, match="larger than max"):
            client.embed(["x" * 5000])


def test_a_servers_largest_batch_is_respected(serve: Callable[..., FakeServing], protocol: str) -> None:
    def limit(call: int, rows: int) -> None:
        if rows > 64:
            raise RefusedError("INVALID_ARGUMENT", f"Task size {rows} is larger than maximum input batch size 64")

    fake = serve(before=limit)
    with Client(url_of(fake, protocol), "fake") as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        assert client.session.shared.rows == 64


def test_an_overloaded_server_gets_less_and_then_everything(serve: Callable[..., FakeServing], protocol: str) -> None:
    def full(call: int, rows: int) -> None:
        if rows > 40 or call < 4:
            raise RefusedError("RESOURCE_EXHAUSTED", "full")

    fake = serve(before=full)
    with Client(url_of(fake, protocol), "fake", retry=Retry(base=0.01, attempts=8)) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))


def test_pushback_is_honoured(serve: Callable[..., FakeServing], protocol: str) -> None:
    seen: list[float] = []

    def later(call: int, rows: int) -> None:
        seen.append(time.monotonic())
        if call == 1:
            extra = {"grpc_retry_pushback_ms": "1000"} if protocol == "grpc" else {"retry_after": "1"}
            raise RefusedError("UNAVAILABLE", "queue is full", **extra)

    fake = serve(before=later)
    with Client(url_of(fake, protocol), "fake") as client:
        client.embed(["a"])
    assert seen[1] - seen[0] >= 1.0

    def never(call: int, rows: int) -> None:
        raise RefusedError("UNAVAILABLE", "queue is full", grpc_retry_pushback_ms="-1")

    if protocol == "grpc":
        fake = serve(before=never)
        with Client(fake.grpc_url, "fake") as client, pytest.raises(OverloadedError):
            client.embed(["a"])
        assert fake.calls == 1


def test_a_hedged_request_overtakes_a_stuck_one(serve: Callable[..., FakeServing], protocol: str) -> None:
    release = threading.Event()

    def stuck(call: int, rows: int) -> None:
        if call == 1:
            release.wait(20)

    fake = serve(before=stuck)
    with Client(url_of(fake, protocol), "fake", hedge=Hedge(0.1)) as client:
        assert np.array_equal(client.embed(["a"]), vectors(["a"]))
        assert not release.is_set()
        assert fake.calls == 2
    release.set()


# ---- several servers


def test_round_robin_uses_all_addresses(serve: Callable[..., FakeServing]) -> None:
    fakes = [serve(), serve()]
    url = "grpc://" + ",".join(f"127.0.0.1:{fake.grpc_port}" for fake in fakes)
    with Client(url, "fake", round_robin=True, split=Split(rows=10)) as client:
        client.embed(["a"])
        time.sleep(0.2)  # the second connection
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        assert min(fake.calls for fake in fakes) >= 10
        fakes[0].stop()
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer("127.0.0.1", "127.0.0.2")
    yield server
    server.close()


def test_a_headless_service_is_balanced_and_resolved_again_when_its_pods_move(
    serve: Callable[..., FakeServing], name_server: NameServer
) -> None:
    first = serve(host="127.0.0.1")
    second = serve(host="127.0.0.2", grpc_port=first.grpc_port)
    url = f"dns://127.0.0.1:{name_server.port}/headless.test:{first.grpc_port}"
    with Client(url, "fake", round_robin=True, split=Split(rows=10), retry=Retry(attempts=30, burst=1000)) as client:
        client.embed(["a"])
        time.sleep(0.2)
        client.embed(TEXTS)
        assert min(first.calls, second.calls) >= 10
        third = serve(host="127.0.0.3", grpc_port=first.grpc_port)
        name_server.addresses = ("127.0.0.3",)
        first.stop()
        second.stop()
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        assert third.calls >= 10


@pytest.fixture
def growing(
    serve: Callable[..., FakeServing], name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> tuple[FakeServing, FakeServing, str]:
    """Two servers behind a name that at first has the first one's address only; names are looked up all the time."""
    monkeypatch.setattr(grpc_transport, "RENEW_SECONDS", 0.2)
    name_server.addresses = ("127.0.0.1",)
    first = serve(host="127.0.0.1")
    second = serve(host="127.0.0.2", grpc_port=first.grpc_port)
    return first, second, f"dns://127.0.0.1:{name_server.port}/headless.test:{first.grpc_port}"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_new_pods_are_found_while_the_old_ones_stay(
    growing: tuple[FakeServing, FakeServing, str], name_server: NameServer
) -> None:
    first, second, url = growing
    with Client(url, "fake", round_robin=True, split=Split(rows=10), retry=Retry(attempts=1)) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        assert second.calls == 0
        name_server.addresses = ("127.0.0.1", "127.0.0.2")
        until(lambda: len(client.embed(TEXTS)) and second.calls >= 10)  # no attempt fails, or this would
        before = first.calls, second.calls
        assert np.array_equal(client.embed(TEXTS * 3), vectors(TEXTS * 3))
        assert min(first.calls - before[0], second.calls - before[1]) >= 20
    # One may just be connecting; it ends by itself.
    until(lambda: all(thread.name != "sentence-serving-renew" for thread in threading.enumerate()))


def test_async_clients_find_new_pods_too(
    growing: tuple[FakeServing, FakeServing, str], name_server: NameServer
) -> None:
    _, second, url = growing

    async def go() -> None:
        async with AsyncClient(url, "fake", round_robin=True, split=Split(rows=10), retry=Retry(attempts=1)) as client:
            await client.embed(TEXTS)
            assert second.calls == 0
            name_server.addresses = ("127.0.0.1", "127.0.0.2")
            while second.calls < 10:
                assert np.array_equal(await client.embed(TEXTS), vectors(TEXTS))

    asyncio.run(asyncio.wait_for(go(), 20))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_under_way_ends_on_the_connection_it_began_on(
    growing: tuple[FakeServing, FakeServing, str], name_server: NameServer, asynchronous: bool
) -> None:
    first, second, url = growing
    released = threading.Event()
    first.before = lambda call, rows: void(released.wait(20)) if rows == 2 else None
    pair = ["slow", "pair"]

    async def slow_and_quick() -> None:
        async with AsyncClient(url, "fake", round_robin=True, retry=Retry(attempts=1)) as client:
            slow = asyncio.create_task(client.embed(pair))
            while not second.calls:
                await client.embed(["quick"])
            released.set()
            assert np.array_equal(await slow, vectors(pair))

    threading.Timer(0.5, lambda: setattr(name_server, "addresses", ("127.0.0.2",))).start()
    if asynchronous:
        asyncio.run(asyncio.wait_for(slow_and_quick(), 20))
    else:
        with Client(url, "fake", round_robin=True, retry=Retry(attempts=1)) as client, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.embed, pair)
            until(lambda: len(client.embed(["quick"])) and second.calls > 0)
            released.set()
            assert np.array_equal(slow.result(20), vectors(pair))


def test_connections_that_work_are_not_given_up_for_addresses_that_do_not_answer(
    growing: tuple[FakeServing, FakeServing, str], name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = growing[2]
    monkeypatch.setattr(grpc_transport, "_CONNECT_SECONDS", 0.3)
    with Client(url, "fake", round_robin=True, retry=Retry(attempts=1)) as client:
        client.embed(TEXTS)
        for addresses in (("127.0.0.9",), ()):
            name_server.addresses = addresses
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert np.array_equal(client.embed(TEXTS[:5]), vectors(TEXTS[:5]))


def test_rest_requests_take_turns_over_all_addresses(
    serve: Callable[..., FakeServing], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve(host="127.0.0.1")
    second = serve(host="127.0.0.2", rest_port=first.rest_port)
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def resolve(self: Any, host: str, port: int, **kwargs: Any) -> list[Any]:
        if host != "headless.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    url = f"http://headless.test:{first.rest_port}"
    with Client(url, "fake", round_robin=True, split=Split(rows=10), retry=Retry(attempts=30)) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        assert min(first.calls, second.calls) >= 10
        assert first.seen[-1]["host"] == f"headless.test:{first.rest_port}"
        first.stop()
        addresses.remove("127.0.0.1")
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))


def test_several_channels_are_for_grpc_only() -> None:
    with pytest.raises(InputError, match="channels"):
        Client("http://localhost:1", "m", channels=2)


def test_several_channels_are_several_connections(serve: Callable[..., FakeServing]) -> None:
    fake = serve()
    with Client(fake.grpc_url, "fake", channels=3, split=Split(rows=10)) as client:
        assert np.array_equal(client.embed(TEXTS), vectors(TEXTS))
        lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        port = f":{fake.grpc_port:04X}"
        rows = [row.split() for row in lines.splitlines()]
        peers = {row[1] for row in rows if row[2].endswith(port) and row[3] == "01"}  # 01: established
    assert len(peers) == 3


# ---- a transport of one's own


class Canned:
    """Answers without a network."""

    def __init__(self, outcome: bytes | Failure) -> None:
        self.outcome, self.requests = outcome, []  # type: ignore[var-annotated]

    def start(self, request: Request, timeout: float, done: Callable[[bytes | Failure], None]) -> Callable[[], None]:
        self.requests.append(request)
        done(self.outcome)
        return lambda: None

    def close(self) -> None:
        self.outcome = b""


def test_the_transport_can_be_replaced() -> None:
    answer = messages.PredictResponse()
    answer.outputs["embedding"].CopyFrom(encode_tensor(np.array([[1.5, 2.5]], np.float32)))
    transport = Canned(answer.SerializeToString())
    with Client("anywhere:1", "m", transport=transport) as client:
        assert client.embed(["a"]).tolist() == [[1.5, 2.5]]
        with pytest.raises(ResponseError, match=r"shape \[1, 2\] for 2 rows"):
            client.embed(["a", "b"])
    assert transport.requests[0].path == "/tensorflow.serving.PredictionService/Predict"
    assert transport.outcome == b""


# ---- processes and event loops


def test_a_forked_child_goes_on_with_the_client_and_leaves_its_parents_connections_alone(
    fake: FakeServing,
) -> None:
    # In a process of its own: this one has threads that do not like to be forked.
    program = f"""
import os, signal, sys
from toolkit.client import Client
client = Client({fake.rest_url!r}, "fake")
client.embed(["a"])
child = os.fork()
signal.alarm(30)
if not child:
    shape = client.embed(["b", "c"]).shape
    client.close()
    os._exit(shape[0])
assert os.waitpid(child, 0)[1] == 2 << 8
assert client.embed(["d"]).shape == (1, 8)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_async_client_says_that_it_belongs_to_one_event_loop(fake: FakeServing, protocol: str) -> None:
    client = AsyncClient(url_of(fake, protocol), "fake")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(client.embed(["a"])).shape == (1, 8)
        with pytest.raises(InputError, match="belongs to the event loop of its first use"):
            second.run(client.embed(["a"]))
        with pytest.raises(InputError, match="belongs to the event loop of its first use"):
            second.run(client.close())
        first.run(client.close())
        first.run(client.close())
    client = AsyncClient(url_of(fake, protocol), "fake")
    asyncio.run(client.embed(["a"]))
    with pytest.raises(InputError, match="belongs to the event loop of its first use"):
        asyncio.run(client.embed(["a"]))
    asyncio.run(client.close())


def test_closing_in_a_forked_child_ends_nothing_of_its_parents(fake: FakeServing) -> None:
    program = f"""
import os, signal
from toolkit.client import Client
client = Client({fake.rest_url!r}, "fake")
client.embed(["a"])
child = os.fork()
signal.alarm(30)
if not child:
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert client.embed(["d"]).shape == (1, 8)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- interrupts


def test_an_interrupt_while_a_call_starts_comes_once_it_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def interrupted(self: Any, path: str) -> Any:
        def future(*args: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # as much Python as a signal needs to be noticed
                pass
            made.append(self.all[0].unary_unary(path).future(*args, **options))
            return made[-1]

        return SimpleNamespace(future=future)

    monkeypatch.setattr(grpc_transport._Channels, "method", interrupted)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(KeyboardInterrupt), Client(url, "fake") as client:
            client.embed(["a"])
    assert made[0].code() is grpc.StatusCode.CANCELLED


def test_outside_the_main_thread_and_where_sigint_is_ignored_nothing_is_put_off() -> None:
    handlers: list[Any] = []

    def look() -> None:
        with interrupts_later():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        look()
    finally:
        signal.signal(signal.SIGINT, before)
    assert handlers == [before, signal.SIG_IGN]
