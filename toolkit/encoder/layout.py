"""How a model's graph is laid out: what an export asks for, what goes together, and what comes of it.

What all models are made with is a :class:`Layout`. :class:`LayoutOptions` makes one of an export's options, and is the
one place that knows their defaults and refuses what does not go together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.encoder.batching_options import Batching
from toolkit.encoder.target import CPU, PACKED_KERNEL, TARGETS, Target
from toolkit.errors import InputError, MissingExtraError
from toolkit.tokenizer.engines import COMPILED, Engine

if TYPE_CHECKING:
    from toolkit.encoder.family import EncoderSpec
    from toolkit.encoder.precision.mixed import Plan

__all__ = ["AIMS", "Layout", "LayoutOptions", "registered", "runs_packed_bfloat16"]

LATENCY, MEMORY = AIMS = ("latency", "memory")
"""What an export may be optimized for."""

_INT8_KERNEL = "_QuantizedMatMul"
"""The kernel of int8 products, of the same builds as that of packed weights."""

LARGEST_PACKED = 500_000_000
"""Bytes of an encoder's parameters, its table of words among them, up to which its matrices are packed unless asked
otherwise."""


@dataclass(frozen=True)
class Layout:
    """How one model's graph is laid out.

    ``target``: what it is for. ``batching``: requests that arrive together are computed together as it says (``None``:
    each by itself). ``tokenizer_engine``: what finds the tokens. ``plan``: the precision of the encoder's products
    (``None``: float32 for all). ``fused_norm``: LayerNorm is written for one kernel, which servers of 2.17 and later
    have. ``packed``: one short text, in bfloat16 any texts, is computed with weights that oneDNN keeps in its
    own order, see :mod:`toolkit.encoder.precision.packed`.
    """

    target: Target = CPU
    batching: Batching | None = None
    tokenizer_engine: Engine = COMPILED
    plan: Plan | None = None
    fused_norm: bool = True
    packed: bool = False

    @property
    def coarse(self) -> bool:
        """Whether counts of tokens are filled up to few sizes: products of lower precision keep a compiled kernel for
        each."""
        return self.plan is not None

    @property
    def few(self) -> bool:
        """Whether one short text has a path of its own, for the order that packed weights have at few rows in float32:
        in bfloat16 it is one for all."""
        return self.packed and self.plan is None

    def to_json(self) -> dict[str, Any]:
        """What the provenance says of it."""
        return {
            "target": self.target.to_json(),
            "optimize": LATENCY if self.packed else MEMORY,
            "fused_norm": self.fused_norm,
        }


def registered(op: str) -> bool:
    """Whether the TensorFlow of this process has an op; without it no graph that holds it can be made or loaded."""
    try:
        from tensorflow.python.framework import op_def_registry
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "tensorflow", "convert") from error
    return op_def_registry.get(op) is not None


def runs_packed_bfloat16() -> bool:
    """Whether this processor can run the kernel of packed weights in bfloat16, as oneDNN has it."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text().split()) if file.is_file() else set()
    return not flags.isdisjoint(("avx512f", "avx_ne_convert"))


@dataclass(frozen=True)
class LayoutOptions:
    """What an export is asked for, before its model is known.

    ``target`` and ``optimize`` (``None``: what suits the rest) are names; ``precision`` is that of the encoder's
    products. ``runs`` tells whether the oldest server that the artifact is for runs an op, where it has it at all.

    Raises :class:`~toolkit.errors.InputError` for an unknown name, for what does not go together, and for what the
    TensorFlow at hand has no kernel for.
    """

    runs: Callable[[str], bool]
    target: str = CPU.name
    optimize: str | None = None
    precision: str = "float32"
    batching: Batching | None = Batching()
    tokenizer_engine: Engine = COMPILED

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InputError(f"target {self.target!r}: not supported; supported: {', '.join(TARGETS)}")
        supported = TARGETS[self.target].precisions
        if self.precision not in supported:
            there = ", ".join(supported)
            raise InputError(f"precision {self.precision!r}: not for target {self.target!r}; supported there: {there}")
        if self.precision == "int8" and not registered(_INT8_KERNEL):
            raise InputError(f"precision 'int8': {_absent(_INT8_KERNEL)}")
        if self.optimize not in (None, *AIMS):
            raise InputError(f"optimize {self.optimize!r}: expected one of {', '.join(AIMS)}")
        if self.optimize == LATENCY and (reason := self._unpackable()):
            raise InputError(f"optimize {LATENCY!r}: {reason}")

    def _unpackable(self) -> str | None:
        """Why weights cannot be kept packed; ``None`` where they can."""
        if self.precision == "int8":
            return "not for precision 'int8', whose weights are packed always; for 'float32' and 'bfloat16'"
        if not TARGETS[self.target].packed_kernel:
            return f"not for target {self.target!r}: its kernel is for CPUs alone"
        if not self.runs(PACKED_KERNEL):
            return "needs TF Serving 2.12 and later"
        if self.precision == "bfloat16" and not runs_packed_bfloat16():
            return "in bfloat16 its kernel needs AVX512, which this processor has not: nothing could be proved here"
        return None if registered(PACKED_KERNEL) else _absent(PACKED_KERNEL)

    def layout(self, encoder: EncoderSpec) -> Layout:
        """That of a model with this encoder, whose products are all in float32 as yet."""
        target = TARGETS[self.target]
        return Layout(
            target=target.of_hidden_size(encoder.hidden_size) if self.precision == "float32" else target,
            batching=self.batching,
            tokenizer_engine=self.tokenizer_engine,
            fused_norm=target.norm_kernel and self.runs("FusedBatchNormV3"),
            packed=self._packed(encoder),
        )

    def _packed(self, encoder: EncoderSpec) -> bool:
        if self.optimize is not None:
            return self.optimize == LATENCY
        if self.precision != "float32":  # in bfloat16 it would end a server's process on processors without AVX512
            return False
        size = 4 * sum(tensor.size for tensor in encoder.tensors.values())
        return size <= LARGEST_PACKED and self._unpackable() is None


def _absent(op: str) -> str:
    return f"the TensorFlow at hand has no {op}; builds with oneDNN have it, as the official ones for Linux are"
