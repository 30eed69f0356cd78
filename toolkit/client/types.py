"""What a caller names and what a server answers, as plain frozen values. No wire format here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import MissingExtraError

__all__ = [
    "Array",
    "Column",
    "Detailed",
    "ModelMetadata",
    "Ranked",
    "Request",
    "SignatureInfo",
    "Sparse",
    "Spec",
    "TensorInfo",
    "VersionStatus",
]

Array = NDArray[Any]
# One input of a request: a numeric array, or the rows of a string tensor of rank 1, already UTF-8.
Column = Array | list[bytes]


@dataclass(frozen=True)
class Spec:
    """Which model is asked: ``version`` and ``label`` exclude each other; neither means the server's choice."""

    model: str
    version: int | None = None
    label: str | None = None
    signature: str = "serving_default"

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.model} version {self.version}"
        return f"{self.model} label {self.label}" if self.label is not None else self.model


@dataclass(frozen=True)
class Request:
    """One request as it goes out: a gRPC method or REST path, and its body (``None`` for a GET)."""

    path: str
    body: bytes | None


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a served signature; ``None`` is a free dimension, ``shape=None`` an unknown rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{dims}]"


@dataclass(frozen=True)
class SignatureInfo:
    """A served signature, as the server describes it."""

    name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class ModelMetadata:
    """The served model's name, the version that answered, and its signatures."""

    model: str
    version: int | None
    signatures: Mapping[str, SignatureInfo]


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model: ``state`` is START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN; ``error`` is empty
    when there is none."""

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class Detailed:
    """``embedding`` float32 [n, dim]; ``num_tokens`` int32 [n], before truncation, special tokens included;
    ``truncated`` bool [n]."""

    embedding: NDArray[np.float32]
    num_tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True)
class Sparse:
    """Sparse vectors of ``dim`` numbers each: row ``i`` has ``values`` float32, none of them 0, at ``indices`` int32,
    ascending, both ``[row_splits[i]:row_splits[i + 1]]``; ``row_splits`` is int64 [n + 1]."""

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    row_splits: NDArray[np.int64]
    dim: int

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """``(indices, values)`` of each row."""
        for start, stop in zip(self.row_splits[:-1], self.row_splits[1:], strict=True):
            yield self.indices[start:stop], self.values[start:stop]

    def csr(self) -> Any:
        """A ``scipy.sparse.csr_array`` float32 [n, dim]. Raises ``MissingExtraError`` where scipy is not installed."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise MissingExtraError("scipy", "sparse") from None
        return csr_array((self.values, self.indices, self.row_splits), shape=(len(self), self.dim))


@dataclass(frozen=True)
class Ranked:
    """One document of a reranking: its place in the caller's list, its score, its text."""

    index: int
    score: float
    document: str
