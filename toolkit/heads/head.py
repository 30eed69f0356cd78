"""What every module behind the encoder is: numbers and weights, read from the checkpoint, and a function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import Fields
from toolkit.errors import SourceError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.encoder.packing import Chunk
    from toolkit.source.checkpoint import RawModule

__all__ = [
    "SENTENCE",
    "TOKENS",
    "HeadSpec",
    "RowHead",
    "features",
    "head_parameters",
    "no_leftovers",
    "own_parameters",
    "require_feature",
    "same_table",
    "stage_names",
    "tensor",
    "with_norm_bias",
]

Array = npt.NDArray[np.float32]

SENTENCE, TOKENS = "sentence_embedding", "token_embeddings"
"""What sentence-transformers calls the embeddings of texts, and those of their tokens."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec(ABC):
    """A module that maps embeddings to embeddings, as sentence-transformers' class of its name computes it.

    ``reads`` and ``writes`` are the features that it takes and gives, as sentence-transformers calls them; the task
    says which there may be (`features`). Subclasses are frozen dataclasses, each in a file of its own and in the table
    of :mod:`toolkit.heads`.
    """

    module_type: ClassVar[str]
    """The class name in sentence-transformers."""
    stored: ClassVar[Mapping[str, str]] = {}
    """Names of the weights to those in the module, where matrices lie the other way round."""

    reads: str = SENTENCE
    writes: str = SENTENCE

    @classmethod
    @abstractmethod
    def read(cls, module: RawModule, dim: int) -> Self:
        """The spec of a module that is given embeddings of size ``dim``.

        Raises ``UnsupportedError`` for what is not computed here, ``SourceError`` for what does not fit together.
        """

    @abstractmethod
    def width(self, dim: int) -> int:
        """The size of the embeddings that come out, where ``dim`` is that of those that go in."""

    def parameters(self) -> dict[str, Array]:
        """The weights by name."""
        return {}

    @abstractmethod
    def apply(self, params: Mapping[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """Embeddings float32 ``[..., in]`` to ``[..., out]``; ``params`` as ``parameters`` names them."""


class RowHead(ABC):
    """What makes an answer of the hidden states of a row's tokens, by weights of the encoder's own module.

    ``stored`` names its weights, those that training changes, and says which they are in the module, where matrices lie
    the other way round, but for the table of ``words``, which may be the encoder's own.
    """

    stored: Mapping[str, str]

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, Array]:
        """Those that ``stored`` names, but for ``words`` that are the encoder's own."""

    @abstractmethod
    def derived(self, weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What ``apply`` takes, of all that ``stored`` names, where they are trained further."""

    @abstractmethod
    def apply(self, params: Mapping[str, tf.Tensor], hidden: tf.Tensor, chunk: Chunk) -> tf.Tensor:
        """Hidden states ``[padded_total, hidden]`` of a chunk, or those that are ``asked`` for alone, to float32
        ``[rows, answers]``."""

    def asked(self, chunk: Chunk) -> tf.Tensor | None:
        """The one token of each row that answers are made of, int32 ``[rows]``; ``None`` where it is more than one."""
        return None


def with_norm_bias(weights: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """``weights``, and for a LayerNorm by ``gamma`` that has none the ``beta`` of zeros."""
    import tensorflow as tf

    found = dict(weights)
    if "gamma" in found:
        found.setdefault("beta", tf.zeros_like(found["gamma"]))
    return found


def same_table(a: Array | None, b: Array) -> bool:
    """Whether two tables of words are one."""
    return a is not None and (np.shares_memory(a, b) or np.array_equal(a, b))


def stage_names(heads: Sequence[Any]) -> tuple[str, ...]:
    """A readable name for each head, in order: ``1_pooling``, ``2_dense``, ... (module 0 is the encoder)."""
    return tuple(
        f"{index}_{type(head).__name__.removesuffix('Spec').lower()}" for index, head in enumerate(heads, start=1)
    )


def head_parameters(heads: Sequence[Any]) -> dict[str, Array]:
    """All heads' weights, by stage and name."""
    return {
        f"{stage}/{name}": value
        for stage, head in zip(stage_names(heads), heads, strict=True)
        if isinstance(head, HeadSpec)
        for name, value in head.parameters().items()
    }


def own_parameters(params: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Of the parameters of all heads, those of one stage, by name."""
    prefix = f"{stage}/"
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def features(module: RawModule) -> dict[str, str]:
    """The features that a module reads and writes, as arguments of its spec."""
    reads = str(module.config.get("module_input_name") or SENTENCE)
    return {"reads": reads, "writes": str(module.config.get("module_output_name") or reads)}


def require_feature(module: RawModule, feature: str) -> None:
    """Refuse a module that reads or writes another feature than this one."""
    fields = Fields(module)
    fields.only("module_input_name", (feature,), SENTENCE)
    fields.only("module_output_name", (feature, None))


def tensor(module: RawModule, name: str, shape: tuple[int, ...]) -> Array:
    """A module's tensor, float32. Raises ``SourceError`` if it is missing or of another shape."""
    if name not in module.tensors:
        raise SourceError(f"{module.file}: the weights lack {name!r}")
    found = module.tensors[name]
    if found.shape != shape:
        raise SourceError(f"{module.file}: {name} has shape {found.shape}, the configuration says {shape}")
    return np.ascontiguousarray(found, np.float32)


def no_leftovers(module: RawModule, *used: str) -> None:
    """Raise ``SourceError`` for a tensor that is not among ``used``."""
    if extra := sorted(set(module.tensors) - set(used)):
        raise SourceError(f"{module.file}: tensor {extra[0]!r} is not part of a {module.type} module")
