"""Which of a test's parameters the suite leaves to ``make test-all``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["long", "long_but"]


def long(*values: Any) -> list[Any]:
    """Parameters that take minutes, all of them together."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


def long_but(few: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """``values`` in their order, long but for a ``few``."""
    few = tuple(few)
    return [value if value in few else pytest.param(value, marks=pytest.mark.long) for value in values]
