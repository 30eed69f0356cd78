"""What flows into an encoder's products on typical texts, recorded in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.encoder.precision.float32 import Float32Products

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tensorflow as tf

    from toolkit.encoder.family import EncoderSpec
    from toolkit.encoder.packing import Tokens

__all__ = ["Inputs", "record"]

Array = npt.NDArray[np.float32]

SAMPLED_TOKENS = 1024
"""Tokens of which whole rows are kept for each product; the largest values are taken over all."""


@dataclass(frozen=True)
class Inputs:
    """What one product was given: float32 ``sample`` ``[tokens, in]``, and the lowest (or 0) and the highest value (or
    0) of each channel over all tokens, ``low`` and ``high``, float32 ``[in]``. ``source`` is the product whose
    activation it is, with nothing in between; ``None`` where it is no such thing."""

    sample: Array
    low: Array
    high: Array
    source: str | None = None

    @property
    def largest(self) -> Array:
        """The largest absolute value of each channel, float32 ``[in]``."""
        return np.maximum(-self.low, self.high)


class _Recorder(Float32Products):
    """Float32 products that keep what they are given."""

    def __init__(self, params: Mapping[str, tf.Tensor], spec: EncoderSpec) -> None:
        super().__init__(params, spec)
        self.total = 0
        self.rows: npt.NDArray[np.int64] = np.array([], np.int64)
        self.samples: dict[str, list[Array]] = {}
        self.range: dict[str, tuple[Array, Array]] = {}
        self.source: dict[str, str | None] = {}
        self._activated: tuple[str, tf.Tensor] | None = None

    def linear(
        self, x: tf.Tensor, name: str, *, activation: bool = False, residual: tf.Tensor | None = None
    ) -> tf.Tensor:
        values = x.numpy()[: self.total]
        low, high = self.range.get(name, (np.float32(0), np.float32(0)))
        self.range[name] = (np.minimum(low, values.min(0, initial=0)), np.maximum(high, values.max(0, initial=0)))
        self.samples.setdefault(name, []).append(values[self.rows])
        before = self._activated
        self.source[name] = before[0] if before is not None and before[1] is x else None
        y = super().linear(x, name, activation=activation, residual=residual)
        self._activated = (name, y) if activation else None
        return y


def record(
    params: Mapping[str, tf.Tensor],
    spec: EncoderSpec,
    tokens: Tokens,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Inputs]:
    """Run the encoder in float32 on packed tokens and return what each product was given, by the product's name."""
    from toolkit.encoder.packing import eager_chunks

    draw = np.random.default_rng(0)
    share = min(1.0, SAMPLED_TOKENS / max(1, int(tokens.ids.shape[0])))
    recorder = _Recorder(params, spec)
    chunks, _ = eager_chunks(tokens)
    for done, chunk in enumerate(chunks):
        recorder.total = int(chunk.total)
        recorder.rows = np.flatnonzero(draw.random(recorder.total) < share)
        spec.hidden_states(recorder, chunk)
        progress(done + 1, len(chunks))
    return {
        name: Inputs(np.concatenate(samples), *recorder.range[name], recorder.source[name])
        for name, samples in recorder.samples.items()
    }
