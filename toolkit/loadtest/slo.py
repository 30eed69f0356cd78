"""What a deployment has to hold, and whether it did."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolkit.errors import InputError
from toolkit.loadtest.measure import QUANTILES, Measured, quantile_name

__all__ = ["Objective", "Result", "judge", "parse_slo", "percentile_of"]

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_NAMES = {quantile_name(q): q for q in QUANTILES}
_SUPPORTED = f"{', '.join(_NAMES)}, max or mean with a time (p99=50ms), errors with a share (errors=0.1%)"


@dataclass(frozen=True)
class Objective:
    """``name`` is ``p99``, ``max``, ``mean`` or ``errors``; ``bound`` is in seconds, or a share of all requests."""

    name: str
    bound: float

    def __str__(self) -> str:
        if self.name == "errors":
            return f"errors={self.bound * 100:g}%"
        return f"{self.name}={self.bound * 1000:g}ms"


@dataclass(frozen=True)
class Result:
    """An objective, what was measured (``None``: no answer), and whether that is within the bound."""

    objective: Objective
    value: float | None
    held: bool


def parse_slo(text: str) -> tuple[Objective, ...]:
    """``p99=50ms,errors=0.1%``. Raises `InputError`."""
    found = []
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name == "errors" and (match := re.fullmatch(r"([\d.]+)%", value)):
            bound = _number(match[1], text) / 100
            if bound > 1:
                raise InputError(f"objective {part!r}: there are no more than 100% errors")
        elif (name in _NAMES or name in ("max", "mean")) and (match := re.fullmatch(r"([\d.]+)(us|µs|ms|s)", value)):
            bound = _number(match[1], text) * _UNITS[match[2]]
            if not bound > 0:
                raise InputError(f"objective {part!r}: a latency must be more than 0")
        else:
            raise InputError(f"objective {part!r} is not understood; supported: {_SUPPORTED}")
        found.append(Objective(name, bound))
    if len({item.name for item in found}) < len(found):
        raise InputError(f"{text!r} names an objective twice")
    return tuple(found)


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"objective {whole!r}: {text!r} is not a number") from None


def percentile_of(objective: Objective) -> float | None:
    """0.99 for ``p99``; ``None`` for what is no percentile."""
    return _NAMES.get(objective.name)


def judge(measured: Measured, objectives: tuple[Objective, ...]) -> tuple[Result, ...]:
    """Each objective's result. A run that sent nothing holds none."""
    return tuple(_result(measured, objective) for objective in objectives)


def _result(measured: Measured, objective: Objective) -> Result:
    if objective.name == "errors":
        value: float | None = measured.error_rate if measured.sent else None
    elif objective.name == "max":
        # a failed request took longer than any bound
        value = None if measured.failed else measured.latency.max
    elif objective.name == "mean":
        value = None if measured.failed else measured.latency.mean
    else:
        value = measured.latency.at(_NAMES[objective.name]).value
    return Result(objective, value, value is not None and value <= objective.bound)
