"""sentence-serving: from a SentenceTransformer to one TensorFlow Serving artifact.

Importing this package imports neither tensorflow nor torch; the names below load what they need on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from toolkit._version import __version__

if TYPE_CHECKING:
    from toolkit.artifact.inspection import inspect
    from toolkit.artifact.tuning import tune_artifact
    from toolkit.client import Client
    from toolkit.convert import Export, export
    from toolkit.encoder.batching_options import Batching
    from toolkit.graph.keras_back import from_keras
    from toolkit.graph.keras_door import to_keras
    from toolkit.proof.check import check
    from toolkit.proof.comparison import Bounds, CheckReport

__all__ = [
    "Batching",
    "Bounds",
    "CheckReport",
    "Client",
    "Export",
    "__version__",
    "check",
    "export",
    "from_keras",
    "inspect",
    "to_keras",
    "tune_artifact",
]

_HOME = {
    "Batching": "toolkit.encoder.batching_options",
    "Client": "toolkit.client",
    "Bounds": "toolkit.proof.comparison",
    "CheckReport": "toolkit.proof.comparison",
    "Export": "toolkit.convert",
    "check": "toolkit.proof.check",
    "export": "toolkit.convert",
    "inspect": "toolkit.artifact.inspection",
    "from_keras": "toolkit.graph.keras_back",
    "to_keras": "toolkit.graph.keras_door",
    "tune_artifact": "toolkit.artifact.tuning",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
