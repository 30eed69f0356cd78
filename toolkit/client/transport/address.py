"""Where a server is: URLs to gRPC targets and REST bases."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from toolkit.errors import InputError

__all__ = ["Address", "parse_address"]

_PORTS = {"grpc": 8500, "grpcs": 443, "http": 80, "https": 443}
_TARGET = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):.+")
_SUPPORTED = "grpc://, grpcs://, http://, https://, host:port, or a gRPC target (dns:, ipv4:, ipv6:, unix:, xds:)"


@dataclass(frozen=True)
class Address:
    """``target`` is what the transport connects to: a gRPC target, or the base URL of a REST API."""

    url: str
    target: str
    rest: bool
    secure: bool

    def __str__(self) -> str:
        return self.url


def parse_address(url: str) -> Address:
    """Read a server's address; raises `InputError` for what is none.

    The scheme chooses protocol and encryption: ``grpc://host[:8500]``, ``grpcs://host[:443]``, ``http://host[:80][/prefix]``,
    ``https://host[:443][/prefix]``. A bare ``host:port`` is gRPC. ``grpc://1.2.3.4:8500,1.2.3.5:8500`` names several IP
    addresses. gRPC's own targets (``dns:``, ``ipv4:``, ``unix:``, ...) are passed on as they are, without encryption.
    """
    if not isinstance(url, str) or not url.strip() or url != url.strip() or any(c.isspace() for c in url):
        raise InputError(f"{url!r} is not a server address; supported: {_SUPPORTED}")
    if _TARGET.fullmatch(url) and not re.fullmatch(r"[a-z0-9]+:\d+", url):
        return Address(url, url, rest=False, secure=False)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "grpc", url
    if scheme not in _PORTS:
        raise InputError(f"{url!r}: scheme {scheme!r} is not supported; supported: {_SUPPORTED}")
    secure = scheme in ("grpcs", "https")
    if scheme.startswith("grpc") and "," in rest:
        return Address(url, _several(url, rest.rstrip("/").split(","), _PORTS[scheme]), rest=False, secure=secure)
    host, port, path = _host_port(url, rest, _PORTS[scheme])
    if scheme.startswith("http"):
        return Address(url, f"{scheme}://{host}:{port}{path.rstrip('/')}", rest=True, secure=secure)
    if path.strip("/"):
        raise InputError(f"{url!r}: a gRPC address has no path, but this one has {path!r}")
    return Address(url, f"dns:///{host}:{port}", rest=False, secure=secure)


def _host_port(url: str, rest: str, default: int) -> tuple[str, int, str]:
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url!r} is not a server address: {error}") from None
    if not host or port == 0:
        raise InputError(f"{url!r} names no {'port that can be reached' if host else 'host'}")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(f"{url!r}: credentials, query and fragment do not belong in a server address")
    return (f"[{host}]" if ":" in host else host), port or default, parts.path


def _several(url: str, names: list[str], default: int) -> str:
    pairs = [_host_port(url, name, default) for name in names]
    try:
        versions = {ipaddress.ip_address(host.strip("[]")).version for host, _, _ in pairs}
    except ValueError:
        versions = set()
    if len(versions) != 1 or any(path for _, _, path in pairs):
        raise InputError(f"{url!r}: several addresses must all be IPv4 or all IPv6; use one DNS name for named hosts")
    return f"ipv{versions.pop()}:" + ",".join(f"{host}:{port}" for host, port, _ in pairs)
