"""What an export is made of: a checkpoint, or a Keras model that one was made into."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from toolkit.errors import InputError, MissingExtraError
from toolkit.source.checkpoint import Checkpoint, open_checkpoint
from toolkit.source.settings import SourceSettings

if TYPE_CHECKING:
    import keras
    from sentence_transformers.base.model import BaseModel

__all__ = ["open_source"]


def open_source(
    source: str | Path | BaseModel | keras.Model,
    *,
    task: str | None = None,
    settings: SourceSettings = SourceSettings(),
    revision: str | None = None,
    **options: Any,
) -> Checkpoint:
    """As ``open_checkpoint``, of a Keras model of ``to_keras`` or its ``.keras`` file too, however it was trained.

    Raises as ``open_checkpoint`` and ``from_keras``.
    """
    if not _is_keras(source):
        return open_checkpoint(source, task=task, settings=settings, revision=revision, **options)
    if revision is not None:
        raise InputError(f"revision {revision!r}: goes with models of the hub, not with a Keras model")
    try:
        from toolkit.graph.keras_back import keras_checkpoint
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "tensorflow", "convert") from error
    return keras_checkpoint(source, settings, task)


def _is_keras(source: Any) -> TypeGuard[str | Path | keras.Model]:
    if isinstance(source, str | Path):
        return Path(source).suffix == ".keras" and Path(source).is_file()
    # whoever holds such a model has imported Keras
    return "keras" in sys.modules and isinstance(source, sys.modules["keras"].Model)
