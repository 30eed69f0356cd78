"""Files and folders of any file system that Arrow knows: local ones, ``s3://``, ``gs://``.

Credentials come from where the providers' own tools take them (environment, instance, files in the home folder). A URI
may carry options for Arrow (``s3://bucket/key?endpoint_override=localhost:9000&scheme=http``); no name of a `Place`
shows them. Arrow retries requests to Google for 15 minutes, also without credentials; here for one, unless the URI says
otherwise (``retry_limit_seconds=600``).
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from toolkit.client.bulk.state import sync_folder
from toolkit.errors import InputError, MissingExtraError

__all__ = ["HIDDEN", "Entry", "Place", "file_errors"]

HIDDEN = ("_", ".")  # what begins so is not data, as everywhere among readers of folders of Parquet
_BLOCK = 1 << 20  # bytes read at a time
_GCS_SECONDS = 60


@dataclass(frozen=True)
class Entry:
    """A file of a folder: ``size`` in bytes; ``changed``, the time of its last change in nanoseconds."""

    place: Place
    size: int
    changed: int


@dataclass(frozen=True)
class Place:
    """``path`` in an Arrow file system. Where it stands for a file it can be read as a `pathlib.Path` is."""

    filesystem: Any
    path: str
    scheme: str

    @classmethod
    def of(cls, uri: str | Path) -> Place:
        """A local path or a URI. Raises `InputError`, or `MissingExtraError` without pyarrow."""
        try:
            import pyarrow
            from pyarrow import fs
        except ImportError:
            raise MissingExtraError("pyarrow", "bulk") from None
        text = str(uri)
        scheme, separator, _ = text.partition("://")
        if not separator:
            return cls(fs.LocalFileSystem(), os.path.abspath(text), "")
        patient = f"{text}{'&' if '?' in text else '?'}retry_limit_seconds={_GCS_SECONDS}"
        wanted = patient if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in text else text
        try:
            filesystem, path = fs.FileSystem.from_uri(wanted)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{text.partition('?')[0]}: {_reason(error)}") from None
        return cls(filesystem, path.rstrip("/"), "" if scheme == "file" else scheme)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}" if self.scheme else self.path

    def __truediv__(self, name: str) -> Place:
        return Place(self.filesystem, f"{self.path}/{name}", self.scheme)

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def local(self) -> Path | None:
        """The path on this machine, or ``None``."""
        return None if self.scheme else Path(self.path)

    def beside(self, suffix: str) -> Place:
        """A neighbour, of this name with ``suffix`` behind it."""
        return Place(self.filesystem, self.path + suffix, self.scheme)

    def is_file(self) -> bool:
        from pyarrow import fs

        with file_errors(self, "read"):
            return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.File)

    def exists(self) -> bool:
        from pyarrow import fs

        with file_errors(self, "read"):
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def files(self, hidden: bool = False) -> list[Entry]:
        """The files below this folder, by path, hidden ones (`HIDDEN`) only if asked for; the file itself, if it is
        one.

        Raises `InputError` if there is no such file or folder.
        """
        from pyarrow import fs

        with file_errors(self, "read"):
            own = self.filesystem.get_file_info(self.path)
            if own.type == fs.FileType.NotFound:
                raise InputError(f"{self} does not exist")
            found = [own]
            if own.type != fs.FileType.File:
                found = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        entries = [
            Entry(Place(self.filesystem, info.path, self.scheme), info.size, info.mtime_ns or 0)
            for info in found
            if info.type == fs.FileType.File and (hidden or info is own or not self._hides(info.path))
        ]
        return sorted(entries, key=lambda entry: entry.place.path)

    def _hides(self, path: str) -> bool:
        parts = PurePosixPath(path).relative_to(self.path).parts
        return any(part.startswith(HIDDEN) for part in parts)

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, to be read from any position on. Raises `OSError`."""
        assert mode == "rb"
        return cast(BinaryIO, io.BufferedReader(_Readable(self.filesystem.open_input_file(self.path)), _BLOCK))

    def read(self) -> bytes | None:
        """All of the file; ``None`` if there is none. Raises `InputError`."""
        with file_errors(self, "read"):
            try:
                with self.open() as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def put(self, content: Iterable[Any], scratch: Place) -> None:
        """Make this file hold the pieces of ``content``, wholly or not at all, whatever is killed meanwhile: they are
        written into the folder ``scratch`` of the same file system and renamed. Raises `OSError`."""
        fresh = scratch / f"{self.name}.{secrets.token_hex(8)}"
        if self.local is not None:
            _put_local(content, Path(fresh.path), self.local)
            return
        size = 0
        with self.filesystem.open_output_stream(fresh.path) as stream:
            for piece in content:
                stream.write(piece)
                size += memoryview(piece).nbytes
        written = self.filesystem.get_file_info(fresh.path).size
        if written != size:  # a stream that fails still ends the file
            raise OSError(f"{fresh}: {written} bytes of {size} were written")
        self.filesystem.move(fresh.path, self.path)

    def remove_file(self) -> None:
        """Remove the file, if it is there. Raises `OSError`."""
        from pyarrow import fs

        if self.filesystem.get_file_info(self.path).type == fs.FileType.File:
            self.filesystem.delete_file(self.path)


def _put_local(content: Iterable[Any], fresh: Path, target: Path) -> None:
    fresh.parent.mkdir(parents=True, exist_ok=True)
    try:
        with fresh.open("xb") as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, target)
        sync_folder(target.parent)
    finally:
        fresh.unlink(missing_ok=True)


class _Readable(io.RawIOBase):
    """An Arrow file as `io.BufferedReader` takes it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def file_errors(place: Place, done: str) -> Iterator[None]:
    """Turn what a file system raises into `InputError`: ``place`` cannot be ``done``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be {done}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What the system said, on one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())
