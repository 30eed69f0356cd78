"""The two halves of a product whose result a gate takes apart.

In float32 and bfloat16 each is a product of its own. Cut out of one result they would be copied, which at Qwen3-0.6B's
sizes takes three hundredths of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

__all__ = ["HALVES", "cut", "halved", "together"]

HALVES = ("gate", "inner")
"""What the halves of ``layer_0/intermediate`` are called behind its name."""


def cut(values: Any) -> tuple[Any, Any]:
    """Both halves of the last axis, of a tensor or an array."""
    # Not tf.split: the optimizer takes an operation's first result for each of its results in some patterns.
    half = values.shape[-1] // 2
    return values[..., :half], values[..., half:]


def halved(parameters: dict[str, npt.NDArray[Any]], inner: int) -> dict[str, npt.NDArray[Any]]:
    """An encoder's ``parameters``, in which each product to twice ``inner`` numbers, the feed-forward layers' size, is
    two. They are emptied, so that a large model is in memory once."""
    kernel = "/intermediate/kernel"
    gated = {name for name in parameters if name.endswith(kernel) and parameters[name].shape[1] == 2 * inner}
    found: dict[str, npt.NDArray[Any]] = {}
    for name in list(parameters):
        array = parameters.pop(name)
        product, _, part = name.rpartition("/")
        if f"{product}/kernel" in gated:
            cuts = zip(HALVES, cut(array), strict=True)
            found |= {f"{product}/{half}/{part}": np.ascontiguousarray(values) for half, values in cuts}
        else:
            found[name] = array
    return found


def together(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same as ``halved`` was given."""
    found = dict(values)
    first, second = (f"/{half}/" for half in HALVES)
    for name in [name for name in values if first in name]:
        parts = [found.pop(name), found.pop(name.replace(first, second))]
        found[name.replace(first, "/")] = tf.concat(parts, -1)
    return found
