"""Numbers of an int8 product: its weights, and the range and scaling of what it is given. numpy only.

The input is scaled channel by channel before it is quantized, and the weights' rows are scaled back (SmoothQuant, Xiao
et al. 2023, arXiv:2211.10438): large channels of the input become smaller, at the expense of the weights, each of whose
output channels has a scale of its own. The range of the input is fixed, so that a row does not depend on its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    calibration's tokens, relative to each one's norm. With ``handover`` there is no ``scale``, as the kernel before
    knows none.
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
    weight = 1 / np.maximum(norms, max(SMALLEST * float(np.median(norms)), 1e-30))
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
    return scaled if scaled.error < WORTH_SCALING * plain.error else plain


def _weights(kernel: Array) -> tuple[npt.NDArray[np.int8], Array]:
    largest = np.maximum(np.abs(kernel).max(0), 1e-12).astype(np.float32)
    return np.clip(np.round(kernel * (INT8 / largest)), -INT8, INT8).astype(np.int8), largest
