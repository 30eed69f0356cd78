"""Which products of an encoder are computed in int8: as many as leave the answers close enough to the float32 ones.

Each product's loss is measured by itself, end to end; those that lose most are computed in bfloat16 instead, as few as
bring the largest loss over all answers below the one that is allowed. A vector loses 1 - its cosine with the float32
one, a score what it differs by, and where it is above 1 that share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.packing import eager_chunks
from toolkit.encoder.precision.calibration import Inputs, record
from toolkit.encoder.precision.halves import together
from toolkit.encoder.precision.int8 import FUSED_ACTIVATIONS
from toolkit.encoder.precision.mixed import MixedProducts, Plan
from toolkit.encoder.precision.quantization import HANDED_OUTLIERS, OUTLIERS, Handover, Quantization, quantize
from toolkit.errors import CheckError

if TYPE_CHECKING:
    from toolkit.corpus.calibration import Calibration
    from toolkit.encoder.family import EncoderSpec
    from toolkit.graph.model import ServingModel
    from toolkit.graph.spec import TaskSpec

__all__ = ["Choice", "all_bfloat16", "choose_int8"]

Array = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

SLACK = 0.05
"""Of the distance that is allowed, kept for what differs between here and the written artifact."""
SAMPLE = 32
"""Texts on which each product's own loss is measured; the whole is measured on all."""


@dataclass(frozen=True)
class Choice:
    """A plan, and ``losses``: the largest with one product alone in int8, by product; empty if not needed, as all
    products in int8 are close enough."""

    plan: Plan
    losses: Mapping[str, float]


def all_bfloat16(spec: EncoderSpec) -> Plan:
    """Every product in bfloat16."""
    return Plan(bfloat16=frozenset(spec.product_names()))


class _Laboratory:
    """The float32 model, in which products are exchanged."""

    def __init__(self, model: ServingModel, spec: TaskSpec, values: Mapping[str, Array], rows: Sequence[str]) -> None:
        self._model, self._spec, self._values = model, spec, values
        self._all = model.tried_tokens(rows)
        step = max(1, len(rows) // SAMPLE)
        self._sample = model.tried_tokens(rows[::step])
        self._exact = {which: self._answers(Plan(), which) for which in (True, False)}

    def _answers(self, plan: Plan, sample: bool) -> Array:
        """Those of all rows, in the order of the chunks."""
        encoder, answers = self._spec.encoder, self._model.tried_answers()
        stored = plan.stored(self._values, encoder.intermediate_size)
        products = MixedProducts({name: tf.constant(value) for name, value in stored.items()}, encoder, plan)
        chunks, _ = eager_chunks(self._sample if sample else self._all)
        found = [answers(encoder.hidden_states(products, chunk), chunk) for chunk in chunks]
        return np.asarray(tf.concat(found, 0), np.float64)

    def loss(self, plan: Plan, *, sample: bool = False) -> float:
        """The largest of any answer, against those in float32."""
        exact, ours = self._exact[sample], self._answers(plan, sample)
        if self._spec.scores:
            differences = np.abs(ours - exact) / np.maximum(1.0, np.abs(exact))
            return float(np.max(differences, initial=0.0)) if np.isfinite(differences).all() else np.inf
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(ours, axis=1)
        cosines = np.divide((exact * ours).sum(1), norms, out=np.ones(len(norms)), where=norms > 0)
        return 1.0 - float(np.min(cosines, initial=1.0)) if np.isfinite(cosines).all() else np.inf


def _numbers(name: str, inputs: Inputs, values: Mapping[str, Array], activation: str) -> Quantization:
    """Of one product, for what comes to it as float or as the activation that its source's kernel computes."""
    kernel = values[f"{name}/kernel"]
    if not name.endswith("/output"):
        return quantize(kernel, inputs)
    source = inputs.source
    if source is None or activation not in FUSED_ACTIVATIONS:
        return quantize(kernel, inputs, outliers=OUTLIERS)
    found = quantize(kernel, inputs, outliers=HANDED_OUTLIERS, scaling=False)
    columns, bias = values[f"{source}/kernel"][:, found.outliers], values.get(f"{source}/bias")
    none = np.zeros(len(found.outliers), np.float32)
    return replace(found, handover=Handover(source, columns, none if bias is None else bias[found.outliers]))


def choose_int8(
    model: ServingModel,
    spec: TaskSpec,
    calibration: Calibration,
    rows: Sequence[str],
    allowed: float,
    progress: Progress = lambda stage, done, total: None,
) -> Choice:
    """Calibrate, and choose the products in int8 so that the largest loss over ``rows`` is at most ``allowed``.

    ``model`` is the float32 one of ``spec``. Raises ``CheckError`` if not even all products in bfloat16 are enough.
    """
    values = spec.encoder.parameters()
    tokens = model.tried_tokens(calibration.texts)
    inputs = record(
        together(model.encoder_parameters()),
        spec.encoder,
        tokens,
        lambda done, total: progress("calibrating", done, total),
    )
    names = spec.encoder.product_names()
    numbers: dict[str, Quantization] = {}
    for done, name in enumerate(names):
        progress("quantizing", done, len(names))
        numbers[name] = _numbers(name, inputs.pop(name), values, spec.encoder.activation)
    laboratory = _Laboratory(model, spec, values, rows)
    target = allowed * (1 - SLACK)

    def plan(kept_out: Sequence[str]) -> Plan:
        return Plan(frozenset(kept_out), {name: numbers[name] for name in names if name not in kept_out})

    progress("choosing products", 0, 0)
    if laboratory.loss(plan(())) <= target:
        return Choice(plan(()), {})
    losses = {}
    for done, name in enumerate(names):
        progress("choosing products", done, len(names))
        losses[name] = laboratory.loss(Plan(int8={name: numbers[name]}), sample=True)
    order = sorted(names, key=lambda name: -losses[name])
    reached = laboratory.loss(plan(order))
    if reached > target:
        limit, told = (
            (f"max_difference {allowed:g}", f"largest difference over {len(rows)} pairs is {reached:.6f}")
            if spec.scores
            else (f"min_cosine {1 - allowed:g}", f"smallest cosine over {len(rows)} texts is {1 - reached:.6f}")
        )
        raise CheckError(
            f"precision int8: {limit} is out of reach: with every product in bfloat16 the {told}, and int8 is further "
            "away"
        )
    enough, short = len(order), 0
    while enough - short > 1:
        middle = (enough + short) // 2
        if laboratory.loss(plan(order[:middle])) <= target:
            enough = middle
        else:
            short = middle
    return Choice(plan(order[:enough]), losses)
