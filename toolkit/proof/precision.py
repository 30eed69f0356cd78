"""The precisions an encoder's products can be exported in, and how close to the original each has to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import InputError
from toolkit.proof.comparison import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRECISIONS", "Precision", "stamped_bounds"]

_EXACT = "float32"
# name -> what is asked for unless the caller says: the smallest cosine of a vector, the largest difference of a score
_MIN_COSINE: dict[str, float] = {"bfloat16": 0.9999, "int8": 0.995}
_MAX_DIFFERENCE: dict[str, float] = {"bfloat16": 0.02, "int8": 0.05}
PRECISIONS: tuple[str, ...] = (_EXACT, *_MIN_COSINE)


@dataclass(frozen=True)
class Precision:
    """What an export is asked for.

    ``min_cosine`` is the smallest cosine that any vector may have with the original's (``None``: 0.9999 for bfloat16,
    0.995 for int8); ``max_difference`` what any score may differ by from the original's, and where that is above 1 the
    share of it (``None``: 0.02 for bfloat16, 0.05 for int8); ``calibration`` a UTF-8 file of texts, one a line, for
    int8 (``None``: a built-in set).

    Raises :class:`~toolkit.errors.InputError` for an unknown precision, and for what does not go with it.
    """

    name: str = _EXACT
    min_cosine: float | None = None
    max_difference: float | None = None
    calibration: str | Path | None = None

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise InputError(f"precision {self.name!r}: not supported; supported: {', '.join(PRECISIONS)}")
        for field in ("min_cosine", "max_difference"):
            if (value := getattr(self, field)) is None:
                continue
            if self.name == _EXACT:
                raise InputError(f"{field}: is for bfloat16 and int8; float32 is held to the bounds of the check")
            if not 0 < value < 1:
                raise InputError(f"{field} {value}: expected a number above 0 and below 1")
        if self.calibration is not None and self.name != "int8":
            raise InputError(f"calibration: is for int8, of products or of vectors; {self.name} needs none")

    def require_fit(self, *, scores: bool) -> None:
        """Raise ``InputError`` for a bound of vectors where a model gives ``scores``, and the other way round."""
        given, right = ("min_cosine", "max_difference") if scores else ("max_difference", "min_cosine")
        if getattr(self, given) is not None:
            answers = "scores" if scores else "vectors"
            raise InputError(f"{given}: this model gives {answers}, which {right} is for")

    def loss(self, *, scores: bool) -> float:
        """What an answer may lose at most: 1 - its cosine, or of ``scores`` the difference. Not for float32."""
        if scores:
            return self.max_difference if self.max_difference is not None else _MAX_DIFFERENCE[self.name]
        return 1 - (self.min_cosine if self.min_cosine is not None else _MIN_COSINE[self.name])

    def stamp(self, *, scores: bool) -> dict[str, Any]:
        """What the provenance says of it."""
        if self.name == _EXACT:
            return {"name": self.name, "min_cosine": None}
        if scores:
            return {"name": self.name, "max_difference": self.loss(scores=True)}
        return {"name": self.name, "min_cosine": self.min_cosine or _MIN_COSINE[self.name]}


def stamped_bounds(provenance: Mapping[str, Any] | None) -> Bounds:
    """The bounds that an artifact was exported with, from its provenance; those of float32 where it names none."""
    stamp = (provenance or {}).get("precision")
    stamp = stamp if isinstance(stamp, dict) else {}
    if isinstance(difference := stamp.get("max_difference"), int | float):
        return Bounds(max_abs=difference, relative=True)
    cosine = stamp.get("min_cosine")
    if not isinstance(cosine, int | float):
        return Bounds()
    return Bounds(max_abs=None, max_cosine_distance=1 - cosine)
