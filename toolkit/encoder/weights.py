"""Accounting for a checkpoint's tensors: each is consumed once, with the shape the configuration implies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toolkit.errors import SourceError

__all__ = ["LayerNames", "Weights"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerNames:
    """Where a checkpoint keeps the tensors of one transformer layer, less ``.weight`` and ``.bias``."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str

    def at(self, prefix: str) -> LayerNames:
        """The same names behind ``prefix``."""
        return replace(self, **{name: f"{prefix}.{value}" for name, value in vars(self).items()})


class Weights:
    """Hands out tensors by name; ``finish`` refuses what nobody asked for.

    ``ignore`` lists prefixes of tensors that take no part in a sentence embedding.
    """

    def __init__(self, tensors: Mapping[str, Array], ignore: tuple[str, ...] = ()) -> None:
        self._left = {name: tensor for name, tensor in tensors.items() if not name.startswith(ignore)}
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """The tensor called ``name``, float32. Raises ``SourceError`` if missing, taken before or of another shape."""
        if name not in self._left:
            state = "was used twice" if name in self._taken else "is missing"
            raise SourceError(f"weights: tensor {name!r} {state}")
        tensor = self._left.pop(name)
        self._taken.add(name)
        if tensor.shape != shape:
            raise SourceError(f"weights: {name} has shape {tensor.shape}, the configuration says {shape}")
        # whole numbers are places of tensors, whose way is looked at (`toolkit.encoder.places`)
        return np.asarray(tensor, tensor.dtype if tensor.dtype.kind == "i" else np.float32)

    def norm(self, name: str, out: str, size: int, *, bias: bool = True) -> dict[str, Array]:
        """A LayerNorm as ``out/gamma`` and, where it has a ``bias``, ``out/beta``."""
        beta = {f"{out}/beta": self.take(f"{name}.bias", (size,))} if bias else {}
        return {f"{out}/gamma": self.take(f"{name}.weight", (size,)), **beta}

    def linear(
        self, names: Sequence[str], out: str, size_in: int, size_out: int | Sequence[int], *, bias: bool = True
    ) -> dict[str, Array]:
        """Linear layers of the same input, side by side, as ``out/kernel`` ``[in, parts * out]`` and ``out/bias``.

        ``size_out`` is one for all, or each one's. Layers that have no bias come with ``bias=False``, and are products
        without one. The kernel of one layer is a view of the checkpoint's tensor, which takes no memory: turning it
        round is left to who takes it.
        """
        sizes = dict(zip(names, [size_out] * len(names) if isinstance(size_out, int) else size_out, strict=True))
        kernels = [self.take(f"{name}.weight", (size, size_in)).T for name, size in sizes.items()]
        found = {f"{out}/kernel": kernels[0] if len(kernels) == 1 else np.concatenate(kernels, 1)}
        if bias:
            found[f"{out}/bias"] = np.concatenate([self.take(f"{name}.bias", (size,)) for name, size in sizes.items()])
        return found

    def layer(self, names: LayerNames, out: str, hidden: int, inner: int) -> dict[str, Array]:
        """A transformer layer: attention and feed-forward, each with a residual and a LayerNorm."""
        qkv = self.linear((names.query, names.key, names.value), f"{out}/qkv", hidden, hidden)
        return {**qkv, **self.behind_attention(names, out, hidden, inner)}

    def behind_attention(self, names: LayerNames, out: str, hidden: int, inner: int) -> dict[str, Array]:
        """Of a transformer layer all but queries, keys and values."""
        return {
            **self.linear((names.attention_output,), f"{out}/attention_output", hidden, hidden),
            **self.norm(names.attention_norm, f"{out}/attention_norm", hidden),
            **self.linear((names.intermediate,), f"{out}/intermediate", hidden, inner),
            **self.linear((names.output,), f"{out}/output", inner, hidden),
            **self.norm(names.output_norm, f"{out}/output_norm", hidden),
        }

    def finish(self) -> None:
        """Raise ``SourceError`` if a tensor was not consumed."""
        if self._left:
            names = sorted(self._left)
            raise SourceError(f"weights: {len(names)} tensors have no place in the model, first {names[0]!r}")
