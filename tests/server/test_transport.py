"""How bodies and answers travel: compressed or not, over IPv4 and IPv6."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import grpc
import httpx
import pytest
from serving_support import GOLDEN, text_request

from toolkit.server import Server

StartServer = Any

HTTP = httpx.Client(verify=False, timeout=30)  # one for all: making a client takes longer than a request


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.rest_port}/v1/models/echo:predict"


def test_gzip_that_is_cut_short_is_no_document(golden_server: Server) -> None:
    whole = gzip.compress(b'{"instances": ["ab"]}' + b" " * 3000)
    for size in (len(whole) - 1, len(whole) - 9, 12):
        answer = HTTP.post(url(golden_server), content=whole[:size], headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()) == (400, {"error": "JSON Parse error: The document is empty"})
    assert HTTP.post(url(golden_server), content=whole, headers={"content-encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("br;q=1, GZIP ; q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000, br", None),
        ("xgzip", None),
        ("identity", None),
    ],
)
def test_answers_are_compressed_only_where_that_is_wanted(
    golden_server: Server, accepted: str, encoding: str | None
) -> None:
    body = {"instances": ["ab"] * 500}
    answer = HTTP.post(url(golden_server), json=body, headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert len(answer.json()["predictions"]) == 500


def test_an_ipv6_address_is_taken_with_and_without_brackets(start_server: StartServer) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    for host in ("::1", "[::1]"):
        server = start_server(models_dir=GOLDEN / "models", host=host)
        with grpc.insecure_channel(f"[::1]:{server.grpc_port}") as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            assert call(text_request(b"ab").SerializeToString(), timeout=20)
        assert httpx.post(
            f"http://[::1]:{server.rest_port}/v1/models/echo:predict", json={"instances": ["a"]}
        ).is_success
