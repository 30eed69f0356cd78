"""Reading a checkpoint's configuration: each field that changes a result is read, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    from toolkit.source.checkpoint import RawModule

__all__ = ["FULL", "HIDDEN_ACTIVATIONS", "NO_MATTER", "SLIDING", "Fields"]

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers: a token looks everywhere, or inside a window."""

# transformers' hidden_act -> name of our activation (transformers/activations.py, ACT2FN)
HIDDEN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
}

NO_MATTER = {
    "_attn_implementation": "how attention is computed, not what",
    "chunk_size_feed_forward": "the feed-forward layer in parts: the same sums",
    "classifier_dropout": "of a classification head",
    "classifier_dropout_prob": "of a classification head",
    "is_encoder_decoder": "of models with a decoder, which is_decoder and the model type tell",
    "num_labels": "of a classification head",
    "output_attentions": "what is returned besides the hidden state",
    "output_hidden_states": "what is returned besides the last hidden state",
    "problem_type": "of a classification head",
    "qa_dropout": "of a question answering head",
    "return_dict": "the form of the answer",
    "seq_classif_dropout": "of a classification head",
    "summary_first_dropout": "of a head",
    "summary_last_dropout": "of a head",
    "summary_proj_to_labels": "of a head",
    "summary_use_proj": "of a head",
    "use_cache": "of text generation",
}
"""Fields that transformers' modeling files read and that no hidden state depends on, with the reason."""


class Fields:
    """The fields of a module's configuration.

    Every method raises ``SourceError`` for a value that makes no sense and ``UnsupportedError`` for one that is not
    computed here, both naming file, field and value.
    """

    def __init__(self, module: RawModule) -> None:
        self._module = module

    def positive(self, key: str) -> int:
        """A positive integer."""
        value = self._module.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SourceError(f"{self._module.file}: {key} is {value!r}; expected a positive integer")
        return value

    def positive_number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._module.config.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 < value < math.inf:
            raise SourceError(f"{self._module.file}: {key} is {value!r}; expected a positive number")
        return float(value)

    def index(self, key: str, limit: int) -> int:
        """An integer from 0 to below ``limit``."""
        value = self._module.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise SourceError(f"{self._module.file}: {key} is {value!r}; expected a number from 0 to {limit - 1}")
        return value

    def rate(self, key: str) -> float:
        """A dropout rate; 0 where there is none."""
        value = float(self._module.config.get(key) or 0.0)
        if not 0.0 <= value < 1.0:
            raise SourceError(f"{self._module.file}: {key} is {value}; expected a rate of at least 0 and below 1")
        return value

    def epsilon(self, key: str = "layer_norm_eps") -> float:
        """A small number that keeps a division finite."""
        value = float(self._module.config.get(key, 1e-12))
        if not 0.0 < value < 1.0:
            raise SourceError(f"{self._module.file}: {key} is {value}; expected a small positive number")
        return value

    def activation(self, key: str = "hidden_act") -> str:
        """The name of an activation of :mod:`toolkit.encoder.layers`."""
        value = str(self._module.config.get(key))
        if value not in HIDDEN_ACTIVATIONS:
            raise UnsupportedError(self._module.file, key, value, HIDDEN_ACTIVATIONS)
        return HIDDEN_ACTIVATIONS[value]

    def only(self, key: str, supported: Sequence[object], default: object = None) -> None:
        """Refuse another value than those that are supported."""
        value = self._module.config.get(key, default)
        if value not in supported:
            raise UnsupportedError(self._module.file, key, value, supported)

    def encoder_only(self) -> None:
        """Refuse decoders, which look at earlier tokens alone or at another model's states."""
        self.only("is_decoder", (False,), False)
        self.only("add_cross_attention", (False,), False)

    def flag(self, key: str) -> bool:
        """True or false; false where there is none."""
        value = self._module.config.get(key) or False
        if not isinstance(value, bool):
            raise SourceError(f"{self._module.file}: {key} is {value!r}; expected true or false")
        return value

    def layer_types(self, layers: int) -> list[str]:
        """Of each layer, ``FULL`` or ``SLIDING``."""
        types = self._module.config.get("layer_types") or []
        if len(types) != layers or not set(types) <= {FULL, SLIDING}:
            raise UnsupportedError(self._module.file, "layer_types", types, f"{layers} times {FULL} or {SLIDING}")
        return list(types)

    def even_heads(self, size: int) -> None:
        """Refuse heads of an odd size, whose numbers make no pairs."""
        if size % 2:
            raise UnsupportedError(self._module.file, "size of a head", size, "even numbers, with rotary positions")

    def heads(self, hidden: str = "hidden_size", heads: str = "num_attention_heads") -> tuple[int, int]:
        """Hidden size and number of heads, which divides it."""
        size, count = self.positive(hidden), self.positive(heads)
        if size % count:
            raise SourceError(f"{self._module.file}: {hidden} {size} is no multiple of {heads} {count}")
        return size, count
