"""What a library offers the benchmark: ways to encode one request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.encoders.grouping import Grouping, candidates
from benchmarks.encoders.texts import Ids, TextSet, padded

__all__ = ["ENGINES", "Engine", "Spec", "Vectors", "grouped"]

Vectors = npt.NDArray[np.float32]
Way = Callable[[TextSet, Sequence[int]], Any]
Dense = Callable[[Ids, Ids], Vectors]

ENGINES = ("gemm", "onnx_runtime", "openvino", "ours", "sentence_transformer")
"""Modules of this package with ``load(spec) -> Engine``."""


@dataclass(frozen=True)
class Spec:
    """A worker to start: the ``engine`` module, the ``model`` file or folder, CPU ``cores``, the sets' file."""

    engine: str
    model: str
    cores: tuple[int, ...]
    sets: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return len(self.cores)

    @property
    def path(self) -> Path:
        return Path(self.model)


@dataclass(frozen=True)
class Engine:
    """A loaded model. ``ways(batch)`` are the ways to encode a request of ``batch`` rows, by name; the best is taken.

    A way is called with a text set and row numbers, and returns float vectors ``[rows, dim]`` in their order.
    With ``whole`` it is given all texts of a measurement at once instead, and makes batches of ``batch`` itself.
    ``versions`` are those of the libraries that do the work.
    """

    ways: Callable[[int], Mapping[str, Way]]
    versions: Mapping[str, str]
    whole: bool = False


def grouped(graphs: Mapping[str, Dense]) -> Callable[[int], Mapping[str, Way]]:
    """Ways of a library that takes padded batches: each graph with each length-sorted grouping."""

    def way(dense: Dense, grouping: Grouping) -> Way:
        def encode(texts: TextSet, numbers: Sequence[int]) -> Vectors:
            rows = [texts.ids[number] for number in numbers]
            if len(rows) == 1:
                return dense(*padded(rows))
            groups = grouping.groups(np.fromiter(map(len, rows), np.int64, len(rows)))
            parts = [dense(*padded([rows[at] for at in group])) for group in groups]
            vectors = np.empty((len(rows), parts[0].shape[1]), np.float32)
            vectors[np.concatenate(groups)] = np.concatenate(parts)
            return vectors

        return encode

    def ways(batch: int) -> dict[str, Way]:
        return {
            f"{name}{', ' if name else ''}{grouping}": way(dense, grouping)
            for name, dense in graphs.items()
            for grouping in candidates(batch)
        }

    return ways
