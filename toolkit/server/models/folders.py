"""Folders of models: which models a folder holds, which versions of each, and which of those are to be served."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ServerError

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

__all__ = ["aspired_versions", "model_folders", "stamp", "version_folders"]

log = logging.getLogger("sentence_serving.models")


def version_folders(path: Path) -> dict[int, Path]:
    """A model's version folders by number. Raises ``OSError`` if ``path`` cannot be read."""
    found: dict[int, Path] = {}
    # scandir knows what is a folder from the one reading: a folder renamed meanwhile is not taken for an empty one
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: len(entry.name)):  # "11" before "011"
            if entry.name.isascii() and entry.name.isdigit() and entry.is_dir() and int(entry.name) < 1 << 63:
                found.setdefault(int(entry.name), path / entry.name)
    return found


def model_folders(path: Path) -> dict[str, Path]:
    """The folders in ``path`` that hold a version folder, by name. Raises `ServerError`."""
    try:
        children = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
        return {child.name: child for child in children if version_folders(child)}
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}") from None


def stamp(path: Path) -> int:
    """Changes whenever a version's folder is written anew, goes on being written, or comes back under its name.

    Covers each file's size and times, the time of its last change of any kind among them, which no copy can keep, and
    that of the model's folder, which a renaming changes.
    """
    found: list[tuple[str, int, int, int]] = []
    try:
        found.append(("", 0, 0, path.parent.stat().st_ctime_ns))
        for folder, _, files in os.walk(path):
            for name in (".", *sorted(files)):
                file = os.path.join(folder, name)
                status = os.stat(file)
                found.append((file, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError as error:  # it is being moved or removed at this moment
        found.append((str(error.filename), -1, 0, 0))
    return hash(tuple(sorted(found)))


def aspired_versions(name: str, config: ModelConfig | None) -> dict[int, Path] | None:
    """The versions of a model that its policy wants now; None if the folder cannot be read."""
    if config is None:
        return {}
    base = Path(config.base_path)
    try:
        found = version_folders(base)
    except OSError as error:
        log.warning("Could not find base path %s for servable %s: %s", base, name, error.strerror)
        return None
    if not found:
        log.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            name,
            base,
        )
        return found
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return found
        case "specific":
            for version in policy.specific.versions:
                if version not in found:
                    log.warning("version %d of model %s was requested, but is not under %s", version, name, base)
            return {version: found[version] for version in policy.specific.versions if version in found}
        case _:
            count = policy.latest.num_versions or 1
            return {version: found[version] for version in sorted(found)[-count:]}
