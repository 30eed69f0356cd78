"""The layers of a Keras model of ``to_keras`` behind its tokens.

They are registered with Keras under ``sentence_serving``, and run the same graph code as the SavedModel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from toolkit.encoder.families import ENCODERS
from toolkit.encoder.family import EncoderSpec, padded_positions
from toolkit.encoder.layers import ACTIVATION_FUNCTIONS
from toolkit.encoder.packing import Chunk, make_chunk, pack, padded_index
from toolkit.encoder.precision.float32 import Float32Products
from toolkit.graph.keras_tokens import PACKAGE
from toolkit.heads import HEADS
from toolkit.heads.classifier import ClassifierSpec
from toolkit.heads.head import HeadSpec, RowHead
from toolkit.heads.logit_score import LogitScoreSpec
from toolkit.heads.masked_lm import MaskedLMSpec
from toolkit.heads.pooling import PoolingSpec, pool
from toolkit.heads.splade import Splade, SpladePoolingSpec
from toolkit.heads.token_pooling import TokenPoolingSpec

__all__ = [
    "UNUSED",
    "WORDS",
    "Activation",
    "Answer",
    "Encoder",
    "Head",
    "Occurrence",
    "PooledVectors",
    "Pooling",
    "Truncate",
    "Vectors",
    "numbers_of",
]

UNUSED = "unused/"
WORDS = "embeddings/word"
"""The encoder's table of words."""


class _Parameters(keras.layers.Layer):  # type: ignore[misc]
    """A layer whose weights have names (``layer_0/qkv/kernel``); those that begin with one of ``fixed`` stay."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], fixed: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Keras does not take slashes in a variable's name.
        self.params = {
            name: self.add_weight(
                name=name.replace("/", "."), shape=shape, initializer="zeros", trainable=not name.startswith(fixed)
            )
            for name, shape in shapes.items()
        }
        self.built = True

    def load(self, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Assign a value to each weight."""
        for name, variable in self.params.items():
            variable.assign(values[name])

    def tensors(self) -> dict[str, tf.Tensor]:
        """Them all, as they are now."""
        return {name: tf.convert_to_tensor(variable) for name, variable in self.params.items()}


