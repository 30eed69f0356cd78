"""What may be set on a checkpoint before it is read, as users of sentence-transformers set it on a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from toolkit.errors import ArtifactError, InputError

__all__ = ["POOLING_MODES", "SourceSettings", "stamped_settings"]

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class SourceSettings:
    """``None`` leaves what the checkpoint says.

    ``truncate_dim`` cuts the embedding and ``max_seq_length`` the text, in tokens; ``prompt_name`` is the prompt that
    is put before each text, as by ``encode(prompt_name=...)``; ``pooling`` is for an encoder without modules of its
    own.
    Raises ``InputError`` for values that are not usable with any checkpoint.
    """

    truncate_dim: int | None = None
    max_seq_length: int | None = None
    prompt_name: str | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        for name in ("truncate_dim", "max_seq_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; a positive number is needed")
        if self.pooling is not None and self.pooling not in POOLING_MODES:
            raise InputError(f"pooling is {self.pooling!r}; there are: {', '.join(POOLING_MODES)}")

    def to_json(self) -> dict[str, Any]:
        """Those that are set, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def stamped_settings(provenance: Mapping[str, Any] | None) -> SourceSettings:
    """The settings that an artifact was exported with. Raises ``ArtifactError`` where they cannot be read."""
    stamp = ((provenance or {}).get("source") or {}).get("settings") or {}
    try:
        return SourceSettings(**stamp)
    except TypeError as error:
        raise ArtifactError(f"provenance.json: source.settings is {stamp!r}: {error}") from error
