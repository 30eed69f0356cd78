"""A model's signatures, as its server reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tensorflow.core.protobuf import meta_graph_pb2

__all__ = ["Signature", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """A signature's input or output: tensor ``name`` in the graph, ``DataType`` number, shape (None: free)."""

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of ``shape`` is what the signature takes; a column ``[n, 1]`` counts as ``[n]``."""
        if self.shape is None:
            return True
        if len(self.shape) == 1 and shape[1:] == (1,):
            shape = shape[:1]
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True)
        )

    def shape_text(self) -> str:
        """The shape as errors print it, free dimensions by name: ``[batch, length]``."""
        sizes = zip_longest(self.shape or (), ("batch", "length")[: len(self.shape or ())], fillvalue="?")
        return f"[{', '.join(str(name if size is None else size) for size, name in sizes)}]"


@dataclass(frozen=True)
class Signature:
    """A signature, aliases in sorted order, which is the order of feeds and fetches."""

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    definition: meta_graph_pb2.SignatureDef
    dtypes: Mapping[str, np.dtype[Any]]
    """numpy's dtypes of the inputs."""
    input_types: Mapping[str, str]
    """TensorFlow's names of the inputs' dtypes."""
