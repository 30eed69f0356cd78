"""Which kernels a graph is written for: what the oldest server has, and what is traded for what."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.encoder.family import EncoderSpec
from toolkit.errors import InputError

__all__ = ["AIMS", "USUAL", "Kernels", "packs", "require_aim"]

AIMS = ("latency", "memory")
"""What an export may be optimized for."""

LARGEST_PACKED = 500_000_000
"""Bytes of an encoder's matrices, without its table of words, up to which they are packed unless asked otherwise."""


@dataclass(frozen=True)
class Kernels:
    """``fused_norm``: LayerNorm in one kernel, for servers of 2.17 and later. ``packed``: one short text is computed
    with weights that oneDNN keeps in its own order, see :mod:`toolkit.encoder.precision.packed`."""

    fused_norm: bool = True
    packed: bool = False


USUAL = Kernels()


def require_aim(wanted: str | None, precision: str, *, available: bool) -> None:
    """Raise ``InputError`` for what is no aim, and for ``latency`` where it cannot be had: in another ``precision``
    than float32, or where the kernel is not ``available`` that keeps weights packed."""
    if wanted not in (None, *AIMS):
        raise InputError(f"optimize {wanted!r}: expected one of {', '.join(AIMS)}")
    if wanted == "latency" and precision != "float32":
        raise InputError(f"optimize 'latency' with precision {precision!r}: only for float32")
    if wanted == "latency" and not available:
        raise InputError(
            "optimize 'latency': needs TF Serving 2.12 and later, and a TensorFlow with oneDNN's kernels to export with"
        )


def packs(wanted: str | None, precision: str, encoder: EncoderSpec, *, available: bool) -> bool:
    """Whether weights are kept packed: as is ``wanted``, or else (``None``) as suits precision and encoder."""
    if wanted is not None:
        return wanted == "latency"
    matrices = (t for t in encoder.tensors.values() if t.ndim == 2 and t.shape[0] != encoder.vocab_size)
    small = 4 * sum(matrix.size for matrix in matrices) <= LARGEST_PACKED
    return precision == "float32" and available and small
