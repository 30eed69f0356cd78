"""The components of a ``tokenizer.json``."""

from __future__ import annotations

from typing import Any

__all__ = ["parts"]


def parts(node: Any, key: str) -> list[dict[str, Any]]:
    """The members of a ``Sequence``, one component as a list of itself, none as an empty list."""
    if node is None:
        return []
    if node.get("type") == "Sequence":
        return [part for member in node[key] for part in parts(member, key)]
    return [node]
