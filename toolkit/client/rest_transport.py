"""The REST transport, async; the sync client runs it on a loop of its own."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from typing import Any

import httpx

from toolkit._version import __version__
from toolkit.client.address import Address
from toolkit.client.failures import connection_failure, http_failure
from toolkit.client.options import TLS
from toolkit.client.transport import Connection, Outcome
from toolkit.client.types import Request

__all__ = ["RestTransport"]

_COMPRESSIBLE = 1024  # bytes; below it gzip costs more than it saves


def _verify(tls: TLS | None) -> ssl.SSLContext | bool:
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.cert is not None and tls.key is not None:
        context.load_cert_chain(str(tls.cert), str(tls.key))
    return context


class RestTransport:
    """HTTP/1.1 with kept-alive connections."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self._connection = connection
        self._base = address.target
        tls = connection.tls
        self._extensions: dict[str, Any] = {}
        if tls is not None and tls.server_name is not None:
            self._extensions["sni_hostname"] = tls.server_name
        self._client = httpx.AsyncClient(
            verify=_verify(tls),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            headers={"user-agent": f"sentence-serving/{__version__}", "accept": "application/json"},
        )

    async def send(self, request: Request, timeout: float) -> Outcome:
        headers = dict(self._connection.headers())
        body = request.body
        if body is not None:
            headers["content-type"] = "application/json"
            if self._connection.compression == "gzip" and len(body) >= _COMPRESSIBLE:
                body = gzip.compress(body, compresslevel=1)
                headers["content-encoding"] = "gzip"
        try:
            async with asyncio.timeout(timeout):  # httpx's own limits are per read, not for the whole
                answer = await self._client.request(
                    "GET" if body is None else "POST",
                    self._base + request.path,
                    content=body,
                    headers=headers,
                    timeout=timeout,
                    extensions=self._extensions,
                )
        except httpx.ConnectTimeout as error:
            return connection_failure(f"no connection within {timeout:g} seconds: {error}")
        except (httpx.TimeoutException, TimeoutError):
            return connection_failure(f"no answer within {timeout:g} seconds", timeout=True)
        except httpx.RemoteProtocolError as error:
            hint = "; if this is a gRPC port, use grpc://" if "illegal" in str(error) else ""
            return connection_failure(f"no HTTP answer, or only part of one: {error}{hint}")
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            return connection_failure(reason, final="CERTIFICATE_VERIFY_FAILED" in reason or "certificate" in reason)
        except httpx.DecodingError as error:
            return connection_failure(f"the answer's compression is broken: {error}")
        if answer.status_code != 200:
            return http_failure(answer.status_code, answer.content, answer.headers)
        return answer.content

    async def close(self) -> None:
        await self._client.aclose()
