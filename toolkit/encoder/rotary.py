"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): queries and keys are turned by angles that grow with a
token's position, so that their product tells how far two tokens are apart."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.encoder.fields import FULL, SLIDING, Fields
from toolkit.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    import tensorflow as tf

    from toolkit.source.checkpoint import RawModule

__all__ = ["Rotary", "Rotation", "read_rotary", "read_rotary_by_type", "side_by_side"]

Array = npt.NDArray[np.float32]

SCALED = ("linear", "dynamic", "yarn", "llama3")
"""Ways to stretch the angles for longer texts, beside ``default``, which does not."""


@dataclass(frozen=True)
class Rotary:
    """How far each pair of a head's numbers is turned per position, in radians: ``frequencies``, float32, half as many
    as a head has numbers. Number ``i`` of a head is paired with number ``i + len(frequencies)``.

    Cosines and sines are multiplied by ``scale``. ``limit`` is the most tokens that a text may have for the
    frequencies to hold, 0 where they hold for any.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0
    limit: int = 0

    def at(self, positions: tf.Tensor) -> Rotation:
        """The rotation at each of the int32 positions ``[n]``."""
        import tensorflow as tf

        angles = tf.cast(positions, tf.float32)[:, None, None] * tf.constant(self.frequencies, tf.float32)
        return Rotation(tf.cos(angles) * self.scale, tf.sin(angles) * self.scale)


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines, float32 ``[n, 1, pairs]``."""

    cos: tf.Tensor
    sin: tf.Tensor

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` turned, ``[n, heads, 2 * pairs]`` of any float type. Computed in float32."""
        import tensorflow as tf

        first, second = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return tf.cast(tf.concat(turned, -1), x.dtype)


def read_rotary(module: RawModule, size: int, layer_type: str | None = None) -> Rotary:
    """The rotation of heads of ``size`` numbers, as ``rope_parameters`` say; of those, the ones of ``layer_type``.

    Frequencies are computed in torch and in transformers' order of operations (``modeling_rope_utils.py``; the default
    ones as each of its models does), for any rounding of theirs grows with the position.
    """
    fields, name = Fields(module), "rope_parameters"
    longest = fields.positive("max_position_embeddings")
    parameters = module.config.get(name)
    if layer_type is not None and isinstance(parameters, Mapping):
        name, parameters = f"{name}.{layer_type}", parameters.get(layer_type)
    if not isinstance(parameters, Mapping):
        raise SourceError(f"{module.file}: {name} is {parameters!r}; expected an object")
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", *SCALED):
        raise UnsupportedError(module.file, f"{name}.rope_type", kind, ("default", *SCALED))
    fields.even_heads(size)
    frequencies, scale = (
        (_default(module, name, parameters, size), 1.0) if kind == "default" else _scaled(module, kind, layer_type)
    )
    if 2 * len(frequencies) != size:
        part = parameters.get("partial_rotary_factor")
        raise UnsupportedError(module.file, f"{name}.partial_rotary_factor", part, "1, whole heads")
    # beyond its limit the frequencies would depend on the longest text of a batch
    return Rotary(tuple(frequencies), float(scale), longest if kind == "dynamic" else 0)


def read_rotary_by_type(module: RawModule, size: int, types: Container[str]) -> tuple[Rotary, Rotary]:
    """That of layers that look everywhere and that of layers with a window, each where ``types`` has such a layer."""
    full, sliding = (read_rotary(module, size, kind) if kind in types else Rotary(()) for kind in (FULL, SLIDING))
    return full, sliding


def side_by_side(weights: Array, heads: int) -> Array:
    """Columns of ``heads`` heads, ``[..., heads * size]``, in which pairs were neighbours: their firsts before their
    seconds, head by head."""
    pairs = weights.reshape(*weights.shape[:-1], heads, -1, 2)
    return np.ascontiguousarray(np.moveaxis(pairs, -1, -2)).reshape(weights.shape)


def _default(module: RawModule, name: str, parameters: Mapping[str, Any], size: int) -> list[float]:
    import torch

    base = parameters.get("rope_theta")
    if not isinstance(base, int | float) or base <= 0:
        raise SourceError(f"{module.file}: {name}.rope_theta is {base!r}; expected a positive number")
    powers = torch.arange(0, size, 2, dtype=torch.float) / size
    return list(map(float, 1.0 / (base**powers)))


def _scaled(module: RawModule, kind: str, layer_type: str | None) -> tuple[list[float], float]:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.for_model(**module.config)
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, None, layer_type=layer_type)
    return list(map(float, frequencies)), float(scale)
