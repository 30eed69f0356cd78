"""What a tokenizer's graph does, step by step: a checkpoint's, a ``tokenizer.json``'s, or as an artifact records it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.artifact.savedmodel import read_provenance
from toolkit.errors import ArtifactError, InputError, SourceError, SourceNotice
from toolkit.source.checkpoint import open_checkpoint
from toolkit.tokenizer import TokenizerSource, TokenizerSpec, build_tokenizer, read_tokenizer, reference_tokenizer
from toolkit.tokenizer.bare import compare_bare

__all__ = ["StepResult", "inspect_tokenizer"]


@dataclass(frozen=True)
class StepResult:
    """A step as it prints itself, and what it makes of a text: a string with marks as escapes, or tokens with ids."""

    step: str
    result: str | list[tuple[int, str]] | None = None


def inspect_tokenizer(source: str | Path, text: str | None = None) -> tuple[StepResult, ...]:
    """The steps of the tokenizer of ``source``, with their results on ``text`` if it is given.

    ``source`` is a version directory, a ``tokenizer.json``, a checkpoint's folder or a hub id. Raises ``InputError``
    for a text with an artifact, which records its steps only; ``ArtifactError`` for one without a record;
    ``SourceError`` or ``UnsupportedError`` for what cannot be converted.
    """
    path = Path(source)
    if (path / "saved_model.pb").is_file():
        if text is not None:
            raise InputError(f"{path}: --text needs the checkpoint; an artifact only records the steps")
        steps = (read_provenance(path) or {}).get("tokenizer")
        if steps is None:
            raise ArtifactError(f"{path}: its provenance does not record the tokenizer's steps")
        return tuple(map(StepResult, steps))
    spec = read_tokenizer(_source(path, source))
    graph = build_tokenizer(spec)
    if text is None:
        return tuple(StepResult(str(step)) for step in graph.steps)
    import tensorflow as tf

    traced = graph.trace(tf.constant([text.encode("utf-8", "surrogateescape")]))
    return tuple(StepResult(str(step), _shown(spec, value)) for step, value in traced)


def _source(path: Path, source: str | Path) -> TokenizerSource:
    checkpoint = path.is_dir() and any((path / name).is_file() for name in ("modules.json", "config.json"))
    file = path / "tokenizer.json" if path.is_dir() and not checkpoint else path
    if not file.is_file():
        loaded = open_checkpoint(source)
        bare = compare_bare(loaded.tokenizer_file, loaded.tokenizer) if loaded.tokenizer_file else None
        if bare is not None and bare.differences:
            warnings.warn(str(bare), SourceNotice, stacklevel=3)
        return loaded.tokenizer
    try:
        return TokenizerSource(file.read_text(encoding="utf-8"), str(file), None)
    except (OSError, ValueError) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error


def _shown(spec: TokenizerSpec, value: Any) -> str | list[tuple[int, str]]:
    if hasattr(value, "ids"):
        token = reference_tokenizer(spec).id_to_token
        return [(int(token_id), str(token(int(token_id)))) for token_id in value.ids.numpy()]
    # Marks that are no characters show as escapes.
    return str(value.numpy()[0].decode("utf-8", "surrogatepass").encode("utf-8", "backslashreplace").decode())
