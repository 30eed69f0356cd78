"""What a caller can choose about a client, as frozen values that check themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.errors import InputError

__all__ = ["TLS", "Hedge", "Retry", "Split", "Token"]

# A bearer token, or a function that returns the current one (asked before every attempt).
Token = str | Callable[[], str]


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True)
class TLS:
    """Certificates for ``grpcs://`` and ``https://``, as paths of PEM files.

    ``ca`` verifies the server (default: gRPC's built-in roots; the system's for REST); ``cert`` and ``key`` identify
    the client (mutual TLS). ``server_name`` is the name to verify where it differs from the address.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError("TLS: cert and key belong together; only one is given")
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InputError(f"TLS: {name} {path} is not a file")

    def read(self, name: str) -> bytes | None:
        """The PEM bytes of ``ca``, ``cert`` or ``key``."""
        path = getattr(self, name)
        return None if path is None else Path(path).read_bytes()


@dataclass(frozen=True)
class Retry:
    """When a failed attempt is sent again. Only failures that a server may recover from are.

    ``attempts``: how often a request is sent at most. ``patience``: if set, a request may go beyond ``attempts`` and
    the budget for as many seconds after its first failure (for jobs that outlive server restarts).
    Waits grow from ``base`` by ``factor`` to ``longest`` seconds, each drawn uniformly between half of that and all of
    it. A server's pushback (``grpc-retry-pushback-ms``, ``Retry-After``) replaces the wait.
    ``budget``: retries allowed per successful request, on top of ``burst`` for the client as a whole, so that clients
    do not multiply the load of a server that is failing; hedged requests draw on it too.
    """

    attempts: int = 4
    base: float = 0.1
    factor: float = 2.0
    longest: float = 5.0
    budget: float = 0.2
    burst: int = 20
    patience: float | None = None

    def __post_init__(self) -> None:
        _at_least("Retry.attempts", self.attempts, 1)
        for name in ("base", "budget", "burst", "patience"):
            _at_least(f"Retry.{name}", getattr(self, name), 0)
        _at_least("Retry.factor", self.factor, 1)
        _at_least("Retry.longest", self.longest, self.base)

    def wait(self, failures: int, draw: float) -> float:
        """Seconds to wait after ``failures`` failures (1 or more); ``draw`` is uniform in [0, 1)."""
        # The exponent is capped: a job with patience may fail a great many times.
        longest = min(self.longest, self.base * self.factor ** min(failures - 1, 64))
        return longest * (0.5 + 0.5 * draw)


@dataclass(frozen=True)
class Split:
    """How a big input is cut into requests: at most ``rows`` rows and ``bytes`` bytes of text each, at most
    ``in_flight`` requests at a time.

    More rows per request cost the client less; fewer let the server spread the work and answer sooner. 1000 rows are
    what a batching TF Serving takes by default; of long texts, which are the server's work, ``bytes`` lets through
    fewer. A server's limit met on the way lowers ``rows`` for the rest of the client's life.
    """

    rows: int = 1000
    bytes: int = 256 << 10
    in_flight: int = 4

    def __post_init__(self) -> None:
        for name in ("rows", "bytes", "in_flight"):
            _at_least(f"Split.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class Hedge:
    """Send a request a second time when it has no answer after ``after`` seconds, and take the first good answer.

    Cuts the slowest answers of a service with several replicas, at the price of some double work, which the retry
    budget bounds.
    """

    after: float = field(default=1.0)

    def __post_init__(self) -> None:
        _at_least("Hedge.after", self.after, 0.001)
