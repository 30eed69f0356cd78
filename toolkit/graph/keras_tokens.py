"""The layers of a Keras model of ``to_keras`` from strings to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf

from toolkit.encoder.packing import padded_index
from toolkit.graph.guard import with_embeddings
from toolkit.tokenizer import TokenizerSource, build_tokenizer, read_tokenizer
from toolkit.tokenizer.chat import ChatPairs, Frame
from toolkit.tokenizer.pairs import Pairs, Part

__all__ = ["PACKAGE", "THERE", "TOKENS", "Tokenize", "TokenizeExpanded", "TokenizePairs", "pairs_config"]

PACKAGE = "sentence_serving"
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
THERE = "token_mask"


class _Tokens(keras.layers.Layer):  # type: ignore[misc]
    """What gives a dict of int32 ``[batch, length]``: input_ids, attention_mask, token_type_ids.

    The tokenizer travels inside the layer's configuration, so a saved model needs no other file.
    """

    def __init__(
        self, source: Mapping[str, Any], prompt: str = "", vocab_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.source = dict(source)
        self.prompt = prompt
        self.vocab_size = vocab_size
        self._spec = read_tokenizer(TokenizerSource(**source))
        self._graph = build_tokenizer(self._spec)

    def padded(self, ids: tf.Tensor, types: tf.Tensor, row_splits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Packed ids, once each is known to have an embedding, and types as rows of one length."""
        if self.vocab_size is not None:
            ids = with_embeddings(ids, self._spec, self.vocab_size)
        splits = tf.cast(row_splits, tf.int32)
        length = tf.reduce_max(tf.concat([splits[1:] - splits[:-1], [0]], 0))
        index, mask = padded_index(splits, length)
        # one more, so that index 0 exists when there are no tokens at all
        ids, types = (tf.gather(tf.pad(values, [[0, 1]]), index) for values in (ids, types))
        ids, types = tf.where(mask, ids, self._graph.pad_id), tf.where(mask, types, 0)
        return dict(zip(TOKENS, (ids, tf.cast(mask, tf.int32), types), strict=True))

    def compute_output_spec(self, text: Any, *args: Any) -> dict[str, keras.KerasTensor]:
        return {name: keras.KerasTensor((text.shape[0], None), "int32", name=name) for name in TOKENS}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "source": self.source, "prompt": self.prompt, "vocab_size": self.vocab_size}


@keras.saving.register_keras_serializable(PACKAGE)
class Tokenize(_Tokens):
    """Strings ``[batch]``, the prompt put before each of them, to tokens."""

    def call(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        packed = self._graph(tf.strings.join([self.prompt, text]) if self.prompt else text)
        return self.padded(packed.ids, tf.zeros_like(packed.ids), packed.row_splits)


@keras.saving.register_keras_serializable(PACKAGE)
class TokenizeExpanded(Tokenize):
    """The same, each row filled up to ``length`` tokens with ``token_id``, which other tokens look at where they
    are ``attended`` to; ``there``, int32 ``[batch, length]``, says where tokens are, looked at or not."""

    def __init__(self, source: Mapping[str, Any], length: int, token_id: int, attended: bool, **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.length, self.token_id, self.attended = length, token_id, attended

    def call(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        found = super().call(text)
        mask = found["attention_mask"]
        more = [[0, 0], [0, tf.maximum(self.length - tf.shape(mask)[1], 0)]]
        ids, mask, types = (tf.pad(found[name], more) for name in TOKENS)
        column = tf.range(tf.shape(mask)[1])[None, :]
        filled = (mask == 0) & (column < self.length)
        ids, there = tf.where(filled, self.token_id, ids), tf.where(filled, 1, mask)
        return {**dict(zip(TOKENS, (ids, there if self.attended else mask, types), strict=True)), THERE: there}

    def compute_output_spec(self, text: Any, *args: Any) -> dict[str, keras.KerasTensor]:
        found = super().compute_output_spec(text)
        return {**found, THERE: keras.KerasTensor((text.shape[0], None), "int32", name=THERE)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length, "token_id": self.token_id, "attended": self.attended}


@keras.saving.register_keras_serializable(PACKAGE)
class TokenizePairs(_Tokens):
    """Queries and documents, strings ``[batch]``, to tokens; ``pairs`` says how two are one row, as ``pairs_config``
    has it."""

    def __init__(self, source: Mapping[str, Any], pairs: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(source, **kwargs)
        self.pairs = dict(pairs)
        self._pairs = _pairs_of(pairs)

    def call(self, query: tf.Tensor, document: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.padded(*self._pairs.rows(self._graph, *self._pairs.prompted(self.prompt, query, document)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pairs": self.pairs}


def pairs_config(pairs: Pairs | ChatPairs) -> dict[str, Any]:
    """How pairs become rows, as JSON has it."""
    return {"kind": type(pairs).__name__, **asdict(pairs)}


def _pairs_of(config: Mapping[str, Any]) -> Pairs | ChatPairs:
    numbers = {name: value for name, value in config.items() if name != "kind"}
    if config["kind"] == Pairs.__name__:
        return Pairs(**{**numbers, "parts": tuple(Part(*part) for part in numbers["parts"])})
    frames = {prompt: Frame(**frame) for prompt, frame in numbers["frames"].items()}
    endings = {prompt: tuple(ending) for prompt, ending in numbers["endings"].items()}
    return ChatPairs(**{**numbers, "frames": frames, "endings": endings})
