"""The way back: what a family's ``stored`` made of a checkpoint's tensors, as those tensors.

``stored`` moves numbers and computes nothing. So it is given tensors that hold the place of each number in its stead,
and what comes out tells where every number belongs: families need not say it a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.encoder.family import EncoderSpec

__all__ = ["Places"]

Array = npt.NDArray[np.float32]


class Places:
    """Where the numbers of ``spec.stored()`` stand in a checkpoint with tensors of these names and ``shapes``.

    ``names`` are the tensors that it takes its numbers from, each of them whole.
    """

    def __init__(self, spec: EncoderSpec, shapes: Mapping[str, tuple[int, ...]]) -> None:
        sizes = [math.prod(shape) for shape in shapes.values()]
        self._starts = dict(zip(shapes, accumulate(sizes, initial=0), strict=False))
        self._shapes, self._total = dict(shapes), sum(sizes)
        kind = np.int32 if self._total < 2**31 else np.int64
        tensors: Any = {
            name: np.arange(start, start + math.prod(shapes[name]), dtype=kind).reshape(shapes[name])
            for name, start in self._starts.items()
        }
        self._places = {name: places.reshape(-1) for name, places in replace(spec, tensors=tensors).stored().items()}
        used = np.zeros(self._total, bool)
        for places in self._places.values():
            used[places] = True
        self.names = tuple(name for name in shapes if used[self._span(name)].all())

    def put_back(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors ``names``, float32, of which ``stored`` was made."""
        flat = np.empty(self._total, np.float32)
        for name, places in self._places.items():
            flat[places] = stored[name].reshape(-1)
        return {name: flat[self._span(name)].reshape(self._shapes[name]) for name in self.names}

    def _span(self, name: str) -> slice:
        start = self._starts[name]
        return slice(start, start + math.prod(self._shapes[name]))
