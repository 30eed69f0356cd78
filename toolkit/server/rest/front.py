"""The REST API as an ASGI application: TF Serving's paths, bodies and statuses.

The event loop reads requests and writes answers; the work between, from JSON to JSON, is done on a pool of threads.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from toolkit.server.grpc.front import bearer
from toolkit.server.models.servable import DEFAULT_SIGNATURE, Servable
from toolkit.server.options import ServerOptions
from toolkit.server.requests import examples
from toolkit.server.requests.core import Admission, Core, ModelRef
from toolkit.server.requests.metadata import metadata_json, status_json
from toolkit.server.requests.status import HTTP_STATUS, Code, ServingError, invalid
from toolkit.server.rest.exampletext import classify_body, classify_json, regress_body, regress_json
from toolkit.server.rest.jsontensor import predict_body
from toolkit.server.rest.jsontext import error_body, tensors_to_columns, tensors_to_rows
from toolkit.server.watching.accesslog import AccessLog
from toolkit.server.watching.metrics import Run

__all__ = ["RestFront"]

_API = re.compile(rb"(?i)/v1/.*", re.DOTALL)
_PREDICTION = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
_STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")
_NOT_FOUND = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
_COMPRESS_FROM = 1024  # bytes; a smaller answer is sent as it is

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    code: Code = Code.OK
    model: str = ""
    error: str = ""


@dataclass
class _Caller:
    """Whether the one who asked still waits for the answer: told by the event loop to the thread at work for it."""

    waits: bool = True


class _GoneError(Exception):
    """The client went away before its request was answered."""


class RestFront:
    """An ASGI application that serves a `Core`. ``metrics_path`` empty: no metrics page."""

    def __init__(
        self,
        core: Core,
        options: ServerOptions,
        log: AccessLog,
        metrics_path: str,
        tokens: Sequence[bytes] = (),
    ) -> None:
        self._core = core
        self._log = log
        self._metrics_path = metrics_path.encode()
        self._tokens = tokens
        self.admission = Admission(options.rest_api_max_concurrent_calls)
        self._limit = options.max_message_bytes
        self._timeout = options.rest_api_timeout_in_ms / 1000
        self._cors = options.rest_api_enable_cors_support
        self._pool = ThreadPoolExecutor(options.rest_api_num_threads, thread_name_prefix="rest")

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        method = scope["method"]
        raw = scope["raw_path"]
        path: bytes = raw + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = dict(scope["headers"])
        size = 0
        try:
            self._authenticate(headers)
            body = await self._body(headers, receive)
            size = len(body)
            reply = await self._reply(method, path, raw, body, receive)
        except ServingError as error:
            status = 413 if error.code is Code.OUT_OF_RANGE else HTTP_STATUS[error.code]
            extra = [(b"www-authenticate", b"Bearer")] if status == 401 else []
            reply = Reply(status, error_body(error.message), headers=extra, code=error.code, error=error.message)
        except _GoneError:
            return
        if self._log.enabled:
            self._log.write(
                api="REST", method=f"{method} {path.decode('latin-1')}", model=reply.model, code=str(reply.status),
                seconds=time.perf_counter() - started, bytes=size, peer=_peer(scope), error=reply.error,
            )  # fmt: skip
        await self._send(send, reply, headers, method)

    # -- transport ----------------------------------------------------------------------------------------------------

    def _authenticate(self, headers: dict[bytes, bytes]) -> None:
        if self._tokens and not bearer(headers.get(b"authorization", b""), self._tokens):
            raise ServingError(Code.UNAUTHENTICATED, "A valid bearer token is required")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        # OUT_OF_RANGE stands for "413 Content Too Large" here: it occurs nowhere else before a model is asked.
        too_large = ServingError(Code.OUT_OF_RANGE, f"The request is larger than {self._limit} bytes")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limit:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ServingError(Code.DEADLINE_EXCEEDED, "The request's body did not arrive in time") from None
        body = b"".join(parts)
        if headers.get(b"content-encoding", b"").lower() == b"gzip":
            body = _gunzip(body, self._limit, too_large)
        return body

    async def _send(self, send: Send, reply: Reply, headers: dict[bytes, bytes], method: str) -> None:
        body = reply.body
        out = [(b"content-type", reply.content_type.encode()), *reply.headers]
        if self._cors:
            out += _CORS
        if len(body) >= _COMPRESS_FROM and _takes_gzip(headers.get(b"accept-encoding", b"")):
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(self._pool, lambda: gzip.compress(body, 1, mtime=0))
            out += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
        out.append((b"content-length", str(len(body)).encode()))
        if self._core.draining:
            out.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": out})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _reply(self, method: str, path: bytes, raw: bytes, body: bytes, receive: Receive) -> Reply:
        if self._metrics_path and raw == self._metrics_path:
            return Reply(200, self._core.metrics.page(), "text/plain")
        if not _API.fullmatch(path):
            return Reply(404, _NOT_FOUND, "text/html", code=Code.NOT_FOUND)
        if method == "OPTIONS":
            if self._cors:
                return Reply(200, b"")
            return Reply(400, b"", "text/html; charset=ISO-8859-1", code=Code.INVALID_ARGUMENT)
        caller = _Caller()
        with self.admission:
            work = self._pool.submit(self._work, method, path.decode("latin-1"), body, caller)
            result = asyncio.wrap_future(work)
            watch = asyncio.ensure_future(_leaves(receive))
            watch.add_done_callback(lambda _: result.cancel())
            try:
                return await asyncio.wait_for(result, self._timeout)
            except TimeoutError:
                raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification") from None
            except asyncio.CancelledError:
                if watch.done():
                    raise _GoneError from None
                raise
            finally:
                caller.waits = False  # work that has not begun was taken from the threads; what has is told
                watch.cancel()

    # -- requests (on a thread) ---------------------------------------------------------------------------------------

    def _work(self, method: str, path: str, body: bytes, caller: _Caller) -> Reply:
        started = time.perf_counter()
        model, api, code, text, answer = "", "", Code.OK, "", b""
        run: Run | None = None
        try:
            match = _PREDICTION.fullmatch(path) if method == "POST" else None
            if method == "GET":
                match = _STATUS.fullmatch(path)
            version = _version(match)
            if match is None:
                raise invalid(f"Malformed request: {method} {path}")
            model = _decoded(match[1])
            api = match[4] or ""
            ref = ModelRef(model, version, _decoded(match[3]) if match[3] else None)
            if method == "GET":
                answer = self._about(ref, metadata=api == "metadata")
            else:
                answer, run = self._infer(ref, api, path, body, caller)
        except _BadVersionError:
            return Reply(400, b"", code=Code.INVALID_ARGUMENT)
        except ServingError as error:
            code, text = error.code, error.message
        except RecursionError:
            code, text = Code.INVALID_ARGUMENT, "JSON Parse error: nested too deeply"
        except Exception as error:
            self._log.exception(f"{method} {path}")
            code, text = Code.INTERNAL, f"{type(error).__name__} in {api or method}"
        if method == "POST":
            self._core.count(model, api.capitalize(), "REST", code, started, run)
        if code is not Code.OK:
            answer = error_body(text)
        return Reply(HTTP_STATUS[code], answer, code=code, model=model, error=text)

    def _about(self, ref: ModelRef, *, metadata: bool) -> bytes:
        if not ref.name:
            raise invalid("Missing model name in request.")
        if metadata:
            if self._core.draining:
                raise ServingError(Code.UNAVAILABLE, "The server is shutting down")
            with self._core.leased(ref) as servable:
                return metadata_json(servable)
        return status_json(self._core.manager.status(ref.name, ref.version))

    def _infer(self, ref: ModelRef, api: str, path: str, body: bytes, caller: _Caller) -> tuple[bytes, Run | None]:
        match api:
            case "predict":
                return self._predict(ref, body, caller)
            case "classify":
                response, run = examples.classify(self._core, classify_body(ref, body))
                return classify_json(response), run
            case "regress":
                response, run = examples.regress(self._core, regress_body(ref, body))
                return regress_json(response), run
            case _:
                raise invalid(f"Malformed request: POST {path}")

    def _predict(self, ref: ModelRef, body: bytes, caller: _Caller) -> tuple[bytes, Run | None]:
        servable: Servable | None = None

        def inputs_of(name: str) -> Mapping[str, str]:
            # The model is looked for only once the JSON is known to be sound: the order of TF Serving's errors.
            nonlocal servable
            servable = self._core.manager.lease(ref.name, ref.version, ref.label)
            signature = servable.signature(name)
            if signature is None:
                raise invalid(f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def')
            return signature.input_types

        try:
            request = predict_body(body, inputs_of)
            assert servable is not None
            answer = self._core.predict(
                servable,
                request.signature_name,
                request.inputs.keys(),
                lambda: request.inputs,
                awaited=lambda: caller.waits,
            )
            form = tensors_to_rows if request.form == "rows" else tensors_to_columns
            text = form(answer.outputs)
        finally:
            if servable is not None:
                servable.release()
        return text, answer.run


class _BadVersionError(Exception):
    """A version number that does not fit; TF Serving answers 400 with an empty body."""


def _version(match: re.Match[str] | None) -> int | None:
    if match is None or match[2] is None:
        return None
    if int(match[2]) >= 1 << 63:
        raise _BadVersionError
    return int(match[2])


def _decoded(text: str | None) -> str:
    return unquote_to_bytes((text or "").encode("latin-1")).decode("utf-8", "replace")


async def _leaves(receive: Receive) -> None:
    """Returns when the client goes away; ``receive`` has given the whole request by now."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _gunzip(body: bytes, limit: int, too_large: ServingError) -> bytes:
    """The content of a gzip body; nothing if it is not gzip or not whole, as TF Serving."""
    engine = zlib.decompressobj(wbits=31)
    try:
        content = engine.decompress(body, limit + 1)
    except zlib.error:
        return b""
    if len(content) > limit:
        raise too_large
    return content if engine.eof else b""


def _takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding header asks for gzip: by its name, and not with a weight of 0."""
    for item in accepted.lower().split(b","):
        name, _, parameters = item.partition(b";")
        if name.strip() == b"gzip":
            return not re.fullmatch(rb"\s*q\s*=\s*0(\.0*)?\s*", parameters)
    return False


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""