# under the name that it had when BERT was the only family: what was saved then is still read
@keras.saving.register_keras_serializable(PACKAGE, name="BertEncoder")
class Encoder(_Parameters):
    """The three token tensors to token embeddings, float32 ``[batch, length, hidden]``; zeros at padding.

    In training, dropout acts at the rates of the checkpoint's configuration. Weights are what the checkpoint stores,
    those of its tensors that no hidden state depends on (``unused/...``) among them, which stay as they are.
    ``skeleton`` is the checkpoint without its weights, and ``tensors`` are the names and shapes of its encoder's: what
    a trained model goes back to. A model that was saved without them is read, and does not go back. ``place`` is the
    module's number; of several encoders the first alone has the skeleton, others an empty one. ``prefix`` is what
    these names begin with in a module in which the encoder has a head around it. Where that has the encoder's own table
    of words, the layer ``hands_on`` the table beside the token embeddings. ``token_mask`` says where tokens are, if
    there are some that no other looks at, behind those that attention_mask says.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        shapes: Mapping[str, Any],
        tensors: Mapping[str, Any] | None = None,
        skeleton: str | None = None,
        prefix: str = "",
        hands_on: bool = False,
        place: int = 0,
        **kwargs: Any,
    ) -> None:
        family = ENCODERS[spec["family"]]
        super().__init__(
            {name: tuple(shape) for name, shape in shapes.items()}, fixed=(*family.fixed, UNUSED), **kwargs
        )
        # JSON has no tuples
        numbers: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()
        }
        self.spec: EncoderSpec = family(**numbers)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.stored_shapes = None if tensors is None else {name: tuple(shape) for name, shape in tensors.items()}
        self.skeleton = skeleton
        self.prefix = prefix
        self.hands_on = hands_on
        self.place = place
        self.seed = keras.random.SeedGenerator()

    def call(
        self,
        input_ids: tf.Tensor,
        attention_mask: tf.Tensor,
        token_type_ids: tf.Tensor,
        token_mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> Any:
        def dropout(x: tf.Tensor, rate: float) -> tf.Tensor:
            return keras.random.dropout(x, rate, seed=self.seed) if training and rate else x

        positions = padded_positions(self.spec, input_ids)
        there = attention_mask if token_mask is None else token_mask
        tokens = pack(input_ids, there, token_type_ids, positions)
        if token_mask is not None:
            tokens = tokens._replace(attended=tf.reduce_sum(attention_mask, 1))
        chunk = make_chunk(tokens)
        params = {name: tensor for name, tensor in self.tensors().items() if not name.startswith(UNUSED)}
        # a model that was saved without a skeleton has the graph's parameters as its weights
        params = params if self.skeleton is None else self.spec.derived(params)
        hidden = self.spec.hidden_states(Float32Products(params, self.spec, dropout), chunk)
        place = tf.where(tf.not_equal(there, 0))
        shape = tf.concat([tf.shape(input_ids, tf.int64), [self.spec.hidden_size]], 0)
        found = tf.scatter_nd(place, hidden[: chunk.total], shape)
        return (found, tf.convert_to_tensor(self.params[WORDS])) if self.hands_on else found

    def compute_output_spec(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        found = keras.KerasTensor((*input_ids.shape, self.spec.hidden_size), "float32")
        return (found, keras.KerasTensor(self.shapes[WORDS], "float32")) if self.hands_on else found

    def get_config(self) -> dict[str, Any]:
        own = {"spec": numbers_of(self.spec), "shapes": self.shapes, "tensors": self.stored_shapes}
        further = {"skeleton": self.skeleton, "prefix": self.prefix, "hands_on": self.hands_on, "place": self.place}
        return {**super().get_config(), **own, **further}


@keras.saving.register_keras_serializable(PACKAGE)
class Pooling(keras.layers.Layer):  # type: ignore[misc]
    """Token embeddings ``[batch, length, hidden]`` and attention_mask to ``[batch, dim]``; only tokens count, and not
    the first ``skipped`` of a row, which are its prompt's."""

    def __init__(self, modes: list[str], dim: int, skipped: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = PoolingSpec(tuple(modes), dim, include_prompt=not skipped)
        self.skipped = skipped

    def call(self, token_embeddings: tf.Tensor, attention_mask: tf.Tensor) -> tf.Tensor:
        hidden, chunk = _packed(token_embeddings, attention_mask, attention_mask, self.skipped)
        return tf.ensure_shape(pool(self.spec, hidden, chunk), [None, self.spec.dim])

    def compute_output_spec(self, token_embeddings: Any, attention_mask: Any) -> keras.KerasTensor:
        return keras.KerasTensor((token_embeddings.shape[0], self.spec.dim), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "modes": list(self.spec.modes), "dim": self.spec.dim, "skipped": self.skipped}


def _packed(
    token_embeddings: tf.Tensor, input_ids: tf.Tensor, attention_mask: tf.Tensor, skipped: int = 0
) -> tuple[tf.Tensor, Chunk]:
    """Token embeddings ``[batch, length, hidden]`` as those of one chunk, ``[padded_total, hidden]``."""
    tokens = pack(input_ids, attention_mask, attention_mask)
    chunk = make_chunk(tokens.with_skipped(skipped) if skipped else tokens)
    hidden = tf.boolean_mask(token_embeddings, tf.not_equal(attention_mask, 0))
    return tf.pad(hidden, [[0, tf.size(chunk.slot) - chunk.total], [0, 0]]), chunk


_HEADS: dict[str, type[HeadSpec]] = {head.__name__: head for head in HEADS.values()}


@keras.saving.register_keras_serializable(PACKAGE)
class Head(_Parameters):
    """A module behind the encoder (Dense, LayerNorm, Normalize): float32 ``[..., in]`` to ``[..., out]``.

    ``place`` is the module's number.
    """

    def __init__(
        self, kind: str, spec: Mapping[str, Any], shapes: Mapping[str, Any], place: int = 0, **kwargs: Any
    ) -> None:
        super().__init__({name: tuple(shape) for name, shape in shapes.items()}, **kwargs)
        self.kind = kind
        self.place = place
        self.numbers = dict(spec)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        empty = np.zeros([0], np.float32)
        # The weights live in this layer; of the spec's own, only whether they exist is looked at.
        arrays: dict[str, Any] = {
            "weight": empty,
            "bias": empty,
            "residual_weight": empty if "residual" in self.shapes else None,
        }
        known = {field.name for field in fields(_HEADS[kind])}
        self.spec = _HEADS[kind](**{**self.numbers, **{key: value for key, value in arrays.items() if key in known}})

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.spec.apply(self.tensors(), x)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((*x.shape[:-1], self.numbers.get("out_features", x.shape[-1])), "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"kind": self.kind, "spec": self.numbers, "shapes": self.shapes, "place": self.place}
        return {**super().get_config(), **own}


def _row_head(kind: str, numbers: Mapping[str, Any], stored: Mapping[str, str]) -> RowHead:
    """A spec without its weights, which live in the layer."""
    none: dict[str, Any] = {"tensors": {}}
    if kind == ClassifierSpec.__name__:
        return ClassifierSpec(**{**numbers, **none, "stored": stored})
    if kind == LogitScoreSpec.__name__:
        return LogitScoreSpec(**{**numbers, **none, "words": None})
    head = MaskedLMSpec(**{**numbers["masked_lm"], **none, "stored": stored})
    return Splade(head, SpladePoolingSpec(**numbers["pooling"]))


@keras.saving.register_keras_serializable(PACKAGE)
class Answer(_Parameters):
    """The head around an encoder, with what pools behind it: token embeddings ``[batch, length, hidden]``, input_ids
    and attention_mask to float32 ``[batch, answers]``: a CrossEncoder's scores before their activation, or a number for
    each word of a SparseEncoder's vocabulary.

    ``stored`` are the names of its weights to those in the checkpoint, in the module of that ``place``, which is the
    encoder's. That hands its table of ``words`` on where the head has the same.
    """

    def __init__(
        self,
        kind: str,
        spec: Mapping[str, Any],
        shapes: Mapping[str, Any],
        stored: Mapping[str, str],
        answers: int,
        place: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__({name: tuple(shape) for name, shape in shapes.items()}, **kwargs)
        self.kind = kind
        self.numbers = dict(spec)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.stored = dict(stored)
        self.answers = answers
        self.place = place
        self.spec = _row_head(kind, spec, self.stored)

    def call(
        self,
        token_embeddings: tf.Tensor,
        input_ids: tf.Tensor,
        attention_mask: tf.Tensor,
        words: tf.Tensor | None = None,
    ) -> tf.Tensor:
        hidden, chunk = _packed(token_embeddings, input_ids, attention_mask)
        weights = self.tensors() if words is None else {**self.tensors(), "words": words}
        return tf.ensure_shape(self.spec.apply(self.spec.derived(weights), hidden, chunk), [None, self.answers])

    def compute_output_spec(self, token_embeddings: Any, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((token_embeddings.shape[0], self.answers), "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"kind": self.kind, "spec": self.numbers, "shapes": self.shapes, "stored": self.stored}
        return {**super().get_config(), **own, "answers": self.answers, "place": self.place}


@keras.saving.register_keras_serializable(PACKAGE)
class Occurrence(keras.layers.Layer):  # type: ignore[misc]
    """A weight for each word, ``[vocab, 1]``, input_ids and attention_mask to float32 ``[batch, vocab]``: the weights
    of the words that occur."""

    def call(self, words: tf.Tensor, input_ids: tf.Tensor, attention_mask: tf.Tensor) -> tf.Tensor:
        there = tf.where(tf.not_equal(attention_mask, 0))
        place = tf.stack([tf.cast(there[:, 0], tf.int32), tf.gather_nd(input_ids, there)], 1)
        shape = tf.stack([tf.shape(input_ids)[0], words.shape[0]])
        occurs = tf.scatter_nd(place, tf.ones_like(place[:, 0]), shape) > 0
        return tf.where(occurs, words[:, 0], 0.0)

    def compute_output_spec(self, words: Any, input_ids: Any, attention_mask: Any) -> keras.KerasTensor:
        return keras.KerasTensor((input_ids.shape[0], words.shape[0]), "float32")


@keras.saving.register_keras_serializable(PACKAGE)
class Vectors(keras.layers.Layer):  # type: ignore[misc]
    """A vector for each token, ``[batch, length, dim]``, input_ids and where tokens are to the vectors, zeros where
    there is none, and int32 ``[batch, length]``, 1 where there is one: not at tokens whose ids are ``skipped``, nor at
    others than those ``kept`` (``None``: any may be)."""

    def __init__(self, skipped: Sequence[int], kept: Sequence[int] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skipped = list(skipped)
        self.kept = None if kept is None else list(kept)

    def call(self, vectors: tf.Tensor, input_ids: tf.Tensor, there: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        wanted = tf.not_equal(there, 0)
        if self.skipped:
            wanted &= tf.reduce_all(input_ids[..., None] != tf.constant(self.skipped), -1)
        if self.kept is not None:
            wanted &= tf.reduce_any(input_ids[..., None] == tf.constant(self.kept), -1)
        return tf.where(wanted[..., None], vectors, 0.0), tf.cast(wanted, tf.int32)

    def compute_output_spec(self, vectors: Any, input_ids: Any, there: Any) -> tuple[Any, Any]:
        return keras.KerasTensor(vectors.shape, "float32"), keras.KerasTensor(vectors.shape[:2], "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "skipped": self.skipped, "kept": self.kept}


@keras.saving.register_keras_serializable(PACKAGE)
class PooledVectors(keras.layers.Layer):  # type: ignore[misc]
    """The vectors of a text, ``[batch, length, dim]``, and where there are any, int32 ``[batch, length]``, to about
    ``1 / factor`` of them, the means of clusters, as :class:`toolkit.heads.token_pooling.TokenPoolingSpec` says: side
    by side, zeros behind them. No text has more than ``longest``. What goes to which cluster is not trained."""

    def __init__(self, factor: float, protected: int, normalized: bool, longest: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = TokenPoolingSpec(factor, protected, normalized)
        self.longest = longest
        # a graph also where Keras calls its layers one by one: loops of so many tensors are slow there, or fail
        self._apply = tf.function(lambda x, splits: self.spec.apply(x, splits, longest), autograph=False)

    def call(self, vectors: tf.Tensor, there: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        wanted = tf.not_equal(there, 0)
        counts = tf.reduce_sum(tf.cast(wanted, tf.int32), 1)
        splits = tf.concat([[0], tf.cumsum(counts)], 0)
        found, splits, *_ = self._apply(tf.boolean_mask(vectors, wanted), splits)
        length = tf.reduce_max(tf.concat([splits[1:] - splits[:-1], [0]], 0))
        index, mask = padded_index(splits, length)
        # one more, so that index 0 exists when there are no vectors at all
        rows = tf.where(mask[..., None], tf.gather(tf.pad(found, [[0, 1], [0, 0]]), index), 0.0)
        return rows, tf.cast(mask, tf.int32)

    def compute_output_spec(self, vectors: Any, there: Any) -> tuple[Any, Any]:
        batch, _, dim = vectors.shape
        return keras.KerasTensor((batch, None, dim), "float32"), keras.KerasTensor((batch, None), "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **asdict(self.spec), "longest": self.longest}


@keras.saving.register_keras_serializable(PACKAGE)
class Activation(keras.layers.Layer):  # type: ignore[misc]
    """Numbers ``[batch, labels]`` to scores by a CrossEncoder's activation; of one label ``[batch]``."""

    def __init__(self, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation

    def call(self, x: tf.Tensor) -> tf.Tensor:
        scores = ACTIVATION_FUNCTIONS[self.activation](x)
        return scores[:, 0] if x.shape[1] == 1 else scores

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape[:1] if x.shape[1] == 1 else x.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": self.activation}


@keras.saving.register_keras_serializable(PACKAGE)
class Truncate(keras.layers.Layer):  # type: ignore[misc]
    """The first ``dim`` components of an embedding (Matryoshka models)."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x[:, : self.dim]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim}


def numbers_of(spec: Any) -> dict[str, Any]:
    """A spec's fields without its arrays, those of specs in it too: what a Keras configuration can hold."""
    found: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if is_dataclass(value):
            found[field.name] = numbers_of(value)
        elif isinstance(value, bool | int | float | str | tuple | list | None):
            found[field.name] = list(value) if isinstance(value, tuple | list) else value
    return found
