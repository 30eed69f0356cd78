"""The report: all figures of a run, as values and as ``report.json``.

The JSON is these dataclasses, field by field; times are seconds, rates are per second, shares are between 0 and 1.
``schema`` grows by one when a field changes its meaning or goes away; new fields may come at any time.
"""

from __future__ import annotations

import json
import os
import platform
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit._version import __version__
from toolkit.errors import InputError
from toolkit.loadtest.measure import Measured
from toolkit.loadtest.metrics import ServerFigures
from toolkit.loadtest.slo import Result

__all__ = ["SCHEMA", "Environment", "Generator", "LagVerdict", "Report", "environment", "load", "save"]

SCHEMA = 1


@dataclass(frozen=True)
class Environment:
    """Where the generator ran."""

    version: str
    python: str
    platform: str
    cpu: str
    cpus: int
    started: str


@dataclass(frozen=True)
class LagVerdict:
    """Whether the generator kept to its times. ``share`` is the greatest part of a latency percentile (``worst``) that
    comes from requests having been sent late; above ``bound`` the figures are those of the generator, not of the
    server. ``None``: nothing was answered, or a closed loop, which has no intended times."""

    bound: float
    share: float | None
    worst: str | None
    held: bool


@dataclass(frozen=True)
class Generator:
    """``cpu``: CPU seconds of all workers; ``processes`` of them. ``lost``: workers that ended before their time."""

    processes: int
    cpu: float
    lost: int


@dataclass(frozen=True)
class Report:
    """One run. ``stopped``: why it ended before its time, ``None`` if it did not. ``load`` and ``settings`` say what
    was asked for; ``command`` repeats it."""

    schema: int
    url: str
    targets: tuple[str, ...]
    command: str
    load: dict[str, Any]
    load_words: str
    settings: dict[str, Any]
    environment: Environment
    generator: Generator
    measured: Measured
    lag: LagVerdict
    server: ServerFigures | None
    verdict: tuple[Result, ...]
    stopped: str | None

    @property
    def closed(self) -> bool:
        return bool(self.load["kind"] == "closed")


def environment() -> Environment:
    """This machine, now."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return Environment(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=model,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def save(value: Any, path: Path) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(asdict(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Report:
    """Read ``report.json``. Raises `InputError` for what is none."""
    value = read_json(path)
    if value.get("schema") != SCHEMA or "measured" not in value:
        raise InputError(f"{path} is no report of schema {SCHEMA}; it has schema {value.get('schema')!r}")
    return typing.cast(Report, rebuild(Report, value, str(path)))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `InputError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is no report: it holds no object")
    return value


def rebuild(kind: Any, value: Any, where: str) -> Any:
    """The value of type ``kind`` (a dataclass, or what one's fields are made of) that ``asdict`` made ``value`` of."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else rebuild(arguments[0], value, where)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        missing = [item.name for item in fields(kind) if not isinstance(value, dict) or item.name not in value]
        if missing:
            raise InputError(f"{where} lacks {', '.join(missing)}")
        build: Any = kind
        return build(**{item.name: rebuild(hints[item.name], value[item.name], where) for item in fields(kind)})
    if origin is tuple:
        return tuple(rebuild(arguments[0], item, where) for item in value)
    if origin is dict and is_dataclass(arguments[1]):
        return {name: rebuild(arguments[1], item, where) for name, item in value.items()}
    return value
