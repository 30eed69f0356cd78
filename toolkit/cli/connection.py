"""Options of every command that connects to a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from toolkit.client import TLS
from toolkit.client.transport.interface import Connection
from toolkit.errors import InputError

__all__ = ["TokenFile", "connection_of", "connection_options"]

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    bad = [value for value in values if "=" not in value]
    if bad:
        raise click.BadParameter(f"{bad[0]!r} is not NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


_OPTIONS = (
    click.option("--ca", type=_FILE, help="PEM file of the authority that signed the server's certificate."),
    click.option("--cert", type=_FILE, help="PEM file of the client's certificate (mutual TLS)."),
    click.option("--key", type=_FILE, help="PEM file of the client's key (mutual TLS)."),
    click.option("--server-name", help="Name in the server's certificate, where it differs from the address."),
    click.option("--token-file", type=_FILE, help="File with a bearer token, read again for every request."),
    click.option(
        "--metadata", multiple=True, metavar="NAME=VALUE", callback=_pairs, help="Metadata or header to send."
    ),
    click.option("--compression", type=click.Choice(["gzip"]), help="Compress requests."),
    click.option("--round-robin", is_flag=True, help="Spread requests over all addresses of the host's name."),
    click.option("--channels", default=1, show_default=True, help="gRPC connections to open."),
    click.option("--no-proxy", is_flag=True, help="Use no proxy, whatever the environment (http_proxy, ...) says."),
)


@dataclass(frozen=True)
class TokenFile:
    """A bearer token in a file, which may change at any time."""

    path: Path

    def __call__(self) -> str:
        try:
            return self.path.read_text().strip()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None


def connection_options(command: F) -> F:
    """Add the options to ``command``, in the order above."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def connection_of(options: dict[str, Any]) -> Connection:
    """How to connect, by the values of the options. Raises `InputError`."""
    secrets = [options[name] for name in ("ca", "cert", "key", "server_name")]
    return Connection(
        tls=TLS(*secrets) if any(secrets) else None,
        token=TokenFile(options["token_file"]) if options["token_file"] is not None else None,
        metadata=options["metadata"],
        compression=options["compression"],
        round_robin=options["round_robin"],
        channels=options["channels"],
        proxies=not options["no_proxy"],
    )
