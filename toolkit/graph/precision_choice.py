"""Which products of an encoder are computed in int8: as many as leave the embeddings close enough to the float32 ones.

Each product's loss is measured by itself, end to end; those that lose most are computed in bfloat16 instead, as few as
bring the smallest cosine over the texts to the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from toolkit.encoder.packing import eager_chunks
from toolkit.encoder.precision.calibration import record
from toolkit.encoder.precision.mixed import MixedProducts, Plan
from toolkit.encoder.precision.quantization import OUTLIERS, Quantization, quantize
from toolkit.errors import CheckError

if TYPE_CHECKING:
    from toolkit.corpus.calibration import Calibration
    from toolkit.encoder.family import EncoderSpec
    from toolkit.encoder.packing import Tokens
    from toolkit.graph.tasks.embed import EmbedSpec
    from toolkit.graph.tasks.embed_model import EmbedModel

__all__ = ["Choice", "all_bfloat16", "choose_int8"]

Array = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

SLACK = 0.05
"""Of the distance that is allowed, kept for what differs between here and the written artifact."""
SAMPLE = 32
"""Texts on which each product's own loss is measured; the whole is measured on all."""


@dataclass(frozen=True)
class Choice:
    """A plan, and ``losses``: 1 - the smallest cosine with one product alone in int8, by product; empty if not
    needed, as all products in int8 are close enough."""

    plan: Plan
    losses: Mapping[str, float]


def all_bfloat16(spec: EncoderSpec) -> Plan:
    """Every product in bfloat16."""
    return Plan(bfloat16=frozenset(spec.product_names()))


class _Laboratory:
    """The float32 model, in which products are exchanged."""

    def __init__(self, model: EmbedModel, spec: EmbedSpec, values: Mapping[str, Array], texts: Sequence[str]) -> None:
        self._model, self._spec, self._values = model, spec, values
        self._all = self._tokens(texts)
        step = max(1, len(texts) // SAMPLE)
        self._sample = self._tokens(texts[::step])
        self._exact = {which: self._embed(Plan(), which) for which in (True, False)}

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        return self._model.prompted_tokens(tf.constant([text.encode() for text in texts]))[0]

    def _embed(self, plan: Plan, sample: bool) -> Array:
        encoder, pooled_of = self._spec.encoder, self._model.pooling()
        products = MixedProducts({k: tf.constant(v) for k, v in plan.stored(self._values).items()}, encoder, plan)
        chunks, order = eager_chunks(self._sample if sample else self._all)
        parts = [pooled_of(encoder.hidden_states(products, chunk), chunk) for chunk in chunks]
        pooled = tf.gather(tf.concat(parts, 0), np.argsort(order))
        return np.asarray(self._model.finish(pooled)[0], np.float64)

    def cosine(self, plan: Plan, *, sample: bool = False) -> float:
        """The smallest cosine over the texts with the embeddings in float32."""
        exact, ours = self._exact[sample], self._embed(plan, sample)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(ours, axis=1)
        cosines = np.divide((exact * ours).sum(1), norms, out=np.ones(len(norms)), where=norms > 0)
        return float(np.min(cosines, initial=1.0)) if np.isfinite(cosines).all() else -1.0


def choose_int8(
    model: EmbedModel,
    spec: EmbedSpec,
    calibration: Calibration,
    texts: Sequence[str],
    min_cosine: float,
    progress: Progress = lambda stage, done, total: None,
) -> Choice:
    """Calibrate, and choose the products in int8 so that the smallest cosine over ``texts`` is at least ``min_cosine``.

    ``model`` is the float32 one of ``spec``. Raises ``CheckError`` if not even all products in bfloat16 are enough.
    """
    values = spec.encoder.parameters()
    tokens, _ = model.prompted_tokens(tf.constant([text.encode() for text in calibration.texts]))
    inputs = record(
        model.encoder_parameters(), spec.encoder, tokens, lambda done, total: progress("calibrating", done, total)
    )
    names = spec.encoder.product_names()
    numbers: dict[str, Quantization] = {}
    for done, name in enumerate(names):
        progress("quantizing", done, len(names))
        added = name.endswith("output")  # to a residual
        numbers[name] = quantize(values[f"{name}/kernel"], inputs.pop(name), outliers=OUTLIERS if added else 0)
    laboratory = _Laboratory(model, spec, values, texts)
    target = 1 - (1 - min_cosine) * (1 - SLACK)

    def plan(kept_out: Sequence[str]) -> Plan:
        return Plan(frozenset(kept_out), {name: numbers[name] for name in names if name not in kept_out})

    progress("choosing products", 0, 0)
    if laboratory.cosine(plan(())) >= target:
        return Choice(plan(()), {})
    losses = {}
    for done, name in enumerate(names):
        progress("choosing products", done, len(names))
        losses[name] = 1 - laboratory.cosine(Plan(int8={name: numbers[name]}), sample=True)
    order = sorted(names, key=lambda name: -losses[name])
    reached = laboratory.cosine(plan(order))
    if reached < target:
        raise CheckError(
            f"precision int8: min_cosine {min_cosine} is out of reach: with every product in bfloat16 the smallest "
            f"cosine over {len(texts)} texts is {reached:.6f}, and int8 is further away"
        )
    enough, short = len(order), 0
    while enough - short > 1:
        middle = (enough + short) // 2
        if laboratory.cosine(plan(order[:middle])) >= target:
            enough = middle
        else:
            short = middle
    return Choice(plan(order[:enough]), losses)
