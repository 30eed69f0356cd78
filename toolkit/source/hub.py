"""From what a user calls a source to its folder: a path, or a model id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.errors import InputError, MissingExtraError, SourceError

__all__ = ["resolve"]

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_NOT_NEEDED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf", "coreml/*"]


def resolve(source: str | Path, revision: str | None) -> Path:
    """The local folder of ``source``; a hub id is downloaded (or found in the hub's cache)."""
    text = str(source)
    if not text:
        raise InputError("the source is empty; give a SentenceTransformer folder or a hub id")
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        raise SourceError(f"{path}: is a file, not a SentenceTransformer folder")
    if isinstance(source, Path) or not _HUB_ID.match(text) or text.startswith(("/", ".")):
        raise SourceError(f"{text}: no such folder, and not a hub id (organisation/model) either")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingExtraError("huggingface_hub", "convert") from error
    try:
        return Path(snapshot_download(text, revision=revision, ignore_patterns=_NOT_NEEDED))
    except Exception as error:  # the hub's client raises many kinds, from requests' to its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"{text}: no such folder, and the hub does not give it: {reason}") from error
