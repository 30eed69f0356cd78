"""Options that take several values with commas between."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Listed"]


class Listed(click.ParamType[tuple[Any, ...]]):
    """Values of one type, with commas between, as a tuple."""

    def __init__(self, item: click.ParamType[Any]) -> None:
        self._item = item
        self.name = f"{item.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        parts = value if isinstance(value, tuple) else value.split(",")
        return tuple(self._item.convert(part.strip() if isinstance(part, str) else part, param, ctx) for part in parts)
