"""Numbers of an int8 product: its weights, and the range and scaling of what it is given. numpy only.

The input is scaled channel by channel before it is quantized, and the weights' rows are scaled back (SmoothQuant, Xiao
et al. 2023, arXiv:2211.10438): large channels of the input become smaller, at the expense of the weights, each of whose
output channels has a scale of its own. The range of the input is fixed, so that a row does not depend on its
neighbours. Weights are rounded so that the rounding of one makes up for that of others, as far as the calibration's
tokens tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toolkit.encoder.precision.calibration import Inputs

__all__ = ["Handover", "Quantization", "quantize"]

Array = npt.NDArray[np.float32]

MIGRATION = (None, 0.5, 0.65, 0.8, 0.9)
"""SmoothQuant's alpha: how much of the input's difference between channels goes over to the weights; or no scaling."""
WORTH_SCALING = 0.75
"""Scaling is a pass over the input, and has to bring the error down to this share of the one without."""
CLIPPING = (1.0, 0.85, 0.7, 0.5)
"""Shares of the largest value to try: values beyond are cut off, all others get finer steps."""
OUTLIERS = 16
"""Channels of the input that stay in float32, where the product ends a feed-forward layer: its are BERT's outliers.
What comes from attention is averages of values, and has none worth the time."""
HANDED_OUTLIERS = 32
"""The same where the input comes from the kernel before, which can scale no channel."""
SMALLEST = 0.3
"""Tokens count by what their outputs change relative to the outputs' norm, which is taken to be at least this share of
the median: LayerNorm follows, and a few tokens of BERT's have outputs so large that they would decide alone."""
DAMPING = 0.05
"""Of the mean square of input channels, added to each one's: the sample has fewer tokens than some inputs have."""
BLOCK = 64
"""Input channels whose weights are rounded before the rest makes up for it."""
UINT8, INT8 = 255.0, 127.0


@dataclass(frozen=True)
class Handover:
    """How the product ``source`` gives its activation to the next one without a float in between: its kernel writes
    uint8 in the range that the next one reads. The next one's outliers are computed by themselves, of the activation of
    float32 ``kernel`` ``[source's in, k]`` and ``bias`` ``[k]``: the source's columns of these channels."""

    source: str
    kernel: Array
    bias: Array


@dataclass(frozen=True)
class Quantization:
    """How one product is computed in int8.

    The input times ``scale`` (float32 ``[in]``; ``None``: as it is) is cut to ``low`` and ``high`` and becomes uint8;
    ``kernel`` is int8 ``[in, out]``, a value in column ``i`` standing for ``largest[i] / 127`` times itself (float32
    ``[out]``). The channels ``outliers`` (int32 ``[k]``) are multiplied by ``outlier_kernel`` (float32 ``[k, out]``)
    instead; their rows of ``kernel`` are zero. ``error`` is what all this does to the product's outputs on the
    calibration's tokens, relative to each one's norm, if each weight is rounded to the nearest. With ``handover`` there
    is no ``scale``, as the kernel before knows none.
    """

    scale: Array | None
    low: float
    high: float
    kernel: npt.NDArray[np.int8]
    largest: Array
    outliers: npt.NDArray[np.int32]
    outlier_kernel: Array
    error: float
    handover: Handover | None = None


def quantize(kernel: Array, inputs: Inputs, *, outliers: int = 0, scaling: bool = True) -> Quantization:
    """The scaling (where there may be one) and range, of those tried, that change the product's outputs least.

    ``outliers`` channels whose products are largest are kept out (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339).
    """
    rows = np.maximum(np.abs(kernel).max(1), 1e-6)
    columns = np.maximum(inputs.largest, 1e-4)
    apart = np.sort(np.argsort(-columns * rows, kind="stable")[: min(outliers, len(rows) // 4)]).astype(np.int32)
    kept = np.ones(len(rows), bool)
    kept[apart] = False
    inner = np.where(kept[:, None], kernel, np.float32(0))
    exact = inputs.sample[:, kept] @ kernel[kept]
    norms = np.linalg.norm(exact + inputs.sample[:, ~kept] @ kernel[~kept], axis=1)
    usual = float(np.median(norms)) or float(norms.max(initial=0)) or 1.0
    weight = 1 / np.maximum(norms, SMALLEST * usual)
    norm = max(float(np.linalg.norm(norms * weight)), 1e-30)
    found: dict[float | None, Quantization] = {}
    for alpha in MIGRATION if scaling else (None,):
        scale = np.ones(len(rows)) if alpha is None else rows ** (1 - alpha) / columns**alpha
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        weights, largest = _weights(inner / scale[:, None])
        restored = weights[kept] * (largest / np.float32(INT8))
        sample = inputs.sample[:, kept] * scale[kept]
        low, high = float((inputs.low * scale)[kept].min()), float((inputs.high * scale)[kept].max())
        for share in CLIPPING:
            limit = share * max(-low, high)
            bottom, top = max(low, -limit), max(min(high, limit), max(low, -limit) + 1e-6)
            step = (top - bottom) / UINT8
            cut = np.clip(np.round((sample - bottom) / step), 0, UINT8) * np.float32(step) + np.float32(bottom)
            error = float(np.linalg.norm((cut @ restored - exact) * weight[:, None])) / norm
            if alpha not in found or error < found[alpha].error:
                found[alpha] = Quantization(
                    None if alpha is None else scale,
                    bottom,
                    top,
                    weights,
                    largest,
                    apart,
                    kernel[apart],
                    error,
                )
    plain = found.pop(None)
    scaled = min(found.values(), key=lambda item: item.error, default=plain)
    chosen = scaled if scaled.error < WORTH_SCALING * plain.error else plain
    scale = np.ones(len(rows), np.float32) if chosen.scale is None else chosen.scale
    seen = np.clip(inputs.sample[:, kept] * scale[kept], chosen.low, chosen.high) * weight[:, None]
    weights = np.zeros(kernel.shape, np.int8)
    weights[kept] = _rounded(kernel[kept] / scale[kept, None], chosen.largest, seen)
    return replace(chosen, kernel=weights)


def _rounded(kernel: Array, largest: Array, inputs: Array) -> npt.NDArray[np.int8]:
    """The weights in int8, rounded channel by channel, each time changing those of the channels to come so that they
    make up for what the rounding does to the outputs of ``inputs`` (GPTQ, Frantar et al. 2022, arXiv:2210.17323)."""
    squares = inputs.T @ inputs
    squares[np.diag_indices_from(squares)] += DAMPING * np.mean(np.diag(squares)) + 1e-20
    makes_up = np.linalg.cholesky(np.linalg.inv(squares.astype(np.float64))).T.astype(np.float32)
    left, steps = kernel.astype(np.float32), largest / np.float32(INT8)
    found = np.empty(kernel.shape, np.int8)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        missed = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            found[row] = np.clip(np.round(left[row] / steps), -INT8, INT8)
            missed[row - start] = (left[row] - found[row] * steps) / makes_up[row, row]
            left[row + 1 : stop] -= np.outer(makes_up[row, row + 1 : stop], missed[row - start])
        left[stop:] -= makes_up[start:stop, stop:].T @ missed
    return found


def _weights(kernel: Array) -> tuple[npt.NDArray[np.int8], Array]:
    largest = np.maximum(np.abs(kernel).max(0), 1e-12).astype(np.float32)
    return np.clip(np.round(kernel * (INT8 / largest)), -INT8, INT8).astype(np.int8), largest
