"""Two sets of answers side by side: figures for every stage, and the first stage that diverges.

What is compared is a task's own business (:mod:`toolkit.proof.tasks`); how, and what comes of it, is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import CheckError
from toolkit.proof.clusters import PooledFigure
from toolkit.proof.quantized import QuantizedFigure

__all__ = [
    "HIDDEN_TOLERANCE",
    "Arrays",
    "Bounds",
    "CheckReport",
    "Comparison",
    "Divergence",
    "SparseFigure",
    "StageFigure",
]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# Intermediate values may be large, so their tolerance scales with them; the final vector's bound does not. Hidden
# states have gone through the most operations and are averaged away by pooling: they are given ten times as much.
HIDDEN_TOLERANCE = 10.0


@dataclass(frozen=True)
class Bounds:
    """What counts as equal: largest absolute difference of a component, largest cosine distance of a vector.

    Without ``max_abs``, for artifacts of lower precision, only the cosine decides; or, for those that give scores,
    ``max_abs`` is ``relative``: of a number above 1 that share of it.
    """

    max_abs: float | None = 1e-5
    max_cosine_distance: float = 1e-6
    relative: bool = False

    def allows(self, ours: Array, theirs: Array) -> bool:
        """Whether numbers of the same shape are within ``max_abs``."""
        if self.max_abs is None:
            return True
        scale = np.maximum(1.0, np.abs(theirs)) if self.relative else 1.0
        return _largest_difference(ours / scale, theirs / scale) <= self.max_abs


@dataclass(frozen=True)
class StageFigure:
    """Largest absolute difference seen after one stage, and the magnitude of the values there."""

    stage: str
    max_abs: float
    magnitude: float


@dataclass(frozen=True)
class SparseFigure:
    """Of one signature: how many numbers were ``active`` in the original's vectors that were compared, and how many are
    active on one side alone (``off``), since they lie within the bound of 0, or of the last one that is kept."""

    signature: str
    active: int
    off: int

    def __str__(self) -> str:
        return f"{self.off} of {self.active} active on one side"


@dataclass(frozen=True)
class Divergence:
    """The first stage that differs, for the first text where it does; ``detail`` says how."""

    stage: str
    text: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """Figures of a check. ``comparisons`` counts ``unit``, of each row alone and in batches of several sizes.

    Cosine distances are those of vectors; ``None`` where answers are none. ``neighbours`` is the share of the ten texts
    nearest to each text by the original's vectors that are still among its nearest by the artifact's; ``None`` where
    there are too few texts to tell. ``rank_correlation`` is Spearman's, of the similarities of all pairs of texts by
    the artifact's vectors and by the original's; ``None`` likewise. ``quantized`` are figures of the signatures whose
    embeddings are, ``sparse`` of those whose vectors are, and ``pooled`` of those that make one of several vectors.
    """

    texts: int
    comparisons: int
    token_ids_equal: bool
    max_abs: float
    max_cosine_distance: float | None
    mean_cosine_distance: float | None
    neighbours: float | None
    bounds: Bounds
    stages: tuple[StageFigure, ...]
    divergence: Divergence | None
    quantized: tuple[QuantizedFigure, ...] = ()
    unit: str = "vectors"
    sparse: tuple[SparseFigure, ...] = ()
    rank_correlation: float | None = None
    pooled: tuple[PooledFigure, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all token ids are equal and all answers within the bounds."""
        return self.divergence is None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, ``passed`` included."""
        return {"passed": self.passed, **asdict(self)}

    def require_passed(self) -> None:
        """Raise ``CheckError`` naming the first diverging stage, unless the check passed."""
        if self.divergence is not None:
            d = self.divergence
            raise CheckError(f"the artifact differs from the original, first at {d.stage}: {d.detail}; text {d.text!r}")


class Comparison:
    """Collects figures and divergences of rows, which are shown as ``shown`` says; stages rank in the order in which
    they are first seen, behind ``first``."""

    def __init__(self, shown: Sequence[str], bounds: Bounds, first: Sequence[str] = ("token ids",)) -> None:
        self.shown = shown
        self.bounds = bounds
        self.comparisons = 0
        self.max_abs = 0.0
        self.ids_equal = True
        self.failed = False
        self.figures: dict[str, StageFigure] = {}
        self.cosines: list[float] = []
        self._ranks = {stage: rank for rank, stage in enumerate(first)}
        self._divergences: list[tuple[int, int, Divergence]] = []

    def note(self, stage: str, row: int, detail: str) -> None:
        """A stage that differs, by rounding perhaps."""
        rank = self._ranks.setdefault(stage, len(self._ranks))
        self._divergences.append((rank, row, Divergence(stage, self.shown[row], detail)))

    def fail(self, stage: str, row: int, detail: str) -> None:
        """A stage that differs and must not."""
        self.failed = True
        self.note(stage, row, detail)

    def first(self) -> Divergence | None:
        """The earliest stage that diverges; rounding in between does not count if the results are equal."""
        return min(self._divergences, key=lambda item: item[:2])[2] if self.failed else None

    def seen(self, stage: str) -> None:
        """Give ``stage`` its place."""
        self._ranks.setdefault(stage, len(self._ranks))

    def ids(self, row: int, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
        """Compare a row's token ids; whether they are equal."""
        if ours == theirs:
            return True
        self.ids_equal = False
        self.fail("token ids", row, f"{_clip(ours)} instead of {_clip(theirs)}")
        return False

    def stage(self, stage: str, row: int, ours: Array, theirs: Array, factor: float = 1.0) -> None:
        """Compare an intermediate value: within ``factor`` times the bound, where there is one."""
        self.seen(stage)
        if ours.shape != theirs.shape:
            self.note(stage, row, f"shape {ours.shape} instead of {theirs.shape}")
            return
        difference, magnitude = self._figure(stage, ours, theirs)
        bound = self.bounds.max_abs
        if bound is not None and not difference <= factor * bound * max(1.0, magnitude):
            self.note(stage, row, f"max abs difference {difference:.3g}")

    def answer(self, stage: str, row: int, ours: Array, theirs: Array, *, cosine: bool = False) -> None:
        """Compare a final answer, which decides: by its numbers, and as a vector if its ``cosine`` counts."""
        self.seen(stage)
        if ours.shape != theirs.shape:
            self.fail(stage, row, f"shape {ours.shape} instead of {theirs.shape}")
            return
        difference, _ = self._figure(stage, ours, theirs)
        self.comparisons += 1
        self.max_abs = max(self.max_abs, difference)
        equal = self.bounds.allows(ours, theirs)
        detail = f"max abs difference {difference:.3g}"
        if cosine:
            self.cosines.append(distance := _cosine_distance(ours, theirs))
            equal = equal and distance <= self.bounds.max_cosine_distance
            detail += f", cosine distance {distance:.3g}"
        if not equal:
            self.fail(stage, row, detail)

    def _figure(self, stage: str, ours: Array, theirs: Array) -> tuple[float, float]:
        difference, magnitude = _largest_difference(ours, theirs), float(np.max(np.abs(theirs), initial=0.0))
        before = self.figures.get(stage, StageFigure(stage, 0.0, 0.0))
        self.figures[stage] = StageFigure(stage, max(before.max_abs, difference), max(before.magnitude, magnitude))
        return difference, magnitude

    def report(self, **further: Any) -> CheckReport:
        """What came of it; ``further`` are fields of the report that only some tasks have."""
        return CheckReport(
            **{
                "texts": len(self.shown),
                "comparisons": self.comparisons,
                "token_ids_equal": self.ids_equal,
                "max_abs": self.max_abs,
                "max_cosine_distance": max(self.cosines, default=0.0),
                "mean_cosine_distance": sum(self.cosines) / max(1, len(self.cosines)),
                "neighbours": None,
                "bounds": self.bounds,
                "stages": tuple(self.figures.values()),
                "divergence": self.first(),
                **further,
            }
        )


def _largest_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Largest absolute difference; infinite where one side is not a number and the other is, or both infinite apart."""
    if a.size == 0:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference)))


def _cosine_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """1 - cosine in float64, clipped at 0; two zero vectors are at distance 0. Of several vectors the largest."""
    if a.ndim > 1:
        return max((_cosine_distance(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norm == 0.0:
        return 0.0 if not x.any() and not y.any() else 1.0
    return max(0.0, 1.0 - float(x @ y) / norm)


def _clip(ids: tuple[int, ...]) -> str:
    shown = ", ".join(str(token) for token in ids[:24])
    return f"[{shown}{', ...' if len(ids) > 24 else ''}]"
