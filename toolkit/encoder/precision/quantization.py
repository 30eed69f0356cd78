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

__all__ = ["Quantization", "quantize"]

Array = npt.NDArray[np.float32]

MIGRATION = (None, 0.5, 0.65, 0.8, 0.9)
"""SmoothQuant's alpha: how much of the input's difference between channels goes over to the weights; or no scaling."""
WORTH_SCALING = 0.75
"""Scaling is a pass over the input, and has to bring the error down to this share of the one without."""
CLIPPING = (1.0, 0.85, 0.7)
"""Shares of the observed range to try: values beyond are cut off, all others get finer steps."""
OUTLIERS = 16
"""Channels of the input that stay in float32, where the product adds to a residual."""
UINT8, INT8 = 255.0, 127.0


@dataclass(frozen=True)
class Quantization:
    """How one product is computed in int8.

    The input times ``scale`` (float32 ``[in]``; ``None``: as it is) is cut to ``low`` and ``high`` and becomes uint8;
    ``kernel`` is int8 ``[in, out]``, a value in column ``i`` standing for ``largest[i] / 127`` times itself (float32
    ``[out]``). The channels ``outliers`` (int32 ``[k]``) are multiplied by ``outlier_kernel`` (float32 ``[k, out]``)
    instead; their rows of ``kernel`` are zero. ``error`` is what all this does to the product's outputs on the
    calibration's tokens, relative to their norm.
    """

    scale: Array | None
    low: float
    high: float
    kernel: npt.NDArray[np.int8]
    largest: Array
    outliers: npt.NDArray[np.int32]
    outlier_kernel: Array
    error: float


def quantize(kernel: Array, inputs: Inputs, *, outliers: int = 0) -> Quantization:
    """The scaling and range, of those tried, that change the product's outputs least.

    ``outliers`` channels whose products are largest are kept out (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339).
    """
    rows = np.maximum(np.abs(kernel).max(1), 1e-6)
    columns = np.maximum(inputs.largest, 1e-4)
    apart = np.sort(np.argsort(-columns * rows, kind="stable")[: min(outliers, len(rows) // 4)]).astype(np.int32)
    kept = np.ones(len(rows), bool)
    kept[apart] = False
    inner = np.where(kept[:, None], kernel, np.float32(0))
    exact = inputs.sample[:, kept] @ kernel[kept]
    norm = max(float(np.linalg.norm(exact + inputs.sample[:, ~kept] @ kernel[~kept])), 1e-30)
    found: dict[float | None, Quantization] = {}
    for alpha in MIGRATION:
        scale = np.ones(len(rows)) if alpha is None else rows ** (1 - alpha) / columns**alpha
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        weights, largest = _weights(inner / scale[:, None])
        restored = weights[kept] * (largest / np.float32(INT8))
        sample = inputs.sample[:, kept] * scale[kept]
        low, high = float((inputs.low * scale)[kept].min()), float((inputs.high * scale)[kept].max())
        for share in CLIPPING:
            step = max((high - low) * share / UINT8, 1e-12)
            cut = np.clip(np.round((sample - low * share) / step), 0, UINT8) * np.float32(step) + np.float32(
                low * share
            )
            error = float(np.linalg.norm(cut @ restored - exact)) / norm
            if alpha not in found or error < found[alpha].error:
                found[alpha] = Quantization(
                    None if alpha is None else scale,
                    low * share,
                    max(high * share, low * share + 1e-6),
                    weights,
                    largest,
                    apart,
                    kernel[apart],
                    error,
                )
    plain, scaled = found.pop(None), min(found.values(), key=lambda item: item.error)
    return scaled if scaled.error < WORTH_SCALING * plain.error else plain


def _weights(kernel: Array) -> tuple[npt.NDArray[np.int8], Array]:
    largest = np.maximum(np.abs(kernel).max(0), 1e-12).astype(np.float32)
    return np.clip(np.round(kernel * (INT8 / largest)), -INT8, INT8).astype(np.int8), largest
