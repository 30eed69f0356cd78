"""What a failed attempt means: statuses of gRPC and HTTP to one `Failure`, with the error class and what may be done.

Predict has no side effects, so sending it again is always safe; it is useful only for failures that can pass.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from toolkit.errors import (
    AuthenticationError,
    ClientError,
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    ResponseError,
    SignatureError,
    UnreachableError,
)

__all__ = ["Failure", "connection_failure", "grpc_failure", "http_failure"]


@dataclass(frozen=True)
class Failure:
    """One failed attempt. ``retry``: it may pass by itself. ``split``: fewer rows may pass. ``limit``: the number of
    rows the server named as its largest. ``pushback``: seconds the server asks to wait. ``broke``: the connection ended
    while the server had the request, which may be what ended the server."""

    error: type[ClientError]
    message: str
    retry: bool = False
    split: bool = False
    limit: int | None = None
    pushback: float | None = None
    broke: bool = False


_BROKE = "[Ss]ocket closed|[Rr]eset by peer|[Bb]roken pipe|EOF|Stream removed|before headers.*connection termination"

# (code, pattern in the details, what it means); the first match counts. gRPC's codes by name, HTTP's by number.
_RULES: tuple[tuple[str, str, Failure], ...] = (
    ("INVALID_ARGUMENT|400", "larger than maximum input batch size (\\d+)", Failure(RequestError, "", split=True)),
    ("INVALID_ARGUMENT|400", "Unrecognized servable version label", Failure(ModelNotFoundError, "")),
    ("FAILED_PRECONDITION|INVALID_ARGUMENT|400", "Serving signature (key|name)", Failure(SignatureError, "")),
    ("NOT_FOUND|404", "", Failure(ModelNotFoundError, "")),
    ("RESOURCE_EXHAUSTED", "message (is )?larger than", Failure(RequestError, "", split=True)),
    ("RESOURCE_EXHAUSTED|429", "", Failure(OverloadedError, "", retry=True, split=True)),
    ("413", "", Failure(RequestError, "", split=True)),
    ("UNAVAILABLE", "[Ss]sl|SSL|CERTIFICATE|certificate|handshake", Failure(UnreachableError, "")),
    ("UNAVAILABLE", "queue|overload|exceed|busy", Failure(OverloadedError, "", retry=True)),
    ("UNAVAILABLE", "failed to connect|connections to all backends", Failure(UnreachableError, "", retry=True)),
    ("UNAVAILABLE|INTERNAL|UNKNOWN", _BROKE, Failure(UnreachableError, "", retry=True, broke=True)),
    ("UNAVAILABLE|CANCELLED|502", "", Failure(UnreachableError, "", retry=True)),
    (
        "INTERNAL|UNKNOWN",
        "RST_STREAM|GOAWAY|[Ss]tream (removed|error|closed)|reset|EOF|http2",
        Failure(UnreachableError, "", retry=True),
    ),
    ("503|ABORTED", "", Failure(OverloadedError, "", retry=True)),
    ("DEADLINE_EXCEEDED|408|504", "", Failure(DeadlineError, "", retry=True)),
    ("UNAUTHENTICATED|PERMISSION_DENIED|401|403|407", "", Failure(AuthenticationError, "")),
    ("INVALID_ARGUMENT|FAILED_PRECONDITION|OUT_OF_RANGE|400|411|415|422", "", Failure(RequestError, "")),
)


def _judge(code: str, details: str, pushback: float | None) -> Failure:
    for codes, pattern, failure in _RULES:
        match = re.search(pattern, details) if code in codes.split("|") else None
        if match:
            limit = int(match[1]) if pattern.endswith("(\\d+)") else None
            return replace(failure, message=f"{code}: {details}" if details else code, limit=limit, pushback=pushback)
    return Failure(ResponseError, f"{code}: {details}" if details else code)


def grpc_failure(code: str, details: str, trailers: Mapping[str, str]) -> Failure:
    """The failure of a gRPC status: its name, its details, the call's trailing metadata."""
    pushback: float | None = None
    refused = False
    if "grpc-retry-pushback-ms" in trailers:
        # A negative or unreadable value means: do not send again (gRFC A6).
        value = trailers["grpc-retry-pushback-ms"]
        refused = not re.fullmatch(r"\d{1,9}", value)
        pushback = None if refused else int(value) / 1000
    if re.search("http1.x server|Failed parsing HTTP/2", details):
        hint = "; if this is a REST port, use http://"
        return Failure(UnreachableError, f"{code}: {details}{hint}", retry=True)
    failure = _judge(code, details, pushback)
    return replace(failure, retry=False) if refused else failure


def http_failure(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """The failure of an HTTP answer other than 200; TF Serving puts the reason in ``{"error": ...}``."""
    try:
        details = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        details = ""
    if status == 404 and not details:
        return Failure(ResponseError, "404: there is no TF Serving REST API at this address")
    return _judge(str(status), details, _retry_after(headers.get("retry-after")))


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def connection_failure(message: str, *, timeout: bool = False, final: bool = False, broke: bool = False) -> Failure:
    """A failure without a status: no connection, or one that ``broke``. ``final``: sending again cannot help."""
    return Failure(DeadlineError if timeout else UnreachableError, message, retry=not final, broke=broke)
