"""Compiled tables in the user's cache folder, so that a second export of a tokenizer need not compile again.

An entry is one file named by the digest of all that went into it. It is written aside and renamed, and one that cannot
be read, for whatever reason, is compiled anew and replaced; a cache that cannot be written is no obstacle. Whoever
writes an entry removes those used longest ago while all of them together are too large.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from toolkit._version import __version__

__all__ = ["SIZE_LIMIT", "Arrays", "cache_folder", "cached", "cached_tables"]

Arrays = Mapping[str, npt.NDArray[Any]]
Made = TypeVar("Made")

SIZE_LIMIT = 256 * 2**20
"""Bytes that all entries together may take: some hundred small tokenizers, or a dozen of the largest."""

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
_ABANDONED = 3600.0  # seconds after which nobody is writing an unfinished entry any more


class Tables(Protocol):
    """Compiled tables."""

    def to_arrays(self) -> Arrays:
        """All of it as arrays."""

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The inverse of :meth:`to_arrays`. Raises ``ValueError`` or ``KeyError`` for other arrays."""


SomeTables = TypeVar("SomeTables", bound=Tables)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/sentence-serving/tokenizer``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "sentence-serving" / "tokenizer"


def cached_tables(kind: type[SomeTables], tokenizer: str, sources: Path, make: Callable[[], SomeTables]) -> SomeTables:
    """The tables that ``make`` compiles from ``tokenizer`` (JSON), called only if the cache does not have them.

    They depend on the code that compiles them as well: the packages that it asks, and the source files in the folder
    ``sources`` and in this one.
    """
    import tensorflow_text
    import tokenizers

    here = Path(__file__).parent
    parts = {
        "tokenizer": tokenizer,
        "kind": kind.__name__,
        "tokenizers": tokenizers.__version__,
        "tensorflow_text": tensorflow_text.__version__,
        "unicodedata": unicodedata.unidata_version,
        "toolkit": __version__,
        **{
            str(path.relative_to(here)): path.read_text(encoding="utf-8")
            for folder in (here, sources)
            for path in folder.glob("*.py")
        },
    }
    return cached(parts, make, kind.to_arrays, kind.from_arrays)


def cached(
    parts: Mapping[str, str],
    make: Callable[[], Made],
    to_arrays: Callable[[Made], Arrays],
    from_arrays: Callable[[Arrays], Made],
) -> Made:
    """What ``make`` makes from ``parts``, called only if the cache does not have it.

    ``parts`` must contain everything that it depends on, versions included. ``from_arrays`` is the inverse of
    ``to_arrays`` and raises ``ValueError`` or ``KeyError`` for arrays of another shape.
    """
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        for text in (name.encode(), part.encode("utf-8", "surrogatepass")):
            digest.update(b"%d:" % len(text) + text)
    try:
        path = cache_folder() / f"{digest.hexdigest()}.npz"
    except RuntimeError:  # no home folder
        return make()
    try:
        with np.load(path, allow_pickle=False) as stored:
            made = from_arrays({name: stored[name] for name in stored.files})
    except _UNREADABLE:
        made = make()
        with contextlib.suppress(OSError):
            _write(path, to_arrays(made))
            _prune(path)
    else:
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
    return made


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _prune(latest: Path) -> None:
    """Remove the entries used longest ago while all are too large, but never ``latest``; and what was left unfinished.

    Other processes may do the same, or read what is removed: a file that is open stays readable, one that is gone is
    compiled again.
    """
    now = time.time()
    entries: list[tuple[float, int, Path]] = []
    for path in latest.parent.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.suffix == ".npz" and path != latest:
                entries.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".tmp" and now - status.st_mtime > _ABANDONED:
                path.unlink()
    size = latest.stat().st_size
    for _, bytes_, path in sorted(entries, reverse=True):
        size += bytes_
        if size > SIZE_LIMIT:
            with contextlib.suppress(OSError):
                path.unlink()
