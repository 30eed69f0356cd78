"""Quantized embeddings against the original's: equal bits, except where a float lies within the bound of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.signatures import TextSignature

__all__ = ["QuantizedFigure", "compare_quantized"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuantizedFigure:
    """Of one signature: how many ``values`` were compared, and how many are a step ``off`` the original's, since its
    float lies within the bound of that step."""

    signature: str
    values: int
    off: int

    def __str__(self) -> str:
        return f"{self.off} of {self.values} a step off"


def compare_quantized(
    signature: TextSignature, ours: Array, floats: Array, bound: float, ranges: Array | None
) -> tuple[int, str | None]:
    """Compare one quantized embedding with the ``floats`` ``[dim]`` that it stands for: how many values are another
    step than theirs, and what is wrong, if anything.

    The quantizer never falls as its input rises, so a value is right if it lies between those of the floats less the
    ``bound`` and plus the bound.
    """
    if (ours.dtype, ours.shape) != (np.dtype(signature.dtype), (signature.size,)):
        return 0, f"{ours.dtype} {ours.shape} instead of {signature.dtype} {(signature.size,)}"
    kind = str(signature.quantized)
    found = _steps(kind, ours)
    low, exact, high = (_steps(kind, _quantize(kind, floats + change, ranges)) for change in (-bound, 0.0, bound))
    wrong = np.flatnonzero((found < low) | (found > high))
    if wrong.size:
        place = int(wrong[0])
        return 0, f"number {place} is {found[place]} instead of {exact[place]}"
    return int(np.count_nonzero(found != exact)), None


def _quantize(kind: Any, floats: Array, ranges: Array | None) -> Array:
    from sentence_transformers.util import quantize_embeddings

    made: Array = np.asarray(quantize_embeddings(floats.astype(np.float32)[None], kind, ranges))[0]
    return made


def _steps(kind: str, values: Array) -> Array:
    """One whole number for each number of the embedding (and for each bit that fills up the last byte)."""
    if kind == "binary":
        values = (values.astype(np.int16) + 128).astype(np.uint8)
    if kind in ("binary", "ubinary"):
        values = np.unpackbits(values)
    return values.astype(np.int16)
