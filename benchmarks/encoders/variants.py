"""What is compared: each variant's name, library, files and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["PRECISIONS", "VARIANTS", "Variant", "chosen", "exportable", "of_artifact"]

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True)
class Variant:
    """One row of the tables.

    ``model`` is a file or folder: ``source``, ``export:<precision>``, an absolute path, or one in the folder of the
    model's prepared files. ``step`` is what `benchmarks.encoders.prepare` has to make first. ``kind`` is ``ours``,
    ``peer`` (length-sorted, from token ids), ``shipped``, ``recipe`` or ``gemm``. With ``peers`` it runs by the
    interpreter that has the peers.
    """

    name: str
    title: str
    kind: str
    engine: str
    precision: str
    model: str = ""
    step: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    peers: bool = False

    @property
    def shares(self) -> bool:
        """Whether it is another one's artifact with each operation on all cores: the same on one core."""
        return self.kind == "ours" and self.options.get("threads") == "within operations"


def _ours(short: str) -> list[Variant]:
    return of_artifact(f"ours-{short}", f"export:{PRECISIONS[short]}", short)


def of_artifact(name: str, model: str, precision: str) -> list[Variant]:
    """An artifact from token ids and from strings."""
    return [
        Variant(name, name, "ours", "ours", precision, model, options={"input": "ids"}),
        Variant(f"{name}-strings", f"{name} from strings", "ours", "ours", precision, model, options={"input": "text"}),
    ]


def _peer(name: str, engine: str, precision: str, model: str, step: str | None, **options: str) -> Variant:
    return Variant(name, f"{name}, sorted", "peer", engine, precision, model, step, options, peers=True)


def _shipped(name: str, title: str, given: str) -> Variant:
    options = {"input": given}
    return Variant(name, title, "shipped", "sentence_transformer", "fp32", "source", options=options, peers=True)


def _gemm(library: str, precision: str) -> Variant:
    options = {"library": library, "dtype": PRECISIONS[precision]}
    title = f"matrix product {precision}, {library}"
    peers = library == "torch"
    return Variant(f"gemm-{precision}-{library}", title, "gemm", "gemm", precision, options=options, peers=peers)


VARIANTS: Sequence[Variant] = (
    *_ours("fp32"),
    Variant(
        "ours-fp32-shared",
        "ours-fp32, operations shared out",
        "ours",
        "ours",
        "fp32",
        "export:float32",
        options={"input": "ids", "threads": "within operations"},
    ),
    *_ours("bf16"),
    *_ours("int8"),
    _shipped("sentence-transformers", "sentence-transformers as shipped, a call for each request", "requests"),
    _shipped("sentence-transformers-all", "sentence-transformers as shipped, all texts in one call", "all"),
    _peer("torch-fp32", "sentence_transformer", "fp32", "source", None, input="ids"),
    _peer("onnxruntime-fp32", "onnx_runtime", "fp32", ".", "onnx", graphs="exported,bert_optimized"),
    _peer("onnxruntime-int8", "onnx_runtime", "int8", ".", "onnx", graphs="exported_int8,bert_optimized_int8"),
    _peer("openvino-fp32", "openvino", "fp32", ".", "openvino", graph="float32", hint="f32"),
    _peer("openvino-bf16", "openvino", "bf16", ".", "openvino", graph="float32", hint="bf16"),
    _peer("openvino-int8", "openvino", "int8", ".", "openvino-int8", graph="int8", hint="f32"),
    Variant(
        "keras-recipe",
        "the Keras recipe, padded",
        "recipe",
        "ours",
        "fp32",
        "keras",
        "keras",
        {"input": "ids", "threads": "within operations"},
    ),
    _gemm("tensorflow", "fp32"),
    _gemm("tensorflow", "bf16"),
    _gemm("torch", "fp32"),
)


def exportable() -> set[str]:
    """The precisions that ``toolkit.export`` offers."""
    import toolkit

    offered = "precision" in inspect.signature(toolkit.export).parameters
    return set(PRECISIONS.values()) if offered else {"float32"}


def chosen(globs: Sequence[str], artifacts: Mapping[str, Path]) -> list[Variant]:
    """The variants whose names match any of ``globs``, and those of further artifacts by name.

    An artifact named as one of the exports stands in its place.
    """
    offered = {f"export:{precision}" for precision in exportable()}
    found = [
        variant
        for variant in VARIANTS
        if not (variant.model.startswith("export:") and variant.model not in offered)
        and variant.name.removesuffix("-strings") not in artifacts
        and any(fnmatch(variant.name, glob) for glob in globs)
    ]
    for name, folder in artifacts.items():
        precision = next((short for short in PRECISIONS if short in name), "fp32")
        found = of_artifact(name, str(folder.resolve()), precision) + found
    return found
