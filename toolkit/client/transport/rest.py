"""The REST transport, async; the sync client runs it on a loop of its own."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx

from toolkit._version import __version__
from toolkit.client.options import TLS
from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import connection_failure, http_failure
from toolkit.client.transport.interface import Connection, Outcome
from toolkit.client.transport.proxies import find_proxy
from toolkit.client.transport.rotation import Rotation
from toolkit.client.types import Request

__all__ = ["RestTransport"]


def _verify(tls: TLS | None) -> ssl.SSLContext | bool:
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.cert is not None and tls.key is not None:
        context.load_cert_chain(str(tls.cert), str(tls.key))
    return context


class RestTransport:
    """HTTP/1.1 with kept-alive connections, as many as there are requests at a time."""

    def __init__(self, address: Address, connection: Connection) -> None:
        self._connection = connection
        self._base = httpx.URL(address.target)
        self._rotation = Rotation(self._base.host, self._base.port) if connection.round_robin else None
        tls = connection.tls
        name = tls.server_name if tls is not None and tls.server_name is not None else self._base.host
        self._extensions: dict[str, Any] = {"sni_hostname": name} if address.secure else {}
        self._proxy = find_proxy(address) if connection.proxies else None
        self._client = httpx.AsyncClient(
            # A transport of its own keeps httpx from looking for proxies in the environment.
            transport=httpx.AsyncHTTPTransport(
                verify=_verify(tls),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                proxy=None if self._proxy is None else self._proxy.url,
            ),
            headers={
                "user-agent": f"sentence-serving/{__version__}",
                "accept": "application/json",
                "host": self._base.netloc.decode(),
            },
        )

    async def send(self, request: Request, timeout: float) -> Outcome:
        headers = dict(self._connection.headers())
        body = request.body
        if body is not None:
            body, more = self._connection.encoded(body)
            headers |= dict(more)
        outcome = await self._exchange(request.path, body, headers, timeout)
        if self._proxy is not None and not isinstance(outcome, bytes):
            outcome = self._proxy.told(outcome)
        if self._rotation is not None and not isinstance(outcome, bytes):
            self._rotation.stale()
        return outcome

    async def _exchange(self, path: str, body: bytes | None, headers: dict[str, str], timeout: float) -> Outcome:
        begun = False  # the answer; a server that answers is not ended by the request
        try:
            async with asyncio.timeout(timeout):  # httpx's own limits are per read, not for the whole
                base = self._base
                if self._rotation is not None:
                    base = base.copy_with(host=await self._rotation.next())
                async with self._client.stream(
                    "GET" if body is None else "POST",
                    str(base).rstrip("/") + path,
                    content=body,
                    headers=headers,
                    timeout=timeout,
                    extensions=self._extensions,
                ) as answer:
                    begun = True
                    await answer.aread()
        except httpx.ConnectTimeout as error:
            return connection_failure(f"no connection within {timeout:g} seconds: {error}")
        except (httpx.TimeoutException, TimeoutError):
            return connection_failure(f"no answer within {timeout:g} seconds", timeout=True)
        except httpx.RemoteProtocolError as error:
            hint = "; if this is a gRPC port, use grpc://" if "illegal" in str(error) else ""
            gone = "disconnected" in str(error)
            return connection_failure(f"no HTTP answer, or only part of one: {error}{hint}", broke=gone and not begun)
        except (httpx.ReadError, httpx.WriteError) as error:
            return connection_failure(str(error) or type(error).__name__, broke=not begun)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            return connection_failure(reason, final="CERTIFICATE_VERIFY_FAILED" in reason or "certificate" in reason)
        except httpx.DecodingError as error:
            return connection_failure(f"the answer's compression is broken: {error}")
        except OSError as error:  # from the name's resolution
            return connection_failure(f"{self._base.host}: {error.strerror}")
        if answer.status_code != 200:
            return http_failure(answer.status_code, answer.content, answer.headers)
        return answer.content

    async def close(self) -> None:
        await self._client.aclose()
