"""Too much, too long, too slow, broken off or malformed: a right status, and the server serves on."""

from __future__ import annotations

import gzip
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_support import GOLDEN, golden_options, text_request, wait_until
from tensorflow_serving.apis import prediction_service_pb2_grpc

from toolkit.server import Server

StartServer = Any

HTTP = httpx.Client(verify=False, timeout=30)  # one for all: making a client takes longer than a request

EVERY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def url(server: Server, model: str = "echo") -> str:
    return f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict"


def raw(server: Server, method: str, body: bytes, timeout: float = 20) -> bytes:
    """A gRPC call with any bytes as its message."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        reply: bytes = channel.unary_unary(f"/tensorflow.serving.{method}")(body, timeout=timeout)
        return reply


def serves(server: Server) -> bool:
    return httpx.post(url(server), json={"instances": ["ab"]}).status_code == 200


def test_messages_over_the_limit_are_refused_on_both_apis(start_server: StartServer) -> None:
    server = start_server(models_dir=GOLDEN / "models", max_message_bytes=1000)
    with pytest.raises(grpc.RpcError) as caught:
        raw(server, "PredictionService/Predict", text_request(b"x" * 2000).SerializeToString())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    big = json.dumps({"instances": ["x" * 2000]}).encode()
    small = {"content-encoding": "gzip"}
    for answer in (
        httpx.post(url(server), content=big),
        httpx.post(url(server), content=(big[at : at + 500] for at in range(0, len(big), 500))),
        httpx.post(url(server), content=gzip.compress(big), headers=small),
    ):
        assert answer.status_code == 413
        assert answer.json() == {"error": "The request is larger than 1000 bytes"}
    assert serves(server)


def test_rows_over_the_limit_are_refused(start_server: StartServer) -> None:
    server = start_server(models_dir=GOLDEN / "models", max_rows=2)
    answer = httpx.post(url(server), json={"instances": ["a", "b", "c"]})
    assert (answer.status_code, answer.json()["error"]) == (400, "The request has 3 rows; at most 2 are accepted")
    with pytest.raises(grpc.RpcError) as caught:
        raw(server, "PredictionService/Predict", text_request(b"a", b"b", b"c").SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_calls_over_the_limit_are_refused_and_the_others_answered(start_server: StartServer, slow_model: Path) -> None:
    server = start_server(model_base_path=slow_model, grpc_max_threads=2, rest_api_max_concurrent_calls=2)
    request = text_request(b"", model="default")
    del request.inputs["text"]
    steps = request.inputs["steps"]
    steps.dtype = 1
    steps.tensor_shape.dim.add(size=1)
    steps.float_val.append(20000)
    body = request.SerializeToString()

    def over_grpc(_: int) -> str:
        try:
            raw(server, "PredictionService/Predict", body, timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def over_rest(_: int) -> int:
        return httpx.post(url(server, "default"), json={"instances": [20000.0]}, timeout=60).status_code

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(over_grpc, range(10))) == {"OK", "RESOURCE_EXHAUSTED"}
        assert set(pool.map(over_rest, range(10))) == {200, 429}


def test_thousand_concurrent_calls_against_small_limits_crash_nothing_and_mix_no_rows(
    start_server: StartServer,
) -> None:
    server = start_server(models_dir=GOLDEN / "models", grpc_max_threads=4, rest_api_num_threads=2)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(text_request(b"x" * size, b"y"), timeout=60) for size in range(1000)]
        codes = set()
        for size, call in enumerate(calls):
            codes.add(call.code())
            if call.code() is grpc.StatusCode.OK:
                values = list(call.result().outputs["embedding"].float_val)
                assert [values[0], values[3]] == [size, 1]
    assert grpc.StatusCode.OK in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert server._grpc is not None
    wait_until(lambda: server._grpc.admission.calls == 0)  # type: ignore[union-attr]
    assert serves(server)


def test_rest_request_that_takes_too_long_gets_504(start_server: StartServer, slow_model: Path) -> None:
    server = start_server(model_base_path=slow_model, rest_api_timeout_in_ms=200)
    answer = httpx.post(url(server, "default"), json={"instances": [60000.0]}, timeout=60)
    assert (answer.status_code, answer.json()) == (504, {"error": "Timed out waiting for notification"})
    wait_until(lambda: httpx.post(url(server, "default"), json={"instances": [1.0]}, timeout=60).status_code == 200)


def test_run_over_the_servers_own_deadline_is_ended(start_server: StartServer, slow_model: Path) -> None:
    server = start_server(model_base_path=slow_model, max_deadline_seconds=0.2)
    answer = httpx.post(url(server, "default"), json={"instances": [1e6]}, timeout=60)
    assert answer.status_code == 504
    assert httpx.post(url(server, "default"), json={"instances": [1.0]}, timeout=60).status_code == 200


def test_client_that_gives_up_or_dribbles_blocks_nobody(start_server: StartServer, slow_model: Path) -> None:
    server = start_server(model_base_path=slow_model, rest_api_num_threads=1, rest_api_timeout_in_ms=1000)
    address = ("127.0.0.1", server.rest_port or 0)
    dribblers = []
    for _ in range(20):  # announce a body, never send all of it
        dribbler = socket.create_connection(address)
        dribbler.sendall(b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        dribblers.append(dribbler)
    for _ in range(5):  # send all, and go away
        quitter = socket.create_connection(address)
        body = b'{"instances": [1.0]}'
        quitter.sendall(b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + body)
        quitter.close()
    assert httpx.post(url(server, "default"), json={"instances": [1.0]}, timeout=20).status_code == 200
    dribblers[0].settimeout(20)
    assert b"504" in dribblers[0].recv(100), "a body that does not arrive in time ends the request"
    for dribbler in dribblers:
        dribbler.close()
    with pytest.raises(grpc.RpcError) as caught:
        raw(server, "PredictionService/Predict", _steps(200000), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert httpx.post(url(server, "default"), json={"instances": [1.0]}, timeout=20).status_code == 200


def _steps(count: float) -> bytes:
    request = text_request(b"", model="default")
    del request.inputs["text"]
    steps = request.inputs["steps"]
    steps.dtype = 1
    steps.tensor_shape.dim.add(size=1)
    steps.float_val.append(count)
    return bytes(request.SerializeToString())


@EVERY
@given(st.binary(max_size=200))
def test_any_bytes_as_a_grpc_message_get_a_status(golden_server: Server, body: bytes) -> None:
    for method in ("PredictionService/Predict", "PredictionService/GetModelMetadata"):
        with pytest.raises(grpc.RpcError) as caught:
            raw(golden_server, method, body)
        assert caught.value.code() in (
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        )
        assert "Traceback" not in caught.value.details()


@EVERY
@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_grpc_messages_get_an_answer_or_a_status(golden_server: Server, at: int, byte: int) -> None:
    body = bytearray(text_request(b"hello", b"world" * 30, signature="detailed").SerializeToString())
    body[at % len(body)] = byte
    try:
        raw(golden_server, "PredictionService/Predict", bytes(body))
    except grpc.RpcError as error:
        wrong = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
        assert error.code() not in wrong  # noqa: PT017 - an answer is right too


@EVERY
@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br"]))
def test_any_bytes_as_a_rest_body_get_a_json_error(golden_server: Server, body: bytes, encoding: str) -> None:
    for method in ("predict", "classify", "regress"):
        answer = HTTP.post(
            f"http://127.0.0.1:{golden_server.rest_port}/v1/models/echo:{method}",
            content=body,
            headers={"content-encoding": encoding} if encoding else {},
        )
        assert answer.status_code == 400
        assert answer.json().keys() == {"error"}


@EVERY
@given(st.text(alphabet="/v1models:echopredict versions labels%2F?x=\x00", max_size=40))
def test_any_path_gets_a_status(golden_server: Server, path: str) -> None:
    target = httpx.URL(f"http://127.0.0.1:{golden_server.rest_port}").copy_with(
        raw_path=b"/v1/" + path.replace(" ", "%20").replace("\x00", "%00").encode()
    )
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        answer = HTTP.request(method, target, content=b"{}")
        assert 400 <= answer.status_code < 500 or (method == "GET" and answer.status_code == 200)


def test_server_serves_on_after_all_that(golden_server: Server) -> None:
    assert serves(golden_server)


def test_deeply_nested_and_endless_json_is_refused(golden_server: Server) -> None:
    for body in (b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}", b"[" * 10**6, b'{"instances":[' + b'{"a":' * 10**5):
        answer = httpx.post(url(golden_server), content=body, timeout=30)
        assert answer.status_code == 400


@pytest.mark.long
def test_memory_stays_flat_over_thousands_of_requests(start_server: StartServer, tmp_path: Path) -> None:
    """A scaled-down run; ``benchmarks/server.py memory`` makes the full one."""
    server = Server(golden_options(tmp_path))
    body = text_request(*[b"some text"] * 16, signature="detailed").SerializeToString()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def burst(count: int) -> None:
            for start in range(0, count, 100):
                for future in [call.future(body) for _ in range(start, start + 100)]:
                    while future.exception() is not None:  # over the limit on calls
                        time.sleep(0.01)
                        future = call.future(body)

        burst(3000)
        before = resident()
        burst(6000)
        assert resident() - before < 20e6
