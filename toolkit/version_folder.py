"""A version of an exported model on disk, as one is named at the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import InputError

__all__ = ["VersionFolder"]


@dataclass(frozen=True)
class VersionFolder:
    """``<models>/<name>/<version>``."""

    folder: Path

    @classmethod
    def of(cls, path: Path) -> VersionFolder:
        """The newest version in a model's folder, or a version folder itself. Raises `InputError`."""
        path = path.absolute()
        if not (path / "saved_model.pb").is_file():
            numbers = sorted(int(item.parent.name) for item in path.glob("[0-9]*/saved_model.pb")
                             if item.parent.name.isdecimal())  # fmt: skip
            if not numbers:
                raise InputError(f"{path}: no exported model; expected {path}/<version>/saved_model.pb")
            path /= str(numbers[-1])
        if not path.name.isdecimal():
            raise InputError(f"{path}: a version's folder is named by its number")
        return cls(path)

    @property
    def model(self) -> str:
        return self.folder.parent.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(item.stat().st_size for item in self.folder.rglob("*") if item.is_file())
