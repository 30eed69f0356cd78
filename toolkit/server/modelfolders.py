"""Folders of models: which models a folder holds, and which versions of each."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import ServerError

__all__ = ["model_folders", "version_folders"]


def version_folders(path: Path) -> dict[int, Path]:
    """A model's version folders by number. Raises ``OSError`` if ``path`` cannot be read."""
    found: dict[int, Path] = {}
    for child in sorted(path.iterdir()):
        if child.name.isascii() and child.name.isdigit() and child.is_dir():
            found.setdefault(int(child.name), child)
    return found


def model_folders(path: Path) -> dict[str, Path]:
    """The folders in ``path`` that hold a version folder, by name. Raises `ServerError`."""
    try:
        children = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
        return {child.name: child for child in children if version_folders(child)}
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}") from None
