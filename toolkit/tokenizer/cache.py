"""Compiled tables in the user's cache folder, so that a second export of a tokenizer need not compile again.

An entry is one file named by the digest of all that went into it. It is written aside and renamed, and one that cannot
be read, for whatever reason, is compiled anew and replaced; a cache that cannot be written is no obstacle.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["cache_folder", "cached"]

Arrays = Mapping[str, npt.NDArray[Any]]
Made = TypeVar("Made")

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/sentence-serving/tokenizer``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "sentence-serving" / "tokenizer"


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
            return from_arrays({name: stored[name] for name in stored.files})
    except _UNREADABLE:
        pass
    made = make()
    with contextlib.suppress(OSError):
        _write(path, to_arrays(made))
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
