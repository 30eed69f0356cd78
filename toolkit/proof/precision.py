"""The precisions an encoder's products can be exported in, and how close to the original each has to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import InputError
from toolkit.proof.comparison import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["PRECISIONS", "Precision", "stamped_bounds"]

# name -> the smallest cosine that is asked for unless the caller says; None: exact, bounded by differences
_MIN_COSINE: dict[str, float | None] = {"float32": None, "bfloat16": 0.9999, "int8": 0.995}
PRECISIONS: tuple[str, ...] = tuple(_MIN_COSINE)


@dataclass(frozen=True)
class Precision:
    """What an export is asked for.

    ``min_cosine`` is the smallest cosine that any vector may have with the original's (``None``: 0.9999 for bfloat16,
    0.995 for int8); ``calibration`` a UTF-8 file of texts, one a line, for int8 (``None``: a built-in set).

    Raises :class:`~toolkit.errors.InputError` for an unknown precision, and for what does not go with it.
    """

    name: str = "float32"
    min_cosine: float | None = None
    calibration: str | Path | None = None

    def __post_init__(self) -> None:
        if self.name not in _MIN_COSINE:
            raise InputError(f"precision {self.name!r}: not supported; supported: {', '.join(PRECISIONS)}")
        if self.min_cosine is not None and self.name == "float32":
            raise InputError("min_cosine: is for bfloat16 and int8; float32 is held to the bounds of the check")
        if self.min_cosine is not None and not 0 < self.min_cosine < 1:
            raise InputError(f"min_cosine {self.min_cosine}: expected a number above 0 and below 1")
        if self.calibration is not None and self.name != "int8":
            raise InputError(f"calibration: is for int8, of products or of vectors; {self.name} needs none")

    @property
    def required_cosine(self) -> float | None:
        """The smallest cosine allowed; ``None`` for float32."""
        return self.min_cosine if self.min_cosine is not None else _MIN_COSINE[self.name]


def stamped_bounds(provenance: Mapping[str, Any] | None) -> Bounds:
    """The bounds that an artifact was exported with, from its provenance; those of float32 where it names none."""
    stamp = (provenance or {}).get("precision")
    cosine = stamp.get("min_cosine") if isinstance(stamp, dict) else None
    if not isinstance(cosine, int | float):
        return Bounds()
    return Bounds(max_abs=None, max_cosine_distance=1 - cosine)
