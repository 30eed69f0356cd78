"""Router: a model with one way for queries and another for documents (release 6.2 of sentence-transformers).

A Router is unrolled: each way is a plain sequence of modules, of which several may have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import UnsupportedError

__all__ = ["ROUTER", "ways"]

ROUTER = "Router"
_FILE = "router_config.json"

_ASKED_FOR = (None, "query", "document")
"""The tasks that ``encode``, ``encode_query`` and ``encode_document`` choose."""


def ways(model: Iterable[Any], folder: str) -> Mapping[str | None, list[Any]]:
    """The modules that a text goes through, by task: by default (``None``), as a query, as a document. A model without
    a Router has the first one alone.

    Raises ``UnsupportedError`` for a Router that does not come first, has none by default, or more than texts take.
    """
    first, *rest = model
    if late := [index for index, module in enumerate(rest, 1) if type(module).__name__ == ROUTER]:
        raise UnsupportedError(folder, f"module {late[0]}", ROUTER, "a Router as module 0")
    if type(first).__name__ != ROUTER:
        return {None: [first, *rest]}
    file, chosen = f"{folder}/{_FILE}", {}
    for task in _ASKED_FOR:
        try:
            chosen[task] = first._resolve_route(task=task, modality="text")
        except ValueError:  # what the original raises where there is none
            continue
    if None not in chosen:
        raise UnsupportedError(file, "default_route", None, "a route that encode takes: without one it fails")
    if unused := [route for route in first.sub_modules if route not in chosen.values()]:
        supported = "routes that encode, encode_query or encode_document take for a text"
        raise UnsupportedError(file, "structure", unused[0], supported)
    return {task: [*first.sub_modules[route], *rest] for task, route in chosen.items()}
