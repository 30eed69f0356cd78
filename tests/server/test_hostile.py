"""No request ends the server, whatever its form: servers in processes of their own, whose exit code is looked at."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from marks import long
from serving_support import GOLDEN, ended, serving, text_request

FIRST_JAVA_REQUEST = (
    "POST {path} HTTP/1.1\r\n"
    "Connection: Upgrade, HTTP2-Settings\r\n"
    "Content-Length: {length}\r\n"
    "Host: {host}\r\n"
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    "Upgrade: h2c\r\n"
    "User-Agent: Java-http-client/21.0.4\r\n"
    "Content-Type: application/json\r\n"
    "\r\n"
)


def answers(connection: socket.socket, count: int) -> list[tuple[int, Any]]:
    """Status and JSON of the next ``count`` answers on a connection."""
    found = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            size = 0
            while line := stream.readline().strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            found.append((status, json.loads(stream.read(size))))
    return found


def test_offers_of_another_protocol_cost_a_request_nothing() -> None:
    """What Java's ``HttpClient`` sends first: an offer of h2c, which TF Serving does not look at either."""
    body = b'{"instances": ["ab"]}'
    path = "/v1/models/echo:predict"
    right = (200, {"predictions": [[2.0, 1.0, 3.0]]})
    with serving(str(GOLDEN / "models")) as (process, addresses):
        address = urlsplit(addresses["rest"])
        head = FIRST_JAVA_REQUEST.format(path=path, length=len(body), host=address.netloc).encode()
        chunked = head.replace(f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked")
        in_chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
        websocket = head.replace(b"h2c", b"websocket").replace(b"Upgrade, HTTP2-Settings", b"keep-alive, Upgrade")
        plain = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for parts, count in (
            ([head + body], 1),
            ([head, body[:3], body[3:]], 1),
            ([head[:70], head[70:] + body, plain], 2),
            ([chunked + in_chunks + plain], 2),
            ([chunked, in_chunks[:9], in_chunks[9:]], 1),
            ([websocket + body], 1),
            ([(head + body) * 3 + plain], 4),
        ):
            with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in parts:
                    connection.sendall(part)
                assert answers(connection, count) == [right] * count
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(
                b"GET /v1/models/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            )
            assert answers(connection, 1)[0][0] == 200
        assert ended(process) == 0


def ask_grpc(channel: grpc.Channel, request: Any) -> tuple[str, str]:
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        call(request.SerializeToString(), timeout=30)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize("batched", [False, *long(True)])
def test_texts_in_a_wrong_shape_are_refused_in_the_same_words_over_both_apis(
    tiny_export: Path, tmp_path: Path, batched: bool
) -> None:
    """They ended the process, or were answered with the vectors of other texts."""
    folder = tiny_export.parent
    if not batched:  # a model of somebody else's, with the same kernels
        folder = shutil.copytree(folder, tmp_path / folder.name)
        (folder / tiny_export.name / "assets.extra" / "provenance.json").unlink()
    url = f"/v1/models/{folder.name}:predict"
    wrong: list[tuple[tuple[int, ...], Any]] = [
        ((), "a"), ((1, 0), [[]]), ((2, 0), [[], []]), ((2, 2), [["a", "b"], ["c", "d"]]), ((1, 1, 1), [[["a"]]])
    ]  # fmt: skip
    with serving(str(folder.parent), *(["--enable_batching"] if batched else [])) as (process, addresses):
        with grpc.insecure_channel(addresses["grpc"]) as channel, httpx.Client(base_url=addresses["rest"]) as http:
            for signature in ("", "detailed", "tokenize", "token_embeddings"):
                for shape, values in wrong:
                    request = text_request(b"a", b"b", b"c", b"d", model=folder.name, signature=signature)
                    tensor = request.inputs["text"]
                    del tensor.tensor_shape.dim[:]
                    for size in shape:
                        tensor.tensor_shape.dim.add(size=size)
                    said = f"assertion failed: [text must have the shape [batch], not] [{' '.join(map(str, shape))}]"
                    if batched and shape == () and signature in ("", "detailed"):
                        said = "Batching Run() input tensors must have at least one dimension"
                    assert ask_grpc(channel, request) == ("INVALID_ARGUMENT", said)
                    reply = http.post(url, json={"signature_name": signature, "inputs": values})
                    assert (reply.status_code, reply.json()) == (400, {"error": said})
            tokens = {"input_ids": [[1]], "attention_mask": [1], "token_type_ids": [[[1]]]}
            reply = http.post(url, json={"signature_name": "embed_tokens", "inputs": tokens})
            said = "assertion failed: [attention_mask must have the shape [batch, length], not] [1]"
            assert (reply.status_code, reply.json()) == (400, {"error": said})
            assert http.post(url, json={"instances": [["a column is taken"]]}).status_code == 200
        assert ended(process) == 0
