"""The ranges that embeddings are quantized by: calibrated on the original's own embeddings, as users do it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toolkit.proof.reference import encoded, viewed
from toolkit.signatures import TextSignature
from toolkit.source.checkpoint import Checkpoint

__all__ = ["calibrated_ranges"]

_DOCUMENTS = "document"  # what an index holds, and its queries are compared with


def calibrated_ranges(
    checkpoint: Checkpoint, signatures: Sequence[TextSignature], texts: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """The smallest and the largest value of each number over ``texts``, float32 ``[2, dim]``, by the names that
    ``signatures`` ask for. The texts are embedded as ``encode_document`` does.

    Raises ``SourceError`` if the original cannot embed them.
    """
    asking = {item.ranges: item for item in signatures if item.ranges is not None}
    if not asking:
        return {}
    embeddings = encoded(checkpoint, _DOCUMENTS, texts)
    found = {name: viewed(item, embeddings) for name, item in asking.items()}
    return {name: np.stack([view.min(0), view.max(0)]).astype(np.float32) for name, view in found.items()}
