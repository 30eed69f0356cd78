"""Two sets of answers side by side: figures for every stage, and the first stage that diverges.

Pure: arrays of an artifact (as ``toolkit.proof.artifact_runner`` names them) against ``ReferenceAnswer``s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import CheckError
from toolkit.proof.quantized import QuantizedFigure, compare_quantized
from toolkit.proof.reference import ReferenceAnswer
from toolkit.signatures import DEFAULT_SIGNATURE, TextSignature

__all__ = ["Arrays", "Bounds", "CheckReport", "Divergence", "StageFigure", "compare"]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# Intermediate values may be large, so their tolerance scales with them; the final vector's bound does not. Hidden
# states have gone through the most operations and are averaged away by pooling: they are given ten times as much.
HIDDEN_TOLERANCE = 10.0
NEIGHBOURS = 10
AGAIN = 1e-6
"""How far a float may be from what the same graph gives for it another time."""
VECTORS = ("serving_default", "embedding")


@dataclass(frozen=True)
class Bounds:
    """What counts as equal: largest absolute difference of a component, largest cosine distance of a vector.

    Without ``max_abs``, for artifacts of lower precision, only the cosine decides.
    """

    max_abs: float | None = 1e-5
    max_cosine_distance: float = 1e-6


@dataclass(frozen=True)
class StageFigure:
    """Largest absolute difference seen after one stage, and the magnitude of the values there."""

    stage: str
    max_abs: float
    magnitude: float


@dataclass(frozen=True)
class Divergence:
    """The first stage that differs, for the first text where it does; ``detail`` says how."""

    stage: str
    text: str
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """Figures of a check. ``comparisons`` counts vectors: each text alone and in batches of several sizes.

    ``neighbours`` is the share of the ``NEIGHBOURS`` texts nearest to each text by the original's vectors that are
    still among its nearest by the artifact's; ``None`` where there are too few texts to tell. ``quantized`` are figures
    of the signatures whose embeddings are.
    """

    texts: int
    comparisons: int
    token_ids_equal: bool
    max_abs: float
    max_cosine_distance: float
    mean_cosine_distance: float
    neighbours: float | None
    bounds: Bounds
    stages: tuple[StageFigure, ...]
    divergence: Divergence | None
    quantized: tuple[QuantizedFigure, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all token ids are equal and all vectors within the bounds."""
        return self.divergence is None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, ``passed`` included."""
        return {"passed": self.passed, **asdict(self)}

    def require_passed(self) -> None:
        """Raise ``CheckError`` naming the first diverging stage, unless the check passed."""
        if self.divergence is not None:
            d = self.divergence
            raise CheckError(f"the artifact differs from the original, first at {d.stage}: {d.detail}; text {d.text!r}")


class _Comparison:
    """Collects figures and divergences; stages rank in the order in which they are first seen."""

    def __init__(self, texts: Sequence[str], bounds: Bounds) -> None:
        self.texts = texts
        self.bounds = bounds
        self.comparisons = 0
        self.max_abs = 0.0
        self.max_cosine = 0.0
        self.sum_cosine = 0.0
        self.vectors: dict[int, Array] = {}
        self.ids_equal = True
        self.failed = False
        self.figures: dict[str, StageFigure] = {}
        self.quantized_figures: dict[str, QuantizedFigure] = {}
        self._ranks = {"token ids": 0, "number of tokens": 1}
        self._divergences: list[tuple[int, int, Divergence]] = []

    def note(self, stage: str, text: int, detail: str) -> None:
        rank = self._ranks.setdefault(stage, len(self._ranks))
        self._divergences.append((rank, text, Divergence(stage, self.texts[text], detail)))

    def first(self) -> Divergence | None:
        """The earliest stage that diverges; rounding in between does not count if the results are equal."""
        return min(self._divergences, key=lambda item: item[:2])[2] if self.failed else None

    def tokens(self, text: int, ids: tuple[int, ...], count: int, truncated: bool, reference: ReferenceAnswer) -> bool:
        """Compare ids and counts; whether the ids are equal."""
        if ids != reference.input_ids:
            self.ids_equal, self.failed = False, True
            self.note("token ids", text, f"{_clip(ids)} instead of {_clip(reference.input_ids)}")
            return False
        expected = (reference.num_tokens, len(reference.input_ids) < reference.num_tokens)
        if (count, truncated) != expected:
            self.failed = True
            detail = f"{count}, truncated {truncated} instead of {expected[0]}, {expected[1]}"
            self.note("number of tokens", text, detail)
        return True

    def stage(self, stage: str, text: int, ours: Array, theirs: Array, factor: float = 1.0) -> None:
        """Compare an intermediate value: within ``factor`` times the bound, where there is one."""
        self._ranks.setdefault(stage, len(self._ranks))
        if ours.shape != theirs.shape:
            self.note(stage, text, f"shape {ours.shape} instead of {theirs.shape}")
            return
        difference, magnitude = self._figure(stage, ours, theirs)
        bound = self.bounds.max_abs
        if bound is not None and not difference <= factor * bound * max(1.0, magnitude):
            self.note(stage, text, f"max abs difference {difference:.3g}")

    def vector(self, text: int, ours: Array, theirs: Array, signature: str | None = None) -> None:
        """Compare a final embedding, which decides; that of another ``signature`` than those of the default one."""
        stage = signature or "embedding"
        self._ranks.setdefault(stage, len(self._ranks))
        if ours.shape != theirs.shape:
            self.failed = True
            self.note(stage, text, f"shape {ours.shape} instead of {theirs.shape}")
            return
        difference, _ = self._figure(stage, ours, theirs)
        cosine = _cosine_distance(ours, theirs)
        self.comparisons += 1
        self.sum_cosine += cosine
        if signature is None:
            self.vectors.setdefault(text, ours)
        self.max_abs, self.max_cosine = max(self.max_abs, difference), max(self.max_cosine, cosine)
        exact = self.bounds.max_abs is None or difference <= self.bounds.max_abs
        if not (exact and cosine <= self.bounds.max_cosine_distance):
            self.failed = True
            self.note(stage, text, f"max abs difference {difference:.3g}, cosine distance {cosine:.3g}")

    def quantized(
        self, signature: TextSignature, text: int, ours: Array, floats: Array, bound: float, ranges: Array | None
    ) -> None:
        """Compare a quantized embedding with the floats that it stands for."""
        self._ranks.setdefault(signature.name, len(self._ranks))
        off, wrong = compare_quantized(signature, ours, floats, bound, ranges)
        before = self.quantized_figures.get(signature.name, QuantizedFigure(signature.name, 0, 0))
        self.quantized_figures[signature.name] = QuantizedFigure(
            signature.name, before.values + signature.dim, before.off + off
        )
        if wrong is not None:
            self.failed = True
            self.note(signature.name, text, wrong)

    def _figure(self, stage: str, ours: Array, theirs: Array) -> tuple[float, float]:
        difference, magnitude = _largest_difference(ours, theirs), float(np.max(np.abs(theirs), initial=0.0))
        before = self.figures.get(stage, StageFigure(stage, 0.0, 0.0))
        self.figures[stage] = StageFigure(stage, max(before.max_abs, difference), max(before.magnitude, magnitude))
        return difference, magnitude


def compare(
    texts: Sequence[str],
    references: Sequence[ReferenceAnswer],
    batches: Sequence[Sequence[int]],
    arrays: Arrays,
    bounds: Bounds,
    further: Sequence[TextSignature] = (),
    ranges: Mapping[str, Array] | None = None,
) -> CheckReport:
    """Compare an artifact's answers for ``batches`` (text numbers) with the references of all texts.

    The ``further`` signatures' answers are looked at too; those in 256 steps are quantized by ``ranges``.
    """
    comparison = _Comparison(texts, bounds)
    for number, batch in enumerate(batches):
        outputs = {key.split("/", 1)[1]: value for key, value in arrays.items() if key.startswith(f"{number}/")}
        stages = sorted((key for key in outputs if key.startswith("stage/")), key=_stage_number)
        for row, text in enumerate(batch):
            reference = references[text]
            mask = outputs["attention_mask"][row].astype(bool)
            ids = tuple(int(token) for token in outputs["input_ids"][row][mask])
            count, truncated = int(outputs["num_tokens"][row]), bool(outputs["truncated"][row])
            if not comparison.tokens(text, ids, count, truncated, reference):
                continue  # other tokens give another vector: nothing to learn from it
            if "hidden" in outputs:
                hidden = outputs["hidden"][row][mask]
                comparison.stage("hidden state", text, hidden, reference.hidden, HIDDEN_TOLERANCE)
            for key, theirs in zip(stages, reference.stages, strict=True) if stages else ():
                comparison.stage(key.removeprefix("stage/"), text, outputs[key][row], theirs)
            for key in VECTORS:
                comparison.vector(text, outputs[key][row], reference.embedding)
            if "embed_tokens" in outputs:
                comparison.vector(text, outputs["embed_tokens"][row], reference.of_tokens)
                floats = {DEFAULT_SIGNATURE: outputs[DEFAULT_SIGNATURE][row]}
                for item in further:
                    ours = outputs[f"text/{item.name}"][row]
                    if item.quantized is None:
                        comparison.vector(text, ours, reference.further[item.name], item.name)
                        floats[item.name] = ours
                    else:  # where floats need not be the original's, bits are those of the artifact's own
                        exact = bounds.max_abs is not None
                        theirs = reference.further[item.floats] if exact else floats[item.floats]
                        bound = bounds.max_abs if bounds.max_abs is not None else AGAIN
                        comparison.quantized(item, text, ours, theirs, bound, (ranges or {}).get(item.ranges or ""))
    return CheckReport(
        texts=len(texts),
        comparisons=comparison.comparisons,
        token_ids_equal=comparison.ids_equal,
        max_abs=comparison.max_abs,
        max_cosine_distance=comparison.max_cosine,
        mean_cosine_distance=comparison.sum_cosine / max(1, comparison.comparisons),
        neighbours=_neighbours_kept(comparison.vectors, references),
        bounds=bounds,
        stages=tuple(comparison.figures.values()),
        divergence=comparison.first(),
        quantized=tuple(comparison.quantized_figures.values()),
    )


def _neighbours_kept(vectors: dict[int, Array], references: Sequence[ReferenceAnswer]) -> float | None:
    texts = sorted(vectors)
    if len(texts) <= NEIGHBOURS:
        return None
    ours = _similarities(np.stack([vectors[text] for text in texts]))
    theirs = _similarities(np.stack([references[text].embedding for text in texts]))
    nearest = np.argsort(-ours, axis=1, kind="stable")[:, :NEIGHBOURS]
    # Texts that are as near as the last of the nearest, such as equal ones, count as nearest too.
    last = np.sort(theirs, axis=1)[:, -NEIGHBOURS][:, None]
    return float(np.mean(np.take_along_axis(theirs, nearest, 1) >= last - 1e-6))


def _similarities(vectors: Array) -> Array:
    """Cosines of all pairs, in float64; -1 of each with itself."""
    x = np.nan_to_num(vectors.astype(np.float64))
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    similarities: Array = x @ x.T
    np.fill_diagonal(similarities, -1.0)
    return similarities


def _stage_number(key: str) -> int:
    return int(key.removeprefix("stage/").split("_")[0])


def _largest_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Largest absolute difference; infinite where one side is not a number and the other is, or both infinite apart."""
    if a.size == 0:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference)))


def _cosine_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """1 - cosine in float64, clipped at 0; two zero vectors are at distance 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norm == 0.0:
        return 0.0 if not x.any() and not y.any() else 1.0
    return max(0.0, 1.0 - float(x @ y) / norm)


def _clip(ids: tuple[int, ...]) -> str:
    shown = ", ".join(str(token) for token in ids[:24])
    return f"[{shown}{', ...' if len(ids) > 24 else ''}]"
