"""Which proxy of the environment a server's address goes through, decided once for gRPC and REST.

The libraries below decide by rules of their own, send even loopback addresses through a proxy and do not say so.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from toolkit.client.transport.address import Address
from toolkit.client.transport.failures import Failure
from toolkit.errors import InputError, ModelNotFoundError, RequestError, SignatureError

__all__ = ["Proxy", "find_proxy"]

# in the order in which they count; gRPC's are those of its C library, which knows no ALL_PROXY and no upper case
_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
_REST = {"http": ("http_proxy", "HTTP_PROXY"), "https": ("https_proxy", "HTTPS_PROXY")}
_ANY = ("all_proxy", "ALL_PROXY")
_OFF = "turn proxies off with proxies=False (--no-proxy), or name the server in no_proxy"


@dataclass(frozen=True)
class Proxy:
    """``url`` is ``scheme://[user:password@]host:port``; ``variable`` is where the environment has it from."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"{_without_user(self.url)} (environment variable {self.variable})"

    def told(self, failure: Failure) -> Failure:
        """The failure, saying that it came by this proxy, unless it is the model's server that speaks."""
        if issubclass(failure.error, RequestError | ModelNotFoundError | SignatureError):
            return failure
        return replace(failure, message=f"{failure.message}; sent through the proxy {self}")


def find_proxy(address: Address) -> Proxy | None:
    """The environment's proxy for ``address``, or ``None``: loopback and unix addresses never have one.

    Raises `InputError` for a proxy that cannot be used, naming its variable.
    """
    host = _host(address)
    if host is None or _is_loopback(host):
        return None
    environment = os.environ
    names = (*_REST[urlsplit(address.target).scheme], *_ANY) if address.rest else _GRPC
    variable = next((name for name in names if environment.get(name, "").strip()), None)
    if variable is None or _is_excluded(host, address):
        return None
    schemes = ("http", "https") if address.rest else ("http",)
    return Proxy(_checked(environment[variable].strip(), variable, schemes), variable)


def _host(address: Address) -> str | None:
    """The host that decides, without brackets; ``None`` for what no proxy can reach."""
    if address.rest:
        return urlsplit(address.target).hostname
    kind, _, rest = address.target.partition(":")
    if kind not in ("dns", "ipv4", "ipv6"):
        return None
    first = rest.rsplit("/", 1)[-1].split(",")[0]
    if first.startswith("["):
        return first[1:].partition("]")[0]
    return first.rpartition(":")[0] if first.count(":") == 1 else first


def _is_loopback(host: str) -> bool:
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or ip.is_unspecified or (mapped is not None and mapped.is_loopback)


def _is_excluded(host: str, address: Address) -> bool:
    names = ("no_proxy", "NO_PROXY") if address.rest else ("no_grpc_proxy", "no_proxy")
    excluded = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return any(_matches(host.lower().rstrip("."), entry.strip().lower()) for entry in excluded.split(","))


def _matches(host: str, entry: str) -> bool:
    """Whether an entry of ``no_proxy`` means ``host``: ``*``, a domain with or without a dot or ``*.`` before it, an
    address with or without brackets, or a network; a port behind it does not matter."""
    if entry == "*":
        return True
    entry = re.sub(r"^(\[[^]]*\]|[^:]*):\d+$", r"\1", entry).removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.removeprefix("*").strip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _checked(value: str, variable: str, schemes: tuple[str, ...]) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"environment variable {variable} names no usable proxy: {error}; {_OFF}") from None
    if parts.scheme.lower() not in schemes or not parts.hostname:
        supported = ", ".join(f"{scheme}://host:port" for scheme in schemes)
        raise InputError(
            f"environment variable {variable}: proxy {_without_user(url)!r} is not supported; "
            f"supported: {supported}; {_OFF}"
        )
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{parts.netloc}" if port is not None else f"{parts.scheme}://{parts.netloc}:{default}"


def _without_user(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
