"""What a bulk run remembers: a folder beside the target, valid after a crash at any moment.

``state.json`` is replaced by rename, after the data it speaks of is on the disk. It is the only truth: data behind the
positions it names belongs to a piece of work that will be done again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from toolkit.client.bulk.plan import Plan
from toolkit.errors import InputError

__all__ = ["Progress", "StateFolder", "lock_folder", "sync_folder"]

_FORMAT = 2


@dataclass(frozen=True)
class Progress:
    """How far a run is: input rows done and the digest of their texts, the sink's and the side file's positions."""

    rows: int = 0
    digest: str = ""
    position: int = 0
    rejected: int = 0
    rejected_bytes: int = 0
    finished: bool = False


class StateFolder:
    """The folder ``<target>.partial``, locked while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock_folder(path, "lock")

    def load(self) -> tuple[Plan, Progress] | None:
        """What was saved last, or ``None``."""
        try:
            saved = json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / 'state.json'} cannot be read: {error}") from None
        try:
            if saved["format"] != _FORMAT:
                raise InputError(
                    f"{self.path} is of state format {saved['format']}; supported: {_FORMAT}; "
                    "finish it with the release that began it, or delete it"
                )
            return Plan.of(saved["plan"]), Progress(**saved["progress"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path / 'state.json'} is damaged: {error}") from None

    def save(self, plan: Plan, progress: Progress) -> None:
        fresh = self.path / "state.json.new"
        with fresh.open("w") as file:
            body: dict[str, Any] = {"format": _FORMAT, "plan": asdict(plan), "progress": asdict(progress)}
            json.dump(body, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path / "state.json")
        sync_folder(self.path)

    def remove(self) -> None:
        shutil.rmtree(self.path)
        self.close()

    def close(self) -> None:
        self._lock.close()


def lock_folder(path: Path, name: str) -> TextIO:
    """Make the folder and lock it until the file that is returned is closed, or this process ends. Raises `InputError`
    if another run has it."""
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / name).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise InputError(f"{path} is in use by another run") from None
    return lock


def sync_folder(path: Path) -> None:
    """Make renames in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
