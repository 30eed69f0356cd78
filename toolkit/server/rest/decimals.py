"""Numbers as text, as TF Serving writes them: six significant digits where they read back to the same value,
else nine (float32) or seventeen (float64); whole numbers keep a ``.0``; NaN and Infinity are bare words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["decimal", "decimals"]


def decimal(value: np.floating) -> str:
    """One float32 or float64 as text."""
    kind = type(value)
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    number = float(value)
    text = f"{number:.6g}"
    if kind(text) != value:
        text = f"{number:.{9 if kind is np.float32 else 17}g}"
    return text if "." in text or "e" in text else text + ".0"


def decimals(values: npt.NDArray[np.floating]) -> list[str]:
    """A flat float32 or float64 array as texts; the bulk is formatted by one ``%`` operation in C."""
    if not values.size:
        return []
    template = "%.9g " if values.dtype == np.float32 else "%.17g "
    texts = (template * values.size % tuple(values.tolist())).split(" ")
    texts.pop()
    for index in np.flatnonzero(_special(values)):
        texts[index] = decimal(values[index])
    return texts


def _special(values: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Where the long form may not be the right text: whole, not finite, or perhaps exact in six digits.

    A superset: `decimal` decides.
    """
    magnitude = np.abs(values.astype(np.float64))
    with np.errstate(all="ignore"):
        scale = 10.0 ** (5.0 - np.floor(np.log10(magnitude)))
        short = (np.rint(magnitude * scale) / scale).astype(values.dtype)
        whole = np.rint(magnitude) == magnitude
        tiny = ~np.isfinite(scale)
    near = np.isclose(short, np.abs(values), rtol=float(np.finfo(values.dtype).eps), atol=0.0)
    special: npt.NDArray[np.bool_] = whole | ~np.isfinite(values) | tiny | near
    return special
