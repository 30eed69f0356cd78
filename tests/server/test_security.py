"""TLS, mutual TLS and bearer tokens, on both APIs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_support import GOLDEN, text_request
from tensorflow_serving.apis import prediction_service_pb2_grpc

from toolkit.errors import ServerError

StartServer = Any

MODELS = GOLDEN / "models"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_config(folder: Path, authority: trustme.CA, *, mutual: bool) -> Path:
    """An ``ssl_config_file`` for localhost with PEM inline."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    fields = {
        "server_key": certificate.private_key_pem.bytes(),
        "server_cert": certificate.cert_chain_pems[0].bytes(),
        "custom_ca": authority.cert_pem.bytes(),
    }
    text = "".join(f"{name}: {value.decode()!r}\n" for name, value in fields.items())
    file = folder / "ssl.config"
    file.write_text(text + f"client_verify: {str(mutual).lower()}\n")
    return file


def predict(channel: grpc.Channel, **options: Any) -> list[float]:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answer = stub.Predict(text_request(b"ab"), timeout=10, **options)
    return list(answer.outputs["embedding"].float_val)


def test_tls_serves_both_apis_and_no_plain_ones(start_server: StartServer, tmp_path: Path, authority: Any) -> None:
    server = start_server(models_dir=MODELS, ssl_config_file=tls_config(tmp_path, authority, mutual=False))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        assert predict(channel) == [2.0, 1.0, 3.0]
    with grpc.insecure_channel(f"localhost:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        predict(channel)
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    url = f"localhost:{server.rest_port}/v1/models/echo"
    assert httpx.get(f"https://{url}", verify=context).status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{url}")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://{url}")  # the authority is not known to this client


def test_mutual_tls_wants_a_certificate_of_the_authority(
    start_server: StartServer, tmp_path: Path, authority: trustme.CA
) -> None:
    server = start_server(models_dir=MODELS, ssl_config_file=tls_config(tmp_path, authority, mutual=True))
    url = f"https://localhost:{server.rest_port}/v1/models/echo"
    for issuer, welcome in ((authority, True), (trustme.CA(), False), (None, False)):
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        key = chain = None
        if issuer is not None:
            client = issuer.issue_cert("client")
            client.configure_cert(context)
            key, chain = client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            if welcome:
                assert predict(channel) == [2.0, 1.0, 3.0]
                assert httpx.get(url, verify=context).status_code == 200
            else:
                with pytest.raises(grpc.RpcError):
                    predict(channel)
                with pytest.raises(httpx.HTTPError):
                    httpx.get(url, verify=context)


def test_rest_can_stay_plain_as_tf_servings(start_server: StartServer, tmp_path: Path, authority: Any) -> None:
    file = tls_config(tmp_path, authority, mutual=False)
    server = start_server(models_dir=MODELS, ssl_config_file=file, rest_tls=False)
    assert httpx.get(f"http://127.0.0.1:{server.rest_port}/v1/models/echo").status_code == 200


def test_keys_that_do_not_fit_are_refused_at_the_start(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "ssl.config"
    file.write_text('server_key: "no key" server_cert: "no certificate"')
    with pytest.raises(ServerError):
        start_server(models_dir=MODELS, ssl_config_file=file)


def test_requests_need_one_of_the_bearer_tokens(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("first-token\n\nsecond-token\n")
    server = start_server(models_dir=MODELS, auth_token_file=file)
    url = f"http://127.0.0.1:{server.rest_port}"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for value, welcome in (
            ("Bearer first-token", True),
            ("bearer second-token", True),
            ("Bearer second-token2", False),
            ("Basic first-token", False),
            ("", False),
        ):
            headers = {"authorization": value} if value else {}
            for path in ("/v1/models/echo", "/monitoring/prometheus/metrics", "/v1/models/echo/metadata"):
                answer = httpx.get(url + path, headers=headers)
                assert answer.status_code == (200 if welcome else 401)
                if not welcome:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.json() == {"error": "A valid bearer token is required"}
            if welcome:
                assert predict(channel, metadata=[("authorization", value)]) == [2.0, 1.0, 3.0]
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    predict(channel, metadata=[("authorization", value)] if value else [])
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        # A probe has no token, and learns nothing but readiness.
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_token_file_without_a_token_is_refused(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ServerError, match="holds no token"):
        start_server(models_dir=MODELS, auth_token_file=tmp_path / "empty")
    with pytest.raises(ServerError, match="No such file"):
        start_server(models_dir=MODELS, auth_token_file=tmp_path / "none")
