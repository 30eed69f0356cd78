"""Accounting for a checkpoint's tensors: each is consumed once, with the shape the configuration implies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError

__all__ = ["Weights"]


class Weights:
    """Hands out tensors by name; ``finish`` refuses what nobody asked for.

    ``ignore`` lists prefixes of tensors that take no part in a sentence embedding.
    """

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.float32]], ignore: tuple[str, ...] = ()) -> None:
        self._left = {name: tensor for name, tensor in tensors.items() if not name.startswith(ignore)}
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The tensor called ``name``, float32. Raises ``SourceError`` if missing, taken before or of another shape."""
        if name not in self._left:
            state = "was used twice" if name in self._taken else "is missing"
            raise SourceError(f"weights: tensor {name!r} {state}")
        tensor = self._left.pop(name)
        self._taken.add(name)
        if tensor.shape != shape:
            raise SourceError(f"weights: {name} has shape {tensor.shape}, the configuration says {shape}")
        return np.asarray(tensor, np.float32)

    def finish(self) -> None:
        """Raise ``SourceError`` if a tensor was not consumed."""
        if self._left:
            names = sorted(self._left)
            raise SourceError(f"weights: {len(names)} tensors have no place in the model, first {names[0]!r}")
