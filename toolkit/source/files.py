"""Small files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.errors import SourceError

__all__ = ["read_json"]


def read_json(path: Path, missing: str = "is missing") -> Any:
    """Parse a JSON file of a checkpoint; ``SourceError`` names the file where that fails."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(f"{path}: {missing}") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
